package jwt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestAnUnknownKeyIsFetchedAtOnce(t *testing.T) {
	t.Parallel()
	old, next := newSigner(t, "old", "ES256"), newSigner(t, "next", "EdDSA")
	p := newProvider(t, old)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1))
	accepted(t, v, old.token(good(p.url, start)))
	p.rotate(old, next)
	clk.advance(jwt.FetchEvery)
	accepted(t, v, next.token(good(p.url, start)))
	accepted(t, v, old.token(good(p.url, start).with("sub", "bob")))
	if p.fetched() != 2 {
		t.Errorf("%d fetches, want 2", p.fetched())
	}
}

// TestI4_InventedKeyIDsCauseOneFetchInTenSeconds: whoever can reach a node must not
// be able to make it send requests.
func TestI4_InventedKeyIDsCauseOneFetchInTenSeconds(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	stranger := newSigner(t, "", "ES256")
	p := newProvider(t, k)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1))
	accepted(t, v, k.token(good(p.url, start)))
	for round := range 5 {
		var all sync.WaitGroup
		for n := range 200 {
			all.Go(func() {
				header := fmt.Sprintf(`{"alg":"ES256","kid":"invented-%d-%d"}`, round, n)
				_, err := v.Verify(t.Context(), stranger.text(header, good(p.url, start).json()))
				if !errs.Is(err, errs.Unauthenticated) && !errs.Is(err, errs.Throttled) {
					t.Errorf("%v", err)
				}
			})
		}
		all.Wait()
		accepted(t, v, k.token(good(p.url, start).with("jti", fmt.Sprint(round))))
		if want := 1 + round; p.fetched() != want {
			t.Fatalf("round %d: %d fetches, want %d", round, p.fetched(), want)
		}
		clk.advance(jwt.FetchEvery - time.Second)
		refused(t, v, stranger.text(`{"alg":"ES256","kid":"invented"}`, good(p.url, start).json()), errs.Unauthenticated, "none of the keys that its issuer publishes")
		if want := 1 + round; p.fetched() != want {
			t.Fatalf("round %d, nine seconds on: %d fetches, want %d", round, p.fetched(), want)
		}
		clk.advance(time.Second)
	}
}

// TestI4_CallersShareOneFetch: sixty callers, as many as may wait, come while the
// provider works on its answer.
func TestI4_CallersShareOneFetch(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	asked, release := make(chan struct{}), make(chan struct{})
	p.lie(func(w http.ResponseWriter, _ *http.Request) {
		close(asked) // a second request would close it again
		<-release
		answer(w, map[string]any{"issuer": p.url, "jwks_uri": p.url + jwksPath})
	}, nil)
	v := newVerifier(t, newClock(), p.issuer(1))
	token := k.token(good(p.url, start))
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			if _, err := v.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	<-asked
	close(release)
	all.Wait()
	if p.fetched() != 1 {
		t.Errorf("%d fetches, want 1", p.fetched())
	}
}

// TestI4_AHangingProviderHoldsNobodyElse: not other issuers, not tokens of the
// issuer itself whose keys are known, and not more than 64 calls.
func TestI4_AHangingProviderHoldsNobodyElse(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	hangs, well := newProvider(t, k), newProvider(t, k)
	clk := newClock()
	other := well.issuer(2)
	v := newVerifier(t, clk, hangs.issuer(1), other)
	accepted(t, v, k.token(good(hangs.url, start)))
	accepted(t, v, k.token(good(well.url, start))) // else its first fetch is under way when the clock moves
	asked := make(chan struct{}, 1)
	hangs.lie(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}, nil)
	clk.advance(jwt.FetchEvery)

	stranger := newSigner(t, "unknown", "ES256")
	token := stranger.token(good(hangs.url, start))
	const callers = 200
	ended := make(chan error, callers)
	for range callers {
		go func() {
			_, err := v.Verify(context.WithoutCancel(t.Context()), token)
			ended <- err
		}()
	}
	<-asked
	for range callers - 64 {
		if err := <-ended; !errs.Is(err, errs.Throttled) {
			t.Errorf("a caller beyond those that may wait: %v", err)
		}
	}
	accepted(t, v, k.token(good(hangs.url, start).with("sub", "bob")))
	accepted(t, v, k.token(good(well.url, start).with("sub", "bob")))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(gone, token); !errs.Is(err, errs.Throttled) {
		t.Errorf("%v", err)
	}
	if len(ended) != 0 {
		t.Fatal("somebody who waits was answered before the provider was given up")
	}
	clk.sleeper(t, jwt.FetchTimeout)
	clk.advance(jwt.FetchTimeout)
	for range 64 {
		if err := <-ended; !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), "it did not answer in 8s") {
			t.Errorf("a caller who waited: %v", err)
		}
	}
}

