//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// ruledID is a tenant of the same node that has policies.
const ruledID = "ruled"

// Policies of that tenant: as many statements as a large tenant has, which read what
// policies can read, in as many texts.
const (
	ruledTexts      = 10
	ruledStatements = 5 // of each text
)

func policyPairs() []pair {
	const why = "a decision that was made before is found by what the policies read of the request: one lookup, no memory"
	return []pair{
		{
			name: "gate with policy: encrypt 256 B, 32 callers, 50 statements", baseline: "the same of a tenant without policies", goal: 0.95,
			slice: 100 * time.Millisecond, why: why, open: throughPolicies(many),
		},
		{
			name: "gate with policy: encrypt 256 B, 1 caller, 50 statements", baseline: "the same of a tenant without policies", goal: 0.95,
			slice: 100 * time.Millisecond, why: why, open: throughPolicies(1),
		},
	}
}

// encryptOf is [encrypt] under a service, with an encryption context that policies read.
func encryptOf(service string) operation {
	return operation{"encrypt", doorSize, func(context.Context, kryptonv1.CryptoClient) (caller, error) {
		plain := make([]byte, doorSize)
		return func(ctx context.Context, c kryptonv1.CryptoClient) error {
			out, err := c.Encrypt(ctx, &kryptonv1.EncryptRequest{
				Service: service, Plaintext: plain, EncryptionContext: []*kryptonv1.ContextPair{{Key: "purpose", Value: "billing"}, {Key: "row", Value: "4711"}},
			})
			return answered(err, len(out.GetCiphertext()) > doorSize)
		}, nil
	}}
}

func throughPolicies(callers int) func(context.Context, *env) (match, error) {
	return func(ctx context.Context, e *env) (match, error) {
		nd, err := e.node(ctx)
		if err != nil {
			return match{}, err
		}
		if err := e.ruled(ctx); err != nil {
			return match{}, err
		}
		var conns pool
		var subject func(context.Context, int) error
		if err := e.asRuled(func() (err error) {
			subject, _, err = conns.to(ctx, e, nd.Addresses().GRPC, encryptOf("tenants/"+ruledID+"/services/"+serviceID), nil)
			return err
		}); err != nil {
			return match{}, errors.Join(err, conns.close())
		}
		base, _, err := conns.to(ctx, e, nd.Addresses().GRPC, encryptOf(service), nil)
		if err != nil {
			return match{}, errors.Join(err, conns.close())
		}
		return match{
			subject:  side{crowd(callers, subject), scrape(nd.Addresses().Ops)},
			baseline: side{crowd(callers, base), scrape(nd.Addresses().Ops)},
			close:    conns.close,
		}, nil
	}
}

// ruled makes the tenant with policies, once. The last statement permits what the
// workload does.
func (e *env) ruled(ctx context.Context) error {
	if e.ruledPair != nil {
		return nil
	}
	if err := errors.Join(e.cluster.CreateTenant(ctx, ruledID), e.cluster.CreateService(ctx, ruledID, serviceID)); err != nil {
		return err
	}
	was, ok := e.cluster.Person(auth.RoleWorkload)
	if !ok {
		return errors.New("there is no workload")
	}
	own, err := readPair(was)
	if err != nil {
		return err
	}
	who, err := e.cluster.Issue(ctx, auth.RoleWorkload, ruledID)
	if err != nil {
		return err
	}
	pair, err := readPair(who)
	if err != nil {
		return err
	}
	if err := own.write(was); err != nil {
		return err
	}
	c, err := e.cluster.Client(ctx, auth.RoleGovernor)
	if err != nil {
		return err
	}
	if err := errors.Join(putPolicies(ctx, c, who.Name), c.Close()); err != nil {
		return err
	}
	e.ruledPair = pair
	return nil
}

// asRuled runs dial while the files of the throw-away workload, which is of one
// tenant at a time, are those of the tenant with policies. Connections keep what they
// were made with.
func (e *env) asRuled(dial func() error) error {
	who, _ := e.cluster.Person(auth.RoleWorkload)
	own, err := readPair(who)
	if err != nil {
		return err
	}
	if err := e.ruledPair.write(who); err != nil {
		return err
	}
	return errors.Join(dial(), own.write(who))
}

// pairFiles are the two files by which somebody calls, of a throw-away cluster.
type pairFiles struct{ cert, other []byte }

func readPair(p devcluster.Person) (*pairFiles, error) {
	cert, err := os.ReadFile(p.CertFile)
	if err != nil {
		return nil, err
	}
	other, err := os.ReadFile(p.KeyFile)
	return &pairFiles{cert, other}, err
}

func (f *pairFiles) write(p devcluster.Person) error {
	return errors.Join(os.WriteFile(p.CertFile, f.cert, 0o600), os.WriteFile(p.KeyFile, f.other, 0o600))
}

func putPolicies(ctx context.Context, c *client.Client, workload string) error {
	for i := range ruledTexts {
		var text strings.Builder
		for j := range ruledStatements {
			name := fmt.Sprintf("other-%d-%d", i, j)
			if i == ruledTexts-1 && j == ruledStatements-1 {
				name = workload
			}
			fmt.Fprintf(&text, "permit (principal == Krypton::Workload::%q, action in Krypton::Action::\"use\", resource in Krypton::Service::%q)\n"+
				"when { context.encryption_context has \"purpose\" && context.encryption_context[\"purpose\"] == \"billing\" && context.version < 100 };\n", name, serviceID)
		}
		if _, err := c.Policies().PutPolicy(ctx, &kryptonv1.PutPolicyRequest{Name: fmt.Sprintf("tenants/%s/policies/p%d", ruledID, i), Text: text.String()}); err != nil {
			return err
		}
	}
	return nil
}
