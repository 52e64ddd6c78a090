package cluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// comparer is a reader whose peers are other readers.
type comparer struct {
	*reader

	peers map[NodeID]*reader
	keys  map[NodeID][32]byte // as this node knows them; those of the world otherwise
	proof map[NodeID][32]byte // with which peers prove themselves; as before
	gone  map[NodeID]bool     // who does not vote by the state

	answering sync.Mutex
	asked     int
}

func numbered(n int) NodeID { return NodeID(fmt.Sprintf("%032x", n)) }

func simWitness(id NodeID) witness {
	sum := simKey(id)
	return witness{ID: id, KeyHash: hex.EncodeToString(sum[:])}
}

// newComparer is a node that compares as r says.
func newComparer(t *testing.T, r *compareRecord) *comparer {
	t.Helper()
	c := &comparer{reader: newReader(t), peers: map[NodeID]*reader{}, keys: map[NodeID][32]byte{}, proof: map[NodeID][32]byte{}, gone: map[NodeID]bool{}}
	of := func(known map[NodeID][32]byte, id NodeID) [32]byte {
		if k, ok := known[id]; ok {
			return k
		}
		return simKey(id)
	}
	p := c.compared
	p.key = func(id NodeID) ([32]byte, bool) { return of(c.keys, id), true }
	p.find = func(sum [32]byte) (NodeID, bool) {
		for id := range c.peers {
			if of(c.keys, id) == sum {
				return id, true
			}
		}
		return "", false
	}
	p.others = func() []witness { return nil }
	p.votes = func(id NodeID) bool { return !c.gone[id] }
	p.leader = func() NodeID { return numbered(2) }
	c.Cluster.peers = &peers{ready: func(_ context.Context, id NodeID) (clusterpb.PeerClient, error) {
		to := c.peers[id]
		if to == nil {
			return nil, errSimLost
		}
		return &comparerPeer{c: c, to: to, hash: of(c.proof, id)}, nil
	}}
	if r != nil {
		if err := p.save(r); err != nil {
			t.Fatal(err)
		}
		if err := p.load(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

type comparerPeer struct {
	clusterpb.PeerClient // what nobody calls here

	c    *comparer
	to   *reader
	hash [32]byte
}

func (p *comparerPeer) StateDigest(_ context.Context, _ *clusterpb.StateDigestRequest, opts ...grpc.CallOption) (*clusterpb.StateDigestResponse, error) {
	for _, o := range opts {
		if at, ok := o.(grpc.PeerCallOption); ok {
			at.PeerAddr.AuthInfo = peerAuth{conn: &peerConn{keyHash: p.hash}}
		}
	}
	p.c.answering.Lock() // two of them may be one reader
	defer p.c.answering.Unlock()
	p.c.asked++
	r, err := p.to.compared.answer(p.c.id)
	p.to.compared.answered = map[NodeID]time.Time{} // the next round is as if later
	return r, err
}

// compare asks once.
func (c *comparer) compare(t *testing.T) {
	t.Helper()
	r, epoch, ok := c.compared.pending()
	if !ok {
		t.Fatal("there is nothing to compare")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c.compared.round(ctx, r, epoch)
}

// states are an honest member, and the snapshot of one that lies at the same index.
func states(t *testing.T) (honest *ledger, lie []byte) {
	t.Helper()
	honest = newLedger(t)
	liar := newLedger(t)
	honest.change()
	liar.write(&fsmpb.Command{Body: &fsmpb.Command_UpdateMember{UpdateMember: &fsmpb.UpdateMember{
		Member: &fsmpb.Member{Id: ledgerNode, Version: "lie"}, Fields: []string{"version"},
	}}})
	honest.commit()
	liar.commit()
	return honest, snapshotBytes(t, liar.reader)
}

func snapshotBytes(t *testing.T, of *reader) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := of.machine.Snapshot().WriteTo(&b, of.cfg.MAC); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (c *comparer) restore(t *testing.T, snapshot []byte) {
	t.Helper()
	if err := c.adapter.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil {
		t.Fatal(err)
	}
}

// voters is the record of a node that knew those other voters, itself being one too.
func voters(ids ...int) *compareRecord {
	r := &compareRecord{Format: 1, Foreign: true, Sender: simWitness(numbered(2))}
	for _, id := range ids {
		r.Witnesses = append(r.Witnesses, simWitness(numbered(id)))
	}
	return r
}

// seeds is the record of a node that joined with a token of those.
func seeds(ids ...int) *compareRecord {
	r := voters(ids...)
	r.Joined = true
	for i := range r.Witnesses {
		r.Witnesses[i].ID = ""
	}
	return r
}

func TestI21_WhatMembersSayOfAState(t *testing.T) {
	t.Parallel()
	const a, d, u = agrees, differs, silent
	for name, c := range map[string]struct {
		of   *compareRecord
		said []verdict
		gone []int // by the state they do not vote
		want outcome
	}{
		"three voters, nobody":            {of: voters(2, 3), said: []verdict{u, u}},
		"three voters, who sent it":       {of: voters(2, 3), said: []verdict{a, u}},
		"three voters, the other one":     {of: voters(2, 3), said: []verdict{u, a}},
		"three voters, both":              {of: voters(2, 3), said: []verdict{a, a}, want: confirmed},
		"three voters, one against":       {of: voters(2, 3), said: []verdict{u, d}, want: refuted},
		"three voters, the sender stands": {of: voters(2, 3), said: []verdict{a, d}, want: refuted},
		"two voters, the other":           {of: voters(2), said: []verdict{a}, want: confirmed},
		"two voters, nobody":              {of: voters(2), said: []verdict{u}},
		"four voters, two":                {of: voters(2, 3, 4), said: []verdict{a, a, u}, want: confirmed},
		"four voters, the sender":         {of: voters(2, 3, 4), said: []verdict{a, u, u}},
		"five voters, two":                {of: voters(2, 3, 4, 5), said: []verdict{a, a, u, u}},
		"five voters, three":              {of: voters(2, 3, 4, 5), said: []verdict{a, a, u, a}, want: confirmed},
		"five voters, three and one not":  {of: voters(2, 3, 4, 5), said: []verdict{a, a, d, a}, want: confirmed},
		"five voters, one not":            {of: voters(2, 3, 4, 5), said: []verdict{a, u, d, u}},
		"five voters, two not":            {of: voters(2, 3, 4, 5), said: []verdict{a, a, d, d}, want: refuted},
		"seven voters, two not":           {of: voters(2, 3, 4, 5, 6, 7), said: []verdict{a, a, d, d, a, u}},

		"one is gone, the other agrees":          {of: voters(2, 3, 4), said: []verdict{u, a, u}, gone: []int{4}},
		"one is gone, both agree":                {of: voters(2, 3, 4), said: []verdict{a, a, u}, gone: []int{4}, want: confirmed},
		"the other one is gone":                  {of: voters(2, 3), said: []verdict{a, u}, gone: []int{3}},
		"all but the sender are gone":            {of: voters(2, 3, 4, 5), said: []verdict{a, u, u, u}, gone: []int{3, 4, 5}},
		"all are gone":                           {of: voters(3, 4), said: []verdict{u, u}, gone: []int{3, 4}},
		"all but one are gone, who is another":   {of: voters(2, 3, 4), said: []verdict{u, a, u}, gone: []int{2, 4}, want: confirmed},
		"the sender is gone, one other agrees":   {of: voters(2, 3, 4), said: []verdict{u, a, u}, gone: []int{2}},
		"two are gone, and two agree":            {of: voters(2, 3, 4, 5), said: []verdict{a, a, u, u}, gone: []int{4, 5}, want: confirmed},
		"who is gone was not asked yet":          {of: voters(2, 3, 4, 5), said: []verdict{a, a, unheard, unheard}, gone: []int{4, 5}},
		"who is gone by the state says no":       {of: voters(2, 3, 4, 5), said: []verdict{a, a, d, d}, gone: []int{4, 5}, want: refuted},
		"who is gone by the state says yes":      {of: voters(2, 3), said: []verdict{a, a}, gone: []int{3}, want: confirmed},
		"one of two who are gone says no":        {of: voters(2, 3, 4, 5), said: []verdict{a, a, d, u}, gone: []int{4, 5}, want: confirmed},
		"one who says no, the other one is gone": {of: voters(2, 3), said: []verdict{u, d}, gone: []int{2}, want: refuted},

		"joined by the sender alone":         {of: seeds(2), said: []verdict{a}, want: confirmed},
		"joined by one who is silent":        {of: seeds(2), said: []verdict{u}},
		"joined, only the sender":            {of: seeds(2, 3), said: []verdict{a, u}},
		"joined, only another one":           {of: seeds(2, 3), said: []verdict{u, a}, want: confirmed},
		"joined, one against":                {of: seeds(2, 3, 4), said: []verdict{a, a, d}, want: refuted},
		"joined, and there is nobody to ask": {of: seeds()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &comparison{record: c.of, said: c.said, votes: func(id NodeID) bool {
				return !slices.ContainsFunc(c.gone, func(n int) bool { return numbered(n) == id })
			}}
			if got, _ := p.judge(); got != c.want {
				t.Errorf("outcome %d, want %d", got, c.want)
			}
		})
	}
	for _, r := range []*compareRecord{seeds(2, 3), voters(2, 3)} {
		r.Sender = witness{}
		all := func(NodeID) bool { return true }
		if got, _ := (&comparison{record: r, said: []verdict{a, u}, votes: all}).judge(); got != undecided {
			t.Error("without a known sender any member counts as another one")
		}
		if got, _ := (&comparison{record: r, said: []verdict{a, a}, votes: all}).judge(); got != confirmed {
			t.Error("of two at most one is the sender")
		}
	}
}

func TestI21_AStateThatOneMemberSentIsServedOnceOthersHaveIt(t *testing.T) {
	t.Parallel()
	honest, _ := states(t)
	c := newComparer(t, voters(2, 3))
	c.restore(t, snapshotBytes(t, honest.reader))
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Fatalf("before anybody was asked: %v", err)
	}
	if !c.mustNotGrant() {
		t.Error("as leader it gives leases")
	}
	if _, err := c.adapter.Snapshot(); err == nil {
		t.Error("it writes a snapshot")
	}
	if _, err := c.compared.answer(numbered(3)); !errs.Is(err, errs.NotServing) {
		t.Errorf("it vouches for the state of another one: %v", err)
	}
	c.peers[numbered(2)] = honest.reader
	c.compare(t)
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Fatalf("when only who sent it was asked: %v", err)
	}
	sealed := newReader(t)
	sealed.apply(t, copyLogs(honest.entries)...)
	sealed.sealed = true
	c.peers[numbered(3)] = sealed
	c.compare(t)
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Fatalf("when the other one is sealed: %v", err)
	}
	if _, err := c.mark(); err != nil {
		t.Fatalf("the mark is gone: %v", err)
	}
	sealed.sealed = false
	before := c.asked
	c.compare(t)
	if c.asked != before+1 {
		t.Errorf("%d members were asked, and one was left", c.asked-before)
	}
	if err := c.Proved(); err != nil {
		t.Fatalf("when both have it: %v", err)
	}
	if _, err := c.mark(); err == nil {
		t.Error("the mark is there still")
	}
	if _, err := c.compared.answer(numbered(3)); err != nil {
		t.Errorf("it vouches for nothing: %v", err)
	}
}

