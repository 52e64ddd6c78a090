package jwt_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const cluster = "https://kubernetes.default.svc.cluster.local"

// static returns an issuer with the URL that each Kubernetes cluster has, and keys of its own.
func static(n byte, path string, k *signer, audiences ...string) jwt.Issuer {
	return jwt.Issuer{UID: uid(n), Path: path, URL: cluster, Audiences: audiences, StaticJWKS: jwks_(k)}
}

// TestI1_OfIssuersWithOneURLTheAudienceDecides: the cluster's, and those of two
// tenants, with different keys of the same id.
func TestI1_OfIssuersWithOneURLTheAudienceDecides(t *testing.T) {
	t.Parallel()
	ours, acme, shop := newSigner(t, "k1", "ES256"), newSigner(t, "k1", "ES256"), newSigner(t, "k1", "ES256")
	issuers := []jwt.Issuer{
		static(1, "issuers/prod", ours, "krypton", "krypton.example"),
		static(2, "tenants/acme/issuers/prod", acme, "krypton/acme"),
		static(3, "tenants/shop/issuers/prod", shop, "krypton/shop", "krypton/shop-2"),
	}
	v := newVerifier(t, newClock(), issuers...)
	c := good(cluster, start)
	for _, a := range []struct {
		by  *signer
		aud any
		uid byte
	}{
		{ours, "krypton", 1},
		{acme, "krypton/acme", 2},
		{shop, "krypton/shop", 3},
		{shop, []string{"krypton/shop-2", "x", "krypton/shop"}, 3}, // two audiences of one issuer are no doubt
	} {
		if got := accepted(t, v, a.by.token(c.with("aud", a.aud))); got.IssuerUID != uid(a.uid) {
			t.Errorf("audience %v is of %v", a.aud, got.IssuerUID)
		}
	}
	// Who signs for another one's audience is refused, whatever keys are registered.
	refused(t, v, acme.token(c.with("aud", "krypton")), errs.Unauthenticated, "signature of the token does not verify")
	refused(t, v, ours.token(c.with("aud", "krypton/acme")), errs.Unauthenticated, "signature of the token does not verify")
	refused(t, v, shop.token(c.with("aud", "krypton/acme")), errs.Unauthenticated, "signature of the token does not verify")
	// A token for two of them is of nobody.
	for _, by := range []*signer{ours, acme, shop} {
		for _, aud := range [][]string{{"krypton", "krypton/acme"}, {"krypton/acme", "krypton"}, {"krypton/shop", "krypton/acme"}} {
			refused(t, v, by.token(c.with("aud", aud)), errs.Unauthenticated, "audiences of two registered issuers")
		}
	}
}

// TestI1_AnIssuerThatCopiesAnotherReceivesNoneOfItsTokens: with the same URL, the
// same audience and the same public keys. Also not while the keys of the other
// cannot be had, or when its registration cannot be used.
func TestI1_AnIssuerThatCopiesAnotherReceivesNoneOfItsTokens(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	first := p.issuer(1)
	copied := first
	copied.UID, copied.Path, copied.StaticJWKS = uid(2), "tenants/evil/issuers/p", jwks_(k)
	token := k.token(good(p.url, start))
	v := newVerifier(t, newClock(), first, copied)
	refused(t, v, token, errs.Unauthenticated, "audiences of two registered issuers")
	p.lie(unavailable, nil)
	refused(t, newVerifier(t, newClock(), first, copied), token, errs.Unauthenticated, "audiences of two registered issuers")
	first.CAs = [][]byte{[]byte("no certificate")}
	broken := jwt.New(jwt.Options{Clock: newClock()})
	t.Cleanup(broken.Close)
	if err := broken.Replace(1, []jwt.Issuer{first, copied}); err == nil {
		t.Error("an issuer that cannot be used is none")
	}
	refused(t, broken, token, errs.Unauthenticated, "audiences of two registered issuers")
	if err := broken.Replace(1, []jwt.Issuer{first}); err == nil {
		t.Error("an issuer that cannot be used is none")
	}
	refused(t, broken, token, errs.Unauthenticated, "what is registered of the token's issuer cannot be used")
}

