package seal

import (
	"context"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Ask asks every keystore of which something can help, all at once: those that
// gave their share, and those of groups that have enough, are not asked again.
// Each gets at most wait and the correlation id of ctx; with the last needed
// answer the other calls are cancelled. It returns when all calls have ended: nil
// if the MasterKey is open (or a person's share opened it meanwhile), a
// [*MissingError] if more is needed, errs.StateCorrupt if what was gathered did
// not match the commitment, [ErrClosed] if it was closed. Rounds run one after the other.
//
// Nothing is asked of a keystore twice in one call; the caller asks again, with
// growing pauses, while [Opening.Waits] says that there is whom to ask, and checks
// before that no hold is set.
func (o *Opening) Ask(ctx context.Context, keystores *keystore.Registry, wait time.Duration) error {
	o.asking.Lock()
	defer o.asking.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return errClosed()
	}
	before, era := o.opened, o.era
	var ask []int
	if o.masterKey.IsZero() {
		ask = o.useful()
	}
	for _, i := range ask {
		o.seats[i].asked = true
	}
	o.cancel = cancel
	o.mu.Unlock()

	var wg sync.WaitGroup
	broken := make([]error, len(ask))
	for n, i := range ask {
		wg.Go(func() {
			ctx, stop := context.WithTimeout(ctx, wait)
			defer stop()
			a := o.question(ctx, i, keystores)
			broken[n] = o.answered(ctx, era, i, a)
		})
	}
	wg.Wait()

	o.mu.Lock()
	defer o.mu.Unlock()
	o.cancel = nil
	if o.closed {
		return errClosed()
	}
	for _, err := range broken {
		if err != nil {
			return err
		}
	}
	if o.opened != before || !o.masterKey.IsZero() {
		return nil
	}
	return &MissingError{Progress: o.progress()}
}

// Waits reports whether there is a keystore to ask: one that has not given what
// would help. While there is none, only people can help.
func (o *Opening) Waits() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.closed && o.masterKey.IsZero() && len(o.useful()) > 0
}

// useful are the seats of keystores worth asking. mu is held.
func (o *Opening) useful() (ask []int) {
	groups := o.groups()
	for i, at := range o.seats {
		if g := groups[at.group]; at.keystore() && at.sealed() && at.share.secret.IsZero() && g.Have < g.Need {
			ask = append(ask, i)
		}
	}
	return ask
}

// answer is what a keystore gave: its share, the MasterKey in auto mode, or an error.
type answer struct {
	share     Share
	masterKey memsec.Secret
	err       error
}

func (a answer) destroy() {
	a.share.Destroy()
	a.masterKey.Destroy()
}

// question asks one keystore. No lock is held.
func (o *Opening) question(ctx context.Context, i int, keystores *keystore.Registry) (a answer) {
	at := o.seats[i].holder // never changes
	if at.wrapping != nil {
		a.masterKey, a.err = openWrapping(ctx, o.record, at.wrapping, keystores)
		return a
	}
	if a.share, a.err = openShard(ctx, o.record, at.index, keystores); a.err != nil {
		return a
	}
	a.share = a.share.ForCluster(o.cluster)
	return a
}

// answered takes an answer over. The error is of what was combined with it, not
// the answer's own.
func (o *Opening) answered(ctx context.Context, era uint64, i int, a answer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	at := &o.seats[i]
	at.asked = false
	switch {
	case era != o.era:
		// Reset or open meanwhile: nobody waits for it, and that a call was
		// cancelled is no failure of the keystore.
		a.destroy()
		return nil
	case a.err != nil && context.Cause(ctx) == context.Canceled: //nolint:errorlint // The cause itself: not a deadline, which is the keystore's failure.
		return nil
	case a.err != nil:
		f := newFailure(at.key, a.err)
		if at.fail == nil || at.gave {
			at.since = o.clock.Now()
		}
		at.fail, at.gave = &f, false
		return nil
	}
	if at.fail != nil || !at.gave {
		at.since = o.clock.Now()
	}
	at.fail, at.gave = nil, true
	if at.wrapping != nil {
		o.complete(a.masterKey, []int{i + 1})
		return nil
	}
	if !at.share.secret.IsZero() { // a person brought it meanwhile
		a.destroy()
		return nil
	}
	at.share = a.share
	return o.combine()
}
