package command

import (
	"context"
	"crypto/x509"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent/sign"
)

// Who has which role, and who governs a tenant.

const bindingPrefix = "roleBindings/"

// waitsForAll is what the meter says of a change that nodes agree on.
const waitsForAll = "waiting for the other nodes to agree"

// bindingNameOf returns the name of a role binding that a person gave: an id, the
// whole name, or the id behind a tenant, as in demo/app1.
func bindingNameOf(arg string) (string, error) {
	p, ok := ownedName(arg, bindingPrefix, hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding)
	if !ok {
		return "", usagef("give ID or roleBindings/ID of a person's, TENANT/ID of a workload's; krypton role list shows them", "%q names no role binding", arg)
	}
	return p.String(), nil
}

// roleCalled returns the role of that name.
func roleCalled(word string) (kryptonv1.Role, error) {
	role, ok := kryptonv1.Role_value["ROLE_"+strings.ToUpper(word)]
	if !ok || role == 0 {
		return 0, usagef("use one of: "+strings.Join(roles(), ", "), "there is no role %q", word)
	}
	return kryptonv1.Role(role), nil
}

func roleCommands() *Command {
	return group("role", "who has which role",
		&Command{
			Name: "bind", Args: "NAME", Usage: "give an identity a role", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1},
			About: "NAME is what records call who it is. For the cluster's own CA give the caller's public key: certificates for that key\n" +
				"and no other are accepted. For another issuer give --issuer and --subject: uri:URI or cn:COMMON-NAME of its certificates, the\n" +
				"subject of its tokens. A person's role is the cluster's; a workload's is that of --tenant. One identity has one role.\n" +
				"krypton operator cert issue binds and issues the certificate in one step.",
			Examples: []string{
				"krypton role bind olga --role operator --public-key olga.pub.pem",
				"krypton role bind pay --role workload --tenant demo --issuer issuers/corp --subject uri:spiffe://corp.example/ns/pay/sa/app",
				"krypton role bind gabi --role governor --platform --public-key gabi.pub.pem --public-sign-key gabi-agent.pub.pem",
			},
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "role", Usage: "`ROLE`: governor, custodian, operator, auditor or workload", Required: true},
				&cli.StringFlag{Name: "id", Usage: "`ID` of the binding; default: ROLE-NAME, of a workload NAME"},
				&cli.StringFlag{Name: "issuer", Usage: "`ISSUER` that vouches for the identity: issuers/ID or tenants/TENANT/issuers/ID; default: the cluster's own CA"},
				&cli.StringFlag{Name: "subject", Usage: "`SUBJECT` that the issuer's credential proves, exactly"},
				&cli.StringSliceFlag{Name: "public-key", Usage: "PEM `FILE` of the caller's public key; can be given up to four times"},
				&cli.StringSliceFlag{Name: "public-sign-key", Usage: "PEM `FILE` of a public key that a governor or custodian only signs with"},
				&cli.BoolFlag{Name: "platform", Usage: "a governor who decides about tenants, people and issuers"},
				&cli.DurationFlag{Name: "ttl", Usage: "`DURATION` after which the role ends by itself; default: never"},
			},
			Run: bindRole,
		},
		&Command{
			Name: "unbind", Args: "BINDING", Usage: "take a role away", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1}, Flags: []cli.Flag{etagFlag()},
			About: "BINDING is ID of a person's, TENANT/ID of a workload's. When the command ends, no node accepts the identity. A role that\n" +
				"was taken away can be given again: krypton role bind. The last governor of the platform stays, and the last one of a tenant.",
			Examples: []string{
				"krypton role unbind operator-olga --yes",
				"krypton role unbind demo/app1 --yes",
			},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := bindingNameOf(in.args[0])
				if err != nil {
					return err
				}
				if err := in.confirm("who has the role by %s is accepted by no node any more", name); err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				b, err := call(ctx, in, c.Access().DeleteRoleBinding, &kryptonv1.DeleteRoleBindingRequest{Name: name})
				if err != nil {
					return err
				}
				return in.show(b, func() string { return bindingSheet(b) })
			},
		},
		&Command{
			Name: "get", Args: "BINDING", Usage: "show a role binding", Reach: Reads, NArgs: [2]int{1, 1},
			Examples: []string{"krypton role get operator-olga", "krypton role get demo/app1 --output json"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := bindingNameOf(in.args[0])
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				b, err := call(ctx, in, c.Access().GetRoleBinding, &kryptonv1.GetRoleBindingRequest{Name: name})
				if err != nil {
					return err
				}
				return in.show(b, func() string { return bindingSheet(b) })
			},
		},
		&Command{
			Name: "list", Args: "[TENANT]", Usage: "list the roles of people, or of a tenant's workloads", Reach: Reads, NArgs: [2]int{0, 1},
			Examples: []string{"krypton role list", "krypton role list demo --output json"},
			Run: func(ctx context.Context, in *Invocation) error {
				parent, err := in.ownerName(in.arg(0))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				all := &kryptonv1.ListRoleBindingsResponse{}
				for token := ""; ; {
					page, err := call(ctx, in, c.Access().ListRoleBindings, &kryptonv1.ListRoleBindingsRequest{Parent: parent, PageSize: pageSize, PageToken: token})
					if err != nil {
						return err
					}
					all.RoleBindings = append(all.RoleBindings, page.GetRoleBindings()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return in.show(all, func() string {
					g := grid{head: []string{"BINDING", "ROLE", "MEMBER", "ISSUER", "SUBJECT", "KEYS", "EXPIRES"}}
					for _, b := range all.GetRoleBindings() {
						g.add(b.GetName(), roleWord(b), b.GetMember(), b.GetIssuer(), b.GetSubject(), strconv.Itoa(len(b.GetKeys())), when(b.GetExpireTime()))
					}
					return g.text()
				})
			},
		},
	)
}

