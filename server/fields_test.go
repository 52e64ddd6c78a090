package server_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/internal/invariants"
	"github.com/openkcm/krypton-cluster/node"
)

// valid is a request that works, by somebody who may make it. Changes validate
// only, where they can.
type valid struct {
	who string
	req proto.Message
}

// validRequests has every method of the public doors.
func validRequests(g *ground) map[string]valid {
	const gov, op, work = "governor", "operator", "workload/acme"
	self := string(g.members[0].c.NodeID())
	done := uuid.NewString()
	g.must(gov, "Services.RotateService", &kryptonv1.RotateServiceRequest{Name: acme + "/services/logs", RequestId: done})
	v := func(n string) string { return states + "/versions/" + n }
	_, pub := newKey(g.t)
	ctx := pairs(2, 3)
	ca := newAuthority(g.t, "fresh.example")
	idp := &kryptonv1.Issuer{Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_AUDITOR}, Kind: &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{
		Url: "https://id.corp.example", Audiences: []string{"krypton"}, Ca: ca.pem(), SubjectClaim: "email", ClockSkewSeconds: 30, MaxLifeSeconds: 3600,
	}}}
	g.register("", "idp", idp)
	g.must(gov, "Policies.PutPolicy", put("old", permitAll))
	nodeCA := g.authoritySum("node-ca")
	return map[string]valid{
		"Crypto.GenerateDataKey": {work, &kryptonv1.GenerateDataKeyRequest{Service: pay, Resource: "r", EncryptionContext: ctx}},
		"Crypto.UnwrapDataKey":   {work, &kryptonv1.UnwrapDataKeyRequest{Service: pay, Wrapped: g.wrapped[pay]}},
		"Crypto.RewrapDataKey":   {work, &kryptonv1.RewrapDataKeyRequest{Service: pay, Wrapped: g.wrapped[pay]}},
		"Crypto.Encrypt":         {work, &kryptonv1.EncryptRequest{Service: pay, Resource: "r", EncryptionContext: ctx, Plaintext: g.canary}},
		"Crypto.Decrypt":         {work, &kryptonv1.DecryptRequest{Service: pay, Ciphertext: g.ciphertext[pay]}},

		"Tenants.CreateTenant":   {gov, &kryptonv1.CreateTenantRequest{TenantId: "fresh", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey}, ValidateOnly: true}},
		"Tenants.GetTenant":      {gov, &kryptonv1.GetTenantRequest{Name: acme}},
		"Tenants.ListTenants":    {gov, &kryptonv1.ListTenantsRequest{PageSize: 2}},
		"Tenants.SuspendTenant":  {gov, &kryptonv1.SuspendTenantRequest{Name: acme, ValidateOnly: true}},
		"Tenants.ResumeTenant":   {gov, &kryptonv1.ResumeTenantRequest{Name: "tenants/idle", ValidateOnly: true}},
		"Tenants.DeleteTenant":   {gov, &kryptonv1.DeleteTenantRequest{Name: acme, ValidateOnly: true}},
		"Tenants.UndeleteTenant": {gov, &kryptonv1.UndeleteTenantRequest{Name: "tenants/doomed", ValidateOnly: true}},
		"Tenants.BindTenant": {gov, &kryptonv1.BindTenantRequest{
			Name: "tenants/unbound", ValidateOnly: true,
			Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey},
		}},
		"Tenants.RotateTenant":   {gov, &kryptonv1.RotateTenantRequest{Name: acme, ValidateOnly: true}},
		"Tenants.RollbackTenant": {gov, &kryptonv1.RollbackTenantRequest{Name: acme, ValidateOnly: true, Version: 1}},

		"Services.CreateService":        {gov, &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: "fresh", ValidateOnly: true}},
		"Services.GetService":           {gov, &kryptonv1.GetServiceRequest{Name: pay}},
		"Services.ListServices":         {gov, &kryptonv1.ListServicesRequest{Parent: acme, PageSize: 2}},
		"Services.DeleteService":        {gov, &kryptonv1.DeleteServiceRequest{Name: pay, ValidateOnly: true}},
		"Services.UndeleteService":      {gov, &kryptonv1.UndeleteServiceRequest{Name: acme + "/services/doomed", ValidateOnly: true}},
		"Services.SuspendService":       {gov, &kryptonv1.SuspendServiceRequest{Name: pay, ValidateOnly: true}},
		"Services.ResumeService":        {gov, &kryptonv1.ResumeServiceRequest{Name: acme + "/services/idle", ValidateOnly: true}},
		"Services.RotateService":        {gov, &kryptonv1.RotateServiceRequest{Name: pay, ValidateOnly: true}},
		"Services.RollbackService":      {gov, &kryptonv1.RollbackServiceRequest{Name: states, ValidateOnly: true, Version: 6}},
		"Services.GetVersion":           {gov, &kryptonv1.GetVersionRequest{Name: v("primary")}},
		"Services.EnableVersion":        {gov, &kryptonv1.EnableVersionRequest{Name: v("1"), ValidateOnly: true}},
		"Services.DisableVersion":       {gov, &kryptonv1.DisableVersionRequest{Name: v("7"), ValidateOnly: true}},
		"Services.DeprecateVersion":     {gov, &kryptonv1.DeprecateVersionRequest{Name: v("6"), ValidateOnly: true}},
		"Services.CompromiseVersion":    {gov, &kryptonv1.CompromiseVersionRequest{Name: v("6"), ValidateOnly: true}},
		"Services.DestroyVersion":       {gov, &kryptonv1.DestroyVersionRequest{Name: v("6"), ValidateOnly: true}},
		"Services.CancelDestroyVersion": {gov, &kryptonv1.CancelDestroyVersionRequest{Name: v("4"), ValidateOnly: true}},
		"Services.PinResource":          {gov, &kryptonv1.PinResourceRequest{Name: pin("fresh"), Version: 6, ValidateOnly: true}},
		"Services.UnpinResource":        {gov, &kryptonv1.UnpinResourceRequest{Name: pin("held"), ValidateOnly: true}},
		"Services.RollbackResource":     {gov, &kryptonv1.RollbackResourceRequest{Name: pin("held"), ValidateOnly: true}},
		"Services.GetResource":          {gov, &kryptonv1.GetResourceRequest{Name: pin("held")}},
		"Services.ListResources":        {gov, &kryptonv1.ListResourcesRequest{Parent: states}},

		"Cluster.GetCluster":         {op, &kryptonv1.GetClusterRequest{}},
		"Cluster.ListNodes":          {op, &kryptonv1.ListNodesRequest{}},
		"Cluster.GetNode":            {op, &kryptonv1.GetNodeRequest{Name: "nodes/" + self}},
		"Cluster.CreateJoinToken":    {op, &kryptonv1.CreateJoinTokenRequest{Region: "eu"}},
		"Cluster.PromoteNode":        {op, &kryptonv1.PromoteNodeRequest{Name: "nodes/" + self, ValidateOnly: true}},
		"Cluster.DemoteNode":         {op, &kryptonv1.DemoteNodeRequest{Name: "nodes/" + self, ValidateOnly: true}},
		"Cluster.RemoveNode":         {op, &kryptonv1.RemoveNodeRequest{Name: "nodes/" + self, ValidateOnly: true}},
		"Cluster.TransferLeadership": {op, &kryptonv1.TransferLeadershipRequest{}},
		"Cluster.SaveSnapshot":       {op, &kryptonv1.SaveSnapshotRequest{}},
		"Cluster.GetOperation":       {gov, &kryptonv1.GetOperationRequest{Name: "operations/" + done}},
		"Cluster.WaitOperation":      {gov, &kryptonv1.WaitOperationRequest{Name: "operations/" + done}},

		"Cluster.SetQuorum": {gov, &kryptonv1.SetQuorumRequest{Governors: 1, Custodians: 1, ValidateOnly: true}},

		"Approvals.CreateApproval": {gov, unsignedApproval(g.t, &kryptonv1.DeleteTenantRequest{Name: acme})},
		"Approvals.GetApproval":    {gov, &kryptonv1.GetApprovalRequest{Name: noApproval}},
		"Approvals.ListApprovals":  {gov, &kryptonv1.ListApprovalsRequest{PageSize: 2}},
		"Approvals.Approve":        {gov, &kryptonv1.ApproveRequest{Name: noApproval, KeyId: make([]byte, 32), Signature: []byte("s")}},
		"Approvals.Reject":         {gov, &kryptonv1.RejectRequest{Name: noApproval, Reason: "r", ValidateOnly: true}},

		"Access.WhoAmI":           {gov, &kryptonv1.WhoAmIRequest{}},
		"Access.IssueCertificate": {gov, &kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: acme, Name: "w", PublicKey: pub}},

		"Access.RevokeCertificate": {gov, &kryptonv1.RevokeCertificateRequest{Serial: "5f2a", Reason: "found in a log", ValidateOnly: true}},
		"Access.ListRevocations":   {gov, &kryptonv1.ListRevocationsRequest{PageSize: 2}},
		"Access.GetAuthorities":    {gov, &kryptonv1.GetAuthoritiesRequest{}},
		"Access.ReplaceAuthority":  {gov, &kryptonv1.ReplaceAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA, OverlapSeconds: 60, ValidateOnly: true}},
		"Access.RetireAuthority":   {gov, &kryptonv1.RetireAuthorityRequest{Name: "authorities/node-ca", BaseSha256: nodeCA, ValidateOnly: true}},

		"Access.RenewCertificate": {"auditor", &kryptonv1.RenewCertificateRequest{TtlSeconds: 3600}},
		"Access.CreateIssuer":     {gov, &kryptonv1.CreateIssuerRequest{Parent: acme, IssuerId: "fresh", Issuer: ca.issuer(kryptonv1.Role_ROLE_WORKLOAD), ValidateOnly: true}},
		"Access.UpdateIssuer":     {gov, &kryptonv1.UpdateIssuerRequest{Name: "issuers/idp", Issuer: idp, ValidateOnly: true}},
		"Access.GetIssuer":        {gov, &kryptonv1.GetIssuerRequest{Name: "issuers/corp"}},
		"Access.ListIssuers":      {gov, &kryptonv1.ListIssuersRequest{Parent: acme, PageSize: 2}},
		"Access.DeleteIssuer":     {gov, &kryptonv1.DeleteIssuerRequest{Name: "issuers/corp", ValidateOnly: true}},
		"Access.CreateRoleBinding": {gov, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "fresh", ValidateOnly: true, RoleBinding: &kryptonv1.RoleBinding{
			Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gabi", Keys: []*kryptonv1.AuthorityKey{{PublicKey: spki(g.t), Sign: true, Tls: true}}, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
		}}},
		"Access.GetRoleBinding":    {gov, &kryptonv1.GetRoleBindingRequest{Name: "roleBindings/alice"}},
		"Access.ListRoleBindings":  {gov, &kryptonv1.ListRoleBindingsRequest{Parent: acme, PageSize: 2}},
		"Access.DeleteRoleBinding": {gov, &kryptonv1.DeleteRoleBindingRequest{Name: acme + "/roleBindings/x", ValidateOnly: true}},
		"Tenants.SetGovernors":     {gov, &kryptonv1.SetGovernorsRequest{Name: acme, Governors: []string{"roleBindings/alice"}, ValidateOnly: true}},

		"Policies.PutPolicy":    {gov, &kryptonv1.PutPolicyRequest{Name: acme + "/policies/fresh", Text: permitAll, Create: true, ValidateOnly: true}},
		"Policies.GetPolicy":    {gov, &kryptonv1.GetPolicyRequest{Name: acme + "/policies/old"}},
		"Policies.ListPolicies": {gov, &kryptonv1.ListPoliciesRequest{Parent: acme, PageSize: 2}},
		"Policies.DeletePolicy": {gov, &kryptonv1.DeletePolicyRequest{Name: acme + "/policies/old", ValidateOnly: true}},
		"Policies.TestPolicy": {gov, &kryptonv1.TestPolicyRequest{
			Parent: acme, Changes: []*kryptonv1.PolicyText{{PolicyId: "new", Text: permitRead}}, Subject: &kryptonv1.PolicySubject{Member: "app", Role: kryptonv1.Role_ROLE_WORKLOAD, Issuer: "issuers/builtin"},
			Action: "crypto.encrypt", Service: "pay", Resource: "r", Version: 1, EncryptionContext: []*kryptonv1.ContextPair{{Key: "k", Value: "v"}}, Region: "eu",
		}},

		"Seal.GetSeal":     {gov, &kryptonv1.GetSealRequest{}},
		"Seal.GetShard":    {"custodian", &kryptonv1.GetShardRequest{Holder: "anna"}},
		"Seal.Contribute":  {"custodian", &kryptonv1.ContributeRequest{NodeId: self, SealedShare: []byte("s")}},
		"Seal.ReleaseHold": {"custodian", &kryptonv1.ReleaseHoldRequest{}},
		// It may not seal: the node is needed.
		"Seal.SealNode": {"auditor", &kryptonv1.SealNodeRequest{Reason: "r"}},
	}
}

