//go:build linux && (amd64 || arm64)

package crash_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/internal/ports"
	"github.com/openkcm/krypton-cluster/jepsen/crash/steps"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/seal"
)

// patience bounds every wait: an election takes a second, a machine that also
// compiles takes longer.
const patience = 40 * time.Second

// stopLimit is how long a node may take to stop after SIGTERM: 5 s for running
// calls, 2 s to hand over leadership, 10 s for what hangs.
const stopLimit = 20 * time.Second

const (
	tenant  = "tenants/demo"
	service = tenant + "/services/pay"
	canary  = "canary-plaintext-4f9c2d71"
)

// world is one cluster of one or two nodes in a directory of its own.
type world struct {
	testing.TB

	dir   string
	nodes map[string]*node

	// What the people of the cluster hold.
	shares     [][]byte // text form
	ciphertext []byte   // of canary
	fprint     string
	token      string // of the operator, for n2
	removing   string // id of n2
}

// node is one data directory and, most of the time, a process.
type node struct {
	w    *world
	name string
	proc *steps.Process
	addr cluster.Addresses
	// revived: it died and runs again although the operation has not ended.
	revived bool
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "kc-") //nolint:usetesting // The path of the socket has room for 103 bytes.
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, dir: dir, nodes: map[string]*node{}}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	for _, n := range w.nodes {
		if n.proc != nil {
			if err := n.proc.Close(); err != nil {
				w.Error(err)
			}
			if _, err := n.proc.Wait(); err != nil {
				w.Errorf("the tracer of %s: %v", n.name, err)
			}
		}
	}
	if w.Failed() || *showLogs {
		for _, n := range w.nodes {
			if raw, err := os.ReadFile(n.log()); err == nil {
				w.Logf("log of %s:\n%s", n.name, raw[max(0, len(raw)-6000):])
			}
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.Error(err)
	}
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// node returns the node of that name, with its configuration written.
func (w *world) node(name string) *node {
	if n, ok := w.nodes[name]; ok {
		return n
	}
	n := &node{w: w, name: name}
	w.nodes[name] = n
	// A node that dies has to find its own peer port again, by which the others know it.
	peer, err := ports.Loopback()
	w.must(err)
	conf := fmt.Sprintf(`node: {name: %s, data_dir: %s}
listen: {grpc: "127.0.0.1:0", rest: "off", peer: "%s", ops: "127.0.0.1:0"}
memory: {lock_mib: 4}
audit: {segment_mib: 1, reserve_mib: 1}
`, name, n.data(), peer)
	if _, err := os.Stat(w.path("keystore")); err == nil {
		conf += fmt.Sprintf("keystores: [{name: local, type: local, dir: %s}]\n", w.path("keystore"))
	}
	w.must(os.WriteFile(w.path(name+".yaml"), []byte(conf), 0o600))
	w.must(os.MkdirAll(n.data(), 0o700))
	return n
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (n *node) data() string { return n.w.path(n.name) }
func (n *node) log() string  { return n.w.path(n.name + ".log") }

// plan says what happens to a process, and when.
type plan struct {
	fate  steps.Fate // 0: nothing
	at    int
	boot  bool // count from the first instruction
	plain bool // sockets do not count
}

// start starts the node's process.
func (n *node) start(p plan) {
	n.w.Helper()
	if n.proc != nil {
		n.w.must(n.proc.Close())
	}
	log, err := os.OpenFile(n.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	n.w.must(err)
	defer log.Close()
	o := steps.Options{
		Path: binary, Args: []string{"server", "--config", n.w.path(n.name + ".yaml")}, Env: environment(), Dir: n.data(),
		Answers: !p.plain, Shadow: p.fate == steps.PowerCut, Stdout: log, Stderr: log,
	}
	if p.boot {
		o.First, o.At = p.fate, p.at
		if p.fate == 0 {
			o.First = steps.Kill // at step 0: never
		}
	}
	n.proc, err = steps.Start(o)
	n.w.must(err)
}

func environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "KRYPTON_") {
			env = append(env, kv)
		}
	}
	return env
}

var errDied = errors.New("the process ended")

