package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

func TestAnETagHasOneSpelling(t *testing.T) {
	for s, want := range map[string]uint64{"": 0, `"1"`: 1, `"18446744073709551615"`: 1<<64 - 1} {
		if got, err := parseETag(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"1", `"`, `""`, `"0"`, `"01"`, `"+1"`, `"-1"`, `"1`, `1"`, `"18446744073709551616"`, `"1" `, `W/"1"`, `"x"`} {
		if _, err := parseETag(s); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", s, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "index")
		if got, err := parseETag(etag(n)); err != nil || got != n {
			t.Fatalf("%d became %q and %d, %v", n, etag(n), got, err)
		}
	})
}

// testCalls is what handlers need that do not reach a node.
func testCalls(t *testing.T) (*calls, *audittest.Memory, *bytes.Buffer) {
	t.Helper()
	sink, log := &audittest.Memory{}, &bytes.Buffer{}
	g, err := gate.New(gate.Config{Node: "n", Sink: sink, Policy: gate.RolePolicy{}, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	return &calls{
		gate: g, machine: fsm.New(fsm.Options{}), metrics: newMetrics(), clock: clock.System{}, rand: rand.Reader,
		log: slog.New(slog.NewTextHandler(log, nil)), nodeID: "n", budget: time.Second,
	}, sink, log
}

func TestTheDigestIsOfMethodAndBodyWithoutTheId(t *testing.T) {
	c, _, _ := testCalls(t)
	digest := func(m proto.Message) [32]byte {
		t.Helper()
		r, err := c.request(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest
	}
	base := &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", Etag: `"3"`, RequestId: uuid.NewString()}
	if digest(base) != digest(&kryptonv1.SuspendTenantRequest{Name: "tenants/acme", Etag: `"3"`, RequestId: uuid.NewString()}) {
		t.Error("the id is in the digest")
	}
	seen := map[[32]byte]string{digest(base): "the request"}
	for name, m := range map[string]proto.Message{
		"another name":   &kryptonv1.SuspendTenantRequest{Name: "tenants/other", Etag: `"3"`},
		"another etag":   &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", Etag: `"4"`},
		"no etag":        &kryptonv1.SuspendTenantRequest{Name: "tenants/acme"},
		"validate only":  &kryptonv1.SuspendTenantRequest{Name: "tenants/acme", Etag: `"3"`, ValidateOnly: true},
		"another method": &kryptonv1.ResumeTenantRequest{Name: "tenants/acme", Etag: `"3"`}, // the same bytes
	} {
		if other, ok := seen[digest(m)]; ok {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[digest(m)] = name
	}
}

func TestARequestReadsWhatEveryChangeCarries(t *testing.T) {
	c, _, _ := testCalls(t)
	id := uuid.New()
	r, err := c.request(t.Context(), &kryptonv1.DeleteTenantRequest{Name: "tenants/a", RequestId: strings.ToUpper(id.String()), Etag: `"7"`, ValidateOnly: true})
	if err != nil || r.ID != id.String() || r.ETag != 7 || !r.ValidateOnly {
		t.Fatalf("%+v, %v", r, err)
	}
	r, err = c.request(t.Context(), &kryptonv1.ReleaseHoldRequest{})
	if _, perr := uuid.Parse(r.ID); err != nil || perr != nil || r.ValidateOnly {
		t.Fatalf("no id was made: %+v, %v", r, err)
	}
	for _, bad := range []string{"x", id.String()[:35], "{" + id.String() + "}", "urn:uuid:" + id.String(), strings.ReplaceAll(id.String(), "-", ""), id.String() + " "} {
		if _, err := c.request(t.Context(), &kryptonv1.ReleaseHoldRequest{RequestId: bad}); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	c.rand = strings.NewReader("")
	if _, err := c.request(t.Context(), &kryptonv1.ReleaseHoldRequest{}); !errs.Is(err, errs.Internal) {
		t.Errorf("without randomness: %v", err)
	}
}

// TestEveryChangeHasAnId: request reads fields by their names, so a message that
// calls one otherwise would silently have none.
func TestEveryChangeHasAnId(t *testing.T) {
	for _, m := range []proto.Message{
		&kryptonv1.CreateTenantRequest{}, &kryptonv1.SuspendTenantRequest{}, &kryptonv1.ResumeTenantRequest{}, &kryptonv1.DeleteTenantRequest{},
		&kryptonv1.UndeleteTenantRequest{}, &kryptonv1.RotateTenantRequest{}, &kryptonv1.RollbackTenantRequest{}, &kryptonv1.CreateServiceRequest{},
		&kryptonv1.DeleteServiceRequest{}, &kryptonv1.UndeleteServiceRequest{}, &kryptonv1.SuspendServiceRequest{}, &kryptonv1.ResumeServiceRequest{},
		&kryptonv1.RotateServiceRequest{}, &kryptonv1.RollbackServiceRequest{}, &kryptonv1.EnableVersionRequest{}, &kryptonv1.DisableVersionRequest{},
		&kryptonv1.DeprecateVersionRequest{}, &kryptonv1.CompromiseVersionRequest{}, &kryptonv1.DestroyVersionRequest{},
		&kryptonv1.CancelDestroyVersionRequest{}, &kryptonv1.PinResourceRequest{}, &kryptonv1.UnpinResourceRequest{},
		&kryptonv1.RollbackResourceRequest{}, &kryptonv1.PromoteNodeRequest{}, &kryptonv1.DemoteNodeRequest{}, &kryptonv1.RemoveNodeRequest{},
	} {
		fields := m.ProtoReflect().Descriptor().Fields()
		if fields.ByName(fieldRequestID) == nil || fields.ByName(fieldValidateOnly) == nil {
			t.Errorf("%T has no request_id or validate_only", m)
		}
	}
}

type asked struct {
	size  uint32
	token string
}

func (a asked) GetPageSize() uint32  { return a.size }
func (a asked) GetPageToken() string { return a.token }

// tokenOf is the token that continues a list behind a name.
func tokenOf(list, filter, after string) string {
	return pageRequest{list: listSum(list, filter)}.token(after)
}

func TestAPageChecksWhatWasAsked(t *testing.T) {
	for _, c := range []struct {
		asked
		filter string
	}{
		{asked{size: 1001}, ""},
		{asked{size: 1<<32 - 1}, ""},
		{asked{token: "!"}, ""},
		{asked{token: "YQ=="}, ""},
		{asked{token: "YR"}, ""},
		{asked{token: base64.RawURLEncoding.EncodeToString([]byte("x"))}, ""},
		{asked{token: tokenOf("things", "", strings.Repeat("x", 129))}, ""},
		{asked{token: tokenOf("things", "", "\xff")}, ""},
		{asked{token: tokenOf("others", "", "x")}, ""},
		{asked{token: tokenOf("things", "state=ACTIVE", "x")}, ""},
		{asked{token: tokenOf("things", "", "x")}, "state=ACTIVE"},
		{asked{}, "state="},
		{asked{}, "state=UNSPECIFIED"},
		{asked{}, "state=active"},
		{asked{}, "ACTIVE"},
		{asked{}, "state=ACTIVE "},
		{asked{}, "state=ACTIVE,state=SUSPENDED"},
	} {
		if _, err := page(c, "things", c.filter); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	p, err := page(asked{size: 1000, token: tokenOf("things", "state=DESTROY_SCHEDULED", "x")}, "things", "state=DESTROY_SCHEDULED")
	if want := (pageRequest{list: listSum("things", "state=DESTROY_SCHEDULED"), after: "x", size: 1000, state: kryptonv1.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED}); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := page(asked{}, "things", ""); err != nil || p.size != DefaultPage || p.after != "" {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestPagesAreTheListCutIntoPieces compares pages of every size with the list,
// for any mixture of states.
func TestPagesAreTheListCutIntoPieces(t *testing.T) {
	type thing struct {
		name  string
		state kryptonv1.ObjectState
	}
	rapid.Check(t, func(t *rapid.T) {
		var all []thing
		for i := range rapid.IntRange(0, 30).Draw(t, "objects") {
			all = append(all, thing{fmt.Sprintf("t%02d", i), kryptonv1.ObjectState(rapid.Int32Range(1, 4).Draw(t, "state"))})
		}
		read := func(after string, limit int) (out []thing) {
			for _, x := range all {
				if x.name > after && len(out) < limit {
					out = append(out, x)
				}
			}
			return out
		}
		p := pageRequest{list: listSum("things", ""), size: rapid.IntRange(1, 7).Draw(t, "size"), state: kryptonv1.ObjectState(rapid.Int32Range(0, 4).Draw(t, "filter"))}
		var want, got []string
		for _, x := range all {
			if p.wants(x.state) {
				want = append(want, x.name)
			}
		}
		for range 100 {
			out, next := collect(p, read, func(x thing) (string, kryptonv1.ObjectState) { return x.name, x.state },
				func(x thing) *kryptonv1.Tenant { return &kryptonv1.Tenant{Name: x.name} })
			if len(out) > p.size {
				t.Fatalf("%d on a page of %d", len(out), p.size)
			}
			for _, m := range out {
				got = append(got, m.GetName())
			}
			if next == "" {
				break
			}
			q, err := page(asked{size: 1, token: next}, "things", "")
			if err != nil {
				t.Fatal(err)
			}
			p.after = q.after
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestAPageIsBoundedInBytesAndInWork(t *testing.T) {
	reads := 0
	read := func(after string, limit int) []string {
		reads++
		out := make([]string, limit)
		for i := range out {
			out[i] = after + "x"
		}
		return out
	}
	big := strings.Repeat("x", pageBytes/4)
	of := func(kryptonv1.ObjectState) func(string) (string, kryptonv1.ObjectState) {
		return func(string) (string, kryptonv1.ObjectState) { return "n", kryptonv1.ObjectState_OBJECT_STATE_ACTIVE }
	}
	out, next := collect(pageRequest{size: MaxPage}, read, of(1), func(string) *kryptonv1.Tenant { return &kryptonv1.Tenant{Name: big} })
	if len(out) != 4 || next == "" {
		t.Errorf("%d objects of a quarter of a page", len(out))
	}
	reads = 0
	out, next = collect(pageRequest{size: 1, state: kryptonv1.ObjectState_OBJECT_STATE_SUSPENDED}, read, of(1), func(string) *kryptonv1.Tenant { return &kryptonv1.Tenant{} })
	if len(out) != 0 || next == "" || reads != scanned/MaxPage {
		t.Errorf("%d reads for a filter that fits nothing, token %q", reads, next)
	}
}

func TestVersionsAreShownWithTheirWindow(t *testing.T) {
	tn := &fsmpb.Tenant{Name: "acme", Uid: []byte{1}, Primary: 2, ModIndex: 9, State: fsmpb.ObjectState_OBJECT_STATE_ACTIVE, Versions: []*fsmpb.Version{
		{Number: 1, Uid: []byte{2}, State: fsmpb.VersionState_VERSION_STATE_ACTIVE, SupersededTimeMs: 1000, CreateTimeMs: 5, ModIndex: 3},
		{Number: 2, Uid: []byte{3}, State: fsmpb.VersionState_VERSION_STATE_ACTIVE, ModIndex: 4},
		{Number: 3, Uid: []byte{4}, State: fsmpb.VersionState_VERSION_STATE_DESTROY_SCHEDULED, DestroyTimeMs: 7, SupersededTimeMs: 1},
	}}
	svc := &fsmpb.Service{Tenant: "acme", Name: "pay", Primary: 1, Versions: []*fsmpb.Version{
		{Number: 1, ParentUid: []byte{3}, State: fsmpb.VersionState_VERSION_STATE_ACTIVE}, {Number: 2, ParentUid: []byte{99}},
	}}
	got := tenantToAPI(tn, time.Second)
	if v := got.GetVersions()[0]; v.GetRollbackUntil().AsTime().UnixMilli() != 2000 || v.GetPrimary() || v.GetEtag() != `"3"` || v.GetName() != "tenants/acme/versions/1" {
		t.Errorf("a superseded version: %v", v)
	}
	if v := got.GetVersions()[1]; !v.GetPrimary() || v.GetRollbackUntil() != nil || v.GetCreateTime() != nil {
		t.Errorf("the primary version: %v", v)
	}
	if v := got.GetVersions()[2]; v.GetRollbackUntil() != nil || v.GetDestroyTime().AsTime().UnixMilli() != 7 {
		t.Errorf("a version that is about to go: %v", v)
	}
	s := serviceToAPI(svc, tn, time.Second)
	if s.GetVersions()[0].GetParent() != "tenants/acme/versions/2" || s.GetVersions()[1].GetParent() != "" {
		t.Errorf("parents: %v", s.GetVersions())
	}
	if e := tenantToAPI(&fsmpb.Tenant{Name: "x"}, 0).GetEtag(); e != "" {
		t.Errorf("what does not exist yet has the etag %q", e)
	}
	if r := resourceToAPI(hierarchy.ResourcePath("a", "b", "x/y"), &fsmpb.Resource{Version: 2, Earlier: []uint32{0, 1}}); r.GetName() != "tenants/a/services/b/resources/x%2Fy" || len(r.GetEarlierVersions()) != 2 {
		t.Errorf("a resource: %v", r)
	}
}

// TestEveryStateHasANameInTheAPI: states are converted by their number.
func TestEveryStateHasANameInTheAPI(t *testing.T) {
	for n, name := range fsmpb.VersionState_name {
		if kryptonv1.VersionState_name[n] != name {
			t.Errorf("version state %d is %s there and %s here", n, name, kryptonv1.VersionState_name[n])
		}
	}
	for n, name := range fsmpb.ObjectState_name {
		if kryptonv1.ObjectState_name[n] != name {
			t.Errorf("object state %d is %s there and %s here", n, name, kryptonv1.ObjectState_name[n])
		}
	}
	for _, r := range auth.Roles() {
		if want := "ROLE_" + strings.ToUpper(r.String()); apiRoles[r].String() != want {
			t.Errorf("role %s is %s", r, apiRoles[r])
		}
	}
}

// counts returns the counted calls, by method and code.
func counts(t *testing.T, c *calls) map[string]float64 {
	t.Helper()
	families, err := c.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "krypton_server_calls_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			out[labels["method"]+" "+labels["code"]] = m.GetCounter().GetValue()
		}
	}
	return out
}

// TestAPanicIsOneFailedCall with a correlation id, a record, and without what
// the panic says.
func TestAPanicIsOneFailedCall(t *testing.T) {
	c, sink, log := testCalls(t)
	who := auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleGovernor, Name: "alice"}
	stream := &inprocStream{}
	ctx := grpc.NewContextWithServerTransportStream(withCaller(t.Context(), caller{Identity: identity.Identity{Principal: who}}), stream)
	_, err := c.answer(ctx, &kryptonv1.WhoAmIRequest{}, &grpc.UnaryServerInfo{FullMethod: "/krypton.v1.Access/WhoAmI"},
		func(ctx context.Context, _ any) (any, error) {
			return nil, c.do(ctx, gate.WhoAmI, "cluster", func(gate.Token) error { panic("0xSECRET") })
		})
	if e := errs.From(wire.FromStatus(err)); e.Code != errs.Internal || strings.Contains(e.Error(), "SECRET") {
		t.Fatalf("a panic became %v", err)
	}
	if id := saidOf(stream).Correlation; id == "" || !strings.Contains(log.String(), id) {
		t.Errorf("I3: the correlation id %v is not in the log %s", id, log)
	}
	if strings.Contains(log.String(), "SECRET") {
		t.Error("the log quotes the panic")
	}
	if r := sink.Records(); len(r) != 1 || r[0].Code != errs.Internal {
		t.Errorf("records: %v", r)
	}
	if diff := cmp.Diff(map[string]float64{"Access.WhoAmI INTERNAL": 1}, counts(t, c)); diff != "" {
		t.Errorf("counted:\n%s", diff)
	}
}

// TestI3_AnErrorWithoutACodeKeepsItsTextInTheLog under the correlation id.
func TestI3_AnErrorWithoutACodeKeepsItsTextInTheLog(t *testing.T) {
	c, _, log := testCalls(t)
	stream := &inprocStream{}
	ctx := grpc.NewContextWithServerTransportStream(t.Context(), stream)
	_, err := c.answer(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/made/up"}, func(context.Context, any) (any, error) {
		return nil, errors.New("file /etc/x is broken")
	})
	if strings.Contains(err.Error(), "/etc/x") || !strings.Contains(log.String(), "/etc/x") || saidOf(stream).Correlation == "" || !strings.Contains(log.String(), saidOf(stream).Correlation) {
		t.Fatalf("error %v, log %s", err, log)
	}
	if diff := cmp.Diff(map[string]float64{"other INTERNAL": 1}, counts(t, c)); diff != "" {
		t.Errorf("I6: a method that does not exist became a label:\n%s", diff)
	}
}

// TestI2_AStrangerHearsNothingElse even from a handler that forgets the gate.
func TestI2_AStrangerHearsNothingElse(t *testing.T) {
	c, sink, _ := testCalls(t)
	for name, answer := range map[string]error{"an answer": nil, "an error of its own": errs.New(errs.NotFound, "no such tenant")} {
		ctx := grpc.NewContextWithServerTransportStream(withCaller(t.Context(), caller{refused: errors.New("no certificate")}), &inprocStream{})
		out, err := c.answer(ctx, &kryptonv1.WhoAmIRequest{}, &grpc.UnaryServerInfo{FullMethod: "x"}, func(context.Context, any) (any, error) {
			return &kryptonv1.WhoAmIResponse{Name: "x"}, answer
		})
		if out != nil || !errs.Is(wire.FromStatus(err), errs.Unauthenticated) {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
	if r := sink.Records(); len(r) != 2 || r[0].Cause != "no certificate" || r[0].Correlation == "" {
		t.Errorf("records: %+v", r)
	}
}

// TestEveryCallEnds: without a deadline of the caller after the budget, with one
// after that, but not beyond the longest.
func TestEveryCallEnds(t *testing.T) {
	c, _, _ := testCalls(t)
	left := func(ctx context.Context) (d time.Duration) {
		_, _ = c.answer(grpc.NewContextWithServerTransportStream(ctx, &inprocStream{}), nil, &grpc.UnaryServerInfo{}, func(ctx context.Context, _ any) (any, error) {
			at, ok := ctx.Deadline()
			if !ok {
				t.Error("a call without an end")
			}
			d = time.Until(at)
			return nil, nil
		})
		return d
	}
	if d := left(t.Context()); d > c.budget {
		t.Errorf("without a deadline: %s", d)
	}
	for ask, most := range map[time.Duration]time.Duration{5 * time.Second: 5 * time.Second, 24 * time.Hour: maxDeadline} {
		ctx, cancel := context.WithTimeout(t.Context(), ask)
		if d := left(ctx); d > most || d < most-time.Second {
			t.Errorf("with a deadline of %s: %s", ask, d)
		}
		cancel()
	}
}

// TestSecretsOfAnAnswerAreWipedOnceItIsEncoded and nothing else of it is, since
// that may belong to the registry.
func TestSecretsOfAnAnswerAreWipedOnceItIsEncoded(t *testing.T) {
	secret, shared := []byte("plaintext"), []byte("wrapped")
	m := &kryptonv1.GenerateDataKeyResponse{Plaintext: secret, Wrapped: shared}
	out, err := newCodec().Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var got kryptonv1.GenerateDataKeyResponse
	if err := newCodec().Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&kryptonv1.GenerateDataKeyResponse{Plaintext: []byte("plaintext"), Wrapped: []byte("wrapped")}, &got, protocmp.Transform()); diff != "" {
		t.Fatal(diff)
	}
	if !bytes.Equal(secret, make([]byte, len(secret))) || string(shared) != "wrapped" {
		t.Fatalf("after encoding: %q, %q", secret, shared)
	}
	shares := [][]byte{[]byte("one"), []byte("two")}
	wipe(&kryptonv1.InitResponse{Shares: shares, Ca: shared})
	if !bytes.Equal(shares[1], make([]byte, 3)) || string(shared) != "wrapped" {
		t.Fatalf("after wiping: %q, %q", shares, shared)
	}
	wipe(nil)
	wipe((*kryptonv1.InitResponse)(nil))
	for _, name := range []string{"GenerateDataKeyResponse", "UnwrapDataKeyResponse", "DecryptResponse", "EncryptRequest", "InitResponse", "ContributeRequest"} {
		found := false
		for full := range secretFields {
			found = found || string(full.Name()) == name
		}
		if !found {
			t.Errorf("%s has no secret field", name)
		}
	}
}

// TestTheGatewaysCallLeavesNoPlaintext in the messages on both sides.
func TestTheGatewaysCallLeavesNoPlaintext(t *testing.T) {
	var out *kryptonv1.DecryptResponse
	p := &inproc{intercept: func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		out = &kryptonv1.DecryptResponse{Plaintext: []byte("plaintext")}
		return out, nil
	}}
	kryptonv1.RegisterCryptoServer(p, kryptonv1.UnimplementedCryptoServer{})
	c := kryptonv1.NewCryptoClient(p)
	got, err := c.Decrypt(t.Context(), &kryptonv1.DecryptRequest{})
	if err != nil || string(got.GetPlaintext()) != "plaintext" || !bytes.Equal(out.GetPlaintext(), make([]byte, 9)) {
		t.Fatalf("%q, %q, %v", got.GetPlaintext(), out.GetPlaintext(), err)
	}
	in := &kryptonv1.EncryptRequest{Plaintext: []byte("plaintext")}
	p.intercept = func(_ context.Context, req any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		if string(req.(*kryptonv1.EncryptRequest).GetPlaintext()) != "plaintext" {
			t.Error("the handler got another plaintext")
		}
		return nil, errors.New("refused")
	}
	if _, err := c.Encrypt(t.Context(), in); err == nil || !bytes.Equal(in.GetPlaintext(), make([]byte, 9)) {
		t.Fatalf("%q, %v", in.GetPlaintext(), err)
	}
	if err := p.Invoke(t.Context(), "/no/such", in, out); err == nil {
		t.Error("a method that does not exist answered")
	}
	if _, err := p.NewStream(t.Context(), nil, "/no/such"); err == nil {
		t.Error("a stream over HTTP")
	}
}

func TestACorrelationIdIsTakenOrMade(t *testing.T) {
	c, _, _ := testCalls(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if id, err := c.correlate([]string{trace}); err != nil || id != "0af76519-16cd-43dd-8448-eb211c80319c" {
		t.Errorf("%s, %v", id, err)
	}
	for _, h := range [][]string{nil, {""}, {"x"}, {trace, trace}} {
		if id, err := c.correlate(h); err != nil || strings.HasPrefix(string(id), "0af7") {
			t.Errorf("%q: %s, %v", h, id, err)
		}
	}
	c.rand = strings.NewReader("")
	if _, err := c.answer(t.Context(), nil, &grpc.UnaryServerInfo{}, nil); !errs.Is(wire.FromStatus(err), errs.Internal) {
		t.Errorf("without randomness: %v", err)
	}
	if corr.From(t.Context()) != "" {
		t.Error("a context of its own has an id")
	}
}

// FuzzPlaces takes anything for an etag and for a page token.
func FuzzPlaces(f *testing.F) {
	f.Add(`"7"`)
	f.Add(`"07"`)
	f.Add(tokenOf("things", "", "x"))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseETag(s); err == nil && etag(n) != s {
			t.Errorf("%q was read as %d", s, n)
		}
		p, err := page(asked{token: s}, "things", "")
		if err == nil && s != "" && p.token(p.after) != s {
			t.Errorf("%q was read as %q", s, p.after)
		}
	})
}

// saidOf returns what the node said beside its answer.
func saidOf(stream *inprocStream) answer.Info {
	v := stream.header.Get(answer.Header)
	if len(v) != 1 {
		return answer.Info{}
	}
	said, _ := answer.Parse(v[0])
	return said
}

// TestWhyANodeServesNothingNamesWhatIsWrongWithItsState before what follows from that:
// it has no lease then, and may be sealed.
func TestWhyANodeServesNothingNamesWhatIsWrongWithItsState(t *testing.T) {
	t.Parallel()
	const wrong = "the state of this node differs from its leader's at entry 7 of the log"
	for name, h := range map[string]cluster.Health{
		"no lease":  {SealState: node.StateUnsealed, StateCorrupt: wrong},
		"refused":   {SealState: node.StateUnsealed, LeaseRefusal: "behind", StateCorrupt: wrong},
		"sealed":    {SealState: node.StateSealed, StateCorrupt: wrong},
		"a lease":   {SealState: node.StateUnsealed, Lease: time.Second, StateCorrupt: wrong},
		"of no use": {StateCorrupt: wrong},
	} {
		if got := whyNot(h); got != "STATE_CORRUPT: "+wrong {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := whyNot(cluster.Health{SealState: node.StateUnsealed, LeaseRefusal: "behind"}); strings.Contains(got, "STATE_CORRUPT") || !strings.Contains(got, "behind") {
		t.Errorf("without: %q", got)
	}
	waiting := cluster.Health{SealState: node.StateUnsealed, Lease: time.Second, Uncompared: "it waits"}
	if got := whyNot(waiting); !strings.Contains(got, "it waits") || !strings.Contains(got, "state-not-proved") {
		t.Errorf("a node whose state was not compared: %q", got)
	}
	if got := whyNot(cluster.Health{Serving: true}); got != "" {
		t.Errorf("a node that serves: %q", got)
	}
}

// TestWhoIsLetInIsKnownByTheirBinding behind the gate, so that what began by one
// binding is not ended by another of the same name.
func TestWhoIsLetInIsKnownByTheirBinding(t *testing.T) {
	t.Parallel()
	is := identity.Identity{Principal: auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleAuditor, Name: "ada"}, Binding: hierarchy.UID{7}, Serial: "s", NotAfter: time.Now().Add(time.Hour)}
	c, _, _ := testCalls(t)
	id, err := corr.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	err = c.do(withCaller(corr.With(t.Context(), id), caller{Identity: is, asked: 3}), gate.ListNodes, node.ObjectCluster, func(tok gate.Token) error {
		if tok.Binding() != is.Binding || tok.Serial() != is.Serial || tok.Authority() != 3 || tok.Principal() != is.Principal {
			t.Errorf("behind the gate: %v by %v, %q, %d", tok.Principal(), tok.Binding(), tok.Serial(), tok.Authority())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestASealOfKeystoresAloneSaysThatItUnsealsWithoutPeople, whether any one of them opens
// it or as many of their shares as it takes.
func TestASealOfKeystoresAloneSaysThatItUnsealsWithoutPeople(t *testing.T) {
	for _, tt := range []struct {
		st   node.SealStatus
		want bool
	}{
		{node.SealStatus{}, false}, // no seal
		{node.SealStatus{Mode: seal.ModeAuto}, true},
		{node.SealStatus{Mode: seal.ModeShamir}, true},
		{node.SealStatus{Mode: seal.ModeShamir, Persons: 1}, false},
	} {
		if got := unsealsWithoutPeople(tt.st); got != tt.want {
			t.Errorf("%v, %d persons: %v", tt.st.Mode, tt.st.Persons, got)
		}
	}
}
