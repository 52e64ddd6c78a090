package lease_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// oracle is the other way to say when a change is complete, too dear to use: each
// change has a snapshot of the grants that were out when it was applied.
type oracle struct {
	span     time.Duration
	now      time.Duration
	epoch    uint64
	applied  uint64
	complete uint64
	commands []uint64

	expiry   map[lease.NodeID]time.Duration // of the newest incarnation's latest grant
	reported map[lease.NodeID]uint64
	earlier  map[lease.NodeID]time.Duration // (n,*)
	anyInc   map[lease.NodeID]uint64
	fences   map[uint64]fence
}

type fence struct {
	grants, earlier map[lease.NodeID]time.Duration
}

func (o *oracle) apply(i uint64) {
	f := fence{map[lease.NodeID]time.Duration{}, map[lease.NodeID]time.Duration{}}
	for n, e := range o.expiry {
		if e > o.now && o.reported[n] < i {
			f.grants[n] = e
		}
	}
	for n, e := range o.earlier {
		if e > o.now && o.anyInc[n] < i {
			f.earlier[n] = e
		}
	}
	o.applied, o.commands = i, append(o.commands, i)
	o.fences[i] = f
}

// command returns the last command up to index i.
func (o *oracle) command(i uint64) uint64 {
	at, found := slices.BinarySearch(o.commands, i)
	switch {
	case found:
		return i
	case at == 0:
		return 0
	}
	return o.commands[at-1]
}

func (o *oracle) report(n lease.NodeID, newer bool, i uint64) {
	if newer {
		delete(o.expiry, n)
		o.reported[n] = 0
		for _, f := range o.fences {
			delete(f.grants, n)
		}
	}
	o.reported[n] = max(o.reported[n], i)
	o.anyInc[n] = max(o.anyInc[n], i)
}

// waits returns for whom the change i waits, and until when at most.
func (o *oracle) waits(i uint64) map[lease.NodeID]time.Duration {
	out := map[lease.NodeID]time.Duration{}
	note := func(n lease.NodeID, end time.Duration, reported uint64) {
		if end > o.now && reported < i {
			out[n] = max(out[n], end-o.now)
		}
	}
	for n, end := range o.fences[i].grants {
		note(n, end, o.reported[n])
	}
	for n, end := range o.fences[i].earlier {
		note(n, end, o.anyInc[n])
	}
	return out
}

func (o *oracle) advance() uint64 {
	for i := range o.fences {
		if i >= o.epoch && len(o.waits(i)) == 0 {
			o.complete = max(o.complete, i)
		}
	}
	return o.complete
}

