package cluster

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

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
