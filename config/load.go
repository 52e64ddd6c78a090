package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/strictyaml"
	"github.com/openkcm/krypton-cluster/keystore"
)

// Source is one place a configuration comes from, besides the defaults.
type Source struct {
	// Path of the YAML file. Empty: no file.
	Path string
	// Env looks up an environment variable; nil reads none.
	Env func(name string) (string, bool)
	// Environ are all variables of the environment, NAME=value, as os.Environ
	// returns them; nil looks at none. A name that begins like those of
	// Krypton and is none is an error (I1), but for Others and for what
	// Kubernetes sets for a service of that name.
	Environ []string
	// Others are names of variables that belong to other parts of the program.
	Others []string
	// Keystores are the types of keystores that the program has, with their
	// settings. Empty: types and settings are not checked.
	Keystores keystore.Types
	// Overrides are flags: dotted key (node.data_dir) to value. They go first.
	Overrides map[string]string
}

// Load reads, merges and checks a configuration. The error, of code
// InvalidConfig, lists every problem found.
func Load(src Source) (Config, error) {
	c := Default()
	var problems []string
	if src.Path != "" {
		problems = append(problems, c.readFile(src)...)
	}
	for _, f := range fields(reflect.ValueOf(&c).Elem(), "") {
		if src.Env != nil {
			if v, ok := src.Env(f.env()); ok {
				if err := f.set(v); err != nil {
					problems = append(problems, fmt.Sprintf("%s: %v", f.env(), err))
				}
			}
		}
		if v, ok := src.Overrides[f.key]; ok {
			if err := f.set(v); err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", f.key, err))
			}
		}
	}
	problems = append(problems, unknownVariables(src.Environ, src.Others)...)
	if len(problems) == 0 {
		problems = append(problems, c.problems()...)
		problems = append(problems, c.keystoreProblems(src.Keystores)...)
	}
	if len(problems) > maxProblems {
		problems = append(problems[:maxProblems:maxProblems], fmt.Sprintf("and %d more", len(problems)-maxProblems))
	}
	if len(problems) > 0 {
		return Config{}, errs.New(errs.InvalidConfig, "the configuration cannot be used: "+strings.Join(problems, "; "),
			errs.Hint("docs/config.md lists every key; `krypton server --check-config` checks without starting"))
	}
	return c, nil
}

// maxProblems bounds how many problems one error names. Who has more repairs
// these and asks again.
const maxProblems = 8

// Prefix begins every environment variable of Krypton.
const Prefix = "KRYPTON_"

// serviceLink is what Kubernetes calls variables about a service: a service
// krypton-peer makes KRYPTON_PEER_PORT_8402_TCP_ADDR in every pod of its namespace.
var serviceLink = regexp.MustCompile(`^[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknownVariables returns the variables that somebody meant for this program
// and that it would not read.
func unknownVariables(environ, others []string) (problems []string) {
	known := slices.Clone(others)
	for _, f := range fields(reflect.ValueOf(new(Config)).Elem(), "") {
		known = append(known, f.env())
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, Prefix) && !slices.Contains(known, name) && !serviceLink.MatchString(name) {
			problems = append(problems, fmt.Sprintf("unknown environment variable %s, did you mean %s?", name, strictyaml.Nearest(name, known)))
		}
	}
	return problems
}

// Default returns the configuration that an empty file means.
func Default() Config {
	var c Config
	for _, f := range fields(reflect.ValueOf(&c).Elem(), "") {
		if f.def == "" {
			continue
		}
		if err := f.set(f.def); err != nil {
			panic("config: internal error: default of " + f.key + ": " + err.Error())
		}
	}
	return c
}

func (c *Config) readFile(src Source) []string {
	path := src.Path
	f, err := os.Open(path)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", path, errors.Unwrap(err))}
	}
	defer func() { _ = f.Close() }() // read only: nothing can be lost
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", path, errors.Unwrap(err))}
	}
	if len(b) > MaxSize {
		return []string{fmt.Sprintf("%s: larger than %d bytes", path, MaxSize)}
	}
	return c.decode(path, b, src.Keystores)
}

// decode reads YAML into c (I1).
func (c *Config) decode(name string, b []byte, types keystore.Types) []string {
	return strictyaml.Decode(name, b, c, func(file string, n *yaml.Node, t reflect.Type, prefix string) ([]string, bool) {
		if t != reflect.TypeFor[Keystore]() || n.Kind != yaml.MappingNode {
			return nil, false
		}
		return unknownSettings(file, n, prefix, types), true
	})
}

// unknownSettings looks at an entry of keystores, whose keys depend on its
// type. For an entry without a known type every setting of every type is known:
// what is wrong with it is then its type.
func unknownSettings(file string, n *yaml.Node, prefix string, types keystore.Types) (problems []string) {
	known, named := []string{"name", "type"}, keystore.Types{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "type" {
			continue
		}
		if t, ok := types.Find(n.Content[i+1].Value); ok {
			named = append(named, t)
		}
	}
	if len(named) == 0 {
		named = types
	}
	for _, t := range named {
		for _, s := range t.Settings {
			known = append(known, s.Name)
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		switch {
		case len(types) > 0 && !slices.Contains(known, key.Value):
			problems = append(problems, fmt.Sprintf("%s:%d: unknown key %q, did you mean %q?", file, key.Line, prefix+key.Value, prefix+strictyaml.Nearest(key.Value, known)))
		case seen[key.Value]:
			problems = append(problems, fmt.Sprintf("%s:%d: key %q stands twice", file, key.Line, prefix+key.Value))
		case val.Kind != yaml.ScalarNode || val.Tag == "!!null":
			problems = append(problems, fmt.Sprintf("%s:%d: %q must be one value", file, key.Line, prefix+key.Value))
		}
		seen[key.Value] = true
	}
	return problems
}

// field is one scalar key of the configuration. Lists of sections (keystores)
// have no environment variable.
type field struct {
	key string // dotted
	def string
	doc string
	val reflect.Value
}

func (f field) env() string {
	return "KRYPTON_" + strings.ToUpper(strings.ReplaceAll(f.key, ".", "_"))
}

func fields(v reflect.Value, prefix string) []field {
	var out []field
	t := v.Type()
	for i := range t.NumField() {
		sf, fv := t.Field(i), v.Field(i)
		key := prefix + sf.Tag.Get("yaml")
		switch {
		case sf.Type.Kind() == reflect.Struct:
			out = append(out, fields(fv, key+".")...)
		case sf.Type.Kind() == reflect.Slice && sf.Type.Elem().Kind() == reflect.Struct:
		default:
			out = append(out, field{key: key, def: sf.Tag.Get("default"), doc: sf.Tag.Get("doc"), val: fv})
		}
	}
	return out
}

func (f field) set(s string) error {
	switch f.val.Interface().(type) {
	case string:
		f.val.SetString(s)
	case int:
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		f.val.SetInt(int64(n))
	case time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 30s", s)
		}
		f.val.SetInt(int64(d))
	case []string:
		var list []string
		for item := range strings.SplitSeq(s, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		f.val.Set(reflect.ValueOf(list))
	default:
		panic("config: internal error: no parser for the type of " + f.key)
	}
	return nil
}
