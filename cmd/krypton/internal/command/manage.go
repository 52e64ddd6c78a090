package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Tenants, services, keys and resources.

func etagFlag() cli.Flag {
	return &cli.StringFlag{Name: "etag", Usage: "change only if the object still has this `ETAG`"}
}

func nowFlag() cli.Flag {
	return &cli.BoolFlag{Name: "now", Usage: "destroy without the wait; needs a permission of its own"}
}

// dangerOf adds to what is lost when that is.
func (in *Invocation) dangerOf(what string) string {
	switch {
	case !strings.HasSuffix(what, " is lost"):
		return what
	case in.c.Bool("now"):
		return what + " at once"
	}
	return what + " after the wait of this cluster, which krypton status shows"
}

func group(name, usage string, sub ...*Command) *Command {
	return &Command{Name: name, Usage: usage, Sub: sub}
}

// onTenant makes a command that changes one tenant.
func onTenant[Req proto.Message](name, usage, example string, f func(kryptonv1.TenantsClient) method[Req, *kryptonv1.Tenant],
	req func(in *Invocation, tenant string) Req, danger string, flags ...cli.Flag,
) *Command {
	return &Command{
		Name: name, Args: "TENANT", Usage: usage, Examples: []string{example}, Reach: Changes, Signs: name == "delete", NArgs: [2]int{1, 1},
		Flags: append(flags, etagFlag()),
		Run: func(ctx context.Context, in *Invocation) error {
			tenant, err := in.tenantName(in.args[0])
			if err != nil {
				return err
			}
			if danger != "" {
				if err := in.confirm(in.dangerOf(danger), tenant); err != nil {
					return err
				}
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			t, err := call(ctx, in, f(c.Tenants()), req(in, tenant))
			if err != nil {
				return err
			}
			return in.show(t, func() string { return tenantSheet(t) })
		},
	}
}

func tenantCommands() *Command {
	return group("tenant", "manage tenants",
		&Command{
			Name: "create", Args: "TENANT", Usage: "make a tenant whose key is wrapped by the customer's key", Reach: Changes, Signs: true, NArgs: [2]int{1, 1},
			About:    "Without --keystore the tenant has no key until krypton tenant bind: its uid is what the customer gives rights to first.",
			Examples: []string{"krypton tenant create demo --keystore local --key demo-l1", "krypton tenant create acme"},
			Waits:    "waiting for the customer's keystore",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "keystore", Usage: "`NAME` of the keystore that holds the customer's key, as the nodes are configured; default: bound later"},
				&cli.StringFlag{Name: "key", Usage: "`REFERENCE` of the customer's key in that keystore"},
				&cli.StringFlag{Name: "archetype", Usage: "how the customer holds the key, `WORD` local or hyok; default: what the nodes say of the keystore"},
				&cli.StringSliceFlag{Name: "governor", Usage: "`BINDING` of a governor who decides what is inside the tenant, as krypton role list shows it; default: yourself"},
			},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := in.tenantName(in.args[0])
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				req := &kryptonv1.CreateTenantRequest{TenantId: name[len(tenantsPrefix):]}
				if in.c.String("keystore") != "" || in.c.String("key") != "" || in.c.String("archetype") != "" {
					req.Binding = &kryptonv1.Binding{Keystore: in.c.String("keystore"), Key: in.c.String("key"), Archetype: in.c.String("archetype")}
				}
				for _, g := range in.c.StringSlice("governor") {
					b, err := bindingNameOf(g)
					if err != nil {
						return err
					}
					req.Governors = append(req.Governors, b)
				}
				t, err := call(ctx, in, c.Tenants().CreateTenant, req)
				if err != nil {
					return err
				}
				return in.show(t, func() string { return tenantSheet(t) })
			},
		},
		bindCommand(),
		&Command{
			Name: "list", Usage: "list tenants", Reach: Reads,
			Examples: []string{"krypton tenant list", "krypton tenant list --filter state=SUSPENDED --output json"},
			Flags:    []cli.Flag{&cli.StringFlag{Name: "filter", Usage: "`FILTER` such as state=SUSPENDED; default: all but destroyed ones"}},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				all := &kryptonv1.ListTenantsResponse{}
				for token := ""; ; {
					page, err := call(ctx, in, c.Tenants().ListTenants, &kryptonv1.ListTenantsRequest{PageSize: pageSize, PageToken: token, Filter: in.c.String("filter")})
					if err != nil {
						return err
					}
					all.Tenants = append(all.Tenants, page.GetTenants()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return in.show(all, func() string { return tenantGrid(all.GetTenants()) })
			},
		},
		&Command{
			Name: "get", Args: "[TENANT]", Usage: "show a tenant", Reach: Reads, NArgs: [2]int{0, 1},
			Examples: []string{"krypton tenant get demo"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := in.tenantName(in.arg(0))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				t, err := call(ctx, in, c.Tenants().GetTenant, &kryptonv1.GetTenantRequest{Name: name})
				if err != nil {
					return err
				}
				return in.show(t, func() string { return tenantSheet(t) })
			},
		},
		onTenant("suspend", "stop every operation of a tenant until it is resumed", "krypton tenant suspend demo",
			func(c kryptonv1.TenantsClient) method[*kryptonv1.SuspendTenantRequest, *kryptonv1.Tenant] {
				return c.SuspendTenant
			},
			func(_ *Invocation, n string) *kryptonv1.SuspendTenantRequest {
				return &kryptonv1.SuspendTenantRequest{Name: n}
			}, ""),
		onTenant("resume", "let a suspended tenant work again", "krypton tenant resume demo",
			func(c kryptonv1.TenantsClient) method[*kryptonv1.ResumeTenantRequest, *kryptonv1.Tenant] {
				return c.ResumeTenant
			},
			func(_ *Invocation, n string) *kryptonv1.ResumeTenantRequest {
				return &kryptonv1.ResumeTenantRequest{Name: n}
			}, ""),
		onTenant("delete", "schedule a tenant and all its keys to be destroyed; operations stop at once", "krypton tenant delete demo --yes",
			func(c kryptonv1.TenantsClient) method[*kryptonv1.DeleteTenantRequest, *kryptonv1.Tenant] {
				return c.DeleteTenant
			},
			func(in *Invocation, n string) *kryptonv1.DeleteTenantRequest {
				return &kryptonv1.DeleteTenantRequest{Name: n, Now: in.c.Bool("now")}
			}, "everything of %s that was ever encrypted is lost", nowFlag()),
		onTenant("undelete", "save a tenant during the wait; it is suspended afterwards", "krypton tenant undelete demo",
			func(c kryptonv1.TenantsClient) method[*kryptonv1.UndeleteTenantRequest, *kryptonv1.Tenant] {
				return c.UndeleteTenant
			},
			func(_ *Invocation, n string) *kryptonv1.UndeleteTenantRequest {
				return &kryptonv1.UndeleteTenantRequest{Name: n}
			}, ""),
		onTenant("rotate", "add a version of the tenant key and make it primary", "krypton tenant rotate demo",
			func(c kryptonv1.TenantsClient) method[*kryptonv1.RotateTenantRequest, *kryptonv1.Tenant] {
				return c.RotateTenant
			},
			func(_ *Invocation, n string) *kryptonv1.RotateTenantRequest {
				return &kryptonv1.RotateTenantRequest{Name: n}
			}, ""),
		onTenant("rollback", "make an earlier version of the tenant key primary again", "krypton tenant rollback demo --version 1",
			func(c kryptonv1.TenantsClient) method[*kryptonv1.RollbackTenantRequest, *kryptonv1.Tenant] {
				return c.RollbackTenant
			},
			func(in *Invocation, n string) *kryptonv1.RollbackTenantRequest {
				return &kryptonv1.RollbackTenantRequest{Name: n, Version: number(in)}
			}, "", rollbackFlag()),
		governorsCommand(),
	)
}

