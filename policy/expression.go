package policy

import "strconv"

func (p *parser) expression() (*node, *fault) {
	if f := p.enter(); f != nil {
		return nil, f
	}
	defer p.leave()
	at := p.peek().at
	if !p.skip("if") {
		return p.chain([]string{"||"}, []op{opOr}, p.and)
	}
	var args []*node
	for _, word := range [...]string{"then", "else", ""} {
		n, f := p.expression()
		if f == nil && word != "" {
			f = p.expect(word)
		}
		if f != nil {
			return nil, f
		}
		args = append(args, n)
	}
	return p.node(node{op: opIf, at: at, args: args})
}

// chain reads operands with operators between them that bind to the left.
func (p *parser) chain(signs []string, ops []op, operand func() (*node, *fault)) (*node, *fault) {
	left, f := operand()
	for f == nil {
		i := 0
		for i < len(signs) && !p.sees(signs[i]) {
			i++
		}
		if i == len(signs) {
			return left, nil
		}
		at := p.next().at
		var right *node
		if right, f = operand(); f == nil {
			left, f = p.node(node{op: ops[i], at: at, args: []*node{left, right}})
		}
	}
	return nil, f
}

func (p *parser) and() (*node, *fault) {
	return p.chain([]string{"&&"}, []op{opAnd}, p.relation)
}

func (p *parser) sum() (*node, *fault) {
	return p.chain([]string{"+", "-"}, []op{opAdd, opSub}, func() (*node, *fault) {
		return p.chain([]string{"*"}, []op{opMul}, p.unary)
	})
}

//nolint:gochecknoglobals // Immutable table.
var relations = map[string]op{
	"<": opLess, "<=": opLessEqual, ">": opGreater, ">=": opGreaterEqual, "==": opEqual, "!=": opUnequal, "in": opIn,
}

func (p *parser) relation() (*node, *fault) {
	left, f := p.sum()
	if f != nil {
		return nil, f
	}
	at := p.peek().at
	switch {
	case p.skip("has"):
		return p.has(left, at)
	case p.skip("like"):
		return p.like(left, at)
	case p.skip("is"):
		return p.is(left, at)
	}
	if t := p.peek(); t.kind != tokenString && t.kind != tokenEnd {
		if op, ok := relations[t.text]; ok {
			p.next()
			right, f := p.sum()
			if f != nil {
				return nil, f
			}
			return p.node(node{op: op, at: at, args: []*node{left, right}})
		}
	}
	return left, nil
}

// has reads what stands behind it: a text, or a.b.c, which asks for each in turn.
func (p *parser) has(left *node, at place) (*node, *fault) {
	if p.peek().kind == tokenString {
		s, f := p.str("an attribute")
		if f != nil {
			return nil, f
		}
		return p.node(node{op: opHas, at: at, args: []*node{left}, text: s})
	}
	var all *node
	for i := 0; ; i++ {
		if i == MaxDepth {
			return nil, p.fault("expressions nested more than "+strconv.Itoa(MaxDepth)+" deep", "ask for fewer attributes at a time")
		}
		if p.peek().kind != tokenName {
			return nil, p.fault("something else where an attribute should stand", `write a name, or any text in double quotes`)
		}
		name := p.next().text
		n, f := p.node(node{op: opHas, at: at, args: []*node{left}, text: name})
		if f == nil && all != nil {
			n, f = p.node(node{op: opAnd, at: at, args: []*node{all, n}})
		}
		if f != nil {
			return nil, f
		}
		all = n
		if !p.skip(".") {
			return all, nil
		}
		// Each step walks left once more. On any expression, steps inside of steps
		// would double the work with each level; on a path they cannot.
		if !left.isPath() {
			return nil, &fault{at, "has with dots behind something that is no path", "use it on a path such as context has encryption_context.purpose"}
		}
		p.st.nodes += 2 * (i + 1)
		if left, f = p.node(node{op: opGet, at: at, args: []*node{left}, text: name}); f != nil {
			return nil, f
		}
	}
}

func (p *parser) like(left *node, at place) (*node, *fault) {
	t := p.peek()
	if t.kind != tokenString {
		return nil, p.fault("something else where a pattern should stand", `write a text in double quotes, with * for anything`)
	}
	runes, ok := unquote(t.text, true)
	if !ok {
		return nil, p.fault(badEscape, fixEscape)
	}
	p.next()
	return p.node(node{op: opLike, at: at, args: []*node{left}, runes: runes})
}

func (p *parser) is(left *node, at place) (*node, *fault) {
	name, f := p.typeName()
	if f != nil {
		return nil, f
	}
	if !p.skip("in") {
		return p.node(node{op: opIs, at: at, args: []*node{left}, name: name})
	}
	right, f := p.sum()
	if f != nil {
		return nil, f
	}
	return p.node(node{op: opIsIn, at: at, args: []*node{left, right}, name: name})
}

func (p *parser) unary() (*node, *fault) {
	var signs []token
	for p.sees("-") || p.sees("!") {
		if len(signs) == MaxDepth {
			return nil, p.fault("more than "+strconv.Itoa(MaxDepth)+" signs in a row", "two of a kind take each other away")
		}
		signs = append(signs, p.next())
	}
	var n *node
	var f *fault
	if last := len(signs) - 1; last >= 0 && signs[last].text == "-" && p.peek().kind == tokenNumber {
		// The smallest number has no positive one.
		n, f = p.number("-", signs[last].at)
		signs = signs[:last]
	} else {
		n, f = p.member()
	}
	for i := len(signs) - 1; i >= 0 && f == nil; i-- {
		o := opNot
		if signs[i].text == "-" {
			o = opNegate
		}
		n, f = p.node(node{op: o, at: signs[i].at, args: []*node{n}})
	}
	if f != nil {
		return nil, f
	}
	return n, nil
}

