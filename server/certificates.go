package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// Files in the data directory's tls/.
const (
	apiFile = "api.pem" // certificate of the public ports, leaf first

	// renewEvery is how often a node looks whether its certificate has to be
	// renewed, which it is at two thirds of its life.
	renewEvery = 30 * time.Second

	// obtainEvery is renewEvery of a node that has none, or whose own has ended while
	// it was off.
	obtainEvery = time.Second

	// followEvery is renewEvery of a node whose CA was replaced: an overlap may be short.
	followEvery = 5 * time.Second
)

// certificates is what the public ports present.
//
// The key is the member key: who verifies the certificate of a node knows its
// member key, with which it signs its start key.
type certificates struct {
	dir    string
	signer crypto.Signer
	files  *fileCertificate // tls.mode files; nil: builtin
	clock  clock.Clock
	log    *slog.Logger

	own   atomic.Pointer[tls.Certificate] // nil: none yet
	keeps sync.Mutex                      // who initialises or joins adopts one while run may

	checked checked // of run alone
}

// checked is whether a CA signed a certificate, which is asked at every change of the
// registry and costs a verification.
type checked struct {
	leaf *x509.Certificate
	ca   []byte // DER
	is   bool
}

// heldUntil is how long before a CA retires that nobody can be led on from its certificates
// are replaced: until then who trusts only that CA goes on, and after it nobody does.
const heldUntil = time.Hour

func newCertificates(ctx context.Context, dir string, signer crypto.Signer, files *fileCertificate, c clock.Clock, log *slog.Logger) *certificates {
	s := &certificates{dir: dir, signer: signer, files: files, clock: c, log: log}
	if err := s.loadOwn(); err != nil {
		// It is no reason not to start: it is made again as soon as the cluster can be asked.
		log.WarnContext(ctx, "the certificate on disk cannot be used; the node asks for it again", slog.Any("error", err))
	}
	return s
}

func (s *certificates) loadOwn() error {
	chain, err := readPEM(filepath.Join(s.dir, apiFile))
	if err != nil || len(chain) == 0 {
		return err
	}
	return s.present(chain)
}

// present makes chain the certificate of the public ports.
func (s *certificates) present(chain [][]byte) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return errs.New(errs.InvalidConfig, "the certificate of this node does not parse", errs.Hint("remove tls/api.pem; the node asks for a new one"), errs.Cause(err))
	}
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(s.signer.Public()) {
		return errs.New(errs.InvalidConfig, "the certificate of this node is for another key", errs.Hint("remove tls/api.pem; the node asks for a new one"))
	}
	s.own.Store(&tls.Certificate{Certificate: chain, PrivateKey: s.signer, Leaf: leaf})
	return nil
}

// adopt takes over a certificate that the cluster issued and keeps it. When it
// cannot be kept it still serves until the process ends.
func (s *certificates) adopt(c cluster.Certificate) error {
	if len(c.Chain) == 0 {
		return errs.New(errs.Internal, "a certificate without a leaf")
	}
	s.keeps.Lock() // what is served is what is on disk, and one writes it at a time
	defer s.keeps.Unlock()
	if err := s.present(c.Chain); err != nil {
		return err
	}
	var out bytes.Buffer
	for _, der := range c.Chain {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return fmt.Errorf("encode certificate: %w", err)
		}
	}
	return writeFile(filepath.Join(s.dir, apiFile), out.Bytes())
}

// leaf returns the certificate that the node signs its start key under, DER.
func (s *certificates) leaf() []byte {
	if c := s.own.Load(); c != nil {
		return c.Certificate[0]
	}
	return nil
}

// usable reports whether the node has a certificate that callers accept now.
func (s *certificates) usable() bool {
	c := s.own.Load()
	return c != nil && s.clock.Now().Before(c.Leaf.NotAfter)
}

// current returns the certificate itself; nil: there is none.
func (s *certificates) current() *x509.Certificate {
	if c := s.own.Load(); c != nil {
		return c.Leaf
	}
	return nil
}

