//go:build unix

package pkcs11

import (
	"context"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
	"github.com/openkcm/krypton-cluster/memsec"
)

// importer is a provider with a key pair to bring key material in under. Without
// one a provider is no [keystore.Importer].
type importer struct{ *Provider }

var _ keystore.Importer = importer{}

// errToken: import_key was replaced, or the token is none of ours.
var errToken = &classified{class: keystore.Misconfigured, text: "the token of the import parameters is not of the import key that is there now"}

// ImportParameters implements [keystore.Importer]: the public half of the key
// pair that the setting import_key names. It does not expire; the owner of the
// token replaces the pair.
func (p importer) ImportParameters(ctx context.Context, req keystore.ImportParametersRequest) (keystore.ImportParameters, error) {
	fail := p.failer(keystore.OpImportParameters, req.Key)
	if err := p.begin(ctx); err != nil {
		return keystore.ImportParameters{}, fail(err)
	}
	if err := req.Check(p.name); err != nil {
		return keystore.ImportParameters{}, err
	}
	var out keystore.ImportParameters
	a, err := p.do(ctx, wire.Request{Op: wire.OpImportTo, Ref: string(req.Key)}, memsec.Secret{}, func(payload []byte) error {
		out.PublicKey = append([]byte(nil), payload...)
		return nil
	})
	if err != nil {
		return keystore.ImportParameters{}, fail(err)
	}
	switch a.Mechanism { //nolint:exhaustive // The others are none of the import.
	case blob.AESKWP:
		out.Mechanism = keystore.ImportCKMRSAAESKeyWrap
	case blob.OAEPSHA256:
		out.Mechanism = keystore.ImportOAEP256
	case blob.OAEPSHA1:
		out.Mechanism = keystore.ImportOAEP1
	default:
		return keystore.ImportParameters{}, fail(wire.ErrMalformed)
	}
	out.Token = append([]byte{byte(a.Mechanism)}, a.ID...)
	return out, nil
}

// ImportMaterial implements [keystore.Importer]: AES key material becomes a new
// version of the key, and the one that wraps from then on.
func (p importer) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	fail := p.failer(keystore.OpImportMaterial, req.Key)
	if err := p.begin(ctx); err != nil {
		return keystore.ImportResult{}, fail(err)
	}
	if err := req.Check(p.name); err != nil {
		return keystore.ImportResult{}, err
	}
	if len(req.Token) < 2 {
		return keystore.ImportResult{}, fail(errToken)
	}
	ask := wire.Request{Op: wire.OpImport, Ref: string(req.Key), Mechanism: blob.Mechanism(req.Token[0]), ID: req.Token[1:], Wrapped: req.Wrapped}
	a, err := p.do(ctx, ask, memsec.Secret{}, nil)
	if err == nil && a.Status == wire.StatusChanged {
		err = errToken
	}
	if err != nil {
		return keystore.ImportResult{}, fail(err)
	}
	return keystore.ImportResult{KeyVersion: versionOf(string(a.ID))}, nil
}
