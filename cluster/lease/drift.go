package lease

import "time"

// Drift is how the clock of a member went against the leader's: over what time of
// the leader's, and by how much the member's counted more (negative: less). Zero
// Over: not known, because the member was not heard for long enough, or not
// lately. The time that messages took is part of it, so that a difference of less
// than a round trip says nothing.
type Drift struct {
	Over, Ahead time.Duration
}

const (
	// auditWindow is the time of whose messages the fastest counts.
	auditWindow = AuditSpan / 3
	// auditWindows are kept: between the first and the last of them lie three.
	auditWindows = 5
)

// audit compares a member's BOOTTIME with the leader's. Of the messages of each
// [auditWindow] it keeps the one that was on its way for the shortest time, and
// compares it with the one of four windows before: these are 30 to 50 s apart. One
// message that was delayed, because a process stood still or a packet was lost,
// says nothing that way; compared as they come, half a second of delay would look
// like a clock that is off by more than leases allow for. It starts anew when the
// member's process does, and when nothing was heard for an [AuditSpan].
type audit struct {
	boot  uint64
	heard time.Duration // mine, when the last message came
	open  sample        // the fastest of the window that is open
	ends  time.Duration // mine, when that window is over

	kept  [auditWindows]sample // oldest first
	count int
	drift Drift
}

// sample is one look at two clocks: mine after a message came, theirs before it was sent.
type sample struct{ mine, theirs time.Duration }

// note takes the two clocks.
func (a *audit) note(inc Incarnation, now sample) {
	if a.boot != inc.Boot || now.mine-a.heard > AuditSpan {
		*a = audit{boot: inc.Boot, heard: now.mine, open: now, ends: now.mine + auditWindow}
		return
	}
	a.heard = max(a.heard, now.mine)
	switch {
	case now.mine >= a.ends:
		a.keep(a.open)
		a.open, a.ends = now, now.mine+auditWindow
	case now.mine-now.theirs < a.open.mine-a.open.theirs:
		a.open = now
	}
}

// keep takes the fastest message of a window that is over.
func (a *audit) keep(s sample) {
	if a.count == auditWindows {
		copy(a.kept[:], a.kept[1:])
		a.count--
	}
	a.kept[a.count] = s
	a.count++
	if a.count == auditWindows {
		first := a.kept[0]
		over := s.mine - first.mine
		a.drift = Drift{Over: over, Ahead: s.theirs - first.theirs - over}
	}
}

// at returns the drift, if the member was heard lately.
func (a *audit) at(now time.Duration) Drift {
	if now-a.heard > AuditSpan {
		return Drift{}
	}
	return a.drift
}
