package audit_test

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
)

// BenchmarkAppendLine is what encoding a record costs, beside hashing its line.
func BenchmarkAppendLine(b *testing.B) {
	r := audittest.Record(audit.Data, 1)
	var line []byte
	b.Run("line", func(b *testing.B) {
		for b.Loop() {
			line = audit.AppendLine(line[:0], &r)
		}
	})
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		for b.Loop() {
			sha256.Sum256(line)
		}
	})
}

// TestTimesAreWrittenAsTheTimePackageWritesThem, for every time that has 24 bytes.
func TestTimesAreWrittenAsTheTimePackageWritesThem(t *testing.T) {
	t.Parallel()
	const last = 253402300799999 // 9999-12-31T23:59:59.999Z
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.OneOf(rapid.Int64Range(0, last), rapid.SampledFrom([]int64{0, last, 951782400000, 951868799999})).Draw(t, "ms")
		r := audit.Record{Seq: 1, TimeMs: ms, Class: audit.Data, Phase: audit.Whole}
		want := `,"time":"` + time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") + `",`
		if line := audit.AppendLine(nil, &r); !strings.Contains(string(line), want) {
			t.Fatalf("%s does not contain %s", line, want)
		}
	})
}
