// Package validity keeps, for each tenant whose keys a node has in memory, whether
// the customer's key (L1) still lets it use them.
//
// A node unwraps a tenant key once and serves from memory; so without more, a customer
// who takes the key away would end nothing. Therefore it is unwrapped again and again,
// for real: only that proves that it may still be. A denial ends the use at once. An
// outage does not: the keys stay usable until the grace period is over, counted from
// when the last proof that succeeded was sent.
//
//	            proof                     denied
//	nothing ------------> usable -------------------------> denied
//	                       |   ^                              |
//	          grace over   |   |  proof                proof  |
//	                       v   |                              |
//	                     lapsed+ <----------------------------+
//
// # Invariants
//
//   - I1: a tenant is usable only until its grace after the instant at which the last successful proof was sent, however late the answer came and whatever other proofs said.
//   - I2: after a denial nothing makes a tenant usable but a proof that was sent after the proof that was denied.
//   - I3: only a denial denies; every other failure lets time pass, and no more.
//   - I4: of a tenant that is denied or lapsed no key is left: they are purged before anybody is told.
//   - I5: while a tenant is denied callers cause no call to its keystore; it is asked at the regular times only, and no tenant has two of these proofs at once.
//   - I6: while a tenant has keys in memory, two of its proofs are at most check apart when they are due, and tenants that began together drift apart.
//
// # Concurrency
//
// A Watch and its Standings are safe for concurrent use. [Standing.Err] takes no lock and
// allocates nothing: every data operation asks it. Purge and Tell are called with no lock held.
//
// # Failure
//
// Everything that is not known refuses: a standing without a proof is not usable. Whether
// a failure is a denial the keystore decides (keystore.Denied), which looks twice.
//
// # Source
//
// docs/threat-model.md (S8); ACD-302: access to data is access to L1.
package validity
