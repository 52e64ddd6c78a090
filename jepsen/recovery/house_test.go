//go:build unix

package recovery_test

import (
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
	a, err := cluster.ReadAddresses(n.dir)
	if err != nil {
		t.Fatal(err)
	}
	for who, cert := range map[string]string{"gabi": "governor-gabi", "carl": "custodian-carl"} {
		h.ok("context", "set", who, "--addr", a.GRPC, "--ca-file", h.path("certs/ca.pem"), "--cert-file", h.path("certs/"+cert+".pem"), "--key-file", h.path("keys/"+who+".key"))
	}
	h.ok("context", "use", "carl")
	eventually(t, "the node serves", func() bool { return ready(n.ops) })
	return h
}

func (h *house) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// node writes the configuration of a node with those keystores, at addresses that stay.
func (h *house) node(name string, keystores ...string) *server {
	h.t.Helper()
	s := &server{name: name, config: h.path(name + ".yaml"), dir: h.path(name)}
	var peer string
	for _, a := range []*string{&s.grpc, &s.ops, &peer} {
		var err error
		if *a, err = ports.Loopback(); err != nil {
			h.t.Fatal(err)
		}
	}
	var list []string
	for _, k := range keystores {
		list = append(list, fmt.Sprintf("{name: %s, type: %s, dir: %s}", k, local.Type, h.path("at-"+k)))
	}
	h.write(name+".yaml", fmt.Sprintf("node: {name: %s, data_dir: %s}\nlisten: {grpc: %q, rest: \"off\", peer: %q, ops: %q}\n"+
		"memory: {lock_mib: 4}\naudit: {segment_mib: 8, reserve_mib: 8}\nkeystores: [%s]\n", name, s.dir, s.grpc, peer, s.ops, strings.Join(list, ", ")))
	h.nodes = append(h.nodes, s)
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
