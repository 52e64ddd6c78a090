package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module writes a module of files into a directory.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.com/m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestI1_FaultsOfOneSystemAreFoundThere(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		file, text, says string
	}{
		"a missing name":          {"b_windows.go", "package a\n\nfunc g() { missing() }\n", "undefined: missing"},
		"a doubled name":          {"b_windows.go", "package a\n\nfunc F() {}\n", "redeclared"},
		"an unused import":        {"b_windows.go", "package a\n\nimport \"unsafe\"\n", "imported and not used"},
		"a wrong type, in a test": {"b_windows_test.go", "package a\n\nvar x int = \"text\"\n", "cannot use"},
		"a test from outside":     {"b_windows_test.go", "package a_test\n\nimport \"example.com/m\"\n\nvar _ = a.Missing\n", "Missing"},
		"no Go":                   {"b_windows.go", "packet a\n", "expected 'package'"},
		"an import of nothing":    {"b_windows.go", "package a\n\nimport _ \"example.com/m/none\"\n", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := module(t, map[string]string{"a.go": "package a\n\nfunc F() {}\n", tt.file: tt.text})
			if n, err := check(t.Context(), dir, "darwin", []string{"./..."}); err != nil || n == 0 {
				t.Errorf("darwin: %d packages, %v", n, err)
			}
			if _, err := check(t.Context(), dir, "windows", []string{"./..."}); err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "windows: ") {
				t.Errorf("windows: %v", err)
			}
		})
	}
}

func TestI2_NothingToCheckIsAnError(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"a.go": "package a\n"})
	if n, err := check(t.Context(), dir, "windows", []string{"./none/..."}); err == nil {
		t.Errorf("%d packages, no error", n)
	}
}
