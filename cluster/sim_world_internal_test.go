package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// simPlan is what a history is made of. The seed decides all of it but the order of
// goroutines in one instant, and the random numbers of the Raft library.
type simPlan struct {
	faults []simFault
	length time.Duration // for how long faults happen
	calm   bool          // between faults the cluster comes to rest
	keys   int
}

// simStats is what happened in a history.
type simStats struct {
	Failovers int           `json:"failovers"` // epochs of leases, but the first
	Ops       int           `json:"ops"`       // answers that were checked
	Unknown   int           `json:"unknown"`   // changes of which the caller does not know what became
	Refused   int           `json:"refused"`   // operations that observed nothing
	Stale     int           `json:"stale"`     // answers by a state that was over before the question
	Rotations int           `json:"rotations"`
	Crashes   int           `json:"crashes"`
	Exits     int           `json:"exits"` // processes that ended by themselves
	Snapshots int           `json:"snapshots"`
	Overtaken int           `json:"overtaken"` // snapshots that came after what was sent later
	Members   int           `json:"members"`   // that joined or were removed
	Losses    int           `json:"losses"`    // of a leader, with gaps measured
	Gapped    int           `json:"gapped"`    // after which a node that was not hit could not serve for a while
	Simulated time.Duration `json:"simulated_ns"`
}

func (s *simStats) add(o simStats) {
	s.Failovers += o.Failovers
	s.Ops += o.Ops
	s.Unknown += o.Unknown
	s.Refused += o.Refused
	s.Stale += o.Stale
	s.Rotations += o.Rotations
	s.Crashes += o.Crashes
	s.Exits += o.Exits
	s.Snapshots += o.Snapshots
	s.Overtaken += o.Overtaken
	s.Members += o.Members
	s.Losses += o.Losses
	s.Gapped += o.Gapped
	s.Simulated += o.Simulated
}

// simResult is what a history showed.
type simResult struct {
	simStats

	Seed       uint64          `json:"seed"`
	Violations []string        `json:"violations,omitempty"`
	Gaps       []time.Duration `json:"gaps_ns"` // per loss of a leader and node that was not hit
	Faults     map[string]int  `json:"faults"`
}

// simWorld is one history.
type simWorld struct {
	t      *testing.T
	seed   uint64
	plan   simPlan
	began  time.Time
	net    *simNet
	random *simRandom
	rnd    *rand.Rand // of the faults

	ctx    context.Context //nolint:containedctx // Of everything that is asked of the cluster; it ends with the history.
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu         sync.Mutex
	nodes      []*simNode
	stats      simStats
	violations []string
	notes      []string
	faults     map[string]int
	history    history
	tap        tap
	losses     []simLoss
}

func (w *simWorld) spawn(f func()) { w.wg.Go(f) }

func (w *simWorld) count(f func(*simStats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.stats)
}

func (w *simWorld) violation(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violate(format, args...)
}

// violate is violation for who holds the lock.
func (w *simWorld) violate(format string, args ...any) {
	if len(w.violations) < 20 {
		w.violations = append(w.violations, fmt.Sprintf("%s: ", time.Since(w.began))+fmt.Sprintf(format, args...))
	}
}

// note keeps the last faults for the report of a violation.
func (w *simWorld) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, fmt.Sprintf("%s: ", time.Since(w.began))+fmt.Sprintf(format, args...))
	if len(w.notes) > 25 {
		w.notes = w.notes[1:]
	}
}

// simulate runs one history in a bubble of its own.
func simulate(t *testing.T, seed uint64, plan simPlan) (r simResult) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &simWorld{
			t: t, seed: seed, plan: plan, began: time.Now(), net: newSimNet(seed), random: newSimRandom(seed),
			rnd:    rand.New(rand.NewPCG(seed, 2)),
			faults: map[string]int{}, tap: newTap(), history: newHistory(plan.keys),
		}
		w.ctx, w.cancel = context.WithCancel(t.Context())
		ok := w.found()
		if ok {
			w.mu.Lock()
			for k := range plan.keys {
				w.history.initial[k] = w.tap.newest(k)
			}
			w.mu.Unlock()
			stop := w.operate()
			w.suffer()
			ok = w.recovers()
			stop()
		}
		w.cancel()
		if ok {
			w.compareReplicas()
		}
		for _, l := range w.lives() {
			l.kill()
		}
		w.wg.Wait()
		w.check()
		r = w.result()
	})
	return r
}

func (w *simWorld) result() simResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Simulated = time.Since(w.began)
	w.stats.Failovers = max(len(w.tap.epochs)-1, 0)
	gaps := w.gaps()
	if len(w.violations) > 0 {
		w.violations = append(w.violations, w.notes...)
	}
	return simResult{simStats: w.stats, Seed: w.seed, Violations: w.violations, Gaps: gaps, Faults: w.faults}
}

