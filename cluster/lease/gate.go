package lease

// ReadSet is what an operation decided by, as one number: the highest index at
// which anything of it changed last. The zero value is an operation that read nothing.
type ReadSet struct{ high uint64 }

// Note adds an object: gate is the index of the last change of a field by which a
// data operation decides, or 0 if the object has none, because it is of an older
// format; then mod counts, the index of its last change of any kind.
func (s *ReadSet) Note(gate, mod uint64) {
	if gate == 0 {
		gate = mod
	}
	s.high = max(s.high, gate)
}

// Index returns the change that must be complete before an answer leaves.
func (s *ReadSet) Index() uint64 { return s.high }

// Answer is what an operation is about to say.
type Answer uint8

// The answers.
const (
	AnswerUnspecified Answer = iota
	// AnswerSuccess is a result.
	AnswerSuccess
	// AnswerRefusal is a refusal that tells state: disabled, exists, not found,
	// does not match, denied. Whoever hears it has read the state like
	// whoever gets a result.
	AnswerRefusal
	// AnswerNothing tells no state: no lease, change in progress, unavailable.
	AnswerNothing
)

// Decision is what to do with an answer.
type Decision uint8

// The decisions.
const (
	DecisionUnspecified Decision = iota
	// Serve it.
	Serve
	// Wait until the change is complete, up to [GateWait]; then say that a change is in progress.
	Wait
	// Again: what it read has changed. Wipe the result and begin anew, or say that a change is in progress.
	Again
	// NoLease: wipe the result and say so; another node may have one.
	NoLease
)

var decisionNames = [...]string{"unspecified", "serve", "wait", "again", "no lease"}

// String returns the decision in a word or two.
func (d Decision) String() string {
	if int(d) < len(decisionNames) {
		return decisionNames[d]
	}
	return "invalid"
}

// Gate decides whether an answer may tell what was read (I9): complete is the last
// change that this node knows to be complete. The same holds on the leader, for
// reads and for changes that turned out to change nothing.
//
// Without the gate, a node that already has a change shows it while another one
// still shows the state before: a reader that goes from the first to the second
// sees time go back.
func Gate(a Answer, read ReadSet, complete uint64) Decision {
	switch a {
	case AnswerNothing:
		return Serve
	case AnswerSuccess, AnswerRefusal:
		if read.high <= complete {
			return Serve
		}
		return Wait
	case AnswerUnspecified:
	}
	return Wait
}

// Final decides once more, just before an answer leaves and after its record in
// the audit trail (I9): this is the instant at which the operation happens. read is
// what the operation decided by, newest the same objects in the view that was
// loaded together with the lease, after the work was done; the clock was read after both.
func Final(a Answer, l Lease, now Reading, read, newest ReadSet, complete uint64) Decision {
	switch {
	case a == AnswerNothing:
		return Serve
	case !l.Usable(now):
		return NoLease
	case read != newest:
		return Again
	}
	return Gate(a, read, complete)
}
