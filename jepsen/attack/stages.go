//go:build unix

package main

// stages returns everything that is tried.
func stages() []stage {
	return []stage{
		{"Members that lie", liars()},
		{"Edited files", files()},
	}
}
