//go:build unix

// Package localkeys is `krypton keystore`: it makes and changes the software
// keystores in files that stand in for a customer's key management service in
// development and demonstrations.
//
// # Invariants
//
//   - I1: no key is printed, and none is read from the command line.
//   - I2: every command says that such a keystore protects nothing.
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
	"fmt"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

const warning = "A local keystore keeps its keys unencrypted in files. It is for development and demonstrations only."

// Command is `krypton keystore`.
func Command() *command.Command {
	dir := &cli.StringFlag{Name: "dir", Usage: "`DIR` of the keystore, 0700; the dir of its entry under keystores in the configuration", Required: true}
	change := func(name, usage string, do func(ctx context.Context, s *local.Keystore, key string) error) *command.Command {
		return command.Native(&cli.Command{
			Name: name, Usage: usage, ArgsUsage: "KEY", Flags: []cli.Flag{dir},
			Description: usage + ". Every node that has the keystore open sees the change at once.\n\n" + warning +
				"\n\nExample:\n   krypton keystore " + name + " --dir /var/lib/krypton/keystore acme",
			Action: func(c *cli.Context) error {
				key, err := onlyKey(c)
				if err != nil {
					return err
				}
				return with(c, local.Open, func(ctx context.Context, s *local.Keystore) error { return do(ctx, s, key) })
			},
		})
	}
	return &command.Command{
		Name:     "keystore",
		Usage:    "make and change local keystores, for development",
		About:    "Makes and changes keystores in files, which stand in for a key management service.\n\n" + warning,
		Examples: []string{"krypton keystore create --dir /var/lib/krypton/keystore masterkey acme"},
		Sub: []*command.Command{
			command.Native(&cli.Command{
				Name: "create", Usage: "make a keystore, or add keys to one", ArgsUsage: "KEY [KEY...]", Flags: []cli.Flag{dir},
				Description: "Makes the keystore if there is none, and a new key for every name.\n\n" + warning +
					"\n\nExample:\n   krypton keystore create --dir /var/lib/krypton/keystore masterkey acme",
				Action: create,
			}),
			change("rotate", "add a version to a key", func(ctx context.Context, s *local.Keystore, key string) error {
				return s.Rotate(ctx, keystore.KeyRef(key))
			}),
			change("disable", "stop every use of a key until it is enabled: the customer's kill switch", func(ctx context.Context, s *local.Keystore, key string) error {
				return s.Disable(ctx, keystore.KeyRef(key))
			}),
			change("enable", "allow the use of a disabled key again", func(ctx context.Context, s *local.Keystore, key string) error {
				return s.Enable(ctx, keystore.KeyRef(key))
			}),
		},
	}
}

func onlyKey(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", errs.New(errs.InvalidArgument, "name exactly one key", errs.Hint("krypton keystore %s --dir DIR KEY", c.Command.Name))
	}
	return c.Args().First(), nil
}

type open func(ctx context.Context, env keystore.Env, name, dir string) (*local.Keystore, error)

func with(c *cli.Context, how open, do func(ctx context.Context, s *local.Keystore) error) error {
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	s, err := how(c.Context, env, "local", c.String("dir"))
	if err != nil {
		return visible(err)
	}
	err = do(c.Context, s)
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return visible(err)
	}
	fmt.Fprintln(c.App.ErrWriter, warning)
	return nil
}

// visible shows what the keystore said: who changes it may know its keys, and
// what a caller of a cluster sees would hide what is wrong.
func visible(err error) error {
	return errs.New(errs.KeystoreMisconfigured, err.Error(), errs.Cause(err))
}

func create(c *cli.Context) error {
	if c.NArg() == 0 {
		return errs.New(errs.InvalidArgument, "name at least one key", errs.Hint("krypton keystore create --dir DIR KEY [KEY...]"))
	}
	how := open(local.Create)
	if _, err := os.Stat(c.String("dir")); err == nil {
		how = local.Open
	}
	return with(c, how, func(ctx context.Context, s *local.Keystore) error {
		for _, key := range c.Args().Slice() {
			if err := s.CreateKey(ctx, key); err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, key)
		}
		return nil
	})
}
