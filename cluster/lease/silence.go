package lease

import "time"

// maxLost is how many times patience doubles: from 0.75 s to 12 s in a network of a
// few milliseconds.
const maxLost = 4

// silence is how long the leader has not answered on a stream. A connection of
// which the network swallows what is sent looks to its ends as if the other had
// nothing to say, and the log of what was sent ends there; so it must be noticed
// within a lease, and not when keepalives of a transport would notice.
//
// A leader may have reasons not to answer, for which no connection is to blame: it
// has not heard from a majority, or a step of it hangs. So patience doubles with
// each connection that was given up in vain.
type silence struct {
	open   bool          // a request on this stream was not followed by an answer
	lasts  time.Duration // since the first of these
	looked Reading
	lost   int // connections that were given up since the last answer
}

// Answered says that a grant or a refusal came.
func (h *Holder) Answered() { h.silence = silence{} }

// Silent reports whether the connection to the leader is to be given up: nothing
// on this stream was answered for [HolderConfig.Patience], or for a multiple of
// it after others were given up in vain. It is asked at least with every request.
//
// Between two looks no more than Renew counts: a process that stood still finds
// its answers in its socket when it goes on, and must have looked there first.
func (h *Holder) Silent(now Reading) bool {
	s := &h.silence
	if !s.open || h.cfg.Patience == 0 {
		return false
	}
	s.lasts += min(now.Longest(s.looked), h.cfg.Renew)
	s.looked = now
	if s.lasts <= h.cfg.Patience<<s.lost {
		return false
	}
	s.open, s.lost = false, min(s.lost+1, maxLost)
	return true
}

// asks notes a request.
func (s *silence) asks(now Reading) {
	if !s.open {
		s.open, s.lasts, s.looked = true, 0, now
	}
}
