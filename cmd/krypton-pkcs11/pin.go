//go:build cgo && unix && !nopkcs11

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"
)

// maxPIN is the longest PIN, in bytes: CK_TOKEN_INFO has room for more, and no
// token takes as much.
const maxPIN = 255

// fingerprintSize is the length of what [fingerprint] returns: a MAC of the
// content and the time of the file's last change.
const fingerprintSize = sha256.Size + 8

// withPIN reads the PIN from its file and hands it to fn with its fingerprint
// under key. The bytes are wiped when fn returns.
func withPIN(path string, key []byte, fn func(pin []byte, fingerprint [fingerprintSize]byte) error) error {
	if len(key) != keySize {
		return errors.New("no key for the fingerprint")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := checkPINFile(path, info, os.Geteuid()); err != nil {
		return err
	}
	// One buffer on the heap, key and PIN: a stack is copied when it grows, and
	// the copy that is left behind is not wiped.
	blocks := make([]byte, 5*sha256.BlockSize)
	defer clear(blocks)
	copy(blocks, key)
	rest := blocks[keySize:]
	n, err := io.ReadFull(f, rest[:maxPIN+3]) // a PIN, a line ending, and a byte too many
	if err == nil {
		return fmt.Errorf("%s is longer than a PIN, the limit is %d bytes", path, maxPIN)
	}
	pin := bytes.TrimSuffix(bytes.TrimSuffix(rest[:n], []byte("\n")), []byte("\r"))
	if len(pin) == 0 || len(pin) > maxPIN || bytes.ContainsAny(pin, "\r\n\x00") {
		return fmt.Errorf("%s does not hold one PIN on one line", path)
	}
	clear(rest[len(pin):]) // no PIN has a zero
	return fn(pin, fingerprint(blocks, info))
}

// fingerprint names a content of the PIN file without telling it: the key in
// front is random and lives as long as the node. The hash is over whole blocks
// of one length: a partial one would be copied into the hash's own buffer,
// where nothing wipes it. That is why it is not an HMAC.
func fingerprint(blocks []byte, info os.FileInfo) [fingerprintSize]byte {
	sum := sha256.Sum256(blocks)
	var out [fingerprintSize]byte
	copy(out[:], sum[:])
	binary.BigEndian.PutUint64(out[sha256.Size:], uint64(info.ModTime().UnixNano()))
	return out
}

// checkPINFile refuses a file that others than its owner can read or write, and
// one that belongs to another user than this process's, or root.
func checkPINFile(path string, info os.FileInfo, user int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case !ok:
		return fmt.Errorf("%s: this file system does not tell who owns a file", path)
	case int(st.Uid) != user && st.Uid != 0:
		return fmt.Errorf("%s belongs to user %d, and this process runs as user %d: chown %d %s", path, st.Uid, user, user, path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %04o, and others than its owner may use it; if nobody else can have read it: chmod 0400 %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// text shows b as a string without a copy of it, for the one call of the
// library that takes no bytes. b must not change while the string is in use.
func text(b []byte) string {
	return unsafe.String(&b[0], len(b)) //nolint:gosec // A copy of the PIN as a string could not be wiped.
}
