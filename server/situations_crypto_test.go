package server_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/node"
)

// opening asks for the same blob as a ciphertext and as a wrapped key, in every
// way in which it could be opened.
func opening(id, who, svc string, ciphertext, wrapped []byte) []wrong {
	return []wrong{
		{id: id, who: who, method: "Crypto.Decrypt", req: &kryptonv1.DecryptRequest{Service: svc, Ciphertext: ciphertext}},
		{id: id, who: who, method: "Crypto.UnwrapDataKey", req: &kryptonv1.UnwrapDataKeyRequest{Service: svc, Wrapped: wrapped}},
		{id: id, who: who, method: "Crypto.RewrapDataKey", req: &kryptonv1.RewrapDataKeyRequest{Service: svc, Wrapped: wrapped}},
	}
}

func flipped(b []byte, bit int) []byte {
	b = bytes.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

// pairs makes an encryption context of keys k0, k1, ...
func pairs(n, valueBytes int) (out []*kryptonv1.ContextPair) {
	for i := range n {
		out = append(out, &kryptonv1.ContextPair{Key: fmt.Sprintf("k%03d", i), Value: strings.Repeat("v", valueBytes)})
	}
	return out
}

func wrongCiphertexts(g *ground) []wrong {
	const work = "workload/acme"
	ct, wr := g.ciphertext[pay], g.wrapped[pay]
	noise := make([]byte, len(ct))
	_, _ = rand.Read(noise)
	long := append(bytes.Clone(ct), make([]byte, node.MaxData)...)
	lost := func(svc string) ([]byte, []byte) { return g.ciphertext[svc], g.wrapped[svc] }
	var out []wrong
	add := func(id, who, svc string, ciphertext, wrapped []byte) {
		out = append(out, opening(id, who, svc, ciphertext, wrapped)...)
	}
	add("ciphertext/empty", work, pay, nil, nil)
	add("ciphertext/not-one", work, pay, noise, noise)
	add("ciphertext/not-one", work, pay, []byte(g.text), []byte(g.text))
	for _, n := range []int{1, 2, 34, 60, len(wr) - 1} {
		add("ciphertext/truncated", work, pay, ct[:n], wr[:n])
	}
	add("ciphertext/truncated", work, pay, ct[1:], wr[1:])
	add("ciphertext/extended", work, pay, append(bytes.Clone(ct), 0), append(bytes.Clone(wr), 0))
	add("ciphertext/too-long", work, pay, long, long)
	for bit := 3; bit < 8*min(len(ct), len(wr)); bit += 37 {
		add("ciphertext/bit-flipped", work, pay, flipped(ct, bit), flipped(wr, bit))
	}
	oct, owr := lost("tenants/other/services/pay")
	add("ciphertext/of-another-tenant", work, pay, oct, owr)
	lct, lwr := lost(acme + "/services/logs")
	add("ciphertext/of-another-service", work, pay, lct, lwr)
	add("ciphertext/of-another-cluster", work, pay, g.foreign.ciphertext, g.foreign.wrapped)
	rct, rwr := lost("tenants/again/services/pay")
	add("ciphertext/of-a-recreated-tenant", "workload/again", "tenants/again/services/pay", rct, rwr)
	sct, swr := lost(acme + "/services/again")
	add("ciphertext/of-a-recreated-service", work, acme+"/services/again", sct, swr)
	add("ciphertext/wrapped-key-to-decrypt", work, pay, wr, ct)

	for n, id := range map[int]string{1: "ciphertext/version-disabled", 3: "ciphertext/version-compromised", 4: "ciphertext/version-destroy-scheduled", 5: "ciphertext/version-destroyed"} {
		vct, vwr := lost(fmt.Sprintf("%s/versions/%d", states, n))
		add(id, work, states, vct, vwr)
	}
	ict, iwr := lost(acme + "/services/idle")
	add("ciphertext/service-suspended", work, acme+"/services/idle", ict, iwr)
	dct, dwr := lost(acme + "/services/doomed")
	add("ciphertext/service-destroy-scheduled", work, acme+"/services/doomed", dct, dwr)
	gct, gwr := lost(acme + "/services/gone")
	add("ciphertext/service-destroyed", work, acme+"/services/gone", gct, gwr)
	ict, iwr = lost("tenants/idle/services/pay")
	add("ciphertext/tenant-suspended", "workload/idle", "tenants/idle/services/pay", ict, iwr)
	dct, dwr = lost("tenants/doomed/services/pay")
	add("ciphertext/tenant-destroy-scheduled", "workload/doomed", "tenants/doomed/services/pay", dct, dwr)
	gct, gwr = lost("tenants/gone/services/pay")
	add("ciphertext/tenant-destroyed", "corp/gone", "tenants/gone/services/pay", gct, gwr)

	add("identity/unbound", "workload/gone", "tenants/gone/services/pay", gct, gwr)

	// What was bound to it has to be given again.
	bound := func(resource string, ctx ...*kryptonv1.ContextPair) []wrong {
		ciphertext := g.must(work, "Crypto.Encrypt", &kryptonv1.EncryptRequest{
			Service: pay, Resource: "table-7", EncryptionContext: pairs(2, 1), Plaintext: bytes.Clone(g.canary),
		}).(*kryptonv1.EncryptResponse).GetCiphertext()
		wrapped := g.must(work, "Crypto.GenerateDataKey", &kryptonv1.GenerateDataKeyRequest{
			Service: pay, Resource: "table-7", EncryptionContext: pairs(2, 1),
		}).(*kryptonv1.GenerateDataKeyResponse).GetWrapped()
		return []wrong{
			{who: work, method: "Crypto.Decrypt", req: &kryptonv1.DecryptRequest{Service: pay, Resource: resource, EncryptionContext: ctx, Ciphertext: ciphertext}},
			{who: work, method: "Crypto.UnwrapDataKey", req: &kryptonv1.UnwrapDataKeyRequest{Service: pay, Resource: resource, EncryptionContext: ctx, Wrapped: wrapped}},
			{who: work, method: "Crypto.RewrapDataKey", req: &kryptonv1.RewrapDataKeyRequest{Service: pay, Resource: resource, EncryptionContext: ctx, Wrapped: wrapped}},
		}
	}
	named := func(id string, cases []wrong) {
		for _, c := range cases {
			c.id = id
			out = append(out, c)
		}
	}
	named("ciphertext/of-another-resource", bound("table-8", pairs(2, 1)...))
	named("ciphertext/of-another-resource", bound("", pairs(2, 1)...))
	named("ciphertext/in-another-context", bound("table-7"))
	named("ciphertext/in-another-context", bound("table-7", pairs(1, 1)...))
	named("ciphertext/in-another-context", bound("table-7", pairs(3, 1)...))
	named("ciphertext/in-another-context", bound("table-7", pairs(2, 2)...))
	return out
}

// TestWrongCiphertexts goes through everything that can be wrong with what is
// given to be opened.
func TestWrongCiphertexts(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for _, c := range append(wrongCiphertexts(g), wrongDataRequests(g)...) {
		g.refuse(t, c)
	}
	g.noTrace(t)
}

// TestWhatStillOpens is the other side: what looks wrong and is not.
func TestWhatStillOpens(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	situationtest.Outcome(t, "ciphertext/version-deprecated")
	old := states + "/versions/2"
	got := g.must("workload/acme", "Crypto.Decrypt", &kryptonv1.DecryptRequest{Service: states, Ciphertext: g.ciphertext[old]}).(*kryptonv1.DecryptResponse)
	if !bytes.Equal(got.GetPlaintext(), g.canary) || got.GetKeyVersion() != old {
		t.Errorf("under a deprecated version: %d bytes of %s", len(got.GetPlaintext()), got.GetKeyVersion())
	}
	again := g.must("workload/acme", "Crypto.RewrapDataKey", &kryptonv1.RewrapDataKeyRequest{Service: states, Wrapped: g.wrapped[old]}).(*kryptonv1.RewrapDataKeyResponse)
	if again.GetPreviousKeyVersion() != old || again.GetKeyVersion() != states+"/versions/7" {
		t.Errorf("rewrapped from %s to %s", again.GetPreviousKeyVersion(), again.GetKeyVersion())
	}

	situationtest.Outcome(t, "ciphertext/context-in-another-order")
	ctx := pairs(hierarchy.MaxContextPairs, 3)
	enc := g.must("workload/acme", "Crypto.Encrypt", &kryptonv1.EncryptRequest{Service: pay, EncryptionContext: ctx, Plaintext: bytes.Clone(g.canary)}).(*kryptonv1.EncryptResponse)
	turned := make([]*kryptonv1.ContextPair, len(ctx))
	for i, p := range ctx {
		turned[len(ctx)-1-i] = p
	}
	got = g.must("workload/acme", "Crypto.Decrypt", &kryptonv1.DecryptRequest{Service: pay, EncryptionContext: turned, Ciphertext: enc.GetCiphertext()}).(*kryptonv1.DecryptResponse)
	if !bytes.Equal(got.GetPlaintext(), g.canary) {
		t.Error("the order of the pairs matters")
	}

	// Every limit itself is inside.
	for _, m := range []*kryptonv1.EncryptRequest{
		{Service: pay, Plaintext: make([]byte, node.MaxData)},
		{Service: pay, Resource: strings.Repeat("r", hierarchy.MaxResourceIDBytes)},
		{Service: pay, EncryptionContext: []*kryptonv1.ContextPair{{Key: "k", Value: strings.Repeat("v", hierarchy.MaxContextBytes-1)}}},
		{Service: pay, EncryptionContext: pairs(hierarchy.MaxContextPairs, 0)},
	} {
		g.must("workload/acme", "Crypto.Encrypt", m)
	}
	for _, n := range []uint32{0, node.MinDataKey, node.MaxDataKey} {
		g.must("workload/acme", "Crypto.GenerateDataKey", &kryptonv1.GenerateDataKeyRequest{Service: pay, Length: n})
	}
}

// wrongDataRequests is what can be wrong with a data operation before anything
// is opened.
func wrongDataRequests(g *ground) []wrong {
	const work = "workload/acme"
	encrypt := func(id string, m *kryptonv1.EncryptRequest) wrong {
		m.Plaintext = append(bytes.Clone(g.canary), m.GetPlaintext()...)
		if m.GetService() == "" {
			m.Service = pay
		}
		return wrong{id: id, who: work, method: "Crypto.Encrypt", req: m}
	}
	context := func(id string, ctx ...*kryptonv1.ContextPair) []wrong {
		return []wrong{
			encrypt(id, &kryptonv1.EncryptRequest{EncryptionContext: ctx}),
			{id: id, who: work, method: "Crypto.Decrypt", req: &kryptonv1.DecryptRequest{Service: pay, EncryptionContext: ctx, Ciphertext: g.ciphertext[pay]}},
			{id: id, who: work, method: "Crypto.GenerateDataKey", req: &kryptonv1.GenerateDataKeyRequest{Service: pay, EncryptionContext: ctx}},
			{id: id, who: work, method: "Crypto.UnwrapDataKey", req: &kryptonv1.UnwrapDataKeyRequest{Service: pay, EncryptionContext: ctx, Wrapped: g.wrapped[pay]}},
			{id: id, who: work, method: "Crypto.RewrapDataKey", req: &kryptonv1.RewrapDataKeyRequest{Service: pay, EncryptionContext: ctx, Wrapped: g.wrapped[pay]}},
		}
	}
	out := []wrong{
		encrypt("request/plaintext-too-large", &kryptonv1.EncryptRequest{Plaintext: make([]byte, node.MaxData-len(g.canary)+1)}),
		encrypt("request/resource-too-long", &kryptonv1.EncryptRequest{Resource: strings.Repeat("r", hierarchy.MaxResourceIDBytes+1)}),
		encrypt("request/resource-control-character", &kryptonv1.EncryptRequest{Resource: g.text + "\n"}),
		encrypt("request/resource-control-character", &kryptonv1.EncryptRequest{Resource: g.text + "\u202e"}),
		encrypt("request/resource-relative", &kryptonv1.EncryptRequest{Resource: ".."}),
		{id: "request/data-key-length", who: work, method: "Crypto.GenerateDataKey", req: &kryptonv1.GenerateDataKeyRequest{Service: pay, Length: node.MinDataKey - 1}},
		{id: "request/data-key-length", who: work, method: "Crypto.GenerateDataKey", req: &kryptonv1.GenerateDataKeyRequest{Service: pay, Length: node.MaxDataKey + 1}},
		{id: "request/data-key-length", who: work, method: "Crypto.GenerateDataKey", req: &kryptonv1.GenerateDataKeyRequest{Service: pay, Length: 1<<32 - 1}},
		encrypt("request/object-unknown", &kryptonv1.EncryptRequest{Service: acme + "/services/none"}),
		encrypt("request/object-unknown", &kryptonv1.EncryptRequest{Service: "tenants/other/services/pay"}),
		encrypt("request/object-unknown", &kryptonv1.EncryptRequest{Service: "tenants/ghost/services/pay"}),
		encrypt("request/service-suspended", &kryptonv1.EncryptRequest{Service: acme + "/services/idle"}),
		encrypt("request/service-destroy-scheduled", &kryptonv1.EncryptRequest{Service: acme + "/services/doomed"}),
		encrypt("request/service-destroyed", &kryptonv1.EncryptRequest{Service: acme + "/services/gone"}),
	}
	out = append(out, context("request/context-key-twice", &kryptonv1.ContextPair{Key: "k", Value: g.text}, &kryptonv1.ContextPair{Key: "k"})...)
	out = append(out, context("request/context-key-empty", &kryptonv1.ContextPair{Value: g.text})...)
	out = append(out, context("request/context-key-reserved", &kryptonv1.ContextPair{Key: "krypton-x", Value: g.text})...)
	out = append(out, context("request/context-too-many-pairs", pairs(hierarchy.MaxContextPairs+1, 0)...)...)
	out = append(out, context("request/context-too-large", &kryptonv1.ContextPair{Key: "k", Value: strings.Repeat("v", hierarchy.MaxContextBytes)})...)
	return out
}
