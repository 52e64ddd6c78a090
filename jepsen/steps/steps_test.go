package steps_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/jepsen/steps"
)

func TestI1_TheFirstStepThatFailsEndsTheRun(t *testing.T) {
	var out strings.Builder
	ran, failed, cleaned := 0, 0, 0
	walk := func(all ...steps.Step) (int, error) {
		return steps.Walk(t.Context(), &out, all, func() { failed++ }, func() error { cleaned++; return nil })
	}
	ok := func(context.Context) (string, error) { ran++; return "fine", nil }
	bad := func(context.Context) (string, error) { ran++; return "not shown", errors.New("the sky fell") }
	done, err := walk(steps.Of("one", ok), steps.Of("two", bad), steps.Of("three", ok))
	if done != 1 || ran != 2 || failed != 1 || cleaned != 1 || err == nil || !strings.Contains(err.Error(), "step 2, two: the sky fell") {
		t.Fatalf("%d held of %d run, failed %d, cleaned up %d: %v", done, ran, failed, cleaned, err)
	}
	if s := out.String(); !strings.Contains(s, "✓  one") || !strings.Contains(s, "✗  two") || strings.Contains(s, "three") || strings.Contains(s, "not shown") {
		t.Errorf("printed %q", s)
	}
	if done, err = walk(steps.Of("one", ok)); done != 1 || failed != 1 || cleaned != 2 || err != nil {
		t.Fatalf("%d held, failed %d, cleaned up %d: %v", done, failed, cleaned, err)
	}
	if _, err = steps.Walk(t.Context(), &out, nil, func() {}, func() error { return errors.New("a file stayed") }); err == nil {
		t.Error("what could not be cleaned up is no failure")
	}
}

func TestTheResultGoesToTheTargetOrToTheTerminal(t *testing.T) {
	fields := []string{"steps=15", "file_mb=8"}
	path := filepath.Join(t.TempDir(), "fields")
	t.Setenv("RESULT_FIELDS", path)
	var out strings.Builder
	if err := steps.Report(&out, "demo", fields, true, time.Second); err != nil || out.Len() > 0 {
		t.Fatalf("printed %q: %v", out.String(), err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "steps=15\nfile_mb=8\n" {
		t.Fatalf("wrote %q: %v", got, err)
	}
	t.Setenv("RESULT_FIELDS", "")
	for held, line := range map[bool]string{true: "RESULT demo pass steps=15 ", false: "RESULT demo fail steps=15 "} {
		out.Reset()
		if err := steps.Report(&out, "demo", fields, held, 2*time.Second); err != nil || !strings.HasPrefix(out.String(), line) || !strings.HasSuffix(out.String(), " seconds=2\n") {
			t.Errorf("printed %q: %v", out.String(), err)
		}
	}
}

func TestADemonstrationIsRunInTheRepository(t *testing.T) {
	root, err := steps.Repository()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "jepsen", "steps")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if root, err := steps.Repository(); err == nil {
		t.Fatalf("found %s", root)
	}
}
