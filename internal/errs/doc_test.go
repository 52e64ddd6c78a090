package errs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation"
)

var update = flag.Bool("update", false, "write docs/errors.md instead of comparing it")

const errorsHead = `# Errors

<!-- Generated from internal/errs/table.go and internal/errs/situation by ` + "`make generate`" + `. Do not edit. -->

Every error that a caller sees carries one of these codes. Over gRPC the code is the ` + "`reason`" + ` of a
` + "`google.rpc.ErrorInfo`" + ` with domain ` + "`krypton`" + `; its metadata may hold a ` + "`hint`" + ` that says what to do next. Over
HTTP the same details stand in the JSON body. A client that does not know a code treats it as ` + "`INTERNAL`" + `.

*Retry*: **never**: the same call fails again. **same-node**: at once, on the same node, after reading again
what the call was based on. **other-node**: at once, on another node. **after-delay**: later, with backoff.
Retry a change only with the same request id: the cluster then acts at most once.

*Audit* is the outcome in the audit record. **unknown** means that a change may or may not have been committed.

| code | meaning | gRPC | HTTP | exit | retry | audit |
| :--- | :--- | :--- | ---: | ---: | :--- | :--- |
`

const situationsHead = `
## What you may meet

Each row has a test that provokes it and compares what comes. {words} stand for what differs from case to case. A row
without a code is no error: it says how things stand afterwards.
`

// cell makes text fit a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "{", "*{", "}", "}*").Replace(text)
}

func TestErrorReferenceIsUpToDate(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(errorsHead)
	for _, c := range errs.All() {
		r := c.Row()
		fmt.Fprintf(&b, "| `%s` | %s | %s | %d | %d | %s | %s |\n", r.Name, r.Meaning, r.GRPC, r.HTTP, r.Exit, r.Retry, r.Outcome)
	}
	b.WriteString(situationsHead)
	for _, g := range situation.Groups() {
		if len(g.Rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n| When | code | exit | HTTP | it says | next |\n| :--- | :--- | ---: | ---: | :--- | :--- |\n", g.Title)
		for _, s := range g.Rows {
			if s.Outcome != "" {
				fmt.Fprintf(&b, "| %s | - | - | - | %s | |\n", cell(s.When), cell(s.Outcome))
				continue
			}
			r, next := s.Code.Row(), cell(s.Next)
			if s.Next == "" {
				next = "(" + cell(s.Bare) + ")"
			}
			fmt.Fprintf(&b, "| %s | `%s` | %d | %d | %s | %s |\n", cell(s.When), r.Name, r.Exit, r.HTTP, cell(s.Says), next)
		}
	}
	path := filepath.Join("..", "..", "docs", "errors.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), b.String()); diff != "" {
		t.Errorf("docs/errors.md is not what the table says; run `make generate`:\n%s", diff)
	}
}
