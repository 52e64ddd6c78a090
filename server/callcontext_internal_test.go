package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
)

// seen is what a handler has to see in its context.
type seen struct {
	who auth.Principal
	own string  // what this process put there
	id  corr.ID // empty: any
}

type seenKey struct{}

func (s seen) check(ctx context.Context, t *testing.T, door string) {
	t.Helper()
	if md, ok := metadata.FromIncomingContext(ctx); !ok || len(md) != 0 {
		t.Errorf("%s: a handler sees the headers %v", door, md)
	}
	if v := metadata.ValueFromIncomingContext(ctx, "x-principal"); v != nil {
		t.Errorf("%s: a handler sees the header %v", door, v)
	}
	if v := ctx.Value(seenKey{}); v != s.own {
		t.Errorf("%s: a value of the process is %v", door, v)
	}
	if id := callerOf(ctx); id.Principal != s.who {
		t.Errorf("%s: the call is of %v", door, id.Principal)
	}
	if !callOf(ctx).async {
		t.Errorf("%s: what the caller asked for is lost", door)
	}
	if id := corr.From(ctx); id == "" || s.id != "" && id != s.id {
		t.Errorf("%s: the call has the id %q", door, id)
	}
	if _, ok := ctx.Deadline(); !ok {
		t.Errorf("%s: no deadline", door)
	}
}

// TestI1_AHandlerSeesNoHeaders of its call, in whatever context of it and from
// whichever door, but all that this process put there.
func TestI1_AHandlerSeesNoHeaders(t *testing.T) {
	c, _, _ := testCalls(t)
	base := context.WithValue(t.Context(), seenKey{}, "kept")
	base = metadata.NewIncomingContext(base, metadata.Pairs("x-principal", "governor", asyncHeader, "1"))
	who := caller{Identity: identity.Identity{Principal: auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleGovernor, Name: "alice"}}}
	doors := map[string]context.Context{
		"network":  withCaller(grpc.NewContextWithServerTransportStream(base, &inprocStream{}), who),
		"gateway":  grpc.NewContextWithServerTransportStream(withCaller(corr.With(base, "0193f1e2-7b3c-7abc-8def-0123456789ab"), who), &inprocStream{}),
		"one more": grpc.NewContextWithServerTransportStream(withCaller(withCaller(base, caller{}), who), &inprocStream{}),
	}
	for door, ctx := range doors {
		ctx, cancel := context.WithCancel(ctx)
		_, err := c.answer(ctx, nil, &grpc.UnaryServerInfo{}, func(inner context.Context, _ any) (any, error) {
			further, stop := context.WithTimeout(inner, time.Hour)
			defer stop()
			want := seen{who: who.Principal, own: "kept"}
			if door == "gateway" {
				want.id = "0193f1e2-7b3c-7abc-8def-0123456789ab"
			}
			want.check(inner, t, door)
			want.check(further, t, door)
			cancel()
			<-further.Done()
			if !errors.Is(further.Err(), context.Canceled) || !errors.Is(inner.Err(), context.Canceled) {
				t.Errorf("%s: the caller went away, and the call says %v, %v", door, further.Err(), inner.Err())
			}
			return nil, nil
		})
		if err != nil {
			t.Errorf("%s: %v", door, err)
		}
	}
}

// TestAnswersDoNotShareWhatIsSaid beside them, although they share what it is said in.
func TestAnswersDoNotShareWhatIsSaid(t *testing.T) {
	c, _, _ := testCalls(t)
	first, second := &inprocStream{}, &inprocStream{}
	for _, s := range []*inprocStream{first, second} {
		ctx := withCaller(grpc.NewContextWithServerTransportStream(t.Context(), s), caller{Identity: identity.Identity{Principal: auth.LocalOperator()}})
		if _, err := c.answer(ctx, nil, &grpc.UnaryServerInfo{}, func(ctx context.Context, _ any) (any, error) {
			return nil, c.do(ctx, gate.WhoAmI, "cluster", func(gate.Token) error { return nil })
		}); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := saidOf(first).Correlation, saidOf(second).Correlation; a == "" || b == "" || a == b {
		t.Errorf("two answers say %q and %q", a, b)
	}
}
