//go:build unix

package keystores_test

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/keystores"
	"github.com/openkcm/krypton-cluster/config"
)

var update = flag.Bool("update", false, "write docs/config.md")

const page = "../../../../docs/config.md"

func TestI1_TheReferenceIsWhatTheProgramHas(t *testing.T) {
	want := config.Reference(keystores.Types(nil))
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Fatalf("docs/config.md is not what the code has; run go test ./cmd/krypton/internal/keystores -update\n%s", diff)
	}
}

func TestNoKeyIsCalledLikeASecretUnlessItNamesAFile(t *testing.T) {
	for line := range strings.SplitSeq(config.Reference(keystores.Types(nil)), "\n") {
		for _, word := range []string{"`password", "`secret`", "`secret_id`", "`pin`", "`secret_key`", "`api_key`"} {
			if strings.HasPrefix(line, "| "+word) {
				t.Errorf("a key that holds a secret: %s", line)
			}
		}
	}
}

func TestI2_TypesAndSettingsHaveOneMeaning(t *testing.T) {
	form := regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	types := map[string]bool{}
	for _, typ := range keystores.Types(nil) {
		if types[typ.Name] || typ.New == nil || !strings.HasSuffix(typ.Doc, ".") {
			t.Errorf("type %q: there already: %v, constructor: %v, doc %q", typ.Name, types[typ.Name], typ.New != nil, typ.Doc)
		}
		types[typ.Name] = true
		settings := map[string]bool{"name": true, "type": true}
		for _, s := range typ.Settings {
			switch {
			case settings[s.Name] || !form.MatchString(s.Name):
				t.Errorf("type %s: setting %q stands twice, is taken by every entry, or is not in snake_case", typ.Name, s.Name)
			case !strings.HasSuffix(s.Doc, "."):
				t.Errorf("type %s: setting %s has the doc %q, which is no sentence", typ.Name, s.Name, s.Doc)
			case s.Required && s.Default != "":
				t.Errorf("type %s: setting %s is required and has a default", typ.Name, s.Name)
			}
			settings[s.Name] = true
		}
	}
}
