package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/types/known/anypb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
)

// demo starts a cluster with tenants/demo/services/payments and sets the four
// variables of the environment for one of its callers.
func demo(role string) (stop func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	cluster, err := clienttest.StartIn(dir, clienttest.Options{})
	if err != nil {
		panic(err)
	}
	if err := cluster.AddService("demo", "payments"); err != nil {
		panic(err)
	}
	var cert, key string
	if role == "workload" {
		cert, key, err = cluster.Workload("demo", "app")
	} else {
		cert, key, err = cluster.Person(role, "gabi")
	}
	if err != nil {
		panic(err)
	}
	old := map[string]string{}
	for name, value := range map[string]string{
		"KRYPTON_ADDR": strings.Join(cluster.Addrs(), ","), "KRYPTON_CA_FILE": cluster.CAFile(), "KRYPTON_CERT_FILE": cert, "KRYPTON_KEY_FILE": key,
	} {
		old[name] = os.Getenv(name)
		_ = os.Setenv(name, value) // fails only for names that are none
	}
	return func() {
		for name, value := range old {
			_ = os.Setenv(name, value)
		}
		cluster.Stop()
		_ = os.RemoveAll(dir)
	}
}

// check ends an example at an error.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// The address of the cluster and the identity of the caller are in the
// environment. One value goes in, the same value comes out.
func Example() {
	defer demo("workload")()
	ctx := context.Background()

	c, err := client.New(ctx)
	check(err)
	defer c.Close()
	scope := client.Scope{Service: "tenants/demo/services/payments"}
	ciphertext, err := c.Encrypt(ctx, scope, []byte("4111 1111 1111 1111"))
	check(err)
	plaintext, err := c.Decrypt(ctx, scope, ciphertext)
	check(err)
	defer plaintext.Wipe()
	fmt.Println(string(plaintext.Bytes()))
	// Output: 4111 1111 1111 1111
}

// Take a data key, encrypt with it, keep the wrapped form beside the data.
func ExampleClient_GenerateDataKey() {
	defer demo("workload")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	scope := client.Scope{
		Service:  "tenants/demo/services/payments",
		Resource: "orders",
		Context:  map[string]string{"purpose": "invoice"},
	}
	key, err := c.GenerateDataKey(ctx, scope, 32)
	check(err)
	defer key.Plaintext.Wipe()
	fmt.Println(key.Plaintext.Len(), "bytes, wrapped by", key.KeyVersion)

	again, err := c.UnwrapDataKey(ctx, scope, key.Wrapped)
	check(err)
	defer again.Plaintext.Wipe()
	fmt.Println("the same key:", string(again.Plaintext.Bytes()) == string(key.Plaintext.Bytes()))
	// Output:
	// 32 bytes, wrapped by tenants/demo/services/payments/versions/1
	// the same key: true
}

// After a rotation, wrapped keys are moved to the new version without being
// shown.
func ExampleClient_RewrapDataKey() {
	defer demo("workload")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	scope := client.Scope{Service: "tenants/demo/services/payments"}
	key, err := c.GenerateDataKey(ctx, scope, 0)
	check(err)
	key.Plaintext.Wipe()
	moved, previous, err := c.RewrapDataKey(ctx, scope, key.Wrapped)
	check(err)
	fmt.Println("was under", previous)
	fmt.Println("is under ", moved.KeyVersion)
	// Output:
	// was under tenants/demo/services/payments/versions/1
	// is under  tenants/demo/services/payments/versions/1
}

// A tenant's keys are under a key of the customer's own keystore.
func ExampleClient_Tenants() {
	defer demo("governor")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	tenant, err := c.Tenants().CreateTenant(ctx, &kryptonv1.CreateTenantRequest{
		TenantId: "acme",
		Binding:  &kryptonv1.Binding{Keystore: "vault", Key: "acme-root"},
	})
	check(err)
	fmt.Println(tenant.GetName(), tenant.GetState())
	// Output: tenants/acme OBJECT_STATE_ACTIVE
}

