package fsm_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestABindingIsFoundByEverythingThatNamesIt(t *testing.T) {
	w := acme(t)
	at := w.view().AuthorityAt()
	b := w.workload("acme", "app1")
	res := w.ok(bind(b))
	if res.GetObject() != "tenants/acme/roleBindings/app1" || len(res.GetUid()) != 16 {
		t.Errorf("result %v", res)
	}
	v := w.view()
	got := w.bindingOf("acme", "app1")
	want := proto.CloneOf(b)
	want.Uid, want.Subject, want.CreateTimeMs, want.ModIndex = res.GetUid(), "workload/acme/app1", w.now, w.index
	if !proto.Equal(got, want) {
		t.Errorf("bound %v, want %v", got, want)
	}
	key, err := intent.NewPublicKey(intent.AlgEd25519, keyOf("app1").GetRaw())
	if err != nil {
		t.Fatal(err)
	}
	for how, find := range map[string]func() (*fsmpb.RoleBinding, bool){
		"uid":     func() (*fsmpb.RoleBinding, bool) { return v.BindingByUID(got.GetUid()) },
		"subject": func() (*fsmpb.RoleBinding, bool) { return v.BindingBySubject(builtin, "workload/acme/app1") },
		"name": func() (*fsmpb.RoleBinding, bool) {
			return v.BindingOf(builtin, auth.RoleWorkload, w.tenantOf("acme").GetUid(), "app1")
		},
		"key": func() (*fsmpb.RoleBinding, bool) { return v.BindingByKey(key.ID()) },
	} {
		if found, ok := find(); !ok || found != got {
			t.Errorf("by %s: %v", how, found)
		}
	}
	if v.AuthorityAt() != w.index || v.AuthorityAt() == at {
		t.Errorf("authority changed at %d", v.AuthorityAt())
	}
	if w.tenantOf("acme").GetModIndex() == w.index || v.Cluster().GetModIndex() == w.index {
		t.Error("the binding changed another object")
	}
	w.ok(unbind("acme", "app1"))
	v = w.view()
	if _, ok := v.BindingByKey(key.ID()); ok || len(v.Bindings("acme", "", 10)) != 0 || v.AuthorityAt() != w.index {
		t.Error("the binding is still there")
	}
	// The same again is another one: what named the first does not name it.
	again := w.ok(bind(w.workload("acme", "app1")))
	if bytes.Equal(again.GetUid(), res.GetUid()) {
		t.Error("I3: a uid is used again")
	}
}

// TestI21_OneIdentityOneRole: an identity, a name, an id and a key stand in one
// binding.
func TestI21_OneIdentityOneRole(t *testing.T) {
	w := acme(t)
	w.ok(putIssuer(jwtIssuer("idp")))
	idp := w.issuerOf("", "idp")
	w.ok(bind(bindingFor("operator", "olga")))
	w.ok(bind(under(idp, bindingFor("operator", "otto"), "subject-1")))
	for name, b := range map[string]*fsmpb.RoleBinding{
		"the same again": bindingFor("operator", "olga"),
		"the id": func() *fsmpb.RoleBinding {
			b := bindingFor("auditor", "anna")
			b.Id = "olga"
			return b
		}(),
		"the name and the subject": func() *fsmpb.RoleBinding {
			b := bindingFor("operator", "olga")
			b.Id, b.Keys[0].Key = "second", keyOf("second")
			return b
		}(),
		"the key": func() *fsmpb.RoleBinding {
			b := bindingFor("auditor", "anna")
			b.Keys[0].Key = keyOf("olga")
			return b
		}(),
		"a person's key of a workload": func() *fsmpb.RoleBinding {
			b := w.workload("acme", "app")
			b.Keys = append(b.Keys, &fsmpb.BindingKey{Key: keyOf("gov"), Tls: true})
			return b
		}(),
		"the subject in another role": under(idp, bindingFor("governor", "gina"), "subject-1"),
		"the name of another subject": func() *fsmpb.RoleBinding {
			b := under(idp, bindingFor("operator", "otto"), "subject-2")
			b.Id = "second"
			return b
		}(),
	} {
		before := w.view().Digest()
		w.refused(errs.AlreadyExists, bind(b))
		if len(w.view().Bindings("", "", 10)) != 4 || before == w.view().Digest() {
			t.Errorf("%s: bound", name)
		}
	}
	// One issuer's names and subjects are not another's.
	w.ok(bind(under(idp, func() *fsmpb.RoleBinding {
		b := bindingFor("operator", "olga")
		b.Id = "olga-of-idp"
		return b
	}(), "operator/olga")))
}

