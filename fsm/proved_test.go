package fsm_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestI30_OnlyTheseCommandsActWithoutAProof goes through every command that there is: a
// new one needs a proof, or somebody says here why not.
func TestI30_OnlyTheseCommandsActWithoutAProof(t *testing.T) {
	t.Parallel()
	without := []string{"genesis", "lease_epoch", "set_hold"}
	var all []string
	fields := (&fsmpb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("body").Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		cmd := &fsmpb.Command{}
		cmd.ProtoReflect().Set(fd, protoreflect.ValueOfMessage(cmd.ProtoReflect().NewField(fd).Message()))
		all = append(all, string(fd.Name()))
		if got := !fsm.NeedsProof(cmd); got != slices.Contains(without, string(fd.Name())) {
			t.Errorf("%s acts without a proof: %t", fd.Name(), got)
		}
	}
	if len(all) < 30 || !fsm.NeedsProof(&fsmpb.Command{}) {
		t.Errorf("%d commands; one without a body needs a proof: %t", len(all), fsm.NeedsProof(&fsmpb.Command{}))
	}
	for _, name := range without {
		if !slices.Contains(all, name) {
			t.Errorf("there is no command %s", name)
		}
	}
}

// TestI30_WhatNobodyVouchedForDoesNothing: neither to objects, nor to the time, nor to
// the memory of requests.
func TestI30_WhatNobodyVouchedForDoesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	furnish(w)
	before := w.view()
	suspend := func() *fsmpb.Command {
		cmd := changeObject("acme", "", fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, "")
		cmd.RequestId, cmd.RequestDigest = "r1", make([]byte, 32)
		return cmd
	}
	far := suspend()
	far.TimeUnixMs = w.now + 1<<40
	if res := w.unproved(far); res.GetReason() != errs.Unavailable.String() || res.GetHint() == "" {
		t.Fatalf("a change that nobody vouched for: %v", res)
	}
	if tn, _ := w.view().Tenant("acme"); tn.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE || w.view().TimeMS() != before.TimeMS() {
		t.Errorf("it acted: %v, the time moved by %d", tn.GetState(), w.view().TimeMS()-before.TimeMS())
	}
	// The same request, vouched for, is done.
	if res := w.ok(suspend()); res.GetReplayed() {
		t.Errorf("the refusal was remembered: %v", res)
	}
	// A hold does without, but for its time.
	h := hold(true)
	h.TimeUnixMs = w.now + 1<<40
	if res := w.unproved(h); res.GetReason() != "" || !w.view().Hold().GetHeld() || w.view().TimeMS() > w.now {
		t.Errorf("a hold without a proof: %v, held %t, time %d after %d", res, w.view().Hold().GetHeld(), w.view().TimeMS(), w.now)
	}
}

// TestI30_OlderClustersAskForNoProof: members of an older release would not.
func TestI30_OlderClustersAskForNoProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(g *fsmpb.Genesis) { g.FormatVersion = fsm.FormatProofs - 1 })
	if res := w.unproved(w.createTenant("acme")); res.GetReason() != "" {
		t.Errorf("%v", res)
	}
}

// unproved applies a command for which no leader vouched.
func (w *world) unproved(cmd *fsmpb.Command) *fsmpb.Result {
	w.tb.Helper()
	by(cmd).Format = fsm.CommandFormat
	cmd.TimeUnixMs = max(cmd.GetTimeUnixMs(), w.now)
	raw, err := fsm.EncodeCommand(cmd)
	if err != nil {
		w.tb.Fatalf("encode: %v", err)
	}
	w.index++
	res, err := w.m.ApplyUnproved(w.index, w.term, raw)
	if err != nil {
		w.tb.Fatalf("apply %T: %v", cmd.GetBody(), err)
	}
	return res
}
