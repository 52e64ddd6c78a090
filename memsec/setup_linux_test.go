package memsec_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/memsec/reveal"
)

// Setup and the limits are once per process, so these tests execute the test
// binary again: childEnv names what it runs instead of the tests, limitEnv the
// soft and hard limit in bytes that it takes on first.
const (
	childEnv = "MEMSEC_TEST_CHILD"
	limitEnv = "MEMSEC_TEST_MEMLOCK"
)

func TestMain(m *testing.M) {
	if limit := os.Getenv(limitEnv); limit != "" {
		panic(restrict(limit))
	}
	if name := os.Getenv(childEnv); name != "" {
		c := &checker{}
		children[name].run(c)
		os.Exit(c.failed)
	}
	os.Exit(m.Run())
}

// restrict takes on the limit and gives up the capability that lifts it.
// Capabilities belong to threads, so the process executes itself once more;
// restrict returns only when something failed.
func restrict(limit string) error {
	var l unix.Rlimit
	if _, err := fmt.Sscan(limit, &l.Cur, &l.Max); err != nil {
		return err
	}
	runtime.LockOSThread()
	// Refused to a process that has no privilege to lose.
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_IPC_LOCK, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return err
	}
	if err := os.Unsetenv(limitEnv); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

type checker struct{ failed int }

func (c *checker) is(ok bool, format string, args ...any) {
	if !ok {
		c.failed = 1
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

const (
	kib  = 1 << 10
	many = "8388608 8388608" // the default of systemd and of the kernel
)

var children = map[string]struct {
	limit string // soft and hard
	run   func(c *checker)
}{
	"hardens and locks": {many, func(c *checker) {
		s, err := memsec.Setup(memsec.Options{Require: memsec.TierMlock, LockBytes: 100 * kib})
		c.is(err == nil, "Setup: %v", err)
		c.is(s.Tier == memsec.TierMlock && s.Hardened && s.LimitBytes == 8192*kib, "%+v", s)
		c.is(s.LockedBytes >= 100*kib && s.LockedBytes <= 100*kib+os.Getpagesize(), "%+v", s)
		c.is(s == memsec.Report(), "Report differs from Setup: %+v", memsec.Report())
		var l unix.Rlimit
		c.is(unix.Getrlimit(unix.RLIMIT_CORE, &l) == nil && l == unix.Rlimit{}, "core limit %+v", l)
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		c.is(err == nil && dumpable == 0, "dumpable %d, %v", dumpable, err)
		_, err = memsec.Setup(memsec.Options{})
		c.is(errs.Is(err, errs.FailedState), "second Setup: %v", err)
		// What was locked at the start is the bound, and all of it serves.
		n := 0
		for ; ; n++ {
			if _, err = memsec.Random(rand.Reader, memsec.MaxLen, memsec.Hot); err != nil {
				break
			}
		}
		c.is(errors.Is(err, memsec.ErrBudget) && errs.Is(err, errs.Unavailable), "exhausted: %v", err)
		c.is(n >= 21 && n <= 25, "%d keys of 4 KiB in 100 KiB", n)
		c.is(memsec.Report().LockedBytes == s.LockedBytes, "grew to %+v", memsec.Report())
	}},
	"raises the soft limit": {"16384 1048576", func(c *checker) {
		s, err := memsec.Setup(memsec.Options{Require: memsec.TierMlock, LockBytes: 512 * kib})
		c.is(err == nil && s.LimitBytes == 1024*kib && s.LockedBytes == 512*kib, "%+v, %v", s, err)
	}},
	"names limit, need and setting": {"262144 262144", func(c *checker) {
		_, err := memsec.Setup(memsec.Options{LockBytes: 1024 * kib})
		need := 1024*kib + 8*os.Getpagesize()
		c.is(errs.Is(err, errs.InvalidConfig) && errors.Is(err, memsec.ErrBudget), "Setup: %v", err)
		for _, word := range []string{"262144 bytes", fmt.Sprint(need), fmt.Sprintf("LimitMEMLOCK=%d", need), fmt.Sprintf("ulimit -l %d", need/kib)} {
			c.is(err != nil && strings.Contains(err.Error(), word), "no %q in %v", word, err)
		}
	}},
	"cannot lock at all": {"0 0", func(c *checker) {
		s, err := memsec.Random(rand.Reader, 32, memsec.Hot)
		c.is(err == nil && s.Len() == 32 && memsec.Report().Tier == memsec.TierNone && memsec.Report().LockedBytes == 0,
			"%v, %+v", err, memsec.Report())
		_, err = memsec.Random(rand.Reader, 32, memsec.Cold)
		c.is(errors.Is(err, memsec.ErrBudget), "a cold secret: %v", err)
		_, err = memsec.Setup(memsec.Options{Require: memsec.TierMlock})
		c.is(errs.Is(err, errs.InvalidConfig) && strings.Contains(err.Error(), "LimitMEMLOCK="), "Setup: %v", err)
	}},
	"refuses a tier that is not there": {many, func(c *checker) {
		_, err := memsec.Setup(memsec.Options{Require: "best"})
		c.is(errs.Is(err, errs.InvalidConfig) && strings.Contains(err.Error(), `"best"`), "unknown: %v", err)
		_, err = memsec.Setup(memsec.Options{LockBytes: -1})
		c.is(errs.Is(err, errs.InvalidConfig), "negative: %v", err)
		s, err := memsec.Setup(memsec.Options{Require: memsec.TierSecretMem})
		c.is(errs.Is(err, errs.InvalidConfig) && strings.Contains(err.Error(), "secretmem"), "secretmem: %v", err)
		c.is(s.Tier == memsec.TierMlock, "%+v", s)
	}},
	"takes any tier": {many, func(c *checker) {
		s, err := memsec.Setup(memsec.Options{Require: memsec.TierNone})
		c.is(err == nil && s.Tier == memsec.TierMlock && s.Hardened, "%+v, %v", s, err)
	}},
	"keeps room for the enclaves": {"131072 131072", func(c *checker) {
		cold, err := memsec.Take([]byte(sentinel), memsec.Cold)
		c.is(err == nil, "%v", err)
		var all []memsec.Secret
		for err == nil {
			var s memsec.Secret
			if s, err = memsec.Random(rand.Reader, memsec.KeySize, memsec.Hot); err == nil {
				all = append(all, s)
			}
		}
		c.is(errors.Is(err, memsec.ErrBudget), "hot keys end with %v", err)
		c.is(len(all) >= 1000, "only %d keys in 128 KiB", len(all))
		for _, s := range all[1:] {
			s.Destroy()
		}
		_, err = memsec.MAC(cold)
		c.is(err == nil, "the enclave does not open: %v", err)

		// Something else of the process locks what is left: memguard would
		// panic, or hang with one page left. Each size must be an answer.
		for pages := 1; pages <= 32; pages++ {
			mem, err := unix.Mmap(-1, 0, pages*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			c.is(err == nil, "%v", err)
			locked := unix.Mlock(mem) == nil
			got := ""
			err = reveal.With(cold, func(b []byte) error { got = string(b); return nil })
			c.is(errors.Is(err, memsec.ErrBudget) || (err == nil && got == sentinel), "%d pages gone (%v): %v", pages, locked, err)
			c.is(unix.Munmap(mem) == nil, "munmap")
		}
		_, err = memsec.MAC(cold)
		c.is(err == nil, "the enclave does not open again: %v", err)
	}},
}

func TestI4_SetupAndLimits(t *testing.T) {
	for name, ch := range children {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+name, limitEnv+"="+ch.limit)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
