package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	// compareFile says that the state of this node came from another member and was not
	// compared yet, and with whom it is to be.
	compareFile = "compare.json"

	// compareViews is how many commands this node may be ahead of a state whose digest
	// another member has just computed.
	compareViews = 1024

	// comparePause lies between two rounds of questions, and compareTime is how long an
	// answer may take: a member goes over all of its state for it.
	comparePause = 500 * time.Millisecond
	compareTime  = 30 * time.Second

	// digestPause is the least time between two answers to one member.
	digestPause = comparePause / 2
)

// verdict is what the comparison with one witness said.
type verdict int

const (
	unheard verdict = iota // it has not answered yet
	silent                 // it did not answer, or not for a state that this node remembers
	agrees
	differs
)

// comparison keeps this node from serving a state that only one member vouches for
// (I21). The entries of the log every replica verifies by itself; the objects in a
// snapshot it does not: its MAC says that some node with the MasterKey wrote it, and the
// chain in it is a number that such a node may copy.
type comparison struct {
	c *Cluster

	read   func() ([]byte, error)
	write  func([]byte) error
	remove func() error
	// key returns the key hash of a member, and find the member with one, as this node
	// knows them now.
	key    func(NodeID) (keyHash [32]byte, ok bool)
	find   func(keyHash [32]byte) (NodeID, bool)
	leader func() NodeID // who sends snapshots now
	// others returns the members that this node knows without a registry.
	others func() []witness
	// votes reports whether a member is a voter by the state that is compared.
	votes func(NodeID) bool

	open atomic.Bool   // the state was not compared yet
	wake chan struct{} // there is something to compare; one slot

	writing sync.Mutex // held while the file is replaced; taken before mu

	mu       sync.Mutex
	record   *compareRecord // nil: none
	arriving bool           // a snapshot is on its way into the state
	epoch    uint64         // counts snapshots that came, and states that did
	views    []*fsm.View    // since the state is what it is, the newest last
	said     []verdict      // of each witness
	asking   func()         // ends the questions that are on their way; nil: there are none
	failure  error

	digesting sync.Mutex // one at a time; held while a digest is computed
	of        *fsm.View  // whose digest is the last that was computed
	digest    [32]byte

	answering sync.Mutex // for what follows
	busy      bool       // somebody is being answered
	answered  map[NodeID]time.Time
}

func newComparison(c *Cluster) *comparison {
	path := func() string { return c.cfg.Dir.Path(compareFile) }
	return &comparison{
		c:     c,
		read:  func() ([]byte, error) { return readSmall(path()) },
		write: func(b []byte) error { return writeFileAtomic(path(), b) },
		remove: func() error {
			if err := os.Remove(path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return dirError("remove", path(), err)
			}
			return atomicfile.SyncDir(c.cfg.Dir.path)
		},
		key: func(id NodeID) (keyHash [32]byte, ok bool) {
			_, keyHash, ok = c.trust.lookup(id)
			return keyHash, ok
		},
		find:   func(keyHash [32]byte) (NodeID, bool) { return c.trust.peerOf(keyHash) },
		leader: c.LeaderID,
		others: func() []witness {
			var out []witness
			for _, m := range c.trust.current() {
				if m.ID != c.id {
					out = append(out, witnessOf(m.ID, m.PublicKey))
				}
			}
			return out
		},
		votes: func(id NodeID) bool {
			m, ok := c.machine.View().Member(string(id))
			return ok && m.GetVoter() && !m.GetRemoved()
		},
		wake: make(chan struct{}, 1), answered: map[NodeID]time.Time{},
	}
}

func witnessOf(id NodeID, spki []byte) witness {
	sum := sha256.Sum256(spki)
	return witness{ID: id, KeyHash: hex.EncodeToString(sum[:])}
}

// locate returns the id of a witness; same: this node knows the member of that id by
// that key, and not by another one.
func (p *comparison) locate(w witness) (id NodeID, same, ok bool) {
	id = w.ID
	if id == "" {
		if id, ok = p.find(w.hash()); !ok {
			return "", false, false
		}
	}
	has, ok := p.key(id)
	return id, has == w.hash(), ok
}

// load reads the file, before there is a state.
func (p *comparison) load() error {
	raw, err := p.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return dirError("read", p.c.cfg.Dir.Path(compareFile), err)
	}
	r, err := decodeCompareRecord(raw)
	if err != nil {
		return errs.New(errs.StateCorrupt, compareFile+" cannot be used: "+jsonProblem(err), errs.Hint("%s", startAnew), errs.Cause(err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(r)
	return nil
}

// begin makes r what is to be done. The caller holds mu.
func (p *comparison) begin(r *compareRecord) {
	p.record = r
	p.anew()
	p.open.Store(r.Foreign)
}

// anew forgets what was said, and is asked. The caller holds mu.
func (p *comparison) anew() {
	p.epoch++
	if p.asking != nil {
		p.asking()
	}
	if p.record != nil {
		p.said = make([]verdict, len(p.record.Witnesses))
	}
}

func (p *comparison) save(r *compareRecord) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", compareFile, err)
	}
	return p.write(append(raw, '\n'))
}

