package server_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// holder is somebody with a certificate and open connections to every node.
type holder struct {
	w     *world
	name  string
	conns []*grpc.ClientConn
}

// holder opens the connections, and waits until every node knows the certificate.
func (w *world) holder(name string, cert tls.Certificate) *holder {
	w.t.Helper()
	h := &holder{w: w, name: name}
	w.people[name] = cert
	for i := range w.members {
		h.conns = append(h.conns, w.as(i, cert))
	}
	h.works()
	return h
}

// encrypt uses a key of acme on a node, once.
func (h *holder) encrypt(i int) error {
	h.w.t.Helper()
	_, err := kryptonv1.NewCryptoClient(h.conns[i]).Encrypt(limited(h.w.t), &kryptonv1.EncryptRequest{Service: pay, Plaintext: []byte("x")})
	return err
}

// works waits until every node serves the holder.
func (h *holder) works() {
	h.w.t.Helper()
	for i, m := range h.w.members {
		until(h.w.t, m.name+" serves "+h.name, func() error { return h.encrypt(i) })
	}
	if a := h.w.send(h.w.t, h.name, http.MethodGet, "/v1/access:whoAmI", ""); a.status != http.StatusOK {
		h.w.t.Fatalf("%s over HTTP: %s", h.name, a.body)
	}
}

// ended holds that from now on every node refuses the holder with that situation, on
// the connections of before, through both doors. What took the right away was
// acknowledged, so there is nothing to wait for.
func (h *holder) ended(id string) {
	h.w.t.Helper()
	for i := range h.w.members {
		situationtest.Error(h.w.t, id, wire.FromStatus(h.encrypt(i)))
	}
	a := h.w.send(h.w.t, h.name, http.MethodGet, "/v1/tenants/acme", "")
	situationtest.HTTP(h.w.t, id, a.status, a.body)
}

func (w *world) access(i int) kryptonv1.AccessClient {
	return kryptonv1.NewAccessClient(w.grpc(i, "governor"))
}

// TestARoleEndsWithItsBinding on every node of three, on open connections, once that
// is acknowledged; and begins again with the next binding, for the key in it.
func TestARoleEndsWithItsBinding(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	h := w.holder("app", w.people["workload/acme"])
	binding := acme + "/roleBindings/x"
	if _, err := w.access(1).DeleteRoleBinding(limited(t), &kryptonv1.DeleteRoleBindingRequest{Name: binding}); err != nil {
		t.Fatal(err)
	}
	h.ended("identity/unbound")
	if !bytes.Contains(w.members[0].records(), []byte("has no role in this cluster")) {
		t.Error("the refusal has no record")
	}
	// The same key again: what was made for it before counts again.
	w.issue("workload", "acme", 0)
	h.works()
	// Another key: the certificate of before is by the cluster's own CA and for a key
	// that is not bound, as one that somebody makes who stole the CA's key.
	w.unbind(binding)
	key, _ := newKey(t)
	cert, err := w.issueTo(&kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: acme, Name: "x"}, key)
	if err != nil {
		t.Fatal(err)
	}
	h.ended("identity/other-key")
	w.holder("app with the new key", cert)
	if _, err := w.issueTo(&kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: acme, Name: "x"}, w.keys["workload/acme"]); err == nil {
		t.Error("a certificate for a key that is not bound")
	} else {
		says(t, "identity/issue-other-key", err)
	}
}

// TestAnIssuersCallersEndWithIt and with what it may vouch for, on every node of
// three, on open connections, once that is acknowledged.
func TestAnIssuersCallersEndWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("other", "pay")
	ca := w.corp()
	h := w.holder("corp/app", ca.leaf(nil, ca.uri("acme", "app")))
	was, err := w.access(2).GetIssuer(limited(t), &kryptonv1.GetIssuerRequest{Name: "issuers/corp"})
	if err != nil {
		t.Fatal(err)
	}
	update := func(i int, change func(*kryptonv1.Issuer)) {
		t.Helper()
		is := proto.CloneOf(was)
		change(is)
		if _, err := w.access(i).UpdateIssuer(limited(t), &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: is}); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		id     string
		change func(*kryptonv1.Issuer)
	}{
		{"identity/issuer-tenant", func(i *kryptonv1.Issuer) { i.AllTenants, i.Tenants = false, []string{"tenants/other"} }},
		{"identity/unbound-subject", func(i *kryptonv1.Issuer) { i.UnboundRoles = nil }},
		{"identity/other-trust-domain", func(i *kryptonv1.Issuer) { i.GetX509().TrustDomain = "new.example" }},
		{"identity/foreign-certificate", func(i *kryptonv1.Issuer) { i.GetX509().Certificates = newAuthority(t, corpDomain).pem() }},
	} {
		update(i%3, c.change)
		h.ended(c.id)
		update(i%3, func(*kryptonv1.Issuer) {})
		h.works()
	}
	// A CA is replaced: both for a while.
	next := newAuthority(t, corpDomain)
	update(1, func(i *kryptonv1.Issuer) { i.GetX509().Certificates = slices.Concat(next.pem(), ca.pem()) })
	h.works()
	w.holder("corp/app of the next CA", next.leaf(nil, next.uri("acme", "app")))

	if _, err := w.access(2).DeleteIssuer(limited(t), &kryptonv1.DeleteIssuerRequest{Name: "issuers/corp"}); err != nil {
		t.Fatal(err)
	}
	h.ended("identity/foreign-certificate")
}

