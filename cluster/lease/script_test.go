package lease_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// TestScripts runs testdata/*.txt: one story each, with the full transcript. After
// a change of behaviour: go test ./cluster/lease -run TestScripts -rewrite, and
// read the difference.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		t.Helper()
		s := &script{holders: map[string]*lease.Holder{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			s.out.Reset()
			s.run(t, d)
			if s.out.Len() == 0 {
				return "ok\n"
			}
			return s.out.String()
		})
	})
}

// script is one machine with a leader and holders, which share its clocks.
type script struct {
	now     lease.Reading
	leader  *lease.Leader
	holders map[string]*lease.Holder
	out     strings.Builder
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *script) run(t *testing.T, d *datadriven.TestData) {
	t.Helper()
	a := arguments{t, d}
	switch d.Cmd {
	case "tick": // tick 20ms | tick raw=1s boot=2s wall=-1h
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "raw":
				s.now.Raw += a.duration("raw")
			case "boot":
				s.now.Boot += a.duration("boot")
			case "wall":
				s.now.Wall += a.duration("wall")
			default:
				step := a.parse(arg.Key)
				s.now.Raw, s.now.Boot, s.now.Wall = s.now.Raw+step, s.now.Boot+step, s.now.Wall+step
			}
		}
		s.say("raw %v boot %v wall %v", s.now.Raw, s.now.Boot, s.now.Wall)
	case "leader", "expect", "applied", "restored", "establish", "lost", "members", "renew", "begin", "confirmed", "next-round",
		"advance", "pending", "holders", "busy", "contradicted":
		s.runLeader(a)
	case "holder", "ask", "due", "grant", "view", "restore", "remove", "connect", "fence", "complete", "differ", "lease":
		s.runHolder(a)
	case "answer":
		ans, ok := lease.Confirm{History: a.history(), Round: a.number("round"), Term: a.number("asked")}.Answer(history, a.number("term"))
		s.say("answers: %t, round %d, term %d", ok, ans.Round, ans.Term)
	case "gate":
		s.say("%v", lease.Gate(a.answer(), a.reads("reads"), a.number("complete")))
	case "final":
		l := lease.Lease{Start: s.now, Span: a.duration("left")}
		newest := a.reads("reads")
		if d.HasArg("newest") {
			newest = a.reads("newest")
		}
		s.say("%v", lease.Final(a.answer(), l, s.now, a.reads("reads"), newest, a.number("complete")))
	case "spans":
		s.say("holder %v leader %v", lease.HolderSpan(a.duration("lease")), lease.LeaderSpan(a.duration("lease")))
	case "timing":
		tm := lease.LAN()
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "wan":
				tm = lease.WAN()
			case "heartbeat":
				tm.Heartbeat = a.duration(arg.Key)
			case "renew":
				tm.Renew = a.duration(arg.Key)
			case "lease":
				tm.Lease = a.duration(arg.Key)
			case "grant":
				tm.Grant = a.duration(arg.Key)
			}
		}
		s.say("failover %v, needed %v of %v", tm.Failover(), tm.Needed(), lease.HolderSpan(tm.Lease))
		if err := tm.Check(); err != nil {
			s.say("refused: %v", err)
		}
	case "stuck":
		s.say("%t", lease.Stuck(a.duration("oldest")))
	case "pace":
		s.say("%v", lease.Pace(int(a.number("holders"))))
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
}

