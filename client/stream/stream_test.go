package stream_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/client/stream"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// keys wraps data keys by remembering them. A rotation makes the next wrap name
// another version.
type keys struct {
	version int
	known   map[string]known
	issued  []client.Secret
}

type known struct {
	key     []byte
	scope   string
	version int
}

func newKeys() *keys { return &keys{version: 1, known: map[string]known{}} }

func scopeText(s client.Scope) string {
	out := s.Service + "\x00" + s.Resource
	for _, k := range slices.Sorted(maps.Keys(s.Context)) {
		out += "\x00" + k + "\x01" + s.Context[k]
	}
	return out
}

func versionName(s client.Scope, n int) string { return fmt.Sprintf("%s/versions/%d", s.Service, n) }

func (k *keys) add(s client.Scope, key []byte) string {
	wrapped := fmt.Sprintf("wrapped-%d", len(k.known))
	k.known[wrapped] = known{key: key, scope: scopeText(s), version: k.version}
	return wrapped
}

func (k *keys) GenerateDataKey(_ context.Context, s client.Scope, length int, _ ...grpc.CallOption) (client.DataKey, error) {
	h := sha256.Sum256(fmt.Appendf(nil, "data key %d", len(k.known)))
	wrapped := k.add(s, h[:length])
	sec := client.NewSecret(bytes.Clone(h[:length]))
	k.issued = append(k.issued, sec)
	return client.DataKey{Plaintext: sec, Wrapped: []byte(wrapped), KeyVersion: versionName(s, k.version)}, nil
}

func (k *keys) UnwrapDataKey(_ context.Context, s client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, error) {
	w, ok := k.known[string(wrapped)]
	if !ok || w.scope != scopeText(s) {
		return client.DataKey{}, errs.DoesNotOpen(errors.New("no such key"))
	}
	sec := client.NewSecret(bytes.Clone(w.key))
	k.issued = append(k.issued, sec)
	return client.DataKey{Plaintext: sec, Wrapped: wrapped, KeyVersion: versionName(s, w.version)}, nil
}

func (k *keys) RewrapDataKey(_ context.Context, s client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, string, error) {
	w, ok := k.known[string(wrapped)]
	if !ok || w.scope != scopeText(s) {
		return client.DataKey{}, "", errs.DoesNotOpen(errors.New("no such key"))
	}
	return client.DataKey{Wrapped: []byte(k.add(s, w.key)), KeyVersion: versionName(s, k.version)}, versionName(s, w.version), nil
}

var scope = client.Scope{Service: "tenants/demo/services/payments", Resource: "orders", Context: map[string]string{"b": "2", "a": "1"}}

func encrypt(t testing.TB, k stream.Keys, o stream.Options, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	e, err := stream.NewEncryptor(t.Context(), k, o, &out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func decrypt(t testing.TB, k stream.Keys, s client.Scope, ct []byte) ([]byte, error) {
	t.Helper()
	d, err := stream.NewDecryptor(t.Context(), k, stream.Options{Scope: s}, bytes.NewReader(ct))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(d)
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 31 >> 3)
	}
	return b
}

// TestEverySizeComesBack covers the borders of the first and the later segments.
func TestEverySizeComesBack(t *testing.T) {
	for _, seg := range []int{stream.Segment64KiB, stream.Segment1MiB} {
		first, later := seg-40-16, seg-16
		for _, n := range []int{0, 1, 15, 16, first - 1, first, first + 1, first + later - 1, first + later, first + later + 1, 3*seg + 7} {
			k, plain := newKeys(), pattern(n)
			ct := encrypt(t, k, stream.Options{Scope: scope, SegmentSize: seg}, plain)
			got, err := decrypt(t, k, scope, ct)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("segment %d, %d bytes: %d bytes back, %v", seg, n, len(got), err)
			}
		}
	}
}