// mark reads the mark.
func (c *comparer) mark() ([]byte, error) { return c.compared.read() }

func TestI21_AStateThatOthersDoNotHaveIsNeverServed(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]*compareRecord{"a voter": voters(2, 3), "who joined": seeds(2, 3)} {
		honest, lie := states(t)
		liar := newComparer(t, nil)
		liar.restore(t, lie)
		c := newComparer(t, r)
		c.restore(t, lie)
		if proof, ok := c.machine.RestoreProof(); !ok || proof.Verify(c.cfg.MAC) != nil {
			t.Fatal("the lie has no right MAC")
		}
		c.peers[numbered(2)], c.peers[numbered(3)] = liar.reader, honest.reader
		c.compare(t)
		if err := c.Proved(); !errs.Is(err, errs.StateCorrupt) || !bytes.Contains([]byte(err.Error()), []byte(numbered(2))) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.mark(); err != nil {
			t.Errorf("%s: the mark is gone: %v", name, err)
		}
		// Its own log goes on, and makes nothing better.
		c.apply(t, &raft.Log{Index: honest.last() + 1, Term: 1, Type: raft.LogCommand, Data: honest.change().Data})
		if err := c.Proved(); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s, later: %v", name, err)
		}
		// An honest snapshot is a new beginning.
		honest.commit()
		c.restore(t, snapshotBytes(t, honest.reader))
		if err := c.Proved(); !errs.Is(err, errs.NotServing) {
			t.Errorf("%s, with an honest state: %v", name, err)
		}
	}
}

