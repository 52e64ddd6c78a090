//go:build linux && (amd64 || arm64)

package crash_test

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/jepsen/crash/steps"
)

var (
	everyStep = flag.Bool("crash.all", false, "die at every step, not at a sample")
	only      = flag.Int("crash.step", 0, "die at this step only")
	showLogs  = flag.Bool("crash.logs", false, "show the logs of the nodes")
	workers   = flag.Int("crash.workers", 8, "worlds at once")
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	steps.Shim()
	flag.Parse()
	// Worlds wait for elections most of the time; -crash.workers says how many there
	// are at once, and not how many processors.
	parallel := false
	flag.Visit(func(f *flag.Flag) { parallel = parallel || f.Name == "test.parallel" })
	if !parallel {
		if err := flag.Set("test.parallel", "64"); err != nil {
			panic(err)
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crash-test-")
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
	slots = make(chan struct{}, *workers)
	code := m.Run()
	for _, o := range []*once{&autoNode, &sharesNode} {
		if o.made != nil {
			o.made.close()
		}
	}
	if path := os.Getenv("RESULT_FIELDS"); path != "" && code == 0 {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprintf(f, "steps=%d\ndeaths=%d\n", counted.Load(), deaths.Load())
		if err := f.Close(); err != nil {
			return 1
		}
	}
	return code
}

var (
	slots   chan struct{}
	counted atomic.Int64 // steps of all scenarios
	deaths  atomic.Int64 // worlds in which the program died
)

// scenario is one thing that people do.
type scenario struct {
	name string
	// base makes the world in which it begins.
	base func(w *world)
	// boot: steps are counted from the first instruction. plain: answers are no
	// steps. remote: do asks another node than the victim.
	boot, plain, remote bool
	victim              string // node that dies; default n1
	// ready waits until the operation may begin. With boot it is the operation.
	ready func(w *world) error
	// do is the operation. It is called again after the death, with the same
	// request id.
	do func(ctx context.Context, w *world) error
	// meanwhile looks at the others while the victim is dead. Only with remote.
	meanwhile func(w *world)
	// after looks at the world once the victim runs again. acked: do said that it
	// was done.
	after func(w *world, acked bool)
	// fates are those that make sense; default all.
	fates []steps.Fate
}

var allFates = []steps.Fate{steps.Kill, steps.PowerCut, steps.Term}

func (s scenario) test(t *testing.T) {
	t.Helper()
	t.Parallel()
	// The world of the sample that dies after the answer, under the hardest fate, is
	// also the one that says which steps there are.
	var all []steps.Step
	if *everyStep || *only > 0 {
		all = s.record(t)
	} else {
		all = s.die(t, steps.PowerCut, never)
	}
	if t.Failed() {
		return
	}
	if len(all) == 0 {
		t.Fatal("there is no step")
	}
	counted.Add(int64(len(all)))
	test := t.Name()
	fates := s.fates
	if fates == nil {
		fates = allFates
	}
	for _, f := range fates {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			for _, at := range choose(test, f, all) {
				t.Run(fmt.Sprintf("%03d", at), func(t *testing.T) {
					t.Parallel()
					_ = s.die(t, f, at)
				})
			}
		})
	}
}

// never is a step that no operation has: the death comes after the answer.
const never = 9999

// choose returns the steps to die at: all of them and three more, because two
// runs are not the same to the last step, or a sample of one.
func choose(test string, f steps.Fate, recorded []steps.Step) []int {
	n := len(recorded)
	switch {
	case *only > 0:
		return []int{*only}
	case *everyStep:
		all := make([]int, n+3, n+4)
		for i := range all {
			all[i] = i + 1
		}
		return append(all, never)
	}
	return []int{drawn(test, f, recorded)}
}

// kind is what is lost when the program dies before a step.
func kind(s steps.Step) string {
	switch s.Call {
	case "fsync", "fdatasync":
		return "content, which is not on disk"
	case "create", "rename", "link", "unlink", "mkdir", "chmod", "fchmod":
		return "name"
	}
	if s.Path == "socket" || s.Path == "output" {
		return "answer"
	}
	return "content"
}

// drawn returns the step of the sample. It is the same in every run with the same
// steps, so that who sees a failure has it again. The fates of one scenario die
// before steps of different kinds, and the scenarios begin with different ones: a
// sample of the numbers would be of writes to the log for the most part.
func drawn(test string, f steps.Fate, recorded []steps.Step) int {
	of := map[string][]int{}
	for i, s := range recorded {
		of[kind(s)] = append(of[kind(s)], i+1)
	}
	kinds := slices.Sorted(maps.Keys(of))
	h := fnv.New32a()
	_, _ = h.Write([]byte(test)) // never fails
	from := int(h.Sum32() >> 1)
	in := of[kinds[(from+int(f))%len(kinds)]]
	return in[from/len(kinds)%len(in)]
}

