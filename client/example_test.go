package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
)

// demo is a cluster with tenants/demo/services/payments, and the options of one
// of its callers.
func demo(role string) (opts client.Options, stop func()) {
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
	opts = client.Options{Addrs: cluster.Addrs(), CAFile: cluster.CAFile()}
	if role == "workload" {
		opts.CertFile, opts.KeyFile, err = cluster.Workload("demo", "app")
	} else {
		opts.CertFile, opts.KeyFile, err = cluster.Person(role, "gabi")
	}
	if err != nil {
		panic(err)
	}
	return opts, func() { cluster.Stop(); _ = os.RemoveAll(dir) }
}

// Take a data key, encrypt with it, keep the wrapped form beside the data.
func Example() {
	opts, stop := demo("workload")
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	c, err := client.New(ctx, opts) // opts.Addrs: several nodes
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	scope := client.Scope{
		Service:  "tenants/demo/services/payments",
		Resource: "orders",
		Context:  map[string]string{"purpose": "invoice"},
	}
	key, err := c.GenerateDataKey(ctx, scope, 32)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer key.Plaintext.Wipe()
	fmt.Println(key.Plaintext.Len(), "bytes, wrapped by", key.KeyVersion)

	again, err := c.UnwrapDataKey(ctx, scope, key.Wrapped)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer again.Plaintext.Wipe()
	fmt.Println("the same key:", string(again.Plaintext.Bytes()) == string(key.Plaintext.Bytes()))
	// Output:
	// 32 bytes, wrapped by tenants/demo/services/payments/versions/1
	// the same key: true
}

// Small things can be encrypted by the cluster itself.
func ExampleClient_Encrypt() {
	opts, stop := demo("workload")
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, opts)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	scope := client.Scope{Service: "tenants/demo/services/payments"}
	ciphertext, err := c.Encrypt(ctx, scope, []byte("4111 1111 1111 1111"))
	if err != nil {
		fmt.Println(err)
		return
	}
	plaintext, err := c.Decrypt(ctx, scope, ciphertext)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer plaintext.Wipe()
	fmt.Println(string(plaintext.Bytes()))
	// Output: 4111 1111 1111 1111
}

// The generated clients run over the same balanced connection. A mutation gets a
// request id by itself; Capture tells it, and what an auditor needs.
func ExampleCapture() {
	opts, stop := demo("governor")
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, opts)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	var info client.Info
	svc, err := c.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{
		Name: "tenants/demo/services/payments",
	}, client.Capture(&info))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("primary version", svc.GetPrimaryVersion())
	fmt.Println("ids:", len(info.CorrelationID), len(info.RequestID), "attempts:", info.Attempts)
	// Output:
	// primary version 2
	// ids: 36 36 attempts: 1
}

// Errors carry a code of the table in docs/errors.md.
func ExampleClient_UnwrapDataKey_errors() {
	opts, stop := demo("workload")
	defer stop()
	ctx := context.Background()
	c, err := client.New(ctx, opts)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	_, err = c.UnwrapDataKey(ctx, client.Scope{Service: "tenants/demo/services/payments"}, []byte("not a wrapped key"))
	if e, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(client.Code(err)+":", e.Msg)
	}
	// Output: INTEGRITY: the ciphertext does not open
}
