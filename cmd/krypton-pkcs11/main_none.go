//go:build !cgo || !unix || nopkcs11

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "krypton-pkcs11 was built without cgo, and cannot load a PKCS#11 module; build it with CGO_ENABLED=1")
	os.Exit(2)
}
