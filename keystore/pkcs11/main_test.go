//go:build unix && !nopkcs11

package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
)

// programs has the helper and the owner's program, built once for all tests.
var programs string

func TestMain(m *testing.M) {
	if settings := os.Getenv("KRYPTON_TEST_PKCS11_NODE"); settings != "" {
		if err := runNode(settings); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "krypton-pkcs11-test")
	if err == nil {
		programs = dir
		err = hsm.Build(context.Background(), dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if code == 0 && err == nil {
		err = goleak.Find(leaktest.Known()...)
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
