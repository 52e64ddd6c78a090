package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// before is what the registry has at one time, and not later.
const before = "of-before-the-clearing"

// found returns the files of the member's data directory that have the bytes.
func (m *member) found(what string) (all []string) {
	m.t.Helper()
	err := filepath.WalkDir(m.path, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the node replaced it at this moment
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if bytes.Contains(b, []byte(what)) {
			rel, _ := filepath.Rel(m.path, p)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

// remember makes the text a part of the registry, and takes it out again.
func remember(leader *member, text string, meanwhile func()) (last uint64) {
	leader.t.Helper()
	for i, held := range []bool{true, false} {
		res, err := leader.insist(gate.SealCluster, request(fmt.Sprintf("remember-%t", held), &fsmpb.Command{Body: &fsmpb.Command_SetHold{
			SetHold: &fsmpb.SetHold{Held: held, Reason: map[bool]string{true: text}[held]},
		}}))
		if err != nil {
			leader.t.Fatal(err)
		}
		if last = res.GetIndex(); i == 0 {
			meanwhile()
		}
	}
	return last
}

func (m *member) clear(index uint64) (oldest uint64) {
	m.t.Helper()
	ctx := limited(m.t)
	for {
		oldest, err := m.c.Clear(ctx, index)
		if err == nil {
			return oldest
		}
		if !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.NotServing) || (clock.System{}).Sleep(ctx, 20*time.Millisecond) != nil {
			m.t.Fatalf("clear the disk of %s: %v", m.name, err)
		}
	}
}

func TestI24_WhatAMemberClearedIsInNoFileOfIt(t *testing.T) {
	t.Parallel()
	all := three(t, func(c *cluster.Config) { c.SnapshotThreshold = 1 << 20 })
	leader, _ := leaderOf(t, all)
	last := remember(leader, before, func() {
		for _, m := range all {
			m.applied(leader.machine.View().Index())
			if err := m.c.TakeSnapshot(); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, m := range all {
		m.applied(last)
		for _, name := range []string{"seal/record.pb.previous", "raft/raft.db.old"} {
			if err := os.WriteFile(filepath.Join(m.path, name), []byte(before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// A snapshot that cannot be read any more is none to Raft, which never removes it.
		if err := os.MkdirAll(filepath.Join(m.path, "raft/snapshots/1-1-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.path, "raft/snapshots/1-1-1/state.bin"), []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range all {
		was := m.found(before)
		if len(was) != 5 {
			t.Fatalf("%s has it in %q, which is not its log, two snapshots and two leftovers", m.name, was)
		}
		var open []*os.File // as an undelete would
		for _, name := range was {
			f, err := os.Open(filepath.Join(m.path, name))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			open = append(open, f)
		}
		if oldest := m.clear(last); oldest < last {
			t.Errorf("%s says that it has entry %d still, and is to have nothing before %d", m.name, oldest, last)
		}
		if is := m.found(before); len(is) > 0 {
			t.Errorf("%s still has it in %q", m.name, is)
		}
		for i, f := range open {
			b, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, []byte(before)) {
				t.Errorf("%s: what was %s has its content still", m.name, was[i])
			}
		}
	}

	// Nothing else changed for anybody.
	last = leader.write("after", 0).GetIndex()
	for _, m := range all {
		m.applied(last)
		if _, ok := m.machine.RestoreProof(); ok {
			t.Errorf("%s was sent a snapshot", m.name)
		}
		m.restart()
		m.applied(last)
	}
	leader, _ = leaderOf(t, all)
	d := newMember(t, "d")
	d.join(leader.invite(wanted{}))
	d.applied(leader.write("after", 1).GetIndex())
	if is := d.found(before); len(is) > 0 {
		t.Errorf("a member that joined later has it in %q", is)
	}
}

func TestI24_ClearingIsDoneAgainAfterEveryDeathAndChangesNothingMore(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	last := remember(a, before, func() {
		if err := a.c.TakeSnapshot(); err != nil {
			t.Fatal(err)
		}
	})
	chain := func() [32]byte { _, _, c := a.machine.Applied(); return c }
	was := chain()
	a.clear(last)
	for range 2 {
		// What a death between the copy and its name leaves.
		tmp := filepath.Join(a.path, "raft/raft.db.tmp")
		if err := os.WriteFile(tmp, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		a.restart()
		a.applied(last)
		if is := a.found(before); len(is) > 0 {
			t.Errorf("after the start there is %q", is)
		}
		if oldest := a.clear(last); oldest < last {
			t.Errorf("entry %d is left", oldest)
		}
		if chain() != was {
			t.Error("the state is another one")
		}
	}
}

func TestClearRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	a := newMember(t, "a")
	a.bootstrap()
	last := a.write("x", 0).GetIndex()
	for _, tc := range []struct {
		name  string
		index uint64
		code  errs.Code
		make  func()
	}{
		{"no entry", 0, errs.InvalidArgument, func() {}},
		{"an entry that is not there yet", last + 1000, errs.NotServing, func() {}},
		{"a sealed node", last, errs.Sealed, a.hooks.seal},
	} {
		tc.make()
		if _, err := a.c.Clear(limited(t), tc.index); !errs.Is(err, tc.code) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	a.hooks.unseal()
	a.clear(last)
}

func TestMembersClearWhileTheClusterWrites(t *testing.T) {
	t.Parallel()
	all := three(t, func(c *cluster.Config) { c.SnapshotThreshold = 1 << 20 })
	leader, _ := leaderOf(t, all)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				leader.write("meanwhile", i)
			}
		}
	})
	for range 5 {
		last := leader.machine.View().Index()
		for _, m := range all {
			m.applied(last)
			if oldest := m.clear(last); oldest < last {
				t.Errorf("%s has entry %d, and was to have nothing before %d", m.name, oldest, last)
			}
		}
	}
	close(stop)
	wg.Wait()
	last := leader.write("after", 0).GetIndex()
	_, _, want := leader.machine.Applied()
	for _, m := range all {
		m.applied(last)
		if _, _, is := m.machine.Applied(); is != want {
			t.Errorf("%s has another state", m.name)
		}
	}
}

// A member that was behind has the leader's snapshot, and a log that begins behind it.
func TestI24_AMemberThatWasSentASnapshotClearsItsDisk(t *testing.T) {
	t.Parallel()
	all := three(t, func(c *cluster.Config) { c.SnapshotThreshold = 1 << 20 })
	leader, others := leaderOf(t, all)
	lag, other := others[0], others[1]
	lag.stop()
	last := remember(leader, before, func() {})
	for _, m := range []*member{leader, other} {
		m.applied(last)
		m.clear(last)
	}
	lag.start()
	after := leader.write("after", 0).GetIndex()
	for _, index := range []uint64{last, after} {
		lag.applied(after)
		if oldest := lag.clear(index); oldest < index {
			t.Errorf("entry %d is left, nothing from before %d was to be", oldest, index)
		}
	}
	if is := lag.found(before); len(is) > 0 {
		t.Errorf("it still has it in %q", is)
	}
	lag.restart()
	lag.applied(leader.write("after", 1).GetIndex())
}
