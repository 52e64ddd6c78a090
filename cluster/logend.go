package cluster

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

const (
	// endFile has how far the log of this node went. Without it, who can cut the logs of
	// all nodes has what was disabled served again: all that is left has proofs.
	endFile = "logend"

	// endEvery is how long a change may be applied before the file says so. A death takes
	// as much of what could not be cut off.
	endEvery = 100 * time.Millisecond

	// endStart is how long a node that has a file leaves it as it is after its start: one
	// that ends at once, because its files are not its own, has written nothing.
	endStart = time.Second

	endMagic      = "KRYPEND1"
	endMagicLater = "KRYPEND2"
	endBytes      = len(endMagic) + 8 + 32 + 32
	endLabel      = "krypton/v1/log-end"
)

// logMark is a place in the log that this node has had.
//
//	under the first MasterKey:  "KRYPEND1" | index u64 | chain 32 bytes | mac 32 bytes
//	under a later one:          "KRYPEND2" | generation u64 | index u64 | chain 32 bytes | mac 32 bytes
type logMark struct {
	generation hierarchy.Generation // the one in force there
	index      uint64
	chain      [32]byte
	mac        [32]byte
}

func (m logMark) encode() []byte {
	b := make([]byte, 0, endBytes+8)
	if m.generation > 1 {
		b = append(b, endMagicLater...)
		b = binary.BigEndian.AppendUint64(b, uint64(m.generation))
	} else {
		b = append(b, endMagic...)
	}
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = append(b, m.chain[:]...)
	return append(b, m.mac[:]...)
}

func decodeLogMark(b []byte) (m logMark, ok bool) {
	switch {
	case len(b) == endBytes && string(b[:len(endMagic)]) == endMagic:
		m.generation, b = 1, b[len(endMagic):]
	case len(b) == endBytes+8 && string(b[:len(endMagic)]) == endMagicLater:
		m.generation, b = hierarchy.Generation(binary.BigEndian.Uint64(b[len(endMagic):])), b[len(endMagic)+8:]
		if m.generation < 2 {
			return logMark{}, false
		}
	default:
		return m, false
	}
	m.index, m.chain, m.mac = binary.BigEndian.Uint64(b), [32]byte(b[8:40]), [32]byte(b[40:])
	return m, m.index != 0
}

// sum computes the MAC, which is of one node of one keyspace: keyspace id and node id
// have one length each.
//
//	HMAC( MAC key of snapshots, "krypton/v1/log-end" | keyspace id | node id | index u64 | chain )
//
// with the generation as u64 before the index from the second MasterKey on.
func (m logMark) sum(mac macFunc, keyspace []byte, id NodeID) ([32]byte, bool) {
	at := make([]byte, 0, 16)
	if m.generation > 1 {
		at = binary.BigEndian.AppendUint64(at, uint64(m.generation))
	}
	return mac(m.generation, []byte(endLabel), keyspace, []byte(id), binary.BigEndian.AppendUint64(at, m.index), m.chain[:])
}

// logEnd knows how far the log of this node went when it ran last (I20).
type logEnd struct {
	c     *Cluster
	read  func() ([]byte, error)
	write func([]byte) error
	leads func() bool // this node leads, and has applied what was committed before

	writing sync.Mutex // held while the file is replaced; taken before mu
	ended   bool       // nothing is written any more; under writing

	mu      sync.Mutex
	was     logMark // what the file said at the start; index 0: nothing that is a mark
	passed  bool    // the own log has reached that
	differs bool    // and was another one there
	judged  bool    // its MAC was looked at
	valid   bool    // and is right
	kept    bool    // this process wrote the file
	last    uint64  // index that it wrote

	doubts atomic.Int64 // until when, in ms since 1970, there may be a lease of a leader that proves nothing
}

// doubt is told of a lease from a leader that cannot prove how far its log goes.
func (e *logEnd) doubt(span time.Duration) {
	e.doubts.Store(e.c.clk.Now().Add(2 * span).UnixMilli()) // longer than anybody counts it
}

func (e *logEnd) doubtful() bool { return e.c.clk.Now().UnixMilli() < e.doubts.Load() }

func newLogEnd(c *Cluster) *logEnd {
	return &logEnd{
		c:     c,
		read:  func() ([]byte, error) { return readSmall(c.cfg.Dir.Path(endFile)) },
		write: func(b []byte) error { return writeFileAtomic(c.cfg.Dir.Path(endFile), b) },
		leads: func() bool { return c.IsLeader() && c.caught.Load() == c.Term() },
	}
}

