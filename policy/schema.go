package policy

import (
	_ "embed"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
)

// Schema is the published schema in Cedar's own notation. The tables below say
// the same in Go; TestI1_ThePublishedSchemaIsTheOneThatIsEnforced compares them.
//
//go:embed krypton.cedarschema
var Schema string

// namespace stands before every name of the schema.
const namespace = "Krypton::"

// entityType is one type of entity. Several are a sum of bits.
type entityType uint8

const (
	typeTenant entityType = 1 << iota
	typeWorkload
	typePerson
	typeService
	typeResource
	typeAction
	noType entityType = 0
)

// each yields the types one by one.
func (e entityType) each(yield func(entityType) bool) {
	for bit := typeTenant; bit <= typeAction; bit <<= 1 {
		if e&bit != 0 && !yield(bit) {
			return
		}
	}
}

// entityShape is what is known about one type.
type entityShape struct {
	bit     entityType
	name    types.EntityType
	parents entityType // that an entity of this type can be in, directly or not
	attrs   []string   // all are required Strings
	form    string     // of an id, for people
}

//nolint:gochecknoglobals // Immutable table.
var entityShapes = [...]entityShape{
	{typeTenant, namespace + "Tenant", noType, []string{"name"}, `the tenant of the policy`},
	{typeWorkload, namespace + "Workload", typeTenant, []string{"issuer", "name", "tenant"}, `a name such as Krypton::Workload::"app1"`},
	{typePerson, namespace + "Person", noType, []string{"issuer", "name", "role"}, `a name such as Krypton::Person::"alice"`},
	{typeService, namespace + "Service", typeTenant, []string{"name", "tenant"}, `a name such as Krypton::Service::"payments"`},
	{typeResource, namespace + "Resource", typeService | typeTenant, []string{"id", "service", "tenant"}, `service and id, such as Krypton::Resource::"payments/invoices"`},
	{typeAction, namespace + "Action", typeAction, nil, `an action of the schema`},
}

func shapeNamed(name string) (entityShape, bool) {
	for _, s := range entityShapes {
		if string(s.name) == name {
			return s, true
		}
	}
	return entityShape{}, false
}

func shapeOf(bit entityType) entityShape {
	for _, s := range entityShapes {
		if s.bit == bit {
			return s
		}
	}
	return entityShape{}
}

// Attributes of the context.
const (
	attrEncryptionContext = "encryption_context"
	attrResource          = "resource"
	attrVersion           = "version"
	attrRegion            = "region"
)

// The shapes of a context. An attribute that is in a shape is always there.
//
//nolint:gochecknoglobals // Immutable tables.
var (
	contextOfUse     = &typ{kind: kindRecord, fields: map[string]*typ{attrEncryptionContext: typeOpen, attrResource: typeString, attrVersion: typeLong, attrRegion: typeString}}
	contextOfVersion = &typ{kind: kindRecord, fields: map[string]*typ{attrVersion: typeLong}}
	contextOfNothing = &typ{kind: kindRecord}
)

// The groups of actions; an action is in one.
const (
	groupUse    = "use"
	groupRead   = "read"
	groupGovern = "govern"
)

// Action is something that a policy decides about. Its name is that of the act
// in audit records. The numbers exist in memory only. Zero is invalid.
type Action uint8

type actionRow struct {
	name       string
	group      string
	principals entityType
	resources  entityType
	context    *typ
}

// actions begins with the invalid action, so that the index is the number.
// TestEveryActOfATenantIsRuledOrBeyondPolicies holds it against the gate.
//
//nolint:gochecknoglobals // Immutable table.
var actions = [...]actionRow{
	{},
	{"crypto.generate_data_key", groupUse, typeWorkload, typeService, contextOfUse},
	{"crypto.unwrap_data_key", groupUse, typeWorkload, typeService, contextOfUse},
	{"crypto.rewrap_data_key", groupUse, typeWorkload, typeService, contextOfUse},
	{"crypto.encrypt", groupUse, typeWorkload, typeService, contextOfUse},
	{"crypto.decrypt", groupUse, typeWorkload, typeService, contextOfUse},

	{"tenants.get", groupRead, typeWorkload | typePerson, typeTenant, contextOfNothing},
	{"services.list", groupRead, typeWorkload | typePerson, typeTenant, contextOfNothing},
	{"services.get", groupRead, typeWorkload | typePerson, typeService, contextOfNothing},
	{"resources.list", groupRead, typeWorkload | typePerson, typeService, contextOfNothing},
	{"versions.list", groupRead, typeWorkload | typePerson, typeTenant | typeService, contextOfNothing},
	{"versions.get", groupRead, typeWorkload | typePerson, typeTenant | typeService, contextOfVersion},
	{"resources.get", groupRead, typeWorkload | typePerson, typeResource, contextOfNothing},

	{"tenants.rotate", groupGovern, typePerson, typeTenant, contextOfNothing},
	{"tenants.rollback", groupGovern, typePerson, typeTenant, contextOfNothing},
	{"services.create", groupGovern, typePerson, typeService, contextOfNothing},
	{"services.delete", groupGovern, typePerson, typeService, contextOfNothing},
	{"services.delete_now", groupGovern, typePerson, typeService, contextOfNothing},
	{"services.undelete", groupGovern, typePerson, typeService, contextOfNothing},
	{"services.resume", groupGovern, typePerson, typeService, contextOfNothing},
	{"services.rotate", groupGovern, typePerson, typeService, contextOfNothing},
	{"services.rollback", groupGovern, typePerson, typeService, contextOfNothing},
	{"versions.enable", groupGovern, typePerson, typeTenant | typeService, contextOfVersion},
	{"versions.deprecate", groupGovern, typePerson, typeTenant | typeService, contextOfVersion},
	{"versions.destroy", groupGovern, typePerson, typeTenant | typeService, contextOfVersion},
	{"versions.destroy_now", groupGovern, typePerson, typeTenant | typeService, contextOfVersion},
	{"versions.cancel_destroy", groupGovern, typePerson, typeTenant | typeService, contextOfVersion},
	{"resources.pin", groupGovern, typePerson, typeResource, contextOfNothing},
	{"resources.unpin", groupGovern, typePerson, typeResource, contextOfNothing},
	{"resources.rollback", groupGovern, typePerson, typeResource, contextOfNothing},
}

