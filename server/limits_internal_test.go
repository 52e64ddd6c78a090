package server

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// limitedCalls are calls whose handlers a test chooses, with those limits.
func limitedCalls(t *testing.T, l Limits) *calls {
	t.Helper()
	c, _, _ := testCalls(t)
	c.budget = time.Minute
	c.limits = newLimits(l.orDefault(), clock.NewFake(time.Now()), newLimitMetrics(prometheus.NewRegistry()))
	return c
}

// on calls a method as somebody, on a connection of his own.
func (c *calls) on(v *visit, p auth.Principal, method string, run func()) error {
	ctx := withCaller(grpc.NewContextWithServerTransportStream(context.Background(), &inprocStream{}), caller{Identity: identity.Identity{Principal: p}, visit: v})
	_, err := c.answer(ctx, &kryptonv1.EncryptRequest{}, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		run()
		return nil, nil
	})
	return wire.FromStatus(err)
}

// TestI9_OneCallerHasSoManyCallsAtATime of each class, over any number of connections,
// and its tenant so many.
func TestI9_OneCallerHasSoManyCallsAtATime(t *testing.T) {
	for name, l := range map[string]Limits{"caller": {CallerConcurrent: 3}, "tenant": {TenantConcurrent: 3}} {
		t.Run(name, func(t *testing.T) {
			c := limitedCalls(t, l)
			running, end, ended := make(chan struct{}), make(chan struct{}), make(chan error)
			for range 3 {
				go func() {
					ended <- c.on(&visit{}, worker(1, "a"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {
						running <- struct{}{}
						<-end
					})
				}()
			}
			for range 3 {
				<-running
			}
			var v visit
			err := c.on(&v, worker(1, "a"), kryptonv1.Crypto_Decrypt_FullMethodName, func() { t.Error("a fourth ran") })
			situationtest.Error(t, "limits/at-once", err)
			if v.owed.Load() == 0 || errs.From(err).After <= 0 {
				t.Errorf("its connection is not slowed down, or it is not told to wait: %v", err)
			}
			second := c.on(&visit{}, worker(1, "b"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {})
			if (second == nil) != (name == "caller") {
				t.Errorf("another workload of the tenant: %v", second)
			}
			for who, err := range map[string]error{
				"another tenant": c.on(&visit{}, worker(2, "a"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {}),
				"a read":         c.on(&visit{}, worker(1, "a"), kryptonv1.Services_GetService_FullMethodName, func() {}),
				"a person":       c.on(&visit{}, person("a"), kryptonv1.Tenants_SuspendTenant_FullMethodName, func() {}),
			} {
				if err != nil {
					t.Errorf("%s: %v", who, err)
				}
			}
			close(end)
			for range 3 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			if err := c.on(&visit{}, worker(1, "a"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {}); err != nil {
				t.Errorf("after they ended: %v", err)
			}
		})
	}
}

// TestI9_ACallThatPanicsLeaves like any other.
func TestI9_ACallThatPanicsLeaves(t *testing.T) {
	c := limitedCalls(t, Limits{CallerConcurrent: 1})
	for range 3 {
		if err := c.on(&visit{}, worker(1, "a"), kryptonv1.Crypto_Encrypt_FullMethodName, func() { panic("x") }); !errs.Is(err, errs.Internal) {
			t.Fatal(err)
		}
	}
}

// TestAConnectionKeepsTheStandingOfItsCaller and not that of somebody who called on it
// before.
func TestAConnectionKeepsTheStandingOfItsCaller(t *testing.T) {
	c := limitedCalls(t, Limits{CallerRate: 1})
	v := &visit{}
	for i, want := range []errs.Code{errs.Unspecified, errs.Throttled} {
		if err := c.on(v, worker(1, "a"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {}); errs.Of(err) != want {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := c.on(v, worker(2, "b"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {}); err != nil {
		t.Errorf("somebody else on the connection: %v", err)
	}
	if err := c.on(v, worker(1, "a"), kryptonv1.Crypto_Encrypt_FullMethodName, func() {}); !errs.Is(err, errs.Throttled) {
		t.Errorf("the first one again: %v", err)
	}
}

// TestAConnectionThroughNoDoorIsRefused: there is no way around the places.
func TestAConnectionThroughNoDoorIsRefused(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	if _, _, err := (publicCreds{}).ServerHandshake(here); err == nil {
		t.Error("a connection that no door let in")
	}
}
