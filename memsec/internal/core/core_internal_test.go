package core

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/awnumar/memguard"

	"github.com/openkcm/krypton-cluster/memsec/internal/arena"
)

const childEnv = "MEMSEC_CORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		crashes[name]()
		fmt.Fprintln(os.Stderr, "SURVIVED")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// served stands for the recovery of an RPC server around a handler.
func served(fn func()) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintln(os.Stderr, "RECOVERED")
		}
	}()
	fn()
}

// crashes are the ways in which the enclaves can be lost.
var crashes = map[string]func(){
	"key of memguard gone": func() {
		st := New(1 << 20)
		ref, err := st.Take([]byte("sentinel"), Cold)
		if err != nil {
			panic(err)
		}
		memguard.Purge() // behind the store's back
		served(func() { err = st.Reveal(ref, func([]byte) error { return nil }) })
		fmt.Fprintln(os.Stderr, "ANSWERED", err)
	},
	"panic of memguard": func() {
		served(func() { _ = withMemguard(func() error { panic("sentinel") }) })
	},
	"panic of memguard in a purge": func() {
		served(func() { arena.Exclusive(func() { defer stopOnPanic(); panic("sentinel") }) })
	},
}

func TestLosingTheEnclavesStopsTheProcess(t *testing.T) {
	for name := range crashes {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+name)
		raw, err := cmd.CombinedOutput()
		out := string(raw)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("%s: exit %v\n%s", name, err, out)
		}
		if !strings.Contains(out, "the process stops and must be unsealed again") {
			t.Errorf("%s: no word to the operator:\n%s", name, out)
		}
		for _, bad := range []string{"SURVIVED", "RECOVERED", "ANSWERED", "sentinel\n"} {
			if strings.Contains(out, bad) {
				t.Errorf("%s: %s\n%s", name, bad, out)
			}
		}
	}
}

func TestEntryFillsCacheLines(t *testing.T) {
	if n := unsafe.Sizeof(entry{}); unsafe.Sizeof(uintptr(0)) == 8 && n != 128 {
		t.Errorf("an entry has %d bytes", n)
	}
}

func TestI2_PlaceWithUsedUpGenerationsIsRetired(t *testing.T) {
	st := New(1 << 20)
	old, err := st.Take([]byte("old"), Hot)
	if err != nil {
		t.Fatal(err)
	}
	i := uint32(old & indexMask)
	e := st.at(i)
	e.state.Store(maxGen << genShift) // as if it had been used that often
	last := Ref(uint64(maxGen)<<genShift | uint64(i))
	if st.Len(last) != 3 || st.Len(old) != 0 {
		t.Fatalf("lengths %d and %d", st.Len(last), st.Len(old))
	}
	st.Destroy(last)
	for range 3 {
		ref, err := st.Take([]byte("new"), Hot)
		if err != nil {
			t.Fatal(err)
		}
		if uint32(ref&indexMask) == i {
			t.Error("a place without generations was used again")
		}
	}
	if _, err := st.MAC(last); !errors.Is(err, ErrDestroyed) {
		t.Errorf("the last handle of a retired place: %v", err)
	}
	if s := st.Report(); s.Secrets != 3 || s.UsedBytes != 3*32 {
		t.Errorf("%+v", s)
	}
}

func TestI2_ForgedRefIsRefused(t *testing.T) {
	st := New(1 << 20)
	ref, err := st.Take([]byte("x"), Hot)
	if err != nil {
		t.Fatal(err)
	}
	for _, forged := range []Ref{1, indexMask, 1 << genShift << 3, ref + 1, ref + 1<<genShift, ref | 1<<63, ^Ref(0)} {
		if _, err := st.MAC(forged); !errors.Is(err, ErrDestroyed) {
			t.Errorf("%#x: %v", uint64(forged), err)
		}
		st.Destroy(forged)
	}
	if st.Len(ref) != 1 {
		t.Error("a forged handle destroyed a secret")
	}
}

