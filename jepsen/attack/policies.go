//go:build unix

package main

import (
	"context"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// erroring permits the workload everything, and has a forbid that always fails to be
// evaluated. An engine of Cedar leaves a policy out that fails, forbids too.
const erroring = `permit (principal, action, resource);

forbid (principal, action == Krypton::Action::"crypto.decrypt", resource)
when { 9223372036854775807 + context.version > 0 };
`

// policyOf sets the policy of the tenant and returns what the workload gets.
func (t *theatre) policyOf(ctx context.Context, text string) error {
	err := t.as(ctx, auth.RoleGovernor, func(c *client.Client) error {
		_, err := c.Policies().PutPolicy(ctx, &kryptonv1.PutPolicyRequest{Name: tenant + "/policies/app", Text: text})
		return err
	})
	if err != nil {
		return notTried(err)
	}
	return t.as(ctx, auth.RoleWorkload, func(c *client.Client) error { return opens(ctx, c, t.ciphertext) })
}

// erringForbid has a forbid that cannot be evaluated.
func erringForbid(ctx context.Context, w *world) (f finding, err error) {
	t, err := w.cluster(ctx, "policies", 1, honest)
	if err != nil {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = judged(t.policyOf(ctx, erroring), errs.Denied)
	c, _, err := w.defenceless(ctx, mutation.SkipPolicyErrors)
	if err != nil {
		return f, err
	}
	if err = c.policyOf(ctx, erroring); err == nil {
		f.control = "decrypted"
	}
	return f, c.lie()
}

func policies() []attack {
	return []attack{
		{
			name: "make a forbid fail", who: "a workload that may not decrypt", tries: "decrypts where the forbid that is against it ends in an error", stops: "any error of an evaluation denies",
			without: "errors are left out, as engines of Cedar do", run: erringForbid,
		},
	}
}
