package fsm_test

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	fromSnapshot = fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT
	quorumLost   = fsmpb.RecoveryKind_RECOVERY_KIND_QUORUM
)

// recovery is a recovery from the present state by node n.
func (w *world) recovery(kind fsmpb.RecoveryKind, n int) *fsmpb.Command {
	index, _, chain := w.view().Applied()
	i := &fsmpb.Incarnation{Kind: kind, Node: nodeID(n), FromIndex: index, FromChain: chain[:], Lost: w.view().Lost(nodeID(n))}
	id := fsm.IncarnationID(w.view().Cluster().GetKeyspaceId(), i)
	i.Id = id[:]
	m := node(n)
	return &fsmpb.Command{Body: &fsmpb.Command_Recover{Recover: &fsmpb.Recover{Incarnation: i, Member: m}}}
}

// threeVoters is a cluster of nodes 0, 1 and 2, which vote, and node 3, which does not.
func threeVoters(t tb) *world {
	w := newWorld(t)
	for n := 1; n <= 3; n++ {
		w.ok(w.token(n, n < 3))
		m := node(n)
		m.Voter = n < 3
		w.ok(w.join(n, m))
	}
	return w
}

func sortedIDs(nodes ...int) (ids []string) {
	for _, n := range nodes {
		ids = append(ids, nodeID(n))
	}
	slices.Sort(ids)
	return ids
}

func reversed(ids []string) []string {
	slices.Reverse(ids)
	return ids
}

// memberIDs returns who is a member, and who of them votes.
func memberIDs(v *fsm.View) (members, voters []string) {
	for _, m := range v.Members() {
		if !m.GetRemoved() {
			members = append(members, m.GetId())
			if m.GetVoter() {
				voters = append(voters, m.GetId())
			}
		}
	}
	return members, voters
}

func TestI35_ARecoveryLeavesOneMember(t *testing.T) {
	for name, tc := range map[string]struct {
		kind fsmpb.RecoveryKind
		node int
	}{
		"a voter":     {quorumLost, 0},
		"a non-voter": {quorumLost, 3},
		"a new node":  {fromSnapshot, 7},
	} {
		t.Run(name, func(t *testing.T) {
			w := threeVoters(t)
			w.ok(w.createTenant("acme"))
			w.ok(w.token(9, true)) // not used
			cmd := w.recovery(tc.kind, tc.node)
			before := w.view()
			w.ok(cmd)
			members, voters := memberIDs(w.view())
			if len(members) != 1 || members[0] != nodeID(tc.node) || len(voters) != 1 {
				t.Errorf("members are %v, voters %v; want %s alone", members, voters, nodeID(tc.node))
			}
			for _, m := range before.Members() {
				if is, ok := w.view().Member(m.GetId()); m.GetId() != nodeID(tc.node) && (!ok || !is.GetRemoved()) {
					t.Errorf("%s is not removed", m.GetName())
				}
			}
			if _, ok := w.view().JoinToken(tokenHash(9)); ok {
				t.Error("a join token of before is still good")
			}
			if now, agreed := w.view().Voters(); now != 1 || agreed != 1 {
				t.Errorf("%d voters, %d agreed to", now, agreed)
			}
			i := w.view().Incarnation()
			want := proto.CloneOf(cmd.GetRecover().GetIncarnation())
			want.TimeMs, want.ModIndex = w.now, w.index
			if !proto.Equal(i, want) {
				t.Errorf("the incarnation is %v, want %v", i, want)
			}
			if _, ok := w.view().Tenant("acme"); !ok {
				t.Error("the tenant is gone")
			}
			// A member of the incarnation before is none of this one, and does not become one.
			w.ok(w.token(10, false))
			if tc.node != 1 {
				w.refused(errs.AlreadyExists, w.join(10, node(1)))
			}
			w.ok(w.join(10, node(8)))
			w.restart()
			sameState(t, w.m, replay(t, w.log))
		})
	}
}

