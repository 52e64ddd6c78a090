package envelope_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// customer is a keystore that wraps with the second reader's AES-GCM under a
// key of its own, and remembers what it was asked.
type customer struct {
	t     testing.TB
	key   []byte
	aads  [][]byte
	blobs [][]byte
	err   error
}

func (c *customer) wrap(_ context.Context, k1 memsec.Secret, aad []byte) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	a, err := memsec.NewAEAD(take(c.t, c.key))
	if err != nil {
		return nil, err
	}
	defer a.Destroy()
	blob, err := a.SealSecret(nil, make([]byte, 12), k1, aad)
	c.aads, c.blobs = append(c.aads, aad), append(c.blobs, blob)
	return blob, err
}

func (c *customer) unwrap(_ context.Context, blob, aad []byte) (memsec.Secret, error) {
	if c.err != nil {
		return memsec.Secret{}, c.err
	}
	pt, err := rdGCM(c.key).Open(nil, make([]byte, 12), blob, aad)
	if err != nil {
		return memsec.Secret{}, errs.New(errs.KeystoreMisconfigured, "the keystore refuses the blob")
	}
	c.aads = append(c.aads, aad)
	return memsec.Take(pt, memsec.Hot)
}

func outer() envelope.Binding {
	return envelope.Binding{
		Purpose: hierarchy.PurposeL2Outer, Keyspace: hierarchy.KeyspaceID(idOf("keyspace")), Tenant: idOf("tenant"),
		Version: idOf("ivk"), Subject: idOf("l2"),
	}
}

