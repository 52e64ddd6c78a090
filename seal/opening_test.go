package seal_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// stores are keystores in memory by name.
type stores map[string]*prov

func newStores(t *testing.T, names ...string) (stores, *keystore.Registry) {
	t.Helper()
	s := stores{}
	for _, n := range names {
		s[n] = newProv(t)
	}
	return s, registry(t, s)
}

func (s stores) fail(c keystore.Class, names ...string) {
	for _, n := range names {
		s[n].unwrap = func(context.Context) error {
			return keystore.NewError(keystore.Error{Class: c, Provider: n, Op: keystore.OpUnwrap, RequestID: keystore.RequestID("req-" + n)}, errors.New("as the test says"))
		}
	}
}

func (s stores) heal(names ...string) {
	for _, n := range names {
		s[n].unwrap = nil
	}
}

// hang makes keystores wait until they are given up; what they were asked under
// ended is counted.
func (s stores) hang(cancelled *atomic.Int64, names ...string) {
	for _, n := range names {
		s[n].unwrap = func(ctx context.Context) error {
			<-ctx.Done()
			if errors.Is(context.Cause(ctx), context.Canceled) {
				cancelled.Add(1)
			}
			return keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: n, Op: keystore.OpUnwrap}, ctx.Err())
		}
	}
}

// group makes a group; a name in capitals is a person.
func group(name string, threshold int, holders ...string) seal.Group {
	g := seal.Group{Name: name, Threshold: threshold}
	for _, h := range holders {
		one := seal.Holder{Name: strings.ToLower(h)}
		if h != strings.ToUpper(h) {
			one.Key = seal.ProviderKey{Provider: h, Key: "k"}
		}
		g.Holders = append(g.Holders, one)
	}
	return g
}

