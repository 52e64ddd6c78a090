package command

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/contexts"
)

// The scripts ask `krypton __complete -- words...` for candidates, so that they
// never have to be made again when a command changes. The last word may be empty.
// No candidate means: a file name. A candidate that ends in a slash goes on.
const (
	completionBash = `_krypton() {
	local cur="${COMP_WORDS[COMP_CWORD]}" IFS=$'\n' words i
	# bash cuts words at "=" and ":", too: glue them again.
	words=()
	for ((i = 1; i <= COMP_CWORD; i++)); do
		if [[ $i -gt 1 && ( "${COMP_WORDS[i]}" == [=:]* || "${COMP_WORDS[i-1]}" == *[=:] ) && ${#words[@]} -gt 0 ]]; then
			words[${#words[@]}-1]+="${COMP_WORDS[i]}"
		else
			words+=("${COMP_WORDS[i]}")
		fi
	done
	local whole="${words[${#words[@]}-1]}"
	COMPREPLY=($(krypton __complete -- "${words[@]}" 2>/dev/null))
	# What stands before the last cut is on the line already.
	[[ "$cur" == [=:] ]] && cur=""
	local head="${whole%"$cur"}"
	COMPREPLY=("${COMPREPLY[@]#"$head"}")
	[[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == */ ]] && compopt -o nospace
	return 0
}
complete -o default -F _krypton krypton
`
	completionZsh = `#compdef krypton
_krypton() {
	local -a candidates open
	candidates=("${(@f)$(krypton __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	candidates=("${(@)candidates:#}")
	open=("${(@M)candidates:#*/}")
	candidates=("${(@)candidates:#*/}")
	(( ${#open} )) && compadd -S '' -- "${open[@]}"
	(( ${#candidates} )) && compadd -- "${candidates[@]}"
	(( ${#open} + ${#candidates} )) || _files
}
compdef _krypton krypton
`
	completionFish = `function __krypton_complete
	set -l tokens (commandline -opc) (commandline -ct)
	krypton __complete -- $tokens[2..-1] 2>/dev/null
end
complete -c krypton -a '(__krypton_complete)'
`
	completionPowerShell = `Register-ArgumentCompleter -Native -CommandName krypton -ScriptBlock {
	param($wordToComplete, $commandAst, $cursorPosition)
	$words = @($commandAst.CommandElements | Select-Object -Skip 1 | Where-Object { $_.Extent.EndOffset -lt $cursorPosition } | ForEach-Object { $_.ToString() })
	# An empty argument does not reach a program in every version, so it is written as "".
	$last = if ($wordToComplete) { $wordToComplete } else { '""' }
	krypton __complete -- @words $last 2>$null | ForEach-Object {
		[System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
	}
}
`
)

func completionCommand() *Command {
	shell := func(name, script, example string) *Command {
		return &Command{
			Name: name, Usage: "print the completion script for " + name, Examples: []string{example},
			Run: func(_ context.Context, in *Invocation) error {
				if in.jsonOutput() {
					return in.showJSON(map[string]string{"shell": name, "script": script})
				}
				return in.write([]byte(script))
			},
		}
	}
	g := group("completion", "print a completion script for a shell",
		shell("bash", completionBash, "source <(krypton completion bash)"),
		shell("zsh", completionZsh, "krypton completion zsh > ~/.zfunc/_krypton"),
		shell("fish", completionFish, "krypton completion fish > ~/.config/fish/completions/krypton.fish"),
		shell("powershell", completionPowerShell, "krypton completion powershell | Out-String | Invoke-Expression"),
	)
	g.About = "Commands, flags and their values are completed, names of contexts too, and names of tenants, services, nodes,\n" +
		"issuers and role bindings when the cluster of the settings answers within 0.3 s."
	return g
}

// completionPatience bounds how long the names of a cluster are waited for: a
// person has pressed Tab.
const completionPatience = 300 * time.Millisecond

