// Package clienttest runs a small Krypton in memory, for tests of code that uses package client.
//
// [Start] brings up nodes on loopback with real mutual TLS and the real wire
// contract, over one registry in memory. Data keys are really wrapped and
// really fail to open for the wrong scope. What it has not is everything that
// makes Krypton Krypton: there is no Raft, no MasterKey, no protected memory and
// no policy beyond "people govern, workloads use keys". Nobody has to sign, and an
// approval is done, as it says, once another person approved.
//
// # Invariants
//
//   - I1: a mutation with a request id acts once, however often and on whichever node it arrives.
//   - I2: a wrapped key or ciphertext opens only for the service, resource and context it was made for, while its version may unwrap.
//   - I3: every answer, errors included, carries the headers and details that real nodes send.
//
// # Concurrency
//
// Safe for concurrent use; the registry is one mutex.
//
// # Failure
//
// [Cluster.Kill] ends a node as a crash does. [Cluster.Before] and
// [Cluster.After] put errors in the way of calls, After when the call has done
// its work.
//
// # Source
//
// api/krypton/v1; docs/errors.md.
package clienttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// Options says what [Start] brings up. The zero value is three nodes.
type Options struct {
	// Nodes is their number; 0 means 3.
	Nodes int
	// Seal makes the seal of each node. Nil: every node is unsealed.
	Seal func(node int, id Identity) kryptonv1.SealServer
	// Certificate changes a certificate before it is signed, a node's or a
	// caller's, which its usages tell apart; to have one that expired, say. Nil: it
	// lives from an hour ago until tomorrow.
	Certificate func(*x509.Certificate)
	// Rules is what the nodes say about who has to sign. They do not ask for it.
	Rules []*kryptonv1.IntentRule
}

// Identity is what a node presents to its callers.
type Identity struct {
	ID          string // as in nodes/{id}
	Certificate tls.Certificate
}

// Cluster is a running fake cluster.
type Cluster struct {
	dir   string
	ca    *authority
	reg   *registry
	rules []*kryptonv1.IntentRule
	nodes []*node

	before, after atomic.Pointer[Hook]
}

// Hook looks at a call of a node and may answer it with an error. An error made
// by package errs is sent as a node sends it; a gRPC status is sent as it is.
type Hook func(ctx context.Context, node int, method string, req proto.Message) error

type node struct {
	c    *Cluster
	i    int
	id   Identity
	addr string
	seal kryptonv1.SealServer
	ail  atomic.Pointer[func(*kryptonv1.NodeHealth)]

	mu      sync.Mutex
	srv     *grpc.Server // nil while killed
	release func()       // of the port, while killed
}

// Start brings up a cluster that ends with the test.
func Start(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	c, err := StartIn(tb.TempDir(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Stop)
	return c
}

// StartIn brings up a cluster that keeps its certificates in dir, for tests that
// have no [testing.TB] at hand. Stop it.
func StartIn(dir string, opts Options) (*Cluster, error) {
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	ca, err := newAuthority(filepath.Join(dir, "ca.pem"), opts.Certificate)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, ca: ca, reg: newRegistry(), rules: opts.Rules}
	for i := range opts.Nodes {
		n := &node{c: c, i: i, id: Identity{ID: fmt.Sprintf("n%d", i+1)}}
		n.id.Certificate, err = ca.node(n.id.ID)
		if err != nil {
			return nil, err
		}
		n.seal = unsealed{id: n.id.ID}
		if opts.Seal != nil {
			n.seal = opts.Seal(i, n.id)
		}
		c.nodes = append(c.nodes, n)
		if err := n.start("127.0.0.1:0"); err != nil {
			c.Stop()
			return nil, err
		}
	}
	return c, nil
}

// Stop ends all nodes.
func (c *Cluster) Stop() {
	for i, n := range c.nodes {
		c.Kill(i)
		n.letGo()
	}
}

// Addrs returns the addresses of all nodes. They stay the same over Kill and Restart.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, 0, len(c.nodes))
	for _, n := range c.nodes {
		addrs = append(addrs, n.addr)
	}
	return addrs
}

// Before sets what happens to a call before it acts. Nil: nothing.
func (c *Cluster) Before(h Hook) { c.before.Store(&h) }

// After sets what happens to a call after it acted and before it is answered.
func (c *Cluster) After(h Hook) { c.after.Store(&h) }

// Kill ends a node at once: its calls fail and its port refuses connections.
func (c *Cluster) Kill(i int) {
	n := c.nodes[i]
	n.mu.Lock()
	srv := n.srv
	n.srv = nil
	n.mu.Unlock()
	if srv == nil {
		return
	}
	srv.Stop()
	n.mu.Lock()
	n.release = keepPort(n.addr)
	n.mu.Unlock()
}

// Restart starts a killed node at its old address.
func (c *Cluster) Restart(i int) error {
	c.nodes[i].letGo()
	return c.nodes[i].start(c.nodes[i].addr)
}

