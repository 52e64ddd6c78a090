package stream_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/stream"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// infoOf is the AAD of doc.go, written a second time. head is all before the body.
func infoOf(head []byte, context map[string]string, added []byte) []byte {
	lp := func(b []byte, p string) []byte {
		return append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	out := lp(nil, "krypton/v1/stream")
	out = append(out, head[:8+4+binary.BigEndian.Uint32(head[8:])]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(context)))
	for _, k := range slices.Sorted(maps.Keys(context)) {
		out = lp(lp(out, k), context[k])
	}
	if len(added) != 0 {
		out = lp(out, string(added))
	}
	return out
}

// body is a second implementation of the body, over the standard library alone.
type body struct {
	gcm    cipher.AEAD
	prefix []byte
}

func newBody(t testing.TB, key, start, info []byte) (b body, derived []byte) {
	t.Helper()
	derived, err := hkdf.Key(sha256.New, key, start[1:33], string(info), 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		t.Fatal(err)
	}
	b.prefix = start[33:40]
	if b.gcm, err = cipher.NewGCM(block); err != nil {
		t.Fatal(err)
	}
	return b, derived
}

func (b body) nonce(i int64, last bool) []byte {
	n := binary.BigEndian.AppendUint32(bytes.Clone(b.prefix), uint32(i))
	if last {
		return append(n, 1)
	}
	return append(n, 0)
}

// sparse is a stream of any size that nobody wrote: segments are made when they
// are read. A byte of the plaintext is a function of its offset.
type sparse struct {
	body

	head         []byte // all before the first segment
	seg          int64
	size, plain  int64
	fetched      map[int64]bool
	askedForLong bool
}

func byteAt(off int64) byte {
	return byte(off ^ off>>8 ^ off>>16 ^ off>>24 ^ off>>32 ^ off>>40 ^ off>>48)
}

func newSparse(t testing.TB, k *keys, seg int, plain int64) *sparse {
	t.Helper()
	ct := encrypt(t, k, stream.Options{Scope: scope, SegmentSize: seg}, nil)
	at := bodyAt(t, ct)
	h, err := stream.ReadHeader(bytes.NewReader(ct))
	if err != nil {
		t.Fatal(err)
	}
	s := &sparse{head: ct[:at+40], seg: int64(seg), plain: plain, fetched: map[int64]bool{}}
	s.body, _ = newBody(t, k.known[string(h.Wrapped)].key, ct[at:], infoOf(ct[:at], scope.Context, nil))
	segments := (plain + 40 + s.seg - 16 - 1) / (s.seg - 16)
	s.size = int64(len(s.head)) + plain + 16*segments
	return s
}

// ReadAt serves the head, and exactly whole segments.
func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	if int64(len(p)) > s.seg {
		s.askedForLong = true
	}
	if off == 0 {
		clear(p)
		return copy(p, s.head) + len(p[min(len(p), len(s.head)):]), nil
	}
	base := int64(len(s.head)) - 40
	i := (off - base) / s.seg
	from, to := i*(s.seg-16)-40, min((i+1)*(s.seg-16)-40, s.plain)
	if i == 0 {
		from = 0
	}
	last := to == s.plain
	s.fetched[i] = true
	text := make([]byte, to-from)
	for j := range text {
		text[j] = byteAt(from + int64(j))
	}
	return copy(p, s.gcm.Seal(nil, s.nonce(i, last), text, nil)), nil
}

