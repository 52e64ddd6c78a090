package fsm_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// everySovereign is one command of every kind that people sign, each with who may
// ask for it and who signs in [quorate].
func everySovereign() map[string]struct {
	cmd     func(*world) *fsmpb.Command
	by      string
	signers []string
} {
	type line = struct {
		cmd     func(*world) *fsmpb.Command
		by      string
		signers []string
	}
	is := func(c *fsmpb.Command) func(*world) *fsmpb.Command { return func(*world) *fsmpb.Command { return c } }
	two, three := []string{"alice", "bob"}, []string{"alice", "bob", "cust"}
	version := func(tenant, service string, n uint32) func(*world) *fsmpb.Command {
		return is(changeVersion(tenant, service, n, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	}
	return map[string]line{
		"create a tenant":         {func(w *world) *fsmpb.Command { return w.createTenant("new") }, "gov", two},
		"destroy a tenant":        {is(destroyNow("acme", "")), "gov", two},
		"destroy a service":       {is(changeObject("beta", "pay", schedule, "")), "g1", []string{"carol", "gov"}},
		"destroy a version":       {version("beta", "", 1), "g1", []string{"carol", "gov"}},
		"destroy one of an IVK":   {version("", "", 1), "gov", two},
		"a token for a voter":     {func(w *world) *fsmpb.Command { return w.token(5, true) }, "gov", two},
		"bind an operator":        {is(bind(bindingFor("operator", "o1"))), "gov", two},
		"bind a governor":         {is(bind(bindingFor("governor", "g8"))), "gov", three},
		"bind a workload":         {func(w *world) *fsmpb.Command { return bind(w.workload("beta", "app")) }, "g1", []string{"carol", "gov"}},
		"unbind a governor":       {is(unbind("", "g9")), "gov", three},
		"name governors":          {func(w *world) *fsmpb.Command { return w.setGovernors("beta", w.governors...) }, "g1", []string{"carol", "gov"}},
		"register an issuer":      {is(putIssuer(x509Issuer("corp"))), "gov", two},
		"remove an issuer":        {is(removeIssuer("", "idp")), "gov", two},
		"change the quorum":       {is(setQuorum(1, 1)), "gov", three},
		"promote a node":          {is(update(2, []string{"voter"}, &fsmpb.Member{Voter: true})), "gov", two},
		"resume what is unlinked": {is(changeObject("acme", "", resume, "unlink")), "gov", two},
	}
}

// prepared is [quorate] with what the commands of [everySovereign] are about.
func prepared(t tb) *world {
	w := quorate(t)
	w.signed(bind(bindingFor("governor", "g9")), "alice", "bob", "cust")
	w.governors = append(w.governors, w.bindingOf("", "g9").GetUid()) // so that one of beta's can go
	w.signed(w.setGovernors("beta", w.governors...), "carol", "g1")
	w.signed(putIssuer(jwtIssuer("idp")), "alice", "bob")
	w.ok(changeObject("acme", "", suspend, "unlink"))
	w.ok(w.token(2, false))
	w.ok(w.join(2, node(2)))
	w.ok(w.addIVK())
	for _, tn := range []string{"acme", "beta"} {
		w.ok(w.rewrap(tn))
	}
	w.ok(w.putSecret("node-ca"))
	w.ok(w.putSecret("caller-ca"))
	return w
}

// TestI24_EveryActCanBeApprovedAndIsExecutedOnce: what is not executable before the
// last signature is after it, once, whoever tries how often, also after a restore.
func TestI24_EveryActCanBeApprovedAndIsExecutedOnce(t *testing.T) {
	for name, l := range everySovereign() {
		t.Run(name, func(t *testing.T) {
			w := prepared(t)
			cmd := l.cmd(w)
			if l.by == "gov" {
				w.governors = nil
			}
			id := w.requested(l.by, cmd)
			for _, who := range l.signers {
				w.isIn(id, pending)
				w.refusedFor(errs.Aborted, "needs more signatures", w.execute(id, cmd))
				w.ok(w.approve(id, who))
			}
			w.isIn(id, approved)
			w.restart()
			direct := w.execute(id, cmd)
			direct.Approval = ""
			if res := w.do(direct); res.GetReason() != errs.IntentRefused.String() && res.GetReason() != errs.Denied.String() { // it has to be named
				t.Fatalf("without the approval: %v", res)
			}
			if res := w.m.DryRun(w.execute(id, cmd)); res.GetReason() != "" {
				t.Fatalf("the forecast is %v", res)
			}
			res := w.ok(asked("once", w.execute(id, cmd)))
			a := w.isIn(id, executed)
			if want := proto.CloneOf(res); a.GetResult().GetIndex() != w.index || a.GetResult().GetObject() != want.GetObject() || !bytes.Equal(a.GetResult().GetUid(), want.GetUid()) || a.GetEndTimeMs() != w.now {
				t.Errorf("its end is %v at %d, the answer was %v", a.GetResult(), a.GetEndTimeMs(), res)
			}
			if w.view().OpenApprovals() != 0 {
				t.Errorf("%d are open", w.view().OpenApprovals())
			}
			w.ok(asked("once", w.execute(id, cmd))) // the answer that was remembered
			for range 2 {
				w.refusedFor(errs.FailedState, "was executed", w.execute(id, cmd))
				w.restart()
			}
			if a := w.isIn(id, executed); a.GetResult().GetIndex() != res.GetIndex() {
				t.Errorf("it was executed again, at %d", a.GetResult().GetIndex())
			}
		})
	}
}

// TestWhatIsApprovedIsAuthorizedBy: an object says who signed for it.
func TestWhatIsApprovedIsAuthorizedBy(t *testing.T) {
	w := quorate(t)
	cmd := bind(bindingFor("operator", "o1"))
	id := w.approvedBy(w.requested("gov", cmd), "carol", "alice")
	w.ok(w.execute(id, cmd))
	by := w.bindingOf("", "o1").GetAuthorizedBy()
	if len(by) != 2 || !bytes.Equal(by[0].GetIntent(), w.approval(id).GetIntent()) || len(by[1].GetIntent()) != 0 {
		t.Fatalf("authorized by %v", by)
	}
	for i, who := range []string{"carol", "alice"} {
		if want := signature(t, who, w.approval(id).GetIntent()); !bytes.Equal(by[i].GetKeyId(), want.GetKeyId()) || !bytes.Equal(by[i].GetSignature(), want.GetSignature()) {
			t.Errorf("signature %d is not %s's", i, who)
		}
	}
}

// TestI25_WhoAsksIsProvedByASignature: a node that says who asked cannot ask.
func TestI25_WhoAsksIsProvedByASignature(t *testing.T) {
	for name, tc := range map[string]struct {
		code   errs.Code
		says   string
		change func(w *world, c *fsmpb.Command, a *fsmpb.Approval)
	}{
		"no signature": {errs.IntentRefused, intent.ReasonUnknownKey.String(), func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) { a.Requested = nil }},
		"somebody else's": {errs.IntentRefused, "not the caller's own", func(w *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			s := signature(w.tb, "bob", a.GetIntent())
			a.Requested = &fsmpb.ApprovalSignature{KeyId: s.GetKeyId(), Signature: s.GetSignature()}
		}},
		"in somebody else's name": {errs.IntentRefused, "not the caller's own", func(_ *world, c *fsmpb.Command, _ *fsmpb.Approval) { c.Principal = as("bob") }},
		"somebody else's with that one's key": {errs.IntentRefused, intent.ReasonBadSignature.String(), func(w *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			a.Requested.Signature = signature(w.tb, "bob", a.GetIntent()).GetSignature()
		}},
		"over another intent": {errs.IntentRefused, intent.ReasonBadSignature.String(), func(w *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			in, err := intent.Decode(a.GetIntent())
			if err != nil {
				w.tb.Fatalf("%v", err)
			}
			in.NotAfter++
			if a.Intent, err = in.Encode(); err != nil {
				w.tb.Fatalf("%v", err)
			}
		}},
		"of nobody": {errs.IntentRefused, intent.ReasonUnknownKey.String(), func(w *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			s := signature(w.tb, "eve", a.GetIntent())
			a.Requested = &fsmpb.ApprovalSignature{KeyId: s.GetKeyId(), Signature: s.GetSignature()}
		}},
		"a custodian": {errs.Denied, "", func(w *world, c *fsmpb.Command, a *fsmpb.Approval) {
			c.Principal = as("cust")
			s := signature(w.tb, "cust", a.GetIntent())
			a.Requested = &fsmpb.ApprovalSignature{KeyId: s.GetKeyId(), Signature: s.GetSignature()}
		}},
		"a governor of another tenant": {errs.Denied, "", func(w *world, c *fsmpb.Command, a *fsmpb.Approval) {
			c.Principal = as("g1")
			s := signature(w.tb, "g1", a.GetIntent())
			a.Requested = &fsmpb.ApprovalSignature{KeyId: s.GetKeyId(), Signature: s.GetSignature()}
		}},
		"an operator":        {errs.Denied, "", func(_ *world, c *fsmpb.Command, _ *fsmpb.Approval) { c.Principal = localOperator() }},
		"the leader":         {errs.Denied, "", func(_ *world, c *fsmpb.Command, _ *fsmpb.Approval) { c.Principal = &fsmpb.Principal{} }},
		"somebody not bound": {errs.Unauthenticated, "", func(_ *world, c *fsmpb.Command, _ *fsmpb.Approval) { c.Principal = caller("governor", "eve") }},
		"another request": {errs.IntentRefused, intent.ReasonOtherRequest.String(), func(w *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			a.Request = w.orderOf(destroyNow("acme", "")).Canonical()
		}},
		"another act": {errs.IntentRefused, intent.ReasonOtherAct.String(), func(w *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			a.Request = w.orderOf(setQuorum(1, 1)).Canonical()
		}},
		"no request": {errs.InvalidArgument, "canonical form", func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) { a.Request = nil }},
		"no intent":  {errs.IntentRefused, "malformed", func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) { a.Intent = nil }},
		"no type":    {errs.InvalidArgument, "type", func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) { a.TypeUrl = "" }},
		"too large a request": {errs.TooLarge, "", func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			a.ApiRequest = make([]byte, fsm.MaxApprovalRequestBytes+1)
		}},
		"too much that is signed": {errs.TooLarge, "", func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			a.Request = intent.NewRequest(intent.ActDestroy).Text("tenant", string(make([]byte, fsm.MaxApprovalOrderBytes))).Canonical()
		}},
		"an act of no command": {errs.InvalidArgument, "no command", func(_ *world, _ *fsmpb.Command, a *fsmpb.Approval) {
			a.Request = intent.NewRequest(intent.ActRestore).Canonical()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := quorate(t)
			c, id := w.request("alice", destroyNow("acme", "pay"))
			good := proto.CloneOf(c)
			tc.change(w, c, c.GetRequestApproval().GetApproval())
			forecast := w.m.DryRun(c)
			w.refusedFor(tc.code, tc.says, c)
			if name != "no signature" && forecast.GetReason() != tc.code.String() {
				t.Errorf("the forecast was %v", forecast)
			}
			if n := len(w.view().Approvals(0, "", 10)); n != 0 {
				t.Errorf("%d approvals", n)
			}
			w.ok(good) // nothing was used up
			if a := w.isIn(id, pending); a.GetRequested().GetPerson() != "alice" || !bytes.Equal(a.GetRequested().GetBindingUid(), w.personUID("governor", "alice")) || a.GetRequested().GetRole() != "governor" {
				t.Errorf("requested by %v", a.GetRequested())
			}
		})
	}
}

