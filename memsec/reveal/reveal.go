// Package reveal is the only way by which key bytes leave protected memory; the packages that may import it are listed in a test.
//
// # Invariants
//
//   - I1: the bytes are valid inside the callback only; they are wiped when it returns, panics or exits its goroutine.
//   - I2: the callback of [With] sees a copy: it can neither change nor keep the secret.
//
// # Concurrency
//
// Safe for concurrent use. No lock is held while a callback runs; it may use
// memsec and reveal, and it may block.
//
// # Failure
//
// A slice kept beyond the callback reads zeros or another callback's bytes. In
// builds with checks it reads 0xDB, and a write through it stops the process.
//
// # Source
//
// Package memsec.
package reveal

import (
	"errors"

	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/internal/core"
)

var errClass = errors.New("no class given for a secret")

// With runs fn with the bytes of s and returns fn's error. fn must not keep b,
// nor any slice of it, nor put it into a string. Copies that fn makes are its
// own to wipe. fn runs in a scope that erases its stack where the build can, so
// it must not call into C (a PKCS#11 module, say): that crashes such a build.
func With(s memsec.Secret, fn func(b []byte) error) error {
	return core.Process().Reveal(s.Ref(), fn)
}

// New makes a secret of n bytes, 1 to [memsec.MaxLen], that fill writes into
// protected memory; b starts as zeros. When fill fails there is no secret.
// The rules for fn of [With] hold for fill.
func New(n int, c memsec.Class, fill func(b []byte) error) (memsec.Secret, error) {
	if c != memsec.Cold && c != memsec.Hot {
		return memsec.Secret{}, errClass
	}
	r, err := core.Process().Fill(n, core.Class(c), fill)
	if err != nil {
		return memsec.Secret{}, err
	}
	return memsec.FromRef(r), nil
}
