package contexts_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/contexts"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestPathFollowsXDG(t *testing.T) {
	abs, err := filepath.Abs("x")
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		abs:        filepath.Join(abs, "krypton", "contexts.yaml"),
		"":         filepath.Join(home, ".config", "krypton", "contexts.yaml"),
		"relative": filepath.Join(home, ".config", "krypton", "contexts.yaml"),
	} {
		got, err := contexts.Path(func(string) string { return value })
		if err != nil || got != want {
			t.Errorf("XDG_CONFIG_HOME=%q: %q, %v", value, got, err)
		}
	}
}

func TestI2_SaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "contexts.yaml")
	f, err := contexts.Load(path)
	if err != nil || len(f.Names()) != 0 {
		t.Fatalf("a file that does not exist: %v %v", f, err)
	}
	want := contexts.Context{Addr: []string{"a:1", "b:2"}, CAFile: "ca", CertFile: "c", KeyFile: "k", Tenant: "t", Service: "s", Output: "json"}
	f.Contexts["prod"], f.Contexts["dev"], f.Current = want, contexts.Context{}, "prod"
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	again, err := contexts.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Get("prod")
	if diff := cmp.Diff(want, got); diff != "" || err != nil || again.Current != "prod" {
		t.Errorf("%v, current %q\n%s", err, again.Current, diff)
	}
	if diff := cmp.Diff([]string{"dev", "prod"}, again.Names()); diff != "" {
		t.Error(diff)
	}
	if _, err := again.Get("none"); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("a context that is not there: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	if st, err := os.Stat(path); runtime.GOOS != "windows" && (err != nil || st.Mode().Perm() != 0o600) {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestI1_AFileThatOthersCanUseIsRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // there are no such bits
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o644, 0o666} {
		path := filepath.Join(t.TempDir(), "contexts.yaml")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := contexts.Load(path); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestI3_WhatIsNotUnderstoodIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"unknown field":              "currant: a\n",
		"unknown field of a context": "contexts:\n  a:\n    password: x\n",
		"two documents":              "current: a\n---\ncurrent: b\n",
		"no YAML":                    "{{{",
		"another shape":              "- a\n",
		"too long":                   strings.Repeat("# comment\n", 1<<17),
	} {
		path := filepath.Join(t.TempDir(), "contexts.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := contexts.Load(path); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "contexts.yaml")
	if err := os.WriteFile(path, []byte("# only a comment\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := contexts.Load(path); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}
