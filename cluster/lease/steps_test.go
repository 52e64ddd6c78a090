package lease_test

import (
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

func (w *world) any() *server { return w.servers[w.src.n(len(w.servers))] }

// someLeader returns most often the latest leader, sometimes one that was and does
// not know, sometimes anybody.
func (w *world) someLeader() *server {
	var latest *server
	var stale []*server
	for _, s := range w.servers {
		if s.up && s.leads && (latest == nil || s.term > latest.term) {
			latest = s
		}
		if _, _, ok := s.leader.Established(); ok && s.up {
			stale = append(stale, s)
		}
	}
	switch c := w.src.n(8); {
	case c == 0 || latest == nil:
		return w.any()
	case (c <= 2 || w.bent(toStale) && c <= 5) && len(stale) > 0:
		return stale[w.src.n(len(stale))]
	}
	return latest
}

// reach reports whether two servers hear each other.
func (w *world) reach(a, b *server) bool { return w.cut>>a.n&1 == w.cut>>b.n&1 }

// some is a random set of servers, rather small.
// split cuts the network in two, often with a leader on the smaller side, or heals it.
// deposed lets c win an election of which l may have heard, and l go on with x on
// its side of a cut, until c's own wait is over.
// untilNext passes the time after which a leader wants to look again.
// reborn lets x get ahead of its leader, report, crash and come back with less.
// overtaken lets another leader come and go while l hears nothing, cut short anywhere.
// island goes on with both sides of a cut network.
// bent is what a schedule does more of than others.
type bend int

const (
	toAnything bend = iota
	toNothing
	toStale // leaders that were
	toCrashes
	toLag // views that fall behind, the leader's too
	toMembers
	toFlaps // leadership that is lost and won again
	bends
)

func (w *world) bent(b bend) bool { return w.bend == b }

// step does one thing: a single event, or what a quiet cluster does in a row, cut
// short at any place, so that schedules get somewhere.
func (w *world) step() {
	if w.src.n(8) == 0 {
		switch w.bend {
		case toStale:
			w.island()
		case toCrashes, toLag:
			if w.src.n(2) == 0 {
				w.fault(w.any())
			} else {
				w.reborn(w.someLeader(), w.any())
			}
		case toMembers:
			if l := w.someLeader(); w.src.n(3) == 0 {
				w.membership(l)
				w.sync(l)
			} else {
				w.retire(l, w.any())
			}
		case toFlaps:
			switch w.src.n(4) {
			case 0:
				w.snapshot(w.any())
			case 1:
				w.overtaken(w.someLeader())
			default:
				w.election(w.servers[w.src.n(2)])
			}
		case toAnything, toNothing, bends:
		}
		return
	}
	s := w.any()
	switch w.src.n(34) {
	case 0:
		w.campaign(s)
	case 1:
		w.vote(s, w.any())
	case 2:
		w.lead(s)
	case 3, 4:
		l := w.someLeader()
		w.replicate(l, s, 1+w.src.n(l.last()))
	case 5:
		w.advanceCommit(w.someLeader())
	case 6, 7:
		w.applyNext(s)
	case 8:
		w.propose(w.someLeader())
	case 9:
		if w.bent(toStale) || w.src.n(4) == 0 {
			w.split()
		} else {
			w.notice(s)
		}
	case 10:
		w.ask(s, w.someLeader())
	case 11, 12, 13:
		if len(w.net) > 0 {
			w.deliver(w.src.n(max(len(w.net), 1)))
		}
	case 14:
		if len(w.net) > 0 {
			i := w.src.n(len(w.net))
			w.net = append(w.net[:i], w.net[i+1:]...)
		}
	case 15:
		w.begin(w.someLeader())
	case 16:
		w.advance(s)
	case 17:
		w.tell(w.someLeader())
	case 18, 19:
		w.tick()
	case 20:
		w.fault(s)
	case 21:
		w.membership(w.someLeader())
	case 22:
		s.wall += time.Duration(w.src.n(5)-2) * time.Second
	case 23, 24:
		w.election(s)
	case 25, 26, 27:
		w.sync(w.someLeader())
	case 28, 29, 30:
		w.leases(w.someLeader())
	case 31, 32:
		w.write(w.someLeader())
	case 33:
		w.quiet()
	}
}

// propose proposes the command of an epoch.
func (w *world) propose(s *server) {
	if !s.up || !s.leads {
		return
	}
	// A term that Raft leads without an epoch of that term is a flap that nobody
	// noticed; on an idle cluster no command of it comes by itself.
	if term, _, _ := s.leader.Established(); term == s.term || s.proposed == s.term {
		return
	}
	w.nonces++
	n := lease.EpochNonce{w.nonces, byte(s.n)}
	s.proposed = s.term
	s.leader.Expect(n)
	i := w.append(s, logEntry{kind: epoch, nonce: n})
	w.logf("%s proposes an epoch at %d in term %d", s.id, i, s.term)
}

// notice lets a server see that it does not lead any more; until then it goes on.
func (w *world) notice(s *server) {
	if s.up && !s.leads && s.leader.Lost() {
		w.logf("%s notices that it does not lead", s.id)
	}
}

// tick lets time go on; often to just before, or just after, the end of a lease.
func (w *world) tick() {
	steps := [...]time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, 260 * time.Millisecond, 900 * time.Millisecond}
	var d time.Duration
	switch c := w.src.n(len(steps) + 5); {
	case c < len(steps):
		d = steps[c]
	case c == len(steps):
		d = w.length + w.length/40
	case c >= len(steps)+3:
		w.untilNext(w.someLeader())
		return
	default:
		s := w.any()
		left := s.shown.Remaining(w.reading(s))
		if left <= 0 {
			return
		}
		rate := max(s.rates[0], s.rates[1])
		d = max(left*1000/time.Duration(rate)-time.Microsecond, 0)
		if c == len(steps)+2 {
			d += time.Millisecond
		}
	}
	w.now += d
	w.logf("%v pass", d)
}

