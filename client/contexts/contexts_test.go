package contexts_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/client/contexts"
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

// TestUseGivesTheClientAContext makes real calls with what a context says, and
// with what it lacks.
func TestUseGivesTheClientAContext(t *testing.T) {
	cluster := clienttest.Start(t, clienttest.Options{Nodes: 1})
	if err := cluster.AddService("demo", "payments"); err != nil {
		t.Fatal(err)
	}
	cert, key, err := cluster.Workload("demo", "app")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	path, err := contexts.Path(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	f, err := contexts.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Contexts["whole"] = contexts.Context{Addr: cluster.Addrs(), CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}
	f.Contexts["identity"] = contexts.Context{CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}
	f.Contexts["address"] = contexts.Context{Addr: cluster.Addrs()}
	if err := f.Save(); err != nil {
		t.Fatal(err)
	}
	use := func(set ...func(*client.Options)) error {
		c, err := client.New(t.Context(), set...)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.GenerateDataKey(t.Context(), client.Scope{Service: "tenants/demo/services/payments"}, 0)
		return err
	}
	// The environment names another cluster: what code asks for goes before it.
	for name, value := range map[string]string{
		"KRYPTON_ADDR": "127.0.0.1:1", "KRYPTON_CA_FILE": "none", "KRYPTON_CERT_FILE": "none", "KRYPTON_KEY_FILE": "none", "KRYPTON_CONTEXT": "",
	} {
		t.Setenv(name, value)
	}
	if err := use(contexts.Use("whole")); err != nil {
		t.Errorf("a whole context: %v", err)
	}
	if err := use(contexts.Use("")); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "no current context") {
		t.Errorf("no current context: %v", err)
	}
	if err := use(contexts.Use("nothing")); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), `there is no context "nothing"; list them with krypton context list`) {
		t.Errorf("a context that is not there: %v", err)
	}
	t.Setenv("KRYPTON_CONTEXT", "whole")
	if err := use(contexts.Use("")); err != nil {
		t.Errorf("the context of the environment: %v", err)
	}
	// A name in code goes before the environment, to which cluster a program speaks.
	t.Setenv("KRYPTON_CONTEXT", "nothing")
	if err := use(contexts.Use("whole")); err != nil {
		t.Errorf("a context in code beside one of the environment: %v", err)
	}
	// What the context leaves empty comes from the environment.
	t.Setenv("KRYPTON_CA_FILE", cluster.CAFile())
	t.Setenv("KRYPTON_CERT_FILE", cert)
	t.Setenv("KRYPTON_KEY_FILE", key)
	t.Setenv("KRYPTON_ADDR", cluster.Addrs()[0])
	if err := use(contexts.Use("identity")); err != nil {
		t.Errorf("a context without addresses: %v", err)
	}
	t.Setenv("KRYPTON_ADDR", "127.0.0.1:1")
	if err := use(contexts.Use("address")); err != nil {
		t.Errorf("an address alone: %v", err)
	}
	// Without contexts.Use, nobody reads the context, and New says so.
	t.Setenv("KRYPTON_ADDR", "")
	if err := use(); !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), `contexts.Use("")`) {
		t.Errorf("a context that is not read: %v", err)
	}
}

// FuzzLoad takes anything for the file of contexts.
func FuzzLoad(f *testing.F) {
	path := filepath.Join(f.TempDir(), "contexts.yaml")
	f.Add([]byte("current: a\ncontexts:\n  a:\n    addrs: [127.0.0.1:8400]\n"))
	f.Add([]byte("contexts: {a: {addrs: x}}"))
	f.Add([]byte("--- {}\n--- {}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := contexts.Load(path)
		if err != nil {
			if !errs.Is(err, errs.InvalidConfig) {
				t.Errorf("%v", err)
			}
			return
		}
		for name := range c.Contexts {
			if _, err := c.Get(name); err != nil && !errs.Is(err, errs.InvalidConfig) {
				t.Errorf("%v", err)
			}
		}
	})
}