// load reads the file, before the log is applied.
func (e *logEnd) load() error {
	b, err := e.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dirError("read", e.c.cfg.Dir.Path(endFile), err)
	}
	e.was, _ = decodeLogMark(b) // one that is none is as good as none
	return nil
}

// applied is told of each command that was applied, and of each snapshot.
func (e *logEnd) applied(index uint64, chain [32]byte, snapshot bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.passed || e.was.index == 0 || index < e.was.index {
		return
	}
	e.passed = true
	// A snapshot from after it has a MAC, and the chain there is not known any more.
	e.differs = index == e.was.index && chain != e.was.chain || index > e.was.index && !snapshot
}

// standing is what is known of the end of a log.
type endStanding int

const (
	endUnknown  endStanding = iota // this node is sealed and cannot tell
	endNone                        // nothing proves how far the log went
	endWaiting                     // it went further than what was applied so far
	endReached                     // all is there
	endMismatch                    // the log is another one
)

// stands verifies the file, once there is a key, and says where the log stands.
func (e *logEnd) stands() endStanding {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch v := e.c.machine.View(); {
	case e.kept:
		return endReached
	case e.was.index == 0:
		return endNone
	case !v.Initialized():
		return endWaiting
	case !e.judged:
		want, ok := e.was.sum(e.c.cfg.MAC, v.Cluster().GetKeyspaceId(), e.c.id)
		if !ok && !e.c.lost(e.was.generation) {
			return endUnknown
		}
		e.judged, e.valid = true, ok && hmac.Equal(want[:], e.was.mac[:])
	}
	switch {
	case !e.valid:
		return endNone
	case e.differs:
		return endMismatch
	case !e.passed:
		return endWaiting
	case e.c.machine.View().GenerationAt(e.was.index) != e.was.generation:
		return endNone // who kept an old MasterKey made it
	}
	return endReached
}

// lost reports whether this node has the MasterKey in force, and nothing any more of that
// of an older generation.
func (c *Cluster) lost(g hierarchy.Generation) bool {
	now := c.machine.View().Generation()
	_, has := c.cfg.MAC(now)
	return has && g < now
}

// endAsked reports whether anybody asks for the end of the log.
func (c *Cluster) endAsked() bool {
	return c.cfg.MAC != nil && c.machine.View().Cluster().GetFormatVersion() >= fsm.FormatProofs && !mutation.On(mutation.SkipLogEnd)
}

// unassured reports whether nothing of this node's own proves how far the log went, so
// that it serves only by the lease of a leader that can.
func (c *Cluster) unassured() bool {
	return c.endAsked() && c.end.stands() == endNone && !c.machine.View().Bare()
}

// ended returns why this node must not serve, whatever lease it has: its log is not
// the one that it had. Without a file it may: whoever gave it the lease has one.
func (c *Cluster) ended() error {
	if !c.endAsked() {
		return nil
	}
	switch c.end.stands() {
	case endReached:
	case endNone:
		if c.end.doubtful() && !c.machine.View().Bare() {
			return errs.New(errs.NotServing, "neither this node nor the leader that gave it its lease can prove how far the log went",
				errs.Hint("unseal the leader, or another voter; `krypton operator members` shows who leads"))
		}
	case endUnknown:
		return errs.New(errs.Sealed, "the end of the log cannot be verified while the node is sealed")
	case endMismatch:
		return errEnd(fmt.Sprintf("the log of this node is another one at entry %d than it was when the node last ran", c.end.was.index))
	case endWaiting:
		// What is committed a leader has applied once it has caught up: more does not come.
		if c.end.leads() {
			return errEnd(fmt.Sprintf("the log of this node ends at entry %d, and it had applied entry %d when it last ran", c.machine.View().Index(), c.end.was.index))
		}
		return errs.New(errs.NotServing, "this node has not yet applied again all that it had applied before", errs.Hint("retry, or use another node"))
	}
	return nil
}

func errEnd(what string) error {
	return errs.New(errs.StateCorrupt, what,
		errs.Hint("find out who can write to the data directories; if others serve, remove this node (krypton operator remove) and let it join again with an empty one; docs/runbooks/state-not-proved.md"))
}

