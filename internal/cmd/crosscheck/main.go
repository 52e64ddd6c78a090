// Command crosscheck type-checks packages, with their tests, for other systems
// than the one it runs on.
//
// usage: crosscheck GOOS[,GOOS...] packages
//
// It finds what `go vet` would find there of missing and doubled names, wrong
// types and unused imports, and costs a few seconds: nothing is compiled. A real
// build for another system compiles its whole standard library first, minutes
// with a cold cache.
//
// # Invariants
//
//   - I1: packages of the module are checked as a whole, with their tests; of what they import, only what can be seen from outside.
//   - I2: a package that cannot be listed, parsed or checked is an error, and so is finding nothing to check.
//
// # Concurrency
//
// One goroutine per system.
//
// # Failure
//
// It prints every finding and ends with status 1.
//
// # Source
//
// go/types; go help list.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// maxFindings bounds what is said of one package.
const maxFindings = 10

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: crosscheck GOOS[,GOOS...] packages")
		os.Exit(2)
	}
	systems := strings.Split(os.Args[1], ",")
	found := make([]error, len(systems))
	counts := make([]int, len(systems))
	var wg sync.WaitGroup
	for i, goos := range systems {
		wg.Go(func() { counts[i], found[i] = check(context.Background(), ".", goos, os.Args[2:]) })
	}
	wg.Wait()
	for i, goos := range systems {
		fmt.Fprintf(os.Stdout, "crosscheck: %d packages for %s\n", counts[i], goos)
	}
	if err := errors.Join(found...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// listed is what go list says of a package.
type listed struct {
	ImportPath string
	Dir        string
	Name       string
	Standard   bool
	GoFiles    []string
	ImportMap  map[string]string
	Module     *struct{ Main bool }
	Error      *struct{ Err string }
}

// own reports whether the package is of the module and not made by go test.
func (p listed) own() bool { return p.Module != nil && p.Module.Main }

// check checks packages in dir for goos and returns how many of the module there were.
func check(ctx context.Context, dir, goos string, packages []string) (int, error) {
	args := append([]string{
		"list", "-e", "-deps", "-test", "-tags", "invariants",
		"-json=ImportPath,Dir,Name,Standard,GoFiles,ImportMap,Module,Error", "--",
	}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // The arguments are packages, behind "--".
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: go list: %w", goos, err)
	}
	c := &checker{goos: goos, fset: token.NewFileSet(), done: map[string]*types.Package{"unsafe": types.Unsafe}}
	for dec, n := json.NewDecoder(bytes.NewReader(out)), 0; ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			if n == 0 {
				c.found = append(c.found, fmt.Errorf("%s: there is nothing to check", goos))
			}
			return n, errors.Join(c.found...)
		} else if err != nil {
			return n, err
		}
		if strings.HasSuffix(p.ImportPath, ".test") || p.ImportPath == "unsafe" {
			continue // the main package that go test writes
		}
		if c.add(p); p.own() {
			n++
		}
	}
}

// checker checks packages in the order of go list: imports come first.
type checker struct {
	goos  string
	fset  *token.FileSet
	done  map[string]*types.Package
	found []error
}

func (c *checker) add(p listed) {
	if p.Error != nil {
		c.found = append(c.found, fmt.Errorf("%s: %s: %s", c.goos, p.ImportPath, p.Error.Err))
		return
	}
	var files []*ast.File
	for _, name := range p.GoFiles {
		if !filepath.IsAbs(name) {
			name = filepath.Join(p.Dir, name)
		}
		f, err := parser.ParseFile(c.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			c.found = append(c.found, fmt.Errorf("%s: %w", c.goos, err))
			return
		}
		files = append(files, f)
	}
	findings := 0
	conf := types.Config{
		IgnoreFuncBodies: !p.own(), // I1
		Importer:         importer(func(path string) (*types.Package, error) { return c.resolve(p, path) }),
		Sizes:            types.SizesFor("gc", build.Default.GOARCH),
		Error: func(err error) {
			if findings++; findings <= maxFindings {
				c.found = append(c.found, fmt.Errorf("%s: %w", c.goos, err))
			}
		},
	}
	path, _, _ := strings.Cut(p.ImportPath, " ") // "a [a.test]" is a, with its tests
	pkg, err := conf.Check(path, c.fset, files, nil)
	if err != nil && findings == 0 {
		c.found = append(c.found, fmt.Errorf("%s: %s: %w", c.goos, p.ImportPath, err))
	}
	c.done[p.ImportPath] = pkg
}

func (c *checker) resolve(p listed, path string) (*types.Package, error) {
	if mapped, ok := p.ImportMap[path]; ok {
		path = mapped
	}
	if pkg := c.done[path]; pkg != nil {
		return pkg, nil
	}
	return nil, fmt.Errorf("%s is not there", path)
}

// importer is a function that is a [types.Importer].
type importer func(path string) (*types.Package, error)

// Import implements [types.Importer].
func (f importer) Import(path string) (*types.Package, error) { return f(path) }
