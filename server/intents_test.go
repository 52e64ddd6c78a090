package server_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// signing is a cluster in which people sign.
type signing struct {
	*world

	keys  map[string]*ecdsa.PrivateKey // of governors and custodians
	table map[string][]binding         // of HTTP
	ops   map[string]*openapi3.Operation

	forgot uint64 // index at which the leader forgot what had expired
}

// quorums are how many sign.
type quorums struct{ governors, custodians uint32 }

// newSigning makes a cluster whose governors are alice, bob and dave, who are of
// the platform, and whose custodians are carol and erin.
func newSigning(t testing.TB, n int, q quorums) *signing {
	t.Helper()
	a := &signing{world: newWorld(t, n), keys: map[string]*ecdsa.PrivateKey{}, table: httpTable(t)}
	a.waits = true
	req, _, _ := a.plan(kryptonv1.SealMode_SEAL_MODE_AUTO)
	req.GovernorQuorum, req.CustodianQuorum = q.governors, q.custodians
	people := func(names ...string) (out []*kryptonv1.PersonKey) {
		for _, name := range names {
			key, pub := newKey(t)
			a.keys[name] = key
			out = append(out, &kryptonv1.PersonKey{Name: name, PublicKey: pub})
		}
		return out
	}
	req.Governors, req.Custodians = people("alice", "bob", "dave"), people("carol", "erin")
	resp, err := a.members[0].admin().Init(limited(t), req, grpc.WaitForReady(true))
	if err != nil {
		t.Fatalf("init: %v", err)
	}
	a.ca = resp.GetCa()
	for _, c := range resp.GetCertificates() {
		a.people[c.GetName()] = certificate(t, c.GetCertificate(), a.keys[c.GetName()])
	}
	a.members[0].waitServing()
	return a
}

// makes returns the signatures of persons over in.
func (a *signing) makes(in intent.Intent, by ...string) (out []*kryptonv1.SignedIntent) {
	a.t.Helper()
	raw, err := in.Encode()
	if err != nil {
		a.t.Fatal(err)
	}
	for _, who := range by {
		s, err := sign.Sign(rand.Reader, a.keys[who], in)
		if err != nil {
			a.t.Fatal(err)
		}
		out = append(out, &kryptonv1.SignedIntent{Intent: raw, KeyId: s.Key[:], Signature: s.Sig})
	}
	return out
}

// over returns the intent that orders r in this cluster for an hour.
func (a *signing) over(r *intent.Request) intent.Intent {
	a.t.Helper()
	nonce, err := sign.Nonce(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return intent.Intent{
		Keyspace: hierarchy.KeyspaceID(a.members[0].state.View().Cluster().GetKeyspaceId()),
		Act:      r.Act(), Request: r.Digest(), NotAfter: time.Now().Add(time.Hour).UnixMilli(), Nonce: nonce,
	}
}

func (a *signing) signed(r *intent.Request, by ...string) []*kryptonv1.SignedIntent {
	a.t.Helper()
	return a.makes(a.over(r), by...)
}

// with returns m with these intents and a request id of its own.
func with(m proto.Message, intents []*kryptonv1.SignedIntent) proto.Message {
	m = proto.Clone(m)
	r := m.ProtoReflect()
	fd := r.Descriptor().Fields().ByName("intents")
	r.Clear(fd)
	list := r.Mutable(fd).List()
	for _, s := range intents {
		list.Append(protoreflect.ValueOfMessage(s.ProtoReflect()))
	}
	return withRequestID(m)
}

// refusedBoth asks both doors, and fails the test unless both refuse as the row of
// docs/errors.md says, and nothing changed.
func (a *signing) refusedBoth(t testing.TB, id, who, method string, m proto.Message) {
	t.Helper()
	before := a.members[0].state.View()
	_, err := a.call(t, 0, who, method, m)
	situationtest.Error(t, id, wire.FromStatus(err))
	hr, ok := a.request(t, 0, a.table["krypton.v1."+method], proto.CloneOf(m))
	if !ok {
		t.Fatalf("%s cannot be said in HTTP", method)
	}
	got := a.do(t, who, "h2", hr)
	situationtest.HTTP(t, id, got.status, got.body)
	// The leader forgets role bindings that have expired, by itself and once.
	if after := a.members[0].state.View(); after.AuthorityAt() != before.AuthorityAt() && after.AuthorityAt() != a.forgot {
		if a.forgot != 0 {
			t.Errorf("%s was refused and changed who may what", method)
		}
		a.forgot = after.AuthorityAt()
	}
}

// done has the request made over one of both doors.
func (a *signing) done(t testing.TB, door, who, method string, m proto.Message) proto.Message {
	t.Helper()
	m = withRequestID(m)
	if door == "grpc" {
		out, err := a.call(t, 0, who, method, m)
		if err != nil {
			t.Fatalf("%s by %s: %v", method, who, err)
		}
		return out
	}
	hr, ok := a.request(t, 0, a.table["krypton.v1."+method], m)
	if !ok {
		t.Fatalf("%s cannot be said in HTTP", method)
	}
	if got := a.do(t, who, "h2", hr); got.status != http.StatusOK {
		t.Fatalf("%s by %s over HTTP: %d %s", method, who, got.status, got.body)
	}
	return nil
}

// bindingUID is the uid of a role binding of a person.
func (a *signing) bindingUID(id string) []byte {
	a.t.Helper()
	b, ok := a.members[0].state.View().Binding("", id)
	if !ok {
		a.t.Fatalf("there is no role binding %s", id)
	}
	return b.GetUid()
}

func (a *signing) tenantUID(name string) []byte {
	a.t.Helper()
	t, ok := a.members[0].state.View().Tenant(name)
	if !ok {
		a.t.Fatalf("there is no tenant %s", name)
	}
	return t.GetUid()
}

func (a *signing) issuerUID(tenant, id string) []byte {
	a.t.Helper()
	i, ok := a.members[0].state.View().Issuer(tenant, id)
	if !ok {
		a.t.Fatalf("there is no issuer %s", id)
	}
	return i.GetUid()
}

// governor binds a governor who is not of the platform, with a key of their own.
func (a *signing) governor(name string, until time.Time, by ...string) {
	a.t.Helper()
	key, pub := newKey(a.t)
	a.keys[name] = key
	m := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: name, RoleBinding: &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_GOVERNOR, Member: name, Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Sign: true, Tls: true}},
	}}
	to := intent.BindRole{
		ID: name, IssuerUID: a.issuerUID("", "builtin"), Role: "governor", Name: name,
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(a.t, key), Sign: true, TLS: true}},
	}
	if !until.IsZero() {
		until = until.Truncate(time.Millisecond)
		m.RoleBinding.ExpireTime, to.ExpireTimeMs = timestamppb.New(until), until.UnixMilli()
	}
	a.done(a.t, "grpc", by[0], "Access.CreateRoleBinding", with(m, a.signed(to.Request(), by...)))
}

