package node_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// internal commits what the leader does by itself.
func (w *world) internal(cmd *fsmpb.Command) {
	w.tb.Helper()
	cmd.Format = fsm.CommandFormat
	check(w.tb, fsm.Err(w.commit(cmd)))
}

// newMasterKey makes a MasterKey that follows the one in force, and its record.
func (m *member) newMasterKey(t *testing.T) (seal.Record, memsec.Secret) {
	t.Helper()
	have := must[seal.Record](t)(seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{}))
	id := must[hierarchy.UID](t)(hierarchy.NewUID(rand.Reader))
	r, mk, _, err := seal.Create(t.Context(), rand.Reader, seal.Ceremony{
		Keyspace: have.Keyspace(), Cluster: have.Cluster(), ID: id, Generation: have.Generation() + 1, Time: m.w.clock.Now(),
	}, seal.Plan{
		ProviderKeys: []seal.ProviderKey{{Provider: "sealing", Key: keystore.KeyRef(sealKey)}}, Kind: seal.KindRekey, Previous: have.ManifestDigest(),
	}, m.stores)
	check(t, err)
	t.Cleanup(mk.Destroy)
	return r, mk
}

// comesIntoForce returns the state in which the staged MasterKey is in force, written by a
// node that has it.
func (m *member) comesIntoForce(t *testing.T, r seal.Record, staged *fsmpb.StagedRekey) []byte {
	t.Helper()
	b := forge(t, snapshot(t, m.machine, nil), func(it *fsmpb.SnapshotItem) {
		c := it.GetCluster()
		if c == nil {
			return
		}
		c.SealRecord = must[[]byte](t)(r.Marshal())
		c.SealManifests = append(c.SealManifests, must[[]byte](t)(proto.MarshalOptions{Deterministic: true}.Marshal(r.Manifest())))
		c.GenerationBegins = append(c.GenerationBegins, m.machine.View().Index())
		for _, k := range staged.GetInternalKeys() {
			for _, v := range c.GetInternalKeys() {
				if bytes.Equal(v.GetUid(), k.GetUid()) {
					v.Blob = k.GetBlob()
				}
			}
		}
	})
	return signBy(r.Generation(), b, m.machine, m.RawMAC)
}

// TestI14_ARekeyInterruptsNothing: a node that has the next MasterKey serves on when it
// comes into force, from its memory and after a start, and one that has not says so.
func TestI14_ARekeyInterruptsNothing(t *testing.T) {
	w, m := cluster1(t)
	late := w.add(t, options{l2Hold: time.Minute})
	w.join(late)
	late.follow()
	check(t, late.AskKeystores(t.Context()))
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	_, _, err = late.decrypt(tg, ct)
	check(t, err)

	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	if !slices.Equal(r.CarriedGenerations(), []hierarchy.Generation{1}) || len(staged.GetInternalKeys()) != 1 {
		t.Fatalf("it carries %v, and %d internal keys", r.CarriedGenerations(), len(staged.GetInternalKeys()))
	}
	before, _ := m.MAC(1, []byte("x"))
	check(t, m.TakeNext(r, staged, mk))
	check(t, m.TakeNext(r, staged, mk)) // and again, as a leader that died may ask
	if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{1, 2}) || m.Opened() != 1 {
		t.Fatalf("MasterKeys %v, opened by %d", got, m.Opened())
	}
	_, _, err = m.decrypt(tg, ct)
	check(t, err)

	state := m.comesIntoForce(t, r, staged)
	m.restore(t, state)
	late.restore(t, state)
	if _, _, err = m.decrypt(tg, ct); err != nil {
		t.Fatalf("at the first look, before anything else: %v", err)
	}
	m.contact.Store(1 << 62) // it needs no lease to know its own MasterKey
	m.Observe(t.Context())
	m.contact.Store(0)
	check(t, m.ServingErr())
	if m.Opened() != 2 {
		t.Errorf("it believes a state from before MasterKey 2: %d", m.Opened())
	}
	onDisk := must[seal.Record](t)(seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{}))
	if onDisk.Digest() != r.Digest() {
		t.Error("the new record is not on the disk")
	}

	// Whoever has not the MasterKey says so, vouches for nothing, and takes no record.
	late.Observe(t.Context())
	_, _, err = late.decrypt(tg, ct)
	if !errs.Is(err, errs.Sealed) || !strings.Contains(errs.From(err).Msg, "this node has MasterKey 1, and the cluster has MasterKey 2") {
		t.Errorf("without the MasterKey: %v", err)
	}
	wants(t, late.Believed(), errs.Sealed)
	if _, ok := late.MAC(2, []byte("x")); ok {
		t.Error("it has a MAC key of a MasterKey that it has not")
	}

	// What wrapped internal keys before goes, and no sooner than what began before ends.
	m.Sweep()
	w.advance(node.RetireAfter - time.Second)
	m.Sweep()
	if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{1, 2}) {
		t.Errorf("after less than that: MasterKeys %v", got)
	}
	w.advance(2 * time.Second)
	m.Sweep()
	if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{2}) {
		t.Errorf("after %s: MasterKeys %v", node.RetireAfter, got)
	}

	// After a start nothing is in memory, and the new record opens it.
	m.boot(t)
	m.restore(t, state)
	check(t, m.AskKeystores(t.Context()))
	if _, _, err := m.decrypt(tg, ct); err != nil {
		t.Fatalf("after a start: %v", err)
	}
	if again, ok := m.MAC(1, []byte("x")); !ok || again != before || !slices.Equal(m.Parents(), []hierarchy.Generation{2}) {
		t.Errorf("what the MasterKey before proved cannot be verified: %t; MasterKeys %v", ok, m.Parents())
	}
}

