package intent

import (
	"math"
	"slices"
	"time"
)

// form is the shape of one kind of request.
type form struct {
	act    Act
	orders string // what it orders, in one line for a person
	fields []shape
	whole  func([]Field) bool // whether the values fit together; nil: they always do
}

// shape is what a form says of one field.
type shape struct {
	name  string
	kind  Kind
	fits  func(Field) bool                // whether a builder can make the value; nil: any
	note  func(all []Field, i int) string // what the value of field i means; nil or empty: what it says
	each  []shape                         // of a list: the fields of every element
	maybe bool                            // it may be absent
}

// forms are the shapes of the types for acts. A request of another shape can be
// read and not be signed here: who signs must know what the fields mean.
//
//nolint:gochecknoglobals // Immutable.
var forms = slices.Concat(keyForms, peopleForms, policyForms, ceremonyForms, authorityForms)

// keyForms are the forms of what is ordered of tenants, keys and nodes.
//
//nolint:gochecknoglobals // Immutable.
var keyForms = []form{
	{
		act: ActBindL1, orders: "create a tenant and bind it to a customer key",
		fields: []shape{
			{name: "tenant", kind: KindText, fits: notEmpty},
			{name: "keystore", kind: KindText},
			{name: "key", kind: KindText},
			{name: "archetype", kind: KindText},
			governorsOf(true),
		},
	},
	{
		act: ActBindL1, orders: "bind a tenant that has no key to a customer key",
		fields: []shape{
			{name: "tenant", kind: KindText, fits: notEmpty},
			tenantUID(),
			{name: "keystore", kind: KindText, fits: notEmpty},
			{name: "key", kind: KindText, fits: notEmpty},
			{name: "archetype", kind: KindText},
			listOf("identity", KindText, "what the identity is called that is used for this tenant only"),
			listOf("regions", KindText, "a region whose nodes may use the key; none named: all"),
			listOf("shared_with", KindText, "a tenant that has the same key: whoever ends one ends the other"),
		},
	},
	{
		act: ActDestroy, orders: "destroy key material; what it protects cannot be read again",
		fields: []shape{
			{name: "tenant", kind: KindText, note: noteIfEmpty("none: the internal key of the cluster")},
			{name: "service", kind: KindText, note: noteIfEmpty("none")},
			{name: "version", kind: KindUint, fits: atMost(math.MaxUint32), note: noteDestroyed},
			{name: "now", kind: KindUint, fits: atMost(1), note: noteNow},
		},
		// Nothing else is an object: a service has a tenant, and the internal key is destroyed by version.
		whole: func(fs []Field) bool { return fs[0].Text != "" || fs[1].Text == "" && fs[2].Uint != 0 },
	},
	{
		act: ActResumeAfterUnlink, orders: "give a tenant or a service back that was unlinked",
		fields: []shape{
			{name: "tenant", kind: KindText, fits: notEmpty},
			{name: "service", kind: KindText, note: noteIfEmpty("the tenant itself")},
		},
	},
	{
		act: ActAddMember, orders: "make a join token with which a new node becomes a voter",
		fields: []shape{
			{name: "token", kind: KindBytes, fits: isDigest, note: noteAlways("SHA-256 of the join token's public key")},
			{name: "region", kind: KindText, note: noteIfEmpty("any region")},
			{name: "expire", kind: KindUint, fits: atMost(math.MaxInt64), note: noteTime},
		},
	},
	{
		act: ActAddMember, orders: "make a member a voter",
		fields: []shape{
			{name: "node", kind: KindText, fits: notEmpty},
			{name: "key", kind: KindBytes, fits: notEmpty, note: noteAlways("public key of the member, SubjectPublicKeyInfo")},
		},
	},
	{
		act: ActAddMember, orders: "take a vote, and leave no majority of the voters let in",
		fields: []shape{
			{name: "op", kind: KindText, fits: oneOf("remove", "demote"), note: noteWithdrawn},
			{name: "node", kind: KindText, fits: notEmpty},
			{name: "voters", kind: KindUint, fits: notEmpty, note: noteAlways("so many are left to decide what is committed")},
		},
	},
	{
		act: ActRestore, orders: "begin the cluster anew with one node; what is not in its state is lost",
		fields: []shape{
			{name: "op", kind: KindText, fits: oneOf(RecoverSnapshot, RecoverQuorum), note: noteRecovered},
			{name: "node", kind: KindText, fits: notEmpty},
			{name: "key", kind: KindBytes, fits: notEmpty, note: noteAlways("public key of the node, SubjectPublicKeyInfo")},
			{name: "incarnation", kind: KindBytes, fits: notEmpty},
			{name: "index", kind: KindUint, fits: notEmpty, note: noteAlways("last change that is kept")},
			{name: "chain", kind: KindBytes, fits: isDigest, note: noteAlways("state chain there")},
			listOf("lost", KindText, "a voter that is destroyed: if it lives, there may be two clusters"),
		},
	},
}

