package cluster

import (
	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/lease"
)

// snapshots are Raft's snapshots on disk. They tell the log where they end.
type snapshots struct {
	raft.SnapshotStore

	kept func(lease.Mark)
}

// Create implements [raft.SnapshotStore].
func (s snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return keptSink{sink, func() { s.kept(lease.Mark{Term: term, Index: index}) }}, nil
}

// keptSink reports a snapshot that is on disk whole.
type keptSink struct {
	raft.SnapshotSink

	kept func()
}

// Close implements [io.Closer].
func (s keptSink) Close() error {
	err := s.SnapshotSink.Close()
	if err == nil {
		s.kept()
	}
	return err
}
