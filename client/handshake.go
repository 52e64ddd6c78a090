package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// handshakes remembers how the last TLS handshake of a connection failed: gRPC
// hands on the text of it only, and a text is nothing to decide on.
type handshakes struct {
	credentials.TransportCredentials

	failed *atomic.Pointer[error] // nil: the last one did not fail, or there was none
}

func watchHandshakes(cfg *tls.Config) handshakes {
	return handshakes{TransportCredentials: credentials.NewTLS(cfg), failed: new(atomic.Pointer[error])}
}

// ClientHandshake implements [credentials.TransportCredentials].
func (h handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err == nil {
		h.failed.Store(nil)
	} else {
		h.failed.Store(&err)
	}
	return conn, info, err
}

// Clone implements [credentials.TransportCredentials].
func (h handshakes) Clone() credentials.TransportCredentials {
	h.TransportCredentials = h.TransportCredentials.Clone()
	return h
}

// watchedConn is a connection that can tell how its last handshake failed.
type watchedConn struct {
	Conn

	failed *atomic.Pointer[error]
}

// HandshakeError returns how the last TLS handshake failed, or nil.
func (c watchedConn) HandshakeError() error {
	if p := c.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// TLS alerts (RFC 8446, section 6) that a node sends for what a person can mend.
const (
	alertInternalError = 80  // of a node that has no certificate yet
	alertNoProtocol    = 120 // of a port that speaks something else
)

// mismatch returns what a failed handshake means for whoever configured the
// client, or nil when it may pass by itself. It is nothing that another attempt
// on the same node could change, so it is said at once.
func (o *Options) mismatch(addr string, err error) *errs.Error {
	ca := o.CAFile
	if ca == "" {
		ca = "Options.TLS"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return errs.Newf(errs.InvalidConfig, "the certificate of node %s is not by the CA in %s", addr, ca).With(errs.Cause(err),
			errs.Hint("give the CA file of the cluster that this node belongs to, as krypton init and krypton operator cert issue write it; if its CA was replaced, that of somebody who has the new one (krypton operator ca export)"))
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return errs.Newf(errs.InvalidConfig, "the certificate of node %s is for %s", addr, names(e.Certificate)).With(errs.Cause(err),
			errs.Hint("use one of these names as the address, or set those under which the node is reached as advertise.grpc in its configuration"))
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired && e.Cert != nil {
		return errs.Newf(errs.InvalidConfig, "the certificate of node %s is valid from %s to %s, which is not now", addr,
			e.Cert.NotBefore.UTC().Format(time.RFC3339), e.Cert.NotAfter.UTC().Format(time.RFC3339)).With(errs.Cause(err),
			errs.Hint("check the clock of this machine; if it is right, ask the operator why the node did not renew its certificate"))
	}
	if _, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return errs.Newf(errs.InvalidConfig, "the certificate of node %s is not one for a node", addr).With(errs.Cause(err),
			errs.Hint("check the address, and on the node the files of tls.mode files"))
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return errs.Newf(errs.InvalidConfig, "node %s does not speak TLS on this port", addr).With(errs.Cause(err), portHint)
	}
	switch alertOf(err) {
	case alertNoProtocol:
		return errs.Newf(errs.InvalidConfig, "node %s does not speak gRPC on this port", addr).With(errs.Cause(err), portHint)
	case alertInternalError:
		return errs.Newf(errs.NotServing, "node %s has no certificate yet: it belongs to no cluster", addr).With(errs.Cause(err),
			errs.Hint("on the node: krypton init for a new cluster, or krypton join"))
	}
	return nil
}

//nolint:gochecknoglobals // A constant; Go has no constant functions.
var portHint = errs.Hint("give the gRPC port, 8400 unless configured otherwise; 8401 is HTTP/JSON, 8402 for nodes among themselves, 8404 operations without TLS")

// alertOf returns the number of the alert with which the other side ended a
// handshake, or 0. crypto/tls has a type for it that only QUIC returns.
func alertOf(err error) uint64 {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return 0
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		return v.Uint()
	}
	return 0
}

// maxNames bounds how many names of a certificate are shown.
const maxNames = 4

// names returns what a certificate is for, in words.
func names(c *x509.Certificate) string {
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch {
	case len(all) == 0:
		return "no address"
	case len(all) > maxNames:
		all = append(all[:maxNames:maxNames], "others")
	}
	return strings.Join(all, ", ")
}
