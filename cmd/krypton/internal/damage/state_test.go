//go:build unix

package damage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// change breaks something in a data directory.
type change func(p *place)

func (p *place) path(name string) string { return filepath.Join(p.data, filepath.FromSlash(name)) }

// matching returns the files in the data directory that match.
func (p *place) matching(pattern string) []string {
	p.t.Helper()
	all, err := filepath.Glob(p.path(pattern))
	if err != nil || len(all) == 0 {
		p.t.Fatalf("%s: %v", pattern, err)
	}
	return all
}

// bytesOf changes the content of the files that match.
func bytesOf(pattern string, f func([]byte) []byte) change {
	return func(p *place) {
		for _, name := range p.matching(pattern) {
			p.write(name, f(p.read(name)))
		}
	}
}

func missing(pattern string) change {
	return func(p *place) {
		for _, name := range p.matching(pattern) {
			if err := os.RemoveAll(name); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

func empty(pattern string) change { return bytesOf(pattern, func([]byte) []byte { return nil }) }

func cut(pattern string) change {
	return bytesOf(pattern, func(b []byte) []byte { return b[:len(b)/2] })
}

func garbage(pattern string) change {
	return bytesOf(pattern, func([]byte) []byte { return []byte(strings.Repeat("garbage\x00", 600)) })
}

// flip turns one bit of the byte behind the first place where text stands.
func flip(pattern, text string) change {
	return bytesOf(pattern, func(b []byte) []byte {
		b[max(bytes.Index(b, []byte(text)), 0)+len(text)] ^= 0x04
		return b
	})
}

func replace(pattern, old, now string) change {
	return bytesOf(pattern, func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(now), 1) })
}

func mode(name string, m os.FileMode) change {
	return func(p *place) {
		if err := os.Chmod(p.path(name), m); err != nil {
			p.t.Fatal(err)
		}
	}
}

// directory puts a directory in the place of a file.
func directory(name string) change {
	return func(p *place) {
		_ = os.RemoveAll(p.path(name)) // it may not be there
		if err := os.Mkdir(p.path(name), 0o700); err != nil {
			p.t.Fatal(err)
		}
	}
}

// foreign puts the file of another cluster there.
func foreign(name string) change {
	return func(p *place) { p.write(p.path(name), p.read(filepath.Join(prepared.other, filepath.FromSlash(name)))) }
}

// sum is what a data directory holds, file by file. What a start may write
// anyhow is left out: the lock, the counter of starts and its own working files.
func (p *place) sum() map[string]string {
	p.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(p.data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(p.data, path)
		if err != nil || rel == "LOCK" || strings.HasPrefix(rel, "run/") || strings.HasPrefix(rel, "audit/") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if rel == "node.json" {
			var n map[string]any
			if json.Unmarshal(b, &n) == nil && n["boots"] != nil {
				n["boots"] = 0
				if b, err = json.Marshal(n); err != nil {
					return err
				}
			}
		}
		if rel == "raft/raft.db" && validDatabase(b) {
			return nil // opening it writes its freelist; what it holds is looked at by others
		}
		all[rel] = fmt.Sprintf("%d %x", len(b), sha256.Sum256(b))
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return all
}

// validDatabase reports whether b begins as a database of bbolt.
func validDatabase(b []byte) bool {
	return len(b) >= 32<<10 && binary.NativeEndian.Uint32(b[16:]) == 0xED0CDAED
}

// damage is one way in which a file of a node goes bad.
type damage struct {
	id  string
	do  change
	put []string // what is put back, relative to the data directory; nil: it is not tried, another row does
}

// TestADamagedFileIsFoundAndNothingIsWrittenOverIt starts a node on each damaged
// file. It has to end with the line of the table, to have changed nothing, and to
// start and open old data once the file is put back.
func TestADamagedFileIsFoundAndNothingIsWrittenOverIt(t *testing.T) {
	t.Parallel()
	segment := "audit/00000000000000000001.jsonl"
	for name, d := range map[string]damage{
		"format newer":          {"stored/format-newer", bytesOf("format", func([]byte) []byte { return []byte("2\n") }), []string{"format"}},
		"format missing":        {"stored/format-missing", missing("format"), nil},
		"format empty":          {"stored/format-damaged", empty("format"), nil},
		"format garbage":        {"stored/format-damaged", garbage("format"), nil},
		"format is a dir":       {"stored/kind-changed", directory("format"), nil},
		"identity missing":      {"stored/identity-missing", missing("node.json"), []string{"node.json"}},
		"identity and log":      {"stored/identity-missing", func(p *place) { missing("node.json")(p); missing("raft")(p) }, []string{"node.json", "raft"}},
		"identity empty":        {"stored/identity-damaged", empty("node.json"), nil},
		"identity cut":          {"stored/identity-damaged", cut("node.json"), nil},
		"identity flipped":      {"stored/identity-damaged", flip("node.json", `"node_id"`), nil},
		"node id flipped":       {"stored/identity-foreign", bytesOf("node.json", flipID), nil},
		"identity garbage":      {"stored/identity-damaged", garbage("node.json"), nil},
		"identity twice":        {"stored/identity-damaged", bytesOf("node.json", func(b []byte) []byte { return append(b, b...) }), nil},
		"identity newer":        {"stored/identity-damaged", replace("node.json", `"format": 1`, `"format": 2`), nil},
		"identity unknown":      {"stored/identity-damaged", replace("node.json", `{`, `{"new": 1,`), nil},
		"identity is a dir":     {"stored/kind-changed", directory("node.json"), nil},
		"identity of another":   {"stored/identity-foreign", otherID, []string{"node.json"}},
		"identity of a cluster": {"stored/identity-foreign", foreign("node.json"), nil},
		"cluster of another":    {"stored/cluster-foreign", otherCluster, []string{"node.json"}},
		"log missing":           {"stored/log-missing", missing("raft/raft.db"), []string{"raft"}},
		"log dir missing":       {"stored/log-missing", missing("raft"), nil},
		"log empty":             {"stored/log-empty", empty("raft/raft.db"), []string{"raft"}},
		"log new":               {"stored/log-empty", newLog, []string{"raft"}},
		"log cut":               {"stored/log-damaged", cut("raft/raft.db"), []string{"raft"}},
		"log garbage":           {"stored/log-damaged", garbage("raft/raft.db"), nil},
		"log entry flipped":     {"stored/log-damaged", editLog(func(l *raft.Log) *raft.Log { l.Data[len(l.Data)-1] ^= 1; return l }), []string{"raft"}},
		"log meta pages":        {"stored/log-damaged", bytesOf("raft/raft.db", func(b []byte) []byte { clear(b[:8192]); return b }), nil},
		"log data pages":        {"stored/log-damaged", bytesOf("raft/raft.db", func(b []byte) []byte { clear(b[8192:]); return b }), nil},
		"log is a dir":          {"stored/log-damaged", directory("raft/raft.db"), nil},
		"log of a cluster":      {"stored/identity-foreign", foreign("raft/raft.db"), nil},
		"log layout newer":      {"stored/log-damaged", editLog(func(l *raft.Log) *raft.Log { c := *l; c.Data = append([]byte{2}, l.Data[1:]...); return &c }), nil},
		"log command unknown":   {"stored/log-newer", editLog(func(l *raft.Log) *raft.Log { return withData(l, []byte("\xff\xff\xff")) }), []string{"raft"}},
		"seal record empty":     {"stored/seal-record-damaged", empty("seal/record.pb"), nil},
		"seal record cut":       {"stored/seal-record-damaged", cut("seal/record.pb"), nil},
		"seal record flipped":   {"stored/seal-record-damaged", flip("seal/record.pb", "KRYPSEAL"), nil},
		"seal record garbage":   {"stored/seal-record-damaged", garbage("seal/record.pb"), []string{"seal"}},
		"seal record is a dir":  {"stored/seal-record-unreadable", directory("seal/record.pb"), nil},
		"hold is a dir":         {"stored/hold-unreadable", directory("seal/held"), []string{"seal"}},
		"key missing":           {"stored/member-key-damaged", missing("tls/node.key"), []string{"tls"}},
		"key empty":             {"stored/member-key-damaged", empty("tls/node.key"), nil},
		"key cut":               {"stored/member-key-damaged", cut("tls/node.key"), nil},
		"key garbage":           {"stored/member-key-damaged", garbage("tls/node.key"), nil},
		"key of another":        {"stored/member-key-foreign", foreign("tls/node.key"), []string{"tls"}},
		"key and its list":      {"stored/member-key-foreign", func(p *place) { foreign("tls/node.key")(p); missing("tls/peers.json")(p) }, nil},
		"key flipped":           {"stored/member-key-foreign", otherKey, nil},
		"peers empty":           {"stored/peers-damaged", empty("tls/peers.json"), nil},
		"peers cut":             {"stored/peers-damaged", cut("tls/peers.json"), nil},
		"peers garbage":         {"stored/peers-damaged", garbage("tls/peers.json"), []string{"tls"}},
		"peers newer":           {"stored/peers-damaged", replace("tls/peers.json", `"format": 1`, `"format": 2`), nil},
		"peers flipped":         {"stored/peers-damaged", flip("tls/peers.json", `"public_key": "`), nil},
		"directory reachable":   {"stored/reachable-by-others", mode(".", 0o755), nil},
		"subdirectory":          {"stored/reachable-by-others", mode("seal", 0o750), nil},
		"identity reachable":    {"stored/reachable-by-others", mode("node.json", 0o604), nil},
		"log reachable":         {"stored/reachable-by-others", mode("raft/raft.db", 0o644), nil},
		"key reachable":         {"stored/reachable-by-others", mode("tls/node.key", 0o640), nil},
		"trail flipped":         {"stored/trail-broken", flip(segment, `"seq":`), []string{segment}},
		"trail garbage":         {"stored/trail-broken", garbage(segment), []string{segment}},
		"trail of another":      {"stored/trail-broken", bytesOf(segment, func(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] }), nil},
		"trail is a dir":        {"stored/trail-unopened", directory(segment), nil},
		"lock is a dir":         {"stored/kind-changed", directory("LOCK"), nil},
		"raft is a file":        {"stored/kind-changed", func(p *place) { missing("raft")(p); p.write(p.path("raft"), nil) }, []string{"raft"}},
		"data is a file":        {"stored/kind-changed", func(p *place) { missing(".")(p); p.write(p.data, nil) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			d.do(p)
			before := p.sum()
			p.refuses(d.id)
			if diff := cmp.Diff(before, p.sum()); diff != "" {
				t.Errorf("the start changed what was there (-before +after):\n%s", diff)
			}
			if d.put == nil {
				return
			}
			for _, f := range d.put {
				if err := os.RemoveAll(p.path(f)); err != nil {
					t.Fatal(err)
				}
				copyTree(t, filepath.Join(prepared.data, f), p.path(f))
			}
			p.healthy()
		})
	}
}

// flipID changes one digit of the node's id into another one.
func flipID(b []byte) []byte {
	at := bytes.Index(b, []byte(`"node_id": "`)) + len(`"node_id": "`)
	b[at] = "123456789abcdef0"[bytes.IndexByte([]byte("0123456789abcdef"), b[at])]
	return b
}

func otherID(p *place) {
	id, _ := p.nodeJSON()["node_id"].(string)
	replace("node.json", id, strings.Repeat("5a", 16))(p)
}

func otherCluster(p *place) {
	sum, _ := p.nodeJSON()["fingerprint"].(string)
	replace("node.json", sum, strings.Repeat("5a", 32))(p)
}

func newLog(p *place) {
	missing("raft/raft.db")(p)
	p.log(func(*raftboltdb.BoltStore) {})
	mode("raft/raft.db", 0o600)(p)
}

// otherKey makes another valid key of the member key, as a wrong bit may.
func otherKey(p *place) {
	block := decodePEM(p, p.read(p.path("tls/node.key")))
	at := bytes.Index(block.Bytes, []byte{0x04, 0x20}) // OCTET STRING of 32 bytes: the private value
	if at < 0 {
		p.t.Fatal("the member key has another form")
	}
	block.Bytes[at+2+20] ^= 1
	p.write(p.path("tls/node.key"), encodePEM(block))
}

// editLog changes the last command of the log, so that the database and Raft
// accept it.
func editLog(f func(*raft.Log) *raft.Log) change {
	return func(p *place) {
		p.log(func(db *raftboltdb.BoltStore) {
			var last *raft.Log
			p.entries(db, func(l *raft.Log) {
				if l.Type == raft.LogCommand {
					last = l
				}
			})
			if err := db.StoreLog(f(last)); err != nil {
				p.t.Fatal(err)
			}
		})
	}
}

// TestADamagedSnapshotIsFound as files are, in a directory with a snapshot whose
// log begins after it.
func TestADamagedSnapshotIsFound(t *testing.T) {
	t.Parallel()
	const meta, state = "raft/snapshots/*/meta.json", "raft/snapshots/*/state.bin"
	for name, d := range map[string]damage{
		"whole":           {"", func(*place) {}, nil},
		"all gone":        {"stored/snapshot-missing", missing("raft/snapshots"), nil},
		"no meta":         {"stored/snapshot-missing", missing(meta), nil},
		"meta garbage":    {"stored/snapshot-missing", garbage(meta), nil},
		"no state":        {"stored/snapshot-damaged", missing(state), nil},
		"state empty":     {"stored/snapshot-damaged", empty(state), nil},
		"state cut":       {"stored/snapshot-damaged", cut(state), nil},
		"state flipped":   {"stored/snapshot-damaged", flip(state, "tenants/demo"), nil},
		"content flipped": {"stored/snapshot-malformed", mended(flip(state, "KRYPSNAP\x00\x00\x00\x01")), nil},
		"format newer":    {"stored/snapshot-malformed", mended(replace(state, "KRYPSNAP\x00\x00\x00\x01", "KRYPSNAP\x00\x00\x00\x02")), nil},
		"bytes behind it": {"stored/snapshot-malformed", mended(bytesOf(state, func(b []byte) []byte { return append(b, 0) })), nil},
		"of a cluster":    {"stored/snapshot-foreign", mended(bytesOf(state, func([]byte) []byte { return prepared.otherState })), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.truncate(p.snapshot(prover(t, p), nil) - 2)
			whole := filepath.Join(p.dir, "whole")
			copyTree(t, p.path("raft"), whole)
			d.do(p)
			if d.id != "" {
				before := p.sum()
				p.refuses(d.id)
				if diff := cmp.Diff(before, p.sum()); diff != "" {
					t.Errorf("the start changed what was there (-before +after):\n%s", diff)
				}
				if err := os.RemoveAll(p.path("raft")); err != nil {
					t.Fatal(err)
				}
				copyTree(t, whole, p.path("raft"))
			}
			p.healthy()
		})
	}
	for name, do := range map[string]change{"all gone": missing("raft/snapshots"), "meta garbage": garbage(meta)} {
		t.Run("log is whole, "+name, func(t *testing.T) {
			t.Parallel()
			situationtest.Outcome(t, "stored/snapshot-lost")
			p := newPlace(t)
			p.snapshot(prover(t, p), nil)
			do(p)
			p.healthy()
		})
	}
}

