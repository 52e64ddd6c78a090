package command

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// wellFacts are the facts of a cluster of three nodes to which nothing is wrong,
// as an operator sees it.
func wellFacts() *facts {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	leaf := func(d time.Duration) *x509.Certificate {
		return &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(d)}
	}
	f := &facts{
		now: now, leaf: leaf(30 * 24 * time.Hour), me: &kryptonv1.WhoAmIResponse{Role: kryptonv1.Role_ROLE_OPERATOR, Name: "olga"},
		builtin: &kryptonv1.Issuer{Name: builtinIssuer},
		view:    &view{asked: now, answered: now, info: &kryptonv1.ClusterInfo{FormatVersion: 4, LeaseDuration: durationpb.New(3 * time.Second)}},
	}
	for i, name := range []string{"n1", "n2", "n3"} {
		addr := name + ":8400"
		f.limited = append(f.limited, limited{addr: addr})
		f.servers = append(f.servers, server{addr: addr, leaf: leaf(20 * 24 * time.Hour)})
		f.view.answers = append(f.view.answers, answer{addr: addr, status: &kryptonv1.SealStatus{
			NodeId: name, NodeName: name, State: kryptonv1.SealState_SEAL_STATE_UNSEALED, Fingerprint: "aa",
		}})
		f.view.members = append(f.view.members, &kryptonv1.Node{
			Id: name, DisplayName: name, GrpcAddress: addr, Role: kryptonv1.NodeRole_NODE_ROLE_VOTER, Leader: i == 0, Self: i == 0,
			Health: &kryptonv1.NodeHealth{
				Reachable: true, Seal: kryptonv1.SealState_SEAL_STATE_UNSEALED, Serving: true, AppliedIndex: 100, Version: "v1", MemoryTier: "mlock",
				ContactAge: durationpb.New(0), DiskFreeBytes: 50 << 30, DiskTotalBytes: 100 << 30, AuditFreeBytes: 50 << 30,
				WallTime: timestamppb.New(now), MemoryUsedBytes: 1 << 20, MemoryLimitBytes: 8 << 20, Hardened: true, MaxFormat: 4,
				LeaseRemaining: durationpb.New(2800 * time.Millisecond), LeaseHolding: &kryptonv1.LeaseHolding{
					Held: durationpb.New(3 * time.Second), ClockOver: durationpb.New(time.Minute), ClockAhead: durationpb.New(-time.Millisecond),
				},
			},
		})
	}
	f.seal(0).WatchTime, f.seal(0).Mode = timestamppb.New(now), kryptonv1.SealMode_SEAL_MODE_AUTO
	for _, name := range []string{"hsm-1", "hsm-2"} {
		f.seal(0).Holders = append(f.seal(0).GetHolders(), &kryptonv1.HolderProgress{
			Name: name, Keystore: name, Key: "k", State: kryptonv1.HolderState_HOLDER_STATE_GAVE, Since: timestamppb.New(now),
		})
	}
	f.health(0).LeaderLeases = &kryptonv1.LeaderLeases{Term: 4, CompleteIndex: 100}
	return f
}

func (f *facts) seal(i int) *kryptonv1.SealStatus   { return f.view.answers[i].status }
func (f *facts) health(i int) *kryptonv1.NodeHealth { return f.view.members[i].GetHealth() }