// A service has the keys that its data is under. Rotating it adds a version;
// what was wrapped before still opens.
func ExampleClient_Services() {
	defer demo("governor")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	service, err := c.Services().CreateService(ctx, &kryptonv1.CreateServiceRequest{Parent: "tenants/demo", ServiceId: "mail"})
	check(err)
	service, err = c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service.GetName()})
	check(err)
	fmt.Println(service.GetName(), "wraps with version", service.GetPrimaryVersion(), "of", len(service.GetVersions()))
	// Output: tenants/demo/services/mail wraps with version 2 of 2
}

// Lists come in pages; the iterators walk them.
func ExampleClient_AllServices() {
	defer demo("governor")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	for tenant, err := range c.AllTenants(ctx) {
		check(err)
		for service, err := range c.AllServices(ctx, tenant.GetName()) {
			check(err)
			for _, v := range service.GetVersions() {
				fmt.Println(v.GetName(), v.GetState())
			}
		}
	}
	// Output: tenants/demo/services/payments/versions/1 VERSION_STATE_ACTIVE
}

// What others have to approve waits under a name. A program can list it, tell
// people, or end it. Signing is for people and their keys: see krypton approval
// approve, and package intent/orders.
func ExampleClient_Approvals() {
	defer demo("governor")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	what, err := anypb.New(&kryptonv1.DeleteTenantRequest{Name: "tenants/demo"})
	check(err)
	asked, err := c.Approvals().CreateApproval(ctx, &kryptonv1.CreateApprovalRequest{
		Request:   what,
		Signature: &kryptonv1.SignedIntent{Intent: []byte("made and signed by intent/orders")},
	})
	check(err)
	for a, err := range c.AllApprovals(ctx, "") {
		check(err)
		fmt.Println(a.GetName(), "asked by", a.GetRequester(), "waits for", a.GetGovernorsMissing(), "governor")
	}
	ended, err := c.Approvals().Reject(ctx, &kryptonv1.RejectRequest{Name: asked.GetName(), Reason: "wrong tenant"})
	check(err)
	fmt.Println(ended.GetState(), "by", ended.GetRejectedBy())
	// Output:
	// approvals/70c936c70379b57d314d2909137221b8 asked by governor/gabi waits for 1 governor
	// APPROVAL_STATE_REJECTED by governor/gabi
}

// Every node is asked about itself, all at once.
func ExampleClient_Health() {
	defer demo("operator")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	for _, h := range c.Health(ctx) {
		check(h.Err)
		fmt.Printf("%s sealed=%v serving=%s leader=%v\n", h.Name, h.Sealed(), h.Serving, h.Leader)
	}
	// Output:
	// n1 sealed=false serving=yes leader=true
	// n2 sealed=false serving=yes leader=false
	// n3 sealed=false serving=yes leader=false
}

// A mutation gets a request id by itself; Capture tells it, and what an auditor
// needs.
func ExampleCapture() {
	defer demo("governor")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	var info client.Info
	service, err := c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{
		Name: "tenants/demo/services/payments",
	}, client.Capture(&info))
	check(err)
	fmt.Println("primary version", service.GetPrimaryVersion())
	fmt.Println("ids:", len(info.CorrelationID), len(info.RequestID), "attempts:", info.Attempts)
	// Output:
	// primary version 2
	// ids: 36 36 attempts: 1
}

// Errors carry a code of the table in docs/errors.md.
func ExampleClient_UnwrapDataKey_errors() {
	defer demo("workload")()
	ctx := context.Background()
	c, err := client.New(ctx)
	check(err)
	defer c.Close()

	_, err = c.UnwrapDataKey(ctx, client.Scope{Service: "tenants/demo/services/payments"}, []byte("not a wrapped key"))
	if e, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(client.Code(err)+":", e.Msg)
	}
	// Output: INTEGRITY: the ciphertext does not open
}
