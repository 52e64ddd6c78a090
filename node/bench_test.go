package node_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/node"
)

// hot is a node with everything loaded, and what each operation works on.
type hot struct {
	m              *member
	who            auth.Principal
	known          uint64 // identities are as the door found them, as they are for nearly every call
	tg             node.Target
	ctx            context.Context //nolint:containedctx // Of the benchmark.
	plain, ct, key []byte
}

func newHot(b testing.TB) *hot {
	b.Helper()
	w, m := cluster1(b, withClock(clock.System{}))
	h := &hot{m: m, who: m.workload("acme"), tg: target("acme", "pay"), plain: make([]byte, 256)}
	h.ctx = corr.With(context.Background(), must[corr.ID](b)(corr.New(rand.Reader)))

	for range 3 { // sessions are kept from the second opening on
		var err error
		h.ct, _, err = m.encrypt(h.tg, h.plain)
		check(b, err)
		_, _, err = m.decrypt(h.tg, h.ct)
		check(b, err)
		_, h.key, _, err = m.generate(h.tg, 0)
		check(b, err)
		_, _, err = m.unwrap(h.tg, h.key)
		check(b, err)
	}
	m.hooked.drop.Store(true)
	h.known = m.machine.View().AuthorityAt()
	_ = w
	return h
}

func (h *hot) do(act gate.Act, fn func(gate.Token) error) error {
	return h.m.gate.Do(h.ctx, gate.Request{Principal: h.who, Authority: h.known, Act: act, Object: h.tg.Name()}, fn)
}

func (h *hot) encrypt() error {
	return h.do(gate.Encrypt, func(tok gate.Token) error {
		_, _, err := h.m.Encrypt(h.ctx, tok, h.tg, h.plain)
		return err
	})
}

func (h *hot) decrypt() error {
	return h.do(gate.Decrypt, func(tok gate.Token) error {
		_, _, err := h.m.Decrypt(h.ctx, tok, h.tg, h.ct)
		return err
	})
}

func (h *hot) generate() error {
	return h.do(gate.GenerateDataKey, func(tok gate.Token) error {
		key, _, _, err := h.m.GenerateDataKey(h.ctx, tok, h.tg, 0)
		key.Destroy()
		return err
	})
}

func (h *hot) unwrap() error {
	return h.do(gate.UnwrapDataKey, func(tok gate.Token) error {
		key, _, err := h.m.UnwrapDataKey(h.ctx, tok, h.tg, h.key)
		key.Destroy()
		return err
	})
}

func (h *hot) rewrap() error {
	return h.do(gate.RewrapDataKey, func(tok gate.Token) error {
		_, _, _, err := h.m.RewrapDataKey(h.ctx, tok, h.tg, h.key)
		return err
	})
}

// ruled gives the tenant 50 statements, of which the last permits what h does. They
// read the version and the encryption context.
func (h *hot) ruled(t testing.TB) {
	t.Helper()
	for n := range 10 {
		var text strings.Builder
		for i := range 5 {
			who := fmt.Sprintf("app%d-%d", n, i)
			if n == 9 && i == 4 {
				who = "app"
			}
			fmt.Fprintf(&text, `permit (principal == Krypton::Workload::"%s", action in Krypton::Action::"use", resource in Krypton::Service::"pay") when { context.version < 100 && !(context.encryption_context has "forbidden") };`+"\n", who)
		}
		must[*fsmpb.Policy](t)(h.m.putPolicy(h.m.w.request(), "acme", hierarchy.Name(fmt.Sprintf("p%d", n)), text.String()))
	}
	h.known = h.m.machine.View().AuthorityAt()
	for range 2 {
		check(t, h.encrypt())
	}
}

// BenchmarkEncrypt256Ruled is Encrypt256 in a tenant with 50 statements.
func BenchmarkEncrypt256Ruled(b *testing.B) {
	h := newHot(b)
	h.ruled(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := h.encrypt(); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmark(b *testing.B, op func(*hot) error) {
	b.Helper()
	h := newHot(b)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := op(h); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := op(h); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkEncrypt256(b *testing.B)      { benchmark(b, (*hot).encrypt) }
func BenchmarkDecrypt256(b *testing.B)      { benchmark(b, (*hot).decrypt) }
func BenchmarkGenerateDataKey(b *testing.B) { benchmark(b, (*hot).generate) }
func BenchmarkUnwrapDataKey(b *testing.B)   { benchmark(b, (*hot).unwrap) }
func BenchmarkRewrapDataKey(b *testing.B)   { benchmark(b, (*hot).rewrap) }

// BenchmarkGateAlone is what passing the gate costs of all that.
func BenchmarkGateAlone(b *testing.B) {
	h := newHot(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := h.do(gate.Encrypt, func(gate.Token) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRawAESGCM256 is the floor: one seal of 256 bytes with a random nonce.
func BenchmarkRawAESGCM256(b *testing.B) {
	block, err := aes.NewCipher(make([]byte, 32))
	check(b, err)
	a, err := cipher.NewGCM(block)
	check(b, err)
	plain, nonce, dst := make([]byte, 256), make([]byte, 12), make([]byte, 0, 300)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rand.Read(nonce); err != nil {
			b.Fatal(err)
		}
		a.Seal(dst, nonce, plain, nil)
	}
}
