package orders_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

const (
	space     = "0102030405060708090a0b0c0d0e0f10"
	tenantUID = "11111111111111111111111111111111"
	aliceUID  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	bobUID    = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	issuerUID = "cccccccccccccccccccccccccccccccc"
)

// says is what one node answers to reads, by the name of the object.
type says struct {
	keyspace string
	uids     map[string]string
	rules    []*kryptonv1.IntentRule
	self     string                            // role binding of the caller
	member   string                            // who every role binding is of; empty: as it is called
	bound    map[string]*kryptonv1.RoleBinding // in place of what uids has
}

func honest() says {
	return says{
		keyspace: space, self: "roleBindings/alice",
		uids: map[string]string{
			"tenants/acme": tenantUID, "tenants/acme/policies/old": "there", "roleBindings/alice": aliceUID, "roleBindings/bob": bobUID, "issuers/builtin": issuerUID,
		},
		rules: rules(true),
	}
}

func rules(requester bool) (out []*kryptonv1.IntentRule) {
	for _, a := range intent.Acts() {
		out = append(out, &kryptonv1.IntentRule{Act: a.String(), Governors: 1, RequesterCounts: requester})
	}
	return out
}

// Invoke implements client.Conn.
func (s *says) Invoke(_ context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	fill := func(m proto.Message) { proto.Merge(reply.(proto.Message), m) }
	none := wire.ToStatus(errs.New(errs.NotFound, "no such object")).Err()
	switch r := args.(type) {
	case *kryptonv1.GetClusterRequest:
		fill(&kryptonv1.ClusterInfo{KeyspaceId: s.keyspace, Rules: s.rules, Etag: `"5"`})
	case *kryptonv1.GetTenantRequest:
		if s.uids[r.GetName()] == "" {
			return none
		}
		fill(&kryptonv1.Tenant{Name: r.GetName(), Uid: s.uids[r.GetName()], Etag: `"7"`})
	case *kryptonv1.GetRoleBindingRequest:
		if s.bound != nil {
			if s.bound[r.GetName()] == nil {
				return none
			}
			fill(s.bound[r.GetName()])
			return nil
		}
		if s.uids[r.GetName()] == "" {
			return none
		}
		fill(s.binding(r.GetName()))
	case *kryptonv1.ListRoleBindingsRequest:
		out := &kryptonv1.ListRoleBindingsResponse{}
		for name := range s.uids {
			if strings.HasPrefix(name, "roleBindings/") {
				out.RoleBindings = append(out.RoleBindings, s.binding(name))
			}
		}
		fill(out)
	case *kryptonv1.ListIssuersRequest:
		fill(&kryptonv1.ListIssuersResponse{Issuers: []*kryptonv1.Issuer{{Name: "issuers/builtin", Uid: s.uids["issuers/builtin"]}}})
	case *kryptonv1.ListTenantsRequest:
		fill(&kryptonv1.ListTenantsResponse{Tenants: []*kryptonv1.Tenant{{Name: "tenants/acme", Uid: s.uids["tenants/acme"]}}})
	case *kryptonv1.WhoAmIRequest:
		fill(&kryptonv1.WhoAmIResponse{Role: kryptonv1.Role_ROLE_GOVERNOR, RoleBinding: s.self})
	case *kryptonv1.GetPolicyRequest:
		if s.uids[r.GetName()] == "" {
			return none
		}
		fill(&kryptonv1.Policy{Name: r.GetName(), Etag: `"10"`})
	case *kryptonv1.GetIssuerRequest:
		if s.uids[r.GetName()] == "" {
			return none
		}
		fill(&kryptonv1.Issuer{Name: r.GetName(), Uid: s.uids[r.GetName()], Etag: `"9"`})
	default:
		return wire.ToStatus(errs.Newf(errs.Internal, "unexpected %s", method)).Err()
	}
	return nil
}

