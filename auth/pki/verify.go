package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// CallerIssuer is a registered authority whose certificates are looked at. What
// it may vouch for, and what its callers may do, is for package auth/identity.
type CallerIssuer struct {
	UID auth.Issuer // of the registered issuer
	// Certificates of the keys that sign leaves themselves; intermediates are not
	// followed. More than one while a CA is replaced.
	Certificates []*x509.Certificate
	// RetireTimes says of the certificates, in their order, from when on what they signed
	// counts as expired. Zero: not while the issuer is registered. nil: none retires.
	RetireTimes []time.Time
	// TrustDomain of the URI names that it may issue; empty: URI names prove nothing.
	TrustDomain string
}

// Callers verifies callers' certificates. Make one with [NewCallers].
type Callers struct {
	issuers []CallerIssuer
}

// NewCallers checks and copies the registered issuers.
func NewCallers(issuers []CallerIssuer) (*Callers, error) {
	c := &Callers{}
	keys := map[auth.Issuer]auth.Issuer{}
	for _, i := range issuers {
		if err := i.check(); err != nil {
			return nil, err
		}
		for _, ca := range i.Certificates {
			key := IssuerOf(ca)
			if other, twice := keys[key]; twice && other != i.UID {
				return nil, errs.New(errs.InvalidConfig, "two issuers have one CA key, so nobody could tell whose callers are whose")
			}
			keys[key] = i.UID
		}
		i.Certificates, i.RetireTimes = slices.Clone(i.Certificates), slices.Clone(i.RetireTimes)
		c.issuers = append(c.issuers, i)
	}
	return c, nil
}

func (i CallerIssuer) check() error {
	switch {
	case i.UID.IsZero():
		return errs.New(errs.InvalidConfig, "a caller issuer has no uid")
	case len(i.Certificates) == 0:
		return errs.New(errs.InvalidConfig, "a caller issuer has no CA certificate")
	case i.RetireTimes != nil && len(i.RetireTimes) != len(i.Certificates):
		return errs.New(errs.InvalidConfig, "a caller issuer does not say of each CA certificate when it retires")
	case i.TrustDomain != "" && !auth.ValidTrustDomain(i.TrustDomain):
		return errs.New(errs.InvalidConfig, "the trust domain of a caller issuer is not one")
	}
	for _, ca := range i.Certificates {
		if err := CheckCA(ca); err != nil {
			return err
		}
	}
	return nil
}

// CheckCA refuses a certificate that cannot be that of a caller issuer.
func CheckCA(ca *x509.Certificate) error {
	switch {
	case ca == nil || !ca.IsCA || !ca.BasicConstraintsValid:
		return errs.New(errs.InvalidConfig, "the certificate of a caller issuer is not that of a CA", errs.Hint("give the certificate of the CA that signs the callers' certificates"))
	case checkKey(ca.PublicKey) != nil && !strongRSA(ca.PublicKey) && !strongEC(ca.PublicKey):
		return errs.New(errs.InvalidConfig, "the key of a caller issuer is not ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits", errs.Hint("have a CA with such a key sign the callers' certificates"))
	}
	return nil
}

func strongRSA(pub crypto.PublicKey) bool {
	k, ok := pub.(*rsa.PublicKey)
	return ok && k.N.BitLen() >= 2048
}

func strongEC(pub crypto.PublicKey) bool {
	k, ok := pub.(*ecdsa.PublicKey)
	return ok && k.Curve == elliptic.P384()
}

