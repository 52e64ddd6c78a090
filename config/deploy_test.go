package config_test

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/config"
)

const (
	deployConfig = "../deploy/krypton.yaml"
	deployUnit   = "../deploy/systemd/krypton.service"
)

func TestDeployExampleIsTheDefaultsWithANameAndARegion(t *testing.T) {
	got, err := config.Load(config.Source{Path: deployConfig})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Node.Name, want.Node.Region = "n1", "eu-1"
	// Empty lists and absent ones mean the same.
	want.Cluster.Join, want.Keystores = []string{}, []config.Keystore{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-defaults +file):\n%s", deployConfig, diff)
	}
}

func TestDeployExampleHasEveryKey(t *testing.T) {
	raw, err := os.ReadFile(deployConfig)
	if err != nil {
		t.Fatal(err)
	}
	file := map[string]any{}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for section := range reflect.TypeFor[config.Config]().Fields() {
		name := section.Tag.Get("yaml")
		value, ok := file[name]
		if !ok {
			t.Errorf("%s: no section %s", deployConfig, name)
			continue
		}
		keys, _ := value.(map[string]any)
		if section.Type.Kind() != reflect.Struct {
			continue
		}
		for key := range section.Type.Fields() {
			k := key.Tag.Get("yaml")
			if _, ok := keys[k]; !ok {
				t.Errorf("%s: section %s has no key %s", deployConfig, name, k)
			}
		}
	}
}

// The unit starts the node with the file that the documents install, and lets it
// write where the example puts its data.
func TestDeployUnitFitsTheExample(t *testing.T) {
	raw, err := os.ReadFile(deployUnit)
	if err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(config.Source{Path: deployConfig})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	for _, want := range []string{
		"ExecStart=/usr/local/bin/krypton server --config " + config.DefaultPath,
		"StateDirectory=" + strings.TrimPrefix(got.Node.DataDir, "/var/lib/"),
		"StateDirectoryMode=0700",
		"LimitCORE=0",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("%s: no line %q", deployUnit, want)
		}
	}
}
