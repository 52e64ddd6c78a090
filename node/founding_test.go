package node_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI11_AnotherFoundingOpensNoKey: a state with another genesis, to which the node is
// pinned and under which a valid MAC stands, so that nothing else finds it out.
func TestI11_AnotherFoundingOpensNoKey(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("secret"))
	check(t, err)
	state := snapshot(t, m.machine, m.MAC)
	for name, c := range map[string]struct {
		edit func(*fsmpb.Genesis)
		held bool
	}{
		"the same":      {func(*fsmpb.Genesis) {}, false},
		"another name":  {func(g *fsmpb.Genesis) { g.Name += "x" }, true},
		"other persons": {func(g *fsmpb.Genesis) { g.Persons[0].Key.Raw[5] ^= 1 }, true},
		"older":         {func(g *fsmpb.Genesis) { g.FormatVersion = fsm.FormatAuthority - 1 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.add(t, options{})
			w.members = w.members[:1]
			b.id, b.key = m.id, m.key
			b.boot(t)
			check(t, copyFile(m.dir, b.dir, "record.pb"))
			b.boot(t)
			forged := forge(t, state, func(it *fsmpb.SnapshotItem) {
				if cl := it.GetCluster(); cl != nil {
					g := &fsmpb.Genesis{}
					check(t, proto.Unmarshal(cl.GetGenesis(), g))
					c.edit(g)
					cl.Genesis = must[[]byte](t)(fsm.EncodeGenesis(g))
					f := fsm.Fingerprint(cl.GetGenesis())
					cl.Fingerprint, cl.Persons = f[:], g.GetPersons()
				}
			})
			b.restore(t, sign(forged, m.machine, m.MAC))
			check(t, b.AskKeystores(t.Context()))
			_, _, err := b.decrypt(tg, ct)
			if !c.held {
				check(t, err)
				check(t, b.ServingErr())
				return
			}
			wants(t, err, errs.StateCorrupt)
			wants(t, b.ServingErr(), errs.StateCorrupt)
			if !strings.Contains(b.ServingErr().Error(), "does not begin as its cluster did") {
				t.Errorf("it says %v", b.ServingErr())
			}
		})
	}
}
