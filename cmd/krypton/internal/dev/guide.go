//go:build unix

package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// The sample tenant and its service.
const (
	tenantID  = "demo"
	serviceID = "payments"
)

// result is what the command tells: with --output json as it is, else as text.
type result struct {
	DevelopmentOnly bool     `json:"developmentOnly"` // always true
	Dir             string   `json:"dir"`
	Kept            bool     `json:"kept"` // Dir stays
	Nodes           []node   `json:"nodes"`
	People          []person `json:"people"`
	CAFile          string   `json:"caFile"`
	ContextsFile    string   `json:"contextsFile"`
	CurrentContext  string   `json:"currentContext"`
	Tenant          string   `json:"tenant"`
	Service         string   `json:"service"`
}

type node struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	PID     int    `json:"pid"`
	GRPC    string `json:"grpc"`
	REST    string `json:"rest"`
	Ops     string `json:"ops"`
	DataDir string `json:"dataDir"`
	Log     string `json:"log"`
}

type person struct {
	Role     string `json:"role"`
	Name     string `json:"name"`
	Context  string `json:"context"`
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
}

func describe(c *devcluster.Cluster, in *installed, kept bool) result {
	r := result{
		DevelopmentOnly: true, Dir: c.Dir(), Kept: kept, CAFile: c.CAFile(), ContextsFile: in.path, CurrentContext: in.current,
		Tenant: "tenants/" + tenantID, Service: "tenants/" + tenantID + "/services/" + serviceID,
	}
	for _, n := range c.Nodes() {
		a, pids := n.Addresses(), n.PIDs()
		r.Nodes = append(r.Nodes, node{
			Name: n.Name(), ID: n.ID(), PID: pids[len(pids)-1], GRPC: a.GRPC, REST: a.REST, Ops: a.Ops, DataDir: n.DataDir(), Log: n.LogFile(),
		})
	}
	for _, p := range c.People() {
		r.People = append(r.People, person{Role: p.Role.String(), Name: p.Name, Context: contextName(p.Role), CertFile: p.CertFile, KeyFile: p.KeyFile})
	}
	return r
}

func (r result) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// writeText writes what a person needs to begin. Every line that looks like a
// command works as it stands, in another terminal.
func (r result) writeText(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("DEVELOPMENT ONLY. Every key of this cluster lies unencrypted in")
	line("%s: put nothing real into it.", r.Dir)
	line("")
	for _, n := range r.Nodes {
		line("  %s  grpc %-15s  rest https://%-15s  ready? http://%s/readyz  pid %d", n.Name, n.GRPC, n.REST, n.Ops, n.PID)
	}
	line("")
	line("Contexts, in %s:", r.ContextsFile)
	for _, p := range r.People {
		selected := ""
		if p.Context == r.CurrentContext {
			selected = "   selected"
		}
		line("  %-14s  %s%s", p.Context, p.Name, selected)
	}
	line("")
	line("In another terminal:")
	flag := ""
	if workload := contextName(auth.RoleWorkload); r.CurrentContext != workload {
		flag = " --context " + workload
	}
	name := tenantID + "/" + serviceID
	line("  echo hello | krypton encrypt%s --service %s > hello.krypton", flag, name)
	line("  krypton decrypt%s --service %s < hello.krypton", flag, name)
	line("  krypton key rotate --context %s %s", contextName(auth.RoleGovernor), name)
	line("  krypton status --context %s", contextName(auth.RoleOperator))
	line("")
	line("With curl:")
	for _, p := range r.People {
		if p.Role == auth.RoleWorkload.String() {
			line("  %s", r.curl(p))
		}
	}
	line("")
	if r.Kept {
		line("Ctrl-C stops it. The data stays; the same command starts it again.")
	} else {
		line("Ctrl-C ends it and leaves nothing behind.")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// curl is a command that encrypts the word hello.
func (r result) curl(p person) string {
	return fmt.Sprintf("curl --cacert %s --cert %s --key %s https://%s/v1/%s:encrypt --data '{\"plaintext\":\"aGVsbG8K\"}'",
		quote(r.CAFile), quote(p.CertFile), quote(p.KeyFile), r.Nodes[0].REST, r.Service)
}

// quote makes a path one word of a shell command.
func quote(path string) string {
	if !strings.ContainsFunc(path, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("/._-+@%,:=", c)
	}) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
