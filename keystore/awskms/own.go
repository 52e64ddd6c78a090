package awskms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/openkcm/krypton-cluster/keystore"
)

// nameRole is the one name of an identity.
const nameRole = "role"

// IdentityNames are what a tenant's identity is called in this keystore: a role of the
// customer's account. Its external id is no choice of anybody: it is the tenant's uid.
func IdentityNames() []keystore.Setting {
	return []keystore.Setting{{
		Name: nameRole, Required: true, Check: matching(roleForm, "the ARN of a role"),
		Doc: "ARN of a role in the account of the key, for this tenant only: its trust policy names the node's role and asks for the tenant's uid as external id.",
	}}
}

// owned is KMS as the role of one tenant sees it.
type owned struct{ *Keystore }

var (
	_ keystore.Assumer = (*Keystore)(nil)
	_ keystore.Owned   = owned{}
)

// As implements [keystore.Assumer]. Everything but the role is the keystore's; the
// identity that assumes it is shared, and outlives it.
func (k *Keystore) As(id keystore.Identity) (keystore.Owned, error) {
	refuse := func(err error) (keystore.Owned, error) {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: k.name, Op: keystore.OpOpen}, err)
	}
	id, err := id.Only(IdentityNames())
	if err != nil {
		return refuse(err)
	}
	s := k.s
	s.assumeRole, s.externalID = id.Names[nameRole], id.Tenant
	part := strings.Split(s.assumeRole, ":") // the form has them
	s.account = part[4]
	if part[1] != s.partition {
		return refuse(errors.New("the role is of another partition than the keystore's region"))
	}
	one := &Keystore{name: k.name, env: k.env, s: s, client: k.client, tokens: k.tokens, base: k.login}
	one.login = newLogin(k.env, k.name, s.timeout, s.assumed(k.tokens, k.login, k.env.Clock))
	return owned{one}, nil
}

// Owner implements [keystore.Owned].
func (o owned) Owner() string { return Type + ":" + o.s.assumeRole }

// Prove implements [keystore.Owned]. A role that anybody's external id opens is one that
// another tenant's binding could name, so one that nobody has must be refused (I8). The
// key is named by its id, which all replicas of a multi-Region key share.
func (o owned) Prove(ctx context.Context, req keystore.ProveRequest) (keystore.Proof, error) {
	ctx, c, err := o.begin(ctx, keystore.OpProve, req.Key, req.Correlation)
	if err != nil {
		return keystore.Proof{}, err
	}
	if err := req.Check(o.name); err != nil {
		return keystore.Proof{}, err
	}
	if err := c.key(); err != nil {
		return keystore.Proof{}, err
	}
	var m *types.KeyMetadata
	var id keystore.RequestID
	_, err = c.send(ctx, func(ctx context.Context, with func(*kms.Options)) (err error) {
		m, id, err = o.describe(ctx, req.Key, with)
		return err
	})
	if err != nil {
		return keystore.Proof{}, c.failed(ctx, err)
	}
	if err := c.checkKey(m.Arn); err != nil {
		return keystore.Proof{}, c.fail(keystore.Unavailable, id, err)
	}
	arn := arnForm.FindStringSubmatch(aws.ToString(m.Arn))
	if arn == nil || arn[3] != o.s.account {
		return keystore.Proof{}, c.fail(keystore.Misconfigured, id, &keystore.NotOwnedError{Why: "the key is of another account than the role"})
	}
	if err := o.asksForTheTenant(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if _, not := errors.AsType[*keystore.NotOwnedError](err); not {
			return keystore.Proof{}, c.fail(keystore.Misconfigured, id, err)
		}
		return keystore.Proof{}, c.failed(ctx, err)
	}
	return keystore.Proof{Key: Type + ":" + arn[1] + ":" + arn[3] + ":" + strings.TrimPrefix(arn[4], "key/"), RequestID: id}, nil
}

// asksForTheTenant assumes the role with an external id that is nobody's.
func (o owned) asksForTheTenant(ctx context.Context) error {
	var other [16]byte
	if _, err := io.ReadFull(o.env.Rand, other[:]); err != nil {
		return &refused{keystore.Unavailable, err}
	}
	s := o.s
	s.externalID = hex.EncodeToString(other[:])
	_, err := s.assumed(o.tokens, o.base, o.env.Clock)(ctx)
	switch {
	case err == nil:
		return &keystore.NotOwnedError{Why: "its role can be assumed with any external id, so a binding of another tenant could name it"}
	case errors.Is(err, keystore.ErrRefused):
		return nil
	}
	return fmt.Errorf("assume the role with another external id: %w", err)
}
