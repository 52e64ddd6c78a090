//go:build unix

package local

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Limits of the key file.
const (
	// MaxKeys is how many keys, deleted ones included, one keystore holds.
	MaxKeys = 1024
	// MaxVersions is how many versions one key has.
	MaxVersions = 256
	// MaxKeyName is the longest key name, in bytes.
	MaxKeyName = 128
)

// header starts every key file, so that who prints one reads what it is.
// Changing it breaks existing files; another format has another number in it.
const header = "krypton local keystore 1: unprotected keys, development only\n"

const (
	// maxFile bounds what is read before anything is parsed: every key with two
	// versions, or fewer with more.
	maxFile = 1 << 20

	versionSize = 4 + 8 + memsec.KeySize
)

var (
	// errDamaged is the cause of every failure to parse a key file.
	errDamaged = errors.New("the key file is damaged")
	errRandom  = errors.New("no randomness")
)

// version is one version of a key as it stands in a buffer of the file: its
// key bytes are buf[at:at+32] of the buffer it was parsed from (I5: no struct
// holds them).
type version struct {
	number  uint32
	created int64
	at      int
}

// key is one key of the file.
type key struct {
	name     string
	state    keystore.KeyState
	deleteAt int64
	versions []version
}

// contents is a parsed file.
type contents struct {
	revision uint64
	keys     []key
}

func (c *contents) find(name string) (int, bool) {
	return slices.BinarySearchFunc(c.keys, name, func(k key, n string) int {
		switch {
		case k.name < n:
			return -1
		case k.name > n:
			return 1
		}
		return 0
	})
}

// stateAt is the state at a time: a pending deletion whose time came is a
// deletion, also before the next change removes the material.
func (k *key) stateAt(now time.Time) keystore.KeyState {
	if k.state == keystore.StatePendingDeletion && now.Unix() >= k.deleteAt {
		return keystore.StateDeleted
	}
	return k.state
}

// parse reads a file's bytes. It copies no key bytes.
func parse(buf []byte) (*contents, error) {
	if len(buf) < len(header)+8+4+sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes are too few", errDamaged, len(buf))
	}
	if string(buf[:len(header)]) != header {
		return nil, fmt.Errorf("%w: it does not start as a key file of format 1", errDamaged)
	}
	body, sum := buf[:len(buf)-sha256.Size], buf[len(buf)-sha256.Size:]
	if sha256.Sum256(body) != [sha256.Size]byte(sum) {
		return nil, fmt.Errorf("%w: the checksum does not match", errDamaged)
	}
	r := reader{buf: body, at: len(header)}
	c := &contents{revision: r.u64()}
	n := int(r.u32())
	if n > MaxKeys {
		return nil, fmt.Errorf("%w: %d keys, the limit is %d", errDamaged, n, MaxKeys)
	}
	for range n {
		k := key{name: string(r.bytes(int(r.u8()))), state: keystore.KeyState(r.u8()), deleteAt: r.i64()}
		m := int(r.u32())
		if r.failed || m > MaxVersions {
			return nil, fmt.Errorf("%w: a key is cut short or has too many versions", errDamaged)
		}
		for range m {
			v := version{number: r.u32(), created: r.i64(), at: r.at}
			r.bytes(memsec.KeySize)
			k.versions = append(k.versions, v)
		}
		c.keys = append(c.keys, k)
	}
	if r.failed || r.at != len(body) {
		return nil, fmt.Errorf("%w: its parts do not add up to its length", errDamaged)
	}
	return c, c.check()
}

