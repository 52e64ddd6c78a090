package hierarchy_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
)

// TestI11_DurableVocabularyNeverChanges compares every durable number and string
// with a list that was written once. A line may be added, never changed.
func TestI11_DurableVocabularyNeverChanges(t *testing.T) {
	var b strings.Builder
	for l := hierarchy.LayerMasterKey; l <= hierarchy.LayerL4; l++ {
		fmt.Fprintf(&b, "layer %d %s\n", l, l)
	}
	for _, p := range hierarchy.Purposes() {
		fmt.Fprintf(&b, "purpose %s\n", p.Wire())
	}
	for _, l := range []string{
		hierarchy.LabelCommit, hierarchy.LabelKey, hierarchy.LabelIVKWrapping, hierarchy.LabelRegistryMAC,
		hierarchy.LabelBackup, hierarchy.LabelMasterKeyCommitment, hierarchy.LabelFounding, hierarchy.LabelCarriedKeys,
	} {
		fmt.Fprintf(&b, "label %s\n", l)
	}
	for _, s := range hierarchy.VersionStates() {
		fmt.Fprintf(&b, "version-state %d %s\n", s, s)
	}
	for _, s := range hierarchy.ObjectStates() {
		fmt.Fprintf(&b, "object-state %d %s\n", s, s)
	}
	for _, e := range hierarchy.Events() {
		fmt.Fprintf(&b, "event %d %s\n", e, e)
	}
	for _, e := range hierarchy.ObjectEvents() {
		fmt.Fprintf(&b, "object-event %d %s\n", e, e)
	}
	for _, r := range append([]hierarchy.Refusal{hierarchy.NotRefused}, hierarchy.Refusals()...) {
		fmt.Fprintf(&b, "refusal %d %s\n", r, r)
	}
	fmt.Fprintf(&b, "cause %d operator\ncause %d l1-denied\ncause %d unlinked\n", hierarchy.CauseOperator, hierarchy.CauseL1Denied, hierarchy.CauseUnlinked)
	fmt.Fprintf(&b, "trigger %d person\ntrigger %d schedule\n", hierarchy.TriggerPerson, hierarchy.TriggerSchedule)

	const file = "testdata/durable.txt"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("durable vocabulary differs from %s; it is now:\n%s", file, b.String())
	}
}

func TestWireStringsAndLabelsAreUniqueAndNoPrefixOfAnother(t *testing.T) {
	labels := []string{
		hierarchy.LabelCommit, hierarchy.LabelKey, hierarchy.LabelIVKWrapping, hierarchy.LabelRegistryMAC,
		hierarchy.LabelBackup, hierarchy.LabelMasterKeyCommitment, hierarchy.LabelFounding, hierarchy.LabelCarriedKeys,
	}
	for i, a := range labels {
		for j, b := range labels {
			if i != j && strings.HasPrefix(a, b) {
				t.Errorf("label %q starts with %q", a, b)
			}
		}
	}
	seen := map[string]bool{}
	for _, p := range hierarchy.Purposes() {
		if p.Wire() == "" || seen[p.Wire()] || !p.Valid() || p.String() != p.Wire() {
			t.Errorf("purpose %d: wire string %q is empty or repeated", p, p.Wire())
		}
		seen[p.Wire()] = true
	}
	for _, p := range []hierarchy.Purpose{-1, 0, 100} {
		if p.Wire() != "" || p.Valid() {
			t.Errorf("purpose %d has the wire string %q", p, p.Wire())
		}
	}
}
