package stream_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/stream"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func openAt(t testing.TB, k stream.Keys, ct []byte) (*stream.ReaderAt, error) {
	t.Helper()
	return stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct), int64(len(ct)))
}

func mustOpenAt(t testing.TB, k stream.Keys, ct []byte) *stream.ReaderAt {
	t.Helper()
	r, err := openAt(t, k, ct)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// bodyAt is where the body of ct begins.
func bodyAt(t testing.TB, ct []byte) int {
	t.Helper()
	r := bytes.NewReader(ct)
	if _, err := stream.ReadHeader(r); err != nil {
		t.Fatal(err)
	}
	return len(ct) - r.Len()
}

// sizes are the borders of the first and the later segments.
func sizes(seg int) []int {
	first, later := seg-40-16, seg-16
	return []int{0, 1, 15, 16, first - 1, first, first + 1, first + later - 1, first + later, first + later + 1, first + 2*later, 3*seg + 7}
}

func TestReaderAtFollowsTheContractOfIO(t *testing.T) {
	for _, seg := range []int{stream.Segment64KiB, stream.Segment1MiB} {
		for _, n := range sizes(seg) {
			k, plain := newKeys(), pattern(n)
			r := mustOpenAt(t, k, encrypt(t, k, stream.Options{Scope: scope, SegmentSize: seg}, plain))
			if r.Size() != int64(n) {
				t.Errorf("segment %d, %d bytes: size %d", seg, n, r.Size())
			}
			got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("segment %d, %d bytes: %d bytes back, %v", seg, n, len(got), err)
			}
			if seg == stream.Segment64KiB { // reads every byte by itself, too
				if err := iotest.TestReader(io.NewSectionReader(r, 0, r.Size()), plain); err != nil {
					t.Errorf("%d bytes: %v", n, err)
				}
			}
			b := make([]byte, 10)
			for _, off := range []int64{int64(n), int64(n) + 1, math.MaxInt64} {
				if m, err := r.ReadAt(b, off); m != 0 || err != io.EOF { //nolint:errorlint // io.ReaderAt says io.EOF itself.
					t.Errorf("%d bytes at %d of %d: %v", m, off, n, err)
				}
			}
			if m, err := r.ReadAt(b, max(0, int64(n)-3)); m != min(n, 3) || err != io.EOF || !bytes.Equal(b[:m], plain[n-m:]) { //nolint:errorlint // As above.
				t.Errorf("across the end of %d: %d bytes, %v", n, m, err)
			}
			if m, err := r.ReadAt(nil, 0); m != 0 || err != nil {
				t.Errorf("nothing at 0: %d, %v", m, err)
			}
			if _, err := r.ReadAt(b, -1); !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("at -1: %v", err)
			}
		}
	}
}

func TestReaderAtAgreesWithTheReader(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seg := rapid.SampledFrom([]int{stream.Segment64KiB, stream.Segment64KiB, stream.Segment64KiB, stream.Segment1MiB}).Draw(rt, "segment")
		n := rapid.OneOf(rapid.SampledFrom(sizes(seg)), rapid.IntRange(0, 4*stream.Segment64KiB)).Draw(rt, "size")
		k, plain := newKeys(), pattern(n)
		ct := encrypt(t, k, stream.Options{Scope: scope, SegmentSize: seg}, plain)
		whole, err := decrypt(t, k, scope, ct)
		if err != nil || !bytes.Equal(whole, plain) {
			rt.Fatal(err)
		}
		r := mustOpenAt(t, k, ct)
		for range 8 {
			off := rapid.IntRange(0, n+10).Draw(rt, "offset")
			p := make([]byte, rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 3*seg)).Draw(rt, "length"))
			m, err := r.ReadAt(p, int64(off))
			want := whole[min(off, n):min(off+len(p), n)]
			if !bytes.Equal(p[:m], want) {
				rt.Fatalf("%d bytes at %d of %d: %d wrong bytes", len(p), off, n, m)
			}
			if (err != nil) != (m < len(p)) || (err != nil && err != io.EOF) { //nolint:errorlint // io.ReaderAt says io.EOF itself.
				rt.Fatalf("%d bytes at %d of %d: %d, %v", len(p), off, n, m, err)
			}
		}
	})
}

