//go:build linux

package command

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
)

// screen is what stands on a terminal.
type screen struct {
	tty *os.File

	mu    sync.Mutex
	text  strings.Builder
	ended chan struct{}
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	master, tty := newTerminalPair(t)
	s := &screen{tty: tty, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		r := bufio.NewReader(master)
		for {
			b, err := r.ReadByte() // the master says EIO once the other side is closed
			if err != nil {
				return
			}
			s.mu.Lock()
			s.text.WriteByte(b)
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// end closes the program's side and returns all that was ever written.
func (s *screen) end(t *testing.T) string {
	t.Helper()
	if err := s.tty.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	<-s.ended
	return s.String()
}

// slow is a command line in front of a cluster whose calls end when the test says so.
type slow struct {
	env     *Env
	clk     *clock.Fake
	dir     string
	arrived chan struct{}
	release chan struct{}

	asWorkload func() // from the next command on
}

func newSlow(t *testing.T) *slow {
	t.Helper()
	s := &slow{clk: clock.NewFake(time.Unix(1e9, 0)), dir: t.TempDir(), arrived: make(chan struct{}, 64), release: make(chan struct{})}
	cluster := clienttest.Start(t, clienttest.Options{Nodes: 1})
	if err := cluster.AddService("demo", "payments"); err != nil {
		t.Fatal(err)
	}
	cert, key, err := cluster.Person("governor", "pat")
	if err != nil {
		t.Fatal(err)
	}
	appCert, appKey, err := cluster.Workload("demo", "app")
	if err != nil {
		t.Fatal(err)
	}
	cluster.Before(func(ctx context.Context, _ int, _ string, _ proto.Message) error {
		s.arrived <- struct{}{}
		select {
		case <-s.release:
		case <-ctx.Done():
		}
		return nil
	})
	vars := map[string]string{
		"XDG_CONFIG_HOME": s.dir, "KRYPTON_ADDR": cluster.Addrs()[0], "KRYPTON_CA_FILE": cluster.CAFile(),
		"KRYPTON_CERT_FILE": cert, "KRYPTON_KEY_FILE": key,
	}
	s.asWorkload = func() { vars["KRYPTON_CERT_FILE"], vars["KRYPTON_KEY_FILE"] = appCert, appKey }
	out, err := os.Create(filepath.Join(s.dir, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = out.Close(), stdin.Close() })
	s.env = &Env{
		Stdin: stdin, Stdout: out, Stderr: out, Clock: s.clk, Version: "test", cleanup: map[int]func(){},
		Getenv: func(k string) string { return vars[k] },
	}
	return s
}

// run starts a command; its exit status comes when it has ended.
func (s *slow) run(args ...string) <-chan int {
	status := make(chan int, 1)
	go func() { status <- s.env.main(Tree(), args) }()
	return status
}

// pass lets the time of the meter go on until seen holds, for a minute of it.
func (s *slow) pass(t *testing.T, seen func() bool) {
	t.Helper()
	for t.Context().Err() == nil && !seen() {
		s.clk.Advance(tick)
	}
	if !seen() {
		t.Fatal("it never came")
	}
}

// TestI7_WhatTakesLongIsTold waits for a call that hangs.
func TestI7_WhatTakesLongIsTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"tenant", "get", "demo"}, "krypton: waiting for the answer, "},
		{[]string{"tenant", "create", "acme", "--keystore", "local", "--key", "acme-l1"}, "krypton: waiting for the customer's keystore, "},
		{[]string{"status"}, "krypton: asking 1 node, "},
		{[]string{"operator", "remove", "n1", "--yes"}, "krypton: looking for node n1, "},
		{[]string{"operation", "wait", "7b3e4d0c-6d64-4f6b-9b50-3d6d2c1e1a11"}, "krypton: waiting for the change, "},
		{[]string{"seal", "--cluster", "--yes"}, "krypton: waiting for the seal, "},
	} {
		t.Run(strings.Join(tt.args[:1], " "), func(t *testing.T) {
			t.Parallel()
			s, term := newSlow(t), newScreen(t)
			s.env.Stderr = term.tty
			status := s.run(tt.args...)
			<-s.arrived
			if got := term.String(); got != "" {
				t.Errorf("at once it says %q", got)
			}
			s.pass(t, func() bool { return strings.Contains(term.String(), tt.want) })
			close(s.release)
			<-status
			got := term.end(t)
			before, after, _ := strings.Cut(got, tt.want)
			if !strings.HasSuffix(before, clearLine) || !strings.Contains(after, clearLine) || strings.HasSuffix(after, " s") {
				t.Errorf("the line is not taken away: %q", got)
			}
		})
	}
}

