package fsm_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// The model of approvals: who is bound under which uid, what they signed, and what
// became of it. It knows nothing of keys, intents and nonces. Signatures that are
// good are made here; what bad ones do has tests of its own.

type modelVote struct{ name, uid string }

type modelRule struct {
	governors, custodians int
	others                bool // who asks does not count
}

type modelApproval struct {
	id       string
	by       modelVote
	cmd      *fsmpb.Command
	tenant   string // whose governors decide; empty: those of the platform
	rule     modelRule
	votes    []modelVote
	state    fsmpb.ApprovalState
	expires  int64
	end      int64
	executed uint64 // index
	removes  string // uid of the binding that it removes
}

type approvals struct {
	w         *world
	rule      modelRule         // governors and custodians of the quorum
	bound     map[string]string // name of a person: uid of the binding
	governors map[string][]string
	objects   map[string]string // bindings of operators and workloads: uid
	all       []*modelApproval
}

func quorumRule(g, c int) modelRule { return modelRule{g, c, g > 1 || c > 1} }

func largerRule(a, b modelRule) modelRule {
	return modelRule{max(a.governors, b.governors), max(a.custodians, b.custodians), a.others || b.others}
}

// needs is what a command needs under the present quorum.
func (m *approvals) needs(cmd *fsmpb.Command) modelRule {
	if q := cmd.GetSetQuorum(); q != nil {
		return largerRule(m.rule, quorumRule(int(q.GetGovernors()), int(q.GetCustodians())))
	}
	return modelRule{governors: m.rule.governors, others: m.rule.governors > 1}
}

func (m *approvals) present(v modelVote) bool {
	return m.bound[v.name] != "" && m.bound[v.name] == v.uid
}

// has reports whether somebody who is bound now decides over that.
func (m *approvals) has(name, tenant string) bool {
	if roleOf(name) != "governor" {
		return false
	}
	if tenant == "" {
		return name != "g1"
	}
	return slices.Contains(m.governors[tenant], m.bound[name])
}

// asked reports whether a rule asks for somebody's signature.
func (m *approvals) asked(r modelRule, name, tenant string) bool {
	if roleOf(name) == "custodian" {
		return r.custodians > 0
	}
	return r.governors > 0 && m.has(name, tenant)
}

func (m *approvals) enough(a *modelApproval, r modelRule) bool {
	votes := slices.Clone(a.votes)
	if !r.others && r.governors > 0 {
		votes = append(votes, a.by)
	}
	g, c := 0, 0
	for _, v := range votes {
		if roleOf(v.name) == "custodian" {
			c++
		} else {
			g++
		}
	}
	return g >= r.governors && c >= r.custodians
}

func (m *approvals) now(a *modelApproval) modelRule { return largerRule(a.rule, m.needs(a.cmd)) }

func open(s fsmpb.ApprovalState) bool { return s == pending || s == approved }

func (m *approvals) request(who string, cmd *fsmpb.Command, tenant, id string) string {
	switch {
	case m.bound[who] == "":
		return "UNAUTHENTICATED"
	case !m.has(who, tenant):
		return denied
	}
	own := 0
	for _, a := range m.all {
		if open(a.state) && a.by.uid == m.bound[who] {
			own++
		}
	}
	if own >= fsm.MaxApprovalsPerRequester {
		return "LIMIT_REACHED"
	}
	a := &modelApproval{
		id: id, by: modelVote{who, m.bound[who]}, cmd: cmd, tenant: tenant, rule: m.needs(cmd), state: pending, expires: m.w.now + hourMS,
	}
	if u := cmd.GetUnbindRole(); u != nil {
		a.removes = m.objects[u.GetId()]
	}
	if m.enough(a, a.rule) {
		a.state = approved
	}
	m.all = append(m.all, a)
	return done
}

func (m *approvals) approve(a *modelApproval, who string) string {
	switch {
	case m.bound[who] == "":
		return "UNAUTHENTICATED"
	case a.state != pending || !m.present(a.by):
		return failed
	}
	r := m.now(a)
	stay := slices.DeleteFunc(slices.Clone(a.votes), func(v modelVote) bool { return !m.present(v) || !m.asked(r, v.name, a.tenant) })
	twice := slices.ContainsFunc(stay, func(v modelVote) bool { return v.name == who })
	if m.w.now >= a.expires || twice || who == a.by.name || !m.asked(r, who, a.tenant) || !r.others && !m.asked(r, a.by.name, a.tenant) {
		return "INTENT_REFUSED"
	}
	a.votes = append(stay, modelVote{who, m.bound[who]})
	if m.enough(a, r) {
		a.state = approved
	}
	return done
}

