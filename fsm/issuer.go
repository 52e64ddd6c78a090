package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of issuers.
const (
	MaxIssuers            = 1_000      // of a cluster, those of tenants too
	MaxIssuersPerOwner    = 256        // of the cluster itself, and of one tenant
	MaxIssuerCertificates = 4          // CA certificates of one issuer
	MaxIssuerTenants      = 1_000      // tenants that an issuer is limited to
	MaxIssuerURLBytes     = 512        // of the URL of a jwt issuer
	MaxAudiences          = 8          // of a jwt issuer
	MaxAudienceBytes      = 256        // of one audience
	MaxIssuerKeysBytes    = 64 << 10   // of the key set of a jwt issuer
	MaxIssuerSkewMS       = 5 * 60000  // by how much the clock of a jwt issuer may differ, in milliseconds
	MaxSubjectClaimBytes  = 64         // of the name of a claim
	MaxTokenLifeS         = 30 * 86400 // longest life of a token that an issuer may allow, in seconds
	MaxSubjectBytes       = 512        // of the subject of a role binding
)

const (
	callerCA            = "caller-ca" // the internal secret that the issuer builtin is
	builtinDomainSuffix = ".krypton"

	uidLabel        = "krypton/v1/authority-uid"
	bindingUIDLabel = "krypton/v1/binding-uid"

	subjectURI  = "uri:"
	subjectCN   = "cn:"
	httpsScheme = "https://"
)

func issuerName(tenant, id string) string {
	return hierarchy.IssuerPath(hierarchy.Name(tenant), hierarchy.Name(id)).String()
}

// newUID returns the uid of the object that this command makes. A command makes
// one at most, so its index names it; who proposes it has no say, and could else
// give a new person the uid of one who is gone and still listed by a tenant.
func (t *tx) newUID() []byte {
	b := appendPart(appendPart(nil, uidLabel), t.cluster.GetClusterId())
	sum := sha256.Sum256(appendPart(b, indexBytes(t.index)))
	return sum[:hierarchy.UIDSize]
}

// rolesOf reads a list of roles, in the order of their numbers, none twice.
func rolesOf(names []string) (roles []auth.Role, ok bool) {
	for _, n := range names {
		r, err := auth.ParseRole(n)
		if err != nil || len(roles) > 0 && roles[len(roles)-1] >= r {
			return nil, false
		}
		roles = append(roles, r)
	}
	return roles, true
}

// ascendingUIDs reports whether all are uids, in ascending order.
func ascendingUIDs(uids [][]byte) bool {
	for i, u := range uids {
		if len(u) != hierarchy.UIDSize || uidOf(u).IsZero() || i > 0 && bytes.Compare(uids[i-1], u) >= 0 {
			return false
		}
	}
	return true
}

