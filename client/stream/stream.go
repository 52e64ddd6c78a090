package stream

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
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

	// SegmentSize is Segment64KiB or Segment1MiB, for encrypting only. 0: 64 KiB.
	SegmentSize int

	// Rand makes the salt, for encrypting only. Nil: the system's, the only one
	// that is safe outside tests.
	Rand io.Reader

	// CallOptions go to the one call that is made to the cluster.
	CallOptions []grpc.CallOption
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
	w          *noncebased.Writer
	keyVersion string
	err        error // sticky
	closed     bool
}

// NewEncryptor takes a new data key from keys, writes the header to w and
// returns a writer to the body. Closing it does not close w.
func NewEncryptor(ctx context.Context, keys Keys, opts Options, w io.Writer) (*Encryptor, error) {
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
	start := make([]byte, bodyHead)
	start[0] = bodyHead
	if _, err := io.ReadFull(opts.Rand, start[1:]); err != nil {
		return nil, errs.New(errs.Internal, "the random source failed", errs.Cause(err))
	}
	gcm, err := aead(key.Plaintext, start[1:1+saltSize], h.aad(opts.Scope.Context))
	if err != nil {
		return nil, err
	}
	nw, err := noncebased.NewWriter(noncebased.WriterParams{
		W:                            w,
		SegmentEncrypter:             sealer{gcm},
		NonceSize:                    nonceSize,
		NoncePrefix:                  start[1+saltSize:],
		PlaintextSegmentSize:         opts.SegmentSize - tagSize,
		FirstCiphertextSegmentOffset: bodyHead,
	})
	if err != nil {
		return nil, errs.New(errs.Internal, "set up the stream", errs.Cause(err))
	}
	if _, err := w.Write(append(head, start...)); err != nil {
		return nil, err
	}
	return &Encryptor{w: nw, keyVersion: key.KeyVersion}, nil
}

// KeyVersion returns the name of the version of the service key that wraps the
// data key of the stream.
func (e *Encryptor) KeyVersion() string { return e.keyVersion }

// Write implements [io.Writer]. After an error, every further call fails with it.
func (e *Encryptor) Write(p []byte) (int, error) {
	if e.closed {
		return 0, errs.New(errs.Internal, "write to a closed stream")
	}
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(p)
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
	h, err := ReadHeader(r)
	if err != nil {
		return nil, err
	}
	if err := h.matches(opts.Scope); err != nil {
		return nil, err
	}
	start := make([]byte, bodyHead)
	switch _, err := io.ReadFull(r, start); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errs.DoesNotOpen(err)
	case err != nil:
		return nil, err
	case start[0] != bodyHead:
		return nil, errs.DoesNotOpen(errHeaderForm)
	}
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
	gcm, err := aead(key.Plaintext, start[1:1+saltSize], h.aad(opts.Scope.Context))
	if err != nil {
		return nil, err
	}
	d := &Decryptor{src: &source{r: r}, seg: &opener{gcm: gcm}, header: h}
	d.r, err = noncebased.NewReader(noncebased.ReaderParams{
		R:                            d.src,
		SegmentDecrypter:             d.seg,
		NonceSize:                    nonceSize,
		NoncePrefix:                  start[1+saltSize:],
		CiphertextSegmentSize:        h.SegmentSize,
		FirstCiphertextSegmentOffset: bodyHead,
	})
	if err != nil {
		return nil, errs.New(errs.Internal, "set up the stream", errs.Cause(err))
	}
	return d, nil
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
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return errs.DoesNotOpen(err)
}

// source remembers the error of the underlying reader, to tell it from a
// segment that does not open.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
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
