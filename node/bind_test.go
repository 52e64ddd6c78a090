//go:build unix

package node_test

import (
	"context"
	"encoding/hex"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/vaultserver"
	"github.com/openkcm/krypton-cluster/keystore/transit"
	"github.com/openkcm/krypton-cluster/node"
)

func (m *member) bindTenant(r node.Request, name hierarchy.Name, b *fsmpb.Binding) error {
	return m.do(m.governor(), gate.BindTenant, "tenants/"+string(name), func(ctx context.Context, tok gate.Token) error {
		_, err := m.BindTenant(ctx, tok, r, name, b)
		return err
	})
}

// customers is a Vault with keys of customers and, for each region, a certificate of
// its nodes.
type customers struct {
	*vaultserver.Server

	t   *testing.T
	dir string
}

func newCustomers(t *testing.T) *customers {
	t.Helper()
	s, err := vaultserver.Start(t.Context(), vaultserver.Options{Dir: t.TempDir()})
	keystoretest.Require(t, "Vault", vaultserver.Install, err)
	t.Cleanup(func() { check(t, s.Close()) })
	c := &customers{Server: s, t: t, dir: t.TempDir()}
	check(t, s.Mount(t.Context(), "customers"))
	check(t, s.EnableAuth(t.Context(), "nodes", "cert"))
	for _, region := range []string{"eu", "us"} {
		check(t, s.Clients.WriteClient("krypton-"+region, c.file(region+".crt"), c.file(region+".key")))
	}
	return c
}

func (c *customers) file(name string) string { return filepath.Join(c.dir, name) }

// config is the keystore as a node of a region has it.
func (c *customers) config(region string) keystore.Config {
	return keystore.Config{Name: "bao", Type: transit.Type, Settings: map[string]string{
		"address": c.URL, "mount": "customers", "ca_file": c.CAFile, "auth": "cert", "auth_mount": "nodes",
		"cert_file": c.file(region + ".crt"), "key_file": c.file(region + ".key"),
	}}
}

// key makes a key and a role of a tenant that the nodes of those regions may assume.
func (c *customers) key(name, role string, regions ...string) {
	c.t.Helper()
	ctx := c.t.Context()
	check(c.t, c.CreateKey(ctx, "customers", name, "aes256-gcm96"))
	var text strings.Builder
	for _, path := range []string{"encrypt", "decrypt", "keys"} {
		text.WriteString("path \"customers/" + path + "/" + name + "\" { capabilities = [\"update\", \"read\"] }\n")
	}
	text.WriteString("path \"sys/capabilities-self\" { capabilities = [\"update\"] }\n")
	check(c.t, c.Policy(ctx, role, text.String()))
	c.role(role, role, regions...)
}

func (c *customers) role(role, policy string, regions ...string) {
	c.t.Helper()
	names := make([]string, len(regions))
	for i, r := range regions {
		names[i] = "krypton-" + r
	}
	check(c.t, c.Admin(c.t.Context(), http.MethodPost, "auth/nodes/certs/"+role, map[string]any{
		"certificate": string(c.Clients.PEM()), "allowed_common_names": names, "token_policies": policy, "token_no_default_policy": true,
	}, nil))
}

// opened counts the blobs that the server opened under a key.
func (c *customers) opened(key string) (n int) {
	c.t.Helper()
	all, err := c.Audited()
	check(c.t, err)
	for _, e := range all {
		if e.Type == "response" && e.Request.Path == "customers/decrypt/"+key && e.Error == "" {
			n++
		}
	}
	return n
}

func bao(key, role string, regions ...string) *fsmpb.Binding {
	return &fsmpb.Binding{Keystore: "bao", Key: key, Regions: regions, Identity: []*fsmpb.IdentityName{{Name: "role", Value: role}}}
}

