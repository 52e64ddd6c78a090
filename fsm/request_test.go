package fsm_test

import (
	"fmt"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// another adds a second governor to a genesis.
func another(g *fsmpb.Genesis) {
	p, _ := person("other", "governor")
	g.Persons = append(g.Persons, p)
}

func TestI5_ARequestActsOnce(t *testing.T) {
	w := newWorld(t, another)
	first := w.ok(asked("r1", w.createTenant("acme")))
	// The retry was prepared again, with new uids; its request is the same.
	again := w.createTenant("acme")
	again.RequestId, again.RequestDigest = "r1", mustRequest(t, w, "r1", 0).GetDigest()
	again.Principal = caller("governor", "gov")
	res := w.ok(again)
	if !res.GetReplayed() || res.GetIndex() != first.GetIndex() || string(res.GetUid()) != string(first.GetUid()) {
		t.Errorf("replayed %v, first %v", res, first)
	}
	if string(w.tenantOf("acme").GetUid()) != string(first.GetUid()) {
		t.Error("the retry acted")
	}
	if r := mustRequest(t, w, "r1", 0); r.GetResult().GetReplayed() || r.GetKind() != "create_tenant" {
		t.Errorf("remembered %v", r)
	}

	other := asked("r1", w.createTenant("other"))
	w.refused(errs.RequestReplayed, other)
	sameDigest := asked("r1", tick())
	sameDigest.RequestDigest = mustRequest(t, w, "r1", 0).GetDigest()
	w.refused(errs.RequestReplayed, sameDigest)

	second := asked("r1", w.createTenant("second"))
	second.Step = 1
	w.ok(second)
	elsewhere := asked("r1", w.createTenant("third"))
	elsewhere.Principal = caller("governor", "other")
	w.ok(elsewhere)
}

// TestTheNodeThatForwardedIsRemembered with the request, in clusters whose nodes all
// know the field: older ones would keep another state.
func TestTheNodeThatForwardedIsRemembered(t *testing.T) {
	for format, want := range map[uint32]string{fsm.FormatAuthority - 1: "", fsm.FormatAuthority: "n2"} {
		w := newWorld(t, func(g *fsmpb.Genesis) { g.FormatVersion = format })
		cmd := asked("r1", w.createTenant("acme"))
		cmd.ViaNode = "n2"
		w.ok(cmd)
		if got := mustRequest(t, w, "r1", 0).GetViaNode(); got != want {
			t.Errorf("format %d: remembered as via %q, want %q", format, got, want)
		}
	}
}

func mustRequest(t *testing.T, w *world, id string, step uint32) *fsmpb.Request {
	t.Helper()
	r, ok := w.view().Request(caller("governor", "gov"), id, step)
	if !ok {
		t.Fatalf("request %s is not remembered", id)
	}
	return r
}

func TestRefusalsThatAreFactsAreRemembered(t *testing.T) {
	w := newWorld(t)
	cmd := asked("r1", changeObject("acme", "", suspend, ""))
	w.refused(errs.NotFound, cmd)
	w.ok(w.createTenant("acme"))
	if res := w.refused(errs.NotFound, cmd); !res.GetReplayed() || res.GetIndex() != 2 {
		t.Errorf("got %v, want the remembered refusal", res)
	}

	// What asks for another attempt with the same request is not remembered.
	stale := asked("r2", changeObject("acme", "", suspend, ""))
	stale.GetChangeObject().Etag = 1
	w.refused(errs.StaleEtag, stale)
	stale.GetChangeObject().Etag = w.tenantOf("acme").GetModIndex()
	if res := w.ok(stale); res.GetReplayed() {
		t.Error("a stale etag was remembered")
	}
	w.ok(changeObject("acme", "", resume, ""))
	moved := asked("r3", w.createService("acme", "s"))
	uid := moved.GetCreateService().GetTenantUid()
	moved.GetCreateService().TenantUid = w.uid()
	w.refused(errs.Aborted, moved)
	moved.GetCreateService().TenantUid = uid
	w.ok(moved)
}

func TestRequestsAreForgottenAfter24HoursOfCommandTime(t *testing.T) {
	w := newWorld(t)
	w.ok(asked("r1", w.createTenant("acme")))
	w.now += fsm.RequestMemoryMS - 1
	w.ok(tick())
	mustRequest(t, w, "r1", 0)
	if due, ok := w.view().NextDue(); !ok || due != w.now+1 {
		t.Errorf("next due %d, %v; want %d", due, ok, w.now+1)
	}
	w.now++
	w.ok(tick())
	if _, ok := w.view().Request(caller("governor", "gov"), "r1", 0); ok {
		t.Error("the request is remembered after 24 h and a tick")
	}
}

func TestTheMemoryOfRequestsIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, another, func(g *fsmpb.Genesis) {
		g.Rules = append(g.Rules, &fsmpb.IntentRule{Act: uint32(intent.ActSetQuorum), Role: "governor", Signatures: 1})
	})
	w.ok(w.createTenant("acme"))
	w.ok(w.createService("acme", "payments"))
	approval := w.requested("gov", setQuorum(1, 1))
	noop := func() *fsmpb.Command { return w.setPrimary("acme", "payments", 1, false) } // a fact is remembered too
	for i := range fsm.MaxRequestsPerPrincipal {
		w.refused(errs.FailedState, asked(fmt.Sprintf("r%d", i), noop()))
	}
	w.refused(errs.LimitReached, asked("one more", noop()))

	// Others have room, and whoever takes power away always has.
	other := asked("r", w.createTenant("other"))
	other.Principal = caller("governor", "other")
	w.ok(other)
	for i, c := range []*fsmpb.Command{
		changeObject("acme", "", suspend, ""),
		changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE),
		changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE),
		changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY),
		{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: true}}},
		reject(approval),
	} {
		id := fmt.Sprintf("revoke %d", i)
		w.ok(asked(id, c))
		mustRequest(t, w, id, 0)
		if _, ok := w.view().Request(caller("governor", "gov"), fmt.Sprintf("r%d", i), 0); ok {
			t.Errorf("the oldest request was not pushed out by %s", id)
		}
	}
	// A fact that cannot be remembered is still the answer.
	w.refused(errs.LimitReached, asked("enable", changeVersion("acme", "payments", 9, fsmpb.VersionEvent_VERSION_EVENT_ENABLE)))
}

func TestI14_ForgettingIsBoundedPerTick(t *testing.T) {
	w := newWorld(t)
	const n = 2*fsm.MaxTickObjects + 1
	for i := range n {
		w.ok(asked(fmt.Sprintf("r%d", i), &fsmpb.Command{Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{}}}))
	}
	w.now += fsm.RequestMemoryMS
	p := caller("custodian", "cust")
	for _, want := range []int{n - fsm.MaxTickObjects, n - 2*fsm.MaxTickObjects, 0} {
		w.ok(tick())
		left := 0
		for i := range n {
			if _, ok := w.view().Request(p, fmt.Sprintf("r%d", i), 0); ok {
				left++
			}
		}
		if left != want {
			t.Fatalf("%d requests left, want %d", left, want)
		}
	}
}
