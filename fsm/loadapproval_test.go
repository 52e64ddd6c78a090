package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// TestI13_NoApprovalInASnapshotThatCannotBe: an approval that no log makes is not
// restored, so none of it is ever executed.
func TestI13_NoApprovalInASnapshotThatCannotBe(t *testing.T) {
	w := quorate(t)
	wanted := map[fsmpb.ApprovalState]string{}
	cmd := func(n string) *fsmpb.Command { return bind(bindingFor("operator", n)) }
	wanted[pending] = w.approvedBy(w.requested("gov", cmd("o1")), "alice")
	wanted[approved] = w.approvedBy(w.requested("gov", cmd("o2")), "alice", "bob")
	wanted[executed] = w.approvedBy(w.requested("gov", cmd("o3")), "alice", "bob")
	w.ok(w.execute(wanted[executed], cmd("o3")))
	wanted[rejected] = w.requested("gov", cmd("o4"))
	w.ok(reject(wanted[rejected]))
	wanted[failing] = w.approvedBy(w.requested("gov", cmd("o3")), "alice", "bob")
	w.refused(errs.AlreadyExists, w.execute(wanted[failing], cmd("o3")))
	raw := snapshot(t, w.m, testMAC)

	in := func(s fsmpb.ApprovalState, f func(*fsmpb.Approval)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetApproval() != nil && it.GetApproval().GetId() == wanted[s] {
					f(it.GetApproval())
				}
			}
			return items
		}
	}
	result := func() *fsmpb.Result { return &fsmpb.Result{Index: 1} }
	other := w.orderOf(cmd("o9"))
	for name, change := range map[string]func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem{
		"another request":                in(approved, func(a *fsmpb.Approval) { a.Request = other.Canonical() }),
		"no request":                     in(approved, func(a *fsmpb.Approval) { a.Request = nil }),
		"another act":                    in(approved, func(a *fsmpb.Approval) { a.Act = uint32(intent.ActDestroy) }),
		"another id":                     in(approved, func(a *fsmpb.Approval) { a.Id += "0" }),
		"another intent":                 in(approved, func(a *fsmpb.Approval) { a.Intent[len(a.GetIntent())-1] ^= 1 }),
		"another expiry":                 in(approved, func(a *fsmpb.Approval) { a.ExpireTimeMs++ }),
		"no type":                        in(approved, func(a *fsmpb.Approval) { a.TypeUrl = "" }),
		"too large":                      in(approved, func(a *fsmpb.Approval) { a.ApiRequest = make([]byte, fsm.MaxApprovalRequestBytes+1) }),
		"approved by too few":            in(pending, func(a *fsmpb.Approval) { a.State = approved }),
		"executed with too few":          in(executed, func(a *fsmpb.Approval) { a.Signatures = a.GetSignatures()[:1] }),
		"a smaller rule":                 in(approved, func(a *fsmpb.Approval) { a.Rules = nil }),
		"a rule of another act":          in(approved, func(a *fsmpb.Approval) { a.Rules[0].Act++ }),
		"a rule of operators":            in(approved, func(a *fsmpb.Approval) { a.Rules[0].Role = "operator" }),
		"two rules":                      in(approved, func(a *fsmpb.Approval) { a.Rules = append(a.GetRules(), a.GetRules()[0]) }),
		"one person twice":               in(approved, func(a *fsmpb.Approval) { a.Signatures[1].Person = "alice" }),
		"the requester approved":         in(approved, func(a *fsmpb.Approval) { a.Signatures[1].BindingUid = a.GetRequested().GetBindingUid() }),
		"a signature of an operator":     in(approved, func(a *fsmpb.Approval) { a.Signatures[1].Role = "operator" }),
		"a signature of nobody":          in(approved, func(a *fsmpb.Approval) { a.Signatures[1].Person = "" }),
		"a signature of no binding":      in(approved, func(a *fsmpb.Approval) { a.Signatures[1].BindingUid = nil }),
		"a signature by no key":          in(approved, func(a *fsmpb.Approval) { a.Signatures[1].KeyId = nil }),
		"no signature in it":             in(approved, func(a *fsmpb.Approval) { a.Signatures[1].Signature = nil }),
		"a signature before the request": in(approved, func(a *fsmpb.Approval) { a.Signatures[1].TimeMs = a.GetCreateTimeMs() - 1 }),
		"requested with no signature":    in(approved, func(a *fsmpb.Approval) { a.Requested = nil }),
		"requested by nobody":            in(approved, func(a *fsmpb.Approval) { a.Requester = nil }),
		"no time":                        in(approved, func(a *fsmpb.Approval) { a.CreateTimeMs = 0 }),
		"of the future":                  in(approved, func(a *fsmpb.Approval) { a.ModIndex = w.index + 1 }),
		"open and ended":                 in(approved, func(a *fsmpb.Approval) { a.EndTimeMs = w.now }),
		"open with a result":             in(approved, func(a *fsmpb.Approval) { a.Result = result() }),
		"open and rejected":              in(approved, func(a *fsmpb.Approval) { a.RejectedBy = as("bob") }),
		"a reason of nobody":             in(approved, func(a *fsmpb.Approval) { a.RejectReason = "x" }),
		"executed and open again":        in(executed, func(a *fsmpb.Approval) { a.State, a.EndTimeMs = approved, 0 }),
		"executed without end":           in(executed, func(a *fsmpb.Approval) { a.EndTimeMs = 0 }),
		"executed without result":        in(executed, func(a *fsmpb.Approval) { a.Result = nil }),
		"executed and refused":           in(executed, func(a *fsmpb.Approval) { a.Result.Reason = "NOT_FOUND" }),
		"executed in the future":         in(executed, func(a *fsmpb.Approval) { a.Result.Index = w.index + 1 }),
		"rejected by nobody":             in(rejected, func(a *fsmpb.Approval) { a.RejectedBy = nil }),
		"rejected with a page":           in(rejected, func(a *fsmpb.Approval) { a.RejectReason = "two\nlines" }),
		"failed without a refusal":       in(failing, func(a *fsmpb.Approval) { a.Result.Reason = "" }),
		"no state":                       in(rejected, func(a *fsmpb.Approval) { a.State = 0 }),
		"expired with a result":          in(failing, func(a *fsmpb.Approval) { a.State = expired }),
		"its nonce can be used again": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			open, err := intent.Decode(w.approval(wanted[approved]).GetIntent())
			if err != nil {
				t.Fatal(err)
			}
			return slices.DeleteFunc(items, func(it *fsmpb.SnapshotItem) bool { return bytes.Equal(it.GetUsedNonce().GetNonce(), open.Nonce[:]) })
		},
		"its nonce ends earlier": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetUsedNonce() != nil {
					it.GetUsedNonce().ExpireTimeMs--
				}
			}
			return items
		},
		"no custodians who could sign": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			return slices.DeleteFunc(items, func(it *fsmpb.SnapshotItem) bool { return it.GetRoleBinding().GetRole() == "custodian" })
		},
		"twenty-one of one": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			return withApprovals(items, w.many(fsm.MaxApprovalsPerRequester+1-2, func(_ int, a *fsmpb.Approval) {
				a.Requested.BindingUid = w.personUID("governor", "gov")
			}))
		},
		"1001 open": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			return withApprovals(items, w.many(fsm.MaxOpenApprovals-1, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := edit(t, raw, change)
			if bytes.Equal(bad, raw) {
				t.Fatal("nothing was edited")
			}
			if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt || !strings.Contains(err.Error(), "the snapshot is damaged") {
				t.Errorf("got %v, want STATE_CORRUPT", err)
			}
		})
	}
	w.restart()
}

