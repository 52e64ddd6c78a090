package situation

func clusterStates() Group {
	return Group{Name: "cluster", Title: "State of the cluster", Rows: []Situation{}}
}
