package jwt

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
)

// Issuer is what the registry says about one issuer of tokens.
type Issuer struct {
	// UID identifies the registered object. Not zero.
	UID auth.Issuer
	// Path of the object, such as issuers/corp or tenants/acme/issuers/prod, for
	// Status and for the causes of errors, which callers do not see.
	Path string
	// URL is compared with the claim iss as a string, and the discovery document is
	// fetched from below it: https, no user, query or fragment, at most MaxURL bytes.
	URL string
	// Audiences of which a token must have at least one: 1 to MaxAudiences, each 1
	// to MaxAudience bytes of printable text.
	Audiences []string
	// CAs are certificates (DER) that the fetch trusts instead of the system's. At
	// most MaxCAs; empty: the system's.
	CAs [][]byte
	// StaticJWKS is a JSON Web Key Set (RFC 7517) that counts instead of what the
	// issuer publishes; nothing is ever fetched then. Empty: the keys are fetched.
	StaticJWKS []byte
	// Skew is by how much the issuer's clock may differ from the node's, 0 to
	// MaxSkew. 0 means DefaultSkew. More skew accepts tokens longer after their end.
	Skew time.Duration
	// SubjectClaim names the claim on the first level that is the subject; only a
	// text is one. Empty: sub. With a claim that people can set for themselves, such as
	// a display name, they can be whom they like.
	SubjectClaim string
	// Lifetime is the longest that a token may live, from iat to exp, at most
	// MaxLifetime. 0 means DefaultLifetime.
	Lifetime time.Duration
}

// clone returns a copy that shares nothing with i.
func (i Issuer) clone() Issuer {
	i.Audiences = slices.Clone(i.Audiences)
	i.StaticJWKS = bytes.Clone(i.StaticJWKS)
	cas := make([][]byte, 0, len(i.CAs))
	for _, der := range i.CAs {
		cas = append(cas, bytes.Clone(der))
	}
	i.CAs = cas
	return i
}

// equal reports whether i and o say the same.
func (i Issuer) equal(o Issuer) bool {
	return i.sameKeys(o) && i.Path == o.Path && i.Skew == o.Skew && i.SubjectClaim == o.SubjectClaim && i.Lifetime == o.Lifetime &&
		slices.Equal(i.Audiences, o.Audiences)
}

// sameKeys reports whether i and o get their keys in the same way, so that the
// keys of one are those of the other.
func (i Issuer) sameKeys(o Issuer) bool {
	return i.UID == o.UID && i.URL == o.URL && bytes.Equal(i.StaticJWKS, o.StaticJWKS) && slices.EqualFunc(i.CAs, o.CAs, bytes.Equal)
}

// withDefaults returns i with what its zero values mean.
func (i Issuer) withDefaults() Issuer {
	if i.Skew == 0 {
		i.Skew = DefaultSkew
	}
	if i.SubjectClaim == "" {
		i.SubjectClaim = "sub"
	}
	if i.Lifetime == 0 {
		i.Lifetime = DefaultLifetime
	}
	return i
}

// Check reports what is wrong with i, or nil. Who registers an issuer is told by
// it before the cluster is.
func (i Issuer) Check() error {
	if i.UID.IsZero() {
		return errors.New("the issuer has no uid")
	}
	if err := checkURL(i.URL); err != nil {
		return err
	}
	if len(i.Audiences) == 0 || len(i.Audiences) > MaxAudiences {
		return fmt.Errorf("the issuer has %d audiences, and 1 to %d are possible", len(i.Audiences), MaxAudiences)
	}
	for n, a := range i.Audiences {
		if !printable(a, MaxAudience) || slices.Contains(i.Audiences[:n], a) {
			return fmt.Errorf("audience %d of the issuer is not 1 to %d bytes of printable text, or stands twice", n+1, MaxAudience)
		}
	}
	if _, err := roots(i.CAs); err != nil {
		return err
	}
	if len(i.StaticJWKS) > 0 {
		if _, err := parseKeys(i.StaticJWKS, refuseUnusable); err != nil {
			return fmt.Errorf("key set of the issuer: %w", err)
		}
	}
	switch {
	case i.Skew < 0 || i.Skew > MaxSkew:
		return fmt.Errorf("the skew of the issuer is not 0 to %v", MaxSkew)
	case i.SubjectClaim != "" && !printable(i.SubjectClaim, MaxSubjectClaim):
		return fmt.Errorf("the subject claim of the issuer is not up to %d bytes of printable text", MaxSubjectClaim)
	case i.Lifetime < 0 || i.Lifetime > MaxLifetime:
		return fmt.Errorf("the longest lifetime of the issuer's tokens is not 0 to %v", MaxLifetime)
	}
	return nil
}

var errURL = fmt.Errorf("the URL of the issuer is not https://<host>[:port][/path] in at most %d printable characters of ASCII", MaxURL)

// checkURL accepts what OpenID Connect Discovery 1.0, 3 allows for an issuer. The
// URL is not normalised: two spellings are two issuers.
func checkURL(s string) error {
	if len(s) > MaxURL || !asciiOnly(s) {
		return errURL
	}
	u, err := url.Parse(s)
	if err != nil || !httpsURL(u) || u.RawQuery != "" || u.ForceQuery {
		return errURL
	}
	return nil
}

// httpsURL reports whether u is an https URL with a host, and without a user or a fragment.
func httpsURL(u *url.URL) bool {
	return u.Scheme == "https" && u.Hostname() != "" && u.User == nil && u.Fragment == "" && u.Opaque == ""
}

func asciiOnly(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '#' {
			return false
		}
	}
	return true
}

// roots returns the certificates that a fetch trusts; nil are the system's.
func roots(cas [][]byte) (*x509.CertPool, error) {
	if len(cas) == 0 {
		return nil, nil //nolint:nilnil // What crypto/tls takes for the system's.
	}
	if len(cas) > MaxCAs {
		return nil, fmt.Errorf("the issuer has %d CA certificates, and at most %d are possible", len(cas), MaxCAs)
	}
	pool := x509.NewCertPool()
	for n, der := range cas {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("CA certificate %d of the issuer is not a certificate in DER", n+1)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}
