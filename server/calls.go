package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/node"
)

// calls is what every service needs to answer a call.
type calls struct {
	node     *node.Node
	serving  func() error // [node.Node.ServingErr]
	machine  *fsm.Machine
	cluster  *cluster.Cluster
	gate     *gate.Gate
	certs    *certificates
	dirs     *directories
	metrics  *metrics
	clock    clock.Clock
	rand     io.Reader
	log      *slog.Logger
	nodeID   string
	nodeName string
	dataDir  string
	version  string
	budget   time.Duration // of a call without a deadline
	local    *inproc       // every public method, for the HTTP door and for what is done by an approval
	attempts attempts      // what became of executing approvals here
	outgoing outgoing      // who still shows certificates of CAs that were replaced

	saving saving // the snapshot that somebody fetches from this node

	handed shownCertificates
	limits *limits

	concurrent uint32 // calls at a time on one connection
}

// do passes the gate and runs fn behind it.
func (c *calls) do(ctx context.Context, act gate.Act, object string, fn func(gate.Token) error) error {
	id := callerOf(ctx)
	req := gate.Request{Principal: id.Principal, Serial: id.Serial, Binding: id.Binding, Authority: id.asked, Shown: id.shown, Act: act, Object: object, Correlation: corr.From(ctx)}
	if by := callOf(ctx).approval; by.stage != gate.NoApproval {
		req.Approval, req.Stage, req.ApprovedBy = approvalName(by.id), by.stage, by.signers
	}
	if id.refused != nil {
		return c.refuse(ctx, req)
	}
	if id.Expired && !act.Expired(id.Principal.Role) {
		return c.gate.Unauthenticated(ctx, req, pki.ErrExpired(id.NotAfter, c.clock.Now()))
	}
	return c.gate.Do(ctx, req, func(tok gate.Token) error {
		err := fn(tok)
		if is := callOf(ctx); err == nil && is.async && is.operation != "" {
			is.pending = c.changedAt(tok, is.operation) > c.cluster.Standing().Complete
		}
		return err
	})
}

// window returns the rollback window of the cluster.
func (c *calls) window() time.Duration {
	return time.Duration(c.machine.View().Cluster().GetSettings().GetRollbackWindowMs()) * time.Millisecond
}

func (c *calls) certificate() []byte { return c.certs.leaf() }

// leads are the certificates behind it.
func (c *calls) leads() [][]byte {
	if own := c.certs.own.Load(); own != nil {
		return own.Certificate[1:]
	}
	return nil
}

