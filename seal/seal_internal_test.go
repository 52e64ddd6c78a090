package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

func internalSeal(t *testing.T, n, m int) (Record, []Share) {
	t.Helper()
	c := Ceremony{Keyspace: hierarchy.KeyspaceID{1}, Cluster: hierarchy.ClusterID{2}, ID: hierarchy.UID{3}, Generation: 4, Time: time.Unix(5, 6)}
	g := Group{Threshold: m}
	for i := range n {
		g.Holders = append(g.Holders, Holder{Name: fmt.Sprint("person ", i)})
	}
	r, mk, shares, err := Create(context.Background(), rand.Reader, c, Plan{Groups: []Group{g}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mk.Destroy()
	t.Cleanup(func() { destroyAll(shares) })
	return r, shares
}

// Whoever collects shares never combines too few; combine does not either, and
// the mathematics under it give nothing.
func TestI4_FewerSharesCombineToSomethingElse(t *testing.T) {
	r, shares := internalSeal(t, 5, 4)
	for m := 2; m <= 5; m++ {
		enough := m >= 4
		mk, err := combine(r, shares[5-m:])
		mk.Destroy()
		if enough != (err == nil) || (!enough && !errs.Is(err, errs.Sealed)) {
			t.Errorf("%d of 4 needed: %v", m, err)
		}
		mk, err = joinShares(shares[5-m:])
		if err != nil {
			t.Fatal(err)
		}
		if err := checkCommitment(r, mk); enough != (err == nil) || (!enough && !errors.Is(err, ErrCommitment)) {
			t.Errorf("%d of 4 needed, joined: %v", m, err)
		}
		mk.Destroy()
	}
	for name, bad := range map[string][]Share{"none": {}, "one": shares[:1], "one twice": {shares[0], shares[0]}} {
		if mk, err := joinShares(bad); err == nil {
			mk.Destroy()
			t.Errorf("%s: combined", name)
		}
	}
}

// Every share is part of a combination before anybody relies on the record, each
// with as many of its group as it takes.
func TestI10_EveryShareIsInACombination(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var groups []Group
		var shares []Share
		for range rapid.IntRange(1, MaxGroups).Draw(t, "groups") {
			n := rapid.IntRange(2, 20).Draw(t, "n")
			groups = append(groups, Group{Threshold: rapid.IntRange(2, n).Draw(t, "m"), Holders: make([]Holder, n)})
		}
		var groupOf []int
		for g := range groups {
			for range groups[g].Holders {
				shares = append(shares, Share{index: uint8(len(shares))})
				groupOf = append(groupOf, g)
			}
		}
		used := make(map[uint8]bool)
		for _, list := range covering(groups, shares) {
			given, seen := make([]int, len(groups)), make(map[uint8]bool)
			for _, s := range list {
				if seen[s.index] {
					t.Fatalf("share %d twice in %v", s.index, list)
				}
				seen[s.index], used[s.index] = true, true
				given[groupOf[s.index]]++
			}
			for g := range groups {
				if given[g] != groups[g].Threshold {
					t.Fatalf("%d of group %d, want %d", given[g], g, groups[g].Threshold)
				}
			}
		}
		if len(used) != len(shares) {
			t.Fatalf("%d of %d shares", len(used), len(shares))
		}
	})
}

// A share that the manifest takes for the right one and that is not of the secret
// fails the ceremony, wherever it stands.
func TestI10_AShareThatDoesNotFitFailsTheCeremony(t *testing.T) {
	r, shares := internalSeal(t, 5, 2)
	if err := prove(t.Context(), Ceremony{}, r, shares, nil); err != nil {
		t.Fatal(err)
	}
	for i := range shares {
		b := bytes.Repeat([]byte{byte(i + 1)}, shareSize)
		b[shareSize-1] = shares[i].x
		wrong := shares[i]
		var err error
		if wrong.secret, err = memsec.Take(b, memsec.Cold); err != nil {
			t.Fatal(err)
		}
		h, err := wrong.hash()
		if err != nil {
			t.Fatal(err)
		}
		pb := r.Proto()
		pb.Manifest.Holders[i].ShareHash = h[:]
		some := slices.Clone(shares)
		some[i] = wrong
		damaged, err := newRecord(pb)
		if err != nil {
			t.Fatal(err)
		}
		if err := prove(t.Context(), Ceremony{}, damaged, some, nil); !errors.Is(err, ErrCommitment) {
			t.Errorf("share %d: %v", i+1, err)
		}
		wrong.Destroy()
	}
}

