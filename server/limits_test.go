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
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/plan"
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
		{"Callers and tenants", budgets()},
		{"Connections", doorBounds()},
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
		}},
		{"The seal and ceremonies", []bound{
			{what: "shares of the MasterKey, groups of their holders", limit: fmt.Sprintf("%d, %d", seal.MaxShares, seal.MaxGroups), code: errs.InvalidArgument},
			{what: "threshold of a group", limit: fmt.Sprintf("%d to the number of its holders", seal.MinThreshold), beyond: "seal/ceremony-threshold"},
			{what: "keys of keystores, any one of which opens the MasterKey", limit: fmt.Sprint(seal.MaxProviderKeys), code: errs.InvalidArgument},
			{what: "name of a group or a holder; each part of where a holder stands", limit: bytesOf(seal.MaxName) + "; " + bytesOf(seal.MaxDomain), code: errs.InvalidArgument},
			{what: "recipient of a person", limit: bytesOf(seal.MaxRecipient), beyond: "seal/recipient-long"},
			{what: "time that the plugin of a recipient has on a node", limit: agebox.PluginTime.String(), beyond: "seal/plugin-late"},
			{what: "encrypted share of a person", limit: bytesOf(agebox.MaxFile), code: errs.FailedState},
			{what: "identity file, identities in it, passphrase", limit: fmt.Sprintf("%s, %d, %s", bytesOf(agebox.MaxIdentityFile), agebox.MaxIdentities, bytesOf(agebox.MaxPassphrase)), code: errs.InvalidConfig},
			{what: "plan of a seal: the file, and what people sign for in a ceremony", limit: bytesOf(plan.MaxFile) + ", " + bytesOf(fsm.MaxSealPlanBytes), beyond: "seal/ceremony-plan-large"},
			{what: "risks that a plan accepts", limit: fmt.Sprint(fsm.MaxSealRisks), code: errs.InvalidArgument},
			{what: "seal record that is made", limit: bytesOf(seal.MaxMade), code: errs.InvalidArgument},
			{what: "time that the first share of a person waits for the last", limit: seal.DefaultPatience.String(), then: "the shares of people are dropped and have to be given again"},
			{what: "ceremonies at a time", limit: "1", beyond: "seal/ceremony-open"},
			{what: "life of a ceremony", limit: lifetime(fsm.MinCeremonyLifeMS*time.Millisecond) + " to " + lifetime(fsm.MaxCeremonyLifeMS*time.Millisecond), beyond: "seal/ceremony-life"},
			{what: "ceremonies that are kept", limit: fmt.Sprint(fsm.MaxCeremonies), then: "those that ended first are forgotten; their manifests stay"},
			{what: "manifests of ceremonies, and their bytes", limit: fmt.Sprintf("%d, %s", fsm.MaxSealManifests, bytesOf(fsm.MaxSealManifestsBytes)), code: errs.LimitReached},
			{what: "reason of a cancellation", limit: bytesOf(fsm.MaxCancelReasonBytes), code: errs.InvalidArgument},
		}},
		{"Lifetimes", []bound{
			{what: "certificate of a caller", limit: lifetime(pki.MinLifetime) + " to " + lifetime(pki.CallerLifetime), beyond: "request/certificate-lifetime"},
			{what: "join token", limit: lifetime(server.MaxTokenLife), beyond: "request/join-token-lifetime"},
			{what: "memory of an approval after its end", limit: lifetime(fsm.ApprovalMemoryMS * time.Millisecond), then: "it is removed"},
			{what: "memory of a request id", limit: lifetime(fsm.RequestMemoryMS * time.Millisecond), then: "the same id is a new request"},
		}},
	}
}