// until waits for a fact for at most that long.
func (w *simWorld) until(bound time.Duration, fact func() bool) bool {
	for end := time.Now().Add(bound); !fact(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// submit asks a node for a change, as a call of its API does once it is allowed.
func (l *simLife) submit(ctx context.Context, request string, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	sum := sha256.Sum256([]byte(request))
	cmd.RequestId, cmd.RequestDigest, cmd.Format = request, sum[:], fsm.CommandFormat
	cmd.Principal = &fsmpb.Principal{Issuer: "ca", Kind: "operator", Name: "olivia"}
	return l.c.submit(ctx, cmd, Complete)
}

// insist has a change made, whatever that takes.
func (w *simWorld) insist(request string, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	err := errors.New("no node runs")
	for range 40 {
		if l := w.leader(); l != nil {
			ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
			var res *fsmpb.Result
			res, err = l.submit(ctx, request, copyCommand(cmd))
			cancel()
			if err == nil {
				return res, nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, err
}

func simUID(what string) []byte {
	sum := sha256.Sum256([]byte(what))
	return sum[:16]
}

func simTenant(key int) string { return fmt.Sprintf("t%d", key) }

const simService = "s"

// found makes a cluster of five nodes, three of them voters, with the keys.
func (w *simWorld) found() bool {
	first := w.addNode()
	first.start()
	l := first.now.Load()
	if err := l.c.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
		{ID: raft.ServerID(first.id), Address: raft.ServerAddress(first.id)},
	}}).Error(); err != nil {
		w.violation("bootstrap: %v", err)
		return false
	}
	if !w.until(20*time.Second, l.c.IsLeader) {
		w.violation("one voter does not elect itself")
		return false
	}
	m := w.member(first)
	m.Voter = true
	if _, err := l.c.internal(w.ctx, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: &fsmpb.Genesis{
		KeyspaceId: simUID("keyspace"), ClusterId: simUID("cluster"), Name: "sim", FormatVersion: fsm.MaxFormatVersion, FirstMember: m,
		SealRecord: []byte("record"), Settings: &fsmpb.Settings{RollbackWindowMs: 86400000, DestroyWaitMs: 86400000, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: simUID("ivk"), Blob: []byte("wrapped")},
	}}}, ""); err != nil {
		w.violation("genesis: %v", err)
		return false
	}
	for k := range w.plan.keys {
		if !w.makeKey(k) {
			return false
		}
	}
	for n := range 4 {
		if !w.join(n < 2) {
			return false
		}
	}
	return w.serves(30 * time.Second)
}

// serves waits until three vote and every member has a lease.
func (w *simWorld) serves(bound time.Duration) bool {
	var waits string
	ok := w.until(bound, func() bool {
		l := w.leader()
		if l == nil {
			waits = "no leader"
			return false
		}
		if n := l.c.Stats().Voters; n < 3 {
			waits = fmt.Sprintf("%d voters", n)
			return false
		}
		for _, l := range w.lives() {
			if err := l.c.LeaseErr(); err != nil {
				waits = fmt.Sprintf("node %d: %v", l.node.n, err)
				return false
			}
		}
		return true
	})
	if !ok {
		w.violation("not all members serve after %s: %s", bound, waits)
	}
	return ok
}

func (w *simWorld) makeKey(k int) bool {
	name := simTenant(k)
	for what, cmd := range map[int]*fsmpb.Command{
		0: {Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
			Name: name, Uid: simUID(name), L2Uid: simUID(name + " l2"), L2Blob: []byte("wrapped"), L2IvkUid: simUID("ivk"),
			Binding: &fsmpb.Binding{Keystore: "local", Key: "kek", Archetype: "local"},
			Version: &fsmpb.Version{Number: 1, Uid: simUID(name + " l2.1"), ParentUid: simUID(name + " l2"), Blob: []byte("wrapped")},
		}}},
	} {
		if _, err := w.insist(fmt.Sprintf("make-%s-%d", name, what), cmd); err != nil {
			w.violation("make %s: %v", name, err)
			return false
		}
	}
	if _, err := w.insist("make-"+name+"-service", &fsmpb.Command{Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{
		Tenant: name, Name: simService, Uid: simUID(name + "/s"), TenantUid: simUID(name),
		Version: &fsmpb.Version{Number: 1, Uid: simUID(name + "/s 1"), ParentUid: simUID(name + " l2.1"), Blob: []byte("wrapped")},
	}}}); err != nil {
		w.violation("make %s/s: %v", name, err)
		return false
	}
	return true
}

