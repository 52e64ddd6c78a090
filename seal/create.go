package seal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Ceremony is the occasion on which a MasterKey is made or protected anew.
type Ceremony struct {
	Keyspace   hierarchy.KeyspaceID
	Cluster    hierarchy.ClusterID
	ID         hierarchy.UID        // drawn for this ceremony, never used again
	Generation hierarchy.Generation // 1 at init, one more with every rekey
	Time       time.Time            // for people

	// Fingerprint is that of the cluster, so that the shares are marked for it; zero
	// at init, where nobody knows it yet.
	Fingerprint Fingerprint

	// Wait is what a keystore gets to wrap, and to open again; 0: as long as the context.
	Wait time.Duration
}

// limited is the context of one call of a keystore.
func (c Ceremony) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.Wait <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.Wait)
}

// ProviderKey is a key of a configured keystore.
type ProviderKey struct {
	Provider string // configured name
	Key      keystore.KeyRef
}

// String returns the pair for people.
func (k ProviderKey) String() string { return fmt.Sprintf("%s key %q", k.Provider, string(k.Key)) }

func (k ProviderKey) check() error {
	if k.Provider == "" || len(k.Provider) > manifest.MaxProvider || k.Key == "" || len(k.Key) > manifest.MaxKey {
		return errors.New("provider key without a name or with one that is too long")
	}
	return nil
}

func (c Ceremony) check() error {
	if c.Keyspace.IsZero() || c.Cluster.IsZero() || c.ID.IsZero() {
		return errors.New("the ceremony has no keyspace id, cluster id or id")
	}
	if c.Generation < 1 || c.Generation > manifest.MaxGeneration {
		return fmt.Errorf("generation %d, the limits are 1 and %d", c.Generation, uint32(manifest.MaxGeneration))
	}
	return nil
}

// Create makes a MasterKey from rand and protects it as the plan says: the first
// of a keyspace, or with the kinds of a rekey the next one. The caller owns the
// MasterKey and the shares that are returned: those of printed holders, in the
// order of the plan. A printed share of a ceremony without a fingerprint is not
// bound to a cluster yet (see [Share.ForCluster]), because the fingerprint covers
// the record.
//
// Before it returns, Create has opened the MasterKey again from what it made:
// every keystore was asked once for what it holds, and every share, also of the
// persons whose shards only they can open, was part of a combination that gave
// the MasterKey. So a keystore that can wrap but not unwrap fails here and not at
// the first restart. keystores may be nil if the plan has none.
//
// rand gives the MasterKey, one-time keys, secrets of groups and nonces; the
// polynomials come from the system's generator, which vault/shamir uses, as does
// age. A refused plan has the code errs.InvalidArgument; a failing keystore gives
// a [*keystore.Error].
func Create(ctx context.Context, rand io.Reader, c Ceremony, p Plan, keystores *keystore.Registry) (_ Record, _ memsec.Secret, _ []Share, err error) {
	if p.Kind == KindUnspecified {
		p.Kind = KindInit
	}
	if !p.Kind.makesKey() {
		return Record{}, memsec.Secret{}, nil, refusePlan(fmt.Errorf("a %s makes no MasterKey", p.Kind))
	}
	if err := errors.Join(c.check(), p.check()); err != nil {
		return Record{}, memsec.Secret{}, nil, refusePlan(err)
	}
	masterKey, err := memsec.Random(rand, memsec.KeySize, memsec.Cold)
	if err != nil {
		return Record{}, memsec.Secret{}, nil, fmt.Errorf("make MasterKey: %w", err)
	}
	r, shares, err := protect(ctx, rand, masterKey, c, p, keystores)
	if err != nil {
		masterKey.Destroy()
		return Record{}, memsec.Secret{}, nil, err
	}
	return r, masterKey, shares, nil
}

// Protect is [Create] for a MasterKey that there is: the record protects the same
// one in another way. The kind is [KindReshare] or [KindMigrate], and the plan
// names the manifest that it replaces. The generation of the ceremony is that of
// the MasterKey. The caller keeps masterKey, has compared it with the commitment
// of the record it comes from, and owns the shares.
func Protect(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, p Plan, keystores *keystore.Registry) (Record, []Share, error) {
	if p.Kind != KindReshare && p.Kind != KindMigrate {
		return Record{}, nil, refusePlan(fmt.Errorf("a ceremony of the kind %s does not protect a MasterKey that there is", p.Kind))
	}
	if err := errors.Join(c.check(), p.check()); err != nil {
		return Record{}, nil, refusePlan(err)
	}
	return protect(ctx, rand, masterKey, c, p, keystores)
}

func refusePlan(err error) error {
	return errs.New(errs.InvalidArgument, "the plan of the seal cannot work: "+err.Error(), errs.Cause(err))
}