// odd is in every text below that is not a name of the ground: no error may
// repeat it.
const odd = "Zq7Xw"

// notUTF8 stands for as many bytes that are no UTF-8. Our encoders refuse such
// text, other people's may not.
const notUTF8 = "@@NOT-UTF8@@"

func ff(with string) string { return strings.Repeat(with, len(notUTF8)) }

// oddTexts is what may stand in a field of text.
func oddTexts(now string) []string {
	return []string{
		"", odd, notUTF8, now + notUTF8, now + odd, now + "/" + odd, "/" + now, now + "/", strings.ToUpper(now), " " + now, now + "\x00" + odd, now + "\n" + odd,
		odd + "\u202e", odd + "\u00e9\U0001f511", "%2F" + odd, now + "%00", "..", odd + "/../" + now, odd + "?x=1#y", odd + "&validateOnly=false", odd + ":suspend",
		strings.Repeat("n", hierarchy.MaxNameBytes) + odd, strings.Repeat(odd, 500), `"` + odd + `"`, `"1"`, `"18446744073709551616"`, `{"` + odd + `":1}`,
		uuid.NewString(), "state=ACTIVE", "state=" + odd, acme, pay, states + "/versions/1", pin("held"), "tenants/other", "tenants/gone", "cluster",
		"nodes/" + strings.Repeat("0", 32), "nodes/" + odd, "operations/" + odd, "krypton", "AAAA", "-1", "1e9",
	}
}

