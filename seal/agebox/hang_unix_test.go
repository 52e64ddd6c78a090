//go:build unix

package agebox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/agebox/ageboxtest"
)

// TestI6_APluginThatHangsIsEnded, with what it started, however little it listens.
func TestI6_APluginThatHangsIsEnded(t *testing.T) {
	for _, b := range []ageboxtest.Behaviour{ageboxtest.Hangs, ageboxtest.Stays, ageboxtest.Floods} {
		t.Run(string(b), func(t *testing.T) {
			withPlugin(t)
			lock := filepath.Join(t.TempDir(), "lock")
			f, err := os.Create(lock)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			t.Setenv(ageboxtest.Lock, lock)
			recipient, _ := pluginKey(t, b)
			patience := 2 * time.Second
			if b == ageboxtest.Stays { // is not waited for at all
				patience = agebox.PluginTime
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			_, err = agebox.Encrypt(ctx, recipient, []byte(share))
			switch {
			case b == ageboxtest.Stays && err != nil:
				t.Error(err)
			case b != ageboxtest.Stays && (!errors.Is(err, agebox.ErrPlugin) || errs.Of(err) != errs.FailedState):
				t.Errorf("%v", err)
			case b != ageboxtest.Stays && strings.Contains(err.Error(), "did not answer in time and was ended") != (b == ageboxtest.Hangs):
				t.Errorf("%v", err)
			}
			if b == ageboxtest.Hangs {
				situationtest.Error(t, "seal/plugin-late", err)
			}
			if d := time.Since(began); d > agebox.PluginTime/2 {
				t.Errorf("it took %s", d)
			}
			// Whoever is left of them has the lock, and the test would wait.
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				t.Error(err)
			}
		})
	}
}