func rawPoint(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// newTenant makes a tenant that one governor governs, signed by alice.
func (a *signing) newTenant(name, governor string, by ...string) {
	a.t.Helper()
	a.l1(name + "-l1")
	m := &kryptonv1.CreateTenantRequest{
		TenantId: name, Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: name + "-l1"}, Governors: []string{"roleBindings/" + governor},
	}
	r := intent.BindL1{Tenant: name, Keystore: keystoreName, Key: name + "-l1", Archetype: "local", Governors: [][]byte{a.bindingUID(governor)}}.Request()
	a.done(a.t, "grpc", "alice", "Tenants.CreateTenant", with(m, a.signed(r, by...)))
}

// act is a sovereign request: who makes it, what it says, and what people sign of it.
type act struct {
	method string
	who    string
	m      proto.Message
	r      *intent.Request
	by     []string // who signs rightly
	wrong  string   // a governor with a key whose say is not about this
}

// corp is an issuer of certificates with a new CA, and what people sign of it.
func (a *signing) corp(tenant, id string) (*kryptonv1.Issuer, *intent.Request) {
	a.t.Helper()
	der := a.rootCA()
	p := intent.PutIssuer{
		Tenant: tenant, ID: id, X509: &intent.X509Issuer{Certificates: [][]byte{der}, TrustDomain: id + tenant + ".example"},
		Roles: []string{"workload"}, AllTenants: tenant == "",
	}
	if tenant != "" {
		p.TenantUID = a.tenantUID(tenant)
	}
	return &kryptonv1.Issuer{
		Kind: &kryptonv1.Issuer_X509{X509: &kryptonv1.X509Issuer{
			Certificates: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), TrustDomain: id + tenant + ".example",
		}},
		Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}, AllTenants: tenant == "",
	}, p.Request()
}

