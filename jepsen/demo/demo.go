//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/jepsen/steps"
)

const (
	fileMB = 8

	tenantID  = "shop"
	serviceID = "orders"
	tenant    = "tenants/" + tenantID
	service   = tenant + "/services/" + serviceID
	shortName = tenantID + "/" + serviceID // as the command line takes it

	// minOps is how many operations have to end between the kill and the end of
	// the load.
	minOps = 1200
)

// demo is one run: the cluster, the files, and what earlier steps left for
// later ones.
type demo struct {
	out  io.Writer
	root string
	bin  string

	work    string // directory of the demo's own files
	canary  string // stands in all plain data
	sum     string // SHA-256 of the plain file
	cluster *devcluster.Cluster
	dead    *devcluster.Node
	keys    []client.Secret // data keys that must be in no file
	first   []byte          // ciphertext of the canary under version 1
	second  []byte          // and under version 2
	destroy client.Info     // of the call that destroyed version 2

	found findings
}

func (d *demo) steps() []steps.Step {
	return []steps.Step{
		steps.Of("build bin/krypton", d.build),
		steps.Of("start three nodes, each a process of its own", d.start),
		steps.Of("the governor creates a tenant and a service", d.create),
		steps.Of("encrypt a file of 8 MiB through a follower", d.encrypt),
		steps.Of("kill -9 the leader while operations run on all nodes", d.kill),
		steps.Of("decrypt the file on a survivor", d.survivor),
		steps.Of("the killed node returns, unseals itself and decrypts", d.comeBack),
		steps.Of("rotate: new data under version 2, old data still opens", d.rotate),
		steps.Of("roll back: new data under version 1, all data opens", d.rollBack),
		steps.Of("disable a key while all nodes use it: nobody serves it after", d.withdraw),
		steps.Of("nobody both governs and uses keys", d.separation),
		steps.Of("destroy version 2: what it protected opens nowhere", d.destroyVersion),
		steps.Of("the audit trail has the destruction, and its chain holds", d.audit),
		steps.Of("no plaintext and no data key is in any node's files", d.search),
		steps.Of("nothing is left behind", d.leaveNothing),
	}
}

func (d *demo) path(name string) string { return filepath.Join(d.work, name) }

func (d *demo) build(ctx context.Context) (string, error) { return steps.Build(ctx, d.root, d.bin) }

func (d *demo) start(ctx context.Context) (string, error) {
	var err error
	if d.work, err = os.MkdirTemp("", "krypton-demo-"); err != nil {
		return "", err
	}
	if d.cluster, err = devcluster.Start(ctx, devcluster.Options{Binary: d.bin, Nodes: 3, Output: d.out}); err != nil {
		return "", err
	}
	pids := map[int]bool{}
	for _, n := range d.cluster.Nodes() {
		pids[n.PIDs()[0]] = true
	}
	if len(pids) != 3 {
		return "", fmt.Errorf("%d processes run, want 3", len(pids))
	}
	leader, err := d.cluster.LeaderIndex(ctx)
	if err != nil {
		return "", err
	}
	return d.cluster.Nodes()[leader].Name() + " leads", nil
}

func (d *demo) create(ctx context.Context) (string, error) {
	if err := d.cluster.CreateTenant(ctx, tenantID); err != nil {
		return "", err
	}
	if err := d.cluster.CreateService(ctx, tenantID, serviceID); err != nil {
		return "", err
	}
	if _, err := d.cluster.Issue(ctx, auth.RoleWorkload, tenantID); err != nil {
		return "", err
	}
	return service + ", bound to a key of its own", nil
}

// encrypt makes the file and encrypts it through a node that does not lead.
func (d *demo) encrypt(ctx context.Context) (string, error) {
	if err := d.writePlain(); err != nil {
		return "", err
	}
	leader, err := d.cluster.LeaderIndex(ctx)
	if err != nil {
		return "", err
	}
	follower := d.cluster.Nodes()[(leader+1)%3]
	if err := d.encryptFile(ctx, follower, d.path("plain"), d.path("sealed")); err != nil {
		return "", err
	}
	plain, err := os.Stat(d.path("plain"))
	if err != nil {
		return "", err
	}
	sealed, err := os.Stat(d.path("sealed"))
	if err != nil {
		return "", err
	}
	if sealed.Size() <= plain.Size() {
		return "", fmt.Errorf("the ciphertext has %d bytes, not more than the plain file's %d", sealed.Size(), plain.Size())
	}
	hits, _, _, err := search([]string{d.path("sealed")}, needlesOf("the canary", []byte(d.canary)))
	if err != nil {
		return "", err
	}
	if len(hits) > 0 {
		return "", fmt.Errorf("the ciphertext is not one: %s", hits[0])
	}
	d.found.fileMB = int(plain.Size() >> 20)
	return fmt.Sprintf("on %s, a follower: %d bytes became %d", follower.Name(), plain.Size(), sealed.Size()), nil
}

