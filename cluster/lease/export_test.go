package lease

// ForgetEarlier drops what a member may hold of earlier leaders, so that the
// explorer can show what happens then.
func ForgetEarlier(l *Leader, id NodeID) {
	if i, ok := l.tab.of[id]; ok {
		l.tab.slots[i].before = false
		l.tab.note(i)
	}
}

// Sizes returns what a leader keeps of others: members, requests that wait for an
// epoch, nodes of which it knows what they said of themselves, and the longest
// ring of grants.
func Sizes(l *Leader) (members, queue, seen, grants int) {
	for _, s := range l.tab.slots {
		grants = max(grants, len(s.grants))
	}
	return len(l.tab.slots), len(l.queue), len(l.seen), grants
}

// Asked returns how many requests a holder remembers.
func Asked(h *Holder) int { return len(h.asked) }

// RestoreKeepingTable is Restored of a leader that goes on with its epoch.
func RestoreKeepingTable(l *Leader, e Entry) { l.applied = e }