// pageSize is what one call of a list asks for.
const pageSize = 1000

func rollbackFlag() cli.Flag {
	return &cli.UintFlag{Name: "version", Usage: "`NUMBER` of the version; default: the one that was primary before"}
}

func number(in *Invocation) uint32 { return uint32(min(in.c.Uint("version"), 1<<32-1)) }

// arg returns argument i, or "".
func (in *Invocation) arg(i int) string {
	if i < len(in.args) {
		return in.args[i]
	}
	return ""
}

// onService makes a command that changes one service.
func onService[Req proto.Message](name, usage, example string, f func(kryptonv1.ServicesClient) method[Req, *kryptonv1.Service],
	req func(in *Invocation, service string) Req, danger string, flags ...cli.Flag,
) *Command {
	return &Command{
		Name: name, Args: "TENANT/SERVICE", Usage: usage, Examples: []string{example}, Reach: Changes, Signs: name == "delete", NArgs: [2]int{1, 1},
		Flags: append(flags, etagFlag()),
		Run: func(ctx context.Context, in *Invocation) error {
			service, err := in.serviceName(in.args[0])
			if err != nil {
				return err
			}
			if danger != "" {
				if err := in.confirm(in.dangerOf(danger), service); err != nil {
					return err
				}
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			v, err := call(ctx, in, f(c.Services()), req(in, service))
			if err != nil {
				return err
			}
			return in.show(v, func() string { return serviceSheet(v) })
		},
	}
}

func serviceCommands() *Command {
	return group("service", "manage services, each of which has a key",
		&Command{
			Name: "create", Args: "TENANT/SERVICE", Usage: "make a service and its key", Reach: Changes, NArgs: [2]int{1, 1},
			Examples: []string{"krypton service create demo/payments"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := in.serviceName(in.args[0])
				if err != nil {
					return err
				}
				parent, id := cutService(name)
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				v, err := call(ctx, in, c.Services().CreateService, &kryptonv1.CreateServiceRequest{Parent: parent, ServiceId: id})
				if err != nil {
					return err
				}
				return in.show(v, func() string { return serviceSheet(v) })
			},
		},
		&Command{
			Name: "list", Args: "[TENANT]", Usage: "list the services of a tenant", Reach: Reads, NArgs: [2]int{0, 1},
			Examples: []string{"krypton service list demo"},
			Run: func(ctx context.Context, in *Invocation) error {
				parent, err := in.tenantName(in.arg(0))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				all := &kryptonv1.ListServicesResponse{}
				for token := ""; ; {
					page, err := call(ctx, in, c.Services().ListServices, &kryptonv1.ListServicesRequest{Parent: parent, PageSize: pageSize, PageToken: token})
					if err != nil {
						return err
					}
					all.Services = append(all.Services, page.GetServices()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return in.show(all, func() string { return serviceGrid(all.GetServices()) })
			},
		},
		&Command{
			Name: "get", Args: "[TENANT/SERVICE]", Usage: "show a service", Reach: Reads, NArgs: [2]int{0, 1},
			Examples: []string{"krypton service get demo/payments"},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := in.serviceName(in.arg(0))
				if err != nil {
					return err
				}
				v, err := in.getService(ctx, name)
				if err != nil {
					return err
				}
				return in.show(v, func() string { return serviceSheet(v) })
			},
		},
		onService("suspend", "stop every operation of a service until it is resumed", "krypton service suspend demo/payments",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.SuspendServiceRequest, *kryptonv1.Service] {
				return c.SuspendService
			},
			func(_ *Invocation, n string) *kryptonv1.SuspendServiceRequest {
				return &kryptonv1.SuspendServiceRequest{Name: n}
			}, ""),
		onService("resume", "let a suspended service work again", "krypton service resume demo/payments",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.ResumeServiceRequest, *kryptonv1.Service] {
				return c.ResumeService
			},
			func(_ *Invocation, n string) *kryptonv1.ResumeServiceRequest {
				return &kryptonv1.ResumeServiceRequest{Name: n}
			}, ""),
		onService("delete", "schedule a service and all its keys to be destroyed; operations stop at once", "krypton service delete demo/payments --yes",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.DeleteServiceRequest, *kryptonv1.Service] {
				return c.DeleteService
			},
			func(in *Invocation, n string) *kryptonv1.DeleteServiceRequest {
				return &kryptonv1.DeleteServiceRequest{Name: n, Now: in.c.Bool("now")}
			}, "everything that was ever encrypted under %s is lost", nowFlag()),
		onService("undelete", "save a service during the wait; it is suspended afterwards", "krypton service undelete demo/payments",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.UndeleteServiceRequest, *kryptonv1.Service] {
				return c.UndeleteService
			},
			func(_ *Invocation, n string) *kryptonv1.UndeleteServiceRequest {
				return &kryptonv1.UndeleteServiceRequest{Name: n}
			}, ""),
	)
}

