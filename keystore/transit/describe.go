package transit

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/openkcm/krypton-cluster/keystore"
)

// described is the answer to reading a key.
type described struct {
	reply

	Data keyData `json:"data"`
}

// keyData is what the engine tells of a key, as far as it matters here.
type keyData struct {
	Type                 string `json:"type"`
	LatestVersion        int    `json:"latest_version"`
	MinDecryptionVersion int    `json:"min_decryption_version"`
	MinEncryptionVersion int    `json:"min_encryption_version"`
	DeletionAllowed      bool   `json:"deletion_allowed"`
	Exportable           bool   `json:"exportable"`
	PlaintextBackup      bool   `json:"allow_plaintext_backup"`
	Imported             bool   `json:"imported_key"`
	Derived              bool   `json:"derived"`
	SoftDeleted          bool   `json:"soft_deleted"` // OpenBao
}

// mechanisms are the types of keys that bind associated data, which alone can
// be used. A managed key lies in an HSM behind Vault Enterprise.
var mechanisms = map[string]string{ //nolint:gochecknoglobals // A table.
	"aes128-gcm96":       "AES-128-GCM",
	"aes256-gcm96":       "AES-256-GCM",
	"chacha20-poly1305":  "ChaCha20-Poly1305",
	"xchacha20-poly1305": "XChaCha20-Poly1305",
}

// Describe implements [keystore.Provider].
func (p *Provider) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	if err := req.Check(p.name); err != nil {
		return keystore.Description{}, err
	}
	c := call{op: keystore.OpDescribe, key: req.Key, correlation: req.Correlation}
	rep, err := p.readKey(ctx, c)
	if err != nil {
		return keystore.Description{}, err
	}
	d := rep.Data
	out := keystore.Description{
		Key: req.Key, State: keystore.StateEnabled, KeyVersion: keystore.KeyVersion(strconv.Itoa(d.LatestVersion)),
		Kind: keystore.KindSymmetric, Protection: keystore.ProtectionSoftware, Mechanism: mechanisms[d.Type], RequestID: rep.RequestID,
		Notes: d.notes(),
	}
	if d.SoftDeleted {
		out.State = keystore.StatePendingDeletion
	}
	if out.Mechanism == "" {
		out.Mechanism, out.Kind = d.Type, keystore.KindUnknown
	}
	return out, nil
}

// readKey reads a key. c has the operation it is for.
func (p *Provider) readKey(ctx context.Context, c call) (*described, error) {
	if err := p.checkKey(c); err != nil {
		return nil, err
	}
	c.method, c.path, c.describes = http.MethodGet, p.mount+"/keys/"+string(c.key), true
	var rep described
	return &rep, p.ask(ctx, c, &rep)
}

// notes are what the owner of a key should know before depending on it.
func (d keyData) notes() []string {
	var n []string
	if d.MinDecryptionVersion > 1 {
		n = append(n, fmt.Sprintf("min_decryption_version is %d: blobs of older versions do not open.", d.MinDecryptionVersion))
	}
	if d.MinEncryptionVersion > d.LatestVersion {
		n = append(n, fmt.Sprintf("min_encryption_version is %d and the latest version %d: nothing can be wrapped.", d.MinEncryptionVersion, d.LatestVersion))
	}
	if d.DeletionAllowed {
		n = append(n, "deletion_allowed is set: whoever may delete keys ends this one at once, for good.")
	}
	if d.Exportable || d.PlaintextBackup {
		n = append(n, "The key can be exported or backed up in clear: its holder is not only this server.")
	}
	if d.Imported {
		n = append(n, "The key's material was imported: copies of it may be elsewhere.")
	}
	if d.Derived {
		n = append(n, "The key derives keys from a context and cannot be used here; make one without derived.")
	}
	if mechanisms[d.Type] == "" {
		n = append(n, fmt.Sprintf("Keys of type %s bind no associated data and cannot be used here; make one of type aes256-gcm96.", d.Type))
	}
	return n
}
