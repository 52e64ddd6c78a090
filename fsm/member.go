package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of members, tokens and secrets.
const (
	MaxMembers      = 10_000 // nodes that are or ever were members; ids are never used again
	MaxJoinTokens   = 1_000  // join tokens that have not expired
	MaxTokenLifeMS  = 30 * 86400 * 1000
	MaxSecrets      = 1_000 // internal secrets
	MaxPublicBytes  = 64 << 10
	MaxSPKIBytes    = 1024
	MaxAddressBytes = 300
	MaxReleaseBytes = 64
	MaxReasonBytes  = 256

	maxRules = 64 // rows of a cluster's rules
)

func nodeName(id string) string { return "nodes/" + id }

// checkMember checks what a member says about itself.
func checkMember(m *fsmpb.Member) error {
	if _, err := hierarchy.ParseUID(m.GetId()); err != nil {
		return invalid("a node id is 32 lower-case hexadecimal digits")
	}
	if err := checkName(m.GetName()); err != nil {
		return err
	}
	if len(m.GetPublicKey()) == 0 || len(m.GetPublicKey()) > MaxSPKIBytes {
		return invalid("the member's public key is missing or too large")
	}
	if m.GetPeerAddress() == "" {
		return invalid("the member has no peer address")
	}
	for _, a := range []string{m.GetPeerAddress(), m.GetGrpcAddress(), m.GetRestAddress()} {
		if !printable(a, MaxAddressBytes) {
			return invalid("an address of the member is too long or not printable")
		}
	}
	for _, name := range []string{m.GetRegion(), m.GetZone()} {
		if name != "" && checkName(name) != nil {
			return invalid("the member's region or zone is not a name")
		}
	}
	if !printable(m.GetVersion(), MaxReleaseBytes) {
		return invalid("the member's release is too long or not printable")
	}
	return nil
}

func printable(s string, limit int) bool {
	return len(s) <= limit && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c <= ' ' || c > '~' })
}

// newMember returns the member that an admission stores: what fsm decides is
// not taken from the command.
func (t *tx) newMember(m *fsmpb.Member) *fsmpb.Member {
	m = copyMember(m)
	m.Removed, m.Purged = false, false
	m.CreateTimeMs, m.ModIndex = t.timeMS, t.index
	return m
}

func (t *tx) createJoinToken(k *fsmpb.JoinToken) (done, error) {
	switch {
	case len(k.GetHash()) != sha256.Size:
		return done{}, invalid("a join token is named by the SHA-256 of its public key")
	case k.GetRegion() != "" && checkName(k.GetRegion()) != nil:
		return done{}, errs.New(errs.InvalidArgument, "the region is not a name",
			errs.Hint("1 to %d of a-z, 0-9 and '-', beginning with a letter; as in the node's configuration", hierarchy.MaxNameBytes))
	case k.GetExpireTimeMs() <= t.timeMS:
		return done{}, errs.New(errs.InvalidArgument, "the join token's lifetime ended before the token was made",
			errs.Hint("give a longer lifetime; if it was long, compare the clocks of the nodes"))
	case k.GetExpireTimeMs() > t.timeMS+MaxTokenLifeMS:
		return done{}, errs.New(errs.InvalidArgument, "a join token lives for at most 30 days", errs.Hint("give a shorter lifetime"))
	case t.tokens >= MaxJoinTokens:
		return done{}, limit("join tokens", MaxJoinTokens)
	}
	if _, ok := lookup[*fsmpb.JoinToken](t.txn, tableTokens, indexID, k.GetHash()); ok {
		return done{}, errs.New(errs.AlreadyExists, "this join token exists already")
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	var with []byte
	if t.cluster.GetFormatVersion() >= FormatRevocations {
		with = bytes.Clone(t.askedWith())
	}
	put(t, tableTokens, &fsmpb.JoinToken{
		Hash:         k.GetHash(),
		ExpireTimeMs: k.GetExpireTimeMs(),
		Voter:        k.GetVoter(),
		Region:       k.GetRegion(),
		CreateTimeMs: t.timeMS,
		CreatedBy:    t.cmd.GetPrincipal().GetName(),
		CreatedWith:  with,
		ModIndex:     t.index,
	})
	t.tokens++
	return done{}, nil
}

func (t *tx) addMember(c *fsmpb.AddMember) (done, error) {
	m := c.GetMember()
	if err := checkMember(m); err != nil {
		return done{}, err
	}
	k, ok := lookup[*fsmpb.JoinToken](t.txn, tableTokens, indexID, c.GetTokenHash())
	if !ok || k.GetUsedBy() != "" || k.GetExpireTimeMs() <= t.timeMS ||
		(k.GetRegion() != "" && k.GetRegion() != m.GetRegion()) || (m.GetVoter() && !k.GetVoter()) {
		return done{}, errNotAdmitted()
	}
	if err := t.admissible(c, k); err != nil {
		return done{}, err
	}
	sum := sha256.Sum256(m.GetPublicKey())
	if _, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(m.GetId())); ok {
		return done{}, errs.New(errs.AlreadyExists, "a node of this id is or was a member", errs.Hint("join with an empty data directory"))
	}
	if _, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexKey, sum[:]); ok {
		return done{}, errs.New(errs.AlreadyExists, "a node with this public key is or was a member", errs.Hint("join with an empty data directory"))
	}
	switch {
	case t.members >= MaxMembers:
		return done{}, limit("present and former members", MaxMembers)
	case m.GetMaxFormat() < t.cluster.GetFormatVersion():
		return done{}, errs.New(errs.FailedState, "the node's release is too old for this cluster", errs.Hint("join with a newer release"))
	}
	used := &fsmpb.JoinToken{
		Hash: k.GetHash(), ExpireTimeMs: k.GetExpireTimeMs(), Voter: k.GetVoter(), Region: k.GetRegion(), UsedBy: m.GetId(),
		CreateTimeMs: k.GetCreateTimeMs(), CreatedBy: k.GetCreatedBy(), CreatedWith: k.GetCreatedWith(), ModIndex: t.index,
	}
	put(t, tableTokens, used)
	t.putMember(t.newMember(m))
	t.members++
	t.moreVoters()
	return done{object: nodeName(m.GetId())}, nil
}

