package gate_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

const id = corr.ID("01890a5d-ac96-774b-bcce-b302099a8057")

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type harness struct {
	gate  *gate.Gate
	sink  *audittest.Memory
	clock *clock.Fake
}

// policyFunc is a policy of a test.
type policyFunc func(gate.Query) (gate.Verdict, error)

func (f policyFunc) Decide(q gate.Query) (gate.Verdict, error) { return f(q) }

func allowAll(gate.Query) (gate.Verdict, error) { return gate.Verdict{Decision: gate.Allow}, nil }

func newHarness(t testing.TB, p gate.Policy) harness {
	t.Helper()
	h := harness{sink: &audittest.Memory{}, clock: clock.NewFake(start)}
	g, err := gate.New(gate.Config{Node: "n1", Sink: h.sink, Policy: p, Clock: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	h.gate = g
	return h
}

func principal(r auth.Role) auth.Principal {
	p := auth.Principal{Issuer: auth.Issuer{1}, Role: r, Name: "x"}
	if r == auth.RoleWorkload {
		p.Tenant = "acme"
	}
	return p
}

// objectOf returns an object that fits act.
func objectOf(a gate.Act) string {
	switch n := a.String(); {
	case n == "tenants.list":
		return "tenants"
	case strings.HasPrefix(n, "crypto."), strings.HasPrefix(n, "tenants."), strings.HasPrefix(n, "services."),
		strings.HasPrefix(n, "versions."), strings.HasPrefix(n, "resources."), strings.HasPrefix(n, "policies."), n == "node.rotate", n == "node.prepare", n == "node.rewrap",
		n == "node.check_l1", n == "node.suspend", n == "node.destroy", n == "node.recover":
		return "tenants/acme/services/pay"
	}
	return "cluster"
}

func request(r auth.Role, a gate.Act) gate.Request {
	return gate.Request{Principal: principal(r), Act: a, Object: objectOf(a), Correlation: id}
}

// table says who may do what, written a second time and by name: G governor,
// C custodian, O operator, A auditor, W workload. The last column says which
// governors: P of the platform, T of the tenant, PT both, P/T those of the platform
// for an object of the cluster and the tenant's for one of a tenant.
const table = `
crypto.generate_data_key     ....W  data
crypto.unwrap_data_key       ....W  data
crypto.rewrap_data_key       ....W  data
crypto.encrypt               ....W  data
crypto.decrypt               ....W  data
tenants.create               G....  control  P
tenants.get                  G..AW  data
tenants.list                 G..A.  data
tenants.suspend              G....  control  PT
tenants.resume               G....  control  PT
tenants.delete               G....  control  P
tenants.delete_now           G....  control  P
tenants.undelete             G....  control  P
tenants.rotate               G....  control  T
tenants.rollback             G....  control  T
services.create              G....  control  T
services.get                 G..AW  data
services.list                G..AW  data
services.delete              G....  control  T
services.delete_now          G....  control  T
services.undelete            G....  control  T
services.suspend             G....  control  PT
services.resume              G....  control  T
services.rotate              G....  control  T
services.rollback            G....  control  T
versions.get                 G..AW  data
versions.list                G..AW  data
versions.enable              G....  control  T
versions.disable             G....  control  PT
versions.deprecate           G....  control  T
versions.compromise          G....  control  PT
versions.destroy             G....  control  T
versions.destroy_now         G....  control  T
versions.cancel_destroy      G....  control  T
resources.pin                G....  control  T
resources.unpin              G....  control  T
resources.rollback           G....  control  T
resources.get                G..AW  data
resources.list               G..AW  data
seal.get                     GCOAW  data
seal.get_shard               .C...  data
seal.contribute              .C...  control
seal.seal                    GCO..  control  P
seal.seal_cluster            GC...  control  P
seal.release_hold            .C...  control
admin.init                   ..O..  control
admin.plan-seal              ..O..  data
admin.join                   ..O..  control
admin.status                 ..O..  data
cluster.get                  GCOA.  data
nodes.list                   GCOA.  data
nodes.get                    GCOA.  data
nodes.create_join_token      ..O..  control
nodes.promote                ..O..  control
nodes.demote                 ..O..  control
nodes.remove                 ..O..  control
cluster.transfer_leadership  ..O..  control
cluster.save_snapshot        ..O..  control
operations.get               GCOA.  data
operations.wait              GCOA.  data
access.whoami                GCOAW  data
access.issue_certificate     G....  control  P/T
access.revoke_certificate    g.o..  control  P
access.list_revocations      gcoa.  data
access.renew_certificate     GCOAW  control
issuers.create               G....  control  P/T
issuers.update               G....  control  P/T
issuers.get                  G..A.  data
issuers.list                 G..A.  data
issuers.delete               G....  control  P/T
role_bindings.create         G....  control  P/T
role_bindings.get            GCOA.  data
role_bindings.list           GCOA.  data
role_bindings.delete         G....  control  P/T
tenants.bind                 G....  control  P
tenants.set_governors        G....  control  T
policies.get                 G..A.  data
policies.list                G..A.  data
policies.put                 G....  control  T
policies.delete              G....  control  T
policies.test                G..A.  data
audit.read                   ...A.  data
approvals.create             GC...  control
approvals.get                GCOA.  data
approvals.list               GCOA.  data
approvals.approve            GC...  control
approvals.reject             GC...  control
cluster.set_quorum           G....  control  P
ceremonies.start             GC...  control
ceremonies.get               GCOA.  data
ceremonies.list              GCOA.  data
ceremonies.contribute        .C...  control
ceremonies.cancel            GC...  control  P
ceremonies.confirm           GC...  control
seal.get_manifests           GCOA.  data
authorities.get              GCOAW  data
authorities.replace          GC...  control
authorities.retire           GC...  control
node.unseal                  .....  control
node.seal                    .....  control
node.rotate                  .....  control
node.prepare                 .....  control
node.forward                 .....  data
node.issue_certificate       .....  control
node.rewrap                  .....  control
node.check_l1                .....  data
node.suspend                 .....  control
node.destroy                 .....  control
node.watch_seal              .....  data
node.repair_seal             .....  control
node.recover                 .....  control
node.ceremony                .....  control
node.exposure                .....  control
node.clear                   .....  control
`

type tableRow struct{ name, roles, class, governors string }

func tableRows(t *testing.T) map[string]tableRow {
	t.Helper()
	rows := map[string]tableRow{}
	for line := range strings.Lines(strings.TrimSpace(table)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f) > 4 || len(f[1]) != 5 {
			t.Fatalf("table row %q", line)
		}
		rows[f[0]] = tableRow{f[0], f[1], f[2], strings.Join(f[3:], "")}
	}
	return rows
}

func TestEveryActHasOneRowAndOneName(t *testing.T) {
	t.Parallel()
	rows := tableRows(t)
	seen := map[string]bool{}
	for _, a := range gate.Acts() {
		if a.String() == "" || seen[a.String()] || len(a.String()) > audit.MaxAct {
			t.Errorf("act %d has the name %q", int(a), a)
		}
		seen[a.String()] = true
		if a.Duty() == gate.DutyUnspecified {
			t.Errorf("%s has no duty", a)
		}
		if rows[a.String()].class != a.Class().String() {
			t.Errorf("%s has class %s, the table says %q", a, a.Class(), rows[a.String()].class)
		}
		delete(rows, a.String())
	}
	for name := range rows {
		t.Errorf("the table has %s, which is no act", name)
	}
	for _, a := range []gate.Act{0, -1, 1000} {
		if a.Valid() || a.Class() != 0 || a.Duty() != 0 || a.String() != "unspecified" {
			t.Errorf("act %d is known", a)
		}
	}
}

// TestWhichGovernors holds the last column of the table, for objects of a tenant and of none.
func TestWhichGovernors(t *testing.T) {
	t.Parallel()
	rows := tableRows(t)
	for _, a := range gate.Acts() {
		row := rows[a.String()]
		of := func(ofTenant bool) (who string) {
			if a.Power(ofTenant).Has(auth.Standing{Platform: true}) {
				who = "P"
			}
			if a.Power(ofTenant).Has(auth.Standing{Tenant: true}) {
				who += "T"
			}
			if a.Power(ofTenant).Has(auth.Standing{}) {
				t.Errorf("%s needs no governor", a)
			}
			return who
		}
		want := [2]string{row.governors, row.governors}
		if row.governors == "P/T" {
			want = [2]string{"P", "T"}
		}
		ofTenant := strings.HasPrefix(objectOf(a), "tenants/")
		if row.governors != "P/T" && (ofTenant || row.governors == "") {
			want[0] = of(false) // there is no such object
		}
		if row.governors != "P/T" && (!ofTenant || row.governors == "") {
			want[1] = of(true)
		}
		if got := [2]string{of(false), of(true)}; got != want || row.governors == "" && (a.Duty() == gate.DutyGovern) {
			t.Errorf("%s: governors of %v, want %v (of the cluster, of a tenant)", a, got, want)
		}
		if a.Duty() == gate.DutyGovern && row.roles[0] == '.' {
			t.Errorf("%s is a governor's act that no governor may", a)
		}
	}
}

// Only what lets its holder get out of it is open to an expired certificate.
func TestWhatAnExpiredCertificateMay(t *testing.T) {
	t.Parallel()
	for _, r := range auth.Roles() {
		want := []string{"access.whoami", "access.renew_certificate"}
		if r == auth.RoleCustodian {
			want = []string{"seal.get", "seal.get_shard", "seal.contribute", "access.whoami", "access.renew_certificate"}
		}
		var got []string
		for _, a := range gate.Acts() {
			if a.Expired(r) {
				got = append(got, a.String())
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("acts of %s differ (-want +got):\n%s", r, diff)
		}
	}
}

// Every pair of role and act, through the gate, with the record of each.
func TestEveryRoleAndAct(t *testing.T) {
	t.Parallel()
	rows := tableRows(t)
	pairs := 0
	for _, a := range gate.Acts() {
		if a.Duty() == gate.DutySystem {
			continue
		}
		for i, r := range auth.Roles() {
			pairs++
			h := newHarness(t, gate.RolePolicy{})
			want := rows[a.String()].roles[i] != '.'
			ran := false
			err := h.gate.Do(t.Context(), request(r, a), func(gate.Token) error { ran = true; return nil })
			if ran != want || (err == nil) != want {
				t.Errorf("%s does %s: ran %v, %v; want %v", r, a, ran, err, want)
			}
			var got []string
			for _, rec := range h.sink.Records() {
				if rec.Act != a.String() || rec.Principal != principal(r).String() || rec.Role != r.String() || rec.Object != objectOf(a) || rec.Correlation != id {
					t.Errorf("%s does %s: record %+v", r, a, rec)
				}
				got = append(got, fmt.Sprintf("%s %s %s %s", rec.Class, rec.Phase, rec.Outcome, rec.Code))
			}
			wantRecords := []string{"data whole ok OK"}
			switch {
			case !want:
				wantRecords = []string{"data whole denied DENIED"}
				if !errs.Is(err, errs.Denied) {
					t.Errorf("%s does %s: %v, want DENIED", r, a, err)
				}
			case a.Class() == audit.Control:
				wantRecords = []string{"control intent unspecified OK", "control outcome ok OK"}
			}
			if diff := cmp.Diff(wantRecords, got); diff != "" {
				t.Errorf("%s does %s: records differ (-want +got):\n%s", r, a, diff)
			}
			if h.gate.InFlight() != 0 {
				t.Errorf("%d tokens in flight", h.gate.InFlight())
			}
		}
	}
	if pairs < 250 {
		t.Errorf("only %d pairs", pairs)
	}
}

// I4: under a policy that allows everything.
func TestI4_DutiesStaySeparateUnderEveryPolicy(t *testing.T) {
	t.Parallel()
	may := map[auth.Role][]gate.Duty{
		auth.RoleGovernor:  {gate.DutyGovern, gate.DutyProtect, gate.DutyApprove, gate.DutyRead, gate.DutySelf},
		auth.RoleCustodian: {gate.DutyCustody, gate.DutyProtect, gate.DutyApprove, gate.DutyRead, gate.DutySelf},
		auth.RoleOperator:  {gate.DutyOperate, gate.DutyProtect, gate.DutyRead, gate.DutySelf},
		auth.RoleAuditor:   {gate.DutyRead, gate.DutyReadAudit, gate.DutySelf},
		auth.RoleWorkload:  {gate.DutyUse, gate.DutyRead, gate.DutySelf},
	}
	h := newHarness(t, policyFunc(allowAll))
	for _, a := range gate.Acts() {
		if a.Duty() == gate.DutySystem {
			continue
		}
		for _, r := range auth.Roles() {
			want := false
			for _, d := range may[r] {
				want = want || d == a.Duty()
			}
			err := h.gate.Do(t.Context(), request(r, a), func(gate.Token) error { return nil })
			if (err == nil) != want {
				t.Errorf("%s does %s under a policy that allows all: %v, want %v", r, a, err, want)
			}
		}
	}
}

func TestNoRoleDoesWhatTheNodeDoes(t *testing.T) {
	t.Parallel()
	h := newHarness(t, policyFunc(allowAll))
	for _, a := range gate.Acts() {
		err := h.gate.DoNode(corr.With(t.Context(), id), a, objectOf(a), func(tok gate.Token) error {
			if tok.Principal() != (auth.Principal{}) {
				t.Error("the node's own act has a principal")
			}
			return nil
		})
		if (err == nil) != (a.Duty() == gate.DutySystem) {
			t.Errorf("node does %s: %v", a, err)
		}
		if a.Duty() != gate.DutySystem {
			continue
		}
		for _, r := range auth.Roles() {
			if _, err := h.gate.Enter(t.Context(), request(r, a)); err == nil {
				t.Errorf("%s does %s", r, a)
			}
		}
	}
	for _, r := range h.sink.Records() {
		if r.Principal != "node/n1" {
			t.Errorf("record of the node's own act by %q", r.Principal)
		}
	}
	for name, f := range map[string]func() error{
		"no correlation id": func() error { _, err := h.gate.EnterNode(t.Context(), gate.NodeUnseal, "seal"); return err },
		"no object":         func() error { _, err := h.gate.EnterNode(corr.With(t.Context(), id), gate.NodeUnseal, ""); return err },
	} {
		if f() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestI5_WorkloadsReachOnlyTheirTenant(t *testing.T) {
	t.Parallel()
	h := newHarness(t, policyFunc(allowAll))
	for object, want := range map[string]errs.Code{
		"tenants/acme":                            errs.Unspecified,
		"tenants/acme/services/pay":               errs.Unspecified,
		"tenants/acme/services/pay/resources/%2F": errs.Unspecified,
		"tenants/other":                           errs.NotFound,
		"tenants/other/services/pay":              errs.NotFound,
		"tenants/acme2/services/pay":              errs.NotFound,
		"tenants/acm":                             errs.NotFound,
		"tenants/other/services/tenants/acme":     errs.NotFound,
		"tenants/acme/../other":                   errs.InvalidArgument,
		"tenants/acme/./services":                 errs.InvalidArgument,
		"tenants//acme":                           errs.InvalidArgument,
		"/tenants/acme":                           errs.InvalidArgument,
		"tenants/acme/":                           errs.InvalidArgument,
		"tenants/":                                errs.InvalidArgument,
		"tenants":                                 errs.InvalidArgument,
		"cluster":                                 errs.InvalidArgument,
		"":                                        errs.InvalidArgument,
		"tenants/Acme":                            errs.InvalidArgument,
		"tenants/ac%6de":                          errs.InvalidArgument,
		"tenants/acme/services/a b":               errs.InvalidArgument,
		"tenants/acme/services/a\n":               errs.InvalidArgument,
		"tenants/acme/services/\u00e9":            errs.InvalidArgument,
		"tenants/acme/services/" + strings.Repeat("a", 640): errs.InvalidArgument,
	} {
		ran := false
		err := h.gate.Do(t.Context(), gate.Request{Principal: principal(auth.RoleWorkload), Act: gate.Encrypt, Object: object, Correlation: id}, func(gate.Token) error {
			ran = true
			return nil
		})
		if errs.Of(err) != want || ran != (want == errs.Unspecified) {
			t.Errorf("%q: ran %v, %v; want %v", object, ran, err, want)
		}
	}
}

func TestI5_TenantIsolationProperty(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z]([a-z0-9-]{0,8}[a-z0-9])?`)
	rapid.Check(t, func(rt *rapid.T) {
		h := newHarness(t, policyFunc(allowAll))
		own, other := name.Draw(rt, "own"), name.Draw(rt, "other")
		rest := rapid.StringMatching(`(/[a-z0-9./%]{1,12}){0,4}`).Draw(rt, "rest")
		p := principal(auth.RoleWorkload)
		p.Tenant = hierarchy.Name(own)
		err := h.gate.Do(context.Background(), gate.Request{Principal: p, Act: gate.Decrypt, Object: "tenants/" + other + rest, Correlation: id}, func(gate.Token) error {
			if own != other {
				rt.Fatalf("workload of %s reached tenants/%s%s", own, other, rest)
			}
			return nil
		})
		if own != other && err == nil {
			rt.Fatal("no error")
		}
		if len(h.sink.Records()) != 1 {
			rt.Fatalf("%d records", len(h.sink.Records()))
		}
	})
}

// The answer for a foreign object is the answer for one that does not exist, in
// every byte; the record knows better.
func TestI5_ForeignAndMissingLookTheSame(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	p := principal(auth.RoleWorkload)
	foreign := h.gate.Do(t.Context(), gate.Request{Principal: p, Act: gate.GetService, Object: "tenants/other/services/pay", Correlation: id}, func(gate.Token) error { return nil })
	missing := h.gate.Do(t.Context(), gate.Request{Principal: p, Act: gate.GetService, Object: "tenants/acme/services/none", Correlation: id}, func(gate.Token) error { return gate.NoSuchObject() })
	f, m := errs.From(foreign), errs.From(missing)
	if f.Code != m.Code || f.Msg != m.Msg || f.Hint != m.Hint || f.Code != errs.NotFound {
		t.Errorf("foreign: %+v, missing: %+v", f, m)
	}
	rec := h.sink.Records()
	if rec[0].Outcome != errs.OutcomeDenied || rec[0].Cause != "object of another tenant" || rec[0].Code != errs.NotFound {
		t.Errorf("record of the foreign object: %+v", rec[0])
	}
	if rec[1].Outcome != errs.OutcomeRefused || rec[1].Code != errs.NotFound {
		t.Errorf("record of the missing object: %+v", rec[1])
	}
}

func TestActsNeedObjectsOfTheirScope(t *testing.T) {
	t.Parallel()
	h := newHarness(t, policyFunc(allowAll))
	for _, tc := range []struct {
		role   auth.Role
		act    gate.Act
		object string
	}{
		{auth.RoleOperator, gate.RemoveNode, "tenants/acme"},
		{auth.RoleGovernor, gate.DeleteTenant, "nodes/n1"},
		{auth.RoleGovernor, gate.ListTenants, "tenants/acme"},
		{auth.RoleAuditor, gate.ReadAudit, ""},
	} {
		req := request(tc.role, tc.act)
		req.Object = tc.object
		if _, err := h.gate.Enter(t.Context(), req); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s on %q: %v", tc.act, tc.object, err)
		}
	}
}

// I2 and I3 by injection of a failure at each record.
func TestI3_NothingRunsWithoutItsIntentOnRecord(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	h.sink.FailAfter(0)
	ran := false
	err := h.gate.Do(t.Context(), request(auth.RoleGovernor, gate.DestroyVersion), func(gate.Token) error { ran = true; return nil })
	if ran || !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("ran %v, %v; want AUDIT_UNAVAILABLE and nothing run", ran, err)
	}
	if h.gate.InFlight() != 0 {
		t.Error("a token is in flight")
	}
	// From now on the sink says so by itself, and data operations do not run either.
	for _, req := range []gate.Request{request(auth.RoleWorkload, gate.Encrypt), request(auth.RoleGovernor, gate.GetTenant), {}} {
		if err := h.gate.Do(t.Context(), req, func(gate.Token) error { ran = true; return nil }); ran || !errs.Is(err, errs.AuditUnavailable) {
			t.Errorf("%s: ran %v, %v", req.Act, ran, err)
		}
	}
	if err := h.gate.DoNode(corr.With(t.Context(), id), gate.NodeUnseal, "seal", func(gate.Token) error { ran = true; return nil }); ran || !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("node: ran %v, %v", ran, err)
	}
}

func TestI3_IntentIsOnRecordBeforeTheActRuns(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	err := h.gate.Do(t.Context(), request(auth.RoleGovernor, gate.RotateService), func(gate.Token) error {
		rec := h.sink.Records()
		if len(rec) != 1 || rec[0].Phase != audit.Intent || rec[0].Class != audit.Control || rec[0].Outcome != errs.OutcomeUnspecified {
			t.Errorf("records while it runs: %+v", rec)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestI2_NoReplyWithoutItsRecord(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		role auth.Role
		act  gate.Act
		ends error
		want errs.Code
	}{
		"data, success":            {auth.RoleWorkload, gate.Decrypt, nil, errs.AuditUnavailable},
		"data, refusal":            {auth.RoleWorkload, gate.Decrypt, errs.DoesNotOpen(nil), errs.AuditUnavailable},
		"control, success":         {auth.RoleGovernor, gate.RotateTenant, nil, errs.Indeterminate},
		"control, may stand":       {auth.RoleGovernor, gate.RotateTenant, errs.New(errs.DeadlineExceeded, "x"), errs.Indeterminate},
		"control, waits":           {auth.RoleGovernor, gate.RotateTenant, errs.New(errs.ApprovalPending, "x"), errs.Indeterminate},
		"control, nothing changed": {auth.RoleGovernor, gate.RotateTenant, errs.New(errs.FailedState, "x"), errs.AuditUnavailable},
	} {
		h := newHarness(t, gate.RolePolicy{})
		err := h.gate.Do(t.Context(), request(tc.role, tc.act), func(gate.Token) error {
			h.sink.FailAfter(0)
			return tc.ends
		})
		if errs.Of(err) != tc.want || !errors.Is(err, errs.New(errs.AuditUnavailable, "")) {
			t.Errorf("%s: %v (%v), want %v because of AUDIT_UNAVAILABLE", name, err, errs.Of(err), tc.want)
		}
	}
}

func TestI8_TheLastQuestionComesBetweenRecordAndReply(t *testing.T) {
	t.Parallel()
	no := errs.New(errs.NotServing, "no lease", errs.Cause(errors.New("the clock jumped")))
	for name, tc := range map[string]struct {
		ends, last error
		fails      bool // the sink, at the correction
		want       error
		code       errs.Code
		records    []string
	}{
		"success that may leave":      {nil, nil, false, nil, errs.Unspecified, []string{"whole ok OK 9 "}},
		"success that may not leave":  {nil, no, false, no, errs.NotServing, []string{"whole ok OK 9 ", "correction failed NOT_SERVING 0 the clock jumped"}},
		"refusal that may not leave":  {errs.New(errs.FailedState, "x"), no, false, no, errs.NotServing, []string{"whole refused FAILED_STATE 9 ", "correction failed NOT_SERVING 0 the clock jumped"}},
		"refusal that may leave":      {no, nil, false, no, errs.NotServing, []string{"whole failed NOT_SERVING 9 the clock jumped"}},
		"correction without a record": {nil, no, true, nil, errs.AuditUnavailable, []string{"whole ok OK 9 "}},
	} {
		h := newHarness(t, gate.RolePolicy{})
		req := request(auth.RoleWorkload, gate.Decrypt)
		req.Attempt = 2
		err := h.gate.Do(t.Context(), req, func(tok gate.Token) error {
			tok.Describe(gate.Details{BytesOut: 9})
			tok.Last(func() error { t.Errorf("%s: the first question counts", name); return nil })
			tok.Last(func() error {
				if n := len(h.sink.Records()); n != 1 {
					t.Errorf("%s: %d records when the last question is asked", name, n)
				}
				if tc.fails {
					h.sink.FailAfter(0)
				}
				return tc.last
			})
			return tc.ends
		})
		if errs.Of(err) != tc.code && (err != nil || tc.code != errs.Unspecified) || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, r := range h.sink.Records() {
			got = append(got, fmt.Sprintf("%s %s %s %d %s", r.Phase, r.Outcome, r.Code, r.BytesOut, r.Cause))
			if r.Correlation != id || r.Attempt != 2 || r.Object != req.Object || r.Principal != req.Principal.String() {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if diff := cmp.Diff(tc.records, got); diff != "" {
			t.Errorf("%s: records (-want +got):\n%s", name, diff)
		}
		if h.gate.InFlight() != 0 {
			t.Errorf("%s: a token is in flight", name)
		}
	}
}

func TestRecordSaysHowItEnded(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	req := request(auth.RoleWorkload, gate.Decrypt)
	req.Attempt, req.Via = 3, "n2"
	want := errs.DoesNotOpen(errors.New("tag mismatch"))
	err := h.gate.Do(t.Context(), req, func(tok gate.Token) error {
		h.clock.Advance(142 * time.Microsecond)
		tok.Describe(gate.Details{BytesIn: 7, BytesOut: 9, KeyVersion: "v", KeystoreRequest: "k"})
		if tok.Attempt() != 3 || tok.Correlation() != id || tok.Act() != gate.Decrypt || tok.Object() != req.Object || tok.Principal() != req.Principal {
			t.Error("the token does not say what was asked")
		}
		return want
	})
	if !errors.Is(err, want) {
		t.Fatalf("got %v", err)
	}
	wantRec := audit.Record{
		Seq: 1, Node: "test", Class: audit.Data, Phase: audit.Whole, Act: "crypto.decrypt", Outcome: errs.OutcomeRefused, Correlation: id, Attempt: 3,
		Object: req.Object, Principal: req.Principal.String(), Role: "workload", Via: "n2", Code: errs.Integrity, LatencyUs: 142,
		BytesIn: 7, BytesOut: 9, KeyVersion: "v", KeystoreRequest: "k", Cause: "tag mismatch",
	}
	if diff := cmp.Diff([]audit.Record{wantRec}, h.sink.Records()); diff != "" {
		t.Errorf("record differs (-want +got):\n%s", diff)
	}

	// A cause that the operation gave wins, and an error without a code is internal.
	_ = h.gate.Do(t.Context(), req, func(tok gate.Token) error {
		tok.Describe(gate.Details{Cause: "mine"})
		return want
	})
	_ = h.gate.Do(t.Context(), req, func(gate.Token) error { return errors.New("disk on fire") })
	rec := h.sink.Records()
	if rec[1].Cause != "mine" || rec[2].Code != errs.Internal || rec[2].Cause != "disk on fire" || rec[2].Outcome != errs.OutcomeFailed {
		t.Errorf("records %+v", rec[1:])
	}
}

func TestPanicIsRecordedAndGoesOn(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	func() {
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = h.gate.Do(t.Context(), request(auth.RoleGovernor, gate.RotateTenant), func(gate.Token) error { panic("boom") })
	}()
	rec := h.sink.Records()
	if len(rec) != 2 || rec[1].Outcome != errs.OutcomeFailed || rec[1].Phase != audit.Outcome {
		t.Errorf("records %+v", rec)
	}
	if h.gate.InFlight() != 0 {
		t.Error("a token is in flight")
	}
}

func TestI7_PolicyThatFailsDenies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy policyFunc
		want   errs.Code
		cause  string
	}{
		"error": {func(gate.Query) (gate.Verdict, error) { return gate.Verdict{}, errors.New("bad rule") }, errs.Denied, "policy failed: bad rule"},
		"error beside an allow": {func(gate.Query) (gate.Verdict, error) {
			return gate.Verdict{Decision: gate.Allow}, errors.New("bad rule")
		}, errs.Denied, "policy failed: bad rule"},
		"zero verdict":     {func(gate.Query) (gate.Verdict, error) { return gate.Verdict{}, nil }, errs.Denied, ""},
		"unknown decision": {func(gate.Query) (gate.Verdict, error) { return gate.Verdict{Decision: 9, Reason: "?"}, nil }, errs.Denied, "?"},
		"hide": {func(gate.Query) (gate.Verdict, error) {
			return gate.Verdict{Decision: gate.Hide, Reason: "secret"}, nil
		}, errs.NotFound, "secret"},
	} {
		h := newHarness(t, tc.policy)
		_, err := h.gate.Enter(t.Context(), request(auth.RoleWorkload, gate.Encrypt))
		rec := h.sink.Records()
		if !errs.Is(err, tc.want) || len(rec) != 1 || rec[0].Outcome != errs.OutcomeDenied || rec[0].Cause != tc.cause {
			t.Errorf("%s: %v, records %+v", name, err, rec)
		}
		if strings.Contains(err.Error(), "bad rule") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the caller learns %q", name, err)
		}
	}
}

func TestPolicySeesTheWholeQuestion(t *testing.T) {
	t.Parallel()
	var got gate.Query
	h := newHarness(t, policyFunc(func(q gate.Query) (gate.Verdict, error) { got = q; return gate.Verdict{}, nil }))
	req := request(auth.RoleWorkload, gate.Encrypt)
	_, _ = h.gate.Enter(t.Context(), req)
	if diff := cmp.Diff(gate.Query{Principal: req.Principal, Act: req.Act, Object: req.Object, Tenant: "acme"}, got); diff != "" {
		t.Errorf("query differs (-want +got):\n%s", diff)
	}
	req = request(auth.RoleGovernor, gate.DeleteTenant)
	req.Approval, req.Stage = "approvals/a", gate.Asked
	_, _ = h.gate.Enter(t.Context(), req)
	if !got.Asked {
		t.Error("the policy is not told that others shall be asked")
	}
}

func mustPanic(t *testing.T, name string, f func()) {
	t.Helper()
	defer func() {
		if r := recover(); r == nil {
			t.Errorf("%s: nothing happened", name)
		} else if s, ok := r.(string); !ok || !strings.HasPrefix(s, "gate: internal error: ") {
			t.Errorf("%s: panic %v", name, r)
		}
	}()
	f()
}

func TestI1_TokensCannotBeMadeUsedTwiceOrLent(t *testing.T) {
	t.Parallel()
	var zero gate.Token
	for name, f := range map[string]func(gate.Token){
		"Require":   func(tok gate.Token) { _ = tok.Require(gate.Encrypt, "x") },
		"Finish":    func(tok gate.Token) { _ = tok.Finish(nil) },
		"Principal": func(tok gate.Token) { tok.Principal() },
		"Describe":  func(tok gate.Token) { tok.Describe(gate.Details{}) },
		"Object":    func(tok gate.Token) { tok.Object() },
	} {
		mustPanic(t, "zero token: "+name, func() { f(zero) })
		h := newHarness(t, gate.RolePolicy{})
		tok, err := h.gate.Enter(t.Context(), request(auth.RoleWorkload, gate.Encrypt))
		if err != nil {
			t.Fatal(err)
		}
		if err := tok.Finish(nil); err != nil {
			t.Fatal(err)
		}
		mustPanic(t, "finished token: "+name, func() { f(tok) })
		if n := len(h.sink.Records()); n != 1 {
			t.Errorf("%s: %d records", name, n)
		}
	}
	h := newHarness(t, gate.RolePolicy{})
	if tok, err := h.gate.Enter(t.Context(), request(auth.RoleAuditor, gate.Encrypt)); err == nil || tok != (gate.Token{}) {
		t.Error("a refusal came with a token")
	}
	tok, err := h.gate.Enter(t.Context(), request(auth.RoleWorkload, gate.Encrypt))
	if err != nil {
		t.Fatal(err)
	}
	object := objectOf(gate.Encrypt)
	if err := tok.Require(gate.Encrypt, object); err != nil {
		t.Errorf("its own act: %v", err)
	}
	if err := tok.Require(gate.Decrypt, object); !errs.Is(err, errs.Denied) {
		t.Errorf("another act: %v", err)
	}
	if err := tok.Require(gate.Encrypt, object+"x"); !errs.Is(err, errs.Denied) {
		t.Errorf("another object: %v", err)
	}
	if err := tok.Finish(nil); err != nil {
		t.Fatal(err)
	}
}

func TestI1_AbandonedTokenIsNoticed(t *testing.T) {
	t.Parallel()
	if !invariants.Enabled {
		t.Log("only builds with the tag invariants look for abandoned tokens")
		return
	}
	got := make(chan gate.Act, 1)
	g, err := gate.New(gate.Config{Node: "n1", Sink: &audittest.Memory{}, Policy: gate.RolePolicy{}, Clock: clock.NewFake(start), OnAbandoned: func(a gate.Act) { got <- a }})
	if err != nil {
		t.Fatal(err)
	}
	for _, finish := range []bool{true, false} {
		func() {
			tok, err := g.Enter(t.Context(), request(auth.RoleWorkload, gate.Decrypt))
			if err != nil {
				t.Fatal(err)
			}
			if finish {
				if err := tok.Finish(nil); err != nil {
					t.Fatal(err)
				}
			}
		}()
	}
	if g.InFlight() != 1 {
		t.Errorf("%d tokens in flight, want 1", g.InFlight())
	}
	deadline := time.After(10 * time.Second)
	for {
		runtime.GC()
		select {
		case a := <-got:
			if a != gate.Decrypt {
				t.Errorf("abandoned %s", a)
			}
			select {
			case a := <-got:
				t.Errorf("a finished token for %s is called abandoned", a)
			default:
			}
			return
		case <-deadline:
			t.Fatal("nobody noticed")
		default:
			runtime.Gosched()
		}
	}
}

func TestNewNeedsEverything(t *testing.T) {
	t.Parallel()
	full := gate.Config{Node: "n", Sink: &audittest.Memory{}, Policy: gate.RolePolicy{}, Clock: clock.System{}}
	for name, change := range map[string]func(*gate.Config){
		"node": func(c *gate.Config) { c.Node = "" }, "sink": func(c *gate.Config) { c.Sink = nil },
		"policy": func(c *gate.Config) { c.Policy = nil }, "clock": func(c *gate.Config) { c.Clock = nil },
	} {
		c := full
		change(&c)
		if _, err := gate.New(c); !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestCallsWithoutAnActOrAnIdDoNotEnter(t *testing.T) {
	t.Parallel()
	h := newHarness(t, policyFunc(allowAll))
	for name, change := range map[string]func(*gate.Request){
		"no act":            func(r *gate.Request) { r.Act = 0 },
		"unknown act":       func(r *gate.Request) { r.Act = 999 },
		"no correlation id": func(r *gate.Request) { r.Correlation = "" },
	} {
		req := request(auth.RoleWorkload, gate.Encrypt)
		change(&req)
		if _, err := h.gate.Enter(t.Context(), req); !errs.Is(err, errs.Internal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	req := request(auth.RoleWorkload, gate.Encrypt)
	req.Correlation = ""
	if err := h.gate.Do(corr.With(t.Context(), id), req, func(gate.Token) error { return nil }); err != nil {
		t.Errorf("id in the context: %v", err)
	}
	if r := h.sink.Records(); len(r) != 1 || r[0].Correlation != id {
		t.Errorf("records %+v", r)
	}
}

func TestI6_StrangersCannotFillTheLog(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	req := request(auth.RoleWorkload, gate.Encrypt)
	req.Principal = auth.Principal{}
	knock := func(n int) {
		t.Helper()
		for range n {
			if err := h.gate.Do(t.Context(), req, func(gate.Token) error { t.Error("ran"); return nil }); !errs.Is(err, errs.Unauthenticated) {
				t.Fatalf("got %v, want UNAUTHENTICATED", err)
			}
		}
	}
	knock(10_000)
	if n := len(h.sink.Records()); n != gate.StrayBurst {
		t.Fatalf("%d records for 10000 knocks, want %d", n, gate.StrayBurst)
	}
	if r := h.sink.Records()[0]; r.Principal != "unauthenticated" || r.Code != errs.Unauthenticated || r.Outcome != errs.OutcomeDenied || r.Class != audit.Data {
		t.Errorf("record %+v", r)
	}
	// Somebody honest comes after the window: the count is recorded first.
	h.clock.Advance(gate.StrayWindow)
	if err := h.gate.Do(t.Context(), request(auth.RoleWorkload, gate.Encrypt), func(gate.Token) error { return nil }); err != nil {
		t.Fatal(err)
	}
	rec := h.sink.Records()[gate.StrayBurst:]
	if len(rec) != 2 || rec[0].Act != gate.ActStrays || rec[0].Count != 10_000-gate.StrayBurst || rec[1].Act != "crypto.encrypt" {
		t.Errorf("records %+v", rec)
	}
	// A new window has a new burst, and Flush writes what is left.
	knock(gate.StrayBurst + 5)
	h.gate.Flush()
	h.gate.Flush()
	rec = h.sink.Records()[gate.StrayBurst+2:]
	if len(rec) != gate.StrayBurst+1 || rec[gate.StrayBurst].Count != 5 {
		t.Errorf("%d records, last %+v", len(rec), rec[len(rec)-1])
	}
}

// TestI6_RefusalsForABudgetCannotFillTheLog: one caller has one record in a window, so
// that others have room for theirs, and all have a bound.
func TestI6_RefusalsForABudgetCannotFillTheLog(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	refusal := errs.New(errs.Throttled, "too many")
	refuse := func(name string, n int) {
		t.Helper()
		req := request(auth.RoleWorkload, gate.Encrypt)
		req.Principal.Name = name
		for range n {
			if err := h.gate.Limited(req, refusal); err != nil {
				t.Fatal(err)
			}
		}
	}
	refuse("loud", 10_000)
	refuse("second", 5)
	rec := h.sink.Records()
	if len(rec) != 2 || !strings.HasSuffix(rec[0].Principal, "/loud") || !strings.HasSuffix(rec[1].Principal, "/second") {
		t.Fatalf("records %+v", rec)
	}
	if r := rec[0]; r.Act != gate.ActLimited || r.Code != errs.Throttled || r.Outcome != errs.OutcomeFailed || r.Class != audit.Data || r.Role != "workload" || r.Cause != "too many" {
		t.Errorf("record %+v", r)
	}
	for i := range 100 {
		refuse(fmt.Sprintf("many-%d", i), 3)
	}
	if n := len(h.sink.Records()); n != gate.StrayBurst {
		t.Errorf("%d records in one window", n)
	}
	// The next call of anybody after the window writes the count, and who is still
	// refused has a record again.
	h.clock.Advance(gate.StrayWindow)
	if err := h.gate.Do(t.Context(), request(auth.RoleWorkload, gate.Encrypt), func(gate.Token) error { return nil }); err != nil {
		t.Fatal(err)
	}
	refuse("loud", 2)
	h.gate.Flush()
	rec = h.sink.Records()[gate.StrayBurst:]
	if len(rec) != 4 || rec[0].Act != gate.ActLimited || rec[0].Count != 10_000+5+300-gate.StrayBurst || rec[0].Principal != "several" ||
		rec[1].Act != "crypto.encrypt" || !strings.HasSuffix(rec[2].Principal, "/loud") || rec[3].Count != 1 {
		t.Errorf("records %+v", rec)
	}
	// Strangers have a window of their own.
	if _ = h.gate.Unauthenticated(t.Context(), gate.Request{Correlation: id}, nil); h.sink.Records()[len(h.sink.Records())-1].Code != errs.Unauthenticated {
		t.Error("a stranger has no record because others were limited")
	}
	h.sink.FailAfter(0)
	h.clock.Advance(gate.StrayWindow)
	req := request(auth.RoleWorkload, gate.Encrypt)
	if err := h.gate.Limited(req, refusal); !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("a refusal without its record: %v", err)
	}
}

func TestI6_FailedHandshakesHaveTheirCause(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	err := h.gate.Unauthenticated(t.Context(), gate.Request{Correlation: id}, errors.New("handshake broke off"))
	if !errs.Is(err, errs.Unauthenticated) || strings.Contains(err.Error(), "handshake broke off") {
		t.Errorf("got %v", err)
	}
	r := h.sink.Records()[0]
	if r.Cause != "handshake broke off" || r.Act != "unspecified" || r.Correlation != id {
		t.Errorf("record %+v", r)
	}
	// Also an incomplete principal is nobody.
	req := request(auth.RoleGovernor, gate.GetTenant)
	req.Principal.Issuer = auth.Issuer{}
	if _, err := h.gate.Enter(t.Context(), req); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("principal without an issuer: %v", err)
	}
}

func TestI6_DenialIsNotAnsweredWithoutItsRecord(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	h.sink.FailAfter(0)
	if _, err := h.gate.Enter(t.Context(), request(auth.RoleAuditor, gate.Encrypt)); !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestConcurrentOperationsHaveOneRecordEach(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	var wg sync.WaitGroup
	const callers, each = 8, 100
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				req := request(auth.RoleWorkload, gate.Encrypt)
				req.Attempt = uint32(c*each + i + 1)
				if i%10 == 0 {
					req.Principal = auth.Principal{}
				}
				_ = h.gate.Do(t.Context(), req, func(gate.Token) error { return nil })
			}
		})
	}
	wg.Wait()
	h.gate.Flush()
	var ok, denied uint64
	for _, r := range h.sink.Records() {
		switch {
		case r.Outcome == errs.OutcomeOK:
			ok++
		case r.Act == gate.ActStrays:
			denied += r.Count
		default:
			denied++
		}
	}
	if ok != callers*each*9/10 || denied != callers*each/10 || h.gate.InFlight() != 0 {
		t.Errorf("%d served, %d refused, %d in flight", ok, denied, h.gate.InFlight())
	}
}

// TestI4_WhoMayAskForSignaturesAndHaveItDone: governors and custodians as far as the
// policy lets them, and never somebody who uses keys or runs nodes.
func TestI4_WhoMayAskForSignaturesAndHaveItDone(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	n := 0
	for _, a := range gate.Acts() {
		if a.Duty() == gate.DutySystem {
			continue
		}
		for _, r := range auth.Roles() {
			for _, s := range []gate.Stage{gate.Asked, gate.Signed} {
				req := request(r, a)
				req.Approval, req.Stage, req.ApprovedBy = "approvals/a", s, "governor/bob"
				before := len(h.sink.Records())
				err := h.gate.Do(t.Context(), req, func(gate.Token) error { return nil })
				want := errs.Denied
				switch {
				case !a.Sovereign():
					want = errs.Internal
				case r == auth.RoleGovernor, r == auth.RoleCustodian && (s == gate.Signed || a.Duty() == gate.DutyApprove):
					want = errs.Unspecified
				case r == auth.RoleWorkload && strings.HasPrefix(req.Object, "tenants/") && req.Principal.Tenant != "acme":
					want = errs.NotFound
				}
				if errs.Of(err) != want && (err != nil || want != errs.Unspecified) {
					t.Errorf("%s for %s in stage %d: %v, want %v", r, a, s, err, want)
				}
				for _, rec := range h.sink.Records()[before:] {
					if n++; rec.Approval != "approvals/a" || rec.ApprovedBy != "governor/bob" || rec.Principal != req.Principal.String() {
						t.Errorf("record %+v", rec)
					}
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d records", n)
	}
	for name, change := range map[string]func(*gate.Request){
		"an approval without a stage": func(r *gate.Request) { r.Stage = gate.NoApproval },
		"a stage without an approval": func(r *gate.Request) { r.Approval = "" },
		"no such stage":               func(r *gate.Request) { r.Stage = 3 },
		"a negative stage":            func(r *gate.Request) { r.Stage = -1 },
	} {
		req := request(auth.RoleGovernor, gate.DeleteTenant)
		req.Approval, req.Stage = "approvals/a", gate.Signed
		change(&req)
		if _, err := h.gate.Enter(t.Context(), req); !errs.Is(err, errs.Internal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
