package cluster_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

func seeds(n int) []cluster.Seed {
	out := make([]cluster.Seed, n)
	for i := range out {
		out[i] = cluster.Seed{Address: fmt.Sprintf("node-%d.example:8402", i), KeyHash: sha256.Sum256([]byte{byte(i)})}
	}
	return out
}

func TestAJoinTokenIsReadBackAndHasOneSpelling(t *testing.T) {
	for n := 1; n <= cluster.MaxTokenSeeds; n++ {
		tok, err := cluster.NewJoinToken(rand.Reader, sha256.Sum256([]byte("genesis")), seeds(n))
		if err != nil {
			t.Fatal(err)
		}
		got, err := cluster.ParseJoinToken(" \n" + tok.Text() + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tok, got, cmpopts.IgnoreUnexported(cluster.JoinToken{})); diff != "" || got.Hash() != tok.Hash() {
			t.Fatalf("%d seeds: %s", n, diff)
		}
	}
	tok, err := cluster.NewJoinToken(rand.Reader, [32]byte{1}, seeds(2))
	if err != nil {
		t.Fatal(err)
	}
	text := tok.Text()
	pub := ed25519.NewKeyFromSeed(tok.Secret()).Public().(ed25519.PublicKey) //nolint:forcetypeassert // It is.
	if sum := sha256.Sum256(pub); sum != tok.Hash() || sum != cluster.JoinKeyHash([32]byte(tok.Secret())) {
		t.Error("the registry's hash is not that of the public key")
	}
	for i := range text {
		c := byte('a')
		if text[i] == c {
			c = 'b'
		}
		if _, err := cluster.ParseJoinToken(text[:i] + string(c) + text[i+1:]); err == nil {
			t.Fatalf("a typing error at %d passes", i)
		}
	}
	for _, bad := range []string{"", "kjoin2-", text[:len(text)-1], text + "a", strings.ToUpper(text), "kjoin1" + text[6:], "kjoin3" + text[6:], strings.Replace(text, "-", "- ", 1)} {
		if _, err := cluster.ParseJoinToken(bad); err == nil {
			t.Errorf("%q passes", bad)
		}
	}
}

// TestI10_WhatANodeShowsOfItsTokenIsNotItsSecret and is good for that node alone.
func TestI10_WhatANodeShowsOfItsTokenIsNotItsSecret(t *testing.T) {
	tok, err := cluster.NewJoinToken(rand.Reader, [32]byte{7}, seeds(1))
	if err != nil {
		t.Fatal(err)
	}
	id, spki := cluster.NodeID(strings.Repeat("a", 32)), []byte("spki")
	key, signature := tok.Shows(id, spki, "eu")
	if shown := append(bytes.Clone(key), signature...); bytes.Contains(shown, tok.Secret()) || bytes.Contains(shown, tok.Secret()[:16]) {
		t.Error("the secret is shown")
	}
	admit := func(change func(*fsmpb.AddMember)) error {
		hash := tok.Hash()
		c := &fsmpb.AddMember{Member: &fsmpb.Member{Id: string(id), PublicKey: spki, Region: "eu"}, TokenHash: hash[:], TokenKey: key, Signature: signature}
		change(c)
		return fsm.CheckAdmission(tok.Fingerprint, c)
	}
	if err := admit(func(*fsmpb.AddMember) {}); err != nil {
		t.Error(err)
	}
	if err := admit(func(c *fsmpb.AddMember) { c.Member.PublicKey = []byte("another") }); err == nil {
		t.Error("it admits another key")
	}
}

// The layout never changes: tokens outlive releases.
func TestTheLayoutOfAJoinTokenIsFixed(t *testing.T) {
	tok, err := cluster.NewJoinToken(bytes.NewReader(bytes.Repeat([]byte{0x5a}, 32)), [32]byte{1, 2, 3}, []cluster.Seed{{Address: "10.0.0.1:8402", KeyHash: [32]byte{9}}})
	if err != nil {
		t.Fatal(err)
	}
	const want = goldenToken
	if got := tok.Text(); got != want {
		t.Fatalf("text is\n%s, want\n%s", got, want)
	}
}

func TestATokenNeedsUsableSeeds(t *testing.T) {
	for name, s := range map[string][]cluster.Seed{
		"none":       nil,
		"too many":   seeds(cluster.MaxTokenSeeds + 1),
		"no port":    {{Address: "host"}},
		"port zero":  {{Address: "host:0"}},
		"port +1":    {{Address: "host:+1"}},
		"port 00080": {{Address: "host:00080"}},
		"no host":    {{Address: ":8402"}},
		"space":      {{Address: "ho st:8402"}},
		"too long":   {{Address: strings.Repeat("h", 260) + ":1"}},
	} {
		if _, err := cluster.NewJoinToken(rand.Reader, [32]byte{}, s); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestATokenDoesNotPrintItsSecret(t *testing.T) {
	tok, err := cluster.NewJoinToken(rand.Reader, [32]byte{1}, seeds(1))
	if err != nil {
		t.Fatal(err)
	}
	forms := []string{tok.Text(), string(tok.Secret()), hex.EncodeToString(tok.Secret()), fmt.Sprintf("%d", tok.Secret()), tok.Text()[7:60]}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).LogAttrs(t.Context(), slog.LevelInfo, "x", slog.Any("token", tok), slog.Any("in", struct{ T cluster.JoinToken }{tok}))
	all := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		all += fmt.Sprintf(verb, tok) + fmt.Sprintf(verb, &tok) + fmt.Sprintf(verb, struct{ t cluster.JoinToken }{tok}) + fmt.Sprintf(verb, []any{tok})
	}
	if raw, err := json.Marshal(tok); err == nil {
		all += string(raw)
	}
	for _, f := range forms {
		if strings.Contains(all, f) {
			t.Errorf("the secret was printed as %.10q...", f)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	for n := 1; n <= 3; n++ {
		tok, err := cluster.NewJoinToken(bytes.NewReader(make([]byte, 32)), [32]byte{1}, seeds(n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(tok.Text())
	}
	f.Add("kjoin2-")
	f.Add("kjoin2-aaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := cluster.ParseJoinToken(text)
		if err != nil {
			return
		}
		if got := tok.Text(); got != strings.TrimSpace(text) {
			t.Fatalf("two spellings of one token:\n%q\n%q", text, got)
		}
	})
}

const goldenToken = "kjoin2-aebagaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaafuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuwqbbuytalrqfyyc4mj2ha2damqjaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaacy7juim"
