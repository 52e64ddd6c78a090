// Package invariants turns broken assumptions into loud failures.
//
// [Violated] is for a state that cannot happen unless the program is wrong: it
// panics in every build. [Enabled] guards checks that are too dear for
// production; they run in tests, which are built with the tag invariants.
//
// # Invariants
//
//   - I1: the behaviour of a program does not depend on Enabled, only whether a defect is noticed.
//
// # Concurrency
//
// Safe for concurrent use; nothing here has state.
//
// # Failure
//
// A panic ends the process. A node that stopped serves nothing, which is the safe side.
//
// # Source
//
// The habit is that of storage engines such as Pebble.
package invariants

import "fmt"

// Violated reports a broken invariant of the named package and never returns.
// The message must not contain key material or callers' data.
func Violated(pkg, format string, args ...any) {
	panic(pkg + ": internal error: " + fmt.Sprintf(format, args...))
}

// Mangle overwrites b in builds with checks, so that whoever kept an alias of a
// buffer that it had to give back reads garbage and fails a test. It does
// nothing in release builds.
func Mangle(b []byte) {
	if !Enabled {
		return
	}
	for i := range b {
		b[i] = 0xDB
	}
}
