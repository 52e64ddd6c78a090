package envelope_test

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// refused fails unless err is the one refusal, with the expected cause if one is given.
func refused(t testing.TB, err, cause error, format string, args ...any) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf(format+": opens", args...)
	case !errs.Is(err, errs.Integrity), err.Error() != errs.DoesNotOpen(nil).Error():
		t.Errorf(format+": the caller sees %q", append(args, err)...)
	case cause != nil && !errors.Is(err, cause):
		t.Errorf(format+": the audit trail sees %v, want %v", append(args, errors.Unwrap(err), cause)...)
	}
}

func short(all []vector) []vector {
	return slices.DeleteFunc(slices.Clone(all), func(v vector) bool { return len(v.Blob) > 400 })
}

func TestI1_NoBitOfABlobCanChange(t *testing.T) {
	for _, v := range short(loadVectors(t).Envelopes) {
		parent, b := take(t, v.Parent), v.binding(t)
		for bit := range 8 * len(v.Blob) {
			blob := slices.Clone(v.Blob)
			blob[bit/8] ^= 1 << (bit % 8)
			var cause error
			switch i := bit / 8; {
			case i < 2:
				cause = envelope.ErrFormat
			case i < 18:
				cause = envelope.ErrKeyVersion
			case i < 66:
				cause = envelope.ErrCommitment
			default:
				cause = envelope.ErrTag
			}
			refused(t, v.openOurs(t, parent, b, blob), cause, "%s, bit %d flipped", v.Name, bit)
		}
	}
}

func TestI1_NoBlobCanBeCutOrExtended(t *testing.T) {
	for _, v := range short(loadVectors(t).Envelopes) {
		parent, b := take(t, v.Parent), v.binding(t)
		for n := range len(v.Blob) {
			refused(t, v.openOurs(t, parent, b, v.Blob[:n]), nil, "%s, first %d bytes", v.Name, n)
			refused(t, v.openOurs(t, parent, b, v.Blob[len(v.Blob)-n:]), nil, "%s, last %d bytes", v.Name, n)
		}
		for _, n := range []int{1, 16, 94, 1 << 21} {
			refused(t, v.openOurs(t, parent, b, append(slices.Clone(v.Blob), make([]byte, n)...)), nil, "%s, %d bytes more", v.Name, n)
		}
	}
}

// TestI1_NoBlobOpensAtAnotherPlace moves each blob to each other place that a
// binding can name.
func TestI1_NoBlobOpensAtAnotherPlace(t *testing.T) {
	for _, v := range loadVectors(t).Envelopes {
		parent, at := take(t, v.Parent), v.binding(t)
		if err := v.openOurs(t, parent, at, v.Blob); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		moves := map[string]struct {
			to    func(b *envelope.Binding)
			cause error
		}{
			"keyspace": {func(b *envelope.Binding) { b.Keyspace[3] ^= 1 }, envelope.ErrCommitment},
			"version":  {func(b *envelope.Binding) { b.Version[3] ^= 1 }, envelope.ErrKeyVersion},
		}
		if !at.Tenant.IsZero() {
			moves["tenant"] = struct {
				to    func(b *envelope.Binding)
				cause error
			}{func(b *envelope.Binding) { b.Tenant[3] ^= 1 }, envelope.ErrCommitment}
		}
		if !at.Service.IsZero() {
			moves["service"] = struct {
				to    func(b *envelope.Binding)
				cause error
			}{func(b *envelope.Binding) { b.Service[3] ^= 1 }, envelope.ErrCommitment}
		}
		if !at.Subject.IsZero() {
			moves["subject"] = struct {
				to    func(b *envelope.Binding)
				cause error
			}{func(b *envelope.Binding) { b.Subject[3] ^= 1 }, envelope.ErrTag}
		}
		if at.Purpose == hierarchy.PurposeData || at.Purpose == hierarchy.PurposeDataKey {
			for name, to := range map[string]func(b *envelope.Binding){
				"resource longer":  func(b *envelope.Binding) { b.Resource += "x" },
				"resource changed": func(b *envelope.Binding) { b.Resource = "\x01" + b.Resource },
				"context": func(b *envelope.Binding) {
					b.Context = contextOf(t, [][2]string{{"another", "context"}})
				},
				"resource to context": func(b *envelope.Binding) {
					if b.Resource == "" {
						b.Resource = "r"
						return
					}
					b.Context, b.Resource = contextOf(t, [][2]string{{string(b.Resource), ""}}), ""
				},
			} {
				moves[name] = struct {
					to    func(b *envelope.Binding)
					cause error
				}{to, envelope.ErrTag}
			}
		}
		for name, m := range moves {
			b := at
			m.to(&b)
			refused(t, v.openOurs(t, parent, b, v.Blob), m.cause, "%s moved to another %s", v.Name, name)
		}
		wrong := slices.Clone(v.Parent)
		wrong[31] ^= 0x80
		refused(t, v.openOurs(t, take(t, wrong), at, v.Blob), envelope.ErrCommitment, "%s under another parent", v.Name)
	}
}

