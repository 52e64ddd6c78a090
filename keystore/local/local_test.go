//go:build unix

package local_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/local"
	"github.com/openkcm/krypton-cluster/memsec"
)

func TestConformance(t *testing.T) {
	keystoretest.Test(t, keystoretest.Config{
		Name: "dev", Type: local.Type, Component: keystoretest.Component{Name: "files", Version: "1", Origin: keystoretest.Real},
		Create: func(t *testing.T, env keystoretest.Env) keystoretest.Fixture {
			t.Helper()
			dir := filepath.Join(t.TempDir(), "ks")
			owner := create(t, env.Env, dir)
			do := func(f func(context.Context, keystore.KeyRef) error) func(*testing.T, keystore.KeyRef) {
				return func(t *testing.T, k keystore.KeyRef) {
					t.Helper()
					if err := f(t.Context(), k); err != nil {
						t.Fatal(err)
					}
				}
			}
			n := 0
			return keystoretest.Fixture{
				Provider: open(t, env.Env, dir),
				NewKey: func(t *testing.T) keystore.KeyRef {
					t.Helper()
					n++
					name := fmt.Sprintf("key-%d", n)
					if err := owner.CreateKey(t.Context(), name); err != nil {
						t.Fatal(err)
					}
					return keystore.KeyRef(name)
				},
				UnknownKey: "never",
				Disable:    do(owner.Disable), Enable: do(owner.Enable), Delete: do(owner.Delete), Rotate: do(owner.Rotate),
				ScheduleDeletion: do(func(ctx context.Context, k keystore.KeyRef) error { return owner.ScheduleDeletion(ctx, k, time.Hour) }),
				CancelDeletion:   do(owner.Enable),
				Log: func(t *testing.T) []byte {
					t.Helper()
					return env.Logged()
				},
				Away: func(t *testing.T) func() {
					t.Helper()
					rename(t, dir, dir+".away")
					return func() { rename(t, dir+".away", dir) }
				},
				Calls: func(t *testing.T) []keystoretest.Call {
					t.Helper()
					return calls(t, env.Logged())
				},
				Peer: func(t *testing.T) keystore.Provider {
					t.Helper()
					return open(t, env.Env, dir)
				},
			}
		},
		Cannot: map[keystoretest.Ability]string{
			keystoretest.CanCut:           "a file system has no connection that ends in the middle",
			keystoretest.CanHang:          "a local file system answers or fails; a process waiting for a disk cannot be interrupted",
			keystoretest.CanBeSlow:        "a local file system answers or fails; there is nothing between that is slow",
			keystoretest.CanFail:          "a read error is the directory being away",
			keystoretest.CanTalkNonsense:  "a damaged key file is refused by its checksum; a test of this package breaks every part of it",
			keystoretest.CanRevoke:        "it has no credentials but the user of the process",
			keystoretest.CanExpireToken:   "it has no sessions",
			keystoretest.CanRefuseRefresh: "it has no sessions",
			keystoretest.CanLoseIdentity:  "it has no sessions",
			keystoretest.CanSkew:          "it has the clock of the machine that the provider has",
			keystoretest.CanImport:        "it makes its keys itself; there is nobody to bring one",
			keystoretest.CanDeny:          "files have no access policy; a mode that keeps the process out is a mistake of set-up (Misconfigured)",
			keystoretest.CanThrottle:      "a directory has no quota of calls",
		},
	})
}

func calls(t *testing.T, log []byte) []keystoretest.Call {
	t.Helper()
	var all []keystoretest.Call
	for line := range bytes.Lines(log) {
		var l struct {
			Msg, Correlation, Request string
		}
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if l.Msg == "local keystore call" {
			all = append(all, keystoretest.Call{Correlation: corr.ID(l.Correlation), RequestID: keystore.RequestID(l.Request)})
		}
	}
	return all
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func testEnv() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
}

func create(t *testing.T, env keystore.Env, dir string) *local.Keystore {
	t.Helper()
	ks, err := local.Create(t.Context(), env, "dev", dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ks.Close(); err != nil {
			t.Error(err)
		}
	})
	return ks
}