func TestStreamsOfAnySizeAreReadAtAnyOffset(t *testing.T) {
	k := newKeys()
	for _, tt := range []struct {
		seg  int
		size int64
	}{
		{stream.Segment64KiB, 4<<30 - 1},
		{stream.Segment64KiB, 4<<30 + 123},
		{stream.Segment64KiB, 5 << 40},
		{stream.Segment64KiB, stream.MaxPlaintext(stream.Segment64KiB) - 1},
		{stream.Segment64KiB, stream.MaxPlaintext(stream.Segment64KiB)},
		{stream.Segment1MiB, 4<<30 + 123},
		{stream.Segment1MiB, stream.MaxPlaintext(stream.Segment1MiB)},
	} {
		s := newSparse(t, k, tt.seg, tt.size)
		r, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, s, s.size)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		if r.Size() != tt.size {
			t.Errorf("%+v: size %d", tt, r.Size())
		}
		p := make([]byte, tt.seg)
		for _, off := range []int64{0, tt.size / 3, 1<<32 - 10, 1<<31 - 10, tt.size - 20, tt.size - int64(tt.seg)} {
			n, err := r.ReadAt(p, off)
			if want := min(int64(len(p)), tt.size-off); int64(n) != want || (err != nil) != (n < len(p)) {
				t.Errorf("%+v at %d: %d bytes, %v", tt, off, n, err)
			}
			for j := range p[:n] {
				if p[j] != byteAt(off+int64(j)) {
					t.Fatalf("%+v at %d: byte %d is wrong", tt, off, j)
				}
			}
		}
		if len(s.fetched) > 14 || s.askedForLong {
			t.Errorf("%+v: %d segments were read, %v", tt, len(s.fetched), s.askedForLong)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMoreThanTheFormatHoldsIsRefusedByName(t *testing.T) {
	for seg, want := range map[int]int64{
		stream.Segment64KiB: 281_406_257_168_360,   // (2^32-1)(2^16-16)-40
		stream.Segment1MiB:  4_503_530_906_845_160, // (2^32-1)(2^20-16)-40
		1234:                0,
	} {
		if got := stream.MaxPlaintext(seg); got != want {
			t.Errorf("MaxPlaintext(%d) = %d", seg, got)
		}
	}
	k := newKeys()
	for _, seg := range []int{stream.Segment64KiB, stream.Segment1MiB} {
		most := stream.MaxPlaintext(seg)
		// Reading.
		s := newSparse(t, k, seg, most+1)
		if _, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, s, s.size); !errs.Is(err, errs.TooLarge) {
			t.Errorf("%d: reading one byte more: %v", seg, err)
		}
		// Writing: as if all but ten bytes had been written.
		var out bytes.Buffer
		e, err := stream.NewEncryptor(t.Context(), k, stream.Options{Scope: scope, SegmentSize: seg}, &out)
		if err != nil {
			t.Fatal(err)
		}
		stream.SetRoom(e, 10)
		if n, err := e.Write(make([]byte, 9)); n != 9 || err != nil {
			t.Errorf("%d: %d bytes, %v", seg, n, err)
		}
		for range 2 {
			if n, err := e.Write(make([]byte, 2)); n != 0 || !errs.Is(err, errs.TooLarge) {
				t.Errorf("%d: %d bytes, %v", seg, n, err)
			}
		}
		before := out.Len()
		if err := e.Close(); !errs.Is(err, errs.TooLarge) || out.Len() != before {
			t.Errorf("%d: it got an end, %v", seg, err)
		}
		if _, err := e.EncryptedSize(most + 1); !errs.Is(err, errs.TooLarge) {
			t.Errorf("%d: size of too much: %v", seg, err)
		}
		if n, err := e.EncryptedSize(most); err != nil || n != s.size-17 { // one byte, and the tag of its segment
			t.Errorf("%d: size of the most: %d, want %d, %v", seg, n, s.size-17, err)
		}
	}
}

func TestSizesAreKnownBeforeAndAfter(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seg := rapid.SampledFrom([]int{stream.Segment64KiB, stream.Segment1MiB}).Draw(rt, "segment")
		n := rapid.OneOf(rapid.SampledFrom(sizes(seg)), rapid.IntRange(0, 300_000)).Draw(rt, "size")
		var out bytes.Buffer
		e, err := stream.NewEncryptor(t.Context(), newKeys(), stream.Options{Scope: scope, SegmentSize: seg}, &out)
		if err != nil {
			rt.Fatal(err)
		}
		want, err := e.EncryptedSize(int64(n))
		if err != nil {
			rt.Fatal(err)
		}
		if _, err := e.Write(make([]byte, n)); err != nil {
			rt.Fatal(err)
		}
		if err := e.Close(); err != nil {
			rt.Fatal(err)
		}
		if int64(out.Len()) != want {
			rt.Fatalf("%d bytes give %d, %d were said", n, out.Len(), want)
		}
		h, err := stream.ReadHeader(&out)
		if err != nil {
			rt.Fatal(err)
		}
		if got, err := h.PlaintextSize(want); err != nil || got != int64(n) {
			rt.Fatalf("a stream of %d bytes holds %d, want %d, %v", want, got, n, err)
		}
	})
}

func TestSizesThatNoStreamHas(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, nil)
	h, err := stream.ReadHeader(bytes.NewReader(ct))
	if err != nil {
		t.Fatal(err)
	}
	empty, full := int64(len(ct)), int64(len(ct)-56+stream.Segment64KiB)
	for _, n := range []int64{math.MinInt64, -1, 0, 100, empty - 1, full + 1, full + 15} {
		if got, err := h.PlaintextSize(n); !errs.Is(err, errs.Integrity) {
			t.Errorf("%d: %d, %v", n, got, err)
		}
	}
	if _, err := h.PlaintextSize(math.MaxInt64); !errs.Is(err, errs.TooLarge) {
		t.Error(err)
	}
	if _, err := h.EncryptedSize(-1); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if _, err := h.EncryptedSize(math.MaxInt64); !errs.Is(err, errs.TooLarge) {
		t.Error(err)
	}
	if _, err := (stream.Header{}).EncryptedSize(1); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if _, err := (stream.Header{}).PlaintextSize(1000); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
}

