//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/jepsen/steps"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/fleet"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
)

const (
	threshold = 3
	person    = "anna"

	tenantID  = "shop"
	serviceID = "orders"
	shortName = tenantID + "/" + serviceID // as the command line takes it
)

// patience bounds a wait for a state of a node.
const patience = 30 * time.Second

// demo is one run: the keystores, the cluster, and what earlier steps left for
// later ones.
type demo struct {
	out  io.Writer
	root string
	bin  string

	work    string
	fleet   *fleet.Fleet
	cluster *devcluster.Cluster
	found   []string // fields of the result
}

func (d *demo) steps() []steps.Step {
	return []steps.Step{
		steps.Of("build bin/krypton and the program for the token", d.build),
		steps.Of("start a token, a Transit server and two clouds", d.keystores),
		steps.Of("a person makes an age key", d.identity),
		steps.Of("found three nodes: MasterKey 3 of 5, four keystores, one person", d.found3of5),
		steps.Of("encrypt a file", d.encrypt),
		steps.Of("two keystores down: every node unseals by itself", d.twoDown),
		steps.Of("three down: every node waits, and names what is missing", d.threeDown),
		steps.Of("the person's share completes each node", d.personCompletes),
		steps.Of("three down, one comes back: every node unseals by itself", d.oneReturns),
		steps.Of("a second person makes an age key", d.secondPerson),
		steps.Of("a reshare replaces a keystore by that person; it waits for consent", d.reshare),
		steps.Of("kill -9 the leader in the middle of it: the seal is what it was", d.killInTheMiddle),
		steps.Of("with one keystore more the ceremony ends by itself", d.commits),
		steps.Of("the new holders open it, the one that was replaced does not", d.newHolders),
		steps.Of("the manifests prove offline who was to hold it, and who ordered it", d.manifests),
		steps.Of("a backup is made, which the holders of now can open", d.backup),
		steps.Of("three of them are not trusted any more: rekey --compromised, by others", d.expose),
		steps.Of("kill -9 the leader in the middle of it: the seal is what it was", d.killWhileStaged),
		steps.Of("the custodian confirms which MasterKey was made, and it counts", d.confirm),
		steps.Of("kill -9 the leader while disks are cleared: another one goes on", d.killWhileCleared),
		steps.Of("the dismissed three bring their shares: every node refuses them", d.dismissedOpenNothing),
		steps.Of("the dismissed three have a disk that was copied afterwards: it stays closed", d.offline),
		steps.Of("the new holders open every node", d.newHoldersServe),
	}
}

func (d *demo) path(name string) string { return filepath.Join(d.work, name) }

func (d *demo) build(ctx context.Context) (version string, err error) {
	if d.work, err = os.MkdirTemp("", "krypton-shamir-"); err != nil {
		return "", err
	}
	if err := os.Mkdir(d.path("programs"), 0o700); err != nil {
		return "", err
	}
	if err := hsm.Build(ctx, d.path("programs")); err != nil {
		return "", err
	}
	return steps.Build(ctx, d.root, d.bin)
}

func (d *demo) keystores(ctx context.Context) (string, error) {
	if err := os.Mkdir(d.path("keystores"), 0o700); err != nil {
		return "", err
	}
	var err error
	if d.fleet, err = fleet.Start(ctx, fleet.Options{Dir: d.path("keystores"), Programs: d.path("programs")}); err != nil {
		return "", err
	}
	var all []string
	for _, s := range d.fleet.Stores() {
		all = append(all, s.Name+" ("+s.Type+")")
	}
	return strings.Join(all, ", "), nil
}

// identity makes the person's key, as people do.
func (d *demo) identity(ctx context.Context) (string, error) {
	return "post-quantum recipient; the key never leaves the person's machine", d.newIdentity(ctx, person)
}

func (d *demo) newIdentity(ctx context.Context, name string) error {
	_, err := d.krypton(ctx, "operator", "share", "new-identity", name, "--no-passphrase", "--out", d.work)
	return err
}

func (d *demo) identityFile(name string) string { return d.path(name + ".identity") }

