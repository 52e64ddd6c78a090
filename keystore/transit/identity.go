package transit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// maxCredential is the longest credential that is read from a file, in bytes: a
// service account's token has about a thousand.
const maxCredential = 16 << 10

// grant is a session with the server.
type grant struct {
	token    token
	ttl      time.Duration // from its start; 0: it does not end
	begun    time.Time
	renewals bool // the server may make it longer
	full     time.Duration
}

// token is a session's token. It prints as nothing.
type token string

// Format implements fmt.Formatter.
func (token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[token]") }

// MarshalJSON implements json.Marshaler.
func (token) MarshalJSON() ([]byte, error) { return nil, errors.New("a token has no encoding") }

// identity is how a node shows who it is. Everything of it comes from its
// settings; files are read at each login, so that they can be replaced.
type identity struct {
	identitySettings
}

// own reports whether logins make sessions of their own, which the provider
// renews and ends. The token in a file belongs to what put it there.
func (i identity) own() bool { return i.auth != authTokenFile }

// clientCertificate is tls.Config.GetClientCertificate for the cert method, nil
// for others. A certificate that is renewed on disk counts from the next
// connection on.
func (i identity) clientCertificate() func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if i.auth != authCert {
		return nil
	}
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(i.certFile, i.keyFile)
		if err != nil {
			return nil, err
		}
		return &pair, nil
	}
}

// files are what the identity is made of.
func (i identity) files() []string {
	return slices.DeleteFunc([]string{i.roleIDFile, i.secretIDFile, i.jwtFile, i.certFile, i.tokenFile}, func(path string) bool { return path == "" })
}

// digest changes when what a login would say changes. A file that cannot be
// read counts as empty: the login says what is wrong with it.
func (i identity) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, path := range i.files() {
		info, err := os.Stat(path)
		if err != nil || info.Size() > maxCredential {
			fmt.Fprintf(h, "none %s", path)
			continue
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%d %v ", len(b), err == nil)
		h.Write(b)
		clear(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// login gets a new session, with the call's correlation id.
func (i identity) login(ctx context.Context, c *client, id corr.ID, now func() time.Time) (*grant, error) {
	if i.auth == authTokenFile {
		b, err := credential(i.tokenFile)
		if err != nil {
			return nil, misconfigured(err)
		}
		defer clear(b)
		return &grant{token: token(b), begun: now()}, nil
	}
	body, err := i.loginBody()
	if err != nil {
		return nil, misconfigured(err)
	}
	out := newOutgoing(body)
	defer out.finish()
	if i.auth == authCert {
		// Connections that are open may have been made with an older certificate.
		c.transport.CloseIdleConnections()
	}
	var rep authReply
	begun := now()
	res, err := c.send(ctx, request{method: http.MethodPost, path: "auth/" + i.mount + "/login", correlation: id, body: out}, &rep)
	if err != nil {
		return nil, err
	}
	if f := loginFailure(i.auth, res, &rep.reply); f != nil {
		return nil, f
	}
	return rep.grant(begun)
}

// renew makes a session longer.
func (c *client) renew(ctx context.Context, g *grant, id corr.ID, now func() time.Time) (*grant, error) {
	out := newOutgoing([]byte("{}"))
	defer out.finish()
	var rep authReply
	begun := now()
	res, err := c.send(ctx, request{method: http.MethodPost, path: "auth/token/renew-self", token: g.token, correlation: id, body: out}, &rep)
	if err != nil {
		return nil, err
	}
	if res.status != http.StatusOK {
		return nil, fail(keystore.Unavailable, rep.RequestID, fmt.Errorf("the token is not renewed: %s", rep.says(res.status)))
	}
	next, err := rep.grant(begun)
	if err != nil {
		return nil, err
	}
	next.full = g.full
	return next, nil
}

// authReply is the answer to logins and renewals.
type authReply struct {
	reply

	Auth *struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int64  `json:"lease_duration"` // seconds
		Renewable     bool   `json:"renewable"`
	} `json:"auth"`
}

func (r *authReply) grant(begun time.Time) (*grant, error) {
	a := r.Auth
	// MFA answers 200 with requirements in place of a token.
	if a == nil || a.ClientToken == "" {
		return nil, misconfigured(errors.New("the server gave no token; a login with a second factor is not possible for a program"))
	}
	const most = int64(100 * 365 * 24 * time.Hour / time.Second)
	if a.LeaseDuration < 0 || a.LeaseDuration > most {
		return nil, fail(keystore.Unavailable, r.RequestID, fmt.Errorf("the server gave a token for %d seconds", a.LeaseDuration))
	}
	ttl := time.Duration(a.LeaseDuration) * time.Second
	return &grant{token: token(a.ClientToken), ttl: ttl, begun: begun, renewals: a.Renewable, full: ttl}, nil
}

// loginBody is the request of the method. The caller wipes it.
func (i identity) loginBody() ([]byte, error) {
	switch i.auth {
	case authCert:
		if i.role == "" {
			return []byte("{}"), nil
		}
		return object(field{"name", []byte(i.role)})
	case authAppRole:
		role, err := credential(i.roleIDFile)
		if err != nil {
			return nil, err
		}
		secret, err := credential(i.secretIDFile)
		if err != nil {
			return nil, err
		}
		defer clear(secret)
		return object(field{"role_id", role}, field{"secret_id", secret})
	case authKubernetes:
		jwt, err := credential(i.jwtFile)
		if err != nil {
			return nil, err
		}
		defer clear(jwt)
		return object(field{"role", []byte(i.role)}, field{"jwt", jwt})
	}
	return nil, fmt.Errorf("no login for auth %q", i.auth)
}

// field is a name and a value of a request.
type field struct {
	name  string
	value []byte
}

// object writes a flat JSON object. Values are printable ASCII without quotes
// and backslashes, as credentials are, and never become strings.
func object(fields ...field) ([]byte, error) {
	size := 2
	for _, f := range fields {
		size += len(f.name) + len(f.value) + 6
	}
	out := append(make([]byte, 0, size), '{')
	for n, f := range fields {
		if !plain(f.value) {
			clear(out)
			return nil, fmt.Errorf("the %s is not printable ASCII without quotes and backslashes", f.name)
		}
		if n > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), f.name...), `":"`...)
		out = append(append(out, f.value...), '"')
	}
	return append(out, '}'), nil
}

func plain(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

// credential reads a file without the white space around it.
func credential(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, maxCredential+1)
	n, err := io.ReadFull(f, buf)
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		clear(buf)
		return nil, err
	}
	if n > maxCredential {
		clear(buf)
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxCredential)
	}
	b := bytes.TrimSpace(buf[:n])
	if len(b) == 0 || !plain(b) {
		clear(buf)
		return nil, fmt.Errorf("%s does not hold one credential in printable ASCII", path)
	}
	out := bytes.Clone(b)
	clear(buf)
	return out, nil
}

var _ json.Marshaler = token("")
