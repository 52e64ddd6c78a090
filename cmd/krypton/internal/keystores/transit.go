//go:build unix && !notransit

package keystores

import (
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/transit"
)

// transitType is the transit engine of OpenBao or HashiCorp Vault.
func transitType() (keystore.Type, bool) {
	return keystore.Type{
		Name: transit.Type, Settings: transit.Settings(), New: transit.New, Identity: transit.IdentityNames(), Place: transit.Place,
		Doc: "The transit secrets engine of OpenBao or HashiCorp Vault. See [keystores/transit.md](keystores/transit.md).",
	}, true
}
