//go:build unix && !nopkcs11

package pkcs11_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/hsm"
	"github.com/openkcm/krypton-cluster/memsec"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// world is a token with a provider and what the provider logs.
type world struct {
	*testing.T

	token *hsm.Server
	p     keystore.Provider
	ctx   context.Context //nolint:containedctx // Of one test, which ends with it.
	log   *logs
}

// logs collects what a provider logs and tells who waits of each helper.
type logs struct {
	mu      sync.Mutex
	b       bytes.Buffer
	helpers chan int // pids
}

func (l *logs) Write(line []byte) (int, error) {
	var entry struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(line, &entry); err != nil {
		return 0, err
	}
	if entry.PID != 0 {
		l.helpers <- entry.PID
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(line)
}

func (l *logs) text() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

func newWorld(t *testing.T, o hsm.Options, settings map[string]string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w := &world{T: t, token: startToken(t, o), ctx: ctx, log: &logs{helpers: make(chan int, 1000)}}
	w.p = open(t, w.env(), w.token, settings)
	return w
}

func (w *world) env() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Rand: rand.Reader, Clock: clock.System{}}
}

// helper waits for the next helper that is ready and returns its pid.
func (w *world) helper() int {
	w.Helper()
	select {
	case pid := <-w.log.helpers:
		return pid
	case <-w.ctx.Done():
		w.Fatal("no helper was started")
		return 0
	}
}

func (w *world) secret(b []byte) memsec.Secret {
	w.Helper()
	s, err := memsec.Take(bytes.Clone(b), memsec.Hot)
	must(w, err)
	w.Cleanup(s.Destroy)
	return s
}

var aad = []byte("keyspace 1, tenant 7")

func (w *world) tryWrap(key string, s memsec.Secret) (keystore.WrapResult, error) {
	return w.p.Wrap(w.ctx, keystore.WrapRequest{Key: keystore.KeyRef(key), Secret: s, AAD: aad})
}

func (w *world) wrap(key string, s memsec.Secret) keystore.WrapResult {
	w.Helper()
	res, err := w.tryWrap(key, s)
	must(w, err)
	return res
}

func (w *world) tryUnwrap(key string, blob []byte) error {
	res, err := w.p.Unwrap(w.ctx, keystore.UnwrapRequest{Key: keystore.KeyRef(key), Blob: blob, AAD: aad, Class: memsec.Hot})
	res.Secret.Destroy()
	return err
}

// opens fails unless the blob opens to want.
func (w *world) opens(key string, blob []byte, want memsec.Secret) {
	w.Helper()
	res, err := w.p.Unwrap(w.ctx, keystore.UnwrapRequest{Key: keystore.KeyRef(key), Blob: blob, AAD: aad, Class: memsec.Hot})
	must(w, err)
	defer res.Secret.Destroy()
	if same, err := memsec.Equal(res.Secret, want); err != nil || !same {
		w.Errorf("another secret came back (%v)", err)
	}
}

// is checks the class of an error and a part of its text.
func (w *world) is(err error, class keystore.Class, text string) {
	w.Helper()
	var e *keystore.Error
	if !errors.As(err, &e) || e.Class != class || !bytes.Contains([]byte(err.Error()), []byte(text)) {
		w.Errorf("got %v, want %s: %s", err, class, text)
	}
}
