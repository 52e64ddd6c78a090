package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// domain is the label of blobs of this type. Changing it breaks stored blobs.
const domain = "krypton/v1/gcpkms"

// mechanismName is what people read of GOOGLE_SYMMETRIC_ENCRYPTION.
const mechanismName = "AES-256-GCM"

// longestCall bounds a call whose caller has no deadline; the guard before each
// keystore has one.
const longestCall = time.Minute

// maxGuesses is how many keys have their last version remembered.
const maxGuesses = 4096

var (
	errClosed  = errors.New("the keystore is closed")
	errDamaged = errors.New("the answer was damaged on its way: checksums differ")
)

// Provider is a configured Cloud KMS. It implements [keystore.Provider] and
// [keystore.Importer].
type Provider struct {
	name   string
	env    keystore.Env
	opts   options
	tokens *tokens
	links  *links
	limit  time.Duration // longestCall but in tests
	closed atomic.Bool

	borrows bool // the links are those of another one, as which a tenant's identity is assumed

	mu      sync.Mutex // never held over I/O
	guesses map[keystore.KeyRef]keystore.KeyVersion
}

// New is the [keystore.Constructor] of this package. It makes no call.
func New(_ context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
	o, err := read(cfg)
	if err != nil {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: cfg.Name, Op: keystore.OpOpen}, err)
	}
	w := newWeb(o.tls)
	return &Provider{
		name: cfg.Name, env: env, opts: o, limit: longestCall,
		tokens:  newTokens(newSource(o, w, env.Clock), env.Clock, env.Logger, cfg.Name),
		links:   &links{endpoint: o.endpoint, tls: o.tls},
		guesses: map[keystore.KeyRef]keystore.KeyVersion{},
	}, nil
}

// Wrap implements [keystore.Provider].
//
// The version that encrypts is part of the additional data, so that nobody can
// change it in the blob; but which one it is Google says with its answer. So
// the version that the key had last is assumed. If the answer names another,
// the secret is encrypted once more, under that one by name.
func (p *Provider) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	c, ctx, end := p.begin(ctx, keystore.OpWrap, req.Key, req.Correlation)
	defer end()
	if err := c.usable(); err != nil {
		return keystore.WrapResult{}, err
	}
	if err := req.Check(p.name); err != nil {
		return keystore.WrapResult{}, err
	}
	key, err := p.resource(req.Key)
	if err != nil {
		return keystore.WrapResult{}, c.fail(keystore.Misconfigured, err)
	}
	target, assumed := key.keyName(), p.guess(req.Key)
	for range 2 {
		aad := binding(req.Key, req.AAD).Full(blob.Native, assumed)
		resp, err := c.encrypt(ctx, target, req.Secret, aad)
		if err != nil {
			return keystore.WrapResult{}, c.judge(ctx, err, key, "")
		}
		version, err := key.versionOf(resp.GetName())
		if err != nil {
			return keystore.WrapResult{}, c.fail(keystore.Unavailable, err)
		}
		if version == assumed {
			data, err := blob.Blob{Mechanism: blob.Native, KeyVersion: version, Wrapped: resp.GetCiphertext()}.Encode()
			if err != nil {
				return keystore.WrapResult{}, c.fail(keystore.Unavailable, err)
			}
			return keystore.WrapResult{Blob: data, KeyVersion: version, RequestID: c.id}, nil
		}
		p.learn(req.Key, version)
		target, assumed = key.versionName(version), version
	}
	return keystore.WrapResult{}, c.fail(keystore.Unavailable, errors.New("another version of the key answered than the one that was named"))
}

// Unwrap implements [keystore.Provider].
func (p *Provider) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	c, ctx, end := p.begin(ctx, keystore.OpUnwrap, req.Key, req.Correlation)
	defer end()
	if err := c.usable(); err != nil {
		return keystore.UnwrapResult{}, err
	}
	if err := req.Check(p.name); err != nil {
		return keystore.UnwrapResult{}, err
	}
	key, err := p.resource(req.Key)
	if err != nil {
		return keystore.UnwrapResult{}, c.fail(keystore.Misconfigured, err)
	}
	b, err := blob.Parse(req.Blob)
	if err == nil && (b.Mechanism != blob.Native || !validVersion(b.KeyVersion)) {
		err = blob.ErrDoesNotOpen
	}
	if err != nil {
		return keystore.UnwrapResult{}, c.fail(keystore.Corrupt, err)
	}
	resp, err := c.decrypt(ctx, key.keyName(), b.Wrapped, binding(req.Key, req.AAD).Full(blob.Native, b.KeyVersion))
	if err != nil {
		return keystore.UnwrapResult{}, c.judge(ctx, err, key, b.KeyVersion)
	}
	secret, err := memsec.Take(resp.GetPlaintext(), req.Class) // wipes it
	if err != nil {
		return keystore.UnwrapResult{}, c.fail(keystore.Unavailable, err)
	}
	return keystore.UnwrapResult{Secret: secret, KeyVersion: b.KeyVersion, RequestID: c.id}, nil
}

