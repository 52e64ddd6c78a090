package awskms

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

const (
	// contextKey is the one key of the encryption context. Changing it breaks
	// stored blobs and customers' policies.
	contextKey = "krypton"
	// maxCiphertext is the longest ciphertext that KMS takes, in bytes.
	maxCiphertext = 6144
	// probe is the key that Health asks for. It need not be there: KMS answers
	// about keys only to credentials that it knows.
	probe = "alias/krypton-health"
)

// Keystore is a keystore in AWS KMS. It implements [keystore.Importer].
type Keystore struct {
	name      string
	env       keystore.Env
	s         settings
	transport *http.Transport
	client    *kms.Client
	tokens    *sts.Client
	login     *login
	base      *login // of an identity of a tenant: what assumes it, which is not its own; else nil
	closed    atomic.Bool
}

// New is the [keystore.Constructor] of this package. It reads the file of CA
// certificates and makes no call.
func New(ctx context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
	s, err := parseSettings(cfg)
	if err != nil {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: cfg.Name, Op: keystore.OpOpen}, err)
	}
	k := &Keystore{name: cfg.Name, env: env, s: s, transport: s.newTransport()}
	client := newClient(k.transport)
	o := kms.Options{
		Region: s.region, HTTPClient: client, Retryer: aws.NopRetryer{}, Credentials: none,
		DisableClockSkewCorrection: true, HTTPSignerV4: newSigner(env.Clock),
		APIOptions: clean(),
	}
	if s.endpoint != "" {
		o.BaseEndpoint = &s.endpoint
	}
	k.client = kms.New(o)
	k.tokens = s.newSTS(env, client)
	k.login = s.newLogin(env, k.tokens, cfg.Name)
	if s.auth == authStaticFile {
		env.Logger.LogAttrs(ctx, slog.LevelWarn, "keystore uses long-lived keys of a user; whoever copies the file has them until they are rotated: prefer web-identity or imds",
			slog.String("keystore", cfg.Name))
	}
	return k, nil
}

// encryptionContext binds the AAD (see the package comment).
func encryptionContext(aad []byte) map[string]string {
	sum := sha256.Sum256(aad)
	return map[string]string{contextKey: base64.RawURLEncoding.EncodeToString(sum[:])}
}

// Wrap implements [keystore.Provider].
func (k *Keystore) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	ctx, c, err := k.begin(ctx, keystore.OpWrap, req.Key, req.Correlation)
	if err != nil {
		return keystore.WrapResult{}, err
	}
	if err := req.Check(k.name); err != nil {
		return keystore.WrapResult{}, err
	}
	if err := c.key(); err != nil {
		return keystore.WrapResult{}, err
	}
	// The SDK wants a slice of ours for as long as the request lasts, which is
	// too long for reveal's scope.
	plaintext := make([]byte, 0, keystore.MaxSecret)
	defer func() { clear(plaintext[:cap(plaintext)]) }()
	if err := reveal.With(req.Secret, func(b []byte) error { plaintext = append(plaintext, b...); return nil }); err != nil {
		return keystore.WrapResult{}, c.fail(keystore.Unavailable, "", err)
	}
	var out *kms.EncryptOutput
	err = c.use(ctx, func(ctx context.Context, with func(*kms.Options)) (err error) {
		var w wiping
		defer w.end()
		out, err = k.client.Encrypt(ctx, &kms.EncryptInput{
			KeyId: aws.String(string(req.Key)), Plaintext: plaintext,
			EncryptionContext: encryptionContext(req.AAD), EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
		}, with, func(o *kms.Options) { o.APIOptions = append(o.APIOptions, w.step) })
		return err
	})
	if err != nil {
		return keystore.WrapResult{}, err
	}
	id := answered(out.ResultMetadata)
	if err := c.checkKey(out.KeyId); err != nil {
		return keystore.WrapResult{}, c.fail(keystore.Unavailable, id, err)
	}
	if n := len(out.CiphertextBlob); n < 1 || n > maxCiphertext {
		return keystore.WrapResult{}, c.fail(keystore.Unavailable, id, fmt.Errorf("ciphertext of %d bytes, the limit is %d", n, maxCiphertext))
	}
	b, err := blob.Blob{Mechanism: blob.Native, Wrapped: out.CiphertextBlob}.Encode()
	if err != nil {
		return keystore.WrapResult{}, c.fail(keystore.Unavailable, id, err)
	}
	return keystore.WrapResult{Blob: b, RequestID: id}, nil
}

// Unwrap implements [keystore.Provider].
func (k *Keystore) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	ctx, c, err := k.begin(ctx, keystore.OpUnwrap, req.Key, req.Correlation)
	if err != nil {
		return keystore.UnwrapResult{}, err
	}
	if err := req.Check(k.name); err != nil {
		return keystore.UnwrapResult{}, err
	}
	if err := c.key(); err != nil {
		return keystore.UnwrapResult{}, err
	}
	b, err := blob.Parse(req.Blob)
	if err != nil || b.Mechanism != blob.Native || b.KeyVersion != "" || len(b.Wrapped) > maxCiphertext {
		return keystore.UnwrapResult{}, c.fail(keystore.Corrupt, "", errDoesNotOpen)
	}
	var out *kms.DecryptOutput
	err = c.use(ctx, func(ctx context.Context, with func(*kms.Options)) (err error) {
		out, err = k.client.Decrypt(ctx, &kms.DecryptInput{
			KeyId: aws.String(string(req.Key)), CiphertextBlob: b.Wrapped, // I2
			EncryptionContext: encryptionContext(req.AAD), EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
		}, with)
		return err
	})
	if err != nil {
		return keystore.UnwrapResult{}, err
	}
	defer clear(out.Plaintext)
	id := answered(out.ResultMetadata)
	if err := c.checkKey(out.KeyId); err != nil {
		return keystore.UnwrapResult{}, c.fail(keystore.Unavailable, id, err)
	}
	if n := len(out.Plaintext); n < 1 || n > keystore.MaxSecret {
		return keystore.UnwrapResult{}, c.fail(keystore.Corrupt, id, fmt.Errorf("secret of %d bytes, the limits are 1 and %d", n, keystore.MaxSecret))
	}
	secret, err := memsec.Take(out.Plaintext, req.Class)
	if err != nil { // no room in protected memory
		return keystore.UnwrapResult{}, c.fail(keystore.Unavailable, id, err)
	}
	return keystore.UnwrapResult{Secret: secret, RequestID: id}, nil
}

