package policy

import "slices"

// kind is the kind of a type. True and false are types of their own, as in
// Cedar: what stands behind `principal is Krypton::Person &&` is not looked at
// where the principal is a workload.
type kind uint8

const (
	kindNone kind = iota
	kindBool
	kindTrue
	kindFalse
	kindLong
	kindString
	kindEntity
	kindSet
	kindRecord
	kindOpen // the encryption context: every key is an optional String
)

// typ is the type of an expression.
type typ struct {
	kind   kind
	entity entityType      // kindEntity: one bit
	elem   *typ            // kindSet
	fields map[string]*typ // kindRecord; all are there
}

func (t *typ) isBool() bool {
	return t.kind == kindBool || t.kind == kindTrue || t.kind == kindFalse
}

// String names the type for people.
func (t *typ) String() string {
	switch t.kind {
	case kindBool, kindTrue, kindFalse:
		return "a Bool"
	case kindLong:
		return "a number"
	case kindString:
		return "a text"
	case kindEntity:
		return "a " + string(shapeOf(t.entity).name)
	case kindSet:
		return "a set"
	case kindRecord:
		return "a record"
	case kindOpen:
		return "the encryption context"
	case kindNone:
	}
	return "nothing"
}

// join returns the type that both a and b are, or nil. As Cedar's strict
// validation, it joins no records of different attributes and no entities of
// different types.
func join(a, b *typ) *typ {
	switch {
	case a.isBool() && b.isBool():
		if a.kind == b.kind {
			return a
		}
		return &typ{kind: kindBool}
	case a.kind != b.kind:
		return nil
	}
	switch a.kind {
	case kindEntity:
		if a.entity != b.entity {
			return nil
		}
	case kindSet:
		elem := join(a.elem, b.elem)
		if elem == nil {
			return nil
		}
		return &typ{kind: kindSet, elem: elem}
	case kindRecord:
		if len(a.fields) != len(b.fields) {
			return nil
		}
		out := &typ{kind: kindRecord, fields: map[string]*typ{}}
		for k, fa := range a.fields {
			fb, ok := b.fields[k]
			if !ok {
				return nil
			}
			if out.fields[k] = join(fa, fb); out.fields[k] == nil {
				return nil
			}
		}
		return out
	case kindNone, kindBool, kindTrue, kindFalse, kindLong, kindString, kindOpen:
	}
	return a
}

//nolint:gochecknoglobals // Immutable.
var (
	typeBool   = &typ{kind: kindBool}
	typeTrue   = &typ{kind: kindTrue}
	typeFalse  = &typ{kind: kindFalse}
	typeLong   = &typ{kind: kindLong}
	typeString = &typ{kind: kindString}
	typeOpen   = &typ{kind: kindOpen}
)

func truth(b bool) *typ {
	if b {
		return typeTrue
	}
	return typeFalse
}

// typeOf returns the type of n, and the keys that are there if it is true. known
// are those that are there when it is evaluated.
func (c *checker) typeOf(n *node, known keySet) (*typ, keySet, *fault) {
	switch n.op {
	case opBool:
		return truth(n.num != 0), 0, nil
	case opLong:
		return typeLong, 0, nil
	case opString:
		return typeString, 0, nil
	case opEntity:
		s, _ := shapeNamed(n.name)
		return &typ{kind: kindEntity, entity: s.bit}, 0, nil
	case opVar:
		return c.variable(n), 0, nil
	case opAnd:
		return c.and(n, known)
	case opOr:
		return c.or(n, known)
	case opIf:
		return c.ifThenElse(n, known)
	case opHas:
		return c.has(n, known)
	case opNot:
		t, f := c.want(n.args[0], known, "true or false", (*typ).isBool)
		if f != nil {
			return nil, 0, f
		}
		if t.kind == kindBool {
			return typeBool, 0, nil
		}
		return truth(t.kind == kindFalse), 0, nil
	case opGet:
		t, f := c.get(n, known)
		return t, 0, f
	case opEqual, opUnequal:
		t, f := c.equality(n, known)
		return t, 0, f
	case opIn:
		t, f := c.in(n, known)
		return t, 0, f
	case opIs, opIsIn:
		t, f := c.is(n, known)
		return t, 0, f
	case opSet:
		t, f := c.set(n, known)
		return t, 0, f
	case opRecord:
		t, f := c.record(n, known)
		return t, 0, f
	case opNegate, opAdd, opSub, opMul, opLess, opLessEqual, opGreater, opGreaterEqual:
		for _, a := range n.args {
			if _, f := c.want(a, known, "a number", func(t *typ) bool { return t.kind == kindLong }); f != nil {
				return nil, 0, f
			}
		}
		if n.op >= opLess && n.op <= opGreaterEqual {
			return typeBool, 0, nil
		}
		return typeLong, 0, nil
	case opLike:
		_, f := c.want(n.args[0], known, "a text", func(t *typ) bool { return t.kind == kindString })
		return typeBool, 0, f
	case opContains, opContainsAll, opContainsAny, opIsEmpty:
		return typeBool, 0, c.sets(n, known)
	}
	return nil, 0, &fault{n.at, "an expression that is not understood", "report this as a bug"}
}