// TestI7_WithoutATerminalNobodyIsTold: a script's log is for errors.
func TestI7_WithoutATerminalNobodyIsTold(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	status := s.run("tenant", "get", "demo")
	<-s.arrived
	for range 100 {
		s.clk.Advance(tick)
	}
	close(s.release)
	if got := <-status; got != errs.ExitOK {
		t.Errorf("status %d", got)
	}
	out, err := os.ReadFile(s.env.Stdout.Name())
	if err != nil || strings.Contains(string(out), "waiting") || strings.Contains(string(out), "\x1b") {
		t.Errorf("%q %v", out, err)
	}
}

func TestI7_AFileSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	clk := clock.NewFake(time.Unix(1e9, 0))
	p := &input{clk: clk, begin: clk.Now(), size: 4 << 20}
	p.n.Add(1 << 20)
	clk.Advance(2 * time.Second)
	if got, want := p.progress(), "25 %, 1.0 MiB of 4.0 MiB, 512.0 KiB/s, 6 s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.size = -1
	if got, want := p.progress(), "1.0 MiB, 512.0 KiB/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.n.Store(0)
	p.size = 0
	if got, want := p.progress(), "0 B, 0 B/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestI7_EncryptingTellsHowFar hangs at the pipe that the command reads.
func TestI7_EncryptingTellsHowFar(t *testing.T) {
	t.Parallel()
	s, term := newSlow(t), newScreen(t)
	s.env.Stderr = term.tty
	close(s.release)
	s.asWorkload()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.env.Stdin = r
	status := s.run("encrypt", "--service", "demo/payments", "-", filepath.Join(s.dir, "out"))
	if _, err := w.Write(make([]byte, 1<<20)); err != nil { // more than a pipe holds: it is being read
		t.Fatal(err)
	}
	s.pass(t, func() bool { return strings.Contains(term.String(), "/s") })
	_ = w.Close()
	if got := <-status; got != errs.ExitOK {
		t.Errorf("status %d", got)
	}
	// What the pipe still held may not have been read when the line was made.
	if got := term.end(t); !regexp.MustCompile(`krypton: (9[0-9]{2}\.[0-9] K|1\.0 M)iB, `).MatchString(got) {
		t.Errorf("%q", got)
	}
}

// TestALineNeverWraps: of a line that wrapped, one half would stay.
func TestALineNeverWraps(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	m := &meter{w: &out, clk: clock.NewFake(time.Unix(1e9, 0)), width: func() int { return 20 }}
	m.watch(func() string { return strings.Repeat("é", 100) })
	m.show()
	if got := []rune(strings.TrimPrefix(out.String(), clearLine)); len(got) != 19 {
		t.Errorf("%d characters on a terminal of 20", len(got))
	}
}

// TestAQuestionIsNotWrittenOver: while a person answers, and for a while after, nothing moves.
func TestAQuestionIsNotWrittenOver(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	clk := clock.NewFake(time.Unix(1e9, 0))
	m := &meter{w: &out, clk: clk, since: clk.Now(), width: func() int { return 80 }}
	m.watch(func() string { return "busy" })
	clk.Advance(quiet)
	m.ask(func() { m.show() })
	m.show()
	if out.String() != "" {
		t.Errorf("%q", out.String())
	}
	clk.Advance(quiet)
	m.show()
	if !strings.Contains(out.String(), "busy") {
		t.Errorf("after the answer it is silent: %q", out.String())
	}
}

