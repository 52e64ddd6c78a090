package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
)

// types stand for those of a program.
var types = keystore.Types{
	{Name: "local", Doc: "Files.", Settings: []keystore.Setting{{Name: "dir", Doc: "Where | they are.", Required: true}}},
	{Name: "remote", Doc: "A service.", Settings: []keystore.Setting{{Name: "region", Doc: "Where."}, {
		Name: "timeout", Doc: "How long.", Default: "5s", Check: func(v string) error {
			if v != "1s" && v != "5s" {
				return errors.New("want 1s or 5s")
			}
			return nil
		},
	}}},
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "krypton.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestI1_UnknownKeyNamesFileLineAndNearestKey(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"section":               {"nod:\n  name: a\n", `krypton.yaml:1: unknown key "nod", did you mean "node"?`},
		"key":                   {"node:\n  nmae: a\n", `krypton.yaml:2: unknown key "node.nmae", did you mean "node.name"?`},
		"in list":               {"keystores:\n  - name: a\n    typ: local\n", `krypton.yaml:3: unknown key "keystores[0].typ", did you mean "keystores[0].type"?`},
		"setting":               {"keystores:\n  - {name: a, type: remote, regoin: x}\n", `krypton.yaml:2: unknown key "keystores[0].regoin", did you mean "keystores[0].region"?`},
		"of another type":       {"keystores: [{name: a, type: remote, dir: x}]\n", `unknown key "keystores[0].dir"`},
		"setting twice":         {"keystores: [{name: a, type: remote, region: x, region: y}]\n", `key "keystores[0].region" stands twice`},
		"setting of a list":     {"keystores: [{name: a, type: remote, region: [x]}]\n", `"keystores[0].region" must be one value`},
		"setting without value": {"keystores: [{name: a, type: remote, region: }]\n", `"keystores[0].region" must be one value`},
		"twice":                 {"node: {name: a, name: b}\n", `key "node.name" stands twice`},
		"scalar":                {"node: 5\n", `"node" must be a section with keys`},
		"no yaml":               {"node: [\n", "did not find"},
		"two docs":              {"node: {}\n---\nnode: {}\n", "more than one YAML document"},
		"bad type":              {"memory: {lock_mib: many}\n", "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Load(config.Source{Path: write(t, c.yaml), Keystores: types})
			if !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want InvalidConfig with %q", err, c.want)
			}
		})
	}
}

