package seal_test

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

func key(name string) seal.ProviderKey { return seal.ProviderKey{Provider: name, Key: "k"} }

// later is after everything in these tests was made.
var later = start.AddDate(1, 0, 0) //nolint:gochecknoglobals // A constant time; Go has none.

// rewrap wraps again by keys, at a later time.
func rewrap(t *testing.T, r seal.Record, reg *keystore.Registry, names ...string) (seal.Record, []seal.Failure, error) {
	t.Helper()
	var keys []seal.ProviderKey
	for _, n := range names {
		keys = append(keys, key(n))
	}
	return r.Rewrap(t.Context(), rand.Reader, keys, reg, clock.NewFake(start.Add(time.Hour)), wait)
}

// onlyBy opens a record through one keystore alone.
func onlyBy(t *testing.T, s stores, r seal.Record, reg *keystore.Registry, name string, want memsec.Secret) {
	t.Helper()
	for n := range s {
		if s.heal(n); n != name {
			s.fail(keystore.Unavailable, n)
		}
	}
	mk, err := open(t.Context(), r, reg)
	if err != nil {
		t.Fatalf("by %s alone: %v", name, err)
	}
	defer mk.Destroy()
	if !same(t, mk, want) {
		t.Errorf("%s opens another MasterKey", name)
	}
}

// without returns the record without the wrapping by one key, as of a repair that
// adds it.
func without(t *testing.T, r seal.Record, name string) seal.Record {
	t.Helper()
	pb := r.Proto()
	var rest []*sealpb.Wrapping
	for _, w := range pb.GetWrappings() {
		if w.GetProviderKey().GetProvider() != name {
			rest = append(rest, w)
		}
	}
	pb.Wrappings = rest
	return reparse(t, pb)
}

// damaged returns the record with a wrapping that does not open.
func damaged(t *testing.T, r seal.Record, i int) seal.Record {
	t.Helper()
	pb := r.Proto()
	pb.GetWrappings()[i].WrappedKey[0] ^= 1
	return reparse(t, pb)
}

func TestALostWrappingIsMadeAgain(t *testing.T) {
	s, reg := newStores(t, "a", "b", "c")
	k := autoOf(t, reg, "a", "b", "c")
	defer k.done()
	for name, broken := range map[string]seal.Record{"damaged": damaged(t, k.record, 1), "missing": without(t, k.record, "b")} {
		t.Run(name, func(t *testing.T) {
			s.heal("a", "b", "c")
			better, failures, err := rewrap(t, broken, reg, "b")
			if err != nil || len(failures) != 0 {
				t.Fatal(failures, err)
			}
			if better.ManifestDigest() != k.record.ManifestDigest() || better.Digest() == broken.Digest() {
				t.Error("the manifest is another, or nothing changed")
			}
			for _, n := range []string{"a", "b", "c"} {
				onlyBy(t, s, better, reg, n, k.masterKey)
			}
		})
	}
}

// TestI6_ARepairShowsNoKeystoreTheMasterKey: it is a wrapping like any other.
func TestI6_ARepairShowsNoKeystoreTheMasterKey(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	k := autoOf(t, reg, "a", "b")
	defer k.done()
	if _, _, err := rewrap(t, k.record, reg, "b"); err != nil {
		t.Fatal(err)
	}
	for _, shown := range s["b"].wrapped {
		if same(t, shown, k.masterKey) {
			t.Error("a keystore was given the MasterKey")
		}
	}
	if n := len(s["b"].wrapped); n != 2 || same(t, s["b"].wrapped[0], s["b"].wrapped[1]) {
		t.Errorf("%d wraps, of one key", n)
	}
}

