// Package situation is the table of everything that can go wrong for somebody who uses Krypton, and of what they are told.
//
// The table of codes in package errs says what kinds of errors there are. This
// one says when they come: each [Situation] is one wrong input, one broken piece
// of the world, or one moment at which a process may die, with the line that its
// victim reads. docs/errors.md is generated from it, so a person finds the line
// they have in front of them, and tests compare the real line with it through
// package situationtest.
//
// # Invariants
//
//   - I1: every situation has a unique id and says either an error (code, message, next step) or how things stand after it, never both.
//   - I2: every situation is looked at by at least one test: its id stands as a string in a _test.go file outside this package, or behind the word "situation" in a transcript.
//   - I3: every error says what to do next; a situation without a hint names the reason in Bare.
//   - I4: docs/errors.md is this table.
//
// # Concurrency
//
// The table is immutable.
//
// # Failure
//
// Nothing here can fail.
//
// # Source
//
// docs/errors.md; AIP-193 (errors that say what to do).
package situation

import (
	"regexp"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Situation is one row.
type Situation struct {
	// ID is group/what-happened, lower case: "ciphertext/truncated".
	ID string
	// When is what somebody did or what happened, as the end of a sentence that
	// begins with "When ": "a ciphertext was cut short".
	When string

	// Code, Says and Next are the error: its code, message and hint. {words} stands
	// for a part that differs from case to case: "node {id} is sealed".
	Code errs.Code
	Says string
	Next string
	// Bare says why there is no next step. Only for an empty Next.
	Bare string

	// Outcome is how things stand when there is no error to read: what is kept,
	// what is lost, and what to do. Only for an empty Code.
	Outcome string
}

// Group is a part of the table under one heading.
type Group struct {
	Name  string // first part of the ids
	Title string // heading in docs/errors.md
	Rows  []Situation
}

// Groups returns the table in the order of the document.
func Groups() []Group {
	return []Group{
		ciphertexts(), requests(), identities(), authorities(), policies(), intents(), approvals(), clusterStates(), seals(), limits(), configurations(), machines(), storedState(), crashes(), commandLine(),
	}
}

// All returns every situation.
func All() []Situation {
	var out []Situation
	for _, g := range Groups() {
		out = append(out, g.Rows...)
	}
	return out
}

// Find returns the situation of an id.
func Find(id string) (Situation, bool) {
	all := All()
	i := slices.IndexFunc(all, func(s Situation) bool { return s.ID == id })
	if i < 0 {
		return Situation{}, false
	}
	return all[i], true
}

var placeholder = regexp.MustCompile(`\{[a-z0-9 ]+\}`)

// Matches reports whether text is what pattern says, where a {placeholder}
// stands for one or more characters of one line.
func Matches(pattern, text string) bool {
	var b strings.Builder
	b.WriteString("^")
	rest := pattern
	for {
		at := placeholder.FindStringIndex(rest)
		if at == nil {
			b.WriteString(regexp.QuoteMeta(rest))
			break
		}
		b.WriteString(regexp.QuoteMeta(rest[:at[0]]))
		b.WriteString("[^\n]+")
		rest = rest[at[1]:]
	}
	b.WriteString("$")
	return regexp.MustCompile(b.String()).MatchString(text)
}
