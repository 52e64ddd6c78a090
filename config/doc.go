package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Reference returns docs/config.md, made from the fields of [Config] (I4).
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration of a node\n\n" +
		"<!-- Generated from package config by `go test ./config -update`; do not edit. -->\n\n" +
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
				fmt.Fprintf(&b, "| `%s` | %s |\n", f.Tag.Get("yaml"), cell(f.Tag.Get("doc")))
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

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