func TestI3_TheBodyIsBoundToTheAADOfTheCaller(t *testing.T) {
	k, aad := newKeys(), []byte("object 7\x00\xff")
	opts := stream.Options{Scope: scope, AAD: aad}
	ct := encrypt(t, k, opts, []byte("hello"))
	try := func(aad []byte) error {
		o := stream.Options{Scope: scope, AAD: aad}
		d, err := stream.NewDecryptor(t.Context(), k, o, bytes.NewReader(ct))
		if err != nil {
			t.Fatal(err) // the cluster knows nothing of it
		}
		_, err = io.ReadAll(d)
		_, errAt := stream.NewReaderAt(t.Context(), k, o, bytes.NewReader(ct), int64(len(ct)))
		if (err == nil) != (errAt == nil) || errs.Of(err) != errs.Of(errAt) {
			t.Errorf("%q: %v in one piece, %v at an offset", aad, err, errAt)
		}
		return err
	}
	if err := try(bytes.Clone(aad)); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]byte{nil, {}, aad[:9], append(bytes.Clone(aad), 0), []byte("object 8\x00\xff")} {
		if err := try(bad); !errs.Is(err, errs.Integrity) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// A rewrap needs no AAD, and keeps it.
	var out bytes.Buffer
	if _, err := stream.Rewrap(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct), &out); err != nil {
		t.Fatal(err)
	}
	d, err := stream.NewDecryptor(t.Context(), k, opts, &out)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(d); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	// Empty is absent, and both are what there was before AAD.
	for _, none := range [][]byte{nil, {}} {
		plain := encrypt(t, newKeys(), stream.Options{Scope: scope, AAD: none, Rand: zeros{}}, []byte("hello"))
		if !bytes.Equal(plain, encrypt(t, newKeys(), stream.Options{Scope: scope, Rand: zeros{}}, []byte("hello"))) {
			t.Error("an empty AAD changes the stream")
		}
	}
}

func TestAADBeyondTheLimitIsRefusedByName(t *testing.T) {
	k := newKeys()
	most := stream.Options{Scope: scope, AAD: make([]byte, stream.MaxAAD)}
	ct := encrypt(t, k, most, []byte("hello"))
	if d, err := stream.NewDecryptor(t.Context(), k, most, bytes.NewReader(ct)); err != nil {
		t.Error(err)
	} else if got, err := io.ReadAll(d); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	more := stream.Options{Scope: scope, AAD: make([]byte, stream.MaxAAD+1)}
	_, err1 := stream.NewEncryptor(t.Context(), k, more, io.Discard)
	_, err2 := stream.NewDecryptor(t.Context(), k, more, bytes.NewReader(ct))
	_, err3 := stream.NewReaderAt(t.Context(), k, more, bytes.NewReader(ct), int64(len(ct)))
	for i, err := range []error{err1, err2, err3} {
		if !errs.Is(err, errs.TooLarge) {
			t.Errorf("case %d: %v", i, err)
		}
	}
}

// TestNoTwoContextsAndAADsAreBoundAlike looks for two inputs with the same bytes
// in the derivation, with parts that are themselves encodings of parts.
func TestNoTwoContextsAndAADsAreBoundAlike(t *testing.T) {
	part := rapid.SampledFrom([]string{"", "a", "\x00", "\x00\x00\x00\x01", "\x00\x00\x00\x01a", "\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x01a\x00\x00\x00\x01a"})
	draw := func(rt *rapid.T, name string) (map[string]string, string) {
		return rapid.MapOfN(part, part, 0, 3).Draw(rt, name), part.Draw(rt, name+" AAD")
	}
	h := stream.Header{Service: "tenants/demo/services/payments", SegmentSize: stream.Segment64KiB}
	seen := map[string]string{}
	rapid.Check(t, func(rt *rapid.T) {
		c, a := draw(rt, "context")
		what, bound := fmt.Sprintf("%q %q", c, a), string(stream.AAD(h, c, []byte(a)))
		if was, ok := seen[bound]; ok && was != what {
			rt.Fatalf("%s and %s are bound alike", was, what)
		}
		seen[bound] = what
	})
}

