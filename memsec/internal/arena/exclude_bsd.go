//go:build darwin || freebsd || netbsd || openbsd

package arena

// exclude does nothing: these systems have no portable way to keep a range out
// of dumps. memguard turns core dumps off for the whole process.
func exclude([]byte) error { return nil }
