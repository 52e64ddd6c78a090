package situation

func requests() Group {
	return Group{Name: "request", Title: "Requests", Rows: []Situation{}}
}
