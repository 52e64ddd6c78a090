package server_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/server"
	"github.com/openkcm/krypton-cluster/server/gateway"
)

var update = flag.Bool("update", false, "write docs/limits.md instead of comparing it")

// bound is one row of docs/limits.md. What comes beyond it is that of a
// situation, which a test provokes, or a code.
type bound struct {
	what, limit string
	beyond      string // id of a situation
	code        errs.Code
	then        string // what comes, if it is no error of the table
}

type bounds struct {
	title string
	rows  []bound
}

func bytesOf(n int) string {
	for _, u := range []struct {
		size int
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func limits() []bounds {
	return []bounds{
		{"Data operations", []bound{
			{what: "plaintext of one encrypt; more goes through a data key, as `krypton encrypt` and `client/stream` do", limit: bytesOf(node.MaxData), beyond: "request/plaintext-too-large"},
			{what: "ciphertext given to decrypt", limit: bytesOf(node.MaxData + envelope.Overhead), beyond: "ciphertext/too-long"},
			{what: "data key", limit: fmt.Sprintf("%d to %d bytes, %d if nothing is said", node.MinDataKey, node.MaxDataKey, node.DefaultDataKey), beyond: "request/data-key-length"},
			{what: "resource id, UTF-8", limit: bytesOf(hierarchy.MaxResourceIDBytes), beyond: "request/resource-too-long"},
			{what: "pairs of an encryption context", limit: fmt.Sprint(hierarchy.MaxContextPairs), beyond: "request/context-too-many-pairs"},
			{what: "keys and values of an encryption context together", limit: bytesOf(hierarchy.MaxContextBytes), beyond: "request/context-too-large"},
		}},
		{"Requests", []bound{
			{what: "gRPC message, request", limit: bytesOf(server.MaxMessage), beyond: "request/message-too-large"},
			{what: "body of an HTTP request", limit: bytesOf(gateway.MaxBody), beyond: "request/body-too-large"},
			{what: "headers of a request, its path and parameters among them", limit: bytesOf(server.HeaderBytes), then: "HTTP 431; over gRPC the call ends"},
			{what: "certificate of a caller, for changes that another node than the leader takes", limit: bytesOf(auth.MaxCertificate), code: errs.TooLarge},
			{what: "page of a list", limit: fmt.Sprintf("%d objects, %d if nothing is said", server.MaxPage, server.DefaultPage), beyond: "request/page-size"},
			{what: "reason of a seal", limit: bytesOf(server.MaxReason), beyond: "request/reason-too-long"},
			{what: "deadline that a call may ask for", limit: server.MaxDeadline.String(), then: "it ends then"},
			{what: "changes with a request id of one caller in 24 h", limit: fmt.Sprint(fsm.MaxRequestsPerPrincipal), code: errs.LimitReached},
			{what: "changes with a request id of everybody in 24 h", limit: fmt.Sprint(fsm.MaxRequests), code: errs.LimitReached},
		}},
		{"Names", []bound{
			{what: "name of a tenant or a service", limit: bytesOf(hierarchy.MaxNameBytes), beyond: "request/name-too-long"},
			{what: "name in a certificate", limit: bytesOf(auth.MaxName), beyond: "request/person-name"},
			{what: "region of a node", limit: bytesOf(hierarchy.MaxNameBytes), beyond: "request/region"},
			{what: "name of a keystore, of a customer's key in it", limit: bytesOf(fsm.MaxKeystoreBytes) + ", " + bytesOf(fsm.MaxKeyRefBytes), beyond: "request/binding-too-long"},
		}},
		{"Objects of a cluster", []bound{
			{what: "tenants", limit: fmt.Sprint(fsm.MaxTenants), code: errs.LimitReached},
			{what: "services of all tenants", limit: fmt.Sprint(fsm.MaxServices), code: errs.LimitReached},
			{what: "versions of one key", limit: fmt.Sprint(hierarchy.MaxVersions), code: errs.LimitReached},
			{what: "pinned resources of one service", limit: fmt.Sprint(fsm.MaxPinnedResources), code: errs.LimitReached},
			{what: "earlier pins that a resource remembers", limit: fmt.Sprint(fsm.MaxEarlierPins), then: "the oldest is forgotten"},
			{what: "nodes, present and former", limit: fmt.Sprint(fsm.MaxMembers), code: errs.LimitReached},
			{what: "join tokens that are not used and not expired", limit: fmt.Sprint(fsm.MaxJoinTokens), code: errs.LimitReached},
			{what: "revoked certificates that have not expired", limit: fmt.Sprint(fsm.MaxRevocations), beyond: "identity/revocations-full"},
			{what: "issuers of the cluster itself, of one tenant, of all", limit: fmt.Sprintf("%d, %d, %d", fsm.MaxIssuersPerOwner, fsm.MaxIssuersPerOwner, fsm.MaxIssuers), code: errs.LimitReached},
			{what: "CA certificates of an issuer, each", limit: fmt.Sprintf("%d, %s", fsm.MaxIssuerCertificates, bytesOf(fsm.MaxCertificateBytes)), code: errs.InvalidArgument},
			{what: "tenants that an issuer is limited to", limit: fmt.Sprint(fsm.MaxIssuerTenants), code: errs.InvalidArgument},
			{what: "life of the tokens of an issuer, from issue to expiry", limit: lifetime(fsm.MaxTokenLifeS * time.Second), code: errs.InvalidArgument},
			{what: "role bindings, of people and of workloads", limit: fmt.Sprint(fsm.MaxBindings), code: errs.LimitReached},
			{what: "public keys of a role binding", limit: fmt.Sprint(fsm.MaxBindingKeys), code: errs.InvalidArgument},
			{what: "subject of a role binding", limit: bytesOf(fsm.MaxSubjectBytes), code: errs.InvalidArgument},
			{what: "approvals that have not ended: of everybody, of one requester", limit: fmt.Sprintf("%d, %d", fsm.MaxOpenApprovals, fsm.MaxApprovalsPerRequester), code: errs.LimitReached},
			{what: "approvals that are kept, and the intents and requests of all", limit: fmt.Sprintf("%d, %s", fsm.MaxApprovals, bytesOf(fsm.MaxApprovalsBytes)), then: "those that ended first are removed; `LIMIT_REACHED` if none has"},
			{what: "request of an approval, and its canonical form", limit: bytesOf(fsm.MaxApprovalRequestBytes) + ", " + bytesOf(fsm.MaxApprovalOrderBytes), code: errs.TooLarge},
			{what: "reason of a rejection", limit: bytesOf(fsm.MaxRejectReasonBytes), code: errs.InvalidArgument},
			{what: "signatures that a rule asks for, of one role", limit: fmt.Sprint(intent.MaxRule), code: errs.InvalidArgument},
			{what: "governors that a tenant lists", limit: fmt.Sprint(fsm.MaxTenantGovernors), code: errs.InvalidArgument},
			{what: "policies of one tenant, of all", limit: fmt.Sprintf("%d, %d", fsm.MaxPoliciesPerTenant, fsm.MaxPolicies), beyond: "policy/too-many"},
			{what: "text of a policy, of all policies of one tenant, of all", limit: bytesOf(fsm.MaxPolicyBytes) + ", " + bytesOf(fsm.MaxPolicySetBytes) + ", " + bytesOf(fsm.MaxPolicyTotalBytes), beyond: "policy/too-long"},
			{what: "workloads, services that one TestPolicy asks about when it names none", limit: fmt.Sprintf("%d, %d", server.MaxTestedSubjects, server.MaxTestedServices), then: "the rest is left out, and the answer says so"},
			{what: "shares of the MasterKey", limit: fmt.Sprint(seal.MaxShares), code: errs.InvalidArgument},
		}},
		{"Lifetimes", []bound{
			{what: "certificate of a caller", limit: lifetime(pki.MinLifetime) + " to " + lifetime(pki.CallerLifetime), beyond: "request/certificate-lifetime"},
			{what: "join token", limit: lifetime(server.MaxTokenLife), beyond: "request/join-token-lifetime"},
			{what: "memory of an approval after its end", limit: lifetime(fsm.ApprovalMemoryMS * time.Millisecond), then: "it is removed"},
			{what: "memory of a request id", limit: lifetime(fsm.RequestMemoryMS * time.Millisecond), then: "the same id is a new request"},
		}},
	}
}

func lifetime(d time.Duration) string {
	switch {
	case d > 24*time.Hour && d%(24*time.Hour) == 0:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

const limitsHead = `# Limits

<!-- Generated from the constants of the code by ` + "`make generate`" + `. Do not edit. -->

What a node takes at most, and what it answers beyond that. The limit itself is inside. Limits that a configuration can
change (connections, calls at a time, the time of a call without a deadline) are in [config.md](config.md).
`

// TestLimitsPageIsUpToDate holds that docs/limits.md says what the constants are,
// and what the tests of the situations see.
func TestLimitsPageIsUpToDate(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(limitsHead)
	for _, g := range limits() {
		fmt.Fprintf(&b, "\n## %s\n\n| what | at most | beyond it |\n| :--- | :--- | :--- |\n", g.title)
		for _, r := range g.rows {
			then := r.then
			switch s, ok := situation.Find(r.beyond); {
			case ok:
				then = fmt.Sprintf("`%s`: %s", s.Code, strings.NewReplacer("{", "*{", "}", "}*").Replace(s.Says))
			case r.beyond != "":
				t.Fatalf("no situation has the id %q", r.beyond)
			case r.code != errs.Unspecified:
				then = "`" + r.code.String() + "`"
			}
			if then == "" {
				t.Fatalf("%s: it is not said what comes beyond the limit", r.what)
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", r.what, r.limit, then)
		}
	}
	path := filepath.Join("..", "docs", "limits.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), b.String()); diff != "" {
		t.Errorf("docs/limits.md is not what the constants say; run `make generate`:\n%s", diff)
	}
}
