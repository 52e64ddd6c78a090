//go:build !noazurekv

package azurekv_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // What Azure's transfer format has inside OAEP.
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/byok"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/azureserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

// transferBlob is what the tool of an HSM's vendor makes offline.
func transferBlob(t *testing.T, p keystore.ImportParameters, material []byte) []byte {
	t.Helper()
	pub, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	once := make([]byte, 32)
	if _, err := rand.Read(once); err != nil {
		t.Fatal(err)
	}
	out, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub.(*rsa.PublicKey), once, nil)
	if err != nil {
		t.Fatal(err)
	}
	kwp, err := subtle.NewKWP(once)
	if err != nil {
		t.Fatal(err)
	}
	target, err := kwp.Wrap(material)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(map[string]any{
		"schema_version": "1.0.0", "generator": "test tool 1.0", "ciphertext": base64.RawURLEncoding.EncodeToString(append(out, target...)),
		"header": map[string]string{"kid": p.KeyID, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestAnRSAKeyOfTheCustomerComesInThroughATransferBlob(t *testing.T) {
	for _, flavour := range []azureserver.Flavour{azureserver.Vault, azureserver.ManagedHSM} {
		t.Run(flavour.String(), func(t *testing.T) {
			b := start(t, flavour)
			b.must(b.CreateKEK(kekName, rsaBits))
			b.Assign(b.id, b.EncryptionUser(), kekName)
			b.Assign(b.id, b.EncryptionUser(), "own")
			b.Assign(b.id, azureserver.Importer, "own")
			p := b.open(b.settings)
			imp, ok := p.(keystore.Importer)
			if !ok {
				t.Fatal("a vault with a key exchange key is no keystore.Importer")
			}
			own, err := rsa.GenerateKey(rand.Reader, 3072)
			b.must(err)
			der, err := x509.MarshalPKCS8PrivateKey(own)
			b.must(err)
			params, err := imp.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: "own", Correlation: b.correlation()})
			b.must(err)
			if params.Mechanism != keystore.ImportAzureBYOK || !strings.Contains(params.KeyID, "/keys/"+kekName+"/") || params.RequestID == "" {
				t.Errorf("%+v", params)
			}
			doc := transferBlob(t, params, der)
			res, err := imp.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: "own", Wrapped: doc, Correlation: b.correlation()})
			b.must(err)
			s := b.secret()
			wrapped, err := b.wrap(p, "own", s)
			b.must(err)
			if wrapped.KeyVersion != res.KeyVersion || res.RequestID == "" {
				t.Errorf("imported as %q, wrapped with %q", res.KeyVersion, wrapped.KeyVersion)
			}
			b.must(b.unwrap(p, "own", wrapped.Blob, s))
			// A second import is a second version.
			again, err := imp.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: "own", Wrapped: doc})
			b.must(err)
			if again.KeyVersion == res.KeyVersion {
				t.Error("two imports are one version")
			}
			b.must(b.unwrap(p, "own", wrapped.Blob, s))

			refuse := func(what string, key keystore.KeyRef, doc []byte, class keystore.Class, texts ...string) {
				t.Helper()
				_, err := imp.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: key, Wrapped: doc})
				is(t, what, err, class, texts...)
			}
			other := params
			other.KeyID = strings.Replace(params.KeyID, kekName, "other-kek", 1)
			refuse("for another KEK", "own", transferBlob(t, other, der), keystore.Corrupt, "another key exchange key")
			refuse("no JSON", "own", []byte("RSA"), keystore.Corrupt)
			refuse("no base64", "own", bytes.Replace(doc, []byte(`"ciphertext":"`), []byte(`"ciphertext":"%`), 1), keystore.Corrupt)
			refuse("another schema", "own", bytes.Replace(doc, []byte("1.0.0"), []byte("2.0.0"), 1), keystore.Corrupt, "schema")
			refuse("no private key", "own", transferBlob(t, params, make([]byte, 100)), keystore.Corrupt, "PKCS#8")
			refuse("a version", keystore.KeyRef(b.VaultURL()+"/keys/own/"+string(res.KeyVersion)), doc, keystore.Misconfigured, "names one")
			refuse("without the right", "foreign", doc, keystore.Misconfigured, "ForbiddenByRbac")
			b.must(b.Delete("own"))
			refuse("the name of a deleted key", "own", doc, keystore.Misconfigured, "ObjectIsDeletedButRecoverable")
			b.must(b.Recover("own"))
			b.must(b.unwrap(p, "own", wrapped.Blob, s))

			// The key exchange key is checked before anything is wrapped under it.
			_, err = b.wrap(p, kekName, s)
			is(t, "wrap under the KEK", err, keystore.Misconfigured, "does not wrap")
			b.must(b.SetOperations(kekName, azkeys.KeyOperationImport, azkeys.KeyOperationUnwrapKey))
			_, err = imp.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: "own"})
			is(t, "KEK that can do more", err, keystore.Misconfigured, "only operation")
			b.must(b.SetOperations(kekName, azkeys.KeyOperationImport))
			b.must(b.SetEnabled(kekName, false))
			_, err = imp.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: "own"})
			is(t, "disabled KEK", err, keystore.Misconfigured, "enabled")
			b.must(b.Delete(kekName))
			_, err = imp.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: "own"})
			is(t, "deleted KEK", err, keystore.Misconfigured, kekName)
		})
	}
}

// A Key Vault has no AES keys; a Managed HSM takes one.
func TestAnAESKeyComesIntoAManagedHSMOnly(t *testing.T) {
	for flavour, class := range map[azureserver.Flavour]keystore.Class{azureserver.Vault: keystore.Corrupt, azureserver.ManagedHSM: keystore.ClassUnspecified} {
		t.Run(flavour.String(), func(t *testing.T) {
			b := start(t, flavour)
			b.must(b.CreateKEK(kekName, rsaBits))
			b.Assign(b.id, b.EncryptionUser(), kekName)
			b.Assign(b.id, b.EncryptionUser(), "own")
			b.Assign(b.id, azureserver.Importer, "own")
			p := b.open(b.settings)
			imp, ok := p.(keystore.Importer)
			if !ok {
				t.Fatal("no keystore.Importer")
			}
			params, err := imp.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: "own"})
			b.must(err)
			material, err := memsec.Random(rand.Reader, 32, memsec.Hot)
			b.must(err)
			defer material.Destroy()
			doc, err := byok.Wrap(rand.Reader, params, material)
			b.must(err)
			_, err = imp.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: "own", Wrapped: doc})
			if class != keystore.ClassUnspecified {
				is(t, "AES key", err, class, "oct-HSM")
				return
			}
			b.must(err)
			b.good(p, "own", b.secret())
			d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: "own"})
			b.must(err)
			if d.Kind != keystore.KindSymmetric || d.Mechanism != "A256KW" {
				t.Errorf("%+v", d)
			}
		})
	}
}

func TestAVaultWithoutAKeyExchangeKeyImportsNothing(t *testing.T) {
	b := start(t, azureserver.Vault)
	if _, is := b.open(b.with(map[string]string{"import_kek": ""})).(keystore.Importer); is {
		t.Error("it is a keystore.Importer")
	}
}
