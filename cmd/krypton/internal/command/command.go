// Package command is the krypton command line but for the commands that run a node.
//
// A [Command] is one entry of the tree: its words, flags, help, examples and
// what it does. urfave/cli parses the flags; finding the command, help, errors
// and completion are done here, because the tree is also the source of the man
// page and of the test that every command is documented.
//
// # Invariants
//
//   - I1: stdout carries the result and nothing else; progress, questions and errors go to stderr.
//   - I2: every end of a command has an exit status of the table in internal/errs.
//   - I3: a file that a command writes is there in whole or not at all.
//   - I4: a secret is printed only by a command whose result it is, and is never taken from the command line.
//   - I5: what cannot be undone, or stops every node, is asked about on a terminal, and without one needs --yes.
//   - I6: a flag goes before the environment, the environment before the context file, that before the default.
//   - I7: what takes longer than two seconds says so on a terminal, and only there; see [meter].
//
// # Concurrency
//
// One command runs per process. An interrupt cancels its context; a command that
// does not end within a second is left behind, after its unfinished files were
// removed.
//
// # Failure
//
// An error is one line on stderr: what, what to do, code and correlation id.
//
// # Source
//
// docs/contract.md (CLI, EXIT, ENV); docs/cli.md is made from the tree.
package command

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Reach says what a command needs, and so which flags and exit statuses it has
// beside its own. Zero is a local command that needs nothing.
type Reach int

// The reaches.
const (
	Local   Reach = iota // works without a node
	Socket               // speaks to the node of this machine over its administration socket
	Reads                // asks the cluster
	Acts                 // does something in the cluster that no other node has to follow
	Changes              // changes what every node follows: an operation, see krypton operation
	Uses                 // uses keys
)

// Command is one command or group of commands.
type Command struct {
	Name     string
	Args     string // as help shows them, for example "NAME"
	Usage    string // one line, lower case
	About    string // paragraphs of help; may be empty
	Examples []string
	Exits    []int // statuses beyond those of Reach
	Reach    Reach
	Signs    bool   // people may have to sign it; see authorize
	Waits    string // what it does while it waits for its call, for the meter
	Flags    []cli.Flag
	NArgs    [2]int // least and most
	Hidden   bool
	Sub      []*Command
	Run      func(ctx context.Context, in *Invocation) error

	native *cli.Command // a command made elsewhere, which handles signals itself
}

// Env is the world of a command.
type Env struct {
	Stdin          *os.File
	Stdout, Stderr *os.File
	Getenv         func(string) string
	Version        string
	Clock          clock.Clock

	mu      sync.Mutex
	cleanup map[int]func() // removes unfinished files (I3)
	next    int
	done    bool
	json    bool // errors are for programs, also before a command is known
}

// Native turns a command that was made for urfave/cli into one of the tree. The
// lines of its UsageText are examples.
func Native(c *cli.Command) *Command {
	out := &Command{Name: c.Name, Usage: c.Usage, About: c.Description, Args: c.ArgsUsage, Flags: c.Flags, native: c}
	if c.UsageText != "" {
		out.Examples = strings.Split(c.UsageText, "\n")
	}
	return out
}

// Main runs the command line args, without the program's name, and returns its
// exit status. more are further commands of the tree; a group that there is already
// gets those of the same name.
func Main(version string, args []string, more ...*Command) int {
	env := &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version, Clock: clock.System{}, cleanup: map[int]func(){}}
	return env.main(Tree(more...), args)
}