// TestAForecastOfAnApprovalNeedsNoSignature, and changes nothing.
func TestAForecastOfAnApprovalNeedsNoSignature(t *testing.T) {
	w := quorate(t)
	c, _ := w.request("alice", destroyNow("acme", "pay"))
	c.GetRequestApproval().GetApproval().Requested = nil
	if res := w.m.DryRun(c); res.GetReason() != "" {
		t.Errorf("requested: %v", res)
	}
	id := w.requested("alice", destroyNow("acme", "pay"))
	blank := func(who string) *fsmpb.Command {
		return &fsmpb.Command{Principal: as(who), Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: id}}}
	}
	if res := w.m.DryRun(blank("bob")); res.GetReason() != "" {
		t.Errorf("approved: %v", res)
	}
	w.refused(errs.IntentRefused, blank("bob"))
	if a := w.isIn(id, pending); len(a.GetSignatures()) != 0 {
		t.Errorf("signatures %v", a.GetSignatures())
	}
}

// TestI25_OthersApprove: distinct persons other than who asks, in a role that the
// rule asks for, with the power over the object; each case by its name.
func TestI25_OthersApprove(t *testing.T) {
	w := quorate(t)
	id := w.requested("gov", destroyNow("beta", "pay"))
	w.refusedFor(errs.IntentRefused, intent.ReasonRequesterSigned.String(), w.approve(id, "gov"))
	w.refusedFor(errs.IntentRefused, intent.ReasonWrongRole.String(), w.approve(id, "alice")) // governs another tenant
	w.refusedFor(errs.IntentRefused, intent.ReasonWrongRole.String(), w.approve(id, "cust"))  // no custodian is asked for
	c := w.approve(id, "carol")
	c.Principal = as("g1")
	w.refusedFor(errs.IntentRefused, "not the caller's own", c)
	c = w.approve(id, "carol")
	c.GetApprove().Signature[3] ^= 1
	w.refusedFor(errs.IntentRefused, intent.ReasonBadSignature.String(), c)
	c = w.approve(id, "carol")
	c.GetApprove().KeyId = nil
	w.refusedFor(errs.IntentRefused, intent.ReasonUnknownKey.String(), c)
	w.refused(errs.NotFound, &fsmpb.Command{Principal: as("carol"), Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: "0"}}})
	if a := w.isIn(id, pending); len(a.GetSignatures()) != 0 || a.GetModIndex() >= w.index {
		t.Fatalf("what was refused changed it: %v", a)
	}

	w.ok(w.approve(id, "carol"))
	w.refusedFor(errs.IntentRefused, intent.ReasonDuplicatePerson.String(), w.approve(id, "carol"))
	if g, c := w.view().ApprovalMissing(w.approval(id)); g != 1 || c != 0 {
		t.Errorf("%d governors and %d custodians are missing", g, c)
	}
	w.ok(w.approve(id, "g1"))
	a := w.isIn(id, approved)
	for i, who := range []string{"carol", "g1"} {
		s := a.GetSignatures()[i]
		if s.GetPerson() != who || s.GetRole() != "governor" || s.GetTimeMs() != w.now || !bytes.Equal(s.GetBindingUid(), w.bindingOf("", who).GetUid()) {
			t.Errorf("signature %d is %v", i, s)
		}
	}
	w.refusedFor(errs.FailedState, "all its signatures", w.approve(id, "carol"))
	w.ok(reject(id))
	w.refusedFor(errs.FailedState, "was rejected", w.approve(id, "carol"))
}

