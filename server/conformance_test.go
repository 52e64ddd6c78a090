package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// services are what the public doors have to have.
func services() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		kryptonv1.Crypto_ServiceDesc, kryptonv1.Tenants_ServiceDesc, kryptonv1.Services_ServiceDesc,
		kryptonv1.Seal_ServiceDesc, kryptonv1.Cluster_ServiceDesc, kryptonv1.Access_ServiceDesc, kryptonv1.Approvals_ServiceDesc, kryptonv1.Policies_ServiceDesc,
	}
}

// responseOf makes an empty response of a method, "Crypto.Encrypt".
func responseOf(t testing.TB, method string) proto.Message {
	t.Helper()
	service, name, _ := strings.Cut(method, ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("krypton.v1." + service))
	if err != nil {
		t.Fatal(err)
	}
	out := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name)).Output()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(out.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// call calls a method over gRPC.
func (w *world) call(t testing.TB, i int, person, method string, m proto.Message) (proto.Message, error) {
	t.Helper()
	out := responseOf(t, method)
	err := w.grpc(i, person).Invoke(limited(t), "/krypton.v1."+strings.Replace(method, ".", "/", 1), m, out)
	return out, err
}

// call2 is one call that both doors get.
type call2 struct {
	method string
	who    string
	req    proto.Message
	want   errs.Code // Unspecified: it works
	// fresh are fields of the answer that differ from call to call.
	fresh []proto.Message
}

// requestIDs gives a change its request id, so that the second door repeats
// what the first one did, and gets the same answer.
func withRequestID(m proto.Message) proto.Message {
	r := m.ProtoReflect()
	if fd := r.Descriptor().Fields().ByName("request_id"); fd != nil && r.Get(fd).String() == "" {
		r.Set(fd, protoreflect.ValueOfString(uuid.NewString()))
	}
	return m
}

// noApproval is the name of one that is not there.
const noApproval = "approvals/00000000000000000000000000000000"

// unsignedApproval is a request for m to be approved, with a signature that is none.
func unsignedApproval(t testing.TB, m proto.Message) *kryptonv1.CreateApprovalRequest {
	t.Helper()
	in := intent.Intent{Keyspace: [16]byte{1}, Act: intent.ActDestroy, Request: intent.Digest{1}, NotAfter: time.Now().Add(time.Hour).UnixMilli(), Nonce: intent.Nonce{1}}
	raw, err := in.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return &kryptonv1.CreateApprovalRequest{Request: anyOf(t, m), Signature: &kryptonv1.SignedIntent{Intent: raw, KeyId: make([]byte, 32), Signature: []byte("s")}}
}

// conformance is the story that both doors are told, in order. Every method of
// every service is in it.
func conformance(w *world) []call2 {
	self := "nodes/" + string(w.members[0].c.NodeID())
	nobody := "nodes/" + strings.Repeat("0", 32)
	_, pub := newKey(w.t)
	const (
		ten  = "tenants/acme"
		svc  = ten + "/services/pay"
		v1   = svc + "/versions/1"
		v2   = svc + "/versions/2"
		res  = svc + "/resources/a%2Fb%3A%25%20c"
		gov  = "governor"
		work = "workload/acme"
		op   = "operator"
	)
	id := uuid.NewString()
	wrapped := proto.Message(&kryptonv1.GenerateDataKeyRequest{Service: svc, Resource: "r"})
	made, err := w.call(w.t, 0, work, "Crypto.GenerateDataKey", wrapped)
	if err != nil {
		w.t.Fatal(err)
	}
	dek := made.(*kryptonv1.GenerateDataKeyResponse)
	enc, err := w.call(w.t, 0, work, "Crypto.Encrypt", &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("hello")})
	if err != nil {
		w.t.Fatal(err)
	}
	ciphertext := enc.(*kryptonv1.EncryptResponse).GetCiphertext()
	ca, customer := newAuthority(w.t, corpDomain), newAuthority(w.t, "acme.example")
	nodeCA := w.authoritySum("node-ca")
	corp, own := ca.issuer(kryptonv1.Role_ROLE_OPERATOR), customer.issuer(kryptonv1.Role_ROLE_WORKLOAD)
	wider := ca.issuer(kryptonv1.Role_ROLE_OPERATOR, kryptonv1.Role_ROLE_WORKLOAD)
	wider.Tenants, wider.UnboundRoles = []string{ten}, []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}
	idp := &kryptonv1.Issuer{Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_AUDITOR}, Kind: &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{
		Url: "https://id.corp.example", Audiences: []string{"krypton"}, Ca: ca.pem(), SubjectClaim: "email", ClockSkewSeconds: 30, MaxLifeSeconds: 3600,
	}}}
	olga := &kryptonv1.RoleBinding{Issuer: "issuers/corp", Subject: "cn:Olga Operator", Role: kryptonv1.Role_ROLE_OPERATOR, Member: "olga"}
	app := &kryptonv1.RoleBinding{Issuer: ten + "/issuers/own", Subject: "uri:spiffe://acme.example/app", Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "app"}
	key := &kryptonv1.RoleBinding{Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "app", Keys: tlsKey(spki(w.t))}
	gabi := &kryptonv1.RoleBinding{
		Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gabi", Keys: []*kryptonv1.AuthorityKey{{PublicKey: spki(w.t), Sign: true, Tls: true}}, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	}
	pairs := []*kryptonv1.ContextPair{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}}
	return []call2{
		{"Access.WhoAmI", gov, &kryptonv1.WhoAmIRequest{}, 0, nil},
		{"Access.WhoAmI", work, &kryptonv1.WhoAmIRequest{}, 0, nil},
		{"Access.WhoAmI", "", &kryptonv1.WhoAmIRequest{}, errs.Unauthenticated, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: ten, Name: "w", PublicKey: pub, TtlSeconds: 60}, 0, []proto.Message{&kryptonv1.IssueCertificateResponse{}}},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: "tenants/ghost", Name: "w", PublicKey: pub}, errs.NotFound, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Tenant: ten, Name: "w", PublicKey: pub}, errs.InvalidArgument, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Name: "w", PublicKey: pub}, errs.InvalidArgument, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "w", PublicKey: pub, TtlSeconds: 59}, errs.InvalidArgument, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "w", PublicKey: pub, TtlSeconds: 30*24*3600 + 1}, errs.InvalidArgument, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "A b", PublicKey: pub}, errs.InvalidArgument, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_AUDITOR, Name: "w", PublicKey: []byte("no key")}, errs.InvalidArgument, nil},
		{"Access.IssueCertificate", gov, &kryptonv1.IssueCertificateRequest{Role: 77, Name: "w", PublicKey: pub}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Serial: "5f2a", Reason: "found in a log"}, 0, []proto.Message{&kryptonv1.Revocation{}}},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Serial: "5f2a"}, errs.AlreadyExists, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Serial: "5F2A"}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Serial: "005f2a"}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Serial: "5f2a", Certificate: pub}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Certificate: pub}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Certificate: make([]byte, 16<<10+1)}, errs.TooLarge, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Serial: "5f2b", Reason: strings.Repeat("x", 257)}, errs.InvalidArgument, nil},
		{"Access.RevokeCertificate", gov, &kryptonv1.RevokeCertificateRequest{Certificate: w.certOf(gov)[0].Certificate[0]}, errs.FailedState, nil},
		{"Access.RevokeCertificate", op, &kryptonv1.RevokeCertificateRequest{Serial: "5f2b"}, errs.Denied, nil},
		{"Access.RevokeCertificate", op, &kryptonv1.RevokeCertificateRequest{Certificate: w.certOf(gov)[0].Certificate[0]}, errs.Denied, nil},
		{"Access.RevokeCertificate", work, &kryptonv1.RevokeCertificateRequest{Serial: "5f2b"}, errs.Denied, nil},
		{"Access.ListRevocations", gov, &kryptonv1.ListRevocationsRequest{PageSize: 1}, 0, nil},
		{"Access.ListRevocations", gov, &kryptonv1.ListRevocationsRequest{PageSize: 1001}, errs.InvalidArgument, nil},
		{"Access.ListRevocations", work, &kryptonv1.ListRevocationsRequest{}, errs.Denied, nil},
		{"Access.GetAuthorities", work, &kryptonv1.GetAuthoritiesRequest{}, 0, nil},
		{"Access.ReplaceAuthority", gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA, ValidateOnly: true}, 0, []proto.Message{&kryptonv1.Authority{}}},
		{"Access.ReplaceAuthority", gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: strings.Repeat("00", 32)}, errs.Aborted, nil},
		{"Access.ReplaceAuthority", gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/other-ca", BaseSha256: nodeCA}, errs.InvalidArgument, nil},
		{"Access.ReplaceAuthority", gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: "xyz"}, errs.InvalidArgument, nil},
		{"Access.ReplaceAuthority", gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA, OverlapSeconds: 30*24*3600 + 1}, errs.InvalidArgument, nil},
		{"Access.ReplaceAuthority", gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA, OverlapSeconds: 1, NoOverlap: true}, errs.InvalidArgument, nil},
		{"Access.ReplaceAuthority", op, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA}, errs.Denied, nil},
		{"Access.RetireAuthority", gov, &kryptonv1.RetireAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA}, errs.FailedState, nil},
		{"Access.RetireAuthority", gov, &kryptonv1.RetireAuthorityRequest{Name: "authorities/node-ca", BaseSha256: strings.Repeat("00", 32)}, errs.Aborted, nil},
		{"Access.RetireAuthority", gov, &kryptonv1.RetireAuthorityRequest{Name: "authorities/no-ca", BaseSha256: nodeCA}, errs.InvalidArgument, nil},
		{"Access.RetireAuthority", work, &kryptonv1.RetireAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA}, errs.Denied, nil},

		{"Access.RenewCertificate", gov, &kryptonv1.RenewCertificateRequest{TtlSeconds: 3600}, 0, []proto.Message{&kryptonv1.IssueCertificateResponse{}}},
		{"Access.RenewCertificate", work, &kryptonv1.RenewCertificateRequest{}, 0, []proto.Message{&kryptonv1.IssueCertificateResponse{}}},
		{"Access.RenewCertificate", gov, &kryptonv1.RenewCertificateRequest{TtlSeconds: 59}, errs.InvalidArgument, nil},
		{"Access.RenewCertificate", "", &kryptonv1.RenewCertificateRequest{}, errs.Unauthenticated, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{IssuerId: "corp", Issuer: corp, ValidateOnly: true}, 0, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{IssuerId: "corp", Issuer: corp}, 0, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{IssuerId: "corp", Issuer: corp}, errs.AlreadyExists, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{IssuerId: "x"}, errs.InvalidArgument, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{IssuerId: "X", Issuer: corp}, errs.InvalidArgument, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{Parent: ten, IssuerId: "own", Issuer: own}, 0, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{Parent: "tenants/ghost", IssuerId: "own", Issuer: own}, errs.NotFound, nil},
		{"Access.CreateIssuer", gov, &kryptonv1.CreateIssuerRequest{IssuerId: "idp", Issuer: idp}, 0, nil},
		{"Access.CreateIssuer", op, &kryptonv1.CreateIssuerRequest{IssuerId: "x", Issuer: corp}, errs.Denied, nil},
		{"Access.CreateIssuer", work, &kryptonv1.CreateIssuerRequest{Parent: "tenants/other", IssuerId: "x", Issuer: own}, errs.NotFound, nil},
		{"Access.UpdateIssuer", gov, &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: wider}, 0, nil},
		{"Access.UpdateIssuer", gov, &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: wider, Etag: `"1"`}, errs.StaleEtag, nil},
		{"Access.UpdateIssuer", gov, &kryptonv1.UpdateIssuerRequest{Name: "issuers/none", Issuer: wider}, errs.NotFound, nil},
		{"Access.UpdateIssuer", gov, &kryptonv1.UpdateIssuerRequest{Name: "issuers/corp", Issuer: idp}, errs.FailedState, nil},
		{"Access.UpdateIssuer", gov, &kryptonv1.UpdateIssuerRequest{Name: "issuers/builtin", Issuer: wider}, errs.FailedState, nil},
		{"Access.GetIssuer", "auditor", &kryptonv1.GetIssuerRequest{Name: "issuers/builtin"}, 0, nil},
		{"Access.GetIssuer", gov, &kryptonv1.GetIssuerRequest{Name: ten + "/issuers/own"}, 0, nil},
		{"Access.GetIssuer", gov, &kryptonv1.GetIssuerRequest{Name: "issuers/idp"}, 0, nil},
		{"Access.GetIssuer", gov, &kryptonv1.GetIssuerRequest{Name: "issuers/none"}, errs.NotFound, nil},
		{"Access.GetIssuer", gov, &kryptonv1.GetIssuerRequest{Name: "tenants/ghost/issuers/own"}, errs.NotFound, nil},
		{"Access.GetIssuer", work, &kryptonv1.GetIssuerRequest{Name: "issuers/corp"}, errs.Denied, nil},
		{"Access.ListIssuers", gov, &kryptonv1.ListIssuersRequest{}, 0, nil},
		{"Access.ListIssuers", gov, &kryptonv1.ListIssuersRequest{PageSize: 1}, 0, nil},
		{"Access.ListIssuers", "auditor", &kryptonv1.ListIssuersRequest{Parent: ten}, 0, nil},
		{"Access.ListIssuers", gov, &kryptonv1.ListIssuersRequest{Parent: "tenants/ghost"}, errs.NotFound, nil},
		{"Access.ListIssuers", gov, &kryptonv1.ListIssuersRequest{PageSize: 1001}, errs.InvalidArgument, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "olga", RoleBinding: olga, ValidateOnly: true}, 0, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "olga", RoleBinding: olga}, 0, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "olga", RoleBinding: olga}, errs.AlreadyExists, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x"}, errs.InvalidArgument, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{Parent: ten, RoleBindingId: "olga", RoleBinding: olga}, errs.InvalidArgument, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{Parent: ten, RoleBindingId: "app", RoleBinding: app}, 0, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{Parent: "tenants/ghost", RoleBindingId: "app", RoleBinding: key}, errs.NotFound, nil},
		{"Access.CreateRoleBinding", gov, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "gabi", RoleBinding: gabi}, 0, nil},
		{"Access.CreateRoleBinding", op, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "x", RoleBinding: olga}, errs.Denied, nil},
		{"Access.GetRoleBinding", gov, &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/olga"}, 0, nil},
		{"Access.GetRoleBinding", "custodian", &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/alice"}, 0, nil},
		{"Access.GetRoleBinding", gov, &kryptonv1.GetRoleBindingRequest{Name: ten + "/roleBindings/app"}, 0, nil},
		{"Access.GetRoleBinding", gov, &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/none"}, errs.NotFound, nil},
		{"Access.GetRoleBinding", work, &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/olga"}, errs.Denied, nil},
		{"Access.ListRoleBindings", gov, &kryptonv1.ListRoleBindingsRequest{PageSize: 2}, 0, nil},
		{"Access.ListRoleBindings", op, &kryptonv1.ListRoleBindingsRequest{Parent: ten}, 0, nil},
		{"Access.ListRoleBindings", gov, &kryptonv1.ListRoleBindingsRequest{Parent: "tenants/ghost"}, errs.NotFound, nil},
		{"Access.DeleteIssuer", gov, &kryptonv1.DeleteIssuerRequest{Name: "issuers/corp"}, errs.FailedState, nil},
		{"Access.DeleteIssuer", gov, &kryptonv1.DeleteIssuerRequest{Name: "issuers/builtin"}, errs.FailedState, nil},
		{"Access.DeleteIssuer", gov, &kryptonv1.DeleteIssuerRequest{Name: "issuers/none"}, errs.NotFound, nil},
		{"Tenants.SetGovernors", gov, &kryptonv1.SetGovernorsRequest{Name: ten, Governors: []string{"roleBindings/alice", "roleBindings/gabi"}, ValidateOnly: true}, 0, nil},
		{"Tenants.SetGovernors", gov, &kryptonv1.SetGovernorsRequest{Name: ten, Governors: []string{"roleBindings/alice", "roleBindings/gabi"}}, 0, nil},
		{"Tenants.SetGovernors", gov, &kryptonv1.SetGovernorsRequest{Name: ten}, errs.InvalidArgument, nil},
		{"Tenants.SetGovernors", gov, &kryptonv1.SetGovernorsRequest{Name: ten, Governors: []string{"roleBindings/olga"}}, errs.FailedState, nil},
		{"Tenants.SetGovernors", gov, &kryptonv1.SetGovernorsRequest{Name: ten, Governors: []string{"gabi"}}, errs.InvalidArgument, nil},
		{"Tenants.SetGovernors", gov, &kryptonv1.SetGovernorsRequest{Name: "tenants/ghost", Governors: []string{"roleBindings/alice"}}, errs.NotFound, nil},
		{"Tenants.SetGovernors", op, &kryptonv1.SetGovernorsRequest{Name: ten, Governors: []string{"roleBindings/alice"}}, errs.Denied, nil},
		{"Tenants.GetTenant", gov, &kryptonv1.GetTenantRequest{Name: ten}, 0, nil},
		{"Access.DeleteRoleBinding", gov, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/olga", Etag: `"1"`}, errs.StaleEtag, nil},
		{"Access.DeleteRoleBinding", gov, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/olga", ValidateOnly: true}, 0, nil},
		{"Access.DeleteRoleBinding", gov, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/olga"}, 0, []proto.Message{&kryptonv1.RoleBinding{}}},
		{"Access.DeleteRoleBinding", gov, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/olga"}, errs.NotFound, nil},
		{"Access.DeleteRoleBinding", gov, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/alice"}, errs.FailedState, nil},
		{"Access.DeleteRoleBinding", gov, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/carol"}, errs.FailedState, nil},
		{"Access.DeleteIssuer", gov, &kryptonv1.DeleteIssuerRequest{Name: "issuers/corp", ValidateOnly: true}, 0, nil},
		{"Access.DeleteIssuer", gov, &kryptonv1.DeleteIssuerRequest{Name: "issuers/corp"}, 0, []proto.Message{&kryptonv1.Issuer{}}},

		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/p", Text: permitAll, ValidateOnly: true}, 0, nil},
		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/p", Text: permitAll}, 0, nil},
		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/p", Text: permitAll, Create: true}, errs.AlreadyExists, nil},
		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/p", Text: permitAll, Etag: `"1"`}, errs.StaleEtag, nil},
		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/q", Text: "permit (nobody);"}, errs.InvalidArgument, nil},
		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: "tenants/ghost/policies/p", Text: permitAll}, errs.NotFound, nil},
		{"Policies.PutPolicy", op, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/q", Text: permitAll}, errs.Denied, nil},
		{"Policies.PutPolicy", work, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/q", Text: permitAll}, errs.Denied, nil},
		{"Policies.GetPolicy", "auditor", &kryptonv1.GetPolicyRequest{Name: ten + "/policies/p"}, 0, nil},
		{"Policies.GetPolicy", gov, &kryptonv1.GetPolicyRequest{Name: ten + "/policies/none"}, errs.NotFound, nil},
		{"Policies.GetPolicy", work, &kryptonv1.GetPolicyRequest{Name: ten + "/policies/p"}, errs.Denied, nil},
		{"Policies.ListPolicies", gov, &kryptonv1.ListPoliciesRequest{Parent: ten, PageSize: 1}, 0, nil},
		{"Policies.ListPolicies", gov, &kryptonv1.ListPoliciesRequest{Parent: "tenants/ghost"}, errs.NotFound, nil},
		{"Policies.TestPolicy", "auditor", &kryptonv1.TestPolicyRequest{Parent: ten, Action: "crypto.encrypt", Changes: []*kryptonv1.PolicyText{{PolicyId: "p", Text: permitRead}}}, 0, nil},
		{"Policies.TestPolicy", gov, &kryptonv1.TestPolicyRequest{Parent: ten, Changes: []*kryptonv1.PolicyText{{PolicyId: "p", Text: "permit (nobody);"}}}, 0, nil},
		{"Policies.TestPolicy", gov, &kryptonv1.TestPolicyRequest{Parent: ten, Action: "none"}, errs.InvalidArgument, nil},
		{"Policies.TestPolicy", work, &kryptonv1.TestPolicyRequest{Parent: ten}, errs.Denied, nil},
		{"Policies.PutPolicy", gov, &kryptonv1.PutPolicyRequest{Name: ten + "/policies/q", Text: "forbid (principal, action == Krypton::Action::\"crypto.decrypt\", resource);"}, 0, nil},
		{"Crypto.Decrypt", work, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: []byte("x")}, errs.Integrity, nil},
		{"Crypto.GenerateDataKey", work, &kryptonv1.GenerateDataKeyRequest{Service: svc, Length: 16}, 0, []proto.Message{&kryptonv1.GenerateDataKeyResponse{}}},
		{"Policies.DeletePolicy", gov, &kryptonv1.DeletePolicyRequest{Name: ten + "/policies/q", Etag: `"1"`}, errs.StaleEtag, nil},
		{"Policies.DeletePolicy", gov, &kryptonv1.DeletePolicyRequest{Name: ten + "/policies/q"}, 0, []proto.Message{&kryptonv1.Policy{}}},
		{"Policies.DeletePolicy", gov, &kryptonv1.DeletePolicyRequest{Name: ten + "/policies/q"}, errs.NotFound, nil},
		{"Policies.DeletePolicy", gov, &kryptonv1.DeletePolicyRequest{Name: ten + "/policies/p"}, 0, []proto.Message{&kryptonv1.Policy{}}},

		{"Crypto.GenerateDataKey", work, &kryptonv1.GenerateDataKeyRequest{Service: svc, Length: 16}, 0, []proto.Message{&kryptonv1.GenerateDataKeyResponse{}}},
		{"Crypto.GenerateDataKey", work, &kryptonv1.GenerateDataKeyRequest{Service: svc, WithoutPlaintext: true}, 0, []proto.Message{&kryptonv1.GenerateDataKeyResponse{}}},
		{"Crypto.GenerateDataKey", work, &kryptonv1.GenerateDataKeyRequest{Service: svc, Length: 65}, errs.InvalidArgument, nil},
		{"Crypto.GenerateDataKey", work, &kryptonv1.GenerateDataKeyRequest{Service: svc, EncryptionContext: pairs}, errs.InvalidArgument, nil},
		{"Crypto.UnwrapDataKey", work, &kryptonv1.UnwrapDataKeyRequest{Service: svc, Resource: "r", Wrapped: dek.GetWrapped()}, 0, nil},
		{"Crypto.UnwrapDataKey", work, &kryptonv1.UnwrapDataKeyRequest{Service: svc, Resource: "s", Wrapped: dek.GetWrapped()}, errs.Integrity, nil},
		{"Crypto.UnwrapDataKey", work, &kryptonv1.UnwrapDataKeyRequest{Service: svc}, errs.Integrity, nil},
		{"Crypto.RewrapDataKey", work, &kryptonv1.RewrapDataKeyRequest{Service: svc, Resource: "r", Wrapped: dek.GetWrapped()}, 0, []proto.Message{&kryptonv1.RewrapDataKeyResponse{}}},
		{"Crypto.Encrypt", work, &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("x")}, 0, []proto.Message{&kryptonv1.EncryptResponse{}}},
		{"Crypto.Encrypt", work, &kryptonv1.EncryptRequest{Service: svc, Plaintext: make([]byte, 1<<20+1)}, errs.TooLarge, nil},
		{"Crypto.Encrypt", gov, &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("x")}, errs.Denied, nil},
		{"Crypto.Encrypt", work, &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay", Plaintext: []byte("x")}, errs.NotFound, nil},
		{"Crypto.Encrypt", work, &kryptonv1.EncryptRequest{Service: "tenants/ghost/services/pay", Plaintext: []byte("x")}, errs.NotFound, nil},
		{"Crypto.Encrypt", work, &kryptonv1.EncryptRequest{Service: "tenants/acme/services/Ä"}, errs.InvalidArgument, nil},
		{"Crypto.Encrypt", "", &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("x")}, errs.Unauthenticated, nil},
		{"Crypto.Encrypt", "", &kryptonv1.EncryptRequest{Service: "tenants/acme/services/Ä"}, errs.Unauthenticated, nil},
		{"Crypto.Decrypt", work, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: ciphertext}, 0, nil},
		{"Crypto.Decrypt", work, &kryptonv1.DecryptRequest{Service: svc, Resource: "x", Ciphertext: ciphertext}, errs.Integrity, nil},
		{"Crypto.Decrypt", work, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: dek.GetWrapped()}, errs.Integrity, nil},

		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "fresh", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}, ValidateOnly: true}, 0, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "fresh", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}}, 0, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "acme", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}}, errs.AlreadyExists, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "acme"}, errs.AlreadyExists, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "later"}, 0, nil},
		{"Tenants.BindTenant", gov, &kryptonv1.BindTenantRequest{Name: "tenants/later"}, errs.InvalidArgument, nil},
		{"Tenants.BindTenant", gov, &kryptonv1.BindTenantRequest{Name: "tenants/later", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1", L1: "x"}}, errs.InvalidArgument, nil},
		{"Tenants.BindTenant", gov, &kryptonv1.BindTenantRequest{Name: "tenants/later", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1", Identity: []*kryptonv1.IdentityName{{Name: "role", Value: "x"}}}}, errs.InvalidArgument, nil},
		{"Tenants.BindTenant", op, &kryptonv1.BindTenantRequest{Name: "tenants/later", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}}, errs.Denied, nil},
		{"Tenants.BindTenant", gov, &kryptonv1.BindTenantRequest{Name: "tenants/later", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}}, 0, nil},
		{"Tenants.BindTenant", gov, &kryptonv1.BindTenantRequest{Name: "tenants/later", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}}, errs.FailedState, nil},
		{"Tenants.BindTenant", gov, &kryptonv1.BindTenantRequest{Name: "tenants/ghost", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "fresh-l1"}}, errs.NotFound, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "x", Binding: &kryptonv1.Binding{Keystore: "nope", Key: "k"}}, errs.KeystoreMisconfigured, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "x", Binding: &kryptonv1.Binding{Keystore: "a", Key: "k", KeyVersion: "1"}}, errs.InvalidArgument, nil},
		{"Tenants.CreateTenant", gov, &kryptonv1.CreateTenantRequest{TenantId: "x", RequestId: "not-a-uuid", Binding: &kryptonv1.Binding{Keystore: "a", Key: "k"}}, errs.InvalidArgument, nil},
		{"Tenants.GetTenant", gov, &kryptonv1.GetTenantRequest{Name: "tenants/fresh"}, 0, nil},
		{"Tenants.GetTenant", work, &kryptonv1.GetTenantRequest{Name: ten}, 0, nil},
		{"Tenants.GetTenant", work, &kryptonv1.GetTenantRequest{Name: "tenants/other"}, errs.NotFound, nil},
		{"Tenants.GetTenant", gov, &kryptonv1.GetTenantRequest{Name: "tenants/ghost"}, errs.NotFound, nil},
		{"Tenants.ListTenants", gov, &kryptonv1.ListTenantsRequest{}, 0, nil},
		{"Tenants.ListTenants", gov, &kryptonv1.ListTenantsRequest{PageSize: 1}, 0, nil},
		{"Tenants.ListTenants", gov, &kryptonv1.ListTenantsRequest{PageSize: 1001}, errs.InvalidArgument, nil},
		{"Tenants.ListTenants", gov, &kryptonv1.ListTenantsRequest{PageToken: "!"}, errs.InvalidArgument, nil},
		{"Tenants.ListTenants", gov, &kryptonv1.ListTenantsRequest{Filter: "state=SUSPENDED"}, 0, nil},
		{"Tenants.ListTenants", gov, &kryptonv1.ListTenantsRequest{Filter: "name=x"}, errs.InvalidArgument, nil},
		{"Tenants.ListTenants", work, &kryptonv1.ListTenantsRequest{}, errs.Denied, nil},
		{"Tenants.SuspendTenant", gov, &kryptonv1.SuspendTenantRequest{Name: "tenants/fresh", Etag: `"1"`}, errs.StaleEtag, nil},
		{"Tenants.SuspendTenant", gov, &kryptonv1.SuspendTenantRequest{Name: "tenants/fresh", Etag: `1`}, errs.InvalidArgument, nil},
		{"Tenants.SuspendTenant", gov, &kryptonv1.SuspendTenantRequest{Name: "tenants/fresh", ValidateOnly: true}, 0, nil},
		{"Tenants.SuspendTenant", gov, &kryptonv1.SuspendTenantRequest{Name: "tenants/fresh"}, 0, nil},
		{"Tenants.ResumeTenant", gov, &kryptonv1.ResumeTenantRequest{Name: "tenants/fresh"}, 0, nil},
		{"Tenants.RotateTenant", gov, &kryptonv1.RotateTenantRequest{Name: "tenants/fresh"}, 0, nil},
		{"Tenants.RollbackTenant", gov, &kryptonv1.RollbackTenantRequest{Name: "tenants/fresh"}, 0, nil},
		{"Tenants.RollbackTenant", gov, &kryptonv1.RollbackTenantRequest{Name: "tenants/ghost"}, errs.NotFound, nil},
		{"Tenants.UndeleteTenant", gov, &kryptonv1.UndeleteTenantRequest{Name: "tenants/fresh"}, errs.FailedState, nil},
		{"Tenants.DeleteTenant", gov, &kryptonv1.DeleteTenantRequest{Name: "tenants/fresh", ValidateOnly: true}, 0, nil},
		{"Tenants.DeleteTenant", gov, &kryptonv1.DeleteTenantRequest{Name: "tenants/fresh", Now: true}, 0, nil},
		{"Tenants.DeleteTenant", gov, &kryptonv1.DeleteTenantRequest{Name: "tenants/ghost"}, errs.NotFound, nil},
		{"Tenants.DeleteTenant", "auditor", &kryptonv1.DeleteTenantRequest{Name: ten}, errs.Denied, nil},

		{"Services.CreateService", gov, &kryptonv1.CreateServiceRequest{Parent: ten, ServiceId: "logs"}, 0, nil},
		{"Services.CreateService", gov, &kryptonv1.CreateServiceRequest{Parent: ten, ServiceId: "logs"}, errs.AlreadyExists, nil},
		{"Services.CreateService", gov, &kryptonv1.CreateServiceRequest{Parent: "tenants/ghost", ServiceId: "logs"}, errs.NotFound, nil},
		{"Services.CreateService", gov, &kryptonv1.CreateServiceRequest{Parent: ten, ServiceId: "Logs"}, errs.InvalidArgument, nil},
		{"Services.GetService", work, &kryptonv1.GetServiceRequest{Name: svc}, 0, nil},
		{"Services.GetService", work, &kryptonv1.GetServiceRequest{Name: ten + "/services/none"}, errs.NotFound, nil},
		{"Services.ListServices", work, &kryptonv1.ListServicesRequest{Parent: ten, PageSize: 1}, 0, nil},
		{"Services.ListServices", gov, &kryptonv1.ListServicesRequest{Parent: "tenants/ghost"}, errs.NotFound, nil},
		{"Services.SuspendService", gov, &kryptonv1.SuspendServiceRequest{Name: ten + "/services/logs"}, 0, nil},
		{"Services.ResumeService", gov, &kryptonv1.ResumeServiceRequest{Name: ten + "/services/logs"}, 0, nil},
		{"Services.RotateService", gov, &kryptonv1.RotateServiceRequest{Name: svc, RequestId: id}, 0, nil},
		{"Services.RotateService", gov, &kryptonv1.RotateServiceRequest{Name: ten + "/services/logs", RequestId: id}, errs.RequestReplayed, nil},
		{"Services.RollbackService", gov, &kryptonv1.RollbackServiceRequest{Name: svc, Version: 1}, 0, nil},
		{"Services.RollbackService", gov, &kryptonv1.RollbackServiceRequest{Name: svc, Version: 9}, errs.NotFound, nil},
		{"Services.GetVersion", work, &kryptonv1.GetVersionRequest{Name: v1}, 0, nil},
		{"Services.GetVersion", work, &kryptonv1.GetVersionRequest{Name: svc + "/versions/primary"}, 0, nil},
		{"Services.GetVersion", gov, &kryptonv1.GetVersionRequest{Name: ten + "/versions/1"}, 0, nil},
		{"Services.GetVersion", gov, &kryptonv1.GetVersionRequest{Name: ten + "/versions/primary"}, 0, nil},
		{"Services.GetVersion", gov, &kryptonv1.GetVersionRequest{Name: svc + "/versions/99999999999"}, errs.NotFound, nil},
		{"Services.GetVersion", gov, &kryptonv1.GetVersionRequest{Name: svc + "/versions/0"}, errs.InvalidArgument, nil},
		{"Services.DisableVersion", gov, &kryptonv1.DisableVersionRequest{Name: v2}, 0, nil},
		{"Services.EnableVersion", gov, &kryptonv1.EnableVersionRequest{Name: v2}, 0, nil},
		{"Services.DisableVersion", gov, &kryptonv1.DisableVersionRequest{Name: svc + "/versions/99999999999"}, errs.NotFound, nil},
		{"Services.DisableVersion", "auditor", &kryptonv1.DisableVersionRequest{Name: svc + "/versions/99999999999"}, errs.Denied, nil},
		{"Services.DeprecateVersion", gov, &kryptonv1.DeprecateVersionRequest{Name: "tenants/other/services/pay/versions/1"}, 0, nil},
		{"Services.DeprecateVersion", gov, &kryptonv1.DeprecateVersionRequest{Name: "tenants/other/versions/7"}, errs.NotFound, nil},
		{"Services.CompromiseVersion", gov, &kryptonv1.CompromiseVersionRequest{Name: v2}, 0, nil},
		{"Services.CancelDestroyVersion", gov, &kryptonv1.CancelDestroyVersionRequest{Name: v2}, errs.FailedState, nil},
		{"Services.DestroyVersion", gov, &kryptonv1.DestroyVersionRequest{Name: v2, Now: true}, 0, nil},
		{"Services.PinResource", gov, &kryptonv1.PinResourceRequest{Name: res, Version: 1}, 0, nil},
		{"Services.PinResource", gov, &kryptonv1.PinResourceRequest{Name: svc + "/resources/%41"}, errs.InvalidArgument, nil},
		{"Services.GetResource", work, &kryptonv1.GetResourceRequest{Name: res}, 0, nil},
		{"Services.GetResource", work, &kryptonv1.GetResourceRequest{Name: svc + "/resources/free"}, 0, nil},
		{"Services.ListResources", work, &kryptonv1.ListResourcesRequest{Parent: svc}, 0, nil},
		{"Services.RollbackResource", gov, &kryptonv1.RollbackResourceRequest{Name: svc + "/resources/free"}, errs.FailedState, nil},
		{"Services.UnpinResource", gov, &kryptonv1.UnpinResourceRequest{Name: res}, 0, nil},
		{"Services.DeleteService", gov, &kryptonv1.DeleteServiceRequest{Name: ten + "/services/logs", ValidateOnly: true}, 0, nil},
		{"Services.DeleteService", gov, &kryptonv1.DeleteServiceRequest{Name: ten + "/services/none"}, errs.NotFound, nil},
		{"Services.UndeleteService", gov, &kryptonv1.UndeleteServiceRequest{Name: ten + "/services/logs"}, errs.FailedState, nil},

		{"Cluster.GetCluster", op, &kryptonv1.GetClusterRequest{}, 0, []proto.Message{&kryptonv1.ClusterInfo{}}},
		{"Cluster.GetCluster", work, &kryptonv1.GetClusterRequest{}, errs.Denied, nil},
		{"Cluster.ListNodes", op, &kryptonv1.ListNodesRequest{}, 0, []proto.Message{&kryptonv1.NodeHealth{}}},
		{"Cluster.GetNode", op, &kryptonv1.GetNodeRequest{Name: self}, 0, []proto.Message{&kryptonv1.NodeHealth{}}},
		{"Cluster.GetNode", op, &kryptonv1.GetNodeRequest{Name: nobody}, errs.NotFound, nil},
		{"Cluster.GetNode", op, &kryptonv1.GetNodeRequest{Name: "nodes/x"}, errs.InvalidArgument, nil},
		{"Cluster.CreateJoinToken", op, &kryptonv1.CreateJoinTokenRequest{TtlSeconds: 24*3600 + 1}, errs.InvalidArgument, nil},
		{"Cluster.CreateJoinToken", op, &kryptonv1.CreateJoinTokenRequest{Region: "Ü"}, errs.InvalidArgument, nil},
		{"Cluster.CreateJoinToken", gov, &kryptonv1.CreateJoinTokenRequest{}, errs.Denied, nil},
		{"Cluster.PromoteNode", op, &kryptonv1.PromoteNodeRequest{Name: nobody}, errs.NotFound, nil},
		{"Cluster.DemoteNode", op, &kryptonv1.DemoteNodeRequest{Name: self}, errs.FailedState, nil},
		{"Cluster.RemoveNode", op, &kryptonv1.RemoveNodeRequest{Name: self}, errs.FailedState, nil},
		{"Cluster.TransferLeadership", op, &kryptonv1.TransferLeadershipRequest{Target: nobody}, errs.NotFound, nil},
		{"Cluster.TransferLeadership", op, &kryptonv1.TransferLeadershipRequest{Target: "x"}, errs.InvalidArgument, nil},
		{"Cluster.SaveSnapshot", op, &kryptonv1.SaveSnapshotRequest{}, 0, []proto.Message{&kryptonv1.SaveSnapshotResponse{}}}, // has the time, and a session of its own
		{"Cluster.SaveSnapshot", op, &kryptonv1.SaveSnapshotRequest{Offset: 1}, errs.InvalidArgument, nil},
		{"Cluster.SaveSnapshot", op, &kryptonv1.SaveSnapshotRequest{Session: "none"}, errs.NotFound, nil},
		{"Cluster.SaveSnapshot", gov, &kryptonv1.SaveSnapshotRequest{}, errs.Denied, nil},
		{"Cluster.GetOperation", gov, &kryptonv1.GetOperationRequest{Name: "operations/" + id}, 0, nil},
		{"Cluster.GetOperation", op, &kryptonv1.GetOperationRequest{Name: "operations/" + id}, errs.NotFound, nil},
		{"Cluster.GetOperation", gov, &kryptonv1.GetOperationRequest{Name: "operations/x"}, errs.InvalidArgument, nil},
		{"Cluster.WaitOperation", gov, &kryptonv1.WaitOperationRequest{Name: "operations/" + strings.ToUpper(id)}, 0, nil},

		{"Cluster.SetQuorum", gov, &kryptonv1.SetQuorumRequest{Governors: 1, Custodians: 1, ValidateOnly: true}, 0, []proto.Message{&kryptonv1.ClusterInfo{}}},
		{"Cluster.SetQuorum", gov, &kryptonv1.SetQuorumRequest{Governors: 17, Custodians: 1, ValidateOnly: true}, errs.InvalidArgument, nil},
		{"Cluster.SetQuorum", gov, &kryptonv1.SetQuorumRequest{Governors: 1, Custodians: 1, Etag: `"1"`}, errs.StaleEtag, nil},
		{"Cluster.SetQuorum", op, &kryptonv1.SetQuorumRequest{Governors: 1, Custodians: 1}, errs.Denied, nil},

		{"Approvals.CreateApproval", gov, &kryptonv1.CreateApprovalRequest{}, errs.InvalidArgument, nil},
		{"Approvals.CreateApproval", gov, unsignedApproval(w.t, &kryptonv1.DeleteTenantRequest{Name: ten}), errs.FailedState, nil},
		{"Approvals.CreateApproval", gov, unsignedApproval(w.t, &kryptonv1.DeleteTenantRequest{Name: "tenants/ghost"}), errs.NotFound, nil},
		{"Approvals.CreateApproval", "custodian", unsignedApproval(w.t, &kryptonv1.DeleteTenantRequest{Name: ten}), errs.Denied, nil},
		{"Approvals.GetApproval", gov, &kryptonv1.GetApprovalRequest{Name: noApproval}, errs.NotFound, nil},
		{"Approvals.GetApproval", op, &kryptonv1.GetApprovalRequest{Name: "approvals/x"}, errs.InvalidArgument, nil},
		{"Approvals.GetApproval", work, &kryptonv1.GetApprovalRequest{Name: noApproval}, errs.Denied, nil},
		{"Approvals.ListApprovals", "auditor", &kryptonv1.ListApprovalsRequest{PageSize: 1}, 0, nil},
		{"Approvals.ListApprovals", gov, &kryptonv1.ListApprovalsRequest{Filter: "state=FAILED"}, 0, nil},
		{"Approvals.ListApprovals", gov, &kryptonv1.ListApprovalsRequest{Filter: "state=ACTIVE"}, errs.InvalidArgument, nil},
		{"Approvals.Approve", "custodian", &kryptonv1.ApproveRequest{Name: noApproval, KeyId: make([]byte, 32), Signature: []byte("s")}, errs.NotFound, nil},
		{"Approvals.Approve", gov, &kryptonv1.ApproveRequest{Name: noApproval}, errs.InvalidArgument, nil},
		{"Approvals.Approve", op, &kryptonv1.ApproveRequest{Name: noApproval, KeyId: make([]byte, 32), Signature: []byte("s")}, errs.Denied, nil},
		{"Approvals.Reject", gov, &kryptonv1.RejectRequest{Name: noApproval, Reason: "r"}, errs.NotFound, nil},
		{"Approvals.Reject", op, &kryptonv1.RejectRequest{Name: noApproval}, errs.Denied, nil},

		{"Seal.GetSeal", "custodian", &kryptonv1.GetSealRequest{}, 0, []proto.Message{&kryptonv1.SealStatus{}}},
		{"Seal.GetShard", "custodian", &kryptonv1.GetShardRequest{Index: 1}, errs.FailedState, nil},
		{"Seal.GetShard", "custodian", &kryptonv1.GetShardRequest{Index: 1, Holder: "anna"}, errs.InvalidArgument, nil},
		{"Seal.Contribute", "custodian", &kryptonv1.ContributeRequest{NodeId: "x", SealedShare: []byte("s")}, errs.ShareRefused, nil},
		{"Seal.Contribute", "custodian", &kryptonv1.ContributeRequest{NodeId: strings.TrimPrefix(self, "nodes/")}, errs.InvalidArgument, nil},
		{"Seal.Contribute", "custodian", &kryptonv1.ContributeRequest{NodeId: strings.TrimPrefix(self, "nodes/"), SealedShare: []byte("s")}, errs.NotSealed, nil},
		{"Seal.SealNode", "auditor", &kryptonv1.SealNodeRequest{}, errs.Denied, nil},
		{"Seal.SealNode", op, &kryptonv1.SealNodeRequest{Cluster: true}, errs.Denied, nil},
		{"Seal.SealNode", "custodian", &kryptonv1.SealNodeRequest{Reason: strings.Repeat("x", 257)}, errs.TooLarge, nil},
		{"Seal.ReleaseHold", "custodian", &kryptonv1.ReleaseHoldRequest{}, 0, []proto.Message{&kryptonv1.SealStatus{}}},
		{"Seal.ReleaseHold", gov, &kryptonv1.ReleaseHoldRequest{}, errs.Denied, nil},
	}
}