// TestI25_WhoAskedIsAskedForAgain: the requester's signature is verified when it is
// executed, too, also where it is none of those that count.
func TestI25_WhoAskedIsAskedForAgain(t *testing.T) {
	w := quorate(t)
	cmd := destroyNow("acme", "pay")
	id := w.approvedBy(w.requested("gov", cmd), "alice", "bob")
	raw := edit(t, snapshot(t, w.m, testMAC), func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		for _, it := range items {
			if a := it.GetApproval(); a != nil {
				a.Requested.Signature[5] ^= 1
			}
		}
		return items
	})
	w.m = fsm.New(fsm.Options{})
	if err := w.m.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	w.refusedFor(errs.IntentRefused, intent.ReasonBadSignature.String(), w.execute(id, cmd))
	w.isIn(id, failing)
}

// many are open approvals, each of somebody else unless change says whose.
func (w *world) many(n int, change func(i int, a *fsmpb.Approval)) []*fsmpb.Approval {
	w.tb.Helper()
	var model *fsmpb.Approval
	for _, a := range w.view().Approvals(pending, "", 1) {
		model = a
	}
	in, err := intent.Decode(model.GetIntent())
	if err != nil {
		w.tb.Fatalf("%v", err)
	}
	all := make([]*fsmpb.Approval, n)
	for i := range all {
		a := proto.CloneOf(model)
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		copy(in.Nonce[:], sum[:])
		if a.Intent, err = in.Encode(); err != nil {
			w.tb.Fatalf("%v", err)
		}
		a.Id, a.Requested.BindingUid, a.Signatures = fsm.ApprovalID(a.GetIntent()), sum[16:], nil
		if change != nil {
			change(i, a)
		}
		all[i] = a
	}
	return all
}

