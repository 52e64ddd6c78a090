// Package azureserver is a Key Vault, or a Managed HSM, on the loopback, with the Entra ID and the instance metadata service that give out its tokens; for tests and demonstrations.
//
// It needs nothing of package testing: [Start] it, point a client of
// Microsoft's SDK at it, [Server.Close] it. The methods of [Server] are the
// owner's side: create, disable, rotate, delete and recover keys, assign and
// remove roles, throttle, refuse tokens.
//
// What is Microsoft's: the wire format. Requests are parsed and answers are
// written by azkeys/fake and azcore/fake, which Microsoft generates from the
// service's own description, together with the client (module azkeys v1.5.0).
//
// What is ours, written after Microsoft's documents and not tested against the
// service: everything behind the wire format. The cryptography (real RSA-OAEP
// and AES key wrap), versions and their states, soft deletion, roles and their
// data actions, the challenge, tokens and their check, error codes and texts,
// the log, the token endpoint with its check of client assertions, the
// metadata service. Propagation delays, quotas, network rules and expiry dates
// of keys are not there. A conclusion about Azure drawn from a test with this
// package is therefore a conclusion about what its documents say.
//
// # Invariants
//
//   - I1: every request is authenticated, then authorised, then executed, and leaves one record, whatever its outcome.
//   - I2: nothing listens outside 127.0.0.1, and nothing is asked outside of it.
//   - I3: secrets that a caller wraps are in no record.
//
// # Concurrency
//
// Safe for concurrent use.
//
// # Failure
//
// A call of the SDK for which there is no handler is answered 501.
//
// # Source
//
// Key Vault REST API and its error codes, "Azure Key Vault logging", "Bring
// your own key specification", Microsoft identity platform ("certificate
// credentials", "workload identity federation"), "Azure Instance Metadata
// Service"; RFC 3394, RFC 5649, RFC 7523, RFC 8017.
package azureserver