func completeCommand() *Command {
	return &Command{
		Name: "__complete", Args: "-- WORDS", Usage: "print what can follow", Hidden: true, NArgs: [2]int{0, 1 << 10},
		Examples: []string{"krypton __complete -- tenant cr"},
		Run: func(ctx context.Context, in *Invocation) error {
			ctx, cancel := context.WithTimeout(ctx, completionPatience)
			defer cancel()
			words := slices.Clone(in.args)
			if n := len(words); n > 0 && words[n-1] == `""` { // from PowerShell
				words[n-1] = ""
			}
			k := completion{root: in.root, getenv: in.env.Getenv, ask: in.ask, tenant: in.tenant}
			out := strings.Join(k.of(ctx, words), "\n")
			if out != "" {
				out += "\n"
			}
			return in.write([]byte(out))
		},
	}
}

// completion finds what can follow on a command line.
type completion struct {
	root   *Command
	getenv func(string) string
	tenant func() string // of the settings, once ask was called
	ask    func(ctx context.Context, given map[string]string, do func(ctx context.Context, c *client.Client) error)

	given map[string]string // the last value of each flag on the line
}

// of returns the candidates for the last of words.
func (k completion) of(ctx context.Context, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	k.given = map[string]string{}
	cur, last, args := k.root, words[len(words)-1], 0
	valueOf := "" // the flag whose value the last word is
	for i := 0; i < len(words)-1; i++ {
		w := words[i]
		if w == "--" {
			continue
		}
		if strings.HasPrefix(w, "-") {
			name, value, inline := strings.Cut(strings.TrimLeft(w, "-"), "=")
			if f := anyFlag(cur, name); f != nil && takesValue(f) {
				if !inline {
					if i++; i == len(words)-1 {
						valueOf = name
						break
					}
					value = words[i]
				}
				k.given[name] = value
			}
			continue
		}
		if next := cur.find(w); next != nil {
			cur = next
		} else if w != "help" || cur != k.root {
			args++
		}
	}
	head := ""
	if name, value, inline := strings.Cut(strings.TrimLeft(last, "-"), "="); valueOf == "" && inline && strings.HasPrefix(last, "-") {
		valueOf, head, last = name, last[:len(last)-len(value)], value
	}
	var all []string
	switch {
	case valueOf != "":
		all = k.values(ctx, cur, valueOf, last)
	case strings.HasPrefix(last, "-"):
		for _, f := range append(cur.flags(), &cli.BoolFlag{Name: "help"}) {
			all = append(all, "--"+f.Names()[0])
		}
	case len(cur.Sub) > 0:
		all = cur.names()
		if cur == k.root {
			all = append(all, "help")
		}
	default:
		all = k.arguments(ctx, cur, args, last)
	}
	all = slices.DeleteFunc(all, func(c string) bool { return !strings.HasPrefix(c, last) })
	for i := range all {
		all[i] = head + all[i]
	}
	return all
}

// values returns those that a flag can have, as far as they are known.
func (k completion) values(ctx context.Context, c *Command, flag, last string) []string {
	switch flag {
	case "output", "default-output":
		return formats()
	case "role":
		return roles()
	case "algorithm":
		return algorithms()
	case "op":
		return benchOps()
	case "voters":
		return []string{"1", "3", "5", "7"}
	case "nodes":
		return []string{"1", "3", "5"}
	case "filter":
		return []string{"state=ACTIVE", "state=SUSPENDED", "state=DESTROY_SCHEDULED", "state=DESTROYED"}
	case "state":
		return approvalStates()
	case "approval":
		return k.approvals(ctx)
	case "context":
		if strings.Contains(last, "=") {
			return nil
		}
		return contextNames(k.getenv)
	case "tenant", "for-tenant":
		return k.tenants(ctx)
	case "issuer":
		return k.issuers(ctx, last)
	case "governor":
		return k.bindings(ctx, last)
	case "service":
		if c.Name == "set" {
			return nil
		}
		return k.services(ctx, last)
	}
	return nil
}

