package seal

// WithTarget returns the same key pair for another target.
func WithTarget(k *StartKey, t Target) *StartKey { return &StartKey{target: t, private: k.private} }

// OfferMessage returns what an offer's signature is over.
func OfferMessage(o Offer) []byte { return o.message() }
