package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI22_SomebodyAlwaysGoverns: the last governor of the platform, the last
// custodian and the last governor of a tenant stay; one who will expire is none of
// them.
func TestI22_SomebodyAlwaysGoverns(t *testing.T) {
	w := acme(t)
	w.refused(errs.FailedState, unbind("", "gov"))
	w.refused(errs.FailedState, unbind("", "cust"))
	for role, name := range map[string]string{"governor": "g1", "custodian": "c1"} {
		b := bindingFor(role, name)
		b.ExpireTimeMs = w.now + dayMS
		w.ok(bind(b))
	}
	w.refused(errs.FailedState, unbind("", "gov"))
	w.refused(errs.FailedState, unbind("", "cust"))
	w.ok(unbind("", "g1"))
	w.ok(unbind("", "c1"))

	w.ok(bind(bindingFor("governor", "g2")))
	w.ok(bind(bindingFor("custodian", "c2")))
	w.ok(unbind("", "cust"))
	w.refused(errs.FailedState, unbind("", "c2"))
	w.refused(errs.FailedState, unbind("", "gov")) // governs acme alone
	w.ok(w.setGovernors("acme", w.bindingOf("", "g2").GetUid(), w.bindingOf("", "gov").GetUid()))
	w.ok(unbind("", "gov"))
	as := func(c *fsmpb.Command) *fsmpb.Command { c.Principal = caller("governor", "g2"); return c }
	w.refused(errs.FailedState, as(unbind("", "g2")))

	// The list has one who is gone; he counts for nobody, and whoever is bound
	// under the same name does not come into it.
	w.ok(as(bind(bindingFor("governor", "gov"))))
	if w.view().Governs(w.bindingOf("", "gov"), w.tenantOf("acme")) {
		t.Error("a new binding has the power of an old one")
	}
	w.refused(errs.FailedState, as(unbind("", "g2")))
	w.refused(errs.Denied, changeObject("acme", "payments", resume, ""))

	// A destroyed tenant needs nobody.
	w.ok(as(destroyNow("acme", "")))
	w.ok(unbind("", "g2"))
}

// TestI22_AsManyGovernAsARuleNeeds: with keys to sign with, and no end.
func TestI22_AsManyGovernAsARuleNeeds(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for _, n := range []string{"alice", "bob"} {
			p, _ := person(n, "governor")
			g.Persons = append(g.Persons, p)
		}
		g.Rules = []*fsmpb.IntentRule{{Act: uint32(intent.ActDestroy), Role: "governor", Signatures: 2, RequesterCounts: true}}
	})
	w.refused(errs.FailedState, w.createTenant("acme")) // gov alone could never order a destruction
	w.ok(putIssuer(jwtIssuer("idp")))
	w.ok(bind(under(w.issuerOf("", "idp"), bindingFor("governor", "g1"), "g1"))) // has no key
	ends := bindingFor("governor", "g2")
	ends.ExpireTimeMs = w.now + hourMS
	w.ok(bind(ends))
	w.governors = [][]byte{w.bindingOf("", "gov").GetUid(), w.bindingOf("", "g1").GetUid(), w.bindingOf("", "g2").GetUid()}
	slices.SortFunc(w.governors, bytes.Compare)
	w.refused(errs.FailedState, w.createTenant("acme"))
	w.governedBy("gov", "alice", "bob")
	w.ok(w.createTenant("acme"))
	w.ok(unbind("", "bob"))
	w.refused(errs.FailedState, unbind("", "alice"))
	w.refused(errs.FailedState, w.setGovernors("acme", w.bindingOf("", "gov").GetUid()))
	w.ok(unbind("", "g1"))
	w.ok(unbind("", "g2"))
	w.refused(errs.FailedState, unbind("", "gov"))
}