// arguments returns what argument i of a command can be, by the word that help has
// for it.
func (k completion) arguments(ctx context.Context, c *Command, i int, last string) []string {
	words := strings.Fields(strings.Trim(c.Args, "[]"))
	if n := len(words); n > 0 && i >= n && strings.HasSuffix(words[n-1], "...") {
		i = n - 1 // the last one can be given many times
	}
	if c.Reach == Local {
		if i == 0 && (c.Name == "use" || c.Name == "show" || c.Name == "delete") {
			return contextNames(k.getenv)
		}
		return nil
	}
	if i >= len(words) {
		return nil
	}
	switch strings.TrimSuffix(strings.Trim(words[i], "[]"), "...") {
	case "TENANT":
		return k.tenants(ctx)
	case "TENANT/SERVICE":
		return k.services(ctx, last)
	case "KEY":
		if strings.Contains(last, "/") {
			return k.services(ctx, last)
		}
		return k.tenants(ctx)
	case "NODE":
		return k.nodes(ctx)
	case "ISSUER":
		if c.Name == "create" {
			return nil // a new name
		}
		return k.issuers(ctx, last)
	case "BINDING":
		return k.bindings(ctx, last)
	case "APPROVAL":
		return k.approvals(ctx)
	}
	return nil
}

// approvals returns the ids of those that wait.
func (k completion) approvals(ctx context.Context) (ids []string) {
	k.ask(ctx, k.given, func(ctx context.Context, c *client.Client) error {
		r, err := c.Approvals().ListApprovals(ctx, &kryptonv1.ListApprovalsRequest{PageSize: pageSize})
		for _, a := range r.GetApprovals() {
			if name, err := approvalNameOf(a.GetName()); err == nil {
				ids = append(ids, strings.TrimPrefix(name, approvalPrefix))
			}
		}
		return err
	})
	return ids
}

func (k completion) tenants(ctx context.Context) (names []string) {
	k.ask(ctx, k.given, func(ctx context.Context, c *client.Client) error {
		r, err := c.Tenants().ListTenants(ctx, &kryptonv1.ListTenantsRequest{PageSize: pageSize})
		for _, t := range r.GetTenants() {
			names = append(names, strings.TrimPrefix(t.GetName(), tenantsPrefix))
		}
		return err
	})
	// Workloads may not list tenants, and know their own.
	if own := strings.TrimPrefix(cmp.Or(k.given["tenant"], k.tenant()), tenantsPrefix); len(names) == 0 && own != "" {
		names = []string{own}
	}
	return names
}

// services returns tenants up to the slash, and behind it the services of that one.
func (k completion) services(ctx context.Context, last string) (names []string) {
	tenant, _, ok := strings.Cut(last, "/")
	if !ok {
		for _, t := range k.tenants(ctx) {
			names = append(names, t+"/")
		}
		if len(names) != 1 {
			return names
		}
		tenant = strings.TrimSuffix(names[0], "/") // only one: its services at once
		names = nil
	}
	k.ask(ctx, k.given, func(ctx context.Context, c *client.Client) error {
		r, err := c.Services().ListServices(ctx, &kryptonv1.ListServicesRequest{Parent: tenantsPrefix + tenant, PageSize: pageSize})
		for _, v := range r.GetServices() {
			_, id := cutService(v.GetName())
			names = append(names, tenant+"/"+id)
		}
		return err
	})
	return names
}

// issuers returns those of the cluster and tenants up to the slash, and behind it
// the tenant's own.
func (k completion) issuers(ctx context.Context, last string) []string {
	return k.owned(ctx, last, issuerPrefix, func(ctx context.Context, c *client.Client, parent string) (names []string, err error) {
		r, err := c.Access().ListIssuers(ctx, &kryptonv1.ListIssuersRequest{Parent: parent, PageSize: pageSize})
		for _, i := range r.GetIssuers() {
			names = append(names, i.GetName())
		}
		return names, err
	})
}

// bindings returns role bindings of people and tenants up to the slash, and behind
// it those of the tenant's workloads.
func (k completion) bindings(ctx context.Context, last string) []string {
	return k.owned(ctx, last, bindingPrefix, func(ctx context.Context, c *client.Client, parent string) (names []string, err error) {
		r, err := c.Access().ListRoleBindings(ctx, &kryptonv1.ListRoleBindingsRequest{Parent: parent, PageSize: pageSize})
		for _, b := range r.GetRoleBindings() {
			names = append(names, b.GetName())
		}
		return names, err
	})
}

