//go:build unix

package dev_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/command"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/dev"
	"github.com/openkcm/krypton-cluster/cmd/krypton/internal/serve"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/pages"
)

// playVar makes the test binary be the program: `krypton dev` starts itself as
// the nodes, so no other binary is needed.
const playVar = "DEV_TEST_PLAY_KRYPTON"

func TestMain(m *testing.M) {
	if os.Getenv(playVar) != "" {
		os.Exit(command.Main("test", os.Args[1:], command.Native(serve.Command("test")), command.Native(dev.Command())))
	}
	os.Exit(m.Run())
}

// home is a directory of a person who has nothing yet.
func home(t *testing.T) string {
	t.Helper()
	// Not t.TempDir, whose paths are too long for the unix sockets of a cluster.
	dir, err := os.MkdirTemp("", "kdev") //nolint:usetesting // See above.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func krypton(ctx context.Context, home string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"TMPDIR=" + filepath.Join(home, "tmp"), playVar + "=1",
		"GORACE=atexit_sleep_ms=0", // else every command waits for a second before it exits
	}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// running is a `krypton dev` that was started.
type running struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr *bytes.Buffer
}

func start(t *testing.T, home string, args ...string) *running {
	t.Helper()
	r := &running{cmd: krypton(t.Context(), home, append([]string{"dev"}, args...)...), stderr: &bytes.Buffer{}}
	r.cmd.Stderr = r.stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.out = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("stderr: %s", r.stderr)
		}
	})
	return r
}

// interrupt is Ctrl-C. It returns the rest of stdout.
func (r *running) interrupt(t *testing.T) string {
	t.Helper()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r.out)
	if err != nil {
		t.Error(err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	return string(rest)
}

// ready is what the tests read of the JSON result.
type ready struct {
	DevelopmentOnly             bool
	Dir, CAFile, CurrentContext string
	Nodes                       []struct {
		Name, Ops, REST string
		PID             int
	}
	People []struct{ Role, Context, CertFile, KeyFile string }
}

func (r *running) ready(t *testing.T) ready {
	t.Helper()
	line, err := r.out.ReadString('\n')
	if err != nil {
		t.Fatalf("no result: %v", err)
	}
	var got ready
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return got
}

func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("I1: %s stays", filepath.Join(dir, e.Name()))
	}
}

