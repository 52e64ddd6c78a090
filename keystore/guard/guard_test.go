//go:build unix

package guard_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/guard"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

// scripted answers as it is told, by key; a key without script works.
type scripted struct {
	mu     sync.Mutex
	script map[keystore.KeyRef]keystore.Class
	asked  map[keystore.KeyRef]int
	at     []time.Time
	hang   bool
	health keystore.Class
}

func newScripted() *scripted {
	return &scripted{script: map[keystore.KeyRef]keystore.Class{}, asked: map[keystore.KeyRef]int{}}
}

func (s *scripted) set(key keystore.KeyRef, c keystore.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script[key] = c
}

func (s *scripted) count(key keystore.KeyRef) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key]
}

var errScripted = errors.New("as told")

func (s *scripted) answer(ctx context.Context, op keystore.Op, key keystore.KeyRef) error {
	s.mu.Lock()
	class, hang := s.script[key], s.hang
	s.asked[key]++
	s.at = append(s.at, time.Now())
	s.mu.Unlock()
	cause := errScripted
	if hang {
		<-ctx.Done()
		class, cause = keystore.Unavailable, ctx.Err()
	}
	if class == keystore.ClassUnspecified {
		return nil
	}
	return keystore.NewError(keystore.Error{Class: class, Provider: "p", Key: key, Op: op, RequestID: "r-1"}, cause)
}

func (s *scripted) Wrap(ctx context.Context, r keystore.WrapRequest) (keystore.WrapResult, error) {
	return keystore.WrapResult{RequestID: "r-1"}, s.answer(ctx, keystore.OpWrap, r.Key)
}

func (s *scripted) Unwrap(ctx context.Context, r keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	return keystore.UnwrapResult{RequestID: "r-1"}, s.answer(ctx, keystore.OpUnwrap, r.Key)
}

func (s *scripted) Describe(ctx context.Context, r keystore.DescribeRequest) (keystore.Description, error) {
	return keystore.Description{}, s.answer(ctx, keystore.OpDescribe, r.Key)
}

func (s *scripted) Health(ctx context.Context, _ corr.ID) error {
	s.mu.Lock()
	s.script["health"] = s.health
	s.mu.Unlock()
	return s.answer(ctx, keystore.OpHealth, "health")
}

func (s *scripted) Close() error { return nil }

// bringing is a scripted provider that takes material.
type bringing struct{ *scripted }

func (b bringing) ImportParameters(ctx context.Context, r keystore.ImportParametersRequest) (keystore.ImportParameters, error) {
	return keystore.ImportParameters{}, b.answer(ctx, keystore.OpImportParameters, r.Key)
}

func (b bringing) ImportMaterial(ctx context.Context, r keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	return keystore.ImportResult{}, b.answer(ctx, keystore.OpImportMaterial, r.Key)
}

func env() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.Simple{}}
}

func unwrap(ctx context.Context, p keystore.Provider, key keystore.KeyRef) error {
	_, err := p.Unwrap(ctx, keystore.UnwrapRequest{Key: key, Correlation: "c-1"})
	return err
}

func wants(t *testing.T, err error, class keystore.Class, text string) {
	t.Helper()
	if keystore.ClassOf(err) != class || !strings.Contains(fmt.Sprint(err), text) {
		t.Fatalf("%s: %v, want %s with %q", keystore.ClassOf(err), err, class, text)
	}
}

var classes = []keystore.Class{keystore.Denied, keystore.Unavailable, keystore.Throttled, keystore.Misconfigured, keystore.Corrupt}