// Describe implements [keystore.Provider].
func (p *Provider) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	c, ctx, end := p.begin(ctx, keystore.OpDescribe, req.Key, req.Correlation)
	defer end()
	if err := c.usable(); err != nil {
		return keystore.Description{}, err
	}
	if err := req.Check(p.name); err != nil {
		return keystore.Description{}, err
	}
	key, err := p.resource(req.Key)
	if err != nil {
		return keystore.Description{}, c.fail(keystore.Misconfigured, err)
	}
	k, err := c.getKey(ctx, key.keyName())
	if err != nil {
		return keystore.Description{}, c.judge(ctx, err, key, "")
	}
	if !key.isName(k.GetName()) {
		return keystore.Description{}, c.fail(keystore.Unavailable, errors.New("the answer is about another key"))
	}
	d := keystore.Description{
		Key: req.Key, Kind: keystore.KindSymmetric, Mechanism: mechanismName, RequestID: c.id,
		State:      stateOf(k.GetPrimary().GetState()),
		Protection: protectionOf(k.GetVersionTemplate().GetProtectionLevel()),
	}
	if k.GetPurpose() != kmspb.CryptoKey_ENCRYPT_DECRYPT {
		// Of another purpose: it is described as it is, and Wrap refuses it.
		d.Mechanism = k.GetVersionTemplate().GetAlgorithm().String()
		d.Kind = keystore.KindUnknown
		return d, nil
	}
	if primary := k.GetPrimary(); primary != nil {
		if d.KeyVersion, err = key.versionOf(primary.GetName()); err != nil {
			return keystore.Description{}, c.fail(keystore.Unavailable, err)
		}
		d.Protection = protectionOf(primary.GetProtectionLevel())
	}
	return d, nil
}

// Health implements [keystore.Provider]. It asks for a key ring that need not
// exist: Google judges the token before it looks for anything, so that "not
// found" and "you may not" are answers to an accepted identity.
func (p *Provider) Health(ctx context.Context, id corr.ID) error {
	c, ctx, end := p.begin(ctx, keystore.OpHealth, "", id)
	defer end()
	if err := c.usable(); err != nil {
		return err
	}
	project, location := p.opts.project, p.opts.location
	if project == "" {
		project = "-"
	}
	if location == "" {
		location = "global"
	}
	ring := resource{project: project, location: location, ring: "krypton-health"}.ringName()
	_, err := ask(ctx, c, (*kms.KeyManagementClient).GetKeyRing, &kmspb.GetKeyRingRequest{Name: ring})
	if err == nil || answersToIdentity(err) {
		return nil
	}
	return c.judge(ctx, err, resource{}, "")
}

// Close implements [keystore.Provider]. Running calls fail.
func (p *Provider) Close() error {
	if !p.closed.Swap(true) && !p.borrows {
		p.links.close()
	}
	return nil
}

// resource reads a reference and holds it against the configuration.
func (p *Provider) resource(ref keystore.KeyRef) (resource, error) {
	r, err := parseKey(ref)
	switch {
	case err != nil:
		return resource{}, err
	case p.opts.project != "" && r.project != p.opts.project:
		return resource{}, fmt.Errorf("the key is in project %s, and this keystore is for project %s", r.project, p.opts.project)
	case p.opts.location != "" && r.location != p.opts.location:
		return resource{}, fmt.Errorf("the key is in location %s, and this keystore is for location %s", r.location, p.opts.location)
	}
	return r, nil
}

func (p *Provider) guess(ref keystore.KeyRef) keystore.KeyVersion {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.guesses[ref]
}

func (p *Provider) learn(ref keystore.KeyRef, v keystore.KeyVersion) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.guesses) >= maxGuesses {
		clear(p.guesses) // a wrong guess costs one call
	}
	p.guesses[ref] = v
}

