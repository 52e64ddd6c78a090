package fsm

import (
	"bytes"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of role bindings.
const (
	MaxBindings    = 100_000 // of a cluster, of people and of workloads
	MaxBindingKeys = 4       // public keys of one
)

func bindingName(tenant, id string) string {
	return hierarchy.RoleBindingPath(hierarchy.Name(tenant), hierarchy.Name(id)).String()
}

// builtinSubject is the subject that a certificate of the caller CA proves.
func builtinSubject(b *fsmpb.RoleBinding) string {
	if b.GetTenant() != "" {
		return b.GetRole() + "/" + b.GetTenant() + "/" + b.GetName()
	}
	return b.GetRole() + "/" + b.GetName()
}

// signingKey reads a public key of the registry.
func signingKey(k *fsmpb.PublicKey) (intent.PublicKey, error) {
	alg := intent.AlgUnspecified
	switch k.GetAlgorithm() {
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519:
		alg = intent.AlgEd25519
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256:
		alg = intent.AlgECDSAP256SHA256
	case fsmpb.KeyAlgorithm_KEY_ALGORITHM_UNSPECIFIED:
	}
	return intent.NewPublicKey(alg, k.GetRaw())
}

// checkRoleBinding checks what a binding says by itself and of its issuer, in a
// command and in a snapshot, and returns the ids of its keys.
func checkRoleBinding(b *fsmpb.RoleBinding, i *fsmpb.Issuer) (keys []intent.KeyID, err error) {
	if err := checkName(b.GetId()); err != nil {
		return nil, err
	}
	role, err := auth.ParseRole(b.GetRole())
	switch {
	case err != nil:
		return nil, errs.New(errs.InvalidArgument, "the role of the binding is none", errs.Hint("governor, custodian, operator, auditor or workload"))
	case b.GetName() == "" || !printable(b.GetName(), auth.MaxName) || strings.Contains(b.GetName(), "/"):
		return nil, wrong("the name of who is bound is missing, too long or not printable",
			"1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")
	case (role == auth.RoleWorkload) != (b.GetTenant() != ""), (b.GetTenant() != "") != (len(b.GetTenantUid()) == hierarchy.UIDSize), b.GetTenant() == "" && len(b.GetTenantUid()) != 0:
		return nil, errs.New(errs.InvalidArgument, "a workload is of one tenant, a person of none", errs.Hint("bind a workload under its tenant, a person under none"))
	case b.GetTenant() != "" && checkName(b.GetTenant()) != nil:
		return nil, invalid("the tenant of the binding is no name")
	case b.GetPlatform() && role != auth.RoleGovernor, b.GetEveryTenant() && !b.GetPlatform():
		return nil, wrong("only a governor is one of the platform",
			"leave platform out")
	case b.GetExpireTimeMs() < 0 || b.GetExpireTimeMs() > maxTimeMS:
		return nil, wrong("the expiry of the binding is out of range",
			"give an earlier time, or none")
	}
	if err := checkVouched(b, role, i); err != nil {
		return nil, err
	}
	if !isBuiltin(i) {
		if len(b.GetKeys()) != 0 {
			return nil, errs.New(errs.InvalidArgument, "only bindings of the issuer builtin have public keys", errs.Hint("leave the keys out: that issuer says who holds which"))
		}
		return nil, nil
	}
	return bindingKeys(b)
}

// checkVouched checks that the issuer may vouch for who is bound, by that subject.
func checkVouched(b *fsmpb.RoleBinding, role auth.Role, i *fsmpb.Issuer) error {
	roles, _ := rolesOf(i.GetRoles())
	may := false
	for _, r := range roles {
		may = may || r == role
	}
	switch {
	case !may:
		return errs.New(errs.FailedState, "the issuer may not vouch for that role", errs.Hint("bind under another issuer, or have its roles changed"))
	case role == auth.RoleWorkload && !vouchesFor(i, b.GetTenantUid()):
		return errs.New(errs.FailedState, "the issuer may not vouch for workloads of that tenant", errs.Hint("bind under another issuer, or have its tenants changed"))
	case !textual(b.GetSubject(), MaxSubjectBytes):
		return wrong("the subject of the binding is missing, longer than 512 bytes, or not one line of text",
			"give what the credential proves: uri:URI or cn:NAME of a certificate, the subject of a token")
	}
	switch uri, cn := strings.HasPrefix(b.GetSubject(), subjectURI), strings.HasPrefix(b.GetSubject(), subjectCN); {
	case isBuiltin(i) && b.GetSubject() != builtinSubject(b):
		return errs.New(errs.InvalidArgument, "a certificate of the issuer builtin proves another subject", errs.Hint("leave the subject out"))
	case !isBuiltin(i) && i.GetX509() != nil && (!uri && !cn || len(b.GetSubject()) <= len(subjectCN) || uri && len(b.GetSubject()) <= len(subjectURI)):
		return errs.New(errs.InvalidArgument, "the subject of a certificate begins with uri: or cn:", errs.Hint("give the whole URI or common name, as it stands in the certificate"))
	}
	return nil
}

// bindingKeys checks the keys of who is bound under builtin.
func bindingKeys(b *fsmpb.RoleBinding) (ids []intent.KeyID, err error) {
	if n := len(b.GetKeys()); n == 0 || n > MaxBindingKeys {
		return nil, wrong("a binding of the issuer builtin has 1 to 4 public keys",
			"give the keys of who is bound: krypton operator cert new-key makes one")
	}
	seen := make(map[intent.KeyID]bool, MaxBindingKeys)
	for _, k := range b.GetKeys() {
		key, err := signingKey(k.GetKey())
		switch {
		case err != nil:
			return nil, wrong("a public key of the binding is not valid: "+err.Error(),
				"Ed25519 or ECDSA P-256: krypton operator cert new-key makes one")
		case seen[key.ID()]:
			return nil, wrong("a public key stands in the binding twice",
				"give each key once, with all its uses")
		case !k.GetSign() && !k.GetTls():
			return nil, wrong("a public key of the binding has no use",
				"say that it is for tls, or to sign with")
		case k.GetSign() && !isPower(b.GetRole()):
			return nil, errs.New(errs.InvalidArgument, "only governors and custodians sign", errs.Hint("give the key for tls only"))
		}
		seen[key.ID()] = true
		ids = append(ids, key.ID())
	}
	return ids, nil
}

// bindRole gives one identity one role (I21).
func (t *tx) bindRole(c *fsmpb.BindRole) (done, error) {
	in := c.GetBinding()
	if len(in.GetUid()) != 0 || in.GetEveryTenant() || in.GetCreateTimeMs() != 0 || in.GetModIndex() != 0 || len(in.GetAuthorizedBy()) != 0 || in.GetStrictExpiry() {
		return done{}, invalid("the command sets what only its application can know")
	}
	if err := t.ownerOf(in.GetTenant(), in.GetTenantUid()); err != nil {
		return done{}, err
	}
	issuer, ok := issuerByUID(t.txn, in.GetIssuerUid())
	if !ok {
		return done{}, errs.New(errs.NotFound, "there is no such issuer", errs.Hint("list the issuers"))
	}
	b := proto.CloneOf(in)
	if isBuiltin(issuer) && b.GetSubject() == "" {
		b.Subject = builtinSubject(b)
	}
	keys, err := checkRoleBinding(b, issuer)
	switch {
	case err != nil:
		return done{}, err
	case !auth.ValidName(b.GetName()):
		return done{}, errs.New(errs.InvalidArgument, "the name of who is bound is none that a caller can have",
			errs.Hint("1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"))
	case b.GetExpireTimeMs() != 0 && b.GetExpireTimeMs() <= t.timeMS:
		return done{}, errs.New(errs.InvalidArgument, "the binding would have expired already", errs.Hint("give a later time, or none; compare the clocks of the nodes"))
	}
	if err := t.roomForBinding(b, keys); err != nil {
		return done{}, err
	}
	by, err := t.authorize()
	if err != nil {
		return done{}, err
	}
	b.Uid, b.CreateTimeMs, b.ModIndex, b.AuthorizedBy = t.newUID(), t.timeMS, t.index, by
	t.storeBinding(b, keys)
	t.authorityMoved()
	return done{object: bindingName(b.GetTenant(), b.GetId()), uid: b.GetUid()}, nil
}

// roomForBinding refuses what would give an identity a second role, a key a second
// holder, or a name a second meaning. What stands in the way and counts for nobody,
// because it has expired or its tenant is destroyed, gives way at once and not
// only with the tick that will remove it.
func (t *tx) roomForBinding(b *fsmpb.RoleBinding, keys []intent.KeyID) error {
	for _, at := range []struct {
		index string
		place []byte
		says  string
	}{
		{indexID, ownedKey(b.GetTenantUid(), b.GetId()), "a role binding of this name exists already"},
		{indexSubject, subjectKey(b.GetIssuerUid(), b.GetSubject()), "this subject of the issuer has a role already"},
		{indexIdentity, identityKey(b.GetIssuerUid(), b.GetRole(), b.GetTenantUid(), b.GetName()), "somebody of this issuer is bound in that role under this name already"},
	} {
		other, ok := lookup[*fsmpb.RoleBinding](t.txn, tableBindings, at.index, at.place)
		if ok && !t.giveWay(other) {
			return errs.New(errs.AlreadyExists, at.says, errs.Hint("read it; a binding never changes: remove it to bind anew"))
		}
	}
	for _, id := range keys {
		k, ok := lookup[keyRow](t.txn, tableKeys, indexID, id[:])
		if !ok {
			continue
		}
		other, _ := lookup[*fsmpb.RoleBinding](t.txn, tableBindings, indexUID, []byte(k.binding))
		if !t.giveWay(other) {
			return errs.New(errs.AlreadyExists, "a public key of the binding is somebody's already", errs.Hint("make a key for this identity alone"))
		}
	}
	if t.bindings >= MaxBindings {
		return limit("role bindings", MaxBindings)
	}
	return nil
}

// giveWay removes a binding that counts for nobody, and reports whether it did.
func (t *tx) giveWay(b *fsmpb.RoleBinding) bool {
	if !Expired(b, t.timeMS) && !t.voidOwner(b) {
		return false
	}
	t.dropBinding(b)
	t.disowned(b.GetTenantUid())
	return true
}

func (t *tx) voidOwner(b *fsmpb.RoleBinding) bool { return !ownerCounts(t.txn, b.GetTenantUid()) }

func (t *tx) storeBinding(b *fsmpb.RoleBinding, keys []intent.KeyID) {
	put(t, tableBindings, b)
	for _, id := range keys {
		put(t, tableKeys, keyRow{id: string(id[:]), binding: string(b.GetUid())})
	}
	t.bindings++
}

func (t *tx) dropBinding(b *fsmpb.RoleBinding) {
	drop(t, tableBindings, b)
	for _, k := range b.GetKeys() {
		if key, err := signingKey(k.GetKey()); err == nil {
			id := key.ID()
			drop(t, tableKeys, keyRow{id: string(id[:])})
		}
	}
	t.bindings--
}

// unbindRole removes a binding. What its holder asks for from this entry on is
// refused by every replica (I20), and what the holder signs counts for nothing.
func (t *tx) unbindRole(c *fsmpb.UnbindRole) (done, error) {
	uid, err := t.liveUID(c.GetTenant())
	if err != nil {
		return done{}, err
	}
	b, ok := lookup[*fsmpb.RoleBinding](t.txn, tableBindings, indexID, ownedKey(uid, c.GetId()))
	if !ok {
		return done{}, errs.NoSuchObject()
	}
	if err := checkEtag(c.GetEtag(), b.GetModIndex()); err != nil {
		return done{}, err
	}
	if err := t.mayLeave(b); err != nil {
		return done{}, err
	}
	req := UnbindRequest(b)
	if _, err := t.verify(req.Act(), req); err != nil {
		return done{}, err
	}
	t.dropBinding(b)
	t.authorityMoved()
	return done{object: bindingName(b.GetTenant(), b.GetId()), uid: bytes.Clone(b.GetUid())}, nil
}
