package fsm_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	suspend  = fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND
	resume   = fsmpb.ObjectEvent_OBJECT_EVENT_RESUME
	schedule = fsmpb.ObjectEvent_OBJECT_EVENT_SCHEDULE_DESTROY
	cancel   = fsmpb.ObjectEvent_OBJECT_EVENT_CANCEL_DESTROY

	active     = fsmpb.VersionState_VERSION_STATE_ACTIVE
	preActive  = fsmpb.VersionState_VERSION_STATE_PRE_ACTIVE
	deprecated = fsmpb.VersionState_VERSION_STATE_DEPRECATED
	disabled   = fsmpb.VersionState_VERSION_STATE_DISABLED
	scheduled  = fsmpb.VersionState_VERSION_STATE_DESTROY_SCHEDULED
	destroyed  = fsmpb.VersionState_VERSION_STATE_DESTROYED
)

// acme is a world with tenant acme and service payments.
func acme(t tb, change ...func(*fsmpb.Genesis)) *world {
	t.Helper()
	w := newWorld(t, change...)
	w.ok(w.createTenant("acme"))
	w.ok(w.createService("acme", "payments"))
	return w
}

func (w *world) states(tenant, service string) (states []fsmpb.VersionState) {
	w.tb.Helper()
	vs := w.tenantOf(tenant).GetVersions()
	if service != "" {
		vs = w.serviceOf(tenant, service).GetVersions()
	}
	for _, v := range vs {
		states = append(states, v.GetState())
	}
	return states
}

func (w *world) wantStates(tenant, service string, want ...fsmpb.VersionState) {
	w.tb.Helper()
	if got := w.states(tenant, service); !slices.Equal(got, want) {
		w.tb.Fatalf("states of %s %s: %v, want %v", tenant, service, got, want)
	}
}

func TestCreatedObjectsAreWhatTheCommandSays(t *testing.T) {
	w := newWorld(t)
	cmd := w.createTenant("acme")
	res := w.ok(cmd)
	c, tn := cmd.GetCreateTenant(), w.tenantOf("acme")
	if res.GetObject() != "tenants/acme" || !bytes.Equal(res.GetUid(), c.GetUid()) || res.GetIndex() != 2 || res.GetVersion() != 1 {
		t.Errorf("result %v", res)
	}
	if tn.GetModIndex() != 2 || tn.GetPrimary() != 1 || tn.GetCreateTimeMs() != startMS || tn.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
		t.Errorf("tenant %v", tn)
	}
	v := tn.GetVersions()[0]
	if v.GetState() != active || !bytes.Equal(v.GetBlob(), c.GetVersion().GetBlob()) || !bytes.Equal(v.GetParentUid(), tn.GetL2Uid()) || v.GetModIndex() != 2 {
		t.Errorf("version %v", v)
	}
	if byUID, ok := w.view().TenantByUID(c.GetUid()); !ok || byUID != tn {
		t.Error("the tenant is not found by its uid")
	}
	w.ok(w.createService("acme", "payments"))
	s := w.serviceOf("acme", "payments")
	own, ok := w.view().Version(s.GetVersions()[0].GetUid())
	if !ok || own.Layer != hierarchy.LayerL3 || own.Tenant != tn || own.Service != s || own.Version != s.GetVersions()[0] {
		t.Errorf("owner of the service's version: %+v, %v", own, ok)
	}
	own, ok = w.view().Version(v.GetUid())
	if !ok || own.Layer != hierarchy.LayerL21 || own.Tenant != tn || own.Service != nil || own.Version != v {
		t.Errorf("owner of the tenant's version: %+v, %v", own, ok)
	}
	own, ok = w.view().Version(w.ivk().GetUid())
	if !ok || own.Layer != hierarchy.LayerIVK || own.Version != w.ivk() {
		t.Errorf("owner of the internal key version: %+v, %v", own, ok)
	}
	for _, uid := range [][]byte{tn.GetUid(), tn.GetL2Uid(), s.GetUid(), make([]byte, 16), nil} {
		if own, ok := w.view().Version(uid); ok {
			t.Errorf("uid %x is a version: %+v", uid, own)
		}
	}
}

