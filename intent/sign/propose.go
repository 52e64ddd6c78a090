package sign

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Lifetimes of intents that are made here.
const (
	MinLifetime     = time.Minute         // shorter ones expire on the way
	DefaultLifetime = 24 * time.Hour      // time for others to sign
	MaxLifetime     = 29 * 24 * time.Hour // a day less than the cluster takes, because its clock is not this machine's
)

// Proposal is what a person wants to be done.
type Proposal struct {
	Keyspace      hierarchy.KeyspaceID
	Request       *intent.Request
	Preconditions []intent.Precondition // in any order; no object twice
	Lifetime      time.Duration         // MinLifetime to MaxLifetime; 0 is DefaultLifetime
}

// Expected is what a person wants to add a signature to, from what that person
// typed or was shown, and never from the intent itself.
type Expected struct {
	Keyspace hierarchy.KeyspaceID
	Request  *intent.Request
	Now      time.Time // of this machine
}

// Draft makes the intent of p, with a nonce from rand, that nobody has signed.
func Draft(p Proposal, now time.Time, rand io.Reader) (File, error) {
	if err := signable(p.Request); err != nil {
		return File{}, err
	}
	lifetime := p.Lifetime
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	if lifetime < MinLifetime || lifetime > MaxLifetime {
		return File{}, errs.New(errs.InvalidArgument, fmt.Sprintf("an intent lives for %s to %s", MinLifetime, MaxLifetime))
	}
	nonce, err := Nonce(rand)
	if err != nil {
		return File{}, err
	}
	in := intent.Intent{
		Keyspace: p.Keyspace, Act: p.Request.Act(), Request: p.Request.Digest(), NotAfter: now.Add(lifetime).UnixMilli(),
		Nonce: nonce, Preconditions: intent.SortPreconditions(p.Preconditions),
	}
	if err := in.Validate(); err != nil {
		return File{}, errs.New(errs.InvalidArgument, "no intent can be made: "+err.Error(), errs.Cause(err))
	}
	return File{Request: p.Request, Intent: in}, nil
}

// Propose makes the intent of p and signs it (I3).
func Propose(ctx context.Context, s Signer, p Proposal, now time.Time, rand io.Reader) (File, error) {
	f, err := Draft(p, now, rand)
	if err != nil {
		return File{}, err
	}
	return f.Countersign(ctx, s, Expected{Keyspace: p.Keyspace, Request: p.Request, Now: now})
}

// Countersign signs the intent in encoded if it orders just what e expects (I3).
// A refusal is an [*intent.RefusalError]; it has the reason that the cluster would
// give.
func Countersign(ctx context.Context, s Signer, encoded []byte, e Expected) (intent.Signature, error) {
	if err := signable(e.Request); err != nil {
		return intent.Signature{}, err
	}
	in, err := intent.Decode(encoded)
	if err != nil {
		return intent.Signature{}, &intent.RefusalError{Reason: intent.ReasonMalformed}
	}
	if err := in.Match(e.Keyspace, e.Request.Act(), e.Request.Digest(), e.Now.UnixMilli()); err != nil {
		return intent.Signature{}, err
	}
	sig, err := s.Sign(ctx, in)
	if err != nil {
		return intent.Signature{}, err
	}
	message, err := in.Message()
	if err != nil {
		return intent.Signature{}, fmt.Errorf("encode intent: %w", err)
	}
	if pub := s.PublicKey(); sig.Key != pub.ID() || !pub.Verify(message, sig.Sig) { // I1, whoever wrote s
		return intent.Signature{}, errNotItsOwn
	}
	return sig, nil
}

// signable reports why nobody should sign r: it cannot be shown, or this release
// does not know what it orders.
func signable(r *intent.Request) error {
	if r == nil {
		return errs.New(errs.InvalidArgument, "there is no request to sign")
	}
	if _, err := intent.ParseRequest(r.Canonical()); err != nil {
		return errs.New(errs.InvalidArgument, "the request cannot be shown to who signs it: "+err.Error(), errs.Cause(err))
	}
	if !r.Known() {
		return errs.New(errs.InvalidArgument, "this release does not know what the request orders",
			errs.Hint("sign it with the release that the cluster runs"))
	}
	return nil
}
