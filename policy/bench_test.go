package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/policy"
)

// some makes n statements as tenants have them: workloads by name, services,
// purposes in the encryption context. The last one permits what ordinary asks for.
func some(t testing.TB, n int) *policy.Set {
	t.Helper()
	var texts []policy.Text
	for i := range n {
		text := fmt.Sprintf(`permit (
  principal == Krypton::Workload::"app%d",
  action in [Krypton::Action::"crypto.decrypt", Krypton::Action::"crypto.encrypt"],
  resource in Krypton::Service::"service-%d"
) when { context.encryption_context has "purpose" && context.encryption_context["purpose"] == "billing" };`, n-1-i, i%7)
		if i == n-1 {
			text = strings.ReplaceAll(text, fmt.Sprintf("service-%d", i%7), "payments")
		}
		if i%10 == 5 {
			text = fmt.Sprintf(`forbid (principal, action, resource == Krypton::Service::"service-%d") when { principal.name like "test-*" };`, i%7)
		}
		if i < policy.MaxPolicies {
			texts = append(texts, policy.Text{Name: hierarchy.Name(fmt.Sprintf("p%d", i)), Text: text})
		} else {
			texts[i%policy.MaxPolicies].Text += "\n" + text
		}
	}
	s, err := policy.Compile("acme", texts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ordinary(t testing.TB) policy.Query {
	t.Helper()
	return request(t, "app0 crypto.decrypt payments purpose=billing other=thing")
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 50, 500} {
		s, q := some(b, n), ordinary(b)
		if d := s.Decide(q); !d.Allow {
			b.Fatal(d)
		}
		b.Run(fmt.Sprintf("statements=%d/kept", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(q)
			}
		})
		b.Run(fmt.Sprintf("statements=%d/evaluated", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Evaluate(q)
			}
		})
	}
}

func BenchmarkDecideParallel(b *testing.B) {
	s, q := some(b, 50), ordinary(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Decide(q)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1, 50, 500} {
		b.Run(fmt.Sprintf("statements=%d", n), func(b *testing.B) {
			for b.Loop() {
				some(b, n)
			}
		})
	}
}
