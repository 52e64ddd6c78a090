package jwt

import (
	"crypto/sha256"
	"strings"
	"sync"
	"time"
)

// Shape of the cache.
const (
	shards = 16
	// ownShare is the part of the cache, one in so many, that the tokens of one owner
	// can take, who is a tenant with all of its issuers, or one issuer of the cluster:
	// whoever can make tokens without end cannot push out those of everybody else.
	ownShare = 4
	// maxKeptAuds bounds what is kept of the audiences of a token, in bytes. A token
	// with more is verified anew after the issuers changed.
	maxKeptAuds = 1 << 10
)

// digest is what stands for a token, so that no memory holds tokens (I6).
type digest = [sha256.Size]byte

// digestOf returns the digest of token. It goes through a small buffer, because
// []byte(token) would allocate a copy of the token for each call.
func digestOf(token string) (d digest) {
	var buf [512]byte
	h := sha256.New()
	for len(token) > 0 {
		n := copy(buf[:], token)
		_, _ = h.Write(buf[:n]) // never an error
		token = token[n:]
	}
	h.Sum(d[:0])
	return d
}

// remembered is a token that was verified, and what must still hold for it to
// count (I5).
type remembered struct {
	digest digest
	token  Token
	from   *issuer
	owner  string // whose part of the cache it takes
	key    *key
	aud    []string  // of the token; nil: not kept
	since  time.Time // accepted from then on
	seq    uint64    // of the registration under which from was chosen last

	links [2]link // in the two orders below
}

type link struct{ newer, older *remembered }

// The orders in which entries stand: by last use, of all and of one owner.
const (
	ofAll = iota
	ofOwner
)

// order is a ring of entries by last use; its root stands between the newest and
// the oldest.
type order struct {
	which int
	root  remembered
	n     int
}

func newOrder(which int) *order {
	o := &order{which: which}
	o.root.links[which] = link{&o.root, &o.root}
	return o
}

func (o *order) push(e *remembered) {
	newest := o.root.links[o.which].older // seen from the root, the ring goes on with the newest
	e.links[o.which] = link{newer: &o.root, older: newest}
	newest.links[o.which].newer = e
	o.root.links[o.which].older = e
	o.n++
}

func (o *order) remove(e *remembered) {
	l := e.links[o.which]
	l.newer.links[o.which].older = l.older
	l.older.links[o.which].newer = l.newer
	e.links[o.which] = link{}
	o.n--
}

// oldest returns the entry that was not used for longest, or nil.
func (o *order) oldest() *remembered {
	if o.n == 0 {
		return nil
	}
	return o.root.links[o.which].newer
}

// cache remembers verified tokens, bounded in all and for each owner; what was
// not used for longest goes, of who has more than others first.
type cache struct {
	shards [shards]shard
}

type shard struct {
	capacity int // of all; a quarter of it for one owner

	mu      sync.Mutex
	entries map[digest]*remembered
	all     *order
	owned   map[string]*order
}

func newCache(entries int) *cache {
	c := &cache{}
	for i := range c.shards {
		c.shards[i] = shard{
			capacity: max(entries/shards, 1),
			entries:  map[digest]*remembered{},
			all:      newOrder(ofAll),
			owned:    map[string]*order{},
		}
	}
	return c
}

func (c *cache) shard(d digest) *shard { return &c.shards[d[0]%shards] }

// get returns the token of that digest, if it would be accepted anew by the
// issuers in reg at now.
func (c *cache) get(d digest, reg *registration, now time.Time) (Token, bool) {
	s := c.shard(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[d]
	if e == nil {
		return Token{}, false
	}
	if !e.holds(reg, now) {
		s.drop(e)
		return Token{}, false
	}
	own := s.owned[e.owner]
	for _, o := range [...]*order{s.all, own} {
		o.remove(e)
		o.push(e)
	}
	return e.token, true
}

// holds reports whether everything that e was accepted by still is so (I5).
func (e *remembered) holds(reg *registration, now time.Time) bool {
	if !now.Before(e.token.NotAfter) || now.Before(e.since) || e.key.withdrawn.Load() || e.from.keys.keys(now) == nil {
		return false
	}
	if e.seq == reg.seq {
		return true
	}
	if e.aud == nil {
		return false
	}
	if from, _, err := reg.choose(e.from.URL, e.aud); err != nil || from != e.from {
		return false
	}
	e.seq = reg.seq
	return true
}

// put remembers e.
func (c *cache) put(e *remembered) {
	s := c.shard(e.digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[e.digest]; old != nil {
		s.drop(old)
	}
	own := s.owned[e.owner]
	if own == nil {
		own = newOrder(ofOwner)
		s.owned[e.owner] = own
	}
	s.entries[e.digest] = e
	s.all.push(e)
	own.push(e)
	if own.n > max(s.capacity/ownShare, 1) {
		s.drop(own.oldest())
	}
	switch {
	case s.all.n <= s.capacity:
	case own.n > s.capacity/len(s.owned): // more than the others on average
		s.drop(own.oldest())
	default:
		s.drop(s.all.oldest())
	}
}

// ownerOf returns whose part of the cache the tokens of an issuer take: its tenant's,
// or its own if it is one of the cluster.
func ownerOf(path string) string {
	if tenant, _, ok := strings.Cut(path, "/issuers/"); ok {
		return tenant
	}
	return path
}

// drop forgets e. It is called with mu held.
func (s *shard) drop(e *remembered) {
	own := s.owned[e.owner]
	delete(s.entries, e.digest)
	s.all.remove(e)
	own.remove(e)
	if own.n == 0 {
		delete(s.owned, e.owner)
	}
}

// sweep forgets the tokens of sources that are not live any more, so that they do
// not hold memory until others push them out.
func (c *cache) sweep(live map[*source]bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, e := range s.entries {
			if !live[e.from.keys] {
				s.drop(e)
			}
		}
		s.mu.Unlock()
	}
}

// keptAuds returns a copy of aud, or nil if that is too much to keep.
func keptAuds(aud []string) []string {
	n := 0
	for _, a := range aud {
		n += len(a)
	}
	if n > maxKeptAuds {
		return nil
	}
	kept := make([]string, 0, len(aud))
	for _, a := range aud {
		kept = append(kept, strings.Clone(a))
	}
	return kept
}