func (s *says) binding(name string) *kryptonv1.RoleBinding {
	return &kryptonv1.RoleBinding{
		Name: name, Uid: s.uids[name], Etag: `"8"`, Role: kryptonv1.Role_ROLE_GOVERNOR, Member: cmp.Or(s.member, strings.TrimPrefix(name, "roleBindings/")),
	}
}

func (*says) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errs.New(errs.Unimplemented, "no streams")
}

func (*says) Close() error { return nil }

// network is nodes by their addresses.
type network map[string]*says

func (network) Check(string) error { return nil }

func (n network) Dial(addr string, _ *tls.Config) (client.Conn, error) { return n[addr], nil }

func dial(t *testing.T, nodes ...says) *client.Client {
	t.Helper()
	n, opts := network{}, client.Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}
	for i := range nodes {
		addr := string(rune('a'+i)) + ":1"
		n[addr], opts.Addrs = &nodes[i], append(opts.Addrs, addr)
	}
	opts.Transport = n
	c, err := client.New(t.Context(), client.With(opts))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func raw(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestI1_AnOrderIsWhatTheStateMachineSaysOfTheCommand(t *testing.T) {
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	binding := &fsmpb.RoleBinding{
		Id: "governor-gina", IssuerUid: raw(t, issuerUID), Role: "governor", Name: "gina", Platform: true, ExpireTimeMs: 5_000,
		Keys: []*fsmpb.BindingKey{{Key: &fsmpb.PublicKey{Algorithm: fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519, Raw: pub}, Sign: true, Tls: true}},
	}
	plain := proto.CloneOf(binding)
	plain.Platform, plain.ExpireTimeMs = false, 0
	for _, tc := range []struct {
		name string
		req  proto.Message
		cmd  *fsmpb.Command
		only []intent.Precondition
	}{
		{
			"create tenant",
			&kryptonv1.CreateTenantRequest{TenantId: "new", Binding: &kryptonv1.Binding{Keystore: "ks", Key: "k", Archetype: "hyok"}, Governors: []string{"roleBindings/bob", "roleBindings/alice"}},
			&fsmpb.Command{Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
				Name: "new", Binding: &fsmpb.Binding{Keystore: "ks", Key: "k", Archetype: "hyok"}, Governors: [][]byte{raw(t, aliceUID), raw(t, bobUID)},
			}}},
			[]intent.Precondition{{Object: "tenants/new", ModIndex: 0}},
		},
		{
			"destroy tenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/acme", Now: true},
			&fsmpb.Command{Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{
				Object: &fsmpb.ObjectRef{Tenant: "acme"}, Event: fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY, Now: true,
			}}},
			[]intent.Precondition{{Object: "tenants/acme", ModIndex: 7}},
		},
		{
			"governors", &kryptonv1.SetGovernorsRequest{Name: "tenants/acme", Governors: []string{"roleBindings/bob", "roleBindings/alice", "roleBindings/bob"}},
			&fsmpb.Command{Body: &fsmpb.Command_SetTenantGovernors{SetTenantGovernors: &fsmpb.SetTenantGovernors{
				Tenant: "acme", TenantUid: raw(t, tenantUID), Governors: [][]byte{raw(t, aliceUID), raw(t, bobUID)},
			}}},
			[]intent.Precondition{{Object: "tenants/acme", ModIndex: 7}},
		},
		{
			"bind", &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "governor-gina", RoleBinding: &kryptonv1.RoleBinding{
				Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gina", Platform: true, ExpireTime: timestamppb.New(time.UnixMilli(5_000)),
				Keys: []*kryptonv1.AuthorityKey{{PublicKey: spki, Sign: true, Tls: true}},
			}},
			&fsmpb.Command{Body: &fsmpb.Command_BindRole{BindRole: &fsmpb.BindRole{Binding: binding}}},
			[]intent.Precondition{{Object: "roleBindings/governor-gina", ModIndex: 0}},
		},
		{
			"voter token", &kryptonv1.CreateJoinTokenRequest{Voter: true, Region: "eu", KeyHash: make([]byte, 32), ExpireTime: timestamppb.New(time.UnixMilli(9_000))},
			&fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: &fsmpb.JoinToken{Voter: true, Region: "eu", Hash: make([]byte, 32), ExpireTimeMs: 9_000}}}},
			nil,
		},
		{
			"issuer", &kryptonv1.CreateIssuerRequest{Parent: "tenants/acme", IssuerId: "k8s", Issuer: &kryptonv1.Issuer{
				Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD},
				Kind:  &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: "https://k", Audiences: []string{"b", "a"}, ClockSkewSeconds: 30, MaxLifeSeconds: 60, SubjectClaim: "sub"}},
			}},
			&fsmpb.Command{Body: &fsmpb.Command_PutIssuer{PutIssuer: &fsmpb.PutIssuer{Issuer: &fsmpb.Issuer{
				Id: "k8s", Tenant: "acme", TenantUid: raw(t, tenantUID), Roles: []string{"workload"},
				Kind: &fsmpb.Issuer_Jwt{Jwt: &fsmpb.JWTIssuer{Url: "https://k", Audiences: []string{"b", "a"}, SkewMs: 30_000, MaxLifeS: 60, SubjectClaim: "sub"}},
			}}}},
			[]intent.Precondition{{Object: "tenants/acme/issuers/k8s", ModIndex: 0}},
		},
		{
			"policy", &kryptonv1.PutPolicyRequest{Name: "tenants/acme/policies/new", Text: "permit (principal,\naction, resource);"},
			policyCommand(t, "new", "permit (principal,\naction, resource);"),
			[]intent.Precondition{{Object: "tenants/acme/policies/new", ModIndex: 0}},
		},
		{
			"policy that is there", &kryptonv1.PutPolicyRequest{Name: "tenants/acme/policies/old", Text: "x"},
			policyCommand(t, "old", "x"),
			[]intent.Precondition{{Object: "tenants/acme/policies/old", ModIndex: 10}},
		},
		{
			"policy as it was seen", &kryptonv1.PutPolicyRequest{Name: "tenants/acme/policies/old", Text: "x", Etag: `"9"`},
			policyCommand(t, "old", "x"),
			[]intent.Precondition{{Object: "tenants/acme/policies/old", ModIndex: 9}},
		},
		{
			"policy that goes", &kryptonv1.DeletePolicyRequest{Name: "tenants/acme/policies/old"},
			&fsmpb.Command{Body: &fsmpb.Command_RemovePolicy{RemovePolicy: &fsmpb.RemovePolicy{Tenant: "acme", Id: "old"}}},
			[]intent.Precondition{{Object: "tenants/acme/policies/old", ModIndex: 10}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := orders.Of(t.Context(), dial(t, honest(), honest()), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			act, want, ok := fsm.SovereignRequest(tc.cmd)
			if !ok || o.Request.Act() != act || !o.Request.Equal(want) {
				t.Errorf("the order is not what the state machine computes:\n%s", intent.Differences(want, o.Request))
			}
			if !slices.Equal(o.Preconditions, tc.only) {
				t.Errorf("preconditions %v, want %v", o.Preconditions, tc.only)
			}
			if !o.Request.Known() || o.Keyspace.String() != space {
				t.Errorf("nobody would sign it: known %v, keyspace %s", o.Request.Known(), o.Keyspace)
			}
		})
	}
}

