package fsm_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestI19_AnEpochIsTheLeadersAndChangesNoObject(t *testing.T) {
	caller := &fsmpb.Principal{Issuer: "ca", Kind: "operator", Name: "olga"}
	with := func(f func(*fsmpb.Command)) func(*world) *fsmpb.Command {
		return func(*world) *fsmpb.Command { c := begin(0); f(c); return c }
	}
	for name, tc := range map[string]struct {
		world func() *world
		cmd   func(*world) *fsmpb.Command
		want  errs.Code
	}{
		"the leader's own":        {cmd: with(func(*fsmpb.Command) {}), want: errs.Unspecified},
		"another member's":        {cmd: func(*world) *fsmpb.Command { return begin(1) }, want: errs.Unspecified},
		"a caller's":              {cmd: with(func(c *fsmpb.Command) { c.Principal = caller }), want: errs.Denied},
		"a node's as a caller":    {cmd: with(func(c *fsmpb.Command) { c.Principal = &fsmpb.Principal{Kind: "node", Name: nodeID(0)} }), want: errs.Denied},
		"a request":               {cmd: func(*world) *fsmpb.Command { return asked("epoch", begin(0)) }, want: errs.Denied},
		"a request of nobody":     {cmd: with(func(c *fsmpb.Command) { c.RequestId, c.RequestDigest = "epoch", tokenHash(1) }), want: errs.Denied},
		"before there are leases": {world: func() *world { return newWorld(t, ofFormat(fsm.FormatLeases-1)) }, cmd: with(func(*fsmpb.Command) {}), want: errs.FailedState},
		"of nobody":               {cmd: with(func(c *fsmpb.Command) { c.GetLeaseEpoch().Leader = "" }), want: errs.FailedState},
		"of a stranger":           {cmd: func(*world) *fsmpb.Command { return begin(7) }, want: errs.FailedState},
		"of a removed member":     {cmd: func(w *world) *fsmpb.Command { w.ok(remove(1)); return begin(1) }, want: errs.FailedState},
		"of a purged member":      {cmd: func(w *world) *fsmpb.Command { w.ok(remove(1)); w.ok(purge(1)); return begin(1) }, want: errs.FailedState},
		"without a nonce":         {cmd: with(func(c *fsmpb.Command) { c.GetLeaseEpoch().Nonce = nil }), want: errs.InvalidArgument},
		"with a short nonce":      {cmd: with(func(c *fsmpb.Command) { c.GetLeaseEpoch().Nonce = make([]byte, 15) }), want: errs.InvalidArgument},
		"with a long nonce":       {cmd: with(func(c *fsmpb.Command) { c.GetLeaseEpoch().Nonce = make([]byte, 17) }), want: errs.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			w := gateWorld(t)
			if tc.world != nil {
				w = tc.world()
			}
			cmd := tc.cmd(w)
			var told []fsm.Published
			var m *fsm.Machine
			m = fsm.New(fsm.Options{Publish: func(p fsm.Published, swap func()) {
				if m.View() == p.View {
					t.Error("told after it was visible")
				}
				told = append(told, p)
				swap()
			}})
			if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
				t.Fatal(err)
			}
			w.m, w.term, told = m, 7, nil
			before := itemsOf(t, snapshot(t, m, nil))
			res := w.do(cmd)
			if got := errs.Of(fsm.Err(res)); got != tc.want {
				t.Errorf("got %q (%s), want %s", res.GetReason(), res.GetMessage(), tc.want)
			}
			if res.GetIndex() != w.index || res.GetTerm() != 7 {
				t.Errorf("index %d and term %d, want %d and 7", res.GetIndex(), res.GetTerm(), w.index)
			}
			want := fsm.Epoch{}
			if tc.want == errs.Unspecified {
				want = fsm.Epoch{Leader: cmd.GetLeaseEpoch().GetLeader(), Nonce: [16]byte(cmd.GetLeaseEpoch().GetNonce())}
			}
			if len(told) != 1 || told[0].Epoch != want || told[0].View != m.View() || told[0].Restored {
				t.Errorf("published %+v, want the epoch %+v", told, want)
			}
			after := itemsOf(t, snapshot(t, m, nil))
			if len(after) != len(before) {
				t.Fatalf("%d objects, %d before", len(after), len(before))
			}
			for i := range after {
				if !proto.Equal(before[i], after[i]) {
					t.Errorf("changed %v", after[i])
				}
			}
		})
	}
}

func TestTheTermOfAnEntryIsInItsResultAndNeverInTheState(t *testing.T) {
	w := newWorld(t)
	w.term = 5
	cmd := asked("once", w.createTenant("acme"))
	first := w.ok(cmd)
	if first.GetTerm() != 5 {
		t.Errorf("term %d, want 5", first.GetTerm())
	}
	if res := w.refused(errs.NotFound, asked("never", changeObject("nobody", "", suspend, ""))); res.GetTerm() != 5 {
		t.Errorf("term %d of a refusal, want 5", res.GetTerm())
	}
	w.term = 6
	again := w.ok(cmd)
	if !again.GetReplayed() || again.GetTerm() != 0 || again.GetIndex() != first.GetIndex() {
		t.Errorf("the replayed result is %v", again)
	}
	for _, it := range itemsOf(t, snapshot(t, w.m, nil)) {
		if it.GetRequest().GetResult().GetTerm() != 0 {
			t.Errorf("remembered with its term: %v", it)
		}
	}
}