// unbound makes a tenant without a key and returns the name of its role.
func (m *member) unbound(t *testing.T, name string) (role string) {
	t.Helper()
	tenant := must[*fsmpb.Tenant](t)(m.createTenant(m.w.request(), hierarchy.Name(name), nil))
	return name + "-" + hex.EncodeToString(tenant.GetUid())
}

func (m *member) tenant(t *testing.T, name string) *fsmpb.Tenant {
	t.Helper()
	tenant, ok := m.machine.View().Tenant(name)
	if !ok {
		t.Fatalf("no tenant %s", name)
	}
	return tenant
}

// europe is a cluster of one node in the region eu, with a customer acme whose key it
// uses for the service pay.
func europe(t *testing.T, regions ...string) (*world, *member, *customers) {
	t.Helper()
	c := newCustomers(t)
	w, o := newWorld(t)
	w.more, w.region = []keystore.Config{c.config("eu")}, "eu"
	m := w.add(t, o)
	must[*node.InitResult](t)(m.init(autoPlan(t)))
	role := m.unbound(t, "acme")
	c.key("acme-root", role, "eu")
	check(t, m.bindTenant(w.request(), "acme", bao("acme-root", role, regions...)))
	must[*fsmpb.Service](t)(m.createService(w.request(), "acme", "pay"))
	w.bind(m, auth.RoleWorkload, "acme", "app")
	return w, m, c
}

func TestABoundTenantIsServedAsItsOwnIdentity(t *testing.T) {
	w, m, _ := europe(t)
	ct, _, err := m.encrypt(target("acme", "pay"), []byte("attack at dawn"))
	check(t, err)
	reload(t, m)
	pt, _, err := m.decrypt(target("acme", "pay"), ct)
	check(t, err)
	if string(pt) != "attack at dawn" {
		t.Errorf("decrypted %q", pt)
	}
	b := m.tenant(t, "acme").GetBinding()
	if !strings.Contains(b.GetOwner(), "acme-") || !strings.HasSuffix(b.GetL1(), ":customers/acme-root") || b.GetKeyVersion() != "1" || b.GetArchetype() != "hyok" {
		t.Errorf("the binding is %v", b)
	}
	wants(t, m.bindTenant(w.request(), "acme", bao("acme-root", "x")), errs.FailedState)
}

// TestI21_NoTenantReachesTheKeyOfAnother: whatever beta's binding names, acme's key is
// not touched, beta stays without one, and there is a record.
func TestI21_NoTenantReachesTheKeyOfAnother(t *testing.T) {
	w, m, c := europe(t)
	theirs := m.tenant(t, "acme").GetBinding().GetIdentity()[0].GetValue()
	own := m.unbound(t, "beta")
	c.key("beta-root", own, "eu")
	free := m.unbound(t, "gamma") // has not been bound, and its customer has made the role
	c.key("gamma-root", free, "eu")
	for name, b := range map[string]*fsmpb.Binding{
		"its role and its key":                         bao("acme-root", theirs),
		"its role, a key of its own":                   bao("beta-root", theirs),
		"its key, a role of its own":                   bao("acme-root", own),
		"the role and key of a tenant without binding": bao("gamma-root", free),
		"the key of a tenant without binding":          bao("gamma-root", own),
		"its key, as the node":                         {Keystore: "bao", Key: "acme-root"},
		"its key, by a path":                           bao("../customers/acme-root", own),
		"an address": {Keystore: "bao", Key: "beta-root", Identity: []*fsmpb.IdentityName{
			{Name: "address", Value: "mine.example:8200"}, {Name: "role", Value: own},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.opened("acme-root") + c.opened("gamma-root")
			r := w.request()
			err := m.bindTenant(r, "beta", b)
			if err == nil || errs.Of(err).Row().Retry == errs.RetryAfterDelay {
				t.Fatalf("bound: %v", err)
			}
			if got := c.opened("acme-root") + c.opened("gamma-root"); got != before {
				t.Errorf("%d blobs of another tenant were opened", got-before)
			}
			if got := m.tenant(t, "beta"); got.GetBinding() != nil || len(got.GetL2Blob()) != 0 {
				t.Errorf("beta has %v", got)
			}
			all := m.sink.Records()
			if last := all[len(all)-1]; last.Act != gate.BindTenant.String() || last.Object != "tenants/beta" || last.Outcome == errs.OutcomeOK {
				t.Errorf("the record is %+v", last)
			}
		})
	}
	check(t, m.bindTenant(w.request(), "beta", bao("beta-root", own)))
}

