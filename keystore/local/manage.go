//go:build unix

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// lockRetry is how often a change looks again whether another process is done
// with its own; a change takes two fsyncs.
const lockRetry = 5 * time.Millisecond

// Create makes an empty keystore in dir, which must not exist or be an empty
// directory of this user with mode 0700.
func Create(ctx context.Context, env keystore.Env, name, dir string) (*Keystore, error) {
	fail := func(err error) (*Keystore, error) {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: name, Op: keystore.OpManage}, err)
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return fail(err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fail(err)
	}
	if err := checkAccess(dir, info, dirMode); err != nil {
		return fail(err)
	}
	path := filepath.Join(dir, lockName)
	l, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, fileMode)
	if err != nil {
		return fail(err)
	}
	if err := l.Close(); err != nil {
		return fail(err)
	}
	// Under the lock of all changes, so that of two creators one finds the
	// other's file; a creator that crashed before it left nothing to find.
	unlock, err := flock(ctx, env, path)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(dir, keysName)); !errors.Is(err, fs.ErrNotExist) {
		return fail(errors.Join(fmt.Errorf("there is a keystore in %s already", dir), err))
	}
	empty := contents{revision: 1}
	if err := atomicfile.Write(filepath.Join(dir, keysName), empty.encode(nil, nil), fileMode); err != nil {
		return fail(err)
	}
	return Open(ctx, env, name, dir)
}

// CreateKey makes an enabled key with one version. The name is 1 to
// [MaxKeyName] printable ASCII characters and was never used before.
func (s *Keystore) CreateKey(ctx context.Context, name string) error {
	return s.change(ctx, keystore.KeyRef(name), func(c *contents, now time.Time, fresh []byte) error {
		if err := checkName(name); err != nil {
			return err
		}
		i, found := c.find(name)
		if found {
			return errors.New("a key of this name exists, or existed")
		}
		if len(c.keys) >= MaxKeys {
			return fmt.Errorf("the keystore has %d keys, the limit", MaxKeys)
		}
		k := key{name: name, state: keystore.StateEnabled}
		if err := k.rotate(s.env.Rand, now, fresh); err != nil {
			return err
		}
		c.keys = append(c.keys[:i:i], append([]key{k}, c.keys[i:]...)...)
		return nil
	})
}

// Rotate gives an enabled key a new version, which wraps from now on. Earlier
// versions still unwrap.
func (s *Keystore) Rotate(ctx context.Context, ref keystore.KeyRef) error {
	return s.changeKey(ctx, ref, func(k *key, now time.Time, fresh []byte) error {
		if k.state != keystore.StateEnabled {
			return fmt.Errorf("the key is %s", k.state)
		}
		return k.rotate(s.env.Rand, now, fresh)
	})
}

// Disable makes every use of the key Denied until [Keystore.Enable].
func (s *Keystore) Disable(ctx context.Context, ref keystore.KeyRef) error {
	return s.changeKey(ctx, ref, func(k *key, _ time.Time, _ []byte) error {
		if k.state == keystore.StatePendingDeletion {
			return errors.New("the key is pending deletion; enable it to cancel that first")
		}
		k.state = keystore.StateDisabled
		return nil
	})
}

// Enable makes a disabled key usable again and cancels a pending deletion.
func (s *Keystore) Enable(ctx context.Context, ref keystore.KeyRef) error {
	return s.changeKey(ctx, ref, func(k *key, _ time.Time, _ []byte) error {
		k.state, k.deleteAt = keystore.StateEnabled, 0
		return nil
	})
}

// ScheduleDeletion makes every use of the key Denied and deletes it after wait,
// at least one second. The material leaves the file with the first change of
// the keystore after that; nothing uses it in between.
func (s *Keystore) ScheduleDeletion(ctx context.Context, ref keystore.KeyRef, wait time.Duration) error {
	return s.changeKey(ctx, ref, func(k *key, now time.Time, _ []byte) error {
		if wait < time.Second {
			return errors.New("the wait is shorter than a second; delete the key instead")
		}
		k.state, k.deleteAt = keystore.StatePendingDeletion, now.Add(wait).Unix()
		return nil
	})
}

// Delete removes the key's material from the file for good. Its name stays
// taken. Blocks of the disk that held the material are not overwritten.
func (s *Keystore) Delete(ctx context.Context, ref keystore.KeyRef) error {
	return s.changeKey(ctx, ref, func(k *key, _ time.Time, _ []byte) error {
		k.drop()
		return nil
	})
}

