//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/ports"
)

// realWorld is what the transcripts of testdata/real share.
type realWorld struct {
	cluster *devcluster.Cluster
	dir     string // of a short path, for the sockets of nodes that a script starts
}

// person returns the files of a throw-away person.
func (w *realWorld) person(role string) (cert, key string, err error) {
	r, err := auth.ParseRole(role)
	if err != nil {
		return "", "", err
	}
	p, ok := w.cluster.Person(r)
	if !ok {
		return "", "", fmt.Errorf("there is no %s", role)
	}
	return p.CertFile, p.KeyFile, nil
}

// TestRealScript runs every transcript in testdata/real against one cluster of
// three real processes, whose seal opens by a keystore. A script has a tenant of
// its own name with the service payments and a workload, so that scripts run at
// once and change what they like. What would disturb the others — shares, seal,
// membership — a script does with nodes that it starts itself.
//
// Beside the commands of testscript and of [TestScript] there are
//
//	config NAME DIR     write NAME.yaml, of a node of that name with its data in DIR and a keystore beside it
//	settle NAME DIR     as config, with the addresses that the node has now
//	address VAR DIR     set VAR to the gRPC address of the node with its data in DIR; with rest behind it, to where it speaks HTTP
//	authority FILE      make a CA that is not the cluster's: FILE.pem, FILE.key
//	certificate CA FILE SUBJECT  make a certificate of it for cn:NAME or uri:URI: FILE.pem, FILE.key
//	until N CMD...      run a command until it ends with status N, for 20 s at most
//	approval VAR        set VAR to the id of the approval that the last command printed
//	asked VAR CONTEXT   wait until something waits for approval, and set VAR to its id
//
// GOVERNOR_KEY is the key of the governor, RUN is a directory whose path is short enough for sockets, KEYSTORE the directory of the keystore of the nodes, ADDR1 to ADDR3 are
// their addresses, REST1 is where the first one speaks HTTP, DATA1 its data directory.
func TestRealScript(t *testing.T) {
	self, err := exec.LookPath("krypton")
	if err != nil {
		t.Fatal(err)
	}
	c, err := devcluster.Start(t.Context(), devcluster.Options{Binary: self, Output: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.MkdirTemp("", "kreal") //nolint:usetesting // The paths of t.TempDir are too long for unix sockets.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &realWorld{cluster: c, dir: dir}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/real", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: w.setup,
		Cmds: commands(map[string]scriptCommand{
			"as": func(ts *testscript.TestScript, _ bool, args []string) {
				cert, key := ts.Getenv("WORKLOAD_CERT"), ts.Getenv("WORKLOAD_KEY")
				if args[0] != "workload" {
					var err error
					cert, key, err = w.person(args[0])
					ts.Check(err)
				}
				ts.Setenv("KRYPTON_CERT_FILE", cert)
				ts.Setenv("KRYPTON_KEY_FILE", key)
			},
			"config":      w.config,
			"settle":      w.settle,
			"address":     address,
			"authority":   authority,
			"certificate": certificate,
			"until":       until,
			"approval":    approval,
			"contents":    contents,
			"asked":       asked,
		}),
	})
}