// TestI14_NoOperationFailsWhileAMasterKeyComesIntoForce, on a node that has nothing in memory
// when it does.
func TestI14_NoOperationFailsWhileAMasterKeyComesIntoForce(t *testing.T) {
	w, m := cluster1(t)
	type text struct {
		tg node.Target
		ct []byte
	}
	var texts []text
	for i := range 12 {
		name := hierarchy.Name(fmt.Sprintf("t%d", i))
		w.tenant(m, name, "pay")
		tg := target(name, "pay")
		ct, _, err := m.encrypt(tg, []byte("x"))
		check(t, err)
		texts = append(texts, text{tg, ct})
	}
	old := snapshot(t, m.machine, m.MAC)
	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	check(t, m.TakeNext(r, staged, mk))
	state := m.comesIntoForce(t, r, staged)

	m.boot(t)
	m.restore(t, old)
	check(t, m.AskKeystores(t.Context()))
	check(t, m.TakeNext(r, staged, mk))
	var g errgroup.Group
	begun := make(chan struct{}, len(texts))
	for _, x := range texts {
		g.Go(func() error {
			for i := range 20 {
				if _, _, err := m.decrypt(x.tg, x.ct); err != nil {
					return err
				}
				if i == 0 {
					begun <- struct{}{}
				}
			}
			return nil
		})
	}
	<-begun
	m.restore(t, state)
	m.Observe(t.Context())
	m.Sweep()
	check(t, g.Wait())
	check(t, m.ServingErr()) // all of them may have ended before it did
	if m.Opened() != 2 {
		t.Error("it did not come into force")
	}
}

// TestI14_AnInternalKeyThatWasExchangedIsNotTaken: nobody but who has both MasterKeys sees it,
// and once it is in force no node opens a tenant.
func TestI14_AnInternalKeyThatWasExchangedIsNotTaken(t *testing.T) {
	w, m := cluster1(t)
	second := must[hierarchy.UID](t)(hierarchy.NewUID(rand.Reader))
	w.internal(&fsmpb.Command{Body: &fsmpb.Command_AddInternalKey{AddInternalKey: &fsmpb.AddInternalKey{
		Version: &fsmpb.Version{Number: 2, Uid: second[:], Blob: must[[]byte](t)(m.NewInternalKey(second))},
	}}})
	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	uid := must[hierarchy.UID](t)(hierarchy.UIDFromBytes(staged.GetInternalKeys()[0].GetUid()))
	other := must[[]byte](t)(m.Exchanged(r, mk, uid))
	for name, change := range map[string]func(s *fsmpb.StagedRekey){
		"another key":      func(s *fsmpb.StagedRekey) { s.InternalKeys[0].Blob = other },
		"it does not open": func(s *fsmpb.StagedRekey) { s.InternalKeys[0].Blob[40] ^= 1 },
		"it is missing":    func(s *fsmpb.StagedRekey) { s.InternalKeys = nil },
		"it is there twice": func(s *fsmpb.StagedRekey) {
			s.InternalKeys[1] = s.GetInternalKeys()[0]
		},
		"one too many": func(s *fsmpb.StagedRekey) {
			s.InternalKeys = append(s.GetInternalKeys(), s.GetInternalKeys()[0])
		},
		"one that is none": func(s *fsmpb.StagedRekey) { s.InternalKeys[0].Uid[0] ^= 1 },
	} {
		bad := proto.CloneOf(staged)
		change(bad)
		if err := m.TakeNext(r, bad, mk); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{1}) {
			t.Fatalf("%s: it has the MasterKeys %v", name, got)
		}
	}
	check(t, m.TakeNext(r, staged, mk))

	// And if it came into force all the same, by a leader that lies, it is found at once.
	bad := proto.CloneOf(staged)
	bad.InternalKeys[0].Blob[40] ^= 1
	m.restore(t, m.comesIntoForce(t, r, bad))
	if err := m.ServingErr(); !errs.Is(err, errs.StateCorrupt) || !strings.Contains(errs.From(err).Msg, "the first internal key does not open") {
		t.Errorf("with an internal key that does not open: %v", err)
	}
}