func TestWhatApplySetsIsNotTakenFromTheCommand(t *testing.T) {
	w := newWorld(t)
	cmd := w.createTenant("acme")
	v := cmd.GetCreateTenant().GetVersion()
	v.State, v.ModIndex, v.CreateTimeMs, v.Pins, v.EverCompromised, v.SupersededTimeMs = destroyed, 99, 99, 99, true, 99
	w.ok(cmd)
	got := w.tenantOf("acme").GetVersions()[0]
	if got.GetState() != active || got.GetModIndex() != 2 || got.GetCreateTimeMs() != startMS || got.GetPins() != 0 || got.GetEverCompromised() || got.GetSupersededTimeMs() != 0 {
		t.Errorf("version %v", got)
	}
}

func TestObjectsThatAreNotSoundAreRefused(t *testing.T) {
	tenant := func(f func(*fsmpb.CreateTenant)) func(*world) *fsmpb.Command {
		return func(w *world) *fsmpb.Command { c := w.createTenant("new"); f(c.GetCreateTenant()); return c }
	}
	service := func(f func(*fsmpb.CreateService)) func(*world) *fsmpb.Command {
		return func(w *world) *fsmpb.Command {
			c := w.createService("acme", "new")
			f(c.GetCreateService())
			return c
		}
	}
	version := func(f func(*fsmpb.AddVersion)) func(*world) *fsmpb.Command {
		return func(w *world) *fsmpb.Command {
			c := w.addVersion("acme", "payments")
			f(c.GetAddVersion())
			return c
		}
	}
	other := bytes.Repeat([]byte{7}, 16)
	for name, tc := range map[string]struct {
		code errs.Code
		cmd  func(*world) *fsmpb.Command
	}{
		"tenant name":            {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Name = "Acme" })},
		"tenant exists":          {errs.AlreadyExists, tenant(func(c *fsmpb.CreateTenant) { c.Name = "acme" })},
		"no binding":             {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Binding = nil })},
		"unknown archetype":      {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Binding.Archetype = "none" })},
		"no L2 blob":             {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.L2Blob = nil })},
		"L2 blob too large":      {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.L2Blob = make([]byte, fsm.MaxBlobBytes+1) })},
		"short uid":              {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Uid = c.GetUid()[:15] })},
		"zero uid":               {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Uid = make([]byte, 16) })},
		"one uid for two things": {errs.Aborted, tenant(func(c *fsmpb.CreateTenant) { c.Uid = c.GetL2Uid() })},
		"internal key moved":     {errs.Aborted, tenant(func(c *fsmpb.CreateTenant) { c.L2IvkUid = other })},
		"L2 is not the parent":   {errs.Aborted, tenant(func(c *fsmpb.CreateTenant) { c.Version.ParentUid = other })},
		"no version":             {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Version = nil })},
		"first version is 2":     {errs.Aborted, tenant(func(c *fsmpb.CreateTenant) { c.Version.Number = 2 })},
		"version blob too large": {errs.InvalidArgument, tenant(func(c *fsmpb.CreateTenant) { c.Version.Blob = make([]byte, fsm.MaxVersionBytes+1) })},
		"service name":           {errs.InvalidArgument, service(func(c *fsmpb.CreateService) { c.Name = "-" })},
		"service exists":         {errs.AlreadyExists, service(func(c *fsmpb.CreateService) { c.Name = "payments" })},
		"no such tenant":         {errs.NotFound, service(func(c *fsmpb.CreateService) { c.Tenant = "nobody" })},
		"no tenant":              {errs.InvalidArgument, service(func(c *fsmpb.CreateService) { c.Tenant = "" })},
		"tenant moved":           {errs.Aborted, service(func(c *fsmpb.CreateService) { c.TenantUid = other })},
		"tenant key moved":       {errs.Aborted, service(func(c *fsmpb.CreateService) { c.Version.ParentUid = other })},
		"service moved":          {errs.Aborted, version(func(c *fsmpb.AddVersion) { c.ObjectUid = other })},
		"version under another":  {errs.Aborted, version(func(c *fsmpb.AddVersion) { c.Version.ParentUid = other })},
		"version number taken":   {errs.Aborted, version(func(c *fsmpb.AddVersion) { c.Version.Number = 1 })},
		"version number skipped": {errs.Aborted, version(func(c *fsmpb.AddVersion) { c.Version.Number = 3 })},
		"version etag":           {errs.StaleEtag, version(func(c *fsmpb.AddVersion) { c.Etag = 1 })},
		"version of nothing":     {errs.InvalidArgument, version(func(c *fsmpb.AddVersion) { c.Object = nil })},
		"service without tenant": {errs.InvalidArgument, func(*world) *fsmpb.Command {
			return changeVersion("", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE)
		}},
		"no such version": {errs.NotFound, func(*world) *fsmpb.Command {
			return changeVersion("acme", "payments", 9, fsmpb.VersionEvent_VERSION_EVENT_DISABLE)
		}},
		"no version event": {errs.InvalidArgument, func(*world) *fsmpb.Command { return changeVersion("acme", "payments", 1, 0) }},
		"no object event":  {errs.InvalidArgument, func(*world) *fsmpb.Command { return changeObject("acme", "", 0, "") }},
		"unknown cause":    {errs.InvalidArgument, func(*world) *fsmpb.Command { return changeObject("acme", "", suspend, "weather") }},
		"enable what is on": {errs.FailedState, func(*world) *fsmpb.Command {
			return changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_ENABLE)
		}},
		"rewrap to nothing":     {errs.Aborted, func(w *world) *fsmpb.Command { c := w.rewrap("acme"); c.GetRewrapTenant().ToIvkUid = other; return c }},
		"rewrap from another":   {errs.Aborted, func(w *world) *fsmpb.Command { c := w.rewrap("acme"); c.GetRewrapTenant().FromIvkUid = other; return c }},
		"rewrap another L2":     {errs.Aborted, func(w *world) *fsmpb.Command { c := w.rewrap("acme"); c.GetRewrapTenant().L2Uid = other; return c }},
		"rewrap another tenant": {errs.Aborted, func(w *world) *fsmpb.Command { c := w.rewrap("acme"); c.GetRewrapTenant().TenantUid = other; return c }},
		"secret under nothing": {errs.Aborted, func(w *world) *fsmpb.Command {
			c := w.putSecret("x")
			c.GetPutSecret().GetSecret().IvkUid = other
			return c
		}},
		"secret without a name": {errs.InvalidArgument, func(w *world) *fsmpb.Command { return w.putSecret("") }},
		"no secret":             {errs.InvalidArgument, func(*world) *fsmpb.Command { return &fsmpb.Command{Body: &fsmpb.Command_PutSecret{}} }},
	} {
		t.Run(name, func(t *testing.T) {
			w := acme(t)
			v := w.view()
			w.refused(tc.code, tc.cmd(w))
			// I10: nothing but index, chain and time changed.
			w.ids = 1000
			for _, name := range []string{"new", "x"} {
				if _, ok := w.view().Tenant(name); ok {
					t.Error("a refused tenant is there")
				}
			}
			a, _ := v.Tenant("acme")
			b, _ := w.view().Tenant("acme")
			if a != b {
				t.Error("a refused command changed the tenant")
			}
		})
	}
}

