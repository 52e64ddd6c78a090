package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// wrong is one request that is refused, as a row of docs/errors.md says.
type wrong struct {
	id     string
	who    string
	method string
	req    proto.Message
	reach  reach
}

// reach says through which doors a request can be made.
type reach int

const (
	everyDoor reach = iota
	onlyGRPC        // no path of HTTP has room for it
)

// ground is a cluster on which everything can be done wrongly: tenants, services
// and versions in every state, and what was encrypted under them while it could
// be.
type ground struct {
	*world

	canary     []byte // plaintext of every ciphertext; nobody else has to know
	text       string // what callers write where it does not belong
	key        []byte // a data key
	ciphertext map[string][]byte
	wrapped    map[string][]byte
	sdk        map[string]*client.Client
	foreign    struct{ ciphertext, wrapped []byte } // of another cluster
}

const (
	acme   = "tenants/acme"
	pay    = acme + "/services/pay"
	states = acme + "/services/states" // has a version in every state
)

// must calls as somebody and fails the test if it is refused.
func (g *ground) must(who, method string, m proto.Message) proto.Message {
	g.t.Helper()
	out, err := g.call(g.t, 0, who, method, m)
	if err != nil {
		g.t.Fatalf("%s by %s: %v", method, who, err)
	}
	return out
}

// service makes a service and encrypts under its first version.
func (g *ground) service(tenant, name string) {
	g.t.Helper()
	g.must("governor", "Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: "tenants/" + tenant, ServiceId: name})
	g.encrypt("workload/"+tenant, "tenants/"+tenant+"/services/"+name)
}

// encrypt keeps a ciphertext and a wrapped key of a service, under its name and
// under that of its primary version.
func (g *ground) encrypt(who, svc string) {
	g.t.Helper()
	enc := g.must(who, "Crypto.Encrypt", &kryptonv1.EncryptRequest{Service: svc, Plaintext: bytes.Clone(g.canary)}).(*kryptonv1.EncryptResponse)
	dek := g.must(who, "Crypto.GenerateDataKey", &kryptonv1.GenerateDataKeyRequest{Service: svc}).(*kryptonv1.GenerateDataKeyResponse)
	g.key = dek.GetPlaintext()
	for _, name := range []string{svc, enc.GetKeyVersion()} {
		g.ciphertext[name], g.wrapped[name] = enc.GetCiphertext(), dek.GetWrapped()
	}
}

func newGround(t testing.TB) *ground {
	t.Helper()
	w := newWorld(t, 1)
	w.waits = true
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	g := &ground{
		world: w, ciphertext: map[string][]byte{}, wrapped: map[string][]byte{}, sdk: map[string]*client.Client{},
	}
	// Text, so that no log can write it in another way.
	random := make([]byte, 12)
	_, _ = rand.Read(random)
	g.canary = []byte(hex.EncodeToString(random))
	g.text = "C4nary" + string(g.canary[:16])
	for _, name := range []string{"acme", "other", "idle", "doomed", "gone"} {
		w.tenant(name, "pay")
		g.encrypt("workload/"+name, "tenants/"+name+"/services/pay")
	}
	for _, s := range []string{"logs", "states", "idle", "doomed", "gone", "again"} {
		g.service("acme", s)
	}
	w.tenant("again", "pay")
	g.encrypt("workload/again", "tenants/again/services/pay")

	gov := func(method string, m proto.Message) { g.must("governor", method, m) }
	for range 6 {
		gov("Services.RotateService", &kryptonv1.RotateServiceRequest{Name: states})
		g.encrypt("workload/acme", states)
	}
	gov("Services.PinResource", &kryptonv1.PinResourceRequest{Name: states + "/resources/held", Version: 6})
	gov("Services.DisableVersion", &kryptonv1.DisableVersionRequest{Name: states + "/versions/1"})
	// The end of the rollback window deprecates, too.
	if _, err := g.call(t, 0, "governor", "Services.DeprecateVersion", &kryptonv1.DeprecateVersionRequest{Name: states + "/versions/2"}); err != nil && codeOf(err) != errs.FailedState {
		t.Fatal(err)
	}
	gov("Services.CompromiseVersion", &kryptonv1.CompromiseVersionRequest{Name: states + "/versions/3"})
	gov("Services.DestroyVersion", &kryptonv1.DestroyVersionRequest{Name: states + "/versions/4"})
	gov("Services.DestroyVersion", &kryptonv1.DestroyVersionRequest{Name: states + "/versions/5", Now: true})
	gov("Services.SuspendService", &kryptonv1.SuspendServiceRequest{Name: acme + "/services/idle"})
	gov("Services.DeleteService", &kryptonv1.DeleteServiceRequest{Name: acme + "/services/doomed"})
	gov("Services.DeleteService", &kryptonv1.DeleteServiceRequest{Name: acme + "/services/gone", Now: true})
	gov("Services.DeleteService", &kryptonv1.DeleteServiceRequest{Name: acme + "/services/again", Now: true})
	gov("Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: acme, ServiceId: "again"})
	gov("Tenants.SuspendTenant", &kryptonv1.SuspendTenantRequest{Name: "tenants/idle"})
	gov("Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/doomed"})
	gov("Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/gone", Now: true})
	gov("Tenants.DeleteTenant", &kryptonv1.DeleteTenantRequest{Name: "tenants/again", Now: true})
	gov("Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "unbound"})
	w.l1("again-2-l1")
	gov("Tenants.CreateTenant", &kryptonv1.CreateTenantRequest{TenantId: "again", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "again-2-l1"}})
	gov("Services.CreateService", &kryptonv1.CreateServiceRequest{Parent: "tenants/again", ServiceId: "pay"})
	w.hangUp()
	w.issue("workload", "again", 0)
	g.rollbackEnds()
	// A bound workload ends with its tenant; one that needs no binding asks on.
	corp := w.corp()
	w.people["corp/gone"] = corp.leaf(nil, corp.uri("gone", "x"))

	there := newWorld(t, 1)
	there.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	there.tenant("acme", "pay")
	h := &ground{world: there, canary: g.canary, ciphertext: map[string][]byte{}, wrapped: map[string][]byte{}}
	h.encrypt("workload/acme", pay)
	g.foreign.ciphertext, g.foreign.wrapped = h.ciphertext[pay], h.wrapped[pay]
	return g
}