// acts has every sovereign request of the API. ResumeAfterUnlink has none.
func (a *signing) acts() map[string]act {
	ca := a.rootCA()
	caText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})
	appKey, pub := newKey(a.t)
	key, keyPub := newKey(a.t)
	builtin := a.issuerUID("", "builtin")
	acmeUID := a.tenantUID("acme")
	secret := sha256.Sum256([]byte("a secret of the caller"))
	expires := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	// Each issuer has a CA of its own.
	corp, corpRequest := a.corp("", "corp")
	own, ownRequest := a.corp("acme", "corp")
	old, oldRequest := a.corp("", "old")
	workloadKey, workloadPub := newKey(a.t)
	gone := intent.PutPolicy{Tenant: "acme", TenantUID: acmeUID, ID: "gone", Text: permitAll}.Request()
	a.done(a.t, "grpc", "tess", "Policies.PutPolicy", with(put("gone", permitAll), a.signed(gone, "tess")))
	a.l1("bound-l1")
	later := intent.BindL1{Tenant: "later", Governors: [][]byte{a.bindingUID("tess")}}.Request()
	a.done(a.t, "grpc", "alice", "Tenants.CreateTenant", with(&kryptonv1.CreateTenantRequest{TenantId: "later", Governors: []string{"roleBindings/tess"}}, a.signed(later, "alice")))
	return map[string]act{
		"bind a tenant": {
			"Tenants.BindTenant", "alice",
			&kryptonv1.BindTenantRequest{Name: "tenants/later", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "bound-l1", Archetype: "local"}},
			intent.BindTenant{Tenant: "later", TenantUID: a.tenantUID("later"), Keystore: keystoreName, Key: "bound-l1", Archetype: "local"}.Request(),
			[]string{"alice"},
			"tess",
		},
		"create a tenant": {
			"Tenants.CreateTenant", "alice",
			&kryptonv1.CreateTenantRequest{TenantId: "fresh", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1", Archetype: "local"}, Governors: []string{"roleBindings/tess"}},
			intent.BindL1{Tenant: "fresh", Keystore: keystoreName, Key: "fresh-l1", Archetype: "local", Governors: [][]byte{a.bindingUID("tess")}}.Request(),
			[]string{"alice"},
			"tess",
		},
		"delete a tenant": {
			"Tenants.DeleteTenant", "alice", &kryptonv1.DeleteTenantRequest{Name: "tenants/doomed"},
			intent.Destroy{Tenant: "doomed"}.Request(),
			[]string{"bob"},
			"uma",
		},
		"delete a service": {
			"Services.DeleteService", "tess", &kryptonv1.DeleteServiceRequest{Name: acme + "/services/doomed", Now: true},
			intent.Destroy{Tenant: "acme", Service: "doomed", Now: true}.Request(),
			[]string{"tess"},
			"uma",
		},
		"destroy a version of a service": {
			"Services.DestroyVersion", "tess", &kryptonv1.DestroyVersionRequest{Name: pay + "/versions/1"},
			intent.Destroy{Tenant: "acme", Service: "pay", Version: 1}.Request(),
			[]string{"tess"},
			"alice",
		},
		"destroy a version of a tenant": {
			"Services.DestroyVersion", "tess", &kryptonv1.DestroyVersionRequest{Name: "tenants/bare/versions/1", Now: true},
			intent.Destroy{Tenant: "bare", Version: 1, Now: true}.Request(),
			[]string{"tess"},
			"uma",
		},
		"a join token of a voter": {
			"Cluster.CreateJoinToken", "operator",
			&kryptonv1.CreateJoinTokenRequest{Voter: true, Region: "eu", KeyHash: secret[:], ExpireTime: timestamppb.New(expires)},
			intent.VoterToken{Hash: secret[:], Region: "eu", ExpireTimeMs: expires.UnixMilli()}.Request(),
			[]string{"alice"},
			"tess",
		},
		"create an issuer": {
			"Access.CreateIssuer", "alice", &kryptonv1.CreateIssuerRequest{IssuerId: "corp", Issuer: corp},
			corpRequest,
			[]string{"alice"},
			"tess",
		},
		"create a tenant's own issuer": {
			"Access.CreateIssuer", "tess", &kryptonv1.CreateIssuerRequest{Parent: acme, IssuerId: "corp", Issuer: own},
			ownRequest,
			[]string{"tess"},
			"alice",
		},
		"create an issuer of tokens": {
			"Access.CreateIssuer", "alice", &kryptonv1.CreateIssuerRequest{IssuerId: "idp", Issuer: &kryptonv1.Issuer{
				Kind:  &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: "https://idp.example", Audiences: []string{"krypton", "kr2"}, ClockSkewSeconds: 30, MaxLifeSeconds: 3600, Ca: caText, SubjectClaim: "email"}},
				Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD, kryptonv1.Role_ROLE_OPERATOR}, Tenants: []string{acme},
			}},
			intent.PutIssuer{
				ID: "idp", JWT: &intent.JWTIssuer{URL: "https://idp.example", Audiences: []string{"krypton", "kr2"}, SkewMs: 30000, MaxLifeS: 3600, CA: [][]byte{ca}, SubjectClaim: "email"},
				Roles: []string{"operator", "workload"}, TenantUIDs: [][]byte{acmeUID},
			}.Request(),
			[]string{"dave"},
			"tess",
		},
		"change an issuer": {
			"Access.UpdateIssuer", "alice", &kryptonv1.UpdateIssuerRequest{Name: "issuers/old", Issuer: old},
			oldRequest,
			[]string{"alice"},
			"tess",
		},
		"delete an issuer": {
			"Access.DeleteIssuer", "alice", &kryptonv1.DeleteIssuerRequest{Name: "issuers/gone"},
			intent.RemoveIssuer{ID: "gone"}.Request(),
			[]string{"alice"},
			"tess",
		},
		"bind an operator": {
			"Access.CreateRoleBinding", "alice", &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "otto", RoleBinding: &kryptonv1.RoleBinding{
				Role: kryptonv1.Role_ROLE_OPERATOR, Member: "otto", Keys: []*kryptonv1.AuthorityKey{{PublicKey: keyPub, Tls: true}}, ExpireTime: timestamppb.New(expires),
			}},
			intent.BindRole{
				ID: "otto", IssuerUID: builtin, Role: "operator", Name: "otto", ExpireTimeMs: expires.UnixMilli(),
				Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(a.t, key), TLS: true}},
			}.Request(),
			[]string{"alice"},
			"tess",
		},
		"bind a governor": {
			"Access.CreateRoleBinding", "alice", &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "gina", RoleBinding: &kryptonv1.RoleBinding{
				Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gina", Platform: true, Keys: []*kryptonv1.AuthorityKey{{PublicKey: workloadPub, Sign: true, Tls: true}},
			}},
			intent.BindRole{
				ID: "gina", IssuerUID: builtin, Role: "governor", Name: "gina", Platform: true,
				Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(a.t, workloadKey), Sign: true, TLS: true}},
			}.Request(),
			[]string{"alice", "carol"},
			"tess",
		},
		"unbind a governor": {
			"Access.DeleteRoleBinding", "alice", &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/going"},
			intent.UnbindRole{ID: "going", UID: a.bindingUID("going"), Role: "governor"}.Request(),
			[]string{"alice", "erin"},
			"tess",
		},
		"a certificate for a workload": {
			"Access.IssueCertificate", "tess", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: acme, Name: "app", PublicKey: pub},
			intent.BindRole{
				Tenant: "acme", TenantUID: acmeUID, ID: "app", IssuerUID: builtin, Role: "workload", Name: "app",
				Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(a.t, appKey), TLS: true}},
			}.Request(),
			[]string{"tess"},
			"alice",
		},
		"set a policy": {
			"Policies.PutPolicy", "tess", put("fresh", permitRead),
			intent.PutPolicy{Tenant: "acme", TenantUID: acmeUID, ID: "fresh", Text: permitRead}.Request(),
			[]string{"tess"},
			"alice",
		},
		"delete a policy": {
			"Policies.DeletePolicy", "tess", &kryptonv1.DeletePolicyRequest{Name: acme + "/policies/gone"},
			intent.RemovePolicy{Tenant: "acme", ID: "gone"}.Request(),
			[]string{"tess"},
			"uma",
		},
		"governors of a tenant": {
			"Tenants.SetGovernors", "tess", &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/uma", "roleBindings/tess"}},
			intent.SetTenantGovernors{Tenant: "acme", TenantUID: acmeUID, Governors: ascending(a.bindingUID("uma"), a.bindingUID("tess"))}.Request(),
			[]string{"tess"},
			"alice",
		},
	}
}

