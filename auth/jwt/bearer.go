package jwt

import (
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// bearerScheme is compared without regard to case (RFC 9110, 11.1).
const bearerScheme = "Bearer "

// Bearer returns the token of a call's one `authorization: Bearer` value, not
// verified, or "" if the call has none.
//
// Two values are refused even if they are equal: a proxy that adds its own would
// otherwise decide, by the order, who the caller is. So is another scheme: a
// caller who sends a password must not learn that it was ignored from what the
// certificate may do.
func Bearer(md metadata.MD) (string, error) {
	values := md.Get("authorization")
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", errs.New(errs.Unauthenticated, "the call has more than one authorization value",
			errs.Hint("send exactly one, authorization: Bearer <token>; see what a proxy in between adds"))
	}
	v := values[0]
	if len(v) < len(bearerScheme) || !strings.EqualFold(v[:len(bearerScheme)], bearerScheme) {
		return "", errs.New(errs.Unauthenticated, "the authorization of the call is not a bearer token",
			errs.Hint("send authorization: Bearer <token>, or no authorization and a client certificate"))
	}
	token := v[len(bearerScheme):]
	if token == "" || strings.ContainsAny(token, " \t,") {
		return "", errs.New(errs.Unauthenticated, "the authorization of the call is not exactly one bearer token",
			errs.Hint("send authorization: Bearer <token> with one space and one token"))
	}
	return token, nil
}