func TestWritesAndReadsOfAnyShapeGiveTheSameStream(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plain := pattern(rapid.IntRange(0, 200_000).Draw(rt, "size"))
		k := newKeys()
		var out bytes.Buffer
		e, err := stream.NewEncryptor(t.Context(), k, stream.Options{Scope: scope}, &out)
		if err != nil {
			rt.Fatal(err)
		}
		for rest := plain; len(rest) > 0; {
			n := min(rapid.IntRange(0, 70_000).Draw(rt, "write"), len(rest))
			if _, err := e.Write(rest[:n]); err != nil {
				rt.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := e.Close(); err != nil {
			rt.Fatal(err)
		}
		d, err := stream.NewDecryptor(t.Context(), k, stream.Options{Scope: scope}, iotest.HalfReader(&out))
		if err != nil {
			rt.Fatal(err)
		}
		got, err := io.ReadAll(iotest.OneByteReader(d))
		if err != nil || !bytes.Equal(got, plain) {
			rt.Fatalf("%d of %d bytes, %v", len(got), len(plain), err)
		}
	})
}

func TestTheReaderFollowsTheReaderContract(t *testing.T) {
	k, plain := newKeys(), pattern(150_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	d, err := stream.NewDecryptor(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct))
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(d, plain); err != nil {
		t.Error(err)
	}
}

// TestTheBodyIsTinks opens our body with Tink's own implementation, and Tink's
// body with ours.
func TestTheBodyIsTinks(t *testing.T) {
	k, plain := newKeys(), pattern(200_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	r := bytes.NewReader(ct)
	h, err := stream.ReadHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	head := ct[:len(ct)-r.Len()]
	aad := infoOf(head, scope.Context, nil)
	tink, err := subtle.NewAESGCMHKDF(k.known[string(h.Wrapped)].key, "SHA256", 32, stream.Segment64KiB, 0)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tink.NewDecryptingReader(r, aad)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(tr); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("Tink read %d bytes, %v", len(got), err)
	}
	theirs := bytes.NewBuffer(bytes.Clone(head))
	tw, err := tink.NewEncryptingWriter(theirs, aad)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, k, scope, theirs.Bytes()); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("we read %d bytes of Tink's, %v", len(got), err)
	}
}

