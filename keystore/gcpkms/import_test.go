package gcpkms_test

import (
	"context"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/byok"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

// What the suite does not look at: an import makes a version that wraps from
// then on, opens nothing of the one before, and needs rights of its own.
func TestAnImportIsANewPrimaryVersion(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p, ok := s.open(t, env, s.settings()).(keystore.Importer)
	if !ok {
		t.Fatal("no keystore.Importer")
	}
	key := s.newImportKey(t)
	material := aSecret(t)
	put := func(material memsec.Secret) (keystore.ImportResult, error) {
		params, err := p.ImportParameters(t.Context(), keystore.ImportParametersRequest{Key: key, Correlation: newID(t)})
		if err != nil {
			return keystore.ImportResult{}, err
		}
		if params.Mechanism != keystore.ImportRSAAESKeyWrap256 || params.Expires.IsZero() {
			t.Errorf("%s until %s", params.Mechanism, params.Expires)
		}
		wrapped, err := byok.Wrap(env.Rand, params, material)
		check(t, err)
		return p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{Key: key, Wrapped: wrapped, Token: params.Token, Correlation: newID(t)})
	}
	// A key that waits for material wraps nothing, and nobody withdrew it.
	_, err := wrap(t.Context(), p, key, aSecret(t))
	wantClass(t, err, keystore.Misconfigured)

	res, err := put(material)
	check(t, err)
	_, first := mustWrap(t, p, key)
	again, err := put(aSecret(t))
	check(t, err)
	second, err := wrap(t.Context(), p, key, aSecret(t))
	check(t, err)
	if res.KeyVersion != "1" || again.KeyVersion != "2" || second.KeyVersion != "2" {
		t.Errorf("versions %q, %q and %q", res.KeyVersion, again.KeyVersion, second.KeyVersion)
	}
	check(t, unwrap(t.Context(), p, key, first))

	// Material of another length than the algorithm has.
	short, err := memsec.Random(env.Rand, 16, memsec.Hot)
	check(t, err)
	defer short.Destroy()
	_, err = put(short)
	wantClass(t, err, keystore.Corrupt, "was not imported")

	// A job of another ring, and one that is over.
	_, err = p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{
		Key: key, Wrapped: make([]byte, 552), Token: []byte("projects/p/locations/l/keyRings/other/importJobs/x"),
	})
	wantClass(t, err, keystore.Misconfigured, "no import job of this key's ring")
	_, err = p.ImportMaterial(t.Context(), keystore.ImportMaterialRequest{
		Key: key, Wrapped: make([]byte, 552), Token: []byte(gcpserver.KeyRing + "/importJobs/never-was"),
	})
	wantClass(t, err, keystore.Misconfigured, "never-was not found")
	s.Revoke(gcpserver.KeyRing, gcpserver.MachineAccount)
	_, err = put(material)
	wantClass(t, err, keystore.Misconfigured, "cloudkms.importJobs.create")
	s.Revoke(string(key), gcpserver.MachineAccount, roleImport)
	s.Grant(gcpserver.KeyRing, gcpserver.MachineAccount, gcpserver.RoleImporter)
	_, err = put(material)
	wantClass(t, err, keystore.Misconfigured, "cloudkms.cryptoKeyVersions.create")
	check(t, unwrap(t.Context(), p, key, first)) // none of it withdrew anything

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.ImportParameters(ctx, keystore.ImportParametersRequest{Key: key})
	wantClass(t, err, keystore.Unavailable)
}