func (m *approvals) reject(a *modelApproval, who string) string {
	switch {
	case m.bound[who] == "":
		return "UNAUTHENTICATED"
	case !open(a.state):
		return failed
	case !m.asked(m.now(a), who, a.tenant) && m.bound[who] != a.by.uid:
		return denied
	}
	m.ends(a, rejected)
	return done
}

func (m *approvals) ends(a *modelApproval, s fsmpb.ApprovalState) { a.state, a.end = s, m.w.now }

func (m *approvals) execute(a *modelApproval) string {
	switch {
	case a.state == pending:
		return "ABORTED"
	case a.state != approved:
		return failed
	}
	no := m.why(a)
	if no != done {
		m.ends(a, failing)
		return no
	}
	m.ends(a, executed)
	a.executed = m.w.index + 1
	switch b := a.cmd.GetBody().(type) {
	case *fsmpb.Command_UnbindRole:
		delete(m.objects, b.UnbindRole.GetId())
	case *fsmpb.Command_SetQuorum:
		m.setQuorum(int(b.SetQuorum.GetGovernors()), int(b.SetQuorum.GetCustodians()))
	}
	return done
}

// why says how the command that executes an approval is refused.
func (m *approvals) why(a *modelApproval) string {
	switch {
	case m.bound[a.by.name] == "":
		return "UNAUTHENTICATED"
	case !m.has(a.by.name, a.tenant):
		return denied
	case !m.present(a.by):
		return failed
	}
	switch b := a.cmd.GetBody().(type) {
	case *fsmpb.Command_BindRole:
		if m.objects[b.BindRole.GetBinding().GetId()] != "" {
			return exists
		}
	case *fsmpb.Command_UnbindRole:
		if m.objects[b.UnbindRole.GetId()] == "" {
			return notFound
		}
		if m.objects[b.UnbindRole.GetId()] != a.removes {
			return "INTENT_REFUSED"
		}
	case *fsmpb.Command_SetQuorum:
		r := quorumRule(int(b.SetQuorum.GetGovernors()), int(b.SetQuorum.GetCustodians()))
		if r == m.rule || !m.reachable(r) {
			return failed
		}
	}
	r := m.now(a)
	for _, v := range a.votes {
		if !m.present(v) || !m.asked(r, v.name, a.tenant) {
			return "INTENT_REFUSED"
		}
	}
	if m.w.now >= a.expires {
		return "INTENT_REFUSED"
	}
	return done
}

func (m *approvals) reachable(r modelRule) bool {
	count := func(is func(name string) bool) (n int) {
		for name, uid := range m.bound {
			if uid != "" && is(name) {
				n++
			}
		}
		return n
	}
	asker := 0
	if r.others {
		asker = 1
	}
	if count(func(n string) bool { return m.has(n, "") }) < r.governors+asker || count(func(n string) bool { return roleOf(n) == "custodian" }) < r.custodians {
		return false
	}
	inside := r.governors
	if r.governors > 1 {
		inside++
	}
	for tenant := range m.governors {
		if count(func(n string) bool { return m.has(n, tenant) }) < inside {
			return false
		}
	}
	return true
}

func (m *approvals) setQuorum(g, c int) {
	m.rule = quorumRule(g, c)
	for _, a := range m.all {
		if a.state == approved && !m.enough(a, m.now(a)) {
			a.state = pending
		}
	}
}

func (m *approvals) tick() {
	for _, a := range m.all {
		if open(a.state) && m.w.now >= a.expires {
			m.ends(a, expired)
		}
	}
	m.all = slices.DeleteFunc(m.all, func(a *modelApproval) bool { return !open(a.state) && m.w.now >= a.end+fsm.ApprovalMemoryMS })
}

func (m *approvals) compare() {
	v, tb := m.w.view(), m.w.tb
	if got := len(v.Approvals(0, "", fsm.MaxApprovals)); got != len(m.all) {
		tb.Fatalf("%d approvals, want %d", got, len(m.all))
	}
	waiting := 0
	for _, a := range m.all {
		got := m.w.isIn(a.id, a.state)
		names := make([]string, 0, len(a.votes))
		for _, s := range got.GetSignatures() {
			names = append(names, s.GetPerson())
		}
		if open(a.state) {
			waiting++
		}
		if len(names) != len(a.votes) || slices.ContainsFunc(a.votes, func(v modelVote) bool { return !slices.Contains(names, v.name) }) || got.GetEndTimeMs() != a.end {
			tb.Fatalf("approval %s is %v, want %+v", a.id, got, *a)
		}
		if a.state == executed && (got.GetResult().GetIndex() != a.executed || got.GetResult().GetReason() != "") {
			tb.Fatalf("approval %s was executed as %v, want index %d", a.id, got.GetResult(), a.executed)
		}
	}
	if v.OpenApprovals() != waiting {
		tb.Fatalf("%d are open, want %d", v.OpenApprovals(), waiting)
	}
	for _, id := range []string{"o0", "o1", "app"} {
		tenant := ""
		if id == "app" {
			tenant = "beta"
		}
		b, _ := v.Binding(tenant, id)
		if string(b.GetUid()) != m.objects[id] {
			tb.Fatalf("%s is bound as %x, want %x", id, b.GetUid(), m.objects[id])
		}
	}
}

