package command

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/contexts"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

func versionCommand() *Command {
	return &Command{
		Name: "version", Usage: "print the version", Examples: []string{"krypton version --output json"},
		Run: func(_ context.Context, in *Invocation) error {
			if in.jsonOutput() {
				return in.showJSON(map[string]string{"version": in.env.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			return in.write(fmt.Appendf(nil, "krypton %s %s %s/%s\n", in.env.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
		},
	}
}

func whoamiCommand() *Command {
	return &Command{
		Name: "whoami", Usage: "show who the cluster takes you for", Reach: Reads, Examples: []string{"krypton whoami"},
		Run: func(ctx context.Context, in *Invocation) error {
			c, err := in.client(ctx)
			if err != nil {
				return err
			}
			r, err := call(ctx, in, c.Access().WhoAmI, &kryptonv1.WhoAmIRequest{})
			if err != nil {
				return err
			}
			return in.show(r, func() string {
				var s sheet
				s.add("name", r.GetName())
				s.add("role", strings.ToLower(enum(r.GetRole(), "ROLE_")))
				s.add("tenant", r.GetTenant())
				s.add("issuer", cmp.Or(r.GetIssuerName(), r.GetIssuer()))
				s.add("role binding", r.GetRoleBinding())
				if r.GetRole() == kryptonv1.Role_ROLE_GOVERNOR {
					s.add("platform", yesNo(r.GetPlatform()))
					s.add("governs", strings.Join(r.GetGoverns(), ", "))
				}
				s.add("certificate expires", when(r.GetCertificateExpireTime()))
				s.add("certificate serial", r.GetCertificateSerial())
				return s.text()
			})
		},
	}
}

func (in *Invocation) contexts() (*contexts.File, error) {
	path, err := contexts.Path(in.env.Getenv)
	if err != nil {
		return nil, err
	}
	return contexts.Load(path)
}

func contextCommands() *Command {
	g := group("context", "keep the clusters you work with",
		&Command{
			Name: "list", Usage: "list contexts; the current one has a star", Examples: []string{"krypton context list"},
			Run: func(_ context.Context, in *Invocation) error {
				f, err := in.contexts()
				if err != nil {
					return err
				}
				if in.jsonOutput() {
					return in.showJSON(map[string]any{"current": f.Current, "contexts": f.Contexts})
				}
				g := grid{head: []string{"CURRENT", "NAME", "ADDR", "TENANT", "SERVICE"}}
				for _, n := range f.Names() {
					c, star := f.Contexts[n], ""
					if n == f.Current {
						star = "*"
					}
					g.add(star, n, strings.Join(c.Addr, ","), c.Tenant, c.Service)
				}
				return in.write([]byte(g.text()))
			},
		},
		&Command{
			Name: "show", Args: "[NAME]", Usage: "show a context", NArgs: [2]int{0, 1}, Examples: []string{"krypton context show", "krypton context show prod"},
			Run: func(_ context.Context, in *Invocation) error {
				f, err := in.contexts()
				if err != nil {
					return err
				}
				name := in.arg(0)
				if name == "" {
					name = f.Current
				}
				if name == "" {
					return usagef("choose one with krypton context use", "there is no current context")
				}
				c, err := f.Get(name)
				if err != nil {
					return err
				}
				return in.showContext(f, name, c)
			},
		},
		&Command{
			Name: "use", Args: "NAME", Usage: "make a context the current one", NArgs: [2]int{1, 1}, Examples: []string{"krypton context use prod"},
			Run: func(_ context.Context, in *Invocation) error {
				f, err := in.contexts()
				if err != nil {
					return err
				}
				c, err := f.Get(in.args[0])
				if err != nil {
					return err
				}
				f.Current = in.args[0]
				if err := f.Save(); err != nil {
					return err
				}
				return in.showContext(f, f.Current, c)
			},
		},
		&Command{
			Name: "set", Args: "NAME", Usage: "make or change a context; the first one becomes the current one", NArgs: [2]int{1, 1},
			About: "Flags that are not given keep their value; an empty value takes one away.",
			Examples: []string{
				"krypton context set prod --addr n1:8400,n2:8400,n3:8400 --ca-file ca.pem --cert-file gabi.pem --key-file gabi.key --tenant demo",
				"krypton context set pod --addr n1:8400,n2:8400,n3:8400 --ca-file ca.pem --token-file /var/run/secrets/tokens/krypton",
			},
			Flags: append(connectionFlags(),
				&cli.StringFlag{Name: "sign-key", Usage: "`KEY` to sign with: a file, or agent:NAME of your SSH agent; default: that of --key-file"},
				&cli.StringFlag{Name: "keyspace", Usage: "`ID` of the keyspace for which you sign; default: that of the first signature"},
				&cli.StringFlag{Name: "service", Usage: "`SERVICE` of encrypt, decrypt and data keys"},
				&cli.StringFlag{Name: "default-output", Usage: "`FORMAT` of results: table or json"}),
			Run: setContext,
		},
		&Command{
			Name: "delete", Args: "NAME", Usage: "forget a context", NArgs: [2]int{1, 1}, Examples: []string{"krypton context delete old"},
			Run: func(_ context.Context, in *Invocation) error {
				f, err := in.contexts()
				if err != nil {
					return err
				}
				if _, err := f.Get(in.args[0]); err != nil {
					return err
				}
				delete(f.Contexts, in.args[0])
				if f.Current == in.args[0] {
					f.Current = ""
				}
				if err := f.Save(); err != nil {
					return err
				}
				if in.jsonOutput() {
					return in.showJSON(map[string]string{"deleted": in.args[0], "current": f.Current})
				}
				var s sheet
				s.add("deleted", in.args[0])
				s.add("current", cmp.Or(f.Current, "none; choose one with krypton context use"))
				return in.write([]byte(s.text()))
			},
		},
	)
	g.About = "A context names addresses, the files of certificate or token, a tenant and a service. They are in $XDG_CONFIG_HOME/krypton/contexts.yaml,\n" +
		"which nobody else may be able to use (mode 0600)."
	return g
}

func setContext(_ context.Context, in *Invocation) error {
	name := in.args[0]
	if _, err := hierarchy.ParseName(name); err != nil {
		return bad("context", name, err)
	}
	f, err := in.contexts()
	if err != nil {
		return err
	}
	c := f.Contexts[name]
	if in.c.IsSet("addr") {
		c.Addr = in.listed("addr")
	}
	for flag, at := range map[string]*string{
		"ca-file": &c.CAFile, "cert-file": &c.CertFile, "key-file": &c.KeyFile, "token-file": &c.TokenFile, "sign-key": &c.SignKey, "keyspace": &c.Keyspace, "tenant": &c.Tenant, "service": &c.Service, "default-output": &c.Output,
	} {
		if in.c.IsSet(flag) {
			*at = in.c.String(flag)
		}
	}
	if _, err := hierarchy.ParseKeyspaceID(c.Keyspace); c.Keyspace != "" && err != nil {
		return usagef("32 hex digits; krypton init and krypton status --output json show it", "%q is no keyspace id", c.Keyspace)
	}
	if c.Output != "" && !slices.Contains(formats(), c.Output) {
		return usagef("use "+strings.Join(formats(), " or "), "there is no output format %q", c.Output)
	}
	f.Contexts[name] = c
	if f.Current == "" {
		f.Current = name
	}
	if err := f.Save(); err != nil {
		return err
	}
	return in.showContext(f, name, c)
}

func (in *Invocation) showContext(f *contexts.File, name string, c contexts.Context) error {
	if in.jsonOutput() {
		return in.showJSON(struct {
			Name    string `json:"name"`
			Current bool   `json:"current"`
			contexts.Context
		}{name, name == f.Current, c})
	}
	var s sheet
	s.add("name", name)
	s.add("current", yesNo(name == f.Current))
	s.add("addr", strings.Join(c.Addr, ","))
	s.add("ca file", c.CAFile)
	s.add("cert file", c.CertFile)
	s.add("key file", c.KeyFile)
	s.add("token file", c.TokenFile)
	s.add("sign key", c.SignKey)
	s.add("keyspace", c.Keyspace)
	s.add("tenant", c.Tenant)
	s.add("service", c.Service)
	s.add("output", c.Output)
	return in.write([]byte(s.text()))
}