// changeKey is change for a key that exists and is not deleted.
func (s *Keystore) changeKey(ctx context.Context, ref keystore.KeyRef, edit func(*key, time.Time, []byte) error) error {
	return s.change(ctx, ref, func(c *contents, now time.Time, fresh []byte) error {
		i, found := c.find(string(ref))
		if !found {
			return errors.New("there is no such key")
		}
		if c.keys[i].state == keystore.StateDeleted {
			return errors.New("the key is deleted")
		}
		return edit(&c.keys[i], now, fresh)
	})
}

// change reads the file, lets edit alter what it says, and replaces it, alone
// among all processes. fresh has room for the one key that an edit may make.
func (s *Keystore) change(ctx context.Context, ref keystore.KeyRef, edit func(*contents, time.Time, []byte) error) error {
	fail := func(class keystore.Class, err error) error {
		return keystore.NewError(keystore.Error{Class: class, Provider: s.name, Key: ref, Op: keystore.OpManage}, err)
	}
	if s.closed.Load() {
		return fail(keystore.Unavailable, errClosed)
	}
	unlock, err := flock(ctx, s.env, filepath.Join(s.dir, lockName))
	if err != nil {
		return fail(keystore.Unavailable, err)
	}
	defer unlock()

	buf, f, err := s.read()
	if err != nil {
		return fail(classOfRead(err), err)
	}
	defer clear(buf)
	if err := f.Close(); err != nil {
		return fail(keystore.Unavailable, err)
	}
	c, err := parse(buf)
	if err != nil {
		return fail(keystore.Misconfigured, err)
	}
	var fresh [memsec.KeySize]byte
	defer clear(fresh[:])
	now := s.env.Clock.Now()
	for i := range c.keys {
		if c.keys[i].state != keystore.StateDeleted && c.keys[i].stateAt(now) == keystore.StateDeleted {
			c.keys[i].drop()
		}
	}
	if err := edit(c, now, fresh[:]); err != nil {
		if errors.Is(err, errRandom) {
			return fail(keystore.Unavailable, err)
		}
		return fail(keystore.Misconfigured, err)
	}
	c.revision++
	out := c.encode(buf, fresh[:])
	defer clear(out)
	if len(out) > maxFile {
		return fail(keystore.Misconfigured, fmt.Errorf("the key file would have %d bytes, the limit is %d; delete keys", len(out), maxFile))
	}
	if err := atomicfile.WriteWith(filepath.Join(s.dir, keysName), out, fileMode, s.crash); err != nil {
		return fail(keystore.Unavailable, err)
	}
	return nil
}

// flock takes the lock of the keystore. A file lock has no queue and no
// deadline, so it is tried until ctx ends.
func flock(ctx context.Context, env keystore.Env, path string) (unlock func(), err error) {
	f, _, err := openChecked(path)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			// Closing the only descriptor of this open file description drops the lock.
			return func() { _ = f.Close() }, nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if err := env.Clock.Sleep(ctx, lockRetry); err != nil {
			return nil, errors.Join(fmt.Errorf("wait for %s, which another process holds: %w", path, err), f.Close())
		}
	}
}

// read reads the whole key file into one buffer of exactly its size and
// returns the open file, whose identity is what was read. The caller wipes the
// buffer and closes the file.
func (s *Keystore) read() (buf []byte, f *os.File, err error) {
	info, err := os.Lstat(s.dir)
	if err != nil {
		return nil, nil, err
	}
	if err := checkAccess(s.dir, info, dirMode); err != nil {
		return nil, nil, &accessError{err}
	}
	f, info, err = openChecked(filepath.Join(s.dir, keysName))
	if err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); !ok {
			err = &accessError{err}
		}
		return nil, nil, err
	}
	if info.Size() > maxFile {
		return nil, nil, errors.Join(fmt.Errorf("%w: %d bytes, the limit is %d", errDamaged, info.Size(), maxFile), f.Close())
	}
	buf = make([]byte, info.Size())
	if _, err := io.ReadFull(f, buf); err != nil {
		clear(buf)
		return nil, nil, errors.Join(fmt.Errorf("%w: %w", errDamaged, err), f.Close())
	}
	return buf, f, nil
}

// accessError marks a refusal of I1.
type accessError struct{ err error }

func (e *accessError) Error() string { return e.err.Error() }
func (e *accessError) Unwrap() error { return e.err }

// classOfRead tells a keystore that is set up wrongly from one that cannot be
// read now. Neither is ever Denied: nobody withdrew a key.
func classOfRead(err error) keystore.Class {
	var access *accessError
	if errors.As(err, &access) || errors.Is(err, errDamaged) || errors.Is(err, fs.ErrPermission) {
		return keystore.Misconfigured
	}
	return keystore.Unavailable
}