// mixed makes a seal of those groups; the shares are those of persons.
func mixed(t *testing.T, reg *keystore.Registry, groups ...seal.Group) made {
	t.Helper()
	r, mk, shares, err := seal.Create(t.Context(), rand.Reader, ceremony(t), seal.Plan{Kind: seal.KindInit, Groups: groups}, reg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range shares {
		shares[i] = shares[i].ForCluster(fingerprint)
	}
	return made{r, mk, shares}
}

func (m made) opens(t *testing.T, o *seal.Opening) {
	t.Helper()
	mk, ok := o.Take()
	defer mk.Destroy()
	if !ok || !same(t, mk, m.masterKey) {
		t.Fatalf("open %v, and it is the MasterKey or it is not", ok)
	}
}

func give(t *testing.T, o *seal.Opening, s seal.Share) seal.Progress {
	t.Helper()
	p, err := o.Contribute(again(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// states lists what came of every holder: "a gave, b denied".
func states(p seal.Progress) string {
	var out []string
	for _, h := range p.Holders {
		s := h.State.String()
		if h.Failure != nil {
			s = h.Failure.Class.String()
		}
		out = append(out, h.Name+" "+s)
	}
	return strings.Join(out, ", ")
}

func missing(t *testing.T, err error) *seal.MissingError {
	t.Helper()
	var m *seal.MissingError
	if !errors.As(err, &m) || !errs.Is(err, errs.Sealed) {
		t.Fatalf("%v, want that something is missing", err)
	}
	return m
}

func TestMKeystoresAreEnoughWhateverTheOthersDo(t *testing.T) {
	s, reg := newStores(t, "a", "b", "c", "hangs", "denied", "away")
	k := mixed(t, reg, group("", 3, "hangs", "a", "denied", "b", "away", "c"))
	defer k.done()
	synctest.Test(t, func(t *testing.T) {
		var cancelled atomic.Int64
		s.hang(&cancelled, "hangs")
		s.fail(keystore.Denied, "denied")
		s.fail(keystore.Unavailable, "away")
		o, err := seal.NewOpening(k.record, fingerprint, clock.System{}, seal.DefaultPatience)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Reset()
		begun := time.Now()
		if err := o.Ask(t.Context(), reg, time.Minute); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 0 || cancelled.Load() != 1 {
			t.Errorf("it took %s, and %d calls were cancelled", took, cancelled.Load())
		}
		if o.Waits() {
			t.Error("it would ask on")
		}
		k.opens(t, o)
	})
}

func TestKeystoresAreNamedWithWhatTheyDid(t *testing.T) {
	s, reg := newStores(t, "a", "hangs", "denied", "throttled", "swapped")
	k := mixed(t, reg, group("", 3, "a", "hangs", "denied", "throttled", "swapped", "ANNA"))
	defer k.done()
	synctest.Test(t, func(t *testing.T) {
		var cancelled atomic.Int64
		s.hang(&cancelled, "hangs")
		s.fail(keystore.Denied, "denied")
		s.fail(keystore.Throttled, "throttled")
		s["swapped"].swap = func() (memsec.Secret, error) { return memsec.Random(rand.Reader, 32, memsec.Hot) }
		o, err := seal.NewOpening(k.record, fingerprint, clock.System{}, seal.DefaultPatience)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Reset()
		const idle = "a idle, hangs idle, denied idle, throttled idle, swapped idle, anna awaited"
		if got := states(o.Progress()); got != idle {
			t.Errorf("before: %s", got)
		}
		begun := time.Now()
		m := missing(t, o.Ask(t.Context(), reg, 7*time.Second))
		if took := time.Since(begun); took != 7*time.Second || cancelled.Load() != 0 {
			t.Errorf("one that hangs was given %s, cancelled %d", took, cancelled.Load())
		}
		if got := states(m.Progress); got != "a gave, hangs unavailable, denied denied, throttled throttled, swapped corrupt, anna awaited" {
			t.Errorf("after: %s", got)
		}
		const enough = "2 more of: hangs (unavailable), denied (denied), throttled (throttled), swapped (corrupt), anna (person)"
		if m.Progress.Enough() != enough || !strings.Contains(m.Error(), enough) || !m.Transient() || m.Progress.Have != 1 || m.Progress.Need != 3 {
			t.Errorf("%q of %+v", m.Error(), m.Progress)
		}
		h := m.Progress.Holders[2]
		if h.Failure.RequestID != "req-denied" || h.Failure.ProviderKey != h.Key || !h.Since.Equal(begun) || !errors.Is(m, h.Failure.Err) {
			t.Errorf("%+v, failure %+v", h, h.Failure)
		}
		// The first failure in a row is when it began; another class does not end the row.
		time.Sleep(time.Minute)
		s.fail(keystore.Unavailable, "denied")
		m = missing(t, o.Ask(t.Context(), reg, time.Second))
		if h := m.Progress.Holders[2]; h.Failure.Class != keystore.Unavailable || !h.Since.Equal(begun) {
			t.Errorf("%+v, failure %+v", h, h.Failure)
		}
		if n := len(s["a"].seen); n != 3 { // twice when the seal was made
			t.Errorf("a keystore that gave its share was asked %d times", n)
		}
	})
}

// TestPeopleAndKeystoresCompleteEachOther in any order, also while a round is on
// its way.
func TestPeopleAndKeystoresCompleteEachOther(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	k := mixed(t, reg, group("", 3, "a", "b", "ANNA", "BERT"))
	defer k.done()
	before := memsec.Report().Secrets
	t.Run("a keystore comes back last", func(t *testing.T) {
		s.fail(keystore.Unavailable, "a", "b")
		o, _ := opening(t, k.record)
		defer o.Reset()
		missing(t, o.Ask(t.Context(), reg, time.Second))
		give(t, o, k.shares[0])
		if p := give(t, o, k.shares[1]); p.Complete() || p.Enough() != "1 more of: a (unavailable), b (unavailable)" {
			t.Errorf("%s", p.Enough())
		}
		s.heal("b")
		if err := o.Ask(t.Context(), reg, time.Second); err != nil {
			t.Fatal(err)
		}
		k.opens(t, o)
	})
	t.Run("a person comes last", func(t *testing.T) {
		s.heal("a", "b")
		o, _ := opening(t, k.record)
		defer o.Reset()
		m := missing(t, o.Ask(t.Context(), reg, time.Second))
		if len(m.Failures()) != 0 || m.Transient() || o.Waits() || m.Progress.Enough() != "1 more of: anna (person), bert (person)" {
			t.Errorf("%s, asks on: %v", m.Progress.Enough(), o.Waits())
		}
		if p := give(t, o, k.shares[1]); !p.Complete() {
			t.Errorf("%+v", p)
		}
		k.opens(t, o)
	})
	t.Run("a person comes while a keystore hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var cancelled atomic.Int64
			s.hang(&cancelled, "b")
			o, _ := opening(t, k.record)
			defer o.Reset()
			give(t, o, k.shares[0])
			done := make(chan error)
			go func() { done <- o.Ask(t.Context(), reg, time.Hour) }()
			synctest.Wait()
			if got := states(o.Progress()); got != "a gave, b asked, anna gave, bert awaited" {
				t.Errorf("during: %s", got)
			}
			give(t, o, k.shares[1])
			if err := <-done; err != nil || cancelled.Load() != 1 {
				t.Errorf("the round ended with %v, cancelled %d", err, cancelled.Load())
			}
			k.opens(t, o)
			s.heal("b")
		})
	})
	if n := memsec.Report().Secrets; n != before {
		t.Errorf("%d secrets are left", n-before)
	}
}

func TestSharesOfPeopleExpireAndThoseOfKeystoresStay(t *testing.T) {
	s, reg := newStores(t, "a")
	k := mixed(t, reg, group("", 3, "a", "ANNA", "BERT"))
	defer k.done()
	o, c := opening(t, k.record)
	defer o.Reset()
	missing(t, o.Ask(t.Context(), reg, time.Second))
	if !o.Progress().Expires.IsZero() {
		t.Error("the share of a keystore expires")
	}
	give(t, o, k.shares[0])
	c.Advance(seal.DefaultPatience)
	if !o.Expire() || states(o.Progress()) != "a gave, anna awaited, bert awaited" {
		t.Errorf("after the patience: %s", states(o.Progress()))
	}
	s.fail(keystore.Denied, "a") // it is not asked again
	give(t, o, k.shares[1])
	if p := give(t, o, k.shares[0]); !p.Complete() {
		t.Errorf("%s", states(p))
	}
	k.opens(t, o)

	// Forgetting is of what people gave, a reset of everything.
	s.heal("a")
	missing(t, o.Ask(t.Context(), reg, time.Second))
	give(t, o, k.shares[0])
	o.Forget()
	if states(o.Progress()) != "a gave, anna awaited, bert awaited" {
		t.Errorf("forgotten: %s", states(o.Progress()))
	}
	o.Reset()
	if states(o.Progress()) != "a idle, anna awaited, bert awaited" || !o.Waits() {
		t.Errorf("reset: %s", states(o.Progress()))
	}
}

// TestWhatIsAnsweredAfterAResetCountsForNothing: somebody sealed the node while
// its keystores were asked.
func TestWhatIsAnsweredAfterAResetCountsForNothing(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	for name, k := range map[string]made{
		"shares": mixed(t, reg, group("", 2, "a", "b")), "the MasterKey": autoOf(t, reg, "a", "b"),
	} {
		t.Run(name, func(t *testing.T) {
			defer k.done()
			before := memsec.Report().Secrets
			synctest.Test(t, func(t *testing.T) {
				proceed := make(chan struct{})
				for _, p := range s {
					p.unwrap = func(context.Context) error { <-proceed; return nil } // does not look at its context
				}
				o, _ := opening(t, k.record)
				done := make(chan error)
				go func() { done <- o.Ask(t.Context(), reg, time.Hour) }()
				synctest.Wait()
				o.Reset()
				close(proceed)
				m := missing(t, <-done)
				if _, open := o.Take(); open || m.Progress.Have != 0 || len(o.Given()) != 0 || len(m.Failures()) != 0 {
					t.Errorf("open %v, %s", open, states(m.Progress))
				}
				s.heal("a", "b")
			})
			if n := memsec.Report().Secrets; n != before {
				t.Errorf("%d secrets are left", n-before)
			}
		})
	}
}

// TestACallThatIsNotWaitedForIsNoFailure of the keystore: the node stops, or its
// caller went away.
func TestACallThatIsNotWaitedForIsNoFailure(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	k := mixed(t, reg, group("", 2, "a", "b"))
	defer k.done()
	synctest.Test(t, func(t *testing.T) {
		var cancelled atomic.Int64
		s.hang(&cancelled, "a")
		o, _ := opening(t, k.record)
		defer o.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.Ask(ctx, reg, time.Hour) }()
		synctest.Wait()
		cancel()
		m := missing(t, <-done)
		if got := states(m.Progress); got != "a idle, b gave" || len(m.Failures()) != 0 || cancelled.Load() != 1 {
			t.Errorf("%s, cancelled %d", got, cancelled.Load())
		}
	})
}

