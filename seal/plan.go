package seal

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Limits of a plan.
const (
	// MaxGroups is the largest number of groups.
	MaxGroups = 8
	// MaxName is the longest name of a holder or group, in bytes.
	MaxName = 128
	// MaxDomain is the longest text of each field of a [Domain], in bytes.
	MaxDomain = 128
	// MaxRisks and MaxRisk bound the accepted risks: their number, and the
	// bytes of each.
	MaxRisks = 16
	MaxRisk  = 128
)

// Kind says why a ceremony is held. The zero value is [KindInit] for [Create]
// and not allowed for [Protect].
type Kind int

// The kinds. The numbers are those of sealpb.CeremonyKind.
const (
	KindUnspecified      Kind = iota
	KindInit                  // the first MasterKey of a keyspace
	KindReshare               // the same MasterKey, other holders; revokes nobody
	KindRekey                 // a new MasterKey, as a precaution
	KindMigrate               // the same MasterKey, the other mode; revokes nobody
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

func (p Plan) check() error {
	switch p.Mode() {
	case ModeShamir:
		return p.checkGroups()
	case ModeAuto:
		return nil
	case ModeUnspecified:
	}
	return errors.New("name either holders of shares and a threshold, or keystores")
}

func (p Plan) checkGroups() error {
	if len(p.Groups) > MaxGroups {
		return fmt.Errorf("%d groups, the limit is %d", len(p.Groups), MaxGroups)
	}
	for _, g := range p.Groups {
		if err := checkThreshold(len(g.Holders), g.Threshold); err != nil {
			return err
		}
		for _, h := range g.Holders {
			if err := checkName("a holder", h.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkName(of, s string) error {
	if s == "" || len(s) > MaxName || !utf8.ValidString(s) {
		return fmt.Errorf("name of %s with %d bytes, want 1 to %d of valid UTF-8", of, len(s), MaxName)
	}
	return nil
}
