package plan_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

var mixed = `
groups:
  - name: stores
    threshold: 2
    holders:
      - {name: frankfurt, keystore: eu-kms, key: "arn:aws:kms:eu-central-1:111122223333:key/1"}
      - {name: zurich, keystore: hsm, key: seal, region: zurich, account: bank}
  - name: people
    threshold: 2
    holders:
      - name: anna
        recipient_file: anna.pub
      - name: bert
        recipient: ` + recipientOf("bert") + `
      - name: safe
        printed: true
        account: notary
`

func opened(name string) (string, error) {
	if name == "anna.pub" {
		return "# the public half\n\n " + recipientOf("anna") + " \n", nil
	}
	return "", errors.New("no such file")
}

func TestAPlanFileIsRead(t *testing.T) {
	p, err := plan.Parse("p.yaml", []byte(mixed), opened)
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Plan{Groups: []plan.Group{
		{Name: "stores", Threshold: 2, Holders: []plan.Holder{
			{Name: "frankfurt", Key: seal.ProviderKey{Provider: "eu-kms", Key: "arn:aws:kms:eu-central-1:111122223333:key/1"}},
			{Name: "zurich", Key: seal.ProviderKey{Provider: "hsm", Key: "seal"}, Domain: seal.Domain{Account: "bank", Region: "zurich"}},
		}},
		{Name: "people", Threshold: 2, Holders: []plan.Holder{
			{Name: "anna", Recipient: recipientOf("anna")}, {Name: "bert", Recipient: recipientOf("bert")}, {Name: "safe", Domain: seal.Domain{Account: "notary"}},
		}},
	}}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	auto, err := plan.Parse("p.yaml", []byte("keys:\n- {keystore: a, key: k}\n- {name: second, keystore: b, key: k}\n"), nil)
	if err != nil || len(auto.Keys) != 2 || auto.Keys[0].Name != "a" || auto.Keys[1].Name != "second" {
		t.Errorf("%+v, %v", auto, err)
	}
}

func TestI3_WhatAPlanFileSaysIsReadOrRefused(t *testing.T) {
	edit := func(old, by string) string { return strings.Replace(mixed, old, by, 1) }
	for name, tc := range map[string]struct{ file, want string }{
		"nothing":             {"", "neither groups nor keys"},
		"a misspelt key":      {edit("recipient: ", "recipent: "), `p.yaml:14: unknown key "groups[1].holders[1].recipent", did you mean "groups[1].holders[1].recipient"?`},
		"a misspelt section":  {edit("groups:", "group:"), `p.yaml:2: unknown key "group", did you mean "groups"?`},
		"a key twice":         {edit("threshold: 2", "threshold: 2\n    threshold: 3"), `key "groups[0].threshold" stands twice`},
		"two documents":       {mixed + "---\n{}\n", "more than one YAML document"},
		"no YAML":             {"groups: [", "p.yaml: "},
		"text for a section":  {edit("- name: safe\n        printed: true\n        account: notary", "- safe"), `"groups[1].holders[2]" must be a section with keys`},
		"a word as threshold": {edit("threshold: 2", "threshold: two"), "cannot unmarshal"},
		"no holder":           {edit("printed: true", "printed: false"), "groups[1].holders[2] says nothing of who holds the share"},
		"two holders":         {edit("printed: true", "printed: true\n        recipient: age1x"), "has recipient and printed; give one of them"},
		"a person as a key":   {"keys:\n- {name: x, printed: true}\n", "is no key of a keystore"},
		"no recipient file":   {edit("anna.pub", "none.pub"), "recipient_file: no such file"},
		"an impossible group": {edit("threshold: 2", "threshold: 3"), `group "stores" needs 3 of 2 holders`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := plan.Parse("p.yaml", []byte(tc.file), opened)
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestAFileOfARecipientHasOnePublicRecipient(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "holds no recipient",
		"# only a comment\n":            "holds no recipient",
		"age1a\nage1b\n":                "more than one recipient",
		"AGE-SECRET-KEY-PQ-1QQQ":        "holds an identity",
		"AGE-PLUGIN-YUBIKEY-1QQQ":       "holds an identity",
		"-----BEGIN X PRIVATE KEY-----": "holds an identity",
	} {
		_, err := plan.Parse("p.yaml", []byte(mixed), func(string) (string, error) { return text, nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "QQQ") {
			t.Errorf("an identity stands in an error: %v", err)
		}
	}
}

func TestAFileOfARecipientIsBesideThePlan(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	at := write("plan.yaml", mixed)
	write("anna.pub", recipientOf("anna")+"\n")
	if p, err := plan.ReadFile(at); err != nil || p.Groups[1].Holders[0].Recipient != recipientOf("anna") {
		t.Errorf("%+v, %v", p, err)
	}
	elsewhere := write("else.yaml", strings.Replace(mixed, "anna.pub", filepath.Join(dir, "anna.pub"), 1))
	if _, err := plan.ReadFile(elsewhere); err != nil {
		t.Error(err)
	}
	write("anna.pub", strings.Repeat("# ", 5000)+"\n"+recipientOf("anna"))
	if _, err := plan.ReadFile(at); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
	if _, err := plan.ReadFile(write("big.yaml", strings.Repeat("#", plan.MaxFile+1))); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if _, err := plan.ReadFile(filepath.Join(dir, "none")); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
}

// FuzzParse holds that every plan which is read can be analysed, and that whatever it
// says can be printed.
func FuzzParse(f *testing.F) {
	f.Add([]byte(mixed))
	f.Add([]byte("keys:\n- {keystore: a, key: k}\n"))
	f.Add([]byte("groups:\n- &g {threshold: 2, holders: [{name: a, printed: true}, {name: b, printed: true}]}\n"))
	f.Add([]byte("groups: !!seq\n- threshold: 0x2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := plan.Parse("p", b, opened)
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) {
				t.Fatalf("%v", err)
			}
			return
		}
		a := plan.Analyze(p)
		if len(a.Domains) == 0 || a.HoldersNeeded < 1 || a.HoldersNeeded > len(p.Holders()) {
			t.Fatalf("%+v of %+v", a, p)
		}
		for _, h := range p.Holders() {
			if strings.ContainsAny(h.Name, "\x00\n\x1b") {
				t.Fatalf("%q", h.Name)
			}
		}
	})
}

// FuzzReadFile holds that a file says what its bytes say, and that risks and rules, which
// come from the same person, are only those that there are.
func FuzzReadFile(f *testing.F) {
	f.Add([]byte("keys:\n- {keystore: a, key: k}\n"))
	f.Add([]byte("four-eyes"))
	f.Add([]byte("concentration"))
	f.Fuzz(func(t *testing.T, b []byte) {
		at := filepath.Join(t.TempDir(), "p")
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := plan.ReadFile(at)
		if again, err2 := plan.Parse("p", b, func(string) (string, error) { return "", os.ErrNotExist }); (err == nil) != (err2 == nil) || err == nil && !cmp.Equal(p, again) {
			t.Fatalf("a file says something else than its bytes: %v, %v", err, err2)
		}
		if profile, err := plan.ParseProfile(string(b)); err == nil && profile != "" && profile != plan.FourEyes {
			t.Fatalf("profile %q", profile)
		}
		if risks, err := plan.ParseRisks([]string{string(b)}); err == nil && !cmp.Equal(risks, plan.Risks()) {
			t.Fatalf("risks %q", risks)
		}
	})
}
