// Package gcpkms is the keystore of Google Cloud KMS.
//
// A key reference is the full resource name of a symmetric key
// (projects/P/locations/L/keyRings/R/cryptoKeys/K). Google encrypts under the
// key's primary version with our context as additional authenticated data; the
// version is part of that context, so that the one that a blob names is the one
// that made it. Checksums (CRC32C) are verified in both directions.
//
// Google's client library is used for its calls only. Connection, certificates,
// identity, retries, timeouts and its log are ours: left to itself it looks for
// credentials in the environment, in the home directory and on the network,
// repeats calls for minutes, and writes requests with the plaintext to standard
// error when GOOGLE_SDK_GO_LOGGING_LEVEL says so.
//
// What is not covered: requests and answers are on the heap while a call lasts.
// Their protobuf encodings are wiped after use, and so is the plaintext of an
// answer; what gRPC and TLS copy into their own write and read buffers is
// overwritten by later traffic and not before. Access tokens are Go strings and
// stay until the collector takes them. The key of a service account file is
// parsed for one signature at a time and not wiped by crypto/rsa.
//
// # Invariants
//
//   - I1: the identity comes from the settings alone; nothing in the environment, in a home directory or on an unnamed host is asked.
//   - I2: a call is one attempt, and a second one only with a new token after the first was refused, or under a version by name after another one answered.
//   - I3: Denied is said of a key only after Google answered about the key or our right to use it; a failure of token services, project or network is never Denied.
//   - I4: an answer whose checksums, name or state do not fit is no success.
//   - I5: a connection that failed or fell silent is replaced by the next call.
//   - I6: a call for a tenant has a token of that tenant's service account and is about keys of the account's project alone.
//   - I7: a key is proved to be a tenant's only by a label with the tenant's uid.
//
// # Concurrency
//
// Safe for concurrent use. Calls share one connection and one access token;
// one call at a time asks for a new token, and the others wait for it within
// their contexts.
//
// # Failure
//
// Google away: Unavailable. Tokens refused: Misconfigured after one attempt to
// get a new one. A token that cannot be renewed is used until it ends.
//
// # Source
//
// ACD-302, "Keystore Integration Archetypes"; docs/keystores/gcpkms.md; Google's
// documentation of Cloud KMS, of its data integrity guidelines, of workload
// identity federation and of google.api.ErrorReason; RFC 7523; RFC 8693.
package gcpkms
