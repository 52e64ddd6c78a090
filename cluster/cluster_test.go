package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestI7_TwoVotersAreNeverASteadyState(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	if s := a.c.Stats(); s.Voters != 1 || s.Nonvoters != 0 {
		t.Fatalf("after bootstrap: %+v", s)
	}
	b := newMember(t, "b")
	b.join(a.invite(wanted{voter: true}))
	a.eventually("b is a server", func() bool { return a.c.Stats().Nonvoters == 1 })
	res := a.write("solo", 0)
	b.applied(res.GetIndex()) // caught up, and still no voter
	a.eventually("b looked at as a candidate", func() bool {
		h, err := a.c.Health(limited(t), b.c.NodeID())
		return err == nil && h.AppliedIndex >= res.GetIndex()
	})
	if s := a.c.Stats(); s.Voters != 1 {
		t.Fatalf("a second voter without a third: %+v", s)
	}
	c := newMember(t, "c")
	c.join(a.invite(wanted{voter: true}))
	a.voters(3)
}

func TestANonvoterStaysOne(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b, c := newMember(t, "b"), newMember(t, "c")
	b.join(a.invite(wanted{}))
	c.join(a.invite(wanted{}))
	a.eventually("two non-voters", func() bool { return a.c.Stats().Nonvoters == 2 })
	res := c.write("from-nonvoter", 1)
	b.applied(res.GetIndex())
	if s := a.c.Stats(); s.Voters != 1 {
		t.Fatalf("a member became a voter that was not wanted as one: %+v", s)
	}
}

