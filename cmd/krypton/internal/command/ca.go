package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	authorityPrefix = "authorities/"
	nodeAuthority   = "node-ca"
	maxOverlap      = 30 * 24 * time.Hour
)

func caCommands() *Command {
	return group("ca", "the cluster's own CAs: of callers and of nodes",
		&Command{
			Name: "show", Usage: "show the CAs of the cluster, and those before them that are trusted still", Reach: Reads,
			Examples: []string{"krypton operator ca show"},
			Run: func(ctx context.Context, in *Invocation) error {
				got, err := in.authorities(ctx)
				if err != nil {
					return err
				}
				return in.show(got, func() string { return authoritiesTable(got) })
			},
		},
		&Command{
			Name: "export", Usage: "write what nodes are verified with", Reach: Reads,
			About: "Every CA of nodes that is trusted: the present one, and those before it until they retire. Without --out the CA file in use is\n" +
				"brought up to date; CAs in it that are not the cluster's stay.",
			Examples: []string{"krypton operator ca export", "krypton operator ca export --out ca.pem"},
			Flags:    []cli.Flag{&cli.StringFlag{Name: "out", Usage: "`FILE` for the CAs"}},
			Run:      exportCA,
		},
		&Command{
			Name: "status", Usage: "show who still uses a CA that was replaced, node by node", Reach: Reads,
			About: "Asks every node of --addr for its own certificate, and when it last accepted somebody by a CA of callers that was replaced,\n" +
				"since it started. Connections that are open count when they are made; they live an hour at most.",
			Examples: []string{"krypton operator ca status"},
			Run:      statusCA,
		},
		&Command{
			Name: "replace", Args: "NAME", Usage: "put a new CA in the place of one of the cluster's", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1},
			About: "NAME is node-ca or caller-ca. Nodes get certificates of the new one by themselves, and the one before is trusted until the\n" +
				"overlap ends. Until then callers renew (krypton operator cert renew), which brings the CA file up to date, too. Custodians sign\n" +
				"for it. Somebody may have the MasterKey who must not: this is not enough, see krypton ceremony start.",
			Examples: []string{"krypton operator ca replace node-ca --yes", "krypton operator ca replace caller-ca --overlap 168h --yes"},
			Flags:    []cli.Flag{&cli.DurationFlag{Name: "overlap", Usage: "`DURATION` for which the CA before is trusted, 0s to 720h", Value: 24 * time.Hour}},
			Run:      replaceCA,
		},
		&Command{
			Name: "retire", Args: "NAME", Usage: "trust no CA any more that the present one replaced", Reach: Changes, Signs: true, Waits: waitsForAll, NArgs: [2]int{1, 1},
			About:    "NAME is node-ca or caller-ca. Whoever has not renewed by then is refused, or cannot verify nodes: look with krypton operator ca status.",
			Examples: []string{"krypton operator ca retire caller-ca --yes"},
			Run: func(ctx context.Context, in *Invocation) error {
				a, err := in.authority(ctx, in.args[0])
				if err != nil {
					return err
				}
				if err := in.confirm("what %s signed before it was replaced counts for nothing from now on", in.args[0]); err != nil {
					return err
				}
				now, err := call(ctx, in, in.cl.Access().RetireAuthority, &kryptonv1.RetireAuthorityRequest{Name: a.GetName(), BaseSha256: a.GetSha256()})
				if err != nil {
					return err
				}
				return in.show(now, func() string { return authoritySheet(now) })
			},
		},
	)
}

