//go:build !unix

package cluster

import (
	"os"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// takeLock refuses: without flock two processes could hold one identity (I1).
func takeLock(string) (*os.File, error) {
	return nil, errs.New(errs.Unimplemented, "a node needs an operating system with flock")
}

// checkOwner has nothing to look at: no node runs here.
func checkOwner(string) error { return nil }
