package agebox_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/agebox/ageboxtest"
)

func TestMain(m *testing.M) {
	// The test program is the plugin's program too: a link to it has that name.
	if strings.HasPrefix(filepath.Base(os.Args[0]), "age-plugin-") {
		ageboxtest.Main()
	}
	os.Exit(m.Run())
}

const share = "a share of thirty-three bytes.....+header"

// withPlugin puts the program age-plugin-test into the PATH.
func withPlugin(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "age-plugin-"+ageboxtest.Name)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

func read(t *testing.T, file string, p agebox.Person) *agebox.Identities {
	t.Helper()
	ids, err := agebox.ReadIdentities([]byte(file), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ids.Destroy)
	return ids
}

func encrypt(t *testing.T, recipient string) []byte {
	t.Helper()
	file, err := agebox.Encrypt(t.Context(), recipient, []byte(share))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// opens decrypts file and compares what comes out.
func opens(t *testing.T, ids *agebox.Identities, file []byte) error {
	t.Helper()
	s, err := ids.Decrypt(file, len(share))
	if err != nil {
		if !s.IsZero() {
			t.Error("a secret came with an error")
		}
		return err
	}
	defer s.Destroy()
	return reveal.With(s, func(b []byte) error {
		if string(b) != share {
			t.Error("other bytes came out")
		}
		return nil
	})
}

// key is a recipient and the identity file that opens what is encrypted to it.
type key struct {
	kind                agebox.Kind
	recipient, identity string
	pass                string
}

// sshKey returns a key as ssh-keygen writes it.
func sshKey(t *testing.T, private any, pass string) (recipient, identity string) {
	t.Helper()
	var block *pem.Block
	var err error
	if pass == "" {
		block, err = ssh.MarshalPrivateKey(private, "anna@example")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "anna@example", []byte(pass))
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))), string(pem.EncodeToMemory(block))
}

// made are the keys of [keys]; an RSA key of 4096 bits takes seconds.
var made struct {
	sync.Mutex
	keys map[string]key
}

// keys are a key of every kind that needs no plugin.
func keys(t *testing.T) map[string]key {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if made.keys == nil {
		made.keys = makeKeys(t)
	}
	return made.keys
}

func makeKeys(t *testing.T) map[string]key {
	t.Helper()
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]key{
		"hybrid": {agebox.KindHybrid, hybrid.Recipient().String(), "# created: today\n# public key: " + hybrid.Recipient().String() + "\r\n" + hybrid.String() + "\r\n", ""},
		"x25519": {agebox.KindX25519, x25519.Recipient().String(), x25519.String(), ""},
	}
	for name, k := range map[string]any{"ed25519": ed, "rsa": big} {
		kind := agebox.KindSSHEd25519
		if name == "rsa" {
			kind = agebox.KindSSHRSA
		}
		r, id := sshKey(t, k, "")
		out["ssh "+name] = key{kind, r, id, ""}
		r, id = sshKey(t, k, "open sesame")
		out["ssh "+name+" with a passphrase"] = key{kind, r, id, "open sesame"}
	}
	for armored, name := range map[bool]string{true: "hybrid in armor with a passphrase", false: "hybrid with a passphrase"} {
		file := encryptFile(t, hybrid.String()+"\n", "open sesame", armored)
		out[name] = key{agebox.KindHybrid, hybrid.Recipient().String(), file, "open sesame"}
	}
	return out
}

// encryptFile is what `age -p` makes of a file.
func encryptFile(t *testing.T, text, pass string, armored bool) string {
	t.Helper()
	to, err := age.NewScryptRecipient(pass)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(1)
	return ageFile(t, text, to, armored)
}

