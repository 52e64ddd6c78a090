package seal_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
)

// A second reader of records, written from docs/formats.md and the field numbers of
// seal.proto, with nothing of packages seal and sealpb: what it opens, somebody who
// has the document and no Krypton can open.

// field is one field of a protobuf message: a number, or bytes.
type field struct {
	n uint64
	b []byte
}

type message map[protowire.Number][]field

func decodeMessage(b []byte) (message, error) {
	m := message{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		var f field
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.b, n = protowire.ConsumeBytes(b)
		default:
			return nil, errors.New("a type of field that records do not have")
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		m[num] = append(m[num], f)
	}
	return m, nil
}

func (m message) num(i protowire.Number) uint64 {
	if len(m[i]) == 0 {
		return 0
	}
	return m[i][0].n
}

func (m message) bytes(i protowire.Number) []byte {
	if len(m[i]) == 0 {
		return nil
	}
	return m[i][0].b
}

func (m message) all(i protowire.Number) ([]message, error) {
	var out []message
	for _, f := range m[i] {
		sub, err := decodeMessage(f.b)
		if err != nil {
			return nil, err
		}
		out = append(out, sub)
	}
	return out, nil
}

// one returns a message in a field, empty if it is absent.
func (m message) one(i protowire.Number) message {
	sub, err := decodeMessage(m.bytes(i))
	if err != nil {
		return message{}
	}
	return sub
}

