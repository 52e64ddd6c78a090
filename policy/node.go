package policy

import (
	"slices"

	"github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
)

// op is what a node of an expression does.
type op uint8

const (
	opBool   op = iota // literal
	opLong             // literal
	opString           // literal
	opEntity           // literal: name is the type, text the id
	opVar              // name
	opSet
	opRecord // keys beside args
	opAnd
	opOr
	opNot
	opNegate
	opIf
	opEqual
	opUnequal
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opAdd
	opSub
	opMul
	opIn
	opIs   // name is the type
	opIsIn // name is the type
	opLike // runes is the pattern
	opHas  // text is the attribute
	opGet  // text is the attribute
	opContains
	opContainsAll
	opContainsAny
	opIsEmpty
)

// node is an expression and where it stands. Cedar's own tree has no places.
type node struct {
	op    op
	at    place
	args  []*node
	name  string
	text  string
	num   int64
	keys  []string
	runes []rune
}

// scopeKind is the form of principal, action or resource in the head of a statement.
type scopeKind uint8

const (
	scopeAll scopeKind = iota
	scopeEqual
	scopeIn
	scopeIs
	scopeIsIn
	scopeInSet // actions only
)

type scope struct {
	kind scopeKind
	at   place
	name string  // type behind is
	refs []*node // entities
}

// statement is one permit or forbid.
type statement struct {
	at         place
	forbid     bool
	principal  scope
	action     scope
	resource   scope
	conditions []condition
	nodes      int // of all conditions and heads together
	mentions   int // of the context: see MaxMentions
}

type condition struct {
	unless bool
	body   *node
}

// cedar makes Cedar's tree of st.
func (st *statement) cedar() *ast.Policy {
	p := ast.Permit()
	if st.forbid {
		p = ast.Forbid()
	}
	switch s := st.principal; s.kind {
	case scopeEqual:
		p = p.PrincipalEq(s.refs[0].uid())
	case scopeIn:
		p = p.PrincipalIn(s.refs[0].uid())
	case scopeIs:
		p = p.PrincipalIs(types.EntityType(s.name))
	case scopeIsIn:
		p = p.PrincipalIsIn(types.EntityType(s.name), s.refs[0].uid())
	case scopeAll, scopeInSet:
	}
	switch s := st.action; s.kind {
	case scopeEqual:
		p = p.ActionEq(s.refs[0].uid())
	case scopeIn:
		p = p.ActionIn(s.refs[0].uid())
	case scopeInSet:
		all := make([]types.EntityUID, len(s.refs))
		for i, r := range s.refs {
			all[i] = r.uid()
		}
		p = p.ActionInSet(all...)
	case scopeAll, scopeIs, scopeIsIn:
	}
	switch s := st.resource; s.kind {
	case scopeEqual:
		p = p.ResourceEq(s.refs[0].uid())
	case scopeIn:
		p = p.ResourceIn(s.refs[0].uid())
	case scopeIs:
		p = p.ResourceIs(types.EntityType(s.name))
	case scopeIsIn:
		p = p.ResourceIsIn(types.EntityType(s.name), s.refs[0].uid())
	case scopeAll, scopeInSet:
	}
	for _, c := range st.conditions {
		if c.unless {
			p = p.Unless(c.body.cedar())
		} else {
			p = p.When(c.body.cedar())
		}
	}
	return p
}

// isPath reports whether n is a variable or an attribute of a path.
func (n *node) isPath() bool {
	for n.op == opGet {
		n = n.args[0]
	}
	return n.op == opVar
}

// mentions counts what n and everything below costs in passes over the context.
func (n *node) mentions() int {
	total := 0
	for _, a := range n.args {
		total += a.mentions()
	}
	switch {
	case n.isContext():
		total++
	case n.op == opLike && total > 0 && slices.Contains(n.runes, wild):
		total += patternWeight * len(n.runes)
	}
	return total
}

// isContext reports whether n is the context, or the encryption context in it
// as every other part of the engine knows it.
func (n *node) isContext() bool { return n.op == opVar && n.name == varContext }

func (n *node) isEncryptionContext() bool {
	return n.op == opGet && n.text == attrEncryptionContext && n.args[0].isContext()
}

func (n *node) uid() types.EntityUID {
	return types.NewEntityUID(types.EntityType(n.name), types.String(n.text))
}

func (n *node) pattern() types.Pattern {
	var parts []any
	var literal []rune
	for _, r := range n.runes {
		if r == wild {
			parts = append(parts, string(literal), types.Wildcard{})
			literal = literal[:0]
			continue
		}
		literal = append(literal, r)
	}
	return types.NewPattern(append(parts, string(literal))...)
}

// cedar makes Cedar's tree of n.
func (n *node) cedar() ast.Node {
	arg := func(i int) ast.Node { return n.args[i].cedar() }
	switch n.op {
	case opBool:
		return ast.Boolean(n.num != 0)
	case opLong:
		return ast.Long(n.num)
	case opString:
		return ast.String(n.text)
	case opEntity:
		return ast.Value(n.uid())
	case opVar:
		switch n.name {
		case varPrincipal:
			return ast.Principal()
		case varAction:
			return ast.Action()
		case varResource:
			return ast.Resource()
		}
		return ast.Context()
	case opSet:
		all := make([]ast.Node, len(n.args))
		for i := range n.args {
			all[i] = arg(i)
		}
		return ast.Set(all...)
	case opRecord:
		var all ast.Pairs
		for i, k := range n.keys {
			all = append(all, ast.Pair{Key: types.String(k), Value: arg(i)})
		}
		return ast.Record(all)
	case opAnd:
		return arg(0).And(arg(1))
	case opOr:
		return arg(0).Or(arg(1))
	case opNot:
		return ast.Not(arg(0))
	case opNegate:
		return ast.Negate(arg(0))
	case opIf:
		return ast.IfThenElse(arg(0), arg(1), arg(2))
	case opEqual:
		return arg(0).Equal(arg(1))
	case opUnequal:
		return arg(0).NotEqual(arg(1))
	case opLess:
		return arg(0).LessThan(arg(1))
	case opLessEqual:
		return arg(0).LessThanOrEqual(arg(1))
	case opGreater:
		return arg(0).GreaterThan(arg(1))
	case opGreaterEqual:
		return arg(0).GreaterThanOrEqual(arg(1))
	case opAdd:
		return arg(0).Add(arg(1))
	case opSub:
		return arg(0).Subtract(arg(1))
	case opMul:
		return arg(0).Multiply(arg(1))
	case opIn:
		return arg(0).In(arg(1))
	case opIs:
		return arg(0).Is(types.EntityType(n.name))
	case opIsIn:
		return arg(0).IsIn(types.EntityType(n.name), arg(1))
	case opLike:
		return arg(0).Like(n.pattern())
	case opHas:
		return arg(0).Has(types.String(n.text))
	case opGet:
		return arg(0).Access(types.String(n.text))
	case opContains:
		return arg(0).Contains(arg(1))
	case opContainsAll:
		return arg(0).ContainsAll(arg(1))
	case opContainsAny:
		return arg(0).ContainsAny(arg(1))
	case opIsEmpty:
		return arg(0).IsEmpty()
	}
	return ast.False() // not reached: the switch names every op
}
