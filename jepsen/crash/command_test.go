//go:build linux && (amd64 || arm64)

package crash_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/jepsen/crash/steps"
)

var shareText = regexp.MustCompile(`kshare1-[0-9a-z-]+`)

// The command init dies while the node goes on: what it had not given to a
// person is lost, and it says so when it is called again.
func TestInitCommand(t *testing.T) {
	t.Parallel()
	all := initCommandAt(t, 0, 0)
	if t.Failed() {
		return
	}
	counted.Add(int64(len(all)))
	test := t.Name()
	for _, f := range []steps.Fate{steps.Kill, steps.Term} {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			for _, at := range choose(test, f, all) {
				t.Run(fmt.Sprintf("%03d", at), func(t *testing.T) {
					t.Parallel()
					initCommandAt(t, f, at)
				})
			}
		})
	}
}

func (w *world) initArgs(out string) []string {
	return []string{
		"init", "--data-dir", w.node("n1").data(), "--voters", "1", "--governor", "gabi=" + w.path("people", "governor.pub.pem"),
		"--custodian", "carl=" + w.path("people", "custodian.pub.pem"), "--shares", "3", "--threshold", "2", "--out", w.path("out", out),
	}
}

func initCommandAt(t *testing.T, f steps.Fate, at int) []steps.Step {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	w := newWorld(t)
	w.keystore()
	n := w.node("n1")
	n.run()
	w.person("governor")
	w.person("custodian")
	w.must(os.Mkdir(w.path("out"), 0o700))

	r, out, err := os.Pipe()
	w.must(err)
	command, err := steps.Start(steps.Options{
		Path: binary, Args: w.initArgs("certs"), Env: environment(), Dir: w.path("out"), Answers: true, Stdout: out,
		First: max(f, steps.Kill), At: at,
	})
	w.must(err)
	defer func() { w.must(command.Close()) }()
	w.must(out.Close())
	printed, err := io.ReadAll(r)
	w.must(err)
	w.must(r.Close())
	status, err := command.Wait()
	w.must(err)
	step, hit := command.At()
	if hit {
		deaths.Add(1)
		t.Logf("%s before %v: status %d", f, step, status)
	} else if status != 0 {
		t.Fatalf("init ended with status %d", status)
	}

	// What a person has now.
	w.shares = shareText.FindAll(printed, -1)
	whole := len(w.shares) == 3
	for name, as := range map[string]string{"ca.pem": "ca.pem", "governor-gabi.pem": "governor.pem", "custodian-carl.pem": "custodian.pem"} {
		raw, err := os.ReadFile(w.path("out", "certs", name))
		block, _ := pem.Decode(raw)
		if err != nil || block == nil {
			whole = false
			continue
		}
		_, err = x509.ParseCertificate(block.Bytes)
		w.must(err)
		w.must(os.WriteFile(w.path("people", as), raw, 0o600))
	}
	if !hit && !whole {
		t.Fatal("init came to its end and did not hand everything out")
	}
	state := n.initState(hit)
	switch {
	case whole && state != kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
		situationtest.Outcome(w, "crash/init-command-done")
	case state == kryptonv1.SealState_SEAL_STATE_UNINITIALIZED:
		w.must(w.again("again"))
	default:
		cmd := exec.Command(binary, w.initArgs("again")...)
		var stderr bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = environment(), &bytes.Buffer{}, &stderr // not /dev/null, where shares would be lost
		_ = cmd.Run()                                                             // its status is compared
		situationtest.Exit(w, "crash/init-answer-lost", cmd.ProcessState.ExitCode(), stderr.String())
		w.must(n.proc.Close())
		w.must(emptied(n.data()))
		n.run()
		w.must(w.again("third"))
	}
	w.must(n.proc.Close())
	n.run()
	w.must(n.contribute(w.Context(), w.shares[:2]))
	n.furnish()
	w.must(n.serves())
	w.finish()
	left, err := filepath.Glob(w.path("out", "certs", ".*"))
	w.must(err)
	if len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	return command.Disarm()
}

// initState waits until an init that the node goes on with has ended, and
// returns the node's state.
func (n *node) initState(died bool) kryptonv1.SealState {
	n.w.Helper()
	if died {
		// The trail says when a call has ended; stopping waits for it, too.
		n.proc.Signal(15)
		_, err := n.proc.Wait()
		n.w.must(err)
		n.run()
	}
	return n.state().GetState()
}

// again runs init to its end and keeps what it hands out.
func (w *world) again(out string) error {
	cmd := exec.Command(binary, w.initArgs(out)...)
	cmd.Env = environment()
	printed, err := cmd.Output()
	if err != nil {
		return err
	}
	w.shares = shareText.FindAll(printed, -1)
	for name, as := range map[string]string{"ca.pem": "ca.pem", "governor-gabi.pem": "governor.pem", "custodian-carl.pem": "custodian.pem"} {
		raw, err := os.ReadFile(w.path("out", out, name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(raw)) == "" {
			return fmt.Errorf("%s is empty", name)
		}
		if err := os.WriteFile(w.path("people", as), raw, 0o600); err != nil {
			return err
		}
	}
	return nil
}
