package gcpkms

import (
	"context"
	"errors"
	"regexp"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"

	"github.com/openkcm/krypton-cluster/keystore"
)

// nameAccount is the one name of an identity.
const nameAccount = "service_account"

// TenantLabel is the label of a key whose value is the uid of the tenant that the
// customer gives it to. Changing it breaks what customers wrote.
const TenantLabel = "krypton-tenant"

// accountForm is an account of a project; the accounts that Google makes by itself
// are of other domains, and everybody's.
var accountForm = regexp.MustCompile(`^[a-z][a-z0-9-]{4,28}[a-z0-9]@([a-z][a-z0-9-]{4,28}[a-z0-9])\.iam\.gserviceaccount\.com$`)

// IdentityNames are what a tenant's identity is called in this keystore: a service
// account of the customer's project, which the nodes' identity may impersonate.
func IdentityNames() []keystore.Setting {
	return []keystore.Setting{{
		Name: nameAccount, Required: true, Check: checkAccount,
		Doc: "E-mail of a service account in the project of the key, for this tenant only. The key has the label " + TenantLabel + " with the tenant's uid.",
	}}
}

func checkAccount(s string) error {
	if !accountForm.MatchString(s) {
		return errors.New("want NAME@PROJECT.iam.gserviceaccount.com")
	}
	return nil
}

// owned is Cloud KMS as one tenant's service account sees it.
type owned struct {
	*Provider

	tenant string
}

var (
	_ keystore.Assumer = (*Provider)(nil)
	_ keystore.Owned   = (*owned)(nil)
)

// As implements [keystore.Assumer]. Only keys of the account's own project can be named.
func (p *Provider) As(id keystore.Identity) (keystore.Owned, error) {
	refuse := func(err error) (keystore.Owned, error) {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: p.name, Op: keystore.OpOpen}, err)
	}
	id, err := id.Only(IdentityNames())
	if err != nil {
		return refuse(err)
	}
	o := p.opts
	account := id.Names[nameAccount]
	project := accountForm.FindStringSubmatch(account)[1] // checked above
	switch {
	case o.impersonate != "":
		return refuse(errors.New("the keystore impersonates an account already, which would be all tenants'; take impersonate out of its settings"))
	case o.project != "" && o.project != project:
		return refuse(errors.New("the account is of another project than the keystore's"))
	}
	o.impersonate, o.project = account, project
	source := ofTenant{newSource(o, newWeb(o.tls), p.env.Clock)}
	return &owned{tenant: id.Tenant, Provider: &Provider{
		name: p.name, env: p.env, opts: o, limit: p.limit, links: p.links, borrows: true,
		tokens:  newTokens(source, p.env.Clock, p.env.Logger, p.name),
		guesses: map[keystore.KeyRef]keystore.KeyVersion{},
	}}, nil
}

// ofTenant marks a refused token as one of a tenant's identity.
type ofTenant struct{ source }

func (o ofTenant) fetch(ctx context.Context) (token, error) {
	t, err := o.source.fetch(ctx)
	if no, ok := errors.AsType[*tokenError](err); ok && no.class == keystore.Misconfigured {
		err = &tokenError{no.class, errors.Join(keystore.ErrRefused, no)}
	}
	return t, err
}

// Owner implements [keystore.Owned].
func (o *owned) Owner() string { return Type + ":" + o.opts.impersonate }

// Prove implements [keystore.Owned]. Whoever may impersonate an account may do so for
// every tenant: Google asks for nothing that we made. So the key says for which tenant
// it is, by a label that its owner alone can write (I7).
func (o *owned) Prove(ctx context.Context, req keystore.ProveRequest) (keystore.Proof, error) {
	c, ctx, end := o.begin(ctx, keystore.OpProve, req.Key, req.Correlation)
	defer end()
	if err := c.usable(); err != nil {
		return keystore.Proof{}, err
	}
	if err := req.Check(o.name); err != nil {
		return keystore.Proof{}, err
	}
	key, err := o.resource(req.Key)
	if err != nil {
		return keystore.Proof{}, c.fail(keystore.Misconfigured, err)
	}
	resp, err := ask(ctx, c, (*kms.KeyManagementClient).GetCryptoKey, &kmspb.GetCryptoKeyRequest{Name: key.keyName()})
	switch {
	case err != nil:
		return keystore.Proof{}, c.judge(ctx, err, key, "")
	case !key.isName(resp.GetName()):
		return keystore.Proof{}, c.fail(keystore.Unavailable, errors.New("the answer is about another key"))
	case resp.GetLabels()[TenantLabel] != o.tenant:
		return keystore.Proof{}, c.fail(keystore.Misconfigured, &keystore.NotOwnedError{Why: "its label " + TenantLabel + " is not the tenant's uid"})
	}
	return keystore.Proof{Key: Type + ":" + key.keyName(), RequestID: c.id}, nil
}
