package blob

import (
	"encoding/binary"
	"errors"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// format is the first byte of every blob.
const format = 1

// Limits of the parts of a blob, in bytes. Lowering one breaks stored blobs.
// Together they stay under [keystore.MaxBlob].
const (
	// MaxIV is the longest IV: tokens that choose it themselves return 12 to 16.
	MaxIV = 64
	// MaxWrapped is the longest ciphertext of a keystore: AWS documents 6144.
	MaxWrapped = 8 << 10
)

const (
	sealOverhead = memsec.NonceSize + memsec.Overhead
	maxSealed    = sealOverhead + keystore.MaxSecret
)

// ErrDoesNotOpen is every failure that lies in the bytes of a blob or in the
// context it is opened with: damaged, of another format, of another key or AAD.
// Providers report it as [keystore.Corrupt].
var ErrDoesNotOpen = errors.New("the blob does not open")

// Mechanism is what wrapped. The numbers stand in stored blobs and are never
// reused. The zero value is invalid.
type Mechanism uint8

// The mechanisms.
const (
	// AESGCM encrypts the secret itself, with the context as additional data.
	AESGCM Mechanism = 1
	// AESKWP is AES key wrap with padding, RFC 5649; bound.
	AESKWP Mechanism = 2
	// AESKW is AES key wrap, RFC 3394; bound.
	AESKW Mechanism = 3
	// OAEPSHA256 is RSAES-OAEP with SHA-256 and MGF1-SHA-256; bound.
	OAEPSHA256 Mechanism = 4
	// OAEPSHA1 is RSAES-OAEP with SHA-1 and MGF1-SHA-1, for keystores that have
	// no other; bound. OAEP does not rest on the collision resistance that
	// SHA-1 lost.
	OAEPSHA1 Mechanism = 5
	// Native is a keystore's own self-describing ciphertext of the secret
	// itself, with the context as additional data.
	Native Mechanism = 6
)

// String returns the mechanism as documents, logs and errors write it.
func (m Mechanism) String() string {
	switch m {
	case AESGCM:
		return "AES-GCM"
	case AESKWP:
		return "AES-KWP"
	case AESKW:
		return "AES-KW"
	case OAEPSHA256:
		return "RSA-OAEP-256"
	case OAEPSHA1:
		return "RSA-OAEP"
	case Native:
		return "native"
	}
	return "unspecified"
}

// Bound reports whether the mechanism has no additional data, so that a secret
// goes through [Bind].
func (m Mechanism) Bound() bool {
	switch m {
	case AESKWP, AESKW, OAEPSHA256, OAEPSHA1:
		return true
	case AESGCM, Native:
	}
	return false
}

func (m Mechanism) known() bool { return m >= AESGCM && m <= Native }

// Blob is a parsed blob. All of it is public. The zero value is invalid.
type Blob struct {
	Mechanism  Mechanism
	KeyVersion keystore.KeyVersion // at most [keystore.MaxKeyVersion] bytes
	IV         []byte              // of [AESGCM], 1 to [MaxIV] bytes; else empty
	Wrapped    []byte              // the keystore's ciphertext, 1 to [MaxWrapped] bytes
	Sealed     []byte              // of bound mechanisms: nonce, ciphertext and tag of the secret; else empty
}

// check says whether b is one that [Blob.Encode] may write and [Parse] may return.
func (b Blob) check() bool {
	iv := len(b.IV) == 0
	if b.Mechanism == AESGCM {
		iv = len(b.IV) >= 1 && len(b.IV) <= MaxIV
	}
	sealed := len(b.Sealed) == 0
	if b.Mechanism.Bound() {
		sealed = len(b.Sealed) > sealOverhead && len(b.Sealed) <= maxSealed
	}
	return b.Mechanism.known() && iv && sealed && len(b.KeyVersion) <= keystore.MaxKeyVersion &&
		len(b.Wrapped) >= 1 && len(b.Wrapped) <= MaxWrapped
}

// Encode returns the bytes of b, at most [keystore.MaxBlob]. It fails when a
// part is outside its limits: a keystore answered with something that could
// not be stored.
func (b Blob) Encode() ([]byte, error) {
	if !b.check() {
		return nil, errors.New("a part of the blob is outside its limits")
	}
	out := make([]byte, 0, 8+len(b.KeyVersion)+len(b.IV)+len(b.Wrapped)+len(b.Sealed))
	out = append(out, format, byte(b.Mechanism))
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.KeyVersion))) //nolint:gosec // Checked above.
	out = append(out, b.KeyVersion...)
	out = append(out, byte(len(b.IV))) //nolint:gosec // Checked above.
	out = append(out, b.IV...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.Wrapped))) //nolint:gosec // Checked above.
	out = append(out, b.Wrapped...)
	out = append(out, byte(len(b.Sealed))) //nolint:gosec // Checked above.
	return append(out, b.Sealed...), nil
}

// Parse reads what [Blob.Encode] wrote, or fails with [ErrDoesNotOpen]. The
// parts of the result are copies.
func Parse(data []byte) (Blob, error) {
	r := reader{rest: data, ok: len(data) <= keystore.MaxBlob}
	if r.u8() != format {
		return Blob{}, ErrDoesNotOpen
	}
	b := Blob{Mechanism: Mechanism(r.u8())} //nolint:gosec // Of one byte.
	b.KeyVersion = keystore.KeyVersion(r.take(r.u16()))
	b.IV = r.bytes(r.u8())
	b.Wrapped = r.bytes(r.u16())
	b.Sealed = r.bytes(r.u8())
	if !r.ok || len(r.rest) != 0 || !b.check() {
		return Blob{}, ErrDoesNotOpen
	}
	return b, nil
}

// reader takes parts off rest; after the first that is missing ok is false.
type reader struct {
	rest []byte
	ok   bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || n > len(r.rest) {
		r.ok = false
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) bytes(n int) []byte { return append([]byte(nil), r.take(n)...) }

func (r *reader) u8() int {
	if b := r.take(1); len(b) == 1 {
		return int(b[0])
	}
	return 0
}

func (r *reader) u16() int {
	if b := r.take(2); len(b) == 2 {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}
