package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of CAs that were replaced.
const (
	// MaxRetiring is how many CAs before the present one are known, and so how many of them
	// may still be trusted. With it the issuer builtin has no more certificates than any other.
	MaxRetiring = MaxIssuerCertificates - 1
	// MaxLineage is how often a CA can be replaced one after the other from where people
	// vouched for it.
	MaxLineage = 16
	// MaxOverlapMS is the longest time for which a replaced CA is trusted, in
	// milliseconds: 30 days, the longest life of what it signed.
	MaxOverlapMS = 30 * 86400 * 1000
	// DefaultOverlapMS is that time where nobody says another one: a day.
	DefaultOverlapMS = intent.DefaultOverlapMs

	// retiredMS is the retire time of what is trusted no more by an order, and not because
	// a time has come: no node's clock decides it.
	retiredMS = 1
)

// nodeCA is the internal secret that signs the certificates of members.
const nodeCA = "node-ca"

// IsAuthority reports whether an internal secret is a CA of the cluster, which can be
// replaced.
func IsAuthority(name string) bool { return name == callerCA || name == nodeCA }

// authorities are their names, in ascending order: as a confirmation has them.
//
//nolint:gochecknoglobals // A constant; Go has no constant slices.
var authorities = []string{callerCA, nodeCA}

// Anchor returns the certificate of the CA of that name for which people vouched last:
// those who confirmed the MasterKey that took the place of an exposed one, else those who
// compared the fingerprint of the genesis. A CA that replaced it says by its lineage that
// it comes from there.
func Anchor(c *fsmpb.Cluster, name string) ([]byte, bool) {
	at := slices.Index(authorities, name)
	if at < 0 {
		return nil, false
	}
	if all := c.GetSealConfirmations(); len(all) > 0 {
		certs := all[len(all)-1].GetCertificates()
		if len(certs) != len(authorities) {
			return nil, false
		}
		return certs[at], true
	}
	g := &fsmpb.Genesis{}
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		return nil, false
	}
	i := slices.IndexFunc(g.GetSecrets(), func(s *fsmpb.Secret) bool { return s.GetName() == name })
	if i < 0 {
		return nil, false
	}
	return g.GetSecrets()[i].GetPublic(), true
}

// Descends reports whether the CA that s is comes from the one with that certificate: it
// is that one, or each of its lineage is a CA that the one before it signed, and the last
// has the key of s.
func Descends(anchor []byte, s *fsmpb.Secret) bool {
	if len(s.GetLineage()) == 0 {
		return bytes.Equal(anchor, s.GetPublic())
	}
	by := anchor
	for _, cross := range s.GetLineage() {
		if !signedBy(cross, by) || !isCA(cross) {
			return false
		}
		by = cross
	}
	return sameKeyIn(by, s.GetPublic())
}

// checkCA checks what a CA says by itself, and the order of those before it.
func checkCA(s *fsmpb.Secret) error {
	own, ok := spkiOf(s.GetPublic())
	if !ok {
		return invalid("the certificate of a CA is no certificate in DER of at most 8 KiB")
	}
	if cross := s.GetCrossCertificate(); len(cross) != 0 && !sameKeyIn(cross, s.GetPublic()) {
		return invalid("the certificate by the CA before is for another key")
	}
	if len(s.GetPrevious()) > MaxRetiring || len(s.GetLineage()) > MaxLineage {
		return invalid("a CA has too many before it")
	}
	seen := map[string]bool{string(own): true}
	for _, p := range s.GetPrevious() {
		spki, ok := spkiOf(p.GetCertificate())
		if !ok || seen[string(spki)] || p.GetRetireTimeMs() <= 0 {
			return invalid("a CA that retires is no certificate in DER, there twice, or retires never")
		}
		seen[string(spki)] = true
	}
	for _, c := range s.GetLineage() {
		if _, ok := spkiOf(c); !ok {
			return invalid("the lineage of a CA has what is no certificate in DER")
		}
	}
	return nil
}

// replace puts s in the place of the CA of its name (I40).
func (t *tx) replace(was, s *fsmpb.Secret, lineage [][]byte, overlapMS int64) error {
	is := &fsmpb.Secret{
		Name: s.GetName(), IvkUid: s.GetIvkUid(), Blob: s.GetBlob(), Public: s.GetPublic(), CrossCertificate: s.GetCrossCertificate(),
		Lineage: lineage, Previous: retiring(was, t.timeMS, overlapMS), ModIndex: t.index,
	}
	if err := checkCA(is); err != nil {
		return err
	}
	return t.storeCA(is)
}

