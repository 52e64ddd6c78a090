//go:build unix && !nopkcs11

package keystores

import (
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11"
)

// pkcs11Type is the keystore in a hardware security module.
func pkcs11Type() (keystore.Type, bool) {
	return keystore.Type{
		Name: pkcs11.Type, Settings: pkcs11.Settings(), New: pkcs11.New, Identity: pkcs11.IdentityNames(), Place: pkcs11.Place,
		Doc: "A token that speaks PKCS#11, such as a hardware security module. The vendor's library runs in the program krypton-pkcs11, beside the node.",
	}, true
}
