//go:build cgo && unix && !nopkcs11

package main

import (
	"fmt"
	"os"

	"github.com/openkcm/krypton-cluster/memsec"
)

// version is set by the linker.
var version = "devel" //nolint:gochecknoglobals // -X main.version needs a variable.

// requests is the descriptor on which the node speaks. Not 0 and 1: a vendor's
// library may print.
const requests = 3

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("krypton-pkcs11", version)
		return 0
	}
	conn := os.NewFile(requests, "node")
	if len(os.Args) != 1 || !isSocket(conn) {
		fmt.Fprintln(os.Stderr, "krypton-pkcs11 is started by a node of Krypton, for a keystore of type pkcs11; see docs/keystores/pkcs11.md")
		return 2
	}
	// No core dump and no debugger, before the PIN is read.
	if _, err := memsec.Setup(memsec.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, "krypton-pkcs11:", err)
		return 1
	}
	if err := serve(conn); err != nil {
		return 1
	}
	return 0
}

// isSocket tells the node's socket from nothing, and from a descriptor of the
// Go runtime that has the number because it was free.
func isSocket(f *os.File) bool {
	if f == nil {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeSocket != 0
}