// ownerName returns tenants/{t} for a tenant that was named, "" for none: the
// tenant of the context is not meant here.
func (in *Invocation) ownerName(arg string) (string, error) {
	if arg == "" {
		return "", nil
	}
	return in.tenantName(arg)
}

func bindRole(ctx context.Context, in *Invocation) error {
	role, err := roleCalled(in.c.String("role"))
	if err != nil {
		return err
	}
	name := in.args[0]
	if !auth.ValidName(name) {
		return usagef("lower-case letters, digits, dot, dash and underscore, at most 63", "%q is not a name", name)
	}
	req := &kryptonv1.CreateRoleBindingRequest{RoleBindingId: in.c.String("id"), RoleBinding: &kryptonv1.RoleBinding{
		Role: role, Member: name, Issuer: in.c.String("issuer"), Subject: in.c.String("subject"), Platform: in.c.Bool("platform"),
	}}
	if role == kryptonv1.Role_ROLE_WORKLOAD {
		if req.Parent, err = in.tenantName(""); err != nil {
			return err
		}
	}
	if req.GetRoleBindingId() == "" {
		req.RoleBindingId = name
		if req.GetParent() == "" {
			req.RoleBindingId = strings.ToLower(strings.TrimPrefix(role.String(), "ROLE_")) + "-" + name
		}
		if _, err := hierarchy.ParseName(req.GetRoleBindingId()); err != nil {
			return usagef("give one with --id: a lower-case letter, then letters, digits and dashes, at most 63", "%q cannot be the id of a role binding", req.GetRoleBindingId())
		}
	}
	if err := in.vouched(req.GetRoleBinding()); err != nil {
		return err
	}
	power := role == kryptonv1.Role_ROLE_GOVERNOR || role == kryptonv1.Role_ROLE_CUSTODIAN
	for _, f := range in.c.StringSlice("public-key") {
		der, err := publicKeyIn(f)
		if err != nil {
			return err
		}
		req.RoleBinding.Keys = append(req.RoleBinding.Keys, &kryptonv1.AuthorityKey{PublicKey: der, Tls: true, Sign: power})
	}
	for _, f := range in.c.StringSlice("public-sign-key") {
		der, err := publicKeyIn(f)
		if err != nil {
			return err
		}
		req.RoleBinding.Keys = append(req.RoleBinding.Keys, &kryptonv1.AuthorityKey{PublicKey: der, Sign: true})
	}
	if ttl := in.c.Duration("ttl"); ttl != 0 {
		if ttl < time.Minute {
			return usagef("give a minute or more, such as 720h", "--ttl is %s", span(ttl))
		}
		if req.RoleBinding.ExpireTime, err = in.expiry(ttl); err != nil {
			return err
		}
	}
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	b, err := call(ctx, in, c.Access().CreateRoleBinding, req)
	if err != nil {
		return err
	}
	return in.show(b, func() string { return bindingSheet(b) })
}