// TestI14_OfTwoStagedMasterKeysTheLaterOneCounts, and none that is no more to come.
func TestI14_OfTwoStagedMasterKeysTheLaterOneCounts(t *testing.T) {
	_, m := cluster1(t)
	first, mk1 := m.newMasterKey(t)
	first, staged1, err := m.StageRekey(t.Context(), first, mk1)
	check(t, err)
	second, mk2 := m.newMasterKey(t)
	second, staged2, err := m.StageRekey(t.Context(), second, mk2)
	check(t, err)
	check(t, m.TakeNext(first, staged1, mk1))
	tag1, _ := m.RawMAC(2, []byte("x"))
	check(t, m.TakeNext(second, staged2, mk2))
	if tag2, _ := m.RawMAC(2, []byte("x")); tag1 == tag2 {
		t.Error("the MasterKey of a ceremony that was given up counts")
	}
	// The first one after all: this node has not its MasterKey any more, and is sealed.
	m.restore(t, m.comesIntoForce(t, first, staged1))
	m.Observe(t.Context())
	if err := m.ServingErr(); !errs.Is(err, errs.Sealed) {
		t.Errorf("with a MasterKey that is not in force: %v", err)
	}
	if onDisk := must[seal.Record](t)(seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{})); onDisk.Generation() != 1 {
		t.Error("it takes the record of a MasterKey that it has not from a state that it cannot prove")
	}

	_, m = cluster1(t)
	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	given, mk3 := m.newMasterKey(t)
	given, staged3, err := m.StageRekey(t.Context(), given, mk3)
	check(t, err)
	check(t, m.TakeNext(r, staged, mk))
	m.restore(t, m.comesIntoForce(t, r, staged))
	m.Observe(t.Context())
	check(t, m.ServingErr())
	wants(t, m.TakeNext(given, staged3, mk3), errs.FailedState)
	wants(t, m.TakeNext(r, staged, mk2), errs.StateCorrupt)
	if _, _, err := m.StageRekey(t.Context(), r, mk); !errs.Is(err, errs.FailedState) {
		t.Errorf("a MasterKey that is in force is staged again: %v", err)
	}
	var e *errs.Error
	if err := m.TakeNext(second, staged2, mk2); !errors.As(err, &e) {
		t.Errorf("the MasterKey of another cluster is taken: %v", err)
	}
	check(t, m.ServingErr())
}

// TestI11_ALaterMasterKeyHasToComeFromTheFirst: whoever writes the disk of a node that sleeps,
// with the signatures of a ceremony that there was, can make a MasterKey and all that is
// under it. Only the CA of the founding it has not.
func TestI11_ALaterMasterKeyHasToComeFromTheFirst(t *testing.T) {
	_, m := cluster1(t)
	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	check(t, m.TakeUnseen(r, mk))
	k := staged.GetInternalKeys()[0]
	honest := m.comesIntoForce(t, r, staged)
	k.Blob = must[[]byte](t)(m.Exchanged(r, mk, hierarchy.UID(k.GetUid())))
	for name, state := range map[string][]byte{"another internal key": m.comesIntoForce(t, r, staged), "": honest} {
		check(t, seal.WriteFile(m.dir+"/record.pb", r))
		m.boot(t)
		m.restore(t, state)
		check(t, m.AskKeystores(t.Context()))
		m.Observe(t.Context())
		switch err := m.Believed(); {
		case name == "":
			check(t, err)
			if m.Opened() != 2 {
				t.Errorf("it was opened by MasterKey %d", m.Opened())
			}
		case !errs.Is(err, errs.StateCorrupt) || !strings.Contains(errs.From(err).Msg, "is not one of its cluster"):
			t.Errorf("%s: %v", name, err)
		}
	}
}
