package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// How a node asks the keystores of its seal.
const (
	// minBackoff and maxBackoff bound the pauses between rounds of questions.
	minBackoff = 250 * time.Millisecond
	maxBackoff = 30 * time.Second
	// keystoreTime is what one keystore gets in a round: three attempts of the
	// default length, with the pauses between them. One that hangs delays only the
	// next round, not those that answer.
	keystoreTime = 20 * time.Second
)

// unsealByItself asks the keystores of the seal record for what they can give,
// whenever the node is sealed and not held: the MasterKey in auto mode, shares
// otherwise. It asks until they gave it, and unseals the node if that is enough;
// what is missing people bring ([Node.Contribute]), before or after. None of it
// needs another node. Every round is in the audit trail.
func (n *Node) unsealByItself(ctx context.Context) error {
	backoff := minBackoff
	for {
		err := n.askKeystores(ctx)
		if err == nil {
			backoff = minBackoff
			// Whatever gives it something to do wakes it: every change of the
			// registry does, and every share that a person brings.
			select {
			case <-n.wake:
				continue
			case <-n.given:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.setFailure(errs.From(err).Error())
		n.log.WarnContext(ctx, "this node stays sealed; it asks the keystores again by itself", slog.Any("error", err), slog.Duration("next_try", backoff))
		// A change of the registry is no reason to hurry after a failure: a busy
		// cluster would hammer the keystore. A person who brings a share is.
		if err := n.pause(ctx, backoff); err != nil {
			return err
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// pause waits for d, or until a person brings a share that counts.
func (n *Node) pause(ctx context.Context, d time.Duration) error {
	short, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-n.given:
			cancel()
		case <-short.Done():
		}
	}()
	_ = n.clock.Sleep(short, d) // its error is that of a context
	cancel()
	<-ended
	return ctx.Err()
}

func (n *Node) setFailure(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastFailure = s
}

// askKeystores makes one round; nil means that there is nothing to do, that it
// unsealed the node, or that every keystore gave its share and people have to
// bring theirs.
func (n *Node) askKeystores(ctx context.Context) error {
	n.forgetHold(ctx)
	n.mu.Lock()
	a, resting := n.begin(), n.resting
	n.mu.Unlock()
	if n.Unsealed() || resting || n.held() || a.opening == nil || !a.opening.Waits() {
		return nil
	}
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, id)
	err = n.gate.DoNode(ctx, gate.NodeUnseal, ObjectSeal, func(gate.Token) error {
		if err := a.opening.Ask(ctx, n.stores, keystoreTime); err != nil {
			return err
		}
		for _, h := range a.opening.Progress().Holders {
			if f := h.Failure; f != nil {
				n.log.WarnContext(ctx, "a keystore of the seal failed; the MasterKey was opened without it",
					slog.String("keystore", f.Provider), slog.String("class", f.Class.String()), slog.Any("error", f.Err))
			}
		}
		mk, ok := a.opening.Take()
		if !ok {
			return nil // the person whose share was the last has it
		}
		return n.unsealWith(ctx, a, mk)
	})
	if errors.Is(err, seal.ErrClosed) {
		n.mu.Lock()
		sealed := n.seals != a.seals
		n.mu.Unlock()
		if sealed {
			return errSealedMeanwhile()
		}
		n.poke() // whatever ended it may have left something to do, with another record
		return nil
	}
	if m, ok := errors.AsType[*seal.MissingError](err); ok && len(m.Failures()) == 0 && ctx.Err() == nil {
		n.setFailure("")
		n.log.InfoContext(ctx, "the keystores of the seal gave their shares, and people have to bring theirs", slog.String("missing", m.Progress.Enough()))
		return nil
	}
	return err
}

func errSealedMeanwhile() error {
	return errs.New(errs.Sealed, "this node was sealed while it was being unsealed", errs.Hint("unseal it again: krypton unseal"))
}

// attempt is what an unsealing began with. What is not so any more when it has
// the MasterKey ends it.
type attempt struct {
	record  seal.Record
	seals   uint64
	opening *seal.Opening // nil: there is no record, or the cluster is not known
}

// begin returns an attempt. mu is held.
func (n *Node) begin() attempt {
	return attempt{record: n.record, seals: n.seals, opening: n.gather()}
}

// gather returns what gathers shares for the record that is in force. mu is held.
func (n *Node) gather() *seal.Opening {
	f, known := n.fingerprint()
	if n.opening == nil && known && !n.record.IsZero() && n.open.Load() == nil {
		// Its only errors are a record that is none and a patience that is not positive.
		n.opening, _ = seal.NewOpening(n.record, f, n.clock, seal.DefaultPatience)
	}
	return n.opening
}

// endGathering wipes what was gathered. mu is held.
func (n *Node) endGathering() {
	if n.opening != nil {
		n.opening.Close() // a round that began with it gathers nothing any more
		n.opening = nil
	}
}

// unsealWith takes over the MasterKey: it derives what the node needs and
// forgets the MasterKey itself, which is a KDF input only. Somebody who sealed
// the node while this was on its way wins (I8).
func (n *Node) unsealWith(ctx context.Context, a attempt, masterKey memsec.Secret) error {
	defer masterKey.Destroy()
	keys, err := newGenerations(a.record, masterKey)
	if err != nil {
		return err
	}
	u := &unsealed{ring: newKeyring(n, a.record.Keyspace(), keys), keys: keys}
	if err := n.install(u, a); err != nil {
		u.destroy()
		return err
	}
	if n.open.Load() != u {
		u.destroy() // somebody else was first
		return nil
	}
	n.openedBy(ctx)
	n.log.InfoContext(ctx, "unsealed", slog.String("mode", a.record.Mode().String()), slog.Uint64("generation", uint64(a.record.Generation())))
	if v := n.machine.View(); v.Initialized() {
		if s := n.stand(u, v, nil); s.proved != nil {
			n.log.ErrorContext(ctx, "the state that this node started with is not believed; it serves nothing", slog.Any("error", s.proved))
		}
	}
	return nil
}

// install makes u the state of the node, unless the node is unsealed already.
func (n *Node) install(u *unsealed, a attempt) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := n.heldErr(n.machine.View())
	switch {
	case held != nil:
		return held
	case n.stopped:
		return errs.New(errs.Unavailable, "this node is stopping", errs.Hint("use another node"))
	case n.seals != a.seals:
		return errSealedMeanwhile()
	case n.record.IsZero() || n.record.ManifestDigest() != a.record.ManifestDigest():
		return errs.New(errs.Aborted, "the seal record changed while this node was being unsealed", errs.Hint("retry"))
	}
	if !n.open.CompareAndSwap(nil, u) {
		return nil
	}
	n.lastFailure = ""
	n.resting = false
	n.endGathering()
	return nil
}

// destroy wipes the keys and waits for what was being unwrapped.
func (u *unsealed) destroy() {
	u.ring.shut()
	u.ring.wait()
}

// wipe seals the node and reports whether it was unsealed (I4). Shares that were
// given so far go too.
func (n *Node) wipe() bool {
	n.mu.Lock()
	n.seals++
	n.endGathering() // it is of the record that was in force
	u := n.open.Swap(nil)
	n.mu.Unlock()
	if u == nil {
		return false
	}
	u.destroy()
	return true
}

// Seal wipes every key from this node's memory. It unseals again by shares, or
// in auto mode when its process starts again.
func (n *Node) Seal(ctx context.Context, tok gate.Token) error {
	if err := tok.Require(gate.SealNode, ObjectSeal); err != nil {
		return err
	}
	n.mu.Lock()
	if !n.belongs() {
		n.mu.Unlock()
		return errNoCluster(errs.NotSealed)
	}
	n.resting = true
	n.mu.Unlock()
	if n.wipe() {
		n.log.WarnContext(ctx, "sealed", slog.String("by", tok.Principal().String()))
	}
	return nil
}

// SealStatus is what GetSeal tells.
type SealStatus struct {
	Initialized bool
	Unsealed    bool
	Mode        seal.Mode
	Have        int // shares that count; with Need and Shares 0 in auto mode
	Need        int
	Shares      int
	Progress    seal.Progress // groups and holders; when unsealed, without what came of them
	Generation  hierarchy.Generation
	Offer       seal.Offer // the start key; zero before this node knows its cluster
	Held        bool
	HoldReason  string
	Persons     int // persons needed to unseal
	LastFailure string
	// WayBack says that the seal from before the last ceremony is kept, and how its holders
	// open this node; empty: it is unsealed, or there is none.
	WayBack string
	// Of the keystores of the seal, as this node found them when it last watched
	// them, as leader: when that was (zero: not since it leads), how well each
	// protects what it holds, and how well the weakest does.
	Watched     time.Time
	Protections map[seal.ProviderKey]keystore.Protection
	Protection  keystore.Protection
}

// GetSeal tells how this node is sealed. It needs no token: the gate's check of
// the reader is the caller's, and nothing is done.
func (n *Node) GetSeal() (SealStatus, error) {
	var before seal.Record
	if n.open.Load() == nil {
		before, _ = n.previous() // reads a disk, so under no lock
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	v := n.machine.View()
	st := SealStatus{
		Initialized: n.belongs(), Unsealed: n.open.Load() != nil, LastFailure: n.lastFailure,
		Held: n.heldErr(v) != nil, HoldReason: v.Hold().GetReason(),
	}
	if n.record.IsZero() {
		return st, nil
	}
	st.Mode, st.Generation, st.Persons = n.record.Mode(), n.record.Generation(), n.record.PersonsNeeded()
	st.Progress = n.record.Progress()
	if o := n.gather(); o != nil {
		o.Expire()
		st.Progress = o.Progress()
	}
	if st.Unsealed {
		n.watch.overlay(&st)
	} else {
		st.WayBack = wayBack(before, n.record)
	}
	if st.Mode == seal.ModeShamir {
		st.Have, st.Need, st.Shares = st.Progress.Have, st.Progress.Need, n.record.Shares()
	}
	if st.Unsealed && st.Mode == seal.ModeShamir {
		st.Have = st.Need
	}
	_, err := n.ownStartKey()
	st.Offer = n.offer
	return st, err
}

// ownStartKey returns the key that shares are encrypted to, made when it is
// first asked for after a start; nil before the cluster is known. n.mu is held.
func (n *Node) ownStartKey() (*seal.StartKey, error) {
	if n.startKey != nil {
		return n.startKey, nil
	}
	f, ok := n.fingerprint()
	if !ok {
		return nil, nil //nolint:nilnil // No cluster, no key: the zero offer says so.
	}
	key, err := seal.NewStartKey(seal.Target{Cluster: f, Node: n.id})
	if err != nil {
		return nil, err
	}
	offer, err := key.Offer(n.rand, n.cluster.Signer())
	if err != nil {
		return nil, err
	}
	n.startKey, n.offer = key, offer
	return key, nil
}

// Contribute takes one share of a person, encrypted to this node's start key. With
// the last needed share the node is unsealed when it returns. A node that a person
// sealed asks its keystores again from the first share on.
func (n *Node) Contribute(ctx context.Context, tok gate.Token, sealed []byte) error {
	if err := tok.Require(gate.Contribute, ObjectSeal); err != nil {
		return err
	}
	n.forgetHold(ctx)
	a, mk, err := n.contribute(sealed)
	if err != nil {
		return err
	}
	if mk.IsZero() {
		n.hurry()
		return nil
	}
	return n.unsealWith(ctx, a, mk)
}

// hurry makes the loop that asks keystores ask at once.
func (n *Node) hurry() {
	select {
	case n.given <- struct{}{}:
	default: // it will ask anyway
	}
}

// contribute takes a share and returns the MasterKey with the last one.
func (n *Node) contribute(sealed []byte) (a attempt, mk memsec.Secret, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a = n.begin()
	held := n.heldErr(n.machine.View())
	switch {
	case n.record.IsZero():
		return a, mk, errNoCluster(errs.NotSealed)
	case n.open.Load() != nil:
		return a, mk, errs.New(errs.NotSealed, "this node is unsealed already", errs.Hint("nothing is left to do"))
	case held != nil:
		return a, mk, held
	case a.opening == nil:
		return a, mk, errs.New(errs.NotSealed, "this node does not know its cluster yet", errs.Hint("retry"))
	}
	key, err := n.ownStartKey()
	if err != nil {
		return a, mk, err
	}
	share, err := key.Open(sealed)
	if err != nil {
		return a, mk, err
	}
	if _, err := a.opening.Contribute(share); err != nil {
		return a, mk, err
	}
	n.resting = false
	mk, _ = a.opening.Take()
	return a, mk, nil
}

// ResetShares forgets the shares that people gave so far.
func (n *Node) ResetShares(tok gate.Token) error {
	if err := tok.Require(gate.Contribute, ObjectSeal); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opening != nil {
		n.opening.Forget()
	}
	return nil
}
