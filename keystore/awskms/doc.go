// Package awskms is the keystore whose keys are in AWS Key Management Service.
//
// A secret is encrypted by KMS under a symmetric key (SYMMETRIC_DEFAULT:
// AES-256-GCM), with the encryption context
//
//	{"krypton": base64url without padding of SHA-256(AAD)}
//
// which CloudTrail records in clear: a hash binds the AAD and shows no name of
// it. A blob is that of package keystore/blob with the mechanism native; KMS's
// ciphertext names its key and the backing key by itself.
//
// Everything is configured by name: region, endpoints and identity. No default
// credential chain runs, and neither the environment, nor shared configuration
// files, nor an HTTP proxy from the environment has a say.
//
// # Invariants
//
//   - I1: nothing but the settings decides whom is spoken to and as whom; an ARN of another region or partition is refused before any call.
//   - I2: Decrypt always names the key, so that a blob of another key does not open.
//   - I3: access denied is Denied only after a second opinion: with fresh credentials, if those in use were older than a minute, DescribeKey is denied too or tells a state in which the key cannot be used, or the call is denied again.
//   - I4: credentials that expired or are unknown cost one new login and never a tenant: they are Misconfigured, or what their service's failure is.
//   - I5: one call is one request, but for I3 and I4. The SDK does not retry, follow redirects or correct its clock.
//   - I6: the correlation id stands in the user agent of every request, that of KMS and that of STS.
//   - I7: a call for a tenant is made as that tenant's role, assumed with the tenant's uid as external id, and is about keys of the role's account alone.
//   - I8: a role that does not ask for an external id is not proved to be a tenant's.
//
// # Concurrency
//
// Safe for concurrent use. Credentials are renewed by one login at a time,
// ahead of their end, while calls go on with the old ones.
//
// # Failure
//
// Errors are classified by AWS's error code; one that is not known is
// Unavailable. While STS or the metadata service is away, credentials are used
// until they end.
//
// What the SDK copies is not in protected memory: the secret access key, as Go
// strings for as long as it is valid; a secret on its way in, in the JSON of the
// answer and in the connection's buffers until they are used again. On its way
// out the SDK's request is wiped when the call returns; the connection's buffers
// are not. What Krypton wraps is a one-time key that opens nothing by itself.
//
// # Source
//
// AWS KMS API Reference and Developer Guide; ACD-302, "Keystore Integration
// Archetypes"; docs/keystores/awskms.md.
package awskms
