package command

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// Authorities whose callers the cluster knows.

const (
	issuerPrefix  = "issuers/"
	builtinIssuer = issuerPrefix + "builtin" // the cluster's own CA
)

// issuerNameOf returns the name of an issuer that a person gave: an id, the whole
// name, or the id behind a tenant, as in demo/k8s.
func issuerNameOf(arg string) (hierarchy.Path, error) {
	p, ok := ownedName(arg, issuerPrefix, hierarchy.KindIssuer, hierarchy.KindTenantIssuer)
	if !ok {
		return p, usagef("give ID or issuers/ID of the cluster's, TENANT/ID of a tenant's own; krypton issuer list shows them", "%q names no issuer", arg)
	}
	return p, nil
}

// ownedName reads the name of an object of the cluster or of a tenant: an id, the
// id behind a tenant, or the whole name.
func ownedName(arg, prefix string, ofCluster, ofTenant hierarchy.Kind) (hierarchy.Path, bool) {
	name := arg
	if !strings.HasPrefix(arg, prefix) && !strings.HasPrefix(arg, tenantsPrefix) {
		name = prefix + arg
		if tenant, id, ok := strings.Cut(arg, "/"); ok {
			name = tenantsPrefix + tenant + "/" + prefix + id
		}
	}
	p, err := hierarchy.ParsePath(name)
	return p, err == nil && (p.Kind == ofCluster || p.Kind == ofTenant)
}

func issuerFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ca", Usage: "PEM `FILE` of the CA that signs the certificates; up to four while a CA is replaced"},
		&cli.StringFlag{Name: "trust-domain", Usage: "SPIFFE trust `DOMAIN` of the URI names in its certificates"},
		&cli.StringFlag{Name: "url", Usage: "https `URL` that tokens name in the claim iss"},
		&cli.StringSliceFlag{Name: "audience", Usage: "`AUDIENCE` that tokens must be for; can be given up to eight times"},
		&cli.StringFlag{Name: "url-ca", Usage: "PEM `FILE` of the CAs with which the issuer's keys are fetched; default: those of the nodes' system"},
		&cli.StringFlag{Name: "keys", Usage: "`FILE` with the JSON Web Key Set; with it nothing is fetched"},
		&cli.DurationFlag{Name: "clock-skew", Usage: "`DURATION` by which clocks may differ, at most 5m; default: 1m"},
		&cli.StringFlag{Name: "subject-claim", Usage: "`CLAIM` that names the caller; default: sub"},
		&cli.DurationFlag{Name: "max-life", Usage: "longest `DURATION` that a token may live; default: 24h"},
		&cli.StringSliceFlag{Name: "role", Usage: "`ROLE` that its callers can be bound to; default: workload"},
		&cli.StringSliceFlag{Name: "for-tenant", Usage: "`TENANT` whose workloads it may vouch for; can be given many times"},
		&cli.BoolFlag{Name: "all-tenants", Usage: "it may vouch for workloads of every tenant"},
		&cli.BoolFlag{Name: "unbound-workloads", Usage: "workloads that a certificate names in Krypton's own form need no role binding"},
	}
}

