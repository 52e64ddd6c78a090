package cluster

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// loopback is a stream layer whose connections come back to it.
type loopback struct{ net.Listener }

func (l loopback) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return (&net.Dialer{}).Dial("tcp", l.Listener.Addr().String())
}

// twoTransports are a sender and a receiver that answers every message with no.
func twoTransports(t *testing.T) *raft.NetworkTransport {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: loopback{ln}, Timeout: 10 * time.Second, MaxPool: 3, Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard}),
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case rpc := <-trans.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Success: false}, nil)
			case <-stop:
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = trans.Close()
		close(stop)
		wg.Wait()
	})
	return trans
}

// TestWhoSendsIsNotKeptByWhoStoppedListening: messages are taken although nobody takes
// the answers any more. The library alone keeps who sends for ever at the third.
func TestWhoSendsIsNotKeptByWhoStoppedListening(t *testing.T) {
	inner, err := twoTransports(t).AppendEntriesPipeline("x", "x")
	if err != nil {
		t.Fatal(err)
	}
	p := newPipeline(inner)
	const n = 8
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := range n {
			if _, err = p.AppendEntries(&raft.AppendEntriesRequest{Term: uint64(i + 1)}, new(raft.AppendEntriesResponse)); err != nil {
				break
			}
		}
		sent <- err
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-t.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("who sends is kept, although nobody waits for answers")
	}
	// Whoever looks later finds all of them, in order.
	for i := range n {
		if f := <-p.Consumer(); f.Request().Term != uint64(i+1) {
			t.Fatalf("answer %d is of message %d", i+1, f.Request().Term)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.ended:
	default:
		t.Error("something of the pipeline runs after Close")
	}
	_ = p.Close() // as the library may
}
