package lease

import "time"

// Reading is one look at the clocks of a machine, each in time since an origin
// of its own that does not change while the machine runs. Readings of different
// machines, and of one machine before and after it started anew, have nothing in
// common and are never compared.
//
// Three clocks, because none is enough: Raw does not see what time
// daemons do to the rate of the others, but stops while the machine is suspended;
// Boot goes on while suspended, but a time daemon may slow it; Wall also notices a
// suspension that the kernel did not, once somebody sets it right.
type Reading struct {
	Raw  time.Duration // CLOCK_MONOTONIC_RAW
	Boot time.Duration // CLOCK_BOOTTIME
	Wall time.Duration // CLOCK_REALTIME, since 1970
}

// Longest returns the most time that can have passed since the earlier reading:
// what a holder counts with (I1). It is never negative.
func (r Reading) Longest(since Reading) time.Duration {
	return max(r.Raw-since.Raw, r.Boot-since.Boot, r.Wall-since.Wall, 0)
}

// Shortest returns the least time that can have passed since the earlier
// reading: what a leader counts with (I1). The wall clock has no say, since a
// step forward would end a wait early. It is never negative.
func (r Reading) Shortest(since Reading) time.Duration {
	return max(min(r.Raw-since.Raw, r.Boot-since.Boot), 0)
}

// driftPercent is how much the rates of two machines' clocks may differ from real
// time, each: fifty times what a quartz does and twice what a time daemon may slew
// without leave. Holders count a lease shorter and leaders longer by it.
const driftPercent = 1

// HolderSpan returns how long a holder uses a lease of length d: d less the drift
// of its clock, rounded down.
func HolderSpan(d time.Duration) time.Duration {
	d = max(d, 0)
	return d - drift(d)
}

// LeaderSpan returns how long a leader waits for a lease of length d to be over:
// d and the drift of its clock, rounded up.
func LeaderSpan(d time.Duration) time.Duration {
	d = max(d, 0)
	return d + drift(d)
}

// drift returns driftPercent of d, rounded up, without overflow for any d.
func drift(d time.Duration) time.Duration {
	return d/100*driftPercent + (d%100*driftPercent+99)/100
}

// meter is a leader's clock: one number that never goes back and, between any two
// instants, moves by no more than either clock of the machine did (I1). The sum
// of the shorter steps is at most the shorter of the sums, so that adding them up
// errs to the side of waiting.
type meter struct {
	last Reading
	at   time.Duration
	set  bool
}

// tick moves the meter to now, which may be older than a reading before it
// because callers read the clock before they take the lock.
func (m *meter) tick(now Reading) time.Duration {
	if !m.set {
		m.last, m.set = now, true
		return m.at
	}
	m.at += now.Shortest(m.last)
	m.last.Raw, m.last.Boot = max(m.last.Raw, now.Raw), max(m.last.Boot, now.Boot)
	return m.at
}