// admissible asks for the signature of the token's key, and for what the token says
// of the vote: a leader that lies could take it away, too.
func (t *tx) admissible(c *fsmpb.AddMember, k *fsmpb.JoinToken) error {
	switch {
	case t.cluster.GetFormatVersion() < FormatProofs && (len(c.GetTokenKey()) != 0 || len(c.GetSignature()) != 0):
		return invalid("a signature of a join token's key is for clusters of a later format version")
	case t.cluster.GetFormatVersion() < FormatProofs:
		return nil
	case c.GetMember().GetVoter() != k.GetVoter():
		return errNotAdmitted()
	}
	return CheckAdmission([32]byte(t.cluster.GetFingerprint()), c)
}

// present returns a member that is not removed.
func (t *tx) present(id string, etag uint64) (*fsmpb.Member, error) {
	m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(id))
	switch {
	case !ok || m.GetPurged():
		return nil, errs.NoSuchObject()
	case m.GetRemoved():
		return nil, errs.New(errs.FailedState, "the member was removed", errs.Hint("nothing is left to do; to use the machine again, join it with an empty data directory"))
	}
	return m, checkEtag(etag, m.GetModIndex())
}

func (t *tx) updateMember(c *fsmpb.UpdateMember) (done, error) {
	old, err := t.present(c.GetMember().GetId(), c.GetEtag())
	if err != nil {
		return done{}, err
	}
	from, m := c.GetMember(), copyMember(old)
	for _, f := range c.GetFields() {
		switch f {
		case "name":
			m.Name = from.GetName()
		case "peer_address":
			m.PeerAddress = from.GetPeerAddress()
		case "grpc_address":
			m.GrpcAddress = from.GetGrpcAddress()
		case "rest_address":
			m.RestAddress = from.GetRestAddress()
		case "zone":
			m.Zone = from.GetZone()
		case "voter":
			m.Voter = from.GetVoter()
		case "version":
			m.Version = from.GetVersion()
		case "max_format":
			m.MaxFormat = from.GetMaxFormat()
		default:
			// Not id, public_key and region: a node does not become another one,
			// and does not move itself to where a tenant's keys may go.
			return done{}, errs.New(errs.InvalidArgument, "a field of a member that cannot be changed, or that does not exist")
		}
	}
	if err := checkMember(m); err != nil {
		return done{}, err
	}
	if m.GetMaxFormat() < t.cluster.GetFormatVersion() {
		return done{}, errs.New(errs.FailedState, "the node's release is too old for this cluster", errs.Hint("start a newer release"))
	}
	switch {
	case old.GetVoter() && !m.GetVoter():
		err = t.withdraw(old, withdrawDemote)
	case !old.GetVoter() && m.GetVoter():
		_, err = t.verify(intent.ActAddMember, PromotionRequest(old))
	}
	if err != nil {
		return done{}, err
	}
	if sumOf(m) != sumOf(old) { // a node that announces itself again changes nothing
		m.ModIndex = t.index
		t.putMember(m)
		t.moreVoters()
	}
	return done{object: nodeName(m.GetId())}, nil
}