// letGo gives the port of a killed node back.
func (n *node) letGo() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.release != nil {
		n.release()
		n.release = nil
	}
}

// CAFile is what nodes are verified with.
func (c *Cluster) CAFile() string { return c.ca.file }

// Person writes a certificate for a person of a role (governor, custodian,
// operator, auditor) and returns the files. The person has the role binding
// roleBindings/{name} with that key.
func (c *Cluster) Person(role, name string) (certFile, keyFile string, err error) {
	certFile, keyFile, err = c.ca.caller(c.dir, role+"/"+name)
	if err != nil {
		return "", "", err
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return "", "", err
	}
	c.reg.bind(role, name, pair.Leaf.RawSubjectPublicKeyInfo)
	return certFile, keyFile, nil
}

// Workload writes a certificate for a workload of a tenant.
func (c *Cluster) Workload(tenant, name string) (certFile, keyFile string, err error) {
	return c.ca.caller(c.dir, "workload/"+tenant+"/"+name)
}

// Client returns a client as a workload of the tenant, or as a governor when
// tenant is empty. It ends with the test.
func (c *Cluster) Client(tb testing.TB, tenant string) *client.Client {
	tb.Helper()
	var opts client.Options
	var err error
	if tenant == "" {
		opts.CertFile, opts.KeyFile, err = c.Person("governor", "gabi")
	} else {
		opts.CertFile, opts.KeyFile, err = c.Workload(tenant, "app")
	}
	if err != nil {
		tb.Fatal(err)
	}
	opts.Addrs, opts.CAFile = c.Addrs(), c.CAFile()
	cl, err := client.New(tb.Context(), client.With(opts))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = cl.Close() })
	return cl
}

// AddService makes tenants/{t} and tenants/{t}/services/{s} as needed.
func (c *Cluster) AddService(tenant, service string) error { return c.reg.addService(tenant, service) }

func (n *node) start(addr string) error {
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	n.addr = lis.Addr().String()
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{n.id.Certificate},
			ClientAuth:   tls.RequireAndVerifyClientCert,
			ClientCAs:    n.c.ca.pool(),
		})),
		grpc.UnaryInterceptor(n.intercept),
		grpc.MaxRecvMsgSize(client.MaxRequestBytes),
	)
	kryptonv1.RegisterCryptoServer(srv, cryptoServer{reg: n.c.reg})
	kryptonv1.RegisterTenantsServer(srv, tenantsServer{reg: n.c.reg})
	kryptonv1.RegisterServicesServer(srv, servicesServer{reg: n.c.reg})
	kryptonv1.RegisterClusterServer(srv, clusterServer{n: n})
	kryptonv1.RegisterAccessServer(srv, accessServer{n: n})
	kryptonv1.RegisterApprovalsServer(srv, approvalsServer{reg: n.c.reg})
	kryptonv1.RegisterSealServer(srv, n.seal)
	n.mu.Lock()
	n.srv = srv
	n.mu.Unlock()
	go func() { _ = srv.Serve(lis) }() // ends with Kill
	return nil
}

func (n *node) alive() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.srv != nil
}

// intercept is what a real node's gate and forwarding do: identity, headers,
// hooks, request ids and errors.
func (n *node) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	msg, ok := req.(proto.Message)
	if !ok {
		return nil, wire.ToStatus(errs.New(errs.Internal, "internal error")).Err()
	}
	id, _ := corr.FromTraceparent(first(metadata.ValueFromIncomingContext(ctx, "traceparent")))
	who, expire := callerOf(ctx)
	ctx = context.WithValue(ctx, callerKey{}, caller{name: who, expire: expire})
	hook := func(p *atomic.Pointer[Hook]) error {
		if f := p.Load(); f != nil && *f != nil {
			return (*f)(ctx, n.i, info.FullMethod, msg)
		}
		return nil
	}
	err := hook(&n.c.before)
	var resp any
	if err == nil {
		resp, err = n.c.reg.once(who, info.FullMethod, msg, func() (any, error) { return h(ctx, req) })
	}
	if err == nil {
		err = hook(&n.c.after)
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs(answer.Header, answer.Format(answer.Info{Correlation: string(id), Node: n.id.ID, Index: n.c.reg.indexNow()})))
	if err != nil {
		if s, ok := err.(interface{ GRPCStatus() *grpcStatus }); ok {
			return nil, s.GRPCStatus().Err()
		}
		return nil, wire.ToStatus(err).Err()
	}
	return resp, nil
}

type callerKey struct{}

type caller struct {
	name   string
	expire time.Time
}

func callerOf(ctx context.Context) (name string, expire time.Time) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", time.Time{}
	}
	t, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(t.State.PeerCertificates) == 0 {
		return "", time.Time{}
	}
	cert := t.State.PeerCertificates[0]
	return cert.Subject.CommonName, cert.NotAfter
}

func first(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}
