package sign_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newECDSA(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pkcs8(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func sec1(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func openSSH(t testing.TB, key crypto.PrivateKey, pass string) []byte {
	t.Helper()
	b, err := ssh.MarshalPrivateKey(key, "alice@example.com")
	if pass != "" {
		b, err = ssh.MarshalPrivateKeyWithPassphrase(key, "alice@example.com", []byte(pass))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(b)
}

// answers returns a Passphrase that answers pass, and a look at what became of it.
func answers(pass string) (ask sign.Passphrase, given *[]byte) {
	given = new([]byte)
	return func() ([]byte, error) { *given = []byte(pass); return *given, nil }, given
}

// signsAs reports what is wrong with s as the signer of key.
func signsAs(s sign.Signer, key crypto.PublicKey) error {
	want, err := sign.PublicKey(key)
	if err != nil {
		return err
	}
	if s.PublicKey() != want {
		return errors.New("it shows another public key")
	}
	sig, err := s.Sign(context.Background(), sample())
	if err != nil {
		return err
	}
	m, err := sample().Message()
	if err != nil {
		return err
	}
	if sig.Key != want.ID() || !want.Verify(m, sig.Sig) {
		return errors.New("its signature does not verify")
	}
	return nil
}

func TestKeyFilesOfEveryForm(t *testing.T) {
	t.Parallel()
	ed, ec := newEd25519(t), newECDSA(t, elliptic.P256())
	params := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	for name, tc := range map[string]struct {
		text []byte
		key  crypto.Signer
		pass string
	}{
		"PKCS#8, Ed25519":               {pkcs8(t, ed), ed, ""},
		"PKCS#8, P-256":                 {pkcs8(t, ec), ec, ""},
		"SEC1":                          {sec1(t, ec), ec, ""},
		"SEC1 as openssl ecparam":       {append([]byte(params), sec1(t, ec)...), ec, ""},
		"blank lines around it":         {slicesOf("\n\n", sec1(t, ec), "\n \n"), ec, ""},
		"OpenSSH, Ed25519":              {openSSH(t, ed, ""), ed, ""},
		"OpenSSH, P-256":                {openSSH(t, ec, ""), ec, ""},
		"OpenSSH, Ed25519 with phrase":  {openSSH(t, ed, "correct horse"), ed, "correct horse"},
		"OpenSSH, P-256 with a phrase":  {openSSH(t, ec, "correct horse"), ec, "correct horse"},
		"OpenSSH, phrase that is UTF-8": {openSSH(t, ed, "Zürich ☂"), ed, "Zürich ☂"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, tc.text, 0o600); err != nil {
				t.Fatal(err)
			}
			ask, given := answers(tc.pass)
			s, err := sign.OpenKey(path, rand.Reader, ask)
			if err != nil {
				t.Fatal(err)
			}
			if err := signsAs(s, tc.key.Public()); err != nil {
				t.Error(err)
			}
			if (tc.pass != "") != (*given != nil) {
				t.Errorf("asked for a passphrase: %v", *given != nil)
			}
			if bytes.ContainsFunc(*given, func(r rune) bool { return r != 0 }) {
				t.Error("the passphrase is still in memory")
			}
		})
	}
}

func slicesOf(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		fmt.Fprintf(&b, "%s", p)
	}
	return b.Bytes()
}

// Files of the real ssh-keygen, where it is installed. Its form with and without a
// passphrase is tested above with the library's writer in any case.
func TestKeyFilesOfSSHKeygen(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Log("ssh-keygen is not installed")
		return
	}
	for _, kind := range [][]string{{"-t", "ed25519"}, {"-t", "ecdsa", "-b", "256"}} {
		for _, pass := range []string{"", "correct horse"} {
			path := filepath.Join(t.TempDir(), "id")
			if out, err := exec.CommandContext(t.Context(), keygen, append(kind, "-q", "-N", pass, "-f", path)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			text, err := os.ReadFile(path + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
			if err != nil {
				t.Fatal(err)
			}
			raw, ok := pub.(ssh.CryptoPublicKey)
			if !ok {
				t.Fatalf("%T", pub)
			}
			ask, _ := answers(pass)
			s, err := sign.OpenKey(path, rand.Reader, ask)
			if err != nil {
				t.Fatalf("%v with passphrase %q: %v", kind, pass, err)
			}
			if err := signsAs(s, raw.CryptoPublicKey()); err != nil {
				t.Errorf("%v with passphrase %q: %v", kind, pass, err)
			}
		}
	}
}

func TestKeyFilesThatCannotBeUsedAreRefusedByName(t *testing.T) {
	t.Parallel()
	ed, other, ec := newEd25519(t), newEd25519(t), newECDSA(t, elliptic.P256())
	mixed := append(bytes.Clone(ed.Seed()), other[32:]...)
	legacy, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	right := func() ([]byte, error) { return []byte("right"), nil }
	for name, tc := range map[string]struct {
		text []byte
		mode os.FileMode
		ask  sign.Passphrase
		want string
	}{
		"group may read":          {pkcs8(t, ed), 0o640, nil, "has mode 0640"},
		"others may write":        {pkcs8(t, ed), 0o602, nil, "has mode 0602"},
		"RSA in PKCS#8":           {pkcs8(t, newRSA(t)), 0o600, nil, "Ed25519 or ECDSA P-256"},
		"RSA in OpenSSH's form":   {openSSH(t, newRSA(t), ""), 0o600, nil, "Ed25519 or ECDSA P-256"},
		"P-384 in SEC1":           {sec1(t, newECDSA(t, elliptic.P384())), 0o600, nil, "Ed25519 or ECDSA P-256"},
		"P-384 in PKCS#8":         {pkcs8(t, newECDSA(t, elliptic.P384())), 0o600, nil, "Ed25519 or ECDSA P-256"},
		"P-521 in OpenSSH's form": {openSSH(t, newECDSA(t, elliptic.P521()), ""), 0o600, nil, "Ed25519 or ECDSA P-256"},
		"encrypted PKCS#8":        {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: legacy}), 0o600, right, "in a form that is not read"},
		"encrypted as of 1993": {pem.EncodeToMemory(&pem.Block{
			Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: legacy,
		}), 0o600, right, "in a form that is not read"},
		"a public key":           {pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o600, nil, "no private key"},
		"two keys":               {append(pkcs8(t, ed), pkcs8(t, ec)...), 0o600, nil, "not one private key"},
		"something behind":       {append(pkcs8(t, ed), 'x'), 0o600, nil, "not one private key"},
		"parameters alone":       {[]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), 0o600, nil, "not one private key"},
		"no PEM":                 {legacy, 0o600, nil, "not one private key"},
		"empty":                  {nil, 0o600, nil, "not one private key"},
		"too long":               {bytes.Repeat([]byte{'\n'}, sign.MaxKeyFile+1), 0o600, nil, "more than 16384 bytes"},
		"garbage in PKCS#8":      {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: legacy[1:]}), 0o600, nil, "not a private key of the form"},
		"garbage in SEC1":        {pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: legacy[1:]}), 0o600, nil, "not a private key of the form"},
		"garbage in OpenSSH's":   {pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: legacy}), 0o600, nil, "not a private key of the form"},
		"nobody to ask":          {openSSH(t, ed, "right"), 0o600, nil, "nobody can be asked"},
		"wrong passphrase":       {openSSH(t, ed, "left"), 0o600, right, "the passphrase is wrong"},
		"empty passphrase":       {openSSH(t, ed, "left"), 0o600, func() ([]byte, error) { return nil, nil }, "the passphrase is wrong"},
		"interrupted":            {openSSH(t, ed, "left"), 0o600, func() ([]byte, error) { return nil, errors.New("interrupted") }, "interrupted"},
		"halves of two keys":     {openSSH(t, ed25519.PrivateKey(mixed), ""), 0o600, nil, "does not belong"},
		"halves behind a phrase": {openSSH(t, ed25519.PrivateKey(mixed), "right"), 0o600, right, "does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, tc.text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tc.mode); err != nil {
				t.Fatal(err)
			}
			s, err := sign.OpenKey(path, rand.Reader, tc.ask)
			if err == nil || s != nil {
				t.Fatal("it is accepted")
			}
			if !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), tc.want) || errs.From(err).Hint == "" {
				t.Errorf("got %q with hint %q, want INVALID_CONFIG and %q", err, errs.From(err).Hint, tc.want)
			}
			for line := range bytes.Lines(tc.text) { // I5
				if line = bytes.TrimSpace(line); len(line) > 20 && strings.Contains(err.Error(), string(line[:16])) {
					t.Errorf("the error quotes the file: %v", err)
				}
			}
		})
	}
	if _, err := sign.OpenKey(filepath.Join(t.TempDir(), "none"), rand.Reader, nil); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("no file: %v", err)
	}
	if _, err := sign.OpenKey(t.TempDir(), rand.Reader, nil); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("a directory: %v", err)
	}
}

