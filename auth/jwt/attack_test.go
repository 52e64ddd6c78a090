package jwt_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestTokensOfEachAlgorithmAreAccepted(t *testing.T) {
	t.Parallel()
	algs := []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"}
	keys := make([]*signer, 0, len(algs))
	for _, alg := range algs {
		keys = append(keys, newSigner(t, "k-"+alg, alg))
	}
	for name, static := range map[string]bool{"fetched keys": false, "static keys": true} {
		p := newProvider(t, keys...)
		is := p.issuer(7)
		if static {
			is.StaticJWKS = jwks_(keys...)
		}
		v := newVerifier(t, newClock(), is)
		for _, k := range keys {
			c := good(p.url, start)
			got := accepted(t, v, k.token(c))
			want := jwt.Token{IssuerUID: uid(7), Subject: "alice", ID: "t1", NotAfter: start.Add(time.Hour + jwt.DefaultSkew)}
			if got != want {
				t.Errorf("%s, %s: %+v, want %+v", name, k.alg, got, want)
			}
		}
		if want := map[bool]int{false: 1, true: 0}[static]; p.fetched() != want {
			t.Errorf("%s: %d fetches, want %d", name, p.fetched(), want)
		}
	}
}

// TestFormsOfTokensThatAreAccepted: what is unusual and right.
func TestFormsOfTokensThatAreAccepted(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	v := newVerifier(t, newClock(), p.issuer(1))
	c := good(p.url, start)
	header := func(more string) string { return `{"alg":"ES256","kid":"k1"` + more + `}` }
	for name, token := range map[string]string{
		"no typ":                       k.text(header(``), c.json()),
		"typ of an access token":       k.text(header(`,"typ":"at+jwt"`), c.json()),
		"typ as a media type":          k.text(header(`,"typ":"application/AT+JWT"`), c.json()),
		"typ in other case":            k.text(header(`,"typ":"jwt"`), c.json()),
		"no kid, one key that fits":    k.text(`{"alg":"ES256"}`, c.json()),
		"audiences, one is ours":       k.token(c.with("aud", []string{"other", "krypton"})),
		"no nbf, no iat, no jti":       k.token(c.with("nbf", nil).with("iat", nil).with("jti", nil)),
		"exp with a fraction":          k.text(k.header(), strings.Replace(c.json(), fmt.Sprint(c["exp"]), fmt.Sprint(c["exp"])+".75", 1)),
		"issuer's clock behind":        k.token(c.with("exp", start.Add(-59*time.Second).Unix()).with("iat", start.Add(-time.Hour).Unix()).with("nbf", nil)),
		"issuer's clock ahead":         k.token(c.with("nbf", start.Add(59*time.Second).Unix()).with("iat", start.Add(59*time.Second).Unix())),
		"white space in the JSON":      k.text(" { \"alg\" : \"ES256\" ,\n\"kid\":\"k1\" } ", "\t"+c.json()+"\r\n"),
		"claims of a service account":  k.token(c.with("sub", "system:serviceaccount:shop:orders").with("kubernetes.io", claims{"namespace": "shop", "pod": claims{"name": "orders-0"}})),
		"escapes in the JSON":          k.text(k.header(), strings.Replace(c.json(), `"iss"`, `"\u0069ss"`, 1)),
		"subject in another script":    k.token(c.with("sub", "Zoë 北")),
		"almost too large":             k.token(c.with("pad", strings.Repeat("x", 5700))),
		"a whole day":                  k.token(c.with("exp", start.Add(24*time.Hour).Unix())),
		"other names in the header":    k.text(header(`,"x5t":"AAAA","cty":"x","foo":[1,2,{"a":1}]`), c.json()),
		"unknown claims, nested twice": k.token(c.with("a", claims{"iss": "x"}).with("b", claims{"iss": "x"})),
	} {
		if got, err := v.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got.IssuerUID != uid(1) || got.Subject == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestI2_AttacksOnTokensAreRefused goes through RFC 8725 and what was found in
// other verifiers. Each token differs in one thing from one that is accepted.
func TestI2_AttacksOnTokensAreRefused(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "RS256")
	ec := newSigner(t, "k2", "ES256")
	p384 := newSigner(t, "k3", "ES384")
	k.open, ec.open, p384.open = true, true, true // only the kind of key says what it is for
	nokid := newSigner(t, "", "EdDSA")
	twin := newSigner(t, "twin", "ES256")
	stranger := newSigner(t, "k1", "RS256")
	pin := newSigner(t, "pinned", "RS256") // its jwk says RS256
	asPS := &signer{kid: "pinned", alg: "PS256", key: pin.key}
	p := newProvider(t, k, ec, p384, twin, newSigner(t, "twin", "ES256"), pin, newSigner(t, "e1", "EdDSA"), newSigner(t, "e2", "EdDSA"))
	v := newVerifier(t, newClock(), p.issuer(1))
	c := good(p.url, start)
	ok := k.token(c)
	accepted(t, v, ok)
	parts := strings.Split(ok, ".")
	h := func(more string) string { return `{"alg":"RS256","kid":"k1"` + more + `}` }
	public, err := x509.MarshalPKIXPublicKey(k.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	strangers, err := stranger.jwk().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	fetchedByToken := false
	evil := newProvider(t, stranger)
	evil.lie(func(http.ResponseWriter, *http.Request) { fetchedByToken = true }, nil)

	const (
		form      = "not three parts"
		strict    = "not strict base64url"
		headers   = "header is not one JSON object"
		body      = "claims are not one JSON object"
		algorithm = "accepted algorithm"
		signature = "signature of the token does not verify"
		unknown   = "none of the keys that its issuer publishes"
		extension = "extension that is not understood"
		kind      = "type that proves no identity"
		date      = "not a time in seconds"
		noIssuer  = "no issuer is registered"
		audience  = "none of the audiences"
		subject   = "subject is not a text"
	)
	cases := map[string]struct{ token, said string }{
		// RFC 8725, 2.1: algorithms
		"alg none":                    {b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", form},
		"alg none with a signature":   {b64([]byte(`{"alg":"none","kid":"k1"}`)) + "." + parts[1] + "." + parts[2], algorithm},
		"alg None":                    {k.text(`{"alg":"None","kid":"k1"}`, c.json()), algorithm},
		"alg empty":                   {k.text(`{"alg":"","kid":"k1"}`, c.json()), algorithm},
		"alg missing":                 {k.text(`{"kid":"k1"}`, c.json()), algorithm},
		"alg a number":                {k.text(`{"alg":256,"kid":"k1"}`, c.json()), algorithm},
		"alg a list":                  {k.text(`{"alg":["RS256"],"kid":"k1"}`, c.json()), algorithm},
		"alg in other case":           {k.text(`{"alg":"rs256","kid":"k1"}`, c.json()), algorithm},
		"HS256 with the public key":   {hs256(public, `{"alg":"HS256","kid":"k1"}`, c.json()), algorithm},
		"HS256 with its PEM":          {hs256(publicPEM, `{"alg":"HS256","kid":"k1"}`, c.json()), algorithm},
		"HS256 said to be RS256":      {hs256(publicPEM, h(``), c.json()), signature},
		"RS512":                       {k.text(`{"alg":"RS512","kid":"k1"}`, c.json()), algorithm},
		"ES256 with an RSA key's id":  {ec.text(`{"alg":"ES256","kid":"k1"}`, c.json()), unknown},
		"RS256 with an EC key's id":   {k.text(`{"alg":"RS256","kid":"k2"}`, c.json()), unknown},
		"ES256 with a P-384 key's id": {ec.text(`{"alg":"ES256","kid":"k3"}`, c.json()), unknown},
		"ES384 with a P-256 key's id": {p384.text(`{"alg":"ES384","kid":"k2"}`, c.json()), unknown},
		"EdDSA with an RSA key's id":  {nokid.text(`{"alg":"EdDSA","kid":"k1"}`, c.json()), unknown},
		"key that is for another alg": {asPS.token(c), unknown},
		// signature
		"signed by a stranger":        {stranger.token(c), signature},
		"signature of another token":  {parts[0] + "." + b64([]byte(c.with("sub", "mallory").json())) + "." + parts[2], signature},
		"header of another token":     {b64([]byte(h(`,"typ":"JWT","x":1`))) + "." + parts[1] + "." + parts[2], signature},
		"signature a byte shorter":    {parts[0] + "." + parts[1] + "." + b64(k.sign([]byte(parts[0] + "." + parts[1]))[1:]), signature},
		"ECDSA signature of zeros":    {strings.Join([]string{b64([]byte(`{"alg":"ES256","kid":"k2"}`)), parts[1], b64(make([]byte, 64))}, "."), signature},
		"EC signature in DER length":  {strings.Join([]string{b64([]byte(`{"alg":"ES256","kid":"k2"}`)), parts[1], b64(make([]byte, 70))}, "."), signature},
		"signature empty":             {parts[0] + "." + parts[1] + ".", form},
		"no signature":                {parts[0] + "." + parts[1], form},
		"jwk of a stranger in header": {stranger.text(h(`,"jwk":`+string(strangers)), c.json()), signature},
		"jku of a stranger":           {stranger.text(h(`,"jku":"`+evil.url+jwksPath+`"`), c.json()), signature},
		"x5u of a stranger":           {stranger.text(h(`,"x5u":"`+evil.url+jwksPath+`"`), c.json()), signature},
		// kid
		"kid unknown":              {k.text(`{"alg":"RS256","kid":"zz"}`, c.json()), unknown},
		"kid in other case":        {k.text(`{"alg":"RS256","kid":"K1"}`, c.json()), unknown},
		"kid a path":               {k.text(`{"alg":"RS256","kid":"../../../../dev/null"}`, c.json()), unknown},
		"kid SQL":                  {k.text(`{"alg":"RS256","kid":"k1' OR '1'='1"}`, c.json()), unknown},
		"kid empty":                {k.text(`{"alg":"RS256","kid":""}`, c.json()), "key id is not"},
		"kid a number":             {k.text(`{"alg":"RS256","kid":1}`, c.json()), "key id is not"},
		"kid null":                 {k.text(`{"alg":"RS256","kid":null}`, c.json()), "key id is not"},
		"kid with a line end":      {k.text(`{"alg":"RS256","kid":"k1\n"}`, c.json()), "key id is not"},
		"kid too long":             {k.text(`{"alg":"RS256","kid":"`+strings.Repeat("k", jwt.MaxKeyID+1)+`"}`, c.json()), "key id is not"},
		"kid of two keys":          {twin.token(c), "two keys of its issuer fit"},
		"no kid, two keys fit":     {nokid.token(c), "two keys of its issuer fit"},
		"no kid of an unknown alg": {newSigner(t, "", "PS256").text(`{"alg":"PS256","kid":"pinned"}`, c.json()), unknown},
		// header
		"crit":                  {k.text(h(`,"crit":["exp"]`), c.json()), extension},
		"crit empty":            {k.text(h(`,"crit":[]`), c.json()), extension},
		"crit b64":              {k.text(h(`,"b64":false,"crit":["b64"]`), c.json()), extension},
		"b64 without crit":      {k.text(h(`,"b64":false`), c.json()), extension},
		"typ of a logout token": {k.text(h(`,"typ":"logout+jwt"`), c.json()), kind},
		"typ of a proof":        {k.text(h(`,"typ":"dpop+jwt"`), c.json()), kind},
		"typ empty":             {k.text(h(`,"typ":""`), c.json()), kind},
		"typ null":              {k.text(h(`,"typ":null`), c.json()), kind},
		"alg twice":             {k.text(`{"alg":"none","alg":"RS256","kid":"k1"}`, c.json()), headers},
		"alg twice, other case": {k.text(`{"Alg":"none","alg":"RS256","kid":"k1"}`, c.json()), headers},
		"header a list":         {k.text(`["RS256"]`, c.json()), headers},
		"header null":           {k.text(`null`, c.json()), headers},
		"header two objects":    {k.text(h(``)+h(``), c.json()), headers},
		"header not UTF-8":      {k.text("{\"alg\":\"RS256\",\"kid\":\"k1\",\"x\":\"\xff\"}", c.json()), headers},
		"header cut":            {k.text(`{"alg":"RS256"`, c.json()), headers},
		"header with a comment": {k.text(`{"alg":"RS256"/**/}`, c.json()), headers},
		// form
		"empty":                   {"", form},
		"dots":                    {"..", form},
		"garbage":                 {"not a token", form},
		"four parts":              {ok + "." + parts[2], form},
		"five parts, encrypted":   {ok + ".a.b", form},
		"two tokens":              {ok + " " + ok, form},
		"two tokens, comma":       {ok + "," + ok, form},
		"nested token":            {k.text(h(`,"cty":"JWT"`), ok), body},
		"space before":            {" " + ok, strict},
		"line end behind":         {ok + "\n", strict},
		"line end inside":         {parts[0] + "." + parts[1][:9] + "\n" + parts[1][9:] + "." + parts[2], strict},
		"carriage return inside":  {parts[0] + "." + parts[1] + ".\r" + parts[2], strict},
		"padding":                 {parts[0] + "=." + parts[1] + "." + parts[2], strict},
		"alphabet of base64":      {parts[0] + "." + parts[1] + ".++//" + parts[2], strict},
		"bits left over":          {parts[0] + "." + parts[1] + "." + leftOver(parts[2]), strict},
		"NUL":                     {parts[0] + ".\x00" + parts[1] + "." + parts[2], strict},
		"other script":            {parts[0] + "." + parts[1] + "." + "е" + parts[2], strict},
		"JSON serialization":      {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, form},
		"truncated":               {ok[:len(ok)-102], signature},
		"cut in the claims":       {ok[:len(parts[0])+20], form},
		"too large, and signed":   {k.token(c.with("pad", strings.Repeat("x", 6000))), "larger than 8192 bytes"},
		"too large, and no token": {strings.Repeat("A", 1<<20), "larger than 8192 bytes"},
		// claims
		"iss of nobody":                {k.token(c.with("iss", "https://evil.example")), noIssuer},
		"iss with a slash":             {k.token(c.with("iss", p.url+"/")), noIssuer},
		"iss in capitals":              {k.token(c.with("iss", strings.ToUpper(p.url))), noIssuer},
		"iss without scheme":           {k.token(c.with("iss", strings.TrimPrefix(p.url, "https://"))), noIssuer},
		"iss http":                     {k.token(c.with("iss", strings.Replace(p.url, "https", "http", 1))), noIssuer},
		"iss missing":                  {k.token(c.with("iss", nil)), "names no issuer"},
		"iss empty":                    {k.token(c.with("iss", "")), "names no issuer"},
		"iss a list":                   {k.token(c.with("iss", []string{p.url})), "names no issuer"},
		"iss twice":                    {k.text(k.header(), `{"iss":"https://evil.example",`+c.json()[1:]), body},
		"iss twice, the last one evil": {k.text(k.header(), strings.TrimSuffix(c.json(), "}")+`,"iss":"https://evil.example"}`), body},
		"iss twice, one escaped":       {k.text(k.header(), `{"\u0069ss":"https://evil.example",`+c.json()[1:]), body},
		"iss twice, other case":        {k.token(c.with("ISS", "https://evil.example")), body},
		"iss twice, long s":            {k.token(c.with("iſs", "https://evil.example")), body},
		"sub twice":                    {k.text(k.header(), `{"sub":"root",`+c.json()[1:]), body},
		"twice, in a nested object":    {k.text(k.header(), `{"x":{"a":1,"a":2},`+c.json()[1:]), body},
		"aud of somebody else":         {k.token(c.with("aud", "other")), audience},
		"aud in other case":            {k.token(c.with("aud", "Krypton")), audience},
		"aud a part":                   {k.token(c.with("aud", "krypto")), audience},
		"aud list of others":           {k.token(c.with("aud", []string{"a", "b"})), audience},
		"aud missing":                  {k.token(c.with("aud", nil)), "names no audience"},
		"aud empty":                    {k.token(c.with("aud", "")), "names no audience"},
		"aud no element":               {k.token(c.with("aud", []string{})), "names no audience"},
		"aud with a number":            {k.token(c.with("aud", []any{"krypton", 1})), "names no audience"},
		"aud an object":                {k.token(c.with("aud", claims{"krypton": true})), "names no audience"},
		"aud true":                     {k.token(c.with("aud", true)), "names no audience"},
		"aud too many":                 {k.token(c.with("aud", strings.Split("krypton"+strings.Repeat(",a", 32), ","))), "names no audience"},
		"expired":                      {k.token(c.with("exp", start.Add(-time.Minute).Unix()).with("iat", start.Add(-time.Hour).Unix()).with("nbf", nil)), "the token expired 1m0s ago by the node's clock"},
		"exp missing":                  {k.token(c.with("exp", nil)), "exp is " + date},
		"exp null":                     {k.text(k.header(), `{"iss":"`+p.url+`","aud":"krypton","sub":"a","exp":null}`), "exp is " + date},
		"exp a text":                   {k.token(c.with("exp", fmt.Sprint(c["exp"]))), "exp is " + date},
		"exp 1e400":                    {k.text(k.header(), `{"iss":"`+p.url+`","aud":"krypton","sub":"a","exp":1e400}`), "exp is " + date},
		"exp 1e18":                     {k.text(k.header(), `{"iss":"`+p.url+`","aud":"krypton","sub":"a","exp":1e18}`), "exp is " + date},
		"exp with 300 digits":          {k.text(k.header(), `{"iss":"`+p.url+`","aud":"krypton","sub":"a","exp":`+strings.Repeat("9", 300)+`}`), "exp is " + date},
		"exp in the year 10000":        {k.token(c.with("exp", int64(253402300800))), "exp is " + date},
		"exp that overflows int64":     {k.text(k.header(), `{"iss":"`+p.url+`","aud":"krypton","sub":"a","exp":18446744073709551617}`), "exp is " + date},
		"exp negative":                 {k.token(c.with("exp", -1)), "exp is " + date},
		"exp zero":                     {k.token(c.with("exp", 0).with("iat", nil).with("nbf", nil)), "expired"},
		"exp twice":                    {k.text(k.header(), `{"exp":9999999999,`+c.json()[1:]), body},
		"not yet valid":                {k.token(c.with("nbf", start.Add(61*time.Second).Unix())), "valid only in 1m1s by the node's clock"},
		"nbf a text":                   {k.token(c.with("nbf", "0")), "nbf is " + date},
		"issued in the future":         {k.token(c.with("iat", start.Add(61*time.Second).Unix()).with("nbf", nil)), "valid only in"},
		"iat a list":                   {k.token(c.with("iat", []int{0})), "iat is " + date},
		"ends before it begins":        {k.token(c.with("exp", start.Add(-30*time.Second).Unix())), "ends before it begins"},
		"lives too long":               {k.token(c.with("exp", start.Add(24*time.Hour+time.Second).Unix())), "lives longer"},
		"lives too long, iat hidden":   {k.token(c.with("iat", nil).with("exp", start.Add(24*time.Hour+time.Second).Unix())), "lives longer"},
		"lives too long, begin hidden": {k.token(c.with("iat", nil).with("nbf", nil).with("exp", start.Add(24*time.Hour+time.Second).Unix())), "lives longer"},
		"lives since 1970":             {k.token(c.with("iat", 0).with("nbf", nil)), "lives longer"},
		"sub missing":                  {k.token(c.with("sub", nil)), subject},
		"sub empty":                    {k.token(c.with("sub", "")), subject},
		"sub a number":                 {k.token(c.with("sub", 1)), subject},
		"sub a list":                   {k.token(c.with("sub", []string{"alice"})), subject},
		"sub too long":                 {k.token(c.with("sub", strings.Repeat("a", jwt.MaxSubject+1))), subject},
		"sub with a line end":          {k.token(c.with("sub", "alice\nroot")), subject},
		"sub with NUL":                 {k.token(c.with("sub", "alice\x00")), subject},
		"sub written backwards":        {k.token(c.with("sub", "alice\u202eroot")), subject},
		"sub with no width":            {k.token(c.with("sub", "alice\u200b")), subject},
		"sub half a character":         {k.text(k.header(), strings.Replace(c.json(), `"alice"`, `"\ud800"`, 1)), subject},
		"jti a number":                 {k.token(c.with("jti", 1)), "id is not"},
		"jti too long":                 {k.token(c.with("jti", strings.Repeat("a", jwt.MaxTokenID+1))), "id is not"},
		"jti with a control character": {k.token(c.with("jti", "a\tb")), "id is not"},
		"claims a list":                {k.text(k.header(), `[`+c.json()+`]`), body},
		"claims twice":                 {k.text(k.header(), c.json()+c.json()), body},
		"claims not UTF-8":             {k.text(k.header(), "{\"x\":\"\xc0\xaf\","+c.json()[1:]), body},
		"claims with NaN":              {k.text(k.header(), `{"x":NaN,`+c.json()[1:]), body},
		"claims too deep":              {k.text(k.header(), `{"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,`+c.json()[1:]), body},
		"claims cut":                   {k.text(k.header(), c.json()[:20]), body},
		"nonce not a text":             {k.token(c.with("nonce", 1)), "form of an OpenID Connect token"},
		"claim source that is missing": {k.token(c.with("_claim_names", claims{"a": "b"})), "form of an OpenID Connect token"},
	}
	for name, a := range cases {
		t.Run(name, func(t *testing.T) { refused(t, v, a.token, errs.Unauthenticated, a.said) })
	}
	if fetchedByToken || evil.fetched() != 0 {
		t.Error("a URL in a token was fetched")
	}
	// Not one of them left a trace: the token that was good is good.
	accepted(t, v, ok)
	// And each of them is refused again, so none was remembered.
	for name, a := range cases {
		if _, err := v.Verify(t.Context(), a.token); err == nil {
			t.Errorf("%s: accepted the second time", name)
		}
	}
}

// TestI2_KeysInTheHeaderOfATokenAreNotLookedAt: a good token stays good with them.
func TestI2_KeysInTheHeaderOfATokenAreNotLookedAt(t *testing.T) {
	t.Parallel()
	k, stranger := newSigner(t, "k1", "ES256"), newSigner(t, "k1", "ES256")
	p, evil := newProvider(t, k), newProvider(t, stranger)
	jwk, err := stranger.jwk().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, newClock(), p.issuer(1))
	for _, more := range []string{
		`"jwk":` + string(jwk), `"jku":"` + evil.url + jwksPath + `"`, `"x5u":"` + evil.url + `"`, `"x5t":"` + b64(make([]byte, 20)) + `"`, `"x5t#S256":"` + b64(make([]byte, 32)) + `"`,
	} {
		accepted(t, v, k.text(`{"alg":"ES256","kid":"k1",`+more+`}`, good(p.url, start).json()))
	}
	if evil.fetched() != 0 {
		t.Error("a URL in a token was fetched")
	}
}

func TestTheSubjectIsTheRegisteredClaim(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	is := p.issuer(1)
	is.SubjectClaim = "email"
	v := newVerifier(t, newClock(), is)
	c := good(p.url, start)
	if got := accepted(t, v, k.token(c.with("email", "alice@example.com"))); got.Subject != "alice@example.com" {
		t.Errorf("subject %q", got.Subject)
	}
	refused(t, v, k.token(c), errs.Unauthenticated, "subject is not a text")
	refused(t, v, k.token(c.with("profile", claims{"email": "alice@example.com"})), errs.Unauthenticated, "subject is not a text")
	refused(t, v, k.token(c.with("email", []string{"alice@example.com"})), errs.Unauthenticated, "subject is not a text")
	refused(t, v, k.token(c.with("Email", "alice@example.com")), errs.Unauthenticated, "subject is not a text")
}

func TestSkewAndLifetimeAreTheIssuers(t *testing.T) {
	t.Parallel()
	k := newSigner(t, "k1", "ES256")
	p := newProvider(t, k)
	is := p.issuer(1)
	is.Skew, is.Lifetime = jwt.MaxSkew, 10*time.Minute
	v := newVerifier(t, newClock(), is)
	at := func(d time.Duration) int64 { return start.Add(d).Unix() }
	c := good(p.url, start).with("nbf", nil)
	got := accepted(t, v, k.token(c.with("iat", at(5*time.Minute)).with("exp", at(15*time.Minute))))
	if want := start.Add(20 * time.Minute); !got.NotAfter.Equal(want) {
		t.Errorf("accepted until %v, want %v", got.NotAfter, want)
	}
	accepted(t, v, k.token(c.with("iat", at(-10*time.Minute)).with("exp", at(-5*time.Minute+time.Second))))
	refused(t, v, k.token(c.with("iat", at(-10*time.Minute)).with("exp", at(-5*time.Minute))), errs.Unauthenticated, "expired")
	refused(t, v, k.token(c.with("iat", at(5*time.Minute+time.Second)).with("exp", at(15*time.Minute))), errs.Unauthenticated, "valid only in")
	refused(t, v, k.token(c.with("exp", at(10*time.Minute+time.Second))), errs.Unauthenticated, "lives longer than the 10m0s")
}

// leftOver returns base64 text that decodes to the same bytes if bits that are left
// over are not looked at.
func leftOver(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last|1])
}
