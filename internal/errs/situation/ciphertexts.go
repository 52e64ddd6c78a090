package situation

func ciphertexts() Group {
	return Group{Name: "ciphertext", Title: "Ciphertexts and wrapped keys", Rows: []Situation{}}
}
