package cluster

import "time"

// What happens by chance too seldom to be relied on.

// snapshotForOldLeader gives a node, which led and has noticed nothing of its loss,
// the state of its successor as a snapshot: no command of the later term passes its
// state machine. The snapshot has a change that a holder of the successor's lease
// has not followed yet.
func (w *simWorld) snapshotForOldLeader() {
	old := w.leader()
	if old == nil {
		return
	}
	voters, others := w.sides(old)
	if len(voters) < 2 || len(others) == 0 {
		return
	}
	slow := others[w.rnd.IntN(len(others))]
	wake := old.nap.close()
	defer wake()
	mend := w.net.cut(w.ways(old.node.n, true, true)...)
	defer mend()
	var now *simLife
	if !w.until(10*time.Second, func() bool {
		now = w.leader()
		return now != nil && now != old && now.c.LeaseErr() == nil && slow.c.LeaseErr() == nil
	}) {
		return
	}
	time.Sleep(w.lease() + w.between(0, 1000)) // nobody has a lease of the old leader any more
	defer w.net.cut(w.ways(slow.node.n, true, true)...)()
	newest := func() (gate uint64) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for k := range w.plan.keys {
			gate = max(gate, w.tap.newest(k))
		}
		return gate
	}
	before := newest()
	if !w.until(2*time.Second, func() bool { return newest() > before && now.c.machine.View().Index() >= newest() }) {
		return
	}
	_ = now.c.await(w.ctx, func() error { return now.c.raft.Snapshot().Error() })
	mend()
	at := old.c.machine.View().Index()
	w.until(2*time.Second, func() bool { return old.c.machine.View().Index() > at })
	wake()
	time.Sleep(w.between(500, 2500))
}

// lateReport has the last message of a process arrive when the next process on the
// same node has a lease, and does not hear any more what changes: changes wait for
// that lease when the message comes.
func (w *simWorld) lateReport() {
	l, m := w.leader(), w.some()
	if l == nil || m == nil || l == m {
		return
	}
	by := w.between(1000, 1800)
	mendDelay := w.net.queue(by, [2]int{m.node.n, l.node.n})
	defer mendDelay()
	time.Sleep(w.between(250, 400)) // it asks at least once
	end := time.Now().Add(by)
	m.kill()
	w.count(func(s *simStats) { s.Crashes++ })
	mendDelay()
	if m.node.gone.Load() {
		return
	}
	m.node.start()
	simSleep(time.Until(end)-w.scaled(700*time.Millisecond), w.ctx.Done())
	defer w.net.cut([2]int{l.node.n, m.node.n})()
	time.Sleep(w.between(1200, 3500))
}
