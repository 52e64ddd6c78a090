package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// broken is hardware that fails at the n-th call of an operation, once.
type broken struct {
	mu    sync.Mutex
	op    storeOp
	after int
	err   error
	hang  chan struct{} // the failing call waits for it
	calls map[storeOp]int
}

func (b *broken) before(op storeOp) error {
	b.mu.Lock()
	if b.calls == nil {
		b.calls = map[storeOp]int{}
	}
	b.calls[op]++
	hit := op == b.op && b.calls[op] == b.after
	b.mu.Unlock()
	if !hit {
		return nil
	}
	if b.hang != nil {
		<-b.hang
	}
	return b.err
}

func (b *broken) count(op storeOp) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[op]
}

// memory is the library's store in memory with a Close.
type memory struct{ *raft.InmemStore }

func (memory) Close() error { return nil }

func entry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: fmt.Appendf(nil, "command %d", i)}
}

type causes struct {
	mu  sync.Mutex
	all []error
}

func (c *causes) add(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, err)
}

func (c *causes) get() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]error(nil), c.all...)
}

func TestI3_AfterTheFirstErrorNothingIsWrittenOrReadAnyMore(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
	}{{"EIO", syscall.EIO}, {"ENOSPC", syscall.ENOSPC}} {
		for _, op := range []storeOp{opStore, opDelete, opSet, opGet, opGetKey, opFirst, opLast} {
			t.Run(tc.name+" in "+string(op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					below := memory{raft.NewInmemStore()}
					hw := &broken{op: op, after: 2, err: tc.err}
					var failed causes
					s := newStore(below, clock.System{}, hw, failed.add)
					defer func() { _ = s.Close() }()
					call := map[storeOp]func() error{
						opStore:  func() error { return s.StoreLog(entry(uint64(hw.count(opStore)) + 1)) },
						opDelete: func() error { return s.DeleteRange(100, 101) },
						opSet:    func() error { return s.Set([]byte("k"), []byte("v")) },
						opGet:    func() error { var l raft.Log; return s.GetLog(1, &l) },
						opGetKey: func() error { _, err := s.Get([]byte("k")); return err },
						opFirst:  func() error { _, err := s.FirstIndex(); return err },
						opLast:   func() error { _, err := s.LastIndex(); return err },
					}
					for _, first := range []storeOp{opStore, opSet, op} {
						if hw.count(op) == 1 {
							break
						}
						if err := call[first](); err != nil {
							t.Fatalf("%s before the fault: %v", first, err)
						}
					}
					if err := call[op](); !errors.Is(err, tc.err) {
						t.Fatalf("the fault came back as %v", err)
					}
					before := map[storeOp]int{}
					for o := range call {
						before[o] = hw.count(o)
					}
					for o, f := range call {
						if err := f(); !errors.Is(err, tc.err) {
							t.Errorf("%s after the fault: %v", o, err)
						}
						synctest.Wait()
						if hw.count(o) != before[o] {
							t.Errorf("%s reached the disk after the fault", o)
						}
					}
					if got := failed.get(); len(got) != 1 || !errors.Is(got[0], tc.err) {
						t.Errorf("the node was told %v", got)
					}
				})
			})
		}
	}
}

func TestI3_ACallThatDoesNotReturnIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hw := &broken{op: opStore, after: 1, hang: make(chan struct{})}
		var failed causes
		s := newStore(memory{raft.NewInmemStore()}, clock.System{}, hw, failed.add)
		start := time.Now()
		if err := s.StoreLog(entry(1)); err == nil {
			t.Fatal("a hung call succeeded")
		}
		if d := time.Since(start); d < storeDeadline || d > 2*storeDeadline {
			t.Fatalf("gave up after %s, the deadline is %s", d, storeDeadline)
		}
		if len(failed.get()) != 1 {
			t.Fatalf("the node was told %v", failed.get())
		}
		if err := s.Close(); err == nil {
			t.Fatal("closed below a hung call")
		}
		close(hw.hang)
	})
}

func TestCloseWaitsForACallThatIsOnlySlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hw := &broken{op: opStore, after: 1, hang: make(chan struct{})}
		var failed causes
		s := newStore(memory{raft.NewInmemStore()}, clock.System{}, hw, failed.add)
		stored := make(chan error, 1)
		go func() { stored <- s.StoreLog(entry(1)) }()
		synctest.Wait()
		time.AfterFunc(storeDeadline/2, func() { close(hw.hang) })
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-stored; err != nil || len(failed.get()) != 0 {
			t.Errorf("the slow call: %v; the node was told %v", err, failed.get())
		}
	})
}

