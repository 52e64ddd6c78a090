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

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// simPlan is what a history is made of. The seed decides all of it but the order of
// goroutines in one instant, and the random numbers of the Raft library.
type simPlan struct {
	profile Profile
	faults  []simFault
	length  time.Duration // for how long faults happen, with leases of 3 s; longer with longer ones
	calm    bool          // between faults the cluster comes to rest
	keys    int
	likely  string      // the fault that is every second one, if any
	over    func() bool // nothing that happens from now on matters; nil: a violation ends nothing
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
	Joined    int           `json:"joined"`    // members
	Removed   int           `json:"removed"`   // members, acknowledged
	Demoted   int           `json:"demoted"`   // members that were to be removed, and whose vote was needed
	Purged    int           `json:"purged"`    // removed members that were forgotten
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
	s.Joined += o.Joined
	s.Removed += o.Removed
	s.Demoted += o.Demoted
	s.Purged += o.Purged
	s.Simulated += o.Simulated
}

// simResult is what a history showed.
type simResult struct {
	simStats

	Seed       uint64         `json:"seed"`
	Violations []string       `json:"violations,omitempty"`
	Reads      simReads       `json:"reads"`
	Faults     map[string]int `json:"faults"`
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

// over reports whether the history may end early: it has shown a violation, or
// another one has, and the first is enough.
func (w *simWorld) over() bool {
	if w.plan.over == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0 || w.plan.over()
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
			t: t, seed: seed, plan: plan, began: time.Now(), net: newSimNet(seed, plan.profile), random: newSimRandom(seed),
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
			ok = !w.over() && w.recovers()
			stop()
		}
		w.cancel()
		if ok {
			w.compareReplicas()
		}
		for _, l := range w.processes() {
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
	reads := w.gaps()
	if len(w.violations) > 0 {
		w.violations = append(w.violations, w.notes...)
	}
	return simResult{simStats: w.stats, Seed: w.seed, Violations: w.violations, Reads: reads, Faults: w.faults}
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
	p := WhoMay(cmd)
	cmd.Principal = &fsmpb.Principal{Issuer: p.Issuer.String(), Kind: p.Role.String(), Name: p.Name}
	cmd.CorrelationId = must(uuid.FromBytes(sum[:16])).String()
	return l.c.submit(ctx, cmd, &clusterpb.ProposeRequest{Shown: shownOf(Shown(p, "")), Authority: l.c.machine.View().AuthorityAt()}, Complete)
}

// insist has a change made, whatever that takes.
func (w *simWorld) insist(request string, cmd *fsmpb.Command) (*fsmpb.Result, error) {
	err := errors.New("no node runs")
	for range 40 {
		if l := w.leader(); l != nil {
			ctx, cancel := context.WithTimeout(w.ctx, w.scaled(5*time.Second))
			var res *fsmpb.Result
			res, err = l.submit(ctx, request, copyCommand(cmd))
			cancel()
			if err == nil {
				return res, nil
			}
			if refusedByState(err) {
				return nil, err
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
	m := memberOf(first.applicant())
	m.Voter = true
	if _, err := l.c.internal(w.ctx, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: Found(&fsmpb.Genesis{
		KeyspaceId: simUID("keyspace"), ClusterId: simUID("cluster"), Name: "sim", FormatVersion: fsm.MaxFormatVersion, FirstMember: m,
		LeaseMs:    uint32(w.lease().Milliseconds()),
		SealRecord: []byte("record"), Settings: &fsmpb.Settings{RollbackWindowMs: 86400000, DestroyWaitMs: 86400000, Voters: 3},
		InternalKey: &fsmpb.Version{Number: 1, Uid: simUID("ivk"), Blob: []byte("wrapped")},
	})}}, ""); err != nil {
		w.violation("genesis: %v", err)
		return false
	}
	if _, err := w.insist("bind-operator", BindOperator()); err != nil {
		w.violation("bind the operator: %v", err)
		return false
	}
	for k := range w.plan.keys {
		if !w.makeKey(k) {
			return false
		}
	}
	for n := range 4 {
		if w.join(n < 2) == nil {
			return false
		}
	}
	return w.serves(w.scaled(30 * time.Second))
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
	bound := w.scaled(time.Minute)
	ok := w.until(bound, func() bool {
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
			}
		}
		if !settled || !w.forgotten() {
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
			w.violation("node %d does not serve %s after all was mended: %v", l.node.n, bound, l.c.LeaseErr())
		}
		if w.leader() == nil {
			w.violation("no leader %s after all was mended", bound)
		} else if !w.forgotten() {
			w.violation("a removed member is not purged %s after all was mended", bound)
		}
		return false
	}
	for k := range w.plan.keys {
		for _, l := range w.lives() {
			ctx, cancel := context.WithTimeout(w.ctx, w.scaled(10*time.Second))
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
	if err := f.life.c.Proved(); errs.Is(err, errs.StateCorrupt) {
		f.life.node.w.violation("the log of an honest cluster is not believed: %v", err)
	}
	if c := f.life.c; c.compared.waits() && c.IsLeader() && c.compared.waits() {
		f.life.node.w.violation("node %d leads, and its state was not compared", f.life.node.n)
	}
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(e.Data, cmd); err != nil {
		f.life.node.w.violation("entry %d: %v", e.Index, err)
		return res
	}
	if cmd.GetAddMember() != nil || cmd.GetRemoveMember() != nil {
		f.life.c.look() // as who watches the members does
	}
	_, _, chain := f.life.c.machine.Applied()
	f.life.node.w.tapped(e, cmd, r, f.life.c.machine.View(), chain)
	return res
}
