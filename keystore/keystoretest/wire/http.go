package wire

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
)

// maxBody is how much of a request's body is recorded, in bytes.
const maxBody = 1 << 20

// Request is one request as it came over the wire. Its body may hold plaintext
// on its way to a keystore: it is for assertions, never for a log.
type Request struct {
	Method, Host, Path, Query string
	Header                    http.Header
	UserAgent                 string
	Body                      []byte
	Status                    int // of the answer; 0 when there was none
}

// CutPoint says when an answer's connection is killed.
type CutPoint int

// The cut points.
const (
	CutNever  CutPoint = iota
	CutBefore          // before the keystore sees the request
	CutAfter           // after it has done what was asked and before it says so
	CutMiddle          // in the middle of its answer's body
)

// Fault is what [HTTP] does instead of passing a request on. The zero value
// does nothing. Delay comes first, then Hang, then Cut and Status.
type Fault struct {
	Match  func(*http.Request) bool // which requests; nil: all
	Times  int                      // how many requests; 0: all until healed
	Delay  time.Duration            // waits before anything else happens
	Hang   bool                     // answers nothing until it is healed or the caller is gone
	Cut    CutPoint
	Status int         // answers with this status in place of the keystore; 0: the keystore answers
	Header http.Header // of that answer
	Body   string      // of that answer
}

// active is a fault that is set.
type active struct {
	Fault

	used   int
	healed chan struct{}
}

// HTTP is an http.Handler in front of a keystore's own.
type HTTP struct {
	next http.Handler

	mu       sync.Mutex
	faults   []*active
	requests []Request
}

// NewHTTP returns a handler that passes requests on to next.
func NewHTTP(next http.Handler) *HTTP { return &HTTP{next: next} }

// Forward returns a handler that passes requests on to a server at target, as a
// reverse proxy, for a keystore that is a process of its own. rt carries them;
// nil is http.DefaultTransport.
func Forward(target *url.URL, rt http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Transport: rt,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

// Fault sets a fault until heal is called. Of several that fit a request, the
// one that was set last counts. heal is idempotent.
func (h *HTTP) Fault(f Fault) (heal func()) {
	a := &active{Fault: f, healed: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, a)
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		close(a.healed)
		h.faults = slices.DeleteFunc(h.faults, func(x *active) bool { return x == a })
	})
}

// Answer makes every request fail with a status and a body.
func (h *HTTP) Answer(status int, body string) (heal func()) {
	return h.Fault(Fault{Status: status, Body: body})
}

// Requests returns what came so far, in order of arrival.
func (h *HTTP) Requests() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.requests)
}

func (h *HTTP) begin(r *http.Request, body []byte) (at int, f *active) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, Request{
		Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery,
		Header: r.Header.Clone(), UserAgent: r.UserAgent(), Body: body,
	})
	for _, a := range slices.Backward(h.faults) {
		if (a.Match == nil || a.Match(r)) && (a.Times == 0 || a.used < a.Times) {
			a.used++
			return len(h.requests) - 1, a
		}
	}
	return len(h.requests) - 1, nil
}

func (h *HTTP) ended(at, status int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests[at].Status = status
}

// ServeHTTP implements http.Handler.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		panic(http.ErrAbortHandler) // the provider went away while it asked
	}
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), r.Body))
	at, f := h.begin(r, body)
	if f == nil {
		rec := &status{ResponseWriter: w, code: http.StatusOK}
		h.next.ServeHTTP(rec, r)
		h.ended(at, rec.code)
		return
	}
	if f.Delay > 0 && (clock.System{}).Sleep(r.Context(), f.Delay) != nil {
		panic(http.ErrAbortHandler)
	}
	if f.Hang {
		select {
		case <-f.healed:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}
	if f.Cut == CutBefore {
		panic(http.ErrAbortHandler)
	}
	out := httptest.NewRecorder()
	if f.Status != 0 {
		maps.Copy(out.Header(), f.Header)
		out.WriteHeader(f.Status)
		_, _ = out.WriteString(f.Body) // into memory
	} else {
		h.next.ServeHTTP(out, r)
	}
	if f.Cut == CutAfter {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), out.Header())
	b := out.Body.Bytes()
	if f.Cut == CutMiddle {
		w.Header().Del("Content-Length")
		w.WriteHeader(out.Code)
		_, _ = w.Write(b[:len(b)/2]) // the connection is killed whatever this says
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	h.ended(at, out.Code)
	w.WriteHeader(out.Code)
	_, _ = w.Write(b) // a provider that went away does not want it
}

// status remembers the status of an answer that passes.
type status struct {
	http.ResponseWriter

	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController find what the writer below can do.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }
