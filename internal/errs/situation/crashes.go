package situation

func crashes() Group {
	return Group{Name: "crash", Title: "Death in the middle", Rows: []Situation{}}
}
