package fsm_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// What a data operation decides, written a second time from the documents: by
// whom it is refused, or which version does it.

type decision struct {
	refused string
	uid     string
}

func found(v *fsm.View, tenant, service string) (fsm.ReadSet, string) {
	var r fsm.ReadSet
	var ok bool
	if r.Tenant, ok = v.Tenant(tenant); !ok {
		return r, "no tenant"
	}
	if r.Service, ok = v.ServiceOf(r.Tenant, service); !ok {
		return r, "no service"
	}
	return r, ""
}

func above(v *fsm.View, r fsm.ReadSet) hierarchy.Ancestors {
	l21, _ := fsm.VersionByUID(r.Tenant.GetVersions(), r.Version.GetParentUid())
	ivk, _ := v.InternalKey(r.Tenant.GetL2IvkUid())
	return hierarchy.AboveServiceKey(hierarchy.ObjectState(r.Tenant.GetState()), hierarchy.ObjectState(r.Service.GetState()),
		hierarchy.VersionState(l21.GetState()), hierarchy.VersionState(ivk.GetState()))
}

func decideWrap(v *fsm.View, tenant, service, resource string) (decision, fsm.ReadSet) {
	r, why := found(v, tenant, service)
	if r.Service == nil {
		return decision{refused: why}, r
	}
	number, standing := r.Service.GetPrimary(), hierarchy.StandingPrimary
	if pinned, ok := v.Resource(r.Service, resource); ok {
		r.Resource, number, standing = pinned, pinned.GetVersion(), hierarchy.StandingPinned
	}
	r.Version, _ = fsm.VersionAt(r.Service.GetVersions(), number)
	if no := hierarchy.CanWrap(hierarchy.VersionState(r.Version.GetState()), standing, above(v, r)); no != hierarchy.NotRefused {
		return decision{refused: no.String()}, r
	}
	return decision{uid: string(r.Version.GetUid())}, r
}

func decideUnwrap(v *fsm.View, tenant, service string, uid []byte) (decision, fsm.ReadSet) {
	r, why := found(v, tenant, service)
	if r.Service == nil {
		return decision{refused: why}, r
	}
	var ok bool
	if r.Version, ok = fsm.VersionByUID(r.Service.GetVersions(), uid); !ok {
		return decision{refused: "foreign"}, r
	}
	if no := hierarchy.CanUnwrap(hierarchy.VersionState(r.Version.GetState()), above(v, r), hierarchy.GrantNone); no != hierarchy.NotRefused {
		return decision{refused: no.String()}, r
	}
	return decision{uid: string(uid)}, r
}

// drawRotationOrPin draws like drawCommand, with more of what is rare there: a
// version that serves and is not the primary, and resources that have it.
func (w *world) drawRotationOrPin(t *rapid.T) *fsmpb.Command {
	s, ok := w.view().Service("a", "x")
	if !ok || draw(t, "rare", true, false, false) {
		return w.drawCommand(t)
	}
	newest := uint32(len(s.GetVersions()))
	switch draw(t, "of rotation", "add", "primary", "pin", "pin", "pin", "unpin", "back", "tick") {
	case "tick":
		w.now += dayMS
		return tick()
	case "add":
		return w.addVersion("a", "x")
	case "primary":
		return w.setPrimary("a", "x", newest, false)
	case "pin":
		return pin("a", "x", draw(t, "resource", "r", "q"), draw(t, "number", newest, max(newest, 2)-1, max(newest, 3)-2))
	case "unpin":
		return unpin("a", "x", draw(t, "resource", "r", "q"))
	}
	return rollbackPin("a", "x", draw(t, "resource", "r", "q"))
}

