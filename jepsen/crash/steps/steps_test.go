//go:build linux && (amd64 || arm64)

package steps_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/jepsen/crash/steps"
)

// roleVar makes the test binary play the traced program, or its tracer.
const roleVar = "STEPS_TEST_ROLE"

func TestMain(m *testing.M) {
	steps.Shim()
	if role := os.Getenv(roleVar); role != "" {
		play(role, os.Args[1])
		return
	}
	os.Exit(m.Run())
}

func play(role, dir string) {
	try := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	switch role {
	case "replace", "careless": // a file, in the order that is right, or without a sync of its content
		f, err := os.OpenFile(filepath.Join(dir, "a.tmp"), os.O_CREATE|os.O_WRONLY, 0o600)
		try(err)
		_, err = f.WriteString("new")
		try(err)
		if role == "replace" {
			try(f.Sync())
		}
		try(f.Close())
		try(os.Rename(filepath.Join(dir, "a.tmp"), filepath.Join(dir, "a")))
		d, err := os.Open(dir)
		try(err)
		try(d.Sync())
		try(os.Mkdir(filepath.Join(dir, "later"), 0o700))
	case "term": // a signal is seen, and the work goes on
		seen := make(chan os.Signal, 1)
		signal.Notify(seen, syscall.SIGTERM)
		try(os.WriteFile(filepath.Join(dir, "first"), nil, 0o600))
		<-seen
		try(os.WriteFile(filepath.Join(dir, "second"), nil, 0o600))
	case "sleep":
		<-time.After(time.Hour)
	case "tracer":
		p, err := steps.Start(steps.Options{Path: self(), Args: []string{dir}, Env: environment("sleep"), Dir: dir})
		try(err)
		fmt.Println(p.PID())
		<-time.After(time.Hour)
	}
}

func self() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return exe
}

func environment(role string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, roleVar+"=") {
			env = append(env, kv)
		}
	}
	// A program under the race detector waits for a second before it exits.
	return append(env, roleVar+"="+role, "GORACE=atexit_sleep_ms=0")
}

func start(t *testing.T, role, dir string, fate steps.Fate, at int) *steps.Process {
	t.Helper()
	p, err := steps.Start(steps.Options{
		Path: self(), Args: []string{dir}, Env: environment(role), Dir: dir, Stderr: os.Stderr,
		Shadow: fate == steps.PowerCut, First: fate, At: at,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// content returns what is in a directory: names, and the bytes of files.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || d.IsDir() {
			got[rel+"/"] = ""
			return err
		}
		raw, err := os.ReadFile(path)
		got[rel] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// old returns a directory with a file "a".
func old(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

var replace = []string{"create a.tmp", "write a.tmp", "fsync a.tmp", "rename a.tmp a", "fsync .", "mkdir later"}

func TestStepsAreThoseOfTheProgram(t *testing.T) {
	t.Parallel()
	p := start(t, "replace", old(t), steps.Kill, 0)
	if status, err := p.Wait(); status != 0 || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	var got []string
	for _, s := range p.Disarm() {
		got = append(got, s.Kind())
	}
	if diff := cmp.Diff(replace, got); diff != "" {
		t.Error(diff)
	}
	if _, hit := p.At(); hit {
		t.Error("step 0 was met")
	}
}

func TestI1_AStepAtWhichItIsKilledIsNotDone(t *testing.T) {
	t.Parallel()
	after := []map[string]string{ // before step 1, 2, ...
		{"a": "old"},
		{"a": "old", "a.tmp": ""},
		{"a": "old", "a.tmp": "new"},
		{"a": "old", "a.tmp": "new"},
		{"a": "new"},
		{"a": "new"},
	}
	for i, want := range after {
		t.Run(replace[i], func(t *testing.T) {
			t.Parallel()
			dir := old(t)
			p := start(t, "replace", dir, steps.Kill, i+1)
			if status, err := p.Wait(); status != -1 || err != nil {
				t.Fatalf("status %d, %v", status, err)
			}
			if s, hit := p.At(); !hit || s.Kind() != replace[i] || s.N != i+1 {
				t.Errorf("killed at %v, %v", s, hit)
			}
			if diff := cmp.Diff(want, content(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestI2_APowerCutLeavesWhatWasSynced(t *testing.T) {
	t.Parallel()
	for role, want := range map[string][]map[string]string{
		"replace": {{"a": "old"}, {"a": "old"}, {"a": "old"}, {"a": "old"}, {"a": "old"}, {"a": "new"}},
		// The name without the content: what the sync before a rename is for.
		"careless": {{"a": "old"}, {"a": "old"}, {"a": "old"}, {"a": "old"}, {"a": ""}},
	} {
		for i, want := range want {
			t.Run(fmt.Sprint(role, i+1), func(t *testing.T) {
				t.Parallel()
				dir := old(t)
				p := start(t, role, dir, steps.PowerCut, i+1)
				if status, err := p.Wait(); status != -1 || err != nil {
					t.Fatalf("status %d, %v", status, err)
				}
				if err := p.Restore(); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, content(t, dir)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestTermIsASignalAndNoDeath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, "term", dir, steps.Term, 1)
	if status, err := p.Wait(); status != 0 || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	if diff := cmp.Diff(map[string]string{"first": "", "second": ""}, content(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestI3_TheProgramDiesWithItsTracer(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(self(), t.TempDir())
	cmd.Env = environment("tracer")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	gone := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(raw), ") Z ") {
			return // gone, or nobody waits for its status
		}
		select {
		case <-gone:
			t.Fatal("the program lives on")
		case <-tick.C:
		}
	}
}

func TestI4_OtherChildrenKeepTheirStatus(t *testing.T) {
	t.Parallel()
	p := start(t, "sleep", t.TempDir(), 0, 0)
	for i := range 30 {
		cmd := exec.Command("/bin/sh", "-c", "exit 7")
		err := cmd.Run()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 7 {
			t.Fatalf("child %d: %v", i, err)
		}
		q := start(t, "replace", old(t), 0, 0) // on a thread that may have had children
		if status, err := q.Wait(); status != 0 || err != nil {
			t.Fatalf("status %d, %v", status, err)
		}
	}
	p.Signal(syscall.SIGKILL)
	if status, err := p.Wait(); status != -1 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}
