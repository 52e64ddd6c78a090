package keystore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Class says what a failure of a keystore means for the keys that depend on
// it. The zero value is invalid.
type Class int

// The classes.
const (
	// ClassUnspecified is no class.
	ClassUnspecified Class = iota
	// Denied: the owner of the key withdrew it. Access revoked, key disabled,
	// pending deletion, destroyed. The only class that purges keys.
	Denied
	// Unavailable: no answer, or an answer that says nothing about the key.
	// Network, time-out, 5xx, sealed, device removed.
	Unavailable
	// Throttled: the keystore asks for fewer calls.
	Throttled
	// Misconfigured: nobody withdrew anything, but it cannot work like this. No
	// such key ever, bad credentials, wrong algorithm, request out of limits.
	Misconfigured
	// Corrupt: the keystore is well and the blob does not open: changed bytes,
	// other AAD, other key.
	Corrupt
)

// String returns the class as logs, metrics and documents write it.
func (c Class) String() string {
	switch c {
	case Denied:
		return "denied"
	case Unavailable:
		return "unavailable"
	case Throttled:
		return "throttled"
	case Misconfigured:
		return "misconfigured"
	case Corrupt:
		return "corrupt"
	case ClassUnspecified:
	}
	return "unspecified"
}

// Op is an operation of a [Provider], for errors, logs and metrics. The zero
// value is invalid.
type Op int

// The operations.
const (
	OpUnspecified Op = iota
	OpOpen           // construction from configuration
	OpWrap
	OpUnwrap
	OpDescribe
	OpHealth
	OpManage // a change of the keystore itself, where Krypton owns it (the local keystore)
	OpImportParameters
	OpImportMaterial
	OpProve // what key and identity of a tenant are
)

// String returns the operation as logs, metrics and documents write it.
func (o Op) String() string {
	switch o {
	case OpOpen:
		return "open"
	case OpWrap:
		return "wrap"
	case OpUnwrap:
		return "unwrap"
	case OpDescribe:
		return "describe"
	case OpHealth:
		return "health"
	case OpManage:
		return "manage"
	case OpImportParameters:
		return "import-parameters"
	case OpImportMaterial:
		return "import-material"
	case OpProve:
		return "prove"
	case OpUnspecified:
	}
	return "unspecified"
}

// Error is every failure of a keystore. It holds names and ids, no secrets.
type Error struct {
	Class     Class
	Provider  string // configured name
	Key       KeyRef // empty where the failure is about no key
	Op        Op
	RequestID RequestID // under which the keystore's log has the call; empty if it did not answer

	cause error
}

// NewError returns e with cause. A class outside the closed set becomes
// [Unavailable], never [Denied] (I2). The text of cause must hold no secrets.
func NewError(e Error, cause error) *Error {
	if e.Class < Denied || e.Class > Corrupt {
		e.Class = Unavailable
	}
	if len(e.RequestID) > MaxRequestID {
		e.RequestID = e.RequestID[:MaxRequestID]
	}
	e.cause = cause
	return &e
}

// Error names the provider, the operation, the key, the class, the cause and the request id.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "keystore %s: %s", e.Provider, e.Op)
	if e.Key != "" {
		fmt.Fprintf(&b, " key %q", string(e.Key))
	}
	fmt.Fprintf(&b, ": %s", e.Class)
	if e.cause != nil {
		fmt.Fprintf(&b, ": %v", e.cause)
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request id %q)", string(e.RequestID))
	}
	return b.String()
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// ClassOf returns the class of the first [*Error] that err wraps,
// ClassUnspecified for nil, and [Unavailable] for any other error: it is
// retried within a budget and the grace period bounds what is served
// meanwhile, so an unclassified failure ends closed without a purge (I2).
func ClassOf(err error) Class {
	if err == nil {
		return ClassUnspecified
	}
	var e *Error
	if errors.As(err, &e) && e.Class >= Denied && e.Class <= Corrupt {
		return e.Class
	}
	return Unavailable
}

// IsDenied reports whether err triggers the kill switch (I4).
func IsDenied(err error) bool { return ClassOf(err) == Denied }

// IsTransient reports whether the call may be made again and, for the proof of
// an L1 key, whether the failure counts towards the grace period (I4).
func IsTransient(err error) bool {
	c := ClassOf(err)
	return c == Unavailable || c == Throttled
}

// Visible returns err as the error that a caller of Krypton may see. Provider,
// key reference and request id stay in the cause: they are for the audit
// trail and the log, and a workload need not learn its tenant's key names.
func Visible(err error) *errs.Error {
	if err == nil {
		return nil
	}
	switch ClassOf(err) {
	case Denied:
		return errs.New(errs.L1Denied, "the keystore refuses the use of the key",
			errs.Hint("ask the owner of the key whether it was disabled, scheduled for deletion or its access withdrawn"), errs.Cause(err))
	case Throttled:
		return errs.New(errs.Throttled, "the keystore asks for fewer calls",
			errs.Hint("retry later; raise the keystore's quota if this lasts"), errs.Cause(err))
	case Misconfigured:
		return errs.New(errs.KeystoreMisconfigured, "the keystore does not have this key, or is not configured for it",
			errs.Hint("compare the binding of the tenant with the keystore: its name in the nodes' configuration, the name of the key, files and permissions; the node's audit trail has the cause"), errs.Cause(err))
	case Corrupt:
		return errs.New(errs.StateCorrupt, "a wrapped key does not open in its keystore",
			errs.Hint("check that the key and its versions are those it was wrapped with; the audit record names them"), errs.Cause(err))
	case Unavailable, ClassUnspecified:
	}
	if errors.Is(err, context.Canceled) {
		return errs.New(errs.Canceled, "the call was cancelled while a keystore was asked", errs.Cause(err))
	}
	return errs.New(errs.L1Unavailable, "the keystore does not answer",
		errs.Hint("retry later; if it lasts, look at the keystore; the node's audit trail has the cause"), errs.Cause(err))
}
