package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Fingerprint is the SHA-256 of a cluster's genesis: what every node pins and
// every share carries.
type Fingerprint [sha256.Size]byte

// fingerprintPrefix is how much of it stands on a share. Half of it is out of
// reach of anyone who would make a genesis that looks the same, and keeps the
// text short enough to read over a telephone.
const fingerprintPrefix = 16

const (
	// shareSize is a whole share: the value of the polynomials for the 32 bytes
	// of the MasterKey, and x.
	shareSize = memsec.KeySize + 1
	// shareVersion is the first byte of the binary form.
	shareVersion = 1
	// wireSize is the length of the binary form.
	wireSize = 1 + fingerprintPrefix + 2*hierarchy.UIDSize + 4 + 1 + shareSize
)

// Why a share is refused. What a caller sees has the code errs.ShareRefused
// and wraps one of these, so that each can be told apart with errors.Is.
var (
	ErrShareText       = errors.New("not the text of a share")
	ErrShareMistyped   = errors.New("a character of the share is wrong")
	ErrShareWrong      = errors.New("not the share that was given to its holder")
	ErrShareDuplicate  = errors.New("the share was given already")
	ErrShareKeyspace   = errors.New("share of another keyspace")
	ErrShareCluster    = errors.New("share of another cluster")
	ErrShareCeremony   = errors.New("share of another ceremony")
	ErrShareGeneration = errors.New("share of another MasterKey generation")
	ErrShareIndex      = errors.New("number of the share out of range")
	ErrShareSurplus    = errors.New("the group of the share has enough")
)

func refuseShare(cause error, msg, hint string) error {
	return errs.New(errs.ShareRefused, msg, errs.Hint("%s", hint), errs.Cause(cause))
}

// Share is one share of a MasterKey in protected memory, with what is printed
// beside it. Copies name the same bytes. Whoever got it owns it and destroys it.
type Share struct {
	cluster    [fingerprintPrefix]byte // zero until ForCluster
	keyspace   hierarchy.KeyspaceID
	ceremony   hierarchy.UID
	generation hierarchy.Generation
	index      uint8
	x          uint8
	secret     memsec.Secret
}

// Index returns the number of the share, from 1, as it is printed on it.
func (s Share) Index() int { return int(s.index) }

// Keyspace returns the keyspace that the share says it belongs to.
func (s Share) Keyspace() hierarchy.KeyspaceID { return s.keyspace }

// Ceremony returns the ceremony that the share says it comes from.
func (s Share) Ceremony() hierarchy.UID { return s.ceremony }

// Generation returns the MasterKey generation that the share says it is of.
func (s Share) Generation() hierarchy.Generation { return s.generation }

// ForCluster returns the share marked for the cluster of that fingerprint.
// Only then it can be printed or sent. The fingerprint covers the record, and
// the record the shares' hashes, so it is not known when a share is made.
func (s Share) ForCluster(f Fingerprint) Share {
	s.cluster = [fingerprintPrefix]byte(f[:])
	return s
}

// IsFor reports whether the share is marked for the cluster of that fingerprint.
func (s Share) IsFor(f Fingerprint) bool {
	return s.cluster != [fingerprintPrefix]byte{} && s.cluster == [fingerprintPrefix]byte(f[:])
}

// Claim returns the share marked for the cluster of that fingerprint, which the
// caller knows from elsewhere: one that was made when the cluster had no
// fingerprint yet is marked now, one that is marked for another cluster is
// refused with [ErrShareCluster] (I7). The caller keeps the share.
func (s Share) Claim(f Fingerprint) (Share, error) {
	if s.cluster != ([fingerprintPrefix]byte{}) && !s.IsFor(f) {
		return Share{}, refuseShare(ErrShareCluster, "the share is of another cluster: its fingerprint is not this one's", "check which cluster you are talking to")
	}
	return s.ForCluster(f), nil
}

// Destroy wipes the share. It is idempotent, also for the zero Share.
func (s Share) Destroy() {
	if !s.secret.IsZero() {
		s.secret.Destroy()
	}
}

