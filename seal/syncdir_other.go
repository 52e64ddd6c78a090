//go:build !unix

package seal

// syncDir does nothing where directories cannot be synced. Nodes run on unix;
// this file lets the command line build elsewhere.
func syncDir(string) error { return nil }
