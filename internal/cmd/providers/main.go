// Command providers reads the output of go test -json of the conformance tests
// of all keystores and ends it with a table: provider, component, cases, and
// what does not apply, with its reason.
//
// With RESULT_FIELDS in the environment (see scripts/target) the counts also go
// to that file.
//
// # Invariants
//
//   - I1: a test that failed, a package that did not compile and a test that ended without its report are failures.
//   - I2: the exit status is 0 only if at least one provider ran and nothing failed.
//   - I3: a provider whose component is not on this machine is named with the command that installs it, and does not count.
//
// # Concurrency
//
// One goroutine.
//
// # Failure
//
// A line that is not JSON is printed as it is. The whole output of a failed test
// is printed.
//
// # Source
//
// The TestEvent format of `go doc test2json`; the reports of package keystoretest.
package main

import (
	"fmt"
	"os"
)

func main() {
	t := newTable(os.Stdout)
	if err := t.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "providers:", err)
		os.Exit(1)
	}
	ok := t.finish()
	if err := add(os.Getenv("RESULT_FIELDS"), t.fields()); err != nil {
		fmt.Fprintln(os.Stderr, "providers:", err)
		ok = false
	}
	if !ok {
		os.Exit(1)
	}
}

// add appends text to file. An empty name means that nobody asked for it.
func add(file, text string) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // The path is the caller's own: scripts/target names it.
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
