package fsm_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// TestI1_OneLogOneState applies random commands to a machine, and the same log
// to one that is restored from the first one's snapshot at random points: after
// every command both gave the same result and have the same digest.
func TestI1_OneLogOneState(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		if invariants.Race && (rapid.Bool().Draw(t, "leave out") || rapid.Bool().Draw(t, "too")) {
			return // one goroutine has no races: scripts/ci has them all without the detector
		}
		w := newWorld(t)
		twin := replay(t, w.log)
		for range rapid.IntRange(10, 80).Draw(t, "commands") {
			if rapid.IntRange(0, 5).Draw(t, "restore") == 0 {
				var buf bytes.Buffer
				if _, err := twin.Snapshot().WriteTo(&buf, nil); err != nil {
					t.Fatalf("write: %v", err)
				}
				before := twin
				if rapid.Bool().Draw(t, "fresh") {
					twin = fsm.New(fsm.Options{})
				}
				if err := twin.Restore(&buf); err != nil {
					t.Fatalf("restore: %v", err)
				}
				sameState(t, before, twin)
			}
			res := w.do(w.drawCommand(t))
			checkRestores(t, w.m)
			again, err := twin.Apply(w.index, w.term, w.log[len(w.log)-1])
			if err != nil {
				t.Fatalf("twin: %v", err)
			}
			if d := cmp.Diff(res, again, protocmp.Transform()); d != "" {
				t.Fatalf("results differ: %s", d)
			}
			sameState(t, w.m, twin)
			if !slices.EqualFunc(w.view().Issuers(), twin.View().Issuers(), func(a, b *fsmpb.Issuer) bool { return proto.Equal(a, b) }) {
				t.Fatalf("issuers %v, after a restore %v", w.view().Issuers(), twin.View().Issuers())
			}
			checkInvariants(t, w.view())
		}
		due, ok := w.view().NextDue()
		dueTwin, okTwin := twin.View().NextDue()
		if ok != okTwin || due != dueTwin {
			t.Fatalf("next due differs: %d %v, %d %v", due, ok, dueTwin, okTwin)
		}
		sameState(t, w.m, replay(t, w.log))

		// I14: ticks come to an end, even after everything that was ever scheduled.
		w.now += 100 * dayMS
		for i := 0; ; i++ {
			w.ok(tick())
			if due, ok := w.view().NextDue(); !ok || due > w.now {
				break
			}
			if i > 10 {
				t.Fatalf("ticks do not come to an end")
			}
		}
		checkInvariants(t, w.view())
	})
}

// checkInvariants looks at the whole state the way an auditor would.
func checkInvariants(t tb, v *fsm.View) {
	t.Helper()
	uids := make(map[string]string)
	claim := func(uid []byte, by string) {
		if other, taken := uids[string(uid)]; taken || len(uid) != 16 {
			t.Fatalf("I3: uid of %s is that of %s, or not 16 bytes", by, other)
		}
		uids[string(uid)] = by
	}
	gated := func(of string, g, mod uint64) {
		if g > mod || g != 0 && v.Cluster().GetFormatVersion() < fsm.FormatLeases {
			t.Fatalf("I18: %s has the gate index %d and mod_index %d", of, g, mod)
		}
	}
	chain := func(vs []*fsmpb.Version, primary uint32, of string) {
		for i, ver := range vs {
			gated("a version of "+of, ver.GetGateIndex(), ver.GetModIndex())
			claim(ver.GetUid(), of)
			gone := ver.GetState() == fsmpb.VersionState_VERSION_STATE_DESTROYED
			if gone != (len(ver.GetBlob()) == 0) {
				t.Fatalf("I7: a version of %s in state %v has %d bytes", of, ver.GetState(), len(ver.GetBlob()))
			}
			if ver.GetNumber() != uint32(i)+1 || ver.GetModIndex() == 0 || ver.GetModIndex() > v.Index() {
				t.Fatalf("version %d of %s is %v", i, of, ver)
			}
			if ver.GetEverCompromised() && ver.GetState() == fsmpb.VersionState_VERSION_STATE_ACTIVE {
				t.Fatalf("I6: a compromised version of %s is active", of)
			}
		}
		if primary == 0 || int(primary) > len(vs) || vs[primary-1].GetState() == fsmpb.VersionState_VERSION_STATE_PRE_ACTIVE {
			t.Fatalf("I6: the primary of %s is %d", of, primary)
		}
	}
	ivks, primary := v.InternalKeys()
	chain(ivks, primary, "the internal key")
	for _, ivk := range ivks {
		usable := ivk.GetState() == fsmpb.VersionState_VERSION_STATE_ACTIVE || ivk.GetState() == fsmpb.VersionState_VERSION_STATE_DEPRECATED
		if !usable && v.InternalKeyUsed(ivk.GetUid()) {
			t.Fatalf("I9: internal key version %d is in use and %v", ivk.GetNumber(), ivk.GetState())
		}
	}
	for _, tn := range v.Tenants("", 1000) {
		gone := tn.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED
		if gone != (len(tn.GetL2Blob()) == 0) {
			t.Fatalf("I7: tenant %s in state %v has an L2 of %d bytes", tn.GetName(), tn.GetState(), len(tn.GetL2Blob()))
		}
		gated(tn.GetName(), tn.GetGateIndex(), tn.GetModIndex())
		claim(tn.GetUid(), tn.GetName())
		claim(tn.GetL2Uid(), tn.GetName())
		chain(tn.GetVersions(), tn.GetPrimary(), tn.GetName())
		if _, ok := v.InternalKey(tn.GetL2IvkUid()); !ok {
			t.Fatalf("tenant %s is under no internal key", tn.GetName())
		}
		for _, s := range v.Services(tn, "", 1000) {
			gated(s.GetName(), s.GetGateIndex(), s.GetModIndex())
			claim(s.GetUid(), s.GetName())
			chain(s.GetVersions(), s.GetPrimary(), s.GetName())
			pins := make(map[uint32]uint32)
			for _, r := range v.Resources(s, "", 1000) {
				pins[r.GetVersion()]++
			}
			for _, ver := range s.GetVersions() {
				if s.GetState() != fsmpb.ObjectState_OBJECT_STATE_DESTROYED && ver.GetPins() != pins[ver.GetNumber()] {
					t.Fatalf("version %d of %s counts %d pins, there are %d", ver.GetNumber(), s.GetName(), ver.GetPins(), pins[ver.GetNumber()])
				}
			}
		}
	}
	checkAuthority(t, v)
	voters := 0
	for _, m := range v.Members() {
		if m.GetVoter() && !m.GetRemoved() {
			voters++
		}
	}
	if voters == 0 {
		t.Fatalf("there is no voter")
	}
}