func cutService(name string) (tenant, id string) {
	const sep = "/services/"
	for i := range name {
		if i+len(sep) <= len(name) && name[i:i+len(sep)] == sep {
			return name[:i], name[i+len(sep):]
		}
	}
	return name, ""
}

func (in *Invocation) getService(ctx context.Context, name string) (*kryptonv1.Service, error) {
	c, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	return call(ctx, in, c.Services().GetService, &kryptonv1.GetServiceRequest{Name: name})
}

const resourceAbout = "RESOURCE is its name as programs give it. The full name of a resource, which krypton resource list prints, stands alone."

func resourceCommands() *Command {
	change := func(name, usage, example string, do func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, name string) (*kryptonv1.Resource, error), flags ...cli.Flag) *Command {
		reach := Changes
		if name == "get" {
			reach = Reads
		} else {
			flags = append(flags, etagFlag())
		}
		return &Command{
			Name: name, Args: "TENANT/SERVICE [RESOURCE]", About: resourceAbout, Usage: usage, Examples: []string{example}, Reach: reach, NArgs: [2]int{1, 2}, Flags: flags,
			Run: func(ctx context.Context, in *Invocation) error {
				full, err := in.resourceName(in.args[0], in.arg(1))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				r, err := do(ctx, in, c.Services(), full)
				if err != nil {
					return err
				}
				return in.show(r, func() string { return resourceSheet(r) })
			},
		}
	}
	return group("resource", "fix which version of a service key a resource uses",
		&Command{
			Name: "list", Args: "[TENANT/SERVICE]", Usage: "list the resources for which a version is pinned", Reach: Reads, NArgs: [2]int{0, 1},
			Examples: []string{"krypton resource list demo/payments"},
			Run: func(ctx context.Context, in *Invocation) error {
				parent, err := in.serviceName(in.arg(0))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				all := &kryptonv1.ListResourcesResponse{}
				for token := ""; ; {
					page, err := call(ctx, in, c.Services().ListResources, &kryptonv1.ListResourcesRequest{Parent: parent, PageSize: pageSize, PageToken: token})
					if err != nil {
						return err
					}
					all.Resources = append(all.Resources, page.GetResources()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return in.show(all, func() string { return resourceGrid(all.GetResources()) })
			},
		},
		change("get", "show what is pinned for a resource", "krypton resource get demo/payments orders",
			func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, n string) (*kryptonv1.Resource, error) {
				return call(ctx, in, c.GetResource, &kryptonv1.GetResourceRequest{Name: n})
			}),
		change("pin", "fix the version that wraps for a resource", "krypton resource pin demo/payments orders --version 2",
			func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, n string) (*kryptonv1.Resource, error) {
				return call(ctx, in, c.PinResource, &kryptonv1.PinResourceRequest{Name: n, Version: number(in)})
			}, &cli.UintFlag{Name: "version", Usage: "`NUMBER` of the version; default: the primary one"}),
		change("unpin", "let a resource follow the primary version again", "krypton resource unpin demo/payments orders",
			func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, n string) (*kryptonv1.Resource, error) {
				return call(ctx, in, c.UnpinResource, &kryptonv1.UnpinResourceRequest{Name: n})
			}),
		change("rollback", "return a resource to the pin it had before", "krypton resource rollback demo/payments orders",
			func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, n string) (*kryptonv1.Resource, error) {
				return call(ctx, in, c.RollbackResource, &kryptonv1.RollbackResourceRequest{Name: n})
			}),
	)
}

