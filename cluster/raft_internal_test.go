package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// counter is a state machine that counts.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Apply(*raft.Log) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}
func (*counter) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (*counter) Restore(r io.ReadCloser) error       { return r.Close() }

// memNode is Raft in memory under the real store decorator.
type memNode struct {
	raft  *raft.Raft
	store *store
	trans *raft.InmemTransport
	hw    *broken
	fails *causes
}

// memCluster starts n voters inside a synctest bubble.
func memCluster(t *testing.T, n int) []*memNode {
	t.Helper()
	nodes := make([]*memNode, n)
	var conf raft.Configuration
	for i := range nodes {
		addr, trans := raft.NewInmemTransport(raft.ServerAddress(fmt.Sprintf("n%d", i)))
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(addr), Address: addr})
		nodes[i] = &memNode{trans: trans, hw: &broken{}, fails: &causes{}}
	}
	tm, err := ProfileLAN.timers()
	if err != nil {
		t.Fatal(err)
	}
	for i, nd := range nodes {
		for _, other := range nodes {
			nd.trans.Connect(other.trans.LocalAddr(), other.trans)
		}
		nd.store = newStore(memory{raft.NewInmemStore()}, clock.System{}, nd.hw, nd.fails.add)
		rc := raft.DefaultConfig()
		rc.LocalID = conf.Servers[i].ID
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = tm.heartbeat, tm.heartbeat, tm.heartbeat
		rc.Logger = newRaftLog(slog.New(slog.DiscardHandler), clock.System{})
		snaps := raft.NewInmemSnapshotStore()
		if err := raft.BootstrapCluster(rc, nd.store, nd.store, snaps, nd.trans, conf); err != nil {
			t.Fatal(err)
		}
		if nd.raft, err = raft.NewRaft(rc, &counter{}, nd.store, nd.store, snaps, nd.trans); err != nil {
			t.Fatal(err)
		}
		nd.store.running.Store(true)
	}
	return nodes
}

func (n *memNode) stop(t *testing.T) {
	t.Helper()
	if err := n.raft.Shutdown().Error(); err != nil {
		t.Error(err)
	}
	_ = n.store.Close()
	_ = n.trans.Close()
}

func memLeader(t *testing.T, nodes []*memNode, not *memNode, within time.Duration) *memNode {
	t.Helper()
	for start := time.Now(); time.Since(start) < within; time.Sleep(10 * time.Millisecond) {
		for _, n := range nodes {
			if n != not && n.raft.State() == raft.Leader {
				return n
			}
		}
	}
	t.Fatalf("no leader within %s", within)
	return nil
}

// The plain library keeps such a leader for ever: its heartbeats do not pass
// the log store.
func TestI9_AHungDiskOfTheLeaderDoesNotStopTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := memCluster(t, 3)
		leader := memLeader(t, nodes, nil, 10*time.Second)
		if err := leader.raft.Apply([]byte("x"), 0).Error(); err != nil {
			t.Fatal(err)
		}
		leader.hw.mu.Lock()
		leader.hw.op, leader.hw.after, leader.hw.hang = opStore, leader.hw.calls[opStore]+1, make(chan struct{})
		leader.hw.mu.Unlock()
		start := time.Now()
		stuck := leader.raft.Apply([]byte("y"), 0)
		// The watchdog sees it long before the deadline of the store does.
		err := watch(t.Context(), clock.System{}, stuckAfter, func() bool { return leader.raft.State() == raft.Leader },
			watched{"the log store", leader.store.writes})
		if d := time.Since(start); !errs.Is(err, errs.Unavailable) || d > 2*stuckAfter {
			t.Fatalf("after %s: %v", d, err)
		}
		// What the node does then: it stops, in order, although the call hangs.
		leader.store.fail(err)
		if err := stuck.Error(); err == nil {
			t.Fatal("the entry was acknowledged")
		}
		next := memLeader(t, nodes, leader, 10*time.Second)
		if err := next.raft.Apply([]byte("z"), 0).Error(); err != nil {
			t.Fatal(err)
		}
		close(leader.hw.hang)
		for _, n := range nodes {
			n.stop(t)
		}
	})
}

