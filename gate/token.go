package gate

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// Token proves that the gate let one operation in. It can be copied; all copies
// are one token. The zero Token is invalid: using it stops the program (I1).
type Token struct{ op *op }

// Details is what an operation adds to its record. Nothing in it is secret, and
// nothing but the caller's own sizes comes from the caller.
type Details struct {
	BytesIn         uint64 // size of what the caller sent
	BytesOut        uint64 // size of what the caller gets
	KeyVersion      string // uid of the key version that was used
	KeystoreRequest string // id under which the keystore recorded our request
	Cause           string // internal reason of a refusal, such as why a ciphertext did not open
}

// op is one operation between Enter and Finish.
type op struct {
	gate      *Gate
	req       Request
	principal string
	role      string
	why       string // by what it was let in, if something besides the role decided
	start     time.Time
	details   Details
	last      func() error // nil: nothing is asked
	finished  atomic.Bool
	mark      *mark // only in builds with the tag invariants
}

// mark outlives its op, so that a cleanup can tell whether it was finished.
type mark struct {
	act      Act
	finished atomic.Bool
}

// watch notices a token that is dropped without Finish.
func (o *op) watch() {
	if !invariants.Enabled {
		return
	}
	o.mark = &mark{act: o.req.Act}
	abandoned := o.gate.cfg.OnAbandoned
	runtime.AddCleanup(o, func(m *mark) {
		if !m.finished.Load() {
			abandoned(m.act)
		}
	}, o.mark)
}

// Require refuses unless t was issued for act on object. Methods that take a
// token call it first, so that a token for one operation does not open another.
// A zero or finished token is a defect of the program and stops it (I1).
func (t Token) Require(act Act, object string) error {
	o := t.must()
	if o.req.Act != act || o.req.Object != object {
		return errs.New(errs.Denied, "the call was authorized for another act or object")
	}
	return nil
}

// must returns the live operation behind t.
func (t Token) must() *op {
	if t.op == nil {
		invariants.Violated("gate", "an operation was called without passing the gate")
	}
	if t.op.finished.Load() {
		invariants.Violated("gate", "the token for %s was used after it was finished", t.op.req.Act)
	}
	return t.op
}

// Principal returns who asked; the zero Principal for acts of the node itself.
func (t Token) Principal() auth.Principal { return t.must().req.Principal }

// Serial returns the serial number of the certificate that proved the principal,
// as bytes; empty if none did.
func (t Token) Serial() string { return t.must().req.Serial }

// Binding returns the uid of the role binding by which the principal was found; zero
// if there was none.
func (t Token) Binding() hierarchy.UID { return t.must().req.Binding }

// Authority returns the index of the registry's last change of identities when the
// principal was found; 0 if that is not known.
func (t Token) Authority() uint64 { return t.must().req.Authority }

// Asked reports whether it is only checked, so that others can be asked to sign for it.
func (t Token) Asked() bool { return t.must().req.Stage == Asked }

// Shown returns what proved the principal; the zero Credential if this node has
// nothing that another one could verify.
func (t Token) Shown() auth.Credential { return t.must().req.Shown }

// Act returns what was asked for.
func (t Token) Act() Act { return t.must().req.Act }

// Object returns the name of what it was asked for.
func (t Token) Object() string { return t.must().req.Object }

// Correlation returns the id of the call.
func (t Token) Correlation() corr.ID { return t.must().req.Correlation }

// Attempt returns the number of the attempt, 0 if unknown.
func (t Token) Attempt() uint32 { return t.must().req.Attempt }

// Describe sets what the record will say beside the outcome. The last call
// counts. It must not run at the same time as another Describe or Finish.
func (t Token) Describe(d Details) { t.must().details = d }

// Ruled sets by what an operation was let in or denied besides the role: the policies
// that decided. It stands in the record with the cause of a refusal. The last call
// counts; like Describe it must not run at the same time as another method.
func (t Token) Ruled(by string) { t.must().why = by }

// Last sets the question whether the answer may still leave, which Finish asks once
// the outcome is recorded (I8). The record may have waited for a disk, and what the
// answer was found by may have ended meanwhile. nil: nothing is asked. The last call
// counts; it must not run at the same time as another method of the token. check
// must not use the token and must not wait.
func (t Token) Last(check func() error) { t.must().last = check }