// withApprovals adds approvals, and the nonces of those that are open, where they belong.
func withApprovals(items []*fsmpb.SnapshotItem, more []*fsmpb.Approval) []*fsmpb.SnapshotItem {
	for _, a := range more {
		items = append(items, &fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_Approval{Approval: a}})
		if in, err := intent.Decode(a.GetIntent()); err == nil && a.GetEndTimeMs() == 0 {
			items = append(items, &fsmpb.SnapshotItem{Object: &fsmpb.SnapshotItem_UsedNonce{UsedNonce: &fsmpb.UsedNonce{Nonce: in.Nonce[:], ExpireTimeMs: in.NotAfter}}})
		}
	}
	kind := func(it *fsmpb.SnapshotItem) int {
		m := it.ProtoReflect()
		return int(m.WhichOneof(m.Descriptor().Oneofs().ByName("object")).Number())
	}
	slices.SortStableFunc(items, func(a, b *fsmpb.SnapshotItem) int {
		if d := kind(a) - kind(b); d != 0 {
			return d
		}
		if a.GetUsedNonce() != nil {
			return bytes.Compare(a.GetUsedNonce().GetNonce(), b.GetUsedNonce().GetNonce())
		}
		return strings.Compare(a.GetApproval().GetId(), b.GetApproval().GetId())
	})
	return items
}

// full goes on from a snapshot with these approvals besides.
func (w *world) full(t *testing.T, more []*fsmpb.Approval) {
	t.Helper()
	raw := edit(t, snapshot(t, w.m, testMAC), func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return withApprovals(items, more) })
	w.m = fsm.New(fsm.Options{})
	if err := w.m.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
}

func TestOpenApprovalsAreBoundedForAll(t *testing.T) {
	w := quorate(t)
	first := w.requested("gov", bind(bindingFor("operator", "o1")))
	w.full(t, w.many(fsm.MaxOpenApprovals-1, nil))
	if got := w.view().OpenApprovals(); got != fsm.MaxOpenApprovals {
		t.Fatalf("%d are open", got)
	}
	c, _ := w.request("alice", bind(bindingFor("operator", "o2")))
	w.refusedFor(errs.LimitReached, "1000", c)
	w.ok(reject(first))
	w.ok(c)

	// Ticks bring all of them to their end, some at a time, and remove them in the end.
	end := func(want fsmpb.ApprovalState, n int) {
		t.Helper()
		for ticks := 0; ; ticks++ {
			if due, ok := w.view().NextDue(); !ok || due > w.now {
				break
			}
			if ticks > 2+n/fsm.MaxTickObjects*3 {
				t.Fatal("ticks do not come to an end")
			}
			w.ok(tick())
		}
		if got := len(w.view().Approvals(want, "", fsm.MaxApprovals)); got != n {
			t.Fatalf("%d approvals are %v, want %d", got, want, n)
		}
	}
	w.now += 2 * hourMS
	end(expired, fsm.MaxOpenApprovals)
	if got := w.view().OpenApprovals(); got != 0 {
		t.Errorf("%d are open", got)
	}
	w.restart()
	w.now += fsm.ApprovalMemoryMS
	end(0, 0)
	w.restart()
}

// TestTheApprovalsThatEndedFirstGiveWay: to a new one, where there are too many, or
// too large ones; those that have not ended stay.
func TestTheApprovalsThatEndedFirstGiveWay(t *testing.T) {
	t.Parallel()
	if invariants.Race {
		return // thousands of approvals, one after the other
	}
	ended := func(i int, a *fsmpb.Approval) {
		a.State, a.EndTimeMs = expired, a.GetCreateTimeMs()+int64(i)
	}
	for name, tc := range map[string]struct {
		n      int
		change func(i int, a *fsmpb.Approval)
	}{
		"many": {fsm.MaxApprovals - 1, ended},
		"large": {fsm.MaxApprovalsBytes / fsm.MaxApprovalRequestBytes, func(i int, a *fsmpb.Approval) {
			ended(i, a)
			a.ApiRequest = make([]byte, fsm.MaxApprovalRequestBytes)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := quorate(t)
			stays := w.requested("gov", bind(bindingFor("operator", "o1")))
			all := w.many(tc.n, tc.change)
			if name == "large" { // as large together as they may be, with what is there
				size := func(a *fsmpb.Approval) int { return len(a.GetIntent()) + len(a.GetRequest()) + len(a.GetApiRequest()) }
				total := size(w.approval(stays))
				for i, a := range all {
					if total += size(a); total > fsm.MaxApprovalsBytes {
						all = all[:i]
						break
					}
				}
			}
			w.full(t, all)
			c, id := w.request("alice", bind(bindingFor("operator", "o2")))
			c.GetRequestApproval().GetApproval().ApiRequest = make([]byte, fsm.MaxApprovalRequestBytes)
			w.ok(c)
			if got, want := len(w.view().Approvals(0, "", fsm.MaxApprovals+1)), len(all)+1; got != want {
				t.Errorf("%d are kept, want %d", got, want)
			}
			for i, a := range all[:5] {
				if _, ok := w.view().Approval(a.GetId()); ok == (i == 0) {
					t.Errorf("the approval that ended as number %d is kept: %v", i, ok)
				}
			}
			for _, id := range []string{id, stays} {
				if a := w.approval(id); a.GetState() != pending {
					t.Errorf("approval %s is %v", id, a.GetState())
				}
			}
			w.restart()
		})
	}
}