// TestI7_BothDoorsAnswerAlike tells gRPC and HTTP/JSON the same story and
// compares what they say, and what HTTP says with the OpenAPI file. A method without a line in the story fails.
func TestI7_BothDoorsAnswerAlike(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("other", "pay")
	w.l1("fresh-l1")
	table := httpTable(t)
	file := operations(description(t))
	told := map[string]bool{}
	for n, c := range conformance(w) {
		told[c.method] = true
		name := fmt.Sprintf("%03d %s by %s %s", n, c.method, c.who, c.want)
		req := withRequestID(c.req)
		viaGRPC, err := w.call(t, 0, c.who, c.method, proto.Clone(req))
		if got := codeOf(err); got != c.want {
			t.Errorf("%s: gRPC says %s (%v)", name, got, err)
			continue
		}
		hr, ok := w.request(t, 0, table["krypton.v1."+c.method], req)
		if !ok {
			t.Errorf("%s: no HTTP form for %v", name, req)
			continue
		}
		proto := []string{"h2", "http/1.1"}[n%2]
		a := w.do(t, c.who, proto, hr)
		if diff := cmp.Diff(refusalOf(err), a.refusal(t)); diff != "" {
			t.Errorf("%s: HTTP says something else (-grpc +http):\n%s", name, diff)
			continue
		}
		_, method, _ := strings.Cut(c.method, ".")
		if err := conforms(file[method], hr, a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, h := range []string{"Krypton-Correlation-Id", "Krypton-Node", "Krypton-Index", "Cache-Control", "X-Content-Type-Options"} {
			if len(a.header.Values(h)) != 1 {
				t.Errorf("%s: header %s is there %d times", name, h, len(a.header.Values(h)))
			}
		}
		if a.status != http.StatusOK {
			continue
		}
		viaHTTP := responseOf(t, c.method)
		if err := protojson.Unmarshal(a.body, viaHTTP); err != nil {
			t.Fatalf("%s: %v in %s", name, err, a.body)
		}
		opts := []cmp.Option{protocmp.Transform()}
		for _, f := range c.fresh {
			opts = append(opts, protocmp.IgnoreMessages(f))
		}
		if diff := cmp.Diff(viaGRPC, viaHTTP, opts...); diff != "" {
			t.Errorf("%s: answers differ (-grpc +http):\n%s", name, diff)
		}
	}
	for _, d := range services() {
		for _, m := range d.Methods {
			if name := strings.TrimPrefix(d.ServiceName, "krypton.v1.") + "." + m.MethodName; !told[name] {
				t.Errorf("%s has no line in the story of both doors", name)
			}
		}
	}
}