func TestEveryGroupHasToReachItsOwn(t *testing.T) {
	s, reg := newStores(t, "a", "b", "c")
	k := mixed(t, reg, group("machines", 2, "a", "b", "c"), group("board", 2, "ANNA", "BERT", "CARL"))
	defer k.done()
	if k.record.PersonsNeeded() != 2 {
		t.Errorf("%d persons", k.record.PersonsNeeded())
	}
	o, _ := opening(t, k.record)
	defer o.Reset()
	if got := o.Progress().Enough(); got != "group machines: 2 of: a (idle), b (idle), c (idle); group board: 2 of: anna (person), bert (person), carl (person)" {
		t.Errorf("%s", got)
	}
	s.fail(keystore.Denied, "c")
	m := missing(t, o.Ask(t.Context(), reg, time.Second))
	if got := m.Progress.Enough(); got != "group board: 2 of: anna (person), bert (person), carl (person)" || o.Waits() {
		t.Errorf("%s, asks on: %v", got, o.Waits())
	}
	give(t, o, k.shares[0])
	if p := give(t, o, k.shares[2]); !p.Complete() {
		t.Errorf("%s", p.Enough())
	}
	k.opens(t, o)

	// Three of one group are no more than its two.
	s.fail(keystore.Unavailable, "a", "b", "c")
	missing(t, o.Ask(t.Context(), reg, time.Second))
	give(t, o, k.shares[0])
	give(t, o, k.shares[1])
	if _, err := o.Contribute(again(t, k.shares[2])); !errors.Is(err, seal.ErrShareSurplus) || !errs.Is(err, errs.ShareRefused) || !strings.Contains(err.Error(), "group board has the 2 shares") {
		t.Errorf("a share too many: %v", err)
	}
	p := o.Progress()
	if want := []seal.GroupProgress{{Name: "machines", Need: 2, Shares: 3}, {Name: "board", Have: 2, Need: 2, Shares: 3, People: 2}}; fmt.Sprint(p.Groups) != fmt.Sprint(want) || p.Have != 2 || p.Need != 4 {
		t.Errorf("%+v", p)
	}
}