func (p *parser) number(sign string, at place) (*node, *fault) {
	v, err := strconv.ParseInt(sign+p.peek().text, 10, 64)
	if err != nil {
		return nil, p.fault("a number of more than 64 bits", "use a smaller number")
	}
	p.next()
	return p.node(node{op: opLong, at: at, num: v})
}

func (p *parser) member() (*node, *fault) {
	n, f := p.primary()
	for i := 0; f == nil && (p.sees(".") || p.sees("[")); i++ {
		if i == MaxDepth {
			return nil, p.fault("expressions nested more than "+strconv.Itoa(MaxDepth)+" deep", "no attribute lies so deep")
		}
		if p.skip("[") {
			at := p.peek().at
			var name string
			if name, f = p.str("an attribute"); f == nil {
				f = p.expect("]")
			}
			if f == nil {
				n, f = p.node(node{op: opGet, at: at, args: []*node{n}, text: name})
			}
			continue
		}
		p.next()
		t := p.peek()
		if t.kind != tokenName {
			return nil, p.fault("something else where an attribute should stand", `write a name, or any text like ["a text"]`)
		}
		p.next()
		if p.sees("(") {
			n, f = p.method(n, t)
			continue
		}
		n, f = p.node(node{op: opGet, at: t.at, args: []*node{n}, text: t.text})
	}
	if f != nil {
		return nil, f
	}
	return n, nil
}

//nolint:gochecknoglobals // Immutable table.
var methods = map[string]struct {
	op   op
	args int
}{
	"contains": {opContains, 1}, "containsAll": {opContainsAll, 1}, "containsAny": {opContainsAny, 1}, "isEmpty": {opIsEmpty, 0},
}

func (p *parser) method(on *node, name token) (*node, *fault) {
	m, ok := methods[name.text]
	if !ok {
		return nil, &fault{name.at, "a function that has no use here", "the schema has sets and texts: use contains, containsAll, containsAny, isEmpty, like"}
	}
	p.next()
	args, f := p.list(")")
	if f != nil {
		return nil, f
	}
	if len(args) != m.args {
		return nil, &fault{name.at, "a function with a wrong number of arguments", "give it " + strconv.Itoa(m.args)}
	}
	return p.node(node{op: m.op, at: name.at, args: append([]*node{on}, args...)})
}

// list reads expressions with commas between them, and the sign that ends them.
func (p *parser) list(end string) ([]*node, *fault) {
	var all []*node
	for !p.skip(end) {
		n, f := p.expression()
		if f != nil {
			return nil, f
		}
		all = append(all, n)
		if !p.skip(",") && !p.sees(end) {
			return nil, p.fault("something else where , or "+end+" should stand", "write , or "+end+" here")
		}
	}
	return all, nil
}

func (p *parser) primary() (*node, *fault) {
	t := p.peek()
	switch {
	case t.kind == tokenNumber:
		return p.number("", t.at)
	case t.kind == tokenString:
		s, f := p.str("a text")
		if f != nil {
			return nil, f
		}
		return p.node(node{op: opString, at: t.at, text: s})
	case t.kind == tokenReserved && (t.text == "true" || t.text == "false"):
		p.next()
		n := node{op: opBool, at: t.at}
		if t.text == "true" {
			n.num = 1
		}
		return p.node(n)
	case t.kind == tokenName:
		return p.name()
	case p.skip("("):
		n, f := p.expression()
		if f == nil {
			f = p.expect(")")
		}
		if f != nil {
			return nil, f
		}
		return n, nil
	case p.skip("["):
		all, f := p.list("]")
		if f != nil {
			return nil, f
		}
		return p.node(node{op: opSet, at: t.at, args: all})
	case p.skip("{"):
		return p.record(t.at)
	}
	return nil, p.fault("something else where a value should stand", "write a variable, a text, a number, an entity, or one of ( [ {")
}

// name reads what begins with a name: a variable or an entity.
func (p *parser) name() (*node, *fault) {
	t := p.peek()
	switch p.tokens[p.pos+1].text { // a name is never the last token
	case "::":
		return p.entity()
	case "(":
		return nil, p.fault("a function that has no use here", "the schema has no addresses, decimals or times")
	}
	switch t.text {
	case varPrincipal, varAction, varResource, varContext:
		p.next()
		return p.node(node{op: opVar, at: t.at, name: t.text})
	}
	return nil, p.fault("a word that means nothing here", "the variables are principal, action, resource and context; texts stand in double quotes")
}

func (p *parser) record(at place) (*node, *fault) {
	n := node{op: opRecord, at: at}
	seen := map[string]bool{}
	for !p.skip("}") {
		t := p.peek()
		key := t.text
		if t.kind == tokenName {
			p.next()
		} else {
			var f *fault
			if key, f = p.str("an attribute"); f != nil {
				return nil, f
			}
		}
		if seen[key] {
			return nil, &fault{t.at, "the same attribute twice", "keep one of them"}
		}
		seen[key] = true
		if f := p.expect(":"); f != nil {
			return nil, f
		}
		v, f := p.expression()
		if f != nil {
			return nil, f
		}
		n.keys, n.args = append(n.keys, key), append(n.args, v)
		if !p.skip(",") && !p.sees("}") {
			return nil, p.fault("something else where , or } should stand", "write , or } here")
		}
	}
	return p.node(n)
}
