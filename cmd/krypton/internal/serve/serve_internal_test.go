//go:build unix

package serve

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/memsec"
)

// asProgram is the environment variable that makes the test binary the program.
const asProgram = "SERVE_TEST_AS_KRYPTON"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		app := &cli.App{Name: "krypton", Commands: []*cli.Command{Command("test")}}
		if err := app.Run(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, "krypton:", err)
			os.Exit(errs.Of(err).Row().Exit)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, leaktest.Known()...)
}

// patience is longer than anything that a test waits for should take; it is
// reached only by a test that fails.
const patience = 20 * time.Second

func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func until(t testing.TB, what string, f func() error) {
	t.Helper()
	ctx := limited(t)
	for {
		err := f()
		if err == nil {
			return
		}
		if (clock.System{}).Sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
	}
}

// site is a place for nodes: a short directory, because paths of sockets are
// short, with a keystore in it.
type site struct {
	t   testing.TB
	dir string
	ca  []byte
	gov tls.Certificate
	ops tls.Certificate
}

func newSite(t testing.TB) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "k") //nolint:usetesting // As said above.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ks, err := local.Create(t.Context(), keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}, "ks", filepath.Join(dir, "ks"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"masterkey", "l1"} {
		if err := ks.CreateKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := ks.Close(); err != nil {
		t.Fatal(err)
	}
	return &site{t: t, dir: dir}
}

// config is that of a node on free ports of loopback.
func (s *site) config(name string, change ...func(*config.Config)) config.Config {
	c := config.Default()
	c.Node.Name, c.Node.DataDir = name, filepath.Join(s.dir, name)
	c.Listen = config.Listen{GRPC: "127.0.0.1:0", REST: "127.0.0.1:0", Peer: "127.0.0.1:0", Ops: "127.0.0.1:0"}
	c.Memory.LockMiB, c.Audit.ReserveMiB = 1, 0
	c.Log.Level = "debug"
	c.Keystores = []config.Keystore{{Name: "ks", Type: "local", Settings: map[string]string{"dir": filepath.Join(s.dir, "ks")}}}
	for _, f := range change {
		f(&c)
	}
	return c
}