// checkKey compares the key of an answer with the one that was asked for, where
// the reference has its id. What answers otherwise is not KMS.
func (c *call) checkKey(arn *string) error {
	if got := aws.ToString(arn); got == "" || c.keyID != "" && !strings.HasSuffix(got, ":key/"+c.keyID) {
		return errors.New("the answer is about another key")
	}
	return nil
}

// describe asks for a key's metadata.
func (k *Keystore) describe(ctx context.Context, ref keystore.KeyRef, with func(*kms.Options)) (*types.KeyMetadata, keystore.RequestID, error) {
	out, err := k.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(string(ref))}, with)
	if err != nil {
		return nil, "", err
	}
	if out.KeyMetadata == nil {
		return nil, "", errors.New("the answer has no metadata of a key")
	}
	return out.KeyMetadata, answered(out.ResultMetadata), nil
}

// Describe implements [keystore.Provider].
func (k *Keystore) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	ctx, c, err := k.begin(ctx, keystore.OpDescribe, req.Key, req.Correlation)
	if err != nil {
		return keystore.Description{}, err
	}
	if err := req.Check(k.name); err != nil {
		return keystore.Description{}, err
	}
	if err := c.key(); err != nil {
		return keystore.Description{}, err
	}
	var m *types.KeyMetadata
	var id keystore.RequestID
	_, err = c.send(ctx, func(ctx context.Context, with func(*kms.Options)) (err error) {
		m, id, err = k.describe(ctx, req.Key, with)
		return err
	})
	if err != nil {
		return keystore.Description{}, c.failed(ctx, err)
	}
	if err := c.checkKey(m.Arn); err != nil {
		return keystore.Description{}, c.fail(keystore.Unavailable, id, err)
	}
	d := described(m)
	d.RequestID = id
	return d, nil
}

func described(m *types.KeyMetadata) keystore.Description {
	d := keystore.Description{Key: keystore.KeyRef(aws.ToString(m.Arn)), Kind: keystore.KindAsymmetric, Mechanism: clip(string(m.KeySpec))}
	switch m.KeyState {
	case types.KeyStateEnabled, types.KeyStateUpdating:
		d.State = keystore.StateEnabled
	case types.KeyStateDisabled, types.KeyStatePendingImport:
		d.State = keystore.StateDisabled
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		d.State = keystore.StatePendingDeletion
	case types.KeyStateCreating, types.KeyStateUnavailable:
	}
	if m.KeySpec == types.KeySpecSymmetricDefault {
		d.Kind, d.Mechanism = keystore.KindSymmetric, "AES-256-GCM"
	}
	var notes []string
	switch m.Origin {
	case types.OriginTypeAwsKms:
		d.Protection = keystore.ProtectionHSM
	case types.OriginTypeExternal:
		d.Protection = keystore.ProtectionHSM
		notes = append(notes, "imported material")
	case types.OriginTypeAwsCloudhsm:
		d.Protection = keystore.ProtectionHSM
		notes = append(notes, "in a CloudHSM cluster")
	case types.OriginTypeExternalKeyStore:
		// What stands behind the customer's proxy, AWS does not know.
		notes = append(notes, "outside AWS, through an external key store")
	}
	if m.KeyState == types.KeyStatePendingImport {
		notes = append(notes, "waits for material")
	}
	if aws.ToBool(m.MultiRegion) {
		kind := types.MultiRegionKeyType("")
		if m.MultiRegionConfiguration != nil {
			kind = m.MultiRegionConfiguration.MultiRegionKeyType
		}
		notes = append(notes, "multi-Region "+strings.ToLower(clip(string(kind))))
	}
	if len(notes) > 0 {
		d.Mechanism += " (" + strings.Join(notes, ", ") + ")"
	}
	return d
}

// Health implements [keystore.Provider]: KMS answers to the credentials. That
// they may not describe the key that it asks for, or that it is not there, says
// that they are known.
func (k *Keystore) Health(ctx context.Context, id corr.ID) error {
	ctx, c, err := k.begin(ctx, keystore.OpHealth, "", id)
	if err != nil {
		return err
	}
	_, err = c.send(ctx, func(ctx context.Context, with func(*kms.Options)) error {
		_, _, err := k.describe(ctx, probe, with)
		return err
	})
	if v := verdictOf(err); err != nil && v.class == keystore.Denied && ctx.Err() == nil {
		return nil // a login that failed is never Denied
	}
	return c.failed(ctx, err)
}

// Close implements [keystore.Provider]. It waits for logins that are under way.
func (k *Keystore) Close() error {
	if k.closed.Swap(true) {
		return nil
	}
	k.login.close()
	if k.base == nil {
		k.transport.CloseIdleConnections()
	}
	return nil
}
