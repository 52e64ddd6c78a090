package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/seal/manifest"
)

// loadCeremony checks a ceremony.
func (l *loader) loadCeremony(c *fsmpb.Ceremony) error {
	open, staged := CeremonyOpen(c), c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED
	cancelled := c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_CANCELLED
	switch {
	case l.cluster.GetFormatVersion() < FormatCeremonies || len(c.GetId()) != hierarchy.UIDSize || uidOf(c.GetId()).IsZero() || kindNames[c.GetKind()] == "" ||
		c.GetState() < fsmpb.CeremonyState_CEREMONY_STATE_OPEN || c.GetState() > fsmpb.CeremonyState_CEREMONY_STATE_EXPIRED:
		return corrupt("a ceremony has no id, kind or state")
	case len(c.GetBaseManifest()) != sha256.Size || checkSealPlan(c.GetPlan()) != nil || !keptIntents(c.GetAuthorizedBy()):
		return corrupt("a ceremony has no plan, or replaces nothing")
	case !l.timely(c.GetModIndex(), c.GetCreateTimeMs(), c.GetExpireTimeMs(), c.GetStagedTimeMs(), c.GetEndTimeMs()) || c.GetCreateTimeMs() == 0 ||
		c.GetExpireTimeMs() <= c.GetCreateTimeMs() || (c.GetEndTimeMs() == 0) != open:
		return corrupt("a ceremony has a time or index that cannot be")
	case principalSize(c.GetRequester()) > MaxPrincipalBytes || principalSize(c.GetRequester()) == 0 || principalSize(c.GetCancelledBy()) > MaxPrincipalBytes ||
		(c.GetCancelledBy() != nil) != cancelled || c.GetCancelReason() != "" && (!cancelled || !textual(c.GetCancelReason(), MaxCancelReasonBytes)):
		return corrupt("a ceremony was requested or cancelled by nobody")
	case !wasStaged(c) || !proofFits(c) || (len(c.GetStagedRecord()) != 0) != staged || c.GetRekey() != nil && !staged || c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED && !enough(c):
		return corrupt("a ceremony has a seal or holders that cannot be")
	case len(c.GetConfirmedBy()) > 0 && (!staged || c.GetKind() != exposed || !keptIntents(c.GetConfirmedBy())):
		return corrupt("a ceremony was confirmed that nobody could confirm")
	case l.ceremonies >= MaxCeremonies || open && l.openCeremony:
		return corrupt("it has too many ceremonies")
	}
	if staged {
		// What a command could not stage is not staged: it would be the seal of the
		// cluster with the next entry.
		t := &tx{meta: l.meta}
		m, err := t.checkStaged(c, c.GetStagedRecord())
		if err != nil {
			return corrupt("a ceremony has a seal that was not ordered")
		}
		if t.checkRekey(c, c.GetStagedRecord(), c.GetRekey()) != nil || handoversInOrder(c.GetRekey()) != nil {
			return corrupt("a ceremony has internal keys or MasterKeys of nodes that cannot be")
		}
		if digest := manifest.Of(m); !bytes.Equal(digest[:], c.GetNewManifest()) {
			return corrupt("a ceremony has another seal than was opened")
		}
	}
	l.openCeremony = l.openCeremony || open
	l.ceremonies++
	put(&l.tx, tableCeremonies, c)
	return nil
}

func enough(c *fsmpb.Ceremony) bool {
	return !slices.ContainsFunc(CeremonyMissing(c), func(n int) bool { return n > 0 })
}

// wasStaged reports whether what a ceremony says of its new seal fits together.
func wasStaged(c *fsmpb.Ceremony) bool {
	if len(c.GetNewManifest()) == 0 {
		may := c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED && c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED
		return may && c.GetStagedBy() == "" && c.GetStagedTimeMs() == 0 && len(c.GetConfirmed()) == 0
	}
	if len(c.GetNewManifest()) != sha256.Size || c.GetStagedTimeMs() < c.GetCreateTimeMs() || len(c.GetStagedBy()) > MaxPrincipalBytes {
		return false
	}
	before := uint32(0)
	for _, i := range c.GetConfirmed() {
		if i <= before || int(i) > holdersOf(c.GetPlan()) {
			return false
		}
		before = i
	}
	return c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_OPEN
}

// lineage checks the manifests of the seal (I34): each replaces the one before it, and
// the last is that of the record. What people signed of them is verified by
// [VerifyLineage], with what the genesis says of people.
func (l *loader) lineage(c *fsmpb.Cluster, genesisRecord []byte) error {
	chain, size := c.GetSealManifests(), 0
	if len(chain) == 0 {
		if c.GetFormatVersion() < FormatCeremonies || bytes.Equal(c.GetSealRecord(), genesisRecord) {
			return nil
		}
		// A repair wraps to the keys of the same manifest, and to no other.
		is, err := manifest.Parse(c.GetSealRecord())
		was, err2 := manifest.Parse(genesisRecord)
		if err != nil || err2 != nil || manifest.Of(is.GetManifest()) != manifest.Of(was.GetManifest()) {
			return corrupt("its seal is of no ceremony")
		}
		return nil
	}
	for _, m := range chain {
		size += len(m)
	}
	if c.GetFormatVersion() < FormatCeremonies || len(chain) > MaxSealManifests || size > MaxSealManifestsBytes || len(c.GetSealRecord()) > MaxSealRecordBytes {
		return corrupt("it has too many seals")
	}
	all, err := lineageOf(c)
	if err != nil {
		return corrupt("the manifests of its seals do not decode")
	}
	if err := linked(all); err != nil {
		return err
	}
	r, err := manifest.Parse(c.GetSealRecord())
	if err != nil || manifest.Of(r.GetManifest()) != manifest.Of(all[len(all)-1]) {
		return corrupt("its seal is of no ceremony")
	}
	return nil
}
