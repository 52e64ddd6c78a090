package cluster_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// forget takes a directory back to the moment before it knew its cluster.
func forget(t *testing.T, path string) {
	t.Helper()
	file := filepath.Join(path, "node.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var n map[string]any
	if err := json.Unmarshal(raw, &n); err != nil {
		t.Fatal(err)
	}
	n["membership"] = ""
	for _, k := range []string{"cluster_id", "keyspace_id", "fingerprint"} {
		delete(n, k)
	}
	raw, err = json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func openDir(t *testing.T, path string) *cluster.Dir {
	t.Helper()
	d, err := cluster.OpenDir(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func closeDir(t *testing.T, d *cluster.Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func TestI1_TheNodeIDIsBornWithTheDirectoryAndStartsAreCounted(t *testing.T) {
	path := t.TempDir() + "/a/b"
	d := openDir(t, path)
	id := d.NodeID()
	if !id.Valid() || d.Boots() != 1 || d.Membership() != cluster.MembershipNone {
		t.Fatalf("new directory: %q %d %q", id, d.Boots(), d.Membership())
	}
	closeDir(t, d)
	d = openDir(t, path)
	defer closeDir(t, d)
	if d.NodeID() != id || d.Boots() != 2 {
		t.Fatalf("second start: %q %d, want %q 2", d.NodeID(), d.Boots(), id)
	}
	err := filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %#o", p, st.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestI1_OneProcessHoldsADirectory(t *testing.T) {
	path := t.TempDir() + "/d"
	d := openDir(t, path)
	_, err := cluster.OpenDir(path, rand.Reader)
	if !errs.Is(err, errs.FailedState) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("second holder: %v", err)
	}
	boots := d.Boots()
	closeDir(t, d)
	d = openDir(t, path)
	defer closeDir(t, d)
	if d.Boots() != boots+1 {
		t.Errorf("the refused start was counted: %d after %d", d.Boots(), boots)
	}
}

func TestACreationThatACrashCutShortIsCompleted(t *testing.T) {
	whole := t.TempDir() + "/whole"
	closeDir(t, openDir(t, whole))
	// The order of creation; a crash leaves a prefix of it.
	steps := []string{"LOCK", "format", "raft", "raft/snapshots", "seal", "tls", "audit", "run", "node.json.tmp", "node.json"}
	for n := range len(steps) + 1 {
		path := t.TempDir() + "/d"
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, s := range steps[:n] {
			p := filepath.Join(path, s)
			src := filepath.Join(whole, strings.TrimSuffix(s, ".tmp"))
			st, err := os.Stat(src)
			if err != nil {
				t.Fatal(err)
			}
			if st.IsDir() {
				err = os.Mkdir(p, 0o700)
			} else {
				var raw []byte
				if raw, err = os.ReadFile(src); strings.HasSuffix(s, ".tmp") {
					raw = raw[:len(raw)/2]
				}
				if err == nil {
					err = os.WriteFile(p, raw, 0o600)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		d, err := cluster.OpenDir(path, rand.Reader)
		if err != nil {
			t.Errorf("after a crash at step %d: %v", n, err)
			continue
		}
		if !d.NodeID().Valid() {
			t.Errorf("after a crash at step %d: id %q", n, d.NodeID())
		}
		closeDir(t, d)
	}
}

func TestADirectoryThatCannotBeTrustedIsRefused(t *testing.T) {
	member := `{"format":1,"node_id":"00112233445566778899aabbccddeeff","boots":3,"membership":"member",
		"cluster_id":"00112233445566778899aabbccddeeff","keyspace_id":"00112233445566778899aabbccddeeff",
		"fingerprint":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}`
	write := func(name, content string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(name string, mode fs.FileMode) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if err := os.Chmod(filepath.Join(path, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		damage []func(*testing.T, string)
		code   errs.Code
		says   string
	}{
		{"newer format", []func(*testing.T, string){write("format", "2\n")}, errs.InvalidConfig, "format"},
		{"open to others", []func(*testing.T, string){chmod(".", 0o750)}, errs.InvalidConfig, "chmod 0700"},
		{"part open to others", []func(*testing.T, string){chmod("tls", 0o755)}, errs.InvalidConfig, "chmod 0700"},
		{"node.json open to others", []func(*testing.T, string){chmod("node.json", 0o644)}, errs.InvalidConfig, "chmod 0600"},
		{"no identity but a log", []func(*testing.T, string){write("raft/raft.db", "x"), func(t *testing.T, p string) {
			t.Helper()
			if err := os.Remove(filepath.Join(p, "node.json")); err != nil {
				t.Fatal(err)
			}
		}}, errs.StateCorrupt, "empty data directory"},
		{"a member without its log", []func(*testing.T, string){write("node.json", member)}, errs.StateCorrupt, "Raft log"},
		{"torn node.json", []func(*testing.T, string){write("node.json", member[:40])}, errs.StateCorrupt, "node.json"},
		{"unknown field", []func(*testing.T, string){write("node.json", `{"format":1,"node_id":"00112233445566778899aabbccddeeff","x":1}`)}, errs.StateCorrupt, "node.json"},
		{"newer node.json", []func(*testing.T, string){write("node.json", `{"format":2,"node_id":"00112233445566778899aabbccddeeff"}`)}, errs.StateCorrupt, "node.json"},
		{"bad id", []func(*testing.T, string){write("node.json", `{"format":1,"node_id":"00112233445566778899AABBCCDDEEFF"}`)}, errs.StateCorrupt, "node_id"},
		{"facts without membership", []func(*testing.T, string){write("node.json", `{"format":1,"node_id":"00112233445566778899aabbccddeeff","cluster_id":"x"}`)}, errs.StateCorrupt, "facts"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := t.TempDir() + "/d"
			closeDir(t, openDir(t, path))
			for _, f := range tc.damage {
				f(t, path)
			}
			d, err := cluster.OpenDir(path, rand.Reader)
			if err == nil {
				_ = d.Close()
			}
			if !errs.Is(err, tc.code) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %v, want %s that says %q", err, tc.code, tc.says)
			}
		})
	}
}

func TestAddressesAreReadBack(t *testing.T) {
	path := t.TempDir() + "/d"
	d := openDir(t, path)
	defer closeDir(t, d)
	want := cluster.Addresses{GRPC: "127.0.0.1:1", REST: "127.0.0.1:2", Peer: "127.0.0.1:3", Ops: "127.0.0.1:4"}
	if err := d.WriteAddresses(want); err != nil {
		t.Fatal(err)
	}
	if got, err := cluster.ReadAddresses(path); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := cluster.ReadAddresses(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no file: %v", err)
	}
}

func TestUnfinishedFilesAreRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "above", "data")
	d, err := cluster.OpenDir(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node.json.tmp", "tls/api.pem.new", "tls/node.key.tmp", "seal/held.tmp", "run/addresses.json.tmp"} {
		if err := os.WriteFile(d.Path(name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(d.Path("raft/snapshots/2-9-1.tmp/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = cluster.OpenDir(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	err = filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if ext := filepath.Ext(p); ext == ".tmp" || ext == ".new" {
			t.Errorf("%s is left over", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The path of a data directory is a name and no pattern.
func TestADirectoryWithBracketsInItsNameIsOneLikeOthers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"data[1]", "data[", "da*ta?", `da\ta`} {
		path := filepath.Join(t.TempDir(), name)
		d, err := cluster.OpenDir(path, rand.Reader)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := errors.Join(d.Close(), os.WriteFile(filepath.Join(path, "seal", "record.pb.tmp"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if d, err = cluster.OpenDir(path, rand.Reader); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(path, "seal", "record.pb.tmp")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: an unfinished file stays: %v", name, err)
		}
		if err := errors.Join(d.Close(), os.WriteFile(filepath.Join(path, "seal", "record.pb"), nil, 0o600), os.Remove(filepath.Join(path, "node.json"))); err != nil {
			t.Fatal(err)
		}
		if _, err = cluster.OpenDir(path, rand.Reader); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s: a new identity beside the remains of another: %v", name, err)
		}
	}
}
