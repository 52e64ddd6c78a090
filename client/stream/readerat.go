package stream

import (
	"bytes"
	"context"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Causes of a stream that does not open. They go into logs, not to callers.
var (
	errShort  = errors.New("stream is cut")
	errSource = errors.New("source read less than it was asked for and said nothing")
)

// ReaderAt reads a stream at any offset. For an [io.ReadSeeker], put an
// [io.SectionReader] over it:
//
//	io.NewSectionReader(r, 0, r.Size())
//
// What is returned for an offset is what was written at that offset of the one
// stream that was opened, whatever its source becomes later; its size is
// authentic too (I6). What a ReaderAt cannot see are segments that nobody reads:
// a file that was changed in the middle opens, and fails when somebody reads
// there. To check all of a stream, copy a [Decryptor] to [io.Discard].
//
// It keeps the segment that was read last, in the clear, until another one is
// read or it is closed. Every read in another segment reads and decrypts a
// segment: for many small reads at places far apart this is the cost of each.
// Several readers that each go forward need a buffer of a segment each, as of
// [bufio.NewReaderSize].
type ReaderAt struct {
	src    io.ReaderAt
	header Header
	at     layout
	prefix [prefixSize]byte
	spare  sync.Pool // of *segment, wiped

	mu   sync.Mutex
	gcm  cipher.AEAD // nil when err is not
	kept *segment    // the one read last, or nil
	err  error       // sticky (I1)
}

var (
	_ io.ReaderAt = (*ReaderAt)(nil)
	_ io.Closer   = (*ReaderAt)(nil)
)

// segment is one segment in memory: as it is in the stream, then in the clear.
type segment struct {
	index int64
	nonce [nonceSize]byte // here, because a nonce handed to a cipher.AEAD escapes
	buf   []byte          // of the size of a segment
	plain []byte          // a part of buf
}

// wipe overwrites what was in the clear (I7).
func (s *segment) wipe() {
	clear(s.buf[:cap(s.buf)])
	s.plain = nil
}

// NewReaderAt opens the stream in the first size bytes of src and has its data
// key unwrapped. Scope is what the caller expects the stream to be (I3). It reads
// the header and the last segment: a stream that was cut or extended is an error
// here, before anything is returned of it (I6).
//
// It makes two calls to src, neither longer than a segment or [MaxHeader] and 40
// bytes. ctx is for the call to the cluster. Closing a ReaderAt does not close src.
func NewReaderAt(ctx context.Context, keys Keys, opts Options, src io.ReaderAt, size int64) (*ReaderAt, error) {
	if size < 0 {
		return nil, errs.New(errs.InvalidArgument, "a stream has a negative size")
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	// One call for all of the header: src may be far away.
	head := make([]byte, min(size, int64(MaxHeader+bodyHead)))
	if err := readAt(src, head, 0); err != nil {
		return nil, err
	}
	h, start, err := readStart(opts.Scope, bytes.NewReader(head))
	if err != nil {
		return nil, err
	}
	at, err := h.layout(size)
	if err != nil {
		return nil, err
	}
	gcm, err := h.unwrap(ctx, keys, opts, start)
	if err != nil {
		return nil, err
	}
	r := &ReaderAt{src: src, header: h, at: at, gcm: gcm, prefix: start.prefix()}
	r.spare.New = func() any { return &segment{buf: make([]byte, h.SegmentSize)} }
	last := r.segment()
	if err := r.load(gcm, last, at.segments-1); err != nil {
		last.wipe()
		return nil, err
	}
	r.kept = last
	return r, nil
}

// Header returns what the stream says of itself. Service, resource, segment size
// and key version are authentic here.
func (r *ReaderAt) Header() Header { return r.header }

// Size returns the size of the plaintext in bytes. It is authentic.
func (r *ReaderAt) Size() int64 { return r.at.plaintext }

// ReadAt implements [io.ReaderAt]. It is safe for concurrent use; each call that
// is running holds one segment in memory.
//
// A segment that does not open is an error of code INTEGRITY, and so is a source
// that ends early; after it every call fails with it (I1). Another error of the
// source comes back as it is, and the call may be made again. In both cases the n
// bytes before it are authentic. A negative offset is INVALID_ARGUMENT.
func (r *ReaderAt) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errs.New(errs.InvalidArgument, "read at a negative offset")
	}
	for {
		// Also for an empty p and behind the end: a broken reader says nothing but that.
		gcm, err := r.cipher()
		switch {
		case err != nil:
			return n, err
		case n == len(p):
			return n, nil
		case off >= r.at.plaintext:
			return n, io.EOF
		}
		m, err := r.readOne(gcm, p[n:], off)
		n += m
		off += int64(m)
		if err != nil {
			return n, err
		}
	}
}

