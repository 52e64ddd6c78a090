//go:build unix

package pkcs11

import (
	"errors"
	"fmt"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
)

// CKR values that an operator has something to do about, of OASIS PKCS#11.
const (
	ckrPINLocked        = 0xA4
	ckrPINExpired       = 0xA3
	ckrTokenNotPresent  = 0xE0
	ckrMechanismInvalid = 0x70
	ckrAttributeValue   = 0x13
	ckrKeySizeRange     = 0x62
)

// classified is an answer that is not good, with what it means.
type classified struct {
	class keystore.Class
	text  string
	ckr   uint32
	stage wire.Stage
}

func (c *classified) Error() string {
	switch {
	case c.ckr != 0 && c.stage != 0:
		return fmt.Sprintf("%s (%s: CKR 0x%X)", c.text, c.stage, c.ckr)
	case c.ckr != 0:
		return fmt.Sprintf("%s (CKR 0x%X)", c.text, c.ckr)
	}
	return c.text
}

// classOf returns the class of an error of this package: what no answer says
// anything about is Unavailable, never Denied.
func classOf(err error) keystore.Class {
	if c, ok := errors.AsType[*classified](err); ok {
		return c.class
	}
	return keystore.Unavailable
}

// judge says what an answer means. nil: it is good, or StatusChanged. text is
// the payload of the answers that explain themselves.
func judge(a wire.Answer, text []byte) error {
	c := &classified{ckr: a.CKR, stage: a.Stage}
	switch a.Status {
	case wire.StatusOK, wire.StatusChanged:
		return nil
	case wire.StatusNotFound:
		c.class, c.text = keystore.Denied, "the token has no such key"
	case wire.StatusForbidden:
		c.class, c.text = keystore.Denied, "the attributes of the key forbid its use"
	case wire.StatusCorrupt:
		// Which check failed is for nobody who may have sent the blob.
		return &classified{class: keystore.Corrupt, text: "the blob does not open"}
	case wire.StatusUnfit:
		c.class = keystore.Misconfigured
		switch a.CKR {
		case ckrMechanismInvalid:
			c.text = "no mechanism that this keystore uses fits the token and the key"
		case ckrAttributeValue:
			c.text = "the key has no CKA_ID to know its versions by, or one that has no next"
		case ckrKeySizeRange:
			c.text = "the key is too short, or of another kind"
		default:
			c.text = "token, key and mechanism do not go together"
		}
	case wire.StatusLoggedOut:
		c.class, c.text = keystore.Unavailable, "the token has no user logged in"
	case wire.StatusStale:
		c.class, c.text = keystore.Unavailable, "the token, or the session with it, is gone"
	case wire.StatusBusy:
		c.class, c.text = keystore.Throttled, "the token has no session left; lower max_sessions"
	case wire.StatusPIN:
		c.class = keystore.Misconfigured
		switch a.CKR {
		case ckrPINLocked:
			c.text = "the PIN of the token's user is locked; its security officer has to set a new one"
		case ckrPINExpired:
			c.text = "the PIN of the token's user has expired"
		case 0:
			c.text = "the token has one try left for the PIN, and it is not used from here; log in with the right PIN by the vendor's tool, which resets the count"
		default:
			c.text = "the token refuses the PIN; it is not tried again until pin_file has another content"
		}
	case wire.StatusPINFile:
		c.class, c.text = keystore.Misconfigured, "the PIN file cannot be used: "+printable(text)
	case wire.StatusSetup:
		c.class, c.text = keystore.Misconfigured, printable(text)
		// The library is there and the token, or its network, is not.
		if a.CKR != 0 {
			c.class = keystore.Unavailable
		}
	case wire.StatusAmbiguous:
		c.class, c.text = keystore.Misconfigured, "two objects have this label and this CKA_ID, or there are too many"
	case wire.StatusFailed:
		c.class, c.text = keystore.Unavailable, "the token failed"
	default:
		c.class, c.text = keystore.Unavailable, "the helper gave an answer that has no meaning"
	}
	return c
}

// retire reports whether a helper that answered so is to be replaced.
func retire(a wire.Answer) bool {
	return a.Status == wire.StatusStale || a.Status == wire.StatusLoggedOut || a.Status == wire.StatusSetup
}

// printable bounds a text of the helper and takes control characters out.
func printable(text []byte) string {
	const most = 400
	out := []rune(string(text[:min(len(text), most)]))
	for i, r := range out {
		if r < ' ' || r == 0x7F {
			out[i] = ' '
		}
	}
	return string(out)
}
