// Package guard stands between a node and every keystore that it has configured: a deadline for each attempt, retries within a budget, a circuit breaker, a rate limit, metrics and one debug line a call.
//
// A provider makes one attempt and classifies what came of it. Whether another
// attempt is worth it, and whether this one is, is the same question for every
// keystore, so it is answered here and once.
//
// What is where, in the order of a call:
//
//	breaker    by key: after 5 Unavailable in a row calls fail at once, for 0.5 s, then 1, 2, 4, 8, 10 s;
//	           then one call tries (half-open). Any other answer than Unavailable closes it.
//	rate       by keystore: a call waits for its turn up to a second, then it is Throttled.
//	deadline   of one attempt: setting timeout, or what is left of the caller's time.
//	retry      Unavailable after 100 ms, 200 ms, ...; Throttled after 500 ms, 1 s, ...; each half to whole of that, at
//	           random; not when the caller's time ends before. A tenth of the calls, and ten at once, may be retries.
//
// # Invariants
//
//   - I1: an error of a provider keeps its class, its request id and its cause.
//   - I2: only Unavailable and Throttled are tried again; an import and a health check never are.
//   - I3: only Unavailable opens a breaker; Denied, Corrupt, Misconfigured and Throttled are answers of a keystore that works.
//   - I4: one key that cannot be reached does not stop calls for another: a tenant cannot open the breaker of its neighbour.
//   - I5: a caller that gives up does not count against the keystore.
//   - I6: what a provider can do besides (keystore.Importer) stays visible.
//   - I7: labels of metrics are configured names, operations and classes: never a key, tenant or caller.
//
// # Concurrency
//
// Safe for concurrent use. The one lock is held over arithmetic, never over a call.
//
// # Failure
//
// With an open breaker a call fails as Unavailable, and above it counts towards
// the grace period as the failures did that opened it. A table full of failing
// keys lets further ones through unguarded.
//
// # Source
//
// docs/adr/0035-one-guard-before-every-keystore.md; the budget is that of gRPC's
// retry throttling (gRFC A6).
package guard