// TestI22_SomebodyIsLeftToAsk: where only others sign, a tenant or a platform of just as
// many governors as must sign could never order anything again, not even another governor.
func TestI22_SomebodyIsLeftToAsk(t *testing.T) {
	w, keys := sovereign(t) // two others sign; acme has carol, bob and gov
	order := func(c *fsmpb.Command) *fsmpb.Command {
		return w.signedBy(c, w.ordered(c), keys["alice"], keys["bob"])
	}
	w.governedBy("alice", "bob")
	w.refused(errs.FailedState, order(w.createTenant("two")))
	c := w.setGovernors("acme", w.personUID("governor", "bob"), w.personUID("governor", "carol"))
	w.refused(errs.FailedState, w.signedBy(c, w.ordered(c), keys["bob"], keys["carol"]))

	// The platform has alice, bob, carol and gov.
	w.governedBy("alice", "bob", "gov")
	w.ok(order(w.createTenant("three")))
	gone := func(id string) *fsmpb.Command {
		req := fsm.UnbindRequest(w.bindingOf("", id))
		return w.signedBy(unbind("", id), w.intentOf(req.Act(), req), keys["alice"], keys["bob"], keys["cust"])
	}
	w.refused(errs.FailedState, gone("carol")) // acme would have two left
	c = w.setGovernors("acme", w.personUID("governor", "gov"), w.personUID("governor", "alice"), w.personUID("governor", "bob"))
	w.ok(w.signedBy(c, w.ordered(c), keys["bob"], keys["carol"]))
	w.ok(gone("carol"))
	w.refused(errs.FailedState, gone("bob"))
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}

	w = emptyWorld(t)
	g := w.genesis()
	p, _ := person("alice", "governor") // and gov
	g.Persons = append(g.Persons, p)
	g.Rules = []*fsmpb.IntentRule{{Act: uint32(intent.ActBindRole), Role: "governor", Signatures: 2}}
	w.refused(errs.InvalidArgument, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
	g.Rules[0].RequesterCounts = true
	w.ok(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
}

// TestI22_WhoAsksIsOneMore: where the signatures must be by others, two signers and
// nobody who asks could order nothing any more, nor let anybody in.
func TestI22_WhoAsksIsOneMore(t *testing.T) {
	for _, counts := range []bool{true, false} {
		w := newWorld(t, func(g *fsmpb.Genesis) {
			for _, n := range []string{"alice", "bob"} {
				p, _ := person(n, "governor")
				g.Persons = append(g.Persons, p)
			}
			g.Rules = []*fsmpb.IntentRule{{Act: uint32(intent.ActDestroy), Role: "governor", Signatures: 2, RequesterCounts: counts}}
		})
		w.governedBy("gov", "alice")
		two := w.createTenant("acme")
		w.governedBy("gov", "alice", "bob")
		if counts {
			w.ok(two)
			w.ok(unbind("", "bob"))
			w.refused(errs.FailedState, unbind("", "alice"))
			continue
		}
		w.refused(errs.FailedState, two)
		w.ok(w.createTenant("acme"))
		w.refused(errs.FailedState, unbind("", "bob"))
		w.refused(errs.FailedState, w.setGovernors("acme", w.personUID("governor", "gov"), w.personUID("governor", "alice")))
		w.ok(w.signatures(destroyNow("acme", ""), "alice", "bob"))
		w.refused(errs.FailedState, unbind("", "bob")) // of the platform there are as many, too
		w.ok(bind(bindingFor("governor", "carol")))
		w.ok(unbind("", "bob"))
		w.restart()
	}
}

// A cluster of an older format that was founded with nobody besides those who sign
// goes on.
func TestI22_ASnapshotNeedsOnlyThoseWhoSign(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) {
		g.FormatVersion = fsm.FormatAuthority - 1
		alice, _ := person("alice", "governor")
		g.Persons = append(g.Persons, alice)
		g.Rules = []*fsmpb.IntentRule{{Act: uint32(intent.ActDestroy), Role: "governor", Signatures: 2}}
	})
	w.ok(raise(fsm.FormatAuthority))
	w.restart()
	w.refused(errs.FailedState, unbind("", "alice"))
}

