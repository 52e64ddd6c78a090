//go:build unix

package recovery_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

const (
	// earlier and later are the holders of the first MasterKey and of the second one. ben
	// has a share of both.
	earlier = `groups:
  - threshold: 2
    holders:
      - {name: red, keystore: red, key: share}
      - {name: anna, recipient_file: keys/anna.recipient}
      - {name: ben, recipient_file: keys/ben.recipient}
`
	later = `groups:
  - threshold: 2
    holders:
      - {name: green, keystore: green, key: share}
      - {name: eve, recipient_file: keys/eve.recipient}
      - {name: ben, recipient_file: keys/ben.recipient}
`
)

// TestARekeyedClusterIsRecovered is docs/runbooks/all-nodes-lost.md after a rekey: each file
// is opened by the holders of the MasterKey in force in it, and by nobody else, and one from
// before the rekey takes the cluster back behind it.
func TestARekeyedClusterIsRecovered(t *testing.T) {
	h := found(t, earlier, "red", "green")
	n := h.nodes[0]
	h.workload(n)
	h.seals("first")
	h.save("before")
	h.rekeys(func() { h.save("staged") })
	h.opens("first") // nobody went to the node
	h.ok("service", "create", tenant+"/late", "--context", "gabi")
	h.save("after")
	n.stop(t)
	h.ok("operator", "snapshot", "save-dir", h.path("log"), "--config", n.config)

	opened := func(file string, by ...string) result {
		t.Helper()
		args := []string{"operator", "snapshot", "verify", h.path(file), "--holders", "--config", n.config}
		for _, who := range by {
			args = append(args, "--identity", h.path("keys/"+who+".identity"))
		}
		return h.krypton(args...)
	}
	for file, generation := range map[string]string{"before": "1", "staged": "1", "after": "2", "log": "2"} {
		var is struct{ Generation json.Number }
		if err := json.Unmarshal([]byte(h.ok("operator", "snapshot", "inspect", h.path(file), "--output", "json")), &is); err != nil || is.Generation.String() != generation {
			t.Errorf("%s: generation %s, want %s: %v", file, is.Generation, generation, err)
		}
		its, other := "anna", "eve"
		if generation == "2" {
			its, other = other, its
		}
		if r := opened(file, its); r.code != 0 || !strings.Contains(r.out, "proved by the MasterKey:") || !strings.Contains(r.out, "yes") {
			t.Errorf("%s, with its keystore and %s: status %d\n%s%s", file, its, r.code, r.out, r.err)
		}
		if r := opened(file, other); r.code == 0 || !strings.Contains(r.err, "no share is encrypted to the identity in ") {
			t.Errorf("%s, with %s: status %d\n%s", file, other, r.code, r.err)
		}
	}
	// A share of one MasterKey completes none of the other.
	h.away("red")
	if r := opened("before", "ben"); r.code == 0 || !strings.Contains(r.err, "1 more of: ") || !strings.Contains(r.err, "red (unavailable)") {
		t.Errorf("one share of the first MasterKey: status %d\n%s", r.code, r.err)
	}
	if r := opened("after", "ben"); r.code != 0 {
		t.Errorf("without the keystore of the first MasterKey: status %d\n%s", r.code, r.err)
	}
	h.back("red")

	// A record of the first MasterKey is not taken back, and one that is brought where the own is
	// lost is replaced by the node itself: its log has the second one, and who signed for it.
	h.refused("of generation 2, and that one of generation 1", "operator", "recover", "seal", h.path("before"), "--config", n.config)
	record := filepath.Join(n.dir, "seal", "record.pb")
	h.write(filepath.Join(n.name, "seal", "record.pb"), "damaged")
	h.ok("operator", "recover", "seal", h.path("before"), "--config", n.config)
	n.start(t)
	h.missing(n, "1 more of: ", "eve (person)", "ben (person)")
	h.ok("unseal", "--identity", h.path("keys/eve.identity"))
	eventually(t, "the holders of the second MasterKey open it", func() bool { return ready(n.ops) })
	h.opens("first")
	n.stop(t)
	h.refused("of generation 2, and that one of generation 1", "operator", "recover", "seal", h.path("before"), "--config", n.config) // it is the second one again
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	h.ok("operator", "recover", "seal", h.path("after"), "--config", n.config)
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}

	// The file from after it.
	far := h.node("far", "red", "green")
	order := []string{"operator", "recover", "snapshot", h.path("after"), "--config", far.config, "--destroyed", "n1"}
	h.ok(append(order, "--yes", "--intent", h.intent(order), "--identity", h.path("keys/eve.identity"))...)
	far.start(t)
	h.contexts(far)
	h.missing(far, "1 more of: ", "eve (person)")
	h.refused("no share is encrypted to this identity", "unseal", "--identity", h.path("keys/anna.identity"))
	h.ok("unseal", "--identity", h.path("keys/eve.identity"))
	eventually(t, "the cluster serves again", func() bool { return ready(far.ops) })
	h.opens("first")
	h.ok("service", "get", tenant+"/late", "--context", "gabi")

	// And the one from before it: its holders open it, and the rekey did not happen.
	old := h.node("old", "red", "green")
	order = []string{"operator", "recover", "snapshot", h.path("before"), "--config", old.config, "--destroyed", "n1"}
	order = append(order, "--yes", "--intent", h.intent(order))
	h.refused("no share is encrypted to the identity in ", append(order, "--identity", h.path("keys/eve.identity"))...)
	if out := h.ok(append(order, "--identity", h.path("keys/anna.identity"))...); !strings.Contains(out, "generation of the MasterKey: 1\n") {
		t.Errorf("it does not say which MasterKey it goes back to:\n%s", out)
	}
	old.start(t)
	h.contexts(old)
	h.missing(old, "1 more of: ", "anna (person)")
	h.refused("no share is encrypted to this identity", "unseal", "--identity", h.path("keys/eve.identity"))
	h.ok("unseal", "--identity", h.path("keys/anna.identity"))
	eventually(t, "it serves as before the rekey", func() bool { return ready(old.ops) })
	h.opens("first")
	h.refused("", "service", "get", tenant+"/late", "--context", "gabi")
	if !ready(far.ops) {
		t.Error("it disturbs the other incarnation")
	}
	// What has to be done is done again: the rekey.
	h.rekeys(nil)
	h.opens("first")
}

