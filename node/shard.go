package node

import (
	"fmt"
	"strings"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// ShardOf names one share of a person. Exactly one field is set.
type ShardOf struct {
	// Ceremony is the id of the ceremony that made the seal of which the share is; empty:
	// of the seal by which the node unseals.
	Ceremony []byte

	Index     int    // its number, from 1
	Holder    string // the name of who holds it
	Recipient string // to whom it is encrypted
}

// fits reports whether h is the holder that is meant.
func (s ShardOf) fits(h *sealpb.Holder) bool {
	switch {
	case s.Index != 0:
		return int(h.GetIndex()) == s.Index
	case s.Holder != "":
		return h.GetName() == s.Holder
	}
	if s.Recipient == "" {
		return false // as that of a printed share is
	}
	// An SSH key may have a comment behind it, which says nothing about the key.
	rest, fits := strings.CutPrefix(h.GetRecipient(), s.Recipient)
	return fits && (rest == "" || rest[0] == ' ' && strings.Count(s.Recipient, " ") == 1)
}

// Shard is the encrypted share of a person: ciphertext, with the manifest that
// has its hash. The caller does not change it.
type Shard struct {
	Index    int
	File     []byte // an age file
	Manifest *sealpb.Manifest
}

// recordOf returns the record by which this node unseals, or that which a ceremony
// made and which is not committed yet.
func (n *Node) recordOf(of ShardOf) (seal.Record, error) {
	if len(of.Ceremony) == 0 {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.record.IsZero() {
			return seal.Record{}, errNoCluster(errs.NotSealed)
		}
		return n.record, nil
	}
	c, ok := n.machine.View().Ceremony(of.Ceremony)
	switch {
	case !ok:
		return seal.Record{}, gate.NoSuchObject()
	case c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED:
		return seal.Record{}, errs.New(errs.FailedState, "the ceremony has no new seal that waits for its holders", errs.Hint("read it: krypton ceremony status"))
	}
	return seal.ParseRecord(c.GetStagedRecord())
}

// GetShard returns the encrypted share of a person from the record by which this
// node unseals. It needs no quorum and no MasterKey.
func (n *Node) GetShard(tok gate.Token, of ShardOf) (Shard, error) {
	if err := tok.Require(gate.GetShard, ObjectSeal); err != nil {
		return Shard{}, err
	}
	r, err := n.recordOf(of)
	if err != nil {
		return Shard{}, err
	}
	if r.Mode() != seal.ModeShamir {
		return Shard{}, errs.New(errs.FailedState, "the MasterKey is not protected by shares", errs.Hint("this cluster unseals through its keystore"))
	}
	pb := r.Proto()
	m := pb.GetManifest()
	var found *sealpb.Holder
	for _, h := range m.GetHolders() {
		switch {
		case !of.fits(h):
		case found != nil:
			return Shard{}, errs.New(errs.FailedState, fmt.Sprintf("shares %d and %d both fit", found.GetIndex(), h.GetIndex()),
				errs.Hint("name one of them by its number"))
		default:
			found = h
		}
	}
	switch {
	case found == nil:
		return Shard{}, errs.New(errs.NotFound, "nobody like that holds a share", errs.Hint("krypton status shows who does; a new holder comes with a ceremony"))
	case found.GetKind() != sealpb.HolderKind_HOLDER_KIND_PERSON:
		return Shard{}, errs.New(errs.FailedState, fmt.Sprintf("share %d is held by a keystore", found.GetIndex()), errs.Hint("the node asks the keystore by itself"))
	case len(found.GetEncryptedShardHash()) == 0:
		return Shard{}, errs.New(errs.FailedState, fmt.Sprintf("share %d was printed, and no node has it", found.GetIndex()),
			errs.Hint("give what was printed to krypton unseal"))
	}
	out := Shard{Index: int(found.GetIndex()), Manifest: m}
	for _, s := range pb.GetShards() {
		if s.GetIndex() == found.GetIndex() {
			out.File = s.GetEncryptedShard()
		}
	}
	return out, nil
}
