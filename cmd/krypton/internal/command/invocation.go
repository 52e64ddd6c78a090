package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/contexts"
	"github.com/openkcm/krypton-cluster/client/rest"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

const (
	defaultAddr    = "127.0.0.1:8400"
	defaultTimeout = 30 * time.Second

	// patience is how long a command tries a cluster of which no node has
	// answered yet.
	patience = 5 * time.Second
)

// Invocation is one run of one command.
type Invocation struct {
	env  *Env
	root *Command
	path []*Command
	cmd  *Command
	c    *cli.Context
	args []string

	meter      *meter
	waits      string                      // what it waits for now; before Command.Waits
	ctx        contexts.Context            // the selected one
	ctxName    string                      // its name; empty: none is selected
	rule       *kryptonv1.IntentRule       // who has to sign the last request
	self       *kryptonv1.WhoAmIResponse   // see who
	approval   *kryptonv1.Approval         // what the command asked others for; nil: nothing
	keepSecret func(approval string) error // keeps the secret of a token that is asked for
	cl         *client.Client
	info       client.Info // of the last call

	reminded bool // see remindToRenew
}

// Args returns the arguments, of which there are as many as NArgs allows.
func (in *Invocation) Args() []string { return in.args }

// String returns the value of a flag of the command.
func (in *Invocation) String(flag string) string { return in.c.String(flag) }

// Show prints the result: v as JSON, or text.
func (in *Invocation) Show(v any, text string) error {
	if in.jsonOutput() {
		return in.showJSON(v)
	}
	return in.write([]byte(text))
}

// Note tells the person something beside the result: a line on stderr.
func (in *Invocation) Note(text string) { in.note("%s", text) }

func connectionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "addr", Usage: "`HOST:PORT` of nodes, a list or repeated; https://HOST:PORT for HTTP/JSON", DefaultText: defaultAddr},
		&cli.StringFlag{Name: "ca-file", Usage: "PEM `FILE` that nodes are verified with"},
		&cli.StringFlag{Name: "cert-file", Usage: "PEM `FILE` of your certificate"},
		&cli.StringFlag{Name: "key-file", Usage: "PEM `FILE` of your key"},
		&cli.StringFlag{Name: "token-file", Usage: "`FILE` with a token that says who you are, in place of a certificate or before it"},
		&cli.StringFlag{Name: "tenant", Usage: "`TENANT` that short names belong to"},
	}
}

func sharedFlags() []cli.Flag {
	return []cli.Flag{
		outputFlag(),
		&cli.DurationFlag{Name: "timeout", Usage: "`DURATION` that each call may take", Value: defaultTimeout},
		&cli.StringFlag{Name: "request-id", Usage: "`UUID` under which the change acts once, to try it again"},
		&cli.BoolFlag{Name: "dry-run", Usage: "check everything, change nothing"},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask before what does great harm by mistake"},
	}
}

func asyncFlag() cli.Flag {
	return &cli.BoolFlag{Name: "async", Usage: "return once the change is committed, before every node follows it; see krypton operation wait"}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Usage: "`FORMAT` of the result: table or json", DefaultText: "table"}
}

func contextFlag() cli.Flag {
	return &cli.StringFlag{Name: "context", Usage: "`NAME` of the context to use, see krypton context"}
}

// scopeContextFlag is --context of the commands that have an encryption context.
func scopeContextFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "context", Usage: "`KEY=VALUE` of the encryption context, repeated; without \"=\" the name of the context to use"}
}

// shared returns the flags that c has by its reach.
func (c *Command) shared() []cli.Flag {
	if c.Run == nil {
		return nil
	}
	switch c.Reach {
	case Local:
		return []cli.Flag{outputFlag()}
	case Socket:
		return sharedFlags()
	case Changes:
		return slices.Concat(connectionFlags(), []cli.Flag{contextFlag()}, sharedFlags(), []cli.Flag{asyncFlag()})
	case Acts, Reads:
		return slices.Concat(connectionFlags(), []cli.Flag{contextFlag()}, sharedFlags())
	case Uses:
		return slices.Concat(connectionFlags(), sharedFlags())
	}
	return nil
}

// flags returns all flags of c.
func (c *Command) flags() []cli.Flag {
	if c.Signs {
		return slices.Concat(c.Flags, c.shared(), signFlags())
	}
	return slices.Concat(c.Flags, c.shared())
}

func (in *Invocation) run(ctx context.Context) (err error) {
	in.meter.start(ctx)
	defer in.meter.stop()
	if err := in.loadContext(); err != nil {
		return err
	}
	if _, err := in.format(); err != nil {
		return err
	}
	if in.c.Bool("async") && in.c.Bool("dry-run") {
		return noAsync("--dry-run commits nothing")
	}
	if in.c.IsSet("addr") && in.cmd.Reach != Local && len(in.listed("addr")) == 0 {
		return usagef("give host:port, or leave --addr out", "--addr is empty")
	}
	defer func() {
		if in.cl != nil {
			err = errors.Join(err, in.cl.Close())
		}
	}()
	if err := in.cmd.Run(ctx, in); !errors.Is(err, errDetached) {
		return err
	}
	return nil
}

