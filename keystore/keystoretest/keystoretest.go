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
//   - I3: for every case there is a provider that breaks its rule and that the case refuses; the suite's own tests run them.
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
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Ability is something that the suite asks of a keystore's owner, of its log or
// of what lies between, and that not every keystore, or not every fake of one,
// can do.
type Ability string

// The abilities.
const (
	CanDisable          Ability = "disable a key and enable it again"
	CanScheduleDeletion Ability = "schedule the deletion of a key"
	CanCancelDeletion   Ability = "cancel a scheduled deletion"
	CanDelete           Ability = "delete a key"
	CanRotate           Ability = "rotate a key"
	CanDeny             Ability = "withdraw the provider's access to a key"
	CanBeAway           Ability = "be away for a while"
	CanCut              Ability = "have its connections killed in the middle of a call"
	CanHang             Ability = "take calls and answer nothing"
	CanBeSlow           Ability = "answer slowly"
	CanFail             Ability = "answer that it failed"
	CanTalkNonsense     Ability = "answer with what is no answer"
	CanThrottle         Ability = "ask for fewer calls"
	CanRevoke           Ability = "stop accepting the provider's credentials"
	CanExpireToken      Ability = "end the provider's session before its time"
	CanRefuseRefresh    Ability = "refuse the provider a new session"
	CanLoseIdentity     Ability = "lose the service that gives out sessions"
	CanSkew             Ability = "have another idea of the time"
	CanImport           Ability = "take key material of a customer"
	CanShowCalls        Ability = "show the calls that reached it"
	CanShowLog          Ability = "show its own log"
	CanSharePeers       Ability = "be used through a second provider"
)

// Env is what a fixture hands to its provider.
type Env struct {
	keystore.Env

	logs *logBuffer
}

// Call is one call as the keystore's own log or wire record has it.
type Call struct {
	Correlation corr.ID
	RequestID   keystore.RequestID
}

// Fixture is one keystore with one open provider. Hooks that the keystore has
// no way for stay nil and have their [Ability] in Config.Cannot. A hook that
// returns a function holds until that is called.
type Fixture struct {
	// Provider is the subject. The suite closes it.
	Provider keystore.Provider
	// NewKey makes an enabled key and returns its reference. Required.
	NewKey func(t *testing.T) keystore.KeyRef
	// UnknownKey is a well-formed reference of a key that never was. Required.
	UnknownKey keystore.KeyRef

	Disable, Enable  func(t *testing.T, key keystore.KeyRef)
	ScheduleDeletion func(t *testing.T, key keystore.KeyRef)
	// CancelDeletion makes a key that is pending deletion usable again.
	CancelDeletion func(t *testing.T, key keystore.KeyRef)
	Delete         func(t *testing.T, key keystore.KeyRef)
	Rotate         func(t *testing.T, key keystore.KeyRef)
	// Deny withdraws the provider's access, by policy and not by the key's state.
	Deny func(t *testing.T, key keystore.KeyRef)

	// Away makes the keystore unreachable: connections are refused, or a token is pulled.
	Away func(t *testing.T) (back func())
	// Cut lets a call reach the keystore and kills the connection in the middle of the answer.
	Cut func(t *testing.T) (back func())
	// Hang makes the keystore take calls and answer nothing. What was hung may be answered or lost when it ends.
	Hang func(t *testing.T) (back func())
	// Slow makes the keystore answer d late. d is at most a second.
	Slow func(t *testing.T, d time.Duration) (back func())
	// Fail makes the keystore answer every call with a failure of its own, as a 500 or 503 is.
	Fail func(t *testing.T) (back func())
	// Nonsense makes the keystore answer well-formed success with a body that no keystore sends.
	Nonsense func(t *testing.T) (back func())
	// Throttle makes the keystore refuse for too many calls.
	Throttle func(t *testing.T) (enough func())

	// Revoke makes the keystore and its identity service accept the provider's credentials no more.
	Revoke func(t *testing.T) (restore func())
	// ExpireToken ends the session that the provider holds at this moment. It can get another one.
	ExpireToken func(t *testing.T)
	// RefuseRefresh makes the identity service refuse new sessions. With ExpireToken the provider is locked out.
	RefuseRefresh func(t *testing.T) (restore func())
	// LoseIdentity makes the identity service unreachable.
	LoseIdentity func(t *testing.T) (restore func())
	// Skew makes the keystore's clock run d ahead of the provider's; d may be negative.
	Skew func(t *testing.T, d time.Duration) (restore func())

	// NewImportKey makes a key that waits for material of a customer. With it the provider is a keystore.Importer.
	NewImportKey func(t *testing.T) keystore.KeyRef
	// ImportSize is how long the material for such a key is, in bytes; 0 means 32.
	ImportSize int
	// Imported returns the material that a key has, where the component shows it. Optional, without an ability of its own.
	Imported func(t *testing.T, key keystore.KeyRef) []byte

	// Calls returns what reached the keystore so far, as its own log or wire record has it.
	Calls func(t *testing.T) []Call
	// Log returns the keystore's own log so far: what its operators read, and not what is on the wire.
	Log func(t *testing.T) []byte
	// Peer opens a second provider on the same keystore, as another node would.
	// The suite closes it.
	Peer func(t *testing.T) keystore.Provider
}