func nest(t testing.TB, c *customer) []byte {
	t.Helper()
	blob, err := envelope.NestL2(t.Context(), rand.Reader, take(t, bytesOf("ivk key", 32)), outer(), c.wrap, take(t, bytesOf("l2 key", 32)))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestI6_L2NeedsBothTheIVKAndTheCustomerKey(t *testing.T) {
	c := &customer{t: t, key: bytesOf("customer", 32)}
	blob := nest(t, c)
	ivk := take(t, bytesOf("ivk key", 32))
	l2, err := envelope.OpenL2(t.Context(), ivk, outer(), c.unwrap, blob, memsec.Cold)
	if err != nil || !same(t, l2, bytesOf("l2 key", 32)) || l2.Class() != memsec.Cold {
		t.Fatalf("with both: %v", err)
	}
	l2.Destroy()
	if !bytes.Equal(c.aads[0], c.aads[1]) || !bytes.Equal(c.aads[0], envelope.L1AAD(outer().Keyspace, outer().Tenant, outer().Subject)) {
		t.Error("the keystore got different associated data for wrap and unwrap")
	}

	asked := len(c.aads)
	_, err = envelope.OpenL2(t.Context(), take(t, bytesOf("other ivk", 32)), outer(), c.unwrap, blob, memsec.Cold)
	refused(t, err, envelope.ErrCommitment, "another IVK")
	if len(c.aads) != asked {
		t.Error("the customer's keystore was asked about a blob that is not ours")
	}
	denied := errs.New(errs.L1Denied, "the keystore refuses the customer key")
	c.err = denied
	if _, err := envelope.OpenL2(t.Context(), ivk, outer(), c.unwrap, blob, memsec.Cold); !errors.Is(err, denied) {
		t.Errorf("a denial comes out as %v", err)
	}
	if _, err := envelope.NestL2(t.Context(), rand.Reader, ivk, outer(), c.wrap, take(t, bytesOf("l2 key", 32))); !errors.Is(err, denied) {
		t.Errorf("a denial of wrap comes out as %v", err)
	}
	for name, answer := range map[string][]byte{"another K1": bytesOf("other k1", 32), "16 bytes": bytesOf("k1", 16), "64 bytes": bytesOf("k1", 64)} {
		_, err := envelope.OpenL2(t.Context(), ivk, outer(), func(context.Context, []byte, []byte) (memsec.Secret, error) {
			return memsec.Take(slices.Clone(answer), memsec.Hot)
		}, blob, memsec.Cold)
		refused(t, err, nil, "the keystore answers with %s", name)
	}
}

func TestI6_TheKeystoreSeesAFreshK1AndNeverL2(t *testing.T) {
	c := &customer{t: t, key: bytesOf("customer", 32)}
	var seen []memsec.Secret
	wrap := func(ctx context.Context, k1 memsec.Secret, aad []byte) ([]byte, error) {
		if same(t, k1, bytesOf("l2 key", 32)) {
			t.Error("L2 was given to the keystore")
		}
		for _, s := range seen {
			if eq, err := memsec.Equal(s, k1); err != nil || eq {
				t.Errorf("K1 is used twice (%v)", err)
			}
		}
		kept, err := memsec.Copy(k1, memsec.Hot)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(kept.Destroy)
		seen = append(seen, kept)
		return c.wrap(ctx, k1, aad)
	}
	var last memsec.Secret
	for range 5 {
		if _, err := envelope.NestL2(t.Context(), rand.Reader, take(t, bytesOf("ivk key", 32)), outer(), func(ctx context.Context, k1 memsec.Secret, aad []byte) ([]byte, error) {
			last = k1
			return wrap(ctx, k1, aad)
		}, take(t, bytesOf("l2 key", 32))); err != nil {
			t.Fatal(err)
		}
		if last.Len() != 0 {
			t.Error("K1 outlives the call")
		}
	}
}

func TestI6_NestedBlobsAreBoundAndWhole(t *testing.T) {
	c := &customer{t: t, key: bytesOf("customer", 32)}
	blob := nest(t, c)
	ivk := take(t, bytesOf("ivk key", 32))
	open := func(b envelope.Binding, blob []byte) error {
		_, err := envelope.OpenL2(t.Context(), ivk, b, c.unwrap, blob, memsec.Hot)
		return err
	}
	for bit := range 8 * len(blob) {
		bad := slices.Clone(blob)
		bad[bit/8] ^= 1 << (bit % 8)
		refused(t, open(outer(), bad), nil, "bit %d flipped", bit)
	}
	for n := range blob {
		refused(t, open(outer(), blob[:n]), nil, "first %d bytes", n)
	}
	refused(t, open(outer(), append(slices.Clone(blob), 0)), nil, "one byte more")
	for name, move := range map[string]func(b *envelope.Binding){
		"keyspace": func(b *envelope.Binding) { b.Keyspace[0] ^= 1 }, "tenant": func(b *envelope.Binding) { b.Tenant[0] ^= 1 },
		"ivk": func(b *envelope.Binding) { b.Version[0] ^= 1 }, "l2": func(b *envelope.Binding) { b.Subject[0] ^= 1 },
	} {
		b := outer()
		move(&b)
		refused(t, open(b, blob), nil, "another %s", name)
	}
	wrong := outer()
	wrong.Purpose = hierarchy.PurposeL21
	if err := open(wrong, blob); !errs.Is(err, errs.Internal) {
		t.Errorf("another purpose: %v", err)
	}
	wrong = outer()
	wrong.Service = idOf("service")
	if err := open(wrong, blob); !errs.Is(err, errs.Internal) {
		t.Errorf("a service in the binding: %v", err)
	}
}

// TestI6_BodiesHaveOneMeaning seals crafted bodies under the right IVK.
func TestI6_BodiesHaveOneMeaning(t *testing.T) {
	p := place{purpose: "l2-outer", keyspace: bytesOf("keyspace", 16), tenant: bytesOf("tenant", 16), version: bytesOf("ivk", 16), subject: bytesOf("l2", 16)}
	ivk := bytesOf("ivk key", 32)
	forge := func(body []byte) []byte {
		session, nonce := bytesOf("s", 16), bytesOf("n", 12)
		header := slices.Concat([]byte{1, 1}, p.version, session, p.commitment(ivk, session), nonce)
		return append(header[:78:78], rdGCM(p.key(ivk, session)).Seal(nil, nonce, body, p.aad(header))...)
	}
	l1, inner := bytesOf("l1", 100), bytesOf("inner", 126)
	unwrap := func(context.Context, []byte, []byte) (memsec.Secret, error) {
		t.Error("the keystore was asked about a malformed body")
		return memsec.Secret{}, errors.New("asked")
	}
	for name, body := range map[string][]byte{
		"empty keystore blob":    rdParts(nil, inner, l1),
		"keystore blob too long": rdParts(make([]byte, 16385), inner),
		"inner too short":        rdParts(l1, inner[:125]),
		"inner too long":         rdParts(l1, append(slices.Clone(inner), 0)),
		"trailing bytes":         append(rdParts(l1, inner), 0),
		"trailing part":          rdParts(l1, inner, nil),
		"length beyond the end":  append([]byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 200)...),
		"second length missing":  append(rdParts(make([]byte, 140)), 0, 0, 0),
	} {
		_, err := envelope.OpenL2(t.Context(), take(t, ivk), outer(), unwrap, forge(body), memsec.Hot)
		refused(t, err, envelope.ErrLength, "%s", name)
	}
}

