// Package client is the Go SDK of Krypton.
//
// [New] makes a client of a whole cluster: give it the addresses of several
// nodes and use [Client.GenerateDataKey], [Client.UnwrapDataKey],
// [Client.RewrapDataKey], [Client.Encrypt] and [Client.Decrypt]. Everything
// else of the API is there as generated service clients ([Client.Tenants],
// [Client.Services], [Client.Cluster], ...); they run over the same balanced
// connection, because [Client] is a [grpc.ClientConnInterface].
//
// A call goes to one node and, when that node cannot do it, to another one,
// until it succeeds, is refused for good, or the caller's deadline ends. A
// context without a deadline gets [DefaultDeadline]. Give a deadline of at least
// 5 s on a LAN and 10 s across regions: that is what a cluster needs to survive
// the death of one node without one failed call.
//
// Files and other data of any size are the business of package client/stream.
//
// # Invariants
//
//   - I1: a mutation is sent with one request id on every attempt, so that a retry never acts twice; a call that has no request id and is not a pure read is sent again only after a node answered that it did nothing.
//   - I2: no call outlives its caller's deadline, and no attempt is made that could not end before it.
//   - I3: whether and where a call is tried again is decided by the retry class of the error table and by nothing else.
//   - I4: when it is not known whether a mutation took effect, the error says so (INDETERMINATE or DEADLINE_EXCEEDED) and names the request id, even if a later attempt ended with a clearer refusal of another kind.
//   - I5: all attempts of one call carry one correlation id.
//   - I6: key material that this package hands out is in a [Secret], which never prints itself, and the buffers it came through are wiped.
//
// # Concurrency
//
// A Client is safe for concurrent use. It starts no goroutines of its own; those
// of its connections end with [Client.Close]. Locks are leaves: no call is made
// under one.
//
// # Failure
//
// Every error is an error of the table in docs/errors.md: code, message, hint.
// A node that fails is avoided for a while that grows with each failure (at most
// [maxPenalty]). Retries beyond the first try on every node spend a budget that
// successes and time refill, so that clients do not multiply an outage.
//
// # Source
//
// ACD-302, Any-node data operations; AIP-155 (request ids); docs/errors.md
// (retry classes); "The Tail at Scale" for the attempt timeout, without hedging:
// every attempt leaves an audit record.
package client
