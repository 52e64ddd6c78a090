package server

import (
	"context"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// identifyCall returns who calls over gRPC: who the token is of, if the call shows
// one, and else who the connection's certificate is of. A token beside a certificate
// says it alone: a sidecar's certificate must not lend its role to what is behind it.
func (c *calls) identifyCall(ctx context.Context) caller {
	v, leaf := visitOf(ctx)
	if values := authorizationOf(ctx); len(values) > 0 {
		return seated(v, c.identifyToken(ctx, values))
	}
	return c.identify(v, leaf)
}

// identifyToken returns who the token in the values of an authorization header is of.
func (c *calls) identifyToken(ctx context.Context, values []string) caller {
	token, err := jwt.Bearer(metadata.MD{authorization: values})
	if err != nil {
		return caller{refused: err}
	}
	return c.settled(func() caller { return c.identifyTokenNow(ctx, token) })
}

func (c *calls) identifyTokenNow(ctx context.Context, token string) caller {
	view := c.machine.View()
	dir := c.dirs.of(view)
	proof, err := c.dirs.tokens.Verify(ctx, token)
	if err != nil {
		return caller{refused: err, mayChange: errs.Is(err, errs.Unauthenticated) && c.serving() != nil} // it may not know the issuer yet
	}
	id, err := identity.OfToken(dir, identity.Token{Issuer: proof.IssuerUID, Subject: proof.Subject, NotAfter: proof.NotAfter}, c.clock.Now())
	if err != nil {
		return caller{refused: err, mayChange: true}
	}
	return caller{Identity: id, shown: auth.TokenShown(token), asked: view.AuthorityAt()}
}

// identifyRequest is identifyCall for HTTP.
func (c *calls) identifyRequest(r *http.Request) caller {
	v := visitFrom(r.Context())
	if values := authorizationIn(r); len(values) > 0 {
		return seated(v, c.identifyToken(r.Context(), values))
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return c.identify(v, r.TLS.PeerCertificates[0])
	}
	return c.identify(v, nil)
}

// tap looks at the headers of a call before its message is read. It gives the call
// its deadline, so that a message that never comes to its end does not hold its stream
// for longer than a call may take.
//
// On a stranger's connection it looks who the call's token is of: whoever shows a
// valid one there may send a message that is longer than a stranger's. It must not
// wait, so a token whose key has to be fetched first is not seen here; the call itself
// waits for that.
//
// It refuses nothing: gRPC keeps the context of what is refused here until the
// connection ends, so refusals in any number would fill the memory.
func (c *calls) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	v, _ := visitOf(ctx)
	if v != nil {
		v.open(int64(c.concurrent))
	}
	if v != nil && !v.seated.Load() {
		if values := authorizationAhead(info); len(values) > 0 {
			over, cancel := context.WithCancel(ctx)
			cancel()
			seated(v, c.identifyToken(over, values))
		}
	}
	ctx, _ = c.bounded(ctx, c.clock.Now()) // gRPC ends the context that this one is made of with the call
	return ctx, nil
}

func (c *calls) tapOption() grpc.ServerOption { return grpc.InTapHandle(c.tap) }
