package envelope_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

func testScope() envelope.Scope {
	return envelope.Scope{
		Keyspace: hierarchy.KeyspaceID(idOf("keyspace")), Tenant: idOf("tenant"), Service: idOf("service"), Version: idOf("l3"),
	}
}

func dataAt(r string) envelope.Binding {
	return testScope().Bind(hierarchy.PurposeData, hierarchy.ResourceID(r), hierarchy.EncryptionContext{})
}

func dekAt(r string) envelope.Binding {
	return testScope().Bind(hierarchy.PurposeDataKey, hierarchy.ResourceID(r), hierarchy.EncryptionContext{})
}

func l3(t testing.TB) memsec.Secret { t.Helper(); return take(t, bytesOf("l3 key", 32)) }

func newSealer(t testing.TB, clk clock.Clock, p hierarchy.Purpose, l envelope.Limits) *envelope.Sealer {
	t.Helper()
	s, err := envelope.NewSealer(rand.Reader, clk, l3(t), p, testScope(), l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Retire)
	return s
}

func newOpener(t testing.TB, q *envelope.Quota) *envelope.Opener {
	t.Helper()
	o, err := envelope.NewOpener(l3(t), testScope(), q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func sealed(t testing.TB, s *envelope.Sealer, pt string) []byte {
	t.Helper()
	blob, err := s.Seal(nil, dataAt("r"), []byte(pt))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestI4_ASessionEndsAtEachOfItsLimits(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		limits envelope.Limits
		use    func(s *envelope.Sealer, clk *clock.Fake)
	}{
		"messages": {envelope.Limits{Messages: 3}, func(s *envelope.Sealer, _ *clock.Fake) {
			for range 3 {
				sealed(t, s, "x")
			}
		}},
		"bytes": {envelope.Limits{Bytes: 10}, func(s *envelope.Sealer, _ *clock.Fake) { sealed(t, s, "0123456789") }},
		"age": {envelope.Limits{Age: time.Second}, func(s *envelope.Sealer, clk *clock.Fake) {
			clk.Advance(time.Second - 1)
			sealed(t, s, "x")
			clk.Advance(1)
		}},
		"default age": {envelope.Limits{}, func(s *envelope.Sealer, clk *clock.Fake) {
			clk.Advance(envelope.MaxSessionAge - 1)
			sealed(t, s, "x")
			clk.Advance(1)
		}},
		"clock runs backwards": {envelope.Limits{}, func(_ *envelope.Sealer, clk *clock.Fake) { clk.Advance(-1) }},
		"retired": {envelope.Limits{}, func(s *envelope.Sealer, _ *clock.Fake) {
			s.Retire()
			s.Retire()
		}},
	} {
		clk := clock.NewFake(start)
		s := newSealer(t, clk, hierarchy.PurposeData, tc.limits)
		if s.Expired() {
			t.Errorf("%s: expired at its start", name)
		}
		tc.use(s, clk)
		if !s.Expired() {
			t.Errorf("%s: not expired at its end", name)
		}
		if blob, err := s.Seal(nil, dataAt("r"), []byte("x")); !errors.Is(err, envelope.ErrSessionEnded) || blob != nil {
			t.Errorf("%s: %v, want the session's end", name, err)
		}
		clk.Advance(-time.Hour)
		clk.Advance(time.Hour - time.Second)
		if _, err := s.Seal(nil, dataAt("r"), nil); !errors.Is(err, envelope.ErrSessionEnded) {
			t.Errorf("%s: an ended session came back: %v", name, err)
		}
	}
}

func TestI4_AMessageThatDoesNotFitEndsTheSession(t *testing.T) {
	s := newSealer(t, clock.System{}, hierarchy.PurposeData, envelope.Limits{Bytes: 10})
	if _, err := s.Seal(nil, dataAt("r"), make([]byte, 11)); !errors.Is(err, envelope.ErrSessionEnded) {
		t.Errorf("11 bytes of 10: %v", err)
	}
	if _, err := s.Seal(nil, dataAt("r"), nil); !errors.Is(err, envelope.ErrSessionEnded) {
		t.Errorf("a limit is final: %v", err)
	}
}

func TestI4_TheMaximaAreTheDocumentedOnes(t *testing.T) {
	if envelope.MaxSessionMessages != 1<<20 || envelope.MaxSessionBytes != 1<<36 || envelope.MaxSessionAge != time.Minute || envelope.MaxPlaintext != 1<<20 {
		t.Error("limits differ from docs/formats.md")
	}
	for name, l := range map[string]envelope.Limits{
		"messages": {Messages: envelope.MaxSessionMessages + 1}, "bytes": {Bytes: envelope.MaxSessionBytes + 1},
		"age": {Age: envelope.MaxSessionAge + 1}, "negative age": {Age: -1},
	} {
		if _, err := envelope.NewSealer(rand.Reader, clock.System{}, l3(t), hierarchy.PurposeData, testScope(), l); !errs.Is(err, errs.Internal) {
			t.Errorf("%s above the maximum: %v", name, err)
		}
	}
	s := newSealer(t, clock.NewFake(time.Unix(0, 0)), hierarchy.PurposeData, envelope.Limits{})
	b, buf := dataAt("r"), make([]byte, 0, 256)
	for i := range envelope.MaxSessionMessages {
		if _, err := s.Seal(buf, b, nil); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if _, err := s.Seal(buf, b, nil); !errors.Is(err, envelope.ErrSessionEnded) {
		t.Errorf("message 2^20+1: %v", err)
	}
}

func TestI4_ConcurrentSealsStayWithinTheLimit(t *testing.T) {
	const limit, workers = 500, 8
	s := newSealer(t, clock.System{}, hierarchy.PurposeData, envelope.Limits{Messages: limit})
	var mu sync.Mutex
	nonces := map[[12]byte]bool{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				blob, err := s.Seal(nil, dataAt("r"), []byte("x"))
				if errors.Is(err, envelope.ErrSessionEnded) {
					return
				}
				h, herr := envelope.ParseHeader(blob)
				if err != nil || herr != nil {
					t.Errorf("%v, %v", err, herr)
					return
				}
				mu.Lock()
				nonces[h.Nonce] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	// The limit may cut off a seal that was counted while another ended the
	// session; it never lets one more through.
	if len(nonces) > limit || len(nonces) < limit-workers {
		t.Errorf("%d messages, limit %d", len(nonces), limit)
	}
}

func TestRetireWhileSealingGivesGoodBlobsOrTheEnd(t *testing.T) {
	o := newOpener(t, nil)
	for range 50 {
		s := newSealer(t, clock.System{}, hierarchy.PurposeData, envelope.Limits{})
		started := make(chan struct{})
		var once sync.Once
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					blob, err := s.Seal(nil, dataAt("r"), []byte("payload"))
					once.Do(func() { close(started) })
					if errors.Is(err, envelope.ErrSessionEnded) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if pt, err := o.Open(nil, dataAt("r"), blob); err != nil || string(pt) != "payload" {
						t.Errorf("a blob made beside Retire does not open: %v", err)
						return
					}
				}
			})
		}
		<-started
		s.Retire()
		wg.Wait()
	}
}