// TestI25_OnePersonIsOne: a governor and a custodian of one name.
func TestI25_OnePersonIsOne(t *testing.T) {
	w := quorate(t)
	twin := bindingFor("custodian", "alice")
	twin.Id, twin.Keys[0].Key = "alice-custodian", keyOf("alice's other key")
	w.signed(bind(twin), "bob", "carol", "cust")
	id := w.requested("gov", bind(bindingFor("governor", "g9")))
	w.approvedBy(id, "alice", "bob")
	raw := w.approval(id).GetIntent()
	s := signature(t, "alice's other key", raw)
	c := &fsmpb.Command{Principal: caller("custodian", "alice"), Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: id, KeyId: s.GetKeyId(), Signature: s.GetSignature()}}}
	w.refusedFor(errs.IntentRefused, intent.ReasonDuplicatePerson.String(), c)
	id = w.requested("alice", bind(bindingFor("governor", "g8")))
	s = signature(t, "alice's other key", w.approval(id).GetIntent())
	c = &fsmpb.Command{Principal: caller("custodian", "alice"), Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: id, KeyId: s.GetKeyId(), Signature: s.GetSignature()}}}
	w.refusedFor(errs.IntentRefused, intent.ReasonRequesterSigned.String(), c)
}

// TestI25_WhoAsksCountsWhereTheRuleSaysSo: with one signature it is approved at once,
// and never twice by one person.
func TestI25_WhoAsksCountsWhereTheRuleSaysSo(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) { g.Rules = fsm.RulesOf(1, 1) })
	cmd := bind(bindingFor("operator", "o1"))
	id := w.requested("gov", cmd)
	w.isIn(id, approved)
	w.ok(w.execute(id, cmd))

	cmd = bind(bindingFor("governor", "g9"))
	id = w.requested("gov", cmd)
	w.isIn(id, pending)
	if g, c := w.view().ApprovalMissing(w.approval(id)); g != 0 || c != 1 {
		t.Errorf("%d governors and %d custodians are missing", g, c)
	}
	w.refusedFor(errs.IntentRefused, intent.ReasonDuplicatePerson.String(), w.approve(id, "gov"))
	w.approvedBy(id, "cust")
	w.ok(w.execute(id, cmd))
	if by := w.bindingOf("", "g9").GetAuthorizedBy(); len(by) != 2 {
		t.Errorf("authorized by %v", by)
	}
}

func TestNobodyHasToApproveWhatNobodySigns(t *testing.T) {
	w := acme(t)
	c, _ := w.request("gov", destroyNow("acme", ""))
	w.refusedFor(errs.FailedState, "nobody has to sign", c)
}

