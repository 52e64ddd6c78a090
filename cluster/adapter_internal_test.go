package cluster

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// sink is a snapshot in memory.
type sink struct {
	raft.SnapshotSink

	written, closed, cancelled int
}

func (s *sink) Write(p []byte) (int, error) { s.written += len(p); return len(p), nil }
func (s *sink) Close() error                { s.closed++; return nil }
func (s *sink) Cancel() error               { s.cancelled++; return nil }

func TestI14_ANodeThatIsSealedWhileItWritesASnapshotDropsIt(t *testing.T) {
	unsealed := true
	a := &adapter{machine: fsm.New(fsm.Options{}), mac: func(hierarchy.Generation, ...[]byte) ([32]byte, bool) { return [32]byte{1}, unsealed }}
	snap, err := a.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var good, bad sink
	if err := snap.Persist(&good); err != nil || good.closed != 1 || good.cancelled != 0 {
		t.Fatalf("unsealed: %v, %+v", err, good)
	}
	unsealed = false
	if err := snap.Persist(&bad); !errors.Is(err, errSealedSnapshot) || bad.closed != 0 || bad.cancelled != 1 {
		t.Fatalf("sealed meanwhile: %v, %+v", err, bad)
	}
	if _, err := a.Snapshot(); !errors.Is(err, errSealedSnapshot) {
		t.Fatalf("sealed before: %v", err)
	}
}