func open(t *testing.T, env keystore.Env, dir string) *local.Keystore {
	t.Helper()
	ks, err := local.Open(t.Context(), env, "dev", dir)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

func newKeystore(t *testing.T, env keystore.Env) (*local.Keystore, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ks")
	ks := create(t, env, dir)
	if err := ks.CreateKey(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	return ks, dir
}

func wrap(ctx context.Context, ks *local.Keystore) ([]byte, error) {
	s, err := memsec.Take(bytes.Repeat([]byte{7}, 32), memsec.Hot)
	if err != nil {
		return nil, err
	}
	defer s.Destroy()
	res, err := ks.Wrap(ctx, keystore.WrapRequest{Key: "demo", Secret: s, AAD: []byte("aad")})
	return res.Blob, err
}

func unwrap(ctx context.Context, ks *local.Keystore, blob []byte) error {
	res, err := ks.Unwrap(ctx, keystore.UnwrapRequest{Key: "demo", Blob: blob, AAD: []byte("aad"), Class: memsec.Hot})
	res.Secret.Destroy()
	return err
}

func mustWrap(t *testing.T, ks *local.Keystore) []byte {
	t.Helper()
	blob, err := wrap(t.Context(), ks)
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func wantClass(t *testing.T, err error, want keystore.Class, text string) {
	t.Helper()
	if got := keystore.ClassOf(err); err == nil || got != want {
		t.Fatalf("class %s, want %s: %v", got, want, err)
	}
	if !strings.Contains(err.Error(), text) {
		t.Fatalf("error does not say %q: %v", text, err)
	}
}

func TestI1_FilesOpenToOthersAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		mode os.FileMode
		text string
	}{
		"keys group readable":  {"keys", 0o640, "chmod 0600"},
		"keys world readable":  {"keys", 0o604, "chmod 0600"},
		"keys read-only":       {"keys", 0o400, "chmod 0600"},
		"directory searchable": {".", 0o711, "chmod 0700"},
		"directory writable":   {".", 0o720, "chmod 0700"},
	} {
		t.Run(name, func(t *testing.T) {
			ks, dir := newKeystore(t, testEnv())
			blob := mustWrap(t, ks)
			if err := os.Chmod(filepath.Join(dir, c.path), c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := local.Open(t.Context(), testEnv(), "dev", dir)
			wantClass(t, err, keystore.Misconfigured, c.text)
			// One that is open already stops as well.
			wantClass(t, unwrap(t.Context(), ks, blob), keystore.Misconfigured, c.text)
			wantClass(t, ks.Rotate(t.Context(), "demo"), keystore.Misconfigured, c.text)
		})
	}
}

func TestI1_SymbolicLinksAndSpecialFilesAreRefused(t *testing.T) {
	_, dir := newKeystore(t, testEnv())
	keys := filepath.Join(dir, "keys")
	t.Run("link to the key file", func(t *testing.T) {
		rename(t, keys, keys+".real")
		defer rename(t, keys+".real", keys)
		if err := os.Symlink(keys+".real", keys); err != nil {
			t.Fatal(err)
		}
		_, err := local.Open(t.Context(), testEnv(), "dev", dir)
		wantClass(t, err, keystore.Misconfigured, "symbolic link")
	})
	t.Run("link to the directory", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		_, err := local.Open(t.Context(), testEnv(), "dev", link)
		wantClass(t, err, keystore.Misconfigured, "not a directory")
	})
	t.Run("pipe instead of the key file", func(t *testing.T) {
		rename(t, keys, keys+".real")
		if err := syscall.Mkfifo(keys, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := local.Open(t.Context(), testEnv(), "dev", dir)
		wantClass(t, err, keystore.Misconfigured, "not a regular file")
	})
}

func TestAMissingKeyFileIsUnavailableNotDenied(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	blob := mustWrap(t, ks)
	if err := os.Remove(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	wantClass(t, unwrap(t.Context(), ks, blob), keystore.Unavailable, "no such file")
}

// A node that has the sound file loaded must not go on with it: what is on
// disk is what the owner wants.
func TestADamagedKeyFileIsMisconfiguredNotDenied(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	blob := mustWrap(t, ks)
	path := filepath.Join(dir, "keys")
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte { b := bytes.Clone(sound); b[i] ^= 1; return b }
	for name, b := range map[string][]byte{
		"empty": {}, "header only": sound[:61], "another format": bytes.Replace(sound, []byte("keystore 1:"), []byte("keystore 2:"), 1),
		"cut by one": sound[:len(sound)-1], "one more": append(bytes.Clone(sound), 0),
		"revision": flip(65), "count": flip(72), "name": flip(75), "state": flip(78), "key bytes": flip(110), "checksum": flip(len(sound) - 1),
		"too long": make([]byte, 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			wantClass(t, unwrap(t.Context(), ks, blob), keystore.Misconfigured, "damaged")
			wantClass(t, ks.Rotate(t.Context(), "demo"), keystore.Misconfigured, "damaged")
			_, err := local.Open(t.Context(), testEnv(), "dev", dir)
			wantClass(t, err, keystore.Misconfigured, "damaged")
		})
	}
	if err := os.WriteFile(path, sound, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unwrap(t.Context(), ks, blob); err != nil {
		t.Fatalf("the sound file is back: %v", err)
	}
}

// Replaced files get the inode numbers of removed ones, and two changes can
// fall into one tick of the file system's clock: a reader must see each.
func TestI3_EveryOneOfManyQuickChangesIsSeen(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	reader := open(t, testEnv(), dir)
	defer reader.Close()
	blob := mustWrap(t, ks)
	for i := range 60 {
		if err := ks.Disable(t.Context(), "demo"); err != nil {
			t.Fatal(err)
		}
		if err := unwrap(t.Context(), reader, blob); !keystore.IsDenied(err) {
			t.Fatalf("round %d: after disable: %v", i, err)
		}
		if err := ks.Enable(t.Context(), "demo"); err != nil {
			t.Fatal(err)
		}
		if err := unwrap(t.Context(), reader, blob); err != nil {
			t.Fatalf("round %d: after enable: %v", i, err)
		}
	}
}

// The hardest case for a reader that looks at the file from outside: several
// changes between two of its looks bring the file back to its size, a coarse
// clock gives it the old time, and the file system gives it a number that a
// removed file had. Only the loaded file, which is held open, keeps its number.
func TestI3_ChangesThatLookAlikeFromOutsideAreSeen(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	reader := open(t, testEnv(), dir)
	defer reader.Close()
	blob := mustWrap(t, ks)
	noon := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	change := func(times int, f func(context.Context, keystore.KeyRef) error) {
		t.Helper()
		for range times {
			if err := f(t.Context(), "demo"); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, "keys"), noon, noon); err != nil {
				t.Fatal(err)
			}
		}
	}
	for times := range 8 {
		change(times+1, ks.Disable)
		if err := unwrap(t.Context(), reader, blob); !keystore.IsDenied(err) {
			t.Fatalf("%d changes: after disable: %v", times+1, err)
		}
		change(times+1, ks.Enable)
		if err := unwrap(t.Context(), reader, blob); err != nil {
			t.Fatalf("%d changes: after enable: %v", times+1, err)
		}
	}
}

const childEnv = "KRYPTON_LOCAL_TEST_DIR"

// TestMain turns the test binary into another process that rotates keys.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

func child(dir string) int {
	ctx := context.Background()
	ks, err := local.Open(ctx, testEnv(), "dev", dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range 10 {
		if err := ks.Rotate(ctx, "demo"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

func TestI2_ChangesOfManyProcessesAreAllKept(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	blob := mustWrap(t, ks)
	const processes = 4
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	d, err := ks.Describe(t.Context(), keystore.DescribeRequest{Key: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	if want := keystore.KeyVersion(fmt.Sprint(1 + 10*processes)); d.KeyVersion != want {
		t.Errorf("version %s, want %s: a rotation was lost", d.KeyVersion, want)
	}
	if err := unwrap(t.Context(), ks, blob); err != nil {
		t.Errorf("version 1 no longer opens: %v", err)
	}
}

func TestAChangeWaitsForTheLockUntilItsContextEnds(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := ks.Rotate(ctx, "demo")
		wantClass(t, err, keystore.Unavailable, "another process holds")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("does not wrap the end of the context: %v", err)
		}
	})
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ks.Rotate(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
}

func TestAPendingDeletionIsCancelledByEnableUntilItsTimeComes(t *testing.T) {
	env := testEnv()
	fake := clock.NewFake(time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC))
	env.Clock = fake
	ks, dir := newKeystore(t, env)
	blob := mustWrap(t, ks)
	schedule := func() {
		t.Helper()
		if err := ks.ScheduleDeletion(t.Context(), "demo", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	schedule()
	fake.Advance(time.Hour - time.Second)
	wantClass(t, unwrap(t.Context(), ks, blob), keystore.Denied, "pending-deletion")
	if err := ks.Enable(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	fake.Advance(time.Minute)
	if err := unwrap(t.Context(), ks, blob); err != nil {
		t.Fatalf("a cancelled deletion happened: %v", err)
	}
	schedule()
	before, err := os.Stat(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	fake.Advance(time.Hour)
	wantClass(t, unwrap(t.Context(), ks, blob), keystore.Denied, "deleted")
	wantClass(t, ks.Enable(t.Context(), "demo"), keystore.Misconfigured, "deleted")
	// The next change, whatever it is, takes the material out of the file.
	if err := ks.CreateKey(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	if err := ks.Delete(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if want := before.Size() - 44 + 1 + 5 + 1 + 8 + 4; after.Size() != want {
		t.Errorf("the file has %d bytes, want %d: the material is still there", after.Size(), want)
	}
}

func TestI4_NamesAreNeverUsedAgain(t *testing.T) {
	ks, _ := newKeystore(t, testEnv())
	wantClass(t, ks.CreateKey(t.Context(), "demo"), keystore.Misconfigured, "exists")
	if err := ks.Delete(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	wantClass(t, ks.CreateKey(t.Context(), "demo"), keystore.Misconfigured, "existed")
	for name, err := range map[string]error{
		"rotate": ks.Rotate(t.Context(), "demo"), "enable": ks.Enable(t.Context(), "demo"), "disable": ks.Disable(t.Context(), "demo"),
		"delete": ks.Delete(t.Context(), "demo"), "schedule": ks.ScheduleDeletion(t.Context(), "demo", time.Hour),
	} {
		if err == nil || !strings.Contains(err.Error(), "deleted") {
			t.Errorf("%s of a deleted key: %v", name, err)
		}
	}
}

func TestChangesThatMakeNoSenseAreRefused(t *testing.T) {
	ks, _ := newKeystore(t, testEnv())
	if err := ks.CreateKey(t.Context(), "off"); err != nil {
		t.Fatal(err)
	}
	if err := ks.Disable(t.Context(), "off"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		text string
	}{
		"empty name":           {ks.CreateKey(t.Context(), ""), "0 bytes"},
		"long name":            {ks.CreateKey(t.Context(), strings.Repeat("a", local.MaxKeyName+1)), "129 bytes"},
		"name with a blank":    {ks.CreateKey(t.Context(), "a b"), "printable"},
		"unknown key":          {ks.Rotate(t.Context(), "never"), "no such key"},
		"rotate while off":     {ks.Rotate(t.Context(), "off"), "disabled"},
		"a deletion too early": {ks.ScheduleDeletion(t.Context(), "demo", time.Second-1), "shorter than a second"},
	} {
		t.Run(name, func(t *testing.T) { wantClass(t, c.err, keystore.Misconfigured, c.text) })
	}
	for i := 1; i < local.MaxVersions; i++ {
		if err := ks.Rotate(t.Context(), "demo"); err != nil {
			t.Fatal(err)
		}
	}
	wantClass(t, ks.Rotate(t.Context(), "demo"), keystore.Misconfigured, "256 versions")
}

func TestCreateRefusesWhatIsThere(t *testing.T) {
	_, dir := newKeystore(t, testEnv())
	_, err := local.Create(t.Context(), testEnv(), "dev", dir)
	wantClass(t, err, keystore.Misconfigured, "a keystore in")
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = local.Create(t.Context(), testEnv(), "dev", open)
	wantClass(t, err, keystore.Misconfigured, "chmod 0700")
}

func TestCreateGoesOnWhereACrashedOneStopped(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ks")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "keys.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ks := create(t, testEnv(), dir)
	if err := ks.CreateKey(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
}

func TestOpenWarns(t *testing.T) {
	_, dir := newKeystore(t, testEnv())
	var log bytes.Buffer
	env := testEnv()
	env.Logger = slog.New(slog.NewTextHandler(&log, nil))
	cfg := keystore.Config{Name: "dev", Type: local.Type, Settings: map[string]string{local.SettingDir: dir}}
	p, err := local.New(t.Context(), env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if s := log.String(); !strings.Contains(s, "level=WARN") || !strings.Contains(s, "protect nothing") || !strings.Contains(s, "keystore=dev") {
		t.Errorf("log: %s", s)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	_, dir := newKeystore(t, testEnv())
	for name, c := range map[string]struct {
		settings map[string]string
		text     string
	}{
		"none":          {nil, `setting "dir" of keystore type local is missing`},
		"relative path": {map[string]string{"dir": "ks"}, "absolute"},
		"misspelt":      {map[string]string{"dir": dir, "drr": dir}, `unknown setting "drr"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := local.New(t.Context(), testEnv(), keystore.Config{Name: "dev", Type: local.Type, Settings: c.settings})
			if err == nil || !strings.Contains(err.Error(), c.text) || keystore.IsDenied(err) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A node starts without one of the keystores of its seal, and finds it when it is back.
func TestAKeystoreThatIsNotThereIsUnavailableUntilItIs(t *testing.T) {
	env := testEnv()
	ks, dir := newKeystore(t, env)
	blob := mustWrap(t, ks)
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	p, err := local.New(t.Context(), env, keystore.Config{Name: "dev", Type: local.Type, Settings: map[string]string{"dir": dir}})
	if err != nil {
		t.Fatal(err)
	}
	again, ok := p.(*local.Keystore)
	if !ok {
		t.Fatalf("it is a %T", p)
	}
	defer again.Close()
	wantClass(t, unwrap(t.Context(), again, blob), keystore.Unavailable, "no such file")
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	if err := unwrap(t.Context(), again, blob); err != nil {
		t.Errorf("it is back: %v", err)
	}
}

func TestAFailingRandomSourceChangesNothing(t *testing.T) {
	env := testEnv()
	ks, dir := newKeystore(t, env)
	before, err := os.ReadFile(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	env.Rand = bytes.NewReader(nil)
	broken := open(t, env, dir)
	defer broken.Close()
	wantClass(t, broken.Rotate(t.Context(), "demo"), keystore.Unavailable, "randomness")
	if _, err := wrap(t.Context(), broken); err == nil {
		t.Error("wrapped without randomness")
	}
	after, err := os.ReadFile(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
	mustWrap(t, ks)
}

func TestUseWhileKeysRotateAndTheFileReloads(t *testing.T) {
	ks, dir := newKeystore(t, testEnv())
	reader := open(t, testEnv(), dir)
	blob := mustWrap(t, ks)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := unwrap(t.Context(), reader, blob); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 30 {
		if err := ks.Rotate(t.Context(), "demo"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	// Close beside calls: each ends well or as Unavailable.
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if err := unwrap(t.Context(), reader, blob); err != nil && keystore.ClassOf(err) != keystore.Unavailable {
					t.Error(err)
				}
			}
		})
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
