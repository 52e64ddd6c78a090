package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// tail is where a log goes on.
type tail struct {
	name string // of the segment to append to
	seq  uint64 // of the last whole record; 0 = none
	head [32]byte
	size int64 // of the whole records in the segment
	torn int64 // bytes behind them

	lines int // whole records in the segment
}

// readTail verifies the last segment, and its link to the one before. Older
// segments are verify's business: a start must not take time in proportion to
// the retention.
func readTail(fsys FS, dir string) (tail, error) {
	names, err := segments(fsys, dir)
	if err != nil {
		return tail{}, err
	}
	if len(names) == 0 {
		return tail{name: segmentName(1)}, nil
	}
	var c chain
	last := names[len(names)-1]
	if len(names) > 1 {
		before := names[len(names)-2]
		torn, err := c.segment(fsys, dir, before, nil)
		if err != nil {
			return tail{}, err
		}
		if err := c.ended(before, torn); err != nil {
			return tail{}, err
		}
	}
	c.sum.Bytes = 0
	torn, err := c.segment(fsys, dir, last, nil)
	if err != nil {
		return tail{}, err
	}
	t := tail{name: last, seq: c.sum.Last, head: c.sum.Head, size: c.sum.Bytes, torn: torn, lines: c.line}
	if first, _ := firstOf(last); c.sum.Records == 0 && first != 1 {
		// One empty segment, and all before it retired: nothing links it to the past.
		return tail{}, &BrokenError{File: last, Line: 1, Reason: "segment is empty and the one before it is gone"}
	}
	if torn > 0 && t.lines == 0 {
		if err := cutShort(fsys, filepath.Join(dir, last), t); err != nil {
			return tail{}, err
		}
	}
	return t, nil
}

// cutShort returns nil if a segment without a whole line is what a crash leaves:
// the beginning of its first record, or blocks of zeros. Anything else is another
// file in the place of the trail, and cutting it off would destroy it. Behind
// whole lines everything is cut: file systems leave old blocks there.
func cutShort(fsys FS, name string, t tail) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	if _, err := io.CopyN(io.Discard, f, t.size); err != nil {
		return err
	}
	want := fmt.Sprintf(`{"seq":%d,"prev":"%x",`, t.seq+1, t.head)
	have := make([]byte, len(want))
	n, err := io.ReadFull(f, have)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	have = have[:n]
	if i := bytes.IndexByte(have, 0); i >= 0 {
		have = have[:i]
	}
	if strings.HasPrefix(want, string(have)) {
		return nil
	}
	return &BrokenError{File: t.name, Line: t.lines + 1, Reason: "what follows the last record is not the beginning of a record"}
}