func issuerCommands() *Command {
	return group("issuer", "authorities whose callers the cluster knows: CAs and token services",
		&Command{
			Name: "create", Args: "ISSUER", Usage: "make an authority known", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1},
			About: "ISSUER is ID, or TENANT/ID for a tenant's own, which vouches for workloads of that tenant only. Give --ca for certificates,\n" +
				"--url and --audience for tokens. An issuer gives nobody a role: krypton role bind does.",
			Examples: []string{
				"krypton issuer create corp --ca corp-ca.pem --trust-domain corp.example --role operator --role auditor",
				"krypton issuer create demo/k8s --url https://kubernetes.default.svc.cluster.local --audience krypton:tenants/demo --url-ca k8s-ca.pem",
			},
			Flags: issuerFlags(),
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := issuerNameOf(in.args[0])
				if err != nil {
					return err
				}
				i := &kryptonv1.Issuer{}
				if err := in.fillIssuer(i); err != nil {
					return err
				}
				if len(i.GetRoles()) == 0 {
					i.Roles = []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				made, err := call(ctx, in, c.Access().CreateIssuer, &kryptonv1.CreateIssuerRequest{Parent: ownerOf(name), IssuerId: string(name.ID), Issuer: i})
				if err != nil {
					return err
				}
				return in.show(made, func() string { return issuerSheet(made) })
			},
		},
		&Command{
			Name: "update", Args: "ISSUER", Usage: "change what an issuer is known by, or its limits", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1},
			About: "What is not given stays; what can be given many times is replaced whole. The issuer is read, changed and written back\n" +
				"under its etag, so a change that somebody else makes meanwhile is not lost. Of issuers/builtin only the roles that need no\n" +
				"binding can be changed.",
			Examples: []string{
				"krypton issuer update corp --ca both-corp-cas.pem",
				"krypton issuer update corp --for-tenant demo --for-tenant acme",
				"krypton issuer update builtin --require-bindings",
			},
			Flags: append(issuerFlags(), etagFlag(),
				&cli.BoolFlag{Name: "require-bindings", Usage: "every caller of it needs a role binding"}),
			Run: updateIssuer,
		},
		&Command{
			Name: "get", Args: "ISSUER", Usage: "show an issuer", Reach: Reads, NArgs: [2]int{1, 1},
			Examples: []string{"krypton issuer get builtin", "krypton issuer get demo/k8s --output json"},
			Run: func(ctx context.Context, in *Invocation) error {
				i, err := in.issuer(ctx, in.args[0])
				if err != nil {
					return err
				}
				return in.show(i, func() string { return issuerSheet(i) })
			},
		},
		&Command{
			Name: "list", Args: "[TENANT]", Usage: "list the issuers of the cluster, or a tenant's own", Reach: Reads, NArgs: [2]int{0, 1},
			Examples: []string{"krypton issuer list", "krypton issuer list demo"},
			Run: func(ctx context.Context, in *Invocation) error {
				parent, err := in.ownerName(in.arg(0))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				all := &kryptonv1.ListIssuersResponse{}
				for token := ""; ; {
					page, err := call(ctx, in, c.Access().ListIssuers, &kryptonv1.ListIssuersRequest{Parent: parent, PageSize: pageSize, PageToken: token})
					if err != nil {
						return err
					}
					all.Issuers = append(all.Issuers, page.GetIssuers()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return in.show(all, func() string {
					g := grid{head: []string{"ISSUER", "BY", "ROLES", "TENANTS", "WITHOUT BINDING"}}
					for _, i := range all.GetIssuers() {
						g.add(i.GetName(), issuerBy(i), roleWords(i.GetRoles()), issuerTenants(i), roleWords(i.GetUnboundRoles()))
					}
					return g.text()
				})
			},
		},
		&Command{
			Name: "delete", Args: "ISSUER", Usage: "forget an issuer that no role binding names", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1}, Flags: []cli.Flag{etagFlag()},
			About:    "When the command ends, no node accepts a caller of it. Role bindings under it have to be removed first: krypton role unbind.",
			Examples: []string{"krypton issuer delete corp --yes"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := issuerNameOf(in.args[0])
				if err != nil {
					return err
				}
				if err := in.confirm("callers of %s are accepted by no node any more", name); err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				i, err := call(ctx, in, c.Access().DeleteIssuer, &kryptonv1.DeleteIssuerRequest{Name: name.String()})
				if err != nil {
					return err
				}
				return in.show(i, func() string { return issuerSheet(i) })
			},
		},
	)
}

// ownerOf returns tenants/{t} of an object of a tenant, "" of the cluster's.
func ownerOf(p hierarchy.Path) string {
	if p.Tenant == "" {
		return ""
	}
	return hierarchy.TenantPath(p.Tenant).String()
}

