package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
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
	if _, ok := m.RawMAC(2, []byte("x")); ok {
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

// TestI14_WhoLooksAtAnOlderStateGivesNothingUp: a member that said it was ready would be
// sealed by the commit.
func TestI14_WhoLooksAtAnOlderStateGivesNothingUp(t *testing.T) {
	h := ceremonyWorld(t, 2, shamirPlan(t, 2, 3))
	m, other := h.members[0], h.members[1]
	for _, text := range h.printed[:2] {
		check(t, other.contribute(text))
	}
	id := h.begin(t, m, rekey, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	_, err := h.consent(t, m, id, h.printed[0])
	check(t, err)
	before := other.machine.View()
	_, err = h.consent(t, m, id, h.printed[1])
	check(t, err)
	digest := h.state(t, id, ceremonyStaged).GetNewManifest()
	_, err = other.Prepare(t.Context(), append([]byte("krypton/v1/has-staged-masterkey"), digest...))
	check(t, err)
	other.ObserveAt(t.Context(), before) // it loaded that before, and was slow
	if got := other.Parents(); !slices.Equal(got, []hierarchy.Generation{1, 2}) {
		t.Errorf("it has the MasterKeys %v", got)
	}
}

// TestI14_AMasterKeyThatWasGivenUpIsNotTakenForTheOneInForce: a node that is cut off after it
// took one does not hear that its ceremony was cancelled, and that another one of that number is
// in force. What that one proves it cannot tell, and does not call forged.
func TestI14_AMasterKeyThatWasGivenUpIsNotTakenForTheOneInForce(t *testing.T) {
	for _, by := range []string{"its log", "a snapshot"} {
		t.Run(by, func(t *testing.T) {
			h := ceremonyWorld(t, 3, shamirPlan(t, 2, 3))
			m, other, third := h.members[0], h.members[1], h.members[2]
			for _, text := range h.printed[:2] {
				check(t, other.contribute(text))
				check(t, third.contribute(text))
			}
			tg := target("acme", "pay")
			ct, _, err := m.encrypt(tg, []byte("x"))
			check(t, err)
			staged := func(names ...string) []byte {
				id := h.begin(t, m, rekey, group(2, h.person(t, names[0]), h.person(t, names[1]))).GetId()
				for _, text := range h.printed[:2] {
					_, err := h.consent(t, m, id, text)
					check(t, err)
				}
				return id
			}
			id := staged("anna", "ben")
			other.Observe(t.Context())
			if got := other.Parents(); !slices.Equal(got, []hierarchy.Generation{1, 2}) {
				t.Fatalf("it has the MasterKeys %v", got)
			}
			if _, ok := other.MAC(2, []byte("x")); ok {
				t.Error("it judges by a MasterKey that is not in force")
			}
			other.behind.Store(true)
			check(t, h.cancel(m, id))
			id = staged("carl", "dora")
			h.advance(time.Minute)
			for _, name := range []string{"carl", "dora"} {
				_, err := h.prove(t, third, id, name)
				check(t, err)
			}
			h.state(t, id, ceremonyCommitted)
			m.Observe(t.Context())

			if by == "its log" {
				other.follow()
			} else {
				other.restore(t, snapshot(t, m.machine, m.MAC))
				other.behind.Store(false)
			}
			if _, ok := other.MAC(2, []byte("x")); ok {
				t.Error("it takes the MasterKey of the ceremony that was cancelled for the one in force")
			}
			if err := other.Believed(); !errs.Is(err, errs.Sealed) {
				t.Errorf("it says of its state: %v", err)
			}
			if _, _, err := other.decrypt(tg, ct); err == nil {
				t.Error("it serves")
			}
			other.Observe(t.Context())
			if other.Unsealed() {
				t.Fatal("it has the MasterKey of no ceremony, and is not sealed")
			}
			now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
			for _, name := range []string{"carl", "dora"} {
				h.unseals(t, other, now, name)
			}
			pt, _, err := other.decrypt(tg, ct)
			if err != nil || string(pt) != "x" {
				t.Errorf("opened by the holders of the one in force: %q, %v", pt, err)
			}
		})
	}
}

// cancel has the custodian cancel a ceremony.
func (h *held) cancel(m *member, id []byte) error {
	return m.do(m.custodian("cust"), gate.CancelCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) error {
		_, err := m.CancelCeremony(ctx, tok, h.request(), id, "enough")
		return err
	})
}

// unseals has a person give a share of a record to a node.
func (h *held) unseals(t testing.TB, m *member, r seal.Record, name string) {
	t.Helper()
	share := h.opens(t, r, name)
	defer share.Destroy()
	st := must[node.SealStatus](t)(m.GetSeal())
	check(t, m.contributeRaw(must[[]byte](t)(seal.SealShare(st.Offer, m.key.Public(), share))))
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

// TestI14_AMasterKeyGoesToNoKeyThatTheMemberDidNotSign, nor to who has the member key and not
// the MasterKey: the disk of a node that is sealed is worth nothing.
func TestI14_AMasterKeyGoesToNoKeyThatTheMemberDidNotSign(t *testing.T) {
	w, m := cluster1(t)
	other := w.joined(t)
	theirs := must[*seal.StartKey](t)(seal.NewStartKey(seal.Target{Cluster: seal.Fingerprint(m.machine.View().Cluster().GetFingerprint()), Node: string(other.id)}))
	forged := must[seal.Offer](t)(theirs.Offer(rand.Reader, m.key))     // signed by another member
	stolen := must[seal.Offer](t)(theirs.Offer(rand.Reader, other.key)) // by who has the member key of a node, and no MasterKey
	honest := must[[]byte](t)(other.Prepare(t.Context(), []byte("krypton/v1/offer-start-key")))
	mac := honest[1216 : 1216+32]
	have, _ := m.MAC(1, []byte("krypton/v1/start-key-of-unsealed"), binary.BigEndian.AppendUint64(nil, 1), forged.Target.Cluster[:], forged.Public, []byte(other.id))
	for name, answer := range map[string][]byte{
		"signed by somebody else":   slices.Concat(forged.Public, have[:], forged.Signature),
		"no MAC":                    slices.Concat(stolen.Public, stolen.Signature),
		"zeros":                     slices.Concat(stolen.Public, make([]byte, 32), stolen.Signature),
		"the MAC of the node's key": slices.Concat(stolen.Public, mac, stolen.Signature),
		"no signature":              slices.Concat(forged.Public, have[:]),
		"nothing":                   nil,
		"noise":                     bytes.Repeat([]byte{1}, 2000),
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
	m.prepare = func(string, []byte) ([]byte, error) { return honest, nil }
	m.mu.Unlock()
	r, mk := m.newMasterKey(t)
	_, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	if got := given(staged); !slices.Equal(got, []string{string(m.id), string(other.id)}) {
		t.Errorf("what the node itself says: the MasterKey is for %v", got)
	}
	m.mu.Lock()
	m.prepare = nil
	m.mu.Unlock()
	w.tick() // what it found of the state before is no answer
	other.unproved = errs.New(errs.StateCorrupt, "not believed")
	if _, err := other.Prepare(t.Context(), []byte("krypton/v1/offer-start-key")); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("a node that does not believe its state asks for a MasterKey: %v", err)
	}
}
