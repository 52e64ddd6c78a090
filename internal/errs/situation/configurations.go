package situation

func configurations() Group {
	return Group{Name: "config", Title: "Configuration and start", Rows: []Situation{}}
}