func TestI3_AUIDIsNeverUsedAgain(t *testing.T) {
	w := acme(t)
	old := w.tenantOf("acme")
	uids := [][]byte{
		old.GetUid(), old.GetL2Uid(), old.GetVersions()[0].GetUid(), w.ivk().GetUid(),
		w.serviceOf("acme", "payments").GetUid(), w.serviceOf("acme", "payments").GetVersions()[0].GetUid(),
	}
	w.ok(destroyNow("acme", ""))
	w.ok(tick())
	for _, uid := range uids {
		c := w.createTenant("acme")
		c.GetCreateTenant().Uid = uid
		w.refused(errs.Aborted, c)
		c = w.createTenant("acme")
		c.GetCreateTenant().GetVersion().Uid = uid
		w.refused(errs.Aborted, c)
	}
	w.ok(w.createTenant("acme"))
}

func TestANameOfADestroyedObjectMayBeUsedAgain(t *testing.T) {
	w := acme(t)
	old, oldService := w.tenantOf("acme"), w.serviceOf("acme", "payments")
	w.refused(errs.AlreadyExists, w.createTenant("acme"))
	w.ok(destroyNow("acme", "payments"))
	w.ok(w.createService("acme", "payments"))
	if s, ok := w.view().ServiceByUID(oldService.GetUid()); !ok || s.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		t.Errorf("the destroyed service by its uid: %v, %v", s, ok)
	}
	w.ok(destroyNow("acme", ""))
	w.ok(w.createTenant("acme"))
	fresh := w.tenantOf("acme")
	if bytes.Equal(fresh.GetUid(), old.GetUid()) {
		t.Fatal("the new tenant has the old uid")
	}
	tomb, ok := w.view().TenantByUID(old.GetUid())
	if !ok || tomb.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		t.Errorf("the destroyed tenant by its uid: %v, %v", tomb, ok)
	}
	if _, ok := w.view().Service("acme", "payments"); ok {
		t.Error("the new tenant has the old tenant's service")
	}
	if own, ok := w.view().Version(oldService.GetVersions()[0].GetUid()); !ok || own.Version.GetState() != destroyed {
		t.Errorf("the old service's version: %+v, %v", own, ok)
	}
	if got := len(w.view().Tenants("", 10)); got != 1 {
		t.Errorf("%d tenants are listed, want 1", got)
	}
	w.ok(tick())
	w.ok(tick())
	if s, _ := w.view().ServiceByUID(oldService.GetUid()); s.GetVersions()[0].GetBlob() != nil {
		t.Error("the old service has material")
	}
}

