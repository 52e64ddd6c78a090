//go:build unix

package damage_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// section returns a change that puts line in the place of that section.
func section(name, line string) func(p *place) {
	return func(p *place) { p.configure(with(p.config(), name, line)) }
}

// text returns a change that makes the file something else.
func text(s string) func(p *place) {
	return func(p *place) { p.write(p.conf, []byte(s)) }
}

func variable(kv string) func(p *place) {
	return func(p *place) { p.env = append(p.env, kv) }
}

// port takes a port for as long as the test runs.
func port(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String()
}

// TestAWrongConfigurationIsOneLineAndWritesNothing for everything that a person
// may get wrong in the file and in the environment.
func TestAWrongConfigurationIsOneLineAndWritesNothing(t *testing.T) {
	t.Parallel()
	taken := port(t)
	listen := func(which, addr string) func(p *place) {
		all := map[string]string{"grpc": "127.0.0.1:0", "rest": "127.0.0.1:0", "peer": "127.0.0.1:0", "ops": "127.0.0.1:0"}
		all[which] = addr
		return section("listen", fmt.Sprintf("listen: {grpc: %q, rest: %q, peer: %q, ops: %q}", all["grpc"], all["rest"], all["peer"], all["ops"]))
	}
	for name, c := range map[string]struct {
		id string
		do func(p *place)
	}{
		"no file":       {"config/file-unreadable", func(p *place) { _ = os.Remove(p.conf) }},
		"directory":     {"config/file-unreadable", func(p *place) { p.conf = p.dir }},
		"not yaml":      {"config/not-yaml", text("node: [\n")},
		"binary":        {"config/not-yaml", text("\x00\x01\x02")},
		"two documents": {"config/not-yaml", text("node: {}\n---\nnode: {}\n")},
		"too large":     {"config/too-large", text(strings.Repeat("#", 1<<20+1))},
		"unknown key":   {"config/unknown-key", section("node", "node: {nmae: n1}")},
		"section":       {"config/unknown-key", section("listn", "listn: {}")},
		"in a list":     {"config/unknown-key", section("keystores", "keystores: [{name: a, typ: local}]")},
		"key twice":     {"config/key-twice", section("node", "node: {name: n1, name: n2}")},
		"section twice": {"config/key-twice", func(p *place) { p.configure(append(p.config(), "memory: {lock_mib: 2}")) }},
		"no section":    {"config/not-a-section", section("memory", "memory: 8")},
		"wrong type":    {"config/wrong-type", section("memory", "memory: {lock_mib: many}")},
		"a list":        {"config/wrong-type", section("log", "log: {level: [info]}")},
		"duration":      {"config/wrong-type", section("limits", "limits: {request_budget: 5}")},
		"keystore type": {"config/not-possible", section("keystores", "keystores: [{name: a, type: vault, dir: d}]")},
		"number":        {"config/not-possible", section("memory", "memory: {lock_mib: 0}")},
		"tier":          {"config/not-possible", section("memory", "memory: {require: secretmem}")},
		"no port":       {"config/bad-address", listen("grpc", "localhost")},
		"port 99999":    {"config/bad-address", listen("peer", ":99999")},
		"port name":     {"config/bad-address", listen("rest", ":https")},
		"same port":     {"config/same-port", section("listen", `listen: {grpc: ":8400", rest: "127.0.0.1:8400"}`)},
		"keystores":     {"config/keystore-twice", section("keystores", "keystores: [{name: a, type: local, dir: d}, {name: a, type: local, dir: e}]")},
		"join":          {"config/contradiction", section("cluster", "cluster: {join: ['127.0.0.1:1']}")},
		"tls builtin":   {"config/contradiction", section("tls", "tls: {cert: a, key: b}")},
		"tls files":     {"config/contradiction", section("tls", "tls: {mode: files}")},
		"rest off":      {"config/contradiction", func(p *place) { listen("rest", "off")(p); p.env = []string{"KRYPTON_ADVERTISE_REST=a:1"} }},
		"one directory": {"config/contradiction", func(p *place) { section("audit", fmt.Sprintf("audit: {dir: %q}", p.data))(p) }},
		"variable":      {"config/unknown-variable", variable("KRYPTON_NODE_NMAE=n1")},
		"malformed":     {"config/malformed-variable", variable("KRYPTON_MEMORY_LOCK_MIB=8MB")},
		"duration env":  {"config/malformed-variable", variable("KRYPTON_LIMITS_L2_HOLD=60")},
		"port in use":   {"config/port-in-use", listen("rest", taken)},
		"peer port":     {"config/port-in-use", listen("peer", taken)},
		"ops port":      {"config/port-in-use", listen("ops", taken)},
		"address":       {"config/no-such-address", listen("grpc", "192.0.2.1:8400")},
		"name":          {"config/bad-name", section("node", "node: {name: 'Not a name'}")},
		"no keystore": {"config/keystore-unopened", func(p *place) {
			section("keystores", "keystores: [{name: dev, type: local, dir: /dev/null}]")(p)
		}},
		"certificate":    {"config/certificate-missing", section("tls", "tls: {mode: files, cert: /none/cert, key: /none/key}")},
		"no certificate": {"config/certificate-unusable", func(p *place) { pair(p, "garbage", "garbage", 0o600) }},
		"key open":       {"config/certificate-key-open", func(p *place) { pair(p, "garbage", "garbage", 0o644) }},
		"too long": {"config/path-too-long", func(p *place) {
			data := filepath.Join(p.dir, strings.Repeat("d", 90))
			copyTree(p.t, p.data, data)
			p.data = data
			p.configure(p.config())
		}},
		"file above": {"stored/kind-changed", func(p *place) {
			p.write(filepath.Join(p.dir, "f"), nil)
			p.data = filepath.Join(p.dir, "f", "d")
			p.configure(p.config())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			c.do(p)
			p.refuses(c.id)
		})
	}
}

