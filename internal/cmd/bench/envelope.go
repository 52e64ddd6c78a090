//go:build unix

package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/memsec"
)

func envelopePairs() []pair {
	const (
		baseline = "raw AES-256-GCM, random nonce, same bytes"
		small    = "beside the cipher: associated data from the request (about 200 bytes to hash), limits of the session, a key in locked memory"
		large    = "the cipher dominates; what is beside it does not grow with the data"
	)
	var all []pair
	for _, c := range []struct {
		size int
		seal float64
		open float64
		why  string
	}{{256, 0.30, 0.20, small}, {64 << 10, 0.85, 0.85, large}} {
		all = append(all,
			pair{name: fmt.Sprintf("envelope seal %d B", c.size), baseline: baseline, goal: c.seal, why: c.why, open: sealing(c.size)},
			pair{name: fmt.Sprintf("envelope open %d B", c.size), baseline: baseline, goal: c.open, why: c.why, open: opening(c.size)})
	}
	return all
}

// serviceKey is a service key in locked memory, and what binds to it.
type serviceKey struct {
	key     memsec.Secret
	scope   envelope.Scope
	binding envelope.Binding
}

func newServiceKey() (serviceKey, error) {
	key, err := memsec.Random(rand.Reader, envelope.KeySize, memsec.Hot)
	if err != nil {
		return serviceKey{}, err
	}
	s := serviceKey{key: key}
	if _, err := rand.Read(s.scope.Keyspace[:]); err != nil {
		return serviceKey{}, err
	}
	for _, uid := range []*hierarchy.UID{&s.scope.Tenant, &s.scope.Service, &s.scope.Version} {
		if *uid, err = hierarchy.NewUID(rand.Reader); err != nil {
			return serviceKey{}, err
		}
	}
	s.binding = s.scope.Bind(hierarchy.PurposeData, "orders", hierarchy.EncryptionContext{})
	return s, nil
}

// sealers are sessions, a new one when the one before has ended, as in a node.
type sealers struct {
	serviceKey

	now *envelope.Sealer
}

func (s *sealers) seal(dst, plain []byte) ([]byte, error) {
	if s.now == nil || s.now.Expired() {
		next, err := envelope.NewSealer(rand.Reader, clock.System{}, s.key, hierarchy.PurposeData, s.scope, envelope.Limits{})
		if err != nil {
			return nil, err
		}
		if s.now != nil {
			s.now.Retire()
		}
		s.now = next
	}
	return s.now.Seal(dst, s.binding, plain)
}

// rawGCM is the cipher of every baseline.
func rawGCM() (cipher.AEAD, error) {
	key := make([]byte, envelope.KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func sealing(size int) func(context.Context, *env) (match, error) {
	return func(context.Context, *env) (match, error) {
		sk, err := newServiceKey()
		if err != nil {
			return match{}, err
		}
		raw, err := rawGCM()
		if err != nil {
			return match{}, err
		}
		s := &sealers{serviceKey: sk}
		plain, nonce := make([]byte, size), make([]byte, raw.NonceSize())
		dst := make([]byte, 0, size+envelope.Overhead)
		return match{
			subject: side{loop: alone(func() error {
				_, err := s.seal(dst, plain)
				return err
			})},
			baseline: side{loop: alone(func() error {
				if _, err := rand.Read(nonce); err != nil {
					return err
				}
				raw.Seal(dst, nonce, plain, nil)
				return nil
			})},
		}, nil
	}
}

func opening(size int) func(context.Context, *env) (match, error) {
	return func(context.Context, *env) (match, error) {
		sk, err := newServiceKey()
		if err != nil {
			return match{}, err
		}
		opener, err := envelope.NewOpener(sk.key, sk.scope, envelope.NewQuota(1))
		if err != nil {
			return match{}, err
		}
		sealed, err := (&sealers{serviceKey: sk}).seal(nil, make([]byte, size))
		if err != nil {
			return match{}, err
		}
		raw, err := rawGCM()
		if err != nil {
			return match{}, err
		}
		nonce := make([]byte, raw.NonceSize())
		if _, err := rand.Read(nonce); err != nil {
			return match{}, err
		}
		box := raw.Seal(nil, nonce, make([]byte, size), nil) //nolint:gosec // It is random.
		dst := make([]byte, 0, size)
		return match{
			subject: side{loop: alone(func() error {
				_, err := opener.Open(dst, sk.binding, sealed)
				return err
			})},
			baseline: side{loop: alone(func() error {
				_, err := raw.Open(dst, nonce, box, nil)
				return err
			})},
			close: func() error {
				opener.Close()
				return nil
			},
		}, nil
	}
}
