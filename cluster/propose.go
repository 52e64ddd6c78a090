package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

const (
	// stampRoom is what the leader may add to a command: time, proposer, via_node.
	stampRoom = 256
	// enqueueTime bounds the wait for Raft's main loop.
	enqueueTime = 2 * time.Second
	// leaderWaits is how many heartbeat timeouts a proposal waits for a leader: an
	// election takes up to about four, twice over when votes split.
	leaderWaits = 10
	// retryPause is the time between two attempts when nothing wakes the caller earlier.
	retryPause = 50 * time.Millisecond

	kindNode = "node" // kind of the principal of a node's own acts
)

// PrincipalOf returns the caller behind a token as commands and the memory of
// requests name it. An act of the node itself is the node's.
func PrincipalOf(tok gate.Token, self NodeID) *fsmpb.Principal {
	p := tok.Principal()
	if p == (auth.Principal{}) {
		return &fsmpb.Principal{Kind: kindNode, Name: string(self)}
	}
	return principalOf(p)
}

// Propose commits cmd for the caller behind tok and returns its result once it
// is visible in this node's view (I6) and, unless until is [Committed], complete: no
// node answers from the state before it any more, and every node that answers has it
// (docs/leases.md). That holds for a command that changed nothing too, for a refusal,
// and for one that is answered from the memory of requests: its answer tells state.
// A member that is gone keeps it waiting until its lease has run out. On a follower
// the leader does it.
//
// Principal, correlation id, format, time, proposer and via_node of cmd are set
// here and by the leader (I5); cmd itself is not changed. A leader that is another node
// verifies what tok says was shown (I18), and refuses if that is nothing. A refusal is both: the
// result, and an error with the code in it. While no leader is known Propose
// waits for one, until there was none for ten heartbeat timeouts; and if cmd has a request id it
// tries again when it does not know what became of it, because the same
// request id never acts twice.
//
// Errors: NotComplete: it is committed, and not complete before the deadline of ctx,
// which says who is pending and is returned shortly before that; TooLarge; NoLeader: nothing happened, retry later; Indeterminate,
// DeadlineExceeded and Canceled: it may have happened, the same request id finds
// out; InvalidArgument for a command that is no caller's (I13); Unavailable: the
// leader's clock is wrong.
func (c *Cluster) Propose(ctx context.Context, tok gate.Token, cmd *fsmpb.Command, until Until) (*fsmpb.Result, error) {
	principal, correlation := PrincipalOf(tok, c.id), string(tok.Correlation())
	if err := forCallers(cmd); err != nil {
		return nil, err
	}
	cmd = copyCommand(cmd)
	cmd.Principal, cmd.CorrelationId = principal, correlation
	cmd.TimeUnixMs, cmd.Proposer, cmd.ViaNode, cmd.CallerSerial = 0, "", "", nil
	if c.machine.View().Cluster().GetFormatVersion() >= fsm.FormatRevocations {
		cmd.CallerSerial = []byte(tok.Serial())
	}
	if proto.Size(cmd) > MaxEntry-stampRoom {
		return nil, errTooLarge()
	}
	proof := &clusterpb.ProposeRequest{Shown: shownOf(tok.Shown()), Authority: tok.Authority()}
	defer forget(proof.GetShown())
	return c.submit(ctx, cmd, proof, until)
}

func copyCommand(cmd *fsmpb.Command) *fsmpb.Command {
	c := &fsmpb.Command{}
	proto.Merge(c, cmd)
	c.Format = fsm.CommandFormat
	return c
}

func errTooLarge() error {
	return errs.New(errs.TooLarge, "the change is larger than 1 MiB", errs.Hint("split it into several requests"))
}

// submit tries until cmd has a result, the wait is over, or it cannot have one. proof
// is what a leader is sent beside cmd to verify who asks.
func (c *Cluster) submit(ctx context.Context, cmd *fsmpb.Command, proof *clusterpb.ProposeRequest, until Until) (*fsmpb.Result, error) {
	changes, stop := c.leaders.subscribe()
	defer stop()
	start := c.clk.Now()
	var doubt error
	for {
		index, res, err := c.attempt(ctx, cmd, proof)
		switch {
		case err == nil:
			return res, c.settled(ctx, until, fsm.Err(res), res.GetIndex(), index, cmd.GetRequestId())
		case errs.Is(err, errs.Indeterminate):
			doubt = err
			if cmd.GetRequestId() == "" {
				return nil, err
			}
		case !errs.Is(err, errs.NoLeader):
			return nil, worst(doubt, err)
		}
		err = worst(doubt, err)
		wait := leaderWaits * c.timers.heartbeat
		if c.base.Err() != nil || c.Cause() != nil || c.clk.Since(start) > wait {
			return nil, err
		}
		// Who has waited for a leader for so long already need not wait again for
		// every call: without a quorum a change is refused at once.
		// A leader that is known and not reached yet is waited for.
		if gone := c.LastContact(); doubt == nil && gone != never && gone > wait && c.Leadership().LeaderID == "" {
			return nil, err
		}
		soon, cancel := context.WithTimeout(ctx, retryPause)
		select {
		case <-changes:
		case <-soon.Done():
		}
		cancel()
		if ctx.Err() != nil {
			return nil, worst(doubt, errs.From(ctx.Err()))
		}
	}
}

