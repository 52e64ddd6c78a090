package seal_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

var (
	fingerprint = seal.Fingerprint(bytes.Repeat([]byte{0xF1}, 32))
	otherPrint  = seal.Fingerprint(bytes.Repeat([]byte{0xF2}, 32))
	start       = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
)

// TestMain fails the run when a test left a secret in protected memory: every
// path, also every refusal, has to destroy what it took over.
func TestMain(m *testing.M) {
	code := m.Run()
	if n := memsec.Report().Secrets; n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d secrets are left in protected memory\n", n)
		code = 1
	}
	os.Exit(code)
}

// tb is what *testing.T and *rapid.T share.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func ceremony(t tb) seal.Ceremony {
	t.Helper()
	k, err1 := hierarchy.NewKeyspaceID(rand.Reader)
	c, err2 := hierarchy.NewClusterID(rand.Reader)
	id, err3 := hierarchy.NewUID(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return seal.Ceremony{Keyspace: k, Cluster: c, ID: id, Generation: 1, Time: start}
}

// printed is a plan of n persons whose shares are printed, m of whom it takes.
func printed(m, n int) seal.Plan {
	g := seal.Group{Threshold: m}
	for i := range n {
		g.Holders = append(g.Holders, seal.Holder{Name: fmt.Sprintf("person %d", i+1)})
	}
	return seal.Plan{Groups: []seal.Group{g}}
}

// named is [printed] for people of those names, two of whom it takes.
func named(names ...string) seal.Plan {
	g := seal.Group{Threshold: 2}
	for _, n := range names {
		g.Holders = append(g.Holders, seal.Holder{Name: n})
	}
	return seal.Plan{Groups: []seal.Group{g}}
}

func with(p seal.Plan, change func(*seal.Plan)) seal.Plan {
	change(&p)
	return p
}

// made is a created seal; done destroys what is in memory.
type made struct {
	record    seal.Record
	masterKey memsec.Secret
	shares    []seal.Share
}

func (m made) done() {
	m.masterKey.Destroy()
	for _, s := range m.shares {
		s.Destroy()
	}
}