func oddNumbers() []uint32 {
	return []uint32{
		0, 1, 2, 15, 16, 59, 60, 64, 65, 99, 1000, 1001, hierarchy.MaxVersions, hierarchy.MaxVersions + 1, 24 * 3600, 24*3600 + 1, 30 * 24 * 3600, 30*24*3600 + 1,
		math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32,
	}
}

func oddBytes(now []byte) [][]byte {
	out := [][]byte{nil, {0}, []byte(odd), bytes.Repeat([]byte{0xa5}, 200), bytes.Repeat([]byte(odd), 2000), append(bytes.Clone(now), 0), make([]byte, node.MaxData+200)}
	if len(now) > 0 {
		out = append(out, now[:len(now)-1], now[1:], flipped(now, 1), flipped(now, 8*len(now)-1))
	}
	return out
}

func oddEnums() []protoreflect.EnumNumber {
	return []protoreflect.EnumNumber{math.MinInt32, -1, 0, 1, 2, 3, 4, 5, 6, 7, 99, math.MaxInt32}
}

// oddValues are values of a field that is now in m.
func oddValues(m protoreflect.Message, fd protoreflect.FieldDescriptor) (out []protoreflect.Value) {
	switch {
	case fd.Message() != nil && fd.Message().FullName() == anyMessage:
		// What JSON can say; FuzzSovereignRequest has the rest.
		for _, one := range []proto.Message{
			&kryptonv1.DeleteTenantRequest{}, &kryptonv1.DeleteTenantRequest{Name: odd}, &kryptonv1.DeleteTenantRequest{Name: "tenants/gone", Now: true},
			&kryptonv1.DeleteTenantRequest{Name: acme, ValidateOnly: true}, &kryptonv1.DeleteTenantRequest{Name: acme, RequestId: odd},
			&kryptonv1.GetTenantRequest{Name: acme}, &kryptonv1.CreateApprovalRequest{}, &kryptonv1.CreateTenantRequest{TenantId: odd}, &kryptonv1.PromoteNodeRequest{Name: odd},
			&kryptonv1.DestroyVersionRequest{Name: strings.Repeat(odd, 20000)}, &kryptonv1.SetQuorumRequest{Governors: math.MaxUint32}, &timestamppb.Timestamp{Seconds: 1},
		} {
			wrapped, err := anypb.New(one)
			if err != nil {
				panic(err)
			}
			out = append(out, protoreflect.ValueOfMessage(wrapped.ProtoReflect()))
		}
		out = append(out, protoreflect.ValueOfMessage(m.NewField(fd).Message()))
	case fd.IsList() && fd.Message() != nil && fd.Message().FullName() != contextPair:
		out = oddLists(m, fd)
	case fd.IsList() && fd.Message() == nil:
		out = oddLists(m, fd)
	case fd.IsList():
		for _, ps := range [][]*kryptonv1.ContextPair{
			nil,
			{{}},
			{{Key: "k"}},
			{{Key: "k"}, {Key: "k"}},
			{{Key: odd, Value: odd}, {Value: odd}},
			{{Key: "krypton" + odd}},
			{{Key: notUTF8}},
			{{Key: "k", Value: notUTF8}},
			pairs(hierarchy.MaxContextPairs, 1), pairs(hierarchy.MaxContextPairs+1, 1),
			{{Key: "k", Value: strings.Repeat(odd, hierarchy.MaxContextBytes)}},
			{{Key: "a\x00", Value: "\n"}},
		} {
			list := m.NewField(fd).List()
			for _, p := range ps {
				list.Append(protoreflect.ValueOfMessage(p.ProtoReflect()))
			}
			out = append(out, protoreflect.ValueOfList(list))
		}
	case fd.Kind() == protoreflect.StringKind:
		for _, s := range oddTexts(m.Get(fd).String()) {
			out = append(out, protoreflect.ValueOfString(s))
		}
	case fd.Kind() == protoreflect.BytesKind:
		for _, b := range oddBytes(m.Get(fd).Bytes()) {
			out = append(out, protoreflect.ValueOfBytes(b))
		}
	case fd.Kind() == protoreflect.Int32Kind:
		for _, n := range []int32{0, 1, 999_999_999} { // nanoseconds of a time; others JSON cannot say
			out = append(out, protoreflect.ValueOfInt32(n))
		}
	case fd.Kind() == protoreflect.Int64Kind:
		for _, n := range []int64{-62135596800, -1, 0, 1, 253402300799} { // seconds of a time; others JSON cannot say
			out = append(out, protoreflect.ValueOfInt64(n))
		}
	case fd.Kind() == protoreflect.Uint32Kind:
		for _, n := range oddNumbers() {
			out = append(out, protoreflect.ValueOfUint32(n))
		}
	case fd.Kind() == protoreflect.EnumKind:
		for _, n := range oddEnums() {
			out = append(out, protoreflect.ValueOfEnum(n))
		}
	case fd.Kind() == protoreflect.Uint64Kind:
		for _, n := range []uint64{0, 1, math.MaxInt64, math.MaxUint64} {
			out = append(out, protoreflect.ValueOfUint64(n))
		}
	case fd.Kind() == protoreflect.BoolKind:
		if fd.Name() != "validate_only" { // it is what keeps the ground as it is
			out = append(out, protoreflect.ValueOfBool(false), protoreflect.ValueOfBool(true))
		}
	case fd.Kind() == protoreflect.MessageKind:
		sub := m.NewField(fd).Message()
		if m.Has(fd) {
			sub = m.Get(fd).Message()
		}
		out = append(out, protoreflect.ValueOfMessage(m.NewField(fd).Message()))
		for i := range sub.Descriptor().Fields().Len() {
			inner := sub.Descriptor().Fields().Get(i)
			for _, v := range oddValues(sub, inner) {
				c := proto.Clone(sub.Interface()).ProtoReflect()
				c.Set(inner, v)
				out = append(out, protoreflect.ValueOfMessage(c))
			}
		}
	default:
		panic("a field of a kind that the tests do not know: " + fd.FullName())
	}
	return out
}

