package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of a record.
const (
	// MaxRecord is the longest encoded record, in bytes.
	MaxRecord = 1 << 20
	// MaxShares is the largest number of shares: the points of GF(2^8) without 0.
	MaxShares = 255
	// MinThreshold is the smallest number of shares that open a MasterKey. One
	// share would be the MasterKey in one hand, which is what shares are against.
	MinThreshold = 2
	// MaxProviderKeys is the largest number of keystore keys that may wrap a MasterKey.
	MaxProviderKeys = 64
	// MaxRecipient is the longest name of a holder, in bytes.
	MaxRecipient = 1024
	// MaxIntents and MaxIntent bound the signed intents in a manifest: their
	// number, and the bytes of each.
	MaxIntents = 64
	MaxIntent  = 16 << 10
)

// recordFormat is the format of record and manifest that this version reads and writes.
const recordFormat = 1

// Mode says who opens the MasterKey. The zero value is invalid.
type Mode int

// The modes.
const (
	ModeUnspecified Mode = iota
	ModeAuto             // any one of several keystores, without people
	ModeShamir           // any M of N holders of shares
)

// String returns the mode as documents and JSON write it.
func (m Mode) String() string {
	switch m {
	case ModeAuto:
		return "auto"
	case ModeShamir:
		return "shamir"
	case ModeUnspecified:
	}
	return "unspecified"
}

// Digest is the SHA-256 of a canonical encoding.
type Digest [sha256.Size]byte

// errRecord is the cause of every refusal of a record's content.
var errRecord = errors.New("seal record is not valid")

// Record says how one MasterKey is protected: the public manifest of the
// ceremony that made it, and the ciphertexts that go with it. It is immutable
// and always valid; the zero Record is not one. Make one with [Create],
// [ParseRecord] or [ReadFile].
type Record struct{ pb *sealpb.Record }

// ParseRecord decodes and checks a record of at most [MaxRecord] bytes. The
// error has the code errs.StateCorrupt.
func ParseRecord(b []byte) (Record, error) {
	if len(b) > MaxRecord {
		return Record{}, refuseRecord(fmt.Errorf("%d bytes, the limit is %d", len(b), MaxRecord))
	}
	pb := new(sealpb.Record)
	if err := proto.Unmarshal(b, pb); err != nil {
		return Record{}, refuseRecord(errors.New("not a protobuf of a record"))
	}
	return newRecord(pb)
}

// newRecord checks pb and takes it over.
func newRecord(pb *sealpb.Record) (Record, error) {
	if err := checkRecord(pb); err != nil {
		return Record{}, refuseRecord(err)
	}
	r := Record{pb: pb}
	if n := proto.Size(pb); n > MaxRecord {
		return Record{}, refuseRecord(fmt.Errorf("%d bytes, the limit is %d", n, MaxRecord))
	}
	return r, nil
}

func refuseRecord(err error) error {
	return errs.New(errs.StateCorrupt, "the seal record is not valid: "+err.Error(),
		errs.Hint("copy seal/record.pb from another node of the cluster; all nodes have the same"), errs.Cause(fmt.Errorf("%w: %w", errRecord, err)))
}

// Marshal returns the record as protobuf. Two encodings of one record may
// differ; compare by [Record.Digest].
func (r Record) Marshal() ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.pb)
	if err != nil {
		return nil, fmt.Errorf("encode seal record: %w", err)
	}
	return b, nil
}

// Proto returns a copy of the record's message.
func (r Record) Proto() *sealpb.Record { return proto.CloneOf(r.pb) }

// IsZero reports whether r is no record.
func (r Record) IsZero() bool { return r.pb == nil }

// Keyspace returns the keyspace whose MasterKey this is.
func (r Record) Keyspace() hierarchy.KeyspaceID {
	return hierarchy.KeyspaceID(r.pb.GetManifest().GetKeyspaceId())
}

// Cluster returns the cluster in which the ceremony was held.
func (r Record) Cluster() hierarchy.ClusterID {
	return hierarchy.ClusterID(r.pb.GetManifest().GetClusterId())
}

// Ceremony returns the identity of the ceremony, and so of this seal.
func (r Record) Ceremony() hierarchy.UID {
	return hierarchy.UID(r.pb.GetManifest().GetCeremonyId())
}

// Generation returns which MasterKey of the keyspace this is.
func (r Record) Generation() hierarchy.Generation {
	return hierarchy.Generation(r.pb.GetManifest().GetGeneration())
}

// Mode returns who opens the MasterKey.
func (r Record) Mode() Mode {
	switch r.pb.GetManifest().GetMode() {
	case sealpb.Mode_MODE_AUTO:
		return ModeAuto
	case sealpb.Mode_MODE_SHAMIR:
		return ModeShamir
	case sealpb.Mode_MODE_UNSPECIFIED:
	}
	return ModeUnspecified
}

