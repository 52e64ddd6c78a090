package node_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI9_ALogThatIsNotBelievedIsNotServed: what the cluster finds in the log keeps this
// node from serving, from the state in which it was found on.
func TestI9_ALogThatIsNotBelievedIsNotServed(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	check(t, m.Believed())

	m.unproved = errs.New(errs.StateCorrupt, "entry 7 of the log is not believed", errs.Hint("find out who"))
	check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, disable, 0))
	_, _, err = m.decrypt(tg, ct)
	wants(t, err, errs.StateCorrupt)
	wants(t, m.ServingErr(), errs.StateCorrupt)
	wants(t, m.Believed(), errs.StateCorrupt)
	if _, err := m.createService(w.request(), "acme", "more"); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("a key was made: %v", err)
	}

	// Not to know it yet is no finding: the next look may find another answer.
	m.boot(t)
	m.unproved = errs.New(errs.Sealed, "it cannot tell")
	wants(t, m.Believed(), errs.Sealed)
	check(t, m.AskKeystores(t.Context()))
	wants(t, m.Believed(), errs.Sealed)
	m.unproved = nil
	check(t, m.Believed())
}
