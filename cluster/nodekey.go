package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// peerCertLife is how long a self-signed certificate of the peer port is valid.
// Nobody checks it against an issuer, so it only limits for how long a copied
// one passes without an alarm; it is made anew at every start and at two thirds.
const peerCertLife = 90 * 24 * time.Hour

const pemKeyType = "PRIVATE KEY"

// MemberKey is the key that makes a node a member: ECDSA P-256. It is needed
// before unseal, so it lies in a file of mode 0600; it opens no customer's key.
// It is safe for concurrent use.
type MemberKey struct {
	signer crypto.Signer
	spki   []byte
	hash   [32]byte
	id     NodeID
	clk    clock.Clock
	rand   io.Reader

	mu   sync.Mutex
	cert *tls.Certificate
}

// LoadMemberKey reads the key of the directory or makes it.
func LoadMemberKey(d *Dir, clk clock.Clock, rand io.Reader) (*MemberKey, error) {
	path := d.Path(nodeKeyFile)
	raw, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		if d.Membership() == MembershipMember {
			return nil, badKey(path, errors.New("it is missing"))
		}
		raw, err = makeMemberKey(path, rand)
	}
	if err != nil {
		return nil, badKey(path, dirError("read", path, err))
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != pemKeyType || len(rest) != 0 {
		return nil, badKey(path, errors.New("it is not one PKCS#8 key in PEM"))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, badKey(path, errors.New("it is not a PKCS#8 key")) // The parser's error could quote the key.
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, badKey(path, errors.New("it is not an ECDSA P-256 key"))
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, badKey(path, err)
	}
	return &MemberKey{signer: key, spki: spki, hash: sha256.Sum256(spki), id: d.NodeID(), clk: clk, rand: rand}, nil
}

func makeMemberKey(path string, rand io.Reader) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: pemKeyType, Bytes: der})
	return raw, writeFileAtomic(path, raw)
}

func badKey(path string, err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e // of the disk, and not of the key
	}
	return errs.New(errs.StateCorrupt, fmt.Sprintf("the member key %s cannot be used: %v", path, err), errs.Hint("%s", startAnew), errs.Cause(err))
}

// Signer returns the private key, for what the member itself must sign.
func (k *MemberKey) Signer() crypto.Signer { return k.signer }

// PublicKey returns the public key (SubjectPublicKeyInfo, DER).
func (k *MemberKey) PublicKey() []byte { return append([]byte(nil), k.spki...) }

// Hash returns SHA-256 of [MemberKey.PublicKey].
func (k *MemberKey) Hash() [32]byte { return k.hash }

// Certificate returns a self-signed certificate for the key that is valid now, DER.
func (k *MemberKey) Certificate() ([]byte, error) {
	c, err := k.certificate()
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), c.Certificate[0]...), nil
}

// certificate returns a self-signed certificate that is valid now.
func (k *MemberKey) certificate() (*tls.Certificate, error) {
	now := k.clk.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cert != nil && k.cert.Leaf.NotAfter.Sub(now) > peerCertLife/3 && now.After(k.cert.Leaf.NotBefore) {
		return k.cert, nil
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(k.rand, serial); err != nil {
		return nil, fmt.Errorf("make peer certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: string(k.id)}, // for people; no program reads it (I2)
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(peerCertLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(k.rand, tmpl, tmpl, k.signer.Public(), k.signer)
	if err != nil {
		return nil, fmt.Errorf("make peer certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make peer certificate: %w", err)
	}
	k.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k.signer, Leaf: leaf}
	return k.cert, nil
}

// Signer returns the member key of this node, for its other ports and for what
// it signs in its own name.
func (c *Cluster) Signer() crypto.Signer { return c.key.signer }
