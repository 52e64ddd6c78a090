//go:build !race

package audit_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
)

func TestAllocDataRecord(t *testing.T) {
	cfg := config(t.TempDir(), nil)
	cfg.SegmentBytes = audit.DefaultSegmentBytes
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closeLog(t, l)
	var sink audit.Sink = l
	r := audittest.Record(audit.Data, 1)
	appendN(t, l, audit.Data, 10) // both buffers have grown
	if n := testing.AllocsPerRun(500, func() {
		if err := sink.Append(r); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations per data record, want 0", n)
	}
}
