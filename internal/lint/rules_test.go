package lint_test

import (
	"bytes"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/openkcm/krypton-cluster/internal/lint"
)

// These tests hold I2: each rule runs over fixtures in which it must find
// something, and over the nearest good ones in which it must not.

func tmpl(name string) string { return strings.ReplaceAll(name, "$M", lint.Module) }

func source(t *testing.T, files map[string]string) lint.Tree {
	t.Helper()
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(tmpl(text))}
	}
	tr, err := lint.Load(m)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// want checks that each problem is found by a part of its text, and no other.
func want(t *testing.T, got []string, parts ...string) {
	t.Helper()
	if len(got) != len(parts) {
		t.Errorf("found %d problems, want %d: %q", len(got), len(parts), got)
		return
	}
	for _, part := range parts {
		found := false
		for _, g := range got {
			found = found || strings.Contains(g, part)
		}
		if !found {
			t.Errorf("no problem says %q: %q", part, got)
		}
	}
}

func TestI2_LayerRule(t *testing.T) {
	t.Parallel()
	layers := map[string]int{
		"low": 0, "mid/...": 1, "mid/deep/...": 3, "high": 2, "client": lint.LayerClient,
		"tool": lint.LayerTool, "chaos": lint.LayerChaos,
	}
	got := lint.LayerRule(source(t, map[string]string{
		"low/a.go":        `package low; import _ "$M/mid/x"`,
		"mid/x/a.go":      `package x; import (_ "$M/low"; _ "$M/mid/y"; _ "fmt")`,
		"mid/y/a.go":      `package y; import _ "$M/mid/deep/z"`,
		"mid/deep/z/a.go": `package z; import _ "$M/high"`,
		"high/a.go":       `package high; import _ "$M/client"`,
		"high/b_test.go":  `package high; import _ "$M/mid/deep/z"`,
		"client/a.go":     `package client; import (_ "$M/low"; _ "$M/mid/x")`,
		"tool/a.go":       `package tool; import _ "$M/low"`,
		"chaos/a.go":      `package chaos; import _ "$M/high"`,
		"new/a.go":        `package new`,
		"low/tagged.go":   "//go:build never\n\npackage low\n\nimport _ \"$M/unknown\"",
	}), layers)
	want(
		t, got, "low/a.go: low (layer 0) may not import mid/x (layer 1)", "mid/y/a.go", "high/a.go",
		"client/a.go: client (layer -2) may not import mid/x", "tool/a.go", `package "new" has no layer`, "low/tagged.go",
	)
}

func TestI2_RestrictionRule(t *testing.T) {
	t.Parallel()
	got := lint.RestrictionRule(source(t, map[string]string{
		"memsec/a.go":       `package memsec; import _ "github.com/awnumar/memguard"`,
		"memsec/core/a.go":  `package core; import _ "github.com/awnumar/memguard/core"`,
		"memsecret/a.go":    `package memsecret; import _ "github.com/awnumar/memguard"`,
		"seal/a.go":         `package seal; import _ "github.com/hashicorp/vault/shamir"`,
		"node/a.go":         `package node; import (_ "github.com/hashicorp/vault/shamir"; _ "$M/memsec/reveal")`,
		"node/a_test.go":    `package node; import _ "github.com/hashicorp/raft"`,
		"auth/a.go":         `package auth; import _ "$M/memsec/reveal"`,
		"auth/a_test.go":    `package auth; import _ "$M/memsec/reveal"`,
		"cluster/a.go":      `package cluster; import _ "github.com/hashicorp/raft-boltdb/v2"`,
		"fsm/with_tag_x.go": "//go:build x\n\npackage fsm\n\nimport _ \"github.com/hashicorp/raft\"",
	}), lint.Restrictions)
	want(
		t, got, "memsecret/a.go: may not import github.com/awnumar/memguard; use memsec.Secret",
		"node/a.go: may not import github.com/hashicorp/vault/shamir", "node/a_test.go", "auth/a.go", "fsm/with_tag_x.go",
	)
}

