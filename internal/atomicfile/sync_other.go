//go:build !unix

package atomicfile

// SyncDir does nothing where directories cannot be synced. Nodes run on unix;
// this lets the command line build elsewhere.
func SyncDir(string) error { return nil }
