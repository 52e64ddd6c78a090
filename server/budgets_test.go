package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/server"
)

// bounded is a world of one node with two tenants, whose doors have those limits. The
// clock of its doors stands still from then on: budgets do not come back by themselves.
func bounded(t *testing.T, set func(*server.Limits)) *world {
	t.Helper()
	w := newWorld(t, 1, func(c *server.Config) { set(&c.Limits) })
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("other", "pay")
	w.members[0].door.stop()
	return w
}

func (w *world) encrypt(who, tenant string) error {
	_, err := kryptonv1.NewCryptoClient(w.grpc(0, who)).Encrypt(limited(w.t), &kryptonv1.EncryptRequest{Service: "tenants/" + tenant + "/services/pay", Plaintext: []byte("x")})
	return err
}

// spend calls until the first refusal, which has to be THROTTLED, and returns how many
// were admitted.
func spend(t *testing.T, most int, call func() error) (int, *errs.Error) {
	t.Helper()
	for n := range most {
		if err := call(); err != nil {
			e := errs.From(wire.FromStatus(err))
			if e.Code != errs.Throttled {
				t.Fatalf("call %d: %v", n+1, err)
			}
			return n, e
		}
	}
	t.Fatalf("%d calls and no refusal", most)
	return 0, nil
}