// member waits until this node's own registry says that it is a member.
func (c *calls) member(ctx context.Context) (*fsm.View, error) {
	for {
		v := c.machine.View()
		if _, ok := v.Member(c.nodeID); ok {
			return v, nil
		}
		select {
		case <-v.Superseded():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// caller is who a call comes from, as its connection or its token proves it.
type caller struct {
	identity.Identity

	key     crypto.PublicKey // of the certificate; nil: it was none
	shown   auth.Credential  // the certificate or token, for a leader that verifies it again
	asked   uint64           // [fsm.View.AuthorityAt] of the view in which this was found
	refused error            // why whoever it is is not accepted; nil: accepted
	// mayChange: it is refused for what the registry does not have.
	mayChange bool
	// notYet is what kept the node from serving when it refused: its registry is missing
	// or old, so another node, or this one in a moment, may well accept the caller.
	notYet error

	visit  *visit      // its connection; nil: the administration socket
	noSeat *errs.Error // why its connection has no place among those of callers; nil: it has one
}

// call is one call from its door to its answer. It is used by one goroutine.
type call struct {
	caller

	async     bool   // the caller wants changes to be answered once they are committed
	operation string // request id of the change that the call makes; empty: it makes none
	pending   bool   // that change was not waited for, and this node does not know it to be complete
	stale     bool   // the answer is from a registry that may be behind
	told      error  // the answer of a caller that is not accepted, once it was recorded

	approval byApproval // by which it is made or checked; zero: none
}

type callKey struct{}

// callContext is the context of a call: whose it is and, once it has begun, its
// correlation id and that it has no headers. One context and not four around each
// other, because every call pays for each of them, and for each look through them.
type callContext struct {
	context.Context //nolint:containedctx // It is a context: what it does not answer, the one further out does.

	is  *call
	own call    // what is points to, unless that is in a context further in
	id  corr.ID // empty: not begun yet
}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	if key == (callKey{}) {
		return c.is
	}
	if c.id != "" {
		if key == (corr.Key{}) {
			return &c.id
		}
		if none := headless.Value(key); none != nil {
			return none
		}
	}
	return c.Context.Value(key)
}

// headless has the headers that handlers see of a call: none. Who asks for them
// gets a copy.
//
//nolint:gochecknoglobals // Immutable.
var headless = metadata.NewIncomingContext(context.Background(), metadata.MD{})

// callOf returns the call that ctx belongs to.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

func callerOf(ctx context.Context) caller { return callOf(ctx).caller }

func withCaller(ctx context.Context, who caller) context.Context {
	return withCall(ctx, call{caller: who})
}

func withCall(ctx context.Context, is call) context.Context {
	c := &callContext{Context: ctx, own: is}
	c.is = &c.own
	return c
}

// verified is who holds a certificate until it ends, or the registry changes. Each
// connection keeps that of its own certificate, so that a call costs a look and not
// two signature checks. What all connections shared would be a place where one caller
// could push out others.
type verified struct {
	identity.Identity

	// leaf is the certificate. It is parsed once for each connection and never
	// changes, so its address stands for it.
	leaf *x509.Certificate

	// asked is [fsm.View.AuthorityAt] of the view in which this was found. While the
	// present one is equal, that needs no look into the registry.
	asked   uint64
	founded bool // there was a registry
	// byName: only the name in the certificate says which tenant the workload is of,
	// so it is of the one that has the name now. A tenant that is made moves no
	// AuthorityAt.
	byName bool
	// retires is when the CA of the certificate is trusted no more; zero: not by what the
	// registry says.
	retires time.Time
}

// holds reports whether v is still so.
func (v *verified) holds(now time.Time, view *fsm.View) bool {
	if !now.Before(v.NotAfter) || !v.retires.IsZero() && !now.Before(v.retires) || v.asked != view.AuthorityAt() || v.founded != view.Initialized() {
		return false
	}
	if !v.byName {
		return true
	}
	t, ok := view.Tenant(string(v.Principal.Tenant))
	return ok && string(t.GetUid()) == string(v.Principal.TenantUID[:])
}

// identify returns who holds a certificate. One that has expired, was revoked, or
// whose role binding or issuer is gone, is refused at every call, not only when the
// connection is made (I4). What was refused is not remembered: it costs its holder
// as much as this node.
//
// A node that just started has an old registry, or none. What such a node does not
// find is no answer, so a refusal counts only by a view that is as new as a lease
// makes it.
//
// v is the connection that it was shown on, which has a place among those of callers
// from then on; nil: none.
func (c *calls) identify(v *visit, leaf *x509.Certificate) caller {
	var known *atomic.Pointer[verified]
	if v != nil {
		known = &v.verified
	}
	return seated(v, c.settled(func() caller { return c.identifyNow(known, leaf) }))
}

// seated gives the connection of an accepted caller its place.
func seated(v *visit, who caller) caller {
	who.visit = v
	if v != nil && who.refused == nil && !v.seated.Load() {
		who.noSeat = v.door.seat(v, who.Principal)
	}
	return who
}

// settled looks again where a refusal may be due to an old registry.
func (c *calls) settled(find func() caller) caller {
	who := find()
	if !who.mayChange {
		return who
	}
	notYet := c.serving()
	if who = find(); who.refused != nil && who.mayChange {
		who.notYet = notYet
	}
	return who
}

// identifyNow finds who holds a certificate, and keeps what it finds in known, if that
// is not nil.
func (c *calls) identifyNow(known *atomic.Pointer[verified], leaf *x509.Certificate) caller {
	now, view := c.clock.Now(), c.machine.View()
	if known != nil && leaf != nil {
		if v := known.Load(); v != nil && v.leaf == leaf && v.holds(now, view) {
			return caller{Identity: v.Identity, key: leaf.PublicKey, shown: auth.CertificateShown(leaf.Raw), asked: v.asked}
		}
	}
	dir := c.dirs.of(view)
	proof, err := dir.callers.Verify(leaf, now)
	if err != nil {
		return caller{refused: err, mayChange: pki.IsUnknownCA(err) && c.serving() != nil} // it may not know the issuer yet
	}
	v := &verified{leaf: leaf, asked: view.AuthorityAt(), founded: view.Initialized(), retires: proof.Retires}
	if v.Identity, err = identity.OfCertificate(dir, proof, now); err != nil {
		return caller{refused: err, mayChange: true}
	}
	v.byName = v.Binding.IsZero() && v.Principal.Role == auth.RoleWorkload && proof.ID.TenantUID.IsZero()
	if r, gone := view.Revoked([]byte(v.Serial)); gone && v.Serial != "" {
		return caller{refused: revoked(r)}
	}
	if !proof.Retires.IsZero() && !v.Expired {
		c.outgoing.note(proof.CA, now)
	}
	// What has expired never holds, but for a clock that was ahead and went back: then it
	// would still be called expired.
	if known != nil && !v.Expired {
		known.Store(v)
	}
	return caller{Identity: v.Identity, key: leaf.PublicKey, shown: auth.CertificateShown(leaf.Raw), asked: v.asked}
}

// revoked tells the holder of a certificate that it was revoked, and when. Why
// and by whom is not for somebody whom nobody trusts any more.
func revoked(r *fsmpb.Revocation) error {
	return errs.New(errs.Unauthenticated, "the client certificate was revoked at "+time.UnixMilli(r.GetRevokeTimeMs()).UTC().Format(time.RFC3339),
		errs.Hint("ask a governor of this cluster why, and for a new one"))
}

// fromNetwork is the interceptor of the gRPC port: the caller is who the call's
// token or the connection's certificate says.
func (c *calls) fromNetwork(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	who := c.identifyCall(ctx)
	if who.visit != nil {
		who.visit.begin()
	}
	return c.answer(withCaller(ctx, who), req, info, next)
}

// fromSocket is the interceptor of the administration socket.
func (c *calls) fromSocket(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return c.answer(withCaller(ctx, caller{Identity: identity.Identity{Principal: auth.LocalOperator()}}), req, info, next)
}

// maxDeadline bounds a call whose caller chose a deadline.
const maxDeadline = 10 * time.Minute

// answer runs a call from any door: correlation id, deadline, response headers,
// metrics, and errors in the form that callers know. Whose call it is stands in
// ctx already; no header is asked for that (I1).
func (c *calls) answer(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	start := c.clock.Now()
	ctx, id, err := c.begin(ctx)
	if err != nil {
		return nil, wire.ToStatus(err).Err()
	}
	ctx, cancel := c.bounded(ctx, start)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			// The value may quote anything, so only where it happened is logged.
			c.log.ErrorContext(ctx, "a call panicked", slog.String("method", info.FullMethod),
				slog.String("correlation_id", string(id)), slog.String("stack", string(debug.Stack())))
			err = errs.New(errs.Internal, "internal error", errs.Hint("look for the correlation id in the node's log"))
		}
		c.setHeader(ctx, id, err)
		if err != nil {
			out, err = nil, c.status(ctx, info.FullMethod, id, err)
		}
		c.metrics.observe(info.FullMethod, err, c.clock.Since(start))
	}()
	size := sizeOf(req)
	in, err := c.admit(ctx, info.FullMethod, size, start)
	defer in.leave()
	if m, ok := req.(proto.Message); ok && err == nil {
		err = acceptable(m, size)
	}
	if err == nil {
		out, err = next(ctx, req)
	}
	if err = c.strangers(ctx, id, err); err != nil {
		return nil, err
	}
	return out, nil
}

