// Package errs is the closed table of errors that a caller of Krypton can see.
//
// Every error that crosses a process border is an [Error] with a [Code] of this
// package. One table says, for each code, which gRPC code, HTTP status and exit
// status it becomes, whether and where a caller may try again, and how the
// audit trail records the outcome. Codes travel by name, so that an older
// client meets an unknown newer code as [Internal] instead of a wrong one.
//
// # Invariants
//
//   - I1: every code has exactly one row in the table, and every name is unique.
//   - I2: an error survives the way from server to client: code, message and hint are what the server said.
//   - I3: an error that is not an [Error] leaves the process as [Internal] with a fixed message; its text stays in the log.
//   - I4: every way in which a ciphertext can fail to open is one code, [Integrity], with one message.
//
// # Concurrency
//
// Errors and the table are immutable; everything here is safe for concurrent use.
//
// # Failure
//
// Nothing here can fail: an unknown code is treated as [Internal], which is never retried.
//
// # Source
//
// gRPC status codes, AIP-193 (google.rpc.Status with ErrorInfo), docs/contract.md (exit codes).
package errs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code says what went wrong, from a closed set. The zero value is invalid.
// Codes exist in memory only; on the wire an error carries the code's name.
type Code int

// The codes. Their meaning, and what each becomes in gRPC, HTTP, the command
// line and the audit trail, stands in the table in table.go and, generated
// from it, in docs/errors.md.
const (
	Unspecified Code = iota

	Internal
	InvalidArgument
	InvalidConfig
	TooLarge
	Unauthenticated
	Denied
	NotFound
	AlreadyExists
	StaleEtag
	RequestReplayed
	FailedState
	Aborted
	LimitReached
	Throttled
	Sealed
	Held
	NotSealed
	ShareRefused
	NotServing
	NoLeader
	Indeterminate
	Unavailable
	ChangeInProgress
	L1Denied
	L1Unavailable
	KeystoreMisconfigured
	AuditUnavailable
	Integrity
	StateCorrupt
	IntentRefused
	ApprovalPending
	DeadlineExceeded
	Canceled
	Unimplemented
	NotComplete

	codeEnd // one past the last code; not a code
)

// Error is an error that a caller may see.
//
// Msg says what was wrong, in lower case, without secrets and without the
// content of what the caller sent. Hint says what to do next and may be empty.
type Error struct {
	Code Code
	Msg  string
	Hint string

	// After is how long to wait before the call is made again, where the node knows
	// it: sooner is refused again. 0: it does not know.
	After time.Duration

	cause error
}

// Option sets an optional part of an [Error].
type Option func(*Error)

// Hint says what the reader of the error can do next.
func Hint(format string, args ...any) Option {
	return func(e *Error) { e.Hint = fmt.Sprintf(format, args...) }
}

// RetryAfter says how long to wait before the call is made again.
func RetryAfter(d time.Duration) Option {
	return func(e *Error) { e.After = max(d, 0) }
}

// Cause keeps err for logs and errors.Is inside this process. It is never sent
// to a caller.
func Cause(err error) Option {
	return func(e *Error) { e.cause = err }
}

// New makes an error of the given code.
func New(code Code, msg string, opts ...Option) *Error {
	if !code.Valid() {
		code = Internal
	}
	e := &Error{Code: code, Msg: msg}
	for _, o := range opts {
		o(e)
	}
	return e
}

// Newf is [New] with a formatted message. It knows no %w, and vet refuses one:
// the message goes to the caller, and the text of a cause must not. Keep a
// cause with [Error.With] and [Cause].
func Newf(code Code, format string, args ...any) *Error {
	return New(code, fmt.Sprintf(format, args...))
}

// With returns a copy of the error with opts applied.
func (e *Error) With(opts ...Option) *Error {
	c := *e
	for _, o := range opts {
		o(&c)
	}
	return &c
}

// Error returns the message and, behind a semicolon, the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Hint
}

// Unwrap returns the cause inside this process, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an [Error] with the same code, so that
// errors.Is(err, errs.New(errs.Sealed, "")) works across a process border.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error) // target itself, not what it wraps
	return ok && t.Code == e.Code
}

// Of returns the code of the first [Error] that err wraps. It is [Unspecified]
// for nil and [Internal] for an error of no code.
func Of(err error) Code {
	if err == nil {
		return Unspecified
	}
	return From(err).Code
}

// Is reports whether err carries code.
func Is(err error, code Code) bool { return err != nil && Of(err) == code }

// From returns err as the [Error] that a caller may see: the first one it
// wraps, the code for an ended context, or the fixed [Internal] error for
// anything else (I3).
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return New(DeadlineExceeded, "the deadline passed before the call ended",
			Hint("retry with the same request id and a longer --timeout"), Cause(err))
	case errors.Is(err, context.Canceled):
		return New(Canceled, "the call was cancelled", Cause(err))
	}
	return New(Internal, "internal error", Hint("look for the correlation id in the node's log"), Cause(err))
}

// NoSuchObject is the one answer for an object that does not exist and for one
// that the caller may not know of, equal in every byte.
func NoSuchObject() *Error {
	return New(NotFound, "no such object", Hint("check the name; objects of other tenants are not shown"))
}

// DoesNotOpen is the one answer for every way a ciphertext can fail to open
// (I4): wrong key, tag, context, tenant, length or format. The cause goes to
// the audit record of the operation and nowhere else.
func DoesNotOpen(cause error) *Error {
	return New(Integrity, "the ciphertext does not open",
		Hint("check service, resource and encryption context; they must be those it was made with"), Cause(cause))
}
