// Package lease decides who may serve: the protocol of serving leases as state
// machines without a goroutine, a clock, a network or a random number.
//
// Every node is a [Holder]: it asks the leader for a grant, again and again, and
// may answer from its own view of the registry while a grant is usable. The
// leader is a [Leader]: it gives grants, remembers each until it has run out,
// and says which changes are complete, which is when no node can act on the
// state before them any more. A voter answers the leader's question whether
// another leader may exist ([Confirm.Answer]). The caller brings what the machines
// cannot have: streams, timers, the log, and readings of the clocks.
//
// # Words
//
// A grant is the right to serve for a duration from when it was asked for, once
// the view has its index. An epoch is the time in which one leader gives grants,
// from the command with which it began. A change is fenced while grants are out
// that were given before it; it is complete when none is. The watermark of a
// holder is the last change that it does not keep waiting. An incarnation is one
// life of a holder's view, between two restores.
//
// # Invariants
//
//   - I1: a holder counts time by the clock that says most and from before it asked, a leader by the clock that says least and from after it was asked; no rounding and no out-of-order reading shortens what a leader waits or lengthens what a holder serves.
//   - I2: a grant is given only after a majority of the voters of the latest configuration answered, to questions sent after the request came, that they are in exactly the established term.
//   - I3: a leader gives nothing before it has applied its own epoch, and forgets everything before a command of a higher term or a restored state is visible.
//   - I4: whatever leases earlier leaders gave, no change is complete before every member reported it in this term or the time of a whole lease has passed since the epoch began.
//   - I5: a change is complete only when every holder reported it or every grant that was given before it has run out; what is complete stays complete.
//   - I6: a report counts for the incarnation that made it, and an incarnation older than one that was seen is refused.
//   - I7: a holder serves under one grant: never with the end of one and the index of another; never under a grant of a term below one it heard, of another incarnation, or that it did not ask for.
//   - I8: a restored view has no lease, and what was asked before the restore brings none.
//   - I9: an answer that tells state leaves only if all it read is complete and unchanged and the lease is usable; a refusal that tells state is such an answer.
//   - I10: nodes whose states at one index differ give each other no lease.
//   - I11: what others send is bounded: no message makes a table, a queue or a ring longer than its limit, and what a limit merges makes a leader wait longer, never shorter.
//   - I12: a leader that has been stuck for longer than [StuckAfter] gives no grant.
//   - I13: timers with which reads would pause at every failover are refused.
//
// # Concurrency
//
// [Leader] and [Holder] are not safe for concurrent use: the caller serializes
// their methods, each machine's with a lock of its own. The leader's lock is also
// held over the moment at which the state machine publishes a command, so that
// the index of a grant and the entry in the table are one step for every fence.
// [Lease], [Reading] and everything that methods return are values.
//
// # Failure
//
// The protocol fails towards not serving: without a majority, without a clock
// reading, without an answer, leases run out and nobody serves. It relies on
// Raft, on one process per node id, and on clocks whose rate is within 1 % of
// each other; docs/leases.md says what a virtual machine that was
// paused without noticing can do. A call in an order that the caller promised not
// to make is a defect and panics.
//
// # Source
//
// Gray and Cheriton, Leases (1989); Ongaro, Consensus (2014), chapter 6.4;
// docs/leases.md, whose rules the models in the directory model check.
package lease
