package envelope

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// rememberedOnce is how many sessions an [Opener] knows to have opened once.
// They cost an id each, no key.
const rememberedOnce = 256

// Quota bounds how many session keys the openers of one tenant keep, so that
// one tenant's traffic cannot push out the keys of another. Make one with
// [NewQuota]; a nil Quota keeps none. It is safe for concurrent use.
type Quota struct{ free atomic.Int64 }

// NewQuota returns a quota of n session keys. Each takes about 1 KiB.
func NewQuota(n int) *Quota {
	q := new(Quota)
	q.free.Store(int64(n))
	return q
}

func (q *Quota) take() bool {
	if q == nil {
		return false
	}
	for {
		n := q.free.Load()
		if n <= 0 {
			return false
		}
		if q.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (q *Quota) give() { q.free.Add(1) }

// Opener opens what any session of one L3 version sealed, on any node. It is
// safe for concurrent use. Make one with [NewOpener] and end it with [Opener.Close].
type Opener struct {
	parent memsec.Secret
	scope  Scope
	quota  *Quota

	mu     sync.Mutex
	closed bool
	kept   map[sessionKey]*list.Element // of keptSession
	lru    *list.List                   // front = used last
	once   map[sessionKey]struct{}      // opened once (I5)
	ring   [rememberedOnce]sessionKey   // the same, in order of arrival
	at     int
}

type sessionKey struct {
	purpose hierarchy.Purpose
	id      SessionID
}

type keptSession struct {
	key        sessionKey
	commitment [CommitmentSize]byte
	aead       memsec.AEAD
}

// NewOpener makes an opener for parent, the L3 version that scope names. The
// caller keeps and destroys the parent; when it is destroyed, the opener only
// opens sessions that it keeps, so close the opener first.
func NewOpener(parent memsec.Secret, scope Scope, quota *Quota) (*Opener, error) {
	if err := checkParent(parent); err != nil {
		return nil, err
	}
	if err := scope.Bind(hierarchy.PurposeData, "", hierarchy.EncryptionContext{}).Check(); err != nil {
		return nil, err
	}
	return &Opener{
		parent: parent, scope: scope, quota: quota,
		kept: make(map[sessionKey]*list.Element), lru: list.New(), once: make(map[sessionKey]struct{}),
	}, nil
}

// Open appends the plaintext of a blob that [Sealer.Seal] made to dst. b is
// [Scope.Bind] with PurposeData, from the request. What does not open is
// errs.DoesNotOpen; the result is then nil and the room behind dst may have
// been overwritten.
func (o *Opener) Open(dst []byte, b Binding, blob []byte) ([]byte, error) {
	if len(blob) > Overhead+MaxPlaintext {
		return nil, errs.DoesNotOpen(ErrLength)
	}
	u, err := o.begin(hierarchy.PurposeData, b, blob)
	if err != nil {
		return nil, err
	}
	out, err := openBytes(u.aead, dst, b, blob)
	if u.evicted(err) {
		if u, err = o.derive(b, u.header); err == nil {
			out, err = openBytes(u.aead, dst, b, blob)
		}
	}
	o.end(u, err)
	return out, err
}

// UnwrapSecret opens a blob that [Sealer.WrapSecret] made into protected memory
// of class c. b is [Scope.Bind] with PurposeDataKey, from the request. What
// does not open is errs.DoesNotOpen.
func (o *Opener) UnwrapSecret(b Binding, blob []byte, c memsec.Class) (memsec.Secret, error) {
	if err := checkWrapped(hierarchy.PurposeDataKey, blob); err != nil {
		return memsec.Secret{}, err
	}
	u, err := o.begin(hierarchy.PurposeDataKey, b, blob)
	if err != nil {
		return memsec.Secret{}, err
	}
	out, err := openSecret(u.aead, b, blob, c)
	if u.evicted(err) {
		if u, err = o.derive(b, u.header); err == nil {
			out, err = openSecret(u.aead, b, blob, c)
		}
	}
	o.end(u, err)
	return out, err
}

// Close forgets every session key. What is being opened finishes; later opens
// report a destroyed key. It is idempotent.
func (o *Opener) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for o.lru.Len() > 0 {
		o.evict(o.lru.Back())
	}
	clear(o.once)
}

// Kept returns how many session keys are kept.
func (o *Opener) Kept() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lru.Len()
}

