package cluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

const (
	fromSnapshot = fsmpb.RecoveryKind_RECOVERY_KIND_SNAPSHOT
	quorumLost   = fsmpb.RecoveryKind_RECOVERY_KIND_QUORUM
)

// tenant makes a tenant, so that there is something to miss.
func (m *member) tenant(name string) {
	m.t.Helper()
	cl := m.machine.View().Cluster()
	l2 := uid()
	if _, err := m.insist(gate.SealCluster, request("tenant-"+name, &fsmpb.Command{Body: &fsmpb.Command_CreateTenant{CreateTenant: &fsmpb.CreateTenant{
		Name: name, Uid: uid(), L2Uid: l2, L2Blob: []byte("l2"), L2IvkUid: cl.GetInternalKeys()[0].GetUid(),
		Binding: &fsmpb.Binding{Keystore: "local", Key: "kek", Archetype: "local"},
		Version: &fsmpb.Version{Number: 1, Uid: uid(), ParentUid: l2, Blob: []byte("l21")},
	}}})); err != nil {
		m.t.Fatalf("tenant %s: %v", name, err)
	}
}

// opened is the data directory of a node that does not run.
func opened(t *testing.T, path string) *cluster.Dir {
	t.Helper()
	d, err := cluster.OpenDir(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// recovery of the directory at path; file is nil for one of a member's own.
func recovery(t *testing.T, d *cluster.Dir, file []byte) cluster.Recovery {
	t.Helper()
	r := cluster.Recovery{Dir: d, Kind: quorumLost, Clock: clock.System{}, Rand: rand.Reader, Log: testLog("recover")}
	var err error
	if file == nil {
		r.Saved, err = cluster.LoadDir(d, clock.System{}, r.Log)
	} else {
		r.Kind = fromSnapshot
		r.File = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil }
		r.Saved, err = cluster.LoadFile(bytes.NewReader(file))
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// prepared recovers the directory at path and returns the plan.
func prepared(t *testing.T, path string, file []byte) *fsmpb.Recover {
	t.Helper()
	d := opened(t, path)
	defer func() { _ = d.Close() }()
	r := recovery(t, d, file)
	plan, err := r.Plan()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Prepare(plan, nil); err != nil {
		t.Fatal(err)
	}
	return plan
}

// saved is a snapshot file of the directory of a node that does not run.
func saved(t *testing.T, path string) []byte {
	t.Helper()
	d := opened(t, path)
	defer func() { _ = d.Close() }()
	var b bytes.Buffer
	if _, n, err := cluster.SaveDir(d, &b, "v0", clock.System{}, testLog("save")); err != nil || n != int64(b.Len()) {
		t.Fatalf("saved %d of %d bytes: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// alone checks that m is the only member of an incarnation, and that it works.
func (m *member) alone(plan *fsmpb.Recover) {
	m.t.Helper()
	if err := m.c.Recover(limited(m.t)); err != nil {
		m.t.Fatalf("recover %s: %v", m.name, err)
	}
	v := m.machine.View()
	if !bytes.Equal(v.Incarnation().GetId(), plan.GetIncarnation().GetId()) || m.c.Recovering() || m.dir.Recovering() {
		m.t.Fatalf("the incarnation is %v; still recovering: %v", v.Incarnation(), m.dir.Recovering())
	}
	for _, o := range v.Members() {
		if o.GetRemoved() == (o.GetId() == string(m.c.NodeID())) {
			m.t.Errorf("%s: removed %v", o.GetName(), o.GetRemoved())
		}
	}
	m.voters(1)
	m.write("after-recovery", 1)
	m.eventually("a lease", func() bool { return m.c.LeaseErr() == nil })
}

// helpless checks that m, which is of the incarnation before, is given up by everybody.
func (m *member) helpless(others ...*member) {
	m.t.Helper()
	for _, o := range others {
		hash := sha256.Sum256(o.c.PublicKey())
		for _, proto := range []string{cluster.ProtoPeer, cluster.ProtoRaft} {
			if c, err := m.c.DialAs(limited(m.t), o.c.PeerAddress(), hash, proto); err == nil {
				_ = c.Close()
				m.t.Errorf("%s speaks %s with %s", m.name, proto, o.name)
			}
			hash := sha256.Sum256(m.c.PublicKey())
			if c, err := o.c.DialAs(limited(m.t), m.c.PeerAddress(), hash, proto); err == nil {
				_ = c.Close()
				m.t.Errorf("%s speaks %s with %s", o.name, proto, m.name)
			}
		}
	}
	// It has had the time of many elections when this one has had ten pauses as long as one.
	for range 10 {
		if (clock.System{}).Sleep(limited(m.t), 300*time.Millisecond) != nil {
			m.t.Fatal("no time left")
		}
		if m.c.IsLeader() || m.c.LeaderID() != "" && slices.ContainsFunc(others, func(o *member) bool { return o.c.NodeID() == m.c.LeaderID() }) {
			m.t.Fatalf("%s leads, or follows the new incarnation", m.name)
		}
		if m.c.LeaseErr() == nil {
			m.t.Fatalf("%s has a lease", m.name)
		}
	}
	ctx, cancel := context.WithTimeout(limited(m.t), 3*time.Second)
	defer cancel()
	if res, err := m.propose(ctx, gate.SealCluster, write("by-the-old", 0)); err == nil {
		m.t.Errorf("%s committed entry %d", m.name, res.GetIndex())
	}
}

func TestI23_AnOldNodeThatComesBackAfterARecoveryIsNobody(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	leader.tenant("acme")
	a, b := others[0], leader // the old leader comes back
	a.applied(leader.machine.View().Index())
	for _, m := range all {
		m.stop()
	}
	plan := prepared(t, a.path, nil)
	if len(plan.GetIncarnation().GetLost()) != 2 {
		t.Fatalf("lost are %v", plan.GetIncarnation().GetLost())
	}
	b.start() // before the recovery is applied
	a.start()
	if !a.c.Recovering() {
		t.Error("it does not know that it was recovered")
	}
	b.helpless(a)
	a.alone(plan)
	if _, ok := a.machine.View().Tenant("acme"); !ok {
		t.Error("the tenant is gone")
	}
	b.helpless(a)
	a.restart()
	a.eventually("a lease after a restart", func() bool { return a.c.LeaseErr() == nil })
	b.helpless(a)

	// Nodes join the new incarnation, and know it after a restart.
	d := newMember(t, "d")
	d.join(a.invite(wanted{}))
	d.applied(a.write("with-d", 0).GetIndex())
	d.restart()
	d.applied(a.write("with-d", 1).GetIndex())
	d.eventually("a lease", func() bool { return d.c.LeaseErr() == nil })
	b.helpless(a, d)
	if err := d.c.Recover(limited(t)); err != nil {
		t.Errorf("a node that was not recovered: %v", err)
	}
}

func TestI23_ASnapshotFileBeginsAClusterThatTheOldNodesKnowNothingOf(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, _ := leaderOf(t, all)
	leader.tenant("acme")
	if err := leader.c.TakeSnapshot(); err != nil {
		t.Fatal(err)
	}
	leader.tenant("beta") // an entry behind it
	for _, m := range all {
		m.applied(leader.machine.View().Index())
	}
	leader.stop()
	file := saved(t, leader.path)

	fresh := &member{t: t, name: "fresh", path: t.TempDir() + "/data"}
	t.Cleanup(fresh.stop)
	plan := prepared(t, fresh.path, file)
	if len(plan.GetIncarnation().GetLost()) != 3 {
		t.Fatalf("lost are %v", plan.GetIncarnation().GetLost())
	}
	fresh.start()
	fresh.alone(plan)
	for _, name := range []string{"acme", "beta"} {
		if _, ok := fresh.machine.View().Tenant(name); !ok {
			t.Errorf("tenant %s is gone", name)
		}
	}
	// The old ones live on, which people said they do not; they are another cluster.
	leader.start()
	rest, _ := leaderOf(t, all)
	rest.write("old", 1)
	for _, m := range all {
		hash := sha256.Sum256(m.c.PublicKey())
		if c, err := fresh.c.DialAs(limited(t), m.c.PeerAddress(), hash, cluster.ProtoPeer); err == nil {
			_ = c.Close()
			t.Errorf("the new cluster speaks with %s", m.name)
		}
	}
	// As every removed member they are out of the list once no lease of theirs can be in
	// use, which may be now or soon. Their keys are never forgotten.
	fresh.eventually("the old ones are out of the list", func() bool { return len(fresh.machine.View().Members()) == 1 })
	for _, m := range all {
		if was, ok := fresh.machine.View().MemberByKey(sha256.Sum256(m.c.PublicKey())); !ok || !was.GetRemoved() {
			t.Errorf("the new cluster has forgotten the key of %s", m.name)
		}
	}
}

func TestI23_ANodeThatRecoversServesAndChangesNothingBeforeItIsUnsealed(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.tenant("acme")
	a.stop()
	plan := prepared(t, a.path, nil)
	sealed := func(c *cluster.Config) {
		c.MAC = func(hierarchy.Generation, ...[]byte) (sum [32]byte, ok bool) { return sum, false }
	}
	a.change = append(a.change, sealed)
	a.start()
	ctx, cancel := context.WithTimeout(limited(t), 3*time.Second)
	defer cancel()
	if err := a.c.Recover(ctx); !errs.Is(err, errs.Sealed) {
		t.Errorf("recovered while sealed: %v", err)
	}
	if a.c.LeaseErr() == nil {
		t.Error("it gives itself a lease")
	}
	if _, err := a.propose(ctx, gate.RemoveNode, request("x", &fsmpb.Command{Body: &fsmpb.Command_RemoveMember{RemoveMember: &fsmpb.RemoveMember{Id: string(a.c.NodeID())}}})); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a change before the recovery: %v", err)
	}
	tok, err := a.c.JoinToken()
	if err != nil {
		t.Fatal(err)
	}
	stranger := newMember(t, "stranger")
	if _, err := stranger.c.Join(ctx, tok); err == nil {
		t.Error("somebody joined")
	}
	a.stop()
	a.change = nil
	a.start()
	a.eventually("it leads", a.c.IsLeader)
	for range 10 { // longer than a lease takes that is given
		if (clock.System{}).Sleep(limited(t), 300*time.Millisecond) != nil || a.c.LeaseErr() == nil {
			t.Fatal("unsealed, it gives itself a lease before the recovery")
		}
	}
	if _, err := a.propose(limited(t), gate.CreateRoleBinding, request("y", cluster.BindOperator())); !errs.Is(err, errs.Unavailable) {
		t.Errorf("unsealed, a change before the recovery: %v", err)
	}
	a.alone(plan)
}

func TestI23_ARecoveryIsDoneOnlyWhenNoLeaseOfBeforeCanBeInUse(t *testing.T) {
	t.Parallel()
	all := threeWithLease(t, 5*time.Second)
	leader, others := leaderOf(t, all)
	leader.tenant("acme")
	for _, m := range all {
		m.applied(leader.machine.View().Index())
		m.eventually("a lease", func() bool { return m.c.LeaseErr() == nil })
	}
	a := others[0]
	for _, m := range all {
		m.stop()
	}
	plan := prepared(t, a.path, nil)
	a.start()
	began := time.Now()
	a.eventually("it leads", a.c.IsLeader)
	if err := a.c.Recover(limited(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 4500*time.Millisecond {
		t.Errorf("it said done after %s, and a lease lasts 5 s", took)
	}
	a.alone(plan)
}

func TestI23_ARecoveryThatIsCutShortIsGivenAgain(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.tenant("acme")
	a.stop()
	file := saved(t, a.path)
	fresh := t.TempDir() + "/fresh"
	for name, tc := range map[string]struct {
		path string
		file []byte
	}{"of a member": {a.path, nil}, "of a file": {fresh, file}} {
		d := opened(t, tc.path)
		r := recovery(t, d, tc.file)
		plan, err := r.Plan()
		if err != nil {
			t.Fatal(err)
		}
		died := errors.New("death")
		r.More = func() error { return died }
		if err := r.Prepare(plan, nil); !errors.Is(err, died) {
			t.Fatal(err)
		}
		_ = d.Close()
		m := &member{t: t, name: "cut-short", path: tc.path}
		if err := m.tryStart(); !errs.Is(err, errs.FailedState) {
			t.Errorf("%s: a node starts on half a recovery: %v", name, err)
		}
		again := prepared(t, tc.path, tc.file)
		if !bytes.Equal(again.GetIncarnation().GetId(), plan.GetIncarnation().GetId()) {
			t.Errorf("%s: it is another recovery the second time", name)
		}
		m.start()
		t.Cleanup(m.stop)
		m.alone(again)
	}
}

func TestI23_ARecoveryOfAnotherStateIsNotMade(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.stop()
	d := opened(t, a.path)
	r := recovery(t, d, nil)
	plan, err := r.Plan()
	if err != nil {
		t.Fatal(err)
	}
	i := plan.GetIncarnation()
	i.FromChain[0] ^= 1
	id := fsm.IncarnationID(r.Saved.View().Cluster().GetKeyspaceId(), i)
	i.Id = id[:]
	if err := r.Prepare(plan, nil); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	a.start()
	if err := a.c.Recover(limited(t)); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("got %v", err)
	}
	if a.machine.View().Incarnation() != nil {
		t.Error("there is an incarnation")
	}
}

func TestRecoveriesThatCannotBe(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.stop()
	file := saved(t, a.path)
	refused := func(what, path string, file []byte, code errs.Code) {
		t.Helper()
		d := opened(t, path)
		defer func() { _ = d.Close() }()
		r := recovery(t, d, file)
		if file == nil {
			r.Kind = quorumLost
		}
		if _, err := r.Plan(); !errs.Is(err, code) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	refused("a snapshot into a member's directory", a.path, file, errs.FailedState)
	d := opened(t, t.TempDir()+"/new")
	r := recovery(t, d, file)
	r.Kind = quorumLost
	if _, err := r.Plan(); !errs.Is(err, errs.FailedState) {
		t.Errorf("a directory that is no member's: %v", err)
	}
	_ = d.Close()
	prepared(t, a.path, nil)
	plan := prepared(t, a.path, nil) // again is the same
	a.start()
	a.alone(plan)
	a.stop()
	refused("a snapshot into the directory of one that was recovered", a.path, file, errs.FailedState)
}

func TestWhoStillAnswersIsFound(t *testing.T) {
	t.Parallel()
	all := three(t)
	leader, others := leaderOf(t, all)
	others[0].stop()
	d := opened(t, others[0].path)
	defer func() { _ = d.Close() }()
	r := recovery(t, d, nil)
	find := func(m *member) *fsmpb.Member { e, _ := r.Saved.View().Member(string(m.c.NodeID())); return e }
	for _, m := range []*member{leader, others[1]} {
		if up, err := r.Answers(limited(t), find(m)); err != nil || !up {
			t.Errorf("%s answers: %v, %v", m.name, up, err)
		}
	}
	others[1].stop()
	if up, err := r.Answers(limited(t), find(others[1])); err != nil || up {
		t.Errorf("a stopped node answers: %v, %v", up, err)
	}
	// Another node at its address is not it.
	e := find(others[1])
	e.PeerAddress = leader.c.PeerAddress()
	if up, err := r.Answers(limited(t), e); err != nil || up {
		t.Errorf("a stranger passes for it: %v, %v", up, err)
	}
}

// testKey is the key of the hooks.
func testKey(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
	return (&hooks{}).mac(g, parts...)
}

func TestASavedStateIsVerified(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	a.tenant("acme")
	if err := a.c.TakeSnapshot(); err != nil {
		t.Fatal(err)
	}
	a.tenant("beta")
	var online bytes.Buffer
	if _, err := cluster.SaveView(a.machine.View(), &online, testKey, &clusterpb.SnapshotFileHeader{Node: string(a.c.NodeID())}); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.SaveView(a.machine.View(), io.Discard, func(hierarchy.Generation, ...[]byte) (s [32]byte, ok bool) { return s, false }, &clusterpb.SnapshotFileHeader{}); !errs.Is(err, errs.Sealed) {
		t.Errorf("a sealed node saves: %v", err)
	}
	a.stop()
	liar := (&hooks{lies: true}).mac
	for name, file := range map[string][]byte{"of a view": online.Bytes(), "of a directory": saved(t, a.path)} {
		s, err := cluster.LoadFile(bytes.NewReader(file))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, ok := s.View().Tenant("beta"); !ok {
			t.Errorf("%s: the last change is missing", name)
		}
		if err := s.Verify(testKey); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s, err = cluster.LoadFile(bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(liar); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s: with another key: %v", name, err)
		}
	}
}

func TestASnapshotFileThatWasDamagedIsRefused(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	if err := a.c.TakeSnapshot(); err != nil {
		t.Fatal(err)
	}
	a.tenant("acme")
	a.stop()
	file := saved(t, a.path)
	for at := 0; at < len(file); at += 1 + at%7 {
		bad := slices.Clone(file)
		bad[at] ^= 0x20
		if _, err := cluster.LoadFile(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d was changed", at, len(file))
		}
		if _, err := cluster.LoadFile(bytes.NewReader(file[:at])); err == nil {
			t.Fatalf("cut to %d of %d bytes", at, len(file))
		}
	}
	if _, err := cluster.LoadFile(bytes.NewReader(append(slices.Clone(file), 0))); err == nil {
		t.Error("with a byte behind it")
	}
}

// TestSnapshotFilesOfTheFirstFormatAreRead: the file is never written again.
func TestSnapshotFilesOfTheFirstFormatAreRead(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/snapshotfile/v1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	s, err := cluster.LoadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(testKey); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"acme", "beta"} { // one in the snapshot, one behind it
		if _, ok := s.View().Tenant(name); !ok {
			t.Errorf("tenant %s is missing", name)
		}
	}
	if !s.HasSnapshot() || s.Entries == 0 {
		t.Errorf("a snapshot: %v, and %d entries", s.HasSnapshot(), s.Entries)
	}
}

func FuzzSnapshotFile(f *testing.F) {
	f.Add([]byte("KRYPFILE\x00\x00\x00\x01\x00\x00\x00\x00\x00"))
	if raw, err := os.ReadFile("testdata/snapshotfile/v1"); err == nil {
		f.Add(raw)
		f.Add(raw[:len(raw)/2])
	} else {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := cluster.LoadFile(bytes.NewReader(raw))
		if err == nil && !s.View().Initialized() {
			t.Fatal("a file without a cluster was read")
		}
	})
}