func TestAGuardedProviderKeepsTheContract(t *testing.T) {
	keystoretest.Test(t, keystoretest.Config{
		Name: "dev", Type: "guarded local", Component: keystoretest.Component{Name: "files", Version: "1", Origin: keystoretest.Real},
		Create: func(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
			t.Helper()
			dir := filepath.Join(t.TempDir(), "ks")
			owner, err := local.Create(t.Context(), env.Env, "dev", dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := owner.Close(); err != nil {
					t.Error(err)
				}
			})
			inner, err := local.Open(t.Context(), env.Env, "dev", dir)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			do := func(f func(context.Context, keystore.KeyRef) error) func(*testing.T, keystore.KeyRef) {
				return func(t *testing.T, k keystore.KeyRef) {
					t.Helper()
					if err := f(t.Context(), k); err != nil {
						t.Fatal(err)
					}
				}
			}
			return keystoretest.Fixture{
				Provider: guard.New(inner, "dev", env.Env, guard.Options{}, nil), UnknownKey: "never",
				NewKey: func(t *testing.T) keystore.KeyRef {
					t.Helper()
					n++
					name := fmt.Sprintf("key-%d", n)
					if err := owner.CreateKey(t.Context(), name); err != nil {
						t.Fatal(err)
					}
					return keystore.KeyRef(name)
				},
				Disable: do(owner.Disable), Enable: do(owner.Enable), Delete: do(owner.Delete), Rotate: do(owner.Rotate), CancelDeletion: do(owner.Enable),
				ScheduleDeletion: do(func(ctx context.Context, k keystore.KeyRef) error { return owner.ScheduleDeletion(ctx, k, time.Hour) }),
				Log:              func(*testing.T) []byte { return env.Logged() },
			}
		},
		Cannot: func() map[keystoretest.Ability]string {
			out := map[keystoretest.Ability]string{}
			for _, a := range []keystoretest.Ability{
				keystoretest.CanDeny, keystoretest.CanBeAway, keystoretest.CanCut, keystoretest.CanHang, keystoretest.CanBeSlow, keystoretest.CanFail,
				keystoretest.CanTalkNonsense, keystoretest.CanThrottle, keystoretest.CanRevoke, keystoretest.CanExpireToken, keystoretest.CanRefuseRefresh,
				keystoretest.CanLoseIdentity, keystoretest.CanSkew, keystoretest.CanImport, keystoretest.CanShowCalls, keystoretest.CanSharePeers,
			} {
				out[a] = "what is tested is the guard; the providers have it"
			}
			return out
		}(),
	})
}

func TestI1_AnErrorStaysWhatItIs(t *testing.T) {
	for _, c := range classes {
		synctest.Test(t, func(t *testing.T) {
			s := newScripted()
			s.set("k", c)
			err := unwrap(t.Context(), guard.New(s, "p", env(), guard.Options{}, nil), "k")
			wants(t, err, c, "as told")
			e, ok := errors.AsType[*keystore.Error](err)
			if !ok || e.RequestID != "r-1" || e.Key != "k" || e.Op != keystore.OpUnwrap || !errors.Is(err, errScripted) {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestI2_OnlyUnavailableAndThrottledAreTriedAgain(t *testing.T) {
	for _, c := range append(slices.Clone(classes), keystore.ClassUnspecified) {
		want := 1
		if c == keystore.Unavailable || c == keystore.Throttled {
			want = 3
		}
		synctest.Test(t, func(t *testing.T) {
			s := bringing{newScripted()}
			p := guard.New(s, "p", env(), guard.Options{Attempts: 3}, nil)
			for _, key := range []keystore.KeyRef{"u", "w", "d", "i", "m"} {
				s.set(key, c)
			}
			s.health = c
			_ = unwrap(t.Context(), p, "u")
			_, _ = p.Wrap(t.Context(), keystore.WrapRequest{Key: "w"})
			_, _ = p.Describe(t.Context(), keystore.DescribeRequest{Key: "d"})
			_ = p.Health(t.Context(), "")
			imp, ok := p.(keystore.Importer)
			if !ok {
				t.Fatal("no importer")
			}
			_, _ = imp.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: "i"})
			_, _ = imp.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: "m"})
			for key, want := range map[keystore.KeyRef]int{"u": want, "w": want, "d": want, "i": want, "m": 1, "health": 1} {
				if got := s.count(key); got != want {
					t.Errorf("%s: %s was tried %d times, want %d", c, key, got, want)
				}
			}
		})
	}
}

func TestPausesGrowAndAreRandom(t *testing.T) {
	for class, first := range map[keystore.Class]time.Duration{keystore.Unavailable: 100 * time.Millisecond, keystore.Throttled: 500 * time.Millisecond} {
		seen := map[time.Duration]bool{}
		for range 20 {
			synctest.Test(t, func(t *testing.T) {
				s := newScripted()
				s.set("k", class)
				_ = unwrap(t.Context(), guard.New(s, "p", env(), guard.Options{Attempts: 4}, nil), "k")
				for i := range 3 {
					d, whole := s.at[i+1].Sub(s.at[i]), first<<i
					if d < whole/2 || d > whole {
						t.Errorf("%s: pause %d is %s, want %s to %s", class, i+1, d, whole/2, whole)
					}
					seen[d] = true
				}
			})
		}
		if len(seen) < 30 {
			t.Errorf("%s: %d different pauses of 60", class, len(seen))
		}
	}
}

func TestNoAttemptForWhichTheCallerDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		s.set("k", keystore.Throttled)
		p := guard.New(s, "p", env(), guard.Options{Attempts: 10}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		wants(t, unwrap(ctx, p, "k"), keystore.Throttled, "as told")
		if took := time.Since(start); took != 0 || s.count("k") != 1 {
			t.Errorf("%d attempts in %s", s.count("k"), took)
		}
		// A caller that gives up during a pause hears both.
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(50*time.Millisecond, cancel)
		err := unwrap(ctx, p, "k")
		wants(t, err, keystore.Throttled, "as told")
		if !errors.Is(err, context.Canceled) || !errors.Is(err, errScripted) {
			t.Errorf("%v", err)
		}
	})
}

func TestAnAttemptHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		s.hang = true
		start := time.Now()
		err := unwrap(t.Context(), guard.New(s, "p", env(), guard.Options{Timeout: 7 * time.Second, Attempts: 1}, nil), "k")
		wants(t, err, keystore.Unavailable, "")
		if took := time.Since(start); took != 7*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s, %v", took, err)
		}
	})
}

func TestRetriesHaveABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		p := guard.New(s, "p", env(), guard.Options{Attempts: 3}, nil)
		const calls = 200
		total := 0
		for i := range calls { // each its own key: no breaker is in the way
			key := keystore.KeyRef(fmt.Sprint(i))
			s.set(key, keystore.Unavailable)
			_ = unwrap(t.Context(), p, key)
			total += s.count(key)
		}
		if most, least := calls+10+calls/10+1, calls+10+calls/10-1; total > most || total < least {
			t.Errorf("%d attempts for %d calls, want %d to %d", total, calls, least, most)
		}
	})
}

// open fails a key until its breaker opens.
func open(t *testing.T, s *scripted, p keystore.Provider, key keystore.KeyRef) {
	t.Helper()
	s.set(key, keystore.Unavailable)
	for range 5 {
		wants(t, unwrap(t.Context(), p, key), keystore.Unavailable, "as told")
	}
	before := s.count(key)
	wants(t, unwrap(t.Context(), p, key), keystore.Unavailable, "not asked")
	if s.count(key) != before {
		t.Fatal("asked behind an open breaker")
	}
}

func TestI3_OnlyUnavailableOpensTheBreaker(t *testing.T) {
	for _, c := range classes {
		synctest.Test(t, func(t *testing.T) {
			s := newScripted()
			p := guard.New(s, "p", env(), guard.Options{Attempts: 1}, nil)
			s.set("k", c)
			for range 50 {
				_ = unwrap(t.Context(), p, "k")
			}
			if asked := s.count("k"); (asked < 50) != (c == keystore.Unavailable) {
				t.Errorf("%s: asked %d times of 50", c, asked)
			}
		})
	}
}

func TestTheBreakerOpensForLongerAndClosesWithAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		p := guard.New(s, "p", env(), guard.Options{Attempts: 1}, nil)
		open(t, s, p, "k")
		for _, whole := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
			time.Sleep(whole/2 - time.Millisecond)
			wants(t, unwrap(t.Context(), p, "k"), keystore.Unavailable, "not asked")
			time.Sleep(whole/2 + 2*time.Millisecond)
			before := s.count("k")
			wants(t, unwrap(t.Context(), p, "k"), keystore.Unavailable, "as told") // half-open, and open again
			wants(t, unwrap(t.Context(), p, "k"), keystore.Unavailable, "not asked")
			if got := s.count("k") - before; got != 1 {
				t.Fatalf("asked %d times", got)
			}
		}
		// Denied is an answer: the kill switch is not behind a breaker for longer than one pause.
		time.Sleep(10 * time.Second)
		s.set("k", keystore.Denied)
		for range 10 {
			wants(t, unwrap(t.Context(), p, "k"), keystore.Denied, "as told")
		}
		s.set("k", keystore.ClassUnspecified)
		if err := unwrap(t.Context(), p, "k"); err != nil {
			t.Error(err)
		}
	})
}

