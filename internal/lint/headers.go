package lint

import (
	"fmt"
	"go/ast"
)

// HeaderReaders are the files that may read what a sender says beside a request, with
// what they read.
var HeaderReaders = map[string]string{
	"server/headers.go":         "the list for gRPC: a token, a trace id, the wish not to wait",
	"server/gateway/headers.go": "the list for HTTP: the same, and where a browser's page is from",
	"server/door.go":            "the address of a connection, to count its strangers; no record has it, and nobody is known by it",
	"server/gateway/grpc.go":    "whether it is gRPC on the port of HTTP, which is refused",
	"cluster/port.go":           "the address of a refused connection, for the log",
}

// headerPackages take calls from outside, or could.
var headerPackages = []string{"server", "cluster", "node", "gate", "auth", "internal/corr", "cmd/krypton/internal/serve"}

// HeaderRule finds code that reads headers, trailers or addresses of calls outside of
// the files of readers. A header that nobody reads cannot be believed; so what the
// list in these files says is all that a sender can say beside a request.
//
// It knows the names under which gRPC and net/http hand them out. A field Header is
// read by Get, Values or an index; setting one for an answer is another thing.
func HeaderRule(tree Tree, readers map[string]string) []string {
	var bad []string
	for _, f := range tree {
		if f.Test || f.Generated || readers[f.Path] != "" || !within(f.Package, headerPackages) {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if name, ok := readsHeader(n); ok {
				bad = append(bad, fmt.Sprintf("%s: %s reads what a sender says beside a request; add it to the list in server/headers.go, or do without", f.at(n), name))
			}
			return true
		})
	}
	return bad
}

// readsHeader reports whether n takes something out of the headers of a call.
func readsHeader(n ast.Node) (string, bool) {
	isHeader := func(e ast.Expr) bool {
		s, ok := e.(*ast.SelectorExpr)
		return ok && (s.Sel.Name == "Header" || s.Sel.Name == "Trailer")
	}
	switch n := n.(type) {
	case *ast.IndexExpr:
		return "an index of Header", isHeader(n.X)
	case *ast.RangeStmt:
		return "a range over Header", isHeader(n.X)
	case *ast.SelectorExpr:
		switch n.Sel.Name {
		case "FromIncomingContext", "ValueFromIncomingContext", "RemoteAddr", "Cookie", "Cookies", "CookiesNamed", "BasicAuth", "UserAgent", "Referer":
			return n.Sel.Name, true
		case "Get", "Values", "Clone":
			return "Header." + n.Sel.Name, isHeader(n.X)
		}
	}
	return "", false
}
