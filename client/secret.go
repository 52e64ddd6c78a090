package client

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// Secret is key material or plaintext that a call returned. It never prints,
// logs or encodes itself. The zero value is no secret.
//
// The bytes live in ordinary memory of the process: the SDK imports nothing that
// could lock them. Use them, then [Secret.Wipe] them.
type Secret struct {
	// A closure and not a slice: fmt and reflection walk into slices of
	// unexported fields, but not into closures.
	open func(wipe bool) []byte
}

// errNoEncoding keeps encoders from writing a secret, or an empty stand-in that
// somebody would take for one.
var errNoEncoding = errors.New("a client.Secret is not encoded; take its Bytes")

const redacted = "[secret]"

// NewSecret takes b: the secret is b itself, and [Secret.Wipe] wipes b.
func NewSecret(b []byte) Secret {
	if b == nil {
		return Secret{}
	}
	var mu sync.Mutex
	return Secret{open: func(wipe bool) []byte {
		mu.Lock()
		defer mu.Unlock()
		if wipe {
			clear(b)
			b = nil
		}
		return b
	}}
}

// Bytes returns the secret itself, not a copy. It is nil after [Secret.Wipe].
func (s Secret) Bytes() []byte {
	if s.open == nil {
		return nil
	}
	return s.open(false)
}

// Len returns the number of bytes.
func (s Secret) Len() int { return len(s.Bytes()) }

// Wipe overwrites the bytes. It may be called more than once; all copies of the
// Secret are wiped by it.
func (s Secret) Wipe() {
	if s.open != nil {
		s.open(true)
	}
}

// Format implements [fmt.Formatter]: every verb prints the same placeholder.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON always fails.
func (s Secret) MarshalJSON() ([]byte, error) { return nil, errNoEncoding }

// MarshalText always fails.
func (s Secret) MarshalText() ([]byte, error) { return nil, errNoEncoding }

// MarshalBinary always fails.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errNoEncoding }

// GobEncode always fails.
func (s Secret) GobEncode() ([]byte, error) { return nil, errNoEncoding }
