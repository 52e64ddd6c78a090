package pki

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TenantScope says for which tenants' workloads an issuer may vouch. The zero
// value is none.
type TenantScope struct {
	all   bool
	names []hierarchy.Name
}

// AllTenants is the scope of the cluster's own CA.
func AllTenants() TenantScope { return TenantScope{all: true} }

// OnlyTenants is the scope of a tenant's CA.
func OnlyTenants(names ...hierarchy.Name) TenantScope {
	return TenantScope{names: slices.Clone(names)}
}

func (s TenantScope) has(t hierarchy.Name) bool { return s.all || slices.Contains(s.names, t) }

// CallerIssuer is a CA whose callers are accepted, and what it may vouch for. A
// CA of a tenant must not be able to make a governor.
type CallerIssuer struct {
	CA          *x509.Certificate // the key that signs leaves itself; intermediates are not followed
	TrustDomain string            // in the identities it issues
	Roles       []auth.Role       // at least one
	Tenants     TenantScope       // of its workloads
}

// Callers verifies callers' certificates. Make one with [NewCallers].
type Callers struct {
	issuers []CallerIssuer
	pool    *x509.CertPool
}

// NewCallers checks and copies the registered issuers.
func NewCallers(issuers []CallerIssuer) (*Callers, error) {
	c := &Callers{pool: x509.NewCertPool()}
	for _, i := range issuers {
		switch {
		case i.CA == nil || !i.CA.IsCA:
			return nil, errs.New(errs.InvalidConfig, "a caller issuer has no CA certificate")
		case checkKey(i.CA.PublicKey) != nil && i.CA.PublicKeyAlgorithm != x509.RSA:
			return nil, errs.New(errs.InvalidConfig, "the key of a caller issuer is not ECDSA P-256, Ed25519 or RSA")
		case !auth.ValidTrustDomain(i.TrustDomain):
			return nil, errs.New(errs.InvalidConfig, "a caller issuer has no trust domain")
		case len(i.Roles) == 0 || slices.ContainsFunc(i.Roles, func(r auth.Role) bool { return !r.Valid() }):
			return nil, errs.New(errs.InvalidConfig, "a caller issuer may vouch for no role, or for an unknown one")
		}
		i.Roles = slices.Clone(i.Roles)
		c.issuers = append(c.issuers, i)
		c.pool.AddCert(i.CA)
	}
	return c, nil
}

// Pool returns the CAs for tls.Config.ClientCAs.
func (c *Callers) Pool() *x509.CertPool { return c.pool }

// Verified is a caller who is who they say until NotAfter. A connection may live
// longer than its certificate: compare NotAfter with the time of each call.
type Verified struct {
	Principal auth.Principal
	NotAfter  time.Time
	// Serial is the serial number under the issuer: the bytes of the number, big
	// endian without leading zeros.
	Serial string
	// Name is the URI name in the certificate.
	Name string
}

// Verify returns whose certificate leaf is (I1). It does not rely on what TLS
// verified before: TLS knows no roles, and one wrong option there must not
// become a governor here.
func (c *Callers) Verify(leaf *x509.Certificate, now time.Time) (Verified, error) {
	if leaf == nil {
		return Verified{}, refuse("no client certificate was presented", "give --cert-file and --key-file, or set KRYPTON_CERT_FILE and KRYPTON_KEY_FILE", nil)
	}
	issuer, ok := c.issuerOf(leaf)
	_, _, notNode := NodeOf(leaf)
	switch {
	case !ok && notNode == nil: // what it says of itself, which only makes the refusal clearer
		return Verified{}, refuse("the client certificate is that of a node", "use a certificate of your own; nodes do not call", nil)
	case !ok:
		return Verified{}, refuse("the client certificate is not from a CA that this cluster accepts", "use a certificate that this cluster issued", nil)
	case now.After(leaf.NotAfter):
		return Verified{}, refuse("the client certificate expired at "+clockText(leaf.NotAfter)+", and the node's clock says "+clockText(now),
			"have a governor issue a new one; if the node's clock is wrong (compare date -u), set it right", nil)
	case now.Before(leaf.NotBefore):
		return Verified{}, refuse("the client certificate is valid only from "+clockText(leaf.NotBefore)+", and the node's clock says "+clockText(now),
			"compare the node's clock with that of who issued the certificate (date -u), and set right the one that is wrong", nil)
	case leaf.SerialNumber.Sign() <= 0:
		return Verified{}, refuse("the client certificate has no serial number", "use a certificate that this cluster issued", nil)
	case leaf.IsCA:
		return Verified{}, refuse("the client certificate is that of a CA", "use a certificate of your own", nil)
	}
	roots := x509.NewCertPool()
	roots.AddCert(issuer.CA)
	// The rest of RFC 5280: usages of both certificates, constraints of the CA,
	// its own validity, critical extensions that nobody knows.
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return Verified{}, refuse("the client certificate is not valid for a caller", "check its usages and its CA", err)
	}
	id, err := callerID(leaf)
	if err != nil {
		return Verified{}, err
	}
	switch {
	case id.TrustDomain != issuer.TrustDomain:
		return Verified{}, refuse("the client certificate names a trust domain that its CA does not have", "use a certificate of this cluster", nil)
	case !slices.Contains(issuer.Roles, id.Role):
		return Verified{}, refuse("the CA of the client certificate may not vouch for the role "+id.Role.String(), "have it issued by the cluster's own CA", nil)
	case id.Role == auth.RoleWorkload && !issuer.Tenants.has(id.Tenant):
		return Verified{}, refuse("the CA of the client certificate may not vouch for workloads of this tenant", "have it issued by the cluster's own CA", nil)
	}
	p, err := id.Principal(IssuerOf(issuer.CA))
	if err != nil {
		return Verified{}, refuse("the client certificate names no caller", "use a certificate of your own", err)
	}
	return Verified{Principal: p, NotAfter: leaf.NotAfter, Serial: string(leaf.SerialNumber.Bytes()), Name: id.String()}, nil
}

// clockText writes a time as people compare it with date -u.
func clockText(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// issuerOf finds the CA whose key signed leaf. Names are compared only to save
// signature checks: two CAs may have one name.
func (c *Callers) issuerOf(leaf *x509.Certificate) (CallerIssuer, bool) {
	for _, i := range c.issuers {
		if string(i.CA.RawSubject) == string(leaf.RawIssuer) && leaf.CheckSignatureFrom(i.CA) == nil {
			return i, true
		}
	}
	return CallerIssuer{}, false
}

// callerID reads the identity from the one URI name of leaf.
func callerID(leaf *x509.Certificate) (auth.ID, error) {
	uris, err := uriNames(leaf)
	const hint = "a caller's certificate has one URI name spiffe://<trust-domain>/krypton/<role>/<name>"
	switch {
	case err != nil:
		return auth.ID{}, refuse("names of the client certificate cannot be read", hint, err)
	case len(uris) == 0:
		return auth.ID{}, refuse("the client certificate names no role", hint, nil)
	case len(uris) > 1:
		return auth.ID{}, refuse("the client certificate has more than one URI name", hint, nil)
	}
	id, err := auth.ParseID(uris[0])
	if err != nil {
		return auth.ID{}, refuse("the client certificate names no role: "+err.Error(), hint, err)
	}
	return id, nil
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
