package gate

import (
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Query is what a policy decides about.
type Query struct {
	Principal auth.Principal
	Act       Act
	Object    string
	Tenant    hierarchy.Name // that Object belongs to; empty for objects of the cluster
	Asked     bool           // it is only checked, so that others can be asked to sign for it; see [Asked]
}

// Decision is a policy's answer. The zero value denies.
type Decision int

// The decisions.
const (
	Deny  Decision = iota // the caller learns that it may not
	Allow                 // the act goes on
	Hide                  // the caller is told what it would be told if the object did not exist
)

// Verdict is a decision and the reason for the record, also of what is allowed if
// there is one. The caller never sees the reason.
type Verdict struct {
	Decision Decision
	Reason   string
}

// Policy decides what the fixed rules of the gate leave open: it can refuse what
// they allow and not the reverse (I4, I5). An error denies (I7). Decide must be
// fast, must not block, and is called concurrently.
type Policy interface {
	Decide(q Query) (Verdict, error)
}

// RolePolicy is the built-in policy: one table, role by act. The zero value is
// ready to use.
type RolePolicy struct{}

// Decide implements [Policy].
func (RolePolicy) Decide(q Query) (Verdict, error) {
	if q.Asked && q.Act.Duty() == DutyOperate && q.Principal.Role == auth.RoleGovernor {
		return Verdict{Decision: Allow}, nil
	}
	if !q.Act.Valid() || !acts[q.Act].may.has(q.Principal.Role) {
		return Verdict{Decision: Deny, Reason: "role is not in the table for this act"}, nil
	}
	return Verdict{Decision: Allow}, nil
}
