package node_test

import (
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/audit"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// autoCluster is a cluster of so many unsealed nodes, which any of three keystores
// opens. The first node leads.
func autoCluster(t *testing.T, nodes int, opts ...option) (*world, []*member) {
	t.Helper()
	w, o := newWorld(t, opts...)
	w.keystores(t, "hsm-1", "hsm-2", "hsm-3")
	var all []*member
	for range nodes {
		all = append(all, w.add(t, o))
	}
	p := autoPlan(t)
	p.Seal, p.AcceptRisks = plan.Plan{Keys: []plan.Holder{holderOf("hsm-1"), holderOf("hsm-2"), holderOf("hsm-3")}}, plan.Risks()
	must[*node.InitResult](t)(all[0].init(p))
	for _, m := range all[1:] {
		w.join(m)
		check(t, m.AskKeystores(t.Context()))
	}
	return w, all
}

// registry returns the seal record that the registry of a member has.
func (m *member) registry(t tb) seal.Record {
	return must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
}

// onDisk returns the seal record that a start of the member would have.
func (m *member) onDisk(t tb) seal.Record {
	return must[seal.Record](t)(seal.ReadFile(filepath.Join(m.dir, "record.pb"), hierarchy.KeyspaceID{}))
}

// unsealsBy starts a member again and has it unseal through one keystore alone.
func (m *member) unsealsBy(t *testing.T, name string) {
	t.Helper()
	for _, n := range []string{"hsm-1", "hsm-2", "hsm-3"} {
		if n != name {
			m.w.faults.fail(keystore.Unavailable, n)
		}
	}
	stop(m.Node)
	m.boot(t)
	m.contact.Store(int64(time.Hour)) // alone
	if err := m.AskKeystores(t.Context()); err != nil || !m.Unsealed() {
		t.Errorf("by %s alone: %v", name, err)
	}
	m.contact.Store(0)
	m.follow()
}

func encoded(t tb, r *sealpb.Record) []byte { return must[[]byte](t)(proto.Marshal(r)) }

// repairOf makes the command that replaces the record of a member's registry.
func repairOf(m *member, record []byte) *fsmpb.Command {
	base := sha256.Sum256(m.machine.View().Cluster().GetSealRecord())
	return &fsmpb.Command{Format: fsm.CommandFormat, Body: &fsmpb.Command_RepairSeal{RepairSeal: &fsmpb.RepairSeal{Base: base[:], Record: record}}}
}

func state(st node.SealStatus, i int) string {
	h := st.Progress.Holders[i]
	if h.Failure != nil {
		return h.Failure.Class.String()
	}
	return h.State.String()
}

func TestI12_ALostWrappingIsMadeAgainAndEveryNodeHasIt(t *testing.T) {
	w, all := autoCluster(t, 2)
	a, b := all[0], all[1]
	before := a.registry(t)
	secrets := memsec.Report().Secrets
	w.faults.lose("hsm-2", before)
	check(t, a.WatchSeal(t.Context()))
	after := a.registry(t)
	if after.Digest() == before.Digest() || after.ManifestDigest() != before.ManifestDigest() {
		t.Fatal("the record is the same, or the manifest is another")
	}
	if st := a.status(t); state(st, 1) != "gave" || st.Watched.IsZero() || st.Protection != keystore.ProtectionSoftware {
		t.Errorf("%s, %+v", state(st, 1), st)
	}
	if got := a.SealWatch(); got.Repairs != 1 || !got.Opens["hsm-1"] || !got.Opens["hsm-2"] || got.At.IsZero() {
		t.Errorf("%+v", got)
	}
	for _, m := range all {
		m.Observe(t.Context())
		if !m.Unsealed() {
			t.Error("a repair sealed a node")
		}
		if m.onDisk(t).Digest() != after.Digest() {
			t.Error("the disk has another record than the registry")
		}
	}
	if n := memsec.Report().Secrets; n != secrets {
		t.Errorf("%d secrets are left", n-secrets)
	}
	b.unsealsBy(t, "hsm-2")
	recs := a.records("node.repair_seal")
	if len(recs) != 2 || recs[1].Outcome != errs.OutcomeOK || len(a.records("node.watch_seal")) == 0 {
		t.Errorf("audit: %+v", recs)
	}
	// Once more there is nothing to do.
	w.faults.fail(keystore.ClassUnspecified, "hsm-1", "hsm-2", "hsm-3")
	check(t, a.WatchSeal(t.Context()))
	if a.registry(t).Digest() != after.Digest() || len(a.records("node.repair_seal")) != 2 {
		t.Error("a seal that is well is repaired")
	}
}

// TestWhatIsNotLostIsLeftAlone: a keystore that is away has its wrapping still, and
// one that denies the key denies it for wrapping, too.
func TestWhatIsNotLostIsLeftAlone(t *testing.T) {
	w, all := autoCluster(t, 1)
	a := all[0]
	before := a.registry(t).Digest()
	for _, c := range []keystore.Class{keystore.Unavailable, keystore.Throttled} {
		w.faults.fail(c, "hsm-2")
		wraps, _ := w.faults.count("hsm-2")
		check(t, a.WatchSeal(t.Context()))
		if n, _ := w.faults.count("hsm-2"); n != wraps || len(a.records("node.repair_seal")) != 0 {
			t.Errorf("%s: it is wrapped again", c)
		}
		if st := a.status(t); state(st, 1) != c.String() {
			t.Errorf("%s, want %s", state(st, 1), c)
		}
	}
	w.faults.fail(keystore.Denied, "hsm-2") // it wraps, and does not open what it wrapped
	wants(t, a.WatchSeal(t.Context()), errs.KeystoreMisconfigured)
	if recs := a.records("node.repair_seal"); len(recs) != 2 || recs[1].Outcome == errs.OutcomeOK {
		t.Errorf("audit: %+v", recs)
	}
	// When none opens it there is nothing to make it from.
	w.faults.fail(keystore.Corrupt, "hsm-1", "hsm-2", "hsm-3")
	check(t, a.WatchSeal(t.Context()))
	if len(a.records("node.repair_seal")) != 2 || a.registry(t).Digest() != before {
		t.Error("a repair from nothing")
	}
	if got := a.SealWatch(); got.Opens["hsm-1"] || got.Opens["hsm-2"] || got.Opens["hsm-3"] {
		t.Errorf("%+v", got)
	}
}

func TestALeaderThatIsNoneAnyMoreRepairsNothing(t *testing.T) {
	w, all := autoCluster(t, 2)
	a, b := all[0], all[1]
	before := a.registry(t)
	w.faults.lose("hsm-2", before)
	// Leadership moves while the MasterKey is being wrapped again.
	a.hooks(func(cmd *fsmpb.Command) error {
		if cmd.GetRepairSeal() != nil {
			w.leads.Store(1)
		}
		return nil
	}, nil)
	wants(t, a.WatchSeal(t.Context()), errs.NoLeader)
	if a.registry(t).Digest() != before.Digest() {
		t.Fatal("who does not lead repaired")
	}
	check(t, b.WatchSeal(t.Context()))
	if b.registry(t).Digest() == before.Digest() {
		t.Error("the next leader does not repair")
	}

	// Two in turn: the second finds that the record it began with is another now.
	w.leads.Store(0)
	now := a.registry(t)
	w.faults.lose("hsm-3", now)
	a.hooks(func(cmd *fsmpb.Command) error {
		if cmd.GetRepairSeal() != nil {
			w.leads.Store(1)
			check(t, b.WatchSeal(t.Context()))
			w.leads.Store(0)
		}
		return nil
	}, nil)
	wants(t, a.WatchSeal(t.Context()), errs.Aborted)
	if got := a.SealWatch().Repairs; got != 0 {
		t.Errorf("%d repairs of one that made none", got)
	}
	w.faults.fail(keystore.ClassUnspecified, "hsm-2", "hsm-3")
	b.Observe(t.Context())
	b.unsealsBy(t, "hsm-3")
}

// TestI12_ASealedNodeTakesWhatHasItsManifest, without a MasterKey that could prove it.
func TestI12_ASealedNodeTakesWhatHasItsManifest(t *testing.T) {
	w, all := autoCluster(t, 2)
	a, b := all[0], all[1]
	stop(b.Node)
	b.boot(t)
	w.faults.fail(keystore.Denied, "hsm-1", "hsm-2", "hsm-3")
	if err := b.AskKeystores(t.Context()); err == nil {
		t.Fatal("unsealed by keystores that deny")
	}
	w.faults.fail(keystore.ClassUnspecified, "hsm-1", "hsm-3")
	w.faults.lose("hsm-2", a.registry(t))
	b.follow() // and says that it opened what is new
	check(t, a.WatchSeal(t.Context()))
	b.Observe(t.Context())
	if b.Unsealed() || b.onDisk(t).Digest() != a.registry(t).Digest() {
		t.Error("the sealed node did not take the repaired record")
	}
	w.faults.fail(keystore.Unavailable, "hsm-1", "hsm-3")
	check(t, b.AskKeystores(t.Context()))
	if !b.Unsealed() {
		t.Error("it does not unseal with it")
	}
}

// TestI12_ARegistryThatIsBehindTakesNoRepairBack: a node that starts alone has the
// registry of its last snapshot.
func TestI12_ARegistryThatIsBehindTakesNoRepairBack(t *testing.T) {
	w, all := autoCluster(t, 2)
	a, b := all[0], all[1]
	w.faults.lose("hsm-2", a.registry(t))
	check(t, a.WatchSeal(t.Context()))
	b.Observe(t.Context())
	repaired := b.onDisk(t).Digest()
	stop(b.Node)
	b.boot(t)
	w.mu.Lock()
	commands := w.commands
	w.commands = commands[:len(commands)-1] // without the repair
	b.catchUp()
	w.commands = commands
	w.mu.Unlock()
	if b.registry(t).Digest() == repaired {
		t.Fatal("the registry is not behind")
	}
	b.Observe(t.Context())
	if b.onDisk(t).Digest() != repaired {
		t.Error("the repair is taken back")
	}
	b.unsealsBy(t, "hsm-2")
}

// TestI12_ARepairNeverWrapsToAnotherKey: a command that adds one is refused by every
// replica, also if a leader gives it.
func TestI12_ARepairNeverWrapsToAnotherKey(t *testing.T) {
	w, all := autoCluster(t, 1)
	a := all[0]
	w.keystores(t, "thief")
	pb := a.registry(t).Proto()
	stolen := pb.GetWrappings()[0]
	stolen.ProviderKey.Provider = "thief"
	pb.Wrappings = append(a.registry(t).Proto().GetWrappings(), stolen)
	if _, err := seal.ParseRecord(encoded(t, pb)); err == nil {
		t.Error("such a record can be read")
	}
	res := w.commit(repairOf(a, encoded(t, pb)))
	if res.GetReason() != errs.InvalidArgument.String() || a.registry(t).Mode() != seal.ModeAuto {
		t.Errorf("%s: %s", res.GetReason(), res.GetMessage())
	}
	if _, _, err := a.registry(t).Rewrap(t.Context(), rand.Reader, []seal.ProviderKey{{Provider: "sealing", Key: sealKey}}, a.stores, w.clock, time.Minute); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("to a keystore of the node that is none of the seal: %v", err)
	}
}

