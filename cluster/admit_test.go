package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// Every method is decided here: one that is added fails until it is.
func TestI12_WhomOnlyAPeerNamedMayAskWhatStrangersMayKnow(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a") // in no cluster: its view has nobody, its list whom it was told
	ghost := newMember(t, "ghost")
	if err := a.c.Plant(ghost.c.NodeID(), ghost.c.PublicKey(), ghost.c.PeerAddress()); err != nil {
		t.Fatal(err)
	}
	if !a.c.Trusts(ghost.c.KeyHash()) {
		t.Fatal("the list does not admit it, so the test shows nothing")
	}
	open := map[string]bool{
		"Health": true, "Members": true,
		"Lease": false, "Propose": false, "Completion": false, "Prepare": false, "Announce": false, "Admit": false, "IssueCertificate": false, "StateDigest": false,
	}
	leader := newMember(t, "leader")
	leader.bootstrap()
	member := newMember(t, "member")
	member.join(leader.invite(wanted{}))
	var methods []string
	for _, m := range clusterpb.Peer_ServiceDesc.Methods {
		methods = append(methods, m.MethodName)
	}
	for _, s := range clusterpb.Peer_ServiceDesc.Streams {
		methods = append(methods, s.StreamName)
	}
	for _, name := range methods {
		want, ok := open[name]
		if !ok {
			t.Errorf("%s: decide whether a sender that the view does not have may call it", name)
		}
		method := "/" + clusterpb.Peer_ServiceDesc.ServiceName + "/" + name
		if err := a.c.Intercept(limited(t), ghost.c.NodeID(), ghost.c.KeyHash(), method); (err == nil) != want {
			t.Errorf("%s by a node that is only on the list: %v", name, err)
		}
		if err := leader.c.Intercept(limited(t), member.c.NodeID(), member.c.KeyHash(), method); err != nil {
			t.Errorf("%s by a member: %v", name, err)
		}
	}
}

