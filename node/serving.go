package node

import (
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// standing is what one view says about whether this node may serve. It is
// looked up once per view: a data operation compares a pointer.
type standing struct {
	view   *fsm.View
	err    error // nil: it may
	proof  proof
	proved error // nil: the snapshot that the view began with is authentic
}

// proof is a snapshot's proof, if the state began with a snapshot.
type proof struct {
	fsm.Proof

	has bool
}

// serving returns the keys and the view to serve a data operation from, or says
// why this node may not serve now (I1).
func (n *Node) serving() (*unsealed, *fsm.View, error) {
	u := n.open.Load()
	if u == nil {
		return nil, nil, n.whySealed()
	}
	v := n.machine.View()
	s := u.standing.Load()
	if s == nil || s.view != v {
		s = n.stand(u, v, s)
		if !errs.Is(s.proved, errs.Sealed) { // that is no finding: sealed in this moment, or no memory
			u.standing.Store(s)
		}
	}
	if s.err != nil {
		return nil, nil, s.err
	}
	if n.cluster.LastContact() > ContactLimit {
		if err := n.cluster.Differs(); err != nil {
			return nil, nil, err
		}
		return nil, nil, errs.New(errs.NotServing, "this node has not heard from the leader for more than "+ContactLimit.String(),
			errs.Hint("retry on another node; `krypton status` shows which ones serve"))
	}
	return u, v, nil
}

// stand finds out where the node stands in that view. before is what it found
// last: the MAC of a snapshot is computed once.
func (n *Node) stand(u *unsealed, v *fsm.View, before *standing) *standing {
	s := &standing{view: v}
	// The machine stores the proof of a snapshot before its view, so the proof of
	// this view is this one or has been replaced with the view.
	s.proof.Proof, s.proof.has = n.machine.RestoreProof()
	if before != nil && before.proof == s.proof {
		s.proved = before.proved
	} else {
		s.proved = proveSnapshot(u, s.proof)
	}
	m, member := v.Member(n.id)
	switch {
	case v.Hold().GetHeld():
		s.err = errHeld()
	case s.proved != nil:
		s.err = s.proved
	case !v.Initialized():
		s.err = errs.New(errs.NotServing, "this node has not caught up with the cluster", errs.Hint("retry, or use another node"))
	case !member || m.GetRemoved():
		s.err = errs.New(errs.NotServing, "this node is not a member of the cluster", errs.Hint("use another node"))
	}
	return s
}

// proveSnapshot checks the MAC of a snapshot that the state of this node began
// with (I9). Whoever can write to a disk, or leads, can make a snapshot and its
// checksum; only who had the MasterKey can make its MAC.
func proveSnapshot(u *unsealed, p proof) error {
	if !p.has {
		return nil // the state comes from the log alone
	}
	if !p.HasMAC {
		return errs.New(errs.StateCorrupt, "the snapshot that this node started from has no proof of who wrote it",
			errs.Hint("no node writes such a snapshot: find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one"))
	}
	err := p.Verify(func(parts ...[]byte) ([32]byte, bool) {
		sum, err := memsec.MAC(u.mac, parts...)
		return sum, err == nil
	})
	if err == nil || errs.Is(err, errs.Sealed) {
		return err
	}
	return errs.New(errs.StateCorrupt, "the snapshot that this node started from is not authentic",
		errs.Hint("find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one"),
		errs.Cause(err))
}

// ServingErr returns nil if the node serves data operations, else why not.
func (n *Node) ServingErr() error {
	if _, _, err := n.serving(); err != nil {
		return err
	}
	return n.gate.Err()
}

// whySealed says why there is no MasterKey in memory.
func (n *Node) whySealed() error {
	if err := n.heldErr(n.machine.View()); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !n.belongs():
		return errNoCluster(errs.Sealed)
	case n.resting && n.record.Mode() == seal.ModeAuto:
		return errs.New(errs.Sealed, "this node was sealed by a person", errs.Hint("use another node; this one unseals when its process starts again"))
	}
	return errs.New(errs.Sealed, "this node is sealed", errs.Hint("use another node, or unseal this one: krypton unseal"))
}

// belongs reports whether the node belongs to a cluster, or is about to hear
// from it. mu is held.
func (n *Node) belongs() bool {
	if !n.record.IsZero() || n.machine.View().Initialized() {
		return true
	}
	_, pinned := n.cfg.Pinned()
	return pinned
}

func errNoCluster(code errs.Code) error {
	return errs.New(code, "this node belongs to no cluster yet", errs.Hint("`krypton init` for a new cluster, `krypton join` for an existing one"))
}
