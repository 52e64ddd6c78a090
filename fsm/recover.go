package fsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	// MaxIncarnations is how often a cluster can be recovered.
	MaxIncarnations = 64
	// MaxLost is how many voters a recovery can say to be destroyed.
	MaxLost = 64

	// incarnationLabel begins what the id of an incarnation is made of.
	incarnationLabel = "krypton/v1/incarnation"
)

// IncarnationID returns the id of the incarnation that a recovery of that keyspace
// begins:
//
//	SHA-256( "krypton/v1/incarnation" | keyspace | u8 kind | node id | u64be index | chain ), its first 16 bytes
//
// It follows from what people sign, so that those who sign one after the other sign
// the same; two recoveries of different nodes, or from different states, never have
// the same one, which is all that it is for. It is no secret.
func IncarnationID(keyspace []byte, r *fsmpb.Incarnation) (id [hierarchy.UIDSize]byte) {
	h := sha256.New()
	h.Write([]byte(incarnationLabel))
	h.Write(keyspace)
	h.Write([]byte{byte(r.GetKind())}) //nolint:gosec // 1 or 2; others are refused.
	h.Write([]byte(r.GetNode()))
	h.Write(binary.BigEndian.AppendUint64(nil, r.GetFromIndex()))
	h.Write(r.GetFromChain())
	copy(id[:], h.Sum(nil))
	return id
}

// Incarnation returns the present incarnation of the cluster; nil: it was never
// recovered.
func (v *View) Incarnation() *fsmpb.Incarnation {
	all := v.cluster.GetIncarnations()
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// RecoveryRequest is the canonical form of a recovery; see [SovereignRequest].
func RecoveryRequest(c *fsmpb.Recover) *intent.Request {
	i := c.GetIncarnation()
	op := intent.RecoverSnapshot
	if i.GetKind() == fsmpb.RecoveryKind_RECOVERY_KIND_QUORUM {
		op = intent.RecoverQuorum
	}
	return intent.Recovery{
		Op: op, Node: i.GetNode(), PublicKey: c.GetMember().GetPublicKey(), Incarnation: i.GetId(), Index: i.GetFromIndex(), Chain: i.GetFromChain(), Lost: i.GetLost(),
	}.Request()
}

// Lost returns the ids of the voters, but for one node, that a recovery by that node
// has to name, in ascending order.
func (v *View) Lost(but string) (ids []string) {
	for _, m := range v.Members() {
		if m.GetVoter() && !m.GetRemoved() && m.GetId() != but {
			ids = append(ids, m.GetId())
		}
	}
	slices.Sort(ids)
	return ids
}

// recover begins an incarnation with one member (I31). Everybody else is removed, so
// that no node of the incarnation before is a member of this one.
//
// That the state is the one from which people said that it goes on the node itself
// compares before it proposes this: the chain at an index in the past is not in the
// state.
func (t *tx) recover(c *fsmpb.Recover) (done, error) {
	if !t.housekeeping() {
		return done{}, errs.New(errs.Denied, "a cluster is recovered by the node that begins anew, never for a caller")
	}
	i := c.GetIncarnation()
	if err := t.recoverable(i); err != nil {
		return done{}, err
	}
	m, err := t.survivor(i, c.GetMember())
	if err != nil {
		return done{}, err
	}
	if lost := (&View{state: state{txn: t.txn}}).Lost(i.GetNode()); !slices.Equal(lost, i.GetLost()) {
		return done{}, errs.New(errs.FailedState, "the recovery does not name the other voters as they are", errs.Hint("name every voter that was destroyed, and no other node"))
	}
	signed, err := t.verify(intent.ActRestore, RecoveryRequest(c))
	if err != nil {
		return done{}, err
	}
	t.expel(m.GetId())
	if _, was := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(m.GetId())); !was {
		t.members++
	}
	t.putMember(m)
	t.forgetTokens()
	t.agree(1)
	if t.cluster.GetFormatVersion() < FormatCeremonies {
		if err := t.formatTo(FormatCeremonies); err != nil {
			return done{}, err
		}
	}
	cl := copyCluster(t.cluster)
	cl.Incarnations = append(slices.Clip(cl.GetIncarnations()), &fsmpb.Incarnation{
		Id: i.GetId(), Kind: i.GetKind(), Node: i.GetNode(), FromIndex: i.GetFromIndex(), FromChain: i.GetFromChain(), Lost: i.GetLost(),
		TimeMs: t.timeMS, ModIndex: t.index, AuthorizedBy: signed,
	})
	cl.ModIndex = t.index
	t.cluster = cl
	return done{object: "cluster", uid: i.GetId()}, nil
}