func (s *script) runLeader(a arguments) {
	l := s.leader
	switch a.d.Cmd {
	case "leader":
		s.leader = lease.NewLeader(lease.LeaderConfig{Self: lease.NodeID(a.text("id")), History: history, Lease: a.duration("lease")})
	case "expect":
		l.Expect(lease.EpochNonce{byte(a.number("nonce"))})
	case "applied":
		if l.Applied(s.now, a.entry()) {
			s.say("the epoch ends")
		}
	case "restored":
		if l.Restored(s.now, a.entry()) {
			s.say("the epoch ends")
		}
	case "establish":
		ok := l.Establish(s.now, lease.Epoch{Nonce: lease.EpochNonce{byte(a.number("nonce"))}, Members: a.members(), Heard: a.number("heard")})
		term, index, _ := l.Established()
		s.say("established: %t, term %d, index %d, complete %d", ok, term, index, l.Complete())
	case "lost":
		s.say("there was an epoch: %t", l.Lost())
	case "members":
		l.SetMembers(a.members())
	case "renew":
		r := lease.Renew{
			History: a.history(), Inc: a.inc(), Nonce: lease.Nonce(a.number("nonce")), Applied: a.number("applied"),
			Log: lease.Mark{Term: a.number("log-term"), Index: a.number("log-index")}, Boot: a.duration("boot"), Differs: a.d.HasArg("differs"),
		}
		c := lease.Checks{Log: lease.Mark{Term: a.number("own-term"), Index: a.number("own-index")}}
		if a.d.HasArg("chain-differs") {
			c.State = lease.Differs
		}
		s.say("refusal: %v", l.Renew(s.now, lease.NodeID(a.text("from")), r, c))
	case "begin":
		out, q, ok := l.Begin(s.now, a.nodes("voters"), a.number("own"), nil)
		if !ok {
			s.say("no round")
			return
		}
		s.say("round %d, term %d", q.Round, q.Term)
		s.grants(out)
	case "confirmed":
		s.grants(l.Confirmed(s.now, lease.NodeID(a.text("voter")), lease.Confirmed{History: a.history(), Round: a.number("round"), Term: a.number("term")}, nil))
	case "next-round":
		wait, ok := l.NextRound(s.now)
		s.say("waits: %t, in %v", ok, wait)
	case "advance":
		p := l.Advance(s.now)
		s.say("complete %d, look again in %v", p.Complete, p.Next)
	case "pending":
		for _, w := range l.Pending(s.now, a.number("index")) {
			s.say("%s: %v", w.Node, w.Remaining)
		}
		if s.out.Len() == 0 {
			s.say("nobody")
		}
	case "holders":
		for _, h := range l.Holders(s.now) {
			s.say("%s: removed %t, incarnation %v, reported %d, leased %v, earlier %v, differs %t, clock ahead %v in %v",
				h.Node, h.Removed, h.Inc, h.Reported, h.Leased, h.Earlier, h.Differs, h.Drift.Ahead, h.Drift.Over)
		}
	case "busy":
		l.Busy(a.duration("oldest"))
	case "contradicted":
		s.say("%t", l.Contradicted(a.nodes("voters")))
	}
}

func (s *script) grants(out []lease.Granted) {
	for _, g := range out {
		s.say("grant to %s: term %d, incarnation %v, nonce %d, index %d, lease %v, complete %d",
			g.To, g.Grant.Term, g.Grant.Inc, g.Grant.Nonce, g.Grant.Index, g.Grant.Lease, g.Grant.Complete)
	}
	if len(out) == 0 {
		s.say("no grants")
	}
}

func (s *script) runHolder(a arguments) {
	id := "x"
	if a.d.HasArg("id") {
		id = a.text("id")
	}
	h := s.holders[id]
	switch a.d.Cmd {
	case "holder":
		s.holders[id] = lease.NewHolder(lease.HolderConfig{History: history, Boot: a.number("boot"), Renew: a.duration("renew")})
		return
	case "ask":
		r := h.Renew(s.now, lease.Mark{Term: 1, Index: a.number("log")})
		s.say("renew: incarnation %v, nonce %d, applied %d, differs %t", r.Inc, r.Nonce, r.Applied, r.Differs)
		return
	case "due":
		s.say("in %v", h.Due(s.now))
		return
	case "grant":
		g := lease.Grant{
			History: a.history(), Term: a.number("term"), Inc: a.inc(), Nonce: lease.Nonce(a.number("nonce")),
			Index: a.number("index"), Lease: a.duration("lease"), Complete: a.number("complete"), Chain: a.chain(),
		}
		agrees := lease.AgreementUnknown
		if a.d.HasArg("chain-differs") {
			agrees = lease.Differs
		}
		s.say("refusal: %v", h.Grant(s.now, g, agrees))
	case "view":
		h.Applied(s.now, a.entry())
	case "restore":
		h.Restore()
		s.say("incarnation %v", h.Incarnation())
	case "remove":
		h.Remove()
	case "connect":
		h.Connect()
	case "fence":
		h.Fence(a.number("index"))
		return
	case "complete":
		h.Completed(a.number("index"))
		s.say("complete %d", h.Complete())
		return
	case "differ":
		h.Differ()
	case "lease":
	}
	l := h.Lease()
	s.say("usable: %t for %v, term %d, index %d", l.Usable(s.now), l.Remaining(s.now), l.Term, l.Index)
}