func TestI1_AnotherTerminalWorksAndNothingIsLeft(t *testing.T) {
	h := home(t)
	r := start(t, h, "--output", "json")
	got := r.ready(t)
	if !got.DevelopmentOnly || len(got.Nodes) != 3 || len(got.People) != 5 || got.CurrentContext != "dev-workload" {
		t.Errorf("got %+v", got)
	}
	for _, n := range got.Nodes {
		resp, err := http.Get("http://" + n.Ops + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s is not ready: %s", n.Name, resp.Status)
		}
	}

	// Without exporting or selecting anything.
	enc := krypton(t.Context(), h, "encrypt", "--service", "demo/payments")
	enc.Stdin = strings.NewReader("hello\n")
	sealed, err := enc.Output()
	if err != nil {
		t.Fatal(err)
	}
	decrypt := krypton(t.Context(), h, "decrypt", "--service", "demo/payments")
	decrypt.Stdin = bytes.NewReader(sealed)
	if plain, err := decrypt.Output(); err != nil || string(plain) != "hello\n" {
		t.Fatalf("got %q: %v", plain, err)
	}
	// Each context is the role that it says.
	for _, p := range got.People {
		out, err := krypton(t.Context(), h, "whoami", "--context", p.Context, "--output", "json").Output()
		if err != nil || !strings.Contains(strings.ToLower(string(out)), p.Role) {
			t.Errorf("%s is %s: %v", p.Context, out, err)
		}
	}

	// One node may die; the command tells of it and goes on.
	if err := syscall.Kill(got.Nodes[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	decrypt = krypton(t.Context(), h, "decrypt", "--service", "demo/payments")
	decrypt.Stdin = bytes.NewReader(sealed)
	if plain, err := decrypt.Output(); err != nil || string(plain) != "hello\n" {
		t.Fatalf("with a dead node: got %q: %v", plain, err)
	}

	if rest := r.interrupt(t); rest != "" {
		t.Errorf("I3: stdout also has %q", rest)
	}
	if !strings.Contains(r.stderr.String(), "krypton: n1 ended (signal: killed), 2 of 3 nodes are left") {
		t.Error("the death of n1 is not told of")
	}
	for _, n := range got.Nodes {
		if err := syscall.Kill(n.PID, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("I1: process %d stays: %v", n.PID, err)
		}
	}
	empty(t, filepath.Join(h, "tmp"))
	empty(t, filepath.Join(h, "config", "krypton"))
}

// curlLine is the command for curl in the text that a person sees.
var curlLine = regexp.MustCompile(`curl --cacert (\S+) --cert (\S+) --key (\S+) (https://\S+) --data '([^']+)'`)

// path returns a PATH that has krypton.
func path(t *testing.T, home string) string {
	t.Helper()
	bin := filepath.Join(home, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "krypton"), []byte("#!/bin/sh\nexec '"+os.Args[0]+"' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return bin + ":" + os.Getenv("PATH")
}

// shell runs a line as a person types it who has krypton in the PATH.
func shell(t *testing.T, home, line string) (stdout string) {
	t.Helper()
	cmd := krypton(t.Context(), home)
	cmd.Path, cmd.Args, cmd.Dir = "/bin/sh", []string{"sh", "-c", line}, home
	cmd.Env[0] = "PATH=" + path(t, home)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v: %s", line, err, &stderr)
	}
	return out.String()
}

// readmeSession is the block of README.md that a newcomer types in a second
// terminal. A comment behind a line of decrypt is what it prints.
func readmeSession(t *testing.T) (lines []string) {
	t.Helper()
	for _, b := range pages.Read(t, "../../../../README.md").Blocks {
		if !b.Runs("sh") || !strings.HasPrefix(b.Lead, "In another terminal") {
			continue
		}
		for line := range strings.Lines(b.Text) {
			lines = append(lines, strings.TrimSpace(line))
		}
		return lines
	}
	t.Fatal("README.md has no session for another terminal")
	return nil
}

func TestEveryPrintedCommandWorks(t *testing.T) {
	h := home(t)
	r := start(t, h, "--nodes", "1")
	var m, commands []string
	var text strings.Builder
	for m == nil {
		line, err := r.out.ReadString('\n')
		if err != nil {
			t.Fatalf("no curl line in %q: %v", &text, err)
		}
		text.WriteString(line)
		if strings.HasPrefix(line, "  ") && strings.Contains(line, "krypton ") && !strings.Contains(line, "curl") {
			commands = append(commands, strings.TrimSpace(line))
		}
		m = curlLine.FindStringSubmatch(line)
	}
	if !strings.HasPrefix(text.String(), "DEVELOPMENT ONLY") {
		t.Errorf("the warning does not come first: %q", &text)
	}
	if len(commands) < 4 {
		t.Errorf("only %q are printed", commands)
	}
	for _, line := range commands {
		shell(t, h, line)
	}
	session := readmeSession(t)
	if len(session) < 3 {
		t.Errorf("the session in README.md has only %q", session)
	}
	for _, line := range session {
		out := shell(t, h, line)
		if command, want, ok := strings.Cut(line, "#"); ok && strings.Contains(command, "decrypt") && strings.TrimSpace(out) != strings.TrimSpace(want) {
			t.Errorf("README.md: %s prints %q, not %q", command, out, want)
		}
	}
	ca, err := os.ReadFile(m[1])
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(m[2], m[3])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Post(m[4], "application/x-www-form-urlencoded", strings.NewReader(m[5])) // as curl sends it
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "ciphertext") {
		t.Fatalf("%s: %s, %v", resp.Status, body, err)
	}
	r.interrupt(t)
	empty(t, filepath.Join(h, "tmp"))
}

func TestADirectoryKeepsTheData(t *testing.T) {
	h := home(t)
	dir := filepath.Join(h, "kept")
	r := start(t, h, "--nodes", "1", "--output", "json", "--dir", dir)
	r.ready(t)
	enc := krypton(t.Context(), h, "encrypt")
	enc.Stdin = strings.NewReader("hello\n")
	sealed, err := enc.Output()
	if err != nil {
		t.Fatal(err)
	}
	r.interrupt(t)

	r = start(t, h, "--nodes", "1", "--output", "json", "--dir", dir)
	if got := r.ready(t); got.Dir != dir {
		t.Errorf("runs in %s", got.Dir)
	}
	decrypt := krypton(t.Context(), h, "decrypt")
	decrypt.Stdin = bytes.NewReader(sealed)
	if plain, err := decrypt.Output(); err != nil || string(plain) != "hello\n" {
		t.Fatalf("got %q: %v", plain, err)
	}
	r.interrupt(t)
	empty(t, filepath.Join(h, "config", "krypton"))
}

func TestI1_CtrlCWhileItStartsLeavesNothing(t *testing.T) {
	h := home(t)
	r := start(t, h)
	// Once its directory is there, it is on its way.
	for {
		if left, err := os.ReadDir(filepath.Join(h, "tmp")); err == nil && len(left) > 0 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
	}
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r.out)
	if err != nil || len(out) > 0 {
		t.Errorf("I3: stdout has %q: %v", out, err)
	}
	var status *exec.ExitError
	if err := r.cmd.Wait(); !errors.As(err, &status) || status.ExitCode() != errs.ExitInterrupted {
		t.Errorf("ended with %v, want status %d", err, errs.ExitInterrupted)
	}
	empty(t, filepath.Join(h, "tmp"))
	empty(t, filepath.Join(h, "config", "krypton"))
}

func TestWrongUseIsRefusedBeforeAnythingStarts(t *testing.T) {
	for name, args := range map[string][]string{
		"nodes":  {"--nodes", "2"},
		"output": {"--output", "xml"},
	} {
		t.Run(name, func(t *testing.T) {
			h := home(t)
			out, err := krypton(t.Context(), h, append([]string{"dev"}, args...)...).Output()
			var status *exec.ExitError
			if !errors.As(err, &status) || status.ExitCode() != errs.ExitUsage || len(out) > 0 {
				t.Errorf("stdout %q, %v", out, err)
			}
			empty(t, filepath.Join(h, "tmp"))
		})
	}
}