func TestWaitingEndsWithTheCall(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	asked := make(chan struct{}, 1)
	p.lie(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}, nil)
	v := newVerifier(t, newClock(), p.issuer(1))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := v.Verify(ctx, k.token(good(p.url, start)))
		ended <- err
	}()
	<-asked
	cancel()
	if err := <-ended; !errs.Is(err, errs.Canceled) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestProvidersThatFailOrLie: what goes wrong is said to the caller, without a word of
// what the provider sent, and the keys from before count on.
func TestProvidersThatFailOrLie(t *testing.T) {
	t.Parallel()
	big := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"keys":[],"pad":"`)
		chunk := strings.Repeat("BIGBODY", 1<<10)
		for { // until the node has had enough
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}
	write := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	plain := "http://127.0.0.1:1/keys"
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	k, next, weak := newSigner(t, "k1", "ES256"), newSigner(t, "next", "ES256"), newSigner(t, "weak", "RS256")
	private := strings.Replace(string(jwks_(next)), `"kty":"EC"`, `"kty":"EC","d":"`+b64(make([]byte, 31))+`AQ"`, 1)
	for name, c := range map[string]struct {
		discovery, jwks func(p *provider) http.HandlerFunc
		said            string
	}{
		"status 503":          {discovery: func(*provider) http.HandlerFunc { return unavailable }, said: "it answers with status 503"},
		"status 503 for keys": {jwks: func(*provider) http.HandlerFunc { return unavailable }, said: "it answers with status 503"},
		"status 204": {discovery: func(*provider) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }
		}, said: "it answers with status 204"},
		"not JSON":      {discovery: func(*provider) http.HandlerFunc { return write("<html>SECRETPAGE</html>") }, said: "is not a discovery document"},
		"no end":        {discovery: func(*provider) http.HandlerFunc { return big }, said: "it answers with more than 262144 bytes"},
		"10 MB of keys": {jwks: func(*provider) http.HandlerFunc { return big }, said: "it answers with more than 262144 bytes"},
		"connection cut": {jwks: func(*provider) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte(`{"keys"`))
			}
		}, said: "its answer broke off"},
		"connection closed": {discovery: func(*provider) http.HandlerFunc {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		}, said: "it cannot be reached"},
		"huge headers": {discovery: func(*provider) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }
		}, said: "it cannot be reached"},
		"redirect to http":      {discovery: func(*provider) http.HandlerFunc { return redirect(plain) }, said: "it redirects to another host"},
		"keys redirect to http": {jwks: func(*provider) http.HandlerFunc { return redirect(plain) }, said: "it redirects to another host"},
		"redirect to same host by http": {discovery: func(p *provider) http.HandlerFunc {
			return redirect(strings.Replace(p.url, "https", "http", 1) + jwksPath)
		}, said: "it redirects to another host"},
		"redirect to another host": {discovery: func(*provider) http.HandlerFunc { return redirect("https://localhost:1/x") }, said: "it redirects to another host"},
		"redirects in a ring":      {discovery: func(*provider) http.HandlerFunc { return redirect("/.well-known/openid-configuration") }, said: "it redirects to another host"},
		"another issuer":           {discovery: func(p *provider) http.HandlerFunc { return document("https://evil.example", p.url+jwksPath) }, said: "is of another issuer"},
		"a slash more":             {discovery: func(p *provider) http.HandlerFunc { return document(p.url+"/", p.url+jwksPath) }, said: "is of another issuer"},
		"no issuer":                {discovery: func(p *provider) http.HandlerFunc { return document("", p.url+jwksPath) }, said: "is of another issuer"},
		"keys by http":             {discovery: func(p *provider) http.HandlerFunc { return document(p.url, plain) }, said: "names no https URL of its keys"},
		"keys in a file":           {discovery: func(p *provider) http.HandlerFunc { return document(p.url, "file:///etc/passwd") }, said: "names no https URL of its keys"},
		"keys nowhere":             {discovery: func(p *provider) http.HandlerFunc { return document(p.url, "") }, said: "names no https URL of its keys"},
		"keys with a password":     {discovery: func(p *provider) http.HandlerFunc { return document(p.url, "https://a:b@127.0.0.1/keys") }, said: "names no https URL of its keys"},
		"keys on the link":         {discovery: func(p *provider) http.HandlerFunc { return document(p.url, "https://169.254.169.254/keys") }, said: "it has an address of the node's own link"},
		"keys on the link, mapped": {discovery: func(p *provider) http.HandlerFunc { return document(p.url, "https://[::ffff:169.254.169.254]/keys") }, said: "it has an address of the node's own link"},
		"keys not JSON":            {jwks: func(*provider) http.HandlerFunc { return write("<html>SECRETPAGE</html>") }, said: "its key set cannot be used: not a JSON Web Key Set"},
		"no keys":                  {jwks: func(*provider) http.HandlerFunc { return write(`{"keys":[]}`) }, said: "no key in it"},
		"no key set":               {jwks: func(*provider) http.HandlerFunc { return write(`{}`) }, said: "not a JSON Web Key Set"},
		"keys twice":               {jwks: func(*provider) http.HandlerFunc { return write(`{"keys":[],` + string(jwks_(next))[1:]) }, said: "not a JSON Web Key Set"},
		"symmetric key":            {jwks: func(*provider) http.HandlerFunc { return write(`{"keys":[{"kty":"oct","kid":"next","k":"c2VjcmV0"}]}`) }, said: "no key in it"},
		"private key":              {jwks: func(*provider) http.HandlerFunc { return write(private) }, said: "no key in it"},
		"key for encryption": {jwks: func(*provider) http.HandlerFunc {
			return write(strings.Replace(string(jwks_(next)), `"sig"`, `"enc"`, 1))
		}, said: "no key in it"},
		"key not for verifying": {jwks: func(*provider) http.HandlerFunc {
			return write(strings.Replace(string(jwks_(next)), `"use":"sig"`, `"key_ops":["wrapKey"]`, 1))
		}, said: "no key in it"},
		"RSA of 2040 bits": {jwks: func(*provider) http.HandlerFunc { return write(shorter(t, weak)) }, said: "no key in it"},
		"too many keys":    {jwks: func(*provider) http.HandlerFunc { return write(many(t, next, 65)) }, said: "more than 64 keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, k)
			clk := newClock()
			v := newVerifier(t, clk, p.issuer(1))
			accepted(t, v, k.token(good(p.url, start)))
			var discovery, jwks http.HandlerFunc
			if c.discovery != nil {
				discovery = c.discovery(p)
			}
			if c.jwks != nil {
				jwks = c.jwks(p)
			}
			p.lie(discovery, jwks)
			clk.advance(jwt.FetchEvery)
			refused(t, v, next.token(good(p.url, start)), errs.Unauthenticated, c.said)
			accepted(t, v, k.token(good(p.url, start).with("sub", "bob")))
			s := v.Status()[0]
			if !strings.Contains(s.Problem, c.said) || s.Keys != 1 || s.Fetches != 2 {
				t.Errorf("status %+v", s)
			}
			for _, foreign := range []string{"SECRETPAGE", "BIGBODY", "evil.example", "passwd"} {
				if strings.Contains(s.Problem, foreign) {
					t.Errorf("the status quotes what the provider sent: %q", s.Problem)
				}
			}

			// A verifier that begins with this provider has no keys, and says so.
			fresh := newVerifier(t, newClock(), p.issuer(1))
			refused(t, fresh, k.token(good(p.url, start)), errs.Unavailable, c.said)
			refused(t, fresh, k.token(good(p.url, start)), errs.Unavailable, c.said) // at once, without a fetch

			p.lie(nil, nil)
			p.rotate(k, next)
			clk.advance(jwt.FetchEvery)
			accepted(t, v, next.token(good(p.url, start)))
			if s := v.Status()[0]; s.Problem != "" {
				t.Errorf("status of a provider that is well again: %+v", s)
			}
		})
	}
}

