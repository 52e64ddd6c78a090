//go:build unix

package pkcs11

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11/wire"
	"github.com/openkcm/krypton-cluster/memsec"
)

// nameToken is the one name of an identity.
const nameToken = "token"

// maxLabel is the longest label of a token: CK_TOKEN_INFO has room for no more.
const maxLabel = 32

// IdentityNames are what a tenant's identity is called in this keystore: the token that
// is this tenant's only. Which PIN opens it is no choice of a binding.
func IdentityNames() []keystore.Setting {
	return []keystore.Setting{{
		Name: nameToken, Required: true, Check: checkLabel,
		Doc: "Label of the token with the key, for this tenant only. Its user's PIN stands in the file of the tenant's uid in pin_dir.",
	}}
}

func checkLabel(s string) error {
	if len(s) > maxLabel {
		return errors.New("want the label of a token, up to 32 bytes")
	}
	return nil
}

// owned is the token of one tenant.
type owned struct {
	*Provider

	owner string
}

var (
	_ keystore.Assumer = (*Provider)(nil)
	_ keystore.Owned   = (*owned)(nil)
)

// As implements [keystore.Assumer]. The token is the one that the binding names, and the
// PIN that of the tenant: so whoever names the token of another tenant has no PIN for
// it (I6). It has a helper of its own, since what is logged in to a token is a process.
func (p *Provider) As(id keystore.Identity) (keystore.Owned, error) {
	refuse := func(err error) (keystore.Owned, error) {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: p.name, Op: keystore.OpOpen}, err)
	}
	id, err := id.Only(IdentityNames())
	if err != nil {
		return refuse(err)
	}
	s, label := p.settings, id.Names[nameToken]
	switch {
	case s.pinDir == "":
		return refuse(errors.New("the keystore has no pin_dir, so no tenant has a PIN of its own"))
	case label == s.hello.Label:
		return refuse(errors.New("the token is the one that the nodes use themselves"))
	}
	s.hello.Label, s.hello.Serial, s.hello.ImportKey = label, "", ""
	s.hello.PINFile = filepath.Join(s.pinDir, id.Tenant) // 32 hexadecimal digits
	one, err := open(p.ctx, p.env, p.name, s)
	if err != nil {
		return refuse(err)
	}
	one.assumed = true
	return &owned{Provider: one, owner: Type + ":" + s.hello.Module + ":" + label}, nil
}

// Owner implements [keystore.Owned].
func (o *owned) Owner() string { return o.owner }

// Prove implements [keystore.Owned]. A token is one tenant's, so it stands for its keys,
// which have two names each: label and id. It is known by model and serial number,
// whatever its label is and by which path the library is loaded.
func (o *owned) Prove(ctx context.Context, req keystore.ProveRequest) (keystore.Proof, error) {
	fail := o.failer(keystore.OpProve, req.Key)
	if err := o.begin(ctx); err != nil {
		return keystore.Proof{}, fail(err)
	}
	if err := req.Check(o.name); err != nil {
		return keystore.Proof{}, err
	}
	if _, err := o.do(ctx, wire.Request{Op: wire.OpSelect, Ref: string(req.Key)}, memsec.Secret{}, nil); err != nil {
		return keystore.Proof{}, fail(err)
	}
	proc, err := o.helper(ctx)
	if err != nil {
		return keystore.Proof{}, fail(err)
	}
	return keystore.Proof{Key: Type + ":" + proc.token.Model + ":" + proc.token.Serial}, nil
}
