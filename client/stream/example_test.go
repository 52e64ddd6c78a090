package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/client/stream"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	cluster, err := clienttest.StartIn(dir, clienttest.Options{})
	if err != nil {
		panic(err)
	}
	defer cluster.Stop()
	if err := cluster.AddService("demo", "payments"); err != nil {
		panic(err)
	}
	cert, key, err := cluster.Workload("demo", "app")
	if err != nil {
		panic(err)
	}

	ctx := context.Background()
	c, err := client.New(ctx, client.Options{Addrs: cluster.Addrs(), CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	opts := stream.Options{Scope: client.Scope{Service: "tenants/demo/services/payments", Resource: "orders"}}

	var file bytes.Buffer // any io.Writer
	enc, err := stream.NewEncryptor(ctx, c, opts, &file)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(enc, "as much as you like")
	if err := enc.Close(); err != nil { // without Close it does not decrypt
		fmt.Println(err)
		return
	}

	dec, err := stream.NewDecryptor(ctx, c, opts, &file)
	if err != nil {
		fmt.Println(err)
		return
	}
	plain, err := io.ReadAll(dec)
	fmt.Println(string(plain), err)
	// Output: as much as you like <nil>
}
