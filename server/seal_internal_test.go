package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// TestWhatTheLeaderFoundSaysHowManyHoldersMayBeLost, to people and to alarms, and nothing
// is said where nobody looked.
func TestWhatTheLeaderFoundSaysHowManyHoldersMayBeLost(t *testing.T) {
	keystore := func(s seal.HolderState) seal.HolderProgress {
		return seal.HolderProgress{Name: "hsm", Key: seal.ProviderKey{Provider: "hsm", Key: "k"}, State: s}
	}
	person := seal.HolderProgress{Name: "anna", State: seal.HolderAwaited}
	gave, failed := seal.HolderGave, seal.HolderFailed
	for name, c := range map[string]struct {
		need    int
		persons int
		holders []seal.HolderProgress
		want    *kryptonv1.SealMargin
		gauges  map[*prometheus.Desc]float64
	}{
		"auto": {
			1, 0,
			[]seal.HolderProgress{keystore(gave), keystore(gave), keystore(failed)},
			&kryptonv1.SealMargin{WithoutPeople: true, KeystoresToSpare: 1, Opens: true, HoldersToSpare: 1},
			map[*prometheus.Desc]float64{descSealSpareHolders: 1, descSealSpareKeystores: 1},
		},
		"keystores that were enough": {
			2, 0,
			[]seal.HolderProgress{keystore(gave), keystore(failed), person},
			&kryptonv1.SealMargin{Opens: true},
			map[*prometheus.Desc]float64{descSealSpareHolders: 0, descSealSpareKeystores: -1},
		},
		"people are needed anyway": {
			2, 1,
			[]seal.HolderProgress{keystore(gave), person, person},
			&kryptonv1.SealMargin{Opens: true, HoldersToSpare: 1},
			map[*prometheus.Desc]float64{descSealSpareHolders: 1},
		},
		"nothing opens it": {
			3, 0,
			[]seal.HolderProgress{keystore(failed), keystore(failed), keystore(failed)},
			&kryptonv1.SealMargin{},
			map[*prometheus.Desc]float64{descSealSpareHolders: -1, descSealSpareKeystores: -1},
		},
	} {
		st := node.SealStatus{
			Unsealed: true, Persons: c.persons, Watched: time.Unix(1, 0),
			Progress: seal.Progress{Groups: []seal.GroupProgress{{Need: c.need}}, Holders: c.holders},
		}
		out := &kryptonv1.SealStatus{}
		describeHolders(out, st)
		if d := cmp.Diff(c.want, out.GetMargin(), protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if got := spareHolders(st); !cmp.Equal(got, c.gauges, cmp.Comparer(func(a, b *prometheus.Desc) bool { return a == b })) {
			t.Errorf("%s: %v", name, got)
		}
		st.Watched = time.Time{}
		out = &kryptonv1.SealStatus{}
		if describeHolders(out, st); out.GetMargin() != nil || len(spareHolders(st)) != 0 {
			t.Errorf("%s: said by a node that did not look", name)
		}
	}
}