// people who take part, in the order in which they are asked to sign something.
func approvers() []string {
	return []string{"alice", "bob", "carol", "gov", "g1", "cust", "dave"}
}

// around does a command with signatures of its own, by whoever can: what happens
// around approvals. It reports whether that was possible.
func (m *approvals) around(cmd *fsmpb.Command, tenant string, r modelRule) bool {
	var signers []string
	asker, g, c := "", 0, 0
	for _, n := range approvers() {
		switch {
		case m.bound[n] == "":
		case roleOf(n) == "custodian" && c < r.custodians:
			c++
			signers = append(signers, n)
		case m.has(n, tenant) && g < r.governors:
			g++
			signers = append(signers, n)
		case m.has(n, tenant):
			asker = n
		}
	}
	if asker == "" || g < r.governors || c < r.custodians {
		return false
	}
	cmd.Principal = as(asker)
	return m.w.do(m.w.signatures(cmd, signers...)).GetReason() == ""
}

// command draws what is to be approved, and whose governors decide; nil: it cannot
// be said now.
func (m *approvals) command(t *rapid.T) (*fsmpb.Command, string) {
	switch id := draw(t, "what", "o0", "o0", "o1", "app", "quorum"); id {
	case "quorum":
		return setQuorum(draw[uint32](t, "governors", 1, 2, 3), draw[uint32](t, "custodians", 1, 2)), ""
	case "app":
		if m.objects[id] != "" && draw(t, "remove", true, false) {
			return unbind("beta", id), "beta"
		}
		return bind(m.w.workload("beta", id)), "beta"
	default:
		if m.objects[id] != "" && draw(t, "remove", true, false) {
			return unbind("", id), ""
		}
		return bind(bindingFor("operator", id)), ""
	}
}

func objectOf(cmd *fsmpb.Command) string {
	if b := cmd.GetBindRole().GetBinding(); b != nil {
		return b.GetId()
	}
	return cmd.GetUnbindRole().GetId()
}

