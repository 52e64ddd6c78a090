//go:build !unix

package agebox

import (
	"os"
	"os/exec"
)

// alone does nothing: what the program starts may outlive it here. Nodes run on unix.
func alone(*exec.Cmd) {}

func kill(p *os.Process) error { return p.Kill() }
