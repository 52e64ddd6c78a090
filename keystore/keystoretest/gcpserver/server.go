package gcpserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// The place in which [Server.CreateKey] makes keys.
const (
	Project  = "krypton-test"
	Location = "europe-west3"
	KeyRing  = "projects/" + Project + "/locations/" + Location + "/keyRings/ring"
)

// Options configure a [Server]. The zero value is ready to use.
type Options struct {
	Clock         clock.Clock   // tells when tokens, jobs and schedules end; nil is the system's
	TokenLifetime time.Duration // of access tokens; 0 is Google's hour
}

// Server is a running stand-in. Make one with [Start].
type Server struct {
	kmspb.UnimplementedKeyManagementServiceServer

	clock    clock.Clock
	lifetime time.Duration
	ca       []byte // PEM

	grpc      *grpc.Server
	kmsAddr   string
	tokenAddr string // HTTPS: security token service, IAM credentials, token endpoint
	metaAddr  string // HTTP, as the real one
	web       []*http.Server
	served    sync.WaitGroup
	closed    sync.Once
	skew      atomic.Int64 // in nanoseconds

	mu       sync.Mutex
	rings    map[string]bool
	keys     map[string]*cryptoKey // by resource name
	jobs     map[string]*importJob
	iam      policy
	accounts accounts
	records  []Record
	faults   faults
}

// Start starts all services on free ports of 127.0.0.1. ctx bounds the start
// only; end the server with [Server.Close].
func Start(ctx context.Context, opts Options) (*Server, error) {
	s := &Server{
		clock: opts.Clock, lifetime: opts.TokenLifetime,
		rings: map[string]bool{KeyRing: true}, keys: map[string]*cryptoKey{}, jobs: map[string]*importJob{},
		iam: newPolicy(), accounts: newAccounts(),
	}
	if s.clock == nil {
		s.clock = clock.System{}
	}
	if s.lifetime == 0 {
		s.lifetime = time.Hour
	}
	cert, err := s.certificate()
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}

	var lc net.ListenConfig
	var open []net.Listener
	listen := func() net.Listener {
		if err != nil {
			return nil
		}
		var l net.Listener
		if l, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err == nil {
			open = append(open, l)
		}
		return l
	}
	kms, token, meta := listen(), listen(), listen()
	if err != nil {
		for _, l := range open {
			err = errors.Join(err, l.Close())
		}
		return nil, err
	}
	s.kmsAddr, s.tokenAddr, s.metaAddr = kms.Addr().String(), token.Addr().String(), meta.Addr().String()

	s.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(conf)), grpc.UnaryInterceptor(s.intercept))
	kmspb.RegisterKeyManagementServiceServer(s.grpc, s)
	s.served.Go(func() { _ = s.grpc.Serve(kms) })
	s.serve(tls.NewListener(token, conf), s.tokenServices())
	s.serve(meta, http.HandlerFunc(s.metadata))
	return s, nil
}

func (s *Server) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	s.web = append(s.web, srv)
	s.served.Go(func() { _ = srv.Serve(l) })
}

// Skew makes the clock of all services run d ahead of Options.Clock; d may be negative.
func (s *Server) Skew(d time.Duration) { s.skew.Store(int64(d)) }

func (s *Server) now() time.Time { return s.clock.Now().Add(time.Duration(s.skew.Load())) }

// Close ends all services and their connections. It is idempotent.
func (s *Server) Close() error {
	var err error
	s.closed.Do(func() {
		s.grpc.Stop()
		for _, w := range s.web {
			err = errors.Join(err, w.Close())
		}
		s.served.Wait()
	})
	return err
}

// Endpoint is where the key service listens: host and port.
func (s *Server) Endpoint() string { return s.kmsAddr }

// STSEndpoint is the URL of the security token service.
func (s *Server) STSEndpoint() string { return "https://" + s.tokenAddr + "/v1/token" }

// IAMEndpoint is the URL of the IAM credentials service.
func (s *Server) IAMEndpoint() string { return "https://" + s.tokenAddr }

// TokenEndpoint is the URL where a service account's key is used.
func (s *Server) TokenEndpoint() string { return "https://" + s.tokenAddr + "/token" }

// MetadataHost is where the metadata server listens: host and port.
func (s *Server) MetadataHost() string { return s.metaAddr }

// CA is the certificate that the services' certificates are from, as PEM.
func (s *Server) CA() []byte { return s.ca }

// WriteCA writes [Server.CA] into dir and returns the path.
func (s *Server) WriteCA(dir string) (string, error) {
	path := filepath.Join(dir, "gcp-ca.pem")
	return path, os.WriteFile(path, s.ca, 0o600)
}

// certificate makes a self-signed certificate for 127.0.0.1.
func (s *Server) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := s.now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in for Google Cloud KMS"},
		// Valid for tests whose clock runs ahead or behind.
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