// TestAProfileThatDoesNotFitTheLeasesIsRefused: with a cluster that was founded with
// leases of 3 s, a heartbeat of 1 s would end every lease before a leader is
// replaced. What was right before is right again.
func TestAProfileThatDoesNotFitTheLeasesIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.configure(with(p.config(), "cluster", "cluster: {profile: wan}"))
	stderr := p.refuses("config/profile-of-leases")
	for _, word := range []string{"cluster.profile wan", "a lease of 3s", "4 heartbeats of 1s"} {
		if !strings.Contains(stderr, word) {
			t.Errorf("it does not say %q:\n%s", word, stderr)
		}
	}
	p.configure(with(p.config(), "cluster", "cluster: {profile: lan}"))
	p.healthy()
}

// pair configures a certificate and a key.
func pair(p *place, cert, key string, m os.FileMode) {
	certFile, keyFile := filepath.Join(p.dir, "cert"), filepath.Join(p.dir, "key")
	p.write(certFile, []byte(cert))
	p.write(keyFile, []byte(key))
	if err := os.Chmod(keyFile, m); err != nil {
		p.t.Fatal(err)
	}
	p.configure(with(p.config(), "tls", fmt.Sprintf("tls: {mode: files, cert: %q, key: %q}", certFile, keyFile)))
}

// TestWhatOthersSetInTheEnvironmentIsNoMistake: the command line's own variables,
// and those that Kubernetes makes of a service called krypton.
func TestWhatOthersSetInTheEnvironmentIsNoMistake(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.env = []string{
		"KRYPTON_ADDR=a:1", "KRYPTON_CONTEXT=prod", "KRYPTON_PORT=tcp://10.0.0.1:8400", "KRYPTON_SERVICE_HOST=10.0.0.1", "KRYPTON_SERVICE_PORT_GRPC=8400",
		"KRYPTON_PEER_PORT_8402_TCP_ADDR=10.0.0.1",
	}
	p.healthy()
}

func TestASecondProcessOnADataDirectoryIsRefusedAndTheFirstGoesOn(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	first := p.start()
	first.serves()
	addresses := p.read(p.path("run/addresses.json"))
	second := p.launch()
	status, stderr := second.ends()
	p.told("config/directory-in-use", status, stderr)
	if now := p.read(p.path("run/addresses.json")); string(now) != string(addresses) {
		t.Error("the second process wrote into the directory")
	}
	first.opens()
	first.stop()
}

func TestATokenThatCannotBeUsedIsNamed(t *testing.T) {
	t.Parallel()
	for id, content := range map[string]string{"config/token-unreadable": "", "config/token-malformed": "kjoin2-nothing"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			missing(".")(p) // a node without a cluster
			file := filepath.Join(p.dir, "token")
			if content != "" {
				p.write(file, []byte(content))
			}
			p.configure(with(p.config(), "cluster", fmt.Sprintf("cluster: {join_token_file: %q}", file)))
			p.refuses(id)
		})
	}
}

// TestAMissingRightIsNamed with the user whom it is missing to.
func TestAMissingRightIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id string
		do func(p *place)
	}{
		"directory above": {"config/directory-missing", func(p *place) {
			p.data = filepath.Join(p.dir, "locked", "d")
			p.mkdir("locked", 0o555)
			p.configure(p.config())
		}},
		"identity":    {"config/directory-unwritable", mode("node.json", 0)},
		"directory":   {"config/directory-unwritable", mode(".", 0o500)},
		"trail":       {"stored/trail-unopened", mode("audit/00000000000000000001.jsonl", 0)},
		"log":         {"config/log-unreadable", mode("raft/raft.db", 0)},
		"seal record": {"stored/seal-record-unreadable", mode("seal/record.pb", 0)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			c.do(p)
			p.asUser()
			p.refuses(c.id)
		})
	}
}

func TestADirectoryOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	if err := os.Chown(p.data, otherUser, otherUser); err != nil {
		t.Fatal(err)
	}
	p.refuses("config/directory-of-another")
}

// TestALimitOfLockedMemoryIsNamed with the numbers to set.
func TestALimitOfLockedMemoryIsNamed(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.configure(with(p.config(), "memory", "memory: {lock_mib: 8, require: mlock}"))
	p.asUser() // root may lock what it likes
	status, stderr := p.start("sh", "-c", `ulimit -l 64 && exec "$@"`, "sh").ends()
	p.told("config/memory-limit", status, stderr)
}
