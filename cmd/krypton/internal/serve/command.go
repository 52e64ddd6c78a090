//go:build unix

package serve

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// Command is `krypton server`.
func Command(version string) *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "run one node",
		Description: "Runs one node in the foreground until SIGTERM or SIGINT. The log goes to stderr.\n\n" +
			"A node with an empty data directory belongs to no cluster: found one with krypton init, or make it a member with\nkrypton join.",
		UsageText: "krypton server --config /etc/krypton/krypton.yaml\nkrypton server --config /etc/krypton/krypton.yaml --check-config",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`", Value: config.DefaultPath, EnvVars: []string{"KRYPTON_CONFIG"}},
			&cli.StringFlag{Name: "data-dir", Usage: "`DIR` of everything this node keeps; goes before node.data_dir"},
			&cli.BoolFlag{Name: "check-config", Usage: "check the configuration and end"},
			&cli.StringFlag{Name: "output", Usage: "`FORMAT` of what --check-config says: table or json", Value: "table", EnvVars: []string{"KRYPTON_OUTPUT"}},
		},
		Action: func(c *cli.Context) error {
			if f := c.String("output"); f != "table" && f != "json" {
				return errs.Newf(errs.InvalidArgument, "there is no output format %q", f).With(errs.Hint("use table or json"))
			}
			src := config.Source{
				Path: c.String("config"), Env: os.LookupEnv, Environ: os.Environ(), Others: append(command.Variables(), mutation.Variables()...), Overrides: map[string]string{},
				Keystores: keystores.Types(nil),
			}
			if !c.IsSet("config") {
				// Without the default file a node can be configured by the environment alone.
				if _, err := os.Stat(src.Path); os.IsNotExist(err) {
					src.Path = ""
				}
			}
			if c.IsSet("data-dir") {
				src.Overrides["node.data_dir"] = c.String("data-dir")
			}
			cfg, err := config.Load(src)
			if err != nil {
				return err
			}
			if c.Bool("check-config") {
				answer := "the configuration is valid"
				if c.String("output") == "json" {
					answer = `{"valid":true}`
				}
				_, err := fmt.Fprintln(c.App.Writer, answer)
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			// A second signal ends a stop that takes too long.
			defer context.AfterFunc(ctx, stop)()
			return Run(ctx, cfg, Options{Version: version, Log: c.App.ErrWriter, Exit: func(err error) { os.Exit(command.Fail(c.App.ErrWriter, err)) }})
		},
	}
}
