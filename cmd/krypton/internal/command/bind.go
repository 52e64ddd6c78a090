package command

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func bindCommand() *Command {
	return &Command{
		Name: "bind", Args: "TENANT", Usage: "bind a tenant that has no key to the customer's key", Reach: Changes, Signs: true, NArgs: [2]int{1, 1},
		About: "The customer lets the nodes act as an identity that is used for this tenant only, by the tenant's uid, which krypton tenant\n" +
			"create and get show. What an identity is called depends on the keystore: docs/keystores. Before the tenant is bound a key is\n" +
			"wrapped and unwrapped as that identity, and a node of each region that is not allowed has to be denied; --dry-run does\n" +
			"all of it and binds nothing.",
		Examples: []string{"krypton tenant bind acme --keystore customer-bao --key acme-root --identity role=acme-0123456789abcdef0123456789abcdef --region eu"},
		Waits:    "waiting for the customer's keystore",
		Flags: []cli.Flag{
			etagFlag(),
			&cli.StringFlag{Name: "keystore", Usage: "`NAME` of the keystore that holds the customer's key, as the nodes are configured", Required: true},
			&cli.StringFlag{Name: "key", Usage: "`REFERENCE` of the customer's key in that keystore", Required: true},
			&cli.StringSliceFlag{Name: "identity", Usage: "`NAME=VALUE` of the identity that is used for this tenant only, repeated"},
			&cli.StringSliceFlag{Name: "region", Usage: "`REGION` whose nodes may use the key, repeated; default: all"},
			&cli.StringSliceFlag{Name: "share-with", Usage: "`TENANT` that has the same key, repeated; two governors of the platform sign for it"},
			&cli.StringFlag{Name: "archetype", Usage: "how the customer holds the key, `WORD` local or hyok; default: what the nodes say of the keystore"},
		},
		Run: func(ctx context.Context, in *Invocation) error {
			name, err := in.tenantName(in.args[0])
			if err != nil {
				return err
			}
			b := &kryptonv1.Binding{
				Keystore: in.c.String("keystore"), Key: in.c.String("key"), Archetype: in.c.String("archetype"), Regions: in.c.StringSlice("region"),
			}
			for _, arg := range in.c.StringSlice("identity") {
				part, value, ok := strings.Cut(arg, "=")
				if !ok || part == "" || value == "" {
					return errs.New(errs.InvalidArgument, "an identity is given as NAME=VALUE, each name once", errs.Hint("krypton tenant bind --identity role=NAME"))
				}
				b.Identity = append(b.Identity, &kryptonv1.IdentityName{Name: part, Value: value})
			}
			for _, arg := range in.c.StringSlice("share-with") {
				other, err := in.tenantName(arg)
				if err != nil {
					return err
				}
				b.SharedWith = append(b.SharedWith, other)
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			t, err := call(ctx, in, c.Tenants().BindTenant, &kryptonv1.BindTenantRequest{Name: name, Binding: b})
			if err != nil {
				return err
			}
			return in.show(t, func() string { return tenantSheet(t) })
		},
	}
}
