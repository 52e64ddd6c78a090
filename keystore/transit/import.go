package transit

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/openkcm/krypton-cluster/keystore"
)

// importType is the type of a key that is made by an import.
const importType = "aes256-gcm96"

// wrappingKey is the answer to reading the mount's wrapping key.
type wrappingKey struct {
	reply

	Data struct {
		PublicKey string `json:"public_key"`
	} `json:"data"`
}

// ImportParameters implements [keystore.Importer]. The wrapping key is the
// mount's and does not expire. The engine gives it for any key, so it is asked
// first whether this identity may import into this one: a ceremony should not
// find that out at its end.
func (p *Provider) ImportParameters(ctx context.Context, req keystore.ImportParametersRequest) (keystore.ImportParameters, error) {
	if err := req.Check(p.name); err != nil {
		return keystore.ImportParameters{}, err
	}
	c := call{op: keystore.OpImportParameters, key: req.Key, correlation: req.Correlation}
	if _, _, err := p.importPath(ctx, c); err != nil {
		return keystore.ImportParameters{}, err
	}
	c.method, c.path, c.imports = http.MethodGet, p.mount+"/wrapping_key", true
	var rep wrappingKey
	if err := p.ask(ctx, c, &rep); err != nil {
		return keystore.ImportParameters{}, err
	}
	block, rest := pem.Decode([]byte(rep.Data.PublicKey))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) != 0 || len(block.Bytes) > keystore.MaxImportPublicKey {
		return keystore.ImportParameters{}, p.failed(c, keystore.Unavailable, rep.RequestID, errors.New("the server gave a wrapping key that is none"))
	}
	return keystore.ImportParameters{PublicKey: block.Bytes, Mechanism: keystore.ImportRSAAESKeyWrap256, RequestID: rep.RequestID}, nil
}

// ImportMaterial implements [keystore.Importer]. A key that does not exist is
// made, as the engine has no keys without material; one that does gets another
// version. It cannot be exported or rotated by the engine itself.
func (p *Provider) ImportMaterial(ctx context.Context, req keystore.ImportMaterialRequest) (keystore.ImportResult, error) {
	if err := req.Check(p.name); err != nil {
		return keystore.ImportResult{}, err
	}
	c := call{op: keystore.OpImportMaterial, key: req.Key, correlation: req.Correlation}
	path, latest, err := p.importPath(ctx, c)
	if err != nil {
		return keystore.ImportResult{}, err
	}
	tail := `","hash_function":"SHA256"}`
	if latest == 0 {
		tail = `","hash_function":"SHA256","type":"` + importType + `"}`
	}
	c.method, c.path, c.imports = http.MethodPost, path, true
	c.body = slices.Concat([]byte(`{"ciphertext":"`), base64.StdEncoding.AppendEncode(nil, req.Wrapped), []byte(tail))
	var rep reply
	if err := p.ask(ctx, c, &rep); err != nil {
		return keystore.ImportResult{}, err
	}
	return keystore.ImportResult{KeyVersion: keystore.KeyVersion(strconv.Itoa(latest + 1)), RequestID: rep.RequestID}, nil
}

// importPath returns where material for a key goes and the key's latest
// version, 0 for one that does not exist yet. It fails where this identity may
// not bring material there.
func (p *Provider) importPath(ctx context.Context, c call) (path string, latest int, err error) {
	key, err := p.readKey(ctx, c)
	path = p.mount + "/keys/" + string(c.key) + "/import"
	switch {
	case err == nil && !key.Data.Imported:
		return "", 0, p.failed(c, keystore.Misconfigured, key.RequestID, errors.New("the key was made by the server, which takes material only for keys that were imported; import under another name"))
	case err == nil:
		path, latest = path+"_version", key.Data.LatestVersion
	case !keystore.IsDenied(err): // other than that there is none
		return "", 0, err
	}
	var rep capabilities
	ask := c
	ask.method, ask.path, ask.body = http.MethodPost, capabilitiesPath, capabilitiesOf(path)
	if err := p.ask(ctx, ask, &rep); err != nil {
		return "", 0, err
	}
	c.method, c.path = http.MethodPost, path
	if !rep.allow(c) {
		f := withdrawn(c, rep.RequestID)
		return "", 0, p.failed(c, f.class, f.request, f.cause)
	}
	return path, latest, nil
}
