package lease

import "time"

// Due returns how long to wait before the next message to the leader; 0: send it
// now. A request for a grant is due every Renew, or earlier once after [Holder.Again]; a report at once when the view
// has more than was reported and a change waits for that.
func (h *Holder) Due(now Reading) time.Duration {
	if h.fence > h.reported && h.applied.Index > h.reported {
		return 0
	}
	return h.askDue(now)
}

func (h *Holder) askDue(now Reading) time.Duration {
	if !h.sent {
		return 0
	}
	every := h.cfg.Renew
	if h.again != 0 {
		every = h.again
	}
	return max(every-now.Longest(h.last), 0)
}

// Renew makes the message to send next. now is read before: a lease that is given
// for it counts from then (I1). log is the highest entry that this node's log ever
// had. Between two requests the message is only a report, so that a stream of
// changes does not make a stream of grants.
func (h *Holder) Renew(now Reading, log Mark) Renew {
	r := Renew{
		History: h.cfg.History, Inc: h.inc,
		Applied: h.applied.Index, Chain: h.applied.Chain, Log: log, Boot: now.Boot, Differs: h.differs,
	}
	if h.askDue(now) == 0 {
		h.nonce++
		r.Nonce = h.nonce
		if len(h.asked) == MaxAsked {
			h.asked = append(h.asked[:0], h.asked[1:]...)
		}
		h.asked = append(h.asked, asked{h.nonce, now})
		h.sent, h.last, h.again = true, now, 0
		h.silence.asks(now)
	}
	h.reported = max(h.reported, r.Applied)
	return r
}
