//go:build unix

package localkeys

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
)

// verdict is what a step found.
type verdict string

const (
	ok      verdict = "ok"
	warned  verdict = "warn"
	failed  verdict = "fail"
	skipped verdict = "skip"
)

// step is one step of a check, for people and for programs.
type step struct {
	Name    string  `json:"name"`
	Verdict verdict `json:"verdict"`
	Says    string  `json:"says"`
	Next    string  `json:"next,omitempty"`

	code errs.Code // of a failure
}

func checkCommand() *command.Command {
	return &command.Command{
		Name: "check", Usage: "find out what is wrong with a keystore of the configuration", Args: "NAME", NArgs: [2]int{1, 1},
		Flags: []cli.Flag{configFlag(), &cli.StringFlag{Name: "key", Usage: "`REFERENCE` of a key to try, as a binding names it"}},
		Exits: []int{errs.ExitDenied, errs.ExitState, errs.ExitUnavailable, errs.ExitIntegrity},
		About: "Goes the way of a call to the keystore, step by step, and says of each whether it is well, and if not, why and what\n" +
			"to do. It uses the configuration file and the identity of this machine, so run it where the node runs, as its user;\n" +
			"the node need not run. Steps:\n\n" + stepList() +
			"\nWith --key a throwaway secret of 32 random bytes is wrapped and unwrapped under the key; the keystore's own log shows\n" +
			"these calls under the correlation id that is printed. The exit status is that of the first failure.",
		Examples: []string{
			"krypton keystore check eu-kms --config /etc/krypton/krypton.yaml",
			"krypton keystore check eu-kms --key arn:aws:kms:eu-central-1:111122223333:key/1234abcd --output json",
		},
		Run: check,
	}
}

func stepList() string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "  %-12s %s\n", s.name, s.asks)
	}
	return b.String()
}

func check(ctx context.Context, in *command.Invocation) error {
	all, err := configured(in)
	if err != nil {
		return err
	}
	name := in.Args()[0]
	at := slices.IndexFunc(all, func(k config.Keystore) bool { return k.Name == name })
	if at < 0 {
		var names []string
		for _, k := range all {
			names = append(names, k.Name)
		}
		return errs.Newf(errs.NotFound, "the configuration has no keystore %q", printable(name)).
			With(errs.Hint("it has: %s", cmp.Or(strings.Join(names, ", "), "none")))
	}
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	typ, _ := keystores.Types(nil).Find(all[at].Type) // it is there: the configuration was checked
	p := newProbe(env, typ, all[at], keystore.KeyRef(in.String("key")))
	defer p.close()
	found := p.run(ctx)

	result, first := "ok", -1
	var b strings.Builder
	for i, s := range found {
		fmt.Fprintf(&b, "%-4s %-12s %s\n", s.Verdict, s.Name, s.Says)
		if s.Next != "" {
			fmt.Fprintf(&b, "                  next: %s\n", s.Next)
		}
		if s.Verdict == failed && first < 0 {
			result, first = "failed", i
		}
	}
	if err := in.Show(map[string]any{
		"keystore": name, "type": typ.Name, "key": in.String("key"), "correlation": string(p.id), "result": result, "steps": found,
	}, b.String()); err != nil {
		return err
	}
	if first < 0 {
		return nil
	}
	s := found[first]
	return errs.Newf(s.code, "keystore %s: step %s failed", name, s.Name).With(errs.Hint("%s", s.Next))
}

// printable is text without characters that a terminal obeys: what a keystore
// says, or stands in a file, must not write over what a person reads.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