func notEmpty(f Field) bool { return f.Text != "" || len(f.Bytes) != 0 || f.Uint != 0 }

func atMost(n uint64) func(Field) bool { return func(f Field) bool { return f.Uint <= n } }

// isCeremonyID reports whether a value has the size of the id of a ceremony.
func isCeremonyID(f Field) bool { return len(f.Bytes) == 16 }

func isDigest(f Field) bool { return len(f.Bytes) == len(Digest{}) }

func oneOf(all ...string) func(Field) bool {
	return func(f Field) bool { return slices.Contains(all, f.Text) }
}

func noteAlways(s string) func([]Field, int) string {
	return func([]Field, int) string { return s }
}

func noteIfEmpty(s string) func([]Field, int) string {
	return func(all []Field, i int) string {
		if !notEmpty(all[i]) {
			return s
		}
		return ""
	}
}

func noteWithdrawn(all []Field, i int) string {
	if all[i].Text == "remove" {
		return "it ceases to be a member, for good"
	}
	return "it stays a member without a vote"
}

func noteRecovered(all []Field, i int) string {
	if all[i].Text == RecoverSnapshot {
		return "from a snapshot file, by a new node"
	}
	return "from what one member still has"
}

func noteDestroyed(all []Field, i int) string {
	tenant, service, version := all[0].Text, all[1].Text, all[i].Uint
	switch {
	case version == 0 && service == "":
		return "the whole tenant"
	case version == 0:
		return "the whole service"
	case tenant == "":
		return "this version of the internal key"
	case service == "":
		return "this version of the tenant's key"
	}
	return "this version of the service's key"
}

func noteNow(all []Field, i int) string {
	if all[i].Uint == 0 {
		return "after the waiting time of the cluster"
	}
	return "at once"
}

func noteTime(all []Field, i int) string { return timeText(all[i].Uint) }

// timeText says what time ms, unix milliseconds, is, in UTC as RFC 3339 has it.
func timeText(ms uint64) string {
	const year10000 = 253_402_300_800_000 // RFC 3339 has four digits for the year
	if ms >= year10000 {
		return "after the year 9999"
	}
	return time.UnixMilli(int64(ms)).UTC().Format("2006-01-02T15:04:05.000Z")
}

// form returns the form that r has, and the shape of each of its fields.
func (r *Request) form() (form, []shape, bool) {
	for _, fm := range forms {
		if fm.act != r.act {
			continue
		}
		shapes, rest, ok := match(fm.fields, r.fields)
		if ok && len(rest) == 0 && (fm.whole == nil || fm.whole(r.fields)) {
			return fm, shapes, true
		}
	}
	return form{}, nil, false
}

// match gives each field that the shapes take its shape, and returns the fields
// behind them.
func match(shapes []shape, fs []Field) (of []shape, rest []Field, ok bool) {
	for _, s := range shapes {
		if s.maybe && (len(fs) == 0 || fs[0].Name != s.name) {
			continue
		}
		if len(fs) == 0 || fs[0].Name != s.name || fs[0].Kind != s.kind || s.fits != nil && !s.fits(fs[0]) {
			return nil, nil, false
		}
		n := fs[0].Uint
		of, fs = append(of, s), fs[1:]
		if s.kind != KindList {
			continue
		}
		for range n { // ends with the fields, whatever the count: an element has at least one
			var each []shape
			if each, fs, ok = match(s.each, fs); !ok {
				return nil, nil, false
			}
			of = append(of, each...)
		}
	}
	return of, fs, true
}

// Known reports whether this release knows what every field of r orders: r is
// what one of the types for acts makes. Nothing else should be signed.
func (r *Request) Known() bool {
	_, _, ok := r.form()
	return ok
}
