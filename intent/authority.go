package intent

import "math"

// What is done with a CA of the cluster, as it is signed.
const (
	AuthorityReplace = "replace-ca"
	AuthorityRetire  = "retire-ca"
)

// DefaultOverlapMs is how long a replaced CA is trusted where nobody says another time,
// in milliseconds: a day.
const DefaultOverlapMs = 86400 * 1000

// ReplaceAuthority puts a new CA in the place of one of the cluster's own. Whose key it
// has nobody can know who signs before it is made; that the CA before it signed it, every
// replica sees.
type ReplaceAuthority struct {
	Name      string // of the internal secret
	Base      []byte // SHA-256 of the certificate that it replaces
	OverlapMs uint64 // how long the CA before is trusted, milliseconds
}

// Request returns the canonical form.
func (a ReplaceAuthority) Request() *Request {
	return NewRequest(ActRekey).Text("kind", AuthorityReplace).Text("ca", a.Name).Bytes("base", a.Base).Uint("overlap", a.OverlapMs)
}

// RetireAuthority ends the trust in every CA before the present one of a name.
type RetireAuthority struct {
	Name string // of the internal secret
	Base []byte // SHA-256 of the certificate that stays
}

// Request returns the canonical form.
func (a RetireAuthority) Request() *Request {
	return NewRequest(ActRekey).Text("kind", AuthorityRetire).Text("ca", a.Name).Bytes("base", a.Base)
}

// authorityForms are the forms of the types above. The act is that of a new MasterKey, and
// not one of its own: a cluster has rules for the acts that there were when it was founded,
// and what its rules do not know nobody would have to sign.
//
//nolint:gochecknoglobals // Immutable.
var authorityForms = []form{
	{
		act: ActRekey, orders: "put a new CA in the place of one of the cluster's own",
		fields: []shape{
			{name: "kind", kind: KindText, fits: oneOf(AuthorityReplace)},
			{name: "ca", kind: KindText, fits: notEmpty},
			{name: "base", kind: KindBytes, fits: isDigest, note: noteAlways("SHA-256 of the certificate of the CA that it replaces")},
			{name: "overlap", kind: KindUint, fits: atMost(math.MaxInt64), note: noteOverlap},
		},
	},
	{
		act: ActRekey, orders: "trust no CA any more that the present one replaced",
		fields: []shape{
			{name: "kind", kind: KindText, fits: oneOf(AuthorityRetire)},
			{name: "ca", kind: KindText, fits: notEmpty},
			{name: "base", kind: KindBytes, fits: isDigest, note: noteAlways("SHA-256 of the certificate of the CA that stays")},
		},
	},
}

func noteOverlap(all []Field, i int) string {
	if all[i].Uint == 0 {
		return "the one before is trusted no more"
	}
	return "milliseconds for which the one before is still trusted"
}
