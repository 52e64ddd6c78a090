package gcpkms_test

import (
	"errors"
	"strings"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/gcpkms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
)

const (
	acme = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	beta = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"
)

// customer is a tenant's service account and a key that it alone may use.
func (s *setup) customer(t *testing.T, name, label string) (account string, key keystore.KeyRef) {
	t.Helper()
	account = name + "-krypton@" + gcpserver.Project + ".iam.gserviceaccount.com"
	s.GrantImpersonation(account, gcpserver.MachineAccount)
	resource, err := s.CreateKey(name, kmspb.ProtectionLevel_SOFTWARE)
	check(t, err)
	s.Grant(resource, account, roleKrypton)
	check(t, s.SetLabels(resource, map[string]string{gcpkms.TenantLabel: label}))
	return account, keystore.KeyRef(resource)
}

func as(t *testing.T, p keystore.Provider, uid, account string) keystore.Owned {
	t.Helper()
	one, err := p.(keystore.Assumer).As(keystore.Identity{Tenant: uid, Names: map[string]string{"service_account": account}})
	check(t, err)
	t.Cleanup(func() { check(t, one.Close()) })
	return one
}

func (s *setup) node(t *testing.T) keystore.Provider {
	t.Helper()
	return s.open(t, testEnv(), s.settings("project", "", "iam_endpoint", s.IAMEndpoint()))
}

func prove(t *testing.T, p keystore.Owned, key keystore.KeyRef) (keystore.Proof, error) {
	t.Helper()
	return p.Prove(t.Context(), keystore.ProveRequest{Key: key})
}

// TestI6_ATenantsAccountOpensItsKeyAndNoOther: the same machine has the rights of one
// tenant in each call.
func TestI6_ATenantsAccountOpensItsKeyAndNoOther(t *testing.T) {
	s := start(t, gcpserver.Options{})
	node := s.node(t)
	accountA, keyA := s.customer(t, "acme", acme)
	accountB, _ := s.customer(t, "beta", beta)
	a, b := as(t, node, acme, accountA), as(t, node, beta, accountB)
	secret := aSecret(t)
	res, err := wrap(t.Context(), a, keyA, secret)
	check(t, err)
	check(t, unwrap(t.Context(), a, keyA, res.Blob))
	proof, err := prove(t, a, keyA)
	check(t, err)
	if proof.Key != "gcpkms:"+string(keyA) || a.Owner() != "gcpkms:"+accountA {
		t.Errorf("the key is %q, the owner %q", proof.Key, a.Owner())
	}
	// Its key, as beta's account.
	if err := unwrap(t.Context(), b, keyA, res.Blob); !keystore.IsDenied(err) {
		t.Errorf("as another account: %v", err)
	}
	if _, err := prove(t, b, keyA); err == nil {
		t.Error("proved as another account")
	}
	// Its account and key: Google has nothing against it, and the key's label has.
	_, err = prove(t, as(t, node, beta, accountA), keyA)
	var not *keystore.NotOwnedError
	if wantClass(t, err, keystore.Misconfigured, "krypton-tenant"); !errors.As(err, &not) {
		t.Errorf("%v", err)
	}
	// An account that may not be had is no withdrawal of a key.
	nobody := as(t, node, beta, "nobody@"+gcpserver.Project+".iam.gserviceaccount.com")
	err = unwrap(t.Context(), nobody, keyA, res.Blob)
	if wantClass(t, err, keystore.Misconfigured, "denied"); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("not told from other mistakes: %v", err)
	}
	// The end of one identity ends no other.
	check(t, b.Close())
	check(t, unwrap(t.Context(), a, keyA, res.Blob))
}

// TestI7_AKeyWithoutTheTenantsLabelIsNotIts, whoever may use it.
func TestI7_AKeyWithoutTheTenantsLabelIsNotIts(t *testing.T) {
	s := start(t, gcpserver.Options{})
	account, key := s.customer(t, "acme", "")
	p := as(t, s.node(t), acme, account)
	for _, labels := range []map[string]string{nil, {gcpkms.TenantLabel: beta}, {"tenant": acme}, {gcpkms.TenantLabel: acme[:31]}} {
		check(t, s.SetLabels(string(key), labels))
		_, err := prove(t, p, key)
		wantClass(t, err, keystore.Misconfigured, "label")
	}
	check(t, s.SetLabels(string(key), map[string]string{gcpkms.TenantLabel: acme, "other": "x"}))
	_, err := prove(t, p, key)
	check(t, err)
}

func TestATenantsIdentityIsAnAccountOfTheKeysProject(t *testing.T) {
	s := start(t, gcpserver.Options{})
	account, key := s.customer(t, "acme", acme)
	node := s.node(t)
	p := as(t, node, acme, account)
	before := len(s.Records())
	for _, ref := range []string{
		strings.Replace(string(key), gcpserver.Project, "another-project", 1), "https://kms.mine.example/" + string(key), "//cloudkms.googleapis.com/" + string(key), string(key) + "/cryptoKeyVersions/1",
	} {
		_, err := prove(t, p, keystore.KeyRef(ref))
		wantClass(t, err, keystore.Misconfigured)
	}
	if n := len(s.Records()) - before; n != 0 {
		t.Errorf("%d calls were made", n)
	}
	for name, id := range map[string]keystore.Identity{
		"no account":        {Tenant: acme},
		"an account's path": {Tenant: acme, Names: map[string]string{"service_account": "a/../" + account}},
		"an address":        {Tenant: acme, Names: map[string]string{"service_account": "https://iam.mine.example/"}},
		"Google's own":      {Tenant: acme, Names: map[string]string{"service_account": "1234567-compute@developer.gserviceaccount.com"}},
		"an endpoint":       {Tenant: acme, Names: map[string]string{"service_account": account, "iam_endpoint": "https://mine.example"}},
		"no tenant":         {Names: map[string]string{"service_account": account}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := node.(keystore.Assumer).As(id)
			wantClass(t, err, keystore.Misconfigured)
		})
	}
	id := keystore.Identity{Tenant: acme, Names: map[string]string{"service_account": account}}
	_, err := s.open(t, testEnv(), s.settings("impersonate", gcpserver.TargetAccount, "iam_endpoint", s.IAMEndpoint())).(keystore.Assumer).As(id)
	wantClass(t, err, keystore.Misconfigured, "impersonates")
	_, err = s.open(t, testEnv(), s.settings("project", "another-project")).(keystore.Assumer).As(id)
	wantClass(t, err, keystore.Misconfigured, "another project")
}

func testEnv() keystore.Env {
	env, _ := envWith(clock.System{})
	return env
}
