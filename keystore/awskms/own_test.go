package awskms_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
)

const (
	acme = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	beta = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
)

// customer is a tenant's role, and a key that it alone may use.
func (w *world) customer(t *testing.T, uid, external string) (role string, key keystore.KeyRef) {
	t.Helper()
	role = w.addRole(t, awsserver.Role{Name: "krypton-" + uid[:2], TrustedPrincipal: w.role, ExternalID: external})
	key = w.key(t)
	do(t, w.PutKeyPolicy(string(key), []byte(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "`+role+`"}, "Action": "kms:*", "Resource": "*"}]}`)))
	return role, key
}

func as(t *testing.T, k *awskms.Keystore, uid, role string) keystore.Owned {
	t.Helper()
	p, err := k.As(keystore.Identity{Tenant: uid, Names: map[string]string{"role": role}})
	do(t, err)
	t.Cleanup(func() { do(t, p.Close()) })
	return p
}

func prove(t *testing.T, p keystore.Owned, key keystore.KeyRef) (keystore.Proof, error) {
	t.Helper()
	return p.Prove(t.Context(), keystore.ProveRequest{Key: key, Correlation: correlation(t)})
}

// decrypted counts the blobs that KMS opened.
func (w *world) decrypted() (n int) {
	for _, r := range w.events("kms.amazonaws.com") {
		if r.Event == "Decrypt" && r.ErrorCode == "" {
			n++
		}
	}
	return n
}

// TestI7_ATenantsRoleOpensItsKeyAndNoOther: the same node, by one token of its platform,
// has the rights of one tenant in each call.
func TestI7_ATenantsRoleOpensItsKeyAndNoOther(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	node := w.open(t, nil)
	roleA, keyA := w.customer(t, acme, acme)
	roleB, keyB := w.customer(t, beta, beta)
	a, b := as(t, node, acme, roleA), as(t, node, beta, roleB)
	blob := mustWrap(t, a, keyA)
	do(t, unwrap(t, a, keyA, blob))
	proof, err := prove(t, a, keyA)
	do(t, err)
	if !strings.HasPrefix(proof.Key, "awskms:aws:111122223333:") || !strings.HasSuffix(string(keyA), proof.Key[len("awskms:aws:111122223333:"):]) {
		t.Errorf("the key is %q", proof.Key)
	}
	opened := w.decrypted()

	// Its key, as beta's own role.
	isClass(t, unwrap(t, b, keyA, blob), keystore.Denied)
	_, err = prove(t, b, keyA)
	isClass(t, err, keystore.Misconfigured)
	// Its role: beta's external id is not what the role asks for.
	stolen := as(t, node, beta, roleA)
	for _, key := range []keystore.KeyRef{keyA, keyB} {
		err := unwrap(t, stolen, key, blob)
		isClass(t, err, keystore.Misconfigured, "assume the role")
		_, proved := prove(t, stolen, key)
		if !errors.Is(err, keystore.ErrRefused) || !errors.Is(proved, keystore.ErrRefused) {
			t.Errorf("not told from other mistakes: %v; %v", err, proved)
		}
	}
	if n := w.decrypted() - opened; n != 0 {
		t.Errorf("KMS opened %d blobs for another tenant", n)
	}
	do(t, unwrap(t, a, keyA, blob))
}

// TestI8_ARoleThatAsksForNoExternalIDIsNobodys: whoever names it has it.
func TestI8_ARoleThatAsksForNoExternalIDIsNobodys(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	role, key := w.customer(t, acme, "")
	p := as(t, w.open(t, nil), acme, role)
	mustWrap(t, p, key) // it works, and that is no proof
	_, err := prove(t, p, key)
	var not *keystore.NotOwnedError
	if isClass(t, err, keystore.Misconfigured, "any external id"); !errors.As(err, &not) {
		t.Errorf("%v", err)
	}
	// A token service that does not say is no proof either.
	w.addRole(t, awsserver.Role{Name: "krypton-" + acme[:2], TrustedPrincipal: w.role, ExternalID: acme})
	w.FailSTS("AssumeRole", "Throttling", "Rate exceeded", 400, 1)
	_, err = prove(t, p, key)
	isClass(t, err, keystore.Throttled)
	_, err = prove(t, p, key)
	do(t, err)
}

// TestI7_AKeyOfAnotherAccountIsNotTheRoles, by no name that a key can have.
func TestI7_AKeyOfAnotherAccountIsNotTheRoles(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	role, key := w.customer(t, acme, acme)
	p := as(t, w.open(t, nil), acme, role)
	elsewhere := strings.Replace(string(key), ":111122223333:", ":444455556666:", 1)
	for _, ref := range []string{
		elsewhere, strings.Replace(string(key), w.Region(), "us-east-1", 1), "https://kms.mine.example/" + string(key), string(key) + "/x", "alias/../" + string(key),
	} {
		before := len(w.events("kms.amazonaws.com")) + w.logins()
		_, err := prove(t, p, keystore.KeyRef(ref))
		isClass(t, err, keystore.Misconfigured)
		isClass(t, unwrap(t, p, keystore.KeyRef(ref), mustWrapped), keystore.Misconfigured)
		if n := len(w.events("kms.amazonaws.com")) + w.logins() - before; n != 0 {
			t.Errorf("%s: %d requests were made", ref, n)
		}
	}
	// One key by all its names is one.
	do(t, w.Alias(t.Context(), "alias/acme", string(key)))
	id := string(key)[strings.LastIndexByte(string(key), '/')+1:]
	var words []string
	for _, ref := range []string{string(key), id, "alias/acme", w.KeyARN(id)} {
		proof, err := prove(t, p, keystore.KeyRef(ref))
		do(t, err)
		words = append(words, proof.Key)
	}
	for _, word := range words[1:] {
		if word != words[0] {
			t.Errorf("one key has the words %q", words)
		}
	}
}

// mustWrapped is a blob in the right form.
var mustWrapped = []byte{1, 1, 0, 0, 0, 0, 0, 0}

func TestAnIdentityIsARoleOfItsPartition(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k := w.open(t, nil)
	role := "arn:aws:iam::111122223333:role/krypton"
	for name, id := range map[string]keystore.Identity{
		"no role":               {Tenant: acme},
		"no ARN":                {Tenant: acme, Names: map[string]string{"role": "krypton"}},
		"an address":            {Tenant: acme, Names: map[string]string{"role": "https://sts.mine.example/"}},
		"another partition":     {Tenant: acme, Names: map[string]string{"role": strings.Replace(role, "aws", "aws-cn", 1)}},
		"an endpoint besides":   {Tenant: acme, Names: map[string]string{"role": role, "endpoint": "https://mine.example"}},
		"an external id of its": {Tenant: acme, Names: map[string]string{"role": role, "external_id": beta}},
		"no tenant":             {Names: map[string]string{"role": role}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := k.As(id)
			isClass(t, err, keystore.Misconfigured)
		})
	}
}
