//go:build unix

// Package damage_test starts the program on broken configurations, machines and files and reads what it says.
package damage_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/serve"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// program is the name under which this test binary is the program.
const program = "krypton"

// Every test copies prepared, a stopped cluster of one node, and breaks its copy.
var prepared struct {
	dir    string // of the binary and of everything else
	binary string
	data   string // the node's data directory
	keys   string // the keystore's directory
	people string
	text   []byte // a ciphertext of plain
	ks     string // name of the keystore

	other      string // data directory of another cluster
	otherState []byte // a snapshot of that cluster
}

const (
	plain   = "attack at dawn"
	service = "tenants/demo/services/pay"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == program {
		os.Exit(command.Main("test", os.Args[1:], command.Native(serve.Command("test"))))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Tests wait for processes most of the time.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "kd")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = errors.Join(prepare(dir), another(dir))
	}
	if err == nil {
		// As large as the configuration of the development cluster says; each copy has
		// a smaller one made.
		err = os.Remove(filepath.Join(prepared.data, "audit", "reserve"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare a cluster:", err)
		return 1
	}
	return m.Run()
}

// another makes a second cluster, whose files are foreign to the first.
func another(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := devcluster.Start(ctx, devcluster.Options{Binary: prepared.binary, Nodes: 1, Dir: filepath.Join(dir, "o"), Output: os.Stderr})
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	prepared.other = c.Nodes()[0].DataDir()
	prepared.otherState, err = stateOf(filepath.Join(prepared.other, "raft", "raft.db"))
	return err
}

// prepare forms a cluster of one node with something encrypted, and stops it.
func prepare(dir string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := &prepared
	p.dir, p.binary = dir, filepath.Join(dir, program)
	if err := os.Link(self, p.binary); err != nil { // another file system
		if out, err := exec.CommandContext(context.Background(), "cp", self, p.binary).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	if err := os.Chmod(dir, 0o711); err != nil { // other users, see asUser, have to get to what is theirs
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := devcluster.Start(ctx, devcluster.Options{
		Binary: p.binary, Nodes: 1, Dir: filepath.Join(dir, "c"), Tenant: "demo", Service: "pay", Output: os.Stderr,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	p.data, p.keys, p.people, p.ks = c.Nodes()[0].DataDir(), filepath.Join(c.Dir(), "keystore"), filepath.Join(c.Dir(), "people"), devcluster.KeystoreName
	cl, err := c.Client(ctx, auth.RoleWorkload)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }()
	resp, err := cl.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: service, Plaintext: []byte(plain)})
	p.text = resp.GetCiphertext()
	return err
}

// place is a copy of the prepared node that a test may break.
type place struct {
	t    testing.TB
	dir  string
	data string
	conf string
	keys string
	env  []string
	user *syscall.Credential // nil: this one

	inside string   // the data directory as the node sees it; empty: data
	enter  []string // what every process is started behind
}

func newPlace(t testing.TB) *place {
	t.Helper()
	dir, err := os.MkdirTemp(prepared.dir, "p") //nolint:usetesting // Paths of sockets are short.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &place{t: t, dir: dir, data: filepath.Join(dir, "d"), conf: filepath.Join(dir, "krypton.yaml"), keys: prepared.keys}
	copyTree(t, prepared.data, p.data)
	p.configure(p.config())
	return p
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// config is a configuration that works, one line per section.
func (p *place) config() []string {
	return []string{
		fmt.Sprintf("node: {name: n1, data_dir: %q}", cmp.Or(p.inside, p.data)),
		`listen: {grpc: "127.0.0.1:0", rest: "127.0.0.1:0", peer: "127.0.0.1:0", ops: "127.0.0.1:0"}`,
		"memory: {lock_mib: 1}",
		"audit: {segment_mib: 1, reserve_mib: 1}",
		fmt.Sprintf("keystores: [{name: %q, type: local, dir: %q}]", prepared.ks, p.keys),
	}
}

func (p *place) configure(lines []string) { p.write(p.conf, []byte(strings.Join(lines, "\n")+"\n")) }

// with replaces the line of that section, or adds it.
func with(lines []string, section, line string) []string {
	out := []string{}
	for _, l := range lines {
		if !strings.HasPrefix(l, section+":") {
			out = append(out, l)
		}
	}
	return append(out, line)
}

func (p *place) write(path string, b []byte) {
	p.t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) read(path string) []byte {
	p.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// node is a process of the program.
type node struct {
	p    *place
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

// output is what a process wrote so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// patience is longer than any step should take; only a test that fails gets there.
const patience = 25 * time.Second

// otherUser is a user without rights.
const otherUser = 65534

// asUser runs the program as a user without rights, to whom the place belongs.
// Who is no root has no more rights already.
func (p *place) asUser() {
	p.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	p.keys = filepath.Join(p.dir, "keys")
	copyTree(p.t, prepared.keys, p.keys)
	conf := bytes.ReplaceAll(p.read(p.conf), []byte(prepared.keys), []byte(p.keys))
	p.write(p.conf, conf)
	err := filepath.WalkDir(p.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, otherUser, otherUser))
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.user = &syscall.Credential{Uid: otherUser, Gid: otherUser}
}

func (p *place) mkdir(name string, m fs.FileMode) {
	p.t.Helper()
	if err := os.Mkdir(filepath.Join(p.dir, name), m); err != nil {
		p.t.Fatal(err)
	}
}

// start starts `krypton server`, behind prefix if there is one. What an earlier
// process wrote is not taken for this one's.
func (p *place) start(prefix ...string) *node {
	p.t.Helper()
	_ = os.Remove(filepath.Join(p.data, "run", "addresses.json"))
	return p.launch(prefix...)
}

// launch is start beside a process that runs.
func (p *place) launch(prefix ...string) *node {
	p.t.Helper()
	args := append(append(append([]string(nil), p.enter...), prefix...), prepared.binary, "server", "--config", p.conf)
	n := &node{p: p, cmd: exec.CommandContext(context.Background(), args[0], args[1:]...), out: &output{}, done: make(chan struct{})}
	n.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "GORACE=atexit_sleep_ms=0"}, p.env...) // no second of waiting at every exit
	n.cmd.Stdout, n.cmd.Stderr = io.Discard, n.out
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: p.user}
	if err := n.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = n.cmd.Wait() // the state says how
		close(n.done)
	}()
	p.t.Cleanup(func() { n.signal(syscall.SIGKILL) })
	return n
}

