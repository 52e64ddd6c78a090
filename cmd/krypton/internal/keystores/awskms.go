//go:build unix && !noawskms

package keystores

import (
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
)

// awskmsType is AWS KMS.
func awskmsType() (keystore.Type, bool) {
	return keystore.Type{
		Name: awskms.Type, Settings: awskms.Settings(), New: awskms.New, Identity: awskms.IdentityNames(), Place: awskms.Place,
		Doc: "Keys in AWS Key Management Service ([manual](keystores/awskms.md)).",
	}, true
}
