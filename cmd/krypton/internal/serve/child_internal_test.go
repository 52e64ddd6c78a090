//go:build unix && !linux

package serve

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
