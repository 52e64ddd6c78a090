package command

import (
	"crypto/x509"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// Limits of the checks. A warning is early enough to act on in office hours.
const (
	certWarn   = 7 * 24 * time.Hour // or a third of its life, if that is less
	clockWarn  = 500 * time.Millisecond
	clockFail  = 5 * time.Second
	behindWarn = 1000 // changes
	diskWarn   = 10   // per cent of the file system
	diskFail   = 256 << 20
	memoryWarn = 80 // per cent of what may be locked
	rateWarn   = 0.005
	rateFail   = 0.01 // of time; what leases allow for

	leasesFormat    = 3 // format version of a cluster from which on it has leases
	authorityFormat = 4 // and role bindings
)

// outcome is how a check ended.
type outcome string

const (
	ok      outcome = "ok"
	warning outcome = "warn"
	failure outcome = "FAIL"
	skipped outcome = "-"
)

func (o outcome) color() color {
	switch o {
	case ok:
		return green
	case warning:
		return yellow
	case failure:
		return red
	case skipped:
	}
	return plain
}

// finding is what a check found.
type finding struct {
	name    string
	verdict outcome
	says    string
	next    string
	err     error // of a failure
}

// check is one question. Its function looks at facts and at nothing else.
type check struct {
	name string
	asks string // as --help shows it
	look func(f facts) finding
}

func (c check) run(f facts) finding {
	out := c.look(f)
	out.name = c.name
	return out
}

func fine(format string, a ...any) finding {
	return finding{verdict: ok, says: fmt.Sprintf(format, a...)}
}

func leftOut(why string) finding { return finding{verdict: skipped, says: "left out: " + why} }

func warn(next, format string, a ...any) finding {
	return finding{verdict: warning, says: fmt.Sprintf(format, a...), next: next}
}

func broken(err error) finding {
	e := errs.From(err)
	return finding{verdict: failure, says: e.Msg, next: e.Hint, err: err}
}

func brokenf(code errs.Code, next, format string, a ...any) finding {
	return broken(errs.Newf(code, format, a...).With(errs.Hint("%s", next)))
}

// checks returns all checks in the order in which their failures explain each other.
func checks() []check {
	return []check{
		{"settings", "addresses, files and context can be used", checkSettings},
		{"identity", "your certificate is accepted and does not expire soon", checkIdentity},
		{"bindings", "no certificate of the cluster's CA gives a role without a role binding", checkBindings},
		{"addresses", "every node of --addr answers, with a certificate of your cluster", checkAddresses},
		{"node-certs", "no node's certificate expires soon", checkNodeCerts},
		{"one-cluster", "all nodes of --addr belong to the same cluster", checkOneCluster},
		{"seal", "every node is unsealed, and the cluster is not held", checkSeal},
		{"keystores", "every keystore of the seal opens it, as the leader found", checkSealHolders},
		{"exposure", "nothing is left to do after an exposed MasterKey was replaced", checkExposure},
		{"policies", "every node can compile the policies of every tenant", checkPolicies},
		{"serving", "every member serves", checkServing},
		{"quorum", "there is a leader, and one voter may fail", checkQuorum},
		{"leases", "every unsealed member has a serving lease, the leader gives them, and clocks are exact enough for them", checkLeases},
		{"up-to-date", "no member is behind in applying changes", checkBehind},
		{"disk", "every member has space for data and audit trail", checkDisk},
		{"clocks", "the clocks of the members and yours agree", checkClocks},
		{"versions", "all members run one release", checkVersions},
		{"memory", "keys are in locked memory with room left, and dumps are off", checkMemory},
		{"approvals", "what all have signed for is done", checkApprovals},
		{"limits", "no caller and no tenant was refused calls in the last 10 minutes because of what it spent", checkLimits},
	}
}

func checkSettings(f facts) finding {
	if f.settings != nil {
		return broken(f.settings)
	}
	return fine("%s", plural(len(f.servers), "address", "addresses"))
}

// renewHint is what to do about the own certificate.
const renewHint = "renew it: krypton operator cert renew; or ask a governor for a new one: krypton operator cert issue"

func checkIdentity(f facts) finding {
	if f.settings != nil {
		return leftOut("the settings cannot be used")
	}
	var left time.Duration
	if f.leaf != nil {
		left = f.leaf.NotAfter.Sub(f.now)
	}
	switch {
	case f.leaf != nil && left <= 0:
		return brokenf(errs.Unauthenticated, renewHint, "your certificate expired on %s", f.leaf.NotAfter.UTC().Format(time.RFC3339))
	case f.leaf != nil && f.now.Before(f.leaf.NotBefore):
		return brokenf(errs.Unauthenticated, "look at the clock of this machine", "your certificate is not valid before %s", f.leaf.NotBefore.UTC().Format(time.RFC3339))
	case f.meErr != nil && errs.Is(f.meErr, errs.Unavailable):
		return leftOut("no node answers")
	case f.meErr != nil:
		return broken(f.meErr)
	}
	who := strings.ToLower(enum(f.me.GetRole(), "ROLE_")) + " " + f.me.GetName()
	if f.me.GetTenant() != "" {
		who += " of " + f.me.GetTenant()
	}
	if f.leaf == nil {
		return fine("you are %s, by your token", who)
	}
	if endsSoon(f.leaf, f.now) {
		return warn(renewHint, "you are %s; your certificate expires in %s", who, roughly(left))
	}
	return fine("you are %s; your certificate is valid for %s", who, roughly(left))
}

// checkBindings looks whether a certificate alone still gives a role, as it did in
// clusters of older releases.
func checkBindings(f facts) finding {
	format := f.view.info.GetFormatVersion()
	switch unbound := f.builtin.GetUnboundRoles(); {
	case f.settings != nil || f.view.info == nil:
		return leftOut("no node answers")
	case format < authorityFormat:
		return warn("upgrade every node; the leader then raises the format version by itself", "the cluster has no role bindings yet: roles come from certificates alone (format %d)", format)
	case errs.Is(f.builtErr, errs.Denied):
		return leftOut("your role does not see issuers")
	case f.builtErr != nil || f.builtin == nil:
		return leftOut("the issuers are not seen")
	case len(unbound) > 0:
		return warn("bind who still needs it (krypton operator cert issue NAME --public-key, for the key in use), then krypton issuer update builtin --require-bindings: docs/identity.md",
			"certificates of the roles %s count without a role binding, whoever made them with the CA's key", roleWords(unbound))
	}
	return fine("every caller of the cluster's CA has a role binding for one key")
}

func checkAddresses(f facts) finding {
	if len(f.servers) == 0 {
		return leftOut("the settings cannot be used")
	}
	for _, s := range f.servers {
		if s.err != nil {
			return broken(s.err)
		}
	}
	for _, a := range f.view.answers {
		if a.err != nil {
			return broken(a.err)
		}
	}
	if len(f.servers) == 1 && len(f.view.members) > 1 {
		return warn("give --addr or KRYPTON_ADDR more of them, so that the loss of one node is not felt", "one address for a cluster of %d nodes", len(f.view.members))
	}
	return fine("%s", plural(len(f.servers), "node answers", "nodes answer"))
}

func checkNodeCerts(f facts) finding {
	least := time.Duration(1 << 62)
	for _, s := range f.servers {
		if s.leaf == nil {
			continue
		}
		left := s.leaf.NotAfter.Sub(f.now)
		if endsSoon(s.leaf, f.now) {
			return warn("a node renews its certificate by itself while it is unsealed: look at its log", "the certificate of %s expires in %s", s.addr, roughly(left))
		}
		least = min(least, left)
	}
	if least == 1<<62 {
		return leftOut("no node shows a certificate")
	}
	return fine("the next one expires in %s, and is renewed before", roughly(least))
}

// endsSoon reports whether a certificate should have been renewed by now.
func endsSoon(c *x509.Certificate, now time.Time) bool {
	return c.NotAfter.Sub(now) < min(certWarn, c.NotAfter.Sub(c.NotBefore)/3)
}

func checkOneCluster(f facts) finding {
	seen := map[string]string{}
	for _, a := range f.view.answers {
		if a.err == nil && a.status.GetFingerprint() != "" {
			seen[a.status.GetFingerprint()] = a.addr
		}
	}
	switch len(seen) {
	case 0:
		return leftOut("no node of a cluster answers")
	case 1:
		for fp := range seen {
			return fine("fingerprint %s", fp)
		}
	}
	var at []string
	for _, addr := range seen {
		at = append(at, addr)
	}
	slices.Sort(at)
	return brokenf(errs.InvalidConfig, "compare their fingerprints with krypton status, and take one of them out of --addr", "%s belong to different clusters", strings.Join(at, " and "))
}

func checkSeal(f facts) finding {
	n := 0
	for _, a := range f.view.answers {
		if a.err != nil {
			continue
		}
		n++
		switch {
		case a.status.GetHeld():
			return brokenf(errs.Held, "find out why before anybody uses krypton operator release-hold", "a person sealed the cluster and it stays so")
		case sealedError(a.status) != nil:
			return broken(sealedError(a.status))
		}
	}
	if n == 0 {
		return leftOut("no node answers")
	}
	return fine("%s unsealed", plural(n, "node", "nodes"))
}

func checkPolicies(f facts) finding {
	n := 0
	for _, a := range f.view.answers {
		if a.err != nil {
			continue
		}
		n++
		if faults := a.status.GetPolicyFaults(); faults > 0 {
			return brokenf(errs.FailedState, "look on its machine which and why, krypton status --data-dir DIR, and have their governors set policies that are right: krypton policy set",
				"node %s refuses what policies decide of %s: they do not compile there", nodeLabel(a.status), plural(int(faults), "tenant", "tenants"))
		}
	}
	if n == 0 {
		return leftOut("no node answers")
	}
	return fine("%s can ask them", plural(n, "node", "nodes"))
}

// members runs fn for a view that has members.
func members(f facts, fn func(ms []*kryptonv1.Node) finding) finding {
	switch {
	case len(f.view.members) > 0:
		return fn(f.view.members)
	case errs.Is(f.view.memberErr, errs.Denied):
		return leftOut("your role does not see the members")
	}
	return leftOut("the members are not seen")
}

// reachable runs fn for those members that answer.
func answering(f facts, fn func(ms []*kryptonv1.Node) finding) finding {
	return members(f, func(ms []*kryptonv1.Node) finding {
		up := slices.DeleteFunc(slices.Clone(ms), func(m *kryptonv1.Node) bool { return !m.GetHealth().GetReachable() })
		if len(up) == 0 {
			return leftOut("no member answers")
		}
		return fn(up)
	})
}

func checkServing(f facts) finding {
	return members(f, func(ms []*kryptonv1.Node) finding {
		for _, m := range ms {
			switch h := m.GetHealth(); {
			case !h.GetReachable():
				return brokenf(errs.Unavailable, "look whether it runs and whether its peer port "+m.GetPeerAddress()+" can be reached from the others", "%s does not answer the other nodes", nodeName(m))
			case !h.GetServing():
				return brokenf(errs.NotServing, "its own krypton status --data-dir and its log say more", "%s serves nothing: %s", nodeName(m), h.GetNotServingReason())
			}
		}
		if gone := f.view.strangers(); len(gone) > 0 {
			return brokenf(errs.NotServing, "stop it, and take it out of --addr or of the context", "the node at %s was removed from the cluster and serves nothing", gone[0])
		}
		return fine("%s serve", plural(len(ms), "member", "members"))
	})
}

func checkQuorum(f facts) finding {
	return members(f, func([]*kryptonv1.Node) finding {
		all, up := f.view.voters()
		switch spare := f.view.spare(); {
		case f.view.leader() == nil:
			return brokenf(errs.NoLeader, lostQuorum, "no leader is known, so nothing can be changed; %d of %d voters answer", up, all)
		case spare < 0:
			return brokenf(errs.NoLeader, lostQuorum, "%d of %d voters answer, which is no majority", up, all)
		case all == 1:
			return warn("three voters survive the loss of one: krypton operator join-token --voter", "there is one voter, which may not fail")
		case spare == 0:
			return warn("bring back the voter that is away, or add one: krypton operator join-token --voter", "%d of %d voters answer; none may fail", up, all)
		case all%2 == 0:
			return warn("add or demote one: an even number survives no more than one less", "there are %d voters", all)
		default:
			return fine("%s leads; %d of %d voters may fail", nodeName(f.view.leader()), spare, all)
		}
	})
}

// clockRate returns by which part a node's clock runs faster than the leader's;
// false: nobody knows.
func clockRate(h *kryptonv1.NodeHealth) (float64, bool) {
	l := h.GetLeaseHolding()
	over := l.GetClockOver().AsDuration()
	if over <= 0 {
		return 0, false
	}
	return l.GetClockAhead().AsDuration().Seconds() / over.Seconds(), true
}

// lostQuorum is what to do when nobody leads.
const lostQuorum = "bring back voters until a majority answers: docs/runbooks/lost-quorum.md"

// toTheLeader is what to look at when leases do not come.
const toTheLeader = "look at the network between it and the leader (port 8402) and at its log"

func checkLeases(f facts) finding {
	return answering(f, func(ms []*kryptonv1.Node) finding {
		if f.view.info.GetFormatVersion() < leasesFormat {
			return warn("upgrade every node; the leader then raises the format version by itself", "the cluster has no leases yet, so nodes of this release serve nothing: format %d", f.view.info.GetFormatVersion())
		}
		l := f.view.leader()
		if l.GetHealth().GetReachable() && l.GetHealth().GetLeaderLeases() == nil {
			return brokenf(errs.NotServing, "a new leader gives leases within a second; if it stays so, look at its log, or hand over: krypton operator transfer", "%s leads and gives no leases", nodeName(l))
		}
		least, whose := time.Duration(1<<62), ""
		fastest, drifts := 0.0, ""
		for _, m := range ms {
			h := m.GetHealth()
			if h.GetSeal() != kryptonv1.SealState_SEAL_STATE_UNSEALED {
				continue
			}
			if h.GetLeaseRemaining() == nil {
				next, why := toTheLeader, h.GetLeaseRefusal()
				switch held := h.GetLeaseHolding(); {
				case why != "":
				case l == nil:
					next, why = lostQuorum, "no leader is known"
				case held.GetLag() > 0 && held.GetHeld().AsDuration() > 0:
					next, why = "look at its disk, its load and the network; it catches up by itself", fmt.Sprintf("it must apply %s first", plural(int(min(held.GetLag(), math.MaxInt32)), "change", "changes"))
				default:
					why = "it did not hear from the leader"
				}
				return brokenf(errs.NotServing, next, "%s has no serving lease: %s", nodeName(m), why)
			}
			if d := h.GetLeaseRemaining().AsDuration(); d < least {
				least, whose = d, nodeName(m)
			}
			if r, ok := clockRate(h); ok && math.Abs(r) > math.Abs(fastest) {
				fastest, drifts = r, nodeName(m)
			}
		}
		next := "look at the time service and the hypervisor of both machines; leases rely on 1 %, so take a machine whose clock is worse out of the cluster"
		rate := fmt.Sprintf("the clock of %s and that of the leader run apart by %.2f %%", drifts, 100*math.Abs(fastest))
		switch {
		case whose == "":
			return leftOut("no member is unsealed")
		case math.Abs(fastest) > rateFail:
			return brokenf(errs.FailedState, next, "%s", rate)
		case math.Abs(fastest) > rateWarn:
			return warn(next, "%s", rate)
		case least < f.view.info.GetLeaseDuration().AsDuration()/2:
			return warn(toTheLeader+"; a leader that is just being replaced is no reason to worry", "the lease of %s ends in %.1f s: it was not renewed lately", whose, least.Seconds())
		}
		return fine("the shortest ends in %.1f s (%s)", least.Seconds(), whose)
	})
}

func checkBehind(f facts) finding {
	return answering(f, func(ms []*kryptonv1.Node) finding {
		for _, m := range ms {
			if d := f.view.behind(m.GetHealth()); d > behindWarn {
				return warn("look at the network and the disk of the node; it catches up by itself", "%s is %d changes behind", nodeName(m), d)
			}
		}
		return fine("%s", plural(len(ms), "member", "members"))
	})
}

func checkDisk(f facts) finding {
	return answering(f, func(ms []*kryptonv1.Node) finding {
		least, whose := uint64(1<<63), ""
		for _, m := range ms {
			h := m.GetHealth()
			if h.GetDiskTotalBytes() == 0 {
				continue
			}
			free := min(h.GetDiskFreeBytes(), h.GetAuditFreeBytes())
			switch {
			case free < diskFail:
				return brokenf(errs.AuditUnavailable, "make room or enlarge the file system: docs/runbooks/disk-full.md", "%s has %s left; a full disk stops its service", nodeName(m), bytesText(free))
			case 100*h.GetDiskFreeBytes()/h.GetDiskTotalBytes() < diskWarn:
				return warn("make room or enlarge the file system: docs/runbooks/disk-full.md", "%s has %s left", nodeName(m), diskText(h))
			case free < least:
				least, whose = free, nodeName(m)
			}
		}
		if whose == "" {
			return leftOut("no member knows its space")
		}
		return fine("at least %s free (%s)", bytesText(least), whose)
	})
}

func checkClocks(f facts) finding {
	return answering(f, func(ms []*kryptonv1.Node) finding {
		most, whose := time.Duration(0), ""
		for _, m := range ms {
			h := m.GetHealth()
			if off := h.GetClockOffset().AsDuration(); off.Abs() > most.Abs() {
				most, whose = off, "the clock of "+nodeName(m)
			}
			if !m.GetSelf() || h.GetWallTime() == nil {
				continue
			}
			if off := f.view.offset(h.GetWallTime().AsTime()); off.Abs() > clockWarn && off.Abs() > most.Abs() {
				most, whose = off, "the clock of this machine"
			}
		}
		const next = "synchronise it (chrony, systemd-timesyncd): certificates and audit records go by it"
		switch {
		case most.Abs() > clockFail:
			return brokenf(errs.FailedState, next, "%s is off by %s", whose, most.Round(time.Millisecond))
		case most.Abs() > clockWarn:
			return warn(next, "%s is off by %s", whose, most.Round(time.Millisecond))
		}
		return fine("within %s", clockWarn)
	})
}

func checkVersions(f facts) finding {
	return answering(f, func(ms []*kryptonv1.Node) finding {
		var seen []string
		for _, m := range ms {
			if v := m.GetHealth().GetVersion(); !slices.Contains(seen, v) {
				seen = append(seen, v)
			}
			if knows := m.GetHealth().GetMaxFormat(); knows != 0 && knows < f.view.info.GetFormatVersion() {
				return brokenf(errs.FailedState, "install the release that the other nodes run", "%s knows formats up to %d, the registry has %d", nodeName(m), knows, f.view.info.GetFormatVersion())
			}
		}
		if len(seen) > 1 {
			slices.Sort(seen)
			return warn("finish the upgrade", "the members run %s", strings.Join(seen, " and "))
		}
		return fine("%s, format %d", seen[0], f.view.info.GetFormatVersion())
	})
}

func checkMemory(f facts) finding {
	return answering(f, func(ms []*kryptonv1.Node) finding {
		for _, m := range ms {
			h := m.GetHealth()
			limit := uint64(max(h.GetMemoryLimitBytes(), 0))
			switch {
			case h.GetMemoryTier() == "none":
				return warn("raise LimitMEMLOCK of the service, or RLIMIT_MEMLOCK, and set memory.require", "%s keeps keys in memory that can be swapped out", nodeName(m))
			case !h.GetHardened():
				return warn("look for what the node's log says about hardening at its start", "%s can be dumped or debugged", nodeName(m))
			case limit > 0 && 100*h.GetMemoryUsedBytes() > memoryWarn*limit:
				return warn("raise memory.lock_mib and LimitMEMLOCK", "%s uses %s of %s of locked memory", nodeName(m), bytesText(h.GetMemoryUsedBytes()), bytesText(limit))
			}
		}
		return fine("tier %s", ms[0].GetHealth().GetMemoryTier())
	})
}

// checkApprovals looks whether something keeps the cluster from what people signed for.
// That signatures are missing is nothing wrong.
func checkApprovals(f facts) finding {
	return members(f, func([]*kryptonv1.Node) finding {
		if n := int(f.view.info.GetApprovalsStuck()); n > 0 {
			return warn("krypton approval list shows them, and krypton approval get NAME at the leader says what is in the way",
				"all have signed for %s more than a minute ago, and it is not done", plural(n, "approval", "approvals"))
		}
		return fine("%s", approvalsText(f.view.info))
	})
}

func checkLimits(f facts) finding {
	return answering(f, func([]*kryptonv1.Node) finding {
		var first *kryptonv1.LimitedCaller
		at, more, asked := "", 0, 0
		for _, l := range f.limited {
			if l.err != nil {
				continue
			}
			asked++
			for _, w := range l.who {
				if first == nil {
					first, at = w, l.addr
				} else {
					more++
				}
			}
		}
		switch {
		case asked == 0:
			return leftOut("no node of --addr tells whom it limits")
		case first == nil:
			return fine("nobody is limited")
		}
		who := "caller " + first.GetPrincipal()
		if first.GetTenant() != "" {
			who = "all workloads of " + first.GetTenant() + " together"
		}
		says := fmt.Sprintf("%s refused %d %s calls of %s", at, first.GetRefused(), first.GetCalls(), who)
		if more > 0 {
			says += ", and of " + plural(more, "other", "others")
		}
		return warn("see what the caller does; if it is meant to, raise its limits: docs/runbooks/limited.md", "%s", says)
	})
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// roughly returns a duration in its largest unit: "29 days".
func roughly(d time.Duration) string {
	switch day := 24 * time.Hour; {
	case d < 0:
		return "the past"
	case d >= 2*day:
		return fmt.Sprintf("%d days", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return plural(int(d/time.Minute), "minute", "minutes")
}
