package azureserver

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // What Azure's transfer format has inside OAEP.
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"
)

func started(t *testing.T, f Flavour) *Server {
	t.Helper()
	s, err := Start(t.Context(), Options{Flavour: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A token of the right issuer for another service is none for this one.
func TestATokenForAnotherServiceIsRefused(t *testing.T) {
	s := started(t, Vault)
	id := s.AddManaged()
	for resource, want := range map[string]bool{"https://vault.azure.net": true, "https://managedhsm.azure.net": false, "https://graph.microsoft.com": false} {
		token, e := s.issue(id, resource)
		if e != nil {
			t.Fatal(e)
		}
		r := &http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}}
		if _, e := s.authenticate(r); (e == nil) != want {
			t.Errorf("%s: %v", resource, e)
		}
	}
}

// An assertion counts with the certificate that is registered, named by its
// thumbprint, for the token endpoint, by the application about itself.
func TestACertificatesAssertionIsVerified(t *testing.T) {
	s := started(t, Vault)
	id, file, err := s.AddApplication()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	base := s.AuthorityURL() + "/" + s.tenant
	good := jwt.Claims{
		Issuer: id.ClientID, Subject: id.ClientID, Audience: jwt.Audience{base + "/oauth2/v2.0/token"},
		NotBefore: jwt.NewNumericDate(s.now()), Expiry: jwt.NewNumericDate(s.now().Add(time.Minute)),
	}
	thumb := base64.RawURLEncoding.EncodeToString(id.thumbprint[:])
	for name, c := range map[string]struct {
		thumb  string
		change func(*jwt.Claims)
		text   string
	}{
		"good":               {thumb, func(*jwt.Claims) {}, ""},
		"no thumbprint":      {"", func(*jwt.Claims) {}, "AADSTS700027"},
		"another thumbprint": {strings.Repeat("A", 43), func(*jwt.Claims) {}, "AADSTS700027"},
		"another endpoint":   {thumb, func(c *jwt.Claims) { c.Audience = jwt.Audience{"https://other/token"} }, "AADSTS700024"},
		"another issuer":     {thumb, func(c *jwt.Claims) { c.Issuer = "x" }, "AADSTS700024"},
		"another subject":    {thumb, func(c *jwt.Claims) { c.Subject = "x" }, "AADSTS700024"},
		"expired":            {thumb, func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(s.now().Add(-time.Second)) }, "AADSTS700024"},
		"without an end":     {thumb, func(c *jwt.Claims) { c.Expiry = nil }, "AADSTS50027"},
	} {
		claims := good
		c.change(&claims)
		opts := (&jose.SignerOptions{}).WithHeader("x5t#S256", c.thumb)
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.PS256, Key: pair.PrivateKey}, opts)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		e := s.checkAssertion(id, token, base)
		if (c.text == "") != (e == nil) || (e != nil && !strings.HasPrefix(e.aadsts, c.text)) {
			t.Errorf("%s: %v", name, e)
		}
	}
	if b, _ := pem.Decode(file); b == nil || b.Type != "CERTIFICATE" {
		t.Error("the file does not begin with the certificate")
	}
}

// Only a key that is for nothing but imports opens a transfer blob.
func TestATransferBlobNeedsAKeyExchangeKey(t *testing.T) {
	s := started(t, ManagedHSM)
	for name, make := range map[string]func() error{
		"kek":    func() error { return s.CreateKEK("kek", 2048) },
		"worker": func() error { return s.CreateRSA("worker", 2048) },
		"off":    func() error { return s.CreateKEK("off", 2048) },
		"gone":   func() error { return s.CreateKEK("gone", 2048) },
		"aes": func() error {
			return s.create("aes", azkeys.KeyTypeOctHSM, 256, []azkeys.KeyOperation{azkeys.KeyOperationImport})
		},
	} {
		if err := make(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	blob := func(name string) []byte {
		t.Helper()
		v := s.keys[name].versions[0]
		public := &s.keys["kek"].versions[0].rsa.PublicKey
		if v.rsa != nil {
			public = &v.rsa.PublicKey
		}
		once := make([]byte, 32)
		out, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, public, once, nil)
		if err != nil {
			t.Fatal(err)
		}
		kwp, err := subtle.NewKWP(once)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := kwp.Wrap(make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		doc := transfer{Schema: "1.0.0", Generator: "test", Ciphertext: base64.RawURLEncoding.EncodeToString(append(out, wrapped...))}
		doc.Header.KID, doc.Header.Alg, doc.Header.Enc = "https://v/keys/"+name+"/"+v.id, "dir", "CKM_RSA_AES_KEY_WRAP"
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	blobs := map[string][]byte{}
	for _, name := range []string{"kek", "worker", "off", "gone", "aes"} {
		blobs[name] = blob(name)
	}
	if err := s.SetEnabled("off", false); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("gone"); err != nil {
		t.Fatal(err)
	}
	for name, doc := range blobs {
		if _, err := s.receive(azkeys.KeyTypeOctHSM, doc); (err == nil) != (name == "kek") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