// bounded gives a call its deadline, unless its caller chose one that may be.
func (c *calls) bounded(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	limit := c.budget
	if chosen, ok := ctx.Deadline(); ok {
		if chosen.Sub(start) <= maxDeadline {
			return ctx, func() {}
		}
		limit = maxDeadline
	}
	return context.WithTimeout(ctx, limit)
}

// strangers keeps a caller without a valid identity from every answer but the
// one that says so: a handler may find fault with the request before it asks the
// gate, and the record must not depend on that (I2).
func (c *calls) strangers(ctx context.Context, id corr.ID, err error) error {
	who := callOf(ctx)
	switch {
	case who.refused == nil:
		return err
	case who.told != nil:
		return who.told
	}
	return c.refuse(ctx, gate.Request{Correlation: id})
}

// refuse records a caller that is not accepted, and says why. Who has a certificate
// of a registered CA and asks a node whose registry may be old hears what keeps that
// node from serving, which is what the caller would wait for: UNAUTHENTICATED would be
// a guess, and programs give up on it.
func (c *calls) refuse(ctx context.Context, req gate.Request) error {
	who := callOf(ctx)
	who.told = c.gate.Unauthenticated(ctx, req, who.refused)
	if who.notYet != nil && errs.Is(who.told, errs.Unauthenticated) {
		who.told = who.notYet
	}
	return who.told
}

// begin gives the call its correlation id and takes away every header: what is
// not there cannot be believed (I1).
func (c *calls) begin(ctx context.Context) (context.Context, corr.ID, error) {
	id := corr.From(ctx)
	if id == "" {
		var err error
		if id, err = c.correlate(traceOf(ctx)); err != nil {
			return ctx, "", err
		}
	}
	is := callOf(ctx)
	is.async = is.async || asyncOf(ctx)
	own, ok := ctx.(*callContext)
	if !ok || own.id != "" { // from the gateway, say: there are others around it
		own = &callContext{Context: ctx, is: is}
	}
	own.id = id // nobody else has this context yet
	return own, id, nil
}

