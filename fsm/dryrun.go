package fsm

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// DryRun returns how the present state would answer cmd, and changes nothing:
// what a caller sees who asks to validate only. The answer is a forecast. The
// state may have moved when the command itself comes, and signed intents are
// judged by the time that the leader will give the command. A command without any
// is answered as if it had those that it needs: nobody should have to sign what is
// only asked, because whoever gets the signature could use it.
//
// It is safe for concurrent use, waits for nothing and makes nothing wait.
func (m *Machine) DryRun(cmd *fsmpb.Command) *fsmpb.Result {
	cmd = proto.CloneOf(cmd)
	before := m.View()
	cmd.TimeUnixMs = max(cmd.GetTimeUnixMs(), before.timeMS, 1)
	raw, err := EncodeCommand(cmd)
	if err != nil {
		return refusal(before.index, errs.From(err))
	}
	if before.cluster == nil && cmd.GetGenesis() == nil {
		return refusal(before.index, errs.New(errs.FailedState, "the cluster is not initialised", errs.Hint("run krypton init first")))
	}
	if e := checkEnvelope(cmd, before.cluster); e != nil {
		return refusal(before.index, e)
	}
	next := before.meta
	next.index++
	next.timeMS = cmd.GetTimeUnixMs()
	t := m.begin(before, next, cmd, raw)
	t.forecast = true
	defer t.txn.Abort()
	if res := t.recall(); res != nil {
		return res
	}
	d, err := t.attempt()
	if err != nil {
		return refusal(before.index, errs.From(err))
	}
	return &fsmpb.Result{Index: before.index, Object: d.object, Version: d.version, Uid: bytes.Clone(d.uid)}
}