func document(issuer, keys string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": issuer, "jwks_uri": keys})
	}
}

func TestARedirectOnTheSameHostIsFollowed(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	p.lie(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			http.Redirect(w, r, "/.well-known/openid-configuration?moved", http.StatusMovedPermanently)
			return
		}
		document(p.url, p.url+jwksPath)(w, r)
	}, nil)
	accepted(t, newVerifier(t, newClock(), p.issuer(1)), k.token(good(p.url, start)))
}

// TestKeysMayBeOnAnotherHost: of an API server the discovery document names
// addresses of its own.
func TestKeysMayBeOnAnotherHost(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p, keys := newProvider(t), newProvider(t, k)
	p.lie(document(p.url, keys.url+jwksPath), nil)
	is := p.issuer(1)
	is.CAs = append(is.CAs, keys.ca.cert.Raw)
	accepted(t, newVerifier(t, newClock(), is), k.token(good(p.url, start)))
}

func TestOnlyTheRegisteredCAsAreTrusted(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	for name, cas := range map[string][][]byte{"another CA": {newAuthority(t).cert.Raw}, "the system's": nil} {
		is := p.issuer(1)
		is.CAs = cas
		v := newVerifier(t, newClock(), is)
		t.Log(name)
		refused(t, v, k.token(good(p.url, start)), errs.Unavailable, "its certificate is not of a CA")
	}
	if p.fetched() != 0 {
		t.Error("a request was sent to a server that was not verified")
	}
}