// Proof is what a certificate proves about its holder. It gives no role: see
// package auth/identity.
type Proof struct {
	Issuer auth.Issuer // uid of the issuer
	// ID is what the certificate says in Krypton's own form; the zero ID: nothing, or
	// in another trust domain than the issuer's.
	ID auth.ID
	// Subject is the name by which a role binding can know the holder: "uri:" with the
	// one URI name, or, in a certificate without one, "cn:" with the one common name:
	// whoever may choose the one must not be able to pass for somebody by the other.
	// Empty: there is neither.
	Subject  string
	Key      crypto.PublicKey
	NotAfter time.Time
	// Expired: all is well but that NotAfter has passed, or that the CA has retired.
	Expired bool
	// Retires is when the CA that signed is trusted no more; zero: it is the present one.
	Retires time.Time
	// CA names the CA that signed, by its key; see [IssuerOf].
	CA auth.Issuer
	// Serial is the serial number under the issuer: the bytes of the number, big
	// endian without leading zeros.
	Serial string
}

// MaxSubject bounds [Proof.Subject] in bytes; a longer name counts as none.
const MaxSubject = 512

// Verify returns what leaf proves (I1). It does not rely on what TLS verified
// before: TLS knows no issuers, and one wrong option there must not become a
// governor here.
func (c *Callers) Verify(leaf *x509.Certificate, now time.Time) (Proof, error) {
	if leaf == nil {
		return Proof{}, refuse("no client certificate was presented", "give --cert-file and --key-file, or set KRYPTON_CERT_FILE and KRYPTON_KEY_FILE", nil)
	}
	issuer, at, ok := c.issuerOf(leaf)
	_, _, notNode := NodeOf(leaf)
	switch {
	case notNode == nil: // whoever issued it: a node is nobody's caller
		return Proof{}, refuse("the client certificate is that of a node", "use a certificate of your own; nodes do not call", nil)
	case !ok:
		return Proof{}, refuse("the client certificate is not from a CA that this cluster accepts", "use a certificate that this cluster issued, or have the CA registered: krypton issuer create", errUnknownCA)
	case now.Before(leaf.NotBefore):
		return Proof{}, refuse("the client certificate is valid only from "+clockText(leaf.NotBefore)+", and the node's clock says "+clockText(now),
			"compare the node's clock with that of who issued the certificate (date -u), and set right the one that is wrong", nil)
	case leaf.SerialNumber.Sign() <= 0:
		return Proof{}, refuse("the client certificate has no serial number", "use a certificate that this cluster issued", nil)
	case leaf.IsCA:
		return Proof{}, refuse("the client certificate is that of a CA", "use a certificate of your own", nil)
	}
	ca := issuer.Certificates[at]
	p := Proof{
		Issuer: issuer.UID, CA: IssuerOf(ca), Key: leaf.PublicKey, NotAfter: leaf.NotAfter, Expired: now.After(leaf.NotAfter),
		Serial: string(leaf.SerialNumber.Bytes()),
	}
	if issuer.RetireTimes != nil {
		p.Retires = issuer.RetireTimes[at]
	}
	when := now
	if p.Expired {
		when = leaf.NotAfter
	}
	p.Expired = p.Expired || issuer.retired(at, now)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	// The rest of RFC 5280: usages of both certificates, constraints of the CA,
	// its own validity, critical extensions that nobody knows.
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: when, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return Proof{}, refuse("the client certificate is not valid for a caller", "check its usages and its CA", err)
	}
	if err := p.name(leaf, issuer); err != nil {
		return Proof{}, err
	}
	return p, nil
}

var errUnknownCA = errors.New("no registered issuer signed the certificate")

// IsUnknownCA reports whether an error of [Callers.Verify] says that no registered
// issuer signed the certificate, which another registration might change.
func IsUnknownCA(err error) bool { return errors.Is(err, errUnknownCA) }

// ErrExpired is the answer to the holder of a certificate that has expired, or whose CA
// has retired.
func ErrExpired(notAfter, now time.Time) error {
	if !now.After(notAfter) {
		return refuse("the client certificate is from a CA of this cluster that was replaced and is trusted no more", "renew it: krypton operator cert renew", nil)
	}
	return refuse("the client certificate expired at "+clockText(notAfter)+", and the node's clock says "+clockText(now),
		"renew it: krypton operator cert renew; if the node's clock is wrong (compare date -u), set it right", nil)
}

