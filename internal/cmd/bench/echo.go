//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/server"
)

// echo answers the data operations with bytes of the right length: what the
// network, TLS, gRPC and the messages cost, and nothing else.
type echo struct {
	kryptonv1.UnimplementedCryptoServer
}

const echoVersion = service + "/versions/1"

// Encrypt implements kryptonv1.CryptoServer.
func (echo) Encrypt(_ context.Context, r *kryptonv1.EncryptRequest) (*kryptonv1.EncryptResponse, error) {
	return &kryptonv1.EncryptResponse{Ciphertext: make([]byte, len(r.GetPlaintext())+envelope.Overhead), KeyVersion: echoVersion}, nil
}

// Decrypt implements kryptonv1.CryptoServer.
func (echo) Decrypt(_ context.Context, r *kryptonv1.DecryptRequest) (*kryptonv1.DecryptResponse, error) {
	n := len(r.GetCiphertext()) - envelope.Overhead
	if n < 0 {
		return nil, errors.New("shorter than any ciphertext")
	}
	return &kryptonv1.DecryptResponse{Plaintext: make([]byte, n), KeyVersion: echoVersion}, nil
}

// GenerateDataKey implements kryptonv1.CryptoServer.
func (echo) GenerateDataKey(context.Context, *kryptonv1.GenerateDataKeyRequest) (*kryptonv1.GenerateDataKeyResponse, error) {
	return &kryptonv1.GenerateDataKeyResponse{Plaintext: make([]byte, keySize), Wrapped: make([]byte, keySize+envelope.Overhead), KeyVersion: echoVersion}, nil
}

// UnwrapDataKey implements kryptonv1.CryptoServer.
func (echo) UnwrapDataKey(context.Context, *kryptonv1.UnwrapDataKeyRequest) (*kryptonv1.UnwrapDataKeyResponse, error) {
	return &kryptonv1.UnwrapDataKeyResponse{Plaintext: make([]byte, keySize), KeyVersion: echoVersion}, nil
}

// keySize is the length of the data keys that are measured.
const keySize = 32

// serveEcho is the echo process: it prints its addresses and ends with stdin.
func serveEcho(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	if len(os.Args) != 4 {
		return errors.New("usage: bench echo CERTIFICATE KEY")
	}
	cert, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	if err != nil {
		return err
	}
	cfg := func(protos ...string) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{cert}, NextProtos: protos}
	}
	var ln [3]net.Listener
	for i := range ln {
		var lc net.ListenConfig
		if ln[i], err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	srv := grpc.NewServer(append(server.Transport(), grpc.Creds(credentials.NewTLS(cfg("h2"))))...)
	kryptonv1.RegisterCryptoServer(srv, echo{})
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ops := &http.Server{Handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), ReadHeaderTimeout: limit}
	rest := &http.Server{Handler: http.HandlerFunc(echoJSON), ReadHeaderTimeout: limit}

	var g errgroup.Group
	g.Go(func() error { return srv.Serve(ln[0]) })
	g.Go(func() error { return ended(rest.Serve(tls.NewListener(ln[1], cfg("h2", "http/1.1")))) })
	g.Go(func() error { return ended(ops.Serve(ln[2])) })
	err = json.NewEncoder(stdout).Encode(echoAddrs{GRPC: ln[0].Addr().String(), REST: ln[1].Addr().String(), Ops: ln[2].Addr().String()})
	if err == nil {
		_, err = io.Copy(io.Discard, stdin)
	}
	srv.Stop()
	return errors.Join(err, rest.Close(), ops.Close(), g.Wait())
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// jsonRequest and jsonAnswer are the bodies of an encryption over HTTP.
type jsonRequest struct {
	Zeros []byte `json:"plaintext"`
}

type jsonAnswer struct {
	Ciphertext []byte `json:"ciphertext"`
	KeyVersion string `json:"keyVersion"`
}

// echoJSON is the echo over HTTP/JSON, with encoding/json.
func echoJSON(w http.ResponseWriter, r *http.Request) {
	var in jsonRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(jsonAnswer{Ciphertext: make([]byte, len(in.Zeros)+envelope.Overhead), KeyVersion: echoVersion}); err != nil {
		fmt.Fprintln(os.Stderr, "bench echo:", err)
	}
}