// TestI5_AWithdrawnKeyStopsCounting within RefreshEvery, also for tokens that were
// verified before.
func TestI5_AWithdrawnKeyStopsCounting(t *testing.T) {
	t.Parallel()
	stays, leaks := newSigner(t, "stays", "ES256"), newSigner(t, "leaks", "ES256")
	p := newProvider(t, stays, leaks)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1))
	a, b := stays.token(good(p.url, start)), leaks.token(good(p.url, start))
	accepted(t, v, a)
	accepted(t, v, b)
	clk.sleeper(t, jwt.RefreshEvery)
	clk.advance(jwt.RefreshEvery) // a refresh that brings nothing new
	clk.sleeper(t, jwt.RefreshEvery)
	p.rotate(stays)
	accepted(t, v, b)
	clk.advance(jwt.RefreshEvery)
	clk.sleeper(t, jwt.RefreshEvery) // again: the refresh is done
	refused(t, v, b, errs.Unauthenticated, "none of the keys that its issuer publishes")
	accepted(t, v, a)
	if p.fetched() != 3 {
		t.Errorf("%d fetches, want 3", p.fetched())
	}
}

// TestI5_AKeyThatIsReplacedUnderItsIDStopsCounting: the id is not the key.
func TestI5_AKeyThatIsReplacedUnderItsIDStopsCounting(t *testing.T) {
	t.Parallel()
	old, next := newSigner(t, "k1", "ES256"), newSigner(t, "k1", "ES256")
	p := newProvider(t, old)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1))
	token := old.token(good(p.url, start))
	accepted(t, v, token)
	p.rotate(next)
	clk.sleeper(t, jwt.RefreshEvery)
	clk.advance(jwt.RefreshEvery)
	clk.sleeper(t, jwt.RefreshEvery)
	refused(t, v, token, errs.Unauthenticated, "signature of the token does not verify")
	accepted(t, v, next.token(good(p.url, start)))
}

// TestKeysCountForADayAfterTheirFetch: while the provider is down, and not longer.
func TestKeysCountForADayAfterTheirFetch(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	clk := newClock()
	is := p.issuer(1)
	is.Lifetime = 7 * 24 * time.Hour
	v := newVerifier(t, clk, is)
	long := k.token(good(p.url, start).with("exp", start.Add(6*24*time.Hour).Unix()))
	accepted(t, v, long)
	p.lie(unavailable, nil)
	clk.sleeper(t, jwt.RefreshEvery)
	end := start.Add(jwt.KeepKeys)
	pauses := []time.Duration{jwt.RefreshEvery, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute}
	for _, pause := range pauses {
		clk.sleeper(t, pause) // each failure waits longer than the one before
		clk.advance(pause)
	}
	clk.sleeper(t, 5*time.Minute)
	clk.advance(end.Sub(clk.Now()) - time.Second)
	clk.sleeper(t, 5*time.Minute)
	accepted(t, v, long)
	accepted(t, v, k.token(good(p.url, clk.Now())))
	clk.advance(time.Second)
	refused(t, v, long, errs.Unavailable, "its provider failed: it answers with status 503")
	refused(t, v, k.token(good(p.url, clk.Now())), errs.Unavailable, "its provider failed")
	if s := v.Status()[0]; s.Keys != 0 || !s.Fetched.Equal(start) {
		t.Errorf("status %+v", s)
	}
	p.lie(nil, nil)
	clk.advance(jwt.FetchEvery)
	accepted(t, v, long)
}

