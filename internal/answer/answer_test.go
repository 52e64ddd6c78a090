package answer_test

import (
	"math"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/answer"
)

func TestI1_WhatIsWrittenIsReadBack(t *testing.T) {
	t.Parallel()
	for _, want := range []answer.Info{
		{Correlation: "0af76519-16cd-43dd-8448-eb211c80319c", Node: strings.Repeat("a", 32), Index: math.MaxUint64},
		{Correlation: "c", Node: "n"},
		{Correlation: "c", Node: "n", Index: 3, Operation: "0190a3c4-1f2e-7c3d-9a4b-5c6d7e8f9a0b"},
		{Correlation: "c", Node: "n", Index: 3, Stale: true},
		{Correlation: "c", Node: "n", Index: 3, Operation: "o", Stale: true},
		{Correlation: "c", Node: "n", Index: 3, Operation: "o", Pending: true},
		{Correlation: "c", Node: "n", Index: 3, Operation: "o", Pending: true, Stale: true},
	} {
		if got, ok := answer.Parse(answer.Format(want)); !ok || got != want {
			t.Errorf("%+v became %+v, %v", want, got, ok)
		}
	}
}

func TestI1_EverythingElseIsNotUnderstood(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "c", "c n", "c n ", "c n x", "c n -1", "c n 01", " n 1", "c  1", "c n 1 2", "c n 1 operation=", "c n 1 operation=x y", "c n 1 stale operation=x", "c n 1 stale stale", "c n 1 pending", "c n 1 operation= pending", "c n 1 operation=x stale pending", "c n 1 operation=x pending pending", "c n 1 operation=x operation=y", "c n stale", "c n 18446744073709551616", strings.Repeat("c", 300) + " n 1"} {
		if got, ok := answer.Parse(s); ok {
			t.Errorf("%q became %+v", s, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("0af76519-16cd-43dd-8448-eb211c80319c n1 7")
	f.Add("c n 01")
	f.Add("c n 1 operation=x stale")
	f.Add("c n 1 operation=x pending stale")
	f.Fuzz(func(t *testing.T, s string) {
		if i, ok := answer.Parse(s); ok && answer.Format(i) != s {
			t.Errorf("%q has another spelling: %q", s, answer.Format(i))
		}
	})
}
