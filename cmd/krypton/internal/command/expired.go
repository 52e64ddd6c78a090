package command

import (
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const acceptHint = "check the clock of this machine; if the node was sealed for so long, and is still one of the cluster: krypton unseal --accept-expired-node"

// endOf is the moment until which a certificate was valid, for people.
func endOf(c *x509.Certificate) string { return c.NotAfter.UTC().Format(time.RFC3339) }

// expiredNodes are the certificates of nodes that are accepted although they have
// expired, by address. Nil accepts none. Handshakes write it, on goroutines of
// the connection.
type expiredNodes struct {
	mu   sync.Mutex
	of   map[string]*x509.Certificate
	told map[string]bool
}

func newExpiredNodes() *expiredNodes {
	return &expiredNodes{of: map[string]*x509.Certificate{}, told: map[string]bool{}}
}

func (e *expiredNodes) accepted(addr string, node *x509.Certificate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of[addr] = node
}

// untold returns the certificate that was accepted at an address, once, or nil.
func (e *expiredNodes) untold(addr string) *x509.Certificate {
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.told[addr] || e.of[addr] == nil {
		return nil
	}
	e.told[addr] = true
	return e.of[addr]
}

// warnOfExpired tells which node it was, in JSON mode too: it is what a person
// has to judge before the next share.
func (in *Invocation) warnOfExpired(addr string, old *expiredNodes) {
	cert := old.untold(addr)
	if cert == nil {
		return
	}
	name := "at " + addr
	if _, id, err := pki.NodeOf(cert); err == nil { // one of tls.mode files need not name the node
		name = id + " at " + addr
	}
	in.note("warning: the certificate of node %s expired at %s and is accepted; check that this node is still one of the cluster", name, endOf(cert))
}

// maxLeads bounds the certificates behind a node's that are looked at.
const maxLeads = 8

// verifyNode verifies the certificate that a sealed node shows beside its key for
// shares. With tls.mode files it is not the one of the connection. chain leads to it, DER,
// from a CA that was replaced.
func verifyNode(cert *x509.Certificate, chain [][]byte, addr string, roots *x509.CertPool, now time.Time, old *expiredNodes) error {
	at, expired := now, now.After(cert.NotAfter)
	if expired && old != nil {
		at = cert.NotAfter
	}
	between := x509.NewCertPool()
	for _, der := range chain[:min(len(chain), maxLeads)] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil && expired {
		old.accepted(addr, cert)
	}
	return err
}

// orAccept adds the flag to what a client says of a node's certificate that has
// expired. Of one that is not valid yet it says nothing: the flag would not help.
func (in *Invocation) orAccept(err error) error {
	if !isExpired(err, in.env.Clock.Now()) {
		return err
	}
	return errs.From(err).With(errs.Hint(acceptHint))
}

// isExpired reports whether a certificate was refused because it has expired, and
// not because it or its CA is of another time.
func isExpired(err error, now time.Time) bool {
	e, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && e.Reason == x509.Expired && e.Cert != nil && !e.Cert.IsCA && now.After(e.Cert.NotAfter)
}