func TestI4_AVoteIsOneValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	open := func() *store {
		t.Helper()
		s, err := openStore(path, clock.System{}, func(err error) { t.Errorf("failed: %v", err) })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := func(s *store, term uint64, cand string) {
		t.Helper()
		gotTerm, err := s.GetUint64(keyLastVoteTerm)
		if err != nil {
			t.Fatal(err)
		}
		gotCand, err := s.Get(keyLastVoteCand)
		if err != nil || gotTerm != term || string(gotCand) != cand {
			t.Fatalf("vote = %d %q, %v, want %d %q", gotTerm, gotCand, err, term, cand)
		}
	}
	s := open()
	if _, err := s.GetUint64(keyLastVoteTerm); err == nil || err.Error() != "not found" {
		t.Fatalf("no vote yet: %v; the library compares this text", err)
	}
	vote := func(s *store, term uint64, cand string) {
		t.Helper()
		if err := errors.Join(s.SetUint64(keyLastVoteTerm, term), s.Set(keyLastVoteCand, []byte(cand))); err != nil {
			t.Fatal(err)
		}
	}
	vote(s, 7, "first")
	want(s, 7, "first")
	// A crash between the two calls: term 8 with the candidate of term 7 would
	// count as a vote for "first" in a term in which it was not cast.
	if err := s.SetUint64(keyLastVoteTerm, 8); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	want(s, 7, "first")
	vote(s, 8, "second")
	want(s, 8, "second")
	for _, k := range [][]byte{keyLastVoteTerm, keyLastVoteCand} {
		if v, err := s.below.Get(k); err == nil {
			t.Errorf("%s is stored by itself: %q", k, v)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedLogIsRefusedWithTheNextStep(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "raft.db")
	s, err := openStore(whole, clock.System{}, func(err error) { t.Errorf("failed: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 20; i++ {
		if err := s.StoreLog(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"one bit of an entry", func(b []byte) []byte {
			i := bytes.LastIndex(b, []byte("command 11"))
			b[i+2] ^= 1
			return b
		}},
		{"first page", func(b []byte) []byte { clear(b[:8192]); return b }},
		{"cut short", func(b []byte) []byte { return b[:3*4096] }},
		{"all but the meta pages", func(b []byte) []byte { clear(b[8192:]); return b }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "raft.db")
			if err := os.WriteFile(path, tc.damage(bytes.Clone(raw)), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := openStore(path, clock.System{}, func(error) {})
			if err == nil {
				_ = s.Close()
			}
			if !errs.Is(err, errs.StateCorrupt) || errs.From(err).Hint == "" {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestAnEntryIsReadBackAsItWasAndNothingElseIs(t *testing.T) {
	for _, l := range []*raft.Log{
		{Index: 1, Term: 2, Type: raft.LogNoop},
		{Index: 3, Term: 4, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext")},
		{Index: 5, Term: 6, Type: raft.LogConfiguration, Data: []byte{0}},
	} {
		sealed := sealEntry(l)
		got := *sealed
		if err := unsealEntry(&got); err != nil || !bytes.Equal(got.Data, l.Data) || !bytes.Equal(got.Extensions, l.Extensions) {
			t.Fatalf("read back %+v, %v", got, err)
		}
		for name, change := range map[string]func(*raft.Log){
			"index":      func(l *raft.Log) { l.Index++ },
			"term":       func(l *raft.Log) { l.Term++ },
			"type":       func(l *raft.Log) { l.Type++ },
			"extensions": func(l *raft.Log) { l.Extensions = append([]byte("x"), l.Extensions...) },
			"version":    func(l *raft.Log) { l.Data[0]++ },
			"sum":        func(l *raft.Log) { l.Data[1]++ },
			"longer":     func(l *raft.Log) { l.Data = append(l.Data, 0) },
			"cut":        func(l *raft.Log) { l.Data = l.Data[:4] },
		} {
			bad := *sealed
			bad.Data = bytes.Clone(sealed.Data)
			change(&bad)
			if unsealEntry(&bad) == nil {
				t.Errorf("%s of entry %d changed unnoticed", name, l.Index)
			}
		}
	}
}

func TestAnEntryLargerThanTheLimitStopsTheNode(t *testing.T) {
	var failed causes
	s := newStore(memory{raft.NewInmemStore()}, clock.System{}, nil, failed.add)
	defer func() { _ = s.Close() }()
	l := entry(1)
	l.Data = make([]byte, MaxEntry)
	if err := s.StoreLog(l); err != nil {
		t.Fatalf("an entry of exactly the limit: %v", err)
	}
	l.Index, l.Data = 2, make([]byte, MaxEntry+1)
	if err := s.StoreLog(l); err == nil || len(failed.get()) != 1 {
		t.Fatalf("got %v, told %v", err, failed.get())
	}
}

func TestHalfABootstrapIsTakenBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		m     Membership
		entry bool
		want  uint64
	}{
		{"died before the first entry", MembershipBootstrapping, false, 0},
		{"died after it", MembershipBootstrapping, true, 1},
		{"a member that has heard of a term", MembershipMember, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := openStore(filepath.Join(t.TempDir(), "raft.db"), clock.System{}, func(err error) { t.Error(err) })
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			if err := s.SetUint64(keyCurrentTerm, 1); err != nil {
				t.Fatal(err)
			}
			if tt.entry {
				if err := s.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.undoBootstrap(tt.m); err != nil {
				t.Fatal(err)
			}
			if got, err := s.GetUint64(keyCurrentTerm); err != nil || got != tt.want {
				t.Errorf("term %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}