// issuer reads an issuer. What the flags say is for the change that follows, if one
// does, and not for this call.
func (in *Invocation) issuer(ctx context.Context, arg string) (*kryptonv1.Issuer, error) {
	name, err := issuerNameOf(arg)
	if err != nil {
		return nil, err
	}
	c, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	in.meter.step("reading %s", name)
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	i, err := c.Access().GetIssuer(ctx, &kryptonv1.GetIssuerRequest{Name: name.String()}, client.Capture(&in.info))
	if err != nil {
		return nil, wire.FromStatus(err)
	}
	return i, nil
}

func updateIssuer(ctx context.Context, in *Invocation) error {
	changes := in.c.Bool("require-bindings")
	for _, f := range issuerFlags() {
		changes = changes || in.c.IsSet(f.Names()[0])
	}
	switch {
	case !changes:
		return usagef("give at least one flag that changes something, see --help", "nothing is to be changed")
	case in.c.Bool("require-bindings") && in.c.Bool("unbound-workloads"):
		return usagef("choose one", "--require-bindings and --unbound-workloads contradict each other")
	}
	i, err := in.issuer(ctx, in.args[0])
	if err != nil {
		return err
	}
	if err := in.fillIssuer(i); err != nil {
		return err
	}
	if in.c.Bool("require-bindings") {
		i.UnboundRoles = nil
	}
	req := &kryptonv1.UpdateIssuerRequest{Name: i.GetName(), Etag: i.GetEtag(), Issuer: i}
	i.Uid, i.Etag, i.CreateTime = "", "", nil
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	now, err := call(ctx, in, c.Access().UpdateIssuer, req)
	if err != nil {
		return err
	}
	return in.show(now, func() string { return issuerSheet(now) })
}

// fillIssuer puts what the flags say into i.
func (in *Invocation) fillIssuer(i *kryptonv1.Issuer) error {
	byCertificates, byTokens := in.c.IsSet("ca") || in.c.IsSet("trust-domain"), false
	for _, f := range []string{"url", "audience", "url-ca", "keys", "clock-skew", "subject-claim", "max-life"} {
		byTokens = byTokens || in.c.IsSet(f)
	}
	switch {
	case byCertificates && byTokens, byCertificates && i.GetJwt() != nil, byTokens && i.GetX509() != nil:
		return usagef("give --ca for certificates, or --url and --audience for tokens", "an issuer vouches by certificates or by tokens, not both")
	case !byCertificates && !byTokens && i.GetKind() == nil:
		return usagef("give --ca for certificates, or --url and --audience for tokens", "nothing says how the issuer vouches")
	}
	var err error
	if byCertificates {
		x := i.GetX509()
		if x == nil {
			x = &kryptonv1.X509Issuer{}
			i.Kind = &kryptonv1.Issuer_X509{X509: x}
		}
		if err := in.file("ca", &x.Certificates); err != nil {
			return err
		}
		if in.c.IsSet("trust-domain") {
			x.TrustDomain = in.c.String("trust-domain")
		}
	}
	if byTokens {
		if err := in.fillTokens(i); err != nil {
			return err
		}
	}
	if in.c.IsSet("role") {
		i.Roles = nil
		for _, word := range in.c.StringSlice("role") {
			r, err := roleCalled(word)
			if err != nil {
				return err
			}
			i.Roles = append(i.Roles, r)
		}
	}
	if in.c.IsSet("for-tenant") {
		i.Tenants = nil
		for _, t := range in.c.StringSlice("for-tenant") {
			if t, err = in.tenantName(t); err != nil {
				return err
			}
			i.Tenants = append(i.Tenants, t)
		}
	}
	if in.c.IsSet("all-tenants") {
		i.AllTenants = in.c.Bool("all-tenants")
	}
	if in.c.IsSet("unbound-workloads") {
		i.UnboundRoles = nil
		if in.c.Bool("unbound-workloads") {
			i.UnboundRoles = []kryptonv1.Role{kryptonv1.Role_ROLE_WORKLOAD}
		}
	}
	return nil
}

