package cluster_test

import (
	"context"
	"fmt"
	"strings"
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
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// onWire stands between a member and its stream to the leader. A function that
// returns false loses the message; one that waits delays it and what comes after.
type onWire struct {
	up   func(*clusterpb.LeaseRequest) bool
	down func(*clusterpb.LeaseResponse) bool
}

type wired struct {
	cluster.LeaseStream

	w onWire
}

func (w onWire) wrap(s cluster.LeaseStream) cluster.LeaseStream { return wired{s, w} }

func (w wired) Send(m *clusterpb.LeaseRequest) error {
	if w.w.up != nil && !w.w.up(m) {
		return nil
	}
	return w.LeaseStream.Send(m)
}

func (w wired) Recv() (*clusterpb.LeaseResponse, error) {
	for {
		m, err := w.LeaseStream.Recv()
		if err != nil || w.w.down == nil || w.w.down(m) {
			return m, err
		}
	}
}

// leased waits until every member has a lease.
func leased(all ...*member) {
	for _, m := range all {
		m.t.Helper()
		m.eventually("a lease", func() bool { return m.c.LeaseErr() == nil })
	}
}

// A process that is stopped finds the leader's answer in its socket when it goes
// on. However old that is, it must not count as new.
func TestI11_AGrantThatLayInABufferIsAsOldAsItsRequest(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	var hold atomic.Bool
	release, held := make(chan struct{}), make(chan time.Time, 1)
	var asked atomic.Int64 // when the last request was made
	b := &member{t: t, name: "b", path: t.TempDir() + "/data"}
	b.wrap = onWire{
		up: func(m *clusterpb.LeaseRequest) bool {
			if m.GetRenew().GetNonce() != 0 {
				asked.Store(time.Now().UnixNano())
			}
			return !hold.Load() || len(held) == 0
		},
		down: func(m *clusterpb.LeaseResponse) bool {
			if m.GetGrant() == nil || !hold.Load() {
				return true
			}
			select {
			case held <- time.Unix(0, asked.Load()):
				<-release
			default:
			}
			return true
		},
	}.wrap
	b.start()
	t.Cleanup(b.stop)
	b.join(a.invite(wanted{}))
	leased(b)
	hold.Store(true)
	start := <-held
	held <- start
	b.eventually("a second passed", func() bool { return time.Since(start) > time.Second })
	close(release)
	b.eventually("the grant came", func() bool { return b.c.LastContact() > time.Second })
	if got := b.c.LastContact(); got < time.Since(start)-100*time.Millisecond {
		t.Fatalf("in contact %s ago, by a grant that was asked for %s ago", got, time.Since(start))
	}
	b.eventually("the lease ends", func() bool { return b.c.LeaseErr() != nil })
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
	go func() { _, _ = a.propose(limited(t), gate.SealCluster, write("x", 1)) }() // waits for b
	b.eventually("without a lease", func() bool { return b.c.LeaseErr() != nil })
	b.eventually("says that the leader gave one, and what it needs", func() bool {
		err := b.c.LeaseErr()
		return err != nil && strings.Contains(err.Error(), fmt.Sprintf("is of no use before entry %d is applied here", a.machine.View().Index()))
	})
	if d := a.c.LastContact(); d > time.Second {
		t.Fatalf("the leader itself is out of contact for %s", d)
	}
	release()
	b.eventually("in contact again", func() bool { return b.c.LastContact() < time.Second })
}

func TestI16_WhoeverHasALeaseHasWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	all := three(t)
	leased(all...)
	var acked atomic.Uint64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var looks atomic.Int64
	for _, m := range all {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				floor := acked.Load()
				s := m.c.Standing()
				if s.Usable(clock.System{}.Read()) {
					looks.Add(1)
					if s.View.Index() < floor {
						t.Errorf("%s may serve from %d after %d was acknowledged", m.name, s.View.Index(), floor)
						return
					}
					if s.Complete > s.View.Index() {
						t.Errorf("%s: %d is complete, and its view ends at %d", m.name, s.Complete, s.View.Index())
						return
					}
				}
			}
		})
	}
	for i := range 60 {
		res := all[i%len(all)].write("fence", i)
		acked.Store(res.GetIndex())
	}
	close(stop)
	wg.Wait()
	if looks.Load() < 1000 {
		t.Errorf("only %d looks at a usable lease: the test shows little", looks.Load())
	}
}

func TestI16_ADeadMemberDelaysAChangeUntilItsLeaseIsOverAndNoFurther(t *testing.T) {
	t.Parallel()
	all := three(t)
	leased(all...)
	leader, others := leaderOf(t, all)
	leader.write("warm", 0)
	others[0].stop()
	start := time.Now()
	leader.write("dead", 1)
	first := time.Since(start)
	start = time.Now()
	leader.write("dead", 2)
	if second := time.Since(start); second > time.Second {
		t.Errorf("the change after the first (%s) takes %s", first, second)
	}
	if first < time.Second {
		t.Errorf("a change was acknowledged after %s while a member that is not heard from may have a lease", first)
	}
}

func TestI16_AMemberThatDoesNotApplyServesNothingOnceTheChangeIsAcknowledged(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	var held atomic.Bool
	b := newMember(t, "b", func(c *cluster.Config) {
		c.Machine = fsm.New(fsm.Options{Publish: func(_ fsm.Published, swap func()) {
			if held.Load() {
				<-hold
			}
			swap()
		}})
	})
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	leased(a, b)
	held.Store(true)
	res := a.write("slow", 1)
	if b.machine.View().Index() >= res.GetIndex() {
		t.Fatal("the member was not slow, so the test shows nothing")
	}
	if b.c.Standing().Usable(clock.System{}.Read()) {
		t.Error("it may serve the state before")
	}
	release()
	b.applied(res.GetIndex())
	leased(b)
}

