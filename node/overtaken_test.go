package node_test

import (
	"context"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// A change that overtakes an operation in the middle of its work: the answer is
// never of the state before.
func TestI3_AChangeThatOvertakesAnOperationWins(t *testing.T) {
	o := object("acme", "pay")
	tg := node.Target{Tenant: "acme", Service: "pay", Resource: "r"}
	type change struct {
		do   func(w *world, m *member) error
		code errs.Code // of wrapping; unspecified: it goes on under version 2
	}
	changes := map[string]change{
		"disable":        {func(w *world, m *member) error { return m.changeVersion(w.request(), o, 1, disable, 0) }, errs.FailedState},
		"compromise":     {func(w *world, m *member) error { return m.changeVersion(w.request(), o, 1, compromise, 0) }, errs.FailedState},
		"suspend":        {func(w *world, m *member) error { return m.changeObject(w.request(), object("acme", ""), suspend, 0) }, errs.FailedState},
		"destroy tenant": {func(w *world, m *member) error { return m.changeObject(w.request(), object("acme", ""), destroyO, 1) }, errs.FailedState},
		"policy": {func(w *world, m *member) error {
			_, err := m.putPolicy(w.request(), "acme", "p", permitRead)
			return err
		}, errs.Denied},
		"hold": {func(w *world, m *member) error { return m.setHold(w.request(), node.Held) }, errs.Held},
		"seal": {func(_ *world, m *member) error { return m.sealNode() }, errs.Sealed},
		"withdraw L1": {func(w *world, m *member) error {
			if err := w.customer.Disable(context.Background(), customerKey); err != nil {
				return err
			}
			w.advance(validity.DefaultCheck)
			m.ProveL1(context.Background())
			return nil
		}, errs.L1Denied},
		"lost contact": {func(_ *world, m *member) error { m.contact.Store(1 << 62); return nil }, errs.NotServing},
		"rotate":       {func(w *world, m *member) error { return m.rotate(w.request(), o) }, errs.Unspecified},
		"pin": {func(w *world, m *member) error {
			if err := m.rotate(w.request(), o); err != nil {
				return err
			}
			if err := m.pinResource(w.request(), o, "r", 2); err != nil {
				return err
			}
			return m.rollback(w.request(), o, 1)
		}, errs.Unspecified},
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			for _, op := range []string{"encrypt", "generate", "decrypt", "unwrap", "rewrap"} {
				if c.code == errs.Unspecified && (op == "decrypt" || op == "unwrap") {
					continue // a rotation does not change what opens
				}
				w, m := cluster1(t)
				ct, _, err := m.encrypt(tg, []byte("x"))
				check(t, err)
				_, wrapped, _, err := m.generate(tg, 0)
				check(t, err)
				// In the middle: while the key is being unwrapped, with the choice
				// made; and for what draws a nonce, right then.
				check(t, m.changeObject(w.request(), object("acme", "log"), suspend, 0)) // makes the view differ
				hook := func() {
					if err := c.do(w, m); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
				switch op {
				case "decrypt", "unwrap":
					reload(t, m)
					// Sealing waits for what is being unwrapped, which waits for this.
					done := make(chan struct{})
					w.calls.hook(func(context.Context) error {
						w.calls.hook(nil)
						go func() { defer close(done); hook() }()
						for m.Unsealed() {
							select {
							case <-done:
								return nil
							default:
								runtime.Gosched()
							}
						}
						return nil
					})
					defer func() { <-done }()
				default:
					w.rand.at(12, hook)
				}
				var used node.Used
				switch op {
				case "encrypt":
					_, used, err = m.encrypt(tg, []byte("y"))
				case "generate":
					_, _, used, err = m.generate(tg, 0)
				case "decrypt":
					_, _, err = m.decrypt(tg, ct)
				case "unwrap":
					_, _, err = m.unwrap(tg, wrapped)
				case "rewrap":
					_, used, _, err = m.rewrap(tg, wrapped)
				}
				if c.code != errs.Unspecified {
					wants(t, err, c.code)
				} else if err != nil || used.Name != "" && used.Name != o.VersionName(2) {
					t.Errorf("%s: used %s, %v", op, used.Name, err)
				}
				if !t.Failed() && w.rand.armed() {
					t.Errorf("%s drew no nonce: the hook did not run", op)
				}
			}
		})
	}
}

