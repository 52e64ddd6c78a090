package command

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/intent/orders"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// What a request leaves to the nodes cannot be signed. It is filled in before, and
// is in what is shown.

// complete fills in what nobody typed and people sign.
func (in *Invocation) complete(ctx context.Context, c *client.Client, req proto.Message) error {
	if b, ok := req.(*kryptonv1.BindTenantRequest); ok {
		return in.completeBinding(ctx, c, b)
	}
	r, ok := req.(*kryptonv1.CreateTenantRequest)
	if !ok {
		return nil
	}
	rules, err := orders.Rules(ctx, c)
	if err != nil || len(rules) == 0 {
		return err
	}
	if len(r.GetGovernors()) == 0 { // else it would be whoever sends the request
		own, err := orders.OwnBinding(ctx, c)
		if err != nil {
			return err
		}
		if own != "" {
			r.Governors = []string{own}
		}
	}
	if r.GetBinding() != nil && r.GetBinding().GetArchetype() == "" {
		look := proto.CloneOf(r)
		look.ValidateOnly, look.RequestId = true, ""
		t, err := c.Tenants().CreateTenant(ctx, look, client.Capture(&in.info))
		if err != nil {
			return err
		}
		r.Binding.Archetype = t.GetBinding().GetArchetype()
	}
	return nil
}

// completeBinding fills in how the customer holds the key. Whoever shares a key needs
// signatures whatever the cluster's rules say.
func (in *Invocation) completeBinding(ctx context.Context, c *client.Client, r *kryptonv1.BindTenantRequest) error {
	rules, err := orders.Rules(ctx, c)
	if err != nil || len(rules) == 0 && len(r.GetBinding().GetSharedWith()) == 0 || r.GetBinding().GetArchetype() != "" {
		return err
	}
	look := proto.CloneOf(r)
	look.ValidateOnly, look.RequestId = true, ""
	t, err := c.Tenants().BindTenant(ctx, look, client.Capture(&in.info))
	if err != nil {
		return err
	}
	r.Binding.Archetype = t.GetBinding().GetArchetype()
	return nil
}

// signedTime returns the time in a field of the intent that the command sends, and
// false if it sends none: a command with --ttl that is given again means the time of
// the first one.
func (in *Invocation) signedTime(field string) (*timestamppb.Timestamp, bool, error) {
	files := in.c.StringSlice("intent")
	if len(files) == 0 {
		return nil, false, nil
	}
	f, err := sign.OpenFile(files[0])
	if err != nil {
		return nil, false, inFile(files[0], err)
	}
	for _, one := range f.Request.Fields() {
		if one.Name == field && one.Uint > 0 && one.Uint < 1<<62 {
			return timestamppb.New(time.UnixMilli(int64(one.Uint))), true, nil
		}
	}
	return nil, false, nil
}

// expiry returns when what lives for ttl from now on ends, in whole milliseconds. The
// time in an intent was made earlier of the same ttl, so it is no later than that:
// else who made the file says for how long, and not who gives the command.
func (in *Invocation) expiry(ttl time.Duration) (*timestamppb.Timestamp, error) {
	latest := time.UnixMilli(in.env.Clock.Now().Add(ttl).UnixMilli())
	at, ok, err := in.signedTime("expire")
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return timestamppb.New(latest), nil
	case at.AsTime().After(latest.Add(clockSlack)):
		return nil, usagef("give the --ttl with which the intent was made; krypton intent show says when what it orders ends",
			"the signed intent orders a longer life than --ttl says")
	}
	return at, nil
}

// clockSlack is by how much the clocks of who made an intent and of who sends it may
// differ.
const clockSlack = 10 * time.Minute

// secretSuffix is added to the name of an intent's file for the secret of the
// token that it is for. The intent is handed on, the secret is not.
const secretSuffix = ".secret"

// joinToken makes a token. Of one for a voter people sign the hash of its public key and
// when it ends, so the secret is made here, and no node sees it but the one that
// joins.
func joinToken(ctx context.Context, in *Invocation, req *kryptonv1.CreateJoinTokenRequest) error {
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	fill := func(text string) (string, error) { return text, nil }
	if req.GetVoter() {
		rules, err := orders.Rules(ctx, c)
		if err != nil {
			return err
		}
		if len(rules) > 0 {
			if fill, err = in.ownSecret(req); err != nil {
				return err
			}
		}
	}
	r, err := call(ctx, in, c.Cluster().CreateJoinToken, req)
	if errors.Is(err, errDetached) && in.approval != nil { // others approved it while this waited
		return errors.Join(in.showApprovedToken(in.approval, fill), os.Remove(secretFileOf(in.approval.GetName())))
	}
	if err != nil {
		return err
	}
	if r.Token, err = fill(r.GetToken()); err != nil {
		return err
	}
	if !in.jsonOutput() {
		in.note("works once, until %s", when(r.GetExpireTime()))
	}
	return in.show(r, func() string { return r.GetToken() + "\n" })
}

