package situation

func identities() Group {
	return Group{Name: "identity", Title: "Identity, certificates, roles", Rows: []Situation{}}
}