// TestAMajorityIsLostAfterARekey is docs/runbooks/lost-quorum.md: the survivor is one that
// has the second MasterKey, or one that slept through the rekey and has the first.
func TestAMajorityIsLostAfterARekey(t *testing.T) {
	for _, survivor := range []string{"one that has it", "one that slept"} {
		t.Run(survivor, func(t *testing.T) {
			w := begin(t, 3)
			nodes := w.c.Nodes()
			a, b, late := nodes[0], nodes[1], nodes[2]
			w.encrypt(a.Addresses().GRPC)
			late.Kill()
			key := func(use func(*local.Keystore) error) {
				t.Helper()
				if err := w.c.Keystore(t.Context(), use); err != nil {
					t.Fatal(err)
				}
			}
			key(func(s *local.Keystore) error { return s.CreateKey(t.Context(), "second") })
			w.write("second.yaml", "keys:\n  - {keystore: "+devcluster.KeystoreName+", key: second}\n")
			p, _ := w.c.Person(auth.RoleCustodian)
			custodian := w.as(auth.RoleCustodian, a.Addresses().GRPC)
			w.ok(append([]string{"ceremony", "start", "rekey", "--seal-plan", w.path("second.yaml"), "--yes", "--sign-key", p.KeyFile}, custodian...)...)
			eventually(t, "the second MasterKey is in force", func() bool {
				return strings.Contains(w.krypton(append([]string{"ceremony", "status", "--output", "json"}, custodian...)...).out, "CEREMONY_STATE_COMMITTED")
			})
			w.decrypts(b.Addresses().GRPC)
			a.Kill()
			b.Kill()

			alive, comes, gone, first := a, late, b, false
			if survivor == "one that slept" {
				alive, comes, first = late, a, true
			}
			order := append([]string{"operator", "recover", "quorum", "--config", alive.ConfigFile()}, w.destroyed(comes, gone)...)
			out := w.signed(order...)
			if want := map[bool]string{true: "1", false: "2"}[first]; !strings.Contains(out, "generation of the MasterKey: "+want+"\n") {
				t.Errorf("it does not say which MasterKey it goes on with:\n%s", out)
			}
			// Only the key of the MasterKey in its state is asked.
			other := keystore.KeyRef("masterkey")
			if first {
				other = "second"
			}
			key(func(s *local.Keystore) error { return s.Disable(t.Context(), other) })
			if err := alive.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the survivor serves alone", func() bool { return ready(alive.Addresses().Ops) })
			w.decrypts(alive.Addresses().GRPC)

			// What people signed was wrong, and the other one comes back, with the other MasterKey.
			key(func(s *local.Keystore) error { return s.Enable(t.Context(), other) })
			if err := comes.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			never(t, "a node of before serves", func() bool { return ready(comes.Addresses().Ops) })
			if r := w.decrypt(comes.Addresses().GRPC); r.code == 0 {
				t.Error("a node of before decrypts")
			}
			if !ready(alive.Addresses().Ops) {
				t.Error("it disturbs the new cluster")
			}
			w.decrypts(alive.Addresses().GRPC)
		})
	}
}
