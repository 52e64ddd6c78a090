package orders_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

var now = time.UnixMilli(1_700_000_000_000) //nolint:gochecknoglobals // Immutable.

// person is a key and the role binding that has it.
func person(t *testing.T, seed byte, role kryptonv1.Role, name string) (sign.Signer, *kryptonv1.RoleBinding) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	key, err := sign.New(rand.Reader, private)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, &kryptonv1.RoleBinding{
		Name: "roleBindings/" + name, Role: role, Member: name, Uid: aliceUID, Etag: `"8"`,
		Keys: []*kryptonv1.AuthorityKey{{PublicKey: spki, Sign: true, Tls: true}},
	}
}

func keyspace(t *testing.T) hierarchy.KeyspaceID {
	t.Helper()
	k, err := hierarchy.ParseKeyspaceID(space)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// asked is an approval as an honest node has it, and what the nodes say of persons.
func asked(t *testing.T) (*kryptonv1.Approval, map[string]*kryptonv1.RoleBinding) {
	t.Helper()
	gabi, gabiBound := person(t, 1, kryptonv1.Role_ROLE_GOVERNOR, "gabi")
	gerd, gerdBound := person(t, 2, kryptonv1.Role_ROLE_GOVERNOR, "gerd")
	node := honest()
	node.rules = rules(false)
	o, err := orders.Of(t.Context(), dial(t, node), &kryptonv1.DeleteTenantRequest{Name: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := o.Ask(t.Context(), &kryptonv1.DeleteTenantRequest{Name: "tenants/acme"}, gabi, now, time.Hour, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encoded := r.GetSignature().GetIntent()
	a := &kryptonv1.Approval{
		Name: orders.ApprovalName(encoded), Act: "destroy", State: kryptonv1.ApprovalState_APPROVAL_STATE_PENDING,
		Requester: "governor/gabi", RequesterBinding: "roleBindings/gabi",
		Request: r.GetRequest(), Intent: encoded, CanonicalRequest: r.GetCanonicalRequest(),
		Rule: &kryptonv1.IntentRule{Act: "destroy", Governors: 2}, GovernorsMissing: 1,
		Signatures: []*kryptonv1.ApprovalSignature{{
			Person: "governor/gabi", RoleBinding: "roleBindings/gabi", KeyId: r.GetSignature().GetKeyId(), Signature: r.GetSignature().GetSignature(), Time: timestamppb.New(now),
		}},
	}
	read, err := orders.ReadApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := read.Sign(t.Context(), gerd, keyspace(t), now)
	if err != nil {
		t.Fatal(err)
	}
	a.Signatures = append(a.Signatures, &kryptonv1.ApprovalSignature{
		Person: "governor/gerd", RoleBinding: "roleBindings/gerd", KeyId: sig.Key[:], Signature: sig.Sig, Time: timestamppb.New(now), Counts: true,
	})
	return a, map[string]*kryptonv1.RoleBinding{"roleBindings/gabi": gabiBound, "roleBindings/gerd": gerdBound}
}

func bound(all map[string]*kryptonv1.RoleBinding) says {
	s := honest()
	s.bound = all
	return s
}

func TestAskCarriesWhatIsSignedAndNothingOfTheCall(t *testing.T) {
	key, _ := person(t, 1, kryptonv1.Role_ROLE_GOVERNOR, "gabi")
	c := dial(t, honest())
	const id = "0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"
	pub := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)).Public()
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ req, want proto.Message }{
		"a deletion": {
			&kryptonv1.DeleteTenantRequest{Name: "tenants/acme", Etag: `"7"`, RequestId: id, Intents: []*kryptonv1.SignedIntent{{}}},
			&kryptonv1.DeleteTenantRequest{Name: "tenants/acme", Etag: `"7"`},
		},
		// The certificate goes to nobody when others approve, so only the role is asked for.
		"a certificate": {
			&kryptonv1.IssueCertificateRequest{Role: kryptonv1.Role_ROLE_GOVERNOR, Name: "gina", PublicKey: spki, TtlSeconds: 60, RequestId: id},
			&kryptonv1.CreateRoleBindingRequest{RoleBindingId: "governor-gina", RoleBinding: &kryptonv1.RoleBinding{
				Role: kryptonv1.Role_ROLE_GOVERNOR, Member: "gina", Keys: []*kryptonv1.AuthorityKey{{PublicKey: spki, Tls: true, Sign: true}},
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := proto.Clone(tc.req)
			o, err := orders.Of(t.Context(), c, tc.req)
			if err != nil || o == nil {
				t.Fatalf("order %v, error %v", o, err)
			}
			r, err := o.Ask(t.Context(), tc.req, key, now, time.Hour, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(before, tc.req) {
				t.Error("the caller's request was changed")
			}
			got, err := r.GetRequest().UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("what is asked (-want +got):\n%s", diff)
			}
			if r.GetRequestId() != id || !bytes.Equal(r.GetCanonicalRequest(), o.Request.Canonical()) {
				t.Errorf("request id %q, or another canonical request", r.GetRequestId())
			}
			in, err := intent.Decode(r.GetSignature().GetIntent())
			if err != nil {
				t.Fatal(err)
			}
			if in.NotAfter != now.Add(time.Hour).UnixMilli() || in.Request != o.Request.Digest() || in.Keyspace != keyspace(t) {
				t.Errorf("another intent was signed:\n%s", in.Describe())
			}
			message, err := in.Message()
			if err != nil {
				t.Fatal(err)
			}
			if !key.PublicKey().Verify(message, r.GetSignature().GetSignature()) {
				t.Error("the requester's signature does not verify")
			}
		})
	}
}

func TestI6_AnApprovalIsWhatItsNameSays(t *testing.T) {
	other := intent.Destroy{Tenant: "other"}.Request()
	for name, change := range map[string]func(*kryptonv1.Approval){
		"another name":           func(a *kryptonv1.Approval) { a.Name = "approvals/" + strings.Repeat("0", 32) },
		"another intent":         func(a *kryptonv1.Approval) { a.GetIntent()[len(a.GetIntent())-1] ^= 1 },
		"another request":        func(a *kryptonv1.Approval) { a.CanonicalRequest = other.Canonical() },
		"a request that is none": func(a *kryptonv1.Approval) { a.CanonicalRequest = a.GetCanonicalRequest()[:40] },
		"an intent that is none": func(a *kryptonv1.Approval) { a.Intent = []byte("x"); a.Name = orders.ApprovalName(a.GetIntent()) },
		"signatures without end": func(a *kryptonv1.Approval) {
			a.Signatures = slices.Repeat(a.GetSignatures(), intent.MaxSignatures)
		},
		"no request": func(a *kryptonv1.Approval) { a.CanonicalRequest = nil },
		"the other one's intent too": func(a *kryptonv1.Approval) {
			in, err := intent.Decode(a.GetIntent())
			if err != nil {
				t.Fatal(err)
			}
			in.Request = other.Digest()
			if a.Intent, err = in.Encode(); err != nil {
				t.Fatal(err)
			}
			a.CanonicalRequest = other.Canonical() // whole in itself, and not what the name says
		},
	} {
		a, _ := asked(t)
		change(a)
		_, err := orders.ReadApproval(a)
		if !errs.Is(err, errs.Integrity) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "another name" {
			situationtest.Error(t, "cli/approval-forged", err)
		}
	}
	a, _ := asked(t)
	a.Description, a.Act = "destroy nothing (act 8)", "bind-role" // words of the node
	read, err := orders.ReadApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"destroy (act 8): destroy key material", `tenant: "acme"`, "keyspace " + space, `precondition: "tenants/acme" (if unchanged since index 7)`} {
		if !strings.Contains(read.Describe(), want) {
			t.Errorf("what is signed does not show %q:\n%s", want, read.Describe())
		}
	}
	if got := read.Object(); got != "tenants/acme" {
		t.Errorf("it is of %q", got)
	}
}

func TestI6_NothingIsSignedThatIsForAnotherKeyspaceOrTooLateOrNotKnown(t *testing.T) {
	key, _ := person(t, 3, kryptonv1.Role_ROLE_GOVERNOR, "gina")
	a, _ := asked(t)
	unknown := proto.CloneOf(a)
	r := intent.NewRequest(intent.ActDestroy).Text("planet", "earth")
	in, err := intent.Decode(a.GetIntent())
	if err != nil {
		t.Fatal(err)
	}
	in.Request = r.Digest()
	if unknown.Intent, err = in.Encode(); err != nil {
		t.Fatal(err)
	}
	unknown.CanonicalRequest, unknown.Name = r.Canonical(), orders.ApprovalName(unknown.GetIntent())
	for name, tc := range map[string]struct {
		a    *kryptonv1.Approval
		want hierarchy.KeyspaceID
		at   time.Time
		code errs.Code
		says string
	}{
		"another keyspace": {a, hierarchy.KeyspaceID{9}, now, errs.IntentRefused, "another keyspace"},
		"too late":         {a, keyspace(t), now.Add(time.Hour), errs.IntentRefused, "expired"},
		"not known":        {unknown, keyspace(t), now, errs.FailedState, "does not know what the request orders"},
	} {
		read, err := orders.ReadApproval(tc.a)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := read.Match(tc.want, tc.at); !errs.Is(err, tc.code) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := read.Sign(t.Context(), key, tc.want, tc.at); err == nil {
			t.Errorf("%s: it is signed all the same", name)
		}
	}
	read, err := orders.ReadApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := read.Match(keyspace(t), now); err != nil {
		t.Errorf("what can be signed is refused: %v", err)
	}
}

func TestVotesAreBelievedOnlyWithTheirSignatureAndTheirKey(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(a *kryptonv1.Approval, all map[string]*kryptonv1.RoleBinding)
		asked  string // what is in doubt
		gerd   string
		need   uint32 // governors
	}{
		"all is well": {func(*kryptonv1.Approval, map[string]*kryptonv1.RoleBinding) {}, "", "", 1},
		"a requester whose signature is another's": {
			func(a *kryptonv1.Approval, _ map[string]*kryptonv1.RoleBinding) {
				a.Signatures[0].Signature = a.GetSignatures()[1].GetSignature()
			}, "the signature does not verify", "", 1,
		},
		"a requester who did not sign": {
			func(a *kryptonv1.Approval, _ map[string]*kryptonv1.RoleBinding) { a.Signatures = a.GetSignatures()[1:] },
			"the signature of who asks is not shown", "", 1,
		},
		"a requester in words only": {
			func(a *kryptonv1.Approval, _ map[string]*kryptonv1.RoleBinding) { a.Requester = "governor/gina" },
			"the signature of who asks is not shown", "", 1,
		},
		"a binding that is another person's": {
			func(_ *kryptonv1.Approval, all map[string]*kryptonv1.RoleBinding) {
				all["roleBindings/gabi"].Member = "gina"
			}, "the role binding is another person's", "", 1,
		},
		"a key that only opens connections": {
			func(_ *kryptonv1.Approval, all map[string]*kryptonv1.RoleBinding) {
				all["roleBindings/gerd"].Keys[0].Sign = false
			}, "", "the role binding does not have the key", 2,
		},
		"a binding that is gone": {
			func(a *kryptonv1.Approval, _ map[string]*kryptonv1.RoleBinding) { a.Signatures[1].RoleBinding = "" }, "", "the role binding of the key is gone", 2,
		},
		"a binding that nobody knows": {
			func(_ *kryptonv1.Approval, all map[string]*kryptonv1.RoleBinding) { delete(all, "roleBindings/gerd") }, "", "no such object", 2,
		},
		"a vote that does not count": {
			func(a *kryptonv1.Approval, _ map[string]*kryptonv1.RoleBinding) { a.Signatures[1].Counts = false }, "", "", 2,
		},
		"a custodian in place of a governor": {
			func(a *kryptonv1.Approval, all map[string]*kryptonv1.RoleBinding) {
				a.Signatures[1].Person, all["roleBindings/gerd"].Role = "custodian/gerd", kryptonv1.Role_ROLE_CUSTODIAN
			}, "", "", 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, all := asked(t)
			tc.change(a, all)
			read, err := orders.ReadApproval(a)
			if err != nil {
				t.Fatal(err)
			}
			who, others := read.Votes(t.Context(), dial(t, bound(all), bound(all)))
			if gerd := others[len(others)-1]; who.Doubt != tc.asked || gerd.Person == who.Person || gerd.Doubt != tc.gerd {
				t.Errorf("in doubt of who asks: %q, want %q; of others: %+v, want %q", who.Doubt, tc.asked, others, tc.gerd)
			}
			if g, c := read.Missing(others, who); g != tc.need || c != 0 {
				t.Errorf("%d governors and %d custodians are missing, want %d and 0", g, c, tc.need)
			}
		})
	}
}

