package intent

import (
	"errors"
	"slices"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// Person names a human in the registry. One person may have several keys.
type Person string

// Signer is a registered personal key.
type Signer struct {
	Person Person
	Role   auth.Role // governor or custodian
	Key    PublicKey
}

// Check is what the verifier knows: the command it is about to apply and the
// state it applies it to. Every field is needed; the lookups must be functions
// of the replicated state alone (I2).
type Check struct {
	Keyspace  hierarchy.KeyspaceID
	Act       Act
	Request   Digest // of the canonical request that is about to be applied
	NowMs     int64  // the command's own time, unix milliseconds, never a replica's clock
	Requester Person // who asked; empty if no registered person did
	Rule      Rule

	// Key returns the registered key of that id.
	Key func(KeyID) (Signer, bool)
	// ModIndex returns the index of the last change of the object, 0 if there is no such object.
	ModIndex func(object string) uint64
	// NonceUsed reports whether an accepted intent had this nonce. The state
	// must remember a nonce until the intent's NotAfter has passed.
	NonceUsed func(Nonce) bool
}

// Approval is what [Verify] found. It is stored with the changed object.
type Approval struct {
	Intent  Digest   // see [Intent.Digest]
	Persons []Person // who signed and was counted, in ascending order
}

// Verify reports whether s authorises exactly the act in c. The error is a
// [*RefusalError]. One bad signature refuses the whole set: whoever submits the set
// can leave it out, and a set that says more than it proves must not be stored.
func Verify(s Signed, c Check) (Approval, error) {
	if err := c.complete(); err != nil {
		return Approval{}, refuse(ReasonMalformed, err)
	}
	message, err := s.Intent.Message()
	if err != nil {
		return Approval{}, refuse(ReasonMalformed, err)
	}
	in := s.Intent
	switch {
	case len(s.Signatures) == 0:
		return Approval{}, refuse(ReasonUnsigned, nil)
	case len(s.Signatures) > MaxSignatures:
		return Approval{}, refuse(ReasonMalformed, errors.New("more signatures than the limit"))
	}
	if err := c.conditions(in); err != nil {
		return Approval{}, err
	}
	persons, err := count(s.Signatures, message, c)
	if err != nil {
		return Approval{}, err
	}
	digest, err := in.Digest()
	if err != nil {
		return Approval{}, refuse(ReasonMalformed, err)
	}
	return Approval{Intent: digest, Persons: persons}, nil
}

// Conditions is what [Verify] asks of an intent but for the signatures: whoever
// collects them one by one asks nobody to sign what would be refused. The error is
// a [*RefusalError].
func Conditions(in Intent, c Check) error {
	if err := c.complete(); err != nil {
		return refuse(ReasonMalformed, err)
	}
	if err := in.Validate(); err != nil {
		return refuse(ReasonMalformed, err)
	}
	return c.conditions(in)
}

func (c Check) conditions(in Intent) error {
	if err := in.Match(c.Keyspace, c.Act, c.Request, c.NowMs); err != nil {
		return err
	}
	if c.NonceUsed(in.Nonce) {
		return refuse(ReasonReplayed, nil)
	}
	for _, p := range in.Preconditions {
		if c.ModIndex(p.Object) != p.ModIndex {
			return refuse(ReasonStale, errors.New(p.Object))
		}
	}
	return nil
}

// Match reports why in does not order that act of that request in that keyspace
// at nowMs, unix milliseconds. The error is a [*RefusalError].
// It is the part of [Verify] that needs no registry, so
// that a person's program refuses to sign what the cluster would refuse.
func (in Intent) Match(keyspace hierarchy.KeyspaceID, act Act, request Digest, nowMs int64) error {
	switch {
	case nowMs <= 0: // NotAfter - nowMs could overflow
		return refuse(ReasonMalformed, errors.New("check is incomplete"))
	case in.Keyspace != keyspace:
		return refuse(ReasonOtherKeyspace, nil)
	case in.Act != act:
		return refuse(ReasonOtherAct, nil)
	case in.Request != request:
		return refuse(ReasonOtherRequest, nil)
	case nowMs >= in.NotAfter:
		return refuse(ReasonExpired, nil)
	case in.NotAfter-nowMs > MaxLifetimeMs:
		return refuse(ReasonTooLong, nil)
	}
	return nil
}

// complete reports what the caller forgot. It is an error and not a panic,
// because a replica must refuse rather than stop.
func (c Check) complete() error {
	if c.Keyspace.IsZero() || !c.Act.Valid() || c.Request == (Digest{}) || c.NowMs <= 0 ||
		c.Key == nil || c.ModIndex == nil || c.NonceUsed == nil {
		return errors.New("check is incomplete")
	}
	return c.Rule.Validate()
}

// count verifies every signature and returns the persons behind them (I4).
func count(sigs []Signature, message []byte, c Check) ([]Person, error) {
	var governors, custodians int
	persons := make([]Person, 0, len(sigs))
	for _, sig := range sigs {
		signer, ok := c.Key(sig.Key)
		// The id is computed again: a registry that returned another key must not decide.
		if !ok || signer.Person == "" || signer.Key.ID() != sig.Key {
			return nil, refuse(ReasonUnknownKey, nil)
		}
		if !signer.Key.Verify(message, sig.Sig) {
			return nil, refuse(ReasonBadSignature, nil)
		}
		if slices.Contains(persons, signer.Person) {
			return nil, refuse(ReasonDuplicatePerson, nil)
		}
		if c.Rule.Requester == RequesterExcluded && signer.Person == c.Requester {
			return nil, refuse(ReasonRequesterSigned, nil)
		}
		switch {
		case signer.Role == auth.RoleGovernor && c.Rule.Governors > 0:
			governors++
		case signer.Role == auth.RoleCustodian && c.Rule.Custodians > 0:
			custodians++
		default:
			return nil, refuse(ReasonWrongRole, nil)
		}
		persons = append(persons, signer.Person)
	}
	if governors < c.Rule.Governors || custodians < c.Rule.Custodians {
		return nil, refuse(ReasonTooFew, nil)
	}
	slices.Sort(persons)
	return persons, nil
}
