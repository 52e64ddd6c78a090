package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// A process that is stopped finds the leader's answer in its socket when it goes
// on. However old that is, it must not count as new.
func TestI11_AnAnswerThatLayInABufferIsAsOldAsItsQuestion(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	var hold atomic.Bool
	release, held, after := make(chan struct{}), make(chan time.Time, 1), make(chan struct{})
	b := &member{t: t, name: "b", path: t.TempDir() + "/data"}
	asked := 0 // while held; only the goroutine that asks
	b.wrap = func(ask cluster.ContactAsk) cluster.ContactAsk {
		return func(ctx context.Context, leader cluster.NodeID, req *clusterpb.ContactRequest) (*clusterpb.ContactResponse, error) {
			if !hold.Load() {
				return ask(ctx, leader, req)
			}
			if asked++; asked > 1 { // what was answered late has been noted now
				if asked == 2 {
					close(after)
				}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			start := time.Now()
			resp, err := ask(ctx, leader, req)
			if err != nil || !resp.GetConfirmed() {
				t.Errorf("the answer says nothing: %v, %v", resp, err)
			}
			held <- start
			<-release
			return resp, err
		}
	}
	b.start()
	t.Cleanup(b.stop)
	b.join(a.invite(wanted{}))
	b.eventually("in contact", func() bool { return b.c.LastContact() < time.Second })
	hold.Store(true)
	start := <-held
	b.eventually("a second passed", func() bool { return time.Since(start) > time.Second })
	close(release)
	<-after
	if got := b.c.LastContact(); got < time.Second {
		t.Fatalf("in contact %s ago, by an answer to a question of %s ago", got, time.Since(start))
	}
}

func TestI11_ALeaderIsInContactOnlyOnceItHasReplayedItsLog(t *testing.T) {
	t.Parallel()
	const entries = 1200
	var until atomic.Uint64 // the index at which replay is held; 0: it is not
	hold := make(chan struct{})
	a := newMember(t, "solo", func(c *cluster.Config) {
		c.Machine = fsm.New(fsm.Options{Publish: func(p fsm.Published, swap func()) {
			if p.View.Index() == until.Load() {
				<-hold
			}
			swap()
		}})
	})
	a.bootstrap()
	b := newMember(t, "nonvoter") // asks all the time
	b.join(a.invite(wanted{}))
	var wg sync.WaitGroup
	var last atomic.Uint64
	for w := range 16 {
		wg.Go(func() {
			for i := range entries / 16 {
				res, err := a.propose(limited(t), gate.SealCluster, write(fmt.Sprintf("w%d", w), i+1))
				if err != nil {
					t.Error(err)
					return
				}
				for old := last.Load(); old < res.GetIndex() && !last.CompareAndSwap(old, res.GetIndex()); old = last.Load() {
				}
			}
		})
	}
	wg.Wait()
	b.applied(last.Load())
	a.stop()
	until.Store(last.Load())
	a.start()
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	a.eventually("leads with all of its log committed", func() bool { return a.c.IsLeader() && a.c.Stats().CommitIndex >= last.Load() })
	b.eventually("hears the leader", func() bool { return b.c.LeaderID() == a.c.NodeID() })
	b.eventually("the leader answers questions", func() bool {
		err := b.c.AsPeer(limited(t), a.c.NodeID(), func(p clusterpb.PeerClient) error {
			_, err := p.Contact(limited(t), &clusterpb.ContactRequest{Term: b.c.Term()})
			return err
		})
		if err == nil {
			t.Fatal("it answers as if it had replayed its log")
		}
		return errs.Is(wire.FromStatus(err), errs.NoLeader)
	})
	start := time.Now()
	for end := time.After(500 * time.Millisecond); ; { // several times as long as it takes to find a majority of one
		if d := a.c.LastContact(); d != cluster.Never {
			t.Fatalf("in contact %s ago with a view at %d of %d", d, a.machine.View().Index(), last.Load())
		}
		select {
		case <-a.machine.View().Superseded():
			continue
		case <-end:
		}
		break
	}
	if d, held := b.c.LastContact(), time.Since(start); d < held {
		t.Fatalf("a member is in contact %s ago with a leader that has been replaying for %s", d, held)
	}
	release()
	for _, m := range []*member{a, b} {
		m.eventually("in contact", func() bool { return m.c.LastContact() < time.Second })
	}
	if got := a.machine.View().Index(); got < last.Load() {
		t.Fatalf("in contact with a view at %d of %d", got, last.Load())
	}
}

func TestI11_AViewBehindTheLeadersIsNotInContact(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	var held atomic.Bool
	b := newMember(t, "b", func(c *cluster.Config) {
		c.Machine = fsm.New(fsm.Options{Publish: func(_ fsm.Published, swap func()) {
			if held.Load() {
				<-hold
			}
			swap()
		}})
	})
	defer release()
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	b.eventually("in contact", func() bool { return b.c.LastContact() < time.Second })
	held.Store(true)
	a.write("x", 1)
	b.eventually("out of contact", func() bool { return b.c.LastContact() > time.Second })
	if d := a.c.LastContact(); d > time.Second {
		t.Fatalf("the leader itself is out of contact for %s", d)
	}
	release()
	b.eventually("in contact again", func() bool { return b.c.LastContact() < time.Second })
}

// A question that lay in a buffer carries the nonce of an answer that is not the
// last one, or none.
func TestI11_AQuestionWithoutTheLastNonceConfirmsNobody(t *testing.T) {
	t.Parallel()
	var stale atomic.Bool
	all := make([]*member, 3)
	for i := range all {
		all[i] = &member{t: t, name: fmt.Sprintf("node-%d", i), path: t.TempDir() + "/data"}
		all[i].wrap = func(ask cluster.ContactAsk) cluster.ContactAsk {
			return func(ctx context.Context, leader cluster.NodeID, req *clusterpb.ContactRequest) (*clusterpb.ContactResponse, error) {
				if stale.Load() && req.GetEcho() > 0 {
					req.Echo--
				}
				return ask(ctx, leader, req)
			}
		}
		all[i].start()
		t.Cleanup(all[i].stop)
	}
	all[0].bootstrap()
	for _, m := range all[1:] {
		m.join(all[0].invite(wanted{voter: true}))
	}
	all[0].voters(3)
	for _, m := range all {
		m.eventually("in contact", func() bool { return m.c.LastContact() < time.Second })
	}
	stale.Store(true)
	for _, m := range all {
		m.eventually("out of contact", func() bool { return m.c.LastContact() > time.Second })
	}
	stale.Store(false)
	for _, m := range all {
		m.eventually("in contact again", func() bool { return m.c.LastContact() < time.Second })
	}
}

func TestALeaderTicksOnlyOnceAMajorityToldItsTime(t *testing.T) {
	t.Parallel()
	var mute atomic.Bool
	all := make([]*member, 3)
	for i := range all {
		all[i] = &member{t: t, name: fmt.Sprintf("node-%d", i), path: t.TempDir() + "/data"}
		all[i].change = []func(*cluster.Config){func(c *cluster.Config) { c.TickInterval = 20 * time.Millisecond }}
		all[i].wrap = func(ask cluster.ContactAsk) cluster.ContactAsk {
			return func(ctx context.Context, leader cluster.NodeID, req *clusterpb.ContactRequest) (*clusterpb.ContactResponse, error) {
				if mute.Load() {
					return nil, errs.New(errs.Unavailable, "mute")
				}
				return ask(ctx, leader, req)
			}
		}
		all[i].start()
		t.Cleanup(all[i].stop)
	}
	all[0].bootstrap()
	for _, m := range all[1:] {
		m.join(all[0].invite(wanted{voter: true}))
	}
	all[0].voters(3)
	mute.Store(true)
	for _, m := range all {
		m.restart()
	}
	all[0].write("replayed", 1)
	leader, _ := leaderOf(t, all)
	leader.eventually("initialised", func() bool { return leader.machine.View().Initialized() })
	const life = 2 * time.Second // long enough to be registered in time by a busy machine
	tok := leader.invite(wanted{life: life})
	hash := tok.Hash()
	expired := func() bool { _, ok := leader.machine.View().JoinToken(hash[:]); return !ok }
	for end := time.After(life + 300*time.Millisecond); ; {
		if expired() {
			t.Fatal("a leader that does not know whether its clock is right ticks")
		}
		select {
		case <-leader.machine.View().Superseded():
			continue
		case <-end:
		}
		break
	}
	mute.Store(false)
	leader.eventually("ticks", expired)
}

func TestI11_AViewThatWentBackIsNotInContact(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a") // not started as a cluster, so that nothing else tells it
	a.c.Told(time.Now(), a.machine.View().Index())
	if d := a.c.LastContact(); d > time.Second {
		t.Fatalf("told just now, in contact %s ago", d)
	}
	a.c.Told(time.Now(), a.machine.View().Index()+1)
	if d := a.c.LastContact(); d != cluster.Never {
		t.Fatalf("in contact %s ago without what it was told to have", d)
	}
}

// ahead is a machine whose wall clock was set wrong.
type ahead struct {
	clock.System

	by time.Duration
}

func (a ahead) Now() time.Time                  { return time.Now().Add(a.by) }
func (a ahead) Since(t time.Time) time.Duration { return a.Now().Sub(t) }

func TestALeaderWhoseClockIsFarAheadStampsNothing(t *testing.T) {
	t.Parallel()
	all := make([]*member, 3)
	for i := range all {
		all[i] = newMember(t, fmt.Sprintf("node-%d", i))
	}
	wrong := newMember(t, "wrong", func(c *cluster.Config) { c.Clock = ahead{by: 2 * time.Minute} })
	all[0].bootstrap()
	everyone := append([]*member{wrong}, all...)
	for _, m := range []*member{all[1], all[2], wrong} {
		m.join(all[0].invite(wanted{voter: true}))
	}
	all[0].voters(4)
	all[0].write("before", 0)
	wrong.eventually("leads", func() bool {
		leader, _ := leaderOf(t, everyone)
		if leader != wrong {
			_ = leader.c.TransferLeadership(limited(t), wrong.c.NodeID())
		}
		return leader == wrong
	})
	wrong.eventually("refuses", func() bool {
		_, err := wrong.propose(limited(t), gate.SealCluster, write("ahead", 1))
		return errs.Is(err, errs.Unavailable)
	})
	if _, err := all[0].propose(limited(t), gate.SealCluster, write("forwarded", 1)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a forwarded command: %v", err)
	}
	if err := wrong.c.TransferLeadership(limited(t), all[0].c.NodeID()); err != nil {
		t.Fatal(err)
	}
	all[1].write("after", 1)
}
