package client

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"slices"
	"strings"
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

// Options says how to reach a cluster. Addrs and a TLS identity are needed, the
// zero value of everything else is the recommended one.
//
// [New] begins with the environment and lets code change it:
//
//	KRYPTON_ADDR       Addrs, separated by commas
//	KRYPTON_CA_FILE    CAFile
//	KRYPTON_CERT_FILE  CertFile
//	KRYPTON_KEY_FILE   KeyFile
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
	// for each new connection, so that a renewed certificate needs no restart.
	CAFile, CertFile, KeyFile string

	// TLS replaces the three files; those of the environment are ignored then. Its
	// MinVersion is raised to TLS 1.3.
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

	// Clock is the source of time for measurements and delays. Nil: the system's.
	Clock clock.Clock

	// Rand makes request ids, correlation ids and jitter. It must be safe for
	// concurrent use. Nil: the system's.
	Rand io.Reader

	env    environment // what the options began with; empty behind [With]
	failed error       // see [Options.Fail]
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
	o.onlyTLS()
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

// tlsConfig returns the TLS configuration of the options. Plain text and
// unverified nodes are not among the choices.
func (o *Options) tlsConfig() (*tls.Config, error) {
	if o.TLS != nil {
		if o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" {
			return nil, errs.New(errs.InvalidConfig, "both TLS and certificate files are given", errs.Hint("give one of them"))
		}
		if o.TLS.InsecureSkipVerify && o.TLS.VerifyPeerCertificate == nil && o.TLS.VerifyConnection == nil {
			return nil, errs.New(errs.InvalidConfig, "the TLS configuration verifies nobody: whoever answers would get the plaintext",
				errs.Hint("set RootCAs, or a VerifyConnection of your own beside InsecureSkipVerify"))
		}
		cfg := o.TLS.Clone()
		cfg.MinVersion = tls.VersionTLS13
		return cfg, nil
	}
	if o.CAFile == "" || o.CertFile == "" || o.KeyFile == "" {
		return nil, o.missing("no TLS identity is given",
			"set KRYPTON_CA_FILE, KRYPTON_CERT_FILE and KRYPTON_KEY_FILE, or the Options of these names, to PEM files")
	}
	ca, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "read CA file: "+err.Error(), errs.Cause(err),
			errs.Hint("KRYPTON_CA_FILE or Options.CAFile names the PEM file of the cluster's CA"))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errs.Newf(errs.InvalidConfig, "CA file %s holds no certificate", o.CAFile).
			With(errs.Hint("it has to be PEM, as krypton init and krypton operator cert issue write it"))
	}
	load := func() (*tls.Certificate, error) { return loadPair(o.CertFile, o.KeyFile) }
	if _, err := load(); err != nil { // say it now and not at the first call
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() },
	}, nil
}

const pairHint = "KRYPTON_CERT_FILE and KRYPTON_KEY_FILE, or the Options of these names, are the PEM files of one pair"

// loadPair reads a certificate and its key.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "read certificate file: "+err.Error(), errs.Cause(err), errs.Hint(pairHint))
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "read key file: "+err.Error(), errs.Cause(err), errs.Hint(pairHint))
	}
	defer clear(keyPEM)
	return parsePair(certPEM, keyPEM, certFile, keyFile)
}

// parsePair puts a certificate and its key together, and says which of the two
// files is at fault.
func parsePair(certPEM, keyPEM []byte, certFile, keyFile string) (*tls.Certificate, error) {
	switch {
	case !hasBlock(certPEM, isCertificate) && hasBlock(certPEM, isKey):
		clear(certPEM)
		return nil, errs.Newf(errs.InvalidConfig, "certificate file %s holds a private key", certFile).With(errs.Hint("the files of certificate and key are swapped"))
	case !hasBlock(certPEM, isCertificate):
		return nil, errs.Newf(errs.InvalidConfig, "certificate file %s holds no certificate", certFile).
			With(errs.Hint("it has to be PEM, as krypton init and krypton operator cert issue write it"))
	case !hasBlock(keyPEM, isKey):
		return nil, errs.Newf(errs.InvalidConfig, "key file %s holds no private key", keyFile).
			With(errs.Hint("it has to be PEM, as krypton operator cert new-key writes it"))
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, errs.Newf(errs.InvalidConfig, "the key in %s does not fit the certificate in %s", keyFile, certFile).
			With(errs.Cause(err), errs.Hint(pairHint))
	}
	return &cert, nil
}

func isCertificate(typ string) bool { return typ == "CERTIFICATE" }

func isKey(typ string) bool { return strings.HasSuffix(typ, "PRIVATE KEY") }

// hasBlock reports whether there is a PEM block of a type.
func hasBlock(text []byte, is func(typ string) bool) bool {
	for {
		b, rest := pem.Decode(text)
		if b == nil {
			return false
		}
		found := is(b.Type)
		clear(b.Bytes)
		if found {
			return true
		}
		text = rest
	}
}
