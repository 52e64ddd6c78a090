package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// tlsConfig returns the TLS configuration of the options. Plain text and
// unverified nodes are not among the choices.
func (o *Options) tlsConfig() (*tls.Config, error) {
	if o.TLS != nil {
		return o.givenTLS()
	}
	switch pair, half := o.CertFile != "" && o.KeyFile != "", o.CertFile != "" || o.KeyFile != ""; {
	case pair != half, !pair && o.TokenFile == "":
		return nil, o.missing("no TLS identity is given",
			"set KRYPTON_CA_FILE, KRYPTON_CERT_FILE and KRYPTON_KEY_FILE, or the Options of these names, to PEM files; a caller with a token has KRYPTON_TOKEN_FILE in place of the last two")
	case o.CAFile == "":
		return nil, o.missing("no CA file is given, and nodes cannot be verified without", "set KRYPTON_CA_FILE or Options.CAFile to the PEM file of the cluster's CA")
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
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	if o.CertFile == "" {
		return cfg, nil
	}
	load, err := pairFiles(o.CertFile, o.KeyFile)
	if err != nil { // said now and not at the first call
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load(), nil }
	return cfg, nil
}

// givenTLS checks the configuration that was set in code.
func (o *Options) givenTLS() (*tls.Config, error) {
	switch {
	case o.CAFile != "" || o.CertFile != "" || o.KeyFile != "":
		return nil, errs.New(errs.InvalidConfig, "both TLS and certificate files are given", errs.Hint("give one of them"))
	case o.TLS.InsecureSkipVerify && o.TLS.VerifyPeerCertificate == nil && o.TLS.VerifyConnection == nil:
		return nil, errs.New(errs.InvalidConfig, "the TLS configuration verifies nobody: whoever answers would get the plaintext",
			errs.Hint("set RootCAs, or a VerifyConnection of your own beside InsecureSkipVerify"))
	case o.expired != nil:
		return nil, errs.New(errs.InvalidConfig, "expired certificates of nodes are accepted only with a CA file", errs.Hint("give CAFile in place of TLS"))
	}
	cfg := o.TLS.Clone()
	cfg.MinVersion = tls.VersionTLS13
	return cfg, nil
}

const pairHint = "KRYPTON_CERT_FILE and KRYPTON_KEY_FILE, or the Options of these names, are the PEM files of one pair"

// pairFiles returns a function that reads a certificate and its key for one
// handshake. Who renews a certificate replaces two files, one after the other, so
// for a moment they do not fit, or one is half written or not there: then it is
// the pair that was read before, which is no worse than a moment ago.
//
// Whether a certificate has expired is not asked here. The node decides: with an
// expired one it still lets its holder renew it, and hand in shares.
func pairFiles(certFile, keyFile string) (func() *tls.Certificate, error) {
	first, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	var last atomic.Pointer[tls.Certificate]
	last.Store(first)
	return func() *tls.Certificate {
		now, err := loadPair(certFile, keyFile)
		if err != nil {
			return last.Load()
		}
		last.Store(now)
		return now
	}, nil
}

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