// worst returns what a caller must hear of a command: that an earlier attempt may
// have committed it, whatever became of a later one, or err. An error that says
// that nothing happened is true of its own attempt only.
func worst(doubt, err error) error {
	if doubt != nil {
		return doubt
	}
	return err
}

// attempt commits cmd here or at the leader, once, and returns the index of its
// entry and its result. NoLeader and Unavailable mean that it was certainly not sent.
func (c *Cluster) attempt(ctx context.Context, cmd *fsmpb.Command, proof *clusterpb.ProposeRequest) (uint64, *fsmpb.Result, error) {
	now := c.Leadership()
	switch {
	case now.IsLeader:
		return c.commitForCaller(ctx, cmd, "")
	case now.LeaderID == "":
		return 0, nil, errNoLeader(nil)
	}
	p, err := c.peers.ready(ctx, now.LeaderID)
	if err != nil {
		return 0, nil, errNoLeader(err)
	}
	var resp *clusterpb.ProposeResponse
	err = c.whileLeader(ctx, now.LeaderID, func(ctx context.Context) (err error) {
		resp, err = p.Propose(ctx, &clusterpb.ProposeRequest{Command: cmd, Shown: proof.GetShown(), Authority: proof.GetAuthority()})
		return err
	})
	if err != nil {
		return 0, nil, sent(ctx, err)
	}
	return max(resp.GetIndex(), resp.GetResult().GetIndex()), resp.GetResult(), nil
}

// sent reads the error of a call that may have reached the leader: what the
// leader said is what it is; a broken connection says nothing about the command.
// A connection that this node itself closed, because the leader was removed,
// looks like a caller that went away.
func sent(ctx context.Context, err error) error {
	st, _ := status.FromError(err)
	broken := st.Code() == codes.Unavailable || st.Code() == codes.Internal || st.Code() == codes.Unknown ||
		st.Code() == codes.Canceled && ctx.Err() == nil
	if len(st.Details()) == 0 && broken {
		return errIndeterminate(err)
	}
	return wire.FromStatus(err)
}

func errNoLeader(cause error) error {
	return errs.New(errs.NoLeader, "no leader can be reached", errs.Hint("retry; see krypton operator members"), errs.Cause(cause))
}

func errIndeterminate(cause error) error {
	return errs.New(errs.Indeterminate, "it is not known whether the change was committed",
		errs.Hint("retry with the same request id"), errs.Cause(cause))
}

// commitForCaller is commit for what members should follow at once.
func (c *Cluster) commitForCaller(ctx context.Context, cmd *fsmpb.Command, via NodeID) (uint64, *fsmpb.Result, error) {
	index, res, err := c.commit(ctx, cmd, via)
	if err == nil {
		c.leases.waited.begin(index, c.clk.Now())
		c.leases.hurry(index)
	}
	return index, res, err
}

