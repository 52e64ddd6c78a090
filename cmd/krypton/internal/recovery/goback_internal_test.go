//go:build unix

package recovery

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
)

// record makes a record of two persons on paper. Of another MasterKey, as a rekey makes
// it, if that is of a later generation.
func record(t *testing.T, id byte, g hierarchy.Generation) seal.Record {
	t.Helper()
	c := seal.Ceremony{Keyspace: hierarchy.KeyspaceID{1}, Cluster: hierarchy.ClusterID{2}, ID: hierarchy.UID{id}, Generation: g, Time: time.Unix(1, 0)}
	r, mk, shares, err := seal.Create(t.Context(), rand.Reader, c, seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: []seal.Holder{{Name: "a"}, {Name: "b"}}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mk.Destroy()
	for _, s := range shares {
		s.Destroy()
	}
	return r
}

// again is a record of the same MasterKey that another ceremony made, as far as files can tell.
func again(t *testing.T, r seal.Record, id byte) seal.Record {
	t.Helper()
	pb := r.Proto()
	pb.Manifest.CeremonyId[0] = id
	b, err := proto.Marshal(pb)
	if err != nil {
		t.Fatal(err)
	}
	out, err := seal.ParseRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestGoingBackIsDoneInAnyStepAgain: killed after each of its writes, the same command
// goes on, and the record of the cluster is never lost.
func TestGoingBackIsDoneInAnyStepAgain(t *testing.T) {
	was := record(t, 1, 1)
	now := again(t, was, 2)
	for steps := range 3 {
		path := filepath.Join(t.TempDir(), "record.pb")
		write := func(suffix string, r seal.Record) {
			if err := seal.WriteFile(path+suffix, r); err != nil {
				t.Fatal(err)
			}
		}
		write("", now)
		write(seal.PreviousSuffix, was)
		if steps > 0 {
			write(seal.AsideSuffix, now)
		}
		if steps > 1 {
			write("", was)
		}
		got, err := goBack(path, was.Keyspace())
		if err != nil || got.Digest() != was.Digest() {
			t.Fatalf("after %d steps: %v", steps, err)
		}
		for suffix, want := range map[string]seal.Record{"": was, seal.AsideSuffix: now} {
			if r, err := seal.ReadFile(path+suffix, was.Keyspace()); err != nil || r.Digest() != want.Digest() {
				t.Errorf("after %d steps, %q: %v", steps, suffix, err)
			}
		}
		if _, err := os.Stat(path + seal.PreviousSuffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %d steps it is still the one before: %v", steps, err)
		}
		if _, err := goBack(path, was.Keyspace()); !errs.Is(err, errs.FailedState) {
			t.Errorf("once more: %v", err)
		}
	}
}

// TestThereIsNoWayBackAfterARekey: the record from before opens another MasterKey.
func TestThereIsNoWayBackAfterARekey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.pb")
	was, now := record(t, 1, 1), record(t, 2, 2)
	for suffix, r := range map[string]seal.Record{"": now, seal.PreviousSuffix: was} {
		if err := seal.WriteFile(path+suffix, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := goBack(path, was.Keyspace()); !errs.Is(err, errs.FailedState) {
		t.Errorf("gone back: %v", err)
	}
	if r, err := seal.ReadFile(path, was.Keyspace()); err != nil || r.Digest() != now.Digest() {
		t.Errorf("the record changed: %v", err)
	}
	other := record(t, 3, 1)
	if err := seal.WriteFile(path+seal.PreviousSuffix, other); err != nil {
		t.Fatal(err)
	}
	if _, err := goBack(path, hierarchy.KeyspaceID{9}); !errs.Is(err, errs.StateCorrupt) {
		t.Errorf("of another keyspace: %v", err)
	}
}
