package intent

import "math"

// SealKey is a key of a configured keystore.
type SealKey struct {
	Provider string
	Key      string
}

// SealHolder is who gets a share: a person by an age recipient, or a keystore by its key.
type SealHolder struct {
	Name         string
	Recipient    string
	Key          SealKey
	ProviderType string
	Account      string
	Region       string
}

// SealGroup is a group of holders, Threshold of which are needed.
type SealGroup struct {
	Name      string
	Threshold uint64
	Holders   []SealHolder
}

// Names of the kinds of ceremonies, as they are signed.
const (
	CeremonyReshare          = "reshare"
	CeremonyMigrate          = "migrate"
	CeremonyRekey            = "rekey"
	CeremonyRekeyCompromised = "rekey-compromised"
)

// confirmSeal is how [ConfirmSeal] names itself, where the others name their kind.
const confirmSeal = "rekey-confirm"

// ConfirmSeal confirms what was made in place of an exposed MasterKey: it is signed after
// that exists, so that nobody else can have meant another one.
type ConfirmSeal struct {
	Ceremony    []byte // its id, 16 bytes
	Manifest    []byte // digest of the new seal's manifest, which commits to the MasterKey; 32 bytes
	Authorities []byte // digest of the new CAs' certificates, 32 bytes
}

// Request returns the canonical form.
func (c ConfirmSeal) Request() *Request {
	return NewRequest(ActRekey).Text("kind", confirmSeal).Bytes("ceremony", c.Ceremony).Bytes("manifest", c.Manifest).Bytes("authorities", c.Authorities)
}

// Ceremony changes who can open the MasterKey, or the MasterKey. All of the plan is
// in it, and not its digest: whoever signs has to read who gets a share.
type Ceremony struct {
	Kind   string // decides the act
	Base   []byte // digest of the manifest that it replaces, 32 bytes
	Groups []SealGroup
	Keys   []SealKey // in place of groups: any one of them opens it
	Risks  []string  // that are accepted, by name
}

// ActOfCeremony returns the act that a kind of ceremony is, or ActUnspecified.
func ActOfCeremony(kind string) Act {
	switch kind {
	case CeremonyReshare:
		return ActReshare
	case CeremonyMigrate:
		return ActMigrate
	case CeremonyRekey, CeremonyRekeyCompromised:
		return ActRekey
	}
	return ActUnspecified
}

// Request returns the canonical form.
func (c Ceremony) Request() *Request {
	r := NewRequest(ActOfCeremony(c.Kind)).Text("kind", c.Kind).Bytes("base", c.Base).List("groups", len(c.Groups))
	for _, g := range c.Groups {
		r.Text("group", g.Name).Uint("threshold", g.Threshold).List("holders", len(g.Holders))
		for _, h := range g.Holders {
			r.Text("holder", h.Name).Text("recipient", h.Recipient).Text("keystore", h.Key.Provider).Text("key", h.Key.Key).
				Text("provider_type", h.ProviderType).Text("account", h.Account).Text("region", h.Region)
		}
	}
	r.List("keys", len(c.Keys))
	for _, k := range c.Keys {
		r.Text("keystore", k.Provider).Text("key", k.Key)
	}
	r.List("risks", len(c.Risks))
	for _, risk := range c.Risks {
		r.Text("risk", risk)
	}
	return r
}

// ceremonyForms are the forms of the type above.
//
//nolint:gochecknoglobals // Immutable.
var ceremonyForms = []form{
	ceremonyForm(ActReshare, "give other holders shares of the MasterKey; it revokes nobody", CeremonyReshare),
	ceremonyForm(ActMigrate, "have others open the MasterKey; it revokes nobody", CeremonyMigrate),
	ceremonyForm(ActRekey, "make a new MasterKey and wrap the internal keys under it", CeremonyRekey),
	ceremonyForm(ActRekey, "make a new MasterKey, and nothing left that the old one opens", CeremonyRekeyCompromised),
	{
		act: ActRekey, orders: "confirm the MasterKey that was made in place of an exposed one, and the new CAs",
		fields: []shape{
			{name: "kind", kind: KindText, fits: oneOf(confirmSeal)},
			{name: "ceremony", kind: KindBytes, fits: isCeremonyID},
			{name: "manifest", kind: KindBytes, fits: isDigest, note: noteAlways("digest of the new seal's manifest: krypton ceremony status shows it")},
			{name: "authorities", kind: KindBytes, fits: isDigest, note: noteAlways("digest of the new CAs' certificates: krypton ceremony status shows it")},
		},
	},
}

func ceremonyForm(act Act, orders, kind string) form {
	return form{
		act: act, orders: orders,
		fields: []shape{
			{name: "kind", kind: KindText, fits: oneOf(kind)},
			{name: "base", kind: KindBytes, fits: isDigest, note: noteAlways("digest of the seal's manifest that this replaces")},
			{name: "groups", kind: KindList, note: noteGroups, each: []shape{
				{name: "group", kind: KindText},
				{name: "threshold", kind: KindUint, fits: atMost(math.MaxUint32), note: noteAlways("so many of the holders that follow are needed")},
				{name: "holders", kind: KindList, each: []shape{
					{name: "holder", kind: KindText, fits: notEmpty},
					{name: "recipient", kind: KindText, note: noteIfEmpty("a keystore, not a person")},
					{name: "keystore", kind: KindText, note: noteIfEmpty("a person, not a keystore")},
					{name: "key", kind: KindText},
					{name: "provider_type", kind: KindText},
					{name: "account", kind: KindText},
					{name: "region", kind: KindText},
				}},
			}},
			{name: "keys", kind: KindList, note: noteKeys, each: []shape{
				{name: "keystore", kind: KindText, fits: notEmpty},
				{name: "key", kind: KindText, fits: notEmpty},
			}},
			{name: "risks", kind: KindList, note: noteRisks, each: []shape{{name: "risk", kind: KindText, fits: notEmpty}}},
		},
	}
}

func noteGroups(all []Field, i int) string {
	switch all[i].Uint {
	case 0:
		return "none: no shares"
	case 1:
		return ""
	}
	return "all of them are needed"
}

func noteKeys(all []Field, i int) string {
	if all[i].Uint == 0 {
		return "none opens it alone"
	}
	return "any one of them opens it, without people"
}

func noteRisks(all []Field, i int) string {
	if all[i].Uint == 0 {
		return ""
	}
	return "named by the plan's analysis, and accepted"
}
