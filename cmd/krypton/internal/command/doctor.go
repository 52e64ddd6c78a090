package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func doctorCommand() *Command {
	return &Command{
		Name: "doctor", Usage: "check what usually goes wrong, and say what to do about it", Reach: Reads,
		About: "Runs the checks below as the person you are; what you may not see is left out, and said so. A check is ok, a\n" +
			"warning (it works today) or a failure. The exit status is that of the first failure, 0 with warnings only.\n\n" +
			checkList() +
			"\nWith --data-dir also the data directory of this machine is checked: its owner and modes, its space, and whether\n" +
			"its node answers on the administration socket.",
		Examples: []string{"krypton doctor", "krypton doctor --data-dir /var/lib/krypton", "krypton doctor --output json | jq '.checks[] | select(.verdict != \"ok\")'"},
		Flags:    []cli.Flag{&cli.StringFlag{Name: "data-dir", Usage: "check the node whose data directory is `DIR`, too"}},
		Exits:    []int{errs.ExitIntegrity},
		Run:      doctor,
	}
}

func checkList() string {
	var b strings.Builder
	for _, c := range checks() {
		fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.asks)
	}
	return b.String()
}

func doctor(ctx context.Context, in *Invocation) error {
	if in.c.Bool("dry-run") {
		return in.noDryRun()
	}
	f := in.examine(ctx)
	var found []finding
	for _, c := range checks() {
		found = append(found, c.run(f))
	}
	if in.c.IsSet("data-dir") {
		found = append(found, in.examineDir(ctx, in.c.String("data-dir"))...)
	}
	if err := in.showFindings(found); err != nil {
		return err
	}
	failed, warned := 0, 0
	var first error
	for _, x := range found {
		switch x.verdict {
		case failure:
			failed++
			if first == nil {
				first = x.err
			}
		case warning:
			warned++
		case ok, skipped:
		}
	}
	in.note("%d checks, %d failed, %d warnings", len(found), failed, warned)
	return first
}

func (in *Invocation) showFindings(found []finding) error {
	if in.jsonOutput() {
		type check struct {
			Name    string `json:"name"`
			Verdict string `json:"verdict"`
			Says    string `json:"says"`
			Next    string `json:"next"`
			Code    string `json:"code"`
		}
		out := struct {
			Checks []check `json:"checks"`
		}{}
		for _, x := range found {
			c := check{Name: x.name, Verdict: string(x.verdict), Says: x.says, Next: x.next}
			if x.err != nil {
				c.Code = errs.Of(x.err).String()
			}
			out.Checks = append(out.Checks, c)
		}
		return in.showJSON(out)
	}
	var b strings.Builder
	for _, x := range found {
		fmt.Fprintf(&b, "%s %-12s %s\n", in.paint(fmt.Sprintf("%-4s", x.verdict), x.verdict.color()), x.name, x.says)
		if x.next != "" {
			fmt.Fprintf(&b, "                  next: %s\n", x.next)
		}
	}
	return in.write([]byte(b.String()))
}

// facts are what the checks look at.
type facts struct {
	now      time.Time
	settings error             // why there is no client to ask with
	leaf     *x509.Certificate // the caller's; nil: a token says who asks
	me       *kryptonv1.WhoAmIResponse
	meErr    error
	builtin  *kryptonv1.Issuer // the cluster's own CA of callers
	builtErr error
	view     *view
	servers  []server
	limited  []limited

	ceremonies    []*kryptonv1.Ceremony
	ceremoniesErr error
}

// limited is what one node says of those whom it refuses calls.
type limited struct {
	addr string
	who  []*kryptonv1.LimitedCaller
	err  error
}

// server is what a port of a node shows before anybody says who they are.
type server struct {
	addr string
	leaf *x509.Certificate
	err  error
}

// dialTime bounds how long one port is tried.
const dialTime = 5 * time.Second

