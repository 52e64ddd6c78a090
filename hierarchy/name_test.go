package hierarchy_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var nameRule = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func TestNamesAreExactlyTheDocumentedExpression(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, s string) {
		n, err := hierarchy.ParseName(s)
		want := nameRule.MatchString(s) && !strings.HasSuffix(s, "\n")
		if (err == nil) != want {
			t.Fatalf("ParseName(%q): %v, want valid=%v", s, err, want)
		}
		if err == nil && string(n) != s {
			t.Fatalf("ParseName(%q) = %q", s, n)
		}
		if err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Fatalf("ParseName(%q): code of %v", s, err)
		}
	}
	for _, s := range []string{
		"", "a", "z9", "-", "a-", "-a", "9a", "A", "aB", "a_b", "a.b", "a\n", "é", "a--b",
		strings.Repeat("a", 63), strings.Repeat("a", 64), "a" + strings.Repeat("-", 61) + "b", "a" + strings.Repeat("-", 62),
	} {
		check(t, s)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.StringMatching(`[a-zA-Z0-9-]{0,66}`).Draw(t, "name")) })
}

func TestResourceIDsRefuseWhatCouldForgeALogLine(t *testing.T) {
	for _, s := range []string{"", "a", "Orders/2026", "ключ", "a b", "a:b", strings.Repeat("é", 64), "zero\u200dwidth"} {
		if r, err := hierarchy.ParseResourceID(s); err != nil || string(r) != s {
			t.Errorf("ParseResourceID(%q) = %q, %v", s, r, err)
		}
	}
	for name, s := range map[string]string{
		"129 bytes": strings.Repeat("a", 129), "129 bytes in 65 runes": strings.Repeat("é", 64) + "a", "not UTF-8": "a\xff",
		"newline": "a\nb", "NUL": "\x00", "DEL": "\x7f", "C1": "\u0085", "line separator": "\u2028", "paragraph separator": "\u2029",
		"right-to-left override": "\u202e", "isolate": "\u2066", "dot": ".", "dots": "..",
	} {
		if _, err := hierarchy.ParseResourceID(s); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	for r := range unicode.MaxRune {
		refused := false
		if utf8.ValidRune(r) {
			_, err := hierarchy.ParseResourceID("x" + string(r))
			refused = err != nil
		}
		if unicode.Is(unicode.Cc, r) && !refused {
			t.Fatalf("%U is a control character and was accepted", r)
		}
		if unicode.Is(unicode.Bidi_Control, r) && !refused {
			t.Fatalf("%U is a bidirectional control and was accepted", r)
		}
	}
}

func TestEveryKindOfPathRoundTrips(t *testing.T) {
	texts := map[hierarchy.Kind]string{
		hierarchy.KindTenant:            "tenants/acme",
		hierarchy.KindBinding:           "tenants/acme/binding",
		hierarchy.KindTenantVersion:     "tenants/acme/versions/12",
		hierarchy.KindService:           "tenants/acme/services/payments",
		hierarchy.KindServiceVersion:    "tenants/acme/services/payments/versions/18446744073709551615",
		hierarchy.KindResource:          "tenants/acme/services/payments/resources/Orders%2F2026%20%C3%A9",
		hierarchy.KindPolicy:            "tenants/acme/policies/base",
		hierarchy.KindTenantIssuer:      "tenants/acme/issuers/k8s",
		hierarchy.KindTenantRoleBinding: "tenants/acme/roleBindings/b1",
		hierarchy.KindIssuer:            "issuers/builtin",
		hierarchy.KindRoleBinding:       "roleBindings/b1",
		hierarchy.KindApproval:          "approvals/a1",
		hierarchy.KindCeremony:          "ceremonies/c1",
		hierarchy.KindInternalKey:       "internalKeys/3",
		hierarchy.KindInternalSecret:    "internalSecrets/aws",
		hierarchy.KindNode:              "nodes/n1",
		hierarchy.KindOperation:         "operations/o1",
		hierarchy.KindSeal:              "seal",
		hierarchy.KindCluster:           "cluster",
	}
	for _, k := range hierarchy.Kinds() {
		text, ok := texts[k]
		if !ok {
			t.Errorf("kind %s has no example", k)
			continue
		}
		p, err := hierarchy.ParsePath(text)
		if err != nil || p.Kind != k || p.String() != text {
			t.Errorf("ParsePath(%q) = %+v (%q), %v", text, p, p, err)
		}
	}
	built := map[string]hierarchy.Path{
		"tenants/acme":                              hierarchy.TenantPath("acme"),
		"tenants/acme/binding":                      hierarchy.BindingPath("acme"),
		"tenants/acme/versions/2":                   hierarchy.TenantVersionPath("acme", 2),
		"tenants/acme/services/pay":                 hierarchy.ServicePath("acme", "pay"),
		"tenants/acme/services/pay/versions/2":      hierarchy.ServiceVersionPath("acme", "pay", 2),
		"tenants/acme/services/pay/resources/a%2Fb": hierarchy.ResourcePath("acme", "pay", "a/b"),
		"internalKeys/9":                            hierarchy.InternalKeyPath(9),
		"issuers/builtin":                           hierarchy.IssuerPath("", "builtin"),
		"tenants/acme/issuers/k8s":                  hierarchy.IssuerPath("acme", "k8s"),
		"roleBindings/b":                            hierarchy.RoleBindingPath("", "b"),
		"tenants/acme/roleBindings/b":               hierarchy.RoleBindingPath("acme", "b"),
		"":                                          {},
	}
	for want, p := range built {
		if p.String() != want {
			t.Errorf("%+v prints %q, want %q", p, p, want)
		}
	}
}

func TestPathsWithAnotherSpellingAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "/", "tenants", "tenants/", "/tenants/acme", "tenants/acme/", "tenants//services", "tenants/Acme", "Tenants/acme",
		"tenants/acme/versions/0", "tenants/acme/versions/01", "tenants/acme/versions/-1", "tenants/acme/versions/+1",
		"tenants/acme/versions/18446744073709551616", "tenants/acme/versions/latest", "internalKeys/", "seal/x", "clusters",
		"tenants/acme/services/pay/resources/", "tenants/acme/services/pay/resources/a/b", "tenants/acme/services/pay/resources/%2f",
		"tenants/acme/services/pay/resources/%41", "tenants/acme/services/pay/resources/%", "tenants/acme/services/pay/resources/%4",
		"tenants/acme/services/pay/resources/a b", "tenants/acme/services/pay/resources/%00", "tenants/acme/services/pay/resources/%FF",
		"tenants/acme/services/pay/resources/..", strings.Repeat("tenants/", 1000),
	} {
		if p, err := hierarchy.ParsePath(s); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("ParsePath(%.60q) = %+v, %v, want InvalidArgument", s, p, err)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"tenants/a/services/b/resources/%20", "internalKeys/1", "seal", "tenants/a/versions/07", "%", "tenants/a/services/b/resources/%E2%80%AE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := hierarchy.ParsePath(s)
		if err != nil {
			return
		}
		if p.String() != s {
			t.Fatalf("ParsePath(%q) prints %q", s, p)
		}
	})
}

func FuzzParseResourceID(f *testing.F) {
	for _, s := range []string{"", "a", "a/b", "\x00", "\u202e", "é", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := hierarchy.ParseResourceID(s)
		if err != nil || r == "" {
			return
		}
		p := hierarchy.ResourcePath("t", "s", r)
		back, err := hierarchy.ParsePath(p.String())
		if err != nil || back != p {
			t.Fatalf("%q does not survive its path %q: %+v, %v", s, p, back, err)
		}
	})
}