// reload makes the node forget every key, so that the next operation asks the
// customer's keystore.
func reload(t *testing.T, m *member) {
	t.Helper()
	stop(m.Node)
	m.boot(t)
	m.follow()
	check(t, m.AskKeystores(t.Context()))
	check(t, m.ServingErr())
}

// Keys that change again and again while they are used end in a refusal that
// can be retried, not in an endless loop.
func TestI3_EndlessChangeEnds(t *testing.T) {
	w, m := cluster1(t)
	o := object("acme", "pay")
	var again func()
	again = func() {
		w.rand.at(0, nil) // rotating draws nonces too
		if err := m.rotate(w.request(), o); err != nil {
			t.Error(err)
		}
		w.rand.at(12, again)
	}
	w.rand.at(12, again)
	_, _, err := m.encrypt(target("acme", "pay"), nil)
	situationtest.Error(t, "cluster/key-keeps-changing", err)
}

// The right to serve ends between the work and the answer: the result is wiped,
// in protected memory too.
func TestI3_AResultThatMayNotLeaveIsWiped(t *testing.T) {
	_, m := cluster1(t)
	tg := target("acme", "pay")
	var ct, wrapped []byte
	for range 3 { // from here on every session is kept, and no more are made
		var err error
		ct, _, err = m.encrypt(tg, []byte("x"))
		check(t, err)
		_, _, err = m.decrypt(tg, ct)
		check(t, err)
		_, wrapped, _, err = m.generate(tg, 0)
		check(t, err)
		_, _, err = m.unwrap(tg, wrapped)
		check(t, err)
	}
	for _, c := range []struct {
		name  string
		looks int64 // how often the operation asks whether the node serves
		op    func() ([]byte, error)
	}{
		{"encrypt", 3, func() ([]byte, error) { out, _, err := m.encrypt(tg, []byte("y")); return out, err }},
		{"decrypt", 3, func() ([]byte, error) { out, _, err := m.decrypt(tg, ct); return out, err }},
		{"generate", 3, func() ([]byte, error) { plain, out, _, err := m.generate(tg, 0); return append(plain, out...), err }},
		{"unwrap", 3, func() ([]byte, error) { out, _, err := m.unwrap(tg, wrapped); return out, err }},
		{"rewrap", 5, func() ([]byte, error) { out, _, _, err := m.rewrap(tg, wrapped); return out, err }},
	} {
		for at := int64(1); at <= c.looks+1; at++ {
			before := memsec.Report()
			m.losesAt.Store(at)
			out, err := c.op()
			if at <= c.looks {
				wants(t, err, errs.NotServing)
				if len(out) != 0 {
					t.Errorf("%s: %d bytes leave at look %d", c.name, len(out), at)
				}
			} else {
				check(t, err) // it does not look once more than said
			}
			m.losesAt.Store(0)
			m.contact.Store(0)
			if after := memsec.Report(); after.Secrets != before.Secrets || after.AEADs != before.AEADs {
				t.Errorf("%s at look %d: %+v, before %+v", c.name, at, after, before)
			}
		}
	}
}

