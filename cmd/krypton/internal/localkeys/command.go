//go:build unix

// Package localkeys is `krypton keystore`: it says what is wrong with a
// configured keystore of any type, and makes and changes the software keystores
// in files that stand in for a customer's key management service in development
// and demonstrations.
//
// # Invariants
//
//   - I1: no key is printed, and none is read from the command line.
//   - I2: every command that makes or changes a keystore in files says that it protects nothing.
//   - I3: a check changes nothing anywhere: it describes, and wraps and unwraps a secret that is thrown away.
//
// # Concurrency
//
// One command per process; the keystore's own lock keeps several apart.
//
// # Failure
//
// A directory or file with other modes or another owner than the keystore's own
// is refused, with what to change.
//
// # Source
//
// docs/contract.md (CLI); package keystore/local.
package localkeys

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

const (
	warning = "a local keystore keeps its keys unencrypted in files; it is for development and demonstrations only"

	// oneCopy is what people lose keys by.
	oneCopy = "A new key exists in this one directory only: when it is lost, everything under the key is lost. Where several\n" +
		"nodes have a copy each, run this on ONE of them and replace the file keys of the others by its file: run on two\n" +
		"copies it makes two different keys, and what one node wraps the others do not open."

	eachCopy = "It changes one copy: where several nodes have a copy each, run it on every one."
)

func about(what, copies string) string {
	return what + "\n\n" + copies + "\n\n" + strings.ToUpper(warning[:1]) + warning[1:] + "."
}

func dirFlag() cli.Flag {
	return &cli.StringFlag{Name: "dir", Usage: "`DIR` of the keystore, 0700; the dir of its entry under keystores in the configuration", Required: true}
}

// Command is `krypton keystore`.
func Command() *command.Command {
	change := func(name, usage, copies, did string, do func(ctx context.Context, s *local.Keystore, key string) error) *command.Command {
		return &command.Command{
			Name: name, Usage: usage, Args: "KEY", NArgs: [2]int{1, 1}, Flags: []cli.Flag{dirFlag()}, Exits: []int{errs.ExitState},
			About:    about("Every node that has the keystore open sees the change at once.", copies),
			Examples: []string{"krypton keystore " + name + " --dir /var/lib/krypton/keystore acme"},
			Run: func(ctx context.Context, in *command.Invocation) error {
				key := in.Args()[0]
				if err := with(ctx, in, local.Open, func(s *local.Keystore) error { return do(ctx, s, key) }); err != nil {
					return err
				}
				return in.Show(map[string]string{"key": key, "did": did, "dir": in.String("dir")}, did+" "+key+"\n")
			},
		}
	}
	return &command.Command{
		Name:     "keystore",
		Usage:    "check configured keystores; make and change local ones, for development",
		About:    "list and check look at the keystores of a node's configuration, of any type. The others make and change keystores\nin files.\n\n" + about("Keystores in files stand in for a key management service.", oneCopy),
		Examples: []string{"krypton keystore check eu-kms --key arn:aws:kms:eu-central-1:111122223333:key/1234abcd", "krypton keystore create --dir /var/lib/krypton/keystore masterkey acme"},
		Sub: []*command.Command{
			listCommand(),
			checkCommand(),
			{
				Name: "create", Usage: "make a keystore, or add keys to one", Args: "KEY...", NArgs: [2]int{1, maxKeys}, Flags: []cli.Flag{dirFlag()},
				Exits: []int{errs.ExitState},
				About: about("Makes the keystore if there is none, and a new key for every name.", oneCopy),
				Examples: []string{
					"krypton keystore create --dir /var/lib/krypton/keystore masterkey acme",
				},
				Run: create,
			},
			change("rotate", "add a version to a key", oneCopy, "rotated", func(ctx context.Context, s *local.Keystore, key string) error {
				return s.Rotate(ctx, keystore.KeyRef(key))
			}),
			change("disable", "stop every use of a key until it is enabled: the customer's kill switch", eachCopy, "disabled",
				func(ctx context.Context, s *local.Keystore, key string) error {
					return s.Disable(ctx, keystore.KeyRef(key))
				}),
			change("enable", "allow the use of a disabled key again", eachCopy, "enabled",
				func(ctx context.Context, s *local.Keystore, key string) error {
					return s.Enable(ctx, keystore.KeyRef(key))
				}),
		},
	}
}

// maxKeys is how many keys one command makes.
const maxKeys = 1000

type open func(ctx context.Context, env keystore.Env, name, dir string) (*local.Keystore, error)

func with(ctx context.Context, in *command.Invocation, how open, do func(s *local.Keystore) error) error {
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	s, err := how(ctx, env, "local", in.String("dir"))
	if err != nil {
		return visible(err)
	}
	err = do(s)
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return visible(err)
	}
	in.Note(warning)
	return nil
}

// visible shows what the keystore said: who changes it may know its keys, and
// what a caller of a cluster sees would hide what is wrong.
func visible(err error) error {
	return errs.New(errs.KeystoreMisconfigured, err.Error(), errs.Hint("check --dir and the name of the key"), errs.Cause(err))
}

func create(ctx context.Context, in *command.Invocation) error {
	how := open(local.Create)
	if _, err := os.Stat(in.String("dir")); err == nil {
		how = local.Open
	}
	err := with(ctx, in, how, func(s *local.Keystore) error {
		for _, key := range in.Args() {
			if err := s.CreateKey(ctx, key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return in.Show(map[string]any{"keys": in.Args(), "dir": in.String("dir")}, strings.Join(in.Args(), "\n")+"\n")
}
