package seal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Kind says why a ceremony is held. The zero value is [KindInit] for [Create]
// and not allowed for [Protect].
type Kind int

// The kinds. The numbers are those of sealpb.CeremonyKind.
const (
	KindUnspecified      Kind = iota
	KindInit                  // the first MasterKey of a keyspace
	KindReshare               // the same MasterKey, from holders of shares to other holders; revokes nobody
	KindRekey                 // a new MasterKey, as a precaution
	KindMigrate               // the same MasterKey, from or to keystores that open it alone; revokes nobody
	KindRekeyCompromised      // a new MasterKey, because the one before may be known to somebody
)

// String returns the kind as documents and JSON write it.
func (k Kind) String() string {
	switch k {
	case KindInit:
		return "init"
	case KindReshare:
		return "reshare"
	case KindRekey:
		return "rekey"
	case KindMigrate:
		return "migrate"
	case KindRekeyCompromised:
		return "rekey-compromised"
	case KindUnspecified:
	}
	return "unspecified"
}

// makesKey reports whether a ceremony of the kind makes a MasterKey, and does
// not protect anew the one that there is.
func (k Kind) makesKey() bool {
	return k == KindInit || k == KindRekey || k == KindRekeyCompromised
}

// Domain says with whom a holder's part could be lost or taken: text for
// people, at most [MaxDomain] bytes each. Empty means that nobody said.
type Domain struct {
	ProviderType string // kind of keystore, as "aws-kms"
	Account      string // account, project, subscription or site
	Region       string // region or place
}

// IsZero reports whether nothing is said.
func (d Domain) IsZero() bool { return d == Domain{} }

// Holder is who gets one share. With a Key it is a keystore, otherwise a
// person: with a Recipient, to which the share is encrypted, or without one,
// and then the share is returned to be printed. Not both.
type Holder struct {
	Name      string      // for people; 1 to MaxName bytes of UTF-8
	Recipient string      // age recipient of a person, at most MaxRecipient bytes
	Key       ProviderKey // key of a configured keystore
	Domain    Domain
}

// IsKeystore reports whether a keystore holds the share.
func (h Holder) IsKeystore() bool { return h.Key != ProviderKey{} }

// IsPrinted reports whether the share is given to a person as it is.
func (h Holder) IsPrinted() bool { return !h.IsKeystore() && h.Recipient == "" }

// Group is a number of holders, Threshold of which are needed. With several
// groups every one of them is needed.
type Group struct {
	Name      string // for people; may be empty if it is the only group
	Threshold int    // MinThreshold to len(Holders)
	Holders   []Holder
}

// Plan says who shall open the MasterKey: holders of shares, or keystores of
// which any one does. Exactly one of Groups and ProviderKeys is set. The
// holders are numbered from 1 through all groups, at most [MaxShares].
type Plan struct {
	Groups        []Group       // at most MaxGroups; every one is needed
	ProviderKeys  []ProviderKey // keystores that wrap it; any one opens it; at most MaxProviderKeys
	Kind          Kind
	Previous      Digest   // digest of the manifest that is replaced; zero at init
	AcceptedRisks []string // warnings that were accepted, by name; kept in the manifest
	Intents       [][]byte // signed intents of the people who hold the ceremony, kept in the manifest
}

// Mode returns the mode that the plan asks for, or ModeUnspecified.
func (p Plan) Mode() Mode {
	switch {
	case len(p.Groups) > 0 && len(p.ProviderKeys) == 0:
		return ModeShamir
	case len(p.ProviderKeys) > 0 && len(p.Groups) == 0:
		return ModeAuto
	}
	return ModeUnspecified
}

// Holders returns all holders in order: that of share 1 first.
func (p Plan) Holders() []Holder {
	var all []Holder
	for _, g := range p.Groups {
		all = append(all, g.Holders...)
	}
	return all
}

// Format returns the format of the record that the plan leads to: 1 where that
// says all of it, so that members of an older version can read it, or 2.
func (p Plan) Format() int {
	if p.Kind > KindInit || p.Previous != (Digest{}) || len(p.AcceptedRisks) > 0 || len(p.Groups) > 1 {
		return 2
	}
	for _, g := range p.Groups {
		for _, h := range g.Holders {
			if g.Name != "" || !h.IsPrinted() || !h.Domain.IsZero() {
				return 2
			}
		}
	}
	return 1
}

// check refuses what the manifest would refuse, before anything secret is made.
func (p Plan) check() error {
	if first := p.Kind <= KindInit; first != (p.Previous == Digest{}) {
		return fmt.Errorf("a %s, and the manifest that it replaces: only an init replaces none", p.Kind)
	}
	switch p.Mode() {
	case ModeShamir:
	case ModeAuto:
		return nil // the manifest's own check says enough
	case ModeUnspecified:
		return errors.New("name either holders of shares and a threshold, or keystores")
	}
	if len(p.Groups) > MaxGroups {
		return fmt.Errorf("%d groups, the limit is %d", len(p.Groups), MaxGroups)
	}
	if n := len(p.Holders()); n > MaxShares {
		return fmt.Errorf("%d shares, the limit is %d", n, MaxShares)
	}
	names := make(map[string]bool)
	for _, g := range p.Groups {
		if err := manifest.CheckThreshold(len(g.Holders), int64(g.Threshold)); err != nil {
			return err
		}
		for _, h := range g.Holders {
			if err := manifest.CheckText("name of a holder", h.Name, MaxName); err != nil {
				return err
			}
			if names[h.Name] {
				return fmt.Errorf("two holders have the name %q", h.Name)
			}
			names[h.Name] = true
			if err := h.check(); err != nil {
				return fmt.Errorf("holder %q: %w", h.Name, err)
			}
		}
	}
	return nil
}

