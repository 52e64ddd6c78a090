package rest_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
)

// With KRYPTON_ADDR=https://n1:8401,https://n2:8401 and the three files in the
// environment.
func Example() {
	ctx := context.Background()
	c, err := client.New(ctx, rest.Use())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ciphertext, err := c.Encrypt(ctx, client.Scope{Service: "tenants/demo/services/payments"}, []byte("4111 1111 1111 1111"))
	fmt.Println(len(ciphertext), err)
}

// The proxy that HTTPS_PROXY names is asked only when code says so.
func ExampleUseProxy() {
	c, err := client.New(context.Background(), rest.UseProxy(http.ProxyFromEnvironment))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
}