// TestI3_AShareOfAKeystoreCountsOnlyIfItIsTheRightOne: what another holder's
// keystore would give does not open in this one's place.
func TestI3_AShareOfAKeystoreCountsOnlyIfItIsTheRightOne(t *testing.T) {
	_, reg := newStores(t, "a", "b", "c")
	k := mixed(t, reg, group("", 3, "a", "b", "c"))
	defer k.done()
	pb := k.record.Proto()
	// The shard of b in the place of a's, with what the record then needs.
	pb.GetShards()[0].EncryptedShard = pb.GetShards()[1].GetEncryptedShard()
	pb.GetManifest().GetHolders()[0].EncryptedShardHash = pb.GetManifest().GetHolders()[1].GetEncryptedShardHash()
	pb.GetManifest().GetHolders()[0].ProviderKey.Provider = "b"
	o, _ := opening(t, reparse(t, pb))
	defer o.Reset()
	m := missing(t, o.Ask(t.Context(), reg, time.Second))
	if got := m.Progress.Enough(); got != "1 more of: a (corrupt)" || m.Transient() {
		t.Errorf("%s", got)
	}
	// And a share that is none of this seal's, under the right binding.
	pb = k.record.Proto()
	pb.GetManifest().GetHolders()[2].ShareHash[0] ^= 1
	wrong, _ := opening(t, reparse(t, pb))
	defer wrong.Reset()
	m = missing(t, wrong.Ask(t.Context(), reg, time.Second))
	if f := m.Failures(); len(f) != 1 || f[0].Provider != "c" || f[0].Class != keystore.Corrupt || !errors.Is(f[0].Err, seal.ErrShareWrong) {
		t.Errorf("%+v", f)
	}
}

