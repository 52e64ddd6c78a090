package node_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// heldBy is a seal of shares, threshold of which open it: of keystores, and of
// persons with printed shares.
func heldBy(t tb, threshold int, keystores []string, persons ...string) node.InitPlan {
	t.Helper()
	p := autoPlan(t)
	g := plan.Group{Threshold: threshold}
	for _, k := range keystores {
		g.Holders = append(g.Holders, holderOf(k))
	}
	for _, name := range persons {
		g.Holders = append(g.Holders, plan.Holder{Name: name})
	}
	p.Seal, p.AcceptRisks = plan.Plan{Groups: []plan.Group{g}}, plan.Risks()
	return p
}

// mixedNode is a node that was founded with three of hsm-1, hsm-2, anna and bert,
// and has just started again. It has heard from nobody.
func mixedNode(t *testing.T, c clock.Clock) (*world, *member, *node.InitResult) {
	t.Helper()
	w, o := newWorld(t, withClock(c))
	w.keystores(t, "hsm-1", "hsm-2")
	m := w.add(t, o)
	out := must[*node.InitResult](t)(m.init(heldBy(t, 3, []string{"hsm-1", "hsm-2"}, "anna", "bert")))
	stop(m.Node)
	m.boot(t)
	m.contact.Store(int64(time.Hour))
	w.leaderless.Store(true)
	return w, m, out
}

func (m *member) status(t tb) node.SealStatus { return must[node.SealStatus](t)(m.GetSeal()) }

func TestPeopleAndKeystoresUnsealANodeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, out := mixedNode(t, clock.System{})
		w.faults.fail(keystore.Denied, "hsm-2")
		end := m.run(t)
		st := m.status(t)
		if st.Unsealed || st.Have != 1 || st.Need != 3 || st.Shares != 4 || st.Persons != 1 || st.LastFailure == "" {
			t.Errorf("%+v", st)
		}
		if got := st.Progress.Enough(); got != "2 more of: hsm-2 (denied), anna (person), bert (person)" {
			t.Errorf("%s", got)
		}
		if h := st.Progress.Holders[1]; h.Failure == nil || h.Failure.RequestID != "req-hsm-2" {
			t.Errorf("%+v", h)
		}
		check(t, m.contribute(out.ShareTexts[0]))
		// The keystore comes back: nobody does anything, and no other node is needed.
		time.Sleep(time.Minute)
		w.faults.fail(keystore.ClassUnspecified, "hsm-2")
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if st := m.status(t); !st.Unsealed || st.LastFailure != "" || st.Progress.Enough() != "3 of: hsm-1 (idle), hsm-2 (idle), anna (person), bert (person)" {
			t.Errorf("%+v, %s", st, st.Progress.Enough())
		}
		if _, asked := w.faults.count("hsm-1"); asked != 2 { // when it was made, and once now
			t.Errorf("a keystore that gave its share was asked %d times", asked)
		}
		end()
	})
}

// TestWhenOnlyPeopleAreMissingNobodyIsAsked again and again.
func TestWhenOnlyPeopleAreMissingNobodyIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, out := mixedNode(t, clock.System{})
		end := m.run(t)
		st := m.status(t)
		if st.LastFailure != "" || st.Progress.Enough() != "1 more of: anna (person), bert (person)" {
			t.Errorf("%q, %s", st.LastFailure, st.Progress.Enough())
		}
		time.Sleep(time.Hour)
		if n := len(m.records("node.unseal")); n != 2 {
			t.Errorf("%d records of unsealing, want one attempt", n)
		}
		check(t, m.contribute(out.ShareTexts[1]))
		if !m.Unsealed() {
			t.Error("the last share does not unseal")
		}
		end()
	})
}

// TestAPersonMakesTheNodeAskAtOnce, however long its pauses have become.
func TestAPersonMakesTheNodeAskAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, out := mixedNode(t, clock.System{})
		w.faults.fail(keystore.Unavailable, "hsm-1", "hsm-2")
		end := m.run(t)
		time.Sleep(10*time.Minute + time.Second)
		w.faults.fail(keystore.ClassUnspecified, "hsm-1", "hsm-2")
		at := time.Now()
		check(t, m.contribute(out.ShareTexts[0]))
		synctest.Wait()
		if !m.Unsealed() || !time.Now().Equal(at) {
			t.Error("the node waits for its next attempt")
		}
		end()
	})
}

// TestASharePutsAnEndToRest: sealed by a person, the node asks nobody until another
// person brings a share.
func TestASharePutsAnEndToRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m, out := mixedNode(t, clock.System{})
		end := m.run(t)
		check(t, m.contribute(out.ShareTexts[0]))
		check(t, m.sealNode())
		before := len(m.records("node.unseal"))
		time.Sleep(time.Hour)
		if n := len(m.records("node.unseal")); n != before || m.Unsealed() {
			t.Errorf("%d records after it was sealed, unsealed %v", n-before, m.Unsealed())
		}
		check(t, m.contribute(out.ShareTexts[1]))
		synctest.Wait()
		if !m.Unsealed() {
			t.Error("the keystores are not asked again")
		}
		end()
	})
}

