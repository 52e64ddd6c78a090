package fsm_test

import (
	"bytes"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// secretWith is a command that puts a secret with that public part.
func (w *world) secretWith(name string, public []byte) *fsmpb.Command {
	c := w.putSecret(name)
	c.GetPutSecret().GetSecret().Public = public
	return c
}

// A leader that lies, a member that forwards, a caller with every role: whoever
// could put another certificate under the name of the cluster's CA could make
// callers and nodes.
func TestI15_ThePublicPartOfASecretNeverChanges(t *testing.T) {
	principals := map[string]*fsmpb.Principal{
		"the leader": nil,
		"a node":     {Kind: "node", Name: nodeID(0)},
		"a governor": caller("governor", "gov"),
	}
	publics := map[string][]byte{
		"another": []byte("certificatf"), "longer": []byte("certificate and more"), "shorter": []byte("cert"), "none": nil,
	}
	for who, p := range principals {
		for what, public := range publics {
			t.Run(who+", "+what, func(t *testing.T) {
				for _, format := range []uint32{fsm.FormatAuthority - 1, newest} {
					w := newWorld(t, ofFormat(format))
					code := errs.FailedState
					if p != nil && format >= fsm.FormatAuthority {
						code = errs.Denied // it is not for callers at all
					}
					before, _ := w.view().Secret("node-ca")
					c := w.secretWith("node-ca", public)
					c.Principal = p
					w.refused(code, c)
					w.ok(w.addIVK()) // an occasion to wrap again is no occasion to swap
					c = w.secretWith("node-ca", public)
					c.Principal = p
					w.refused(code, c)
					if after, _ := w.view().Secret("node-ca"); after != before {
						t.Errorf("the secret is %v, it was %v", after, before)
					}
				}
			})
		}
	}
}

func TestI15_ASecretIsWrappedAgainAndNewOnesArePut(t *testing.T) {
	w := newWorld(t)
	was, _ := w.view().Secret("node-ca")
	w.ok(w.addIVK())
	w.ok(w.secretWith("node-ca", []byte("certificate")))
	is, _ := w.view().Secret("node-ca")
	if bytes.Equal(is.GetBlob(), was.GetBlob()) || !bytes.Equal(is.GetIvkUid(), w.ivk().GetUid()) ||
		!bytes.Equal(is.GetPublic(), was.GetPublic()) || is.GetModIndex() != w.index {
		t.Errorf("after wrapping it again: %v", is)
	}

	w.ok(w.secretWith("webhook", nil))
	w.ok(w.secretWith("webhook", nil))
	w.refused(errs.FailedState, w.secretWith("webhook", []byte("suddenly a certificate")))
	w.ok(w.secretWith("provider", []byte("public")))
	if s, ok := w.view().Secret("provider"); !ok || string(s.GetPublic()) != "public" {
		t.Errorf("the new secret is %v", s)
	}
}

// The way around the command: a snapshot in which the CA of the genesis has
// another certificate, or is not there at all.
func TestI15_NoSnapshotHasAnotherCAThanItsGenesis(t *testing.T) {
	w := newWorld(t)
	w.ok(w.putSecret("webhook"))
	raw := snapshot(t, w.m, testMAC)
	for name, change := range map[string]func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem{
		"swapped": func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if s := it.GetSecret(); s.GetName() == "node-ca" {
					s.Public = []byte("rogue CA")
				}
			}
			return items
		},
		"gone": func(items []*fsmpb.SnapshotItem) (rest []*fsmpb.SnapshotItem) {
			for _, it := range items {
				if it.GetSecret().GetName() != "node-ca" {
					rest = append(rest, it)
				}
			}
			return rest
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := edit(t, raw, change)
			if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt {
				t.Errorf("got %v, want STATE_CORRUPT", err)
			}
		})
	}
	same := edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return items })
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(same)); err != nil {
		t.Errorf("the unchanged snapshot: %v", err)
	}
}

func TestI16_OnlyHousekeepingAddsAnInternalKey(t *testing.T) {
	w := newWorld(t)
	primary := w.ivk()
	for _, p := range []*fsmpb.Principal{
		{Kind: "node", Name: nodeID(0)},
		{Issuer: "ca", Kind: "governor", Name: "alice"},
		{Name: "alice"},
		{Issuer: "ca"},
		{Kind: "operator"},
	} {
		c := w.addIVK()
		c.Principal = p
		w.refused(errs.Denied, c)
	}
	w.refused(errs.Denied, asked("r", w.addIVK()))
	if got := w.ivk(); got != primary {
		t.Fatalf("the primary is %v", got)
	}
	w.ok(w.addIVK())
	if w.ivk().GetNumber() != 2 {
		t.Errorf("the primary is %v", w.ivk())
	}
}

// What a lying leader still can do, and what ends it: junk as the primary
// internal key holds nothing, takes nothing from the versions before it, and is
// superseded by the next honest one.
func TestI16_AJunkInternalKeyIsSupersededAndTakesNothingAway(t *testing.T) {
	w := acme(t)
	good := w.ivk().GetUid()
	junk := w.addIVK()
	junk.GetAddInternalKey().GetVersion().Blob = []byte("junk")
	w.ok(junk)
	bad := w.ivk().GetUid()
	if v, _ := w.view().InternalKey(good); v.GetState() != active || len(v.GetBlob()) == 0 {
		t.Fatalf("the version before is %v", v)
	}
	if tn := w.tenantOf("acme"); !bytes.Equal(tn.GetL2IvkUid(), good) {
		t.Fatal("the tenant moved")
	}
	w.ok(w.addIVK())
	if bytes.Equal(w.ivk().GetUid(), bad) || w.view().InternalKeyUsed(bad) {
		t.Error("the junk is still primary, or holds something")
	}
	w.ok(changeVersion("", "", 2, fsmpb.VersionEvent_VERSION_EVENT_DISABLE))
	w.ok(w.createTenant("late"))
}
