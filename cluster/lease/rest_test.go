package lease_test

import (
	"fmt"
	"time"
)

func (w *world) rest() string {
	w.calm, w.cut, w.net = true, 0, nil
	for _, s := range w.servers {
		if !s.up {
			w.start(s)
		}
		w.notice(s)
	}
	why := ""
	for range 150 {
		l := w.foremost()
		if !l.leads {
			w.campaign(l)
			for _, v := range w.servers {
				w.vote(v, l)
			}
			w.lead(l)
		}
		for _, s := range w.servers {
			if s != l {
				w.notice(s)
				w.replicate(l, s, l.last())
			}
		}
		w.advanceCommit(l)
		for _, s := range w.servers {
			for range l.last() {
				w.applyNext(s)
			}
			w.ask(s, l)
		}
		w.propose(l)
		w.carry()
		w.begin(l)
		w.carry()
		w.carry()
		w.tell(l)
		w.carry()
		w.now += 100 * time.Millisecond
		if why = w.unwell(l); why == "" || w.wrong != "" {
			return w.wrong
		}
	}
	return why
}

func (w *world) foremost() *server {
	var best *server
	var term uint64
	for _, s := range w.servers {
		term = max(term, s.term)
		voters, _, _ := s.configuration()
		if voters&(1<<s.n) == 0 {
			continue
		}
		if best == nil || s.lastTerm() > best.lastTerm() || s.lastTerm() == best.lastTerm() && s.last() > best.last() {
			best = s
		}
	}
	if !best.leads || best.term < term {
		w.follow(best, max(term, best.term))
	}
	return best
}

func (w *world) unwell(l *server) string {
	if _, _, ok := l.leader.Established(); !ok {
		return "nobody has an epoch"
	}
	if got := l.leader.Complete(); got != uint64(l.applied) {
		return fmt.Sprintf("%d of %d is complete", got, l.applied)
	}
	for _, m := range l.members(l.applied, w.founder) {
		for _, s := range w.servers {
			if s.id == m.ID && !m.Removed && (!s.shown.Usable(w.reading(s)) || s.heard != uint64(l.applied)) {
				return fmt.Sprintf("%s cannot serve: %v left, heard %d of %d", s.id, s.shown.Remaining(w.reading(s)), s.heard, l.applied)
			}
		}
	}
	return ""
}