// check holds what encode relies on and what every change keeps.
func (c *contents) check() error {
	for i := range c.keys {
		k := &c.keys[i]
		if err := checkName(k.name); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		if i > 0 && c.keys[i-1].name >= k.name {
			return fmt.Errorf("%w: keys out of order", errDamaged)
		}
		switch k.state {
		case keystore.StateEnabled, keystore.StateDisabled, keystore.StatePendingDeletion:
			if len(k.versions) == 0 {
				return fmt.Errorf("%w: a key has no version", errDamaged)
			}
		case keystore.StateDeleted:
			if len(k.versions) != 0 {
				return fmt.Errorf("%w: a deleted key has a version", errDamaged)
			}
		case keystore.StateUnknown:
			return fmt.Errorf("%w: a key has no state", errDamaged)
		default:
			return fmt.Errorf("%w: a key has an unknown state", errDamaged)
		}
		if (k.state == keystore.StatePendingDeletion) != (k.deleteAt != 0) {
			return fmt.Errorf("%w: a time of deletion without a pending deletion, or none with one", errDamaged)
		}
		for j := 1; j < len(k.versions); j++ {
			if k.versions[j-1].number >= k.versions[j].number {
				return fmt.Errorf("%w: versions out of order", errDamaged)
			}
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > MaxKeyName {
		return fmt.Errorf("key name of %d bytes, the limits are 1 and %d", len(name), MaxKeyName)
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' {
			return errors.New("key name with a character that is not printable ASCII")
		}
	}
	return nil
}

// encode writes c into one buffer of exactly the needed size, so that no
// growing leaves copies behind. Key bytes come from src, the buffer that c was
// parsed from; fresh holds those of versions made since (at < 0 is -1-offset
// into it). The caller wipes all three.
func (c *contents) encode(src, fresh []byte) []byte {
	size := len(header) + 8 + 4 + sha256.Size
	for _, k := range c.keys {
		size += 1 + len(k.name) + 1 + 8 + 4 + len(k.versions)*versionSize
	}
	b := make([]byte, 0, size)
	b = append(b, header...)
	b = binary.BigEndian.AppendUint64(b, c.revision)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.keys))) //nolint:gosec // At most MaxKeys.
	for _, k := range c.keys {
		b = append(b, byte(len(k.name))) //nolint:gosec // At most MaxKeyName.
		b = append(b, k.name...)
		b = append(b, byte(k.state))                                  //nolint:gosec // One of four.
		b = binary.BigEndian.AppendUint64(b, uint64(k.deleteAt))      //nolint:gosec // The same 64 bits; i64 is the reverse.
		b = binary.BigEndian.AppendUint32(b, uint32(len(k.versions))) //nolint:gosec // At most MaxVersions.
		for _, v := range k.versions {
			b = binary.BigEndian.AppendUint32(b, v.number)
			b = binary.BigEndian.AppendUint64(b, uint64(v.created)) //nolint:gosec // The same 64 bits; i64 is the reverse.
			from, at := src, v.at
			if at < 0 {
				from, at = fresh, -1-at
			}
			b = append(b, from[at:at+memsec.KeySize]...)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// rotate appends a version whose key is fresh[0:32], read from rand.
func (k *key) rotate(rand io.Reader, now time.Time, fresh []byte) error {
	if len(k.versions) >= MaxVersions {
		return fmt.Errorf("the key has %d versions, the limit", MaxVersions)
	}
	if _, err := io.ReadFull(rand, fresh[:memsec.KeySize]); err != nil {
		return fmt.Errorf("%w: %w", errRandom, err)
	}
	next := uint32(1)
	if n := len(k.versions); n > 0 {
		next = k.versions[n-1].number + 1
	}
	k.versions = append(k.versions, version{number: next, created: now.Unix(), at: -1})
	return nil
}

// drop removes a key's material and leaves its name as a tombstone (I4).
func (k *key) drop() {
	k.state, k.deleteAt, k.versions = keystore.StateDeleted, 0, nil
}

// reader takes fixed parts off a buffer; after the first part that is not
// there every further one is zero and failed is set.
type reader struct {
	buf    []byte
	at     int
	failed bool
}

func (r *reader) bytes(n int) []byte {
	if r.failed || n > len(r.buf)-r.at {
		r.failed = true
		return nil
	}
	b := r.buf[r.at : r.at+n]
	r.at += n
	return b
}

func (r *reader) u8() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// i64 reads a time; it may be before 1970.
func (r *reader) i64() int64 {
	return int64(r.u64()) //nolint:gosec // The same 64 bits.
}

func (r *reader) u64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}
