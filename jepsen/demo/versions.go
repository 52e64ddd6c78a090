//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// row is what the ciphertexts of these steps are bound to.
const row = "row-1"

func versionName(number int) string { return fmt.Sprintf("%s/versions/%d", service, number) }

// on calls one node as the workload.
func (d *demo) on(ctx context.Context, n *devcluster.Node, call func(*client.Client) error) error {
	cl, err := d.cluster.NodeClient(ctx, auth.RoleWorkload, n)
	if err != nil {
		return err
	}
	err = call(cl)
	_ = cl.Close() // nothing is in flight
	return err
}

// everywhere checks every node, once and at once: whatever was acknowledged before
// holds on all of them. It returns how long that took.
func (d *demo) everywhere(ctx context.Context, check func(*client.Client) error) (time.Duration, error) {
	began := time.Now()
	for _, n := range d.cluster.Nodes() {
		if err := d.on(ctx, n, check); err != nil {
			return 0, fmt.Errorf("%s, %s after the change: %w", n.Name(), time.Since(began).Round(time.Millisecond), err)
		}
	}
	return time.Since(began), nil
}

// newDataUnder checks that a node protects new data and new data keys under that
// version, and returns the ciphertext.
func (d *demo) newDataUnder(ctx context.Context, cl *client.Client, version int) ([]byte, error) {
	want := versionName(version)
	sealed, err := cl.Crypto().Encrypt(ctx, &kryptonv1.EncryptRequest{Service: service, Resource: row, Plaintext: []byte(d.canary)})
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	key, err := cl.GenerateDataKey(ctx, client.Scope{Service: service, Resource: row}, 0)
	if err != nil {
		return nil, fmt.Errorf("generate a data key: %w", err)
	}
	if sealed.GetKeyVersion() != want || key.KeyVersion != want {
		return nil, fmt.Errorf("new data is under %s and new data keys are under %s, want %s", sealed.GetKeyVersion(), key.KeyVersion, want)
	}
	d.keys = append(d.keys, key.Plaintext)
	return sealed.GetCiphertext(), nil
}

// opens checks that a node opens ciphertexts to what they were made of.
func (d *demo) opens(ctx context.Context, cl *client.Client, ciphertexts ...[]byte) error {
	for i, c := range ciphertexts {
		plain, err := cl.Decrypt(ctx, client.Scope{Service: service, Resource: row}, c)
		if err != nil {
			return fmt.Errorf("ciphertext %d does not open: %w", i+1, err)
		}
		if string(plain.Bytes()) != d.canary {
			return fmt.Errorf("ciphertext %d opens to other data", i+1)
		}
	}
	return nil
}

func (d *demo) rotate(ctx context.Context) (string, error) {
	d.found.afterRotate = "no"
	if _, err := d.everywhere(ctx, func(cl *client.Client) (err error) {
		d.first, err = d.newDataUnder(ctx, cl, 1)
		return err
	}); err != nil {
		return "", fmt.Errorf("before the rotation: %w", err)
	}
	if err := d.govern(ctx, func(cl *client.Client) error {
		s, err := cl.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service})
		if err == nil && s.GetPrimaryVersion() != 2 {
			err = fmt.Errorf("the primary version is %d, want 2", s.GetPrimaryVersion())
		}
		return err
	}); err != nil {
		return "", err
	}
	took, err := d.everywhere(ctx, func(cl *client.Client) (err error) {
		if d.second, err = d.newDataUnder(ctx, cl, 2); err != nil {
			return err
		}
		return d.opens(ctx, cl, d.first, d.second)
	})
	if err != nil {
		return "", err
	}
	for _, n := range d.cluster.Nodes() {
		if err := d.sameFile(ctx, n); err != nil {
			return "", fmt.Errorf("after the rotation: %w", err)
		}
	}
	d.found.afterRotate = "yes"
	// A file under version 2, for the steps that follow.
	return fmt.Sprintf("on all three nodes within %.0f ms; the file too", took.Seconds()*1e3),
		d.encryptFile(ctx, d.cluster.Nodes()[0], d.path("plain"), d.path("sealed-2"))
}

