package rest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/rest"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tenant = `{"name":"tenants/a","uid":"u"}`

// says answers as a node does.
func says(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Krypton-Node", "n1")
	w.Header().Set("Krypton-Correlation-Id", "0123")
	w.Header().Set("Krypton-Index", "7")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// serve starts a server that asks for a client certificate; change is made
// before it starts.
func serve(t *testing.T, h http.HandlerFunc, change ...func(*httptest.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
	for _, f := range change {
		f(s)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// dial makes a client of servers. The certificate of the first is used for the
// caller, too.
func dial(t *testing.T, servers []*httptest.Server, set ...func(*client.Options)) *client.Client {
	t.Helper()
	o := client.Options{TLS: servers[0].Client().Transport.(*http.Transport).TLSClientConfig.Clone()}
	o.TLS.Certificates = servers[0].TLS.Certificates
	for _, s := range servers {
		o.Addrs = append(o.Addrs, s.URL)
	}
	c, err := client.New(t.Context(), append([]func(*client.Options){client.With(o), rest.Use()}, set...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func get(ctx context.Context, c *client.Client, opts ...grpc.CallOption) error {
	v, err := c.Tenants().GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: "tenants/a"}, opts...)
	if err == nil && v.GetName() != "tenants/a" {
		return fmt.Errorf("got %v", v)
	}
	return err
}

func rotate(ctx context.Context, c *client.Client, opts ...grpc.CallOption) error {
	_, err := c.Tenants().RotateTenant(ctx, &kryptonv1.RotateTenantRequest{Name: "tenants/a"}, opts...)
	return err
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestACallIsHTTP2WithTheCallersCertificate(t *testing.T) {
	t.Parallel()
	var seen *http.Request
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		says(w, http.StatusOK, tenant)
	})
	var info client.Info
	if err := get(within(t, time.Minute), dial(t, []*httptest.Server{s}, func(o *client.Options) { o.Timeout = time.Minute }), client.Capture(&info)); err != nil {
		t.Fatal(err)
	}
	if seen.ProtoMajor != 2 || seen.TLS.Version != tls.VersionTLS13 || len(seen.TLS.PeerCertificates) != 1 {
		t.Errorf("%s, TLS %x, %d certificates", seen.Proto, seen.TLS.Version, len(seen.TLS.PeerCertificates))
	}
	if info.Node != "n1" || info.Index != 7 || info.CorrelationID != "0123" || info.Attempts != 1 {
		t.Errorf("info %+v", info)
	}
	if len(seen.Header.Get("Traceparent")) != 55 || seen.Header.Get("Cookie") != "" || seen.Header.Get("Authorization") != "" || seen.Header.Get("Accept-Encoding") != "" {
		t.Errorf("headers %v", seen.Header)
	}
}

func TestHTTP11IsEnough(t *testing.T) {
	t.Parallel()
	var proto atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		proto.Store(int32(r.ProtoMajor))
		says(w, http.StatusOK, tenant)
	}, func(s *httptest.Server) { s.EnableHTTP2 = false })
	c := dial(t, []*httptest.Server{s})
	for range 3 {
		if err := get(within(t, time.Minute), c); err != nil {
			t.Fatal(err)
		}
	}
	if proto.Load() != 1 {
		t.Errorf("HTTP/%d", proto.Load())
	}
}

// TestI4_HeadersAreBounded over both versions of HTTP.
func TestI4_HeadersAreBounded(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{true, false} {
		size := 0
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", size))
			says(w, http.StatusOK, tenant)
		}, func(s *httptest.Server) { s.EnableHTTP2 = h2 })
		nd := dial(t, []*httptest.Server{s}).Node(s.URL)
		for _, tt := range []struct {
			size int
			ok   bool
		}{{1 << 10, true}, {128 << 10, false}} {
			size = tt.size
			err := nd.Invoke(within(t, time.Minute), "/krypton.v1.Tenants/GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/a"}, &kryptonv1.Tenant{})
			if (err == nil) != tt.ok || err != nil && !errs.Is(err, errs.Unavailable) {
				t.Errorf("HTTP/2 %t, a header of %d bytes: %v", h2, tt.size, err)
			}
		}
	}
}

func TestI6_NothingOlderThanTLS13(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { says(w, http.StatusOK, tenant) },
		func(s *httptest.Server) { s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 })
	s.Config.ErrorLog = nil
	c := dial(t, []*httptest.Server{s}, func(o *client.Options) { o.ConnectPatience = 1 })
	if err := get(within(t, time.Minute), c); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "tls") {
		t.Errorf("got %v", err)
	}
}