func TestRestrictionsSayWhy(t *testing.T) {
	t.Parallel()
	for _, r := range lint.Restrictions {
		for dir, why := range r.Importers {
			if len(why) < 10 {
				t.Errorf("%v: no reason for %s", r.What, dir)
			}
		}
	}
}

func packages(imports map[string][]string) lint.Graph {
	g := lint.Graph{}
	for p, imps := range imports {
		p = tmpl(p)
		pkg := lint.Package{ImportPath: p, Standard: !strings.Contains(p, ".")}
		for _, i := range imps {
			pkg.Imports = append(pkg.Imports, tmpl(i))
		}
		g[p] = pkg
	}
	return g
}

func TestI2_HeaderRule(t *testing.T) {
	t.Parallel()
	got := lint.HeaderRule(source(t, map[string]string{
		"server/headers.go":   `package server; func a() { _ = metadata.ValueFromIncomingContext(ctx, "x") }`,
		"server/a.go":         `package server; func a() { _ = metadata.ValueFromIncomingContext(ctx, "x") }`,
		"server/b.go":         `package server; func a() { _ = r.Header.Get("X-Forwarded-For") }`,
		"server/gateway/c.go": `package gateway; func a() { for range r.Header {}; _ = r.Header["Via"]; _ = r.RemoteAddr }`,
		"cluster/d.go":        `package cluster; func a() { md, _ := metadata.FromIncomingContext(ctx) }`,
		"server/good.go":      `package server; func a() { w.Header().Set("X", "y"); _ = http.Header{}; out.Header = nil; _ = values.Get("x") }`,
		"server/a_test.go":    `package server; func a() { _ = r.Header.Get("X") }`,
		"client/a.go":         `package client; func a() { _ = r.Header.Get("X") }`,
	}), lint.HeaderReaders)
	want(t, got, "server/a.go", "server/b.go", "a range over Header", "an index of Header", "RemoteAddr", "cluster/d.go")
}

func TestI2_PurityRule(t *testing.T) {
	t.Parallel()
	g := packages(map[string][]string{
		"$M/fsm":           {"$M/fsm/fsmpb", "$M/hierarchy", "example.com/db", "crypto/sha256"},
		"$M/fsm/fsmpb":     {"sort"},
		"$M/hierarchy":     {"crypto/rand"},
		"example.com/db":   {"example.com/deep"},
		"example.com/deep": {"net/http"},
		"crypto/sha256":    {"crypto/cipher"},
		"crypto/cipher":    {"crypto/rand"},
		"$M/node":          {"net", "$M/memsec"},
		"$M/fsmother":      {"net"},
		"$M/fsm/lies":      {"github.com/hashicorp/raft"},
	})
	want(
		t, lint.PurityRule(g, "fsm"), "hierarchy imports crypto/rand", "example.com/deep imports net/http",
		"fsm/lies imports github.com/hashicorp/raft",
	)
}

func TestI2_ClientClosure(t *testing.T) {
	t.Parallel()
	imports := map[string][]string{
		"$M/client":                        {"$M/api/krypton/v1", "$M/internal/errs/wire", "fmt", "google.golang.org/grpc/credentials"},
		"$M/api/krypton/v1":                {"google.golang.org/grpc"},
		"$M/internal/errs/wire":            {"google.golang.org/protobuf/proto"},
		"google.golang.org/grpc":           {"golang.org/x/net/http2"},
		"golang.org/x/net/http2":           {"net"},
		"google.golang.org/protobuf/proto": nil, "google.golang.org/grpc/credentials": nil, "fmt": nil, "net": nil,
	}
	want(t, lint.ClientClosure(packages(imports)))
	imports["$M/client"] = append(imports["$M/client"], "$M/hierarchy")
	imports["$M/hierarchy"] = []string{"github.com/google/uuid"}
	imports["github.com/google/uuid"] = []string{"fmt"}
	want(t, lint.ClientClosure(packages(imports)), "hierarchy", "github.com/google/uuid")
	want(t, lint.ClientClosure(packages(map[string][]string{"$M/node": nil})))
}

