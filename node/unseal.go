package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// Backoff of a node that unseals by itself.
const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// unsealByItself opens the MasterKey through the keystores of the seal record
// whenever the node is sealed, not held, and in auto mode. Every attempt is in
// the audit trail.
func (n *Node) unsealByItself(ctx context.Context) error {
	backoff := minBackoff
	for {
		err := n.tryAuto(ctx)
		if err == nil {
			backoff = minBackoff
			// Whatever gives it something to do wakes it: every change of the
			// registry does.
			select {
			case <-n.wake:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.setFailure(errs.From(err).Error())
		n.log.WarnContext(ctx, "this node stays sealed; it tries again by itself", slog.Any("error", err), slog.Duration("next_try", backoff))
		// A wake-up is no reason to hurry after a failure: a busy cluster would
		// hammer the keystore.
		if err := n.clock.Sleep(ctx, backoff); err != nil {
			return err
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func (n *Node) setFailure(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lastFailure = s
}

// tryAuto makes one attempt; nil means that there is nothing to do or that it
// worked.
func (n *Node) tryAuto(ctx context.Context) error {
	n.forgetHold(ctx)
	n.mu.Lock()
	a, resting := n.begin(), n.resting
	n.mu.Unlock()
	if n.Unsealed() || resting || n.held() || a.record.IsZero() || a.record.Mode() != seal.ModeAuto {
		return nil
	}
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, id)
	return n.gate.DoNode(ctx, gate.NodeUnseal, ObjectSeal, func(gate.Token) error {
		opened, err := seal.OpenAuto(ctx, a.record, n.stores)
		if err != nil {
			return err
		}
		for _, f := range opened.Failures {
			n.log.WarnContext(ctx, "a keystore of the seal failed; another one opened it",
				slog.String("keystore", f.Provider), slog.String("class", f.Class.String()), slog.Any("error", f.Err))
		}
		return n.unsealWith(ctx, a, opened.MasterKey)
	})
}

// attempt is what an unsealing began with. What is not so any more when it has
// the MasterKey ends it.
type attempt struct {
	record seal.Record
	seals  uint64
}

// begin returns an attempt. mu is held.
func (n *Node) begin() attempt { return attempt{record: n.record, seals: n.seals} }

// unsealWith takes over the MasterKey: it derives what the node needs and
// forgets the MasterKey itself, which is a KDF input only. Somebody who sealed
// the node while this was on its way wins (I8).
func (n *Node) unsealWith(ctx context.Context, a attempt, masterKey memsec.Secret) error {
	defer masterKey.Destroy()
	mac, err := envelope.RegistryMACKey(masterKey)
	if err != nil {
		return err
	}
	ring, err := newKeyring(n, masterKey, a.record.Keyspace(), a.record.Generation())
	if err != nil {
		mac.Destroy()
		return err
	}
	u := &unsealed{ring: ring, mac: mac}
	if err := n.install(u, a); err != nil {
		u.destroy()
		return err
	}
	if n.open.Load() != u {
		u.destroy() // somebody else was first
		return nil
	}
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
		return errs.New(errs.Sealed, "this node was sealed while it was being unsealed", errs.Hint("unseal it again: krypton unseal"))
	case n.record.IsZero() || n.record.Digest() != a.record.Digest():
		return errs.New(errs.Aborted, "the seal record changed while this node was being unsealed", errs.Hint("retry"))
	}
	if !n.open.CompareAndSwap(nil, u) {
		return nil
	}
	n.lastFailure = ""
	n.resting = false
	if n.unsealer != nil {
		n.unsealer.Reset()
	}
	return nil
}

// destroy wipes the keys and waits for what was being unwrapped.
func (u *unsealed) destroy() {
	u.ring.shut()
	u.mac.Destroy()
	u.ring.wait()
}

// wipe seals the node and reports whether it was unsealed (I4). Shares that were
// given so far go too.
func (n *Node) wipe() bool {
	n.mu.Lock()
	n.seals++
	if n.unsealer != nil {
		n.unsealer.Reset()
		n.unsealer = nil // it is of the record that was in force
	}
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
	Have        int
	Need        int
	Shares      int
	Generation  hierarchy.Generation
	Offer       seal.Offer // the start key; zero before this node knows its cluster
	Held        bool
	HoldReason  string
	Persons     int // persons needed to unseal
	LastFailure string
}

// GetSeal tells how this node is sealed. It needs no token: the gate's check of
// the reader is the caller's, and nothing is done.
func (n *Node) GetSeal() (SealStatus, error) {
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
	if st.Mode == seal.ModeShamir {
		st.Need, st.Shares = n.record.Threshold(), n.record.Shares()
		switch {
		case st.Unsealed:
			st.Have = st.Need
		case n.unsealer != nil:
			n.unsealer.Expire()
			st.Have = n.unsealer.Progress().Have
		}
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

// Contribute takes one share, encrypted to this node's start key. With the last
// needed share the node is unsealed when it returns.
func (n *Node) Contribute(ctx context.Context, tok gate.Token, sealed []byte) error {
	if err := tok.Require(gate.Contribute, ObjectSeal); err != nil {
		return err
	}
	n.forgetHold(ctx)
	a, mk, err := n.contribute(sealed)
	if err != nil || mk.IsZero() {
		return err
	}
	return n.unsealWith(ctx, a, mk)
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
	}
	f, ok := n.fingerprint()
	if !ok {
		return a, mk, errs.New(errs.NotSealed, "this node does not know its cluster yet", errs.Hint("retry"))
	}
	if n.unsealer == nil {
		if n.unsealer, err = seal.NewUnsealer(n.record, f, n.clock, seal.DefaultPatience); err != nil {
			return a, mk, err
		}
	}
	key, err := n.ownStartKey()
	if err != nil {
		return a, mk, err
	}
	share, err := key.Open(sealed)
	if err != nil {
		return a, mk, err
	}
	if _, err := n.unsealer.Contribute(share); err != nil {
		return a, mk, err
	}
	mk, _ = n.unsealer.Take()
	return a, mk, nil
}

// ResetShares forgets the shares given so far.
func (n *Node) ResetShares(tok gate.Token) error {
	if err := tok.Require(gate.Contribute, ObjectSeal); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.unsealer != nil {
		n.unsealer.Reset()
	}
	return nil
}