func TestI21_WhoIsAskedIsKnownFromBeforeTheSnapshot(t *testing.T) {
	t.Parallel()
	honest, lie := states(t)
	liar := newComparer(t, nil)
	liar.restore(t, lie)
	forged := simKey(numbered(99))

	c := newComparer(t, voters(2, 3))
	c.restore(t, lie)
	c.peers[numbered(2)], c.peers[numbered(3)] = liar.reader, liar.reader
	c.keys[numbered(3)] = forged // the lie names another key for that member
	c.compare(t)
	if err := c.Proved(); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("a member with another key than before counts: %v", err)
	}

	c = newComparer(t, voters(2, 3))
	c.restore(t, lie)
	c.peers[numbered(2)], c.peers[numbered(3)] = liar.reader, liar.reader
	c.proof[numbered(3)] = forged // a connection from when the member was known by that key
	c.compare(t)
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Errorf("an answer over a connection with another key counts: %v", err)
	}

	// A second snapshot is compared with whom the first one was.
	c = newComparer(t, voters(2, 3))
	c.restore(t, lie)
	if err := c.compared.arrive(); err != nil {
		t.Fatal(err)
	}
	r, err := decodeCompareRecord(must(c.mark()))
	if err != nil || len(r.Witnesses) != 2 || r.Joined || r.Witnesses[1] != simWitness(numbered(3)) {
		t.Errorf("%+v, %v", r, err)
	}
	_ = honest
}

