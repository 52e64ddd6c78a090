package cluster

import (
	"errors"

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
