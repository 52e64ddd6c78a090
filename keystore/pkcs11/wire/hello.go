package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Hello is what the node tells a new helper. It holds no secret: the PIN is
// read by the helper from its file and never crosses.
type Hello struct {
	Version   int    `json:"version"`
	Module    string `json:"module"` // the vendor's library, an absolute path
	Label     string `json:"label"`  // of the token; empty if Serial is given
	Serial    string `json:"serial"` // of the token; empty if Label is given
	PINFile   string `json:"pin_file"`
	Mechanism string `json:"mechanism"` // "auto", or the only one to use
	ImportKey string `json:"import_key"`
	Workers   int    `json:"workers"` // sessions at most
}

// Token is what the helper tells of the token that it found. All of it is public.
type Token struct {
	Version      int      `json:"version"`
	Label        string   `json:"label"`
	Serial       string   `json:"serial"`
	Manufacturer string   `json:"manufacturer"`
	Model        string   `json:"model"`
	Firmware     string   `json:"firmware"`
	Library      string   `json:"library"`
	Hardware     bool     `json:"hardware"`   // CKF_HW_SLOT
	Mechanisms   []string `json:"mechanisms"` // those of ours that the token has
}

// Key is what the helper tells of a key.
type Key struct {
	Versions   []string `json:"versions"` // CKA_ID in hexadecimal, the one that wraps last
	Mechanism  string   `json:"mechanism"`
	Enabled    bool     `json:"enabled"`
	Asymmetric bool     `json:"asymmetric"`
}

// DecodeHello reads a [Hello] and checks what has to be there.
func DecodeHello(data []byte) (Hello, error) {
	var h Hello
	if err := strict(data, &h); err != nil {
		return Hello{}, err
	}
	switch {
	case h.Version != Version:
		return Hello{}, fmt.Errorf("the node speaks version %d of the helper's protocol and this helper version %d; install both from one release", h.Version, Version)
	case h.Module == "" || h.PINFile == "" || (h.Label == "") == (h.Serial == ""):
		return Hello{}, errors.New("module, PIN file and either label or serial are needed")
	case h.Workers < 1 || h.Workers > MaxWorkers:
		return Hello{}, fmt.Errorf("%d workers, the limits are 1 and %d", h.Workers, MaxWorkers)
	}
	return h, nil
}

// MaxWorkers is how many sessions a helper opens at most. Four times 16 was
// past the point from which more sessions made a software token slower.
const MaxWorkers = 64

// DecodeToken reads a [Token] of this version.
func DecodeToken(data []byte) (Token, error) {
	var t Token
	if err := strict(data, &t); err != nil {
		return Token{}, err
	}
	if t.Version != Version {
		return Token{}, fmt.Errorf("the helper speaks version %d of its protocol and this node version %d; install both from one release", t.Version, Version)
	}
	return t, nil
}

// DecodeKey reads a [Key].
func DecodeKey(data []byte) (Key, error) {
	var k Key
	if err := strict(data, &k); err != nil {
		return Key{}, err
	}
	if len(k.Versions) == 0 {
		return Key{}, ErrMalformed
	}
	return k, nil
}

func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return ErrMalformed
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrMalformed
	}
	return nil
}
