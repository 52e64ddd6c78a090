package gcpserver

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"time"
)

// subjectIssuer is the identity provider of the workload: a Kubernetes cluster.
const subjectIssuer = "https://cluster.example"

// allowedSkew is how far ahead the clock of who signs may be, in seconds.
const allowedSkew = 300

const jwtHeader = `{"alg":"RS256","typ":"JWT"}`

type claims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub,omitempty"`
	Audience string `json:"aud"`
	Scope    string `json:"scope,omitempty"`
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

var errJWT = errors.New("the token does not verify")

// readJWT verifies a token signed with RS256; no other algorithm is known here.
func readJWT(token string, by *signer) (claims, error) {
	key, err := by.get()
	if err != nil {
		return claims{}, err
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errJWT
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			return claims{}, errJWT
		}
		raw[i] = b
	}
	var head struct {
		Alg string `json:"alg"`
	}
	var c claims
	if json.Unmarshal(raw[0], &head) != nil || head.Alg != "RS256" || json.Unmarshal(raw[1], &c) != nil {
		return claims{}, errJWT
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], raw[2]) != nil {
		return claims{}, errJWT
	}
	return c, nil
}

func signJWT(c claims, by *signer) (string, error) {
	key, err := by.get()
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(jwtHeader)) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// SubjectToken is a token that the workload's own identity provider gives it,
// as Kubernetes projects one into a file.
func (s *Server) SubjectToken(subject string, lifetime time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	return signJWT(claims{
		Issuer: subjectIssuer, Subject: subject, Audience: "https:" + Audience,
		Issued: now.Unix(), Expires: now.Add(lifetime).Unix(),
	}, &s.accounts.issuer)
}

// KeyFile is a file with a key of [KeyFileAccount], as Google hands one out.
func (s *Server) KeyFile() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, err := s.accounts.keyFile.get()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": Project, "private_key_id": "0123456789abcdef",
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": KeyFileAccount, "client_id": "1", "token_uri": s.TokenEndpoint(),
	}, "", "  ")
}

// RotateKeyFile replaces the key of [KeyFileAccount]; files with the old one are refused.
func (s *Server) RotateKeyFile() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts.keyFile = signer{}
	_, err := s.accounts.keyFile.get()
	return err
}
