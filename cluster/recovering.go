package cluster

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// A running node that was recovered. Its log and its Raft configuration, of itself
// alone, are there ([Prepare]); what is left is the command that makes it the one
// member. It needs the MasterKey, as everything that changes the registry does: whoever
// can only write a data directory recovers nothing.

// recoveryWhole refuses a data directory in which a recovery was cut short.
func (d *Dir) recoveryWhole() error {
	if d.record().Recovery != recoveryBegun {
		return nil
	}
	return errs.New(errs.FailedState, "a recovery of this data directory was cut short",
		errs.Hint("give the same krypton operator recover command again; nothing was lost"))
}

// Recovering reports whether this node was recovered and has not said so in its log yet,
// or cannot prove yet how far that goes.
func (d *Dir) Recovering() bool { return d.record().Recovery == recoveryReady }

// restarting reports whether people said that this node's log goes as far as it goes.
func (c *Cluster) restarting() bool { return c.cfg.Dir.Recovering() }

// recovered reports whether the state in view is of the incarnation of this node.
func (c *Cluster) recovered() bool {
	return bytes.Equal(c.machine.View().Incarnation().GetId(), c.cfg.Dir.Incarnation())
}

// Recovering reports whether [Cluster.Recover] has something to do.
func (c *Cluster) Recovering() bool { return c.restarting() }

// errRecovering is why a node does nothing whose recovery has still to be applied, or nil.
func (c *Cluster) errRecovering() error {
	if !c.restarting() || c.recovered() {
		return nil
	}
	return errs.New(errs.Unavailable, "this node is being recovered",
		errs.Hint("unseal it: krypton unseal; it goes on by itself then"))
}

// mayBeforeRecovery refuses what must not be changed before a recovery is applied. An
// epoch changes no object, and a hold has to be ended before anybody can unseal.
func (c *Cluster) mayBeforeRecovery(cmd *fsmpb.Command) error {
	switch cmd.GetBody().(type) {
	case *fsmpb.Command_Recover, *fsmpb.Command_LeaseEpoch, *fsmpb.Command_SetHold:
		return nil
	}
	return c.errRecovering()
}

// checkAlone refuses to run a recovered node in a Raft configuration with others.
func (c *Cluster) checkAlone() error {
	if c.errRecovering() == nil {
		return nil
	}
	conf := c.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return errs.New(errs.StateCorrupt, "the Raft configuration cannot be read", errs.Cause(err))
	}
	if s := conf.Configuration().Servers; len(s) == 1 && NodeID(s[0].ID) == c.id && s[0].Suffrage == raft.Voter {
		return nil
	}
	return errs.New(errs.StateCorrupt, "the log of this node is not one that was recovered", errs.Hint("give the krypton operator recover command again"))
}

// Recover commits the recovery of this node and returns once no node can act on the
// state before it: when the longest lease that was given before has ended. A caller that
// gives up may call it again. It returns nil at once on a node that is not recovered.
// Errors: Sealed: nobody vouches for it; StateCorrupt: the state is not the one that
// people signed; IntentRefused: they did not sign, or their signatures have expired.
func (c *Cluster) Recover(ctx context.Context) error {
	if !c.restarting() {
		return nil
	}
	if err := c.lead(ctx); err != nil {
		return err
	}
	if !c.recovered() {
		cmd, err := c.cfg.Dir.readRecovery()
		if err != nil {
			return err
		}
		if err := c.sameState(cmd.GetRecover().GetIncarnation()); err != nil {
			return err
		}
		cmd.GetRecover().Member = c.Member()
		if _, err := c.internal(ctx, cmd, ""); err != nil && !c.recovered() {
			return err
		}
		c.log.LogAttrs(ctx, slog.LevelWarn, "recovered: this node is the only member of a new incarnation of the cluster",
			slog.String("incarnation", hex.EncodeToString(c.cfg.Dir.Incarnation())))
		c.look()
	}
	if err := c.WaitComplete(ctx, c.machine.View().Incarnation().GetModIndex()); err != nil {
		return err
	}
	return c.endRecovery(ctx)
}

// sameState compares the state of this node with the one that people signed.
func (c *Cluster) sameState(i *fsmpb.Incarnation) error {
	own, ok := c.chainAt(i.GetFromIndex())
	if !ok || !bytes.Equal(own[:], i.GetFromChain()) {
		return errs.New(errs.StateCorrupt, fmt.Sprintf("the state of this node at entry %d is not the one from which the recovery goes on", i.GetFromIndex()),
			errs.Hint("find out who can write to the data directory; recover again with another one"))
	}
	return nil
}

// endRecovery makes this a node as any other, once a file proves how far its log goes.
func (c *Cluster) endRecovery(ctx context.Context) error {
	if c.cfg.MAC != nil && !c.end.isKept() {
		if err := c.await(ctx, c.end.keep); err != nil {
			return err
		}
		if !c.end.isKept() {
			return errs.New(errs.Sealed, "how far the log goes cannot be written while the node is sealed")
		}
	}
	if err := c.cfg.Dir.update(func(n *nodeRecord) { n.Recovery = recoveryNone }); err != nil {
		return err
	}
	if err := os.Remove(c.cfg.Dir.Path(recoveryFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dirError("remove", c.cfg.Dir.Path(recoveryFile), err)
	}
	return nil
}

// readRecovery reads the command of the recovery.
func (d *Dir) readRecovery() (*fsmpb.Command, error) {
	bad := func(cause error) (*fsmpb.Command, error) {
		return nil, errs.New(errs.StateCorrupt, d.Path(recoveryFile)+" cannot be used", errs.Hint("give the krypton operator recover command again"), errs.Cause(cause))
	}
	raw, err := readSmall(d.Path(recoveryFile))
	if err != nil {
		return bad(err)
	}
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(raw, cmd); err != nil || cmd.GetRecover() == nil || !understood(cmd.ProtoReflect()) {
		return bad(err)
	}
	if !bytes.Equal(cmd.GetRecover().GetIncarnation().GetId(), d.Incarnation()) {
		return bad(errors.New("it is of another incarnation than node.json names"))
	}
	return &fsmpb.Command{Format: fsm.CommandFormat, Body: cmd.GetBody(), Intents: cmd.GetIntents()}, nil
}
