//go:build unix

package devcluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/leaktest"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	if devcluster.RunRole() {
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "devcluster-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "krypton")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/openkcm/krypton-cluster/cmd/krypton")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // with the flags of scripts/build, so that nothing is compiled twice
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build krypton: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(leaktest.Known()...); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func start(t *testing.T, o devcluster.Options) *devcluster.Cluster {
	t.Helper()
	o.Binary, o.Output = binary, t.Output()
	began := time.Now()
	c, err := devcluster.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes serve after %s", len(c.Nodes()), time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		if t.Failed() {
			c.WriteLogs(t.Output())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// load runs data-key operations over all nodes until stop is closed.
type load struct {
	wg   sync.WaitGroup
	stop chan struct{}

	mu       sync.Mutex
	progress *sync.Cond // done has grown
	done     int
	failures []error
}

func startLoad(cl *client.Client, s client.Scope) *load {
	l := &load{stop: make(chan struct{})}
	l.progress = sync.NewCond(&l.mu)
	for range 4 {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				l.record(once(cl, s))
			}
		})
	}
	return l
}

func (l *load) record(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	if err != nil {
		l.failures = append(l.failures, err)
	}
	l.progress.Broadcast()
}

// waitFor returns when n more operations were done. Each ends by its deadline,
// so this does too.
func (l *load) waitFor(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for target := l.done + n; l.done < target; {
		l.progress.Wait()
	}
}

func once(cl *client.Client, s client.Scope) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	key, err := cl.GenerateDataKey(ctx, s, 0)
	if err != nil {
		return err
	}
	again, err := cl.UnwrapDataKey(ctx, s, key.Wrapped)
	if err == nil && string(key.Plaintext.Bytes()) != string(again.Plaintext.Bytes()) {
		err = errors.New("another data key came back")
	}
	return err
}