func protect(ctx context.Context, rand io.Reader, masterKey memsec.Secret, c Ceremony, p Plan, keystores *keystore.Registry) (_ Record, printed []Share, err error) {
	commit, err := envelope.MasterKeyCommitment(masterKey, c.Keyspace, c.Generation)
	if err != nil {
		return Record{}, nil, err
	}
	format := uint32(p.Format()) //nolint:gosec // 1 or 2.
	pb := &sealpb.Record{Format: format, Manifest: &sealpb.Manifest{
		Format: format, KeyspaceId: c.Keyspace[:], ClusterId: c.Cluster[:], CeremonyId: c.ID[:],
		Generation: uint64(c.Generation), MasterKeyCommitment: commit[:], CreateTimeUnixNano: c.Time.UnixNano(),
	}}
	var shares []Share
	defer func() {
		keep := err == nil
		for i, s := range shares {
			if keep && p.Holders()[i].IsPrinted() {
				printed = append(printed, s)
				continue
			}
			s.Destroy()
		}
	}()
	if p.Mode() == ModeShamir {
		defer collect()
		shares, pb.GroupSeal, err = splitAll(rand, masterKey, c, p.Groups)
		if err != nil {
			return Record{}, nil, err
		}
		for i := range shares {
			shares[i] = shares[i].ForCluster(c.Fingerprint)
		}
	}
	if err := p.describe(pb.GetManifest(), shares); err != nil {
		return Record{}, nil, err
	}
	// Every rule is checked before a keystore is asked: the plan may have a field
	// out of its limits.
	if err := manifest.Check(pb.GetManifest()); err != nil {
		return Record{}, nil, refusePlan(err)
	}
	if p.Mode() == ModeShamir {
		err = encryptShards(ctx, rand, c, p, shares, keystores, pb)
	} else {
		err = wrapAll(ctx, rand, masterKey, c, p, keystores, pb)
	}
	if err != nil {
		return Record{}, nil, err
	}
	record, err := newRecord(pb)
	if err != nil {
		return Record{}, nil, fmt.Errorf("make the seal: %w", err)
	}
	if n := proto.Size(pb); n > MaxMade {
		return Record{}, nil, refusePlan(fmt.Errorf("the record has %d bytes, the limit is %d; name fewer holders", n, MaxMade))
	}
	// The copy above shares memory with the plan; the record must not.
	record = Record{pb: record.Proto()}
	if err := prove(ctx, c, record, shares, keystores); err != nil {
		return Record{}, nil, fmt.Errorf("open the new seal again: %w", err)
	}
	return record, nil, nil // printed is set on the way out
}

// encryptShards fills pb with the shards of those holders who get them encrypted.
func encryptShards(ctx context.Context, rand io.Reader, c Ceremony, p Plan, shares []Share, keystores *keystore.Registry, pb *sealpb.Record) error {
	for i, h := range p.Holders() {
		if h.IsPrinted() {
			continue
		}
		b, err := encryptShard(ctx, rand, c, h, shares[i], keystores)
		if err != nil {
			return fmt.Errorf("encrypt the share of holder %q: %w", h.Name, err)
		}
		pb.Manifest.Holders[i].EncryptedShardHash = hashOf(b)
		pb.Shards = append(pb.Shards, &sealpb.Shard{Index: uint32(shares[i].index), EncryptedShard: b})
	}
	return nil
}

// prove opens the MasterKey from a new record before anybody relies on it.
func prove(ctx context.Context, c Ceremony, r Record, shares []Share, keystores *keystore.Registry) error {
	for _, w := range r.pb.GetWrappings() {
		one, cancel := c.limited(ctx)
		mk, err := openWrapping(one, r, w, keystores)
		cancel()
		if err != nil {
			return fmt.Errorf("through %s: %w", w.GetProviderKey().GetProvider(), err)
		}
		mk.Destroy()
	}
	if r.Mode() == ModeAuto {
		return nil
	}
	for i, h := range r.Plan().Holders() {
		if !h.IsKeystore() {
			continue
		}
		one, cancel := c.limited(ctx)
		s, err := openShard(one, r, i+1, keystores) // compares it with the manifest
		cancel()
		if err != nil {
			return fmt.Errorf("through holder %q: %w", h.Name, err)
		}
		s.Destroy()
	}
	for _, some := range covering(r.Plan().Groups, shares) {
		mk, err := reconstruct(r, some) // compares it with the commitment
		if err != nil {
			return err
		}
		mk.Destroy()
	}
	return nil
}

// covering returns lists of shares, each with as many of every group as it
// takes, and every share in one of them: a damaged one in the middle is found too.
func covering(groups []Group, shares []Share) [][]Share {
	rounds := 0
	for _, g := range groups {
		rounds = max(rounds, (len(g.Holders)+g.Threshold-1)/g.Threshold)
	}
	lists := make([][]Share, rounds)
	for _, g := range groups {
		of := shares[:len(g.Holders)]
		shares = shares[len(g.Holders):]
		for i := range lists {
			from := min(i*g.Threshold, len(of)-g.Threshold)
			lists[i] = append(lists[i], of[from:from+g.Threshold]...)
		}
	}
	return lists
}
