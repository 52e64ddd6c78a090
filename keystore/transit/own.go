package transit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/openkcm/krypton-cluster/keystore"
)

// The names of an identity.
const (
	nameRole      = "role"
	nameNamespace = "namespace"
)

// IdentityNames are what a tenant's identity is called in this keystore: a role of the
// auth method by which the node logs in, in a namespace.
func IdentityNames() []keystore.Setting {
	return []keystore.Setting{
		{Name: nameRole, Required: true, Check: checkOwnRole, Doc: "Role of the auth method, for this tenant only: its name ends in - and the tenant's uid."},
		{Name: nameNamespace, Check: checkPath, Doc: "Namespace of role and key. Absent: that of the keystore."},
	}
}

func checkOwnRole(s string) error {
	if checkName(s) != nil {
		return errors.New("want a name of letters, digits and underscores, with dots and dashes inside")
	}
	return nil
}

// owned is the engine as one tenant's role sees it.
type owned struct {
	*Provider

	owner, prefix string
}

var _ keystore.Owned = (*owned)(nil)

// As implements [keystore.Assumer]. The login says the role, so that a token has the
// rights of one tenant. By approle and by a token in a file the server knows one
// identity, which would be all tenants'.
//
// The role's name has the tenant's uid in it: a customer who makes it allows this
// tenant, and no other's binding can name it (I6).
func (p *Provider) As(id keystore.Identity) (keystore.Owned, error) {
	refuse := func(err error) (keystore.Owned, error) {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: p.name, Op: keystore.OpOpen}, err)
	}
	id, err := id.Only(IdentityNames())
	if err != nil {
		return refuse(err)
	}
	role := id.Names[nameRole]
	s := p.settings
	switch {
	case s.identity.auth != authCert && s.identity.auth != authKubernetes:
		return refuse(fmt.Errorf("with auth %s a node has one identity for all tenants; configure %s or %s", s.identity.auth, authCert, authKubernetes))
	case !strings.HasSuffix(role, "-"+id.Tenant):
		return refuse(errors.New("the name of the role does not end in - and the tenant's uid"))
	}
	if ns := strings.Trim(id.Names[nameNamespace], "/"); ns != "" {
		s.namespace = ns
	}
	s.identity.role = role
	one, err := p.open(s)
	if err != nil {
		return refuse(err)
	}
	one.assumed = true
	at := strings.ToLower(s.address) + "/" + s.namespace
	return &owned{Provider: one, owner: Type + ":" + at + ":auth/" + s.identity.mount + "/" + strings.ToLower(role), prefix: Type + ":" + at + ":" + s.mount + "/"}, nil
}

// Owner implements [keystore.Owned].
func (o *owned) Owner() string { return o.owner }

// Prove implements [keystore.Owned]. A key has one name.
func (o *owned) Prove(ctx context.Context, req keystore.ProveRequest) (keystore.Proof, error) {
	if err := req.Check(o.name); err != nil {
		return keystore.Proof{}, err
	}
	c := call{op: keystore.OpProve, key: req.Key, correlation: req.Correlation}
	rep, err := o.readKey(ctx, c)
	if err != nil {
		return keystore.Proof{}, err
	}
	return keystore.Proof{Key: o.prefix + string(req.Key), RequestID: rep.RequestID}, nil
}

// open makes a provider of checked settings.
func (p *Provider) open(s settings) (*Provider, error) {
	id := identity{s.identity}
	c, err := newClient(s, id)
	if err != nil {
		return nil, err
	}
	one := &Provider{name: p.name, mount: s.mount, settings: s, clock: p.clock, client: c, session: &session{id: id, c: c, clock: p.clock}}
	one.life, one.finish = context.WithCancel(context.Background())
	one.close = sync.OnceValue(one.shutdown)
	return one, nil
}
