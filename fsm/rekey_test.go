package fsm_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

const rekeyed = fsmpb.CeremonyKind_CEREMONY_KIND_REKEY

// newKeySeal is the record that a node makes of a rekey.
func (w *world) newKeySeal(id []byte) *sealpb.Record {
	w.tb.Helper()
	r, was := w.newSeal(id), w.sealNow()
	g := was.GetManifest().GetGeneration()
	r.Manifest.Generation, r.Manifest.MasterKeyCommitment = g+1, sum32("MasterKey", id)
	r.CarriedKeys = append(proto.CloneOf(was).GetCarriedKeys(), &sealpb.CarriedKey{Generation: g, Nonce: make([]byte, 12), Sealed: make([]byte, 48)})
	return r
}

// rewrapped is what a rekey stages besides.
func (w *world) rewrapped(id []byte) *fsmpb.StagedRekey {
	r := &fsmpb.StagedRekey{Handovers: []*fsmpb.Handover{{NodeId: nodeID(0), Sealed: []byte("MasterKey")}}}
	for _, v := range w.view().Cluster().GetInternalKeys() {
		if len(v.GetBlob()) > 0 {
			r.InternalKeys = append(r.InternalKeys, &fsmpb.RewrappedKey{Uid: v.GetUid(), Blob: sum32("under", id, v.GetNumber())})
		}
	}
	return r
}

func (w *world) stageRekey(id []byte, r *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.Command {
	return w.stageBy(0, id, r, k)
}

// TestI36_ARekeyBringsItsMasterKeyIntoForceAtOneEntry: record, internal keys and the
// generation change in it, nothing else does, and before it nothing has changed.
func TestI36_ARekeyBringsItsMasterKeyIntoForceAtOneEntry(t *testing.T) {
	w := shared(t)
	w.ok(w.addIVK())
	for g := uint64(1); g < 4; g++ {
		id := w.begun(rekeyed, people("anna", "ben"))
		k := w.rewrapped(id)
		w.ok(w.stageRekey(id, w.newKeySeal(id), k))
		w.refused(errs.FailedState, w.addIVK())
		w.ok(w.confirm(id, 1, 2))
		before := w.view()
		if c := w.ceremonyOf(id); before.Generation() != hierarchy.Generation(g) || !proto.Equal(c.GetRekey(), k) {
			t.Fatalf("before the commit: MasterKey %d, %v", before.Generation(), c.GetRekey())
		}
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
			t.Fatalf("a staged rekey in a snapshot: %v", err)
		}
		w.ok(w.commitSeal(id))
		v := w.view()
		if v.Generation() != hierarchy.Generation(g+1) || v.GenerationAt(v.Index()) != hierarchy.Generation(g+1) || v.GenerationAt(v.Index()-1) != hierarchy.Generation(g) {
			t.Fatalf("after it: MasterKey %d since %v", v.Generation(), v.Cluster().GetGenerationBegins())
		}
		for i, key := range v.Cluster().GetInternalKeys() {
			was := proto.CloneOf(before.Cluster().GetInternalKeys()[i])
			was.Blob = k.GetInternalKeys()[i].GetBlob()
			if !proto.Equal(was, key) {
				t.Errorf("internal key %d: %v", i+1, key)
			}
		}
		if w.sealNow().GetManifest().GetGeneration() != g+1 || w.ceremonyIs(id, committed).GetRekey() != nil {
			t.Error("the record is another one, or the MasterKeys of nodes stay")
		}
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
			t.Fatal(err)
		}
	}
	w.ok(w.addIVK())
	// One that is given up leaves nothing either.
	id := w.begun(rekeyed, people("anna", "ben"))
	w.ok(w.stageRekey(id, w.newKeySeal(id), w.rewrapped(id)))
	w.ok(cancelSeal(id))
	if c := w.ceremonyIs(id, cancelled); c.GetRekey() != nil || w.view().Generation() != 4 {
		t.Errorf("cancelled: %v", c.GetRekey())
	}
	w.ok(w.addIVK())
}