func TestSuspensionsEndByTheirOwnCause(t *testing.T) {
	w := acme(t)
	w.ok(changeObject("acme", "", suspend, ""))
	w.refused(errs.FailedState, changeObject("acme", "", suspend, "operator"))
	w.ok(changeObject("acme", "", suspend, "l1_denied"))
	if got := w.tenantOf("acme").GetSuspendCauses(); !slices.Equal(got, []string{"operator", "l1_denied"}) {
		t.Errorf("causes %v", got)
	}
	w.refused(errs.FailedState, w.createService("acme", "other"))
	w.refused(errs.FailedState, w.addVersion("acme", "payments"))
	w.ok(changeObject("acme", "", resume, "operator"))
	w.refused(errs.FailedState, changeObject("acme", "", resume, "operator"))
	if got := w.tenantOf("acme").GetState(); got != fsmpb.ObjectState_OBJECT_STATE_SUSPENDED {
		t.Errorf("state %v while a cause is left", got)
	}
	w.ok(changeObject("acme", "", resume, "l1_denied"))
	if got := w.tenantOf("acme"); got.GetState() != fsmpb.ObjectState_OBJECT_STATE_ACTIVE || got.GetModIndex() != w.index {
		t.Errorf("tenant %v", got)
	}
	w.ok(w.createService("acme", "other"))
	w.ok(changeObject("acme", "payments", suspend, ""))
	w.refused(errs.FailedState, w.addVersion("acme", "payments"))
}

