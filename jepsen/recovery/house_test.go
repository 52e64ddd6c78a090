//go:build unix

package recovery_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/ports"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

// house is a cluster that was founded as the runbooks say, by its people on a command
// line, with a seal of several keystores and people.
type house struct {
	*world
	nodes []*server
}

// found founds a cluster of one node with that plan of its seal, and the keystores. Of
// each there is a key "share".
func found(t *testing.T, plan string, keystores ...string) *house {
	t.Helper()
	// The paths of t.TempDir are too long for unix sockets.
	dir, err := os.MkdirTemp("", "house") //nolint:usetesting // As said.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &house{world: &world{t: t, dir: dir}}
	for _, k := range keystores {
		h.ok("keystore", "create", "--dir", h.path("at-"+k), "share", "l1")
	}
	for _, who := range []string{"gabi", "carl"} {
		h.ok("operator", "cert", "new-key", who, "--out", h.path("keys"))
	}
	for _, who := range []string{"anna", "ben", "eve"} {
		h.ok("operator", "share", "new-identity", who, "--no-passphrase", "--out", h.path("keys"))
	}
	n := h.node("n1", keystores...)
	n.start(t)
	h.write("seal.yaml", plan)
	eventually(t, "the node runs", func() bool { return h.krypton("status", "--data-dir", n.dir).code == 7 })
	out := h.ok("init", "--data-dir", n.dir, "--voters", "1", "--governor", "gabi="+h.path("keys/gabi.pub.pem"), "--custodian", "carl="+h.path("keys/carl.pub.pem"),
		"--seal-plan", h.path("seal.yaml"), "--accept-risk", "concentration", "--out", h.path("certs"))
	for line := range strings.Lines(out) {
		if title, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			value = strings.TrimSpace(value)
			switch {
			case title == "keyspace":
				h.keyspace = value
			case strings.HasPrefix(title, "share "):
				h.write("printed", value)
			}
		}
	}
	h.contexts(n)
	h.ok("context", "use", "carl")
	eventually(t, "the node serves", func() bool { return ready(n.ops) })
	return h
}

// people are whose certificates are at hand, with their files.
func (h *house) people() map[string][2]string {
	out := map[string][2]string{"gabi": {"certs/governor-gabi.pem", "keys/gabi.key"}, "carl": {"certs/custodian-carl.pem", "keys/carl.key"}}
	for _, who := range []string{"olga", "app"} {
		if _, err := os.Stat(h.path("certs/" + who + ".pem")); err == nil {
			out[who] = [2]string{"certs/" + who + ".pem", "certs/" + who + ".key"}
		}
	}
	return out
}

// contexts has everybody talk to that node.
func (h *house) contexts(s *server) {
	h.t.Helper()
	var a cluster.Addresses
	eventually(h.t, "the node says where it is", func() (ok bool) {
		var err error
		a, err = cluster.ReadAddresses(s.dir)
		return err == nil
	})
	for who, file := range h.people() {
		h.ok("context", "set", who, "--addr", a.GRPC, "--ca-file", h.path("certs/ca.pem"), "--cert-file", h.path(file[0]), "--key-file", h.path(file[1]))
	}
	h.ok("context", "use", "carl")
}

// workload makes a tenant with a service, its workload app, and the operator olga.
func (h *house) workload(s *server) {
	h.t.Helper()
	h.ok("tenant", "create", tenant, "--keystore", "red", "--key", "l1", "--context", "gabi")
	h.ok("service", "create", tenant+"/"+service, "--context", "gabi")
	h.ok("operator", "cert", "issue", "app", "--role", "workload", "--tenant", tenant, "--out", h.path("certs"), "--context", "gabi")
	h.ok("operator", "cert", "issue", "olga", "--role", "operator", "--out", h.path("certs"), "--context", "gabi")
	h.contexts(s)
}

// seals encrypts something by that name, which opens decrypts.
func (h *house) seals(name string) {
	h.t.Helper()
	h.write(name, "what "+name+" is about")
	h.ok("encrypt", "--service", tenant+"/"+service, "--context", "app", h.path(name), h.path(name+".sealed"))
}

func (h *house) opens(name string) {
	h.t.Helper()
	_ = os.Remove(h.path("opened"))
	h.ok("decrypt", "--service", tenant+"/"+service, "--context", "app", h.path(name+".sealed"), h.path("opened"))
	if got, err := os.ReadFile(h.path("opened")); err != nil || string(got) != "what "+name+" is about" {
		h.t.Fatalf("decrypted %q: %v", got, err)
	}
}

// save saves the registry to a file of that name.
func (h *house) save(name string) {
	h.t.Helper()
	h.ok("operator", "snapshot", "save", h.path(name), "--context", "olga")
}

