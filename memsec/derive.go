package memsec

import "github.com/openkcm/krypton-cluster/memsec/internal/core"

// Expand derives a key of [KeySize] bytes: HKDF-Expand-SHA-256 with parent as
// the pseudorandom key. The caller makes info unambiguous (length prefixes) and
// unique for the purpose. The result is independent of parent's later Destroy.
func Expand(parent Secret, info []byte, c Class) (Secret, error) {
	if err := check(c); err != nil {
		return Secret{}, err
	}
	return wrap(core.Process().Expand(parent.ref, info, core.Class(c)))
}

// ExpandPublic is [Expand] for a result that is not secret, such as a key
// commitment. Never call it with info that an [Expand] uses as well.
func ExpandPublic(parent Secret, info []byte) ([32]byte, error) {
	return core.Process().ExpandPublic(parent.ref, info)
}

// MAC returns HMAC-SHA-256 over the concatenation of parts. The caller
// length-prefixes what could be split in more than one way.
func MAC(key Secret, parts ...[]byte) ([32]byte, error) {
	return core.Process().MAC(key.ref, parts...)
}
