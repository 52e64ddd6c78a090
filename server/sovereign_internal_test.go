package server

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FuzzSovereignRequest reads what a caller says to be a request: it is refused with
// what to do next, or it is one that people sign, with nothing beside what is
// ordered, and reads as the same again from what is stored of it.
func FuzzSovereignRequest(f *testing.F) {
	for _, m := range []proto.Message{
		&kryptonv1.DeleteTenantRequest{Name: "tenants/acme", Now: true},
		&kryptonv1.DeleteTenantRequest{Name: "tenants/acme", RequestId: "x"},
		&kryptonv1.CreateTenantRequest{TenantId: "a", Binding: &kryptonv1.Binding{Keystore: "ks", Key: "k"}, Governors: []string{"roleBindings/a"}},
		&kryptonv1.CreateRoleBindingRequest{RoleBindingId: "a", RoleBinding: &kryptonv1.RoleBinding{Keys: []*kryptonv1.AuthorityKey{{Sign: true}}}},
		&kryptonv1.SetQuorumRequest{Governors: 2, ValidateOnly: true},
		&kryptonv1.GetTenantRequest{Name: "tenants/acme"},
	} {
		a, err := anypb.New(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.GetTypeUrl(), a.GetValue())
		f.Add(a.GetTypeUrl(), append(a.GetValue(), 0xf8, 0x7f, 1)) // an unknown field
		f.Add(a.GetTypeUrl(), append(a.GetValue(), 0xff))
		f.Add("/"+string(a.MessageName()), a.GetValue())
	}
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, url string, value []byte) {
		r, err := sovereignFrom(&anypb.Any{TypeUrl: url, Value: value})
		if err != nil {
			e := errs.From(err)
			if e.Code != errs.InvalidArgument && e.Code != errs.TooLarge || e.Hint == "" {
				t.Fatalf("refused with %v, %q", e, e.Hint)
			}
			return
		}
		if r.method == "" || r.typeURL() != url {
			t.Fatalf("%q is taken as %q of %q", url, r.typeURL(), r.method)
		}
		m := r.message.ProtoReflect()
		for _, name := range []string{"intents", "request_id", "validate_only"} {
			if fd := m.Descriptor().Fields().ByTextName(name); fd != nil && m.Has(fd) {
				t.Fatalf("%s is set", name)
			}
		}
		again, err := sovereignFrom(&anypb.Any{TypeUrl: r.typeURL(), Value: r.raw})
		if err != nil || !proto.Equal(again.message, r.message) || !bytes.Equal(again.raw, r.raw) {
			t.Fatalf("what is stored reads as %v, %v", again.message, err)
		}
	})
}

// TestEverySovereignRequestHasAMethod and what has none is no request.
func TestEverySovereignRequestHasAMethod(t *testing.T) {
	t.Parallel()
	if n := len(sovereignMethods()); n < 14 {
		t.Errorf("%d requests can be approved", n)
	}
	for name, method := range sovereignMethods() {
		if _, ok := known[method]; !ok {
			t.Errorf("%s is taken by %q, which is no method", name, method)
		}
	}
}

// TestRequestIDOfAnApproval is a UUID, another one for each approval and always the same.
func TestRequestIDOfAnApproval(t *testing.T) {
	t.Parallel()
	const a = "000102030405060708090a0b0c0d0e0f"
	if got := requestIDOf(a); got != requestIDOf(a) || got == requestIDOf("1"+a[1:]) || len(got) != 36 || got[14] != '8' {
		t.Errorf("the request id is %q", got)
	}
}

