package server

import (
	"context"
	"net/http"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/openkcm/krypton-cluster/server/gateway"
)

// The headers of a call that are read, over gRPC. This file is the only one that reads
// any, of either door (a test of package lint holds that): who wants to know what a sender can say
// beside a request reads these lines. Nobody else's identity, address or correlation
// id is believed from a header, whatever it is called.
const (
	// authorization has a token, which is verified. It stands there once or the call
	// is refused.
	authorization = "authorization"
	// traceparent is the one header from outside that names a call: W3C Trace Context.
	// It is not an identity, and gives nothing. Twice is as good as not at all.
	traceparent = gateway.Traceparent
	// asyncHeader is what a caller sends to have a change answered once it is
	// committed: "1". Over HTTP it is Prefer: respond-async (RFC 7240).
	asyncHeader = "krypton-async"
)

// authorizationOf returns the values of the authorization header of a call over gRPC.
func authorizationOf(ctx context.Context) []string {
	return metadata.ValueFromIncomingContext(ctx, authorization)
}

// authorizationAhead is authorizationOf for a call whose message was not read yet.
func authorizationAhead(info *tap.Info) []string { return info.Header.Get(authorization) }

// authorizationIn is authorizationOf for HTTP.
func authorizationIn(r *http.Request) []string { return r.Header.Values(authorization) }

// traceOf returns the values of the traceparent header of a call over gRPC.
func traceOf(ctx context.Context) []string {
	return metadata.ValueFromIncomingContext(ctx, traceparent)
}

// traceIn is traceOf for HTTP.
func traceIn(r *http.Request) []string { return r.Header.Values(traceparent) }

// asyncOf reports whether a caller over gRPC wants changes to be answered once they
// are committed.
func asyncOf(ctx context.Context) bool {
	v := metadata.ValueFromIncomingContext(ctx, asyncHeader)
	return len(v) == 1 && v[0] == "1"
}
