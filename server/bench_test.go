package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
)

// echo is a gRPC service of the same form that does nothing: what the network,
// TLS and gRPC cost.
type echo struct {
	kryptonv1.UnimplementedCryptoServer
}

func (echo) Encrypt(_ context.Context, r *kryptonv1.EncryptRequest) (*kryptonv1.EncryptResponse, error) {
	return &kryptonv1.EncryptResponse{Ciphertext: r.GetPlaintext(), KeyVersion: r.GetService() + "/versions/1"}, nil
}

// startEcho serves echo with the node's certificate, asking callers for theirs.
func startEcho(b *testing.B, w *world) *grpc.ClientConn {
	b.Helper()
	cert, err := tls.LoadX509KeyPair(w.members[0].dir.Path("tls/api.pem"), w.members[0].dir.Path("tls/node.key"))
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{cert}})))
	kryptonv1.RegisterCryptoServer(srv, echo{})
	ln, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	cc, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(w.tlsConfig(w.certOf("workload/acme")...))))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cc.Close()
		srv.Stop()
		<-done
	})
	return cc
}

// BenchmarkEncrypt256 is one unary Encrypt of 256 bytes over mTLS on loopback,
// with authorisation, record and key, beside an echo with the same messages and
// certificates. The metric "x-echo" is what the node costs beyond the wire.
func BenchmarkEncrypt256(b *testing.B) {
	w := served(b)
	req := &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: make([]byte, 256)}
	var base time.Duration
	for _, c := range []struct {
		name string
		cc   *grpc.ClientConn
	}{{"echo", startEcho(b, w)}, {"krypton", w.grpc(0, "workload/acme")}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			client := kryptonv1.NewCryptoClient(c.cc)
			for b.Loop() {
				if _, err := client.Encrypt(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
			per := b.Elapsed() / time.Duration(b.N)
			if c.name == "echo" {
				base = per
			} else {
				b.ReportMetric(float64(per)/float64(base), "x-echo")
			}
		})
	}
}

// BenchmarkIdentify is what it costs to know the caller of one call.
func BenchmarkIdentify(b *testing.B) {
	w := served(b)
	leaf, err := x509.ParseCertificate(w.people["workload/acme"].Certificate[0])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !w.members[0].srv.Knows(leaf) {
			b.Fatal("a caller is not known")
		}
	}
}

// BenchmarkIdentifyForwarded is what it costs a leader to know the caller of a change
// that another node took: the first time, and later.
func BenchmarkIdentifyForwarded(b *testing.B) {
	w := served(b)
	srv, shown := w.members[0].srv, auth.CertificateShown(w.people["workload/acme"].Certificate[0])
	for _, c := range []struct {
		name  string
		first bool
	}{{"first", true}, {"later", false}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c.first {
					srv.Forget()
				}
				if _, err := srv.Identify(b.Context(), shown); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