// retiring returns what is known besides the CA that takes the place of was: was and those
// before it, none of them trusted longer than it. The oldest makes room. One that has
// retired stays known as long as there is room: its certificates are as those that have
// expired, so that who has a role binding can renew one, and nobody is locked out for good.
func retiring(was *fsmpb.Secret, nowMS, overlapMS int64) (out []*fsmpb.RetiringAuthority) {
	until := nowMS + overlapMS
	if overlapMS == 0 {
		until = retiredMS
	}
	for _, p := range was.GetPrevious() {
		out = append(out, &fsmpb.RetiringAuthority{Certificate: p.GetCertificate(), RetireTimeMs: min(p.GetRetireTimeMs(), until)})
	}
	out = append(out, &fsmpb.RetiringAuthority{Certificate: was.GetPublic(), RetireTimeMs: until})
	return out[max(0, len(out)-MaxRetiring):]
}

// storeCA stores a CA, and has the issuer builtin vouch by those of it that are trusted.
// The issuer keeps its uid, so whoever is bound under it stays bound, and whatever was
// revoked stays so.
func (t *tx) storeCA(s *fsmpb.Secret) error {
	if s.GetName() == callerCA {
		i, ok := lookup[*fsmpb.Issuer](t.txn, tableIssuers, indexID, ownedKey(nil, BuiltinIssuer))
		if !ok {
			return errs.New(errs.StateCorrupt, "the registry has no issuer builtin")
		}
		is := proto.CloneOf(i)
		is.ModIndex, is.Kind = t.index, &fsmpb.Issuer_X509{X509: builtinX509(s, builtinDomain(t.cluster))}
		if err := t.checkAuthorityKeys(is); err != nil {
			return err
		}
		put(t, tableIssuers, is)
		t.listIssuer(is)
		t.authorityMoved()
	}
	put(t, tableSecrets, s)
	return nil
}

// builtinX509 is what the issuer builtin vouches by, of the caller CA.
func builtinX509(s *fsmpb.Secret, domain string) *fsmpb.X509Issuer {
	x := &fsmpb.X509Issuer{Certificates: [][]byte{s.GetPublic()}, TrustDomain: domain}
	for _, p := range s.GetPrevious() {
		x.Certificates, x.RetireTimesMs = append(x.Certificates, p.GetCertificate()), append(x.RetireTimesMs, p.GetRetireTimeMs())
	}
	if len(x.GetRetireTimesMs()) != 0 {
		x.RetireTimesMs = append([]int64{0}, x.GetRetireTimesMs()...)
	}
	return x
}

// replaceAuthority puts a CA in the place of one that may be exposed. People vouched for
// the new one, by its certificate, so it needs no signature of the one before and begins a
// new lineage; it may have one for those who trust the one before.
func (t *tx) replaceAuthority(s *fsmpb.Secret, overlapMS int64) error {
	was, err := t.replaceable(s, overlapMS)
	if err != nil {
		return err
	}
	return t.replace(was, s, nil, overlapMS)
}

// replaceable returns the CA that s would take the place of.
func (t *tx) replaceable(s *fsmpb.Secret, overlapMS int64) (*fsmpb.Secret, error) {
	was, err := t.authorityOf(s.GetName())
	if err != nil {
		return nil, err
	}
	switch {
	case s.GetModIndex() != 0 || len(s.GetPrevious()) != 0 || len(s.GetLineage()) != 0:
		return nil, invalid("the command sets what only its application can know")
	case overlapMS < 0 || overlapMS > MaxOverlapMS:
		return nil, wrong("a replaced CA is trusted for 0 to 30 days", "give a time in that range")
	case len(s.GetBlob()) == 0 || len(s.GetBlob()) > MaxBlobBytes:
		return nil, invalid("the wrapped key of the new CA is missing or too large")
	case sameKeyIn(s.GetPublic(), was.GetPublic()):
		return nil, invalid("the new CA has the key of the present one")
	}
	return was, t.ivkInForce(s.GetIvkUid())
}

// authorityOf returns a CA of the cluster.
func (t *tx) authorityOf(name string) (*fsmpb.Secret, error) {
	s, ok := lookup[*fsmpb.Secret](t.txn, tableSecrets, indexID, []byte(name))
	if !ok || !IsAuthority(name) {
		return nil, errs.New(errs.NotFound, "the cluster has no CA of this name", errs.Hint("%s or %s", callerCA, nodeCA))
	}
	if _, ok := spkiOf(s.GetPublic()); !ok {
		return nil, errs.New(errs.FailedState, "the certificate of the CA is no certificate in DER")
	}
	return s, nil
}

