package client

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	// DefaultDeadline bounds a call whose context has no deadline.
	DefaultDeadline = 30 * time.Second

	// DefaultRetryBudget is the number of retries that may be spent at once, see
	// [Options.RetryBudget].
	DefaultRetryBudget = 100

	// MaxRequestBytes is the largest request of any method. A larger one is
	// refused with TOO_LARGE, here and by a node.
	MaxRequestBytes = 2 << 20

	// MaxResponseBytes is the largest response that is taken, and that a node
	// sends.
	MaxResponseBytes = 4 << 20

	// maxAddrs bounds Options.Addrs; a client needs a few nodes, not all.
	maxAddrs = 64
)

// Options says how to reach a cluster. Addrs, a CA file and an identity are
// needed: a certificate or a token. The zero value of everything else is the
// recommended one.
//
// [New] begins with the environment and lets code change it:
//
//	KRYPTON_ADDR        Addrs, separated by commas
//	KRYPTON_CA_FILE     CAFile
//	KRYPTON_CERT_FILE   CertFile
//	KRYPTON_KEY_FILE    KeyFile
//	KRYPTON_TOKEN_FILE TokenFile
//
// KRYPTON_CONTEXT names a context of the command line. It is read by package
// client/contexts and not by this one, which has no YAML decoder.
type Options struct {
	// Addrs are the gRPC addresses (host:port) of several nodes, at most 64. Any
	// node answers any call; more than one address is what makes the client
	// survive the loss of a node.
	Addrs []string

	// CAFile, CertFile and KeyFile are PEM files: what nodes are verified with,
	// and the caller's certificate and key. Certificate and key are read again
	// for each new connection, so that a renewed certificate needs no restart;
	// while they do not fit each other, the pair that was read before is used. An
	// expired certificate is shown too: the node decides what it is good for.
	CAFile, CertFile, KeyFile string

	// TokenFile is a file with a token (JWT), for callers that have no certificate:
	// every call shows it, and over TLS only. At most [MaxTokenBytes], and one
	// newline behind it. It is read again for every attempt, so that it may be
	// replaced at any time, best by renaming another file to its name. Its mode is
	// not checked: tokens that Kubernetes projects into a pod are readable by all
	// in it.
	//
	// With a certificate beside it, the certificate is shown for TLS and the token
	// decides who asks. One of the environment is ignored when a certificate or
	// TLS is set in code.
	TokenFile string

	// TLS replaces CAFile, CertFile and KeyFile; those of the environment are
	// ignored then. Its MinVersion is raised to TLS 1.3.
	TLS *tls.Config

	// Transport reaches nodes. Nil: gRPC. rest.Use of package client/rest sets one
	// that speaks HTTP/JSON.
	Transport Transport

	// Timeout bounds each attempt of a call. 0: chosen from what was measured,
	// max(250 ms, 5 times the recent 99th percentile), longer for mutations,
	// doubled for each attempt of the call that ran into it.
	Timeout time.Duration

	// RetryBudget is how many retries the client may make at once beyond the
	// first try on each node. A success gives back a tenth, a second gives back
	// ten. With an empty budget a call waits for it until its deadline. 0:
	// [DefaultRetryBudget].
	RetryBudget int

	// ConnectPatience bounds how long a call goes on while no node has ever
	// answered this client, which is the sign of a wrong address or identity. 0:
	// until the deadline of the call.
	ConnectPatience time.Duration

	// OnRetry is called before each further attempt of a call. It must not
	// block. Nil: nobody is told.
	OnRetry func(Retry)

	// Signer has people sign the changes for which a cluster asks signatures. Nil:
	// nobody signs, and such a change is refused. See [SignedBy] for one call.
	Signer Signer

	// Clock is the source of time for measurements and delays. Nil: the system's.
	Clock clock.Clock

	// Rand makes request ids, correlation ids and jitter. It must be safe for
	// concurrent use. Nil: the system's.
	Rand io.Reader

	env     environment                               // what the options began with; empty behind [With]
	failed  error                                     // see [Options.Fail]
	expired func(addr string, node *x509.Certificate) // see [AcceptExpiredNodes]; nil: none is accepted
}

// Retry tells of one attempt that failed and will be followed by another.
type Retry struct {
	Method  string        // full gRPC method, /krypton.v1.Crypto/Encrypt
	Addr    string        // node that failed
	Attempt int           // number of the attempt that failed, from 1
	Err     error         // why, an error of the table
	Delay   time.Duration // wait before the next attempt
}

// complete checks o and fills in what it leaves to the defaults.
func complete(o Options) (Options, error) {
	if o.failed != nil {
		return o, o.failed
	}
	switch {
	case len(o.Addrs) == 0:
		return o, o.missing("no address of a node is given", "set KRYPTON_ADDR, or Options.Addrs, to host:port of several nodes")
	case len(o.Addrs) > maxAddrs:
		return o, errs.Newf(errs.InvalidConfig, "%d addresses are given, at most %d are used", len(o.Addrs), maxAddrs).
			With(errs.Hint("give a few nodes; a client does not need all"))
	case slices.Contains(o.Addrs, ""):
		return o, errs.New(errs.InvalidConfig, "an address is empty", errs.Hint("give host:port of several nodes"))
	case o.Timeout < 0 || o.ConnectPatience < 0 || o.RetryBudget < 0:
		return o, errs.New(errs.InvalidConfig, "a timeout or budget is negative", errs.Hint("leave it 0 for the default"))
	}
	o.Addrs = dedupe(o.Addrs)
	if o.Transport == nil {
		o.Transport = overGRPC{}
	}
	for _, a := range o.Addrs {
		if err := o.Transport.Check(a); err != nil {
			return o, err
		}
	}
	o.ownIdentity()
	if o.RetryBudget == 0 {
		o.RetryBudget = DefaultRetryBudget
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return o, nil
}

func dedupe(addrs []string) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
