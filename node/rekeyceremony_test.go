package node_test

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

const rekey = fsmpb.CeremonyKind_CEREMONY_KIND_REKEY

// TestI14_ARekeyOfSharesStopsNobodyWhoIsThere: people with the present shares consent, those
// with the new ones prove themselves, members that are unsealed serve on without a person
// going to them, and one that slept takes the new seal by the line of ceremonies and is opened
// by the new holders only.
func TestI14_ARekeyOfSharesStopsNobodyWhoIsThere(t *testing.T) {
	h := ceremonyWorld(t, 3, shamirPlan(t, 2, 3))
	m, other, late := h.members[0], h.members[1], h.members[2]
	for _, x := range []*member{other, late} {
		for _, text := range h.printed[:2] {
			check(t, x.contribute(text))
		}
	}
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("before"))
	check(t, err)
	restarted(t, late)

	id := h.begin(t, m, rekey, group(2, h.person(t, "anna"), h.person(t, "ben"), storeHolder("hsm"))).GetId()
	_, err = h.consent(t, m, id, h.printed[0])
	check(t, err)
	h.state(t, id, ceremonyOpen)
	_, err = h.consent(t, m, id, h.printed[1])
	check(t, err)
	c := h.state(t, id, ceremonyStaged)
	if got, want := given(c.GetRekey()), []string{string(m.id), string(other.id)}; !slices.Equal(got, want) {
		t.Fatalf("the new MasterKey is for %v, want %v", got, want)
	}
	if g := m.machine.View().Generation(); g != 1 {
		t.Fatalf("MasterKey %d is in force before it is committed", g)
	}
	_, err = h.prove(t, other, id, "ben")
	check(t, err)
	if got := h.state(t, id, ceremonyCommitted); got.GetRekey() != nil || len(got.GetStagedRecord()) > 0 {
		t.Error("what was staged is kept")
	}
	for _, x := range []*member{m, other} {
		x.Observe(t.Context())
		if g := x.machine.View().Generation(); g != 2 || !x.Unsealed() {
			t.Fatalf("node %d: MasterKey %d, unsealed %v", x.number, g, x.Unsealed())
		}
		pt, _, err := x.decrypt(tg, ct)
		if err != nil || string(pt) != "before" {
			t.Errorf("node %d after the rekey: %q, %v", x.number, pt, err)
		}
	}

	late.Observe(t.Context())
	now := must[seal.Record](t)(seal.ReadFile(late.dir+"/record.pb", hierarchy.KeyspaceID{}))
	if now.Generation() != 2 || late.Unsealed() {
		t.Fatalf("the node that slept has the seal of MasterKey %d", now.Generation())
	}
	wants(t, late.contribute(h.printed[0]), errs.ShareRefused)
	for _, x := range []*member{late, m} {
		if x == m {
			restarted(t, m)
		}
		_ = x.AskKeystores(t.Context())
		share := h.opens(t, now, "anna")
		st := must[node.SealStatus](t)(x.GetSeal())
		check(t, x.contributeRaw(must[[]byte](t)(seal.SealShare(st.Offer, x.key.Public(), share))))
		share.Destroy()
		pt, _, err := x.decrypt(tg, ct)
		if err != nil || string(pt) != "before" {
			t.Errorf("node %d opened by the new holders: %q, %v", x.number, pt, err)
		}
	}
}

// TestI14_ARekeyOfKeystoresWaitsForTheMembers: nobody has to open anything, so the new
// MasterKey would be in force before a member has seen what was staged for it.
func TestI14_ARekeyOfKeystoresWaitsForTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := ceremonyWorld(t, 3, autoPlan(t), withClock(clock.System{}))
		m, other, mute := h.members[0], h.members[1], h.members[2]
		for _, x := range []*member{other, mute} {
			check(t, x.AskKeystores(t.Context()))
		}
		tg := target("acme", "pay")
		ct, _, err := m.encrypt(tg, []byte("before"))
		check(t, err)
		cutOff := func(id string, raw []byte) ([]byte, error) {
			if id == string(mute.id) && bytes.HasPrefix(raw, []byte("krypton/v1/has-staged-masterkey")) {
				return nil, errs.New(errs.Unavailable, "it is cut off")
			}
			for _, x := range h.members {
				if string(x.id) == id {
					return x.Prepare(t.Context(), raw)
				}
			}
			return nil, errs.New(errs.Unavailable, "no such peer")
		}
		for _, x := range []*member{m, other} {
			x.mu.Lock()
			x.prepare = cutOff
			x.mu.Unlock()
		}
		end, end2 := m.run(t), other.run(t)
		c := h.begin(t, m, rekey, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: sealKey}}})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		staged := h.state(t, c.GetId(), ceremonyStaged)
		if got := given(staged.GetRekey()); len(got) != 3 {
			t.Errorf("the new MasterKey is for %v", got)
		}
		if got := m.Ceremony(c.GetId()).Failure; !bytes.Contains([]byte(got), []byte(mute.id)) {
			t.Errorf("who is waited for is not said: %q", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		h.state(t, c.GetId(), ceremonyCommitted)
		for _, x := range h.members {
			x.Observe(t.Context())
			if x == m || x == other {
				pt, _, err := x.decrypt(tg, ct)
				if err != nil || string(pt) != "before" {
					t.Errorf("node %d after the rekey: %q, %v", x.number, pt, err)
				}
			}
		}
		end()
		end2()
	})
}
