package pki

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// CA is a certificate authority with its private key in protected memory.
type CA struct {
	cert    *x509.Certificate
	key     memsec.Secret
	purpose Purpose
}

// NewCA makes a self-signed CA with an ECDSA P-256 key, valid from now for
// [CALifetime]. name is for people: who runs it.
func NewCA(rand io.Reader, now time.Time, purpose Purpose, name string) (*CA, error) {
	usage, err := usages(purpose)
	if err != nil {
		return nil, err
	}
	key, pub, err := GenerateKey(rand, ECDSAP256)
	if err != nil {
		return nil, err
	}
	tmpl, err := template(rand, now, CALifetime)
	if err != nil {
		return nil, err
	}
	tmpl.Subject = pkix.Name{CommonName: name + " " + purpose.String(), Organization: []string{"Krypton"}}
	tmpl.IsCA = true
	// Callers are vouched for directly. The CA of nodes signs the one that takes its place
	// ([CA.CrossSign]), and whoever trusts only it has to follow.
	tmpl.MaxPathLenZero = purpose == ForCallers
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	tmpl.ExtKeyUsage = usage
	cert, err := sign(rand, tmpl, tmpl, pub, key)
	if err != nil {
		key.Destroy()
		return nil, err
	}
	return &CA{cert: cert, key: key, purpose: purpose}, nil
}

// OpenCA puts a CA together from its certificate and its PKCS#8 key, which it
// then owns. Both must belong together.
func OpenCA(cert *x509.Certificate, key memsec.Secret) (*CA, error) {
	ca := &CA{cert: cert, key: key}
	for _, p := range []Purpose{ForCallers, ForNodes} {
		if want, err := usages(p); err == nil && slices.Equal(cert.ExtKeyUsage, want) {
			ca.purpose = p
		}
	}
	if !cert.IsCA || ca.purpose == PurposeUnspecified {
		return nil, errs.New(errs.InvalidConfig, "certificate is not that of a CA for callers or for nodes")
	}
	signer, err := Signer(key)
	if err != nil {
		return nil, err
	}
	if pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, errs.New(errs.InvalidConfig, "private key does not belong to the CA's certificate")
	}
	return ca, nil
}

// CrossSign returns a certificate of next, the CA that takes the place of this one, by
// this one: whoever trusts only this CA follows it to what next issues. It ends when one
// of the two does.
func (ca *CA) CrossSign(rand io.Reader, now time.Time, next *x509.Certificate) (*x509.Certificate, error) {
	want, err := usages(ca.purpose)
	if err != nil {
		return nil, err
	}
	if !next.IsCA || !slices.Equal(next.ExtKeyUsage, want) || checkKey(next.PublicKey) != nil {
		return nil, errs.New(errs.InvalidConfig, "the certificate is not that of a CA for the same")
	}
	tmpl, err := template(rand, now, CALifetime)
	if err != nil {
		return nil, err
	}
	for _, c := range []*x509.Certificate{ca.cert, next} {
		if c.NotAfter.Before(tmpl.NotAfter) {
			tmpl.NotAfter = c.NotAfter
		}
	}
	if tmpl.NotBefore.Before(ca.cert.NotBefore) {
		tmpl.NotBefore = ca.cert.NotBefore
	}
	tmpl.Subject = next.Subject
	tmpl.SubjectKeyId, tmpl.AuthorityKeyId = next.SubjectKeyId, ca.cert.SubjectKeyId
	tmpl.IsCA = true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	tmpl.ExtKeyUsage = want
	return sign(rand, tmpl, ca.cert, next.PublicKey, ca.key)
}

// Certificate returns the CA's certificate; it must not be changed.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Key returns the CA's private key, PKCS#8. It is still owned by the CA.
func (ca *CA) Key() memsec.Secret { return ca.key }

// Purpose returns whom the CA vouches for.
func (ca *CA) Purpose() Purpose { return ca.purpose }

// Destroy wipes the private key. The CA issues nothing afterwards.
func (ca *CA) Destroy() { ca.key.Destroy() }

// CallerRequest says which certificate a caller gets.
type CallerRequest struct {
	ID        auth.ID
	PublicKey crypto.PublicKey // the caller's own; ECDSA P-256 or Ed25519
	Lifetime  time.Duration    // MinLifetime to CallerLifetime; 0 = CallerLifetime
}

// IssueCaller signs a client certificate. The name in it is req.ID and nothing
// else (I3).
func (ca *CA) IssueCaller(rand io.Reader, now time.Time, req CallerRequest) (*x509.Certificate, error) {
	if ca.purpose != ForCallers {
		return nil, errs.New(errs.InvalidConfig, "this CA does not vouch for callers")
	}
	if err := req.ID.Validate(); err != nil {
		return nil, errs.New(errs.InvalidArgument, err.Error(), errs.Hint("a name is 1 to 63 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit"))
	}
	tmpl, err := ca.leaf(rand, now, req.PublicKey, req.Lifetime, CallerLifetime)
	if err != nil {
		return nil, err
	}
	// The subject is for people who look at the certificate; Verify never reads it.
	tmpl.Subject = pkix.Name{CommonName: req.ID.Name, OrganizationalUnit: []string{req.ID.Role.String()}}
	tmpl.URIs = []*url.URL{uri(req.ID.TrustDomain, req.ID.String())}
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return sign(rand, tmpl, ca.cert, req.PublicKey, ca.key)
}