func TestNoRepairBeforeItsFormat(t *testing.T) {
	w, all := autoCluster(t, 1, ofFormat(fsm.FormatCeremonies-1))
	a := all[0]
	before := a.registry(t)
	w.faults.lose("hsm-2", before)
	check(t, a.WatchSeal(t.Context()))
	if a.registry(t).Digest() != before.Digest() || len(a.records("node.repair_seal")) != 0 {
		t.Error("repaired")
	}
	if st := a.status(t); state(st, 1) != "corrupt" {
		t.Errorf("%s", state(st, 1))
	}
}

// TestOnlyALeaderThatIsUnsealedWatches, from a minute after it leads, and then again
// and again.
func TestOnlyALeaderThatIsUnsealedWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, all := autoCluster(t, 2, withClock(clock.System{}))
		a, b := all[0], all[1]
		endA, endB := a.run(t), b.run(t)
		rounds := func(m *member) int { return len(m.records("node.watch_seal")) }
		time.Sleep(time.Minute + 10*time.Second)
		if rounds(a) != 1 || rounds(b) != 0 || a.status(t).Watched.IsZero() || !b.status(t).Watched.IsZero() {
			t.Errorf("%d and %d rounds in the first minute", rounds(a), rounds(b))
		}
		time.Sleep(10 * time.Hour)
		if n := rounds(a); n < 32 || n > 50 {
			t.Errorf("%d rounds in ten hours", n)
		}
		had := rounds(a)
		w.leads.Store(1)
		time.Sleep(time.Minute + 10*time.Second)
		if rounds(a) != had || rounds(b) != 1 || !a.status(t).Watched.IsZero() || len(a.SealWatch().Opens) != 0 {
			t.Errorf("after leadership moved: %d and %d rounds", rounds(a)-had, rounds(b))
		}
		w.leads.Store(0)
		check(t, a.sealNode())
		time.Sleep(time.Hour)
		if rounds(a) != had {
			t.Error("a sealed leader watches")
		}
		endA()
		endB()
	})
}