func (w *realWorld) setup(env *testscript.Env) error {
	env.Values[exitKey{}] = new(int)
	name := strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")
	ctx := context.Background()
	if err := w.cluster.CreateTenant(ctx, name); err != nil {
		return err
	}
	if err := w.cluster.CreateService(ctx, name, "payments"); err != nil {
		return err
	}
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("TZ", "UTC")
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "config"))
	env.Setenv("KRYPTON_ADDR", strings.Join(w.cluster.Addrs(), ","))
	env.Setenv("KRYPTON_CA_FILE", w.cluster.CAFile())
	env.Setenv("KEYSTORE", filepath.Join(w.cluster.Dir(), "keystore"))
	run := filepath.Join(w.dir, name)
	if err := os.Mkdir(run, 0o700); err != nil {
		return err
	}
	env.Setenv("RUN", run)
	nodes := w.cluster.Nodes()
	for i, n := range nodes {
		env.Setenv("ADDR"+strconv.Itoa(i+1), n.Addresses().GRPC)
	}
	env.Setenv("DATA1", nodes[0].DataDir())
	env.Setenv("REST1", "https://"+nodes[0].Addresses().REST)

	// The workload of the script's tenant, issued as a governor does it.
	cert, key, err := w.person("governor")
	if err != nil {
		return err
	}
	env.Setenv("GOVERNOR_KEY", key)
	out := filepath.Join(env.WorkDir, ".workload")
	issue := exec.Command("krypton", "operator", "cert", "issue", "app", "--role", "workload", "--tenant", name, "--out", out,
		"--addr", w.cluster.Addrs()[0], "--ca-file", w.cluster.CAFile(), "--cert-file", cert, "--key-file", key)
	issue.Env = env.Vars
	if text, err := issue.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	env.Setenv("WORKLOAD_CERT", filepath.Join(out, "app.pem"))
	env.Setenv("WORKLOAD_KEY", filepath.Join(out, "app.key"))
	env.Setenv("KRYPTON_CERT_FILE", filepath.Join(out, "app.pem"))
	env.Setenv("KRYPTON_KEY_FILE", filepath.Join(out, "app.key"))
	return nil
}

func (w *realWorld) config(ts *testscript.TestScript, _ bool, args []string) {
	var at cluster.Addresses
	for _, addr := range []*string{&at.GRPC, &at.REST, &at.Peer, &at.Ops} {
		free, err := ports.Loopback()
		ts.Check(err)
		*addr = free
	}
	configure(ts, args[0], args[1], at)
}

// settle is for nodes that start again at once: which have only each other to ask
// where the others are.
func (w *realWorld) settle(ts *testscript.TestScript, _ bool, args []string) {
	at, err := cluster.ReadAddresses(args[1])
	ts.Check(err)
	configure(ts, args[0], args[1], at)
}

func configure(ts *testscript.TestScript, name, dir string, at cluster.Addresses) {
	text := fmt.Sprintf("node: {name: %s, data_dir: %s}\nlisten: {grpc: %s, rest: %s, peer: %s, ops: %s}\n"+
		"memory: {lock_mib: 4}\naudit: {segment_mib: 8, reserve_mib: 8}\n"+
		"keystores: [{name: local, type: local, dir: %s}]\n", name, dir, at.GRPC, at.REST, at.Peer, at.Ops, filepath.Join(filepath.Dir(dir), "keystore"))
	ts.Check(os.WriteFile(ts.MkAbs(name+".yaml"), []byte(text), 0o600))
}

func address(ts *testscript.TestScript, _ bool, args []string) {
	a, err := cluster.ReadAddresses(args[1])
	ts.Check(err)
	if len(args) == 3 {
		ts.Setenv(args[0], "https://"+a.REST)
		return
	}
	ts.Setenv(args[0], a.GRPC)
}

// contents sets a variable to what a file has.
func contents(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

var approvalName = regexp.MustCompile(`approvals/([0-9a-f]{32})`)

func approval(ts *testscript.TestScript, _ bool, args []string) {
	found := approvalName.FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("no approval was printed")
	}
	ts.Setenv(args[0], found[1])
}

func asked(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		ts.Check(ts.Exec("krypton", "approval", "list", "--output", "json", "--context", args[1]))
		if approvalName.MatchString(ts.ReadFile("stdout")) {
			approval(ts, neg, args)
			return
		}
		if (clock.System{}).Sleep(ctx, 150*time.Millisecond) != nil {
			ts.Fatalf("nothing waits for approval for 20 s")
		}
	}
}

// until polls: a process that has just started has nothing to subscribe to. Each
// question is a process of its own, which takes the processor from what is waited for.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		got := 0
		err := ts.Exec(args[1], args[2:]...)
		if ee, ok := errors.AsType[*exec.ExitError](err); ok {
			got = ee.ExitCode()
		} else {
			ts.Check(err)
		}
		if got == want {
			return
		}
		if (clock.System{}).Sleep(ctx, 150*time.Millisecond) != nil {
			ts.Fatalf("exit status %d for 20 s, want %d", got, want)
		}
	}
}
