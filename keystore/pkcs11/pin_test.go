//go:build unix && !nopkcs11

package pkcs11_test

import (
	"os"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
)

// logins checks how often a PIN went to the token so far.
func (w *world) logins(want int) {
	w.Helper()
	if n, err := w.token.Logins(); err != nil || n != want {
		w.Errorf("%d log-ins, want %d (%v)", n, want, err)
	}
}

func TestI2_AWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	must(t, w.token.WritePIN("wrong-11"))
	for range 5 {
		err := w.p.Health(w.ctx, "")
		w.is(err, keystore.Misconfigured, "the token refuses the PIN")
		if strings.Contains(err.Error(), "wrong-11") {
			t.Errorf("the PIN stands in the error: %v", err)
		}
	}
	w.logins(1)
	// The same content, written again, is the same PIN.
	must(t, w.token.WritePIN("wrong-11"))
	w.is(w.p.Health(w.ctx, ""), keystore.Misconfigured, "the token refuses the PIN")
	w.logins(1)
	must(t, w.token.WritePIN("wrong-12"))
	w.is(w.p.Health(w.ctx, ""), keystore.Misconfigured, "the token refuses the PIN")
	w.logins(2)
	must(t, w.token.WritePIN(hsm.PIN))
	must(t, w.p.Health(w.ctx, ""))
	w.logins(3)
	must(t, w.token.WritePIN("wrong-11"))
	must(t, w.p.Health(w.ctx, "")) // the user is logged in
	w.logins(3)
	_, err := w.token.Break(hsm.Logout)
	must(t, err)
	w.is(w.p.Health(w.ctx, ""), keystore.Misconfigured, "the token refuses the PIN")
	w.logins(3)
}

// A PIN that was right and is changed at the token is tried once more, and
// another PIN in the file ends the matter.
func TestI2_APINThatIsChangedIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	must(t, w.p.Health(w.ctx, ""))
	must(t, w.token.ChangePIN(w.ctx, "another1"))
	_, err := w.token.Break(hsm.Logout)
	must(t, err)
	for range 4 {
		w.is(w.p.Health(w.ctx, ""), keystore.Misconfigured, "the token refuses the PIN")
	}
	w.logins(2)
	must(t, w.token.WritePIN("another1"))
	must(t, w.p.Health(w.ctx, ""))
	w.logins(3)
}

// A log-in that hangs may have counted as a wrong one.
func TestI2_ALogInWithoutAnAnswerIsNotRepeatedByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, map[string]string{"late": "300ms"})
	mend, err := w.token.Break(hsm.LoginHang)
	must(t, err)
	w.is(w.p.Health(w.ctx, ""), keystore.Unavailable, "did not come back")
	must(t, mend())
	for range 3 {
		w.is(w.p.Health(w.ctx, ""), keystore.Misconfigured, "did not say whether it takes the PIN")
	}
	w.logins(1)
	must(t, w.token.WritePIN(hsm.PIN))
	must(t, w.p.Health(w.ctx, ""))
	w.logins(2)
	// One that the token has taken before is known to be right.
	mend, err = w.token.Break(hsm.LoginHang)
	must(t, err)
	_, err = w.token.Break(hsm.Logout)
	must(t, err)
	w.is(w.p.Health(w.ctx, ""), keystore.Unavailable, "did not come back")
	must(t, mend())
	must(t, w.p.Health(w.ctx, ""))
}

// A token that fails at the log-in has not judged the PIN.
func TestI2_ALogInThatFailsIsRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	mend, err := w.token.Break(hsm.Login(0x30)) // CKR_DEVICE_ERROR
	must(t, err)
	for range 3 {
		w.is(w.p.Health(w.ctx, ""), keystore.Unavailable, "C_Login")
	}
	must(t, mend())
	must(t, w.p.Health(w.ctx, ""))
}

// openCryptoki's token locks the PIN after three wrong ones, and says before
// the last: that one is never used from here, whatever is in the file.
func TestI2_TheLastTryIsNotUsedAndALockedPINIsSaidToBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Product: hsm.OpenCryptoki, Faults: true}, nil)
	const incorrect, locked, lastTry, isLocked = 0xA0, 0xA4, 1 << 17, 1 << 18
	if ckr, err := w.token.TryPIN(w.ctx, "00000000", 2); err != nil || ckr != incorrect {
		t.Fatalf("two wrong PINs: CKR 0x%X, %v", ckr, err)
	}
	if flags, err := w.token.Flags(w.ctx); err != nil || flags&lastTry == 0 {
		t.Fatalf("flags 0x%X, %v", flags, err)
	}
	w.is(w.p.Health(w.ctx, ""), keystore.Misconfigured, "one try left")
	w.logins(0)
	if _, err := w.token.TryPIN(w.ctx, hsm.PIN, 1); err != nil { // by the vendor's tool
		t.Fatal(err)
	}
	must(t, w.p.Health(w.ctx, ""))
	w.logins(1)
	if ckr, err := w.token.TryPIN(w.ctx, "00000000", 4); err != nil || ckr != locked {
		t.Fatalf("four wrong PINs: CKR 0x%X, %v", ckr, err)
	}
	if flags, err := w.token.Flags(w.ctx); err != nil || flags&isLocked == 0 {
		t.Fatalf("flags 0x%X, %v", flags, err)
	}
	p := open(t, w.env(), w.token, nil)
	for range 3 {
		w.is(p.Health(w.ctx, ""), keystore.Misconfigured, "is locked")
	}
	w.logins(1)
	// Only the security officer helps.
	must(t, w.token.ChangePIN(w.ctx, "new-0001"))
	must(t, w.token.WritePIN("new-0001"))
	must(t, p.Health(w.ctx, ""))
}

func TestThePINFileIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		text    string
	}{
		"others may read":  {hsm.PIN, 0o604, "chmod 0400"},
		"group may read":   {hsm.PIN, 0o640, "mode 0640"},
		"others may write": {hsm.PIN, 0o602, "mode 0602"},
		"empty":            {"", 0o600, "one PIN on one line"},
		"only a line end":  {"\n", 0o600, "one PIN on one line"},
		"two lines":        {hsm.PIN + "\n" + hsm.PIN + "\n", 0o600, "one PIN on one line"},
		"a zero byte":      {hsm.PIN + "\x00", 0o600, "one PIN on one line"},
		"too long":         {strings.Repeat("1", 256), 0o600, "one PIN on one line"},
		"much too long":    {strings.Repeat("1", 4096), 0o600, "longer than a PIN"},
	} {
		must(t, os.WriteFile(w.token.PINFile, []byte(c.content), 0o600))
		must(t, os.Chmod(w.token.PINFile, c.mode))
		err := w.p.Health(w.ctx, "")
		w.is(err, keystore.Misconfigured, c.text)
		if strings.Contains(err.Error(), hsm.PIN) {
			t.Errorf("%s: the PIN stands in the error: %v", name, err)
		}
		must(t, os.Chmod(w.token.PINFile, 0o600))
	}
	w.logins(0)
	for _, content := range []string{hsm.PIN, hsm.PIN + "\n", hsm.PIN + "\r\n"} {
		must(t, os.WriteFile(w.token.PINFile, []byte(content), 0o400))
		p := open(t, w.env(), w.token, nil)
		must(t, p.Health(w.ctx, ""))
	}
}
