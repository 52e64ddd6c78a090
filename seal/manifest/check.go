package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Limits of a manifest.
const (
	// MaxGeneration fits the four bytes that a share has for it.
	MaxGeneration = math.MaxUint32
	// MaxShares is the largest number of shares, over all groups: the points of
	// GF(2^8) without 0.
	MaxShares = 255
	// MinThreshold is the smallest number of shares that open a group. One share
	// would be the group's secret in one hand, which is what shares are against.
	MinThreshold = 2
	// MaxGroups is the largest number of groups.
	MaxGroups = 8
	// MaxProviderKeys is the largest number of keystore keys that may wrap a MasterKey.
	MaxProviderKeys = 64
	// MaxProvider and MaxKey bound a provider key: the configured name of the
	// keystore and the name of the key, in bytes.
	MaxProvider = 63
	MaxKey      = 1024
	// MaxRecipient is the longest age recipient, in bytes; a post-quantum one has
	// about 2000.
	MaxRecipient = 4096
	// MaxName is the longest name of a holder or a group, in bytes.
	MaxName = 128
	// MaxName1 is the longest name of a holder in format 1, in bytes.
	MaxName1 = 1024
	// MaxDomain is the longest text of each field of a domain, in bytes.
	MaxDomain = 128
	// MaxRisks and MaxRisk bound the accepted risks: their number, and the bytes
	// of each.
	MaxRisks = 16
	MaxRisk  = 128
	// MaxIntents and MaxIntent bound the signed intents in a manifest: their
	// number, and the bytes of each.
	MaxIntents = 64
	MaxIntent  = 16 << 10
)

// Check refuses a manifest that breaks a rule of its format, whatever would let
// an unsealing go wrong later (I3), and what this version does not know (I2).
func Check(m *sealpb.Manifest) error {
	if err := checkFormat(m); err != nil {
		return err
	}
	if err := checkIdentity(m); err != nil {
		return err
	}
	if m.GetFormat() >= Format2 {
		if err := checkOccasion(m); err != nil {
			return err
		}
	}
	switch m.GetMode() {
	case sealpb.Mode_MODE_AUTO:
		return checkAuto(m)
	case sealpb.Mode_MODE_SHAMIR:
		return checkShamir(m)
	case sealpb.Mode_MODE_UNSPECIFIED:
	}
	return errors.New("it has no mode that this version knows")
}

func checkIdentity(m *sealpb.Manifest) error {
	for _, id := range []struct {
		name string
		b    []byte
	}{{"keyspace id", m.GetKeyspaceId()}, {"cluster id", m.GetClusterId()}, {"ceremony id", m.GetCeremonyId()}} {
		if _, err := hierarchy.UIDFromBytes(id.b); err != nil {
			return fmt.Errorf("its %s is not 16 bytes other than zero", id.name)
		}
	}
	if g := m.GetGeneration(); g < 1 || g > MaxGeneration {
		return fmt.Errorf("generation %d, the limits are 1 and %d", g, uint32(MaxGeneration))
	}
	if c := m.GetMasterKeyCommitment(); len(c) != sha256.Size {
		return fmt.Errorf("commitment of %d bytes, want %d", len(c), sha256.Size)
	}
	if n := len(m.GetSignedIntents()); n > MaxIntents {
		return fmt.Errorf("%d signed intents, the limit is %d", n, MaxIntents)
	}
	for _, i := range m.GetSignedIntents() {
		if len(i) < 1 || len(i) > MaxIntent {
			return fmt.Errorf("signed intent of %d bytes, the limits are 1 and %d", len(i), MaxIntent)
		}
	}
	return nil
}

// checkOccasion is of format 2: why the ceremony was held and what it replaced.
func checkOccasion(m *sealpb.Manifest) error {
	previous := len(m.GetPreviousManifest())
	switch k := m.GetKind(); k {
	case sealpb.CeremonyKind_CEREMONY_KIND_INIT:
		if previous != 0 {
			return errors.New("an init that names a manifest before it")
		}
	case sealpb.CeremonyKind_CEREMONY_KIND_RESHARE, sealpb.CeremonyKind_CEREMONY_KIND_REKEY,
		sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE, sealpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED:
		if previous != sha256.Size {
			return fmt.Errorf("digest of the manifest before with %d bytes, want %d", previous, sha256.Size)
		}
	case sealpb.CeremonyKind_CEREMONY_KIND_UNSPECIFIED:
		return errors.New("it has no kind of ceremony")
	default:
		return fmt.Errorf("kind %d of ceremony, which this version does not know", k)
	}
	if n := len(m.GetAcceptedRisks()); n > MaxRisks {
		return fmt.Errorf("%d accepted risks, the limit is %d", n, MaxRisks)
	}
	seen := make(map[string]bool)
	for _, r := range m.GetAcceptedRisks() {
		if err := CheckText("name of a risk", r, MaxRisk); err != nil {
			return err
		}
		if seen[r] {
			return errors.New("an accepted risk stands twice")
		}
		seen[r] = true
	}
	return nil
}

