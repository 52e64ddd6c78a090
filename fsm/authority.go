package fsm

import (
	"bytes"
	"errors"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// MaxNonces bounds the nonces of signed intents that are remembered until the
// intents expire. It takes that many sovereign acts in 30 days to reach it.
const MaxNonces = 100_000

// SovereignRequest returns the act that a command is and the canonical form of
// what it orders, or false if it is no sovereign act. People sign its digest,
// and every replica computes it again from the command that it is about to
// apply: a signed digest beside another command proves nothing. What a preparer
// or the leader adds (uids, wrapped material, time) is not in it, since nobody
// knows it when people sign.
//
//	bind-l1              tenant, keystore, key, archetype
//	destroy              tenant, service, version, now        of a tenant, service or key version; version 0: all
//	resume-after-unlink  tenant, service
//	add-member           token, region, expire                a join token for a voter
//	add-member           node, key                            a member that becomes a voter
func SovereignRequest(cmd *fsmpb.Command) (intent.Act, *intent.Request, bool) {
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		c := b.CreateTenant
		return intent.ActBindL1, intent.NewRequest(intent.ActBindL1).
			Text("tenant", c.GetName()).
			Text("keystore", c.GetBinding().GetKeystore()).
			Text("key", c.GetBinding().GetKey()).
			Text("archetype", c.GetBinding().GetArchetype()), true
	case *fsmpb.Command_ChangeObject:
		c := b.ChangeObject
		switch {
		case c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY:
			return intent.ActDestroy, destroyRequest(c.GetObject(), 0, c.GetNow()), true
		case c.GetEvent() == fsmpb.ObjectEvent_OBJECT_EVENT_RESUME && c.GetCause() == causeUnlink:
			return intent.ActResumeAfterUnlink, intent.NewRequest(intent.ActResumeAfterUnlink).
				Text("tenant", c.GetObject().GetTenant()).
				Text("service", c.GetObject().GetService()), true
		}
	case *fsmpb.Command_ChangeVersion:
		c := b.ChangeVersion
		if c.GetEvent() == fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY {
			return intent.ActDestroy, destroyRequest(c.GetObject(), c.GetNumber(), c.GetNow()), true
		}
	case *fsmpb.Command_CreateJoinToken:
		c := b.CreateJoinToken.GetToken()
		if c.GetVoter() {
			return intent.ActAddMember, intent.NewRequest(intent.ActAddMember).
				Bytes("token", c.GetHash()).
				Text("region", c.GetRegion()).
				Uint("expire", uint64(max(c.GetExpireTimeMs(), 0))), true
		}
	}
	return intent.ActUnspecified, nil, false
}

func destroyRequest(o *fsmpb.ObjectRef, version uint32, now bool) *intent.Request {
	r := intent.NewRequest(intent.ActDestroy).
		Text("tenant", o.GetTenant()).
		Text("service", o.GetService()).
		Uint("version", uint64(version))
	if now {
		return r.Uint("now", 1)
	}
	return r.Uint("now", 0)
}

// PromotionRequest is the canonical form of making a member a voter; see
// [SovereignRequest]. It needs the member, because a command names it only by
// its id, and people must know whose key they admit.
func PromotionRequest(m *fsmpb.Member) *intent.Request {
	return intent.NewRequest(intent.ActAddMember).Text("node", m.GetId()).Bytes("key", m.GetPublicKey())
}

// authorize verifies the signatures of people over the command, if the cluster's
// rules ask for them for what it does (I8).
func (t *tx) authorize() error {
	act, req, ok := SovereignRequest(t.cmd)
	if !ok {
		return nil
	}
	return t.verify(act, req)
}

func (t *tx) verify(act intent.Act, req *intent.Request) error {
	rule, needed := ruleFor(t.cluster.GetRules(), act)
	if !needed {
		return nil
	}
	signed, err := t.signed()
	if err != nil {
		return err
	}
	keys, err := signers(t.cluster.GetPersons())
	if err != nil {
		return err
	}
	_, err = intent.Verify(signed, intent.Check{
		Keyspace:  hierarchy.KeyspaceID(uidOf(t.cluster.GetKeyspaceId())),
		Act:       act,
		Request:   req.Digest(),
		NowMs:     t.timeMS,
		Requester: intent.Person(t.cmd.GetPrincipal().GetName()),
		Rule:      rule,
		Key:       func(id intent.KeyID) (intent.Signer, bool) { s, ok := keys[id]; return s, ok },
		ModIndex:  t.modIndex,
		NonceUsed: func(n intent.Nonce) bool {
			_, used := lookup[*fsmpb.UsedNonce](t.txn, tableNonces, indexID, n[:])
			return used
		},
	})
	if err != nil {
		return err
	}
	if t.nonces >= MaxNonces {
		return limit("used intents", MaxNonces)
	}
	put(t, tableNonces, &fsmpb.UsedNonce{Nonce: signed.Intent.Nonce[:], ExpireTimeMs: signed.Intent.NotAfter})
	t.nonces++
	return nil
}

// ruleFor joins the rows of an act to one rule. No row, or rows that ask for no
// signature, mean that nobody needs to sign.
func ruleFor(rows []*fsmpb.IntentRule, act intent.Act) (rule intent.Rule, needed bool) {
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
func (t *tx) signed() (intent.Signed, error) {
	all := t.cmd.GetIntents()
	if len(all) == 0 {
		return intent.Signed{}, errs.New(errs.IntentRefused, "the act needs a signed intent",
			errs.Hint("have the request signed by the persons that the rule asks for"))
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

// signers returns the keys of the registered persons by their ids.
func signers(persons []*fsmpb.Person) (map[intent.KeyID]intent.Signer, error) {
	keys := make(map[intent.KeyID]intent.Signer, len(persons))
	for _, p := range persons {
		role, err := auth.ParseRole(p.GetRole())
		if err != nil || (role != auth.RoleGovernor && role != auth.RoleCustodian) {
			return nil, errs.New(errs.InvalidArgument, "a person is neither governor nor custodian", errs.Cause(errPerson))
		}
		var alg intent.Alg
		switch p.GetKey().GetAlgorithm() {
		case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ED25519:
			alg = intent.AlgEd25519
		case fsmpb.KeyAlgorithm_KEY_ALGORITHM_ECDSA_P256_SHA256:
			alg = intent.AlgECDSAP256SHA256
		case fsmpb.KeyAlgorithm_KEY_ALGORITHM_UNSPECIFIED:
		}
		key, err := intent.NewPublicKey(alg, p.GetKey().GetRaw())
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
