package fsm

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Lineage is what the manifests of a seal prove by themselves.
type Lineage struct {
	// Manifests since the genesis, whose own is the first.
	Manifests []*sealpb.Manifest
	// Signers are who signed for each, by name. nil: nobody had to, by the rules of the genesis.
	Signers [][]intent.Person
}

// linked checks that each manifest is one, and replaces the one before it (I34), and
// that no ceremony was held twice.
func linked(all []*sealpb.Manifest) error {
	ids := make(map[string]bool, len(all))
	for i, m := range all {
		err := manifest.Check(m)
		if err == nil && i > 0 {
			err = manifest.Follows(m, all[i-1])
		}
		switch {
		case err != nil:
			return corrupt("a manifest of its seals does not hold: %v", err)
		case ids[string(m.GetCeremonyId())]:
			return corrupt("one ceremony made two of its seals")
		}
		ids[string(m.GetCeremonyId())] = true
	}
	return nil
}

// VerifyLineage verifies the manifests of a seal, from the genesis on, without a
// registry: what a sealed node believes, and who has nothing but a file. genesis is
// encoded; manifests are those of the ceremonies after it. Each has to replace the one
// before it, and to be signed as the rules of the genesis say, by persons of the genesis:
// who was bound later only a registry that is proved can tell. The error has the code
// STATE_CORRUPT, or INTENT_REFUSED for signatures that do not count.
func VerifyLineage(genesis []byte, manifests [][]byte) (Lineage, error) {
	g := new(fsmpb.Genesis)
	if err := proto.Unmarshal(genesis, g); err != nil {
		return Lineage{}, corruptLineage("the genesis does not decode")
	}
	if len(manifests) > MaxSealManifests {
		return Lineage{}, corruptLineage("there are more than the limit")
	}
	all, err := lineageOf(&fsmpb.Cluster{Genesis: genesis, SealManifests: manifests})
	if err != nil {
		return Lineage{}, err
	}
	if err := linked(all); err != nil {
		return Lineage{}, err
	}
	out := Lineage{Manifests: all, Signers: make([][]intent.Person, len(all))}
	keys, err := personKeys(g.GetPersons())
	if err != nil {
		return Lineage{}, corruptLineage("a person of the genesis is none")
	}
	for i, m := range all[1:] {
		by, err := signersOf(g, keys, m)
		if err != nil {
			return Lineage{}, fmt.Errorf("ceremony %x: %w", m.GetCeremonyId(), err)
		}
		out.Signers[i+1] = by
	}
	return out, nil
}

// signersOf verifies the signatures in a manifest. They were verified with more by every
// replica: that the intent was not used before, and had not expired. It was signed
// before the manifest was made, so that is the time that counts here.
func signersOf(g *fsmpb.Genesis, keys map[intent.KeyID]intent.Signer, m *sealpb.Manifest) ([]intent.Person, error) {
	plan, ok := PlanOf(m)
	if !ok {
		return nil, corruptLineage("one has holders that no plan names")
	}
	req := CeremonyRequest(fsmpb.CeremonyKind(m.GetKind()), m.GetPreviousManifest(), plan)
	rule, needed := RuleFor(g.GetRules(), req.Act())
	if !needed {
		return nil, nil
	}
	all, known := intentsIn(m)
	if !known {
		return nil, errs.New(errs.IntentRefused, "nobody signed for the ceremony")
	}
	return signedBefore(g, keys, req, rule, all)
}

// signedBefore verifies kept signatures over a request.
func signedBefore(g *fsmpb.Genesis, keys map[intent.KeyID]intent.Signer, req *intent.Request, rule intent.Rule, all []*fsmpb.SignedIntent) ([]intent.Person, error) {
	if len(all) == 0 {
		return nil, errs.New(errs.IntentRefused, "nobody signed for the ceremony")
	}
	in, err := intent.Decode(all[0].GetIntent())
	if err != nil {
		return nil, errs.New(errs.IntentRefused, "intent is malformed", errs.Cause(err))
	}
	s := intent.Signed{Intent: in}
	for _, one := range all {
		if len(one.GetKeyId()) != len(intent.KeyID{}) {
			return nil, refuseIntent(intent.ReasonUnknownKey)
		}
		s.Signatures = append(s.Signatures, intent.Signature{Key: intent.KeyID(one.GetKeyId()), Sig: one.GetSignature()})
	}
	// Who asked is not in the manifest, and counted or not when the command was applied.
	rule.Requester = intent.RequesterCounts
	a, err := intent.Verify(s, intent.Check{
		Keyspace: hierarchy.KeyspaceID(uidOf(g.GetKeyspaceId())), Act: req.Act(), Request: req.Digest(),
		NowMs: in.NotAfter - 1, Rule: rule,
		Key:       func(id intent.KeyID) (intent.Signer, bool) { s, ok := keys[id]; return s, ok },
		ModIndex:  preconditionsHeld(in),
		NonceUsed: func(intent.Nonce) bool { return false },
	})
	if err != nil {
		return nil, explained(err, req.Act(), rule)
	}
	return a.Persons, nil
}

// preconditionsHeld says of every object that an intent depends on that it was as the
// signers saw it: that was verified when the command was applied.
func preconditionsHeld(in intent.Intent) func(string) uint64 {
	return func(object string) uint64 {
		for _, p := range in.Preconditions {
			if p.Object == object {
				return p.ModIndex
			}
		}
		return 0
	}
}

// Linked reads the manifests of a seal and checks that they are one line from the
// genesis on. Who signed for them is not looked at; see [VerifyLineage].
func Linked(genesis []byte, manifests [][]byte) ([]*sealpb.Manifest, error) {
	if len(manifests) > MaxSealManifests {
		return nil, corruptLineage("there are more than the limit")
	}
	all, err := lineageOf(&fsmpb.Cluster{Genesis: genesis, SealManifests: manifests})
	if err != nil {
		return nil, err
	}
	return all, linked(all)
}
