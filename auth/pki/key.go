package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// KeyType is a type of private key. Zero is invalid.
type KeyType int

// The types (I4).
const (
	KeyUnspecified KeyType = iota
	ECDSAP256              // what every TLS peer and hardware token can do
	Ed25519                // smaller and deterministic; some TLS peers cannot
)

const (
	pemKey         = "PRIVATE KEY"
	pemCertificate = "CERTIFICATE"

	maxPEM   = 1 << 20 // bytes of a PEM file that is looked at
	maxChain = 32      // certificates in one PEM file
)

var errKeyType = errors.New("key is not ECDSA P-256 or Ed25519")

// GenerateKey makes a private key and returns it as PKCS#8 in protected memory
// (I5), with its public key. rand is for Ed25519; ECDSA takes its randomness
// from the Go runtime since Go 1.26, whatever reader it is given.
func GenerateKey(rand io.Reader, typ KeyType) (memsec.Secret, crypto.PublicKey, error) {
	var signer crypto.Signer
	switch typ {
	case ECDSAP256:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand)
		if err != nil {
			return memsec.Secret{}, nil, fmt.Errorf("generate key: %w", err)
		}
		signer = k
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand)
		if err != nil {
			return memsec.Secret{}, nil, fmt.Errorf("generate key: %w", err)
		}
		defer clear(k)
		signer = k
	case KeyUnspecified:
		return memsec.Secret{}, nil, errKeyType
	default:
		return memsec.Secret{}, nil, errKeyType
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return memsec.Secret{}, nil, fmt.Errorf("encode key: %w", err)
	}
	s, err := memsec.Take(der, memsec.Cold) // wipes der
	if err != nil {
		return memsec.Secret{}, nil, fmt.Errorf("protect key: %w", err)
	}
	return s, signer.Public(), nil
}

// Signer returns the private key in PKCS#8 form in key for signing. The result
// lives on the Go heap, outside of protected memory: keep it only as long as it
// is used, and never for a CA; [CA] opens its key for each signature.
func Signer(key memsec.Secret) (crypto.Signer, error) {
	var signer crypto.Signer
	err := reveal.With(key, func(der []byte) error {
		k, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return errs.New(errs.InvalidConfig, "private key is not PKCS#8") // the cause could quote bytes of the key
		}
		s, ok := k.(crypto.Signer)
		if !ok || checkKey(s.Public()) != nil {
			return errs.New(errs.InvalidConfig, errKeyType.Error())
		}
		signer = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	return signer, nil
}

// checkKey refuses every public key but ECDSA P-256 and Ed25519 (I4).
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k != nil && k.Curve == elliptic.P256() {
			return nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	}
	return errKeyType
}

// ParsePublicKey reads a SubjectPublicKeyInfo in DER.
func ParsePublicKey(der []byte) (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "public key is not a SubjectPublicKeyInfo in DER",
			errs.Hint("give an ECDSA P-256 or Ed25519 key; krypton operator cert new-key makes one"), errs.Cause(err))
	}
	if err := checkKey(pub); err != nil {
		return nil, errs.New(errs.InvalidArgument, err.Error(), errs.Hint("krypton operator cert new-key makes one of the right kind"))
	}
	return pub, nil
}

// ParseRequest reads a PKCS#10 certificate request in DER, checks that its
// sender holds the private key, and returns the public key. Names and extensions
// in it are ignored (I3).
func ParseRequest(der []byte) (crypto.PublicKey, error) {
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "certificate request is not PKCS#10 in DER", errs.Cause(err))
	}
	if err := req.CheckSignature(); err != nil {
		return nil, errs.New(errs.InvalidArgument, "certificate request is not signed by its own key", errs.Cause(err))
	}
	if err := checkKey(req.PublicKey); err != nil {
		return nil, errs.New(errs.InvalidArgument, err.Error())
	}
	return req.PublicKey, nil
}

// WriteKey writes key as PEM. Whoever calls it puts a private key into the
// clear, and gives w the permissions that needs (0600).
func WriteKey(w io.Writer, key memsec.Secret) error {
	return reveal.With(key, func(der []byte) error {
		return pem.Encode(w, &pem.Block{Type: pemKey, Bytes: der})
	})
}

// ParseKey reads the first private key in text, PKCS#8 in PEM, into protected
// memory. It wipes text in every case.
func ParseKey(text []byte) (memsec.Secret, error) {
	defer clear(text)
	if len(text) > maxPEM {
		return memsec.Secret{}, errs.New(errs.InvalidConfig, "key file is too large")
	}
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return memsec.Secret{}, errs.New(errs.InvalidConfig, "file holds no PRIVATE KEY block",
				errs.Hint("convert other forms with: openssl pkcs8 -topk8 -nocrypt"))
		}
		if b.Type != pemKey {
			clear(b.Bytes) // an older form of private key, for example
			continue
		}
		s, err := memsec.Take(b.Bytes, memsec.Cold)
		if err != nil {
			return memsec.Secret{}, fmt.Errorf("protect key: %w", err)
		}
		if _, err := Signer(s); err != nil {
			s.Destroy()
			return memsec.Secret{}, err
		}
		return s, nil
	}
}

// EncodeCertificates returns certs as PEM, in their order.
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	return out
}

// ParseCertificates reads all certificates in text, at least one and at most 32.
// Other PEM blocks are refused: a private key in a file of certificates is a mistake.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, errs.New(errs.InvalidConfig, "certificate file is too large")
	}
	var certs []*x509.Certificate
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != pemCertificate {
			return nil, errs.New(errs.InvalidConfig, "file of certificates holds something else")
		}
		if len(certs) == maxChain {
			return nil, errs.Newf(errs.InvalidConfig, "file holds more than %d certificates", maxChain)
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, errs.New(errs.InvalidConfig, "certificate cannot be read", errs.Cause(err))
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errs.New(errs.InvalidConfig, "file holds no certificate")
	}
	return certs, nil
}
