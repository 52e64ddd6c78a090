//go:build !race && !invariants

package lease_test

import (
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// TestAllocOfTheCheckIsZero: every data operation makes it.
func TestAllocOfTheCheckIsZero(t *testing.T) {
	l := lease.Lease{Start: at(time.Hour), Span: lease.HolderSpan(3 * time.Second)}
	served := 0
	if got := testing.AllocsPerRun(1000, func() {
		var read lease.ReadSet
		read.Note(5, 7)
		read.Note(0, 6)
		now := at(time.Hour + time.Second)
		if lease.Gate(lease.AnswerSuccess, read, 6) == lease.Serve &&
			lease.Final(lease.AnswerSuccess, l, now, read, read, 6) == lease.Serve {
			served++
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
	if served == 0 {
		t.Error("nothing was served")
	}
}

// TestAllocOfAHolder: what comes with every command and every message.
func TestAllocOfAHolder(t *testing.T) {
	h := lease.NewHolder(lease.HolderConfig{History: history, Boot: 1, Renew: time.Millisecond})
	var now time.Duration
	index := uint64(0)
	if got := testing.AllocsPerRun(1000, func() {
		now += time.Millisecond
		index++
		h.Applied(at(now), lease.Entry{Index: index, Term: 1})
		h.Fence(index)
		if h.Due(at(now)) != 0 {
			t.Fatal("nothing is due")
		}
		n := h.Renew(at(now), lease.Mark{}).Nonce
		h.Grant(at(now), lease.Grant{History: history, Inc: h.Incarnation(), Nonce: n, Index: index, Lease: time.Second}, lease.AgreementUnknown)
		h.Completed(index)
		if !h.Lease().Usable(at(now)) {
			t.Fatal("no lease")
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// TestAllocOfAFence: a leader's bookkeeping of changes and reports.
func TestAllocOfAFence(t *testing.T) {
	w := newBusy(t, 100)
	if got := testing.AllocsPerRun(100, func() {
		w.now += time.Microsecond
		w.index++
		w.l.Applied(at(w.now), lease.Entry{Index: w.index, Term: 2})
		for _, id := range w.nodes {
			w.report(id)
		}
		if p := w.l.Advance(at(w.now)); p.Complete != w.index {
			t.Fatalf("%+v", p)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
