package client

import (
	"cmp"
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

const (
	minDelay = 25 * time.Millisecond
	maxDelay = 1 * time.Second

	// maxPassing is the longest delay after an answer that says "not now": a call
	// whose deadline is the length of a lease and two seconds must find out in time
	// that it has passed.
	maxPassing = 250 * time.Millisecond

	// sameNodeTries bounds the retries at once on the same node of one call.
	sameNodeTries = 3
)

// step is what follows a failed attempt. Zero is invalid.
type step int

const (
	stepUnspecified step = iota
	stepStop             // the error is final
	stepSame             // at once, same node
	stepOther            // at once, another node
	stepDelay            // after a delay, any node
)

// failure is one failed attempt, as the decision needs it.
type failure struct {
	err      *errs.Error
	definite bool // a node answered; otherwise the connection or our timeout ended it
	unsent   bool // the request was never written to a connection
	timedOut bool // the attempt ran into its own timeout
	mismatch bool // the connection cannot come about as client and node are configured
}

// readFailure turns the error of an attempt into a failure. timedOut says that
// the attempt's own timeout has passed while the caller's deadline has not,
// answered that a node's headers have arrived.
func readFailure(err error, addr string, timedOut, answered bool) failure {
	f := failure{definite: fromKrypton(err), timedOut: timedOut}
	f.err = errs.From(wire.FromStatus(err))
	if f.definite {
		return f
	}
	switch {
	case tooLarge(err):
		// Where no handler has answered, none was reached: the node did nothing.
		f.err, f.definite = errs.New(errs.TooLarge, "the request or its answer is larger than is taken",
			errs.Hint("send less, or ask for smaller pages"), errs.Cause(err)), !answered
	case timedOut:
		f.err = errs.Newf(errs.Unavailable, "node %s did not answer in time", addr).With(errs.Cause(err))
	case f.err.Code == errs.Canceled:
		// The caller did not cancel (that is looked at before): the connection did.
		f.err = errs.Newf(errs.Unavailable, "the connection to node %s ended", addr).With(errs.Cause(err))
	case f.err.Code == errs.Unavailable:
		// What the transport advises, if it knows more.
		hint := cmp.Or(f.err.Hint, "check the address, the certificates, and that the node runs")
		f.err = errs.Newf(errs.Unavailable, "node %s: %s", addr, plainWords(f.err.Msg)).With(errs.Cause(err), errs.Hint("%s", hint))
	}
	return f
}

// plainWords takes from gRPC's account of a connection what a person reads:
// "connection refused", and not which of its layers was told so.
func plainWords(msg string) string {
	_, inner, nested := strings.Cut(msg, `desc = "`)
	if nested {
		msg = strings.TrimSuffix(inner, `"`)
	}
	msg = strings.TrimPrefix(msg, "transport: ")
	if what, ok := strings.CutPrefix(msg, "Error while dialing: dial tcp"); ok { // ": lookup ..." or " ADDRESS: connect: ..."
		_, what, _ = strings.Cut(what, ": ")
		msg = strings.TrimPrefix(what, "connect: ")
	}
	return msg
}

// tooLarge reports whether gRPC itself refused a message for its size. It does so
// before the code that knows our errors is asked, and with the code that asks
// callers to come back later; only its words tell the two apart.
func tooLarge(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.ResourceExhausted && strings.Contains(st.Message(), "message") && strings.Contains(st.Message(), "larger than max")
}

// fromKrypton reports whether a Krypton node made this error, which it proves by
// its details. Everything else comes from a connection, a proxy or this process
// and says nothing about what the node did.
func fromKrypton(err error) bool {
	st, ok := status.FromError(err)
	if !ok {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == wire.Domain {
			return true
		}
	}
	return false
}

// unknown reports whether the attempt may have changed something.
func (f failure) unknown() bool {
	if f.unsent {
		return false
	}
	return !f.definite || f.err.Code.Row().Outcome == errs.OutcomeUnknown
}

// next decides from the retry class (I3) and from whether the call may be sent
// again at all (I1).
func (f failure) next(k kind) step {
	pending := f.definite && f.err.Code.Row().Outcome == errs.OutcomePending
	if k == kindUnsafe && (f.unknown() || pending) || k == kindOnce && pending {
		return stepStop
	}
	if f.mismatch {
		return stepOther
	}
	if f.err.Code == errs.DeadlineExceeded {
		// The deadline that passed at the node is that of the attempt; another
		// node may be quicker.
		return stepOther
	}
	switch f.err.Code.Row().Retry {
	case errs.RetrySameNode:
		return stepSame
	case errs.RetryOtherNode:
		return stepOther
	case errs.RetryAfterDelay:
		return stepDelay
	case errs.RetryNever, errs.RetryUnspecified:
	}
	return stepStop
}

// needsPeople reports whether a node that answered so stays so until somebody
// does something about it. When every node of a round answered so, the call
// ends instead of asking until its deadline.
func needsPeople(c errs.Code) bool {
	return c == errs.Sealed || c == errs.AuditUnavailable || c == errs.StateCorrupt
}

// passes reports whether a node that answered so is well, and what keeps it from
// answering ends by itself within the time of a serving lease.
func passes(c errs.Code) bool {
	return c == errs.NotServing || c == errs.ChangeInProgress || c == errs.NotComplete
}

// most returns the longest delay before the next attempt.
func (f failure) most() time.Duration {
	if f.definite && passes(f.err.Code) {
		return maxPassing
	}
	return maxDelay
}

// jitter draws random numbers that need to be spread, not secret, from the
// client's source.
type jitter struct {
	mu   sync.Mutex
	rand io.Reader
	buf  [512]byte
	left []byte
}

// float returns a number in [0,1). With a failing source it returns the middle:
// a delay without jitter is still a delay.
func (j *jitter) float() float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.left) < 8 {
		if _, err := io.ReadFull(j.rand, j.buf[:]); err != nil {
			return 0.5
		}
		j.left = j.buf[:]
	}
	v := binary.BigEndian.Uint64(j.left) >> 11
	j.left = j.left[8:]
	return float64(v) / (1 << 53)
}

func (j *jitter) intn(n int) int { return min(int(j.float()*float64(n)), n-1) }

// backoff returns the delay before round n (from 0), between half and all of an
// exponential that ends at most.
func (c *Client) backoff(n int, most time.Duration) time.Duration {
	d := min(minDelay<<min(n, 10), most)
	return d/2 + time.Duration(c.jitter.float()*float64(d/2))
}