// otherVoter refuses to take the last voter away: nobody could commit anything again.
func (t *tx) otherVoter(id string) error {
	other := false
	scan(t.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		other = m.GetVoter() && !m.GetRemoved() && m.GetId() != id
		return !other
	})
	if !other {
		return ErrLastVoter()
	}
	return nil
}

// ErrLastVoter refuses to take the vote of the only member that is to have one.
func ErrLastVoter() error {
	return errs.New(errs.FailedState, "the node is the last voter", errs.Hint("make another node a voter first"))
}

func (t *tx) removeMember(c *fsmpb.RemoveMember) (done, error) {
	old, err := t.present(c.GetId(), c.GetEtag())
	if err != nil {
		return done{}, err
	}
	if old.GetVoter() {
		if err := t.withdraw(old, withdrawRemove); err != nil {
			return done{}, err
		}
	}
	m := copyMember(old)
	m.Removed, m.Voter, m.ModIndex = true, false, t.index
	t.putMember(m)
	return done{object: nodeName(m.GetId())}, nil
}

func (t *tx) purgeMember(c *fsmpb.PurgeMember) (done, error) {
	m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(c.GetId()))
	switch {
	case !ok || m.GetPurged():
		return done{}, errs.NoSuchObject()
	case !m.GetRemoved():
		return done{}, errs.New(errs.FailedState, "the node is still a member", errs.Hint("remove it first"))
	}
	t.putMember(&fsmpb.Member{
		Id: m.GetId(), Name: m.GetName(), PublicKey: m.GetPublicKey(), Removed: true, Purged: true, ModIndex: t.index,
	})
	return done{object: nodeName(m.GetId())}, nil
}

func (t *tx) setHold(c *fsmpb.SetHold) (done, error) {
	if len(c.GetReason()) > MaxReasonBytes {
		return done{}, invalid("the reason is longer than 256 bytes")
	}
	if t.cluster.GetHold().GetHeld() != c.GetHeld() {
		cl := copyCluster(t.cluster)
		cl.Hold = &fsmpb.Hold{
			Held: c.GetHeld(), Reason: c.GetReason(), By: t.cmd.GetPrincipal().GetName(), TimeMs: t.timeMS, ModIndex: t.index,
		}
		cl.ModIndex = t.index
		t.cluster = cl
	}
	return done{object: "seal"}, nil
}

// checkPersons checks the people of a genesis: distinct, with valid keys.
func checkPersons(persons []*fsmpb.Person) error {
	if len(persons) > intent.MaxSignatures*2 {
		return invalid("too many persons or rules")
	}
	keys, err := personKeys(persons)
	if err != nil {
		return err
	}
	names := make(map[string]bool, len(persons))
	for _, p := range persons {
		if p.GetName() == "" || len(p.GetName()) > hierarchy.MaxNameBytes || names[p.GetName()] {
			return invalid("a person has no name, one that is too long, or another's")
		}
		names[p.GetName()] = true
	}
	if len(keys) != len(persons) {
		return invalid("two persons have one public key")
	}
	return nil
}

// checkRules checks the rows of a cluster's rules by themselves.
func checkRules(rules []*fsmpb.IntentRule, format uint32) error {
	if len(rules) > maxRules {
		return invalid("too many persons or rules")
	}
	for _, r := range rules {
		_, err := auth.ParseRole(r.GetRole())
		asks := r.GetSignatures() > 0
		act := intent.Act(min(r.GetAct(), 1<<16-1))
		if err != nil || !act.Valid() || act >= intent.ActSetIssuer && format < FormatAuthority || r.GetSignatures() > intent.MaxRule || asks && !isPower(r.GetRole()) {
			return invalid("a rule names no act or role, or asks for too many signatures")
		}
	}
	return nil
}

// enoughPersons refuses a genesis with a rule that its persons cannot fulfil: it
// would lock the act away for ever. Later the role bindings must be enough (I22).
func enoughPersons(persons []*fsmpb.Person, rules []*fsmpb.IntentRule) error {
	byRole := make(map[string]int)
	for _, p := range persons {
		byRole[p.GetRole()]++
	}
	for _, r := range rules {
		if int(r.GetSignatures()) > byRole[r.GetRole()] {
			return errs.New(errs.InvalidArgument, "a rule asks for more persons than there are", errs.Hint("name more persons or ask for fewer signatures"))
		}
	}
	return nil
}
