// Package corr makes and carries correlation ids.
//
// Every call has one correlation id. It stands in the response, in every audit
// record of the call on every node, in forwarded calls, and in the calls to a
// customer's keystore, so that one id links an application's request to the
// customer's own log.
//
// # Invariants
//
//   - I1: an id is 36 characters of lower-case hex and dashes (a UUID), so that it is safe in any header, log line or file name.
//   - I2: ids made here are UUIDv7: unique, and sortable by the time they were made.
//
// # Concurrency
//
// Safe for concurrent use.
//
// # Failure
//
// The only failure is a failing random source, which the caller treats as fatal.
//
// # Source
//
// ACD-302, Compliance & Audit; RFC 9562 (UUIDv7); W3C Trace Context.
package corr

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/google/uuid"
)

// ID is a correlation id. The zero value means none.
type ID string

// New makes a UUIDv7 with randomness from rand (I2).
func New(rand io.Reader) (ID, error) {
	u, err := uuid.NewV7FromReader(rand)
	if err != nil {
		return "", fmt.Errorf("make correlation id: %w", err)
	}
	return ID(u.String()), nil
}

// Parse accepts a UUID in its 36-character form, in either case.
func Parse(s string) (ID, error) {
	if len(s) != 36 {
		return "", fmt.Errorf("correlation id has %d characters, want 36", len(s))
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return "", fmt.Errorf("correlation id is not a UUID")
	}
	return ID(u.String()), nil
}

// FromTraceparent takes the trace id of a W3C traceparent header as the
// correlation id, in the form of a UUID. It reports false for a header that
// does not follow the specification's version 00.
func FromTraceparent(header string) (ID, bool) {
	parts := strings.Split(header, "-")
	if len(parts) != 4 || parts[0] != "00" || strings.ToLower(header) != header {
		return "", false
	}
	var trace uuid.UUID
	var parent [8]byte
	var flags [1]byte
	if !decode(trace[:], parts[1]) || !decode(parent[:], parts[2]) || !decode(flags[:], parts[3]) {
		return "", false
	}
	// All zeros mean that the sender has no trace.
	if trace == (uuid.UUID{}) || parent == [8]byte{} {
		return "", false
	}
	return ID(trace.String()), true
}

// decode fills dst with hex s and reports whether s was exactly that.
func decode(dst []byte, s string) bool {
	if len(s) != hex.EncodedLen(len(dst)) {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

// Key is the key of the id in a context, whose value is a *[ID]. It is for context
// types of their own, which carry an id without a context around them; everybody
// else uses [With] and [From].
type Key struct{}

// With returns a context that carries id.
func With(ctx context.Context, id ID) context.Context {
	return context.WithValue(ctx, Key{}, &id)
}

// From returns the id that ctx carries, or the zero ID.
func From(ctx context.Context) ID {
	if id, ok := ctx.Value(Key{}).(*ID); ok && id != nil {
		return *id
	}
	return ""
}
