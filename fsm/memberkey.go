package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/intent"
)

// Beginnings of the two kinds of public key that a member has, in PKIX form. They are
// compared and not parsed: every replica must take the same ones, of whichever release.
//
//nolint:gochecknoglobals // Constants; Go has no constant slices.
var (
	spkiEd25519 = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}
	spkiP256    = []byte{
		0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
		0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
	}
)

func memberKey(spki []byte) (intent.PublicKey, bool) {
	alg := intent.AlgEd25519
	raw, ok := bytes.CutPrefix(spki, spkiEd25519)
	if !ok {
		alg = intent.AlgECDSAP256SHA256
		raw, ok = bytes.CutPrefix(spki, spkiP256)
	}
	key, err := intent.NewPublicKey(alg, raw)
	return key, ok && err == nil
}