// TestACompanysCANamesWhomTheRegistryKnows by a URI or a common name, exactly that.
func TestACompanysCANamesWhomTheRegistryKnows(t *testing.T) {
	t.Parallel()
	w := served(t)
	ca := newAuthority(t, corpDomain)
	i := ca.issuer(kryptonv1.Role_ROLE_OPERATOR, kryptonv1.Role_ROLE_WORKLOAD)
	i.Tenants = []string{acme}
	w.register("", "corp", i)
	const uri = "spiffe://" + corpDomain + "/shop/orders"
	w.bind("", "olga", &kryptonv1.RoleBinding{Issuer: "issuers/corp", Subject: "cn:Olga O.", Role: kryptonv1.Role_ROLE_OPERATOR, Member: "olga"})
	w.bind(acme, "orders", &kryptonv1.RoleBinding{Issuer: "issuers/corp", Subject: "uri:" + uri, Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "orders"})

	me, err := whoami(t, w.as(0, ca.named("Olga O.")))
	if err != nil || me.GetRole() != kryptonv1.Role_ROLE_OPERATOR || me.GetName() != "olga" || me.GetIssuerName() != "issuers/corp" || me.GetRoleBinding() != "roleBindings/olga" || me.GetCertificateSerial() != "" {
		t.Errorf("by common name: %v, %v", me, err)
	}
	h := w.holder("orders", ca.leaf(nil, uri))
	if me, err = whoami(t, h.conns[0]); err != nil || me.GetRole() != kryptonv1.Role_ROLE_WORKLOAD || me.GetTenant() != acme || me.GetName() != "orders" {
		t.Errorf("by URI: %v, %v", me, err)
	}
	_, err = kryptonv1.NewCryptoClient(h.conns[0]).Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay", Plaintext: []byte("x")})
	says(t, "identity/other-tenant", err)
	for name, cert := range map[string]tls.Certificate{
		"another name":              ca.named("Olga O"),
		"the name beside a URI":     ca.leaf(func(c *x509.Certificate) { c.Subject.CommonName = "Olga O." }, "spiffe://"+corpDomain+"/x"),
		"another path":              ca.leaf(nil, uri+"/"),
		"the URI as a common name":  ca.named("uri:" + uri),
		"our form, without binding": ca.leaf(nil, ca.uri("acme", "orders")),
	} {
		_, err := whoami(t, w.as(0, cert))
		if err == nil {
			t.Errorf("%s is somebody", name)
			continue
		}
		says(t, "identity/unbound-subject", err)
	}
	_, err = kryptonv1.NewAccessClient(h.conns[0]).RenewCertificate(limited(t), &kryptonv1.RenewCertificateRequest{})
	says(t, "identity/renew-foreign", err)
	w.unbind(acme + "/roleBindings/orders")
	h.ended("identity/unbound-subject")
}