// rekeys has the keystore red and anna consent to another MasterKey, and the keystore green and
// eve open it. between is done while it is staged; nil: nothing.
func (h *house) rekeys(between func()) {
	h.t.Helper()
	h.write("later.yaml", later)
	h.ok("ceremony", "start", "rekey", "--seal-plan", h.path("later.yaml"), "--yes")
	if r := h.krypton("ceremony", "contribute", "--yes", "--identity", h.path("keys/anna.identity")); r.code != 9 {
		h.t.Fatalf("the consent: status %d\n%s%s", r.code, r.out, r.err)
	}
	h.ceremony("STAGED")
	if between != nil {
		between()
	}
	h.ok("ceremony", "contribute", "--yes", "--identity", h.path("keys/eve.identity"))
	h.ceremony("COMMITTED")
}

// intent has the people sign an order to recover.
func (h *house) intent(order []string) string {
	h.t.Helper()
	file := h.path("recovery.intent")
	h.ok(append(order, "--sign-only", file)...)
	for _, who := range []string{"gabi", "carl"} {
		h.ok("intent", "sign", file, "--sign-key", h.path("keys/"+who+".key"), "--keyspace", h.keyspace, "--yes")
	}
	return file
}

// node writes the configuration of a node with those keystores, at addresses that stay.
func (h *house) node(name string, keystores ...string) *server {
	h.t.Helper()
	s := &server{name: name, config: h.path(name + ".yaml"), dir: h.path(name)}
	for _, a := range []*string{&s.grpc, &s.ops, &s.peer} {
		var err error
		if *a, err = ports.Loopback(); err != nil {
			h.t.Fatal(err)
		}
	}
	h.configure(s, keystores...)
	h.nodes = append(h.nodes, s)
	return s
}

// configure writes the configuration of a node anew, with those keystores.
func (h *house) configure(s *server, keystores ...string) {
	h.t.Helper()
	var list []string
	for _, k := range keystores {
		list = append(list, fmt.Sprintf("{name: %s, type: %s, dir: %s}", k, local.Type, h.path("at-"+k)))
	}
	h.write(s.name+".yaml", fmt.Sprintf("node: {name: %s, data_dir: %s}\nlisten: {grpc: %q, rest: \"off\", peer: %q, ops: %q}\n"+
		"memory: {lock_mib: 4}\naudit: {segment_mib: 8, reserve_mib: 8}\nkeystores: [%s]\n", s.name, s.dir, s.grpc, s.peer, s.ops, strings.Join(list, ", ")))
}

// joins starts another voter with those keystores, and waits until it serves.
func (h *house) joins(name string, keystores ...string) *server {
	h.t.Helper()
	s := h.node(name, keystores...)
	s.start(h.t)
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(h.ok("operator", "join-token", "--voter", "--sign-key", h.path("keys/gabi.key"), "--context", "olga", "--output", "json")), &token); err != nil {
		h.t.Fatal(err)
	}
	h.write("token", token.Token)
	eventually(h.t, name+" runs", func() bool { return h.krypton("status", "--data-dir", s.dir).code == 7 })
	h.ok("join", "--data-dir", s.dir, "--token-file", h.path("token"))
	eventually(h.t, name+" serves", func() bool { return ready(s.ops) })
	return s
}

// stop ends a node, as systemctl does.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-s.done
}

// away takes a keystore away, and back brings it back.
func (h *house) away(k string) { h.move("at-"+k, "away-"+k) }
func (h *house) back(k string) { h.move("away-"+k, "at-"+k) }

func (h *house) move(from, to string) {
	h.t.Helper()
	if err := os.Rename(h.path(from), h.path(to)); err != nil {
		h.t.Fatal(err)
	}
}

// missing waits until a node that runs says what it takes, with all of that in it.
func (h *house) missing(s *server, want ...string) {
	h.t.Helper()
	var out string
	ok := func() bool {
		out = h.krypton("status", "--data-dir", s.dir).out
		for _, w := range want {
			if !strings.Contains(out, w) {
				return false
			}
		}
		return true
	}
	defer func() {
		if h.t.Failed() {
			h.t.Logf("want %q in\n%s", want, out)
		}
	}()
	eventually(h.t, "status of "+s.name+" names what is missing", ok)
}

// ceremony waits for a state of the ceremony.
func (h *house) ceremony(state string) {
	h.t.Helper()
	eventually(h.t, "the ceremony is "+state, func() bool {
		return strings.Contains(h.krypton("ceremony", "status", "--output", "json").out, "CEREMONY_STATE_"+state)
	})
}