func TestI2_InitRule(t *testing.T) {
	t.Parallel()
	got := lint.InitRule(source(t, map[string]string{
		"a/a.go":      "package a\n\nfunc init() { println() }",
		"a/b_test.go": "package a\n\nfunc init() {}",
		"a/gen.go":    "// Code generated by x. DO NOT EDIT.\n\npackage a\n\nfunc init() {}",
		"a/ok.go":     "package a\n\ntype t int\n\nfunc (t) init() {}",
	}))
	want(t, got, "a/a.go:3: func init", "a/b_test.go:3")
}

func TestI2_SecretFieldRule(t *testing.T) {
	t.Parallel()
	const fields = `
type T struct {
	Key, Name    []byte
	masterKey    [32]byte
	Shares       [][]byte
	seed         *[]byte
	rootKEK      []uint8
	user_PIN     []byte
	inner        struct{ plaintext []byte }
	PublicKey    []byte
	WrappedKey   []byte
	KeyID        []byte
	key          string
	Sealed       []byte
	monkey       []byte
}
func f() { var _ struct{ secret []byte } }`
	got := lint.SecretFieldRule(source(t, map[string]string{
		"a/a.go":      "package a" + fields,
		"a/a_test.go": "package a" + fields,
		"memsec/a.go": "package memsec" + fields,
		"a/gen.go":    "// Code generated by x. DO NOT EDIT.\n\npackage a" + fields,
	}))
	want(
		t, got, "a/a.go:3: field Key ", "field masterKey ", "field Shares ", "field seed ", "field rootKEK ",
		"field user_PIN ", "field plaintext ", "field secret ",
	)
}

func TestI2_PackageCommentRule(t *testing.T) {
	t.Parallel()
	const full = "// Package a is.\n//\n// # Invariants\n//\n// None.\n//\n// # Concurrency\n//\n// Safe.\n//\n// # Failure\n//\n// Never.\n//\n// # Source\n//\n// ACD-302.\npackage a\n"
	got := lint.PackageCommentRule(source(t, map[string]string{
		"good/a.go":   full,
		"good/b.go":   "package a\n",
		"none/a.go":   "package none\n",
		"two/a.go":    full,
		"two/b.go":    full,
		"lacks/a.go":  strings.Replace(full, "# Failure", "# Errors", 1),
		"order/a.go":  strings.NewReplacer("# Failure", "# Source", "# Source", "# Failure").Replace(full),
		"empty/a.go":  strings.Replace(full, "//\n// None.\n", "", 1),
		"gen/a.go":    "// Code generated by x. DO NOT EDIT.\n\npackage gen\n",
		"t/a_test.go": "package t\n",
	}))
	want(
		t, got, "none: 0 package comments", "two: 2 package comments", `lacks/a.go: the package comment lacks the heading "# Failure"`,
		`order/a.go: the heading "# Source" is out of order`, `empty/a.go: nothing stands below the heading "# Invariants"`,
	)
}

func TestLoadReadsWhatTheGoCommandReads(t *testing.T) {
	t.Parallel()
	tr := source(t, map[string]string{
		"a.go": "package root", "testdata/b.go": "package b", "tools/c.go": "package c", "x/tools/d.go": "package d",
		".hidden/e.go": "package e", "x/_old/f.go": "package f", "x/README.md": "",
	})
	if len(tr) != 2 {
		t.Errorf("%d files, want a.go and x/tools/d.go", len(tr))
	}
	if _, err := lint.Load(fstest.MapFS{"a.go": {Data: []byte("not go")}}); err == nil {
		t.Error("a file that does not parse is accepted")
	}
}

func docs(files map[string]string) (fs.FS, []string) {
	m := fstest.MapFS{}
	names := make([]string, 0, len(files))
	for name, text := range files {
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		m[name] = &fstest.MapFile{Data: []byte(text), Mode: mode}
		names = append(names, name)
	}
	return m, names
}

