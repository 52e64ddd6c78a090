package fsm_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
)

// The model is a second, deliberately dumb state machine: maps, no tables, no
// indexes, no sharing, written from the documents and not from the code. It
// knows states, pointers, pins and answers, and nothing of how they are kept.

type modelVersion struct {
	state, before string // "pre", "active", "deprecated", "disabled", "compromised", "scheduled", "destroyed"
	compromised   bool
	superseded    int64
	released      int64
	pins          int
	goesAt        int64
}

type modelKey struct {
	uid      []byte
	state    string // "active", "suspended", "scheduled", "destroyed"
	causes   map[string]bool
	goesAt   int64
	versions []*modelVersion
	primary  int
	paused   bool
	ivk      int // of tenants: number of the internal key version above
	services map[string]*modelKey
	pinned   map[string]int
}

type model struct {
	now     int64
	tenants map[string]*modelKey
	ivk     *modelKey
	secrets map[string]int
	publics map[string]string // public parts of secrets, by name
	asked   map[string]string // request id and kind -> answer
	revoked map[string]int64  // serial number of a certificate -> when it expires
	people  modelPeople
	written map[string]map[string]string // policies: uid of the tenant, id, text
	made    func(uid string)             // told of the uid of what the last command made
}

func newKey(uid []byte) *modelKey {
	return &modelKey{
		uid: uid, state: "active", causes: map[string]bool{}, versions: []*modelVersion{{state: "active"}}, primary: 1,
		services: map[string]*modelKey{}, pinned: map[string]int{},
	}
}

func newModel(w *world) *model {
	return &model{
		now: startMS, tenants: map[string]*modelKey{}, ivk: newKey(nil), asked: map[string]string{},
		secrets: map[string]int{"node-ca": 1, "caller-ca": 1}, publics: map[string]string{"node-ca": "certificate", "caller-ca": string(callerCA)}, revoked: map[string]int64{}, written: map[string]map[string]string{}, people: newModelPeople(w),
	}
}

const (
	done     = ""
	notFound = "NOT_FOUND"
	exists   = "ALREADY_EXISTS"
	failed   = "FAILED_STATE"
	badArg   = "INVALID_ARGUMENT"
	denied   = "DENIED"
)

func (m *model) find(tenant, service string) (t, k *modelKey) {
	t = m.tenants[tenant]
	if t == nil || service == "" {
		return t, t
	}
	return t, t.services[service]
}

// serves: unwraps, and so can stand above something new.
func (v *modelVersion) serves() bool { return v.state == "active" || v.state == "deprecated" }

func (m *model) tenantServes(t *modelKey) bool {
	return t.state == "active" && m.ivk.versions[t.ivk-1].serves()
}

func (m *model) windowOver(v *modelVersion) bool {
	return v.superseded != 0 && v.pins == 0 && m.now >= max(v.superseded, v.released)+dayMS
}

// age lets the rollback window of a version end.
func (m *model) age(v *modelVersion) {
	if !m.windowOver(v) {
		return
	}
	if v.state == "active" {
		v.state = "deprecated"
	}
	if v.before == "active" {
		v.before = "deprecated"
	}
}

func (m *model) kill(v *modelVersion) {
	v.state, v.before, v.pins = "destroyed", "", 0
}

func (m *model) killKey(k *modelKey) {
	k.state, k.causes = "destroyed", map[string]bool{}
	for _, v := range k.versions {
		m.kill(v)
	}
	k.pinned = map[string]int{}
}

func (m *model) used(ivk int) bool {
	for _, t := range m.tenants {
		if t.state != "destroyed" && t.ivk == ivk {
			return true
		}
	}
	for _, n := range m.secrets {
		if n == ivk {
			return true
		}
	}
	return false
}

