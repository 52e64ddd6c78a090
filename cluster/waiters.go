package cluster

import (
	"container/heap"
	"context"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// waiters are callers that wait until an index is reached. The zero value is
// ready to use.
//
// They stand in a heap, so that reaching an index wakes those whose turn it is
// and nobody else: with a thousand callers, waking all of them for each change
// would cost more than the change.
type waiters struct {
	joined chan<- struct{} // of one slot, filled once somebody waits; nil: nobody is told

	mu      sync.Mutex
	reached uint64
	ended   error // of whoever waits and would wait; nil: it goes on
	heap    waiterHeap
}

type waiter struct {
	index uint64
	place int        // in the heap; -1: it has its answer
	done  chan error // one slot
}

// wait returns nil once index is reached, the error with which the waiters were
// failed meanwhile or ended, or that of ctx.
func (w *waiters) wait(ctx context.Context, index uint64) error {
	w.mu.Lock()
	if index <= w.reached {
		w.mu.Unlock()
		return nil
	}
	if err := w.ended; err != nil {
		w.mu.Unlock()
		return err
	}
	me := &waiter{index: index, done: make(chan error, 1)}
	heap.Push(&w.heap, me)
	w.mu.Unlock()
	if w.joined != nil {
		wake(w.joined) // not before: whoever is woken looks who waits
	}
	select {
	case err := <-me.done:
		return err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if me.place < 0 {
		return <-me.done
	}
	heap.Remove(&w.heap, me.place)
	return errs.From(ctx.Err())
}

// reach wakes whoever waits for index or less. An index lower than before says
// nothing.
func (w *waiters) reach(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = max(w.reached, index)
	for w.heap.Len() > 0 && w.heap.all[0].index <= w.reached {
		w.answer(nil)
	}
}

// fail answers everybody who waits with err.
func (w *waiters) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.heap.Len() > 0 {
		w.answer(err)
	}
}

// end answers everybody who waits with err, and from now on whoever would wait.
func (w *waiters) end(err error) {
	w.mu.Lock()
	w.ended = err
	w.mu.Unlock()
	w.fail(err)
}

// forget sets what is reached back to nothing.
func (w *waiters) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = 0
}

// answer answers the first. The caller holds mu.
func (w *waiters) answer(err error) {
	first, ok := heap.Pop(&w.heap).(*waiter)
	if ok {
		first.done <- err
	}
}

// last returns the highest index for which anybody waits, 0 if nobody does.
func (w *waiters) last() (index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.heap.all {
		index = max(index, one.index)
	}
	return index
}

// waiterHeap implements [heap.Interface], the lowest index first.
type waiterHeap struct{ all []*waiter }

// Len implements [sort.Interface].
func (h *waiterHeap) Len() int { return len(h.all) }

// Less implements [sort.Interface].
func (h *waiterHeap) Less(i, j int) bool { return h.all[i].index < h.all[j].index }

// Swap implements [sort.Interface].
func (h *waiterHeap) Swap(i, j int) {
	h.all[i], h.all[j] = h.all[j], h.all[i]
	h.all[i].place, h.all[j].place = i, j
}

// Push implements [heap.Interface].
func (h *waiterHeap) Push(x any) {
	w, ok := x.(*waiter)
	if ok {
		w.place = len(h.all)
		h.all = append(h.all, w)
	}
}

// Pop implements [heap.Interface].
func (h *waiterHeap) Pop() any {
	last := len(h.all) - 1
	w := h.all[last]
	h.all[last] = nil
	h.all = h.all[:last]
	w.place = -1
	return w
}
