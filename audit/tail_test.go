package audit_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/openkcm/krypton-cluster/audit"
)

// A segment without a whole line is cut off only if it is what a crash leaves.
// Another file in its place is evidence, and stays as it is.
func TestAnotherFileInThePlaceOfTheTrailIsNotCutOff(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	l := open(t, whole, nil)
	appendN(t, l, audit.Control, 1)
	closeLog(t, l)
	raw, err := os.ReadFile(segments(t, whole)[0])
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	other := bytes.Replace(line, []byte(`"seq":1`), []byte(`"seq":7`), 1)
	for _, tt := range []struct {
		name    string
		content []byte
		opens   bool
	}{
		{"nothing", nil, true},
		{"the first byte of a record", line[:1], true},
		{"a record without its end", line[:len(line)-1], true},
		{"zeros", make([]byte, 4096), true},
		{"a record that becomes zeros", append(bytes.Clone(line[:20]), make([]byte, 100)...), true},
		{"text", []byte("not a trail"), false},
		{"a file of keys", []byte("-----BEGIN PRIVATE KEY-----"), false},
		{"the beginning of a later record", other[:len(other)-1], false},
	} {
		dir := t.TempDir()
		name := dir + "/" + "00000000000000000001.jsonl"
		if err := os.WriteFile(name, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := audit.Open(config(dir, nil))
		if err == nil {
			closeLog(t, l)
		}
		_, broken := errors.AsType[*audit.BrokenError](err)
		if tt.opens != (err == nil) || !tt.opens && !broken {
			t.Errorf("%s: %v", tt.name, err)
		}
		if now, err := os.ReadFile(name); !tt.opens && (err != nil || !bytes.Equal(now, tt.content)) {
			t.Errorf("%s: the file was changed to %q: %v", tt.name, now, err)
		}
	}
}
