package node

import (
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
)

// TenantPolicy keeps workloads of a tenant that was destroyed away from the one
// that has its name now. A workload is of the tenant with the uid that its
// certificate was issued for; a name alone is not enough, because certificates
// live longer than a deletion takes.
//
// It decides before Next does, which has the table of roles, and can only refuse. What
// the roles allow, the tenant's own policies may still deny.
type TenantPolicy struct {
	Machine  *fsm.Machine
	Policies *Policies // the same as in [Config]; nil: what policies of a tenant would decide is denied
	Next     gate.Policy
}

// Decide implements [gate.Policy]. The tenant of another uid is hidden like one
// that does not exist.
//
// Of governors it asks the registry whether they may: those of the platform, or
// those that the tenant lists. Every replica asks the same again when it applies
// the command; this is so that whoever may not hears it without a change to the log.
//
// A tenant that is not there is no matter of power: those of the platform, who may
// see all, hear that it is not. All others hear what they hear of a tenant that they
// do not govern, and so not which names are taken.
func (p TenantPolicy) Decide(q gate.Query) (gate.Verdict, error) {
	if q.Principal.Role == auth.RoleGovernor {
		switch is, there := p.standing(q); {
		case q.Asked && q.Act.Duty() == gate.DutyOperate:
			if !is.Platform {
				return gate.Verdict{Decision: gate.Deny, Reason: "a governor of something else"}, nil
			}
		case q.Act.Power(q.Tenant != "").Valid():
			if !q.Act.Power(q.Tenant != "").Has(is) && (there || !is.Platform) {
				return gate.Verdict{Decision: gate.Deny, Reason: "a governor of something else"}, nil
			}
		case q.Act.Duty() == gate.DutyRead && !is.Platform && (q.Tenant != "" && !is.Tenant || q.Act == gate.ListTenants):
			return gate.Verdict{Decision: gate.Hide, Reason: "a governor of other tenants"}, nil
		}
	}
	if q.Principal.Role == auth.RoleWorkload && q.Tenant != "" {
		t, ok := p.Machine.View().Tenant(string(q.Tenant))
		if ok && string(t.GetUid()) != string(q.Principal.TenantUID[:]) {
			return gate.Verdict{Decision: gate.Hide, Reason: "the certificate was issued for another tenant of this name"}, nil
		}
	}
	verdict, err := p.Next.Decide(q)
	if err != nil || verdict.Decision != gate.Allow {
		return verdict, err
	}
	return p.ruled(q)
}

// standing is what the governor who asks is to the object, and whether what it
// belongs to, the cluster or a tenant, is there. In a cluster that is older than
// tenants' own governors it is everything.
func (p TenantPolicy) standing(q gate.Query) (is auth.Standing, there bool) {
	v := p.Machine.View()
	if v.Cluster().GetFormatVersion() < fsm.FormatAuthority {
		return auth.Standing{Platform: true, Tenant: true}, true
	}
	t, there := v.Tenant(string(q.Tenant))
	there = there || q.Tenant == ""
	b, ok := v.BindingOf(q.Principal.Issuer[:], auth.RoleGovernor, nil, q.Principal.Name)
	if !ok {
		return auth.Standing{}, there
	}
	return auth.Standing{Platform: b.GetPlatform(), Tenant: q.Tenant != "" && there && v.Governs(b, t)}, there
}
