package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/policy"
)

// Policies of a tenant: what its workloads may do.

const policiesPart = "policies/"

// policyNameOf returns the name of a policy that a person gave: TENANT/ID, or the
// whole name.
func policyNameOf(arg string) (hierarchy.Path, error) {
	name := arg
	if tenant, id, ok := strings.Cut(arg, "/"); ok && tenant != "tenants" {
		name = tenantsPrefix + tenant + "/" + policiesPart + id
	}
	p, err := hierarchy.ParsePath(name)
	if err != nil || p.Kind != hierarchy.KindPolicy {
		return p, usagef("give TENANT/ID or tenants/TENANT/policies/ID; krypton policy list TENANT shows them", "%q names no policy", arg)
	}
	return p, nil
}

func policyCommands() *Command {
	return group("policy", "what workloads of a tenant may do: policies in Cedar",
		&Command{
			Name: "set", Args: "POLICY FILE", Usage: "make a policy, or replace its text", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{2, 2}, Flags: []cli.Flag{etagFlag()},
			About: "POLICY is TENANT/ID, FILE has the text, - is stdin. Only governors of the tenant can. What changes is shown on stderr before\n" +
				"anybody signs it; with --dry-run the node checks the text and nothing changes. When the command ends, no node decides by the\n" +
				"policies before. With its first policy a tenant denies its workloads everything that no policy permits: try it with\n" +
				"krypton policy test first. The language: docs/policy.md.",
			Examples: []string{"krypton policy set demo/payments payments.cedar --dry-run", "krypton policy set demo/payments payments.cedar"},
			Run:      setPolicy,
		},
		&Command{
			Name: "get", Args: "POLICY", Usage: "print the text of a policy", Reach: Reads, NArgs: [2]int{1, 1},
			Examples: []string{"krypton policy get demo/payments", "krypton policy get demo/payments --output json"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := policyNameOf(in.args[0])
				if err != nil {
					return err
				}
				p, err := in.storedPolicy(ctx, name)
				if err != nil {
					return err
				}
				return in.show(p, func() string { return endLine(p.GetText()) })
			},
		},
		&Command{
			Name: "list", Args: "TENANT", Usage: "list the policies of a tenant", Reach: Reads, NArgs: [2]int{1, 1},
			Examples: []string{"krypton policy list demo"},
			Run: func(ctx context.Context, in *Invocation) error {
				parent, err := in.tenantName(in.args[0])
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				all := &kryptonv1.ListPoliciesResponse{}
				for token := ""; ; {
					page, err := call(ctx, in, c.Policies().ListPolicies, &kryptonv1.ListPoliciesRequest{Parent: parent, PageSize: pageSize, PageToken: token})
					if err != nil {
						return err
					}
					all.Policies = append(all.Policies, page.GetPolicies()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return in.show(all, func() string {
					g := grid{head: []string{"POLICY", "BYTES", "SIGNED BY", "ETAG"}}
					for _, p := range all.GetPolicies() {
						g.add(p.GetName(), strconv.Itoa(len(p.GetText())), strings.Join(p.GetAuthorizedBy(), ", "), p.GetEtag())
					}
					return g.text()
				})
			},
		},
		&Command{
			Name: "delete", Args: "POLICY", Usage: "remove a policy", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1}, Flags: []cli.Flag{etagFlag()},
			About:    "Without its last policy a tenant lets its workloads use every key of it again.",
			Examples: []string{"krypton policy delete demo/payments --yes"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := policyNameOf(in.args[0])
				if err != nil {
					return err
				}
				if err := in.confirm("what %s permits or forbids counts no more; without any policy workloads of the tenant may use every key", name); err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				p, err := call(ctx, in, c.Policies().DeletePolicy, &kryptonv1.DeletePolicyRequest{Name: name.String()})
				if err != nil {
					return err
				}
				return in.show(p, func() string { return policySheet(p) })
			},
		},
		&Command{
			Name: "test", Args: "TENANT", Usage: "what somebody may do, who may do something, and why", Reach: Reads, NArgs: [2]int{1, 1},
			About: "With --as: what that workload may do. With --action: who of the bound workloads may do that. With both: whether and why.\n" +
				"With --change it says what would be if the policy of that id had the text of the file; - as the file: if it were deleted.\n" +
				"It changes nothing. The answer is for exactly the request that the flags describe: DEPENDS ON says what else it looks at.",
			Examples: []string{
				"krypton policy test demo --as payments-app",
				"krypton policy test demo --action crypto.decrypt --service payments",
				"krypton policy test demo --as payments-app --action crypto.encrypt --service payments --change payments=payments.cedar",
			},
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "as", Usage: "`NAME` of the workload, or of the person if --role is given"},
				&cli.StringFlag{Name: "role", Usage: "`ROLE` of --as: workload, governor or auditor; default: workload"},
				&cli.StringFlag{Name: "issuer", Usage: "`ISSUER` that vouches for --as; default: the cluster's own"},
				&cli.StringFlag{Name: "action", Usage: "`ACTION`, such as crypto.decrypt; krypton policy schema has them all"},
				&cli.StringFlag{Name: "service", Usage: "`SERVICE` of the tenant; default: each of the first 100"},
				&cli.StringFlag{Name: "resource", Usage: "resource `ID` that the caller gives"},
				&cli.UintFlag{Name: "key-version", Usage: "`NUMBER` of the key version that is used"},
				&cli.StringSliceFlag{Name: "encryption-context", Usage: "`KEY=VALUE` of the encryption context; can be given many times"},
				&cli.StringFlag{Name: "region", Usage: "`REGION` of the node that works"},
				&cli.StringSliceFlag{Name: "change", Usage: "`ID=FILE`: as if the policy had that text; can be given many times"},
			},
			Run: testPolicy,
		},
		&Command{
			Name: "schema", Usage: "print what policies can speak about, in Cedar's notation",
			Examples: []string{"krypton policy schema > krypton.cedarschema"},
			Run:      func(_ context.Context, in *Invocation) error { return in.write([]byte(policy.Schema)) },
		},
	)
}

