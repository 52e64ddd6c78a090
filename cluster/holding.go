package cluster

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// hold keeps this node's lease: it renews with whoever leads, over one stream to
// another node, or in the process when this one does.
func (l *leases) hold(ctx context.Context) error {
	changes, stop := l.c.leaders.subscribe()
	defer stop()
	for ctx.Err() == nil {
		leader := l.c.LeaderID()
		bound, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.holdWith(bound, leader)
		}()
		for same := true; same; {
			select {
			case <-changes:
				same = l.c.LeaderID() == leader
			case <-done:
				same = false
			case <-ctx.Done():
				same = false
			}
		}
		cancel()
		<-done
	}
	return nil
}

// holdWith renews with that leader until ctx ends or the leader cannot be talked to.
func (l *leases) holdWith(ctx context.Context, leader NodeID) {
	l.connect()
	if leader == "" {
		// Nobody says that there is a leader if it is the one that was known before:
		// what is told is what differs, and a moment without one may be missed.
		_ = pause(ctx, l.clk, l.c.timers.heartbeat)
		return
	}
	if leader == l.c.id {
		_ = l.renewing(ctx, func(r lease.Renew, _ *clusterpb.Confirmed) error {
			l.renew(lease.Reading(l.clk.Read()), l.c.id, nil, r, r.Log)
			return nil
		}, nil)
		return
	}
	err := l.holdOver(ctx, leader)
	if ctx.Err() != nil {
		return
	}
	l.c.log.LogAttrs(ctx, slog.LevelDebug, "the stream of leases ended", slog.String("leader", string(leader)), slog.Any("error", err))
	_ = pause(ctx, l.clk, retryPause)
}

// connect begins anew with a leader: what was found about another one's state does
// not hold for it, and is compared again with its first grant.
func (l *leases) connect() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusal = ""
	if l.holder != nil {
		l.holder.Connect()
	}
}

// leaseStream is a member's end of its stream to the leader.
type leaseStream interface {
	Send(*clusterpb.LeaseRequest) error
	Recv() (*clusterpb.LeaseResponse, error)
}

