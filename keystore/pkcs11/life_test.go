//go:build unix && !nopkcs11

package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/keystore/pkcs11"
	"github.com/openkcm/krypton-cluster/memsec"
)

var theSecret = []byte("a secret of 32 bytes, to be sure")

func TestI3_AHelperKilledInTheMiddleOfACallIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	s := w.secret(theSecret)
	blob := w.wrap("k", s).Blob
	hangs, err := w.token.Hangs()
	must(t, err)
	defer hangs.Close()
	for range 3 {
		pid := w.helper()
		mend, err := w.token.Break(hsm.Hang)
		must(t, err)
		failed := make(chan error, 4)
		for range cap(failed) {
			go func() { failed <- w.tryUnwrap("k", blob) }()
		}
		for range cap(failed) { // all are in the library now
			_, err := hangs.Read(make([]byte, 1))
			must(t, err)
		}
		must(t, mend())
		mend, err = w.token.Break(hsm.Slow(1)) // no hang for the next helper
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		for range cap(failed) {
			if err := <-failed; err != nil { // it may have come back before the signal
				w.is(err, keystore.Unavailable, "the helper program ended: signal: killed")
			}
		}
		w.opens("k", blob, s)
		must(t, mend())
	}
}

// What is killed while many use it costs the calls that are in it, each as
// Unavailable, and never a wrong secret.
func TestI3_SixteenCallersAndAHelperThatDiesAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, map[string]string{"max_sessions": "16"})
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	secrets, blobs := make([]memsec.Secret, 16), make([][]byte, 16)
	for i := range secrets {
		secrets[i] = w.secret(bytes.Repeat([]byte{byte(i + 1)}, 32))
		blobs[i] = w.wrap("k", secrets[i]).Blob
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range secrets {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := w.p.Unwrap(w.ctx, keystore.UnwrapRequest{Key: "k", Blob: blobs[i], AAD: aad, Class: memsec.Hot})
				if err != nil {
					if keystore.ClassOf(err) != keystore.Unavailable {
						t.Errorf("caller %d: %v", i, err)
						return
					}
					continue
				}
				if same, err := memsec.Equal(res.Secret, secrets[i]); err != nil || !same {
					t.Errorf("caller %d got another secret (%v)", i, err)
				}
				res.Secret.Destroy()
			}
		})
	}
	for range 5 {
		must(t, syscall.Kill(w.helper(), syscall.SIGKILL))
	}
	w.helper() // the one after the last kill
	close(stop)
	wg.Wait()
	for i := range secrets {
		w.opens("k", blobs[i], secrets[i])
	}
}

func TestI3_AHelperThatIsStoppedIsEndedAndReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, map[string]string{"late": "300ms"})
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	s := w.secret(theSecret)
	blob := w.wrap("k", s).Blob
	must(t, syscall.Kill(w.helper(), syscall.SIGSTOP))
	w.is(w.tryUnwrap("k", blob), keystore.Unavailable, "did not come back")
	w.opens("k", blob, s)
}

func TestI3_ALibraryThatHangsIsEndedAndOthersWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, map[string]string{"late": "300ms"})
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	s := w.secret(theSecret)
	blob := w.wrap("k", s).Blob
	first := w.helper()
	mend, err := w.token.Break(hsm.Hang)
	must(t, err)
	w.is(w.tryUnwrap("k", blob), keystore.Unavailable, "did not come back")
	must(t, mend())
	w.opens("k", blob, s)
	if w.helper() == first {
		t.Error("the helper that hung is still used")
	}
}

// A caller that leaves early does not take the helper from the others.
func TestI5_ACallThatIsCancelledLeavesTheHelperAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	s := w.secret(theSecret)
	blob := w.wrap("k", s).Blob
	w.helper()
	hangs, err := w.token.Hangs()
	must(t, err)
	defer hangs.Close()
	mend, err := w.token.Break(hsm.Hang)
	must(t, err)
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() {
		_, err := w.p.Unwrap(ctx, keystore.UnwrapRequest{Key: "k", Blob: blob, AAD: aad, Class: memsec.Hot})
		done <- err
	}()
	_, err = hangs.Read(make([]byte, 1))
	must(t, err)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	must(t, mend())
	w.opens("k", blob, s)
	select {
	case pid := <-w.log.helpers:
		t.Errorf("helper %d was started in place of one that was well", pid)
	default:
	}
}

func TestTheHelperEndsWithTheProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{Faults: true}, nil)
	must(t, w.token.NewAES(w.ctx, "k", hsm.All))
	blob := w.wrap("k", w.secret(theSecret)).Blob
	pid := w.helper()
	hangs, err := w.token.Hangs()
	must(t, err)
	defer hangs.Close()
	_, err = w.token.Break(hsm.Hang)
	must(t, err)
	failed := make(chan error, 1)
	go func() { failed <- w.tryUnwrap("k", blob) }()
	_, err = hangs.Read(make([]byte, 1))
	must(t, err)
	must(t, w.p.Close())
	w.is(<-failed, keystore.Unavailable, "closed")
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

