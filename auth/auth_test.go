package auth_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

func TestI1_ZeroValuesAreInvalid(t *testing.T) {
	t.Parallel()
	if auth.RoleUnspecified.Valid() || auth.Role(6).Valid() || (auth.Principal{}).Valid() {
		t.Error("a zero or unknown role or principal is valid")
	}
	if _, err := auth.ParseRole("unspecified"); err == nil {
		t.Error("ParseRole accepts the zero role by name")
	}
	if _, err := (auth.ID{}).Principal(auth.Issuer{1}); err == nil {
		t.Error("a zero ID became a principal")
	}
	good := auth.ID{TrustDomain: "t", Role: auth.RoleOperator, Name: "a"}
	if _, err := good.Principal(auth.Issuer{}); err == nil {
		t.Error("a principal without an issuer")
	}
}

// The numbers are stored; a change here is a change of the format.
func TestRoleNumbersAreStable(t *testing.T) {
	t.Parallel()
	want := map[auth.Role]string{1: "governor", 2: "custodian", 3: "operator", 4: "auditor", 5: "workload"}
	if len(auth.Roles()) != len(want) {
		t.Fatalf("got %d roles, want %d", len(auth.Roles()), len(want))
	}
	for r, name := range want {
		if r.String() != name {
			t.Errorf("role %d is %q, want %q", r, r, name)
		}
		if got, err := auth.ParseRole(name); err != nil || got != r {
			t.Errorf("ParseRole(%q) = %v, %v", name, got, err)
		}
		wantKind := auth.KindPerson
		if name == "workload" {
			wantKind = auth.KindWorkload
		}
		if r.Kind() != wantKind {
			t.Errorf("kind of %s is %s", r, r.Kind())
		}
	}
}

func TestI2_ParseIDAcceptsOneSpellingOnly(t *testing.T) {
	t.Parallel()
	good := []string{
		"spiffe://bank.example/krypton/governor/alice",
		"spiffe://b/krypton/custodian/0",
		"spiffe://a_b-c.d/krypton/operator/a.b_c-d",
		"spiffe://bank.example/krypton/auditor/" + strings.Repeat("x", 63),
		"spiffe://bank.example/krypton/workload/acme/payments",
		"spiffe://bank.example/krypton/workload/acme/00112233445566778899aabbccddeeff/payments",
	}
	for _, s := range good {
		id, err := auth.ParseID(s)
		if err != nil || id.String() != s {
			t.Errorf("ParseID(%q) = %v, %v", s, id, err)
		}
	}
	bad := map[string]string{
		"empty":                    "",
		"other scheme":             "https://bank.example/krypton/governor/alice",
		"upper-case scheme":        "SPIFFE://bank.example/krypton/governor/alice",
		"upper-case role":          "spiffe://bank.example/krypton/Governor/alice",
		"upper-case domain":        "spiffe://Bank.example/krypton/governor/alice",
		"user info":                "spiffe://root@bank.example/krypton/governor/alice",
		"port":                     "spiffe://bank.example:1/krypton/governor/alice",
		"query":                    "spiffe://bank.example/krypton/governor/alice?x=1",
		"empty query":              "spiffe://bank.example/krypton/governor/alice?",
		"fragment":                 "spiffe://bank.example/krypton/governor/alice#x",
		"empty fragment":           "spiffe://bank.example/krypton/governor/alice#",
		"percent-encoded name":     "spiffe://bank.example/krypton/governor/%61lice",
		"percent-encoded slash":    "spiffe://bank.example/krypton/workload%2facme/app",
		"trailing slash":           "spiffe://bank.example/krypton/governor/alice/",
		"double slash":             "spiffe://bank.example//krypton/governor/alice",
		"no domain":                "spiffe:///krypton/governor/alice",
		"empty domain label":       "spiffe://bank..example/krypton/governor/alice",
		"domain ends with dot":     "spiffe://bank./krypton/governor/alice",
		"other path root":          "spiffe://bank.example/kryptonite/governor/alice",
		"no role":                  "spiffe://bank.example/krypton/alice",
		"unknown role":             "spiffe://bank.example/krypton/admin/alice",
		"node":                     "spiffe://bank.example/krypton/node/n1",
		"person with tenant":       "spiffe://bank.example/krypton/governor/acme/alice",
		"workload without tenant":  "spiffe://bank.example/krypton/workload/app",
		"workload with two names":  "spiffe://bank.example/krypton/workload/acme/app/b",
		"tenant uid in upper case": "spiffe://bank.example/krypton/workload/acme/00112233445566778899AABBCCDDEEFF/app",
		"tenant uid of zeros":      "spiffe://bank.example/krypton/workload/acme/00000000000000000000000000000000/app",
		"tenant uid too short":     "spiffe://bank.example/krypton/workload/acme/0011223344556677/app",
		"tenant with a dot":        "spiffe://bank.example/krypton/workload/ac.me/app",
		"tenant with a digit":      "spiffe://bank.example/krypton/workload/1acme/app",
		"empty tenant":             "spiffe://bank.example/krypton/workload//app",
		"name begins with dash":    "spiffe://bank.example/krypton/governor/-a",
		"dot segment":              "spiffe://bank.example/krypton/governor/..",
		"name of 64":               "spiffe://bank.example/krypton/auditor/" + strings.Repeat("x", 64),
		"blank":                    "spiffe://bank.example/krypton/governor/al ice",
		"NUL":                      "spiffe://bank.example/krypton/governor/alice\x00",
		"not ASCII":                "spiffe://bank.example/krypton/governor/al\u00efce",
		"very long":                "spiffe://" + strings.Repeat("a", 5000) + "/krypton/governor/alice",
		"domain of 256":            "spiffe://" + strings.Repeat("a", 256) + "/krypton/governor/alice",
	}
	for name, s := range bad {
		if id, err := auth.ParseID(s); err == nil {
			t.Errorf("%s: ParseID(%q) = %+v", name, s, id)
		}
	}
}