// rollbackEnds waits until the window is over in which the last rotation can be
// taken back.
func (g *ground) rollbackEnds() {
	g.t.Helper()
	tries := 0
	until(g.t, "the rollback window is over", func() error {
		_, err := g.call(g.t, 0, "governor", "Services.RollbackService", &kryptonv1.RollbackServiceRequest{Name: states, Version: 6, ValidateOnly: true})
		if codeOf(err) == errs.FailedState {
			return nil
		}
		// The time of the registry is that of its last command.
		tries++
		g.must("governor", "Services.PinResource", &kryptonv1.PinResourceRequest{Name: fmt.Sprintf("%s/resources/clock-%d", states, tries), Version: 7})
		return fmt.Errorf("it answers %w", err)
	})
}

// registry is all that is stored, in one encoding, but for the memory of
// requests: what is refused is remembered, too.
func registry(t testing.TB, v *fsm.View) []byte {
	t.Helper()
	var out []byte
	add := func(m proto.Message) {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(append(out, byte(len(raw)>>8), byte(len(raw))), raw...)
	}
	add(v.Cluster())
	add(v.Hold())
	for _, x := range v.Tenants("", 1000) {
		add(x)
		for _, s := range v.Services(x, "", 1000) {
			add(s)
			for _, r := range v.Resources(s, "", 1000) {
				add(r)
			}
		}
	}
	for _, m := range v.Members() {
		add(m)
	}
	for _, i := range v.Issuers() {
		add(i)
	}
	for _, owner := range []string{"", "acme", "other", "again"} {
		for _, b := range v.Bindings(owner, "", 1000) {
			add(b)
		}
	}
	for _, k := range v.JoinTokens() {
		add(k)
	}
	for _, s := range v.Secrets() {
		add(s)
	}
	return out
}

// viaSDK calls a method as a program with our client does.
func (g *ground) viaSDK(who, method string, m, out proto.Message) error {
	g.t.Helper()
	c, ok := g.sdk[who]
	if !ok {
		var err error
		if c, err = client.New(g.t.Context(), client.With(client.Options{Addrs: []string{g.members[0].addrs.GRPC}, TLS: g.tlsConfig(g.certOf(who)...)})); err != nil {
			g.t.Fatal(err)
		}
		g.t.Cleanup(func() { _ = c.Close() })
		g.sdk[who] = c
	}
	return c.Invoke(limited(g.t), fullMethod(method), m, out)
}