const anyMessage = protoreflect.FullName("google.protobuf.Any")

// contextPair has odd values of its own.
const contextPair = protoreflect.FullName("krypton.v1.ContextPair")

// oddLists are lists of what is odd by itself: none of it, one of each, one of them
// twice, and too many.
func oddLists(m protoreflect.Message, fd protoreflect.FieldDescriptor) (out []protoreflect.Value) {
	now := m.Get(fd).List()
	var ones []protoreflect.Value
	switch fd.Kind() {
	case protoreflect.StringKind:
		is := ""
		if now.Len() > 0 {
			is = now.Get(0).String()
		}
		for _, s := range oddTexts(is) {
			ones = append(ones, protoreflect.ValueOfString(s))
		}
	case protoreflect.EnumKind:
		for _, n := range oddEnums() {
			ones = append(ones, protoreflect.ValueOfEnum(n))
		}
	case protoreflect.MessageKind:
		one := m.NewField(fd).List().NewElement().Message()
		if now.Len() > 0 {
			one = now.Get(0).Message()
		}
		fields := one.Descriptor().Fields()
		for i := range fields.Len() {
			for _, v := range oddValues(one, fields.Get(i)) {
				c := proto.Clone(one.Interface()).ProtoReflect()
				c.Set(fields.Get(i), v)
				ones = append(ones, protoreflect.ValueOfMessage(c))
			}
		}
		ones = append(ones, protoreflect.ValueOfMessage(one))
	default:
		panic("a list of a kind that the tests do not know: " + fd.FullName())
	}
	list := func(values ...protoreflect.Value) {
		l := m.NewField(fd).List()
		for _, v := range values {
			l.Append(v)
		}
		out = append(out, protoreflect.ValueOfList(l))
	}
	list()
	for _, v := range ones {
		list(v)
	}
	last := ones[len(ones)-1]
	list(last, last)
	list(slices.Repeat([]protoreflect.Value{last}, 200)...)
	return out
}