const versionAbout = "KEY may also be the full name of a version, as krypton key get shows it; then --version is not needed."

// onVersion makes a command that changes one version of a key.
func onVersion[Req proto.Message](name, usage, example string, f func(kryptonv1.ServicesClient) method[Req, *kryptonv1.KeyVersion],
	req func(in *Invocation, version string) Req, danger string, flags ...cli.Flag,
) *Command {
	return &Command{
		Name: name, Args: "KEY", Usage: usage, Examples: []string{example}, Reach: Changes, Signs: name == "destroy", NArgs: [2]int{1, 1},
		About: versionAbout,
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "version", Usage: "`NUMBER` of the version"}}, append(flags, etagFlag())...),
		Run: func(ctx context.Context, in *Invocation) error {
			// What stops a key has no default: it has to be said which version.
			if in.c.String("version") == "" && !strings.Contains(in.args[0], "/versions/") {
				return usagef("see krypton key list", "%s needs --version", words(in.path))
			}
			version, err := in.versionName(in.args[0], in.c.String("version"))
			if err != nil {
				return err
			}
			if danger != "" {
				if err := in.confirm(in.dangerOf(danger), version); err != nil {
					return err
				}
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			v, err := call(ctx, in, f(c.Services()), req(in, version))
			if err != nil {
				return err
			}
			return in.show(v, func() string { return versionSheet(v) })
		},
	}
}

