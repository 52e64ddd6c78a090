package node_test

import (
	"context"
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
)

// pausing is a clock on which time passes in pauses only.
type pausing struct {
	*clock.Fake

	in atomic.Pointer[func()] // each pause, also of what the node does by itself; nil: nothing
}

func (p *pausing) each(do func()) { p.in.Store(&do) }

// Sleep implements [clock.Clock].
func (p *pausing) Sleep(ctx context.Context, d time.Duration) error {
	if in := p.in.Load(); in != nil {
		(*in)()
	}
	p.Advance(d)
	return ctx.Err()
}

// TestWhoIsRevokedGetsNoOtherCertificate from a node that is behind: what it would
// sign lives on under a serial number that nobody revoked.
func TestWhoIsRevokedGetsNoOtherCertificate(t *testing.T) {
	clk := &pausing{Fake: clock.NewFake(start)}
	w, m := cluster1(t, withClock(clk))
	serial := "serial of a thief"
	issue := func() error {
		ctx := corr.With(t.Context(), must[corr.ID](t)(corr.New(rand.Reader)))
		req := gate.Request{Principal: m.governor(), Serial: serial, Act: gate.IssueCertificate, Object: node.ObjectCluster}
		return m.gate.Do(ctx, req, func(tok gate.Token) error {
			_, _, err := m.IssueCaller(ctx, tok, w.request(), node.Caller{Role: auth.RoleGovernor, Name: "thief", PublicKey: m.spki()}, 0)
			return err
		})
	}
	check(t, issue())

	m.behind.Store(true)
	w.commit(&fsmpb.Command{Format: fsm.CommandFormat, Principal: localOperator(), Body: &fsmpb.Command_RevokeCertificate{RevokeCertificate: &fsmpb.RevokeCertificate{
		Revocation: &fsmpb.Revocation{Serial: []byte(serial), ExpireTimeMs: clk.Now().Add(time.Hour).UnixMilli()},
	}}})
	m.contact.Store(int64(leaseSpan / 2))
	var pauses atomic.Int32
	clk.each(func() {
		if pauses.Add(1) == 3 {
			m.follow()
		}
	})
	wants(t, issue(), errs.Unauthenticated)
	if pauses.Load() < 3 {
		t.Errorf("it waited %d times", pauses.Load())
	}

	// One that does not hear its leader again does not sign either.
	serial = "another one"
	check(t, issue())
	clk.each(func() { m.contact.Store(int64(leaseSpan + 1)) })
	wants(t, issue(), errs.NotServing)
}

// TestANodeThatDiffersSaysSo instead of asking for a leader that it hears.
func TestANodeThatDiffersSaysSo(t *testing.T) {
	_, m := cluster1(t)
	issue := func() error {
		return m.do(m.governor(), gate.IssueCertificate, node.ObjectCluster, func(ctx context.Context, tok gate.Token) error {
			_, _, err := m.IssueCaller(ctx, tok, m.w.request(), node.Caller{Role: auth.RoleAuditor, Name: "a", PublicKey: m.spki()}, 0)
			return err
		})
	}
	check(t, issue())
	m.contact.Store(int64(leaseSpan + 1))
	wants(t, issue(), errs.NotServing)
	m.differs = errs.New(errs.StateCorrupt, "the state of this node differs")
	wants(t, issue(), errs.StateCorrupt)
}

// TestI3_ARevocationOvertakesWhatItsHolderAskedFor, however long the door is behind.
func TestI3_ARevocationOvertakesWhatItsHolderAskedFor(t *testing.T) {
	w, m := cluster1(t)
	at, serial := target("acme", "pay"), "serial of a thief"
	ct, _, err := m.encrypt(at, []byte("x"))
	check(t, err)
	decrypt := func() (out []byte, err error) {
		ctx := corr.With(t.Context(), must[corr.ID](t)(corr.New(rand.Reader)))
		req := gate.Request{Principal: m.workload("acme"), Serial: serial, Act: gate.Decrypt, Object: at.Name()}
		err = m.gate.Do(ctx, req, func(tok gate.Token) error {
			var err error
			out, _, err = m.Decrypt(ctx, tok, at, ct)
			return err
		})
		return out, err
	}
	if out, err := decrypt(); err != nil || string(out) != "x" {
		t.Fatalf("%q, %v", out, err)
	}
	w.commit(&fsmpb.Command{Format: fsm.CommandFormat, Principal: localOperator(), Body: &fsmpb.Command_RevokeCertificate{RevokeCertificate: &fsmpb.RevokeCertificate{
		Revocation: &fsmpb.Revocation{Serial: []byte(serial), ExpireTimeMs: w.clock.Now().Add(time.Hour).UnixMilli()},
	}}})
	m.incomplete.Store(m.machine.View().Index())
	_, err = decrypt()
	wants(t, err, errs.ChangeInProgress)
	m.incomplete.Store(0)
	out, err := decrypt()
	wants(t, err, errs.Unauthenticated)
	if len(out) != 0 {
		t.Errorf("%q leaves", out)
	}
	if _, _, err := m.decrypt(at, ct); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// TestI3_WhoLosesTheRoleLosesWhatWasAskedFor, however long the door is behind: what a
// workload asked for ends with its role binding.
func TestI3_WhoLosesTheRoleLosesWhatWasAskedFor(t *testing.T) {
	w, m := cluster1(t)
	at, app := target("acme", "pay"), m.workload("acme")
	ct, _, err := m.encrypt(at, []byte("x"))
	check(t, err)
	known := m.machine.View().AuthorityAt()
	decrypt := func() (out []byte, err error) {
		ctx := corr.With(t.Context(), must[corr.ID](t)(corr.New(rand.Reader)))
		req := gate.Request{Principal: app, Authority: known, Act: gate.Decrypt, Object: at.Name()}
		err = m.gate.Do(ctx, req, func(tok gate.Token) error {
			var err error
			out, _, err = m.Decrypt(ctx, tok, at, ct)
			return err
		})
		return out, err
	}
	if out, err := decrypt(); err != nil || string(out) != "x" {
		t.Fatalf("%q, %v", out, err)
	}
	b, gov := m.boundAs(app), m.governor()
	by := &fsmpb.Principal{Issuer: gov.Issuer.String(), Kind: gov.Role.String(), Name: gov.Name}
	w.commit(&fsmpb.Command{Format: fsm.CommandFormat, Principal: by, Body: &fsmpb.Command_UnbindRole{UnbindRole: &fsmpb.UnbindRole{Tenant: b.GetTenant(), Id: b.GetId()}}})
	m.incomplete.Store(m.machine.View().Index())
	_, err = decrypt()
	wants(t, err, errs.ChangeInProgress)
	m.incomplete.Store(0)
	out, err := decrypt()
	wants(t, err, errs.Unauthenticated)
	if len(out) != 0 {
		t.Errorf("%q leaves", out)
	}
}