func TestAcquireIsBounded(t *testing.T) {
	st := New(1 << 20)
	ref, err := st.Take([]byte("x"), Hot)
	if err != nil {
		t.Fatal(err)
	}
	e := st.at(uint32(ref & indexMask))
	e.state.Add(refMask) // as if that many operations ran
	if _, err := st.MAC(ref); !errors.Is(err, ErrBudget) {
		t.Errorf("one operation too many: %v", err)
	}
	st.Destroy(ref)
	if e.state.Load()&deadBit == 0 {
		t.Error("not marked")
	}
	e.state.Add(^uint64(refMask - 2)) // all but one leave
	if !bytes.Equal(e.slot.Bytes(), []byte("x")) {
		t.Error("wiped under the last operation")
	}
	st.release(ref, e)
	if s := st.Report(); s.Secrets != 0 || s.UsedBytes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestI1_WipedByTheLastOperationOnly(t *testing.T) {
	st := New(1 << 20)
	ref, err := st.Take([]byte("key"), Hot)
	if err != nil {
		t.Fatal(err)
	}
	first, err := st.view(ref)
	if err != nil {
		t.Fatal(err)
	}
	second, err := st.view(ref)
	if err != nil {
		t.Fatal(err)
	}
	st.Destroy(ref)
	st.Destroy(ref)
	if _, err := st.view(ref); !errors.Is(err, ErrDestroyed) {
		t.Errorf("a new operation began: %v", err)
	}
	st.end(first)
	if string(second.b) != "key" || st.Report().Secrets != 1 {
		t.Error("wiped while an operation runs")
	}
	// Nobody may take the slot while it is in use.
	for range 200 {
		if _, err := st.Take([]byte("new"), Hot); err != nil {
			t.Fatal(err)
		}
	}
	if string(second.b) != "key" {
		t.Error("handed out while an operation runs")
	}
	b := second.b
	st.end(second)
	if string(b) == "key" || st.Report().Secrets != 200 {
		t.Error("not wiped by the last operation")
	}
}

func TestTableGrowsAndEnds(t *testing.T) {
	st := New(1 << 20)
	refs := map[Ref]bool{}
	for range 3*chunkSize + 1 {
		ref, err := st.Take([]byte("x"), Hot)
		if err != nil {
			t.Fatal(err)
		}
		refs[ref] = true
	}
	if len(refs) != 3*chunkSize+1 {
		t.Error("a handle was given out twice")
	}
	st.mu.Lock()
	st.next = maxEntries
	st.mu.Unlock()
	used := st.Report().UsedBytes
	if _, err := st.Take([]byte("x"), Hot); !errors.Is(err, ErrBudget) {
		t.Errorf("a full table: %v", err)
	}
	if got := st.Report().UsedBytes; got != used {
		t.Errorf("a refused secret kept %d bytes", got-used)
	}
}

func TestExhaustedMemoryIsAnError(t *testing.T) {
	st := New(2 * arena.Piece())
	var refs []Ref
	var err error
	for err == nil {
		var ref Ref
		if ref, err = st.Take(bytes.Repeat([]byte{7}, 1000), Hot); err == nil {
			refs = append(refs, ref)
		}
	}
	if !errors.Is(err, ErrBudget) || !strings.Contains(err.Error(), "LimitMEMLOCK") {
		t.Errorf("exhausted: %v", err)
	}
	for _, op := range []func() error{
		func() error { _, err := st.Copy(refs[0], Hot); return err },
		func() error { _, err := st.Expand(refs[0], nil, Hot); return err },
		func() error { _, err := st.Fill(32, Cold, func([]byte) error { return nil }); return err },
		func() error { return st.Reveal(refs[0], func([]byte) error { return nil }) },
	} {
		if err := op(); !errors.Is(err, ErrBudget) {
			t.Errorf("an operation without memory: %v", err)
		}
	}
	for _, ref := range refs {
		if _, err := st.MAC(ref); err != nil {
			t.Errorf("the others suffered: %v", err)
		}
		st.Destroy(ref)
	}
	if _, err := st.Take(make([]byte, 4096), Hot); err != nil {
		t.Errorf("freed memory does not serve: %v", err)
	}
}

func TestHmacLeavesItsInputsAlone(t *testing.T) {
	key, part := bytes.Repeat([]byte{1}, 100), []byte("part")
	var a, b [32]byte
	hmacSum(&a, key, part)
	hmacSum(&b, key, part)
	if a != b || !bytes.Equal(key, bytes.Repeat([]byte{1}, 100)) || string(part) != "part" {
		t.Error("an input changed")
	}
}

func TestI3_PurgeEndsEverythingAtOneInstant(t *testing.T) {
	st := New(1 << 20)
	parent, err := st.Take([]byte("parent"), Hot)
	if err != nil {
		t.Fatal(err)
	}
	epoch := st.epoch.Load()
	running, err := st.view(parent) // began before
	if err != nil {
		t.Fatal(err)
	}
	st.epoch.Add(1) // the instant; the walk comes later
	if _, err := st.Expand(parent, nil, Hot); !errors.Is(err, ErrDestroyed) {
		t.Errorf("an operation began after the purge: %v", err)
	}
	if string(running.b) != "parent" {
		t.Error("wiped under a running operation")
	}
	if _, err := st.copyIn(epoch, running.b, Hot); !errors.Is(err, ErrDestroyed) {
		t.Errorf("what a running operation made was published: %v", err)
	}
	fresh, err := st.Take([]byte("fresh"), Hot)
	if err != nil || st.Len(fresh) != 5 {
		t.Errorf("a new secret after the instant: %v", err)
	}
	st.end(running)
	st.destroyAll()
	if s := st.Report(); s.Secrets != 0 || s.UsedBytes != 0 {
		t.Errorf("not wiped: %+v", s)
	}
}

func TestI4_MemguardIsEnteredByOneAtATime(t *testing.T) {
	inside, entered := 0, 0 // not atomic: the race detector looks on
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := withMemguard(func() error {
					inside++
					entered++
					if inside != 1 {
						t.Error("two at a time")
					}
					inside--
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if entered != 8*50 {
		t.Errorf("entered %d times", entered)
	}
}

func TestI5_CallbacksNeverSeeAResidentSlot(t *testing.T) {
	st := New(1 << 20)
	var seen []byte
	look := func(b []byte) error { seen = b; return nil }
	same := func(ref Ref) bool {
		return unsafe.SliceData(seen) == unsafe.SliceData(st.at(uint32(ref&indexMask)).slot.Bytes())
	}
	ref, err := st.Fill(32, Hot, look)
	if err != nil || same(ref) {
		t.Errorf("fill writes into the resident slot, %v", err)
	}
	if err := st.Reveal(ref, look); err != nil || same(ref) {
		t.Errorf("reveal shows the resident slot, %v", err)
	}
	ref, err = st.Random(readerFunc(func(b []byte) (int, error) { seen = b; return len(b), nil }), 32, Hot)
	if err != nil || same(ref) {
		t.Errorf("a random source writes into the resident slot, %v", err)
	}
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestConcurrentDestroyReclaimsOnce(t *testing.T) {
	st := New(1 << 20)
	for range 300 {
		ref, err := st.Take([]byte("key"), Hot)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { st.Destroy(ref) })
			wg.Go(func() { _, _ = st.MAC(ref) })
		}
		wg.Wait()
	}
	if s := st.Report(); s.Secrets != 0 || s.UsedBytes != 0 || st.next != 1 || len(st.free) != 1 {
		t.Errorf("%+v, %d places, %d free", s, st.next, len(st.free))
	}
}
