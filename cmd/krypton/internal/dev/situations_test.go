//go:build unix

package dev_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// TestMistakesOnTheCommandLine makes the mistakes that people make in front of a
// terminal, with real nodes behind it, and compares what stands there, and the
// exit status, with the rows of docs/errors.md.
func TestMistakesOnTheCommandLine(t *testing.T) {
	h := home(t)
	r := start(t, h, "--output", "json")
	got := r.ready(t)
	contexts := map[string]string{}
	for _, p := range got.People {
		contexts[p.Role] = p.Context
	}
	run := func(role string, args ...string) (stdout, stderr string, status int) {
		t.Helper()
		cmd := krypton(t.Context(), h, args...)
		cmd.Env = append(cmd.Env, "KRYPTON_CONTEXT="+contexts[role])
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil {
			ee, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				t.Fatal(err)
			}
			status = ee.ExitCode()
		}
		return out.String(), errOut.String(), status
	}
	must := func(role string, args ...string) string {
		t.Helper()
		out, msg, status := run(role, args...)
		if status != 0 {
			t.Fatalf("krypton %s: %d: %s", strings.Join(args, " "), status, msg)
		}
		return out
	}
	field := func(text, name string) string {
		t.Helper()
		m := regexp.MustCompile(`"` + name + `": "([^"]*)"`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in %s", name, text)
		}
		return m[1]
	}

	const secret = "nobody else has to know this"
	all := must("governor", "service", "list", "demo", "--output", "json")
	name := strings.Replace(strings.TrimPrefix(field(all, "name"), "tenants/"), "/services/", "/", 1)
	must("governor", "service", "create", "demo/other")
	key := must("workload", "datakey", "generate", "--service", name, "--output", "json")
	wrapped, dek := field(key, "wrapped"), field(key, "plaintext")
	raw, err := base64.StdEncoding.DecodeString(dek)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id, role string
		args     []string
	}{
		{"ciphertext/not-one", "workload", []string{"datakey", "unwrap", "--service", name, base64.StdEncoding.EncodeToString([]byte(strings.Repeat(secret, 5)))}},
		{"ciphertext/truncated", "workload", []string{"datakey", "unwrap", "--service", name, wrapped[:len(wrapped)-8]}},
		{"ciphertext/of-another-service", "workload", []string{"datakey", "unwrap", "--service", "demo/other", wrapped}},
		{"ciphertext/of-another-resource", "workload", []string{"datakey", "unwrap", "--service", name, "--resource", "r", wrapped}},
		{"ciphertext/in-another-context", "workload", []string{"datakey", "unwrap", "--service", name, "--context", "a=b", wrapped}},
		{"ciphertext/in-another-context", "workload", []string{"datakey", "rewrap", "--service", name, "--context", "a=b", wrapped}},
		{"request/object-unknown", "workload", []string{"datakey", "generate", "--service", "ghost/payments"}},
		{"request/object-unknown", "governor", []string{"tenant", "get", "ghost"}},
		{"request/object-unknown", "governor", []string{"tenant", "suspend", "ghost"}},
		{"request/etag-malformed", "governor", []string{"tenant", "suspend", "demo", "--etag", "7"}},
		{"request/etag-stale", "governor", []string{"tenant", "suspend", "demo", "--etag", `"1"`}},
		{"request/service-exists", "governor", []string{"service", "create", "demo/other"}},
		{"request/version-unknown", "governor", []string{"key", "disable", name, "--version", "9"}},
		{"request/not-disabled", "governor", []string{"key", "enable", name, "--version", "1"}},
		{"request/rollback-nothing-before", "governor", []string{"key", "rollback", "demo/other"}},
		{"request/not-scheduled", "governor", []string{"tenant", "undelete", "demo"}},
		{"request/not-suspended", "governor", []string{"service", "resume", "demo/other", "--dry-run"}},
	} {
		_, stderr, status := run(c.role, c.args...)
		situationtest.Exit(t, c.id, status, stderr, []byte(secret), raw)
	}
	r.interrupt(t)
}