func TestI2_ANodeThatNamesAnotherKeyThanTheOthersIsNoticed(t *testing.T) {
	a, all := asked(t)
	_, forged := person(t, 7, kryptonv1.Role_ROLE_GOVERNOR, "gabi")
	lie := map[string]*kryptonv1.RoleBinding{"roleBindings/gabi": forged, "roleBindings/gerd": all["roleBindings/gerd"]}
	read, err := orders.ReadApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	who, others := read.Votes(t.Context(), dial(t, bound(all), bound(lie)))
	if !strings.Contains(who.Doubt, "the nodes contradict each other") || others[0].Doubt != "" {
		t.Errorf("in doubt of who asks: %q, of gerd: %q", who.Doubt, others[0].Doubt)
	}
}

func TestWhatNodesSayIsSafeOnATerminal(t *testing.T) {
	const evil = "gabi\x1b[2K\r\u202e\u0430\n"
	a, all := asked(t)
	a.Requester, a.Signatures[0].Person = "governor/"+evil, "governor/"+evil
	read, err := orders.ReadApproval(a)
	if err != nil {
		t.Fatal(err)
	}
	who, _ := read.Votes(t.Context(), dial(t, bound(all)))
	for what, text := range map[string]string{"who asks": who.Person, "the doubt": who.Doubt, "printable": orders.Printable(evil)} {
		for _, r := range text {
			if r < ' ' || r > '~' {
				t.Errorf("%s has %q: %q", what, r, text)
			}
		}
	}
	if got := orders.Printable(`a "plain" \ name`); got != `a "plain" \ name` {
		t.Errorf("what is printable became %q", got)
	}
}