// TestI24_OnlyWhatWasSignedIsExecuted: the same command in every detail that people
// sign, in the name of who asked. What is refused so says nothing of the approval.
func TestI24_OnlyWhatWasSignedIsExecuted(t *testing.T) {
	w := prepared(t)
	destroyed := destroyNow("acme", "pay")
	id := w.approvedBy(w.requested("alice", destroyed), "bob", "carol")
	other := w.requested("alice", destroyNow("acme", ""))
	promoted := update(2, []string{"voter"}, &fsmpb.Member{Voter: true})
	promotion := w.approvedBy(w.requested("gov", promoted), "alice", "bob")
	removal := w.approvedBy(w.requested("gov", unbind("", "g9")), "alice", "bob", "cust")

	as := func(p *fsmpb.Principal, c *fsmpb.Command) *fsmpb.Command { c.Principal = p; return c }
	for name, tc := range map[string]struct {
		code errs.Code
		cmd  *fsmpb.Command
	}{
		"another object":             {errs.IntentRefused, w.execute(id, destroyNow("beta", "pay"))},
		"more of it":                 {errs.IntentRefused, w.execute(id, destroyNow("acme", ""))},
		"with the wait":              {errs.IntentRefused, w.execute(id, changeObject("acme", "pay", schedule, ""))},
		"another act":                {errs.IntentRefused, w.execute(id, setQuorum(1, 1))},
		"nothing that people sign":   {errs.IntentRefused, w.execute(id, changeObject("acme", "", suspend, ""))},
		"a tick":                     {errs.IntentRefused, w.execute(id, tick())},
		"in the name of an approver": {errs.Denied, as(caller("governor", "bob"), w.execute(id, destroyed))},
		"in nobody's name":           {errs.Denied, as(&fsmpb.Principal{}, w.execute(id, destroyed))},
		"an approval that is not":    {errs.NotFound, func() *fsmpb.Command { c := w.execute(id, destroyed); c.Approval = "0"; return c }()},
		"one without signatures":     {errs.Aborted, w.execute(other, destroyNow("acme", ""))},
		"and signatures of its own": {errs.InvalidArgument, func() *fsmpb.Command {
			c := w.execute(id, destroyed)
			c.Intents = []*fsmpb.SignedIntent{signature(t, "bob", w.approval(id).GetIntent())}
			return c
		}()},
		"another node":           {errs.IntentRefused, w.execute(promotion, update(0, []string{"voter"}, &fsmpb.Member{Voter: true}))},
		"and its address":        {errs.IntentRefused, w.execute(promotion, update(2, []string{"voter", "peer_address"}, &fsmpb.Member{Voter: true, PeerAddress: "10.6.6.6:8402"}))},
		"a demotion":             {errs.IntentRefused, w.execute(promotion, update(2, []string{"voter"}, &fsmpb.Member{}))},
		"another binding":        {errs.IntentRefused, w.execute(removal, unbind("", "g1"))},
		"a binding of a tenant":  {errs.IntentRefused, w.execute(removal, unbind("acme", "g9"))},
		"another act on it":      {errs.IntentRefused, w.execute(id, unbind("", "g9"))},
		"a promotion instead":    {errs.IntentRefused, w.execute(removal, promoted)},
		"a removal instead":      {errs.IntentRefused, w.execute(promotion, unbind("", "g9"))},
		"a request for approval": {errs.IntentRefused, func() *fsmpb.Command { c, _ := w.request("alice", destroyed); return w.execute(id, c) }()},
		"its rejection":          {errs.IntentRefused, w.execute(id, reject(id))},
	} {
		t.Run(name, func(t *testing.T) {
			forecast := w.m.DryRun(tc.cmd)
			if res := w.do(tc.cmd); res.GetReason() != tc.code.String() || forecast.GetReason() != res.GetReason() {
				t.Errorf("got %v, want %s; the forecast was %v", res, tc.code, forecast)
			}
			for _, a := range []string{id, promotion, removal} {
				w.isIn(a, approved)
			}
		})
	}
	w.ok(w.execute(id, destroyed))
	w.ok(w.execute(promotion, promoted))
	w.ok(w.execute(removal, unbind("", "g9")))
}

// TestI24_WhatChangedSinceFailsTheApproval: at the time of execution everything is
// asked again. What can never be right again is said in the approval, in that entry.
func TestI24_WhatChangedSinceFailsTheApproval(t *testing.T) {
	anew := func(w *world, name string) { // bound again, with the same key
		for _, c := range []*fsmpb.Command{unbind("", name), bind(bindingFor("governor", name))} {
			if name == "gov" {
				c.Principal = caller("governor", "bob")
			}
			w.signed(c, others(name)...)
		}
	}
	ends := func(name string) func(*world) {
		return func(w *world) {
			w.signed(unbind("", name), others(name)...)
			b := bindingFor("governor", name)
			b.ExpireTimeMs = w.now + hourMS/2
			w.signed(bind(b), others(name)...)
		}
	}
	for name, tc := range map[string]struct {
		by     string
		before func(*world)
		cmd    func(*world) *fsmpb.Command
		after  func(*world)
		code   errs.Code
		says   string
	}{
		"the object changed":             {after: func(w *world) { w.ok(changeObject("acme", "", suspend, "")) }, code: errs.IntentRefused, says: intent.ReasonStale.String() + ": tenants/acme"},
		"the object is gone":             {after: func(w *world) { w.signed(destroyNow("acme", ""), "bob", "alice") }, code: errs.FailedState, says: "destroyed"},
		"a signer is unbound":            {after: func(w *world) { w.signed(unbind("", "bob"), others("bob")...) }, code: errs.IntentRefused, says: intent.ReasonUnknownKey.String()},
		"a signer is bound anew":         {after: func(w *world) { anew(w, "bob") }, code: errs.IntentRefused, says: intent.ReasonUnknownKey.String()},
		"a signer's binding has expired": {before: ends("g9"), after: func(w *world) { w.now += hourMS / 2 }, code: errs.IntentRefused, says: intent.ReasonUnknownKey.String()},
		"a signer lost the power": {by: "g1", cmd: func(*world) *fsmpb.Command { return destroyNow("beta", "pay") }, after: func(w *world) {
			w.signed(w.setGovernors("beta", w.bindingOf("", "g1").GetUid(), w.personUID("governor", "gov"), w.personUID("governor", "alice")), "carol", "g1")
		}, code: errs.IntentRefused, says: intent.ReasonWrongRole.String()},
		"the requester is unbound":            {after: func(w *world) { w.signed(unbind("", "gov"), others("gov")...) }, code: errs.Unauthenticated, says: "no such role"},
		"the requester is bound anew":         {after: func(w *world) { anew(w, "gov") }, code: errs.FailedState, says: "not bound any more as then"},
		"the requester's binding has expired": {by: "g9", before: ends("g9"), after: func(w *world) { w.now += hourMS / 2 }, code: errs.Unauthenticated, says: "no such role"},
		"the requester lost the power": {by: "g1", cmd: func(*world) *fsmpb.Command { return destroyNow("beta", "pay") }, after: func(w *world) {
			w.signed(w.setGovernors("beta", w.personUID("governor", "carol"), w.personUID("governor", "gov"), w.personUID("governor", "alice")), "carol", "g1")
		}, code: errs.Denied, says: "does not govern"},
		"its time is over":         {after: func(w *world) { w.now += hourMS }, code: errs.IntentRefused, says: intent.ReasonExpired.String()},
		"it is there already":      {cmd: func(*world) *fsmpb.Command { return bind(bindingFor("operator", "o1")) }, after: func(w *world) { w.signed(bind(bindingFor("operator", "o1")), "alice", "bob") }, code: errs.AlreadyExists, says: "exists already"},
		"another one of that name": {cmd: func(*world) *fsmpb.Command { return unbind("", "g9") }, after: func(w *world) { anew(w, "g9") }, code: errs.IntentRefused, says: intent.ReasonOtherRequest.String()},
		"none of that name":        {cmd: func(*world) *fsmpb.Command { return unbind("", "g9") }, after: func(w *world) { w.signed(unbind("", "g9"), others("g9")...) }, code: errs.NotFound},
		"it is done already": {cmd: func(*world) *fsmpb.Command { return update(2, []string{"voter"}, &fsmpb.Member{Voter: true}) }, after: func(w *world) {
			w.signed(update(2, []string{"voter"}, &fsmpb.Member{Voter: true}), "alice", "bob")
		}, code: errs.FailedState, says: "nothing was left to do"},
		"an etag of before": {cmd: func(w *world) *fsmpb.Command {
			c := w.setGovernors("acme", w.personUID("governor", "carol"), w.personUID("governor", "gov"), w.personUID("governor", "alice"))
			c.GetSetTenantGovernors().Etag = w.tenantOf("acme").GetModIndex()
			return c
		}, after: func(w *world) { w.ok(changeObject("acme", "", suspend, "")) }, code: errs.StaleEtag},
	} {
		t.Run(name, func(t *testing.T) {
			w := prepared(t)
			w.signed(bind(bindingFor("governor", "g7")), others("g7")...)
			if tc.before != nil {
				tc.before(w)
			}
			requester, cmd := "gov", destroyNow("acme", "")
			if tc.by != "" {
				requester = tc.by
			}
			if tc.cmd != nil {
				cmd = tc.cmd(w)
			}
			id := w.requested(requester, cmd, func(in *intent.Intent) {
				if name == "the object changed" {
					in.Preconditions = []intent.Precondition{{Object: "tenants/acme", ModIndex: w.tenantOf("acme").GetModIndex()}}
				}
			})
			signers := []string{"alice", "bob"}
			switch {
			case cmd.GetUnbindRole() != nil:
				signers = []string{"alice", "bob", "cust"}
			case requester == "g1":
				signers = []string{"gov", "carol"}
			case name == "a signer's binding has expired":
				signers = []string{"alice", "g9"}
			}
			w.approvedBy(id, signers...)
			w.isIn(id, approved)
			tc.after(w)
			w.restart()
			forecast := w.execute(id, cmd)
			forecast.TimeUnixMs = w.now
			if res := w.m.DryRun(forecast); res.GetReason() != tc.code.String() {
				t.Errorf("the forecast is %v", res)
			}
			w.isIn(id, approved)
			res := w.refusedFor(tc.code, tc.says, asked("try", w.execute(id, cmd)))
			a := w.isIn(id, failing)
			if a.GetResult().GetReason() != res.GetReason() || a.GetResult().GetMessage() != res.GetMessage() || a.GetResult().GetIndex() != w.index || a.GetEndTimeMs() == 0 {
				t.Errorf("it failed with %v at %d, the answer was %v", a.GetResult(), a.GetEndTimeMs(), res)
			}
			w.restart()
			w.refusedFor(errs.FailedState, "it failed", asked("again", w.execute(id, cmd)))
			if a := w.isIn(id, failing); a.GetResult().GetIndex() == w.index {
				t.Error("it failed twice")
			}
		})
	}
}

