package policy

import (
	"strconv"
	"strings"
)

// The variables of an expression.
const (
	varPrincipal = "principal"
	varAction    = "action"
	varResource  = "resource"
	varContext   = "context"
)

// fault is what is wrong with a text, where, and what to do. It quotes nothing
// of the text: the place says enough.
type fault struct {
	at        place
	what, fix string
}

// parser reads statements by the grammar of Cedar, without what the schema has no
// use for: functions of IP addresses, decimals and times, and tags. It bounds
// depth and size before any tree is made (I6), which Cedar's own parser does not.
type parser struct {
	tokens []token
	pos    int
	depth  int
	st     *statement
}

// parse returns the statements of text.
func parse(text string) ([]*statement, *fault) {
	tokens, f := scan(text)
	if f != nil {
		return nil, f
	}
	p := parser{tokens: tokens}
	var all []*statement
	for p.peek().kind != tokenEnd {
		if len(all) == MaxStatements {
			return nil, p.fault("more statements than a set may have", "keep to "+strconv.Itoa(MaxStatements))
		}
		st, f := p.statement()
		if f != nil {
			return nil, f
		}
		all = append(all, st)
	}
	if len(all) == 0 {
		return nil, p.fault("no statement", "write a permit or a forbid that ends with ;")
	}
	return all, nil
}

func (p *parser) peek() token { return p.tokens[p.pos] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if p.pos < len(p.tokens)-1 {
		p.pos++
	}
	return t
}

func (p *parser) fault(what, fix string) *fault { return &fault{at: p.peek().at, what: what, fix: fix} }

// sees reports whether the next token is s, a sign or a word.
func (p *parser) sees(s string) bool {
	t := p.peek()
	return t.kind != tokenString && t.kind != tokenEnd && t.text == s
}

// skip goes over the next token if it is s.
func (p *parser) skip(s string) bool {
	if p.sees(s) {
		p.next()
		return true
	}
	return false
}

func (p *parser) expect(s string) *fault {
	if !p.skip(s) {
		return p.fault("something else where "+s+" should stand", "write "+s+" here")
	}
	return nil
}