// allowed is what may come of a request that is wrong in some field. INTERNAL
// and what makes a caller try again is not among it.
//
//nolint:gochecknoglobals // Immutable.
var allowed = []errs.Code{
	errs.Unspecified, errs.InvalidArgument, errs.TooLarge, errs.NotFound, errs.AlreadyExists, errs.Denied, errs.FailedState, errs.StaleEtag,
	errs.RequestReplayed, errs.LimitReached, errs.Integrity, errs.KeystoreMisconfigured, errs.ShareRefused, errs.NotSealed,
}

// badly sends a request through both doors and holds what every answer has to
// be.
func (g *ground) badly(t *testing.T, table map[string][]binding, who, method string, m proto.Message) {
	t.Helper()
	// The leader's own clockwork may fall between the two looks at the registry,
	// but not every time.
	for tries := 1; g.sends(t, table, who, method, m) && !t.Failed(); tries++ {
		if tries == 3 {
			t.Errorf("%s %.300v: it was refused and changed the registry", method, m)
		}
	}
}

// sends sends a request once and reports whether it was refused and something
// changed.
func (g *ground) sends(t *testing.T, table map[string][]binding, who, method string, m proto.Message) bool {
	t.Helper()
	before := g.members[0].state.View()
	m = withRequestID(proto.Clone(m))
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s %.300v", method, m)
	err = g.raw(t, who, method, bytes.ReplaceAll(raw, []byte(notUTF8), []byte(ff("\xff"))))
	said := refusalOf(err)
	if err != nil && !fromKrypton(err) {
		t.Errorf("%s: gRPC itself answered: %v", name, err)
	}
	check := func(door string, r refusal) {
		t.Helper()
		if !slices.Contains(allowed, r.Code) {
			t.Errorf("%s: %s answers %s: %s", name, door, r.Code, r.Msg)
		}
		line := r.Msg + "; " + r.Hint
		if len(line) > situationtest.MaxLine || strings.ContainsFunc(line, unicode.IsControl) || strings.Contains(line, odd) || strings.Contains(line, "@@") {
			t.Errorf("%s: %s says %.700q", name, door, line)
		}
		if r.Code != errs.Unspecified && (r.Msg == "" || r.Hint == "") {
			t.Errorf("%s: %s does not say what is wrong, or what to do next: %q", name, door, line)
		}
	}
	check("gRPC", said)
	hr, ok := g.request(t, 0, table["krypton.v1."+method], m)
	if ok {
		a := g.do(t, who, "h2", notUTF8Request(t, hr))
		r := a.refusal(t)
		check("HTTP", r)
		switch {
		case r.Code == said.Code:
		case r.Msg == "no such path" && said.Code == errs.InvalidArgument: // a name that no path has room for
		case method == "Cluster.CreateJoinToken" && said.Code == errs.Unspecified && r.Code == errs.FailedState: // shown once
		default:
			t.Errorf("%s: gRPC says %v and HTTP %v", name, said, r)
		}
		if r.Code == errs.Unspecified {
			return false
		}
	}
	return said.Code != errs.Unspecified && changed(t, before, g.members[0].state.View())
}

