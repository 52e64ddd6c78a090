package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// exposures checks what a snapshot says of exposed MasterKeys and of backups.
func (l *loader) exposures(c *fsmpb.Cluster) error {
	if c.GetFormatVersion() < FormatSealProof && (c.GetExposure() != nil || len(c.GetSealConfirmations())+len(c.GetBackups()) > 0) {
		return corrupt("its cluster has what a later format version brought")
	}
	if !l.backups(c, c.GetBackups()) {
		return corrupt("its backups are not ones that can have been")
	}
	if !confirmations(c) {
		return corrupt("what was confirmed of its seals is not of them")
	}
	if (c.GetExposure() != nil) != (len(c.GetSealConfirmations()) > 0) || c.GetExposure() != nil && !l.exposure(c, c.GetExposure()) {
		return corrupt("its exposure is not one that can have been")
	}
	return nil
}

func (l *loader) backups(c *fsmpb.Cluster, all []*fsmpb.Backup) bool {
	for _, b := range all {
		_, err := hierarchy.ParseUID(b.GetNode())
		if err != nil || !l.timely(b.GetIndex(), b.GetTimeMs()) || b.GetGeneration() == 0 || b.GetGeneration() > uint64(GenerationOf(c)) || principalSize(b.GetBy()) > MaxPrincipalBytes {
			return false
		}
	}
	return len(all) <= MaxBackups
}

// confirmations reports whether each is of the seal that took the place of an exposed one,
// in order. Who signed is verified by [Confirmations], with what the genesis says of people.
func confirmations(c *fsmpb.Cluster) bool {
	if len(c.GetSealManifests()) == 0 {
		return len(c.GetSealConfirmations()) == 0
	}
	all, err := lineageOf(c)
	if err != nil {
		return false
	}
	all = slices.DeleteFunc(all, func(m *sealpb.Manifest) bool {
		return m.GetKind() != sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED
	})
	return slices.EqualFunc(all, c.GetSealConfirmations(), func(m *sealpb.Manifest, is *fsmpb.SealConfirmation) bool {
		of := manifest.Of(m)
		digest, ok := confirmedDigest(is)
		return ok && bytes.Equal(of[:], is.GetManifest()) && bytes.Equal(digest[:], is.GetAuthorities()) && (len(is.GetIntents()) == 0 || keptIntents(is.GetIntents()))
	})
}

func (l *loader) exposure(c *fsmpb.Cluster, e *fsmpb.Exposure) bool {
	last := c.GetSealConfirmations()[len(c.GetSealConfirmations())-1].GetManifest()
	all, err := lineageOf(c)
	if err != nil {
		return false
	}
	i := slices.IndexFunc(all, func(m *sealpb.Manifest) bool { is := manifest.Of(m); return bytes.Equal(is[:], last) })
	g := e.GetGeneration()
	if i < 0 || !bytes.Equal(all[i].GetCeremonyId(), e.GetCeremonyId()) || all[i].GetGeneration() != g || g < 2 || g > uint64(GenerationOf(c)) || c.GetGenerationBegins()[g-2] != e.GetBeginIndex() {
		return false
	}
	for i, id := range e.GetCleared() {
		if _, err := hierarchy.ParseUID(id); err != nil || i > 0 && id <= e.GetCleared()[i-1] {
			return false
		}
	}
	for _, k := range e.GetProviderKeys() {
		if len(k.GetHolder()) > MaxSealNameBytes || len(k.GetProvider()) > MaxSealProviderBytes || len(k.GetKey()) > MaxKeyRefBytes || len(k.GetKeyVersion()) > MaxKeyVersionBytes {
			return false
		}
	}
	finished := e.GetDoneTimeMs() != 0
	gone := e.GetClearIndex() != 0
	switch {
	case !l.timely(e.GetBeginIndex(), e.GetBeginTimeMs(), e.GetCarriedDroppedTimeMs(), e.GetDoneTimeMs()) || e.GetBeginTimeMs() == 0,
		gone && (e.GetClearIndex() <= e.GetBeginIndex() || e.GetClearIndex() > l.index),
		e.GetInternalKey() < 2 || uint64(e.GetInternalKey()) > uint64(len(c.GetInternalKeys())),
		gone && len(exposedVersions(c)) > 0,
		len(e.GetCleared()) > MaxMembers || len(e.GetCleared()) > 0 && !gone,
		e.GetCarriedDroppedTimeMs() != 0 && !gone, finished && e.GetCarriedDroppedTimeMs() == 0,
		len(e.GetProviderKeys()) > maxExposedKeys, !l.backups(c, e.GetBackups()), len(e.GetCeremonyId()) != hierarchy.UIDSize, len(last) != sha256.Size:
		return false
	}
	return true
}