// want returns the type of n if it is one that ok takes.
func (c *checker) want(n *node, known keySet, what string, ok func(*typ) bool) (*typ, *fault) {
	t, _, f := c.typeOf(n, known)
	if f == nil && !ok(t) {
		f = &fault{n.at, t.String() + " where " + what + " should stand", "compare and combine values of one type"}
	}
	return t, f
}

func (c *checker) variable(n *node) *typ {
	switch n.name {
	case varPrincipal:
		return &typ{kind: kindEntity, entity: c.principal}
	case varAction:
		return &typ{kind: kindEntity, entity: typeAction}
	case varResource:
		return &typ{kind: kindEntity, entity: c.resource}
	}
	return actions[c.action].context
}

func (c *checker) and(n *node, known keySet) (*typ, keySet, *fault) {
	left, lkeys, f := c.typeOf(n.args[0], known)
	if f == nil && !left.isBool() {
		f = notBool(n.args[0], left)
	}
	if f != nil || left.kind == kindFalse {
		return left, 0, f
	}
	right, rkeys, f := c.typeOf(n.args[1], known|lkeys)
	if f == nil && !right.isBool() {
		f = notBool(n.args[1], right)
	}
	switch {
	case f != nil:
		return nil, 0, f
	case right.kind == kindFalse:
		return right, 0, nil
	case left.kind == kindTrue:
		return right, lkeys | rkeys, nil
	}
	return typeBool, lkeys | rkeys, nil
}

func (c *checker) or(n *node, known keySet) (*typ, keySet, *fault) {
	left, lkeys, f := c.typeOf(n.args[0], known)
	if f == nil && !left.isBool() {
		f = notBool(n.args[0], left)
	}
	if f != nil || left.kind == kindTrue {
		return left, lkeys, f
	}
	right, rkeys, f := c.typeOf(n.args[1], known)
	if f == nil && !right.isBool() {
		f = notBool(n.args[1], right)
	}
	switch {
	case f != nil:
		return nil, 0, f
	case left.kind == kindFalse:
		return right, rkeys, nil
	case right.kind == kindFalse:
		return left, lkeys, nil
	case right.kind == kindTrue:
		return right, 0, nil
	}
	return typeBool, lkeys & rkeys, nil
}

func notBool(n *node, t *typ) *fault {
	return &fault{n.at, t.String() + " where true or false should stand", "compare it with something"}
}

func (c *checker) ifThenElse(n *node, known keySet) (*typ, keySet, *fault) {
	cond, keys, f := c.typeOf(n.args[0], known)
	if f == nil && !cond.isBool() {
		f = notBool(n.args[0], cond)
	}
	switch {
	case f != nil:
		return nil, 0, f
	case cond.kind == kindFalse:
		return c.typeOf(n.args[2], known)
	}
	then, tkeys, f := c.typeOf(n.args[1], known|keys)
	if f != nil || cond.kind == kindTrue {
		return then, tkeys | keys, f
	}
	other, okeys, f := c.typeOf(n.args[2], known)
	if f != nil {
		return nil, 0, f
	}
	t := join(then, other)
	if t == nil {
		return nil, 0, mismatch(n, then, other)
	}
	return t, (tkeys | keys) & okeys, nil
}