// fullRecord has every field set, also those that exclude each other: for the
// digest only.
func fullRecord() *sealpb.Record {
	return &sealpb.Record{
		Format: 2,
		Manifest: &sealpb.Manifest{
			Format: 2, KeyspaceId: []byte{1}, ClusterId: []byte{2}, CeremonyId: []byte{3}, Generation: 4, Mode: 1, Threshold: 5,
			Holders: []*sealpb.Holder{
				{
					Index: 1, X: 2, Kind: 1, Recipient: "a", ShareHash: []byte{1}, EncryptedShardHash: []byte{2}, Group: 3,
					Name: "n", ProviderKey: &sealpb.ProviderKey{Provider: "a", Key: "b"}, Domain: &sealpb.Domain{ProviderType: "t", Account: "a", Region: "r"},
				},
				{
					Index: 2, X: 3, Kind: 2, Recipient: "b", ShareHash: []byte{3}, EncryptedShardHash: []byte{4}, Group: 5,
					Name: "m", ProviderKey: &sealpb.ProviderKey{Provider: "c", Key: "d"}, Domain: &sealpb.Domain{ProviderType: "u", Account: "b", Region: "s"},
				},
			},
			ProviderKeys: []*sealpb.ProviderKey{{Provider: "a", Key: "b"}}, MasterKeyCommitment: []byte{6},
			SignedIntents: [][]byte{{7}, {8}}, CreateTimeUnixNano: 9,
			Groups: []*sealpb.Group{{Name: "g", Threshold: 1}, {Name: "h", Threshold: 2}}, PreviousManifest: []byte{7}, Kind: 2, AcceptedRisks: []string{"r", "s"},
		},
		Wrappings:   []*sealpb.Wrapping{{ProviderKey: &sealpb.ProviderKey{Provider: "a", Key: "b"}, KeyVersion: "c", WrappedKey: []byte{1}, Nonce: []byte{2}, SealedMasterKey: []byte{3}, CreateTimeUnixNano: 4}},
		Shards:      []*sealpb.Shard{{Index: 1, EncryptedShard: []byte{2}}},
		GroupSeal:   &sealpb.GroupSeal{Nonce: []byte{1}, SealedMasterKey: []byte{2}},
		CarriedKeys: []*sealpb.CarriedKey{{Generation: 1, Nonce: []byte{2}, Sealed: []byte{3}}, {Generation: 2, Nonce: []byte{3}, Sealed: []byte{4}}},
	}
}

// leaves calls fn with every field of m and of the messages in it, and a way
// to change it.
func leaves(path string, m protoreflect.Message, fn func(path string, change func())) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		at := path + "." + string(fd.Name())
		switch {
		case fd.IsList() && fd.Message() != nil:
			for j := range m.Get(fd).List().Len() {
				leaves(fmt.Sprintf("%s[%d]", at, j), m.Get(fd).List().Get(j).Message(), fn)
			}
			fn(at+" (cut)", func() { m.Mutable(fd).List().Truncate(m.Get(fd).List().Len() - 1) })
		case fd.IsList():
			fn(at, func() { m.Mutable(fd).List().Set(0, otherValue(fd)) })
			fn(at+" (cut)", func() { m.Mutable(fd).List().Truncate(m.Get(fd).List().Len() - 1) })
		case fd.Message() != nil:
			leaves(at, m.Get(fd).Message(), fn)
			fn(at+" (absent)", func() { m.Clear(fd) })
		default:
			fn(at, func() { m.Set(fd, otherValue(fd)) })
		}
	}
}

func otherValue(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{99, 100})
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("other")
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(99)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(99)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(99)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(99)
	}
	panic("a kind of field that the digest does not know: " + fd.Kind().String())
}

// A field that is added to the proto and forgotten in the digest fails here.
func TestI5_EveryFieldDecidesTheDigest(t *testing.T) {
	base := Record{pb: fullRecord()}
	seen := map[Digest]string{base.Digest(): "unchanged"}
	seenManifest := map[Digest]string{base.ManifestDigest(): "unchanged"}
	var paths []string
	leaves("", fullRecord().ProtoReflect(), func(path string, _ func()) { paths = append(paths, path) })
	if len(paths) < 75 {
		t.Fatalf("only %d fields found", len(paths))
	}
	for i, path := range paths {
		pb, n := fullRecord(), 0
		leaves("", pb.ProtoReflect(), func(_ string, change func()) {
			if n == i {
				change()
			}
			n++
		})
		r := Record{pb: pb}
		if was, dup := seen[r.Digest()]; dup {
			t.Errorf("digest after changing %s is that of %s", path, was)
		}
		seen[r.Digest()] = path
		if !bytes.HasPrefix([]byte(path), []byte(".manifest")) {
			continue
		}
		if was, dup := seenManifest[r.ManifestDigest()]; dup {
			t.Errorf("manifest digest after changing %s is that of %s", path, was)
		}
		seenManifest[r.ManifestDigest()] = path
	}
}