// TestATenantsOwnCAReachesThatTenantOnly.
func TestATenantsOwnCAReachesThatTenantOnly(t *testing.T) {
	t.Parallel()
	w := served(t)
	ca := newAuthority(t, "acme.example")
	i := ca.issuer(kryptonv1.Role_ROLE_WORKLOAD)
	i.UnboundRoles = i.GetRoles()
	w.register(acme, "own", i)
	h := w.holder("own/app", ca.leaf(nil, ca.uri("acme", "app")))
	_, err := kryptonv1.NewCryptoClient(h.conns[0]).Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay", Plaintext: []byte("x")})
	says(t, "identity/other-tenant", err)
	_, err = whoami(t, w.as(0, ca.leaf(nil, ca.uri("other", "app"))))
	says(t, "identity/issuer-tenant", err)
	for _, role := range []string{"governor", "custodian", "operator", "auditor"} {
		_, err = whoami(t, w.as(0, ca.leaf(nil, "spiffe://acme.example/krypton/"+role+"/alice")))
		says(t, "identity/unbound-subject", err)
	}
	_, err = kryptonv1.NewAccessClient(h.conns[0]).RenewCertificate(limited(t), &kryptonv1.RenewCertificateRequest{})
	says(t, "identity/renew-unbound", err)
	// It ends with the tenant.
	if _, err := w.call(t, 0, "governor", "Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: acme, Now: true}); err != nil {
		t.Fatal(err)
	}
	h.ended("identity/foreign-certificate")
}

// TestAWorkloadIsOfTheTenantThatHasItsNameNow when only its name says so, also on a
// connection from before that tenant was there.
func TestAWorkloadIsOfTheTenantThatHasItsNameNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	ca := w.corp()
	cc := w.as(0, ca.leaf(nil, ca.uri("acme", "app")))
	if _, err := whoami(t, cc); err != nil {
		t.Fatal(err)
	}
	encrypt := func() error {
		_, err := kryptonv1.NewCryptoClient(cc).Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: pay, Plaintext: []byte("x")})
		return err
	}
	says(t, "identity/other-tenant", encrypt())
	// Nobody is bound in it: that would have every connection looked at anew.
	create := func(key string) {
		t.Helper()
		w.l1(key)
		if _, err := w.call(t, 0, "governor", "Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "acme", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: key}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.call(t, 0, "governor", "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: "pay"}); err != nil {
			t.Fatal(err)
		}
	}
	create("acme-1")
	if err := encrypt(); err != nil {
		t.Errorf("the tenant of that name: %v", err)
	}
	if _, err := w.call(t, 0, "governor", "Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: acme, Now: true}); err != nil {
		t.Fatal(err)
	}
	create("acme-2")
	if err := encrypt(); err != nil {
		t.Errorf("the next tenant of that name: %v", err)
	}
}

// TestABindingEndsByItself at its time, also while a connection is open.
func TestABindingEndsByItself(t *testing.T) {
	t.Parallel()
	w := served(t)
	key, pub := newKey(t)
	end := time.Now().Add(time.Hour)
	w.bind(acme, "guest", &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "guest", Keys: tlsKey(pub), ExpireTime: timestamppb.New(end)})
	cert, err := w.issueTo(&kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: acme, Name: "guest"}, key)
	if err != nil {
		t.Fatal(err)
	}
	h := w.holder("guest", cert)
	again, err := kryptonv1.NewAccessClient(h.conns[0]).RenewCertificate(limited(t), &kryptonv1.RenewCertificateRequest{})
	if err != nil || again.GetExpireTime().AsTime().After(end.Add(time.Second)) {
		t.Errorf("renewed until %v, the binding ends at %v: %v", again.GetExpireTime().AsTime(), end, err)
	}
	if me, err := whoami(t, h.conns[0]); err != nil || me.GetCertificateExpireTime().AsTime().UnixMilli() != end.UnixMilli() {
		t.Errorf("whoami says until %v, want %v (%v)", me.GetCertificateExpireTime().AsTime(), end, err)
	}
	w.members[0].door.advance(time.Hour)
	h.ended("identity/binding-expired")
}

