//go:build unix && nopkcs11

package keystores

import "github.com/openkcm/krypton-cluster/keystore"

// pkcs11Type says that this program has no keystores of type pkcs11.
func pkcs11Type() (keystore.Type, bool) { return keystore.Type{}, false }
