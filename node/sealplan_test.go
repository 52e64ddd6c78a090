package node_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// mixedPlan is 2 of 4: two keystores, a person with a recipient and one whose share
// is printed. Its keystores are of one kind, and open it.
func mixedPlan(t tb) plan.Plan {
	t.Helper()
	ids := must[*agebox.Identities](t)(agebox.NewIdentities(time.Time{}))
	defer ids.Destroy()
	public := must[[]agebox.Public](t)(ids.Public())
	return plan.Plan{Groups: []plan.Group{{Threshold: 2, Holders: []plan.Holder{
		{Name: "here", Key: seal.ProviderKey{Provider: "sealing", Key: sealKey}, Domain: seal.Domain{Region: "frankfurt"}},
		{Name: "there", Key: seal.ProviderKey{Provider: "customer", Key: sealKey}},
		{Name: "anna", Recipient: public[0].Recipient},
		{Name: "safe"},
	}}}}
}

func (m *member) planSeal(p plan.Plan) (out plan.Plan, notes []string, err error) {
	err = m.do(auth.LocalOperator(), gate.PlanSeal, node.ObjectCluster, func(ctx context.Context, tok gate.Token) (err error) {
		out, notes, err = m.PlanSeal(ctx, tok, p)
		return err
	})
	return out, notes, err
}

func TestAPlannedSealIsPlacedAndItsKeystoresAreAsked(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	p, notes, err := m.planSeal(mixedPlan(t)) // customer has no such key
	check(t, err)
	hs := p.Holders()
	if diff := cmp.Diff(seal.Domain{ProviderType: local.Type, Account: filepath.Join(w.dir, "sealing"), Region: "frankfurt"}, hs[0].Domain); diff != "" {
		t.Error(diff)
	}
	if hs[0].Protection != keystore.ProtectionSoftware || hs[1].Protection != keystore.ProtectionUnknown {
		t.Errorf("protections %s and %s", hs[0].Protection, hs[1].Protection)
	}
	if len(notes) != 1 || notes[0] != "there: its keystore does not say what protects the key (misconfigured)" {
		t.Errorf("%q", notes)
	}
	check(t, w.sealing.Disable(t.Context(), sealKey))
	if _, notes, err = m.planSeal(plan.OneKey(seal.ProviderKey{Provider: "sealing", Key: sealKey})); err != nil || len(notes) != 1 || notes[0] != "sealing: its keystore says that the key is disabled" {
		t.Errorf("%q, %v", notes, err)
	}
	bad := mixedPlan(t)
	bad.Groups[0].Threshold = 9
	_, _, err = m.planSeal(bad)
	wants(t, err, errs.InvalidArgument)
	if len(w.commands) != 0 || m.Initialized() {
		t.Error("a plan made something")
	}
}

func TestInitKeepsWhatWasAcceptedOfAMixedSeal(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	check(t, w.customer.CreateKey(t.Context(), sealKey))
	p := autoPlan(t)
	p.Seal = mixedPlan(t)

	_, err := m.init(p)
	wants(t, err, errs.InvalidArgument)
	if err == nil || !strings.Contains(err.Error(), "the seal is concentrated: provider local alone opens it") || m.Initialized() {
		t.Fatalf("a concentrated seal that nobody accepted: %v", err)
	}
	p.ValidateOnly = true // says the same
	_, err = m.init(p)
	wants(t, err, errs.InvalidArgument)
	p.ValidateOnly, p.AcceptRisks, p.Profile = false, plan.Risks(), plan.FourEyes
	_, err = m.init(p) // a profile is not something to accept away
	wants(t, err, errs.InvalidArgument)

	p.Profile = ""
	out := must[*node.InitResult](t)(m.init(p))
	if diff := cmp.Diff([]string{"concentration"}, out.Risks); diff != "" || len(out.ShareTexts) != 1 || out.Persons != 0 {
		t.Errorf("%s, %d shares, %d persons", diff, len(out.ShareTexts), out.Persons)
	}
	rec := must[seal.Record](t)(seal.ReadFile(filepath.Join(m.dir, "record.pb"), out.Keyspace))
	kept := seal.PlanOf(rec.Proto().GetManifest())
	want := must[plan.Plan](t)(p.Seal.Fill(m.where))
	if diff := cmp.Diff(want, plan.Of(kept)); diff != "" {
		t.Errorf("the manifest says something else than was planned: %s", diff)
	}
	if diff := cmp.Diff([]string{"concentration"}, kept.AcceptedRisks); diff != "" {
		t.Error(diff)
	}
}

func TestInitKeepsNoRiskThatIsNotThere(t *testing.T) {
	w, o := newWorld(t)
	m := w.add(t, o)
	p := shamirPlan(t, 2, 3)
	p.AcceptRisks = plan.Risks()
	out := must[*node.InitResult](t)(m.init(p))
	rec := must[seal.Record](t)(seal.ReadFile(filepath.Join(m.dir, "record.pb"), out.Keyspace))
	if out.Risks != nil || seal.PlanOf(rec.Proto().GetManifest()).AcceptedRisks != nil || rec.Proto().GetFormat() != 1 {
		t.Errorf("%q accepted, record of format %d", out.Risks, rec.Proto().GetFormat())
	}
}