func (r *ReaderAt) cipher() (cipher.AEAD, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gcm, r.err
}

// readOne reads at off, which is in the stream, to the end of p or of the segment.
func (r *ReaderAt) readOne(gcm cipher.AEAD, p []byte, off int64) (int, error) {
	i, from := r.at.find(off)
	if n, ok := r.again(p, i, from); ok {
		return n, nil
	}
	s := r.segment()
	if err := r.load(gcm, s, i); err != nil {
		r.release(s)
		if errs.Is(err, errs.Integrity) {
			return 0, r.fail(err)
		}
		return 0, err
	}
	return r.keep(s, p, from)
}

// again reads from the segment that was read last, if it is segment i.
func (r *ReaderAt) again(p []byte, i, from int64) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil || r.kept.index != i {
		return 0, false
	}
	return copy(p, r.kept.plain[from:]), true
}

// keep reads from s and makes it the one that was read last.
func (r *ReaderAt) keep(s *segment, p []byte, from int64) (int, error) {
	r.mu.Lock()
	if err := r.err; err != nil { // closed or broken since
		r.mu.Unlock()
		r.release(s)
		return 0, err
	}
	old := r.kept
	r.kept = s
	n := copy(p, s.plain[from:])
	r.mu.Unlock()
	if old != nil {
		r.release(old)
	}
	return n, nil
}

// load reads segment i from the source into s and opens it (I1).
func (r *ReaderAt) load(gcm cipher.AEAD, s *segment, i int64) error {
	from, to := r.at.place(i)
	sealed := s.buf[:to-from]
	if err := readAt(r.src, sealed, from); err != nil {
		return err
	}
	copy(s.nonce[:], r.prefix[:])
	binary.BigEndian.PutUint32(s.nonce[prefixSize:], uint32(i)) //nolint:gosec // Less than maxSegments.
	s.nonce[nonceSize-1] = 0
	if r.at.last(i) {
		s.nonce[nonceSize-1] = 1
	}
	plain, err := gcm.Open(sealed[:0], s.nonce[:], sealed, nil)
	if err != nil {
		return errs.DoesNotOpen(err)
	}
	s.index, s.plain = i, plain
	return nil
}

// segment returns a buffer for a segment.
func (r *ReaderAt) segment() *segment {
	s, _ := r.spare.Get().(*segment) // nothing else is put there
	return s
}

// release takes a buffer back that nobody reads any more.
func (r *ReaderAt) release(s *segment) {
	s.wipe()
	r.spare.Put(s)
}

// fail makes err the answer to every call, unless another one is already, and
// returns that answer.
func (r *ReaderAt) fail(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err, r.gcm = err, nil
		if r.kept != nil {
			r.kept.wipe()
			r.kept = nil
		}
	}
	return r.err
}

// Close wipes what is kept of the plaintext. Calls that are running end with an
// error, as all later ones do. It returns nil, and may be called again.
func (r *ReaderAt) Close() error {
	_ = r.fail(errs.New(errs.Internal, "read from a closed stream", errs.Cause(fs.ErrClosed)))
	return nil
}

// readAt fills b from src. A source that ends before is a stream that was cut.
// Only io.EOF itself is an end: what wraps it is a connection that broke.
func readAt(src io.ReaderAt, b []byte, off int64) error {
	switch n, err := src.ReadAt(b, off); {
	case n == len(b):
		return nil // whatever came with it, the tags judge the bytes
	case err == io.EOF:
		return errs.DoesNotOpen(errShort)
	case err != nil:
		return err
	}
	return errs.DoesNotOpen(errSource)
}
