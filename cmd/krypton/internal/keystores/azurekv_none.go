//go:build unix && noazurekv

package keystores

import "github.com/openkcm/krypton-cluster/keystore"

// azurekvType says that this program has no keystores of type azurekv.
func azurekvType() (keystore.Type, bool) { return keystore.Type{}, false }