func TestI12_WhoIsNoMemberIsForgottenInContact(t *testing.T) {
	t.Parallel()
	all := three(t)
	ghost := newMember(t, "ghost")
	for _, m := range all {
		m.eventually("in contact", func() bool { return m.c.LastContact() < cluster.Never })
		if err := m.c.Plant(ghost.c.NodeID(), ghost.c.PublicKey(), ghost.c.PeerAddress()); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range all {
		m.eventually("forgotten", func() bool { return !m.c.Trusts(ghost.c.KeyHash()) })
		raw, err := os.ReadFile(m.path + "/tls/peers.json")
		if err != nil || bytes.Contains(raw, []byte(ghost.c.NodeID())) {
			t.Errorf("%s keeps it on disk: %v", m.name, err)
		}
		for _, o := range all {
			if !bytes.Contains(raw, []byte(o.c.NodeID())) {
				t.Errorf("%s forgot %s on disk", m.name, o.name)
			}
		}
	}
}

func TestAForwardedCommandThatNoCallerGivesIsRefused(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	ivk := a.machine.View().Cluster().GetInternalKeys()[0].GetUid()
	index := a.machine.View().Index()
	for name, cmd := range map[string]*fsmpb.Command{
		"another authority": {Body: &fsmpb.Command_PutSecret{PutSecret: &fsmpb.PutSecret{Secret: &fsmpb.Secret{Name: "caller-ca", IvkUid: ivk, Blob: []byte("b"), Public: []byte("p")}}}},
		"another key":       {Body: &fsmpb.Command_AddInternalKey{AddInternalKey: &fsmpb.AddInternalKey{Version: &fsmpb.Version{Number: 2, Uid: uid(), Blob: []byte("b")}}}},
		"another format":    {Body: &fsmpb.Command_RaiseFormat{RaiseFormat: &fsmpb.RaiseFormat{Version: 2}}},
		"skippable":         {Skippable: true, Body: &fsmpb.Command_SetHold{SetHold: &fsmpb.SetHold{Held: true}}},
	} {
		cmd.Format, cmd.Principal = 1, &fsmpb.Principal{Issuer: "00", Kind: "operator", Name: "nobody"}
		err := b.c.AsPeer(limited(t), a.c.NodeID(), func(p clusterpb.PeerClient) error {
			_, err := p.Propose(limited(t), &clusterpb.ProposeRequest{Command: cmd})
			return err
		})
		if !errs.Is(wire.FromStatus(err), errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := a.machine.View().Index(); got != index {
		t.Errorf("%d commands were committed", got-index)
	}
}

func TestAMemberCannotAnnounceTheAddressOfAnother(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(a.write("x", 0).GetIndex())
	announce := func(change func(*clusterpb.NodeInfo)) error {
		m, _ := a.machine.View().Member(string(b.c.NodeID()))
		i := &clusterpb.NodeInfo{
			Name: m.GetName(), PeerAddress: m.GetPeerAddress(), GrpcAddress: m.GetGrpcAddress(), RestAddress: m.GetRestAddress(),
			Region: m.GetRegion(), Zone: m.GetZone(), Version: m.GetVersion(), MaxFormat: m.GetMaxFormat(),
		}
		change(i)
		return b.c.AsPeer(limited(t), a.c.NodeID(), func(p clusterpb.PeerClient) error {
			_, err := p.Announce(limited(t), &clusterpb.AnnounceRequest{Info: i})
			return err
		})
	}
	for name, change := range map[string]func(*clusterpb.NodeInfo){
		"peer":           func(i *clusterpb.NodeInfo) { i.PeerAddress = a.c.PeerAddress() },
		"gRPC":           func(i *clusterpb.NodeInfo) { i.GrpcAddress = a.c.PeerAddress() },
		"REST":           func(i *clusterpb.NodeInfo) { i.RestAddress = a.c.PeerAddress() },
		"peer over gRPC": func(i *clusterpb.NodeInfo) { i.PeerAddress = "127.0.0.1:1" },
	} {
		if err := wire.FromStatus(announce(change)); !errs.Is(err, errs.FailedState) || !strings.Contains(err.Error(), string(a.c.NodeID())) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What it had already, and what nobody has, it may say. All nodes of these
	// tests joined with the same gRPC address.
	if err := announce(func(i *clusterpb.NodeInfo) { i.RestAddress = "127.0.0.1:4" }); err != nil {
		t.Errorf("a free address: %v", err)
	}
}

func TestOnlyAVoterCanGetLeadership(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	a.eventually("b is a server", func() bool { return a.c.Stats().Nonvoters == 1 })
	for _, to := range []cluster.NodeID{b.c.NodeID(), "nobody"} {
		start := time.Now()
		if err := a.c.TransferLeadership(limited(t), to); !errs.Is(err, errs.FailedState) || time.Since(start) > 250*time.Millisecond {
			t.Errorf("to %s: %v after %s", to, err, time.Since(start))
		}
	}
	a.write("at once", 0)
}

// records keeps the lines of a log.
type records struct {
	mu  sync.Mutex
	all []string
}

func (*records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	line := rec.Level.String() + " " + rec.Message
	rec.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, line)
	return nil
}
func (r *records) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r *records) WithGroup(string) slog.Handler      { return r }

func (r *records) with(parts ...string) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
next:
	for _, line := range r.all {
		for _, p := range parts {
			if !strings.Contains(line, p) {
				continue next
			}
		}
		out = append(out, line)
	}
	return out
}

func TestI14_ASealedNodeWritesNoSnapshot(t *testing.T) {
	t.Parallel()
	var unsealed atomic.Bool
	mac := func(_ hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		return sha256.Sum256(append([]byte("key"), bytes.Join(parts, nil)...)), unsealed.Load()
	}
	log := &records{}
	a := newMember(t, "a", func(c *cluster.Config) {
		c.TrailingLogs, c.MAC, c.Log = 1, mac, slog.New(log)
		c.Self.MaxFormat = fsm.FormatAuthority // later, a sealed leader commits next to nothing
	})
	a.bootstrap()
	i := a.write("x", 1).GetIndex()
	snapshots := func() int {
		all, err := os.ReadDir(a.path + "/raft/snapshots")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return len(all)
	}
	before, err := a.c.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.c.TakeSnapshot(); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Fatalf("a snapshot of a sealed node: %v", err)
	}
	if after, err := a.c.FirstIndex(); err != nil || after != before || snapshots() != 0 {
		t.Fatalf("the log begins at %d after %d, %d snapshots: %v", after, before, snapshots(), err)
	}
	if loud := log.with("failed to take snapshot", "ERROR"); len(loud) != 0 {
		t.Errorf("it is logged as an error: %s", loud)
	}
	if len(log.with("failed to take snapshot", "DEBUG")) == 0 {
		t.Error("it is not logged at all")
	}
	// The whole log is still there for a node that joins.
	b := newMember(t, "b")
	b.join(a.invite(wanted{}))
	b.applied(i)
	if _, ok := b.machine.RestoreProof(); ok {
		t.Error("the new node got a snapshot")
	}
	a.write("x", 3) // Raft wants a command after the last change of its configuration
	unsealed.Store(true)
	if err := a.c.TakeSnapshot(); err != nil || snapshots() != 1 {
		t.Fatalf("%d snapshots of an unsealed node: %v", snapshots(), err)
	}
	// Sealed again, it gives away the older one and the log after it.
	unsealed.Store(false)
	i = a.write("x", 2).GetIndex()
	c := newMember(t, "c")
	c.join(a.invite(wanted{}))
	c.applied(i)
	proof, ok := c.machine.RestoreProof()
	unsealed.Store(true)
	if err := proof.Verify(mac); !ok || err != nil {
		t.Errorf("the new node did not get the snapshot with its MAC: %v, %v", ok, err)
	}
}