func TestI2_EmptyFileMeansTheDefaults(t *testing.T) {
	got, err := config.Load(config.Source{Path: write(t, "# nothing\n")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got); diff != "" {
		t.Fatal(diff)
	}
	if got.Listen.Ops != "127.0.0.1:8404" || got.Limits.L2Hold != time.Minute || got.TLS.Mode != "builtin" {
		t.Fatalf("defaults changed: %+v", got)
	}
}

func TestFlagBeforeEnvironmentBeforeFileBeforeDefault(t *testing.T) {
	path := write(t, "node: {name: file, region: file, zone: file}\n")
	env := map[string]string{"KRYPTON_NODE_NAME": "env", "KRYPTON_NODE_REGION": "env", "KRYPTON_CLUSTER_JOIN": "a:1, b:2", "KRYPTON_CLUSTER_JOIN_TOKEN_FILE": "t"}
	got, err := config.Load(config.Source{
		Path:      path,
		Env:       func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Overrides: map[string]string{"node.name": "flag"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Node{Name: "flag", Region: "env", Zone: "file", DataDir: "/var/lib/krypton"}
	if diff := cmp.Diff(want, got.Node); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"a:1", "b:2"}, got.Cluster.Join); diff != "" {
		t.Fatal(diff)
	}
}

func TestEveryContradictionIsNamed(t *testing.T) {
	for yaml, want := range map[string]string{
		"node: {data_dir: ''}":                                "node.data_dir is empty",
		"cluster: {profile: moon}":                            `cluster.profile is "moon"`,
		"cluster: {join: ['a:1']}":                            "needs cluster.join_token_file",
		"cluster: {join: [a], join_token_file: t}":            `cluster.join is "a"`,
		"listen: {grpc: off}":                                 `listen.grpc is "off"`,
		"listen: {peer: ':99999'}":                            `listen.peer has port "99999"`,
		"advertise: {grpc: x}":                                `advertise.grpc is "x"`,
		"tls: {mode: files}":                                  "tls.cert and tls.key",
		"tls: {cert: a}":                                      "",
		"memory: {require: magic}":                            "memory.require",
		"memory: {lock_mib: 0}":                               "memory.lock_mib is 0",
		"audit: {segment_mib: 0}":                             "audit.segment_mib",
		"audit: {reserve_mib: 0}":                             "audit.reserve_mib",
		"limits: {connections: 15}":                           "limits.connections",
		"limits: {caller_connections: 0}":                     "limits.caller_connections",
		"limits: {tenant_connections: 1000001}":               "limits.tenant_connections",
		"limits: {caller_concurrent: 0}":                      "limits.caller_concurrent",
		"limits: {tenant_concurrent: 0}":                      "limits.tenant_concurrent",
		"limits: {caller_rate: 0}":                            "limits.caller_rate",
		"limits: {tenant_rate: -1}":                           "limits.tenant_rate",
		"limits: {caller_reads: 10000001}":                    "limits.caller_reads",
		"limits: {caller_changes: 0}":                         "limits.caller_changes",
		"limits: {concurrent: 70000}":                         "limits.concurrent",
		"limits: {request_budget: 1ms}":                       "limits.request_budget",
		"limits: {l2_hold: 2h}":                               "limits.l2_hold",
		"log: {level: loud}":                                  "log.level",
		"log: {format: xml}":                                  "log.format",
		"keystores: [{name: A, type: local, dir: d}]":         "keystores[0].name",
		"keystores: [{name: a, type: safe, dir: d}]":          "keystores[0].type",
		"keystores: [{name: a, type: remote, timeout: soon}]": `keystores[0].timeout is "soon", want 1s or 5s`,
		"keystores: [{name: a, type: local}]":                 "keystores[0].dir is empty",
		"keystores: [{name: a, type: local, dir: d}, {name: a, type: local, dir: d}]": "stands twice",
		"keystores: [{name: a, type: local, dir: d}, {name: b, type: local, dir: d}]": "keystores[0] and keystores[1] are one keystore under two names",
	} {
		t.Run(yaml, func(t *testing.T) {
			_, err := config.Load(config.Source{Path: write(t, yaml), Keystores: types})
			if !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v, want InvalidConfig with %q", err, want)
			}
		})
	}
}

func TestUnreadableFileIsNamed(t *testing.T) {
	_, err := config.Load(config.Source{Path: filepath.Join(t.TempDir(), "missing.yaml")})
	if !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "missing.yaml: no such file") {
		t.Fatalf("got %v", err)
	}
	_, err = config.Load(config.Source{Path: write(t, strings.Repeat("#", config.MaxSize+1))})
	if !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "larger than") {
		t.Fatalf("got %v", err)
	}
}

func TestKeystoresKeepTheirSettingsAsText(t *testing.T) {
	got, err := config.Load(config.Source{Path: write(t, "keystores: [{name: a, type: remote, timeout: 5s, region: 12}]"), Keystores: types})
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Keystore{{Name: "a", Type: "remote", Settings: map[string]string{"timeout": "5s", "region": "12"}}}
	if diff := cmp.Diff(want, got.Keystores); diff != "" {
		t.Fatal(diff)
	}
}

func TestI4_ReferenceHasEverySettingOfEveryType(t *testing.T) {
	text := config.Reference(types)
	for _, line := range []string{
		"### local\n\nFiles.\n", "| `dir` | required | Where \\| they are. |\n",
		"### remote\n\nA service.\n", "| `region` | empty | Where. |\n", "| `timeout` | `5s` | How long. |\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the reference lacks %q:\n%s", line, text)
		}
	}
}

func TestEveryKeyHasADoc(t *testing.T) {
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for f := range typ.Fields() {
			if f.Tag.Get("yaml") == ",inline" {
				continue // documented by the types of keystores
			}
			if f.Tag.Get("doc") == "" || f.Tag.Get("yaml") == "" {
				t.Errorf("%s.%s has no doc or yaml tag", typ, f.Name)
			}
			switch {
			case f.Type.Kind() == reflect.Struct:
				walk(f.Type)
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
				walk(f.Type.Elem())
			}
		}
	}
	walk(reflect.TypeFor[config.Config]())
}

func FuzzLoadNeverPanics(f *testing.F) {
	f.Add("node: {name: a}")
	f.Add("keystores: [{name: a, type: local, dir: d}]")
	f.Add("&a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := config.Load(config.Source{Path: write(t, text), Keystores: types})
		if err != nil && !errs.Is(err, errs.InvalidConfig) {
			t.Fatalf("error without the code InvalidConfig: %v", err)
		}
	})
}