func shamirOf(t tb, c seal.Ceremony, n, m int) made {
	t.Helper()
	r, mk, shares, err := seal.Create(context.Background(), rand.Reader, c, printed(m, n), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range shares {
		shares[i] = shares[i].ForCluster(fingerprint)
	}
	return made{r, mk, shares}
}

// again makes a second copy of a share, as its holder's paper would: an
// opening takes over what it is given.
func again(t tb, s seal.Share) seal.Share {
	t.Helper()
	out, err := seal.ParseShare(text(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func text(t tb, s seal.Share) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func opening(t tb, r seal.Record) (*seal.Opening, *clock.Fake) {
	t.Helper()
	c := clock.NewFake(start)
	u, err := seal.NewOpening(r, fingerprint, c, seal.DefaultPatience)
	if err != nil {
		t.Fatal(err)
	}
	return u, c
}

func same(t tb, a, b memsec.Secret) bool {
	t.Helper()
	eq, err := memsec.Equal(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return eq
}

func TestI4_AnyMOfNOpensAndFewerDoNot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 9).Draw(t, "n")
		m := rapid.IntRange(2, n).Draw(t, "m")
		k := shamirOf(t, ceremony(t), n, m)
		defer k.done()
		order := rapid.Permutation(k.shares).Draw(t, "order")
		u, _ := opening(t, k.record)
		defer u.Reset()
		for i, s := range order[:m] {
			if _, open := u.Take(); open {
				t.Fatalf("open with %d of %d needed shares", i, m)
			}
			p, err := u.Contribute(again(t, s))
			if err != nil {
				t.Fatal(err)
			}
			if p.Have != i+1 || p.Need != m || p.Complete() != (i+1 == m) {
				t.Fatalf("after share %d of %d: %+v", i+1, m, p)
			}
		}
		mk, open := u.Take()
		if !open {
			t.Fatalf("not open with %d of %d needed shares", m, m)
		}
		defer mk.Destroy()
		if !same(t, mk, k.masterKey) {
			t.Fatal("another key came out")
		}
	})
}

func TestTheLargestNumberOfSharesWorks(t *testing.T) {
	for _, m := range []int{2, seal.MaxShares} {
		k := shamirOf(t, ceremony(t), seal.MaxShares, m)
		u, _ := opening(t, k.record)
		for _, s := range k.shares[seal.MaxShares-m:] {
			if _, err := u.Contribute(again(t, s)); err != nil {
				t.Fatal(err)
			}
		}
		if !u.Progress().Complete() {
			t.Errorf("%d of 255: %+v", m, u.Progress())
		}
		u.Reset()
		k.done()
	}
}

func TestPlansThatCannotWorkAreRefused(t *testing.T) {
	key := seal.ProviderKey{Provider: "a", Key: "k"}
	for name, c := range map[string]struct {
		plan   seal.Plan
		change func(*seal.Ceremony)
		text   string
	}{
		"nobody":              {plan: seal.Plan{}, text: "either holders of shares and a threshold, or keystores"},
		"both":                {plan: with(printed(2, 3), func(p *seal.Plan) { p.ProviderKeys = []seal.ProviderKey{key} }), text: "either"},
		"M = 0":               {plan: printed(0, 3), text: "threshold 0"},
		"M = 1 of 3":          {plan: printed(1, 3), text: "threshold 1"},
		"M = 1 of 1":          {plan: printed(1, 1), text: "threshold 1"},
		"M < 0":               {plan: printed(-1, 3), text: "threshold -1"},
		"M > N":               {plan: printed(4, 3), text: "never be reached"},
		"N = 256":             {plan: printed(2, 256), text: "256 shares"},
		"person without name": {plan: named("a", ""), text: "name of a holder"},
		"person with a novel": {plan: named("a", strings.Repeat("b", seal.MaxName+1)), text: "name of a holder"},
		"intents":             {plan: with(printed(2, 2), func(p *seal.Plan) { p.Intents = make([][]byte, seal.MaxIntents+1) }), text: "signed intents"},
		"empty intent":        {plan: with(printed(2, 2), func(p *seal.Plan) { p.Intents = [][]byte{{}} }), text: "signed intent of 0"},
		"no keyspace":         {plan: printed(2, 2), change: func(c *seal.Ceremony) { c.Keyspace = hierarchy.KeyspaceID{} }, text: "no keyspace id"},
		"no cluster":          {plan: printed(2, 2), change: func(c *seal.Ceremony) { c.Cluster = hierarchy.ClusterID{} }, text: "cluster id"},
		"no ceremony":         {plan: printed(2, 2), change: func(c *seal.Ceremony) { c.ID = hierarchy.UID{} }, text: "or id"},
		"generation 0":        {plan: printed(2, 2), change: func(c *seal.Ceremony) { c.Generation = 0 }, text: "generation 0"},
		"generation 2^32":     {plan: printed(2, 2), change: func(c *seal.Ceremony) { c.Generation = 1 << 32 }, text: "generation 4294967296"},
	} {
		t.Run(name, func(t *testing.T) {
			cer := ceremony(t)
			if c.change != nil {
				c.change(&cer)
			}
			r, mk, shares, err := seal.Create(t.Context(), rand.Reader, cer, c.plan, nil)
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %q", err, c.text)
			}
			if !r.IsZero() || !mk.IsZero() || shares != nil {
				t.Error("something was returned beside the error")
			}
		})
	}
}

func TestCreateWithoutRandomnessFails(t *testing.T) {
	_, mk, _, err := seal.Create(t.Context(), bytes.NewReader(make([]byte, 31)), ceremony(t), printed(2, 2), nil)
	if err == nil || !mk.IsZero() {
		t.Errorf("%v", err)
	}
}