func TestI5I6_AFollowersWriteCarriesTheLeadersFactsAndIsVisibleAtOnce(t *testing.T) {
	t.Parallel()
	leader, others := leaderOf(t, three(t))
	f := others[0]
	before := time.Now().UnixMilli()
	cmd := write("forward", 0)
	cmd.ViaNode, cmd.Proposer, cmd.TimeUnixMs = "somebody", "else", 1
	cmd.Principal = &fsmpb.Principal{Issuer: "forged", Kind: "governor", Name: "mallory"}
	res, err := f.propose(limited(t), gate.SealCluster, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if f.machine.View().Index() < res.GetIndex() || f.machine.View().Hold().GetReason() != "forward-0" { // I6
		t.Fatalf("not visible where it was asked for: view at %d, result %d", f.machine.View().Index(), res.GetIndex())
	}
	leader.eventually("entry stored", func() bool { _, err := leader.c.EntryAt(res.GetIndex()); return err == nil })
	got, err := leader.c.EntryAt(res.GetIndex())
	if err != nil {
		t.Fatal(err)
	}
	p := got.GetPrincipal()
	if who := cluster.Governor(); p.GetName() != who.Name || p.GetKind() != who.Role.String() || p.GetIssuer() != who.Issuer.String() {
		t.Errorf("principal = %v, want the one behind the token", p)
	}
	if got.GetViaNode() != string(f.c.NodeID()) || got.GetProposer() != string(leader.c.NodeID()) || got.GetTimeUnixMs() < before {
		t.Errorf("via %q proposer %q time %d: want the follower, the leader, and the leader's time", got.GetViaNode(), got.GetProposer(), got.GetTimeUnixMs())
	}
	if got.GetCorrelationId() == "" {
		t.Error("the correlation id was lost")
	}
}

func TestI6_AWriteIsNotAnsweredBeforeItIsVisibleWhereItWasAsked(t *testing.T) {
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
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	held.Store(true)
	defer release()
	done := make(chan error, 1)
	go func() {
		_, err := b.propose(limited(t), gate.SealCluster, write("slow", 1))
		done <- err
	}()
	a.eventually("the leader applied it", func() bool { return a.machine.View().Hold().GetReason() == "slow-1" })
	select {
	case err := <-done:
		t.Errorf("answered before it was visible: %v", err)
	case <-time.After(300 * time.Millisecond): // what must not happen would happen within a round trip
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := b.machine.View().Hold().GetReason(); got != "slow-1" {
		t.Fatalf("hold is %q", got)
	}
}

func TestALostLeaderIsReplacedAndARetryActsOnce(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	first := leader.write("kill", 0)
	leader.stop()
	second := others[0].write("kill", 1) // waits for the election by itself
	again := others[1].write("kill", 0)
	if again.GetIndex() != first.GetIndex() || !again.GetReplayed() {
		t.Fatalf("the retry acted again: index %d, first %d", again.GetIndex(), first.GetIndex())
	}
	leader.start()
	leader.applied(second.GetIndex())
	if got := leader.machine.View().Hold().GetReason(); got != "kill-1" {
		t.Fatalf("hold is %q after the restart, want kill-1", got)
	}
	if leader.dir.Boots() != 2 {
		t.Errorf("boots = %d, want 2", leader.dir.Boots())
	}
}

// TestANodeThatJoinsWaitsForAnElection: the leader is gone, and nobody has to type
// the token again.
func TestANodeThatJoinsWaitsForAnElection(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	tok := others[0].invite(wanted{})
	late := newMember(t, "late")
	leader.stop()
	late.join(tok)
	others[0].eventually("the late one is a member", func() bool {
		m, ok := others[0].machine.View().Member(string(late.c.NodeID()))
		return ok && !m.GetRemoved()
	})
}

func TestAClusterThatStoppedAsAWholeStartsAgain(t *testing.T) {
	t.Parallel()
	all := three(t)
	res := all[1].write("all", 0)
	for _, m := range all {
		m.applied(res.GetIndex())
	}
	for _, m := range all {
		m.stop()
	}
	for _, m := range all {
		m.start()
	}
	res = all[2].write("all", 1)
	for _, m := range all {
		m.applied(res.GetIndex())
	}
}

func TestI8_ARemovedMemberStopsAndIsRefused(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	gone, stays := others[0], others[1]
	open, err := gone.c.DialMember(limited(t), stays.c.NodeID(), cluster.ProtoRaft)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	leader.remove(gone)
	_ = open.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := open.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("an open stream of a removed member stays open")
	}
	leader.eventually("purged", func() bool {
		m, ok := leader.machine.View().Member(string(gone.c.NodeID()))
		return ok && m.GetPurged()
	})
	// Three voters less one are not left as two.
	leader.voters(1)
	res := leader.write("after-removal", 0)
	stays.applied(res.GetIndex())
	for _, proto := range []string{cluster.ProtoPeer, cluster.ProtoRaft} {
		conn, err := gone.c.DialAs(limited(t), leader.c.PeerAddress(), leader.c.KeyHash(), proto)
		if err == nil {
			// TLS 1.3: the client hears the refusal with the first read.
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		if err == nil {
			t.Errorf("a removed member still gets %s", proto)
		}
	}
	if _, err := gone.c.Health(limited(t), leader.c.NodeID()); err == nil {
		t.Error("a removed member still gets an answer")
	}
	if gone.machine.View().Index() >= res.GetIndex() {
		t.Error("a removed member still gets entries")
	}
}

func TestAMemberStopsWhenItIsRemoved(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	a.eventually("b is a server", func() bool { return a.c.Stats().Nonvoters == 1 })
	b.applied(a.write("x", 0).GetIndex())
	a.remove(b)
	b.stopsBecause(errs.FailedState)
}

func TestARemovedLeaderHandsOverAndStops(t *testing.T) {
	t.Parallel()
	leader, others := leaderOf(t, three(t))
	others[0].remove(leader)
	leader.stopsBecause(errs.FailedState)
	res := others[1].write("after", 0)
	others[0].applied(res.GetIndex())
	others[0].eventually("one voter", func() bool { return others[0].c.Stats().Voters == 1 })
}

// The one voter of two members, or the last of three, cannot be removed as it is:
// nobody would listen to it any more, and nobody else could lead.
func TestI7_TheOneVoterIsRemovedOnlyAfterAnotherOneVotes(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{voter: true}))
	a.eventually("b is a server", func() bool { return a.c.Stats().Nonvoters == 1 })
	gone := request("remove", &fsmpb.Command{
		Body: &fsmpb.Command_RemoveMember{RemoveMember: &fsmpb.RemoveMember{Id: string(a.c.NodeID())}},
	})
	if _, err := b.insist(gate.RemoveNode, gone); !errs.Is(err, errs.FailedState) {
		t.Fatalf("the one voter was removed: %v", err)
	}
	if m, ok := a.machine.View().Member(string(a.c.NodeID())); !ok || m.GetRemoved() {
		t.Fatalf("refused and done: %v", m)
	}
	if _, err := b.insist(gate.DemoteNode, request("demote", &fsmpb.Command{Body: &fsmpb.Command_UpdateMember{UpdateMember: &fsmpb.UpdateMember{
		Member: &fsmpb.Member{Id: string(a.c.NodeID())}, Fields: []string{"voter"},
	}}})); err != nil {
		t.Fatal(err)
	}
	b.eventually("b votes alone", func() bool {
		return b.c.IsLeader() && b.c.IsVoter(b.c.NodeID()) && !b.c.IsVoter(a.c.NodeID())
	})
	b.remove(a)
	a.stopsBecause(errs.FailedState)
	b.write("alone", 0)
}

