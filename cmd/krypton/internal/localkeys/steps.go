//go:build unix

package localkeys

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

const (
	// patience bounds each step.
	patience = 15 * time.Second
	// renewTime is how long before its end a certificate is worth a warning.
	renewTime = 14 * 24 * time.Hour
	// maxSkew is how far the keystore's clock may be from ours: requests are
	// signed with the time, and services refuse those that are some minutes old.
	maxSkew = time.Minute
	// maxPEM is how much of a certificate file is read.
	maxPEM = 1 << 20
)

// steps are those of a check, in the order of a call.
//
//nolint:gochecknoglobals // A table, never written.
var steps = []struct {
	name, asks string
	run        func(*probe, context.Context) step
}{
	{"files", "are the files that settings name there, readable, and not open to others?", (*probe).files},
	{"settings", "does the type accept its settings?", (*probe).open},
	{"network", "is the endpoint reached, and is its certificate the one to trust?", (*probe).network},
	{"clock", "is the time there the time here?", (*probe).clock},
	{"credentials", "does the keystore answer and accept the identity of this node?", (*probe).credentials},
	{"key", "what does it say of the key? (--key)", (*probe).describe},
	{"proof", "does a throwaway secret come back from wrap and unwrap? (--key)", (*probe).proof},
	{"import", "can key material be brought into it?", (*probe).imports},
}

// probe is a check under way.
type probe struct {
	env keystore.Env
	typ keystore.Type
	cfg keystore.Config
	key keystore.KeyRef
	id  corr.ID

	provider keystore.Provider // nil until it is opened
	date     time.Time         // of the keystore; zero: it did not say
	dated    time.Time         // when
}

func newProbe(env keystore.Env, typ keystore.Type, k config.Keystore, key keystore.KeyRef) *probe {
	return &probe{env: env, typ: typ, cfg: keystore.Config{Name: k.Name, Type: k.Type, Settings: k.Settings}, key: key}
}

// run makes every step: one that failed does not hide what else is wrong.
func (p *probe) run(ctx context.Context) []step {
	id, err := corr.New(p.env.Rand)
	if err != nil {
		return []step{{Name: "settings", Verdict: failed, Says: err.Error(), code: errs.Internal}}
	}
	p.id = id
	var found []step
	for _, s := range steps {
		ctx, cancel := context.WithTimeout(ctx, patience)
		r := s.run(p, ctx)
		cancel()
		r.Name, r.Says, r.Next = s.name, printable(r.Says), printable(r.Next)
		found = append(found, r)
	}
	return found
}

func (p *probe) close() {
	if p.provider != nil {
		_ = p.provider.Close() // the process ends
	}
}

func good(format string, args ...any) step {
	return step{Verdict: ok, Says: fmt.Sprintf(format, args...)}
}

func skip(why string) step { return step{Verdict: skipped, Says: why} }

func bad(code errs.Code, next, format string, args ...any) step {
	return step{Verdict: failed, Says: fmt.Sprintf(format, args...), Next: next, code: code}
}

// fails is a failure of a provider, in its words.
func (p *probe) fails(err error) step {
	page := "docs/keystores/" + p.typ.Name + ".md"
	next := map[keystore.Class]string{
		keystore.Denied:        "the keystore answers and refuses. Compare the name of the key first: many answer alike for one that never existed. Then ask its owner whether it is disabled or pending deletion, and compare this node's rights with the least ones in " + page,
		keystore.Unavailable:   "see what the step network says; if that is well, look at the keystore's own state, and at the setting timeout",
		keystore.Throttled:     "raise the quota of the account, or lower the setting rate on every node",
		keystore.Misconfigured: "nobody withdrew anything, it cannot work like this: compare settings, identity and name of the key with " + page,
		keystore.Corrupt:       "what was wrapped a moment ago does not open: something between changes bytes, or the key was replaced under its name",
	}[keystore.ClassOf(err)]
	s := bad(keystore.Visible(err).Code, next, "%v", err)
	s.Says = strings.TrimPrefix(s.Says, "keystore "+p.cfg.Name+": ")
	return s
}

// path reports whether a setting names something on this machine, and whether
// that is a secret.
func path(name string) (is, secret bool) {
	switch {
	case name == "ca_file", name == "cert_file":
		return true, false
	case name == "token_file", name == "jwt_file":
		return true, false // a secret, but Kubernetes projects tokens with 0644 into pods
	case strings.HasSuffix(name, "_file"):
		return true, true
	}
	return name == "dir" || name == "module" || name == "helper", false
}

