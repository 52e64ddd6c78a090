package server_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/server"
)

// TestWrongNames goes through everything that can be wrong with what requests
// name.
func TestWrongNames(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for _, c := range wrongNames(g) {
		g.refuse(t, c)
	}
	g.noTrace(t)
}

func wrongNames(g *ground) []wrong {
	const gov, op = "governor", "operator"
	tenant := func(id, name string, d reach) wrong {
		return wrong{id, gov, "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: name}, d}
	}
	version := func(id, name string, d reach) wrong {
		return wrong{id, gov, "Services.DisableVersion", &kryptonv1.DisableVersionRequest{Name: name}, d}
	}
	resource := func(id, name string, d reach) wrong {
		return wrong{id, gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: name}, d}
	}
	service := func(id, parent, name string, d reach) wrong {
		return wrong{id, gov, "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: parent, ServiceId: name}, d}
	}
	create := func(id, name string) wrong {
		return wrong{id, gov, "Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: name, Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey}}, everyDoor}
	}
	long := strings.Repeat("n", hierarchy.MaxNameBytes+1)
	nobody := strings.Repeat("0", 32)
	return []wrong{
		tenant("request/name-missing", "", onlyGRPC),
		service("request/name-missing", "", "x", onlyGRPC),
		{"request/name-missing", "workload/acme", "Crypto.Encrypt", &kryptonv1.EncryptRequest{Plaintext: g.canary}, onlyGRPC},
		tenant("request/name-not-of-an-object", g.text, onlyGRPC),
		tenant("request/name-not-of-an-object", strings.Repeat("tenants/", 1000), onlyGRPC),
		tenant("request/name-not-of-an-object", "tenants/acme/", onlyGRPC),
		tenant("request/name-not-of-an-object", "/tenants/acme", onlyGRPC),
		tenant("request/name-of-another-kind", pay, onlyGRPC),
		tenant("request/name-of-another-kind", "cluster", onlyGRPC),
		version("request/name-of-another-kind", acme, onlyGRPC),
		service("request/name-of-another-kind", pay, "x", onlyGRPC),
		tenant("request/name-first-character", "tenants/"+g.text, everyDoor),
		tenant("request/name-first-character", "tenants/1a", everyDoor),
		tenant("request/name-character", "tenants/a_b", everyDoor),
		tenant("request/name-character", "tenants/a\x00b", everyDoor),
		tenant("request/name-character", "tenants/acme\u00e9", everyDoor),
		tenant("request/name-last-character", "tenants/acme-", everyDoor),
		tenant("request/name-too-long", "tenants/"+long, everyDoor),
		tenant("request/name-empty", "tenants/", onlyGRPC),
		create("request/name-first-character", g.text),
		create("request/name-character", "a/b"),
		create("request/name-last-character", "a-"),
		create("request/name-too-long", long),
		create("request/name-empty", ""),
		service("request/name-empty", acme, "", everyDoor),
		service("request/name-too-long", acme, long, everyDoor),
		version("request/version-not-a-number", pay+"/versions/0", everyDoor),
		version("request/version-not-a-number", pay+"/versions/01", everyDoor),
		version("request/version-not-a-number", pay+"/versions/-1", everyDoor),
		version("request/version-not-a-number", pay+"/versions/1e1", everyDoor),
		version("request/version-not-a-number", pay+"/versions/"+g.text, everyDoor),
		version("request/version-not-a-number", pay+"/versions/18446744073709551616", everyDoor),
		resource("request/resource-in-name-empty", pay+"/resources/", onlyGRPC),
		resource("request/resource-in-name-encoding", pay+"/resources/%41", everyDoor),
		resource("request/resource-in-name-encoding", pay+"/resources/%2f", everyDoor),
		resource("request/resource-in-name-encoding", pay+"/resources/a%", everyDoor),
		resource("request/resource-in-name-encoding", pay+"/resources/a b", everyDoor),
		resource("request/resource-in-name-not-utf8", pay+"/resources/%FF", everyDoor),
		resource("request/resource-in-name-too-long", pay+"/resources/"+strings.Repeat("r", hierarchy.MaxResourceIDBytes+1), everyDoor),
		resource("request/resource-in-name-relative", pay+"/resources/..", everyDoor),
		{"request/node-name", op, "Cluster.DemoteNode", &kryptonv1.DemoteNodeRequest{Name: "nodes/" + g.text}, everyDoor},
		{"request/node-name", op, "Cluster.GetNode", &kryptonv1.GetNodeRequest{}, onlyGRPC},
		{"request/node-name", op, "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{Target: nobody}, everyDoor},
		{"request/operation-name", gov, "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: "operations/" + g.text}, everyDoor},
		{"request/operation-name", gov, "Cluster.WaitOperation", &kryptonv1.WaitOperationRequest{Name: "operations/" + nobody}, everyDoor},

		// What does not exist, and what somebody may not know of, is one answer.
		tenant("request/object-unknown", "tenants/ghost", everyDoor),
		service("request/object-unknown", "tenants/ghost", "x", everyDoor),
		version("request/object-unknown", acme+"/services/none/versions/1", everyDoor),
		version("request/object-unknown", pay+"/versions/99999999999", everyDoor),
		version("request/version-unknown", pay+"/versions/9", everyDoor),
		resource("request/object-unknown", acme+"/services/none/resources/r", everyDoor),
		{"request/object-unknown", gov, "Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/ghost", Now: true}, everyDoor},
		{"request/object-unknown", gov, "Services.GetVersion", &kryptonv1.GetVersionRequest{Name: pay + "/versions/9"}, everyDoor},
		{"request/object-unknown", gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: acme + "/services/none"}, everyDoor},
		{"request/object-unknown", gov, "Tenants.RollbackTenant", &kryptonv1.RollbackTenantRequest{Name: "tenants/ghost"}, everyDoor},
		{"request/object-unknown", "workload/acme", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/other"}, everyDoor},
		{"request/object-unknown", "workload/acme", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/ghost"}, everyDoor},
		{"request/object-unknown", "workload/acme", "Services.GetService", &kryptonv1.GetServiceRequest{Name: "tenants/other/services/pay"}, everyDoor},
		{"request/object-unknown", "workload/acme", "Services.GetService", &kryptonv1.GetServiceRequest{Name: acme + "/services/none"}, everyDoor},
		{"request/object-unknown", "workload/acme", "Services.ListResources", &kryptonv1.ListResourcesRequest{Parent: "tenants/other/services/pay"}, everyDoor},
		{"request/object-unknown", "workload/acme", "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/other"}, everyDoor},
		{"request/object-unknown", op, "Cluster.GetNode", &kryptonv1.GetNodeRequest{Name: "nodes/" + nobody}, everyDoor},
		{"request/object-unknown", op, "Cluster.RemoveNode", &kryptonv1.RemoveNodeRequest{Name: "nodes/" + nobody}, everyDoor},
		{"request/object-unknown", op, "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{Target: "nodes/" + nobody}, everyDoor},
		{"request/object-unknown", gov, "Cluster.GetOperation", &kryptonv1.GetOperationRequest{Name: "operations/" + uuid.NewString()}, everyDoor},
		{"request/object-unknown", gov, "Access.IssueCertificate", issue(g, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: "tenants/ghost", Name: "w"}), everyDoor},
	}
}

func issue(g *ground, m *kryptonv1.IssueCertificateRequest) *kryptonv1.IssueCertificateRequest {
	if m.GetPublicKey() == nil {
		_, m.PublicKey = newKey(g.t)
	}
	return m
}

// TestWrongFields goes through everything that can be wrong with the other
// fields of requests.
func TestWrongFields(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for _, c := range wrongFields(g) {
		g.refuse(t, c)
	}
	g.noTrace(t)
}

func wrongFields(g *ground) []wrong {
	const gov, op = "governor", "operator"
	suspend := func(id string, m *kryptonv1.SuspendTenantRequest) wrong {
		m.Name = acme
		return wrong{id, gov, "Tenants.SuspendTenant", m, everyDoor}
	}
	list := func(id string, m *kryptonv1.ListTenantsRequest) wrong {
		return wrong{id, gov, "Tenants.ListTenants", m, everyDoor}
	}
	bind := func(id string, b *kryptonv1.Binding) wrong {
		return wrong{id, gov, "Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "fresh", Binding: b}, everyDoor}
	}
	cert := func(id string, m *kryptonv1.IssueCertificateRequest) wrong {
		return wrong{id, gov, "Access.IssueCertificate", issue(g, m), everyDoor}
	}
	token := func(m proto.Message) string {
		return m.ProtoReflect().Get(m.ProtoReflect().Descriptor().Fields().ByName("next_page_token")).String()
	}
	ofTenants := token(g.must(gov, "Tenants.ListTenants", &kryptonv1.ListTenantsRequest{PageSize: 1}))
	ofServices := token(g.must(gov, "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: acme, PageSize: 1}))
	self := string(g.members[0].c.NodeID())
	const auditor = kryptonv1.Role_ROLE_AUDITOR
	return []wrong{
		suspend("request/request-id-malformed", &kryptonv1.SuspendTenantRequest{RequestId: g.text}),
		suspend("request/request-id-malformed", &kryptonv1.SuspendTenantRequest{RequestId: strings.ReplaceAll(uuid.NewString(), "-", "")}),
		suspend("request/request-id-malformed", &kryptonv1.SuspendTenantRequest{RequestId: "urn:uuid:" + uuid.NewString()}),
		cert("request/request-id-malformed", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", RequestId: "7"}),
		{"request/request-id-malformed", "custodian", "Seal.SealNode", &kryptonv1.SealNodeRequest{RequestId: "7"}, everyDoor},
		{"request/request-id-malformed", op, "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{RequestId: "7"}, everyDoor},
		suspend("request/etag-malformed", &kryptonv1.SuspendTenantRequest{Etag: g.text}),
		suspend("request/etag-malformed", &kryptonv1.SuspendTenantRequest{Etag: "1"}),
		suspend("request/etag-malformed", &kryptonv1.SuspendTenantRequest{Etag: `"01"`}),
		suspend("request/etag-malformed", &kryptonv1.SuspendTenantRequest{Etag: `"0"`}),
		suspend("request/etag-malformed", &kryptonv1.SuspendTenantRequest{Etag: `"18446744073709551616"`}),
		suspend("request/etag-malformed", &kryptonv1.SuspendTenantRequest{Etag: `W/"1"`}),
		suspend("request/etag-stale", &kryptonv1.SuspendTenantRequest{Etag: `"1"`}),
		suspend("request/etag-stale", &kryptonv1.SuspendTenantRequest{Etag: `"18446744073709551615"`}),
		{"request/etag-stale", gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: pay, Etag: `"1"`}, everyDoor},
		{"request/etag-stale", gov, "Services.DisableVersion", &kryptonv1.DisableVersionRequest{Name: states + "/versions/7", Etag: `"1"`}, everyDoor},
		{"request/etag-stale", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: states + "/resources/held", Version: 7, Etag: `"1"`}, everyDoor},
		{"request/etag-stale", op, "Cluster.DemoteNode", &kryptonv1.DemoteNodeRequest{Name: "nodes/" + self, Etag: `"99999"`}, everyDoor},

		list("request/page-size", &kryptonv1.ListTenantsRequest{PageSize: server.MaxPage + 1}),
		list("request/page-size", &kryptonv1.ListTenantsRequest{PageSize: 1<<32 - 1}),
		list("request/page-token", &kryptonv1.ListTenantsRequest{PageToken: g.text}),
		list("request/page-token", &kryptonv1.ListTenantsRequest{PageToken: base64.StdEncoding.EncodeToString([]byte("acme"))}),
		list("request/page-token-of-another-list", &kryptonv1.ListTenantsRequest{PageToken: ofServices}),
		list("request/page-token-of-another-list", &kryptonv1.ListTenantsRequest{PageToken: ofTenants, Filter: "state=ACTIVE"}),
		{"request/page-token-of-another-list", gov, "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: "tenants/other", PageToken: ofServices}, everyDoor},
		{"request/page-token-of-another-list", gov, "Services.ListResources", &kryptonv1.ListResourcesRequest{Parent: pay, PageToken: ofServices}, everyDoor},
		list("request/filter", &kryptonv1.ListTenantsRequest{Filter: g.text}),
		list("request/filter", &kryptonv1.ListTenantsRequest{Filter: "state=UNSPECIFIED"}),
		list("request/filter", &kryptonv1.ListTenantsRequest{Filter: "state=active"}),

		{"request/binding-missing", gov, "Tenants.BindTenant", &kryptonv1.BindTenantRequest{Name: "tenants/unbound"}, everyDoor},
		bind("request/binding-missing", &kryptonv1.Binding{Keystore: keystoreName}),
		bind("request/binding-missing", &kryptonv1.Binding{Key: sealKey}),
		bind("request/binding-version", &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey, KeyVersion: "1"}),
		bind("request/binding-too-long", &kryptonv1.Binding{Keystore: strings.Repeat("k", fsm.MaxKeystoreBytes+1), Key: sealKey}),
		bind("request/binding-too-long", &kryptonv1.Binding{Keystore: keystoreName, Key: strings.Repeat("k", fsm.MaxKeyRefBytes+1)}),
		bind("request/binding-keystore-unknown", &kryptonv1.Binding{Keystore: g.text, Key: sealKey}),
		bind("request/binding-key-unknown", &kryptonv1.Binding{Keystore: keystoreName, Key: "no-such-key"}),
		bind("request/binding-key-unknown", &kryptonv1.Binding{Keystore: keystoreName, Key: "../../etc/passwd"}),

		cert("request/role", &kryptonv1.IssueCertificateRequest{Name: "w"}),
		cert("request/role", &kryptonv1.IssueCertificateRequest{Role: 77, Name: "w"}),
		cert("request/role", &kryptonv1.IssueCertificateRequest{Role: -1, Name: "w"}),
		cert("request/role-and-tenant", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Name: "w"}),
		cert("request/role-and-tenant", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", Tenant: acme}),
		cert("request/person-name", &kryptonv1.IssueCertificateRequest{Role: auditor}),
		cert("request/person-name", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: g.text}),
		cert("request/person-name", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: strings.Repeat("n", 64)}),
		cert("request/public-key", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", PublicKey: []byte{}}),
		cert("request/public-key", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", PublicKey: []byte(g.text)}),
		cert("request/public-key-kind", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", PublicKey: p384(g.t)}),
		cert("request/certificate-lifetime", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", TtlSeconds: 59}),
		cert("request/certificate-lifetime", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", TtlSeconds: 30*24*3600 + 1}),
		cert("request/certificate-lifetime", &kryptonv1.IssueCertificateRequest{Role: auditor, Name: "w", TtlSeconds: 1<<32 - 1}),

		{"request/join-token-lifetime", op, "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{TtlSeconds: 24*3600 + 1}, everyDoor},
		{"request/join-token-lifetime", op, "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{TtlSeconds: 1<<32 - 1}, everyDoor},
		{"request/region", op, "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{Region: g.text}, everyDoor},
		{"request/region", op, "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{Region: strings.Repeat("r", 64)}, everyDoor},
		{"request/reason-too-long", "custodian", "Seal.SealNode", &kryptonv1.SealNodeRequest{Cluster: true, Reason: strings.Repeat("r", server.MaxReason+1)}, everyDoor},
		{"request/reason-control-character", "custodian", "Seal.SealNode", &kryptonv1.SealNodeRequest{Cluster: true, Reason: g.text + "\x1b[2J"}, everyDoor},
		{"request/share-missing", "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: self}, everyDoor},
		{"request/share-of-another-node", "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: g.text, SealedShare: g.canary}, everyDoor},
		{"request/share-of-another-node", "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{SealedShare: g.canary}, everyDoor},
		{"request/share-not-needed", "custodian", "Seal.Contribute", &kryptonv1.ContributeRequest{NodeId: self, SealedShare: g.canary}, everyDoor},
	}
}

// TestWrongMoments goes through changes that the state of an object does not
// allow.
func TestWrongMoments(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for _, c := range wrongMoments(g) {
		g.refuse(t, c)
	}
	g.noTrace(t)
}

func wrongMoments(g *ground) []wrong {
	const gov, op = "governor", "operator"
	self := "nodes/" + string(g.members[0].c.NodeID())
	v := func(n string) string { return states + "/versions/" + n }
	idle, doomed, gone := acme+"/services/idle", acme+"/services/doomed", acme+"/services/gone"
	return []wrong{
		{"request/tenant-exists", gov, "Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "acme", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey}}, everyDoor},
		{"request/service-exists", gov, "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: "pay"}, everyDoor},
		{"request/already-so", gov, "Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/idle"}, everyDoor},
		{"request/already-so", gov, "Services.SuspendService", &kryptonv1.SuspendServiceRequest{Name: idle}, everyDoor},
		{"request/already-so", gov, "Services.DisableVersion", &kryptonv1.DisableVersionRequest{Name: v("1")}, everyDoor},
		{"request/already-so", gov, "Services.DeprecateVersion", &kryptonv1.DeprecateVersionRequest{Name: v("2")}, everyDoor},
		{"request/already-so", gov, "Services.CompromiseVersion", &kryptonv1.CompromiseVersionRequest{Name: v("3")}, everyDoor},
		{"request/already-so", gov, "Services.DeleteService", &kryptonv1.DeleteServiceRequest{Name: doomed}, everyDoor},
		{"request/already-so", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: states + "/resources/held", Version: 6}, everyDoor},
		{"request/not-suspended", gov, "Tenants.ResumeTenant", &kryptonv1.ResumeTenantRequest{Name: acme}, everyDoor},
		{"request/not-suspended", gov, "Services.ResumeService", &kryptonv1.ResumeServiceRequest{Name: pay}, everyDoor},
		{"request/not-disabled", gov, "Services.EnableVersion", &kryptonv1.EnableVersionRequest{Name: v("7")}, everyDoor},
		{"request/not-scheduled", gov, "Tenants.UndeleteTenant", &kryptonv1.UndeleteTenantRequest{Name: acme}, everyDoor},
		{"request/not-scheduled", gov, "Services.UndeleteService", &kryptonv1.UndeleteServiceRequest{Name: pay}, everyDoor},
		{"request/not-scheduled", gov, "Services.CancelDestroyVersion", &kryptonv1.CancelDestroyVersionRequest{Name: v("7")}, everyDoor},
		{"request/destroy-scheduled", gov, "Services.EnableVersion", &kryptonv1.EnableVersionRequest{Name: v("4")}, everyDoor},
		{"request/destroy-scheduled", gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: doomed}, everyDoor},
		{"request/destroy-scheduled", gov, "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: "tenants/doomed", ServiceId: "x"}, everyDoor},
		{"request/destroy-scheduled", gov, "Tenants.RotateTenant", &kryptonv1.RotateTenantRequest{Name: "tenants/doomed"}, everyDoor},
		{"request/destroyed", gov, "Tenants.ResumeTenant", &kryptonv1.ResumeTenantRequest{Name: "tenants/gone"}, everyDoor},
		{"request/destroyed", gov, "Tenants.UndeleteTenant", &kryptonv1.UndeleteTenantRequest{Name: "tenants/gone"}, everyDoor},
		{"request/destroyed", gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: gone}, everyDoor},
		{"request/destroyed", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: gone + "/resources/r"}, everyDoor},
		{"request/destroyed", gov, "Services.EnableVersion", &kryptonv1.EnableVersionRequest{Name: v("5")}, everyDoor},
		{"request/destroyed", gov, "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: "tenants/gone", ServiceId: "x"}, everyDoor},
		{"request/suspended", gov, "Tenants.RotateTenant", &kryptonv1.RotateTenantRequest{Name: "tenants/idle"}, everyDoor},
		{"request/suspended", gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: idle}, everyDoor},
		{"request/suspended", gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: "tenants/idle/services/pay"}, everyDoor},
		{"request/suspended", gov, "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: "tenants/idle", ServiceId: "x"}, everyDoor},
		{"request/version-deprecated", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: pin("a"), Version: 2}, everyDoor},
		{"request/version-compromised", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: pin("a"), Version: 3}, everyDoor},
		{"request/version-compromised", gov, "Services.EnableVersion", &kryptonv1.EnableVersionRequest{Name: v("3")}, everyDoor},
		{"request/version-disabled", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: pin("a"), Version: 1}, everyDoor},
		{"request/version-disabled", gov, "Services.RollbackService", &kryptonv1.RollbackServiceRequest{Name: states, Version: 1}, everyDoor},
		{"request/version-unknown", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: pin("a"), Version: 99}, everyDoor},
		{"request/version-unknown", gov, "Services.PinResource", &kryptonv1.PinResourceRequest{Name: pin("a"), Version: 1<<32 - 1}, everyDoor},
		{"request/version-unknown", gov, "Services.RollbackService", &kryptonv1.RollbackServiceRequest{Name: states, Version: 99}, everyDoor},
		{"request/rollback-too-late", gov, "Services.RollbackService", &kryptonv1.RollbackServiceRequest{Name: states, Version: 6}, everyDoor},
		{"request/rollback-too-late", gov, "Services.RollbackService", &kryptonv1.RollbackServiceRequest{Name: states}, everyDoor},
		{"request/rollback-nothing-before", gov, "Services.RollbackService", &kryptonv1.RollbackServiceRequest{Name: pay}, everyDoor},
		{"request/rollback-nothing-before", gov, "Tenants.RollbackTenant", &kryptonv1.RollbackTenantRequest{Name: acme}, everyDoor},
		{"request/resource-not-pinned", gov, "Services.UnpinResource", &kryptonv1.UnpinResourceRequest{Name: pin("a")}, everyDoor},
		{"request/resource-not-pinned", gov, "Services.RollbackResource", &kryptonv1.RollbackResourceRequest{Name: pin("a")}, everyDoor},
		{"request/last-voter", op, "Cluster.DemoteNode", &kryptonv1.DemoteNodeRequest{Name: self}, everyDoor},
		{"request/last-voter", op, "Cluster.RemoveNode", &kryptonv1.RemoveNodeRequest{Name: self}, everyDoor},
		{"request/nobody-to-hand-over-to", op, "Cluster.TransferLeadership", &kryptonv1.TransferLeadershipRequest{}, everyDoor},
	}
}

func pin(resource string) string { return states + "/resources/" + resource }

// TestARequestIDStandsForOneRequest with the same body it is the same answer,
// with another one a refusal; and what was refused stays refused.
func TestARequestIDStandsForOneRequest(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	id := uuid.NewString()
	rotate := &kryptonv1.RotateServiceRequest{Name: pay, RequestId: id}
	first := g.must("governor", "Services.RotateService", rotate)
	situationtest.Outcome(t, "request/repeated")
	for _, again := range []string{id, strings.ToUpper(id)} {
		rotate.RequestId = again
		if got := g.must("governor", "Services.RotateService", rotate); !proto.Equal(first, got) {
			t.Errorf("the same request again made another version: %v", got)
		}
	}
	for _, c := range []struct {
		method string
		req    proto.Message
	}{
		{"Services.RotateService", &kryptonv1.RotateServiceRequest{Name: states, RequestId: id}},
		{"Services.RotateService", &kryptonv1.RotateServiceRequest{Name: pay, RequestId: id, Etag: `"7"`}},
		{"Services.SuspendService", &kryptonv1.SuspendServiceRequest{Name: pay, RequestId: id}},
		{"Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "fresh", RequestId: id, Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey}}},
	} {
		g.refuse(t, wrong{"request/request-id-used", "governor", c.method, c.req, everyDoor})
	}
	// Of another person it is another request.
	g.must("operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{RequestId: id})
	g.refuse(t, wrong{"request/join-token-shown-once", "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{RequestId: id}, everyDoor})
}

// TestAPageTokenIsAPlace that anybody may go on from who may read the list.
func TestAPageTokenIsAPlace(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	situationtest.Outcome(t, "request/page-token-of-somebody-else")
	all := g.must("governor", "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: acme}).(*kryptonv1.ListServicesResponse)
	page := g.must("governor", "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: acme, PageSize: 2}).(*kryptonv1.ListServicesResponse)
	rest := g.must("workload/acme", "Services.ListServices", &kryptonv1.ListServicesRequest{Parent: acme, PageSize: server.MaxPage, PageToken: page.GetNextPageToken()}).(*kryptonv1.ListServicesResponse)
	if got := len(page.GetServices()) + len(rest.GetServices()); got != len(all.GetServices()) || rest.GetServices()[0].GetName() != all.GetServices()[2].GetName() {
		t.Errorf("two pages of two callers have %d services, the list %d", got, len(all.GetServices()))
	}
}

// TestATenantGoesWithItsServices and comes back with them during the wait.
func TestATenantGoesWithItsServices(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	situationtest.Outcome(t, "request/tenant-with-services-deleted")
	g.must("governor", "Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/other"})
	const svc = "tenants/other/services/pay"
	g.refuse(t, wrong{"ciphertext/tenant-destroy-scheduled", "workload/other", "Crypto.Decrypt", &kryptonv1.DecryptRequest{Service: svc, Ciphertext: g.ciphertext[svc]}, everyDoor})
	g.must("governor", "Tenants.UndeleteTenant", &kryptonv1.UndeleteTenantRequest{Name: "tenants/other"})
	g.must("governor", "Tenants.ResumeTenant", &kryptonv1.ResumeTenantRequest{Name: "tenants/other"})
	got := g.must("workload/other", "Crypto.Decrypt", &kryptonv1.DecryptRequest{Service: svc, Ciphertext: g.ciphertext[svc]}).(*kryptonv1.DecryptResponse)
	if !bytes.Equal(got.GetPlaintext(), g.canary) {
		t.Error("what was saved during the wait does not open")
	}
}

// p384 is a public key of a kind that callers do not have.
func p384(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}