func (d *demo) recipient(ctx context.Context, name string) (string, error) {
	out, err := d.krypton(ctx, "operator", "share", "recipient", d.identityFile(name))
	return strings.TrimSpace(out), err
}

func (d *demo) found3of5(ctx context.Context) (string, error) {
	recipient, err := d.recipient(ctx, person)
	if err != nil {
		return "", err
	}
	d.cluster, err = devcluster.Start(ctx, devcluster.Options{
		Binary: d.bin, Nodes: 3, Output: d.out, Dir: d.path("nodes"), Patience: patience, Keystores: d.fleet.Sections(),
		Seal: func(req *kryptonv1.InitRequest) { d.seal(req, recipient) },
	})
	if err != nil {
		return "", err
	}
	if err := d.cluster.CreateTenant(ctx, tenantID); err != nil {
		return "", err
	}
	if err := d.cluster.CreateService(ctx, tenantID, serviceID); err != nil {
		return "", err
	}
	if _, err := d.cluster.Issue(ctx, auth.RoleWorkload, tenantID); err != nil {
		return "", err
	}
	return "unseals without people: yes", nil
}

// seal plans 3 of 5: a share for each keystore and one for the person.
func (d *demo) seal(req *kryptonv1.InitRequest, recipient string) {
	g := &kryptonv1.SealGroup{Threshold: threshold}
	for _, s := range d.fleet.Stores() {
		g.Holders = append(g.Holders, &kryptonv1.SealHolder{Name: s.Name, Keystore: s.Name, Key: s.Key})
	}
	g.Holders = append(g.Holders, &kryptonv1.SealHolder{Name: person, Recipient: recipient})
	req.SealMode, req.Keystore, req.Key = kryptonv1.SealMode_SEAL_MODE_UNSPECIFIED, "", ""
	req.SealPlan = &kryptonv1.SealPlan{Groups: []*kryptonv1.SealGroup{g}}
}

const plain = "what the customers of a bank would not like to read elsewhere"

func (d *demo) encrypt(ctx context.Context) (string, error) {
	if err := os.WriteFile(d.path("plain"), []byte(plain), 0o600); err != nil {
		return "", err
	}
	_, err := d.as(ctx, auth.RoleWorkload, d.cluster.Nodes()[0], "encrypt", "--service", shortName, "--out", d.path("sealed"), d.path("plain"))
	return "", err
}

// decrypt opens the file through every node.
func (d *demo) decrypt(ctx context.Context) error {
	for _, n := range d.cluster.Nodes() {
		out := d.path("opened")
		if err := os.RemoveAll(out); err != nil {
			return err
		}
		if _, err := d.as(ctx, auth.RoleWorkload, n, "decrypt", "--service", shortName, "--out", out, d.path("sealed")); err != nil {
			return err
		}
		if got, err := os.ReadFile(out); err != nil || string(got) != plain {
			return fmt.Errorf("%s decrypted something else: %w", n.Name(), err)
		}
	}
	return nil
}