func checkAuto(m *sealpb.Manifest) error {
	if m.GetThreshold() != 0 || len(m.GetHolders()) != 0 || len(m.GetGroups()) != 0 {
		return errors.New("mode auto with shares")
	}
	if n := len(m.GetProviderKeys()); n < 1 || n > MaxProviderKeys {
		return fmt.Errorf("%d provider keys, the limits are 1 and %d", n, MaxProviderKeys)
	}
	type name struct{ provider, key string }
	seen := make(map[name]bool)
	for _, k := range m.GetProviderKeys() {
		if err := CheckKey(k); err != nil {
			return err
		}
		n := name{k.GetProvider(), k.GetKey()}
		if seen[n] {
			return fmt.Errorf("provider key %s key %q stands twice", n.provider, n.key)
		}
		seen[n] = true
	}
	return nil
}

func checkShamir(m *sealpb.Manifest) error {
	if len(m.GetProviderKeys()) != 0 {
		return errors.New("mode shamir with provider keys")
	}
	if n := len(m.GetHolders()); n > MaxShares {
		return fmt.Errorf("%d shares, the limit is %d", n, MaxShares)
	}
	if err := checkGroups(m); err != nil {
		return err
	}
	type point struct{ group, x uint32 }
	xs := make(map[point]bool)
	hashes := make(map[[sha256.Size]byte]bool)
	names := make(map[string]bool)
	for i, h := range m.GetHolders() {
		p := point{h.GetGroup(), h.GetX()}
		switch {
		case h.GetIndex() != uint32(i+1):
			return fmt.Errorf("share %d stands where %d belongs", h.GetIndex(), i+1)
		case h.GetX() < 1 || h.GetX() > MaxShares:
			return fmt.Errorf("share %d is at x = %d; at 0 it would be the secret itself", h.GetIndex(), h.GetX())
		case xs[p]:
			return fmt.Errorf("two shares are at x = %d", h.GetX())
		case len(h.GetShareHash()) != sha256.Size:
			return fmt.Errorf("share hash of %d bytes, want %d", len(h.GetShareHash()), sha256.Size)
		case hashes[[sha256.Size]byte(h.GetShareHash())]:
			return errors.New("two shares have one hash")
		}
		xs[p], hashes[[sha256.Size]byte(h.GetShareHash())] = true, true
		if m.GetFormat() < Format2 {
			if err := checkHolder1(h); err != nil {
				return fmt.Errorf("share %d: %w", h.GetIndex(), err)
			}
			continue
		}
		if err := checkHolder(h); err != nil {
			return fmt.Errorf("share %d: %w", h.GetIndex(), err)
		}
		if names[h.GetName()] {
			return fmt.Errorf("share %d: its holder has the name of another one", h.GetIndex())
		}
		names[h.GetName()] = true
	}
	return nil
}

// checkGroups also checks that holders stand in order of group.
func checkGroups(m *sealpb.Manifest) error {
	holders := make(map[uint32]int)
	last := uint32(0)
	for _, h := range m.GetHolders() {
		if h.GetGroup() < last {
			return fmt.Errorf("share %d is out of the order of groups", h.GetIndex())
		}
		last = h.GetGroup()
		holders[last]++
	}
	thresholds := []uint32{m.GetThreshold()}
	if m.GetFormat() >= Format2 {
		n := len(m.GetGroups())
		if n < 1 || n > MaxGroups {
			return fmt.Errorf("%d groups, the limits are 1 and %d", n, MaxGroups)
		}
		if n == 1 && m.GetThreshold() != m.GetGroups()[0].GetThreshold() || n > 1 && m.GetThreshold() != 0 {
			return fmt.Errorf("threshold %d beside %d groups", m.GetThreshold(), n)
		}
		thresholds = thresholds[:0]
		names := make(map[string]bool)
		for _, g := range m.GetGroups() {
			thresholds = append(thresholds, g.GetThreshold())
			if g.GetName() == "" && n == 1 {
				continue
			}
			if err := CheckText("name of a group", g.GetName(), MaxName); err != nil {
				return err
			}
			if names[g.GetName()] {
				return errors.New("two groups have one name")
			}
			names[g.GetName()] = true
		}
	}
	if int(last) >= len(thresholds) {
		return fmt.Errorf("a share of group %d of %d", last+1, len(thresholds))
	}
	for i, t := range thresholds {
		if err := CheckThreshold(holders[uint32(i)], int64(t)); err != nil {
			return err
		}
	}
	return nil
}

