// Package transit is the keystore that is the transit secrets engine of OpenBao or HashiCorp Vault.
//
// A key reference is the name of a key under the configured mount. The blob is
// the engine's ciphertext as it is, so that an administrator can open it
// without Krypton; its AAD is the engine's associated_data:
//
//	blob   "vault:v" | key version, decimal | ":" | base64 of nonce, ciphertext and tag
//	AAD    u32 length, "krypton/v1/transit" | u32 length, key name | caller's AAD
//
// Integers are big-endian. Changing either breaks stored blobs.
//
// Calls ask for a batch of one: the engine tells its request id together with
// what it refuses of an item of a batch, and tells none otherwise. Every
// encryption names a key type that does not exist. The engine reads it only
// where the key is missing and would be created, and refuses; so an identity
// with too many rights makes no key either.
//
// # Invariants
//
//   - I1: a call never makes a key.
//   - I2: Denied is said only where the server says so of the key, or denies the path to a token that it accepts: a token it just gave out, or one whose capabilities it tells.
//   - I3: nothing of the process's environment is read: no address, token, proxy or certificate.
//   - I4: requests go to the configured address only; a redirection is an error.
//   - I5: the bytes of a secret leave in one request body, wiped when it is sent, and arrive in one answer, wiped when it is read.
//   - I6: a call for a tenant is made with a token of that tenant's role, whose name has the tenant's uid; no other token is ever sent with it.
//
// I5 ends where net/http and crypto/tls begin: their buffers hold plaintext
// until they are used again, and nobody can reach them. The token is a Go
// string, as HTTP headers are; it is not key material, and it ends with the
// session.
//
// # Concurrency
//
// Safe for concurrent use. One caller at a time logs in or renews; others go on
// with a token that still holds, or wait for it within their own contexts. There
// are no goroutines besides those of the HTTP connections, which Close ends.
//
// # Failure
//
// One attempt for each call. A token that the server does not know any more is
// replaced once, by a new login, and the call made again. A login that was
// refused is not tried again with the same credentials for a few seconds, because
// the server locks out who tries wrong ones often.
//
// # Source
//
// Vault's and OpenBao's API documentation of transit, approle, cert, kubernetes and token;
// ACD-302, "Keystore Integration Archetypes".
package transit
