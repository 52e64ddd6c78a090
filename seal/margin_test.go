package seal_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/seal"
)

// TestAMarginIsThatOfTheWeakestGroup, with what failed and what the record lacks as lost and
// people as there.
func TestAMarginIsThatOfTheWeakestGroup(t *testing.T) {
	keystore := func(g int, s seal.HolderState) seal.HolderProgress {
		return seal.HolderProgress{Group: g, Key: key("hsm"), State: s}
	}
	person := func(g int) seal.HolderProgress { return seal.HolderProgress{Group: g, State: seal.HolderAwaited} }
	gave, failed, lacks, idle := seal.HolderGave, seal.HolderFailed, seal.HolderMissing, seal.HolderIdle
	for name, c := range map[string]struct {
		need    []int
		holders []seal.HolderProgress
		want    seal.Margin
	}{
		"auto, all":              {[]int{1}, []seal.HolderProgress{keystore(0, gave), keystore(0, gave), keystore(0, idle)}, seal.Margin{WithoutPeople: 2, AtAll: 2}},
		"auto, the last":         {[]int{1}, []seal.HolderProgress{keystore(0, gave), keystore(0, failed), keystore(0, lacks)}, seal.Margin{}},
		"auto, none":             {[]int{1}, []seal.HolderProgress{keystore(0, failed), keystore(0, lacks)}, seal.Margin{WithoutPeople: -1, AtAll: -1}},
		"two keystores, one man": {[]int{2}, []seal.HolderProgress{keystore(0, gave), keystore(0, gave), person(0)}, seal.Margin{WithoutPeople: 0, AtAll: 1}},
		"and one is lost":        {[]int{2}, []seal.HolderProgress{keystore(0, gave), keystore(0, failed), person(0)}, seal.Margin{WithoutPeople: -1, AtAll: 0}},
		"and both":               {[]int{2}, []seal.HolderProgress{keystore(0, failed), keystore(0, failed), person(0)}, seal.Margin{WithoutPeople: -2, AtAll: -1}},
		"people":                 {[]int{2}, []seal.HolderProgress{person(0), person(0), person(0)}, seal.Margin{WithoutPeople: -2, AtAll: 1}},
		"two groups": {[]int{2, 2}, []seal.HolderProgress{
			keystore(0, gave), keystore(0, gave), keystore(0, gave), keystore(0, gave), person(1), person(1), keystore(1, gave),
		}, seal.Margin{WithoutPeople: -1, AtAll: 1}},
		"the other way": {[]int{2, 2}, []seal.HolderProgress{
			person(0), person(0), keystore(0, gave), keystore(1, gave), keystore(1, gave), keystore(1, failed),
		}, seal.Margin{WithoutPeople: -1, AtAll: 0}},
	} {
		p := seal.Progress{Holders: c.holders}
		for _, n := range c.need {
			p.Groups = append(p.Groups, seal.GroupProgress{Need: n})
		}
		if got := p.Margin(); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestAMarginIsWhatMayBeLost compares it with trying: the worst holders are lost one by one
// until a group is below its threshold.
func TestAMarginIsWhatMayBeLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p seal.Progress
		least := 1 << 10
		for g := range rapid.IntRange(1, 3).Draw(t, "groups") {
			n := rapid.IntRange(2, 6).Draw(t, "holders")
			need := rapid.IntRange(2, n).Draw(t, "need")
			p.Groups = append(p.Groups, seal.GroupProgress{Need: need})
			left := 0
			for range n {
				h := seal.HolderProgress{Group: g, State: seal.HolderAwaited}
				if rapid.Bool().Draw(t, "keystore") {
					h.Key, h.State = key("hsm"), rapid.SampledFrom([]seal.HolderState{seal.HolderGave, seal.HolderFailed, seal.HolderMissing}).Draw(t, "state")
				}
				if h.State == seal.HolderGave || h.State == seal.HolderAwaited {
					left++
				}
				p.Holders = append(p.Holders, h)
			}
			may := -1
			for ; left >= need; left-- {
				may++
			}
			if may < 0 {
				may = left - need
			}
			least = min(least, may)
		}
		if got := p.Margin(); got.AtAll != least || got.WithoutPeople > got.AtAll {
			t.Errorf("%+v, want %d", got, least)
		}
	})
}