func TestDigestDoesNotMovePartsBetweenFields(t *testing.T) {
	a, b := fullRecord(), fullRecord()
	a.Wrappings[0].KeyVersion, a.Wrappings[0].WrappedKey = "ab", []byte("c")
	b.Wrappings[0].KeyVersion, b.Wrappings[0].WrappedKey = "a", []byte("bc")
	if (Record{pb: a}).Digest() == (Record{pb: b}).Digest() {
		t.Error("two records have one digest")
	}
}

// The share hash is over the whole share, bound to its place. Computed here
// from the definition, with nothing of the implementation.
func TestShareHashIsAsDefined(t *testing.T) {
	r, shares := internalSeal(t, 2, 2)
	for _, s := range shares {
		var room [wireSize]byte
		wire, err := s.ForCluster(Fingerprint{1}).appendWire(room[:0])
		if err != nil {
			t.Fatal(err)
		}
		in := "\x00\x00\x00\x0dkrypton/share" + "\x00\x00\x00\x10" + string(s.keyspace[:]) + "\x00\x00\x00\x10" + string(s.ceremony[:]) +
			"\x00\x00\x00\x04\x00\x00\x00" + string([]byte{s.index}) + "\x00\x00\x00\x21" + string(wire[len(wire)-33:])
		want := sha256.Sum256([]byte(in))
		if got := r.pb.GetManifest().GetHolders()[s.index-1].GetShareHash(); !bytes.Equal(got, want[:]) {
			t.Errorf("share %d: %x, want %x", s.index, got, want)
		}
	}
}

func TestBinaryFormsThatAreNoSharesAreRefused(t *testing.T) {
	_, shares := internalSeal(t, 2, 2)
	sound := func() []byte {
		b, err := shares[0].ForCluster(Fingerprint{1}).appendWire(make([]byte, 0, wireSize))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	zero := func(from, to int) []byte { b := sound(); clear(b[from:to]); return b }
	for name, b := range map[string][]byte{
		"empty": {}, "short": sound()[:wireSize-1], "long": append(sound(), 0),
		"version 0": zero(0, 1), "no cluster": zero(1, 17), "no keyspace": zero(17, 33), "no ceremony": zero(33, 49),
		"generation 0": zero(49, 53), "number 0": zero(53, 54), "x = 0": zero(86, 87),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseWire(b)
			s.Destroy()
			if !errors.Is(err, ErrShareText) {
				t.Errorf("got %v", err)
			}
			for _, v := range b {
				if v != 0 {
					t.Fatal("the refused share was not wiped")
				}
			}
		})
	}
	b := sound()
	s, err := parseWire(b)
	if err != nil {
		t.Fatal(err)
	}
	s.Destroy()
	if !bytes.Equal(b, make([]byte, wireSize)) {
		t.Error("the parsed share was not wiped")
	}
}

// A checksum keeps a fuzzer out; this one starts behind it.
func FuzzParseShareWire(f *testing.F) {
	b := make([]byte, wireSize)
	for i := range b {
		b[i] = byte(i + 1)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		s, err := parseWire(b)
		if err != nil {
			return
		}
		defer s.Destroy()
		var room [wireSize]byte
		again, err := s.appendWire(room[:0])
		if err != nil || !bytes.Equal(again, before) {
			t.Errorf("%x became %x (%v)", before, again, err)
		}
	})
}

// The hash in the manifest keeps a fuzzer out of a record's shards; this one starts
// behind it.
func FuzzKeystoreShard(f *testing.F) {
	h := &sealpb.Holder{ProviderKey: &sealpb.ProviderKey{Provider: "p", Key: "k"}}
	b, err := proto.Marshal(&sealpb.KeystoreShard{
		ProviderKey: h.GetProviderKey(), KeyVersion: "1", WrappedKey: []byte{1}, Nonce: make([]byte, 12), SealedShare: make([]byte, 49), CreateTimeUnixNano: 1,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(bytes.Clone(b), 0xf8, 0x07, 0x01))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := keystoreShard(h, b)
		if err != nil {
			return
		}
		if err := x.check(shareSize); err != nil || len(x.sealed) != shareSize+memsec.Overhead {
			t.Errorf("accepted and not sound: %v", err)
		}
	})
}

