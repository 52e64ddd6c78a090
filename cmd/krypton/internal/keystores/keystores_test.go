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
	"github.com/openkcm/krypton-cluster/keystore"
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

func TestWhereAKeyIsStandsInItsNameAndItsSettings(t *testing.T) {
	types := keystores.Types(nil)
	const role = "arn:aws:iam::444455556666:role/krypton"
	for name, tc := range map[string]struct {
		typ      string
		settings map[string]string
		key      keystore.KeyRef
		want     keystore.Place
	}{
		"an ARN":                {"awskms", map[string]string{"region": "eu-central-1", "role_arn": role}, "arn:aws:kms:eu-west-1:111122223333:key/1", keystore.Place{Account: "111122223333", Region: "eu-west-1"}},
		"an alias, by its role": {"awskms", map[string]string{"region": "eu-central-1", "role_arn": role}, "alias/seal", keystore.Place{Account: "444455556666", Region: "eu-central-1"}},
		"an alias, by the role that is assumed": {
			"awskms",
			map[string]string{"region": "eu-central-1", "role_arn": role, "assume_role_arn": "arn:aws:iam::777788889999:role/seal"},
			"alias/seal",
			keystore.Place{Account: "777788889999", Region: "eu-central-1"},
		},
		"an alias, nobody knows whose": {"awskms", map[string]string{"region": "eu-central-1", "auth": "imds"}, "alias/seal", keystore.Place{Region: "eu-central-1"}},
		"a resource":                   {"gcpkms", nil, "projects/bank/locations/europe-west3/keyRings/r/cryptoKeys/k", keystore.Place{Account: "bank", Region: "europe-west3"}},
		"no resource":                  {"gcpkms", nil, "k", keystore.Place{}},
		"a vault":                      {"azurekv", map[string]string{"vault": "https://Bank.vault.azure.net"}, "seal", keystore.Place{Account: "bank.vault.azure.net"}},
		"a server":                     {"transit", map[string]string{"address": "https://Bao.example:8200"}, "seal", keystore.Place{Account: "bao.example:8200"}},
		"a namespace":                  {"transit", map[string]string{"address": "https://bao.example:8200", "namespace": "/bank/"}, "seal", keystore.Place{Account: "bao.example:8200/bank"}},
		"a token by its label":         {"pkcs11", map[string]string{"token": "bank"}, "seal", keystore.Place{Account: "token bank"}},
		"a token by its serial":        {"pkcs11", map[string]string{"serial": "17"}, "seal", keystore.Place{Account: "serial 17"}},
		"files":                        {"local", map[string]string{"dir": "/var/lib/ks"}, "seal", keystore.Place{Account: "/var/lib/ks"}},
	} {
		t.Run(name, func(t *testing.T) {
			configs := []keystore.Config{{Name: "other", Type: "local"}, {Name: "ks", Type: tc.typ, Settings: tc.settings}}
			typ, got, ok := types.PlaceOf(configs, "ks", tc.key)
			if typ != tc.typ || got != tc.want || !ok {
				t.Errorf("%s %+v %v, want %+v", typ, got, ok, tc.want)
			}
		})
	}
	if _, _, ok := types.PlaceOf(nil, "ks", "k"); ok {
		t.Error("a keystore that is not configured is somewhere")
	}
	for _, typ := range types {
		if typ.Place == nil {
			t.Errorf("type %s does not say where its keys are", typ.Name)
		}
	}
}