func TestNoCallFailsWhenTheLeaderIsKilledUnderLoad(t *testing.T) {
	c := start(t, devcluster.Options{Tenant: "demo", Service: "payments"})
	ctx := t.Context()
	cl, err := c.Client(ctx, auth.RoleWorkload)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	overREST, err := c.RESTClient(ctx, auth.RoleWorkload)
	if err != nil {
		t.Fatal(err)
	}
	defer overREST.Close()
	scope := client.Scope{Service: "tenants/demo/services/payments", Resource: "row-1"}

	before, err := c.LeaderIndex(ctx)
	if err != nil {
		t.Fatal(err)
	}
	victim := c.Nodes()[before]
	addrs := victim.Addresses()
	loads := []*load{startLoad(cl, scope), startLoad(overREST, scope)}
	stopped := false
	stopLoad := func() {
		if !stopped {
			stopped = true
			for _, l := range loads {
				close(l.stop)
				l.wg.Wait()
			}
		}
	}
	defer stopLoad()
	for _, l := range loads {
		l.waitFor(100)
	}
	killed := time.Now()
	victim.Kill()
	after, err := c.LeaderIndex(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s leads %s after %s was killed", c.Nodes()[after].Name(), time.Since(killed).Round(time.Millisecond), victim.Name())
	if after == before {
		t.Error("a dead node leads")
	}
	for _, l := range loads {
		l.waitFor(1000)
	}
	stopLoad()
	for i, l := range loads {
		if len(l.failures) > 0 {
			t.Fatalf("%d of %d calls failed over %s, the first with: %v", len(l.failures), l.done, []string{"gRPC", "REST"}[i], l.failures[0])
		}
	}

	// The dead node comes back on its addresses, unseals itself and serves.
	if err := victim.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := victim.WaitServing(ctx); err != nil {
		t.Fatal(err)
	}
	if victim.Addresses() != addrs {
		t.Errorf("I2: addresses %v became %v", addrs, victim.Addresses())
	}
	one, err := c.NodeClient(ctx, auth.RoleWorkload, victim)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if err := once(one, scope); err != nil {
		t.Error(err)
	}

	// Everybody has the identity that the files say, and nobody another's rights.
	for _, p := range c.People() {
		pc, err := c.Client(ctx, p.Role)
		if err != nil {
			t.Fatal(err)
		}
		who, err := pc.Access().WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
		if err != nil || who.GetName() != p.Name || auth.Role(who.GetRole()) != p.Role {
			t.Errorf("%s is %v: %v", p.Role, who, err)
		}
		if _, err := pc.GenerateDataKey(ctx, scope, 0); (p.Role == auth.RoleWorkload) != (err == nil) {
			t.Errorf("%s generates a data key: %v", p.Role, err)
		} else if err != nil && !errs.Is(err, errs.Denied) && !errs.Is(err, errs.NotFound) {
			t.Errorf("%s is refused with %v", p.Role, err)
		}
		pc.Close()
	}

	var pids []int
	for _, n := range c.Nodes() {
		pids = append(pids, n.PIDs()...)
	}
	if len(pids) != 4 {
		t.Errorf("%d processes ran, want 4", len(pids))
	}
	dir := c.Dir()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("I1: process %d is still there: %v", pid, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("I3: %s is still there: %v", dir, err)
	}
	if err := victim.Start(ctx); !errs.Is(err, errs.FailedState) {
		t.Errorf("a closed cluster starts a node: %v", err)
	}
}

func TestI3_AGivenDirStays(t *testing.T) {
	dir := t.TempDir()
	o := devcluster.Options{Nodes: 1, Dir: dir, Tenant: "demo", Service: "payments"}
	c := start(t, o)
	scope := client.Scope{Service: "tenants/demo/services/payments"}
	cl, err := c.Client(t.Context(), auth.RoleWorkload)
	if err != nil {
		t.Fatal(err)
	}
	key, err := cl.GenerateDataKey(t.Context(), scope, 0)
	if err != nil {
		t.Fatal(err)
	}
	cl.Close()
	addrs := c.Nodes()[0].Addresses()
	people := keysOf(t, c)
	if err := c.Close(); err != nil {
		t.Fatalf("the node did not stop when asked: %v", err)
	}

	c = start(t, o)
	if c.Nodes()[0].Addresses() != addrs {
		t.Errorf("I2: addresses %v became %v", addrs, c.Nodes()[0].Addresses())
	}
	if cl, err = c.Client(t.Context(), auth.RoleWorkload); err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	again, err := cl.UnwrapDataKey(t.Context(), scope, key.Wrapped)
	if err != nil || string(again.Plaintext.Bytes()) != string(key.Plaintext.Bytes()) {
		t.Fatalf("the key of the first run does not open in the second: %v", err)
	}
	if diff := cmp.Diff(people, keysOf(t, c)); diff != "" {
		t.Errorf("people have other keys than before:\n%s", diff)
	}

	// The workload's files are of one tenant at a time, however often that changes.
	if err := c.CreateTenant(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	for _, tenant := range []string{"other", "demo"} {
		if _, err := c.Issue(t.Context(), auth.RoleWorkload, tenant); err != nil {
			t.Fatal(err)
		}
		again, err := c.Client(t.Context(), auth.RoleWorkload)
		if err != nil {
			t.Fatal(err)
		}
		who, err := again.Access().WhoAmI(t.Context(), &kryptonv1.WhoAmIRequest{})
		if err != nil || who.GetTenant() != "tenants/"+tenant {
			t.Errorf("the workload is %v, want one of %s: %v", who, tenant, err)
		}
		again.Close()
	}
}

// keysOf returns the content of the key files of everybody.
func keysOf(t *testing.T, c *devcluster.Cluster) map[string]string {
	t.Helper()
	keys := map[string]string{}
	for _, p := range c.People() {
		raw, err := os.ReadFile(p.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		keys[p.Role.String()] = string(raw)
	}
	return keys
}
