package command

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

// The tables of the objects of the API.

func state(s kryptonv1.ObjectState) string { return enum(s, "OBJECT_STATE_") }

func versionGrid(vs []*kryptonv1.KeyVersion) string {
	g := grid{head: []string{"VERSION", "STATE", "PRIMARY", "CREATED", "ROLLBACK UNTIL", "DESTROY TIME"}}
	for _, v := range vs {
		g.add(fmt.Sprint(v.GetNumber()), enum(v.GetState(), "VERSION_STATE_"), yesNo(v.GetPrimary()),
			when(v.GetCreateTime()), when(v.GetRollbackUntil()), when(v.GetDestroyTime()))
	}
	return g.text()
}

func versionSheet(v *kryptonv1.KeyVersion) string {
	var s sheet
	s.add("name", v.GetName())
	s.add("state", enum(v.GetState(), "VERSION_STATE_"))
	s.add("primary", yesNo(v.GetPrimary()))
	s.add("wrapped by", v.GetParent())
	s.add("created", when(v.GetCreateTime()))
	s.add("rollback until", when(v.GetRollbackUntil()))
	s.add("destroy time", when(v.GetDestroyTime()))
	s.add("uid", v.GetUid())
	s.add("etag", v.GetEtag())
	return s.text()
}

func tenantSheet(t *kryptonv1.Tenant) string {
	var s sheet
	s.add("name", t.GetName())
	s.add("state", state(t.GetState()))
	s.add("suspended because of", strings.Join(t.GetSuspendCauses(), ", "))
	bound := t.GetBinding()
	if bound == nil {
		s.add("customer key", "none yet: give the uid to the customer, then krypton tenant bind")
	}
	s.add("keystore", bound.GetKeystore())
	s.add("customer key", bound.GetKey())
	for _, one := range bound.GetIdentity() {
		s.add("identity: "+one.GetName(), one.GetValue())
	}
	if len(bound.GetIdentity()) != 0 {
		s.add("key in its keystore", bound.GetL1())
		s.add("regions", cmp.Or(strings.Join(bound.GetRegions(), ", "), "all"))
		if len(bound.GetRegions()) != 0 {
			s.add("other regions", deniedText(bound.GetDeniedIn()))
		}
		s.add("shares its key with", strings.Join(bound.GetSharedWith(), ", "))
	}
	s.add("customer key version", t.GetBinding().GetKeyVersion())
	s.add("primary version", fmt.Sprint(t.GetPrimaryVersion()))
	s.add("governors", strings.Join(t.GetGovernors(), ", "))
	s.add("created", when(t.GetCreateTime()))
	s.add("destroy time", when(t.GetDestroyTime()))
	s.add("uid", t.GetUid())
	s.add("etag", t.GetEtag())
	return s.text() + "\n" + versionGrid(t.GetVersions())
}

// deniedText says what was proved of the regions that may not use a key.
func deniedText(regions []string) string {
	if len(regions) == 0 {
		return "not proved: no node of one was there to try"
	}
	return "denied in " + strings.Join(regions, ", ")
}

func tenantGrid(ts []*kryptonv1.Tenant) string {
	g := grid{head: []string{"NAME", "STATE", "PRIMARY", "KEYSTORE", "CREATED", "DESTROY TIME"}}
	for _, t := range ts {
		g.add(t.GetName(), state(t.GetState()), fmt.Sprint(t.GetPrimaryVersion()), t.GetBinding().GetKeystore(), when(t.GetCreateTime()), when(t.GetDestroyTime()))
	}
	return g.text()
}

func serviceSheet(v *kryptonv1.Service) string {
	var s sheet
	s.add("name", v.GetName())
	s.add("state", state(v.GetState()))
	s.add("suspended because of", strings.Join(v.GetSuspendCauses(), ", "))
	s.add("primary version", fmt.Sprint(v.GetPrimaryVersion()))
	s.add("created", when(v.GetCreateTime()))
	s.add("destroy time", when(v.GetDestroyTime()))
	s.add("uid", v.GetUid())
	s.add("etag", v.GetEtag())
	return s.text() + "\n" + versionGrid(v.GetVersions())
}

func serviceGrid(vs []*kryptonv1.Service) string {
	g := grid{head: []string{"NAME", "STATE", "PRIMARY", "CREATED", "DESTROY TIME"}}
	for _, v := range vs {
		g.add(v.GetName(), state(v.GetState()), fmt.Sprint(v.GetPrimaryVersion()), when(v.GetCreateTime()), when(v.GetDestroyTime()))
	}
	return g.text()
}

func pinned(version uint32) string {
	if version == 0 {
		return "none"
	}
	return fmt.Sprint(version)
}

func resourceSheet(r *kryptonv1.Resource) string {
	var s sheet
	s.add("name", r.GetName())
	s.add("pinned version", pinned(r.GetVersion()))
	var earlier []string
	for _, v := range r.GetEarlierVersions() {
		earlier = append(earlier, pinned(v))
	}
	s.add("earlier", strings.Join(earlier, ", "))
	s.add("etag", r.GetEtag())
	return s.text()
}

func resourceGrid(rs []*kryptonv1.Resource) string {
	g := grid{head: []string{"NAME", "PINNED VERSION"}}
	for _, r := range rs {
		g.add(r.GetName(), pinned(r.GetVersion()))
	}
	return g.text()
}

