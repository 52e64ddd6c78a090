package audit_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
)

func BenchmarkAppendData(b *testing.B) {
	cfg := config(b.TempDir(), nil)
	cfg.SegmentBytes = audit.DefaultSegmentBytes
	l, err := audit.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer closeLog(b, l)
	r := audittest.Record(audit.Data, 1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Append(r); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	cfg := config(dir, nil)
	cfg.SegmentBytes = audit.DefaultSegmentBytes
	l, err := audit.Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	appendN(b, l, audit.Data, 20_000)
	closeLog(b, l)
	for b.Loop() {
		sum, err := audit.Verify(dir)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(sum.Bytes)
	}
}
