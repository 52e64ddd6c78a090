package jwt_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestBearerTakesExactlyOneToken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		md    metadata.MD
		token string
		said  string // empty: no error
	}{
		"no metadata":                 {nil, "", ""},
		"none":                        {metadata.Pairs("krypton-async", "1"), "", ""},
		"one":                         {metadata.Pairs("authorization", "Bearer a.b.c"), "a.b.c", ""},
		"name in capitals":            {metadata.Pairs("Authorization", "Bearer a.b.c"), "a.b.c", ""},
		"scheme in other case":        {metadata.Pairs("authorization", "bEARER a.b.c"), "a.b.c", ""},
		"two":                         {metadata.Pairs("authorization", "Bearer a.b.c", "authorization", "Bearer d.e.f"), "", "more than one"},
		"the same twice":              {metadata.Pairs("authorization", "Bearer a.b.c", "authorization", "Bearer a.b.c"), "", "more than one"},
		"two, one of another scheme":  {metadata.Pairs("authorization", "Bearer a.b.c", "authorization", "Basic YTpi"), "", "more than one"},
		"two in one value":            {metadata.Pairs("authorization", "Bearer a.b.c, Bearer d.e.f"), "", "exactly one"},
		"two in one value, no space":  {metadata.Pairs("authorization", "Bearer a.b.c,d.e.f"), "", "exactly one"},
		"password":                    {metadata.Pairs("authorization", "Basic YTpi"), "", "not a bearer token"},
		"token alone":                 {metadata.Pairs("authorization", "a.b.c"), "", "not a bearer token"},
		"empty value":                 {metadata.Pairs("authorization", ""), "", "not a bearer token"},
		"scheme alone":                {metadata.Pairs("authorization", "Bearer"), "", "not a bearer token"},
		"scheme and space":            {metadata.Pairs("authorization", "Bearer "), "", "exactly one"},
		"two spaces":                  {metadata.Pairs("authorization", "Bearer  a.b.c"), "", "exactly one"},
		"space behind":                {metadata.Pairs("authorization", "Bearer a.b.c "), "", "exactly one"},
		"space before":                {metadata.Pairs("authorization", " Bearer a.b.c"), "", "not a bearer token"},
		"tab for space":               {metadata.Pairs("authorization", "Bearer\ta.b.c"), "", "not a bearer token"},
		"scheme that begins the same": {metadata.Pairs("authorization", "BearerX a.b.c"), "", "not a bearer token"},
		"header of a gateway":         {metadata.Pairs("grpcgateway-authorization", "Bearer a.b.c"), "", ""},
		"header of a proxy":           {metadata.Pairs("proxy-authorization", "Bearer a.b.c"), "", ""},
	} {
		token, err := jwt.Bearer(c.md)
		switch {
		case token != c.token:
			t.Errorf("%s: token %q, want %q", name, token, c.token)
		case (err == nil) != (c.said == ""):
			t.Errorf("%s: error %v, want %q", name, err, c.said)
		case err != nil && (!errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), c.said) || errs.From(err).Hint == ""):
			t.Errorf("%s: error %v, want %q and a hint", name, err, c.said)
		case err != nil && (strings.Contains(err.Error(), "a.b.c") || strings.Contains(err.Error(), "YTpi")):
			t.Errorf("%s: the error quotes what was sent: %v", name, err)
		}
	}
}