// TestI5_ARememberedTokenIsOfTheIssuersOfNow: what was registered since it was
// verified decides about it anew.
func TestI5_ARememberedTokenIsOfTheIssuersOfNow(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	is := static(1, "issuers/prod", k, "krypton", "second")
	token := k.token(good(cluster, start).with("exp", start.Add(2*time.Hour).Unix()))
	other := static(2, "tenants/acme/issuers/prod", k, "krypton")
	change := func(f func(i *jwt.Issuer)) []jwt.Issuer {
		i := is
		f(&i)
		return []jwt.Issuer{i}
	}
	for name, c := range map[string]struct {
		to   []jwt.Issuer
		said string // empty: still accepted
		uid  byte
	}{
		"removed":                               {nil, "no issuer is registered", 0},
		"the same":                              {change(func(*jwt.Issuer) {}), "", 1},
		"another one beside it":                 {[]jwt.Issuer{is, static(2, "tenants/acme/issuers/prod", k, "krypton/acme")}, "", 1},
		"a copy beside it":                      {[]jwt.Issuer{is, other}, "two registered issuers", 0},
		"a copy before it":                      {[]jwt.Issuer{other, is}, "two registered issuers", 0},
		"another one instead":                   {[]jwt.Issuer{other}, "", 2},
		"its audience removed":                  {change(func(i *jwt.Issuer) { i.Audiences = []string{"second"} }), "none of the audiences", 0},
		"its URL changed":                       {change(func(i *jwt.Issuer) { i.URL += "/" }), "no issuer is registered", 0},
		"its keys changed":                      {change(func(i *jwt.Issuer) { i.StaticJWKS = jwks_(newSigner(t, "k1", "ES256")) }), "signature of the token", 0},
		"its subject claim changed":             {change(func(i *jwt.Issuer) { i.SubjectClaim = "email" }), "subject is not a text", 0},
		"its tokens live for less":              {change(func(i *jwt.Issuer) { i.Lifetime = time.Hour }), "lives longer", 0},
		"its uid changed":                       {change(func(i *jwt.Issuer) { i.UID = uid(9) }), "", 9},
		"more skew, which changes its NotAfter": {change(func(i *jwt.Issuer) { i.Skew = 2 * time.Minute }), "", 1},
	} {
		v := newVerifier(t, newClock(), is)
		accepted(t, v, token)
		if err := v.Replace(1, c.to); err != nil {
			t.Fatal(err)
		}
		if c.said != "" {
			t.Log(name)
			refused(t, v, token, errs.Unauthenticated, c.said)
			continue
		}
		got := accepted(t, v, token)
		if got.IssuerUID != uid(c.uid) {
			t.Errorf("%s: of %v", name, got.IssuerUID)
		}
		if want := start.Add(2*time.Hour + max(c.to[0].Skew, time.Minute)); !got.NotAfter.Equal(want) {
			t.Errorf("%s: until %v, want %v", name, got.NotAfter, want)
		}
	}
}

func TestI5_ARememberedTokenEndsWithItsTime(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	clk := newClock()
	v := newVerifier(t, clk, static(1, "issuers/prod", k, "krypton"))
	token := k.token(good(cluster, start))
	accepted(t, v, token)
	clk.advance(time.Hour + time.Minute - time.Nanosecond)
	accepted(t, v, token)
	clk.advance(time.Nanosecond)
	refused(t, v, token, errs.Unauthenticated, "expired 1m0s ago")
	clk.advance(-time.Hour - 3*time.Minute) // a clock that is set back
	refused(t, v, token, errs.Unauthenticated, "valid only in")
	clk.advance(2 * time.Minute)
	accepted(t, v, token)
	clk.advance(-2 * time.Minute)
	refused(t, v, token, errs.Unauthenticated, "valid only in")
}

