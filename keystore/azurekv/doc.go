// Package azurekv keeps keys in an Azure Key Vault or a Managed HSM, through Microsoft's client (azkeys).
//
// Wrap and Unwrap are the service's wrapKey and unwrapKey: RSA-OAEP-256 with an
// RSA key, AES key wrap (A256KW) with a 256-bit AES key of a Managed HSM.
// Neither has additional data, so a one-time key is wrapped and the secret is
// bound under it locally (package keystore/blob). AES-GCM of a Managed HSM is
// not used: it is its encrypt and decrypt, which the role for services that
// wrap keys does not have.
//
// A blob is pinned to the version of the key that wrapped it. Its binding
// names key and version and not the vault, so that blobs open after the
// owner restored a backup of the key in another vault; only a vault that has
// the material opens them.
//
// What is not covered. Microsoft's client takes and gives the one-time key as
// bytes, writes it as JSON in base64 and reads it so: those copies, and what
// TLS makes of them, are on the heap until they are collected. The buffers that
// can be reached are wiped. Who finds such a copy opens one blob, if he has it.
// Access tokens and federated tokens are strings, in Microsoft's libraries too.
//
// Identities are made explicitly and each reads only its own settings. For
// workload identity and certificates that is Microsoft's authentication library
// (MSAL), on which azidentity stands. azidentity itself is not used: its
// credentials for applications take AZURE_REGIONAL_AUTHORITY_NAME, and the one
// for managed identities IDENTITY_ENDPOINT and four more, from the environment,
// without a way to refuse.
//
// # Invariants
//
//   - I1: every request goes to the configured vault, authority or metadata service; no reference, challenge, answer, redirect or variable of the environment leads elsewhere.
//   - I2: unwrapping names key and version; the blob chooses the version and never the key.
//   - I3: Denied is said of a key only on the word of the vault: disabled, operation not permitted, no role, or twice not found.
//   - I4: one attempt; what else a call asks for is one look at the key, one login, and one repetition under the key's new type.
//   - I5: the wire and the vault's log have our correlation id in x-ms-client-request-id; results and errors have the vault's x-ms-request-id.
//
// # Concurrency
//
// Safe for concurrent use. While one call logs in, others that need the token
// wait for it, at most as long as a login may take.
//
// # Failure
//
// docs/keystores/azurekv.md has the table. Credentials that are refused are
// Misconfigured, after one new login; a login that gets no answer is Unavailable.
//
// # Source
//
// Key Vault REST API 2025-07-01 and its error codes; "Bring your own key
// specification"; RFC 7523; docs/keystores/azurekv.md.
package azurekv