// TestI1_NoBlobOpensForAnotherPurpose opens what one purpose made as every other
// purpose whose binding has the same parts, under the same parent.
func TestI1_NoBlobOpensForAnotherPurpose(t *testing.T) {
	tried := 0
	for _, v := range loadVectors(t).Envelopes {
		for _, p := range hierarchy.Purposes() {
			w, b := v, v.binding(t)
			w.Purpose, b.Purpose = p.Wire(), p
			if p.Wire() == v.Purpose || b.Check() != nil || p == hierarchy.PurposeL1 || p == hierarchy.PurposeL2Outer {
				continue
			}
			tried++
			cause := envelope.ErrCommitment
			if n := len(v.Plaintext); p != hierarchy.PurposeData && n != 32 {
				cause = nil // the length may be refused first
			}
			refused(t, w.openOurs(t, take(t, v.Parent), b, v.Blob), cause, "%s as %s", v.Name, p)
		}
	}
	if tried < 10 {
		t.Errorf("only %d pairs tried", tried)
	}
}

func TestI1_RandomBindingsOpenOnlyThemselves(t *testing.T) {
	parent := take(t, bytesOf("rapid parent", 32))
	rapid.Check(t, func(r *rapid.T) {
		draw := func(label string) envelope.Binding {
			id := func(part string) hierarchy.UID {
				return hierarchy.UID{0: 1, 15: rapid.ByteRange(0, 1).Draw(r, label+" "+part)}
			}
			return envelope.Binding{
				Purpose:  rapid.SampledFrom([]hierarchy.Purpose{hierarchy.PurposeData, hierarchy.PurposeDataKey}).Draw(r, label+" purpose"),
				Keyspace: hierarchy.KeyspaceID(id("keyspace")), Tenant: id("tenant"), Service: id("service"), Version: id("version"),
				Resource: hierarchy.ResourceID(rapid.SampledFrom([]string{"", "a", "b"}).Draw(r, label+" resource")),
				Context:  contextOf(t, rapid.SampledFrom([][][2]string{nil, {{"a", "b"}}, {{"ab", ""}}}).Draw(r, label+" context")),
			}
		}
		a, b := draw("sealed"), draw("opened")
		pt := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(r, "plaintext")
		v := vector{Name: "rapid", Purpose: a.Purpose.Wire(), Plaintext: pt}
		s, err := envelope.NewSealer(&fixed{name: rapid.String().Draw(r, "rand")}, clock.System{}, parent, a.Purpose, scopeFor(a), envelope.Limits{})
		if err != nil {
			r.Fatal(err)
		}
		defer s.Retire()
		var blob []byte
		if a.Purpose == hierarchy.PurposeData {
			blob, err = s.Seal(nil, a, pt)
		} else {
			blob, err = s.WrapSecret(a, take(t, pt))
		}
		if err != nil {
			r.Fatal(err)
		}
		if len(blob) != len(pt)+envelope.Overhead {
			r.Fatalf("%d bytes became %d", len(pt), len(blob))
		}
		v.Purpose = b.Purpose.Wire()
		if err := v.openOurs(t, parent, b, blob); (err == nil) != (a == b) {
			r.Fatalf("sealed at %+v, opened at %+v: %v", a, b, err)
		}
	})
}

// Multiplication in the field of GHASH, bit by bit, for the attack below.
type element [16]byte

func (x element) add(y element) element {
	for i := range x {
		x[i] ^= y[i]
	}
	return x
}

func (x element) mul(y element) (z element) {
	v := y
	for i := range 128 {
		if x[i/8]>>(7-i%8)&1 == 1 {
			z = z.add(v)
		}
		odd := v[15]&1 == 1
		for k := 15; k > 0; k-- {
			v[k] = v[k]>>1 | v[k-1]<<7
		}
		if v[0] >>= 1; odd {
			v[0] ^= 0xe1
		}
	}
	return z
}

func (x element) inverse() element { // x^(2^128-2)
	out, sq := element{0: 0x80}, x
	for range 127 {
		sq = sq.mul(sq)
		out = out.mul(sq)
	}
	return out
}

