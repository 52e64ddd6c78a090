package wire

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
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// Options say how [Serve] serves. The zero value is TLS for 127.0.0.1 and localhost.
type Options struct {
	// Names are more names for the certificate.
	Names []string
	// ClientCAs, if set, is what the certificates of clients are verified with;
	// one that has none is let in, as the services behind ask for it by themselves.
	ClientCAs *x509.CertPool
	// Plain serves HTTP without TLS, as metadata services do.
	Plain bool
}

// Server is a running server on loopback.
type Server struct {
	URL  string // https://127.0.0.1:PORT, or http
	Addr string // 127.0.0.1:PORT
	// CA is the certificate to trust, in PEM; empty without TLS.
	CA []byte

	srv  *http.Server
	done chan error
	once sync.Once
	err  error
}

// Serve answers with h on a port of loopback that the kernel chooses, with a
// certificate of a CA that was made for it and lives for a day.
func Serve(h http.Handler, opts Options) (*Server, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	s := &Server{Addr: ln.Addr().String(), done: make(chan error, 1)}
	s.URL = "http://" + s.Addr
	s.srv = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	if opts.Plain {
		go func() { s.done <- s.srv.Serve(ln) }()
		return s, nil
	}
	pair, ca, err := certificate(opts.Names)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	s.URL, s.CA = "https://"+s.Addr, ca
	s.srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if opts.ClientCAs != nil {
		s.srv.TLSConfig.ClientCAs, s.srv.TLSConfig.ClientAuth = opts.ClientCAs, tls.VerifyClientCertIfGiven
	}
	go func() { s.done <- s.srv.ServeTLS(ln, "", "") }()
	return s, nil
}

// Pool returns what to verify the server with.
func (s *Server) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA)
	return pool
}

// Close ends every connection and waits for the server. It is idempotent.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.err = s.srv.Close()
		if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
			s.err = errors.Join(s.err, err)
		}
	})
	return s.err
}

// certificate makes a CA and a certificate of it for loopback and names.
func certificate(names []string) (pair tls.Certificate, ca []byte, err error) {
	now := clock.System{}.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "wire CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, caKey.Public(), caKey)
	if err != nil {
		return pair, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"localhost"}, names...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), caKey)
	if err != nil {
		return pair, nil, err
	}
	pair = tls.Certificate{Certificate: [][]byte{leafDER, der}, PrivateKey: key}
	return pair, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