// TestACiphertextDoesNotGoToATerminal, and nothing was asked of the cluster by then.
func TestACiphertextDoesNotGoToATerminal(t *testing.T) {
	t.Parallel()
	s, term := newSlow(t), newScreen(t)
	s.env.Stdout = term.tty
	stderr, err := os.Create(filepath.Join(s.dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	s.env.Stderr = stderr
	status := <-s.run("encrypt", "--service", "demo/payments")
	text, err := os.ReadFile(stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	situationtest.Exit(t, "cli/output-terminal", status, string(text))
	if got := term.end(t); got != "" || len(s.arrived) > 0 {
		t.Errorf("stdout has %q, %d calls", got, len(s.arrived))
	}
}

// TestWhatATerminalIsReadForIsSaid: without a word the command would look as if it hung.
func TestWhatATerminalIsReadForIsSaid(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	master, tty := newTerminalPair(t)
	s.env.Stdin = tty
	s.asWorkload()
	close(s.release)
	status := s.run("encrypt", "--service", "demo/payments", "--out", filepath.Join(s.dir, "out"))
	if _, err := io.WriteString(master, "hello\n\x04"); err != nil { // Ctrl-D
		t.Fatal(err)
	}
	<-status
	out, err := os.ReadFile(s.env.Stderr.Name())
	if err != nil || !strings.Contains(string(out), "krypton: reading what you type; Ctrl-D ends it") {
		t.Errorf("%q %v", out, err)
	}
}

// TestI5_NoIsNo answers the question with something else than yes.
func TestI5_NoIsNo(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	master, tty := newTerminalPair(t)
	s.env.Stdin = tty
	close(s.release)
	status := s.run("tenant", "delete", "demo")
	if _, err := io.WriteString(master, "y\n"); err != nil {
		t.Fatal(err)
	}
	got := <-status
	text, err := os.ReadFile(s.env.Stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	question, answer, ok := strings.Cut(string(text), "Type yes to go on: ")
	if !ok || !strings.Contains(question, "everything of tenants/demo that was ever encrypted is lost") {
		t.Errorf("the question is %q", question)
	}
	situationtest.Exit(t, "cli/declined", got, answer)
	if len(s.arrived) > 0 {
		t.Error("a call was made")
	}
}

// TestI5_WhoApprovesIsAsked shows what is signed, and signs for a yes alone.
func TestI5_WhoApprovesIsAsked(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]struct {
		status, signatures int
	}{"yes\n": {errs.ExitOK, 2}, "y\n": {errs.ExitInterrupted, 1}, "\x04": {errs.ExitInterrupted, 1}} {
		d := newDoor(t, destroyByOthers())
		a := d.asks(t, intent.Destroy{Tenant: "demo"}.Request(), "gabi", nil)
		master, tty := newTerminalPair(t)
		d.stdin = tty
		if _, err := io.WriteString(master, answer); err != nil {
			t.Fatal(err)
		}
		got := d.run(t, "gerd", "approval", "approve", a.GetName())
		shown, after, ok := strings.Cut(got.stderr, "krypton: you sign what stands above, which governor/gabi asks for, for keyspace "+clienttest.KeyspaceID+", as the nodes say. Type yes to go on: ")
		if got.status != want.status || !ok || !strings.Contains(shown, `tenant: "demo"`) {
			t.Errorf("%q: %+v", answer, got)
		}
		if want.status != errs.ExitOK {
			for _, bad := range situationtest.ExitDiff("cli/declined", got.status, after) {
				t.Error(bad)
			}
		}
		now, err := d.client(t, "gerd").Approvals().GetApproval(t.Context(), &kryptonv1.GetApprovalRequest{Name: a.GetName()})
		if err != nil || len(now.GetSignatures()) != want.signatures {
			t.Errorf("%q: %v, signatures %v", answer, err, now.GetSignatures())
		}
	}
}