func TestLeasesLastAsLongAsTheGenesisSays(t *testing.T) {
	if got := fsm.New(fsm.Options{}).View().LeaseDuration(); got != 3*time.Second {
		t.Errorf("before genesis %s", got)
	}
	for ms, ok := range map[uint32]bool{0: true, 1: false, 999: false, 1000: true, 8000: true, 60000: true, 60001: false, 1<<32 - 1: false} {
		t.Run(fmt.Sprint(ms), func(t *testing.T) {
			w := emptyWorld(t)
			g := w.genesis()
			g.LeaseMs = ms
			res := w.do(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
			if (fsm.Err(res) == nil) != ok || !ok && res.GetReason() != errs.InvalidArgument.String() {
				t.Fatalf("got %v", res)
			}
			if !ok {
				return
			}
			want := time.Duration(ms) * time.Millisecond
			if ms == 0 {
				want = 3 * time.Second
			}
			m := fsm.New(fsm.Options{})
			if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
				t.Fatal(err)
			}
			if got, restored := w.view().LeaseDuration(), m.View().LeaseDuration(); got != want || restored != want {
				t.Errorf("%s, after a restore %s, want %s", got, restored, want)
			}
		})
	}
	w := emptyWorld(t)
	g := w.genesis()
	g.FormatVersion, g.LeaseMs = fsm.FormatLeases-1, 3000
	w.refused(errs.InvalidArgument, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
	old := newWorld(t, ofFormat(1))
	old.ok(raise(fsm.FormatLeases))
	if got := old.view().LeaseDuration(); got != 3*time.Second {
		t.Errorf("%s in a cluster that was founded before", got)
	}
}

// TestTheMembersIndexMovesWithEveryMember, and with nothing else, also after a restore.
func TestTheMembersIndexMovesWithEveryMember(t *testing.T) {
	w := newWorld(t)
	check := func(what string, moved bool) {
		t.Helper()
		m := fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
			t.Fatal(err)
		}
		got, restored := w.view().MembersIndex(), m.View().MembersIndex()
		if (got == w.index) != moved || restored != got {
			t.Errorf("%s: the members index is %d, after a restore %d, that of the command %d", what, got, restored, w.index)
		}
	}
	check("genesis", true)
	w.ok(w.token(1, false))
	check("a token", false)
	w.ok(w.join(1, node(1)))
	check("join", true)
	w.ok(update(1, []string{"zone"}, &fsmpb.Member{Zone: "a"}))
	check("an update that changes nothing", false)
	w.ok(update(1, []string{"zone"}, &fsmpb.Member{Zone: "b"}))
	check("update", true)
	w.ok(begin(1))
	check("epoch", false)
	w.ok(remove(1))
	check("remove", true)
	w.ok(purge(1))
	check("purge", true)
	w.ok(w.createTenant("acme"))
	check("a tenant", false)
}

// TestARestoreEndsWhatWasPromisedBeforeItReads: leases of the old state end first,
// then the new one is read, then it is published.
func TestARestoreEndsWhatWasPromisedBeforeItReads(t *testing.T) {
	w := gateWorld(t)
	raw := snapshot(t, w.m, nil)
	var steps []string
	note := func(s string) { steps = append(steps, s) }
	var m *fsm.Machine
	m = fsm.New(fsm.Options{
		Restoring: func() { note(fmt.Sprintf("void %d", m.View().Index())) },
		Publish: func(p fsm.Published, swap func()) {
			was := m.View().Index()
			swap()
			note(fmt.Sprintf("publish %d after %d, restored %t", p.View.Index(), was, p.Restored))
		},
	})
	waits := m.View().Superseded()
	if err := m.Restore(noted{bytes.NewReader(raw), note}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-waits:
	default:
		t.Error("who waited for the next view was not woken")
	}
	end := w.index
	if err := m.Restore(noted{bytes.NewReader(raw[:len(raw)/2]), note}); errs.Of(err) != errs.StateCorrupt {
		t.Fatal(err)
	}
	w.m = m
	w.ok(tick())
	got := fmt.Sprint(compact(steps))
	want := fmt.Sprint([]string{
		"void 0", "read", fmt.Sprintf("publish %d after 0, restored true", end),
		fmt.Sprintf("void %d", end), "read", // refused: nothing is published
		fmt.Sprintf("publish %d after %d, restored false", end+1, end),
	})
	if got != want {
		t.Errorf("steps\n%s, want\n%s", got, want)
	}
}

