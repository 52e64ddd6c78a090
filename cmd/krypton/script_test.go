package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/seal/agebox/ageboxtest"
)

func TestMain(m *testing.M) {
	all := programs()
	if all == nil {
		all = map[string]func(){}
	}
	all["krypton"] = func() { os.Exit(run()) }
	all["age-plugin-"+ageboxtest.Name] = ageboxtest.Main
	testscript.Main(m, all)
}

// scriptCluster is the cluster of one script.
type scriptCluster struct {
	*clienttest.Cluster

	admin *adminNode
}

type clusterKey struct{}

// exitKey is the key of a *int: the status of the last command of a script that
// was run with exits.
type exitKey struct{}

type scriptCommand = func(ts *testscript.TestScript, neg bool, args []string)

// commands returns those that all transcripts have, and more.
func commands(more map[string]scriptCommand) map[string]scriptCommand {
	all := map[string]scriptCommand{
		"exits": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			got := 0
			err = ts.Exec(args[1], args[2:]...)
			if ee, ok := errors.AsType[*exec.ExitError](err); ok {
				got = ee.ExitCode()
			} else {
				ts.Check(err)
			}
			if got != want {
				ts.Fatalf("exit status %d, want %d", got, want)
			}
			*ts.Value(exitKey{}).(*int) = got
		},
		"situation": func(ts *testscript.TestScript, _ bool, args []string) {
			for _, bad := range situationtest.ExitDiff(args[0], *ts.Value(exitKey{}).(*int), ts.ReadFile("stderr")) {
				ts.Fatalf("%s", bad)
			}
		},
	}
	maps.Copy(all, more)
	return all
}

// TestScript runs the transcripts of testdata/script, each against a fake cluster
// of its own, for what a real one does not do when it is asked to: answer with a
// fault, forge a certificate, be ill in a certain way, die between two lines. All
// else is in testdata/real, see TestRealScript. A script whose name begins with
// "seal" has sealed nodes; share1 to share3 are files in its directory. Whose name
// has "held" too has holders of encrypted shares, see [holders]. Whose name
// has "expired" has nodes with certificates that have; "ends-soon", callers with
// certificates that nearly have.
//
// Beside the commands of testscript there are
//
//	as ROLE             be a governor, custodian, operator, auditor or the workload of tenants/demo
//	exits N CMD...      run a command that has to end with status N
//	situation ID        what that command wrote to stderr and its status are a row of docs/errors.md
//	fault CODE METHOD   let every call of a method fail with a code
//	down N              kill node N, from 0
//	health N JSON       let the nodes say this of the health of node N, over what is well; null: they do not say that
//	forge               let the node return certificates for another key
//	forge plan          let the node answer with another plan of a seal than it was asked about
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Cmds: commands(map[string]scriptCommand{
			"as": func(ts *testscript.TestScript, _ bool, args []string) {
				c := clusterOf(ts)
				cert, key, err := c.Person(args[0], "pat")
				if args[0] == "workload" {
					cert, key, err = c.Workload("demo", "app")
				}
				ts.Check(err)
				ts.Setenv("KRYPTON_CERT_FILE", cert)
				ts.Setenv("KRYPTON_KEY_FILE", key)
			},
			"fault": func(ts *testscript.TestScript, _ bool, args []string) {
				code, err := faultCode(args[0])
				ts.Check(err)
				clusterOf(ts).Before(func(_ context.Context, _ int, method string, _ proto.Message) error {
					if strings.HasSuffix(method, "/"+args[1]) {
						return errs.New(code, "a fault", errs.Hint("mend it"))
					}
					return nil
				})
			},
			"down": func(ts *testscript.TestScript, _ bool, args []string) {
				i, err := strconv.Atoi(args[0])
				ts.Check(err)
				clusterOf(ts).Kill(i)
			},
			"health": func(ts *testscript.TestScript, _ bool, args []string) {
				i, err := strconv.Atoi(args[0])
				ts.Check(err)
				ts.Check(protojson.Unmarshal([]byte(args[1]), &kryptonv1.NodeHealth{}))
				clusterOf(ts).Ail(i, func(h *kryptonv1.NodeHealth) {
					said := &kryptonv1.NodeHealth{}
					_ = protojson.Unmarshal([]byte(args[1]), said) // it did a moment ago
					proto.Merge(h, said)
					var fields map[string]any
					_ = json.Unmarshal([]byte(args[1]), &fields)
					for name, value := range fields {
						if value == nil {
							h.ProtoReflect().Clear(h.ProtoReflect().Descriptor().Fields().ByJSONName(name))
						}
					}
				})
			},
			"forge": func(ts *testscript.TestScript, _ bool, args []string) {
				a := clusterOf(ts).admin
				a.mu.Lock()
				defer a.mu.Unlock()
				a.forge, a.forgePlan = len(args) == 0, len(args) == 1 && args[0] == "plan"
			},
		}),
	})
}

