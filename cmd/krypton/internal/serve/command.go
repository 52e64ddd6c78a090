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
	"github.com/openkcm/krypton-cluster/config"
)

// Command is `krypton server`.
func Command(version string) *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "run one node",
		Description: "Runs one node in the foreground until SIGTERM or SIGINT. The log goes to stderr.\n\n" +
			"A node with an empty data directory belongs to no cluster: found one with\n`krypton init`, or make it a member with `krypton join`.\n\n" +
			"Example:\n   krypton server --config /etc/krypton/krypton.yaml",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`", Value: config.DefaultPath, EnvVars: []string{"KRYPTON_CONFIG"}},
			&cli.StringFlag{Name: "data-dir", Usage: "`DIR` of everything this node keeps; goes before node.data_dir"},
			&cli.BoolFlag{Name: "check-config", Usage: "check the configuration and end"},
		},
		Action: func(c *cli.Context) error {
			src := config.Source{
				Path: c.String("config"), Env: os.LookupEnv, Environ: os.Environ(), Others: command.Variables(), Overrides: map[string]string{},
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
				fmt.Fprintln(c.App.Writer, "the configuration is valid")
				return nil
			}
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			// A second signal ends a stop that takes too long.
			defer context.AfterFunc(ctx, stop)()
			return Run(ctx, cfg, Options{Version: version, Log: c.App.ErrWriter, Exit: func(err error) { os.Exit(command.Fail(c.App.ErrWriter, err)) }})
		},
	}
}