// use is a session while one blob is opened with it.
type use struct {
	header  Header
	purpose hierarchy.Purpose
	aead    memsec.AEAD
	kept    bool // the opener owns aead
}

// evicted reports whether a kept session was destroyed by another goroutine
// between find and the open. memsec ends what runs and refuses what begins;
// what was refused derives the session anew.
func (u use) evicted(err error) bool { return u.kept && isDestroyed(err) }

// begin finds or derives the session of the blob.
func (o *Opener) begin(p hierarchy.Purpose, b Binding, blob []byte) (use, error) {
	if b.Purpose != p || scopeOf(b) != o.scope {
		return use{}, misuse("binding of another key version")
	}
	if err := b.Check(); err != nil {
		return use{}, err
	}
	h, err := selected(b, blob)
	if err != nil {
		return use{}, err
	}
	ks, ok, err := o.find(sessionKey{purpose: p, id: h.Session})
	switch {
	case err != nil:
		return use{}, err
	case !ok:
		return o.derive(b, h)
	case !committed(h, ks.commitment):
		return use{}, errs.DoesNotOpen(ErrCommitment)
	}
	return use{header: h, purpose: p, aead: ks.aead, kept: true}, nil
}

func (o *Opener) derive(b Binding, h Header) (use, error) {
	a, err := openSession(o.parent, b, h)
	return use{header: h, purpose: b.Purpose, aead: a}, err
}

// end keeps or destroys a derived session; err is how the open ended.
func (o *Opener) end(u use, err error) {
	if u.kept {
		return
	}
	k := sessionKey{purpose: u.purpose, id: u.header.Session}
	if err != nil || !o.keep(keptSession{key: k, commitment: u.header.Commitment, aead: u.aead}) {
		u.aead.Destroy()
	}
}

func (o *Opener) find(k sessionKey) (keptSession, bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return keptSession{}, false, errs.New(errs.NotServing, "the key is no longer in memory",
			errs.Hint("try another node"), errs.Cause(memsec.ErrDestroyed))
	}
	e, ok := o.kept[k]
	if !ok {
		return keptSession{}, false, nil
	}
	o.lru.MoveToFront(e)
	return sessionOf(e), true, nil
}

// keep takes over a session whose ciphertext just opened, if it is the second
// one and there is a place (I5). A caller who invents session ids never gets
// here; one who opens each session once costs no key.
func (o *Opener) keep(ks keptSession) bool {
	if o.quota == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	if _, second := o.once[ks.key]; !second {
		o.remember(ks.key)
		return false
	}
	if e, ok := o.kept[ks.key]; ok { // another goroutine was first, or memsec purged it
		o.evict(e)
	}
	if !o.quota.take() {
		if o.lru.Len() == 0 {
			return false // the tenant's other key versions hold all places
		}
		o.evict(o.lru.Back())
		if !o.quota.take() {
			return false
		}
	}
	o.kept[ks.key] = o.lru.PushFront(ks)
	return true
}

func (o *Opener) remember(k sessionKey) {
	delete(o.once, o.ring[o.at])
	o.ring[o.at] = k
	o.once[k] = struct{}{}
	o.at = (o.at + 1) % rememberedOnce
}

func (o *Opener) evict(e *list.Element) {
	ks := sessionOf(e)
	o.lru.Remove(e)
	delete(o.kept, ks.key)
	ks.aead.Destroy()
	o.quota.give()
}

func sessionOf(e *list.Element) keptSession {
	ks, _ := e.Value.(keptSession) // the list holds nothing else
	return ks
}
