package cluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"testing"
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
	asked int
}

func numbered(n int) NodeID { return NodeID(fmt.Sprintf("%032x", n)) }

func simWitness(id NodeID) witness {
	sum := simKey(id)
	return witness{ID: id, KeyHash: hex.EncodeToString(sum[:])}
}

// newComparer is a node that compares as r says.
func newComparer(t *testing.T, r *compareRecord) *comparer {
	t.Helper()
	c := &comparer{reader: newReader(t), peers: map[NodeID]*reader{}, keys: map[NodeID][32]byte{}, proof: map[NodeID][32]byte{}}
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
	r := &compareRecord{Format: 1, Foreign: true, Sender: simWitness(numbered(2)), Need: min((len(ids)+1)/2+1, len(ids))}
	for _, id := range ids {
		r.Witnesses = append(r.Witnesses, simWitness(numbered(id)))
	}
	return r
}

// seeds is the record of a node that joined with a token of those.
func seeds(ids ...int) *compareRecord {
	r := voters(ids...)
	r.Joined, r.Need = true, 0
	for i := range r.Witnesses {
		r.Witnesses[i].ID = ""
	}
	return r
}

func TestI21_WhatMembersSayOfAState(t *testing.T) {
	t.Parallel()
	const a, d, u = agrees, differs, unheard
	for name, c := range map[string]struct {
		of   *compareRecord
		said []verdict
		want outcome
	}{
		"three voters, nobody":               {voters(2, 3), []verdict{u, u}, undecided},
		"three voters, who sent it":          {voters(2, 3), []verdict{a, u}, undecided},
		"three voters, both":                 {voters(2, 3), []verdict{a, a}, confirmed},
		"three voters, one against":          {voters(2, 3), []verdict{u, d}, refuted},
		"three voters, the sender stands":    {voters(2, 3), []verdict{a, d}, refuted},
		"two voters, the other":              {voters(2), []verdict{a}, confirmed},
		"two voters, nobody":                 {voters(2), []verdict{u}, undecided},
		"five voters, two":                   {voters(2, 3, 4, 5), []verdict{a, a, u, u}, undecided},
		"five voters, three":                 {voters(2, 3, 4, 5), []verdict{a, a, u, a}, confirmed},
		"five voters, three and one not":     {voters(2, 3, 4, 5), []verdict{a, a, d, a}, confirmed},
		"five voters, one not":               {voters(2, 3, 4, 5), []verdict{a, u, d, u}, undecided},
		"five voters, two not":               {voters(2, 3, 4, 5), []verdict{a, a, d, d}, refuted},
		"joined by the sender alone":         {seeds(2), []verdict{a}, confirmed},
		"joined by one who is silent":        {seeds(2), []verdict{u}, undecided},
		"joined, only the sender":            {seeds(2, 3), []verdict{a, u}, undecided},
		"joined, only another one":           {seeds(2, 3), []verdict{u, a}, confirmed},
		"joined, one against":                {seeds(2, 3, 4), []verdict{a, a, d}, refuted},
		"joined, and there is nobody to ask": {seeds(), nil, undecided},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &comparison{record: c.of, said: c.said}
			if got, _ := p.judge(); got != c.want {
				t.Errorf("outcome %d, want %d", got, c.want)
			}
		})
	}
	unknown := seeds(2, 3)
	unknown.Sender = witness{}
	p := &comparison{record: unknown, said: []verdict{a, u}}
	if got, _ := p.judge(); got != undecided {
		t.Error("without a known sender any member counts as another one")
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
	if err != nil || len(r.Witnesses) != 2 || r.Need != 2 || r.Joined || r.Witnesses[1] != simWitness(numbered(3)) {
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
	c.compared.take(t.Context(), []verdict{agrees, agrees}, epoch)
	if _, _, ok := c.compared.pending(); ok {
		t.Error("what is about to be replaced is compared")
	}
	if err := c.Proved(); !errs.Is(err, errs.NotServing) {
		t.Errorf("what others said of the state before counts: %v", err)
	}
	c.restore(t, lie)
	c.compared.take(t.Context(), []verdict{agrees, agrees}, epoch)
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

func TestI21_OnlyOwnSnapshotsAreKeptWithoutAMark(t *testing.T) {
	t.Parallel()
	honest, _ := states(t)
	marked, broken := 0, error(nil)
	below := raft.NewInmemSnapshotStore()
	files := snapshots{below, func(lease.Mark) {}, func() error { marked++; return broken }}
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
		p := &comparison{record: r, said: make([]verdict, len(r.Witnesses))}
		if got, _ := p.judge(); r.Foreign && got != undecided {
			t.Errorf("nobody said anything, and it is %d: %s", got, raw)
		}
	})
}
