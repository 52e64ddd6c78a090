package fsm

import (
	"bytes"
	"encoding/hex"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of ceremonies.
const (
	// MaxCeremonies bounds what is kept; the ones that ended first give way to new ones.
	MaxCeremonies = 100
	// MinCeremonyLifeMS and MaxCeremonyLifeMS bound how long one may take: a minute to 7 days.
	MinCeremonyLifeMS = 60 * 1000
	MaxCeremonyLifeMS = 7 * 86400 * 1000
	// DefaultCeremonyLifeMS is how long one may take if nothing is said: a day.
	DefaultCeremonyLifeMS = 86400 * 1000
	// MaxSealManifests and MaxSealManifestsBytes bound the manifests of all ceremonies
	// that were committed: a reshare every week for 19 years.
	MaxSealManifests      = 1000
	MaxSealManifestsBytes = 8 << 20

	MaxCancelReasonBytes = 256 // of the reason of a cancellation
)

const (
	ceremonyName     = "ceremonies/"
	ceremonyOverHint = "read it; start another one if it is still to be done: krypton ceremony start"
)

// Who holds a ceremony trusts no node further than that it is there: what is staged
// has to be what was signed (I32), and what is committed has to have been opened (I33),
// by another one than made it (I37).

// CeremonyID returns the id of a ceremony as its name has it: 32 hexadecimal digits.
func CeremonyID(c *fsmpb.Ceremony) string { return hex.EncodeToString(c.GetId()) }

func ceremonyPath(id []byte) string { return ceremonyName + hex.EncodeToString(id) }

// CeremonyOpen reports whether a ceremony has not come to its end.
func CeremonyOpen(c *fsmpb.Ceremony) bool {
	return c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_OPEN || c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED
}

// Ceremony returns the ceremony with that id.
func (v *View) Ceremony(id []byte) (*fsmpb.Ceremony, bool) {
	return lookup[*fsmpb.Ceremony](v.txn, tableCeremonies, indexID, id)
}

// Ceremonies returns up to limit ceremonies in the order of their ids, beginning after
// the id after.
func (v *View) Ceremonies(after []byte, limit int) []*fsmpb.Ceremony {
	return page[*fsmpb.Ceremony](v, tableCeremonies, nil, after, limit, func(*fsmpb.Ceremony) bool { return true })
}

// OpenCeremony returns the ceremony that has not ended; false: there is none.
func (v *View) OpenCeremony() (*fsmpb.Ceremony, bool) { return openCeremony(v.state) }

func openCeremony(s state) (open *fsmpb.Ceremony, ok bool) {
	scan(s.txn, tableCeremonies, indexDue, nil, nil, func(c *fsmpb.Ceremony) bool {
		open, ok = c, true
		return false
	})
	return open, ok
}

// CeremonyMissing returns how many holders of each group have to open the staged
// record still; of a plan without groups how many of its keystores. Nothing but
// zeros: it can be committed.
func CeremonyMissing(c *fsmpb.Ceremony) []int { return missingOf(c.GetPlan(), c.GetConfirmed()) }

func missingOf(p *fsmpb.SealPlan, opened []uint32) []int {
	if len(p.GetGroups()) == 0 {
		return []int{max(1-len(opened), 0)}
	}
	missing := make([]int, 0, len(p.GetGroups()))
	first := uint32(1)
	for _, g := range p.GetGroups() {
		next := first + uint32(len(g.GetHolders())) //nolint:gosec // At most MaxSealHolders.
		n := int(g.GetThreshold())
		for _, i := range opened {
			if i >= first && i < next {
				n--
			}
		}
		missing, first = append(missing, max(n, 0)), next
	}
	return missing
}

// SealManifests returns the manifests of the seal since the genesis, in order; the
// last is that of the present record. They are the evidence of every ceremony that was
// committed. An error has the code STATE_CORRUPT.
func (v *View) SealManifests() ([]*sealpb.Manifest, error) { return lineageOf(v.cluster) }

func lineageOf(c *fsmpb.Cluster) ([]*sealpb.Manifest, error) {
	g := new(fsmpb.Genesis)
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		return nil, corruptLineage("the genesis does not decode")
	}
	r, err := manifest.Parse(g.GetSealRecord())
	if err != nil {
		return nil, corruptLineage(err.Error())
	}
	all := []*sealpb.Manifest{r.GetManifest()}
	for _, b := range c.GetSealManifests() {
		m, err := manifest.ParseManifest(b)
		if err != nil {
			return nil, corruptLineage(err.Error())
		}
		all = append(all, m)
	}
	return all, nil
}

