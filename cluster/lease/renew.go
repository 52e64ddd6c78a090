package lease

// Checks is what the caller compared when it received a request.
type Checks struct {
	// State is the chain of the request against this node's at that index.
	State Agreement
	// Log is the end of this node's own log, read after the request was received.
	// Zero: not compared.
	Log Mark
}

// queued is a request that waits for an epoch.
type queued struct {
	renew  Renew
	checks Checks
	at     Reading // when it came
}

// request asks for a grant.
type request struct {
	nonce Nonce // zero: there is none
	inc   Incarnation
	round uint64 // the round that serves it, once it is in one
}

// Renew takes a member's message: it notes the report at once and keeps the request
// for the next round. A refusal notes nothing. Before an epoch that is expected,
// the message waits, the latest of each member; from is whom the stream's
// certificate names.
func (l *Leader) Renew(now Reading, from NodeID, r Renew, c Checks) Refusal {
	l.clock.tick(now)
	if r.History != l.cfg.History {
		return RefusedHistory
	}
	if l.term == 0 {
		return l.enqueue(now, from, r, c)
	}
	return l.take(now, from, r, c)
}

// take is Renew within an epoch, of a message that came at the reading at.
func (l *Leader) take(at Reading, from NodeID, r Renew, c Checks) Refusal {
	i, ok := l.tab.of[from]
	if !ok || l.tab.slots[i].standing == purged {
		return RefusedNotMember
	}
	before := l.seen[from]
	if before == nil {
		before = &seen{}
		l.seen[from] = before
	}
	switch {
	case r.Inc.Compare(before.inc) < 0, r.Inc.Boot == 0:
		return RefusedOldIncarnation
	case r.Log.Compare(before.log) < 0:
		return RefusedRolledBack
	case c.Log != Mark{} && r.Log.Compare(c.Log) > 0:
		return RefusedAhead
	}
	before.inc, before.log = r.Inc, r.Log
	before.audit.note(r.Inc, sample{mine: at.Boot, theirs: r.Boot})
	s := &l.tab.slots[i]
	s.differs = r.Differs || c.State == Differs
	if s.differs {
		// I10: a state that is not this leader's proves nothing about a change.
		l.tab.cancel(i)
		return RefusedStateDiffers
	}
	l.tab.report(i, r.Inc, r.Applied)
	if r.Nonce == 0 {
		return RefusalNone
	}
	if s.standing != current {
		return RefusedRemoved
	}
	l.tab.ask(i, request{nonce: r.Nonce, inc: r.Inc})
	return RefusalNone
}

// enqueue keeps the latest message of a member until the epoch is established.
func (l *Leader) enqueue(now Reading, from NodeID, r Renew, c Checks) Refusal {
	if !l.expects {
		return RefusedNotLeader
	}
	q, ok := l.queue[from]
	if !ok && len(l.queue) >= MaxQueued {
		return RefusedFull
	}
	if ok && r.Inc.Compare(q.renew.Inc) < 0 {
		return RefusedOldIncarnation
	}
	if ok && r.Nonce == 0 && r.Inc == q.renew.Inc {
		r.Nonce = q.renew.Nonce // a report does not take the request back
	}
	c.Log = Mark{} // before the epoch, a member's log may rightly end after this node's
	l.queue[from] = queued{r, c, now}
	return RefusalNone
}

// Contradicted reports whether the states of most of these voters are not this
// leader's, as they or this leader found. They are believed as they are for a vote: the leader must stop.
func (l *Leader) Contradicted(voters []NodeID) bool {
	against := 0
	voters = distinct(voters)
	for _, v := range voters {
		if i, ok := l.tab.of[v]; ok && l.tab.slots[i].differs {
			against++
		}
	}
	return against >= majority(len(voters))
}