func TestGovernorsThatCannotBeAreRefused(t *testing.T) {
	w := acme(t)
	w.ok(bind(bindingFor("operator", "olga")))
	ends := bindingFor("governor", "g1")
	ends.ExpireTimeMs = w.now + hourMS
	w.ok(bind(ends))
	gov, olga, g1 := w.bindingOf("", "gov").GetUid(), w.bindingOf("", "olga").GetUid(), w.bindingOf("", "g1").GetUid()
	many := make([][]byte, 17)
	for i := range many {
		many[i] = w.uid()
	}
	for name, tc := range map[string]struct {
		code errs.Code
		uids [][]byte
	}{
		"nobody":              {errs.InvalidArgument, nil},
		"one twice":           {errs.InvalidArgument, [][]byte{gov, gov}},
		"too many":            {errs.InvalidArgument, many},
		"a uid that is none":  {errs.InvalidArgument, [][]byte{gov[:15]}},
		"a stranger":          {errs.NotFound, [][]byte{gov, w.uid()}},
		"an operator":         {errs.NotFound, [][]byte{gov, olga}},
		"only one who leaves": {errs.FailedState, [][]byte{g1}},
	} {
		w.refused(tc.code, w.setGovernors("acme", tc.uids...))
		c := w.createTenant("new")
		c.GetCreateTenant().Governors = w.setGovernors("acme", tc.uids...).GetSetTenantGovernors().GetGovernors()
		if tc.uids != nil { // then it is whoever asks
			w.refused(tc.code, c)
		}
		if got := w.tenantOf("acme").GetGovernors(); len(got) != 1 || !bytes.Equal(got[0], gov) {
			t.Errorf("%s: governors %x", name, got)
		}
	}
	unordered := w.setGovernors("acme", gov, g1)
	slices.Reverse(unordered.GetSetTenantGovernors().GetGovernors())
	w.refused(errs.InvalidArgument, unordered)
	stale := w.setGovernors("acme", gov, g1)
	stale.GetSetTenantGovernors().TenantUid = w.uid()
	w.refused(errs.Aborted, stale)
	stale = w.setGovernors("acme", gov, g1)
	stale.GetSetTenantGovernors().Etag = 1
	w.refused(errs.StaleEtag, stale)
	w.now += hourMS
	w.refused(errs.NotFound, w.setGovernors("acme", gov, g1)) // expired, and not yet removed
	before := w.view().AuthorityAt()
	w.ok(w.setGovernors("acme", gov))
	if v := w.view(); v.AuthorityAt() == before || w.tenantOf("acme").GetModIndex() != w.index || fsm.GateIndex(w.tenantOf("acme")) == w.index {
		t.Errorf("authority at %d, tenant %v", v.AuthorityAt(), w.tenantOf("acme"))
	}
}

// TestManyTenantsOfOneGovernor: what a governor's leaving does to all tenants is
// seen without looking at each.
func TestManyTenantsOfOneGovernor(t *testing.T) {
	w := newWorld(t)
	w.ok(bind(bindingFor("governor", "g1")))
	both := [][]byte{w.bindingOf("", "gov").GetUid(), w.bindingOf("", "g1").GetUid()}
	slices.SortFunc(both, bytes.Compare)
	w.governors = both
	for i := range 300 {
		w.ok(w.createTenant(fmt.Sprintf("t%d", i)))
	}
	w.governors = nil
	w.ok(w.createTenant("alone"))
	w.refused(errs.FailedState, unbind("", "gov"))
	w.ok(w.setGovernors("alone", both...))
	w.ok(unbind("", "gov"))
	c := unbind("", "g1")
	c.Principal = caller("governor", "g1")
	w.refused(errs.FailedState, c)
}

// sovereign is a world in which people sign for everything about authority: two
// governors for bindings and issuers, a custodian besides for keys.
func sovereign(t *testing.T) (*world, map[string]ed25519.PrivateKey) {
	t.Helper()
	keys := make(map[string]ed25519.PrivateKey)
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for _, n := range []string{"alice", "bob", "carol"} {
			p, k := person(n, "governor")
			g.Persons, keys[n] = append(g.Persons, p), k
		}
		_, keys["cust"] = person("cust", "custodian")
		_, keys["gov"] = person("gov", "governor")
		for _, a := range []intent.Act{intent.ActBindRole, intent.ActSetAuthorityKeys, intent.ActSetIssuer, intent.ActBindL1, intent.ActSetPolicy} {
			g.Rules = append(g.Rules, &fsmpb.IntentRule{Act: uint32(a), Role: "governor", Signatures: 2})
		}
		g.Rules = append(g.Rules, &fsmpb.IntentRule{Act: uint32(intent.ActSetAuthorityKeys), Role: "custodian", Signatures: 1})
	})
	w.governedBy("carol", "bob", "gov")
	c := w.createTenant("acme")
	w.ok(w.signedBy(c, w.ordered(c), keys["alice"], keys["bob"]))
	return w, keys
}

