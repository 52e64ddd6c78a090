package stream

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle/noncebased"
	"google.golang.org/grpc"

	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	keySize    = 32
	saltSize   = 32
	prefixSize = 7
	nonceSize  = 12
	tagSize    = 16
	bodyHead   = 1 + saltSize + prefixSize // the first byte of a body is this number
)

// Keys is what this package needs of a [client.Client].
type Keys interface {
	GenerateDataKey(ctx context.Context, s client.Scope, length int, opts ...grpc.CallOption) (client.DataKey, error)
	UnwrapDataKey(ctx context.Context, s client.Scope, wrapped []byte, opts ...grpc.CallOption) (client.DataKey, error)
	RewrapDataKey(ctx context.Context, s client.Scope, wrapped []byte, opts ...grpc.CallOption) (key client.DataKey, previous string, err error)
}

var _ Keys = (*client.Client)(nil)

// Options says what a stream is bound to. The scope must be the same to encrypt,
// to decrypt and to rewrap.
type Options struct {
	Scope client.Scope

	// AAD is what else the stream is bound to, at most MaxAAD bytes: the id or hash
	// of the object that it belongs to, for example. Like the context it is
	// authenticated, not stored and not secret; unlike the context it is any
	// bytes, and stays in this process: it is not part of what the cluster checks
	// or records. Empty: nothing. It is for encrypting and decrypting; Rewrap does
	// not need it, as it does not open the body.
	AAD []byte

	// SegmentSize is Segment64KiB or Segment1MiB, for encrypting only. 0: 64 KiB.
	SegmentSize int

	// Rand makes the salt, for encrypting only. Nil: the system's, the only one
	// that is safe outside tests.
	Rand io.Reader

	// CallOptions go to the one call that is made to the cluster.
	CallOptions []grpc.CallOption
}

// MaxAAD is the most bytes that Options.AAD has. Of something longer, bind a hash.
const MaxAAD = 8 << 10

func (o Options) check() error {
	if len(o.AAD) > MaxAAD {
		return errs.New(errs.TooLarge, fmt.Sprintf("%d bytes of associated data", len(o.AAD)),
			errs.Hint("bind a stream to at most %d, or to a hash of them", MaxAAD))
	}
	return nil
}

// aead returns the cipher of a body and wipes what it derives on the way; its
// callers wipe key (I4). Tink's own constructor would do the same arithmetic but
// keeps a copy of the key for as long as the stream lives.
func aead(key client.Secret, salt, aad []byte) (cipher.AEAD, error) {
	if key.Len() != keySize {
		return nil, errs.DoesNotOpen(errors.New("data key has another length"))
	}
	derived, err := hkdf.Key(sha256.New, key.Bytes(), salt, string(aad), keySize)
	if err != nil {
		return nil, errs.New(errs.Internal, "derive the key of the stream", errs.Cause(err))
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, errs.New(errs.Internal, "derive the key of the stream", errs.Cause(err))
	}
	return cipher.NewGCM(block)
}

// Encryptor is a writer that encrypts what is written to it. Close it, or the
// stream is incomplete and does not decrypt.
type Encryptor struct {
	w      *noncebased.Writer
	header Header
	room   int64 // bytes that may still be written
	err    error // sticky
	closed bool
}