func TestEtagsAreComparedAndZeroMeansAny(t *testing.T) {
	w := acme(t)
	c := changeObject("acme", "payments", suspend, "")
	c.GetChangeObject().Etag = w.serviceOf("acme", "payments").GetModIndex() + 1
	w.refused(errs.StaleEtag, c)
	c.GetChangeObject().Etag--
	w.ok(c)
	v := changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE)
	v.GetChangeVersion().Etag = 1
	w.refused(errs.StaleEtag, v)
	// The version has an etag of its own: the service's changed, the version's did not.
	v.GetChangeVersion().Etag = w.serviceOf("acme", "payments").GetVersions()[0].GetModIndex()
	w.ok(v)
	p := w.setPrimary("acme", "", 1, false)
	p.GetSetPrimary().Etag = 1
	w.refused(errs.StaleEtag, p)
	pn := pin("acme", "payments", "r", 1)
	pn.GetPinResource().Etag = 1
	w.refused(errs.StaleEtag, pn)
}

func TestRotationIsTwoStepsAndKeepsTheOldVersion(t *testing.T) {
	for _, service := range []string{"", "payments"} {
		t.Run("service "+service, func(t *testing.T) {
			w := acme(t)
			w.ok(w.addVersion("acme", service))
			w.wantStates("acme", service, active, preActive)
			stale := w.addVersion("acme", service)
			w.ok(w.setPrimary("acme", service, 2, false))
			w.wantStates("acme", service, active, active)
			w.refused(errs.FailedState, w.setPrimary("acme", service, 2, false))
			w.refused(errs.NotFound, w.setPrimary("acme", service, 9, false))
			w.ok(stale) // was prepared for number 3, and that is still next
			w.now += dayMS - 1
			w.ok(tick())
			w.wantStates("acme", service, active, active, preActive)
			w.now++
			w.ok(tick())
			w.wantStates("acme", service, deprecated, active, preActive)
		})
	}
}

func TestRollbackMovesThePointerBackInsideTheWindow(t *testing.T) {
	w := acme(t)
	w.rotate("acme", "payments")
	w.ok(w.setPrimary("acme", "payments", 1, true))
	s := w.serviceOf("acme", "payments")
	if s.GetPrimary() != 1 || !s.GetRotationPaused() || s.GetVersions()[0].GetSupersededTimeMs() != 0 {
		t.Errorf("service %v", s)
	}
	// The schedule is paused; a person's rotation ends the pause.
	w.ok(w.addVersion("acme", "payments"))
	byItself := w.setPrimary("acme", "payments", 3, false)
	byItself.Principal = &fsmpb.Principal{}
	w.refused(errs.FailedState, byItself)
	w.ok(w.setPrimary("acme", "payments", 3, false))
	if w.serviceOf("acme", "payments").GetRotationPaused() {
		t.Error("a person's rotation did not end the pause")
	}
	w.now += dayMS
	w.refused(errs.FailedState, w.setPrimary("acme", "payments", 1, true))
	w.ok(tick())
	w.refused(errs.FailedState, w.setPrimary("acme", "payments", 1, true))
}

func TestI7_DestructionWaitsAndTakesTheMaterial(t *testing.T) {
	w := acme(t)
	w.rotate("acme", "payments")
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	w.wantStates("acme", "payments", scheduled, active)
	if due, ok := w.view().NextDue(); !ok || due > w.now+destroyW {
		t.Errorf("next due %d, %v", due, ok)
	}
	w.now += destroyW - 1
	w.ok(tick())
	w.wantStates("acme", "payments", scheduled, active)
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY))
	w.wantStates("acme", "payments", disabled, active)
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	w.now += destroyW
	w.ok(tick())
	w.wantStates("acme", "payments", destroyed, active)
	v := w.serviceOf("acme", "payments").GetVersions()[0]
	if len(v.GetBlob()) != 0 || v.GetDestroyTimeMs() != w.now || v.GetModIndex() != w.index || len(v.GetUid()) != 16 {
		t.Errorf("tombstone %v", v)
	}
	now := changeVersion("acme", "payments", 2, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY)
	now.GetChangeVersion().Now = true
	w.ok(now)
	w.wantStates("acme", "payments", destroyed, destroyed)
	w.ok(w.addVersion("acme", "payments"))
}

