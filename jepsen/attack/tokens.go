//go:build unix

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	issuerURL = "https://id.example"
	audience  = "krypton"
	tokenKid  = "1"
	// ops is bound as operator, app as the tenant's workload.
	opsSubject, appSubject = "ops", "app"
)

// issuers are the services of tokens of the attacked cluster.
type issuers struct {
	*theatre

	key   *ecdsa.PrivateKey // of issuers/corp
	other *ecdsa.PrivateKey // of issuers/other, with the same key id
}

// token is what a forger decides.
type token struct {
	header, claims map[string]any
	sign           func(input []byte) ([]byte, error)
}

// honestToken is a token of issuers/corp for a subject.
func (i *issuers) honestToken(subject string) token {
	return token{
		header: map[string]any{"alg": "ES256", "typ": "JWT", "kid": tokenKid},
		claims: map[string]any{"iss": issuerURL, "aud": audience, "sub": subject, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()},
		sign:   es256(i.key),
	}
}

func es256(key *ecdsa.PrivateKey) func([]byte) ([]byte, error) {
	return func(input []byte) ([]byte, error) {
		sum := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			return nil, err
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return sig, nil
	}
}

// text is the token as it is sent.
func (t token) text() (string, error) {
	part := func(v any) (string, error) {
		b, err := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b), err
	}
	head, err := part(t.header)
	if err != nil {
		return "", err
	}
	body, err := part(t.claims)
	if err != nil {
		return "", err
	}
	sig, err := t.sign([]byte(head + "." + body))
	return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(sig), err
}

// tokens are attacks with bearer tokens. The control of each is a token that differs
// from the attacker's in the one thing.
func tokens() []attack {
	const forger = "who can make any token, and has not the issuer's key"
	return []attack{
		{
			name: "a token without a signature", who: forger, tries: "shows a token with alg none", stops: "a list of algorithms, without none",
			without: "the same claims, signed by the issuer",
			run: told(func(_ *issuers, t token) token {
				t.header["alg"] = "none"
				t.sign = func([]byte) ([]byte, error) { return random16(), nil } // an empty one is no token at all
				return t
			}),
		},
		{
			name: "a token signed with the public key", who: forger, tries: "shows a token with alg HS256 whose secret is the issuer's public key",
			stops: "a list of algorithms, without shared secrets", without: "the same claims, signed by the issuer",
			run: told(func(i *issuers, t token) token {
				t.header["alg"] = "HS256"
				t.sign = func(input []byte) ([]byte, error) {
					pub, err := x509.MarshalPKIXPublicKey(i.key.Public())
					h := hmac.New(sha256.New, pub)
					h.Write(input)
					return h.Sum(nil), err
				}
				return t
			}),
		},
		{
			name: "a token for another audience", who: "a program to which somebody showed a token", tries: "shows the token to the cluster",
			stops: "the audience has to be one that the issuer is registered with", without: "the same token for the cluster",
			run: told(func(_ *issuers, t token) token {
				t.claims["aud"] = "somebody-else"
				return t
			}),
		},
		{
			name: "a token of another issuer", who: "another registered issuer, whose key has the same id", tries: "signs a token in the first one's name",
			stops: "keys are looked up under the issuer that the token names", without: "the same claims, signed by that issuer",
			run: told(func(i *issuers, t token) token {
				t.sign = es256(i.other)
				return t
			}),
		},
		{
			name: "a token that says what role it is", who: "who gets a token with claims of their own choice", tries: "shows a token with role, groups and scope of an operator",
			stops: "a token proves issuer and subject; the role is that of a role binding", without: "the same claims, for a subject that is bound as operator",
			run: told(func(_ *issuers, t token) token {
				t.claims["sub"] = "mallory"
				t.claims["role"], t.claims["groups"], t.claims["scope"] = "operator", []string{"operator", "governor"}, "krypton:operator"
				return t
			}),
		},
		{
			name: "a workload's token that governs", who: "a workload with a token", tries: "asks for a join token, and its own says that it is an operator's",
			stops: "the table of duties, by the role of the binding", without: "the same call with the token of an operator",
			run: told(func(_ *issuers, t token) token {
				t.claims["sub"] = appSubject
				t.claims["role"] = "operator"
				return t
			}, errs.Denied),
		},
	}
}