// TestI9_WhatOneCallerSpendsIsHisOwn through both doors, and he is told how long to
// wait.
func TestI9_WhatOneCallerSpendsIsHisOwn(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.CallerRate = 20 })
	n, e := spend(t, 100, func() error { return w.encrypt("workload/acme", "acme") })
	if n != 20 || e.After <= 0 || e.After > time.Second {
		t.Errorf("%d calls were admitted, then %v, wait %v", n, e, e.After)
	}
	situationtest.Error(t, "limits/rate", e)
	a := w.send(t, "workload/acme", http.MethodPost, "/v1/tenants/acme/services/pay:encrypt", `{"plaintext":"eA=="}`)
	if s, err := strconv.Atoi(a.header.Get("Retry-After")); a.status != http.StatusTooManyRequests || err != nil || s != 1 {
		t.Errorf("over HTTP: %d, Retry-After %q", a.status, a.header.Get("Retry-After"))
	}
	if err := w.encrypt("workload/other", "other"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	// What is read has a budget of its own.
	if _, err := kryptonv1.NewServicesClient(w.grpc(0, "workload/acme")).GetService(limited(t), &kryptonv1.GetServiceRequest{Name: pay}); err != nil {
		t.Errorf("a read of the caller whose data operations are spent: %v", err)
	}
	// A new connection has no new budget.
	w.hangUp()
	if err := w.encrypt("workload/acme", "acme"); codeOf(err) != errs.Throttled {
		t.Errorf("over a new connection: %v", err)
	}
	// It comes back with time.
	w.members[0].door.at.Store(nil)
	w.members[0].door.advance(time.Second)
	if err := w.encrypt("workload/acme", "acme"); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

// TestI9_WorkloadsOfATenantShareItsBudget whatever each of them has left.
func TestI9_WorkloadsOfATenantShareItsBudget(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.TenantRate = 20 })
	second := w.issueNamed("acme", "y")
	n, e := spend(t, 100, func() error { return w.encrypt("workload/acme", "acme") })
	if n != 20 || !strings.Contains(e.Msg, "the tenant's workloads") {
		t.Errorf("%d calls were admitted, then %v", n, e)
	}
	if err := w.encrypt(second, "acme"); codeOf(err) != errs.Throttled {
		t.Errorf("another workload of the tenant: %v", err)
	}
	if err := w.encrypt("workload/other", "other"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	info, err := kryptonv1.NewClusterClient(w.grpc(0, "governor")).GetCluster(limited(t), &kryptonv1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if l := info.GetLimited(); len(l) != 1 || l[0].GetTenant() != "tenants/acme" || l[0].GetRefused() != 2 || l[0].GetCalls() != "use" || l[0].GetPrincipal() != "" || !l[0].GetLastTime().IsValid() {
		t.Errorf("limited: %v", l)
	}
}

// issueNamed makes another workload of a tenant.
func (w *world) issueNamed(tenant, name string) string {
	w.t.Helper()
	key, spki := newKey(w.t)
	resp, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).IssueCertificate(limited(w.t), &kryptonv1.IssueCertificateRequest{
		Role: kryptonv1.Role_ROLE_WORKLOAD, Tenant: "tenants/" + tenant, Name: name, PublicKey: spki,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	who := "workload/" + tenant + "/" + name
	w.people[who] = certificate(w.t, resp.GetCertificate(), key)
	return who
}

// TestI9_PowerIsTakenAwayWhateverElseWasCalled: a governor who used up changes and
// reads still suspends, seals and revokes.
func TestI9_PowerIsTakenAwayWhateverElseWasCalled(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.CallerReads, l.CallerChanges = 10, 10 })
	gov := w.grpc(0, "governor")
	tenants, services := kryptonv1.NewTenantsClient(gov), kryptonv1.NewServicesClient(gov)
	if n, _ := spend(t, 100, func() error {
		_, err := services.RotateService(limited(t), &kryptonv1.RotateServiceRequest{Name: pay, ValidateOnly: true})
		return err
	}); n == 0 || n > 10 { // some were spent to make the world
		t.Errorf("%d changes", n)
	}
	if n, _ := spend(t, 100, func() error {
		_, err := tenants.ListTenants(limited(t), &kryptonv1.ListTenantsRequest{})
		return err
	}); n != 10 {
		t.Errorf("%d reads", n)
	}
	for name, do := range map[string]func(context.Context) error{
		"disable": func(ctx context.Context) error {
			_, err := services.DisableVersion(ctx, &kryptonv1.DisableVersionRequest{Name: pay + "/versions/1", ValidateOnly: true})
			return err
		},
		"suspend a service": func(ctx context.Context) error {
			_, err := services.SuspendService(ctx, &kryptonv1.SuspendServiceRequest{Name: pay})
			return err
		},
		"suspend a tenant": func(ctx context.Context) error {
			_, err := tenants.SuspendTenant(ctx, &kryptonv1.SuspendTenantRequest{Name: acme})
			return err
		},
		"who am I": func(ctx context.Context) error {
			_, err := kryptonv1.NewAccessClient(gov).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{})
			return err
		},
		"look at the cluster": func(ctx context.Context) error {
			_, err := kryptonv1.NewClusterClient(gov).GetCluster(ctx, &kryptonv1.GetClusterRequest{})
			return err
		},
		"look at the seal": func(ctx context.Context) error {
			_, err := kryptonv1.NewSealClient(gov).GetSeal(ctx, &kryptonv1.GetSealRequest{})
			return err
		},
	} {
		if err := do(limited(t)); codeOf(err) == errs.Throttled {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := kryptonv1.NewSealClient(gov).SealNode(limited(t), &kryptonv1.SealNodeRequest{}); err != nil {
		t.Errorf("seal: %v", err)
	}
}

// TestALargeRequestCountsForMore: once more for each 64 KiB.
func TestALargeRequestCountsForMore(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.CallerRate = 100 })
	c := kryptonv1.NewCryptoClient(w.grpc(0, "workload/acme"))
	n, _ := spend(t, 100, func() error {
		_, err := c.Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: pay, Plaintext: make([]byte, 1<<20)})
		return err
	})
	if n != 100/17 {
		t.Errorf("%d requests of 1 MiB in a budget of 100", n)
	}
}

// TestRefusalsForABudgetCannotFillTheAuditTrail, and the caller stands in it.
func TestRefusalsForABudgetCannotFillTheAuditTrail(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.CallerRate = 1 })
	spend(t, 10, func() error { return w.encrypt("workload/acme", "acme") })
	before := len(w.members[0].records())
	for range 300 {
		if err := w.encrypt("workload/acme", "acme"); codeOf(err) != errs.Throttled {
			t.Fatal(err)
		}
	}
	w.members[0].gate.Flush()
	records := w.members[0].records()
	if grown := len(records) - before; grown > 2048 {
		t.Errorf("%d bytes of records for 300 refusals", grown)
	}
	var named, counted uint64
	for line := range bytes.Lines(records) {
		var r struct {
			Act, Principal, Code string
			Count                uint64
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		switch {
		case r.Act != gate.ActLimited:
		case r.Count > 0:
			counted += r.Count
		case strings.Contains(r.Principal, "/workload/acme/") && r.Code == "THROTTLED":
			named++
		}
	}
	if named == 0 || named+counted != 301 {
		t.Errorf("%d records with a name, %d counted, of 301 refusals", named, counted)
	}
}

