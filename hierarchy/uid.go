package hierarchy

import (
	"encoding/hex"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// UIDSize is the size in bytes of every random identity.
const UIDSize = 16

// UID is the random identity of a tenant, a service, a key version, an IVK
// version or an internal secret. It is drawn once and never used again, also
// after the object is gone: that is what makes an old ciphertext of a deleted
// object useless under a new object of the same name. Names belong to the API;
// headers and associated data carry UIDs. The zero UID is invalid and stands
// for "none" where a binding has no such part.
type UID [UIDSize]byte

// KeyspaceID is the identity of everything that was ever wrapped under one
// line of MasterKeys. It is made at init, never changes, also not over
// restore, and is part of every associated data. The zero value is invalid.
type KeyspaceID [UIDSize]byte

// ClusterID is the identity of one running instance of a keyspace: new at init
// and at every restore into a new cluster. It names certificates, leases and
// ceremonies and is in no associated data. The zero value is invalid.
type ClusterID [UIDSize]byte

// Generation counts the MasterKeys of one keyspace, from 1. Zero is invalid.
type Generation uint64

// NewUID draws a UID from rand.
func NewUID(rand io.Reader) (UID, error) {
	b, err := draw(rand, "uid")
	return UID(b), err
}

// NewKeyspaceID draws a KeyspaceID from rand.
func NewKeyspaceID(rand io.Reader) (KeyspaceID, error) {
	b, err := draw(rand, "keyspace id")
	return KeyspaceID(b), err
}

// NewClusterID draws a ClusterID from rand.
func NewClusterID(rand io.Reader) (ClusterID, error) {
	b, err := draw(rand, "cluster id")
	return ClusterID(b), err
}

// draw refuses sixteen zero bytes: from a working generator they never come,
// from a broken one they would be the identity that means "none".
func draw(rand io.Reader, what string) ([UIDSize]byte, error) {
	var b [UIDSize]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return [UIDSize]byte{}, fmt.Errorf("draw %s: %w", what, err)
	}
	if b == ([UIDSize]byte{}) {
		return b, fmt.Errorf("draw %s: the random source returned only zeros", what)
	}
	return b, nil
}

// ParseUID reads 32 lower-case hexadecimal digits. Upper case is refused: one
// identity has one spelling, so that texts compare as the identities do.
func ParseUID(s string) (UID, error) {
	b, err := parse16(s, "uid")
	return UID(b), err
}

// ParseKeyspaceID reads 32 lower-case hexadecimal digits.
func ParseKeyspaceID(s string) (KeyspaceID, error) {
	b, err := parse16(s, "keyspace id")
	return KeyspaceID(b), err
}

// ParseClusterID reads 32 lower-case hexadecimal digits.
func ParseClusterID(s string) (ClusterID, error) {
	b, err := parse16(s, "cluster id")
	return ClusterID(b), err
}

// UIDFromBytes reads a UID from exactly 16 bytes that are not all zero.
func UIDFromBytes(b []byte) (UID, error) {
	a, err := from16(b, "uid")
	return UID(a), err
}

// KeyspaceIDFromBytes reads a KeyspaceID from exactly 16 bytes that are not all zero.
func KeyspaceIDFromBytes(b []byte) (KeyspaceID, error) {
	a, err := from16(b, "keyspace id")
	return KeyspaceID(a), err
}

// ClusterIDFromBytes reads a ClusterID from exactly 16 bytes that are not all zero.
func ClusterIDFromBytes(b []byte) (ClusterID, error) {
	a, err := from16(b, "cluster id")
	return ClusterID(a), err
}

func parse16(s, what string) (out [UIDSize]byte, err error) {
	bad := errs.New(errs.InvalidArgument, what+" is not 32 lower-case hexadecimal digits")
	if len(s) != 2*UIDSize {
		return out, bad
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return out, bad
		}
	}
	var b [UIDSize]byte
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return out, bad
	}
	return from16(b[:], what)
}

func from16(b []byte, what string) (out [UIDSize]byte, err error) {
	if len(b) != UIDSize {
		return out, errs.Newf(errs.InvalidArgument, "%s has %d bytes, want %d", what, len(b), UIDSize)
	}
	copy(out[:], b)
	if out == ([UIDSize]byte{}) {
		return out, errs.New(errs.InvalidArgument, what+" is zero")
	}
	return out, nil
}

// IsZero reports whether u is the invalid UID.
func (u UID) IsZero() bool { return u == UID{} }

// IsZero reports whether k is the invalid KeyspaceID.
func (k KeyspaceID) IsZero() bool { return k == KeyspaceID{} }

// IsZero reports whether c is the invalid ClusterID.
func (c ClusterID) IsZero() bool { return c == ClusterID{} }

// String returns 32 lower-case hexadecimal digits.
func (u UID) String() string { return hex.EncodeToString(u[:]) }

// String returns 32 lower-case hexadecimal digits.
func (k KeyspaceID) String() string { return hex.EncodeToString(k[:]) }

// String returns 32 lower-case hexadecimal digits.
func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// generationPrefix marks the key-version id of a MasterKey. Random UIDs never
// hit it (2^-64 each), and if one did, purpose and parent key still differ.
const generationPrefix = "mk-gen\x00\x00"

// VersionUID returns the key-version id that stands for MasterKey generation g
// in headers and bindings: "mk-gen", two zero bytes, and g as 8 bytes big
// endian. A MasterKey needs no random identity: (keyspace, generation) is one.
func (g Generation) VersionUID() UID {
	var u UID
	copy(u[:8], generationPrefix)
	putUint64(u[8:], uint64(g))
	return u
}