// checkHolder1 is of format 1, which has only people whose share is printed.
func checkHolder1(h *sealpb.Holder) error {
	if h.GetKind() != sealpb.HolderKind_HOLDER_KIND_PERSON || len(h.GetEncryptedShardHash()) != 0 {
		return errors.New("it is not printed for a person, and so not of format 1")
	}
	return CheckText("name of its holder", h.GetRecipient(), MaxName1)
}

func checkHolder(h *sealpb.Holder) error {
	if err := CheckText("name of its holder", h.GetName(), MaxName); err != nil {
		return err
	}
	if d := h.GetDomain(); d != nil {
		if d.GetProviderType() == "" && d.GetAccount() == "" && d.GetRegion() == "" {
			return errors.New("its holder has a domain that says nothing")
		}
		for _, s := range []string{d.GetProviderType(), d.GetAccount(), d.GetRegion()} {
			if s == "" {
				continue
			}
			if err := CheckText("domain of its holder", s, MaxDomain); err != nil {
				return err
			}
		}
	}
	encrypted := len(h.GetEncryptedShardHash())
	switch h.GetKind() {
	case sealpb.HolderKind_HOLDER_KIND_PERSON:
		if h.GetProviderKey() != nil {
			return errors.New("a person with a provider key")
		}
		if h.GetRecipient() == "" { // printed
			if encrypted != 0 {
				return errors.New("a person without a recipient has an encrypted shard")
			}
			return nil
		}
		if err := CheckText("recipient", h.GetRecipient(), MaxRecipient); err != nil {
			return err
		}
	case sealpb.HolderKind_HOLDER_KIND_KEYSTORE:
		if h.GetRecipient() != "" {
			return errors.New("a keystore with a recipient")
		}
		if err := CheckKey(h.GetProviderKey()); err != nil {
			return err
		}
	case sealpb.HolderKind_HOLDER_KIND_UNSPECIFIED:
		return errors.New("it has no kind of holder")
	default:
		return fmt.Errorf("kind %d of holder, which this version does not know", h.GetKind())
	}
	if encrypted != sha256.Size {
		return fmt.Errorf("hash of the encrypted shard with %d bytes, want %d", encrypted, sha256.Size)
	}
	return nil
}

// CheckThreshold refuses m of n shares that cannot be, or are too few.
func CheckThreshold(n int, m int64) error {
	switch {
	case m < MinThreshold:
		return fmt.Errorf("threshold %d, the smallest is %d", m, MinThreshold)
	case n > MaxShares:
		return fmt.Errorf("%d shares, the limit is %d", n, MaxShares)
	case m > int64(n):
		return fmt.Errorf("threshold %d of %d shares could never be reached", m, n)
	}
	return nil
}

// CheckKey refuses a provider key without names, or with too long ones.
func CheckKey(k *sealpb.ProviderKey) error {
	if p, key := k.GetProvider(), k.GetKey(); p == "" || len(p) > MaxProvider || key == "" || len(key) > MaxKey {
		return errors.New("provider key without a name or with one that is too long")
	}
	return nil
}

// CheckText refuses a text that people read if it is empty, longer than limit
// bytes, not UTF-8, or has control characters, which could rewrite a line on a terminal.
func CheckText(what, s string, limit int) error {
	if s == "" || len(s) > limit || !utf8.ValidString(s) {
		return fmt.Errorf("%s with %d bytes, want 1 to %d of valid UTF-8", what, len(s), limit)
	}
	for _, c := range s {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return fmt.Errorf("%s with a control character", what)
		}
	}
	return nil
}
