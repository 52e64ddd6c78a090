package policy

import "slices"

// reads is what a program can look at beyond principal, action and resource.
// What is not in it cannot change an answer, and is not in the key of the cache
// (I4).
type reads struct {
	resource bool
	version  bool
	region   bool
	all      bool     // the encryption context as a whole
	keys     []string // single keys of it, sorted

	// What has to be built for an evaluation. It is no part of the key: the key
	// has what it is built of.
	attributes bool // of principal and resource
	context    bool
}

// of adds what n and everything below can read, in whichever branch it stands.
// It follows the shape of the expression only, so it may name too much and never
// too little: what it does not know as a way to one attribute is the whole
// context.
func (r *reads) of(n *node) {
	r.context = r.context || n.isContext() || len(n.args) > 0 && (n.args[0].isContext() || n.args[0].isEncryptionContext())
	r.attributes = r.attributes || (n.op == opGet || n.op == opHas) && n.args[0].op == opVar && !n.args[0].isContext()
	switch {
	case n.isContext():
		r.resource, r.version, r.region, r.all = true, true, true, true
	case n.isEncryptionContext():
		r.all = true
	case (n.op == opGet || n.op == opHas) && n.args[0].isEncryptionContext():
		r.key(n.text)
	case n.op == opHas && n.args[0].isContext():
		// Which attributes a context has is decided by the action.
	case n.op == opGet && n.args[0].isContext():
		r.resource = r.resource || n.text == attrResource
		r.version = r.version || n.text == attrVersion
		r.region = r.region || n.text == attrRegion
	default:
		for _, a := range n.args {
			r.of(a)
		}
	}
}

// join adds what o reads.
func (r *reads) join(o reads) {
	r.resource = r.resource || o.resource
	r.version = r.version || o.version
	r.region = r.region || o.region
	r.all = r.all || o.all
	r.attributes = r.attributes || o.attributes
	r.context = r.context || o.context
	for _, k := range o.keys {
		r.key(k)
	}
}

func (r *reads) key(k string) {
	if i, ok := slices.BinarySearch(r.keys, k); !ok {
		r.keys = slices.Insert(r.keys, i, k)
	}
}

// Reads are the parts of a query, beside principal, action and resource, that
// the policies for one action can look at.
type Reads struct {
	Resource, Version, Region bool
	WholeContext              bool     // the encryption context as a whole
	Keys                      []string // keys of the encryption context, sorted
}

// Reads returns what the policies for a can look at. Who wants to know what
// someone may do gives these, or learns only about a caller who gives none.
func (s *Set) Reads(a Action) Reads {
	if s == nil || !a.Valid() {
		return Reads{}
	}
	r := s.byAction[a].reads
	return Reads{Resource: r.resource, Version: r.version, Region: r.region, WholeContext: r.all, Keys: slices.Clone(r.keys)}
}
