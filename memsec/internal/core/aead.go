package core

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"unsafe"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec/internal/scope"
)

// Sizes of AES-256-GCM, in bytes.
const (
	NonceSize = 12
	Overhead  = 16

	// maxMessage is what GCM can encrypt under one nonce (SP 800-38D, 5.2.1.1).
	maxMessage = (1<<32 - 2) * 16
)

// NewAEAD makes AES-256-GCM under key.
//
// The expanded key lives on the Go heap for as long as the handle: the one
// place of this package where key bytes are outside of locked pages.
func (st *Store) NewAEAD(key Ref) (Ref, error) {
	epoch := st.epoch.Load()
	v, err := st.view(key)
	if err != nil {
		return 0, err
	}
	defer st.end(v)
	if len(v.b) != KeySize {
		return 0, errs.Newf(errs.InvalidArgument, "an AES-256 key of %d bytes", len(v.b))
	}
	var aead cipher.AEAD
	scope.Do(func() {
		var block cipher.Block
		if block, err = aes.NewCipher(v.b); err == nil {
			aead, err = cipher.NewGCM(block)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("set up AES-256-GCM: %w", err)
	}
	return st.publish(payload{aead: aead}, epoch)
}

// Seal appends the ciphertext and tag of plaintext to dst.
func (st *Store) Seal(ref Ref, dst, nonce, plaintext, aad []byte) ([]byte, error) {
	e, err := st.acquire(ref)
	if err != nil {
		return nil, err
	}
	defer st.release(ref, e)
	if err := checkSeal(dst, nonce, plaintext, aad); err != nil {
		return nil, err
	}
	return e.aead.Seal(dst, nonce, plaintext, aad), nil
}

// Open appends the plaintext of ciphertext to dst.
func (st *Store) Open(ref Ref, dst, nonce, ciphertext, aad []byte) ([]byte, error) {
	e, err := st.acquire(ref)
	if err != nil {
		return nil, err
	}
	defer st.release(ref, e)
	// A wrong length is one of the ways a ciphertext does not open; only what
	// the program itself does wrong is told apart.
	if len(nonce) != NonceSize || uint64(len(ciphertext)) > maxMessage+Overhead {
		return nil, errs.DoesNotOpen(nil)
	}
	if n := len(ciphertext) - Overhead; n > 0 && clash(dst, n, ciphertext, aad) {
		return nil, overlap()
	}
	out, err := e.aead.Open(dst, nonce, ciphertext, aad)
	if err != nil {
		return nil, errs.DoesNotOpen(err)
	}
	return out, nil
}

// SealSecret appends the ciphertext and tag of s to dst.
func (st *Store) SealSecret(ref Ref, dst, nonce []byte, s Ref, aad []byte) ([]byte, error) {
	e, err := st.acquire(ref)
	if err != nil {
		return nil, err
	}
	defer st.release(ref, e)
	v, err := st.view(s)
	if err != nil {
		return nil, err
	}
	defer st.end(v)
	if err := checkSeal(dst, nonce, v.b, aad); err != nil {
		return nil, err
	}
	return e.aead.Seal(dst, nonce, v.b, aad), nil
}

// OpenSecret opens ciphertext into protected memory.
func (st *Store) OpenSecret(ref Ref, nonce, ciphertext, aad []byte, c Class) (Ref, error) {
	checkClass(c)
	epoch := st.epoch.Load()
	e, err := st.acquire(ref)
	if err != nil {
		return 0, err
	}
	defer st.release(ref, e)
	n := len(ciphertext) - Overhead
	if len(nonce) != NonceSize || n < 1 || n > MaxLen {
		return 0, errs.DoesNotOpen(nil)
	}
	s, err := st.alloc(n, useFor(c))
	if err != nil {
		return 0, err
	}
	if _, err := e.aead.Open(s.Bytes()[:0], nonce, ciphertext, aad); err != nil {
		st.arena.Free(s)
		return 0, errs.DoesNotOpen(err)
	}
	return st.keep(s, c, epoch)
}

func checkSeal(dst, nonce, plaintext, aad []byte) error {
	if len(nonce) != NonceSize {
		return errs.Newf(errs.InvalidArgument, "a nonce of %d bytes; AES-GCM takes %d", len(nonce), NonceSize)
	}
	if uint64(len(plaintext)) > maxMessage {
		return errs.New(errs.TooLarge, "the plaintext is longer than AES-GCM can encrypt at once")
	}
	if clash(dst, len(plaintext)+Overhead, plaintext, aad) {
		return overlap()
	}
	return nil
}

func overlap() error {
	return errs.New(errs.InvalidArgument, "input and output buffers overlap in part")
}

// clash reports whether appending n bytes to dst would write over aad, or over
// src at another offset than its own. crypto/cipher panics then; a library
// under an RPC server refuses.
func clash(dst []byte, n int, src, aad []byte) bool {
	if cap(dst)-len(dst) < n {
		return false // a new array is made
	}
	out := dst[len(dst) : len(dst)+n]
	inPlace := len(src) > 0 && &out[0] == &src[0]
	return overlaps(out, aad) || (overlaps(out, src) && !inPlace)
}

func overlaps(x, y []byte) bool {
	if len(x) == 0 || len(y) == 0 {
		return false
	}
	first := func(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
	return first(x) < first(y)+uintptr(len(y)) && first(y) < first(x)+uintptr(len(x))
}
