package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Failure is one keystore that did not open the MasterKey.
type Failure struct {
	ProviderKey

	Class keystore.Class // Corrupt also for a wrapping that opens to another key
	Err   error
}

// AutoError is the failure of every keystore of a record. It carries the code
// errs.Sealed and names each keystore with its class.
type AutoError struct{ Failures []Failure }

// Error lists the keystores.
func (e *AutoError) Error() string {
	var b strings.Builder
	b.WriteString("no keystore opened the MasterKey")
	for i, f := range e.Failures {
		sep := ": "
		if i > 0 {
			sep = ", "
		}
		fmt.Fprintf(&b, "%s%s %s", sep, f.ProviderKey, f.Class)
	}
	return b.String()
}

// Unwrap returns the error for a caller and every keystore's own.
func (e *AutoError) Unwrap() []error {
	all := []error{errs.New(errs.Sealed, e.Error(), errs.Hint("look at the keystores that the error names; the node tries again by itself"))}
	for _, f := range e.Failures {
		all = append(all, f.Err)
	}
	return all
}

// Transient reports whether trying again later can help without anybody
// changing something: at least one keystore was away or throttled.
func (e *AutoError) Transient() bool {
	for _, f := range e.Failures {
		if f.Class == keystore.Unavailable || f.Class == keystore.Throttled {
			return true
		}
	}
	return false
}

// Opened is a MasterKey that a keystore opened. The caller owns the secret.
type Opened struct {
	MasterKey memsec.Secret
	By        ProviderKey
	// Failures are the keystores that failed before one succeeded. Those that
	// were not done yet are not in it.
	Failures []Failure
}

// OpenAuto opens a record in auto mode through the keystores, all at once; the
// first one whose MasterKey matches the commitment wins (I2) and the other
// calls are cancelled. It returns when all calls have ended. Each keystore is
// asked once; the caller retries while [AutoError.Transient], and checks
// before that no hold is set. The correlation id of ctx goes to the keystores.
func OpenAuto(ctx context.Context, r Record, keystores *keystore.Registry) (Opened, error) {
	if r.IsZero() || r.Mode() != ModeAuto {
		return Opened{}, errs.New(errs.FailedState, "the MasterKey is not protected by keystores", errs.Cause(ErrMode))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		out Opened
	)
	for _, w := range r.pb.GetWrappings() {
		wg.Go(func() {
			mk, err := openWrapping(ctx, r, w, keystores)
			pk := providerKey(w)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !out.MasterKey.IsZero(): // another one won
				mk.Destroy()
			case err != nil:
				out.Failures = append(out.Failures, Failure{ProviderKey: pk, Class: classOfOpening(err), Err: err})
			default:
				out.MasterKey, out.By = mk, pk
				cancel()
			}
		})
	}
	wg.Wait()
	if out.MasterKey.IsZero() {
		return Opened{}, &AutoError{Failures: out.Failures}
	}
	return out, nil
}

func classOfOpening(err error) keystore.Class {
	if errs.Is(err, errs.StateCorrupt) {
		return keystore.Corrupt
	}
	return keystore.ClassOf(err)
}

func providerKey(w *sealpb.Wrapping) ProviderKey {
	return ProviderKey{Provider: w.GetProviderKey().GetProvider(), Key: keystore.KeyRef(w.GetProviderKey().GetKey())}
}

// wrapAll fills pb for auto mode. Every keystore of the plan has to wrap.
func wrapAll(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, p Plan, keystores *keystore.Registry, pb *sealpb.Record) error {
	pb.Manifest.Mode = sealpb.Mode_MODE_AUTO
	for _, k := range p.ProviderKeys {
		w, err := wrapOne(ctx, rand, masterKey, c, k, keystores)
		if err != nil {
			return fmt.Errorf("wrap MasterKey under %s: %w", k, err)
		}
		pb.Manifest.ProviderKeys = append(pb.Manifest.ProviderKeys, w.GetProviderKey())
		pb.Wrappings = append(pb.Wrappings, w)
	}
	return nil
}

