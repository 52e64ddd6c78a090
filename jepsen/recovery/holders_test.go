//go:build unix

package recovery_test

import (
	"os"
	"strings"
	"testing"
)

// mixed is 2 of 4: three keystores in three accounts, and a person.
const mixed = `groups:
  - threshold: 2
    holders:
      - {name: red, keystore: red, key: share}
      - {name: green, keystore: green, key: share}
      - {name: blue, keystore: blue, key: share}
      - {name: anna, recipient_file: keys/anna.recipient}
`

// TestAnAccountIsDeletedForGood is docs/runbooks/account-deleted.md, on three voters that
// are started again one after the other.
func TestAnAccountIsDeletedForGood(t *testing.T) {
	h := found(t, mixed, "red", "green", "blue")
	n := h.nodes[0]
	h.workload(n)
	h.seals("first")
	for _, name := range []string{"n2", "n3"} {
		h.joins(name, "red", "green", "blue")
	}
	if out := h.ok("status", "--output", "json", "--data-dir", n.dir); !strings.Contains(out, `"unsealsWithoutPeople": true`) {
		t.Errorf("two of three keystores are enough, and status says\n%s", out)
	}
	if err := os.RemoveAll(h.path("at-blue")); err != nil {
		t.Fatal(err)
	}
	// Nothing is restarted: which holders are left?
	for _, s := range h.nodes {
		if !ready(s.ops) {
			t.Errorf("%s is unsealed, and ends with the account", s.name)
		}
	}
	h.refused("step files failed", "keystore", "check", "blue", "--key", "share", "--config", n.config)
	for _, left := range []string{"red", "green"} {
		h.ok("keystore", "check", left, "--key", "share", "--config", n.config)
	}

	// A key in another account, in the configuration of one node after the other. The rest is
	// enough to unseal each, and the others serve meanwhile.
	h.ok("keystore", "create", "--dir", h.path("at-gold"), "share")
	rolling := func(keystores ...string) {
		t.Helper()
		for i, s := range h.nodes {
			h.configure(s, keystores...)
			s.stop(t)
			other := h.nodes[(i+1)%len(h.nodes)]
			h.contexts(other)
			eventually(t, "another voter leads while one is away", func() bool { return ready(other.ops) })
			h.opens("first")
			s.start(t)
			eventually(t, s.name+" unseals by the holders that are left", func() bool { return ready(s.ops) })
			h.contexts(s)
			h.opens("first")
		}
	}
	rolling("red", "green", "blue", "gold")

	// One that starts names the lost account only where the rest is not enough.
	n.stop(t)
	h.away("green")
	n.start(t)
	h.missing(n, "1 more of: ", "blue (unavailable)", "failed: unavailable")
	h.back("green")
	eventually(t, "it unseals without the account", func() bool { return ready(n.ops) })

	h.write("new.yaml", strings.ReplaceAll(mixed, "blue", "gold"))
	h.ok("operator", "seal", "plan", h.path("new.yaml"), "--config", n.config, "--accept-risk", "concentration")
	h.ok("ceremony", "start", "reshare", "--seal-plan", h.path("new.yaml"), "--accept-risk", "concentration", "--yes")
	h.ceremony("COMMITTED")
	if out := h.ok("ceremony", "status"); strings.Contains(out, "blue") || !strings.Contains(out, "gold") {
		t.Errorf("the ceremony says\n%s", out)
	}
	rolling("red", "green", "gold") // without the lost one

	// The new holder counts: it opens with one of the others, without the rest.
	n.stop(t)
	h.away("red")
	n.start(t)
	eventually(t, "the new holder and one other open it", func() bool { return ready(n.ops) })
	n.stop(t)
	h.away("green")
	n.start(t)
	h.missing(n, "1 more of: ", "red (unavailable)", "green (unavailable)", "anna (person)")
	h.contexts(n)
	h.ok("unseal", "--identity", h.path("keys/anna.identity"))
	eventually(t, "the new holder and the person open it", func() bool { return ready(n.ops) })
}