// writePlain makes a file of random data with the canary at its beginning, at
// its end and once per MiB.
func (d *demo) writePlain() error {
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	d.canary = "krypton-demo-canary-" + hex.EncodeToString(secret)
	text := make([]byte, fileMB<<20)
	if _, err := rand.Read(text); err != nil {
		return err
	}
	for at := 0; at < len(text); at += 1 << 20 {
		copy(text[at:], d.canary)
	}
	copy(text[len(text)-len(d.canary):], d.canary)
	sum := sha256.Sum256(text)
	d.sum = hex.EncodeToString(sum[:])
	return os.WriteFile(d.path("plain"), text, 0o600)
}

// kill ends the leader without a warning while operations run on all nodes, and
// lets them run on until another node leads and enough of them ended.
func (d *demo) kill(ctx context.Context) (string, error) {
	cl, err := d.cluster.Client(ctx, auth.RoleWorkload)
	if err != nil {
		return "", err
	}
	defer func() { _ = cl.Close() }()
	leader, err := d.cluster.LeaderIndex(ctx)
	if err != nil {
		return "", err
	}
	d.dead = d.cluster.Nodes()[leader]

	l := startLoad(ctx, cl, client.Scope{Service: service, Resource: "row-7"}, d.canary)
	l.waitFor(200) // the dying node is in use
	before := l.count()
	began := time.Now()
	d.dead.Kill()
	next, err := d.cluster.LeaderIndex(ctx)
	elected := time.Since(began)
	if err == nil {
		l.waitFor(before + minOps)
	}
	l.end()

	d.found.opsAtKill, d.found.failed = l.calls-before, l.failed
	d.keys = append(d.keys, l.kept...)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", fmt.Errorf("no other node took the lead: %w", err)
	case d.dead.Running():
		return "", errors.New("the killed leader still runs")
	case next == leader:
		return "", errors.New("the killed node is said to lead")
	case l.failed > 0:
		return "", fmt.Errorf("%d of %d operations failed around the death of the leader, the first %w", l.failed, l.calls, l.first)
	case d.found.opsAtKill <= 1000:
		return "", fmt.Errorf("only %d operations ended after the kill, want more than 1000", d.found.opsAtKill)
	}
	return fmt.Sprintf("%d operations, 0 failed, slowest %.0f ms; %s leads after %.0f ms",
		d.found.opsAtKill, l.slowest.Seconds()*1e3, d.cluster.Nodes()[next].Name(), elected.Seconds()*1e3), nil
}

func (d *demo) survivor(ctx context.Context) (string, error) {
	for _, n := range d.cluster.Nodes() {
		if n != d.dead {
			return "on " + n.Name() + ", same SHA-256", d.sameFile(ctx, n)
		}
	}
	return "", errors.New("there is no survivor")
}

// sameFile decrypts the file through one node and compares it with the plain one.
func (d *demo) sameFile(ctx context.Context, n *devcluster.Node) error {
	opened := d.path("opened")
	e, err := d.decryptFile(ctx, n, d.path("sealed"), opened)
	if err == nil {
		err = e.ok()
	}
	if err != nil {
		return fmt.Errorf("%s does not decrypt the file: %w", n.Name(), err)
	}
	text, err := os.ReadFile(opened)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != d.sum {
		return fmt.Errorf("%s decrypts to another file: SHA-256 is %x, was %s", n.Name(), sum, d.sum)
	}
	return os.Remove(opened)
}

func (d *demo) comeBack(ctx context.Context) (string, error) {
	if err := d.dead.Start(ctx); err != nil {
		return "", err
	}
	if err := d.dead.WaitServing(ctx); err != nil {
		return "", err
	}
	return "on " + d.dead.Name() + " alone, same SHA-256", d.sameFile(ctx, d.dead)
}

// govern calls the cluster as the governor.
func (d *demo) govern(ctx context.Context, call func(*client.Client) error) error {
	cl, err := d.cluster.Client(ctx, auth.RoleGovernor)
	if err != nil {
		return err
	}
	err = call(cl)
	_ = cl.Close() // nothing is in flight
	return err
}

// leaveNothing ends the cluster and looks for what could have stayed.
func (d *demo) leaveNothing(context.Context) (string, error) {
	var pids []int
	for _, n := range d.cluster.Nodes() {
		pids = append(pids, n.PIDs()...)
	}
	dirs := []string{d.cluster.Dir(), d.work}
	if err := d.cleanUp(); err != nil { //nolint:contextcheck // Nothing in it waits for the caller.
		return "", err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return "", fmt.Errorf("process %d is still there", pid)
		}
	}
	for _, dir := range dirs {
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("%s is still there", dir)
		}
	}
	return fmt.Sprintf("%d processes and %d directories are gone", len(pids), len(dirs)), nil
}

// cleanUp may be called more than once.
func (d *demo) showLogs() {
	if d.cluster != nil {
		fmt.Fprintln(d.out, "\nThe end of each node's output:")
		d.cluster.WriteLogs(d.out)
	}
}

func (d *demo) cleanUp() error {
	var all []error
	if d.cluster != nil {
		all = append(all, d.cluster.Close())
	}
	if d.work != "" {
		all = append(all, os.RemoveAll(d.work))
	}
	return errors.Join(all...)
}
