package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// magic names the format and its version.
const magic = "KRYPTS1\n"

// algorithm 1 is AES256-GCM-HKDF-SHA256 streaming. Zero is invalid.
const algorithm = 1

// Segment sizes. A segment is what is held in memory, and what has to be read
// before the first byte of it is returned.
const (
	Segment64KiB = 64 << 10 // streams of up to 256 TiB, exactly MaxPlaintext
	Segment1MiB  = 1 << 20  // streams of up to 4 PiB; a little faster from end to end, slower at random
)

// Limits of a header.
const (
	maxService    = 256
	maxResource   = 128
	maxKeyVersion = 320
	maxWrapped    = 4096

	maxBound    = 1 + 4 + 4 + maxService + 4 + maxResource
	maxEnvelope = 4 + maxKeyVersion + 4 + maxWrapped

	// MaxHeader is the longest header of a stream, in bytes, before its body.
	MaxHeader = len(magic) + 4 + maxBound + 4 + maxEnvelope
)

// Header is what a stream says of itself. Nothing of it is authentic before the
// first byte was decrypted: it tells which key to ask for, not whom to trust.
type Header struct {
	// Service is tenants/{t}/services/{s}; Resource may be empty.
	Service, Resource string
	// SegmentSize is Segment64KiB or Segment1MiB.
	SegmentSize int
	// KeyVersion is the name of the version of the service key that wraps the
	// data key.
	KeyVersion string
	// Wrapped is the wrapped data key.
	Wrapped []byte
}

// Causes of a header that is refused. They go into logs, not to callers.
var (
	errHeaderForm  = errors.New("header is malformed")
	errHeaderLimit = errors.New("header exceeds its limits")
)

func (h Header) check() error {
	switch {
	case h.SegmentSize != Segment64KiB && h.SegmentSize != Segment1MiB:
		return fmt.Errorf("segment size %d: %w", h.SegmentSize, errHeaderForm)
	case h.Service == "" || len(h.Wrapped) == 0 || h.KeyVersion == "":
		return errHeaderForm
	case len(h.Service) > maxService || len(h.Resource) > maxResource || len(h.KeyVersion) > maxKeyVersion || len(h.Wrapped) > maxWrapped:
		return errHeaderLimit
	}
	return nil
}

// bound returns the part of the header that the body is bound to. The envelope
// is not in it, so that it can be exchanged without touching the body: the
// wrapped key is authenticated by being unwrapped, and the name of its version
// by being compared with what the cluster says.
func (h Header) bound() []byte {
	b := append(make([]byte, 0, maxBound), algorithm)
	b = binary.BigEndian.AppendUint32(b, uint32(h.SegmentSize)) //nolint:gosec // One of two constants.
	b = lp(b, h.Service)
	return lp(b, h.Resource)
}

// encode returns the header as it stands in a file.
func (h Header) encode() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, errs.New(errs.InvalidArgument, "the header of the stream cannot be written", errs.Cause(err),
			errs.Hint("a service name has up to %d bytes, a resource up to %d", maxService, maxResource))
	}
	b := lp([]byte(magic), h.bound())
	return lp(b, lp(lp(nil, h.KeyVersion), h.Wrapped)), nil
}

// aad returns the associated data of the body.
//
// What the caller adds stands at the end, and nothing stands there when it is
// empty, so that streams without it are what they were before there was any. No
// two inputs give the same bytes: what comes before it tells its own length, by
// the number of pairs and the length of each part, so it is read in one way
// only; then come either no bytes or at least five.
func (h Header) aad(context map[string]string, added []byte) []byte {
	b := append(lp(nil, "krypton/v1/stream"), magic...)
	b = lp(b, h.bound())
	b = binary.BigEndian.AppendUint32(b, uint32(len(context))) //nolint:gosec // At most 64, or the cluster refuses it.
	for _, k := range slices.Sorted(maps.Keys(context)) {
		b = lp(lp(b, k), context[k])
	}
	if len(added) > 0 {
		b = lp(b, added)
	}
	return b
}

// ReadHeader reads the header of a stream and leaves r at its body. An error is
// of code INTEGRITY, or that of r.
func ReadHeader(r io.Reader) (Header, error) {
	var start [len(magic)]byte
	switch n, err := io.ReadFull(r, start[:]); {
	case err != nil && !ended(err):
		return Header{}, err
	case string(start[:n]) != magic:
		return Header{}, errs.New(errs.Integrity, "this is not a file that krypton encrypted", errs.Hint("such a file begins with KRYPTS1"))
	}
	bound, err := readPart(r, maxBound)
	if err != nil {
		return Header{}, err
	}
	envelope, err := readPart(r, maxEnvelope)
	if err != nil {
		return Header{}, err
	}
	h, err := parse(bound, envelope)
	if err != nil {
		return Header{}, errs.DoesNotOpen(err)
	}
	return h, nil
}

// readPart reads one length-prefixed part. The length is checked before
// anything is allocated.
func readPart(r io.Reader, limit int) ([]byte, error) {
	short := func(err error) error {
		if ended(err) {
			return errs.DoesNotOpen(err)
		}
		return err
	}
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, short(err)
	}
	size := binary.BigEndian.Uint32(n[:])
	if int64(size) > int64(limit) {
		return nil, errs.DoesNotOpen(errHeaderLimit)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, short(err)
	}
	return b, nil
}

// ended reports whether err is what io.ReadFull says of a reader that ended.
// What wraps io.EOF is not: a connection that broke says so.
func ended(err error) bool {
	return err == io.EOF || err == io.ErrUnexpectedEOF //nolint:errorlint // On purpose, see above.
}

func parse(bound, envelope []byte) (Header, error) {
	var h Header
	if len(bound) < 5 || bound[0] != algorithm {
		return h, errHeaderForm
	}
	h.SegmentSize = int(binary.BigEndian.Uint32(bound[1:]))
	service, rest, ok1 := cut(bound[5:])
	resource, rest, ok2 := cut(rest)
	version, erest, ok3 := cut(envelope)
	wrapped, erest, ok4 := cut(erest)
	if !ok1 || !ok2 || !ok3 || !ok4 || len(rest) != 0 || len(erest) != 0 {
		return h, errHeaderForm
	}
	h.Service, h.Resource, h.KeyVersion, h.Wrapped = string(service), string(resource), string(version), wrapped
	return h, h.check()
}

// lp appends the length of part as u32, and part.
func lp[T ~string | ~[]byte](b []byte, part T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // Bounded by the limits of a header and a context.
	return append(b, part...)
}

func cut(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n, rest := int64(binary.BigEndian.Uint32(b)), b[4:]
	if int64(len(rest)) < n {
		return nil, nil, false
	}
	return rest[:n:n], rest[n:], true
}