// wrapOne gives the keystore a key that is used once and encrypts the
// MasterKey with that (I6): a keystore's log, or a proxy that inspects TLS
// before it, is worth nothing without the record.
func wrapOne(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, k ProviderKey, keystores *keystore.Registry) (*sealpb.Wrapping, error) {
	if keystores == nil {
		return nil, errors.New("no keystores are configured")
	}
	prov, err := keystores.Get(k.Provider)
	if err != nil {
		return nil, err
	}
	once, err := memsec.Random(rand, memsec.KeySize, memsec.Hot)
	if err != nil {
		return nil, err
	}
	defer once.Destroy()
	a, err := memsec.NewAEAD(once)
	if err != nil {
		return nil, err
	}
	defer a.Destroy()
	nonce := make([]byte, memsec.NonceSize)
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("draw nonce: %w", err)
	}
	sealed, err := a.SealSecret(nil, nonce, masterKey, c.aad("krypton/v1/seal-masterkey"))
	if err != nil {
		return nil, err
	}
	res, err := prov.Wrap(ctx, keystore.WrapRequest{Key: k.Key, Secret: once, AAD: c.aad("krypton/v1/seal-auto"), Correlation: corr.From(ctx)})
	if err != nil {
		return nil, err
	}
	return &sealpb.Wrapping{
		ProviderKey: &sealpb.ProviderKey{Provider: k.Provider, Key: string(k.Key)},
		KeyVersion:  string(res.KeyVersion), WrappedKey: res.Blob, Nonce: nonce, SealedMasterKey: sealed,
		CreateTimeUnixNano: c.Time.UnixNano(),
	}, nil
}

// openWrapping opens one wrapping and returns the MasterKey only if it matches
// the commitment (I2).
func openWrapping(ctx context.Context, r Record, w *sealpb.Wrapping, keystores *keystore.Registry) (memsec.Secret, error) {
	if keystores == nil {
		return memsec.Secret{}, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: w.GetProviderKey().GetProvider(), Op: keystore.OpUnwrap},
			errors.New("no keystores are configured"))
	}
	pk := providerKey(w)
	prov, err := keystores.Get(pk.Provider)
	if err != nil {
		return memsec.Secret{}, err
	}
	c := Ceremony{Keyspace: r.Keyspace(), ID: r.Ceremony(), Generation: r.Generation()}
	res, err := prov.Unwrap(ctx, keystore.UnwrapRequest{
		Key: pk.Key, Blob: w.GetWrappedKey(), AAD: c.aad("krypton/v1/seal-auto"), Class: memsec.Hot, Correlation: corr.From(ctx),
	})
	if err != nil {
		return memsec.Secret{}, err
	}
	defer res.Secret.Destroy()
	corrupt := func(cause error) error {
		return keystore.NewError(keystore.Error{Class: keystore.Corrupt, Provider: pk.Provider, Key: pk.Key, Op: keystore.OpUnwrap, RequestID: res.RequestID}, cause)
	}
	if res.Secret.Len() != memsec.KeySize {
		return memsec.Secret{}, corrupt(fmt.Errorf("the keystore returned %d bytes, want %d", res.Secret.Len(), memsec.KeySize))
	}
	a, err := memsec.NewAEAD(res.Secret)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer a.Destroy()
	masterKey, err := a.OpenSecret(w.GetNonce(), w.GetSealedMasterKey(), c.aad("krypton/v1/seal-masterkey"), memsec.Cold)
	switch {
	case errs.Is(err, errs.Integrity):
		return memsec.Secret{}, corrupt(errors.New("the sealed MasterKey does not open with the key that the keystore returned"))
	case err != nil:
		return memsec.Secret{}, err
	}
	if err := checkCommitment(r, masterKey); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

// aad binds a wrapping to its keyspace, seal and generation.
func (c Ceremony) aad(purpose string) []byte {
	return label(purpose).part(c.Keyspace[:]).part(c.ID[:]).u32(8).u64(uint64(c.Generation))
}
