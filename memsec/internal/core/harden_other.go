//go:build !linux

package core

const hardens = false

// harden does nothing here; status says so. (memguard turns core dumps off
// where the system has such a limit.)
func harden() error { return nil }

func raiseLimit() {}

// lockLimit returns -1: the limit is not looked up on this system.
func lockLimit() int64 { return -1 }
