package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"time"
)

// AcceptExpiredNodes makes a client accept the certificate of a node that has
// expired, when nothing else is wrong with it: at its last moment it was valid,
// by the CA of CAFile, for a node, and for the name or address that is called.
//
// It is for handing shares to nodes that are sealed, because those cannot renew
// their certificates. What an expired certificate no longer says is that the node
// still is one of the cluster: whoever has the key of a node that was removed long
// ago can pose as that node. So told is called with each one that is accepted; it
// has to tell a person, must not block, and is called by several goroutines. It
// must not be nil.
//
// It needs CAFile, and does not go with Options.TLS.
func AcceptExpiredNodes(told func(addr string, node *x509.Certificate)) func(*Options) {
	return func(o *Options) { o.expired = told }
}

// acceptExpired returns cfg for one node, with the verification of this package
// in place of that of crypto/tls, which has no time of its own for one certificate.
// Nothing else of crypto/tls's verification is given up.
func (o *Options) acceptExpired(cfg *tls.Config, addr string, now func() time.Time) *tls.Config {
	host := hostOf(addr)
	cfg = cfg.Clone()
	cfg.InsecureSkipVerify = true // VerifyConnection does all of it
	// The name comes from the address and not from the connection, which has none
	// when it is an IP address.
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		expired, err := verifyNode(cs.PeerCertificates, cfg.RootCAs, host, now())
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
		}
		if expired {
			o.expired(addr, cs.PeerCertificates[0])
		}
		return nil
	}
	return cfg
}

// hostOf returns what the certificate of the node at addr has to be for.
func hostOf(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok { // of the HTTP/JSON door
		addr = strings.TrimSuffix(rest, "/")
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // which no certificate is for
	}
	return host
}

// verifyNode is what crypto/tls does for a client, but for the time.
func verifyNode(chain []*x509.Certificate, roots *x509.CertPool, host string, now time.Time) (expired bool, err error) {
	if len(chain) == 0 {
		return false, errors.New("the node shows no certificate")
	}
	if host == "" {
		return false, errors.New("the address has no host") // else no name would be compared
	}
	leaf := chain[0]
	opts := x509.VerifyOptions{
		Roots: roots, DNSName: host, CurrentTime: now, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if expired = now.After(leaf.NotAfter); expired {
		opts.CurrentTime = leaf.NotAfter
	}
	_, err = leaf.Verify(opts)
	return expired, err
}