// Threshold returns how many shares open the MasterKey, 0 in auto mode.
func (r Record) Threshold() int { return int(r.pb.GetManifest().GetThreshold()) }

// Shares returns how many shares there are, 0 in auto mode.
func (r Record) Shares() int { return len(r.pb.GetManifest().GetHolders()) }

// PersonsNeeded returns how many people an unsealing takes when every keystore
// answers: 0 means that the MasterKey opens without people.
func (r Record) PersonsNeeded() int {
	need := r.Threshold()
	for _, h := range r.pb.GetManifest().GetHolders() {
		if h.GetKind() == sealpb.HolderKind_HOLDER_KIND_KEYSTORE {
			need--
		}
	}
	return max(need, 0)
}

// ManifestDigest returns the digest of the public part: what a ceremony decided.
func (r Record) ManifestDigest() Digest {
	return appendManifest(label("krypton/v1/seal-manifest"), r.pb.GetManifest()).digest()
}

// Digest returns the digest of the whole record. It does not depend on how
// protobuf encoded it.
func (r Record) Digest() Digest {
	e := label("krypton/v1/seal-record")
	e = e.u32(r.pb.GetFormat())
	e = appendManifest(e, r.pb.GetManifest())
	e = e.count(len(r.pb.GetWrappings()))
	for _, w := range r.pb.GetWrappings() {
		e = e.part([]byte(w.GetProviderKey().GetProvider())).part([]byte(w.GetProviderKey().GetKey())).part([]byte(w.GetKeyVersion()))
		e = e.part(w.GetWrappedKey()).part(w.GetNonce()).part(w.GetSealedMasterKey()).u64(uint64(w.GetCreateTimeUnixNano()))
	}
	e = e.count(len(r.pb.GetShards()))
	for _, s := range r.pb.GetShards() {
		e = e.u32(s.GetIndex()).part(s.GetEncryptedShard())
	}
	if r.pb.GetFormat() >= 2 {
		g := r.pb.GetGroupSeal()
		e = e.part(g.GetNonce()).part(g.GetSealedMasterKey()).count(len(r.pb.GetCarriedKeys()))
		for _, k := range r.pb.GetCarriedKeys() {
			e = e.u64(k.GetGeneration()).part(k.GetNonce()).part(k.GetSealed())
		}
	}
	return e.digest()
}

func appendManifest(e encoding, m *sealpb.Manifest) encoding {
	e = e.u32(m.GetFormat()).part(m.GetKeyspaceId()).part(m.GetClusterId()).part(m.GetCeremonyId()).u64(m.GetGeneration())
	e = e.enum(int32(m.GetMode())).u32(m.GetThreshold()).count(len(m.GetHolders()))
	for _, h := range m.GetHolders() {
		e = e.u32(h.GetIndex()).u32(h.GetX()).enum(int32(h.GetKind())).part([]byte(h.GetRecipient()))
		e = e.part(h.GetShareHash()).part(h.GetEncryptedShardHash()).u32(h.GetGroup())
		if m.GetFormat() < 2 {
			continue
		}
		k, d := h.GetProviderKey(), h.GetDomain()
		e = e.part([]byte(h.GetName())).part([]byte(k.GetProvider())).part([]byte(k.GetKey()))
		e = e.part([]byte(d.GetProviderType())).part([]byte(d.GetAccount())).part([]byte(d.GetRegion()))
	}
	e = e.count(len(m.GetProviderKeys()))
	for _, k := range m.GetProviderKeys() {
		e = e.part([]byte(k.GetProvider())).part([]byte(k.GetKey()))
	}
	e = e.part(m.GetMasterKeyCommitment()).count(len(m.GetSignedIntents()))
	for _, i := range m.GetSignedIntents() {
		e = e.part(i)
	}
	e = e.u64(uint64(m.GetCreateTimeUnixNano()))
	if m.GetFormat() < 2 {
		return e
	}
	e = e.count(len(m.GetGroups()))
	for _, g := range m.GetGroups() {
		e = e.part([]byte(g.GetName())).u32(g.GetThreshold())
	}
	e = e.part(m.GetPreviousManifest()).enum(int32(m.GetKind())).count(len(m.GetAcceptedRisks()))
	for _, r := range m.GetAcceptedRisks() {
		e = e.part([]byte(r))
	}
	return e
}

// encoding is an unambiguous encoding: numbers have a fixed size, everything
// else a length or a count before it.
type encoding []byte

func label(s string) encoding { return encoding(nil).part([]byte(s)) }