func corruptLineage(why string) error {
	return errs.New(errs.StateCorrupt, "the manifests of the seal are not whole: "+why, errs.Hint("compare with another node of the cluster"))
}

// sealRecord decodes the record of the cluster.
func (t *tx) sealRecord() (*sealpb.Record, error) {
	r, err := manifest.Parse(t.cluster.GetSealRecord())
	if err != nil {
		return nil, errs.New(errs.FailedState, "the seal of this cluster cannot be changed: "+err.Error(), errs.Hint("upgrade every node"))
	}
	return r, nil
}

// ceremonyIn returns a ceremony that is in one of these states.
func (t *tx) ceremonyIn(id []byte, states ...fsmpb.CeremonyState) (*fsmpb.Ceremony, error) {
	c, ok := lookup[*fsmpb.Ceremony](t.txn, tableCeremonies, indexID, id)
	if !ok {
		return nil, errs.NoSuchObject()
	}
	if slices.Contains(states, c.GetState()) {
		return c, nil
	}
	switch c.GetState() {
	case fsmpb.CeremonyState_CEREMONY_STATE_OPEN:
		return nil, errs.New(errs.FailedState, "the ceremony has no new seal yet", errs.Hint("it waits for the consent of those who open the MasterKey now: krypton ceremony status"))
	case fsmpb.CeremonyState_CEREMONY_STATE_STAGED:
		return nil, errs.New(errs.FailedState, "the ceremony has its new seal already", errs.Hint("its holders have to open it: krypton ceremony status"))
	case fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED:
		return nil, errs.New(errs.FailedState, "the ceremony has ended: it was committed", errs.Hint(ceremonyOverHint))
	case fsmpb.CeremonyState_CEREMONY_STATE_CANCELLED:
		return nil, errs.New(errs.FailedState, "the ceremony has ended: it was cancelled", errs.Hint(ceremonyOverHint))
	case fsmpb.CeremonyState_CEREMONY_STATE_EXPIRED, fsmpb.CeremonyState_CEREMONY_STATE_UNSPECIFIED:
	}
	return nil, errs.New(errs.FailedState, "the ceremony has ended: it expired", errs.Hint(ceremonyOverHint))
}

