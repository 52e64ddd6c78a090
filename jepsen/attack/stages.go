//go:build unix

package main

// stages returns everything that is tried.
func stages() []stage {
	return []stage{
		{"Members that lie", liars()},
		{"Four eyes", eyes()},
		{"Votes", votes()},
		{"Policies", policies()},
		{"Credentials", callers()},
		{"Tokens", tokens()},
		{"Nodes without a cluster", founders()},
		{"Edited files of every node", files()},
		{"Edited files of some nodes", trios()},
	}
}