// runner is a node that runs, in this process or in one of its own.
type runner struct {
	t    testing.TB
	data string
	log  *lockedBuffer
	proc *exec.Cmd // nil: in this process
	end  func()
	done chan error
	once sync.Once
	err  error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run runs a node in this process, without what belongs to a process.
func (s *site) run(cfg config.Config) *runner {
	s.t.Helper()
	r := &runner{t: s.t, data: cfg.Node.DataDir, log: &lockedBuffer{}, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	dir, err := cluster.OpenDir(cfg.Node.DataDir, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		err := runIn(ctx, dir, cfg, Options{Version: "test"}, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		r.done <- errors.Join(err, dir.Close())
	}()
	s.t.Cleanup(func() { _ = r.stop() })
	return r
}

// stop ends the node in good order and returns how it ended.
func (r *runner) stop() error {
	r.t.Helper()
	r.end()
	return r.wait()
}

// wait waits until the node has ended, and returns how.
func (r *runner) wait() error {
	r.t.Helper()
	r.once.Do(func() {
		select {
		case r.err = <-r.done:
		case <-limited(r.t).Done():
			if r.proc != nil {
				_ = r.proc.Process.Kill()
			}
			r.t.Errorf("the node does not end:\n%s", r.log)
		}
	})
	return r.err
}

// program starts a process with arguments of `krypton server`.
func (s *site) program(args ...string) *runner {
	s.t.Helper()
	r := &runner{t: s.t, log: &lockedBuffer{}, done: make(chan error, 1)}
	cmd := exec.CommandContext(context.Background(), os.Args[0], append([]string{"server"}, args...)...)
	cmd.Env = []string{asProgram + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	cmd.Stdout, cmd.Stderr = r.log, r.log
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	r.proc = cmd
	r.end = func() { _ = cmd.Process.Signal(syscall.SIGTERM) }
	go func() { r.done <- cmd.Wait() }()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = r.stop()
	})
	return r
}

// file writes a configuration and returns its path.
func (s *site) file(cfg config.Config, extra ...string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, cfg.Node.Name+".yaml")
	text := fmt.Sprintf(`
node: {name: %q, data_dir: %q}
cluster: {join_token_file: %q}
listen: {grpc: %q, rest: %q, peer: %q, ops: %q}
memory: {lock_mib: 1}
audit: {reserve_mib: 1}
log: {level: debug}
keystores: [{name: ks, type: local, dir: %q}]
`, cfg.Node.Name, cfg.Node.DataDir, cfg.Cluster.JoinTokenFile, cfg.Listen.GRPC, cfg.Listen.REST, cfg.Listen.Peer, cfg.Listen.Ops, cfg.Keystores[0].Settings["dir"])
	if err := os.WriteFile(path, []byte(text+strings.Join(extra, "\n")), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *site) admin(data string) kryptonv1.AdminClient {
	s.t.Helper()
	cc, err := grpc.NewClient("unix:"+filepath.Join(data, "run/admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = cc.Close() })
	return kryptonv1.NewAdminClient(cc)
}

// answers waits until the node's administration answers, and returns its state.
func (s *site) answers(data string) *kryptonv1.GetStatusResponse {
	s.t.Helper()
	var st *kryptonv1.GetStatusResponse
	until(s.t, "the node answers", func() (err error) {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		st, err = s.admin(data).GetStatus(ctx, &kryptonv1.GetStatusRequest{})
		return err
	})
	return st
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, spki
}

func pair(t testing.TB, text []byte, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no certificate in the answer")
	}
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

// init makes a cluster of the node.
func (s *site) init(data string, voters uint32) {
	s.t.Helper()
	s.answers(data)
	gov, govPub := newKey(s.t)
	_, custPub := newKey(s.t)
	resp, err := s.admin(data).Init(limited(s.t), &kryptonv1.InitRequest{
		ClusterName: "test", Voters: voters, SealMode: kryptonv1.SealMode_SEAL_MODE_AUTO, Keystore: "ks", Key: "masterkey", NoDestroyWait: true,
		Governors: []*kryptonv1.PersonKey{{Name: "alice", PublicKey: govPub}}, Custodians: []*kryptonv1.PersonKey{{Name: "carol", PublicKey: custPub}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.ca, s.gov = resp.GetCa(), pair(s.t, resp.GetCertificates()[0].GetCertificate(), gov)
	s.ops = s.issue(data, kryptonv1.Role_ROLE_OPERATOR, "")
}

func (s *site) issue(data string, role kryptonv1.Role, tenant string) tls.Certificate {
	s.t.Helper()
	key, pub := newKey(s.t)
	resp, err := kryptonv1.NewAccessClient(s.dial(data, s.gov)).IssueCertificate(limited(s.t), &kryptonv1.IssueCertificateRequest{Role: role, Name: "x", Tenant: tenant, PublicKey: pub})
	if err != nil {
		s.t.Fatal(err)
	}
	return pair(s.t, resp.GetCertificate(), key)
}

func (s *site) dial(data string, cert tls.Certificate) *grpc.ClientConn {
	s.t.Helper()
	addrs, err := cluster.ReadAddresses(data)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.ca)
	cc, err := grpc.NewClient("passthrough:///"+addrs.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert},
	})))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func (s *site) token(data string, voter bool) string {
	s.t.Helper()
	resp, err := kryptonv1.NewClusterClient(s.dial(data, s.ops)).CreateJoinToken(limited(s.t), &kryptonv1.CreateJoinTokenRequest{Voter: voter})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.GetToken()
}

// serving waits until every member serves and n of them vote.
func (s *site) serving(data string, nodes, voters int) []*kryptonv1.Node {
	s.t.Helper()
	var all []*kryptonv1.Node
	until(s.t, "the nodes serve", func() error {
		resp, err := kryptonv1.NewClusterClient(s.dial(data, s.ops)).ListNodes(limited(s.t), &kryptonv1.ListNodesRequest{})
		if err != nil {
			return err
		}
		all = resp.GetNodes()
		serve, vote := 0, 0
		for _, n := range all {
			if n.GetHealth().GetServing() {
				serve++
			}
			if n.GetRole() == kryptonv1.NodeRole_NODE_ROLE_VOTER {
				vote++
			}
		}
		if serve != nodes || vote != voters {
			return fmt.Errorf("%d serve and %d vote", serve, vote)
		}
		return nil
	})
	return all
}

// TestAKilledNodeServesAgain what it served before: the process is killed
// without a chance to clean up, and started again on the same directory.
func TestAKilledNodeServesAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := s.config("n1")
	file := s.file(cfg)
	r := s.program("--config", file)
	data := cfg.Node.DataDir
	s.init(data, 1)
	ctx, gov := limited(t), s.dial(data, s.gov)
	if _, err := kryptonv1.NewTenantsClient(gov).CreateTenant(ctx, &kryptonv1.CreateTenantRequest{TenantId: "acme", Binding: &kryptonv1.Binding{Keystore: "ks", Key: "l1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := kryptonv1.NewServicesClient(gov).CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/acme", ServiceId: "pay"}); err != nil {
		t.Fatal(err)
	}
	work := s.issue(data, kryptonv1.Role_ROLE_WORKLOAD, "tenants/acme")
	const svc = "tenants/acme/services/pay"
	enc, err := kryptonv1.NewCryptoClient(s.dial(data, work)).Encrypt(ctx, &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("hello")})
	if err != nil {
		t.Fatal(err)
	}
	before := s.answers(data)
	if text := s.metrics(data); !strings.Contains(text, `krypton_keystore_call_duration_seconds_count{class="ok",keystore="ks",op="unwrap"}`) {
		t.Errorf("the node's keystores are not guarded and counted:\n%s", text)
	}

	// While it runs, nobody else gets the directory.
	second := s.program("--config", file)
	if err := second.wait(); exitOf(err) != errs.ExitState || !strings.Contains(second.log.String(), "krypton: ") {
		t.Fatalf("a second process on the directory: %v\n%s", err, second.log)
	}

	if err := r.proc.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err == nil {
		t.Fatal("a killed process ended well")
	}
	r = s.program("--config", file)
	until(t, "the node is up again", func() error {
		st := s.answers(data)
		if st.GetSeal().GetState() != kryptonv1.SealState_SEAL_STATE_UNSEALED || st.GetCluster().GetFingerprint() != before.GetCluster().GetFingerprint() {
			return fmt.Errorf("state %v", st)
		}
		return nil
	})
	cc := s.dial(data, work)
	until(t, "it serves", func() error {
		dec, err := kryptonv1.NewCryptoClient(cc).Decrypt(ctx, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: enc.GetCiphertext()})
		if err == nil && string(dec.GetPlaintext()) != "hello" {
			return errors.New("another plaintext")
		}
		return err
	})
	if id := s.answers(data).GetSeal().GetNodeId(); id != before.GetSeal().GetNodeId() {
		t.Fatalf("node %s became %s", before.GetSeal().GetNodeId(), id)
	}

	// SIGTERM is a good end.
	if err := r.stop(); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, r.log)
	}
	if log := r.log.String(); !strings.Contains(log, "node stopped") || strings.Contains(log, "panic") {
		t.Fatalf("the log of a stop:\n%s", log)
	}
}