func TestARepairIsRefused(t *testing.T) {
	s, reg := newStores(t, "a", "b", "thief")
	k := autoOf(t, reg, "a", "b")
	defer k.done()
	if _, _, err := rewrap(t, k.record, reg, "thief"); !errors.Is(err, seal.ErrNotInManifest) || !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("to a key outside the manifest: %v", err)
	}
	if len(s["thief"].wrapped) != 0 {
		t.Error("a keystore outside the manifest was asked to wrap")
	}
	if _, _, err := k.record.Rewrap(t.Context(), rand.Reader, []seal.ProviderKey{{Provider: "a", Key: "other"}}, reg, clock.System{}, wait); !errors.Is(err, seal.ErrNotInManifest) {
		t.Errorf("to another key of a keystore: %v", err)
	}
	p := shamirOf(t, ceremony(t), 2, 2)
	defer p.done()
	if _, _, err := rewrap(t, p.record, reg, "a"); !errors.Is(err, seal.ErrMode) {
		t.Errorf("of shares: %v", err)
	}
	s.fail(keystore.Unavailable, "a", "b")
	_, _, err := rewrap(t, k.record, reg, "b")
	missing(t, err)
	s.heal("a")
	if _, failures, err := rewrap(t, k.record, reg, "b"); err == nil || len(failures) != 1 || failures[0].Class != keystore.Unavailable {
		t.Errorf("wraps and does not open again: %+v, %v", failures, err)
	}
	// One of two that can is better than none.
	s["b"].wrap = func() error { return failed(keystore.Denied) }
	better, failures, err := rewrap(t, damaged(t, k.record, 1), reg, "b", "a")
	if err != nil || len(failures) != 1 || failures[0].ProviderKey != key("b") || failures[0].Class != keystore.Denied {
		t.Errorf("%+v, %v", failures, err)
	}
	s["b"].wrap = nil
	onlyBy(t, s, better, reg, "a", k.masterKey)
}

func TestWhatReplacesAWrappingIsYounger(t *testing.T) {
	_, reg := newStores(t, "a", "b")
	k := autoOf(t, reg, "a", "b")
	defer k.done()
	was := k.record.Proto().GetWrappings()[1].GetCreateTimeUnixNano()
	// By a clock that went back a year.
	better, _, err := k.record.Rewrap(t.Context(), rand.Reader, []seal.ProviderKey{key("b")}, reg, clock.NewFake(start.AddDate(-1, 0, 0)), wait)
	if err != nil {
		t.Fatal(err)
	}
	if now := better.Proto().GetWrappings()[1].GetCreateTimeUnixNano(); now <= was {
		t.Errorf("made at %d, what it replaces at %d", now, was)
	}
}

// TestMergedRecordsAreTheSame whichever of them is there first, and a repair that
// one of them missed is not taken back.
func TestMergedRecordsAreTheSame(t *testing.T) {
	s, reg := newStores(t, "a", "b", "c")
	k := autoOf(t, reg, "a", "b", "c")
	defer k.done()
	base := damaged(t, damaged(t, k.record, 0), 1)
	one, _, err1 := rewrap(t, base, reg, "a")
	two, _, err2 := rewrap(t, without(t, base, "a"), reg, "b")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for name, both := range map[string][2]seal.Record{"one way": {one, two}, "the other": {two, one}} {
		m, err := both[0].Merge(both[1], later)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"a", "b", "c"} {
			onlyBy(t, s, m, reg, n, k.masterKey)
		}
		if again, err := m.Merge(base, later); err != nil || again.Digest() != m.Digest() {
			t.Errorf("%s: an old copy takes something back: %v", name, err)
		}
	}
	s.heal("a", "b", "c")
	other := autoOf(t, reg, "a")
	defer other.done()
	if _, err := one.Merge(other.record, later); !errs.Is(err, errs.FailedState) {
		t.Errorf("of another seal: %v", err)
	}
}

