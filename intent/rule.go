package intent

import "fmt"

// RequesterVote says whether the person who asks for an act may be one of its
// signers. The zero value is the safe one.
type RequesterVote uint8

// The values, stored and never changed.
const (
	RequesterExcluded RequesterVote = 0 // four eyes: the signatures must be by others
	RequesterCounts   RequesterVote = 1 // the requester's signature counts like any other
)

// Rule says which signatures an act needs, all by distinct persons. Each person
// counts for one role only, even with keys in both.
type Rule struct {
	Governors  int
	Custodians int
	Requester  RequesterVote
}

// MaxRule is the greatest number of signatures per role that a rule may need.
const MaxRule = MaxSignatures / 2

// Validate reports whether r can be fulfilled at all and asks for something.
func (r Rule) Validate() error {
	switch {
	case r.Governors < 0 || r.Custodians < 0 || r.Governors > MaxRule || r.Custodians > MaxRule:
		return fmt.Errorf("a rule needs 0 to %d signatures per role", MaxRule)
	case r.Governors+r.Custodians == 0:
		return fmt.Errorf("a rule without signatures would let a node act alone")
	case r.Requester != RequesterExcluded && r.Requester != RequesterCounts:
		return fmt.Errorf("a rule must say whether the requester counts")
	}
	return nil
}

// String says what r asks for, to a person.
func (r Rule) String() string {
	part := func(n int, role string) string {
		if n == 1 {
			return "1 " + role
		}
		return fmt.Sprintf("%d %ss", n, role)
	}
	var who string
	switch {
	case r.Governors > 0 && r.Custodians > 0:
		who = part(r.Governors, "governor") + " and " + part(r.Custodians, "custodian")
	case r.Custodians > 0:
		who = part(r.Custodians, "custodian")
	default:
		who = part(r.Governors, "governor")
	}
	if r.Requester == RequesterCounts {
		return "the signature of " + who
	}
	return "the signature of " + who + " other than who asks"
}

// Larger returns the rule that is at least as strict as both. A change of the
// rules must satisfy Larger(old, new), else M people could lower M first and
// act alone afterwards, or one person could raise it and lock everybody out.
func Larger(a, b Rule) Rule {
	r := Rule{Governors: max(a.Governors, b.Governors), Custodians: max(a.Custodians, b.Custodians)}
	if a.Requester == RequesterCounts && b.Requester == RequesterCounts {
		r.Requester = RequesterCounts
	}
	return r
}

// Quorum is how many persons of each role the cluster's profile asks for.
type Quorum struct {
	Governors  int // for acts of governance; 1 to MaxRule
	Custodians int // for acts on the MasterKey; 1 to MaxRule
	Requester  RequesterVote
}

// RuleOf returns the rule for act under q, and false for an unknown act.
//
// Acts that make a new wrapping of the MasterKey need custodians and no number
// of governors suffices: else governors could reshare to their own keys and
// hold the MasterKey off-line. Acts that could change who decides about both
// need both.
func RuleOf(act Act, q Quorum) (Rule, bool) {
	switch act {
	case ActSetPolicy, ActBindRole, ActBindL1, ActRebindL1, ActResumeAfterUnlink, ActDestroy,
		ActRecoveryGrant, ActAddMember, ActSetAudit, ActSetIssuer:
		return Rule{Governors: q.Governors, Requester: q.Requester}, true
	case ActReshare, ActRekey, ActMigrate:
		return Rule{Custodians: q.Custodians, Requester: q.Requester}, true
	case ActGenesis, ActSetAuthorityKeys, ActRestore, ActSetQuorum:
		return Rule(q), true
	case ActUnspecified, actEnd:
	}
	return Rule{}, false
}