func ascending(uids ...[]byte) [][]byte {
	slices.SortFunc(uids, bytes.Compare)
	return uids
}

// rootCA makes a CA and returns its certificate.
func (a *signing) rootCA() []byte {
	a.t.Helper()
	key, _ := newKey(a.t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "corp"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// certify has governors issue a certificate for who is bound already, or binds them.
func (a *signing) certify(as string, m *kryptonv1.IssueCertificateRequest, key *ecdsa.PrivateKey, intents []*kryptonv1.SignedIntent) {
	a.t.Helper()
	out := a.done(a.t, "grpc", "alice", "Access.IssueCertificate", with(m, intents)).(*kryptonv1.IssueCertificateResponse)
	a.people[as] = certificate(a.t, out.GetCertificate(), key)
}

// settle makes what [signing.acts] is about: tess governs acme and bare, uma the tenant
// other; nobody of the platform governs a tenant.
func (a *signing) settle() {
	a.t.Helper()
	for _, name := range []string{"tess", "uma", "going"} {
		a.governor(name, time.Time{}, "alice", "carol")
	}
	for _, name := range []string{"tess", "uma"} {
		a.certify(name, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: name, PublicKey: spkiOfKey(a.t, a.keys[name])}, a.keys[name], nil)
	}
	key, pub := newKey(a.t)
	a.certify("operator", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_OPERATOR, Name: "otis", PublicKey: pub}, key, a.signed(intent.BindRole{
		ID: "operator-otis", IssuerUID: a.issuerUID("", "builtin"), Role: "operator", Name: "otis",
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(a.t, key), TLS: true}},
	}.Request(), "alice"))
	for name, governor := range map[string]string{"acme": "tess", "bare": "tess", "other": "uma", "doomed": "uma"} {
		a.newTenant(name, governor, "alice")
	}
	a.l1("fresh-l1")
	a.done(a.t, "grpc", "tess", "Tenants.RotateTenant", &kryptonv1.RotateTenantRequest{Name: "tenants/bare"})
	for _, name := range []string{"pay", "doomed"} {
		a.done(a.t, "grpc", "tess", "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: name})
	}
	a.done(a.t, "grpc", "tess", "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: pay})
	for _, id := range []string{"old", "gone"} {
		der := a.rootCA()
		a.done(a.t, "grpc", "alice", "Access.CreateIssuer", with(&kryptonv1.CreateIssuerRequest{IssuerId: id, Issuer: &kryptonv1.Issuer{
			Kind:       &kryptonv1.Issuer_X509{X509: &kryptonv1.X509Issuer{Certificates: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}},
			Roles:      []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD},
			AllTenants: true,
		}}, a.signed(intent.PutIssuer{ID: id, X509: &intent.X509Issuer{Certificates: [][]byte{der}}, Roles: []string{"workload"}, AllTenants: true}.Request(), "alice")))
	}
}

