package server_test

import (
	"fmt"
	"strings"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/policy"
)

// TestWrongPolicies goes through what can be wrong with policies.
func TestWrongPolicies(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for i := range policy.MaxPolicies {
		g.must("governor", "Policies.PutPolicy", put(fmt.Sprintf("p%d", i), permitAll))
	}
	exists := put("p1", permitRead)
	exists.Create = true
	for _, c := range []wrong{
		{id: "policy/not-right", method: "Policies.PutPolicy", req: put("p1", "permit (principal, action, resource) when { 1 };")},
		{id: "policy/not-right-together", method: "Policies.PutPolicy", req: put("p1", strings.Repeat(permitAll, policy.MaxStatements))},
		{id: "policy/exists", method: "Policies.PutPolicy", req: exists},
		{id: "policy/too-long", method: "Policies.PutPolicy", req: put("p1", permitAll+strings.Repeat(" ", policy.MaxTextBytes))},
		{id: "policy/too-many", method: "Policies.PutPolicy", req: put("one-more", permitAll)},
		{id: "policy/unknown-action", method: "Policies.TestPolicy", req: &kryptonv1.TestPolicyRequest{Parent: "tenants/acme", Action: "crypto.none"}},
		{id: "policy/unknown-issuer", method: "Policies.TestPolicy", req: &kryptonv1.TestPolicyRequest{Parent: "tenants/acme", Subject: &kryptonv1.PolicySubject{Member: "x", Issuer: "issuers/none"}}},
	} {
		c.who = "governor"
		g.refuse(t, c)
	}
	g.noTrace(t)
}
