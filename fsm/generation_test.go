package fsm_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI36_TheStateSaysWhichMasterKeyWasInForceWhen: also over a snapshot, and changed by
// nothing else; and a snapshot with an order that no log makes is refused.
func TestI36_TheStateSaysWhichMasterKeyWasInForceWhen(t *testing.T) {
	w := newWorld(t, func(g *fsmpb.Genesis) {
		g.FormatVersion, g.FirstMember.MaxFormat = fsm.FormatCeremonies, fsm.FormatCeremonies
	})
	for range 6 {
		w.do(tick())
	}
	raw := snapshot(t, w.m, testMAC)
	if v := w.view(); v.Index() != 7 || v.Generation() != 1 || v.GenerationAt(7) != 1 {
		t.Fatalf("at %d the MasterKeys %d and %d", v.Index(), v.Generation(), v.GenerationAt(7))
	}
	with := func(format uint32, begins ...uint64) (*fsm.View, error) {
		h := proto.CloneOf(headerOf(t, raw))
		h.FormatVersion = format
		b := build(t, h, editCluster(itemsOf(t, raw), format, begins), raw[len(raw)-33:])
		m := fsm.New(fsm.Options{})
		err := m.Restore(bytes.NewReader(b))
		return m.View(), err
	}
	v, err := with(fsm.FormatCeremonies, 3, 6)
	if err != nil {
		t.Fatal(err)
	}
	var got []hierarchy.Generation
	for index := range uint64(8) {
		got = append(got, v.GenerationAt(index))
	}
	if want := []hierarchy.Generation{1, 1, 1, 2, 2, 2, 3, 3}; !slices.Equal(got, want) || v.Generation() != 3 {
		t.Errorf("the MasterKeys after the entries 0 to 7 are %v, want %v; now %d", got, want, v.Generation())
	}

	// What changes the cluster's other facts leaves them.
	next := *w
	next.m = fsm.New(fsm.Options{})
	if err := next.m.Restore(bytes.NewReader(snapshotOf(t, v))); err != nil {
		t.Fatal(err)
	}
	next.ok(hold(true))
	if !slices.Equal(next.view().Cluster().GetGenerationBegins(), []uint64{3, 6}) {
		t.Errorf("a hold changed them: %v", next.view().Cluster().GetGenerationBegins())
	}

	many := make([]uint64, fsm.MaxGenerations)
	for name, c := range map[string]struct {
		format uint32
		begins []uint64
	}{
		"in a cluster that has no rekeys": {fsm.FormatProofs, []uint64{3}},
		"at the genesis":                  {fsm.FormatCeremonies, []uint64{1}},
		"before it":                       {fsm.FormatCeremonies, []uint64{0}},
		"twice at one entry":              {fsm.FormatCeremonies, []uint64{3, 3}},
		"backwards":                       {fsm.FormatCeremonies, []uint64{6, 3}},
		"behind the snapshot":             {fsm.FormatCeremonies, []uint64{3, 8}},
		"too many":                        {fsm.FormatCeremonies, many},
	} {
		if _, err := with(c.format, c.begins...); !errs.Is(err, errs.StateCorrupt) || !strings.Contains(err.Error(), "MasterKeys") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func editCluster(items []*fsmpb.SnapshotItem, format uint32, begins []uint64) []*fsmpb.SnapshotItem {
	items[0].GetCluster().FormatVersion, items[0].GetCluster().GenerationBegins = format, begins
	return items
}

func snapshotOf(t *testing.T, v *fsm.View) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := v.Snapshot().WriteTo(&buf, testMAC); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