func (l *leases) holdOver(ctx context.Context, leader NodeID) error {
	p, drop, err := l.c.peers.stream(ctx, leader)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened, err := p.Lease(ctx)
	if err != nil {
		return wire.FromStatus(err)
	}
	stream := l.through(opened)
	questions := make(chan *clusterpb.Confirmed, 1)
	failed := make(chan error, 1)
	go func() {
		defer cancel()
		for {
			down, err := stream.Recv()
			if err == nil {
				err = l.obey(down, questions)
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	silent := false
	err = l.renewing(ctx, func(r lease.Renew, a *clusterpb.Confirmed) error {
		if silent = l.silent(); silent {
			return errSilent
		}
		return stream.Send(&clusterpb.LeaseRequest{Renew: renewToProto(r), Confirmed: a})
	}, questions)
	cancel()
	first := <-failed
	switch {
	case silent:
		l.c.log.LogAttrs(ctx, slog.LevelWarn, "the leader does not answer over the connection for leases, a new one is made", slog.String("leader", string(leader)))
		drop()
		return errSilent
	case err == nil || ctx.Err() != nil:
		return first
	}
	return err
}

var errSilent = errors.New("the leader does not answer")

// silent reports whether the connection to the leader is to be given up.
func (l *leases) silent() bool {
	now := lease.Reading(l.clk.Read())
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holder != nil && l.holder.Silent(now)
}

func renewToProto(r lease.Renew) *clusterpb.Renew {
	if r.History == (lease.History{}) {
		return nil
	}
	return &clusterpb.Renew{
		Nonce: uint64(r.Nonce), Boot: r.Inc.Boot, Restores: r.Inc.Restores, AppliedIndex: r.Applied, Chain: r.Chain[:],
		LogTerm: r.Log.Term, LogIndex: r.Log.Index, History: r.History[:], BoottimeNs: int64(r.Boot), Differs: r.Differs,
	}
}

// renewing sends what is due, and answers to the leader's questions, until ctx
// ends or a send fails.
func (l *leases) renewing(ctx context.Context, send func(lease.Renew, *clusterpb.Confirmed) error, answers <-chan *clusterpb.Confirmed) error {
	for ctx.Err() == nil {
		var answer *clusterpb.Confirmed
		select {
		case answer = <-answers:
		default:
		}
		r, next := l.due()
		if r != (lease.Renew{}) || answer != nil {
			if err := send(r, answer); err != nil {
				return err
			}
		}
		wait, cancel := context.WithCancel(ctx)
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = l.clk.Sleep(wait, next)
		}()
		select {
		case answer = <-answers:
			if err := send(lease.Renew{}, answer); err != nil {
				cancel()
				<-over
				return err
			}
		case <-l.holding:
		case <-over:
		case <-ctx.Done():
		}
		cancel()
		<-over
	}
	return ctx.Err()
}

// due returns the message that is due, if one is, and when the next one will be.
func (l *leases) due() (lease.Renew, time.Duration) {
	// Before the lock, which may take a moment: a lease counts from here.
	now := lease.Reading(l.clk.Read())
	log := l.c.store.mark()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holder == nil {
		return lease.Renew{}, l.c.timers.renew
	}
	var r lease.Renew
	if l.holder.Due(now) == 0 {
		r = l.holder.Renew(now, log)
	}
	return r, max(l.holder.Due(now), time.Millisecond)
}

// obey does what the leader says. Its question is answered with the term that is
// read now, after it came (lease I2).
func (l *leases) obey(m *clusterpb.LeaseResponse, answers chan *clusterpb.Confirmed) error {
	if q := m.GetConfirm(); q != nil {
		h, err := fixed16(q.GetHistory())
		if err != nil {
			return err
		}
		term := l.c.raft.CurrentTerm()
		if a, ok := (lease.Confirm{History: h, Round: q.GetRound(), Term: q.GetTerm()}).Answer(historyOf(l.c.machine.View()), term); ok {
			replace(answers, &clusterpb.Confirmed{
				Round: a.Round, Term: a.Term, History: a.History[:], WallMs: l.clk.Now().UnixMilli(),
			})
		}
	}
	now := lease.Reading(l.clk.Read())
	l.mu.Lock()
	before := l.refusal
	defer func() {
		after := l.refusal
		l.mu.Unlock()
		if after != before && after != "" && after != lease.RefusedNotLeader.String() {
			l.c.log.LogAttrs(l.c.base, slog.LevelWarn, "the leader gives this node no lease", slog.String("reason", after))
		}
	}()
	if l.holder == nil {
		return nil
	}
	if m.GetGrant() != nil || m.GetRefused() != nil {
		l.holder.Answered()
	}
	if g := m.GetGrant(); g != nil {
		grant, err := grantOf(g, m.GetComplete())
		if err != nil {
			return err
		}
		l.take(now, grant, g.GetWhole())
	}
	if r := m.GetRefused(); r != nil {
		l.refused(now, lease.Refusal(r.GetReason())) //nolint:gosec // An unknown number is only text.
	}
	l.holder.Completed(m.GetComplete())
	if at := m.GetFencePending(); at != 0 {
		l.holder.Fence(at)
		wake(l.holding)
	}
	l.present(l.standing.Load().View)
	return nil
}

// take takes a grant. The caller holds mu.
func (l *leases) take(now lease.Reading, g lease.Grant, whole bool) {
	if !whole && l.c.unassured() {
		// Not only answered with a refusal later: what a node found out of a view it keeps
		// as long as that view, and this may be the first that is heard in it.
		l.refusal = "neither this node nor the leader can prove how far the log went; unseal the leader, or another voter"
		l.c.end.doubt(g.Lease)
		l.present(l.standing.Load().View)
		return
	}
	agrees := l.c.agreement(g.Index, g.Chain)
	refusal := l.holder.Grant(now, g, agrees)
	if refusal != lease.RefusalNone {
		l.counts.byHolder[refusal]++
	}
	switch refusal { //nolint:exhaustive // The others are about one message only.
	case lease.RefusedStateDiffers:
		l.refused(now, refusal)
	case lease.RefusalNone:
		l.refusal = ""
		if !whole {
			l.c.end.doubt(g.Lease)
		}
		if agrees == lease.Agrees {
			l.differs = 0
		}
	}
	if agrees == lease.Differs {
		l.differs = g.Index
	}
	l.present(l.standing.Load().View)
}

// refused notes why there is no grant. The caller holds mu.
func (l *leases) refused(now lease.Reading, r lease.Refusal) {
	l.refusal = refusalText(r)
	switch r { //nolint:exhaustive // The others change nothing.
	case lease.RefusedStateDiffers:
		l.holder.Differ()
		if l.differs == 0 {
			l.differs = l.standing.Load().View.Index()
		}
	case lease.RefusedNotLeader:
		// It was asked too early; the next answer may be another one.
		l.holder.Again(now, retryPause)
		wake(l.holding)
	}
	l.present(l.standing.Load().View)
}

func grantOf(g *clusterpb.Grant, complete uint64) (lease.Grant, error) {
	h, err := fixed16(g.GetHistory())
	if err != nil {
		return lease.Grant{}, err
	}
	chain, err := chainOf(g.GetChain())
	return lease.Grant{
		History: h, Term: g.GetTerm(), Inc: lease.Incarnation{Boot: g.GetBoot(), Restores: g.GetRestores()}, Nonce: lease.Nonce(g.GetNonce()),
		Index: g.GetIndex(), Chain: chain, Lease: time.Duration(g.GetDurationMs()) * time.Millisecond, Complete: complete,
	}, err
}