// told is an attack with a token that was changed; the control shows it as it was.
func told(forge func(*issuers, token) token, want ...errs.Code) func(context.Context, *world) (finding, error) {
	return func(ctx context.Context, w *world) (f finding, err error) {
		i, err := w.withIssuers(ctx)
		if err != nil {
			return f, notTried(err)
		}
		code := errs.Unauthenticated
		if len(want) > 0 {
			code = want[0]
		}
		f.broke, f.ended, f.evidence = judged(i.operate(ctx, forge(i, i.honestToken(opsSubject))), code)
		if i.operate(ctx, i.honestToken(opsSubject)) == nil {
			f.control = "the join token was made"
		}
		return f, nil
	}
}

// operate asks for a join token with a token, which operators may.
func (i *issuers) operate(ctx context.Context, t token) error {
	text, err := t.text()
	if err != nil {
		return notTried(err)
	}
	path, err := i.w.path("token-" + rand.Text())
	if err != nil {
		return notTried(err)
	}
	if err := writeFile(path, []byte(text)); err != nil {
		return notTried(err)
	}
	c, err := client.New(ctx, client.With(client.Options{Addrs: i.Addrs(), CAFile: i.CAFile(), TokenFile: path}))
	if err != nil {
		return notTried(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.Cluster().CreateJoinToken(ctx, &kryptonv1.CreateJoinTokenRequest{})
	return err
}

// withIssuers returns the cluster with its two issuers of tokens.
func (w *world) withIssuers(ctx context.Context) (*issuers, error) {
	w.mu.Lock()
	i := w.issuers
	w.mu.Unlock()
	if i != nil {
		return i, nil
	}
	t, err := w.cluster(ctx, "tokens", 1, honest)
	if err != nil {
		return nil, err
	}
	i = &issuers{theatre: t}
	if i.key, err = newKey(); err != nil {
		return nil, err
	}
	if i.other, err = newKey(); err != nil {
		return nil, err
	}
	err = t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		for _, one := range []struct {
			id, url string
			key     *ecdsa.PrivateKey
		}{{"corp", issuerURL, i.key}, {"other", issuerURL + "/other", i.other}} {
			jwks, err := keySet(one.key)
			if err != nil {
				return err
			}
			_, err = c.Access().CreateIssuer(ctx, &kryptonv1.CreateIssuerRequest{IssuerId: one.id, Issuer: &kryptonv1.Issuer{
				Kind:  &kryptonv1.Issuer_Jwt{Jwt: &kryptonv1.JWTIssuer{Url: one.url, Audiences: []string{audience}, Keys: jwks}},
				Roles: []kryptonv1.Role{kryptonv1.Role_ROLE_OPERATOR, kryptonv1.Role_ROLE_WORKLOAD}, Tenants: []string{tenant},
			}})
			if err != nil {
				return err
			}
		}
		_, err := c.Access().CreateRoleBinding(ctx, &kryptonv1.CreateRoleBindingRequest{RoleBindingId: "ops", RoleBinding: &kryptonv1.RoleBinding{
			Issuer: "issuers/corp", Subject: opsSubject, Role: kryptonv1.Role_ROLE_OPERATOR, Member: "ops",
		}})
		if err != nil {
			return err
		}
		_, err = c.Access().CreateRoleBinding(ctx, &kryptonv1.CreateRoleBindingRequest{Parent: tenant, RoleBindingId: "jwt-app", RoleBinding: &kryptonv1.RoleBinding{
			Issuer: "issuers/corp", Subject: appSubject, Role: kryptonv1.Role_ROLE_WORKLOAD, Member: "jwt-app",
		}})
		return err
	})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.issuers = i
	w.mu.Unlock()
	return i, nil
}

// keySet is the JSON Web Key Set of one key.
func keySet(key *ecdsa.PrivateKey) ([]byte, error) {
	pub, err := key.PublicKey.ECDH()
	if err != nil {
		return nil, err
	}
	raw := pub.Bytes()
	if len(raw) != 65 {
		return nil, errors.New("the key is not of P-256")
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return json.Marshal(map[string]any{"keys": []map[string]any{{
		"kty": "EC", "crv": "P-256", "kid": tokenKid, "alg": "ES256", "x": b64(raw[1:33]), "y": b64(raw[33:]),
	}}})
}
