//go:build unix && noawskms

package keystores

import "github.com/openkcm/krypton-cluster/keystore"

// awskmsType says that this program has no keystores of type awskms.
func awskmsType() (keystore.Type, bool) { return keystore.Type{}, false }
