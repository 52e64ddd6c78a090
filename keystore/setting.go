package keystore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Setting is one setting of a provider type, for the check of configurations
// and for docs/config.md. Values are text; a secret is never a setting, only
// the path of a file that has it.
type Setting struct {
	Name     string // in snake_case; one that names a file with a secret ends in _file
	Doc      string // what it means, as one or two sentences
	Default  string // what an absent setting means; empty: see Doc
	Required bool   // an absent or empty value is an error
	Common   bool   // every type has it; the reference shows it once
	// Check returns what a value has to be if this one is not, as "want 1 to 10".
	// nil: any text. Defaults and absent values are not asked about.
	Check func(value string) error
}

func (s Setting) check(value string) error {
	if s.Check == nil {
		return nil
	}
	return s.Check(value)
}

// Type is one kind of keystore that a binary has. Every provider package
// exports one.
type Type struct {
	Name     string      // as configurations call it: "local", "awskms"
	Doc      string      // what it is, as one sentence
	Settings []Setting   // all that New reads
	New      Constructor // makes a provider
	// Identity is what a tenant's binding says of the identity that is used for
	// that tenant only, of a type whose providers are [Assumer]s. nil: they are not.
	Identity []Setting
	// Endpoint returns the URL that a provider of these settings talks to, for
	// checks of the way there; "" where there is none. nil: none.
	Endpoint func(cfg Config) string
	// Place returns where a key is, read from settings and reference alone: it
	// asks nobody, so that a seal can be planned while keystores are away. nil:
	// the type cannot say.
	Place func(cfg Config, key KeyRef) Place
}

// Place says with what else a key is lost, or falls into wrong hands. It is for
// plans and for people; nothing is decided by it at run time. Empty parts are not
// known. Equal texts mean the same account or region within one type.
type Place struct {
	Account string // whose administrators decide over the key: an AWS account, a project, a vault, a token
	Region  string // where it is, as the keystore calls it
}

// PlaceOf returns where the key of one of the configured keystores is, and the
// type of that keystore. It reports false when there is none of that name.
func (t Types) PlaceOf(configs []Config, name string, key KeyRef) (typ string, at Place, ok bool) {
	for _, c := range configs {
		if c.Name != name {
			continue
		}
		if one, known := t.Find(c.Type); known && one.Place != nil {
			at = one.Place(c, key)
		}
		return c.Type, at, true
	}
	return "", Place{}, false
}

// Types are the kinds of keystores that a binary has, in the order of the
// documents. The list is handed in by the program, so that each vendor's SDK
// can be left out by a build tag and this package links none.
type Types []Type

// Constructors returns the constructors by type name.
func (t Types) Constructors() Constructors {
	c := make(Constructors, len(t))
	for _, one := range t {
		c[one.Name] = one.New
	}
	return c
}

// Names returns the names in the order of the list.
func (t Types) Names() []string {
	names := make([]string, len(t))
	for i, one := range t {
		names[i] = one.Name
	}
	return names
}

// Find returns the type of that name.
func (t Types) Find(name string) (Type, bool) {
	for _, one := range t {
		if one.Name == name {
			return one, true
		}
	}
	return Type{}, false
}

// Only returns c with the defaults of absent settings filled in. It refuses a
// setting that is not one of known, so that a misspelt name is an error and not
// a default, a required one that is absent or empty, and a value that its Check
// refuses. Every constructor
// calls it first. The result does not share its map with c.
func (c Config) Only(known []Setting) (Config, error) {
	names := make([]string, len(known))
	for i, s := range known {
		names[i] = s.Name
	}
	for _, name := range slices.Sorted(maps.Keys(c.Settings)) {
		if !slices.Contains(names, name) {
			return Config{}, fmt.Errorf("unknown setting %q of keystore type %s; it has: %s", name, c.Type, strings.Join(names, ", "))
		}
	}
	out := Config{Name: c.Name, Type: c.Type, Settings: make(map[string]string, len(known))}
	for _, s := range known {
		v, ok := c.Settings[s.Name]
		switch {
		case ok && v != "":
			if err := s.check(v); err != nil {
				return Config{}, fmt.Errorf("%s is %q, %w", s.Name, v, err)
			}
			out.Settings[s.Name] = v
		case s.Required:
			return Config{}, fmt.Errorf("setting %q of keystore type %s is missing: %s", s.Name, c.Type, s.Doc)
		case s.Default != "":
			out.Settings[s.Name] = s.Default
		}
	}
	return out, nil
}