// others are two governors and a custodian who can order something about somebody,
// without who takes part in these tests' approvals where that can be.
func others(name string) []string {
	var all []string
	for _, n := range []string{"carol", "g7", "alice", "bob"} {
		if n != name && len(all) < 2 && (n != "g7" || name != "g7") {
			all = append(all, n)
		}
	}
	return append(all, "cust")
}

// TestI24_WhatPassesLeavesItApproved: a refusal that is not for good.
func TestI24_WhatPassesLeavesItApproved(t *testing.T) {
	w := quorate(t)
	cmd := w.createTenant("new") // material under the present internal key
	id := w.approvedBy(w.requested("gov", cmd), "alice", "bob")
	w.ok(w.addIVK())
	w.refused(errs.Aborted, asked("r", w.execute(id, cmd)))
	w.isIn(id, approved)
	again := w.createTenant("new") // prepared again: what people signed is the same
	w.ok(asked("r", w.execute(id, again)))
	w.isIn(id, executed)
}

// TestI24_NothingOfARejectedOrExpiredApprovalIsExecuted.
func TestI24_NothingOfARejectedOrExpiredApprovalIsExecuted(t *testing.T) {
	cmd := destroyNow("acme", "pay")
	for name, tc := range map[string]struct {
		end   func(w *world, id string)
		state fsmpb.ApprovalState
		says  string
	}{
		"rejected": {func(w *world, id string) { w.ok(reject(id)) }, rejected, "was rejected"},
		"expired": {func(w *world, _ string) {
			w.now += hourMS
			w.ok(tick())
		}, expired, "expired"},
		"its certificate is revoked": {func(w *world, _ string) { w.ok(w.revoke(3)) }, failing, "failed"},
	} {
		for _, signers := range [][]string{nil, {"bob"}, {"bob", "carol"}} {
			t.Run(fmt.Sprint(name, " with ", len(signers)), func(t *testing.T) {
				w := quorate(t)
				c, id := w.request("gov", cmd)
				c.CallerSerial = serialOf(3)
				w.ok(c)
				w.approvedBy(id, signers...)
				tc.end(w, id)
				a := w.isIn(id, tc.state)
				if a.GetEndTimeMs() != w.now || w.view().OpenApprovals() != 0 || a.GetModIndex() != w.index {
					t.Errorf("it ended as %v", a)
				}
				w.restart()
				w.refusedFor(errs.FailedState, tc.says, w.execute(id, cmd))
				w.refusedFor(errs.FailedState, tc.says, w.approve(id, "alice"))
				w.refusedFor(errs.FailedState, tc.says, reject(id))
				// Neither do its signatures order anything without it.
				in, err := intent.Decode(a.GetIntent())
				if err != nil {
					t.Fatal(err)
				}
				direct := w.signedBy(proto.CloneOf(cmd), in, keyFor("bob"), keyFor("carol"))
				direct.Principal = as("alice")
				w.refused(errs.IntentRefused, direct)
				if got := w.serviceOf("acme", "pay").GetState(); got != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
					t.Errorf("the service is %v", got)
				}
			})
		}
	}
}

// TestI17_ATokenOfAnApprovalEndsWithTheCertificateOfWhoRequestedIt.
func TestI17_ATokenOfAnApprovalEndsWithTheCertificateOfWhoRequestedIt(t *testing.T) {
	w := quorate(t)
	cmd := w.token(5, true)
	c, id := w.request("gov", cmd)
	c.CallerSerial = serialOf(3)
	w.ok(c)
	w.approvedBy(id, "alice", "bob")
	w.ok(w.execute(id, cmd))
	if _, ok := w.view().JoinToken(tokenHash(5)); !ok {
		t.Fatal("there is no token")
	}
	w.restart()
	w.ok(w.revoke(3))
	if _, ok := w.view().JoinToken(tokenHash(5)); ok {
		t.Error("the token outlives the power to admit a node")
	}
	w.isIn(id, executed)
}