// arguments reads those of a command; what is missing is zero.
type arguments struct {
	t *testing.T
	d *datadriven.TestData
}

func (a arguments) text(key string) string {
	for _, arg := range a.d.CmdArgs {
		if arg.Key == key {
			if len(arg.Vals) != 1 {
				a.t.Fatalf("%s: %s has %d values", a.d.Pos, key, len(arg.Vals))
			}
			return arg.Vals[0]
		}
	}
	return ""
}

func (a arguments) number(key string) uint64 {
	v := a.text(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		a.t.Fatalf("%s: %v", a.d.Pos, err)
	}
	return n
}

func (a arguments) parse(v string) time.Duration {
	d, err := time.ParseDuration(v)
	if err != nil {
		a.t.Fatalf("%s: %v", a.d.Pos, err)
	}
	return d
}

func (a arguments) duration(key string) time.Duration {
	if v := a.text(key); v != "" {
		return a.parse(v)
	}
	return 0
}

func (a arguments) history() lease.History {
	if a.d.HasArg("foreign") {
		return lease.History{0xff}
	}
	return history
}

func (a arguments) inc() lease.Incarnation {
	boot, restores, _ := strings.Cut(a.text("inc"), ".")
	var i lease.Incarnation
	if boot != "" {
		i.Boot, _ = strconv.ParseUint(boot, 10, 64)
		i.Restores, _ = strconv.ParseUint(restores, 10, 64)
	}
	return i
}

func (a arguments) chain() (c lease.Chain) {
	copy(c[:], a.text("chain"))
	return c
}

func (a arguments) entry() lease.Entry {
	return lease.Entry{Index: a.number("index"), Term: a.number("term"), Chain: a.chain()}
}

func (a arguments) nodes(key string) []lease.NodeID {
	var out []lease.NodeID
	for _, arg := range a.d.CmdArgs {
		if arg.Key == key {
			for _, v := range arg.Vals {
				out = append(out, lease.NodeID(v))
			}
		}
	}
	return out
}

func (a arguments) members() []lease.Member {
	removed := a.nodes("removed")
	var out []lease.Member
	for _, id := range a.nodes("members") {
		out = append(out, lease.Member{ID: id})
	}
	for _, id := range removed {
		if !slices.Contains(a.nodes("members"), id) {
			out = append(out, lease.Member{ID: id, Removed: true})
		}
	}
	return out
}

func (a arguments) answer() lease.Answer {
	switch v := a.text("answer"); v {
	case "success":
		return lease.AnswerSuccess
	case "refusal":
		return lease.AnswerRefusal
	case "nothing":
		return lease.AnswerNothing
	case "":
		return lease.AnswerUnspecified
	default:
		a.t.Fatalf("%s: no answer %q", a.d.Pos, v)
		return 0
	}
}

// reads is a list of objects, each as gate index and mod index: (7/9, 0/4).
func (a arguments) reads(key string) (r lease.ReadSet) {
	for _, v := range a.nodes(key) {
		gate, mod, _ := strings.Cut(string(v), "/")
		g, _ := strconv.ParseUint(gate, 10, 64)
		m, _ := strconv.ParseUint(mod, 10, 64)
		r.Note(g, m)
	}
	return r
}
