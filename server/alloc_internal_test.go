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
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

// What every call allocates before and after its handler: the correlation id, three
// contexts, and the response headers. Most of it is gRPC's price of a header.
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
	ctx = withIdentity(ctx, identity{principal: auth.LocalOperator()})
	next := func(context.Context, any) (any, error) { return out, nil }
	const budget = 15
	if n := testing.AllocsPerRun(500, func() {
		ctx := grpc.NewContextWithServerTransportStream(ctx, &inprocStream{method: info.FullMethod})
		if _, err := c.answer(ctx, req, info, next); err != nil {
			t.Fatal(err)
		}
	}); n > budget {
		t.Errorf("%v allocations, the budget is %d", n, budget)
	}
}
