package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/intent"
)

// memberKey reads the public key of a member. Its beginnings are compared and not parsed: every
// replica must take the same ones, of whichever release.
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