func TestAChangeOfTheQuorumNeedsTheLargerOfBoth(t *testing.T) {
	for name, tc := range map[string]struct {
		now  []*kryptonv1.IntentRule
		to   [2]uint32
		want *kryptonv1.IntentRule // nil: nobody signs
	}{
		"up":       {[]*kryptonv1.IntentRule{{Act: "set-quorum", Governors: 1, Custodians: 1, RequesterCounts: true}}, [2]uint32{2, 1}, &kryptonv1.IntentRule{Governors: 2, Custodians: 1}},
		"down":     {[]*kryptonv1.IntentRule{{Act: "set-quorum", Governors: 3, Custodians: 2}}, [2]uint32{1, 1}, &kryptonv1.IntentRule{Governors: 3, Custodians: 2}},
		"aside":    {[]*kryptonv1.IntentRule{{Act: "set-quorum", Governors: 3, Custodians: 1}}, [2]uint32{1, 2}, &kryptonv1.IntentRule{Governors: 3, Custodians: 2}},
		"the same": {[]*kryptonv1.IntentRule{{Act: "set-quorum", Governors: 1, Custodians: 1, RequesterCounts: true}}, [2]uint32{1, 1}, &kryptonv1.IntentRule{Governors: 1, Custodians: 1, RequesterCounts: true}},
		"at last":  {nil, [2]uint32{2, 0}, &kryptonv1.IntentRule{Governors: 2}},
		"nobody":   {nil, [2]uint32{0, 0}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			node := honest()
			node.rules = tc.now
			o, err := orders.Of(t.Context(), dial(t, node), &kryptonv1.SetQuorumRequest{Governors: tc.to[0], Custodians: tc.to[1]})
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == nil {
				if o != nil {
					t.Errorf("the rule %v", o.Rule)
				}
				return
			}
			tc.want.Act = "set-quorum"
			if diff := cmp.Diff(tc.want, o.Rule, protocmp.Transform()); diff != "" {
				t.Errorf("rule (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]intent.Precondition{{Object: "cluster", ModIndex: 5}}, o.Preconditions); diff != "" {
				t.Errorf("preconditions (-want +got):\n%s", diff)
			}
			if !o.Request.Equal(intent.SetQuorum{Governors: tc.to[0], Custodians: tc.to[1]}.Request()) {
				t.Errorf("it orders\n%s", o.Request.Describe())
			}
		})
	}
}