// TestWhoeverIsLastTheMasterKeyIsTakenOnce has people and rounds at once.
func TestWhoeverIsLastTheMasterKeyIsTakenOnce(t *testing.T) {
	_, reg := newStores(t, "a", "b")
	k := mixed(t, reg, group("", 2, "a", "b", "ANNA", "BERT"))
	defer k.done()
	for range 30 {
		o, _ := opening(t, k.record)
		var taken atomic.Int64
		var wg sync.WaitGroup
		take := func() {
			if mk, ok := o.Take(); ok {
				taken.Add(1)
				if !same(t, mk, k.masterKey) {
					t.Error("another key")
				}
				mk.Destroy()
			}
		}
		for _, s := range k.shares {
			wg.Go(func() {
				if p, err := o.Contribute(again(t, s)); err == nil && p.Complete() {
					take()
				}
			})
		}
		wg.Go(func() {
			if err := o.Ask(t.Context(), reg, time.Minute); err == nil {
				take()
			}
		})
		wg.Wait()
		take()
		if n := taken.Load(); n < 1 || n > 2 { // two when all four gave: two make one, the other two another
			t.Fatalf("taken %d times", n)
		}
		o.Reset()
	}
}

// TestASentenceNamesNotEverybody of a seal with many holders.
func TestASentenceNamesNotEverybody(t *testing.T) {
	k := shamirOf(t, ceremony(t), 40, 2)
	defer k.done()
	o, _ := opening(t, k.record)
	if got := o.Progress().Enough(); !strings.HasSuffix(got, "person 12 (person), 28 others") || !strings.HasPrefix(got, "2 of: person 1 (person), ") {
		t.Errorf("%s", got)
	}
}

