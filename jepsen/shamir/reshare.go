//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/fleet"
)

// second is the person who takes the place of a keystore.
const second = "ben"

func (d *demo) secondPerson(ctx context.Context) (string, error) {
	return "", d.newIdentity(ctx, second)
}

// writePlan writes who shall hold the shares from now on, as docs/seals.md says.
func (d *demo) writePlan(ctx context.Context) error {
	var b strings.Builder
	fmt.Fprintf(&b, "groups:\n  - name: all\n    threshold: %d\n    holders:\n", threshold)
	for _, s := range d.fleet.Stores() {
		if s.Name != fleet.Azure {
			fmt.Fprintf(&b, "      - {name: %s, keystore: %s, key: %q}\n", s.Name, s.Name, s.Key)
		}
	}
	for _, name := range []string{person, second} {
		recipient, err := d.recipient(ctx, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "      - {name: %s, recipient: %s}\n", name, recipient)
	}
	return os.WriteFile(d.path("new.yaml"), []byte(b.String()), 0o600)
}

// reshare begins with two keystores up: one share is missing for the consent.
func (d *demo) reshare(ctx context.Context) (string, error) {
	if err := d.writePlan(ctx); err != nil {
		return "", err
	}
	if err := d.fleet.Store(fleet.Transit).Down(); err != nil {
		return "", err
	}
	leader, err := d.leader(ctx)
	if err != nil {
		return "", err
	}
	out, err := d.as(ctx, auth.RoleCustodian, leader, "ceremony", "start", "reshare", "--seal-plan", d.path("new.yaml"), "--yes")
	if err != nil {
		return "", err
	}
	return "azure gives way to " + second + ": " + line(out, "next:"), nil
}

func (d *demo) leader(ctx context.Context) (*devcluster.Node, error) {
	at, err := d.cluster.LeaderIndex(ctx)
	if err != nil {
		return nil, err
	}
	return d.cluster.Nodes()[at], nil
}

// state returns the state of the ceremony, as any node that answers says it.
func (d *demo) state(ctx context.Context) (string, error) {
	var all []error
	for _, n := range d.cluster.Nodes() {
		out, err := d.as(ctx, auth.RoleCustodian, n, "ceremony", "status")
		if err == nil {
			return line(out, "state:"), nil
		}
		all = append(all, err)
	}
	return "", errors.Join(all...)
}

func (d *demo) until(ctx context.Context, states ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s, err := d.state(ctx)
		if err == nil && slices.Contains(states, s) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the ceremony is %q, not %s: %w", s, strings.Join(states, " or "), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *demo) killInTheMiddle(ctx context.Context) (string, error) {
	if err := d.until(ctx, "OPEN"); err != nil {
		return "", err
	}
	leader, err := d.leader(ctx)
	if err != nil {
		return "", err
	}
	leader.Kill()
	if err := leader.Start(ctx); err != nil {
		return "", err
	}
	// Two keystores are up and the old seal needs three shares: the old holders
	// open it, azure's share too, whatever the plan says.
	if err := d.fleet.Store(fleet.Azure).Up(); err != nil {
		return "", err
	}
	if err := leader.WaitServing(ctx); err != nil {
		return "", err
	}
	return leader.Name() + " led, and unseals again by the old seal, with azure's share", nil
}

func (d *demo) commits(ctx context.Context) (string, error) {
	if err := d.fleet.Store(fleet.Transit).Up(); err != nil {
		return "", err
	}
	if err := d.until(ctx, "COMMITTED"); err != nil {
		return "", err
	}
	if err := d.decrypt(ctx); err != nil {
		return "", err
	}
	d.found = append(d.found, "reshare=committed")
	return "", nil
}

// newHolders restarts the nodes with one keystore of the new seal and the one
// that was replaced: two persons are needed, and are enough.
func (d *demo) newHolders(ctx context.Context) (string, error) {
	if err := d.restart(ctx, fleet.HSM, fleet.Azure); err != nil {
		return "", err
	}
	for _, n := range d.cluster.Nodes() {
		says, err := d.missing(ctx, n, "2 more of: ", person, second)
		if err != nil {
			return "", err
		}
		if strings.Contains(says, fleet.Azure) {
			return "", fmt.Errorf("%s still asks azure: %s", n.Name(), says)
		}
	}
	var addrs []string
	for _, n := range d.cluster.Nodes() {
		addrs = append(addrs, n.Addresses().GRPC)
	}
	first := d.cluster.Nodes()[0]
	for _, name := range []string{person, second} {
		_, err := d.as(ctx, auth.RoleCustodian, first, "unseal", "--addr", strings.Join(addrs, ","), "--identity", d.identityFile(name))
		if pending := name == person; (err != nil) != pending {
			return "", fmt.Errorf("the share of %s: %w", name, err)
		}
	}
	return person + " and " + second + " beside the token; azure is not asked", d.serves(ctx)
}

func (d *demo) manifests(ctx context.Context) (string, error) {
	n := d.cluster.Nodes()[0]
	if _, err := d.as(ctx, auth.RoleCustodian, n, "ceremony", "manifest", "export", d.path("seals.json")); err != nil {
		return "", err
	}
	status, err := d.krypton(ctx, "status", "--data-dir", n.DataDir())
	if err != nil {
		return "", err
	}
	out, err := d.krypton(ctx, "ceremony", "manifest", "verify", d.path("seals.json"), "--fingerprint", line(status, "fingerprint:"))
	if err != nil {
		return "", err
	}
	if !strings.Contains(out, "reshare") || !strings.Contains(out, second) {
		return "", fmt.Errorf("the manifests do not name the reshare and %s: %s", second, out)
	}
	return "from the genesis to the present seal", nil
}