// record lets the operation come to its end and returns its steps.
func (s scenario) record(t *testing.T) []steps.Step {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	w := newWorld(t)
	s.base(w)
	v := w.node(s.dies())
	v.start(plan{boot: s.boot, plain: s.plain})
	if err := s.ready(w); err != nil {
		t.Fatal(err)
	}
	if !s.boot {
		v.proc.Arm(0, steps.Kill)
		if err := s.do(t.Context(), w); err != nil {
			t.Fatalf("without a death: %v", err)
		}
	}
	got := v.proc.Disarm()
	if len(got) == 0 {
		t.Fatal("there is no step")
	}
	if testing.Verbose() {
		for _, st := range got {
			t.Log(st)
		}
	}
	s.after(w, true)
	w.finish()
	return got
}

func (s scenario) dies() string {
	if s.victim == "" {
		return "n1"
	}
	return s.victim
}

// die lets the victim die at one step, and looks. It returns the steps before.
func (s scenario) die(t *testing.T, f steps.Fate, at int) []steps.Step {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	w := newWorld(t)
	s.base(w)
	v := w.node(s.dies())
	v.start(plan{fate: f, at: at, boot: s.boot, plain: s.plain})
	err := s.ready(w)
	if err == nil && !s.boot {
		v.proc.Arm(at, f)
		err = s.attempt(t, w, v, f)
	}
	got := v.proc.Disarm()
	switch step, hit := v.proc.At(); {
	case hit:
		t.Logf("%s before %v; the caller got: %v", f, step, err)
	case v.revived:
		t.Logf("%s in the middle; the caller got: %v", f, err)
	case err != nil:
		t.Fatalf("it did not die, and failed: %v", err)
	default: // at once after the answer
		t.Logf("%s after the operation", f)
		v.proc.Now(f)
	}
	deaths.Add(1)
	if !v.revived {
		v.revive(f)
	}
	if f == steps.Term && !s.boot {
		w.named(err)
	}
	s.after(w, err == nil && !s.boot)
	w.finish()
	return got
}

// attempt is the operation, during which the victim may die. If it is another
// node that is asked, the victim comes back before the answer is waited for.
func (s scenario) attempt(t *testing.T, w *world, v *node, f steps.Fate) error {
	t.Helper()
	if !s.remote {
		return s.do(t.Context(), w)
	}
	answer := make(chan error, 1)
	go func() { answer <- s.do(t.Context(), w) }()
	select {
	case err := <-answer:
		return err
	case <-v.proc.Hit():
		t.Logf("%s in the middle", f)
		if s.meanwhile != nil {
			<-v.proc.Done()
			s.meanwhile(w)
		}
		v.revive(f)
		v.revived = true
		return <-answer
	}
}

// revive waits for the death of the node and starts it again.
func (n *node) revive(f steps.Fate) {
	n.w.Helper()
	select {
	case <-n.proc.Done():
	case <-time.After(stopLimit):
		n.w.Fatalf("it did not stop in %v", stopLimit)
	}
	status, err := n.proc.Wait()
	n.w.must(err)
	switch f {
	case steps.Term:
		if status != 0 {
			n.w.Errorf("it ended with status %d", status)
		}
	case steps.PowerCut:
		n.w.must(n.proc.Restore())
	case steps.Kill:
	}
	n.start(plan{})
	if err := n.answers(); err != nil {
		n.w.Fatalf("it does not start again: %v", err)
	}
}

// keeper is a test whose world outlives it.
type keeper struct{ testing.TB }

// Cleanup implements [testing.TB]: run does it.
func (keeper) Cleanup(func()) {}

// once makes a world of a kind once and copies it for each that begins there.
type once struct {
	make func(w *world)

	mu   sync.Mutex
	made *world
}

// in makes w a copy.
func (o *once) in(w *world) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made == nil {
		m := newWorld(keeper{w.TB})
		o.make(m)
		for _, n := range m.nodes {
			n.proc.Signal(15)
			_, _ = n.proc.Wait()
		}
		o.made = m
	}
	w.must(os.CopyFS(w.dir, os.DirFS(o.made.dir)))
	w.must(filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	}))
	w.shares, w.ciphertext, w.fprint = o.made.shares, o.made.ciphertext, o.made.fprint
}
