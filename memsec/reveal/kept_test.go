//go:build !invariants && !race

package reveal_test

// In builds with checks the writes of this test stop the process; there
// TestI1_WriteAfterFreeStopsTheProcess of internal/arena takes its place.

import (
	"errors"
	"testing"

	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// A write through a kept slice can reach other callbacks at worst, never a key
// that stays: those live in blocks of their own.
func TestI2_KeptSliceNeverReachesAResidentKey(t *testing.T) {
	var kept [][]byte
	keep := func(b []byte) error { kept = append(kept, b); return nil }
	var all []memsec.Secret
	for range 300 {
		s := take(t, memsec.Hot)
		if err := reveal.With(s, keep); err != nil {
			t.Fatal(err)
		}
		n, err := reveal.New(32, memsec.Hot, func(b []byte) error { copy(b, sentinel); return keep(b) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Destroy)
		all = append(all, s, n)
	}
	for range 300 {
		all = append(all, take(t, memsec.Hot))
	}
	for _, b := range kept {
		b[5] = 0xFF
	}
	for _, s := range all {
		if err := reveal.With(s, func(b []byte) error {
			if string(b) != sentinel {
				return errors.New("a resident key changed")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
