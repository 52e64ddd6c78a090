package envelope_test

// A second reader of the formats, written from docs/formats.md alone and from
// the standard library's primitives. It imports no package of this module:
// TestTheSecondReaderIsIndependent holds that.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sort"
)

var errReader = errors.New("does not open")

// place is a binding in the words of docs/formats.md.
type place struct {
	purpose                                     string
	keyspace, tenant, service, version, subject []byte // nil = absent
	resource                                    string
	context                                     [][2]string
}

func rdPart(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func rdID(b []byte) []byte {
	if b == nil {
		return make([]byte, 16)
	}
	return b
}

func rdParts(ps ...[]byte) (out []byte) {
	for _, p := range ps {
		out = append(out, rdPart(p)...)
	}
	return out
}

func rdExpand(k, info []byte) []byte {
	m := hmac.New(sha256.New, k)
	m.Write(info)
	m.Write([]byte{1})
	return m.Sum(nil)
}

func rdContext(pairs [][2]string) []byte {
	sorted := append([][2]string(nil), pairs...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i][0] < sorted[j][0] })
	out := binary.BigEndian.AppendUint32(nil, uint32(len(sorted)))
	for _, p := range sorted {
		out = append(out, rdPart([]byte(p[0]))...)
		out = append(out, rdPart([]byte(p[1]))...)
	}
	return out
}

func (p place) ctx(session []byte) []byte {
	return rdParts([]byte(p.purpose), rdID(p.keyspace), rdID(p.tenant), rdID(p.service), rdID(p.version), session)
}

func (p place) aad(header []byte) []byte {
	return rdParts(header, []byte(p.purpose), rdID(p.keyspace), rdID(p.tenant), rdID(p.service), rdID(p.version),
		rdID(p.subject), []byte(p.resource), rdContext(p.context))
}

func (p place) commitment(parent, session []byte) []byte {
	return rdExpand(parent, append([]byte("krypton/v1/commit"), p.ctx(session)...))
}

func (p place) key(parent, session []byte) []byte {
	return rdExpand(parent, append([]byte("krypton/v1/key"), p.ctx(session)...))
}

func rdGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

func (p place) open(parent, blob []byte) ([]byte, error) {
	if len(blob) < 94 || blob[0] != 1 || blob[1] != 1 || !bytes.Equal(blob[2:18], rdID(p.version)) {
		return nil, errReader
	}
	session := blob[18:34]
	if !hmac.Equal(blob[34:66], p.commitment(parent, session)) {
		return nil, errReader
	}
	pt, err := rdGCM(p.key(parent, session)).Open(nil, blob[66:78], blob[78:], p.aad(blob[:78]))
	if err != nil {
		return nil, errReader
	}
	n := len(pt)
	ok := n == 32
	switch p.purpose {
	case "data":
		ok = n <= 1048576
	case "dek-wrap", "internal-secret":
		ok = n >= 1 && n <= 4096
	case "l2-outer":
		ok = true
	}
	if !ok {
		return nil, errReader
	}
	return pt, nil
}

func rdCut(b []byte) (part, rest []byte, err error) {
	if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
		return nil, nil, errReader
	}
	n := binary.BigEndian.Uint32(b)
	return b[4 : 4+n], b[4+n:], nil
}

// openL2 opens a nested tenant key. keystore is the customer's.
func (p place) openL2(ivk, blob []byte, keystore func(wrapped, aad []byte) ([]byte, error)) ([]byte, error) {
	body, err := p.open(ivk, blob)
	if err != nil {
		return nil, err
	}
	wrapped, rest, err := rdCut(body)
	if err != nil || len(wrapped) == 0 || len(wrapped) > 16384 {
		return nil, errReader
	}
	inner, rest, err := rdCut(rest)
	if err != nil || len(inner) != 126 || len(rest) != 0 {
		return nil, errReader
	}
	at := place{purpose: "l1-wrap", keyspace: p.keyspace, tenant: p.tenant, version: p.subject, subject: p.subject}
	k1, err := keystore(wrapped, at.aad(nil))
	if err != nil {
		return nil, err
	}
	at.purpose = "l2-inner"
	return at.open(k1, inner)
}

// rdMasterKey derives what the MasterKey is for.
func rdMasterKey(mk, keyspace []byte, generation uint64) (ivkParent, mac, backup, commitment []byte) {
	info := append([]byte("krypton/v1/masterkey-commitment"), keyspace...)
	return rdExpand(mk, []byte("krypton/v1/ivk-wrapping")), rdExpand(mk, []byte("krypton/v1/registry-mac")),
		rdExpand(mk, []byte("krypton/v1/backup")), rdExpand(mk, binary.BigEndian.AppendUint64(info, generation))
}

func rdGeneration(g uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("mk-gen\x00\x00"), g)
}