// TestI36_ARekeyThatWouldLoseAnInternalKeyIsRefused, or one with which nodes could not prove what
// is on their disks; and nothing but a rekey has these parts.
func TestI36_ARekeyThatWouldLoseAnInternalKeyIsRefused(t *testing.T) {
	w := shared(t)
	w.ok(w.addIVK())
	id := w.begun(rekeyed, people("anna", "ben"))
	for name, c := range map[string]struct {
		code errs.Code
		do   func(r *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey
	}{
		"no internal keys": {errs.InvalidArgument, func(*sealpb.Record, *fsmpb.StagedRekey) *fsmpb.StagedRekey { return nil }},
		"one is missing": {errs.Aborted, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.InternalKeys = k.GetInternalKeys()[:1]
			return k
		}},
		"in another order": {errs.Aborted, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.InternalKeys[0], k.InternalKeys[1] = k.GetInternalKeys()[1], k.GetInternalKeys()[0]
			return k
		}},
		"one too many": {errs.Aborted, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.InternalKeys = append(k.GetInternalKeys(), k.GetInternalKeys()[1])
			return k
		}},
		"one is empty": {errs.InvalidArgument, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.InternalKeys[1].Blob = nil
			return k
		}},
		"the key of the registry is not carried": {errs.InvalidArgument, func(r *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			r.CarriedKeys = nil
			return k
		}},
		"for a node that is none": {errs.Aborted, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.Handovers[0].NodeId = nodeID(9)
			return k
		}},
		"for a node twice": {errs.InvalidArgument, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.Handovers = append(k.GetHandovers(), k.GetHandovers()[0])
			return k
		}},
		"too much for a node": {errs.InvalidArgument, func(_ *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.StagedRekey {
			k.Handovers[0].Sealed = make([]byte, fsm.MaxHandoverBytes+1)
			return k
		}},
	} {
		r := w.newKeySeal(id)
		k := c.do(r, w.rewrapped(id))
		if w.refused(c.code, w.stageRekey(id, r, k)); t.Failed() {
			t.Fatal(name)
		}
	}
	w.ok(w.stageRekey(id, w.newKeySeal(id), w.rewrapped(id)))
	raw := snapshot(t, w.m, testMAC)
	for name, change := range map[string]func(c *fsmpb.Ceremony){
		"without them": func(c *fsmpb.Ceremony) { c.Rekey = nil },
		"without one":  func(c *fsmpb.Ceremony) { c.Rekey.InternalKeys = c.GetRekey().GetInternalKeys()[:1] },
		"for a node twice": func(c *fsmpb.Ceremony) {
			c.Rekey.Handovers = append(c.GetRekey().GetHandovers(), c.GetRekey().GetHandovers()[0])
		},
		"in a cancelled one": func(c *fsmpb.Ceremony) {
			c.State, c.StagedRecord, c.EndTimeMs, c.CancelledBy = cancelled, nil, c.GetCreateTimeMs(), c.GetRequester()
		},
	} {
		items := itemsOf(t, raw)
		for _, it := range items {
			if it.GetCeremony() != nil {
				change(it.GetCeremony())
			}
		}
		err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(build(t, headerOf(t, raw), items, raw[len(raw)-33:])))
		var e *errs.Error
		if !errors.As(err, &e) || !errs.Is(err, errs.StateCorrupt) || !strings.Contains(e.Msg, "ceremony") {
			t.Errorf("a snapshot %s: %v", name, err)
		}
	}
	w.ok(cancelSeal(id))

	id = w.begun(reshare, people("anna", "ben"))
	w.refused(errs.InvalidArgument, w.stageRekey(id, w.newSeal(id), w.rewrapped(id)))
	w.ok(w.stage(id, w.newSeal(id)))
}