func TestI21_TheStateBeforeASnapshotIsNotTheOneThatIsConfirmed(t *testing.T) {
	t.Parallel()
	honest, lie := states(t)
	c := newComparer(t, voters(2, 3))
	c.restore(t, snapshotBytes(t, honest.reader))
	c.peers[numbered(2)], c.peers[numbered(3)] = honest.reader, honest.reader
	r, epoch, ok := c.compared.pending()
	if !ok {
		t.Fatal("nothing to compare")
	}
	if err := c.compared.arrive(); err != nil { // a lie comes while others are asked
		t.Fatal(err)
	}
	c.compared.round(t.Context(), r, epoch)
	c.compared.hear(0, agrees, epoch)
	c.compared.hear(1, agrees, epoch)
	c.compared.conclude(t.Context(), epoch)
	if _, _, ok := c.compared.pending(); ok {
		t.Error("what is about to be replaced is compared")
	}
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Errorf("what others said of the state before counts: %v", err)
	}
	c.restore(t, lie)
	c.compared.hear(0, agrees, epoch)
	c.compared.hear(1, agrees, epoch)
	c.compared.conclude(t.Context(), epoch)
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Errorf("what others said of the state before counts for the next: %v", err)
	}
	c.compare(t)
	if err := c.Proved(); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("the next state was not compared anew: %v", err)
	}
	// One that is refused leaves the state, which can be compared then.
	c.restore(t, lie)
	if err := c.compared.arrive(); err != nil {
		t.Fatal(err)
	}
	c.compared.refused()
	if _, _, ok := c.compared.pending(); !ok {
		t.Error("nothing is compared after a snapshot was refused")
	}
}