func (d *demo) rollBack(ctx context.Context) (string, error) {
	if err := d.govern(ctx, func(cl *client.Client) error {
		s, err := cl.Services().RollbackService(ctx, &kryptonv1.RollbackServiceRequest{Name: service})
		if err == nil && s.GetPrimaryVersion() != 1 {
			err = fmt.Errorf("the primary version is %d, want 1", s.GetPrimaryVersion())
		}
		return err
	}); err != nil {
		return "", err
	}
	took, err := d.everywhere(ctx, func(cl *client.Client) error {
		third, err := d.newDataUnder(ctx, cl, 1)
		if err != nil {
			return err
		}
		return d.opens(ctx, cl, d.first, d.second, third)
	})
	if err != nil {
		return "", err
	}
	e, err := d.decryptFile(ctx, d.cluster.Nodes()[1], d.path("sealed-2"), d.path("opened"))
	if err == nil {
		err = e.ok()
	}
	if err != nil {
		return "", fmt.Errorf("the file under version 2: %w", err)
	}
	return fmt.Sprintf("on all three nodes within %.0f ms", took.Seconds()*1e3), os.Remove(d.path("opened"))
}

// separation lets each of two roles try the other's work, on the command line
// and so with its exit status.
func (d *demo) separation(ctx context.Context) (string, error) {
	n := d.cluster.Nodes()[0]
	for _, try := range []struct {
		role auth.Role
		what string
		args []string
	}{
		{auth.RoleGovernor, "encrypt", []string{"encrypt", "--service", shortName, "--out", d.path("stolen"), d.path("plain")}},
		{auth.RoleGovernor, "decrypt", []string{"decrypt", "--service", shortName, "--out", d.path("stolen"), d.path("sealed")}},
		{auth.RoleWorkload, "rotate", []string{"key", "rotate", shortName}},
		{auth.RoleWorkload, "destroy", []string{"key", "destroy", shortName, "--version", "1", "--now", "--yes"}},
	} {
		e, err := d.krypton(ctx, try.role, n, try.args...)
		if err != nil {
			return "", err
		}
		if e.status != errs.ExitDenied {
			return "", fmt.Errorf("the %s tries to %s and is not denied: %s", try.role, try.what, e)
		}
	}
	if _, err := os.Lstat(d.path("stolen")); !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("the governor was denied and still got a file: %w", err)
	}
	return fmt.Sprintf("4 tries, each denied with exit status %d", errs.ExitDenied), nil
}

func (d *demo) destroyVersion(ctx context.Context) (string, error) {
	d.found.afterDestroy = "yes"
	if err := d.govern(ctx, func(cl *client.Client) error {
		v, err := cl.Services().DestroyVersion(ctx, &kryptonv1.DestroyVersionRequest{Name: versionName(2), Now: true}, client.Capture(&d.destroy))
		if err == nil && v.GetState() != kryptonv1.VersionState_VERSION_STATE_DESTROYED {
			err = fmt.Errorf("the state of version 2 is %s, want DESTROYED", v.GetState())
		}
		return err
	}); err != nil {
		return "", err
	}
	took, err := d.everywhere(ctx, func(cl *client.Client) error {
		_, err := cl.Decrypt(ctx, client.Scope{Service: service, Resource: row}, d.second)
		switch errs.Of(err) { //nolint:exhaustive // Every other answer is wrong.
		case errs.FailedState, errs.Integrity:
			return nil
		case errs.Unspecified:
			return errors.New("a ciphertext under the destroyed version opens")
		}
		return fmt.Errorf("a ciphertext under the destroyed version is refused with the wrong error: %w", err)
	})
	if err != nil {
		return "", err
	}
	status := 0
	for _, n := range d.cluster.Nodes() {
		e, err := d.decryptFile(ctx, n, d.path("sealed-2"), d.path("opened"))
		if err != nil {
			return "", err
		}
		if e.status != errs.ExitState && e.status != errs.ExitIntegrity || status != 0 && e.status != status {
			return "", fmt.Errorf("%s does not refuse the file as it should: %s", n.Name(), e)
		}
		status = e.status
		if _, err := os.Lstat(d.path("opened")); !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("%s refused the file and still wrote one: %w", n.Name(), err)
		}
		// What is under the other version is not touched.
		if err := d.on(ctx, n, func(cl *client.Client) error { return d.opens(ctx, cl, d.first) }); err != nil {
			return "", fmt.Errorf("%s lost version 1 as well: %w", n.Name(), err)
		}
		if err := d.sameFile(ctx, n); err != nil {
			return "", fmt.Errorf("version 1 after the destruction of version 2: %w", err)
		}
	}
	d.found.afterDestroy = "no"
	return fmt.Sprintf("on all three nodes within %.0f ms, exit status %d; version 1 still opens", took.Seconds()*1e3, status), nil
}