// TestI24_SignaturesOfAnApprovalAreOfUseOnlyThere: in a command of its own, in another
// approval, before and after it is executed; and no intent that was used is approved.
func TestI24_SignaturesOfAnApprovalAreOfUseOnlyThere(t *testing.T) {
	w := quorate(t)
	cmd := bind(bindingFor("operator", "o1"))
	c, id := w.request("gov", cmd)
	w.ok(c)
	in, err := intent.Decode(w.approval(id).GetIntent())
	if err != nil {
		t.Fatal(err)
	}
	replays := func() {
		t.Helper()
		direct := w.signedBy(proto.CloneOf(cmd), in, keyFor("alice"), keyFor("bob"))
		w.refusedFor(errs.IntentRefused, intent.ReasonReplayed.String(), direct)
		w.refused(errs.AlreadyExists, proto.CloneOf(c))
		second, _ := w.request("gov", cmd, func(other *intent.Intent) { other.Nonce = in.Nonce; other.NotAfter++ })
		w.refusedFor(errs.IntentRefused, intent.ReasonReplayed.String(), second)
	}
	replays()
	w.approvedBy(id, "alice", "bob")
	replays()
	w.restart()
	replays()
	w.ok(w.execute(id, cmd))
	w.ok(asked("undo", w.signedBy(unbind("", "o1"), w.intentOf(intent.ActBindRole, fsm.UnbindRequest(w.bindingOf("", "o1"))), keyFor("alice"), keyFor("bob"))))
	replays()

	// The other way round.
	d := bind(bindingFor("operator", "o2"))
	used := w.ordered(d)
	w.ok(w.signedBy(d, used, keyFor("alice"), keyFor("bob")))
	again, _ := w.request("gov", bind(bindingFor("operator", "o2")), func(in *intent.Intent) { *in = used })
	w.refusedFor(errs.IntentRefused, intent.ReasonReplayed.String(), again)
}

// TestI24_AnApprovalThatEndedStaysEndedWhenItIsForgotten: what is removed after 30
// days had an intent that has expired.
func TestI24_AnApprovalThatEndedStaysEndedWhenItIsForgotten(t *testing.T) {
	w := quorate(t)
	w.now += 2 * hourMS
	w.ok(tick())
	cmd := bind(bindingFor("operator", "o1"))
	c, id := w.request("gov", cmd, func(in *intent.Intent) { in.NotAfter = w.now + 30*dayMS })
	w.ok(c)
	w.ok(reject(id))
	if at, ok := w.view().NextDue(); !ok || at != w.now+fsm.ApprovalMemoryMS {
		t.Errorf("a tick is due at %d, %v", at, ok)
	}
	w.now += fsm.ApprovalMemoryMS - 1
	w.ok(tick())
	w.isIn(id, rejected)
	w.refused(errs.AlreadyExists, proto.CloneOf(c))
	w.now++
	w.ok(tick())
	if _, ok := w.view().Approval(id); ok {
		t.Fatal("it is kept for longer than 30 days")
	}
	again := proto.CloneOf(c)
	again.TimeUnixMs = 0
	w.refusedFor(errs.IntentRefused, intent.ReasonExpired.String(), again)
}

// TestI25_TheLargerRuleCounts: of the time of the request and of now, whichever is
// changed in between, in both directions.
func TestI25_TheLargerRuleCounts(t *testing.T) {
	t.Run("lowered", func(t *testing.T) {
		w := quorate(t)
		cmd := bind(bindingFor("operator", "o1"))
		id := w.approvedBy(w.requested("gov", cmd), "alice")
		w.signed(setQuorum(1, 1), "alice", "bob", "cust")
		w.isIn(id, pending)
		if then, now := w.view().ApprovalRule(w.approval(id)); then != now || now.Governors != 2 || now.Requester != intent.RequesterExcluded {
			t.Errorf("the rule was %v and is %v", then, now)
		}
		w.refused(errs.Aborted, w.execute(id, cmd))
		w.refusedFor(errs.IntentRefused, intent.ReasonRequesterSigned.String(), w.approve(id, "gov"))
		w.approvedBy(id, "bob")
		w.ok(w.execute(id, cmd))
		w.isIn(w.requested("gov", bind(bindingFor("operator", "o2"))), approved) // under the new rule
	})
	t.Run("raised while it waits", func(t *testing.T) {
		w := quorate(t)
		w.signed(setQuorum(1, 1), "alice", "bob", "cust")
		cmd := bind(bindingFor("governor", "g9"))
		id := w.requested("gov", cmd)
		w.signed(setQuorum(2, 1), "alice", "bob", "cust")
		w.approvedBy(id, "cust", "alice")
		w.isIn(id, pending)
		if then, now := w.view().ApprovalRule(w.approval(id)); then.Governors != 1 || now.Governors != 2 || now.Requester != intent.RequesterExcluded {
			t.Errorf("the rule was %v and is %v", then, now)
		}
		w.approvedBy(id, "bob")
		w.ok(w.execute(id, cmd))
	})
	t.Run("raised when it was approved", func(t *testing.T) {
		w := quorate(t)
		w.signed(setQuorum(1, 1), "alice", "bob", "cust")
		cmd := bind(bindingFor("operator", "o1"))
		id := w.requested("gov", cmd)
		w.isIn(id, approved)
		w.signed(setQuorum(2, 1), "alice", "bob", "cust")
		if a := w.isIn(id, pending); a.GetModIndex() != w.index {
			t.Errorf("its etag stayed: %v", a)
		}
		w.restart()
		w.refused(errs.Aborted, asked("r", w.execute(id, cmd)))
		w.approvedBy(id, "alice", "bob")
		w.ok(asked("r", w.execute(id, cmd))) // the same request: the refusal was not remembered
	})
}

