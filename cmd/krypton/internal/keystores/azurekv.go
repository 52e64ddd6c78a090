//go:build unix && !noazurekv

package keystores

import (
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/azurekv"
)

// azurekvType describes Azure Key Vault and Managed HSM.
func azurekvType() (keystore.Type, bool) {
	return keystore.Type{
		Name: azurekv.Type, Settings: azurekv.Settings(), New: azurekv.New, Place: azurekv.Place,
		Doc: "A key in an Azure Key Vault or a Managed HSM; see docs/keystores/azurekv.md.",
	}, true
}
