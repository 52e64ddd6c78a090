package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Reference returns docs/config.md, made from the fields of [Config] and the
// settings of the keystore types that a full program has (I4).
func Reference(types keystore.Types) string {
	var b strings.Builder
	b.WriteString("# Configuration of a node\n\n" +
		"<!-- Generated from package config and the types of keystores by `go test ./cmd/krypton/internal/keystores -update`; do not edit. -->\n\n" +
		"One YAML file, by default `" + DefaultPath + "`; `krypton server --config FILE` names another. " +
		"A flag goes before the environment, the environment before the file, the file before the default. " +
		"No key holds a secret. An unknown key is an error.\n")
	t := reflect.TypeFor[Config]()
	var c Config
	all := fields(reflect.ValueOf(&c).Elem(), "")
	for sf := range t.Fields() {
		section := sf.Tag.Get("yaml")
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", section, sf.Tag.Get("doc"))
		if sf.Type.Kind() == reflect.Slice {
			b.WriteString("A list; each entry has these keys.\n\n| key | meaning |\n|---|---|\n")
			for f := range sf.Type.Elem().Fields() {
				if key := f.Tag.Get("yaml"); key != inline {
					fmt.Fprintf(&b, "| `%s` | %s |\n", key, cell(f.Tag.Get("doc")))
				}
			}
			common(&b, types)
			for _, kind := range types {
				settings(&b, kind)
			}
			continue
		}
		b.WriteString("| key | default | environment | meaning |\n|---|---|---|---|\n")
		for _, f := range all {
			if name, ok := strings.CutPrefix(f.key, section+"."); ok {
				def := "empty"
				if f.def != "" {
					def = "`" + f.def + "`"
				}
				fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s |\n", name, def, f.env(), cell(f.doc))
			}
		}
	}
	return b.String()
}

// inline is the tag of the field that takes what the other fields do not.
const inline = ",inline"

// settings writes what an entry of keystores may have besides name and type.
func settings(b *strings.Builder, t keystore.Type) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n| key | default | meaning |\n|---|---|---|\n", t.Name, t.Doc)
	table(b, t.Settings, false)
}

// common writes what an entry of any type may have.
func common(b *strings.Builder, types keystore.Types) {
	if len(types) > 0 && slices.ContainsFunc(types[0].Settings, func(s keystore.Setting) bool { return s.Common }) {
		b.WriteString("\nWhat the types are, and how to choose: [keystores/README.md](keystores/README.md). An entry of any type may have these, too.\n\n| key | default | meaning |\n|---|---|---|\n")
		table(b, types[0].Settings, true)
	}
}

// table writes the settings that are common, or those that are not.
func table(b *strings.Builder, all []keystore.Setting, shared bool) {
	for _, s := range all {
		if s.Common != shared {
			continue
		}
		def := "empty"
		switch {
		case s.Required:
			def = "required"
		case s.Default != "":
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", s.Name, def, cell(s.Doc))
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