// maxPolicyFile bounds a file with a policy, in bytes: one more than a policy has.
const maxPolicyFile = policy.MaxTextBytes

// policyFile reads the text of a policy: of a file, or of stdin for "-".
func (in *Invocation) policyFile(name string) (string, error) {
	f := in.env.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return "", cannotRead(name, err)
		}
		defer f.Close() //nolint:errcheck // Nothing was written.
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxPolicyFile+1))
	switch {
	case err != nil:
		return "", cannotRead(name, err)
	case len(raw) == 0 || len(raw) > maxPolicyFile:
		return "", usagef("write a permit or a forbid; split a long text into several policies", "%s is empty, or larger than %d bytes", name, maxPolicyFile)
	}
	return string(raw), nil
}

// storedPolicy reads a policy. What the flags say is for the change that follows, if
// one does, and not for this call.
func (in *Invocation) storedPolicy(ctx context.Context, name hierarchy.Path) (*kryptonv1.Policy, error) {
	c, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	in.meter.step("reading %s", name)
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	p, err := c.Policies().GetPolicy(ctx, &kryptonv1.GetPolicyRequest{Name: name.String()}, client.Capture(&in.info))
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	return p, nil
}

// setPolicy shows what changes, and changes just what it showed: the etag of the text
// that it compared with is that of the request, also if there was none.
func setPolicy(ctx context.Context, in *Invocation) error {
	name, err := policyNameOf(in.args[0])
	if err != nil {
		return err
	}
	text, err := in.policyFile(in.args[1])
	if err != nil {
		return err
	}
	was, err := in.storedPolicy(ctx, name)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return err
	}
	if !in.jsonOutput() {
		in.meter.clear()
		fmt.Fprint(in.env.Stderr, policyDiff(name.String(), was.GetText(), text))
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	p, err := call(ctx, in, c.Policies().PutPolicy, &kryptonv1.PutPolicyRequest{Name: name.String(), Text: text, Etag: was.GetEtag(), Create: was == nil})
	if err != nil {
		return err
	}
	return in.show(p, func() string { return policySheet(p) })
}

func policySheet(p *kryptonv1.Policy) string {
	var s sheet
	s.add("policy", p.GetName())
	s.add("bytes", strconv.Itoa(len(p.GetText())))
	s.add("signed by", strings.Join(p.GetAuthorizedBy(), ", "))
	s.add("etag", p.GetEtag())
	return s.text()
}