func (h Holder) check() error {
	switch {
	case h.IsKeystore() && h.Recipient != "":
		return errors.New("it has a recipient and a key; a person has the one, a keystore the other")
	case h.IsKeystore():
		return h.Key.check()
	case h.Recipient != "":
		_, err := agebox.ParseRecipient(h.Recipient)
		return err
	}
	return nil
}

// PlanOf returns the plan of a manifest that was accepted by [manifest.Check]:
// who holds what, and why. The intents are not in it.
func PlanOf(m *sealpb.Manifest) Plan {
	p := Plan{Kind: kindOf(m), AcceptedRisks: slices.Clone(m.GetAcceptedRisks())}
	copy(p.Previous[:], m.GetPreviousManifest())
	for _, k := range m.GetProviderKeys() {
		p.ProviderKeys = append(p.ProviderKeys, keyOf(k))
	}
	for _, g := range m.GetGroups() {
		p.Groups = append(p.Groups, Group{Name: g.GetName(), Threshold: int(g.GetThreshold())})
	}
	if len(m.GetGroups()) == 0 && len(m.GetHolders()) > 0 { // format 1
		p.Groups = []Group{{Threshold: int(m.GetThreshold())}}
	}
	for _, h := range m.GetHolders() {
		one := Holder{Name: h.GetName(), Recipient: h.GetRecipient(), Key: keyOf(h.GetProviderKey())}
		if m.GetFormat() < manifest.Format2 {
			one.Name, one.Recipient = h.GetRecipient(), ""
		}
		if d := h.GetDomain(); d != nil {
			one.Domain = Domain{ProviderType: d.GetProviderType(), Account: d.GetAccount(), Region: d.GetRegion()}
		}
		g := &p.Groups[h.GetGroup()]
		g.Holders = append(g.Holders, one)
	}
	return p
}

// kindOf returns the kind of a ceremony; those of format 1 were all the first.
func kindOf(m *sealpb.Manifest) Kind {
	switch m.GetKind() {
	case sealpb.CeremonyKind_CEREMONY_KIND_RESHARE:
		return KindReshare
	case sealpb.CeremonyKind_CEREMONY_KIND_REKEY:
		return KindRekey
	case sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE:
		return KindMigrate
	case sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED:
		return KindRekeyCompromised
	case sealpb.CeremonyKind_CEREMONY_KIND_INIT, sealpb.CeremonyKind_CEREMONY_KIND_UNSPECIFIED:
	}
	return KindInit
}

func keyOf(k *sealpb.ProviderKey) ProviderKey {
	return ProviderKey{Provider: k.GetProvider(), Key: keystore.KeyRef(k.GetKey())}
}

// proto returns the message of a key.
func (k ProviderKey) proto() *sealpb.ProviderKey {
	return &sealpb.ProviderKey{Provider: k.Provider, Key: string(k.Key)}
}

// describe puts the plan into a manifest. shares are those of the plan's holders.
func (p Plan) describe(m *sealpb.Manifest, shares []Share) error {
	m.SignedIntents = p.Intents
	newer := m.GetFormat() >= manifest.Format2
	if newer {
		m.Kind, m.AcceptedRisks = sealpb.CeremonyKind(max(p.Kind, KindInit)), p.AcceptedRisks //nolint:gosec // A handful of constants; the check of the manifest refuses others.
		if p.Previous != (Digest{}) {
			m.PreviousManifest = p.Previous[:]
		}
	}
	if p.Mode() == ModeAuto {
		m.Mode = sealpb.Mode_MODE_AUTO
		for _, k := range p.ProviderKeys {
			m.ProviderKeys = append(m.ProviderKeys, k.proto())
		}
		return nil
	}
	m.Mode = sealpb.Mode_MODE_SHAMIR
	if len(p.Groups) == 1 {
		m.Threshold = uint32(p.Groups[0].Threshold) //nolint:gosec // 2 to 255, see check.
	}
	next := 0
	for i, g := range p.Groups {
		if newer {
			m.Groups = append(m.Groups, &sealpb.Group{Name: g.Name, Threshold: uint32(g.Threshold)}) //nolint:gosec // The same.
		}
		for _, h := range g.Holders {
			s := shares[next]
			next++
			hash, err := s.hash()
			if err != nil {
				return err
			}
			pb := &sealpb.Holder{
				Index: uint32(s.index), X: uint32(s.x), Group: uint32(i), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON,
				Recipient: h.Recipient, ShareHash: hash[:], Name: h.Name,
			}
			if !newer {
				pb.Recipient, pb.Name = h.Name, ""
			}
			if !h.IsPrinted() {
				pb.EncryptedShardHash = make([]byte, len(Digest{})) // replaced when it is encrypted
			}
			if h.IsKeystore() {
				pb.Kind, pb.ProviderKey = sealpb.HolderKind_HOLDER_KIND_KEYSTORE, h.Key.proto()
			}
			if !h.Domain.IsZero() {
				pb.Domain = &sealpb.Domain{ProviderType: h.Domain.ProviderType, Account: h.Domain.Account, Region: h.Domain.Region}
			}
			m.Holders = append(m.Holders, pb)
		}
	}
	return nil
}
