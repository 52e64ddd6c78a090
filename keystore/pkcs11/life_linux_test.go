//go:build !nopkcs11

package pkcs11_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11"
)

// nodeEnv makes the test binary a "node": a process with one provider, whose
// settings are its value, that tells the pid of its helper and waits.
const nodeEnv = "KRYPTON_TEST_PKCS11_NODE"

func runNode(text string) error {
	cfg := keystore.Config{Name: "hsm", Type: pkcs11.Type}
	if err := json.Unmarshal([]byte(text), &cfg.Settings); err != nil {
		return err
	}
	log := &logs{helpers: make(chan int, 1)}
	env := keystore.Env{Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Rand: rand.Reader, Clock: clock.System{}}
	p, err := pkcs11.New(context.Background(), env, cfg)
	if err != nil {
		return err
	}
	if err := p.Health(context.Background(), ""); err != nil {
		return err
	}
	fmt.Println(<-log.helpers)
	_, err = bufio.NewReader(os.Stdin).ReadString('\n') // for ever
	return errors.Join(err, p.Close())
}

// A node that is killed takes its helper with it, also one that is stopped and
// could not read the end of its descriptor.
func TestTheHelperEndsWithTheNode(t *testing.T) {
	t.Parallel()
	s := startToken(t, hsm.Options{})
	settings, err := json.Marshal(s.Settings())
	must(t, err)
	for _, stopped := range []bool{false, true} {
		self, err := os.Executable()
		must(t, err)
		node := exec.CommandContext(t.Context(), self)
		node.Env = append(os.Environ(), nodeEnv+"="+string(settings))
		node.Stderr = os.Stderr
		_, err = node.StdinPipe() // open until the node has ended
		must(t, err)
		out, err := node.StdoutPipe()
		must(t, err)
		must(t, node.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		must(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		must(t, err)
		helper, err := unix.PidfdOpen(pid, 0)
		must(t, err)
		if stopped {
			must(t, syscall.Kill(pid, syscall.SIGSTOP))
		}
		must(t, node.Process.Kill())
		if err := node.Wait(); err == nil {
			t.Error("the node was killed and ended well")
		}
		ends := []unix.PollFd{{Fd: int32(helper), Events: unix.POLLIN}}
		n, err := unix.Poll(ends, int(patience.Milliseconds()))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(ends, int(patience.Milliseconds()))
		}
		if n != 1 || err != nil {
			t.Errorf("stopped %v: the helper outlived its node (%v)", stopped, err)
		}
		must(t, unix.Close(helper))
	}
}

// What a person starts by mistake says what it is.
func TestTheHelperIsNotForPeople(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"--pin", "1234"}} {
		out, err := exec.CommandContext(t.Context(), programs+"/krypton-pkcs11", args...).CombinedOutput()
		var end *exec.ExitError
		if !errors.As(err, &end) || end.ExitCode() != 2 || !strings.Contains(string(out), "docs/keystores/pkcs11.md") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), programs+"/krypton-pkcs11", "--version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "krypton-pkcs11 ") {
		t.Errorf("%v: %s", err, out)
	}
}