// checkIssuer checks what an issuer says by itself, in a command and in a snapshot.
func checkIssuer(i *fsmpb.Issuer) error {
	if err := checkName(i.GetId()); err != nil {
		return err
	}
	roles, ok := rolesOf(i.GetRoles())
	unbound, okUnbound := rolesOf(i.GetUnboundRoles())
	switch {
	case !ok || !okUnbound || len(roles) == 0:
		return errs.New(errs.InvalidArgument, "an issuer has no roles that it may vouch for, or not in their order",
			errs.Hint("governor, custodian, operator, auditor, workload: in this order, each once"))
	case slices.ContainsFunc(unbound, func(r auth.Role) bool { return !slices.Contains(roles, r) }):
		return wrong("a role that needs no binding is none that the issuer may vouch for",
			"name it among the roles, too, or leave it out")
	case !ascendingUIDs(i.GetTenantUids()) || len(i.GetTenantUids()) > MaxIssuerTenants:
		return invalid("the tenants of an issuer are not at most 1000 uids in ascending order")
	case i.GetAllTenants() && len(i.GetTenantUids()) != 0:
		return wrong("an issuer is for all tenants or for some, not both",
			"give the tenants, or all_tenants")
	case i.GetTenant() == "" && len(i.GetTenantUid()) != 0, i.GetTenant() != "" && len(i.GetTenantUid()) != hierarchy.UIDSize:
		return invalid("an issuer names a tenant without its uid, or a uid without its tenant")
	case i.GetTenant() != "" && (!slices.Equal(roles, []auth.Role{auth.RoleWorkload}) || i.GetAllTenants() || len(i.GetTenantUids()) != 0):
		return errs.New(errs.InvalidArgument, "an issuer of a tenant vouches for workloads of that tenant only",
			errs.Hint("a platform governor registers an issuer that vouches for more"))
	}
	switch k := i.GetKind().(type) {
	case *fsmpb.Issuer_X509:
		return checkX509Issuer(i, k.X509, unbound)
	case *fsmpb.Issuer_Jwt:
		if len(unbound) != 0 {
			return errs.New(errs.InvalidArgument, "whom a token names needs a role binding, whatever the role", errs.Hint("register the issuer without unbound roles"))
		}
		return checkJWTIssuer(i, k.Jwt)
	}
	return invalid("an issuer vouches by certificates or by tokens")
}

func checkX509Issuer(i *fsmpb.Issuer, x *fsmpb.X509Issuer, unbound []auth.Role) error {
	if n := len(x.GetCertificates()); n == 0 || n > MaxIssuerCertificates {
		return wrong("an issuer has 1 to 4 CA certificates",
			"give the present one and those that it replaces")
	}
	keys := make(map[string]bool)
	for _, c := range x.GetCertificates() {
		spki, ok := spkiOf(c)
		if !ok || keys[string(spki)] {
			return wrong("a CA certificate of the issuer is no certificate in DER of at most 8 KiB, or there twice",
				"give each CA certificate once")
		}
		keys[string(spki)] = true
	}
	builtin := isBuiltin(i)
	if n := len(x.GetRetireTimesMs()); n != 0 && (!builtin || n != len(x.GetCertificates())) {
		return invalid("only CAs of the cluster itself retire")
	}
	for _, r := range unbound {
		switch {
		case isPower(r.String()):
			return wrong("a governor and a custodian need a role binding, whoever vouches for them",
				"leave governor and custodian out of the unbound roles")
		case r != auth.RoleWorkload && !builtin:
			return wrong("of this issuer only workloads may go without a role binding",
				"bind everybody else: krypton role bind")
		}
	}
	switch {
	case x.GetTrustDomain() != "" && !auth.ValidTrustDomain(x.GetTrustDomain()):
		return wrong("the trust domain is none",
			"lower-case letters, digits, '.', '-' and '_', as in the URI names behind spiffe://; or none")
	case x.GetTrustDomain() == "" && len(unbound) != 0:
		return errs.New(errs.InvalidArgument, "roles without binding need a trust domain", errs.Hint("name the trust domain of the URIs in the certificates"))
	}
	return nil
}

