//go:build unix

// Package keystores is the list of the keystores that this program has.
//
// Each vendor has a file of its own here with the build constraint !noTYPE, and
// a second one for the build without: `go build -tags nogcpkms` makes a program
// without Google's SDK, and a configuration that names the type is refused with
// the types that are there.
//
// # Invariants
//
//   - I1: docs/config.md has every type of a full program with all its settings.
//   - I2: no two types have one name, and no type has a setting twice or one of the entry's own keys.
//
// # Concurrency
//
// The list is made anew at each call; there is no state.
//
// # Failure
//
// A type that is not in the program is an error of the configuration.
//
// # Source
//
// docs/keystores; package keystore.
package keystores

import (
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/guard"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

// Types returns the keystores of this program, in the order of the documents.
// What they make is guarded and counted by m, which may be nil.
func Types(m *guard.Metrics) keystore.Types {
	all := keystore.Types{{
		Name: local.Type, Settings: local.Settings(), New: local.New, Place: local.Place,
		Doc: "A software keystore in files, for development and demonstration. It protects nothing against whoever can read the files.",
	}}
	for _, vendor := range []func() (keystore.Type, bool){pkcs11Type, transitType, awskmsType, azurekvType, gcpkmsType} {
		if t, has := vendor(); has {
			all = append(all, t)
		}
	}
	return guard.Types(all, m)
}
