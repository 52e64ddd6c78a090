package situation

func machines() Group {
	return Group{Name: "machine", Title: "The machine: disk, clock, ports", Rows: []Situation{}}
}