// examine gathers the facts. Nothing in it fails: a fact that cannot be had is
// one too.
func (in *Invocation) examine(ctx context.Context) facts {
	f := facts{now: time.Now(), view: &view{}}
	c, err := in.client(ctx)
	if err != nil {
		f.settings = err
		return f
	}
	if in.tokenFile() == "" { // else the token says who asks, and the node when it ends
		if f.leaf, err = readLeaf(in.certFile()); err != nil {
			f.settings = err
			return f
		}
	}
	roots, err := in.roots()
	if err != nil {
		f.settings = err
		return f
	}
	for _, addr := range c.Addrs() {
		f.servers = append(f.servers, knock(ctx, addr, roots))
	}
	if f.view, err = in.look(ctx); err != nil {
		f.settings = err
		return f
	}
	for _, addr := range c.Addrs() { // each node counts for itself
		info, err := call(ctx, in, kryptonv1.NewClusterClient(c.Node(addr)).GetCluster, &kryptonv1.GetClusterRequest{})
		f.limited = append(f.limited, limited{addr: addr, who: info.GetLimited(), err: err})
	}
	f.me, f.meErr = call(ctx, in, c.Access().WhoAmI, &kryptonv1.WhoAmIRequest{})
	list, err := call(ctx, in, c.Ceremonies().ListCeremonies, &kryptonv1.ListCeremoniesRequest{})
	f.ceremonies, f.ceremoniesErr = list.GetCeremonies(), err
	f.builtin, f.builtErr = call(ctx, in, c.Access().GetIssuer, &kryptonv1.GetIssuerRequest{Name: builtinIssuer})
	return f
}

// readLeaf returns the certificate of a PEM file.
func readLeaf(path string) (*x509.Certificate, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "read "+path+": "+errors.Unwrap(err).Error(), errs.Hint("check --cert-file"), errs.Cause(err))
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			return cert, nil
		}
	}
	return nil, errs.Newf(errs.InvalidConfig, "%s holds no certificate", path).With(errs.Hint("check --cert-file"))
}

// knock looks at the certificate of a port. Without a client certificate the
// handshake still succeeds: nodes judge callers after it.
func knock(ctx context.Context, addr string, roots *x509.CertPool) server {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	hostPort, _ := cutHTTPS(addr)
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return server{addr: addr, err: errs.Newf(errs.InvalidConfig, "%s is not host:port", addr).With(errs.Hint("check --addr"))}
	}
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: host, NextProtos: []string{"h2"}}}
	conn, err := d.DialContext(ctx, "tcp", hostPort)
	if err != nil {
		return server{addr: addr, err: dialError(addr, err)}
	}
	defer func() { _ = conn.Close() }() // nothing was written
	tc, isTLS := conn.(*tls.Conn)
	if !isTLS || len(tc.ConnectionState().PeerCertificates) == 0 {
		return server{addr: addr, err: errs.Newf(errs.Unavailable, "%s shows no certificate", addr).With(errs.Hint("check that it is the gRPC port of a node"))}
	}
	return server{addr: addr, leaf: tc.ConnectionState().PeerCertificates[0]}
}

// dialError says which of the usual reasons it was.
func dialError(addr string, err error) error {
	if expired, is := errors.AsType[x509.CertificateInvalidError](err); is && expired.Reason == x509.Expired {
		return errs.Newf(errs.Unavailable, "the certificate of %s has expired, or a clock is wrong", addr).
			With(errs.Hint("look at its clock and yours; a node renews its certificate by itself while it is unsealed"), errs.Cause(err))
	}
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return errs.Newf(errs.InvalidConfig, "%s is not of the cluster that your CA file is of", addr).
			With(errs.Hint("check --ca-file and the address"), errs.Cause(err))
	}
	if _, is := errors.AsType[x509.HostnameError](err); is {
		return errs.Newf(errs.InvalidConfig, "the certificate of %s is for other names", addr).
			With(errs.Hint("use an address that the node advertises, or add this one to its configuration"), errs.Cause(err))
	}
	if _, is := errors.AsType[tls.RecordHeaderError](err); is {
		return errs.Newf(errs.InvalidConfig, "%s does not speak TLS", addr).
			With(errs.Hint("give the gRPC port, 8400 by default; 8404 is for probes"), errs.Cause(err))
	}
	return errs.Newf(errs.Unavailable, "%s cannot be reached: %s", addr, shortNet(err)).
		With(errs.Hint("check that the node runs, the address and the firewall"), errs.Cause(err))
}

// shortNet returns the last part of a network error: "connection refused".
func shortNet(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer in %s", dialTime)
	}
	parts := strings.Split(err.Error(), ": ")
	return parts[len(parts)-1]
}