// TestOpeningFollowsItsModel has random histories of what keystores do, of people,
// time and resets, beside a model that knows only who gave.
func TestOpeningFollowsItsModel(t *testing.T) {
	names := []string{"a", "b", "c"}
	s, reg := newStores(t, names...)
	k := mixed(t, reg, group("", 4, "a", "b", "c", "ANNA", "BERT", "CARL"))
	defer k.done()
	rapid.Check(t, func(rt *rapid.T) {
		s.heal(names...)
		o, c := opening(rt, k.record)
		defer o.Reset()
		gave := map[string]bool{} // keystores
		people := map[int]bool{}
		var first time.Time
		up := map[string]bool{"a": true, "b": true, "c": true}
		drop := func() { people, first = map[int]bool{}, time.Time{} }
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"ask", "ask", "give", "give", "give", "fail", "heal", "wait", "reset", "forget"}).Draw(rt, "step") {
			case "fail":
				n := rapid.SampledFrom(names).Draw(rt, "name")
				s.fail(rapid.SampledFrom([]keystore.Class{keystore.Denied, keystore.Unavailable}).Draw(rt, "class"), n)
				up[n] = false
			case "heal":
				n := rapid.SampledFrom(names).Draw(rt, "name")
				s.heal(n)
				up[n] = true
			case "wait":
				c.Advance(time.Duration(rapid.IntRange(1, 10).Draw(rt, "minutes")) * time.Minute)
			case "reset":
				o.Reset()
				gave = map[string]bool{}
				drop()
			case "forget":
				o.Forget()
				drop()
			case "give":
				i := rapid.IntRange(0, 2).Draw(rt, "person")
				if !first.IsZero() && c.Now().Sub(first) >= seal.DefaultPatience {
					drop()
				}
				_, err := o.Contribute(again(rt, k.shares[i]))
				if (err == nil) == people[i] {
					rt.Fatalf("share %d was given %v, and again: %v", i, people[i], err)
				}
				people[i] = true
				if first.IsZero() {
					first = c.Now()
				}
			case "ask":
				// Expired shares count until somebody looks; the owner looks from a timer.
				if o.Expire() != (!first.IsZero() && c.Now().Sub(first) >= seal.DefaultPatience) {
					rt.Fatalf("expired or not")
				}
				if !first.IsZero() && c.Now().Sub(first) >= seal.DefaultPatience {
					drop()
				}
				err := o.Ask(context.Background(), reg, time.Minute)
				for _, n := range names {
					if len(gave)+len(people) < 4 && up[n] {
						gave[n] = true
					}
				}
				if (err == nil) != (len(gave)+len(people) >= 4) {
					rt.Fatalf("%v with %v and %v", err, gave, people)
				}
			}
			if len(gave)+len(people) >= 4 {
				mk, ok := o.Take()
				if !ok || !same(rt, mk, k.masterKey) {
					rt.Fatalf("not open with %v and %v", gave, people)
				}
				mk.Destroy()
				gave = map[string]bool{}
				drop()
			} else if mk, ok := o.Take(); ok {
				mk.Destroy()
				rt.Fatalf("open with %v and %v", gave, people)
			}
			if p := o.Progress(); p.Have != len(gave)+len(people) {
				rt.Fatalf("%d shares, want %v and %v", p.Have, gave, people)
			}
		}
	})
}

// TestI17_AClosedOpeningKeepsNothing, whatever comes to it afterwards or was on its way: the
// secrets that live in the process are counted.
func TestI17_AClosedOpeningKeepsNothing(t *testing.T) {
	s, reg := newStores(t, "a", "b")
	for name, k := range map[string]made{
		"shares": mixed(t, reg, group("", 3, "a", "b", "ANNA")), "the MasterKey": autoOf(t, reg, "a", "b"),
	} {
		t.Run(name, func(t *testing.T) {
			defer k.done()
			closed := func(err error) {
				t.Helper()
				if !errors.Is(err, seal.ErrClosed) || !errs.Is(err, errs.Aborted) {
					t.Errorf("%v", err)
				}
			}
			before := memsec.Report().Secrets
			for _, after := range []string{"nothing", "a round", "two rounds"} {
				o, _ := opening(t, k.record)
				if after != "nothing" {
					_ = o.Ask(t.Context(), reg, time.Second)
				}
				asked := len(s["a"].seen) + len(s["b"].seen)
				o.Close()
				closed(o.Ask(t.Context(), reg, time.Second))
				o.Close()
				if n := len(s["a"].seen) + len(s["b"].seen); n != asked || o.Waits() {
					t.Errorf("after %s and the end: %d questions, waits %v", after, n-asked, o.Waits())
				}
				if _, open := o.Take(); open || len(o.Given()) != 0 {
					t.Errorf("after %s and the end it has something", after)
				}
				for _, sh := range k.shares {
					_, err := o.Contribute(again(t, sh))
					closed(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				proceed := make(chan struct{})
				for _, p := range s {
					p.unwrap = func(context.Context) error { <-proceed; return nil }
				}
				o, _ := opening(t, k.record)
				done := make(chan error)
				go func() { done <- o.Ask(t.Context(), reg, time.Hour) }()
				synctest.Wait()
				o.Close()
				close(proceed)
				closed(<-done)
				s.heal("a", "b")
			})
			if n := memsec.Report().Secrets; n != before {
				t.Errorf("%d secrets are left", n-before)
			}
		})
	}
}
