package cluster

import (
	"bytes"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// simFault does something to the cluster and mends it.
type simFault struct {
	name   string
	weight int
	do     func(*simWorld)
}

// simFaults are all faults.
func simFaults() []simFault {
	return []simFault{
		{"crash of the leader", 4, func(w *simWorld) { w.crash(w.leader(), w.between(200, 6000)) }},
		{"crash", 3, func(w *simWorld) { w.crash(w.some(), w.between(100, 8000)) }},
		{"leader cut off", 4, func(w *simWorld) { w.isolate(w.leader(), true, true, w.between(500, 6000)) }},
		{"leader that is not heard", 3, func(w *simWorld) { w.isolate(w.leader(), true, false, w.between(500, 6000)) }},
		{"leader that does not hear", 3, func(w *simWorld) { w.isolate(w.leader(), false, true, w.between(500, 6000)) }},
		{"node cut off", 3, func(w *simWorld) { w.isolate(w.some(), true, true, w.between(500, 6000)) }},
		{"node that does not hear", 2, func(w *simWorld) { w.isolate(w.some(), false, true, w.between(500, 6000)) }},
		{"ring of majorities", 2, (*simWorld).ring},
		{"split", 3, (*simWorld).split},
		{"leader with those who do not vote", 3, (*simWorld).withNonvoters},
		{"pause of the leader", 3, func(w *simWorld) { w.pause(w.leader(), w.between(200, 6000)) }},
		{"pause", 2, func(w *simWorld) { w.pause(w.some(), w.between(200, 6000)) }},
		{"slow ways", 3, (*simWorld).slowWays},
		{"late grants", 3, (*simWorld).lateGrants},
		{"apply lags", 3, func(w *simWorld) { w.lags(w.some(), w.between(500, 5000)) }},
		{"transfer", 3, func(w *simWorld) { w.transfer(w.leader(), nil) }},
		{"transfer there and back", 3, func(w *simWorld) { w.thereAndBack(false) }},
		{"transfer there and back, unnoticed", 4, func(w *simWorld) { w.thereAndBack(true) }},
		{"transfer that the old leader does not hear of", 5, (*simWorld).deafTransfer},
		{"restart behind a report", 3, (*simWorld).restartBehind},
		{"restart", 3, func(w *simWorld) { w.crash(w.some(), time.Millisecond) }},
		{"new member", 1, func(w *simWorld) { w.join(w.rnd.IntN(3) > 0) }},
		{"member removed", 1, func(w *simWorld) { w.removeRunning((*simWorld).some) }},
		{"leader removed", 1, func(w *simWorld) { w.removeRunning((*simWorld).leader) }},
		{"member removed while it is cut off", 3, (*simWorld).removeCutOff},
		{"member removed while it lags", 1, (*simWorld).removeLagging},
		{"removed member joins anew", 1, (*simWorld).joinAnew},
		{"snapshots", 2, (*simWorld).snapshots},
		{"snapshot for a leader that noticed nothing", 2, (*simWorld).snapshotForOldLeader},
		{"report of a process that has ended", 3, (*simWorld).lateReport},
	}
}

// simLosses are the ways in which a leader is lost, for the measurement of gaps.
func simLosses() []simFault {
	return []simFault{
		{"crash of the leader", 4, func(w *simWorld) { w.crash(w.leader(), w.between(200, 3000)) }},
		{"leader cut off", 4, func(w *simWorld) { w.isolate(w.leader(), true, true, w.between(2000, 4000)) }},
		{"leader that is not heard", 1, func(w *simWorld) { w.isolate(w.leader(), true, false, w.between(2000, 4000)) }},
		{"pause of the leader", 2, func(w *simWorld) { w.pause(w.leader(), w.between(2000, 4000)) }},
		{"transfer", 1, func(w *simWorld) { w.transfer(w.leader(), nil) }},
	}
}

// between returns a time between two numbers of milliseconds, scaled to the leases.
func (w *simWorld) between(from, to int) time.Duration {
	return w.scaled(time.Duration(from+w.rnd.IntN(to-from)) * time.Millisecond)
}

// some returns some process, nil if none runs.
func (w *simWorld) some() *simLife {
	lives := w.lives()
	if len(lives) == 0 {
		return nil
	}
	return lives[w.rnd.IntN(len(lives))]
}

// suffer lets faults happen, one or two at a time.
func (w *simWorld) suffer() {
	total := 0
	for _, f := range w.plan.faults {
		total += f.weight
	}
	likely := slices.IndexFunc(w.plan.faults, func(f simFault) bool { return f.name == w.plan.likely })
	one := func() simFault {
		if likely >= 0 && w.rnd.IntN(2) == 0 {
			return w.plan.faults[likely]
		}
		at := w.rnd.IntN(total)
		for _, f := range w.plan.faults {
			if at -= f.weight; at < 0 {
				return f
			}
		}
		return w.plan.faults[0]
	}
	for end := time.Now().Add(w.scaled(w.plan.length)); time.Now().Before(end) && !w.over(); {
		f := one()
		w.mu.Lock()
		w.faults[f.name]++
		w.mu.Unlock()
		w.note("%s", f.name)
		loss := simLoss{node: -1, at: time.Since(w.began)}
		if leader := w.leader(); leader != nil {
			loss.node = leader.node.n
		}
		f.do(w)
		w.revive()
		if w.plan.calm {
			if !w.serves(w.scaled(30 * time.Second)) {
				return
			}
			loss.until = time.Since(w.began)
			w.mu.Lock()
			w.losses = append(w.losses, loss)
			w.mu.Unlock()
			time.Sleep(w.between(200, 800))
			continue
		}
		time.Sleep(w.between(0, 1500))
	}
}

// revive starts processes that ended by themselves.
func (w *simWorld) revive() {
	w.mu.Lock()
	nodes := append([]*simNode(nil), w.nodes...)
	w.mu.Unlock()
	for _, n := range nodes {
		if n.now.Load() == nil && !n.gone.Load() {
			n.start()
		}
	}
}

func (w *simWorld) crash(l *simLife, down time.Duration) {
	if l == nil {
		return
	}
	w.count(func(s *simStats) { s.Crashes++ })
	l.kill()
	time.Sleep(down)
	if !l.node.gone.Load() && l.node.now.Load() == nil {
		l.node.start()
	}
}

// ways returns the ways from one node to all others, or back, or both.
func (w *simWorld) ways(n int, from, to bool) (out [][2]int) {
	for o := range simNodes {
		if o != n && from {
			out = append(out, [2]int{n, o})
		}
		if o != n && to {
			out = append(out, [2]int{o, n})
		}
	}
	return out
}

func (w *simWorld) isolate(l *simLife, from, to bool, d time.Duration) {
	if l == nil {
		return
	}
	defer w.net.cut(w.ways(l.node.n, from, to)...)()
	time.Sleep(d)
}

// ring lets every node see its neighbours only.
func (w *simWorld) ring() {
	lives := w.lives()
	var ways [][2]int
	for i, a := range lives {
		for j, b := range lives {
			if d := (j - i + len(lives)) % len(lives); d > 1 && d < len(lives)-1 {
				ways = append(ways, [2]int{a.node.n, b.node.n})
			}
		}
	}
	defer w.net.cut(ways...)()
	time.Sleep(w.between(1000, 6000))
}

// split makes two halves.
func (w *simWorld) split() {
	lives := w.lives()
	var ways [][2]int
	side := map[int]bool{}
	for _, l := range lives {
		side[l.node.n] = w.rnd.IntN(2) == 0
	}
	for _, a := range lives {
		for _, b := range lives {
			if side[a.node.n] != side[b.node.n] {
				ways = append(ways, [2]int{a.node.n, b.node.n})
			}
		}
	}
	defer w.net.cut(ways...)()
	time.Sleep(w.between(1000, 6000))
}

// sides returns the other voters and those who do not vote.
func (w *simWorld) sides(leader *simLife) (voters, others []*simLife) {
	for _, l := range w.lives() {
		switch {
		case l == leader:
		case leader.c.IsVoter(l.c.id):
			voters = append(voters, l)
		default:
			others = append(others, l)
		}
	}
	return voters, others
}

func both(a []*simLife, b []*simLife) (out [][2]int) {
	for _, x := range a {
		for _, y := range b {
			out = append(out, [2]int{x.node.n, y.node.n}, [2]int{y.node.n, x.node.n})
		}
	}
	return out
}

// withNonvoters cuts the leader and those who do not vote off from the voters.
func (w *simWorld) withNonvoters() {
	l := w.leader()
	if l == nil {
		return
	}
	voters, others := w.sides(l)
	defer w.net.cut(both(voters, append(others, l))...)()
	time.Sleep(w.between(1000, 6000))
}

func (w *simWorld) pause(l *simLife, d time.Duration) {
	if l == nil {
		return
	}
	defer l.pause.close()()
	time.Sleep(d)
}

// slowWays makes some ways slow, and cuts one of the nodes off at the end.
func (w *simWorld) slowWays() {
	l := w.some()
	if l == nil {
		return
	}
	by := w.between(50, 1500)
	defer w.net.delay(by, w.ways(l.node.n, w.rnd.IntN(2) == 0, true)...)()
	time.Sleep(w.between(500, 4000))
	if w.rnd.IntN(2) == 0 {
		w.isolate(l, true, true, w.between(500, 5000))
	}
}

// lateGrants keeps what a leader says to a member on the way, while the member
// cannot be heard.
func (w *simWorld) lateGrants() {
	l, m := w.leader(), w.some()
	if l == nil || m == nil || l == m {
		return
	}
	slow := w.net.delay(w.between(300, 1500), [2]int{l.node.n, m.node.n})
	time.Sleep(w.between(500, 1500))
	mend := w.net.cut(w.ways(m.node.n, true, true)...)
	if w.rnd.IntN(3) == 0 {
		time.Sleep(w.between(500, 7000))
	} else { // until its leases have just run out
		time.Sleep(w.between(3040, 3500))
	}
	slow()
	mend()
	time.Sleep(w.between(0, 500))
}

func (w *simWorld) lags(l *simLife, d time.Duration) {
	if l == nil {
		return
	}
	l.upTo.Store(0)
	defer l.lag.close()()
	time.Sleep(d)
}

// transfer hands leadership over; to nil: to any voter. It returns the new leader.
func (w *simWorld) transfer(l, to *simLife) *simLife {
	if l == nil {
		return nil
	}
	if to == nil {
		voters, _ := w.sides(l)
		if len(voters) == 0 {
			return nil
		}
		to = voters[w.rnd.IntN(len(voters))]
	}
	w.spawn(func() {
		_ = l.c.await(w.ctx, func() error {
			return l.c.raft.LeadershipTransferToServer(raft.ServerID(to.c.id), raft.ServerAddress(to.c.id)).Error()
		})
	})
	if !w.until(time.Second, to.c.IsLeader) {
		return nil
	}
	return to
}

// thereAndBack hands leadership over and back, fast or while the goroutine that
// gives grants gets no time, so that it notices nothing of it.
func (w *simWorld) thereAndBack(unnoticed bool) {
	l := w.leader()
	if l == nil {
		return
	}
	if !unnoticed {
		if to := w.transfer(l, nil); to != nil {
			w.transfer(to, l)
		}
		return
	}
	wake := l.nap.close()
	defer wake()
	lags := w.rnd.IntN(2) == 0
	if lags { // nor does it apply anything until some time after
		l.upTo.Store(l.c.machine.View().Index())
		defer l.lag.close()()
	}
	to := w.transfer(l, nil)
	if to == nil {
		return
	}
	time.Sleep(w.between(2000, 4500)) // the other one gives grants
	if _, others := w.sides(to); len(others) > 0 && !lags {
		if other := others[w.rnd.IntN(len(others))]; other != l {
			// One of them hears nothing from the first leader any more, and keeps its grant.
			defer w.net.cut(both([]*simLife{other}, []*simLife{l})...)()
		}
	}
	if w.transfer(to, l) == nil {
		return
	}
	time.Sleep(w.between(0, 800))
	wake()
	time.Sleep(w.between(500, 3000))
}

// deafTransfer hands leadership over while the old leader hears nothing from the
// other voters: it goes on as one for a while.
func (w *simWorld) deafTransfer() {
	l := w.leader()
	if l == nil {
		return
	}
	voters, others := w.sides(l)
	if len(voters) == 0 {
		return
	}
	var deaf [][2]int
	for _, v := range voters {
		deaf = append(deaf, [2]int{v.node.n, l.node.n})
	}
	// Who does not vote hears the old leader only, or it would learn of the new term there.
	mendEars := w.net.cut(append(deaf, both(voters, others)...)...)
	time.Sleep(2 * time.Millisecond)
	w.transfer(l, voters[w.rnd.IntN(len(voters))])
	mend := w.net.cut(both(voters, append(others, l))...)
	mendEars()
	time.Sleep(w.between(2500, 6000))
	mend()
}

// restartBehind has a member report what the leader itself has not applied yet,
// and start again with a state from before.
func (w *simWorld) restartBehind() {
	l, m := w.leader(), w.some()
	if l == nil || m == nil || l == m {
		return
	}
	at := l.c.machine.View().Index()
	l.upTo.Store(at)
	catchUp := l.lag.close()
	defer catchUp()
	time.Sleep(w.between(400, 900))
	l2 := m
	l2.kill()
	w.count(func(s *simStats) { s.Crashes++ })
	if m.node.gone.Load() {
		return
	}
	m.node.start()
	if m = m.node.now.Load(); m == nil {
		return
	}
	m.upTo.Store(at)
	defer m.lag.close()()
	w.until(time.Second, func() bool { return m.c.LeaseErr() == nil })
	time.Sleep(w.between(0, 200))
	catchUp()
	time.Sleep(w.between(500, 3500))
}

// snapshots has nodes write one, and keeps one of them away for long enough to
// need another's.
func (w *simWorld) snapshots() {
	l := w.some()
	if l == nil {
		return
	}
	defer w.net.cut(w.ways(l.node.n, true, true)...)()
	time.Sleep(w.between(1500, 3500))
	for _, o := range w.lives() {
		if o != l {
			w.spawn(func() { _ = o.c.await(w.ctx, func() error { return o.c.raft.Snapshot().Error() }) })
		}
	}
	time.Sleep(w.between(200, 800))
}

// again brings a snapshot once more, after the member went on behind it: the
// leader sends it again when it does not hear of the first, and both arrive.
func (w *simWorld) again(from, to *simLife, req any, data []byte) {
	after := time.Duration(w.net.random(3000)) * time.Millisecond
	r, ok := req.(*raft.InstallSnapshotRequest)
	if !ok || after < 300*time.Millisecond {
		return
	}
	w.spawn(func() {
		if !simSleep(after, to.ended) || !to.pass() {
			return
		}
		copied := *r
		resp := make(chan raft.RPCResponse, 1)
		if first, err := to.node.log.FirstIndex(); simMutation() == "lease-over-restore" && (err != nil || first == 0 || first > r.LastLogIndex+1) {
			return // Raft would end there, before anybody reads
		}
		w.count(func(s *simStats) { s.Overtaken++ })
		to.trans.arrivals.hand(to.c.raft, raft.RPC{Command: &copied, RespChan: resp, Reader: bytes.NewReader(data)}, to.trans.consume, to.ended)
		mend := w.net.cut([2]int{from.node.n, to.node.n}) // what comes next takes its time
		simSleep(600*time.Millisecond, to.ended)
		mend()
		select {
		case <-resp:
		case <-to.ended:
		}
	})
}