// TestTheSDKWaitsAsItIsTold: more calls at once than the budget has, and none fails.
func TestTheSDKWaitsAsItIsTold(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.CallerRate = 50 })
	w.members[0].door.at.Store(nil) // time goes on
	for _, door := range []string{"grpc", "rest"} {
		var retries int
		var mu sync.Mutex
		c := w.sdk(t, door, "workload/acme", w.members, func(o *client.Options) {
			o.OnRetry = func(r client.Retry) {
				mu.Lock()
				defer mu.Unlock()
				if !errs.Is(r.Err, errs.Throttled) || r.Delay < errs.From(r.Err).After {
					t.Errorf("a retry after %v, told %v: %v", r.Delay, errs.From(r.Err).After, r.Err)
				}
				retries++
			}
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := c.Encrypt(limited(t), client.Scope{Service: pay}, []byte("x")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if retries == 0 {
			t.Errorf("%s: the budget was never used up", door)
		}
	}
}

// TestI9_AConnectionWithoutAPlaceHearsWhy over both doors; one that ends makes room.
func TestI9_AConnectionWithoutAPlaceHearsWhy(t *testing.T) {
	t.Parallel()
	w := bounded(t, func(l *server.Limits) { l.CallerConnections = 3 })
	w.hangUp()
	ask := func(cc *grpc.ClientConn) error {
		_, err := kryptonv1.NewAccessClient(cc).WhoAmI(limited(t), &kryptonv1.WhoAmIRequest{})
		return err
	}
	var held []*grpc.ClientConn
	for range 3 {
		cc := w.dial(0, w.tlsConfig(w.certOf("workload/acme")...))
		t.Cleanup(func() { _ = cc.Close() })
		if err := ask(cc); err != nil {
			t.Fatal(err)
		}
		held = append(held, cc)
	}
	more := w.dial(0, w.tlsConfig(w.certOf("workload/acme")...))
	t.Cleanup(func() { _ = more.Close() })
	err := ask(more)
	situationtest.Error(t, "limits/caller-connections", errs.From(wire.FromStatus(err)))
	if err := ask(w.grpc(0, "governor")); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	if a := w.send(t, "workload/acme", http.MethodGet, "/v1/"+pay, ""); a.status != http.StatusOK {
		t.Errorf("the other port has places of its own: %d", a.status)
	}
	_ = held[0].Close()
	until(t, "a place", func() error { return ask(more) })
}

// TestEveryMethodHasItsClass and nothing that gives power, or uses a key, is among
// what is never refused for other calls.
func TestEveryMethodHasItsClass(t *testing.T) {
	t.Parallel()
	takes := []string{
		"Suspend", "Disable", "Deprecate", "Compromise", "Seal", "GetSeal", "GetShard", "Contribute", "WhoAmI", "Revoke", "DeleteRoleBinding", "RenewCertificate", "Demote", "Remove", "GetCluster", "Reject",
	}
	seen := map[string]int{}
	for method, class := range server.ClassesOfMethods() {
		seen[class]++
		_, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		if class != "protect" {
			if strings.Contains(name, "Suspend") || strings.Contains(name, "Revoke") || strings.HasPrefix(name, "Disable") || name == "SealNode" {
				t.Errorf("%s takes power away and is counted as %s", method, class)
			}
			continue
		}
		ok := false
		for _, p := range takes {
			ok = ok || strings.HasPrefix(name, p)
		}
		if !ok {
			t.Errorf("%s is never refused for other calls", method)
		}
	}
	if seen["use"] != len(kryptonv1.Crypto_ServiceDesc.Methods) || seen["read"] == 0 || seen["change"] == 0 || seen["protect"] < 10 {
		t.Errorf("classes: %v", seen)
	}
}
