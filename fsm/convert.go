package fsm

import (
	"time"

	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
)

// The rules of states live in package hierarchy; here is the way there and
// back. Numbers of states are the same on both sides (I6).

// at returns a time of the replicated state; 0 is the absent time.
func at(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// uidOf copies a uid whose length was checked when it came in.
func uidOf(b []byte) (u hierarchy.UID) {
	copy(u[:], b)
	return u
}

func toVersion(v *fsmpb.Version) hierarchy.Version {
	return hierarchy.Version{
		UID:             uidOf(v.GetUid()),
		Number:          hierarchy.VersionNumber(v.GetNumber()),
		State:           hierarchy.VersionState(v.GetState()),
		Before:          hierarchy.VersionState(v.GetStateBefore()),
		EverCompromised: v.GetEverCompromised(),
		CreatedAt:       at(v.GetCreateTimeMs()),
		SupersededAt:    at(v.GetSupersededTimeMs()),
		ReleasedAt:      at(v.GetReleasedTimeMs()),
		Pins:            v.GetPins(),
		DestroyAt:       at(v.GetDestroyTimeMs()),
	}
}

func toChain(vs []*fsmpb.Version, primary uint32, paused bool, window time.Duration) hierarchy.Chain {
	c := hierarchy.Chain{
		Versions: make([]hierarchy.Version, len(vs)),
		Primary:  hierarchy.VersionNumber(primary),
		Window:   window,
		Paused:   paused,
	}
	for i, v := range vs {
		c.Versions[i] = toVersion(v)
	}
	return c
}

// mergeChain returns the versions after a change of their chain: those that did
// not change are shared with vs, the others are new. added is the version that
// the chain has one more, if it has.
func (t *tx) mergeChain(vs []*fsmpb.Version, was, is hierarchy.Chain, added *fsmpb.Version) []*fsmpb.Version {
	out := make([]*fsmpb.Version, len(is.Versions))
	for i, n := range is.Versions {
		if i < len(vs) && n == was.Versions[i] {
			out[i] = vs[i]
			continue
		}
		v := added
		if i < len(vs) {
			v = vs[i]
		}
		w := &fsmpb.Version{
			Number:           uint32(n.Number), //nolint:gosec // At most hierarchy.MaxVersions.
			Uid:              v.GetUid(),
			State:            fsmpb.VersionState(n.State),  //nolint:gosec // A small enum.
			StateBefore:      fsmpb.VersionState(n.Before), //nolint:gosec // A small enum.
			EverCompromised:  n.EverCompromised,
			Blob:             v.GetBlob(),
			ParentUid:        v.GetParentUid(),
			CreateTimeMs:     ms(n.CreatedAt),
			SupersededTimeMs: ms(n.SupersededAt),
			DestroyTimeMs:    ms(n.DestroyAt),
			ModIndex:         t.index,
			Pins:             n.Pins,
			ReleasedTimeMs:   ms(n.ReleasedAt),
		}
		if i < len(vs) {
			if onlyPins(was.Versions[i], n) {
				w.ModIndex = v.GetModIndex()
			}
			w.GateIndex = t.versionGate(v, w)
		} else {
			w.GateIndex = t.versionGate(nil, w)
		}
		if n.State == hierarchy.Destroyed && v.GetState() != fsmpb.VersionState_VERSION_STATE_DESTROYED {
			w.DestroyTimeMs = t.timeMS
		}
		if n.State == hierarchy.Destroyed {
			w.Blob = nil // I7
		}
		out[i] = w
	}
	return out
}

// onlyPins reports whether two readings of a version differ in nothing that a
// data operation can tell.
func onlyPins(a, b hierarchy.Version) bool {
	b.Pins, b.ReleasedAt = a.Pins, a.ReleasedAt
	return a == b
}

// causeNames are the suspend causes as the state holds them. Changing one
// breaks every snapshot in which it stands.
//
//nolint:gochecknoglobals // Immutable table, in the order of the bits.
var causeNames = []struct {
	name string
	bit  hierarchy.Causes
}{
	{causeOperator, hierarchy.CauseOperator},
	{causeL1Denied, hierarchy.CauseL1Denied},
	{causeUnlink, hierarchy.CauseUnlinked},
}

func causeOf(name string) (hierarchy.Causes, bool) {
	for _, c := range causeNames {
		if c.name == name {
			return c.bit, true
		}
	}
	return 0, false
}

func toCauses(names []string) (c hierarchy.Causes) {
	for _, n := range names {
		bit, _ := causeOf(n)
		c |= bit
	}
	return c
}

func fromCauses(c hierarchy.Causes) (names []string) {
	for _, n := range causeNames {
		if c.Has(n.bit) {
			names = append(names, n.name)
		}
	}
	return names
}

func toObject(s fsmpb.ObjectState, causes []string, destroyMS int64) hierarchy.Object {
	return hierarchy.Object{State: hierarchy.ObjectState(s), Causes: toCauses(causes), DestroyAt: at(destroyMS)}
}

// window is the rollback window of the cluster; 0 is hierarchy's default.
func (m *meta) window() time.Duration {
	return millis(m.cluster.GetSettings().GetRollbackWindowMs())
}

func (m *meta) tenantChain(t *fsmpb.Tenant) hierarchy.Chain {
	return toChain(t.GetVersions(), t.GetPrimary(), t.GetRotationPaused(), m.window())
}

func (m *meta) serviceChain(s *fsmpb.Service) hierarchy.Chain {
	return toChain(s.GetVersions(), s.GetPrimary(), s.GetRotationPaused(), m.window())
}

func (m *meta) ivkChain() hierarchy.Chain {
	return toChain(m.cluster.GetInternalKeys(), m.cluster.GetInternalKeyPrimary(), false, m.window())
}

// Shallow copies. Lists are shared: a change replaces a list, it never writes
// into one. TestShallowCopiesAreComplete holds that no field is forgotten.

func copyTenant(t *fsmpb.Tenant) *fsmpb.Tenant {
	return &fsmpb.Tenant{
		Name: t.GetName(), Uid: t.GetUid(), State: t.GetState(), SuspendCauses: t.GetSuspendCauses(), Binding: t.GetBinding(),
		L2Uid: t.GetL2Uid(), L2Blob: t.GetL2Blob(), L2IvkUid: t.GetL2IvkUid(), Primary: t.GetPrimary(), Versions: t.GetVersions(),
		CreateTimeMs: t.GetCreateTimeMs(), DestroyTimeMs: t.GetDestroyTimeMs(), ModIndex: t.GetModIndex(),
		RotationPaused: t.GetRotationPaused(), GateIndex: t.GetGateIndex(), Governors: t.GetGovernors(), PolicyIndex: t.GetPolicyIndex(),
	}
}

func copyService(s *fsmpb.Service) *fsmpb.Service {
	return &fsmpb.Service{
		Tenant: s.GetTenant(), Name: s.GetName(), Uid: s.GetUid(), State: s.GetState(), SuspendCauses: s.GetSuspendCauses(),
		Primary: s.GetPrimary(), Versions: s.GetVersions(), CreateTimeMs: s.GetCreateTimeMs(), DestroyTimeMs: s.GetDestroyTimeMs(),
		ModIndex: s.GetModIndex(), TenantUid: s.GetTenantUid(), RotationPaused: s.GetRotationPaused(), GateIndex: s.GetGateIndex(),
	}
}

func copyMember(m *fsmpb.Member) *fsmpb.Member {
	return &fsmpb.Member{
		Id: m.GetId(), Name: m.GetName(), PublicKey: m.GetPublicKey(), PeerAddress: m.GetPeerAddress(),
		GrpcAddress: m.GetGrpcAddress(), RestAddress: m.GetRestAddress(), Region: m.GetRegion(), Zone: m.GetZone(),
		Voter: m.GetVoter(), Removed: m.GetRemoved(), CreateTimeMs: m.GetCreateTimeMs(), ModIndex: m.GetModIndex(),
		Version: m.GetVersion(), MaxFormat: m.GetMaxFormat(), Purged: m.GetPurged(),
	}
}

func copyCluster(c *fsmpb.Cluster) *fsmpb.Cluster {
	return &fsmpb.Cluster{
		KeyspaceId: c.GetKeyspaceId(), ClusterId: c.GetClusterId(), Name: c.GetName(), Fingerprint: c.GetFingerprint(),
		FormatVersion: c.GetFormatVersion(), Settings: c.GetSettings(), SealRecord: c.GetSealRecord(), Persons: c.GetPersons(),
		Rules: c.GetRules(), Hold: c.GetHold(), InternalKeys: c.GetInternalKeys(), InternalKeyPrimary: c.GetInternalKeyPrimary(),
		ModIndex: c.GetModIndex(), Genesis: c.GetGenesis(), LeaseMs: c.GetLeaseMs(), AuthorityIndex: c.GetAuthorityIndex(), VotersAgreed: c.GetVotersAgreed(),
		SealManifests:    c.GetSealManifests(),
		Incarnations:     c.GetIncarnations(),
		GenerationBegins: c.GetGenerationBegins(),
		Exposure:         c.GetExposure(), SealConfirmations: c.GetSealConfirmations(), Backups: c.GetBackups(),
	}
}