// I5: neither verbs nor encoders reach the key in a signer.
func TestI5_SignersDoNotShowTheirKeys(t *testing.T) {
	t.Parallel()
	seed := []byte("sentinelsentinelsentinelsentinel")
	ed := ed25519.NewKeyFromSeed(seed)
	ec, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"ed25519": openSSH(t, ed, ""), "p256": sec1(t, ec)} {
		s, err := sign.ParseKey(text, rand.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		type holder struct {
			Public sign.Signer
			hidden any
		}
		var shown strings.Builder
		for _, v := range []any{s, &s, holder{s, s}, &holder{s, s}, []sign.Signer{s}, map[string]any{"s": s}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
				fmt.Fprintf(&shown, verb, v)
			}
			if j, err := json.Marshal(v); err == nil {
				shown.Write(j)
			}
		}
		for _, secret := range []string{
			"sentinel", hex.EncodeToString(seed[:8]), strings.ToUpper(hex.EncodeToString(seed[:8])), base64.StdEncoding.EncodeToString(seed[:6]),
			"115 101 110 116", "115, 101, 110, 116", "0x73, 0x65, 0x6e", new(big.Int).SetBytes(seed).String(),
		} {
			if strings.Contains(shown.String(), secret) {
				t.Errorf("%s: %q is shown", name, secret)
			}
		}
	}
}

func FuzzParseKey(f *testing.F) {
	ed, ec := newEd25519(f), newECDSA(f, elliptic.P256())
	for _, text := range [][]byte{pkcs8(f, ed), pkcs8(f, ec), sec1(f, ec), openSSH(f, ed, ""), openSSH(f, ec, ""), openSSH(f, ed, "right")} {
		f.Add(text)
		b, _ := pem.Decode(text)
		f.Add(b.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, text := range [][]byte{
			b,
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}),
			pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: b}),
			pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: b}),
		} {
			s, err := sign.ParseKey(text, rand.Reader, nil)
			if err != nil {
				continue
			}
			sig, err := s.Sign(t.Context(), sample())
			if err != nil {
				continue // the library took a key that cannot sign
			}
			m, err := sample().Message()
			if err != nil {
				t.Fatal(err)
			}
			if !s.PublicKey().Verify(m, sig.Sig) || sig.Key != s.PublicKey().ID() { // I1
				t.Errorf("a signature of %q does not verify", text)
			}
		}
	})
}
