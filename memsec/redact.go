package memsec

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// The methods below have value receivers: with pointer receivers the plain
// value and values in fields of other structs would not have them. Where fmt
// cannot call them, in unexported fields, it prints a number that means nothing
// outside of this process.

const redacted = "[redacted]"

var errNoEncoding = errors.New("a secret has no encoding")

// Format prints [redacted] for every verb.
func (Secret) Format(f fmt.State, _ rune) { redact(f) }

// String returns [redacted].
func (Secret) String() string { return redacted }

// GoString returns [redacted].
func (Secret) GoString() string { return redacted }

// LogValue logs [redacted].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON always fails.
func (Secret) MarshalJSON() ([]byte, error) { return nil, errNoEncoding }

// MarshalText always fails.
func (Secret) MarshalText() ([]byte, error) { return nil, errNoEncoding }

// MarshalBinary always fails.
func (Secret) MarshalBinary() ([]byte, error) { return nil, errNoEncoding }

// GobEncode always fails.
func (Secret) GobEncode() ([]byte, error) { return nil, errNoEncoding }

// Format prints [redacted] for every verb.
func (AEAD) Format(f fmt.State, _ rune) { redact(f) }

// String returns [redacted].
func (AEAD) String() string { return redacted }

// GoString returns [redacted].
func (AEAD) GoString() string { return redacted }

// LogValue logs [redacted].
func (AEAD) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON always fails.
func (AEAD) MarshalJSON() ([]byte, error) { return nil, errNoEncoding }

// MarshalText always fails.
func (AEAD) MarshalText() ([]byte, error) { return nil, errNoEncoding }

// MarshalBinary always fails.
func (AEAD) MarshalBinary() ([]byte, error) { return nil, errNoEncoding }

// GobEncode always fails.
func (AEAD) GobEncode() ([]byte, error) { return nil, errNoEncoding }

func redact(f fmt.State) {
	_, _ = io.WriteString(f, redacted) // fmt.State keeps no error
}
