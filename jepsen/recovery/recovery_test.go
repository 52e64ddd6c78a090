//go:build unix

package recovery_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/ports"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

const (
	tenant  = "acme"
	service = "pay"
	// patience is reached only by a test that fails.
	patience = 90 * time.Second
)

// binary is the program, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// What this run is asked for is no setting of the nodes.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "KRYPTON_") {
			if err := os.Unsetenv(name); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	dir, err := os.MkdirTemp("", "recovery-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "krypton")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/openkcm/krypton-cluster/cmd/krypton")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build krypton: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// world is a cluster, and what its people do on a command line.
type world struct {
	t        *testing.T
	c        *devcluster.Cluster
	dir      string
	keyspace string // which people wrote down when the cluster was founded
}

func begin(t *testing.T, nodes int) *world {
	t.Helper()
	c, err := devcluster.Start(t.Context(), devcluster.Options{Binary: binary, Nodes: nodes, Tenant: tenant, Service: service, Output: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.WriteLogs(t.Output())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, c: c, dir: t.TempDir()}
	var node struct {
		KeyspaceID string `json:"keyspace_id"`
	}
	raw, err := os.ReadFile(filepath.Join(c.Nodes()[0].DataDir(), "node.json"))
	if err = errors.Join(err, json.Unmarshal(raw, &node)); err != nil {
		t.Fatal(err)
	}
	w.keyspace = node.KeyspaceID
	return w
}

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

// krypton runs the program.
func (w *world) krypton(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &errs, w.dir
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+w.dir)
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("krypton %s: %v", strings.Join(args, " "), err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok runs the program, which must do it.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.krypton(args...)
	if r.code != 0 {
		w.t.Fatalf("krypton %s: status %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// refused runs the program, which must refuse and say why.
func (w *world) refused(why string, args ...string) {
	w.t.Helper()
	if r := w.krypton(args...); r.code == 0 || !strings.Contains(r.err, why) {
		w.t.Fatalf("krypton %s: status %d, want a refusal with %q\n%s%s", strings.Join(args, " "), r.code, why, r.out, r.err)
	}
}

// as are the flags of somebody in a role at an address.
func (w *world) as(role auth.Role, addr string) []string {
	w.t.Helper()
	p, ok := w.c.Person(role)
	if !ok {
		w.t.Fatalf("there is no %s", role)
	}
	return []string{"--addr", addr, "--ca-file", w.c.CAFile(), "--cert-file", p.CertFile, "--key-file", p.KeyFile}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// encrypt encrypts a file at a node; decrypts opens it at another one.
func (w *world) encrypt(addr string) {
	w.t.Helper()
	if err := os.WriteFile(w.path("plain"), []byte("what must not be lost"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.ok(append([]string{"encrypt", "--service", tenant + "/" + service, w.path("plain"), w.path("sealed")}, w.as(auth.RoleWorkload, addr)...)...)
}

func (w *world) decrypt(addr string) result {
	w.t.Helper()
	_ = os.Remove(w.path("opened"))
	return w.krypton(append([]string{"decrypt", "--service", tenant + "/" + service, "--timeout", "5s", w.path("sealed"), w.path("opened")}, w.as(auth.RoleWorkload, addr)...)...)
}

func (w *world) decrypts(addr string) {
	w.t.Helper()
	if r := w.decrypt(addr); r.code != 0 {
		w.t.Fatalf("decrypt at %s: status %d\n%s", addr, r.code, r.err)
	}
	got, err := os.ReadFile(w.path("opened"))
	if err != nil || string(got) != "what must not be lost" {
		w.t.Fatalf("decrypted %q: %v", got, err)
	}
}

// signed has the people of the cluster sign what an order to recover writes, and recovers.
func (w *world) signed(order ...string) string {
	w.t.Helper()
	file := w.path("recovery.intent")
	w.refused("of 1 governor and 1 custodian for a recovery", append(order, "--yes")...)
	w.ok(append(order, "--sign-only", file)...)
	for _, role := range []auth.Role{auth.RoleGovernor, auth.RoleCustodian} {
		w.refused("", append(order, "--yes", "--intent", file)...)
		p, _ := w.c.Person(role)
		w.ok("intent", "sign", file, "--sign-key", p.KeyFile, "--keyspace", w.keyspace, "--yes")
	}
	return w.ok(append(order, "--yes", "--intent", file)...)
}

// server is a node beside those of devcluster.
type server struct {
	name, config, dir string
	grpc, ops, peer   string
	cmd               *exec.Cmd
	done              chan struct{}
}

// another writes the configuration of a new node in another region.
func (w *world) another(name, region string) *server {
	w.t.Helper()
	s := &server{name: name, config: w.path(name + ".yaml"), dir: w.path(name)}
	addr := func() string {
		a, err := ports.Loopback()
		if err != nil {
			w.t.Fatal(err)
		}
		return a
	}
	s.grpc, s.ops = addr(), addr()
	text := fmt.Sprintf(`node: {name: %s, region: %s, data_dir: %s}
listen: {grpc: "%s", rest: "off", peer: "%s", ops: "%s"}
memory: {lock_mib: 4}
audit: {segment_mib: 8, reserve_mib: 8}
keystores: [{name: %s, type: %s, dir: %s}]
`, name, region, s.dir, s.grpc, addr(), s.ops, devcluster.KeystoreName, local.Type, filepath.Join(w.c.Dir(), "keystore"))
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// start starts the node and ends it with the test.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd, s.done = exec.Command(binary, "server", "--config", s.config), make(chan struct{})
	var log bytes.Buffer
	s.cmd.Stderr = &log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		<-s.done
		if t.Failed() {
			t.Logf("%s said:\n%s", s.name, log.String())
		}
	})
}

// ready asks a node whether it serves.
func ready(ops string) bool {
	r, err := (&http.Client{Timeout: 2 * time.Second}).Get("http://" + ops + "/readyz")
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// eventually waits for a fact outside this process, of which nobody tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not after %s: %s", patience, what)
		}
	}
}

// never watches that something stays so for a while: longer than several elections and
// the longest lease.
func never(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(6 * time.Second); ; {
		if happened() {
			t.Fatal(what)
		}
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

func (w *world) destroyed(nodes ...*devcluster.Node) (flags []string) {
	for _, n := range nodes {
		flags = append(flags, "--destroyed", n.ID())
	}
	return flags
}

// TestAllNodesAreLost is docs/runbooks/all-nodes-lost.md.
func TestAllNodesAreLost(t *testing.T) {
	w := begin(t, 3)
	nodes := w.c.Nodes()
	w.encrypt(nodes[0].Addresses().GRPC)
	file := w.path("registry.krypton")
	w.refused("", append([]string{"operator", "snapshot", "save", file}, w.as(auth.RoleAuditor, nodes[1].Addresses().GRPC)...)...)
	w.ok(append([]string{"operator", "snapshot", "save", file}, w.as(auth.RoleOperator, nodes[1].Addresses().GRPC)...)...)
	var is struct{ Fingerprint, KeyspaceID string }
	if err := json.Unmarshal([]byte(w.ok("operator", "snapshot", "inspect", file, "--output", "json")), &is); err != nil || is.Fingerprint == "" {
		t.Fatalf("inspect: %+v, %v", is, err)
	}

	far := w.another("far", "us")
	order := append([]string{"operator", "recover", "snapshot", file, "--config", far.config}, w.destroyed(nodes...)...)
	w.refused("answers at", append(order, "--yes")...)
	for _, n := range nodes {
		n.Kill()
		if err := os.RemoveAll(n.DataDir()); err != nil {
			t.Fatal(err)
		}
	}
	w.ok("operator", "snapshot", "verify", file, "--fingerprint", is.Fingerprint)
	w.refused("of another cluster", "operator", "snapshot", "verify", file, "--fingerprint", strings.Repeat("0", 64))
	if out := w.ok("operator", "snapshot", "verify", file, "--holders", "--config", far.config); !strings.Contains(out, "proved by the MasterKey:") || !strings.Contains(out, "yes") {
		t.Errorf("verify says\n%s", out)
	}
	w.refused("may still live", append([]string{"operator", "recover", "snapshot", file, "--config", far.config, "--yes"}, w.destroyed(nodes[:2]...)...)...)
	w.signed(order...)
	far.start(t)
	eventually(t, "the new cluster serves", func() bool { return ready(far.ops) })
	w.decrypts(far.grpc)
	// The old nodes are removed, and leave the list soon: of those in it one is a member.
	if out := w.ok(append([]string{"operator", "members", "--output", "json"}, w.as(auth.RoleOperator, far.grpc)...)...); strings.Count(out, `"id":`)-strings.Count(out, `"removed": true`) != 1 {
		t.Errorf("members are\n%s", out)
	}
	// It is a cluster as any other: nodes join it.
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(w.ok(append([]string{"operator", "join-token", "--output", "json"}, w.as(auth.RoleOperator, far.grpc)...)...)), &token); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path("token"), []byte(token.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	second := w.another("second", "us")
	second.start(t)
	eventually(t, "the second node runs", func() bool { _, err := os.Stat(filepath.Join(second.dir, "run", "admin.sock")); return err == nil })
	w.ok("join", "--data-dir", second.dir, "--token-file", w.path("token"))
	eventually(t, "the second node serves", func() bool { return ready(second.ops) })
	w.decrypts(second.grpc)
}

// TestAMajorityIsLost is docs/runbooks/lost-quorum.md: a surviving node becomes the only
// voter, not while another one lives, and one that comes back is nobody.
func TestAMajorityIsLost(t *testing.T) {
	w := begin(t, 3)
	nodes := w.c.Nodes()
	w.encrypt(nodes[0].Addresses().GRPC)
	a, b, c := nodes[0], nodes[1], nodes[2]
	order := append([]string{"operator", "recover", "quorum", "--config", a.ConfigFile()}, w.destroyed(b, c)...)
	w.refused("", append(order, "--yes")...) // it runs
	a.Kill()
	w.refused("answers at", append(order, "--yes")...)
	if err := b.Pause(); err != nil { // it lives, and does not answer
		t.Fatal(err)
	}
	c.Kill()
	w.refused("may still live", "operator", "recover", "quorum", "--config", a.ConfigFile(), "--yes")
	w.refused("may still live", append([]string{"operator", "recover", "quorum", "--config", a.ConfigFile(), "--yes"}, w.destroyed(c)...)...)
	w.refused("is no other voter", append(order, "--destroyed", "n9", "--yes")...)
	w.signed(order...)
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the survivor serves alone", func() bool { return ready(a.Addresses().Ops) })
	w.decrypts(a.Addresses().GRPC)

	// What people signed was wrong: one of them lives, and was the leader, perhaps.
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	never(t, "a node of before serves", func() bool { return ready(b.Addresses().Ops) })
	if r := w.decrypt(b.Addresses().GRPC); r.code == 0 {
		t.Error("a node of before decrypts")
	}
	if r := w.krypton(append([]string{"tenant", "create", "late", "--keystore", devcluster.KeystoreName, "--key", "x", "--timeout", "5s"}, w.as(auth.RoleGovernor, b.Addresses().GRPC)...)...); r.code == 0 {
		t.Error("a node of before changes the registry")
	}
	if !ready(a.Addresses().Ops) {
		t.Error("it disturbs the new cluster")
	}
	w.decrypts(a.Addresses().GRPC)
}

// TestTheSealRecordIsLost is docs/runbooks/seal-record-lost.md.
func TestTheSealRecordIsLost(t *testing.T) {
	w, other := begin(t, 3), begin(t, 1)
	nodes := w.c.Nodes()
	w.encrypt(nodes[0].Addresses().GRPC)
	a := nodes[0]
	file := w.path("registry.krypton")
	for _, n := range nodes {
		if err := n.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	record := func(n *devcluster.Node) string { return filepath.Join(n.DataDir(), "seal", "record.pb") }
	w.ok("operator", "snapshot", "save-dir", file, "--config", nodes[2].ConfigFile())
	for name, from := range map[string]string{"a node": record(nodes[1]), "a snapshot file": file} {
		if err := os.WriteFile(record(a), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.refused("of keyspace", "operator", "recover", "seal", record(other.c.Nodes()[0]), "--config", a.ConfigFile())
		w.ok("operator", "recover", "seal", from, "--config", a.ConfigFile())
		want, err := os.ReadFile(record(nodes[1]))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(record(a)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the record of %s is another one: %v", name, err)
		}
	}
	// Alone it unseals, without a quorum.
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it unseals alone", func() bool {
		return strings.Contains(w.krypton("status", "--data-dir", a.DataDir(), "--output", "json").out, "UNSEALED") ||
			strings.Contains(w.krypton(append([]string{"status", "--output", "json"}, w.as(auth.RoleOperator, a.Addresses().GRPC)...)...).out, "UNSEALED")
	})
}

// TestTheSealKeyIsDisabledAndEnabledAgain is docs/runbooks/seal-key-disabled.md.
func TestTheSealKeyIsDisabledAndEnabledAgain(t *testing.T) {
	w := begin(t, 1)
	n := w.c.Nodes()[0]
	w.encrypt(n.Addresses().GRPC)
	key := func(use func(*local.Keystore, keystore.KeyRef) error) {
		t.Helper()
		if err := w.c.Keystore(t.Context(), func(s *local.Keystore) error { return use(s, "masterkey") }); err != nil {
			t.Fatal(err)
		}
	}
	key(func(s *local.Keystore, k keystore.KeyRef) error { return s.Disable(t.Context(), k) })
	w.decrypts(n.Addresses().GRPC) // what is unsealed goes on
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	never(t, "it serves without its seal key", func() bool { return ready(n.Addresses().Ops) })
	key(func(s *local.Keystore, k keystore.KeyRef) error { return s.Enable(t.Context(), k) })
	eventually(t, "it unseals by itself", func() bool { return ready(n.Addresses().Ops) })
	w.decrypts(n.Addresses().GRPC)
}
