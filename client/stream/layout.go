package stream

import (
	"fmt"
	"math"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// maxSegments is how many segments a stream has at most. The number of a segment
// is a u32 of which Tink leaves the greatest value unused.
const maxSegments = math.MaxUint32

// MaxPlaintext returns how many bytes a stream holds whose segments have
// segmentSize bytes: 2^48 - 16 (2^32 - 1) - 65576, a little less than 256 TiB, for
// [Segment64KiB], a little less than 4 PiB for [Segment1MiB], and 0 for every
// other size.
func MaxPlaintext(segmentSize int) int64 {
	if segmentSize != Segment64KiB && segmentSize != Segment1MiB {
		return 0
	}
	return maxSegments*(int64(segmentSize)-tagSize) - bodyHead
}

func errTooLarge(segmentSize int) error {
	hint := errs.Hint("split the data")
	if segmentSize == Segment64KiB {
		hint = errs.Hint("use segments of 1 MiB, for up to %d bytes", MaxPlaintext(Segment1MiB))
	}
	return errs.New(errs.TooLarge, fmt.Sprintf("a stream with segments of %d bytes holds at most %d bytes", segmentSize, MaxPlaintext(segmentSize)), hint)
}

// EncryptedSize returns the size of a stream with this header, header included,
// that holds plaintext bytes. Errors are of code TOO_LARGE beyond [MaxPlaintext],
// and INVALID_ARGUMENT for a negative number and a header that cannot be written.
func (h Header) EncryptedSize(plaintext int64) (int64, error) {
	head, err := h.encode()
	switch {
	case err != nil:
		return 0, err
	case plaintext < 0:
		return 0, errs.New(errs.InvalidArgument, "a plaintext has a negative size")
	case plaintext > MaxPlaintext(h.SegmentSize):
		return 0, errTooLarge(h.SegmentSize)
	}
	room := int64(h.SegmentSize) - tagSize
	segments := (plaintext + bodyHead + room - 1) / room // the head of the body stands in the room of the first
	return int64(len(head)) + bodyHead + plaintext + segments*tagSize, nil
}

// PlaintextSize is the inverse of [Header.EncryptedSize]: how many bytes a
// stream of size bytes with this header holds. It needs no key, and what it says
// is as authentic as size is; [ReaderAt.Size] is authenticated. An error is of
// code INTEGRITY for a size that no stream has, or TOO_LARGE.
func (h Header) PlaintextSize(size int64) (int64, error) {
	at, err := h.layout(size)
	if err != nil {
		return 0, err
	}
	return at.plaintext, nil
}

// layout is where the segments of a stream of known size are. Segment i is the
// bytes [i*segment, (i+1)*segment) of the body, as far as they exist, without the
// head that the body begins with.
type layout struct {
	head      int64 // bytes before the body
	segment   int64
	segments  int64 // at least 1
	size      int64 // of the whole stream
	plaintext int64
}

func (h Header) layout(size int64) (layout, error) {
	head, err := h.encode()
	if err != nil {
		return layout{}, err
	}
	at := layout{head: int64(len(head)), segment: int64(h.SegmentSize), size: size}
	if size < at.head+bodyHead+tagSize {
		return layout{}, errs.DoesNotOpen(errShort)
	}
	body := size - at.head
	at.segments = (body-1)/at.segment + 1 // body+segment could be more than an int64
	if at.segments > maxSegments {
		return layout{}, errTooLarge(h.SegmentSize)
	}
	at.plaintext = body - bodyHead - at.segments*tagSize
	if from, to := at.place(at.segments - 1); to-from < tagSize {
		return layout{}, errs.DoesNotOpen(errShort)
	}
	return at, nil
}

// place returns where segment i begins and ends in the stream.
func (l layout) place(i int64) (from, to int64) {
	from = l.head + i*l.segment
	to = min(from+l.segment, l.size)
	if i == 0 {
		from += bodyHead
	}
	return from, to
}

// find returns the segment with the byte at offset off of the plaintext, and
// which byte of that segment it is.
func (l layout) find(off int64) (i, at int64) {
	room := l.segment - tagSize
	i, at = (off+bodyHead)/room, (off+bodyHead)%room
	if i == 0 {
		at -= bodyHead
	}
	return i, at
}

// last reports whether i is the last segment.
func (l layout) last(i int64) bool { return i == l.segments-1 }