func mismatch(n *node, a, b *typ) *fault {
	return &fault{n.at, a.String() + " and " + b.String() + " that should be of one type", "compare and combine values of one type; compare records attribute by attribute"}
}

// keyOf returns the bit of the key that n asks for or reads, if it is one.
func (c *checker) keyOf(n *node) (keySet, bool) {
	if !n.args[0].isEncryptionContext() {
		return 0, false
	}
	return keySet(1) << c.keys[n.text], true
}

func (c *checker) has(n *node, known keySet) (*typ, keySet, *fault) {
	on, _, f := c.typeOf(n.args[0], known)
	if f != nil {
		return nil, 0, f
	}
	switch on.kind {
	case kindOpen:
		key, ok := c.keyOf(n)
		if !ok {
			return nil, 0, &fault{n.at, "the encryption context by another way than its name", "write context.encryption_context"}
		}
		if known&key != 0 {
			return typeTrue, key, nil
		}
		return typeBool, key, nil
	case kindRecord:
		_, ok := on.fields[n.text]
		return truth(ok), 0, nil
	case kindEntity:
		if n.args[0].op != opVar {
			return nil, 0, &fault{n.at, "an attribute of an entity that is not part of the request", "only principal and resource have attributes here"}
		}
		if slices.Contains(shapeOf(on.entity).attrs, n.text) {
			return typeBool, 0, nil // not true: Cedar counts with entities that nobody knows
		}
		if !knownAttr(n.text) {
			return nil, 0, &fault{n.at, "an attribute that no type of the schema has", "see the schema for the attributes of each type"}
		}
		return typeFalse, 0, nil
	case kindNone, kindBool, kindTrue, kindFalse, kindLong, kindString, kindSet:
	}
	return nil, 0, &fault{n.at, on.String() + " where something with attributes should stand", "use has on principal, resource, context or context.encryption_context"}
}

func (c *checker) get(n *node, known keySet) (*typ, *fault) {
	on, _, f := c.typeOf(n.args[0], known)
	if f != nil {
		return nil, f
	}
	switch on.kind {
	case kindOpen:
		key, ok := c.keyOf(n)
		if !ok {
			return nil, &fault{n.at, "the encryption context by another way than its name", "write context.encryption_context"}
		}
		if known&key == 0 {
			return nil, &fault{n.at, "a key of the encryption context that may not be there", "ask before: context.encryption_context has the key && what you say about it"}
		}
		return typeString, nil
	case kindRecord:
		if t, ok := on.fields[n.text]; ok {
			return t, nil
		}
		if n.args[0].isContext() {
			return nil, &fault{n.at, "an attribute that the context of " + c.action.String() + " does not have", `limit the actions in the head, for example action in Krypton::Action::"use"`}
		}
		return nil, &fault{n.at, "an attribute that the record does not have", "mend the name"}
	case kindEntity:
		if n.args[0].op != opVar {
			return nil, &fault{n.at, "an attribute of an entity that is not part of the request", "only principal and resource have attributes here"}
		}
		shape := shapeOf(on.entity)
		if slices.Contains(shape.attrs, n.text) {
			return typeString, nil
		}
		if len(shape.attrs) == 0 {
			return nil, &fault{n.at, "an attribute of an action, which has none", "name the action"}
		}
		return nil, &fault{n.at, "an attribute that a " + string(shape.name) + " does not have", "it has " + oneOf(shape.attrs) + "; with is, a condition looks only at one type"}
	case kindNone, kindBool, kindTrue, kindFalse, kindLong, kindString, kindSet:
	}
	return nil, &fault{n.at, "an attribute of " + on.String(), "only principal, resource, context and records have attributes"}
}

