// Command krypton-pkcs11 speaks to one PKCS#11 token for a node of Krypton, in a process of its own.
//
// A vendor's library is C code in the address space of whoever loads it. In
// the node it could take the whole node down, and did: one session used by
// eight threads at once ended the process six times out of six. Here a crash
// costs a restart, a hanging call is ended by a signal, and the node stays a
// static program without cgo. The node starts this program, speaks the
// protocol of package wire with it over file descriptor 3, and ends it.
//
// # Invariants
//
//   - I1: a session is used by one worker at a time, for one call at a time.
//   - I2: the PIN is read from its file, tried once, and wiped; it is in no argument, environment, message or log.
//   - I3: "no such object" is said only after two finds in two sessions, with the user logged in.
//   - I4: a failure that does not say what is wrong is probed with a fresh ciphertext under the same key before anything is said of the key or of the blob.
//   - I5: buffers that held a secret are wiped before the next request; the C library's heap overwrites what it frees.
//   - I6: what may not be trusted any more is not repaired: the process says so and is replaced.
//
// # Concurrency
//
// One goroutine reads requests; as many workers as the node allows answer them,
// each with a session of its own. The C calls block threads, not the reader.
//
// # Failure
//
// When the node goes away the descriptor ends, and so does the process, also in
// the middle of a call. It starts nothing and writes no file.
//
// # Source
//
// OASIS PKCS#11 v2.40 and v3.0; docs/adr/0036-a-program-of-its-own-for-the-hsm.md.
package main
