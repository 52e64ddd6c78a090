package manifest

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Follows refuses a manifest that is not the next one after previous (I4). Both
// were accepted by [Check]. Who signed the ceremony is for the caller to verify.
func Follows(m, previous *sealpb.Manifest) error {
	if m.GetFormat() < Format2 || m.GetKind() == sealpb.CeremonyKind_CEREMONY_KIND_INIT {
		return errors.New("it is the first of a keyspace and follows nothing")
	}
	if before := Of(previous); !bytes.Equal(m.GetPreviousManifest(), before[:]) {
		return errors.New("it follows another manifest")
	}
	switch {
	case !bytes.Equal(m.GetKeyspaceId(), previous.GetKeyspaceId()):
		return errors.New("it is of another keyspace than the one before")
	case !bytes.Equal(m.GetClusterId(), previous.GetClusterId()):
		return errors.New("it is of another cluster than the one before")
	case bytes.Equal(m.GetCeremonyId(), previous.GetCeremonyId()):
		return errors.New("it has the ceremony of the one before")
	}
	sameKey := bytes.Equal(m.GetMasterKeyCommitment(), previous.GetMasterKeyCommitment())
	switch m.GetKind() {
	case sealpb.CeremonyKind_CEREMONY_KIND_REKEY, sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED:
		if m.GetGeneration() != previous.GetGeneration()+1 || sameKey {
			return fmt.Errorf("a rekey from generation %d to %d, or without a new MasterKey", previous.GetGeneration(), m.GetGeneration())
		}
		return nil
	case sealpb.CeremonyKind_CEREMONY_KIND_RESHARE:
		if m.GetMode() != sealpb.Mode_MODE_SHAMIR || previous.GetMode() != sealpb.Mode_MODE_SHAMIR {
			return errors.New("a reshare to or from keystores that open the MasterKey alone; that is a migration")
		}
	case sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE:
		if m.GetMode() == sealpb.Mode_MODE_SHAMIR && previous.GetMode() == sealpb.Mode_MODE_SHAMIR {
			return errors.New("a migration between holders of shares; that is a reshare")
		}
	case sealpb.CeremonyKind_CEREMONY_KIND_UNSPECIFIED, sealpb.CeremonyKind_CEREMONY_KIND_INIT:
		return errors.New("it has no kind of ceremony that follows another")
	}
	if m.GetGeneration() != previous.GetGeneration() || !sameKey {
		return errors.New("it changes the MasterKey, and is no rekey")
	}
	return nil
}
