package awskms_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
	"github.com/openkcm/krypton-cluster/keystore/byok"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
)

// documents returns the policies of the manual: of the role, of the key, and
// what an import needs in addition.
func documents(t *testing.T) (role, key, imports string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/keystores/awskms.md")
	do(t, err)
	var found []string
	for _, part := range strings.Split(string(page), "```json\n")[1:] {
		text, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatal("a block without an end")
		}
		found = append(found, text)
	}
	if len(found) != 3 {
		t.Fatalf("the manual has %d policies, want 3", len(found))
	}
	return found[0], found[1], found[2]
}

// narrow is a world whose key and role have these policies and no others.
func narrow(t *testing.T, rolePolicy, keyPolicy string) (*world, *awskms.Keystore, keystore.KeyRef) {
	t.Helper()
	w := newWorld(t, awsserver.Options{})
	w.role = w.addRole(t, awsserver.Role{Name: "krypton-eu", Account: "444455556666", WebIdentity: subject, Audience: audience, Policy: rolePolicy})
	key := w.key(t)
	do(t, w.PutKeyPolicy(string(key), []byte(keyPolicy)))
	return w, w.open(t, nil), key
}

// works returns what fails of what Krypton does with a key.
func works(t *testing.T, k *awskms.Keystore, key keystore.KeyRef) error {
	t.Helper()
	blob, err := wrap(t, k, key)
	if err != nil {
		return err
	}
	if err := unwrap(t, k, key, blob); err != nil {
		return err
	}
	if _, err := k.Describe(t.Context(), keystore.DescribeRequest{Key: key, Correlation: correlation(t)}); err != nil {
		return err
	}
	return k.Health(t.Context(), correlation(t))
}

func TestTheDocumentedPoliciesAreEnough(t *testing.T) {
	role, key, _ := documents(t)
	_, k, ref := narrow(t, role, key)
	if err := works(t, k, ref); err != nil {
		t.Fatal(err)
	}
}

// Without any one of the actions that they give to Krypton something fails.
func TestTheDocumentedPoliciesAreTheLeast(t *testing.T) {
	role, key, _ := documents(t)
	without := func(text, action string) string {
		var doc map[string]any
		do(t, json.Unmarshal([]byte(text), &doc))
		statements, ok := doc["Statement"].([]any)
		if !ok {
			t.Fatal("no statements")
		}
		taken := false
		for _, one := range statements {
			st, ok := one.(map[string]any)
			if !ok || st["Sid"] == "Administration" {
				continue
			}
			actions, many := st["Action"].([]any)
			if !many {
				actions = []any{st["Action"]}
			}
			n := len(actions)
			actions = slices.DeleteFunc(slices.Clone(actions), func(a any) bool { return a == action })
			taken = taken || len(actions) < n
			st["Action"] = actions
		}
		if !taken {
			t.Fatalf("%s is not in the policy", action)
		}
		out, err := json.Marshal(doc)
		do(t, err)
		return string(out)
	}
	for _, action := range []string{"kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"} {
		for name, c := range map[string][2]string{"role": {without(role, action), key}, "key": {role, without(key, action)}} {
			_, k, ref := narrow(t, c[0], c[1])
			if err := works(t, k, ref); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
				t.Errorf("%s is not needed in the policy of the %s: %v", action, name, err)
			}
		}
	}
}

