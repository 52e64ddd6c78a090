package awskms

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/openkcm/krypton-cluster/keystore"
)

var _ keystore.Importer = (*Keystore)(nil)

// ImportParameters implements [keystore.Importer]: KMS makes a wrapping key that
// is accepted for 24 hours. The key's origin has to be EXTERNAL. The mechanism is
// RSA-OAEP alone: KMS takes RSA with AES key wrap for private keys only.
func (k *Keystore) ImportParameters(ctx context.Context, req keystore.ImportParametersRequest) (keystore.ImportParameters, error) {
	ctx, c, err := k.begin(ctx, keystore.OpImportParameters, req.Key, req.Correlation)
	if err != nil {
		return keystore.ImportParameters{}, err
	}
	if err := req.Check(k.name); err != nil {
		return keystore.ImportParameters{}, err
	}
	if err := c.key(); err != nil {
		return keystore.ImportParameters{}, err
	}
	var out *kms.GetParametersForImportOutput
	_, err = c.send(ctx, func(ctx context.Context, with func(*kms.Options)) (err error) {
		out, err = k.client.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
			KeyId: aws.String(string(req.Key)), WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa4096,
		}, with)
		return err
	})
	if err != nil {
		return keystore.ImportParameters{}, c.failed(ctx, err)
	}
	id := answered(out.ResultMetadata)
	if err := c.checkKey(out.KeyId); err != nil {
		return keystore.ImportParameters{}, c.fail(keystore.Unavailable, id, err)
	}
	if p, t := len(out.PublicKey), len(out.ImportToken); p < 1 || p > keystore.MaxImportPublicKey || t < 1 || t > keystore.MaxImportToken {
		return keystore.ImportParameters{}, c.fail(keystore.Unavailable, id, errors.New("the answer's public key or token is outside the limits"))
	}
	return keystore.ImportParameters{
		PublicKey: out.PublicKey, Mechanism: keystore.ImportOAEP256, Token: out.ImportToken,
		Expires: aws.ToTime(out.ParametersValidTo), RequestID: id,
	}, nil
}

// ImportMaterial implements [keystore.Importer]. The material does not expire by
// itself. A key that had material takes the same again and, this way, no other.
func (k *Keystore) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	ctx, c, err := k.begin(ctx, keystore.OpImportMaterial, req.Key, req.Correlation)
	if err != nil {
		return keystore.ImportResult{}, err
	}
	if err := req.Check(k.name); err != nil {
		return keystore.ImportResult{}, err
	}
	if err := c.key(); err != nil {
		return keystore.ImportResult{}, err
	}
	if len(req.Token) == 0 {
		return keystore.ImportResult{}, c.fail(keystore.Misconfigured, "", errors.New("no import token; it comes with the import parameters"))
	}
	var out *kms.ImportKeyMaterialOutput
	_, err = c.send(ctx, func(ctx context.Context, with func(*kms.Options)) (err error) {
		out, err = k.client.ImportKeyMaterial(ctx, &kms.ImportKeyMaterialInput{
			KeyId: aws.String(string(req.Key)), ImportToken: req.Token, EncryptedKeyMaterial: req.Wrapped,
			ExpirationModel: types.ExpirationModelTypeKeyMaterialDoesNotExpire,
		}, with)
		return err
	})
	if err != nil {
		return keystore.ImportResult{}, c.failed(ctx, err)
	}
	return keystore.ImportResult{RequestID: answered(out.ResultMetadata)}, nil
}
