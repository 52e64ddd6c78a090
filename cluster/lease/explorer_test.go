package lease_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// The explorer runs real Leaders and Holders of three to five nodes over the Raft
// of raft_model_test.go, on clocks that differ by as much as is allowed and over a
// network that loses, repeats, delays and reorders what it likes. A schedule is
// what a source of numbers chooses; after every step it judges
//
//	S1: whoever has a usable lease has applied every change that any leader called complete;
//	S2: a gated read never shows a state older than one that a gated read showed before.

// steps of one schedule; a step can be a whole election.
const steps = 250

// TestExplorer runs schedules and needs the nodes to serve, complete changes and
// change leaders while it does. KRYPTON_LEASE_SCHEDULES says how many; make sim sets it.
func TestExplorer(t *testing.T) {
	t.Parallel()
	number := 6000
	if invariants.Race {
		number = 1000
	}
	if v := os.Getenv("KRYPTON_LEASE_SCHEDULES"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n <= 0 {
			t.Fatalf("KRYPTON_LEASE_SCHEDULES is %q", v)
		}
		number = n
	}
	workers := min(runtime.GOMAXPROCS(0), 4)
	var mu sync.Mutex
	var serves, fences, epochs int
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for i := k; i < number; i += workers {
				w := schedule(seed(uint64(i)), family{}, steps, nil)
				mu.Lock()
				serves, fences, epochs = serves+w.serves, fences+w.fences, epochs+w.turnovers
				mu.Unlock()
				if w.wrong != "" {
					var b strings.Builder
					schedule(seed(uint64(i)), family{}, steps, &b)
					t.Errorf("schedule %d:\n%s", i, b.String())
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d schedules: %d epochs, %d changes complete, %d times a node could serve", number, epochs, fences, serves)
	if serves < number || fences < number || epochs < number {
		t.Error("too little happened")
	}
}

// TestExplorerComesToRest: whatever a schedule did, once faults end every member has
// a lease and every change is complete, within a few leases' time.
func TestExplorerComesToRest(t *testing.T) {
	t.Parallel()
	for i := range uint64(600) {
		if invariants.Race && i%8 != 0 {
			continue
		}
		w := schedule(seed(i), family{}, steps/2, nil)
		if why := w.rest(); why != "" {
			var b strings.Builder
			w = schedule(seed(i), family{}, steps/2, &b)
			w.rest()
			t.Fatalf("schedule %d: %s\n%s", i, why, b.String())
		}
	}
}

// TestExplorerShrinks runs schedules that rapid can make shorter.
func TestExplorerShrinks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nums := rapid.SliceOfN(rapid.Uint16(), 0, 3000).Draw(t, "choices")
		if w := schedule(&tape{nums: nums}, family{}, len(nums)/10, nil); w.wrong != "" {
			var b strings.Builder
			schedule(&tape{nums: nums}, family{}, len(nums)/10, &b)
			t.Fatalf("%s", b.String())
		}
	})
}

// TestExplorerRepeats: a schedule follows from its number, or no failure could be looked at.
func TestExplorerRepeats(t *testing.T) {
	t.Parallel()
	for i := range uint64(20) {
		var a, b strings.Builder
		schedule(seed(i), family{}, steps, &a)
		schedule(seed(i), family{}, steps, &b)
		if a.String() != b.String() {
			t.Fatalf("schedule %d runs in two ways", i)
		}
	}
}

// source chooses: n(k) is in [0, k).
type source interface{ n(k int) int }

type seeded struct{ *rand.Rand }

func seed(s uint64) source { return seeded{rand.New(rand.NewPCG(s, 0x6b72797074))} }

func (s seeded) n(k int) int { return s.IntN(k) }

// tape chooses by the numbers on it, and the first choice after its end.
type tape struct {
	nums []uint16
	at   int
}

func (t *tape) n(k int) int {
	if t.at >= len(t.nums) {
		return 0
	}
	t.at++
	return int(t.nums[t.at-1]) % k
}

var history = lease.History{1}

type message struct {
	from, to int
	body     any
	held     bool // for long
}

