//go:build !noazurekv

package azurekv

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/openkcm/krypton-cluster/keystore"
)

// importer is a vault with a key exchange key. One without is no
// [keystore.Importer], so that who asks learns it before anything is wrapped.
type importer struct{ *Keystore }

// ImportParameters implements [keystore.Importer]: the public key of the key
// exchange key that the setting import_kek names. The vault's owner makes it
// once, for imports only; it is not for one target key, does not expire, and
// its private part does not leave the HSM.
func (k importer) ImportParameters(ctx context.Context, req keystore.ImportParametersRequest) (keystore.ImportParameters, error) {
	ctx, c, err := k.begin(ctx, keystore.OpImportParameters, req.Key, req.Correlation, req.Check)
	if err != nil {
		return keystore.ImportParameters{}, err
	}
	defer c.end()
	if err := c.canImport(); err != nil {
		return keystore.ImportParameters{}, err
	}
	c.ref = reference{name: k.kek}
	res, err := k.client.GetKey(c.request(ctx), k.kek, "", nil)
	c.answered()
	if err != nil {
		v, cause := c.failed(ctx, err)
		// A key exchange key that is away withdraws nobody's key.
		class := v.class()
		if v != passing && v != throttled {
			class = keystore.Misconfigured
		}
		return keystore.ImportParameters{}, c.fail(class, fmt.Errorf("%s %s: %w", settingKEK, k.kek, cause))
	}
	f, err := c.facts(res.KeyBundle)
	if err != nil {
		return keystore.ImportParameters{}, err
	}
	if f.kind != azkeys.KeyTypeRSAHSM || !f.enabled || !slices.Equal(f.ops, []azkeys.KeyOperation{azkeys.KeyOperationImport}) {
		return keystore.ImportParameters{}, c.fail(keystore.Misconfigured, fmt.Errorf("%s %s has to be an enabled key of type RSA-HSM whose only operation is import", settingKEK, k.kek))
	}
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(res.Key.N), E: int(new(big.Int).SetBytes(res.Key.E).Int64())}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil || public.N.BitLen() < 2048 || public.E < 3 || len(der) > keystore.MaxImportPublicKey {
		return keystore.ImportParameters{}, c.fail(keystore.Unavailable, errBroken)
	}
	return keystore.ImportParameters{PublicKey: der, Mechanism: keystore.ImportAzureBYOK, KeyID: string(*res.Key.KID), RequestID: c.id}, nil
}

// canImport refuses what no request could do.
func (c *call) canImport() error {
	if c.ref.version != "" {
		return c.fail(keystore.Misconfigured, errors.New("an import makes a new version; the reference names one"))
	}
	return nil
}

// aesMaterial is how much longer than the RSA part the ciphertext of an
// AES-256 key is: AES key wrap with padding adds 8 bytes.
const aesMaterial = 32 + 8

// ImportMaterial implements [keystore.Importer]. Wrapped is the key transfer
// blob, a JSON document. An AES-256 key in it becomes an AES key of a Managed
// HSM, which a Key Vault refuses; everything longer an RSA key.
func (k importer) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	ctx, c, err := k.begin(ctx, keystore.OpImportMaterial, req.Key, req.Correlation, req.Check)
	if err != nil {
		return keystore.ImportResult{}, err
	}
	defer c.end()
	if err := c.canImport(); err != nil {
		return keystore.ImportResult{}, err
	}
	kind, err := targetType(req.Wrapped, k.kek)
	if err != nil {
		return keystore.ImportResult{}, c.fail(keystore.Corrupt, err)
	}
	wrap, unwrap, enabled := azkeys.KeyOperationWrapKey, azkeys.KeyOperationUnwrapKey, true
	res, err := k.client.ImportKey(c.request(ctx), c.ref.name, azkeys.ImportKeyParameters{
		Key:           &azkeys.JSONWebKey{Kty: &kind, KeyOps: []*azkeys.KeyOperation{&wrap, &unwrap}, T: req.Wrapped},
		KeyAttributes: &azkeys.KeyAttributes{Enabled: &enabled},
	}, nil)
	c.answered()
	if err != nil {
		v, cause := c.failed(ctx, err)
		switch v {
		case refused:
			return keystore.ImportResult{}, c.fail(keystore.Corrupt, cause)
		case withdrawn, missing, forbidden:
			// Of the right to import; no key was withdrawn that wraps anything.
			v = setup
		case passing, throttled, setup:
		}
		return keystore.ImportResult{}, c.fail(v.class(), cause)
	}
	f, err := c.facts(res.KeyBundle)
	if err != nil {
		return keystore.ImportResult{}, err
	}
	c.k.remember(c.ref, f.kind)
	return keystore.ImportResult{KeyVersion: keystore.KeyVersion(f.version), RequestID: c.id}, nil
}

// targetType reads from a transfer blob what it is for. It is the vault that
// judges it.
func targetType(blob []byte, kek string) (azkeys.KeyType, error) {
	var doc struct {
		Header struct {
			KID string `json:"kid"`
		} `json:"header"`
		Ciphertext string `json:"ciphertext"`
	}
	if err := json.Unmarshal(blob, &doc); err != nil {
		return "", errors.New("the material is no key transfer blob")
	}
	ciphertext, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(doc.Ciphertext, "="))
	if err != nil {
		return "", errors.New("the ciphertext of the key transfer blob is not base64url")
	}
	if !strings.Contains(strings.ToLower(doc.Header.KID), "/keys/"+strings.ToLower(kek)+"/") {
		return "", errors.New("the material was wrapped for another key exchange key")
	}
	for _, modulus := range []int{2048 / 8, 3072 / 8, 4096 / 8} {
		if len(ciphertext) == modulus+aesMaterial {
			return azkeys.KeyTypeOctHSM, nil
		}
	}
	return azkeys.KeyTypeRSAHSM, nil
}