// onKey makes a command that changes the key of a tenant or of a service.
func onKey(name, usage, example string, flags []cli.Flag,
	tenant func(ctx context.Context, in *Invocation, c kryptonv1.TenantsClient, name string) (*kryptonv1.Tenant, error),
	service func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, name string) (*kryptonv1.Service, error),
) *Command {
	return &Command{
		Name: name, Args: "KEY", Usage: usage, Examples: []string{example}, Reach: Changes, NArgs: [2]int{1, 1}, Flags: append(flags, etagFlag()),
		Run: func(ctx context.Context, in *Invocation) error {
			key, ofService, err := in.keyName(in.args[0])
			if err != nil {
				return err
			}
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			if ofService {
				v, err := service(ctx, in, c.Services(), key)
				if err != nil {
					return err
				}
				return in.show(v, func() string { return serviceSheet(v) })
			}
			t, err := tenant(ctx, in, c.Tenants(), key)
			if err != nil {
				return err
			}
			return in.show(t, func() string { return tenantSheet(t) })
		},
	}
}

func keyCommands() *Command {
	g := group("key", "manage the versions of keys",
		&Command{
			Name: "list", Args: "KEY", Usage: "list the versions of a key", Reach: Reads, NArgs: [2]int{1, 1},
			Examples: []string{"krypton key list demo/payments", "krypton key list demo"},
			Run: func(ctx context.Context, in *Invocation) error {
				key, ofService, err := in.keyName(in.args[0])
				if err != nil {
					return err
				}
				if ofService {
					v, err := in.getService(ctx, key)
					if err != nil {
						return err
					}
					return in.show(v, func() string { return versionGrid(v.GetVersions()) })
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				t, err := call(ctx, in, c.Tenants().GetTenant, &kryptonv1.GetTenantRequest{Name: key})
				if err != nil {
					return err
				}
				return in.show(t, func() string { return versionGrid(t.GetVersions()) })
			},
		},
		&Command{
			Name: "get", Args: "KEY", Usage: "show a version of a key", Reach: Reads, NArgs: [2]int{1, 1},
			Examples: []string{"krypton key get demo/payments", "krypton key get demo/payments --version 1"},
			Flags:    []cli.Flag{&cli.StringFlag{Name: "version", Usage: "`NUMBER` of the version, or primary", DefaultText: "primary"}},
			Run: func(ctx context.Context, in *Invocation) error {
				name, err := in.versionName(in.args[0], in.c.String("version"))
				if err != nil {
					return err
				}
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				v, err := call(ctx, in, c.Services().GetVersion, &kryptonv1.GetVersionRequest{Name: name})
				if err != nil {
					return err
				}
				return in.show(v, func() string { return versionSheet(v) })
			},
		},
		onKey("rotate", "add a version and make it primary; what was wrapped before still opens", "krypton key rotate demo/payments", nil,
			func(ctx context.Context, in *Invocation, c kryptonv1.TenantsClient, n string) (*kryptonv1.Tenant, error) {
				return call(ctx, in, c.RotateTenant, &kryptonv1.RotateTenantRequest{Name: n})
			},
			func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, n string) (*kryptonv1.Service, error) {
				return call(ctx, in, c.RotateService, &kryptonv1.RotateServiceRequest{Name: n})
			}),
		onKey("rollback", "make an earlier version primary again, within the rollback window", "krypton key rollback demo/payments --version 1", []cli.Flag{rollbackFlag()},
			func(ctx context.Context, in *Invocation, c kryptonv1.TenantsClient, n string) (*kryptonv1.Tenant, error) {
				return call(ctx, in, c.RollbackTenant, &kryptonv1.RollbackTenantRequest{Name: n, Version: number(in)})
			},
			func(ctx context.Context, in *Invocation, c kryptonv1.ServicesClient, n string) (*kryptonv1.Service, error) {
				return call(ctx, in, c.RollbackService, &kryptonv1.RollbackServiceRequest{Name: n, Version: number(in)})
			}),
		onVersion("enable", "return a disabled version to the state it had before", "krypton key enable demo/payments --version 1",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.EnableVersionRequest, *kryptonv1.KeyVersion] {
				return c.EnableVersion
			},
			func(_ *Invocation, n string) *kryptonv1.EnableVersionRequest {
				return &kryptonv1.EnableVersionRequest{Name: n}
			}, ""),
		onVersion("disable", "stop every use of a version until it is enabled", "krypton key disable demo/payments --version 1",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.DisableVersionRequest, *kryptonv1.KeyVersion] {
				return c.DisableVersion
			},
			func(_ *Invocation, n string) *kryptonv1.DisableVersionRequest {
				return &kryptonv1.DisableVersionRequest{Name: n}
			}, ""),
		onVersion("deprecate", "leave a version only for unwrapping, for good", "krypton key deprecate demo/payments --version 1 --yes",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.DeprecateVersionRequest, *kryptonv1.KeyVersion] {
				return c.DeprecateVersion
			},
			func(_ *Invocation, n string) *kryptonv1.DeprecateVersionRequest {
				return &kryptonv1.DeprecateVersionRequest{Name: n}
			}, "%s never wraps again"),
		onVersion("compromise", "stop every use of a version and mark it for good", "krypton key compromise demo/payments --version 1 --yes",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.CompromiseVersionRequest, *kryptonv1.KeyVersion] {
				return c.CompromiseVersion
			},
			func(_ *Invocation, n string) *kryptonv1.CompromiseVersionRequest {
				return &kryptonv1.CompromiseVersionRequest{Name: n}
			}, "what %s wraps does not open any more"),
		onVersion("destroy", "stop every use of a version at once; its material goes after the wait", "krypton key destroy demo/payments --version 1 --yes",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.DestroyVersionRequest, *kryptonv1.KeyVersion] {
				return c.DestroyVersion
			},
			func(in *Invocation, n string) *kryptonv1.DestroyVersionRequest {
				return &kryptonv1.DestroyVersionRequest{Name: n, Now: in.c.Bool("now")}
			}, "what %s wraps is lost", nowFlag()),
		onVersion("cancel-destroy", "save a version during the wait; it is disabled afterwards", "krypton key cancel-destroy demo/payments --version 1",
			func(c kryptonv1.ServicesClient) method[*kryptonv1.CancelDestroyVersionRequest, *kryptonv1.KeyVersion] {
				return c.CancelDestroyVersion
			},
			func(_ *Invocation, n string) *kryptonv1.CancelDestroyVersionRequest {
				return &kryptonv1.CancelDestroyVersionRequest{Name: n}
			}, ""),
	)
	g.About = "KEY is TENANT for the key of a tenant, TENANT/SERVICE for the key of a service."
	return g
}