// until calls try until it succeeds; it gives up when the node's process ends.
func (n *node) until(what string, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(n.w.Context(), patience)
	defer cancel()
	// Every question is a connection, and what is waited for may be an election: who
	// asks ever more slowly takes less of the processors that the nodes need for it.
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 80*time.Millisecond) {
		probe, end := context.WithTimeout(ctx, 2*time.Second)
		err := try(probe)
		end()
		if err == nil {
			return nil
		}
		select {
		case <-n.proc.Done():
			_, err := n.proc.Wait()
			return errors.Join(errDied, err)
		case <-ctx.Done():
			return fmt.Errorf("waited until %s, in vain: %w", what, err)
		case <-time.After(pause):
		}
	}
}

// answers waits until the administration socket answers.
func (n *node) answers() error {
	return n.until(n.name+" answers", func(ctx context.Context) error {
		if _, err := n.status(ctx); err != nil {
			return err
		}
		var err error
		n.addr, err = cluster.ReadAddresses(n.data()) // written before the socket is there
		return err
	})
}

func (n *node) admin(call func(kryptonv1.AdminClient) error) error {
	conn, err := grpc.NewClient("unix:"+filepath.Join(n.data(), "run", "admin.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := call(kryptonv1.NewAdminClient(conn)); err != nil {
		return wire.FromStatus(err)
	}
	return nil
}

func (n *node) status(ctx context.Context) (st *kryptonv1.GetStatusResponse, err error) {
	err = n.admin(func(a kryptonv1.AdminClient) error {
		st, err = a.GetStatus(ctx, &kryptonv1.GetStatusRequest{})
		return err
	})
	return st, err
}

// state returns what the node says about itself; the test fails if it cannot.
func (n *node) state() *kryptonv1.SealStatus {
	n.w.Helper()
	st, err := n.status(n.w.Context())
	n.w.must(err)
	return st.GetSeal()
}

// run starts the node without harm and waits until it answers.
func (n *node) run() {
	n.w.Helper()
	n.start(plan{})
	n.w.must(n.answers())
}

// client returns a client of this node in a role.
func (n *node) client(ctx context.Context, role string) (*client.Client, error) {
	signer, err := n.w.signer()
	if err != nil {
		return nil, err
	}
	return client.New(ctx, client.With(client.Options{
		Addrs: []string{n.addr.GRPC}, CAFile: n.w.path("people", "ca.pem"), CertFile: n.w.path("people", role+".pem"), KeyFile: n.w.path("people", role+".key"),
		Timeout: patience, Signer: signer,
	}))
}

// signer signs what the cluster asks people to sign, whoever makes the request.
func (w *world) signer() (s orders.Signer, err error) {
	for role, keys := range map[string]*[]sign.Signer{"governor": &s.Governors, "custodian": &s.Custodians} {
		key, err := sign.OpenKey(w.path("people", role+".key"), rand.Reader, nil)
		if err != nil {
			return s, err
		}
		*keys = append(*keys, key)
	}
	return s, nil
}

// as calls the node in a role. The call ends when the node's process does.
func (n *node) as(ctx context.Context, role string, call func(context.Context, *client.Client) error) error {
	c, err := n.client(ctx, role)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := n.proc.Done()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	return call(ctx, c)
}

// serves waits until the node decrypts what was encrypted before everything.
func (n *node) serves() error {
	return n.until(n.name+" serves", func(ctx context.Context) error { return n.opens(ctx) })
}

// ready waits until the node has contact with a leader: its view has everything
// that was acknowledged.
func (n *node) ready() error {
	return n.until(n.name+" is ready", func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.addr.Ops+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s says %s", n.name, resp.Status)
		}
		return nil
	})
}

func (n *node) opens(ctx context.Context) error {
	return n.as(ctx, "workload", func(ctx context.Context, c *client.Client) error {
		r, err := c.Crypto().Decrypt(ctx, &kryptonv1.DecryptRequest{Service: service, Ciphertext: n.w.ciphertext})
		if err == nil && string(r.GetPlaintext()) != canary {
			n.w.Errorf("the old ciphertext opens as %q", r.GetPlaintext())
		}
		return err
	})
}