// ghashLinear returns GHASH of aad and one ciphertext block of zeros, the factor
// by which that block enters, and the mask of the tag.
func ghashLinear(key, nonce, aad []byte) (rest, factor, mask element) {
	block, _ := aes.NewCipher(key)
	var h element
	block.Encrypt(h[:], h[:])
	var j0 [16]byte
	copy(j0[:], nonce)
	j0[15] = 1
	block.Encrypt(mask[:], j0[:])
	for i := 0; i < len(aad); i += 16 {
		var b element
		copy(b[:], aad[i:])
		rest = rest.add(b).mul(h)
	}
	rest = rest.mul(h) // the block of zeros
	var lengths element
	binary.BigEndian.PutUint64(lengths[:], uint64(len(aad))*8)
	binary.BigEndian.PutUint64(lengths[8:], 128)
	return rest.add(lengths).mul(h), h.mul(h), mask
}

// TestI3_InvisibleSalamander builds one blob whose ciphertext and tag are right
// under the session keys of two parents, as whoever knows both can for plain
// AES-GCM. The commitment lets it open under one of them only.
func TestI3_InvisibleSalamander(t *testing.T) {
	p := place{purpose: "data", keyspace: bytesOf("ks", 16), tenant: bytesOf("t", 16), service: bytesOf("s", 16), version: bytesOf("v", 16)}
	parents := [2][]byte{bytesOf("parent 1", 32), bytesOf("parent 2", 32)}
	session, nonce := bytesOf("session", 16), bytesOf("nonce", 12)
	header := slices.Concat([]byte{1, 1}, p.version, session, p.commitment(parents[0], session), nonce)
	aad := p.aad(header)

	// tag_i = rest_i + factor_i * C + mask_i. One C makes both tags equal.
	k1, k2 := p.key(parents[0], session), p.key(parents[1], session)
	r1, f1, m1 := ghashLinear(k1, nonce, aad)
	r2, f2, m2 := ghashLinear(k2, nonce, aad)
	c := r1.add(m1).add(r2).add(m2).mul(f1.add(f2).inverse())
	tag := r1.add(f1.mul(c)).add(m1)
	blob := slices.Concat(header, c[:], tag[:])

	var plain [2][]byte
	for i, k := range [][]byte{k1, k2} {
		pt, err := rdGCM(k).Open(nil, nonce, blob[78:], aad)
		if err != nil {
			t.Fatalf("the attack itself is wrong: plain AES-GCM refuses under key %d: %v", i+1, err)
		}
		plain[i] = pt
	}
	if bytes.Equal(plain[0], plain[1]) {
		t.Fatal("the attack itself is wrong: both plaintexts are equal")
	}

	scope := envelope.Scope{Keyspace: hierarchy.KeyspaceID(p.keyspace), Tenant: hierarchy.UID(p.tenant), Service: hierarchy.UID(p.service), Version: hierarchy.UID(p.version)}
	b := scope.Bind(hierarchy.PurposeData, "", hierarchy.EncryptionContext{})
	open := func(parent []byte) ([]byte, error) {
		o, err := envelope.NewOpener(take(t, parent), scope, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		return o.Open(nil, b, blob)
	}
	if got, err := open(parents[0]); err != nil || !bytes.Equal(got, plain[0]) {
		t.Errorf("under the parent it commits to: %v", err)
	}
	_, err := open(parents[1])
	refused(t, err, envelope.ErrCommitment, "under the other parent")
}

func TestI2_EveryRefusalLooksTheSame(t *testing.T) {
	causes := map[error]bool{}
	texts := map[string]bool{}
	for _, v := range loadVectors(t).MustFail {
		err := v.openOurs(t, take(t, v.Parent), v.binding(t), v.Blob)
		texts[err.Error()] = true
		for _, c := range []error{envelope.ErrFormat, envelope.ErrKeyVersion, envelope.ErrCommitment, envelope.ErrTag, envelope.ErrLength} {
			if errors.Is(err, c) {
				causes[c] = true
			}
		}
	}
	if len(texts) != 1 {
		t.Errorf("callers see %d different texts: %v", len(texts), texts)
	}
	if len(causes) < 4 {
		t.Errorf("the audit trail tells %d causes apart, want at least 4", len(causes))
	}
}

func TestDestroyedKeysAreNotDamagedBlobs(t *testing.T) {
	v := loadVectors(t).Envelopes[1]
	parent, b := take(t, v.Parent), v.binding(t)
	parent.Destroy()
	if err := v.openOurs(t, parent, b, v.Blob); !errors.Is(err, memsec.ErrDestroyed) || errs.Is(err, errs.Integrity) {
		t.Errorf("unwrap under a destroyed parent: %v", err)
	}
	if _, err := envelope.Wrap(&fixed{}, parent, b, take(t, v.Plaintext)); !errors.Is(err, memsec.ErrDestroyed) {
		t.Errorf("wrap under a destroyed parent: %v", err)
	}
	key := take(t, v.Plaintext)
	key.Destroy()
	if _, err := envelope.Wrap(&fixed{}, take(t, v.Parent), b, key); !errors.Is(err, memsec.ErrDestroyed) {
		t.Errorf("wrap of a destroyed key: %v", err)
	}
}

func TestWrapRefusesWhatItsPurposeDoesNotTake(t *testing.T) {
	byPurpose := map[string]vector{}
	for _, v := range loadVectors(t).Envelopes {
		byPurpose[v.Purpose] = v
	}
	for purpose, lengths := range map[string]map[int]bool{
		"ivk-wrap":        {31: false, 32: true, 33: false},
		"l21-wrap":        {16: false, 32: true, 64: false},
		"l3-wrap":         {31: false, 32: true, 33: false},
		"dek-wrap":        {1: true, 4096: true},
		"internal-secret": {1: true, 4096: true},
	} {
		v := byPurpose[purpose]
		for n, ok := range lengths {
			blob, err := envelope.Wrap(&fixed{}, take(t, v.Parent), v.binding(t), take(t, bytesOf("key", n)))
			if (err == nil) != ok || !ok && !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%s of %d bytes: %v", purpose, n, err)
			}
			if ok && len(blob) != n+envelope.Overhead {
				t.Errorf("%s of %d bytes is %d bytes long", purpose, n, len(blob))
			}
			if ok {
				continue
			}
			// A blob of that length, made by the second reader's rules, is refused too.
			p, session, nonce := v.place(), bytesOf("s", 16), bytesOf("n", 12)
			header := slices.Concat([]byte{1, 1}, p.version, session, p.commitment(v.Parent, session), nonce)
			forged := append(header[:78:78], rdGCM(p.key(v.Parent, session)).Seal(nil, nonce, bytesOf("key", n), p.aad(header))...)
			_, err = envelope.Unwrap(take(t, v.Parent), v.binding(t), forged, memsec.Hot)
			refused(t, err, envelope.ErrLength, "%s of %d bytes", purpose, n)
		}
	}
	v := byPurpose["l21-wrap"]
	for _, p := range []hierarchy.Purpose{0, hierarchy.PurposeData, hierarchy.PurposeL1, hierarchy.PurposeL2Outer, 99} {
		b := v.binding(t)
		b.Purpose = p
		if _, err := envelope.Wrap(&fixed{}, take(t, v.Parent), b, take(t, v.Plaintext)); !errs.Is(err, errs.Internal) {
			t.Errorf("wrap for %s: %v", p, err)
		}
		if _, err := envelope.Unwrap(take(t, v.Parent), b, v.Blob, memsec.Hot); !errs.Is(err, errs.Internal) {
			t.Errorf("unwrap for %s: %v", p, err)
		}
	}
	for name, parent := range map[string]memsec.Secret{"no parent": {}, "a parent of 31 bytes": take(t, bytesOf("p", 31)), "a parent of 64 bytes": take(t, bytesOf("p", 64))} {
		if _, err := envelope.Wrap(&fixed{}, parent, v.binding(t), take(t, v.Plaintext)); !errs.Is(err, errs.Internal) {
			t.Errorf("wrap under %s: %v", name, err)
		}
		if _, err := envelope.Unwrap(parent, v.binding(t), v.Blob, memsec.Hot); !errs.Is(err, errs.Internal) {
			t.Errorf("unwrap under %s: %v", name, err)
		}
	}
	if _, err := envelope.Wrap(&fixed{}, take(t, v.Parent), v.binding(t), memsec.Secret{}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("wrap of no key: %v", err)
	}
	for n := range 28 {
		if blob, err := envelope.Wrap(bytes.NewReader(make([]byte, n)), take(t, v.Parent), v.binding(t), take(t, v.Plaintext)); err == nil || blob != nil {
			t.Errorf("a random source that ends after %d bytes gives a blob", n)
		}
	}
}

func TestEachWrapIsAnotherSession(t *testing.T) {
	v := loadVectors(t).Envelopes[1]
	rand := &fixed{name: "two wraps"}
	a, err1 := envelope.Wrap(rand, take(t, v.Parent), v.binding(t), take(t, v.Plaintext))
	b, err2 := envelope.Wrap(rand, take(t, v.Parent), v.binding(t), take(t, v.Plaintext))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	ha, _ := envelope.ParseHeader(a)
	hb, _ := envelope.ParseHeader(b)
	if ha.Session == hb.Session || ha.Commitment == hb.Commitment || ha.Nonce == hb.Nonce || bytes.Equal(a[78:], b[78:]) {
		t.Error("two wraps share session, commitment, nonce or ciphertext")
	}
}
