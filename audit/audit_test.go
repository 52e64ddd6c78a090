package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/audit/audittest"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 123_000_000, time.UTC)

func config(dir string, fsys audit.FS) audit.Config {
	return audit.Config{Dir: dir, Node: "n1", SegmentBytes: audit.MinSegmentBytes, ReserveBytes: audit.MinReserveBytes, Clock: clock.NewFake(start), FS: fsys}
}

func open(t testing.TB, dir string, fsys audit.FS) *audit.Log {
	t.Helper()
	l, err := audit.Open(config(dir, fsys))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func appendN(t testing.TB, l *audit.Log, class audit.Class, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(audittest.Record(class, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// records returns the records of callers and the acts of those about the log itself.
func records(t testing.TB, dir string) (of []audit.Record, own []string) {
	t.Helper()
	_, err := audit.Read(dir, func(r audit.Record) error {
		if strings.HasPrefix(r.Act, "audit.") {
			own = append(own, r.Act)
		} else {
			of = append(of, r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return of, own
}

func TestSinks(t *testing.T) {
	t.Parallel()
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		audittest.TestSink(t, func(t *testing.T) audittest.Subject {
			t.Helper()
			dir := t.TempDir()
			fsys := audittest.NewFS(audit.OS{})
			l := open(t, dir, fsys)
			t.Cleanup(func() { _ = l.Close() }) // one case breaks it
			return audittest.Subject{
				Sink:    l,
				Break:   func() { fsys.Fail(audittest.OpWrite, audittest.Fault{Err: syscall.EIO}) },
				Records: func() []audit.Record { of, _ := records(t, dir); return of },
			}
		})
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		audittest.TestSink(t, func(*testing.T) audittest.Subject {
			m := &audittest.Memory{}
			return audittest.Subject{Sink: m, Break: func() { m.FailAfter(0) }, Records: m.Records}
		})
	})
}

// The order and names of fields are a stored format.
func TestGoldenLine(t *testing.T) {
	t.Parallel()
	r := audittest.Record(audit.Data, 1)
	r.Seq, r.TimeMs, r.Node, r.Prev = 42, start.UnixMilli(), "n1", sha256.Sum256([]byte("before"))
	const want = `{"seq":42,"prev":"0a8faf3ac30df18fd192ac7c2bf1ca11eae76f55c5b3ae3d0ea7ba1ef5f8acf0","time":"2026-03-01T12:00:00.123Z","node":"n1",` +
		`"class":"data","phase":"whole","act":"crypto.encrypt","outcome":"refused","correlation":"01890a5d-ac96-774b-bcce-b302099a8057","attempt":2,` +
		`"object":"tenants/acme/services/pay-1","principal":"00112233445566778899aabbccddeeff/workload/acme/app","role":"workload","via":"n2",` +
		`"approval":"approvals/00112233445566778899aabbccddeeff","approved_by":"governor/bob custodian/carol","code":"INTEGRITY","latency_us":142,"bytes_in":4096,"bytes_out":64,"key_version":"0123456789abcdef0123456789abcdef","keystore_request":"req-1","count":3,"cause":"tag mismatch"}`
	got := string(audit.AppendLine(nil, &r))
	if diff := cmp.Diff(strings.Replace(want, `0a8faf3ac30df18fd192ac7c2bf1ca11eae76f55c5b3ae3d0ea7ba1ef5f8acf0`, fmt.Sprintf("%x", r.Prev), 1), got); diff != "" {
		t.Errorf("line differs (-want +got):\n%s", diff)
	}
}

func genRecord(t *rapid.T) audit.Record {
	text := func(name string, limit int) string {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]*`), rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		})).Draw(t, name)
		for rapid.Bool().Draw(t, "longer") && len(s) > 0 && len(s) <= limit {
			s += s
		}
		return s
	}
	return audit.Record{
		Seq: rapid.Uint64Min(1).Draw(t, "seq"), TimeMs: rapid.Int64().Draw(t, "time"),
		Prev: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "prev")), Node: text("node", audit.MaxNode),
		Class: rapid.SampledFrom([]audit.Class{audit.Data, audit.Control}).Draw(t, "class"),
		Phase: rapid.SampledFrom([]audit.Phase{audit.Whole, audit.Intent, audit.Outcome, audit.Correction}).Draw(t, "phase"),
		Act:   text("act", audit.MaxAct), Outcome: errs.Outcome(rapid.IntRange(0, 6).Draw(t, "outcome")),
		Correlation: corr.ID(text("correlation", 36)), Attempt: rapid.Uint32().Draw(t, "attempt"),
		Object: text("object", audit.MaxObject), Principal: text("principal", audit.MaxPrincipal), Role: text("role", audit.MaxRole),
		Via: text("via", audit.MaxNode), Approval: text("approval", audit.MaxApproval), ApprovedBy: text("approved by", audit.MaxApprovedBy), Code: errs.Code(rapid.IntRange(-1, 40).Draw(t, "code")),
		LatencyUs: rapid.Uint64().Draw(t, "latency"), BytesIn: rapid.Uint64().Draw(t, "in"), BytesOut: rapid.Uint64().Draw(t, "out"),
		KeyVersion: text("key version", audit.MaxKeyVersion), KeystoreRequest: text("keystore request", audit.MaxKeystoreRequest),
		Count: rapid.Uint64().Draw(t, "count"), Cause: text("cause", audit.MaxCause),
	}
}

func TestI3_OneLinePerRecordAndBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := genRecord(t)
		line := audit.AppendLine(nil, &r)
		got, err := audit.DecodeLine(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if again := audit.AppendLine(nil, &got); !bytes.Equal(line, again) {
			t.Fatalf("%s became %s", line, again)
		}
		// encoding/json, which other readers use, sees the same texts.
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if cause, _ := m["cause"].(string); cause != got.Cause {
			t.Fatalf("encoding/json reads cause %q, DecodeLine %q", cause, got.Cause)
		}
	})
}

func TestI6_LinesArePrintableAndBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := genRecord(t)
		line := audit.AppendLine(nil, &r)
		if len(line) > audit.MaxLine {
			t.Fatalf("line has %d bytes, limit is %d", len(line), audit.MaxLine)
		}
		for _, c := range line {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %#x in %q", c, line)
			}
		}
	})
	for name, s := range map[string]string{"control": "\x01", "two bytes": "\u00e9", "four bytes": "\U0001f511", "invalid": "\xffa"} {
		long := strings.Repeat(s, 10_000)
		r := audit.Record{
			Seq: math.MaxUint64, TimeMs: math.MaxInt64, Node: long, Class: audit.Control, Phase: audit.Outcome, Act: long, Outcome: errs.OutcomePending,
			Correlation: corr.ID(long), Attempt: math.MaxUint32, Object: long, Principal: long, Role: long, Via: long, Approval: long, ApprovedBy: long, Code: errs.KeystoreMisconfigured,
			LatencyUs: math.MaxUint64, BytesIn: math.MaxUint64, BytesOut: math.MaxUint64, KeyVersion: long, KeystoreRequest: long, Count: math.MaxUint64, Cause: long,
		}
		line := audit.AppendLine(nil, &r)
		if len(line) > audit.MaxLine {
			t.Errorf("%s: line has %d bytes, limit is %d", name, len(line), audit.MaxLine)
		}
		if _, err := audit.DecodeLine(line); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Count(string(line), "[cut]") != 12 {
			t.Errorf("%s: %d texts are marked as cut, want 12", name, strings.Count(string(line), "[cut]"))
		}
	}
}

func TestI3_OtherSpellingsAreRefused(t *testing.T) {
	t.Parallel()
	r := audittest.Record(audit.Data, 1)
	r.Seq, r.Node, r.TimeMs, r.Cause = 7, "n1", start.UnixMilli(), "a\"b\\c\x01\u00e9\U0001f511"
	good := string(audit.AppendLine(nil, &r))
	if _, err := audit.DecodeLine([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"blank":               {`"seq":7,`, `"seq":7, `},
		"leading zero":        {`"seq":7`, `"seq":07`},
		"zero":                {`"seq":7`, `"seq":0`},
		"too large":           {`"seq":7`, `"seq":18446744073709551616`},
		"sign":                {`"seq":7`, `"seq":+7`},
		"exponent":            {`"seq":7`, `"seq":7e0`},
		"absent zero":         {`,"count":3`, `,"count":0`},
		"upper-case prev":     {`"prev":"0`, `"prev":"A`},
		"unknown class":       {`"class":"data"`, `"class":"date"`},
		"no class":            {`"class":"data",`, ``},
		"unknown outcome":     {`"outcome":"refused"`, `"outcome":"fine"`},
		"unknown code":        {`"code":"INTEGRITY"`, `"code":"NOPE"`},
		"other order":         {`"act":"crypto.encrypt","outcome":"refused"`, `"outcome":"refused","act":"crypto.encrypt"`},
		"unknown field":       {`"role":`, `"rule":`},
		"field twice":         {`"role":"workload"`, `"role":"workload","role":"workload"`},
		"empty text":          {`"role":"workload"`, `"role":""`},
		"needless escape":     {`"role":"workload"`, `"role":"\u0077orkload"`},
		"short escape":        {`\u0001`, `\n`},
		"upper-case escape":   {`\u00e9`, `\u00E9`},
		"raw UTF-8":           {`\u00e9`, "\u00e9"},
		"lone surrogate":      {`\ud83d\udd11`, `\ud83d`},
		"wrong pair":          {`\ud83d\udd11`, `\ud83d\u0041`},
		"low first":           {`\ud83d\udd11`, `\udd11\ud83d`},
		"slash escape":        {`tenants/`, `tenants\/`},
		"time with offset":    {`.123Z`, `.123+00:00`},
		"time without ms":     {`00.123Z`, `00Z`},
		"time with comma":     {`00.123Z`, `00,123Z`},
		"impossible time":     {`2026-03-01`, `2026-02-30`},
		"attempt over 32 bit": {`"attempt":2`, `"attempt":4294967296`},
		"trailing":            {`"}`, `"} `},
		"long role":           {`"role":"workload"`, `"role":"workloadworkload1"`},
		"long escaped role":   {`"role":"workload"`, `"role":"workloadworkload\""`},
	} {
		bad := strings.Replace(good, edit[0], edit[1], 1)
		if name == "upper-case prev" {
			bad = strings.Replace(good, `"prev":"00`, `"prev":"0A`, 1)
		}
		if bad == good {
			t.Errorf("%s: nothing was changed", name)
		}
		if got, err := audit.DecodeLine([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
	for n := range len(good) {
		if _, err := audit.DecodeLine([]byte(good[:n])); err == nil {
			t.Errorf("accepted %d of %d bytes", n, len(good))
		}
	}
}

func FuzzDecodeLine(f *testing.F) {
	r := audittest.Record(audit.Control, 1)
	r.Seq, r.Node, r.Cause = 1, "n1", "a\"b\\c\x01\u00e9\U0001f511"
	f.Add(audit.AppendLine(nil, &r))
	f.Add(audit.AppendLine(nil, &audit.Record{Seq: 1, Class: audit.Data, Phase: audit.Intent, Act: "x"}))
	f.Add([]byte(`{"seq":1,"prev":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := audit.DecodeLine(line)
		if err != nil {
			return
		}
		if again := audit.AppendLine(nil, &r); !bytes.Equal(line, again) {
			t.Errorf("%s was read as %s", line, again)
		}
	})
}

func TestI2_ChainGoesOnOverSegmentsAndRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := 0
	for range 3 {
		l := open(t, dir, nil)
		appendN(t, l, audit.Data, 100)
		want += 100
		closeLog(t, l)
		closeLog(t, l) // idempotent
	}
	if n := len(segments(t, dir)); n < 4 {
		t.Fatalf("only %d segments", n)
	}
	for _, s := range segments(t, dir) {
		info, err := os.Stat(s)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > audit.MinSegmentBytes || info.Size() == 0 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes and mode %v", filepath.Base(s), info.Size(), info.Mode())
		}
	}
	got, own := records(t, dir)
	if len(got) != want {
		t.Errorf("%d records, want %d", len(got), want)
	}
	if diff := cmp.Diff([]string{audit.ActOpened, audit.ActOpened, audit.ActOpened}, own); diff != "" {
		t.Errorf("own records differ:\n%s", diff)
	}
	sum, err := audit.Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	if sum.First != 1 || sum.Last != uint64(want)+3 || sum.Records != sum.Last || sum.Torn != 0 {
		t.Errorf("summary %+v", sum)
	}
	for _, r := range got {
		if r.Node != "n1" || r.TimeMs != start.UnixMilli() {
			t.Fatalf("record is stamped %q %d", r.Node, r.TimeMs)
		}
	}
	l := open(t, dir, nil)
	defer closeLog(t, l)
	if seq, head := l.Head(); seq != sum.Last+1 || head == sum.Head {
		t.Errorf("head after opening: %d", seq)
	}
}

func TestVerifyNamesTheFirstBadLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	appendN(t, l, audit.Control, 150)
	closeLog(t, l)
	names := segments(t, dir)
	if len(names) < 3 {
		t.Fatalf("only %d segments", len(names))
	}
	second, err := os.ReadFile(names[1])
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(second, []byte("\n"))
	for name, tc := range map[string]struct {
		file int
		line int
		edit func() []byte // of the second segment; nil removes it
	}{
		"edited field":       {1, 5, func() []byte { return edited(lines, 3, "crypto.encrypt", "crypto.decrypt") }},
		"edited last line":   {2, 1, func() []byte { return edited(lines, len(lines)-2, "crypto.encrypt", "crypto.decrypt") }},
		"edited prev":        {1, 3, func() []byte { b := slices.Clone(lines); b[2] = flipPrev(b[2]); return bytes.Join(b, nil) }},
		"line removed":       {1, 4, func() []byte { return bytes.Join(slices.Delete(slices.Clone(lines), 3, 4), nil) }},
		"line twice":         {1, 5, func() []byte { return bytes.Join(slices.Insert(slices.Clone(lines), 3, lines[3]), nil) }},
		"lines exchanged":    {1, 4, func() []byte { b := slices.Clone(lines); b[3], b[4] = b[4], b[3]; return bytes.Join(b, nil) }},
		"first line removed": {1, 1, func() []byte { return bytes.Join(lines[1:], nil) }},
		"last line removed":  {2, 1, func() []byte { return bytes.Join(lines[:len(lines)-2], nil) }},
		"not JSON":           {1, 1, func() []byte { return append([]byte("x\n"), second...) }},
		"empty line":         {1, 1, func() []byte { return append([]byte("\n"), second...) }},
		"endless line":       {1, 1, func() []byte { return append(bytes.Repeat([]byte("x"), 1<<17), second...) }},
		"carriage return":    {1, 3, func() []byte { return edited(lines, 2, "}\n", "}\r\n") }},
		"torn in the middle": {1, len(lines) - 1, func() []byte { return second[:len(second)-1] }},
		"empty segment":      {1, 1, func() []byte { return []byte{} }},
		"segment removed":    {2, 1, func() []byte { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := t.TempDir()
			if err := os.CopyFS(bad, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			target := filepath.Join(bad, filepath.Base(names[1]))
			if text := tc.edit(); text == nil {
				if err := os.Remove(target); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(target, text, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := audit.Verify(bad)
			broken, ok := errors.AsType[*audit.BrokenError](err)
			if !ok {
				t.Fatalf("got %v, want a broken log", err)
			}
			if broken.File != filepath.Base(names[tc.file]) || broken.Line != tc.line {
				t.Errorf("found at %s line %d, want %s line %d", broken.File, broken.Line, filepath.Base(names[tc.file]), tc.line)
			}
			if e := errs.From(err); e.Code != errs.StateCorrupt || e.Hint == "" {
				t.Errorf("code %v, hint %q", e.Code, e.Hint)
			}
		})
	}
}

func edited(lines [][]byte, n int, from, to string) []byte {
	b := slices.Clone(lines)
	b[n] = bytes.Replace(b[n], []byte(from), []byte(to), 1)
	return bytes.Join(b, nil)
}

func flipPrev(line []byte) []byte {
	b := bytes.Clone(line)
	i := bytes.Index(b, []byte(`"prev":"`)) + len(`"prev":"`)
	if b[i] == '0' {
		b[i] = '1'
	} else {
		b[i] = '0'
	}
	return b
}

// A log that claims to begin must not hide what was before it.
func TestVerifyRefusesAFirstRecordWithAPast(t *testing.T) {
	t.Parallel()
	r := audittest.Record(audit.Data, 1)
	r.Seq, r.Node, r.Prev = 1, "n1", [32]byte{1}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000001.jsonl"), append(audit.AppendLine(nil, &r), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(dir); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyAcceptsRetiredSegmentsAndSaysSo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	appendN(t, l, audit.Data, 150)
	closeLog(t, l)
	if err := os.Remove(segments(t, dir)[0]); err != nil {
		t.Fatal(err)
	}
	sum, err := audit.Verify(dir)
	if err != nil || sum.First <= 1 || sum.Last != 151 || sum.Records != sum.Last-sum.First+1 {
		t.Errorf("summary %+v, %v", sum, err)
	}
	if sum, err := audit.Verify(t.TempDir()); err != nil || sum != (audit.Summary{}) {
		t.Errorf("empty directory: %+v, %v", sum, err)
	}
}

// I5: after a crash at any byte, all whole lines are kept, the rest is cut off,
// and a record says so.
func TestI5_TornLastLineIsCutAndRecorded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	appendN(t, l, audit.Data, 4)
	closeLog(t, l)
	whole, err := os.ReadFile(segments(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	tails := map[string][]byte{
		"one byte":            whole[:last+1],
		"half a line":         whole[:(last+len(whole))/2],
		"all but the newline": whole[:len(whole)-1],
		"zeros":               append(bytes.Clone(whole), make([]byte, 8192)...),
		"many zeros":          append(bytes.Clone(whole), make([]byte, 200_000)...),
		"only the first torn": whole[:10],
		"garbage without end": append(bytes.Clone(whole), "}}}{"...),
	}
	for name, text := range tails {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "00000000000000000001.jsonl")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			before, err := audit.Verify(dir)
			if err != nil {
				t.Fatal(err)
			}
			kept := text[:bytes.LastIndexByte(text, '\n')+1]
			if before.Torn != int64(len(text)-len(kept)) {
				t.Errorf("Verify says %d torn bytes, want %d", before.Torn, len(text)-len(kept))
			}
			l := open(t, dir, nil)
			appendN(t, l, audit.Control, 1)
			closeLog(t, l)
			now, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(now, kept) {
				t.Error("a whole line was lost")
			}
			var recovered audit.Record
			sum, err := audit.Read(dir, func(r audit.Record) error {
				if r.Act == audit.ActRecovered {
					recovered = r
				}
				return nil
			})
			if err != nil || sum.Records != before.Records+3 || sum.Torn != 0 {
				t.Errorf("after recovery: %+v, %v; had %d records", sum, err, before.Records)
			}
			if recovered.BytesIn != uint64(before.Torn) || recovered.Seq != before.Last+1 || recovered.Class != audit.Control {
				t.Errorf("recovery record %+v, want %d bytes at %d", recovered, before.Torn, before.Last+1)
			}
		})
	}
}

func TestOpenRefusesDamageThatNoCrashMakes(t *testing.T) {
	t.Parallel()
	make150 := func(t *testing.T) (string, []string) {
		t.Helper()
		dir := t.TempDir()
		l := open(t, dir, nil)
		appendN(t, l, audit.Data, 150)
		closeLog(t, l)
		return dir, segments(t, dir)
	}
	for name, damage := range map[string]func(t *testing.T, names []string) string{
		"edited line in the last segment": func(t *testing.T, names []string) string {
			t.Helper()
			rewrite(t, names[len(names)-1], "crypto.encrypt", "crypto.decrypt")
			return names[len(names)-1]
		},
		"edited last line of the segment before": func(t *testing.T, names []string) string {
			t.Helper()
			b, err := os.ReadFile(names[len(names)-2])
			if err != nil {
				t.Fatal(err)
			}
			i := bytes.LastIndex(b, []byte("crypto.encrypt"))
			copy(b[i:], "crypto.decrypt")
			if err := os.WriteFile(names[len(names)-2], b, 0o600); err != nil {
				t.Fatal(err)
			}
			return names[len(names)-1]
		},
		"last segment removed and begun again": func(t *testing.T, names []string) string {
			t.Helper()
			if err := os.WriteFile(names[len(names)-2], nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return names[len(names)-2]
		},
		"torn line before the last segment": func(t *testing.T, names []string) string {
			t.Helper()
			b, err := os.ReadFile(names[len(names)-2])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(names[len(names)-2], b[:len(b)-1], 0o600); err != nil {
				t.Fatal(err)
			}
			return names[len(names)-2]
		},
		"everything but an empty segment removed": func(t *testing.T, names []string) string {
			t.Helper()
			for _, n := range names[:len(names)-1] {
				if err := os.Remove(n); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(names[len(names)-1], nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return names[len(names)-1]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, names := make150(t)
			want := damage(t, names)
			before := contents(t, dir)
			_, err := audit.Open(config(dir, nil))
			broken, ok := errors.AsType[*audit.BrokenError](err)
			if !ok || broken.File != filepath.Base(want) {
				t.Fatalf("got %v, want a broken log at %s", err, filepath.Base(want))
			}
			if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
				t.Error("a refused log was changed")
			}
		})
	}
}

func rewrite(t *testing.T, name, from, to string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, s := range segments(t, dir) {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		m[filepath.Base(s)] = string(b)
	}
	return m
}

func TestOpenRefusesBadConfig(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*audit.Config){
		"no dir":        func(c *audit.Config) { c.Dir = "" },
		"no node":       func(c *audit.Config) { c.Node = "" },
		"no clock":      func(c *audit.Config) { c.Clock = nil },
		"small segment": func(c *audit.Config) { c.SegmentBytes = audit.MinSegmentBytes - 1 },
		"small reserve": func(c *audit.Config) { c.ReserveBytes = -1 },
	} {
		c := config(t.TempDir(), nil)
		change(&c)
		if _, err := audit.Open(c); !errs.Is(err, errs.InvalidConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAppendAfterCloseIsRefused(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), nil)
	closeLog(t, l)
	if err := l.Append(audittest.Record(audit.Data, 1)); !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("append: %v", err)
	}
	if err := l.Err(); !errs.Is(err, errs.AuditUnavailable) {
		t.Errorf("Err: %v", err)
	}
}

func TestCloseWaitsForRecordsInFlight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	var ok, refused int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := l.Append(audittest.Record(audit.Class(1+i%2), i))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ok++
			} else {
				refused++
			}
		})
	}
	closeLog(t, l)
	wg.Wait()
	if got, _ := records(t, dir); len(got) != ok {
		t.Errorf("%d records on disk, %d acknowledged, %d refused", len(got), ok, refused)
	}
}

// FuzzVerify takes anything for the first file of a trail: it is what was written,
// or it is broken.
func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	l := open(f, dir, nil)
	appendN(f, l, audit.Control, 3)
	closeLog(f, l)
	file := segments(f, dir)[0]
	good, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		sum, err := audit.Verify(dir)
		if _, broken := errors.AsType[*audit.BrokenError](err); err != nil && !broken {
			t.Errorf("%v", err)
		}
		if err == nil && sum.Records > uint64(bytes.Count(b, []byte("\n"))) {
			t.Errorf("%d records in %d lines", sum.Records, bytes.Count(b, []byte("\n")))
		}
	})
}