// TestI6_ADamagedStreamIsNeverReadWrongly damages a stream at random. Opening it
// or reading all of it must fail, and every byte on the way must be right.
func TestI6_ADamagedStreamIsNeverReadWrongly(t *testing.T) {
	const seg = stream.Segment64KiB
	k, plain := newKeys(), pattern(5*seg+1234)
	ct, other := encrypt(t, k, stream.Options{Scope: scope}, plain), encrypt(t, k, stream.Options{Scope: scope}, plain)
	body := bodyAt(t, ct)
	part := func(ct []byte, i int) []byte { return ct[body+i*seg+40 : body+i*seg+seg] } // the same room in every segment
	rapid.Check(t, func(rt *rapid.T) {
		bad, damage := bytes.Clone(ct), rapid.SampledFrom([]string{"flip", "cut", "cut at a segment", "append", "swap", "mix", "repeat", "drop"}).Draw(rt, "damage")
		i := rapid.IntRange(1, 4).Draw(rt, "segment") // each whole
		opens := false
		switch damage {
		case "flip":
			at := rapid.OneOf(rapid.IntRange(0, body+60), rapid.IntRange(0, len(bad)-1)).Draw(rt, "at")
			bad[at] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
			opens = at >= body+40 && at < body+5*seg
		case "cut":
			bad = bad[:rapid.IntRange(0, len(bad)-1).Draw(rt, "at")]
		case "cut at a segment":
			bad = bad[:body+i*seg]
		case "append":
			bad = append(bad, make([]byte, rapid.OneOf(rapid.IntRange(1, 40), rapid.Just(seg)).Draw(rt, "more"))...)
		case "swap":
			j := i%4 + 1
			copy(bad[body+i*seg:][:seg], ct[body+j*seg:])
			copy(bad[body+j*seg:][:seg], ct[body+i*seg:])
			opens = true
		case "mix":
			copy(part(bad, i), part(other, i))
			opens = true
		case "repeat":
			copy(bad[body+i*seg:][:seg], ct[body+(i%4+1)*seg:])
			opens = true
		case "drop":
			bad = slices.Delete(bad, body+i*seg, body+(i+1)*seg)
		}
		r, err := openAt(t, k, bad)
		if (err == nil) != opens {
			rt.Fatalf("%s: opens %v, %v", damage, opens, err)
		}
		if err != nil {
			if !errs.Is(err, errs.Integrity) {
				rt.Fatalf("%s: %v", damage, err)
			}
			return
		}
		got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
		if !errs.Is(err, errs.Integrity) || !bytes.HasPrefix(plain, got) {
			rt.Fatalf("%s: %d bytes, %v", damage, len(got), err)
		}
	})
}

func TestI6_TheSizeIsAuthenticBeforeTheFirstByte(t *testing.T) {
	const seg = stream.Segment64KiB
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, pattern(3*seg))
	body := bodyAt(t, ct)
	try := func(name string, bad []byte) {
		if r, err := openAt(t, k, bad); !errs.Is(err, errs.Integrity) {
			t.Errorf("%s: opened, %v, %v", name, r != nil, err)
		}
	}
	cuts := []int{0, 1, 8, body - 1, body, body + 39, body + 40, body + 41, body + 55, body + 56, body + 57, len(ct) - 17, len(ct) - 16, len(ct) - 1}
	for s := 1; s <= 3; s++ {
		for d := -17; d <= 17; d++ {
			cuts = append(cuts, body+s*seg+d)
		}
	}
	for _, n := range cuts {
		try(fmt.Sprintf("cut at %d of %d", n, len(ct)), ct[:n])
	}
	for _, n := range []int{1, 15, 16, 17, 40, seg} {
		try(fmt.Sprintf("%d bytes more", n), append(bytes.Clone(ct), make([]byte, n)...))
	}
	// The end of the same stream at another place, and one that is not the last.
	moved := append(bytes.Clone(ct[:body+2*seg]), ct[body+3*seg:]...)
	try("end moved", moved)
}

