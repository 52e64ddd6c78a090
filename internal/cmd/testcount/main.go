// Command testcount reads the output of go test -json and ends it with the
// line that a reader, and a build machine, can judge: how many tests passed,
// failed and were skipped.
//
// It prints one line per package, the whole output of every failed test, the
// reason of every skipped one, and last the closing line. With RESULT_CLOSING
// and RESULT_FIELDS in the environment (see scripts/target) the closing line
// and the counts also go to those files.
//
// # Invariants
//
//   - I1: every test and every subtest counts exactly once, whatever its depth.
//   - I2: a package that did not compile, crashed or failed without a failing test counts as one failure.
//   - I3: the exit status is 0 only if at least one package ran, nothing failed and, under KRYPTON_REQUIRE=all, nothing was skipped.
//
// # Concurrency
//
// One goroutine.
//
// # Failure
//
// A line that is not JSON is printed as it is. Input that ends early is a failure,
// because the package it belongs to has no verdict.
//
// # Source
//
// The TestEvent format of `go doc test2json`.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	c := newCounter(os.Stdout)
	if err := c.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testcount:", err)
		os.Exit(1)
	}
	strict := os.Getenv("KRYPTON_REQUIRE") == "all"
	ok := c.finish(strict)
	line := c.closing() + "\n"
	fields := fmt.Sprintf("passed=%d\nfailed=%d\nskipped=%d\n", c.passed, c.failed, c.skipped)
	for file, text := range map[string]string{os.Getenv("RESULT_CLOSING"): line, os.Getenv("RESULT_FIELDS"): fields} {
		if err := add(file, text); err != nil {
			fmt.Fprintln(os.Stderr, "testcount:", err)
			ok = false
		}
	}
	if os.Getenv("RESULT_CLOSING") == "" {
		fmt.Print(line)
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
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, strings.NewReader(text)); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