// TestI25_WhoIsGoneGivesWayToOthers: a signature of somebody who is not bound any
// more does not keep others from approving.
func TestI25_WhoIsGoneGivesWayToOthers(t *testing.T) {
	w := prepared(t)
	cmd := destroyNow("acme", "")
	id := w.approvedBy(w.requested("gov", cmd), "g9")
	w.signed(unbind("", "g9"), "alice", "bob", "cust")
	w.approvedBy(id, "alice")
	if a := w.isIn(id, pending); len(a.GetSignatures()) != 1 || a.GetSignatures()[0].GetPerson() != "alice" {
		t.Errorf("signatures %v", a.GetSignatures())
	}
	w.approvedBy(id, "bob")
	w.ok(w.execute(id, cmd))

	id = w.requested("bob", bind(bindingFor("operator", "o1")))
	w.signed(unbind("", "bob"), "alice", "carol", "cust")
	w.refusedFor(errs.FailedState, "not bound any more", w.approve(id, "alice"))
}

// TestI25_NobodyIsAskedToSignInVain: what would be refused when it is executed is
// refused when somebody asks, or approves.
func TestI25_NobodyIsAskedToSignInVain(t *testing.T) {
	w := quorate(t)
	cmd := destroyNow("acme", "pay")
	seen := func(in *intent.Intent) {
		in.Preconditions = []intent.Precondition{{Object: "tenants/acme", ModIndex: w.tenantOf("acme").GetModIndex()}}
	}
	for name, change := range map[string]func(*intent.Intent){
		intent.ReasonStale.String(): func(in *intent.Intent) {
			in.Preconditions = []intent.Precondition{{Object: "tenants/acme", ModIndex: 1}}
		},
		intent.ReasonExpired.String():       func(in *intent.Intent) { in.NotAfter = w.now },
		intent.ReasonTooLong.String():       func(in *intent.Intent) { in.NotAfter = w.now + intent.MaxLifetimeMs + 1 },
		intent.ReasonOtherKeyspace.String(): func(in *intent.Intent) { in.Keyspace[0] ^= 1 },
	} {
		c, _ := w.request("gov", cmd, change)
		w.refusedFor(errs.IntentRefused, name, c)
	}
	stale := w.requested("gov", cmd, seen)
	late := w.requested("gov", cmd)
	w.ok(changeObject("acme", "", suspend, ""))
	w.refusedFor(errs.IntentRefused, intent.ReasonStale.String(), w.approve(stale, "bob"))
	w.now += hourMS
	w.refusedFor(errs.IntentRefused, intent.ReasonExpired.String(), w.approve(late, "bob"))
}

// TestWhoMayReject: who asked, and who could approve; nobody else.
func TestWhoMayReject(t *testing.T) {
	w := quorate(t)
	of := func(who string, c *fsmpb.Command) *fsmpb.Command { c.Principal = as(who); return c }
	inside := func() string { return w.requested("gov", destroyNow("beta", "pay")) }
	for who, may := range map[string]bool{"gov": true, "carol": true, "g1": true, "alice": false, "bob": false, "cust": false} {
		id := inside()
		if !may {
			w.refused(errs.Denied, of(who, reject(id)))
			w.isIn(id, pending)
			continue
		}
		w.ok(of(who, reject(id)))
		if a := w.isIn(id, rejected); !proto.Equal(a.GetRejectedBy(), as(who)) || a.GetRejectReason() != "not today" || a.GetResult() != nil {
			t.Errorf("rejected as %v", a)
		}
	}
	id := w.requested("gov", bind(bindingFor("governor", "g9")))
	w.ok(of("dave", reject(id))) // a custodian, where custodians sign
	id = w.requested("gov", bind(bindingFor("governor", "g9")))
	w.refused(errs.Denied, of("g1", reject(id)))
	bad := reject(id)
	bad.GetRejectApproval().Reason = "two\nlines"
	w.refused(errs.InvalidArgument, bad)
	bad.GetRejectApproval().Reason = string(bytes.Repeat([]byte("x"), fsm.MaxRejectReasonBytes+1))
	w.refused(errs.InvalidArgument, bad)
	w.refused(errs.NotFound, reject("0"))
}

// TestI24_EveryReplicaGetsTheSame: a log with approvals of every end.
func TestI24_EveryReplicaGetsTheSame(t *testing.T) {
	w := prepared(t)
	for i, end := range []func(id string, c *fsmpb.Command){
		func(id string, c *fsmpb.Command) { w.ok(w.execute(w.approvedBy(id, "alice", "bob"), c)) },
		func(id string, c *fsmpb.Command) {
			w.approvedBy(id, "alice", "bob")
			w.signed(proto.CloneOf(c), "alice", "bob")
			w.refused(errs.AlreadyExists, w.execute(id, c))
		},
		func(id string, _ *fsmpb.Command) { w.ok(reject(id)) },
		func(string, *fsmpb.Command) { w.now += hourMS; w.ok(tick()) },
		func(id string, _ *fsmpb.Command) { w.approvedBy(id, "alice") },
	} {
		c := bind(bindingFor("operator", fmt.Sprintf("o%d", i)))
		end(w.requested("gov", c), c)
	}
	other := replay(t, w.log)
	sameState(t, w.m, other)
	if a, b := w.view().Chain(), other.View().Chain(); a != b {
		t.Error("the chains differ")
	}
	states := map[fsmpb.ApprovalState]int{}
	for _, a := range w.view().Approvals(0, "", 10) {
		states[a.GetState()]++
	}
	for _, s := range []fsmpb.ApprovalState{executed, failing, rejected, expired, pending} {
		if states[s] != 1 {
			t.Errorf("%d approvals are %v", states[s], s)
		}
	}
	w.restart()
}

