package agebox

import "io"

// SaveQuickly is SaveEncrypted with a passphrase that is as quick to try as can be.
func SaveQuickly(i *Identities, w io.Writer, passphrase []byte) error {
	return i.saveEncrypted(w, passphrase, 1)
}