func checkJWTIssuer(i *fsmpb.Issuer, j *fsmpb.JWTIssuer) error {
	host, https := strings.CutPrefix(j.GetUrl(), httpsScheme)
	switch {
	case !https || host == "" || !printable(j.GetUrl(), MaxIssuerURLBytes):
		return errs.New(errs.InvalidArgument, "the URL of the issuer is no https URL of at most 512 bytes", errs.Hint("give the claim iss of its tokens"))
	case len(j.GetAudiences()) == 0 || len(j.GetAudiences()) > MaxAudiences:
		return wrong("an issuer of tokens has 1 to 8 audiences",
			"give what its tokens have in the claim aud for this cluster")
	case len(j.GetCa()) > MaxIssuerCertificates:
		return wrong("an issuer of tokens has up to 4 CA certificates for the fetch",
			"give the present one and those that it replaces")
	case len(j.GetKeys()) > MaxIssuerKeysBytes || !utf8.Valid(j.GetKeys()):
		return wrong("the key set of the issuer is larger than 64 KiB, or no text",
			"give a JSON Web Key Set with the keys that sign now, or none to have it fetched")
	case j.GetSkewMs() > MaxIssuerSkewMS:
		return wrong("clocks may differ by five minutes at most",
			"set the clocks right")
	case !printable(j.GetSubjectClaim(), MaxSubjectClaimBytes):
		return wrong("the subject claim is no name of a claim",
			"give the name of a claim, such as sub or email, or none for sub")
	}
	if j.GetMaxLifeS() > MaxTokenLifeS {
		return wrong("a token may live for 30 days at most", "give a shorter life, or none for a day")
	}
	for n, a := range j.GetAudiences() {
		own, ofTenant := TenantAudience(i.GetTenant()), strings.HasPrefix(a, tenantAudience)
		switch {
		case a == "" || !printable(a, MaxAudienceBytes) || slices.Contains(j.GetAudiences()[:n], a):
			return wrong("an audience is empty, too long, not printable or there twice",
				"give what the tokens have in the claim aud for this cluster, each once")
		case i.GetTenant() != "" && a != own && !strings.HasPrefix(a, own+"/"):
			return errs.New(errs.InvalidArgument, "an audience of a tenant's own issuer does not name the tenant",
				errs.Hint("have tokens made for the audience %s, or for one that begins with %s/", own, own))
		case i.GetTenant() == "" && ofTenant:
			return errs.New(errs.InvalidArgument, "the audience is one of a tenant's own issuer", errs.Hint("choose another audience, or register the issuer under the tenant"))
		}
	}
	for _, c := range j.GetCa() {
		if _, ok := spkiOf(c); !ok {
			return wrong("a CA certificate for the fetch is no certificate in DER of at most 8 KiB",
				"give PEM certificates of the CA that signed the provider's")
		}
	}
	return nil
}

func isBuiltin(i *fsmpb.Issuer) bool { return len(i.GetTenantUid()) == 0 && i.GetId() == BuiltinIssuer }

// builtinUID is what auth calls the issuer of the caller CA.
func builtinUID(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:hierarchy.UIDSize]
}

// putIssuer makes an issuer, or replaces what it says.
func (t *tx) putIssuer(c *fsmpb.PutIssuer) (done, error) {
	in := c.GetIssuer()
	switch {
	case len(in.GetUid()) != 0 || in.GetCreateTimeMs() != 0 || in.GetModIndex() != 0 || len(in.GetAuthorizedBy()) != 0 || in.GetStrictExpiry() ||
		len(in.GetX509().GetRetireTimesMs()) != 0:
		return done{}, invalid("the command sets what only its application can know")
	case c.GetIssuer() == nil:
		return done{}, invalid("the command names no issuer")
	}
	if err := t.ownerOf(in.GetTenant(), in.GetTenantUid()); err != nil {
		return done{}, err
	}
	if err := checkIssuer(in); err != nil {
		return done{}, err
	}
	if err := t.checkIssuerHere(in); err != nil {
		return done{}, err
	}
	is := proto.CloneOf(in)
	was, ok := lookup[*fsmpb.Issuer](t.txn, tableIssuers, indexID, ownedKey(in.GetTenantUid(), in.GetId()))
	if ok && c.GetCreate() {
		return done{}, errs.New(errs.AlreadyExists, "an issuer of this name exists already", errs.Hint("read it, then change it: krypton issuer update"))
	}
	if err := checkEtag(c.GetEtag(), was.GetModIndex()); err != nil {
		return done{}, err
	}
	if ok {
		is.Uid, is.CreateTimeMs, is.StrictExpiry = was.GetUid(), was.GetCreateTimeMs(), was.GetStrictExpiry()
		if isBuiltin(was) && is.GetX509() != nil {
			is.GetX509().RetireTimesMs = was.GetX509().GetRetireTimesMs()
		}
		if err := t.mayReplace(was, is); err != nil {
			return done{}, err
		}
	} else {
		is.Uid, is.CreateTimeMs = t.newUID(), t.timeMS
		if err := t.roomForIssuer(in.GetTenantUid()); err != nil {
			return done{}, err
		}
	}
	if err := t.checkAuthorityKeys(is); err != nil {
		return done{}, err
	}
	if err := t.tokensApart(is); err != nil {
		return done{}, err
	}
	by, err := t.authorize()
	if err != nil {
		return done{}, err
	}
	is.ModIndex, is.AuthorizedBy = t.index, by
	if !ok {
		t.issuerRows++
	}
	put(t, tableIssuers, is)
	t.listIssuer(is)
	t.authorityMoved()
	return done{object: issuerName(is.GetTenant(), is.GetId()), uid: is.GetUid()}, nil
}

