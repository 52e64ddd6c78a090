package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FuzzCommand applies arbitrary bytes to a machine that has everything: it never
// panics, keeps its invariants, and a machine that is restored from its
// snapshot answers alike.
func FuzzCommand(f *testing.F) {
	w := everything(f)
	for _, raw := range w.log {
		f.Add(raw)
	}
	f.Add([]byte{})
	base := snapshot(f, w.m, nil)
	index, term, _ := w.m.Applied()
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, twin := fsm.New(fsm.Options{}), fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(base)); err != nil {
			t.Fatal(err)
		}
		if err := twin.Restore(bytes.NewReader(base)); err != nil {
			t.Fatal(err)
		}
		before := m.View().Digest()
		res, err := m.Apply(index+1, term, raw)
		if err != nil {
			if !fsm.Stopped(err) || m.View().Digest() != before {
				t.Fatalf("stopped with %v; state changed: %v", err, m.View().Digest() != before)
			}
			return
		}
		if code, ok := errs.ByName(res.GetReason()); res.GetReason() != "" && (!ok || code == errs.Internal) {
			t.Fatalf("refused with %v", res)
		}
		again, err := twin.Apply(index+1, term, raw)
		if err != nil || !proto.Equal(res, again) {
			t.Fatalf("%v and %v, %v", res, again, err)
		}
		checkInvariants(t, m.View())
		third := fsm.New(fsm.Options{})
		if err := third.Restore(bytes.NewReader(snapshot(t, m, nil))); err != nil {
			t.Fatalf("its own snapshot: %v", err)
		}
		sameState(t, m, third)
		sameState(t, m, twin)
	})
}

// FuzzApproval requests approvals of arbitrary content, by people who have the power:
// nothing that is not what its intent says is kept, and what is kept is restored.
func FuzzApproval(f *testing.F) {
	w := quorate(f)
	for who, cmd := range map[string]*fsmpb.Command{"alice": destroyNow("acme", "pay"), "gov": setQuorum(1, 1), "carol": bind(bindingFor("operator", "olga"))} {
		c, _ := w.request(who, cmd)
		a := c.GetRequestApproval().GetApproval()
		f.Add(who, a.GetIntent(), a.GetRequest(), a.GetRequested().GetKeyId(), a.GetRequested().GetSignature(), a.GetTypeUrl())
	}
	base := snapshot(f, w.m, nil)
	index, term, _ := w.m.Applied()
	f.Fuzz(func(t *testing.T, who string, in, req, key, sig []byte, kind string) {
		cmd := &fsmpb.Command{
			Format: 1, TimeUnixMs: startMS, Principal: caller("governor", who),
			Body: &fsmpb.Command_RequestApproval{RequestApproval: &fsmpb.RequestApproval{Approval: &fsmpb.Approval{
				Intent: in, Request: req, TypeUrl: kind, Requested: &fsmpb.ApprovalSignature{KeyId: key, Signature: sig},
			}}},
		}
		raw, err := fsm.EncodeCommand(cmd)
		if err != nil || w.m.DryRun(cmd).GetReason() != "" {
			return // text that is not UTF-8, or refused; then nothing is kept
		}
		m := fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(base)); err != nil {
			t.Fatal(err)
		}
		res, err := m.Apply(index+1, term, raw)
		if err != nil {
			t.Fatal(err)
		}
		all := m.View().Approvals(0, "", 2)
		if done := res.GetReason() == ""; done != (len(all) == 1) {
			t.Fatalf("%v, and %d approvals", res, len(all))
		}
		for _, a := range all {
			signed, err := intent.Decode(a.GetIntent())
			if err != nil || signed.Request != sha256.Sum256(a.GetRequest()) || uint32(signed.Act) != a.GetAct() {
				t.Fatalf("kept %v", a)
			}
		}
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, m, nil))); err != nil {
			t.Fatalf("its own snapshot: %v", err)
		}
	})
}

// FuzzRestore restores arbitrary bytes: it never panics, and what it accepts is
// a state that ticks and has a snapshot of its own.
func FuzzRestore(f *testing.F) {
	for _, w := range []*world{emptyWorld(f), newWorld(f), everything(f)} {
		f.Add(snapshot(f, w.m, nil), false)
		f.Add(snapshot(f, w.m, testMAC), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, fix bool) {
		if fix && len(raw) > 65 {
			raw = resum(raw)
		}
		m := fsm.New(fsm.Options{})
		err := m.Restore(bytes.NewReader(raw))
		if err != nil {
			if errs.Of(err) != errs.StateCorrupt || m.View().Index() != 0 {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		index, term, _ := m.Applied()
		if index == 1<<64-1 {
			return
		}
		tick, err := fsm.EncodeCommand(&fsmpb.Command{Format: 1, TimeUnixMs: startMS + 1000*dayMS, Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Apply(index+1, term, tick); err != nil {
			t.Fatal(err)
		}
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, m, nil))); err != nil {
			t.Fatalf("its own snapshot: %v", err)
		}
	})
}