func (p *probe) files(context.Context) step {
	var looked, loose []string
	for _, name := range slices.Sorted(maps.Keys(p.cfg.Settings)) {
		at := p.cfg.Settings[name]
		is, secret := path(name)
		if !is || at == "" {
			continue
		}
		looked = append(looked, name)
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			err = readable(at)
		}
		switch {
		case errors.Is(err, fs.ErrPermission):
			return bad(errs.KeystoreMisconfigured, "run this as the user of the node; if it is, give that user the right to read it", "%s: this user cannot read it: %v", name, err)
		case err != nil:
			return bad(errs.KeystoreMisconfigured, "correct the setting "+name+", or make the file", "%s: %v", name, err)
		case secret && info.Mode().Perm()&0o007 != 0:
			return bad(errs.KeystoreMisconfigured, "chmod 0600 "+at+", and replace the secret if others use this machine", "%s: everybody on this machine can read %s (mode %04o)", name, at, info.Mode().Perm())
		case secret && info.Mode().Perm()&0o070 != 0:
			loose = append(loose, fmt.Sprintf("a group can read the secret %s (mode %04o)", at, info.Mode().Perm()))
		}
		if name == "ca_file" || name == "cert_file" {
			switch s := p.certificate(name, at); s.Verdict {
			case failed:
				return s
			case warned:
				loose = append(loose, s.Says)
			case ok, skipped:
			}
		}
	}
	switch {
	case len(looked) == 0:
		return skip("no setting names a file")
	case len(loose) > 0:
		return step{Verdict: warned, Says: strings.Join(loose, "; "), Next: "chmod 0600, unless the group is the node's alone; renew certificates before they end"}
	}
	return good("%s", strings.Join(looked, ", "))
}

func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// certificate looks at the dates of what a PEM file has.
func (p *probe) certificate(setting, path string) step {
	raw, err := os.ReadFile(path)
	if err != nil {
		return bad(errs.KeystoreMisconfigured, "correct the setting "+setting, "%s: %v", setting, err)
	}
	now, n := p.env.Clock.Now(), 0
	for rest := raw[:min(len(raw), maxPEM)]; ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		c, err := x509.ParseCertificate(b.Bytes)
		switch {
		case err != nil:
			return bad(errs.KeystoreMisconfigured, "put certificates in PEM into it, and nothing else", "%s: %v", setting, err)
		case now.After(c.NotAfter) || now.Before(c.NotBefore):
			return bad(errs.KeystoreMisconfigured, "renew it", "%s: the certificate of %s is valid from %s to %s", setting, c.Subject, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		case c.NotAfter.Sub(now) < renewTime && setting == "cert_file":
			return step{Verdict: warned, Says: fmt.Sprintf("%s: the certificate of %s ends at %s", setting, c.Subject, c.NotAfter.Format(time.RFC3339))}
		}
	}
	if n == 0 {
		return bad(errs.KeystoreMisconfigured, "put certificates in PEM into it", "%s: %s has no certificate", setting, path)
	}
	return good("")
}

func (p *probe) open(ctx context.Context) step {
	provider, err := p.typ.New(ctx, p.env, p.cfg)
	if err != nil {
		return p.fails(err)
	}
	p.provider = provider
	// One attempt a step: retries would only make the answer late.
	if g, guarded := provider.(interface{ Inner() keystore.Provider }); guarded {
		p.provider = g.Inner()
	}
	return good("type %s, %d settings", p.typ.Name, len(p.cfg.Settings))
}

// endpoint is the URL that the provider talks to, as far as settings say it.
func (p *probe) endpoint() string {
	if p.typ.Endpoint != nil {
		if u := p.typ.Endpoint(p.cfg); u != "" {
			return u
		}
	}
	for _, name := range []string{"endpoint", "address", "vault"} {
		if v := p.cfg.Settings[name]; strings.Contains(v, "://") {
			return v
		}
	}
	return ""
}

func (p *probe) network(ctx context.Context) step {
	at := p.endpoint()
	if at == "" {
		return skip("the settings name no endpoint; the step credentials asks it")
	}
	u, err := url.Parse(at)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return bad(errs.KeystoreMisconfigured, "write it as https://HOST or https://HOST:PORT", "the endpoint %q is no URL", at)
	}
	host := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]))
	addrs, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		return bad(errs.L1Unavailable, "check the name in the settings and the resolver of this machine (/etc/resolv.conf)", "%v", err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return bad(errs.L1Unavailable, "check routes and firewalls between this machine and "+host+", and whether the service listens there", "%v", err)
	}
	defer func() { _ = conn.Close() }() // nothing was written that could be lost
	tr := &http.Transport{DisableKeepAlives: true}
	if u.Scheme == "http" {
		p.ask(ctx, tr, u)
		return step{Verdict: warned, Says: fmt.Sprintf("%s is reached at %s, without TLS", host, conn.RemoteAddr()), Next: "use https, unless the endpoint is on this machine"}
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
	if file := p.cfg.Settings["ca_file"]; file != "" {
		raw, err := os.ReadFile(file)
		conf.RootCAs = x509.NewCertPool()
		if err != nil || !conf.RootCAs.AppendCertsFromPEM(raw) {
			return bad(errs.KeystoreMisconfigured, "put the CA's certificate in PEM into it", "ca_file %s cannot be used", file)
		}
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		return bad(errs.KeystoreMisconfigured, "set ca_file to the CA of the endpoint; if the certificate is another than expected, something stands between", "TLS with %s: %v", host, err)
	}
	leaf := secure.ConnectionState().PeerCertificates[0]
	tr.TLSClientConfig = conf
	p.ask(ctx, tr, u)
	if left := leaf.NotAfter.Sub(p.env.Clock.Now()); left < renewTime {
		return step{Verdict: warned, Says: fmt.Sprintf("%s is reached; its certificate ends at %s", host, leaf.NotAfter.Format(time.RFC3339)), Next: "ask who runs it to renew it"}
	}
	return good("%s (%d addresses), %s, certificate of %s until %s", host, len(addrs), tls.VersionName(secure.ConnectionState().Version), leaf.Issuer, leaf.NotAfter.Format(time.DateOnly))
}