// loadContext selects the context, for commands that speak to a cluster.
func (in *Invocation) loadContext() error {
	if in.cmd.Reach == Local || in.cmd.Reach == Socket {
		return nil
	}
	path, err := contexts.Path(in.env.Getenv)
	if err != nil {
		return err
	}
	name := in.contextName()
	f, err := contexts.Load(path)
	if err != nil {
		return err
	}
	if name = cmp.Or(name, in.env.Getenv("KRYPTON_CONTEXT"), f.Current); name != "" {
		in.ctx, err = f.Get(name)
		in.ctxName = name
	}
	return err
}

// contextName returns the context that --context selects, or "".
func (in *Invocation) contextName() string {
	if in.cmd.Reach != Uses {
		return in.c.String("context")
	}
	for _, v := range in.c.StringSlice("context") {
		if !strings.Contains(v, "=") {
			return v
		}
	}
	return ""
}

// listed returns the values of a flag that takes a list or is repeated.
func (in *Invocation) listed(flag string) []string { return split(in.c.StringSlice(flag)) }

func split(raw []string) []string {
	var out []string
	for _, r := range raw {
		for a := range strings.SplitSeq(r, ",") {
			if a = strings.TrimSpace(a); a != "" {
				out = append(out, a)
			}
		}
	}
	return out
}

// setting returns the value of a setting by precedence (I6); "" when it is not
// set anywhere.
func (in *Invocation) setting(flag, env, inContext string) string {
	if in.c.IsSet(flag) {
		return in.c.String(flag)
	}
	return cmp.Or(in.env.Getenv(env), inContext)
}

func (in *Invocation) addrs() []string {
	raw := in.ctx.Addr
	if e := in.env.Getenv("KRYPTON_ADDR"); e != "" {
		raw = []string{e}
	}
	if in.c.IsSet("addr") {
		raw = in.c.StringSlice("addr")
	}
	out := split(raw)
	if len(out) == 0 {
		return []string{defaultAddr}
	}
	return out
}

func (in *Invocation) tenant() string {
	return in.setting("tenant", "KRYPTON_TENANT", in.ctx.Tenant)
}

// client returns the connection to the cluster, made once per run. set changes
// its options.
func (in *Invocation) client(ctx context.Context, set ...func(*client.Options)) (*client.Client, error) {
	if in.cl != nil {
		return in.cl, nil
	}
	var err error
	if in.cl, err = in.connect(ctx, set...); err == nil {
		in.remindToRenew()
	}
	return in.cl, err
}

// connect makes a client of the cluster, which the caller closes.
func (in *Invocation) connect(ctx context.Context, set ...func(*client.Options)) (*client.Client, error) {
	opts := client.Options{
		Addrs:           in.addrs(),
		ConnectPatience: patience,
		OnRetry:         func(r client.Retry) { in.meter.failed(r.Err) },
	}
	if !in.identity(&opts) {
		return nil, errs.New(errs.InvalidConfig, "no identity is given",
			errs.Hint("give --ca-file, and --cert-file with --key-file, or --token-file; or set them in a context with krypton context set"))
	}
	with := []func(*client.Options){client.With(opts)}
	switch n := overHTTPS(opts.Addrs); n {
	case 0:
	case len(opts.Addrs):
		with = append(with, rest.Use())
	default:
		return nil, usagef("give https://host:port for HTTP/JSON, or host:port for gRPC", "some addresses are https:// and some are not")
	}
	return client.New(ctx, append(with, set...)...)
}

// cutHTTPS takes the scheme from an address of the HTTP/JSON door.
func cutHTTPS(addr string) (hostPort string, ok bool) {
	const scheme = "https://"
	if len(addr) < len(scheme) || !strings.EqualFold(addr[:len(scheme)], scheme) {
		return addr, false
	}
	return strings.TrimSuffix(addr[len(scheme):], "/"), true
}

// overHTTPS counts the addresses of the HTTP/JSON door.
func overHTTPS(addrs []string) (n int) {
	for _, a := range addrs {
		if _, ok := cutHTTPS(a); ok {
			n++
		}
	}
	return n
}

// deadline bounds one call.
func (in *Invocation) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	d := in.c.Duration("timeout")
	if d == 0 {
		d = defaultTimeout
	}
	return context.WithTimeout(ctx, d)
}

// method is a method of a generated client.
type method[Req, Resp proto.Message] func(context.Context, Req, ...grpc.CallOption) (Resp, error)

