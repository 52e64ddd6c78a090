package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI13_NoSnapshotGivesPowerThatNoCommandCould edits what a snapshot says of
// issuers, bindings and governors. What breaks a rule of these objects is refused
// before its MAC is asked; the rest only the MAC tells (TestI13_EditedSnapshots...).
func TestI13_NoSnapshotGivesPowerThatNoCommandCould(t *testing.T) {
	w, keys := sovereign(t)
	signed := func(c *fsmpb.Command, who ...string) {
		var all []ed25519.PrivateKey
		for _, n := range who {
			all = append(all, keys[n])
		}
		w.ok(w.signedBy(c, w.ordered(c), all...))
	}
	signed(putIssuer(jwtIssuer("idp")), "alice", "bob")
	signed(putIssuer(x509Issuer("corp")), "alice", "bob")
	signed(putIssuer(w.ownIssuer("acme", "k8s")), "carol", "bob")
	signed(bind(bindingFor("operator", "olga")), "alice", "bob")
	signed(bind(under(w.issuerOf("", "idp"), bindingFor("operator", "otto"), "otto")), "alice", "bob")
	signed(bind(w.workload("acme", "app")), "carol", "bob")
	raw := snapshot(t, w.m, testMAC)
	issuer := func(id string, f func(*fsmpb.Issuer)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetIssuer().GetId() == id {
					f(it.GetIssuer())
				}
			}
			return items
		}
	}
	binding := func(id string, f func(*fsmpb.RoleBinding)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetRoleBinding().GetId() == id {
					f(it.GetRoleBinding())
				}
			}
			return items
		}
	}
	tenant := func(f func(*fsmpb.Tenant)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetTenant() != nil {
					f(it.GetTenant())
				}
			}
			return items
		}
	}
	cluster := func(f func(*fsmpb.Cluster)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { f(items[0].GetCluster()); return items }
	}
	without := func(is func(*fsmpb.SnapshotItem) bool) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) (rest []*fsmpb.SnapshotItem) {
			for _, it := range items {
				if !is(it) {
					rest = append(rest, it)
				}
			}
			return rest
		}
	}
	stranger := w.uid()
	for name, change := range map[string]func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem{
		"builtin with another CA":                        issuer("builtin", func(i *fsmpb.Issuer) { i.GetX509().Certificates = [][]byte{caCert("rogue")} }),
		"builtin with a second CA":                       issuer("builtin", func(i *fsmpb.Issuer) { i.GetX509().Certificates = append(i.GetX509().Certificates, caCert("rogue")) }),
		"builtin with another domain":                    issuer("builtin", func(i *fsmpb.Issuer) { i.GetX509().TrustDomain = "rogue" }),
		"builtin with another uid":                       issuer("builtin", func(i *fsmpb.Issuer) { i.Uid = stranger }),
		"builtin for some roles":                         issuer("builtin", func(i *fsmpb.Issuer) { i.Roles = i.GetRoles()[:4] }),
		"builtin with unbound governors":                 issuer("builtin", func(i *fsmpb.Issuer) { i.UnboundRoles = []string{"governor"} }),
		"no builtin":                                     without(func(it *fsmpb.SnapshotItem) bool { return it.GetIssuer().GetId() == "builtin" }),
		"another issuer with builtin's CA":               issuer("corp", func(i *fsmpb.Issuer) { i.GetX509().Certificates = [][]byte{callerCA} }),
		"another issuer with its uid":                    issuer("corp", func(i *fsmpb.Issuer) { i.Uid = builtin }),
		"unbound operators of a company":                 issuer("corp", func(i *fsmpb.Issuer) { i.UnboundRoles = []string{"operator"} }),
		"an issuer without uid":                          issuer("corp", func(i *fsmpb.Issuer) { i.Uid = nil }),
		"two issuers with one uid":                       issuer("corp", func(i *fsmpb.Issuer) { i.Uid = w.issuerOf("", "idp").GetUid() }),
		"an issuer of the future":                        issuer("idp", func(i *fsmpb.Issuer) { i.ModIndex = w.index + 1 }),
		"an issuer of no time":                           issuer("idp", func(i *fsmpb.Issuer) { i.CreateTimeMs = 0 }),
		"an issuer without roles of whom it vouches for": issuer("idp", func(i *fsmpb.Issuer) { i.Roles = []string{"governor"} }),
		"a tenant's issuer for operators":                issuer("k8s", func(i *fsmpb.Issuer) { i.Roles = []string{"operator", "workload"} }),
		"an issuer of another tenant":                    issuer("k8s", func(i *fsmpb.Issuer) { i.TenantUid = stranger }),
		"an issuer for a tenant that never was":          issuer("corp", func(i *fsmpb.Issuer) { i.AllTenants, i.TenantUids = false, [][]byte{stranger} }),
		"an issuer that nobody could have ordered":       issuer("corp", func(i *fsmpb.Issuer) { i.AuthorizedBy[1].Intent = i.GetAuthorizedBy()[0].GetIntent() }),
		"an issuer ordered by no intent":                 issuer("corp", func(i *fsmpb.Issuer) { i.AuthorizedBy[0].Intent = nil }),
		"an issuer ordered by no key":                    issuer("corp", func(i *fsmpb.Issuer) { i.AuthorizedBy[0].KeyId = nil }),
		"an issuer ordered by no signature":              issuer("corp", func(i *fsmpb.Issuer) { i.AuthorizedBy[0].Signature = nil }),

		"an operator becomes a governor":    binding("olga", func(b *fsmpb.RoleBinding) { b.Role, b.Platform = "governor", true }),
		"an operator signs":                 binding("olga", func(b *fsmpb.RoleBinding) { b.Keys[0].Sign = true }),
		"an operator of the platform":       binding("olga", func(b *fsmpb.RoleBinding) { b.Platform = true }),
		"an operator has a governor's key":  binding("olga", func(b *fsmpb.RoleBinding) { b.Keys[0].Key = keyOf("alice") }),
		"an operator has a governor's name": binding("olga", func(b *fsmpb.RoleBinding) { b.Role, b.Name, b.Subject = "governor", "alice", "governor/alice" }),
		"an operator has another's uid":     binding("olga", func(b *fsmpb.RoleBinding) { b.Uid = w.personUID("governor", "alice") }),
		"an operator of no issuer":          binding("olga", func(b *fsmpb.RoleBinding) { b.IssuerUid = stranger }),
		"another subject":                   binding("olga", func(b *fsmpb.RoleBinding) { b.Subject = "operator/oscar" }),
		"a key under another issuer":        binding("otto", func(b *fsmpb.RoleBinding) { b.Keys = bindingFor("operator", "otto").GetKeys() }),
		"a binding of the future":           binding("otto", func(b *fsmpb.RoleBinding) { b.ModIndex = w.index + 1 }),
		"a binding of no time":              binding("otto", func(b *fsmpb.RoleBinding) { b.CreateTimeMs = 0 }),
		"a binding without uid":             binding("otto", func(b *fsmpb.RoleBinding) { b.Uid = nil }),
		"every tenant":                      binding("alice", func(b *fsmpb.RoleBinding) { b.EveryTenant = true }),
		"governors that all leave": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if b := it.GetRoleBinding(); b.GetRole() == "governor" {
					b.ExpireTimeMs = w.now + dayMS
				}
			}
			return items
		},
		"no governors":                 without(func(it *fsmpb.SnapshotItem) bool { return it.GetRoleBinding().GetRole() == "governor" }),
		"a workload of another tenant": binding("app", func(b *fsmpb.RoleBinding) { b.TenantUid = stranger }),
		"a workload of another name":   binding("app", func(b *fsmpb.RoleBinding) { b.Tenant = "beta" }),

		"a tenant without governors":    tenant(func(t *fsmpb.Tenant) { t.Governors = nil }),
		"a tenant with strangers":       tenant(func(t *fsmpb.Tenant) { t.Governors = [][]byte{stranger} }),
		"a tenant with one governor":    tenant(func(t *fsmpb.Tenant) { t.Governors = t.GetGovernors()[:1] }),
		"governors out of order":        tenant(func(t *fsmpb.Tenant) { g := t.GetGovernors(); g[0], g[1] = g[1], g[0] }),
		"authority that did not change": cluster(func(c *fsmpb.Cluster) { c.AuthorityIndex = 1 }),
		"authority that never was":      cluster(func(c *fsmpb.Cluster) { c.AuthorityIndex = 0 }),
		"authority of the future":       cluster(func(c *fsmpb.Cluster) { c.AuthorityIndex = w.index + 1 }),
		"another certificate of the CA": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return secretOf(items, caCert("rogue")) },
		"a certificate that is none":    func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return secretOf(items, []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			bad := edit(t, raw, change)
			if bytes.Equal(bad, edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return i })) {
				t.Fatal("nothing was edited")
			}
			if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt || !strings.Contains(err.Error(), "the snapshot is damaged") {
				t.Errorf("got %v, want STATE_CORRUPT", err)
			}
		})
	}
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(raw)); err != nil {
		t.Errorf("the unchanged snapshot: %v", err)
	}
}