// NodeRequest says which certificate a node gets.
type NodeRequest struct {
	TrustDomain string
	Node        string           // node id, as auth.ValidName has it
	PublicKey   crypto.PublicKey // the node's own; ECDSA P-256 or Ed25519
	DNSNames    []string         // under which clients reach the node
	IPs         []netip.Addr     // the same
	Lifetime    time.Duration    // MinLifetime to NodeLifetime; 0 = NodeLifetime
}

// IssueNode signs a certificate with which a node serves clients and speaks to
// its peers. Its URI name is spiffe://<trust-domain>/krypton/node/<id>.
func (ca *CA) IssueNode(rand io.Reader, now time.Time, req NodeRequest) (*x509.Certificate, error) {
	if ca.purpose != ForNodes {
		return nil, errs.New(errs.InvalidConfig, "this CA does not vouch for nodes")
	}
	if !auth.ValidName(req.Node) || !auth.ValidTrustDomain(req.TrustDomain) {
		return nil, errs.New(errs.InvalidArgument, "node id or trust domain is not a valid name")
	}
	tmpl, err := ca.leaf(rand, now, req.PublicKey, req.Lifetime, NodeLifetime)
	if err != nil {
		return nil, err
	}
	tmpl.Subject = pkix.Name{CommonName: req.Node}
	tmpl.URIs = []*url.URL{uri(req.TrustDomain, nodeURI(req.TrustDomain, req.Node))}
	tmpl.DNSNames = slices.Clone(req.DNSNames)
	for _, ip := range req.IPs {
		if !ip.IsValid() {
			return nil, errs.New(errs.InvalidArgument, "an address of the node is not valid")
		}
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(ip.Unmap().AsSlice()))
	}
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return sign(rand, tmpl, ca.cert, req.PublicKey, ca.key)
}

// leaf returns what both kinds of leaves have in common.
func (ca *CA) leaf(rand io.Reader, now time.Time, pub crypto.PublicKey, lifetime, limit time.Duration) (*x509.Certificate, error) {
	if err := checkKey(pub); err != nil {
		return nil, errs.New(errs.InvalidArgument, err.Error())
	}
	if lifetime == 0 {
		lifetime = limit
	}
	if lifetime < MinLifetime || lifetime > limit {
		return nil, errs.New(errs.InvalidArgument, "lifetime of a certificate is out of range", errs.Hint("%d to %d seconds", MinLifetime/time.Second, limit/time.Second))
	}
	tmpl, err := template(rand, now, lifetime)
	if err != nil {
		return nil, err
	}
	if tmpl.NotAfter.After(ca.cert.NotAfter) {
		return nil, errs.New(errs.FailedState, "the CA expires before the certificate would", errs.Hint("renew the CA first"))
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	return tmpl, nil
}

// IssuerOf names the authority behind a CA certificate by its key (I2).
func IssuerOf(ca *x509.Certificate) auth.Issuer {
	h := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return auth.Issuer(h[:len(auth.Issuer{})])
}

func usages(p Purpose) ([]x509.ExtKeyUsage, error) {
	switch p {
	case ForCallers:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil
	case ForNodes:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, nil
	case PurposeUnspecified:
	}
	return nil, errs.New(errs.InvalidConfig, "a CA is for callers or for nodes")
}

// template returns what every certificate has: a random serial number and a
// time of validity.
func template(rand io.Reader, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	var serial [16]byte
	if _, err := io.ReadFull(rand, serial[:]); err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	n := new(big.Int).SetBytes(serial[:])
	if n.Sign() == 0 {
		return nil, errors.New("draw serial number: the random source returned only zeros")
	}
	return &x509.Certificate{
		SerialNumber:          n,
		NotBefore:             now.Add(-Backdate).UTC(),
		NotAfter:              now.Add(lifetime).UTC(),
		BasicConstraintsValid: true,
	}, nil
}

func sign(rand io.Reader, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key memsec.Secret) (*x509.Certificate, error) {
	signer, err := Signer(key)
	if err != nil {
		return nil, err
	}
	if k, ok := signer.(ed25519.PrivateKey); ok {
		defer clear(k)
	}
	der, err := x509.CreateCertificate(rand, tmpl, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// uri returns the URL whose text is s. Names have no character that net/url
// would escape, so the text in the certificate is s; a test holds that.
func uri(trustDomain, s string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: s[len("spiffe://")+len(trustDomain):]}
}