func u32be(v uint64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
func u64be(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
func lp(b []byte) []byte    { return append(u32be(uint64(len(b))), b...) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// reader is a record that was read.
type reader struct {
	record, manifest        message
	holders, groups, shards []message
	keystore                []byte // the key of the keystore of the vectors
	identity                string
}

func readRecord(file []byte) (*reader, error) {
	if len(file) < 48 || string(file[:8]) != "KRYPSEAL" || binary.BigEndian.Uint32(file[8:]) != 1 || int(binary.BigEndian.Uint32(file[12:])) != len(file)-48 {
		return nil, errors.New("not a record file")
	}
	if sum := sha256.Sum256(file[:len(file)-32]); !bytes.Equal(sum[:], file[len(file)-32:]) {
		return nil, errors.New("checksum")
	}
	r := &reader{}
	var err error
	if r.record, err = decodeMessage(file[16 : len(file)-32]); err != nil {
		return nil, err
	}
	r.manifest = r.record.one(2)
	var errs [3]error
	r.holders, errs[0] = r.manifest.all(8)
	r.groups, errs[1] = r.manifest.all(13)
	r.shards, errs[2] = r.record.all(4)
	return r, errors.Join(errs[:]...)
}

func (r *reader) place() []byte {
	return join(lp(r.manifest.bytes(2)), lp(r.manifest.bytes(4)), lp(u64be(r.manifest.num(5))))
}

func (r *reader) manifestBytes() ([]byte, error) {
	m, second := r.manifest, r.manifest.num(1) >= 2
	e := join(u32be(m.num(1)), lp(m.bytes(2)), lp(m.bytes(3)), lp(m.bytes(4)), u64be(m.num(5)), u32be(m.num(6)), u32be(m.num(7)), u32be(uint64(len(r.holders))))
	for _, h := range r.holders {
		e = join(e, u32be(h.num(1)), u32be(h.num(2)), u32be(h.num(3)), lp(h.bytes(4)), lp(h.bytes(5)), lp(h.bytes(6)), u32be(h.num(7)))
		if second {
			k, d := h.one(9), h.one(10)
			e = join(e, lp(h.bytes(8)), lp(k.bytes(1)), lp(k.bytes(2)), lp(d.bytes(1)), lp(d.bytes(2)), lp(d.bytes(3)))
		}
	}
	keys, err := m.all(9)
	if err != nil {
		return nil, err
	}
	e = join(e, u32be(uint64(len(keys))))
	for _, k := range keys {
		e = join(e, lp(k.bytes(1)), lp(k.bytes(2)))
	}
	e = join(e, lp(m.bytes(10)), u32be(uint64(len(m[11]))))
	for _, i := range m[11] {
		e = join(e, lp(i.b))
	}
	e = join(e, u64be(m.num(12)))
	if !second {
		return e, nil
	}
	e = join(e, u32be(uint64(len(r.groups))))
	for _, g := range r.groups {
		e = join(e, lp(g.bytes(1)), u32be(g.num(2)))
	}
	e = join(e, lp(m.bytes(14)), u32be(m.num(15)), u32be(uint64(len(m[16]))))
	for _, risk := range m[16] {
		e = join(e, lp(risk.b))
	}
	return e, nil
}

func (r *reader) digests() (record, manifest [32]byte, err error) {
	m, err := r.manifestBytes()
	if err != nil {
		return record, manifest, err
	}
	wrappings, err1 := r.record.all(3)
	carried, err2 := r.record.all(6)
	e := join(lp([]byte("krypton/v1/seal-record")), u32be(r.record.num(1)), m, u32be(uint64(len(wrappings))))
	for _, w := range wrappings {
		k := w.one(1)
		e = join(e, lp(k.bytes(1)), lp(k.bytes(2)), lp(w.bytes(2)), lp(w.bytes(3)), lp(w.bytes(4)), lp(w.bytes(5)), u64be(w.num(6)))
	}
	e = join(e, u32be(uint64(len(r.shards))))
	for _, s := range r.shards {
		e = join(e, u32be(s.num(1)), lp(s.bytes(2)))
	}
	if r.record.num(1) >= 2 {
		g := r.record.one(5)
		e = join(e, lp(g.bytes(1)), lp(g.bytes(2)), u32be(uint64(len(carried))))
		for _, k := range carried {
			e = join(e, u64be(k.num(1)), lp(k.bytes(2)), lp(k.bytes(3)))
		}
	}
	return sha256.Sum256(e), sha256.Sum256(join(lp([]byte("krypton/v1/seal-manifest")), m)), errors.Join(err1, err2)
}

func gcmOpen(key, nonce, sealed, aad []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return a.Open(nil, nonce, sealed, aad)
}

// unwrap is the keystore of the vectors: AES-256-GCM with a nonce of zeros.
func (r *reader) unwrap(blob, aad []byte) ([]byte, error) {
	return gcmOpen(r.keystore, make([]byte, 12), blob, aad)
}

// share opens the shard of a holder and returns the whole share.
func (r *reader) share(index uint64) ([]byte, error) {
	for _, s := range r.shards {
		if s.num(1) != index {
			continue
		}
		if r.holders[index-1].num(3) == 1 { // a person
			b, err := decryptAge(r.identity, s.bytes(2))
			if err != nil || len(b) != 87 || b[0] != 1 || uint64(b[53]) != index {
				return nil, fmt.Errorf("binary form of %d bytes: %w", len(b), err)
			}
			return b[54:], nil
		}
		shard, err := decodeMessage(s.bytes(2))
		if err != nil {
			return nil, err
		}
		at := join(r.place(), lp(u32be(index)))
		once, err := r.unwrap(shard.bytes(3), join(lp([]byte("krypton/v1/seal-shard")), at))
		if err != nil {
			return nil, err
		}
		return gcmOpen(once, shard.bytes(4), shard.bytes(5), join(lp([]byte("krypton/v1/seal-share")), at))
	}
	return nil, errors.New("no shard")
}

// decryptAge opens an age file, whose format is not ours.
func decryptAge(identity string, file []byte) (out []byte, err error) {
	ids, err := agebox.ReadIdentities([]byte(identity), agebox.Person{})
	if err != nil {
		return nil, err
	}
	defer ids.Destroy()
	plain, err := ids.Decrypt(file, 87)
	if err != nil {
		return nil, err
	}
	defer plain.Destroy()
	err = reveal.With(plain, func(b []byte) error {
		out = bytes.Clone(b)
		return nil
	})
	return out, err
}

func (r *reader) checkShare(index uint64, whole []byte) error {
	h := sha256.Sum256(join(lp([]byte("krypton/share")), lp(r.manifest.bytes(2)), lp(r.manifest.bytes(4)), lp(u32be(index)), lp(whole)))
	holder := r.holders[index-1]
	if len(whole) != 33 || !bytes.Equal(h[:], holder.bytes(5)) || uint64(whole[32]) != holder.num(2) {
		return fmt.Errorf("share %d is not the one of the manifest", index)
	}
	return nil
}

// gfMul multiplies in GF(2^8) with x^8+x^4+x^3+x+1.
func gfMul(a, b byte) (p byte) {
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		high := a & 0x80
		a <<= 1
		if high != 0 {
			a ^= 0x1b
		}
	}
	return p
}

func gfInv(a byte) byte { // a^254
	out := byte(1)
	for range 254 {
		out = gfMul(out, a)
	}
	return out
}

func interpolate(shares [][]byte) []byte {
	secret := make([]byte, 32)
	for i, si := range shares {
		l := byte(1)
		for j, sj := range shares {
			if i != j {
				l = gfMul(l, gfMul(sj[32], gfInv(sj[32]^si[32])))
			}
		}
		for b := range secret {
			secret[b] ^= gfMul(si[b], l)
		}
	}
	return secret
}

// expand is HKDF-Expand-SHA-256 to 32 bytes, from RFC 5869.
func expand(prk, info []byte) []byte {
	h := hmac.New(sha256.New, prk)
	h.Write(append(slices.Clone(info), 1))
	return h.Sum(nil)
}

// masterKey opens the record with one list of whole shares for each group, or
// through the keystore.
func (r *reader) masterKey(groups [][][]byte) ([]byte, error) {
	var mk []byte
	switch {
	case r.manifest.num(6) == 1: // auto
		wrappings, err := r.record.all(3)
		if err != nil {
			return nil, err
		}
		w := wrappings[len(wrappings)-1]
		once, err := r.unwrap(w.bytes(3), join(lp([]byte("krypton/v1/seal-auto")), r.place()))
		if err != nil {
			return nil, err
		}
		if mk, err = gcmOpen(once, w.bytes(4), w.bytes(5), join(lp([]byte("krypton/v1/seal-masterkey")), r.place())); err != nil {
			return nil, err
		}
	case len(groups) == 1:
		mk = interpolate(groups[0])
	default:
		var ikm []byte
		for _, g := range groups {
			ikm = append(ikm, interpolate(g)...)
		}
		info := join(lp([]byte("krypton/v1/seal-groups")), r.place(), lp(u32be(uint64(len(groups)))))
		w, err := hkdf.Key(sha256.New, ikm, nil, string(info), 32)
		if err != nil {
			return nil, err
		}
		g := r.record.one(5)
		if mk, err = gcmOpen(w, g.bytes(1), g.bytes(2), join(lp([]byte("krypton/v1/seal-groups-masterkey")), r.place())); err != nil {
			return nil, err
		}
	}
	commitment := expand(mk, join([]byte("krypton/v1/masterkey-commitment"), r.manifest.bytes(2), u64be(r.manifest.num(5))))
	if !bytes.Equal(commitment, r.manifest.bytes(10)) {
		return nil, errors.New("not the MasterKey of the manifest")
	}
	return mk, nil
}

func (r *reader) carried(mk []byte) (map[uint64][]byte, error) {
	keys, err := r.record.all(6)
	if err != nil {
		return nil, err
	}
	out := map[uint64][]byte{}
	for _, k := range keys {
		aad := join(lp([]byte("krypton/v1/carried-key")), lp(r.manifest.bytes(2)), lp(u64be(r.manifest.num(5))), lp(u64be(k.num(1))))
		if out[k.num(1)], err = gcmOpen(expand(mk, []byte("krypton/v1/carried-keys")), k.bytes(2), k.bytes(3), aad); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// paperShare reads the text of a share, without its checksum.
func paperShare(text string) (index uint64, whole []byte) {
	var acc, bits int
	var out []byte
	for _, c := range strings.Join(strings.Split(strings.TrimSpace(text), "-")[1:], "") {
		acc, bits = acc<<5|strings.IndexRune(letters, c), bits+5
		if bits >= 8 {
			bits -= 8
			out = append(out, byte(acc>>bits))
			acc &= 1<<bits - 1
		}
	}
	return uint64(out[53]), out[54:87]
}

// vector is one directory of testdata.
type vector struct {
	dir string
	t   *testing.T
}

func (v vector) read(name string) []byte {
	v.t.Helper()
	b, err := os.ReadFile(filepath.Join(v.dir, name))
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

func (v vector) hex(name string) []byte {
	v.t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(string(v.read(name))))
	if err != nil {
		v.t.Fatal(err)
	}
	return b
}

// reader reads the vector's record with the second reader.
func (v vector) reader() *reader {
	v.t.Helper()
	r, err := readRecord(v.read("record.pb"))
	if err != nil {
		v.t.Fatal(err)
	}
	root := vector{filepath.Dir(v.dir), v.t}
	if filepath.Base(root.dir) == "v2" {
		r.keystore, r.identity = root.hex("keystore.hex"), string(root.read("identity.txt"))
	}
	return r
}

// papers are the printed shares of the vector, by their number.
func (v vector) papers() map[uint64][]byte {
	v.t.Helper()
	papers := map[uint64][]byte{}
	files, err := filepath.Glob(filepath.Join(v.dir, "share-*.txt"))
	if err != nil {
		v.t.Fatal(err)
	}
	for _, f := range files {
		i, whole := paperShare(string(v.read(filepath.Base(f))))
		papers[i] = whole
	}
	return papers
}

func vectors(t *testing.T) map[string]vector {
	t.Helper()
	out := map[string]vector{}
	for _, name := range []string{"v1", "v2/groups", "v2/mixed", "v2/auto"} {
		out[name] = vector{filepath.Join("testdata", filepath.FromSlash(name)), t}
	}
	return out
}

func TestTheDocumentIsEnoughToOpenARecord(t *testing.T) {
	for name, v := range vectors(t) {
		t.Run(name, func(t *testing.T) {
			v.t = t
			r := v.reader()
			record, manifest, err := r.digests()
			if err != nil || !bytes.Equal(record[:], v.hex("record.digest")) || !bytes.Equal(manifest[:], v.hex("manifest.digest")) {
				t.Errorf("digests %x and %x, %v", record, manifest, err)
			}
			papers := v.papers()
			groups := make([][][]byte, max(len(r.groups), 1))
			for _, h := range r.holders {
				i := h.num(1)
				whole, printed := papers[i]
				if !printed {
					if whole, err = r.share(i); err != nil {
						t.Fatal(i, err)
					}
				}
				if err := r.checkShare(i, whole); err != nil {
					t.Error(err)
				}
				groups[h.num(7)] = append(groups[h.num(7)], whole)
			}
			want := v.hex("masterkey.hex")
			mk, err := r.masterKey(groups)
			if err != nil || !bytes.Equal(mk, want) {
				t.Fatalf("another MasterKey: %v", err)
			}
			if len(r.holders) > 0 { // as few as it takes: the last ones
				for g := range groups {
					need := r.manifest.num(7)
					if len(r.groups) > 0 {
						need = r.groups[g].num(2)
					}
					groups[g] = groups[g][uint64(len(groups[g]))-need:]
				}
				if mk, err := r.masterKey(groups); err != nil || !bytes.Equal(mk, want) {
					t.Errorf("with as few as it takes: %v", err)
				}
				groups[len(groups)-1] = groups[len(groups)-1][1:]
				if mk, err := r.masterKey(groups); err == nil {
					t.Errorf("one too few gives %x", mk)
				}
			}
			carried, err := r.carried(mk)
			if err != nil {
				t.Fatal(err)
			}
			for g, key := range carried {
				if !bytes.Equal(key, v.hex(fmt.Sprintf("carried-%d.hex", g))) {
					t.Errorf("carried key of generation %d is another", g)
				}
			}
			if wantCarried := name != "v1"; wantCarried != (len(carried) == 2) {
				t.Errorf("%d carried keys", len(carried))
			}
		})
	}
}

// What was written once is read by every later version, and gives the same.
func TestGoldenRecordsOfFormat2(t *testing.T) {
	for name, v := range vectors(t) {
		if name == "v1" {
			continue // TestGoldenRecordsAndSharesOfFormat1
		}
		t.Run(name, func(t *testing.T) {
			v.t = t
			root := vector{filepath.Dir(v.dir), t}
			r, err := seal.ReadFile(filepath.Join(v.dir, "record.pb"), hierarchy.KeyspaceID{})
			if err != nil {
				t.Fatal(err)
			}
			if d, m := r.Digest(), r.ManifestDigest(); !bytes.Equal(d[:], v.hex("record.digest")) || !bytes.Equal(m[:], v.hex("manifest.digest")) {
				t.Errorf("digests %x and %x", d, m)
			}
			if p := r.Plan(); p.Kind != seal.KindRekey || r.Generation() != 7 || !slices.Equal(p.AcceptedRisks, []string{"concentration"}) || p.Previous[0] != 0xAB {
				t.Errorf("%+v", p)
			}
			key, err := memsec.Take(root.hex("keystore.hex"), memsec.Hot)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Destroy()
			p := newProv(t)
			p.key.Destroy()
			if p.key, err = memsec.NewAEAD(key); err != nil {
				t.Fatal(err)
			}
			defer p.key.Destroy()
			reg := registry(t, map[string]*prov{"hsm": p, "cloud": p})
			var mk memsec.Secret
			if r.Mode() == seal.ModeAuto {
				mk, err = seal.OpenFirstWrapping(t.Context(), r, reg)
			} else {
				var all []seal.Share
				for i, h := range r.Plan().Holders() {
					var s seal.Share
					switch {
					case h.IsKeystore():
						s, err = seal.OpenShard(t.Context(), r, i+1, reg)
					case h.IsPrinted():
						s, err = seal.ParseShare(v.read(fmt.Sprintf("share-%d.txt", i+1)))
					default:
						s, err = anna{file: string(root.read("identity.txt"))}.share(t, r, i+1)
					}
					if err != nil {
						t.Fatal(i+1, err)
					}
					defer s.Destroy()
					all = append(all, s)
				}
				mk, err = seal.Combine(r, all)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer mk.Destroy()
			equal := func(s memsec.Secret, file string) {
				t.Helper()
				if err := reveal.With(s, func(b []byte) error {
					if !bytes.Equal(b, v.hex(file)) {
						return errors.New("another one came out")
					}
					return nil
				}); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
			equal(mk, "masterkey.hex")
			carried, err := r.OpenCarriedKeys(mk)
			if err != nil || len(carried) != 2 {
				t.Fatal(len(carried), err)
			}
			for _, k := range carried {
				equal(k.Key, fmt.Sprintf("carried-%d.hex", k.Generation))
				k.Key.Destroy()
			}
		})
	}
}
