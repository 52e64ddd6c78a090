package fsm

// Certificates in the registry are read here only as far as every replica must
// agree about them: where the public key of a CA stands. Package crypto/x509 would
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

// spkiOf returns the SubjectPublicKeyInfo in a certificate in DER:
//
//	Certificate    SEQUENCE { tbs, algorithm, signature }
//	TBSCertificate SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject, subjectPublicKeyInfo, ... }
func spkiOf(cert []byte) (spki []byte, ok bool) {
	if len(cert) > MaxCertificateBytes {
		return nil, false
	}
	tag, _, body, rest, ok := derNext(cert)
	if !ok || tag != derSequence || len(rest) != 0 {
		return nil, false
	}
	tag, _, tbs, body, ok := derNext(body)
	if !ok || tag != derSequence {
		return nil, false
	}
	for _, want := range []byte{derSequence, derBits} { // algorithm and signature
		if tag, _, _, body, ok = derNext(body); !ok || tag != want {
			return nil, false
		}
	}
	if len(body) != 0 {
		return nil, false
	}
	for _, want := range []byte{derVersion, derInteger, derSequence, derSequence, derSequence, derSequence, derSequence} {
		if tag, spki, _, tbs, ok = derNext(tbs); !ok || tag != want {
			return nil, false
		}
	}
	return spki, true
}