func nodeSheet(n *kryptonv1.Node) string {
	var s sheet
	h := n.GetHealth()
	s.add("name", n.GetName())
	s.add("display name", n.GetDisplayName())
	s.add("role", enum(n.GetRole(), "NODE_ROLE_"))
	s.add("leader", yesNo(n.GetLeader()))
	s.add("removed", map[bool]string{true: "yes"}[n.GetRemoved()])
	s.add("region", n.GetRegion())
	s.add("zone", n.GetZone())
	s.add("grpc address", n.GetGrpcAddress())
	s.add("rest address", n.GetRestAddress())
	s.add("peer address", n.GetPeerAddress())
	s.add("reachable", yesNo(h.GetReachable()))
	s.add("seal", enum(h.GetSeal(), "SEAL_STATE_"))
	s.add("serving", yesNo(h.GetServing()))
	s.add("not serving because", h.GetNotServingReason())
	s.add("version", h.GetVersion())
	s.add("memory tier", h.GetMemoryTier())
	s.add("etag", n.GetEtag())
	return s.text()
}

func nodeGrid(ns []*kryptonv1.Node) string {
	g := grid{head: []string{"NODE", "NAME", "ROLE", "LEADER", "SEAL", "SERVING", "REGION", "ADDRESS"}}
	ns = slices.SortedFunc(slices.Values(ns), func(a, b *kryptonv1.Node) int { return strings.Compare(nodeName(a), nodeName(b)) })
	for _, n := range ns {
		if n.GetRemoved() { // it is listed because its identity can never come back
			g.add(n.GetId(), n.GetDisplayName(), "REMOVED", "", "", "", n.GetRegion(), n.GetGrpcAddress())
			continue
		}
		serving := "unknown"
		if h := n.GetHealth(); h.GetReachable() {
			serving = yesNo(h.GetServing())
			if r := h.GetNotServingReason(); r != "" {
				serving += " (" + r + ")"
			}
		}
		g.add(n.GetId(), n.GetDisplayName(), enum(n.GetRole(), "NODE_ROLE_"), yesNo(n.GetLeader()),
			enum(n.GetHealth().GetSeal(), "SEAL_STATE_"), serving, n.GetRegion(), n.GetGrpcAddress())
	}
	return g.text()
}

func clusterSheet(c *kryptonv1.ClusterInfo) string {
	var s sheet
	s.add("cluster", c.GetName())
	s.add("fingerprint", c.GetFingerprint())
	s.add("keyspace", c.GetKeyspaceId())
	s.add("leader", c.GetLeader())
	s.add("term", fmt.Sprint(c.GetTerm()))
	s.add("index", fmt.Sprint(c.GetAppliedIndex()))
	s.add("voters wanted", fmt.Sprint(c.GetVotersWanted()))
	if c.GetVoters() < c.GetVotersAgreed() {
		s.add("voters left", fmt.Sprintf("%d of %d that people let in", c.GetVoters(), c.GetVotersAgreed()))
	}
	s.add("internal key version", fmt.Sprint(c.GetInternalKeyVersion()))
	s.add("sealed by a person", map[bool]string{true: "yes"}[c.GetHeld()])
	return s.text()
}

func operationSheet(o *kryptonv1.Operation) string {
	var s sheet
	s.add("name", o.GetName())
	s.add("done", yesNo(o.GetDone()))
	s.add("target", o.GetTarget())
	s.add("error", o.GetReason())
	s.add("message", o.GetMessage())
	s.add("hint", o.GetHint())
	s.add("created", when(o.GetCreateTime()))
	s.add("index", fmt.Sprint(o.GetIndex()))
	s.add("via", o.GetViaNode())
	s.add("complete", yesNo(o.GetComplete()))
	s.add("pending nodes", strings.Join(o.GetPendingNodes(), ", "))
	if o.GetCompleteByTime() != nil {
		s.add("complete by", when(o.GetCompleteByTime()))
	}
	return s.text()
}

func sealSheet(st *kryptonv1.SealStatus) string {
	var s sheet
	s.add("node", nodeLabel(st))
	s.add("state", enum(st.GetState(), "SEAL_STATE_"))
	s.add("mode", strings.TrimPrefix(enum(st.GetMode(), "SEAL_MODE_"), "UNSPECIFIED"))
	s.add("shares", shareProgress(st))
	s.add("groups", groupsText(st))
	s.add("missing", st.GetEnough())
	s.add("shares wait until", when(st.GetSharesExpireTime()))
	s.add("fingerprint", st.GetFingerprint())
	if st.GetHeld() {
		s.add("held", "yes: "+st.GetHoldReason())
	}
	if st.GetState() != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED {
		s.add("unseals without people", yesNo(st.GetUnsealsWithoutPeople()))
		s.add("persons needed", fmt.Sprint(st.GetPersonsNeeded()))
	}
	s.add("keystores watched", when(st.GetWatchTime()))
	s.add("strength", strengthText(st))
	s.add("holders to spare", spareText(st))
	s.add("last failure", st.GetLastFailure())
	s.add("way back", st.GetWayBack())
	if holders := holdersText(st); holders != "" {
		return s.text() + "\n" + holders
	}
	return s.text()
}

func nodeLabel(st *kryptonv1.SealStatus) string {
	if st.GetNodeName() == "" || st.GetNodeName() == st.GetNodeId() {
		return st.GetNodeId()
	}
	return st.GetNodeName() + " (" + st.GetNodeId() + ")"
}

// shareProgress returns "2 of 3" while shares are given.
func shareProgress(st *kryptonv1.SealStatus) string {
	if st.GetMode() != kryptonv1.SealMode_SEAL_MODE_SHAMIR || st.GetState() != kryptonv1.SealState_SEAL_STATE_SEALED {
		return ""
	}
	return fmt.Sprintf("%d of %d", st.GetHave(), st.GetNeed())
}
