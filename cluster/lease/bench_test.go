package lease_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// busy is a leader whose n holders have twelve grants each, as in a cluster that
// changes something every 250 ms, with nothing waiting.
type busy struct {
	l     *lease.Leader
	nodes []lease.NodeID
	now   time.Duration
	index uint64
	nonce lease.Nonce
	out   []lease.Granted
}

func newBusy(b testing.TB, n int) *busy {
	b.Helper()
	nodes := names(n)
	w := &busy{l: established(b, nodes[0], 3*time.Second, 5, nodes...), nodes: nodes, now: time.Hour, index: 5}
	w.l.Advance(at(w.now))
	for range 12 {
		w.change()
		for _, id := range w.nodes {
			w.renew(id)
		}
		w.grant()
	}
	if got := w.l.Advance(at(w.now)).Complete; got != w.index {
		b.Fatalf("complete %d of %d", got, w.index)
	}
	return w
}

func (w *busy) change() {
	w.index++
	w.now += 250 * time.Millisecond
	w.l.Applied(at(w.now), lease.Entry{Index: w.index, Term: 2})
}

func (w *busy) renew(id lease.NodeID) {
	w.nonce++
	w.l.Renew(at(w.now), id, lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: w.index, Nonce: w.nonce}, lease.Checks{})
}

func (w *busy) report(id lease.NodeID) {
	w.l.Renew(at(w.now), id, lease.Renew{History: history, Inc: lease.Incarnation{Boot: 1}, Applied: w.index}, lease.Checks{})
}

func (w *busy) grant() {
	w.out, _, _ = w.l.Begin(at(w.now), w.nodes[:1], 2, w.out[:0])
}

func sizes(b *testing.B, f func(b *testing.B, n int)) {
	b.Helper()
	for _, n := range []int{3, 100, 1000} {
		b.Run(fmt.Sprintf("holders=%d", n), func(b *testing.B) { f(b, n) })
	}
}

// BenchmarkFence is the bookkeeping of one change: it is applied, one batch of
// reports comes (from a tenth of the holders), and what is complete is found out.
func BenchmarkFence(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		b.Helper()
		w := newBusy(b, n)
		batch := max(n/10, 1)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			w.now += time.Microsecond
			w.index++
			w.l.Applied(at(w.now), lease.Entry{Index: w.index, Term: 2})
			for k := range batch {
				w.report(w.nodes[(i+k)%n])
			}
			i += batch
			w.l.Advance(at(w.now))
		}
	})
}

// BenchmarkAdvance is what a batch of events costs for all holders.
func BenchmarkAdvance(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		b.Helper()
		w := newBusy(b, n)
		w.l.Applied(at(w.now), lease.Entry{Index: w.index + 1, Term: 2}) // somebody waits
		b.ReportAllocs()
		for b.Loop() {
			w.l.Advance(at(w.now))
		}
	})
}

// BenchmarkReport is one holder's report.
func BenchmarkReport(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		b.Helper()
		w := newBusy(b, n)
		b.ReportAllocs()
		for b.Loop() {
			w.report(w.nodes[1])
		}
	})
}

// BenchmarkRound is a round that serves all holders, with their requests.
func BenchmarkRound(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		b.Helper()
		w := newBusy(b, n)
		b.ReportAllocs()
		for b.Loop() {
			w.now += 250 * time.Millisecond
			for _, id := range w.nodes {
				w.renew(id)
			}
			w.grant()
			w.l.Advance(at(w.now))
		}
		if len(w.out) != n {
			b.Fatalf("%d grants", len(w.out))
		}
	})
}

// BenchmarkUsable is the check that every data operation pays for.
func BenchmarkUsable(b *testing.B) {
	l := lease.Lease{Start: at(time.Hour), Span: lease.HolderSpan(3 * time.Second)}
	now := at(time.Hour + time.Second)
	var read lease.ReadSet
	read.Note(5, 7)
	ok := 0
	b.ReportAllocs()
	for b.Loop() {
		if lease.Final(lease.AnswerSuccess, l, now, read, read, 6) == lease.Serve {
			ok++
		}
	}
	if ok == 0 {
		b.Fatal("not served")
	}
}