// recoverable checks what a recovery says by itself.
func (t *tx) recoverable(i *fsmpb.Incarnation) error {
	if t.cluster.GetFormatVersion() < FormatProofs {
		return errs.New(errs.FailedState, "the cluster is of a format version before recoveries", errs.Hint("start the release that it had, have all members upgraded, and save a snapshot then"))
	}
	if !soundIncarnation(t.cluster.GetKeyspaceId(), i) || i.GetFromIndex() >= t.index {
		return invalid("the recovery is malformed")
	}
	for _, is := range t.cluster.GetIncarnations() {
		if bytes.Equal(is.GetId(), i.GetId()) {
			return errs.New(errs.FailedState, "the cluster was recovered so already", errs.Hint("nothing is left to do"))
		}
	}
	if len(t.cluster.GetIncarnations()) >= MaxIncarnations {
		return limit("recoveries", MaxIncarnations)
	}
	return nil
}

// soundIncarnation reports whether an incarnation can be one, but for what Apply adds.
func soundIncarnation(keyspace []byte, i *fsmpb.Incarnation) bool {
	id := IncarnationID(keyspace, i)
	_, err := hierarchy.ParseUID(i.GetNode())
	ok := err == nil && bytes.Equal(id[:], i.GetId()) && len(i.GetFromChain()) == sha256.Size && i.GetFromIndex() > 0 && len(i.GetLost()) <= MaxLost &&
		(i.GetKind() == fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT || i.GetKind() == fsmpb.RecoveryKind_RECOVERY_KIND_QUORUM)
	for n, lost := range i.GetLost() {
		_, err := hierarchy.ParseUID(lost)
		ok = ok && err == nil && lost != i.GetNode() && (n == 0 || i.GetLost()[n-1] < lost)
	}
	return ok
}

// survivor returns the one member of the incarnation: a new node, or one that is a
// member and stays the node that it is.
func (t *tx) survivor(i *fsmpb.Incarnation, says *fsmpb.Member) (*fsmpb.Member, error) {
	if err := checkMember(says); err != nil {
		return nil, err
	}
	if says.GetId() != i.GetNode() {
		return nil, invalid("the member is not the node that recovers")
	}
	if says.GetMaxFormat() < max(t.cluster.GetFormatVersion(), FormatCeremonies) {
		return nil, errs.New(errs.FailedState, "the node's release is too old for this cluster", errs.Hint("recover with a newer release"))
	}
	old, was := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(says.GetId()))
	sum := sha256.Sum256(says.GetPublicKey())
	holder, known := lookup[*fsmpb.Member](t.txn, tableMembers, indexKey, sum[:])
	if i.GetKind() == fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT {
		switch {
		case was || known:
			return nil, errs.New(errs.AlreadyExists, "the node that recovers is or was a member", errs.Hint("recover with an empty data directory"))
		case t.members >= MaxMembers:
			return nil, limit("present and former members", MaxMembers)
		}
		m := t.newMember(says)
		m.Voter = true
		return m, nil
	}
	if !was || old.GetRemoved() || holder.GetId() != old.GetId() {
		return nil, errs.New(errs.FailedState, "the node that recovers is no member, or not under this key", errs.Hint("recover with a snapshot in place of this data directory"))
	}
	m := copyMember(old)
	m.PeerAddress, m.GrpcAddress, m.RestAddress = says.GetPeerAddress(), says.GetGrpcAddress(), says.GetRestAddress()
	m.Version, m.MaxFormat, m.Voter, m.ModIndex = says.GetVersion(), says.GetMaxFormat(), true, t.index
	return m, nil
}

// expel removes every member but one. Nobody asks who has to sign for their votes:
// who signs the recovery does.
func (t *tx) expel(but string) {
	var gone []*fsmpb.Member
	scan(t.txn, tableMembers, indexID, nil, nil, func(m *fsmpb.Member) bool {
		if !m.GetRemoved() && m.GetId() != but {
			gone = append(gone, m)
		}
		return true
	})
	for _, old := range gone {
		m := copyMember(old)
		m.Removed, m.Voter, m.ModIndex = true, false, t.index
		t.putMember(m)
	}
}

// forgetTokens drops join tokens that were not used: they name nodes that are gone, and
// whoever got one got it from another life of the cluster.
func (t *tx) forgetTokens() {
	var drops []*fsmpb.JoinToken
	scan(t.txn, tableTokens, indexID, nil, nil, func(k *fsmpb.JoinToken) bool {
		if k.GetUsedBy() == "" {
			drops = append(drops, k)
		}
		return true
	})
	for _, k := range drops {
		drop(t, tableTokens, k)
		t.tokens--
	}
}

// incarnations reports whether what a snapshot says of its recoveries can be.
func (l *loader) incarnations(c *fsmpb.Cluster) bool {
	all := c.GetIncarnations()
	if len(all) > MaxIncarnations || len(all) > 0 && c.GetFormatVersion() < FormatCeremonies {
		return false
	}
	ids := make(map[string]bool, len(all))
	var last uint64
	for _, i := range all {
		if ids[string(i.GetId())] || !soundIncarnation(c.GetKeyspaceId(), i) || i.GetFromIndex() >= i.GetModIndex() || i.GetModIndex() <= last ||
			!l.timely(i.GetModIndex(), i.GetTimeMs()) || !keptIntents(i.GetAuthorizedBy()) {
			return false
		}
		ids[string(i.GetId())], last = true, i.GetModIndex()
	}
	return true
}
