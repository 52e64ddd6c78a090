package cluster

import (
	"io"

	"github.com/hashicorp/raft"
)

// arrivals hands what members send to Raft, one message after the other, as Raft
// takes them anyway.
//
// It answers a snapshot that ends before what this node has applied, instead of
// Raft, which would install it. A leader that heard no answer to a snapshot sends
// another one, and goes on behind it; a node that stood still meanwhile finds all
// of that in its sockets and reads it in any order. The old snapshot then takes the
// state back, and with it go entries that this node has acknowledged: Raft clears
// the log behind a snapshot, and ends with "log not found" where it looks for what
// it applies next. What such a snapshot has this node has too, so it is not a lie
// to say that it was installed.
//
// The answer to each message is waited for: only then does what this node has
// applied count the messages before.
type arrivals struct {
	turn chan struct{} // one slot, taken by the message that Raft is at
	// refuses says why a message must not reach Raft, once all messages before it were
	// answered; nil: none is refused.
	refuses func(message any) error
}

func newArrivals() arrivals { return arrivals{turn: make(chan struct{}, 1)} }

// applying is what arrivals asks Raft.
type applying interface {
	CurrentTerm() uint64
	AppliedIndex() uint64
}

// hand hands one message over and returns once it is answered, or done is closed. r
// is nil while Raft has not started.
func (a arrivals) hand(r applying, rpc raft.RPC, consume chan<- raft.RPC, done <-chan struct{}) {
	select {
	case a.turn <- struct{}{}:
	case <-done:
		return
	}
	defer func() { <-a.turn }()
	if a.refuses != nil {
		if err := a.refuses(rpc.Command); err != nil {
			rpc.Respond(nil, err)
			return
		}
	}
	if s, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok && r != nil && s.Term == r.CurrentTerm() && s.LastLogIndex <= r.AppliedIndex() {
		_, _ = io.Copy(io.Discard, rpc.Reader) // The answer stands after the snapshot's bytes.
		rpc.Respond(&raft.InstallSnapshotResponse{Term: s.Term, Success: true}, nil)
		return
	}
	answers := make(chan raft.RPCResponse, 1)
	to := rpc.RespChan
	rpc.RespChan = answers
	select {
	case consume <- rpc:
	case <-done:
		return
	}
	select {
	case answer := <-answers:
		to <- answer
	case <-done:
	}
}