func spkiOfKey(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// altered returns r with one field of another value.
func altered(r *intent.Request, at int) *intent.Request {
	out := intent.NewRequest(r.Act())
	for i, f := range r.Fields() {
		if i == at {
			f.Text += "x"
			f.Bytes = append(bytes.Clone(f.Bytes), 1)
			f.Uint ^= 1
		}
		switch f.Kind {
		case intent.KindText:
			out.Text(f.Name, f.Text)
		case intent.KindBytes:
			out.Bytes(f.Name, f.Bytes)
		case intent.KindUint:
			out.Uint(f.Name, f.Uint)
		case intent.KindList:
			out.List(f.Name, int(f.Uint))
		}
	}
	return out
}

// TestEverySovereignRequestNeedsTheRightSignatures makes each of them with every
// signature that must not count, at both doors, and then with the right one.
func TestEverySovereignRequestNeedsTheRightSignatures(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 1, quorums{1, 1})
	a.settle()
	end := time.Now().Add(2 * time.Second)
	a.governor("late", end, "alice", "carol")
	a.keys["stranger"], _ = newKey(t)
	until(t, "a role binding has expired", func() error {
		if time.Now().Before(end) {
			return errors.New("not yet")
		}
		return nil
	})
	acts := a.acts()
	covered := map[string]bool{}
	for i, name := range slices.Sorted(maps.Keys(acts)) {
		c := acts[name]
		covered[c.method] = true
		t.Run(name, func(t *testing.T) {
			no := func(id string, intents []*kryptonv1.SignedIntent) {
				t.Helper()
				a.refusedBoth(t, id, c.who, c.method, with(c.m, intents))
			}
			no("intent/unsigned", nil)
			instead := func(who string) []string { return append([]string{who}, c.by[1:]...) } // of the governor
			if len(c.by) > 1 {
				no("intent/too-few", a.signed(c.r, "carol"))
				no("intent/too-few", a.signed(c.r, c.by[0]))
			} else {
				no("intent/wrong-role", a.signed(c.r, "carol"))
				no("intent/wrong-role", a.signed(c.r, c.by[0], "carol")) // a set that says more than it proves
			}
			no("intent/wrong-role", a.signed(c.r, instead(c.wrong)...))
			no("intent/unknown-key", a.signed(c.r, instead("stranger")...))
			no("intent/unknown-key", a.signed(c.r, instead("late")...))
			no("intent/one-person-twice", a.signed(c.r, append(slices.Clone(c.by), c.by[0])...))

			bad := a.signed(c.r, c.by...)
			bad[0] = proto.CloneOf(bad[0])
			bad[0].Signature = a.signed(c.r, c.by[0])[0].GetSignature() // the right key, over another nonce
			no("intent/bad-signature", bad)

			change := func(id string, f func(in *intent.Intent)) {
				t.Helper()
				in := a.over(c.r)
				f(&in)
				no(id, a.makes(in, c.by...))
			}
			change("intent/other-keyspace", func(in *intent.Intent) { in.Keyspace[0] ^= 1 })
			for _, other := range intent.Acts() {
				if other != c.r.Act() {
					change("intent/other-act", func(in *intent.Intent) { in.Act = other })
				}
			}
			for at := range c.r.Fields() {
				change("intent/other-request", func(in *intent.Intent) { in.Request = altered(c.r, at).Digest() })
			}
			change("intent/expired", func(in *intent.Intent) { in.NotAfter = time.Now().Add(-time.Second).UnixMilli() })
			change("intent/too-long", func(in *intent.Intent) {
				in.NotAfter = time.Now().Add(intent.MaxLifetimeMs*time.Millisecond + time.Minute).UnixMilli()
			})
			change("intent/changed-state", func(in *intent.Intent) {
				in.Preconditions = []intent.Precondition{{Object: "tenants/acme", ModIndex: 1}}
			})

			// Now the right ones, with a condition that holds and nearly the longest life.
			in := a.over(c.r)
			in.NotAfter = time.Now().Add(intent.MaxLifetimeMs*time.Millisecond - time.Minute).UnixMilli()
			v := a.members[0].state.View()
			other, _ := v.Tenant("other")
			in.Preconditions = []intent.Precondition{{Object: "tenants/none", ModIndex: 0}, {Object: "tenants/other", ModIndex: other.GetModIndex()}}
			right := a.makes(in, c.by...)
			a.done(t, []string{"grpc", "http"}[i%2], c.who, c.method, with(c.m, right))
			if name == "governors of a tenant" || name == "change an issuer" {
				// The same once more changes nothing, and is no less refused.
				no("intent/replayed", right)
			}
		})
	}
	for method := range sovereign(t) {
		// A member gets a vote and loses it in a cluster of two, below.
		if !covered[method] && method != "Cluster.PromoteNode" && method != "Cluster.DemoteNode" && method != "Cluster.RemoveNode" && method != "Access.DeleteRoleBinding" && method != "Cluster.SetQuorum" && method != "Access.ReplaceAuthority" && method != "Access.RetireAuthority" { // the last in approvals_test.go and authorities_test.go
			t.Errorf("%s takes intents and is not tested", method)
		}
	}

	gina := a.done(t, "grpc", "alice", "Access.GetRoleBinding", &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/gina"}).(*kryptonv1.RoleBinding)
	if got := gina.GetAuthorizedBy(); !slices.Equal(got, []string{"custodian/carol", "governor/alice"}) {
		t.Errorf("the role binding says that %q signed", got)
	}
	corp := a.done(t, "grpc", "alice", "Access.GetIssuer", &kryptonv1.GetIssuerRequest{Name: "issuers/idp"}).(*kryptonv1.Issuer)
	if got := corp.GetAuthorizedBy(); !slices.Equal(got, []string{"governor/dave"}) {
		t.Errorf("the issuer says that %q signed", got)
	}
}

// sovereign returns the methods whose requests take intents.
func sovereign(t testing.TB) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, sd := range services() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(sd.ServiceName))
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.(protoreflect.ServiceDescriptor).Methods().Len() {
			m := d.(protoreflect.ServiceDescriptor).Methods().Get(i)
			if m.Input().Fields().ByName("intents") != nil {
				out[strings.TrimPrefix(sd.ServiceName, "krypton.v1.")+"."+string(m.Name())] = true
			}
		}
	}
	if len(out) < 13 {
		t.Fatalf("%d methods take intents, want 13 at least", len(out))
	}
	return out
}