func policyCommand(t *testing.T, id, text string) *fsmpb.Command {
	t.Helper()
	return &fsmpb.Command{Body: &fsmpb.Command_PutPolicy{PutPolicy: &fsmpb.PutPolicy{
		Policy: &fsmpb.Policy{Tenant: "acme", TenantUid: raw(t, tenantUID), Id: id, Text: text}, PolicyIndex: 3,
	}}}
}

func TestI1_WhatIsLeftToANodeIsNotOrdered(t *testing.T) {
	for name, req := range map[string]proto.Message{
		"governors": &kryptonv1.CreateTenantRequest{TenantId: "new", Binding: &kryptonv1.Binding{Keystore: "ks", Key: "k", Archetype: "hyok"}},
		"archetype": &kryptonv1.CreateTenantRequest{TenantId: "new", Binding: &kryptonv1.Binding{Keystore: "ks", Key: "k"}, Governors: []string{"roleBindings/bob"}},
		"secret":    &kryptonv1.CreateJoinTokenRequest{Voter: true, TtlSeconds: 60},
	} {
		if o, err := orders.Of(t.Context(), dial(t, honest()), req); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: order %v, error %v", name, o, err)
		}
	}
}

func TestI2_ANodeThatSaysAnotherUidThanTheOthersIsNoticed(t *testing.T) {
	req := &kryptonv1.SetGovernorsRequest{Name: "tenants/acme", Governors: []string{"roleBindings/alice"}}
	for name, change := range map[string]func(*says){
		"another person":   func(s *says) { s.uids["roleBindings/alice"] = bobUID },
		"another keyspace": func(s *says) { s.keyspace = strings.Repeat("77", 16) },
	} {
		for liar := range 3 {
			nodes := []says{honest(), honest(), honest()}
			change(&nodes[liar])
			o, err := orders.Of(t.Context(), dial(t, nodes...), req)
			if !errs.Is(err, errs.FailedState) || !strings.Contains(errs.From(err).Msg, "contradict") {
				t.Errorf("%s by node %d: order %v, error %v", name, liar, o, err)
			}
		}
	}
}

