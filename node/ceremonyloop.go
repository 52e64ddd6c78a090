package node

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/seal"
)

// holdCeremonies takes the steps of an open ceremony that need nobody: whoever began it
// need not be there any more. What a person gave to this node expires here, too.
//
// A step may wait for keystores for a long time, so it runs beside this loop, one at a
// time: a ceremony that is cancelled or expires ends the step, and what was given to it is
// wiped, whatever a keystore does.
func (n *Node) holdCeremonies(ctx context.Context) error {
	defer n.consent.drop(nil)
	var step ceremonyStep
	defer step.wait()
	for {
		if err := n.clock.Sleep(ctx, ceremonyLook); err != nil {
			step.end()
			return err
		}
		c, ok := n.machine.View().OpenCeremony()
		if !ok || n.mayHold() != nil {
			step.end()
			n.consent.drop(nil)
			continue
		}
		if step.of != string(c.GetId()) {
			step.end()
		}
		n.consent.drop(c.GetId())
		n.consent.mu.Lock()
		people := false // brought something that keystores could complete
		if o := n.consent.opening; o != nil {
			o.Expire()
			people = !o.Progress().Expires.IsZero() && o.Waits()
		}
		due := !n.clock.Now().Before(n.consent.after)
		n.consent.mu.Unlock()
		if due && !step.running() && n.stepIsMine(c, people) {
			step.begin(ctx, string(c.GetId()), func(ctx context.Context) { n.takeStep(ctx, c) })
		}
	}
}

// ceremonyStep is a step that is being taken beside the loop.
type ceremonyStep struct {
	of     string // id of the ceremony
	cancel context.CancelFunc
	done   chan struct{} // nil: none was ever begun
	active *atomic.Bool
}

func (s *ceremonyStep) running() bool { return s.active != nil && s.active.Load() }

func (s *ceremonyStep) begin(ctx context.Context, of string, do func(context.Context)) {
	ctx, s.cancel = context.WithCancel(ctx)
	s.of, s.done, s.active = of, make(chan struct{}), new(atomic.Bool)
	s.active.Store(true)
	done, active, cancel := s.done, s.active, s.cancel
	go func() {
		defer close(done)
		defer active.Store(false)
		defer cancel()
		do(ctx)
	}()
}

// end tells the step to end, and does not wait for it.
func (s *ceremonyStep) end() {
	if s.cancel != nil {
		s.cancel()
	}
}

// wait waits for the last step to end.
func (s *ceremonyStep) wait() {
	if s.done != nil {
		<-s.done
	}
}

// takeStep takes a step, and keeps why it did not succeed.
func (n *Node) takeStep(ctx context.Context, c *fsmpb.Ceremony) {
	err := n.stepCeremony(ctx, c)
	if ctx.Err() != nil {
		return // nobody waits for it any more
	}
	n.noteCeremony(c.GetId(), err)
	if err != nil {
		n.log.WarnContext(ctx, "a ceremony waits; this node tries again by itself", slog.String("ceremony", CeremonyName(c.GetId())), slog.Any("error", err))
	}
}

// stepIsMine reports whether there is a step that this node is to take without anybody:
// as the leader to open the present seal where keystores do, and to commit what was
// proved; as another voter than its maker to prove a new seal where keystores do, or where
// people brought their shares to this node and a keystore is missing.
func (n *Node) stepIsMine(c *fsmpb.Ceremony, people bool) bool {
	v := n.machine.View()
	leads := n.cluster.LeaderID() == n.cluster.NodeID()
	if n.provesSeals() != nil {
		return false
	}
	record := v.Cluster().GetSealRecord()
	if c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
		if c.GetProof() != nil {
			return leads && !v.NeedsConfirmation(c)
		}
		if people && v.MayProve(c, n.id) {
			return true
		}
		if !n.myTurn(v, c) {
			return false
		}
		record = c.GetStagedRecord()
	} else if !leads {
		return false
	}
	r, err := seal.ParseRecord(record)
	if err == nil && c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_OPEN {
		r = n.presentSeal(r)
	}
	return err == nil && r.PersonsNeeded() == 0
}

// stepCeremony takes one step, with a record of its own.
func (n *Node) stepCeremony(ctx context.Context, c *fsmpb.Ceremony) error {
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, id)
	return n.gate.DoNode(ctx, gate.NodeCeremony, CeremonyName(c.GetId()), func(tok gate.Token) error {
		h := holding{n: n, tok: tok, id: c.GetId()}
		if c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
			return h.proveWithoutPeople(ctx)
		}
		o, base, err := n.gatherConsent(c)
		if err != nil {
			return err
		}
		err = h.stageIfOpen(ctx, c, o, base)
		if err != nil && o.Progress().Expires.IsZero() {
			o.Reset() // as of a proof
		}
		return err
	})
}