// CheckShare refuses a share that is not the one that the ceremony gave to the
// holder of its number (I3). What it says about itself is compared first, so that
// the holder of a share of another keyspace or ceremony hears that, and not that
// the share is wrong. Every refusal has the code errs.ShareRefused. Which cluster
// the share is marked for is for the caller to compare.
func CheckShare(m *sealpb.Manifest, s Share) error {
	keyspace, ceremony := hierarchy.KeyspaceID(m.GetKeyspaceId()), hierarchy.UID(m.GetCeremonyId())
	switch n := len(m.GetHolders()); {
	case s.keyspace != keyspace:
		return refuseShare(ErrShareKeyspace, fmt.Sprintf("the share is of keyspace %s; this node is of %s", s.keyspace, keyspace), "check which cluster you are talking to")
	case s.generation != hierarchy.Generation(m.GetGeneration()):
		return refuseShare(ErrShareGeneration, fmt.Sprintf("the share is of MasterKey generation %d; this node needs %d", s.generation, m.GetGeneration()), "use the share from the last rekey")
	case s.ceremony != ceremony:
		return refuseShare(ErrShareCeremony, fmt.Sprintf("the share is of ceremony %s; this node needs one of %s", s.ceremony, ceremony), "use the share from the last ceremony")
	case s.Index() < 1 || s.Index() > n:
		return refuseShare(ErrShareIndex, fmt.Sprintf("the share has number %d; there are %d", s.index, n), "check that the share is whole")
	}
	h, err := s.hash()
	if err != nil {
		return fmt.Errorf("check share %d: %w", s.index, err)
	}
	if want := m.GetHolders()[s.index-1]; uint32(s.x) != want.GetX() || !bytes.Equal(h[:], want.GetShareHash()) {
		return refuseShare(ErrShareWrong, fmt.Sprintf("the share says that it is number %d and is not the one that was given out as such", s.index),
			"check with the others who held the ceremony; if nobody made a mistake, somebody made this share")
	}
	return nil
}

// hash is H_i: it recognises the whole share and binds it to its place. It is
// over the whole share at once; a hash of every byte would be a table of 256
// guesses for each.
func (s Share) hash() (Digest, error) {
	var d Digest
	err := reveal.With(s.secret, func(b []byte) error {
		var room [160]byte
		defer clear(room[:])
		e := append(encoding(room[:0]), label("krypton/share")...)
		e = e.part(s.keyspace[:]).part(s.ceremony[:])
		e = e.u32(4).u32(uint32(s.index)).part(b)
		d = e.digest()
		return nil
	})
	return d, err
}

// appendWire appends the binary form to dst, which has room for it, so that
// no growing leaves a copy behind.
func (s Share) appendWire(dst []byte) ([]byte, error) {
	if s.cluster == ([fingerprintPrefix]byte{}) {
		return nil, errors.New("share is not marked for a cluster")
	}
	dst = s.appendHead(dst)
	err := reveal.With(s.secret, func(b []byte) error {
		dst = append(dst, b...)
		return nil
	})
	return dst, err
}

// appendHead appends all of the binary form that stands before the whole share.
func (s Share) appendHead(dst []byte) []byte {
	dst = append(dst, shareVersion)
	dst = append(dst, s.cluster[:]...)
	dst = append(dst, s.keyspace[:]...)
	dst = append(dst, s.ceremony[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(s.generation)) //nolint:gosec // At most manifest.MaxGeneration.
	return append(dst, s.index)
}

func notShare(why string) error {
	return refuseShare(ErrShareText, "this is not a share: "+why, "check that it is whole and made by this version or an older one")
}

// parseWire reads the binary form of a share that is marked for a cluster, and
// wipes the share in b.
func parseWire(b []byte) (Share, error) {
	s, err := decodeWire(b)
	if err == nil && s.cluster == [fingerprintPrefix]byte{} {
		s.Destroy()
		return Share{}, notShare("it names no cluster")
	}
	return s, err
}

// decodeWire is parseWire for a share that may be marked for no cluster: one
// that was encrypted to its holder before the cluster had a fingerprint.
func decodeWire(b []byte) (Share, error) {
	defer clear(b)
	if len(b) != wireSize {
		return Share{}, notShare(fmt.Sprintf("it has %d bytes, want %d", len(b), wireSize))
	}
	if b[0] != shareVersion {
		return Share{}, notShare(fmt.Sprintf("it has format %d, this version reads %d", b[0], shareVersion))
	}
	s, rest := Share{}, b[1:]
	rest = rest[copy(s.cluster[:], rest):]
	rest = rest[copy(s.keyspace[:], rest):]
	rest = rest[copy(s.ceremony[:], rest):]
	s.generation = hierarchy.Generation(binary.BigEndian.Uint32(rest))
	s.index = rest[4]
	secret := rest[5:]
	s.x = secret[shareSize-1]
	switch {
	case s.keyspace.IsZero() || s.ceremony.IsZero() || s.generation == 0:
		return Share{}, notShare("it names no keyspace, ceremony or generation")
	case s.index == 0:
		return Share{}, notShare("it has no number")
	case s.x == 0:
		// At x = 0 the polynomial is the MasterKey, and combining with such a
		// share returns whatever it holds.
		return Share{}, notShare("it is at x = 0")
	}
	var err error
	if s.secret, err = memsec.Take(secret, memsec.Cold); err != nil {
		return Share{}, fmt.Errorf("keep share: %w", err)
	}
	return s, nil
}