// vector is a stream whose every input is known. Bytes are in hex. Byte i of the
// plaintext is the low 8 bits of i*31>>3.
type vector struct {
	Name          string            `json:"name"`
	Service       string            `json:"service"`
	Resource      string            `json:"resource,omitempty"`
	Context       map[string]string `json:"context,omitempty"`
	AAD           string            `json:"aad,omitempty"`
	DataKey       string            `json:"data_key"`
	Salt          string            `json:"salt"`
	Prefix        string            `json:"nonce_prefix"`
	SegmentSize   int               `json:"segment_size"`
	PlaintextSize int               `json:"plaintext_size"`
	Header        string            `json:"header"`
	Info          string            `json:"info"`
	Key           string            `json:"key"`
	Segments      []segmentVector   `json:"segments"`
	Size          int               `json:"size"`
	SHA256        string            `json:"sha256"`
}

type segmentVector struct {
	Offset          int    `json:"offset"`
	Size            int    `json:"size"`
	Nonce           string `json:"nonce"`
	PlaintextOffset int    `json:"plaintext_offset"`
	PlaintextSize   int    `json:"plaintext_size"`
	Tag             string `json:"tag"`
}

// TestVectorsStillHold checks the vectors three ways: the package makes the same
// stream, a second implementation gives the same derivation and segments, and
// every segment is found where the vector says.
func TestVectorsStillHold(t *testing.T) {
	file := filepath.Join("testdata", "vectors.json")
	inputs := []stream.Options{
		{Scope: client.Scope{Service: "tenants/demo/services/payments"}},
		{Scope: scope},
		{Scope: scope, AAD: []byte("object 7")},
		{Scope: scope, AAD: []byte("object 7")},
		{Scope: scope, AAD: []byte{0}, SegmentSize: stream.Segment1MiB},
	}
	lengths := []int{0, 100, 65480, 65480 + 65520 + 1, 2_100_000}
	fresh := make([]vector, len(inputs))
	streams := make([][]byte, len(inputs))
	for i, o := range inputs {
		k := newKeys()
		o.Rand = zeros{}
		streams[i] = encrypt(t, k, o, pattern(lengths[i]))
		fresh[i] = describe(t, k, o, streams[i], lengths[i])
	}
	if _, err := os.Stat(file); *writeGolden && os.IsNotExist(err) {
		b, err := json.MarshalIndent(fresh, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want []vector
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, fresh); diff != "" {
		t.Errorf("the same input gives another stream now:\n%s", diff)
	}
	for i, v := range want {
		if sum := sha256.Sum256(streams[i]); hex.EncodeToString(sum[:]) != v.SHA256 {
			t.Errorf("%s: the stream has SHA-256 %x", v.Name, sum)
		}
	}
}

// describe takes a stream apart with the second implementation.
func describe(t *testing.T, k *keys, o stream.Options, ct []byte, n int) vector {
	t.Helper()
	at := bodyAt(t, ct)
	h, err := stream.ReadHeader(bytes.NewReader(ct))
	if err != nil {
		t.Fatal(err)
	}
	key, info := k.known[string(h.Wrapped)].key, infoOf(ct[:at], o.Scope.Context, o.AAD)
	b, derived := newBody(t, key, ct[at:], info)
	sum := sha256.Sum256(ct)
	v := vector{
		Name:    fmt.Sprintf("%d bytes, segments of %d, context of %d, AAD of %d bytes", n, h.SegmentSize, len(o.Scope.Context), len(o.AAD)),
		Service: h.Service, Resource: h.Resource, Context: o.Scope.Context, AAD: hex.EncodeToString(o.AAD),
		DataKey: hex.EncodeToString(key), Salt: hex.EncodeToString(ct[at+1 : at+33]), Prefix: hex.EncodeToString(ct[at+33 : at+40]),
		SegmentSize: h.SegmentSize, PlaintextSize: n, Header: hex.EncodeToString(ct[:at]),
		Info: hex.EncodeToString(info), Key: hex.EncodeToString(derived), Size: len(ct), SHA256: hex.EncodeToString(sum[:]),
	}
	plain := pattern(n)
	for i, off, rest := int64(0), at+40, 0; ; i++ {
		end := min(at+(int(i)+1)*h.SegmentSize, len(ct))
		nonce := b.nonce(i, end == len(ct))
		text, err := b.gcm.Open(nil, nonce, ct[off:end], nil)
		if err != nil || !bytes.Equal(text, plain[rest:rest+len(text)]) {
			t.Fatalf("segment %d: %d bytes, %v", i, len(text), err)
		}
		v.Segments = append(v.Segments, segmentVector{off, end - off, hex.EncodeToString(nonce), rest, len(text), hex.EncodeToString(ct[end-16 : end])})
		off, rest = end, rest+len(text)
		if end == len(ct) {
			if rest != n {
				t.Fatalf("%d of %d bytes", rest, n)
			}
			return v
		}
	}
}
