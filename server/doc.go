// Package server is the doors of a node: gRPC, HTTP/JSON, the administration
// socket and the operations port.
//
// A door turns a call into names and bytes, asks the gate, and gives the answer
// the form that the caller's protocol has. It decides nothing about keys.
//
// # Invariants
//
//   - I1: who a call comes from is what the registry says about what its connection's certificate proves, or its one token, verified; no other header, field or forwarded text says it.
//   - I2: every method passes the gate before it does anything, with the object it is about.
//   - I3: every answer carries a correlation id, and every error is a row of the error table.
//   - I4: what a caller was accepted for ends at the next call, also on a connection that is older: certificate, role binding, issuer. With an expired certificate its holder renews it, and unseals as custodian, nothing else.
//   - I5: the administration socket can be opened by the owner of the data directory only; the public doors have no method of it.
//   - I6: request and response bodies are in no log and no metric; labels come from closed sets.
//   - I7: gRPC and HTTP/JSON answer alike: code, hint, and what is refused.
//   - I8: a connection without a valid identity costs this node a bounded amount of memory and time.
//   - I9: connections and calls of one caller, one tenant, or of strangers leave those of others their share; acts that only take power away are never refused for what else was called.
//
// # Concurrency
//
// A Server is safe for concurrent use once it runs.
//
// # Failure
//
// A door that cannot listen keeps the node from starting, with the address in
// the error. A panic of a handler is one failed call.
//
// # Source
//
// docs/contract.md; AIP-193; RFC 8446.
package server
