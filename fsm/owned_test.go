package fsm_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// createUnbound makes a tenant without a key.
func (w *world) createUnbound(name string) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{Name: name, Uid: w.uid(), Governors: w.governors}}}
}

// bindTenant binds one to the key and the identity of that name.
func (w *world) bindTenant(tenant, own string) *fsmpb.Command {
	l2 := w.uid()
	return &fsmpb.Command{Body: &fsmpb.Command_BindTenant{BindTenant: &fsmpb.BindTenant{
		Tenant: tenant, TenantUid: w.tenantOf(tenant).GetUid(), L2Uid: l2, L2Blob: blob("l2", int(w.ids)), L2IvkUid: w.ivk().GetUid(),
		Binding: &fsmpb.Binding{
			Keystore: "bao", Key: "key-" + own, Archetype: "hyok", Identity: []*fsmpb.IdentityName{{Name: "role", Value: "role " + own}},
			Owner: "transit role " + own, L1: "transit key " + own, Regions: []string{"eu"},
		},
		Version: &fsmpb.Version{Number: 1, Uid: w.uid(), ParentUid: l2, Blob: blob("l2.1", int(w.ids))},
	}}}
}

// changed returns the command with its binding changed.
func changed(cmd *fsmpb.Command, change func(*fsmpb.Binding)) *fsmpb.Command {
	cmd = proto.CloneOf(cmd)
	change(cmd.GetBindTenant().GetBinding())
	return cmd
}

func TestATenantIsMadeWithoutAKeyAndThenBound(t *testing.T) {
	w := newWorld(t)
	uid := w.ok(w.createUnbound("acme")).GetUid()
	if got := w.tenantOf("acme"); !fsm.Unbound(got) || len(got.GetVersions()) != 0 {
		t.Fatalf("a tenant without a binding is %v", got)
	}
	w.refused(errs.NotFound, w.createServiceOf("acme", "pay", w.uid()))
	w.snapshotIsWhole(t)
	stale := w.bindTenant("acme", "a")
	stale.GetBindTenant().TenantUid = w.uid()
	w.refused(errs.Aborted, stale)
	cmd := w.bindTenant("acme", "a")
	w.ok(cmd)
	got := w.tenantOf("acme")
	if fsm.Unbound(got) || !bytes.Equal(got.GetUid(), uid) || got.GetPrimary() != 1 || !proto.Equal(got.GetBinding(), cmd.GetBindTenant().GetBinding()) {
		t.Errorf("the tenant is %v", got)
	}
	w.refused(errs.FailedState, w.bindTenant("acme", "b"))
	w.ok(w.createService("acme", "pay"))
	w.snapshotIsWhole(t)
}

// createServiceOf is createService under a parent that may not be there.
func (w *world) createServiceOf(tenant, name string, parent []byte) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_CreateService{CreateService: &fsmpb.CreateService{
		Tenant: tenant, Name: name, Uid: w.uid(), TenantUid: w.tenantOf(tenant).GetUid(),
		Version: &fsmpb.Version{Number: 1, Uid: w.uid(), ParentUid: parent, Blob: blob("l3", int(w.ids))},
	}}}
}

// snapshotIsWhole holds that a snapshot of the present state is one.
func (w *world) snapshotIsWhole(t *testing.T) {
	t.Helper()
	again := fsm.New(fsm.Options{})
	if err := again.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	sameState(t, w.m, again)
}

// TestI41_AnIdentityIsOneTenants: nobody gets the identity of another tenant, by no
// name of keystore or key, as long as that one is there.
func TestI41_AnIdentityIsOneTenants(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"acme", "beta"} {
		w.ok(w.createUnbound(name))
	}
	w.ok(w.bindTenant("acme", "a"))
	elsewhere := changed(w.bindTenant("beta", "b"), func(b *fsmpb.Binding) { b.Owner, b.Keystore = "transit role a", "other" })
	if got := w.refused(errs.FailedState, elsewhere); !strings.Contains(got.GetMessage(), "identity") {
		t.Errorf("refused: %s", got.GetMessage())
	}
	shared := changed(elsewhere, func(b *fsmpb.Binding) { b.L1, b.SharedWith = "transit key a", []string{"acme"} })
	w.refused(errs.FailedState, shared) // people may share a key, not an identity
	w.ok(changeObject("acme", "", fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, "operator"))
	w.refused(errs.FailedState, elsewhere)
	w.ok(destroyNow("acme", ""))
	w.ok(elsewhere)
	w.snapshotIsWhole(t)
}