func TestI3_ReaderAtIsBoundToTheScopeOfTheCaller(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, []byte("hello"))
	for _, change := range []func(*client.Scope){
		func(s *client.Scope) { s.Service = "tenants/demo/services/other" },
		func(s *client.Scope) { s.Resource = "other!" },
		func(s *client.Scope) { s.Context = map[string]string{"a": "1"} },
	} {
		s := scope
		change(&s)
		for _, keys := range []stream.Keys{k, anyScope{k}, lenient{anyScope{k}}} {
			if _, err := stream.NewReaderAt(t.Context(), keys, stream.Options{Scope: s}, bytes.NewReader(ct), int64(len(ct))); !errs.Is(err, errs.Integrity) {
				t.Errorf("%+v: %v", s, err)
			}
		}
	}
	lie := bytes.Replace(ct, []byte("/versions/1"), []byte("/versions/9"), 1)
	if _, err := openAt(t, k, lie); !errs.Is(err, errs.Integrity) {
		t.Errorf("another version in the header: %v", err)
	}
}

func TestI4_ReaderAtWipesTheDataKey(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, pattern(100))
	mustOpenAt(t, k, ct)
	bad := bytes.Clone(ct)
	bad[len(bad)-1] ^= 1
	if _, err := openAt(t, k, bad); err == nil {
		t.Fatal("opened")
	}
	if len(k.issued) != 3 {
		t.Fatalf("%d keys issued", len(k.issued))
	}
	for i, s := range k.issued {
		if s.Bytes() != nil {
			t.Errorf("key %d is still there", i)
		}
	}
}

// changing is a source whose bytes, length and errors change between calls.
type changing struct {
	mu  sync.Mutex
	b   []byte
	err error
}

func (c *changing) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	return bytes.NewReader(c.b).ReadAt(p, off)
}

func (c *changing) set(b []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.b, c.err = b, err
}

func TestI1_AfterASegmentThatDoesNotOpenNothingIsReturned(t *testing.T) {
	const seg = stream.Segment64KiB
	k, plain := newKeys(), pattern(3*seg)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	bad := bytes.Clone(ct)
	bad[bodyAt(t, ct)+seg+5] ^= 1
	for name, b := range map[string][]byte{"flipped": bad, "cut since": ct[:len(ct)-2*seg], "empty since": nil} {
		src := &changing{b: ct}
		r, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, src, int64(len(ct)))
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 2*seg)
		if n, err := r.ReadAt(p[:100], 10); n != 100 || err != nil {
			t.Fatal(n, err)
		}
		kept := stream.Kept(r)
		src.set(b, nil)
		// The first segment is kept, the second does not open.
		n, err := r.ReadAt(p, 50)
		if n != seg-40-16-50 || !errs.Is(err, errs.Integrity) || !bytes.Equal(p[:n], plain[50:50+n]) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if !zero(kept) || stream.Kept(r) != nil {
			t.Errorf("%s: plaintext is kept after the error", name)
		}
		src.set(ct, nil) // good again
		for _, off := range []int64{0, 50, r.Size() - 1, r.Size() + 1} {
			if n, err := r.ReadAt(p[:1], off); n != 0 || !errs.Is(err, errs.Integrity) {
				t.Errorf("%s: afterwards %d bytes at %d, %v", name, n, off, err)
			}
		}
		if _, err := r.ReadAt(nil, 0); !errs.Is(err, errs.Integrity) {
			t.Errorf("%s: reading nothing afterwards: %v", name, err)
		}
	}
}

