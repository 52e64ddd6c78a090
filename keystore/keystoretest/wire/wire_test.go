package wire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers with what it was asked, twice.
func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Name", r.Header.Get("X-Name"))
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(append(b, b...))
}

func serve(t *testing.T, h http.Handler, opts wire.Options) *wire.Server {
	t.Helper()
	s, err := wire.Serve(h, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func client(t *testing.T, s *wire.Server) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Pool(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// post returns status and body of one request.
func post(ctx context.Context, c *http.Client, at, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("X-Name", "n")
	req.Header.Set("User-Agent", "tester/1")
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func proxied(t *testing.T) (*wire.Proxy, *http.Client, string) {
	t.Helper()
	s := serve(t, http.HandlerFunc(echo), wire.Options{})
	p, err := wire.NewProxy(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, client(t, s), "https://" + p.Addr() + "/x"
}

func works(t *testing.T, c *http.Client, at string) {
	t.Helper()
	big := strings.Repeat("b", 100_000)
	for _, body := range []string{"hello", big} {
		status, got, err := post(t.Context(), c, at, body)
		if err != nil || status != http.StatusCreated || got != body+body {
			t.Fatalf("%d, %d bytes, %v", status, len(got), err)
		}
	}
}

func heal(t *testing.T, f func() error) {
	t.Helper()
	if err := f(); err != nil {
		t.Fatal(err)
	}
}

func TestI1_AProxyWithoutFaultsChangesNothing(t *testing.T) {
	p, c, at := proxied(t)
	works(t, c, at)
	if n := p.Accepted(); n != 1 {
		t.Errorf("%d connections for two requests", n)
	}
}

func TestProxyFaults(t *testing.T) {
	for name, set := range map[string]func(*wire.Proxy) func() error{
		"refuse":    (*wire.Proxy).Refuse,
		"reset":     (*wire.Proxy).Reset,
		"cut":       func(p *wire.Proxy) func() error { return p.Cut(100) },
		"cut early": func(p *wire.Proxy) func() error { return p.Cut(0) },
	} {
		t.Run(name, func(t *testing.T) {
			p, c, at := proxied(t)
			works(t, c, at)
			back := set(p)
			for range 2 { // on a connection that was there, and on a new one
				if status, _, err := post(t.Context(), c, at, strings.Repeat("x", 1000)); err == nil {
					t.Fatalf("status %d", status)
				} else if name == "refuse" && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
					t.Errorf("%v", err)
				}
			}
			if name == "refuse" {
				_, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addr())
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%v", err)
				}
			}
			heal(t, back)
			works(t, c, at)
		})
	}
}

func TestAHeldConnectionGoesOnWhenItIsHealed(t *testing.T) {
	p, c, at := proxied(t)
	works(t, c, at)
	back := p.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := post(ctx, c, at, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	answered := make(chan error, 1)
	go func() {
		status, _, err := post(t.Context(), c, at, "x")
		if err == nil && status != http.StatusCreated {
			err = fmt.Errorf("status %d", status)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("answered while held: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	heal(t, back)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

func TestASlowConnectionAnswersLater(t *testing.T) {
	p, c, at := proxied(t)
	works(t, c, at)
	back := p.Slow(60 * time.Millisecond)
	start := time.Now()
	if _, _, err := post(t.Context(), c, at, "x"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 60*time.Millisecond {
		t.Errorf("answered after %s", took)
	}
	heal(t, back)
	works(t, c, at)
}

func TestI3_CloseEndsWhatIsHeld(t *testing.T) {
	p, c, at := proxied(t)
	p.Hang()
	answered := make(chan error, 1)
	go func() {
		_, _, err := post(t.Context(), c, at, "x")
		answered <- err
	}()
	for p.Accepted() == 0 {
		select {
		case err := <-answered:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err == nil {
		t.Error("answered through a closed proxy")
	}
	if err := p.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestHTTPRecordsAndPassesOn(t *testing.T) {
	h := wire.NewHTTP(http.HandlerFunc(echo))
	s := serve(t, h, wire.Options{})
	c := client(t, s)
	status, got, err := post(t.Context(), c, s.URL+"/a/b?c=d", "body")
	if err != nil || status != http.StatusCreated || got != "bodybody" {
		t.Fatalf("%d %q %v", status, got, err)
	}
	all := h.Requests()
	if len(all) != 1 {
		t.Fatalf("%d requests", len(all))
	}
	r := all[0]
	if r.Method != http.MethodPost || r.Path != "/a/b" || r.Query != "c=d" || r.Host != s.Addr || r.UserAgent != "tester/1" ||
		r.Header.Get("X-Name") != "n" || !bytes.Equal(r.Body, []byte("body")) || r.Status != http.StatusCreated {
		t.Errorf("%+v", r)
	}
}

func TestHTTPFaults(t *testing.T) {
	var reached atomic.Int64
	h := wire.NewHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reached.Add(1); echo(w, r) }))
	s := serve(t, h, wire.Options{Plain: true})
	c := client(t, s)
	for name, f := range map[string]struct {
		fault   wire.Fault
		status  int // 0: no answer
		reached int
	}{
		"status":    {wire.Fault{Status: http.StatusTooManyRequests, Body: "slower", Header: http.Header{"Retry-After": {"1"}}}, http.StatusTooManyRequests, 0},
		"before":    {wire.Fault{Cut: wire.CutBefore}, 0, 0},
		"after":     {wire.Fault{Cut: wire.CutAfter}, 0, 1},
		"middle":    {wire.Fault{Cut: wire.CutMiddle}, 0, 1},
		"delay":     {wire.Fault{Delay: 20 * time.Millisecond}, http.StatusCreated, 1},
		"not mine":  {wire.Fault{Status: 500, Match: func(r *http.Request) bool { return r.URL.Path == "/other" }}, http.StatusCreated, 1},
		"used up":   {wire.Fault{Status: 418, Times: 1}, 418, 0},
		"zero does": {wire.Fault{}, http.StatusCreated, 1},
	} {
		t.Run(name, func(t *testing.T) {
			reached.Store(0)
			back := h.Fault(f.fault)
			start := time.Now()
			status, body, err := post(t.Context(), c, s.URL, "some body")
			if f.status == 0 && err == nil {
				t.Errorf("answered %d %q", status, body)
			}
			if f.status != 0 && (err != nil || status != f.status) {
				t.Errorf("%d, %v", status, err)
			}
			if got := int(reached.Load()); got != f.reached {
				t.Errorf("the keystore was asked %d times, want %d", got, f.reached)
			}
			if f.fault.Body != "" && body != f.fault.Body {
				t.Errorf("body %q", body)
			}
			if time.Since(start) < f.fault.Delay {
				t.Error("answered too early")
			}
			if f.fault.Times == 1 {
				if status, _, err := post(t.Context(), c, s.URL, "x"); err != nil || status != http.StatusCreated {
					t.Errorf("after its turn: %d, %v", status, err)
				}
			}
			back()
			back()
			if status, _, err := post(t.Context(), c, s.URL, "x"); err != nil || status != http.StatusCreated {
				t.Errorf("healed: %d, %v", status, err)
			}
		})
	}
}

func TestAHungRequestEndsWithItsCallerOrWhenItIsHealed(t *testing.T) {
	h := wire.NewHTTP(http.HandlerFunc(echo))
	s := serve(t, h, wire.Options{})
	c := client(t, s)
	back := h.Fault(wire.Fault{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := post(ctx, c, s.URL, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	answered := make(chan error, 1)
	go func() {
		_, _, err := post(t.Context(), c, s.URL, "x")
		answered <- err
	}()
	for len(h.Requests()) < 2 {
		<-time.After(time.Millisecond)
	}
	back()
	if err := <-answered; err == nil {
		t.Error("a hung request was answered")
	}
}

func TestForwardReachesAServerOfItsOwn(t *testing.T) {
	behind := serve(t, http.HandlerFunc(echo), wire.Options{Plain: true})
	at, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	h := wire.NewHTTP(wire.Forward(at, tr))
	s := serve(t, h, wire.Options{Names: []string{"keystore.example"}})
	c := client(t, s)
	if status, got, err := post(t.Context(), c, s.URL, "x"); err != nil || status != http.StatusCreated || got != "xx" {
		t.Errorf("%d %q %v", status, got, err)
	}
	if err := behind.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _, err := post(t.Context(), c, s.URL, "x"); err == nil {
		t.Errorf("%d from a server that is gone", status)
	}
}

func TestI2_OnlyLoopback(t *testing.T) {
	p, _, _ := proxied(t)
	for _, addr := range []string{p.Addr(), serve(t, http.HandlerFunc(echo), wire.Options{}).Addr} {
		if !strings.HasPrefix(addr, "127.0.0.1:") {
			t.Errorf("listens on %s", addr)
		}
	}
}