// budgets are what one node admits of one caller and of one tenant.
func budgets() []bound {
	c, own := config.Default().Limits, server.DefaultLimits()
	a := func(key string, n int) string { return fmt.Sprintf("%d (`limits.%s`)", n, key) }
	const rate, atOnce = "limits/rate", "limits/at-once"
	return []bound{
		{what: "data operations of one caller a second, and at once after a pause; a request counts once more for each " + bytesOf(server.CostBytes), limit: a("caller_rate", c.CallerRate), beyond: rate},
		{what: "data operations of all workloads of one tenant a second", limit: a("tenant_rate", c.TenantRate), beyond: rate},
		{what: "reads of the registry of one caller a second", limit: a("caller_reads", c.CallerReads), beyond: rate},
		{what: "changes of one caller a second", limit: a("caller_changes", c.CallerChanges), beyond: rate},
		{what: "acts of one caller a second that only take power away, contributing shares, looking at the seal, the cluster and oneself", limit: fmt.Sprint(own.CallerProtects), beyond: rate},
		{what: "calls of one caller at a time: data operations, reads, changes, each", limit: a("caller_concurrent", c.CallerConcurrent), beyond: atOnce},
		{what: "of those that only take power away and so on", limit: fmt.Sprint(server.ProtectAtOnce), beyond: atOnce},
		{what: "data operations of all workloads of one tenant at a time", limit: a("tenant_concurrent", c.TenantConcurrent), beyond: atOnce},
		{what: "callers and tenants that are counted at a time", limit: fmt.Sprintf("%d and %d", server.CallerAccounts, server.TenantAccounts), then: "further ones share a budget, until others have been quiet for as long as their burst takes to come back"},
		{what: "records of refusals for a budget in " + gate.StrayWindow.String(), limit: fmt.Sprintf("%d, one for each caller", gate.StrayBurst), then: "the rest is one count"},
	}
}

// doorBounds are what one port admits.
func doorBounds() []bound {
	c := config.Default().Limits
	return []bound{
		{what: "connections on each public port", limit: fmt.Sprintf("%d (`limits.connections`)", c.Connections), beyond: "limits/connections"},
		{what: "of these, connections on which nobody has shown an identity yet", limit: fmt.Sprintf("one in %d", server.StrangerShare), then: "the oldest one goes, of the address that has most of them"},
		{what: "of these, kept for people", limit: fmt.Sprintf("one in %d", server.PeopleShare), beyond: "limits/connections"},
		{what: "connections of one caller on each public port", limit: fmt.Sprintf("%d (`limits.caller_connections`)", c.CallerConnections), beyond: "limits/caller-connections"},
		{what: "connections of all workloads of one tenant on each public port", limit: fmt.Sprintf("%d (`limits.tenant_connections`)", c.TenantConnections), beyond: "limits/tenant-connections"},
		{what: "connections that one address begins a second, and at once; of IPv6 one network of 64 bits", limit: fmt.Sprintf("%d, %d", server.SourceRate, server.SourceBurst), then: "they are closed"},
		{what: "addresses for which that is counted", limit: fmt.Sprint(server.Sources), then: "further ones share it"},
		{what: "time until somebody has shown an identity, handshake included", limit: lifetime(server.StrangerTime), then: "the connection is closed"},
		{what: "bytes until then, gRPC", limit: bytesOf(server.StrangerBytes), then: "the connection is closed"},
		{what: "time until the headers of an HTTP request have arrived", limit: lifetime(server.HeaderTimeout), then: "the connection is closed"},
		{what: "time in which the message of a call arrives and is answered, if the caller gave no deadline", limit: fmt.Sprintf("%s (`limits.request_budget`)", c.RequestBudget), then: "`DEADLINE_EXCEEDED`"},
		{what: "calls at a time on one connection", limit: fmt.Sprintf("%d (`limits.concurrent`)", c.Concurrent), then: "HTTP/2 refuses the stream, which clients wait for"},
		{what: "time without a call", limit: server.IdleTimeout.String(), then: "the connection ends in good order"},
		{what: "life of a gRPC connection", limit: server.ConnectionAge.String(), then: "it ends in good order"},
		{what: "connections on the operations port", limit: fmt.Sprint(server.OpsConnections), then: "the oldest one goes, of the address that has most of them"},
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

What a node takes at most, and what it answers beyond that. The limit itself is inside. What has the name of a setting beside
it is the default, which the configuration of each node can change: [config.md](config.md). Budgets and connections are counted by
each node for itself. How they keep slow and hostile callers from stopping others is in [hostile-callers.md](hostile-callers.md).
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
