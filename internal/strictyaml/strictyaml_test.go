package strictyaml_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/internal/strictyaml"
)

type inner struct {
	Name string `yaml:"name"`
	Size int    `yaml:"size"`
}

type outer struct {
	One  inner   `yaml:"one"`
	Many []inner `yaml:"many"`
}

func TestI1_EveryKeyIsReadOrNamed(t *testing.T) {
	for text, want := range map[string]string{
		"one: {nme: x}":                     `f:1: unknown key "one.nme", did you mean "one.name"?`,
		"many:\n- name: a\n- sise: 1":       `f:3: unknown key "many[1].sise", did you mean "many[1].size"?`,
		"on: {}":                            `f:1: unknown key "on", did you mean "one"?`,
		"one: {<<: {name: x}}":              `f:1: unknown key "one.<<"`,
		"{[a]: 1}":                          `f:1: unknown key ""`,
		"one: {size: many}":                 "f: ",
		"many: {name: a}":                   "f: ",
		"one: {name: a}\nmany: [{naam: b}]": `f:2: unknown key "many[0].naam"`,
	} {
		got := strictyaml.Decode("f", []byte(text), new(outer), nil)
		if len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	all := strictyaml.Decode("f", []byte("a: 1\nb: 2\nc: 3"), new(outer), nil)
	if len(all) != 3 {
		t.Errorf("not every problem is named: %q", all)
	}
}

func TestI2_NothingIsSaidTwiceOrInTheWrongForm(t *testing.T) {
	for text, want := range map[string]string{
		"one: {name: a, name: b}": `f:1: key "one.name" stands twice`,
		"one: x":                  `f:1: "one" must be a section with keys`,
		"many: [x]":               `f:1: "many[0]" must be a section with keys`,
		"one: {}\n---\none: {}":   "f: more than one YAML document",
		"[1]":                     `f:1: "" must be a section with keys`,
	} {
		got := strictyaml.Decode("f", []byte(text), new(outer), nil)
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestWhatIsRightIsRead(t *testing.T) {
	got := outer{One: inner{Size: 7}}
	if p := strictyaml.Decode("f", []byte("one: {name: a}\nmany: [{name: b, size: 2}]"), &got, nil); p != nil {
		t.Fatal(p)
	}
	if diff := cmp.Diff(outer{One: inner{Name: "a", Size: 7}, Many: []inner{{Name: "b", Size: 2}}}, got); diff != "" {
		t.Error(diff)
	}
	for _, empty := range []string{"", "# nothing\n", "one:\nmany:\n"} {
		if p := strictyaml.Decode("f", []byte(empty), new(outer), nil); p != nil {
			t.Errorf("%q: %q", empty, p)
		}
	}
}

func TestASpecialTypeIsLookedAtByItsOwner(t *testing.T) {
	var at []string
	special := func(_ string, n *yaml.Node, typ reflect.Type, prefix string) ([]string, bool) {
		if typ != reflect.TypeFor[inner]() {
			return nil, false
		}
		at = append(at, prefix)
		return []string{"no " + n.Content[0].Value}, true
	}
	got := strictyaml.Decode("f", []byte("one: {x: 1}\nmany: [{y: 1}]"), new(outer), special)
	if diff := cmp.Diff([]string{"no x", "no y"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"one.", "many[0]."}, at); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("one: {name: a}\nmany: [{name: b, size: 2}]")
	f.Add("one: &a {name: x}\nmany: [*a, *a]")
	f.Add("? {a: b}\n: [1, !!binary aGk=]")
	f.Fuzz(func(t *testing.T, text string) {
		var o outer
		for _, p := range strictyaml.Decode("f", []byte(text), &o, nil) {
			if !strings.HasPrefix(p, "f:") {
				t.Fatalf("a problem without the file: %q", p)
			}
		}
	})
}