// TestI8_WhoSealsWhileKeystoresAreAskedWins, and what they answer then is wiped.
func TestI8_WhoSealsWhileKeystoresAreAskedWins(t *testing.T) {
	for name, stopIt := range map[string]func(*testing.T, *world, *member){
		"seal": func(t *testing.T, _ *world, m *member) {
			t.Helper()
			check(t, m.sealNode())
		},
		"hold": func(t *testing.T, w *world, m *member) {
			t.Helper()
			m.contact.Store(0)
			w.leaderless.Store(false)
			m.follow()
			check(t, m.setHold(w.request(), node.Held))
			m.Observe(t.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, m, out := mixedNode(t, clock.System{})
				before := memsec.Report().Secrets
				w.faults.hang("hsm-2")
				end := m.run(t)
				check(t, m.contribute(out.ShareTexts[0]))
				synctest.Wait()
				if got := m.status(t).Progress.Enough(); got != "1 more of: hsm-2 (asked), bert (person)" {
					t.Fatalf("%s", got)
				}
				stopIt(t, w, m)
				w.faults.fail(keystore.ClassUnspecified, "hsm-2")
				time.Sleep(time.Hour)
				synctest.Wait()
				if m.Unsealed() {
					t.Error("it unseals all the same")
				}
				if n := memsec.Report().Secrets; n != before {
					t.Errorf("%d secrets are left", n-before)
				}
				end()
			})
		})
	}
}

func TestNodesUnsealAtOnceAndEachForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, o := newWorld(t, withClock(clock.System{}))
		w.keystores(t, "hsm-1", "hsm-2", "hsm-3")
		a := w.add(t, o)
		must[*node.InitResult](t)(a.init(heldBy(t, 2, []string{"hsm-1", "hsm-2", "hsm-3"})))
		b := w.add(t, o)
		w.join(b)
		for _, m := range []*member{a, b} {
			stop(m.Node)
			m.boot(t)
			m.follow()
		}
		w.faults.hang("hsm-1")
		endA, endB := a.run(t), b.run(t)
		check(t, a.ServingErr())
		check(t, b.ServingErr())
		endA()
		endB()
	})
}

func TestSharesOfPeopleExpireOnANodeThatAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, out := mixedNode(t, clock.System{})
		w.faults.fail(keystore.Unavailable, "hsm-2")
		end := m.run(t)
		check(t, m.contribute(out.ShareTexts[0]))
		if st := m.status(t); st.Have != 2 || st.Progress.Expires.IsZero() {
			t.Errorf("%+v", st)
		}
		time.Sleep(seal.DefaultPatience + 6*time.Second)
		if st := m.status(t); st.Have != 1 || !st.Progress.Expires.IsZero() {
			t.Errorf("after the patience: %+v", st)
		}
		// With the keystore back one person is enough, and it is not the one who left.
		w.faults.fail(keystore.ClassUnspecified, "hsm-2")
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if m.Unsealed() {
			t.Fatal("the share of somebody who left still counts")
		}
		check(t, m.contribute(out.ShareTexts[1]))
		if !m.Unsealed() {
			t.Error("sealed with enough shares")
		}
		end()
	})
}

func TestAutoModeTakesNoShares(t *testing.T) {
	_, m := cluster1(t)
	stop(m.Node)
	m.boot(t)
	m.follow()
	other, o := newWorld(t)
	out := must[*node.InitResult](t)(other.add(t, o).init(shamirPlan(t, 2, 3)))
	share := must[seal.Share](t)(seal.ParseShare(out.ShareTexts[0]))
	defer share.Destroy()
	st := m.status(t)
	sealed := must[[]byte](t)(seal.SealShare(st.Offer, m.key.Public(), share.ForCluster(st.Offer.Target.Cluster)))
	if err := m.contributeRaw(sealed); !errs.Is(err, errs.FailedState) || !errors.Is(err, seal.ErrMode) {
		t.Errorf("%v", err)
	}
}

// TestNoShareStaysInARoundThatWasOvertaken: the node was sealed, or its seal replaced, when
// the loop had begun a round and asked nobody yet. What keystores gave then stayed in
// memory until the process ended.
func TestNoShareStaysInARoundThatWasOvertaken(t *testing.T) {
	w, o := newWorld(t)
	w.keystores(t, "hsm-1", "hsm-2")
	m := w.add(t, o)
	must[*node.InitResult](t)(m.init(heldBy(t, 3, []string{"hsm-1", "hsm-2"}, "anna")))
	stop(m.Node)
	m.boot(t)
	m.follow()
	before := memsec.Report().Secrets
	_, asked := w.faults.count("hsm-1")
	m.sinkHook(func() {
		m.sinkHook(nil)
		m.EndGathering()
	})
	if err := m.AskKeystores(t.Context()); err != nil {
		t.Errorf("%v", err)
	}
	if _, n := w.faults.count("hsm-1"); n != asked {
		t.Errorf("a round that was overtaken asked %d times", n-asked)
	}
	if n := memsec.Report().Secrets; n != before {
		t.Errorf("%d secrets are left", n-before)
	}
	check(t, m.AskKeystores(t.Context())) // the next one gathers again
	if st := m.status(t); st.Have != 2 {
		t.Errorf("%d shares", st.Have)
	}
	stop(m.Node)
	if n := memsec.Report().Secrets; n != before {
		t.Errorf("%d secrets are left when the node stopped", n-before)
	}
}
