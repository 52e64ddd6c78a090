package gate_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestWhatIsForwardedIsRecordedWithTheNodeItCameBy and with the caller that was
// verified, never with the one that the node claims.
func TestWhatIsForwardedIsRecordedWithTheNodeItCameBy(t *testing.T) {
	t.Parallel()
	gov := principal(auth.RoleGovernor)
	f := gate.Forwarded{Via: "n2", Command: "change_object", Object: "tenants/acme", Correlation: id, Claims: "i/governor/mallory"}
	base := audit.Record{Seq: 1, Node: "test", Class: audit.Data, Phase: audit.Whole, Act: "node.forward", Correlation: id, Object: "tenants/acme", Via: "n2", LatencyUs: 5}
	for name, c := range map[string]struct {
		who  auth.Principal
		ours gate.Ours
		err  error
		want audit.Record
	}{
		"done": {gov, gate.NotOurs, nil, audit.Record{Outcome: errs.OutcomeOK, Principal: gov.String(), Role: "governor", Cause: "change_object"}},
		"refused by the state": {gov, gate.NotOurs, errs.New(errs.FailedState, "it is suspended"), audit.Record{
			Outcome: errs.OutcomeRefused, Code: errs.FailedState, Principal: gov.String(), Role: "governor", Cause: "change_object: it is suspended",
		}},
		"nobody": {auth.Principal{}, gate.NotOurs, errs.New(errs.Unauthenticated, "shows nothing", errs.Cause(errors.New("inside"))), audit.Record{
			Outcome: errs.OutcomeDenied, Code: errs.Unauthenticated, Principal: "unauthenticated", Cause: "change_object: shows nothing; the node says that it acts for i/governor/mallory: inside",
		}},
		"the node's own": {auth.Principal{}, gate.OfTheNode, nil, audit.Record{Outcome: errs.OutcomeOK, Principal: "node/n2", Cause: "change_object"}},
	} {
		h := newHarness(t, gate.RolePolicy{})
		if err := h.gate.Forward(f, func() (auth.Principal, gate.Ours, error) {
			h.clock.Advance(5 * time.Microsecond)
			return c.who, c.ours, c.err
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := base
		want.Outcome, want.Code, want.Principal, want.Role, want.Cause = c.want.Outcome, c.want.Code, c.want.Principal, c.want.Role, c.want.Cause
		if diff := cmp.Diff([]audit.Record{want}, h.sink.Records()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestI2_NothingIsForwardedWithoutARecord: before the trail fails nothing is lost, and
// after that nothing begins.
func TestI2_NothingIsForwardedWithoutARecord(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want errs.Code
	}{
		"it was done":         {nil, errs.Indeterminate},
		"it may be done":      {errs.New(errs.Indeterminate, "lost"), errs.Indeterminate},
		"it was refused":      {errs.New(errs.Denied, "no"), errs.AuditUnavailable},
		"nobody was accepted": {errs.New(errs.Unauthenticated, "no"), errs.AuditUnavailable},
	} {
		h := newHarness(t, gate.RolePolicy{})
		ran := 0
		forward := func() error {
			return h.gate.Forward(gate.Forwarded{Via: "n2", Object: "cluster", Correlation: id}, func() (auth.Principal, gate.Ours, error) {
				ran++
				h.sink.FailAfter(0)
				return principal(auth.RoleGovernor), gate.NotOurs, c.err
			})
		}
		if err := forward(); !errs.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if err := forward(); !errs.Is(err, errs.AuditUnavailable) || ran != 1 {
			t.Errorf("%s: after that: %v, ran %d times", name, err, ran)
		}
	}
}

func TestAPanicInWhatIsForwardedIsRecorded(t *testing.T) {
	t.Parallel()
	h := newHarness(t, gate.RolePolicy{})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = h.gate.Forward(gate.Forwarded{Via: "n2", Object: "cluster", Correlation: id}, func() (auth.Principal, gate.Ours, error) { panic("boom") })
	}()
	if r := h.sink.Records(); len(r) != 1 || r[0].Outcome != errs.OutcomeFailed || r[0].Via != "n2" {
		t.Errorf("records %+v", r)
	}
}