// person makes a key and returns its public half.
func (w *world) person(role string) []byte {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	w.must(err)
	w.must(os.MkdirAll(w.path("people"), 0o700))
	w.must(os.WriteFile(w.path("people", role+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	w.must(err)
	w.must(os.WriteFile(w.path("people", role+".pub.pem"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), 0o600))
	return pub
}

// keystore makes the local keystore; before the first node.
func (w *world) keystore() {
	w.Helper()
	env := keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
	ks, err := local.Create(w.Context(), env, "local", w.path("keystore"))
	w.must(err)
	w.must(errors.Join(ks.CreateKey(w.Context(), "masterkey"), ks.CreateKey(w.Context(), "demo-l1"), ks.Close()))
}

// mode says who opens the MasterKey.
type mode int

const (
	auto mode = iota + 1
	shares
)

// initRequest makes new people and asks for a cluster.
func (w *world) initRequest(m mode) *kryptonv1.InitRequest {
	r := &kryptonv1.InitRequest{
		ClusterName: "crash", Voters: 1,
		Governors:  []*kryptonv1.PersonKey{{Name: "gabi", PublicKey: w.person("governor")}},
		Custodians: []*kryptonv1.PersonKey{{Name: "carl", PublicKey: w.person("custodian")}},

		GovernorQuorum: 1, CustodianQuorum: 1,
	}
	if m == auto {
		r.SealMode, r.Keystore, r.Key = kryptonv1.SealMode_SEAL_MODE_AUTO, "local", "masterkey"
	} else {
		r.SealMode, r.Shares, r.Threshold = kryptonv1.SealMode_SEAL_MODE_SHAMIR, 3, 2
	}
	return r
}

// found sends a request for a cluster and keeps what it answers.
func (n *node) found(ctx context.Context, r *kryptonv1.InitRequest) error {
	return n.admin(func(a kryptonv1.AdminClient) error {
		resp, err := a.Init(ctx, r)
		if err != nil {
			return err
		}
		n.w.received(resp)
		return nil
	})
}

// received is what a person does with the answer of init.
func (w *world) received(r *kryptonv1.InitResponse) {
	w.must(os.WriteFile(w.path("people", "ca.pem"), r.GetCa(), 0o600))
	for _, c := range r.GetCertificates() {
		w.must(os.WriteFile(w.path("people", c.GetRole()+".pem"), c.GetCertificate(), 0o600))
	}
	w.shares, w.fprint = r.GetShares(), r.GetFingerprint()
}

// issue lets the governor issue a certificate.
func (n *node) issue(role, of string) {
	n.w.Helper()
	req := &kryptonv1.IssueCertificateRequest{
		Role: kryptonv1.Role(kryptonv1.Role_value["ROLE_"+strings.ToUpper(role)]), Name: role, PublicKey: n.w.person(role), Tenant: of,
	}
	n.w.must(n.until("a certificate is issued", func(ctx context.Context) error {
		return n.as(ctx, "governor", func(ctx context.Context, c *client.Client) error {
			r, err := c.Access().IssueCertificate(ctx, req)
			if err != nil {
				return err
			}
			return os.WriteFile(n.w.path("people", role+".pem"), r.GetCertificate(), 0o600)
		})
	}))
}

// furnish makes a tenant, a service and a ciphertext.
func (n *node) furnish() {
	n.w.Helper()
	n.issue("operator", "")
	n.w.must(n.as(n.w.Context(), "governor", func(ctx context.Context, c *client.Client) error {
		_, err := c.Tenants().CreateTenant(ctx, &kryptonv1.CreateTenantRequest{
			TenantId: "demo", Binding: &kryptonv1.Binding{Keystore: "local", Key: "demo-l1", Archetype: "local"}, Governors: []string{"roleBindings/gabi"},
		})
		if err != nil {
			return err
		}
		_, err = c.Services().CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: tenant, ServiceId: "pay"})
		return err
	}))
	n.issue("workload", tenant)
	n.w.must(n.as(n.w.Context(), "workload", func(ctx context.Context, c *client.Client) error {
		r, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: service, Plaintext: []byte(canary)})
		n.w.ciphertext = r.GetCiphertext()
		return err
	}))
}

// contribute gives shares to the node, as krypton unseal does.
func (n *node) contribute(ctx context.Context, texts [][]byte) error {
	return n.as(ctx, "custodian", func(ctx context.Context, c *client.Client) error {
		for _, text := range texts {
			st, err := c.Node(n.addr.GRPC).Seal().GetSeal(ctx, &kryptonv1.GetSealRequest{})
			if err != nil {
				return err
			}
			if st.GetState() == kryptonv1.SealState_SEAL_STATE_UNSEALED {
				return nil
			}
			if err := n.giveShare(ctx, c, st, text); err != nil {
				return err
			}
		}
		return nil
	})
}

