package audittest

import (
	"sync"

	"github.com/openkcm/krypton-cluster/audit"
)

// Op is an operation of a file system that can be made to fail. Zero is invalid.
type Op int

// The operations.
const (
	OpUnspecified Op = iota
	OpWrite
	OpSync
	OpCreate // opening a segment for appending
	OpTruncate
	OpReserve
	OpSyncDir
	OpRemove
	OpClose // of a segment
)

// Fault says how an operation fails.
type Fault struct {
	Err   error // what it returns; nil with Short set = a short write without an error
	Short int   // how many bytes a write still takes
	Skip  int   // how many operations of this kind still succeed before
}

// FS is a file system with faults, over another one.
type FS struct {
	audit.FS

	mu     sync.Mutex
	faults map[Op]Fault
	counts map[Op]int
	holds  map[Op]hold
}

// hold makes an operation wait.
type hold struct {
	gate    chan struct{} // until it is closed
	waiting chan struct{}
}

// NewFS puts faults over fsys.
func NewFS(fsys audit.FS) *FS {
	return &FS{FS: fsys, faults: map[Op]Fault{}, counts: map[Op]int{}, holds: map[Op]hold{}}
}

// Fail makes op fail as f says, from now on.
func (fs *FS) Fail(op Op, f Fault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.faults[op] = f
}

// Heal makes everything succeed again.
func (fs *FS) Heal() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	clear(fs.faults)
}

// Count returns how often op was called.
func (fs *FS) Count(op Op) int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.counts[op]
}

// Hold makes every op wait before it does anything, until release is called: a
// disk that hangs. The channel gets a value when one begins to wait.
func (fs *FS) Hold(op Op) (waiting <-chan struct{}, release func()) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h := hold{gate: make(chan struct{}), waiting: make(chan struct{}, 1024)}
	fs.holds[op] = h
	return h.waiting, sync.OnceFunc(func() {
		fs.mu.Lock()
		delete(fs.holds, op)
		fs.mu.Unlock()
		close(h.gate)
	})
}

// hit waits while op is held, counts it and returns its fault, if it has one then.
func (fs *FS) hit(op Op) (Fault, bool) {
	fs.mu.Lock()
	h, held := fs.holds[op]
	fs.mu.Unlock()
	if held {
		h.waiting <- struct{}{}
		<-h.gate
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.counts[op]++
	f, ok := fs.faults[op]
	if ok && f.Skip > 0 {
		f.Skip--
		fs.faults[op] = f
		return Fault{}, false
	}
	return f, ok
}

func (fs *FS) check(op Op) error {
	f, _ := fs.hit(op)
	return f.Err
}

// Append implements [audit.FS].
func (fs *FS) Append(name string) (audit.File, error) {
	if err := fs.check(OpCreate); err != nil {
		return nil, err
	}
	f, err := fs.FS.Append(name)
	if err != nil {
		return nil, err
	}
	return file{File: f, fs: fs}, nil
}

// Truncate implements [audit.FS].
func (fs *FS) Truncate(name string, size int64) error {
	if err := fs.check(OpTruncate); err != nil {
		return err
	}
	return fs.FS.Truncate(name, size)
}

// Reserve implements [audit.FS].
func (fs *FS) Reserve(name string, size int64) error {
	if err := fs.check(OpReserve); err != nil {
		return err
	}
	return fs.FS.Reserve(name, size)
}

// Remove implements [audit.FS]. Removing the reserve makes room: it heals writes
// and creations, as freeing blocks does on a full disk.
func (fs *FS) Remove(name string) error {
	if err := fs.check(OpRemove); err != nil {
		return err
	}
	fs.mu.Lock()
	delete(fs.faults, OpWrite)
	delete(fs.faults, OpCreate)
	fs.mu.Unlock()
	return fs.FS.Remove(name)
}

// SyncDir implements [audit.FS].
func (fs *FS) SyncDir(dir string) error {
	if err := fs.check(OpSyncDir); err != nil {
		return err
	}
	return fs.FS.SyncDir(dir)
}

type file struct {
	audit.File
	fs *FS
}

// Write implements io.Writer.
func (f file) Write(b []byte) (int, error) {
	fault, ok := f.fs.hit(OpWrite)
	if !ok {
		return f.File.Write(b)
	}
	n, err := f.File.Write(b[:min(fault.Short, len(b))])
	if err != nil {
		return n, err
	}
	return n, fault.Err
}

// Sync implements [audit.File].
func (f file) Sync() error {
	if err := f.fs.check(OpSync); err != nil {
		return err
	}
	return f.File.Sync()
}

// Truncate implements [audit.File].
func (f file) Truncate(size int64) error {
	if err := f.fs.check(OpTruncate); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

// Close implements [audit.File].
func (f file) Close() error {
	if err := f.fs.check(OpClose); err != nil {
		return err
	}
	return f.File.Close()
}
