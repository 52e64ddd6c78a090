// Package rest lets the client speak HTTP/JSON with the nodes, where gRPC cannot
// pass.
//
//	c, err := client.New(ctx, rest.Use())
//
// with KRYPTON_ADDR=https://n1:8401,https://n2:8401. Everything else of package
// client stays as it is: retries over nodes, request ids, deadlines, errors,
// [client.Capture] and [client.Client.Health]. What differs:
//
//   - A node knows nothing of the caller's deadline. It gives a call its own time (10 s unless configured), and stops when the connection says that the caller has gone. WaitOperation answers after that time that the operation is not done yet; ask again.
//   - A name that fits no path, such as one with an empty segment or with . or .. as one, is refused here with INVALID_ARGUMENT; a node answers it in its own words over gRPC.
//   - A request without a body may be sent again by net/http itself, when the connection it was written to turns out to be gone, and counts as one attempt in [client.Info] then. These are reads, and deletions, which have their request id; nothing that has a body is.
//   - Call options of gRPC have no effect, but [grpc.Header], [grpc.PerRPCCredentials] and [client.Capture].
//   - JSON and base64 cost time and size. Prefer gRPC where it passes.
//
// # Invariants
//
//   - I1: an error counts as a node's own only with the node's header, JSON, and a body that agrees with the HTTP status; everything else says nothing about what the node did.
//   - I2: a request that was never given to a connection is not marked as sent; before one is given to a connection, it is.
//   - I3: no redirect is followed, no cookie is kept, and no proxy is asked, unless [UseProxy] names one.
//   - I4: every body and every header is bounded before it is read.
//   - I5: the bytes of requests and answers that this package holds are wiped. net/http, crypto/tls and the JSON codec keep copies for a while that nobody can reach; over gRPC there are fewer.
//   - I6: the connection is TLS 1.3, with the caller's certificate where there is one; a token is sent over nothing else, and in the header Authorization alone.
//   - I7: the paths are those of the nodes: one table makes both.
//
// # Concurrency
//
// Safe for concurrent use. The goroutines of a connection are net/http's and end
// after Close. The lock of a connection is a leaf.
//
// # Failure
//
// What answers and is not a node (a proxy, a login page, another server) is
// UNAVAILABLE, so that the client goes to another node; 413 of a proxy is
// TOO_LARGE and 429 THROTTLED.
//
// # Source
//
// server/gateway (http.yaml, error body); docs/contract.md (REST); RFC 9110.
package rest
