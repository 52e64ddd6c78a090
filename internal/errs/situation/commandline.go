package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

func commandLine() Group {
	return Group{Name: "cli", Title: "Command line", Rows: []Situation{
		{
			ID: "cli/unknown-command", When: "a command does not exist",
			Code: errs.InvalidArgument,
			Says: "{command} has no command \"{word}\"",
			Next: "use one of: {commands}",
		},
	}}
}