// TestI8_WhoGovernsWhatSignsForIt: inside a tenant its own governors, else those of
// the platform; and what an object stores of their signatures verifies.
func TestI8_WhoGovernsWhatSignsForIt(t *testing.T) {
	w, keys := sovereign(t)
	signed := func(c *fsmpb.Command, who ...string) *fsmpb.Command {
		var all []ed25519.PrivateKey
		for _, n := range who {
			all = append(all, keys[n])
		}
		act, req, ok := fsm.SovereignRequest(c)
		if u := c.GetUnbindRole(); u != nil {
			b := w.bindingOf(u.GetTenant(), u.GetId())
			act, req, ok = intent.ActBindRole, fsm.UnbindRequest(b), true
			if b.GetRole() == "governor" || b.GetRole() == "custodian" {
				act = intent.ActSetAuthorityKeys
			}
		}
		if !ok {
			t.Fatalf("%T is no sovereign act", c.GetBody())
		}
		return w.signedBy(c, w.intentOf(act, req), all...)
	}
	steps := []struct {
		name string
		cmd  func() *fsmpb.Command
		good []string
		bad  [][]string
	}{
		{"an operator is bound", func() *fsmpb.Command { return bind(bindingFor("operator", "olga")) }, []string{"alice", "bob"}, [][]string{{"alice"}, {"alice", "cust"}, {"alice", "gov"}}},
		{"a governor is bound", func() *fsmpb.Command { return bind(bindingFor("governor", "g1")) }, []string{"alice", "bob", "cust"}, [][]string{{"alice", "bob"}, {"alice", "cust"}}},
		{"a workload is bound", func() *fsmpb.Command { return bind(w.workload("acme", "app")) }, []string{"carol", "bob"}, [][]string{{"alice", "bob"}, {"carol"}}},
		{"an issuer is registered", func() *fsmpb.Command { return putIssuer(jwtIssuer("idp")) }, []string{"alice", "carol"}, [][]string{{"alice"}}},
		{"an issuer of a tenant is registered", func() *fsmpb.Command { return putIssuer(w.ownIssuer("acme", "k8s")) }, []string{"bob", "carol"}, [][]string{{"alice", "carol"}}},
		{"an issuer is removed", func() *fsmpb.Command { return removeIssuer("", "idp") }, []string{"alice", "carol"}, [][]string{{"alice"}}},
		{"a tenant gets other governors", func() *fsmpb.Command {
			return w.setGovernors("acme", w.personUID("governor", "gov"), w.personUID("governor", "alice"), w.personUID("governor", "bob"))
		}, []string{"bob", "carol"}, [][]string{{"alice", "bob"}, {"alice", "carol"}}},
		{"a workload is unbound", func() *fsmpb.Command { return unbind("acme", "app") }, []string{"alice", "bob"}, [][]string{{"bob", "carol"}}},
		{"a governor is unbound", func() *fsmpb.Command { return unbind("", "g1") }, []string{"alice", "bob", "cust"}, [][]string{{"alice", "bob"}}},
	}
	for _, s := range steps {
		w.refused(errs.IntentRefused, s.cmd())
		for _, who := range s.bad {
			w.refused(errs.IntentRefused, signed(s.cmd(), who...))
		}
		c := signed(s.cmd(), s.good...)
		w.ok(c)
		var stored []*fsmpb.SignedIntent
		switch {
		case c.GetBindRole() != nil:
			stored = w.bindingOf(c.GetBindRole().GetBinding().GetTenant(), c.GetBindRole().GetBinding().GetId()).GetAuthorizedBy()
		case c.GetPutIssuer() != nil:
			stored = w.issuerOf(c.GetPutIssuer().GetIssuer().GetTenant(), c.GetPutIssuer().GetIssuer().GetId()).GetAuthorizedBy()
		default:
			continue
		}
		if len(stored) != len(s.good) || !bytes.Equal(stored[0].GetIntent(), c.GetIntents()[0].GetIntent()) {
			t.Fatalf("%s: stored %v", s.name, stored)
		}
		in, err := intent.Decode(stored[0].GetIntent())
		if err != nil {
			t.Fatal(err)
		}
		message, err := in.Message()
		if err != nil {
			t.Fatal(err)
		}
		for i, who := range s.good {
			pub, _ := keys[who].Public().(ed25519.PublicKey)
			if !ed25519.Verify(pub, message, stored[i].GetSignature()) || i > 0 && len(stored[i].GetIntent()) != 0 {
				t.Errorf("%s: signature %d is %v", s.name, i, stored[i])
			}
		}
	}
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	sameState(t, w.m, m)
}