// TestI1_WhatNoNodeSaidIsNotBelieved shows the client what proxies and other
// servers answer with. The second server is a node.
func TestI1_WhatNoNodeSaidIsNotBelieved(t *testing.T) {
	t.Parallel()
	html := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>"+tenant)
		}
	}
	plain := func(status int, body string, h ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for i := 0; i < len(h); i += 2 {
				w.Header().Set(h[i], h[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	node := []string{"Krypton-Node", "n1"}
	denied := `{"error":{"code":403,"reason":"DENIED","message":"no","hint":"h","retry":"never"}}`
	for name, tt := range map[string]struct {
		h    http.HandlerFunc
		want errs.Code
	}{
		"502 in HTML":           {html(502), errs.Unavailable},
		"503 in HTML":           {html(503), errs.Unavailable},
		"504 in HTML":           {html(504), errs.Unavailable},
		"500 in HTML":           {html(500), errs.Unavailable},
		"200 in HTML":           {html(200), errs.Unavailable},
		"404 in HTML":           {html(404), errs.Unavailable},
		"403 in HTML":           {html(403), errs.Unavailable},
		"407":                   {html(407), errs.Unavailable},
		"413":                   {html(413), errs.TooLarge},
		"429":                   {html(429), errs.Throttled},
		"redirect":              {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }, errs.Unavailable},
		"no node's header":      {plain(200, tenant), errs.Unavailable},
		"a refusal of no node":  {plain(403, denied), errs.Unavailable},
		"another status":        {plain(502, denied, node...), errs.Unavailable},
		"a refusal as success":  {plain(200, denied, node...), errs.Unavailable},
		"another error's shape": {plain(404, `{"error":{"code":404,"status":"NOT_FOUND","message":"no"}}`, node...), errs.Unavailable},
		"an error's text":       {plain(404, `{"error":"no"}`, node...), errs.Unavailable},
		"no JSON":               {plain(200, `{"name":`, node...), errs.Unavailable},
		"another message":       {plain(200, `{"name":7}`, node...), errs.Unavailable},
		"empty":                 {plain(200, ``, node...), errs.Unavailable},
		"too large":             {plain(200, `{"name":"`+strings.Repeat("x", 6<<20)+`"}`, node...), errs.TooLarge},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			says(w, 200, tenant)
		}, errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := serve(t, tt.h)
			alone := dial(t, []*httptest.Server{bad}, func(o *client.Options) { o.Timeout = 5 * time.Second })
			nd := alone.Node(bad.URL)
			var reply kryptonv1.Tenant
			err := nd.Invoke(within(t, time.Minute), "/krypton.v1.Tenants/GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/a"}, &reply)
			if !errs.Is(err, tt.want) {
				t.Errorf("a read: %v", err)
			}
			if !proto.Equal(&reply, &kryptonv1.Tenant{}) {
				t.Errorf("something of it was taken: %v", &reply)
			}
			// What a change did is not known, whatever stands in the answer.
			if err := nd.Invoke(within(t, time.Minute), "/krypton.v1.Tenants/RotateTenant", &kryptonv1.RotateTenantRequest{Name: "tenants/a"}, &reply); !errs.Is(err, errs.Indeterminate) {
				t.Errorf("a change: %v", err)
			}
			if tt.want != errs.Unavailable {
				return
			}
			good := serve(t, func(w http.ResponseWriter, _ *http.Request) { says(w, http.StatusOK, tenant) })
			both := dial(t, []*httptest.Server{bad, good})
			for range 5 {
				if err := get(within(t, time.Minute), both); err != nil {
					t.Errorf("with a node beside it: %v", err)
				}
			}
		})
	}
}

func TestI3_NoRedirectIsFollowed(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	other := serve(t, func(w http.ResponseWriter, _ *http.Request) { elsewhere.Add(1); says(w, http.StatusOK, tenant) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+r.URL.Path, status) })
		c := dial(t, []*httptest.Server{s})
		if err := c.Node(s.URL).Invoke(within(t, time.Minute), "/krypton.v1.Access/WhoAmI", &kryptonv1.WhoAmIRequest{}, &kryptonv1.WhoAmIResponse{}); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), fmt.Sprint(status)) || !strings.Contains(err.Error(), "HTTP/JSON door") {
			t.Errorf("%d: %v", status, err) // with the hint of this package, not that of any connection
		}
	}
	if elsewhere.Load() != 0 {
		t.Errorf("%d requests went elsewhere", elsewhere.Load())
	}
}