// ownerOf refuses what is for a tenant that is not there, not any more, or another
// one of the same name.
func (t *tx) ownerOf(tenant string, uid []byte) error {
	if tenant == "" {
		if len(uid) != 0 {
			return invalid("the command names a tenant's uid without its name")
		}
		return nil
	}
	o, err := t.findKeyed(&fsmpb.ObjectRef{Tenant: tenant})
	if err != nil {
		return err
	}
	if err := o.alive(); err != nil {
		return err
	}
	if !bytes.Equal(o.tenant.GetUid(), uid) {
		return moved("the tenant")
	}
	return nil
}

// checkIssuerHere checks an issuer against the rest of the state.
func (t *tx) checkIssuerHere(i *fsmpb.Issuer) error {
	for _, uid := range i.GetTenantUids() {
		if !ownerCounts(t.txn, uid) {
			return errs.New(errs.NotFound, "a tenant that the issuer is limited to does not exist", errs.Hint("leave out the tenants that were destroyed"))
		}
	}
	if isBuiltin(i) {
		return nil // it stays what it is; see mayReplace
	}
	for _, c := range i.GetX509().GetCertificates() {
		spki, _ := spkiOf(c)
		if b, ok := issuerByUID(t.txn, builtinUID(spki)); ok && isBuiltin(b) {
			// Its certificates would count without the keys of their bindings.
			return errs.New(errs.InvalidArgument, "the CA of the cluster is the issuer builtin and no other", errs.Hint("bind its certificates under builtin"))
		}
	}
	return nil
}

// tokensApart refuses an issuer whose tokens could be those of another one of the
// same owner: nobody could tell whose they are, and both would be refused. Those of
// other owners have other audiences ([TenantAudience]), so that no tenant can stand
// in the way of another, or learn what it uses.
func (t *tx) tokensApart(i *fsmpb.Issuer) error {
	if i.GetJwt() == nil {
		return nil
	}
	var err error
	scan(t.txn, tableIssuers, indexID, ownerKey(i.GetTenantUid()), nil, func(o *fsmpb.Issuer) bool {
		if o.GetId() == i.GetId() || o.GetJwt().GetUrl() != i.GetJwt().GetUrl() {
			return true
		}
		for _, a := range i.GetJwt().GetAudiences() {
			if slices.Contains(o.GetJwt().GetAudiences(), a) {
				err = errs.New(errs.AlreadyExists, "another issuer has the same URL and audience", errs.Hint("change that one: krypton issuer update %s", o.GetId()))
			}
		}
		return err == nil
	})
	return err
}

// tenantAudience begins the audiences of tenants' own issuers.
const tenantAudience = "krypton:tenants/"

// TenantAudience returns the audience for which tokens of a tenant's own issuers are
// made; others begin with it and a slash. A token that one tenant's workload shows
// is thereby worthless under another tenant, also where both trust one provider.
func TenantAudience(tenant string) string { return tenantAudience + tenant }

