package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Names of files in the directory of a log. Changing them loses old segments.
const (
	segmentSuffix = ".jsonl"
	segmentDigits = 20 // every uint64 in decimal, so that names sort as numbers
	reserveName   = "reserve"
)

// segmentName returns the name of the segment whose first record has seq first.
func segmentName(first uint64) string {
	return fmt.Sprintf("%0*d%s", segmentDigits, first, segmentSuffix)
}

// firstOf is the inverse of segmentName.
func firstOf(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != segmentDigits {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0 && segmentName(first) == name
}

// segments returns the names of the segments in dir in order of their records.
func segments(fsys FS, dir string) ([]string, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { _, ok := firstOf(n); return !ok })
	slices.Sort(names)
	return names, nil
}

// Summary is what a verified chain proves about its directory. It does not prove
// that nothing was cut off its ends: for that, compare First, Last and Head with
// what the cluster remembers of this node.
type Summary struct {
	Segments int
	Records  uint64
	Bytes    int64
	First    uint64   // seq of the first record; over 1 when older segments were retired
	Last     uint64   // seq of the last record; 0 for an empty log
	Head     [32]byte // SHA-256 of the last line
	Torn     int64    // bytes of an unfinished last line, which a crash or a running writer leaves
}

// BrokenError says where a chain is broken.
type BrokenError struct {
	File   string // name of the segment
	Line   int    // counts from 1
	Reason string
}

// Error returns file, line and reason.
func (b *BrokenError) Error() string {
	return fmt.Sprintf("audit log is broken at %s line %d: %s", b.File, b.Line, b.Reason)
}

// Unwrap returns the error that a caller may see.
func (b *BrokenError) Unwrap() error {
	return errs.New(errs.StateCorrupt, b.Error(),
		errs.Hint("keep the directory as evidence, move it away, and compare it with the cluster's anchors"))
}

// Verify checks every line and every link of the log in dir and returns what it
// proves. The error is a [*BrokenError], or one of reading.
func Verify(dir string) (Summary, error) {
	return scan(OS{}, dir, nil)
}

// Read verifies the log in dir and calls fn with each record in order, before
// the rest is verified. It stops at the first error of fn and returns it.
func Read(dir string, fn func(Record) error) (Summary, error) {
	return scan(OS{}, dir, fn)
}

func scan(fsys FS, dir string, fn func(Record) error) (Summary, error) {
	names, err := segments(fsys, dir)
	if err != nil {
		return Summary{}, fmt.Errorf("list audit log: %w", err)
	}
	var c chain
	for i, name := range names {
		rest, err := c.segment(fsys, dir, name, fn)
		if err != nil {
			return c.sum, err
		}
		if i < len(names)-1 {
			if err := c.ended(name, rest); err != nil {
				return c.sum, err
			}
		}
		c.sum.Torn = rest
	}
	return c.sum, nil
}

// chain walks over lines and remembers what the next one must say.
type chain struct {
	sum  Summary
	line int // of the last line in the current segment, from 1
}

// segment checks one segment and returns the length of an unfinished last line.
func (c *chain) segment(fsys FS, dir, name string, fn func(Record) error) (torn int64, err error) {
	first, ok := firstOf(name)
	if !ok || c.sum.Records > 0 && first != c.sum.Last+1 {
		return 0, &BrokenError{File: name, Line: 1, Reason: fmt.Sprintf("segment does not follow record %d", c.sum.Last)}
	}
	f, err := fsys.Open(filepath.Join(dir, name))
	if err != nil {
		return 0, fmt.Errorf("open segment: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close segment: %w", cerr)
		}
	}()
	c.sum.Segments++
	c.line = 0
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, n, err := readLine(r)
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case errors.Is(err, errLine):
			return 0, &BrokenError{File: name, Line: c.line + 1, Reason: "line is longer than any record"}
		case err != nil:
			return 0, fmt.Errorf("read segment %s: %w", name, err)
		}
		c.line++
		if err := c.add(name, first, line, fn); err != nil {
			return 0, err
		}
		c.sum.Bytes += n
	}
}

// ended reports why a segment that is not the last one is not complete: a
// segment is made durable before the next one begins, so no crash leaves it so.
func (c *chain) ended(name string, torn int64) error {
	switch {
	case torn > 0:
		return &BrokenError{File: name, Line: c.line + 1, Reason: "line is not ended, and more segments follow"}
	case c.line == 0:
		return &BrokenError{File: name, Line: 1, Reason: "segment is empty, and more segments follow"}
	}
	return nil
}

func (c *chain) add(name string, first uint64, line []byte, fn func(Record) error) error {
	k := skipText
	if fn != nil {
		k = keepText
	}
	rec, err := decode(line, k)
	if err != nil {
		return &BrokenError{File: name, Line: c.line, Reason: err.Error()}
	}
	switch {
	case c.sum.Records > 0 && rec.Seq != c.sum.Last+1,
		c.sum.Records == 0 && rec.Seq != first:
		return &BrokenError{File: name, Line: c.line, Reason: fmt.Sprintf("record %d does not follow record %d", rec.Seq, c.sum.Last)}
	case c.sum.Records > 0 && rec.Prev != c.sum.Head,
		rec.Seq == 1 && rec.Prev != [32]byte{}:
		return &BrokenError{File: name, Line: c.line, Reason: "hash of the line before does not match"}
	}
	if c.sum.Records == 0 {
		c.sum.First = rec.Seq
	}
	c.sum.Records++
	c.sum.Last = rec.Seq
	c.sum.Head = sha256.Sum256(line)
	if fn != nil {
		return fn(rec)
	}
	return nil
}

// readLine returns the next line without its newline, and its length with it.
// At the end it returns io.EOF and the length of what stands behind the last
// newline; that may be long, because a crash can leave blocks of zeros. A
// finished line longer than any record is errLine.
func readLine(r *bufio.Reader) (line []byte, n int64, err error) {
	line, err = r.ReadSlice('\n')
	n = int64(len(line))
	if err == nil {
		return bytes.TrimSuffix(line, []byte{'\n'}), n, nil
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = r.ReadSlice('\n')
		n += int64(len(line))
	}
	if err == nil {
		return nil, n, errLine
	}
	return nil, n, err
}
