package errs

import "google.golang.org/genproto/googleapis/rpc/code"

// Retry says whether and where a caller may try a failed call again.
type Retry int

// The retry classes.
const (
	RetryUnspecified Retry = iota
	RetryNever             // the same call fails again
	RetrySameNode          // at once, on the same node, after reading again what it was based on
	RetryOtherNode         // at once, on another node
	RetryAfterDelay        // later, on any node, with backoff
)

// String returns the class as docs and JSON write it.
func (r Retry) String() string {
	switch r {
	case RetryNever:
		return "never"
	case RetrySameNode:
		return "same-node"
	case RetryOtherNode:
		return "other-node"
	case RetryAfterDelay:
		return "after-delay"
	case RetryUnspecified:
	}
	return "unspecified"
}

// Outcome is how the audit trail records a call that ended so.
type Outcome int

// The outcomes.
const (
	OutcomeUnspecified Outcome = iota
	OutcomeOK                  // the call did what it was asked
	OutcomeDenied              // the caller may not do this
	OutcomeRefused             // the call was understood and refused; nothing changed
	OutcomeFailed              // the service could not do it; nothing changed
	OutcomeUnknown             // it is not known whether something changed
	OutcomePending             // the call waits: for people, or for nodes that do not follow a change yet
)

// String returns the outcome as audit records write it.
func (o Outcome) String() string {
	switch o {
	case OutcomeOK:
		return "ok"
	case OutcomeDenied:
		return "denied"
	case OutcomeRefused:
		return "refused"
	case OutcomeFailed:
		return "failed"
	case OutcomeUnknown:
		return "unknown"
	case OutcomePending:
		return "pending"
	case OutcomeUnspecified:
	}
	return "unspecified"
}

// Exit statuses of the command line. Scripts rely on them.
const (
	ExitOK          = 0
	ExitInternal    = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitDenied      = 4
	ExitState       = 5
	ExitUnavailable = 6
	ExitSealed      = 7
	ExitIntegrity   = 8
	ExitPending     = 9
	ExitInterrupted = 130
)

// Row is what one code becomes outside this package.
type Row struct {
	Name    string    // on the wire (google.rpc.ErrorInfo.reason) and in docs
	GRPC    code.Code // status of the gRPC call
	HTTP    int       // status of the HTTP response
	Exit    int       // exit status of the command line
	Retry   Retry     // whether and where to try again
	Outcome Outcome   // in the audit trail
	Meaning string    // one sentence for docs/errors.md
}