func (in *Invocation) fillTokens(i *kryptonv1.Issuer) error {
	j := i.GetJwt()
	if j == nil {
		j = &kryptonv1.JWTIssuer{}
		i.Kind = &kryptonv1.Issuer_Jwt{Jwt: j}
	}
	if in.c.IsSet("url") {
		j.Url = in.c.String("url")
	}
	if in.c.IsSet("audience") {
		j.Audiences = in.c.StringSlice("audience")
	}
	if in.c.IsSet("subject-claim") {
		j.SubjectClaim = in.c.String("subject-claim")
	}
	if err := in.file("url-ca", &j.Ca); err != nil {
		return err
	}
	if err := in.file("keys", &j.Keys); err != nil {
		return err
	}
	var err error
	if in.c.IsSet("clock-skew") {
		if j.ClockSkewSeconds, err = seconds("clock-skew", in.c.Duration("clock-skew"), maxSkew); err != nil {
			return err
		}
	}
	if in.c.IsSet("max-life") {
		j.MaxLifeSeconds, err = seconds("max-life", in.c.Duration("max-life"), maxTokenLife)
	}
	return err
}

// Limits of an issuer of tokens, as the cluster has them.
const (
	maxSkew      = 5 * time.Minute
	maxTokenLife = 24 * time.Hour
)

// maxIssuerFile bounds a file of certificates or keys, in bytes.
const maxIssuerFile = 128 << 10

// file reads the file that a flag names, if it was given.
func (in *Invocation) file(flag string, to *[]byte) error {
	if !in.c.IsSet(flag) {
		return nil
	}
	path := in.c.String(flag)
	f, err := os.Open(path)
	if err != nil {
		return cannotRead(path, err)
	}
	defer f.Close() //nolint:errcheck // Nothing was written.
	raw, err := io.ReadAll(io.LimitReader(f, maxIssuerFile+1))
	switch {
	case err != nil:
		return cannotRead(path, err)
	case len(raw) == 0 || len(raw) > maxIssuerFile:
		return usagef("give the certificates or keys and nothing else", "%s is empty, or larger than %d bytes", path, maxIssuerFile)
	}
	*to = raw
	return nil
}

func issuerBy(i *kryptonv1.Issuer) string {
	switch {
	case i.GetX509() != nil && i.GetX509().GetTrustDomain() != "":
		return "certificates, spiffe://" + i.GetX509().GetTrustDomain()
	case i.GetX509() != nil:
		return "certificates"
	case i.GetJwt() != nil:
		return "tokens, " + i.GetJwt().GetUrl()
	}
	return ""
}

func issuerTenants(i *kryptonv1.Issuer) string {
	switch {
	case i.GetAllTenants():
		return "all"
	case strings.HasPrefix(i.GetName(), tenantsPrefix):
		return "its own"
	case len(i.GetTenants()) > 4:
		return strconv.Itoa(len(i.GetTenants()))
	}
	short := make([]string, len(i.GetTenants()))
	for n, t := range i.GetTenants() {
		short[n] = strings.TrimPrefix(t, tenantsPrefix)
	}
	return strings.Join(short, ", ")
}

func roleWords(rs []kryptonv1.Role) string {
	words := make([]string, len(rs))
	for i, r := range rs {
		words[i] = strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_"))
	}
	return strings.Join(words, ", ")
}

func issuerSheet(i *kryptonv1.Issuer) string {
	var s sheet
	s.add("issuer", i.GetName())
	s.add("vouches by", issuerBy(i))
	s.add("audiences", strings.Join(i.GetJwt().GetAudiences(), ", "))
	s.add("roles", roleWords(i.GetRoles()))
	s.add("tenants", issuerTenants(i))
	s.add("without binding", roleWords(i.GetUnboundRoles()))
	s.add("uid", i.GetUid())
	s.add("etag", i.GetEtag())
	return s.text()
}