// TestI2_EveryFlippedBitIsFound flips every bit of the header and of the head of
// the body, and a bit in every 97th byte after it.
func TestI2_EveryFlippedBitIsFound(t *testing.T) {
	k, plain := newKeys(), pattern(70_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	try := func(i int, bit byte) {
		bad := bytes.Clone(ct)
		bad[i] ^= bit
		got, err := decrypt(t, k, scope, bad)
		if !errs.Is(err, errs.Integrity) {
			t.Errorf("byte %d bit %#x: %v", i, bit, err)
		}
		if !bytes.HasPrefix(plain, got) {
			t.Errorf("byte %d bit %#x: plaintext was released that is not authentic", i, bit)
		}
	}
	for i := range ct[:400] {
		for bit := range 8 {
			try(i, 1<<bit)
		}
	}
	for i := 400; i < len(ct); i += 97 {
		try(i, 0x10)
	}
}

func TestI2_EveryTruncationIsFound(t *testing.T) {
	k, plain := newKeys(), pattern(3*stream.Segment64KiB)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	r := bytes.NewReader(ct)
	if _, err := stream.ReadHeader(r); err != nil {
		t.Fatal(err)
	}
	body := len(ct) - r.Len()
	cuts := []int{}
	for i := range body + 60 {
		cuts = append(cuts, i)
	}
	for s := 1; s <= 3; s++ { // around the borders of segments
		for d := -2; d <= 2; d++ {
			cuts = append(cuts, body+s*stream.Segment64KiB+d)
		}
	}
	cuts = append(cuts, len(ct)-1, len(ct)-16, len(ct)-17)
	for _, n := range cuts {
		if got, err := decrypt(t, k, scope, ct[:n]); !errs.Is(err, errs.Integrity) || !bytes.HasPrefix(plain, got) {
			t.Errorf("cut at %d of %d: %d bytes, %v", n, len(ct), len(got), err)
		}
	}
	if _, err := decrypt(t, k, scope, append(bytes.Clone(ct), 0)); !errs.Is(err, errs.Integrity) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestI2_SegmentsCannotBeSwappedOrMixed(t *testing.T) {
	k := newKeys()
	a := encrypt(t, k, stream.Options{Scope: scope}, pattern(4*stream.Segment64KiB))
	b := encrypt(t, k, stream.Options{Scope: scope}, pattern(4*stream.Segment64KiB))
	const seg = stream.Segment64KiB
	r := bytes.NewReader(a)
	if _, err := stream.ReadHeader(r); err != nil {
		t.Fatal(err)
	}
	body := len(a) - r.Len()
	swapped := bytes.Clone(a)
	copy(swapped[body+seg:], a[body+2*seg:body+3*seg])
	copy(swapped[body+2*seg:], a[body+seg:body+2*seg])
	mixed := bytes.Clone(a)
	copy(mixed[body+seg:], b[body+seg:body+2*seg])
	dropped := append(bytes.Clone(a[:body+seg]), a[body+2*seg:]...)
	for name, ct := range map[string][]byte{"swapped": swapped, "mixed": mixed, "dropped": dropped} {
		if _, err := decrypt(t, k, scope, ct); !errs.Is(err, errs.Integrity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestI3_AnotherScopeDoesNotOpen(t *testing.T) {
	cluster := clienttest.Start(t, clienttest.Options{Nodes: 1})
	for _, s := range [][2]string{{"demo", "payments"}, {"demo", "logs"}, {"other", "payments"}} {
		if err := cluster.AddService(s[0], s[1]); err != nil {
			t.Fatal(err)
		}
	}
	demo, other := cluster.Client(t, "demo"), cluster.Client(t, "other")
	ct := encrypt(t, demo, stream.Options{Scope: scope}, []byte("hello"))
	if got, err := decrypt(t, demo, scope, ct); err != nil || string(got) != "hello" {
		t.Fatalf("same scope: %q, %v", got, err)
	}
	for name, tt := range map[string]struct {
		c      *client.Client
		change func(*client.Scope)
	}{
		"service":          {demo, func(s *client.Scope) { s.Service = "tenants/demo/services/logs" }},
		"tenant":           {other, func(s *client.Scope) { s.Service = "tenants/other/services/payments" }},
		"resource":         {demo, func(s *client.Scope) { s.Resource = "order" }},
		"no resource":      {demo, func(s *client.Scope) { s.Resource = "" }},
		"context":          {demo, func(s *client.Scope) { s.Context = map[string]string{"a": "1", "b": "3"} }},
		"no context":       {demo, func(s *client.Scope) { s.Context = nil }},
		"more context":     {demo, func(s *client.Scope) { s.Context = map[string]string{"a": "1", "b": "2", "c": ""} }},
		"swapped contexts": {demo, func(s *client.Scope) { s.Context = map[string]string{"a": "2", "b": "1"} }},
	} {
		s := scope
		tt.change(&s)
		if _, err := decrypt(t, tt.c, s, ct); !errs.Is(err, errs.Integrity) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// TestI3_TheBodyIsBoundToScopeByItself gives the right data key for a wrong
// scope: even a cluster that unwrapped what it should not does not help.
func TestI3_TheBodyIsBoundToScopeByItself(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, []byte("hello"))
	for i := range 2 {
		s := scope
		bad := ct
		if i == 0 {
			s.Context = map[string]string{"a": "1"}
		} else {
			s.Resource = "other!"
			bad = bytes.Replace(ct, []byte("orders"), []byte("other!"), 1)
		}
		if _, err := decrypt(t, anyScope{k}, s, bad); !errs.Is(err, errs.Integrity) {
			t.Errorf("case %d: %v", i, err)
		}
	}
	for _, change := range []func(*client.Scope){
		func(s *client.Scope) { s.Resource = "other!" },
		func(s *client.Scope) { s.Service = "tenants/demo/services/other" },
	} {
		s := scope
		change(&s)
		if _, err := decrypt(t, lenient{anyScope{k}}, s, ct); !errs.Is(err, errs.Integrity) {
			t.Errorf("the file says something else than the caller, %+v: %v", s, err)
		}
		if _, err := stream.Rewrap(t.Context(), lenient{anyScope{k}}, stream.Options{Scope: s}, bytes.NewReader(ct), io.Discard); !errs.Is(err, errs.Integrity) {
			t.Errorf("rewrap: the file says something else than the caller, %+v: %v", s, err)
		}
	}
	if got, err := decrypt(t, anyScope{k}, scope, ct); err != nil || string(got) != "hello" {
		t.Errorf("right scope: %q %v", got, err)
	}
}

// anyScope unwraps for whatever scope.
type anyScope struct{ *keys }

func (k anyScope) UnwrapDataKey(_ context.Context, s client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, error) {
	w := k.known[string(wrapped)]
	return client.DataKey{Plaintext: client.NewSecret(bytes.Clone(w.key)), KeyVersion: versionName(s, w.version)}, nil
}

// lenient says what the file says, whatever it is asked.
type lenient struct{ anyScope }

func (k lenient) UnwrapDataKey(ctx context.Context, _ client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, error) {
	return k.anyScope.UnwrapDataKey(ctx, scope, wrapped)
}

func (k lenient) RewrapDataKey(ctx context.Context, _ client.Scope, wrapped []byte, _ ...grpc.CallOption) (client.DataKey, string, error) {
	return k.keys.RewrapDataKey(ctx, scope, wrapped)
}

func TestI4_DataKeysAreWipedBeforeTheFirstSegment(t *testing.T) {
	k := newKeys()
	var out bytes.Buffer
	e, err := stream.NewEncryptor(t.Context(), k, stream.Options{Scope: scope}, &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.NewDecryptor(t.Context(), k, stream.Options{Scope: scope}, &out); err != nil {
		t.Fatal(err)
	}
	if len(k.issued) != 2 {
		t.Fatalf("%d keys issued", len(k.issued))
	}
	for i, s := range k.issued {
		if s.Bytes() != nil {
			t.Errorf("key %d is still there", i)
		}
	}
}

// failing fails after n bytes.
type failing struct {
	r   io.Reader
	err error
}

func (f failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

func TestI1_AnErrorSticks(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, pattern(200))
	ct[len(ct)-1] ^= 1 // the last segment, after which Tink's reader says EOF
	d, err := stream.NewDecryptor(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if n, err := d.Read(make([]byte, 10)); n != 0 || !errs.Is(err, errs.Integrity) {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
}

// TestI2_OnlyTheEndItselfIsAnEnd has readers fail, one with an error that wraps
// io.EOF as that of a lost connection may: to take it for an end would be to
// accept a stream that was cut.
func TestI2_OnlyTheEndItselfIsAnEnd(t *testing.T) {
	k := newKeys()
	ct := encrypt(t, k, stream.Options{Scope: scope}, pattern(200_000))
	for _, boom := range []error{errors.New("disk on fire"), fmt.Errorf("connection lost: %w", io.EOF)} {
		for _, n := range []int{0, 5, 30, 200, 70_000, 140_000, len(ct) - 10} {
			d, err := stream.NewDecryptor(t.Context(), k, stream.Options{Scope: scope}, failing{bytes.NewReader(ct[:n]), boom})
			for err == nil {
				_, err = d.Read(make([]byte, 1000))
			}
			if err != boom { //nolint:errorlint // As it is.
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
	}
}

// full is a disk that takes n bytes.
type full struct{ n int }

func (f *full) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestAStreamThatLostSomethingGetsNoEnd(t *testing.T) {
	k := newKeys()
	w := &full{n: 70_000}
	e, err := stream.NewEncryptor(t.Context(), k, stream.Options{Scope: scope}, w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(pattern(200_000)); err == nil {
		t.Fatal("written to a full disk")
	}
	w.n = 1 << 20 // room again
	if err := e.Close(); err == nil {
		t.Error("closed as if nothing had happened")
	}
	if _, err := e.Write([]byte("x")); err == nil {
		t.Error("written after an error")
	}
}

func TestRewrapExchangesOnlyTheHeader(t *testing.T) {
	k, plain := newKeys(), pattern(100_000)
	ct := encrypt(t, k, stream.Options{Scope: scope}, plain)
	k.version = 12
	var out bytes.Buffer
	did, err := stream.Rewrap(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(ct), &out)
	if err != nil || did.Previous != versionName(scope, 1) || did.KeyVersion != versionName(scope, 12) {
		t.Fatalf("%+v, %v", did, err)
	}
	oldBody, newBody := bytes.NewReader(ct), bytes.NewReader(out.Bytes())
	if _, err := stream.ReadHeader(oldBody); err != nil {
		t.Fatal(err)
	}
	h, err := stream.ReadHeader(newBody)
	if err != nil || h.KeyVersion != did.KeyVersion {
		t.Fatalf("%+v, %v", h, err)
	}
	a, _ := io.ReadAll(oldBody)
	b, _ := io.ReadAll(newBody)
	if !bytes.Equal(a, b) {
		t.Error("the body changed")
	}
	if got, err := decrypt(t, k, scope, out.Bytes()); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("after rewrap: %d bytes, %v", len(got), err)
	}
	s := scope
	s.Context = nil
	if _, err := stream.Rewrap(t.Context(), k, stream.Options{Scope: s}, bytes.NewReader(ct), io.Discard); !errs.Is(err, errs.Integrity) {
		t.Errorf("with another context: %v", err)
	}
	lie := bytes.Replace(ct, []byte("/versions/1"), []byte("/versions/9"), 1)
	if _, err := stream.Rewrap(t.Context(), k, stream.Options{Scope: scope}, bytes.NewReader(lie), io.Discard); !errs.Is(err, errs.Integrity) {
		t.Errorf("with another version in the header: %v", err)
	}
}

func TestNamesBeyondTheLimitsAreNotWritten(t *testing.T) {
	for name, s := range map[string]client.Scope{
		"no service":    {},
		"long service":  {Service: strings.Repeat("s", 257)},
		"long resource": {Service: "s", Resource: strings.Repeat("r", 129)},
	} {
		var out bytes.Buffer
		if _, err := stream.NewEncryptor(t.Context(), newKeys(), stream.Options{Scope: s}, &out); !errs.Is(err, errs.InvalidArgument) || out.Len() != 0 {
			t.Errorf("%s: %v after %d bytes", name, err, out.Len())
		}
	}
	if _, err := stream.NewEncryptor(t.Context(), newKeys(), stream.Options{Scope: scope, SegmentSize: 100}, io.Discard); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("odd segment size: %v", err)
	}
}

func TestWhatIsNoStreamIsSaidToBeNone(t *testing.T) {
	for _, in := range []string{"", "K", "%PDF-1.7 and more", "KRYPTS2\nfuture"} {
		_, err := decrypt(t, newKeys(), scope, []byte(in))
		if !errs.Is(err, errs.Integrity) || !strings.Contains(err.Error(), "not a file that krypton encrypted") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

var writeGolden = flag.Bool("write-golden", false, "write golden files that do not exist yet")

// zeros is a source of randomness for golden files.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i)
	}
	return len(p), nil
}

// TestGoldenFilesStillOpen opens files that were written once and never again.
func TestGoldenFilesStillOpen(t *testing.T) {
	for _, tt := range []struct {
		name  string
		seg   int
		scope client.Scope
		plain []byte
	}{
		{"v1-empty", stream.Segment64KiB, client.Scope{Service: "tenants/demo/services/payments"}, nil},
		{"v1-64k", stream.Segment64KiB, scope, pattern(66_000)},
		{"v1-1m", stream.Segment1MiB, scope, []byte("one segment of a megabyte at most\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join("testdata", tt.name+".krypton")
			k := newKeys()
			fresh := encrypt(t, k, stream.Options{Scope: tt.scope, SegmentSize: tt.seg, Rand: zeros{}}, tt.plain)
			if _, err := os.Stat(file); *writeGolden && os.IsNotExist(err) {
				if err := os.WriteFile(file, fresh, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ct, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := decrypt(t, k, tt.scope, ct); err != nil || !bytes.Equal(got, tt.plain) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if !bytes.Equal(ct, fresh) {
				t.Errorf("the same input gives another file now, beginning %s", base64.StdEncoding.EncodeToString(fresh[:64]))
			}
		})
	}
}

func FuzzReadHeader(f *testing.F) {
	k := newKeys()
	var out bytes.Buffer
	e, err := stream.NewEncryptor(f.Context(), k, stream.Options{Scope: scope}, &out)
	if err != nil {
		f.Fatal(err)
	}
	if err := e.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Add([]byte("KRYPTS1\n"))
	f.Add([]byte("KRYPTS1\n\xff\xff\xff\xff"))
	f.Add([]byte("KRYPTS1\n\x00\x00\x00\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"))
	f.Add(bytes.Replace(out.Bytes(), []byte("orders"), nil, 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := stream.ReadHeader(r)
		read := len(in) - r.Len()
		if read > stream.MaxHeader {
			t.Fatalf("read %d bytes for a header", read)
		}
		if err != nil {
			if !errs.Is(err, errs.Integrity) {
				t.Fatal(err)
			}
			return
		}
		// I5: one spelling. Encrypting with what was read writes the same header.
		again, err := stream.EncodeHeader(h)
		if err != nil || !bytes.Equal(again, in[:read]) {
			t.Fatalf("%q decodes to %+v, which encodes to %q, %v", in[:read], h, again, err)
		}
	})
}
