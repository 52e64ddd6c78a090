package server

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	// executeEvery is how often the leader looks for approvals that nobody executed.
	executeEvery = time.Second
	// executeAfter is how long it leaves them to the node that took the last signature.
	executeAfter = 5 * time.Second
	// executeAtMost is the longest time between two attempts.
	executeAtMost = 5 * time.Minute
	// stuckAfter is how long an approval has all its signatures before status says so.
	stuckAfter = time.Minute
	// executeAtOnce bounds how many the leader executes in one round: each may wait for
	// a keystore that does not answer.
	executeAtOnce = 16
)

// attempts is what this node knows of executing approvals. It is about those that are
// APPROVED only, so it is no larger than the registry lets them be.
type attempts struct {
	mu  sync.Mutex
	all map[string]attempt
}

// attempt is how it went last.
type attempt struct {
	next time.Time     // not before
	wait time.Duration // until then, when it began; 0: it was not tried
	err  error         // nil: it was not tried here
}

// due reports whether an approval is to be tried now, and remembers one that is seen
// for the first time.
func (a *attempts) due(id string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, seen := a.all[id]
	if !seen {
		if a.all == nil {
			a.all = map[string]attempt{}
		}
		a.all[id] = attempt{next: now.Add(executeAfter)}
		return false
	}
	return !now.Before(at.next)
}

// failed remembers why, and doubles the wait.
func (a *attempts) failed(id string, now time.Time, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string]attempt{}
	}
	wait := min(max(2*a.all[id].wait, executeAfter), executeAtMost)
	a.all[id] = attempt{next: now.Add(wait), wait: wait, err: err}
}

// why returns why this node could not execute an approval; nil: it did not try.
func (a *attempts) why(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[id].err
}

// keep forgets all others.
func (a *attempts) keep(ids map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.all {
		if !ids[id] {
			delete(a.all, id)
		}
	}
}

// execute does what an approval orders that has all its signatures, as the call of who
// asked for it. An error is why it is not done: what is a fact, the approval says from
// then on; all else may pass.
func (c *calls) execute(ctx context.Context, a *fsmpb.Approval) error {
	err := c.executeOnce(ctx, a)
	if now, ok := c.machine.View().Approval(a.GetId()); ok && now.GetState() == fsmpb.ApprovalState_APPROVAL_STATE_APPROVED && err != nil {
		c.attempts.failed(a.GetId(), c.clock.Now(), err)
		c.log.WarnContext(ctx, "an approval could not be executed yet", slog.String("approval", approvalName(a.GetId())),
			slog.String("code", errs.Of(err).String()), slog.Any("error", err))
	}
	return err
}

func (c *calls) executeOnce(ctx context.Context, a *fsmpb.Approval) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// The value may quote anything, so only where it happened is logged. The process
			// goes on: it would meet the same approval after a restart, and every next leader.
			c.log.ErrorContext(ctx, "executing an approval panicked", slog.String("approval", approvalName(a.GetId())), slog.String("stack", string(debug.Stack())))
			err = errs.New(errs.Internal, "internal error", errs.Hint("look for the approval in the node's log"))
		}
	}()
	r, err := sovereignFrom(&anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetApiRequest()})
	if err != nil {
		return err // stored by a node of a later release
	}
	who, err := requesterOf(c.machine.View(), a)
	if err != nil {
		return err
	}
	return c.make(ctx, r, who, byApproval{id: a.GetId(), stage: gate.Signed, signers: signersText(a)})
}

// signersText names who signed, for the record.
func signersText(a *fsmpb.Approval) string {
	var b strings.Builder
	for _, s := range a.GetSignatures() {
		name := personName(s)
		if b.Len()+len(name)+1 > audit.MaxApprovedBy {
			break
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(name)
	}
	return b.String()
}

// executeRegularly executes, while this node leads, what has all its signatures and
// was not executed: the node that took the last one died, or could not.
func (c *calls) executeRegularly(ctx context.Context) error {
	for c.clock.Sleep(ctx, executeEvery) == nil {
		c.executeDue(ctx)
	}
	return nil
}

// executeDue makes one round.
func (c *calls) executeDue(ctx context.Context) {
	v := c.machine.View()
	waiting := v.Approvals(fsmpb.ApprovalState_APPROVAL_STATE_APPROVED, "", MaxPage)
	ids := make(map[string]bool, len(waiting))
	for _, a := range waiting {
		ids[a.GetId()] = true
	}
	c.attempts.keep(ids)
	if !c.cluster.IsLeader() {
		return
	}
	done := 0
	for _, a := range waiting {
		if ctx.Err() != nil || done == executeAtOnce {
			return
		}
		if !c.attempts.due(a.GetId(), c.clock.Now()) {
			continue
		}
		done++
		id, err := corr.New(c.rand)
		if err != nil {
			c.log.ErrorContext(ctx, "no randomness for a correlation id", slog.Any("error", err))
			return
		}
		bound, cancel := context.WithTimeout(corr.With(ctx, id), c.budget)
		_ = c.execute(bound, a) // it remembers why not
		cancel()
	}
}
