//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// secret has bytes that look different in every encoding, and + and / in base64.
var secret = []byte("\xfb\xef\xbe\xff\xfe\x00\x10\x83\x10\x51\x87\x20\x92\x8b\x30\xd3\x8f\x41\x14\x93\x51\x55\x97\x61\x96\x9b\x71\xd7\x9f\x82\x18\xa3")

func TestI2_TheSearchFindsEveryForm(t *testing.T) {
	forms := map[string][]byte{
		"raw":            secret,
		"hex":            []byte(hex.EncodeToString(secret)),
		"upper-case hex": []byte(strings.ToUpper(hex.EncodeToString(secret))),
	}
	for shift := range 6 {
		around := append(append(bytes.Repeat([]byte{0xa5}, shift), secret...), 0x5a, 0x5a)
		name := " behind " + string(rune('0'+shift)) + " other bytes"
		forms["base64"+name] = []byte(base64.StdEncoding.EncodeToString(around))
		forms["base64url"+name] = []byte(base64.RawURLEncoding.EncodeToString(around))
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			deep := filepath.Join(dir, "a", "b")
			if err := os.MkdirAll(deep, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(deep, "file")
			if err := os.WriteFile(path, append([]byte("before "), append(form, " after"...)...), 0o600); err != nil {
				t.Fatal(err)
			}
			hits, files, _, err := search([]string{dir}, needlesOf("the secret", secret))
			if err != nil || files != 1 {
				t.Fatalf("read %d files: %v", files, err)
			}
			if len(hits) == 0 || !strings.HasSuffix(hits[0], path) {
				t.Fatalf("found %v", hits)
			}
		})
	}
}

func TestI2_TheSearchDoesNotFindWhatIsNotThere(t *testing.T) {
	dir := t.TempDir()
	other := bytes.Clone(secret)
	other[len(other)/2] ^= 1
	text := base64.StdEncoding.EncodeToString(other) + hex.EncodeToString(other) + string(other)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	hits, files, read, err := search([]string{dir}, needlesOf("the secret", secret))
	if err != nil || len(hits) > 0 || files != 1 || read != int64(len(text)) {
		t.Fatalf("found %v in %d files, %d bytes: %v", hits, files, read, err)
	}
	if _, _, _, err := search([]string{filepath.Join(dir, "missing")}, nil); err == nil {
		t.Error("a directory that is not there was searched")
	}
}

func TestTheResultSaysWhatWasFound(t *testing.T) {
	fields := findings{fileMB: 8, opsAtKill: 1234, afterRotate: "yes", afterDestroy: "no", withdrawn: true}.fields(15)
	want := []string{
		"steps=15", "file_mb=8", "ops_during_kill=1234", "sdk_failed=0", "served_after_ack=0",
		"opens_after_rotate=yes", "opens_after_destroy=no",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Fatal(diff)
	}
}

func TestARoundThatFailsIsCounted(t *testing.T) {
	l := &load{}
	l.grown = sync.NewCond(&l.mu)
	calls := []error{nil, errors.New("first"), errors.New("second")}
	for _, err := range calls {
		if ok := l.call(t.Context(), func(context.Context) error { return err }); ok != (err == nil) {
			t.Errorf("%v: %v", err, ok)
		}
	}
	if l.calls != 3 || l.failed != 2 || l.first == nil || !strings.Contains(l.first.Error(), "first") {
		t.Fatalf("%d calls, %d failed, %v", l.calls, l.failed, l.first)
	}
	l.waitFor(3) // returns
}

func TestAnAnswerIsStaleOnlyInTheEpochInWhichItBeganAndEnded(t *testing.T) {
	refused := errs.New(errs.FailedState, "disabled")
	enabled, disabled, between := &epoch{number: 1}, &epoch{number: 3, disabled: true}, &epoch{number: 2, between: true}
	for _, tc := range []struct {
		name          string
		before, after *epoch
		err           error
		stale         int64
		counted       int
		fails         bool
	}{
		{"enabled and opens", enabled, enabled, nil, 0, 1, false},
		{"enabled and refused", enabled, enabled, refused, 1, 1, false},
		{"disabled and refused", disabled, disabled, refused, 0, 1, false},
		{"disabled and opens", disabled, disabled, nil, 1, 1, false},
		{"a change is on its way", between, between, nil, 0, 0, false},
		{"a change began meanwhile", enabled, between, refused, 0, 0, false},
		{"a change was acknowledged meanwhile", between, disabled, nil, 0, 0, false},
		{"an error that is neither", enabled, enabled, errs.New(errs.Internal, "x"), 0, 1, true},
	} {
		h := &hammer{done: make([]int, 1)}
		h.grown = sync.NewCond(&h.mu)
		h.judge(0, tc.before, tc.after, tc.err)
		if h.stale.Load() != tc.stale || h.done[0] != tc.counted || (h.first != nil) != tc.fails {
			t.Errorf("%s: stale %d, counted %d, %v", tc.name, h.stale.Load(), h.done[0], h.first)
		}
	}
}
