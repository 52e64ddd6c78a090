package node

import (
	"errors"
	"sync"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// sessionsPerTenant is how many session keys the openers of one tenant keep on
// one node. A node meets one sealing session per node, minute and purpose, so
// this is several minutes of a large cluster.
const sessionsPerTenant = 256

// errForeignVersion is the internal cause of a refusal; it goes to the audit
// record and nowhere else.
var errForeignVersion = errors.New("the header names a key version that is not of this service")

// serviceKey is an unwrapped version of a service key with its sessions: one
// for data keys and one for data, because purpose is part of the derivation.
type serviceKey struct {
	ring   *keyring
	used   Used // names of the version, which never change
	secret memsec.Secret
	scope  envelope.Scope
	opener *envelope.Opener
	valid  *validity.Standing // of the tenant: whether the customer's key lets it be used

	mu        sync.Mutex
	destroyed bool
	sealers   map[hierarchy.Purpose]*envelope.Sealer
}

// tenantQuota is the quota of a tenant's sessions, for as long as one of its
// service keys is in memory.
type tenantQuota struct {
	quota *envelope.Quota
	keys  int
}

// newServiceKey takes over secret, also when it fails.
func (k *keyring) newServiceKey(secret memsec.Secret, used Used, valid *validity.Standing, scope envelope.Scope) (*serviceKey, error) {
	opener, err := envelope.NewOpener(secret, scope, k.holdQuota(scope.Tenant))
	if err != nil {
		k.giveQuota(scope.Tenant)
		secret.Destroy()
		return nil, err
	}
	return &serviceKey{ring: k, used: used, secret: secret, scope: scope, opener: opener, valid: valid, sealers: map[hierarchy.Purpose]*envelope.Sealer{}}, nil
}

func (k *keyring) holdQuota(tenant hierarchy.UID) *envelope.Quota {
	k.mu.Lock()
	defer k.mu.Unlock()
	q, ok := k.quotas[tenant]
	if !ok {
		q = &tenantQuota{quota: envelope.NewQuota(sessionsPerTenant)}
		k.quotas[tenant] = q
	}
	q.keys++
	return q.quota
}

func (k *keyring) giveQuota(tenant hierarchy.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if q := k.quotas[tenant]; q != nil {
		if q.keys--; q.keys == 0 {
			delete(k.quotas, tenant)
		}
	}
}

// Destroy implements [destroyer].
func (s *serviceKey) Destroy() {
	s.opener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.destroyed {
		return
	}
	s.destroyed = true
	for _, cur := range s.sealers {
		cur.Retire()
	}
	clear(s.sealers)
	s.secret.Destroy()
	s.ring.giveQuota(s.scope.Tenant)
}

// endSessions wipes sessions that reached a limit. Without it, the session of a
// key that nobody uses any more would stay in memory as long as the key.
func (s *serviceKey) endSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, cur := range s.sealers {
		if cur.Expired() {
			cur.Retire()
			delete(s.sealers, p)
		}
	}
}

// sealer returns the session for a purpose, a new one if there is none or it
// ended.
func (s *serviceKey) sealer(n *Node, p hierarchy.Purpose) (*envelope.Sealer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.destroyed {
		return nil, memsec.ErrDestroyed
	}
	old := s.sealers[p]
	if old != nil && !old.Expired() {
		return old, nil
	}
	fresh, err := envelope.NewSealer(n.rand, n.clock, s.secret, p, s.scope, envelope.Limits{})
	if err != nil {
		return nil, err
	}
	if old != nil {
		old.Retire()
	}
	s.sealers[p] = fresh
	return fresh, nil
}

// sealed runs fn with a session, and again with a new one if it ended in
// between.
func sealed(s *serviceKey, n *Node, p hierarchy.Purpose, fn func(*envelope.Sealer) ([]byte, error)) ([]byte, error) {
	for range maxRounds {
		cur, err := s.sealer(n, p)
		if err != nil {
			return nil, err
		}
		out, err := fn(cur)
		if !errors.Is(err, envelope.ErrSessionEnded) {
			return out, err
		}
	}
	return nil, errs.New(errs.ChangeInProgress, "sessions of the key end faster than they are used", errs.Hint("retry"))
}

func (s *serviceKey) wrap(n *Node, t Target, key memsec.Secret) ([]byte, error) {
	b := s.scope.Bind(hierarchy.PurposeDataKey, t.Resource, t.Context)
	return sealed(s, n, hierarchy.PurposeDataKey, func(cur *envelope.Sealer) ([]byte, error) { return cur.WrapSecret(b, key) })
}

func (s *serviceKey) unwrap(t Target, wrapped []byte) (memsec.Secret, error) {
	return s.opener.UnwrapSecret(s.scope.Bind(hierarchy.PurposeDataKey, t.Resource, t.Context), wrapped, memsec.Hot)
}

func (s *serviceKey) encrypt(n *Node, t Target, plaintext []byte) ([]byte, error) {
	b := s.scope.Bind(hierarchy.PurposeData, t.Resource, t.Context)
	out := make([]byte, 0, len(plaintext)+envelope.Overhead)
	return sealed(s, n, hierarchy.PurposeData, func(cur *envelope.Sealer) ([]byte, error) { return cur.Seal(out, b, plaintext) })
}

func (s *serviceKey) decrypt(t Target, ciphertext []byte) ([]byte, error) {
	return s.opener.Open(nil, s.scope.Bind(hierarchy.PurposeData, t.Resource, t.Context), ciphertext)
}
