// Package pkcs11 is the keystore of a token that speaks PKCS#11: a hardware security module, or its imitation in software.
//
// The vendor's library is not loaded here. The provider starts the program
// krypton-pkcs11, which loads it, and asks it over a socket pair: a crash or a
// hang of the library costs a restart of that program. What stands here is
// plain Go: which question is asked, what an answer means, when the helper is
// ended and started again, and how often a PIN is tried.
//
// A key reference is the label of the key's objects (CKA_LABEL), or "id:" and a
// CKA_ID in hexadecimal. The objects with one label are the versions of one key
// and differ in CKA_ID; the greatest, as a number, is the current one.
//
// # Invariants
//
//   - I1: Denied is said when the token finds the object and forbids the use, or when a helper started for this one question finds the token, logs in, and finds no object either.
//   - I2: a PIN that the token has not accepted yet is tried once for each content of its file; one without an answer is tried again when the file was written again.
//   - I3: a helper that is late, gone or not to be trusted is ended and replaced; calls in it fail as Unavailable, and the next start waits longer each time.
//   - I4: the secret crosses in one buffer, which is wiped; its copy in the socket is the kernel's.
//   - I5: no call waits longer than its context.
//   - I6: a call for a tenant goes to the tenant's token, by a log-in with the PIN of that tenant and no other, in a helper of its own.
//
// # Concurrency
//
// Safe for concurrent use. As many calls are with the helper as it has
// sessions, others wait. One goroutine reads the helper's answers, one waits
// for its end; both end with it.
//
// Locks, in this order: ledger.mu, held over a log-in, so that there is one at a
// time; lifecycle.mu; process.mu. The last two are never held over a call.
//
// # Failure
//
// See docs/keystores/pkcs11.md for what each answer of a token becomes.
//
// # Source
//
// ACD-302, "Keystore Integration Archetypes"; OASIS PKCS#11 v2.40 and v3.0;
// docs/adr/0036-a-program-of-its-own-for-the-hsm.md.
package pkcs11
