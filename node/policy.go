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
// It decides before Next does, and can only refuse.
type TenantPolicy struct {
	Machine *fsm.Machine
	Next    gate.Policy
}

// Decide implements [gate.Policy]. The tenant of another uid is hidden like one
// that does not exist.
func (p TenantPolicy) Decide(q gate.Query) (gate.Verdict, error) {
	if q.Principal.Role == auth.RoleWorkload && q.Tenant != "" {
		t, ok := p.Machine.View().Tenant(string(q.Tenant))
		if ok && string(t.GetUid()) != string(q.Principal.TenantUID[:]) {
			return gate.Verdict{Decision: gate.Hide, Reason: "the certificate was issued for another tenant of this name"}, nil
		}
	}
	return p.Next.Decide(q)
}