func TestI10_AJoinTokenAdmitsOneNodeOfOneClusterInTime(t *testing.T) {
	t.Parallel()
	a, foreign := newMember(t, "a"), newMember(t, "foreign")
	a.bootstrap()
	foreign.bootstrap()

	tok := a.invite(wanted{})
	b := newMember(t, "b")
	cert := b.join(tok)
	if len(cert.Chain) == 0 || string(cert.Chain[0]) != string(b.c.NodeID()) {
		t.Fatalf("certificate %q is not for the new node", cert.Chain)
	}
	if pin, ok := b.dir.Fingerprint(); !ok || pin != tok.Fingerprint {
		t.Fatal("the directory does not name the cluster")
	}

	refused := func(name string, m *member, tok cluster.JoinToken, code errs.Code) {
		t.Helper()
		if _, err := m.c.Join(limited(t), tok); !errs.Is(err, code) {
			t.Errorf("%s: %v, want %s", name, err, code)
		}
		if m.dir.Membership() != cluster.MembershipNone {
			t.Errorf("%s: the directory became %q", name, m.dir.Membership())
		}
	}
	c := newMember(t, "c")
	refused("used token", c, tok, errs.Denied)
	refused("token of a voter's region", c, a.invite(wanted{region: "us"}), errs.Denied)
	// Long enough to be registered in time by a busy machine.
	const life = 2 * time.Second
	short := a.invite(wanted{life: life})
	hash := short.Hash()
	a.eventually("the token expired", func() bool {
		k, ok := a.machine.View().JoinToken(hash[:])
		return !ok || time.Now().UnixMilli() > k.GetExpireTimeMs()
	})
	refused("expired token", c, short, errs.Denied)
	unknown, err := a.c.JoinToken() // never registered
	if err != nil {
		t.Fatal(err)
	}
	refused("unregistered token", c, unknown, errs.Denied)

	// Somebody changed the token so that it leads to another cluster.
	misled, err := foreign.c.JoinToken()
	if err != nil {
		t.Fatal(err)
	}
	hash = misled.Hash()
	if _, err := foreign.propose(limited(t), gate.CreateJoinToken, request("t", &fsmpb.Command{
		Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{Token: &fsmpb.JoinToken{
			Hash: hash[:], ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli(),
		}}},
	})); err != nil {
		t.Fatal(err)
	}
	misled.Fingerprint = tok.Fingerprint
	refused("token that leads to another cluster", c, misled, errs.Denied)

	if _, err := b.c.Join(limited(t), a.invite(wanted{})); !errs.Is(err, errs.FailedState) {
		t.Errorf("a member joins again: %v", err)
	}
}

func TestAJoinThatLostItsAnswerIsRepeated(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	tok := a.invite(wanted{})
	b := newMember(t, "b")
	b.join(tok)
	b.applied(a.write("x", 0).GetIndex())
	// The directory forgets that it is a member, as after a crash before the write.
	b.stop()
	forget(t, b.path)
	if err := os.Remove(b.path + "/tls/peers.json"); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.join(tok)
	b.applied(a.write("x", 1).GetIndex())
}

func TestASealedSeedGetsTheCertificateFromAnotherMember(t *testing.T) {
	t.Parallel()
	// Later, a sealed leader admits nobody.
	a := newMember(t, "a", func(c *cluster.Config) { c.Self.MaxFormat = fsm.FormatAuthority })
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	a.hooks.seal()
	c := newMember(t, "c")
	if cert := c.join(a.invite(wanted{})); len(cert.Chain) == 0 {
		t.Fatal("no certificate although b is unsealed")
	}
	b.hooks.seal()
	c.hooks.seal()
	d := newMember(t, "d")
	if cert := d.join(a.invite(wanted{})); len(cert.Chain) != 0 {
		t.Fatal("a certificate out of sealed members")
	}
	d.applied(a.write("x", 1).GetIndex())
	d.hooks.seal()
	if _, err := d.c.RequestCertificate(limited(t)); !errs.Is(err, errs.Sealed) {
		t.Fatalf("certificate without an unsealed member: %v", err)
	}
}

func TestALaggingNodeCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	mac := func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		return sha256.Sum256(bytes.Join(parts, nil)), true
	}
	all := three(t, func(c *cluster.Config) { c.TrailingLogs, c.SnapshotThreshold, c.MAC = 5, 1<<20, mac })
	leader, others := leaderOf(t, all)
	lag := others[0]
	lag.stop()
	var last uint64
	for i := range 30 {
		last = leader.write("many", i).GetIndex()
	}
	compact(t, last, leader, others[1])
	lag.start()
	lag.applied(last)
	proof, ok := lag.machine.RestoreProof()
	if !ok {
		t.Fatal("the node did not get a snapshot")
	}
	if err := proof.Verify(mac); err != nil {
		t.Errorf("the snapshot does not carry the node's MAC: %v", err)
	}
	// And a restart comes up from it.
	lag.restart()
	lag.applied(leader.write("many", 30).GetIndex())
}

func TestANodeListensToALeaderThatJoinedWhileItWasAway(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	away := others[0]
	away.stop()
	fourth := newMember(t, "fourth")
	fourth.join(leader.invite(wanted{voter: true}))
	leader.voters(4)
	fourth.applied(leader.write("grow", 0).GetIndex())
	leader.eventually("handed over", func() bool {
		_ = leader.c.TransferLeadership(limited(t), fourth.c.NodeID())
		return fourth.c.IsLeader()
	})
	away.start()
	away.applied(fourth.write("grow", 1).GetIndex())
}

func TestNoLeaderIsAnErrorAndNothingHappened(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	for _, m := range others {
		m.stop()
	}
	ctx, cancel := context.WithTimeout(limited(t), 4*time.Second)
	defer cancel()
	leader.eventually("stepped down", func() bool { return !leader.c.IsLeader() })
	if d := leader.c.LastContact(); d == 0 {
		t.Errorf("last contact %s without a majority", d)
	}
	_, err := leader.propose(ctx, gate.SealCluster, write("none", 0))
	if code := errs.Of(err); code != errs.NoLeader && code != errs.DeadlineExceeded {
		t.Fatalf("propose without a majority: %v", err)
	}
}

func TestLastContactIsSmallWhileAMajorityStands(t *testing.T) {
	t.Parallel()
	all := three(t)
	for _, m := range all {
		m.eventually("in contact", func() bool { return m.c.LastContact() < time.Second })
	}
	leader, others := leaderOf(t, all)
	for _, m := range others {
		m.stop()
	}
	// Nothing confirms any more: the leader's own word does not count.
	leader.eventually("out of contact", func() bool { return leader.c.LastContact() > time.Second })
}

func TestPrepareReachesTheNamedMemberAndNamesTheSender(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	b.hooks.prepare = func(from cluster.NodeID, req []byte) ([]byte, error) {
		return append([]byte(from+"/"), req...), nil
	}
	got, err := a.c.PrepareOn(limited(t), string(b.c.NodeID()), []byte("task"))
	if err != nil || string(got) != string(a.c.NodeID())+"/task" {
		t.Fatalf("prepare = %q, %v", got, err)
	}
	if _, err := b.c.PrepareOn(limited(t), string(a.c.NodeID()), nil); !errs.Is(err, errs.Sealed) {
		t.Fatalf("the other's error was lost: %v", err)
	}
	if _, err := a.c.PrepareOn(limited(t), string(b.c.NodeID()), make([]byte, cluster.MaxEntry+1)); !errs.Is(err, errs.TooLarge) {
		t.Fatalf("too large a task: %v", err)
	}
}

func TestAChangeLargerThanAnEntryIsRefused(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	cmd := write("large", 0)
	cmd.GetSetHold().Reason = string(make([]byte, cluster.MaxEntry))
	if _, err := a.propose(limited(t), gate.SealCluster, cmd); !errs.Is(err, errs.TooLarge) {
		t.Fatalf("got %v", err)
	}
}

func TestOnlyTheClusterProposesItsOwnHousekeeping(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	for _, cmd := range []*fsmpb.Command{
		{},
		{Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}},
		{Body: &fsmpb.Command_PurgeMember{PurgeMember: &fsmpb.PurgeMember{Id: "x"}}},
		{Body: &fsmpb.Command_AddMember{AddMember: &fsmpb.AddMember{}}},
		a.genesis(),
	} {
		if _, err := a.propose(limited(t), gate.SealCluster, cmd); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%T: %v", cmd.GetBody(), err)
		}
	}
}