// approvedToken shows the token that others approved, with the secret that was made
// for it when it was asked for.
func approvedToken(ctx context.Context, in *Invocation) error {
	name, err := approvalNameOf(in.c.String("approval"))
	if err != nil {
		return err
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	a, err := call(ctx, in, c.Approvals().GetApproval, &kryptonv1.GetApprovalRequest{Name: name})
	if err != nil {
		return err
	}
	if err := approvalError(a); err != nil {
		return err
	}
	if a.GetJoinToken() == "" {
		return errs.New(errs.FailedState, name+" is not of a join token", errs.Hint("krypton approval get shows what it is of"))
	}
	secret, err := readSecret(secretFileOf(name))
	if err != nil {
		return errs.Newf(errs.InvalidArgument, "the secret of the token is not in %s", secretFileOf(name)).
			With(errs.Hint("run this in the directory in which the token was asked for"), errs.Cause(err))
	}
	return in.showApprovedToken(a, fillWith(&secret))
}

func (in *Invocation) showApprovedToken(a *kryptonv1.Approval, fill func(string) (string, error)) error {
	text, err := fill(a.GetJoinToken())
	if err != nil {
		return err
	}
	a = proto.CloneOf(a)
	a.JoinToken = text
	return in.show(readable(a), func() string { return text + "\n" })
}

// secretFileOf returns the file in which the secret of a token waits until others
// have approved it.
func secretFileOf(approval string) string {
	return strings.TrimPrefix(approval, approvalPrefix) + secretSuffix
}

func readSecret(file string) (secret [32]byte, err error) {
	raw, err := os.ReadFile(file)
	defer clear(raw)
	if err == nil && len(raw) != len(secret) {
		err = errors.New("it has another length")
	}
	if err == nil {
		copy(secret[:], raw)
	}
	return secret, err
}

// ownSecret puts the hash of the public half of a secret into the request, and returns what puts the
// secret into the token. With --sign-only the secret is kept beside the file, with
// --intent it is read from there.
func (in *Invocation) ownSecret(req *kryptonv1.CreateJoinTokenRequest) (fill func(string) (string, error), err error) {
	var secret [32]byte
	if files := in.c.StringSlice("intent"); len(files) > 0 {
		if secret, err = readSecret(files[0] + secretSuffix); err != nil {
			return nil, errs.Newf(errs.InvalidArgument, "the secret of the token is not in %s", files[0]+secretSuffix).
				With(errs.Hint("send it from the machine on which --sign-only made it, with the intent under its first name first"), errs.Cause(err))
		}
	} else if _, err := rand.Read(secret[:]); err != nil {
		return nil, errs.New(errs.Internal, "no randomness for a secret", errs.Cause(err))
	}
	if only := in.c.String("sign-only"); only != "" && len(in.c.StringSlice("intent")) == 0 {
		if _, err := os.Lstat(only); err == nil {
			return nil, exists(only, "name another file; krypton intent sign adds a signature to this one")
		}
		if err := save(only+secretSuffix, secret[:], 0o600); err != nil {
			return nil, err
		}
	}
	hash := cluster.JoinKeyHash(secret)
	req.KeyHash = hash[:]
	if req.ExpireTime, err = in.expiry(time.Duration(req.GetTtlSeconds()) * time.Second); err != nil {
		return nil, err
	}
	req.TtlSeconds = 0
	in.keepSecret = func(approval string) error { return save(secretFileOf(approval), secret[:], 0o600) }
	return fillWith(&secret), nil
}

// fillWith returns what puts the secret into a token, once, and forgets it.
func fillWith(secret *[32]byte) func(string) (string, error) {
	return func(text string) (string, error) {
		defer clear(secret[:])
		t, err := cluster.FillJoinToken(text, *secret)
		if err != nil {
			return "", errs.New(errs.Internal, "the node answered with no join token", errs.Hint("do not use it; look into the node"), errs.Cause(err))
		}
		return t.Text(), nil
	}
}