// TestI18_NoDecisionChangesWhileItsGateIndexStays compares what every data
// operation decides in two consecutive states. Where it differs, the read set of
// the later one has the command's index, but for the primary pointer.
func TestI18_NoDecisionChangesWhileItsGateIndexStays(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, ofFormat(draw[uint32](t, "format", fsm.FormatLeases, fsm.FormatLeases, fsm.FormatLeases-1)))
		for range rapid.IntRange(20, 60).Draw(t, "commands") {
			a := w.view()
			cmd := w.drawRotationOrPin(t)
			if rapid.IntRange(0, 20).Draw(t, "raise") == 0 {
				cmd = raise(fsm.FormatLeases)
			}
			w.do(cmd)
			b := w.view()
			differs := func(what string, was, is decision, set fsm.ReadSet) {
				t.Helper()
				if was == is {
					return
				}
				seen[fmt.Sprintf("%T", cmd.GetBody())]++
				if got := b.GateIndex(set); got != b.Index() {
					t.Fatalf("%v: %s was %+v and is %+v, and its gate index is %d of %d", cmd, what, was, is, got, b.Index())
				}
			}
			if was, is := a.Hold().GetHeld(), b.Hold().GetHeld(); was != is {
				differs("everything", decision{refused: fmt.Sprint(was)}, decision{refused: fmt.Sprint(is)}, fsm.ReadSet{})
			}
			for _, name := range [][2]string{{"a", "x"}, {"a", "y"}, {"b", "x"}, {"b", "y"}} {
				tenant, service := name[0], name[1]
				uids := make(map[string]bool)
				for _, v := range []*fsm.View{a, b} {
					s, _ := v.Service(tenant, service)
					for _, ver := range s.GetVersions() {
						uids[string(ver.GetUid())] = true
					}
				}
				for _, uid := range slices.Sorted(maps.Keys(uids)) {
					was, _ := decideUnwrap(a, tenant, service, []byte(uid))
					is, set := decideUnwrap(b, tenant, service, []byte(uid))
					differs("unwrap", was, is, set)
				}
				for _, resource := range []string{"", "r", "q"} {
					was, before := decideWrap(a, tenant, service, resource)
					is, set := decideWrap(b, tenant, service, resource)
					if cmd.GetSetPrimary() != nil && before.Resource == nil && set.Resource == nil {
						continue // the primary is either one until the change is over
					}
					differs("wrap", was, is, set)
				}
			}
			for n := range 6 {
				was, wasRevoked := a.Revoked(serialOf(n))
				is, isRevoked := b.Revoked(serialOf(n))
				switch {
				case isRevoked && !wasRevoked:
					differs("caller", decision{}, decision{refused: "revoked"}, fsm.ReadSet{Revoked: is})
				case wasRevoked && !isRevoked && was.GetExpireTimeMs() > b.TimeMS():
					t.Fatalf("certificate %d is forgotten before it expired", n)
				}
			}
		}
	})
	for _, kind := range []string{
		"CreateTenant", "CreateService", "AddVersion", "ChangeObject", "ChangeVersion", "PinResource", "UnpinResource", "RollbackResource", "SetHold",
		"RevokeCertificate", "Tick",
	} {
		if seen["*fsmpb.Command_"+kind] == 0 {
			t.Errorf("no decision was ever changed by %s", kind)
		}
	}
}

// TestI18_ARotationShowsNowhere: in the middle of a rotation what one node wraps
// under the new version, another that is one entry behind opens.
func TestI18_ARotationShowsNowhere(t *testing.T) {
	w := gateWorld(t)
	w.ok(w.addVersion("acme", "pay"))
	behind := w.view()
	gate := fsm.GateIndex(w.serviceOf("acme", "pay").GetVersions()[2])
	w.ok(w.setPrimary("acme", "pay", 3, false))
	wrapped, set := decideWrap(w.view(), "acme", "pay", "")
	if wrapped.refused != "" || set.Version.GetNumber() != 3 {
		t.Fatalf("wrap: %+v under version %d", wrapped, set.Version.GetNumber())
	}
	if got := w.view().GateIndex(set); got != gate {
		t.Errorf("the gate index of a wrap is %d, want that of the new version, %d: nobody waits for the pointer", got, gate)
	}
	if opens, _ := decideUnwrap(behind, "acme", "pay", []byte(wrapped.uid)); opens.refused != "" {
		t.Errorf("a node that has the version and not the pointer refuses: %+v", opens)
	}
	if still, set := decideWrap(behind, "acme", "pay", ""); still.refused != "" || set.Version.GetNumber() != 2 {
		t.Errorf("a node that has not the pointer wraps under %d: %+v", set.Version.GetNumber(), still)
	}
}

// TestI18_AReadSetHasEverythingAbove changes one thing after the other of what a
// wrap for a pinned resource reads, also what no rule lets matter today.
func TestI18_AReadSetHasEverythingAbove(t *testing.T) {
	w := gateWorld(t)
	read := func() fsm.ReadSet {
		_, r := decideWrap(w.view(), "acme", "pay", "r")
		r.Revoked, _ = w.view().Revoked(serialOf(1))
		return r
	}
	w.ok(w.addIVK())
	was := w.view().GateIndex(read())
	w.ok(w.createTenant("other"))
	if got := w.view().GateIndex(read()); got != was || was == 0 {
		t.Errorf("another tenant moved the gate index from %d to %d", was, got)
	}
	for _, change := range []struct {
		of  string
		cmd *fsmpb.Command
	}{
		{"pin", pin("acme", "pay", "r", 2)},
		{"version", changeVersion("acme", "pay", 2, fsmpb.VersionEvent_VERSION_EVENT_DISABLE)},
		{"tenant key version", changeVersion("acme", "", 2, fsmpb.VersionEvent_VERSION_EVENT_DISABLE)},
		{"internal key version", changeVersion("", "", 1, fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE)},
		{"service", changeObject("acme", "pay", suspend, "")},
		{"tenant", changeObject("acme", "", suspend, "")},
		{"revocation", w.revoke(1)},
		{"hold", hold(true)},
	} {
		w.ok(change.cmd)
		if got := w.view().GateIndex(read()); got != w.index {
			t.Errorf("%s: the gate index is %d, want that of the change, %d", change.of, got, w.index)
		}
	}
}

func TestGateIndexesAreFoundForWhatIsNotThere(t *testing.T) {
	if got := fsm.New(fsm.Options{}).View().GateIndex(fsm.ReadSet{}); got != 0 {
		t.Errorf("before genesis: %d", got)
	}
	w := gateWorld(t)
	if got := w.view().GateIndex(fsm.ReadSet{}); got != w.view().Hold().GetModIndex() {
		t.Errorf("of nothing: %d, want that of the hold", got)
	}
	_, set := decideWrap(w.view(), "acme", "pay", "r")
	if got := testing.AllocsPerRun(100, func() { w.view().GateIndex(set) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