// fromKrypton reports whether an error carries our details.
func fromKrypton(err error) bool {
	return errs.From(wire.FromStatus(err)).Hint != ""
}

// notUTF8Request puts bytes that are no UTF-8 where their stand-in is.
func notUTF8Request(t *testing.T, r *http.Request) *http.Request {
	t.Helper()
	u := r.URL.String()
	for _, form := range []string{notUTF8, url.QueryEscape(notUTF8), url.PathEscape(notUTF8)} {
		u = strings.ReplaceAll(u, form, ff("%FF"))
	}
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	r.URL = parsed
	if r.Body == nil {
		return r
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	body = bytes.ReplaceAll(body, []byte(notUTF8), []byte(ff("\xff")))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
	r.ContentLength = int64(len(body))
	return r
}

func methods(t testing.TB, table map[string]valid) (out []string) {
	t.Helper()
	for _, d := range services() {
		for _, m := range d.Methods {
			name := strings.TrimPrefix(d.ServiceName, "krypton.v1.") + "." + m.MethodName
			if _, ok := table[name]; !ok {
				t.Errorf("%s has no valid request", name)
			}
			out = append(out, name)
		}
	}
	return out
}

// TestEveryFieldOfEveryMethodTakesAnything puts every odd value into every field
// of every request, one at a time. It is not parallel to other tests: it makes
// thousands of calls at once, and their nodes would lose touch with their leaders.
func TestEveryFieldOfEveryMethodTakesAnything(t *testing.T) {
	g := newGround(t)
	table, forms := validRequests(g), httpTable(t)
	// Under the race detector every fourth value, other ones in each field: what the
	// detector may find does not lie in the value. scripts/ci has all without it.
	stride := 1
	if invariants.Race {
		stride = 4
	}
	var n atomic.Int64
	one := func(t *testing.T, method string) {
		t.Helper()
		base := table[method]
		g.badly(t, forms, base.who, method, base.req)
		fields := base.req.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			for k, v := range oddValues(base.req.ProtoReflect(), fields.Get(i)) {
				if (k+i)%stride != 0 {
					continue
				}
				m := proto.Clone(base.req)
				m.ProtoReflect().Set(fields.Get(i), v)
				if !waits(method, m) {
					g.badly(t, forms, base.who, method, m)
					n.Add(1)
				}
			}
		}
	}
	// What may really change something comes after what must not.
	acts := []string{"Cluster.CreateJoinToken", "Cluster.SaveSnapshot", "Seal.ReleaseHold"}
	t.Run("change nothing", func(t *testing.T) {
		for _, method := range methods(t, table) {
			if !slices.Contains(acts, method) {
				t.Run(method, func(t *testing.T) {
					t.Parallel()
					one(t, method)
				})
			}
		}
	})
	for _, method := range acts {
		one(t, method)
	}
	if n.Load() < int64(3000/stride) {
		t.Errorf("only %d requests: fields are not found", n.Load())
	}
	g.noTrace(t)
}

