package audit

// tail is where a log goes on.
type tail struct {
	name string // of the segment to append to
	seq  uint64 // of the last whole record; 0 = none
	head [32]byte
	size int64 // of the whole records in the segment
	torn int64 // bytes behind them
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
	t := tail{name: last, seq: c.sum.Last, head: c.sum.Head, size: c.sum.Bytes, torn: torn}
	if first, _ := firstOf(last); c.sum.Records == 0 && first != 1 {
		// One empty segment, and all before it retired: nothing links it to the past.
		return tail{}, &BrokenError{File: last, Line: 1, Reason: "segment is empty and the one before it is gone"}
	}
	return t, nil
}
