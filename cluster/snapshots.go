package cluster

import (
	"errors"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// snapshots are Raft's snapshots on disk. They tell the log where they end, and which
// of them another member sent.
type snapshots struct {
	raft.SnapshotStore

	kept func(lease.Mark)
	// foreign is told of one that another member sent, before it is on disk whole. Its
	// error keeps it from that.
	foreign func() error
	// readers are those who read a snapshot now: this node, or a member to which it is sent.
	readers *readers
}

// readers counts who reads which snapshot.
type readers struct {
	mu sync.Mutex
	of map[string]int // by snapshot id
}

func (r *readers) add(id string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]int{}
	}
	if r.of[id] += n; r.of[id] == 0 {
		delete(r.of, id)
	}
}

// unlessRead runs f unless somebody reads the snapshot; nobody begins to meanwhile.
func (r *readers) unlessRead(id string, f func() error) (read bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[id] > 0 {
		return true, nil
	}
	return false, f()
}

// Open implements [raft.SnapshotStore].
func (s snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.readers.add(id, 1) // before it is looked for: who removes it asks first
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		s.readers.add(id, -1)
		return nil, nil, err
	}
	return meta, s.counted(id, r), nil
}

// whole reports whether all of a snapshot can be read.
func (s snapshots) whole(id string) bool {
	_, r, err := s.Open(id)
	return err == nil && r.Close() == nil
}

// counted is a reader of a snapshot that was counted.
func (s snapshots) counted(id string, r io.ReadCloser) io.ReadCloser {
	return &countedReader{ReadCloser: r, end: sync.OnceFunc(func() { s.readers.add(id, -1) })}
}

// countedReader is a snapshot that is read.
type countedReader struct {
	io.ReadCloser

	end func()
}

// Close implements [io.Closer].
func (r *countedReader) Close() error {
	defer r.end()
	return r.ReadCloser.Close()
}

// Create implements [raft.SnapshotStore].
func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &keptSink{SnapshotSink: sink, kept: func() { s.kept(lease.Mark{Term: term, Index: index}) }, foreign: s.foreign}, nil
}

// keptSink reports a snapshot that is on disk whole.
type keptSink struct {
	raft.SnapshotSink

	kept    func()
	foreign func() error
	// own is set by who writes this node's own state. Raft makes a sink for what it is
	// sent in the same way, and does not say which it is.
	own bool
}

// Close implements [io.Closer].
func (s *keptSink) Close() error {
	if !s.own {
		if err := s.foreign(); err != nil {
			return errors.Join(err, s.Cancel())
		}
	}
	err := s.SnapshotSink.Close()
	if err == nil {
		s.kept()
	}
	return err
}
