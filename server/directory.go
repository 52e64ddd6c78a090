package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/auth/jwt"
	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

const (
	callersFile = "callers.pem" // in tls/: who can unseal, for a start without a quorum

	// Types of the PEM blocks in callersFile behind the CA of callers. Each holds one
	// object of the registry, encoded.
	issuerBlock  = "KRYPTON ISSUER"
	bindingBlock = "KRYPTON ROLE BINDING"

	// trustDomainHeader is the PEM header of the CA in callersFile that says which
	// identities the CA may issue.
	trustDomainHeader = "Trust-Domain"

	// bindingsAtOnce is how many role bindings are read from the registry at a time.
	bindingsAtOnce = 1000
)

// directories says by which issuers and role bindings callers are known: those of
// the registry, and before there is a registry those that were kept on disk.
type directories struct {
	path string

	tokens *jwt.Verifier // of the issuers in now, or later ones

	now atomic.Pointer[directory] // never nil

	mu     sync.Mutex
	stored *stored
	wrote  [sha256.Size]byte // digest of what callersFile holds
}

// directory is what callers are known by at one moment.
type directory struct {
	identity.Directory

	at      uint64 // [fsm.View.AuthorityAt]
	founded bool   // there was a registry
	issuers []*fsmpb.Issuer
	callers *pki.Callers
	wrong   []error // why some of the issuers accept nobody here
}

func newDirectories(ctx context.Context, dir string, clk clock.Clock, log *slog.Logger) (*directories, error) {
	none, err := pki.NewCallers(nil)
	if err != nil {
		return nil, err
	}
	d := &directories{path: filepath.Join(dir, callersFile), stored: &stored{}, tokens: jwt.New(jwt.Options{Clock: clk})}
	d.now.Store(&directory{Directory: d.stored, callers: none})
	err = d.load()
	if err == nil {
		err = errors.Join(d.now.Load().wrong...)
	}
	if err != nil {
		// The file is made again as soon as the cluster can be asked.
		log.WarnContext(ctx, "the callers on disk cannot be used; the node asks for them again", slog.Any("error", err))
	}
	return d, nil
}

// close ends the fetches of the keys of token issuers.
func (d *directories) close() { d.tokens.Close() }