// TestMalformedSignaturesAreRefusedBeforeAnythingIsAsked of the registry.
func TestMalformedSignaturesAreRefusedBeforeAnythingIsAsked(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 1, quorums{1, 1})
	r := intent.RemoveIssuer{ID: "none"}.Request()
	m := &kryptonv1.DeleteIssuerRequest{Name: "issuers/none"}
	good := func() []*kryptonv1.SignedIntent { return a.signed(r, "alice") }
	for name, tc := range map[string]struct {
		id     string
		change func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent
	}{
		"short key id": {"intent/key-id", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			s[0].KeyId = s[0].GetKeyId()[1:]
			return s
		}},
		"no signature": {"intent/signature-size", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			s[0].Signature = nil
			return s
		}},
		"long signature": {"intent/signature-size", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			s[0].Signature = make([]byte, intent.MaxSignature+1)
			return s
		}},
		"no intent": {"intent/unreadable", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			s[0].Intent = nil
			return s
		}},
		"a byte too many": {"intent/unreadable", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			s[0].Intent = append(s[0].GetIntent(), 0)
			return s
		}},
		"too long": {"intent/unreadable", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			s[0].Intent = make([]byte, intent.MaxEncoded+1)
			return s
		}},
		"two intents": {"intent/two-intents", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			return append(s, a.signed(r, "bob")...)
		}},
		"too many": {"intent/too-many", func(s []*kryptonv1.SignedIntent) []*kryptonv1.SignedIntent {
			for len(s) <= intent.MaxSignatures {
				s = append(s, s[0])
			}
			return s
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a.refusedBoth(t, tc.id, "alice", "Access.DeleteIssuer", with(m, tc.change(good())))
		})
	}
}