// byPresent reports whether the present CA of nodes signed the certificate.
func (s *certificates) byPresent(leaf *x509.Certificate, ca []byte) bool {
	if s.checked.leaf != leaf || !bytes.Equal(s.checked.ca, ca) {
		cert, err := x509.ParseCertificate(ca)
		s.checked = checked{leaf: leaf, ca: ca, is: err == nil && leaf.CheckSignatureFrom(cert) == nil}
	}
	return s.checked.is
}

// outdated reports whether the CA of nodes was replaced since the certificate was issued.
// Who trusts only a CA of an earlier release cannot be led from it to another one; such a
// certificate stays until shortly before the CA retires.
func (s *certificates) outdated(v *fsm.View) bool {
	c := s.own.Load()
	ca, ok := v.Secret(node.SecretNodeCA)
	if c == nil || !ok || s.byPresent(c.Leaf, ca.GetPublic()) {
		return false
	}
	before := ca.GetPrevious()
	if len(before) == 0 {
		return true
	}
	last := before[len(before)-1]
	cert, err := x509.ParseCertificate(last.GetCertificate())
	return err != nil || node.Followed(cert) || !s.clock.Now().Before(time.UnixMilli(last.GetRetireTimeMs()).Add(-heldUntil))
}

// lead presents, behind a certificate of the present CA, what leads those to it who trust
// only one before, as long as that is trusted.
func (s *certificates) lead(v *fsm.View) error {
	c := s.own.Load()
	if c == nil {
		return nil
	}
	chain := s.led(v, c.Certificate, c.Leaf)
	if slices.EqualFunc(chain, c.Certificate, bytes.Equal) {
		return nil
	}
	return s.adopt(cluster.Certificate{Chain: chain})
}

// led returns chain with what leads to its leaf; a certificate of another CA than the
// present one keeps what it came with.
func (s *certificates) led(v *fsm.View, chain [][]byte, leaf *x509.Certificate) [][]byte {
	ca, ok := v.Secret(node.SecretNodeCA)
	if !ok || !s.byPresent(leaf, ca.GetPublic()) {
		return chain
	}
	return append([][]byte{chain[0]}, node.CrossChain(v, s.clock.Now())...)
}

// due reports whether the certificate is missing, old enough to be renewed, or
// does not carry a name under which the member is reached now.
func (s *certificates) due(m *fsmpb.Member) bool {
	c := s.own.Load()
	if c == nil {
		return true
	}
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	if s.clock.Now().After(c.Leaf.NotBefore.Add(life * 2 / 3)) {
		return true
	}
	for _, addr := range []string{m.GetGrpcAddress(), m.GetRestAddress()} {
		if host, _, err := net.SplitHostPort(addr); err == nil && c.Leaf.VerifyHostname(host) != nil {
			return true
		}
	}
	return false
}

// config is the TLS configuration of the public ports. A caller without a
// certificate, or with a wrong one, gets through the handshake and is refused at
// its first call, in words and with a record, where TLS has only an alert.
func (s *certificates) config(protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequestClientCert,
		NextProtos:     protos,
		GetCertificate: s.serve,
	}
}

func (s *certificates) serve(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s.files != nil {
		return s.files.get()
	}
	if c := s.own.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("this node belongs to no cluster yet, so it has no certificate: krypton init or krypton join")
}

// run keeps the node's own certificate current, and what is kept of dirs. The node
// has one of its own also when the ports present another from files: it is the
// one that custodians check its start key with.
func (s *certificates) run(ctx context.Context, c *cluster.Cluster, m *fsm.Machine, dirs *directories, id string) error {
	next := s.clock.Now()
	kept, once := uint64(0), false
	for {
		every := renewEvery
		if !s.usable() {
			every = obtainEvery // no caller can connect meanwhile
		}
		v := m.View()
		if at := v.AuthorityAt(); v.Initialized() && (at != kept || !once) {
			if wrong := dirs.of(v).wrong; len(wrong) > 0 {
				s.log.ErrorContext(ctx, "some issuers of callers cannot be used", slog.Any("error", errors.Join(wrong...)))
			}
			if err := dirs.keep(v); err != nil {
				s.log.ErrorContext(ctx, "the callers that may unseal cannot be kept on disk", slog.Any("error", err))
			} else {
				kept, once = at, true
			}
		}
		self, ok := v.Member(id)
		outdated := s.outdated(v)
		if outdated {
			every = min(every, followEvery)
		}
		if now := s.clock.Now(); ok && !self.GetRemoved() && (s.due(self) || outdated) && !now.Before(next) {
			next = now.Add(every)
			s.renew(ctx, c, v)
		}
		if err := s.lead(v); err != nil {
			s.log.WarnContext(ctx, "the certificate chain of this node cannot be kept", slog.Any("error", err))
		}
		wait, cancel := context.WithTimeout(ctx, every)
		select {
		case <-v.Superseded():
		case <-wait.Done():
		}
		cancel()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // The end of ctx is how this ends.
		}
	}
}

