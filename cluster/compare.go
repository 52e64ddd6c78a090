package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/internal/mutation"
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

// compareRecord is compare.json.
type compareRecord struct {
	Format int `json:"format"`
	// Foreign: the state is, or is about to be, that of another member's snapshot. Else
	// the record only keeps whom a join token named, in case one comes.
	Foreign bool `json:"foreign"`
	// Sender is who sent it; without a key: unknown.
	Sender witness `json:"sender"`
	// Joined: the witnesses are those of a join token, and not voters of a registry.
	Joined    bool      `json:"joined,omitempty"`
	Witnesses []witness `json:"witnesses"`
}

// witness is a member with whom this node compares its state. What it is asked by is the
// key under which it was known before the snapshot came: who makes up a state makes up
// keys too.
type witness struct {
	ID      NodeID `json:"id,omitempty"` // empty: only its key is known
	KeyHash string `json:"key_sha256"`   // of its SubjectPublicKeyInfo, hex
}

func (w witness) hash() (sum [32]byte) {
	b, _ := hex.DecodeString(w.KeyHash) // checked when it was read
	copy(sum[:], b)
	return sum
}

// is reports whether that is the other end of a call.
func (w witness) is(from grpcpeer.Peer) bool {
	a, ok := from.AuthInfo.(peerAuth)
	return ok && a.conn.keyHash == w.hash()
}

func (w witness) String() string {
	if w.ID == "" {
		return "with the key " + w.KeyHash[:16]
	}
	return string(w.ID)
}

