package node_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// until waits for a condition that another goroutine brings about.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestI5_AHundredFirstUsesAskTheKeystoreOnce(t *testing.T) {
	for _, hold := range []time.Duration{time.Minute, 0} {
		w, m := cluster1(t, withHold(hold))
		reload(t, m)
		w.calls.unwraps.Store(0)
		const callers = 100
		release := make(chan struct{})
		w.calls.hook(func(context.Context) error { <-release; return nil })
		var wg sync.WaitGroup
		failed := make([]error, callers)
		for i := range callers {
			wg.Go(func() { _, _, failed[i] = m.encrypt(target("acme", "pay"), []byte("x")) })
		}
		until(t, "everybody waits", func() bool { return m.Waiting() == callers })
		close(release)
		wg.Wait()
		if err := errors.Join(failed...); err != nil {
			t.Error(err)
		}
		if n := w.calls.unwraps.Load(); n != 1 {
			t.Errorf("hold %v: %d calls to the keystore for %d callers", hold, n, callers)
		}
	}
}

// One who gives up does not take the others with him, also when he was first.
func TestI5_TheFirstCallerGivesUpAndTheLoadGoesOn(t *testing.T) {
	w, m := cluster1(t)
	reload(t, m)
	w.calls.unwraps.Store(0)
	release, asked := make(chan struct{}), make(chan struct{})
	w.calls.hook(func(ctx context.Context) error {
		close(asked)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error), make(chan error)
	go func() { first <- m.encryptCtx(ctx, target("acme", "pay")) }()
	<-asked
	go func() { second <- m.encryptCtx(context.Background(), target("acme", "pay")) }()
	until(t, "both wait", func() bool { return m.Waiting() == 2 })
	cancel()
	wants(t, <-first, errs.Canceled)
	close(release)
	check(t, <-second)
	if n := w.calls.unwraps.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestTheCustomersKeystoreDecides(t *testing.T) {
	w, m := cluster1(t)
	tg := target("acme", "pay")
	reload(t, m)
	ivk, l2, l21, l3 := m.Loaded()
	before := memsec.Report().Secrets - ivk - l2 - l21 - l3

	// Gone, which is not denied, and is not remembered.
	dir := filepath.Join(w.dir, "customer")
	check(t, os.Rename(dir, dir+".away"))
	_, _, err := m.encrypt(tg, nil)
	wants(t, err, errs.L1Unavailable)
	check(t, os.Rename(dir+".away", dir))
	_, _, err = m.encrypt(tg, nil)
	check(t, err)
	reload(t, m)

	check(t, w.customer.Disable(t.Context(), customerKey))
	_, _, err = m.encrypt(tg, nil)
	wants(t, err, errs.L1Denied)
	_, err = m.createTenant(w.request(), "late", binding())
	wants(t, err, errs.L1Denied)
	rs := m.records("crypto.encrypt")
	if last := rs[len(rs)-1]; last.Outcome != errs.OutcomeDenied || last.Cause == "" {
		t.Errorf("%+v", last)
	}
	if strings.Contains(err.Error(), customerKey) || strings.Contains(err.Error(), "customer:") {
		t.Errorf("a caller learns the key's name in its keystore: %v", err)
	}

	// A denial is remembered until the next proof, so that callers do not ask for nothing.
	check(t, w.customer.Enable(t.Context(), customerKey))
	_, _, err = m.encrypt(tg, nil)
	wants(t, err, errs.L1Denied)
	w.advance(validity.DefaultCheck)
	m.ProveL1(t.Context())
	_, _, err = m.encrypt(tg, nil)
	check(t, err)
	ivk, l2, l21, l3 = m.Loaded()
	if n := memsec.Report().Secrets - before; n != ivk+l2+l21+l3 {
		t.Errorf("%d secrets for %d keys", n, ivk+l2+l21+l3)
	}

	// Neither denied nor gone: asked for wrongly.
	b := binding()
	b.Key = "no such key"
	_, err = m.createTenant(w.request(), "lost", b)
	wants(t, err, errs.KeystoreMisconfigured)
	b.Keystore, b.Archetype = "none", ""
	_, err = m.createTenant(w.request(), "lost", b)
	wants(t, err, errs.KeystoreMisconfigured)
}

func TestTenantKeysGoAfterTheirHoldTime(t *testing.T) {
	w, m := cluster1(t, withHold(time.Minute))
	reload(t, m)
	_, _, err := m.encrypt(target("acme", "pay"), nil)
	check(t, err)
	want := func(wantL2, wantL21, wantL3 int) {
		t.Helper()
		m.Sweep()
		if _, l2, l21, l3 := m.Loaded(); l2 != wantL2 || l21 != wantL21 || l3 != wantL3 {
			t.Errorf("%d L2, %d L2.1, %d L3; want %d, %d, %d", l2, l21, l3, wantL2, wantL21, wantL3)
		}
	}
	want(1, 1, 1)
	w.advance(time.Minute - 1)
	want(1, 1, 1)
	_, _, err = m.encrypt(target("acme", "log"), nil) // uses L2.1, and not L2
	check(t, err)
	w.advance(1)
	want(0, 1, 2)
	w.advance(time.Minute)
	want(0, 0, 2)
	w.calls.unwraps.Store(0)
	_, _, err = m.encrypt(target("acme", "pay"), nil)
	check(t, err)
	if w.calls.unwraps.Load() != 0 {
		t.Error("a loaded service key asks the keystore")
	}
	check(t, m.rotate(w.request(), object("acme", "pay")))
	if w.calls.unwraps.Load() != 1 {
		t.Error("a new version was made without the customer's key")
	}
}

func TestWithoutAHoldTenantKeysLastForOneOperation(t *testing.T) {
	w, m := cluster1(t, withHold(0))
	want := func(wantL3 int) {
		t.Helper()
		if ivk, l2, l21, l3 := m.Loaded(); ivk != 1 || l2 != 0 || l21 != 0 || l3 != wantL3 {
			t.Errorf("%d L2, %d L2.1, %d L3; want 0, 0, %d", l2, l21, l3, wantL3)
		}
	}
	want(0)
	w.calls.unwraps.Store(0)
	for i, tg := range []node.Target{target("acme", "pay"), target("acme", "log"), target("acme", "pay")} {
		_, _, err := m.encrypt(tg, nil)
		check(t, err)
		want(min(i+1, 2))
	}
	if n := w.calls.unwraps.Load(); n != 2 {
		t.Errorf("%d calls, want one per service key that was loaded", n)
	}
	check(t, m.rotate(w.request(), object("acme", "")))
	want(2)
	check(t, m.rotate(w.request(), object("acme", "pay")))
	want(2)
	if n := w.calls.unwraps.Load(); n != 4 {
		t.Errorf("%d calls, want one more per change", n)
	}
}

func TestI7_WhatMayNotBeUsedIsWipedAtTheNextSweep(t *testing.T) {
	o := object("acme", "pay")
	for name, c := range map[string]struct {
		do          func(w *world, m *member) error
		l2, l21, l3 int
	}{
		"nothing":         {func(*world, *member) error { return nil }, 1, 1, 2},
		"disable version": {func(w *world, m *member) error { return m.changeVersion(w.request(), o, 1, disable, 0) }, 1, 1, 1},
		"compromise":      {func(w *world, m *member) error { return m.changeVersion(w.request(), o, 1, compromise, 0) }, 1, 1, 1},
		"suspend service": {func(w *world, m *member) error { return m.changeObject(w.request(), o, suspend, 0) }, 1, 1, 1},
		"destroy service": {func(w *world, m *member) error { return m.changeObject(w.request(), o, destroyO, 1) }, 1, 1, 1},
		"disable parent": {func(w *world, m *member) error {
			return m.changeVersion(w.request(), object("acme", ""), 1, disable, 0)
		}, 1, 0, 0},
		"suspend tenant": {func(w *world, m *member) error { return m.changeObject(w.request(), object("acme", ""), suspend, 0) }, 0, 0, 0},
		"destroy tenant": {func(w *world, m *member) error { return m.changeObject(w.request(), object("acme", ""), destroyO, 1) }, 0, 0, 0},
		"another tenant": {func(w *world, m *member) error {
			w.tenant(m, "zeta")
			return m.changeObject(w.request(), object("zeta", ""), destroyO, 1)
		}, 1, 1, 2},
		"deprecate the old": {func(w *world, m *member) error {
			if err := m.rotate(w.request(), o); err != nil {
				return err
			}
			return m.changeVersion(w.request(), o, 1, deprecate, 0)
		}, 1, 1, 2},
	} {
		w, m := cluster1(t)
		reload(t, m)
		baseline := memsec.Report()
		for _, tg := range []node.Target{target("acme", "pay"), target("acme", "log")} {
			ct, _, err := m.encrypt(tg, nil)
			check(t, err)
			for range 3 {
				_, _, err = m.decrypt(tg, ct) // sessions are kept
				check(t, err)
			}
		}
		check(t, c.do(w, m))
		m.Sweep()
		_, l2, l21, l3 := m.Loaded()
		if l2 != c.l2 || l21 != c.l21 || l3 != c.l3 {
			t.Errorf("%s: %d L2, %d L2.1, %d L3; want %d, %d, %d", name, l2, l21, l3, c.l2, c.l21, c.l3)
		}
		if c.l3 == 0 {
			if m.Quotas() != 0 {
				t.Errorf("%s: a quota without a key", name)
			}
			if r := memsec.Report(); r.AEADs != baseline.AEADs {
				t.Errorf("%s: %d sessions are left", name, r.AEADs-baseline.AEADs)
			}
		}
	}
}

func TestIdleSessionsAreWiped(t *testing.T) {
	w, m := cluster1(t)
	before := memsec.Report().AEADs
	_, _, err := m.encrypt(target("acme", "pay"), nil)
	check(t, err)
	_, _, _, err = m.generate(target("acme", "pay"), 0)
	check(t, err)
	if n := memsec.Report().AEADs - before; n != 2 {
		t.Fatalf("%d sessions", n)
	}
	w.advance(time.Minute)
	m.Sweep()
	if n := memsec.Report().AEADs - before; n != 0 {
		t.Errorf("%d sessions after their end", n)
	}
}

// Protected memory is exhausted: what nobody uses goes, and the node goes on.
func TestAnExhaustedMemoryMakesTheNodeSlowerNotUseless(t *testing.T) {
	w, m := cluster1(t)
	services := []hierarchy.Name{"pay", "log"}
	for _, s := range []hierarchy.Name{"s1", "s2", "s3", "s4"} {
		_, err := m.createService(w.request(), "acme", s)
		check(t, err)
		services = append(services, s)
	}
	first := map[hierarchy.Name][]byte{}
	for _, s := range services[:3] {
		ct, _, err := m.encrypt(target("acme", s), []byte(s))
		check(t, err)
		first[s] = ct
	}
	var hoard []memsec.Secret
	defer func() {
		for _, s := range hoard {
			s.Destroy()
		}
	}()
	for _, size := range []int{memsec.MaxLen, 64, memsec.KeySize} {
		for {
			s, err := memsec.Random(rand.Reader, size, memsec.Hot)
			if errors.Is(err, memsec.ErrBudget) {
				break
			}
			check(t, err)
			hoard = append(hoard, s)
		}
	}
	for range 3 {
		for _, s := range services {
			ct, _, err := m.encrypt(target("acme", s), []byte(s))
			check(t, err)
			pt, _, err := m.decrypt(target("acme", s), ct)
			if err != nil || string(pt) != string(s) {
				t.Fatalf("%s: %v", s, err)
			}
		}
	}
	for s, ct := range first {
		if pt, _, err := m.decrypt(target("acme", s), ct); err != nil || string(pt) != string(s) {
			t.Errorf("%s: %v", s, err)
		}
	}
	check(t, m.rotate(w.request(), object("acme", "pay")))
	if _, _, _, l3 := m.Loaded(); l3 == 0 || l3 >= len(services) {
		t.Errorf("%d service keys are loaded, of %d: nothing was evicted", l3, len(services))
	}
}

func TestTenThousandOperationsLeakNothing(t *testing.T) {
	w, m := cluster1(t)
	w.tenant(m, "other", "pay")
	tg, foreign := target("acme", "pay"), target("other", "pay")
	ct, _, err := m.encrypt(foreign, []byte("x"))
	check(t, err)
	round := func() {
		own, _, err := m.encrypt(tg, []byte("x"))
		check(t, err)
		_, _, err = m.decrypt(tg, own)
		check(t, err)
		_, wrapped, _, err := m.generate(tg, 0)
		check(t, err)
		_, _, err = m.unwrap(tg, wrapped)
		check(t, err)
		_, _, _, err = m.rewrap(tg, wrapped)
		check(t, err)
		_, _, err = m.decrypt(tg, ct)
		wants(t, err, errs.Integrity)
		_, _, err = m.unwrap(tg, own)
		wants(t, err, errs.Integrity)
		_, _, err = m.unwrap(foreign, wrapped)
		wants(t, err, errs.Integrity)
		_, _, _, err = m.generate(tg, 1)
		wants(t, err, errs.InvalidArgument)
		_, _, err = m.encrypt(target("acme", "none"), nil)
		wants(t, err, errs.NotFound)
	}
	for range 5 {
		round()
	}
	m.Sweep()
	before := memsec.Report()
	for i := range 1000 {
		round()
		if i%100 == 0 {
			m.contact.Store(1 << 62)
			_, _, _, err := m.generate(tg, 0)
			wants(t, err, errs.NotServing)
			m.contact.Store(0)
		}
	}
	after := memsec.Report()
	if after.Secrets != before.Secrets || after.AEADs != before.AEADs || after.UsedBytes != before.UsedBytes {
		t.Errorf("%+v after, %+v before", after, before)
	}
	if n := m.gate.InFlight(); n != 0 {
		t.Errorf("%d tokens are not finished", n)
	}
}

// Everything at once, for the race detector: operations, sweeps, seals, changes.
func TestOperationsSweepsAndSealsAtOnce(t *testing.T) {
	w, m := cluster1(t, withHold(0))
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("x"))
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(f func()) {
		wg.Go(func() {
			for ctx.Err() == nil {
				f()
			}
		})
	}
	allowed := func(err error) {
		switch errs.Of(err) {
		case errs.Unspecified, errs.Sealed, errs.Held, errs.FailedState, errs.ChangeInProgress:
		default:
			t.Errorf("%v (%v)", err, errs.Of(err))
			cancel()
		}
	}
	for range 3 {
		run(func() {
			pt, _, err := m.decrypt(tg, ct)
			allowed(err)
			if err == nil && string(pt) != "x" {
				t.Errorf("opened to %q", pt)
			}
		})
		run(func() { _, _, _, err := m.generate(tg, 0); allowed(err) })
	}
	run(m.Sweep)
	for i := range 60 {
		switch i % 4 {
		case 0:
			check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, disable, 0))
		case 1:
			check(t, m.changeVersion(w.request(), object("acme", "pay"), 1, enable, 0))
		case 2:
			check(t, m.setHold(w.request(), node.Held))
			check(t, m.setHold(w.request(), node.Released))
		case 3:
			check(t, m.AskKeystores(t.Context()))
		}
	}
	cancel()
	wg.Wait()
}
