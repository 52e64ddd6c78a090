package envelope

import (
	"errors"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Sizes, in bytes. They are parts of the durable format.
const (
	HeaderSize     = 78
	CommitmentSize = 32
	NonceSize      = 12
	TagSize        = 16

	// Overhead is how much longer a blob is than what it protects.
	Overhead = HeaderSize + TagSize
	// MaxPlaintext is the most data one Seal takes. GCM could take more; the
	// limit bounds what is authenticated before a byte is given out, and memory.
	MaxPlaintext = 1 << 20
	// KeySize is the size of every key of the hierarchy: MasterKey, IVK, K1, L2, L2.1, L3.
	KeySize = 32
	// MaxKey is the longest secret that can be wrapped as a data key or an internal secret.
	MaxKey = 4096
)

// Format version and suite. A new format gets a new number; old ones stay readable.
const (
	formatV1 = 1
	suiteV1  = 1 // AES-256-GCM, HKDF-Expand-SHA-256
)

// Offsets in the header.
const (
	offVersion    = 0
	offSuite      = 1
	offKeyVersion = 2
	offSession    = offKeyVersion + hierarchy.UIDSize
	offCommitment = offSession + len(SessionID{})
	offNonce      = offCommitment + CommitmentSize
)

// Why a blob did not open. They are for the audit record and reach no caller:
// every error that wraps one is errs.DoesNotOpen (I2).
var (
	ErrFormat     = errors.New("not an envelope: length, format version or suite")
	ErrKeyVersion = errors.New("header names another key version")
	ErrCommitment = errors.New("commitment differs: other key, key version, tenant, service, keyspace or purpose")
	ErrTag        = errors.New("tag differs: changed bytes, or other resource, context or subject")
	ErrLength     = errors.New("content has a length that its purpose does not allow")
)

// SessionID names one session of a parent key. It is random; an unknown one is
// not an error, because the session's key is derived from it.
type SessionID [16]byte

// Header is the clear part of a blob. Nothing in it is trusted: it selects the
// parent key and the session, and is authenticated as a whole.
type Header struct {
	KeyVersion hierarchy.UID
	Session    SessionID
	Commitment [CommitmentSize]byte
	Nonce      [NonceSize]byte
}

// ParseHeader reads the header of a blob of format version 1, suite 1. The blob
// must be long enough to hold a tag. The error is errs.DoesNotOpen.
func ParseHeader(blob []byte) (Header, error) {
	var h Header
	if len(blob) < Overhead || blob[offVersion] != formatV1 || blob[offSuite] != suiteV1 {
		return h, errs.DoesNotOpen(ErrFormat)
	}
	copy(h.KeyVersion[:], blob[offKeyVersion:])
	copy(h.Session[:], blob[offSession:])
	copy(h.Commitment[:], blob[offCommitment:])
	copy(h.Nonce[:], blob[offNonce:])
	return h, nil
}

// prefix is a header without its nonce: what all messages of a session share.
type prefix [offNonce]byte

func makePrefix(kv hierarchy.UID, s SessionID, commitment [CommitmentSize]byte) (p prefix) {
	p[offVersion], p[offSuite] = formatV1, suiteV1
	copy(p[offKeyVersion:], kv[:])
	copy(p[offSession:], s[:])
	copy(p[offCommitment:], commitment[:])
	return p
}