// apply returns the reason, or "skip" for what the model does not know.
func (m *model) apply(cmd *fsmpb.Command) string {
	if m.revoked[string(cmd.GetCallerSerial())] != 0 {
		return "UNAUTHENTICATED"
	}
	if no := m.refused(cmd); no != "" {
		return no
	}
	switch b := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		c := b.CreateTenant
		if t := m.tenants[c.GetName()]; t != nil && t.state != "destroyed" {
			return exists
		}
		governors := c.GetGovernors()
		if governors == nil {
			governors = [][]byte{[]byte(m.bindingBy(func(b *modelBinding) bool {
				return hex.EncodeToString([]byte(b.issuer)) == cmd.GetPrincipal().GetIssuer() && b.role == "governor" && b.name == cmd.GetPrincipal().GetName() && m.counts(b)
			}).uid)}
		}
		if no := m.govern(string(c.GetUid()), governors); no != "" {
			return no
		}
		t := newKey(c.GetUid())
		t.ivk = m.ivk.primary
		m.tenants[c.GetName()] = t
	case *fsmpb.Command_CreateService:
		c := b.CreateService
		t := m.tenants[c.GetTenant()]
		if s := t.services[c.GetName()]; s != nil && s.state != "destroyed" {
			return exists
		}
		if !m.tenantServes(t) || t.versions[t.primary-1].state != "active" {
			return failed
		}
		t.services[c.GetName()] = newKey(c.GetUid())
	case *fsmpb.Command_AddVersion:
		t, k := m.find(b.AddVersion.GetObject().GetTenant(), b.AddVersion.GetObject().GetService())
		if !m.tenantServes(t) || k.state != "active" || (k != t && t.versions[t.primary-1].state != "active") {
			return failed
		}
		k.versions = append(k.versions, &modelVersion{state: "pre"})
	case *fsmpb.Command_SetPrimary:
		c := b.SetPrimary
		t, k := m.find(c.GetObject().GetTenant(), c.GetObject().GetService())
		return m.setPrimary(t, k, int(c.GetNumber()), c.GetRollback())
	case *fsmpb.Command_ChangeVersion:
		c := b.ChangeVersion
		o := c.GetObject()
		if o.GetTenant() == "" {
			return m.changeVersion(m.ivk, m.ivk, int(c.GetNumber()), c.GetEvent(), c.GetNow())
		}
		t, k := m.find(o.GetTenant(), o.GetService())
		if k == nil {
			return notFound
		}
		return m.changeVersion(t, k, int(c.GetNumber()), c.GetEvent(), c.GetNow())
	case *fsmpb.Command_ChangeObject:
		c := b.ChangeObject
		t, k := m.find(c.GetObject().GetTenant(), c.GetObject().GetService())
		if k == nil {
			return notFound
		}
		return m.changeObject(t, k, c)
	case *fsmpb.Command_PinResource:
		c := b.PinResource
		t, k := m.find(c.GetTenant(), c.GetService())
		switch n := int(c.GetVersion()); {
		case k == nil:
			return notFound
		case t.state == "destroyed" || k.state == "destroyed":
			return failed
		case n == 0 || n > len(k.versions):
			return notFound
		case k.pinned[c.GetId()] == n:
			return failed
		default:
			v := k.versions[n-1]
			if v.state != "active" || v.compromised || m.windowOver(v) {
				return failed
			}
			m.release(k, c.GetId())
			v.pins++
			k.pinned[c.GetId()] = n
		}
	case *fsmpb.Command_UnpinResource:
		c := b.UnpinResource
		t, k := m.find(c.GetTenant(), c.GetService())
		switch {
		case k == nil:
			return notFound
		case t.state == "destroyed" || k.state == "destroyed" || k.pinned[c.GetId()] == 0:
			return failed
		}
		m.release(k, c.GetId())
	case *fsmpb.Command_AddInternalKey:
		m.ivk.versions = append(m.ivk.versions, &modelVersion{state: "pre"})
		return m.setPrimary(m.ivk, m.ivk, len(m.ivk.versions), false)
	case *fsmpb.Command_RewrapTenant:
		t := m.tenants[b.RewrapTenant.GetTenant()]
		if t.state == "destroyed" {
			return failed
		}
		t.ivk = m.ivk.primary
	case *fsmpb.Command_PutSecret:
		s := b.PutSecret.GetSecret()
		if public, ok := m.publics[s.GetName()]; ok && public != string(s.GetPublic()) {
			return failed
		}
		m.secrets[s.GetName()], m.publics[s.GetName()] = m.ivk.primary, string(s.GetPublic())
	case *fsmpb.Command_RevokeCertificate:
		c := b.RevokeCertificate
		serial, end := string(c.GetRevocation().GetSerial()), c.GetRevocation().GetExpireTimeMs()
		switch {
		case m.revoked[serial] != 0:
			return exists
		case end <= m.now:
			return failed
		case end > m.now+31*dayMS:
			return badArg
		}
		m.revoked[serial] = end
	case *fsmpb.Command_PutIssuer:
		return m.putIssuer(b.PutIssuer.GetIssuer())
	case *fsmpb.Command_RemoveIssuer:
		return m.removeIssuer(b.RemoveIssuer)
	case *fsmpb.Command_BindRole:
		return m.bind(b.BindRole.GetBinding())
	case *fsmpb.Command_UnbindRole:
		return m.unbind(b.UnbindRole)
	case *fsmpb.Command_SetTenantGovernors:
		return m.setGovernors(b.SetTenantGovernors)
	case *fsmpb.Command_PutPolicy:
		return m.putPolicy(b.PutPolicy)
	case *fsmpb.Command_RemovePolicy:
		return m.removePolicy(b.RemovePolicy)
	case *fsmpb.Command_Tick:
		m.tick()
	default:
		return "skip"
	}
	return done
}

