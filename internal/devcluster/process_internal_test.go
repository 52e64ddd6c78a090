//go:build unix

package devcluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// roleVar makes the test binary play another program.
const roleVar = "DEVCLUSTER_TEST_ROLE"

func play(role string) []string { return append(os.Environ(), roleVar+"="+role) }

// RunRole plays a role of the tests of processes; false if there is none to play.
func RunRole() bool {
	switch os.Getenv(roleVar) {
	case "sleep":
		<-time.After(time.Hour)
	case "parent": // starts a child whose output is the FIFO in its argument, and sleeps
		if _, err := startProcess(os.Args[0], nil, play("sleep"), os.Args[1]); err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString("started\n")
		<-time.After(time.Hour)
	default:
		return false
	}
	return true
}

// fifo makes a named pipe. ended is closed when the last process that holds it
// for writing is gone; release gives up the test's own hold, which is there so
// that opening does not block.
func fifo(t *testing.T) (path string, release func(), ended <-chan struct{}) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	hold, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan struct{})
	go func() {
		defer close(ch)
		_, _ = io.Copy(io.Discard, r)
	}()
	t.Cleanup(func() {
		_ = hold.Close()
		_ = r.Close()
		<-ch
	})
	return path, func() { _ = hold.Close() }, ch
}

func TestI1_ProcessesDieWithTheOneThatStartedThem(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("only Linux has a death signal; the package comment says so")
		return
	}
	path, release, ended := fifo(t)
	log := filepath.Join(t.TempDir(), "log")
	p, err := startProcess(os.Args[0], []string{path}, play("parent"), log)
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	if err := until(t.Context(), clock.System{}, 10*time.Second, "the child runs", func(context.Context) error {
		raw, err := os.ReadFile(log)
		if err == nil && !bytes.Contains(raw, []byte("started")) {
			err = errors.New("not yet")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	release()
	// Only the parent, not its group: the child must go by the death signal.
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the child outlived its parent")
	}
}

func TestI1_KillEndsTheProcess(t *testing.T) {
	p, err := startProcess(os.Args[0], nil, play("sleep"), filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	if p.ended() {
		t.Fatal("ended at once")
	}
	p.kill()
	p.kill() // again is harmless
	if err := syscall.Kill(p.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("the process is still there: %v", err)
	}
	if p.err == nil {
		t.Error("a killed process did not end well")
	}
	if err := p.terminate(); err != nil {
		t.Errorf("terminate after the end: %v", err)
	}
}

func TestAProgramThatCannotStartIsAnError(t *testing.T) {
	if _, err := startProcess(filepath.Join(t.TempDir(), "missing"), nil, nil, filepath.Join(t.TempDir(), "log")); err == nil {
		t.Fatal("started a program that is not there")
	}
}

func TestI5_NodesDoNotSeeTheCallersConfiguration(t *testing.T) {
	got := environment([]string{"HOME=/home/a", "KRYPTON_LISTEN_GRPC=:1", "PATH=/bin", "KRYPTON_ADDR=x", "MY_KRYPTON_X=1"})
	if diff := cmp.Diff([]string{"HOME=/home/a", "PATH=/bin", "MY_KRYPTON_X=1"}, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestI4_ConfigurationIsAcceptedAndStaysOnLoopback(t *testing.T) {
	chosen, err := choosePorts()
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]cluster.Addresses{
		"chosen": chosen,
		"pinned": {GRPC: "127.0.0.1:4001", REST: "127.0.0.1:4002", Peer: "127.0.0.1:4003", Ops: "127.0.0.1:4004"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "n1.yaml")
			dir := filepath.Join(t.TempDir(), `a: "strange" #dir`) // YAML has to quote it
			raw, err := nodeConfig("n1", dir, dir+"/ks", segmentMiB, a, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := replaceFile(path, raw); err != nil {
				t.Fatal(err)
			}
			got, err := config.Load(config.Source{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			want := config.Default()
			want.Node.Name, want.Node.DataDir = "n1", dir
			want.Listen = config.Listen{GRPC: a.GRPC, REST: a.REST, Peer: a.Peer, Ops: a.Ops}
			want.Memory.LockMiB, want.Audit.SegmentMiB, want.Audit.ReserveMiB = lockMiB, segmentMiB, reserveMiB
			want.Keystores = []config.Keystore{{Name: KeystoreName, Type: "local", Settings: map[string]string{"dir": dir + "/ks"}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
			for _, addr := range []string{got.Listen.GRPC, got.Listen.REST, got.Listen.Peer, got.Listen.Ops} {
				if !strings.HasPrefix(addr, "127.0.0.1:") {
					t.Errorf("listens on %s", addr)
				}
			}
		})
	}
}

func TestI2_ANodeFindsItsAddressesAgain(t *testing.T) {
	c := newCluster(Options{Dir: t.TempDir(), SegmentMiB: segmentMiB})
	want := cluster.Addresses{GRPC: "127.0.0.1:4001", REST: "127.0.0.1:4002", Peer: "127.0.0.1:4003", Ops: "127.0.0.1:4004"}
	n := &Node{c: c, name: "n1", addrs: want}
	if err := n.writeConfig(); err != nil {
		t.Fatal(err)
	}
	again := &Node{c: c, name: "n1"}
	if err := again.readConfig(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again.Addresses()); diff != "" {
		t.Fatal(diff)
	}
}

func TestWaitingEndsWithTheLastReason(t *testing.T) {
	t.Run("patience", func(t *testing.T) {
		clk := &skipping{Fake: clock.NewFake(time.Unix(0, 0))}
		calls := 0
		err := until(t.Context(), clk, time.Second, "it rains", func(context.Context) error {
			calls++
			return errors.New("the sun shines")
		})
		if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "until it rains") || !strings.Contains(err.Error(), "the sun shines") {
			t.Fatalf("got %v", err)
		}
		if want := int(time.Second/pollEvery) + 1; calls != want {
			t.Errorf("asked %d times, want %d", calls, want)
		}
	})
	t.Run("final", func(t *testing.T) {
		calls := 0
		err := until(t.Context(), clock.System{}, time.Hour, "it rains", func(context.Context) error {
			calls++
			return final{errs.New(errs.NotFound, "no sky")}
		})
		if !errs.Is(err, errs.NotFound) || calls != 1 {
			t.Fatalf("asked %d times: %v", calls, err)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := until(ctx, clock.System{}, time.Hour, "it rains", func(context.Context) error {
			cancel()
			return errors.New("no")
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("success", func(t *testing.T) {
		clk := &skipping{Fake: clock.NewFake(time.Unix(0, 0))}
		calls := 0
		err := until(t.Context(), clk, time.Second, "it rains", func(context.Context) error {
			if calls++; calls < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil || calls != 3 {
			t.Fatalf("asked %d times: %v", calls, err)
		}
	})
}

// skipping is a clock on which a sleep takes no time.
type skipping struct{ *clock.Fake }

func (s *skipping) Sleep(ctx context.Context, d time.Duration) error {
	s.Advance(d)
	return ctx.Err()
}

func TestTheEndOfAnOutputIsShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var text strings.Builder
	for range 10_000 {
		text.WriteString("an early line that is long enough to be out of reach\n")
	}
	text.WriteString("one\ntwo\nthree\n")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := tail(&out, path, "n1| ", 2); err != nil {
		t.Fatal(err)
	}
	if out.String() != "n1| two\nn1| three\n" {
		t.Fatalf("got %q", out.String())
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"two nodes":                {Nodes: 2},
		"negative":                 {Nodes: -1},
		"service without a tenant": {Service: "payments"},
		"patience":                 {Patience: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := o.withDefaults(); !errs.Is(err, errs.InvalidArgument) {
				t.Fatalf("got %v", err)
			}
		})
	}
	o, err := Options{Binary: "krypton"}.withDefaults()
	if err != nil || o.Nodes != 3 || o.Patience != DefaultPatience || !filepath.IsAbs(o.Binary) {
		t.Fatalf("got %+v, %v", o, err)
	}
}

func TestADirectoryIsTakenOnlyIfItIsEmptyOrOurs(t *testing.T) {
	open := func(dir string, nodes int) (*Cluster, *state, error) {
		c := newCluster(Options{Dir: dir, Nodes: nodes, SegmentMiB: segmentMiB})
		s, err := c.openDir()
		return c, s, err
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(foreign, 3); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("foreign directory: %v", err)
	}
	ours := filepath.Join(t.TempDir(), "deep", "dir")
	if _, s, err := open(ours, 3); err != nil || s != nil {
		t.Fatalf("new directory: %v, %v", s, err)
	}
	if st, err := os.Stat(ours); err != nil || st.Mode().Perm() != dirMode {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for text, ok := range map[string]bool{
		`{"format":1,"nodes":3,"tenant":"demo"}`: true,
		`{"format":1,"nodes":5}`:                 false,
		`{"format":2,"nodes":3}`:                 false,
		`{`:                                      false,
	} {
		if err := os.WriteFile(filepath.Join(ours, stateFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, s, err := open(ours, 3)
		if ok && (err != nil || s.Tenant != "demo") || !ok && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	c, s, err := open("", 3)
	if err != nil || s != nil || !c.temp {
		t.Fatalf("temporary directory: %v, %v", s, err)
	}
	if err := c.Close(); err != nil || exists(c.dir) {
		t.Errorf("I3: the temporary directory stays: %v", err)
	}
}

func TestALongPathIsRefusedBeforeAnythingStarts(t *testing.T) {
	var steps []string
	_, err := Start(t.Context(), Options{
		Binary: os.Args[0], Dir: filepath.Join(t.TempDir(), strings.Repeat("d", 100)),
		Progress: func(s string) { steps = append(steps, s) },
	})
	if !errs.Is(err, errs.InvalidArgument) || len(steps) > 0 {
		t.Fatalf("steps %v: %v", steps, err)
	}
}

func TestAProcessThatEndsIsNotWaitedFor(t *testing.T) {
	program, err := exec.LookPath("false")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	var out strings.Builder
	_, err = Start(t.Context(), Options{Binary: program, Output: &out, Patience: time.Hour})
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "ended: exit status 1") {
		t.Fatalf("got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "krypton-dev-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("I3: %v stays, %v", left, err)
	}
}
