//go:build unix && !nogcpkms

package keystores

import (
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/gcpkms"
)

// gcpkmsType is Google Cloud KMS.
func gcpkmsType() (keystore.Type, bool) {
	return keystore.Type{
		Name: gcpkms.Type, Settings: gcpkms.Settings(), New: gcpkms.New, Identity: gcpkms.IdentityNames(), Endpoint: gcpkms.Endpoint, Place: gcpkms.Place,
		Doc: "Google Cloud KMS. See [keystores/gcpkms.md](keystores/gcpkms.md).",
	}, true
}