// ask takes the time out of an answer, whatever it says. No identity is shown.
func (p *probe) ask(ctx context.Context, tr *http.Transport, u *url.URL) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.Scheme+"://"+u.Host+"/", nil)
	if err != nil {
		return
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return
	}
	_ = res.Body.Close() // HEAD has none
	if d, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		p.date, p.dated = d, p.env.Clock.Now()
	}
}

func (p *probe) clock(context.Context) step {
	if p.date.IsZero() {
		return skip("the keystore did not say what time it is")
	}
	skew := p.dated.Sub(p.date).Round(time.Second)
	if skew.Abs() <= maxSkew {
		return good("%s apart", skew.Abs())
	}
	which := "ahead of"
	if skew < 0 {
		which = "behind"
	}
	return bad(errs.KeystoreMisconfigured, "set the clock of this machine (timedatectl; chronyc tracking)", "the clock of this machine is %s %s the keystore's", skew.Abs(), which)
}

func (p *probe) credentials(ctx context.Context) step {
	if p.provider == nil {
		return skip("the keystore was not opened")
	}
	if err := p.provider.Health(ctx, p.id); err != nil {
		return p.fails(err)
	}
	return good("it answers and accepts this identity; correlation id %s", p.id)
}

// keyed says why a step about a key cannot be made, or nothing.
func (p *probe) keyed() (why string) {
	switch {
	case p.provider == nil:
		return "the keystore was not opened"
	case p.key == "":
		return "no key named; name one with --key"
	}
	return ""
}

func (p *probe) describe(ctx context.Context) step {
	if why := p.keyed(); why != "" {
		return skip(why)
	}
	d, err := p.provider.Describe(ctx, keystore.DescribeRequest{Key: p.key, Correlation: p.id})
	if err != nil {
		return p.fails(err)
	}
	says := fmt.Sprintf("%s, state %s, version %q, %s, %s, protection %s", d.Key, d.State, d.KeyVersion, d.Mechanism, d.Kind, d.Protection)
	if len(d.Notes) > 0 {
		says += ". " + strings.Join(d.Notes, " ")
	}
	switch d.State {
	case keystore.StateDisabled, keystore.StatePendingDeletion, keystore.StateDeleted:
		return bad(errs.L1Denied, "ask the owner of the key", "%s", says)
	case keystore.StateEnabled, keystore.StateUnknown:
	}
	return good("%s", says)
}

// proofAAD binds what a check wraps to nothing but checks.
const proofAAD = "krypton/v1/keystore-check"

func (p *probe) proof(ctx context.Context) step {
	if why := p.keyed(); why != "" {
		return skip(why)
	}
	secret, err := memsec.Random(p.env.Rand, 32, memsec.Hot)
	if err != nil {
		return bad(errs.Internal, "", "%v", err)
	}
	defer secret.Destroy()
	start := p.env.Clock.Now()
	w, err := p.provider.Wrap(ctx, keystore.WrapRequest{Key: p.key, Secret: secret, AAD: []byte(proofAAD), Correlation: p.id})
	if err != nil {
		return p.fails(err)
	}
	wrapped := p.env.Clock.Since(start)
	u, err := p.provider.Unwrap(ctx, keystore.UnwrapRequest{Key: p.key, Blob: w.Blob, AAD: []byte(proofAAD), Class: memsec.Hot, Correlation: p.id})
	if err != nil {
		return p.fails(err)
	}
	defer u.Secret.Destroy()
	if same, err := memsec.Equal(secret, u.Secret); err != nil || !same {
		return bad(errs.StateCorrupt, "do not use this keystore: it answers with something else than it was given", "another secret came back")
	}
	both := p.env.Clock.Since(start)
	return good("wrap %s, unwrap %s, blob of %d bytes, correlation id %s", wrapped.Round(10*time.Microsecond), (both - wrapped).Round(10*time.Microsecond), len(w.Blob), p.id)
}

func (p *probe) imports(context.Context) step {
	if p.provider == nil {
		return skip("the keystore was not opened")
	}
	if _, can := p.provider.(keystore.Importer); !can {
		return skip("with these settings it takes no key material of a customer; docs/keystores/" + p.typ.Name + ".md says whether it can, and what that needs")
	}
	return good("it takes key material of a customer")
}
