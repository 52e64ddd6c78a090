package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of the plan of a seal. Those of package seal are the same.
const (
	MaxSealGroups         = 8        // that are all needed
	MaxSealHolders        = 255      // of all groups: the points of GF(2^8) without 0
	MinSealThreshold      = 2        // one share alone would be the MasterKey in one hand
	MaxSealProviderKeys   = 64       // keys of keystores, any one of which opens the MasterKey
	MaxSealNameBytes      = 128      // of a group, a holder, and each part of where a holder stands
	MaxSealRecipientBytes = 4096     // of an age recipient
	MaxSealProviderBytes  = 63       // of the configured name of a keystore
	MaxSealRisks          = 16       // that are accepted
	MaxSealRiskBytes      = 128      // of the name of one
	MaxSealPlanBytes      = 96 << 10 // of a plan, encoded: people have to read it
)

// checkSealPlan checks a plan by itself, in a command and in a snapshot.
func checkSealPlan(p *fsmpb.SealPlan) error {
	switch {
	case proto.Size(p) > MaxSealPlanBytes:
		return errs.New(errs.TooLarge, "the plan of the seal has more than 96 KiB", errs.Hint("name fewer holders"))
	case (len(p.GetGroups()) == 0) == (len(p.GetProviderKeys()) == 0):
		return wrong("the plan of the seal names either groups of holders, or keystores", "name one of them")
	case len(p.GetGroups()) > MaxSealGroups || len(p.GetProviderKeys()) > MaxSealProviderKeys || len(p.GetAcceptedRisks()) > MaxSealRisks || holdersOf(p) > MaxSealHolders:
		return wrong("the plan of the seal has too many groups, holders, keystores or risks", fmt.Sprintf("at most %d groups with %d holders, or %d keys of keystores", MaxSealGroups, MaxSealHolders, MaxSealProviderKeys))
	case slices.ContainsFunc(p.GetAcceptedRisks(), func(r string) bool { return !textual(r, MaxSealRiskBytes) }):
		return invalid("a risk has no name, or one that is too long")
	}
	for i, k := range p.GetProviderKeys() {
		if err := checkSealKey(k); err != nil {
			return err
		}
		if slices.ContainsFunc(p.GetProviderKeys()[:i], func(o *fsmpb.SealKey) bool { return proto.Equal(o, k) }) {
			return wrong("a key of a keystore stands twice in the plan of the seal", "name each once")
		}
	}
	for i, g := range p.GetGroups() {
		named := func(o *fsmpb.SealGroup) bool { return o.GetName() == g.GetName() }
		switch n := len(g.GetHolders()); {
		case g.GetName() == "" && len(p.GetGroups()) > 1, g.GetName() != "" && !textual(g.GetName(), MaxSealNameBytes), slices.ContainsFunc(p.GetGroups()[:i], named):
			return wrong("a group of holders has no name, one that is too long, or another's", "give each its own")
		case g.GetThreshold() < MinSealThreshold || uint64(g.GetThreshold()) > uint64(n):
			return wrong("the threshold of a group of holders cannot be", fmt.Sprintf("%d to the number of its holders", MinSealThreshold))
		}
		for _, h := range g.GetHolders() {
			if err := checkSealHolder(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// planOfToday holds the rules of plans that came with [FormatSealProof]. A ceremony that
// was begun before may break them, so they are none of [checkSealPlan].
func (t *tx) planOfToday(p *fsmpb.SealPlan) error {
	if !t.provesSeals() {
		return nil
	}
	names := make(map[string]bool)
	for _, g := range p.GetGroups() {
		for _, h := range g.GetHolders() {
			if names[h.GetName()] {
				return wrong("two holders have one name in the plan of the seal", "give each its own: people sign for who gets a share, by name")
			}
			names[h.GetName()] = true
		}
	}
	g := new(fsmpb.Genesis)
	if err := proto.Unmarshal(t.cluster.GetGenesis(), g); err != nil {
		return errs.New(errs.FailedState, "the genesis of the cluster does not decode")
	}
	if g.GetSealProfile() == ProfileFourEyes && personsNeeded(p) < 2 && !slices.Contains(p.GetAcceptedRisks(), RiskNoFourEyes) {
		return wrong("this cluster was founded with the profile four-eyes, and by this plan fewer than two people open the MasterKey",
			"raise the threshold of a group of people, or let custodians sign for it: --accept-risk "+RiskNoFourEyes)
	}
	return nil
}

// Names of package seal/plan, which this one does not import.
const (
	// ProfileFourEyes in a genesis: the MasterKey never opens with fewer than two people.
	ProfileFourEyes = "four-eyes"
	// RiskNoFourEyes among the accepted risks of a plan: it breaks that profile, as was signed.
	RiskNoFourEyes = "no-four-eyes"
)

// personsNeeded returns how many people it takes to open the MasterKey by a plan when
// every keystore answers.
func personsNeeded(p *fsmpb.SealPlan) (n int) {
	for _, g := range p.GetGroups() {
		keystores := 0
		for _, h := range g.GetHolders() {
			if h.GetKey() != nil {
				keystores++
			}
		}
		n += max(int(g.GetThreshold())-keystores, 0)
	}
	return n
}

func checkSealHolder(h *fsmpb.SealHolder) error {
	if !textual(h.GetName(), MaxSealNameBytes) {
		return wrong("a holder has no name, or one that is too long", "1 to 128 bytes of text, for people")
	}
	for _, s := range []string{h.GetProviderType(), h.GetAccount(), h.GetRegion()} {
		if s != "" && !textual(s, MaxSealNameBytes) {
			return wrong("it is not said in text where a holder stands", "up to 128 bytes each for type, account and region")
		}
	}
	switch {
	case (h.GetKey() == nil) == (h.GetRecipient() == ""):
		// A share that is printed would have to be shown by a node over the network.
		return wrong("a holder is neither a person with an age recipient nor a keystore, or both", "shares cannot be printed in a ceremony: give every person an age recipient, krypton operator share new-identity")
	case h.GetKey() != nil:
		return checkSealKey(h.GetKey())
	case !textual(h.GetRecipient(), MaxSealRecipientBytes):
		return wrong("the recipient of a holder is not text, or longer than 4096 bytes", "give what age-keygen or krypton operator share new-identity printed")
	}
	return nil
}

func checkSealKey(k *fsmpb.SealKey) error {
	if !textual(k.GetProvider(), MaxSealProviderBytes) || !textual(k.GetKey(), MaxKeyRefBytes) {
		return wrong("a key of a keystore has no name, or one that is too long", "name the keystore as the nodes' configuration does, and the key as the keystore does")
	}
	return nil
}

// holdersOf returns how many holders a plan has, or how many keys of keystores.
func holdersOf(p *fsmpb.SealPlan) int {
	n := len(p.GetProviderKeys())
	for _, g := range p.GetGroups() {
		n += len(g.GetHolders())
	}
	return n
}

// kindNames are the kinds of ceremonies as people sign them, by their numbers.
//
//nolint:gochecknoglobals // Immutable table.
var kindNames = map[fsmpb.CeremonyKind]string{
	fsmpb.CeremonyKind_CEREMONY_KIND_RESHARE:           intent.CeremonyReshare,
	fsmpb.CeremonyKind_CEREMONY_KIND_MIGRATE:           intent.CeremonyMigrate,
	fsmpb.CeremonyKind_CEREMONY_KIND_REKEY:             intent.CeremonyRekey,
	fsmpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED: intent.CeremonyRekeyCompromised,
}

// CeremonyKindName returns the name of a kind as people sign it, or "".
func CeremonyKindName(k fsmpb.CeremonyKind) string { return kindNames[k] }

// fitsKind refuses a plan that is not what the kind says it is.
func fitsKind(k fsmpb.CeremonyKind, base *sealpb.Manifest, p *fsmpb.SealPlan) error {
	shares := base.GetMode() == sealpb.Mode_MODE_SHAMIR && len(p.GetGroups()) > 0
	switch k {
	case fsmpb.CeremonyKind_CEREMONY_KIND_RESHARE:
		if !shares {
			return wrong("a reshare goes from holders of shares to holders of shares", "to or from keystores that open the MasterKey alone it is a migration: krypton ceremony start migrate")
		}
		return nil
	case fsmpb.CeremonyKind_CEREMONY_KIND_MIGRATE:
		if shares {
			return wrong("a migration goes to or from keystores that open the MasterKey alone", "between holders of shares it is a reshare: krypton ceremony start reshare")
		}
		return nil
	case fsmpb.CeremonyKind_CEREMONY_KIND_REKEY, fsmpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED:
		return nil
	case fsmpb.CeremonyKind_CEREMONY_KIND_UNSPECIFIED:
	}
	return invalid("the ceremony is of no kind")
}

// MakesKey reports whether a kind of ceremony makes another MasterKey.
func MakesKey(k fsmpb.CeremonyKind) bool {
	return k == fsmpb.CeremonyKind_CEREMONY_KIND_REKEY || k == fsmpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED
}

// CeremonyRequest is the canonical form of what people sign of a ceremony: all that is
// in a plan, and what it replaces. Of one that was held it is made from the manifest,
// so that the signatures in that can be verified without anything else; see [PlanOf].
func CeremonyRequest(k fsmpb.CeremonyKind, base []byte, p *fsmpb.SealPlan) *intent.Request {
	c := intent.Ceremony{Kind: kindNames[k], Base: base, Risks: p.GetAcceptedRisks()}
	for _, g := range p.GetGroups() {
		to := intent.SealGroup{Name: g.GetName(), Threshold: uint64(g.GetThreshold())}
		for _, h := range g.GetHolders() {
			to.Holders = append(to.Holders, intent.SealHolder{
				Name: h.GetName(), Recipient: h.GetRecipient(), Key: intent.SealKey{Provider: h.GetKey().GetProvider(), Key: h.GetKey().GetKey()},
				ProviderType: h.GetProviderType(), Account: h.GetAccount(), Region: h.GetRegion(),
			})
		}
		c.Groups = append(c.Groups, to)
	}
	for _, k := range p.GetProviderKeys() {
		c.Keys = append(c.Keys, intent.SealKey{Provider: k.GetProvider(), Key: k.GetKey()})
	}
	return c.Request()
}

// PlanOf returns the plan that a manifest carries out; false: it is not one that a
// ceremony makes.
func PlanOf(m *sealpb.Manifest) (*fsmpb.SealPlan, bool) {
	p := &fsmpb.SealPlan{AcceptedRisks: m.GetAcceptedRisks()}
	for _, k := range m.GetProviderKeys() {
		p.ProviderKeys = append(p.ProviderKeys, planKey(k))
	}
	for _, g := range m.GetGroups() {
		p.Groups = append(p.Groups, &fsmpb.SealGroup{Name: g.GetName(), Threshold: g.GetThreshold()})
	}
	group := uint32(0)
	for i, h := range m.GetHolders() {
		if uint64(h.GetIndex()) != uint64(i)+1 || h.GetGroup() < group || uint64(h.GetGroup()) >= uint64(len(p.GetGroups())) {
			return nil, false // the numbers of holders are their places in the plan
		}
		group = h.GetGroup()
		to := &fsmpb.SealHolder{
			Name: h.GetName(), Recipient: h.GetRecipient(),
			ProviderType: h.GetDomain().GetProviderType(), Account: h.GetDomain().GetAccount(), Region: h.GetDomain().GetRegion(),
		}
		keystore := h.GetKind() == sealpb.HolderKind_HOLDER_KIND_KEYSTORE
		if keystore != (h.GetProviderKey() != nil) || !keystore && h.GetKind() != sealpb.HolderKind_HOLDER_KIND_PERSON {
			return nil, false
		}
		if keystore {
			to.Key = planKey(h.GetProviderKey())
		}
		p.Groups[group].Holders = append(p.Groups[group].Holders, to)
	}
	return p, true
}

func planKey(k *sealpb.ProviderKey) *fsmpb.SealKey {
	return &fsmpb.SealKey{Provider: k.GetProvider(), Key: k.GetKey()}
}

// ManifestIntents returns the signatures of people as a manifest keeps them: one
// encoded SignedIntent for each.
func ManifestIntents(by []*fsmpb.SignedIntent) ([][]byte, error) {
	all := make([][]byte, 0, len(by))
	for _, s := range by {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("encode intent: %w", err)
		}
		all = append(all, b)
	}
	return all, nil
}

// intentsIn is the inverse of [ManifestIntents].
func intentsIn(m *sealpb.Manifest) ([]*fsmpb.SignedIntent, bool) {
	all := make([]*fsmpb.SignedIntent, 0, len(m.GetSignedIntents()))
	for _, b := range m.GetSignedIntents() {
		s := new(fsmpb.SignedIntent)
		if err := unmarshal(b, s); err != nil || hasUnknown(s.ProtoReflect()) {
			return nil, false
		}
		all = append(all, s)
	}
	return all, true
}

// encodedManifest returns the manifest of a record that was checked, by itself.
func encodedManifest(record []byte) ([]byte, error) {
	r, err := manifest.Parse(record)
	if err != nil {
		return nil, fmt.Errorf("staged record: %w", err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.GetManifest())
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return b, nil
}

// checkStaged refuses a record that is not what people signed, or that is of another
// MasterKey than the kind says. What the shares open nobody can see here: that its
// holders opened it is asked for before it is committed (I33).
func (t *tx) checkStaged(c *fsmpb.Ceremony, record []byte) (*sealpb.Manifest, error) {
	if len(record) > MaxSealRecordBytes {
		return nil, errs.New(errs.TooLarge, "the new seal has more than 256 KiB", errs.Hint("name fewer holders"))
	}
	r, err := manifest.Parse(record)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, err.Error())
	}
	base, err := t.sealRecord()
	if err != nil {
		return nil, err
	}
	if err := t.stillBase(c); err != nil {
		return nil, err
	}
	m := r.GetManifest()
	if err := manifest.Check(m); err != nil {
		return nil, errs.New(errs.InvalidArgument, "the new seal is not valid: "+err.Error())
	}
	if err := manifest.Follows(m, base.GetManifest()); err != nil {
		return nil, errs.New(errs.InvalidArgument, "the new seal does not follow the present one: "+err.Error())
	}
	plan, ok := PlanOf(m)
	by, known := intentsIn(m)
	switch {
	case !bytes.Equal(m.GetCeremonyId(), c.GetId()) || r.GetFormat() != m.GetFormat() || m.GetCreateTimeUnixNano() <= 0:
		return nil, invalid("the new seal is of another ceremony, or has a format or time that none makes")
	case int32(m.GetKind()) != int32(c.GetKind()):
		return nil, invalid("the new seal is of another kind of ceremony")
	case !ok || CeremonyRequest(c.GetKind(), c.GetBaseManifest(), plan).Digest() != CeremonyRequest(c.GetKind(), c.GetBaseManifest(), c.GetPlan()).Digest():
		return nil, invalid("the new seal is not what was ordered")
	case !known || !slices.EqualFunc(by, c.GetAuthorizedBy(), func(a, b *fsmpb.SignedIntent) bool { return proto.Equal(a, b) }):
		return nil, invalid("the new seal does not say who ordered it")
	case !MakesKey(c.GetKind()) && !slices.EqualFunc(r.GetCarriedKeys(), base.GetCarriedKeys(), func(a, b *sealpb.CarriedKey) bool { return proto.Equal(a, b) }):
		return nil, invalid("the new seal carries other keys of earlier MasterKeys")
	}
	return m, checkSealed(r)
}

// checkSealed refuses a record whose ciphertexts are not those that its manifest
// names: no node could take it, and the cluster would have none.
func checkSealed(r *sealpb.Record) error {
	m := r.GetManifest()
	broken := invalid("the new seal is not whole")
	if len(r.GetWrappings()) != len(m.GetProviderKeys()) || len(r.GetShards()) != len(m.GetHolders()) || (r.GetGroupSeal() != nil) != (len(m.GetGroups()) > 1) {
		return broken
	}
	for i, w := range r.GetWrappings() {
		if !proto.Equal(w.GetProviderKey(), m.GetProviderKeys()[i]) || checkWrapping(w) != nil {
			return broken
		}
	}
	for i, h := range m.GetHolders() {
		s := r.GetShards()[i]
		sum := sha256.Sum256(s.GetEncryptedShard())
		if n := len(s.GetEncryptedShard()); s.GetIndex() != h.GetIndex() || n == 0 || n > maxShardBytes || !bytes.Equal(sum[:], h.GetEncryptedShardHash()) {
			return broken
		}
		if h.GetProviderKey() != nil && !readableShard(h.GetProviderKey(), s.GetEncryptedShard()) {
			return broken
		}
	}
	if g := r.GetGroupSeal(); g != nil && (len(g.GetNonce()) != wrappingNonceBytes || len(g.GetSealedMasterKey()) != sealedMasterKeySize) {
		return broken
	}
	return nil
}

// readableShard reports whether a shard is one that package seal reads as that of a
// keystore with that key.
func readableShard(k *sealpb.ProviderKey, b []byte) bool {
	s := &sealpb.KeystoreShard{}
	return unmarshal(b, s) == nil && !hasUnknown(s.ProtoReflect()) && proto.Equal(s.GetProviderKey(), k) &&
		len(s.GetKeyVersion()) <= maxKeyVersionBytes && len(s.GetWrappedKey()) >= 1 && len(s.GetWrappedKey()) <= maxWrappedKeyBytes &&
		len(s.GetNonce()) == wrappingNonceBytes && len(s.GetSealedShare()) == sealedShareSize
}