func TestStaticKeysAreNeverFetchedAndAlwaysCount(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, newSigner(t, "k2", "ES256"))
	clk := newClock()
	is := p.issuer(1)
	is.StaticJWKS = jwks_(k)
	v := newVerifier(t, clk, is)
	accepted(t, v, k.token(good(p.url, start)))
	refused(t, v, newSigner(t, "k2", "ES256").token(good(p.url, start)), errs.Unauthenticated, "none of the keys that its issuer is registered with")
	clk.advance(365 * 24 * time.Hour)
	accepted(t, v, k.token(good(p.url, clk.Now())))
	if p.fetched() != 0 {
		t.Error("keys were fetched")
	}
}

// TestExpiredTokensFetchNothing: what can be refused for nothing costs nothing.
func TestTokensThatAreRefusedAnywayFetchNothing(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	is := p.issuer(0x01)
	is.UID[15] = 0x80 // the fetch in the background begins later
	v := newVerifier(t, newClock(), is)
	c := good(p.url, start)
	for _, bad := range []claims{
		c.with("exp", start.Add(-2*time.Hour).Unix()).with("iat", nil).with("nbf", nil),
		c.with("aud", "other"), c.with("sub", nil), c.with("iss", p.url+"/"), c.with("exp", start.Add(48*time.Hour).Unix()),
	} {
		refused(t, v, k.token(bad), errs.Unauthenticated, "")
	}
	if p.fetched() != 0 {
		t.Errorf("%d fetches", p.fetched())
	}
}

func TestCloseEndsAFetchThatIsUnderWay(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	asked := make(chan struct{}, 1)
	p.lie(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}, nil)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1))
	ended := make(chan error, 1)
	go func() {
		_, err := v.Verify(t.Context(), k.token(good(p.url, start)))
		ended <- err
	}()
	<-asked
	v.Close()
	if n := clk.asleep(); n != 0 {
		t.Errorf("%d goroutines are left", n)
	}
	v.Close()
	if err := <-ended; !errs.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	clk.advance(jwt.FetchEvery) // nobody fetches any more, and nobody waits for it
	refused(t, v, k.token(good(p.url, start)), errs.Unavailable, "cannot be had")
	if err := v.Replace(1, nil); err == nil {
		t.Error("a closed verifier took issuers")
	}
}

func TestAnIssuerThatIsRemovedIsFetchedNoMore(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p, q := newProvider(t, k), newProvider(t, k)
	clk := newClock()
	v := newVerifier(t, clk, p.issuer(1))
	accepted(t, v, k.token(good(p.url, start)))
	clk.sleeper(t, jwt.RefreshEvery)
	changed := p.issuer(1)
	changed.URL, changed.StaticJWKS = q.url, jwks_(k)
	if err := v.Replace(1, []jwt.Issuer{changed}); err != nil {
		t.Fatal(err)
	}
	clk.idle(t)
	if err := v.Replace(1, []jwt.Issuer{p.issuer(1)}); err != nil {
		t.Fatal(err)
	}
	clk.sleeper(t, jwt.RefreshEvery)
	if err := v.Replace(1, nil); err != nil {
		t.Fatal(err)
	}
	clk.idle(t)
}

// TestATokenDoesNotWaitForTheFetchInTheBackground, which is spread when many
// issuers begin at the same time.
func TestATokenDoesNotWaitForTheFetchInTheBackground(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	is := p.issuer(1)
	is.UID[14], is.UID[15] = 0xff, 0xff
	for range 20 {
		v := newVerifier(t, newClock(), is)
		accepted(t, v, k.token(good(p.url, start)))
	}
	clk := newClock()
	newVerifier(t, clk, is)
	last := uint16(0xffff)
	spread := float64(last) / (1 << 16)
	late := time.Duration(spread * float64(5*time.Second))
	clk.sleeper(t, late)
	before := p.fetched()
	clk.advance(late)
	clk.sleeper(t, jwt.RefreshEvery-time.Duration(spread*float64(jwt.RefreshEvery)/10))
	if p.fetched() != before+1 {
		t.Errorf("%d fetches", p.fetched()-before)
	}
}
