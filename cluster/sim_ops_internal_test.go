package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/hashicorp/raft"

	"github.com/openkcm/krypton-cluster/cluster/lease"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// simMutation is the protection that is taken away, if one is. Those of the
// protocol and its shell are in a program that is built for it; see internal/cmd/sim.
func simMutation() string { return os.Getenv("KRYPTON_MUTATION") }

// observed is what a data operation on a key finds.
type observed struct {
	gate      uint64 // index of the last change of what it decided by
	permitted bool
	primary   uint32 // the version under which it wraps: either, while that changes
}

// simLook is what [node.Node] does to choose a key: the version that an envelope
// names, and what is above it.
func simLook(v *fsm.View, key int) observed {
	t, ok := v.Tenant(simTenant(key))
	if !ok {
		return observed{}
	}
	s, ok := v.ServiceOf(t, simService)
	if !ok {
		return observed{}
	}
	one, _ := fsm.VersionAt(s.GetVersions(), 1)
	return observed{
		gate: v.GateIndex(fsm.ReadSet{Tenant: t, Service: s, Version: one}),
		permitted: t.GetState() == fsmpb.ObjectState_OBJECT_STATE_ACTIVE && s.GetState() == fsmpb.ObjectState_OBJECT_STATE_ACTIVE &&
			one.GetState() == fsmpb.VersionState_VERSION_STATE_ACTIVE,
		primary: s.GetPrimary(),
	}
}

// simRead does what a data operation of package node does with its standing: look,
// work, and look again at the end. False: it observed nothing.
func simRead(l *simLife, key int, work time.Duration) (observed, bool) {
	st := l.c.Standing()
	if !st.Usable(l.c.clk.Read()) {
		return observed{}, false
	}
	found := simLook(st.View, key)
	if found.gate == 0 || work > 0 && !simSleep(work, l.ended) {
		return observed{}, false
	}
	var since time.Time
	for {
		st := l.c.Standing()
		if !st.Usable(l.c.clk.Read()) {
			return observed{}, false
		}
		now := simLook(st.View, key)
		if now.permitted != found.permitted {
			return observed{}, false // it would begin anew
		}
		found = now
		if found.gate <= st.Complete || simMutation() == "no-gate" {
			return found, true
		}
		if since.IsZero() {
			since = time.Now()
		}
		ctx, cancel := context.WithTimeout(l.c.base, lease.GateWait-time.Since(since))
		err := l.c.AwaitComplete(ctx, found.gate)
		cancel()
		if err != nil {
			return observed{}, false // a change is in progress
		}
	}
}

// simToggle changes the state of a key in one of the ways in which there is one.
func simToggle(v *fsm.View, key, way int) *fsmpb.Command {
	ref := &fsmpb.ObjectRef{Tenant: simTenant(key)}
	if way != 1 {
		ref.Service = simService
	}
	if way == 2 {
		e := fsmpb.VersionEvent_VERSION_EVENT_DISABLE
		if s, ok := v.Service(ref.GetTenant(), simService); ok && s.GetVersions()[0].GetState() == fsmpb.VersionState_VERSION_STATE_DISABLED {
			e = fsmpb.VersionEvent_VERSION_EVENT_ENABLE
		}
		return &fsmpb.Command{Body: &fsmpb.Command_ChangeVersion{ChangeVersion: &fsmpb.ChangeVersion{Object: ref, Number: 1, Event: e}}}
	}
	t, _ := v.Tenant(ref.GetTenant())
	state := t.GetState()
	if s, ok := v.Service(ref.GetTenant(), simService); ok && way == 0 {
		state = s.GetState()
	}
	e := fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND
	if state == fsmpb.ObjectState_OBJECT_STATE_SUSPENDED {
		e = fsmpb.ObjectEvent_OBJECT_EVENT_RESUME
	}
	return &fsmpb.Command{Body: &fsmpb.Command_ChangeObject{ChangeObject: &fsmpb.ChangeObject{Object: ref, Event: e, Cause: "operator"}}}
}

// refusedByState reports whether the registry refused: that is an answer.
func refusedByState(err error) bool { return errs.Is(err, errs.FailedState) }

