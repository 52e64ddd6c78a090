package audittest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Subject is a sink under test.
type Subject struct {
	Sink audit.Sink
	// Break makes the next append fail.
	Break func()
	// Records returns what the sink holds, but for what it wrote about itself.
	Records func() []audit.Record
}

// Record returns a record of the given class with every field of a caller set.
func Record(class audit.Class, n int) audit.Record {
	return audit.Record{
		Class: class, Phase: audit.Whole, Act: "crypto.encrypt", Outcome: errs.OutcomeRefused,
		Correlation: "01890a5d-ac96-774b-bcce-b302099a8057", Attempt: 2,
		Object: fmt.Sprintf("tenants/acme/services/pay-%d", n), Principal: "00112233445566778899aabbccddeeff/workload/acme/app",
		Role: "workload", Via: "n2", Approval: "approvals/00112233445566778899aabbccddeeff", ApprovedBy: "governor/bob custodian/carol", Code: errs.Integrity, LatencyUs: 142, BytesIn: 4096, BytesOut: 64,
		KeyVersion: "0123456789abcdef0123456789abcdef", KeystoreRequest: "req-1", Count: 3, Cause: "tag mismatch",
	}
}

// TestSink is the suite that every [audit.Sink] passes. create is called once
// per case.
func TestSink(t *testing.T, create func(t *testing.T) Subject) {
	t.Helper()
	t.Run("keeps every record as it was, in order", func(t *testing.T) {
		s := create(t)
		for i := range 5 {
			if err := s.Sink.Append(Record(audit.Class(1+i%2), i)); err != nil {
				t.Fatalf("append %d: %v", i, err)
			}
		}
		got := s.Records()
		if len(got) != 5 {
			t.Fatalf("got %d records, want 5", len(got))
		}
		for i, r := range got {
			if i > 0 && r.Seq != got[i-1].Seq+1 {
				t.Errorf("seq %d follows %d", r.Seq, got[i-1].Seq)
			}
			if r.Node == "" {
				t.Error("record without a node")
			}
			want := Record(audit.Class(1+i%2), i)
			want.Seq, want.Prev, want.TimeMs, want.Node = r.Seq, r.Prev, r.TimeMs, r.Node
			if r != want {
				t.Errorf("record %d is %+v, want %+v", i, r, want)
			}
		}
	})
	t.Run("keeps every record of concurrent callers", func(t *testing.T) {
		s := create(t)
		const callers, each = 8, 25
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for i := range each {
					if err := s.Sink.Append(Record(audit.Class(1+i%2), c*each+i)); err != nil {
						t.Errorf("append: %v", err)
					}
				}
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for _, r := range s.Records() {
			seen[r.Object] = true
		}
		if len(seen) != callers*each {
			t.Errorf("got %d distinct records, want %d", len(seen), callers*each)
		}
	})
	t.Run("accepts nothing after a failure", func(t *testing.T) {
		s := create(t)
		if err := s.Sink.Err(); err != nil {
			t.Fatalf("Err before any failure: %v", err)
		}
		s.Break()
		for i := range 3 {
			err := s.Sink.Append(Record(audit.Control, i))
			if !errors.Is(err, errs.New(errs.AuditUnavailable, "")) {
				t.Fatalf("append %d after a failure: %v, want AUDIT_UNAVAILABLE", i, err)
			}
		}
		if err := s.Sink.Err(); !errs.Is(err, errs.AuditUnavailable) {
			t.Errorf("Err after a failure: %v, want AUDIT_UNAVAILABLE", err)
		}
	})
}