func TestAScheduledTenantComesBackSuspendedOrGoes(t *testing.T) {
	w := acme(t)
	w.ok(changeObject("acme", "", schedule, ""))
	w.refused(errs.FailedState, w.createService("acme", "other"))
	w.refused(errs.FailedState, w.addVersion("acme", ""))
	w.ok(changeObject("acme", "", cancel, ""))
	if got := w.tenantOf("acme"); got.GetState() != fsmpb.ObjectState_OBJECT_STATE_SUSPENDED || got.GetDestroyTimeMs() != 0 {
		t.Errorf("tenant %v", got)
	}
	w.ok(changeObject("acme", "", schedule, ""))
	w.now += destroyW
	w.ok(tick())
	tn := w.tenantOf("acme")
	if tn.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED || len(tn.GetL2Blob()) != 0 || len(tn.GetVersions()[0].GetBlob()) != 0 {
		t.Errorf("tenant %v", tn)
	}
	for _, c := range []*fsmpb.Command{
		changeObject("acme", "", cancel, ""), changeObject("acme", "payments", suspend, ""), w.addVersion("acme", ""),
		w.addVersion("acme", "payments"), w.setPrimary("acme", "payments", 1, true), w.rewrap("acme"),
		changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE), pin("acme", "payments", "r", 1),
	} {
		w.refused(errs.FailedState, c)
	}
}

func TestWithoutAWaitDestructionIsAtOnce(t *testing.T) {
	w := acme(t, func(g *fsmpb.Genesis) { g.Settings.DestroyWaitMs = 0 })
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	w.wantStates("acme", "payments", destroyed)
	w.ok(changeObject("acme", "", schedule, ""))
	if got := w.tenantOf("acme").GetState(); got != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		t.Errorf("state %v", got)
	}
}

func TestI14_DestroyedTenantsAreReapedInBoundedTicks(t *testing.T) {
	w := newWorld(t)
	w.ok(w.createTenant("acme"))
	const services = 2*fsm.MaxTickObjects + 7
	for i := range services {
		w.ok(w.createService("acme", fmt.Sprintf("s%d", i)))
	}
	w.ok(pin("acme", "s0", "r", 1))
	w.ok(destroyNow("acme", ""))
	left := func() (n int) {
		for _, s := range w.view().Services(w.tenantOf("acme"), "", services) {
			if s.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
				n++
			}
		}
		return n
	}
	if got := left(); got != services {
		t.Errorf("%d services are left after the destruction itself, want all %d", got, services)
	}
	ticks := 0
	for before := services; ; ticks++ {
		if _, due := w.view().NextDue(); !due {
			break
		}
		w.ok(tick())
		now := left()
		if before-now > fsm.MaxTickObjects {
			t.Fatalf("one tick destroyed %d services", before-now)
		}
		before = now
		if ticks > 5 {
			t.Fatal("ticks do not come to an end")
		}
	}
	if left() != 0 || ticks != 3 {
		t.Errorf("%d services left after %d ticks", left(), ticks)
	}
	if _, ok := w.view().Resource(w.serviceOf("acme", "s0"), "r"); ok {
		t.Error("a pinned resource outlived its service")
	}
}

