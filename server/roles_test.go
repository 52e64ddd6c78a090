package server_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// permission says which roles may call a method, a letter each: governor,
// custodian, operator, auditor, workload. It is written by hand and not read
// from the gate, so that a slip in the gate's table, or a method that asks for
// the wrong act, is seen.
type permission struct {
	may string
	req proto.Message
	// tenant: the method is about a tenant, so that a workload of another one is
	// told that there is nothing.
	tenant bool
}

// permissions has every method of the public doors. The requests are harmless:
// they validate only, name what does not exist, or are refused for another
// reason once the caller was let in. What is not harmless comes at the end.
func permissions(w *world) (order []string, table map[string]permission) {
	const (
		none = "tenants/acme/services/none"
		v    = none + "/versions/1"
		r    = none + "/resources/r"
		node = "nodes/00000000000000000000000000000000"
		op   = "operations/00000000-0000-4000-8000-000000000000"
	)
	self := string(w.members[0].c.NodeID())
	t := map[string]permission{
		"Crypto.GenerateDataKey": {"w", &kryptonv1.GenerateDataKeyRequest{Service: none}, true},
		"Crypto.UnwrapDataKey":   {"w", &kryptonv1.UnwrapDataKeyRequest{Service: none, Wrapped: []byte("x")}, true},
		"Crypto.RewrapDataKey":   {"w", &kryptonv1.RewrapDataKeyRequest{Service: none, Wrapped: []byte("x")}, true},
		"Crypto.Encrypt":         {"w", &kryptonv1.EncryptRequest{Service: none, Plaintext: []byte("x")}, true},
		"Crypto.Decrypt":         {"w", &kryptonv1.DecryptRequest{Service: none, Ciphertext: []byte("x")}, true},

		"Tenants.CreateTenant":   {"g", &kryptonv1.CreateTenantRequest{TenantId: "acme", Binding: &kryptonv1.Binding{Keystore: "x", Key: "x"}, ValidateOnly: true}, true},
		"Tenants.GetTenant":      {"gaw", &kryptonv1.GetTenantRequest{Name: "tenants/acme"}, true},
		"Tenants.ListTenants":    {"ga", &kryptonv1.ListTenantsRequest{}, false},
		"Tenants.SuspendTenant":  {"g", &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", ValidateOnly: true}, true},
		"Tenants.ResumeTenant":   {"g", &kryptonv1.ResumeTenantRequest{Name: "tenants/acme", ValidateOnly: true}, true},
		"Tenants.DeleteTenant":   {"g", &kryptonv1.DeleteTenantRequest{Name: "tenants/acme", ValidateOnly: true}, true},
		"Tenants.UndeleteTenant": {"g", &kryptonv1.UndeleteTenantRequest{Name: "tenants/acme", ValidateOnly: true}, true},
		"Tenants.BindTenant":     {"g", &kryptonv1.BindTenantRequest{Name: "tenants/acme", Binding: &kryptonv1.Binding{Keystore: "x", Key: "x"}, ValidateOnly: true}, true},
		"Tenants.RotateTenant":   {"g", &kryptonv1.RotateTenantRequest{Name: "tenants/acme", ValidateOnly: true}, true},
		"Tenants.RollbackTenant": {"g", &kryptonv1.RollbackTenantRequest{Name: "tenants/acme", ValidateOnly: true}, true},

		"Services.CreateService":        {"g", &kryptonv1.CreateServiceRequest{Parent: "tenants/acme", ServiceId: "x", ValidateOnly: true}, true},
		"Services.GetService":           {"gaw", &kryptonv1.GetServiceRequest{Name: "tenants/acme/services/pay"}, true},
		"Services.ListServices":         {"gaw", &kryptonv1.ListServicesRequest{Parent: "tenants/acme"}, true},
		"Services.DeleteService":        {"g", &kryptonv1.DeleteServiceRequest{Name: none}, true},
		"Services.UndeleteService":      {"g", &kryptonv1.UndeleteServiceRequest{Name: none}, true},
		"Services.SuspendService":       {"g", &kryptonv1.SuspendServiceRequest{Name: none}, true},
		"Services.ResumeService":        {"g", &kryptonv1.ResumeServiceRequest{Name: none}, true},
		"Services.RotateService":        {"g", &kryptonv1.RotateServiceRequest{Name: none}, true},
		"Services.RollbackService":      {"g", &kryptonv1.RollbackServiceRequest{Name: none}, true},
		"Services.GetVersion":           {"gaw", &kryptonv1.GetVersionRequest{Name: "tenants/acme/services/pay/versions/1"}, true},
		"Services.EnableVersion":        {"g", &kryptonv1.EnableVersionRequest{Name: v}, true},
		"Services.DisableVersion":       {"g", &kryptonv1.DisableVersionRequest{Name: v}, true},
		"Services.DeprecateVersion":     {"g", &kryptonv1.DeprecateVersionRequest{Name: v}, true},
		"Services.CompromiseVersion":    {"g", &kryptonv1.CompromiseVersionRequest{Name: v}, true},
		"Services.DestroyVersion":       {"g", &kryptonv1.DestroyVersionRequest{Name: v}, true},
		"Services.CancelDestroyVersion": {"g", &kryptonv1.CancelDestroyVersionRequest{Name: v}, true},
		"Services.PinResource":          {"g", &kryptonv1.PinResourceRequest{Name: r}, true},
		"Services.UnpinResource":        {"g", &kryptonv1.UnpinResourceRequest{Name: r}, true},
		"Services.RollbackResource":     {"g", &kryptonv1.RollbackResourceRequest{Name: r}, true},
		"Services.GetResource":          {"gaw", &kryptonv1.GetResourceRequest{Name: "tenants/acme/services/pay/resources/r"}, true},
		"Services.ListResources":        {"gaw", &kryptonv1.ListResourcesRequest{Parent: "tenants/acme/services/pay"}, true},

		"Cluster.GetCluster":         {"gcoa", &kryptonv1.GetClusterRequest{}, false},
		"Cluster.ListNodes":          {"gcoa", &kryptonv1.ListNodesRequest{}, false},
		"Cluster.GetNode":            {"gcoa", &kryptonv1.GetNodeRequest{Name: node}, false},
		"Cluster.CreateJoinToken":    {"o", &kryptonv1.CreateJoinTokenRequest{Region: "NO"}, false},
		"Cluster.PromoteNode":        {"o", &kryptonv1.PromoteNodeRequest{Name: node}, false},
		"Cluster.DemoteNode":         {"o", &kryptonv1.DemoteNodeRequest{Name: node}, false},
		"Cluster.RemoveNode":         {"o", &kryptonv1.RemoveNodeRequest{Name: node}, false},
		"Cluster.TransferLeadership": {"o", &kryptonv1.TransferLeadershipRequest{Target: node}, false},
		"Cluster.SaveSnapshot":       {"o", &kryptonv1.SaveSnapshotRequest{}, false},
		"Cluster.GetOperation":       {"gcoa", &kryptonv1.GetOperationRequest{Name: op}, false},
		"Cluster.WaitOperation":      {"", nil, false}, // below: it waits

		"Access.WhoAmI":           {"gcoaw", &kryptonv1.WhoAmIRequest{}, false},
		"Access.IssueCertificate": {"", nil, false}, // below: it needs a key
		"Access.ListRevocations":  {"gcoa", &kryptonv1.ListRevocationsRequest{}, false},
		"Access.GetAuthorities":   {"gcoaw", &kryptonv1.GetAuthoritiesRequest{}, false},
		"Access.ReplaceAuthority": {"gc", &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: strings.Repeat("0", 64), ValidateOnly: true}, false},
		"Access.RetireAuthority":  {"gc", &kryptonv1.RetireAuthorityRequest{Name: "authorities/node-ca", BaseSha256: strings.Repeat("0", 64), ValidateOnly: true}, false},

		"Seal.GetSeal":     {"gcoaw", &kryptonv1.GetSealRequest{}, false},
		"Seal.GetShard":    {"c", &kryptonv1.GetShardRequest{Index: 1}, false},
		"Seal.Contribute":  {"c", &kryptonv1.ContributeRequest{NodeId: self, SealedShare: []byte("x")}, false},
		"Seal.ReleaseHold": {"c", &kryptonv1.ReleaseHoldRequest{}, false},
		"Seal.SealNode":    {"gco", &kryptonv1.SealNodeRequest{}, false},
	}
	ca := newAuthority(w.t, corpDomain)
	issuer := ca.issuer(kryptonv1.Role_ROLE_WORKLOAD)
	bound := &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "y", Keys: tlsKey(spki(w.t))}
	maps.Copy(t, map[string]permission{
		"Access.CreateIssuer":      {"g", &kryptonv1.CreateIssuerRequest{Parent: "tenants/acme", IssuerId: "own", Issuer: issuer, ValidateOnly: true}, true},
		"Access.UpdateIssuer":      {"g", &kryptonv1.UpdateIssuerRequest{Name: "tenants/acme/issuers/none", Issuer: issuer, ValidateOnly: true}, true},
		"Access.GetIssuer":         {"ga", &kryptonv1.GetIssuerRequest{Name: "tenants/acme/issuers/none"}, true},
		"Access.ListIssuers":       {"ga", &kryptonv1.ListIssuersRequest{Parent: "tenants/acme"}, true},
		"Access.DeleteIssuer":      {"g", &kryptonv1.DeleteIssuerRequest{Name: "tenants/acme/issuers/none", ValidateOnly: true}, true},
		"Access.CreateRoleBinding": {"g", &kryptonv1.CreateRoleBindingRequest{Parent: "tenants/acme", RoleBindingId: "y", RoleBinding: bound, ValidateOnly: true}, true},
		"Access.GetRoleBinding":    {"gcoa", &kryptonv1.GetRoleBindingRequest{Name: "tenants/acme/roleBindings/x"}, true},
		"Access.ListRoleBindings":  {"gcoa", &kryptonv1.ListRoleBindingsRequest{Parent: "tenants/acme"}, true},
		"Access.DeleteRoleBinding": {"g", &kryptonv1.DeleteRoleBindingRequest{Name: "tenants/acme/roleBindings/none", ValidateOnly: true}, true},
		"Tenants.SetGovernors":     {"g", &kryptonv1.SetGovernorsRequest{Name: "tenants/acme", Governors: []string{"roleBindings/alice"}, ValidateOnly: true}, true},
		"Policies.PutPolicy":       {"g", &kryptonv1.PutPolicyRequest{Name: "tenants/acme/policies/none", Text: "permit (principal, action, resource);", ValidateOnly: true}, true},
		"Policies.GetPolicy":       {"ga", &kryptonv1.GetPolicyRequest{Name: "tenants/acme/policies/none"}, true},
		"Policies.ListPolicies":    {"ga", &kryptonv1.ListPoliciesRequest{Parent: "tenants/acme"}, true},
		"Policies.DeletePolicy":    {"g", &kryptonv1.DeletePolicyRequest{Name: "tenants/acme/policies/none", ValidateOnly: true}, true},
		"Policies.TestPolicy":      {"ga", &kryptonv1.TestPolicyRequest{Parent: "tenants/acme"}, true},
		"Access.RenewCertificate":  {"gcoaw", &kryptonv1.RenewCertificateRequest{}, false},
	})
	maps.Copy(t, map[string]permission{
		"Cluster.SetQuorum":        {"g", &kryptonv1.SetQuorumRequest{Governors: 1, Custodians: 1, ValidateOnly: true}, false},
		"Approvals.CreateApproval": {"g", unsignedApproval(w.t, &kryptonv1.DeleteTenantRequest{Name: "tenants/acme"}), false},
		"Approvals.GetApproval":    {"gcoa", &kryptonv1.GetApprovalRequest{Name: noApproval}, false},
		"Approvals.ListApprovals":  {"gcoa", &kryptonv1.ListApprovalsRequest{}, false},
		"Approvals.Approve":        {"gc", &kryptonv1.ApproveRequest{Name: noApproval, KeyId: make([]byte, 32), Signature: []byte("s")}, false},
		"Approvals.Reject":         {"gc", &kryptonv1.RejectRequest{Name: noApproval}, false},
	})
	t["Access.RevokeCertificate"] = permission{"go", &kryptonv1.RevokeCertificateRequest{
		Certificate: w.people["auditor"].Certificate[0], ValidateOnly: true,
	}, false}
	_, pub := newKey(w.t)
	t["Access.IssueCertificate"] = permission{"g", &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "x", PublicKey: pub, TtlSeconds: 1}, false}
	t["Cluster.WaitOperation"] = permission{"gcoa", &kryptonv1.WaitOperationRequest{Name: op}, false}
	for name := range t {
		order = append(order, name)
	}
	slices.Sort(order) // SealNode is the last that matters: Services and Tenants come before a node that is sealed is asked
	i := slices.Index(order, "Seal.SealNode")
	order = append(slices.Delete(order, i, i+1), "Seal.SealNode")
	return order, t
}

