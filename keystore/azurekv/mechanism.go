//go:build !noazurekv

package azurekv

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
)

// mechanism returns what the key wraps with. Its type is asked for once; when
// it changes, the refusal of a wrap tells (see withLook).
func (c *call) mechanism(ctx context.Context) (blob.Mechanism, azkeys.EncryptionAlgorithm, error) {
	kind, known := c.k.kind(c.ref)
	if !known {
		f, v, cause := c.look(ctx, c.ref.version)
		switch _, judged := errors.AsType[*keystore.Error](cause); {
		case judged:
			return 0, "", cause
		case cause != nil && v == withdrawn:
			// Reading the key is not allowed, which is no word on wrapping: the
			// operation itself has to say it (I3). Most keys are RSA.
			return blob.OAEPSHA256, azkeys.EncryptionAlgorithmRSAOAEP256, nil
		case cause != nil:
			c.answered()
			return 0, "", c.judgeLook(ctx, v, cause)
		}
		kind = f.kind
		if !slices.Contains(f.ops, azkeys.KeyOperationWrapKey) || algorithm(kind) == "" {
			return 0, "", c.fail(keystore.Misconfigured, fmt.Errorf("a key of type %s with the operations %v does not wrap", kind, f.ops))
		}
		c.k.remember(c.ref, kind)
	}
	alg := algorithm(kind)
	if alg == azkeys.EncryptionAlgorithmA256KW {
		return blob.AESKW, alg, nil
	}
	return blob.OAEPSHA256, alg, nil
}

func (k *Keystore) kind(r reference) (azkeys.KeyType, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kind, ok := k.kinds[r]
	return kind, ok
}

func (k *Keystore) remember(r reference, kind azkeys.KeyType) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.kinds) >= maxKinds {
		clear(k.kinds) // they are found out again
	}
	k.kinds[r] = kind
}

// algorithm returns what a type of key wraps with, or "".
func algorithm(kind azkeys.KeyType) azkeys.EncryptionAlgorithm {
	switch kind {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		return azkeys.EncryptionAlgorithmRSAOAEP256
	case azkeys.KeyTypeOctHSM:
		return azkeys.EncryptionAlgorithmA256KW
	case azkeys.KeyTypeEC, azkeys.KeyTypeECHSM, azkeys.KeyTypeOct:
	}
	return ""
}

func algorithmOf(m blob.Mechanism) (azkeys.EncryptionAlgorithm, bool) {
	switch m {
	case blob.OAEPSHA256:
		return azkeys.EncryptionAlgorithmRSAOAEP256, true
	case blob.AESKW:
		return azkeys.EncryptionAlgorithmA256KW, true
	case blob.AESGCM, blob.AESKWP, blob.OAEPSHA1, blob.Native:
	}
	return "", false
}
