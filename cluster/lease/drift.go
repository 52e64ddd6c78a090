package lease

import "time"

// Drift is how the clock of a member went against the leader's: over what time of
// the leader's, and by how much the member's counted more (negative: less). Zero
// Over: not known yet. The time that messages took is part of it, so that
// a difference of less than a round trip says nothing.
type Drift struct {
	Over, Ahead time.Duration
}

// audit compares a member's BOOTTIME with the leader's. It keeps a pair of readings
// every [AuditSpan] and compares with the last but one, which is between one and
// two spans old. It starts anew when the member's process does.
type audit struct {
	boot        uint64
	old, recent sample
	drift       Drift
}

type sample struct {
	set          bool
	mine, theirs time.Duration
}

// note takes the two clocks: mine after a message came, theirs before it was sent.
func (a *audit) note(inc Incarnation, mine, theirs time.Duration) {
	now := sample{true, mine, theirs}
	if !a.recent.set || a.boot != inc.Boot {
		*a = audit{boot: inc.Boot, recent: now}
		return
	}
	if mine-a.recent.mine >= AuditSpan {
		a.old, a.recent = a.recent, now
	}
	if a.old.set {
		over := mine - a.old.mine
		a.drift = Drift{Over: over, Ahead: theirs - a.old.theirs - over}
	}
}