// What one node alone is asked makes, if it lies, another order than the one that
// the state machine computes: the cluster refuses it.
func TestI2_AWrongTenantUidMakesAnOrderThatTheClusterRefuses(t *testing.T) {
	liar := honest()
	liar.uids["tenants/acme"] = strings.Repeat("22", 16)
	o, err := orders.Of(t.Context(), dial(t, liar), &kryptonv1.SetGovernorsRequest{Name: "tenants/acme", Governors: []string{"roleBindings/alice"}})
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := fsm.SovereignRequest(&fsmpb.Command{Body: &fsmpb.Command_SetTenantGovernors{SetTenantGovernors: &fsmpb.SetTenantGovernors{
		Tenant: "acme", TenantUid: raw(t, tenantUID), Governors: [][]byte{raw(t, aliceUID)},
	}}})
	if o.Request.Equal(want) {
		t.Error("the uid of the tenant is not in the order")
	}
}

func TestI3_ACallerOfAClusterThatAsksNobodySignsNothing(t *testing.T) {
	none, other := honest(), honest()
	none.rules = nil
	other.rules = []*kryptonv1.IntentRule{{Act: intent.ActSetPolicy.String(), Governors: 1}, {Act: intent.ActDestroy.String()}}
	for name, node := range map[string]says{"older or quorum 0": none, "rules for other acts": other} {
		signed, err := orders.Signer{Governors: []sign.Signer{key(t)}}.Sign(t.Context(), dial(t, node), &kryptonv1.DeleteTenantRequest{Name: "tenants/acme"})
		if err != nil || len(signed) != 0 {
			t.Errorf("%s: %d signatures, error %v", name, len(signed), err)
		}
	}
}

func TestI3_APinnedKeyspaceIsTheOnlyOneSignedFor(t *testing.T) {
	s := orders.Signer{Governors: []sign.Signer{key(t)}, Keyspace: hierarchy.KeyspaceID{9}}
	if _, err := s.Sign(t.Context(), dial(t, honest()), &kryptonv1.DeleteTenantRequest{Name: "tenants/acme"}); !errs.Is(err, errs.IntentRefused) {
		t.Errorf("error = %v", err)
	}
}

