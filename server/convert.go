package server

import (
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// etag is the log index of an object's last change, as the API shows it; empty
// for what does not exist yet.
func etag(modIndex uint64) string {
	if modIndex == 0 {
		return ""
	}
	return `"` + strconv.FormatUint(modIndex, 10) + `"`
}

// parseETag returns the log index that an etag stands for; 0 for "any".
func parseETag(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	inner, ok := strings.CutPrefix(s, `"`)
	if ok {
		inner, ok = strings.CutSuffix(inner, `"`)
	}
	n, err := strconv.ParseUint(inner, 10, 64)
	if !ok || err != nil || n == 0 || etag(n) != s {
		return 0, errs.New(errs.InvalidArgument, "the etag is not one that this cluster gave out",
			errs.Hint(`read the object again and pass its etag as it stands, with the quotes`))
	}
	return n, nil
}

// stamp is nil for the time that never was.
func stamp(ms int64) *timestamppb.Timestamp {
	if ms == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(ms))
}

func uidText(b []byte) string { return hex.EncodeToString(b) }

// chain is what a list of key versions needs to be shown.
type chain struct {
	versions []*fsmpb.Version
	primary  uint32
	window   time.Duration
	name     func(n uint32) string
	parent   func(uid []byte) string
}

func (c chain) all() []*kryptonv1.KeyVersion {
	out := make([]*kryptonv1.KeyVersion, 0, len(c.versions))
	for _, v := range c.versions {
		out = append(out, c.one(v))
	}
	return out
}

func (c chain) one(v *fsmpb.Version) *kryptonv1.KeyVersion {
	kv := &kryptonv1.KeyVersion{
		Name:        c.name(v.GetNumber()),
		Uid:         uidText(v.GetUid()),
		Etag:        etag(v.GetModIndex()),
		Number:      v.GetNumber(),
		State:       kryptonv1.VersionState(v.GetState()),
		Primary:     v.GetNumber() == c.primary,
		CreateTime:  stamp(v.GetCreateTimeMs()),
		DestroyTime: stamp(v.GetDestroyTimeMs()),
		Parent:      c.parent(v.GetParentUid()),
	}
	if v.GetState() == fsmpb.VersionState_VERSION_STATE_ACTIVE && !kv.GetPrimary() && v.GetSupersededTimeMs() > 0 {
		kv.RollbackUntil = stamp(v.GetSupersededTimeMs() + c.window.Milliseconds())
	}
	return kv
}

func tenantChain(t *fsmpb.Tenant, window time.Duration) chain {
	return chain{
		versions: t.GetVersions(), primary: t.GetPrimary(), window: window,
		name: func(n uint32) string {
			return hierarchy.TenantVersionPath(hierarchy.Name(t.GetName()), hierarchy.VersionNumber(n)).String()
		},
		parent: func([]byte) string { return "" },
	}
}

// serviceChain names the tenant key version above each service key version; t
// may be nil when the caller does not show it.
func serviceChain(s *fsmpb.Service, t *fsmpb.Tenant, window time.Duration) chain {
	return chain{
		versions: s.GetVersions(), primary: s.GetPrimary(), window: window,
		name: func(n uint32) string {
			return hierarchy.ServiceVersionPath(hierarchy.Name(s.GetTenant()), hierarchy.Name(s.GetName()), hierarchy.VersionNumber(n)).String()
		},
		parent: func(uid []byte) string {
			for _, v := range t.GetVersions() {
				if string(v.GetUid()) == string(uid) {
					return hierarchy.TenantVersionPath(hierarchy.Name(t.GetName()), hierarchy.VersionNumber(v.GetNumber())).String()
				}
			}
			return ""
		},
	}
}

func tenantToAPI(t *fsmpb.Tenant, window time.Duration) *kryptonv1.Tenant {
	return &kryptonv1.Tenant{
		Name:           hierarchy.TenantPath(hierarchy.Name(t.GetName())).String(),
		Uid:            uidText(t.GetUid()),
		Etag:           etag(t.GetModIndex()),
		State:          kryptonv1.ObjectState(t.GetState()),
		SuspendCauses:  t.GetSuspendCauses(),
		Binding:        bindingToAPI(t.GetBinding()),
		PrimaryVersion: t.GetPrimary(),
		Versions:       tenantChain(t, window).all(),
		CreateTime:     stamp(t.GetCreateTimeMs()),
		DestroyTime:    stamp(t.GetDestroyTimeMs()),
	}
}

// bindingToAPI returns nil for a tenant that has no customer key yet.
func bindingToAPI(b *fsmpb.Binding) *kryptonv1.Binding {
	if b == nil {
		return nil
	}
	out := &kryptonv1.Binding{
		Keystore: b.GetKeystore(), Key: b.GetKey(), KeyVersion: b.GetKeyVersion(), Archetype: b.GetArchetype(),
		Regions: b.GetRegions(), DeniedIn: b.GetDeniedIn(), L1: b.GetL1(),
	}
	for _, n := range b.GetIdentity() {
		out.Identity = append(out.Identity, &kryptonv1.IdentityName{Name: n.GetName(), Value: n.GetValue()})
	}
	for _, name := range b.GetSharedWith() {
		out.SharedWith = append(out.SharedWith, hierarchy.TenantPath(hierarchy.Name(name)).String())
	}
	return out
}

func serviceToAPI(s *fsmpb.Service, t *fsmpb.Tenant, window time.Duration) *kryptonv1.Service {
	return &kryptonv1.Service{
		Name:           hierarchy.ServicePath(hierarchy.Name(s.GetTenant()), hierarchy.Name(s.GetName())).String(),
		Uid:            uidText(s.GetUid()),
		Etag:           etag(s.GetModIndex()),
		State:          kryptonv1.ObjectState(s.GetState()),
		SuspendCauses:  s.GetSuspendCauses(),
		PrimaryVersion: s.GetPrimary(),
		Versions:       serviceChain(s, t, window).all(),
		CreateTime:     stamp(s.GetCreateTimeMs()),
		DestroyTime:    stamp(s.GetDestroyTimeMs()),
	}
}

func resourceToAPI(p hierarchy.Path, r *fsmpb.Resource) *kryptonv1.Resource {
	return &kryptonv1.Resource{
		Name:            p.String(),
		Etag:            etag(r.GetModIndex()),
		Version:         r.GetVersion(),
		EarlierVersions: r.GetEarlier(),
	}
}
