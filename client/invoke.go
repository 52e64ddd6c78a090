package client

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Invoke implements [grpc.ClientConnInterface]: one call, over as many attempts
// as it takes. The generated clients use it; there is no need to call it.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	cl, err := c.newCall(method, args, opts)
	if err != nil {
		return err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultDeadline)
		defer cancel()
	}
	defer cl.report()
	if err := cl.sign(ctx); err != nil {
		return err
	}
	if cl.kind == kindWait {
		return cl.wait(ctx, reply)
	}
	return cl.run(ctx, reply)
}

// NewStream implements [grpc.ClientConnInterface]. The API has no streaming
// method, and a stream could not be retried behind the caller's back.
func (c *Client) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errNoStreams()
}

// Invoke implements [grpc.ClientConnInterface] with one attempt on this node.
func (nd *Node) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	cl, err := nd.c.newCall(method, args, opts)
	if err != nil {
		return err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultDeadline)
		defer cancel()
	}
	defer cl.report()
	if err := cl.sign(ctx); err != nil {
		return err
	}
	// There is no other attempt to hurry for: the caller's deadline is enough.
	limit := nd.c.opts.Timeout
	if limit == 0 {
		limit = maxAttempt
	}
	f := cl.attempt(ctx, nd.n, reply, limit)
	if f == nil {
		return nil
	}
	return cl.final(f)
}

// NewStream implements [grpc.ClientConnInterface].
func (nd *Node) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errNoStreams()
}

func errNoStreams() error {
	return errs.New(errs.Unimplemented, "this client makes no streaming calls")
}

// call is one call over all its attempts. It is used by one goroutine.
type call struct {
	c      *Client
	method string
	kind   kind
	req    proto.Message
	opts   []grpc.CallOption
	info   *Info // the caller's, or nil
	async  bool  // see [Async]
	signer Signer

	requestID string
	traceID   [16]byte
	header    metadata.MD // of the last attempt
	attempts  int
	unsure    *failure // an attempt that may have changed something (I4)
	committed *failure // the last answer that the change is committed, and not complete
	operation string   // request id of the change, as a node said it
}

func (c *Client) newCall(method string, args any, opts []grpc.CallOption) (*call, error) {
	req, ok := args.(proto.Message)
	if !ok {
		return nil, errs.Newf(errs.InvalidArgument, "request of %s is not a message", method)
	}
	if err := checkSize(req); err != nil {
		return nil, err
	}
	cl := &call{c: c, method: method, kind: kindOf(method, req), req: req, signer: c.opts.Signer}
	for _, o := range opts {
		switch o := o.(type) {
		case captureOption:
			cl.info = o.info
			continue
		case asyncOption:
			cl.async = true
			continue
		case signerOption:
			cl.signer = o.signer
			continue
		}
		cl.opts = append(cl.opts, o)
	}
	if cl.kind == kindMutation || cl.kind == kindOnce {
		var err error
		if cl.req, cl.requestID, err = withRequestID(req, c.opts.Rand); err != nil {
			return nil, err
		}
	}
	if _, err := io.ReadFull(c.opts.Rand, cl.traceID[:]); err != nil {
		return nil, errs.New(errs.Internal, "the random source failed", errs.Cause(err))
	}
	return cl, nil
}

