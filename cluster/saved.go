package cluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Saved is a state of the registry that was read from a snapshot file or from the data
// directory of a node that does not run. Everything in it was checked as far as that
// goes without the MasterKey; [Saved.Verify] does the rest. It is used by one goroutine.
type Saved struct {
	Header  *clusterpb.SnapshotFileHeader // of a directory: as a file of it would have it
	Entries uint64                        // of the log, behind the snapshot
	Bytes   int64                         // of a file

	machine  *fsm.Machine
	proofs   *proofs
	chains   chains
	key      macFunc // nil: nobody has the MasterKey
	snapshot place   // end of the snapshot; zero: there is none
	last     place   // last entry
}

// place is an entry of the log by term and index.
type place struct{ term, index uint64 }

// View returns the state.
func (s *Saved) View() *fsm.View { return s.machine.View() }

// HasSnapshot reports whether there is a snapshot; else the state comes from the log alone.
func (s *Saved) HasSnapshot() bool { return s.snapshot.index != 0 }

func newSaved() *Saved {
	s := &Saved{machine: fsm.New(fsm.Options{})}
	s.proofs = &proofs{fail: func(error) {}, mac: func(g hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
		if s.key == nil {
			return sum, false
		}
		return s.key(g, parts...)
	}}
	s.machine.Watch(func(p fsm.Published, swap func()) {
		if p.Restored {
			s.proofs.restored(p.View)
		}
		swap()
	}, func() {})
	return s
}

// restore begins with a snapshot that ends with that entry of the log.
func (s *Saved) restore(at place, r io.Reader) error {
	if err := s.machine.Restore(r); err != nil {
		return err
	}
	index, term, chain := s.machine.Applied()
	if index > at.index || term > at.term {
		return badFile("its snapshot goes further than it says")
	}
	s.chains.note(index, chain)
	s.snapshot, s.last = at, at
	return nil
}

// entry applies an entry of the log, as a node that starts does.
func (s *Saved) entry(l *raft.Log) error {
	if s.last.index != 0 && l.Index != s.last.index+1 || s.last.index == 0 && l.Index != 1 || l.Term < s.last.term {
		return badFile("entry %d does not follow what is before it", l.Index)
	}
	s.last = place{l.Term, l.Index}
	s.Entries++
	if l.Type != raft.LogCommand {
		return nil
	}
	apply := s.machine.Apply
	if !s.proofs.judge(l, s.machine.View(), s.chains.of) {
		apply = s.machine.ApplyUnproved
	}
	if _, err := apply(l.Index, l.Term, l.Data); err != nil {
		return errs.New(errs.StateCorrupt, fmt.Sprintf("entry %d cannot be applied: %s", l.Index, err), errs.Hint("use the release that wrote it, or a newer one"), errs.Cause(err))
	}
	index, _, chain := s.machine.Applied()
	s.chains.note(index, chain)
	return nil
}

// whole checks what can be checked of a state without the MasterKey.
func (s *Saved) whole() error {
	if !s.View().Initialized() {
		return errs.New(errs.FailedState, "there is no cluster in it", errs.Hint("save a snapshot of a node that belongs to one"))
	}
	return s.proofs.failed()
}

// Verify verifies with the keys of snapshots whether nodes that had the MasterKeys wrote
// all of it. Errors: StateCorrupt: they did not; Sealed: there is no key of a MasterKey
// that was in force for a part of it.
func (s *Saved) Verify(key fsm.MACFunc) error {
	s.key = key
	defer func() { s.key = nil }()
	if p, ok := s.machine.RestoreProof(); ok {
		if err := p.Verify(key); err != nil {
			return err
		}
	}
	return s.proofs.verified()
}

// header is what a file of the state says of itself.
func (s *Saved) header() *clusterpb.SnapshotFileHeader {
	v := s.View()
	c := v.Cluster()
	return &clusterpb.SnapshotFileHeader{
		KeyspaceId: c.GetKeyspaceId(), ClusterId: c.GetClusterId(), Fingerprint: c.GetFingerprint(), Incarnation: v.Incarnation().GetId(),
		Index: v.Index(), SnapshotIndex: s.snapshot.index, SnapshotTerm: s.snapshot.term,
	}
}

// LoadFile reads a snapshot file to its end.
func LoadFile(r io.Reader) (*Saved, error) {
	s := newSaved()
	err := eachOfFile(r, func(h *clusterpb.SnapshotFileHeader) error { s.Header = h; return nil }, s.restore, s.entry)
	if err == nil {
		err = s.whole()
	}
	if err != nil {
		return nil, err
	}
	h, is := s.Header, s.header()
	if string(h.GetFingerprint()) != string(is.GetFingerprint()) || string(h.GetKeyspaceId()) != string(is.GetKeyspaceId()) || string(h.GetClusterId()) != string(is.GetClusterId()) ||
		string(h.GetIncarnation()) != string(is.GetIncarnation()) || h.GetIndex() != is.GetIndex() {
		return nil, badFile("its header is of another state")
	}
	return s, nil
}

