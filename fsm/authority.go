package fsm

import (
	"bytes"
	"encoding/hex"
	"errors"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// Limits of the nonces of signed intents, which are remembered until the intents
// expire.
const (
	// MaxNonces bounds those of everybody. It takes that many sovereign acts in 30
	// days to reach it.
	MaxNonces = 100_000

	// MaxNoncesPerPerson bounds those of the intents that one person signed, so that
	// nobody uses up the memory of all: a governor of one tenant could else stop every
	// sovereign act for 30 days, and what takes that governor's role away is one.
	MaxNoncesPerPerson = 5_000
)

// authorize verifies the signatures of people over the command, if the cluster's
// rules ask for them for what it does (I8), and returns what is stored of them.
func (t *tx) authorize() ([]*fsmpb.SignedIntent, error) {
	act, req, ok := SovereignRequest(t.cmd)
	if !ok {
		return nil, nil
	}
	return t.verify(act, req)
}

func (t *tx) verify(act intent.Act, req *intent.Request) ([]*fsmpb.SignedIntent, error) {
	if mutation.On(mutation.SkipIntents) {
		return nil, nil
	}
	if t.approval != nil {
		return t.verifyApproved(req)
	}
	rule, needed := ruleOf(t.cluster.GetRules(), req)
	if !needed {
		return nil, nil // and what was sent nevertheless proves nothing
	}
	if t.forecast && len(t.cmd.GetIntents()) == 0 {
		return nil, nil // see DryRun
	}
	signed, err := t.signed(act, rule)
	if err != nil {
		return nil, err
	}
	key, err := t.signers()
	if err != nil {
		return nil, err
	}
	c := t.check(req, rule)
	c.Requester, c.Key, c.NonceUsed = intent.Person(t.cmd.GetPrincipal().GetName()), key, t.nonceUsed
	approval, err := intent.Verify(signed, c)
	if err != nil {
		return nil, explained(err, act, rule)
	}
	if err := t.useNonce(signed.Intent, approval.Persons...); err != nil {
		return nil, err
	}
	return kept(t.cmd.GetIntents()), nil
}

// check is what every verification of signatures over that request begins with.
func (t *tx) check(req *intent.Request, rule intent.Rule) intent.Check {
	return intent.Check{
		Keyspace: hierarchy.KeyspaceID(uidOf(t.cluster.GetKeyspaceId())),
		Act:      req.Act(),
		Request:  req.Digest(),
		NowMs:    t.timeMS,
		Rule:     rule,
		ModIndex: t.modIndex,
	}
}

func (t *tx) nonceUsed(n intent.Nonce) bool {
	_, used := lookup[*fsmpb.UsedNonce](t.txn, tableNonces, indexID, n[:])
	return used
}

// useNonce has no other intent with that nonce ever count. It is on the account of
// those who signed.
func (t *tx) useNonce(in intent.Intent, by ...intent.Person) error {
	n := &fsmpb.UsedNonce{Nonce: in.Nonce[:], ExpireTimeMs: in.NotAfter}
	for _, p := range by {
		if t.signedFor(string(p)) >= MaxNoncesPerPerson {
			return errs.Newf(errs.LimitReached, "a signer signed %d intents already that were used and have not expired", MaxNoncesPerPerson).
				With(errs.Hint("have another person sign; intents that end sooner are forgotten sooner: --sign-for"))
		}
		if t.cluster.GetFormatVersion() >= FormatAuthority { // an older release would not know it
			n.Persons = append(n.Persons, string(p))
		}
	}
	if t.nonces >= MaxNonces {
		return limit("used intents", MaxNonces)
	}
	t.putNonce(n)
	return nil
}

func (t *tx) putNonce(n *fsmpb.UsedNonce) {
	put(t, tableNonces, n)
	t.nonces++
	for _, p := range n.GetPersons() {
		put(t, tableSigners, signerRow{person: p, n: t.signedFor(p) + 1})
	}
}

func (t *tx) dropNonce(n *fsmpb.UsedNonce) {
	drop(t, tableNonces, n)
	t.nonces--
	for _, p := range n.GetPersons() {
		s := signerRow{person: p, n: t.signedFor(p) - 1}
		if s.n > 0 {
			put(t, tableSigners, s)
		} else {
			drop(t, tableSigners, s)
		}
	}
}

// signedFor returns how many nonces are remembered of intents that a person signed.
func (t *tx) signedFor(person string) int {
	s, _ := lookup[signerRow](t.txn, tableSigners, indexID, []byte(person))
	return s.n
}

// kept is what an object stores of the intents that ordered it. They are all over
// the same bytes, which stand in the first only.
func kept(all []*fsmpb.SignedIntent) []*fsmpb.SignedIntent {
	out := make([]*fsmpb.SignedIntent, len(all))
	for i, s := range all {
		out[i] = &fsmpb.SignedIntent{KeyId: bytes.Clone(s.GetKeyId()), Signature: bytes.Clone(s.GetSignature())}
	}
	out[0].Intent = bytes.Clone(all[0].GetIntent())
	return out
}

// explained adds the rule to a refusal that it explains: who should have signed.
func explained(err error, act intent.Act, rule intent.Rule) error {
	var r *intent.RefusalError
	if !errors.As(err, &r) {
		return err
	}
	switch r.Reason { //nolint:exhaustive // The others are not about who signed.
	case intent.ReasonTooFew, intent.ReasonWrongRole, intent.ReasonDuplicatePerson, intent.ReasonRequesterSigned, intent.ReasonUnsigned:
		e := errs.From(err)
		return errs.New(e.Code, e.Msg+": "+needs(act, rule), errs.Hint("%s", e.Hint), errs.Cause(err))
	}
	return err
}

// needs says what a rule asks for.
func needs(act intent.Act, rule intent.Rule) string { return act.String() + " needs " + rule.String() }

// RuleFor joins the rows of an act to one rule. No row, or rows that ask for no
// signature, mean that nobody needs to sign.
func RuleFor(rows []*fsmpb.IntentRule, act intent.Act) (rule intent.Rule, needed bool) {
	rule.Requester = intent.RequesterCounts
	for _, r := range rows {
		if r.GetAct() != uint32(act) || r.GetSignatures() == 0 {
			continue
		}
		needed = true
		if !r.GetRequesterCounts() {
			rule.Requester = intent.RequesterExcluded
		}
		switch r.GetRole() {
		case auth.RoleGovernor.String():
			rule.Governors = max(rule.Governors, int(r.GetSignatures()))
		case auth.RoleCustodian.String():
			rule.Custodians = max(rule.Custodians, int(r.GetSignatures()))
		}
	}
	return rule, needed
}

// signed puts the command's intents together. Every signature must be over the
// same bytes: four eyes see one thing.
func (t *tx) signed(act intent.Act, rule intent.Rule) (intent.Signed, error) {
	all := t.cmd.GetIntents()
	if len(all) == 0 {
		return intent.Signed{}, errs.New(errs.IntentRefused, "the request is not signed: "+needs(act, rule),
			errs.Hint("sign it with krypton, which does so with the key of your context; if others must sign, have it approved: krypton approval, or Approvals.CreateApproval"))
	}
	in, err := intent.Decode(all[0].GetIntent())
	if err != nil {
		return intent.Signed{}, errs.New(errs.IntentRefused, "intent is malformed", errs.Cause(err))
	}
	s := intent.Signed{Intent: in, Signatures: make([]intent.Signature, len(all))}
	for i, one := range all {
		if !bytes.Equal(one.GetIntent(), all[0].GetIntent()) || len(one.GetKeyId()) != len(intent.KeyID{}) {
			return intent.Signed{}, errs.New(errs.IntentRefused, "the signatures are not over one intent")
		}
		s.Signatures[i] = intent.Signature{Key: intent.KeyID(one.GetKeyId()), Sig: one.GetSignature()}
	}
	return s, nil
}

var errPerson = errors.New("a person's role or key is not valid")

// signers returns how the key of a signer is found: in the role bindings, of those
// who have the power that the command needs (see [orderOf]); in clusters older
// than [FormatAuthority] among the persons of the genesis.
func (t *tx) signers() (func(intent.KeyID) (intent.Signer, bool), error) {
	if t.cluster.GetFormatVersion() >= FormatAuthority {
		o := orderOf(t.cmd)
		return func(id intent.KeyID) (intent.Signer, bool) { return t.signer(o, id) }, nil
	}
	keys, err := personKeys(t.cluster.GetPersons())
	if err != nil {
		return nil, err
	}
	return func(id intent.KeyID) (intent.Signer, bool) { s, ok := keys[id]; return s, ok }, nil
}

// signer returns whose key that is, if it is one to sign with and the binding has
// not expired.
func (t *tx) signer(o order, id intent.KeyID) (intent.Signer, bool) {
	b, ok := bindingByKey(t.txn, id)
	if !ok || Expired(b, t.timeMS) {
		return intent.Signer{}, false
	}
	for _, k := range b.GetKeys() {
		key, err := signingKey(k.GetKey())
		if err != nil || key.ID() != id {
			continue
		}
		role, _ := auth.ParseRole(b.GetRole())
		if role == auth.RoleGovernor && !t.has(o, b) {
			role = auth.RoleUnspecified // known, and counts for no rule
		}
		return intent.Signer{Person: intent.Person(b.GetName()), Role: role, Key: key}, k.GetSign()
	}
	return intent.Signer{}, false
}

// personKeys returns the keys of the persons of a genesis by their ids.
func personKeys(persons []*fsmpb.Person) (map[intent.KeyID]intent.Signer, error) {
	keys := make(map[intent.KeyID]intent.Signer, len(persons))
	for _, p := range persons {
		role, err := auth.ParseRole(p.GetRole())
		if err != nil || (role != auth.RoleGovernor && role != auth.RoleCustodian) {
			return nil, errs.New(errs.InvalidArgument, "a person is neither governor nor custodian", errs.Cause(errPerson))
		}
		key, err := signingKey(p.GetKey())
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "a person's public key is not valid: "+err.Error())
		}
		keys[key.ID()] = intent.Signer{Person: intent.Person(p.GetName()), Role: role, Key: key}
	}
	return keys, nil
}

