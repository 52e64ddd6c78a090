//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// voters are three members of a cluster in this process: package cluster with its
// connections, its log on disk and its state machine, and nothing above it. Two of
// them that differ only in the format version differ in one thing: from
// [fsm.FormatLeases] on a change waits for its fence.
type voters struct {
	nodes []*voter
	gate  *gate.Gate
	log   *audit.Log
}

type voter struct {
	dir     *cluster.Dir
	machine *fsm.Machine
	c       *cluster.Cluster
	cancel  context.CancelFunc
	ended   chan error
}

// voterPatience is how long such a cluster may take to form, or to find a leader.
const voterPatience = 30 * time.Second

// everything lets everybody do everything: what a policy costs is in other goals.
type everything struct{}

// Decide implements [gate.Policy].
func (everything) Decide(gate.Query) (gate.Verdict, error) {
	return gate.Verdict{Decision: gate.Allow}, nil
}

// bare are the hooks of a node that has no keys.
type bare struct{}

// Prepare implements [cluster.Hooks].
func (bare) Prepare(context.Context, cluster.NodeID, []byte) ([]byte, error) {
	return nil, errs.New(errs.Sealed, "this node has no keys")
}

// Health implements [cluster.Hooks].
func (bare) Health() cluster.Health { return cluster.Health{SealState: "unsealed", Serving: true} }

// Identify implements [cluster.Hooks]. Changes are made at the leader.
func (bare) Identify(context.Context, auth.Credential) (cluster.Caller, error) {
	return cluster.Caller{}, errs.New(errs.Unauthenticated, "this node knows nobody")
}

// Forward implements [cluster.Hooks].
func (bare) Forward(_ gate.Forwarded, commit func() (auth.Principal, gate.Ours, error)) error {
	_, _, _ = commit() // who asked hears how it ended; there is no trail
	return nil
}

// IssueCertificate implements [cluster.Hooks]. Nobody connects with what it returns.
func (bare) IssueCertificate(_ context.Context, id cluster.NodeID, _ []byte) (cluster.Certificate, error) {
	return cluster.Certificate{Chain: [][]byte{[]byte(id)}, Authorities: [][]byte{[]byte("ca")}}, nil
}

// newVoters starts three voters of a cluster with that format version.
func newVoters(ctx context.Context, e *env, name string, format uint32) (*voters, error) {
	v := &voters{}
	if err := v.open(ctx, e, name, format); err != nil {
		return nil, errors.Join(err, v.close()) //nolint:contextcheck // Closes although ctx may have ended.
	}
	return v, nil
}

func (v *voters) open(ctx context.Context, e *env, name string, format uint32) (err error) {
	ctx, cancel := context.WithTimeout(ctx, voterPatience)
	defer cancel()
	if v.log, _, err = openLog(e, name+"-audit"); err != nil { //nolint:contextcheck // The log lives until it is closed.
		return err
	}
	if v.gate, err = gate.New(gate.Config{Node: name, Sink: v.log, Policy: everything{}, Clock: clock.System{}}); err != nil {
		return err
	}
	for i := range 3 {
		if err := v.start(e, fmt.Sprintf("%s-%d", name, i), format); err != nil { //nolint:contextcheck // A node lives until it is closed.
			return err
		}
	}
	if err := v.form(ctx, format); err != nil {
		return err
	}
	return v.settle(ctx)
}