func testPolicy(ctx context.Context, in *Invocation) error {
	parent, err := in.tenantName(in.args[0])
	if err != nil {
		return err
	}
	req := &kryptonv1.TestPolicyRequest{
		Parent: parent, Action: in.c.String("action"), Service: in.c.String("service"), Resource: in.c.String("resource"),
		Version: uint32(min(in.c.Uint("key-version"), 1<<31)), Region: in.c.String("region"),
	}
	if req.Changes, err = in.policyChanges(); err != nil {
		return err
	}
	for _, p := range in.c.StringSlice("encryption-context") {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return usagef("give it as --encryption-context purpose=invoice", "encryption context %q is not KEY=VALUE", p)
		}
		req.EncryptionContext = append(req.EncryptionContext, &kryptonv1.ContextPair{Key: k, Value: v})
	}
	if as := in.c.String("as"); as != "" {
		req.Subject = &kryptonv1.PolicySubject{Member: as}
		if i := in.c.String("issuer"); i != "" {
			p, err := issuerNameOf(i)
			if err != nil {
				return err
			}
			req.Subject.Issuer = p.String()
		}
		if r := in.c.String("role"); r != "" {
			if req.Subject.Role, err = roleCalled(r); err != nil {
				return err
			}
		}
	} else if in.c.IsSet("role") || in.c.IsSet("issuer") {
		return usagef("give --as, too", "--role and --issuer are of whom --as names")
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	out, err := call(ctx, in, c.Policies().TestPolicy, req)
	if err != nil {
		return err
	}
	if err := in.show(out, func() string { return answersTable(out) }); err != nil {
		return err
	}
	if n := len(out.GetProblems()); n > 0 {
		p := out.GetProblems()[0]
		return errs.New(errs.InvalidArgument, problemText(p), errs.Hint("%s", p.GetFix()))
	}
	if out.GetTruncated() {
		in.note("there are more workloads or services than the first 100; name one")
	}
	return nil
}

// policyChanges reads the texts that --change names.
func (in *Invocation) policyChanges() (all []*kryptonv1.PolicyText, err error) {
	for _, c := range in.c.StringSlice("change") {
		id, file, ok := strings.Cut(c, "=")
		if !ok || id == "" || file == "" {
			return nil, usagef("give it as --change payments=payments.cedar", "change %q is not ID=FILE", c)
		}
		text := &kryptonv1.PolicyText{PolicyId: id}
		if file != "-" {
			if text.Text, err = in.policyFile(file); err != nil {
				return nil, err
			}
		}
		all = append(all, text)
	}
	return all, nil
}

func answersTable(out *kryptonv1.TestPolicyResponse) string {
	if len(out.GetProblems()) > 0 {
		g := grid{head: []string{"POLICY", "LINE", "COLUMN", "PROBLEM", "FIX"}}
		for _, p := range out.GetProblems() {
			g.add(cmp.Or(p.GetPolicyId(), "(all)"), strconv.Itoa(int(p.GetLine())), strconv.Itoa(int(p.GetColumn())), p.GetProblem(), p.GetFix())
		}
		return g.text()
	}
	if len(out.GetAnswers()) == 0 {
		return "the policies are right\n"
	}
	g := grid{head: []string{"WHO", "ACTION", "ON", "ANSWER", "WHY", "DEPENDS ON"}}
	for _, a := range out.GetAnswers() {
		answer := "deny"
		if a.GetAllowed() {
			answer = "allow"
		}
		g.add(strings.ToLower(strings.TrimPrefix(a.GetSubject().GetRole().String(), "ROLE_"))+"/"+a.GetSubject().GetMember(), a.GetAction(), cmp.Or(a.GetService(), "(tenant)"),
			answer, strings.TrimPrefix(a.GetWhy(), "policy: "), strings.Join(a.GetDependsOn(), ", "))
	}
	return g.withoutEmptyColumns().text()
}

func problemText(p *kryptonv1.PolicyProblem) string {
	return policy.Problem{Policy: hierarchy.Name(p.GetPolicyId()), Line: int(p.GetLine()), Column: int(p.GetColumn()), What: p.GetProblem()}.String()
}

// endLine ends a text with a line end, so that the next prompt stands in its own.
func endLine(s string) string {
	if strings.HasSuffix(s, "\n") {
		return s
	}
	return s + "\n"
}
