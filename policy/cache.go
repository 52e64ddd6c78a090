package policy

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
)

// Bounds of a cache. One tenant's cache takes at most cacheSlots times the size
// of an answer and of maxKey, which is 2.5 MiB when somebody fills it on purpose,
// and 16 KiB when it is empty.
const (
	cacheSlots = 2048 // a power of two
	maxKey     = 1024 // bytes; a longer key is evaluated each time
	keyOnStack = 384  // bytes of a key that cost no allocation
)

// cache keeps answers by their whole key in pairs of slots. A new answer takes
// the empty one of its pair, or the one that its hash says: no list, no lock, and
// nobody can make it grow. Keys are compared whole, so that a collision of hashes
// costs an evaluation and never gives a wrong answer; the seed keeps callers from
// choosing collisions.
type cache struct {
	seed  maphash.Seed
	slots [cacheSlots]atomic.Pointer[kept]
}

type kept struct {
	key    string
	answer Decision
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

// pair is the two slots where an answer can be.
type pair struct {
	first, second *atomic.Pointer[kept]
}

func (c *cache) slot(key []byte) pair {
	h := maphash.Bytes(c.seed, key)
	i := h & (cacheSlots - 1)
	return pair{&c.slots[i], &c.slots[i^1]}
}

func (p pair) get(key []byte) (Decision, bool) {
	for _, s := range [...]*atomic.Pointer[kept]{p.first, p.second} {
		if k := s.Load(); k != nil && k.key == string(key) {
			return k.answer, true
		}
	}
	return Decision{}, false
}

func (p pair) put(key []byte, d Decision) {
	if len(key) > maxKey {
		return
	}
	k := &kept{key: string(key), answer: d}
	if !p.first.CompareAndSwap(nil, k) && !p.second.CompareAndSwap(nil, k) {
		p.first.Store(k)
	}
}

// appendKey appends all that an evaluation of the program can look at: principal,
// action and resource always, of the rest what r has. Every part has its length
// before it, so that two queries with one key are the same to the program.
func (r *reads) appendKey(b []byte, q *Query, on entityType) []byte {
	b = append(b, byte(q.Action), byte(on), byte(q.Principal.Role))
	b = append(b, q.Principal.Issuer[:]...)
	b = append(b, q.Principal.TenantUID[:]...)
	b = appendPart(b, q.Principal.Name)
	b = appendPart(b, q.IssuerName)
	b = appendPart(b, string(q.Service))
	if on == typeResource || r.resource {
		b = appendPart(b, string(q.Resource))
	}
	if r.version {
		b = binary.BigEndian.AppendUint64(b, uint64(q.Version))
	}
	if r.region {
		b = appendPart(b, q.Region)
	}
	if r.all {
		return q.Context.AppendEncoding(b)
	}
	for _, k := range r.keys {
		v, ok := q.Context.Get(k)
		if !ok {
			b = append(b, 0)
			continue
		}
		b = appendPart(append(b, 1), v)
	}
	return b
}

func appendPart(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
