package lease_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// This file is Raft as far as leases can see it: terms, votes, logs,
// configurations, commit and apply are separate steps of single nodes, in any
// order that Raft allows. Nodes that hear nothing go on believing what they did.

type kind uint8

const (
	noop   kind = iota // Raft's own; never reaches the state machine
	config             // likewise
	write              // changes the one object that there is
	epoch
	addMember
	removeMember
	purgeMember
)

func (k kind) String() string {
	return [...]string{"noop", "config", "write", "epoch", "add", "remove", "purge"}[k]
}

type logEntry struct {
	term   uint64
	kind   kind
	node   int              // member commands
	nonce  lease.EpochNonce // epoch
	voters uint8            // config: bit masks
	others uint8
}

func (e logEntry) command() bool { return e.kind > config }

type server struct {
	id lease.NodeID
	n  int

	// On disk.
	term  uint64
	voted int // whom in term; -1: nobody
	log   []logEntry
	snap  int
	boot  uint64
	mark  lease.Mark // highest log end, ever

	// Of the process.
	up        bool
	leads     bool
	candidate bool
	votes     uint8
	commit    int
	applied   int // last entry that the state machine has; a command or 0

	leader *lease.Leader
	holder *lease.Holder
	shown  lease.Lease // as published with the view
	heard  uint64      // complete, as published

	proposed uint64 // term in which it proposed an epoch
	round    uint64 // its last
	newest   lease.Incarnation
	shift    uint64
	rates    [2]int64
	wall     time.Duration
}

func (s *server) at(i int) logEntry { return s.log[i-1] }
func (s *server) last() int         { return len(s.log) }
func (s *server) lastTerm() uint64 {
	if len(s.log) == 0 {
		return 0
	}
	return s.log[len(s.log)-1].term
}

// configuration is the latest in the log, committed or not.
func (s *server) configuration() (voters, others uint8, index int) {
	for i := s.last(); i > 0; i-- {
		if e := s.at(i); e.kind == config {
			return e.voters, e.others, i
		}
	}
	return 0, 0, 0
}

func bits(m uint8) int {
	n := 0
	for ; m != 0; m &= m - 1 {
		n++
	}
	return n
}

func mostOf(have, voters uint8) bool { return bits(have&voters) >= bits(voters)/2+1 }

func (w *world) campaign(s *server) {
	voters, _, _ := s.configuration()
	if !s.up || s.leads || voters&(1<<s.n) == 0 {
		return
	}
	s.term++
	s.voted, s.candidate, s.votes = s.n, true, 1<<s.n
	w.logf("%s campaigns in term %d", s.id, s.term)
}

// vote lets v answer c's request for a vote.
func (w *world) vote(v, c *server) {
	if !v.up || !c.up || v == c || !w.reach(v, c) || !c.candidate || v.term > c.term {
		return
	}
	if v.term < c.term {
		w.follow(v, c.term)
	}
	upToDate := c.lastTerm() > v.lastTerm() || c.lastTerm() == v.lastTerm() && c.last() >= v.last()
	if v.voted != -1 && v.voted != c.n || !upToDate {
		return
	}
	v.voted = c.n
	c.votes |= 1 << v.n
	w.logf("%s votes for %s in term %d", v.id, c.id, c.term)
}

// follow puts a node into a later term. Its leases do not hear of it.
func (w *world) follow(s *server, term uint64) {
	if term > s.term {
		s.term, s.voted = term, -1
	}
	s.leads, s.candidate, s.votes = false, false, 0
}

func (w *world) lead(s *server) {
	voters, _, _ := s.configuration()
	if !s.up || !s.candidate || !mostOf(s.votes, voters) {
		return
	}
	s.leads, s.candidate = true, false
	w.append(s, logEntry{kind: noop})
	w.logf("%s leads term %d", s.id, s.term)
}