// TestAnExpiredCertificateCanOnlyBeRenewed by everybody, and unseal in the hand of a
// custodian; every other method refuses it, with a record.
func TestAnExpiredCertificateCanOnlyBeRenewed(t *testing.T) {
	t.Parallel()
	w := served(t)
	order, table := permissions(w)
	forms := httpTable(t)
	short := map[string]tls.Certificate{"workload/acme": w.issue("workload", "acme", time.Minute), "operator": w.issue("operator", "", time.Minute), "auditor": w.issue("auditor", "", time.Minute)}
	for who, name := range map[string]string{"governor": "alice", "custodian": "carol"} {
		own := w.people[who]
		role := map[string]kryptonv1.Role{"governor": kryptonv1.Role_ROLE_GOVERNOR, "custodian": kryptonv1.Role_ROLE_CUSTODIAN}[who]
		pub, err := x509.MarshalPKIXPublicKey(own.Leaf.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := w.access(0).IssueCertificate(limited(t), &kryptonv1.IssueCertificateRequest{Role: role, Name: name, PublicKey: pub, TtlSeconds: 60})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(resp.GetCertificate())
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		short[who] = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: own.PrivateKey, Leaf: leaf}
	}
	w.hangUp()
	maps.Copy(w.people, short)
	w.members[0].door.advance(10 * time.Minute)
	// The first few each have a record; then they are counted, as those of strangers.
	for who, name := range map[string]string{"governor": "Tenants.SuspendTenant", "workload/acme": "Crypto.Encrypt", "custodian": "Seal.ReleaseHold", "operator": "Cluster.RemoveNode"} {
		if _, err := w.call(t, 0, who, name, proto.Clone(table[name].req)); codeOf(err) != errs.Unauthenticated {
			t.Errorf("%s by %s: %v", name, who, err)
		}
	}
	for act, who := range map[string]string{"tenants.suspend": "governor/alice", "crypto.encrypt": "workload/acme/", "seal.release_hold": "custodian/carol", "nodes.remove": "operator/x"} {
		if !slices.ContainsFunc(bytes.Split(w.members[0].records(), []byte("\n")), func(line []byte) bool {
			return bytes.Contains(line, []byte(act)) && bytes.Contains(line, []byte(who)) && bytes.Contains(line, []byte("the client certificate expired"))
		}) {
			t.Errorf("no record says that %s was refused to the expired certificate of %s", act, who)
		}
	}
	for who := range short {
		for _, name := range order {
			req := table[name].req
			open := name == "Access.WhoAmI" || name == "Access.RenewCertificate" || who == "custodian" && (name == "Seal.GetSeal" || name == "Seal.GetShard" || name == "Seal.Contribute")
			_, err := w.call(t, 0, who, name, proto.Clone(req))
			switch {
			case open && codeOf(err) == errs.Unauthenticated:
				t.Errorf("%s by %s: %v", name, who, err)
			case !open:
				situationtest.Error(t, "identity/expired", wire.FromStatus(err))
				hr, ok := w.request(t, 0, forms["krypton.v1."+name], req)
				if !ok {
					t.Fatalf("no HTTP form for %s", name)
				}
				a := w.do(t, who, "h2", hr)
				situationtest.HTTP(t, "identity/expired", a.status, a.body)
			}
		}
	}
	// It says so of itself, and the next one for the same key is a whole one.
	for who, cert := range short {
		cc := w.as(0, cert)
		me, err := whoami(t, cc)
		if err != nil || !me.GetExpired() {
			t.Errorf("%s: %v, %v", who, me, err)
		}
		next, err := kryptonv1.NewAccessClient(cc).RenewCertificate(limited(t), &kryptonv1.RenewCertificateRequest{})
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		block, _ := pem.Decode(next.GetCertificate())
		again, err := whoami(t, w.as(0, tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: cert.PrivateKey}))
		if err != nil || again.GetExpired() || again.GetName() != me.GetName() || again.GetRole() != me.GetRole() || again.GetTenant() != me.GetTenant() || again.GetCertificateSerial() == me.GetCertificateSerial() {
			t.Errorf("%s is renewed as %v, %v", who, again, err)
		}
	}
}