// run makes attempts until one succeeds, fails for good, or cannot be followed
// by another before the deadline of ctx (I2).
func (cl *call) run(ctx context.Context, reply any) error {
	c := cl.c
	begin := c.clk.Now()
	deadline, _ := ctx.Deadline()
	tries := make(map[*node]int, len(c.nodes))
	stuck := make(map[*node]bool) // nodes that need people
	slow := make(map[*node]bool)  // nodes that may only be slow
	var (
		same, avoid        *node
		sameTries          int
		timedOut, delays   int
		last, lastAnswered *failure
	)
	for {
		nd := same
		if nd == nil {
			nd = c.pick(tries, avoid)
		}
		tries[nd]++
		f := cl.attempt(ctx, nd, reply, c.attemptTimeout(cl.kind, timedOut))
		if f == nil {
			c.budget.success()
			return nil
		}
		if last != nil && errs.Is(f.err, errs.DeadlineExceeded) && ctx.Err() != nil {
			f.err = errs.New(errs.DeadlineExceeded, f.err.Msg+"; before that: "+last.err.Msg, errs.Hint("%s", f.err.Hint), errs.Cause(f.err))
		}
		last = f
		if f.definite || f.mismatch {
			lastAnswered = f
		}
		if f.unknown() && cl.unsure == nil {
			cl.unsure = f
		}
		if f.definite && f.err.Code == errs.NotComplete {
			cl.committed = f
		}
		if f.timedOut {
			timedOut++
		}
		stuck[nd] = f.mismatch || f.definite && needsPeople(f.err.Code)
		slow[nd] = f.timedOut && tries[nd] < triesOfSlow

		next := f.next(cl.kind)
		if ctx.Err() != nil || c.closed.Load() {
			next = stepStop
		}
		if !c.reached.Load() && c.opts.ConnectPatience > 0 && c.clk.Since(begin) >= c.opts.ConnectPatience {
			next = stepStop
		}
		var delay time.Duration
		same, avoid = nil, nil
		switch next {
		case stepSame:
			if sameTries++; sameTries > sameNodeTries {
				return cl.final(last)
			}
			same = nd
		case stepOther:
			avoid = nd
			if len(tries) == len(c.nodes) { // every node had its turn
				if cl.hopeless(tries, stuck, slow) {
					return cl.final(lastAnswered)
				}
				delay = c.backoff(delays, f.most())
				delays++
			}
		case stepDelay:
			// What the node said first, and then as always: all who were told the same
			// would come back at once.
			delay = f.err.After + c.backoff(delays, f.most())
			delays++
		case stepStop, stepUnspecified:
			return cl.final(last)
		}
		if err := cl.pause(ctx, deadline, nd, f, delay); err != nil {
			if !errors.Is(err, errOutOfTime) || lastAnswered == nil {
				return cl.final(last)
			}
			// What a node said tells more than that another one did not answer.
			return cl.final(lastAnswered)
		}
	}
}

// triesOfSlow is how many attempts, each with twice the time of the one before,
// a node has to leave unanswered until it counts as gone and not as slow.
const triesOfSlow = 3

// hopeless reports whether every node failed in this call and at least one said
// that it needs people, while none said anything that passes by itself. A node
// that ran into the timeout of a first attempt may be busy and not gone.
func (cl *call) hopeless(tries map[*node]int, stuck, slow map[*node]bool) bool {
	people := false
	now := cl.c.clk.Now()
	for _, n := range cl.c.nodes {
		switch until, _ := n.standing(now); {
		case tries[n] == 0, slow[n]:
			return false
		case stuck[n]:
			people = true
		case until.IsZero():
			return false
		}
	}
	return people
}

// errOutOfTime says that no further attempt can be made before the deadline.
var errOutOfTime = errors.New("out of time")

// pause waits for the delay and, beyond the first try on each node, for the
// retry budget. What passes by itself within the time of a lease costs no budget:
// every caller meets it at once, the nodes are well, and the delays are load enough
// off them. An empty budget would make calls fail that only had to wait.
func (cl *call) pause(ctx context.Context, deadline time.Time, nd *node, f *failure, delay time.Duration) error {
	c := cl.c
	wait := delay
	if delay > 0 && (!f.definite || !passes(f.err.Code)) {
		for {
			more, ok := c.budget.take()
			if ok {
				break
			}
			if err := cl.sleep(ctx, deadline, more); err != nil {
				return err
			}
		}
	}
	if c.opts.OnRetry != nil {
		c.opts.OnRetry(Retry{Method: cl.method, Addr: nd.addr, Attempt: cl.attempts, Err: f.err, Delay: delay})
	}
	if wait == 0 {
		return ctx.Err()
	}
	return cl.sleep(ctx, deadline, wait)
}

func (cl *call) sleep(ctx context.Context, deadline time.Time, d time.Duration) error {
	if !deadline.IsZero() && cl.c.clk.Now().Add(d).After(deadline) {
		return errOutOfTime
	}
	return cl.c.clk.Sleep(ctx, d)
}

