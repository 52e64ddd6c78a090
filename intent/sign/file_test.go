package sign_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// check is a cluster in which all people are governors, and all must sign.
func check(people map[intent.Person]sign.Signer, req *intent.Request, ps []intent.Precondition) intent.Check {
	mods := map[string]uint64{}
	for _, p := range ps {
		mods[p.Object] = p.ModIndex
	}
	return intent.Check{
		Keyspace: keyspace, Act: req.Act(), Request: req.Digest(), NowMs: now.UnixMilli(), Requester: "requester",
		Rule: intent.Rule{Governors: len(people)},
		Key: func(id intent.KeyID) (intent.Signer, bool) {
			for who, s := range people {
				if s.PublicKey().ID() == id {
					return intent.Signer{Person: who, Role: auth.RoleGovernor, Key: s.PublicKey()}, true
				}
			}
			return intent.Signer{}, false
		},
		ModIndex:  func(o string) uint64 { return mods[o] },
		NonceUsed: func(intent.Nonce) bool { return false },
	}
}

func encoded(t testing.TB, f sign.File) []byte {
	t.Helper()
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signedBy returns one intent with the signatures of signers.
func signedBy(t testing.TB, signers ...sign.Signer) sign.File {
	t.Helper()
	f, err := sign.Draft(proposal(), now, bytes.NewReader(bytes.Repeat([]byte{7}, 16)))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range signers {
		if f, err = f.Countersign(t.Context(), s, expected()); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// The file was made once, by an implementation in another language with another
// library. It is never regenerated: it is the format.
func TestGoldenFile(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile("testdata/signed-intent-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	f, err := sign.OpenFile("testdata/signed-intent-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), string(encoded(t, f))); diff != "" {
		t.Errorf("encoding differs (-golden +ours):\n%s", diff)
	}
	want := intent.Intent{
		Keyspace: hierarchy.KeyspaceID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, Act: intent.ActDestroy, Request: destroy().Digest(),
		NotAfter: 1_800_003_600_000, Nonce: intent.Nonce(bytes.Repeat([]byte{9}, 16)),
		Preconditions: []intent.Precondition{{Object: "tenants/acme", ModIndex: 17}, {Object: "tenants/acme/services/payments/versions/3", ModIndex: 5}},
	}
	if diff := cmp.Diff(want, f.Intent); diff != "" {
		t.Errorf("intent differs (-want +got):\n%s", diff)
	}
	if d := intent.Differences(destroy(), f.Request); d != "" {
		t.Errorf("request differs (- want, + got):\n%s", d)
	}
	algs := []intent.Alg{}
	for _, s := range f.Signatures {
		algs = append(algs, s.Key.Alg())
	}
	slices.Sort(algs)
	if diff := cmp.Diff([]intent.Alg{intent.AlgEd25519, intent.AlgECDSAP256SHA256}, algs); diff != "" {
		t.Errorf("signatures differ (-want +got):\n%s", diff)
	}
	shown := destroy().Describe() + want.Describe() + "signed with key " + f.Signatures[0].Key.ID().String() + "\nsigned with key " + f.Signatures[1].Key.ID().String() + "\n"
	if diff := cmp.Diff(shown, f.Describe()); diff != "" {
		t.Errorf("description differs (-want +got):\n%s", diff)
	}
}

func TestI4_FilesRoundTrip(t *testing.T) {
	t.Parallel()
	signers := make([]sign.Signer, intent.MaxSignatures)
	for i := range signers {
		signers[i] = newSigner(t)
	}
	ec, err := sign.New(rand.Reader, newECDSA(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	signers[0] = ec
	for _, n := range []int{0, 1, 2, intent.MaxSignatures} {
		f := signedBy(t, signers[:n]...)
		path := filepath.Join(t.TempDir(), "intent.json")
		if err := f.Save(path); err != nil {
			t.Fatal(err)
		}
		got, err := sign.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Request.Equal(f.Request) || !bytes.Equal(encoded(t, got), encoded(t, f)) || len(got.Signatures) != n {
			t.Errorf("%d signatures: read as %+v", n, got)
		}
		// White space is the only freedom.
		var compact bytes.Buffer
		if err := json.Compact(&compact, encoded(t, f)); err != nil {
			t.Fatal(err)
		}
		if _, err := sign.DecodeFile(compact.Bytes()); err != nil {
			t.Errorf("without white space: %v", err)
		}
		if _, err := sign.DecodeFile(append([]byte("\r\n\t "), encoded(t, f)...)); err != nil {
			t.Errorf("with white space: %v", err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
	}
	full := signedBy(t, signers...)
	if _, err := full.Countersign(t.Context(), newSigner(t), expected()); !errs.Is(err, errs.LimitReached) {
		t.Errorf("one signature more than the limit: %v", err)
	}
	longest := full
	longest.Intent.Preconditions = make([]intent.Precondition, intent.MaxPreconditions)
	for i := range longest.Intent.Preconditions {
		longest.Intent.Preconditions[i].Object = strings.Repeat("x", intent.MaxObject-2) + string([]byte{'0' + byte(i/8), '0' + byte(i%8)})
	}
	if longest.Request, err = intent.ParseRequest(intent.NewRequest(intent.ActDestroy).Bytes("b", make([]byte, intent.MaxRequest-34)).Canonical()); err != nil {
		t.Fatal(err)
	}
	longest.Intent.Request, longest.Signatures = longest.Request.Digest(), nil
	if b := encoded(t, longest); len(b)+intent.MaxSignatures*400 > sign.MaxFile {
		t.Errorf("the longest file has %d bytes and does not fit the limit", len(b))
	} else if _, err := sign.DecodeFile(b); err != nil {
		t.Errorf("longest: %v", err)
	}
}

func TestI4_OtherFilesAreRefused(t *testing.T) {
	t.Parallel()
	a, b := newSigner(t), newSigner(t)
	f := signedBy(t, a, b)
	good := string(encoded(t, f))
	swap := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in the file", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	// edit changes the decoded JSON and writes it in the same way.
	edit := func(change func(map[string]any, []any)) string {
		var m struct {
			Version    int    `json:"version"`
			Request    string `json:"request"`
			Intent     string `json:"intent"`
			Signatures []any  `json:"signatures"`
		}
		if err := json.Unmarshal([]byte(good), &m); err != nil {
			t.Fatal(err)
		}
		top := map[string]any{"request": m.Request, "intent": m.Intent}
		change(top, m.Signatures)
		sigs := top["signatures"]
		if sigs == nil {
			sigs = m.Signatures
		}
		type signature struct {
			Algorithm any `json:"algorithm"`
			PublicKey any `json:"public_key"`
			Signature any `json:"signature"`
		}
		var list []signature
		list2, ok := sigs.([]any)
		if !ok {
			t.Fatalf("%T", sigs)
		}
		for _, s := range list2 {
			e, ok := s.(map[string]any)
			if !ok {
				t.Fatalf("%T", s)
			}
			list = append(list, signature{e["algorithm"], e["public_key"], e["signature"]})
		}
		out, err := json.Marshal(struct {
			Version    int         `json:"version"`
			Request    any         `json:"request"`
			Intent     any         `json:"intent"`
			Signatures []signature `json:"signatures"`
		}{1, top["request"], top["intent"], list})
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if _, err := sign.DecodeFile([]byte(edit(func(map[string]any, []any) {}))); err != nil {
		t.Fatalf("the editor breaks the file, so this test proves nothing: %v", err)
	}
	text := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	other := signedBy(t, a)
	other.Intent.Nonce[0]++
	otherIntent, err := other.Intent.Encode()
	if err != nil {
		t.Fatal(err)
	}
	other.Intent.Act = intent.ActRekey
	otherAct, err := other.Intent.Encode()
	if err != nil {
		t.Fatal(err)
	}
	entry := func(sigs []any, i int) map[string]any {
		e, ok := sigs[i].(map[string]any)
		if !ok {
			t.Fatalf("%T", sigs[i])
		}
		return e
	}
	for name, file := range map[string]string{
		"nothing":              "",
		"null":                 "null",
		"an array":             "[]",
		"half of it":           good[:len(good)/2],
		"two files":            good + good,
		"something behind":     good + "x",
		"version 0":            swap(`"version": 1`, `"version": 0`),
		"version 2":            swap(`"version": 1`, `"version": 2`),
		"version 1.0":          swap(`"version": 1`, `"version": 1.0`),
		"version in text":      swap(`"version": 1`, `"version": "1"`),
		"no version":           swap(`"version": 1,`, ``),
		"version twice":        swap(`"version": 1`, `"version": 1, "version": 1`),
		"version twice, other": swap(`"version": 1`, `"version": 2, "version": 1`),
		"name in another case": swap(`"request"`, `"Request"`),
		"name in escapes":      swap(`"request"`, `"\u0072equest"`),
		"field more":           swap(`"version": 1`, `"version": 1, "comment": ""`),
		"request twice":        swap(`"intent"`, `"request": "", "intent"`),
		"other order":          strings.Replace(swap(`"version": 1,`, ``), "\n  ]\n}", "\n  ],\n  \"version\": 1\n}", 1),
		"field in a signature": swap(`"algorithm"`, `"person": "alice", "algorithm"`),
		"base64 in escapes":    swap(`"request": "A`, `"request": "\u0041`),
		"line end in base64":   swap(`"request": "A`, `"request": "\nA`),
		"base64url":            edit(func(m map[string]any, _ []any) { m["intent"] = base64.URLEncoding.EncodeToString(otherIntent) + "_" }),
		"loose bits of base64": edit(loosen(t)),
		"no request":           edit(func(m map[string]any, _ []any) { m["request"] = "" }),
		"null for a request":   edit(func(m map[string]any, _ []any) { m["request"] = nil }),
		"other request": edit(func(m map[string]any, _ []any) {
			m["request"] = text(intent.Destroy{Tenant: "acme"}.Request().Canonical())
		}),
		"request of no form": edit(func(m map[string]any, _ []any) { m["request"] = text([]byte("destroy it all")) }),
		"other intent":       edit(func(m map[string]any, _ []any) { m["intent"] = text(otherIntent) }),
		"other act":          edit(func(m map[string]any, _ []any) { m["intent"] = text(otherAct) }),
		"intent with a byte": edit(func(m map[string]any, _ []any) { m["intent"] = text(append(slices.Clone(otherIntent), 0)) }),
		"signatures exchanged": edit(func(_ map[string]any, s []any) {
			x, y := entry(s, 0), entry(s, 1)
			x["signature"], y["signature"] = y["signature"], x["signature"]
		}),
		"other order of keys":   edit(func(_ map[string]any, s []any) { slices.Reverse(s) }),
		"one key twice":         edit(func(_ map[string]any, s []any) { s[1] = s[0] }),
		"33 signatures":         edit(func(m map[string]any, s []any) { m["signatures"] = slices.Repeat(s[:1], intent.MaxSignatures+1) }),
		"empty signature":       edit(func(_ map[string]any, s []any) { entry(s, 0)["signature"] = "" }),
		"unknown algorithm":     edit(func(_ map[string]any, s []any) { entry(s, 0)["algorithm"] = "RSA" }),
		"unspecified algorithm": edit(func(_ map[string]any, s []any) { entry(s, 0)["algorithm"] = "unspecified" }),
		"algorithm of another":  edit(func(_ map[string]any, s []any) { entry(s, 0)["algorithm"] = "ECDSA_P256_SHA256" }),
		"key of small order":    edit(func(_ map[string]any, s []any) { entry(s, 0)["public_key"] = text(make([]byte, 32)) }),
		"null for signatures":   `{"version": 1, "request": "` + text(f.Request.Canonical()) + `", "intent": "` + text(must(f.Intent.Encode())) + `", "signatures": null}`,
		"no signatures field":   `{"version": 1, "request": "` + text(f.Request.Canonical()) + `", "intent": "` + text(must(f.Intent.Encode())) + `"}`,
	} {
		got, err := sign.DecodeFile([]byte(file))
		if !errs.Is(err, errs.InvalidArgument) || got.Request != nil || got.Signatures != nil {
			t.Errorf("%s: %v\n%s", name, err, file)
		}
	}
	if _, err := sign.DecodeFile([]byte(swap(`"version": 1`, `"version": 2, "stamps": []`))); err == nil || !strings.Contains(err.Error(), "has version 2") {
		t.Errorf("a later version is not named: %v", err)
	}
	if _, err := sign.DecodeFile(append([]byte(good), bytes.Repeat([]byte{' '}, sign.MaxFile)...)); !errs.Is(err, errs.TooLarge) {
		t.Errorf("too long: %v", err)
	}
	path := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(path, append([]byte(good), bytes.Repeat([]byte{' '}, sign.MaxFile)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sign.OpenFile(path); !errs.Is(err, errs.TooLarge) {
		t.Errorf("too long: %v", err)
	}
	if _, err := sign.OpenFile(filepath.Join(t.TempDir(), "none")); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no file: %v", err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// loosen sets bits of the last base64 digit of a signature that mean nothing.
func loosen(t *testing.T) func(map[string]any, []any) {
	t.Helper()
	return func(_ map[string]any, sigs []any) {
		e, ok := sigs[0].(map[string]any)
		if !ok {
			t.Fatalf("%T", sigs[0])
		}
		s, ok := e["signature"].(string) // 64 bytes end in "x==", of which 4 bits count
		if !ok || !strings.HasSuffix(s, "==") {
			t.Fatalf("signature %v", e["signature"])
		}
		const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		last := strings.IndexByte(digits, s[len(s)-3])
		e["signature"] = s[:len(s)-3] + digits[last+1:last+2] + "=="
	}
}

// What is not whole has no form either.
func TestI4_FilesThatAreNotWholeAreNotWritten(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sign.File){
		"no request":      func(f *sign.File) { f.Request = nil },
		"other request":   func(f *sign.File) { f.Request = intent.Destroy{Tenant: "acme"}.Request() },
		"unreadable":      func(f *sign.File) { f.Request = intent.NewRequest(intent.ActDestroy).Text("", "") },
		"other act":       func(f *sign.File) { f.Intent.Act, f.Signatures = intent.ActRekey, nil },
		"no nonce":        func(f *sign.File) { f.Intent.Nonce = intent.Nonce{} },
		"other nonce":     func(f *sign.File) { f.Intent.Nonce[0]++ },
		"key twice":       func(f *sign.File) { f.Signatures = slices.Repeat(f.Signatures[:1], 2) },
		"wrong order":     func(f *sign.File) { slices.Reverse(f.Signatures) },
		"zero key":        func(f *sign.File) { f.Signatures[0].Key = intent.PublicKey{} },
		"wrong signature": func(f *sign.File) { f.Signatures[0].Sig = f.Signatures[1].Sig },
		"too many":        func(f *sign.File) { f.Signatures = slices.Repeat(f.Signatures, 17) },
	} {
		f := signedBy(t, newSigner(t), newSigner(t))
		change(&f)
		path := filepath.Join(t.TempDir(), "intent.json")
		if err := f.Save(path); err == nil {
			t.Errorf("%s: written", name)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: there is a file", name)
		}
		if _, err := f.Countersign(t.Context(), newSigner(t), expected()); err == nil {
			t.Errorf("%s: countersigned", name)
		}
		if _, err := sign.Merge(f); err == nil {
			t.Errorf("%s: merged", name)
		}
		if _, err := sign.Merge(signedBy(t), f); err == nil {
			t.Errorf("%s: merged into another", name)
		}
	}
}

func TestOneKeySignsOnce(t *testing.T) {
	t.Parallel()
	a := &counting{Signer: newSigner(t)}
	f := signedBy(t, a)
	if _, err := f.Countersign(t.Context(), a, expected()); !errs.Is(err, errs.AlreadyExists) || a.asked != 1 {
		t.Errorf("signed %d times: %v", a.asked, err)
	}
}

func TestCountersigningLeavesTheFileAlone(t *testing.T) {
	t.Parallel()
	f := signedBy(t, newSigner(t), newSigner(t))
	f.Signatures = append(make([]sign.FileSignature, 0, 10), f.Signatures...)
	before := encoded(t, f)
	for range 5 {
		if _, err := f.Countersign(t.Context(), newSigner(t), expected()); err != nil {
			t.Fatal(err)
		}
	}
	f.Signed().Signatures[0].Sig[0] ^= 1
	if !bytes.Equal(before, encoded(t, f)) {
		t.Error("the file changed")
	}
}

func TestMergeIsTheUnionOfSignatures(t *testing.T) {
	t.Parallel()
	signers := []sign.Signer{newSigner(t), newSigner(t), newSigner(t), newSigner(t)}
	rapid.Check(t, func(rt *rapid.T) {
		first := signedBy(t, signers[0])
		var files []sign.File
		has := map[int]bool{}
		for range rapid.IntRange(1, 4).Draw(rt, "files") {
			f := first // each begins with a copy of the first signature, as proposals do
			has[0] = true
			for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(1, 3), 0, 3, rapid.ID[int]).Draw(rt, "signers") {
				var err error
				if f, err = f.Countersign(t.Context(), signers[i], expected()); err != nil {
					rt.Fatal(err)
				}
				has[i] = true
			}
			files = append(files, f)
		}
		var all []sign.Signer
		for i := range signers {
			if has[i] {
				all = append(all, signers[i])
			}
		}
		got, err := sign.Merge(files...)
		if err != nil {
			rt.Fatal(err)
		}
		if want := encoded(t, signedBy(t, all...)); !bytes.Equal(want, encoded(t, got)) {
			rt.Fatalf("merged to\n%swant\n%s", encoded(t, got), want)
		}
		files = rapid.Permutation(files).Draw(rt, "order")
		if again, err := sign.Merge(append(files, got)...); err != nil || !bytes.Equal(encoded(t, again), encoded(t, got)) {
			rt.Fatalf("another order: %v\n%s", err, encoded(t, again))
		}
	})
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	if _, err := sign.Merge(); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("nothing: %v", err)
	}
	// The same order, given twice, is two intents: each would be executed once.
	draft := func() sign.File {
		f, err := sign.Propose(t.Context(), newSigner(t), proposal(), now, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if _, err := sign.Merge(draft(), draft()); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "different intents") {
		t.Errorf("two intents: %v", err)
	}
	ec, err := sign.New(rand.Reader, newECDSA(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	a, b := signedBy(t, ec), signedBy(t, ec)
	if bytes.Equal(a.Signatures[0].Sig, b.Signatures[0].Sig) {
		t.Fatal("two ECDSA signatures are equal, so this test proves nothing")
	}
	if _, err := sign.Merge(a, b); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "of one key") {
		t.Errorf("two signatures of one key: %v", err)
	}
	full := signedBy(t)
	for range intent.MaxSignatures {
		if full, err = full.Countersign(t.Context(), newSigner(t), expected()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sign.Merge(full, signedBy(t, newSigner(t))); !errs.Is(err, errs.LimitReached) {
		t.Errorf("more than the limit: %v", err)
	}
}

func TestFilesAreDescribedWhole(t *testing.T) {
	t.Parallel()
	f := signedBy(t)
	if want := f.Request.Describe() + f.Intent.Describe() + "signed by nobody\n"; f.Describe() != want {
		t.Errorf("got\n%swant\n%s", f.Describe(), want)
	}
	for line := range strings.Lines(signedBy(t, newSigner(t)).Describe()) {
		if len(line) > 81 {
			t.Errorf("line of %d columns: %s", len(line)-1, line)
		}
	}
}

func FuzzDecodeFile(f *testing.F) {
	golden, err := os.ReadFile("testdata/signed-intent-v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(encoded(f, signedBy(f)))
	f.Add(bytes.Replace(golden, []byte(`"version": 1`), []byte(`"VERSION": 1`), 1))
	f.Add([]byte(`{"version":1,"request":"","intent":"","signatures":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := sign.DecodeFile(b)
		if err != nil {
			return
		}
		again, err := file.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var want, got bytes.Buffer
		if err := json.Compact(&want, again); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&got, b); err != nil || !bytes.Equal(want.Bytes(), got.Bytes()) { // I4
			t.Errorf("%s is read as %s", got.Bytes(), want.Bytes())
		}
		if file.Intent.Request != file.Request.Digest() {
			t.Error("the intent is over another request")
		}
		message, err := file.Intent.Message()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range file.Signatures {
			if !s.Key.Verify(message, s.Sig) {
				t.Error("a signature does not verify")
			}
		}
	})
}
