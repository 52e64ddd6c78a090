package seal

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

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

func providerKey(w *sealpb.Wrapping) ProviderKey { return keyOf(w.GetProviderKey()) }

// wrapAll fills pb for auto mode. Every keystore of the plan has to wrap.
func wrapAll(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, p Plan, keystores *keystore.Registry, pb *sealpb.Record) error {
	for _, k := range p.ProviderKeys {
		w, err := wrapOne(ctx, rand, masterKey, c, k, keystores)
		if err != nil {
			return fmt.Errorf("wrap MasterKey under %s: %w", k, err)
		}
		pb.Wrappings = append(pb.Wrappings, w)
	}
	return nil
}

// wrapOne makes one wrapping of the MasterKey (I6).
func wrapOne(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, k ProviderKey, keystores *keystore.Registry) (*sealpb.Wrapping, error) {
	x, err := c.wrappingBinding().seal(ctx, rand, masterKey, k, keystores)
	if err != nil {
		return nil, err
	}
	return &sealpb.Wrapping{
		ProviderKey: &sealpb.ProviderKey{Provider: k.Provider, Key: string(k.Key)},
		KeyVersion:  x.keyVersion, WrappedKey: x.wrappedKey, Nonce: x.nonce, SealedMasterKey: x.sealed,
		CreateTimeUnixNano: c.Time.UnixNano(),
	}, nil
}

// openWrapping opens one wrapping and returns the MasterKey only if it matches
// the commitment (I2).
func openWrapping(ctx context.Context, r Record, w *sealpb.Wrapping, keystores *keystore.Registry) (memsec.Secret, error) {
	masterKey, err := r.ceremony().wrappingBinding().open(ctx, boxOfWrapping(w), providerKey(w), keystores)
	if err != nil {
		return memsec.Secret{}, err
	}
	if err := checkCommitment(r, masterKey); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

func boxOfWrapping(w *sealpb.Wrapping) box {
	return box{keyVersion: w.GetKeyVersion(), wrappedKey: w.GetWrappedKey(), nonce: w.GetNonce(), sealed: w.GetSealedMasterKey()}
}

func (c Ceremony) wrappingBinding() binding {
	return binding{outer: c.aad("krypton/v1/seal-auto"), inner: c.aad("krypton/v1/seal-masterkey")}
}

// ceremony returns what the associated data of the record's ciphertexts is made of.
func (r Record) ceremony() Ceremony {
	return Ceremony{Keyspace: r.Keyspace(), Cluster: r.Cluster(), ID: r.Ceremony(), Generation: r.Generation()}
}

// aad binds a wrapping to its keyspace, seal and generation.
func (c Ceremony) aad(purpose string) []byte {
	return label(purpose).part(c.Keyspace[:]).part(c.ID[:]).u32(8).u64(uint64(c.Generation))
}