// TestI22_ABindingIsProvedFromBothSides: a node of a region that is not allowed tries for
// real, and what it says is in the binding.
func TestI22_ABindingIsProvedFromBothSides(t *testing.T) {
	w, m, c := europe(t, "eu")
	if got := m.tenant(t, "acme").GetBinding().GetDeniedIn(); len(got) != 0 {
		t.Fatalf("nobody was there to try, and it says %v", got)
	}
	w.more, w.region = []keystore.Config{c.config("us")}, "us"
	far := w.joined(t)
	w.region = "eu"

	open := m.unbound(t, "open")
	c.key("open-root", open, "eu", "us")
	wants(t, m.bindTenant(w.request(), "open", bao("open-root", open, "eu")), errs.Denied)
	if m.tenant(t, "open").GetBinding() != nil {
		t.Error("bound, although a node of another region opened it")
	}
	if all := far.sink.Records(); !slices.ContainsFunc(all, func(r audit.Record) bool { return r.Act == gate.NodeCheckL1.String() && r.Object == "tenants/open" }) {
		t.Error("the other node has no record of its try")
	}
	c.role(open, open, "eu")
	check(t, m.bindTenant(w.request(), "open", bao("open-root", open, "eu")))
	if got := m.tenant(t, "open").GetBinding().GetDeniedIn(); !slices.Equal(got, []string{"us"}) {
		t.Errorf("denied in %v", got)
	}

	// And nothing is asked of the keystore there afterwards: it would look like a withdrawal.
	ct, _, err := m.encrypt(target("acme", "pay"), []byte("attack at dawn"))
	check(t, err)
	_, _, err = far.decrypt(target("acme", "pay"), ct)
	wants(t, err, errs.NotServing)
	// What the far node cannot make, the near one makes.
	must[*fsmpb.Service](t)(far.createService(w.request(), "acme", "log"))
	role := far.unbound(t, "delta")
	c.key("delta-root", role, "eu")
	check(t, far.bindTenant(w.request(), "delta", bao("delta-root", role, "eu")))
	if got := m.tenant(t, "delta").GetBinding().GetDeniedIn(); !slices.Equal(got, []string{"us"}) {
		t.Errorf("denied in %v", got)
	}

	// One that cannot say proves nothing.
	check(t, far.sealNode())
	late := m.unbound(t, "late")
	c.key("late-root", late, "eu")
	check(t, m.bindTenant(w.request(), "late", bao("late-root", late, "eu")))
	if got := m.tenant(t, "late").GetBinding().GetDeniedIn(); len(got) != 0 {
		t.Errorf("denied in %v, of a node that was sealed", got)
	}
}

func TestATenantWithoutAKeyDoesNothing(t *testing.T) {
	w, m := cluster1(t)
	must[*fsmpb.Tenant](t)(m.createTenant(w.request(), "beta", nil))
	_, err := m.createService(w.request(), "beta", "pay")
	wants(t, err, errs.FailedState)
	wants(t, m.rotate(w.request(), node.Object{Tenant: "beta"}), errs.FailedState)
	// One in a keystore of the nodes themselves needs no identity, and takes none.
	b := binding()
	b.Identity = []*fsmpb.IdentityName{{Name: "role", Value: "x"}}
	wants(t, m.bindTenant(w.request(), "beta", b), errs.InvalidArgument)
	check(t, m.bindTenant(w.request(), "beta", binding()))
	must[*fsmpb.Service](t)(m.createService(w.request(), "beta", "pay"))
}