func clusterOf(ts *testscript.TestScript) *scriptCluster {
	return ts.Value(clusterKey{}).(*scriptCluster)
}

func setup(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, ".cluster")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	name := filepath.Base(env.WorkDir)
	opts := clienttest.Options{Nodes: 2, Certificate: aged(name)}
	if strings.Contains(name, "seal") {
		rec, fp, shares, err := ceremony(clienttest.Fingerprint)
		if err != nil {
			return err
		}
		for i, s := range shares {
			if err := os.WriteFile(filepath.Join(env.WorkDir, fmt.Sprintf("share%d", i+1)), s, 0o600); err != nil {
				return err
			}
		}
		_, _, foreign, err := ceremony(strings.Repeat("ab", 32))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, "foreign-share"), foreign[0], 0o600); err != nil {
			return err
		}
		how := distrust(name)
		var held atomic.Value
		var shards shardKeeper
		if strings.Contains(name, "held") {
			if rec, fp, shards, err = heldCeremony(env.WorkDir, how); err != nil {
				return err
			}
		}
		opts.Seal = func(_ int, id clienttest.Identity) kryptonv1.SealServer {
			n, err := newSealedNode(id, rec, fp, &held, how)
			n.shards = shards
			if err != nil {
				panic(err)
			}
			return n
		}
	}
	cluster, err := clienttest.StartIn(dir, opts)
	if err != nil {
		return err
	}
	env.Defer(cluster.Stop)
	c := &scriptCluster{Cluster: cluster, admin: &adminNode{}}
	env.Values[clusterKey{}] = c
	env.Values[exitKey{}] = new(int)
	if err := cluster.AddService("demo", "payments"); err != nil {
		return err
	}
	data := filepath.Join(env.WorkDir, "data")
	stop, err := serveAdmin(data, c.admin)
	if err != nil {
		return err
	}
	env.Defer(stop)
	cert, key, err := cluster.Workload("demo", "app")
	if err != nil {
		return err
	}
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TZ", "UTC")
	// A program under the race detector waits a second before it ends, for races
	// that are still to happen; here every goroutine has ended by then.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
	env.Setenv("DATA", data)
	addrs := cluster.Addrs()
	env.Setenv("ADDR0", addrs[0])
	env.Setenv("ADDR1", addrs[1])
	env.Setenv("KRYPTON_ADDR", strings.Join(addrs, ","))
	env.Setenv("KRYPTON_CA_FILE", cluster.CAFile())
	env.Setenv("KRYPTON_CERT_FILE", cert)
	env.Setenv("KRYPTON_KEY_FILE", key)
	return nil
}

// aged returns what the name of a script asks for: certificates of nodes that
// have expired, or of callers in the last third of their life.
func aged(script string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		switch node := slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth); {
		case node && strings.Contains(script, "expired"):
			c.NotBefore, c.NotAfter = time.Now().Add(-50*time.Minute), time.Now().Add(-10*time.Minute)
		case !node && strings.Contains(script, "ends-soon"):
			c.NotAfter = time.Now().Add(29 * time.Minute) // of an hour and a half
		}
	}
}