// call makes one call with what the flags say about it.
func call[Req, Resp proto.Message](ctx context.Context, in *Invocation, f method[Req, Resp], req Req, opts ...grpc.CallOption) (Resp, error) {
	var none Resp
	if err := in.apply(req); err != nil {
		return none, err
	}
	in.meter.step("%s", cmp.Or(in.waits, in.cmd.Waits, "waiting for the answer"))
	defer in.meter.watch(nil)
	if err := in.authorize(ctx, req); err != nil {
		return none, err
	}
	in.meter.step("%s", cmp.Or(in.waits, in.cmd.Waits, "waiting for the answer"))
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	if in.c.Bool("async") {
		opts = append(opts, client.Async())
	}
	resp, err := f(ctx, req, append(opts, client.Capture(&in.info))...)
	if err == nil && in.c.Bool("async") {
		if op := strings.TrimPrefix(in.info.Operation, "operations/"); in.info.Pending {
			in.note("committed; nodes may act on the state before for a moment: krypton operation wait %s", op)
		} else if op != "" {
			in.note("committed, and complete already: krypton operation get %s", op)
		}
	}
	if err != nil {
		return none, in.unsigned(wire.FromStatus(err)) // the administration socket has no client to make an error of the table
	}
	return resp, nil
}

// apply puts --request-id, --etag and --dry-run into a request.
func (in *Invocation) apply(req proto.Message) error {
	m := req.ProtoReflect()
	set := func(field string, v protoreflect.Value) bool {
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(field))
		if fd != nil {
			m.Set(fd, v)
		}
		return fd != nil
	}
	if id := in.c.String("request-id"); id != "" {
		id, err := requestID("--request-id", id)
		if err != nil {
			return err
		}
		set("request_id", protoreflect.ValueOfString(id))
	}
	if etag := in.c.String("etag"); etag != "" {
		set("etag", protoreflect.ValueOfString(etag))
	}
	if in.c.Bool("dry-run") && in.cmd.Reach != Reads {
		if !set("validate_only", protoreflect.ValueOfBool(true)) {
			return in.noDryRun()
		}
		in.note("dry run, nothing is changed")
	}
	return nil
}

// noAsync refuses --async where there is nothing to wait for, so that nobody believes
// to have a choice.
func noAsync(why string) error {
	return usagef("leave --async out", "--async has no effect here: %s", why)
}

func (in *Invocation) noDryRun() error {
	return usagef("leave --dry-run out", "%s has no dry run", words(in.path))
}

// confirm asks before what cannot be undone, or stops every node (I5).
func (in *Invocation) confirm(format string, a ...any) error {
	if in.c.Bool("yes") || in.c.Bool("dry-run") {
		return nil
	}
	what := fmt.Sprintf(format, a...)
	if !term.IsTerminal(int(in.env.Stdin.Fd())) {
		return usagef("give --yes if you mean it", "not confirmed: %s", what)
	}
	var line string
	var err error
	in.meter.ask(func() {
		fmt.Fprintf(in.env.Stderr, "krypton: %s. Type yes to go on: ", what)
		line, err = bufio.NewReader(in.env.Stdin).ReadString('\n')
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return errs.New(errs.Canceled, "nothing was changed", errs.Hint("type yes in full, or give --yes"))
	}
	return nil
}

// fail prints err and returns its exit status (I2).
func (e *Env) fail(err error, in *Invocation) int {
	if err == nil {
		return errs.ExitOK
	}
	e.clean()
	code, msg := line(err)
	corr := ""
	if in != nil {
		corr = in.info.CorrelationID
	}
	if e.json || in != nil && in.c != nil && in.jsonOutput() {
		e.failJSON(err, code, corr)
		return code.Row().Exit
	}
	if corr != "" {
		corr = ", correlation id " + visible(corr)
	}
	fmt.Fprintf(e.Stderr, "krypton: %s (%s%s)\n", msg, code, corr)
	return code.Row().Exit
}

// line returns the code of an error and what is said of it, in one line whatever
// it is made of.
func line(err error) (errs.Code, string) {
	code, msg := errs.Internal, err.Error()
	if ae, ok := errors.AsType[*errs.Error](err); ok {
		code, msg = ae.Code, ae.Error()
	} else if c := errs.Of(err); c != errs.Internal {
		code, msg = c, errs.From(err).Error()
	}
	return code, visible(strings.Join(strings.FieldsFunc(msg, func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

// Fail writes err to w as every command ends with it, and returns the exit
// status. It is for a process that cannot end by returning.
func Fail(w io.Writer, err error) int {
	code, msg := line(err)
	fmt.Fprintf(w, "krypton: %s (%s)\n", msg, code)
	return code.Row().Exit
}

// terminal reports whether f is one.
func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Variables returns the names of the environment variables of the command line.
// A node that runs in the same environment does not take them for misspelled
// ones of its own.
func Variables() []string {
	return []string{
		"KRYPTON_ADDR", "KRYPTON_CONTEXT", "KRYPTON_CA_FILE", "KRYPTON_CERT_FILE", "KRYPTON_KEY_FILE", "KRYPTON_SIGN_KEY_FILE",
		"KRYPTON_TOKEN_FILE", "KRYPTON_TENANT", "KRYPTON_SERVICE", "KRYPTON_OUTPUT", "KRYPTON_CONFIG",
	}
}
