package policy

import (
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

func (c *checker) resolveScope(s *scope, action bool) *fault {
	if s.name != "" {
		if f := c.resolveType(s.name, s.at); f != nil {
			return f
		}
	}
	for _, r := range s.refs {
		if f := c.resolve(r); f != nil {
			return f
		}
		if shape, _ := shapeNamed(r.name); action != (shape.bit == typeAction) {
			if action {
				return &fault{r.at, "an entity that is no action", `name an action such as Krypton::Action::"crypto.decrypt", or a group: use, read, govern`}
			}
			return &fault{r.at, "an action where a principal or resource should stand", "name an entity of another type"}
		}
	}
	return nil
}

func (c *checker) resolveType(name string, at place) *fault {
	if s, ok := shapeNamed(name); ok && s.bit != typeAction {
		return nil
	}
	return &fault{at, "a type that the schema does not have", "the types are Krypton::Workload, Krypton::Person, Krypton::Tenant, Krypton::Service and Krypton::Resource"}
}

// resolve looks at every name of n and below, also where the type pass does not
// come: behind a condition that is always false.
func (c *checker) resolve(n *node) *fault {
	for _, a := range n.args {
		if f := c.resolve(a); f != nil {
			return f
		}
	}
	switch n.op { //nolint:exhaustive // The others name nothing.
	case opIs, opIsIn:
		return c.resolveType(n.name, n.at)
	case opEntity:
		return c.resolveEntity(n)
	case opHas, opGet:
		if n.args[0].isEncryptionContext() {
			return c.resolveKey(n)
		}
		if n.args[0].isContext() && !knownContextAttr(n.text) {
			return &fault{n.at, "an attribute that no context has", "the context has encryption_context, resource, version and region"}
		}
	case opEqual, opUnequal:
		return c.resolveTenant(n)
	case opSet:
		if len(n.args) == 0 {
			return &fault{n.at, "an empty set", "nothing is in it: leave the condition out"}
		}
	}
	return nil
}

func (c *checker) resolveKey(n *node) *fault {
	if n.text == "" || len(n.text) > hierarchy.MaxContextBytes || strings.HasPrefix(n.text, hierarchy.ReservedContextPrefix) {
		return &fault{n.at, "a key that no encryption context can have", "keys are not empty and do not begin with " + hierarchy.ReservedContextPrefix}
	}
	if _, ok := c.keys[n.text]; !ok {
		if len(c.keys) == maxKeys {
			return &fault{n.at, "more keys of the encryption context than a caller can give", "split the statement"}
		}
		c.keys[n.text] = len(c.keys)
	}
	return nil
}

const foreignTenant = "a name of another tenant"

func (c *checker) foreign(at place) *fault {
	return &fault{at, foreignTenant, "a policy speaks about its own tenant only; write the policy into the other one"}
}

// resolveEntity checks that an entity of that type and id can exist (I5).
func (c *checker) resolveEntity(n *node) *fault {
	s, ok := shapeNamed(n.name)
	if !ok {
		return &fault{n.at, "a type that the schema does not have", "the types are Krypton::Workload, Krypton::Person, Krypton::Tenant, Krypton::Service, Krypton::Resource and Krypton::Action"}
	}
	switch s.bit {
	case typeTenant:
		if n.text != string(c.tenant) {
			return c.foreign(n.at)
		}
	case typeAction:
		if _, ok = ActionNamed(n.text); !ok && !isGroup(n.text) {
			if why, known := Beyond(n.text); known {
				return &fault{n.at, "an act that policies do not decide about: " + why, "leave it out"}
			}
			return &fault{n.at, "an action that the schema does not have", "actions are called as in audit records, such as crypto.decrypt; groups are use, read and govern"}
		}
	case typeWorkload, typePerson:
		ok = auth.ValidName(n.text)
	case typeService:
		_, err := hierarchy.ParseName(n.text)
		ok = err == nil
	case typeResource:
		service, id, cut := strings.Cut(n.text, "/")
		_, serr := hierarchy.ParseName(service)
		_, rerr := hierarchy.ParseResourceID(id)
		ok = cut && id != "" && serr == nil && rerr == nil
	case noType:
	}
	if !ok && s.bit != typeAction {
		return &fault{n.at, "an entity that cannot exist", "write " + s.form}
	}
	return nil
}

// resolveTenant refuses x.tenant == "another": it can never hold, or always
// does, and whoever wrote it means another tenant (I5).
func (c *checker) resolveTenant(n *node) *fault {
	for i := range 2 {
		attr, text := n.args[i], n.args[1-i]
		if attr.op == opGet && text.op == opString && text.text != string(c.tenant) &&
			(attr.text == "tenant" && attr.args[0].op == opVar && attr.args[0].name != varContext) {
			return c.foreign(text.at)
		}
	}
	return nil
}
