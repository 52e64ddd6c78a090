//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/fleet"
)

// third is the person who holds a share after the MasterKey was exposed.
const third = "carla"

// The token, and both persons of before, are not trusted any more: three shares, which
// are enough to open the MasterKey.
var dismissed = []string{fleet.HSM, person, second} //nolint:gochecknoglobals // Immutable.

// backup has an operator save the registry while the dismissed still open it.
func (d *demo) backup(ctx context.Context) (string, error) {
	if err := d.restart(ctx, fleet.HSM, fleet.Transit, fleet.AWS); err != nil {
		return "", err
	}
	if err := d.serves(ctx); err != nil {
		return "", err
	}
	if _, err := d.cluster.Issue(ctx, auth.RoleOperator, ""); err != nil {
		return "", err
	}
	if _, err := d.as(ctx, auth.RoleOperator, d.cluster.Nodes()[0], "operator", "snapshot", "save", d.path("before.krypton")); err != nil {
		return "", err
	}
	return "", d.newIdentity(ctx, third)
}

// expose begins to replace the MasterKey: all that is under it, by holders of whom none is
// one of the dismissed but for their consent.
func (d *demo) expose(ctx context.Context) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "groups:\n  - name: all\n    threshold: %d\n    holders:\n", threshold)
	for _, s := range d.fleet.Stores() {
		if !slices.Contains(dismissed, s.Name) {
			fmt.Fprintf(&b, "      - {name: %s, keystore: %s, key: %q}\n", s.Name, s.Name, s.Key)
		}
	}
	recipient, err := d.recipient(ctx, third)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "      - {name: %s, recipient: %s}\n", third, recipient)
	if err := os.WriteFile(d.path("exposed.yaml"), []byte(b.String()), 0o600); err != nil {
		return "", err
	}
	if err := d.fleet.Store(fleet.Azure).Up(); err != nil {
		return "", err
	}
	if _, err := d.as(ctx, auth.RoleCustodian, d.cluster.Nodes()[0], "ceremony", "start", "rekey", "--compromised", "--seal-plan", d.path("exposed.yaml"), "--yes"); err != nil {
		return "", err
	}
	return "the present holders consent", d.until(ctx, "STAGED")
}

// killWhileStaged shows that nothing has changed yet.
func (d *demo) killWhileStaged(ctx context.Context) (string, error) {
	leader, err := d.leader(ctx)
	if err != nil {
		return "", err
	}
	leader.Kill()
	if err := leader.Start(ctx); err != nil {
		return "", err
	}
	if err := d.serves(ctx); err != nil {
		return "", err
	}
	return leader.Name() + " led, and unseals again by the old seal", d.until(ctx, "STAGED")
}

// confirm has the custodian say which MasterKey it is. It is the moment from which on the
// leader can commit, so it waits for the keystores by itself.
func (d *demo) confirm(ctx context.Context) (string, error) {
	if err := d.eventually(ctx, func() error {
		_, err := d.as(ctx, auth.RoleCustodian, d.cluster.Nodes()[1], "ceremony", "confirm", "--yes")
		return err
	}); err != nil {
		return "", err
	}
	if err := d.until(ctx, "COMMITTED"); err != nil {
		return "", err
	}
	return "", d.serves(ctx)
}