// restart stops every node and starts them again with exactly these keystores up.
func (d *demo) restart(ctx context.Context, up ...string) error {
	for _, n := range d.cluster.Nodes() {
		if err := n.Stop(ctx); err != nil {
			return err
		}
	}
	for _, s := range d.fleet.Stores() {
		set := s.Down
		if slices.Contains(up, s.Name) {
			set = s.Up
		}
		if err := set(); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range d.cluster.Nodes() {
		g.Go(func() error { return n.Start(ctx) })
	}
	return g.Wait()
}

// serves waits until every node serves, and shows it.
func (d *demo) serves(ctx context.Context) error {
	if err := d.cluster.WaitServing(ctx); err != nil {
		return err
	}
	return d.decrypt(ctx)
}

func (d *demo) twoDown(ctx context.Context) (string, error) {
	began := time.Now()
	if err := d.restart(ctx, fleet.HSM, fleet.Transit, fleet.AWS); err != nil {
		return "", err
	}
	if err := d.serves(ctx); err != nil {
		return "", err
	}
	d.found = append(d.found, "up=3/5", "unsealed=auto")
	return fmt.Sprintf("azure and %s did nothing; serving %.1f s after the start", person, time.Since(began).Seconds()), nil
}

// missing returns what the node says that it takes to unseal, once that begins with
// some shares more and names all of these holders.
func (d *demo) missing(ctx context.Context, n *devcluster.Node, more string, missing ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		out, err := d.krypton(ctx, "status", "--data-dir", n.DataDir())
		says := line(out, "missing:")
		if strings.HasPrefix(says, more) && !slices.ContainsFunc(missing, func(name string) bool { return !strings.Contains(says, name) }) {
			return says, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s does not name %s as missing: %q, %w", n.Name(), strings.Join(missing, ", "), out, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// line returns what stands behind a title in a sheet of the command line.
func line(sheet, title string) string {
	for l := range strings.Lines(sheet) {
		if rest, found := strings.CutPrefix(l, title); found {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func (d *demo) threeDown(ctx context.Context) (string, error) {
	if err := d.restart(ctx, fleet.HSM, fleet.AWS); err != nil {
		return "", err
	}
	var says string
	for _, n := range d.cluster.Nodes() {
		var err error
		if says, err = d.missing(ctx, n, "1 more of: ", fleet.Transit+" (unavailable)", fleet.Azure+" (unavailable)", person+" (person)"); err != nil {
			return "", err
		}
	}
	d.found = append(d.found, "up=2/5", "missing=1", "named="+strings.Join([]string{fleet.Transit, fleet.Azure, person}, ","))
	return says, nil
}

func (d *demo) personCompletes(ctx context.Context) (string, error) {
	var addrs []string
	for _, n := range d.cluster.Nodes() {
		addrs = append(addrs, n.Addresses().GRPC)
	}
	if _, err := d.as(ctx, auth.RoleCustodian, d.cluster.Nodes()[0], "unseal", "--addr", strings.Join(addrs, ","), "--identity", d.identityFile(person)); err != nil {
		return "", err
	}
	if err := d.serves(ctx); err != nil {
		return "", err
	}
	d.found = append(d.found, "person=1", "unsealed=yes")
	return person + " decrypts on her machine; each node gets the share encrypted to its start key", nil
}

func (d *demo) oneReturns(ctx context.Context) (string, error) {
	if err := d.restart(ctx, fleet.HSM, fleet.AWS); err != nil {
		return "", err
	}
	for _, n := range d.cluster.Nodes() {
		if _, err := d.missing(ctx, n, "1 more of: ", fleet.Transit+" (unavailable)"); err != nil {
			return "", err
		}
	}
	began := time.Now()
	if err := d.fleet.Store(fleet.Transit).Up(); err != nil {
		return "", err
	}
	if err := d.serves(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("serving %.1f s after it was back", time.Since(began).Seconds()), nil
}

// krypton runs the program with no context of the real user in reach and returns
// what it printed.
func (d *demo) krypton(ctx context.Context, args ...string) (string, error) {
	return d.run(ctx, nil, args...)
}

// as runs the program as a person of that role who was told one node's address.
func (d *demo) as(ctx context.Context, role auth.Role, n *devcluster.Node, args ...string) (string, error) {
	who, ok := d.cluster.Person(role)
	if !ok {
		return "", fmt.Errorf("there is no %s", role)
	}
	return d.run(ctx, []string{
		"KRYPTON_ADDR=" + n.Addresses().GRPC,
		"KRYPTON_CA_FILE=" + d.cluster.CAFile(), "KRYPTON_CERT_FILE=" + who.CertFile, "KRYPTON_KEY_FILE=" + who.KeyFile,
	}, args...)
}

func (d *demo) run(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.bin, args...) //nolint:gosec // The program under test.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.work, "XDG_CONFIG_HOME=" + d.work}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("krypton %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

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
	if d.fleet != nil {
		all = append(all, d.fleet.Close())
	}
	if d.work != "" {
		all = append(all, os.RemoveAll(d.work))
	}
	return errors.Join(all...)
}