func (w *simWorld) applicant(n *simNode) applicant {
	return applicant{id: n.id, spki: simUID("spki " + string(n.id)), info: &clusterpb.NodeInfo{
		Name: fmt.Sprintf("node-%d", n.n), PeerAddress: fmt.Sprintf("10.0.0.%d:8402", n.n+1), MaxFormat: fsm.MaxFormatVersion, Version: "v0",
	}}
}

func (w *simWorld) member(n *simNode) *fsmpb.Member { return memberOf(w.applicant(n)) }

// join adds a node to the cluster.
func (w *simWorld) join(voter bool) bool {
	n := w.addNode()
	secret := sha256.Sum256([]byte("secret " + string(n.id)))
	hash := sha256.Sum256(secret[:])
	if _, err := w.insist("token-"+string(n.id[:8]), &fsmpb.Command{Body: &fsmpb.Command_CreateJoinToken{CreateJoinToken: &fsmpb.CreateJoinToken{
		Token: &fsmpb.JoinToken{Hash: hash[:], ExpireTimeMs: time.Now().Add(time.Hour).UnixMilli(), Voter: voter},
	}}}); err != nil {
		w.note("no token: %v", err)
		n.gone.Store(true)
		return false
	}
	n.start()
	w.count(func(s *simStats) { s.Members++ })
	for range 20 {
		if l := w.leader(); l != nil {
			ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
			_, err := l.c.admit(ctx, w.applicant(n), secret[:], "")
			cancel()
			if err == nil {
				return true
			}
			w.note("not admitted: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return true // it may be a member all the same
}

// recovers mends everything and checks that the cluster does its work again.
func (w *simWorld) recovers() bool {
	w.mu.Lock()
	nodes := slices.Clone(w.nodes)
	w.mu.Unlock()
	member := func(n *simNode) bool {
		l := w.leader()
		if l == nil {
			return true
		}
		m, ok := l.c.machine.View().Member(string(n.id))
		return ok && !m.GetRemoved()
	}
	ok := w.until(60*time.Second, func() bool {
		settled := w.leader() != nil
		for _, n := range nodes {
			l := n.now.Load()
			switch {
			case n.gone.Load():
			case l == nil && member(n):
				n.start()
				settled = false
			case l != nil && !member(n) && settled:
				n.gone.Store(true)
				l.kill()
			}
		}
		if !settled {
			return false
		}
		for _, l := range w.lives() {
			if l.c.LeaseErr() != nil {
				return false
			}
		}
		return true
	})
	if !ok {
		for _, l := range w.lives() {
			w.violation("node %d does not serve 60 s after all was mended: %v", l.node.n, l.c.LeaseErr())
		}
		if w.leader() == nil {
			w.violation("no leader 60 s after all was mended")
		}
		return false
	}
	for k := range w.plan.keys {
		for _, l := range w.lives() {
			ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
			call, request := w.invoke(k), fmt.Sprintf("last-%d-%d", k, l.node.n)
			res, err := l.submit(ctx, request, simToggle(l.c.machine.View(), k, 0))
			cancel()
			if err == nil || refusedByState(err) {
				w.acknowledge(k, call, request, res.GetIndex())
			} else {
				w.unknown(k, call, request)
				w.violation("a change of key %d at node %d after all was mended: %v", k, l.node.n, err)
				return false
			}
		}
	}
	return true
}

// compareReplicas compares the whole states at one index.
func (w *simWorld) compareReplicas() {
	lives := w.lives()
	views := make([]*fsm.View, len(lives))
	if !w.until(10*time.Second, func() bool {
		for i, l := range lives {
			views[i] = l.c.machine.View()
			if views[i].Index() != views[0].Index() {
				return false
			}
		}
		return true
	}) {
		w.violation("the nodes do not come to the same index")
		return
	}
	for i, v := range views {
		if v.Digest() != views[0].Digest() {
			w.violation("nodes %d and %d have different states at entry %d", lives[0].node.n, lives[i].node.n, v.Index())
		}
	}
}

// simFSM is the state machine as Raft sees it, with the tap.
type simFSM struct {
	*adapter

	life *simLife
}

func (f *simFSM) Apply(e *raft.Log) any {
	res := f.adapter.Apply(e)
	r, ok := res.(*fsmpb.Result)
	if !ok {
		return res
	}
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(e.Data, cmd); err != nil {
		f.life.node.w.violation("entry %d: %v", e.Index, err)
		return res
	}
	_, _, chain := f.life.c.machine.Applied()
	f.life.node.w.tapped(e, cmd, r, f.life.c.machine.View(), chain)
	return res
}