func TestI35_ARecoveryNamesEveryOtherVoter(t *testing.T) {
	for name, lost := range map[string][]string{
		"none":              nil,
		"one is missing":    {nodeID(1)},
		"the node itself":   sortedIDs(0, 1, 2),
		"one who votes not": sortedIDs(1, 2, 3),
		"a stranger":        sortedIDs(1, 2, 8),
		"in another order":  reversed(sortedIDs(1, 2)),
		"one twice":         {nodeID(1), nodeID(1), nodeID(2)},
	} {
		t.Run(name, func(t *testing.T) {
			w := threeVoters(t)
			cmd := w.recovery(quorumLost, 0)
			cmd.GetRecover().GetIncarnation().Lost = lost
			if res := w.do(cmd); res.GetReason() != errs.FailedState.String() && res.GetReason() != errs.InvalidArgument.String() {
				t.Errorf("got %q (%s)", res.GetReason(), res.GetMessage())
			}
			if members, _ := memberIDs(w.view()); len(members) != 4 || w.view().Incarnation() != nil {
				t.Errorf("it changed something: %v", members)
			}
		})
	}
}

func TestI35_PeopleSignARecovery(t *testing.T) {
	w := ofQuorum(t, 2, 1)
	w.refused(errs.IntentRefused, w.recovery(quorumLost, 0))
	w.refused(errs.IntentRefused, w.signatures(w.recovery(quorumLost, 0), "alice", "bob"))  // no custodian
	w.refused(errs.IntentRefused, w.signatures(w.recovery(quorumLost, 0), "alice", "cust")) // too few governors
	// Signed for another node, state, or set of the dead.
	for name, change := range map[string]func(*fsmpb.Recover){
		"key":  func(r *fsmpb.Recover) { r.Member.PublicKey = nodeSPKI(0) },
		"lost": func(r *fsmpb.Recover) { r.Incarnation.Lost = append(r.Incarnation.Lost, nodeID(5)) },
		"chain": func(r *fsmpb.Recover) {
			r.Incarnation.FromChain = bytes.Repeat([]byte{1}, 32)
			id := fsm.IncarnationID(w.view().Cluster().GetKeyspaceId(), r.GetIncarnation())
			r.Incarnation.Id = id[:]
		},
	} {
		signed := w.recovery(quorumLost, 0)
		change(signed.GetRecover())
		w.signatures(signed, "alice", "bob", "cust")
		cmd := w.recovery(quorumLost, 0)
		if name == "key" {
			signed.GetRecover().Member.PublicKey = blob("another", 1)
			w.signatures(signed, "alice", "bob", "cust")
		}
		cmd.Intents = signed.GetIntents()
		w.refused(errs.IntentRefused, cmd)
	}
	w.ok(w.signatures(w.recovery(quorumLost, 0), "alice", "bob", "cust"))
	if n := len(w.view().Incarnation().GetAuthorizedBy()); n != 3 {
		t.Errorf("%d signatures are kept, want 3", n)
	}
	w.restart()
}

func TestI35_ARecoveryIsMadeOnce(t *testing.T) {
	w := threeVoters(t)
	cmd := w.recovery(quorumLost, 0)
	w.ok(proto.CloneOf(cmd))
	w.refused(errs.FailedState, cmd)
	second := w.recovery(quorumLost, 0)
	w.ok(second)
	if a, b := w.view().Cluster().GetIncarnations()[0].GetId(), w.view().Incarnation().GetId(); bytes.Equal(a, b) {
		t.Error("two recoveries have one id")
	}
}