// of returns what callers are known by in a state of the registry. It belongs to
// that state alone: a change of it must not be acknowledged while this node goes
// by an earlier one.
func (d *directories) of(v *fsm.View) *directory {
	now := d.now.Load()
	if now.founded == v.Initialized() && now.at == v.AuthorityAt() {
		if v.Cluster().GetFormatVersion() < fsm.FormatAuthority {
			return now
		}
		return &directory{Directory: v, at: now.at, founded: true, issuers: now.issuers, callers: now.callers}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.build(v)
	if last := d.now.Load(); next.at >= last.at {
		d.now.Store(next)
	}
	return next
}

// build makes the directory of v. An issuer that cannot be used is left out, and noted
// for the log: the others' callers are none the worse for it.
func (d *directories) build(v *fsm.View) *directory {
	next := &directory{at: v.AuthorityAt(), founded: v.Initialized()}
	switch {
	case !v.Initialized():
		next.Directory, next.issuers = d.stored, d.stored.issuers
	case v.Cluster().GetFormatVersion() < fsm.FormatAuthority:
		next.issuers = beforeIssuers(v)
		next.Directory = &stored{issuers: next.issuers, view: v}
	default:
		next.Directory, next.issuers = v, v.Issuers()
	}
	last := d.now.Load()
	if slices.Equal(last.issuers, next.issuers) {
		next.callers = last.callers
		d.replaceTokens(next)
		return next
	}
	d.replaceTokens(next)
	next.callers = next.usable()
	return next
}

// usable returns the issuers of certificates. One that cannot be used, or has a CA of
// one before it, is left out and noted.
func (d *directory) usable() *pki.Callers {
	var all []pki.CallerIssuer
	for _, i := range d.issuers {
		if i.GetX509() == nil {
			continue
		}
		one, err := callerIssuer(i)
		if err != nil {
			d.wrong = append(d.wrong, fmt.Errorf("%s: %w", identity.IssuerName(i), err))
			continue
		}
		all = append(all, one)
	}
	callers, err := pki.NewCallers(all)
	if err == nil {
		return callers
	}
	callers = &pki.Callers{}
	var use []pki.CallerIssuer
	for _, one := range all {
		with, err := pki.NewCallers(append(slices.Clone(use), one))
		if err != nil {
			d.wrong = append(d.wrong, err)
			continue
		}
		use, callers = append(use, one), with
	}
	return callers
}

// replaceTokens has tokens judged by the issuers of next, or later ones.
func (d *directories) replaceTokens(next *directory) {
	var issuers []jwt.Issuer
	for _, i := range next.issuers {
		j := i.GetJwt()
		if j == nil || len(i.GetUid()) != len(auth.Issuer{}) {
			continue
		}
		issuers = append(issuers, jwt.Issuer{
			UID: auth.Issuer(i.GetUid()), Path: identity.IssuerName(i), URL: j.GetUrl(), Audiences: j.GetAudiences(), CAs: j.GetCa(), StaticJWKS: j.GetKeys(),
			Skew: time.Duration(j.GetSkewMs()) * time.Millisecond, SubjectClaim: j.GetSubjectClaim(), Lifetime: time.Duration(j.GetMaxLifeS()) * time.Second,
		})
	}
	if err := d.tokens.Replace(next.at, issuers); err != nil {
		next.wrong = append(next.wrong, err)
	}
}

func callerIssuer(i *fsmpb.Issuer) (pki.CallerIssuer, error) {
	if len(i.GetUid()) != len(auth.Issuer{}) {
		return pki.CallerIssuer{}, errs.New(errs.StateCorrupt, "an issuer has no uid")
	}
	out := pki.CallerIssuer{UID: auth.Issuer(i.GetUid()), TrustDomain: i.GetX509().GetTrustDomain()}
	for _, der := range i.GetX509().GetCertificates() {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return out, errs.New(errs.StateCorrupt, "a certificate of an issuer does not parse", errs.Cause(err))
		}
		out.Certificates = append(out.Certificates, ca)
	}
	for _, at := range i.GetX509().GetRetireTimesMs() {
		var end time.Time
		if at != 0 {
			end = time.UnixMilli(at)
		}
		out.RetireTimes = append(out.RetireTimes, end)
	}
	return out, nil
}

// beforeIssuers is what a cluster goes by that is older than issuers and role
// bindings: its one CA, whose certificates say the role by themselves.
func beforeIssuers(v *fsm.View) []*fsmpb.Issuer {
	secret, ok := v.Secret(node.SecretCallerCA)
	if !ok {
		return nil
	}
	id, err := hierarchy.ClusterIDFromBytes(v.Cluster().GetClusterId())
	if err != nil {
		return nil
	}
	i, err := soleIssuer(secret.GetPublic(), node.TrustDomain(id))
	if err != nil {
		return nil
	}
	return []*fsmpb.Issuer{i}
}

func soleIssuer(der []byte, domain string) (*fsmpb.Issuer, error) {
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.New(errs.StateCorrupt, "the CA of callers does not parse", errs.Cause(err))
	}
	uid := pki.IssuerOf(ca)
	i := &fsmpb.Issuer{
		Id: identity.Builtin, Uid: uid[:], AllTenants: true,
		Kind: &fsmpb.Issuer_X509{X509: &fsmpb.X509Issuer{Certificates: [][]byte{der}, TrustDomain: domain}},
	}
	for _, r := range auth.Roles() {
		i.Roles = append(i.Roles, r.String())
	}
	i.UnboundRoles = i.GetRoles()
	return i, nil
}

// stored is a directory that is not a registry.
type stored struct {
	issuers  []*fsmpb.Issuer
	bindings []*fsmpb.RoleBinding
	view     *fsm.View // nil: there is none
}

// IssuerByUID implements [identity.Directory].
func (s *stored) IssuerByUID(uid []byte) (*fsmpb.Issuer, bool) {
	for _, i := range s.issuers {
		if bytes.Equal(i.GetUid(), uid) {
			return i, true
		}
	}
	return nil, false
}