// TestFourEyesAreOthersThanWhoAsks with a quorum of two.
func TestFourEyesAreOthersThanWhoAsks(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 1, quorums{2, 1})
	key, pub := newKey(t)
	m := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "otto", RoleBinding: &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_OPERATOR, Member: "otto", Keys: []*kryptonv1.AuthorityKey{{PublicKey: pub, Tls: true}},
	}}
	r := intent.BindRole{
		ID: "otto", IssuerUID: a.issuerUID("", "builtin"), Role: "operator", Name: "otto",
		Keys: []intent.BoundKey{{Algorithm: uint64(intent.AlgECDSAP256SHA256), PublicKey: rawPoint(t, key), TLS: true}},
	}.Request()
	no := func(id string, by ...string) {
		t.Helper()
		a.refusedBoth(t, id, "alice", "Access.CreateRoleBinding", with(m, a.signed(r, by...)))
	}
	no("intent/unsigned")
	no("intent/requester-signed", "alice")
	no("intent/requester-signed", "alice", "bob")
	no("intent/requester-signed", "bob", "dave", "alice")
	no("intent/too-few", "bob")
	no("intent/one-person-twice", "bob", "bob")
	no("intent/wrong-role", "bob", "carol")

	// Others signed for alice. Somebody else cannot use it if they signed themselves.
	two := a.signed(r, "bob", "dave")
	a.refusedBoth(t, "intent/requester-signed", "bob", "Access.CreateRoleBinding", with(m, two))
	req := with(m, two)
	a.done(t, "http", "alice", "Access.CreateRoleBinding", req)
	// A retry, also with other signatures, is the same request.
	again := proto.CloneOf(req).(*kryptonv1.CreateRoleBindingRequest)
	again.Intents = nil
	out := a.done(t, "grpc", "alice", "Access.CreateRoleBinding", again).(*kryptonv1.RoleBinding)
	if got := out.GetAuthorizedBy(); !slices.Equal(got, []string{"governor/bob", "governor/dave"}) {
		t.Errorf("the role binding says that %q signed", got)
	}
	info := a.done(t, "grpc", "alice", "Cluster.GetCluster", &kryptonv1.GetClusterRequest{}).(*kryptonv1.ClusterInfo)
	want := map[string]string{
		"destroy": "2+0 false", "bind-role": "2+0 false", "set-authority-keys": "2+1 false", "rekey": "0+1 true", "reshare": "0+1 true", "set-quorum": "2+1 false",
	}
	for _, rule := range info.GetRules() {
		if w, ok := want[rule.GetAct()]; ok && w != fmt.Sprintf("%d+%d %v", rule.GetGovernors(), rule.GetCustodians(), rule.GetRequesterCounts()) {
			t.Errorf("the cluster says its rule is %v, want %s", rule, w)
		}
		delete(want, rule.GetAct())
	}
	if len(want) > 0 || info.GetKeyspaceId() == "" || len(info.GetRules()) != len(intent.Acts()) {
		t.Errorf("the cluster does not say the rules of %v; it has %d", want, len(info.GetRules()))
	}
}

// TestANonceIsSpentForGood over a restart of the node, and a member is a voter only
// with signatures.
func TestANonceIsSpentForGood(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 2, quorums{1, 1})
	a.settle()
	ctx := limited(t)
	token := a.done(t, "grpc", "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{}).(*kryptonv1.CreateJoinTokenResponse)
	if _, err := a.members[1].admin().Join(ctx, &kryptonv1.JoinRequest{Token: token.GetToken()}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	id := string(a.members[1].c.NodeID())
	member, ok := a.members[0].state.View().Member(id)
	if !ok {
		t.Fatal("the member that joined is not there")
	}
	promote := &kryptonv1.PromoteNodeRequest{Name: "nodes/" + id}
	r := intent.VoterPromotion{Node: id, PublicKey: member.GetPublicKey()}.Request()
	a.refusedBoth(t, "intent/unsigned", "operator", "Cluster.PromoteNode", with(promote, nil))
	a.refusedBoth(t, "intent/other-request", "operator", "Cluster.PromoteNode", with(promote, a.signed(altered(r, 1), "alice")))
	a.refusedBoth(t, "intent/wrong-role", "operator", "Cluster.PromoteNode", with(promote, a.signed(r, "tess")))

	set := &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/tess"}}
	spent := a.signed(intent.SetTenantGovernors{Tenant: "acme", TenantUID: a.tenantUID("acme"), Governors: [][]byte{a.bindingUID("tess")}}.Request(), "tess")
	a.done(t, "grpc", "tess", "Tenants.SetGovernors", with(set, spent))
	a.refusedBoth(t, "intent/replayed", "tess", "Tenants.SetGovernors", with(set, spent))

	// The other node has it from the log, or from a snapshot; the first has to read it again.
	a.hangUp()
	first := a.members[0]
	name := first.name
	first.close()
	a.members[0] = a.start(name)
	a.members[0].waitServing()
	a.refusedBoth(t, "intent/replayed", "tess", "Tenants.SetGovernors", with(set, spent))
	a.done(t, "http", "operator", "Cluster.PromoteNode", with(promote, a.signed(r, "bob")))

	// Of two voters none is spared without people, whichever way it goes.
	demote, remove := &kryptonv1.DemoteNodeRequest{Name: "nodes/" + id}, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + id}
	demoted, removed := intent.VoterWithdrawal{Op: "demote", Node: id, Voters: 1}.Request(), intent.VoterWithdrawal{Op: "remove", Node: id, Voters: 1}.Request()
	for method, c := range map[string]struct {
		m    proto.Message
		r, o *intent.Request
	}{"Cluster.DemoteNode": {demote, demoted, removed}, "Cluster.RemoveNode": {remove, removed, demoted}} {
		a.refusedBoth(t, "intent/unsigned", "operator", method, with(c.m, nil))
		a.refusedBoth(t, "intent/other-request", "operator", method, with(c.m, a.signed(c.o, "alice")))
		a.refusedBoth(t, "intent/wrong-role", "operator", method, with(c.m, a.signed(c.r, "tess")))
	}
	cl := a.done(t, "grpc", "operator", "Cluster.GetCluster", &kryptonv1.GetClusterRequest{}).(*kryptonv1.ClusterInfo)
	if cl.GetVoters() != 2 || cl.GetVotersAgreed() != 2 {
		t.Errorf("%d voters of %d", cl.GetVoters(), cl.GetVotersAgreed())
	}
	a.done(t, "http", "operator", "Cluster.DemoteNode", with(demote, a.signed(demoted, "alice")))
	a.done(t, "grpc", "operator", "Cluster.RemoveNode", with(remove, nil)) // it has no vote any more
}

