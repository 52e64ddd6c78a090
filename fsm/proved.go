package fsm

import (
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// provedness says whether a node that had the MasterKey vouched for an entry. Whether
// what it wrote is right only an unsealed node can tell; that it wrote something every
// node can, and that is all that may decide what an entry does.
type provedness bool

const (
	proved   provedness = true
	unproved provedness = false
)

// NeedsProof reports whether a command acts only if a node that had the MasterKey
// vouched for its entry (I30). What is not named here does.
//
// A sealed leader can commit the others, so they are what a sealed cluster cannot come
// back without, and what who can write a log gains nothing by:
//
//   - the genesis: the internal keys open under no other one ([Founding]);
//   - an epoch of leases changes no object; without it a sealed leader gives no leases
//     to nodes that are unsealed;
//   - a hold takes power away. Its release gives back nothing but that people may unseal,
//     and no node unseals before it: nobody could vouch for it.
func NeedsProof(cmd *fsmpb.Command) bool {
	switch cmd.GetBody().(type) {
	case *fsmpb.Command_Genesis, *fsmpb.Command_LeaseEpoch, *fsmpb.Command_SetHold:
		return false
	}
	return true
}

// ApplyUnproved is [Machine.Apply] for an entry for which no node vouched. From
// [FormatProofs] on it is refused, alike on every replica, unless its command does
// without ([NeedsProof]); and its time does not count, because who wrote it might
// have come from any time.
func (m *Machine) ApplyUnproved(index, term uint64, cmd []byte) (*fsmpb.Result, error) {
	return m.step(index, term, cmd, unproved)
}

// counts reports whether the time of an entry counts.
func (p provedness) counts(c *fsmpb.Cluster) bool {
	return p == proved || c.GetFormatVersion() < FormatProofs || mutation.On(mutation.SkipEntryProof)
}

func (p provedness) refuses(cmd *fsmpb.Command, c *fsmpb.Cluster) *errs.Error {
	if p.counts(c) || !NeedsProof(cmd) {
		return nil
	}
	// It is nobody's fault and not remembered: the leader was sealed, or had just
	// begun to lead, when the entry got its place. Or somebody cut off its proof.
	return errs.New(errs.Unavailable, "the leader could not vouch for the change, so it was not made", errs.Hint("retry with the same request id"))
}

// Bare reports whether the registry never had a tenant: then there is no key that
// anybody could use by a state that is too old.
func (v *View) Bare() bool { return v.tenants == 0 }
