package client_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestAScopeThatNamesNoServiceIsNotSent covers the zero value and the short form
// of the command line.
func TestAScopeThatNamesNoServiceIsNotSent(t *testing.T) {
	cluster := start(t)
	var calls atomic.Int32
	cluster.Before(func(context.Context, int, string, proto.Message) error { calls.Add(1); return nil })
	c, ctx := cluster.Client(t, "demo"), within(t, time.Minute)
	for _, service := range []string{"", "payments", "demo/payments", "/demo/payments", "tenants/demo", "tenants//services/x", "tenants/demo/services/", "tenants/demo/services/a/b", "tenant/demo/services/a", "tenants/demo/service/a", "services/demo/tenants/payments"} {
		s := client.Scope{Service: service}
		_, err1 := c.GenerateDataKey(ctx, s, 0)
		_, err2 := c.UnwrapDataKey(ctx, s, []byte("x"))
		_, _, err3 := c.RewrapDataKey(ctx, s, []byte("x"))
		_, err4 := c.Encrypt(ctx, s, nil)
		_, err5 := c.Decrypt(ctx, s, nil)
		for i, err := range []error{err1, err2, err3, err4, err5} {
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "tenants/{tenant}/services/{service}") {
				t.Errorf("%q, operation %d: %v", service, i, err)
			}
		}
	}
	for _, n := range []int{-1, 1, 15, 65} {
		if _, err := c.GenerateDataKey(ctx, payments, n); !errs.Is(err, errs.InvalidArgument) || errs.From(err).Hint == "" {
			t.Errorf("a data key of %d bytes: %v", n, err)
		}
	}
	if calls.Load() != 0 {
		t.Errorf("%d calls were sent", calls.Load())
	}
}

// TestWhatIsTooLargeIsSaidOnce is about the size limit that gRPC has by itself:
// its code asks callers to come back later, which would never help.
func TestWhatIsTooLargeIsSaidOnce(t *testing.T) {
	cluster := start(t)
	c, ctx := cluster.Client(t, "demo"), within(t, time.Minute)
	var info client.Info
	_, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: payments.Service, Plaintext: make([]byte, client.MaxRequestBytes)}, client.Capture(&info))
	if !errs.Is(err, errs.TooLarge) || errs.From(err).Hint == "" || info.Attempts != 0 {
		t.Errorf("refused here: %v after %d attempts", err, info.Attempts)
	}
	var calls atomic.Int32
	cluster.Before(func(context.Context, int, string, proto.Message) error {
		calls.Add(1)
		return status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5000000 vs. 4194304)")
	})
	for name, call := range map[string]func() error{
		"data operation": func() error { _, err := c.GenerateDataKey(ctx, payments, 0); return err },
		"read":           func() error { _, err := c.Services().GetService(ctx, &kryptonv1.GetServiceRequest{}); return err },
	} {
		calls.Store(0)
		if err := call(); !errs.Is(err, errs.TooLarge) || errs.From(err).Hint == "" || calls.Load() != 1 {
			t.Errorf("%s: %v after %d attempts", name, err, calls.Load())
		}
	}
	// The fake node sends its headers with every answer: it was reached, and what
	// is too large may be its answer.
	if _, err := c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: payments.Service}); !errs.Is(err, errs.Indeterminate) {
		t.Errorf("a change whose answer was too large: %v", err)
	}
}

// TestListsAreWalkedOverTheirPages makes more of everything than fits a page.
func TestListsAreWalkedOverTheirPages(t *testing.T) {
	cluster := start(t)
	for i := range 120 {
		if err := cluster.AddService(fmt.Sprintf("t%03d", i), "s"); err != nil {
			t.Fatal(err)
		}
		if err := cluster.AddService("demo", fmt.Sprintf("s%03d", i)); err != nil {
			t.Fatal(err)
		}
	}
	c, ctx := cluster.Client(t, ""), within(t, time.Minute)
	for i := range 120 {
		if _, err := c.Services().PinResource(ctx, &kryptonv1.PinResourceRequest{Name: fmt.Sprintf("%s/resources/r%03d", payments.Service, i), Version: 1}); err != nil {
			t.Fatal(err)
		}
	}
	var tenants, services, resources []string
	for v, err := range c.AllTenants(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		tenants = append(tenants, v.GetName())
	}
	for v, err := range c.AllServices(ctx, "tenants/demo") {
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, v.GetName())
	}
	for v, err := range c.AllResources(ctx, payments.Service) {
		if err != nil {
			t.Fatal(err)
		}
		resources = append(resources, v.GetName())
	}
	for what, names := range map[string][]string{"tenants": tenants, "services": services, "resources": resources} {
		want := 121
		if what == "resources" {
			want = 120
		}
		if len(names) != want || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != want {
			t.Errorf("%s: %d, want %d, each once and in order", what, len(names), want)
		}
	}
	// A walk that is broken off asks for no further page.
	var pages atomic.Int32
	cluster.Before(func(context.Context, int, string, proto.Message) error { pages.Add(1); return nil })
	for range c.AllTenants(ctx) {
		break
	}
	if pages.Load() != 1 {
		t.Errorf("%d pages were fetched for one item", pages.Load())
	}
	// An error is the last that a walk says.
	cluster.Before(func(context.Context, int, string, proto.Message) error {
		if pages.Add(1) > 2 {
			return errs.New(errs.Denied, "no more")
		}
		return nil
	})
	got := map[errs.Code]int{}
	for v, err := range c.AllTenants(ctx) {
		got[errs.Of(err)]++
		if (err != nil) != (v == nil) {
			t.Errorf("an item %v with error %v", v, err)
		}
	}
	if diff := cmp.Diff(map[errs.Code]int{errs.Unspecified: 100, errs.Denied: 1}, got); diff != "" {
		t.Errorf("walk over a failing page (-want +got):\n%s", diff)
	}
}