func TestBootstrapActsOnceAndIsRepeatedAfterACrash(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	again := func() error {
		return a.as(limited(t), auth.LocalOperator(), gate.Init, func(tok gate.Token) error {
			_, err := a.c.Bootstrap(limited(t), tok, a.genesis())
			return err
		})
	}
	if err := again(); !errs.Is(err, errs.FailedState) {
		t.Fatalf("a second bootstrap: %v", err)
	}
	// As after a crash between the genesis and node.json.
	a.stop()
	forget(t, a.path)
	a.start()
	a.eventually("a member again", func() bool { return a.dir.Membership() == cluster.MembershipMember })
	if err := again(); !errs.Is(err, errs.FailedState) {
		t.Fatalf("another genesis over the first: %v", err)
	}
	a.write("still", 0)
}

func TestANodeThatMovedAnnouncesItself(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	b.stop()
	b.change = append(b.change, func(c *cluster.Config) { c.Self.GRPCAddress, c.Self.Version = "127.0.0.1:9", "v1" })
	b.start()
	a.eventually("announced", func() bool {
		m, _ := a.machine.View().Member(string(b.c.NodeID()))
		return m.GetGrpcAddress() == "127.0.0.1:9" && m.GetVersion() == "v1"
	})
}

func TestGarbageOnAnyProtocolOfThePeerPortHurtsNobody(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	// A frame that announces 16 MiB, and a megabyte of nothing.
	garbage := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00"), make([]byte, 1<<20)...)
	for _, proto := range []string{cluster.ProtoRaft, cluster.ProtoPeer, cluster.ProtoJoin} {
		for _, head := range [][]byte{nil, {0}, {2}, {200}} {
			conn, err := b.c.DialAs(limited(t), a.c.PeerAddress(), a.c.KeyHash(), proto)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(append(head, garbage...))
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s keeps a connection that sends garbage after %v", proto, head)
			}
			_ = conn.Close()
		}
	}
	b.applied(a.write("x", 1).GetIndex())
}

func TestAMessageLargerThanTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	for _, proto := range []string{cluster.ProtoPeer, cluster.ProtoJoin} {
		if code := b.c.SendLarge(limited(t), a.c.PeerAddress(), a.c.KeyHash(), proto); code != "ResourceExhausted" {
			t.Errorf("%s answers %s", proto, code)
		}
	}
}

func TestRunEndsWithCloseAndRunsOnce(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	if err := a.c.Run(t.Context()); !errs.Is(err, errs.Internal) {
		t.Errorf("a second Run: %v", err)
	}
	a.stopped = true
	if err := errors.Join(a.c.Close(), a.c.Close(), <-a.done, a.dir.Close()); err != nil {
		t.Fatalf("close while it runs: %v", err)
	}
	if a.c.Cause() != nil {
		t.Errorf("closing is no failure: %v", a.c.Cause())
	}
}

func TestALogOfAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.stop()
	raw, err := os.ReadFile(a.path + "/node.json")
	if err != nil {
		t.Fatal(err)
	}
	pin, _ := a.dir.Fingerprint()
	mine, other := hex.EncodeToString(pin[:]), strings.Repeat("ab", 32)
	if err := os.WriteFile(a.path+"/node.json", []byte(strings.Replace(string(raw), mine, other, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	// The machine is not pinned, so that this package has to notice.
	a.change = append(a.change, func(c *cluster.Config) { c.Machine = fsm.New(fsm.Options{}) })
	a.start()
	a.stopsBecause(errs.StateCorrupt)
}

func TestANodeStopsAtACommandItDoesNotKnow(t *testing.T) {
	t.Parallel()
	told := make(chan error, 1)
	a := newMember(t, "a", func(c *cluster.Config) { c.OnFatal = func(err error) { told <- err } })
	a.bootstrap()
	a.write("x", 0)
	if err := a.c.ApplyRaw([]byte{0xff, 0xff}); err == nil {
		t.Fatal("applied")
	}
	select {
	case err := <-told:
		if !fsm.Stopped(err) {
			t.Fatalf("told %v", err)
		}
	case <-limited(t).Done():
		t.Fatal("nobody was told")
	}
	if err := <-a.done; !fsm.Stopped(err) {
		t.Fatalf("run ended with %v", err)
	}
	a.done <- nil
	if err := a.c.TakeSnapshot(); err == nil {
		t.Error("a snapshot of a machine that stopped")
	}
}
