package seal

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of a record. Those of its manifest are in package manifest.
const (
	// MaxRecord is the longest encoded record that is read, in bytes.
	MaxRecord = manifest.MaxRecord
	// MaxMade is the longest that is made, in bytes: what the registry takes.
	// About 60 persons with post-quantum recipients fit.
	MaxMade = 256 << 10
	// MaxShares is the largest number of shares, over all groups.
	MaxShares = manifest.MaxShares
	// MinThreshold is the smallest number of shares that open a group.
	MinThreshold = manifest.MinThreshold
	// MaxGroups is the largest number of groups.
	MaxGroups = manifest.MaxGroups
	// MaxProviderKeys is the largest number of keystore keys that may wrap a MasterKey.
	MaxProviderKeys = manifest.MaxProviderKeys
	// MaxRecipient is the longest age recipient, in bytes.
	MaxRecipient = manifest.MaxRecipient
	// MaxName is the longest name of a holder or group, in bytes.
	MaxName = manifest.MaxName
	// MaxDomain is the longest text of each field of a [Domain], in bytes.
	MaxDomain = manifest.MaxDomain
	// MaxRisks and MaxRisk bound the accepted risks: their number, and the bytes of each.
	MaxRisks = manifest.MaxRisks
	MaxRisk  = manifest.MaxRisk
	// MaxIntents and MaxIntent bound the signed intents: their number, and the bytes of each.
	MaxIntents = manifest.MaxIntents
	MaxIntent  = manifest.MaxIntent
	// MaxShard is the longest encrypted shard, in bytes.
	MaxShard = 32 << 10
	// MaxCarriedKeys is the largest number of keys of earlier generations that a record carries.
	MaxCarriedKeys = 64
)

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
type Digest = manifest.Digest

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
	pb, err := manifest.Parse(b)
	if err != nil {
		return Record{}, refuseRecord(err)
	}
	return newRecord(pb)
}

// newRecord checks pb and takes it over.
func newRecord(pb *sealpb.Record) (Record, error) {
	if err := checkRecord(pb); err != nil {
		return Record{}, refuseRecord(err)
	}
	return Record{pb: pb}, nil
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

// Format returns the format of the record, 1 or 2.
func (r Record) Format() int { return int(r.pb.GetFormat()) }

// Kind returns why the ceremony was held.
func (r Record) Kind() Kind { return kindOf(r.pb.GetManifest()) }

// Threshold returns how many shares open the MasterKey: 0 in auto mode, and 0
// with several groups, each of which has its own ([Record.Plan]).
func (r Record) Threshold() int { return int(r.pb.GetManifest().GetThreshold()) }

// Shares returns how many shares there are, 0 in auto mode.
func (r Record) Shares() int { return len(r.pb.GetManifest().GetHolders()) }

// PersonsNeeded returns how many people an unsealing takes when every keystore
// answers, over all groups: 0 means that the MasterKey opens without people.
func (r Record) PersonsNeeded() (need int) {
	for _, g := range r.groups() {
		need += g.People
	}
	return need
}

// Plan returns the plan that the ceremony had: who holds what. The intents are
// not in it.
func (r Record) Plan() Plan { return PlanOf(r.pb.GetManifest()) }

// Manifest returns a copy of the public part: what a ceremony decided.
func (r Record) Manifest() *sealpb.Manifest { return proto.CloneOf(r.pb.GetManifest()) }

// ManifestDigest returns the digest of the public part.
func (r Record) ManifestDigest() Digest { return manifest.Of(r.pb.GetManifest()) }

// Digest returns the digest of the whole record. It does not depend on how
// protobuf encoded it.
func (r Record) Digest() Digest { return manifest.OfRecord(r.pb) }

// encoding is an unambiguous encoding: numbers have a fixed size, everything
// else a length or a count before it.
type encoding []byte

func label(s string) encoding { return encoding(nil).part([]byte(s)) }

func (e encoding) part(b []byte) encoding { return append(e.count(len(b)), b...) }
func (e encoding) u32(v uint32) encoding  { return binary.BigEndian.AppendUint32(e, v) }
func (e encoding) u64(v uint64) encoding  { return binary.BigEndian.AppendUint64(e, v) }
func (e encoding) count(n int) encoding   { return e.u32(uint32(n)) } //nolint:gosec // Lengths and counts within MaxRecord.
func (e encoding) digest() Digest         { return sha256.Sum256(e) }
