package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of a genesis.
const (
	MaxSealRecordBytes = 256 << 10
	maxDurationMS      = 3650 * 86400 * 1000 // ten years; for windows and waits
)

// Fingerprint returns the fingerprint of the cluster that the encoded genesis
// message founds: its SHA-256.
func Fingerprint(genesis []byte) [32]byte { return sha256.Sum256(genesis) }

// EncodeGenesis returns the bytes of a genesis message as they will stand in
// the command that [EncodeCommand] makes of it, for its fingerprint.
func EncodeGenesis(g *fsmpb.Genesis) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode genesis: %w", err)
	}
	return b, nil
}

// ErrOtherCluster is the cause when the log founds another cluster than
// Options.Fingerprint pins. It stops the machine.
var ErrOtherCluster = errors.New("it is of another cluster than node.json names")

// genesis founds the cluster. It is the first command, once.
func (t *tx) genesis(g *fsmpb.Genesis) (done, error) {
	if t.cluster != nil {
		return done{}, errs.New(errs.FailedState, "the cluster is initialised already")
	}
	// The fingerprint is over the bytes as they were proposed: encoding the
	// message again would make it depend on the release that does so.
	raw, err := genesisBytes(t.raw)
	if err != nil {
		return done{}, err
	}
	fingerprint := Fingerprint(raw)
	if t.opts.Fingerprint != ([32]byte{}) && t.opts.Fingerprint != fingerprint {
		return done{}, fmt.Errorf("genesis: %w", ErrOtherCluster)
	}
	if err := checkGenesis(g); err != nil {
		return done{}, err
	}
	ivk := g.GetInternalKey()
	if err := material(ivk, 1, nil, "the MasterKey"); err != nil {
		return done{}, err
	}
	if err := t.claim(uidOwner{uid: string(ivk.GetUid()), kind: uidInternalKey, number: 1}); err != nil {
		return done{}, err
	}
	t.cluster = &fsmpb.Cluster{
		KeyspaceId:         g.GetKeyspaceId(),
		ClusterId:          g.GetClusterId(),
		Name:               g.GetName(),
		Fingerprint:        fingerprint[:],
		FormatVersion:      g.GetFormatVersion(),
		Settings:           g.GetSettings(),
		SealRecord:         g.GetSealRecord(),
		Persons:            g.GetPersons(),
		Rules:              g.GetRules(),
		Hold:               &fsmpb.Hold{ModIndex: t.index},
		InternalKeyPrimary: 1,
		ModIndex:           t.index,
		Genesis:            raw,
		LeaseMs:            g.GetLeaseMs(),
	}
	was := toChain(nil, 0, false, t.window())
	is, r := was.Rotate(uidOf(ivk.GetUid()), at(t.timeMS), hierarchy.TriggerPerson)
	if r != hierarchy.NotRefused {
		return done{}, r.Err("the internal key")
	}
	t.cluster.InternalKeys = t.mergeChain(nil, was, is, ivk)

	for _, s := range g.GetSecrets() {
		if err := t.checkSecret(s); err != nil {
			return done{}, err
		}
		if !bytes.Equal(s.GetIvkUid(), ivk.GetUid()) {
			return done{}, invalid("an internal secret is not wrapped under the internal key")
		}
		if _, twice := lookup[*fsmpb.Secret](t.txn, tableSecrets, indexID, []byte(s.GetName())); twice {
			return done{}, invalid("an internal secret is named twice")
		}
		t.storeSecret(s, nil)
		t.secrets++
	}
	t.putMember(t.newMember(g.GetFirstMember()))
	t.members++
	t.moreVoters()
	if g.GetFormatVersion() >= FormatAuthority {
		if err := t.foundAuthority(false); err != nil {
			return done{}, err
		}
	}
	return done{object: "cluster", uid: g.GetClusterId()}, nil
}

func checkGenesis(g *fsmpb.Genesis) error {
	for _, id := range [][]byte{g.GetKeyspaceId(), g.GetClusterId()} {
		if len(id) != hierarchy.UIDSize || uidOf(id).IsZero() {
			return invalid("the keyspace id or the cluster id is not 16 random bytes")
		}
	}
	if err := checkName(g.GetName()); err != nil {
		return err
	}
	if err := checkSettings(g.GetSettings()); err != nil {
		return err
	}
	if err := checkPersons(g.GetPersons()); err != nil {
		return err
	}
	if err := checkRules(g.GetRules(), g.GetFormatVersion()); err != nil {
		return err
	}
	if err := enoughPersons(g.GetPersons(), g.GetRules()); err != nil {
		return err
	}
	if err := checkAsking(g); err != nil {
		return err
	}
	if err := checkLease(g); err != nil {
		return err
	}
	switch m := g.GetFirstMember(); {
	case len(g.GetSealRecord()) > MaxSealRecordBytes:
		return invalid("the seal record is too large")
	case g.GetFormatVersion() == 0 || g.GetFormatVersion() > knownFormat:
		return invalid("the format version is not one that this release knows")
	case g.GetSealProfile() != "" && (g.GetSealProfile() != ProfileFourEyes || g.GetFormatVersion() < FormatSealProof):
		return invalid("the profile of the seal is not one of this format version")
	case len(g.GetSecrets()) > MaxSecrets:
		return invalid("there are too many internal secrets")
	case !m.GetVoter():
		return invalid("the first member is not a voter")
	case m.GetMaxFormat() < g.GetFormatVersion():
		return invalid("the first member does not support the format version")
	default:
		return checkMember(m)
	}
}