func (c *checker) equality(n *node, known keySet) (*typ, *fault) {
	left, _, f := c.typeOf(n.args[0], known)
	if f != nil {
		return nil, f
	}
	right, _, f := c.typeOf(n.args[1], known)
	if f != nil {
		return nil, f
	}
	a, b := n.args[0], n.args[1]
	switch {
	case a.op == opVar && b.op == opVar && a.name == b.name:
		return truth(n.op == opEqual), nil
	case a.op <= opEntity && b.op <= opEntity && left.kind != kindEntity && (left.kind == right.kind || left.isBool() && right.isBool()):
		return truth((a.num == b.num && a.text == b.text) == (n.op == opEqual)), nil
	case left.kind == kindEntity && right.kind == kindEntity && left.entity != right.entity:
		return truth(n.op == opUnequal), nil
	case a.op == opEntity && b.op == opEntity:
		return truth((a.text == b.text) == (n.op == opEqual)), nil
	case join(left, right) == nil:
		return nil, mismatch(n, left, right)
	}
	return typeBool, nil
}

func isEntity(t *typ) bool { return t.kind == kindEntity }

func isEntities(t *typ) bool {
	return t.kind == kindEntity || t.kind == kindSet && t.elem.kind == kindEntity
}

func (c *checker) in(n *node, known keySet) (*typ, *fault) {
	left, f := c.want(n.args[0], known, "an entity", isEntity)
	if f != nil {
		return nil, f
	}
	right, f := c.want(n.args[1], known, "an entity or a set of entities", isEntities)
	if f != nil {
		return nil, f
	}
	if right.kind == kindSet {
		right = right.elem
	}
	if left.entity == typeAction && right.entity == typeAction {
		return c.actionIn(n), nil
	}
	if within(string(shapeOf(right.entity).name))&left.entity == 0 {
		return typeFalse, nil
	}
	return typeBool, nil
}

// actionIn decides action in [...] where it can be decided now, so that a
// condition looks only at the context of the actions that it is about.
func (c *checker) actionIn(n *node) *typ {
	name := c.actionOf(n.args[0])
	targets := []*node{n.args[1]}
	if n.args[1].op == opSet {
		targets = n.args[1].args
	}
	found := false
	for _, t := range targets {
		target := c.actionOf(t)
		if name == "" || target == "" {
			return typeBool
		}
		a, _ := ActionNamed(name)
		found = found || name == target || a.Valid() && actionIn(a, target)
	}
	return truth(found)
}

// actionOf returns the name of the action that n is, or "".
func (c *checker) actionOf(n *node) string {
	switch {
	case n.op == opVar && n.name == varAction:
		return c.action.String()
	case n.op == opEntity:
		return n.text
	}
	return ""
}

func (c *checker) is(n *node, known keySet) (*typ, *fault) {
	left, f := c.want(n.args[0], known, "an entity", isEntity)
	if f != nil {
		return nil, f
	}
	if n.op == opIsIn {
		_, f := c.want(n.args[1], known, "an entity or a set of entities", isEntities)
		return typeBool, f
	}
	return truth(string(shapeOf(left.entity).name) == n.name), nil
}

func (c *checker) set(n *node, known keySet) (*typ, *fault) {
	var elem *typ
	for _, a := range n.args {
		t, _, f := c.typeOf(a, known)
		if f != nil {
			return nil, f
		}
		if elem == nil {
			elem = t
			continue
		}
		joined := join(elem, t)
		if joined == nil {
			return nil, mismatch(a, elem, t)
		}
		elem = joined
	}
	return &typ{kind: kindSet, elem: elem}, nil // not empty: see resolve
}

func (c *checker) record(n *node, known keySet) (*typ, *fault) {
	out := &typ{kind: kindRecord, fields: map[string]*typ{}}
	for i, a := range n.args {
		t, _, f := c.typeOf(a, known)
		if f != nil {
			return nil, f
		}
		out.fields[n.keys[i]] = t
	}
	return out, nil
}

func (c *checker) sets(n *node, known keySet) *fault {
	isSet := func(t *typ) bool { return t.kind == kindSet }
	left, f := c.want(n.args[0], known, "a set", isSet)
	if f != nil || n.op == opIsEmpty {
		return f
	}
	var elem *typ
	if n.op == opContains {
		elem, _, f = c.typeOf(n.args[1], known)
	} else {
		var right *typ
		if right, f = c.want(n.args[1], known, "a set", isSet); f == nil {
			elem = right.elem
		}
	}
	if f == nil && join(left.elem, elem) == nil {
		f = mismatch(n, left.elem, elem)
	}
	return f
}