// TestANodeWithoutAQuorumKnowsItsCustodiansAndNobodyElse, and can be unsealed by them.
func TestANodeWithoutAQuorumKnowsItsCustodiansAndNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	all := w.members
	w.members = all[:1]
	init := w.init(kryptonv1.SealMode_SEAL_MODE_SHAMIR)
	w.members = all
	for i, m := range all[1:] {
		tok, err := kryptonv1.NewClusterClient(w.grpc(0, "operator")).CreateJoinToken(limited(t), &kryptonv1.CreateJoinTokenRequest{Voter: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.admin().Join(limited(t), &kryptonv1.JoinRequest{Token: tok.GetToken()}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		for _, share := range init.GetShares()[:2] {
			until(t, m.name+" takes a share", func() error {
				_, err := w.contribute(t, i+1, share)
				return err
			})
		}
		m.waitServing()
	}
	// An issuer that vouches for a custodian is kept, and only for that.
	ca := newAuthority(t, corpDomain)
	i := ca.issuer(kryptonv1.Role_ROLE_CUSTODIAN, kryptonv1.Role_ROLE_WORKLOAD)
	i.AllTenants, i.UnboundRoles = true, []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}
	w.register("", "corp", i)
	w.bind("", "erin", &kryptonv1.RoleBinding{Issuer: "issuers/corp", Subject: "cn:Erin", Role: kryptonv1.Role_ROLE_CUSTODIAN, Member: "erin"})
	if _, err := whoami(t, w.as(0, ca.leaf(nil, ca.uri("acme", "app")))); err != nil {
		t.Fatal(err)
	}
	w.bind("", "dora", &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_CUSTODIAN, Member: "dora", Keys: tlsKey(spki(t))})
	m := w.members[0]
	want := []string{"CERTIFICATE ", "KRYPTON ISSUER builtin", "KRYPTON ISSUER corp", "KRYPTON ROLE BINDING carol", "KRYPTON ROLE BINDING dora", "KRYPTON ROLE BINDING erin"}
	until(t, "the custodians are kept", func() error {
		if got := keptCallers(t, readFile(t, m.dir.Path("tls/callers.pem"))); !slices.Equal(got, want) {
			return errs.New(errs.NotFound, "it keeps "+strings.Join(got, ", "))
		}
		return nil
	})
	w.unbind("roleBindings/dora")
	until(t, "who is no custodian any more is forgotten", func() error {
		if got := keptCallers(t, readFile(t, m.dir.Path("tls/callers.pem"))); !slices.Equal(got, slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.HasSuffix(s, " dora") })) {
			return errs.New(errs.NotFound, "it keeps "+strings.Join(got, ", "))
		}
		return nil
	})
	for _, m := range w.members {
		m.close()
	}
	w.hangUp()
	w.members[0] = w.start("n1")
	st, err := kryptonv1.NewSealClient(w.grpc(0, "custodian")).GetSeal(limited(t), &kryptonv1.GetSealRequest{}, grpc.WaitForReady(true))
	if err != nil || st.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED {
		t.Fatalf("a custodian asks for the seal: %v, %v", st, err)
	}
	for _, who := range []string{"governor", "operator", "auditor"} {
		_, err := w.call(t, 0, who, "Access.WhoAmI", &kryptonv1.WhoAmIRequest{})
		if codeOf(err) != errs.Sealed {
			t.Errorf("a %s hears %v from a node without a registry, want that it is sealed", who, err)
		}
	}
	if _, err = whoami(t, w.as(0, ca.leaf(nil, ca.uri("acme", "app")))); codeOf(err) != errs.Sealed {
		t.Errorf("a workload of another CA hears %v", err)
	}
	if me, err := whoami(t, w.as(0, ca.named("Erin"))); err != nil || me.GetRole() != kryptonv1.Role_ROLE_CUSTODIAN {
		t.Errorf("a custodian of the company's CA: %v, %v", me, err)
	}
	for _, i := range []int{0, 1} {
		if st, err = w.contribute(t, 0, init.GetShares()[i]); err != nil {
			t.Fatal(err)
		}
	}
	if st.GetState() != kryptonv1.SealState_SEAL_STATE_UNSEALED {
		t.Fatalf("after two shares: %v", st)
	}
}

// keptCallers lists what tls/callers.pem holds, and fails the test if it lets anybody
// in without a role binding.
func keptCallers(t *testing.T, raw []byte) (all []string) {
	t.Helper()
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		name := ""
		switch block.Type {
		case "KRYPTON ISSUER":
			i := &fsmpb.Issuer{}
			if err := proto.Unmarshal(block.Bytes, i); err != nil || len(i.GetUnboundRoles()) != 0 {
				t.Errorf("issuer %v, %v", i, err)
			}
			name = i.GetId()
		case "KRYPTON ROLE BINDING":
			b := &fsmpb.RoleBinding{}
			if err := proto.Unmarshal(block.Bytes, b); err != nil || b.GetRole() != "custodian" {
				t.Errorf("role binding %v, %v", b, err)
			}
			name = b.GetId()
		}
		all = append(all, block.Type+" "+name)
	}
	return all
}

