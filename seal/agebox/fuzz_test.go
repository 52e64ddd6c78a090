package agebox_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

func FuzzParseRecipient(f *testing.F) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		id.Recipient().String(), "age1", "age1tag1q", "age1tagpq1q", "age1yubikey1qqq", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGFnZQ==", "ssh-rsa AAAA",
		"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg", "AGE-SECRET-KEY-1QQQ",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := agebox.ParseRecipient(s)
		if err != nil {
			if c := errs.Of(err); c != errs.InvalidArgument && c != errs.TooLarge || !errors.Is(err, agebox.ErrRecipient) {
				t.Errorf("code %s: %v", c, err)
			}
			return
		}
		if r.String() != s || r.Kind() == agebox.KindUnspecified || (r.Plugin() != "") != (r.Kind() == agebox.KindPlugin) {
			t.Errorf("%s of plugin %q", r.Kind(), r.Plugin())
		}
	})
}

func FuzzReadIdentities(f *testing.F) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		id.String(), "# comment\n\n" + id.String() + "\r\n", "AGE-PLUGIN-TEST-1QQQ", "age-encryption.org/v1\n-> scrypt AAAA 1\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAA==\n-----END OPENSSH PRIVATE KEY-----\n",
		"-----BEGIN AGE ENCRYPTED FILE-----\n", "#", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAA==\n-----END RSA PRIVATE KEY-----\n",
	} {
		f.Add([]byte(s))
	}
	// A passphrase is not given: its work is decided by the file.
	person := agebox.Person{Passphrase: func() ([]byte, error) { return nil, errors.New("nobody there") }}
	f.Fuzz(func(t *testing.T, file []byte) {
		ids, err := agebox.ReadIdentities(bytes.Clone(file), person)
		if err != nil {
			if errs.Of(err) != errs.InvalidConfig || !errors.Is(err, agebox.ErrIdentity) && !errors.Is(err, agebox.ErrPassphrase) {
				t.Errorf("%v", err)
			}
			return
		}
		defer ids.Destroy()
		if public, err := ids.Public(); err != nil || len(public) == 0 || len(public) > agebox.MaxIdentities {
			t.Errorf("%d identities, %v", len(public), err)
		}
	})
}

func FuzzDecrypt(f *testing.F) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	file, err := agebox.Encrypt(f.Context(), id.Recipient().String(), []byte(share))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file, uint16(len(share)))
	f.Add(file[:len(file)-1], uint16(len(share)))
	f.Add([]byte("age-encryption.org/v1\n-> X25519 AAAA\nAAAA\n--- AAAA\n"), uint16(1))
	f.Add([]byte("age-encryption.org/v1\n-> scrypt AAAA 30\nAAAA\n--- AAAA\n"), uint16(1))
	ids, err := agebox.ReadIdentities([]byte(id.String()), agebox.Person{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(ids.Destroy)
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		s, err := ids.Decrypt(b, int(size)%agebox.MaxPlaintext+1)
		if err == nil {
			s.Destroy()
			if int(size)%agebox.MaxPlaintext+1 != len(share) || !bytes.Equal(b, file) {
				t.Error("what nobody encrypted opened")
			}
			return
		}
		if errs.Of(err) != errs.ShareRefused {
			t.Errorf("%v", err)
		}
	})
}

// FuzzReadStanza: what a plugin answers is read as what writeStanza writes, or not at all.
func FuzzReadStanza(f *testing.F) {
	for _, seed := range []string{"-> done\n\n", "-> recipient-stanza 0 X25519 a\n" + strings.Repeat("A", 64) + "\nAAAA\n", "-> x\n" + strings.Repeat("A", 64) + "\n\n", "->\n\n", "-> a  b\n\n", "-> a\nAB\n", "-> a\n" + strings.Repeat("A", 65) + "\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, args, body, read, err := agebox.ReadStanza(b)
		if err != nil {
			return
		}
		if again := agebox.WriteStanza(kind, args, body); string(again) != string(b[:read]) {
			t.Errorf("%q is read, %q is written", b[:read], again)
		}
	})
}