func secretOf(items []*fsmpb.SnapshotItem, public []byte) []*fsmpb.SnapshotItem {
	for _, it := range items {
		if it.GetSecret().GetName() == "caller-ca" {
			it.GetSecret().Public = public
		}
	}
	return items
}

// TestI13_NoAuthorityInASnapshotOfAnOlderFormat: a release that knows more than a
// cluster has takes nothing more from its snapshot either.
func TestI13_NoAuthorityInASnapshotOfAnOlderFormat(t *testing.T) {
	newer := everything(t)
	var more []*fsmpb.SnapshotItem
	for _, it := range itemsOf(t, snapshot(t, newer.m, nil)) {
		if it.GetIssuer() != nil || it.GetRoleBinding() != nil || it.GetPolicy() != nil {
			more = append(more, it)
		}
	}
	w := newWorld(t, ofFormat(fsm.FormatAuthority-1))
	w.ok(w.createTenant("acme"))
	raw := snapshot(t, w.m, testMAC)
	for _, it := range more {
		bad := edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return append(items, it) })
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt {
			t.Errorf("%v: got %v", it, err)
		}
	}
	bad := edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		items[1].GetTenant().Governors = [][]byte{make([]byte, 16)}
		return items
	})
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt {
		t.Errorf("got %v", err)
	}
}