// eventually tries until it succeeds, or patience ends.
func (d *demo) eventually(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// step returns how a step after the commit stands, as the first node says it.
func (d *demo) step(ctx context.Context, name string) (string, error) {
	out, err := d.as(ctx, auth.RoleCustodian, d.cluster.Nodes()[0], "ceremony", "status")
	if err != nil {
		return "", err
	}
	state, _, _ := strings.Cut(line(out, name+" "), " ")
	return state, nil
}

// killWhileCleared kills the leader while the members clear their disks.
func (d *demo) killWhileCleared(ctx context.Context) (string, error) {
	leader, err := d.leader(ctx)
	if err != nil {
		return "", err
	}
	leader.Kill()
	if err := leader.Start(ctx); err != nil {
		return "", err
	}
	if err := d.eventually(ctx, func() error {
		is, err := d.step(ctx, "carried-keys")
		if err == nil && is != "DONE" {
			err = fmt.Errorf("the members have not all cleared their disks: %q", is)
		}
		return err
	}); err != nil {
		return "", err
	}
	return leader.Name() + " led; it is opened by the new holders, and every member has cleared its disk", d.serves(ctx)
}

// dismissedOpenNothing starts the nodes with the keystore up that was dismissed, and has the
// persons come who were.
func (d *demo) dismissedOpenNothing(ctx context.Context) (string, error) {
	for _, n := range d.cluster.Nodes() {
		if err := n.Stop(ctx); err != nil {
			return "", err
		}
	}
	// Somebody copies a disk afterwards.
	if out, err := exec.CommandContext(ctx, "cp", "-r", d.cluster.Nodes()[0].DataDir(), d.path("stolen")).CombinedOutput(); err != nil { //nolint:gosec // Our own directories.
		return "", fmt.Errorf("%w: %s", err, out)
	}
	for _, s := range d.fleet.Stores() {
		set := s.Down
		if slices.Contains(dismissed, s.Name) {
			set = s.Up
		}
		if err := set(); err != nil {
			return "", err
		}
	}
	g, starting := errgroup.WithContext(ctx)
	for _, n := range d.cluster.Nodes() {
		g.Go(func() error { return n.Start(starting) })
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	for _, n := range d.cluster.Nodes() {
		says, err := d.missing(ctx, n, fmt.Sprintf("%d of: ", threshold), fleet.Transit, fleet.AWS, fleet.Azure, third)
		if err != nil {
			return "", err
		}
		for _, name := range dismissed {
			if strings.Contains(says, name) {
				return "", fmt.Errorf("%s asks %s still: %s", n.Name(), name, says)
			}
			if name == fleet.HSM {
				continue
			}
			if err := d.refused(ctx, n, name); err != nil {
				return "", err
			}
		}
	}
	return "every node refuses the shares of " + strings.Join(dismissed, ", "), nil
}

func (d *demo) refused(ctx context.Context, n *devcluster.Node, name string) error {
	if _, err := d.as(ctx, auth.RoleCustodian, n, "unseal", "--identity", d.identityFile(name)); err == nil {
		return fmt.Errorf("%s took the share of %s", n.Name(), name)
	}
	return nil
}

// offline has the dismissed, who are three of three, open what there was, and what is on the
// disk that was copied afterwards.
func (d *demo) offline(ctx context.Context) (string, error) {
	config, err := os.ReadFile(d.cluster.Nodes()[0].ConfigFile())
	if err != nil {
		return "", err
	}
	moved := strings.ReplaceAll(string(config), d.cluster.Nodes()[0].DataDir(), d.path("stolen"))
	if moved == string(config) {
		return "", errors.New("the configuration does not name the data directory")
	}
	if err := os.WriteFile(d.path("stolen.yaml"), []byte(moved), 0o600); err != nil { //nolint:gosec // A path below our own directory.
		return "", err
	}
	if _, err := d.krypton(ctx, "operator", "snapshot", "save-dir", d.path("after.krypton"), "--config", d.path("stolen.yaml")); err != nil {
		return "", err
	}
	open := func(file string) (string, error) {
		return d.krypton(ctx, "operator", "snapshot", "verify", d.path(file), "--holders", "--config", d.path("stolen.yaml"),
			"--identity", d.identityFile(person), "--identity", d.identityFile(second))
	}
	if out, err := open("before.krypton"); err != nil || !strings.Contains(line(out, "proved by the MasterKey:"), "yes") {
		return "", fmt.Errorf("the dismissed do not even open what was theirs, so nothing is shown: %w: %s", err, out)
	}
	if out, err := open("after.krypton"); err == nil {
		return "", fmt.Errorf("the dismissed open the disk that was copied afterwards: %s", out)
	}
	d.found = append(d.found, "compromised=replaced", "dismissed="+strings.Join(dismissed, ","), "dismissed_open=nothing")
	return "they open the backup from before, and not the disk from after", nil
}

// newHoldersServe ends it: those who hold the seal now open every node.
func (d *demo) newHoldersServe(ctx context.Context) (string, error) {
	for _, name := range []string{fleet.Transit, fleet.AWS, fleet.Azure} {
		if err := d.fleet.Store(name).Up(); err != nil {
			return "", err
		}
	}
	return "", d.serves(ctx)
}