// waits reports whether a request waits for what never comes.
func waits(method string, m proto.Message) bool {
	r, ok := m.(*kryptonv1.WaitOperationRequest)
	if !ok || method != "Cluster.WaitOperation" {
		return false
	}
	_, err := uuid.Parse(strings.TrimPrefix(r.GetName(), "operations/"))
	return err == nil
}

// arbitrary draws a request: a method, and anything in some of its fields.
func arbitrary(t *rapid.T, all []string, table map[string]valid) (string, proto.Message) {
	method := rapid.SampledFrom(all).Draw(t, "method")
	m := proto.Clone(table[method].req)
	fields := m.ProtoReflect().Descriptor().Fields()
	for range min(fields.Len(), rapid.IntRange(1, 3).Draw(t, "fields")) {
		fd := fields.Get(rapid.IntRange(0, fields.Len()-1).Draw(t, "field"))
		var v protoreflect.Value
		now := m.ProtoReflect().Get(fd)
		switch {
		case rapid.Bool().Draw(t, "from the list") || fd.IsList() || fd.Message() != nil || fd.Kind() == protoreflect.BoolKind:
			values := oddValues(m.ProtoReflect(), fd)
			if len(values) == 0 {
				continue
			}
			v = rapid.SampledFrom(values).Draw(t, "value")
		case fd.Kind() == protoreflect.StringKind:
			v = protoreflect.ValueOfString(around(t, now.String()))
		case fd.Kind() == protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"))
		case fd.Kind() == protoreflect.EnumKind:
			v = protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32().Draw(t, "enum")))
		default:
			v = protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "number"))
		}
		m.ProtoReflect().Set(fd, v)
	}
	return method, m
}

