package command

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/client/contexts"
)

// The scripts ask `krypton __complete -- words...` for candidates, so that they
// never have to be made again when a command changes.
const (
	completionBash = `_krypton() {
	local cur="${COMP_WORDS[COMP_CWORD]}" IFS=$'\n'
	COMPREPLY=($(compgen -W "$(krypton __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$cur"))
}
complete -o default -F _krypton krypton
`
	completionZsh = `#compdef krypton
_krypton() {
	local -a candidates
	candidates=("${(@f)$(krypton __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if (( ${#candidates} )) && [[ -n "${candidates[1]}" ]]; then compadd -- "${candidates[@]}"; else _files; fi
}
compdef _krypton krypton
`
	completionFish = `function __krypton_complete
	set -l tokens (commandline -opc) (commandline -ct)
	krypton __complete -- $tokens[2..-1] 2>/dev/null
end
complete -c krypton -a '(__krypton_complete)'
`
)

func completionCommand() *Command {
	shell := func(name, script, example string) *Command {
		return &Command{
			Name: name, Usage: "print the completion script for " + name, Examples: []string{example},
			Run: func(_ context.Context, in *Invocation) error { return in.write([]byte(script)) },
		}
	}
	return group("completion", "print a completion script for a shell",
		shell("bash", completionBash, "source <(krypton completion bash)"),
		shell("zsh", completionZsh, "krypton completion zsh > ~/.zfunc/_krypton"),
		shell("fish", completionFish, "krypton completion fish > ~/.config/fish/completions/krypton.fish"),
	)
}

func completeCommand() *Command {
	return &Command{
		Name: "__complete", Args: "-- WORDS", Usage: "print what can follow", Hidden: true, NArgs: [2]int{0, 1 << 10},
		Examples: []string{"krypton __complete -- tenant cr"},
		Run: func(_ context.Context, in *Invocation) error {
			out := strings.Join(complete(in.root, in.args, in.env.Getenv), "\n")
			if out != "" {
				out += "\n"
			}
			return in.write([]byte(out))
		},
	}
}

// complete returns the candidates for the last of words.
func complete(root *Command, words []string, getenv func(string) string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	cur, last := root, words[len(words)-1]
	valueOf := "" // the flag whose value the last word is
	for i := 0; i < len(words)-1; i++ {
		w := words[i]
		if strings.HasPrefix(w, "-") {
			name, _, inline := strings.Cut(strings.TrimLeft(w, "-"), "=")
			if f := anyFlag(cur, name); f != nil && !inline && takesValue(f) {
				if i+1 == len(words)-1 {
					valueOf = name
				}
				i++
			}
			continue
		}
		if next := cur.find(w); next != nil {
			cur = next
		}
	}
	var all []string
	switch {
	case valueOf == "output" || valueOf == "default-output":
		all = []string{"table", "json"}
	case valueOf == "role":
		all = []string{"governor", "custodian", "operator", "auditor", "workload"}
	case valueOf == "context":
		all = contextNames(getenv)
	case valueOf != "":
	case strings.HasPrefix(last, "-"):
		for _, f := range append(cur.flags(), &cli.BoolFlag{Name: "help"}) {
			all = append(all, "--"+f.Names()[0])
		}
	case len(cur.Sub) > 0:
		all = cur.names()
	case cur.Name == "use" || cur.Name == "show" || cur.Name == "delete" && cur.Reach == Local:
		all = contextNames(getenv)
	}
	return slices.DeleteFunc(all, func(c string) bool { return !strings.HasPrefix(c, last) })
}

func contextNames(getenv func(string) string) []string {
	path, err := contexts.Path(getenv)
	if err != nil {
		return nil
	}
	f, err := contexts.Load(path)
	if err != nil {
		return nil
	}
	return f.Names()
}
