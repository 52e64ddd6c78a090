package gate

import (
	"time"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Forwarded is a change that another node let in and this one, which leads, commits.
type Forwarded struct {
	Via         string  // the node, by the key of its connection
	Command     string  // what it asks for, a name from a closed set
	Object      string  // name of what it is about, as the node says
	Correlation corr.ID // of the call, as the node says; empty = none that can be one
	Claims      string  // whom the node says that it acts for; recorded of a refusal, and of an approval, whose requester it is
	Approval    string  // approvals/{a} by which it is done; empty = none
}

// Forward runs commit, which finds out who asks and commits the change, and records
// how that ended: who asked as this node itself has verified it, and by which node it
// came. The caller's own node has the record of the intent on disk, and the log has the
// change, so this record is one of data: with the operating system before the answer
// leaves, and no wait for a disk.
//
// The principal that commit returns is the verified caller; the zero one means that
// nobody was, and ours that the other node does it by itself. Every refusal is
// recorded (I6): unlike a stranger, a member can be removed.
//
// The error is that of the record: nil, whatever commit returned, if there is one.
// When there is no record, nothing ran, or the change may stand.
func (g *Gate) Forward(f Forwarded, commit func() (who auth.Principal, ours Ours, err error)) error {
	if err := g.cfg.Sink.Err(); err != nil {
		return err
	}
	start, ran := g.cfg.Clock.Now(), false
	defer func() {
		if !ran { // a panic, which goes on
			_ = g.cfg.Sink.Append(g.forwarded(f, start, auth.Principal{}, NotOurs, errs.New(errs.Internal, "the operation panicked")))
		}
	}()
	who, ours, err := commit()
	ran = true
	r := g.forwarded(f, start, who, ours, err)
	rerr := g.cfg.Sink.Append(r)
	if rerr != nil && (r.Outcome == errs.OutcomeOK || r.Outcome == errs.OutcomeUnknown || r.Outcome == errs.OutcomePending) {
		return errs.New(errs.Indeterminate, "the change may stand, but it could not be recorded where it was committed",
			errs.Hint("ask another node with the same request id"), errs.Cause(rerr))
	}
	return rerr
}

// Ours says whether a node forwards an act of its own.
type Ours int

// The kinds of forwarded change.
const (
	NotOurs Ours = iota // a caller's
	OfTheNode
	ByApproval // a caller's, who requested it earlier and whose signature the registry has
)

func (g *Gate) forwarded(f Forwarded, start time.Time, who auth.Principal, ours Ours, err error) audit.Record {
	r := audit.Record{
		Class: NodeForward.Class(), Phase: audit.Whole, Act: NodeForward.String(), Outcome: errs.OutcomeOf(err),
		Correlation: f.Correlation, Object: f.Object, Principal: who.String(), Via: f.Via,
		LatencyUs: micros(g.cfg.Clock.Since(start)), Cause: f.Command, Approval: f.Approval,
	}
	switch {
	case ours == OfTheNode:
		r.Principal = "node/" + f.Via
	case ours == ByApproval && err == nil:
		r.Principal = f.Claims
	case who.Valid():
		r.Role = who.Role.String()
	}
	if err == nil {
		return r
	}
	r.Code = errs.Of(err)
	r.Cause += ": " + errs.From(err).Msg
	if !who.Valid() && ours != OfTheNode {
		r.Cause += "; the node says that it acts for " + f.Claims
	}
	if cause := causeOf(err); cause != "" {
		r.Cause += ": " + cause
	}
	return r
}
