//go:build unix

package dev_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/pages"
)

// notRunExport is a variable that a page asks its reader to set.
var notRunExport = regexp.MustCompile(`(?m)^export ([A-Z_]+)=`)

// TestThePagesOfTheHTTPAPI types docs/curl.md and docs/python.md, each in the
// same cluster.
func TestThePagesOfTheHTTPAPI(t *testing.T) {
	h := home(t)
	r := start(t, h, "--output", "json")
	got := r.ready(t)
	nodes := []string{"127.0.0.1:1"} // where nobody answers
	for _, n := range got.Nodes {
		nodes = append(nodes, n.REST)
	}
	env := []string{"KRYPTON_REST=https://" + got.Nodes[0].REST, "KRYPTON_NODES=" + strings.Join(nodes, ","), "KRYPTON_CA_FILE=" + got.CAFile}
	for _, p := range got.People {
		switch p.Role {
		case "workload":
			env = append(env, "KRYPTON_CERT_FILE="+p.CertFile, "KRYPTON_KEY_FILE="+p.KeyFile)
		case "governor":
			env = append(env, "GOVERNOR_CERT_FILE="+p.CertFile, "GOVERNOR_KEY_FILE="+p.KeyFile)
		}
	}
	// The page for curl shows the numbers of a new cluster, so it comes first.
	for _, p := range []struct {
		file    string
		program pages.Program
	}{
		{"curl.md", pages.Shell.With("curl")},
		{"python.md", pages.Python},
	} {
		file, program := p.file, p.program
		t.Run(file, func(t *testing.T) {
			page := pages.Read(t, filepath.Join("../../../../docs", file))
			// The reader has what the page asks for and nothing else.
			var asked []string
			for _, b := range page.Blocks {
				if b.Language == "sh" && !b.Runs("sh") {
					for _, m := range notRunExport.FindAllStringSubmatch(b.Text, -1) {
						asked = append(asked, m[1])
					}
				}
			}
			var given []string
			for _, e := range env {
				if name, _, _ := strings.Cut(e, "="); slices.Contains(asked, name) {
					given = append(given, e)
				}
			}
			if len(given) != len(asked) {
				t.Fatalf("%s asks for %v", file, asked)
			}
			page.Run(t, program, t.TempDir(), given...)
		})
	}
	r.interrupt(t)
}

// TestThePagesOfPeople types pages in a cluster of krypton dev each, with the contexts
// that it makes.
func TestThePagesOfPeople(t *testing.T) {
	for file, program := range map[string]pages.Program{"identity.md": pages.Shell.With("openssl"), "authority.md": pages.Shell} {
		t.Run(file, func(t *testing.T) {
			h := home(t)
			r := start(t, h, "--nodes", "1", "--output", "json")
			r.ready(t)
			cmd := krypton(t.Context(), h)
			env := append(cmd.Env, "PATH="+path(t, h))
			pages.Read(t, filepath.Join("../../../../docs", file)).Run(t, program, t.TempDir(), env...)
			r.interrupt(t)
		})
	}
}

// TestThePageOfPolicies types docs/policy.md in the cluster of krypton dev, as its
// governor.
func TestThePageOfPolicies(t *testing.T) {
	h := home(t)
	r := start(t, h, "--nodes", "1", "--output", "json")
	r.ready(t)
	cmd := krypton(t.Context(), h)
	env := append(cmd.Env, "PATH="+path(t, h))
	pages.Read(t, "../../../../docs/policy.md").Run(t, pages.Shell, t.TempDir(), env...)
	r.interrupt(t)
}
