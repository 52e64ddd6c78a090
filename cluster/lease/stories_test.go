package lease_test

import "time"

// What goes wrong needs some events in a certain order. A story has them, with
// chances at every turn, so that it is told in many ways.

func (w *world) some() uint8 {
	m := uint8(w.src.n(1 << len(w.servers)))
	return m & uint8(w.src.n(1<<len(w.servers)))
}

func (w *world) split() {
	if w.cut != 0 {
		w.cut = 0
		if w.src.n(2) == 0 {
			w.snapshot(w.any())
		}
	} else {
		w.cut = 1<<w.someLeader().n | w.some()
		if w.src.n(3) == 0 {
			w.cut = 1 << w.any().n
		}
	}
	w.logf("the network is cut: %05b", w.cut)
}

func (w *world) deposed(l, c, x *server) {
	if w.src.n(2) == 0 {
		w.leases(l)
	} else {
		w.ask(w.any(), l)
		w.carry()
		w.begin(l)
	}
	w.now += time.Duration(w.src.n(300)) * time.Millisecond
	w.campaign(c)
	for _, v := range w.servers {
		if w.src.n(2) == 0 {
			w.vote(v, c)
		}
	}
	w.lead(c)
	w.propose(c)
	w.cut = 1<<l.n | 1<<x.n
	if len(w.servers) > 3 && w.src.n(2) == 0 {
		w.cut |= 1 << w.any().n
	}
	w.logf("the network is cut: %05b", w.cut)
	w.sync(c)
	w.now += time.Duration(w.src.n(300)) * time.Millisecond
	w.leases(l)
	w.write(c)
	w.sync(c)
	w.sync(c)
	w.untilNext(c)
}

func (w *world) untilNext(l *server) {
	next := l.leader.Advance(w.reading(l)).Next
	rate := min(l.rates[0], l.rates[1])
	if next == 0 || rate == 0 || !l.up {
		return
	}
	d := next*1000/time.Duration(rate) + time.Microsecond
	w.now += d
	w.logf("%v pass", d)
	w.advance(l)
}

func (w *world) reborn(l, x *server) {
	w.write(l)
	for _, v := range w.servers {
		w.replicate(l, v, l.last())
	}
	w.advanceCommit(l)
	w.replicate(l, x, l.last())
	for range w.src.n(6) {
		w.applyNext(x)
	}
	w.ask(x, l)
	if w.src.n(2) == 0 {
		w.carry()
	}
	w.crash(x)
	w.start(x)
	w.replicate(l, x, l.last())
	for range w.src.n(6) {
		w.applyNext(x)
	}
	w.leases(l)
	for range len(w.net) / 2 {
		w.deliver(w.src.n(max(len(w.net), 1)))
		w.judge()
	}
	for range 1 + w.src.n(3) {
		w.applyNext(l)
		w.judge()
	}
}

func (w *world) overtaken(l *server) {
	w.cut = 1 << l.n
	w.logf("the network is cut: %05b", w.cut)
	if w.src.n(2) == 0 {
		w.now += w.length + w.length/40
	}
	c := w.any()
	w.election(c)
	w.quiet()
	w.write(c)
	w.sync(c)
	if w.src.n(2) == 0 {
		w.leases(c)
	}
	w.cut = 0
	if w.src.n(2) == 0 {
		w.snapshot(l)
		return
	}
	w.campaign(l)
	for _, v := range w.servers {
		w.vote(v, l)
	}
	w.lead(l)
	w.leases(l)
	w.untilNext(c)
}

func (w *world) island() {
	if w.cut == 0 {
		if w.src.n(2) == 0 {
			w.split()
		} else {
			w.deposed(w.someLeader(), w.any(), w.any())
		}
		return
	}
	switch w.src.n(8) {
	case 0:
		w.split()
	case 1, 2, 3:
		for _, s := range w.servers {
			if _, _, ok := s.leader.Established(); ok && s.up && w.src.n(2) == 0 {
				w.leases(s)
			}
		}
	case 4:
		w.election(w.any())
	default:
		w.tick()
	}
}

func (w *world) retire(l, v *server) {
	voters, _, _ := l.configuration()
	if voters&(1<<v.n) != 0 || !l.leads || !l.up {
		return
	}
	w.quiet()
	if w.src.n(2) == 0 {
		w.cut = 1 << v.n
		w.logf("the network is cut: %05b", w.cut)
	}
	for range 2 + w.src.n(3) {
		w.retireStep(l, v)
		w.sync(l)
		w.leases(l)
	}
	if w.src.n(2) == 0 {
		w.cut = 1 << v.n
	}
	c := w.any()
	w.election(c)
	w.write(c)
	w.quiet()
}

func (w *world) retireStep(l, v *server) {
	switch {
	case !l.up || !l.leads || w.once(l, purgeMember, v):
	case !w.once(l, removeMember, v):
		w.logf("%s proposes to remove %s", l.id, v.id)
		w.append(l, logEntry{kind: removeMember, node: v.n})
	default:
		for i := 1; i <= l.applied; i++ {
			if e := l.at(i); e.kind == removeMember && e.node == v.n && (l.leader.Complete() >= uint64(i) || w.mut.is(purgeTooEarly)) {
				w.logf("%s proposes to purge %s", l.id, v.id)
				w.append(l, logEntry{kind: purgeMember, node: v.n})
			}
		}
	}
}