func (m *model) release(k *modelKey, id string) {
	if n := k.pinned[id]; n != 0 {
		v := k.versions[n-1]
		if v.pins--; v.pins == 0 {
			v.released = m.now
		}
		delete(k.pinned, id)
	}
}

func (m *model) setPrimary(t, k *modelKey, n int, rollback bool) string {
	switch {
	case t.state == "destroyed" || k.state == "destroyed":
		return failed
	case n == 0 || n > len(k.versions):
		return notFound
	}
	v := k.versions[n-1]
	if rollback {
		if n == k.primary || v.state != "active" || v.compromised || m.now >= v.superseded+dayMS {
			return failed
		}
		v.superseded = 0
	} else {
		if v.state != "pre" {
			return failed
		}
		v.state = "active"
	}
	k.versions[k.primary-1].superseded = m.now
	k.primary, k.paused = n, rollback
	return done
}

func (m *model) changeVersion(t, k *modelKey, n int, e fsmpb.VersionEvent, now bool) string {
	switch {
	case t.state == "destroyed" || k.state == "destroyed":
		return failed
	case n == 0 || n > len(k.versions):
		return notFound
	case e == 0:
		return badArg
	}
	gives := e == fsmpb.VersionEvent_VERSION_EVENT_ENABLE || e == fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY
	if k == m.ivk && !gives && (n == k.primary || (e != fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE && m.used(n))) {
		return failed
	}
	was := *k.versions[n-1]
	v := was
	m.age(&v)
	switch e {
	case fsmpb.VersionEvent_VERSION_EVENT_ENABLE:
		if v.state != "disabled" {
			return failed
		}
		v.state, v.before = v.before, ""
	case fsmpb.VersionEvent_VERSION_EVENT_DISABLE:
		if v.state == "disabled" || v.state == "scheduled" || v.state == "destroyed" {
			return failed
		}
		v.before, v.state = v.state, "disabled"
	case fsmpb.VersionEvent_VERSION_EVENT_DEPRECATE:
		if v.state != "active" {
			return failed
		}
		v.state = "deprecated"
	case fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE:
		switch {
		case v.state == "compromised", v.state == "scheduled" && v.before == "compromised", v.state == "destroyed" && v.compromised:
			return failed
		case v.state == "scheduled":
			v.before = "compromised"
		case v.state != "destroyed":
			v.state, v.before = "compromised", ""
		}
		v.compromised = true
	case fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY:
		at := m.now + destroyW
		if now {
			at = m.now
		}
		if v.state == "destroyed" || (v.state == "scheduled" && at >= v.goesAt) {
			return failed
		}
		if v.state != "disabled" && v.state != "scheduled" {
			v.before = v.state
		}
		v.state, v.goesAt = "scheduled", at
		if now {
			pins := v.pins
			m.kill(&v)
			v.pins = pins // a pin stays with the resource, and wraps nothing
		}
	case fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY:
		if v.state != "scheduled" {
			return failed
		}
		v.state = "disabled"
	default:
		return badArg
	}
	*k.versions[n-1] = v
	return done
}

func (m *model) changeObject(t, k *modelKey, c *fsmpb.ChangeObject) string {
	cause := c.GetCause()
	if cause == "" {
		cause = "operator"
	}
	if k != t && t.state == "destroyed" {
		return failed
	}
	if c.GetEvent() == 0 {
		return badArg
	}
	if k.state == "destroyed" {
		return failed
	}
	switch c.GetEvent() {
	case suspend:
		if k.causes[cause] {
			return failed
		}
		k.causes[cause] = true
		if k.state == "active" {
			k.state = "suspended"
		}
	case resume:
		if !k.causes[cause] {
			return failed
		}
		delete(k.causes, cause)
		if k.state == "suspended" && len(k.causes) == 0 {
			k.state = "active"
		}
	case schedule:
		at := m.now + destroyW
		if c.GetNow() {
			at = m.now
		}
		if k.state == "scheduled" && at >= k.goesAt {
			return failed
		}
		k.state, k.goesAt = "scheduled", at
		if c.GetNow() {
			m.killKey(k)
		}
	case cancel:
		if k.state != "scheduled" {
			return failed
		}
		k.state = "suspended"
		k.causes["operator"] = true
	default:
		return badArg
	}
	return done
}

