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

// start runs a cluster with the service demo/payments, and returns a client of a
// workload of it.
func start() (c *client.Client, stop func()) {
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
	cert, key, err := cluster.Workload("demo", "app")
	if err != nil {
		panic(err)
	}
	c, err = client.New(context.Background(), client.With(client.Options{Addrs: cluster.Addrs(), CAFile: cluster.CAFile(), CertFile: cert, KeyFile: key}))
	if err != nil {
		panic(err)
	}
	return c, func() {
		_ = c.Close()
		cluster.Stop()
		_ = os.RemoveAll(dir)
	}
}

func Example() {
	c, stop := start() // a cluster for this example; see client.New
	defer stop()
	ctx := context.Background()
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

// A file is encrypted, and 100 bytes from its middle are read. Of the file, its
// header, its last segment and the segment with those bytes are read and decrypted.
func ExampleNewReaderAt() {
	c, stop := start() // a cluster for this example; see client.New
	defer stop()
	ctx := context.Background()
	opts := stream.Options{
		Scope: client.Scope{Service: "tenants/demo/services/payments", Resource: "orders"},
		AAD:   []byte("report 2026-11"), // so that no other report is taken for this one
	}

	file, err := os.CreateTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(file.Name())
	defer file.Close()
	enc, err := stream.NewEncryptor(ctx, c, opts, file)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 100_000 {
		fmt.Fprintf(enc, "line %5d\n", i)
	}
	if err := enc.Close(); err != nil {
		fmt.Println(err)
		return
	}

	st, err := file.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := stream.NewReaderAt(ctx, c, opts, file, st.Size())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close() // wipes what it keeps
	b := make([]byte, 100)
	if _, err := r.ReadAt(b, 550_000); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d bytes\n%s\n", r.Size(), b[:22])

	// A reader that can seek.
	seeker := io.NewSectionReader(r, 0, r.Size())
	if _, err := seeker.Seek(-11, io.SeekEnd); err != nil {
		fmt.Println(err)
		return
	}
	last, err := io.ReadAll(seeker)
	fmt.Printf("%s%v\n", last, err)
	// Output:
	// 1100000 bytes
	// line 50000
	// line 50001
	//
	// line 99999
	// <nil>
}