// beginCeremony opens a ceremony (I32).
func (t *tx) beginCeremony(b *fsmpb.BeginCeremony) (done, error) {
	if len(b.GetId()) != hierarchy.UIDSize || uidOf(b.GetId()).IsZero() {
		return done{}, invalid("the id of a ceremony is not 16 random bytes")
	}
	if b.GetLifeMs() < MinCeremonyLifeMS || b.GetLifeMs() > MaxCeremonyLifeMS {
		return done{}, wrong("a ceremony takes a minute to 7 days", "give another time")
	}
	if err := checkSealPlan(b.GetPlan()); err != nil {
		return done{}, err
	}
	base, err := t.sealRecord()
	if err != nil {
		return done{}, err
	}
	if err := t.knowsKind(b.GetKind()); err != nil {
		return done{}, err
	}
	if err := fitsKind(b.GetKind(), base.GetManifest(), b.GetPlan()); err != nil {
		return done{}, err
	}
	if err := t.planOfToday(b.GetPlan()); err != nil {
		return done{}, err
	}
	if err := t.roomForCeremony(b.GetId()); err != nil {
		return done{}, err
	}
	if is := manifest.Of(base.GetManifest()); !bytes.Equal(is[:], b.GetBaseManifest()) {
		return done{}, errs.New(errs.StaleEtag, "the seal is another one than the ceremony is to replace", errs.Hint("read the seal again, and have the new request signed"))
	}
	by, err := t.authorize()
	if err != nil {
		return done{}, err
	}
	if opensWithoutPeople(base.GetManifest()) && len(by) == 0 && !t.forecast {
		// Where keystores open the MasterKey without people, alone or with the shares that
		// they hold, the signatures of custodians are the only consent that there is.
		return done{}, errs.New(errs.FailedState, "nobody would consent: keystores open the MasterKey, and no custodian has to sign",
			errs.Hint("let custodians sign first: krypton operator quorum set"))
	}
	c := &fsmpb.Ceremony{
		Id: bytes.Clone(b.GetId()), Kind: b.GetKind(), State: fsmpb.CeremonyState_CEREMONY_STATE_OPEN, BaseManifest: bytes.Clone(b.GetBaseManifest()),
		Plan: proto.CloneOf(b.GetPlan()), Requester: proto.CloneOf(t.cmd.GetPrincipal()), AuthorizedBy: by,
		CreateTimeMs: t.timeMS, ExpireTimeMs: t.timeMS + b.GetLifeMs(), ModIndex: t.index,
	}
	put(t, tableCeremonies, c)
	t.ceremonies++
	return done{object: ceremonyPath(c.GetId()), uid: c.GetId()}, nil
}

// opensWithoutPeople reports whether keystores open the MasterKey by themselves: in
// mode auto, and where they hold as many shares of every group as it takes.
func opensWithoutPeople(m *sealpb.Manifest) bool {
	if m.GetMode() == sealpb.Mode_MODE_AUTO {
		return true
	}
	held := make(map[uint32]uint32)
	for _, h := range m.GetHolders() {
		if h.GetKind() == sealpb.HolderKind_HOLDER_KIND_KEYSTORE {
			held[h.GetGroup()]++
		}
	}
	if len(m.GetGroups()) == 0 {
		return held[0] >= m.GetThreshold() // format 1
	}
	for i, g := range m.GetGroups() {
		if held[uint32(i)] < g.GetThreshold() {
			return false
		}
	}
	return true
}

// roomForCeremony refuses a second one at a time, an id that was used, and manifests
// beyond the limit; and lets the one that ended first go for a new one.
func (t *tx) roomForCeremony(id []byte) error {
	if open, ok := openCeremony(state{txn: t.txn}); ok {
		return errs.New(errs.FailedState, "another ceremony has not ended: "+ceremonyPath(open.GetId()), errs.Hint("continue or cancel it: krypton ceremony status"))
	}
	all, err := lineageOf(t.cluster)
	if err != nil {
		return errs.New(errs.FailedState, errs.From(err).Msg)
	}
	size := 0
	for _, m := range t.cluster.GetSealManifests() {
		size += len(m)
	}
	_, used := lookup[*fsmpb.Ceremony](t.txn, tableCeremonies, indexID, id)
	used = used || slices.ContainsFunc(all, func(m *sealpb.Manifest) bool { return bytes.Equal(m.GetCeremonyId(), id) })
	switch {
	case used:
		return errs.New(errs.AlreadyExists, "a ceremony of this id was held already", errs.Hint("draw another id"))
	case len(all) > MaxSealManifests || size+MaxSealRecordBytes > MaxSealManifestsBytes:
		return limit("ceremonies", MaxSealManifests)
	}
	for t.ceremonies >= MaxCeremonies {
		var oldest *fsmpb.Ceremony
		scan(t.txn, tableCeremonies, indexEnded, nil, nil, func(c *fsmpb.Ceremony) bool {
			oldest = c
			return false
		})
		drop(t, tableCeremonies, oldest)
		t.ceremonies--
	}
	return nil
}