// sawCA refuses what was signed for another CA than the present one.
func sawCA(s *fsmpb.Secret, base []byte, etag uint64) error {
	if err := checkEtag(etag, s.GetModIndex()); err != nil {
		return err
	}
	if sum := sha256.Sum256(s.GetPublic()); !bytes.Equal(sum[:], base) {
		return errs.New(errs.Aborted, "the CA is not the one that the request names", errs.Hint("look which it is, and ask again: krypton operator ca show"))
	}
	return nil
}

// succeedAuthority replaces a CA outside of an exposure (I40). No replica could tell whose
// key a new CA has; what each can tell is that the one before signed it. So a node that
// forwards a command, or any that is sealed, cannot become the CA, whatever people signed.
func (t *tx) succeedAuthority(c *fsmpb.ReplaceAuthority) (done, error) {
	s := c.GetSecret()
	was, err := t.replaceable(s, c.GetOverlapMs())
	if err != nil {
		return done{}, err
	}
	if err := sawCA(was, c.GetBase(), c.GetEtag()); err != nil {
		return done{}, err
	}
	cross := s.GetCrossCertificate()
	anchor, known := Anchor(t.cluster, s.GetName())
	switch {
	case !signedBy(cross, was.GetPublic()) || !isCA(cross):
		return done{}, errs.New(errs.IntentRefused, "the CA before did not sign the new one", errs.Hint("find out which node asked for this"))
	case len(was.GetLineage()) >= MaxLineage:
		return done{}, errs.Newf(errs.LimitReached, "the CA was replaced %d times since people vouched for it, which is the limit", MaxLineage).
			With(errs.Hint("a ceremony of a new MasterKey begins anew: krypton ceremony start rekey --compromised"))
	case !known || !Descends(anchor, was):
		return done{}, errs.New(errs.StateCorrupt, "the present CA does not come from the one that people vouched for")
	case live(was, t.timeMS) >= MaxRetiring && c.GetOverlapMs() != 0:
		return done{}, errs.Newf(errs.LimitReached, "%d CAs before the present one are still trusted, which is the limit", MaxRetiring).
			With(errs.Hint("retire them first: krypton operator ca retire %s", s.GetName()))
	}
	if t.exposureOpen() {
		return done{}, errs.New(errs.FailedState, "a rekey of an exposed MasterKey is staged, which brings CAs of its own", errs.Hint("commit or cancel it first: krypton ceremony status"))
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	if err := t.replace(was, s, append(slices.Clone(was.GetLineage()), cross), c.GetOverlapMs()); err != nil {
		return done{}, err
	}
	return done{object: AuthorityName(s.GetName())}, nil
}

// AuthorityName returns the name under which results and records speak of a CA.
func AuthorityName(name string) string { return "authorities/" + name }

// live counts the CAs before s that are still trusted.
func live(s *fsmpb.Secret, nowMS int64) (n int) {
	for _, p := range s.GetPrevious() {
		if p.GetRetireTimeMs() > nowMS {
			n++
		}
	}
	return n
}

// exposureOpen reports whether a ceremony staged CAs that take the place of the present
// ones: its confirmation is over those, and its cross certificates are by these.
func (t *tx) exposureOpen() bool {
	c, ok := openCeremony(state{txn: t.txn})
	return ok && len(c.GetRekey().GetNewAuthorities()) != 0
}

// retireAuthority ends the trust in every CA before the present one.
func (t *tx) retireAuthority(c *fsmpb.RetireAuthority) (done, error) {
	was, err := t.authorityOf(c.GetName())
	if err != nil {
		return done{}, err
	}
	if err := sawCA(was, c.GetBase(), c.GetEtag()); err != nil {
		return done{}, err
	}
	if live(was, t.timeMS) == 0 {
		return done{}, errs.New(errs.FailedState, "no CA before the present one is trusted", errs.Hint("nothing is left to do"))
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	is := proto.CloneOf(was)
	is.ModIndex = t.index
	for _, p := range is.GetPrevious() {
		p.RetireTimeMs = retiredMS
	}
	if err := t.storeCA(is); err != nil {
		return done{}, err
	}
	return done{object: AuthorityName(c.GetName())}, nil
}

func replaceRequest(c *fsmpb.ReplaceAuthority) *intent.Request {
	return intent.ReplaceAuthority{Name: c.GetSecret().GetName(), Base: c.GetBase(), OverlapMs: uint64(max(c.GetOverlapMs(), 0))}.Request()
}

func retireRequest(c *fsmpb.RetireAuthority) *intent.Request {
	return intent.RetireAuthority{Name: c.GetName(), Base: c.GetBase()}.Request()
}