// TestI5_WatermarksSayWhatSnapshotsSay compares the two after every event.
func TestI5_WatermarksSayWhatSnapshotsSay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const d = 3 * time.Second
		nodes := []lease.NodeID{"n1", "n2", "n3", "n4"}
		o := &oracle{
			span: lease.LeaderSpan(d), epoch: 5, expiry: map[lease.NodeID]time.Duration{}, reported: map[lease.NodeID]uint64{},
			earlier: map[lease.NodeID]time.Duration{}, anyInc: map[lease.NodeID]uint64{}, fences: map[uint64]fence{},
		}
		at := func() lease.Reading { return lease.Reading{Raw: o.now, Boot: o.now} }
		l := established(t, "n1", d, 5, nodes...)
		for _, n := range nodes[1:] { // all but itself
			o.earlier[n] = o.span
		}
		o.apply(5)
		inc := map[lease.NodeID]lease.Incarnation{}
		nonce := lease.Nonce(0)
		renew := func(t *rapid.T, n lease.NodeID, newer bool, applied uint64, ask lease.Nonce) {
			i := inc[n]
			if newer || i.Boot == 0 {
				i.Boot++
			}
			inc[n] = i
			if r := l.Renew(at(), n, lease.Renew{History: history, Inc: i, Applied: applied, Nonce: ask}, lease.Checks{}); r != lease.RefusalNone {
				t.Fatalf("refused: %v", r)
			}
			if n != "n1" {
				o.report(n, newer, applied)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"report": func(t *rapid.T) {
				n := rapid.SampledFrom(nodes).Draw(t, "node")
				renew(t, n, rapid.IntRange(0, 5).Draw(t, "newer") == 0, rapid.Uint64Range(0, o.applied+2).Draw(t, "applied"), 0)
			},
			"grant": func(t *rapid.T) {
				n := rapid.SampledFrom(nodes).Draw(t, "node")
				nonce++
				renew(t, n, false, o.reported[n], nonce)
				o.now += lease.RoundSpacing
				out, _, ok := l.Begin(at(), []lease.NodeID{"n1"}, 2, nil)
				if !ok || len(out) != 1 || out[0].To != n || out[0].Grant.Index != o.applied {
					t.Fatalf("granted %v, round %t", out, ok)
				}
				if n != "n1" {
					o.expiry[n] = o.now + o.span
				}
			},
			"apply": func(t *rapid.T) {
				i := o.applied + rapid.Uint64Range(1, 3).Draw(t, "step")
				l.Applied(at(), lease.Entry{Index: i, Term: 2})
				o.apply(i)
			},
			"tick": func(t *rapid.T) {
				o.now += time.Duration(rapid.Int64Range(0, int64(d)).Draw(t, "time"))
			},
			"tick to the edge": func(t *rapid.T) {
				if next := l.Advance(at()).Next; next > 0 {
					o.now += next - time.Duration(rapid.IntRange(0, 1).Draw(t, "before"))
				}
			},
			"": func(t *rapid.T) {
				p := l.Advance(at())
				// An index between two commands is complete with the lower one or earlier.
				if want := o.advance(); o.command(p.Complete) != want {
					t.Fatalf("complete %d, by snapshots %d", p.Complete, want)
				}
				soonest := time.Duration(0)
				for i := range o.fences {
					if i <= o.complete {
						delete(o.fences, i)
						continue
					}
					want := o.waits(i)
					if diff := cmp.Diff(want, remaining(l.Pending(at(), i))); diff != "" {
						t.Fatalf("change %d waits (-snapshots +watermarks):\n%s", i, diff)
					}
					for _, left := range want {
						if soonest == 0 || left < soonest {
							soonest = left
						}
					}
				}
				// Time alone decides nothing before the machine wants to be asked again.
				if (p.Next == 0) != (soonest == 0) || p.Next > soonest {
					t.Fatalf("look again in %v, the first wait is over in %v", p.Next, soonest)
				}
			},
		})
	})
}

func remaining(ws []lease.Waiting) map[lease.NodeID]time.Duration {
	out := map[lease.NodeID]time.Duration{}
	for _, w := range ws {
		out[w.Node] = w.Remaining
	}
	return out
}

type fataler interface {
	Fatalf(format string, args ...any)
}

// established returns a leader of term 2 whose epoch has the given index, at time 0.
func established(t fataler, self lease.NodeID, d time.Duration, index uint64, nodes ...lease.NodeID) *lease.Leader {
	l := lease.NewLeader(lease.LeaderConfig{Self: self, History: history, Lease: d})
	l.Expect(lease.EpochNonce{1})
	l.Applied(lease.Reading{}, lease.Entry{Index: index, Term: 2})
	var members []lease.Member
	for _, n := range nodes {
		members = append(members, lease.Member{ID: n})
	}
	if !l.Establish(lease.Reading{}, lease.Epoch{Nonce: lease.EpochNonce{1}, Members: members}) {
		t.Fatalf("not established")
	}
	return l
}

func names(n int) []lease.NodeID {
	out := make([]lease.NodeID, n)
	for i := range out {
		out[i] = lease.NodeID(fmt.Sprintf("n%04d", i))
	}
	return out
}

func sortedKeys[V any](m map[lease.NodeID]V) []lease.NodeID { return slices.Sorted(maps.Keys(m)) }