// around draws text that is like the one that is right.
func around(t *rapid.T, now string) string {
	text := rapid.StringN(0, 40, 200)
	switch rapid.IntRange(0, 4).Draw(t, "how") {
	case 0:
		return text.Draw(t, "text")
	case 1:
		return now + text.Draw(t, "behind")
	case 2:
		at := rapid.IntRange(0, len(now)).Draw(t, "at")
		return strings.ToValidUTF8(now[:at]+text.Draw(t, "within")+now[at:], "")
	case 3:
		return strings.ToValidUTF8(now[:rapid.IntRange(0, len(now)).Draw(t, "cut")], "")
	}
	return hex.EncodeToString(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "hex"))
}

// TestSeveralFieldsTakeAnything is the same for several fields at once, drawn.
func TestSeveralFieldsTakeAnything(t *testing.T) {
	g := newGround(t)
	table, forms := validRequests(g), httpTable(t)
	all := methods(t, table)
	rapid.Check(t, func(rt *rapid.T) {
		method, m := arbitrary(rt, all, table)
		if waits(method, m) {
			return
		}
		g.badly(t, forms, table[method].who, method, m)
		if t.Failed() {
			rt.Fatalf("%s with %v", method, m)
		}
	})
	g.noTrace(t)
}

// helpless is a testing.F that the fuzz target's own helpers may be called with.
type helpless struct{ testing.TB }

func (helpless) Helper() {}

// FuzzEveryMethod draws the same from what the fuzzer finds.
func FuzzEveryMethod(f *testing.F) {
	for i := range byte(60) {
		var seed []byte
		for sum := sha256.Sum256([]byte{i}); len(seed) < 1024; sum = sha256.Sum256(sum[:]) {
			seed = append(seed, sum[:]...)
		}
		f.Add(seed)
	}
	g := newGround(helpless{f})
	table, forms := validRequests(g), httpTable(f)
	all := methods(f, table)
	f.Fuzz(func(t *testing.T, in []byte) {
		// An input that ends too soon goes on with what follows from it: a draw that
		// runs out would be a skipped test.
		long := slices.Clone(in)
		for sum := sha256.Sum256(in); len(long) < 64<<10; sum = sha256.Sum256(sum[:]) {
			long = append(long, sum[:]...)
		}
		rapid.MakeFuzz(func(rt *rapid.T) {
			method, m := arbitrary(rt, all, table)
			if !waits(method, m) {
				g.badly(t, forms, table[method].who, method, m)
			}
		})(t, long)
	})
}
