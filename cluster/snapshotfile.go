package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// The layout of a snapshot file, integers big endian. Changing any of it makes every
// file that is kept somewhere unreadable.
//
//	"KRYPFILE" | u32 format
//	u32 len | SnapshotFileHeader
//	any number of:  u8 1 | u32 len | piece of a snapshot
//	any number of:  u8 2 | u32 len | SnapshotFileEntry     indexes without a gap
//	u8 0 | u64 number of pieces and entries
//	32 bytes SHA-256 of everything before
const (
	snapshotFileMagic = "KRYPFILE"
	// SnapshotFileFormat is the only format of snapshot files so far.
	SnapshotFileFormat = 1

	maxFileHeader = 64 << 10
	filePiece     = 1 << 20
	// maxFileEntry bounds an entry with its frame: of the log, with its proof.
	maxFileEntry = MaxEntry + 4096

	kindEnd, kindPiece, kindEntry = 0, 1, 2
)

// SnapshotFileWriter writes a snapshot file: first the pieces of a snapshot, which are
// what is written to it, then entries, then Close. It buffers at most one piece.
type SnapshotFileWriter struct {
	w       io.Writer
	sum     hash.Hash
	buf     bytes.Buffer
	frames  uint64
	entries uint64 // index of the last one
	written int64
	err     error
}

// NewSnapshotFile begins a snapshot file.
func NewSnapshotFile(w io.Writer, h *clusterpb.SnapshotFileHeader) (*SnapshotFileWriter, error) {
	f := &SnapshotFileWriter{w: w, sum: sha256.New()}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFileHeader {
		return nil, errs.New(errs.TooLarge, "the header of the snapshot file is too large")
	}
	f.bytes([]byte(snapshotFileMagic))
	f.bytes(binary.BigEndian.AppendUint32(nil, SnapshotFileFormat))
	f.bytes(binary.BigEndian.AppendUint32(nil, uint32(len(raw)))) //nolint:gosec // At most maxFileHeader.
	f.bytes(raw)
	return f, f.err
}

func (f *SnapshotFileWriter) bytes(b []byte) {
	if f.err != nil {
		return
	}
	f.sum.Write(b)
	n, err := f.w.Write(b)
	f.written += int64(n)
	f.err = err
}

func (f *SnapshotFileWriter) frame(kind byte, b []byte) {
	f.bytes(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b)))) //nolint:gosec // At most maxFileEntry.
	f.bytes(b)
	f.frames++
}

// Write implements [io.Writer]: more of the snapshot.
func (f *SnapshotFileWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 && f.err == nil {
		part := b[:min(len(b), filePiece-f.buf.Len())]
		f.buf.Write(part)
		b = b[len(part):]
		if f.buf.Len() == filePiece {
			f.flush()
		}
	}
	if f.err != nil {
		return 0, f.err
	}
	return n, nil
}

func (f *SnapshotFileWriter) flush() {
	if f.buf.Len() > 0 {
		f.frame(kindPiece, f.buf.Bytes())
		f.buf.Reset()
	}
}

// Entry writes the next entry of the log.
func (f *SnapshotFileWriter) Entry(l *raft.Log) error {
	f.flush()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&clusterpb.SnapshotFileEntry{
		Index: l.Index, Term: l.Term, Type: uint32(l.Type), Data: l.Data, Extensions: l.Extensions,
	})
	switch {
	case err != nil:
		return err
	case len(raw) > maxFileEntry:
		return errs.Newf(errs.TooLarge, "entry %d of the log is too large for a snapshot file", l.Index)
	case f.entries != 0 && l.Index != f.entries+1:
		return errs.Newf(errs.StateCorrupt, "entry %d of the log does not follow entry %d", l.Index, f.entries)
	}
	f.entries = l.Index
	f.frame(kindEntry, raw)
	return f.err
}

// Close ends the file and returns how many bytes it has. It does not close what is
// written to.
func (f *SnapshotFileWriter) Close() (int64, error) {
	f.flush()
	f.bytes([]byte{kindEnd})
	f.bytes(binary.BigEndian.AppendUint64(nil, f.frames))
	f.bytes(f.sum.Sum(nil))
	return f.written, f.err
}

// SnapshotFileReader reads a snapshot file as if an enemy had written it: the snapshot,
// then the entries. That it is whole is known only once Next returned [io.EOF].
type SnapshotFileReader struct {
	r      io.Reader
	sum    hash.Hash
	head   *clusterpb.SnapshotFileHeader
	frames uint64
	last   uint64
	piece  []byte // what of the present piece was not read
	next   []byte // the first entry, met by whoever read the snapshot
	state  readState
	ended  bool
}

type readState int

const (
	inSnapshot readState = iota
	inEntries
)

func badFile(format string, args ...any) error {
	return errs.Newf(errs.StateCorrupt, "the snapshot file is damaged: "+format, args...).
		With(errs.Hint("use another copy; krypton operator snapshot verify tells whether it is whole"))
}

