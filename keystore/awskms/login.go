package awskms

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
)

const (
	// earliest is how long before their end credentials are renewed at most. EC2
	// has the next ones five minutes ahead.
	earliest = 5 * time.Minute
	// pause is between two tries to renew credentials that are still valid.
	pause = 10 * time.Second
)

// login holds one identity's credentials and renews them.
type login struct {
	name    string // of the keystore, for logs
	from    source
	clock   clock.Clock
	log     *slog.Logger
	timeout time.Duration
	base    *login // beneath an assumed role; nil

	ctx     context.Context //nolint:containedctx // The life of the keystore, which ends logins under way.
	cancel  context.CancelFunc
	flights sync.WaitGroup

	mu     sync.Mutex
	creds  aws.Credentials
	since  time.Time // when creds were obtained
	tried  time.Time // when the last flight began
	flight *flight   // nil: none under way
}

// flight is a login that is under way.
type flight struct {
	done  chan struct{}
	creds aws.Credentials
	err   error
}

func newLogin(env keystore.Env, name string, timeout time.Duration, from source) *login {
	ctx, cancel := context.WithCancel(context.Background())
	return &login{name: name, from: from, clock: env.Clock, log: env.Logger, timeout: timeout, ctx: ctx, cancel: cancel}
}

func (l *login) close() {
	l.mu.Lock()
	l.cancel() // under mu: no flight begins afterwards
	l.mu.Unlock()
	l.flights.Wait()
	if l.base != nil {
		l.base.close()
	}
}

// get returns credentials. Of valid ones that are near their end it starts the
// renewal and does not wait for it. refusedID is the access key that AWS just
// refused, or empty: those are not returned from memory again.
func (l *login) get(ctx context.Context, refusedID string) (aws.Credentials, error) {
	l.mu.Lock()
	if l.ctx.Err() != nil {
		l.mu.Unlock()
		return aws.Credentials{}, &refused{keystore.Unavailable, errClosed}
	}
	now := l.clock.Now()
	if refusedID != "" && l.creds.AccessKeyID == refusedID {
		l.creds = aws.Credentials{}
	}
	valid := l.creds.HasKeys() && (!l.creds.CanExpire || now.Before(l.creds.Expires))
	if valid && !l.due(now) {
		defer l.mu.Unlock()
		return l.creds, nil
	}
	f := l.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		l.flight, l.tried = f, now
		// The login is for every caller: it carries the first one's correlation
		// id and does not end with it.
		run := context.WithoutCancel(ctx)
		l.flights.Go(func() { l.fly(run, f, valid) })
	}
	creds := l.creds
	l.mu.Unlock()
	if valid {
		return creds, nil
	}
	select {
	case <-f.done:
		return f.creds, f.err
	case <-ctx.Done():
		return aws.Credentials{}, ctx.Err()
	}
}

// due reports whether valid credentials should be renewed: in the last tenth of
// their life, at most earliest before its end. Caller holds mu.
func (l *login) due(now time.Time) bool {
	if !l.creds.CanExpire || now.Sub(l.tried) < pause {
		return false
	}
	return l.creds.Expires.Sub(now) < min(earliest, l.creds.Expires.Sub(l.since)/10)
}

func (l *login) fly(ctx context.Context, f *flight, ahead bool) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)() //nolint:contextcheck // It ends with the keystore too, not only in time.
	f.creds, f.err = l.from(ctx)
	if _, said := errors.AsType[*refused](f.err); f.err != nil && !said {
		f.err = &refused{keystore.Unavailable, f.err} // its time was over
	}
	if f.err != nil && ahead {
		// Nobody waits for this one.
		l.log.LogAttrs(ctx, slog.LevelWarn, "credentials could not be renewed and are used until they end",
			slog.String("keystore", l.name), slog.String("correlation", string(corr.From(ctx))), slog.Any("error", f.err))
	}
	l.mu.Lock()
	l.flight = nil
	if f.err == nil {
		l.creds, l.since = f.creds, l.clock.Now()
	}
	l.mu.Unlock()
	close(f.done)
}

// fresh reports whether the credentials with this access key are the present
// ones and were obtained a moment ago, so that a new login would change nothing.
func (l *login) fresh(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.creds.AccessKeyID == id && l.clock.Now().Sub(l.since) <= sinceLogin
}
