package awsserver

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// The account and region of a server whose options name none.
const (
	DefaultRegion  = "eu-central-1"
	DefaultAccount = "111122223333"
)

// Options say what to start. The zero value is a server with defaults.
type Options struct {
	Region  string      // of keys and signatures; empty: DefaultRegion
	Account string      // that has the keys; empty: DefaultAccount
	Clock   clock.Clock // by which credentials expire and signatures are dated; nil: the system's
	// SessionTTL is how long credentials of STS and IMDS live; 0: an hour. AWS
	// has 15 minutes at least; here it may be shorter.
	SessionTTL time.Duration
	// Program is the path of the built localkms; empty: that of [Program].
	Program string
}

// Server is a running AWS. Start one with [Start].
type Server struct {
	region, account string
	clock           clock.Clock
	ttl             time.Duration
	dir             string
	child           *child
	kms, sts, imds  *Service
	wrapping        func() (*rsa.PrivateKey, error)

	mu       sync.Mutex
	skew     time.Duration       // of the server's clock against the one in the options
	sessions map[string]*session // by access key id
	issued   int                 // sessions so far
	roles    map[string]*Role    // by ARN
	instance string              // ARN of the role that IMDS gives out; empty: none
	issuer   *issuer
	policies map[string]*policy // of keys, by ARN
	overlays map[string]Overlay // by key ARN
	imports  map[string]*importing
	metadata imdsState
	trail    []Record
	faults   map[string]*fault // by action; "" is every action of KMS
}

// Service is one of the server's endpoints, with the faults that can lie
// between it and a client.
type Service struct {
	URL   string      // without a path
	HTTP  *wire.HTTP  // faults that are answers, or the lack of one
	Proxy *wire.Proxy // faults of connections; URL leads through it

	server *wire.Server
}

// KMS is the key service, https.
func (s *Server) KMS() *Service { return s.kms }

// STS is the token service, https.
func (s *Server) STS() *Service { return s.sts }

// IMDS is the instance metadata service, http.
func (s *Server) IMDS() *Service { return s.imds }

// Start starts the child and the three services. ctx bounds the start, which
// builds the child on first use.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Region == "" {
		o.Region = DefaultRegion
	}
	if o.Account == "" {
		o.Account = DefaultAccount
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = time.Hour
	}
	dir, err := os.MkdirTemp("", "krypton-aws-")
	if err != nil {
		return nil, err
	}
	s := &Server{
		region: o.Region, account: o.Account, clock: o.Clock, ttl: o.SessionTTL, dir: dir, wrapping: sync.OnceValues(newWrapping),
		sessions: make(map[string]*session), roles: make(map[string]*Role),
		policies: make(map[string]*policy), overlays: make(map[string]Overlay), imports: make(map[string]*importing),
		metadata: imdsState{tokens: make(map[string]time.Time)}, faults: make(map[string]*fault),
	}
	if err := s.start(ctx, o.Program); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, program string) (err error) {
	if program == "" {
		if program, err = Program(ctx); err != nil {
			return err
		}
	}
	if s.child, err = startChild(ctx, program, s.dir, s.region, s.account); err != nil {
		return err
	}
	if s.issuer, err = newIssuer(); err != nil {
		return err
	}
	if s.kms, err = serve(s.serveKMS, wire.Options{}); err != nil { //nolint:contextcheck // It outlives the start.
		return err
	}
	if s.sts, err = serve(s.serveSTS, wire.Options{}); err != nil { //nolint:contextcheck // It outlives the start.
		return err
	}
	if s.imds, err = serve(s.serveIMDS, wire.Options{Plain: true}); err != nil { //nolint:contextcheck // It outlives the start.
		return err
	}
	return os.WriteFile(s.CAFile(), append(s.kms.server.CA, s.sts.server.CA...), 0o600)
}

// serve starts one service on loopback (I4).
func serve(handle http.HandlerFunc, o wire.Options) (*Service, error) {
	v := &Service{HTTP: wire.NewHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		handle(w, r)
	}))}
	var err error
	if v.server, err = wire.Serve(v.HTTP, o); err != nil {
		return nil, err
	}
	if v.Proxy, err = wire.NewProxy(v.server.Addr); err != nil {
		return nil, errors.Join(err, v.server.Close())
	}
	u, err := url.Parse(v.server.URL)
	if err != nil {
		return nil, errors.Join(err, v.close())
	}
	v.URL = u.Scheme + "://" + v.Proxy.Addr()
	return v, nil
}

func (v *Service) close() error { return errors.Join(v.Proxy.Close(), v.server.Close()) }

// Close ends everything that Start started and removes its files. It is idempotent.
func (s *Server) Close() error {
	var all []error
	for _, v := range []*Service{s.kms, s.sts, s.imds} {
		if v != nil {
			all = append(all, v.close())
		}
	}
	if s.child != nil {
		all = append(all, s.child.close())
	}
	return errors.Join(append(all, os.RemoveAll(s.dir))...)
}

// CAFile is a file with the certificate to trust, PEM.
func (s *Server) CAFile() string { return filepath.Join(s.dir, "ca.pem") }

// Region is the region of the keys.
func (s *Server) Region() string { return s.region }

// Skew makes the server's clock run d ahead of the one in its options; d may be
// negative.
func (s *Server) Skew(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}

// now is the server's time.
func (s *Server) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock.Now().Add(s.skew)
}

// random returns n random bytes in hex.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, it ends the process
	return hex.EncodeToString(b)
}

// requestID makes an id in the form of AWS's.
func requestID() string {
	h := random(16)
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:])
}