// TestI26_WhatOnlyTakesPowerAwayWaitsForNobody: a table over all commands.
func TestI26_WhatOnlyTakesPowerAwayWaitsForNobody(t *testing.T) {
	w := prepared(t)
	of := func(name string, c *fsmpb.Command) *fsmpb.Command { c.Principal = as(name); return c }
	weaker := func(e fsmpb.VersionEvent) *fsmpb.Command {
		w.signedRotation("beta", "pay")
		return of("gov", changeVersion("beta", "pay", uint32(len(w.serviceOf("beta", "pay").GetVersions())), e))
	}
	w.ok(w.token(3, false))
	w.ok(w.join(3, node(3)))
	lines := map[string]*fsmpb.Command{
		"suspend a tenant":          changeObject("beta", "", suspend, ""),
		"suspend it as unlinked":    changeObject("beta", "", suspend, "unlink"),
		"suspend a service":         of("gov", changeObject("beta", "pay", suspend, "")),
		"disable a version":         weaker(fsmpb.VersionEvent_VERSION_EVENT_DISABLE),
		"compromise a version":      weaker(fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE),
		"deprecate a version":       weaker(fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE),
		"hold the cluster":          hold(true),
		"demote a node":             update(0, []string{"voter"}, &fsmpb.Member{}),
		"remove a node":             remove(3),
		"revoke a certificate":      w.revoke(1),
		"reject an approval":        reject(w.requested("gov", destroyNow("acme", ""))),
		"cancel a destruction":      nil, // gives power back, and needs none either: below
		"a token without a vote":    w.token(4, false),
		"request and approve":       nil,
		"the leader's housekeeping": tick(),
	}
	w.signed(update(2, []string{"voter"}, &fsmpb.Member{Voter: true}), "alice", "bob")
	w.signed(w.token(6, true), "alice", "bob")
	third := node(6)
	third.Voter = true
	w.ok(w.join(6, third)) // two of three voters are left, so nobody signs (I29)
	for name, cmd := range lines {
		if cmd == nil {
			continue
		}
		if _, _, ok := fsm.SovereignRequest(cmd); ok {
			t.Errorf("%s: people would have to sign", name)
		}
		w.ok(cmd)
	}
	// Every kind of command is one that people sign, or is not; a new one is said here.
	signs := []string{
		"create_tenant", "bind_tenant", "change_object", "change_version", "create_join_token", "update_member", "remove_member", "put_issuer", "remove_issuer", "bind_role", "unbind_role", "set_tenant_governors", "set_quorum",
		"put_policy", "remove_policy", "recover", "begin_ceremony", "confirm_seal", "replace_authority", "retire_authority",
	}
	free := []string{
		"genesis", "create_service", "add_version", "set_primary", "pin_resource", "unpin_resource", "add_internal_key", "rewrap_tenant", "put_secret", "add_member", "purge_member",
		"set_hold", "tick", "raise_format", "rollback_resource", "revoke_certificate", "lease_epoch", "repair_seal", "request_approval", "approve", "reject_approval",
		"stage_ceremony", "confirm_holder", "prove_seal", "commit_ceremony", "cancel_ceremony", "drop_carried", "end_internal_keys", "note_backup", "member_cleared", "finish_exposure",
	}
	bodies := (&fsmpb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range bodies.Len() {
		name := string(bodies.Get(i).Name())
		if slices.Contains(signs, name) == slices.Contains(free, name) {
			t.Errorf("nothing says whether people sign for %s", name)
		}
		if !slices.Contains(free, name) {
			continue
		}
		cmd := (&fsmpb.Command{}).ProtoReflect()
		cmd.Set(bodies.Get(i), cmd.NewField(bodies.Get(i)))
		c, _ := cmd.Interface().(*fsmpb.Command)
		if _, _, ok := fsm.SovereignRequest(c); ok {
			t.Errorf("people sign for %s", name)
		}
	}
}

// signedRotation gives a service a version that is not the primary.
func (w *world) signedRotation(tenant, service string) {
	w.tb.Helper()
	for range 2 {
		n := w.ok(w.addVersion(tenant, service)).GetVersion()
		w.ok(w.setPrimary(tenant, service, n, false))
	}
}

func TestApprovalsAreBounded(t *testing.T) {
	w := quorate(t)
	var ids []string
	for i := range fsm.MaxApprovalsPerRequester {
		ids = append(ids, w.requested("gov", bind(bindingFor("operator", fmt.Sprintf("o%d", i)))))
	}
	c, _ := w.request("gov", bind(bindingFor("operator", "more")))
	w.refusedFor(errs.LimitReached, "20", c)
	w.requested("alice", bind(bindingFor("operator", "more"))) // another person's
	w.ok(reject(ids[7]))
	w.ok(c)
	if got := w.view().OpenApprovals(); got != fsm.MaxApprovalsPerRequester+1 {
		t.Errorf("%d are open", got)
	}
	// Page by page, in the order of their ids.
	var all []string
	for after := ""; ; after = all[len(all)-1] {
		page := w.view().Approvals(pending, after, 3)
		for _, a := range page {
			all = append(all, a.GetId())
		}
		if len(page) < 3 {
			break
		}
	}
	if len(all) != fsm.MaxApprovalsPerRequester+1 || !slices.IsSorted(all) || slices.Contains(all, ids[7]) {
		t.Errorf("pages have %d: %v", len(all), all)
	}
	if w.view().Approvals(pending, "", 0) != nil {
		t.Error("a page of none has some")
	}
}

// TestAnApprovalHasSoManySignatures: as many as an intent can have.
func TestAnApprovalHasSoManySignatures(t *testing.T) {
	name := func(i int) string { return fmt.Sprintf("p%d", i) }
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for i := range intent.MaxSignatures + 1 {
			p, _ := person(name(i), "governor")
			g.Persons = append(g.Persons, p)
		}
		g.Rules = fsm.RulesOf(2, 1)
	})
	id := w.requested("gov", bind(bindingFor("governor", "g9")))
	for i := range intent.MaxSignatures {
		w.ok(w.approve(id, name(i)))
	}
	w.refusedFor(errs.LimitReached, "32", w.approve(id, name(intent.MaxSignatures)))
	w.isIn(id, pending)
	w.restart()
}

// TestI2_ANodeThatMiscountsApprovalsIsFoundOut: with the entry that executes what the
// others do not hold to be approved, its chain is not theirs any more.
func TestI2_ANodeThatMiscountsApprovalsIsFoundOut(t *testing.T) {
	w := quorate(t)
	cmd := destroyNow("acme", "pay")
	id := w.approvedBy(w.requested("gov", cmd), "alice")
	// What a machine holds that takes one signature for enough.
	raw := edit(t, snapshot(t, w.m, testMAC), func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		items[0].GetCluster().Rules = fsm.RulesOf(1, 1)
		for _, it := range items {
			if a := it.GetApproval(); a != nil {
				a.State, a.Rules[0].Signatures = approved, 1
			}
		}
		return items
	})
	liar := fsm.New(fsm.Options{})
	if err := liar.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	said := w.refused(errs.Aborted, w.execute(id, cmd))
	lied, err := liar.Apply(w.index, w.term, w.log[len(w.log)-1])
	if err != nil || lied.GetReason() != "" {
		t.Fatalf("the liar says %v, %v: this test proves nothing", lied, err)
	}
	_, _, honest := w.m.Applied()
	if _, _, chain := liar.Applied(); chain == honest {
		t.Errorf("nobody can tell from the chain that one did what the other refused (%v)", said)
	}
	w.isIn(id, pending)
}