// TestI42_AKeyIsOneTenantsUnlessTwoGovernorsSign: whatever name the key has there.
func TestI42_AKeyIsOneTenantsUnlessTwoGovernorsSign(t *testing.T) {
	for name, same := range map[string]func(*fsmpb.Binding){
		"by the keystore's own word": func(b *fsmpb.Binding) { b.L1, b.Keystore = "transit key a", "other" },
		"by the binding's name":      func(b *fsmpb.Binding) { b.Key = "key-a" },
	} {
		t.Run(name, func(t *testing.T) {
			w := ofQuorum(t, 1, 1)
			first := w.bindTenant
			for _, name := range []string{"acme", "beta"} {
				cmd := w.createUnbound(name)
				cmd.GetCreateTenant().Governors = [][]byte{w.bindingOf("", "alice").GetUid()}
				w.ok(w.signatures(cmd, "alice"))
			}
			w.ok(w.signatures(first("acme", "a"), "alice"))
			second := func() *fsmpb.Command { return changed(w.bindTenant("beta", "b"), same) }
			if got := w.refused(errs.FailedState, w.signatures(second(), "alice", "bob")); !strings.Contains(got.GetMessage(), "key") {
				t.Errorf("refused: %s", got.GetMessage())
			}
			shared := func(with ...string) *fsmpb.Command {
				return changed(second(), func(b *fsmpb.Binding) { b.SharedWith = with })
			}
			w.refused(errs.IntentRefused, w.signatures(shared("acme"), "alice"))
			w.refused(errs.IntentRefused, shared("acme"))
			w.refused(errs.FailedState, w.signatures(shared("acme", "ghost"), "alice", "bob"))
			w.ok(w.signatures(shared("acme"), "alice", "bob"))
			if got := w.tenantOf("beta").GetBinding().GetSharedWith(); len(got) != 1 || got[0] != "acme" {
				t.Errorf("recorded: shared with %v", got)
			}
			w.snapshotIsWhole(t)
		})
	}
}

// TestI42_NobodySharesWithoutSignaturesWhereNoneAreNeeded: a cluster may ask nobody to
// sign for a binding, and does for a key of two tenants.
func TestI42_NobodySharesWithoutSignaturesWhereNoneAreNeeded(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"acme", "beta"} {
		w.ok(w.createUnbound(name))
	}
	w.ok(w.bindTenant("acme", "a"))
	w.refused(errs.IntentRefused, changed(w.bindTenant("beta", "b"), func(b *fsmpb.Binding) { b.L1, b.SharedWith = "transit key a", []string{"acme"} }))
}

func TestABindingThatCannotBeIsRefused(t *testing.T) {
	many := strings.Split(strings.Repeat("r ", fsm.MaxRegions+1), " ")
	for name, change := range map[string]func(*fsmpb.Binding){
		"an address":                    func(b *fsmpb.Binding) { b.Identity[0].Value = "https://mine.example" },
		"an identity without a word":    func(b *fsmpb.Binding) { b.Owner = "" },
		"a word without an identity":    func(b *fsmpb.Binding) { b.Identity = nil },
		"an identity without a key":     func(b *fsmpb.Binding) { b.L1 = "" },
		"a key in the words of another": func(b *fsmpb.Binding) { b.L1 = "\x00bao\x00key-a" },
		"a name twice":                  func(b *fsmpb.Binding) { b.Identity = append(b.Identity, b.GetIdentity()[0]) },
		"an empty value":                func(b *fsmpb.Binding) { b.Identity[0].Value = "" },
		"a value that is no text":       func(b *fsmpb.Binding) { b.Identity[0].Value = "a\nb" },
		"too long a value":              func(b *fsmpb.Binding) { b.Identity[0].Value = strings.Repeat("a", fsm.MaxIdentityValue+1) },
		"regions out of order":          func(b *fsmpb.Binding) { b.Regions = []string{"us", "eu"} },
		"too many regions":              func(b *fsmpb.Binding) { b.Regions = many },
		"denied where it is allowed":    func(b *fsmpb.Binding) { b.DeniedIn = []string{"eu"} },
		"denied where all are allowed":  func(b *fsmpb.Binding) { b.Regions, b.DeniedIn = nil, []string{"us"} },
		"shared with no name":           func(b *fsmpb.Binding) { b.SharedWith = []string{"No"} },
		"no archetype":                  func(b *fsmpb.Binding) { b.Archetype = "mine" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ok(w.createUnbound("acme"))
			w.refused(errs.InvalidArgument, changed(w.bindTenant("acme", "a"), change))
			w.ok(w.bindTenant("acme", "a"))
		})
	}
	w := newWorld(t)
	made := w.createTenant("acme")
	made.GetCreateTenant().Binding = w.boundTo("a")
	w.refused(errs.InvalidArgument, made)
}

func (w *world) boundTo(own string) *fsmpb.Binding {
	w.ok(w.createUnbound("other"))
	return w.bindTenant("other", own).GetBindTenant().GetBinding()
}

// TestOlderClustersKnowNoOwners: before the format version neither an unbound tenant nor
// an identity gets into the state.
func TestOlderClustersKnowNoOwners(t *testing.T) {
	w := acme(t, ofFormat(fsm.FormatOwnedKeys-2))
	w.refused(errs.InvalidArgument, w.createUnbound("new"))
	w.refused(errs.FailedState, w.bindTenant("acme", "a"))
	w.snapshotIsWhole(t)
}
