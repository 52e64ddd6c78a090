package envelope

import (
	"io"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// wrappable says how long a secret of a purpose is. min is 0 for purposes under
// which no secret is wrapped.
func wrappable(p hierarchy.Purpose) (minLen, maxLen int) {
	switch p {
	case hierarchy.PurposeIVK, hierarchy.PurposeL2Inner, hierarchy.PurposeL21, hierarchy.PurposeL3:
		return KeySize, KeySize
	case hierarchy.PurposeDataKey, hierarchy.PurposeInternalSecret:
		return 1, MaxKey
	case hierarchy.PurposeUnspecified, hierarchy.PurposeL2Outer, hierarchy.PurposeL1, hierarchy.PurposeData:
	}
	return 0, 0
}

func checkWrap(b Binding) error {
	if lo, _ := wrappable(b.Purpose); lo == 0 {
		return misuse("no key is wrapped for the purpose " + b.Purpose.String())
	}
	return b.Check()
}

func checkKey(p hierarchy.Purpose, key memsec.Secret) error {
	n := key.Len()
	if n == 0 && !key.IsZero() {
		return nil // destroyed: the cipher reports it
	}
	if lo, hi := wrappable(p); n < lo || n > hi {
		return errs.Newf(errs.InvalidArgument, "a key of %d bytes; %s takes %d to %d", n, p, lo, hi)
	}
	return nil
}

// Wrap protects a key under its parent, as a session of one message. The purpose
// is any but the outer L2 layer (see [NestL2]), the customer key, and data. The
// blob is [Overhead] bytes longer than the key: keys of the hierarchy have
// [KeySize] bytes, data keys and internal secrets 1 to [MaxKey].
func Wrap(rand io.Reader, parent memsec.Secret, b Binding, key memsec.Secret) ([]byte, error) {
	if err := checkWrap(b); err != nil {
		return nil, err
	}
	if err := checkKey(b.Purpose, key); err != nil {
		return nil, err
	}
	a, p, err := newSession(rand, parent, b)
	if err != nil {
		return nil, err
	}
	defer a.Destroy()
	return sealSecret(rand, a, &p, b, key)
}

// Unwrap opens what [Wrap] made into protected memory of class c. What does not
// open is errs.DoesNotOpen, whatever the reason.
func Unwrap(parent memsec.Secret, b Binding, blob []byte, c memsec.Class) (memsec.Secret, error) {
	if err := checkWrap(b); err != nil {
		return memsec.Secret{}, err
	}
	if err := checkWrapped(b.Purpose, blob); err != nil {
		return memsec.Secret{}, err
	}
	h, err := selected(b, blob)
	if err != nil {
		return memsec.Secret{}, err
	}
	a, err := openSession(parent, b, h)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer a.Destroy()
	return openSecret(a, b, blob, c)
}

// checkWrapped refuses a wrong length before any work.
func checkWrapped(p hierarchy.Purpose, blob []byte) error {
	if lo, hi := wrappable(p); len(blob) < Overhead+lo || len(blob) > Overhead+hi {
		return errs.DoesNotOpen(ErrLength)
	}
	return nil
}

// wrapBytes and unwrapBytes are the outer layer of the nested L2 blob: its
// content is ciphertext and needs no protected memory.
func wrapBytes(rand io.Reader, parent memsec.Secret, b Binding, body []byte) ([]byte, error) {
	a, p, err := newSession(rand, parent, b)
	if err != nil {
		return nil, err
	}
	defer a.Destroy()
	return sealBytes(rand, a, nil, &p, b, body)
}

func unwrapBytes(parent memsec.Secret, b Binding, blob []byte) ([]byte, error) {
	h, err := selected(b, blob)
	if err != nil {
		return nil, err
	}
	a, err := openSession(parent, b, h)
	if err != nil {
		return nil, err
	}
	defer a.Destroy()
	return openBytes(a, nil, b, blob)
}
