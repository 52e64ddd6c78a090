// Package client is the Go SDK of Krypton.
//
// [New] makes a client of a whole cluster, from the environment or from code:
//
//	c, err := client.New(ctx)
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	scope := client.Scope{Service: "tenants/demo/services/payments"}
//	sealed, err := c.Encrypt(ctx, scope, []byte("4111 1111 1111 1111"))
//
// What for which call:
//
//	a value of up to 1 MiB              Client.Encrypt, Client.Decrypt
//	a file or stream of any size        package client/stream
//	your own encryption                 Client.GenerateDataKey, Client.UnwrapDataKey; keep only the wrapped key
//	a wrapped key, after a rotation     Client.RewrapDataKey: the newest version, and the key is never shown
//	tenants                             Client.Tenants: create, suspend, rotate, delete; Client.AllTenants
//	services, versions, resources       Client.Services: the same, and pin; Client.AllServices, Client.AllResources
//	nodes, leadership, operations       Client.Cluster
//	who am I, certificates              Client.Access
//	requests that wait for signatures   Client.Approvals, Client.AllApprovals
//	how each node is                    Client.Health
//	one node and no other               Client.Node
//	ids of a call, for records          Capture
//	changes that people must sign       Options.Signer, SignedBy
//	the clusters of the command line    package client/contexts
//	HTTP/JSON, where gRPC cannot pass   package client/rest
//
// [Client.Tenants] and the others are generated clients of the API's services;
// they run over the same balanced connection, because [Client] is a
// [grpc.ClientConnInterface].
//
// A call goes to one node and, when that node cannot do it, to another one,
// until it succeeds, is refused for good, or the caller's deadline ends. A
// context without a deadline gets [DefaultDeadline]. Give a deadline of at least
// 5 s on a LAN and 10 s across regions: that is what a cluster needs to survive
// the death of one node without one failed call.
//
// # Invariants
//
//   - I1: a mutation is sent with one request id on every attempt, so that a retry never acts twice; a call that has no request id and is not a pure read is sent again only after a node answered that it did nothing.
//   - I2: no call outlives its caller's deadline, and no attempt is made that could not end before it.
//   - I3: whether and where a call is tried again is decided by the retry class of the error table and by nothing else.
//   - I4: when it is not known whether a mutation took effect, the error says so (INDETERMINATE or DEADLINE_EXCEEDED) and names the request id, even if a later attempt ended with a clearer refusal of another kind.
//   - I5: all attempts of one call carry one correlation id.
//   - I6: key material that this package hands out is in a [Secret], which never prints itself, and the buffers it came through are wiped.
//   - I7: a caller's token leaves over TLS only, and is in no error and no print of anything.
//   - I8: with [AcceptExpiredNodes] the age of a node's certificate is forgiven, and nothing else.
//   - I9: all attempts of one call carry the same signatures, which are made once; a call that only checks carries none.
//   - I10: a call is not made again before the time that a node told it to wait is over; if its deadline ends sooner, it fails at once.
//
// # Concurrency
//
// A Client is safe for concurrent use. It starts no goroutines of its own but
// those of [Client.Health], which end before it returns; those of its connections
// end with [Client.Close]. Locks are leaves: no call is made
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
