package auth

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Limits of what a caller shows, in bytes, where one node hands it to another.
const (
	MaxCertificate = 32 << 10 // of the one certificate, DER
	MaxToken       = 8 << 10
)

// Credential is what a caller showed to a node to prove who they are: one certificate,
// whose key the connection proved, or one token. The node keeps it for the time of the
// call, so that another node need not take its word for whose call it is. The zero
// Credential is none. It is safe for concurrent use.
//
// A token gives to whoever has it what it gives to its holder. It leaves by
// [Credential.Token] only: package fmt, package log/slog and encoders write nothing of it.
type Credential struct {
	certificate []byte
	// A pointer, because package fmt prints the fields of a Credential inside an
	// unexported field of another struct without asking its methods, and follows no
	// pointer there.
	token *string
}

// CertificateShown is a client certificate, DER. The caller must not change it later.
func CertificateShown(der []byte) Credential { return Credential{certificate: der} }

// TokenShown is a bearer token.
func TokenShown(token string) Credential { return Credential{token: &token} }

// IsZero reports whether nothing was shown.
func (c Credential) IsZero() bool { return c.certificate == nil && c.token == nil }

// Certificate returns the certificate, which must not be changed; nil if it is none.
func (c Credential) Certificate() []byte { return c.certificate }

// Token returns the token, or "" if it is none.
func (c Credential) Token() string {
	if c.token == nil {
		return ""
	}
	return *c.token
}

// String says what was shown and nothing of it.
func (c Credential) String() string {
	switch {
	case c.token != nil:
		return "(a token)"
	case c.certificate != nil:
		return "(a certificate)"
	}
	return "(nothing)"
}

// Format writes [Credential.String] for every verb of package fmt.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue writes [Credential.String] to logs.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText refuses: a credential is not encoded by accident.
func (Credential) MarshalText() ([]byte, error) {
	return nil, errors.New("a credential is not encoded implicitly")
}
