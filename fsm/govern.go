package fsm

import (
	"bytes"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxTenantGovernors bounds the governors that a tenant lists.
const MaxTenantGovernors = 16

// setRow counts the tenants that list exactly the same governors. Tenants are
// many and their lists few, so what a governor's leaving would do to all of them
// is seen without looking at each.
type setRow struct {
	member string // uid of one of the list; sixteen zero bytes: the list itself
	set    string // the uids of the list, one behind the other
	n      int
}

func setKeyOf(s setRow) ([]byte, bool) { return []byte(s.member + s.set), true }

// setsOf returns the rows of a list of governors, each with n 1.
func setsOf(governors [][]byte) []setRow {
	set := string(concat(governors...))
	rows := []setRow{{member: string(ownerKey(nil)), set: set, n: 1}}
	for _, uid := range governors {
		rows = append(rows, setRow{member: string(uid), set: set, n: 1})
	}
	return rows
}

// countSet notes that by tenants more, or less, list these governors.
func (t *tx) countSet(governors [][]byte, by int) {
	for _, r := range setsOf(governors) {
		key, _ := setKeyOf(r)
		was, _ := lookup[setRow](t.txn, tableSets, indexID, key)
		if r.n = was.n + by; r.n == 0 {
			drop(t, tableSets, r)
		} else {
			put(t, tableSets, r)
		}
	}
}

// need is how many must be left of those who hold a power: one, and as many as the
// largest rule asks for, with the governor who asks where that one does not count.
// signing: a rule asks for some, so they must be able to.
type need struct {
	n       int
	signing bool
	signers int // what the rule asks for, without who asks
}

// needed returns how many of a role must be left, for the acts that picks picks.
func (t *tx) needed(role auth.Role, picks func(intent.Act) bool) need {
	w := need{n: 1, signers: 1}
	for _, act := range intent.Acts() {
		rule, needed := RuleFor(t.cluster.GetRules(), act)
		if !needed || !picks(act) {
			continue
		}
		n, asker := rule.Governors, 0
		if role == auth.RoleCustodian {
			n = rule.Custodians
		} else if rule.Requester == intent.RequesterExcluded {
			asker = 1
		}
		if n > 0 {
			w.n, w.signers, w.signing = max(w.n, n+asker), max(w.signers, n), true
		}
	}
	return w
}

// loaded is what a snapshot must have. A cluster that was founded, or a tenant that
// was made, with nobody besides those who sign is a state, though not a good one.
func (w need) loaded() need {
	w.n = w.signers
	return w
}

func everyAct(intent.Act) bool { return true }

// insideTenant reports whether an act can be about what is inside a tenant, whose
// governors alone then sign.
func insideTenant(a intent.Act) bool {
	switch a { //nolint:exhaustive // The others are about the cluster, or about tenants as a whole.
	case intent.ActSetPolicy, intent.ActBindRole, intent.ActRebindL1, intent.ActResumeAfterUnlink, intent.ActDestroy,
		intent.ActRecoveryGrant, intent.ActSetIssuer:
		return true
	}
	return false
}

// counts reports whether a binding counts as one that is left: it has no end, and
// a key to sign with where that is needed.
func (w need) counts(b *fsmpb.RoleBinding) bool {
	if b.GetExpireTimeMs() != 0 {
		return false
	}
	for _, k := range b.GetKeys() {
		if k.GetSign() {
			return true
		}
	}
	return !w.signing
}

// mayLeave refuses to remove a binding without which nobody, or too few for the
// rules, could govern the platform, or a tenant, or hold the MasterKey's shares
// (I22): whoever must go is replaced first.
func (t *tx) mayLeave(b *fsmpb.RoleBinding) error {
	switch b.GetRole() {
	case auth.RoleCustodian.String():
		if w := t.needed(auth.RoleCustodian, everyAct); w.counts(b) && !t.enough(powerKey(b), w, b.GetUid()) {
			return errs.New(errs.FailedState, "too few custodians would be left", errs.Hint("bind another custodian, without an expiry, first"))
		}
	case auth.RoleGovernor.String():
		if w := t.needed(auth.RoleGovernor, everyAct); b.GetPlatform() && w.counts(b) && !t.enough(powerKey(b), w, b.GetUid()) {
			return errs.New(errs.FailedState, "too few governors of the platform would be left", errs.Hint("bind another one, without an expiry, first"))
		}
		if !t.tenantsGoverned(b) {
			return errs.New(errs.FailedState, "a tenant would be left with too few governors", errs.Hint("have the governors of its tenants name others first"))
		}
	}
	return nil
}

// powerKey is the key in [indexPower] of all that hold the same power as b.
func powerKey(b *fsmpb.RoleBinding) []byte {
	kind := byte(0)
	if b.GetPlatform() {
		kind = 1
	}
	return append(appendPart(nil, b.GetRole()), kind)
}

// enough reports whether without that one still enough hold the power.
func (t *tx) enough(power []byte, w need, without []byte) bool {
	left := 0
	scan(t.txn, tableBindings, indexPower, power, nil, func(b *fsmpb.RoleBinding) bool {
		if !bytes.Equal(b.GetUid(), without) && w.counts(b) {
			left++
		}
		return left < w.n
	})
	return left >= w.n
}

// tenantsGoverned reports whether without b every tenant still has enough governors.
func (t *tx) tenantsGoverned(b *fsmpb.RoleBinding) bool {
	w := t.needed(auth.RoleGovernor, insideTenant)
	if !w.counts(b) {
		return true
	}
	prefix := b.GetUid()
	if b.GetEveryTenant() {
		prefix = ownerKey(nil)
	}
	every := t.everywhere(w, b.GetUid())
	left := true
	scan(t.txn, tableSets, indexID, prefix, nil, func(s setRow) bool {
		left = t.enoughOf([]byte(s.set), w, b.GetUid(), w.n-every)
		return left
	})
	return left
}

// everywhere returns how many govern every tenant, up to as many as are needed.
func (t *tx) everywhere(w need, without []byte) (n int) {
	platform := powerKey(&fsmpb.RoleBinding{Role: auth.RoleGovernor.String(), Platform: true})
	scan(t.txn, tableBindings, indexPower, platform, nil, func(b *fsmpb.RoleBinding) bool {
		if b.GetEveryTenant() && w.counts(b) && !bytes.Equal(b.GetUid(), without) {
			n++
		}
		return n < w.n
	})
	return n
}

// enoughOf reports whether a list of governors has at least n who count, that one
// and those who govern every tenant left out.
func (t *tx) enoughOf(set []byte, w need, without []byte, n int) bool {
	for ; n > 0 && len(set) >= hierarchy.UIDSize; set = set[hierarchy.UIDSize:] {
		uid := set[:hierarchy.UIDSize]
		b, ok := bindingAt(t.txn, indexUID, uid)
		if ok && !bytes.Equal(uid, without) && b.GetRole() == auth.RoleGovernor.String() && !b.GetEveryTenant() && w.counts(b) {
			n--
		}
	}
	return n <= 0
}

// checkGovernors refuses a list of governors under which nobody, or too few for
// the rules, would govern the tenant.
func (t *tx) checkGovernors(governors [][]byte) error {
	if len(governors) == 0 || len(governors) > MaxTenantGovernors || !ascendingUIDs(governors) {
		return errs.New(errs.InvalidArgument, "a tenant has 1 to 16 governors, each once", errs.Hint("name them by their role bindings"))
	}
	for _, uid := range governors {
		if b, ok := bindingAt(t.txn, indexUID, uid); !ok || b.GetRole() != auth.RoleGovernor.String() || Expired(b, t.timeMS) {
			return errs.New(errs.NotFound, "one of the governors is not bound as a governor", errs.Hint("bind them first: krypton lists who is bound"))
		}
	}
	w := t.needed(auth.RoleGovernor, insideTenant)
	if !t.enoughOf(concat(governors...), w, nil, w.n-t.everywhere(w, nil)) {
		return errs.Newf(errs.FailedState, "a tenant needs %d governors whose bindings have no expiry", w.n).
			With(errs.Hint("name more governors, such as the rules for signatures ask for"))
	}
	return nil
}

// governorsOf returns who governs the tenant that a command makes: whom it names,
// or whoever asks.
func (t *tx) governorsOf(c *fsmpb.CreateTenant) ([][]byte, error) {
	if t.cluster.GetFormatVersion() < FormatAuthority {
		if len(c.GetGovernors()) != 0 {
			return nil, errNoAuthority()
		}
		return nil, nil
	}
	governors := c.GetGovernors()
	if len(governors) == 0 {
		if _, signed := RuleFor(t.cluster.GetRules(), intent.ActBindL1); signed {
			// Who asked is what the node that let it in says; who signs must see it.
			return nil, errs.New(errs.InvalidArgument, "a tenant for which people sign names its governors", errs.Hint("name the governors of the tenant"))
		}
		b, ok := t.requester()
		if !ok {
			return nil, errs.New(errs.InvalidArgument, "the command names no governors of the tenant")
		}
		governors = [][]byte{b.GetUid()}
	}
	return governors, t.checkGovernors(governors)
}

// setTenantGovernors says who governs a tenant from now on.
func (t *tx) setTenantGovernors(c *fsmpb.SetTenantGovernors) (done, error) {
	if c.GetTenant() == "" {
		return done{}, invalid("the command names no tenant")
	}
	if err := t.ownerOf(c.GetTenant(), c.GetTenantUid()); err != nil {
		return done{}, err
	}
	was, _ := lookup[*fsmpb.Tenant](t.txn, tableTenants, indexUID, c.GetTenantUid())
	if err := checkEtag(c.GetEtag(), was.GetModIndex()); err != nil {
		return done{}, err
	}
	if err := t.checkGovernors(c.GetGovernors()); err != nil {
		return done{}, err
	}
	if _, err := t.authorize(); err != nil {
		return done{}, err
	}
	is := copyTenant(was)
	is.Governors, is.ModIndex = c.GetGovernors(), t.index
	t.countSet(was.GetGovernors(), -1)
	t.countSet(is.GetGovernors(), 1)
	t.putTenant(was, is)
	t.authorityMoved()
	return done{object: tenantName(is.GetName()), uid: is.GetUid()}, nil
}