// checkAuthority looks at who may do what.
func checkAuthority(t tb, v *fsm.View) {
	t.Helper()
	if v.Cluster().GetFormatVersion() < fsm.FormatAuthority {
		if len(v.Issuers()) != 0 || len(v.Bindings("", "", 1)) != 0 || v.Cluster().GetAuthorityIndex() != 0 {
			t.Fatalf("there are issuers or bindings before there can be any")
		}
		return
	}
	if at := v.AuthorityAt(); at == 0 || at > v.Index() || at != v.Cluster().GetAuthorityIndex() {
		t.Fatalf("authority changed at %d of %d", at, v.Index())
	}
	taken := make(map[string]string)
	take := func(what, key, by string) {
		if other, twice := taken[what+key]; twice {
			t.Fatalf("I21: %s of %s and %s are one", what, by, other)
		}
		taken[what+key] = by
	}
	governors := make(map[string]bool)
	platform := 0
	look := func(tenant string, uid []byte) {
		for _, b := range v.Bindings(tenant, "", 1000) {
			name := tenant + "/" + b.GetId()
			take("uid", string(b.GetUid()), name)
			take("subject", string(b.GetIssuerUid())+b.GetSubject(), name)
			take("identity", string(b.GetIssuerUid())+b.GetRole()+"/"+string(b.GetTenantUid())+"/"+b.GetName(), name)
			for _, k := range b.GetKeys() {
				take("key", string(k.GetKey().GetRaw()), name)
			}
			i, ok := v.IssuerByUID(b.GetIssuerUid())
			if !ok || !slices.Contains(i.GetRoles(), b.GetRole()) || b.GetRole() == "workload" && i.GetTenant() == "" && !i.GetAllTenants() &&
				!slices.ContainsFunc(i.GetTenantUids(), func(u []byte) bool { return bytes.Equal(u, uid) }) || i.GetTenant() != "" && i.GetTenant() != tenant {
				t.Fatalf("I23: %v is bound beyond its issuer %v", b, i)
			}
			if found, ok := v.BindingBySubject(b.GetIssuerUid(), b.GetSubject()); !ok || found != b {
				t.Fatalf("%v is not found by its subject", b)
			}
			role, _ := auth.ParseRole(b.GetRole())
			if found, ok := v.BindingOf(b.GetIssuerUid(), role, b.GetTenantUid(), b.GetName()); !ok || found != b {
				t.Fatalf("%v is not found by its name", b)
			}
			if found, ok := v.BindingByUID(b.GetUid()); !ok || found != b {
				t.Fatalf("%v is not found by its uid", b)
			}
			if b.GetRole() == "governor" && b.GetExpireTimeMs() == 0 {
				governors[string(b.GetUid())] = true
				if b.GetPlatform() {
					platform++
				}
			}
			if b.GetModIndex() > v.AuthorityAt() {
				t.Fatalf("%v is newer than the last change of authority", b)
			}
		}
	}
	look("", nil)
	if platform == 0 {
		t.Fatalf("I22: nobody governs the platform")
	}
	builtins := 0
	for _, i := range v.Issuers() {
		take("issuer", string(i.GetUid()), i.GetId())
		if i.GetId() == fsm.BuiltinIssuer && i.GetTenant() == "" {
			builtins++
		}
		if found, ok := v.Issuer(i.GetTenant(), i.GetId()); !ok || found != i || i.GetModIndex() > v.AuthorityAt() {
			t.Fatalf("issuer %v is not found, or newer than the last change of authority", i)
		}
	}
	if builtins != 1 {
		t.Fatalf("there are %d issuers builtin", builtins)
	}
	for _, tn := range v.Tenants("", 1000) {
		if tn.GetState() == fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
			if len(v.Bindings(tn.GetName(), "", 1)) != 0 {
				t.Fatalf("somebody is bound in the destroyed tenant %s", tn.GetName())
			}
			continue
		}
		look(tn.GetName(), tn.GetUid())
		if !slices.ContainsFunc(tn.GetGovernors(), func(uid []byte) bool { return governors[string(uid)] }) {
			t.Fatalf("I22: nobody governs tenant %s", tn.GetName())
		}
	}
}