func (n *node) signal(s syscall.Signal) {
	_ = syscall.Kill(-n.cmd.Process.Pid, s) // it may have ended
	if s == syscall.SIGKILL {
		<-n.done
	}
}

// ends waits for the process and returns its status and what it wrote.
func (n *node) ends() (status int, stderr string) {
	n.p.t.Helper()
	select {
	case <-n.done:
	case <-time.After(patience):
		n.signal(syscall.SIGQUIT)
		<-n.done
		n.p.t.Fatalf("the process does not end:\n%s", n.out)
	}
	return n.cmd.ProcessState.ExitCode(), n.out.String()
}

// stop ends the process in good order.
func (n *node) stop() {
	n.p.t.Helper()
	n.signal(syscall.SIGTERM)
	if status, out := n.ends(); status != 0 {
		n.p.t.Errorf("a stop ended with status %d:\n%s", status, out)
	}
}

// until tries f until it returns nil.
func (n *node) until(what string, f func(context.Context) error) {
	n.p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		try, end := context.WithTimeout(ctx, 2*time.Second)
		err := f(try)
		end()
		if err == nil {
			return
		}
		select {
		case <-n.done:
			n.p.t.Fatalf("%s: the process ended: %s\n%s", what, n.cmd.ProcessState, n.out)
		default:
		}
		if (clock.System{}).Sleep(ctx, 20*time.Millisecond) != nil {
			n.p.t.Fatalf("%s: %v\n%s", what, err, n.out)
		}
	}
}

// ready asks /readyz and returns what it says.
func (n *node) ready(ctx context.Context) (int, string, error) {
	a, err := cluster.ReadAddresses(n.p.data)
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Ops+"/readyz", http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (n *node) serves() {
	n.p.t.Helper()
	n.until("it serves", func(ctx context.Context) error {
		status, body, err := n.ready(ctx)
		if err == nil && status != http.StatusOK {
			err = errors.New(body)
		}
		return err
	})
}

// address returns that of the node's gRPC port.
func (n *node) address() string {
	n.p.t.Helper()
	a, err := cluster.ReadAddresses(n.p.data)
	if err != nil {
		n.p.t.Fatal(err)
	}
	return a.GRPC
}

// as returns a client of the node in a role.
func (n *node) as(role string) *client.Client {
	n.p.t.Helper()
	c, err := client.New(context.Background(), client.With(client.Options{
		Addrs: []string{n.address()}, CAFile: filepath.Join(prepared.people, "ca.crt"),
		CertFile: filepath.Join(prepared.people, role+".crt"), KeyFile: filepath.Join(prepared.people, role+".key"),
	}))
	if err != nil {
		n.p.t.Fatal(err)
	}
	n.p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// opens decrypts what was encrypted when the cluster was made.
func (n *node) opens() {
	n.p.t.Helper()
	c := n.as("workload")
	n.until("old data opens", func(ctx context.Context) error {
		resp, err := c.Crypto().Decrypt(ctx, &kryptonv1.DecryptRequest{Service: service, Ciphertext: prepared.text})
		if err == nil && string(resp.GetPlaintext()) != plain {
			err = errors.New("another plaintext")
		}
		return err
	})
}

// healthy starts the node, has it open old data and stops it. It returns its log.
func (p *place) healthy() string {
	p.t.Helper()
	n := p.start()
	n.serves()
	n.opens()
	n.stop()
	return n.out.String()
}

// refuses starts the node and compares what it says with the table. It has to be
// over soon, without a panic, and in one error line.
func (p *place) refuses(id string) string {
	p.t.Helper()
	status, stderr := p.start().ends()
	p.told(id, status, stderr)
	return stderr
}

func (p *place) told(id string, status int, stderr string) {
	p.t.Helper()
	if os.Getenv("DAMAGE_SHOW") != "" {
		for l := range strings.SplitSeq(stderr, "\n") {
			if !strings.HasPrefix(l, "time=") {
				p.t.Logf("%d %s", status, l)
			}
		}
	}
	situationtest.Exit(p.t, id, status, stderr)
	for _, word := range []string{"goroutine ", "panic:", "runtime error", "SIGSEGV"} {
		if strings.Contains(stderr, word) {
			p.t.Errorf("%s: stderr has %q:\n%s", id, word, stderr)
		}
	}
}

// nodeJSON reads node.json.
func (p *place) nodeJSON() map[string]any {
	p.t.Helper()
	out := map[string]any{}
	if err := json.Unmarshal(p.read(filepath.Join(p.data, "node.json")), &out); err != nil {
		p.t.Fatal(err)
	}
	return out
}