// ReadSnapshotFile begins to read a snapshot file. Errors have the code STATE_CORRUPT,
// except for those of r.
func ReadSnapshotFile(r io.Reader) (*SnapshotFileReader, error) {
	f := &SnapshotFileReader{r: r, sum: sha256.New()}
	head, err := f.bytes(len(snapshotFileMagic) + 8)
	if err != nil {
		return nil, err
	}
	if string(head[:len(snapshotFileMagic)]) != snapshotFileMagic {
		return nil, errs.New(errs.StateCorrupt, "this is no snapshot file", errs.Hint("krypton operator snapshot save makes one"))
	}
	if v := binary.BigEndian.Uint32(head[len(snapshotFileMagic):]); v != SnapshotFileFormat {
		return nil, errs.Newf(errs.StateCorrupt, "the snapshot file has format %d, this release reads %d", v, SnapshotFileFormat).With(errs.Hint("use a newer release"))
	}
	n := binary.BigEndian.Uint32(head[len(snapshotFileMagic)+4:])
	if n > maxFileHeader {
		return nil, badFile("its header is longer than it may be")
	}
	raw, err := f.bytes(int(n))
	if err != nil {
		return nil, err
	}
	f.head = &clusterpb.SnapshotFileHeader{}
	if err := proto.Unmarshal(raw, f.head); err != nil || !understood(f.head.ProtoReflect()) {
		return nil, badFile("its header does not decode, or has fields that this release does not know")
	}
	return f, nil
}

// Header returns what the file says about itself. Nothing proves it.
func (f *SnapshotFileReader) Header() *clusterpb.SnapshotFileHeader { return f.head }

// bytes reads n bytes. It grows with what is there, not with what a length says.
func (f *SnapshotFileReader) bytes(n int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f.r, int64(n)))
	switch {
	case err != nil:
		return nil, err
	case len(b) < n:
		return nil, badFile("it is cut short")
	}
	f.sum.Write(b)
	return b, nil
}

// frame reads the next frame; kindEnd after the end was verified.
func (f *SnapshotFileReader) frame() (kind byte, b []byte, err error) {
	k, err := f.bytes(1)
	if err != nil {
		return 0, nil, err
	}
	switch k[0] {
	case kindEnd:
		return kindEnd, nil, f.end()
	case kindPiece, kindEntry:
	default:
		return 0, nil, badFile("it has a part of an unknown kind")
	}
	length, err := f.bytes(4)
	if err != nil {
		return 0, nil, err
	}
	n, limit := binary.BigEndian.Uint32(length), uint32(filePiece)
	if k[0] == kindEntry {
		limit = maxFileEntry
	}
	if n == 0 || n > limit {
		return 0, nil, badFile("a length exceeds its limit, or is nothing")
	}
	f.frames++
	b, err = f.bytes(int(n))
	return k[0], b, err
}

func (f *SnapshotFileReader) end() error {
	count, err := f.bytes(8)
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint64(count) != f.frames {
		return badFile("it has another number of parts than it says")
	}
	want := f.sum.Sum(nil)
	got, err := f.bytes(sha256.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return badFile("its checksum does not match")
	}
	if n, err := f.r.Read(make([]byte, 1)); n != 0 {
		return badFile("something follows its end")
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	f.ended = true
	return nil
}

// Read implements [io.Reader]: the snapshot, which may be empty, up to its end.
func (f *SnapshotFileReader) Read(p []byte) (int, error) {
	for len(f.piece) == 0 {
		if f.state != inSnapshot || f.ended {
			return 0, io.EOF
		}
		kind, b, err := f.frame()
		switch {
		case err != nil:
			return 0, err
		case kind == kindEnd:
			return 0, io.EOF
		case kind == kindEntry:
			f.next, f.state = b, inEntries
			return 0, io.EOF
		}
		f.piece = b
	}
	n := copy(p, f.piece)
	f.piece = f.piece[n:]
	return n, nil
}

// Next returns the next entry of the log, after the snapshot was read to its end, and
// [io.EOF] once there is none and the checksum of the file was right.
func (f *SnapshotFileReader) Next() (*raft.Log, error) {
	if f.state == inSnapshot && !f.ended {
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{f}); err != nil {
			return nil, err
		}
	}
	raw := f.next
	f.next = nil
	if raw == nil {
		if f.ended {
			return nil, io.EOF
		}
		kind, b, err := f.frame()
		switch {
		case err != nil:
			return nil, err
		case kind == kindEnd:
			return nil, io.EOF
		case kind != kindEntry:
			return nil, badFile("a piece of the snapshot stands behind an entry of the log")
		}
		raw = b
	}
	e := &clusterpb.SnapshotFileEntry{}
	if err := proto.Unmarshal(raw, e); err != nil || !understood(e.ProtoReflect()) {
		return nil, badFile("an entry does not decode")
	}
	t := raft.LogType(min(e.GetType(), 255))
	switch {
	case e.GetIndex() == 0 || e.GetTerm() == 0 || f.last != 0 && e.GetIndex() != f.last+1:
		return nil, badFile("an entry is missing, or stands elsewhere")
	case len(e.GetData()) > MaxEntry || len(e.GetExtensions()) > laterProofBytes:
		return nil, badFile("an entry is larger than it may be")
	case t != raft.LogCommand && t != raft.LogNoop && t != raft.LogConfiguration && t != raft.LogBarrier:
		return nil, badFile("an entry is of an unknown kind")
	}
	f.last = e.GetIndex()
	return &raft.Log{Index: e.GetIndex(), Term: e.GetTerm(), Type: t, Data: e.GetData(), Extensions: e.GetExtensions()}, nil
}
