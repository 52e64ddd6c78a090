//go:build !race && !invariants

package server

import (
	"context"
	"crypto/rand"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// What every call allocates before and after its handler: the correlation id, what
// is said beside the answer, gRPC's copy of that, and the context of the call. The
// stream and the context that holds it are of the test.
func TestAllocOfACallWithoutItsHandler(t *testing.T) {
	c := &calls{
		machine: fsm.New(fsm.Options{}), metrics: newMetrics(), clock: clock.System{}, rand: rand.Reader,
		log: slog.New(slog.DiscardHandler), nodeID: "42db6c5d4a1e9064a2f6a92f224a4a29", budget: time.Minute,
	}
	info := &grpc.UnaryServerInfo{FullMethod: kryptonv1.Crypto_Encrypt_FullMethodName}
	req := &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: make([]byte, 256)}
	out := &kryptonv1.EncryptResponse{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("user-agent", "x", ":authority", "y"))
	next := func(context.Context, any) (any, error) { return out, nil }
	const budget = 9
	if n := testing.AllocsPerRun(500, func() {
		ctx := grpc.NewContextWithServerTransportStream(ctx, &inprocStream{method: info.FullMethod})
		if _, err := c.answer(withCaller(ctx, caller{Identity: identity.Identity{Principal: auth.LocalOperator()}}), req, info, next); err != nil {
			t.Fatal(err)
		}
	}); n > budget {
		t.Errorf("%v allocations, the budget is %d", n, budget)
	}
}