func TestPinsFixAVersionAndKeepItActive(t *testing.T) {
	w := acme(t)
	w.rotate("acme", "payments")
	before := w.serviceOf("acme", "payments").GetModIndex()
	res := w.ok(pin("acme", "payments", "table/a b", 1))
	if res.GetObject() != "tenants/acme/services/payments/resources/table%2Fa%20b" || res.GetVersion() != 1 {
		t.Errorf("result %v", res)
	}
	s := w.serviceOf("acme", "payments")
	r, ok := w.view().Resource(s, "table/a b")
	if !ok || r.GetVersion() != 1 || r.GetModIndex() != w.index || s.GetModIndex() != before {
		t.Errorf("resource %v, %v; service index %d", r, ok, s.GetModIndex())
	}
	if v := s.GetVersions()[0]; v.GetPins() != 1 || v.GetModIndex() >= w.index {
		t.Errorf("the pinned version %v: its etag must not move with a pin", v)
	}
	w.refused(errs.FailedState, pin("acme", "payments", "table/a b", 1))
	w.refused(errs.NotFound, pin("acme", "payments", "table/a b", 9))
	w.refused(errs.InvalidArgument, pin("acme", "payments", "", 1))
	w.refused(errs.InvalidArgument, pin("acme", "payments", "..", 1))
	w.refused(errs.InvalidArgument, pin("acme", "", "r", 1))
	w.refused(errs.FailedState, unpin("acme", "payments", "other"))
	w.refused(errs.FailedState, rollbackPin("acme", "payments", "other"))

	w.now += 2 * dayMS
	w.ok(tick())
	w.wantStates("acme", "payments", active, active)
	if _, due := w.view().NextDue(); due {
		t.Error("a pinned version is due for ever")
	}
	w.ok(pin("acme", "payments", "table/a b", 2))
	w.ok(rollbackPin("acme", "payments", "table/a b"))
	if r, _ := w.view().Resource(w.serviceOf("acme", "payments"), "table/a b"); r.GetVersion() != 1 || !slices.Equal(r.GetEarlier(), []uint32{0}) {
		t.Errorf("after the rollback: %v", r)
	}
	w.ok(rollbackPin("acme", "payments", "table/a b"))
	if _, ok := w.view().Resource(w.serviceOf("acme", "payments"), "table/a b"); ok {
		t.Error("the first pin's rollback left it pinned")
	}
	if got := w.serviceOf("acme", "payments").GetModIndex(); got != w.index {
		t.Errorf("the end of the pin left the service at index %d, want %d: no fence covers it", got, w.index)
	}
	w.ok(tick())
	w.wantStates("acme", "payments", active, active)
	w.now += dayMS
	w.ok(tick())
	w.wantStates("acme", "payments", deprecated, active)
}

func TestEarlierPinsAreBounded(t *testing.T) {
	w := acme(t)
	w.rotate("acme", "payments")
	for i := range uint32(2 * fsm.MaxEarlierPins) {
		w.ok(pin("acme", "payments", "r", 1+i%2))
	}
	r, _ := w.view().Resource(w.serviceOf("acme", "payments"), "r")
	if len(r.GetEarlier()) != fsm.MaxEarlierPins {
		t.Fatalf("%d earlier pins", len(r.GetEarlier()))
	}
	for range fsm.MaxEarlierPins {
		w.ok(rollbackPin("acme", "payments", "r"))
	}
	// The beginning was forgotten, so a rollback must not invent one.
	w.refused(errs.FailedState, rollbackPin("acme", "payments", "r"))
	w.ok(unpin("acme", "payments", "r"))
}

