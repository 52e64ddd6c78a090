package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// pending returns what is to be compared now.
func (p *comparison) pending() (r *compareRecord, epoch uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok = p.record != nil && p.record.Foreign && !p.arriving && p.failure == nil && len(p.views) > 0
	return p.record, p.epoch, ok
}

// follow compares, whenever there is something to compare.
func (p *comparison) follow(ctx context.Context) error {
	if p.c.cfg.MAC == nil {
		return nil
	}
	for ctx.Err() == nil {
		r, epoch, ok := p.pending()
		if !ok {
			if !p.idle(ctx) {
				break
			}
			continue
		}
		p.round(ctx, r, epoch)
		if _, now, again := p.pending(); again && now == epoch && !pause(ctx, p.c.clk, comparePause) {
			break
		}
	}
	return nil
}

// idle waits for something to compare; false: ctx ended.
func (p *comparison) idle(ctx context.Context) bool {
	p.mu.Lock()
	named := p.record != nil && !p.record.Foreign
	p.mu.Unlock()
	if named {
		// With its first lease it has what its leader has, all of it from entries of the
		// log that it verified: from then on its own registry names its witnesses.
		if p.c.Standing().Usable(p.c.clk.Read()) && p.c.believed() == nil {
			p.mu.Lock()
			epoch := p.epoch
			p.mu.Unlock()
			p.close(epoch)
		}
		bound, cancel := context.WithTimeout(ctx, comparePause)
		defer cancel()
		select {
		case <-p.wake:
		case <-bound.Done():
		}
		return ctx.Err() == nil
	}
	select {
	case <-p.wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// round asks all witnesses that were not heard yet, at once.
func (p *comparison) round(ctx context.Context, r *compareRecord, epoch uint64) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	if p.epoch != epoch {
		p.mu.Unlock()
		return // another snapshot came
	}
	var ask []int
	for i, v := range p.said {
		if v == silent || v == unheard {
			p.said[i], ask = unheard, append(ask, i)
		}
	}
	p.asking = cancel
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, i := range ask {
		wg.Go(func() {
			if p.hear(i, p.ask(asking, r.Witnesses[i], epoch), epoch) {
				cancel()
			}
		})
	}
	wg.Wait()
	p.conclude(ctx, epoch)
}

// hear takes what a witness said, and reports whether nobody else needs to be heard. Of
// those that a join token names all are: each of them can tell a lie.
func (p *comparison) hear(i int, said verdict, epoch uint64) (enough bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return true
	}
	p.said[i] = said
	what, _ := p.judge()
	return what != undecided && !p.record.Joined
}

// conclude draws the conclusion of a round.
func (p *comparison) conclude(ctx context.Context, epoch uint64) {
	p.mu.Lock()
	p.asking = nil
	if p.epoch != epoch || p.failure != nil {
		p.mu.Unlock()
		return
	}
	what, against := p.judge()
	sender := p.record.from()
	if what == refuted {
		p.failure = errs.New(errs.StateCorrupt, fmt.Sprintf("the state of this node, which %s sent in a snapshot, is not that of member %s", sender, strings.Join(against, ", ")),
			errs.Hint("find out which of them was taken over, and who can write to the data directories; then remove this node (krypton operator remove) and let it join again with an empty one; docs/runbooks/state-not-proved.md"))
		p.views = nil
	}
	failure := p.failure
	p.mu.Unlock()
	switch what {
	case refuted:
		p.c.log.LogAttrs(ctx, slog.LevelError, "the state of this node is not believed; it serves nothing", slog.Any("error", failure))
	case confirmed:
		if len(against) > 0 {
			p.c.log.LogAttrs(ctx, slog.LevelError, "members have another state than a majority of the voters", slog.Any("peers", against))
		}
		if p.close(epoch) {
			p.c.log.LogAttrs(ctx, slog.LevelInfo, "the state that came in a snapshot was compared with that of other members", slog.String("from", sender))
			p.c.leases.renewed()
		}
	case undecided:
	}
}

// close ends the comparison of that state, the file first.
func (p *comparison) close(epoch uint64) bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	stale := p.epoch != epoch || p.arriving
	p.mu.Unlock()
	if stale {
		return false
	}
	if err := p.remove(); err != nil {
		p.c.log.LogAttrs(p.c.base, slog.LevelError, "that the state was compared is not on disk, so this node does not serve yet", slog.Any("error", err))
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record, p.views, p.said = nil, nil, nil
	p.open.Store(false)
	return true
}

// ask compares with one member.
func (p *comparison) ask(ctx context.Context, w witness, epoch uint64) verdict {
	id, same, ok := p.locate(w)
	switch {
	case !ok:
		return silent
	case !same: // keys of members never change
		return differs
	}
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	peer, err := p.c.peers.ready(ctx, id)
	if err != nil {
		return silent
	}
	var from grpcpeer.Peer
	r, err := peer.StateDigest(ctx, &clusterpb.StateDigestRequest{}, grpc.Peer(&from))
	if err == nil && !w.is(from) {
		err = errNoMember // the connection is from when this node knew the member by another key
	}
	if err != nil {
		p.c.log.LogAttrs(ctx, slog.LevelDebug, "a member does not say what its state is", slog.String("peer", string(id)), slog.Any("error", wire.FromStatus(err)))
		return silent
	}
	if len(r.GetDigest()) != sha256.Size || p.c.machine.Wait(ctx, r.GetIndex()) != nil {
		return silent
	}
	v, ok := p.at(r.GetIndex(), epoch)
	if !ok {
		return silent // from before the snapshot, or too long ago: it is asked again
	}
	if p.digestOf(v) != [32]byte(r.GetDigest()) {
		return differs
	}
	return agrees
}

// at returns the own state behind the command at index, if this node remembers it.
func (p *comparison) at(index, epoch uint64) (*fsm.View, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return nil, false
	}
	for _, v := range p.views {
		if v.Index() == index {
			return v, true
		}
	}
	return nil, false
}

func (p *comparison) digestOf(v *fsm.View) [32]byte {
	p.digesting.Lock()
	defer p.digesting.Unlock()
	if p.of != v {
		p.of, p.digest = v, v.Digest()
	}
	return p.digest
}

// answer says what the state of this node is.
func (p *comparison) answer(id NodeID) (*clusterpb.StateDigestResponse, error) {
	if err := p.c.believed(); err != nil {
		return nil, err
	}
	if err := p.admit(id); err != nil {
		return nil, err
	}
	defer func() {
		p.answering.Lock()
		defer p.answering.Unlock()
		p.busy = false
	}()
	v := p.c.machine.View()
	sum := p.digestOf(v)
	if err := p.c.believed(); err != nil { // the view may have come in between
		return nil, err
	}
	return &clusterpb.StateDigestResponse{Index: v.Index(), Digest: sum[:]}, nil
}

// admit bounds what a member can make this node compute.
func (p *comparison) admit(id NodeID) error {
	p.answering.Lock()
	defer p.answering.Unlock()
	now := p.c.clk.Now()
	for other, at := range p.answered {
		if now.Sub(at) >= digestPause {
			delete(p.answered, other)
		}
	}
	if _, soon := p.answered[id]; soon || p.busy {
		return errs.New(errs.Throttled, "the state is compared with one member at a time, and not as often as this", errs.Hint("retry"))
	}
	p.answered[id], p.busy = now, true
	return nil
}