// start starts one node. Of a format that not all members know a cluster never is;
// it raises its own otherwise.
func (v *voters) start(e *env, name string, format uint32) error {
	n := &voter{machine: fsm.New(fsm.Options{}), ended: make(chan error, 1)}
	var err error
	if n.dir, err = cluster.OpenDir(filepath.Join(e.dir, name), rand.Reader); err != nil {
		return err
	}
	n.c, err = cluster.Open(cluster.Config{
		Dir: n.dir, Machine: n.machine, Hooks: bare{}, Listen: "127.0.0.1:0",
		Self:  cluster.Self{Name: name, Region: "eu", Zone: "a", GRPCAddress: "127.0.0.1:1", RESTAddress: "127.0.0.1:2", Version: "bench", MaxFormat: format},
		Clock: clock.System{}, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return errors.Join(err, n.dir.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() { n.ended <- n.c.Run(ctx) }()
	v.nodes = append(v.nodes, n)
	return n.dir.WriteAddresses(cluster.Addresses{Peer: n.c.PeerAddress()})
}

// form makes the three a cluster.
func (v *voters) form(ctx context.Context, format uint32) error {
	first := v.nodes[0]
	if err := v.as(ctx, auth.LocalOperator(), gate.Init, func(ctx context.Context, tok gate.Token) error {
		_, err := first.c.Bootstrap(ctx, tok, genesisOf(first.c.Member(), format))
		return err
	}); err != nil {
		return err
	}
	for _, n := range v.nodes[1:] {
		token, err := first.c.JoinToken()
		if err != nil {
			return err
		}
		hash := token.Hash()
		if err := v.as(ctx, person(), gate.CreateJoinToken, func(ctx context.Context, tok gate.Token) error {
			_, err := first.c.Propose(ctx, tok, &fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{
				Token: &fsmpb.JoinToken{Hash: hash[:], ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli(), Voter: true},
			}}}, cluster.Complete)
			return err
		}); err != nil {
			return err
		}
		if _, err := n.c.Join(ctx, token); err != nil {
			return err
		}
	}
	return until(ctx, func() bool { return first.c.Stats().Voters == len(v.nodes) })
}

func genesisOf(first *fsmpb.Member, format uint32) *fsmpb.Command {
	id := func(b byte) []byte { return append(make([]byte, 15), b) }
	return &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: &fsmpb.Genesis{
		KeyspaceId: id(1), ClusterId: id(2), Name: "bench", FormatVersion: format, FirstMember: first, SealRecord: []byte("seal record"),
		Settings:    &fsmpb.Settings{RollbackWindowMs: 86_400_000, DestroyWaitMs: 7 * 86_400_000, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: id(3), Blob: blob()},
	}}}
}

// settle waits until there is a leader, and, from [fsm.FormatLeases] on, until
// everybody has a lease.
func (v *voters) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, voterPatience)
	defer cancel()
	return until(ctx, func() bool {
		leading := 0
		for _, n := range v.nodes {
			if n.c.IsLeader() {
				leading++
			}
			if v.fences() && n.c.LeaseErr() != nil {
				return false
			}
		}
		return leading == 1
	})
}

// fences reports whether changes wait for a fence.
func (v *voters) fences() bool {
	return v.nodes[0].machine.View().Cluster().GetFormatVersion() >= fsm.FormatLeases
}

// until asks again and again: what is waited for takes a few heartbeats.
func until(ctx context.Context, ok func() bool) error {
	for !ok() {
		if err := (clock.System{}).Sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the voters do not settle: %w", err)
		}
	}
	return nil
}

func person() auth.Principal {
	return auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleOperator, Name: "olivia"}
}

func (v *voters) as(ctx context.Context, who auth.Principal, act gate.Act, fn func(context.Context, gate.Token) error) error {
	id, err := corr.New(rand.Reader)
	if err != nil {
		return err
	}
	return v.gate.Do(ctx, gate.Request{Principal: who, Act: act, Object: "cluster", Correlation: id}, func(tok gate.Token) error {
		return fn(ctx, tok)
	})
}

// writing is a loop of writers that each make one change after the other at the
// leader. All changes of a turn are under one token, so that what is measured is
// the cluster and not the audit trail.
func (v *voters) writing(writers int) loop {
	return func(ctx context.Context, d time.Duration) (t tally, err error) {
		if err := v.settle(ctx); err != nil {
			return tally{}, err
		}
		err = v.as(ctx, person(), gate.SealCluster, func(ctx context.Context, tok gate.Token) error {
			t, err = crowd(writers, func(ctx context.Context, _ int) error { return v.write(ctx, tok) })(ctx, d)
			return err
		})
		return t, err
	}
}

// write makes one change, and makes it again if a new leader does not know what
// became of it: on a busy machine a leader may lose its office, and a change that
// takes so much longer counts as that.
func (v *voters) write(ctx context.Context, tok gate.Token) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for {
		_, err := v.leader().c.Propose(ctx, tok, &fsmpb.Command{Body: &fsmpb.Command_SetHold{
			SetHold: &fsmpb.SetHold{Held: true, Reason: "bench"},
		}}, cluster.Complete)
		if err == nil || ctx.Err() != nil || !errs.Is(err, errs.NoLeader) && !errs.Is(err, errs.Indeterminate) {
			return err
		}
	}
}

func (v *voters) leader() *voter {
	for _, n := range v.nodes {
		if n.c.IsLeader() {
			return n
		}
	}
	return v.nodes[0] // it waits for one
}

func (v *voters) close() error {
	var all []error
	for _, n := range v.nodes {
		n.cancel()
		all = append(all, <-n.ended, n.c.Close(), n.dir.Close())
	}
	if v.log != nil {
		all = append(all, v.log.Close())
	}
	return errors.Join(all...)
}