// authorities asks one node for the CAs of the cluster. It is no call of the command, to
// which --dry-run applies.
func (in *Invocation) authorities(ctx context.Context) (*kryptonv1.GetAuthoritiesResponse, error) {
	c, err := in.client(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := in.deadline(ctx)
	defer cancel()
	return c.Access().GetAuthorities(ctx, &kryptonv1.GetAuthoritiesRequest{})
}

// authority returns the CA called name, as a node shows it.
func (in *Invocation) authority(ctx context.Context, name string) (*kryptonv1.Authority, error) {
	got, err := in.authorities(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range got.GetAuthorities() {
		if a.GetName() == authorityPrefix+strings.TrimPrefix(name, authorityPrefix) {
			return a, nil
		}
		names = append(names, strings.TrimPrefix(a.GetName(), authorityPrefix))
	}
	return nil, usagef("use "+strings.Join(names, " or "), "the cluster has no CA %q", name)
}

func replaceCA(ctx context.Context, in *Invocation) error {
	overlap := in.c.Duration("overlap")
	req := &kryptonv1.ReplaceAuthorityRequest{NoOverlap: overlap == 0}
	if overlap != 0 {
		var err error
		if req.OverlapSeconds, err = seconds("overlap", overlap, maxOverlap); err != nil {
			return err
		}
	}
	a, err := in.authority(ctx, in.args[0])
	if err != nil {
		return err
	}
	req.Name, req.BaseSha256 = a.GetName(), a.GetSha256()
	if err := in.confirm("%s gets a new key, and the present one is trusted for %s", in.args[0], span(overlap)); err != nil {
		return err
	}
	now, err := call(ctx, in, in.cl.Access().ReplaceAuthority, req)
	if err != nil {
		return err
	}
	if !in.jsonOutput() && !in.c.Bool("dry-run") {
		in.note("callers now renew: krypton operator cert renew; who still uses the CA before: krypton operator ca status")
	}
	return in.show(now, func() string { return authoritySheet(now) })
}

func exportCA(ctx context.Context, in *Invocation) error {
	a, err := in.authority(ctx, nodeAuthority)
	if err != nil {
		return err
	}
	text := bytes.Clone(a.GetCertificate())
	for _, p := range a.GetPrevious() {
		text = append(text, p.GetCertificate()...)
	}
	file := in.c.String("out")
	if file == "" {
		if file = in.caFile(); file == "" {
			return usagef("give --out", "no CA file is in use")
		}
		if err := in.updateCA(text); err != nil {
			return err
		}
	} else if err := in.replaceFile(file, text); err != nil {
		return err
	}
	if in.jsonOutput() {
		return in.showJSON(map[string]string{"caFile": file})
	}
	var s sheet
	s.add("CA of the nodes", file)
	return in.write([]byte(s.text()))
}

// updateCA brings the CA file in use up to date.
func (in *Invocation) updateCA(text []byte) error {
	file := in.caFile()
	if file == "" || len(text) == 0 {
		return nil
	}
	had, err := os.ReadFile(file)
	if err != nil {
		return errs.New(errs.InvalidConfig, "read CA file: "+err.Error(), errs.Cause(err))
	}
	is, err := mergeCAs(had, text)
	if err != nil || bytes.Equal(is, had) {
		return err
	}
	return in.replaceFile(file, is)
}

// mergeCAs returns what a CA file has to hold: the CAs of the cluster as a node says them,
// and of those that were in it the ones that are not the cluster's. All that were the
// cluster's have one name. It is what was there if that has them all and no other.
func mergeCAs(had, cluster []byte) ([]byte, error) {
	now, err := pki.ParseCertificates(cluster)
	if err != nil {
		return nil, errs.New(errs.Internal, "a node says CAs that are none", errs.Cause(err))
	}
	before, err := pki.ParseCertificates(had)
	if err != nil {
		return nil, err
	}
	all := now
	same := true
	for _, b := range before {
		known, ours := false, false
		for _, n := range now {
			known, ours = known || bytes.Equal(n.Raw, b.Raw), ours || bytes.Equal(n.RawSubject, b.RawSubject)
		}
		switch {
		case known:
		case ours:
			same = false // it retired
		default:
			all = append(all, b)
		}
	}
	if same && len(all) == len(before) {
		return had, nil
	}
	return pki.EncodeCertificates(all...), nil
}

// replaceFile replaces a file that everybody may read.
func (in *Invocation) replaceFile(file string, text []byte) error {
	f, err := in.env.create(file, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return errors.Join(err, f.abort())
	}
	return f.commit()
}

// statusCA asks every node by itself.
func statusCA(ctx context.Context, in *Invocation) error {
	c, err := in.client(ctx)
	if err != nil {
		return err
	}
	type row struct {
		Addr          string `json:"addr"`
		Node          string `json:"node"`
		CertificateBy string `json:"certificateBy"` // present, replaced, none, unknown
		LastCaller    string `json:"lastCaller"`    // by a CA that was replaced
		Error         string `json:"error"`
	}
	var rows []row
	var got *kryptonv1.GetAuthoritiesResponse
	for _, addr := range c.Addrs() {
		one, err := call(ctx, in, kryptonv1.NewAccessClient(c.Node(addr)).GetAuthorities, &kryptonv1.GetAuthoritiesRequest{})
		r := row{Addr: addr, CertificateBy: "unknown"}
		if err != nil {
			r.Error = errs.Of(err).String()
		} else {
			got = one
			r.Node, r.CertificateBy, r.LastCaller = strings.TrimPrefix(one.GetNode(), "nodes/"), certificateBy(one), lastCaller(one)
		}
		rows = append(rows, r)
	}
	if got == nil {
		return errs.New(errs.Unavailable, "no node answers", errs.Hint("check --addr: krypton doctor"))
	}
	if in.jsonOutput() {
		return in.showJSON(map[string]any{"nodes": rows})
	}
	g := grid{head: []string{"ADDRESS", "NODE", "CERTIFICATE BY", "LAST CALLER BY A REPLACED CA", "ERROR"}}
	for _, r := range rows {
		g.add(r.Addr, r.Node, r.CertificateBy, r.LastCaller, r.Error)
	}
	return in.write([]byte(authoritiesTable(got) + "\n" + g.text()))
}

// certificateBy says by which CA the certificate of the node that answered is.
func certificateBy(got *kryptonv1.GetAuthoritiesResponse) string {
	if got.GetNodeCertificateCa() == "" {
		return "none of the cluster"
	}
	for _, a := range got.GetAuthorities() {
		if a.GetName() == authorityPrefix+nodeAuthority && a.GetSha256() != got.GetNodeCertificateCa() {
			return "replaced"
		}
	}
	return "present"
}

// lastCaller returns when the node that answered last accepted somebody by a CA that was
// replaced.
func lastCaller(got *kryptonv1.GetAuthoritiesResponse) (last string) {
	for _, a := range got.GetAuthorities() {
		for _, p := range a.GetPrevious() {
			if t := p.GetLastUsedTime(); t != nil {
				last = max(last, when(t))
			}
		}
	}
	return cmp.Or(last, "none")
}

func authoritiesTable(got *kryptonv1.GetAuthoritiesResponse) string {
	g := grid{head: []string{"CA", "SHA-256", "EXPIRES", "STATE"}}
	for _, a := range got.GetAuthorities() {
		g.add(strings.TrimPrefix(a.GetName(), authorityPrefix), a.GetSha256(), when(a.GetExpireTime()), "present")
		for _, p := range a.GetPrevious() {
			g.add("", p.GetSha256(), "", "replaced, trusted until "+when(p.GetRetireTime()))
		}
	}
	return g.text()
}

func authoritySheet(a *kryptonv1.Authority) string {
	var s sheet
	s.add("CA", strings.TrimPrefix(a.GetName(), authorityPrefix))
	s.add("SHA-256", a.GetSha256())
	s.add("expires", when(a.GetExpireTime()))
	for _, p := range a.GetPrevious() {
		s.add("before it", p.GetSha256()+", trusted until "+when(p.GetRetireTime()))
	}
	return s.text()
}
