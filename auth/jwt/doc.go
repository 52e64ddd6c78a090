// Package jwt verifies the signed tokens (JSON Web Tokens) of registered issuers:
// OpenID Connect providers, and Kubernetes clusters for their service accounts.
//
// A token proves an issuer and a subject and nothing else. What the subject may
// do is said by the registry's role bindings, never by a claim.
//
// The signature, the form of an OpenID Connect token, its issuer and its audience
// are judged by github.com/coreos/go-oidc, with a key that this package chose.
// Its remote key set is not used: it asks the provider again for every token with
// an unknown key id or a bad signature, without bound, so that anybody could make
// a node send one request for each one received. What the standards leave open
// is decided here, before the library sees the token.
//
// # Whose token
//
// The claim iss is not verified when it is read, so it only selects: those
// registered issuers whose URL is the same string. Several may have one URL: each
// Kubernetes cluster calls itself https://kubernetes.default.svc.cluster.local,
// and a tenant may register what the cluster has registered too. Of them the
// audience decides, from what is registered alone. If a token's audiences fit two
// issuers it is refused, whoever signed it. To try their keys in turn would be the
// wrong way: whose token it is would then depend on which provider can be reached,
// and an issuer that copied another's public keys would receive its callers.
//
// # Key rotation
//
// Keys are fetched in the background, each [RefreshEvery], so that a key which its
// provider has withdrawn stops counting. A token with an unknown key id asks for a
// fetch at once; however many such tokens come, there is one fetch at a time and
// one in [FetchEvery] for each issuer. While the provider cannot be reached the last
// good keys count for [KeepKeys] since they were fetched. Keys that are registered with the
// issuer are never fetched.
//
// # Invariants
//
//   - I1: a token is accepted only if exactly one registered issuer has its iss, byte for byte, and one of its audiences, and a key of that issuer signed these bytes.
//   - I2: the algorithm is one of a fixed list and fits the key; no key comes from a token, and nothing that a token names is fetched.
//   - I3: a token has one spelling and one meaning: strict base64url without white space, and no two members of one name.
//   - I4: of one issuer at most one fetch is under way, and one begins in FetchEvery; who needs no new key waits for none.
//   - I5: a remembered token is accepted only while it would be accepted anew: by the issuers of now, a key that is still published, and the clock.
//   - I6: no error quotes a token, and no token is kept: only its SHA-256.
//   - I7: Replace keeps the keys and the remembered tokens of every issuer that did not change.
//
// # Concurrency
//
// Verifier is safe for concurrent use. It has one goroutine for each issuer whose
// keys are fetched, and they end with Close. Verify takes one of 16 mutexes for
// the time of a map lookup; nothing is fetched, verified or called under a mutex.
//
// # Failure
//
// What is wrong with a token is errs.Unauthenticated with the reason. If an issuer
// has no keys because its provider cannot be reached, that is errs.Unavailable: it
// is not the caller's fault, and another node may have them. Keys are in memory
// only: a node that starts while a provider is down has none of it.
//
// # Source
//
// RFC 7515 to 7519 (JOSE, JWT), RFC 8725 (best current practices), RFC 6750
// (bearer tokens), OpenID Connect Discovery 1.0, docs/identity.md.
package jwt

import (
	"time"

	"github.com/openkcm/krypton-cluster/auth"
)

// Limits of tokens, issuers and documents. Sizes are bytes.
const (
	MaxToken     = auth.MaxToken // of a token, before anything of it is parsed
	MaxSubject   = 256           // of a subject
	MaxTokenID   = 256           // of the claim jti
	MaxKeyID     = 256           // of the header kid
	maxTokenAuds = 32            // audiences in one token
	maxDepth     = 16            // of the JSON in a token or a key set

	MaxURL          = 512 // of an issuer's URL
	MaxAudiences    = 8   // of an issuer
	MaxAudience     = 256 // of one audience
	MaxCAs          = 4   // certificates that the fetch trusts
	MaxSubjectClaim = 128 // name of the claim that is the subject

	MaxDocument = 256 << 10 // of a discovery document and of a key set
	MaxKeys     = 64        // usable keys in a key set
	minRSABits  = 2048      // RFC 7518, 3.3
	maxRSABits  = 8192      // a verification takes about 0.3 ms
	maxJWKSURL  = 2 << 10

	// DefaultCacheEntries is how many verified tokens are remembered, unless
	// Options say otherwise: 15 to 60 MiB when full.
	DefaultCacheEntries = 1 << 16
	// maxWaiting is how many callers wait for a fetch of one issuer. Those beyond
	// are told to come again, so that strangers with invented key ids cannot hold
	// all calls of a node while a provider hangs.
	maxWaiting = 64
	// maxRedirects is how many redirects a fetch follows, each to https on the same host.
	maxRedirects = 3
)

// Times.
const (
	DefaultSkew     = time.Minute     // by how much an issuer's clock may differ
	MaxSkew         = 5 * time.Minute //
	DefaultLifetime = 24 * time.Hour  // of a token at most, from iat to exp
	MaxLifetime     = 30 * 24 * time.Hour

	RefreshEvery = 15 * time.Minute // background fetch of an issuer's keys; up to a tenth sooner
	FetchEvery   = 10 * time.Second // least time from the begin of one fetch of an issuer to the next
	FetchTimeout = 8 * time.Second  // of one fetch: the discovery document and the keys together
	KeepKeys     = 24 * time.Hour   // how long keys count after they were fetched

	// maxRetry is the longest pause after fetches that failed; it begins with FetchEvery and doubles.
	maxRetry = 5 * time.Minute
	// startSpread is the time over which the first fetches are spread when a node
	// starts with many issuers. A token that needs the keys does not wait for it.
	startSpread = 5 * time.Second
)
