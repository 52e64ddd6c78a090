package fsm

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// MaxHandoverBytes bounds the MasterKey for one node.
const MaxHandoverBytes = 4096

// checkRekey refuses what a rekey cannot bring with its record, and anything that another
// kind brings. The internal keys have to be all of the cluster's: one that was left out
// would be lost, with every tenant under it, when the new MasterKey comes into force. And the
// record has to carry on the keys that authenticated the registry: without them a node
// could not prove what its disk holds from before.
//
// That the keys in it are the same nobody here can see; every node that gets the new
// MasterKey looks, before the ceremony is committed.
func (t *tx) checkRekey(c *fsmpb.Ceremony, record []byte, r *fsmpb.StagedRekey) error {
	switch {
	case MakesKey(c.GetKind()) != (r != nil):
		return invalid("a rekey brings the internal keys under its MasterKey, and nothing else does")
	case r == nil:
		return nil
	case len(t.cluster.GetGenerationBegins())+1 >= MaxGenerations:
		return limit("MasterKeys", MaxGenerations)
	}
	if _, err := t.rewrapped(r); err != nil {
		return err
	}
	if err := t.checkNewKey(c, r); err != nil {
		return err
	}
	is, err := manifest.Parse(record)
	if err != nil {
		return errs.New(errs.InvalidArgument, err.Error())
	}
	was, err := t.sealRecord()
	if err != nil {
		return err
	}
	if !slices.Equal(carried(is), append(carried(was), was.GetManifest().GetGeneration())) {
		return invalid("the new seal does not carry the keys that authenticated the registry so far")
	}
	return nil
}

func carried(r *sealpb.Record) (gs []uint64) {
	for _, k := range r.GetCarriedKeys() {
		gs = append(gs, k.GetGeneration())
	}
	return gs
}

// rewrapped returns the internal keys of the cluster under the new MasterKey. One that was
// destroyed since it was staged stays so.
func (t *tx) rewrapped(r *fsmpb.StagedRekey) ([]*fsmpb.Version, error) {
	next := slices.Clone(t.cluster.GetInternalKeys())
	staged := r.GetInternalKeys()
	for i, v := range next {
		if len(staged) > 0 && bytes.Equal(staged[0].GetUid(), v.GetUid()) {
			if n := len(staged[0].GetBlob()); n == 0 || n > MaxBlobBytes {
				return nil, invalid("an internal key of the rekey is missing or too large")
			}
			if len(v.GetBlob()) > 0 {
				next[i] = proto.CloneOf(v)
				next[i].Blob = staged[0].GetBlob()
			}
			staged = staged[1:]
		} else if len(v.GetBlob()) > 0 {
			return nil, moved("the internal key")
		}
	}
	if len(staged) > 0 {
		return nil, moved("the internal key")
	}
	return next, nil
}

// checkHandovers refuses MasterKeys for whoever is not a member.
func (t *tx) checkHandovers(r *fsmpb.StagedRekey) error {
	for _, h := range r.GetHandovers() {
		if m, ok := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(h.GetNodeId())); !ok || m.GetRemoved() {
			return errs.New(errs.Aborted, "the rekey has a MasterKey for who is not a member any more", errs.Hint("prepare the change again"))
		}
	}
	return handoversInOrder(r)
}

func handoversInOrder(r *fsmpb.StagedRekey) error {
	before := ""
	for _, h := range r.GetHandovers() {
		if n := len(h.GetSealed()); h.GetNodeId() <= before || n == 0 || n > MaxHandoverBytes {
			return invalid("the MasterKeys for nodes are not in order of their ids, or one is missing or too large")
		}
		before = h.GetNodeId()
	}
	return nil
}

// beginGeneration brings the MasterKey of a staged rekey into force at this entry (I36).
// The keys that it wraps are those from before, so no data operation can tell.
func (t *tx) beginGeneration(r *fsmpb.StagedRekey) error {
	keys, err := t.rewrapped(r)
	if err != nil {
		return err
	}
	cl := copyCluster(t.cluster)
	cl.InternalKeys, cl.GenerationBegins = keys, append(slices.Clone(cl.GetGenerationBegins()), t.index)
	t.cluster = cl
	return nil
}
