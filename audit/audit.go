// Package audit keeps the record of what a node did for whom.
//
// A node has one [Log]: JSON lines in segment files, each line carrying the hash
// of the line before it. [Log.Append] returns only when the record is safe: a
// record of a data operation is with the operating system, so that it survives a
// crash of the process; a record of a control operation is on disk. [Verify]
// checks the whole chain. Nothing secret is ever in a record: names, ids, sizes
// and outcomes are all there is.
//
// # Invariants
//
//   - I1: a record whose Append returned nil survives the crash of the process, and of the machine too if its class is Control.
//   - I2: line n+1 carries SHA-256 of line n, over segments and restarts; seq counts without gaps.
//   - I3: a record has exactly one line; decode accepts a line only if encoding the record gives it back.
//   - I4: after the first failed write nothing is accepted until the log is opened again.
//   - I5: opening keeps every whole record, and says in a record of its own what it cut off.
//   - I6: a line is printable ASCII, at most MaxLine bytes, whatever a caller sent.
//   - I7: a call into the file system that does not return within [Config.Deadline] fails the log; whatever it does later changes nothing.
//   - I8: once [Config.MaxWaiting] callers wait, Err refuses new operations until fewer do.
//
// # Concurrency
//
// [Log] is safe for concurrent use. Records that arrive together are written
// with one write and made durable with one fsync. Three goroutines, from Open to
// Close: the writer and the syncer make all calls into the file system, the
// watcher sees whether they return. The file belongs to the writer, and the
// syncer may sync it unless the writer wants it alone; mu guards everything else
// and is never held over I/O. Data records never wait for an fsync except while
// a segment is closed.
//
// # Failure
//
// Any failed write or fsync makes the log failed (I4); the operation that waited
// for it, and all later ones, get errs.AuditUnavailable, and the node serves
// nothing. A failed fsync is never tried again, because the kernel may have
// dropped the pages. A full disk frees the reserve file, so that the log can
// still record why it stopped. Damage other than a torn last line is refused at
// Open and named: a log that mends itself hides what was done to it.
//
// A disk that hangs gives no error at all, so every call has a deadline (I7). The
// goroutine that is stuck is left behind, since nothing can take it out of its
// call, and holds the file until the disk answers or the process ends. A caller
// waits for the call that runs, for its own write and fsync, and now and then for
// a change of segments; each of those calls has its own deadline.
//
// # Source
//
// ACD-302, Compliance & Audit; docs/formats.md (audit log).
package audit

import (
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits. Text over its limit is cut, never refused: a record that cannot be
// written because a stranger sent a long name would stop the node.
const (
	MaxNode            = 63
	MaxAct             = 64
	MaxObject          = 640
	MaxPrincipal       = 224
	MaxRole            = 16
	MaxApproval        = 64
	MaxApprovedBy      = 512
	MaxKeyVersion      = 64
	MaxKeystoreRequest = 256
	MaxCause           = 512

	// MaxLine bounds one line without its newline: every byte of every text
	// field escaped as six, and room for names and numbers.
	MaxLine = 6*(2*MaxNode+MaxAct+maxCorrelation+MaxObject+MaxPrincipal+MaxRole+MaxApproval+MaxApprovedBy+MaxKeyVersion+MaxKeystoreRequest+MaxCause) + 1024

	maxCorrelation = 36 // the length of a UUID
)

// Acts of records that the log writes about itself.
const (
	ActOpened    = "audit.opened"    // the log was opened; what follows is a new run of the process
	ActRecovered = "audit.recovered" // a torn last line was cut off; BytesIn says how long it was
	ActFailed    = "audit.failed"    // the log stopped; Cause says why
)

// Class says how safe a record must be before Append returns. Zero is invalid.
type Class uint8

// The classes.
const (
	ClassUnspecified Class = 0
	Data             Class = 1 // with the operating system: survives the process
	Control          Class = 2 // on disk: survives the machine
)

// String returns the class as records write it.
func (c Class) String() string {
	switch c {
	case Data:
		return "data"
	case Control:
		return "control"
	case ClassUnspecified:
	}
	return "unspecified"
}

// Phase says which part of an operation a record is. Zero is invalid.
type Phase uint8

// The phases.
const (
	PhaseUnspecified Phase = 0
	Whole            Phase = 1 // the operation in one record, written before its reply
	Intent           Phase = 2 // written before a change is tried; has no outcome
	Outcome          Phase = 3 // written after the change and before its reply
	// Correction comes after a record that said more than came true: the answer it
	// speaks of did not leave. It has the correlation id and the attempt of that one.
	Correction Phase = 4
)

// String returns the phase as records write it.
func (p Phase) String() string {
	switch p {
	case Whole:
		return "whole"
	case Intent:
		return "intent"
	case Outcome:
		return "outcome"
	case Correction:
		return "correction"
	case PhaseUnspecified:
	}
	return "unspecified"
}

// Record is one line of the log. It holds no secret, no plaintext and no
// ciphertext.
type Record struct {
	// Set by the log; what a caller puts here is ignored.

	Seq    uint64   // counts from 1 without gaps, over segments and restarts
	Prev   [32]byte // SHA-256 of the previous line without its newline; zero in the first
	TimeMs int64    // unix milliseconds, by the node's own clock
	Node   string   // who wrote the log

	// In every record.

	Class   Class
	Phase   Phase
	Act     string       // what was asked for, a name from a closed set
	Outcome errs.Outcome // how it ended; unspecified only for Intent

	// Where it applies.

	Correlation     corr.ID   // of the call, the same on every node
	Attempt         uint32    // of a forwarded or retried call, from 1
	Object          string    // name of what was acted on
	Principal       string    // who asked, as auth.Principal writes it
	Role            string    // the role in which they asked
	Via             string    // node that forwarded the call and vouches for the principal
	Approval        string    // approvals/{a} by which it is done; Principal is then who requested it
	ApprovedBy      string    // who signed for that, governor/{name} and custodian/{name}, in the order of time
	Code            errs.Code // of the error that the caller got
	LatencyUs       uint64    // from entering the gate to this record, microseconds
	BytesIn         uint64    // size of what the caller sent; of the torn line in ActRecovered
	BytesOut        uint64    // size of what the caller got
	KeyVersion      string    // uid of the key version that was used
	KeystoreRequest string    // id of the keystore's own record of our request, for L1 calls
	Count           uint64    // how many alike events this record stands for; 0 = one
	Cause           string    // internal reason of a refusal, or the policies that allowed it; never shown to the caller
}

// Sink takes records. [Log] is the one of a node; audittest has one in memory.
// Every implementation must pass audittest.TestSink.
type Sink interface {
	// Append stores r as safely as its class asks and returns nil, or returns an
	// error with code errs.AuditUnavailable; then the operation must not happen,
	// or must not be answered with success. After one error all later calls fail.
	// It does not wait for ever: a disk that does not answer is an error.
	//
	// There is no context: a caller that gave up must still be recorded.
	Append(r Record) error
	// Err returns why no new operation may begin, or nil: the error that Append
	// returns since an earlier failure, or, for as long as it lasts, that too many
	// callers wait in Append. It is cheap enough to ask before every operation.
	Err() error
}
