package gcpkms

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"

	"github.com/openkcm/krypton-cluster/keystore"
)

// poll is how often a job or an import is looked at until it is done. Google
// makes the wrapping key of a job in the HSM, which takes seconds.
const poll = 250 * time.Millisecond

// ImportParameters implements [keystore.Importer]: it makes an import job in
// the key's ring, with a wrapping key of its own that lives for three days.
func (p *Provider) ImportParameters(ctx context.Context, req keystore.ImportParametersRequest) (keystore.ImportParameters, error) {
	c, ctx, end := p.begin(ctx, keystore.OpImportParameters, req.Key, req.Correlation)
	defer end()
	key, err := c.start(req.Check(p.name))
	if err != nil {
		return keystore.ImportParameters{}, err
	}
	k, err := c.getKey(ctx, key.keyName())
	if err != nil {
		return keystore.ImportParameters{}, c.judge(ctx, err, key, "")
	}
	if k.GetPurpose() != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		return keystore.ImportParameters{}, c.fail(keystore.Misconfigured, fmt.Errorf("the key has the purpose %s", k.GetPurpose()))
	}
	var suffix [8]byte
	if _, err := io.ReadFull(p.env.Rand, suffix[:]); err != nil {
		return keystore.ImportParameters{}, c.fail(keystore.Unavailable, fmt.Errorf("read randomness: %w", err))
	}
	job, err := ask(ctx, c, (*kms.KeyManagementClient).CreateImportJob, &kmspb.CreateImportJobRequest{
		Parent: key.ringName(), ImportJobId: "krypton-" + hex.EncodeToString(suffix[:]),
		ImportJob: &kmspb.ImportJob{
			ImportMethod:    kmspb.ImportJob_RSA_OAEP_4096_SHA256_AES_256,
			ProtectionLevel: k.GetVersionTemplate().GetProtectionLevel(),
		},
	})
	for err == nil && job.GetState() == kmspb.ImportJob_PENDING_GENERATION {
		if err = p.env.Clock.Sleep(ctx, poll); err == nil {
			job, err = ask(ctx, c, (*kms.KeyManagementClient).GetImportJob, &kmspb.GetImportJobRequest{Name: job.GetName()})
		}
	}
	if err != nil {
		return keystore.ImportParameters{}, c.judge(ctx, err, key, "")
	}
	der, err := publicKey(job.GetPublicKey().GetPem())
	if err != nil || job.GetState() != kmspb.ImportJob_ACTIVE {
		return keystore.ImportParameters{}, c.fail(keystore.Unavailable, fmt.Errorf("import job in state %s: %w", job.GetState(), err))
	}
	return keystore.ImportParameters{
		PublicKey: der, Mechanism: keystore.ImportRSAAESKeyWrap256, Token: []byte(job.GetName()),
		Expires: job.GetExpireTime().AsTime(), RequestID: c.id,
	}, nil
}

// ImportMaterial implements [keystore.Importer]: the material becomes a new
// version of the key, and that one its primary version, so that it is what
// wraps from then on. The versions before stay as they are.
func (p *Provider) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	c, ctx, end := p.begin(ctx, keystore.OpImportMaterial, req.Key, req.Correlation)
	defer end()
	key, err := c.start(req.Check(p.name))
	if err != nil {
		return keystore.ImportResult{}, err
	}
	job := string(req.Token)
	if id, ok := strings.CutPrefix(job, key.ringName()+"/importJobs/"); !ok || !validID(id, "") {
		return keystore.ImportResult{}, c.fail(keystore.Misconfigured, errors.New("the token is no import job of this key's ring"))
	}
	v, err := ask(ctx, c, (*kms.KeyManagementClient).ImportCryptoKeyVersion, &kmspb.ImportCryptoKeyVersionRequest{
		Parent: key.keyName(), ImportJob: job, WrappedKey: req.Wrapped,
		Algorithm: kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION,
	})
	for err == nil && v.GetState() == kmspb.CryptoKeyVersion_PENDING_IMPORT {
		if err = p.env.Clock.Sleep(ctx, poll); err == nil {
			v, err = c.getVersion(ctx, v.GetName())
		}
	}
	if err != nil {
		return keystore.ImportResult{}, c.importFailed(ctx, err, key)
	}
	number, err := key.versionOf(v.GetName())
	switch {
	case err != nil:
		return keystore.ImportResult{}, c.fail(keystore.Unavailable, err)
	case v.GetState() == kmspb.CryptoKeyVersion_IMPORT_FAILED:
		return keystore.ImportResult{}, c.fail(keystore.Corrupt, fmt.Errorf("the material was not imported: %q", clip(v.GetImportFailureReason())))
	case v.GetState() != kmspb.CryptoKeyVersion_ENABLED:
		return keystore.ImportResult{}, c.fail(keystore.Unavailable, fmt.Errorf("the imported version %s is in state %s", number, v.GetState()))
	}
	primary := &kmspb.UpdateCryptoKeyPrimaryVersionRequest{Name: key.keyName(), CryptoKeyVersionId: string(number)}
	if _, err := ask(ctx, c, (*kms.KeyManagementClient).UpdateCryptoKeyPrimaryVersion, primary); err != nil {
		return keystore.ImportResult{}, c.importFailed(ctx, fmt.Errorf("version %s is imported and not primary yet: %w", number, err), key)
	}
	p.learn(req.Key, number)
	return keystore.ImportResult{KeyVersion: number, RequestID: c.id}, nil
}

// start is what both begin with.
func (c *call) start(check error) (resource, error) {
	if err := c.usable(); err != nil {
		return resource{}, err
	}
	if check != nil {
		return resource{}, check
	}
	key, err := c.p.resource(c.key)
	if err != nil {
		return resource{}, c.fail(keystore.Misconfigured, err)
	}
	return key, nil
}

// importFailed is judge for an import: what is refused there withdraws nothing.
// An import needs rights of its own, and a job can be used up or too old.
func (c *call) importFailed(ctx context.Context, err error, key resource) error {
	judged := c.judge(ctx, err, key, "")
	if keystore.IsDenied(judged) {
		return c.fail(keystore.Misconfigured, errors.Unwrap(judged))
	}
	return judged
}

func publicKey(text string) ([]byte, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, errors.New("the answer has no public key")
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || len(block.Bytes) > keystore.MaxImportPublicKey {
		return nil, errors.New("the answer has no usable public key")
	}
	return block.Bytes, nil
}
