// Package gcpserver is a stand-in for Google Cloud KMS and its token services, on loopback.
//
// Google ships no emulator of Cloud KMS. This is our own server of the interface
// that Google generates (kmspb.KeyManagementServiceServer), so that Google's own
// client talks to it over TLS and gRPC. It encrypts with AES-256-GCM, checks
// checksums, keeps states of key versions, judges permissions of roles with
// Google's published lists, unwraps imported material, and writes records like
// those of Cloud Audit Logs. Beside it stand the services that give tokens: the
// metadata server of a machine, the security token service, the IAM credentials
// service and the token endpoint for service account keys.
//
// What it cannot show: how long a change of IAM takes to reach all of Google
// (here it is at once), the details that Google puts into an error beyond its
// code and documented reasons, and Google's own limits and latencies.
//
// # Invariants
//
//   - I1: it listens on loopback only, and nothing of it reads the environment.
//   - I2: a call without a token that one of its token services gave, and that is valid now, reaches no key.
//   - I3: a version encrypts and decrypts in state ENABLED only, and a destroyed one keeps no key.
//   - I4: every call leaves one record, refused ones too.
//
// # Concurrency
//
// Safe for concurrent use: one lock over all state, held over AES and never over I/O.
//
// # Failure
//
// Keys live in the memory of the process and end with it. It is for tests and
// demonstrations; the plaintext of those is on the heap.
//
// # Source
//
// Google's documentation of Cloud KMS, IAM, workload identity federation and
// the metadata server; google.api.ErrorReason for the reasons of errors.
package gcpserver
