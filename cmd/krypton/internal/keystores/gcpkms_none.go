//go:build unix && nogcpkms

package keystores

import "github.com/openkcm/krypton-cluster/keystore"

// gcpkmsType says that this program has no keystores of type gcpkms.
func gcpkmsType() (keystore.Type, bool) { return keystore.Type{}, false }
