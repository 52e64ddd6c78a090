package cluster

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errSimLost = errors.New("lost on the way")
	errSimGone = errors.New("the process is gone")
	// errSimStream is of a stream that one of its ends gave up.
	errSimStream = status.Error(codes.Canceled, "the stream ended")
)

// A message waits while its way is cut and arrives when that is mended, as it
// does over TCP, unless that takes longer than its sender or its connection lasts.
const (
	simBreak   = 13 * time.Second // of a connection whose other end does not answer, as in production
	simTimeout = 5 * time.Second  // of a call of Raft
)

// simNet carries messages. Each direction between two nodes is a way of its own.
type simNet struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	profile Profile
	cuts    map[[2]int]int           // how many faults cut it
	slow    map[[2]int]time.Duration // how much longer it takes
	queued  map[[2]int]time.Duration // how much longer a stream of leases takes
	changed chan struct{}            // closed when a way changes
}

func newSimNet(seed uint64, profile Profile) *simNet {
	return &simNet{
		rnd: rand.New(rand.NewPCG(seed, 1)), profile: profile,
		cuts: map[[2]int]int{}, slow: map[[2]int]time.Duration{}, queued: map[[2]int]time.Duration{}, changed: make(chan struct{}),
	}
}

func (n *simNet) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// cut cuts the ways and returns what mends them.
func (n *simNet) cut(ways ...[2]int) (mend func()) {
	add := func(d int) func() {
		return func() {
			n.change(func() {
				for _, w := range ways {
					n.cuts[w] += d
				}
			})
		}
	}
	add(1)()
	return sync.OnceFunc(add(-1))
}

// delay makes the ways slower and returns what ends it.
func (n *simNet) delay(by time.Duration, ways ...[2]int) (mend func()) {
	return n.later(n.slow, by, ways...)
}

// queue is delay for streams of leases only.
func (n *simNet) queue(by time.Duration, ways ...[2]int) (mend func()) {
	return n.later(n.queued, by, ways...)
}

func (n *simNet) later(what map[[2]int]time.Duration, by time.Duration, ways ...[2]int) (mend func()) {
	add := func(d time.Duration) func() {
		return func() {
			n.change(func() {
				for _, w := range ways {
					what[w] += d
				}
			})
		}
	}
	add(by)()
	return sync.OnceFunc(add(-by))
}

func (n *simNet) random(below int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rnd.IntN(below)
}

// takes returns how long a message is on the way.
func (n *simNet) takes(from, to *simLife) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	base := n.profile.distance(from.node, to.node)
	d := base + time.Duration(n.rnd.Int64N(int64(n.profile.jitter(base))))
	if n.rnd.IntN(200) == 0 {
		d += 200*time.Millisecond + 2*base // lost once, and sent again
	}
	return d + n.slow[[2]int{from.node.n, to.node.n}]
}

// streams is takes for a message of a stream of leases.
func (n *simNet) streams(from, to *simLife) time.Duration {
	d := n.takes(from, to)
	n.mu.Lock()
	defer n.mu.Unlock()
	return d + n.queued[[2]int{from.node.n, to.node.n}]
}

// open reports whether the way is, and what is closed when that may change.
func (n *simNet) open(from, to *simLife) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[[2]int{from.node.n, to.node.n}] == 0, n.changed
}

// arrive waits until a message that was sent at that time is there, and the
// receiver runs.
func (n *simNet) arrive(from, to *simLife, at time.Time, bound time.Duration) error {
	late := time.NewTimer(bound)
	defer late.Stop()
	if !simSleep(time.Until(at), to.ended) {
		return errSimGone
	}
	for {
		ok, changed := n.open(from, to)
		if ok {
			break
		}
		select {
		case <-changed:
		case <-late.C:
			return errSimLost
		case <-to.ended:
			return errSimGone
		}
	}
	if !to.pass() {
		return errSimGone
	}
	return nil
}

// carry sends a message and waits until it is there.
func (n *simNet) carry(from, to *simLife, bound time.Duration) error {
	from.pass() // a message that a process has sent arrives although the process is gone
	return n.arrive(from, to, time.Now().Add(n.takes(from, to)), bound)
}

// simSleep reports whether d passed before ended was closed.
func simSleep(d time.Duration, ended <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ended:
		return false
	}
}

// simTransport is Raft's network.
type simTransport struct {
	life    *simLife
	consume chan raft.RPC

	arrivals arrivals

	mu        sync.Mutex
	heartbeat func(raft.RPC)
}

var (
	_ raft.Transport   = (*simTransport)(nil)
	_ raft.WithPreVote = (*simTransport)(nil)
)

func (t *simTransport) Consumer() <-chan raft.RPC { return t.consume }

func (t *simTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.life.c.id) }

func (t *simTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

func (t *simTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

func (t *simTransport) SetHeartbeatHandler(f func(raft.RPC)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heartbeat = f
}

func (t *simTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func simCall[R any](t *simTransport, to raft.ServerAddress, req any, resp *R, data []byte) error {
	r, err := t.call(NodeID(to), req, data)
	if err != nil {
		return err
	}
	got, ok := r.(*R)
	if !ok {
		return errSimLost
	}
	*resp = *got
	return nil
}

func (t *simTransport) AppendEntries(_ raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) RequestVote(_ raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if err := t.life.c.compared.mayLead(); err != nil {
		return err
	}
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if err := t.life.c.compared.mayLead(); err != nil {
		return err
	}
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return simCall(t, to, req, resp, nil)
}

func (t *simTransport) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, r io.Reader) error {
	if err := t.life.c.compared.mayLead(); err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return simCall(t, to, req, resp, data)
}

// call is one call of Raft. Its messages go on when the caller has given up, or died.
func (t *simTransport) call(id NodeID, req any, data []byte) (any, error) {
	from := t.life
	to := from.node.w.life(id)
	if to == nil || !from.pass() {
		simSleep(time.Millisecond, from.ended)
		return nil, errSimGone
	}
	done := make(chan raft.RPCResponse, 1)
	from.node.w.spawn(func() {
		resp, err := from.node.w.deliver(from, to, req, data)
		done <- raft.RPCResponse{Response: resp, Error: err}
	})
	late := time.NewTimer(simTimeout)
	defer late.Stop()
	select {
	case r := <-done:
		return r.Response, r.Error
	case <-late.C:
		return nil, errSimLost
	case <-from.ended:
		return nil, errSimGone
	}
}

// deliver brings a request of Raft, and its answer back.
func (w *simWorld) deliver(from, to *simLife, req any, data []byte) (any, error) {
	if err := w.net.carry(from, to, 2*simTimeout); err != nil {
		return nil, err
	}
	resp := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: req, RespChan: resp}
	if data != nil {
		rpc.Reader = bytes.NewReader(data)
		w.count(func(s *simStats) { s.Snapshots++ })

	}
	if h := to.trans.handler(); h != nil && isHeartbeat(req) {
		h(rpc)
	} else {
		to.trans.arrivals.hand(to.c.raft, rpc, to.trans.consume, to.ended)
	}
	select {
	case r := <-resp:
		if r.Error != nil {
			return nil, r.Error
		}
		if data != nil {
			w.again(from, to, req, data)
		}
		return r.Response, w.net.carry(to, from, 2*simTimeout)
	case <-to.ended:
		return nil, errSimGone
	}
}

// isHeartbeat tells what the transport of the library answers beside the main loop.
func isHeartbeat(req any) bool {
	r, ok := req.(*raft.AppendEntriesRequest)
	return ok && r.Term != 0 && len(r.Addr) != 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

func (t *simTransport) handler() func(raft.RPC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heartbeat
}
