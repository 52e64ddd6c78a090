package lease

// Answer is a voter's answer to a leader's question; false: none, the question is
// of another history. The caller reads its current term after it received the
// question (I2): a term that was read before may be older than a vote that this
// node has given since.
func (q Confirm) Answer(own History, current uint64) (Confirmed, bool) {
	if q.History != own {
		return Confirmed{}, false
	}
	return Confirmed{History: own, Round: q.Round, Term: current}, true
}
