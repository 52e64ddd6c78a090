package seal

import (
	"context"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// WithTarget returns the same key pair for another target.
func WithTarget(k *StartKey, t Target) *StartKey { return &StartKey{target: t, private: k.private} }

// OfferMessage returns what an offer's signature is over.
func OfferMessage(o Offer) []byte { return o.message() }

// Combine is what an unsealing does with enough shares.
func Combine(r Record, shares []Share) (memsec.Secret, error) { return combine(r, shares) }

// OpenShard asks the keystore that holds a share for it.
func OpenShard(ctx context.Context, r Record, index int, keystores *keystore.Registry) (Share, error) {
	return openShard(ctx, r, index, keystores)
}

// Wire returns the binary form of a share.
func Wire(s Share) ([]byte, error) { return s.appendWire(make([]byte, 0, wireSize)) }

// OpenFirstWrapping opens a record in auto mode by its first wrapping.
func OpenFirstWrapping(ctx context.Context, r Record, keystores *keystore.Registry) (memsec.Secret, error) {
	return openWrapping(ctx, r, r.pb.GetWrappings()[0], keystores)
}
