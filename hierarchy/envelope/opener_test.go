package envelope_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/memsec"
)

func session(t testing.TB) *envelope.Sealer {
	t.Helper()
	return newSealer(t, clock.System{}, hierarchy.PurposeData, envelope.Limits{})
}

func mustOpen(t testing.TB, o *envelope.Opener, blob []byte, want string) {
	t.Helper()
	if pt, err := o.Open(nil, dataAt("r"), blob); err != nil || string(pt) != want {
		t.Fatalf("open: %q, %v", pt, err)
	}
}

func TestI5_ASessionIsKeptOnItsSecondUse(t *testing.T) {
	o := newOpener(t, envelope.NewQuota(10))
	s := session(t)
	for i, kept := range []int{0, 1, 1, 1} {
		mustOpen(t, o, sealed(t, s, "x"), "x")
		if o.Kept() != kept {
			t.Errorf("after use %d: %d sessions kept, want %d", i+1, o.Kept(), kept)
		}
	}
}

func TestI5_WhatDoesNotOpenIsNeverKept(t *testing.T) {
	o := newOpener(t, envelope.NewQuota(10))
	bad := sealed(t, session(t), "x")
	bad[len(bad)-1] ^= 1
	for range 5 {
		_, err := o.Open(nil, dataAt("r"), bad)
		refused(t, err, envelope.ErrTag, "changed tag")
	}
	forged := sealed(t, session(t), "x")
	for range 5 {
		forged[18]++
		_, err := o.Open(nil, dataAt("r"), forged)
		refused(t, err, envelope.ErrCommitment, "invented session")
	}
	if o.Kept() != 0 {
		t.Errorf("%d sessions kept", o.Kept())
	}
}

func TestI3_KeptSessionsStillCompareTheCommitment(t *testing.T) {
	o := newOpener(t, envelope.NewQuota(10))
	blob := sealed(t, session(t), "x")
	mustOpen(t, o, blob, "x")
	mustOpen(t, o, blob, "x")
	if o.Kept() != 1 {
		t.Fatal("not kept")
	}
	for i := 34; i < 66; i++ {
		bad := slices.Clone(blob)
		bad[i] ^= 1
		_, err := o.Open(nil, dataAt("r"), bad)
		refused(t, err, envelope.ErrCommitment, "kept session, commitment byte %d", i-34)
	}
	_, err := o.Open(nil, dataAt("other"), blob)
	refused(t, err, envelope.ErrTag, "kept session, other resource")
	mustOpen(t, o, blob, "x")
}

func TestI5_TheQuotaIsSharedAndTheOldestOwnSessionGoesFirst(t *testing.T) {
	q := envelope.NewQuota(2)
	a, b := newOpener(t, q), newOpener(t, q)
	use := func(o *envelope.Opener, blobs ...[]byte) {
		for _, blob := range blobs {
			mustOpen(t, o, blob, "x")
			mustOpen(t, o, blob, "x")
		}
	}
	var blobs [5][]byte
	for i := range blobs {
		blobs[i] = sealed(t, session(t), "x")
	}
	use(a, blobs[:4]...)
	if a.Kept() != 2 {
		t.Errorf("a keeps %d of 2", a.Kept())
	}
	use(b, blobs[4])
	if a.Kept() != 2 || b.Kept() != 0 {
		t.Errorf("a keeps %d, b keeps %d: the quota is 2", a.Kept(), b.Kept())
	}
	use(a, blobs[0]) // evicted before, still opens
	a.Close()
	a.Close()
	if a.Kept() != 0 {
		t.Errorf("a closed opener keeps %d", a.Kept())
	}
	use(b, blobs[:2]...)
	if b.Kept() != 2 {
		t.Errorf("places of a closed opener are lost: b keeps %d", b.Kept())
	}
	if _, err := a.Open(nil, dataAt("r"), blobs[0]); !errors.Is(err, memsec.ErrDestroyed) {
		t.Errorf("a closed opener opens: %v", err)
	}
	for _, none := range []*envelope.Quota{nil, envelope.NewQuota(0)} {
		o := newOpener(t, none)
		use(o, blobs[0], blobs[0])
		if o.Kept() != 0 {
			t.Errorf("%d kept without a quota", o.Kept())
		}
	}
}

func TestI5_OnceOpenedSessionsAreForgottenInOrder(t *testing.T) {
	o := newOpener(t, envelope.NewQuota(10))
	first := sealed(t, session(t), "x")
	mustOpen(t, o, first, "x")
	for range 256 {
		s := session(t)
		mustOpen(t, o, sealed(t, s, "x"), "x")
		s.Retire()
	}
	mustOpen(t, o, first, "x")
	if o.Kept() != 0 {
		t.Error("a session is remembered beyond 256 others")
	}
	mustOpen(t, o, first, "x")
	if o.Kept() != 1 {
		t.Error("the second use after that is not kept")
	}
}

func TestAnOpenerOutlivesTheLossOfAKeptKeyOnlyThroughItsParent(t *testing.T) {
	parent := l3(t)
	o, err := envelope.NewOpener(parent, testScope(), envelope.NewQuota(10))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	blob, fresh := sealed(t, session(t), "x"), sealed(t, session(t), "x")
	mustOpen(t, o, blob, "x")
	mustOpen(t, o, blob, "x")
	parent.Destroy()
	mustOpen(t, o, blob, "x") // kept
	if _, err := o.Open(nil, dataAt("r"), fresh); !errors.Is(err, memsec.ErrDestroyed) {
		t.Errorf("an unknown session without a parent: %v", err)
	}
}

func TestOpenersUnderConcurrentUseAndEviction(t *testing.T) {
	o := newOpener(t, envelope.NewQuota(2))
	var blobs [6][]byte
	for i := range blobs {
		blobs[i] = sealed(t, session(t), "x")
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				if pt, err := o.Open(nil, dataAt("r"), blobs[(i*(w+1)+w)%len(blobs)]); err != nil || string(pt) != "x" {
					t.Errorf("open beside evictions: %q, %v", pt, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := o.Kept(); n < 1 || n > 2 {
		t.Errorf("%d kept, quota 2", n)
	}
	o.Close()
	if o.Kept() != 0 {
		t.Error("closed and keeps keys")
	}
}

func TestSealedOnOneNodeOpensOnAnother(t *testing.T) {
	// Nothing but the L3 is shared: the session id in the header is enough.
	blob := sealed(t, session(t), "over there")
	for range 3 {
		o := newOpener(t, envelope.NewQuota(1))
		mustOpen(t, o, blob, "over there")
	}
}