// owned returns the short names of what the cluster has, and tenants up to the
// slash; behind a slash what that tenant has. Whole names stay whole.
func (k completion) owned(ctx context.Context, last, prefix string, list func(ctx context.Context, c *client.Client, parent string) ([]string, error)) (names []string) {
	whole := strings.HasPrefix(last, prefix)
	tenant, _, ofTenant := strings.Cut(last, "/")
	parent := ""
	if ofTenant && !whole {
		parent = tenantsPrefix + tenant
	} else if !whole {
		for _, t := range k.tenants(ctx) {
			names = append(names, t+"/")
		}
	}
	k.ask(ctx, k.given, func(ctx context.Context, c *client.Client) error {
		all, err := list(ctx, c, parent)
		for _, name := range all {
			switch {
			case whole:
			case parent != "":
				name = tenant + "/" + strings.TrimPrefix(name, parent+"/"+prefix)
			default:
				name = strings.TrimPrefix(name, prefix)
			}
			names = append(names, name)
		}
		return err
	})
	return names
}

func (k completion) nodes(ctx context.Context) (names []string) {
	k.ask(ctx, k.given, func(ctx context.Context, c *client.Client) error {
		r, err := c.Cluster().ListNodes(ctx, &kryptonv1.ListNodesRequest{})
		for _, n := range r.GetNodes() {
			if !n.GetRemoved() {
				names = append(names, cmp.Or(n.GetDisplayName(), n.GetId()))
			}
		}
		return err
	})
	return names
}

func contextNames(getenv func(string) string) []string {
	path, err := contexts.Path(getenv)
	if err != nil {
		return nil
	}
	f, err := contexts.Load(path)
	if err != nil {
		return nil
	}
	return f.Names()
}

// ask calls do with a client of the cluster that the half-written line, the
// environment and the contexts name. Who presses Tab wants a name or nothing, so
// every error means that there is none.
func (in *Invocation) ask(ctx context.Context, given map[string]string, do func(context.Context, *client.Client) error) {
	path, err := contexts.Path(in.env.Getenv)
	if err != nil {
		return
	}
	f, err := contexts.Load(path)
	if err != nil {
		return
	}
	name := given["context"]
	if strings.Contains(name, "=") {
		name = ""
	}
	if name = cmp.Or(name, in.env.Getenv("KRYPTON_CONTEXT"), f.Current); name != "" {
		if in.ctx, err = f.Get(name); err != nil {
			return
		}
	}
	// What the line says goes before all else (I6), as if it were the context with
	// an empty environment.
	getenv := in.env.Getenv
	probe := &Invocation{root: in.root, path: in.path, cmd: in.cmd, c: in.c, ctx: in.ctx, meter: in.meter}
	for flag, at := range map[string]*string{"ca-file": &probe.ctx.CAFile, "cert-file": &probe.ctx.CertFile, "key-file": &probe.ctx.KeyFile} {
		env := "KRYPTON_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
		*at = cmp.Or(given[flag], getenv(env), *at)
	}
	switch { // as tokenFile has it
	case given["token-file"] != "":
		probe.ctx.TokenFile = given["token-file"]
	case given["cert-file"] != "", given["key-file"] != "":
		probe.ctx.TokenFile = ""
	case getenv("KRYPTON_TOKEN_FILE") != "":
		probe.ctx.TokenFile = getenv("KRYPTON_TOKEN_FILE")
	case getenv("KRYPTON_CERT_FILE") != "", getenv("KRYPTON_KEY_FILE") != "":
		probe.ctx.TokenFile = ""
	}
	if a := cmp.Or(given["addr"], getenv("KRYPTON_ADDR")); a != "" {
		probe.ctx.Addr = []string{a}
	}
	probe.env = &Env{Stderr: in.env.Stderr, Getenv: func(string) string { return "" }}
	c, err := probe.connect(ctx)
	if err != nil {
		return
	}
	defer c.Close() //nolint:errcheck // Nothing is in flight.
	_ = do(ctx, c)  // no names
}
