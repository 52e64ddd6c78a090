//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

// exit is how one run of the command line ended.
type exit struct {
	status int
	stderr string
}

func (e exit) String() string {
	return fmt.Sprintf("exit status %d: %s", e.status, strings.TrimSpace(e.stderr))
}

// ok is an error for every status but 0.
func (e exit) ok() error {
	if e.status != 0 {
		return errors.New(e.String())
	}
	return nil
}

// krypton runs the program as a person would who was told one node's address,
// with no context of the real user in reach.
func (d *demo) krypton(ctx context.Context, role auth.Role, node *devcluster.Node, args ...string) (exit, error) {
	who, ok := d.cluster.Person(role)
	if !ok {
		return exit{}, fmt.Errorf("there is no %s", role)
	}
	cmd := exec.CommandContext(ctx, d.bin, args...) //nolint:gosec // The program under test.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + d.work, "XDG_CONFIG_HOME=" + d.work,
		"KRYPTON_ADDR=" + node.Addresses().GRPC,
		"KRYPTON_CA_FILE=" + d.cluster.CAFile(), "KRYPTON_CERT_FILE=" + who.CertFile, "KRYPTON_KEY_FILE=" + who.KeyFile,
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	var status *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return exit{}, ctx.Err()
	case errors.As(err, &status):
		return exit{status: status.ExitCode(), stderr: stderr.String()}, nil
	case err != nil:
		return exit{}, err
	}
	return exit{stderr: stderr.String()}, nil
}

// encryptFile encrypts one file into another through one node.
func (d *demo) encryptFile(ctx context.Context, node *devcluster.Node, from, to string) error {
	e, err := d.krypton(ctx, auth.RoleWorkload, node, "encrypt", "--service", shortName, "--out", to, from)
	if err != nil {
		return err
	}
	return e.ok()
}

// decryptFile decrypts one file into another through one node.
func (d *demo) decryptFile(ctx context.Context, node *devcluster.Node, from, to string) (exit, error) {
	return d.krypton(ctx, auth.RoleWorkload, node, "decrypt", "--service", shortName, "--out", to, from)
}
