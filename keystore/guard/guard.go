package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Names of the settings that every type of keystore has.
const (
	SettingTimeout  = "timeout"
	SettingAttempts = "attempts"
	SettingRate     = "rate"
)

// Bounds of the settings.
const (
	minTimeout  = 10 * time.Millisecond
	maxTimeout  = 2 * time.Minute
	maxAttempts = 10
	maxRate     = 1_000_000
)

// Settings are those of this package, for the types of keystores. Every entry
// under keystores may have them, whatever its type.
func Settings() []keystore.Setting {
	return []keystore.Setting{
		{
			Name: SettingTimeout, Default: "5s", Common: true, Check: func(v string) error { _, err := duration(v); return err },
			Doc: "How long one attempt may take, 10ms to 2m. What the caller waits for bounds it too.",
		},
		{
			Name: SettingAttempts, Default: "3", Common: true, Check: func(v string) error { _, err := number(v, 1, maxAttempts); return err },
			Doc: "How often a call is tried when the keystore does not answer or asks for fewer calls, 1 to 10. Refusals are never tried again.",
		},
		{
			Name: SettingRate, Default: "0", Common: true, Check: func(v string) error { _, err := number(v, 0, maxRate); return err },
			Doc: "Attempts a second of this node, 1 to 1000000, and as many at once after a pause. What exceeds it waits up to a second. 0: no limit.",
		},
	}
}

func duration(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d < minTimeout || d > maxTimeout {
		return 0, fmt.Errorf("want a duration of %s to %s", minTimeout, maxTimeout)
	}
	return d, nil
}

func number(v string, low, high int) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("want %d to %d", low, high)
	}
	return n, nil
}

// Options are what a guard does. The zero value of a field is the default of its setting.
type Options struct {
	Timeout  time.Duration
	Attempts int
	Rate     int // 0: no limit
}

// read takes the settings of this package out of cfg.
func read(cfg keystore.Config) (Options, keystore.Config, error) {
	common := keystore.Config{Name: cfg.Name, Type: cfg.Type, Settings: map[string]string{}}
	rest := keystore.Config{Name: cfg.Name, Type: cfg.Type, Settings: map[string]string{}}
	for name, v := range cfg.Settings {
		switch name {
		case SettingTimeout, SettingAttempts, SettingRate:
			common.Settings[name] = v
		default:
			rest.Settings[name] = v
		}
	}
	common, err := common.Only(Settings())
	if err != nil {
		return Options{}, cfg, err
	}
	// They were checked: what is left is to read them.
	var o Options
	var errs [3]error
	o.Timeout, errs[0] = duration(common.Settings[SettingTimeout])
	o.Attempts, errs[1] = number(common.Settings[SettingAttempts], 1, maxAttempts)
	o.Rate, errs[2] = number(common.Settings[SettingRate], 0, maxRate)
	return o, rest, errors.Join(errs[:]...)
}

// Types returns types with the settings of this package, whose constructors
// guard what they make. m may be nil: nothing is counted.
func Types(types keystore.Types, m *Metrics) keystore.Types {
	out := make(keystore.Types, len(types))
	for i, t := range types {
		inner := t.New
		t.Settings = append(append([]keystore.Setting(nil), t.Settings...), Settings()...)
		t.New = func(ctx context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
			o, rest, err := read(cfg)
			if err != nil {
				return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: cfg.Name, Op: keystore.OpOpen}, err)
			}
			p, err := inner(ctx, env, rest)
			if err != nil {
				return nil, err
			}
			return New(p, cfg.Name, env, o, m), nil
		}
		out[i] = t
	}
	return out
}

// Guard is a guarded provider. Make one with [New].
type Guard struct {
	inner keystore.Provider
	name  string
	env   keystore.Env
	opts  Options

	breakers *breakers
	budget   *budget
	pace     *pace
	metrics  *providerMetrics
}

// importer is a guarded provider that takes material (I6).
type importer struct {
	*Guard

	inner keystore.Importer
}

// assumer is a guarded provider in which identities of tenants can be assumed (I6).
type assumer struct {
	*Guard

	inner keystore.Assumer
}

// assumingImporter is both.
type assumingImporter struct {
	*importer

	assumer assumer
}

// owned is a guarded provider that acts as the identity of a tenant.
type owned struct {
	*Guard

	inner keystore.Owned
}

// As implements [keystore.Assumer]. All identities of a keystore share its rate and
// its budget of retries, which are about the keystore; each has breakers of its
// own, since keys of one name in two tenants' places are two keys.
func (a assumer) As(id keystore.Identity) (keystore.Owned, error) {
	p, err := a.inner.As(id)
	if err != nil {
		return nil, err
	}
	g := *a.Guard
	g.inner, g.breakers = p, newBreakers(g.env)
	return &owned{Guard: &g, inner: p}, nil
}