// stageCeremony takes the new record, if it is what was signed (I32).
func (t *tx) stageCeremony(b *fsmpb.StageCeremony) (done, error) {
	c, err := t.ceremonyIn(b.GetId(), fsmpb.CeremonyState_CEREMONY_STATE_OPEN)
	if err != nil {
		return done{}, err
	}
	if err := t.inTime(c); err != nil {
		return done{}, err
	}
	m, err := t.checkStaged(c, b.GetRecord())
	if err != nil {
		return done{}, err
	}
	if err := t.stageKind(c, b); err != nil {
		return done{}, err
	}
	if err := t.signedStage(b); err != nil {
		return done{}, err
	}
	digest := manifest.Of(m)
	is := proto.CloneOf(c)
	is.Rekey = proto.CloneOf(b.GetRekey())
	is.State, is.StagedRecord, is.NewManifest = fsmpb.CeremonyState_CEREMONY_STATE_STAGED, bytes.Clone(b.GetRecord()), digest[:]
	is.StagedBy, is.StagedTimeMs, is.ModIndex = t.cmd.GetPrincipal().GetName(), t.timeMS, t.index
	if is.GetStagedBy() == "" {
		is.StagedBy = t.cmd.GetProposer()
	}
	is.StagedNode, is.StagedSignature = b.GetNode(), bytes.Clone(b.GetSignature())
	put(t, tableCeremonies, is)
	return done{object: ceremonyPath(c.GetId())}, nil
}

// inTime refuses to go on with a ceremony whose time is over, before any tick.
func (t *tx) inTime(c *fsmpb.Ceremony) error {
	if t.timeMS < c.GetExpireTimeMs() {
		return nil
	}
	return errs.New(errs.FailedState, "the ceremony has ended: it expired", errs.Hint(ceremonyOverHint))
}

// staged returns a ceremony whose staged manifest has that digest.
func (t *tx) staged(id, digest []byte) (*fsmpb.Ceremony, error) {
	c, err := t.ceremonyIn(id, fsmpb.CeremonyState_CEREMONY_STATE_STAGED)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(digest, c.GetNewManifest()) {
		return nil, invalid("the manifest is not the one that was staged")
	}
	return c, t.inTime(c)
}

// confirmHolder notes who opened the staged record. From [FormatSealProof] on it is a
// note for people, where shares come together: what counts is [fsmpb.ProveSeal].
func (t *tx) confirmHolder(b *fsmpb.ConfirmHolder) (done, error) {
	c, err := t.staged(b.GetId(), b.GetManifest())
	if err != nil {
		return done{}, err
	}
	if b.GetNode() != "" {
		if m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(b.GetNode())); !t.provesSeals() || !ok || m.GetRemoved() {
			return done{}, invalid("where shares come together is a member of this cluster, of a later format version")
		}
	}
	if c.GetProof() != nil {
		return done{object: ceremonyPath(c.GetId())}, nil // whoever opens it now is not needed any more
	}
	all := slices.Clone(c.GetConfirmed())
	if b.GetNode() != c.GetGatheredAt() {
		all = nil // one node does not have what another one was given
	}
	for _, i := range b.GetHolders() {
		if i < 1 || int(i) > holdersOf(c.GetPlan()) {
			return done{}, invalid("the plan has no holder of that number")
		}
		all = append(all, i)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if b.GetNode() != c.GetGatheredAt() || len(all) > len(c.GetConfirmed()) {
		is := proto.CloneOf(c)
		is.Confirmed, is.GatheredAt, is.ModIndex = all, b.GetNode(), t.index
		put(t, tableCeremonies, is)
	}
	return done{object: ceremonyPath(c.GetId())}, nil
}