// metrics are those of a running node.
func (s *site) metrics(data string) string {
	s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(data, "run", "addresses.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var at struct{ Ops string }
	if err := json.Unmarshal(raw, &at); err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(limited(s.t), http.MethodGet, "http://"+at.Ops+"/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func exitOf(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// TestWhatKeepsANodeFromStartingIsOneLine with what to do, and status 2.
func TestWhatKeepsANodeFromStartingIsOneLine(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	open := filepath.Join(s.dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, c := range []struct {
		name   string
		change func(*config.Config)
		extra  string
		want   []string
	}{
		{"port", func(c *config.Config) { c.Listen.REST = taken.Addr().String() }, "", []string{taken.Addr().String(), "listen.rest"}},
		{"peer port", func(c *config.Config) { c.Listen.Peer = taken.Addr().String() }, "", []string{"listen.peer"}},
		{"mode of the directory", func(c *config.Config) { c.Node.DataDir = open }, "", []string{"chmod 0700"}},
		{"keystore", func(c *config.Config) { c.Keystores[0].Settings["dir"] = os.DevNull }, "", []string{"keystore", "ks"}},
		{"name", func(c *config.Config) { c.Node.Name = "Not a name" }, "", []string{"node.name"}},
		{"join token", func(c *config.Config) { c.Cluster.JoinTokenFile = filepath.Join(s.dir, "none") }, "", []string{"cluster.join_token_file"}},
		{"unknown key", func(*config.Config) {}, "nod: {}", []string{`unknown key "nod"`}},
	} {
		cfg := s.config(fmt.Sprintf("n%d", i), c.change)
		name := cfg.Node.Name
		cfg.Node.Name = strings.ReplaceAll(name, " ", "_") + fmt.Sprint(i) // of the file
		if name == "Not a name" {
			cfg.Node.Name = name
		}
		r := s.program("--config", s.file(cfg, c.extra))
		wg.Go(func() {
			err := r.wait()
			last := r.log.String()
			if i := strings.LastIndex(strings.TrimSpace(last), "\nkrypton: "); i >= 0 {
				last = strings.TrimSpace(last)[i+1:]
			}
			if exitOf(err) != errs.ExitUsage || !strings.HasPrefix(last, "krypton: ") || strings.Count(strings.TrimSpace(last), "\n") != 0 {
				t.Errorf("%s: %v\n%s", c.name, err, r.log)
			}
			for _, want := range c.want {
				if !strings.Contains(last, want) {
					t.Errorf("%s: no %q in %s", c.name, want, last)
				}
			}
		})
	}
	wg.Wait()
}

// TestCheckConfigChangesNothing and says what is wrong.
func TestCheckConfigChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cfg := s.config("n1")
	r := s.program("--check-config", "--config", s.file(cfg))
	if err := r.wait(); err != nil || !strings.Contains(r.log.String(), "the configuration is valid") {
		t.Errorf("%v: %s", err, r.log)
	}
	if _, err := os.Stat(cfg.Node.DataDir); !os.IsNotExist(err) {
		t.Error("checking made a data directory")
	}
	r = s.program("--check-config", "--config", s.file(cfg, "memory: {}"))
	if err := r.wait(); exitOf(err) != errs.ExitUsage {
		t.Errorf("%v: %s", err, r.log)
	}
}

// TestANodeJoinsByItself through a token file, also when no member is there yet,
// and ends when it is removed; the token is in no log.
func TestANodeJoinsByItself(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one := s.config("n1")
	first := s.run(one)
	s.init(one.Node.DataDir, 1)
	token := s.token(one.Node.DataDir, false)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.dir, "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	two := s.config("n2", func(c *config.Config) { c.Cluster.JoinTokenFile = path })
	second := s.run(two)
	until(t, "it waits for the others", func() error {
		if !strings.Contains(second.log.String(), "the node tries again by itself") {
			return errors.New(second.log.String())
		}
		return nil
	})
	first = s.run(one)
	s.answers(one.Node.DataDir)
	defer func() {
		if t.Failed() {
			t.Logf("n1:\n%s\nn2:\n%s", first.log, second.log)
		}
	}()
	nodes := s.serving(one.Node.DataDir, 2, 1)
	until(t, "it says so", func() error {
		if !strings.Contains(second.log.String(), "joined the cluster") {
			return errors.New("not yet")
		}
		return nil
	})
	// It serves callers under a certificate of the cluster.
	if _, err := kryptonv1.NewSealClient(s.dial(two.Node.DataDir, s.ops)).GetSeal(limited(t), &kryptonv1.GetSealRequest{}); err != nil {
		t.Fatal(err)
	}
	trail, err := filepath.Glob(filepath.Join(two.Node.DataDir, "audit", "*.jsonl"))
	if err != nil || len(trail) == 0 {
		t.Fatal(err)
	}
	var records []byte
	for _, f := range trail {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, b...)
	}
	if !bytes.Contains(records, []byte(`"act":"admin.join","outcome":"ok"`)) {
		t.Error("the join left no record")
	}
	i := slices.IndexFunc(nodes, func(n *kryptonv1.Node) bool { return n.GetDisplayName() == "n2" })
	if _, err := kryptonv1.NewClusterClient(s.dial(one.Node.DataDir, s.ops)).RemoveNode(limited(t), &kryptonv1.RemoveNodeRequest{Name: nodes[i].GetName()}); err != nil {
		t.Fatal(err)
	}
	if err := second.wait(); err == nil {
		t.Error("a removed node ends as if it were asked to")
	}
	secret := strings.TrimPrefix(token, "kjoin2-")
	for name, log := range map[string]string{"n1": first.log.String(), "n2": second.log.String(), "the trail": string(records)} {
		if strings.Contains(log, secret) {
			t.Errorf("the log of %s has the join token", name)
		}
	}
}

// TestALeaderThatIsStoppedHandsOver so that the others need no election.
func TestALeaderThatIsStoppedHandsOver(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one := s.config("n1")
	runners := []*runner{s.run(one)}
	s.init(one.Node.DataDir, 3)
	for _, name := range []string{"n2", "n3"} {
		cfg := s.config(name)
		runners = append(runners, s.run(cfg))
		s.answers(cfg.Node.DataDir)
		if _, err := s.admin(cfg.Node.DataDir).Join(limited(t), &kryptonv1.JoinRequest{Token: s.token(one.Node.DataDir, true)}); err != nil {
			t.Fatal(err)
		}
	}
	nodes := s.serving(one.Node.DataDir, 3, 3)
	leader := slices.IndexFunc(nodes, func(n *kryptonv1.Node) bool { return n.GetLeader() })
	if leader < 0 {
		t.Fatal("nobody leads")
	}
	lead, other := 0, 1
	for i, name := range []string{"n1", "n2", "n3"} {
		if nodes[leader].GetDisplayName() == name {
			lead, other = i, (i+1)%3
		}
	}
	before := s.answers(runners[other].data).GetCluster().GetTerm()
	if err := runners[lead].stop(); err != nil {
		t.Fatal(err)
	}
	if log := runners[lead].log.String(); strings.Contains(log, "leadership was not handed over") || strings.Contains(log, "a panic") {
		t.Fatalf("the leader did not hand over:\n%s", log)
	}
	// One election, which the old leader ordered before it went.
	until(t, "another node leads", func() error {
		st := s.answers(runners[other].data).GetCluster()
		if st.GetLeader() == nodes[leader].GetName() || st.GetLeader() == "" || st.GetTerm() != before+1 {
			return fmt.Errorf("%q leads in term %d, before it was %d", st.GetLeader(), st.GetTerm(), before)
		}
		return nil
	})
	if log := runners[other].log.String() + runners[3-lead-other].log.String(); strings.Contains(log, "heartbeat timeout reached, starting election") {
		t.Error("the others noticed the end of the leader by its silence")
	}
}

// TestI2_NoKeyIsInMemoryAfterRun runs a node as the program does, once: memory
// limits belong to the process.
func TestI2_NoKeyIsInMemoryAfterRun(t *testing.T) {
	s := newSite(t)
	cfg, log := s.config("n1"), &lockedBuffer{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg, Options{Version: "test", Log: log}) }()
	s.init(cfg.Node.DataDir, 1)
	if memsec.Report().Secrets == 0 {
		t.Fatal("an unsealed node has no secret; the test looks at nothing")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if st := memsec.Report(); st.Secrets != 0 || st.AEADs != 0 {
		t.Fatalf("after the end: %+v", st)
	}
	if err := Run(context.Background(), cfg, Options{Log: io.Discard}); !errs.Is(err, errs.FailedState) {
		t.Fatalf("a second Run in one process: %v", err)
	}
}

func TestNamesAreCheckedBeforeAnythingExists(t *testing.T) {
	for _, c := range []struct {
		node config.Node
		want string
	}{
		{config.Node{Name: "n1", Region: "eu-1", Zone: "a"}, ""},
		{config.Node{Name: "n1"}, ""},
		{config.Node{Name: "N1"}, "node.name"},
		{config.Node{Name: "n1.example"}, "node.name"},
		{config.Node{Name: "n1", Region: "EU"}, "node.region"},
		{config.Node{Name: "n1", Zone: "1"}, "node.zone"},
	} {
		name, err := names(c.node)
		if c.want == "" && (err != nil || name != c.node.Name) {
			t.Errorf("%+v: %q, %v", c.node, name, err)
		}
		if c.want != "" && (!errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c.node, err)
		}
	}
	if name, err := names(config.Node{}); err == nil && (strings.Contains(name, ".") || strings.ToLower(name) != name) {
		t.Errorf("the host's name became %q", name)
	}
}

func TestSeedsKeepTheKeysOfTheToken(t *testing.T) {
	a, b := cluster.Seed{Address: "a:1", KeyHash: [32]byte{1}}, cluster.Seed{Address: "b:1", KeyHash: [32]byte{2}}
	if diff := cmp.Diff([]cluster.Seed{a, b}, seeds([]cluster.Seed{a, b}, nil)); diff != "" {
		t.Error(diff)
	}
	want := []cluster.Seed{{Address: "x:1", KeyHash: a.KeyHash}, {Address: "y:1", KeyHash: a.KeyHash}, {Address: "x:1", KeyHash: b.KeyHash}, {Address: "y:1", KeyHash: b.KeyHash}}
	if diff := cmp.Diff(want, seeds([]cluster.Seed{a, b}, []string{"x:1", "y:1"})); diff != "" {
		t.Error(diff)
	}
	if n := len(seeds(slices.Repeat([]cluster.Seed{a}, 7), []string{"x:1", "y:1"})); n != cluster.MaxTokenSeeds {
		t.Errorf("%d seeds", n)
	}
}

func TestOthersReachANodeWhereItSays(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	any4, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = any4.Close() }()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	_, anyPort, _ := net.SplitHostPort(any4.Addr().String())
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		advertise string
		ln        net.Listener
		want      string
	}{
		{"", ln, "127.0.0.1:" + port},
		{"", any4, host + ":" + anyPort},
		{"krypton.example:0", ln, "krypton.example:" + port},
		{"krypton.example:443", ln, "krypton.example:443"},
		{"", nil, ""},
	} {
		if got := reachable(c.advertise, c.ln); got != c.want {
			t.Errorf("%q: %q, want %q", c.advertise, got, c.want)
		}
	}
}

// TestWhatHangsIsLeftHanging after a failure, and the process ends without keys.
func TestWhatHangsIsLeftHanging(t *testing.T) {
	clk := clock.NewFake(time.Now())
	ended := make(chan error, 1)
	p := parts{clock: clk, opts: Options{Exit: func(err error) { ended <- err }}}
	alive, gone := context.WithCancel(t.Context())
	cause, returned := errors.New("disk is gone"), make(chan struct{})
	go func() { p.fatal(alive, cause); close(returned) }()
	until(t, "it ends", func() error {
		clk.Advance(fatalTime)
		select {
		case err := <-ended:
			if !errors.Is(err, cause) {
				t.Errorf("ended with %v", err)
			}
			return nil
		default:
			return errors.New("not yet")
		}
	})
	<-returned
	// A node that ends in time is not killed.
	gone()
	p.fatal(alive, cause)
	select {
	case err := <-ended:
		t.Errorf("a node that ended by itself was killed: %v", err)
	default:
	}
	parts{clock: clk}.fatal(t.Context(), cause) // nobody wants it
}