// has returns the abilities that the fixture has hooks for.
func (f Fixture) has() map[Ability]bool {
	return map[Ability]bool{
		CanDisable:          f.Disable != nil && f.Enable != nil,
		CanScheduleDeletion: f.ScheduleDeletion != nil,
		CanCancelDeletion:   f.CancelDeletion != nil,
		CanDelete:           f.Delete != nil,
		CanRotate:           f.Rotate != nil,
		CanDeny:             f.Deny != nil,
		CanBeAway:           f.Away != nil,
		CanCut:              f.Cut != nil,
		CanHang:             f.Hang != nil,
		CanBeSlow:           f.Slow != nil,
		CanFail:             f.Fail != nil,
		CanTalkNonsense:     f.Nonsense != nil,
		CanThrottle:         f.Throttle != nil,
		CanRevoke:           f.Revoke != nil,
		CanExpireToken:      f.ExpireToken != nil,
		CanRefuseRefresh:    f.RefuseRefresh != nil,
		CanLoseIdentity:     f.LoseIdentity != nil,
		CanSkew:             f.Skew != nil,
		CanImport:           f.NewImportKey != nil,
		CanShowCalls:        f.Calls != nil,
		CanShowLog:          f.Log != nil,
		CanSharePeers:       f.Peer != nil,
	}
}

// Origin says what a component is. The zero value is invalid.
type Origin string

// The origins.
const (
	Real       Origin = "real"          // the product itself
	VendorFake Origin = "vendor's fake" // the vendor's own test double
	Community  Origin = "community"     // somebody else's imitation
	OwnFake    Origin = "own fake"      // ours, behind the vendor's client and generated interface
)

// Component is what the suite was run against.
type Component struct {
	Name    string // "SoftHSM"
	Version string // "2.6.1"
	Origin  Origin
}

// Config describes a provider to the suite.
type Config struct {
	// Name is the provider's configured name, as errors have to carry it.
	Name string
	// Type is the provider's type in configurations.
	Type string
	// Component is what the provider is run against.
	Component Component
	// Create makes a keystore with a provider that uses env. It is called once
	// for every case and cleans up through t.
	Create func(t *testing.T, env Env) Fixture
	// Cannot has the reason for each ability that the keystore does not have.
	Cannot map[Ability]string
	// LogsAAD is the reason why the keystore's own log holds the AAD, where it
	// has to. Empty: the log must not show it.
	LogsAAD string
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
	run(t, cfg, cases)
}

// Report is what the suite says of a run besides the verdicts, as one line of
// JSON behind [ReportMark], for `make providers`.
type Report struct {
	Provider  string          `json:"provider"` // the type
	Component string          `json:"component"`
	Version   string          `json:"version"`
	Origin    Origin          `json:"origin"`
	Cases     int             `json:"cases"` // that ran
	NA        []NotApplicable `json:"na"`    // cases that did not
}

// NotApplicable is a case that does not apply, and why.
type NotApplicable struct {
	Case    string  `json:"case"`
	Ability Ability `json:"ability"`
	Reason  string  `json:"reason"`
}

// ReportMark stands before the JSON of a [Report] in a test's output.
const ReportMark = "CONFORMANCE "

func run(t *testing.T, cfg Config, cases []testCase) {
	t.Helper()
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	report := Report{Provider: cfg.Type, Component: cfg.Component.Name, Version: cfg.Component.Version, Origin: cfg.Component.Origin}
	t.Run("abilities", func(t *testing.T) { testAbilities(t, cfg) })
	for _, c := range cases {
		if why, na := cfg.excused(c); na {
			why.Case = c.name
			report.NA = append(report.NA, why)
			continue
		}
		report.Cases++
		t.Run(c.name, func(t *testing.T) {
			s := newSuite(t, cfg)
			c.run(s)
			s.checkSilence()
		})
	}
	line, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(ReportMark + string(line))
}

// excused returns why a case does not apply.
func (c Config) excused(tc testCase) (NotApplicable, bool) {
	for _, a := range tc.needs {
		if why, cannot := c.Cannot[a]; cannot {
			return NotApplicable{Ability: a, Reason: why}, true
		}
	}
	return NotApplicable{}, false
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
	if _, is := s.Provider.(keystore.Importer); is != (s.NewImportKey != nil) {
		t.Errorf("the provider is a keystore.Importer: %v; the fixture can make keys for an import: %v", is, s.NewImportKey != nil)
	}
	if c := cfg.Component; cfg.Type == "" || c.Name == "" || c.Version == "" || !slices.Contains([]Origin{Real, VendorFake, Community, OwnFake}, c.Origin) {
		t.Errorf("type %q and component %+v: both must be told", cfg.Type, c)
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
