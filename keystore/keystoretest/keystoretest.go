// Package keystoretest holds every keystore.Provider to one contract.
//
// A provider's own test makes its keystore, or the fake server of its vendor,
// and calls [Test]. What a keystore cannot do is named with a reason and
// counted; nothing is skipped in silence.
//
// # Invariants
//
//   - I1: a case that does not apply has a reason in Config.Cannot, and a reason without need fails the suite.
//   - I2: the suite knows providers only by the interface; there is no exception by name.
//
// # Concurrency
//
// Cases run one after the other, each with a keystore of its own from
// Config.Create, so that a deleted key or an outage meets one case only.
//
// # Failure
//
// A failing case says which sentence of the contract of keystore.Provider does
// not hold.
//
// # Source
//
// Package keystore; the habit is that of SPIRE's and OpenBao's plugin suites.
package keystoretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Ability is something that the suite asks of a keystore's owner or its log
// and that not every keystore, or not every fake of one, can do.
type Ability string

// The abilities.
const (
	CanDisable          Ability = "disable a key and enable it again"
	CanScheduleDeletion Ability = "schedule the deletion of a key"
	CanDelete           Ability = "delete a key"
	CanRotate           Ability = "rotate a key"
	CanBeAway           Ability = "be away for a while"
	CanDeny             Ability = "withdraw the provider's access to a key"
	CanThrottle         Ability = "ask for fewer calls"
	CanShowCalls        Ability = "show the calls that reached it"
	CanSharePeers       Ability = "be used through a second provider"
)

// Env is what a fixture hands to its provider.
type Env struct {
	keystore.Env

	logs *logBuffer
}

// Call is one call as the keystore's own log has it.
type Call struct {
	Correlation corr.ID
	RequestID   keystore.RequestID
}

// Fixture is one keystore with one open provider. Hooks that the keystore has
// no way for stay nil and have their [Ability] in Config.Cannot.
type Fixture struct {
	// Provider is the subject. The suite closes it.
	Provider keystore.Provider
	// NewKey makes an enabled key and returns its reference. Required.
	NewKey func(t *testing.T) keystore.KeyRef
	// UnknownKey is a well-formed reference of a key that never was. Required.
	UnknownKey keystore.KeyRef

	Disable, Enable  func(t *testing.T, key keystore.KeyRef)
	ScheduleDeletion func(t *testing.T, key keystore.KeyRef)
	Delete           func(t *testing.T, key keystore.KeyRef)
	Rotate           func(t *testing.T, key keystore.KeyRef)
	// Deny withdraws the provider's access, by policy and not by the key's state.
	Deny func(t *testing.T, key keystore.KeyRef)
	// Away makes the keystore unreachable until the returned function is called.
	Away func(t *testing.T) (back func())
	// Throttle makes the keystore refuse for too many calls until the returned function is called.
	Throttle func(t *testing.T) (enough func())
	// Calls returns what reached the keystore so far, as its own log has it.
	Calls func(t *testing.T) []Call
	// Peer opens a second provider on the same keystore, as another node would.
	// The suite closes it.
	Peer func(t *testing.T) keystore.Provider
}

// has returns the abilities that the fixture has hooks for.
func (f Fixture) has() map[Ability]bool {
	return map[Ability]bool{
		CanDisable:          f.Disable != nil && f.Enable != nil,
		CanScheduleDeletion: f.ScheduleDeletion != nil,
		CanDelete:           f.Delete != nil,
		CanRotate:           f.Rotate != nil,
		CanBeAway:           f.Away != nil,
		CanDeny:             f.Deny != nil,
		CanThrottle:         f.Throttle != nil,
		CanShowCalls:        f.Calls != nil,
		CanSharePeers:       f.Peer != nil,
	}
}

// Config describes a provider to the suite.
type Config struct {
	// Name is the provider's configured name, as errors have to carry it.
	Name string
	// Create makes a keystore with a provider that uses env. It is called once
	// for every case and cleans up through t.
	Create func(t *testing.T, env Env) Fixture
	// Cannot has the reason for each ability that the keystore does not have.
	Cannot map[Ability]string
	// Patience bounds each call of the suite; 0 means 10 s.
	Patience time.Duration
}

// suite is one case's keystore.
type suite struct {
	*testing.T
	Fixture

	cfg  Config
	env  Env
	ctx  context.Context //nolint:containedctx // The context of one test case, which ends with it.
	seen [][]byte        // every secret of the case; none may turn up in logs or errors
	errs []error
}

// Test runs the contract.
func Test(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	t.Run("abilities", func(t *testing.T) { testAbilities(t, cfg) })
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, a := range c.needs {
				if why, cannot := cfg.Cannot[a]; cannot {
					t.Logf("not applicable: it cannot %s: %s", a, why)
					return
				}
			}
			s := newSuite(t, cfg)
			c.run(s)
			s.checkSilence()
		})
	}
}

// testAbilities holds I1.
func testAbilities(t *testing.T, cfg Config) {
	t.Helper()
	s := newSuite(t, cfg)
	has := s.has()
	for a, have := range has {
		why, excused := cfg.Cannot[a]
		switch {
		case have && excused:
			t.Errorf("it can %s and is excused from it (%q)", a, why)
		case !have && why == "":
			t.Errorf("it cannot %s and gives no reason", a)
		}
	}
	for a := range cfg.Cannot {
		if _, known := has[a]; !known {
			t.Errorf("reason for an ability that the suite does not know: %q", a)
		}
	}
	if s.NewKey == nil || s.UnknownKey == "" {
		t.Error("NewKey and UnknownKey are required")
	}
}

func newSuite(t *testing.T, cfg Config) *suite {
	t.Helper()
	logs := &logBuffer{}
	env := Env{logs: logs}
	env.Logger = slog.New(slog.NewJSONHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	env.Rand = rand.Reader
	env.Clock = clock.System{}
	ctx, cancel := context.WithTimeout(t.Context(), cfg.Patience)
	t.Cleanup(cancel)
	s := &suite{T: t, cfg: cfg, env: env, ctx: ctx}
	s.Fixture = cfg.Create(t, env)
	t.Cleanup(func() {
		if err := s.Provider.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// logBuffer collects what a provider logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// Logged returns what the provider has logged so far, as JSON lines.
func (e Env) Logged() []byte { return e.logs.bytes() }
