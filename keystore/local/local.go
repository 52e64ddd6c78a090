//go:build unix

package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/internal/atomicfile"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Type is this keystore's type in configuration.
const Type = "local"

// SettingDir is the one setting: the absolute path of the keystore's
// directory, which must exist.
const SettingDir = "dir"

// Settings are the settings of this type.
func Settings() []keystore.Setting {
	return []keystore.Setting{{
		Name: SettingDir, Required: true,
		Doc: "Absolute path of the directory of the key files, 0700, made by `krypton keystore create`.",
	}}
}

// The blob layout, see the package comment. Changing it breaks stored blobs.
const (
	blobFormat    = 1
	mechanismGCM  = 1
	blobPrefix    = 1 + 1 + 4
	blobOverhead  = blobPrefix + memsec.NonceSize + memsec.Overhead
	aadLabel      = "krypton/v1/local-keystore"
	mechanismName = "AES-256-GCM"
)

var (
	errClosed      = errors.New("the keystore is closed")
	errDoesNotOpen = errors.New("the blob does not open")
)

// Keystore is an opened local keystore. It implements [keystore.Provider] and
// has the owner's side as well: methods that change keys.
type Keystore struct {
	name string
	dir  string
	env  keystore.Env

	closed atomic.Bool
	crash  func(atomicfile.Step) error // nil but in tests

	// reload serialises reading the file, so that an older reading never
	// replaces a newer one. Taken before mu, and held over file I/O; who finds
	// its loaded file current does not take it.
	reload sync.Mutex

	mu     sync.RWMutex // held over local AES, never over I/O
	loaded *loaded
}

// loaded is the file as it was when read, with its keys in protected memory.
type loaded struct {
	file *os.File    // kept open, so that no later file gets its inode number
	info fs.FileInfo // identity, size and time of the file
	c    *contents
	aead map[string][]memsec.AEAD // by name, in the order of the key's versions
}

func (l *loaded) destroy() error {
	for _, versions := range l.aead {
		for _, a := range versions {
			a.Destroy()
		}
	}
	return l.file.Close()
}