func TestNestRefusesKeystoresThatAnswerNonsense(t *testing.T) {
	for _, n := range []int{0, envelope.MaxL1Blob + 1} {
		_, err := envelope.NestL2(t.Context(), rand.Reader, take(t, bytesOf("ivk key", 32)), outer(), func(context.Context, memsec.Secret, []byte) ([]byte, error) {
			return make([]byte, n), nil
		}, take(t, bytesOf("l2 key", 32)))
		if !errs.Is(err, errs.KeystoreMisconfigured) {
			t.Errorf("a blob of %d bytes: %v", n, err)
		}
	}
	c := &customer{t: t, key: bytesOf("customer", 32)}
	if _, err := envelope.NestL2(t.Context(), rand.Reader, take(t, bytesOf("ivk key", 32)), outer(), c.wrap, take(t, bytesOf("l2", 31))); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("an L2 of 31 bytes: %v", err)
	}
	bad := outer()
	bad.Purpose = hierarchy.PurposeL2Inner
	if _, err := envelope.NestL2(t.Context(), rand.Reader, take(t, bytesOf("ivk key", 32)), bad, c.wrap, take(t, bytesOf("l2", 32))); !errs.Is(err, errs.Internal) {
		t.Errorf("another purpose: %v", err)
	}
	if len(c.blobs) != 0 {
		t.Error("the keystore was asked although the call is wrong")
	}
}

func TestI6_RewrapOuterNeedsNoKeystoreAndMovesOnlyTheOuterLayer(t *testing.T) {
	c := &customer{t: t, key: bytesOf("customer", 32)}
	blob := nest(t, c)
	oldIVK, newIVK := take(t, bytesOf("ivk key", 32)), take(t, bytesOf("new ivk key", 32))
	to := outer()
	to.Version = idOf("new ivk")
	moved, err := envelope.RewrapOuter(rand.Reader, oldIVK, outer(), newIVK, to, blob)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.aads) != 1 {
		t.Errorf("the keystore was asked %d times", len(c.aads)-1)
	}
	l2, err := envelope.OpenL2(t.Context(), newIVK, to, c.unwrap, moved, memsec.Hot)
	if err != nil || !same(t, l2, bytesOf("l2 key", 32)) {
		t.Errorf("after the move: %v", err)
	}
	_, err = envelope.OpenL2(t.Context(), oldIVK, to, c.unwrap, moved, memsec.Hot)
	refused(t, err, envelope.ErrCommitment, "the moved blob under the old IVK")
	_, err = envelope.OpenL2(t.Context(), oldIVK, outer(), c.unwrap, moved, memsec.Hot)
	refused(t, err, envelope.ErrKeyVersion, "the moved blob as of the old version")

	again, err := envelope.RewrapOuter(rand.Reader, oldIVK, outer(), oldIVK, outer(), blob)
	if err != nil || bytes.Equal(again, blob) {
		t.Errorf("a fresh session under the same IVK: %v", err)
	}
	for name, b := range map[string]func(b *envelope.Binding){
		"tenant": func(b *envelope.Binding) { b.Tenant[0] ^= 1 }, "l2": func(b *envelope.Binding) { b.Subject[0] ^= 1 },
		"keyspace": func(b *envelope.Binding) { b.Keyspace[0] ^= 1 }, "purpose": func(b *envelope.Binding) { b.Purpose = hierarchy.PurposeL21 },
	} {
		other := to
		b(&other)
		if _, err := envelope.RewrapOuter(rand.Reader, oldIVK, outer(), newIVK, other, blob); !errs.Is(err, errs.Internal) {
			t.Errorf("moving to another %s: %v", name, err)
		}
	}
	blob[100] ^= 1
	_, err = envelope.RewrapOuter(rand.Reader, oldIVK, outer(), newIVK, to, blob)
	refused(t, err, envelope.ErrTag, "moving a changed blob")
}