// eachOfFile reads a snapshot file and gives what is in it to its callers.
func eachOfFile(r io.Reader, head func(*clusterpb.SnapshotFileHeader) error, snapshot func(place, io.Reader) error, entry func(*raft.Log) error) error {
	f, err := ReadSnapshotFile(r)
	if err != nil {
		return err
	}
	if err := head(f.Header()); err != nil {
		return err
	}
	if at := (place{f.Header().GetSnapshotTerm(), f.Header().GetSnapshotIndex()}); at.index != 0 {
		if err := snapshot(at, f); err != nil {
			return err
		}
	} else if n, err := f.Read(make([]byte, 1)); n != 0 {
		return badFile("it has a snapshot of which its header does not know")
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		l, err := f.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := entry(l); err != nil {
			return err
		}
	}
}

// LoadDir reads the state in the data directory of a node that does not run. Entries at
// the end of its log may never have been committed; they count, as they would if this
// node came to lead.
func LoadDir(d *Dir, clk clock.Clock, log *slog.Logger) (*Saved, error) {
	s := newSaved()
	if err := eachOfDir(d, clk, log, s.restore, s.entry); err != nil {
		return nil, err
	}
	if err := s.whole(); err != nil {
		return nil, err
	}
	if want, ok := d.Fingerprint(); ok && string(want[:]) != string(s.View().Cluster().GetFingerprint()) {
		return nil, errForeignLog(nil)
	}
	s.Header = s.header()
	s.Header.Node, s.Header.Stopped = string(d.NodeID()), true
	return s, nil
}

// eachOfDir is eachOfFile for a data directory.
func eachOfDir(d *Dir, clk clock.Clock, log *slog.Logger, snapshot func(place, io.Reader) error, entry func(*raft.Log) error) (err error) {
	st, err := openStore(d.Path(raftDB), clk, func(error) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	at := place{}
	snaps, list, err := stored(d, newRaftLog(log, clk))
	if err != nil {
		return err
	}
	for _, m := range list { // the newest first
		_, r, err := snaps.Open(m.ID)
		if err != nil {
			continue // Raft falls back on the one before, too
		}
		at = place{m.Term, m.Index}
		err = snapshot(at, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		break
	}
	if st.found.first > at.index+1 {
		return errs.New(errs.StateCorrupt, fmt.Sprintf("the Raft log begins at entry %d, and no snapshot can be read that reaches so far", st.found.first), errs.Hint("%s", startAnew))
	}
	for i := max(at.index+1, st.found.first); st.found.last != 0 && i <= st.found.last; i++ {
		var l raft.Log
		if err := st.GetLog(i, &l); err != nil {
			return err
		}
		if err := entry(&l); err != nil {
			return err
		}
	}
	return nil
}

// stored returns the snapshots of a data directory.
func stored(d *Dir, log hclog.Logger) (raft.SnapshotStore, []*raft.SnapshotMeta, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(d.Path(raftDir), 2, log)
	if err != nil {
		return nil, nil, dirError("use", d.Path(snapDir), err)
	}
	list, err := files.List()
	if err != nil {
		return nil, nil, dirError("read", d.Path(snapDir), err)
	}
	return files, list, nil
}

// SaveDir writes the state in the data directory of a node that does not run: its newest
// snapshot, and all entries behind it with their proofs, for which no MasterKey is
// needed.
func SaveDir(d *Dir, w io.Writer, release string, clk clock.Clock, log *slog.Logger) (*Saved, int64, error) {
	s, err := LoadDir(d, clk, log)
	if err != nil {
		return nil, 0, err
	}
	s.Header.Release, s.Header.SaveTimeMs = release, clk.Now().UnixMilli()
	f, err := NewSnapshotFile(w, s.Header)
	if err != nil {
		return nil, 0, err
	}
	err = eachOfDir(d, clk, log, func(_ place, r io.Reader) error {
		_, err := io.Copy(f, r)
		return err
	}, f.Entry)
	if err != nil {
		return nil, 0, err
	}
	n, err := f.Close()
	return s, n, err
}

// SaveView writes a snapshot file of a view of a running node. The error has code Sealed
// if mac has no key.
func SaveView(v *fsm.View, w io.Writer, mac fsm.MACFunc, h *clusterpb.SnapshotFileHeader) (int64, error) {
	index, term, _ := v.Applied()
	c := v.Cluster()
	h.KeyspaceId, h.ClusterId, h.Fingerprint, h.Incarnation = c.GetKeyspaceId(), c.GetClusterId(), c.GetFingerprint(), v.Incarnation().GetId()
	h.Index, h.SnapshotIndex, h.SnapshotTerm = index, index, term
	f, err := NewSnapshotFile(w, h)
	if err != nil {
		return 0, err
	}
	sealed := false
	if _, err := v.Snapshot().WriteTo(f, func(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
		sum, ok := mac(g, parts...)
		sealed = !ok
		return sum, ok
	}); err != nil {
		return 0, err
	}
	if sealed {
		return 0, errs.New(errs.Sealed, "a sealed node cannot prove a snapshot", errs.Hint("unseal it: krypton unseal; or ask another node"))
	}
	return f.Close()
}