// TestEveryCommandHasATranscript keeps a new command from being forgotten.
func TestEveryCommandHasATranscript(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	var walk func(c *command.Command, path string)
	walk = func(c *command.Command, path string) {
		for _, s := range c.Sub {
			walk(s, path+" "+s.Name)
		}
		if c.Run == nil || c.Hidden {
			return
		}
		if !regexp.MustCompile(`(?m)^(!? ?exec|exits \d+) ` + path + `\b`).Match(all) {
			t.Errorf("%s is in no transcript", path)
		}
		if !regexp.MustCompile(`(?m)^exec `+path+`\b`).Match(all) && c.Name != "status" {
			t.Errorf("%s never succeeds in a transcript", path)
		}
	}
	walk(command.Tree(nodeCommands("test")...), "krypton")
}

// TestAnInterruptEndsWith130 interrupts commands that wait for a node and for a
// pipe; the second never looks at its context.
func TestAnInterruptEndsWith130(t *testing.T) {
	dir := t.TempDir()
	cluster := clienttest.Start(t, clienttest.Options{Nodes: 1})
	if err := cluster.AddService("demo", "payments"); err != nil {
		t.Fatal(err)
	}
	cert, key, err := cluster.Workload("demo", "app")
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan struct{}, 100)
	var block atomic.Bool
	cluster.Before(func(ctx context.Context, _ int, _ string, _ proto.Message) error {
		arrived <- struct{}{}
		if block.Load() {
			<-ctx.Done()
		}
		return nil
	})
	out := filepath.Join(dir, "out")
	for _, tt := range []struct {
		name  string
		block bool
		args  []string
	}{
		{"a node", true, []string{"tenant", "get", "demo"}},
		{"a pipe", false, []string{"encrypt", "--service", "demo/payments", "-", out}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			block.Store(tt.block)
			cmd := exec.Command("krypton", tt.args...)
			cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "KRYPTON_ADDR="+cluster.Addrs()[0],
				"KRYPTON_CA_FILE="+cluster.CAFile(), "KRYPTON_CERT_FILE="+cert, "KRYPTON_KEY_FILE="+key)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdin, err := cmd.StdinPipe() // stays open
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-arrived
			if !tt.block {
				// When all full segments of it are in the unfinished file, the command
				// has read everything and waits for more.
				if _, err := stdin.Write(make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
				for size := int64(0); size < 15<<16; {
					files, err := filepath.Glob(filepath.Join(dir, ".out*"))
					if err != nil || len(files) != 1 {
						t.Fatalf("unfinished files: %v %v", files, err)
					}
					st, err := os.Stat(files[0])
					if err != nil {
						t.Fatal(err)
					}
					size = st.Size()
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			err = cmd.Wait()
			ee, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				t.Fatalf("%v, stderr %q", err, stderr.String())
			}
			situationtest.Exit(t, "cli/interrupted", ee.ExitCode(), stderr.String())
			left, err := filepath.Glob(filepath.Join(dir, ".out*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
			if _, err := os.Stat(out); !os.IsNotExist(err) {
				t.Errorf("an unfinished file appeared: %v", err)
			}
		})
	}
}

// issueNode signs a certificate for the CA's own key that names a node.
func (ca testCA) issueNode(id string) []byte {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "test", Path: "/krypton/node/" + id}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, ca.key.Public(), ca.key)
	if err != nil {
		panic(err)
	}
	return encodePEM("CERTIFICATE", der)
}

// testCA signs what init returns.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newTestCA() testCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return testCA{cert: cert, key: key, pem: encodePEM("CERTIFICATE", der)}
}

func (ca testCA) issue(publicDER []byte, forge bool) []byte {
	pub := parsePublic(publicDER)
	if forge {
		pub = ca.key.Public()
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, pub, ca.key)
	if err != nil {
		panic(err)
	}
	return encodePEM("CERTIFICATE", der)
}