// TestI7_ReplaceKeepsWhatDidNotChange: the provider is down, so whatever has to be
// fetched anew is lost.
func TestI7_ReplaceKeepsWhatDidNotChange(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p, q := newProvider(t, k), newProvider(t, k)
	kept, policy, fetch := p.issuer(1), p.issuer(2), p.issuer(3)
	policy.Audiences, fetch.Audiences = []string{"policy"}, []string{"fetch"}
	clk := newClock()
	v := newVerifier(t, clk, kept, policy, fetch)
	for _, aud := range []string{"krypton", "policy", "fetch"} {
		accepted(t, v, k.token(good(p.url, start).with("aud", aud)))
	}
	p.lie(unavailable, nil)
	policy.Audiences = []string{"new", "policy"}
	policy.Skew, policy.Lifetime, policy.Path = time.Minute, time.Hour, "issuers/renamed"
	fetch.CAs = append([][]byte{q.ca.cert.Raw}, fetch.CAs...)
	if err := v.Replace(1, []jwt.Issuer{fetch, kept, policy, q.issuer(4)}); err != nil {
		t.Fatal(err)
	}
	accepted(t, v, k.token(good(p.url, start).with("sub", "bob")))
	accepted(t, v, k.token(good(p.url, start).with("aud", "new")))
	accepted(t, v, k.token(good(q.url, start)))
	for _, s := range v.Status() {
		if (s.UID == uid(1) || s.UID == uid(2)) && (s.Fetches != 1 || s.Keys != 1) {
			t.Errorf("an issuer that did not change how it is fetched: %+v", s)
		}
	}
	refused(t, v, k.token(good(p.url, start).with("aud", "fetch")), errs.Unavailable, "status 503")
}

// TestI5_OlderIssuersNeverComeBack: calls that serve by different states of the
// registry replace at the same time.
func TestI5_OlderIssuersNeverComeBack(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	is := static(1, "issuers/prod", k, "krypton")
	v := newVerifier(t, newClock(), is)
	token := k.token(good(cluster, start))
	accepted(t, v, token)
	for _, step := range []struct {
		at, want uint64
		issuers  []jwt.Issuer
		in       bool
	}{{7, 7, nil, false}, {6, 7, []jwt.Issuer{is}, false}, {7, 7, []jwt.Issuer{is}, true}, {8, 8, nil, false}, {0, 8, []jwt.Issuer{is}, false}} {
		if err := v.Replace(step.at, step.issuers); err != nil {
			t.Fatal(err)
		}
		if v.At() != step.want {
			t.Errorf("at %d, want %d", v.At(), step.want)
		}
		if step.in {
			accepted(t, v, token)
		} else {
			refused(t, v, token, errs.Unauthenticated, "no issuer is registered")
		}
	}
}

// TestReplaceTakesWhatIsRightAndNamesWhatIsWrong: one bad registration is not the end of the others.
func TestReplaceTakesWhatIsRightAndNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	right, wrong, twin := static(1, "issuers/right", k, "krypton"), static(2, "issuers/wrong", k, "wrong"), static(1, "issuers/twin", k, "twin")
	wrong.StaticJWKS = []byte("{}")
	v := jwt.New(jwt.Options{Clock: newClock()})
	t.Cleanup(v.Close)
	err := v.Replace(1, []jwt.Issuer{wrong, right, twin})
	if err == nil || !strings.Contains(err.Error(), "issuers/wrong: key set") || !strings.Contains(err.Error(), "issuers/twin: another issuer") || strings.Contains(err.Error(), "issuers/right") {
		t.Errorf("%v", err)
	}
	accepted(t, v, k.token(good(cluster, start)))
	refused(t, v, k.token(good(cluster, start).with("aud", "wrong")), errs.Unauthenticated, "cannot be used")
	refused(t, v, k.token(good(cluster, start).with("aud", "twin")), errs.Unauthenticated, "cannot be used")
	var got []string
	for _, s := range v.Status() {
		got = append(got, fmt.Sprintf("%s %d %t", s.Path, s.Keys, s.Problem == ""))
	}
	if s := strings.Join(got, "; "); s != "issuers/right 1 true; issuers/twin 0 false; issuers/wrong 0 false" {
		t.Errorf("status %s", s)
	}
}