// TestATokenOfAVoterHasTheSecretOfItsCaller and not one that a node has seen.
func TestATokenOfAVoterHasTheSecretOfItsCaller(t *testing.T) {
	t.Parallel()
	a := newSigning(t, 2, quorums{1, 1})
	a.settle()
	secret := [32]byte{1, 2, 3}
	hash, expires := cluster.JoinKeyHash(secret), time.Now().Add(time.Hour).Truncate(time.Millisecond)
	m := &kryptonv1.CreateJoinTokenRequest{Voter: true, KeyHash: hash[:], ExpireTime: timestamppb.New(expires)}
	made := a.done(t, "grpc", "operator", "Cluster.CreateJoinToken", with(m, a.signed(intent.VoterToken{Hash: hash[:], ExpireTimeMs: expires.UnixMilli()}.Request(), "alice"))).(*kryptonv1.CreateJoinTokenResponse)
	if !made.GetExpireTime().AsTime().Equal(expires) {
		t.Errorf("the token ends at %s, and %s was signed", made.GetExpireTime().AsTime(), expires)
	}
	_, err := a.members[1].admin().Join(limited(t), &kryptonv1.JoinRequest{Token: made.GetToken()}, grpc.WaitForReady(true))
	if err == nil {
		t.Fatal("a node joined without the secret")
	}
	whole, err := cluster.FillJoinToken(made.GetToken(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.FillJoinToken(whole.Text(), secret); err == nil {
		t.Error("a token that has a secret took another")
	}
	if _, err := a.members[1].admin().Join(limited(t), &kryptonv1.JoinRequest{Token: whole.Text()}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]*kryptonv1.CreateJoinTokenRequest{
		"half a hash":        {KeyHash: hash[1:]},
		"in the past":        {ExpireTime: timestamppb.New(time.Now().Add(-time.Minute))},
		"a day and a minute": {ExpireTime: timestamppb.New(time.Now().Add(24*time.Hour + time.Minute).Truncate(time.Millisecond))},
		"both":               {ExpireTime: timestamppb.New(expires), TtlSeconds: 60},
		"microseconds":       {ExpireTime: timestamppb.New(expires.Add(time.Microsecond))},
	} {
		if _, err := a.call(t, 0, "operator", "Cluster.CreateJoinToken", bad); codeOf(err) != errs.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestQuorumsThatNobodyCouldReachAreRefused when the cluster is made.
func TestQuorumsThatNobodyCouldReachAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for name, tc := range map[string]struct {
		q    quorums
		g, c int
		id   string // empty: it can be
	}{
		"nobody signs":                  {q: quorums{0, 0}, g: 1, c: 1},
		"one each":                      {q: quorums{1, 1}, g: 1, c: 1},
		"two of three":                  {q: quorums{2, 1}, g: 3, c: 1},
		"two governors, and one asks":   {q: quorums{2, 1}, g: 2, c: 1, id: "intent/quorum-of-others"},
		"two of one":                    {q: quorums{2, 0}, g: 1, c: 1, id: "intent/quorum-of-others"},
		"two custodians of one":         {q: quorums{1, 2}, g: 2, c: 1, id: "intent/quorum-too-large"},
		"custodians make one ask":       {q: quorums{1, 2}, g: 1, c: 2, id: "intent/quorum-of-others"},
		"two custodians, two governors": {q: quorums{1, 2}, g: 2, c: 2},
		"more than a rule can ask for":  {q: quorums{intent.MaxRule + 1, 1}, g: 20, c: 1, id: "intent/quorum-range"},
		"a number that overflows":       {q: quorums{1, 1<<32 - 1}, g: 1, c: 1, id: "intent/quorum-range"},
	} {
		t.Run(name, func(t *testing.T) {
			req, _, _ := w.plan(kryptonv1.SealMode_SEAL_MODE_AUTO)
			req.Governors, req.Custodians, req.ValidateOnly = nil, nil, true
			for i := range tc.g {
				_, pub := newKey(t)
				req.Governors = append(req.Governors, &kryptonv1.PersonKey{Name: fmt.Sprintf("g%d", i), PublicKey: pub})
			}
			for i := range tc.c {
				_, pub := newKey(t)
				req.Custodians = append(req.Custodians, &kryptonv1.PersonKey{Name: fmt.Sprintf("c%d", i), PublicKey: pub})
			}
			req.GovernorQuorum, req.CustodianQuorum = tc.q.governors, tc.q.custodians
			_, err := w.members[0].admin().Init(limited(t), req, grpc.WaitForReady(true))
			if tc.id == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			situationtest.Error(t, tc.id, wire.FromStatus(err))
		})
	}
}