// TestAClusterThatIsRaisedKeepsItsCallers until its governors say that every
// certificate needs a role binding.
func TestAClusterThatIsRaisedKeepsItsCallers(t *testing.T) {
	t.Parallel()
	w := newWorldOf(t, founding{format: fsm.FormatAuthority - 1}, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	bob, _ := newKey(t)
	late, err := w.issueTo(&kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "bob"}, bob)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := whoami(t, w.as(0, late)); err != nil {
		t.Fatalf("a governor by the certificate alone: %v", err)
	}
	_, err = w.access(0).ListRoleBindings(limited(t), &kryptonv1.ListRoleBindingsRequest{})
	if err != nil {
		t.Errorf("no role bindings yet: %v", err)
	}
	_, err = w.access(0).CreateRoleBinding(limited(t), &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_AUDITOR, Member: "x", Keys: tlsKey(spki(t))}})
	if codeOf(err) != errs.FailedState {
		t.Errorf("a role binding before there are any: %v", err)
	}

	w.members[0].close()
	w.hangUp()
	w.format = fsm.MaxFormatVersion
	w.members[0] = w.start("n1")
	until(t, "the format version is raised", func() error {
		if f := w.members[0].state.View().Cluster().GetFormatVersion(); f != fsm.MaxFormatVersion {
			return errs.New(errs.NotFound, "not yet")
		}
		return nil
	})
	w.members[0].waitServing()
	h := w.holder("app", w.people["workload/acme"])
	for _, who := range []string{"governor", "custodian", "operator", "auditor"} {
		if _, err := whoami(t, w.grpc(0, who)); err != nil {
			t.Errorf("the %s of before: %v", who, err)
		}
	}
	_, err = whoami(t, w.as(0, late)) // whose power no registry knew of
	says(t, "identity/unbound", err)
	if _, err := w.call(t, 0, "governor", "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: "more"}); err != nil {
		t.Errorf("the governor of before governs a tenant of before: %v", err)
	}
	// Whoever is bound now goes on afterwards.
	kept := w.issue("auditor", "", 0)
	builtin, err := w.access(0).GetIssuer(limited(t), &kryptonv1.GetIssuerRequest{Name: "issuers/builtin"})
	if err != nil || len(builtin.GetUnboundRoles()) != 3 {
		t.Fatalf("builtin is %v, %v", builtin, err)
	}
	builtin.UnboundRoles = nil
	if _, err := w.access(0).UpdateIssuer(limited(t), &kryptonv1.UpdateIssuerRequest{Name: "issuers/builtin", Issuer: builtin, Etag: builtin.GetEtag()}); err != nil {
		t.Fatal(err)
	}
	h.ended("identity/unbound")
	_, err = whoami(t, w.grpc(0, "operator"))
	says(t, "identity/unbound", err)
	for _, cc := range []*grpc.ClientConn{w.as(0, kept), w.grpc(0, "governor"), w.grpc(0, "custodian")} {
		if _, err := whoami(t, cc); err != nil {
			t.Errorf("who is bound: %v", err)
		}
	}
}

// TestAGovernorGovernsWhatIsTheirs: the platform, or the tenants that list them.
func TestAGovernorGovernsWhatIsTheirs(t *testing.T) {
	t.Parallel()
	w := served(t)
	key, pub := newKey(t)
	w.bind("", "gabi", &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gabi", Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Sign: true, Tls: true}}})
	cert, err := w.issueTo(&kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "gabi"}, key)
	if err != nil {
		t.Fatal(err)
	}
	w.people["gabi"] = cert
	inside := func(tenant string) *kryptonv1.CreateServiceRequest {
		return &kryptonv1.CreateServiceRequest{Parent: tenant, ServiceId: "more", ValidateOnly: true}
	}
	denied := func(who, method string, m proto.Message) {
		t.Helper()
		_, err := w.call(t, 0, who, method, m)
		situationtest.Error(t, "identity/governor-of-something-else", wire.FromStatus(err))
	}
	denied("gabi", "Services.CreateService", inside(acme))
	if _, err := w.call(t, 0, "governor", "Tenants.SetGovernors", &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/gabi"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.call(t, 0, "gabi", "Services.CreateService", inside(acme)); err != nil {
		t.Errorf("whom the tenant lists: %v", err)
	}
	denied("governor", "Services.CreateService", inside(acme)) // the platform, from then on
	denied("governor", "Tenants.SetGovernors", &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/alice"}})
	denied("governor", "Access.IssueCertificate", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: acme, Name: "spy", PublicKey: spki(t)})
	denied("gabi", "Services.CreateService", inside("tenants/other"))
	denied("gabi", "Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "x", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey}})
	denied("gabi", "Access.IssueCertificate", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "spy", PublicKey: spki(t)})
	denied("gabi", "Access.DeleteRoleBinding", &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/alice"})
	me, err := whoami(t, w.grpc(0, "gabi"))
	if err != nil || me.GetPlatform() || !slices.Equal(me.GetGoverns(), []string{acme}) {
		t.Errorf("gabi is %v, %v", me, err)
	}
	// The platform suspends every tenant: that only takes power away.
	if _, err := w.call(t, 0, "governor", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: acme}); err != nil {
		t.Errorf("the platform suspends a tenant: %v", err)
	}
}