// entitled returns why this node must not lead as if it had everything: give leases, and
// vouch for changes. A leader without a proof of how far its log went may have one
// that was cut; where there is no tenant yet nothing can be missed.
func (c *Cluster) entitled() error {
	if err := c.believed(); err != nil {
		return err
	}
	if stands := c.end.stands(); c.endAsked() && stands != endReached && !c.machine.View().Bare() && (stands != endNone || !c.restarting()) {
		return errEnd("nothing proves how far the log of this node went, so as leader it gives no leases and makes no changes")
	}
	return nil
}

// keep writes how far the log goes now. It writes nothing while the node is sealed,
// does not believe its state, or has nobody who says that its log is whole: itself
// by an earlier file, or a leader that gave it a lease.
func (e *logEnd) keep() error {
	c := e.c
	if c.cfg.MAC == nil {
		return nil
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.ended {
		return nil // the directory may be another process's by now
	}
	v := c.machine.View()
	index, _, chain := v.Applied()
	e.mu.Lock()
	same := e.kept && e.last == index
	e.mu.Unlock()
	if same || !v.Initialized() || c.proofs.unsettled() {
		return nil
	}
	if c.entitled() != nil && (c.believed() != nil || !c.Standing().Usable(c.clk.Read())) {
		return nil
	}
	m := logMark{generation: v.Generation(), index: index, chain: chain}
	sum, ok := m.sum(c.cfg.MAC, v.Cluster().GetKeyspaceId(), c.id)
	if !ok {
		return nil
	}
	m.mac = sum
	if err := e.write(m.encode()); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept, e.last = true, index
	return nil
}

// shut waits for a write that is on its way, and ends them.
func (e *logEnd) shut() {
	e.writing.Lock()
	defer e.writing.Unlock()
	e.ended = true
}

func (e *logEnd) isKept() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.kept
}

// follow keeps the file current: it says of a change at once, and of those that follow
// within [endEvery].
func (e *logEnd) follow(ctx context.Context) error {
	if e.c.cfg.MAC == nil {
		return nil
	}
	if e.was.index != 0 && !pause(ctx, e.c.clk, endStart) {
		return nil
	}
	said := false
	for {
		v := e.c.machine.View()
		// A disk that hangs must not keep the node from ending.
		err := e.c.await(ctx, e.keep)
		if err != nil && !said && ctx.Err() == nil {
			e.c.log.LogAttrs(ctx, slog.LevelError, "how far the log goes is not written; after a start this node may refuse to lead", slog.Any("error", err))
		}
		said = err != nil
		if !pause(ctx, e.c.clk, endEvery) {
			return nil
		}
		if !e.isKept() {
			continue // unsealed, and given a lease, a node is without a change
		}
		select {
		case <-v.Superseded():
		case <-ctx.Done():
		}
	}
}

// KeepEnd writes how far the log of this node went, for a node that is about to stop
// and is not sealed yet. It gives up after a second: a disk that hangs keeps no node
// from ending.
func (c *Cluster) KeepEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = c.await(ctx, c.end.keep) // follow said already what keeps it from that
}

// mustNotGrant reports whether this leader must not give leases. Where no tenant is yet
// nothing is served under one, and init wants the first before there is a key.
func (c *Cluster) mustNotGrant() bool {
	if c.proofs.failed() != nil || c.compared.err() != nil || c.errRecovering() != nil {
		return true
	}
	if !c.endAsked() || c.machine.View().Bare() {
		return false
	}
	// A sealed leader gives leases and says that it proves nothing: members that can
	// prove their own log serve under them, and those that are held hear of the release.
	err := c.entitled()
	return err != nil && !errs.Is(err, errs.Sealed)
}

// yieldUnentitled hands leadership on while this node leads and must not give leases:
// it is sealed, or cannot tell whether its log is whole. Another voter may.
func (c *Cluster) yieldUnentitled(ctx context.Context) error {
	for pause(ctx, c.clk, 2*c.timers.heartbeat) {
		if !c.IsLeader() || !c.endAsked() {
			continue
		}
		if err := c.catchUp(ctx); err != nil || c.entitled() == nil {
			continue
		}
		bound, cancel := context.WithTimeout(ctx, changeTime)
		_ = c.handOver(bound) // again in a moment, if there is nobody now
		cancel()
	}
	return nil
}