func TestASourceThatGrewIsReadAsItWas(t *testing.T) {
	k, plain := newKeys(), pattern(100_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	src := &changing{b: ct}
	r, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, src, int64(len(ct)))
	if err != nil {
		t.Fatal(err)
	}
	src.set(append(bytes.Clone(ct), "more"...), nil)
	if got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size())); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestErrorsOfTheSourceAreItsOwnAndPass(t *testing.T) {
	k, plain := newKeys(), pattern(200_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	for _, boom := range []error{errors.New("disk on fire"), io.ErrUnexpectedEOF, fmt.Errorf("connection lost: %w", io.EOF)} {
		src := &changing{b: ct, err: boom}
		if _, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, src, int64(len(ct))); err != boom { //nolint:errorlint // As it is.
			t.Errorf("opening: %v", err)
		}
		src.set(ct, nil)
		r, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, src, int64(len(ct)))
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 100)
		src.set(ct, boom)
		for range 2 {
			if n, err := r.ReadAt(p, 0); n != 0 || err != boom { //nolint:errorlint // As it is.
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		src.set(ct, nil)
		if n, err := r.ReadAt(p, 0); n != 100 || err != nil || !bytes.Equal(p, plain[:100]) {
			t.Errorf("after %v: %d bytes, %v", boom, n, err)
		}
	}
}

// silent says that it read less than it was asked for, and not why.
type silent struct{ *bytes.Reader }

func (s silent) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.Reader.ReadAt(p, off)
	return n / 2, err
}

func TestASourceThatBreaksItsContractIsRefused(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, pattern(100))
	if _, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, silent{bytes.NewReader(ct)}, int64(len(ct))); !errs.Is(err, errs.Integrity) {
		t.Error(err)
	}
	if _, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct), -1); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if _, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct), math.MaxInt64); !errs.Is(err, errs.Integrity) {
		t.Error("a size that the source does not have:", err)
	}
}

func zero(b []byte) bool {
	return !slices.ContainsFunc(b[:cap(b)], func(c byte) bool { return c != 0 })
}

