package node_test

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

// stagedCeremony is what the registry has of a staged rekey.
func stagedCeremony(t *testing.T, r seal.Record, staged *fsmpb.StagedRekey) *fsmpb.Ceremony {
	t.Helper()
	digest := r.ManifestDigest()
	return &fsmpb.Ceremony{
		State: fsmpb.CeremonyState_CEREMONY_STATE_STAGED, Kind: fsmpb.CeremonyKind_CEREMONY_KIND_REKEY,
		StagedRecord: must[[]byte](t)(r.Marshal()), NewManifest: digest[:], Rekey: staged,
	}
}

// joined adds a member that is unsealed.
func (w *world) joined(t *testing.T) *member {
	t.Helper()
	m := w.add(t, options{l2Hold: time.Minute})
	w.join(m)
	m.follow()
	check(t, m.AskKeystores(t.Context()))
	return m
}

func given(staged *fsmpb.StagedRekey) (ids []string) {
	for _, h := range staged.GetHandovers() {
		ids = append(ids, h.GetNodeId())
	}
	return ids
}

// TestI14_NodesThatAreUnsealedGetTheMasterKeyBeforeItComesIntoForce, and nobody else does.
func TestI14_NodesThatAreUnsealedGetTheMasterKeyBeforeItComesIntoForce(t *testing.T) {
	w, m := cluster1(t)
	served, restarted, sealed := w.joined(t), w.joined(t), w.joined(t)
	boot := func(x *member) {
		x.boot(t)
		x.follow()
	}
	boot(sealed)
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)

	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	if got, want := given(staged), []string{string(m.id), string(served.id), string(restarted.id)}; !slices.Equal(got, want) {
		t.Fatalf("the MasterKey is for %v, want %v", got, want)
	}
	c := stagedCeremony(t, r, staged)
	for _, x := range []*member{m, served} {
		check(t, x.TakeStaged(t.Context(), c))
		check(t, x.TakeStaged(t.Context(), c))
		if got := x.Parents(); !slices.Equal(got, []hierarchy.Generation{1, 2}) {
			t.Fatalf("it has the MasterKeys %v", got)
		}
	}
	// What was for one start is not for the next, and is looked at once.
	boot(restarted)
	check(t, restarted.AskKeystores(t.Context()))
	wants(t, restarted.TakeStaged(t.Context(), c), errs.FailedState)
	check(t, restarted.TakeStaged(t.Context(), c))
	check(t, sealed.AskKeystores(t.Context()))
	check(t, sealed.TakeStaged(t.Context(), c))
	for _, x := range []*member{restarted, sealed} {
		if got := x.Parents(); !slices.Equal(got, []hierarchy.Generation{1}) {
			t.Errorf("it has the MasterKeys %v", got)
		}
	}
	state := m.comesIntoForce(t, r, staged)
	for _, x := range w.members {
		x.restore(t, state)
		x.Observe(t.Context())
	}
	for _, x := range []*member{m, served} {
		_, _, err := x.decrypt(tg, ct)
		check(t, err)
	}
	for _, x := range []*member{restarted, sealed} {
		if _, _, err := x.decrypt(tg, ct); err == nil {
			t.Error("a node without the MasterKey serves")
		}
	}
}

// TestI14_AMasterKeyThatIsGivenUpGoes: when the ceremony ends and it did not come into force.
func TestI14_AMasterKeyThatIsGivenUpGoes(t *testing.T) {
	_, m := cluster1(t)
	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	c := stagedCeremony(t, r, staged)
	check(t, m.TakeStaged(t.Context(), c))
	m.Observe(t.Context()) // the registry has no staged ceremony
	if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{1}) {
		t.Errorf("it has the MasterKeys %v", got)
	}
	if _, ok := m.MAC(2, []byte("x")); ok {
		t.Error("it has a MAC key of it")
	}
	check(t, m.ServingErr())
	check(t, m.TakeStaged(t.Context(), c)) // and it is looked at anew, if it is staged again
	m.restore(t, m.comesIntoForce(t, r, staged))
	m.Observe(t.Context())
	if got := m.Parents(); !slices.Equal(got, []hierarchy.Generation{1, 2}) {
		t.Errorf("what came into force is gone: %v", got)
	}
	check(t, m.ServingErr())
}

// TestI14_AMemberThatWasRemovedGetsNone, although it runs, is unsealed, and answers.
func TestI14_AMemberThatWasRemovedGetsNone(t *testing.T) {
	w, m := cluster1(t)
	gone := w.joined(t)
	m.restore(t, sign(forge(t, snapshot(t, m.machine, nil), func(it *fsmpb.SnapshotItem) {
		if x := it.GetMember(); x.GetId() == string(gone.id) {
			x.Removed = true
		}
		if c := it.GetCluster(); c != nil {
			c.VotersAgreed = 1
		}
	}), m.machine, m.MAC))
	r, mk := m.newMasterKey(t)
	_, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	if got := given(staged); !slices.Equal(got, []string{string(m.id)}) {
		t.Errorf("the MasterKey is for %v", got)
	}
}

// TestI14_AMasterKeyGoesToNoKeyThatTheMemberDidNotSign
func TestI14_AMasterKeyGoesToNoKeyThatTheMemberDidNotSign(t *testing.T) {
	w, m := cluster1(t)
	other := w.joined(t)
	theirs := must[*seal.StartKey](t)(seal.NewStartKey(seal.Target{Cluster: seal.Fingerprint(m.machine.View().Cluster().GetFingerprint()), Node: string(other.id)}))
	forged := must[seal.Offer](t)(theirs.Offer(rand.Reader, m.key)) // signed by another member
	for name, answer := range map[string][]byte{
		"signed by somebody else": slices.Concat(forged.Public, forged.Signature),
		"no signature":            forged.Public,
		"nothing":                 nil,
		"noise":                   bytes.Repeat([]byte{1}, 2000),
	} {
		m.mu.Lock()
		m.prepare = func(string, []byte) ([]byte, error) { return answer, nil }
		m.mu.Unlock()
		r, mk := m.newMasterKey(t)
		_, staged, err := m.StageRekey(t.Context(), r, mk)
		check(t, err)
		if got := given(staged); !slices.Equal(got, []string{string(m.id)}) {
			t.Errorf("%s: the MasterKey is for %v", name, got)
		}
	}
	m.mu.Lock()
	m.prepare = nil
	m.mu.Unlock()
	other.unproved = errs.New(errs.StateCorrupt, "not believed")
	if _, err := other.Prepare(t.Context(), []byte("krypton/v1/offer-start-key")); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("a node that does not believe its state asks for a MasterKey: %v", err)
	}
}