// checkAuthorityKeys refuses a CA that another issuer has. Nobody could tell whose
// callers are whose, and a tenant could take the callers of another one over by
// registering their CA, which is no secret.
func (t *tx) checkAuthorityKeys(i *fsmpb.Issuer) error {
	own := map[string]bool{}
	for _, c := range i.GetX509().GetCertificates() {
		if spki, ok := spkiOf(c); ok {
			own[string(spki)] = true
		}
	}
	if len(own) == 0 {
		return nil
	}
	for _, other := range t.issuers {
		if other.GetId() == i.GetId() && bytes.Equal(other.GetTenantUid(), i.GetTenantUid()) {
			continue // what it was before
		}
		for _, c := range other.GetX509().GetCertificates() {
			if spki, ok := spkiOf(c); ok && own[string(spki)] {
				return errs.New(errs.AlreadyExists, "another issuer has one of these CAs already",
					errs.Hint("bind its callers under that issuer, or use a CA of your own; a platform governor sees every issuer"))
			}
		}
	}
	return nil
}

func (t *tx) roomForIssuer(tenantUID []byte) error {
	own := 0
	for _, i := range t.issuers {
		if bytes.Equal(i.GetTenantUid(), tenantUID) {
			own++
		}
	}
	switch {
	case t.issuerRows >= MaxIssuers:
		return limit("issuers", MaxIssuers)
	case own >= MaxIssuersPerOwner:
		return limit("issuers of this owner", MaxIssuersPerOwner)
	}
	return nil
}

// mayReplace refuses to make another issuer of one, and limits that exclude what
// is bound under it (I23). Whoever wants that removes the bindings first, and sees
// whom it concerns.
func (t *tx) mayReplace(was, is *fsmpb.Issuer) error {
	if isBuiltin(was) {
		same := proto.CloneOf(is)
		same.UnboundRoles, same.ModIndex, same.AuthorizedBy = was.GetUnboundRoles(), was.GetModIndex(), was.GetAuthorizedBy()
		if !proto.Equal(same, was) {
			return errs.New(errs.FailedState, "of the issuer builtin only the roles without binding can be changed", errs.Hint("register another issuer"))
		}
		return nil
	}
	if (was.GetX509() == nil) != (is.GetX509() == nil) {
		return errs.New(errs.FailedState, "an issuer of certificates does not become one of tokens, nor the other way round", errs.Hint("register another issuer"))
	}
	for _, r := range was.GetRoles() {
		if !slices.Contains(is.GetRoles(), r) && t.boundUnder(is.GetUid(), r, nil) {
			return errs.New(errs.FailedState, "somebody is bound in a role that the issuer would not vouch for any more", errs.Hint("remove those role bindings first"))
		}
	}
	if t.boundBeyond(is) {
		return errs.New(errs.FailedState, "a workload is bound in a tenant that the issuer would not vouch for any more", errs.Hint("remove those role bindings first"))
	}
	return nil
}

// boundUnder reports whether anybody is bound under an issuer: in a role if it is
// not empty, and in a tenant if that is not.
func (t *tx) boundUnder(issuerUID []byte, role string, tenantUID []byte) bool {
	key := concat(issuerUID)
	if role != "" {
		key = appendPart(key, role)
	}
	found := false
	scan(t.txn, tableBindings, indexIdentity, concat(key, tenantUID), nil, func(*fsmpb.RoleBinding) bool {
		found = true
		return false
	})
	return found
}

// boundBeyond reports whether a workload is bound under an issuer in a tenant that
// it does not vouch for. It skips from tenant to tenant.
func (t *tx) boundBeyond(i *fsmpb.Issuer) bool {
	if i.GetAllTenants() || i.GetTenant() != "" {
		return false
	}
	prefix := appendPart(concat(i.GetUid()), auth.RoleWorkload.String())
	at, beyond := concat(prefix, make([]byte, hierarchy.UIDSize)), false
	for more := true; more && !beyond; {
		more = false
		scan(t.txn, tableBindings, indexIdentity, nil, at, func(b *fsmpb.RoleBinding) bool {
			if !bytes.Equal(b.GetIssuerUid(), i.GetUid()) || b.GetRole() != auth.RoleWorkload.String() {
				return false
			}
			if !t.voidOwner(b) {
				beyond = !vouchesFor(i, b.GetTenantUid())
			}
			// The last key of that tenant: names have no byte 0xff.
			at, more = concat(prefix, b.GetTenantUid(), []byte{0xff}), true
			return false
		})
	}
	return beyond
}

