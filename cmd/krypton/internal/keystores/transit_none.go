//go:build unix && notransit

package keystores

import "github.com/openkcm/krypton-cluster/keystore"

// transitType says that this program has no keystores of type transit.
func transitType() (keystore.Type, bool) { return keystore.Type{}, false }