// Tree returns the root of all commands.
func Tree(more ...*Command) *Command {
	root := &Command{
		Name: "krypton", Usage: "a key management cluster whose nodes answer from their own memory",
		About: "Names of keys are written TENANT or TENANT/SERVICE, for example demo/payments; full names such as\n" +
			"tenants/demo/services/payments work too.",
		Examples: []string{"krypton status", "krypton encrypt --service demo/payments report.pdf report.pdf.krypton", "krypton help key rotate"},
		Sub: []*Command{
			statusCommand(), doctorCommand(), unsealCommand(), sealCommand(), initCommand(), joinCommand(),
			encryptCommand(), decryptCommand(), rewrapCommand(), benchCommand(),
			tenantCommands(), serviceCommands(), keyCommands(), resourceCommands(), dataKeyCommands(), roleCommands(), issuerCommands(), policyCommands(), intentCommands(), approvalCommands(), ceremonyCommands(),
			operatorCommands(), operationCommands(),
			contextCommands(), whoamiCommand(), completionCommand(), manCommand(), versionCommand(), completeCommand(),
		},
	}
	var first []*Command
	for _, c := range more {
		if !root.merge(c) {
			first = append(first, c)
		}
	}
	root.Sub = append(first, root.Sub...)
	return root
}

// merge adds the commands of the group g to those of the group of that name below c.
// It reports false if there is none.
func (c *Command) merge(g *Command) bool {
	have := c.find(g.Name)
	if have == nil || have.Run != nil || g.Run != nil || g.native != nil {
		return false
	}
	for _, s := range g.Sub {
		if !have.merge(s) {
			have.Sub = append(have.Sub, s)
		}
	}
	return true
}

func (e *Env) main(root *Command, args []string) int {
	e.json = wantsJSON(args, e.Getenv)
	req, err := resolve(root, args)
	if err != nil {
		return e.fail(err, nil)
	}
	in := &Invocation{env: e, root: root, path: req.path, meter: e.newMeter()}
	if req.help {
		return e.fail(in.write([]byte(req.command().help(req.path))), nil)
	}
	if req.command().native != nil {
		return e.fail(e.parse(context.Background(), root, req, nil), nil)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	var result error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result = e.parse(ctx, root, req, in)
	}()
	select {
	case <-ended:
		return e.fail(result, in)
	case <-interrupt:
	}
	cancel()
	select { // what waits for a person or a pipe does not see the end of its context
	case <-ended:
	case <-time.After(time.Second):
	}
	in.meter.clear()
	return e.fail(interrupted(), nil)
}

func interrupted() error {
	return errs.New(errs.Canceled, "interrupted", errs.Hint("a change may have happened all the same; look before you try it again"))
}

// parse has urfave/cli parse the flags of the resolved command and runs it.
func (e *Env) parse(ctx context.Context, root *Command, req request, in *Invocation) error {
	app := &cli.App{
		Name: root.Name, Writer: io.Discard, ErrWriter: io.Discard, HideHelp: true, HideVersion: true,
		DisableSliceFlagSeparator: true, // a comma is a character like any other in a context value
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              usageError,
	}
	if req.command().native != nil {
		app.Writer, app.ErrWriter = e.Stdout, e.Stderr
	}
	app.Commands = root.cli(in).Subcommands
	return app.RunContext(ctx, append([]string{root.Name}, req.argv()...))
}

func usageError(_ *cli.Context, err error, _ bool) error {
	return errs.New(errs.InvalidArgument, err.Error(), errs.Hint("see --help"))
}

// cli returns c for urfave/cli.
func (c *Command) cli(in *Invocation) *cli.Command {
	if c.native != nil {
		n := *c.native
		n.HideHelp, n.OnUsageError = true, usageError
		return &n
	}
	out := &cli.Command{Name: c.Name, HideHelp: true, OnUsageError: usageError}
	for _, s := range c.Sub {
		out.Subcommands = append(out.Subcommands, s.cli(in))
	}
	if c.Run != nil {
		out.Flags = c.flags()
		out.Action = func(cc *cli.Context) error {
			in.cmd, in.c, in.args = c, cc, cc.Args().Slice()
			return in.run(cc.Context)
		}
	}
	return out
}

// own runs f when the process is interrupted, until the returned function is
// called. It reports false when the process is ending already.
func (e *Env) own(f func()) (release func(), ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.done {
		return nil, false
	}
	id := e.next
	e.next++
	e.cleanup[id] = f
	return func() {
		e.mu.Lock()
		delete(e.cleanup, id)
		e.mu.Unlock()
	}, true
}

func (e *Env) clean() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done = true
	for _, f := range e.cleanup {
		f()
	}
}