// What comes between the record and the way out counts too: a record that waited for
// its disk says that an answer left, and a second one that it did not.
func TestI3_WhatComesWhileAnAnswerIsRecordedWins(t *testing.T) {
	pay, tg := object("acme", "pay"), target("acme", "pay")
	for name, c := range map[string]struct {
		do   func(w *world, m *member) error
		code errs.Code // unspecified: the answer leaves
	}{
		"disable": {func(w *world, m *member) error { return m.changeVersion(w.request(), pay, 1, disable, 0) }, errs.ChangeInProgress},
		"suspend": {func(w *world, m *member) error { return m.changeObject(w.request(), object("acme", ""), suspend, 0) }, errs.ChangeInProgress},
		"there and back": {func(w *world, m *member) error {
			if err := m.changeVersion(w.request(), pay, 1, disable, 0); err != nil {
				return err
			}
			return m.changeVersion(w.request(), pay, 1, enable, 0)
		}, errs.ChangeInProgress},
		"lost lease":      {func(_ *world, m *member) error { m.contact.Store(1 << 62); return nil }, errs.NotServing},
		"seal":            {func(_ *world, m *member) error { return m.sealNode() }, errs.Sealed},
		"another service": {func(w *world, m *member) error { return m.changeObject(w.request(), object("acme", "log"), suspend, 0) }, errs.Unspecified},
	} {
		t.Run(name, func(t *testing.T) {
			for _, op := range []string{"encrypt", "generate", "decrypt", "unwrap", "rewrap"} {
				w, m := cluster1(t)
				ct, _, err := m.encrypt(tg, []byte("x"))
				check(t, err)
				_, wrapped, _, err := m.generate(tg, 0)
				check(t, err)
				act, out := "", []byte(nil)
				before := len(m.sink.Records())
				m.sinkHook(func() {
					m.sinkHook(nil)
					if err := c.do(w, m); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
				switch op {
				case "encrypt":
					act = "crypto.encrypt"
					out, _, err = m.encrypt(tg, []byte("y"))
				case "generate":
					act = "crypto.generate_data_key"
					out, _, _, err = m.generate(tg, 0)
				case "decrypt":
					act = "crypto.decrypt"
					out, _, err = m.decrypt(tg, ct)
				case "unwrap":
					act = "crypto.unwrap_data_key"
					out, _, err = m.unwrap(tg, wrapped)
				case "rewrap":
					act = "crypto.rewrap_data_key"
					out, _, _, err = m.rewrap(tg, wrapped)
				}
				var got []string
				var ids []string
				for _, r := range m.sink.Records()[before:] {
					if r.Act == act {
						got = append(got, r.Phase.String()+" "+r.Outcome.String()+" "+r.Code.String())
						ids = append(ids, string(r.Correlation))
					}
				}
				want := []string{"whole ok OK"}
				if c.code == errs.Unspecified {
					check(t, err)
				} else {
					wants(t, err, c.code)
					want = append(want, "correction failed "+c.code.String())
					if len(out) != 0 {
						t.Errorf("%s: %d bytes leave", op, len(out))
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: records (-want +got):\n%s", op, diff)
				}
				if len(ids) == 2 && ids[0] != ids[1] {
					t.Errorf("%s: the correction is of another call", op)
				}
			}
		})
	}
}

// A refusal tells state too, and leaves by the same door.
func TestI3_ARefusalThatIsOvertakenDoesNotLeave(t *testing.T) {
	pay, tg := object("acme", "pay"), target("acme", "pay")
	w, m := cluster1(t)
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	check(t, m.changeVersion(w.request(), pay, 1, disable, 0))
	m.sinkHook(func() {
		m.sinkHook(nil)
		check(t, m.changeVersion(w.request(), pay, 1, enable, 0))
	})
	_, _, err = m.decrypt(tg, ct)
	situationtest.Error(t, "cluster/answer-overtaken", err)
	// What is not there stays so, whatever else changes.
	m.sinkHook(func() {
		m.sinkHook(nil)
		check(t, m.changeObject(w.request(), object("acme", "log"), suspend, 0))
	})
	_, _, err = m.decrypt(target("acme", "nothing"), ct)
	wants(t, err, errs.NotFound)
	m.sinkHook(func() {
		m.sinkHook(nil)
		m.contact.Store(1 << 62)
	})
	_, _, err = m.decrypt(target("acme", "nothing"), ct)
	wants(t, err, errs.NotServing)
}