// checkAsking refuses rules by which others sign and nobody is left to ask: of the
// governors one more than sign.
func checkAsking(g *fsmpb.Genesis) error {
	if g.GetFormatVersion() < FormatAuthority {
		return nil
	}
	governors := 0
	for _, p := range g.GetPersons() {
		if p.GetRole() == auth.RoleGovernor.String() {
			governors++
		}
	}
	t := tx{meta: meta{cluster: &fsmpb.Cluster{Rules: g.GetRules()}}}
	if w := t.needed(auth.RoleGovernor, everyAct); w.signing && w.n > governors {
		return errs.New(errs.InvalidArgument, "a rule asks for more governors, besides the one who asks, than there are", errs.Hint("name more persons or ask for fewer signatures"))
	}
	return nil
}

// founded checks what stays as the genesis said, and returns it.
func founded(c *fsmpb.Cluster) (*fsmpb.Genesis, error) {
	g := new(fsmpb.Genesis)
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		return nil, corrupt("its genesis does not decode")
	}
	if checkLease(g) != nil || g.GetLeaseMs() != c.GetLeaseMs() {
		return nil, corrupt("its leases do not last as long as its genesis says")
	}
	// What asks for the signatures of people is what a leader that lies would leave out
	// of the snapshot that it sends, and its MAC would be right: every unsealed member can
	// make one. The genesis it cannot change, because the fingerprint is pinned.
	if !bytes.Equal(g.GetKeyspaceId(), c.GetKeyspaceId()) {
		return nil, corrupt("its keyspace is not that of its genesis")
	}
	if !slices.EqualFunc(g.GetPersons(), c.GetPersons(), func(a, b *fsmpb.Person) bool { return proto.Equal(a, b) }) {
		return nil, corrupt("its persons are not those of its genesis")
	}
	for _, act := range intent.Acts() {
		was, _ := RuleFor(g.GetRules(), act)
		is, _ := RuleFor(c.GetRules(), act)
		if was.Governors > 0 && is.Governors == 0 || was.Custodians > 0 && is.Custodians == 0 {
			return nil, corrupt("nobody signs what people sign by its genesis")
		}
	}
	return g, nil
}

func checkSettings(s *fsmpb.Settings) error {
	if w, d := s.GetRollbackWindowMs(), s.GetDestroyWaitMs(); w < 0 || w > maxDurationMS || d < 0 || d > maxDurationMS {
		return invalid("the rollback window or the destroy wait is negative or longer than ten years")
	}
	switch s.GetVoters() {
	case 0, 1, 3, 5, 7:
		return nil
	}
	return errs.New(errs.InvalidArgument, "a cluster has 1, 3, 5 or 7 voters")
}

// genesisBytes returns the bytes of the genesis message inside a command.
func genesisBytes(raw []byte) ([]byte, error) {
	var body []byte
	found := 0
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		m := protowire.ConsumeFieldValue(num, typ, raw[n:])
		if m < 0 {
			return nil, protowire.ParseError(m)
		}
		if num == genesisField {
			b, k := protowire.ConsumeBytes(raw[n:])
			if k < 0 {
				return nil, protowire.ParseError(k)
			}
			body = bytes.Clone(b)
			found++
		}
		raw = raw[n+m:]
	}
	if found != 1 {
		// Protobuf would merge them into a message that has no bytes of its own.
		return nil, invalid("the command has more than one genesis")
	}
	return body, nil
}

// genesisField is the number of Command.genesis.
const genesisField = 20

// raiseFormat raises the format version of the cluster, and makes what objects the
// new one begins with.
func (t *tx) raiseFormat(c *fsmpb.RaiseFormat) (done, error) {
	to := c.GetVersion()
	if to <= t.cluster.GetFormatVersion() {
		return done{}, errs.New(errs.FailedState, "the cluster has this format version already, or a higher one")
	}
	var old *fsmpb.Member
	scan(t.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		if !m.GetRemoved() && m.GetMaxFormat() < to {
			old = m
		}
		return old == nil
	})
	if old != nil {
		return done{}, errs.New(errs.FailedState, "a member's release does not support the format version",
			errs.Hint("upgrade or remove node %s first", old.GetId()))
	}
	if to > knownFormat {
		return done{}, fmt.Errorf("the cluster was raised to format version %d, this release knows %d", to, knownFormat)
	}
	return done{object: "cluster"}, t.formatTo(to)
}

// formatTo gives the cluster a format version, and what objects it begins with.
func (t *tx) formatTo(to uint32) error {
	from := t.cluster.GetFormatVersion()
	cl := copyCluster(t.cluster)
	cl.FormatVersion, cl.ModIndex = to, t.index
	t.cluster = cl
	if from < FormatAuthority && to >= FormatAuthority {
		if err := t.foundAuthority(true); err != nil {
			return err
		}
	}
	t.moreVoters()
	return nil
}

// Raisable returns the format version to which the cluster can be raised now,
// because every member's release supports it and this one does; false: there is
// no higher one. The leader raises it then: from that entry on, older releases
// can neither join nor follow.
func (v *View) Raisable() (to uint32, ok bool) {
	if v.cluster == nil {
		return 0, false
	}
	to = MaxFormatVersion
	for _, m := range v.Members() {
		if !m.GetRemoved() {
			to = min(to, m.GetMaxFormat())
		}
	}
	return to, to > v.cluster.GetFormatVersion()
}