func TestI21_AStartRemembersThatTheStateWasNotCompared(t *testing.T) {
	t.Parallel()
	honest, _ := states(t)
	c := newComparer(t, nil)
	c.restore(t, snapshotBytes(t, honest.reader)) // its own
	if err := c.Proved(); err != nil {
		t.Fatalf("its own snapshot: %v", err)
	}
	if err := c.compared.arrive(); err != nil {
		t.Fatal(err)
	}
	next := newComparer(t, nil)
	if err := next.compared.write(must(c.mark())); err != nil {
		t.Fatal(err)
	}
	if err := next.compared.load(); err != nil {
		t.Fatal(err)
	}
	next.restore(t, snapshotBytes(t, honest.reader))
	if err := next.Proved(); !errs.Is(err, errs.NotServing) {
		t.Errorf("after a start: %v", err)
	}
	for _, bad := range []string{"", "{}", `{"format":2,"witnesses":[]}`, `{"format":1,"foreign":true,"sender":{"key_sha256":""},"witnesses":[]}`, `{"format":1} x`} {
		if err := next.compared.write([]byte(bad)); err != nil {
			t.Fatal(err)
		}
		if err := next.compared.load(); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestI21_WhoWaitsTakesCommittedEntriesOnly(t *testing.T) {
	t.Parallel()
	honest, _ := states(t)
	c := newComparer(t, voters(2, 3))
	c.restore(t, snapshotBytes(t, honest.reader))
	sends := func(committed uint64, entries ...uint64) error {
		req := &raft.AppendEntriesRequest{LeaderCommitIndex: committed}
		for _, i := range entries {
			req.Entries = append(req.Entries, &raft.Log{Index: i})
		}
		return c.compared.refuses(req)
	}
	for what, err := range map[string]error{
		"a heartbeat": sends(0), "news of a commit": sends(9), "what is committed": sends(9, 8, 9), "a vote": c.compared.refuses(&raft.RequestVoteRequest{}),
		"another snapshot": c.compared.refuses(&raft.InstallSnapshotRequest{}),
	} {
		if err != nil {
			t.Errorf("%s is refused: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"an entry that is not committed": sends(9, 10), "one behind others that are": sends(9, 8, 9, 10), "leadership": c.compared.refuses(&raft.TimeoutNowRequest{}),
	} {
		if err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	// Also when others have another state: it is nobody to go on with.
	c.compared.failure = errs.New(errs.StateCorrupt, "it is another one")
	if sends(9, 10) == nil || c.compared.mayLead() == nil {
		t.Error("a node whose state others do not have helps to commit, or may lead")
	}
	c.compared.failure = nil
	c.peers[numbered(2)], c.peers[numbered(3)] = honest.reader, honest.reader
	if c.compared.mayLead() == nil {
		t.Error("it may lead")
	}
	c.compare(t)
	if err := errors.Join(c.Proved(), sends(9, 10), c.compared.refuses(&raft.TimeoutNowRequest{}), c.compared.mayLead()); err != nil {
		t.Errorf("once it was compared: %v", err)
	}
}

// A message may wait while Raft is at the snapshot after which it must be refused.
func TestI21_WhetherANodeWaitsIsAskedWhenItsTurnComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		var waits atomic.Bool
		in := newArrivals()
		in.refuses = func(any) error {
			if waits.Load() {
				return refused
			}
			return nil
		}
		consume, done := make(chan raft.RPC), make(chan struct{})
		snap, _, _ := snapshotTo(3, 100)
		go in.hand(nil, snap, consume, done)
		first := <-consume
		answers := make(chan raft.RPCResponse, 1)
		go in.hand(nil, raft.RPC{Command: &raft.AppendEntriesRequest{}, RespChan: answers}, consume, done)
		synctest.Wait()
		waits.Store(true)
		first.Respond(&raft.InstallSnapshotResponse{}, nil)
		synctest.Wait()
		select {
		case <-consume:
			t.Fatal("Raft got it")
		case a := <-answers:
			if !errors.Is(a.Error, refused) {
				t.Errorf("it was answered: %+v", a)
			}
		}
		waits.Store(false)
		go in.hand(nil, raft.RPC{Command: &raft.AppendEntriesRequest{}, RespChan: answers}, consume, done)
		next := <-consume
		next.Respond(&raft.AppendEntriesResponse{}, nil)
		if a := <-answers; a.Error != nil {
			t.Errorf("the next one: %v", a.Error)
		}
	})
}

func TestI21_VotersThatAreGoneAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	honest, lie := states(t)
	c := newComparer(t, voters(2, 3, 4, 5))
	c.restore(t, snapshotBytes(t, honest.reader))
	c.gone[numbered(4)], c.gone[numbered(5)] = true, true
	c.peers[numbered(2)] = honest.reader
	c.compare(t)
	if err := c.Proved(); !errs.Is(err, errs.NotServing) || !strings.Contains(err.Error(), "1 of 2 said") {
		t.Fatalf("who sent it alone has it: %v", err)
	}
	c.peers[numbered(3)] = honest.reader
	c.compare(t)
	if err := c.Proved(); err != nil {
		t.Errorf("all that vote still have it: %v", err)
	}

	// Whom a state takes the vote of says no all the same: with two that lie alike, too.
	c = newComparer(t, voters(2, 3, 4, 5))
	c.restore(t, lie)
	liar := newComparer(t, nil)
	liar.restore(t, lie)
	c.gone[numbered(4)], c.gone[numbered(5)] = true, true
	c.peers[numbered(2)], c.peers[numbered(3)] = liar.reader, liar.reader
	c.peers[numbered(4)], c.peers[numbered(5)] = honest.reader, honest.reader
	c.compare(t)
	if err := c.Proved(); err == nil {
		t.Error("two who lie have a majority by taking the votes of the others")
	}

	// Nobody but the sender votes by what the sender says: that is no comparison.
	c = newComparer(t, voters(2, 3))
	c.restore(t, lie)
	c.gone[numbered(3)] = true
	c.peers[numbered(2)] = liar.reader
	c.compare(t)
	err := c.Proved()
	if !errs.Is(err, errs.NotServing) || !strings.Contains(errs.From(err).Hint, "krypton operator remove") {
		t.Errorf("%v", err)
	}
	c.gone[numbered(3)] = false
	if err := c.Proved(); !errs.Is(err, errs.NotServing) || strings.Contains(errs.From(err).Hint, "krypton operator remove") {
		t.Errorf("somebody is left: %v", err)
	}
	if _, err := c.mark(); err != nil {
		t.Errorf("the mark is gone: %v", err)
	}
}

func TestI21_OnlyOwnSnapshotsAreKeptWithoutAMark(t *testing.T) {
	t.Parallel()
	honest, _ := states(t)
	marked, broken := 0, error(nil)
	below := raft.NewInmemSnapshotStore()
	files := snapshots{below, func(lease.Mark) {}, func() error { marked++; return broken }, &readers{}}
	sink := func() raft.SnapshotSink {
		s, err := files.Create(1, 2, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	own := must(honest.adapter.Snapshot())
	if err := own.Persist(sink()); err != nil || marked != 0 {
		t.Errorf("the own snapshot: %d marks, %v", marked, err)
	}
	if err := sink().Close(); err != nil || marked != 1 {
		t.Errorf("one that was sent: %d marks, %v", marked, err)
	}
	broken = errors.New("the disk is full")
	if err := sink().Close(); !errors.Is(err, broken) {
		t.Errorf("one that cannot be marked is kept: %v", err)
	}
}

func TestAStateIsComparedWithOneMemberAtATime(t *testing.T) {
	t.Parallel()
	c := newComparer(t, nil)
	if err := c.compared.admit(numbered(2)); err != nil {
		t.Fatal(err)
	}
	if err := c.compared.admit(numbered(3)); !errs.Is(err, errs.Throttled) {
		t.Errorf("two at a time: %v", err)
	}
	c.compared.busy = false
	if err := c.compared.admit(numbered(2)); !errs.Is(err, errs.Throttled) {
		t.Errorf("the same one again: %v", err)
	}
	if err := c.compared.admit(numbered(3)); err != nil {
		t.Errorf("another one: %v", err)
	}
}

func TestTheStatesThatAreKeptAreBounded(t *testing.T) {
	t.Parallel()
	honest, _ := states(t)
	c := newComparer(t, voters(2, 3))
	c.restore(t, snapshotBytes(t, honest.reader))
	for range 3 * compareViews {
		c.compared.applied(c.machine.View())
	}
	if n := len(c.compared.views); n > compareViews || n < compareViews/2 {
		t.Errorf("%d states are kept", n)
	}
}

func FuzzCompareRecord(f *testing.F) {
	for _, r := range []*compareRecord{voters(2, 3), seeds(2), {Format: 1, Joined: true}} {
		p := &comparison{write: func(b []byte) error { f.Add(b); return nil }}
		if err := p.save(r); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeCompareRecord(raw)
		if err != nil {
			return
		}
		p := &comparison{record: r, said: make([]verdict, len(r.Witnesses)), votes: func(NodeID) bool { return false }}
		if got, _ := p.judge(); r.Foreign && got != undecided {
			t.Errorf("nobody said anything, and it is %d: %s", got, raw)
		}
	})
}
