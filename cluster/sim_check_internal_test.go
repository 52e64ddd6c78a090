package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what callers saw. Its times are the order in which things happened,
// which the clock of a bubble does not tell: it stands still while anything runs.
type history struct {
	seq     int64
	initial []uint64
	acked   []uint64     // by key: the last change that was acknowledged
	primary []uint32     // by key: the last primary version that was acknowledged
	removed map[int]bool // nodes whose removal was acknowledged
	ops     [][]porcupine.Operation
	open    []pending
	gaps    map[int][]gap
}

func newHistory(keys int) history {
	return history{initial: make([]uint64, keys), acked: make([]uint64, keys), primary: make([]uint32, keys), ops: make([][]porcupine.Operation, keys), removed: map[int]bool{}, gaps: map[int][]gap{}}
}

// invocation is the beginning of an operation.
type invocation struct {
	call  int64
	floor uint64 // the last change that was acknowledged by then
	least uint32 // the last primary version that was
}

// pending is a change of which its caller does not know what became.
type pending struct {
	key     int
	call    int64
	request string
}

// simOpsPerKey bounds what the checker is given: its memory is not bounded.
const simOpsPerKey = 5000

func (w *simWorld) invoke(key int) invocation {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history.seq++
	return invocation{w.history.seq, w.history.acked[key], w.history.primary[key]}
}

// regInput is an operation on the register that a key is: a change sets it to its
// own index, and everything else shows it.
type regInput struct {
	set  bool
	gate uint64
}

func (w *simWorld) record(key, client int, call int64, in regInput) {
	w.history.seq++
	w.history.ops[key] = append(w.history.ops[key], porcupine.Operation{ClientId: client, Input: in, Call: call, Return: w.history.seq})
}

// observe takes the answer of a reader.
func (w *simWorld) observe(node, key int, call invocation, got observed, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ok {
		w.stats.Refused++
		return
	}
	if truth, known := w.tap.truth[key][got.gate]; !known || truth != got.permitted {
		w.violate("node %d shows a state of key %d that never was: of entry %d, %v", node, key, got.gate, got.permitted)
	}
	if got.gate < call.floor { // G1, without the checker
		w.stats.Stale++
		w.violate("node %d answered by the state of entry %d of key %d; %d was acknowledged before the question", node, got.gate, key, call.floor)
	}
	if got.primary < call.least { // a regular register: after the acknowledgement never the version before
		w.stats.Stale++
		w.violate("node %d would wrap key %d under version %d; %d was acknowledged as primary before the question", node, key, got.primary, call.least)
	}
	if len(w.history.ops[key]) < simOpsPerKey {
		w.record(key, 1000+node, call.call, regInput{gate: got.gate})
	}
}

// acknowledge takes the answer to a change, also that it was refused.
func (w *simWorld) acknowledge(key int, call invocation, request string, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.tap.requests[fmt.Sprintf("%d %s", key, request)] {
		if a.index != index {
			continue
		}
		set := a.gate == a.index
		w.record(key, len(w.history.ops[key])+10_000, call.call, regInput{set, a.gate})
		w.history.acked[key] = max(w.history.acked[key], a.gate)
		return
	}
	w.violate("change %s was acknowledged at entry %d, where it is not", request, index)
}

// rotated takes the answer that a version is primary.
func (w *simWorld) rotated(key int, version uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history.primary[key] = max(w.history.primary[key], version)
	w.stats.Rotations++
}

// unknown notes that nobody knows what became of a change.
func (w *simWorld) unknown(key int, call invocation, request string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Unknown++
	w.history.open = append(w.history.open, pending{key, call.call, request})
}

func regModel(initial uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return initial },
		Step: func(state, input, _ any) (bool, any) {
			now, _ := state.(uint64)
			in, _ := input.(regInput)
			if in.set {
				return in.gate > now, in.gate
			}
			return in.gate == now, now
		},
		Equal: func(a, b any) bool { return a == b },
	}
}

// simCheckTime bounds the checker. A history that it cannot judge is not a good one.
const simCheckTime = 20 * time.Second

// check judges the history once nothing runs any more.
func (w *simWorld) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, all := range w.tap.requests {
		done := 0
		for _, a := range all {
			if a.index == a.gate {
				done++
			}
		}
		if done > 1 {
			w.violate("request %s was done %d times", id, done)
		}
	}
	for _, p := range w.history.open {
		// What is not in the log when all logs are over never will be.
		for _, a := range w.tap.requests[fmt.Sprintf("%d %s", p.key, p.request)] {
			if a.gate == a.index {
				w.history.ops[p.key] = append(w.history.ops[p.key], porcupine.Operation{
					ClientId: 1_000_000 + len(w.history.ops[p.key]), Input: regInput{true, a.gate}, Call: p.call, Return: 1 << 60,
				})
			}
		}
	}
	for k, ops := range w.history.ops {
		w.stats.Ops += len(ops)
		// Changes that the record has no place for are in the log all the same, so the
		// record ends where it is full.
		res := porcupine.CheckOperationsTimeout(regModel(w.history.initial[k]), ops, simCheckTime)
		if res != porcupine.Ok {
			w.violate("the history of key %d, of %d operations, is not linearizable: %s", k, len(ops), res)
		}
	}
}

// simLoss is a time in which a leader was lost, and the node that was hit.
type simLoss struct {
	node      int
	at, until time.Duration
}

// gap is a time in which a node could not serve.
type gap struct{ from, to time.Duration }

const gapStep = 10 * time.Millisecond

// watchGaps finds out when a node cannot serve.
func (w *simWorld) watchGaps(ctx context.Context, n int) {
	if !w.plan.calm {
		return
	}
	since, step := time.Duration(-1), gapStep
	for {
		on := simSleep(step, ctx.Done())
		now := time.Since(w.began)
		l := w.process(n)
		if step = gapStep; l == nil && w.node(n) == nil {
			if !on {
				return
			}
			step = time.Second
			continue
		}
		usable := l != nil
		if usable {
			clk := simClock{life: l}
			usable = l.c.Standing().Usable(clk.Read())
		}
		switch {
		case !usable && since < 0:
			since = now
		case since >= 0 && (usable || !on):
			w.mu.Lock()
			w.history.gaps[n] = append(w.history.gaps[n], gap{since, now})
			w.mu.Unlock()
			since = -1
		}
		if !on {
			return
		}
	}
}

// gaps finds out for how long nodes that were not hit could not serve. The caller
// holds mu.
func (w *simWorld) gaps() (out simReads) {
	for _, loss := range w.losses {
		out.Losses++
		gapped := false
		for n := range w.nodes {
			if n == loss.node {
				continue
			}
			longest := time.Duration(0)
			for _, g := range w.history.gaps[n] {
				if g.from >= loss.at && g.from < loss.until {
					longest = max(longest, g.to-g.from)
				}
			}
			out.Gaps = append(out.Gaps, longest)
			gapped = gapped || longest > 0
		}
		if gapped {
			out.Gapped++
		}
	}
	return out
}
