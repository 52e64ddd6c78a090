package situation

func storedState() Group {
	return Group{Name: "stored", Title: "Stored state", Rows: []Situation{}}
}