// named keeps the members that a join token names: a snapshot may come before anything
// else does.
func (p *comparison) named(seeds []Seed) error {
	r := &compareRecord{Format: 1, Joined: true}
	for _, s := range seeds {
		r.Witnesses = append(r.Witnesses, witness{KeyHash: hex.EncodeToString(s.KeyHash[:])})
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.save(r); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(r)
	wake(p.wake)
	return nil
}

// arrive is told of a snapshot of another member, before it is one of those with which
// this node may start. Its error keeps the snapshot away.
func (p *comparison) arrive() error {
	if p.c.cfg.MAC == nil {
		return nil
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	was := p.record
	p.mu.Unlock()
	next := p.next(was)
	if err := p.save(next); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(next)
	p.arriving, p.views = true, nil
	return nil
}

// next returns with whom a snapshot that comes now is compared.
func (p *comparison) next(was *compareRecord) *compareRecord {
	r := &compareRecord{Format: 1, Foreign: true}
	if id := p.leader(); id != "" {
		r.Sender.ID = id
		if keyHash, ok := p.key(id); ok {
			r.Sender.KeyHash = hex.EncodeToString(keyHash[:])
		}
	}
	if was != nil {
		// The registry that this node has is one that was not compared, or of a node that
		// just joined and had not caught up.
		r.Joined, r.Witnesses = was.Joined, was.Witnesses
		return r
	}
	// This node is not among them: what it has is the word of who sent it.
	for _, m := range p.c.machine.View().Members() {
		if m.GetVoter() && !m.GetRemoved() && m.GetId() != string(p.c.id) {
			r.Witnesses = append(r.Witnesses, witnessOf(NodeID(m.GetId()), m.GetPublicKey()))
		}
	}
	if len(r.Witnesses) == 0 {
		r.Joined, r.Witnesses = true, p.others()
	}
	return r
}

// restored is told of the state of a snapshot, or at the start of the one that is
// there, before it is visible.
func (p *comparison) restored(v *fsm.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stateIs(v)
	p.failure = nil
}

// refused is told that a snapshot did not replace the state.
func (p *comparison) refused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stateIs(p.c.machine.View())
}

// stateIs begins anew with a state. The caller holds mu.
func (p *comparison) stateIs(v *fsm.View) {
	p.arriving, p.views = false, nil
	p.anew()
	if p.record == nil || !p.record.Foreign {
		return
	}
	p.views = append(p.views, v)
	wake(p.wake)
}

// applied is told of each state, before it is visible.
func (p *comparison) applied(v *fsm.View) {
	if !p.open.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.arriving {
		return
	}
	if len(p.views) == compareViews {
		p.views = append(p.views[:0:0], p.views[compareViews/2:]...)
	}
	p.views = append(p.views, v)
}

// tally is what the witnesses said.
type tally struct {
	agree   int      // who have the same state
	others  int      // of them, who certainly did not send it
	gone    int      // who were asked and said nothing, and by the state itself do not vote any more
	left    int      // who vote by the state, or said something, without the sender
	against []string // who have another one
}

// tally counts. The caller holds mu.
//
// Only silence is excused by the state, once all were asked: a member that a false
// state takes the vote of still says that it has another one.
func (p *comparison) tally() (t tally) {
	r, sent := p.record, false
	for i, w := range r.Witnesses {
		own := w.KeyHash == r.Sender.KeyHash
		gone := !r.Joined && p.said[i] != agrees && p.said[i] != differs && !p.votes(w.ID)
		if !gone && !own {
			t.left++
		}
		switch p.said[i] {
		case agrees:
			t.agree++
			sent = sent || own || r.Sender.KeyHash == "" // unknown: it may be any one of them
		case differs:
			t.against = append(t.against, w.String())
		case silent:
			if gone {
				t.gone++
			}
		case unheard:
		}
	}
	t.others = t.agree
	if sent {
		t.others--
	}
	return t
}

// outcome is what follows from all that was said so far.
type outcome int

const (
	undecided outcome = iota
	confirmed
	refuted
)

// judge says what follows. The caller holds mu.
//
// Who alone could be asked from the beginning is enough. Of several, one must be another
// one than the sender: that the rest does not vote any more is the sender's word, too.
func (p *comparison) judge() (outcome, []string) {
	t := p.tally()
	all := len(p.record.Witnesses)
	enough := t.agree > 0 && (all == 1 || t.others > 0)
	if p.record.Joined {
		switch {
		case len(t.against) > 0:
			return refuted, t.against
		case enough:
			return confirmed, nil
		}
		return undecided, nil
	}
	count := all - t.gone
	most := count/2 + 1
	switch {
	case enough && t.agree >= most:
		return confirmed, t.against
	case len(t.against) > 0 && count-len(t.against) < most: // no majority is left that could agree
		return refuted, t.against
	}
	return undecided, t.against
}
