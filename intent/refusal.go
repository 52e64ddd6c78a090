package intent

import "github.com/openkcm/krypton-cluster/internal/errs"

// Reason says why an intent was refused. The numbers are part of replicated
// results and must never change. Zero is invalid.
type Reason uint8

// The reasons, in the order in which Verify checks them.
const (
	ReasonUnspecified     Reason = 0
	ReasonMalformed       Reason = 1  // not a valid intent, or the verifier was asked wrongly
	ReasonUnsigned        Reason = 2  // no signature at all
	ReasonOtherKeyspace   Reason = 3  // signed for another keyspace
	ReasonOtherAct        Reason = 4  // signed for another act
	ReasonOtherRequest    Reason = 5  // signed for another request
	ReasonExpired         Reason = 6  // not-after has passed
	ReasonTooLong         Reason = 7  // not-after lies further ahead than MaxLifetimeMs
	ReasonReplayed        Reason = 8  // the nonce was used
	ReasonStale           Reason = 9  // a precondition does not hold any more
	ReasonUnknownKey      Reason = 10 // signed by a key that is not registered
	ReasonBadSignature    Reason = 11 // a signature does not verify
	ReasonDuplicatePerson Reason = 12 // one person signed twice
	ReasonRequesterSigned Reason = 13 // the requester signed where others must
	ReasonWrongRole       Reason = 14 // signed in a role that does not count for this act
	ReasonTooFew          Reason = 15 // fewer signatures than the rule needs
	reasonEnd             Reason = 16 // one past the last reason; not a reason
)

// Reasons returns every reason in order of its number.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonEnd-1)
	for r := ReasonUnspecified + 1; r < reasonEnd; r++ {
		all = append(all, r)
	}
	return all
}

// String returns what the reason says to a person.
func (r Reason) String() string {
	switch r {
	case ReasonMalformed:
		return "intent is malformed"
	case ReasonUnsigned:
		return "intent is not signed"
	case ReasonOtherKeyspace:
		return "intent is for another keyspace"
	case ReasonOtherAct:
		return "intent is for another act"
	case ReasonOtherRequest:
		return "intent is for another request"
	case ReasonExpired:
		return "intent has expired"
	case ReasonTooLong:
		return "intent is valid for too long"
	case ReasonReplayed:
		return "intent was used before"
	case ReasonStale:
		return "an object changed after the intent was signed"
	case ReasonUnknownKey:
		return "intent is signed by a key that is not registered"
	case ReasonBadSignature:
		return "a signature does not verify"
	case ReasonDuplicatePerson:
		return "one person signed twice"
	case ReasonRequesterSigned:
		return "the requester cannot be one of the signers"
	case ReasonWrongRole:
		return "a signer's role does not count for this act"
	case ReasonTooFew:
		return "intent has too few signatures"
	case ReasonUnspecified, reasonEnd:
	}
	return "unspecified"
}

// hint says what to do about it.
func (r Reason) hint() string {
	switch r {
	case ReasonExpired, ReasonTooLong, ReasonReplayed, ReasonStale:
		return "read the objects again and have a new intent signed"
	case ReasonUnsigned, ReasonTooFew:
		return "have the request approved, which keeps it until those have signed whom the rule names: krypton approval, or Approvals.CreateApproval"
	case ReasonDuplicatePerson, ReasonRequesterSigned, ReasonWrongRole:
		return "collect signatures of other persons with the role that the rule asks for"
	case ReasonUnknownKey:
		return "register the key first, or sign with a registered one"
	case ReasonOtherKeyspace, ReasonOtherAct, ReasonOtherRequest, ReasonBadSignature, ReasonMalformed:
		return "sign exactly the intent that the cluster printed for this request"
	case ReasonUnspecified, reasonEnd:
	}
	return ""
}

// RefusalError is the error of [Verify]. Its text is the same on every replica.
type RefusalError struct {
	Reason Reason
	detail error // which object or field; nil if the reason says it all
}

func refuse(r Reason, detail error) *RefusalError { return &RefusalError{Reason: r, detail: detail} }

// Error returns the reason and its detail.
func (r *RefusalError) Error() string {
	if r.detail == nil {
		return r.Reason.String()
	}
	return r.Reason.String() + ": " + r.detail.Error()
}

// Unwrap returns the refusal as the error that a caller may see.
func (r *RefusalError) Unwrap() error {
	return errs.New(errs.IntentRefused, r.Error(), errs.Hint("%s", r.Reason.hint()))
}
