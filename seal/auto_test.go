package seal_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// prov is a keystore in memory whose behaviour each test sets.
type prov struct {
	mu      sync.Mutex // of what is noted: two holders may have one keystore
	key     memsec.AEAD
	wrapped []memsec.Secret // what it was shown
	seen    []corr.ID
	asked   int // how often to unwrap

	wrap   func() error
	unwrap func(context.Context) error
	swap   func() (memsec.Secret, error) // what Unwrap returns instead
	wraps  func(context.Context) error   // before it wraps
}

func newProv(t *testing.T) *prov {
	t.Helper()
	k, err := memsec.Random(rand.Reader, 32, memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Destroy()
	a, err := memsec.NewAEAD(k)
	if err != nil {
		t.Fatal(err)
	}
	p := &prov{key: a}
	t.Cleanup(func() {
		a.Destroy()
		for _, s := range p.wrapped {
			s.Destroy()
		}
	})
	return p
}

var zeroNonce = make([]byte, memsec.NonceSize)

func (p *prov) Wrap(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
	if err := r.Check("p"); err != nil {
		return keystore.WrapResult{}, err
	}
	p.mu.Lock()
	p.seen = append(p.seen, r.Correlation)
	p.mu.Unlock()
	if p.wraps != nil {
		if err := p.wraps(ctx); err != nil {
			return keystore.WrapResult{}, err
		}
	}
	if p.wrap != nil {
		if err := p.wrap(); err != nil {
			return keystore.WrapResult{}, err
		}
	}
	s, err := memsec.Copy(r.Secret, memsec.Hot)
	if err != nil {
		return keystore.WrapResult{}, err
	}
	p.mu.Lock()
	p.wrapped = append(p.wrapped, s)
	p.mu.Unlock()
	b, err := p.key.SealSecret(nil, zeroNonce, r.Secret, r.AAD)
	return keystore.WrapResult{Blob: b, KeyVersion: "v1", RequestID: "r"}, err
}

func (p *prov) Unwrap(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	p.mu.Lock()
	p.asked++
	p.seen = append(p.seen, r.Correlation)
	p.mu.Unlock()
	if err := r.Check("p"); err != nil {
		return keystore.UnwrapResult{}, err
	}
	if p.unwrap != nil {
		if err := p.unwrap(ctx); err != nil {
			return keystore.UnwrapResult{}, err
		}
	}
	if p.swap != nil {
		s, err := p.swap()
		return keystore.UnwrapResult{Secret: s}, err
	}
	s, err := p.key.OpenSecret(zeroNonce, r.Blob, r.AAD, r.Class)
	if err != nil {
		return keystore.UnwrapResult{}, failed(keystore.Corrupt)
	}
	return keystore.UnwrapResult{Secret: s, RequestID: "r"}, nil
}

func (p *prov) Describe(context.Context, keystore.DescribeRequest) (keystore.Description, error) {
	return keystore.Description{}, nil
}
func (p *prov) Health(context.Context, corr.ID) error { return nil }
func (p *prov) Close() error                          { return nil }

func failed(c keystore.Class) error {
	return keystore.NewError(keystore.Error{Class: c, Provider: "p", Op: keystore.OpUnwrap}, errors.New("as the test says"))
}

// registry has the named provs.
func registry(t *testing.T, provs map[string]*prov) *keystore.Registry {
	t.Helper()
	var configs []keystore.Config
	for name := range provs {
		configs = append(configs, keystore.Config{Name: name, Type: "prov"})
	}
	r, err := keystore.Open(t.Context(), keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}, configs,
		keystore.Constructors{"prov": func(_ context.Context, _ keystore.Env, c keystore.Config) (keystore.Provider, error) {
			return provs[c.Name], nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func autoOf(t *testing.T, r *keystore.Registry, names ...string) made {
	t.Helper()
	var plan seal.Plan
	for _, n := range names {
		plan.ProviderKeys = append(plan.ProviderKeys, seal.ProviderKey{Provider: n, Key: "k"})
	}
	rec, mk, shares, err := seal.Create(t.Context(), rand.Reader, ceremony(t), plan, r)
	if err != nil {
		t.Fatal(err)
	}
	if shares != nil {
		t.Fatal("shares in auto mode")
	}
	return made{rec, mk, nil}
}

// wait is what each keystore gets.
const wait = time.Minute

// open opens a record through its keystores alone.
func open(ctx context.Context, r seal.Record, reg *keystore.Registry) (memsec.Secret, error) {
	return seal.Open(ctx, r, reg, clock.System{}, wait)
}

func TestAnyOneKeystoreOpens(t *testing.T) {
	provs := map[string]*prov{"a": newProv(t), "b": newProv(t), "c": newProv(t)}
	reg := registry(t, provs)
	k := autoOf(t, reg, "a", "b", "c")
	defer k.done()
	if k.record.Mode() != seal.ModeAuto || k.record.PersonsNeeded() != 0 || k.record.Shares() != 0 {
		t.Errorf("%s, %d persons", k.record.Mode(), k.record.PersonsNeeded())
	}
	for only := range provs {
		t.Run("only "+only, func(t *testing.T) {
			for name, p := range provs {
				p.unwrap = nil
				if name != only {
					p.unwrap = func(context.Context) error { return failed(keystore.Denied) }
				}
			}
			o, _ := opening(t, k.record)
			defer o.Reset()
			if err := o.Ask(t.Context(), reg, wait); err != nil {
				t.Fatal(err)
			}
			mk, ok := o.Take()
			defer mk.Destroy()
			if !ok || !same(t, mk, k.masterKey) || mk.Class() != memsec.Cold {
				t.Errorf("opened: %v, class %s", ok, mk.Class())
			}
			for _, h := range o.Progress().Holders {
				if (h.State == seal.HolderGave) != (h.Key.Provider == only) || h.Failure != nil && h.Failure.Class != keystore.Denied {
					t.Errorf("%+v", h)
				}
			}
		})
	}
}

func TestTheFirstKeystoreWinsAndTheOthersAreCancelled(t *testing.T) {
	slow := newProv(t)
	reg := registry(t, map[string]*prov{"fast": newProv(t), "slow": slow})
	k := autoOf(t, reg, "slow", "fast")
	defer k.done()
	synctest.Test(t, func(t *testing.T) {
		cancelled := false
		slow.unwrap = func(ctx context.Context) error {
			<-ctx.Done()
			cancelled = true
			return keystore.NewError(keystore.Error{Class: keystore.Unavailable}, ctx.Err())
		}
		o, _ := opening(t, k.record)
		defer o.Reset()
		if err := o.Ask(t.Context(), reg, wait); err != nil {
			t.Fatal(err)
		}
		p := o.Progress()
		if !p.Complete() || !cancelled || p.Holders[0].State != seal.HolderIdle || p.Holders[1].State != seal.HolderGave {
			t.Errorf("slow cancelled %v: %+v", cancelled, p)
		}
	})
}

func TestTwoWinnersLeaveOneMasterKey(t *testing.T) {
	a, b := newProv(t), newProv(t)
	reg := registry(t, map[string]*prov{"a": a, "b": b})
	k := autoOf(t, reg, "a", "b")
	defer k.done()
	before := memsec.Report().Secrets
	synctest.Test(t, func(t *testing.T) {
		// Both wait for the other, so that both succeed after both were asked.
		arrive := make(chan struct{}, 2)
		meet := func(context.Context) error {
			arrive <- struct{}{}
			synctest.Wait()
			return nil
		}
		a.unwrap = meet
		b.unwrap = func(context.Context) error { arrive <- struct{}{}; return nil }
		mk, err := open(t.Context(), k.record, reg)
		if err != nil {
			t.Fatal(err)
		}
		if n := memsec.Report().Secrets; n != before+1 {
			t.Errorf("%d secrets were left, want 1", n-before)
		}
		mk.Destroy()
	})
}

func TestEveryFailureIsNamed(t *testing.T) {
	provs := map[string]*prov{"denied": newProv(t), "away": newProv(t), "swapped": newProv(t), "short": newProv(t), "gone": newProv(t)}
	reg := registry(t, provs)
	k := autoOf(t, reg, "away", "denied", "gone", "short", "swapped")
	defer k.done()
	provs["denied"].unwrap = func(context.Context) error { return failed(keystore.Denied) }
	provs["away"].unwrap = func(context.Context) error { return failed(keystore.Unavailable) }
	provs["swapped"].swap = func() (memsec.Secret, error) { return memsec.Random(rand.Reader, 32, memsec.Hot) }
	provs["short"].swap = func() (memsec.Secret, error) { return memsec.Random(rand.Reader, 16, memsec.Hot) }
	delete(provs, "gone")
	reg = registry(t, provs)
	_, err := open(t.Context(), k.record, reg)
	var ae *seal.MissingError
	if !errors.As(err, &ae) || !errs.Is(err, errs.Sealed) || !ae.Transient() {
		t.Fatalf("%v", err)
	}
	got := make(map[string]keystore.Class)
	for _, f := range ae.Failures() {
		got[f.Provider] = f.Class
		if !strings.Contains(err.Error(), f.Provider+` key "k" (`+f.Class.String()+")") {
			t.Errorf("%s is not named: %v", f.Provider, err)
		}
	}
	want := map[string]keystore.Class{
		"denied": keystore.Denied, "away": keystore.Unavailable, "swapped": keystore.Corrupt, "short": keystore.Corrupt, "gone": keystore.Misconfigured,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	provs["away"].unwrap = func(context.Context) error { return failed(keystore.Denied) }
	if _, err := open(t.Context(), k.record, reg); !errors.As(err, &ae) || ae.Transient() {
		t.Errorf("nothing to wait for: %v", err)
	}
	if _, err := open(t.Context(), k.record, nil); !errors.As(err, &ae) || ae.Transient() {
		t.Errorf("no keystores at all: %v", err)
	}
}

func TestTamperedWrappingsAreCorrupt(t *testing.T) {
	reg := registry(t, map[string]*prov{"a": newProv(t)})
	k := autoOf(t, reg, "a")
	defer k.done()
	for name, change := range map[string]func(*sealpb.Record){
		"wrapped key":      func(r *sealpb.Record) { r.Wrappings[0].WrappedKey[0] ^= 1 },
		"nonce":            func(r *sealpb.Record) { r.Wrappings[0].Nonce[0] ^= 1 },
		"sealed MasterKey": func(r *sealpb.Record) { r.Wrappings[0].SealedMasterKey[47] ^= 1 },
		"keyspace":         func(r *sealpb.Record) { r.Manifest.KeyspaceId[0] ^= 1 },
		"ceremony":         func(r *sealpb.Record) { r.Manifest.CeremonyId[0] ^= 1 },
		"generation":       func(r *sealpb.Record) { r.Manifest.Generation++ },
		"commitment":       func(r *sealpb.Record) { r.Manifest.MasterKeyCommitment[0] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			pb := k.record.Proto()
			change(pb)
			_, err := open(t.Context(), reparse(t, pb), reg)
			var ae *seal.MissingError
			if !errors.As(err, &ae) || ae.Failures()[0].Class != keystore.Corrupt || ae.Transient() {
				t.Fatalf("%v", err)
			}
			// All but the last are found before a MasterKey comes out: the AAD binds them.
			if got := errors.Is(err, seal.ErrCommitment); got != (name == "commitment") {
				t.Errorf("found by the commitment: %v: %v", got, err)
			}
		})
	}
}

// A keystore, or whoever reads its traffic, must not learn the MasterKey, nor
// something that opens another wrapping of it.
func TestI6_NoKeystoreSeesTheMasterKey(t *testing.T) {
	a, b := newProv(t), newProv(t)
	reg := registry(t, map[string]*prov{"a": a, "b": b})
	k := autoOf(t, reg, "a", "b")
	defer k.done()
	if len(a.wrapped) != 1 || len(b.wrapped) != 1 {
		t.Fatalf("%d and %d wraps", len(a.wrapped), len(b.wrapped))
	}
	if same(t, a.wrapped[0], k.masterKey) || same(t, b.wrapped[0], k.masterKey) {
		t.Error("a keystore was given the MasterKey")
	}
	if same(t, a.wrapped[0], b.wrapped[0]) {
		t.Error("two keystores were given one key")
	}
}

func TestCreateFailsWhenAKeystoreCannotOpenAgain(t *testing.T) {
	good, bad := newProv(t), newProv(t)
	reg := registry(t, map[string]*prov{"good": good, "bad": bad})
	plan := seal.Plan{ProviderKeys: []seal.ProviderKey{{Provider: "good", Key: "k"}, {Provider: "bad", Key: "k"}}}
	for name, set := range map[string]func(){
		"wrap":   func() { bad.wrap = func() error { return failed(keystore.Throttled) } },
		"unwrap": func() { bad.wrap, bad.unwrap = nil, func(context.Context) error { return failed(keystore.Denied) } },
	} {
		t.Run(name, func(t *testing.T) {
			bad.wrap, bad.unwrap = nil, nil
			set()
			r, mk, _, err := seal.Create(t.Context(), rand.Reader, ceremony(t), plan, reg)
			var ke *keystore.Error
			if !errors.As(err, &ke) || !r.IsZero() || !mk.IsZero() || !strings.Contains(err.Error(), "bad") {
				t.Errorf("%v", err)
			}
		})
	}
	for name, keys := range map[string][]seal.ProviderKey{
		"not configured": {{Provider: "none", Key: "k"}},
		"twice":          {{Provider: "good", Key: "k"}, {Provider: "good", Key: "k"}},
		"without key":    {{Provider: "good"}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, mk, _, err := seal.Create(t.Context(), rand.Reader, ceremony(t), seal.Plan{ProviderKeys: keys}, reg); err == nil || !mk.IsZero() {
				t.Error("created")
			}
		})
	}
	if _, _, _, err := seal.Create(t.Context(), rand.Reader, ceremony(t), plan, nil); err == nil {
		t.Error("created without keystores")
	}
}

func TestTheCorrelationIDOfTheContextReachesTheKeystore(t *testing.T) {
	p := newProv(t)
	reg := registry(t, map[string]*prov{"a": p})
	k := autoOf(t, reg, "a")
	defer k.done()
	id, err := corr.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	mk, err := open(corr.With(t.Context(), id), k.record, reg)
	if err != nil {
		t.Fatal(err)
	}
	mk.Destroy()
	if got := p.seen[len(p.seen)-1]; got != id {
		t.Errorf("the keystore saw %q, want %q", got, id)
	}
}

func TestAutoRecordSurvivesItsFile(t *testing.T) {
	reg := registry(t, map[string]*prov{"a": newProv(t)})
	k := autoOf(t, reg, "a")
	defer k.done()
	path := filepath.Join(t.TempDir(), "record.pb")
	if err := seal.WriteFile(path, k.record); err != nil {
		t.Fatal(err)
	}
	r, err := seal.ReadFile(path, k.record.Keyspace())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	mk, err := open(ctx, r, reg)
	if err != nil {
		t.Fatal(err)
	}
	defer mk.Destroy()
	if !same(t, mk, k.masterKey) {
		t.Error("another key came out")
	}
}