// TestARestoreKnowsThatAuthorityChanged: what was remembered of callers in a state
// before is void, also if all that changed is that something is gone.
func TestARestoreKnowsThatAuthorityChanged(t *testing.T) {
	w := newWorld(t)
	w.ok(bind(bindingFor("operator", "olga")))
	behind := replay(t, w.log)
	w.ok(unbind("", "olga"))
	before := behind.View().AuthorityAt()
	if err := behind.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	if got := behind.View().AuthorityAt(); got == before || got != w.view().AuthorityAt() {
		t.Errorf("authority changed at %d, before at %d", got, before)
	}
}

// TestWhatMovesAuthority, and what does not.
func TestWhatMovesAuthority(t *testing.T) {
	w := peopled(t)
	moves := func(want bool, cmd *fsmpb.Command) {
		t.Helper()
		before := w.view().AuthorityAt()
		etag := w.view().Cluster().GetModIndex()
		w.ok(cmd)
		if got := w.view().AuthorityAt(); (got != before) != want || want && got != w.index {
			t.Errorf("%T moved authority from %d to %d", cmd.GetBody(), before, got)
		}
		if w.view().Cluster().GetModIndex() != etag && cmd.GetSetHold() == nil {
			t.Errorf("%T changed the cluster's etag", cmd.GetBody())
		}
	}
	moves(true, w.revoke(1))
	moves(true, putIssuer(jwtIssuer("idp")))
	moves(true, putIssuer(jwtIssuer("idp")))
	moves(true, removeIssuer("", "idp"))
	moves(true, bind(bindingFor("operator", "olga")))
	moves(true, unbind("", "olga"))
	as := w.setGovernors("beta", w.bindingOf("", "g2").GetUid())
	as.Principal = caller("governor", "g2")
	moves(true, as)
	moves(false, w.createTenant("new"))
	moves(false, destroyNow("new", "")) // owns nobody
	moves(true, destroyNow("acme", ""))
	moves(false, tick())
	moves(false, w.token(9, false))
	moves(false, hold(true))
}
