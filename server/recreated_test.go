package server_test

import (
	"testing"

	"google.golang.org/grpc"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// A name can be used again for another customer, and certificates live longer
// than a deletion takes.
func TestAWorkloadOfADestroyedTenantDoesNotReachTheNextOneOfThatName(t *testing.T) {
	w := newWorld(t, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.members[0].waitServing()
	w.tenant("acme", "pay")
	const svc = "tenants/acme/services/pay"
	ctx := limited(t)
	old := w.dial(0, w.tlsConfig(w.certOf("workload/acme")...))
	defer old.Close()
	first, err := kryptonv1.NewCryptoClient(old).Encrypt(ctx, &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("of the first customer")})
	if err != nil {
		t.Fatal(err)
	}

	gov := w.grpc(0, "governor")
	// One whom no binding has to know, and whose certificate names the tenant by its uid.
	ca := w.corp()
	tenant, err := kryptonv1.NewTenantsClient(gov).GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	before := w.as(0, ca.leaf(nil, ca.uri("acme", tenant.GetUid()+"/app")))
	if _, err := kryptonv1.NewCryptoClient(before).Decrypt(ctx, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: first.GetCiphertext()}); err != nil {
		t.Fatal(err)
	}
	tenants := kryptonv1.NewTenantsClient(gov)
	if _, err := tenants.DeleteTenant(ctx, &kryptonv1.DeleteTenantRequest{Name: "tenants/acme", Now: true}); err != nil {
		t.Fatal(err)
	}
	w.l1("acme-again")
	if _, err := tenants.CreateTenant(ctx, &kryptonv1.CreateTenantRequest{
		TenantId: "acme", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: "acme-again"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := kryptonv1.NewServicesClient(gov).CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/acme", ServiceId: "pay"}); err != nil {
		t.Fatal(err)
	}
	fresh := w.dial(0, w.tlsConfig(w.issue("workload", "acme", 0)))
	defer fresh.Close()
	second, err := kryptonv1.NewCryptoClient(fresh).Encrypt(ctx, &kryptonv1.EncryptRequest{Service: svc, Plaintext: []byte("of the next customer")})
	if err != nil {
		t.Fatalf("the next tenant's own workload: %v", err)
	}

	// The old one has the key that is bound now, and its certificate names the tenant before.
	for id, cc := range map[string]*grpc.ClientConn{"identity/of-a-tenant-before": old, "identity/other-tenant": before} {
		if _, err := kryptonv1.NewCryptoClient(cc).Decrypt(ctx, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: second.GetCiphertext()}); codeOf(err) != errs.NotFound && codeOf(err) != errs.Unauthenticated {
			t.Errorf("%s: the old workload reads the next customer's data: %v", id, err)
		}
		_, err = kryptonv1.NewTenantsClient(cc).GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: "tenants/acme"})
		situationtest.Error(t, id, wire.FromStatus(err))
	}
	if _, err := kryptonv1.NewCryptoClient(fresh).Decrypt(ctx, &kryptonv1.DecryptRequest{Service: svc, Ciphertext: first.GetCiphertext()}); codeOf(err) != errs.Integrity {
		t.Errorf("the next workload opens the first customer's data: %v", err)
	}
}
