package memsec

import (
	"io"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec/internal/core"
)

// KeySize is the length in bytes of an AES-256 key, of a derived key and of a MAC.
const KeySize = core.KeySize

// MaxLen is the longest secret, in bytes.
const MaxLen = core.MaxLen

// The errors that a caller may want to tell apart with errors.Is. What is
// returned wraps them and carries a code of package errs.
var (
	// ErrDestroyed: the secret was destroyed or purged (errs.NotServing).
	ErrDestroyed = core.ErrDestroyed
	// ErrNoSecret: the zero Secret or AEAD was used, a defect of the program (errs.Internal).
	ErrNoSecret = core.ErrNoSecret
	// ErrBudget: no more memory may be locked (errs.Unavailable; from [Setup], errs.InvalidConfig).
	ErrBudget = core.ErrBudget
)

// Class says how a secret is kept. The zero value is invalid.
type Class int

const (
	// Cold secrets are encrypted while not in use and take about 0.1 ms to
	// open, one at a time in the process: MasterKey, instance keys, L2.
	Cold = Class(core.Cold)
	// Hot secrets are resident in locked pages: L2.1, L3, sessions, DEKs in flight.
	Hot = Class(core.Hot)
)

// String returns "cold", "hot" or "unspecified".
func (c Class) String() string {
	switch c {
	case Cold:
		return "cold"
	case Hot:
		return "hot"
	}
	return "unspecified"
}

// Secret names 1 to [MaxLen] bytes in protected memory. It is small and
// comparable; copies name the same bytes. The zero Secret names nothing.
// It is safe for concurrent use.
type Secret struct{ ref core.Ref }

// FromRef and [Secret.Ref] connect this package with memsec/reveal. Outside of
// this directory a Ref has no operation: nothing else can import its package.
func FromRef(r core.Ref) Secret { return Secret{ref: r} }

// Ref is for memsec/reveal; see [FromRef].
func (s Secret) Ref() core.Ref { return s.ref }

// Random makes a secret of n bytes, 1 to [MaxLen], read from rand.
func Random(rand io.Reader, n int, c Class) (Secret, error) {
	if err := check(c); err != nil {
		return Secret{}, err
	}
	return wrap(core.Process().Random(rand, n, core.Class(c)))
}

// Take moves b, 1 to [MaxLen] bytes, into protected memory. b is wiped also
// when an error is returned.
func Take(b []byte, c Class) (Secret, error) {
	if err := check(c); err != nil {
		clear(b)
		return Secret{}, err
	}
	return wrap(core.Process().Take(b, core.Class(c)))
}

// Copy makes a second secret with the same bytes, independent of s.
func Copy(s Secret, c Class) (Secret, error) {
	if err := check(c); err != nil {
		return Secret{}, err
	}
	return wrap(core.Process().Copy(s.ref, core.Class(c)))
}

// Equal compares the bytes of a and b in time that depends on their lengths
// only. Secrets of different lengths are unequal.
func Equal(a, b Secret) (bool, error) { return core.Process().Equal(a.ref, b.ref) }

// IsZero reports whether s names nothing. A destroyed secret is not zero.
func (s Secret) IsZero() bool { return s.ref == 0 }

// Len returns the length in bytes, or 0 for the zero and for a destroyed Secret.
func (s Secret) Len() int { return core.Process().Len(s.ref) }

// Class returns how the secret is kept, or 0 for the zero and for a destroyed Secret.
func (s Secret) Class() Class { return Class(core.Process().ClassOf(s.ref)) }

// Destroy ends the secret and wipes it, or leaves the wiping to the last
// operation that is using it. It is idempotent; every later use is
// [ErrDestroyed].
func (s Secret) Destroy() { core.Process().Destroy(s.ref) }

func check(c Class) error {
	if c != Cold && c != Hot {
		return errs.New(errs.Internal, "internal error", errs.Hint("look for the correlation id in the node's log"))
	}
	return nil
}

func wrap(r core.Ref, err error) (Secret, error) {
	if err != nil {
		return Secret{}, err
	}
	return Secret{ref: r}, nil
}