func TestSinceWhenAKeystoreFails(t *testing.T) {
	w, all := autoCluster(t, 1)
	a := all[0]
	check(t, a.WatchSeal(t.Context()))
	well := a.status(t).Progress.Holders[0].Since
	w.advance(time.Hour)
	w.faults.fail(keystore.Unavailable, "hsm-1")
	check(t, a.WatchSeal(t.Context()))
	began := w.clock.Now()
	w.advance(time.Hour)
	check(t, a.WatchSeal(t.Context()))
	st := a.status(t)
	if h := st.Progress.Holders[0]; !h.Since.Equal(began) || h.Failure.RequestID != "req-hsm-1" {
		t.Errorf("fails since %s, %+v", h.Since, h.Failure)
	}
	if h := st.Progress.Holders[1]; !h.Since.Equal(well) {
		t.Errorf("well since %s, want %s", h.Since, well)
	}
	if !slices.ContainsFunc(a.records("node.watch_seal"), func(r audit.Record) bool { return r.Class == audit.Data }) {
		t.Error("the rounds are not in the audit trail")
	}
}

// TestTheKeystoresOfSharesAreWatchedToo, and nothing is repaired: what they hold is
// in the manifest.
func TestTheKeystoresOfSharesAreWatchedToo(t *testing.T) {
	w, o := newWorld(t)
	w.keystores(t, "hsm-1", "hsm-2")
	m := w.add(t, o)
	must[*node.InitResult](t)(m.init(heldBy(t, 2, []string{"hsm-1", "hsm-2"}, "anna")))
	w.faults.fail(keystore.Corrupt, "hsm-2")
	check(t, m.WatchSeal(t.Context()))
	st := m.status(t)
	if state(st, 0) != "gave" || state(st, 1) != "corrupt" || state(st, 2) != "awaited" || len(m.records("node.repair_seal")) != 0 {
		t.Errorf("%s, %s, %s", state(st, 0), state(st, 1), state(st, 2))
	}
	if got := st.Progress.Margin(); got != (seal.Margin{WithoutPeople: -1, AtAll: 0}) {
		t.Errorf("%+v", got)
	}
}

// TestAShareThatIsWatchedIsWipedAtOnce: a round leaves nothing of what keystores opened.
func TestAShareThatIsWatchedIsWipedAtOnce(t *testing.T) {
	w, o := newWorld(t)
	w.keystores(t, "hsm-1", "hsm-2")
	m := w.add(t, o)
	must[*node.InitResult](t)(m.init(heldBy(t, 2, []string{"hsm-1", "hsm-2"}, "anna")))
	before := memsec.Report()
	for range 3 {
		check(t, m.WatchSeal(t.Context()))
	}
	if got := memsec.Report(); got.Secrets != before.Secrets || got.UsedBytes != before.UsedBytes {
		t.Errorf("%d secrets and %d bytes are left", got.Secrets-before.Secrets, got.UsedBytes-before.UsedBytes)
	}
	if st := m.status(t); st.Progress.Margin() != (seal.Margin{WithoutPeople: 0, AtAll: 1}) {
		t.Errorf("%+v", st.Progress.Margin())
	}
}