// name reads the names in leaf that issuer may give.
func (p *Proof) name(leaf *x509.Certificate, issuer CallerIssuer) error {
	uris, err := uriNames(leaf)
	if err != nil {
		return refuse("names of the client certificate cannot be read", "have another one issued", err)
	}
	if len(uris) > 1 {
		return refuse("the client certificate has more than one URI name", "a caller's certificate has one URI name (SPIFFE X.509-SVID), or none", nil)
	}
	if len(uris) == 1 {
		domain, isSPIFFE := strings.CutPrefix(uris[0], "spiffe://")
		domain, _, _ = strings.Cut(domain, "/")
		if !isSPIFFE || issuer.TrustDomain == "" || domain != issuer.TrustDomain {
			return refuse("the client certificate names a trust domain that its CA does not have", "use a certificate of this cluster", nil)
		}
		if id, err := auth.ParseID(uris[0]); err == nil {
			p.ID = id
		}
		p.Subject = subject("uri:", uris[0])
		return nil
	}
	if commonNames(leaf) == 1 {
		p.Subject = subject("cn:", leaf.Subject.CommonName)
	}
	return nil
}

func subject(kind, name string) string {
	if name == "" || len(kind)+len(name) > MaxSubject || strings.ContainsFunc(name, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
		return ""
	}
	return kind + name
}

// commonNames counts them: a subject can have several, of which crypto/x509 shows one.
func commonNames(leaf *x509.Certificate) (n int) {
	for _, a := range leaf.Subject.Names {
		if a.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
			n++
		}
	}
	return n
}

// clockText writes a time as people compare it with date -u.
func clockText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// retired reports whether the CA at that place is trusted no more.
func (i CallerIssuer) retired(at int, now time.Time) bool {
	return i.RetireTimes != nil && !i.RetireTimes[at].IsZero() && !now.Before(i.RetireTimes[at])
}

// issuerOf finds the issuer and the place of the CA whose key signed leaf. Names are
// compared only to save signature checks: two CAs may have one name.
func (c *Callers) issuerOf(leaf *x509.Certificate) (i CallerIssuer, at int, ok bool) {
	for _, i := range c.issuers {
		for at, ca := range i.Certificates {
			if string(ca.RawSubject) == string(leaf.RawIssuer) && leaf.CheckSignatureFrom(ca) == nil {
				return i, at, true
			}
		}
	}
	return CallerIssuer{}, 0, false
}

// NodeOf returns trust domain and node id of a node's certificate. It verifies
// nothing: peers are known by their pinned keys.
func NodeOf(cert *x509.Certificate) (trustDomain, node string, err error) {
	uris, err := uriNames(cert)
	if err != nil {
		return "", "", err
	}
	if len(uris) != 1 {
		return "", "", errNotNode
	}
	rest, ok := strings.CutPrefix(uris[0], "spiffe://")
	if !ok {
		return "", "", errNotNode
	}
	trustDomain, node, ok = strings.Cut(rest, "/krypton/node/")
	if !ok || !auth.ValidTrustDomain(trustDomain) || !auth.ValidName(node) {
		return "", "", errNotNode
	}
	return trustDomain, node, nil
}

var errNotNode = errors.New("certificate does not name a node")

func nodeURI(trustDomain, node string) string {
	return "spiffe://" + trustDomain + "/krypton/node/" + node
}

// uriNames returns the URI names in the bytes of cert. Certificate.URIs would
// not do: net/url lower-cases the scheme, decodes escapes, and drops an empty
// fragment, so that two names could become one (I2).
func uriNames(cert *x509.Certificate) ([]string, error) {
	const tagURI = 6 // GeneralName, RFC 5280 section 4.2.1.6
	var uris []string
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) > 0 {
			return nil, errors.New("subject alternative names are malformed")
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == tagURI {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	return uris, nil
}

func refuse(msg, hint string, cause error) error {
	return errs.New(errs.Unauthenticated, msg, errs.Hint("%s", hint), errs.Cause(cause))
}
