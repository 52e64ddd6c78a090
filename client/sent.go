package client

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// sentTracker learns whether an attempt was written to a connection at all.
// gRPC's errors do not say, and the difference is whether a mutation may have
// taken effect: "connection refused" has not, "connection reset" may have.
type sentTracker struct{}

type sentKey struct{}

// withSent returns a context whose attempt sets sent when it is written.
func withSent(ctx context.Context, sent *atomic.Bool) context.Context {
	return context.WithValue(ctx, sentKey{}, sent)
}

// MarkSent says that a byte of the attempt in ctx may leave from now on. Only a
// [Transport] calls it: what was never marked has certainly changed nothing.
func MarkSent(ctx context.Context) {
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

var _ stats.Handler = sentTracker{}

// TagRPC implements [stats.Handler].
func (sentTracker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements [stats.Handler].
func (sentTracker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); ok {
		MarkSent(ctx)
	}
}

// TagConn implements [stats.Handler].
func (sentTracker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (sentTracker) HandleConn(context.Context, stats.ConnStats) {}