// fault crashes, restarts, snapshots or sets back a server.
func (w *world) fault(s *server) {
	switch w.src.n(4) {
	case 0:
		if s.up {
			w.crash(s)
			if w.src.n(3) != 0 {
				w.start(s)
			}
		}
	case 1:
		for _, v := range w.servers {
			if !v.up {
				w.start(v)
			}
		}
	case 2:
		if s.up && s.applied > 0 {
			s.snap = s.applied
		}
	case 3:
		w.snapshot(s)
	}
}

// snapshot gives a server the latest leader's snapshot, which may be older than
// what it has.
func (w *world) snapshot(s *server) {
	l := w.someLeader()
	if !l.up || !l.leads || l == s || !s.up || s.term > l.term || !w.reach(l, s) {
		return
	}
	if w.src.n(2) == 0 {
		l.snap = l.applied
	}
	if l.snap == 0 || s.commit > l.last() {
		return
	}
	w.follow(s, l.term)
	if s.last() < l.snap || s.at(l.snap) != l.at(l.snap) {
		s.log = l.log[:l.snap:l.snap]
		s.noteMark()
	}
	s.commit, s.snap = max(s.commit, l.snap), l.snap
	w.restore(s, l.snap)
}

func (w *world) crash(s *server) {
	w.logf("%s crashes", s.id)
	kept := s.shown
	s.up, s.leads, s.candidate = false, false, false
	s.shown, s.heard = lease.Lease{}, 0
	if w.mut.is(leasePersisted) {
		s.shown = kept
	}
}

// membership proposes a change of members or of the configuration.
func (w *world) membership(s *server) {
	if !s.up || !s.leads || s.applied == 0 {
		return
	}
	v := w.any()
	bit := uint8(1) << v.n
	voters, others, _ := s.configuration()
	var in, removed bool
	for _, m := range s.members(s.applied, w.founder) {
		if m.ID == v.id {
			in, removed = true, m.Removed
		}
	}
	switch {
	case !in && w.founder&bit == 0 && !w.once(s, addMember, v):
		w.append(s, logEntry{kind: addMember, node: v.n})
	case in && !removed && (voters|others)&bit == 0:
		w.change(s, voters, others|bit)
	case in && !removed && others&bit != 0 && w.src.n(2) == 0:
		w.change(s, voters|bit, others&^bit)
	case in && !removed && bits(voters) > 2 && w.src.n(3) == 0:
		w.change(s, voters&^bit, others|bit)
	case in && !removed && voters&bit == 0 && w.src.n(3) == 0 && !w.once(s, removeMember, v):
		w.append(s, logEntry{kind: removeMember, node: v.n})
	case in && removed && others&bit != 0 && w.src.n(2) == 0:
		w.change(s, voters, others&^bit)
	case in && removed:
		w.retireStep(s, v)
	default:
		return
	}
	w.logf("%s proposes a change of %s", s.id, v.id)
}

// retire removes a member, purges it and goes on without it, cut short anywhere.
func (w *world) write(l *server) {
	if l.up && l.leads {
		i := w.append(l, logEntry{kind: write})
		w.logf("%s proposes the write %d", l.id, i)
	}
}

// once reports whether the log has such a command already.
func (w *world) once(s *server, k kind, v *server) bool {
	for _, e := range s.log {
		if e.kind == k && e.node == v.n {
			return true
		}
	}
	return false
}

// election is a campaign with the votes of some.
func (w *world) election(c *server) {
	w.campaign(c)
	for _, v := range w.servers {
		if w.src.n(4) != 0 {
			w.vote(v, c)
			w.judge()
		}
	}
	w.lead(c)
	if c.leads {
		if !w.bent(toFlaps) && !w.bent(toStale) && w.src.n(3) != 0 {
			w.notice(c)
		}
		w.propose(c)
		w.sync(c)
	}
}

// sync replicates, commits and applies, with most.
func (w *world) sync(l *server) {
	for range 2 {
		for _, v := range w.servers {
			if w.src.n(5) != 0 {
				w.replicate(l, v, l.last())
			}
		}
		w.advanceCommit(l)
	}
	for _, v := range w.servers {
		if w.bent(toLag) && v == l && w.src.n(4) != 0 {
			continue
		}
		for range w.src.n(4) {
			w.applyNext(v)
			w.judge()
		}
	}
}

// leases lets some ask the leader and carries what follows.
func (w *world) leases(l *server) {
	for _, h := range w.servers {
		if w.src.n(3) != 0 && w.reach(h, l) {
			w.ask(h, l)
		}
	}
	w.carry()
	w.begin(l)
	w.carry()
	w.carry()
}

// carry delivers what is under way and not held up, oldest first.
func (w *world) carry() {
	i := 0
	for range len(w.net) {
		for i < len(w.net) && w.net[i].held {
			i++
		}
		if i >= len(w.net) || w.wrong != "" {
			return
		}
		w.deliver(i)
		w.judge()
	}
}

// quiet is a moment without faults: everything is applied and everybody asks.
func (w *world) quiet() {
	l := w.someLeader()
	w.sync(l)
	w.leases(l)
	w.advance(l)
	w.tell(l)
	w.carry()
}

// rest ends all faults and lets time pass. It returns what is not as it should be.
// foremost is who can win an election: the voter with the latest log, and the
// highest term, so that one campaign is enough.
// unwell says who has no lease, or that a change is not complete, or not known to be.
