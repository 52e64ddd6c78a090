package policy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/policy"
)

func withContext(t testing.TB, q policy.Query, key, value string) policy.Query {
	t.Helper()
	c, err := hierarchy.NewEncryptionContext(hierarchy.ContextPair{Key: key, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	q.Context = c
	return q
}

// perRequest is a set that reads what is different in every request.
const perRequest = head + ` when { context.encryption_context has id && context.encryption_context.id like "a*" };`

func TestI6_NobodyCanMakeTheCacheGrow(t *testing.T) {
	t.Parallel()
	s := one(t, perRequest)
	q := request(t, "app1 crypto.encrypt payments")
	for i := range 5 * policy.CacheSlots {
		s.Decide(withContext(t, q, "id", fmt.Sprintf("%0*d", policy.MaxKey-200, i)))
	}
	answers, bytes := policy.KeptAnswers(s)
	if answers > policy.CacheSlots || bytes > policy.CacheSlots*policy.MaxKey {
		t.Errorf("%d answers with keys of %d bytes", answers, bytes)
	}
	if answers < policy.CacheSlots/2 {
		t.Errorf("only %d of %d slots are used", answers, policy.CacheSlots)
	}
}

func TestALongKeyIsAnsweredAndNotKept(t *testing.T) {
	t.Parallel()
	s := one(t, perRequest)
	q := withContext(t, request(t, "app1 crypto.encrypt payments"), "id", "a"+strings.Repeat("x", policy.MaxKey))
	for range 2 {
		if d := s.Decide(q); !d.Allow {
			t.Error(d)
		}
	}
	if answers, _ := policy.KeptAnswers(s); answers != 0 {
		t.Errorf("%d answers are kept", answers)
	}
}

// TestAnotherStateOfThePoliciesBeginsEmpty: a set belongs to one state of the
// policies, and what another knew is not in it.
func TestAnotherStateOfThePoliciesBeginsEmpty(t *testing.T) {
	t.Parallel()
	q := request(t, "app1 crypto.encrypt payments")
	before := one(t, `permit (principal, action, resource);`)
	if d := before.Decide(q); !d.Allow || !policy.Kept(before, q) {
		t.Errorf("before: %s", d)
	}
	after := one(t, `forbid (principal, action, resource);`)
	if policy.Kept(after, q) {
		t.Error("the new set knows something")
	}
	if d := after.Decide(q); d.Allow {
		t.Errorf("after: %s", d)
	}
}

func TestASetIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	s := one(t, perRequest)
	q := request(t, "app1 crypto.encrypt payments")
	var queries []policy.Query
	for i := range 3 * policy.CacheSlots {
		queries = append(queries, withContext(t, q, "id", fmt.Sprintf("%c%d", 'a'+i%2, i)))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range queries {
				q := queries[(i*(g+1)+g)%len(queries)]
				if diff := cmp.Diff(s.Evaluate(q), s.Decide(q)); diff != "" {
					t.Error(diff)
					return
				}
			}
		})
	}
	wg.Wait()
}