// TestKeystoresAreDownWhenNodesStart is docs/runbooks/keystores-down.md.
func TestKeystoresAreDownWhenNodesStart(t *testing.T) {
	h := found(t, mixed, "red", "green", "blue")
	n := h.nodes[0]
	h.away("red")
	h.away("green")
	h.away("blue")
	if !ready(n.ops) {
		t.Error("a node that is unsealed needs its keystores")
	}
	n.stop(t)
	n.start(t)
	h.missing(n, "2 of: ", "red (unavailable)", "green (unavailable)", "blue (unavailable)", "anna (person)")
	never(t, "it serves with none of its keystores", func() bool { return ready(n.ops) })
	h.back("red")
	h.missing(n, "1 more of: ", "green (unavailable)", "blue (unavailable)", "anna (person)")
	h.back("blue")
	eventually(t, "it unseals by itself", func() bool { return ready(n.ops) })

	// A person need not wait for them, and what a keystore gave stays.
	n.stop(t)
	h.away("blue")
	n.start(t)
	h.missing(n, "1 more of: ", "green (unavailable)", "blue (unavailable)")
	h.ok("unseal", "--identity", h.path("keys/anna.identity"))
	eventually(t, "the person completes it", func() bool { return ready(n.ops) })
}

// people is 2 of 3 persons, one of whom has a printed share.
const people = `groups:
  - threshold: 2
    holders:
      - {name: anna, recipient_file: keys/anna.recipient}
      - {name: ben, recipient_file: keys/ben.recipient}
      - {name: paper, printed: true}
`

// TestWrongSharesAreRefused is docs/runbooks/wrong-share.md.
func TestWrongSharesAreRefused(t *testing.T) {
	h, other := found(t, people), found(t, people)
	n := h.nodes[0]
	printed, err := os.ReadFile(h.path("printed"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(other.path("printed"))
	if err != nil {
		t.Fatal(err)
	}
	flip := strings.NewReplacer("q", "p", "p", "q")
	h.write("foreign", string(foreign))
	h.write("flipped", "kshare1-"+flip.Replace(strings.TrimPrefix(string(printed), "kshare1-")))
	unseal := func(args ...string) []string { return append([]string{"unseal"}, args...) }

	n.stop(t)
	n.start(t)
	h.missing(n, "2 of: ")
	wrong := func(present string) {
		t.Helper()
		h.refused("the share is of another cluster than the node", unseal("--share-file", h.path("foreign"))...)
		h.refused("SHARE_REFUSED", unseal("--share-file", h.path("flipped"))...)
		h.refused("no share is encrypted to this identity", unseal("--identity", h.path("keys/eve.identity"))...)
		h.refused("no share is encrypted to this identity", unseal("--identity", other.path("keys/anna.identity"))...)
		h.missing(n, present)
	}
	wrong("2 of: ")
	if r := h.krypton(unseal("--share-file", h.path("printed"))...); r.code != 9 {
		t.Fatalf("the first right share: status %d\n%s", r.code, r.err)
	}
	wrong("1 more of: ") // what was given is still there
	h.refused("SHARE_REFUSED", unseal("--share-file", h.path("printed"))...)
	h.ok(unseal("--identity", h.path("keys/anna.identity"))...)
	eventually(t, "the right ones complete it", func() bool { return ready(n.ops) })

	// A share of an earlier ceremony opens nothing.
	h.write("new.yaml", strings.Replace(people, "{name: paper, printed: true}", "{name: eve, recipient_file: keys/eve.recipient}", 1))
	h.ok("ceremony", "start", "reshare", "--seal-plan", h.path("new.yaml"), "--yes")
	contribute := func(want int, args ...string) {
		t.Helper()
		if r := h.krypton(append([]string{"ceremony", "contribute", "--yes"}, args...)...); r.code != want {
			t.Fatalf("contribute %v: status %d, want %d\n%s%s", args, r.code, want, r.out, r.err)
		}
	}
	h.refused("SHARE_REFUSED", "ceremony", "contribute", "--yes", "--share-file", h.path("foreign"))
	contribute(9, "--share-file", h.path("printed"))
	contribute(9, "--identity", h.path("keys/anna.identity"))
	h.ceremony("STAGED")
	contribute(9, "--identity", h.path("keys/eve.identity"))
	contribute(0, "--identity", h.path("keys/ben.identity"))
	h.ceremony("COMMITTED")
	n.stop(t)
	n.start(t)
	h.missing(n, "2 of: ")
	h.refused("the share is of ceremony ", unseal("--share-file", h.path("printed"))...)
	if r := h.krypton(unseal("--identity", h.path("keys/eve.identity"))...); r.code != 9 {
		t.Fatalf("the first new share: status %d\n%s", r.code, r.err)
	}
	h.ok(unseal("--identity", h.path("keys/anna.identity"))...)
	eventually(t, "the new holders open it", func() bool { return ready(n.ops) })
}