// boundToAnotherKey makes the tenant one whose L1 is another key.
func boundToAnotherKey(l *raft.Log) *raft.Log {
	if l.Type != raft.LogCommand || !bytes.Contains(entryData(l), []byte("demo-l1")) {
		return l
	}
	return withData(l, bytes.Replace(entryData(l), []byte("demo-l1"), []byte("demo-l2"), 1))
}

// TestAForgedSnapshotServesNothing although all its checksums are right: the node
// runs, so that it can be looked at and removed, and refuses callers.
func TestAForgedSnapshotServesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id    string
		forge change
	}{
		"edited": {"stored/snapshot-edited", func(p *place) {
			p.snapshot(func(hierarchy.Generation, ...[]byte) ([32]byte, bool) { return [32]byte{1}, true }, boundToAnotherKey)
		}},
		"without MAC": {"stored/snapshot-unproved", func(p *place) { p.snapshot(nil, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			c.forge(p)
			n := p.start()
			n.until("it refuses", func(ctx context.Context) error {
				status, body, err := n.ready(ctx)
				if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(body, "STATE_CORRUPT")) {
					err = fmt.Errorf("%d %s", status, body)
				}
				return err
			})
			_, err := n.as("workload").Crypto().Decrypt(t.Context(), &kryptonv1.DecryptRequest{Service: service, Ciphertext: prepared.text})
			situationtest.Error(t, c.id, err)
			n.stop()
			missing("raft/snapshots")(p) // the log is whole
			p.healthy()
		})
	}
}

