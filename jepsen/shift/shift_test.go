//go:build linux && (amd64 || arm64)

package shift_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/jepsen/shift"
)

// program is the environment variable that makes the test binary a program which
// says what time it is.
const program = "SHIFT_TEST_PROGRAM"

func TestMain(m *testing.M) {
	shift.Shim()
	switch os.Getenv(program) {
	case "":
		os.Exit(m.Run())
	case "times":
		tellTimes()
	case "wait":
		fmt.Println("ready")
		time.Sleep(time.Hour)
	}
}

// tellTimes prints the wall clock as many threads read it, then how long a
// hundredth of a second took, in ns.
func tellTimes() {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range 8 {
		wg.Go(func() {
			for range 50 {
				now := time.Now().UnixNano()
				mu.Lock()
				fmt.Println(now)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	begun := time.Now()
	time.Sleep(10 * time.Millisecond)
	fmt.Println("took", int64(time.Since(begun)))
	fmt.Println("args", strings.Join(os.Args[1:], " "), os.Getenv("OWN"))
	os.Exit(7)
}

func start(t *testing.T, mode string, by time.Duration) (*shift.Process, *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	p, err := shift.Start(shift.Options{Path: self, Args: []string{"a", "b c"}, Env: []string{program + "=" + mode, "OWN=own"}, By: by, Stdout: w, Stderr: os.Stderr})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return p, bufio.NewReader(r)
}

func TestI2_EveryThreadReadsAnotherTimeAndWaitsAsLong(t *testing.T) {
	for _, by := range []time.Duration{0, 61 * 24 * time.Hour, -400 * 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			before := time.Now()
			p, out := start(t, "times", by)
			all, err := io.ReadAll(out)
			if err != nil {
				t.Fatal(err)
			}
			status, err := p.Wait()
			if status != 7 || err != nil { // I1
				t.Fatalf("status %d, %v", status, err)
			}
			after := time.Now()
			lines := strings.Split(strings.TrimSpace(string(all)), "\n")
			if len(lines) != 402 || lines[401] != "args a b c own" {
				t.Fatalf("%d lines, the last %q", len(lines), lines[len(lines)-1])
			}
			for _, l := range lines[:400] {
				n, err := strconv.ParseInt(l, 10, 64)
				if at := time.Unix(0, n).Add(-by); err != nil || at.Before(before) || at.After(after) {
					t.Fatalf("%q is %s", l, at)
				}
			}
			if took, err := strconv.ParseInt(strings.TrimPrefix(lines[400], "took "), 10, 64); err != nil || took < 10e6 || took > int64(after.Sub(before)) {
				t.Errorf("%q", lines[400])
			}
		})
	}
}

func TestAProgramIsEndedBySignals(t *testing.T) {
	p, out := start(t, "wait", time.Hour)
	if l, err := out.ReadString('\n'); l != "ready\n" {
		t.Fatal(l, err)
	}
	p.Signal(syscall.SIGTERM)
	if status, err := p.Wait(); status != -1 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestWhatCannotBeRunSaysSo(t *testing.T) {
	if p, err := shift.Start(shift.Options{Path: "/nowhere"}); err == nil {
		t.Fatal("it runs", p)
	}
}