// step does one thing to machine and model, and returns what it was and its outcome.
func (m *approvals) step(t *rapid.T) (what, got, want string) {
	w := m.w
	kind := draw(t, "step", "request", "request", "approve", "approve", "approve", "approve", "execute", "execute", "execute", "reject", "wrong", "replay", "person", "around", "quorum", "time", "restart")
	who := draw(t, "who", approvers()...)
	var a *modelApproval
	if len(m.all) != 0 {
		a = m.all[rapid.IntRange(0, len(m.all)-1).Draw(t, "approval")]
		for _, b := range m.all { // mostly one that is still to be decided
			if open(b.state) && draw(t, "this", true, false, false) {
				a = b
			}
		}
	}
	if a == nil && slices.Contains([]string{"approve", "execute", "reject", "wrong", "replay"}, kind) {
		kind = "request"
	}
	switch kind {
	case "request":
		cmd, tenant := m.command(t)
		c, id := w.request(who, cmd)
		return kind, w.do(c).GetReason(), m.request(who, cmd, tenant, id)
	case "approve":
		return kind, w.do(w.approve(a.id, who)).GetReason(), m.approve(a, who)
	case "reject":
		c := reject(a.id)
		c.Principal = as(who)
		return kind, w.do(c).GetReason(), m.reject(a, who)
	case "execute":
		want = m.execute(a)
		res := w.do(w.execute(a.id, a.cmd))
		if id := objectOf(a.cmd); id != "" && res.GetReason() == "" && a.cmd.GetBindRole() != nil {
			m.objects[id] = string(res.GetUid())
		}
		return kind, res.GetReason(), want
	case "wrong":
		c := w.execute(a.id, a.cmd)
		want = map[fsmpb.ApprovalState]string{pending: "ABORTED", approved: "INTENT_REFUSED"}[a.state]
		if want == "" {
			want = failed
		}
		if draw(t, "in the wrong name", true, false) {
			if c.Principal = as(who); who != a.by.name {
				if a.state == approved {
					want = denied
				}
				return kind, w.do(c).GetReason(), want
			}
		}
		other := proto.CloneOf(bind(bindingFor("operator", "another")))
		other.Principal, other.Approval = c.GetPrincipal(), c.GetApproval()
		return kind, w.do(other).GetReason(), want
	case "replay": // without the approval, by who could ask and is none of the signers
		c := proto.CloneOf(a.cmd)
		for _, v := range a.votes {
			c.Intents = append(c.Intents, signature(t, v.name, w.approval(a.id).GetIntent()))
		}
		if w.do(c).GetReason() == "" {
			return kind, "done", "a refusal"
		}
		return kind, "", ""
	case "person":
		n := draw(t, "person", "bob", "carol", "g1", "dave", "gov")
		both := modelRule{m.rule.governors, m.rule.custodians, true}
		if m.bound[n] != "" {
			if m.around(unbind("", n), "", both) {
				m.bound[n] = ""
				return "unbind", "", ""
			}
			return "not unbound", "", ""
		}
		b := bindingFor(roleOf(n), n)
		b.Platform = roleOf(n) == "governor" && n != "g1"
		if m.around(bind(b), "", both) {
			m.bound[n] = string(w.bindingOf("", n).GetUid())
			return "bind anew", "", ""
		}
		return "not bound", "", ""
	case "around":
		cmd, tenant := m.command(t)
		if cmd.GetSetQuorum() != nil {
			return "nothing", "", ""
		}
		if m.around(cmd, tenant, m.needs(cmd)) {
			delete(m.objects, objectOf(cmd))
			if b, ok := w.view().Binding(tenant, objectOf(cmd)); ok {
				m.objects[objectOf(cmd)] = string(b.GetUid())
			}
			return "done besides", "", ""
		}
		return "not done besides", "", ""
	case "quorum":
		g, c := draw[uint32](t, "governors", 1, 2), draw[uint32](t, "custodians", 1, 2)
		cmd := setQuorum(g, c)
		if m.around(cmd, "", m.needs(cmd)) {
			m.setQuorum(int(g), int(c))
			return "quorum", "", ""
		}
		return "no quorum", "", ""
	case "time":
		w.now += draw(t, "later", 1, hourMS/3, hourMS, fsm.ApprovalMemoryMS)
		if draw(t, "tick", true, false) {
			w.ok(tick())
			m.tick()
		}
		return kind, "", ""
	}
	w.restart()
	return kind, "", ""
}

// TestI24_I25_ApprovalsDoWhatTheModelDoes compares every answer and every approval
// over random histories, with restores in between.
func TestI24_I25_ApprovalsDoWhatTheModelDoes(t *testing.T) {
	t.Parallel()
	outcomes := make(map[string]int)
	rapid.Check(t, func(t *rapid.T) {
		if invariants.Race && (rapid.Bool().Draw(t, "leave out") || rapid.Bool().Draw(t, "too")) {
			return
		}
		w := quorate(t)
		m := &approvals{w: w, rule: quorumRule(2, 1), bound: map[string]string{}, governors: map[string][]string{}, objects: map[string]string{}}
		for _, n := range approvers() {
			m.bound[n] = string(w.bindingOf("", n).GetUid())
		}
		for _, tn := range w.view().Tenants("", 10) {
			for _, uid := range tn.GetGovernors() {
				m.governors[tn.GetName()] = append(m.governors[tn.GetName()], string(uid))
			}
		}
		for range rapid.IntRange(20, 80).Draw(t, "steps") {
			what, got, want := m.step(t)
			if got != want {
				t.Fatalf("%s: got %q, want %q", what, got, want)
			}
			outcomes[fmt.Sprint(what, " ", want)]++
			m.compare()
		}
		for _, a := range m.all {
			outcomes[a.state.String()]++
		}
		sameState(t, w.m, replay(t, w.log)) // of one that was never restored
	})
	if invariants.Race {
		return
	}
	// The test means something only if all of these were seen; what is rarer has tests
	// of its own.
	for _, o := range []string{
		"request ", "request DENIED", "approve ", "approve INTENT_REFUSED", "approve FAILED_STATE", "reject ", "reject FAILED_STATE", "reject DENIED",
		"execute ", "execute ABORTED", "execute FAILED_STATE", "wrong ABORTED", "wrong INTENT_REFUSED", "wrong DENIED", "wrong FAILED_STATE",
		"unbind ", "bind anew ", "done besides ", "quorum ", "restart ",
		pending.String(), approved.String(), executed.String(), rejected.String(), expired.String(), failing.String(),
	} {
		if outcomes[o] == 0 {
			t.Errorf("never seen: %s", o)
		}
	}
}