const actionEnd = Action(len(actions))

// beyond are the acts on a tenant or inside it that no policy of the tenant is
// asked about, and why.
//
//nolint:gochecknoglobals // Immutable table.
var beyond = map[string]string{
	"tenants.bind":       "the platform's: the tenant's policies cannot say whose key it has",
	"tenants.create":     "the platform's: there is no tenant yet whose policy could say something",
	"tenants.delete":     "the platform's",
	"tenants.delete_now": "the platform's",
	"tenants.undelete":   "the platform's",
	"tenants.resume":     "the platform's, too",

	"tenants.set_governors":    "about who has a say: policies cannot keep those who have it from mending policies",
	"policies.get":             "about policies themselves, which must stay readable and mendable",
	"policies.list":            "about policies themselves, which must stay readable and mendable",
	"policies.put":             "about policies themselves, which must stay readable and mendable",
	"policies.delete":          "about policies themselves, which must stay readable and mendable",
	"policies.test":            "about policies themselves, which must stay readable and mendable",
	"access.issue_certificate": "about who somebody is",
	"issuers.create":           "about who somebody is",
	"issuers.update":           "about who somebody is",
	"issuers.get":              "about who somebody is",
	"issuers.list":             "about who somebody is",
	"issuers.delete":           "about who somebody is",
	"role_bindings.create":     "about who has a say, or works, at all",
	"role_bindings.get":        "about who has a say, or works, at all",
	"role_bindings.list":       "about who has a say, or works, at all",
	"role_bindings.delete":     "about who has a say, or works, at all",

	"tenants.suspend":     "takes power away and can be undone: waits for nothing",
	"services.suspend":    "takes power away and can be undone: waits for nothing",
	"versions.disable":    "takes power away and can be undone: waits for nothing",
	"versions.compromise": "takes power away in an emergency: waits for nothing",
}

// Beyond says why no policy of a tenant is asked about the act of that name, and
// whether that is so.
func Beyond(act string) (why string, ok bool) {
	why, ok = beyond[act]
	return why, ok
}

// ActionNamed returns the action of that name.
func ActionNamed(name string) (Action, bool) {
	for i := range actions[1:] {
		if actions[i+1].name == name {
			return Action(i + 1), true
		}
	}
	return 0, false
}

// Actions returns all actions in the order of the schema.
func Actions() []Action {
	all := make([]Action, 0, actionEnd-1)
	for a := Action(1); a < actionEnd; a++ {
		all = append(all, a)
	}
	return all
}

// Valid reports whether a is an action of the schema.
func (a Action) Valid() bool { return a > 0 && a < actionEnd }

// String returns the name of the action, the same as that of the gate's act.
func (a Action) String() string {
	if !a.Valid() {
		return "unspecified"
	}
	return actions[a].name
}

func isGroup(name string) bool { return name == groupUse || name == groupRead || name == groupGovern }

// actionIn reports whether a is the action or in the group of that name.
func actionIn(a Action, name string) bool { return actions[a].name == name || actions[a].group == name }

// knownAttr reports whether any type of entity has the attribute.
func knownAttr(name string) bool {
	for _, s := range entityShapes {
		if slices.Contains(s.attrs, name) {
			return true
		}
	}
	return false
}

func knownContextAttr(name string) bool { _, ok := contextOfUse.fields[name]; return ok }

// oneOf makes "a, b and c" of names.
func oneOf(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
