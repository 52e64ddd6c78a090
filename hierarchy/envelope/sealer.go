package envelope

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// The end of a session (I4). With 2^20 random nonces of 96 bits a collision has
// probability 2^-57; 64 GiB is 2^32 blocks, far from what weakens GCM; and a
// minute bounds what a copied session key can seal.
const (
	MaxSessionMessages = 1 << 20
	MaxSessionBytes    = 64 << 30
	MaxSessionAge      = 60 * time.Second
)

// ErrSessionEnded says that a session reached a limit or was retired. Nothing
// was sealed. Make a new [Sealer] and seal again.
var ErrSessionEnded = errors.New("session ended")

// Limits end a session earlier than the maxima. Zero fields mean the maximum;
// larger or negative values are refused.
type Limits struct {
	Messages uint64        // at most MaxSessionMessages
	Bytes    uint64        // of plaintext, at most MaxSessionBytes
	Age      time.Duration // at most MaxSessionAge
}

func (l Limits) orMax() (Limits, error) {
	if l.Messages > MaxSessionMessages || l.Bytes > MaxSessionBytes || l.Age > MaxSessionAge || l.Age < 0 {
		return l, misuse("session limits above the maxima")
	}
	if l.Messages == 0 {
		l.Messages = MaxSessionMessages
	}
	if l.Bytes == 0 {
		l.Bytes = MaxSessionBytes
	}
	if l.Age == 0 {
		l.Age = MaxSessionAge
	}
	return l, nil
}

// Sealer is one session under an L3 version: it seals data, or wraps data keys.
// Every node makes its own; nothing about a session is stored or shared. It is
// safe for concurrent use. Make one with [NewSealer] and end it with [Sealer.Retire].
type Sealer struct {
	purpose hierarchy.Purpose
	scope   Scope
	limits  Limits
	rand    io.Reader
	clk     clock.Clock
	start   time.Time
	prefix  prefix
	aead    memsec.AEAD

	retired  atomic.Bool
	messages atomic.Uint64
	bytes    atomic.Uint64
}

// NewSealer begins a session of parent, the L3 version that scope names, for
// PurposeDataKey or PurposeData. The parent may be destroyed afterwards.
//
// rand is read for every nonce, concurrently.
func NewSealer(rand io.Reader, clk clock.Clock, parent memsec.Secret, p hierarchy.Purpose, scope Scope, limits Limits) (*Sealer, error) {
	if p != hierarchy.PurposeDataKey && p != hierarchy.PurposeData {
		return nil, misuse("no sessions for the purpose " + p.String())
	}
	limits, err := limits.orMax()
	if err != nil {
		return nil, err
	}
	b := scope.Bind(p, "", hierarchy.EncryptionContext{})
	if err := b.Check(); err != nil {
		return nil, err
	}
	s := &Sealer{purpose: p, scope: scope, limits: limits, rand: rand, clk: clk, start: clk.Now()}
	if s.aead, s.prefix, err = newSession(rand, parent, b); err != nil {
		return nil, err
	}
	return s, nil
}

// Session returns the id of the session.
func (s *Sealer) Session() SessionID { return SessionID(s.prefix[offSession:offCommitment]) }

// Seal appends the envelope of plaintext to dst: [Overhead] bytes more than
// plaintext, which has 0 to [MaxPlaintext] bytes and must not overlap the room
// behind dst. b is [Scope.Bind] with PurposeData of the session's scope. With
// enough room behind dst, Seal allocates nothing that grows with its input.
//
// The error is [ErrSessionEnded] when the session cannot seal any more.
func (s *Sealer) Seal(dst []byte, b Binding, plaintext []byte) ([]byte, error) {
	if len(plaintext) > MaxPlaintext {
		return nil, errs.Newf(errs.TooLarge, "plaintext of %d bytes, at most %d are allowed at once", len(plaintext), MaxPlaintext)
	}
	if err := s.admit(hierarchy.PurposeData, b, len(plaintext)); err != nil {
		return nil, err
	}
	out, err := sealBytes(s.rand, s.aead, dst, &s.prefix, b, plaintext)
	return out, s.ended(err)
}

// WrapSecret returns the envelope of a data key of 1 to [MaxKey] bytes. b is
// [Scope.Bind] with PurposeDataKey of the session's scope.
//
// The error is [ErrSessionEnded] when the session cannot seal any more.
func (s *Sealer) WrapSecret(b Binding, key memsec.Secret) ([]byte, error) {
	if err := checkKey(hierarchy.PurposeDataKey, key); err != nil {
		return nil, err
	}
	n := key.Len()
	if err := s.admit(hierarchy.PurposeDataKey, b, n); err != nil {
		return nil, err
	}
	out, err := sealSecret(s.rand, s.aead, &s.prefix, b, key)
	if isDestroyed(err) && key.Len() == 0 {
		return nil, err // the data key is gone, not the session
	}
	return out, s.ended(err)
}

// Expired reports whether the session has ended, without sealing.
func (s *Sealer) Expired() bool {
	age := s.clk.Since(s.start)
	return s.retired.Load() || age < 0 || age >= s.limits.Age ||
		s.messages.Load() >= s.limits.Messages || s.bytes.Load() >= s.limits.Bytes
}

// Retire ends the session and wipes its key: at a lost lease, a suspended
// virtual machine, a state change of anything above. Seals that are running
// finish; later ones are [ErrSessionEnded]. It is idempotent.
func (s *Sealer) Retire() {
	s.retired.Store(true)
	s.aead.Destroy()
}

// admit counts a message before it is sealed (I4). What is counted and then
// fails stays counted: the limits are upper bounds.
func (s *Sealer) admit(p hierarchy.Purpose, b Binding, n int) error {
	if s.purpose != p || b.Purpose != p || scopeOf(b) != s.scope {
		return misuse("binding of another session")
	}
	if err := b.Check(); err != nil {
		return err
	}
	// A clock that runs backwards has no age to compare: the session ends.
	age := s.clk.Since(s.start)
	if s.retired.Load() || age < 0 || age >= s.limits.Age ||
		s.messages.Add(1) > s.limits.Messages || s.bytes.Add(uint64(n)) > s.limits.Bytes { //nolint:gosec // A length is not negative.
		s.Retire() // a limit is final, also for a smaller message
		return ErrSessionEnded
	}
	return nil
}

func (s *Sealer) ended(err error) error {
	if isDestroyed(err) {
		return ErrSessionEnded
	}
	return err
}
