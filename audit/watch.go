package audit

import (
	"context"
	"fmt"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// watchTicks is into how many parts the watcher cuts the deadline.
const watchTicks = 10

// call is what a goroutine has asked of the file system. mu guards it.
type call struct {
	what  string // "" = nothing
	ticks int    // how often the watcher has seen it
}

// begin notes that a call into the file system begins. It is called with mu.
func (l *Log) begin(c *call, what string) {
	c.what, c.ticks = what, 0
	l.toWatch.Signal()
}

// end notes that the call returned. It is called with mu.
func (l *Log) end(c *call) { c.what = "" }

// next notes that the writer goes on to another call, with its own deadline. An
// error says that the log failed meanwhile, so that nothing more may happen.
func (l *Log) next(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return l.failure
	}
	l.begin(&l.writing, what)
	return nil
}

// watch fails the log when a call into the file system does not return within
// the deadline (I7). A disk that hangs gives no error: without this the node
// would look healthy while its calls pile up.
//
// It counts ticks and does not compare times: after a pause of the whole process
// (a stopped container, a migrated machine) a call that took no time looks hours
// old, and a healthy node would stop for good. A pause is one tick.
//
// One goroutine that looks ten times per deadline costs a write nothing; a timer
// per write would be the largest part of it.
func (l *Log) watch(ctx context.Context) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unwatched = true
		l.changed.Broadcast()
	}()
	for l.awaitCall(ctx) {
		if l.cfg.Clock.Sleep(ctx, l.cfg.Deadline/watchTicks) != nil {
			return
		}
		l.look()
	}
}

// awaitCall waits until there is a call to watch, and reports false when there
// is no more reason to.
func (l *Log) awaitCall(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.writing.what == "" && l.syncing.what == "" && ctx.Err() == nil {
		l.toWatch.Wait()
	}
	return ctx.Err() == nil && !l.hung
}

// look counts a tick for every call that has not returned. The first tick may
// come right after the call began, so it does not count.
func (l *Log) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range [...]*call{&l.writing, &l.syncing} {
		if c.what == "" {
			continue
		}
		if c.ticks++; c.ticks > watchTicks {
			l.hung = true
			l.fail(l.hungDisk(c.what))
		}
	}
}

func (l *Log) hungDisk(what string) error {
	return errs.New(errs.AuditUnavailable, fmt.Sprintf("the disk of the audit log hangs: no answer to %s in %v", what, l.cfg.Deadline),
		errs.Hint("look at the disk under %s, then restart the node", l.cfg.Dir))
}