// operate has readers on every node and writers of every key until the returned
// function is called.
func (w *simWorld) operate() (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan struct{})
	var running int
	ended := make(chan struct{})
	begin := func(f func(*rand.Rand)) {
		seed := uint64(100 + running)
		running++
		go func() {
			f(rand.New(rand.NewPCG(w.seed, seed)))
			ended <- struct{}{}
		}()
	}
	for k := range w.plan.keys {
		begin(func(r *rand.Rand) { w.write(ctx, r, k) })
		begin(func(r *rand.Rand) { w.write(ctx, r, k) })
		begin(func(r *rand.Rand) { w.rotate(ctx, r, k) })
	}
	for n := range simNodes {
		begin(func(r *rand.Rand) { w.read(ctx, r, n) })
		begin(func(r *rand.Rand) { w.read(ctx, r, n) })
		begin(func(*rand.Rand) { w.watchGaps(ctx, n) })
	}
	total := running
	go func() {
		defer close(done)
		for range total {
			<-ended
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// simNodes is how many nodes can be members in one history, one after the other.
const simNodes = 16

// node returns the node with that number, nil while there is none.
func (w *simWorld) node(n int) *simNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < len(w.nodes) {
		return w.nodes[n]
	}
	return nil
}

func (w *simWorld) process(n int) *simLife {
	node := w.node(n)
	if node == nil {
		return nil
	}
	return node.now.Load()
}

// read reads at one node, again and again.
func (w *simWorld) read(ctx context.Context, r *rand.Rand, n int) {
	for simSleep(w.scaled(time.Duration(20+r.IntN(40))*time.Millisecond), ctx.Done()) {
		l := w.process(n)
		if l == nil {
			simSleep(100*time.Millisecond, ctx.Done())
			continue
		}
		key := r.IntN(w.plan.keys)
		var work time.Duration
		switch r.IntN(40) {
		case 0:
			work = w.scaled(time.Duration(r.IntN(3000)) * time.Millisecond) // a call of a keystore
		case 1, 2, 3:
			work = time.Duration(r.IntN(30)) * time.Millisecond
		}
		call := w.invoke(key)
		if w.barred(n) && l.c.Standing().Usable(l.c.clk.Read()) {
			w.violation("node %d has a lease; its removal was acknowledged before", n)
		}
		got, ok := simRead(l, key, work) //nolint:contextcheck // It ends with the process.
		if ok && r.IntN(30) == 0 {       // the answer takes its time
			ok = simSleep(time.Duration(r.IntN(200))*time.Millisecond, l.ended)
		}
		w.observe(n, key, call, got, ok)
	}
}

// write changes one key, again and again, as a client does: it asks another node
// when it does not know what became of its request.
func (w *simWorld) write(ctx context.Context, r *rand.Rand, key int) {
	who := r.Uint64()
	for i := 0; simSleep(w.scaled(time.Duration(100+r.IntN(700))*time.Millisecond), ctx.Done()); i++ {
		request := fmt.Sprintf("w-%d-%x-%d", key, who, i)
		var cmd *fsmpb.Command
		call := invocation{}
		for attempt := range 4 {
			l := w.process(r.IntN(simNodes))
			if l == nil {
				if cmd != nil {
					simSleep(50*time.Millisecond, ctx.Done())
				}
				continue
			}
			if cmd == nil {
				cmd = simToggle(l.c.machine.View(), key, r.IntN(3))
				call = w.invoke(key)
			}
			bound, cancel := context.WithTimeout(ctx, w.scaled(time.Duration(1000+r.IntN(6000))*time.Millisecond))
			res, err := l.submit(bound, request, copyCommand(cmd))
			cancel()
			if err == nil || refusedByState(err) {
				w.acknowledge(key, call, request, res.GetIndex())
				cmd = nil
				break
			}
			if attempt == 3 || ctx.Err() != nil {
				break
			}
			simSleep(time.Duration(r.IntN(200))*time.Millisecond, ctx.Done())
		}
		if cmd != nil {
			w.unknown(key, call, request)
		}
	}
}

// rotate rotates one key, again and again: a version is added, and once every node
// has it, it becomes the primary. It ends when it does not know what became of a
// step, since that may be done after the next one.
func (w *simWorld) rotate(ctx context.Context, r *rand.Rand, key int) {
	ref := &fsmpb.ObjectRef{Tenant: simTenant(key), Service: simService}
	uid, parent := simUID(ref.GetTenant()+"/s"), simUID(ref.GetTenant()+" l2.1")
	for n := uint32(2); simSleep(w.scaled(time.Duration(500+r.IntN(2500))*time.Millisecond), ctx.Done()); n++ {
		for what, cmd := range []*fsmpb.Command{
			{Body: &fsmpb.Command_AddVersion{AddVersion: &fsmpb.AddVersion{Object: ref, ObjectUid: uid, Version: &fsmpb.Version{
				Number: n, Uid: simUID(fmt.Sprintf("%s/s %d", ref.GetTenant(), n)), ParentUid: parent, Blob: []byte("wrapped"),
			}}}},
			{Body: &fsmpb.Command_SetPrimary{SetPrimary: &fsmpb.SetPrimary{Object: ref, ObjectUid: uid, Number: n}}},
		} {
			for attempt := 0; ; attempt++ {
				l := w.process(r.IntN(simNodes))
				if l == nil {
					if !simSleep(50*time.Millisecond, ctx.Done()) {
						return
					}
					continue
				}
				bound, cancel := context.WithTimeout(ctx, w.scaled(5*time.Second))
				// A step that the state of the key refuses is tried again as another request.
				_, err := l.submit(bound, fmt.Sprintf("rotate-%d-%d-%d-%d", key, n, what, attempt), copyCommand(cmd))
				cancel()
				if err == nil {
					break
				}
				if !refusedByState(err) || !simSleep(500*time.Millisecond, ctx.Done()) {
					return
				}
			}
		}
		w.rotated(key, n)
	}
}

// tapped is told of every entry that any node applied, also again.
func (w *simWorld) tapped(e *raft.Log, cmd *fsmpb.Command, res *fsmpb.Result, v *fsm.View, chain [32]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if was, ok := w.tap.chains[e.Index]; ok {
		if was != chain {
			w.violate("two states at entry %d", e.Index)
		}
		return
	}
	w.tap.chains[e.Index] = chain
	if res.GetReason() == "" {
		switch {
		case cmd.GetLeaseEpoch() != nil:
			w.tap.epochs[e.Term] = e.Index
		case cmd.GetRemoveMember() != nil:
			if id := NodeID(cmd.GetRemoveMember().GetId()); w.tap.removed[id] == 0 { // else it was asked again
				w.tap.removed[id] = e.Index
			}
		case cmd.GetPurgeMember() != nil:
			w.stats.Purged++
		}
	}
	for k := range w.plan.keys {
		now := simLook(v, k)
		if was, ok := w.tap.truth[k][now.gate]; ok && was != now.permitted {
			w.violate("key %d: its state changed with entry %d and its gate index did not", k, e.Index)
		}
		w.tap.truth[k][now.gate] = now.permitted
		if id := cmd.GetRequestId(); id != "" {
			w.tap.requests[fmt.Sprintf("%d %s", k, id)] = append(w.tap.requests[fmt.Sprintf("%d %s", k, id)], application{e.Index, now.gate})
		}
	}
}

// tap is what the log said.
type tap struct {
	chains   map[uint64][32]byte
	epochs   map[uint64]uint64        // index by term
	removed  map[NodeID]uint64        // index of the removal of a member
	truth    map[int]map[uint64]bool  // by key and gate index, whether it may be used
	requests map[string][]application // by key and request
}

// application is a request that was applied: at which index, and of when the
// key's state is after it.
type application struct{ index, gate uint64 }

func newTap() tap {
	t := tap{chains: map[uint64][32]byte{}, epochs: map[uint64]uint64{}, removed: map[NodeID]uint64{}, truth: map[int]map[uint64]bool{}, requests: map[string][]application{}}
	for k := range 16 {
		t.truth[k] = map[uint64]bool{}
	}
	return t
}

// newest returns the index of the last change of a key.
func (t *tap) newest(key int) (gate uint64) {
	for g := range t.truth[key] {
		gate = max(gate, g)
	}
	return gate
}