func TestSealAppendsAndRefusesWhatIsTooLong(t *testing.T) {
	s := newSealer(t, clock.System{}, hierarchy.PurposeData, envelope.Limits{})
	o := newOpener(t, nil)
	dst := []byte("kept")
	blob, err := s.Seal(dst, dataAt("r"), []byte("x"))
	if err != nil || !bytes.HasPrefix(blob, dst) {
		t.Fatalf("%v, %q", err, blob)
	}
	pt, err := o.Open([]byte("also kept:"), dataAt("r"), blob[len(dst):])
	if err != nil || string(pt) != "also kept:x" {
		t.Errorf("%q, %v", pt, err)
	}
	big := make([]byte, envelope.MaxPlaintext+1)
	if _, err := s.Seal(nil, dataAt("r"), big); !errs.Is(err, errs.TooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	blob, err = s.Seal(nil, dataAt("r"), big[1:])
	if err != nil {
		t.Fatal(err)
	}
	if pt, err := o.Open(nil, dataAt("r"), blob); err != nil || len(pt) != envelope.MaxPlaintext {
		t.Errorf("the longest plaintext: %v", err)
	}
	if _, err := s.Seal(big[:0], dataAt("r"), big[1:100]); err == nil {
		t.Error("sealing over its own input is not refused")
	}
}

func TestSessionsRefuseBindingsThatAreNotTheirs(t *testing.T) {
	data := newSealer(t, clock.System{}, hierarchy.PurposeData, envelope.Limits{})
	deks := newSealer(t, clock.System{}, hierarchy.PurposeDataKey, envelope.Limits{})
	o := newOpener(t, nil)
	blob := sealed(t, data, "x")
	key := take(t, bytesOf("dek", 32))
	other := dataAt("r")
	other.Tenant[0] ^= 1
	unchecked := dataAt(string(make([]byte, 200)))
	for name, b := range map[string]envelope.Binding{"tenant": other, "purpose": dekAt("r"), "no purpose": {}, "unchecked resource": unchecked} {
		if _, err := data.Seal(nil, b, nil); !errs.Is(err, errs.Internal) {
			t.Errorf("seal, %s: %v", name, err)
		}
		if _, err := o.Open(nil, b, blob); !errs.Is(err, errs.Internal) {
			t.Errorf("open, %s: %v", name, err)
		}
	}
	if _, err := deks.Seal(nil, dataAt("r"), nil); !errs.Is(err, errs.Internal) {
		t.Errorf("data in a session for data keys: %v", err)
	}
	if _, err := data.WrapSecret(dekAt("r"), key); !errs.Is(err, errs.Internal) {
		t.Errorf("data key in a session for data: %v", err)
	}
	if _, err := o.UnwrapSecret(dataAt("r"), make([]byte, 200), memsec.Hot); !errs.Is(err, errs.Internal) {
		t.Errorf("unwrap as data: %v", err)
	}
	for _, p := range []hierarchy.Purpose{0, hierarchy.PurposeIVK, hierarchy.PurposeL3} {
		if _, err := envelope.NewSealer(rand.Reader, clock.System{}, l3(t), p, testScope(), envelope.Limits{}); !errs.Is(err, errs.Internal) {
			t.Errorf("session for %s: %v", p, err)
		}
	}
	if _, err := envelope.NewSealer(rand.Reader, clock.System{}, l3(t), hierarchy.PurposeData, envelope.Scope{}, envelope.Limits{}); !errs.Is(err, errs.Internal) {
		t.Errorf("session of no scope: %v", err)
	}
	if _, err := envelope.NewOpener(l3(t), envelope.Scope{}, nil); !errs.Is(err, errs.Internal) {
		t.Errorf("opener of no scope: %v", err)
	}
	if _, err := envelope.NewOpener(memsec.Secret{}, testScope(), nil); !errs.Is(err, errs.Internal) {
		t.Errorf("opener of no parent: %v", err)
	}
}

func TestWrapSecretTellsALostKeyFromALostSession(t *testing.T) {
	s := newSealer(t, clock.System{}, hierarchy.PurposeDataKey, envelope.Limits{})
	key := take(t, bytesOf("dek", 32))
	gone := take(t, bytesOf("dek", 32))
	gone.Destroy()
	if _, err := s.WrapSecret(dekAt("r"), gone); !errors.Is(err, memsec.ErrDestroyed) || errors.Is(err, envelope.ErrSessionEnded) {
		t.Errorf("destroyed data key: %v", err)
	}
	if _, err := s.WrapSecret(dekAt("r"), memsec.Secret{}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("no data key: %v", err)
	}
	blob, err := s.WrapSecret(dekAt("r"), key)
	if err != nil {
		t.Fatal(err)
	}
	o := newOpener(t, nil)
	got, err := o.UnwrapSecret(dekAt("r"), blob, memsec.Hot)
	if err != nil || !same(t, got, bytesOf("dek", 32)) {
		t.Errorf("unwrap: %v", err)
	}
	got.Destroy()
	_, err = o.UnwrapSecret(dekAt("other"), blob, memsec.Hot)
	refused(t, err, envelope.ErrTag, "another resource")
	_, err = o.UnwrapSecret(dekAt("r"), blob[:94], memsec.Hot)
	refused(t, err, envelope.ErrLength, "an empty data key")
	s.Retire()
	if _, err := s.WrapSecret(dekAt("r"), key); !errors.Is(err, envelope.ErrSessionEnded) {
		t.Errorf("retired: %v", err)
	}
}