func (n *node) giveShare(ctx context.Context, c *client.Client, st *kryptonv1.SealStatus, text []byte) error {
	cert, err := x509.ParseCertificate(st.GetNodeCertificate())
	if err != nil {
		return err
	}
	offer := seal.Offer{Target: seal.Target{Node: st.GetNodeId()}, Public: st.GetStartKey(), Signature: st.GetStartKeySignature()}
	if _, err := fmt.Sscanf(st.GetFingerprint(), "%64x", &fingerprint{offer.Target.Cluster[:]}); err != nil {
		return err
	}
	share, err := seal.ParseShare(bytes.TrimSpace(text))
	if err != nil {
		return err
	}
	defer share.Destroy()
	sealed, err := seal.SealShare(offer, crypto.PublicKey(cert.PublicKey), share)
	if err != nil {
		return err
	}
	_, err = c.Node(n.addr.GRPC).Seal().Contribute(ctx, &kryptonv1.ContributeRequest{NodeId: st.GetNodeId(), SealedShare: sealed})
	return err
}

// fingerprint scans hexadecimal digits into bytes.
type fingerprint struct{ to []byte }

func (f *fingerprint) Scan(s fmt.ScanState, _ rune) error {
	var b []byte
	if _, err := fmt.Fscanf(s, "%x", &b); err != nil {
		return err
	}
	copy(f.to, b)
	return nil
}

// files that may lie in the data directory of a node that was stopped.
var known = regexp.MustCompile(`^(LOCK|format|node\.json|logend|compare\.json|raft/raft\.db|raft/snapshots/[0-9]+-[0-9]+-[0-9]+/(meta\.json|state\.bin)|` +
	`seal/record\.pb|seal/held|tls/(node\.key|peers\.json|api\.pem|callers\.pem)|audit/([0-9]{20}\.jsonl|reserve)|run/addresses\.json)$`)

// finish stops the nodes that run in order, the one that leads last, and looks
// at what they leave.
func (w *world) finish() {
	w.Helper()
	for _, name := range []string{"n3", "n2", "n1"} {
		if n, ok := w.nodes[name]; ok {
			select {
			case <-n.proc.Done():
				n.clean()
			default:
				n.finish()
			}
		}
	}
}

// finish stops the node in order and looks at what it leaves.
func (n *node) finish() {
	n.w.Helper()
	n.proc.Signal(15)
	select {
	case <-n.proc.Done():
	case <-time.After(stopLimit):
		n.w.Fatalf("%s did not stop in %v", n.name, stopLimit)
	}
	if status, err := n.proc.Wait(); status != 0 || err != nil {
		n.w.Errorf("%s ended with status %d, %v", n.name, status, err)
	}
	n.clean()
}

// clean fails the test if the node's directory has files that nobody needs, or
// anything that was written holds a secret.
func (n *node) clean() {
	n.w.Helper()
	var secrets [][]byte
	secrets = append(secrets, []byte(canary))
	if n.w.token != "" {
		secrets = append(secrets, []byte(n.w.token))
	}
	for _, s := range n.w.shares {
		if text := bytes.TrimSpace(s); len(text) > 64 {
			secrets = append(secrets, text[len(text)-40:]) // what differs from share to share
		}
	}
	look := func(path string) {
		raw, err := os.ReadFile(path)
		n.w.must(err)
		for _, s := range secrets {
			if bytes.Contains(raw, s) {
				n.w.Errorf("%s holds a secret", path)
			}
		}
	}
	look(n.log())
	n.w.must(filepath.WalkDir(n.data(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(n.data(), path)
		switch {
		case err != nil:
			return err
		case info.Mode().Perm()&0o077 != 0:
			n.w.Errorf("%s has mode %v", rel, info.Mode())
		case d.IsDir():
		case !known.MatchString(rel):
			n.w.Errorf("%s is left over", rel)
		case d.Type().IsRegular():
			look(path)
		}
		return nil
	}))
}

// named fails the test unless err, the answer of a call to a node that was asked
// to stop, is an answer or says what happened in words of the table.
func (w *world) named(err error) {
	w.Helper()
	if err == nil {
		return
	}
	switch e := errs.From(err); e.Code {
	case errs.Unavailable, errs.Canceled, errs.NoLeader, errs.NotServing, errs.Sealed, errs.DeadlineExceeded, errs.Unspecified:
		if e.Code == errs.Unspecified {
			w.Errorf("a call in the middle of a stop: %v", err)
		}
	default:
		w.Errorf("a call in the middle of a stop got %s: %v", e.Code, err)
	}
}