func TestI4_ARequestIDHasOneNonce(t *testing.T) {
	c := dial(t, honest())
	nonce := func(req *kryptonv1.DeleteTenantRequest) intent.Nonce {
		signed, err := orders.Signer{Governors: []sign.Signer{key(t)}}.Sign(t.Context(), c, req)
		if err != nil || len(signed) != 1 {
			t.Fatalf("%d signatures, error %v", len(signed), err)
		}
		in, err := intent.Decode(signed[0].GetIntent())
		if err != nil {
			t.Fatal(err)
		}
		return in.Nonce
	}
	const id, other = "0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b", "0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0c"
	first := nonce(&kryptonv1.DeleteTenantRequest{Name: "tenants/acme", RequestId: id})
	if again := nonce(&kryptonv1.DeleteTenantRequest{Name: "tenants/acme", RequestId: id}); again != first {
		t.Error("the same request again has another nonce, so it could act twice")
	}
	for name, req := range map[string]*kryptonv1.DeleteTenantRequest{
		"another id":      {Name: "tenants/acme", RequestId: other},
		"another request": {Name: "tenants/acme", RequestId: id, Now: true},
		"no id":           {Name: "tenants/acme"},
	} {
		if nonce(req) == first {
			t.Errorf("%s has the same nonce", name)
		}
	}
}