func TestI3_TenantExactlyForWorkloads(t *testing.T) {
	t.Parallel()
	for _, r := range auth.Roles() {
		for _, tenant := range []hierarchy.Name{"", "acme"} {
			p := auth.Principal{Issuer: auth.Issuer{1}, Role: r, Tenant: tenant, Name: "x"}
			if got, want := p.Valid(), (r == auth.RoleWorkload) == (tenant != ""); got != want {
				t.Errorf("%s with tenant %q: valid = %v, want %v", r, tenant, got, want)
			}
		}
	}
}

func TestI3_IDsOfPeopleHaveNoTenant(t *testing.T) {
	t.Parallel()
	uid := auth.ID{TrustDomain: "b", Role: auth.RoleGovernor, TenantUID: hierarchy.UID{1}, Name: "alice"}
	if err := uid.Validate(); err == nil {
		t.Error("a governor with a tenant's uid is valid")
	}
	if p := (auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleGovernor, TenantUID: hierarchy.UID{1}, Name: "alice"}); p.Valid() {
		t.Error("a principal that is a governor with a tenant's uid is valid")
	}
	id := auth.ID{TrustDomain: "b", Role: auth.RoleGovernor, Tenant: "acme", Name: "alice"}
	if err := id.Validate(); err == nil {
		t.Error("a governor of a tenant is valid")
	}
	if p, err := id.Principal(auth.Issuer{1}); err == nil {
		t.Errorf("and became %+v", p)
	}
}

func TestPrincipalTextRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := auth.Principal{
			Issuer: auth.Issuer(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "issuer")),
			Role:   rapid.SampledFrom(auth.Roles()).Draw(t, "role"),
			Name:   rapid.StringMatching(`[a-z0-9]([a-z0-9._-]{0,62})`).Draw(t, "name"),
		}
		p.Issuer[0] |= 1
		if p.Role == auth.RoleWorkload {
			p.Tenant = hierarchy.Name(rapid.StringMatching(`[a-z]([a-z0-9-]{0,61}[a-z0-9])?`).Draw(t, "tenant"))
			copy(p.TenantUID[:], rapid.SliceOfN(rapid.Byte(), 0, 16).Draw(t, "tenant uid"))
		}
		if !p.Valid() {
			t.Fatalf("%+v is not valid", p)
		}
		got, err := auth.ParsePrincipal(p.String())
		if err != nil || got != p {
			t.Fatalf("ParsePrincipal(%q) = %+v, %v", p, got, err)
		}
	})
	if !auth.LocalOperator().Valid() {
		t.Error("the local operator is not valid")
	}
	if got := (auth.Principal{}).String(); got != "unauthenticated" {
		t.Errorf("zero principal is %q", got)
	}
}

func TestIdentityIsTheSameInEveryRole(t *testing.T) {
	t.Parallel()
	gov := auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleGovernor, Name: "alice"}
	oper := gov
	oper.Role = auth.RoleOperator
	if gov == oper || gov.Identity() != oper.Identity() {
		t.Error("one person in two roles has two identities")
	}
	a := auth.Principal{Issuer: auth.Issuer{1}, Role: auth.RoleWorkload, Tenant: "a", Name: "alice"}
	b := a
	b.Tenant = "b"
	if a.Identity() == b.Identity() || a.Identity() == gov.Identity() {
		t.Error("workloads of two tenants, or a workload and a person, are one identity")
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://bank.example/krypton/governor/alice")
	f.Add("spiffe://bank.example/krypton/workload/acme/app")
	f.Add("spiffe://bank.example/krypton/workload/%61cme/app?x#y")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := auth.ParseID(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Errorf("%q was read as %q", s, id) // I2
		}
		if p, err := id.Principal(auth.Issuer{1}); err != nil || !p.Valid() {
			t.Errorf("%q is no principal: %v", s, err)
		}
	})
}

func FuzzParsePrincipal(f *testing.F) {
	f.Add("00112233445566778899aabbccddeeff/workload/acme/app")
	f.Add("00112233445566778899aabbccddeeff/governor/alice")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := auth.ParsePrincipal(s); err == nil && p.String() != s {
			t.Errorf("%q was read as %q", s, p)
		}
	})
}
