package policy

import "github.com/openkcm/krypton-cluster/hierarchy"

// keySet is a set of keys of the encryption context that are known to be there,
// as bits of their numbers in checker.keys.
type keySet uint64

// maxKeys is how many different keys one statement may read: as many as a
// caller may give, and as a keySet has bits.
const maxKeys = hierarchy.MaxContextPairs

// checker judges one statement of a tenant's policy against the schema. The
// type pass runs once for every action, type of principal and type of resource
// that the head admits.
type checker struct {
	tenant hierarchy.Name
	keys   map[string]int

	action    Action
	principal entityType
	resource  entityType
}

// check returns what is wrong with st, or nil (I1).
func check(tenant hierarchy.Name, st *statement) *fault {
	c := checker{tenant: tenant, keys: map[string]int{}}
	for _, s := range []*scope{&st.principal, &st.action, &st.resource} {
		if f := c.resolveScope(s, s == &st.action); f != nil {
			return f
		}
	}
	for _, cond := range st.conditions {
		if f := c.resolve(cond.body); f != nil {
			return f
		}
	}
	return c.types(st)
}

// admits returns which of the types of candidates the head s leaves.
func (s *scope) admits(candidates entityType) entityType {
	switch s.kind {
	case scopeEqual:
		shape, _ := shapeNamed(s.refs[0].name)
		return candidates & shape.bit
	case scopeIn:
		return candidates & within(s.refs[0].name)
	case scopeIs:
		shape, _ := shapeNamed(s.name)
		return candidates & shape.bit
	case scopeIsIn:
		shape, _ := shapeNamed(s.name)
		return candidates & shape.bit & within(s.refs[0].name)
	case scopeAll, scopeInSet:
	}
	return candidates
}

// within returns the types whose entities can be in one of the type of that name.
func within(name string) entityType {
	target, _ := shapeNamed(name)
	all := target.bit
	for _, s := range entityShapes {
		if s.parents&target.bit != 0 {
			all |= s.bit
		}
	}
	return all
}

// admitsAction reports whether the head lets a through.
func (s *scope) admitsAction(a Action) bool {
	if s.kind == scopeAll {
		return true
	}
	for _, r := range s.refs {
		if actions[a].name == r.text || s.kind != scopeEqual && actionIn(a, r.text) {
			return true
		}
	}
	return false
}

// types runs the type pass in every environment that the head admits.
func (c *checker) types(st *statement) *fault {
	fits, possible := false, false
	for a := Action(1); a < actionEnd; a++ {
		if !st.action.admitsAction(a) {
			continue
		}
		principals, resources := st.principal.admits(actions[a].principals), st.resource.admits(actions[a].resources)
		for p := range principals.each {
			for r := range resources.each {
				fits = true
				c.action, c.principal, c.resource = a, p, r
				ok, f := c.conditions(st)
				if f != nil {
					return f
				}
				possible = possible || ok
			}
		}
	}
	switch {
	case !fits:
		return &fault{st.at, "a statement that fits no request: this kind of principal never does this action on this kind of resource", "see which actions apply to what in the schema"}
	case !possible:
		return &fault{st.at, "a statement that can never apply: its conditions are never true together", "take it out, or mend the condition"}
	}
	return nil
}

// conditions reports whether the statement can apply in this environment.
func (c *checker) conditions(st *statement) (possible bool, f *fault) {
	possible = true
	for _, cond := range st.conditions {
		t, _, f := c.typeOf(cond.body, 0)
		if f != nil {
			return false, f
		}
		if !t.isBool() {
			return false, &fault{cond.body.at, "a condition that is " + t.String(), "write something that is true or false"}
		}
		never := kindFalse
		if cond.unless {
			never = kindTrue
		}
		possible = possible && t.kind != never
	}
	return possible, nil
}
