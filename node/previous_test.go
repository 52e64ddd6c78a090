package node_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// beside returns the record in a file beside that of the member, and whether there is one.
func (m *member) beside(t testing.TB, suffix string) (seal.Record, bool) {
	t.Helper()
	r, err := seal.ReadFile(m.dir+"/record.pb"+suffix, hierarchy.KeyspaceID{})
	if errors.Is(err, seal.ErrNoRecord) {
		return seal.Record{}, false
	}
	check(t, err)
	return r, true
}

// goesBack does to the data directory of m what krypton operator recover seal --previous does.
func (m *member) goesBack(t testing.TB) {
	t.Helper()
	check(t, os.Rename(m.dir+"/record.pb", m.dir+"/record.pb"+seal.AsideSuffix))
	check(t, os.Rename(m.dir+"/record.pb"+seal.PreviousSuffix, m.dir+"/record.pb"))
}

// reshared holds a reshare from the printed shares to people, made by m and proved by by.
func (h *held) reshared(t testing.TB, m, by *member, names ...string) []byte {
	t.Helper()
	plan := group(2)
	for _, n := range names {
		plan.Groups[0].Holders = append(plan.Groups[0].Holders, h.person(t, n))
	}
	id := h.begin(t, m, reshare, plan).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	for _, name := range names[:2] {
		_, err := h.prove(t, by, id, name)
		check(t, err)
	}
	h.state(t, id, ceremonyCommitted)
	for _, x := range h.members {
		x.Observe(t.Context())
	}
	return id
}

// TestI16_TheSealFromBeforeIsKeptUntilTheNewOneOpened: on every node, unsealed or not,
// until that node was opened by the new holders.
func TestI16_TheSealFromBeforeIsKeptUntilTheNewOneOpened(t *testing.T) {
	h, first := rogueWorld(t, shamirPlan(t, 2, 3)) // all are honest here
	m, by := first.member, h.members[1]
	before := must[seal.Record](t)(seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{}))
	if _, kept := m.beside(t, seal.PreviousSuffix); kept {
		t.Fatal("there was one before")
	}
	h.reshared(t, m, by, "anna", "ben")
	for _, x := range h.members {
		if r, kept := x.beside(t, seal.PreviousSuffix); !kept || r.Digest() != before.Digest() {
			t.Errorf("node %d does not keep the seal from before", x.number)
		}
	}
	if st := must[node.SealStatus](t)(m.GetSeal()); st.WayBack != "" {
		t.Errorf("an unsealed node says %q", st.WayBack)
	}
	restarted(t, m)
	if st := must[node.SealStatus](t)(m.GetSeal()); !strings.Contains(st.WayBack, "recover seal --previous") {
		t.Errorf("a sealed node says %q", st.WayBack)
	}
	// By itself it does not go back.
	wants(t, m.contribute(h.printed[0]), errs.ShareRefused)
	now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	h.unseal(t, m, now, "anna", "ben")
	if _, kept := m.beside(t, seal.PreviousSuffix); kept {
		t.Error("it was opened by the new holders, and keeps the seal from before")
	}
	if _, kept := by.beside(t, seal.PreviousSuffix); !kept {
		t.Error("another node was not, and keeps none")
	}
}

// unseal has people bring their shares of a record.
func (h *held) unseal(t testing.TB, m *member, r seal.Record, names ...string) {
	t.Helper()
	for _, name := range names {
		share := h.opens(t, r, name)
		st := must[node.SealStatus](t)(m.GetSeal())
		check(t, m.contributeRaw(must[[]byte](t)(seal.SealShare(st.Offer, m.key.Public(), share))))
		share.Destroy()
	}
	if !m.Unsealed() {
		t.Fatal("it stays sealed")
	}
}

// TestI16_APersonOpensANodeByTheSealFromBefore: the new holders lost their identities. Who
// held the seal before opens a node that was taken back, over restarts, consents on it to
// another ceremony, and with that the cluster has a seal that opens again.
func TestI16_APersonOpensANodeByTheSealFromBefore(t *testing.T) {
	h, first := rogueWorld(t, shamirPlan(t, 2, 3))
	m, by := first.member, h.members[1]
	h.reshared(t, m, by, "anna", "ben")
	stop(m.Node)
	m.goesBack(t)
	for range 2 { // starts
		restarted(t, m)
		if m.Unsealed() {
			t.Fatal("unsealed by nobody")
		}
		for _, text := range h.printed[1:] {
			check(t, m.contribute(text))
		}
		m.Observe(t.Context())
		if !m.Unsealed() {
			t.Fatal("the holders from before do not open it")
		}
		if _, kept := m.beside(t, seal.AsideSuffix); !kept {
			t.Error("it forgot that a person set the new seal aside")
		}
	}
	id := h.begin(t, m, reshare, group(2, h.person(t, "carl"), h.person(t, "dora"))).GetId()
	if _, err := h.consent(t, by, id, h.printed[0]); !errs.Is(err, errs.ShareRefused) {
		t.Errorf("a node that was not taken back takes the consent of who was replaced: %v", err)
	}
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	for _, name := range []string{"carl", "dora"} {
		_, err := h.prove(t, by, id, name)
		check(t, err)
	}
	h.state(t, id, ceremonyCommitted)
	m.Observe(t.Context())
	now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	if got := must[seal.Record](t)(seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{})); got.Digest() != now.Digest() {
		t.Error("it did not take the next seal")
	}
	if _, err := os.Stat(m.dir + "/record.pb" + seal.AsideSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was set aside is still there: %v", err)
	}
	restarted(t, m)
	h.unseal(t, m, now, "carl", "dora")
}

// TestI16_AfterARekeyThereIsNoWayBack: the seal from before opens another MasterKey.
func TestI16_AfterARekeyThereIsNoWayBack(t *testing.T) {
	h, first := rogueWorld(t, shamirPlan(t, 2, 3))
	m, by := first.member, h.members[1]
	id := h.begin(t, m, rekey, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	for _, name := range []string{"anna", "ben"} {
		_, err := h.prove(t, by, id, name)
		check(t, err)
	}
	h.state(t, id, ceremonyCommitted)
	m.Observe(t.Context())
	restarted(t, m)
	if st := must[node.SealStatus](t)(m.GetSeal()); st.WayBack != "" {
		t.Errorf("it says %q", st.WayBack)
	}
	if r, kept := m.beside(t, seal.PreviousSuffix); !kept || r.Generation() != 1 {
		t.Error("the seal from before is not kept")
	}
	stop(m.Node) // a person who moves the files by hand gets no node that opens by them
	m.goesBack(t)
	restarted(t, m)
	if got := must[seal.Record](t)(seal.ReadFile(m.dir+"/record.pb", hierarchy.KeyspaceID{})); got.Generation() != 2 {
		t.Errorf("it unseals by MasterKey %d", got.Generation())
	}
}
