// Package situationtest compares what a caller, a person or an operator was really told with the table of situations.
//
// # Invariants
//
//   - I1: a check fails when the code, the message, the next step, the HTTP status or the exit status is not the row's.
//   - I2: a check fails when the error is more than one line, longer than [MaxLine], or holds one of the secrets it was given.
//
// # Concurrency
//
// Safe for concurrent use.
//
// # Failure
//
// A difference fails the test and shows the row and what came.
//
// # Source
//
// docs/errors.md.
package situationtest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
)

// MaxLine is the longest message and hint together, in bytes: what a terminal
// still shows as a few lines.
const MaxLine = 600

// Error fails the test unless err is what the situation says. secrets are bytes
// that must be in no form in it: raw, hexadecimal or base64.
func Error(t testing.TB, id string, err error, secrets ...[]byte) {
	t.Helper()
	s := row(t, id)
	if err == nil {
		t.Errorf("%s: no error; want %s: %s", id, s.Code, s.Says)
		return
	}
	e := errs.From(err)
	for _, bad := range compare(s, e.Code.String(), e.Msg, e.Hint) {
		t.Errorf("%s: %s", id, bad)
	}
	for _, bad := range leaks(e.Error(), secrets) {
		t.Errorf("%s: %s", id, bad)
	}
}

// HTTP is [Error] for an answer of the HTTP door: its status and body.
func HTTP(t testing.TB, id string, status int, body []byte, secrets ...[]byte) {
	t.Helper()
	s := row(t, id)
	var got struct {
		Error struct {
			Code                         int
			Reason, Message, Hint, Retry string
		}
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Errorf("%s: the body is not an error: %v: %q", id, err, body)
		return
	}
	if want := s.Code.Row(); status != want.HTTP || got.Error.Code != want.HTTP || got.Error.Retry != want.Retry.String() {
		t.Errorf("%s: HTTP status %d (in the body %d), retry %s; want %d, %s", id, status, got.Error.Code, got.Error.Retry, want.HTTP, want.Retry)
	}
	for _, bad := range compare(s, got.Error.Reason, got.Error.Message, got.Error.Hint) {
		t.Errorf("%s: %s", id, bad)
	}
	for _, bad := range leaks(string(body), secrets) {
		t.Errorf("%s: %s", id, bad)
	}
}

// the line that the command line prints: "krypton: message; hint (CODE, correlation id X)".
var line = regexp.MustCompile(`(?m)^krypton: (.*) \(([A-Z][A-Z0-9_]*)(?:, correlation id [0-9a-f-]+)?\)$`)

// Exit is [Error] for a process that ended: its exit status, and all that it
// wrote to stderr. One line of it has to be the error.
func Exit(t testing.TB, id string, status int, stderr string, secrets ...[]byte) {
	t.Helper()
	for _, bad := range ExitDiff(id, status, stderr, secrets...) {
		t.Error(bad)
	}
}

// ExitDiff is [Exit] for those who have no testing.TB: it returns what is wrong.
func ExitDiff(id string, status int, stderr string, secrets ...[]byte) []string {
	s, ok := situation.Find(id)
	if !ok {
		return []string{fmt.Sprintf("no situation has the id %q", id)}
	}
	var bad []string
	if want := s.Code.Row().Exit; status != want {
		bad = append(bad, fmt.Sprintf("%s: exit status %d, want %d", id, status, want))
	}
	found := line.FindAllStringSubmatch(stderr, -1)
	if len(found) != 1 {
		return append(bad, fmt.Sprintf("%s: stderr has %d error lines, want one: %q", id, len(found), stderr))
	}
	want := s.Says
	if s.Next != "" {
		want += "; " + s.Next
	}
	if code := found[0][2]; code != s.Code.String() {
		bad = append(bad, fmt.Sprintf("%s: code %s, want %s", id, code, s.Code))
	}
	if !situation.Matches(want, found[0][1]) {
		bad = append(bad, fmt.Sprintf("%s: it says %q, want %q", id, found[0][1], want))
	}
	for _, b := range leaks(stderr, secrets) {
		bad = append(bad, id+": "+b)
	}
	return bad
}

// Outcome fails the test unless the situation is one without an error. The
// caller looks at the rest itself.
func Outcome(t testing.TB, id string) {
	t.Helper()
	if s := row(t, id); s.Outcome == "" {
		t.Errorf("%s: the situation is the error %s", id, s.Code)
	}
}

func row(t testing.TB, id string) situation.Situation {
	t.Helper()
	s, ok := situation.Find(id)
	if !ok {
		t.Fatalf("no situation has the id %q", id)
	}
	return s
}

func compare(s situation.Situation, code, msg, hint string) []string {
	var bad []string
	if code != s.Code.String() {
		bad = append(bad, fmt.Sprintf("code %s, want %s (%s; %s)", code, s.Code, msg, hint))
	}
	if !situation.Matches(s.Says, msg) {
		bad = append(bad, fmt.Sprintf("it says %q, want %q", msg, s.Says))
	}
	if !situation.Matches(s.Next, hint) {
		bad = append(bad, fmt.Sprintf("the next step is %q, want %q", hint, s.Next))
	}
	if whole := msg + "; " + hint; len(whole) > MaxLine || strings.ContainsFunc(whole, unicode.IsControl) {
		bad = append(bad, fmt.Sprintf("not one short line: %q", whole))
	}
	return bad
}

// leaks returns the secrets that text holds, in any usual spelling.
func leaks(text string, secrets [][]byte) []string {
	var bad []string
	for i, s := range secrets {
		forms := [][]byte{
			s, []byte(hex.EncodeToString(s)), []byte(strings.ToUpper(hex.EncodeToString(s))),
			[]byte(base64.RawStdEncoding.EncodeToString(s)), []byte(base64.RawURLEncoding.EncodeToString(s)),
		}
		for _, f := range forms {
			if len(s) > 0 && bytes.Contains([]byte(text), f) {
				bad = append(bad, fmt.Sprintf("secret %d is in the error", i))
				break
			}
		}
	}
	return bad
}