func TestTheRecordKeepsNothingOfThePlansMemory(t *testing.T) {
	intent := []byte("signed")
	r, mk, shares, err := seal.Create(t.Context(), rand.Reader, ceremony(t), with(printed(2, 2), func(p *seal.Plan) { p.Intents = [][]byte{intent} }), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer made{r, mk, shares}.done()
	before := r.Digest()
	intent[0] ^= 1
	r.Proto().GetManifest().GetKeyspaceId()[0] ^= 1
	if r.Digest() != before {
		t.Error("the record changed")
	}
}

// TestI3_EveryRefusalHasItsName also checks that a refusal changes nothing:
// after all of them the right shares still open it.
func TestI3_EveryRefusalHasItsName(t *testing.T) {
	cer := ceremony(t)
	k := shamirOf(t, cer, 3, 2)
	defer k.done()
	variant := func(change func(*seal.Ceremony), n int) seal.Share {
		t.Helper()
		c := cer
		change(&c)
		o := shamirOf(t, c, max(n, 3), 2)
		defer o.done()
		return again(t, o.shares[n-1])
	}
	u, _ := opening(t, k.record)
	defer u.Reset()
	if _, err := u.Contribute(again(t, k.shares[1])); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		share seal.Share
		want  error
	}{
		"wrong: of another split": {variant(func(*seal.Ceremony) {}, 1), seal.ErrShareWrong},
		"duplicate":               {again(t, k.shares[1]), seal.ErrShareDuplicate},
		"number given, forged":    {variant(func(*seal.Ceremony) {}, 2), seal.ErrShareWrong},
		"foreign keyspace":        {variant(func(c *seal.Ceremony) { c.Keyspace[0] ^= 1 }, 1), seal.ErrShareKeyspace},
		"other ceremony":          {variant(func(c *seal.Ceremony) { c.ID[0] ^= 1 }, 1), seal.ErrShareCeremony},
		"other generation":        {variant(func(c *seal.Ceremony) { c.Generation++ }, 1), seal.ErrShareGeneration},
		"other cluster":           {again(t, k.shares[0]).ForCluster(otherPrint), seal.ErrShareCluster},
		"number out of range":     {variant(func(*seal.Ceremony) {}, 4), seal.ErrShareIndex},
		"no share at all":         {seal.Share{}, seal.ErrShareKeyspace},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := u.Contribute(c.share)
			if !errors.Is(err, c.want) || !errs.Is(err, errs.ShareRefused) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if p.Have != 1 || !slices.Equal(u.Given(), []int{2}) {
				t.Errorf("progress %+v, given %v", p, u.Given())
			}
		})
	}
	if _, err := u.Contribute(again(t, k.shares[0])); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Contribute(again(t, k.shares[2])); !errors.Is(err, seal.ErrComplete) || !errs.Is(err, errs.NotSealed) {
		t.Errorf("a share after the last: %v", err)
	}
	mk, open := u.Take()
	if !open || !same(t, mk, k.masterKey) {
		t.Error("it does not open after refusals")
	}
	mk.Destroy()
	if _, open := u.Take(); open {
		t.Error("the MasterKey was given twice")
	}
}

func TestI2_WhatDoesNotMatchTheCommitmentIsNotUsed(t *testing.T) {
	k := shamirOf(t, ceremony(t), 3, 2)
	defer k.done()
	pb := k.record.Proto()
	pb.GetManifest().GetMasterKeyCommitment()[0] ^= 1
	u, _ := opening(t, reparse(t, pb))
	defer u.Reset()
	if _, err := u.Contribute(again(t, k.shares[0])); err != nil {
		t.Fatal(err)
	}
	p, err := u.Contribute(again(t, k.shares[1]))
	if !errors.Is(err, seal.ErrCommitment) || !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("got %v", err)
	}
	if _, open := u.Take(); open || p.Have != 0 || p.Complete() || len(u.Given()) != 0 {
		t.Errorf("after the failure: open %v, %+v", open, p)
	}
}

