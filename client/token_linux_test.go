package client_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/client"
)

// TestATokenOfAPipeIsReadOnce: --token-file <(kubectl create token app).
func TestATokenOfAPipeIsReadOnce(t *testing.T) {
	t.Parallel()
	own, d := newAuthority(t), &door{}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("piped\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c := connect(t, client.With(client.Options{Addrs: []string{d.open(t, own.server(asIs))}, CAFile: own.file, TokenFile: fmt.Sprintf("/proc/self/fd/%d", r.Fd())}))
	for range 2 {
		if err := whoami(t, c); err != nil {
			t.Fatal(err)
		}
	}
	want := shown{Authorization: []string{"Bearer piped"}}
	if diff := cmp.Diff([]shown{want, want}, d.seen()); diff != "" {
		t.Errorf("the calls showed (-want +got):\n%s", diff)
	}
}

// TestANamedPipeDoesNotHoldCallsUp: opened again it would wait for a writer.
func TestANamedPipeDoesNotHoldCallsUp(t *testing.T) {
	t.Parallel()
	own, d := newAuthority(t), &door{}
	path := t.TempDir() + "/token"
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(path, []byte("named"), 0o600) }()
	c := connect(t, client.With(client.Options{Addrs: []string{d.open(t, own.server(asIs))}, CAFile: own.file, TokenFile: path}))
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := whoami(t, c); err != nil {
			t.Fatal(err)
		}
	}
	want := shown{Authorization: []string{"Bearer named"}}
	if diff := cmp.Diff([]shown{want, want}, d.seen()); diff != "" {
		t.Errorf("the calls showed (-want +got):\n%s", diff)
	}
}