// attempt makes one attempt on nd, which takes at most limit, and returns nil
// when it succeeded.
func (cl *call) attempt(ctx context.Context, nd *node, reply any, limit time.Duration) *failure {
	c := cl.c
	cl.attempts++
	s, err := nd.acquire()
	if err != nil {
		f := failure{err: errs.From(err), definite: true}
		return &f
	}
	defer nd.release(s)

	actx, cancel := context.WithTimeout(cl.outgoing(ctx), limit)
	defer cancel()
	var header, trailer metadata.MD
	var sent atomic.Bool
	actx = withSent(actx, &sent)
	opts := slices.Concat([]grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer)}, c.shown, cl.opts)
	start := c.clk.Now()
	err = s.Invoke(actx, cl.method, cl.req, reply, opts...)
	now := c.clk.Now()
	cl.header = metadata.Join(header, trailer)
	about, answered := cl.said()
	cl.operation = cmp.Or(about.Operation, cl.operation)

	if err == nil {
		c.reached.Store(true)
		took := now.Sub(start)
		nd.answered(now, true, took)
		c.lat[cl.kind].add(took)
		return nil
	}
	f := readFailure(err, nd.addr, actx.Err() != nil && ctx.Err() == nil, answered)
	f.unsent = !f.definite && !sent.Load()
	switch {
	case ctx.Err() != nil && !f.definite: // the caller's own end, no fault of the node
		f.err = errs.From(ctx.Err())
	case c.closed.Load() && !f.definite:
		f.err = errs.From(errClosed())
	case f.definite:
		if f.err.Code == errs.Unauthenticated {
			f.err = c.shownFrom(f.err)
			if c.opts.CertFile != "" && c.opts.TokenFile == "" {
				nd.refused(s, now)
			}
		}
		c.reached.Store(true)
		nd.answered(now, false, 0)
		switch {
		case passes(f.err.Code):
			if f.err.Code == errs.NotServing {
				nd.passing(now)
			}
		case f.err.Code.Row().Retry == errs.RetryOtherNode:
			nd.failed(now, c.jitter.float())
		}
	case f.unsent && f.err.Code.Row().Retry == errs.RetryNever: // refused on this side, no fault of the node
	default:
		if e := c.mismatch(nd.addr, s.Conn, err); e != nil && f.unsent {
			f.err, f.mismatch = e, true
		}
		nd.failed(now, c.jitter.float())
		if f.timedOut && !f.unsent { // an unfinished handshake has its own timeout
			nd.suspect(s, start)
		}
	}
	return &f
}

// shownFrom says where the identity is from that a node does not accept.
func (c *Client) shownFrom(err *errs.Error) *errs.Error {
	switch {
	case c.opts.TokenFile != "":
		return err.With(errs.Hint("%s; the token is in %s", err.Hint, c.opts.TokenFile))
	case c.opts.CertFile != "":
		return err.With(errs.Hint("%s; the certificate is in %s", err.Hint, c.opts.CertFile))
	}
	return err
}

// mismatch returns why no connection can come about as client and node are
// configured, or nil.
func (c *Client) mismatch(addr string, conn Conn, err error) *errs.Error {
	if e := c.opts.mismatch(addr, err); e != nil {
		return e
	}
	if h, ok := conn.(interface{ HandshakeError() error }); ok {
		if herr := h.HandshakeError(); herr != nil {
			return c.opts.mismatch(addr, herr)
		}
	}
	return nil
}

// outgoing adds the trace context that carries the correlation id (I5), unless
// the caller has one, and the wish not to wait.
func (cl *call) outgoing(ctx context.Context) context.Context {
	if cl.async {
		ctx = metadata.AppendToOutgoingContext(ctx, asyncHeader, "1")
	}
	if md, ok := metadata.FromOutgoingContext(ctx); ok && len(md.Get("traceparent")) > 0 {
		return ctx
	}
	var span [8]byte
	if _, err := io.ReadFull(cl.c.opts.Rand, span[:]); err != nil {
		copy(span[:], cl.traceID[:]) // only has to be non-zero
	}
	return metadata.AppendToOutgoingContext(ctx, "traceparent",
		"00-"+hex.EncodeToString(cl.traceID[:])+"-"+hex.EncodeToString(span[:])+"-01")
}

// final returns the error that the caller gets. When an attempt of a mutation
// may have changed something, a refusal that does not settle the matter must
// not sound as if nothing had happened (I4). And once a node knew that the change is
// committed, nothing but a refusal of the rest of it says more: not that the time is
// over, nor that the caller is not trusted any more, which may be what the change did.
func (cl *call) final(f *failure) error {
	if cl.committed != nil && (!f.definite || f.err.Code.Row().Outcome != errs.OutcomeRefused) {
		return cl.committed.err
	}
	mutates := cl.kind == kindMutation || cl.kind == kindOnce || cl.kind == kindUnsafe
	if !mutates || cl.unsure == nil {
		if mutates && f.unknown() {
			return cl.indeterminate(f)
		}
		return f.err
	}
	if f.definite && f.err.Code.Row().Outcome == errs.OutcomeRefused {
		return f.err // the node looked the request id up and refused the call itself
	}
	return cl.indeterminate(f)
}

func (cl *call) indeterminate(f *failure) error {
	if f.err.Code == errs.Canceled || f.err.Code == errs.DeadlineExceeded || f.err.Code == errs.Indeterminate {
		return f.err.With(cl.requestHint())
	}
	return errs.New(errs.Indeterminate, "it is not known whether the change was made: "+f.err.Msg, errs.Cause(f.err), cl.requestHint())
}

func (cl *call) requestHint() errs.Option {
	if cl.requestID == "" {
		return errs.Hint("look at the state of the object before trying again")
	}
	return errs.Hint("try again with request id %s, or look at operation %s", cl.requestID, cl.requestID)
}
