package envelope

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Binding is [hierarchy.Binding]: what a blob is bound to.
type Binding = hierarchy.Binding

// Scope is the part of a [Binding] that all messages under one service key
// version share.
type Scope struct {
	Keyspace hierarchy.KeyspaceID
	Tenant   hierarchy.UID
	Service  hierarchy.UID
	Version  hierarchy.UID // L3 version
}

// Bind returns the binding of one message. Purpose is PurposeDataKey or PurposeData.
func (s Scope) Bind(p hierarchy.Purpose, r hierarchy.ResourceID, c hierarchy.EncryptionContext) Binding {
	return Binding{
		Purpose: p, Keyspace: s.Keyspace, Tenant: s.Tenant, Service: s.Service, Version: s.Version,
		Resource: r, Context: c,
	}
}

// scopeOf returns the scope of a binding of one message.
func scopeOf(b Binding) Scope {
	return Scope{Keyspace: b.Keyspace, Tenant: b.Tenant, Service: b.Service, Version: b.Version}
}

// misuse is a defect of the program that calls, not of a request.
func misuse(what string) error {
	return errs.New(errs.Internal, "envelope: "+what)
}

// info is the argument of a derivation: label, and the derivation context.
func info(label string, b Binding, s SessionID) []byte {
	return b.AppendDerivation(append(make([]byte, 0, 192), label...), s)
}

func checkParent(parent memsec.Secret) error {
	if parent.IsZero() {
		return misuse("no parent key")
	}
	// Length 0 is a destroyed key, which the derivation reports better.
	if n := parent.Len(); n != 0 && n != KeySize {
		return misuse(fmt.Sprintf("parent key of %d bytes", n))
	}
	return nil
}

func commitmentOf(parent memsec.Secret, b Binding, s SessionID) ([CommitmentSize]byte, error) {
	return memsec.ExpandPublic(parent, info(hierarchy.LabelCommit, b, s))
}

func aeadOf(parent memsec.Secret, b Binding, s SessionID) (memsec.AEAD, error) {
	key, err := memsec.Expand(parent, info(hierarchy.LabelKey, b, s), memsec.Hot)
	if err != nil {
		return memsec.AEAD{}, err
	}
	defer key.Destroy()
	return memsec.NewAEAD(key)
}

// newSession draws a session id and derives its commitment and key.
func newSession(rand io.Reader, parent memsec.Secret, b Binding) (memsec.AEAD, prefix, error) {
	if err := checkParent(parent); err != nil {
		return memsec.AEAD{}, prefix{}, err
	}
	var id SessionID
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return memsec.AEAD{}, prefix{}, fmt.Errorf("draw session id: %w", err)
	}
	commitment, err := commitmentOf(parent, b, id)
	if err != nil {
		return memsec.AEAD{}, prefix{}, err
	}
	a, err := aeadOf(parent, b, id)
	if err != nil {
		return memsec.AEAD{}, prefix{}, err
	}
	return a, makePrefix(b.Version, id, commitment), nil
}

// selected parses the header of a blob and checks that it selects the parent
// that the binding names.
func selected(b Binding, blob []byte) (Header, error) {
	h, err := ParseHeader(blob)
	if err != nil {
		return Header{}, err
	}
	if h.KeyVersion != b.Version {
		return Header{}, errs.DoesNotOpen(ErrKeyVersion)
	}
	return h, nil
}

// openSession proves the commitment and only then derives the key (I3): a
// random or foreign session id costs one HMAC.
func openSession(parent memsec.Secret, b Binding, h Header) (memsec.AEAD, error) {
	if err := checkParent(parent); err != nil {
		return memsec.AEAD{}, err
	}
	want, err := commitmentOf(parent, b, h.Session)
	if err != nil {
		return memsec.AEAD{}, err
	}
	if !committed(h, want) {
		return memsec.AEAD{}, errs.DoesNotOpen(ErrCommitment)
	}
	return aeadOf(parent, b, h.Session)
}

func committed(h Header, want [CommitmentSize]byte) bool {
	return subtle.ConstantTimeCompare(h.Commitment[:], want[:]) == 1
}

// message is one header on its way out: dst with the header appended, and the
// associated data in a pooled buffer.
type message struct {
	dst  []byte // ends with the header
	aad  []byte
	pool *[]byte
}

//nolint:gochecknoglobals // A pool of buffers that hold no secret.
var aadPool = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// begin appends the header with a fresh nonce to dst, with room for n bytes of
// plaintext and the tag, so that the cipher does not move it.
func begin(rand io.Reader, dst []byte, p *prefix, b Binding, n int) (message, error) {
	start := len(dst)
	dst = slices.Grow(dst, Overhead+n)[:start+HeaderSize]
	header := dst[start:]
	copy(header, p[:])
	if _, err := io.ReadFull(rand, header[offNonce:]); err != nil {
		return message{}, fmt.Errorf("draw nonce: %w", err)
	}
	m := message{dst: dst}
	m.aad, m.pool = aadFor(b, header)
	return m, nil
}

func (m *message) nonce() []byte { return m.dst[len(m.dst)-NonceSize:] }

func (m *message) end() { putAAD(m.aad, m.pool) }

func aadFor(b Binding, header []byte) ([]byte, *[]byte) {
	buf, ok := aadPool.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	return b.AppendAAD(slices.Grow((*buf)[:0], b.AADLen(len(header))), header), buf
}

func putAAD(aad []byte, buf *[]byte) {
	*buf = aad[:0]
	aadPool.Put(buf)
}

func sealBytes(rand io.Reader, a memsec.AEAD, dst []byte, p *prefix, b Binding, plaintext []byte) ([]byte, error) {
	m, err := begin(rand, dst, p, b, len(plaintext))
	if err != nil {
		return nil, err
	}
	defer m.end()
	return a.Seal(m.dst, m.nonce(), plaintext, m.aad)
}

func sealSecret(rand io.Reader, a memsec.AEAD, p *prefix, b Binding, key memsec.Secret) ([]byte, error) {
	m, err := begin(rand, nil, p, b, key.Len())
	if err != nil {
		return nil, err
	}
	defer m.end()
	return a.SealSecret(m.dst, m.nonce(), key, m.aad)
}

func openBytes(a memsec.AEAD, dst []byte, b Binding, blob []byte) ([]byte, error) {
	aad, buf := aadFor(b, blob[:HeaderSize])
	defer putAAD(aad, buf)
	out, err := a.Open(dst, blob[offNonce:HeaderSize], blob[HeaderSize:], aad)
	return out, opened(err)
}

func openSecret(a memsec.AEAD, b Binding, blob []byte, c memsec.Class) (memsec.Secret, error) {
	aad, buf := aadFor(b, blob[:HeaderSize])
	defer putAAD(aad, buf)
	s, err := a.OpenSecret(blob[offNonce:HeaderSize], blob[HeaderSize:], aad, c)
	return s, opened(err)
}

// opened names the cause of a failure of the cipher; other errors say nothing
// about the blob and stay what they are.
func opened(err error) error {
	if errs.Is(err, errs.Integrity) {
		return errs.DoesNotOpen(ErrTag)
	}
	return err
}

func isDestroyed(err error) bool { return errors.Is(err, memsec.ErrDestroyed) }