func (e encoding) part(b []byte) encoding { return append(e.count(len(b)), b...) }
func (e encoding) u32(v uint32) encoding  { return binary.BigEndian.AppendUint32(e, v) }
func (e encoding) u64(v uint64) encoding  { return binary.BigEndian.AppendUint64(e, v) }
func (e encoding) count(n int) encoding   { return e.u32(uint32(n)) } //nolint:gosec // Lengths and counts within MaxRecord.
func (e encoding) enum(v int32) encoding  { return e.u32(uint32(v)) } //nolint:gosec // The same 32 bits.
func (e encoding) digest() Digest         { return sha256.Sum256(e) }

// checkRecord refuses what this version does not fully understand (I5) and
// whatever would let an unsealing go wrong later.
func checkRecord(r *sealpb.Record) error {
	if hasUnknown(r.ProtoReflect()) {
		return errors.New("it has fields that this version does not know; a newer version made it")
	}
	if r.GetFormat() != recordFormat || r.GetManifest().GetFormat() != recordFormat {
		return fmt.Errorf("format %d and manifest format %d, this version reads %d", r.GetFormat(), r.GetManifest().GetFormat(), recordFormat)
	}
	m := r.GetManifest()
	if err := checkIdentity(m); err != nil {
		return err
	}
	if err := checkFormat1(r); err != nil {
		return err
	}
	switch m.GetMode() {
	case sealpb.Mode_MODE_AUTO:
		return checkAuto(r)
	case sealpb.Mode_MODE_SHAMIR:
		return checkShamir(r)
	case sealpb.Mode_MODE_UNSPECIFIED:
	}
	return errors.New("it has no mode that this version knows")
}

func checkIdentity(m *sealpb.Manifest) error {
	for _, id := range []struct {
		name string
		b    []byte
	}{{"keyspace id", m.GetKeyspaceId()}, {"cluster id", m.GetClusterId()}, {"ceremony id", m.GetCeremonyId()}} {
		if _, err := hierarchy.UIDFromBytes(id.b); err != nil {
			return fmt.Errorf("its %s is not 16 bytes other than zero", id.name)
		}
	}
	if g := m.GetGeneration(); g < 1 || g > maxGeneration {
		return fmt.Errorf("generation %d, the limits are 1 and %d", g, uint32(maxGeneration))
	}
	if c := m.GetMasterKeyCommitment(); len(c) != sha256.Size {
		return fmt.Errorf("commitment of %d bytes, want %d", len(c), sha256.Size)
	}
	if n := len(m.GetSignedIntents()); n > MaxIntents {
		return fmt.Errorf("%d signed intents, the limit is %d", n, MaxIntents)
	}
	for _, i := range m.GetSignedIntents() {
		if len(i) < 1 || len(i) > MaxIntent {
			return fmt.Errorf("signed intent of %d bytes, the limits are 1 and %d", len(i), MaxIntent)
		}
	}
	return nil
}

// checkFormat1 refuses what only format 2 has: the digest of format 1 does not
// cover it.
func checkFormat1(r *sealpb.Record) error {
	m := r.GetManifest()
	newer := r.GetGroupSeal() != nil || len(r.GetCarriedKeys()) > 0 || len(m.GetGroups()) > 0 || len(m.GetPreviousManifest()) > 0 ||
		m.GetKind() != sealpb.CeremonyKind_CEREMONY_KIND_UNSPECIFIED || len(m.GetAcceptedRisks()) > 0
	for _, h := range m.GetHolders() {
		newer = newer || h.GetName() != "" || h.GetProviderKey() != nil || h.GetDomain() != nil
	}
	if newer {
		return errors.New("it is of format 1 and has fields of format 2")
	}
	return nil
}

func checkAuto(r *sealpb.Record) error {
	m := r.GetManifest()
	if m.GetThreshold() != 0 || len(m.GetHolders()) != 0 || len(r.GetShards()) != 0 {
		return errors.New("mode auto with shares")
	}
	if n := len(m.GetProviderKeys()); n < 1 || n > MaxProviderKeys {
		return fmt.Errorf("%d provider keys, the limits are 1 and %d", n, MaxProviderKeys)
	}
	allowed := make(map[ProviderKey]bool)
	for _, pk := range m.GetProviderKeys() {
		k := ProviderKey{Provider: pk.GetProvider(), Key: keystore.KeyRef(pk.GetKey())}
		if err := k.check(); err != nil {
			return err
		}
		if allowed[k] {
			return fmt.Errorf("provider key %s stands twice", k)
		}
		allowed[k] = true
	}
	if len(r.GetWrappings()) < 1 {
		return errors.New("no wrapping")
	}
	seen := make(map[ProviderKey]bool)
	for _, w := range r.GetWrappings() {
		k := ProviderKey{Provider: w.GetProviderKey().GetProvider(), Key: keystore.KeyRef(w.GetProviderKey().GetKey())}
		switch {
		case !allowed[k]:
			return fmt.Errorf("a wrapping by %s, which the manifest does not name", k)
		case seen[k]:
			return fmt.Errorf("two wrappings by %s", k)
		case len(w.GetKeyVersion()) > keystore.MaxKeyVersion:
			return fmt.Errorf("key version of %d bytes", len(w.GetKeyVersion()))
		case len(w.GetWrappedKey()) < 1 || len(w.GetWrappedKey()) > keystore.MaxBlob:
			return fmt.Errorf("wrapped key of %d bytes, the limits are 1 and %d", len(w.GetWrappedKey()), keystore.MaxBlob)
		case len(w.GetNonce()) != memsec.NonceSize || len(w.GetSealedMasterKey()) != memsec.KeySize+memsec.Overhead:
			return fmt.Errorf("nonce of %d and sealed MasterKey of %d bytes", len(w.GetNonce()), len(w.GetSealedMasterKey()))
		}
		seen[k] = true
	}
	return nil
}