func TestAWellClusterPassesEveryCheck(t *testing.T) {
	t.Parallel()
	for _, c := range checks() {
		if got := c.run(*wellFacts()); got.verdict != ok || got.says == "" || got.next != "" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	if v := wellFacts().view.verdict(); v.State != healthy || v.Summary != "3 of 3 nodes serve, n1 leads, 1 of 3 voters may fail" {
		t.Errorf("%+v", v)
	}
}

// TestEveryCheckIsProvoked breaks one thing at a time: the check that is meant
// to see it does, says what to do, and no check before it complains.
func TestEveryCheckIsProvoked(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	provoked := map[string]bool{}
	noon := when(timestamppb.New(wellFacts().now))
	for _, tt := range []struct {
		name    string
		harm    func(f *facts)
		check   string
		verdict outcome
		exit    int // of a failure
		says    string
		also    string // other checks that see it, too
	}{
		{"no settings", func(f *facts) {
			*f = facts{now: f.now, view: &view{}, settings: errs.New(errs.InvalidConfig, "no identity is given", errs.Hint("give one"))}
		}, "settings", failure, 2, "no identity is given", ""},
		{"expired", func(f *facts) { f.leaf.NotAfter = f.now.Add(-day) }, "identity", failure, 4, "your certificate expired on 2026-06-30T12:00:00Z", ""},
		{"not yet valid", func(f *facts) { f.leaf.NotBefore = f.now.Add(day) }, "identity", failure, 4, "your certificate is not valid before 2026-07-02T12:00:00Z", ""},
		{"expires soon", func(f *facts) { f.leaf.NotAfter, f.leaf.NotBefore = f.now.Add(3*day), f.now.Add(-27*day) }, "identity", warning, 0, "you are operator olga; your certificate expires in 3 days", ""},
		{"not accepted", func(f *facts) {
			f.meErr = errs.New(errs.Unauthenticated, "the certificate is of another cluster", errs.Hint("get another one"))
		}, "identity", failure, 4, "the certificate is of another cluster", ""},
		{"roles by certificate alone", func(f *facts) {
			f.builtin.UnboundRoles = []kryptonv1.Role{kryptonv1.Role_ROLE_AUDITOR, kryptonv1.Role_ROLE_WORKLOAD}
		}, "bindings", warning, 0, "certificates of the roles auditor, workload count without a role binding, whoever made them with the CA's key", ""},
		{"no role bindings yet", func(f *facts) { f.view.info.FormatVersion = 3 }, "bindings", warning, 0, "the cluster has no role bindings yet: roles come from certificates alone (format 3)", ""},
		{"port closed", func(f *facts) {
			f.servers[1] = server{addr: "n2:8400", err: errs.New(errs.Unavailable, "n2:8400 cannot be reached", errs.Hint("start it"))}
		}, "addresses", failure, 6, "n2:8400 cannot be reached", ""},
		{"answers no call", func(f *facts) {
			f.view.answers[2] = answer{addr: "n3:8400", err: errs.New(errs.Unavailable, "node n3 does not answer", errs.Hint("start it"))}
		}, "addresses", failure, 6, "node n3 does not answer", ""},
		{"one address", func(f *facts) { f.servers, f.view.answers = f.servers[:1], f.view.answers[:1] }, "addresses", warning, 0, "one address for a cluster of 3 nodes", ""},
		{"node certificate", func(f *facts) {
			f.servers[1].leaf.NotAfter = f.now.Add(50 * time.Hour)
			f.servers[1].leaf.NotBefore = f.now.Add(-20 * day)
		}, "node-certs", warning, 0, "the certificate of n2:8400 expires in 2 days", ""},
		{"two clusters", func(f *facts) { f.seal(2).Fingerprint = "bb" }, "one-cluster", failure, 2, "n2:8400 and n3:8400 belong to different clusters", ""},
		{"sealed", func(f *facts) { f.seal(1).State = kryptonv1.SealState_SEAL_STATE_SEALED }, "seal", failure, 7, "node n2 is sealed", ""},
		{"sealed, and who is missing", func(f *facts) {
			f.seal(1).State, f.seal(1).Enough = kryptonv1.SealState_SEAL_STATE_SEALED, "1 more of: anna (person)"
		}, "seal", failure, 7, "node n2 is sealed; it takes 1 more of: anna (person)", ""},
		{"a keystore of the seal", func(f *facts) {
			h := f.seal(0).GetHolders()[1]
			h.State, h.Failure = kryptonv1.HolderState_HOLDER_STATE_FAILED, "denied"
		}, "keystores", warning, 0, "1 of 2 keystores of the seal cannot open it: hsm-2 (denied since " + noon + ")", ""},
		{"a keystore that the record lacks", func(f *facts) {
			f.seal(0).GetHolders()[0].State = kryptonv1.HolderState_HOLDER_STATE_MISSING
		}, "keystores", warning, 0, "1 of 2 keystores of the seal cannot open it: hsm-1 (missing in the record since " + noon + ")", ""},
		{"a keystore with a share", func(f *facts) {
			shamirFacts(f, &kryptonv1.SealMargin{Opens: true, HoldersToSpare: 1}, "hsm-2")
		}, "keystores", warning, 0, "1 of 2 keystores of the seal cannot open it: hsm-2 (corrupt since " + noon + "); a node that starts needs people; 1 more holder may be lost before nothing opens it", ""},
		{"too many keystores with shares", func(f *facts) {
			shamirFacts(f, &kryptonv1.SealMargin{}, "hsm-1", "hsm-2")
		}, "keystores", failure, 7, "too few holders of the seal are left to open it, so that a node which restarts stays sealed: hsm-1 (corrupt since " + noon + "), hsm-2 (corrupt since " + noon + ")", ""},
		{"all keystores with shares, and people are left", func(f *facts) {
			shamirFacts(f, &kryptonv1.SealMargin{Opens: true}, "hsm-1", "hsm-2")
		}, "keystores", warning, 0, "2 of 2 keystores of the seal cannot open it: hsm-1 (corrupt since " + noon + "), hsm-2 (corrupt since " + noon + "); a node that starts needs people; 0 more holders may be lost before nothing opens it", ""},
		{"every keystore of the seal", func(f *facts) {
			for _, h := range f.seal(0).GetHolders() {
				h.State, h.Failure = kryptonv1.HolderState_HOLDER_STATE_FAILED, "unavailable"
			}
		}, "keystores", failure, 7, "no keystore of the seal opens it, so that a node which restarts stays sealed: " +
			"hsm-1 (unavailable since " + noon + "), hsm-2 (unavailable since " + noon + ")", ""},
		{"no cluster", func(f *facts) {
			f.seal(1).State, f.seal(1).Fingerprint = kryptonv1.SealState_SEAL_STATE_UNINITIALIZED, ""
		}, "seal", failure, 7, "node n2 belongs to no cluster", ""},
		{"policies", func(f *facts) { f.seal(1).PolicyFaults = 2 }, "policies", failure, 5, "node n2 refuses what policies decide of 2 tenants: they do not compile there", ""},
		{"held", func(f *facts) { f.seal(0).Held = true }, "seal", failure, 7, "a person sealed the cluster and it stays so", ""},
		{"does not serve", func(f *facts) {
			f.health(1).Serving, f.health(1).NotServingReason = false, "no serving lease"
		}, "serving", failure, 6, "n2 serves nothing: no serving lease", ""},
		{"removed, and its process runs", func(f *facts) { f.view.members = f.view.members[:2] }, "serving", failure, 6, "the node at n3:8400 was removed from the cluster and serves nothing", "quorum"},
		{"unreachable", func(f *facts) { f.view.members[1].Health = &kryptonv1.NodeHealth{} }, "serving", failure, 6, "n2 does not answer the other nodes", "quorum"},
		{"none may fail", func(f *facts) { f.health(1).Reachable = false }, "quorum", warning, 0, "2 of 3 voters answer; none may fail", "serving"},
		{"no majority", func(f *facts) { f.health(1).Reachable, f.health(2).Reachable = false, false }, "quorum", failure, 6, "1 of 3 voters answer, which is no majority", "serving"},
		{"no leader", func(f *facts) { f.view.members[0].Leader = false }, "quorum", failure, 6, "no leader is known, so nothing can be changed; 3 of 3 voters answer", ""},
		{"even", func(f *facts) {
			f.view.members = append(f.view.members, wellFacts().view.members[1])
		}, "quorum", warning, 0, "there are 4 voters", ""},
		{"one voter", func(f *facts) {
			f.view.members[1].Role, f.view.members[2].Role = kryptonv1.NodeRole_NODE_ROLE_NON_VOTER, kryptonv1.NodeRole_NODE_ROLE_NON_VOTER
		}, "quorum", warning, 0, "there is one voter, which may not fail", ""},
		{"behind", func(f *facts) { f.health(1).LeaseHolding.Lag = 4900 }, "up-to-date", warning, 0, "n2 is 4900 changes behind", ""},
		{"behind, and the leader does not say", func(f *facts) {
			f.health(1).LeaseHolding, f.health(0).AppliedIndex = nil, 5000
		}, "up-to-date", warning, 0, "n2 is 4900 changes behind", ""},
		{"no lease", func(f *facts) { f.health(2).LeaseRemaining = nil }, "leases", failure, 6, "n3 has no serving lease: it did not hear from the leader", ""},
		{"no lease, and nobody leads", func(f *facts) {
			f.view.members[0].Leader, f.health(2).LeaseRemaining = false, nil
		}, "leases", failure, 6, "n3 has no serving lease: no leader is known", "quorum"},
		{"lease refused", func(f *facts) {
			f.health(2).LeaseRemaining, f.health(2).LeaseRefusal = nil, "log rolled back"
		}, "leases", failure, 6, "n3 has no serving lease: log rolled back", ""},
		{"behind with a lease that needs more", func(f *facts) {
			f.health(2).LeaseRemaining, f.health(2).LeaseHolding.Lag = nil, 7
		}, "leases", failure, 6, "n3 has no serving lease: it must apply 7 changes first", ""},
		{"dead for the leader, and behind", func(f *facts) {
			f.health(2).LeaseRemaining, f.health(2).LeaseHolding = nil, &kryptonv1.LeaseHolding{Lag: 7}
		}, "leases", failure, 6, "n3 has no serving lease: it did not hear from the leader", ""},
		{"renewed late", func(f *facts) {
			f.health(1).LeaseRemaining = durationpb.New(900 * time.Millisecond)
		}, "leases", warning, 0, "the lease of n2 ends in 0.9 s: it was not renewed lately", ""},
		{"leader gives none", func(f *facts) { f.health(0).LeaderLeases = nil }, "leases", failure, 6, "n1 leads and gives no leases", ""},
		{"clock too slow", func(f *facts) {
			f.health(1).LeaseHolding.ClockAhead = durationpb.New(-360 * time.Millisecond)
		}, "leases", warning, 0, "the clock of n2 and that of the leader run apart by 0.60 %", ""},
		{"clock beyond what leases allow", func(f *facts) {
			f.health(1).LeaseHolding.ClockAhead = durationpb.New(660 * time.Millisecond)
		}, "leases", failure, 5, "the clock of n2 and that of the leader run apart by 1.10 %", ""},
		{"before leases", func(f *facts) { f.view.info.FormatVersion = 2 }, "leases", warning, 0, "the cluster has no leases yet, so nodes of this release serve nothing: format 2", "bindings"},
		{"disk full", func(f *facts) { f.health(2).DiskFreeBytes = 1 << 20 }, "disk", failure, 6, "n3 has 1.0 MiB left; a full disk stops its service", ""},
		{"audit disk full", func(f *facts) { f.health(2).AuditFreeBytes = 1 << 20 }, "disk", failure, 6, "n3 has 1.0 MiB left; a full disk stops its service", ""},
		{"disk nearly full", func(f *facts) { f.health(2).DiskFreeBytes = 5 << 30 }, "disk", warning, 0, "n3 has 5.0 GiB (5 %) left", ""},
		{"clock off", func(f *facts) { f.health(2).ClockOffset = durationpb.New(-time.Second) }, "clocks", warning, 0, "the clock of n3 is off by -1s", ""},
		{"clock far off", func(f *facts) { f.health(2).ClockOffset = durationpb.New(time.Hour) }, "clocks", failure, 5, "the clock of n3 is off by 1h0m0s", ""},
		{"own clock", func(f *facts) {
			f.view.asked, f.view.answered = f.now.Add(2*time.Second), f.now.Add(3*time.Second)
		}, "clocks", warning, 0, "the clock of this machine is off by 2s", ""},
		{"own clock behind", func(f *facts) {
			f.view.asked, f.view.answered = f.now.Add(-time.Minute), f.now.Add(-6*time.Second)
		}, "clocks", failure, 5, "the clock of this machine is off by -6s", ""},
		{"two releases", func(f *facts) { f.health(2).Version = "v2" }, "versions", warning, 0, "the members run v1 and v2", ""},
		{"old release", func(f *facts) { f.view.info.FormatVersion = 5; f.health(0).MaxFormat, f.health(1).MaxFormat = 5, 5 }, "versions", failure, 5, "n3 knows formats up to 4, the registry has 5", ""},
		{"unlocked", func(f *facts) { f.health(2).MemoryTier = "none" }, "memory", warning, 0, "n3 keeps keys in memory that can be swapped out", ""},
		{"dumps", func(f *facts) { f.health(2).Hardened = false }, "memory", warning, 0, "n3 can be dumped or debugged", ""},
		{"an exposure is not over", func(f *facts) {
			f.ceremonies = []*kryptonv1.Ceremony{{Name: "ceremonies/0a", Exposure: &kryptonv1.Exposure{BeginTime: timestamppb.New(f.now.Add(-time.Minute))}}}
		}, "exposure", warning, 0, "the exposed MasterKey was replaced 1m0s ago, and what it opened is not all gone: krypton ceremony status 0a", ""},
		{"an approval is stuck", func(f *facts) { f.view.info.ApprovalsApproved, f.view.info.ApprovalsStuck = 1, 1 }, "approvals", warning, 0, "all have signed for 1 approval more than a minute ago, and it is not done", ""},
		{"caller limited", func(f *facts) {
			f.limited[1].who = []*kryptonv1.LimitedCaller{{Principal: "ab/workload/acme/app1", Calls: "use", Refused: 12}, {Tenant: "tenants/acme", Calls: "use", Refused: 3}}
		}, "limits", warning, 0, "n2:8400 refused 12 use calls of caller ab/workload/acme/app1, and of 1 other", ""},
		{"tenant limited", func(f *facts) {
			f.limited[2].who = []*kryptonv1.LimitedCaller{{Tenant: "tenants/acme", Calls: "use", Refused: 3}}
		}, "limits", warning, 0, "n3:8400 refused 3 use calls of all workloads of tenants/acme together", ""},
		{"memory full", func(f *facts) { f.health(2).MemoryUsedBytes = 7 << 20 }, "memory", warning, 0, "n3 uses 7.0 MiB of 8.0 MiB of locked memory", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := wellFacts()
			tt.harm(f)
			provoked[tt.check] = true
			for _, c := range checks() {
				got := c.run(*f)
				switch {
				case c.name == tt.check:
					if got.verdict != tt.verdict || got.says != tt.says || got.next == "" {
						t.Errorf("%s: %s %q, next %q; want %s %q", c.name, got.verdict, got.says, got.next, tt.verdict, tt.says)
					}
					if (got.err != nil) != (tt.verdict == failure) || got.err != nil && errs.Of(got.err).Row().Exit != tt.exit {
						t.Errorf("%s: error %v, want exit status %d", c.name, got.err, tt.exit)
					}
				case (got.verdict == failure || got.verdict == warning) && c.name != tt.also:
					t.Errorf("%s complains, too: %s", c.name, got.says)
				}
			}
		})
	}
	for _, c := range checks() {
		if !provoked[c.name] {
			t.Errorf("nothing provokes %s", c.name)
		}
	}
}

