package core

import (
	"crypto/sha256"
	"crypto/subtle"

	"github.com/openkcm/krypton-cluster/memsec/internal/arena"
	"github.com/openkcm/krypton-cluster/memsec/internal/scope"
)

// KeySize is the size of derived keys, of HMAC-SHA-256 and of AES-256 keys.
const KeySize = 32

// hmacSum writes HMAC-SHA-256(key, parts...) to out.
//
// It is written out instead of using crypto/hmac because that keeps both pads,
// which are the key xor a constant, on the heap. Here the pads and the digest
// are on this function's stack and are wiped; the digest's state after the
// inner pad is as good as the key for making tags, so it is reset too. The test
// compares with crypto/hmac.
func hmacSum(out *[32]byte, key []byte, parts ...[]byte) {
	var pad [sha256.BlockSize]byte
	if len(key) > len(pad) {
		k := sha256.Sum256(key)
		copy(pad[:], k[:])
		clear(k[:])
	} else {
		copy(pad[:], key)
	}
	for i := range pad {
		pad[i] ^= 0x36
	}
	h := sha256.New()
	h.Write(pad[:])
	for _, p := range parts {
		h.Write(p)
	}
	var inner [sha256.Size]byte
	h.Sum(inner[:0])
	h.Reset()
	for i := range pad {
		pad[i] ^= 0x36 ^ 0x5c
	}
	h.Write(pad[:])
	h.Write(inner[:])
	h.Sum(out[:0])
	h.Reset()
	clear(pad[:])
	clear(inner[:])
}

// firstBlock is the counter that HKDF-Expand appends for its first block.
var firstBlock = []byte{1}

// expand writes the first block of HKDF-Expand-SHA-256(prk, info) to out.
func expand(out *[32]byte, prk, info []byte) { hmacSum(out, prk, info, firstBlock) }

// Expand derives a secret of [KeySize] bytes.
func (st *Store) Expand(parent Ref, info []byte, c Class) (Ref, error) {
	checkClass(c)
	epoch := st.epoch.Load()
	v, err := st.view(parent)
	if err != nil {
		return 0, err
	}
	defer st.end(v)
	s, err := st.alloc(KeySize, useFor(c))
	if err != nil {
		return 0, err
	}
	scope.Do(func() { expand((*[KeySize]byte)(s.Bytes()), v.b, info) })
	return st.keep(s, c, epoch)
}

// ExpandPublic derives a value that is not secret.
func (st *Store) ExpandPublic(parent Ref, info []byte) (out [32]byte, err error) {
	v, err := st.view(parent)
	if err != nil {
		return out, err
	}
	defer st.end(v)
	scope.Do(func() { expand(&out, v.b, info) })
	return out, nil
}

// MAC returns HMAC-SHA-256 over the concatenation of parts.
func (st *Store) MAC(key Ref, parts ...[]byte) (out [32]byte, err error) {
	v, err := st.view(key)
	if err != nil {
		return out, err
	}
	defer st.end(v)
	scope.Do(func() { hmacSum(&out, v.b, parts...) })
	return out, nil
}

// Equal compares two secrets in constant time; different lengths are unequal.
func (st *Store) Equal(a, b Ref) (bool, error) {
	va, err := st.view(a)
	if err != nil {
		return false, err
	}
	defer st.end(va)
	vb, err := st.view(b)
	if err != nil {
		return false, err
	}
	defer st.end(vb)
	return subtle.ConstantTimeCompare(va.b, vb.b) == 1, nil
}

// Copy makes a second, independent secret.
func (st *Store) Copy(ref Ref, c Class) (Ref, error) {
	epoch := st.epoch.Load()
	v, err := st.view(ref)
	if err != nil {
		return 0, err
	}
	defer st.end(v)
	return st.copyIn(epoch, v.b, c)
}

// Reveal runs fn on a copy of the secret and wipes the copy. The copy is taken
// so that fn can neither change the secret nor keep it alive, nor hold up
// memguard while it waits for something.
func (st *Store) Reveal(ref Ref, fn func(b []byte) error) error {
	s, err := st.copyOut(ref)
	if err != nil {
		return err
	}
	defer st.arena.Free(s)
	scope.Do(func() { err = fn(s.Bytes()) })
	return err
}

func (st *Store) copyOut(ref Ref) (arena.Slot, error) {
	v, err := st.view(ref)
	if err != nil {
		return arena.Slot{}, err
	}
	if v.scratch != (arena.Slot{}) {
		s := v.scratch
		v.scratch = arena.Slot{}
		st.end(v)
		return s, nil
	}
	defer st.end(v)
	s, err := st.alloc(len(v.b), arena.Scratch)
	if err != nil {
		return arena.Slot{}, err
	}
	copy(s.Bytes(), v.b)
	return s, nil
}