func TestErrorsArriveAsTheyWereSaid(t *testing.T) {
	t.Parallel()
	answer := ""
	status := 0
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { says(w, status, answer) })
	c := dial(t, []*httptest.Server{s}, func(o *client.Options) { o.Timeout = 10 * time.Second })
	nd := c.Node(s.URL)
	for _, code := range errs.All() {
		row := code.Row()
		status, answer = row.HTTP, fmt.Sprintf(`{"error":{"code":%d,"reason":%q,"message":"what: %%d","hint":"do: %%s","retry":%q,"new":1}}`, row.HTTP, row.Name, row.Retry)
		if status < 100 {
			continue
		}
		err := nd.Invoke(within(t, time.Minute), "/krypton.v1.Access/WhoAmI", &kryptonv1.WhoAmIRequest{}, &kryptonv1.WhoAmIResponse{})
		if e := errs.From(err); e.Code != code || e.Msg != "what: %d" || e.Hint != "do: %s" {
			t.Errorf("%s arrived as %s %q %q", code, e.Code, e.Msg, e.Hint)
		}
	}
	// A reason of a newer node.
	status, answer = 409, `{"error":{"code":409,"reason":"FROM_THE_FUTURE","message":"new trouble"}}`
	if e := errs.From(get(within(t, time.Minute), c)); e.Code != errs.Internal || e.Msg != "new trouble" {
		t.Errorf("an unknown reason arrived as %s %q", e.Code, e.Msg)
	}
}

// TestTheTimeToWaitIsRead of the header, and nothing that is no time of a node.
func TestTheTimeToWaitIsRead(t *testing.T) {
	t.Parallel()
	header := ""
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", header)
		says(w, http.StatusTooManyRequests, `{"error":{"code":429,"reason":"THROTTLED","message":"slower"}}`)
	})
	nd := dial(t, []*httptest.Server{s}).Node(s.URL)
	for text, want := range map[string]time.Duration{
		"3": 3 * time.Second, "0": 0, "": 0, "-1": 0, "soon": 0, "Wed, 21 Oct 2026 07:28:00 GMT": 0, "99999999999999999999": 0, "4000000000": time.Hour,
	} {
		header = text
		err := nd.Invoke(within(t, time.Minute), "/krypton.v1.Access/WhoAmI", &kryptonv1.WhoAmIRequest{}, &kryptonv1.WhoAmIResponse{})
		if e := errs.From(err); e.Code != errs.Throttled || e.After != want {
			t.Errorf("Retry-After: %q is %v of %v", text, e.After, err)
		}
	}
}

func TestAFieldOfANewerNodeIsNoError(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		says(w, http.StatusOK, `{"name":"tenants/a","fromTheFuture":{"a":1}}`)
	})
	if err := get(within(t, time.Minute), dial(t, []*httptest.Server{s})); err != nil {
		t.Error(err)
	}
}

// TestI2_WhatWasNeverSentDidNothing: refused connections, and one that is cut
// once the request is there.
func TestI2_WhatWasNeverSentDidNothing(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 100)
	s := serve(t, func(_ http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		panic(http.ErrAbortHandler)
	})
	c := dial(t, []*httptest.Server{s})
	var info client.Info
	err := rotate(within(t, 500*time.Millisecond), c, client.Capture(&info))
	if !errs.Is(err, errs.Indeterminate) && !errs.Is(err, errs.DeadlineExceeded) || !strings.Contains(err.Error(), info.RequestID) {
		t.Errorf("cut off: %v", err)
	}
	if len(arrived) < 2 || info.RequestID == "" {
		t.Errorf("%d requests with the id %q arrived; a change with an id is repeated", len(arrived), info.RequestID)
	}
	s.Close()
	cold := dial(t, []*httptest.Server{s}, func(o *client.Options) { o.ConnectPatience = 1 })
	if err := rotate(within(t, time.Minute), cold); !errs.Is(err, errs.Unavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

// TestAnAttemptIsSentOnce cuts the connection once the node has done what it was
// asked, and before it says so. The connection was in use before, which is when
// net/http sends some requests again by itself.
func TestAnAttemptIsSentOnce(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{true, false} {
		arrived := make(chan string, 100)
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				says(w, http.StatusOK, tenant)
				return
			}
			body, _ := io.ReadAll(r.Body)
			arrived <- string(body)
			panic(http.ErrAbortHandler)
		}, func(s *httptest.Server) { s.EnableHTTP2 = h2 })
		c := dial(t, []*httptest.Server{s})
		for name, call := range map[string]func(ctx context.Context, info *client.Info) error{
			"a change on one node": func(ctx context.Context, info *client.Info) error {
				return c.Node(s.URL).Invoke(ctx, "/krypton.v1.Tenants/RotateTenant", &kryptonv1.RotateTenantRequest{Name: "tenants/a"}, &kryptonv1.Tenant{}, client.Capture(info))
			},
			"a call without a request id": func(ctx context.Context, info *client.Info) error {
				_, err := kryptonv1.NewSealClient(c).Contribute(ctx, &kryptonv1.ContributeRequest{NodeId: "n1"}, client.Capture(info))
				return err
			},
		} {
			if err := get(within(t, time.Minute), c); err != nil {
				t.Fatal(err)
			}
			var info client.Info
			err := call(within(t, time.Minute), &info)
			if !errs.Is(err, errs.Indeterminate) || info.RequestID != "" && !strings.Contains(err.Error(), info.RequestID) {
				t.Errorf("%s, HTTP/2 %t: %v", name, h2, err)
			}
			if len(arrived) != 1 || info.Attempts != 1 {
				t.Errorf("%s, HTTP/2 %t: %d arrived of %d attempts", name, h2, len(arrived), info.Attempts)
			}
			for len(arrived) > 0 {
				if body := <-arrived; !strings.Contains(body, info.RequestID) {
					t.Errorf("%s, HTTP/2 %t: %s is without the request id", name, h2, body)
				}
			}
		}
	}
}

func TestACallEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	arrived, gone := make(chan struct{}, 10), make(chan struct{}, 10)
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	c := dial(t, []*httptest.Server{s}, func(o *client.Options) { o.Timeout = time.Minute })
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := get(ctx, c); !errs.Is(err, errs.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	<-arrived
	cancel()
	wg.Wait()
	<-gone // the node notices
	if err := get(within(t, 50*time.Millisecond), c); !errs.Is(err, errs.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	<-arrived
	<-gone
	wg.Go(func() {
		if err := get(within(t, time.Minute), c); !errs.Is(err, errs.Canceled) {
			t.Errorf("closed: %v", err)
		}
	})
	<-arrived
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	<-gone
}

// tunnel is a proxy that only knows CONNECT.
func tunnel(t *testing.T) (proxy *url.URL, tunnels *atomic.Int32) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tunnels = new(atomic.Int32)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer in.Close()
				r, err := http.ReadRequest(bufio.NewReader(in))
				if err != nil || r.Method != http.MethodConnect {
					return
				}
				tunnels.Add(1)
				out, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.Host)
				if err != nil {
					return
				}
				defer out.Close()
				_, _ = io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n")
				wg.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
				_, _ = io.Copy(in, out)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return &url.URL{Scheme: "http", Host: ln.Addr().String()}, tunnels
}

func TestI3_OnlyANamedProxyIsAsked(t *testing.T) {
	proxy, tunnels := tunnel(t)
	t.Setenv("HTTPS_PROXY", proxy.String())
	t.Setenv("NO_PROXY", "")
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { says(w, http.StatusOK, tenant) })
	direct := dial(t, []*httptest.Server{s})
	if err := get(within(t, time.Minute), direct); err != nil || tunnels.Load() != 0 {
		t.Errorf("without an option: %v, %d tunnels", err, tunnels.Load())
	}
	named := dial(t, []*httptest.Server{s}, rest.UseProxy(http.ProxyURL(proxy)))
	if err := get(within(t, time.Minute), named); err != nil || tunnels.Load() != 1 {
		t.Errorf("with a proxy: %v, %d tunnels", err, tunnels.Load())
	}
	_, _ = direct.Close(), named.Close()
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{
		"https://n1:8401": true, "https://n1:8401/": true, "n1:8401": true, "https://[::1]:8401": true, "127.0.0.1:1": true,
		"http://n1:8401": false, "https://n1": false, "n1": false, "": false, "https://": false, "https://n1:8401/krypton": false,
		"https://u:p@n1:8401": false, "https://n1:8401?x": false, "https://n1:8401#x": false, "grpc://n1:8400": false, "https://n1:x": false,
		"https://[fe80::1%25eth0]:8401": false, "/run/krypton.sock": false, "unix:///run/krypton.sock": false,
	} {
		if err := (rest.Transport{}).Check(addr); (err == nil) != ok || err != nil && (!errs.Is(err, errs.InvalidConfig) || errs.From(err).Hint == "") {
			t.Errorf("%q: %v", addr, err)
		}
	}
	// Dial may be called with one configuration for all nodes.
	shared := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"x"}}
	c, err := rest.Transport{}.Dial("n1:8401", shared)
	if err != nil || shared.MinVersion != tls.VersionTLS12 || len(shared.NextProtos) != 1 || shared.NextProtos[0] != "x" {
		t.Errorf("Dial: %v, and changed what it was given to %v", err, shared.NextProtos)
	}
	defer c.Close()
	if _, err := (rest.Transport{}).Dial("http://x", nil); !errs.Is(err, errs.InvalidConfig) {
		t.Errorf("Dial: %v", err)
	}
}

func TestTheTraceOfTheCallerIsKept(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var got []string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Values("Traceparent")
		says(w, http.StatusOK, tenant)
	})
	ctx := metadata.AppendToOutgoingContext(within(t, time.Minute), "traceparent", trace, "x-other", "y")
	if err := get(ctx, dial(t, []*httptest.Server{s})); err != nil || len(got) != 1 || got[0] != trace {
		t.Errorf("%v, %v", err, got)
	}
}
