//go:build unix

package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/client/contexts"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Command is `krypton dev`.
func Command() *cli.Command {
	return &cli.Command{
		Name:  "dev",
		Usage: "run a cluster on this machine, for development only",
		Description: "Starts nodes on the loopback interface, founds a cluster with throw-away people, creates the\n" +
			"tenant " + tenantID + " with the service " + serviceID + ", and adds a context for each role: dev-governor, dev-custodian,\n" +
			"dev-operator, dev-auditor, dev-workload. If no context is selected, dev-workload is, so that in another\n" +
			"terminal\n\n   krypton encrypt --service " + tenantID + "/" + serviceID + "\n\n" +
			"works. It runs until Ctrl-C, which removes everything but a directory given with --dir.\n\n" +
			"All keys lie unencrypted on disk. Put nothing real into it.",
		UsageText: "krypton dev\nkrypton dev --nodes 1 --dir ~/krypton-dev --output json",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "nodes", Usage: "`NUMBER` of nodes: 1, 3 or 5", Value: 3},
			&cli.StringFlag{Name: "dir", Usage: "`DIR` that keeps the cluster for the next time; without it a temporary one"},
			&cli.StringFlag{Name: "output", Usage: "`FORMAT` of the result: table or json", Value: "table", EnvVars: []string{"KRYPTON_OUTPUT"}},
		},
		Action: func(c *cli.Context) error {
			show := result.writeText
			switch f := c.String("output"); f {
			case "table":
			case "json":
				show = result.writeJSON
			default:
				return errs.Newf(errs.InvalidArgument, "there is no output format %q", f).With(errs.Hint("use table or json"))
			}
			path, err := contexts.Path(os.Getenv)
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return run(ctx, path, c.App.Writer, c.App.ErrWriter, show, devcluster.Options{
				Binary: self, Nodes: c.Int("nodes"), Dir: c.String("dir"), Tenant: tenantID, Service: serviceID,
			})
		},
	}
}

// run starts the cluster, shows it, and waits for ctx to end.
func run(ctx context.Context, contextsFile string, stdout, stderr io.Writer, show func(result, io.Writer) error, o devcluster.Options) (err error) {
	began := time.Now()
	o.Output = stderr
	o.Progress = func(step string) {
		fmt.Fprintf(stderr, "%5.1f s  %s\n", time.Since(began).Seconds(), step)
	}
	c, err := devcluster.Start(ctx, o)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, c.Close()) }() //nolint:contextcheck // I1: although ctx has ended.
	in, err := install(contextsFile, contextsOf(c))
	if in != nil {
		defer func() { err = errors.Join(err, in.remove()) }() // I2
	}
	if err != nil {
		return err
	}
	if err := show(describe(c, in, o.Dir != ""), stdout); err != nil {
		return err
	}
	if err := watch(ctx, c, stderr); err != nil {
		return err
	}
	fmt.Fprintln(stderr, "krypton: stopping")
	return nil
}

// interrupted tells a person's Ctrl-C from a cluster that does not start.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errs.New(errs.Canceled, "interrupted before the cluster served", errs.Cause(err))
	}
	return err
}

// watch returns nil when ctx has ended, and an error when no node is left. A
// developer may kill nodes to see what happens, so one that dies is only told of.
func watch(ctx context.Context, c *devcluster.Cluster, stderr io.Writer) error {
	nodes := c.Nodes()
	died := make(chan *devcluster.Node)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, n := range nodes {
		wg.Go(func() {
			select {
			case <-n.Done():
			case <-ctx.Done():
				return
			}
			select {
			case died <- n:
			case <-ctx.Done():
			}
		})
	}
	for left := len(nodes); left > 0; {
		select {
		case <-ctx.Done():
			return nil
		case n := <-died:
			left--
			fmt.Fprintf(stderr, "krypton: %s ended (%s), %d of %d nodes are left; its output is in %s\n", n.Name(), n.Ended(), left, len(nodes), n.LogFile())
		}
	}
	return errs.New(errs.Unavailable, "every node has ended")
}
