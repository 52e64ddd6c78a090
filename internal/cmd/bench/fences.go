//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
)

func fencePairs() []pair {
	const (
		applied = "the same change of three voters that waits for no fence"
		slice   = 150 * time.Millisecond
	)
	pairs := []pair{
		{
			name: "lease check, 32 callers", baseline: "unary encrypt 256 B, 32 callers", goal: 20, slice: 100 * time.Millisecond, open: checking,
			why: "it is the price of every answer, so it must be lost in one: at most a twentieth. It reads three clocks, two of them by system calls",
		},
		{
			name: "fencing write, 1 writer", baseline: "two such changes that wait for no fence, and a round trip over gRPC, one after the other", goal: 1, slice: slice, open: fencing(1, 2),
			why: "every holder has to apply the change and say so: one more entry tells followers that it is committed, and the slowest holder has one round trip",
		},
	}
	for _, writers := range []int{16, 64} {
		pairs = append(pairs, pair{
			name: fmt.Sprintf("fencing write, %d writers", writers), baseline: applied, goal: 0.5, slice: slice, open: fencing(writers, 1),
			why: "changes that wait together share an entry and a report of each holder, so they take at most twice as long as without",
		})
	}
	return pairs
}

// three returns three voters; those of an older format fence nothing.
func (e *env) three(ctx context.Context, format uint32) (*voters, error) {
	if v := e.voters[format]; v != nil {
		return v, nil
	}
	v, err := newVoters(ctx, e, fmt.Sprintf("voters-%d", format), format)
	if err != nil {
		return nil, err
	}
	e.voters[format] = v
	if v.fences() != (format >= fsm.FormatLeases) {
		return nil, errors.New("a cluster has another format than it was founded with")
	}
	return v, nil
}

// checking is what every answer pays: the standing of the node is loaded, the
// clock is read, and both are compared.
func checking(ctx context.Context, e *env) (match, error) {
	v, err := e.three(ctx, fsm.FormatLeases)
	if err != nil {
		return match{}, err
	}
	nd, err := e.node(ctx)
	if err != nil {
		return match{}, err
	}
	var conns pool
	call, _, err := conns.to(ctx, e, nd.Addresses().GRPC, encrypt(256), nil)
	if err != nil {
		return match{}, errors.Join(err, conns.close())
	}
	check := func(context.Context, int) error {
		// A batch: what counts the operations of a crowd would cost more than one check.
		for range checks {
			if s := v.nodes[1].c.Standing(); !s.Usable(clock.System{}.Read()) {
				return errors.New("a node has no lease")
			}
		}
		return nil
	}
	return match{
		subject: side{loop: func(ctx context.Context, d time.Duration) (tally, error) {
			if err := v.settle(ctx); err != nil {
				return tally{}, err
			}
			t, err := crowd(many, check)(ctx, d)
			t.ops *= checks
			return t, err
		}},
		baseline: side{crowd(many, call), scrape(nd.Addresses().Ops)},
		close:    conns.close,
	}, nil
}

// checks is how many checks of a lease are one call of a caller.
const checks = 256

// fencing compares changes with changes that are not fenced, as many as one is
// worth; and if that is more than one, with a
// round trip besides, to another process and over mTLS as between members.
func fencing(writers int, worth int64) func(context.Context, *env) (match, error) {
	return func(ctx context.Context, e *env) (match, error) {
		fenced, err := e.three(ctx, fsm.FormatLeases)
		if err != nil {
			return match{}, err
		}
		plain, err := e.three(ctx, fsm.FormatLeases-1)
		if err != nil {
			return match{}, err
		}
		m := match{subject: side{loop: fenced.writing(writers)}, baseline: side{loop: plain.writing(writers)}}
		if worth > 1 {
			ec, err := e.echoes(ctx)
			if err != nil {
				return match{}, err
			}
			var conns pool
			trip, _, err := conns.to(ctx, e, ec.addrs.GRPC, encrypt(32), nil)
			if err != nil {
				return match{}, errors.Join(err, conns.close())
			}
			m.baseline.loop, m.close = together(m.baseline.loop, worth, crowd(1, trip)), conns.close
		}
		return m, nil
	}
}

// together is a loop whose operation is so many of one loop and one of another,
// one after the other. Both are measured apart, and their times added.
func together(first loop, many int64, second loop) loop {
	return func(ctx context.Context, d time.Duration) (tally, error) {
		a, err := first(ctx, d*9/10)
		if err != nil {
			return tally{}, err
		}
		b, err := second(ctx, d/10)
		if err != nil || a.ops == 0 || b.ops == 0 {
			return tally{}, err
		}
		each := float64(many)/a.rate() + 1/b.rate() // seconds
		return tally{ops: max(1, int64((a.took+b.took).Seconds()/each+0.5)), took: a.took + b.took}, nil
	}
}