func TestSharesWaitForEachOtherOnlySoLong(t *testing.T) {
	k := shamirOf(t, ceremony(t), 3, 3)
	defer k.done()
	u, c := opening(t, k.record)
	defer u.Reset()
	give := func(i, have int) {
		t.Helper()
		p, err := u.Contribute(again(t, k.shares[i]))
		if err != nil || p.Have != have {
			t.Fatalf("share %d: %+v, %v; want %d", i+1, p, err, have)
		}
	}
	give(0, 1)
	if want := start.Add(seal.DefaultPatience); !u.Progress().Expires.Equal(want) {
		t.Errorf("expires %v, want %v", u.Progress().Expires, want)
	}
	c.Advance(seal.DefaultPatience - 1)
	give(1, 2) // the second share does not prolong the first one's time
	if u.Expire() {
		t.Error("expired too early")
	}
	c.Advance(1)
	if !u.Expire() || u.Progress().Have != 0 || !u.Progress().Expires.IsZero() {
		t.Errorf("did not expire: %+v", u.Progress())
	}
	if u.Expire() {
		t.Error("nothing expired twice")
	}
	give(1, 1)
	c.Advance(seal.DefaultPatience)
	give(2, 1) // contribute drops the old ones by itself
	give(0, 2)
	give(1, 3)
	if !u.Progress().Complete() || !u.Progress().Expires.IsZero() {
		t.Errorf("%+v", u.Progress())
	}
	c.Advance(seal.DefaultPatience)
	if u.Expire() || !u.Progress().Complete() {
		t.Error("an open MasterKey expired")
	}
}

func TestResetForgetsEverything(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	u, _ := opening(t, k.record)
	for i := range 2 {
		for _, s := range k.shares[:i+1] {
			if _, err := u.Contribute(again(t, s)); err != nil {
				t.Fatal(err)
			}
		}
		u.Reset()
		if _, open := u.Take(); open || u.Progress().Have != 0 {
			t.Errorf("after reset: %+v", u.Progress())
		}
	}
}

func TestAnOpeningNeedsARecordAndPatience(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	if _, err := seal.NewOpening(seal.Record{}, fingerprint, clock.System{}, time.Hour); !errors.Is(err, seal.ErrNoRecord) {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := seal.Open(t.Context(), seal.Record{}, nil, clock.System{}, time.Hour); !errors.Is(err, seal.ErrNoRecord) {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := seal.NewOpening(k.record, fingerprint, clock.System{}, 0); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("no patience: %v", err)
	}
}

func TestWhatARecordTells(t *testing.T) {
	cer := ceremony(t)
	cer.Generation = 7
	k := shamirOf(t, cer, 5, 3)
	defer k.done()
	r := k.record
	if r.Keyspace() != cer.Keyspace || r.Cluster() != cer.Cluster || r.Ceremony() != cer.ID || r.Generation() != 7 ||
		r.Mode() != seal.ModeShamir || r.Threshold() != 3 || r.Shares() != 5 || r.PersonsNeeded() != 3 {
		t.Errorf("%v", r.Proto())
	}
	for i, s := range k.shares {
		if s.Index() != i+1 || s.Keyspace() != cer.Keyspace || s.Ceremony() != cer.ID || s.Generation() != 7 || !s.IsFor(fingerprint) || s.IsFor(otherPrint) {
			t.Errorf("share %d: %v", i+1, s)
		}
	}
}

func TestI1_NothingFormatsAShare(t *testing.T) {
	k := shamirOf(t, ceremony(t), 2, 2)
	defer k.done()
	words := strings.FieldsFunc(string(text(t, k.shares[0])), func(r rune) bool { return r == '-' || r == '\n' })
	tail := words[len(words)-6 : len(words)-1] // groups of the share proper
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).InfoContext(t.Context(), "x", slog.Any("share", k.shares[0]), slog.Any("master", k.masterKey))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		fmt.Fprintf(&log, verb, k.shares[0])
		fmt.Fprintf(&log, verb, struct{ s seal.Share }{k.shares[0]})
	}
	for _, w := range tail {
		if strings.Contains(log.String(), w) {
			t.Errorf("%q stands in %s", w, log.String())
		}
	}
}
