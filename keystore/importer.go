package keystore

import (
	"context"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
)

// Limits of an import, wide enough for every provider: RSA-4096 public keys are
// under 600 bytes, and AWS gives tokens of up to 6144 bytes.
const (
	// MaxImportPublicKey is the longest public key of [ImportParameters], in bytes of DER.
	MaxImportPublicKey = 2048
	// MaxImportToken is the longest token of [ImportParameters], in bytes.
	MaxImportToken = 8192
	// MaxImportWrapped is the longest wrapped material that ImportMaterial takes, in bytes.
	MaxImportWrapped = 8192
)

// ImportMechanism says how key material is wrapped on its way into a keystore.
// The set is closed: what wraps the material, package keystore/byok, knows
// every member. The zero value is invalid.
type ImportMechanism string

// The import mechanisms. The names are those of the providers' own documents,
// so that a customer's tool and its manual agree with ours.
const (
	// ImportOAEP256 is RSA-OAEP with SHA-256 and MGF1 with SHA-256, directly
	// over the material. AWS and others call it RSAES_OAEP_SHA_256.
	ImportOAEP256 ImportMechanism = "RSAES_OAEP_SHA_256"
	// ImportOAEP1 is the same with SHA-1 and MGF1 with SHA-1, for tokens that
	// have no other hash in OAEP.
	ImportOAEP1 ImportMechanism = "RSAES_OAEP_SHA_1"
	// ImportRSAAESKeyWrap256 is a random AES-256 key under RSA-OAEP with
	// SHA-256, followed by the material under that key with AES-KWP (RFC 5649).
	ImportRSAAESKeyWrap256 ImportMechanism = "RSA_AES_KEY_WRAP_SHA_256"
	// ImportRSAAESKeyWrap1 is the same with SHA-1 inside OAEP, which some
	// keystores still ask for. OAEP does not need collision resistance.
	ImportRSAAESKeyWrap1 ImportMechanism = "RSA_AES_KEY_WRAP_SHA_1"
	// ImportCKMRSAAESKeyWrap is PKCS#11's CKM_RSA_AES_KEY_WRAP with SHA-1 in
	// OAEP, as the mechanism's defaults and most tokens have it. Its bytes are
	// those of [ImportRSAAESKeyWrap1].
	ImportCKMRSAAESKeyWrap ImportMechanism = "CKM_RSA_AES_KEY_WRAP"
	// ImportAzureBYOK is Azure's transfer format: a JSON document around
	// [ImportCKMRSAAESKeyWrap] bytes that names the key exchange key.
	ImportAzureBYOK ImportMechanism = "azure-byok"
)

// ImportParametersRequest asks how to wrap material for a key.
type ImportParametersRequest struct {
	Key         KeyRef // a key that exists and waits for material, or that gets another version of it
	Correlation corr.ID
}

// ImportParameters is what somebody needs to wrap key material for one key,
// without the keystore's credentials and offline. All of it is public.
type ImportParameters struct {
	PublicKey []byte          // the keystore's RSA key to wrap under, PKIX in DER; 1 to MaxImportPublicKey bytes
	Mechanism ImportMechanism // how
	KeyID     string          // the wrapping key's name, where the format carries it (Azure); else empty
	Token     []byte          // opaque, to be handed back with the material; at most MaxImportToken bytes, empty where there is none
	Expires   time.Time       // when PublicKey and Token stop being accepted; zero: they do not
	RequestID RequestID
}

// ImportMaterialRequest hands in wrapped material.
type ImportMaterialRequest struct {
	Key         KeyRef
	Wrapped     []byte // what byok.Wrap made, here or at the customer's; 1 to MaxImportWrapped bytes
	Token       []byte // from ImportParameters
	Correlation corr.ID
}

// ImportResult is an import that was accepted.
type ImportResult struct {
	KeyVersion KeyVersion // the version that has the material; empty where the keystore does not tell
	RequestID  RequestID
}

// Importer is a [Provider] into which a customer can bring key material (BYOK)
// through the keystore's own import API. It is found by type assertion; a
// decorator of providers has to keep it visible.
//
// The contract of [Provider] on errors, contexts and attempts holds here too.
// Material is never in clear in a request: what is handed in was wrapped under
// the keystore's public key, so that it can travel and be logged without loss.
// It can be imported again by anyone who has it, though, and is to be kept like
// a key by the customer.
type Importer interface {
	Provider
	// ImportParameters tells how to wrap material for the key.
	ImportParameters(ctx context.Context, req ImportParametersRequest) (ImportParameters, error)
	// ImportMaterial makes wrapped material the key, or a version of it. Wrapped
	// bytes that do not open are [Corrupt]; a token that is of another key, was
	// used up or is too old is [Misconfigured].
	ImportMaterial(ctx context.Context, req ImportMaterialRequest) (ImportResult, error)
}