// Finish records the outcome: err is what the caller will get, nil for success.
// Only if Finish returns nil may a reply go out; its own error goes out in place
// of err (I2, I8). It takes no context, because a caller that gave up must still be
// recorded. A second Finish stops the program.
func (t Token) Finish(err error) error {
	o := t.must()
	if o.finished.Swap(true) {
		invariants.Violated("gate", "the token for %s was finished twice", o.req.Act)
	}
	if o.mark != nil {
		o.mark.finished.Store(true)
	}
	o.gate.inFlight.Add(-1)

	r := o.record()
	r.Phase = audit.Whole
	if r.Class == audit.Control {
		r.Phase = audit.Outcome
	}
	r.LatencyUs = micros(o.gate.cfg.Clock.Since(o.start))
	r.Outcome = errs.OutcomeOf(err)
	if err != nil {
		r.Code = errs.Of(err)
		if r.Cause == "" {
			r.Cause = causeOf(err)
		}
	}
	r.Cause = o.withPolicy(r.Cause)
	rerr := o.gate.cfg.Sink.Append(r)
	if rerr == nil {
		return o.ask()
	}
	if r.Class == audit.Control && (r.Outcome == errs.OutcomeOK || r.Outcome == errs.OutcomeUnknown || r.Outcome == errs.OutcomePending) {
		// "It did nothing" would be a lie: the change may stand.
		return errs.New(errs.Indeterminate, "the change may stand, but its outcome could not be recorded",
			errs.Hint("ask another node with the same request id"), errs.Cause(rerr))
	}
	return rerr
}

// ask asks the last question and corrects the record when the answer is no.
func (o *op) ask() error {
	if o.last == nil {
		return nil
	}
	err := o.last()
	if err == nil {
		return nil
	}
	r := o.record()
	r.Phase, r.BytesOut = audit.Correction, 0
	r.LatencyUs = micros(o.gate.cfg.Clock.Since(o.start))
	r.Outcome, r.Code, r.Cause = errs.OutcomeOf(err), errs.Of(err), causeOf(err)
	if rerr := o.gate.cfg.Sink.Append(r); rerr != nil {
		return rerr
	}
	return err
}

// withPolicy adds what policies decided to a cause, unless it is the cause.
func (o *op) withPolicy(cause string) string {
	switch {
	case o.why == "" || o.why == cause:
		return cause
	case cause == "":
		return o.why
	}
	return cause + "; " + o.why
}

// run calls fn and records how it ended, also when it panics.
func (t Token) run(fn func(Token) error) (err error) {
	ran := false
	defer func() {
		if ran {
			return
		}
		// fn panicked, or ended its goroutine. The record is all that can be saved:
		// there is no reply that a failed record could stop.
		if !t.op.finished.Load() {
			_ = t.Finish(errs.New(errs.Internal, "the operation panicked"))
		}
	}()
	err = fn(t)
	ran = true
	if rerr := t.Finish(err); rerr != nil {
		return rerr
	}
	return err
}

// record returns what all records of the operation have in common.
func (o *op) record() audit.Record {
	return audit.Record{
		Class:           o.req.Act.Class(),
		Act:             o.req.Act.String(),
		Correlation:     o.req.Correlation,
		Attempt:         o.req.Attempt,
		Object:          o.req.Object,
		Principal:       o.principal,
		Role:            o.role,
		Via:             o.req.Via,
		Approval:        o.req.Approval,
		ApprovedBy:      o.req.ApprovedBy,
		BytesIn:         o.details.BytesIn,
		BytesOut:        o.details.BytesOut,
		KeyVersion:      o.details.KeyVersion,
		KeystoreRequest: o.details.KeystoreRequest,
		Cause:           o.details.Cause,
	}
}

// causeOf returns what err hides from the caller.
func causeOf(err error) string {
	if cause := errors.Unwrap(errs.From(err)); cause != nil {
		return cause.Error()
	}
	return ""
}

func micros(d time.Duration) uint64 {
	return uint64(max(d, 0) / time.Microsecond)
}
