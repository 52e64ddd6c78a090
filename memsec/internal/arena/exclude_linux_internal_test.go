package arena

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// vmFlags returns the kernel's flags of the mapping that holds at.
func vmFlags(t *testing.T, at uintptr) []string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(raw)) {
		var lo, hi uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &lo, &hi); n == 2 {
			inside = lo <= at && at < hi
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatal("the slot is in no mapping")
	return nil
}

func TestSlotsAreLockedNotDumpedNotInherited(t *testing.T) {
	a := New(4 * Piece())
	for _, use := range []Use{Resident, Scratch} {
		for range 3 {
			s, err := a.Alloc(MaxSlot, use)
			if err != nil {
				t.Fatal(err)
			}
			flags := vmFlags(t, addr(s.Bytes()))
			for flag, meaning := range map[string]string{"lo": "locked", "dd": "excluded from dumps", "dc": "not inherited"} {
				if !slices.Contains(flags, flag) {
					t.Errorf("a slot's page is not %s: %v", meaning, flags)
				}
			}
		}
		if use == Scratch {
			break
		}
		a = New(4 * Piece())
	}
	if st := a.Stats(); !st.Locked {
		t.Errorf("stats say not locked: %+v", st)
	}
}
