// Package cluster makes several nodes one: the data directory, the node's key,
// the port on which members talk, Raft under all of it, joining and leaving, and
// the one way in which a change becomes a log entry.
//
// It is the shell around the replicated state machine of package fsm: that
// package decides, this one carries, stores and repeats. The reasoning is in
// DESIGN.md beside this file.
//
// # Invariants
//
//   - I1: a node id is born with its data directory and one process holds the directory; an identity without its log never votes.
//   - I2: who a peer is follows from the public key of its connection and its member entry, never from a message or a certificate's names.
//   - I3: after the first failed, late or corrupt storage call nothing is written or read any more and the node stops.
//   - I4: term and candidate of a vote are one value on disk.
//   - I5: time, proposer and via_node of a command are what the leader itself knows, whoever sent it.
//   - I6: a command that succeeded is visible in this node's view before Propose returns.
//   - I7: the Raft configuration follows the member entries, one server at a time, and two voters are never a steady state; a member is removed only if the other voters are a majority without it.
//   - I8: a member whose removal this node has applied is refused: new connections and calls at once, open Raft streams within a second.
//   - I9: a leader whose storage, state machine or oldest command is stuck stops instead of leading.
//   - I10: a join token admits one node, to the cluster that made it, before it expires; its secret leaves the node that joins for nobody, and what it shows is good for that node alone.
//   - I11: a lease counts from before it was asked for, and is used only with a view that has all that its leader had applied; delay and pauses shorten it, never lengthen it.
//   - I12: whom this node's view does not have gets a connection at most, and is forgotten once a leader gave this node a lease; only the view gives a say.
//   - I13: what a caller's act cannot make is not proposed for a caller and not forwarded.
//   - I14: a snapshot whose MAC cannot be made because the node is sealed is not written.
//   - I15: a node whose state at an entry is another one than its leader's does not serve, and a leader that most voters contradict stops.
//   - I16: whoever has a lease has every change that was acknowledged, and a change is acknowledged only when whoever has not applied it has no lease.
//   - I17: a change that is committed is never answered as if nothing had happened: until it is complete, any node tells who it waits for, and the next leader does too.
//   - I18: whose act a forwarded command is, this node as leader has verified by what the caller showed; what the member says of it is compared and never believed.
//   - I19: a node believes its log only if a leader that had the MasterKey vouched for every entry that needs it, at its place and behind the state that this node has; what it does not believe it serves not, hands on not, and as leader gives no lease for. Unsealed, it lets no entry with a wrong proof into its log.
//   - I20: a node that has had an entry serves nothing by a log without it, and a leader that cannot prove how far its log goes gives no lease under which a node serves that cannot either; but where there never was a tenant, or just before a death.
//   - I21: a state that came from another member in a snapshot is neither served nor vouched for, across restarts too, before a majority of the voters that this node knew before and that are not gone have the same, one that did not send it among them if there were several; or, where it knew no registry, who is named in its join token. Until then the node helps to commit nothing, and does not lead.
//   - I22: what is proved with a MasterKey counts only where that one is in force: behind the entry that brings the next one into force it vouches for nothing, and a node that was opened by the next one believes no state from before it.
//   - I23: nodes of two incarnations of a cluster have no connection for members in common; a node that recovers gives no lease, lets nobody in and changes nothing else before its recovery is applied, and it says that it is done only when no lease of before can be in use.
//   - I24: when a member has cleared its disk up to an entry, nothing of the registry from before that entry is in any file of its data directory, under any name.
//
// # Concurrency
//
// [Cluster] is safe for concurrent use. Run owns the long-lived goroutines of
// this package; those of Raft and gRPC live from Open to Close. Locks are never
// held over I/O, and no lock is taken while another is held; except the one that
// orders writers of the trust list, for whom nobody waits, and two that clearing a disk takes:
// that under which every call of the log store waits while its file is replaced, and
// that which keeps a snapshot from being opened while it is renamed.
//
// # Failure
//
// No leader or no majority: changes are refused, reads of the view go on, and
// leases run out ([Cluster.Standing]). A member that died keeps the first change
// after it waiting until its lease has ended. A leader whose clock is a minute ahead of the
// other voters' commits nothing. A sealed node's log grows. Broken storage or a command that this program
// does not understand: Run returns the cause and the node must end, because a
// replica that goes on after either may acknowledge what it does not have.
//
// # Source
//
// ACD-302 (replicated registry); Ongaro, Consensus (2014); hashicorp/raft
// issues 503, 612, 614, 661, 666, 696; docs/formats.md (join token, node.json).
package cluster