// commitCeremony makes the staged record the cluster's (I33, I37).
func (t *tx) commitCeremony(b *fsmpb.CommitCeremony) (done, error) {
	c, err := t.staged(b.GetId(), b.GetManifest())
	if err != nil {
		return done{}, err
	}
	if slices.ContainsFunc(CeremonyMissing(c), func(n int) bool { return n > 0 }) {
		// Not a fact: more holders may open it, and then the same request is right.
		return done{}, errs.New(errs.Aborted, "not enough holders have opened the new seal", errs.Hint("have more of them contribute: krypton ceremony contribute"))
	}
	if err := t.provedSeal(c); err != nil {
		return done{}, err
	}
	if err := t.stillBase(c); err != nil {
		return done{}, err
	}
	if err := t.commitKind(c); err != nil {
		return done{}, err
	}
	m, err := encodedManifest(c.GetStagedRecord())
	if err != nil {
		return done{}, err
	}
	cl := copyCluster(t.cluster)
	cl.SealRecord, cl.ModIndex = c.GetStagedRecord(), t.index
	cl.SealManifests = append(slices.Clone(cl.GetSealManifests()), m)
	t.cluster = cl
	t.endCeremony(c, fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED)
	return done{object: ceremonyPath(c.GetId())}, nil
}

// stillBase refuses to replace another record than the signers saw.
func (t *tx) stillBase(c *fsmpb.Ceremony) error {
	r, err := t.sealRecord()
	if err != nil {
		return err
	}
	if is := manifest.Of(r.GetManifest()); !bytes.Equal(is[:], c.GetBaseManifest()) {
		return errs.New(errs.FailedState, "the seal is another one than the ceremony is to replace", errs.Hint("cancel it: krypton ceremony cancel"))
	}
	return nil
}

// cancelCeremony ends a ceremony that is not committed.
func (t *tx) cancelCeremony(b *fsmpb.CancelCeremony) (done, error) {
	c, err := t.ceremonyIn(b.GetId(), fsmpb.CeremonyState_CEREMONY_STATE_OPEN, fsmpb.CeremonyState_CEREMONY_STATE_STAGED)
	if err != nil {
		return done{}, err
	}
	if b.GetReason() != "" && !textual(b.GetReason(), MaxCancelReasonBytes) {
		return done{}, wrong("the reason is longer than 256 bytes, or not one line of text", "say it shorter")
	}
	is := proto.CloneOf(c)
	is.CancelledBy, is.CancelReason = proto.CloneOf(t.cmd.GetPrincipal()), b.GetReason()
	t.endCeremony(is, fsmpb.CeremonyState_CEREMONY_STATE_CANCELLED)
	return done{object: ceremonyPath(c.GetId())}, nil
}

// endCeremony brings a ceremony to its end. The staged record goes: it is the
// cluster's, or nobody's, and what it says can open is no longer wanted.
func (t *tx) endCeremony(c *fsmpb.Ceremony, state fsmpb.CeremonyState) {
	is := proto.CloneOf(c)
	is.State, is.EndTimeMs, is.ModIndex, is.StagedRecord = state, t.timeMS, t.index, nil
	t.endKind(is)
	put(t, tableCeremonies, is)
}

// What a kind of ceremony does besides. A reshare and a migration change the record
// alone; a new MasterKey changes what is wrapped under it, in the same entries.

// stageKind checks what the kind stages with the record.
func (t *tx) stageKind(c *fsmpb.Ceremony, b *fsmpb.StageCeremony) error {
	if err := t.checkRekey(c, b.GetRecord(), b.GetRekey()); err != nil {
		return err
	}
	if err := t.checkReplaced(b.GetRekey()); err != nil {
		return err
	}
	return t.checkHandovers(b.GetRekey())
}

// commitKind does what the kind does in the entry that commits.
func (t *tx) commitKind(c *fsmpb.Ceremony) error {
	if !MakesKey(c.GetKind()) {
		return nil
	}
	if err := t.confirmed(c); err != nil {
		return err
	}
	if err := t.beginGeneration(c.GetRekey()); err != nil {
		return err
	}
	return t.beginExposure(c)
}

// endKind removes what the kind staged, however the ceremony ended.
func (t *tx) endKind(c *fsmpb.Ceremony) { c.Rekey, c.ConfirmedBy = nil, nil }