// Neither argument nor environment of the helper has anything but what is
// configured, and neither has its memory, once a call is over: not the secret
// that crossed, not the PIN.
func TestI4_TheHelperKeepsNothing(t *testing.T) {
	t.Parallel()
	const marker = "a variable of the node"
	for _, mechanism := range []string{"aes-gcm", "aes-kwp"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, hsm.Options{}, map[string]string{"mechanism": mechanism, "max_sessions": "2"})
			must(t, w.token.NewAES(w.ctx, "k", hsm.All))
			s := w.secret(theSecret)
			for range 20 {
				blob := w.wrap("k", s).Blob
				w.opens("k", blob, s)
			}
			must(t, w.p.Health(w.ctx, "")) // the frames before this answer are wiped
			dir := fmt.Sprintf("/proc/%d", w.helper())
			if os.Geteuid() != 0 {
				// Another process of the same user cannot even look.
				for _, name := range []string{"environ", "mem"} {
					if _, err := os.ReadFile(filepath.Join(dir, name)); !errors.Is(err, fs.ErrPermission) {
						t.Errorf("%s of the helper: %v", name, err)
					}
				}
				return
			}
			for _, name := range []string{"cmdline", "environ"} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				must(t, err)
				for _, word := range []string{hsm.PIN, string(theSecret), "PATH=", "HOME=", marker} {
					if bytes.Contains(b, []byte(word)) {
						t.Errorf("%s has %q: %q", name, word, b)
					}
				}
			}
			limits, err := os.ReadFile(filepath.Join(dir, "limits"))
			must(t, err)
			if !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
				t.Errorf("core dumps are allowed:\n%s", limits)
			}
			for what, word := range map[string][]byte{"half the secret": theSecret[:16], "the other half": theSecret[16:], "the PIN": []byte(hsm.PIN)} {
				if n := inMemory(t, dir, word); n > 0 {
					t.Errorf("%s stands in the helper's memory %d times after the calls", what, n)
				}
			}
			// The search finds what is there.
			if n := inMemory(t, dir, []byte(w.token.PINFile)); n == 0 {
				t.Error("the search through the memory finds nothing")
			}
			if log := w.log.text(); bytes.Contains(log, []byte(hsm.PIN)) || bytes.Contains(log, theSecret) {
				t.Errorf("the log has it: %s", log)
			}
		})
	}
}

// inMemory counts where word stands in the writable memory of a process.
func inMemory(t *testing.T, dir string, word []byte) int {
	t.Helper()
	maps, err := os.ReadFile(filepath.Join(dir, "maps"))
	must(t, err)
	mem, err := os.Open(filepath.Join(dir, "mem"))
	must(t, err)
	defer mem.Close()
	n := 0
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(access, "rw") || to-from > 1<<30 {
			continue
		}
		b := make([]byte, to-from)
		if got, err := mem.ReadAt(b, int64(from)); err == nil || got > 0 {
			n += bytes.Count(b[:got], word)
		}
	}
	return n
}

func TestTheProgramsAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, hsm.Options{}, nil)
	for name, c := range map[string]struct {
		settings map[string]string
		class    keystore.Class
		text     string
	}{
		"no helper":              {map[string]string{"helper": "/nowhere/krypton-pkcs11"}, keystore.Misconfigured, "helper"},
		"relative helper":        {map[string]string{"helper": "krypton-pkcs11"}, keystore.Misconfigured, "an absolute path"},
		"no module":              {map[string]string{"module": "/nowhere/lib.so"}, keystore.Misconfigured, "module"},
		"relative PIN file":      {map[string]string{"pin_file": "pin"}, keystore.Misconfigured, "an absolute path"},
		"two names of the token": {map[string]string{"serial": "1"}, keystore.Misconfigured, "either token"},
		"mechanism":              {map[string]string{"mechanism": "des"}, keystore.Misconfigured, "mechanism"},
		"sessions":               {map[string]string{"max_sessions": "65"}, keystore.Misconfigured, "1 to 64"},
		"late":                   {map[string]string{"late": "-1s"}, keystore.Misconfigured, "late"},
		"environment":            {map[string]string{"environment": "A=b,C"}, keystore.Misconfigured, "entry 2"},
		"loader":                 {map[string]string{"environment": "LD_PRELOAD=/x.so"}, keystore.Misconfigured, "LD_PRELOAD"},
		"misspelt":               {map[string]string{"pinfile": "/pin"}, keystore.Misconfigured, "unknown setting"},
	} {
		cfg := w.token.Config("hsm")
		maps.Copy(cfg.Settings, c.settings)
		p, err := pkcs11.New(w.ctx, w.env(), cfg)
		if err == nil {
			t.Errorf("%s: opened", name)
			must(t, p.Close())
			continue
		}
		w.is(err, c.class, c.text)
	}
	// A module that is none, and a token that is not there, show at the first call.
	for name, c := range map[string]struct {
		settings map[string]string
		class    keystore.Class
		text     string
	}{
		"not a library":   {map[string]string{"module": w.token.PINFile}, keystore.Misconfigured, "not a PKCS#11 library"},
		"not the helper":  {map[string]string{"helper": "/bin/true"}, keystore.Unavailable, "the helper program ended"},
		"another token":   {map[string]string{"token": "another"}, keystore.Unavailable, "no initialised token"},
		"no such PINfile": {map[string]string{"pin_file": "/nowhere/pin"}, keystore.Misconfigured, "the PIN file cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, w.env(), w.token, c.settings)
			w.is(p.Health(w.ctx, ""), c.class, c.text)
		})
	}
}