// TestSignaturesThatAreMissingAreNothingWrong: people take their time.
func TestSignaturesThatAreMissingAreNothingWrong(t *testing.T) {
	t.Parallel()
	for want, harm := range map[string]func(*facts){
		"none waits":            func(*facts) {},
		"3 wait for signatures": func(f *facts) { f.view.info.ApprovalsPending = 3 },
		"1 waits for signatures, 1 is signed and not done yet": func(f *facts) { f.view.info.ApprovalsPending, f.view.info.ApprovalsApproved = 1, 1 },
	} {
		f := wellFacts()
		harm(f)
		if got := checkApprovals(*f); got.verdict != ok || got.says != want {
			t.Errorf("%+v, want %q", got, want)
		}
	}
}

func TestChecksThatCannotLookSaySo(t *testing.T) {
	t.Parallel()
	f := wellFacts()
	f.view.members, f.view.memberErr = nil, errs.New(errs.Denied, "no")
	for _, c := range checks()[10:] {
		if got := c.run(*f); got.verdict != skipped || got.says != "left out: your role does not see the members" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestAnAnswerThatTakesItsTimeIsNoClockThatIsOff: with a member that is away the
// others' answers take more than a second.
func TestAnAnswerThatTakesItsTimeIsNoClockThatIsOff(t *testing.T) {
	t.Parallel()
	f := wellFacts()
	f.view.asked, f.view.answered = f.now.Add(-time.Second), f.now.Add(2*time.Second)
	f.now = f.now.Add(-5 * time.Second) // when doctor began
	if got := checkClocks(*f); got.verdict != ok {
		t.Errorf("%+v", got)
	}
}

// TestANodeThatIsAwayMayStillServe, as far as the leader knows; and nothing that is
// said to be the most is rounded down.
func TestANodeThatIsAwayMayStillServe(t *testing.T) {
	t.Parallel()
	f := wellFacts()
	f.view.members[2].Health = &kryptonv1.NodeHealth{
		NotServingReason: "it does not answer this node", LeaseHolding: &kryptonv1.LeaseHolding{Held: durationpb.New(1201 * time.Millisecond)},
	}
	f.view.members[0].Health.LeaderLeases = &kryptonv1.LeaderLeases{Fences: 2, Waits: []*kryptonv1.LeaseWait{{Node: "nodes/n3", AtMost: durationpb.New(time.Millisecond)}}}
	f.view.members[2].Name = "nodes/n3"
	if text := f.view.grid().text(); !strings.Contains(text, "at most 1.3 s") {
		t.Error(text)
	}
	s := f.view.sheet()
	if text := s.text(); !strings.Contains(text, "2, for n3 (at most 0.1 s)") {
		t.Error(text)
	}
	f.view.members[2].Health.LeaseHolding = nil
	if text := f.view.grid().text(); strings.Contains(text, "at most") {
		t.Error(text)
	}
}

// TestShortLivedCertificatesAreNotAlwaysSoonOver: one that lives for a day is
// not a warning for all of it.
func TestShortLivedCertificatesAreNotAlwaysSoonOver(t *testing.T) {
	t.Parallel()
	f := wellFacts()
	f.leaf.NotBefore, f.leaf.NotAfter = f.now.Add(-12*time.Hour), f.now.Add(12*time.Hour)
	if got := checkIdentity(*f); got.verdict != ok {
		t.Errorf("%+v", got)
	}
	f.now = f.now.Add(5 * time.Hour)
	if got := checkIdentity(*f); got.verdict != warning {
		t.Errorf("%+v", got)
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		harm     func(f *facts)
		state    string
		problems string
	}{
		{"well", func(*facts) {}, healthy, ""},
		{"one does not serve", func(f *facts) { f.health(1).Serving, f.health(1).NotServingReason = false, "sealed" }, degraded, "n2 serves nothing: sealed"},
		{"nobody serves", func(f *facts) {
			for i := range 3 {
				f.health(i).Serving = false
			}
		}, down, "n1 serves nothing: |n2 serves nothing: |n3 serves nothing: "},
		{"no leader", func(f *facts) { f.view.members[0].Leader = false }, degraded, "no leader is known, so nothing can be changed"},
		{"not for me", func(f *facts) { f.view.answers[2] = answer{addr: "n3:8400", err: errors.New("x")} }, degraded, "n3:8400 does not answer you: internal error"},
		{"one was removed", func(f *facts) { f.view.members = f.view.members[:2] }, degraded, "the node at n3:8400 was removed from the cluster and serves nothing"},
		{"held", func(f *facts) { f.view.info.Held = true }, degraded, "a person sealed the cluster; krypton operator release-hold lets it unseal again"},
		{"a workload sees seals", func(f *facts) { f.view.members = nil }, healthy, ""},
		{"a workload sees a sealed one", func(f *facts) { f.view.members = nil; f.seal(1).State = kryptonv1.SealState_SEAL_STATE_SEALED }, degraded, "node n2 is sealed; krypton unseal gives the shares of people who are named; the node asks keystores by itself"},
		{"a workload sees nothing", func(f *facts) { f.view = &view{answers: []answer{{addr: "n1:8400", err: errors.New("x")}}} }, down, "n1:8400 does not answer you: internal error"},
	} {
		f := wellFacts()
		tt.harm(f)
		if v := f.view.verdict(); v.State != tt.state || strings.Join(v.Problems, "|") != tt.problems {
			t.Errorf("%s: %+v", tt.name, v)
		}
	}
}

func TestDigits3(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{0: "0s", 999: "999ns", 1618943: "1.62ms", 63078399: "63.1ms", time.Minute: "1m0s"} {
		if got := digits3(d).String(); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

func TestSizesAndTimesAsPeopleReadThem(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", 1 << 62: "4.0 EiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "the past", time.Minute: "1 minute", 3 * time.Hour: "3 hours", 50 * time.Hour: "2 days"} {
		if got := roughly(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

// shamirFacts makes the seal one of shares, of which these keystores open theirs no more.
func shamirFacts(f *facts, m *kryptonv1.SealMargin, lost ...string) {
	st := f.seal(0)
	st.Mode, st.Margin = kryptonv1.SealMode_SEAL_MODE_SHAMIR, m
	for i, h := range st.GetHolders() {
		h.Index = uint32(i) + 1
		for _, name := range lost {
			if h.GetName() == name {
				h.State, h.Failure = kryptonv1.HolderState_HOLDER_STATE_FAILED, "corrupt"
			}
		}
	}
}

// TestAShareIsReplacedByACeremony: what people are told to do with a seal of shares, which
// nothing repairs by itself; and what they are told to leave alone.
func TestAShareIsReplacedByACeremony(t *testing.T) {
	t.Parallel()
	f := wellFacts()
	shamirFacts(f, &kryptonv1.SealMargin{WithoutPeople: true, KeystoresToSpare: 1, Opens: true, HoldersToSpare: 3})
	if got := checkSealHolders(*f); got.verdict != ok || !strings.Contains(got.says, "1 more keystore may be lost before a node that starts needs people, 3 before nothing opens it") {
		t.Errorf("%+v", got)
	}
	shamirFacts(f, &kryptonv1.SealMargin{Opens: true}, "hsm-2")
	if got := checkSealHolders(*f); !strings.Contains(got.next, "krypton ceremony start reshare") || strings.Contains(got.next, "wrapped again") {
		t.Errorf("%+v", got)
	}
	shamirFacts(f, &kryptonv1.SealMargin{}, "hsm-2")
	if got := checkSealHolders(*f); !strings.Contains(got.next, "restart no node") || strings.Contains(got.next, "start reshare") {
		t.Errorf("%+v", got)
	}
	if auto := checkSealHolders(*wellFacts()); strings.Contains(auto.says, "reshare") {
		t.Errorf("%+v", auto)
	}
}