// As implements [keystore.Assumer].
func (a *assumingImporter) As(id keystore.Identity) (keystore.Owned, error) { return a.assumer.As(id) }

// Owner implements [keystore.Owned].
func (o *owned) Owner() string { return o.inner.Owner() }

// Prove implements [keystore.Owned].
func (o *owned) Prove(ctx context.Context, req keystore.ProveRequest) (out keystore.Proof, err error) {
	err = o.call(ctx, keystore.OpProve, req.Key, req.Correlation, func(ctx context.Context) (keystore.RequestID, error) {
		out, err = o.inner.Prove(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

// New guards a provider that is configured as name. The result is a
// [keystore.Importer] if p is one, and a [keystore.Assumer] if p is one. m may be nil.
func New(p keystore.Provider, name string, env keystore.Env, opts Options, m *Metrics) keystore.Provider {
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Second
	}
	if opts.Attempts == 0 {
		opts.Attempts = 3
	}
	g := &Guard{
		inner: p, name: name, env: env, opts: opts,
		breakers: newBreakers(env), budget: newBudget(), pace: newPace(opts.Rate, env.Clock.Now()),
	}
	g.metrics = m.provider(name, g.breakers)
	imp, imports := p.(keystore.Importer)
	as, assumes := p.(keystore.Assumer)
	switch {
	case imports && assumes:
		return &assumingImporter{importer: &importer{Guard: g, inner: imp}, assumer: assumer{Guard: g, inner: as}}
	case imports:
		return &importer{Guard: g, inner: imp}
	case assumes:
		return &assumer{Guard: g, inner: as}
	}
	return g
}

// Inner returns what is guarded, for checks that ask it directly.
func (g *Guard) Inner() keystore.Provider { return g.inner }

// Wrap implements [keystore.Provider].
func (g *Guard) Wrap(ctx context.Context, req keystore.WrapRequest) (out keystore.WrapResult, err error) {
	err = g.call(ctx, keystore.OpWrap, req.Key, req.Correlation, func(ctx context.Context) (keystore.RequestID, error) {
		out, err = g.inner.Wrap(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

// Unwrap implements [keystore.Provider].
func (g *Guard) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (out keystore.UnwrapResult, err error) {
	err = g.call(ctx, keystore.OpUnwrap, req.Key, req.Correlation, func(ctx context.Context) (keystore.RequestID, error) {
		out, err = g.inner.Unwrap(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

// Describe implements [keystore.Provider].
func (g *Guard) Describe(ctx context.Context, req keystore.DescribeRequest) (out keystore.Description, err error) {
	err = g.call(ctx, keystore.OpDescribe, req.Key, req.Correlation, func(ctx context.Context) (keystore.RequestID, error) {
		out, err = g.inner.Describe(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

// Health implements [keystore.Provider]. It is asked whatever a breaker says: it
// is how people find out.
func (g *Guard) Health(ctx context.Context, id corr.ID) error {
	return g.call(ctx, keystore.OpHealth, "", id, func(ctx context.Context) (keystore.RequestID, error) { return "", g.inner.Health(ctx, id) })
}

// Close implements [keystore.Provider].
func (g *Guard) Close() error { return g.inner.Close() }

// ImportParameters implements [keystore.Importer].
func (i *importer) ImportParameters(ctx context.Context, req keystore.ImportParametersRequest) (out keystore.ImportParameters, err error) {
	err = i.call(ctx, keystore.OpImportParameters, req.Key, req.Correlation, func(ctx context.Context) (keystore.RequestID, error) {
		out, err = i.inner.ImportParameters(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

// ImportMaterial implements [keystore.Importer].
func (i *importer) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (out keystore.ImportResult, err error) {
	err = i.call(ctx, keystore.OpImportMaterial, req.Key, req.Correlation, func(ctx context.Context) (keystore.RequestID, error) {
		out, err = i.inner.ImportMaterial(ctx, req)
		return out.RequestID, err
	})
	return out, err
}

// repeatable says which operations may be tried again (I2). An import uses its
// token up; a health check answers for this moment.
func repeatable(op keystore.Op) bool {
	return op == keystore.OpWrap || op == keystore.OpUnwrap || op == keystore.OpDescribe || op == keystore.OpProve || op == keystore.OpImportParameters
}

// attempt is one try of a call.
type attempt func(ctx context.Context) (keystore.RequestID, error)

// call makes one call with all that guards it.
func (g *Guard) call(ctx context.Context, op keystore.Op, key keystore.KeyRef, id corr.ID, do attempt) error {
	start := g.env.Clock.Now()
	g.budget.call()
	rid, tries, err := g.try(ctx, op, key, do)
	took := g.env.Clock.Since(start)
	class := "ok"
	if err != nil {
		class = keystore.ClassOf(err).String()
		if e, ok := errors.AsType[*keystore.Error](err); ok {
			rid = e.RequestID
		}
	}
	g.metrics.call(op, class, took)
	g.env.Logger.LogAttrs(ctx, slog.LevelDebug, "keystore call",
		slog.String("keystore", g.name), slog.String("op", op.String()), slog.String("outcome", class), slog.Int("attempts", tries),
		slog.Duration("took", took), slog.String("correlation", string(id)), slog.String("request", clip(string(rid))))
	return err
}

// clip bounds what a keystore said in a log.
func clip(s string) string {
	if len(s) > keystore.MaxRequestID {
		return s[:keystore.MaxRequestID]
	}
	return s
}

// fail is an error of the guard itself.
func (g *Guard) fail(op keystore.Op, key keystore.KeyRef, class keystore.Class, cause error) error {
	if len(key) > keystore.MaxKeyRef {
		key = key[:keystore.MaxKeyRef]
	}
	return keystore.NewError(keystore.Error{Class: class, Provider: g.name, Key: key, Op: op}, cause)
}

func (g *Guard) try(ctx context.Context, op keystore.Op, key keystore.KeyRef, do attempt) (rid keystore.RequestID, tries int, err error) {
	for {
		release := func(verdict) {}
		if op != keystore.OpHealth {
			wait, enter := g.breakers.enter(key)
			if enter == nil {
				g.metrics.refuse(refusedByBreaker)
				if tries > 0 {
					return rid, tries, err // what opened it says more
				}
				return rid, tries, g.fail(op, key, keystore.Unavailable,
					fmt.Errorf("not asked: %d calls for this key went unanswered; the next one is made in %s", breakAfter, wait.Round(time.Millisecond)))
			}
			release = enter
		}
		if perr := g.pace.wait(ctx, g.env.Clock); perr != nil {
			release(unsaid)
			class := keystore.Throttled
			if ctx.Err() != nil {
				class = keystore.Unavailable
			} else {
				g.metrics.refuse(refusedByRate)
			}
			return rid, tries, g.fail(op, key, class, perr)
		}
		tries++
		rid, err = g.once(ctx, do)
		release(judge(ctx, err))
		if err == nil || tries >= g.opts.Attempts || !repeatable(op) || !keystore.IsTransient(err) || ctx.Err() != nil {
			return rid, tries, err
		}
		if !g.budget.retry() {
			g.metrics.refuse(refusedByBudget)
			return rid, tries, err
		}
		pause, rerr := g.pause(keystore.ClassOf(err), tries)
		if rerr != nil {
			return rid, tries, err
		}
		if end, ok := ctx.Deadline(); ok && end.Sub(g.env.Clock.Now()) <= pause {
			return rid, tries, err
		}
		g.metrics.retry()
		if werr := g.env.Clock.Sleep(ctx, pause); werr != nil {
			return rid, tries, interrupted(err, werr)
		}
	}
}

// once makes one attempt with its deadline.
func (g *Guard) once(ctx context.Context, do attempt) (keystore.RequestID, error) {
	ctx, cancel := context.WithTimeout(ctx, g.opts.Timeout)
	defer cancel()
	return do(ctx)
}

// interrupted is a failure after which the caller gave up waiting for the next
// attempt: it keeps its class and says that the context ended too.
func interrupted(err, ended error) error {
	e, ok := errors.AsType[*keystore.Error](err)
	if !ok {
		return errors.Join(err, ended)
	}
	cause := ended
	if e.Unwrap() != nil {
		cause = fmt.Errorf("%w; then the call ended: %w", e.Unwrap(), ended)
	}
	return keystore.NewError(*e, cause)
}

// Pauses before the next attempt. Each doubles from attempt to attempt.
const (
	pauseUnavailable = 100 * time.Millisecond
	pauseThrottled   = 500 * time.Millisecond
	maxPause         = 5 * time.Second
)

// pause returns how long to wait before another attempt: half of it is certain,
// half is random, so that nodes which failed together do not come back together.
func (g *Guard) pause(class keystore.Class, tries int) (time.Duration, error) {
	d := pauseUnavailable
	if class == keystore.Throttled {
		d = pauseThrottled
	}
	d = min(d<<(tries-1), maxPause)
	return jitter(g.env, d)
}

// jitter returns d/2 to d.
func jitter(env keystore.Env, d time.Duration) (time.Duration, error) {
	var b [2]byte
	if _, err := io.ReadFull(env.Rand, b[:]); err != nil {
		return 0, err
	}
	part := int64(binary.BigEndian.Uint16(b[:]))
	return d/2 + time.Duration(int64(d/2)*part/(1<<16-1)), nil
}
