package fsm_test

import (
	"fmt"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// Small pools make collisions, and collisions make the interesting cases.

func draw[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

func drawTenant(t *rapid.T) string { return draw(t, "tenant", "a", "a", "b") }

func drawService(t *rapid.T) string { return draw(t, "service", "x", "y") }

// drawNumber draws a version number that mostly exists.
func (w *world) drawNumber(t *rapid.T, tenant, service string) uint32 {
	vs, _ := w.view().InternalKeys()
	if tn, ok := w.view().Tenant(tenant); ok {
		vs = tn.GetVersions()
	}
	if s, ok := w.view().Service(tenant, service); ok {
		vs = s.GetVersions()
	}
	n := len(vs)
	return draw(t, "number", uint32(n), uint32(n), uint32(max(n-1, 0)), uint32(max(n-2, 0)), 1, uint32(n+1))
}

// kinds holds every kind of command as often as it is to be drawn.
var kinds = []string{
	"tenant", "service", "service", "add", "add", "add", "primary", "primary", "primary", "rollback", "version", "version", "version",
	"object", "destroy", "pin", "pin", "unpin", "unpin back", "ivk", "rewrap", "rewrap", "secret", "token", "join", "member", "revoke", "revoke", "hold", "epoch", "tick", "tick",
	"authority", "authority", "authority", "authority", "authority", "authority", "policy", "policy",
}

// drawCommand draws a command that is well formed and may or may not be
// possible in the state of w.
func (w *world) drawCommand(t *rapid.T) *fsmpb.Command {
	tenant, service := drawTenant(t), drawService(t)
	_, haveTenant := w.view().Tenant(tenant)
	_, haveService := w.view().Service(tenant, service)
	var cmd *fsmpb.Command
	kind := draw(t, "kind", kinds...)
	if !haveTenant && kind != "tick" && kind != "revoke" && kind != "hold" && kind != "epoch" {
		kind = "tenant"
	}
	of := service
	switch kind {
	case "add", "primary", "rollback", "object", "version":
		of = draw(t, "of", service, service, service, "")
	}
	if !haveService && of != "" && (kind == "add" || kind == "primary" || kind == "rollback") {
		kind = "service"
	}
	switch kind {
	case "tenant":
		cmd = w.createTenant(tenant)
	case "service":
		cmd = w.createService(tenant, service)
	case "add":
		cmd = w.addVersion(tenant, of)
	case "primary", "rollback":
		cmd = w.setPrimary(tenant, of, w.drawNumber(t, tenant, of), kind == "rollback")
	case "version":
		e := fsmpb.VersionEvent(rapid.Int32Range(0, 6).Draw(t, "event"))
		if draw(t, "ivk", 0, 0, 0, 1) == 1 {
			tenant, of = "", ""
		}
		cmd = changeVersion(tenant, of, w.drawNumber(t, tenant, of), e)
		cmd.GetChangeVersion().Now = draw(t, "now", false, false, true)
	case "object":
		e := fsmpb.ObjectEvent(rapid.Int32Range(0, 4).Draw(t, "event"))
		cmd = changeObject(tenant, of, e, draw(t, "cause", "", "operator", "l1_denied", "unlink"))
		cmd.GetChangeObject().Now = draw(t, "now", false, false, true)
	case "destroy":
		cmd = destroyNow(tenant, draw(t, "of", service, ""))
	case "pin":
		cmd = pin(tenant, service, draw(t, "resource", "r", "q"), w.drawNumber(t, tenant, service))
	case "unpin":
		cmd = unpin(tenant, service, draw(t, "resource", "r", "q"))
	case "unpin back":
		cmd = rollbackPin(tenant, service, draw(t, "resource", "r", "q"))
	case "ivk":
		cmd = w.addIVK()
	case "rewrap":
		cmd = w.rewrap(tenant)
	case "secret":
		cmd = w.putSecret(draw(t, "secret", "node-ca", "caller-ca", "s"))
		if draw(t, "swap", false, false, true) {
			cmd.GetPutSecret().GetSecret().Public = []byte(draw(t, "public", "", "certificate", "another"))
		}
	case "token":
		cmd = w.token(rapid.IntRange(0, 3).Draw(t, "token"), rapid.Bool().Draw(t, "voter"))
	case "join":
		m := node(rapid.IntRange(0, 3).Draw(t, "node"))
		m.Voter = rapid.Bool().Draw(t, "voter")
		cmd = w.join(rapid.IntRange(0, 3).Draw(t, "token"), m)
	case "member":
		n := rapid.IntRange(0, 3).Draw(t, "node")
		cmd = draw(t, "member", remove(n), purge(n), update(n, []string{"zone", "voter"}, &fsmpb.Member{Zone: "b", Voter: rapid.Bool().Draw(t, "voter")}))
	case "revoke":
		cmd = w.revoke(rapid.IntRange(0, 5).Draw(t, "certificate"))
		c := cmd.GetRevokeCertificate()
		c.Revocation.ExpireTimeMs = w.now + draw(t, "left", dayMS, dayMS, 1, 0, fsm.MaxRevocationLifeMS, fsm.MaxRevocationLifeMS+dayMS)
		if n := rapid.IntRange(0, 6).Draw(t, "by"); n < 6 {
			cmd.CallerSerial = serialOf(n)
		}
	case "hold":
		cmd = hold(rapid.Bool().Draw(t, "held"))
	case "authority":
		cmd = w.drawAuthority(t, tenant)
	case "policy":
		cmd = w.drawPolicy(t, tenant)
	case "epoch":
		cmd = begin(rapid.IntRange(0, 3).Draw(t, "node"))
	default:
		cmd = tick()
	}
	w.drawCaller(t, cmd)
	if rapid.IntRange(0, 3).Draw(t, "asked") == 0 && (whoAsks(cmd) != nil || draw(t, "of the leader", true, false, false)) {
		cmd = asked(fmt.Sprintf("r%d", rapid.IntRange(0, 20).Draw(t, "request")), cmd)
	}
	if rapid.IntRange(0, 4).Draw(t, "time") == 0 {
		w.now += draw(t, "later", 1, hourMS, hourMS, dayMS, destroyW)
	}
	return cmd
}