// TestWhatCountsForNobodyGivesWay: an expired binding, and one of a destroyed
// tenant, stand in nobody's way before the tick that removes them.
func TestWhatCountsForNobodyGivesWay(t *testing.T) {
	w := acme(t)
	ends := bindingFor("auditor", "anna")
	ends.ExpireTimeMs = w.now + hourMS
	w.ok(bind(ends))
	w.refused(errs.AlreadyExists, bind(bindingFor("auditor", "anna")))
	w.now += hourMS
	if due, ok := w.view().NextDue(); !ok || due != w.now {
		t.Errorf("next due at %d, %v", due, ok)
	}
	if b := w.bindingOf("", "anna"); !fsm.Expired(b, w.now) || fsm.Expired(b, w.now-1) {
		t.Errorf("binding %v", b)
	}
	w.ok(bind(bindingFor("auditor", "anna")))
	if w.bindingOf("", "anna").GetExpireTimeMs() != 0 {
		t.Error("the old binding is still there")
	}

	w.ok(putIssuer(w.ownIssuer("acme", "k8s")))
	w.ok(bind(w.workload("acme", "app1")))
	old := w.bindingOf("acme", "app1")
	issuer := w.issuerOf("acme", "k8s")
	w.ok(destroyNow("acme", ""))
	v := w.view()
	if _, ok := v.BindingByUID(old.GetUid()); ok {
		t.Error("a binding of a destroyed tenant is found")
	}
	if _, ok := v.IssuerByUID(issuer.GetUid()); ok || len(v.Issuers()) != 1 || v.AuthorityAt() != w.index {
		t.Errorf("issuers %v, authority at %d", v.Issuers(), v.AuthorityAt())
	}
	w.refused(errs.FailedState, bind(w.workload("acme", "app2")))
	w.refused(errs.FailedState, unbind("acme", "app1"))
	w.ok(w.createTenant("acme"))
	if len(w.view().Bindings("acme", "", 10)) != 0 {
		t.Error("the new tenant has the old one's bindings")
	}
	w.ok(bind(w.workload("acme", "app1"))) // the same subject, and the same key
	w.ok(tick())
	if b := w.bindingOf("acme", "app1"); !bytes.Equal(b.GetTenantUid(), w.tenantOf("acme").GetUid()) {
		t.Errorf("binding %v", b)
	}
	if _, ok := w.view().NextDue(); ok {
		t.Error("something is left to do")
	}
	stale := w.workload("acme", "app2")
	stale.TenantUid = old.GetTenantUid()
	w.refused(errs.Aborted, bind(stale))
}

func TestExpiredBindingsAreRemovedByATick(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		b := bindingFor("auditor", fmt.Sprintf("a%d", i))
		b.ExpireTimeMs = w.now + hourMS + int64(i)
		w.ok(bind(b))
	}
	at := w.view().AuthorityAt()
	w.now += hourMS
	w.ok(tick())
	if got := len(w.view().Bindings("", "", 10)); got != 4 || w.view().AuthorityAt() == at {
		t.Errorf("%d bindings are left, authority at %d", got, w.view().AuthorityAt())
	}
	at = w.view().AuthorityAt()
	w.ok(tick())
	if w.view().AuthorityAt() != at {
		t.Error("a tick without anything to do changed the authority")
	}
}

// TestI14_WhatADestroyedTenantOwnedGoesInPieces, and nobody has to learn of it.
func TestI14_WhatADestroyedTenantOwnedGoesInPieces(t *testing.T) {
	w := acme(t)
	const n = fsm.MaxTickObjects + 10
	w.ok(putIssuer(w.ownIssuer("acme", "k8s")))
	for i := range n {
		b := under(w.issuerOf("acme", "k8s"), w.workload("acme", fmt.Sprintf("app%d", i)), fmt.Sprintf("subject %d", i))
		w.ok(bind(b))
	}
	w.ok(destroyNow("acme", ""))
	at := w.view().AuthorityAt()
	for range 2 {
		if due, ok := w.view().NextDue(); !ok || due != 0 {
			t.Fatalf("next due %d, %v", due, ok)
		}
		w.ok(tick())
		m := fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
			t.Fatal(err)
		}
		sameState(t, w.m, m)
	}
	if _, ok := w.view().NextDue(); ok || w.view().AuthorityAt() != at {
		t.Errorf("something is left, or authority changed at %d", w.view().AuthorityAt())
	}
	for _, it := range itemsOf(t, snapshot(t, w.m, nil)) {
		if it.GetRoleBinding().GetTenant() != "" || it.GetIssuer().GetTenant() != "" {
			t.Fatalf("left: %v", it)
		}
	}
}