// TestReplaceKeepsNothingOfItsCallers: what the caller does with its slices later
// changes nothing.
func TestReplaceKeepsNothingOfItsCallers(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	is := p.issuer(1)
	is.CAs[0] = bytes.Clone(is.CAs[0])
	v := newVerifier(t, newClock(), is)
	is.Audiences[0] = "other"
	clear(is.CAs[0])
	accepted(t, v, k.token(good(p.url, start)))
	is.Audiences[0] = "krypton"
	is.CAs[0] = bytes.Clone(p.ca.cert.Raw)
	if err := v.Replace(1, []jwt.Issuer{is}); err != nil {
		t.Fatal(err)
	}
	if s := v.Status()[0]; s.Keys != 1 || s.Fetches != 1 {
		t.Errorf("the same issuer is another one: %+v", s)
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	ca := newAuthority(t).cert.Raw
	valid := jwt.Issuer{
		UID: uid(1), Path: "issuers/p", URL: "https://id.example:8443/realms/corp", Audiences: []string{"krypton"},
		CAs: [][]byte{ca}, StaticJWKS: jwks_(k), Skew: jwt.MaxSkew, SubjectClaim: "email", Lifetime: jwt.MaxLifetime,
	}
	if err := valid.Check(); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"https://a", "https://a/", "https://[::1]:1/x", "https://a.b/c//d?", cluster} {
		i := valid
		i.URL = u
		if err := i.Check(); (err == nil) != !strings.HasSuffix(u, "?") {
			t.Errorf("URL %s: %v", u, err)
		}
	}
	for name, c := range map[string]struct {
		change func(i *jwt.Issuer)
		said   string
	}{
		"no uid":               {func(i *jwt.Issuer) { i.UID = auth.Issuer{} }, "no uid"},
		"no URL":               {func(i *jwt.Issuer) { i.URL = "" }, "URL of the issuer"},
		"http":                 {func(i *jwt.Issuer) { i.URL = "http://a" }, "URL of the issuer"},
		"scheme in capitals":   {func(i *jwt.Issuer) { i.URL = "HTTPS://a#" }, "URL of the issuer"},
		"no host":              {func(i *jwt.Issuer) { i.URL = "https:///a" }, "URL of the issuer"},
		"a port alone":         {func(i *jwt.Issuer) { i.URL = "https://:443" }, "URL of the issuer"},
		"opaque":               {func(i *jwt.Issuer) { i.URL = "https:a" }, "URL of the issuer"},
		"user":                 {func(i *jwt.Issuer) { i.URL = "https://u:p@a" }, "URL of the issuer"},
		"query":                {func(i *jwt.Issuer) { i.URL = "https://a?b=c" }, "URL of the issuer"},
		"fragment":             {func(i *jwt.Issuer) { i.URL = "https://a#b" }, "URL of the issuer"},
		"empty fragment":       {func(i *jwt.Issuer) { i.URL = "https://a#" }, "URL of the issuer"},
		"space":                {func(i *jwt.Issuer) { i.URL = "https://a " }, "URL of the issuer"},
		"other script":         {func(i *jwt.Issuer) { i.URL = "https://а" }, "URL of the issuer"},
		"long":                 {func(i *jwt.Issuer) { i.URL = "https://a/" + strings.Repeat("b", jwt.MaxURL) }, "URL of the issuer"},
		"no audience":          {func(i *jwt.Issuer) { i.Audiences = nil }, "0 audiences"},
		"nine audiences":       {func(i *jwt.Issuer) { i.Audiences = strings.Split("a,b,c,d,e,f,g,h,i", ",") }, "9 audiences"},
		"audience empty":       {func(i *jwt.Issuer) { i.Audiences = []string{"a", ""} }, "audience 2"},
		"audience twice":       {func(i *jwt.Issuer) { i.Audiences = []string{"a", "a"} }, "audience 2"},
		"audience long":        {func(i *jwt.Issuer) { i.Audiences = []string{strings.Repeat("a", jwt.MaxAudience+1)} }, "audience 1"},
		"audience with a tab":  {func(i *jwt.Issuer) { i.Audiences = []string{"a\t"} }, "audience 1"},
		"five CAs":             {func(i *jwt.Issuer) { i.CAs = [][]byte{ca, ca, ca, ca, ca} }, "5 CA certificates"},
		"CA no certificate":    {func(i *jwt.Issuer) { i.CAs = [][]byte{ca, {1}} }, "CA certificate 2"},
		"no key set":           {func(i *jwt.Issuer) { i.StaticJWKS = []byte("x") }, "not a JSON Web Key Set"},
		"empty key set":        {func(i *jwt.Issuer) { i.StaticJWKS = []byte(`{"keys":[]}`) }, "no key in it"},
		"huge key set":         {func(i *jwt.Issuer) { i.StaticJWKS = bytes.Repeat([]byte(" "), jwt.MaxDocument+1) }, "larger than"},
		"secret in a key set":  {func(i *jwt.Issuer) { i.StaticJWKS = []byte(`{"keys":[{"kty":"oct","k":"AAAA"}]}`) }, "key 1: private or symmetric"},
		"kind of key":          {func(i *jwt.Issuer) { i.StaticJWKS = []byte(`{"keys":[{"kty":"OKP","crv":"X448","x":"AAAA"}]}`) }, "key 1: kind of key"},
		"negative skew":        {func(i *jwt.Issuer) { i.Skew = -1 }, "skew"},
		"much skew":            {func(i *jwt.Issuer) { i.Skew = jwt.MaxSkew + 1 }, "skew"},
		"subject claim":        {func(i *jwt.Issuer) { i.SubjectClaim = "a\n" }, "subject claim"},
		"negative lifetime":    {func(i *jwt.Issuer) { i.Lifetime = -1 }, "lifetime"},
		"lifetime of a summer": {func(i *jwt.Issuer) { i.Lifetime = jwt.MaxLifetime + 1 }, "lifetime"},
	} {
		i := valid
		c.change(&i)
		if err := i.Check(); err == nil || !strings.Contains(err.Error(), c.said) {
			t.Errorf("%s: %v, want %q", name, err, c.said)
		}
	}
}