func (m *model) tickKey(k *modelKey) {
	if k.state == "scheduled" && k.goesAt <= m.now {
		m.killKey(k)
		return
	}
	for _, v := range k.versions {
		m.age(v)
		if v.state == "scheduled" && v.goesAt <= m.now {
			pins := v.pins
			m.kill(v)
			v.pins = pins
		}
	}
}

func (m *model) tick() {
	defer m.tickPeople()
	for serial, end := range m.revoked {
		if end+fsm.RevocationGraceMS <= m.now {
			delete(m.revoked, serial)
		}
	}
	m.tickKey(m.ivk)
	for _, t := range m.tenants {
		m.tickKey(t)
		for _, s := range t.services {
			if t.state == "destroyed" {
				m.killKey(s)
			} else {
				m.tickKey(s)
			}
		}
	}
}

var modelStates = map[string]fsmpb.VersionState{
	"": 0, "pre": preActive, "active": active, "deprecated": deprecated, "disabled": disabled,
	"compromised": fsmpb.VersionState_VERSION_STATE_COMPROMISED, "scheduled": scheduled, "destroyed": destroyed,
}

var modelObjects = map[string]fsmpb.ObjectState{
	"active": fsmpb.ObjectState_OBJECT_STATE_ACTIVE, "suspended": fsmpb.ObjectState_OBJECT_STATE_SUSPENDED,
	"scheduled": fsmpb.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED, "destroyed": fsmpb.ObjectState_OBJECT_STATE_DESTROYED,
}

func compareVersions(t tb, what string, want *modelKey, vs []*fsmpb.Version, primary uint32) {
	t.Helper()
	if len(vs) != len(want.versions) || int(primary) != want.primary {
		t.Fatalf("%s has %d versions and primary %d, want %d and %d", what, len(vs), primary, len(want.versions), want.primary)
	}
	for i, w := range want.versions {
		v := vs[i]
		if v.GetState() != modelStates[w.state] || v.GetStateBefore() != modelStates[w.before] || v.GetEverCompromised() != w.compromised ||
			int(v.GetPins()) != w.pins || v.GetSupersededTimeMs() != w.superseded {
			t.Fatalf("version %d of %s is %v, want %+v", i+1, what, v, *w)
		}
	}
}

func (m *model) compare(t tb, v *fsm.View) {
	t.Helper()
	if got := len(v.Revocations(nil, 100)); got != len(m.revoked) {
		t.Fatalf("%d revoked certificates, want %d", got, len(m.revoked))
	}
	for serial, end := range m.revoked {
		if r, ok := v.Revoked([]byte(serial)); !ok || r.GetExpireTimeMs() != end {
			t.Fatalf("certificate %x is revoked as %v, want until %d", serial, r, end)
		}
	}
	m.comparePeople(t, v)
	m.comparePolicies(t, v)
	ivks, primary := v.InternalKeys()
	compareVersions(t, "the internal key", m.ivk, ivks, primary)
	if got := len(v.Tenants("", 100)); got != len(m.tenants) {
		t.Fatalf("%d tenants, want %d", got, len(m.tenants))
	}
	for name, want := range m.tenants {
		tn, ok := v.Tenant(name)
		if !ok || tn.GetState() != modelObjects[want.state] || len(tn.GetSuspendCauses()) != len(want.causes) || !bytes.Equal(tn.GetUid(), want.uid) {
			t.Fatalf("tenant %s is %v, want %+v", name, tn, *want)
		}
		if want.state != "destroyed" && !bytes.Equal(tn.GetL2IvkUid(), ivks[want.ivk-1].GetUid()) {
			t.Fatalf("tenant %s is under another internal key than version %d", name, want.ivk)
		}
		compareVersions(t, name, want, tn.GetVersions(), tn.GetPrimary())
		if got := len(v.Services(tn, "", 100)); got != len(want.services) {
			t.Fatalf("%d services of %s, want %d", got, name, len(want.services))
		}
		for sname, want := range want.services {
			s, ok := v.ServiceOf(tn, sname)
			if !ok || s.GetState() != modelObjects[want.state] || len(s.GetSuspendCauses()) != len(want.causes) ||
				!bytes.Equal(s.GetUid(), want.uid) || s.GetRotationPaused() != want.paused {
				t.Fatalf("service %s is %v, want %+v", sname, s, *want)
			}
			compareVersions(t, sname, want, s.GetVersions(), s.GetPrimary())
			if s.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
				continue
			}
			if got := len(v.Resources(s, "", 100)); got != len(want.pinned) {
				t.Fatalf("%d pinned resources of %s, want %d", got, sname, len(want.pinned))
			}
			for id, n := range want.pinned {
				if r, ok := v.Resource(s, id); !ok || int(r.GetVersion()) != n {
					t.Fatalf("resource %s is %v, want version %d", id, r, n)
				}
			}
		}
	}
}

