package rest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
)

func dialed(t *testing.T) *conn {
	t.Helper()
	c, err := Transport{}.Dial("n1:8401", &tls.Config{MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*conn)
}

// keeping is a body that keeps the buffers that it was read into.
type keeping struct {
	r    io.Reader
	into *[][]byte
}

func (k keeping) Read(b []byte) (int, error) {
	*k.into = append(*k.into, b)
	return k.r.Read(b)
}

func (keeping) Close() error { return nil }

// answering answers every request with one body.
type answering struct {
	status int
	body   string
	into   [][]byte
}

func (a *answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Request: r, ContentLength: -1, Body: keeping{strings.NewReader(a.body), &a.into},
		Header: http.Header{"Content-Type": {jsonType}, "Krypton-Node": {"n1"}},
	}, nil
}

// TestI5_AnswersAreWiped looks into every buffer that an answer was read into,
// those that it outgrew included.
func TestI5_AnswersAreWiped(t *testing.T) {
	t.Parallel()
	for name, a := range map[string]*answering{
		"an answer":  {status: http.StatusOK, body: `{"plaintext":"` + strings.Repeat("QUJD", 3*firstRead) + `"}`},
		"junk":       {status: http.StatusOK, body: strings.Repeat("QUJD", 3*firstRead)},
		"a refusal":  {status: http.StatusForbidden, body: `{"error":{"code":403,"reason":"DENIED","message":"no"}}`},
		"no node's":  {status: http.StatusBadGateway, body: "<html>"},
		"one buffer": {status: http.StatusOK, body: `{"plaintext":"QUJD"}`},
	} {
		c := dialed(t)
		c.http.RegisterProtocol("https", a)
		var out kryptonv1.DecryptResponse
		err := c.Invoke(t.Context(), "/krypton.v1.Crypto/Decrypt", &kryptonv1.DecryptRequest{Service: "tenants/a/services/b"}, &out)
		if strings.Contains(a.body, "plaintext") != (err == nil && bytes.HasPrefix(out.GetPlaintext(), []byte("ABC"))) {
			t.Errorf("%s: %v", name, err)
		}
		for i, b := range a.into {
			if strings.Trim(string(b), "\x00") != "" {
				t.Errorf("%s: buffer %d of %d still has %.20q", name, i, len(a.into), b)
			}
		}
		if len(a.into) == 0 {
			t.Errorf("%s: nothing was read", name)
		}
	}
}

// TestCloseLeavesNoSocket covers sockets that end before the connection, and one
// that is opened while it ends.
func TestCloseLeavesNoSocket(t *testing.T) {
	t.Parallel()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := dialed(t)
	first, err := c.dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil || len(c.sockets) != 1 {
		t.Errorf("%v; of two sockets with one closed, %d are listed", err, len(c.sockets))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) || len(c.sockets) != 0 {
		t.Errorf("after Close a socket says %v, and %d are listed", err, len(c.sockets))
	}
	if s, err := c.dial(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, net.ErrClosed) || len(c.sockets) != 0 {
		t.Errorf("after Close: %v, %v, %d listed", s, err, len(c.sockets))
	}
}