func decodeCompareRecord(raw []byte) (*compareRecord, error) {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.DisallowUnknownFields()
	r := new(compareRecord)
	err := dec.Decode(r)
	switch {
	case err != nil:
	case r.Format != 1:
		err = fmt.Errorf("format %d is not 1", r.Format)
	case dec.More():
		err = errors.New("something follows its end")
	case len(r.Witnesses) > maxTrusted:
		err = errors.New("it names too many members")
	case !r.Joined && r.Foreign && len(r.Witnesses) == 0:
		err = errors.New("it names nobody to compare with")
	}
	known := r.Witnesses
	if r.Sender.KeyHash != "" {
		known = append(slices.Clip(known), r.Sender)
	}
	for _, w := range known {
		if len(w.KeyHash) != 64 || !isHex(w.KeyHash) || w.ID != "" && !w.ID.Valid() || w.ID == "" && !r.Joined {
			err = errors.New("a member in it is malformed")
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

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

// waits reports whether the state of this node was not compared yet, or is not that of
// the others.
func (p *comparison) waits() bool {
	return p.open.Load() && !mutation.On(mutation.SkipComparison)
}

var (
	// errUncompared is how such a node keeps itself from leading: it asks for no vote,
	// takes no leadership, and sends no state to anybody. The log library passes on the
	// text only; see [raftLog.Log].
	errUncompared = errors.New("a node whose state was not compared does not lead")
	errTooEarly   = errors.New("a node whose state was not compared takes committed entries only")
)

// refuses returns why a message must not reach Raft, or nil.
//
// A node that waits helps to commit nothing: so whatever was committed a majority of
// voters that do not wait has. A member falls so far behind that it needs a snapshot
// only by what others commit without it. Hence there always is such a majority, and
// nobody waits for somebody who waits for him. An entry that is not committed is
// refused, and not left out: the leader counts what it sent.
func (p *comparison) refuses(message any) error {
	if !p.waits() {
		return nil
	}
	switch m := message.(type) {
	case *raft.AppendEntriesRequest:
		if n := len(m.Entries); n > 0 && m.Entries[n-1].Index > m.LeaderCommitIndex {
			return errTooEarly
		}
	case *raft.TimeoutNowRequest:
		return errUncompared
	}
	return nil
}

// mayLead returns why this node must not become the leader, or nil. A leader that waits
// there is none: it is sent no snapshot.
func (p *comparison) mayLead() error {
	if p.waits() {
		return errUncompared
	}
	return nil
}

// err returns why this node must neither serve its state nor vouch for it, or nil.
func (p *comparison) err() error {
	if !p.waits() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.failure != nil:
		return p.failure
	case p.record == nil || !p.record.Foreign:
		return nil
	}
	r, t := p.record, p.tally()
	if !r.Joined && len(r.Witnesses) > 1 && t.left == 0 {
		return errs.New(errs.NotServing, fmt.Sprintf("the state of this node is that of a snapshot which %s sent, and of the voters that it knew before no other one votes any more, so nobody can say whether it is right; this node has to be removed, and to join again", r.from()),
			errs.Hint("remove this node (krypton operator remove) and let it join again with an empty data directory, and a token of a member that you trust; docs/runbooks/state-not-proved.md"))
	}
	but := ""
	if len(t.against) > 0 {
		but = ", and not member " + strings.Join(t.against, ", ")
	}
	return errs.New(errs.NotServing, fmt.Sprintf("the state of this node is that of a snapshot which %s sent, and was not compared with enough other members yet: %d of %d said that they have the same%s",
		r.from(), t.agree, len(r.Witnesses)-t.gone, but),
		errs.Hint("retry, or use another node; the members that can tell must run and be unsealed: docs/runbooks/state-not-proved.md"))
}

func (r *compareRecord) from() string {
	if r.Sender.ID == "" {
		return "another member"
	}
	return "member " + string(r.Sender.ID)
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

// pending returns what is to be compared now.
func (p *comparison) pending() (r *compareRecord, epoch uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok = p.record != nil && p.record.Foreign && !p.arriving && p.failure == nil && len(p.views) > 0
	return p.record, p.epoch, ok
}

// follow compares, whenever there is something to compare.
func (p *comparison) follow(ctx context.Context) error {
	if p.c.cfg.MAC == nil {
		return nil
	}
	for ctx.Err() == nil {
		r, epoch, ok := p.pending()
		if !ok {
			if !p.idle(ctx) {
				break
			}
			continue
		}
		p.round(ctx, r, epoch)
		if _, now, again := p.pending(); again && now == epoch && !pause(ctx, p.c.clk, comparePause) {
			break
		}
	}
	return nil
}

// idle waits for something to compare; false: ctx ended.
func (p *comparison) idle(ctx context.Context) bool {
	p.mu.Lock()
	named := p.record != nil && !p.record.Foreign
	p.mu.Unlock()
	if named {
		// With its first lease it has what its leader has, all of it from entries of the
		// log that it verified: from then on its own registry names its witnesses.
		if p.c.Standing().Usable(p.c.clk.Read()) && p.c.believed() == nil {
			p.mu.Lock()
			epoch := p.epoch
			p.mu.Unlock()
			p.close(epoch)
		}
		bound, cancel := context.WithTimeout(ctx, comparePause)
		defer cancel()
		select {
		case <-p.wake:
		case <-bound.Done():
		}
		return ctx.Err() == nil
	}
	select {
	case <-p.wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// round asks all witnesses that were not heard yet, at once.
func (p *comparison) round(ctx context.Context, r *compareRecord, epoch uint64) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	if p.epoch != epoch {
		p.mu.Unlock()
		return // another snapshot came
	}
	var ask []int
	for i, v := range p.said {
		if v == silent || v == unheard {
			p.said[i], ask = unheard, append(ask, i)
		}
	}
	p.asking = cancel
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, i := range ask {
		wg.Go(func() {
			if p.hear(i, p.ask(asking, r.Witnesses[i], epoch), epoch) {
				cancel()
			}
		})
	}
	wg.Wait()
	p.conclude(ctx, epoch)
}

// hear takes what a witness said, and reports whether nobody else needs to be heard. Of
// those that a join token names all are: each of them can tell a lie.
func (p *comparison) hear(i int, said verdict, epoch uint64) (enough bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return true
	}
	p.said[i] = said
	what, _ := p.judge()
	return what != undecided && !p.record.Joined
}

// conclude draws the conclusion of a round.
func (p *comparison) conclude(ctx context.Context, epoch uint64) {
	p.mu.Lock()
	p.asking = nil
	if p.epoch != epoch || p.failure != nil {
		p.mu.Unlock()
		return
	}
	what, against := p.judge()
	sender := p.record.from()
	if what == refuted {
		p.failure = errs.New(errs.StateCorrupt, fmt.Sprintf("the state of this node, which %s sent in a snapshot, is not that of member %s", sender, strings.Join(against, ", ")),
			errs.Hint("find out which of them was taken over, and who can write to the data directories; then remove this node (krypton operator remove) and let it join again with an empty one; docs/runbooks/state-not-proved.md"))
		p.views = nil
	}
	failure := p.failure
	p.mu.Unlock()
	switch what {
	case refuted:
		p.c.log.LogAttrs(ctx, slog.LevelError, "the state of this node is not believed; it serves nothing", slog.Any("error", failure))
	case confirmed:
		if len(against) > 0 {
			p.c.log.LogAttrs(ctx, slog.LevelError, "members have another state than a majority of the voters", slog.Any("peers", against))
		}
		if p.close(epoch) {
			p.c.log.LogAttrs(ctx, slog.LevelInfo, "the state that came in a snapshot was compared with that of other members", slog.String("from", sender))
			p.c.leases.renewed()
		}
	case undecided:
	}
}

// close ends the comparison of that state, the file first.
func (p *comparison) close(epoch uint64) bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	stale := p.epoch != epoch || p.arriving
	p.mu.Unlock()
	if stale {
		return false
	}
	if err := p.remove(); err != nil {
		p.c.log.LogAttrs(p.c.base, slog.LevelError, "that the state was compared is not on disk, so this node does not serve yet", slog.Any("error", err))
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record, p.views, p.said = nil, nil, nil
	p.open.Store(false)
	return true
}

// ask compares with one member.
func (p *comparison) ask(ctx context.Context, w witness, epoch uint64) verdict {
	id, same, ok := p.locate(w)
	switch {
	case !ok:
		return silent
	case !same: // keys of members never change
		return differs
	}
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	peer, err := p.c.peers.ready(ctx, id)
	if err != nil {
		return silent
	}
	var from grpcpeer.Peer
	r, err := peer.StateDigest(ctx, &clusterpb.StateDigestRequest{}, grpc.Peer(&from))
	if err == nil && !w.is(from) {
		err = errNoMember // the connection is from when this node knew the member by another key
	}
	if err != nil {
		p.c.log.LogAttrs(ctx, slog.LevelDebug, "a member does not say what its state is", slog.String("peer", string(id)), slog.Any("error", wire.FromStatus(err)))
		return silent
	}
	if len(r.GetDigest()) != sha256.Size || p.c.machine.Wait(ctx, r.GetIndex()) != nil {
		return silent
	}
	v, ok := p.at(r.GetIndex(), epoch)
	if !ok {
		return silent // from before the snapshot, or too long ago: it is asked again
	}
	if p.digestOf(v) != [32]byte(r.GetDigest()) {
		return differs
	}
	return agrees
}

// at returns the own state behind the command at index, if this node remembers it.
func (p *comparison) at(index, epoch uint64) (*fsm.View, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return nil, false
	}
	for _, v := range p.views {
		if v.Index() == index {
			return v, true
		}
	}
	return nil, false
}

func (p *comparison) digestOf(v *fsm.View) [32]byte {
	p.digesting.Lock()
	defer p.digesting.Unlock()
	if p.of != v {
		p.of, p.digest = v, v.Digest()
	}
	return p.digest
}

// answer says what the state of this node is.
func (p *comparison) answer(id NodeID) (*clusterpb.StateDigestResponse, error) {
	if err := p.c.believed(); err != nil {
		return nil, err
	}
	if err := p.admit(id); err != nil {
		return nil, err
	}
	defer func() {
		p.answering.Lock()
		defer p.answering.Unlock()
		p.busy = false
	}()
	v := p.c.machine.View()
	sum := p.digestOf(v)
	if err := p.c.believed(); err != nil { // the view may have come in between
		return nil, err
	}
	return &clusterpb.StateDigestResponse{Index: v.Index(), Digest: sum[:]}, nil
}

// admit bounds what a member can make this node compute.
func (p *comparison) admit(id NodeID) error {
	p.answering.Lock()
	defer p.answering.Unlock()
	now := p.c.clk.Now()
	for other, at := range p.answered {
		if now.Sub(at) >= digestPause {
			delete(p.answered, other)
		}
	}
	if _, soon := p.answered[id]; soon || p.busy {
		return errs.New(errs.Throttled, "the state is compared with one member at a time, and not as often as this", errs.Hint("retry"))
	}
	p.answered[id], p.busy = now, true
	return nil
}