// TestTheMachineDoesWhatTheModelDoes compares every answer and every state.
func TestTheMachineDoesWhatTheModelDoes(t *testing.T) {
	t.Parallel()
	outcomes := make(map[string]int)
	histories := func(t *rapid.T) {
		w := newWorld(t)
		m := newModel(w)
		for range rapid.IntRange(20, 120).Draw(t, "commands") {
			cmd := w.drawCommand(t)
			if cmd.GetRollbackResource() != nil {
				continue // the history of pins is not in the model
			}
			m.now, m.made = w.now, func(string) {}
			if m.refused(by(cmd)) == "node?" {
				cmd.Principal = caller("governor", "gov")
			}
			// A remembered request is answered, and nothing else.
			key := fmt.Sprintf("%s %v", cmd.GetRequestId(), cmd.GetPrincipal())
			if _, remembered := m.asked[key]; cmd.GetRequestId() != "" && remembered {
				cmd.RequestId = ""
			}
			want := m.apply(cmd)
			if cmd.GetRequestId() != "" {
				m.asked[key] = want
			}
			got := w.do(cmd)
			m.made(string(got.GetUid()))
			if want == "skip" {
				continue
			}
			if got.GetReason() != want {
				t.Fatalf("%v: got %q (%s), want %q", cmd, got.GetReason(), got.GetMessage(), want)
			}
			outcomes[fmt.Sprintf("%T %s", cmd.GetBody(), want)]++
			m.compare(t, w.view())
		}
	}
	// The test means something only if both ends of the common commands were seen.
	common := []string{
		"*fsmpb.Command_CreateTenant ", "*fsmpb.Command_CreateTenant ALREADY_EXISTS", "*fsmpb.Command_CreateService ",
		"*fsmpb.Command_CreateService FAILED_STATE", "*fsmpb.Command_AddVersion ", "*fsmpb.Command_SetPrimary ",
		"*fsmpb.Command_SetPrimary FAILED_STATE", "*fsmpb.Command_ChangeVersion ", "*fsmpb.Command_ChangeVersion FAILED_STATE",
		"*fsmpb.Command_ChangeObject ", "*fsmpb.Command_ChangeObject FAILED_STATE", "*fsmpb.Command_RewrapTenant ",
		"*fsmpb.Command_PutSecret ", "*fsmpb.Command_PutSecret FAILED_STATE", "*fsmpb.Command_AddInternalKey ", "*fsmpb.Command_AddInternalKey DENIED",
		"*fsmpb.Command_RevokeCertificate ", "*fsmpb.Command_RevokeCertificate UNAUTHENTICATED", "*fsmpb.Command_RevokeCertificate ALREADY_EXISTS",
		"*fsmpb.Command_PutIssuer ", "*fsmpb.Command_RemoveIssuer ", "*fsmpb.Command_BindRole ", "*fsmpb.Command_BindRole ALREADY_EXISTS",
		"*fsmpb.Command_UnbindRole ", "*fsmpb.Command_UnbindRole NOT_FOUND", "*fsmpb.Command_SetTenantGovernors ", // what is rarer has tests of its own
		"*fsmpb.Command_PutPolicy ", "*fsmpb.Command_PutPolicy DENIED", "*fsmpb.Command_PutPolicy ALREADY_EXISTS", "*fsmpb.Command_RemovePolicy ", "*fsmpb.Command_RemovePolicy NOT_FOUND",
		"*fsmpb.Command_RevokeCertificate FAILED_STATE", "*fsmpb.Command_RevokeCertificate INVALID_ARGUMENT",
	}
	missing := common
	for range 6 { // each round leaves one out now and then
		if rapid.Check(t, histories); t.Failed() {
			return
		}
		if missing = slices.DeleteFunc(missing, func(o string) bool { return outcomes[o] > 0 }); len(missing) == 0 {
			return
		}
	}
	t.Errorf("never seen: %q", missing)
}