// vouched completes who vouches for the identity, and asks for what only the
// command line can give.
func (in *Invocation) vouched(b *kryptonv1.RoleBinding) error {
	keys := len(in.c.StringSlice("public-key")) + len(in.c.StringSlice("sign-key"))
	builtin := b.GetIssuer() == ""
	if !builtin {
		p, err := issuerNameOf(b.GetIssuer())
		if err != nil {
			return err
		}
		b.Issuer = p.String()
		builtin = b.GetIssuer() == builtinIssuer
	}
	switch {
	case builtin && keys == 0:
		return usagef("give --public-key, which krypton operator cert new-key makes, or --issuer and --subject", "nothing says which key is %s's", b.GetMember())
	case !builtin && b.GetSubject() == "":
		return usagef("give --subject: uri:URI or cn:COMMON-NAME of a certificate, or what the subject claim of a token says", "nothing says whom %s means", b.GetIssuer())
	}
	return nil
}

func roleWord(b *kryptonv1.RoleBinding) string {
	word := strings.ToLower(strings.TrimPrefix(b.GetRole().String(), "ROLE_"))
	switch {
	case b.GetEveryTenant():
		return word + " (platform, every tenant)"
	case b.GetPlatform():
		return word + " (platform)"
	}
	return word
}

func bindingSheet(b *kryptonv1.RoleBinding) string {
	var s sheet
	s.add("binding", b.GetName())
	s.add("role", roleWord(b))
	s.add("member", b.GetMember())
	s.add("issuer", b.GetIssuer())
	s.add("subject", b.GetSubject())
	for _, k := range b.GetKeys() {
		s.add("key", keyWord(k))
	}
	s.add("expires", when(b.GetExpireTime()))
	s.add("etag", b.GetEtag())
	return s.text()
}

func keyWord(k *kryptonv1.AuthorityKey) string {
	var uses []string
	if k.GetTls() {
		uses = append(uses, "tls")
	}
	if k.GetSign() {
		uses = append(uses, "sign")
	}
	return keyFingerprint(k.GetPublicKey()) + " (" + strings.Join(uses, ", ") + ")"
}

// keyFingerprint is the id by which signatures name a public key.
func keyFingerprint(der []byte) string {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return "unknown"
	}
	key, err := sign.PublicKey(pub)
	if err != nil {
		return "unknown"
	}
	return key.ID().String()
}

func governorsCommand() *Command {
	return &Command{
		Name: "governors", Args: "TENANT BINDING...", Usage: "say who governs what is inside a tenant", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{2, 17}, Flags: []cli.Flag{etagFlag()},
		About: "BINDING is the role binding of a governor, as krypton role list shows it: roleBindings/ID or ID. Those that are given govern\n" +
			"the tenant from then on, and nobody else. Only a governor of the tenant can say so.",
		Examples: []string{"krypton tenant governors demo governor-alice governor-bob"},
		Run: func(ctx context.Context, in *Invocation) error {
			tenant, err := in.tenantName(in.args[0])
			if err != nil {
				return err
			}
			req := &kryptonv1.SetGovernorsRequest{Name: tenant}
			for _, arg := range in.args[1:] {
				name, err := bindingNameOf(arg)
				if err != nil {
					return err
				}
				req.Governors = append(req.Governors, name)
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			t, err := call(ctx, in, c.Tenants().SetGovernors, req)
			if err != nil {
				return err
			}
			return in.show(t, func() string { return tenantSheet(t) })
		},
	}
}