// TestAHoldWhoseFileIsDamagedHolds: a node that cannot tell when it was held
// stays sealed.
func TestAHoldWhoseFileIsDamagedHolds(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.write(p.path("seal/held"), []byte("garbage"))
	n := p.start()
	n.until("it refuses", func(ctx context.Context) error {
		_, body, err := n.ready(ctx)
		if err == nil && !strings.Contains(body, "HELD") {
			err = fmt.Errorf("it says %s", body)
		}
		return err
	})
	_, err := n.as("workload").Crypto().Decrypt(t.Context(), &kryptonv1.DecryptRequest{Service: service, Ciphertext: prepared.text})
	situationtest.Error(t, "stored/hold-damaged", err)
	n.stop()
	missing("seal/held")(p)
	p.healthy()
}

// TestWhatTheClusterHasOrNobodyNeedsIsMadeAgain without a person.
func TestWhatTheClusterHasOrNobodyNeedsIsMadeAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id string
		do change
	}{
		"seal record missing": {"stored/seal-record-lost", missing("seal/record.pb")},
		"seal record foreign": {"stored/seal-record-lost", foreign("seal/record.pb")},
		"peers missing":       {"stored/public-data-lost", missing("tls/peers.json")},
		"certificate missing": {"stored/public-data-lost", missing("tls/api.pem")},
		"certificates broken": {"stored/public-data-lost", func(p *place) { garbage("tls/api.pem")(p); cut("tls/callers.pem")(p) }},
		"certificate foreign": {"stored/public-data-lost", func(p *place) { foreign("tls/api.pem")(p); foreign("tls/callers.pem")(p) }},
		"run files":           {"stored/run-files-lost", func(p *place) { missing("run")(p); missing("LOCK")(p) }},
		"run file garbage": {"stored/run-files-lost", func(p *place) {
			garbage("LOCK")(p)
			p.write(p.path("audit/reserve"), []byte("garbage"))
			p.write(p.path("run/admin.sock"), nil)
		}},
		"trail missing": {"stored/trail-lost", missing("audit")},
		"trail torn":    {"stored/trail-lost", cut("audit/00000000000000000001.jsonl")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			situationtest.Outcome(t, c.id)
			p := newPlace(t)
			c.do(p)
			out := p.healthy()
			if anew := strings.Contains(out, "the audit trail of this node begins anew"); anew != (name == "trail missing") {
				t.Errorf("it warns of a new trail: %v\n%s", anew, out)
			}
		})
	}
}