func ageFile(t *testing.T, text string, to age.Recipient, armored bool) string {
	t.Helper()
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(&out, to)
	if armored {
		out.Reset()
		w, err = age.Encrypt(a, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if armored {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func TestEveryKindOfKeyOpensWhatIsEncryptedToIt(t *testing.T) {
	t.Parallel()
	all := keys(t)
	for name, k := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			ids := read(t, k.identity, agebox.Person{Passphrase: func() ([]byte, error) { asked++; return []byte(k.pass), nil }})
			if want := min(len(k.pass), 1); asked != want {
				t.Errorf("the passphrase was asked for %d times, want %d", asked, want)
			}
			for range 2 { // the passphrase is not asked for again
				if err := opens(t, ids, encrypt(t, k.recipient)); err != nil {
					t.Error(err)
				}
			}
			if asked > 1 {
				t.Errorf("the passphrase was asked for %d times", asked)
			}
			public, err := ids.Public()
			if err != nil || len(public) != 1 || public[0] != (agebox.Public{Kind: k.kind, Recipient: k.recipient}) {
				t.Errorf("the identity is %+v, %v; want the %s recipient", public, err, k.kind)
			}
			r, err := agebox.ParseRecipient(k.recipient)
			if err != nil || r.Kind() != k.kind || r.String() != k.recipient {
				t.Errorf("the recipient is of kind %s, %v; want %s", r.Kind(), err, k.kind)
			}
			for other, o := range all {
				if o.recipient != k.recipient {
					if err := opens(t, ids, encrypt(t, o.recipient)); !errors.Is(err, agebox.ErrOtherIdentity) || errs.Of(err) != errs.ShareRefused {
						t.Errorf("what is encrypted to %s gave %v", other, err)
					}
				}
			}
		})
	}
}

// What the age program makes is opened, and it opens what is made here.
func TestFilesAreThoseOfAge(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := opens(t, read(t, id.String(), agebox.Person{}), []byte(ageFile(t, share, id.Recipient(), false))); err != nil {
		t.Error(err)
	}
	r, err := age.Decrypt(bytes.NewReader(encrypt(t, id.Recipient().String())), id)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil || out.String() != share {
		t.Errorf("age opens it to %q, %v", out.String(), err)
	}
}

func TestI1_AFileHasOneRecipientAndALimit(t *testing.T) {
	for name, k := range keys(t) {
		file := encrypt(t, k.recipient)
		if n := bytes.Count(file, []byte("\n-> ")); n != 1 || len(file) > agebox.MaxFile {
			t.Errorf("%s: %d stanzas and %d bytes", name, n, len(file))
		}
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, agebox.MaxPlaintext + 1} {
		if _, err := agebox.Encrypt(t.Context(), id.Recipient().String(), make([]byte, n)); err == nil {
			t.Errorf("%d bytes were encrypted", n)
		}
	}
	if _, err := agebox.Encrypt(t.Context(), id.Recipient().String(), make([]byte, agebox.MaxPlaintext)); err != nil {
		t.Error(err)
	}
}

func TestI2_NothingIsLeftInProtectedMemory(t *testing.T) {
	before := memsec.Report()
	for _, k := range keys(t) {
		ids, err := agebox.ReadIdentities([]byte(k.identity), agebox.Person{Passphrase: func() ([]byte, error) { return []byte(k.pass), nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := opens(t, ids, encrypt(t, k.recipient)); err != nil {
			t.Error(err)
		}
		if _, err := ids.Decrypt([]byte("nonsense"), 33); err == nil {
			t.Error("nonsense opened")
		}
		ids.Destroy()
		ids.Destroy()
		if err := opens(t, ids, encrypt(t, k.recipient)); !errors.Is(err, memsec.ErrDestroyed) {
			t.Errorf("destroyed identities gave %v", err)
		}
	}
	if after := memsec.Report(); after.Secrets != before.Secrets || after.UsedBytes != before.UsedBytes {
		t.Errorf("left behind: %+v, then %+v", before, after)
	}
}

func TestI2_WhatIsHandedOverIsWiped(t *testing.T) {
	t.Parallel()
	for name, k := range keys(t) {
		for _, file := range [][]byte{[]byte(k.identity), []byte("nonsense " + k.identity), append([]byte(k.identity), make([]byte, agebox.MaxIdentityFile)...)} {
			pass := []byte(k.pass)
			if ids, err := agebox.ReadIdentities(file, agebox.Person{Passphrase: func() ([]byte, error) { return pass, nil }}); err == nil {
				ids.Destroy()
				if !bytes.Equal(pass, make([]byte, len(pass))) {
					t.Errorf("%s: the passphrase is still there", name)
				}
			}
			if !bytes.Equal(file, make([]byte, len(file))) {
				t.Errorf("%s: the file is still there", name)
			}
		}
	}
	ids, err := agebox.NewIdentities(time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Destroy()
	for _, pass := range [][]byte{[]byte("open sesame"), []byte("short")} {
		_ = agebox.SaveQuickly(ids, new(bytes.Buffer), pass)
		if !bytes.Equal(pass, make([]byte, len(pass))) {
			t.Error("the passphrase of a new file is still there")
		}
	}
}

func TestI3_AFileOpensWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ids := read(t, id.String()+"\n"+hybrid.String(), agebox.Person{})
	file := encrypt(t, id.Recipient().String())
	for _, c := range []struct {
		file []byte
		step int
	}{{file, 3}, {encrypt(t, hybrid.Recipient().String()), 71}} {
		for n := 0; n < len(c.file); n += c.step {
			if err := opens(t, ids, c.file[:n]); !errors.Is(err, agebox.ErrFile) {
				t.Fatalf("the first %d of %d bytes gave %v", n, len(c.file), err)
			}
			bad := bytes.Clone(c.file)
			bad[n] ^= 1
			if err := opens(t, ids, bad); !errors.Is(err, agebox.ErrFile) && !errors.Is(err, agebox.ErrOtherIdentity) || errs.Of(err) != errs.ShareRefused {
				t.Fatalf("a flipped bit at %d of %d gave %v", n, len(c.file), err)
			}
		}
	}
	if err := opens(t, ids, append(bytes.Clone(file), 0)); !errors.Is(err, agebox.ErrFile) {
		t.Errorf("one byte more gave %v", err)
	}
	for _, n := range []int{1, len(share) - 1, len(share) + 1, agebox.MaxPlaintext} {
		if s, err := ids.Decrypt(file, n); !errors.Is(err, agebox.ErrFile) || !s.IsZero() {
			t.Errorf("asked for %d bytes: %v", n, err)
		}
	}
	for _, n := range []int{-1, 0, agebox.MaxPlaintext + 1} {
		if _, err := ids.Decrypt(file, n); err == nil {
			t.Errorf("asked for %d bytes and got them", n)
		}
	}
	if err := opens(t, ids, make([]byte, agebox.MaxFile+1)); !errors.Is(err, agebox.ErrFile) {
		t.Errorf("a file over the limit gave %v", err)
	}
}

func TestI4_NoErrorQuotesASecret(t *testing.T) {
	t.Parallel()
	const canary = "CANARY"
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, protected := sshKey(t, ed, "open sesame")
	_, otherType := sshKey(t, p256, "")
	says := func(pass string, err error) agebox.Person {
		return agebox.Person{Passphrase: func() ([]byte, error) { return []byte(pass), err }}
	}
	for name, c := range map[string]struct {
		file   string
		person agebox.Person
		want   error
		says   string
	}{
		"empty":                      {"", agebox.Person{}, agebox.ErrIdentity, "has no identity in it"},
		"comments only":              {"# " + canary + "\n\n", agebox.Person{}, agebox.ErrIdentity, "has no identity in it"},
		"nonsense":                   {canary, agebox.Person{}, agebox.ErrIdentity, "has a line that is no identity"},
		"damaged hybrid":             {strings.TrimSpace(hybrid.String()) + canary, agebox.Person{}, agebox.ErrIdentity, "is damaged"},
		"damaged x25519":             {"AGE-SECRET-KEY-1" + canary, agebox.Person{}, agebox.ErrIdentity, "is damaged"},
		"damaged plugin":             {"AGE-PLUGIN-" + canary, agebox.Person{}, agebox.ErrIdentity, "is damaged"},
		"recipient":                  {hybrid.Recipient().String(), agebox.Person{}, agebox.ErrIdentity, "holds a recipient"},
		"ssh recipient":              {"ssh-ed25519 " + canary, agebox.Person{}, agebox.ErrIdentity, "holds a recipient"},
		"other PEM":                  {"-----BEGIN " + canary + "-----\n" + canary + "\n-----END " + canary + "-----\n", agebox.Person{}, agebox.ErrIdentity, "is no private key of ssh-keygen"},
		"ecdsa":                      {otherType, agebox.Person{}, agebox.ErrIdentity, "of a type that age does not know"},
		"too long":                   {strings.Repeat(canary, agebox.MaxIdentityFile), agebox.Person{}, agebox.ErrIdentity, "the limit is 32768"},
		"too many keys":              {strings.Repeat(hybrid.String()+"\n", agebox.MaxIdentities+1), agebox.Person{}, agebox.ErrIdentity, "more than 32 identities"},
		"keys too long":              {strings.Repeat(canary, 1000), agebox.Person{}, agebox.ErrIdentity, "6000 bytes of keys"},
		"nobody to ask":              {protected, agebox.Person{}, agebox.ErrPassphrase, "nobody can be asked"},
		"nothing said":               {protected, says("", nil), agebox.ErrPassphrase, "was not given"},
		"no answer":                  {protected, says(canary, errors.New("no terminal")), agebox.ErrPassphrase, "was not given"},
		"endless passphrase":         {protected, says(strings.Repeat(canary, 1000), nil), agebox.ErrPassphrase, "more than 1024 bytes"},
		"wrong passphrase, ssh":      {protected, says(canary, nil), agebox.ErrPassphrase, "is wrong"},
		"wrong passphrase, age":      {encryptFile(t, hybrid.String(), "open sesame", true), says(canary, nil), agebox.ErrPassphrase, "is wrong"},
		"encrypted to a key":         {ageFile(t, hybrid.String(), hybrid.Recipient(), true), says(canary, nil), agebox.ErrIdentity, "not with a passphrase"},
		"encrypted nonsense":         {encryptFile(t, canary, "open sesame", true), says("open sesame", nil), agebox.ErrIdentity, "has a line that is no identity"},
		"encrypted nothing":          {encryptFile(t, "", "open sesame", false), says("open sesame", nil), agebox.ErrIdentity, "has no identity in it"},
		"encrypted too much":         {encryptFile(t, strings.Repeat("#\n", agebox.MaxIdentityFile), "open sesame", false)[:agebox.MaxIdentityFile], says("open sesame", nil), agebox.ErrIdentity, "is damaged"},
		"damaged encrypted identity": {"age-encryption.org/v1\n" + canary, says("open sesame", nil), agebox.ErrIdentity, "is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ids, err := agebox.ReadIdentities([]byte(c.file), c.person)
			if err == nil {
				ids.Destroy()
				t.Fatal("it was read")
			}
			e := errs.From(err)
			if !errors.Is(err, c.want) || e.Code != errs.InvalidConfig || !strings.Contains(e.Msg, c.says) || e.Hint == "" {
				t.Errorf("it gave %v (%s)", err, e.Hint)
			}
			if strings.Contains(err.Error()+e.Hint, canary) || strings.Contains(err.Error()+e.Hint, "AGE-SECRET-KEY") {
				t.Errorf("the error quotes the file: %v", err)
			}
		})
	}
}

func TestI5_ARecipientIsPublic(t *testing.T) {
	t.Parallel()
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	smallLine, _ := sshKey(t, small, "")
	ecLine, _ := sshKey(t, p256, "")
	line, private := sshKey(t, ed, "")
	_, plugin, err := ageboxtest.New(ageboxtest.Quiet)
	if err != nil {
		t.Fatal(err)
	}
	for text, says := range map[string]string{
		hybrid.String():                        "is a private key",
		strings.ToLower(hybrid.String()):       "is a private key",
		" " + hybrid.String():                  "is a private key",
		plugin:                                 "is a private key",
		private:                                "is a private key",
		"":                                     "is none that this version knows",
		"anna@example":                         "is none that this version knows",
		"github:anna":                          "is none that this version knows",
		"age1pq1qqq":                           "is damaged",
		hybrid.Recipient().String() + "q":      "is damaged",
		hybrid.Recipient().String() + "\n":     "has a character that no recipient has",
		"age1" + strings.Repeat("q", 58):       "is damaged",
		"age1tag1qqq":                          "is damaged",
		"age1tagpq1qqq":                        "is damaged",
		"age1../x1qqq":                         "is damaged",
		"age1test1qqq":                         "is damaged",
		"ssh-ed25519 AAAA":                     "is damaged",
		ecLine:                                 "is none that this version knows",
		smallLine:                              "is damaged",
		"ssh-x " + line:                        "is damaged",
		`ssh-ed25519 command="x" ` + line[12:]: "is damaged",
		"age1" + strings.Repeat("q", 5000):     "the limit is 4096",
	} {
		_, err := agebox.ParseRecipient(text)
		e := errs.From(err)
		if !errors.Is(err, agebox.ErrRecipient) || !strings.Contains(e.Msg, says) || e.Hint == "" {
			t.Errorf("%.40q gave %v", text, err)
		}
		if len(text) > 12 && strings.Contains(err.Error()+e.Hint, text[4:12]) {
			t.Errorf("%.40q is quoted: %v", text, err)
		}
		if _, err := agebox.Encrypt(t.Context(), text, []byte(share)); !errors.Is(err, agebox.ErrRecipient) {
			t.Errorf("%.40q: encrypting gave %v", text, err)
		}
	}
}

func TestWarningsNameWhatIsWorse(t *testing.T) {
	t.Parallel()
	for kind, want := range map[agebox.Kind]struct {
		name, says string
		pq         bool
	}{
		agebox.KindHybrid:     {"hybrid", "", true},
		agebox.KindTagHybrid:  {"tag-hybrid", "", true},
		agebox.KindX25519:     {"x25519", "a quantum computer", false},
		agebox.KindTag:        {"tag", "a quantum computer", false},
		agebox.KindPlugin:     {"plugin", "on every node", false},
		agebox.KindSSHEd25519: {"ssh-ed25519", "signs logins", false},
		agebox.KindSSHRSA:     {"ssh-rsa", "signs logins", false},
	} {
		if kind.String() != want.name || kind.PostQuantum() != want.pq || (kind.Warning() == "") != want.pq || !strings.Contains(kind.Warning(), want.says) {
			t.Errorf("%s: post-quantum %v, %q", kind, kind.PostQuantum(), kind.Warning())
		}
	}
}

func TestANewIdentityIsHybridAndCanBeKept(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	ids, err := agebox.NewIdentities(made)
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Destroy()
	public, err := ids.Public()
	if err != nil || len(public) != 1 || public[0].Kind != agebox.KindHybrid {
		t.Fatalf("it is %+v, %v", public, err)
	}
	file := encrypt(t, public[0].Recipient)
	var plain, secret bytes.Buffer
	if err := ids.Save(&plain); err != nil {
		t.Fatal(err)
	}
	if want := "# created: 2026-11-22T18:00:00Z\n# public key: " + public[0].Recipient + "\nAGE-SECRET-KEY-PQ-1"; !strings.HasPrefix(plain.String(), want) {
		t.Error("the file is not what age-keygen writes")
	}
	if err := agebox.SaveQuickly(ids, &secret, []byte("open sesame")); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(secret.String(), "AGE-SECRET") || !strings.HasPrefix(secret.String(), armor.Header) {
		t.Error("the encrypted file is not encrypted, or has no armor")
	}
	pass := func() ([]byte, error) { return []byte("open sesame"), nil }
	for name, text := range map[string]string{"plain": plain.String(), "encrypted": secret.String()} {
		if err := opens(t, read(t, text, agebox.Person{Passphrase: pass}), file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := opens(t, ids, file); err != nil {
		t.Error(err)
	}
	for _, short := range []string{"", "sesame", strings.Repeat("x", agebox.MaxPassphrase+1)} {
		var out bytes.Buffer
		if err := ids.SaveEncrypted(&out, []byte(short)); !errors.Is(err, agebox.ErrPassphrase) || out.Len() != 0 {
			t.Errorf("a passphrase of %d bytes gave %v and %d bytes", len(short), err, out.Len())
		}
	}
}

// TestWhatRefusesARecipientSaysWhatToDo, as docs/errors.md has it.
func TestWhatRefusesARecipientSaysWhatToDo(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for row, recipient := range map[string]string{
		"seal/recipient-private": id.String(),
		"seal/recipient-unknown": "anna@example.org",
		"seal/recipient-damaged": id.Recipient().String()[:40],
		"seal/recipient-long":    "age1pq1" + strings.Repeat("q", agebox.MaxRecipient),
	} {
		_, err := agebox.ParseRecipient(recipient)
		situationtest.Error(t, row, err, []byte(id.String()))
	}
}
