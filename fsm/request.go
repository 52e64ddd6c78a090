package fsm

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	// RequestMemoryMS is how long a request is remembered, in milliseconds of
	// command time: 24 h. It is forgotten by the first tick after that, not before.
	RequestMemoryMS = 24 * 3600 * 1000

	// MaxRequests bounds the remembered requests of everybody, about 40 MB.
	MaxRequests = 100_000

	// MaxRequestsPerPrincipal bounds those of one principal, so that nobody
	// uses up the memory of all.
	MaxRequestsPerPrincipal = 10_000
)

// isFact reports whether a refusal with that code is remembered like a result.
// A fact about the request and the objects it names stays the answer to this
// request id. What asks the caller to do something and send the same request
// again (read again, prepare again, collect signatures, wait for room) is
// forgotten, so that the retry can act.
func isFact(c errs.Code) bool {
	return c == errs.NotFound || c == errs.AlreadyExists || c == errs.FailedState || c == errs.InvalidArgument
}

// recall answers a request that is remembered (I5), or returns nil.
func (t *tx) recall() *fsmpb.Result {
	id := t.cmd.GetRequestId()
	if id == "" {
		return nil
	}
	r, ok := lookup[*fsmpb.Request](t.txn, tableRequests, indexID, requestKey(t.cmd.GetPrincipal(), id, t.cmd.GetStep()))
	if !ok {
		return nil
	}
	if r.GetKind() != kindOf(t.cmd) || !bytes.Equal(r.GetDigest(), t.cmd.GetRequestDigest()) {
		return refusal(t.index, errs.New(errs.RequestReplayed, "the request id was used for a different request",
			errs.Hint("use a new request id for a new request")))
	}
	res := proto.CloneOf(r.GetResult())
	res.Replayed = true
	return res
}

// room refuses a command whose result could not be remembered for 24 h. One
// that takes power away is never refused for that: it pushes out the oldest
// memory instead, its own principal's first.
func (t *tx) room() error {
	if t.cmd.GetRequestId() == "" || takesPower(t.cmd) {
		return nil
	}
	hint := errs.Hint("requests are remembered for 24 h; retry later with the same request id")
	switch {
	case t.remembered(t.cmd.GetPrincipal()) >= MaxRequestsPerPrincipal:
		return errs.New(errs.LimitReached, "the caller made more changes in 24 h than can be remembered", hint)
	case t.requests >= MaxRequests:
		return errs.New(errs.LimitReached, "more changes were made in 24 h than can be remembered", hint)
	}
	return nil
}

// remember keeps the result of the command for 24 h.
func (t *tx) remember(res *fsmpb.Result) {
	if t.cmd.GetRequestId() == "" {
		return
	}
	p := t.cmd.GetPrincipal()
	if t.remembered(p) >= MaxRequestsPerPrincipal {
		t.forgetOldest(indexBy, principalKey(p))
	}
	if t.requests >= MaxRequests {
		t.forgetOldest(indexDue, nil)
	}
	r := &fsmpb.Request{
		Principal: p,
		RequestId: t.cmd.GetRequestId(),
		Step:      t.cmd.GetStep(),
		Digest:    t.cmd.GetRequestDigest(),
		Result:    proto.CloneOf(res), // the caller of Apply owns the other one
		TimeMs:    t.timeMS,
		Kind:      kindOf(t.cmd),
	}
	if t.cluster.GetFormatVersion() >= FormatAuthority {
		r.ViaNode = t.cmd.GetViaNode()
	}
	t.putRequest(r)
}

func (t *tx) putRequest(r *fsmpb.Request) {
	put(t, tableRequests, r)
	t.requests++
	t.countCaller(r.GetPrincipal(), 1)
}

func (t *tx) forget(r *fsmpb.Request) {
	drop(t, tableRequests, r)
	t.requests--
	t.countCaller(r.GetPrincipal(), -1)
}

func (t *tx) forgetOldest(index string, prefix []byte) {
	var oldest *fsmpb.Request
	scan(t.txn, tableRequests, index, prefix, nil, func(r *fsmpb.Request) bool {
		oldest = r
		return false
	})
	if oldest != nil {
		t.forget(oldest)
	}
}

// remembered returns how many requests of p are remembered.
func (t *tx) remembered(p *fsmpb.Principal) int {
	c, _ := lookup[callerRow](t.txn, tableCallers, indexID, principalKey(p))
	return c.n
}

func (t *tx) countCaller(p *fsmpb.Principal, by int) {
	c := callerRow{key: string(principalKey(p)), n: t.remembered(p) + by}
	if c.n == 0 {
		drop(t, tableCallers, c)
		return
	}
	put(t, tableCallers, c)
}

// kindOf returns the name of the command's body, such as "create_tenant".
func kindOf(cmd *fsmpb.Command) string {
	m := cmd.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("body")); fd != nil {
		return string(fd.Name())
	}
	return ""
}