// NewEncryptor takes a new data key from keys, writes the header to w and
// returns a writer to the body. Closing it does not close w.
func NewEncryptor(ctx context.Context, keys Keys, opts Options, w io.Writer) (*Encryptor, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.SegmentSize == 0 {
		opts.SegmentSize = Segment64KiB
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	key, err := keys.GenerateDataKey(ctx, opts.Scope, keySize, opts.CallOptions...)
	if err != nil {
		return nil, err
	}
	defer key.Plaintext.Wipe() // I4
	h := Header{Service: opts.Scope.Service, Resource: opts.Scope.Resource, SegmentSize: opts.SegmentSize, KeyVersion: key.KeyVersion, Wrapped: key.Wrapped}
	head, err := h.encode()
	if err != nil {
		return nil, err
	}
	var start bodyStart
	start[0] = bodyHead
	if _, err := io.ReadFull(opts.Rand, start[1:]); err != nil {
		return nil, errs.New(errs.Internal, "the random source failed", errs.Cause(err))
	}
	gcm, err := aead(key.Plaintext, start.salt(), h.aad(opts.Scope.Context, opts.AAD))
	if err != nil {
		return nil, err
	}
	prefix := start.prefix()
	nw, err := noncebased.NewWriter(noncebased.WriterParams{
		W:                            w,
		SegmentEncrypter:             sealer{gcm},
		NonceSize:                    nonceSize,
		NoncePrefix:                  prefix[:],
		PlaintextSegmentSize:         opts.SegmentSize - tagSize,
		FirstCiphertextSegmentOffset: bodyHead,
	})
	if err != nil {
		return nil, errs.New(errs.Internal, "set up the stream", errs.Cause(err))
	}
	if _, err := w.Write(append(head, start[:]...)); err != nil {
		return nil, err
	}
	return &Encryptor{w: nw, header: h, room: MaxPlaintext(opts.SegmentSize)}, nil
}

// KeyVersion returns the name of the version of the service key that wraps the
// data key of the stream.
func (e *Encryptor) KeyVersion() string { return e.header.KeyVersion }

// EncryptedSize returns the size of the whole stream if plaintext bytes are
// written to it, header included: the Content-Length of an upload. Where the
// header goes to a pipe that nobody reads yet, put a [bufio.Writer] between.
// Errors are those of [Header.EncryptedSize].
func (e *Encryptor) EncryptedSize(plaintext int64) (int64, error) {
	return e.header.EncryptedSize(plaintext)
}

// Write implements [io.Writer]. After an error, every further call fails with
// it. What would exceed [MaxPlaintext] is refused as a whole, with code TOO_LARGE.
func (e *Encryptor) Write(p []byte) (int, error) {
	if e.closed {
		return 0, errs.New(errs.Internal, "write to a closed stream")
	}
	if e.err != nil {
		return 0, e.err
	}
	if int64(len(p)) > e.room {
		e.err = errTooLarge(e.header.SegmentSize)
		return 0, e.err
	}
	n, err := e.w.Write(p)
	e.room -= int64(n)
	e.err = err
	return n, err
}

// Close writes the last segment. After an error of Write it does nothing and
// returns that error: a stream that lost something in the middle must not get
// an end.
func (e *Encryptor) Close() error {
	if e.closed || e.err != nil {
		return e.err
	}
	e.closed = true
	e.err = e.w.Close()
	return e.err
}

// sealer encrypts segments for noncebased.Writer.
type sealer struct{ gcm cipher.AEAD }

// EncryptSegment implements [noncebased.SegmentEncrypter].
func (s sealer) EncryptSegment(segment, nonce []byte) ([]byte, error) {
	return s.EncryptSegmentWithDst(nil, segment, nonce)
}

// EncryptSegmentWithDst reuses the writer's buffer, and wipes the plaintext, the
// only copy that this package has.
func (s sealer) EncryptSegmentWithDst(dst, segment, nonce []byte) ([]byte, error) {
	out := s.gcm.Seal(dst, nonce, segment, nil)
	clear(segment)
	return out, nil
}

// Decryptor is a reader of the plaintext of a stream.
type Decryptor struct {
	r      *noncebased.Reader
	src    *source
	seg    *opener
	header Header
	err    error // sticky (I1)
}

// NewDecryptor reads the header from r and has the data key unwrapped. Scope is
// what the caller expects the stream to be (I3).
func NewDecryptor(ctx context.Context, keys Keys, opts Options, r io.Reader) (*Decryptor, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	h, start, err := readStart(opts.Scope, r)
	if err != nil {
		return nil, err
	}
	gcm, err := h.unwrap(ctx, keys, opts, start)
	if err != nil {
		return nil, err
	}
	prefix := start.prefix()
	d := &Decryptor{src: &source{r: r}, seg: &opener{gcm: gcm}, header: h}
	d.r, err = noncebased.NewReader(noncebased.ReaderParams{
		R:                            d.src,
		SegmentDecrypter:             d.seg,
		NonceSize:                    nonceSize,
		NoncePrefix:                  prefix[:],
		CiphertextSegmentSize:        h.SegmentSize,
		FirstCiphertextSegmentOffset: bodyHead,
	})
	if err != nil {
		return nil, errs.New(errs.Internal, "set up the stream", errs.Cause(err))
	}
	return d, nil
}

// bodyStart is what a body begins with: its length, the salt, the nonce prefix.
type bodyStart [bodyHead]byte

func (s *bodyStart) salt() []byte { return s[1 : 1+saltSize] }

func (s *bodyStart) prefix() [prefixSize]byte { return [prefixSize]byte(s[1+saltSize:]) }

// readStart reads all that comes before the first segment. The header must name
// the service and resource of s (I3).
func readStart(s client.Scope, r io.Reader) (Header, bodyStart, error) {
	var start bodyStart
	h, err := ReadHeader(r)
	if err != nil {
		return h, start, err
	}
	if err := h.matches(s); err != nil {
		return h, start, err
	}
	switch _, err := io.ReadFull(r, start[:]); {
	case err != nil && ended(err):
		return h, start, errs.DoesNotOpen(err)
	case err != nil:
		return h, start, err
	case start[0] != bodyHead:
		return h, start, errs.DoesNotOpen(errHeaderForm)
	}
	return h, start, nil
}

// unwrap has the data key unwrapped and returns the cipher of the body.
func (h Header) unwrap(ctx context.Context, keys Keys, opts Options, start bodyStart) (cipher.AEAD, error) {
	key, err := keys.UnwrapDataKey(ctx, opts.Scope, h.Wrapped, opts.CallOptions...)
	if err != nil {
		return nil, err
	}
	defer key.Plaintext.Wipe() // I4
	if key.KeyVersion != h.KeyVersion {
		// Nothing else authenticates the name, and whoever looks for files to
		// rewrap goes by it.
		return nil, errs.DoesNotOpen(errors.New("header names another key version"))
	}
	return aead(key.Plaintext, start.salt(), h.aad(opts.Scope.Context, opts.AAD))
}

// matches compares what the file says with what the caller expects.
func (h Header) matches(s client.Scope) error {
	if h.Service != s.Service || h.Resource != s.Resource {
		return errs.DoesNotOpen(errors.New("header names another service or resource"))
	}
	return nil
}

// Header returns what the stream says of itself. Service, resource and key
// version are authentic here.
func (d *Decryptor) Header() Header { return d.header }

// Read implements [io.Reader]. It returns io.EOF only at the authenticated end
// of the stream.
func (d *Decryptor) Read(p []byte) (int, error) {
	if d.err != nil {
		return 0, d.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := d.r.Read(p)
		if err == nil && n == 0 {
			continue // the one segment of an empty stream
		}
		if err != nil {
			d.err = d.failed(err)
			n = 0
			clear(d.seg.buf)
		}
		return n, d.err
	}
}

// failed makes the error stick. Tink's reader would go on after an error: after
// a last segment that does not open it says io.EOF.
func (d *Decryptor) failed(err error) error {
	switch {
	case d.src.err != nil:
		return d.src.err
	case err == io.EOF: //nolint:errorlint // Only the end itself is one (I2); see source.
		return io.EOF
	}
	return errs.DoesNotOpen(err)
}

// source remembers the error of the underlying reader, to tell it from a
// segment that does not open. Only io.EOF itself is the end of a reader: a
// connection that broke may say an error that wraps it, and to take that for an
// end would be to accept a stream that was cut.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// opener decrypts segments for noncebased.Reader, into a buffer that it can wipe.
type opener struct {
	gcm cipher.AEAD
	buf []byte
}

// DecryptSegment implements [noncebased.SegmentDecrypter].
func (o *opener) DecryptSegment(segment, nonce []byte) ([]byte, error) {
	if cap(o.buf) < len(segment) {
		clear(o.buf)
		o.buf = make([]byte, 0, len(segment))
	}
	out, err := o.gcm.Open(o.buf[:0], nonce, segment, nil)
	if err != nil {
		return nil, err
	}
	o.buf = out
	return out, nil
}

// Rewrapped tells what [Rewrap] did.
type Rewrapped struct {
	// KeyVersion wraps the data key now, Previous did before. They are the same
	// when there was nothing to do.
	KeyVersion, Previous string
}

// Rewrap copies a stream from r to w with its data key wrapped by the present
// version of the service key. The data is neither decrypted nor checked, and the
// data key stays the same: whoever has seen it can still read the data.
func Rewrap(ctx context.Context, keys Keys, opts Options, r io.Reader, w io.Writer) (Rewrapped, error) {
	h, err := ReadHeader(r)
	if err != nil {
		return Rewrapped{}, err
	}
	if err := h.matches(opts.Scope); err != nil {
		return Rewrapped{}, err
	}
	key, previous, err := keys.RewrapDataKey(ctx, opts.Scope, h.Wrapped, opts.CallOptions...)
	if err != nil {
		return Rewrapped{}, err
	}
	if previous != h.KeyVersion {
		return Rewrapped{}, errs.DoesNotOpen(errors.New("header names another key version"))
	}
	h.KeyVersion, h.Wrapped = key.KeyVersion, key.Wrapped
	head, err := h.encode()
	if err != nil {
		return Rewrapped{}, err
	}
	if _, err := w.Write(head); err != nil {
		return Rewrapped{}, err
	}
	if _, err := io.Copy(w, r); err != nil {
		return Rewrapped{}, err
	}
	return Rewrapped{KeyVersion: key.KeyVersion, Previous: previous}, nil
}
