package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"time"

	"github.com/hashicorp/vault/shamir"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// maxGeneration fits the four bytes that a share has for it.
const maxGeneration = math.MaxUint32

// Ceremony is the occasion on which a MasterKey is made or protected anew.
type Ceremony struct {
	Keyspace   hierarchy.KeyspaceID
	Cluster    hierarchy.ClusterID
	ID         hierarchy.UID        // drawn for this ceremony, never used again
	Generation hierarchy.Generation // 1 at init, one more with every rekey
	Time       time.Time            // for people
}

// ProviderKey is a key of a configured keystore.
type ProviderKey struct {
	Provider string // configured name
	Key      keystore.KeyRef
}

// String returns the pair for people.
func (k ProviderKey) String() string { return fmt.Sprintf("%s key %q", k.Provider, string(k.Key)) }

func (k ProviderKey) check() error {
	if k.Provider == "" || len(k.Provider) > 63 || k.Key == "" || len(k.Key) > keystore.MaxKeyRef {
		return errors.New("provider key without a name or with one that is too long")
	}
	return nil
}

func (c Ceremony) check() error {
	if c.Keyspace.IsZero() || c.Cluster.IsZero() || c.ID.IsZero() {
		return errors.New("the ceremony has no keyspace id, cluster id or id")
	}
	if c.Generation < 1 || c.Generation > maxGeneration {
		return fmt.Errorf("generation %d, the limits are 1 and %d", c.Generation, uint32(maxGeneration))
	}
	return nil
}

// Create makes a MasterKey from rand and protects it as the plan says. The
// caller owns the MasterKey and, in Shamir mode, the shares, one for each
// printed holder in the order of the plan; a share is not bound to a cluster yet (see
// [Share.ForCluster]), because the fingerprint covers the record.
//
// Before it returns, Create has opened the MasterKey again from what it made:
// with the first and with the last M shares, or through every keystore. So a
// keystore that can wrap but not unwrap fails here and not at the first
// restart. keystores is nil in Shamir mode.
//
// rand gives the MasterKey, one-time keys and nonces; the polynomials come
// from the system's generator, which vault/shamir uses. A refused plan has the
// code errs.InvalidArgument; a failing keystore gives a [*keystore.Error].
func Create(ctx context.Context, rand io.Reader, c Ceremony, p Plan, keystores *keystore.Registry) (_ Record, _ memsec.Secret, _ []Share, err error) {
	if p.Format() != 1 {
		return Record{}, memsec.Secret{}, nil, errFormat2
	}
	if err := errors.Join(c.check(), p.check()); err != nil {
		return Record{}, memsec.Secret{}, nil, errs.New(errs.InvalidArgument, "the plan of the seal cannot work: "+err.Error(), errs.Cause(err))
	}
	masterKey, err := memsec.Random(rand, memsec.KeySize, memsec.Cold)
	if err != nil {
		return Record{}, memsec.Secret{}, nil, fmt.Errorf("make MasterKey: %w", err)
	}
	var shares []Share
	defer func() {
		if err != nil {
			masterKey.Destroy()
			destroyAll(shares)
		}
	}()
	commit, err := envelope.MasterKeyCommitment(masterKey, c.Keyspace, c.Generation)
	if err != nil {
		return Record{}, memsec.Secret{}, nil, err
	}
	pb := &sealpb.Record{Format: recordFormat, Manifest: &sealpb.Manifest{
		Format: recordFormat, KeyspaceId: c.Keyspace[:], ClusterId: c.Cluster[:], CeremonyId: c.ID[:],
		Generation: uint64(c.Generation), MasterKeyCommitment: commit[:], SignedIntents: p.Intents,
		CreateTimeUnixNano: c.Time.UnixNano(),
	}}
	if p.Mode() == ModeShamir {
		shares, err = split(masterKey, c, p)
		if err == nil {
			err = describeShares(pb.GetManifest(), p, shares)
		}
	} else {
		err = wrapAll(ctx, rand, masterKey, c, p, keystores, pb)
	}
	if err != nil {
		return Record{}, memsec.Secret{}, nil, err
	}
	record, err := newRecord(pb)
	if err != nil {
		// The ceremony or the plan has a field out of its limits.
		return Record{}, memsec.Secret{}, nil, errs.New(errs.InvalidArgument, "the plan of the seal cannot work: "+err.Error(), errs.Cause(err))
	}
	// The copy above shares memory with the plan; the record must not.
	record = Record{pb: record.Proto()}
	if err = prove(ctx, record, shares, keystores); err != nil {
		return Record{}, memsec.Secret{}, nil, err
	}
	return record, masterKey, shares, nil
}

