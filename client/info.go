package client

import (
	"encoding/hex"

	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/internal/answer"
)

// Info is what is known about a call besides its result.
type Info struct {
	// CorrelationID is in every audit record of the call, and in the logs of the
	// customer's keystore. It is set even when no node was reached.
	CorrelationID string
	// RequestID is the id under which a mutation acts once. Empty for reads.
	RequestID string
	// Node is the id of the node that answered last.
	Node string
	// Index is the log index up to which that node had applied changes.
	Index uint64
	// Operation is the name of the change that the call made, operations/{request id}:
	// GetOperation and WaitOperation of the Cluster service tell how far it has come.
	// Empty for reads, and when nothing was committed.
	Operation string
	// Pending says that the change was not waited for, see [Async], and need not be
	// complete: for a moment nodes may act on the state before it. False with [Async]:
	// it was complete when it was answered, or nothing was committed.
	Pending bool
	// Stale says that the node had no serving lease, so another one may know better.
	// Only reads of the registry are answered then.
	Stale bool
	// Attempts is how often the call was sent.
	Attempts int
}

// Capture is a call option that fills info when the call has ended, with or
// without an error. It works on calls of a [Client] and of a [Node].
func Capture(info *Info) grpc.CallOption { return captureOption{info: info} }

type captureOption struct {
	grpc.EmptyCallOption

	info *Info
}

// Async is a call option for changes: the call returns once the change is committed
// and cannot be lost any more, and not only when no node acts on the state before it.
// [Info.Operation] names the operation that tells when that is. It has no effect on
// other calls, and not on the first half of a rotation.
func Async() grpc.CallOption { return asyncOption{} }

type asyncOption struct{ grpc.EmptyCallOption }

// asyncHeader is what tells a node so, with the value "1".
const asyncHeader = "krypton-async"

func (cl *call) report() {
	if cl.info == nil {
		return
	}
	said, _ := cl.said()
	*cl.info = Info{CorrelationID: said.Correlation, RequestID: cl.requestID, Node: said.Node, Index: said.Index, Pending: said.Pending, Stale: said.Stale, Attempts: cl.attempts}
	if cl.operation != "" {
		cl.info.Operation = "operations/" + cl.operation
	}
	if cl.info.CorrelationID == "" {
		h := hex.EncodeToString(cl.traceID[:])
		cl.info.CorrelationID = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
}

// said returns what the node that answered last said beside its answer; false
// when none did.
func (cl *call) said() (answer.Info, bool) {
	v := cl.header.Get(answer.Header)
	if len(v) == 0 {
		return answer.Info{}, false
	}
	return answer.Parse(v[0])
}