// refuse makes a request through every door and compares what comes with the
// row, the words of the doors with each other, and the registry with itself.
func (g *ground) refuse(t *testing.T, c wrong) {
	t.Helper()
	// The leader's own clockwork may fall between the two looks at the registry,
	// but not every time.
	for tries := 1; g.refuses(t, c) && !t.Failed(); tries++ {
		if tries == 3 {
			t.Errorf("%s: what was refused changed the registry", c.id)
		}
	}
}

// refuses makes a request once and reports whether something changed.
func (g *ground) refuses(t *testing.T, c wrong) bool {
	t.Helper()
	before := g.members[0].state.View()
	req := withRequestID(proto.Clone(c.req))
	secrets := [][]byte{g.canary, g.key, []byte(g.text)}

	_, err := g.call(t, 0, c.who, c.method, proto.Clone(req))
	said := refusalOf(err)
	if err != nil {
		err = errs.New(said.Code, said.Msg, errs.Hint("%s", said.Hint))
	}
	situationtest.Error(t, c.id, err, secrets...)
	sdk := refusalOf(g.viaSDK(c.who, c.method, proto.Clone(req), responseOf(t, c.method)))
	if sdk != said {
		t.Errorf("%s: gRPC says %v and the SDK %v", c.id, said, sdk)
	}
	hr, ok := g.request(t, 0, httpTable(t)["krypton.v1."+c.method], req)
	if ok != (c.reach == everyDoor) {
		t.Errorf("%s: that there is a path of HTTP for it is %v", c.id, ok)
	}
	if ok {
		a := g.do(t, c.who, "h2", hr)
		situationtest.HTTP(t, c.id, a.status, a.body, secrets...)
		if got := a.refusal(t); got != said {
			t.Errorf("%s: gRPC says %v and HTTP %v", c.id, said, got)
		}
	}
	// To check only is refused in the same words.
	r := req.ProtoReflect()
	if fd := r.Descriptor().Fields().ByName("validate_only"); fd != nil && !r.Get(fd).Bool() {
		dry := proto.Clone(c.req)
		dry.ProtoReflect().Set(fd, protoreflect.ValueOfBool(true))
		_, err := g.call(t, 0, c.who, c.method, dry)
		if got := refusalOf(err); got != said {
			t.Errorf("%s: to validate only is answered with %v, to act with %v", c.id, got, said)
		}
	}
	return changed(t, before, g.members[0].state.View())
}

// noTrace fails if something secret is in the log or in the audit trail, in any
// usual spelling. What callers wrote in the wrong place is no secret to the
// audit trail of their own acts, but the log has none of it.
func (g *ground) noTrace(t *testing.T) {
	t.Helper()
	m := g.members[0]
	for what, s := range map[string][]byte{"plaintext": g.canary, "data key": g.key} {
		for _, form := range [][]byte{
			s, []byte(hex.EncodeToString(s)), []byte(base64.StdEncoding.EncodeToString(s)), []byte(base64.RawURLEncoding.EncodeToString(s)),
			[]byte(strings.Trim(strconv.Quote(string(s)), `"`)), fmt.Append(nil, s),
		} {
			if bytes.Contains(m.log.Bytes(), form) || bytes.Contains(m.records(), form) {
				t.Errorf("the %s is in the log or in the audit trail", what)
			}
		}
	}
	if bytes.Contains(m.log.Bytes(), []byte(g.text)) {
		t.Error("what a caller sent is in the log")
	}
}

func fullMethod(method string) string {
	service, name, _ := strings.Cut(method, ".")
	return "/krypton.v1." + service + "/" + name
}

// frame is a codec that sends bytes as they are, and drops what comes back.
type frame struct{}

func (frame) Name() string { return "proto" }

func (frame) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (frame) Unmarshal([]byte, any) error { return nil }

// raw sends bytes as the request of a method.
func (w *world) raw(t testing.TB, who, method string, body []byte, opts ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	for {
		err := w.grpc(0, who).Invoke(ctx, fullMethod(method), body, nil, append(opts, grpc.ForceCodec(frame{}))...)
		if codeOf(err) != errs.NotServing || (clock.System{}).Sleep(ctx, 1e7) != nil {
			return err
		}
	}
}

// changed reports whether the registry differs between two views. A view never
// changes: one and the same needs no comparison, which is most of them.
func changed(t testing.TB, before, after *fsm.View) bool {
	t.Helper()
	return before != after && !bytes.Equal(registry(t, before), registry(t, after))
}