// TestWaitsBetweenAttempts: the first is left to the node that took the last
// signature, then they get longer up to a limit, and what has ended is forgotten.
func TestWaitsBetweenAttempts(t *testing.T) {
	t.Parallel()
	var a attempts
	now := time.Unix(1000, 0)
	if a.due("x", now) || a.due("x", now.Add(executeAfter-1)) || !a.due("x", now.Add(executeAfter)) {
		t.Error("the leader does not wait for the node that took the last signature")
	}
	if a.why("x") != nil {
		t.Error("why it failed is known before it was tried")
	}
	want := []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
	for i, w := range want {
		a.failed("x", now, errs.New(errs.Sealed, "sealed"))
		if a.due("x", now.Add(w-1)) || !a.due("x", now.Add(w)) {
			t.Errorf("attempt %d is not %s after the one before", i+2, w)
		}
		now = now.Add(w)
	}
	if !errs.Is(a.why("x"), errs.Sealed) {
		t.Errorf("it failed because of %v", a.why("x"))
	}
	a.due("y", now)
	a.keep(map[string]bool{"y": true})
	if a.why("x") != nil || len(a.all) != 1 {
		t.Errorf("what has ended is remembered: %v", a.all)
	}
	var fresh attempts
	fresh.failed("z", now, errs.New(errs.Sealed, "sealed")) // by the node that took the last signature
	if fresh.due("z", now) || !fresh.due("z", now.Add(executeAfter)) {
		t.Error("a failure does not wait")
	}
}

// TestSignersInARecord are no longer than a record takes, and never half a name.
func TestSignersInARecord(t *testing.T) {
	t.Parallel()
	a := &fsmpb.Approval{}
	for range 31 {
		a.Signatures = append(a.Signatures, &fsmpb.ApprovalSignature{Role: "governor", Person: "a-person-with-a-name-of-some-length-and-more-of-it"})
	}
	text := signersText(a)
	one := personName(a.GetSignatures()[0])
	if len(text) > 512 || len(text)%(len(one)+1) != len(one) {
		t.Errorf("%d bytes: %q", len(text), text)
	}
	if got := signersText(&fsmpb.Approval{Signatures: a.GetSignatures()[:2]}); got != one+" "+one {
		t.Errorf("two are %q", got)
	}
}

// TestWhoAskedMustBeSaid by what is stored; nothing is executed in nobody's name.
func TestWhoAskedMustBeSaid(t *testing.T) {
	t.Parallel()
	good := &fsmpb.Principal{Issuer: "000102030405060708090a0b0c0d0e0f", Kind: "governor", Name: "alice"}
	v := fsm.New(fsm.Options{}).View()
	if who, err := requesterOf(v, &fsmpb.Approval{Requester: good, RequestedWith: []byte{7}}); err != nil || who.Principal.Name != "alice" || who.Serial != "\x07" {
		t.Errorf("%v, %v", who, err)
	}
	for name, p := range map[string]*fsmpb.Principal{
		"nobody":    nil,
		"no issuer": {Kind: "governor", Name: "alice"},
		"no role":   {Issuer: good.GetIssuer(), Kind: "node", Name: "alice"},
		"no name":   {Issuer: good.GetIssuer(), Kind: "governor"},
	} {
		if _, err := requesterOf(v, &fsmpb.Approval{Requester: p}); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnApprovalThatPanicsStopsNoNode: every leader would meet it again.
func TestAnApprovalThatPanicsStopsNoNode(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := &calls{
		machine: fsm.New(fsm.Options{}), clock: clock.System{}, log: slog.New(slog.NewTextHandler(&log, nil)),
		local: &inproc{methods: map[string]method{"/krypton.v1.Tenants/DeleteTenant": {desc: grpc.MethodDesc{
			Handler: func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
				panic("a secret")
			},
		}}}},
	}
	err := c.execute(t.Context(), &fsmpb.Approval{
		Id: "a", TypeUrl: typePrefix + "krypton.v1.DeleteTenantRequest", Requester: &fsmpb.Principal{Issuer: "000102030405060708090a0b0c0d0e0f", Kind: "governor", Name: "alice"},
	})
	if !errs.Is(err, errs.Internal) || strings.Contains(log.String(), "a secret") || !strings.Contains(log.String(), "approvals/a") {
		t.Errorf("%v, and the log says %s", err, log.String())
	}
}