func TestAJoinIsNoErrorInTheLog(t *testing.T) {
	t.Parallel()
	log := &records{}
	a := newMember(t, "a", func(c *cluster.Config) { c.Log = slog.New(log) })
	a.bootstrap()
	// The answer to a join takes its time, and the joining node knows nobody before.
	a.hooks.issuing = func(ctx context.Context) {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	for i := range 3 {
		m := newMember(t, fmt.Sprintf("m%d", i))
		m.join(a.invite(wanted{}))
		m.applied(a.write("x", i).GetIndex())
	}
	if bad := log.with("bad certificate"); len(bad) != 0 {
		t.Errorf("the leader spoke to nodes that did not know it: %s", bad)
	}
	if len(log.with("servers=", "/Voter")) == 0 || len(log.with("hclog.Format")) != 0 || len(log.with("raft.Server")) != 0 {
		t.Error("the log prints types instead of values")
	}
}

// A node that has just started has applied nothing, and does not take that for
// word about its peers: an answer that is final would end what they forward.
func TestI8_ANodeThatIsBehindDoesNotCallItsPeersStrangers(t *testing.T) {
	t.Parallel()
	all := three(t)
	for _, m := range all {
		m.stop()
	}
	alone, peer := all[0], all[1]
	alone.start()
	err := alone.c.Intercept(limited(t), peer.c.NodeID(), peer.c.KeyHash(), clusterpb.Peer_Propose_FullMethodName)
	if !errs.Is(wire.FromStatus(err), errs.NoLeader) {
		t.Errorf("a peer is told %v", err)
	}
	stranger := [32]byte{1}
	err = alone.c.Intercept(limited(t), "stranger", stranger, clusterpb.Peer_Propose_FullMethodName)
	if !errs.Is(wire.FromStatus(err), errs.Unauthenticated) {
		t.Errorf("a stranger is told %v", err)
	}
}