func TestI9_AnInternalKeyInUseLosesNoPower(t *testing.T) {
	w := acme(t)
	lose := []fsmpb.VersionEvent{
		fsmpb.VersionEvent_VERSION_EVENT_DISABLE, fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY,
	}
	for _, e := range append(lose, fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE) {
		w.refused(errs.FailedState, changeVersion("", "", 1, e))
	}
	stale := w.createTenant("late")
	old := w.ivk().GetUid()
	w.ok(w.addIVK())
	w.refused(errs.Aborted, stale)
	if got := w.view().TenantsUnder(old, "", 10); len(got) != 1 || got[0].GetName() != "acme" {
		t.Errorf("tenants under the old version: %v", got)
	}
	for _, e := range lose {
		w.refused(errs.FailedState, changeVersion("", "", 1, e))
	}
	before := w.tenantOf("acme").GetModIndex()
	w.ok(w.rewrap("acme"))
	if tn := w.tenantOf("acme"); !bytes.Equal(tn.GetL2IvkUid(), w.ivk().GetUid()) || tn.GetModIndex() != before {
		t.Errorf("after the re-wrap: %v", tn)
	}
	w.refused(errs.FailedState, changeVersion("", "", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY)) // the secret
	w.ok(w.putSecret("node-ca"))
	w.ok(w.putSecret("caller-ca"))
	if w.view().InternalKeyUsed(old) {
		t.Error("the old version is in use after every re-wrap")
	}
	w.now += dayMS
	w.ok(tick())
	if v, _ := w.view().InternalKey(old); v.GetState() != deprecated {
		t.Errorf("after the window: %v", v)
	}
	w.ok(changeVersion("", "", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	w.now += destroyW
	w.ok(tick())
	if v, _ := w.view().InternalKey(old); v.GetState() != destroyed || len(v.GetBlob()) != 0 {
		t.Errorf("after the wait: %v", v)
	}
	if _, due := w.view().NextDue(); due {
		t.Error("something is due for ever")
	}
}

func TestI9_ADestroyedTenantHoldsNoInternalKey(t *testing.T) {
	w := acme(t)
	old := w.ivk().GetUid()
	w.ok(w.addIVK())
	w.ok(w.putSecret("node-ca"))
	w.ok(w.putSecret("caller-ca"))
	if got := w.view().TenantsUnder(old, "", 10); len(got) != 1 {
		t.Errorf("%d tenants under the old version", len(got))
	}
	w.ok(destroyNow("acme", ""))
	if got := w.view().TenantsUnder(old, "", 10); len(got) != 0 || w.view().InternalKeyUsed(old) {
		t.Errorf("%d tenants under the old version after the destruction", len(got))
	}
	w.ok(changeVersion("", "", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE))
}

func TestPagesFollowEachOtherWithoutGapOrRepeat(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("t%02d", i)
		w.ok(w.createTenant(name))
		w.ok(w.createService(name, "s"))
		want = append(want, name)
	}
	for i := range 25 {
		w.ok(w.createService("t10", fmt.Sprintf("s%02d", i)))
		w.ok(pin("t10", "s", fmt.Sprintf("r%02d", i), 1))
	}
	var tenants, services, resources []string
	for after := ""; ; after = tenants[len(tenants)-1] {
		page := w.view().Tenants(after, 7)
		for _, tn := range page {
			tenants = append(tenants, tn.GetName())
		}
		if len(page) < 7 {
			break
		}
	}
	if !slices.Equal(tenants, want) {
		t.Errorf("tenants %v", tenants)
	}
	tn := w.tenantOf("t10")
	for after := ""; ; after = services[len(services)-1] {
		page := w.view().Services(tn, after, 7)
		for _, s := range page {
			services = append(services, s.GetName())
		}
		if len(page) < 7 {
			break
		}
	}
	if len(services) != 26 || !slices.IsSorted(services) {
		t.Errorf("services %v", services)
	}
	s := w.serviceOf("t10", "s")
	for after := ""; ; after = resources[len(resources)-1] {
		page := w.view().Resources(s, after, 7)
		for _, r := range page {
			resources = append(resources, r.GetId())
		}
		if len(page) < 7 {
			break
		}
	}
	if len(resources) != 25 || !slices.IsSorted(resources) {
		t.Errorf("resources %v", resources)
	}
	if got := w.view().Tenants("", 0); got != nil {
		t.Errorf("a page of 0 has %d tenants", len(got))
	}
	under := w.view().TenantsUnder(w.ivk().GetUid(), "t20", 100)
	if len(under) != 4 || under[0].GetName() != "t21" {
		t.Errorf("under the internal key after t20: %d", len(under))
	}
}
