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
	if values := authorizationOf(ctx); len(values) > 0 {
		who := c.identifyToken(ctx, values)
		if s := strangerOf(ctx); s != nil && who.refused == nil {
			s.vouch()
		}
		return who
	}
	return c.identify(peerLeaf(ctx))
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
	if values := authorizationIn(r); len(values) > 0 {
		return c.identifyToken(r.Context(), values)
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return c.identify(r.TLS.PeerCertificates[0])
	}
	return c.identify(nil)
}

// tap looks at the headers of a call before its message is read, on connections
// whose certificate is not accepted: whoever shows a valid token there may send a
// message that is longer than a stranger's. It must not wait, so a token whose key
// has to be fetched first is not seen here; the call itself waits for that.
func (c *calls) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	s := strangerOf(ctx)
	if s == nil {
		return ctx, nil
	}
	if values := authorizationAhead(info); len(values) > 0 {
		over, cancel := context.WithCancel(ctx)
		cancel()
		if c.identifyToken(over, values).refused == nil {
			s.vouch()
		}
	}
	return ctx, nil
}

func (c *calls) tapOption() grpc.ServerOption { return grpc.InTapHandle(c.tap) }