// enter counts one more level of nesting; leave takes it back.
func (p *parser) enter() *fault {
	if p.depth++; p.depth > MaxDepth {
		return p.fault("expressions nested more than "+strconv.Itoa(MaxDepth)+" deep", "split the condition into several statements")
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

// node makes a node and counts it.
func (p *parser) node(n node) (*node, *fault) {
	if p.st.nodes++; p.st.nodes > MaxNodes {
		return nil, &fault{n.at, "a statement of more than " + strconv.Itoa(MaxNodes) + " parts", "split it into several statements"}
	}
	return &n, nil
}

func (p *parser) statement() (*statement, *fault) {
	p.st, p.depth = &statement{at: p.peek().at}, 0
	if f := p.annotations(); f != nil {
		return nil, f
	}
	switch {
	case p.skip("permit"):
	case p.skip("forbid"):
		p.st.forbid = true
	default:
		return nil, p.fault("neither permit nor forbid", "begin a statement with permit or forbid")
	}
	if f := p.expect("("); f != nil {
		return nil, f
	}
	heads := [...]struct {
		name string
		into *scope
	}{{varPrincipal, &p.st.principal}, {varAction, &p.st.action}, {varResource, &p.st.resource}}
	for i, h := range heads {
		h.into.at = p.peek().at
		f := p.expect(h.name)
		if f == nil {
			f = p.scope(h.into, h.name == varAction)
		}
		if f == nil && i < 2 {
			f = p.expect(",")
		}
		if f != nil {
			return nil, f
		}
	}
	p.skip(",")
	if f := p.expect(")"); f != nil {
		return nil, f
	}
	for p.sees("when") || p.sees("unless") {
		c := condition{unless: p.next().text == "unless"}
		f := p.expect("{")
		if f == nil {
			c.body, f = p.expression()
		}
		if f == nil {
			f = p.expect("}")
		}
		if f != nil {
			return nil, f
		}
		p.st.mentions += c.body.mentions()
		p.st.conditions = append(p.st.conditions, c)
	}
	if f := p.expect(";"); f != nil {
		return nil, f
	}
	return p.st, nil
}

// annotations goes over @name("text"): they say nothing to the engine.
func (p *parser) annotations() *fault {
	seen := map[string]bool{}
	for p.skip("@") {
		t := p.peek()
		if t.kind != tokenName && t.kind != tokenReserved {
			return p.fault("an annotation without a name", `write it like @note("why")`)
		}
		if seen[t.text] {
			return p.fault("the same annotation twice", "keep one of them")
		}
		seen[t.text] = true
		p.next()
		if !p.skip("(") {
			continue
		}
		if _, f := p.str("an annotation's text"); f != nil {
			return f
		}
		if f := p.expect(")"); f != nil {
			return f
		}
	}
	return nil
}

// str reads a quoted text.
func (p *parser) str(what string) (string, *fault) {
	t := p.peek()
	if t.kind != tokenString {
		return "", p.fault("something else where "+what+" should stand", `write a text in double quotes`)
	}
	runes, ok := unquote(t.text, false)
	if !ok {
		return "", p.fault(badEscape, fixEscape)
	}
	p.next()
	return string(runes), nil
}

const (
	badEscape = "an escape that Cedar does not know"
	fixEscape = `escapes are \" \' \\ \n \r \t \0 \x41 and \u{e9}; in patterns also \*`
)

func (p *parser) scope(s *scope, action bool) *fault {
	ref := func() *fault {
		n, f := p.entity()
		if f == nil {
			s.refs = append(s.refs, n)
		}
		return f
	}
	switch {
	case p.skip("=="):
		s.kind = scopeEqual
		return ref()
	case p.sees("in"):
		p.next()
		s.kind = scopeIn
		if !action || !p.skip("[") {
			return ref()
		}
		s.kind = scopeInSet
		for !p.sees("]") {
			if f := ref(); f != nil {
				return f
			}
			if !p.skip(",") && !p.sees("]") {
				return p.fault("actions without a comma between them", "separate them by commas")
			}
		}
		if len(s.refs) == 0 {
			return p.fault("an empty list of actions", "name the actions, or write only action")
		}
		p.next()
	case !action && p.skip("is"):
		var f *fault
		s.kind = scopeIs
		if s.name, f = p.typeName(); f != nil {
			return f
		}
		if p.skip("in") {
			s.kind = scopeIsIn
			return ref()
		}
	}
	return nil
}

// typeName reads a::b::c.
func (p *parser) typeName() (string, *fault) {
	if p.peek().kind != tokenName {
		return "", p.fault("something else where a type should stand", "name a type such as Krypton::Workload")
	}
	parts := []string{p.next().text}
	for p.skip("::") {
		if p.peek().kind != tokenName {
			return "", p.fault("something else where a type should stand", "name a type such as Krypton::Workload")
		}
		parts = append(parts, p.next().text)
	}
	return strings.Join(parts, "::"), nil
}

// entity reads a::b::"id".
func (p *parser) entity() (*node, *fault) {
	n := node{op: opEntity, at: p.peek().at}
	if p.peek().kind != tokenName {
		return nil, p.fault("something else where an entity should stand", `name one such as Krypton::Workload::"app1"`)
	}
	parts := []string{p.next().text}
	for {
		if f := p.expect("::"); f != nil {
			return nil, f
		}
		if p.peek().kind == tokenName {
			parts = append(parts, p.next().text)
			continue
		}
		n.name = strings.Join(parts, "::")
		var f *fault
		if n.text, f = p.str("the name of an entity"); f != nil {
			return nil, f
		}
		return p.node(n)
	}
}