func TestI7_PlaintextIsWipedWhenItIsReplacedAndOnClose(t *testing.T) {
	k, plain := newKeys(), pattern(3*stream.Segment64KiB)
	r := mustOpenAt(t, k, encrypt(t, k, stream.Options{Scope: scope}, plain))
	p := make([]byte, 10)
	seen := func(what string, old []byte) {
		t.Helper()
		if len(old) == 0 || !zero(old) {
			t.Errorf("%s: %d bytes of plaintext are left", what, len(old))
		}
	}
	last := stream.Kept(r)
	if !bytes.HasSuffix(plain, last) || len(last) == 0 {
		t.Fatalf("%d bytes are kept", len(last))
	}
	if _, err := r.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	seen("replaced", last)
	first := stream.Kept(r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	seen("closed", first)
	if _, err := r.ReadAt(p, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := r.Close(); err != nil || stream.Kept(r) != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestReadsFromManyGoroutines(t *testing.T) {
	const seg = stream.Segment64KiB
	k, plain := newKeys(), pattern(6*seg)
	r := mustOpenAt(t, k, encrypt(t, k, stream.Options{Scope: scope}, plain))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(g)))
			p := make([]byte, 2*seg)
			for range 60 {
				off := rnd.IntN(len(plain))
				b := p[:rnd.IntN(len(p))]
				n, err := r.ReadAt(b, int64(off))
				if (err != nil) != (off+len(b) > len(plain)) || !bytes.Equal(b[:n], plain[off:off+n]) {
					t.Errorf("%d of %d bytes at %d: %v", n, len(b), off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCloseEndsReadsThatRun(t *testing.T) {
	k, plain := newKeys(), pattern(300_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	// The source closes the reader in the middle of a read of it.
	src := &hooked{ReaderAt: bytes.NewReader(ct)}
	r, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, src, int64(len(ct)))
	if err != nil {
		t.Fatal(err)
	}
	src.before = func() { _ = r.Close() }
	if n, err := r.ReadAt(make([]byte, 10), 0); n != 0 || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if stream.Kept(r) != nil {
		t.Error("plaintext is kept after Close")
	}
}

type hooked struct {
	io.ReaderAt

	before func()
	calls  int
}

func (h *hooked) ReadAt(p []byte, off int64) (int, error) {
	h.calls++
	if h.before != nil {
		h.before()
	}
	return h.ReaderAt.ReadAt(p, off)
}

func TestOpeningTakesTwoReadsAndASegmentIsReadOnce(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, pattern(300_000))
	src := &hooked{ReaderAt: bytes.NewReader(ct)}
	r, err := stream.NewReaderAt(t.Context(), k, stream.Options{Scope: scope}, src, int64(len(ct)))
	if err != nil || src.calls != 2 {
		t.Fatalf("%d reads to open, %v", src.calls, err)
	}
	p := make([]byte, 1000)
	for off := r.Size() - 20_000; off < r.Size()-1000; off += 1000 { // in the last segment, which was read to open
		if _, err := r.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	for off := range int64(60) {
		if _, err := r.ReadAt(p, off*1000); err != nil {
			t.Fatal(err)
		}
	}
	if src.calls != 3 {
		t.Errorf("%d reads", src.calls)
	}
}

// TestReaderAtOpensWhatTinkWrote reads a body that Tink's own implementation wrote.
func TestReaderAtOpensWhatTinkWrote(t *testing.T) {
	for _, n := range sizes(stream.Segment64KiB) {
		k, plain := newKeys(), pattern(n)
		ct := encrypt(t, k, stream.Options{Scope: scope}, nil)
		head := ct[:bodyAt(t, ct)]
		h, err := stream.ReadHeader(bytes.NewReader(ct))
		if err != nil {
			t.Fatal(err)
		}
		tink, err := subtle.NewAESGCMHKDF(k.known[string(h.Wrapped)].key, "SHA256", 32, stream.Segment64KiB, 0)
		if err != nil {
			t.Fatal(err)
		}
		theirs := bytes.NewBuffer(bytes.Clone(head))
		w, err := tink.NewEncryptingWriter(theirs, infoOf(head, scope.Context, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r := mustOpenAt(t, k, theirs.Bytes())
		got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d of %d bytes of Tink's, %v", len(got), n, err)
		}
	}
}

func FuzzNewReaderAt(f *testing.F) {
	const seg = stream.Segment64KiB
	k := newKeys()
	plain := pattern(2*seg + 100)
	add := func(n int) []byte {
		ct := encrypt(f, k, stream.Options{Scope: scope}, plain[:n])
		f.Add(ct, int64(n/2), 100)
		f.Add(ct[:len(ct)-1], int64(0), 100)
		return ct
	}
	add(0)
	add(100)
	add(seg)
	long := add(len(plain))
	f.Add(append(bytes.Clone(long), 0), int64(0), 10)
	f.Add(bytes.Replace(long, []byte("\x00\x01\x00\x00"), []byte("\x00\x10\x00\x00"), 1), int64(0), 10)
	f.Add([]byte("KRYPTS1\n\xff\xff\xff\xff"), int64(0), 1)
	f.Add([]byte(strings.Repeat("K", stream.MaxHeader+100)), int64(0), 1)
	f.Fuzz(func(t *testing.T, in []byte, off int64, n int) {
		r, err := openAt(t, k, in)
		if err != nil {
			if !errs.Is(err, errs.Integrity) {
				t.Fatal(err)
			}
			return
		}
		if r.Size() < 0 || r.Size() > int64(len(plain)) {
			t.Fatalf("a size of %d", r.Size())
		}
		p := make([]byte, min(max(n, 0), 3*seg))
		m, err := r.ReadAt(p, off)
		if (err == nil) != (m == len(p)) || (off >= 0 && m > 0 && !bytes.Equal(p[:m], plain[off:off+int64(m)])) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, m, err)
		}
	})
}