type world struct {
	src     source
	mut     mutation
	bend    bend
	servers []*server
	founder uint8
	now     time.Duration
	length  time.Duration // D
	net     []message
	cut     uint8 // who is on the other side of a cut
	nonces  byte

	acked  uint64 // highest index that any leader called complete
	served uint64 // highest value that a gated read showed

	serves, turnovers, fences int // that something happened at all
	wrong                     string
	calm                      bool             // no faults any more
	log                       *strings.Builder // nil: no transcript
}

func (w *world) logf(format string, args ...any) {
	if w.log != nil {
		fmt.Fprintf(w.log, "%8.3fs  %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// family narrows what schedules are like; the zero value does not.
type family struct {
	mut   mutation
	bend  bend // toAnything: drawn
	nodes int  // 0: drawn, 3 to 5
}

// schedule runs steps steps, or up to the first that is wrong.
func schedule(src source, f family, steps int, log *strings.Builder) *world {
	w := &world{src: src, mut: f.mut, bend: f.bend, log: log, length: 3 * time.Second}
	if f.bend == toAnything {
		w.bend = 1 + bend(src.n(int(bends)-1))
	}
	n := f.nodes
	if n == 0 {
		n = 3 + src.n(3)
	}
	voters := uint8(1<<min(n, 3) - 1)
	if n == 5 && src.n(2) == 0 {
		voters = 1<<5 - 1
	}
	w.founder = 1<<n - 1
	if n > 3 && voters != w.founder && src.n(3) == 0 {
		w.founder &^= 1 << (n - 1) // joins later
	}
	first := logEntry{term: 0, kind: config, voters: voters, others: w.founder &^ voters}
	for i := range n {
		s := &server{id: name(i), n: i, voted: -1, log: []logEntry{first}, commit: 1, wall: time.Duration(i) * time.Hour}
		for c := range s.rates {
			s.rates[c] = 990 + 10*int64(src.n(3))
		}
		if src.n(8) == 0 {
			s.rates[0] = 300 // suspended so often that one of its clocks falls behind
		}
		w.servers = append(w.servers, s)
		w.start(s)
	}
	for range steps {
		w.step()
		w.judge()
		if w.wrong != "" {
			w.logf("WRONG: %s", w.wrong)
			break
		}
	}
	return w
}

// reading is what a server's clocks show.
func (w *world) reading(s *server) lease.Reading {
	scale := func(rate int64) time.Duration {
		return w.now/1000*time.Duration(rate) + w.now%1000*time.Duration(rate)/1000
	}
	boot := scale(s.rates[1])
	return lease.Reading{Raw: scale(s.rates[0]), Boot: boot, Wall: s.wall + boot}
}

// start starts a server's process: its view is the last snapshot.
func (w *world) start(s *server) {
	s.up, s.boot = true, s.boot+1
	s.leads, s.candidate, s.votes, s.proposed = false, false, 0, 0
	s.leader = lease.NewLeader(lease.LeaderConfig{Self: s.id, History: history, Lease: w.length})
	s.holder = lease.NewHolder(lease.HolderConfig{History: history, Boot: s.boot, Renew: w.length / 12})
	s.commit, s.applied = max(s.snap, 1), 0
	if s.snap > 0 {
		w.restore(s, s.snap)
	}
}

// restore gives a server's state machine the snapshot that ends with index i.
func (w *world) restore(s *server, i int) {
	s.holder.Restore()
	if !w.mut.is(leaseOverRestore) {
		w.publish(s)
	}
	now := w.reading(s)
	if w.mut.is(tableOverRestore) {
		lease.RestoreKeepingTable(s.leader, s.entry(i))
	} else {
		s.leader.Restored(now, s.entry(i))
	}
	s.applied = i
	s.holder.Applied(now, s.entry(i))
	w.logf("%s restores a snapshot up to %d, incarnation %s", s.id, i, s.holder.Incarnation())
	w.advance(s)
}

// publish shows the lease to whoever reads, as the shell does beside the view.
func (w *world) publish(s *server) {
	l := s.holder.Lease()
	if w.mut.is(driftIgnored) && l.Span > 0 {
		l.Span = w.length + w.length/100
	}
	s.shown, s.heard = l, s.holder.Complete()
}

// applyNext lets a server's state machine apply the next committed command.
func (w *world) applyNext(s *server) {
	if !s.up {
		return
	}
	i := max(s.applied, 1) + 1
	for i <= s.commit && !s.at(i).command() {
		i++
	}
	if i > s.commit {
		return
	}
	now, e := w.reading(s), s.at(i)
	entry := s.entry(i)
	if term, _, ok := s.leader.Established(); ok && w.mut.is(flapUnnoticed) {
		entry.Term = min(entry.Term, term)
	}
	s.leader.Applied(now, entry)
	s.applied = i
	w.logf("%s applies %d (%s of term %d)", s.id, i, e.kind, e.term)
	switch e.kind {
	case epoch:
		if s.leader.Establish(now, lease.Epoch{Nonce: e.nonce, Members: s.members(i, w.founder), Heard: s.holder.Complete()}) {
			w.turnovers++
			w.logf("%s establishes its epoch at %d in term %d", s.id, i, e.term)
			if w.mut.is(noNewLeaderWait) {
				for _, v := range w.servers {
					lease.ForgetEarlier(s.leader, v.id)
				}
			}
		}
	case addMember, removeMember, purgeMember:
		s.leader.SetMembers(s.members(i, w.founder))
	case noop, config, write:
	}
	s.holder.Applied(now, s.entry(i))
	if e.kind == removeMember && e.node == s.n && !w.mut.is(removedGoesOn) {
		s.holder.Remove()
	}
	w.publish(s)
	w.advance(s)
}

func (w *world) advance(s *server) {
	if !s.up {
		return
	}
	p := s.leader.Advance(w.reading(s))
	if p.Complete > w.acked {
		w.fences++
		w.acked = p.Complete
		w.logf("%s: %d is complete", s.id, p.Complete)
	}
}

// tell sends everybody what is complete and what waits.
func (w *world) tell(s *server) {
	if _, _, ok := s.leader.Established(); !ok || !s.up {
		return
	}
	for _, v := range w.servers {
		if v != s || w.src.n(2) == 0 {
			w.send(s, v, told{complete: s.leader.Complete(), fence: uint64(s.applied)})
		}
	}
}

// told is Complete and FencePending.
type told struct{ complete, fence uint64 }

// granted carries a refusal or a grant.
type answered struct{ grant lease.Grant }

func (w *world) send(from, to *server, body any) {
	const full = 64
	if len(w.net) >= full { // the oldest is lost
		w.net = append(w.net[:0], w.net[1:]...)
	}
	if !w.reach(from, to) && w.src.n(3) != 0 {
		return
	}
	held := !w.calm && !w.reach(from, to) || !w.calm && w.src.n(12) == 0 || !w.calm && w.src.n(3) == 0 && (w.bent(toStale) || w.bent(toCrashes))
	w.net = append(w.net, message{from.n, to.n, body, held})
}

// ask sends the leader l what h's schedule says.
func (w *world) ask(h, l *server) {
	if !h.up {
		return
	}
	now := w.reading(h)
	if h.holder.Due(now) > 0 && w.src.n(4) != 0 {
		return
	}
	r := h.holder.Renew(now, h.mark)
	if w.mut.is(raftAppliedReported) {
		r.Applied = uint64(h.commit)
	}
	w.logf("%s asks %s: nonce %d, applied %d, incarnation %s", h.id, l.id, r.Nonce, r.Applied, r.Inc)
	w.send(h, l, r)
}

func (w *world) deliver(i int) {
	if i >= len(w.net) {
		return
	}
	m := w.net[i]
	if w.calm || w.src.n(6) != 0 { // else it comes once more
		w.net = append(w.net[:i], w.net[i+1:]...)
	}
	from, to := w.servers[m.from], w.servers[m.to]
	if !to.up {
		return
	}
	now := w.reading(to)
	switch b := m.body.(type) {
	case lease.Renew:
		b = w.mut.renew(from, b)
		if _, i, ok := to.leader.Established(); ok && w.mut.is(earlierReleasedForGood) && b.Applied >= i {
			lease.ForgetEarlier(to.leader, from.id)
		}
		ref := to.leader.Renew(now, from.id, b, lease.Checks{Log: w.logOf(to)})
		w.logf("%s hears %s: applied %d: refusal %q", to.id, from.id, b.Applied, ref)
	case lease.Confirm:
		if a, ok := b.Answer(history, to.term); ok {
			w.send(to, from, w.mut.confirmed(to, from, b, a))
		}
	case confirmedAs:
		if w.mut.is(lateAnswersCount) {
			b.answer.Round = to.round
		}
		w.grants(to, to.leader.Confirmed(now, b.voter, b.answer, nil))
	case answered:
		w.granted(to, now, b.grant)
	case told:
		to.holder.Completed(b.complete)
		to.holder.Fence(b.fence)
		w.publish(to)
	}
	w.advance(to)
}

// logOf returns the end of an established leader's log.
func (w *world) logOf(s *server) lease.Mark {
	if term, _, ok := s.leader.Established(); !ok || s.lastTerm() < term {
		return lease.Mark{}
	}
	return s.mark
}

// confirmedAs is an answer and whose it is taken for.
type confirmedAs struct {
	voter  lease.NodeID
	answer lease.Confirmed
}

// begin begins a round.
func (w *world) begin(s *server) {
	if !s.up {
		return
	}
	voters, others, _ := s.configuration()
	var ids []lease.NodeID
	for n := range w.servers {
		if voters&(1<<n) != 0 {
			ids = append(ids, name(n))
		}
	}
	out, q, ok := s.leader.Begin(w.reading(s), ids, w.mut.own(s), nil)
	if !ok {
		return
	}
	s.round = q.Round
	w.logf("%s begins round %d in term %d", s.id, q.Round, q.Term)
	w.grants(s, out)
	if w.mut.is(noConfirm) {
		for _, id := range ids {
			w.grants(s, s.leader.Confirmed(w.reading(s), id, lease.Confirmed{History: history, Round: q.Round, Term: q.Term}, nil))
		}
	}
	for n, v := range w.servers {
		if (voters|others)&(1<<n) != 0 && v != s {
			w.send(s, v, q)
		}
	}
}

func (w *world) grants(s *server, out []lease.Granted) {
	for _, g := range out {
		w.logf("%s grants %s index %d, term %d, nonce %d", s.id, g.To, g.Grant.Index, g.Grant.Term, g.Grant.Nonce)
		for _, v := range w.servers {
			if v.id == g.To {
				w.send(s, v, answered{w.mut.grant(v, g.Grant)})
			}
		}
	}
}

func (w *world) granted(s *server, now lease.Reading, g lease.Grant) {
	agrees := lease.AgreementUnknown
	if int(g.Index) <= s.applied {
		agrees = lease.Agrees
		if g.Chain != s.chainAt(int(g.Index)) && g.Index != 0 {
			agrees = lease.Differs
		}
	}
	ref := s.holder.Grant(now, g, agrees)
	w.logf("%s gets nonce %d index %d: refusal %q, applied %d", s.id, g.Nonce, g.Index, ref, s.applied)
	w.publish(s)
	if w.mut.is(receiveTime) && ref == lease.RefusalNone && s.shown.Span > 0 {
		s.shown.Start = now
	}
}

// judge looks at every node.
func (w *world) judge() {
	for _, s := range w.servers {
		now := w.reading(s)
		if !s.up || !s.shown.Usable(now) {
			continue
		}
		if uint64(s.applied) < w.acked {
			w.wrong = fmt.Sprintf("S1: %s may serve the state at %d, and %d is complete", s.id, s.applied, w.acked)
			return
		}
		v := s.value(s.applied)
		var read lease.ReadSet
		read.Note(v, v)
		d := lease.Final(lease.AnswerSuccess, s.shown, now, read, read, s.heard)
		if w.mut.is(noGate) {
			d = lease.Serve
		}
		if d != lease.Serve {
			continue
		}
		w.serves++
		if v < w.served {
			w.wrong = fmt.Sprintf("S2: %s shows the state at %d, and %d was shown before", s.id, v, w.served)
			return
		}
		w.served = v
	}
}