// errFormat2 is the answer to a plan that takes format 2.
var errFormat2 = errs.New(errs.InvalidArgument, "this version writes no record of format 2")

// Protect is [Create] for a MasterKey that there is: the record protects the
// same one in another way. The caller keeps masterKey. The plan's kind is one
// that makes no key, and Previous is set.
func Protect(context.Context, io.Reader, memsec.Secret, Ceremony, Plan, *keystore.Registry) (Record, []Share, error) {
	return Record{}, nil, errFormat2
}

// split divides the MasterKey. The parts are on the heap between Split and
// Take, which wipes them; what else Split leaves is collected at once.
func split(masterKey memsec.Secret, c Ceremony, p Plan) ([]Share, error) {
	var parts [][]byte
	defer func() {
		for _, b := range parts {
			clear(b)
		}
	}()
	err := reveal.With(masterKey, func(b []byte) error {
		var err error
		parts, err = shamir.Split(b, len(p.Groups[0].Holders), p.Groups[0].Threshold)
		return err
	})
	runtime.GC() // polynomials are unreachable now; erased here where the runtime erases secrets
	if err != nil {
		return nil, fmt.Errorf("split MasterKey: %w", err)
	}
	shares := make([]Share, 0, len(parts))
	for i, b := range parts {
		if len(b) != shareSize {
			destroyAll(shares)
			return nil, fmt.Errorf("split MasterKey: a part has %d bytes, want %d", len(b), shareSize)
		}
		s := Share{keyspace: c.Keyspace, ceremony: c.ID, generation: c.Generation, index: uint8(i + 1), x: b[shareSize-1]}
		if s.secret, err = memsec.Take(b, memsec.Cold); err != nil {
			destroyAll(shares)
			return nil, fmt.Errorf("keep share %d: %w", i+1, err)
		}
		shares = append(shares, s)
	}
	return shares, nil
}

func describeShares(m *sealpb.Manifest, p Plan, shares []Share) error {
	m.Mode, m.Threshold = sealpb.Mode_MODE_SHAMIR, uint32(p.Groups[0].Threshold) //nolint:gosec // 2 to 255, see checkThreshold.
	for i, s := range shares {
		h, err := s.hash()
		if err != nil {
			return err
		}
		m.Holders = append(m.Holders, &sealpb.Holder{
			Index: uint32(s.index), X: uint32(s.x), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON,
			Recipient: p.Groups[0].Holders[i].Name, ShareHash: h[:],
		})
	}
	return nil
}

// prove opens the MasterKey from a new record before anybody relies on it.
func prove(ctx context.Context, r Record, shares []Share, keystores *keystore.Registry) error {
	if r.Mode() == ModeAuto {
		for _, w := range r.pb.GetWrappings() {
			mk, err := openWrapping(ctx, r, w, keystores)
			if err != nil {
				return fmt.Errorf("open the new seal again through %s: %w", w.GetProviderKey().GetProvider(), err)
			}
			mk.Destroy()
		}
		return nil
	}
	m := r.Threshold()
	for _, some := range [][]Share{shares[:m], shares[len(shares)-m:]} {
		mk, err := combine(r, some)
		if err != nil {
			return fmt.Errorf("open the new seal again: %w", err)
		}
		mk.Destroy()
	}
	return nil
}

// combine reconstructs the MasterKey from shares and returns it only if it
// matches the commitment (I2). The shares' bytes are in one buffer, allocated
// once and wiped.
func combine(r Record, shares []Share) (memsec.Secret, error) {
	flat := make([]byte, len(shares)*shareSize)
	defer clear(flat)
	parts := make([][]byte, len(shares))
	for i, s := range shares {
		parts[i] = flat[i*shareSize : (i+1)*shareSize]
		if err := reveal.With(s.secret, func(b []byte) error {
			if len(b) != shareSize {
				return fmt.Errorf("share %d has %d bytes, want %d", s.index, len(b), shareSize)
			}
			copy(parts[i], b)
			return nil
		}); err != nil {
			return memsec.Secret{}, err
		}
	}
	masterKey, err := reveal.New(memsec.KeySize, memsec.Cold, func(dst []byte) error {
		b, err := shamir.Combine(parts)
		if err != nil {
			return fmt.Errorf("combine shares: %w", err)
		}
		copy(dst, b)
		clear(b)
		return nil
	})
	runtime.GC() // see split
	if err != nil {
		return memsec.Secret{}, err
	}
	if err := checkCommitment(r, masterKey); err != nil {
		masterKey.Destroy()
		return memsec.Secret{}, err
	}
	return masterKey, nil
}

func destroyAll(shares []Share) {
	for _, s := range shares {
		s.Destroy()
	}
}
