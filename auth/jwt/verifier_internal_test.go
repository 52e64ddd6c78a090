package jwt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// TestI7_ReplaceKeepsWhatIsRemembered, and forgets what is of no issuer any more.
func TestI7_ReplaceKeepsWhatIsRemembered(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	enc := base64.RawURLEncoding.EncodeToString
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("no public key")
	}
	is := Issuer{
		UID: [16]byte{1}, Path: "issuers/p", URL: "https://id.example", Audiences: []string{"krypton"},
		StaticJWKS: []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + enc(public) + `"}]}`),
	}
	other := is
	other.UID, other.Audiences = [16]byte{2}, []string{"other"}
	v := New(Options{Clock: clock.NewFake(now)})
	t.Cleanup(v.Close)
	replace := func(issuers ...Issuer) {
		t.Helper()
		if err := v.Replace(1, issuers); err != nil {
			t.Fatal(err)
		}
	}
	replace(is)
	input := enc([]byte(`{"alg":"EdDSA"}`)) + "." + enc([]byte(`{"iss":"https://id.example","aud":"krypton","sub":"a","exp":1800000600}`))
	token := input + "." + enc(ed25519.Sign(private, []byte(input)))
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	kept := func() bool {
		_, ok := v.cache.get(digestOf(token), v.registered.Load(), now)
		return ok
	}
	for _, issuers := range [][]Issuer{{is}, {is, other}, {other, is}, {is}} {
		replace(issuers...)
		if !kept() {
			t.Fatal("a token of an issuer that did not change is forgotten")
		}
	}
	replace(other)
	for i := range v.cache.shards {
		if s := &v.cache.shards[i]; len(s.entries)+len(s.owned)+s.all.n != 0 {
			t.Error("a token of a removed issuer takes memory")
		}
	}
}

func TestI4_AQuestionBeforeThePauseEndsIt(t *testing.T) {
	t.Parallel()
	s := &source{clk: clock.NewFake(time.Unix(0, 0)), asked: true}
	if !s.wait(t.Context(), time.Hour) {
		t.Error("the fetches are over")
	}
}

// TestAFetchUsesNoProxyOfTheEnvironment: net/http never asks the environment for a
// proxy to a loopback address, so no server in a test would notice.
func TestAFetchUsesNoProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	tr, ok := newClient(nil).Transport.(*http.Transport)
	if !ok || tr.Proxy != nil {
		t.Error("the fetch takes a proxy")
	}
}

func TestFetchedKeysCountForTheirTime(t *testing.T) {
	t.Parallel()
	fetched := time.Now()
	s := &keySet{fetched: fetched}
	if !s.usable(fetched.Add(KeepKeys - time.Second)) {
		t.Error("keys end before their time")
	}
	if s.usable(fetched.Add(KeepKeys)) {
		t.Error("keys count for longer")
	}
	if !(&keySet{fetched: fetched, static: true}).usable(fetched.Add(1000 * time.Hour)) {
		t.Error("static keys end")
	}
	if (*keySet)(nil).usable(fetched) {
		t.Error("no keys are usable")
	}
}

func TestNumericDate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"0": time.Unix(0, 0), "1": time.Unix(1, 0), "1800000000": time.Unix(1_800_000_000, 0),
		"1.5": time.Unix(1, 500_000_000), "1.000000001": time.Unix(1, 1), "1.0000000019": time.Unix(1, 1), "253402300799.999": time.Unix(253402300799, 999_000_000),
	} {
		if got, ok := numericDate(in); !ok || !got.Equal(want) {
			t.Errorf("%s: %v, %t", in, got, ok)
		}
	}
	for _, in := range []string{"", "-1", "+1", "1e3", "1E3", "0x1", "1.", ".5", "253402300800", "9999999999999", "1.2.3", " 1", "1 ", "١"} {
		if in == "1." {
			continue // no number of JSON: the parser of the claims refuses it
		}
		if got, ok := numericDate(in); ok {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// TestI1_TheClaimsThatWereJudgedAreTheOnesThatWereSigned: were the library's parser
// ever to see another payload in a token than this package's, it is refused.
func TestI1_TheClaimsThatWereJudgedAreTheOnesThatWereSigned(t *testing.T) {
	t.Parallel()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	enc := base64.RawURLEncoding.EncodeToString
	input := enc([]byte(`{"alg":"EdDSA"}`)) + "." + enc([]byte(`{"sub":"a"}`))
	token := input + "." + enc(ed25519.Sign(private, []byte(input)))
	for payload, want := range map[string]bool{`{"sub":"a"}`: true, `{"sub":"b"}`: false} {
		o := &oneKey{key: &key{public: private.Public()}, token: &unverified{alg: "EdDSA", payload: []byte(payload)}}
		if _, err := o.VerifySignature(t.Context(), token); (err == nil) != want || o.refused == want {
			t.Errorf("%s: %v", payload, err)
		}
	}
}