// TestI2_EveryRoleAtEveryMethod asks every method as everybody, over the wire.
// Who may gets another answer than DENIED; who may not gets exactly DENIED; a
// workload of another tenant is told what it would be told of a tenant that
// does not exist.
func TestI2_EveryRoleAtEveryMethod(t *testing.T) {
	t.Parallel()
	w := served(t)
	order, table := permissions(w)
	forms := httpTable(t)
	for _, d := range services() {
		for _, m := range d.Methods {
			if name := strings.TrimPrefix(d.ServiceName, "krypton.v1.") + "." + m.MethodName; !slices.Contains(order, name) {
				t.Errorf("%s has no row in the table of permissions", name)
			}
		}
	}
	roles := map[string]string{"governor": "g", "custodian": "c", "operator": "o", "auditor": "a", "workload/acme": "w"}
	for _, name := range order {
		p := table[name]
		for who, letter := range roles {
			if name == "Cluster.WaitOperation" && strings.Contains(p.may, letter) {
				continue // TestAnOperationIsFoundByItsCaller waits
			}
			_, err := w.call(t, 0, who, name, proto.Clone(p.req))
			got, may := codeOf(err), strings.Contains(p.may, letter)
			switch {
			case may && (got == errs.Denied || got == errs.Unauthenticated):
				t.Errorf("%s may not do %s: %v", who, name, err)
			case !may && got != errs.Denied:
				t.Errorf("%s at %s is answered with %s (%v), want DENIED", who, name, got, err)
			case !may:
				situationtest.Error(t, "identity/wrong-role", wire.FromStatus(err))
			}
			if may || name == "Seal.SealNode" {
				continue
			}
			hr, ok := w.request(t, 0, forms["krypton.v1."+name], p.req)
			if !ok {
				t.Fatalf("no HTTP form for %s", name)
			}
			if code := w.do(t, who, "h2", hr).refusal(t).Code; code != errs.Denied {
				t.Errorf("%s at %s over HTTP is answered with %s", who, name, code)
			}
		}
		if _, err := w.call(t, 0, "", name, proto.Clone(p.req)); codeOf(err) != errs.Unauthenticated && codeOf(err) != errs.Unavailable {
			t.Errorf("nobody at %s is answered with %v", name, err)
		}
		if hr, ok := w.request(t, 0, forms["krypton.v1."+name], p.req); !ok || w.do(t, "", "h2", hr).status != http.StatusUnauthorized {
			t.Errorf("nobody at %s over HTTP is not told so", name)
		}
		if !p.tenant {
			continue
		}
		// I5 of the gate, over the wire: the same bytes for another tenant and for none.
		_, foreign := w.call(t, 0, "workload/other", name, proto.Clone(p.req))
		_, ghost := w.call(t, 0, "workload/other", name, renamed(p.req, "acme", "ghost"))
		if f, g := refusalOf(foreign), refusalOf(ghost); f != g || f.Code != errs.NotFound {
			t.Errorf("%s tells a tenant of another (%v) from none (%v)", name, f, g)
		}
		situationtest.Error(t, "identity/other-tenant", wire.FromStatus(foreign))
	}
}

// renamed is a copy of m with another tenant in every text field.
func renamed(m proto.Message, from, to string) proto.Message {
	out := proto.Clone(m)
	r := out.ProtoReflect()
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.Kind() == protoreflect.StringKind && !fd.IsList() {
			r.Set(fd, protoreflect.ValueOfString(strings.ReplaceAll(v.String(), from, to)))
		}
		return true
	})
	return out
}