func vouchesFor(i *fsmpb.Issuer, tenantUID []byte) bool {
	if len(i.GetTenantUid()) != 0 {
		return bytes.Equal(i.GetTenantUid(), tenantUID)
	}
	if i.GetAllTenants() {
		return true
	}
	_, ok := slices.BinarySearchFunc(i.GetTenantUids(), tenantUID, bytes.Compare)
	return ok
}

// removeIssuer removes an issuer under which nobody is bound.
func (t *tx) removeIssuer(c *fsmpb.RemoveIssuer) (done, error) {
	uid, err := t.liveUID(c.GetTenant())
	if err != nil {
		return done{}, err
	}
	i, ok := lookup[*fsmpb.Issuer](t.txn, tableIssuers, indexID, ownedKey(uid, c.GetId()))
	if !ok {
		return done{}, errs.NoSuchObject()
	}
	switch err := checkEtag(c.GetEtag(), i.GetModIndex()); {
	case err != nil:
		return done{}, err
	case isBuiltin(i):
		return done{}, errs.New(errs.FailedState, "the issuer builtin stays", errs.Hint("remove role bindings under it instead"))
	case t.boundUnder(i.GetUid(), "", nil):
		return done{}, errs.New(errs.FailedState, "somebody is bound under the issuer", errs.Hint("remove those role bindings first"))
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	drop(t, tableIssuers, i)
	t.issuerRows--
	t.unlistIssuers(func(other *fsmpb.Issuer) bool { return other == i })
	t.authorityMoved()
	return done{object: issuerName(i.GetTenant(), i.GetId()), uid: i.GetUid()}, nil
}

// liveUID returns the uid of a tenant that is not destroyed, and none for "".
func (t *tx) liveUID(tenant string) ([]byte, error) {
	if tenant == "" {
		return nil, nil
	}
	o, err := t.findKeyed(&fsmpb.ObjectRef{Tenant: tenant})
	if err != nil {
		return nil, err
	}
	if err := o.alive(); err != nil {
		return nil, err
	}
	return o.tenant.GetUid(), nil
}

// listIssuer puts an issuer into the list that views share, in place of itself. The
// list is made anew: there are at most [MaxIssuers], and they change rarely.
func (t *tx) listIssuer(i *fsmpb.Issuer) {
	key, _ := issuerKeyOf(i)
	at, there := slices.BinarySearchFunc(t.issuers, key, func(other *fsmpb.Issuer, key []byte) int {
		k, _ := issuerKeyOf(other)
		return bytes.Compare(k, key)
	})
	all := slices.Clone(t.issuers)
	if there {
		all[at] = i
	} else {
		all = slices.Insert(all, at, i)
	}
	t.issuers = all
}

func (t *tx) unlistIssuers(gone func(*fsmpb.Issuer) bool) {
	t.issuers = slices.DeleteFunc(slices.Clone(t.issuers), gone)
}

// listIssuers makes the list from what is stored.
func (t *tx) listIssuers() {
	all := make([]*fsmpb.Issuer, 0, t.issuerRows)
	scan(t.txn, tableIssuers, indexID, nil, nil, func(i *fsmpb.Issuer) bool {
		if ownerCounts(t.txn, i.GetTenantUid()) {
			all = append(all, i)
		}
		return true
	})
	t.issuers = all
}

// textual reports whether s is one line of text of 1 to limit bytes.
func textual(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
