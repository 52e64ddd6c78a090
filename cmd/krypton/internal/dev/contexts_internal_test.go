//go:build unix

package dev

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/client/contexts"
)

// entry is a context whose certificate file exists.
func entry(t *testing.T, addr string) contexts.Context {
	t.Helper()
	cert := filepath.Join(t.TempDir(), "x.crt")
	if err := os.WriteFile(cert, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return contexts.Context{Addr: []string{addr}, CertFile: cert}
}

// file writes a context file; a nil map writes none.
func file(t *testing.T, current string, all map[string]contexts.Context) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "krypton", "contexts.yaml")
	if all == nil {
		return path
	}
	f := load(t, path)
	f.Current, f.Contexts = current, all
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string) *contexts.File {
	t.Helper()
	f, err := contexts.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestI2_ContextsAreAsBefore(t *testing.T) {
	prod, other, stale := entry(t, "prod:1"), entry(t, "other:1"), contexts.Context{CertFile: filepath.Join(t.TempDir(), "gone")}
	mine := map[string]contexts.Context{"dev-workload": entry(t, "a:1"), "dev-governor": entry(t, "a:1")}
	type all = map[string]contexts.Context
	for name, c := range map[string]struct {
		current  string
		before   all
		selected string // while the command runs
		current2 string // afterwards
		after    all
	}{
		"no file":                  {"", nil, "dev-workload", "", all{}},
		"empty file":               {"", all{}, "dev-workload", "", all{}},
		"one of the person's":      {"prod", all{"prod": prod}, "prod", "prod", all{"prod": prod}},
		"none selected":            {"", all{"prod": prod}, "dev-workload", "", all{"prod": prod}},
		"another run's":            {"dev-workload", all{"dev-workload": other}, "dev-workload", "dev-workload", all{"dev-workload": other}},
		"a run that was killed":    {"dev-workload", all{"dev-workload": stale, "prod": prod}, "dev-workload", "", all{"prod": prod}},
		"another of another run's": {"dev-governor", all{"dev-governor": other, "dev-auditor": other}, "dev-workload", "dev-governor", all{"dev-governor": other, "dev-auditor": other}},
	} {
		t.Run(name, func(t *testing.T) {
			path := file(t, c.current, c.before)
			in, err := install(path, mine)
			if err != nil {
				t.Fatal(err)
			}
			f := load(t, path)
			if f.Current != c.selected || in.current != c.selected {
				t.Errorf("%q is selected, and said to be %q, want %q", f.Current, in.current, c.selected)
			}
			for n, want := range mine {
				if diff := cmp.Diff(want, f.Contexts[n]); diff != "" {
					t.Errorf("%s: %s", n, diff)
				}
			}
			if err := in.remove(); err != nil {
				t.Fatal(err)
			}
			f = load(t, path)
			if f.Current != c.current2 {
				t.Errorf("%q is selected afterwards, want %q", f.Current, c.current2)
			}
			if diff := cmp.Diff(c.after, f.Contexts); diff != "" {
				t.Error(diff)
			}
			if exists(path) != (c.before != nil) || exists(filepath.Dir(path)) != (c.before != nil) {
				t.Errorf("I1: the file stays: %v", exists(path))
			}
		})
	}
}

func TestI2_WhatThePersonChangedMeanwhileStays(t *testing.T) {
	prod, mine := entry(t, "prod:1"), entry(t, "a:1")
	path := file(t, "", nil)
	in, err := install(path, map[string]contexts.Context{"dev-workload": mine, "dev-governor": mine})
	if err != nil {
		t.Fatal(err)
	}
	f := load(t, path)
	own := entry(t, "own:1")
	f.Contexts["prod"], f.Contexts["dev-governor"], f.Current = prod, own, "prod"
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	if err := in.remove(); err != nil {
		t.Fatal(err)
	}
	f = load(t, path)
	if diff := cmp.Diff(map[string]contexts.Context{"prod": prod, "dev-governor": own}, f.Contexts); diff != "" || f.Current != "prod" {
		t.Errorf("selected %q: %s", f.Current, diff)
	}
}

func TestAnUnusableContextFileIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "contexts.yaml")
	const text = "contexts: {prod: {address: x}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := install(path, map[string]contexts.Context{"dev-workload": {}}); err == nil {
		t.Fatal("installed into a file that cannot be read")
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text {
		t.Fatalf("the file is now %q: %v", got, err)
	}
}

func TestPathsAreQuotedForTheShell(t *testing.T) {
	for in, want := range map[string]string{
		"/run/user/1/a-b_c.crt": "/run/user/1/a-b_c.crt",
		"/home/a b/x":           "'/home/a b/x'",
		"/home/o'neil/x":        `'/home/o'\''neil/x'`,
		"/home/$USER/x":         "'/home/$USER/x'",
	} {
		if got := quote(in); got != want {
			t.Errorf("%s is quoted as %s, want %s", in, got, want)
		}
	}
}