// modIndex returns the index of the last change of the object of that name; 0:
// there is none. Intents depend on objects by it.
func (t *tx) modIndex(object string) uint64 {
	p, err := hierarchy.ParsePath(object)
	if err != nil {
		return 0
	}
	ref := &fsmpb.ObjectRef{Tenant: string(p.Tenant), Service: string(p.Service)}
	switch p.Kind { //nolint:exhaustive // The other kinds are not in the registry, so they do not exist.
	case hierarchy.KindCluster, hierarchy.KindSeal:
		return t.cluster.GetModIndex()
	case hierarchy.KindInternalKey:
		v, _ := versionAt(t.cluster.GetInternalKeys(), uint32(min(p.Version, hierarchy.MaxVersions+1)))
		return v.GetModIndex()
	case hierarchy.KindInternalSecret:
		s, _ := lookup[*fsmpb.Secret](t.txn, tableSecrets, indexID, []byte(p.ID))
		return s.GetModIndex()
	case hierarchy.KindIssuer, hierarchy.KindTenantIssuer:
		uid, err := t.liveUID(string(p.Tenant))
		if err != nil {
			return 0
		}
		i, _ := lookup[*fsmpb.Issuer](t.txn, tableIssuers, indexID, ownedKey(uid, string(p.ID)))
		return i.GetModIndex()
	case hierarchy.KindRoleBinding, hierarchy.KindTenantRoleBinding:
		uid, err := t.liveUID(string(p.Tenant))
		if err != nil {
			return 0
		}
		b, _ := lookup[*fsmpb.RoleBinding](t.txn, tableBindings, indexID, ownedKey(uid, string(p.ID)))
		return b.GetModIndex()
	case hierarchy.KindApproval:
		a, _ := lookup[*fsmpb.Approval](t.txn, tableApprovals, indexID, []byte(p.ID))
		return a.GetModIndex()
	case hierarchy.KindCeremony:
		id, err := hex.DecodeString(string(p.ID))
		if err != nil {
			return 0
		}
		c, _ := lookup[*fsmpb.Ceremony](t.txn, tableCeremonies, indexID, id)
		return c.GetModIndex()
	case hierarchy.KindPolicy:
		uid, err := t.liveUID(string(p.Tenant))
		if err != nil {
			return 0
		}
		o, _ := lookup[*fsmpb.Policy](t.txn, tablePolicies, indexID, ownedKey(uid, string(p.ID)))
		return o.GetModIndex()
	case hierarchy.KindNode:
		m, _ := lookup[*fsmpb.Member](t.txn, tableMembers, indexID, []byte(p.ID))
		return m.GetModIndex()
	case hierarchy.KindTenant, hierarchy.KindBinding, hierarchy.KindService:
		o, err := t.find(ref)
		if err != nil {
			return 0
		}
		return o.modIndex()
	case hierarchy.KindTenantVersion, hierarchy.KindServiceVersion:
		o, err := t.find(ref)
		if err != nil {
			return 0
		}
		v, _ := versionAt(o.versions(), uint32(min(p.Version, hierarchy.MaxVersions+1)))
		return v.GetModIndex()
	case hierarchy.KindResource:
		o, err := t.find(ref)
		if err != nil {
			return 0
		}
		r, _ := lookup[*fsmpb.Resource](t.txn, tableResources, indexID, resourceKey(o.uid(), string(p.Resource)))
		return r.GetModIndex()
	}
	return 0
}