// audit looks for the destruction where it was asked for, and verifies every
// node's trail.
func (d *demo) audit(context.Context) (string, error) {
	var total uint64
	var where string
	for _, n := range d.cluster.Nodes() {
		found, records, err := auditOf(n.DataDir(), d.destroy.CorrelationID)
		if err != nil {
			return "", fmt.Errorf("the audit trail of %s: %w", n.Name(), err)
		}
		total += records
		if n.ID() != d.destroy.Node {
			continue
		}
		where = n.Name()
		intent, done := false, false
		for _, r := range found {
			if r.Act != "versions.destroy_now" {
				continue
			}
			intent = intent || r.Phase.String() == "intent"
			done = done || r.Phase.String() == "outcome" && r.Outcome == errs.OutcomeOK
		}
		if !intent || !done {
			return "", fmt.Errorf("%s answered call %s and has no complete record of it: %d records, intent %v, outcome %v",
				n.Name(), d.destroy.CorrelationID, len(found), intent, done)
		}
	}
	if where == "" {
		return "", fmt.Errorf("node %q, which answered call %s, is none of the three", d.destroy.Node, d.destroy.CorrelationID)
	}
	return fmt.Sprintf("correlation id %s on %s; %d records verified", d.destroy.CorrelationID, where, total), nil
}

// search looks into every file of every node, its output included, for the
// canary and for every data key that was handed out and kept.
func (d *demo) search(context.Context) (string, error) {
	needles := needlesOf("the canary", []byte(d.canary))
	for i, k := range d.keys {
		needles = append(needles, needlesOf(fmt.Sprintf("data key %d", i+1), k.Bytes())...)
	}
	// I2: a search that finds nothing proves something only if it can find.
	if err := d.searchFinds(needles); err != nil {
		return "", err
	}
	var roots []string
	for _, n := range d.cluster.Nodes() {
		roots = append(roots, n.DataDir(), n.LogFile())
	}
	hits, files, read, err := search(roots, needles)
	switch {
	case err != nil:
		return "", err
	case len(hits) > 0:
		return "", fmt.Errorf("%d traces, the first: %s", len(hits), hits[0])
	case len(d.keys) == 0:
		return "", errors.New("no data key was kept to search for")
	}
	return fmt.Sprintf("canary and %d data keys, raw, hex and base64, in %d files with %d MiB", len(d.keys), files, read>>20), nil
}

// searchFinds plants every needle and wants it found.
func (d *demo) searchFinds(needles []needle) error {
	control := d.path("control")
	for _, n := range []needle{needles[0], needles[len(needles)/2], needles[len(needles)-1]} {
		if err := os.WriteFile(control, append([]byte("before "), n.bytes...), 0o600); err != nil {
			return err
		}
		hits, _, _, err := search([]string{control}, needles)
		if err != nil {
			return err
		}
		if len(hits) == 0 {
			return fmt.Errorf("the search does not even find %s in a file that holds it", n.what)
		}
	}
	return os.Remove(control)
}
