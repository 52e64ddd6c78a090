package cluster

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// applied stands for Raft: what it has applied and in which term it is.
type applied struct{ term, index atomic.Uint64 }

func (a *applied) CurrentTerm() uint64  { return a.term.Load() }
func (a *applied) AppliedIndex() uint64 { return a.index.Load() }

func snapshotTo(term, index uint64) (raft.RPC, *bytes.Reader, <-chan raft.RPCResponse) {
	answers := make(chan raft.RPCResponse, 1)
	data := bytes.NewReader([]byte("state"))
	return raft.RPC{
		Command: &raft.InstallSnapshotRequest{Term: term, LastLogIndex: index}, Reader: data, RespChan: answers,
	}, data, answers
}

func TestASnapshotThatWasOvertakenDoesNotTakeTheStateBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newArrivals()
		var now applied
		now.term.Store(3)
		now.index.Store(100)
		consume, done := make(chan raft.RPC), make(chan struct{})
		for _, tc := range []struct {
			what        string
			term, index uint64
			installed   bool
		}{
			{"from before", 3, 50, false},
			{"of what is applied", 3, 100, false},
			{"newer", 3, 101, true},
			{"of a later term, which Raft must hear of", 4, 50, true},
			{"of an earlier term, which Raft refuses", 2, 50, true},
		} {
			rpc, data, answers := snapshotTo(tc.term, tc.index)
			go in.hand(&now, rpc, consume, done)
			synctest.Wait()
			select {
			case got := <-consume:
				if !tc.installed {
					t.Errorf("a snapshot %s came to Raft", tc.what)
				}
				got.Respond(&raft.InstallSnapshotResponse{Term: 3, Success: true}, nil)
			default:
				if tc.installed {
					t.Errorf("a snapshot %s did not come to Raft", tc.what)
				}
			}
			synctest.Wait()
			if got := <-answers; got.Error != nil || !got.Response.(*raft.InstallSnapshotResponse).Success {
				t.Errorf("a snapshot %s: answered %+v", tc.what, got)
			}
			if left := data.Len(); !tc.installed && left != 0 {
				t.Errorf("a snapshot %s: %d bytes are left on the connection, before the next message", tc.what, left)
			}
		}

		// Two in the sockets of a node that goes on: the newer one is being installed
		// when the older one comes.
		newer, _, installed := snapshotTo(3, 200)
		older, _, answered := snapshotTo(3, 150)
		go in.hand(&now, newer, consume, done)
		first := <-consume
		go in.hand(&now, older, consume, done)
		synctest.Wait()
		select {
		case <-consume:
			t.Fatal("the next message came to Raft while it was at the one before")
		default:
		}
		now.index.Store(200)
		first.Respond(&raft.InstallSnapshotResponse{Term: 3, Success: true}, nil)
		synctest.Wait()
		select {
		case <-consume:
			t.Error("the older snapshot came to Raft after the newer one")
		default:
		}
		<-installed
		<-answered

		// Raft stops and answers nobody.
		waits, _, _ := snapshotTo(3, 300)
		over := make(chan struct{})
		go func() {
			defer close(over)
			in.hand(&now, waits, consume, done)
		}()
		<-consume
		close(done)
		<-over
	})
}