func binding(ref keystore.KeyRef, aad []byte) blob.Binding {
	return blob.Binding{Domain: domain, Key: ref, AAD: aad}
}

// sum is the CRC32C that Google asks for. It finds damage, not attacks: for
// those there is TLS, and the tag of the ciphertext.
func sum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

func sameSum(b []byte, want *wrapperspb.Int64Value) bool {
	return want != nil && want.GetValue() == sum(b).GetValue()
}

// encrypt encrypts the secret and checks the answer: that the request arrived
// whole and that the ciphertext did.
func (c *call) encrypt(ctx context.Context, target string, secret memsec.Secret, aad []byte) (*kmspb.EncryptResponse, error) {
	// A copy that is wiped here, and not the call inside of With: its scope
	// tracks and erases every allocation, and a call makes many.
	plain := make([]byte, secret.Len())
	defer clear(plain)
	if err := reveal.With(secret, func(b []byte) error { copy(plain, b); return nil }); err != nil {
		return nil, err
	}
	resp, err := ask(ctx, c, (*kms.KeyManagementClient).Encrypt, &kmspb.EncryptRequest{
		Name: target, Plaintext: plain, PlaintextCrc32C: sum(plain),
		AdditionalAuthenticatedData: aad, AdditionalAuthenticatedDataCrc32C: sum(aad),
	})
	if err != nil {
		return nil, err
	}
	if !resp.GetVerifiedPlaintextCrc32C() || !resp.GetVerifiedAdditionalAuthenticatedDataCrc32C() ||
		!sameSum(resp.GetCiphertext(), resp.GetCiphertextCrc32C()) {
		return nil, errDamaged
	}
	return resp, nil
}

func (c *call) decrypt(ctx context.Context, target string, wrapped, aad []byte) (*kmspb.DecryptResponse, error) {
	resp, err := ask(ctx, c, (*kms.KeyManagementClient).Decrypt, &kmspb.DecryptRequest{
		Name: target, Ciphertext: wrapped, CiphertextCrc32C: sum(wrapped),
		AdditionalAuthenticatedData: aad, AdditionalAuthenticatedDataCrc32C: sum(aad),
	})
	if err != nil {
		return nil, err
	}
	// An answer without a plaintext has no field for it on the wire, and the
	// checksum of nothing: no blob of ours holds an empty secret.
	if n := len(resp.GetPlaintext()); n < 1 || n > keystore.MaxSecret || !sameSum(resp.GetPlaintext(), resp.GetPlaintextCrc32C()) {
		clear(resp.GetPlaintext())
		return nil, errDamaged
	}
	return resp, nil
}

func stateOf(s kmspb.CryptoKeyVersion_CryptoKeyVersionState) keystore.KeyState {
	switch s {
	case kmspb.CryptoKeyVersion_ENABLED:
		return keystore.StateEnabled
	case kmspb.CryptoKeyVersion_DISABLED:
		return keystore.StateDisabled
	case kmspb.CryptoKeyVersion_DESTROY_SCHEDULED:
		return keystore.StatePendingDeletion
	case kmspb.CryptoKeyVersion_DESTROYED, kmspb.CryptoKeyVersion_PENDING_EXTERNAL_DESTRUCTION, kmspb.CryptoKeyVersion_EXTERNAL_DESTRUCTION_FAILED:
		return keystore.StateDeleted
	case kmspb.CryptoKeyVersion_CRYPTO_KEY_VERSION_STATE_UNSPECIFIED, kmspb.CryptoKeyVersion_PENDING_GENERATION,
		kmspb.CryptoKeyVersion_PENDING_IMPORT, kmspb.CryptoKeyVersion_IMPORT_FAILED, kmspb.CryptoKeyVersion_GENERATION_FAILED:
	}
	return keystore.StateUnknown
}

// protectionOf says nothing of external keys: where those are, Google does not
// know either.
func protectionOf(l kmspb.ProtectionLevel) keystore.Protection {
	switch l {
	case kmspb.ProtectionLevel_SOFTWARE:
		return keystore.ProtectionSoftware
	case kmspb.ProtectionLevel_HSM, kmspb.ProtectionLevel_HSM_SINGLE_TENANT:
		return keystore.ProtectionHSM
	case kmspb.ProtectionLevel_PROTECTION_LEVEL_UNSPECIFIED, kmspb.ProtectionLevel_EXTERNAL, kmspb.ProtectionLevel_EXTERNAL_VPC:
	}
	return keystore.ProtectionUnknown
}