// commit makes cmd an entry of the log; via is the member that forwarded it. It
// returns the index of the entry and the result of Apply on this node, which leads.
func (c *Cluster) commit(ctx context.Context, cmd *fsmpb.Command, via NodeID) (uint64, *fsmpb.Result, error) {
	if !c.IsLeader() {
		return 0, nil, errNoLeader(nil)
	}
	if err := c.mayBeforeRecovery(cmd); err != nil {
		return 0, nil, err
	}
	if err := c.mayCommit(ctx, cmd); err != nil {
		return 0, nil, err
	}
	cmd = copyCommand(cmd)
	if cmd.GetLeaseEpoch() != nil {
		// It comes before any voter told its time, so it must not move the cluster's.
		cmd.TimeUnixMs = c.machine.View().TimeMS()
	} else if err := c.soundClock(); err != nil {
		return 0, nil, err
	} else {
		cmd.TimeUnixMs = c.now()
	}
	cmd.Proposer, cmd.ViaNode = string(c.id), string(via) // I5
	if !understood(cmd.ProtoReflect()) {
		// Committed, it would stop every node of this release.
		return 0, nil, errs.New(errs.InvalidArgument, "the command has parts that the leader does not know",
			errs.Hint("the receiving node is newer than the leader; upgrade all nodes"))
	}
	data, err := fsm.EncodeCommand(cmd)
	if err != nil {
		return 0, nil, err
	}
	if len(data) > MaxEntry {
		return 0, nil, errTooLarge()
	}
	release := func() {}
	if r := cmd.GetRemoveMember(); r != nil {
		if release, err = c.beginRemoval(ctx, NodeID(r.GetId())); err != nil {
			return 0, nil, err
		}
	}
	var res any
	var index uint64
	err = c.await(ctx, func() error {
		defer release() // once it is applied, or never will be; not when the caller goes away
		defer c.proposals.begin()()
		defer c.vouching.propose(data)()
		f := c.raft.Apply(data, enqueueTime)
		err := f.Error()
		res, index = f.Response(), f.Index()
		return err
	})
	switch {
	case err == nil:
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		c.suspectTransfer()
		return 0, nil, errNoLeader(err)
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout):
		return 0, nil, errNoLeader(err)
	case ctx.Err() != nil:
		return 0, nil, errs.From(ctx.Err())
	default:
		return 0, nil, errIndeterminate(err)
	}
	switch r := res.(type) {
	case *fsmpb.Result:
		return index, r, nil
	case error:
		return 0, nil, errIndeterminate(r)
	}
	return 0, nil, errIndeterminate(nil)
}

// understood reports whether m and all messages in it have only fields and enum
// numbers that this program knows.
func understood(m protoreflect.Message) bool {
	ok := len(m.GetUnknown()) == 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			ok = false // no command has one; a walk into it would be dead code
		case fd.IsList():
			for i := range v.List().Len() {
				ok = ok && understoodValue(fd, v.List().Get(i))
			}
		default:
			ok = ok && understoodValue(fd, v)
		}
		return ok
	})
	return ok
}

func understoodValue(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	switch {
	case fd.Enum() != nil:
		return fd.Enum().Values().ByNumber(v.Enum()) != nil
	case fd.Message() != nil:
		return understood(v.Message())
	}
	return true
}

// wall returns the time that a command would carry.
func (c *Cluster) wall() int64 {
	return max(c.clk.Now().UnixMilli(), c.machine.View().TimeMS(), c.stamp.Load())
}

// now returns the time for a command: that of this machine, but never before a
// command that this node knows of. It is called for commands only, after
// soundClock: the next command is never before what it returned.
func (c *Cluster) now() int64 {
	ms := max(c.clk.Now().UnixMilli(), c.machine.View().TimeMS())
	for {
		last := c.stamp.Load()
		if ms <= last {
			return last
		}
		if c.stamp.CompareAndSwap(last, ms) {
			return ms
		}
	}
}

// internal commits housekeeping of the leader. A refusal is an error.
func (c *Cluster) internal(ctx context.Context, cmd *fsmpb.Command, via NodeID) (*fsmpb.Result, error) {
	_, res, err := c.commit(ctx, cmd, via)
	if err != nil {
		return nil, err
	}
	return res, fsm.Err(res)
}

// ProposeOwn commits a command that the leader gives by itself and for no caller, and
// returns its result once this node has applied it. It waits for no other node. On a
// node that does not lead, or that stops leading meanwhile, the error is NoLeader:
// what the leader has to do is the next leader's then.
func (c *Cluster) ProposeOwn(ctx context.Context, tok gate.Token, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	if callers(cmd) {
		return nil, errs.New(errs.Internal, "this command is a caller's") // I13, from the other side
	}
	cmd = copyCommand(cmd)
	cmd.Principal, cmd.CorrelationId = nil, string(tok.Correlation())
	return c.internal(ctx, cmd, "")
}

var errClosing = errors.New("the node is stopping")

// await runs a call of the Raft library that cannot be interrupted and returns
// its error, or that of ctx when that ends first. What the call writes may be
// read only after a nil error or one of its own. A call whose answer Raft drops
// while it shuts down is never answered; so nobody waits for its goroutine.
func (c *Cluster) await(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.failed:
	case <-c.base.Done():
	}
	// It may have ended at the same moment.
	select {
	case err := <-done:
		return err
	default:
		return errClosing
	}
}

// spawn runs f on a goroutine that Close waits for, unless Close has begun: then
// it returns false.
func (c *Cluster) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.wg.Go(f)
	}
	return !c.closing
}