func TestAProbeOpensAndForgets(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	auto, shares := autoOf(t, reg, "a", "b"), mixed(t, reg, group("", 2, "a", "b", "ANNA"))
	defer auto.done()
	defer shares.done()
	before := memsec.Report().Secrets
	for _, r := range []seal.Record{auto.record, shares.record} {
		for _, h := range r.Progress().Holders {
			s.heal("a", "b")
			asked := len(s["a"].seen) + len(s["b"].seen)
			if f := r.Probe(t.Context(), h, reg); f != nil {
				t.Errorf("%s: %+v", h, f)
			}
			if n := len(s["a"].seen) + len(s["b"].seen) - asked; (n == 1) == h.Person() {
				t.Errorf("%s: %d calls", h, n)
			}
			if h.Person() {
				continue
			}
			s.fail(keystore.Denied, h.Key.Provider)
			if f := r.Probe(t.Context(), h, reg); f == nil || f.Class != keystore.Denied || f.ProviderKey != h.Key || f.RequestID == "" {
				t.Errorf("%s: %+v", h, f)
			}
		}
	}
	s.heal("a", "b")
	lost := without(t, auto.record, "b")
	if h := lost.Progress().Holders[1]; h.State != seal.HolderMissing || lost.Probe(context.Background(), h, reg) != nil {
		t.Errorf("%+v", h)
	}
	if n := memsec.Report().Secrets; n != before {
		t.Errorf("%d secrets are left", n-before)
	}
}

// TestI16_NothingFromTheFutureIsMerged, whether it would replace a wrapping or be added.
func TestI16_NothingFromTheFutureIsMerged(t *testing.T) {
	_, reg := newStores(t, "a", "b")
	k := autoOf(t, reg, "a", "b")
	defer k.done()
	now := start.Add(time.Hour)
	at := func(r seal.Record, when int64) seal.Record {
		pb := damaged(t, r, 1).Proto()
		pb.GetWrappings()[1].CreateTimeUnixNano = when
		return reparse(t, pb)
	}
	for name, when := range map[string]int64{"the next nanosecond": now.UnixNano() + 1, "the last nanosecond": math.MaxInt64} {
		for what, mine := range map[string]seal.Record{"a younger one": k.record, "one of it alone": without(t, k.record, "b")} {
			if m, err := mine.Merge(at(k.record, when), now); err != nil || m.Digest() != mine.Digest() {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	if m, err := k.record.Merge(at(k.record, now.UnixNano()), now); err != nil || m.Digest() == k.record.Digest() {
		t.Errorf("what was made just now is not merged: %v", err)
	}
}

// TestI16_NothingReplacesTheLastNanosecond: its successor would be the oldest of all, and
// refused by every replica together with the rest of the repair.
func TestI16_NothingReplacesTheLastNanosecond(t *testing.T) {
	s, reg := newStores(t, "a", "b", "c")
	k := autoOf(t, reg, "a", "b", "c")
	defer k.done()
	pb := damaged(t, damaged(t, k.record, 0), 1).Proto()
	pb.GetWrappings()[1].CreateTimeUnixNano = math.MaxInt64
	r := reparse(t, pb)
	asked := len(s["b"].wrapped)
	better, failures, err := rewrap(t, r, reg, "a", "b")
	if err != nil || len(failures) != 1 || failures[0].ProviderKey != key("b") || failures[0].Class != keystore.Corrupt {
		t.Fatalf("%+v, %v", failures, err)
	}
	if got := better.Replaced(r); len(got) != 1 || got[0] != key("a") || len(s["b"].wrapped) != asked {
		t.Errorf("replaced are %v, and b was asked to wrap %d times", got, len(s["b"].wrapped)-asked)
	}
	if _, _, err := rewrap(t, r, reg, "b"); !errs.Is(err, errs.KeystoreMisconfigured) {
		t.Errorf("alone: %v", err)
	}
}

func TestWhatIsKeptIsAsItWas(t *testing.T) {
	_, reg := newStores(t, "a", "b", "c")
	k := autoOf(t, reg, "a", "b", "c")
	defer k.done()
	better, _, err := rewrap(t, without(t, k.record, "c"), reg, "a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	if got := better.Replaced(k.record); len(got) != 3 {
		t.Errorf("replaced: %v", got)
	}
	some, err := better.Keep(k.record, []seal.ProviderKey{key("a"), key("c")})
	if got := some.Replaced(k.record); err != nil || len(got) != 1 || got[0] != key("b") {
		t.Errorf("replaced: %v, %v", got, err)
	}
	if _, err := better.Keep(without(t, k.record, "c"), []seal.ProviderKey{key("c")}); !errs.Is(err, errs.FailedState) {
		t.Errorf("of what it had not: %v", err)
	}
	if w := better.Wrapping(key("d")); w != nil {
		t.Errorf("%v", w)
	}
}
