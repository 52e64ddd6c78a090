package fsm_test

import (
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// TestWhatRefusesACeremonySaysWhatToDo, as docs/errors.md has it.
func TestWhatRefusesACeremonySaysWhatToDo(t *testing.T) {
	plan := func() *fsmpb.SealPlan { return people("anna", "ben") }
	says := func(w *world, id string, code errs.Code, cmd *fsmpb.Command) {
		t.Helper()
		situationtest.Error(t, id, fsm.Err(w.refused(code, cmd)))
	}
	w := sealedWorld(t, shamir, 1)
	begin := func(change func(*fsmpb.BeginCeremony)) *fsmpb.Command {
		t.Helper()
		c := w.beginCeremony(reshare, plan())
		change(c.GetBeginCeremony())
		return c
	}
	says(w, "seal/ceremony-life", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) { b.LifeMs = fsm.MaxCeremonyLifeMS + 1 }))
	says(w, "seal/ceremony-is-migration", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) { b.Plan = keystores("aws") }))
	says(w, "seal/ceremony-is-reshare", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) { b.Kind = migrate }))
	says(w, "seal/ceremony-printed", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) { b.GetPlan().GetGroups()[0].GetHolders()[0].Recipient = "" }))
	says(w, "seal/ceremony-threshold", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) { b.GetPlan().GetGroups()[0].Threshold = 1 }))
	says(w, "seal/ceremony-group-name", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) {
		b.Plan = twoGroups()
		b.GetPlan().GetGroups()[0].Name = b.GetPlan().GetGroups()[1].GetName()
	}))
	says(w, "seal/ceremony-key-twice", errs.InvalidArgument, begin(func(b *fsmpb.BeginCeremony) { b.Kind, b.Plan = migrate, keystores("aws", "aws") }))
	says(w, "seal/ceremony-plan-large", errs.TooLarge, begin(func(b *fsmpb.BeginCeremony) {
		for _, h := range b.GetPlan().GetGroups()[0].GetHolders() {
			h.Recipient = strings.Repeat("a", fsm.MaxSealPlanBytes)
		}
	}))
	says(w, "seal/ceremony-moved", errs.StaleEtag, begin(func(b *fsmpb.BeginCeremony) { b.BaseManifest = make([]byte, 32) }))

	id := w.begun(reshare, plan())
	says(w, "seal/ceremony-open", errs.FailedState, begin(func(*fsmpb.BeginCeremony) {}))
	says(w, "seal/ceremony-no-seal-yet", errs.FailedState, w.commitSeal(id))
	w.ok(cancelSeal(id))
	says(w, "seal/ceremony-cancelled", errs.FailedState, w.commitSeal(id))
	says(w, "seal/ceremony-id-used", errs.AlreadyExists, begin(func(b *fsmpb.BeginCeremony) { b.Id = id }))

	id = w.begun(reshare, plan())
	w.stagedSeal(id)
	says(w, "seal/ceremony-not-opened", errs.Aborted, w.commitSeal(id))
	w.now += hourMS
	w.ok(tick())
	says(w, "seal/ceremony-expired", errs.FailedState, w.commitSeal(id))

	w = sealedWorld(t, auto, 0)
	says(w, "seal/ceremony-nobody-consents", errs.FailedState, w.beginCeremony(migrate, keystores("aws")))
}