// New is the [keystore.Constructor] of this package. As a provider that is reached over
// a network it is there while its keys are not: of a directory that is gone each call
// says so, with the class Unavailable, and a node starts by the other holders of its seal.
func New(ctx context.Context, env keystore.Env, cfg keystore.Config) (keystore.Provider, error) {
	name := cfg.Name
	cfg, err := cfg.Only(Settings())
	dir := cfg.Settings[SettingDir]
	if err == nil && !filepath.IsAbs(dir) {
		err = fmt.Errorf("dir %q is not an absolute path", dir)
	}
	if err != nil {
		return nil, keystore.NewError(keystore.Error{Class: keystore.Misconfigured, Provider: name, Op: keystore.OpOpen}, err)
	}
	s, err := Open(ctx, env, name, dir)
	if errors.Is(err, fs.ErrNotExist) {
		env.Logger.LogAttrs(ctx, slog.LevelWarn, "local keystore not found; its keys open nothing until it is there",
			slog.String("keystore", name), slog.String("dir", dir))
		return &Keystore{name: name, dir: dir, env: env}, nil
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Open opens the keystore in dir and warns that it protects nothing. name is
// how errors and logs call it.
func Open(ctx context.Context, env keystore.Env, name, dir string) (*Keystore, error) {
	s := &Keystore{name: name, dir: dir, env: env}
	if err := s.refresh(); err != nil {
		return nil, s.fail(keystore.OpOpen, "", "", classOfRead(err), err)
	}
	env.Logger.LogAttrs(ctx, slog.LevelWarn,
		"local keystore in use: its keys lie unencrypted on disk and protect nothing against whoever can read them; for development and demonstrations only",
		slog.String("keystore", name), slog.String("dir", dir))
	return s, nil
}

// Wrap implements [keystore.Provider].
func (s *Keystore) Wrap(ctx context.Context, req keystore.WrapRequest) (keystore.WrapResult, error) {
	call, err := s.begin(ctx, keystore.OpWrap, req.Key, req.Correlation)
	if err != nil {
		return keystore.WrapResult{}, err
	}
	if err := req.Check(s.name); err != nil {
		return keystore.WrapResult{}, call.end(err)
	}
	var out keystore.WrapResult
	err = s.use(call, func(k *key, aeads []memsec.AEAD) error {
		last := len(aeads) - 1
		number := k.versions[last].number
		blob := make([]byte, blobPrefix+memsec.NonceSize, blobOverhead+keystore.MaxSecret)
		blob[0], blob[1] = blobFormat, mechanismGCM
		binary.BigEndian.PutUint32(blob[2:], number)
		nonce := blob[blobPrefix:]
		if _, err := io.ReadFull(s.env.Rand, nonce); err != nil {
			return call.fail(keystore.Unavailable, fmt.Errorf("read randomness: %w", err))
		}
		blob, err := aeads[last].SealSecret(blob, nonce, req.Secret, fullAAD(req.Key, blob[:blobPrefix], req.AAD))
		if err != nil {
			return call.fail(keystore.Unavailable, err)
		}
		out = keystore.WrapResult{Blob: blob, KeyVersion: versionName(number), RequestID: call.id}
		return nil
	})
	return out, call.end(err)
}

// Unwrap implements [keystore.Provider].
func (s *Keystore) Unwrap(ctx context.Context, req keystore.UnwrapRequest) (keystore.UnwrapResult, error) {
	call, err := s.begin(ctx, keystore.OpUnwrap, req.Key, req.Correlation)
	if err != nil {
		return keystore.UnwrapResult{}, err
	}
	if err := req.Check(s.name); err != nil {
		return keystore.UnwrapResult{}, call.end(err)
	}
	var out keystore.UnwrapResult
	err = s.use(call, func(k *key, aeads []memsec.AEAD) error {
		b := req.Blob
		if len(b) <= blobOverhead || len(b) > blobOverhead+keystore.MaxSecret || b[0] != blobFormat || b[1] != mechanismGCM {
			return call.fail(keystore.Corrupt, errDoesNotOpen)
		}
		number := binary.BigEndian.Uint32(b[2:])
		for i, v := range k.versions {
			if v.number != number {
				continue
			}
			secret, err := aeads[i].OpenSecret(b[blobPrefix:blobPrefix+memsec.NonceSize], b[blobPrefix+memsec.NonceSize:], fullAAD(req.Key, b[:blobPrefix], req.AAD), req.Class)
			switch {
			case errs.Is(err, errs.Integrity):
				return call.fail(keystore.Corrupt, errDoesNotOpen)
			case err != nil: // no room in protected memory, or purged
				return call.fail(keystore.Unavailable, err)
			}
			out = keystore.UnwrapResult{Secret: secret, KeyVersion: versionName(number), RequestID: call.id}
			return nil
		}
		return call.fail(keystore.Corrupt, errDoesNotOpen)
	})
	return out, call.end(err)
}

// Describe implements [keystore.Provider].
func (s *Keystore) Describe(ctx context.Context, req keystore.DescribeRequest) (keystore.Description, error) {
	call, err := s.begin(ctx, keystore.OpDescribe, req.Key, req.Correlation)
	if err != nil {
		return keystore.Description{}, err
	}
	if err := req.Check(s.name); err != nil {
		return keystore.Description{}, call.end(err)
	}
	var out keystore.Description
	err = s.lookup(call, func(k *key, state keystore.KeyState, _ []memsec.AEAD) error {
		out = keystore.Description{
			Key: req.Key, State: state, Kind: keystore.KindSymmetric,
			Protection: keystore.ProtectionSoftware, Mechanism: mechanismName, RequestID: call.id,
		}
		if n := len(k.versions); n > 0 && state != keystore.StateDeleted {
			out.KeyVersion = versionName(k.versions[n-1].number)
		}
		return nil
	})
	return out, call.end(err)
}

// Health implements [keystore.Provider]: the key file is readable and sound.
func (s *Keystore) Health(ctx context.Context, id corr.ID) error {
	call, err := s.begin(ctx, keystore.OpHealth, "", id)
	if err != nil {
		return err
	}
	if err := s.refresh(); err != nil {
		return call.end(call.fail(classOfRead(err), err))
	}
	return call.end(nil)
}

// Close implements [keystore.Provider]. It waits for calls that are using a key.
func (s *Keystore) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	s.mu.Lock()
	old := s.loaded
	s.loaded = nil
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	return old.destroy()
}

// call is one call of the provider: the local keystore's "own log" is one
// debug line per call, under a request id, as a real one's is on its side.
type call struct {
	s    *Keystore
	ctx  context.Context //nolint:containedctx // A call lives no longer than the method whose ctx this is.
	op   keystore.Op
	key  keystore.KeyRef
	corr corr.ID
	id   keystore.RequestID
}

func (s *Keystore) begin(ctx context.Context, op keystore.Op, key keystore.KeyRef, id corr.ID) (*call, error) {
	c := &call{s: s, ctx: ctx, op: op, key: key, corr: id}
	if s.closed.Load() {
		return nil, c.fail(keystore.Unavailable, errClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, c.fail(keystore.Unavailable, err)
	}
	rid, err := corr.New(s.env.Rand)
	if err != nil {
		return nil, c.fail(keystore.Unavailable, err)
	}
	c.id = keystore.RequestID(rid)
	return c, nil
}

func (c *call) fail(class keystore.Class, err error) error {
	return c.s.fail(c.op, c.key, c.id, class, err)
}

// end writes the log line and returns err.
func (c *call) end(err error) error {
	outcome := "ok"
	if err != nil {
		outcome = keystore.ClassOf(err).String()
	}
	c.s.env.Logger.LogAttrs(c.ctx, slog.LevelDebug, "local keystore call",
		slog.String("keystore", c.s.name), slog.String("op", c.op.String()), slog.String("key", clip(string(c.key))),
		slog.String("correlation", string(c.corr)), slog.String("request", string(c.id)), slog.String("outcome", outcome))
	return err
}

func (s *Keystore) fail(op keystore.Op, ref keystore.KeyRef, id keystore.RequestID, class keystore.Class, err error) error {
	return keystore.NewError(keystore.Error{Class: class, Provider: s.name, Key: keystore.KeyRef(clip(string(ref))), Op: op, RequestID: id}, err)
}

// clip bounds a caller's reference in errors and logs.
func clip(s string) string {
	if len(s) > MaxKeyName {
		return s[:MaxKeyName] + "..."
	}
	return s
}

// use is lookup for an enabled key. Every other state is Denied, and nothing
// else is.
func (s *Keystore) use(c *call, fn func(*key, []memsec.AEAD) error) error {
	return s.lookup(c, func(k *key, state keystore.KeyState, aeads []memsec.AEAD) error {
		if state != keystore.StateEnabled {
			return c.fail(keystore.Denied, fmt.Errorf("the key is %s", state))
		}
		return fn(k, aeads)
	})
}

// lookup runs fn with the key, as the file has it now (I3).
func (s *Keystore) lookup(c *call, fn func(*key, keystore.KeyState, []memsec.AEAD) error) error {
	if err := s.refresh(); err != nil {
		return c.fail(classOfRead(err), err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.loaded == nil {
		return c.fail(keystore.Unavailable, errClosed)
	}
	i, found := s.loaded.c.find(string(c.key))
	if !found {
		// Deleted keys leave their names, so this key never was: a mistake in
		// a configuration, not a withdrawal.
		return c.fail(keystore.Misconfigured, errors.New("there is no such key"))
	}
	k := &s.loaded.c.keys[i]
	return fn(k, k.stateAt(s.env.Clock.Now()), s.loaded.aead[k.name])
}

// refresh loads the file if it is not the one that is loaded. It compares
// identity, size and time: a change replaces the file, and because the loaded
// one is held open no other file can have its inode number.
func (s *Keystore) refresh() error {
	if s.current() {
		return nil
	}
	s.reload.Lock()
	defer s.reload.Unlock()
	if s.closed.Load() {
		return errClosed
	}
	if s.current() {
		return nil
	}
	next, err := s.load()
	if err != nil {
		return err
	}
	s.mu.Lock()
	old := s.loaded
	s.loaded = next
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	return old.destroy()
}

// current also looks at owner and modes again: a file that was opened up to
// others since it was loaded is refused from then on (I1).
func (s *Keystore) current() bool {
	dir, err := os.Lstat(s.dir)
	if err != nil || checkAccess(s.dir, dir, dirMode) != nil {
		return false
	}
	path := filepath.Join(s.dir, keysName)
	now, err := os.Lstat(path)
	if err != nil || checkAccess(path, now, fileMode) != nil {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	l := s.loaded
	return l != nil && os.SameFile(now, l.info) && now.Size() == l.info.Size() && now.ModTime().Equal(l.info.ModTime())
}

// load reads the file and moves its keys into protected memory.
func (s *Keystore) load() (*loaded, error) {
	buf, f, err := s.read()
	if err != nil {
		return nil, err
	}
	defer clear(buf)
	l := &loaded{file: f, aead: make(map[string][]memsec.AEAD)}
	if l.info, err = f.Stat(); err == nil {
		if l.c, err = parse(buf); err == nil {
			err = l.take(buf)
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.destroy())
	}
	return l, nil
}

func (l *loaded) take(buf []byte) error {
	for _, k := range l.c.keys {
		for _, v := range k.versions {
			secret, err := memsec.Take(buf[v.at:v.at+memsec.KeySize], memsec.Hot)
			if err != nil {
				return err
			}
			a, err := memsec.NewAEAD(secret)
			secret.Destroy()
			if err != nil {
				return err
			}
			l.aead[k.name] = append(l.aead[k.name], a)
		}
	}
	return nil
}

// fullAAD binds a blob to its key and to how it was made, and the caller's AAD.
func fullAAD(ref keystore.KeyRef, prefix, aad []byte) []byte {
	b := make([]byte, 0, 4+len(aadLabel)+4+len(ref)+len(prefix)+len(aad))
	b = binary.BigEndian.AppendUint32(b, uint32(len(aadLabel)))
	b = append(b, aadLabel...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(ref))) //nolint:gosec // At most keystore.MaxKeyRef.
	b = append(b, ref...)
	b = append(b, prefix...)
	return append(b, aad...)
}

func versionName(n uint32) keystore.KeyVersion {
	return keystore.KeyVersion(strconv.FormatUint(uint64(n), 10))
}

// Place returns the directory as the account: whoever has its disk has every key in it.
func Place(cfg keystore.Config, _ keystore.KeyRef) keystore.Place {
	return keystore.Place{Account: cfg.Settings[SettingDir]}
}