func key(t *testing.T) sign.Signer {
	t.Helper()
	s, err := sign.New(rand.Reader, ed25519.NewKeyFromSeed(slices.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A signature for what the request does not say is good for whoever can send the
// request that does.
func TestI1_ARequestThatNamesAnotherKindOfObjectOrdersNothing(t *testing.T) {
	for _, req := range []proto.Message{
		&kryptonv1.DestroyVersionRequest{Name: "tenants/acme", Now: true},
		&kryptonv1.DestroyVersionRequest{Name: "tenants/acme/services/pay", Now: true},
		&kryptonv1.DeleteServiceRequest{Name: "tenants/acme"},
		&kryptonv1.DeleteServiceRequest{Name: "tenants/acme/versions/1"},
		&kryptonv1.DeleteTenantRequest{Name: "tenants/acme/services/pay"},
	} {
		if signed, err := (orders.Signer{Governors: []sign.Signer{key(t)}}).Sign(t.Context(), dial(t, honest()), req); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%T %v: %d signatures, error %v", req, req, len(signed), err)
		}
	}
}

func TestI2_ThatThereIsNoSuchThingIsAnAnswer(t *testing.T) {
	req := &kryptonv1.SetGovernorsRequest{Name: "tenants/acme", Governors: []string{"roleBindings/eve"}}
	for liar := range 3 {
		nodes := []says{honest(), honest(), honest()}
		nodes[liar].uids["roleBindings/eve"] = bobUID
		o, err := orders.Of(t.Context(), dial(t, nodes...), req)
		if !errs.Is(err, errs.FailedState) || !strings.Contains(errs.From(err).Msg, "contradict") {
			t.Errorf("node %d alone says who eve is: order %v, error %v", liar, o, err)
		}
	}
	if _, err := orders.Of(t.Context(), dial(t, honest(), honest()), req); !errs.Is(err, errs.NotFound) {
		t.Errorf("nobody knows eve: error %v", err)
	}
}

func TestI2_WhoTheCallerIsIsAskedOfEveryNode(t *testing.T) {
	for liar := range 3 {
		nodes := []says{honest(), honest(), honest()}
		nodes[liar].self = "roleBindings/bob"
		if own, err := orders.OwnBinding(t.Context(), dial(t, nodes...)); !errs.Is(err, errs.FailedState) {
			t.Errorf("node %d says that the caller is bob: %q, error %v", liar, own, err)
		}
	}
	if own, err := orders.OwnBinding(t.Context(), dial(t, honest(), honest())); own != "roleBindings/alice" || err != nil {
		t.Errorf("own binding %q, error %v", own, err)
	}
}

func TestI2_WhoAddsASignatureHearsOfNodesThatContradictEachOther(t *testing.T) {
	r := intent.SetTenantGovernors{Tenant: "acme", TenantUID: raw(t, tenantUID), Governors: [][]byte{raw(t, bobUID)}}.Request()
	said := func(nodes ...says) map[string]string {
		names := map[string]string{}
		for _, n := range orders.NamesIn(t.Context(), dial(t, nodes...), r) {
			names[n.UID] = n.Name
		}
		return names
	}
	if got := said(honest(), honest()); got[bobUID] != "roleBindings/bob of governor bob" || got[tenantUID] != "tenants/acme" {
		t.Errorf("names %v", got)
	}
	for liar := range 3 {
		for name, change := range map[string]func(*says){
			"another name": func(s *says) { s.uids["roleBindings/alice"], s.uids["roleBindings/bob"] = bobUID, aliceUID },
			"no name":      func(s *says) { delete(s.uids, "roleBindings/bob") },
		} {
			nodes := []says{honest(), honest(), honest()}
			change(&nodes[liar])
			if got := said(nodes...); !strings.Contains(got[bobUID], "lies") || got[tenantUID] != "tenants/acme" {
				t.Errorf("%s by node %d: names %v", name, liar, got)
			}
		}
	}
}

// Who adds a signature to what somebody else made signs the conditions that are in it,
// and sees these, and not what the command would have made of it.
func TestI5_WhatIsShownIsWhatIsInTheFile(t *testing.T) {
	o, err := orders.Of(t.Context(), dial(t, honest()), &kryptonv1.DeleteTenantRequest{Name: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	const unchanged, left, end = "only if tenants/acme has not changed since index 7", "even if tenants/acme changes before", "usable until 1970-01-01T01:00:00Z"
	f := drafted(t, o)
	if text := o.Describe(f); !strings.Contains(text, unchanged) || strings.Contains(text, left) || !strings.Contains(text, end) {
		t.Errorf("its own draft:\n%s", text)
	}
	f.Intent.Preconditions, f.Intent.NotAfter = nil, f.Intent.NotAfter+1000
	if text := o.Describe(f); strings.Contains(text, unchanged) || !strings.Contains(text, left) || strings.Contains(text, end) {
		t.Errorf("a file without conditions:\n%s", text)
	}
}

// drafted is the intent of an order that is made at the beginning of 1970, for an hour.
func drafted(t *testing.T, o *orders.Order) sign.File {
	t.Helper()
	f, err := o.Draft(time.UnixMilli(0), time.Hour, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The terminal of who signs obeys what it is sent. So nothing that a node says may be
// more than a name.
func TestI5_WhatANodeSaysIsNoMoreThanAName(t *testing.T) {
	for _, evil := range []string{
		"\x1b[2J\x1b[Hdestroy (act 5): nothing", "bob\n  tenant: \"other\"", "bob\r  tenant", "bob\u202egnp", "bоb", strings.Repeat(" ", 80) + "tenant", strings.Repeat("a", 4000), "\u009b2J",
	} {
		liar := honest()
		liar.member = evil
		c := dial(t, liar)
		o, err := orders.Of(t.Context(), c, &kryptonv1.DeleteRoleBindingRequest{Name: "roleBindings/bob"})
		if err != nil {
			t.Fatal(err)
		}
		text := o.Describe(drafted(t, o))
		for _, n := range orders.NamesIn(t.Context(), c, intent.SetTenantGovernors{Tenant: "acme", Governors: [][]byte{raw(t, bobUID)}}.Request()) {
			text += n.Name + "\n"
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
			t.Errorf("%q reaches the terminal:\n%q", evil, text)
		}
		if strings.Contains(text, "\n  tenant: \"other") || len(text) > 4000 {
			t.Errorf("%q makes a line of its own:\n%s", evil, text)
		}
	}
}
