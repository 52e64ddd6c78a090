package policy_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/policy"
)

// published reads the schema with Cedar's own reader. keys are declared as keys
// of the encryption context, as docs/policy.md tells users of other tools.
func published(t testing.TB, keys ...string) *resolved.Schema {
	t.Helper()
	text := policy.Schema
	if len(keys) > 0 {
		var b strings.Builder
		for _, k := range keys {
			b.WriteString(string(types.String(k).MarshalCedar()) + "?: String, ")
		}
		text = strings.Replace(text, "type EncryptionContext = {}", "type EncryptionContext = {"+b.String()+"}", 1)
	}
	var s schema.Schema
	s.SetFilename("krypton.cedarschema")
	if err := s.UnmarshalCedar([]byte(text)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func typeText(t resolved.IsType) string {
	switch t := t.(type) {
	case resolved.StringType:
		return "String"
	case resolved.LongType:
		return "Long"
	case resolved.RecordType:
		var all []string
		for name, a := range t {
			s := string(name) + ": " + typeText(a.Type)
			if a.Optional {
				s = string(name) + "?: " + typeText(a.Type)
			}
			all = append(all, s)
		}
		slices.Sort(all)
		return "{" + strings.Join(all, ", ") + "}"
	}
	return "another type"
}

// describe writes a schema as lines that the tables of the checker can be
// compared with.
func describe(s *resolved.Schema) []string {
	var all []string
	for name, e := range s.Entities {
		parents := make([]string, 0, len(e.ParentTypes))
		for _, p := range e.ParentTypes {
			parents = append(parents, string(p))
		}
		slices.Sort(parents)
		all = append(all, "entity "+string(name)+" in "+strings.Join(parents, " ")+" = "+typeText(e.Shape))
	}
	for uid, a := range s.Actions {
		line := "action " + string(uid.ID)
		for p := range a.Entity.Parents.All() {
			line += " in " + string(p.ID)
		}
		if a.AppliesTo != nil {
			for _, list := range [][]types.EntityType{a.AppliesTo.Principals, a.AppliesTo.Resources} {
				names := slices.Clone(list)
				slices.Sort(names)
				line += " |"
				for _, n := range names {
					line += " " + string(n)
				}
			}
			line += " | " + typeText(a.AppliesTo.Context)
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

func TestI1_ThePublishedSchemaIsTheOneThatIsEnforced(t *testing.T) {
	t.Parallel()
	s := published(t)
	if diff := cmp.Diff(policy.EnforcedSchema(), describe(s)); diff != "" {
		t.Errorf("tables of the checker (-) and krypton.cedarschema (+) differ:\n%s", diff)
	}
	if len(s.Enums) != 0 || len(s.Entities) != 5 {
		t.Errorf("%d entity types, %d enums", len(s.Entities), len(s.Enums))
	}
}

// sink takes records that nobody reads here.
type sink struct{}

func (sink) Append(audit.Record) error { return nil }
func (sink) Err() error                { return nil }

func TestEveryActOfATenantIsRuledOrBeyondPolicies(t *testing.T) {
	t.Parallel()
	g, err := gate.New(gate.Config{Node: "n1", Sink: sink{}, Policy: gate.RolePolicy{}, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, act := range gate.Acts() {
		if act.Duty() == gate.DutySystem || !ofATenant(t, g, act) {
			if _, ok := policy.ActionNamed(act.String()); ok {
				t.Errorf("%s is an action of the schema, and no act on a tenant that somebody asks for", act)
			}
			continue
		}
		named[act.String()] = true
		why, beyond := policy.Beyond(act.String())
		a, ruled := policy.ActionNamed(act.String())
		switch {
		case ruled == beyond:
			t.Errorf("%s must be either in the schema or in the list of acts beyond policies (%v, %v)", act, ruled, beyond)
		case beyond && len(why) < 10:
			t.Errorf("%s is beyond policies without a reason", act)
		case ruled && a.String() != act.String():
			t.Errorf("%s is called %s in the schema", act, a)
		}
	}
	for _, a := range policy.Actions() {
		if !named[a.String()] {
			t.Errorf("%s is no act on a tenant", a)
		}
	}
	if len(named) < 30 {
		t.Errorf("only %d acts on tenants are found: the test looks at the wrong place", len(named))
	}
}

// ofATenant reports whether the gate takes the name of a tenant for act: it
// judges names before anything else.
func ofATenant(t *testing.T, g *gate.Gate, act gate.Act) bool {
	t.Helper()
	p := auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleGovernor, Name: "alice"}
	tok, err := g.Enter(t.Context(), gate.Request{Principal: p, Act: act, Object: "tenants/acme", Correlation: "c"})
	if err == nil {
		if err := tok.Finish(nil); err != nil {
			t.Fatal(err)
		}
		return true
	}
	return !strings.Contains(err.Error(), "does not fit")
}

// TestTheSchemaAdmitsWhomTheTableOfRolesAdmits: no action is in the schema for a
// kind of principal that can never get so far, and the reverse.
func TestTheSchemaAdmitsWhomTheTableOfRolesAdmits(t *testing.T) {
	t.Parallel()
	for _, act := range gate.Acts() {
		a, ok := policy.ActionNamed(act.String())
		if !ok {
			continue
		}
		workload, person := policy.Admits(a)
		may := func(r auth.Role) bool {
			p := auth.Principal{Issuer: auth.Issuer{1}, Role: r, Name: "x"}
			if r == auth.RoleWorkload {
				p.Tenant = "acme"
			}
			v, err := gate.RolePolicy{}.Decide(gate.Query{Principal: p, Act: act, Tenant: "acme"})
			return err == nil && v.Decision == gate.Allow
		}
		people := false
		for _, r := range []auth.Role{auth.RoleGovernor, auth.RoleCustodian, auth.RoleOperator, auth.RoleAuditor} {
			people = people || may(r)
		}
		if workload != may(auth.RoleWorkload) || person != people {
			t.Errorf("%s: schema admits workloads %v, people %v; the table %v, %v", act, workload, person, may(auth.RoleWorkload), people)
		}
	}
}

func TestActionsHaveOneNameEach(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range policy.Actions() {
		if b, ok := policy.ActionNamed(a.String()); !ok || a != b || !a.Valid() || seen[a.String()] {
			t.Errorf("%d is called %q, which is %d", a, a, b)
		}
		seen[a.String()] = true
	}
	for _, bad := range []string{"", "use", "read", "govern", "unspecified", "crypto.Decrypt"} {
		if a, ok := policy.ActionNamed(bad); ok || a.Valid() {
			t.Errorf("%q is an action", bad)
		}
	}
}

func TestThePageShowsTheSchema(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), policy.Schema) {
		t.Error("docs/policy.md does not show krypton.cedarschema as it is; copy it there")
	}
}