// TestCallersChangesAndRotationsAtTheSameTime is for the race detector: whatever
// happens, a token of a stranger is refused and one of the issuer that stays is accepted.
func TestCallersChangesAndRotationsAtTheSameTime(t *testing.T) {
	t.Parallel()
	stays, a, b, stranger := newSigner(t, "stays", "ES256"), newSigner(t, "a", "ES256"), newSigner(t, "b", "EdDSA"), newSigner(t, "a", "ES256")
	p, q := newProvider(t, stays, a), newProvider(t, b)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1), q.issuer(2))
	accepted(t, v, stays.token(good(p.url, start)))
	ctx := t.Context()
	bad := stranger.token(good(p.url, start))
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			for i := range 50 {
				token := stays.token(good(p.url, clk.Now()).with("sub", fmt.Sprint(n, i%7)))
				if got, err := v.Verify(ctx, token); err != nil || got.Subject != fmt.Sprint(n, i%7) {
					t.Errorf("%+v, %v", got, err)
				}
				if got, err := v.Verify(ctx, bad); err == nil {
					t.Errorf("accepted %+v", got)
				}
				for _, by := range []*signer{a, b} {
					_, _ = v.Verify(ctx, by.token(good(p.url, clk.Now())))
					_, _ = v.Verify(ctx, b.token(good(q.url, clk.Now())))
				}
				v.Status()
			}
		})
	}
	all.Go(func() {
		for i := range 60 {
			if i%2 == 0 {
				p.rotate(stays, b)
				q.lie(http.NotFound, nil)
			} else {
				p.rotate(a, stays)
				q.lie(nil, nil)
			}
			clk.advance(time.Second)
			set := []jwt.Issuer{p.issuer(1)}
			if i%3 > 0 {
				more := q.issuer(2)
				more.Audiences = append(more.Audiences, fmt.Sprint("a", i%3))
				set = append(set, more)
			}
			if err := v.Replace(1, set); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
}