func TestI3_AFollowerWithABrokenDiskStopsWithoutAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := memCluster(t, 3)
		leader := memLeader(t, nodes, nil, 10*time.Second)
		var broke *memNode
		for _, n := range nodes {
			if n != leader {
				broke = n
			}
		}
		broke.hw.mu.Lock()
		broke.hw.op, broke.hw.after, broke.hw.err = opStore, broke.hw.calls[opStore]+1, errors.New("input/output error")
		broke.hw.mu.Unlock()
		if err := leader.raft.Apply([]byte("x"), 0).Error(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(broke.fails.get()) != 1 {
			t.Fatalf("the node was told %v", broke.fails.get())
		}
		// Cut off, it wants to elect, must store a new term, and cannot: the library
		// panics on that error if it gets it.
		broke.trans.DisconnectAll()
		for _, n := range nodes {
			n.trans.Disconnect(broke.trans.LocalAddr())
		}
		time.Sleep(10 * time.Second)
		if broke.raft.State() == raft.Leader {
			t.Fatal("a node without a disk leads")
		}
		for _, n := range nodes {
			n.stop(t)
		}
	})
}

func TestABrokenTermStopsTheNodeWithoutAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := memCluster(t, 1)
		hw := nodes[0].hw
		hw.mu.Lock()
		hw.op, hw.after, hw.err = opSet, hw.calls[opSet]+1, errors.New("input/output error")
		hw.mu.Unlock()
		time.Sleep(5 * time.Second) // it elects itself and fails
		if len(nodes[0].fails.get()) != 1 || nodes[0].raft.State() == raft.Leader {
			t.Fatalf("told %v, state %s", nodes[0].fails.get(), nodes[0].raft.State())
		}
		nodes[0].stop(t)
	})
}

func TestAPartitionedLeaderStepsDownAndAckedEntriesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := memCluster(t, 3)
		for range 5 {
			leader := memLeader(t, nodes, nil, 20*time.Second)
			if err := leader.raft.Apply([]byte("x"), 0).Error(); err != nil {
				t.Fatal(err)
			}
			leader.trans.DisconnectAll()
			for _, n := range nodes {
				n.trans.Disconnect(leader.trans.LocalAddr())
			}
			next := memLeader(t, nodes, leader, 20*time.Second)
			if err := next.raft.Apply([]byte("y"), 0).Error(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if leader.raft.State() == raft.Leader {
				t.Fatal("a leader without a majority stays one")
			}
			for _, n := range nodes {
				n.trans.Connect(leader.trans.LocalAddr(), leader.trans)
				leader.trans.Connect(n.trans.LocalAddr(), n.trans)
			}
			// Pre-vote: its return does not depose the present leader.
			term := next.raft.CurrentTerm()
			time.Sleep(5 * time.Second)
			if next.raft.State() != raft.Leader || next.raft.CurrentTerm() != term {
				t.Fatal("a node that came back deposed the leader")
			}
		}
		for _, n := range nodes {
			n.stop(t)
		}
	})
}

func TestI9_TheWatchdogStopsOnlyALeaderThatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := newInflight(clock.System{})
		var leading atomic.Bool
		leading.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		run := func() {
			go func() {
				done <- watch(ctx, clock.System{}, stuckAfter, leading.Load, watched{"a command", calls})
			}()
		}
		run()
		for range 10 { // slow, but each one ends
			end := calls.begin()
			time.Sleep(stuckAfter - 100*time.Millisecond)
			end()
			end()
		}
		leading.Store(false)
		end := calls.begin()
		time.Sleep(time.Minute) // not a leader's
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("stopped by %v", err)
		default:
		}
		leading.Store(true)
		if err := <-done; !errs.Is(err, errs.Unavailable) {
			t.Fatalf("a stuck leader: %v", err)
		}
		end()
		run()
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("the normal end: %v", err)
		}
	})
}

func TestI9_ATransferThatNeverEndsIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			name  string
			ends  time.Duration
			stuck bool
		}{{"ends", time.Second, false}, {"never ends", time.Hour, true}} {
			calls := newInflight(clock.System{})
			suspect := make(chan struct{}, 1)
			ctx, cancel := context.WithCancel(t.Context())
			start := time.Now()
			var wg sync.WaitGroup
			wg.Go(func() {
				_ = probe(ctx, clock.System{}, suspect, calls, func(context.Context) error {
					if time.Since(start) < tc.ends {
						return raft.ErrLeadershipTransferInProgress
					}
					return nil
				})
			})
			suspect <- struct{}{}
			bound, stop := context.WithTimeout(ctx, 20*time.Second)
			err := watch(bound, clock.System{}, stuckAfter, func() bool { return true }, watched{"a transfer", calls})
			if (err != nil) != tc.stuck {
				t.Errorf("%s: %v", tc.name, err)
			}
			stop()
			cancel()
			wg.Wait()
		}
	})
}

func TestI7_ThePlanFollowsTheMembersAndAvoidsTwoVoters(t *testing.T) {
	type m struct {
		id                string
		voter, removed    bool
		in, votes, behind bool
		deaf              bool // does not know the leader yet
		leased            bool // may still hold a lease
	}
	for _, tc := range []struct {
		name string
		all  []m
		step step
		id   NodeID
	}{
		{"alone", []m{{id: "a", voter: true, in: true, votes: true}}, stepNone, ""},
		{"a new member becomes a server", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true}}, stepAdd, "b"},
		{"a new member that does not know the leader yet", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, deaf: true}}, stepNone, ""},
		{"nor does it vote as one of two", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, deaf: true}, {id: "c", voter: true, in: true}}, stepNone, ""},
		{"and it holds nobody up", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, deaf: true}, {id: "c"}}, stepAdd, "c"},
		{"the second waits for a third", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true}}, stepNone, ""},
		{"the second waits for a third that is ready", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true}, {id: "c", voter: true, in: true, behind: true}}, stepNone, ""},
		{"two are ready", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true}, {id: "c", voter: true, in: true}}, stepPromote, "b"},
		{"and the third follows", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", voter: true, in: true}}, stepPromote, "c"},
		{"the third got lost on the way", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", voter: true, in: true, behind: true}}, stepDemote, "b"},
		{"a fourth", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", voter: true, in: true, votes: true}, {id: "d", voter: true, in: true}}, stepPromote, "d"},
		{"one behind stays", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", voter: true, in: true, votes: true}, {id: "d", voter: true, in: true, behind: true}}, stepNone, ""},
		{"no demotion from three to two", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", in: true, votes: true}}, stepNone, ""},
		{"a replacement first", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", in: true, votes: true}, {id: "d", voter: true, in: true}}, stepPromote, "d"},
		{"then the demotion", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", in: true, votes: true}, {id: "d", voter: true, in: true, votes: true}}, stepDemote, "c"},
		{"two demotions from three", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", in: true, votes: true}, {id: "c", in: true, votes: true}}, stepDemote, "b"},
		{"the leader is to be demoted", []m{{id: "a", in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}, {id: "c", voter: true, in: true, votes: true}, {id: "d", voter: true, in: true, votes: true}}, stepYield, "a"},
		{"removal comes first", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", removed: true, in: true, votes: true}, {id: "c", voter: true, in: true, votes: true}}, stepRemove, "b"},
		{"two are left of three", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", removed: true}, {id: "c", voter: true, in: true, votes: true}}, stepDemote, "c"},
		{"purge after removal", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", removed: true}}, stepPurge, "b"},
		{"no purge while it may hold a lease", []m{{id: "a", voter: true, in: true, votes: true}, {id: "b", removed: true, leased: true}}, stepNone, ""},
		{"the only voter is to be demoted", []m{{id: "a", in: true, votes: true}, {id: "b", voter: true, in: true}}, stepPromote, "b"},
		{"and hands over", []m{{id: "a", in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}}, stepYield, "a"},
		{"it goes on until another one is ready", []m{{id: "a", in: true, votes: true}, {id: "b", voter: true, in: true, behind: true}}, stepNone, ""},
		{"the only voter was removed all the same", []m{{id: "a", removed: true, in: true, votes: true}, {id: "b", voter: true, in: true}}, stepPromote, "b"},
		{"the leader is removed", []m{{id: "a", removed: true, in: true, votes: true}, {id: "b", voter: true, in: true, votes: true}}, stepYield, "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var members []*fsmpb.Member
			var servers []raft.Server
			behind, deaf, leased := map[NodeID]bool{}, map[NodeID]bool{}, map[NodeID]bool{}
			for _, x := range tc.all {
				members = append(members, &fsmpb.Member{Id: x.id, Voter: x.voter, Removed: x.removed})
				behind[NodeID(x.id)], deaf[NodeID(x.id)], leased[NodeID(x.id)] = x.behind, x.deaf, x.leased
				s := raft.Server{ID: raft.ServerID(x.id), Suffrage: raft.Nonvoter}
				if x.votes {
					s.Suffrage = raft.Voter
				}
				if x.in {
					servers = append(servers, s)
				}
			}
			got, id := plan("a", members, servers, func(id NodeID) bool { return !deaf[id] }, func(id NodeID) bool { return !behind[id] },
				func(m *fsmpb.Member) bool { return !leased[NodeID(m.GetId())] })
			if got != tc.step || id != tc.id {
				t.Fatalf("plan = %s %s, want %s %s", got, id, tc.step, tc.id)
			}
		})
	}
}

// Every command is decided here: one that is added fails until it is.
func TestI13_EveryCommandIsACallersOrTheClustersOwn(t *testing.T) {
	decided := map[string]bool{
		"create_tenant": true, "bind_tenant": true, "change_object": true, "create_service": true, "add_version": true, "set_primary": true, "change_version": true,
		"pin_resource": true, "unpin_resource": true, "rollback_resource": true, "create_join_token": true, "remove_member": true, "set_hold": true,
		"revoke_certificate": true, "put_issuer": true, "remove_issuer": true, "bind_role": true, "unbind_role": true, "set_tenant_governors": true,
		"request_approval": true, "approve": true, "reject_approval": true, "set_quorum": true,
		"put_policy": true, "remove_policy": true,
		"begin_ceremony": true, "stage_ceremony": true, "confirm_holder": true, "prove_seal": true, "commit_ceremony": true, "cancel_ceremony": true, "confirm_seal": true,
		"replace_authority": true, "retire_authority": true,
		"update_member": false, // but for the field voter, see below

		"genesis": false, "add_internal_key": false, "rewrap_tenant": false, "put_secret": false, "add_member": false,
		"purge_member": false, "tick": false, "raise_format": false, "lease_epoch": false, "repair_seal": false, "recover": false,
		"drop_carried": false, "end_internal_keys": false, "member_cleared": false, "finish_exposure": false,
		"note_backup": true,
	}
	operator := &fsmpb.Principal{Issuer: "i", Kind: "operator", Name: "o"}
	bodies := (&fsmpb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	if bodies.Len() != len(decided) {
		t.Errorf("%d commands, %d of them decided", bodies.Len(), len(decided))
	}
	for i := range bodies.Len() {
		fd := bodies.Get(i)
		want, ok := decided[string(fd.Name())]
		if !ok {
			t.Errorf("%s: decide whether a caller's act makes it", fd.Name())
		}
		cmd := &fsmpb.Command{Principal: operator}
		m := cmd.ProtoReflect()
		m.Set(fd, m.NewField(fd))
		if got := forCallers(cmd) == nil; got != want {
			t.Errorf("%s: proposed %v, want %v", fd.Name(), got, want)
		}
		if got := mayForward(cmd, "via") == nil; got != want {
			t.Errorf("%s: forwarded %v, want %v", fd.Name(), got, want)
		}
		cmd.Skippable = true
		if forCallers(cmd) == nil || mayForward(cmd, "via") == nil {
			t.Errorf("%s passes as skippable", fd.Name())
		}
	}
	for _, tc := range []struct {
		fields []string
		ok     bool
	}{{[]string{"voter"}, true}, {[]string{"voter", "peer_address"}, false}, {[]string{"zone"}, false}, {[]string{"voter", "voter"}, false}} {
		cmd := &fsmpb.Command{Principal: operator, Body: &fsmpb.Command_UpdateMember{UpdateMember: &fsmpb.UpdateMember{Fields: tc.fields}}}
		if err := mayForward(cmd, "via"); (err == nil) != tc.ok {
			t.Errorf("update_member of %v: %v", tc.fields, err)
		}
	}
}

func TestForwardedCommandsNameACallerAndNotAnotherNode(t *testing.T) {
	hold := &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: true}}
	const via = NodeID("via")
	for name, tc := range map[string]struct {
		cmd *fsmpb.Command
		ok  bool
	}{
		"a person":               {&fsmpb.Command{Principal: &fsmpb.Principal{Issuer: "i", Kind: "operator", Name: "o"}, Body: hold}, true},
		"the node itself":        {&fsmpb.Command{Principal: &fsmpb.Principal{Kind: kindNode, Name: "via"}, Body: hold}, true},
		"another node":           {&fsmpb.Command{Principal: &fsmpb.Principal{Kind: kindNode, Name: "other"}, Body: hold}, false},
		"a node with an issuer":  {&fsmpb.Command{Principal: &fsmpb.Principal{Issuer: "i", Kind: kindNode, Name: "via"}, Body: hold}, false},
		"nobody":                 {&fsmpb.Command{Body: hold}, false},
		"nothing":                {nil, false},
		"the leader's own tick":  {&fsmpb.Command{Principal: &fsmpb.Principal{Kind: "operator", Name: "o"}, Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}}, false},
		"an admission":           {&fsmpb.Command{Principal: &fsmpb.Principal{Kind: "operator", Name: "o"}, Body: &fsmpb.Command_AddMember{}}, false},
		"a genesis":              {&fsmpb.Command{Principal: &fsmpb.Principal{Kind: "operator", Name: "o"}, Body: &fsmpb.Command_Genesis{}}, false},
		"a purge":                {&fsmpb.Command{Principal: &fsmpb.Principal{Kind: "operator", Name: "o"}, Body: &fsmpb.Command_PurgeMember{}}, false},
		"without a kind or name": {&fsmpb.Command{Principal: &fsmpb.Principal{Issuer: "i"}, Body: hold}, false},
	} {
		if err := mayForward(tc.cmd, via); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACommandWithUnknownPartsIsNotUnderstood(t *testing.T) {
	known := &fsmpb.Command{Body: &fsmpb.Command_ChangeVersion{ChangeVersion: &fsmpb.ChangeVersion{
		Object: &fsmpb.ObjectRef{Tenant: "t"}, Event: fsmpb.VersionEvent_VERSION_EVENT_DISABLE,
	}}, Intents: []*fsmpb.SignedIntent{{Intent: []byte("i")}}}
	if !understood(known.ProtoReflect()) {
		t.Fatal("a known command is not understood")
	}
	newer := []byte{0xf8, 0x7f, 0x01} // field 2047, varint
	top, deep, listed, enum := copyCommand(known), copyCommand(known), copyCommand(known), copyCommand(known)
	top.ProtoReflect().SetUnknown(newer)
	deep.GetChangeVersion().GetObject().ProtoReflect().SetUnknown(newer)
	listed.GetIntents()[0].ProtoReflect().SetUnknown(newer)
	enum.GetChangeVersion().Event = 99
	for name, cmd := range map[string]*fsmpb.Command{"field": top, "field inside": deep, "field in a list": listed, "enum number": enum} {
		if understood(cmd.ProtoReflect()) {
			t.Errorf("unknown %s passes", name)
		}
	}
}

func TestProfilesAreValidRaftTimers(t *testing.T) {
	for _, p := range []Profile{ProfileLAN, ProfileWAN, ""} {
		tm, err := p.timers()
		if err != nil {
			t.Fatal(err)
		}
		rc := raft.DefaultConfig()
		rc.LocalID = "x"
		rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = tm.heartbeat, tm.heartbeat, tm.heartbeat
		if err := raft.ValidateConfig(rc); err != nil {
			t.Errorf("%q: %v", p, err)
		}
		if tm.renew*2 > tm.heartbeat {
			t.Errorf("%q: fewer than two questions per heartbeat timeout", p)
		}
		// A leader is replaced within about four heartbeat timeouts, and its lease holders
		// serve until then.
		if d := p.Lease(); d < 6*tm.heartbeat || d < fsm.MinLeaseMS*time.Millisecond || d > fsm.MaxLeaseMS*time.Millisecond {
			t.Errorf("%q: leases last for %s, with a heartbeat timeout of %s", p, d, tm.heartbeat)
		}
	}
	if lan, wan := ProfileLAN.Lease(), ProfileWAN.Lease(); lan != fsm.DefaultLeaseMS*time.Millisecond || Profile("").Lease() != lan || wan != 8*time.Second {
		t.Errorf("leases last for %s and %s", lan, wan)
	}
	if _, err := Profile("fast").timers(); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("an unknown profile: %v", err)
	}
}

func TestTheRaftLogLetsNoContentThrough(t *testing.T) {
	var out captured
	l := newRaftLog(slog.New(&out), clock.System{})
	l.With("peer", raft.ServerID("n1")).Named("x").Warn("said", "data", []byte("secret"), "log", &raft.Log{Data: []byte("secret")},
		"map", map[string]string{"k": "secret"}, "error", errors.New("timeout"), "n", 7,
		"one", raft.Server{ID: "n2", Address: "n2"}, "servers", hclog.Fmt("%+v", []raft.Server{{ID: "n3"}, {ID: "n4", Suffrage: raft.Nonvoter}}),
		"received", hclog.Fmt("%d / %d", 3, int64(9)), "percent", hclog.Fmt("%0.2f%%", 1.5), "odd", hclog.Format{}, "odder", hclog.Format{7},
		"command", hclog.Fmt("%#v", &raft.AppendEntriesRequest{Entries: []*raft.Log{{Data: []byte("secret")}}}))
	got := out.line
	for _, want := range []string{"said", "n1", "timeout", "7", "raft.x", "([]uint8)", "n2/Voter", "n3/Voter n4/Nonvoter", "3 / 9", "1.50%"} {
		if !strings.Contains(got, want) {
			t.Errorf("the line %q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "secret") || strings.Contains(got, "115 101") {
		t.Errorf("content in the line %q", got)
	}
}

func TestTheRaftLogIsQuietAboutWhatIsAsItShouldBe(t *testing.T) {
	var out captured
	l := newRaftLog(slog.New(&out), clock.System{})
	for err, want := range map[error]slog.Level{
		errors.New("timeout"):                                         slog.LevelError,
		fmt.Errorf("failed to start: %w", errSealedSnapshot):          slog.LevelDebug,
		errors.New("member said: " + errTooEarly.Error()):             slog.LevelDebug,
		errors.New("member said: " + errUncompared.Error()):           slog.LevelDebug,
		fmt.Errorf("unsupported protocol: %w", errors.ErrUnsupported): slog.LevelError,
	} {
		if l.Error("failed", "peer", "n1", "error", err); out.level != want {
			t.Errorf("%v is logged as %s", err, out.level)
		}
	}
}

type captured struct {
	line  string
	level slog.Level
}

func (*captured) Enabled(context.Context, slog.Level) bool { return true }
func (c *captured) Handle(_ context.Context, r slog.Record) error {
	c.line, c.level = r.Message, r.Level
	r.Attrs(func(a slog.Attr) bool { c.line += " " + a.String(); return true })
	return nil
}
func (c *captured) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *captured) WithGroup(string) slog.Handler      { return c }