func (s *certificates) renew(ctx context.Context, c *cluster.Cluster, v *fsm.View) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	cert, err := c.RequestCertificate(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "this node has no new certificate yet; it tries again", slog.Any("error", err))
		return
	}
	if len(cert.Chain) > 0 {
		if leaf, err := x509.ParseCertificate(cert.Chain[0]); err == nil {
			cert.Chain = s.led(v, cert.Chain, leaf)
		}
	}
	if err := s.adopt(cert); err != nil {
		s.log.WarnContext(ctx, "the new certificate of this node cannot be kept", slog.Any("error", err))
		return
	}
	s.log.InfoContext(ctx, "this node has a new certificate", slog.Time("not_after", s.own.Load().Leaf.NotAfter))
}

// fileCertificate is a certificate that somebody else keeps in files, read again
// when they change.
type fileCertificate struct {
	certPath, keyPath string

	mu   sync.Mutex
	seen [2]time.Time
	cert *tls.Certificate
}

func (f *fileCertificate) get() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var now [2]time.Time
	for i, path := range []string{f.certPath, f.keyPath} {
		st, err := os.Stat(path)
		switch {
		case err != nil && f.cert != nil:
			return f.cert, nil // between the removal of the old file and the new one
		case err != nil:
			return nil, unreadable([]string{"tls.cert", "tls.key"}[i], path, err)
		case path == f.keyPath && st.Mode().Perm()&0o077 != 0:
			return nil, errs.New(errs.InvalidConfig, fmt.Sprintf("tls.key %s has mode %#o, so others on this machine can read it", path, st.Mode().Perm()),
				errs.Hint("run: chmod 0600 %s", path))
		}
		now[i] = st.ModTime()
	}
	if f.cert != nil && now == f.seen {
		return f.cert, nil
	}
	cert, err := tls.LoadX509KeyPair(f.certPath, f.keyPath)
	if err != nil {
		if f.cert != nil {
			return f.cert, nil // half written: the old pair serves until the new one is whole
		}
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			key := "tls.cert"
			if pe.Path == f.keyPath {
				key = "tls.key"
			}
			return nil, unreadable(key, pe.Path, err)
		}
		return nil, errs.New(errs.InvalidConfig, "tls.cert "+f.certPath+" and tls.key "+f.keyPath+" cannot be used: "+strings.TrimPrefix(err.Error(), "tls: "),
			errs.Hint("give the chain, leaf first, and the key of that leaf, both in PEM; or use tls.mode builtin"), errs.Cause(err))
	}
	f.cert, f.seen = &cert, now
	return f.cert, nil
}

// unreadable is the error of a file of tls.mode files that cannot be read.
func unreadable(key, path string, err error) error {
	said := err.Error()
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		said = pe.Err.Error()
	}
	return errs.New(errs.InvalidConfig, fmt.Sprintf("%s %s cannot be read: %s", key, path, said),
		errs.Hint("tls.cert and tls.key name PEM files that the user that runs the node can read; or use tls.mode builtin"), errs.Cause(err))
}

func readPEM(path string) ([][]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "a certificate cannot be read: "+err.Error(), errs.Cause(err))
	}
	var chain [][]byte
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			return chain, nil
		}
		chain = append(chain, block.Bytes)
	}
}

// writeFile replaces a file as a whole, also when the machine stops meanwhile: a
// sealed node without its certificate cannot be unsealed by shares, since nobody
// would trust it with one.
func writeFile(path string, b []byte) error {
	if err := atomicfile.Write(path, b, 0o600); err != nil {
		return errs.New(errs.InvalidConfig, "a certificate cannot be kept: "+err.Error(), errs.Cause(err))
	}
	return nil
}