func (w *world) append(s *server, e logEntry) int {
	e.term = s.term
	s.log = append(slices.Clip(s.log), e)
	s.noteMark()
	return s.last()
}

func (s *server) noteMark() {
	if m := (lease.Mark{Term: s.lastTerm(), Index: uint64(s.last())}); m.Compare(s.mark) > 0 {
		s.mark = m
	}
}

// replicate gives v the log of l up to upto, and what l knows to be committed.
func (w *world) replicate(l, v *server, upto int) {
	if !l.up || !v.up || l == v || !w.reach(l, v) || !l.leads || v.term > l.term {
		return
	}
	if v.term < l.term || v.candidate || v.leads {
		w.follow(v, l.term)
	}
	upto = min(upto, l.last())
	same := 0
	for same < upto && same < v.last() && v.log[same] == l.log[same] {
		same++
	}
	if same < upto {
		if same < v.commit {
			panic(fmt.Sprintf("%s would lose the committed entry %d", v.id, same+1))
		}
		v.log = append(v.log[:same:same], l.log[same:upto]...)
		v.noteMark()
	}
	if c := min(l.commit, upto); c > v.commit {
		v.commit = c
	}
	w.logf("%s gives %s the log up to %d, committed %d", l.id, v.id, upto, v.commit)
}

func (w *world) advanceCommit(s *server) {
	if !s.up || !s.leads {
		return
	}
	voters, _, _ := s.configuration()
	for i := s.last(); i > s.commit && s.at(i).term == s.term; i-- {
		var have uint8
		for _, v := range w.servers {
			if w.reach(s, v) && v.last() >= i && v.at(i) == s.at(i) {
				have |= 1 << v.n
			}
		}
		if mostOf(have, voters) {
			s.commit = i
			w.logf("%s commits up to %d", s.id, i)
			return
		}
	}
}

// change proposes a configuration that differs in one server.
func (w *world) change(s *server, voters, others uint8) {
	oldVoters, oldOthers, at := s.configuration()
	if !s.up || !s.leads || at > s.commit || s.at(max(s.commit, 1)).term != s.term ||
		bits(oldVoters^voters)+bits(oldOthers^others) == 0 || bits(oldVoters^voters) > 1 || bits(voters) == 0 {
		return
	}
	i := w.append(s, logEntry{kind: config, voters: voters, others: others})
	w.logf("%s proposes voters %05b others %05b at %d", s.id, voters, others, i)
}

// chainAt stands for the state chain: whoever has the same commands has the same.
func (s *server) chainAt(i int) (c lease.Chain) {
	if i == 0 {
		return c
	}
	c[0], c[1], c[2] = byte(i), byte(i>>8), byte(s.at(i).term)
	c[31] = 1
	return c
}

func (s *server) entry(i int) lease.Entry {
	if i == 0 {
		return lease.Entry{}
	}
	return lease.Entry{Index: uint64(i), Term: s.at(i).term, Chain: s.chainAt(i)}
}

// members are those of the view: what the log says up to i.
func (s *server) members(i int, founders uint8) []lease.Member {
	var in, gone uint8
	in = founders
	for _, e := range s.log[:i] {
		switch e.kind {
		case addMember:
			in |= 1 << e.node
		case removeMember:
			gone |= 1 << e.node
		case purgeMember:
			in &^= 1 << e.node
		case noop, config, write, epoch:
		}
	}
	var out []lease.Member
	for n := range 8 {
		if in&(1<<n) != 0 {
			out = append(out, lease.Member{ID: name(n), Removed: gone&(1<<n) != 0})
		}
	}
	return out
}

// value is the register that clients read: the index of the last write.
func (s *server) value(i int) uint64 {
	for ; i > 0; i-- {
		if s.at(i).kind == write {
			return uint64(i)
		}
	}
	return 0
}

func name(n int) lease.NodeID { return lease.NodeID(fmt.Sprintf("n%d", n+1)) }