// TestANodeWithoutALeaseSaysWhoHasOne: its callers need not guess.
func TestANodeWithoutALeaseSaysWhoHasOne(t *testing.T) {
	t.Parallel()
	var lost atomic.Bool
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.c.WrapLeases(onWire{down: func(*clusterpb.LeaseResponse) bool { return !lost.Load() }}.wrap)
	b.join(a.invite(wanted{}))
	leased(a, b)
	lost.Store(true)
	b.eventually("the end of the lease", func() bool { return b.c.LeaseErr() != nil })
	situationtest.Error(t, "cluster/no-lease-from-the-leader", b.c.LeaseErr())
}

func TestALeaderTicksOnlyOnceAMajorityToldItsTime(t *testing.T) {
	t.Parallel()
	var mute atomic.Bool
	all := make([]*member, 3)
	for i := range all {
		all[i] = &member{t: t, name: fmt.Sprintf("node-%d", i), path: t.TempDir() + "/data"}
		all[i].change = []func(*cluster.Config){func(c *cluster.Config) { c.TickInterval = 20 * time.Millisecond }}
		all[i].wrap = onWire{up: func(up *clusterpb.LeaseRequest) bool {
			if mute.Load() {
				up.Confirmed = nil
			}
			return true
		}}.wrap
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

// ahead is a machine whose wall clock was set wrong.
type ahead struct {
	clock.System

	by time.Duration
}

func (a ahead) Read() clock.Reading {
	r := a.System.Read()
	r.Wall += a.by
	return r
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

// A command may be complete at the moment at which its leader applies it, when the
// members were faster. They must hear of it then, and not with their next lease.
func TestI16_MembersHearThatAChangeIsCompleteHoweverItCameToBe(t *testing.T) {
	t.Parallel()
	var held atomic.Bool
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	a := newMember(t, "a", func(c *cluster.Config) {
		c.Machine = fsm.New(fsm.Options{Publish: func(_ fsm.Published, swap func()) {
			if held.Load() {
				<-hold
			}
			swap()
		}})
	})
	defer release()
	a.bootstrap()
	var index, sent, answered atomic.Uint64 // the change; the request that reports it; the last that was granted
	var mute atomic.Bool
	b := &member{t: t, name: "b", path: t.TempDir() + "/data"}
	b.wrap = onWire{
		up: func(m *clusterpb.LeaseRequest) bool {
			if mute.Load() {
				return false
			}
			if r := m.GetRenew(); r.GetNonce() != 0 && index.Load() != 0 && r.GetAppliedIndex() >= index.Load() {
				sent.CompareAndSwap(0, r.GetNonce())
			}
			return true
		},
		down: func(m *clusterpb.LeaseResponse) bool {
			answered.Store(max(answered.Load(), m.GetGrant().GetNonce()))
			return true
		},
	}.wrap
	b.start()
	t.Cleanup(b.stop)
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	leased(a, b)
	held.Store(true)
	before := b.machine.View().Index()
	go func() { _, _ = a.propose(limited(t), gate.SealCluster, write("x", 1)) }()
	b.eventually("applies before its leader does", func() bool { return b.machine.View().Index() > before })
	index.Store(b.machine.View().Index())
	b.eventually("the leader has its report", func() bool { return sent.Load() != 0 && answered.Load() >= sent.Load() })
	mute.Store(true) // no further grant, which says what is complete too
	release()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.c.AwaitComplete(ctx, index.Load()); err != nil {
		t.Errorf("the member never hears that the change is complete: %v", err)
	}
}

// Nobody can give a cluster that is older than leases another length for them.
func TestAClusterOlderThanLeasesServesWithWhateverProfileItHas(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a", func(c *cluster.Config) { c.Profile = cluster.ProfileWAN })
	a.bootstrap()
	if d := a.machine.View().LeaseDuration(); d >= cluster.ProfileWAN.Lease() {
		t.Fatalf("leases of %s are long enough, so the test shows nothing", d)
	}
	leased(a)
	a.restart()
	leased(a)
}

// What a leader that must stop had not completed is not waited for: the wait would
// keep the process, and with it the leader, from ending.
func TestNobodyWaitsForALeaderThatMustStop(t *testing.T) {
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
	leased(a, b)
	held.Store(true)
	before := a.machine.View()
	answer := make(chan error, 1)
	go func() {
		_, err := a.propose(limited(t), gate.SealCluster, write("x", 1))
		answer <- err
	}()
	<-before.Superseded()
	if err := a.c.ApplyRaw([]byte("no command")); err == nil {
		t.Fatal("the leader takes what is no command")
	}
	<-a.c.Failed()
	select {
	case err := <-answer:
		if !errs.Is(err, errs.Indeterminate) {
			t.Errorf("a change that was not complete: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a change waits for a leader that must stop")
	}
}

// TestARefusedSnapshotEndsNoService: the state is what it was, and nothing else may
// happen in the cluster for a long time.
func TestARefusedSnapshotEndsNoService(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	leased(a, b)
	before := b.machine.View().Index()
	if err := b.c.GiveSnapshot([]byte("no snapshot")); err == nil {
		t.Fatal("it took what is no snapshot")
	}
	leased(b)
	if now := b.machine.View().Index(); now != before {
		t.Errorf("a command at %d came, so the test shows nothing", now)
	}
}
