//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// What every attacked cluster has.
const (
	tenantID  = "shop"
	serviceID = "orders"
	tenant    = "tenants/" + tenantID
	service   = tenant + "/services/" + serviceID
	canary    = "attack at dawn"
)

// patience is how long something that has to happen may take.
const patience = 30 * time.Second

// builds are the two programs.
type builds struct {
	krypton  string // as it is released
	mutation string // with the tag mutation
}

// build makes both programs as `make build` does.
func build(ctx context.Context) (builds, error) {
	root, err := repository()
	if err != nil {
		return builds{}, err
	}
	b := builds{krypton: filepath.Join(root, "bin", "krypton"), mutation: filepath.Join(root, "build", "bin", "krypton-mutation")}
	for _, one := range []struct {
		to   string
		tags []string
	}{{b.krypton, nil}, {b.mutation, []string{"-tags", "mutation"}}} {
		cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath"}, one.tags...), "-o", one.to, "./cmd/krypton")...) //nolint:gosec // Our own arguments.
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return b, nil
}

// world is what the attacks of one stage share.
type world struct {
	stage string
	builds
	out io.Writer
	dir string

	mu       sync.Mutex
	clusters map[string]*theatre
	scenes   map[string]*scene
	issuers  *issuers
	three    *trio
	four     *fourEyes
}

func newWorld(stage string, b builds, out io.Writer) *world {
	return &world{stage: stage, builds: b, out: out, clusters: map[string]*theatre{}, scenes: map[string]*scene{}}
}

// close ends every cluster, and shows what the nodes said if something went wrong.
func (w *world) close(failed bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []error
	for name, t := range w.clusters {
		if failed {
			fmt.Fprintf(w.out, "\nThe end of the output of each node of %s/%s:\n", w.stage, name)
			t.WriteLogs(w.out)
		}
		all = append(all, t.Close())
	}
	if w.four != nil {
		w.four.end()
	}
	if w.dir != "" {
		all = append(all, os.RemoveAll(w.dir))
	}
	return errors.Join(all...)
}

// path returns a path in the directory of the stage's own files.
func (w *world) path(name string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dir == "" {
		dir, err := os.MkdirTemp("", "krypton-atk-")
		if err != nil {
			return "", err
		}
		w.dir = dir
	}
	return filepath.Join(w.dir, name), nil
}

// theatre is a cluster that is attacked, or one in which a control is.
type theatre struct {
	*devcluster.Cluster

	w    *world
	lies string          // file with the defences that lying nodes leave out
	liar map[string]bool // nodes that run the mutation build

	ciphertext []byte // of the canary, under version 1 of the service's key
}

// cast says which nodes run which build.
type cast string

const (
	honest  cast = "honest"  // all run the released build
	liarOne cast = "liar"    // n1 runs the mutation build, the others the released one
	control cast = "control" // all run the mutation build
)

// cluster returns the stage's cluster of that name, which it starts when it is first
// asked for: a tenant, a service, every role has a person, and something encrypted.
func (w *world) cluster(ctx context.Context, name string, nodes int, c cast, lies ...mutation.Name) (*theatre, error) {
	w.mu.Lock()
	t, ok := w.clusters[name]
	w.mu.Unlock()
	if ok {
		return t, nil
	}
	dir, err := w.path(name)
	if err != nil {
		return nil, err
	}
	t = &theatre{w: w, lies: dir + ".lies", liar: map[string]bool{}}
	for i := range nodes {
		t.liar[fmt.Sprintf("n%d", i+1)] = c == control || c == liarOne && i == 0
	}
	if err := t.lie(lies...); err != nil {
		return nil, err
	}
	if t.Cluster, err = devcluster.Start(ctx, t.options(dir, nodes)); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.clusters[name] = t
	w.mu.Unlock()
	return t, t.furnish(ctx)
}

func (t *theatre) options(dir string, nodes int) devcluster.Options {
	return devcluster.Options{
		Binary: t.w.krypton, Nodes: nodes, Dir: dir, Tenant: tenantID, Service: serviceID, Output: t.w.out, Patience: patience,
		Program: func(node string) devcluster.Program {
			if !t.liar[node] {
				return devcluster.Program{Binary: t.w.krypton}
			}
			return devcluster.Program{Binary: t.w.mutation, Env: []string{"KRYPTON_MUTATION=" + t.lies}}
		},
	}
}

// furnish encrypts something, which is what an attacker wants to read.
func (t *theatre) furnish(ctx context.Context) error {
	return t.as(ctx, auth.RoleWorkload, func(c *client.Client) (err error) {
		t.ciphertext, err = encrypt(ctx, c)
		return err
	})
}

// lie has the nodes of the mutation build leave these defences out from now on.
func (t *theatre) lie(names ...mutation.Name) error {
	var b strings.Builder
	for _, n := range names {
		b.WriteString(string(n) + "\n")
	}
	tmp := t.lies + ".tmp"
	if err := os.WriteFile(tmp, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, t.lies)
}

// as calls the cluster in a role.
func (t *theatre) as(ctx context.Context, role auth.Role, call func(*client.Client) error) error {
	c, err := t.Client(ctx, role)
	if err != nil {
		return err
	}
	err = call(c)
	_ = c.Close() // nothing is in flight
	return err
}

// at calls one node in a role.
func (t *theatre) at(ctx context.Context, n *devcluster.Node, role auth.Role, call func(*client.Client) error) error {
	c, err := t.NodeClient(ctx, role, n)
	if err != nil {
		return err
	}
	err = call(c)
	_ = c.Close() // nothing is in flight
	return err
}

// leader returns the node that leads, and another one.
func (t *theatre) leader(ctx context.Context) (leader, follower *devcluster.Node, err error) {
	i, err := t.LeaderIndex(ctx)
	if err != nil {
		return nil, nil, err
	}
	all := t.Nodes()
	return all[i], all[(i+1)%len(all)], nil
}

// leads has that node lead.
func (t *theatre) leads(ctx context.Context, n *devcluster.Node) error {
	return eventually(ctx, n.Name()+" leads", func(ctx context.Context) error {
		now, _, err := t.leader(ctx)
		if err != nil || now == n {
			return err
		}
		return errors.Join(errors.New(now.Name()+" leads"), t.transfer(ctx, n))
	})
}

// transfer asks for that node to lead.
func (t *theatre) transfer(ctx context.Context, n *devcluster.Node) error {
	return t.as(ctx, auth.RoleOperator, func(c *client.Client) error {
		_, err := c.Cluster().TransferLeadership(ctx, &kryptonv1.TransferLeadershipRequest{Target: "nodes/" + n.ID()})
		return err
	})
}

// stop ends all nodes in good order; start starts them, and says how each fared.
func (t *theatre) stop(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range t.Nodes() {
		if n.Running() {
			g.Go(func() error { return n.Stop(ctx) })
		}
	}
	return g.Wait()
}

// start starts all nodes. What a node makes of its files is for the attack to look at.
func (t *theatre) start(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range t.Nodes() {
		g.Go(func() error { return n.Start(ctx) })
	}
	return g.Wait()
}

// eventually calls f until it returns nil.
func eventually(ctx context.Context, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		try, end := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		end()
		if err == nil {
			return nil
		}
		if (clock.System{}).Sleep(ctx, 25*time.Millisecond) != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// diagnosed returns what `krypton status` says of a node, once that and `krypton
// doctor`, asked of the other nodes by an operator, name it and the reason on one line.
func (t *theatre) diagnosed(ctx context.Context, of *devcluster.Node, reason string) (said string, err error) {
	who, ok := t.Person(auth.RoleOperator)
	if !ok {
		return "", errors.New("there is no operator")
	}
	var others []string
	for _, n := range t.Nodes() {
		if n != of && n.Running() {
			others = append(others, n.Addresses().GRPC)
		}
	}
	ask := []string{"--addr", strings.Join(others, ","), "--ca-file", t.CAFile(), "--cert-file", who.CertFile, "--key-file", who.KeyFile}
	return said, eventually(ctx, "krypton says what is wrong with "+of.Name(), func(ctx context.Context) error {
		for _, command := range []string{"doctor", "status"} {
			cmd := exec.CommandContext(ctx, t.w.krypton, append([]string{command}, ask...)...) //nolint:gosec // Our own program and arguments.
			cmd.Env = append(os.Environ(), "HOME="+t.Dir(), "XDG_CONFIG_HOME="+t.Dir())
			out, _ := cmd.CombinedOutput() // the status is that of what was found
			if said = lineWith(string(out), of.Name(), reason); said == "" {
				return fmt.Errorf("krypton %s does not name %s and %s:\n%s", command, of.Name(), reason, out)
			}
		}
		return nil
	})
}

func encrypt(ctx context.Context, c *client.Client) ([]byte, error) {
	resp, err := c.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: service, Plaintext: []byte(canary)})
	return resp.GetCiphertext(), err
}

// opens reports whether a caller reads the canary; an error of the cluster is a no.
func opens(ctx context.Context, c *client.Client, ciphertext []byte) error {
	resp, err := c.Crypto().Decrypt(ctx, &kryptonv1.DecryptRequest{Service: service, Ciphertext: ciphertext})
	if err == nil && string(resp.GetPlaintext()) != canary {
		err = errors.New("it decrypts to something else")
	}
	return err
}