func checkShamir(r *sealpb.Record) error {
	m := r.GetManifest()
	if len(m.GetProviderKeys()) != 0 || len(r.GetWrappings()) != 0 {
		return errors.New("mode shamir with wrappings of the MasterKey")
	}
	if err := checkThreshold(len(m.GetHolders()), int(m.GetThreshold())); err != nil {
		return err
	}
	xs := make(map[uint32]bool)
	hashes := make(map[Digest]bool)
	shards := make(map[uint32][]byte)
	for i, s := range r.GetShards() {
		if i > 0 && r.GetShards()[i-1].GetIndex() >= s.GetIndex() {
			return errors.New("encrypted shards out of order")
		}
		shards[s.GetIndex()] = s.GetEncryptedShard()
	}
	for i, h := range m.GetHolders() {
		switch {
		case h.GetIndex() != uint32(i+1):
			return fmt.Errorf("share %d stands where %d belongs", h.GetIndex(), i+1)
		case h.GetX() < 1 || h.GetX() > MaxShares:
			return fmt.Errorf("share %d is at x = %d; at 0 it would be the MasterKey itself", h.GetIndex(), h.GetX())
		case xs[h.GetX()]:
			return fmt.Errorf("two shares are at x = %d", h.GetX())
		case h.GetKind() != sealpb.HolderKind_HOLDER_KIND_PERSON && h.GetKind() != sealpb.HolderKind_HOLDER_KIND_KEYSTORE:
			return fmt.Errorf("share %d has no kind of holder that this version knows", h.GetIndex())
		case h.GetGroup() != 0:
			return fmt.Errorf("share %d is in group %d; this version knows one group", h.GetIndex(), h.GetGroup())
		case len(h.GetShareHash()) != sha256.Size:
			return fmt.Errorf("share hash of %d bytes, want %d", len(h.GetShareHash()), sha256.Size)
		case hashes[Digest(h.GetShareHash())]:
			return errors.New("two shares have one hash")
		}
		if err := checkRecipient(h.GetRecipient()); err != nil {
			return err
		}
		if err := checkShard(h, shards); err != nil {
			return err
		}
		xs[h.GetX()] = true
		hashes[Digest(h.GetShareHash())] = true
	}
	if len(shards) != 0 {
		return errors.New("an encrypted shard that the manifest does not name")
	}
	return nil
}

// checkShard takes the holder's encrypted shard out of shards.
func checkShard(h *sealpb.Holder, shards map[uint32][]byte) error {
	b, have := shards[h.GetIndex()]
	want := h.GetEncryptedShardHash()
	if !have && len(want) == 0 {
		if h.GetKind() == sealpb.HolderKind_HOLDER_KIND_KEYSTORE {
			return fmt.Errorf("share %d is held by a keystore and its encrypted shard is missing", h.GetIndex())
		}
		return nil
	}
	sum := sha256.Sum256(b)
	if !have || len(b) == 0 || !bytes.Equal(sum[:], want) {
		return fmt.Errorf("the encrypted shard of share %d is not the one in the manifest", h.GetIndex())
	}
	delete(shards, h.GetIndex())
	return nil
}

func checkThreshold(n, m int) error {
	switch {
	case m < MinThreshold:
		return fmt.Errorf("threshold %d, the smallest is %d", m, MinThreshold)
	case n > MaxShares:
		return fmt.Errorf("%d shares, the limit is %d", n, MaxShares)
	case m > n:
		return fmt.Errorf("threshold %d of %d shares could never be reached", m, n)
	}
	return nil
}

func checkRecipient(s string) error {
	if s == "" || len(s) > MaxRecipient || !utf8.ValidString(s) {
		return fmt.Errorf("name of a holder with %d bytes, want 1 to %d of valid UTF-8", len(s), MaxRecipient)
	}
	return nil
}

// hasUnknown reports whether m or a message in it has unknown fields.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = hasUnknown(v.Message())
		}
		return !found
	})
	return found
}