func TestI2_ADRRule(t *testing.T) {
	t.Parallel()
	const full = "# 1. T\n\nStatus: accepted\n\n## Context\n\n## Decision\n\n## Consequences\n\n## How we would notice that it is wrong\n"
	root, _ := docs(map[string]string{
		"docs/adr/README.md":    "[1](0001-good.md) [2](0002-short.md) [1](0001-again.md)",
		"docs/adr/0001-good.md": full, "docs/adr/0001-again.md": full,
		"docs/adr/0002-short.md":    strings.Replace(full, "## Decision", "## Idea", 1),
		"docs/adr/0003-unlinked.md": full, "docs/adr/notes.md": full,
	})
	want(
		t, lint.ADRRule(root), "number 0001 is taken", `0002-short.md: lacks "## Decision"`,
		"0003-unlinked.md: not linked", "notes.md: the name is not",
	)
	root, _ = docs(nil)
	want(t, lint.ADRRule(root), "docs/adr/README.md")
}

func TestI2_LinkRule(t *testing.T) {
	t.Parallel()
	root, files := docs(map[string]string{
		"README.md": "[a](docs/a.md) [b](docs/a.md#what-it-is-not) [c](gone.md) [d](docs/a.md#gone) [e](https://example.com/x) [f](#here)\n# Here\n" +
			"`[code](gone)`\n\n```\n[fence](gone)\n```\n",
		"docs/a.md": "## What it is, not\n[up](../README.md) [out](../../x.md)\n",
		"x.go":      "[no](markdown)",
	})
	want(t, lint.LinkRule(root, files), "README.md: link to gone.md", "README.md: link to docs/a.md#gone", "docs/a.md: link to ../../x.md")
}

func TestI2_MakeRule(t *testing.T) {
	t.Parallel()
	root, files := docs(map[string]string{
		"Makefile":         "X := 1\n.PHONY: good\ngood: ## does\n\t@$(RUN) scripts/good\n\n.PHONY: mute\nmute:\n\ttrue\n\nfile: ## makes\n\t@$(RUN) scripts/gone\n",
		"scripts/good":     "#!/bin/sh\n",
		"README.md":        "`make good`, `FUZZTIME=10s make good PKGS=./x`, `make sense`",
		"docs/contract.md": "`make planned`",
	})
	want(
		t, lint.MakeRule(root, files), "target mute has no", "target file is not .PHONY", "scripts/gone is not an executable",
		"README.md: names `make sense`",
	)
}

func TestI2_MachinePathRule(t *testing.T) {
	t.Parallel()
	w, tm := "/wo"+"rk/", "/tm"+"p/"
	root, files := docs(map[string]string{
		"a.md": "see " + w + "main\nfine: https://example.com" + w + "x and $DIR" + tm + "x\n(" + tm + "y)\n",
		"b.sh": w + "x\n", "go.sum": "h1:" + "/" + tm + "=",
	})
	want(t, lint.MachinePathRule(root, append(files, "deleted.md")), "a.md:1", "a.md:3", "b.sh:1")
}

func TestI2_ProofRule(t *testing.T) {
	t.Parallel()
	root := fstest.MapFS{
		"README.md":   {Data: []byte("[TestThere](a/a_test.go) [TestGone](a/a_test.go) [TestNowhere](b/b_test.go) [a text](c.md)\n")},
		"a/a_test.go": {Data: []byte("package a\n\nfunc TestThere(t *testing.T) {}\n\n// func TestGone(\n")},
	}
	got := lint.ProofRule(root, "README.md")
	if len(got) != 2 || !strings.Contains(got[0], "no test TestGone") || !strings.Contains(got[1], "TestNowhere") {
		t.Errorf("%q", got)
	}
	root["README.md"] = &fstest.MapFile{Data: bytes.Repeat([]byte("line\n"), 61)}
	if got := lint.ProofRule(root, "README.md"); len(got) != 1 || !strings.Contains(got[0], "61 lines") {
		t.Errorf("%q", got)
	}
}