func TestI35_WhoCannotBeginAnIncarnation(t *testing.T) {
	for name, tc := range map[string]struct {
		kind   fsmpb.RecoveryKind
		node   int
		code   errs.Code
		change func(*world, *fsmpb.Recover)
	}{
		"a member, from a snapshot":       {fromSnapshot, 0, errs.AlreadyExists, nil},
		"a stranger, from what is left":   {quorumLost, 7, errs.FailedState, nil},
		"a member under another key":      {quorumLost, 0, errs.FailedState, func(_ *world, r *fsmpb.Recover) { r.Member.PublicKey = blob("another", 1) }},
		"a new node with a member's key":  {fromSnapshot, 7, errs.AlreadyExists, func(_ *world, r *fsmpb.Recover) { r.Member.PublicKey = nodeSPKI(1) }},
		"somebody else":                   {quorumLost, 0, errs.InvalidArgument, func(_ *world, r *fsmpb.Recover) { r.Member.Id = nodeID(1) }},
		"a release that is too old":       {quorumLost, 0, errs.FailedState, func(_ *world, r *fsmpb.Recover) { r.Member.MaxFormat = fsm.FormatProofs }},
		"an id that is made up":           {quorumLost, 0, errs.InvalidArgument, func(_ *world, r *fsmpb.Recover) { r.Incarnation.Id[0] ^= 1 }},
		"a state that is to come":         {quorumLost, 0, errs.InvalidArgument, func(w *world, r *fsmpb.Recover) { w.future(r.GetIncarnation()) }},
		"no kind":                         {0, 0, errs.InvalidArgument, nil},
		"a node that says what is not so": {quorumLost, 0, errs.InvalidArgument, func(_ *world, r *fsmpb.Recover) { r.Member.PeerAddress = "" }},
	} {
		t.Run(name, func(t *testing.T) {
			w := threeVoters(t)
			cmd := w.recovery(tc.kind, tc.node)
			if tc.change != nil {
				tc.change(w, cmd.GetRecover())
			}
			w.refused(tc.code, cmd)
			if w.view().Incarnation() != nil {
				t.Error("there is an incarnation")
			}
		})
	}
	t.Run("a member that was removed", func(t *testing.T) {
		w := threeVoters(t)
		w.ok(remove(3))
		w.refused(errs.FailedState, w.recovery(quorumLost, 3))
	})
	t.Run("in a cluster of before proofs", func(t *testing.T) {
		w := newWorld(t, ofFormat(fsm.FormatAuthority))
		w.refused(errs.FailedState, w.recovery(quorumLost, 0))
	})
	t.Run("without a proof", func(t *testing.T) {
		w := threeVoters(t)
		if res := w.unproved(w.recovery(quorumLost, 0)); res.GetReason() != errs.Unavailable.String() {
			t.Errorf("got %q", res.GetReason())
		}
	})
}

// future moves a recovery to a state that is not there yet.
func (w *world) future(i *fsmpb.Incarnation) {
	i.FromIndex = w.index + 1
	id := fsm.IncarnationID(w.view().Cluster().GetKeyspaceId(), i)
	i.Id = id[:]
}

func TestI35_ARecoveryMakesTheFormatInWhichThereAreSome(t *testing.T) {
	w := newWorld(t, ofFormat(fsm.FormatProofs))
	w.ok(w.recovery(quorumLost, 0))
	if f := w.view().Cluster().GetFormatVersion(); f != fsm.FormatCeremonies {
		t.Errorf("the format version is %d, want %d", f, fsm.FormatCeremonies)
	}
	w.restart()
}

func TestASnapshotWithARecoveryThatCannotHaveBeenIsRefused(t *testing.T) {
	w := threeVoters(t)
	w.ok(w.recovery(quorumLost, 0))
	w.ok(w.recovery(quorumLost, 0))
	for name, change := range map[string]func(c *fsmpb.Cluster){
		"an id that is made up":    func(c *fsmpb.Cluster) { c.Incarnations[0].Id[0] ^= 1 },
		"in another order":         func(c *fsmpb.Cluster) { i := c.GetIncarnations(); i[0], i[1] = i[1], i[0] },
		"from later than it began": func(c *fsmpb.Cluster) { c.Incarnations[1].ModIndex = c.GetIncarnations()[1].GetFromIndex() },
		"to come":                  func(c *fsmpb.Cluster) { c.Incarnations[1].ModIndex += 100 },
		"twice":                    func(c *fsmpb.Cluster) { c.Incarnations[1] = c.GetIncarnations()[0] },
		"without a kind":           func(c *fsmpb.Cluster) { c.Incarnations[1].Kind = 0 },
		"signed with nothing":      func(c *fsmpb.Cluster) { c.Incarnations[1].AuthorizedBy = []*fsmpb.SignedIntent{{}} },
	} {
		t.Run(name, func(t *testing.T) {
			raw := edit(t, snapshot(t, w.m, nil), func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
				change(items[0].GetCluster())
				return items
			})
			if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(raw)); !errs.Is(err, errs.StateCorrupt) {
				t.Errorf("got %v", err)
			}
		})
	}
}