func operationCommands() *Command {
	one := func(name, usage string, do func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, name string) (*kryptonv1.Operation, error)) *Command {
		return &Command{
			Name: name, Args: "REQUEST-ID", Usage: usage, Reach: Reads, NArgs: [2]int{1, 1}, Exits: []int{errs.ExitPending}, Waits: "waiting for the change",
			Examples: []string{fmt.Sprintf("krypton operation %s 7b3e4d0c-6d64-4f6b-9b50-3d6d2c1e1a11", name)},
			Run: func(ctx context.Context, in *Invocation) error {
				c, err := in.client(ctx)
				if err != nil {
					return err
				}
				id, err := requestID("the request id", strings.TrimPrefix(in.args[0], "operations/"))
				if err != nil {
					return err
				}
				op, err := do(ctx, in, c.Cluster(), "operations/"+id)
				if err != nil {
					return err
				}
				if err := in.show(op, func() string { return operationSheet(op) }); err != nil {
					return err
				}
				return operationError(op)
			},
		}
	}
	g := group("operation", "find out what became of a change",
		one("get", "show what became of a change", func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, n string) (*kryptonv1.Operation, error) {
			return call(ctx, in, c.GetOperation, &kryptonv1.GetOperationRequest{Name: n})
		}),
		one("wait", "wait until a change is done, up to --timeout", func(ctx context.Context, in *Invocation, c kryptonv1.ClusterClient, n string) (*kryptonv1.Operation, error) {
			return call(ctx, in, c.WaitOperation, &kryptonv1.WaitOperationRequest{Name: n})
		}),
	)
	g.About = "An operation has the request id of the change, and is remembered for 24 h. The exit status is that of the change."
	return g
}
