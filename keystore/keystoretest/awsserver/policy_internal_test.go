package awsserver

import (
	"encoding/json"
	"slices"
	"testing"
)

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"Version": "2012-10-17", "Statement": [{"Sid": "a", "Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": "kms:*", "Resource": "*", "Condition": {"Null": {"kms:EncryptionContextKeys": "false"}}}]}`))
	f.Add([]byte(`{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": ["kms:Decrypt"]}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePolicy(text)
		if err != nil {
			return
		}
		a := attempt{principals: []string{"x"}, action: "kms:Decrypt", resource: "k", context: map[string]string{"a": "b"}}
		allows, denies := p.says(a, true)
		if allows && denies {
			t.Error("it allows and denies")
		}
		// A denial of everything ends every allowance (deny wins).
		p.statements = append(p.statements, statement{deny: true, principals: []string{"*"}, actions: []string{"*"}, resources: []string{"*"}})
		if allows, denies := p.says(a, true); allows || !denies {
			t.Error("a denial of everything does not deny")
		}
	})
}

func FuzzWords(f *testing.F) {
	f.Add([]byte(`"a"`))
	f.Add([]byte(`["a", "b"]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[1]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var w words
		if w.UnmarshalJSON(text) != nil {
			return
		}
		again, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		var x words
		if err := x.UnmarshalJSON(again); err != nil || !slices.Equal(w, x) {
			t.Errorf("%q came back as %q, %v", w, x, err)
		}
	})
}