// noted notes that it is read.
type noted struct {
	r    *bytes.Reader
	note func(string)
}

func (n noted) Read(p []byte) (int, error) { n.note("read"); return n.r.Read(p) }

// compact makes one of equal steps in a row.
func compact(steps []string) (out []string) {
	for i, s := range steps {
		if i == 0 || steps[i-1] != s {
			out = append(out, s)
		}
	}
	return out
}

// TestSnapshotsWithImpossibleGatesOrLeasesAreRefused edits what is new in format 3.
func TestSnapshotsWithImpossibleGatesOrLeasesAreRefused(t *testing.T) {
	w := gateWorld(t)
	w.ok(asked("once", w.createTenant("new")))
	old := newWorld(t, ofFormat(fsm.FormatLeases-1))
	furnish(old)
	for name, tc := range map[string]struct {
		world *world
		edit  func(*fsmpb.SnapshotItem)
		ok    bool
	}{
		"nothing is edited":               {w, func(*fsmpb.SnapshotItem) {}, true},
		"nothing is edited, older format": {old, func(*fsmpb.SnapshotItem) {}, true},
		"a tenant's gate after its change": {w, func(i *fsmpb.SnapshotItem) {
			set(i.GetTenant(), func(x *fsmpb.Tenant) { x.GateIndex = x.GetModIndex() + 1 })
		}, false},
		"a service's gate after its change": {w, func(i *fsmpb.SnapshotItem) {
			set(i.GetService(), func(x *fsmpb.Service) { x.GateIndex = x.GetModIndex() + 1 })
		}, false},
		"a version's gate after its change": {w, func(i *fsmpb.SnapshotItem) {
			set(i.GetService(), func(x *fsmpb.Service) { x.Versions[0].GateIndex = 1 << 60 })
		}, false},
		"an internal key's after its change": {w, func(i *fsmpb.SnapshotItem) {
			set(i.GetCluster(), func(x *fsmpb.Cluster) { x.InternalKeys[0].GateIndex = 2 })
		}, false},
		"a gate before there were any": {old, func(i *fsmpb.SnapshotItem) {
			set(i.GetTenant(), func(x *fsmpb.Tenant) { x.GateIndex = x.GetModIndex() })
		}, false},
		"a service's before there were any": {old, func(i *fsmpb.SnapshotItem) { set(i.GetService(), func(x *fsmpb.Service) { x.GateIndex = 1 }) }, false},
		"a version's before there were any": {old, func(i *fsmpb.SnapshotItem) { set(i.GetTenant(), func(x *fsmpb.Tenant) { x.Versions[0].GateIndex = 1 }) }, false},
		"no gate":                           {w, func(i *fsmpb.SnapshotItem) { set(i.GetTenant(), func(x *fsmpb.Tenant) { x.GateIndex = 0 }) }, true},
		"other leases than the genesis":     {w, func(i *fsmpb.SnapshotItem) { set(i.GetCluster(), func(x *fsmpb.Cluster) { x.LeaseMs = 60_000 }) }, false},
		"leases before there were any":      {old, func(i *fsmpb.SnapshotItem) { set(i.GetCluster(), func(x *fsmpb.Cluster) { x.LeaseMs = 3000 }) }, false},
		"a remembered term":                 {w, func(i *fsmpb.SnapshotItem) { set(i.GetRequest(), func(x *fsmpb.Request) { x.Result.Term = 1 }) }, false},
		"a genesis with leases too short":   {w, withGenesis(func(g *fsmpb.Genesis) { g.LeaseMs = 1 }), false},
		"a genesis with leases too early":   {old, withGenesis(func(g *fsmpb.Genesis) { g.LeaseMs = 5000 }), false},
		"a genesis with leases":             {w, withGenesis(func(g *fsmpb.Genesis) { g.LeaseMs = 5000 }), true},
	} {
		t.Run(name, func(t *testing.T) {
			raw := edit(t, snapshot(t, tc.world.m, testMAC), func(all []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
				for _, it := range all {
					tc.edit(it)
				}
				return all
			})
			err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(raw))
			if (err == nil) != tc.ok || !tc.ok && errs.Of(err) != errs.StateCorrupt {
				t.Errorf("got %v", err)
			}
		})
	}
}

func set[T any](obj *T, f func(*T)) {
	if obj != nil {
		f(obj)
	}
}

// withGenesis edits the genesis and everything that has to fit it.
func withGenesis(f func(*fsmpb.Genesis)) func(*fsmpb.SnapshotItem) {
	return func(it *fsmpb.SnapshotItem) {
		c := it.GetCluster()
		if c == nil {
			return
		}
		g := new(fsmpb.Genesis)
		if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
			panic(err)
		}
		f(g)
		raw, err := fsm.EncodeGenesis(g)
		if err != nil {
			panic(err)
		}
		sum := fsm.Fingerprint(raw)
		c.Genesis, c.Fingerprint, c.LeaseMs = raw, sum[:], g.GetLeaseMs()
	}
}