// What opened an age file is a share or is refused, and what is accepted is the
// same in its other form.
func FuzzReadShard(f *testing.F) {
	b := make([]byte, wireSize)
	for i := range b {
		b[i] = byte(i + 1)
	}
	f.Add(bytes.Clone(b))
	clear(b[1 : 1+fingerprintPrefix])
	f.Add(b)
	f.Add(append(bytes.Clone(b), 0))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 1 || len(b) > memsec.MaxLen {
			return
		}
		plain, err := memsec.Take(bytes.Clone(b), memsec.Cold)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Destroy()
		s, err := ReadShard(plain)
		if err != nil {
			if !errs.Is(err, errs.ShareRefused) {
				t.Errorf("%v", err)
			}
			return
		}
		defer s.Destroy()
		var room [wireSize]byte
		again, err := s.ForCluster(Fingerprint(bytes.Repeat([]byte{1}, 32))).appendWire(room[:0])
		if err != nil || !bytes.Equal(again[1+fingerprintPrefix:], b[1+fingerprintPrefix:]) {
			t.Errorf("%x became %x (%v)", b, again, err)
		}
	})
}

// The valid strings of BIP-350 that fit: prefix, data and checksum.
func TestChecksumIsThatOfBech32m(t *testing.T) {
	for _, text := range []string{
		"a1lqfn3a",
		"an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
		"abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
		"?1v759aa",
	} {
		split := strings.LastIndexByte(text, '1')
		var symbols []byte
		for _, c := range []byte(text[split+1:]) {
			symbols = append(symbols, byte(strings.IndexByte(alphabet, c)))
		}
		data, sum := symbols[:len(symbols)-checksumSize], [checksumSize]byte(symbols[len(symbols)-checksumSize:])
		if got := polymod(text[:split], data, sum); got != bech32m {
			t.Errorf("%s: %#x", text, got)
		}
	}
}

// The last symbol has bits that no byte needs; with any of them set the text
// would be another text of the same share, under a right checksum.
func TestAShareHasOneText(t *testing.T) {
	_, shares := internalSeal(t, 2, 2)
	wire, err := shares[0].ForCluster(Fingerprint{1}).appendWire(make([]byte, 0, wireSize))
	if err != nil {
		t.Fatal(err)
	}
	for filling := range byte(16) {
		var symbols [textSymbols]byte
		toSymbols(symbols[:dataSymbols], wire)
		symbols[dataSymbols-1] |= filling
		sum := polymod(textPrefix, symbols[:dataSymbols], [checksumSize]byte{}) ^ bech32m
		for i := range checksumSize {
			symbols[dataSymbols+i] = byte(sum >> (5 * (checksumSize - 1 - i)) & 31)
		}
		text := []byte(textHead)
		for _, v := range symbols {
			text = append(text, alphabet[v])
		}
		s, err := ParseShare(text)
		s.Destroy()
		if (err == nil) != (filling == 0) || (err != nil && !errors.Is(err, ErrShareText)) {
			t.Errorf("filling %04b: %v", filling, err)
		}
	}
}

func TestGoldenRecordsAndSharesOfFormat1(t *testing.T) {
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("testdata", "v1", name))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.TrimSpace(b)
	}
	r, err := ReadFile(filepath.Join("testdata", "v1", "record.pb"), hierarchy.KeyspaceID{})
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Digest(); hex.EncodeToString(d[:]) != string(read("record.digest")) {
		t.Errorf("digest %x", d)
	}
	if d := r.ManifestDigest(); hex.EncodeToString(d[:]) != string(read("manifest.digest")) {
		t.Errorf("manifest digest %x", d)
	}
	var shares []Share
	for _, name := range []string{"share-3.txt", "share-1.txt"} {
		s, err := ParseShare(read(name))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Destroy()
		h, err := s.hash()
		if err != nil || !bytes.Equal(h[:], r.pb.GetManifest().GetHolders()[s.index-1].GetShareHash()) {
			t.Errorf("%s: hash %x, %v", name, h, err)
		}
		var out bytes.Buffer
		if err := s.Print(&out); err != nil || !bytes.Equal(bytes.TrimSpace(out.Bytes()), read(name)) {
			t.Errorf("%s prints otherwise today (%v)", name, err)
		}
		shares = append(shares, s)
	}
	mk, err := combine(r, shares) // checks the commitment in the record
	if err != nil {
		t.Fatal(err)
	}
	defer mk.Destroy()
	want, err := hex.DecodeString(string(read("masterkey.hex")))
	if err != nil {
		t.Fatal(err)
	}
	if !revealed(t, mk, want) {
		t.Error("another MasterKey came out")
	}
	if !proto.Equal(r.pb.GetManifest(), r.Proto().GetManifest()) || r.Threshold() != 2 || r.Shares() != 3 || r.Generation() != 7 {
		t.Errorf("%v", r.pb.GetManifest())
	}
}

func revealed(t *testing.T, s memsec.Secret, want []byte) bool {
	t.Helper()
	w, err := memsec.Take(want, memsec.Hot)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Destroy()
	eq, err := memsec.Equal(s, w)
	return err == nil && eq
}