func (c *calls) setHeader(ctx context.Context, id corr.ID, err error) {
	is, op := callOf(ctx), ""
	if err == nil || errs.Is(err, errs.NotComplete) {
		op = is.operation
	}
	said := answer.Format(answer.Info{
		Correlation: string(id), Node: c.nodeID, Index: c.machine.View().Index(), Operation: op, Pending: is.pending && op != "" && err == nil, Stale: is.stale && err == nil,
	})
	h, ok := saidPool.Get().(*saidHeader)
	if !ok {
		h = newSaidHeader()
	}
	h.value[0] = said
	if err := grpc.SetHeader(ctx, h.md); err != nil {
		c.log.DebugContext(ctx, "response headers were not set", slog.Any("error", err))
	}
	saidPool.Put(h)
}

// saidHeader is a set of headers with one in it. SetHeader copies what it is given,
// so the next call can say something else in it; a map for every call would cost
// more than all that is said.
type saidHeader struct {
	md    metadata.MD
	value []string // of the header: what md holds
}

func newSaidHeader() *saidHeader {
	h := &saidHeader{value: make([]string, 1)}
	h.md = metadata.MD{answer.Header: h.value}
	return h
}

//nolint:gochecknoglobals // A pool of maps that hold no secret.
var saidPool sync.Pool

// status turns an error into what callers see, and logs what they do not.
func (c *calls) status(ctx context.Context, method string, id corr.ID, err error) error {
	e := errs.From(err)
	if cause := e.Unwrap(); e.Code == errs.Internal && cause != nil {
		c.log.ErrorContext(ctx, "a call failed", slog.String("method", method),
			slog.String("correlation_id", string(id)), slog.Any("error", cause))
	}
	return wire.ToStatus(e).Err()
}

// unknown answers a method that no service has, as every other error.
func (c *calls) unknown(_ any, stream grpc.ServerStream) error {
	if v, _ := visitOf(stream.Context()); v != nil {
		v.begin()
	}
	ctx, id, err := c.begin(stream.Context())
	if err != nil {
		return wire.ToStatus(err).Err()
	}
	if herr := stream.SetHeader(metadata.Pairs(answer.Header, answer.Format(answer.Info{Correlation: string(id), Node: c.nodeID}))); herr != nil {
		c.log.DebugContext(ctx, "response headers were not set", slog.Any("error", herr))
	}
	err = errs.New(errs.Unimplemented, "this node does not know the method", errs.Hint("it may be older than the client"))
	c.metrics.observe("", wire.ToStatus(err).Err(), 0)
	return wire.ToStatus(err).Err()
}

// correlate takes the id of the call from a traceparent header, or makes one.
func (c *calls) correlate(traceparent []string) (corr.ID, error) {
	if len(traceparent) == 1 {
		if id, ok := corr.FromTraceparent(traceparent[0]); ok {
			return id, nil
		}
	}
	id, err := corr.New(c.rand)
	if err != nil {
		return "", errs.New(errs.Internal, "no randomness for a correlation id", errs.Cause(err))
	}
	return id, nil
}

// acceptable refuses a request for what it is, before anybody looks at what it
// asks for.
func acceptable(m proto.Message, size int) error {
	if size > MaxMessage {
		return errs.Newf(errs.TooLarge, "the request is larger than %d bytes", MaxMessage).
			With(errs.Hint("encrypt large data with a data key"))
	}
	return understood(m.ProtoReflect())
}

// understood refuses a message with fields that this release does not know, as
// JSON does: a newer client's "only if" must not be overlooked by an older node.
func understood(m protoreflect.Message) error {
	unknown := m.GetUnknown()
	if len(unknown) > 0 && bytes.Equal(unknown, notDecoded()) {
		return errs.New(errs.InvalidArgument, "the request is not a message of this method",
			errs.Hint("encode it with the .proto files of this API; text is valid UTF-8"))
	}
	ok := len(unknown) == 0
	for _, fd := range messageFields[m.Descriptor().FullName()] {
		switch {
		case !m.Has(fd):
		case !fd.IsList():
			ok = ok && understood(m.Get(fd).Message()) == nil
		default:
			for list, i := m.Get(fd).List(), 0; ok && i < list.Len(); i++ {
				ok = understood(list.Get(i).Message()) == nil
			}
		}
	}
	if !ok {
		return errs.New(errs.InvalidArgument, "the request has fields that this node does not know",
			errs.Hint("the node may be older than the client"))
	}
	return nil
}