// table is indexed by Code. It is an array, so a code without a row is an
// empty row and fails TestI1_EveryCodeHasOneRow.
var table = [codeEnd]Row{
	Internal:              {"INTERNAL", code.Code_INTERNAL, 500, ExitInternal, RetryNever, OutcomeFailed, "A defect or an unexpected failure of the node; the log has the cause under the correlation id."},
	InvalidArgument:       {"INVALID_ARGUMENT", code.Code_INVALID_ARGUMENT, 400, ExitUsage, RetryNever, OutcomeRefused, "A field of the request is missing, malformed or contradicts another."},
	InvalidConfig:         {"INVALID_CONFIG", code.Code_INVALID_ARGUMENT, 400, ExitUsage, RetryNever, OutcomeRefused, "A configuration file, flag, environment variable or context cannot be used."},
	TooLarge:              {"TOO_LARGE", code.Code_INVALID_ARGUMENT, 413, ExitUsage, RetryNever, OutcomeRefused, "The request exceeds a stated size limit."},
	Unauthenticated:       {"UNAUTHENTICATED", code.Code_UNAUTHENTICATED, 401, ExitDenied, RetryNever, OutcomeDenied, "The caller presented no identity that this cluster accepts."},
	Denied:                {"DENIED", code.Code_PERMISSION_DENIED, 403, ExitDenied, RetryNever, OutcomeDenied, "The caller's role does not allow this act on this object."},
	NotFound:              {"NOT_FOUND", code.Code_NOT_FOUND, 404, ExitNotFound, RetryNever, OutcomeRefused, "No such object, or the caller may not know of it."},
	AlreadyExists:         {"ALREADY_EXISTS", code.Code_ALREADY_EXISTS, 409, ExitState, RetryNever, OutcomeRefused, "An object of this name exists already."},
	StaleEtag:             {"STALE_ETAG", code.Code_ABORTED, 412, ExitState, RetryNever, OutcomeRefused, "The object changed since the caller read it."},
	RequestReplayed:       {"REQUEST_REPLAYED", code.Code_ALREADY_EXISTS, 409, ExitState, RetryNever, OutcomeRefused, "The request id was used before for a different request."},
	FailedState:           {"FAILED_STATE", code.Code_FAILED_PRECONDITION, 409, ExitState, RetryNever, OutcomeRefused, "The object is in a state that does not allow this."},
	Aborted:               {"ABORTED", code.Code_ABORTED, 409, ExitState, RetrySameNode, OutcomeRefused, "A parent key moved while the change was being prepared."},
	LimitReached:          {"LIMIT_REACHED", code.Code_RESOURCE_EXHAUSTED, 429, ExitState, RetryNever, OutcomeRefused, "A stated limit on the number of objects is reached."},
	Throttled:             {"THROTTLED", code.Code_RESOURCE_EXHAUSTED, 429, ExitUnavailable, RetryAfterDelay, OutcomeFailed, "The node or a keystore behind it asks for fewer calls."},
	Sealed:                {"SEALED", code.Code_FAILED_PRECONDITION, 503, ExitSealed, RetryOtherNode, OutcomeFailed, "The node has no MasterKey in memory."},
	Held:                  {"HELD", code.Code_FAILED_PRECONDITION, 503, ExitSealed, RetryNever, OutcomeFailed, "The cluster was sealed by a person and stays so until the hold is released."},
	NotSealed:             {"NOT_SEALED", code.Code_FAILED_PRECONDITION, 409, ExitState, RetryNever, OutcomeRefused, "The node is unsealed already, or not initialised."},
	ShareRefused:          {"SHARE_REFUSED", code.Code_INVALID_ARGUMENT, 400, ExitUsage, RetryNever, OutcomeRefused, "An unseal share is wrong, a duplicate, or of another cluster or ceremony."},
	NotServing:            {"NOT_SERVING", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryOtherNode, OutcomeFailed, "The node cannot prove that its view of the keys is current."},
	NoLeader:              {"NO_LEADER", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryAfterDelay, OutcomeFailed, "No leader is known, so no change can be committed."},
	Indeterminate:         {"INDETERMINATE", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryAfterDelay, OutcomeUnknown, "The change may or may not have been committed; the same request id finds out."},
	Unavailable:           {"UNAVAILABLE", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryOtherNode, OutcomeFailed, "The node cannot be reached or is shutting down."},
	ChangeInProgress:      {"CHANGE_IN_PROGRESS", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryAfterDelay, OutcomeFailed, "A key state change is taking effect right now."},
	L1Denied:              {"L1_DENIED", code.Code_FAILED_PRECONDITION, 403, ExitDenied, RetryNever, OutcomeDenied, "The customer's keystore refuses the use of the customer key."},
	L1Unavailable:         {"L1_UNAVAILABLE", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryAfterDelay, OutcomeFailed, "The customer's keystore does not answer."},
	KeystoreMisconfigured: {"KEYSTORE_MISCONFIGURED", code.Code_FAILED_PRECONDITION, 409, ExitState, RetryNever, OutcomeFailed, "A keystore is configured wrongly: no such key, bad credentials, wrong algorithm."},
	AuditUnavailable:      {"AUDIT_UNAVAILABLE", code.Code_UNAVAILABLE, 503, ExitUnavailable, RetryOtherNode, OutcomeFailed, "The node cannot write its audit trail, so it does nothing."},
	Integrity:             {"INTEGRITY", code.Code_INVALID_ARGUMENT, 400, ExitIntegrity, RetryNever, OutcomeRefused, "The ciphertext does not open. There is one answer for every cause."},
	StateCorrupt:          {"STATE_CORRUPT", code.Code_DATA_LOSS, 500, ExitIntegrity, RetryOtherNode, OutcomeFailed, "Stored state failed its integrity check; the node does not use it."},
	IntentRefused:         {"INTENT_REFUSED", code.Code_PERMISSION_DENIED, 403, ExitDenied, RetryNever, OutcomeDenied, "A signed intent is missing, expired, replayed, for another act, or by the wrong person."},
	ApprovalPending:       {"APPROVAL_PENDING", code.Code_FAILED_PRECONDITION, 409, ExitPending, RetryNever, OutcomePending, "The act waits for the approval of other people."},
	DeadlineExceeded:      {"DEADLINE_EXCEEDED", code.Code_DEADLINE_EXCEEDED, 504, ExitUnavailable, RetryAfterDelay, OutcomeUnknown, "The call's deadline passed; a change may or may not have been committed."},
	Canceled:              {"CANCELED", code.Code_CANCELLED, 499, ExitInterrupted, RetryNever, OutcomeUnknown, "The caller gave up; a change may or may not have been committed."},
	Unimplemented:         {"UNIMPLEMENTED", code.Code_UNIMPLEMENTED, 501, ExitUsage, RetryNever, OutcomeRefused, "This node does not know the method; it may be older than the client."},
	NotComplete:           {"NOT_COMPLETE", code.Code_DEADLINE_EXCEEDED, 504, ExitPending, RetryAfterDelay, OutcomePending, "The change is committed and stays; not every node follows it yet."},
}

// Valid reports whether c is one of the codes.
func (c Code) Valid() bool { return c > Unspecified && c < codeEnd }

// Row returns what c becomes outside. An invalid code has the row of [Internal].
func (c Code) Row() Row {
	if !c.Valid() {
		return table[Internal]
	}
	return table[c]
}

// String returns the code's name as it stands on the wire.
func (c Code) String() string {
	if c == Unspecified {
		return "OK"
	}
	return c.Row().Name
}

// All returns every code in the order of the table.
func All() []Code {
	all := make([]Code, 0, codeEnd-1)
	for c := Unspecified + 1; c < codeEnd; c++ {
		all = append(all, c)
	}
	return all
}

// ByName returns the code of that name, or [Internal] and false.
func ByName(name string) (Code, bool) {
	for _, c := range All() {
		if table[c].Name == name {
			return c, true
		}
	}
	return Internal, false
}

// OutcomeOf returns the audit outcome of a call that ended with err.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeOK
	}
	return Of(err).Row().Outcome
}