// TestI8_WhoIsUnboundSignsNothing, nor who has expired, nor a key that is for
// certificates only.
func TestI8_WhoIsUnboundSignsNothing(t *testing.T) {
	w, keys := sovereign(t)
	order := func(who ...string) *fsmpb.Command {
		c := bind(bindingFor("operator", "olga"))
		var all []ed25519.PrivateKey
		for _, n := range who {
			all = append(all, keys[n])
		}
		return w.signedBy(c, w.ordered(c), all...)
	}
	more := func(name string, change func(*fsmpb.RoleBinding)) {
		b := bindingFor("governor", name)
		change(b)
		_, keys[name] = person(name, "governor")
		c := bind(b)
		w.ok(w.signedBy(c, w.ordered(c), keys["alice"], keys["bob"], keys["cust"]))
	}
	more("ends", func(b *fsmpb.RoleBinding) { b.ExpireTimeMs = w.now + hourMS })
	more("tls", func(b *fsmpb.RoleBinding) { b.Keys[0].Sign = false })
	more("tenant", func(b *fsmpb.RoleBinding) { b.Platform = false })
	more("dora", func(*fsmpb.RoleBinding) {})
	w.refused(errs.IntentRefused, order("alice", "tls"))
	w.refused(errs.IntentRefused, order("alice", "tenant"))
	w.now += hourMS
	w.refused(errs.IntentRefused, order("alice", "ends"))
	w.ok(order("alice", "dora"))
	w.ok(w.signedBy(unbind("", "olga"), w.intentOf(intent.ActBindRole, fsm.UnbindRequest(w.bindingOf("", "olga"))), keys["alice"], keys["bob"]))
	u := unbind("", "dora")
	w.ok(w.signedBy(u, w.intentOf(intent.ActSetAuthorityKeys, fsm.UnbindRequest(w.bindingOf("", "dora"))), keys["alice"], keys["bob"], keys["cust"]))
	w.refused(errs.IntentRefused, order("alice", "dora"))
	w.ok(order("alice", "bob"))
}

// TestI8_ATenantIsSignedForWithItsGovernors: whoever lets a call in says who asked,
// so who governs stands in what people sign.
func TestI8_ATenantIsSignedForWithItsGovernors(t *testing.T) {
	w, keys := sovereign(t)
	w.governors = nil
	c := w.createTenant("beta")
	w.refused(errs.InvalidArgument, w.signedBy(c, w.ordered(c), keys["alice"], keys["bob"]))
	w.governedBy("alice", "bob", "carol")
	good := w.createTenant("beta")
	w.governedBy("alice", "bob", "gov")
	other := w.createTenant("beta")
	w.refused(errs.IntentRefused, w.signedBy(other, w.ordered(good), keys["alice"], keys["bob"]))
	w.ok(w.signedBy(good, w.ordered(good), keys["alice"], keys["bob"]))
}

// TestWhatIsNotAskedForIsNotStored: signatures that no rule asks for were not
// verified.
func TestWhatIsNotAskedForIsNotStored(t *testing.T) {
	w := newWorld(t)
	_, eve := person("eve", "governor")
	c := bind(bindingFor("operator", "olga"))
	w.ok(w.signedBy(c, w.ordered(c), eve))
	if got := w.bindingOf("", "olga").GetAuthorizedBy(); len(got) != 0 {
		t.Errorf("stored %v", got)
	}
}