func TestAHalfOpenBreakerLetsOneCallThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		p := guard.New(s, "p", env(), guard.Options{Attempts: 1, Timeout: time.Minute}, nil)
		open(t, s, p, "k")
		time.Sleep(time.Second)
		s.mu.Lock()
		s.hang = true
		s.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- unwrap(ctx, p, "k") }()
		synctest.Wait()
		for range 5 {
			wants(t, unwrap(t.Context(), p, "k"), keystore.Unavailable, "not asked")
		}
		cancel()
		wants(t, <-done, keystore.Unavailable, "canceled")
		// The one that tried gave up and said nothing: the next one tries.
		s.mu.Lock()
		s.hang = false
		s.mu.Unlock()
		s.set("k", keystore.ClassUnspecified)
		if err := unwrap(t.Context(), p, "k"); err != nil {
			t.Error(err)
		}
	})
}

func TestI4_AKeyThatFailsStopsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		p := guard.New(s, "p", env(), guard.Options{Attempts: 1}, nil)
		open(t, s, p, "bad")
		if err := unwrap(t.Context(), p, "good"); err != nil {
			t.Error(err)
		}
		wants(t, unwrap(t.Context(), p, "bad"), keystore.Unavailable, "not asked")
		s.health = keystore.Unavailable
		for range 10 {
			wants(t, p.Health(t.Context(), ""), keystore.Unavailable, "as told")
		}
		s.health = keystore.ClassUnspecified
		if err := p.Health(t.Context(), ""); err != nil {
			t.Errorf("health is behind a breaker: %v", err)
		}
	})
}

func TestI5_CallersThatGiveUpDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		s.hang = true
		p := guard.New(s, "p", env(), guard.Options{Attempts: 1}, nil)
		for i := range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*time.Millisecond)
			wants(t, unwrap(ctx, p, "k"), keystore.Unavailable, "deadline")
			cancel()
		}
		if s.count("k") != 20 {
			t.Errorf("asked %d times of 20", s.count("k"))
		}
	})
}

func TestTheRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		p := guard.New(s, "p", env(), guard.Options{Attempts: 1, Rate: 10}, nil)
		start := time.Now()
		for range 10 {
			if err := unwrap(t.Context(), p, "k"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("a second of calls after a pause took %s", took)
		}
		for i := range 20 {
			if err := unwrap(t.Context(), p, "k"); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != time.Duration(i+1)*100*time.Millisecond {
				t.Fatalf("call %d came after %s", i, took)
			}
		}
		// Many at once: a second of them waits, the others hear it at once.
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for range 30 {
			wg.Go(func() {
				if err := unwrap(t.Context(), p, "k"); err != nil {
					wants(t, err, keystore.Throttled, "rate")
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if refused != 20 {
			t.Errorf("%d of 30 were refused, want 20", refused)
		}
		// Who cannot wait long enough is not asked for, and takes no turn.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		wants(t, unwrap(ctx, p, "k"), keystore.Throttled, "rate")
	})
}

func TestI6_ImportStaysVisible(t *testing.T) {
	if _, ok := guard.New(bringing{newScripted()}, "p", env(), guard.Options{}, nil).(keystore.Importer); !ok {
		t.Error("a guarded importer is none")
	}
	if _, ok := guard.New(newScripted(), "p", env(), guard.Options{}, nil).(keystore.Importer); ok {
		t.Error("a guarded provider without import has one")
	}
}

func TestI7_MetricsNameKeystoresOperationsAndClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := guard.NewMetrics()
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(m)
		s := newScripted()
		p := guard.New(s, "eu-hsm", env(), guard.Options{Attempts: 2, Rate: 100}, m)
		open(t, s, guard.New(s, "other", env(), guard.Options{Attempts: 1}, m), "secret-key-name")
		s.set("denied", keystore.Denied)
		s.set("away", keystore.Unavailable)
		_ = unwrap(t.Context(), p, "fine")
		_ = unwrap(t.Context(), p, "denied")
		_ = unwrap(t.Context(), p, "away")
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range families {
			for _, metric := range f.GetMetric() {
				fmt.Fprintf(&text, "%s", f.GetName())
				for _, l := range metric.GetLabel() {
					fmt.Fprintf(&text, " %s=%s", l.GetName(), l.GetValue())
				}
				fmt.Fprintf(&text, " %v\n", metric.GetGauge().GetValue()+metric.GetCounter().GetValue()+float64(metric.GetHistogram().GetSampleCount()))
			}
		}
		for _, want := range []string{
			"krypton_keystore_call_duration_seconds class=ok keystore=eu-hsm op=unwrap 1\n",
			"krypton_keystore_call_duration_seconds class=denied keystore=eu-hsm op=unwrap 1\n",
			"krypton_keystore_call_duration_seconds class=unavailable keystore=eu-hsm op=unwrap 1\n",
			"krypton_keystore_call_duration_seconds class=unavailable keystore=other op=unwrap 6\n",
			"krypton_keystore_retries_total keystore=eu-hsm 1\n",
			"krypton_keystore_refused_total keystore=other reason=breaker 1\n",
			"krypton_keystore_refused_total keystore=eu-hsm reason=rate 0\n",
			"krypton_keystore_breakers keystore=other state=open 1\n",
			"krypton_keystore_breakers keystore=other state=half-open 0\n",
			"krypton_keystore_breakers keystore=eu-hsm state=open 0\n",
		} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("lacks %q", want)
			}
		}
		if strings.Contains(text.String(), "secret-key-name") || t.Failed() {
			t.Errorf("metrics:\n%s", &text)
		}
	})
}

func TestOneLineACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs bytes.Buffer
		e := env()
		e.Logger = slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s := newScripted()
		s.set("k", keystore.Unavailable)
		_ = unwrap(t.Context(), guard.New(s, "p", e, guard.Options{}, nil), "k")
		line := logs.String()
		if strings.Count(line, "\n") != 1 {
			t.Errorf("%s", line)
		}
		for _, part := range []string{"keystore=p", "op=unwrap", "outcome=unavailable", "attempts=3", "correlation=c-1", "request=r-1"} {
			if !strings.Contains(line, part) {
				t.Errorf("lacks %s: %s", part, line)
			}
		}
	})
}

func TestSettingsAreTakenFromEveryType(t *testing.T) {
	var got keystore.Config
	types := guard.Types(keystore.Types{{
		Name: "t", Settings: []keystore.Setting{{Name: "region"}},
		New: func(_ context.Context, _ keystore.Env, c keystore.Config) (keystore.Provider, error) {
			got = c
			return newScripted(), nil
		},
	}}, nil)
	construct := types.Constructors()["t"]
	p, err := construct(t.Context(), env(), keystore.Config{Name: "n", Type: "t", Settings: map[string]string{"region": "r", "timeout": "1s", "attempts": "2", "rate": "5"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Settings) != 1 || got.Settings["region"] != "r" || got.Name != "n" || got.Type != "t" {
		t.Errorf("the constructor got %+v", got)
	}
	if g, ok := p.(*guard.Guard); !ok || g.Inner() == nil {
		t.Errorf("%T", p)
	}
	for name, v := range map[string][2]string{
		"timeout": {"soon", "0"}, "attempts": {"0", "11"}, "rate": {"-1", "many"},
	} {
		for _, value := range v {
			_, err := construct(t.Context(), env(), keystore.Config{Name: "n", Type: "t", Settings: map[string]string{name: value}})
			wants(t, err, keystore.Misconfigured, name+" is "+fmt.Sprintf("%q", value))
		}
	}
	names := []string{}
	for _, s := range types[0].Settings {
		names = append(names, s.Name)
	}
	if !slices.Equal(names, []string{"region", "timeout", "attempts", "rate"}) {
		t.Errorf("settings %v", names)
	}
}

// The kill switch: a denial is passed on at once and as it is, whatever was before.
func TestADenialIsNeverDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScripted()
		p := guard.New(s, "p", env(), guard.Options{}, nil)
		s.set("k", keystore.Denied)
		start := time.Now()
		wants(t, unwrap(t.Context(), p, "k"), keystore.Denied, "as told")
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

func BenchmarkGuard(b *testing.B) {
	s := newScripted()
	for name, p := range map[string]keystore.Provider{"Bare": s, "Krypton": guard.New(s, "p", env(), guard.Options{Rate: 1_000_000}, guard.NewMetrics())} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.mu.Lock()
				s.at = s.at[:0]
				s.mu.Unlock()
				if err := unwrap(b.Context(), p, "k"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