func TestBindingsThatAreNotSoundAreRefused(t *testing.T) {
	long := strings.Repeat("x", 513)
	ed := keyOf("x")
	for name, tc := range map[string]struct {
		code errs.Code
		edit func(w *world, b *fsmpb.RoleBinding)
	}{
		"no id":                 {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Id = "" }},
		"an id that is no name": {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Id = "A" }},
		"its own uid":           {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { b.Uid = w.uid() }},
		"its own time":          {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.CreateTimeMs = 1 }},
		"its own index":         {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.ModIndex = 1 }},
		"its own approval":      {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.AuthorizedBy = []*fsmpb.SignedIntent{{}} }},
		"every tenant":          {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Role, b.Platform, b.EveryTenant = "governor", true, true }},
		"no issuer":             {errs.NotFound, func(_ *world, b *fsmpb.RoleBinding) { b.IssuerUid = nil }},
		"a strange issuer":      {errs.NotFound, func(w *world, b *fsmpb.RoleBinding) { b.IssuerUid = w.uid() }},
		"no role":               {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Role = "" }},
		"a role that is none":   {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Role = "admin" }},
		"no name":               {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Name = "" }},
		"a name in upper case":  {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Name = "Olga" }},
		"another subject":       {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Subject = "governor/gov" }},
		"a platform operator":   {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Platform = true }},
		"no key":                {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Keys = nil }},
		"five keys":             {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Keys = fiveKeys() }},
		"a key twice":           {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Keys = append(b.Keys, b.GetKeys()[0]) }},
		"a key without use":     {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Keys[0].Tls = false }},
		"an operator who signs": {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Keys[0].Sign = true }},
		"a key that is none": {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) {
			b.Keys[0].Key = &fsmpb.PublicKey{Algorithm: 1, Raw: make([]byte, 32)}
		}},
		"a key of no algorithm":    {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Keys[0].Key = &fsmpb.PublicKey{Raw: ed.GetRaw()} }},
		"expired already":          {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { b.ExpireTimeMs = w.now }},
		"a negative expiry":        {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.ExpireTimeMs = -1 }},
		"an expiry out of range":   {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.ExpireTimeMs = 1 << 60 }},
		"a person of a tenant":     {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { b.Tenant, b.TenantUid = "acme", w.tenantOf("acme").GetUid() }},
		"a workload of no tenant":  {errs.InvalidArgument, func(_ *world, b *fsmpb.RoleBinding) { b.Role = "workload" }},
		"a uid without its tenant": {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { b.TenantUid = w.tenantOf("acme").GetUid() }},
		"an unknown tenant":        {errs.NotFound, func(w *world, b *fsmpb.RoleBinding) { b.Role, b.Tenant, b.TenantUid = "workload", "nobody", w.uid() }},
		"keys of another issuer":   {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { b.IssuerUid, b.Subject = w.issuerOf("", "idp").GetUid(), "s" }},
		"no subject":               {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("", "idp"), b, "") }},
		"a long subject":           {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("", "idp"), b, long) }},
		"a subject of two lines":   {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("", "idp"), b, "a\nb") }},
		"a subject that is no text": {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) {
			under(w.issuerOf("", "idp"), b, "a\u0085b")
		}},
		"a certificate's subject without kind": {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("", "corp"), b, "olga") }},
		"an empty common name":                 {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("", "corp"), b, "cn:") }},
		"an empty URI":                         {errs.InvalidArgument, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("", "corp"), b, "uri:") }},
		"a role above the ceiling": {errs.FailedState, func(w *world, b *fsmpb.RoleBinding) {
			b.Role = "auditor"
			under(w.issuerOf("", "idp"), b, "s")
		}},
		"a person of a tenant's issuer": {errs.FailedState, func(w *world, b *fsmpb.RoleBinding) { under(w.issuerOf("acme", "k8s"), b, "s") }},
	} {
		t.Run(name, func(t *testing.T) {
			w := acme(t)
			w.ok(putIssuer(jwtIssuer("idp")))
			w.ok(putIssuer(x509Issuer("corp")))
			w.ok(putIssuer(w.ownIssuer("acme", "k8s")))
			b := bindingFor("operator", "olga")
			tc.edit(w, b)
			w.refused(tc.code, bind(b))
			w.ok(bind(bindingFor("operator", "olga")))
		})
	}
}

func fiveKeys() (keys []*fsmpb.BindingKey) {
	for i := range 5 {
		keys = append(keys, &fsmpb.BindingKey{Key: keyOf(fmt.Sprint("key ", i)), Tls: true})
	}
	return keys
}

func TestRoleBindingsAreUnboundByWhomTheyWereReadAs(t *testing.T) {
	w := newWorld(t)
	w.ok(bind(bindingFor("operator", "olga")))
	c := unbind("", "olga")
	c.GetUnbindRole().Etag = w.bindingOf("", "olga").GetModIndex() + 1
	w.refused(errs.StaleEtag, c)
	c.GetUnbindRole().Etag--
	w.ok(c)
	w.refused(errs.NotFound, unbind("", "olga"))
	w.refused(errs.NotFound, unbind("nobody", "olga"))
}

func TestAllocAskingForAuthorityCostsNothing(t *testing.T) {
	w := acme(t)
	v := w.view()
	if got := testing.AllocsPerRun(1000, func() {
		if v.AuthorityAt() == 0 || len(v.Issuers()) == 0 {
			t.Fatal("nothing")
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