// Who has the role's credentials can do nothing but what Krypton does.
func TestTheDocumentedPoliciesAllowNothingElse(t *testing.T) {
	role, key, _ := documents(t)
	w, k, ref := narrow(t, role, key)
	arn := string(ref)
	blob := mustWrap(t, k, ref)
	keys, err := w.SessionOf(w.role)
	do(t, err)
	client := bare(t, w, aws.Credentials{AccessKeyID: keys[0], SecretAccessKey: keys[1], SessionToken: keys[2]})
	encrypt := func(c map[string]string) error {
		_, err := client.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x"), EncryptionContext: c})
		return err
	}
	if err := encrypt(map[string]string{"krypton": "x"}); err != nil {
		t.Fatalf("as Krypton does: %v", err)
	}
	_, decrypt := client.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &arn, CiphertextBlob: blob})
	_, parameters := client.GetParametersForImport(t.Context(), &kms.GetParametersForImportInput{KeyId: &arn, WrappingAlgorithm: "RSAES_OAEP_SHA_256", WrappingKeySpec: "RSA_4096"})
	for what, err := range map[string]error{
		"without a context":           encrypt(nil),
		"with another context":        encrypt(map[string]string{"other": "x"}),
		"with more of a context":      encrypt(map[string]string{"krypton": "x", "other": "x"}),
		"decrypt without the context": decrypt,
		"import":                      parameters,
	} {
		if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "AccessDeniedException" {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Another role, with all rights of its own account.
	w.role = w.addRole(t, awsserver.Role{Name: "krypton-us", Account: "444455556666", WebIdentity: subject, Audience: audience})
	isClass(t, unwrap(t, w.open(t, nil), ref, blob), keystore.Denied, "AccessDenied")
}

func TestAnImportNeedsTheDocumentedPolicyInAddition(t *testing.T) {
	role, key, imports := documents(t)
	w, k, _ := narrow(t, role, key)
	arn, err := w.CreateExternalKey(t.Context())
	do(t, err)
	ref := keystore.KeyRef(arn)
	do(t, w.PutKeyPolicy(arn, []byte(key)))
	nothing := `{"Version": "2012-10-17", "Statement": []}`
	inside := w.addRole(t, awsserver.Role{Name: "krypton-import", TrustedPrincipal: w.role, ExternalID: "tenant-7", Policy: nothing})
	importing := w.open(t, map[string]string{"assume_role_arn": inside, "external_id": "tenant-7"})
	parameters := func(k *awskms.Keystore) (keystore.ImportParameters, error) {
		return k.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: ref, Correlation: correlation(t)})
	}
	for _, one := range []*awskms.Keystore{k, importing} {
		_, err = parameters(one)
		isClass(t, err, keystore.Misconfigured, "AccessDenied")
	}

	var doc, more map[string]any
	do(t, errors.Join(json.Unmarshal([]byte(key), &doc), json.Unmarshal([]byte(imports), &more)))
	have, _ := doc["Statement"].([]any)
	added, _ := more["Statement"].([]any)
	doc["Statement"] = append(have, added...)
	both, err := json.Marshal(doc)
	do(t, err)
	do(t, w.PutKeyPolicy(arn, both))
	_, err = parameters(k) // of another account
	isClass(t, err, keystore.Misconfigured, "AccessDenied")
	p, err := parameters(importing)
	do(t, err)
	if p.Mechanism != keystore.ImportOAEP256 || p.Expires.Before(w.clock.Now().Add(23*time.Hour)) {
		t.Errorf("mechanism %s until %s", p.Mechanism, p.Expires)
	}
	material := secret(t)
	wrapped, err := byok.Wrap(rand.Reader, p, material)
	do(t, err)
	bring := func(wrapped []byte) error {
		_, err := importing.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: ref, Wrapped: wrapped, Token: p.Token, Correlation: correlation(t)})
		return err
	}
	do(t, bring(wrapped))
	blob := mustWrap(t, k, ref)

	// The kill switch of imported material, and its way back.
	do(t, w.DeleteMaterial(t.Context(), arn))
	isClass(t, unwrap(t, k, ref, blob), keystore.Denied, "no material")
	other, err := byok.Wrap(rand.Reader, p, secret(t))
	do(t, err)
	isClass(t, bring(other), keystore.Misconfigured, "IncorrectKeyMaterial")
	do(t, bring(wrapped))
	do(t, unwrap(t, k, ref, blob))

	// A key that is about to be deleted takes no material, which withdraws nothing.
	do(t, w.ScheduleDeletion(t.Context(), arn))
	isClass(t, bring(wrapped), keystore.Misconfigured, "KMSInvalidState")
}

// bare is the SDK's client alone, as a program without Krypton has it.
func bare(tb testing.TB, w *world, creds aws.Credentials) *kms.Client {
	tb.Helper()
	return kms.New(kms.Options{
		Region: w.Region(), BaseEndpoint: aws.String(w.KMS().URL), Retryer: aws.NopRetryer{}, HTTPClient: trusting(tb, w.CAFile()),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return creds, nil }),
	})
}
