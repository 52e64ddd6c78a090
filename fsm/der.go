package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/intent"
)

// Certificates in the registry are read here only as far as every replica must
// agree about them: where the public key of a CA stands, whether another key signed it,
// and whether it is that of a CA at all. Package crypto/x509 would
// read more, but differently from release to release, and replicas of two releases
// must take the same ones. That a certificate is a CA's and good for anything is
// checked by the node that receives the request, and by whoever verifies with it.

// MaxCertificateBytes bounds a CA certificate of an issuer.
const MaxCertificateBytes = 8 << 10

// Tags of DER that are looked at.
const (
	derSequence = 0x30
	derInteger  = 0x02
	derVersion  = 0xa0 // [0], in a certificate
	derBits     = 0x03
	derBool     = 0x01
	derOctets   = 0x04
	derOID      = 0x06
	derExtended = 0xa3 // [3], in a certificate: the extensions
)

// What stands before the bytes of a key in its SubjectPublicKeyInfo, of the two kinds of
// keys that CAs of a cluster have; and the OID of the extension basicConstraints.
//
//nolint:gochecknoglobals // Constants; Go has no constant slices.
var (
	spkiP256    = []byte("\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00")
	spkiEd25519 = []byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00")
	oidBasic    = []byte("\x55\x1d\x13")
)

// derNext splits the first element off b: all of it, and what is in it. Lengths
// have one spelling and at most two bytes.
func derNext(b []byte) (tag byte, whole, content, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, nil, nil, false
	}
	head, n := 2, int(b[1])
	switch {
	case b[1] == 0x81 && len(b) > 2 && b[2] >= 0x80:
		head, n = 3, int(b[2])
	case b[1] == 0x82 && len(b) > 3 && b[2] != 0:
		head, n = 4, int(b[2])<<8|int(b[3])
	case b[1] >= 0x80:
		return 0, nil, nil, nil, false
	}
	if len(b)-head < n {
		return 0, nil, nil, nil, false
	}
	return b[0], b[:head+n], b[head : head+n], b[head+n:], true
}

// certificate is what is read of one.
type certificate struct {
	spki       []byte // SubjectPublicKeyInfo
	tbs        []byte // what is signed
	signature  []byte
	extensions []byte // what stands behind the public key
}

// readCertificate splits a certificate in DER:
//
//	Certificate    SEQUENCE { tbs, algorithm, signature }
//	TBSCertificate SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject, subjectPublicKeyInfo, ... }
func readCertificate(cert []byte) (c certificate, ok bool) {
	if len(cert) > MaxCertificateBytes {
		return c, false
	}
	tag, _, body, rest, ok := derNext(cert)
	if !ok || tag != derSequence || len(rest) != 0 {
		return c, false
	}
	var tbs []byte
	tag, c.tbs, tbs, body, ok = derNext(body)
	if !ok || tag != derSequence {
		return c, false
	}
	for _, want := range []byte{derSequence, derBits} { // algorithm and signature
		if tag, _, c.signature, body, ok = derNext(body); !ok || tag != want {
			return c, false
		}
	}
	if len(body) != 0 {
		return c, false
	}
	for _, want := range []byte{derVersion, derInteger, derSequence, derSequence, derSequence, derSequence, derSequence} {
		if tag, c.spki, _, tbs, ok = derNext(tbs); !ok || tag != want {
			return c, false
		}
	}
	c.extensions = tbs
	return c, true
}

// spkiOf returns the SubjectPublicKeyInfo in a certificate in DER.
func spkiOf(cert []byte) (spki []byte, ok bool) {
	c, ok := readCertificate(cert)
	if !ok {
		return nil, false
	}
	return c.spki, true
}

// sameKeyIn reports whether two certificates are for one key.
func sameKeyIn(a, b []byte) bool {
	x, ok := spkiOf(a)
	y, also := spkiOf(b)
	return ok && also && bytes.Equal(x, y)
}

// signedBy reports whether the key of the certificate by signed cert. Keys of other kinds
// than those that CAs of a cluster have sign nothing here.
func signedBy(cert, by []byte) bool {
	c, ok := readCertificate(cert)
	if !ok || len(c.signature) == 0 || c.signature[0] != 0 { // bits that are not used
		return false
	}
	spki, ok := spkiOf(by)
	if !ok {
		return false
	}
	alg, raw := intent.AlgECDSAP256SHA256, bytes.TrimPrefix(spki, spkiP256)
	if len(raw) == len(spki) {
		alg, raw = intent.AlgEd25519, bytes.TrimPrefix(spki, spkiEd25519)
	}
	if len(raw) == len(spki) {
		return false
	}
	key, err := intent.NewPublicKey(alg, raw)
	return err == nil && key.Verify(c.tbs, c.signature[1:])
}

// isCA reports whether a certificate is that of a CA, by its basic constraints. A
// certificate that a CA gave to a member is signed by the CA, too.
func isCA(cert []byte) bool {
	c, ok := readCertificate(cert)
	if !ok {
		return false
	}
	tag, _, list, rest, ok := derNext(c.extensions)
	if !ok || tag != derExtended || len(rest) != 0 {
		return false
	}
	if tag, _, list, rest, ok = derNext(list); !ok || tag != derSequence || len(rest) != 0 {
		return false
	}
	for len(list) > 0 {
		var ext, oid []byte
		if tag, _, ext, list, ok = derNext(list); !ok || tag != derSequence {
			return false
		}
		if tag, _, oid, ext, ok = derNext(ext); !ok || tag != derOID {
			return false
		}
		if bytes.Equal(oid, oidBasic) {
			return basicCA(ext)
		}
	}
	return false
}

// basicCA reads what stands behind the OID of basicConstraints:
//
//	critical BOOLEAN (or nothing), OCTET STRING { SEQUENCE { cA BOOLEAN, ... } }
func basicCA(ext []byte) bool {
	tag, _, value, rest, ok := derNext(ext)
	if ok && tag == derBool {
		tag, _, value, rest, ok = derNext(rest)
	}
	if !ok || tag != derOctets || len(rest) != 0 {
		return false
	}
	if tag, _, value, rest, ok = derNext(value); !ok || tag != derSequence || len(rest) != 0 {
		return false
	}
	tag, _, value, _, ok = derNext(value)
	return ok && tag == derBool && len(value) == 1 && value[0] == 0xff
}