// BindingBySubject implements [identity.Directory].
func (s *stored) BindingBySubject(issuerUID []byte, subject string) (*fsmpb.RoleBinding, bool) {
	for _, b := range s.bindings {
		if b.GetSubject() == subject && bytes.Equal(b.GetIssuerUid(), issuerUID) {
			return b, true
		}
	}
	return nil, false
}

// Tenant implements [identity.Directory].
func (s *stored) Tenant(name string) (*fsmpb.Tenant, bool) {
	if s.view == nil {
		return nil, false
	}
	return s.view.Tenant(name)
}

// load reads what an earlier run kept.
func (d *directories) load() error {
	raw, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errs.New(errs.InvalidConfig, "the callers that may unseal cannot be read: "+err.Error(), errs.Cause(err))
	}
	s, err := decodeStored(raw)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stored = s
	d.now.Store(d.build(fsm.New(fsm.Options{}).View()))
	d.wrote = sha256.Sum256(raw)
	return nil
}

// decodeStored reads callersFile. A file of a release before issuers holds the CA
// alone, and its certificates say the role by themselves.
func decodeStored(raw []byte) (*stored, error) {
	s := &stored{}
	var sole *fsmpb.Issuer
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		var err error
		switch block.Type {
		case "CERTIFICATE":
			sole, err = soleIssuer(block.Bytes, block.Headers[trustDomainHeader])
		case issuerBlock:
			i := &fsmpb.Issuer{}
			err = proto.Unmarshal(block.Bytes, i)
			s.issuers = append(s.issuers, i)
		case bindingBlock:
			b := &fsmpb.RoleBinding{}
			err = proto.Unmarshal(block.Bytes, b)
			s.bindings = append(s.bindings, b)
		}
		if err != nil {
			return nil, errs.New(errs.InvalidConfig, "tls/callers.pem has a block that cannot be read", errs.Cause(err))
		}
	}
	switch {
	case sole == nil:
		return nil, errs.New(errs.InvalidConfig, "tls/callers.pem holds no certificate")
	case len(s.issuers) == 0:
		s.issuers = []*fsmpb.Issuer{sole}
	}
	return s, nil
}

// keep writes down who can unseal: a node that starts without a quorum has no
// registry, and must know its custodians before it can be unsealed.
func (d *directories) keep(v *fsm.View) error {
	raw, err := encodeStored(v)
	if err != nil || raw == nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := sha256.Sum256(raw)
	if sum == d.wrote {
		return nil
	}
	if err := writeFile(d.path, raw); err != nil {
		return err
	}
	d.wrote = sum
	return nil
}

func encodeStored(v *fsm.View) ([]byte, error) {
	secret, ok := v.Secret(node.SecretCallerCA)
	if !ok {
		return nil, nil
	}
	id, err := hierarchy.ClusterIDFromBytes(v.Cluster().GetClusterId())
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Bytes: secret.GetPublic(), Headers: map[string]string{trustDomainHeader: node.TrustDomain(id)},
	})
	if v.Cluster().GetFormatVersion() < fsm.FormatAuthority {
		return out, nil
	}
	add := func(kind string, m proto.Message) error {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err == nil {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
		}
		return err
	}
	vouch := map[string]bool{}
	var custodians []*fsmpb.RoleBinding
	for after := ""; ; {
		some := v.Bindings("", after, bindingsAtOnce)
		for _, b := range some {
			if b.GetRole() == auth.RoleCustodian.String() {
				custodians = append(custodians, b)
				vouch[string(b.GetIssuerUid())] = true
			}
		}
		if len(some) < bindingsAtOnce {
			break
		}
		after = some[len(some)-1].GetId()
	}
	for _, i := range v.Issuers() {
		if vouch[string(i.GetUid())] || identity.IsBuiltin(i) {
			// Custodians are known by their role bindings. Nobody else can unseal, so nobody
			// else need be known, and what has changed since cannot be seen there.
			i = proto.CloneOf(i)
			i.UnboundRoles = nil
			if err := add(issuerBlock, i); err != nil {
				return nil, err
			}
		}
	}
	for _, b := range custodians {
		if err := add(bindingBlock, b); err != nil {
			return nil, err
		}
	}
	return out, nil
}
