package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/server/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a connection that notes what arrives and answers as told.
type recorder struct {
	method string
	req    proto.Message
	md     metadata.MD
	err    error
}

func (r *recorder) Invoke(ctx context.Context, method string, args, _ any, opts ...grpc.CallOption) error {
	r.method, r.req = method, proto.Clone(args.(proto.Message))
	r.md, _ = metadata.FromOutgoingContext(ctx)
	for _, o := range opts {
		if h, ok := o.(grpc.HeaderCallOption); ok {
			*h.HeaderAddr = metadata.Pairs(answer.Header, "id n 7", "x-internal", "secret")
		}
	}
	return r.err
}

func (*recorder) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, wire.ToStatus(errs.New(errs.Unimplemented, "no")).Err()
}

func serve(t testing.TB, r *recorder, req *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	h, err := gateway.New(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

// TestI1_NothingOfARequestBecomesMetadata whatever the sender calls it.
func TestI1_NothingOfARequestBecomesMetadata(t *testing.T) {
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://krypton.example/v1/tenants/acme", nil)
	for _, h := range []string{
		"Grpc-Metadata-Krypton-Principal", "Grpc-Metadata-Authorization", "Grpc-Metadata-X-Bin", "Authorization", "Krypton-Principal",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Client-Cert", "Forwarded", "Via", "Cookie", "Grpc-Timeout", "Traceparent", "Tracestate", "Baggage",
	} {
		req.Header.Set(h, "1S")
	}
	r := &recorder{}
	if w := serve(t, r, req); w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	if len(r.md) != 0 {
		t.Fatalf("arrived: %v", r.md)
	}
	if got := r.req.(*kryptonv1.GetTenantRequest).GetName(); r.method != "/krypton.v1.Tenants/GetTenant" || got != "tenants/acme" {
		t.Fatalf("%s of %s", r.method, got)
	}
}

// TestI2_AnErrorIsItsRow for every code of the table.
func TestI2_AnErrorIsItsRow(t *testing.T) {
	for _, c := range errs.All() {
		r := &recorder{err: wire.ToStatus(errs.New(c, "message", errs.Hint("hint"), errs.Cause(context.Canceled))).Err()}
		w := serve(t, r, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/tenants/acme", nil))
		var got map[string]map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v in %s", c, err, w.Body)
		}
		want := map[string]map[string]any{"error": {
			"code": float64(c.Row().HTTP), "reason": c.String(), "message": "message", "hint": "hint", "retry": c.Row().Retry.String(),
		}}
		if diff := cmp.Diff(want, got); diff != "" || w.Code != c.Row().HTTP {
			t.Errorf("%s, status %d:\n%s", c, w.Code, diff)
		}
		if w.Header().Get(gateway.CorrelationHeader) != "id" || w.Header().Get(gateway.IndexHeader) != "7" {
			t.Errorf("%s: headers %v", c, w.Header())
		}
	}
}

// TestI3_NothingIsCached and no header of the inside gets out.
func TestI3_NothingIsCached(t *testing.T) {
	for _, target := range []string{"/v1/tenants/acme", "/v1/none", "/v1/tenants/acme?x=1"} {
		w := serve(t, &recorder{}, httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil))
		if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", target, w.Header())
		}
		for h := range w.Header() {
			if strings.Contains(h, "Internal") || strings.HasPrefix(h, "Grpc-") {
				t.Errorf("%s: header %s", target, h)
			}
		}
	}
}

// TestAnErrorOfTheGatewayQuotesNothing of what the sender sent.
func TestAnErrorOfTheGatewayQuotesNothing(t *testing.T) {
	const mark = "s3cret"
	for _, body := range []string{`{} ` + mark, `{"` + mark + `":1}`, `{"plaintext":"` + mark + `!"}`, mark, `{"encryptionContext":[{"key":` + mark} {
		w := serve(t, &recorder{}, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/tenants/a/services/b:encrypt", strings.NewReader(body)))
		if w.Code != http.StatusBadRequest || strings.Contains(w.Body.String(), mark) {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	}
	w := serve(t, &recorder{}, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/tenants?"+mark+"=1", nil))
	if w.Code != http.StatusBadRequest || strings.Contains(w.Body.String(), mark) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestAnEmptyBodyIsAMessageWithoutFields, as an object without fields is.
func TestAnEmptyBodyIsAMessageWithoutFields(t *testing.T) {
	for _, body := range []string{`{}`, ` {} `, ``} {
		w := serve(t, &recorder{}, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/tenants/a/services/b:encrypt", strings.NewReader(body)))
		if w.Code != http.StatusOK {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	}
}

// FuzzABodyNeverEndsInAPanicOrA500 sends anything to anything.
func FuzzABodyNeverEndsInAPanicOrA500(f *testing.F) {
	for _, b := range []string{
		`{}`, ``, `null`, `[]`, `{"plaintext":"AAAA"}`, `{"encryptionContext":[{"key":"a","value":"b"}],"resource":"r"}`, `{"length":-1}`,
		`{"length":1e99}`, `{"requestId":"x","etag":"\"1\"","validateOnly":true}`, `{"binding":{"keystore":"k","key":"k"}}`, `{"name":"other"}`,
		strings.Repeat(`{"binding":`, 2000), `{"x":"\ud800"}`, "{\"a\":\"\x00\xff\"}", `{} {}`, `{"ttlSeconds":4294967296}`,
	} {
		f.Add("POST", "/v1/tenants/a/services/b:encrypt", b)
		f.Add("POST", "/v1/tenants", b)
		f.Add("DELETE", "/v1/tenants/a", b)
	}
	f.Add("GET", "/v1/tenants?pageSize=99999999999", "")
	f.Add("GET", "/v1/tenants/%zz", "")
	f.Add("GET", "/v1/"+strings.Repeat("a/", 500), "")
	f.Add("PATCH", "/v1/tenants:x:y", "")
	f.Add("GET", "/v1/tenants/a/services/b/resources/%252F:x", "")
	f.Add("POST", "/v1/:seal", "{}")
	h, err := gateway.New(context.Background(), &recorder{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "https://x", strings.NewReader(body))
		if err != nil || !strings.HasPrefix(target, "/") {
			return // not a request that net/http would hand on
		}
		if req.URL, err = req.URL.Parse(target); err != nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 && w.Code != http.StatusNotImplemented {
			t.Fatalf("%s %q with %q: %d %s", method, target, body, w.Code, w.Body)
		}
		if w.Code != http.StatusOK {
			var e struct {
				Error struct{ Reason string } `json:"error"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error.Reason == "" {
				t.Fatalf("%s %q with %q: %d %s", method, target, body, w.Code, w.Body)
			}
		}
	})
}

// TestListedKeepsOnlyTheList, in whatever case, and nothing of the request itself changes.
func TestListedKeepsOnlyTheList(t *testing.T) {
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "https://krypton.example/v1/tenants", strings.NewReader("{}"))
	for _, h := range []string{
		"authorization", "TRACEPARENT", "Prefer", "Origin", "Sec-Fetch-Site", "X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip", "Grpc-Metadata-Authorization", "Cookie", "Tracestate",
		"Baggage", "X-Request-Id", "X-Http-Method-Override", "Content-Type", "User-Agent", "Grpc-Timeout",
	} {
		req.Header.Add(h, "a")
		req.Header.Add(h, "b")
	}
	req.Trailer = http.Header{"Authorization": {"c"}}
	before := req.Header.Clone()
	got := gateway.Listed(req)
	both := []string{"a", "b"}
	want := http.Header{"Authorization": both, "Traceparent": both, "Prefer": both, "Origin": both, "Sec-Fetch-Site": both}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if got.Trailer != nil || got.RemoteAddr != "" {
		t.Errorf("the trailers %v or the address %q are left", got.Trailer, got.RemoteAddr)
	}
	if diff := cmp.Diff(before, req.Header); diff != "" {
		t.Errorf("the library's own header changed:\n%s", diff)
	}
}

func TestTheTimeToWaitIsWholeSecondsUp(t *testing.T) {
	for after, want := range map[time.Duration]string{0: "", time.Nanosecond: "1", time.Second: "1", 1001 * time.Millisecond: "2"} {
		w := httptest.NewRecorder()
		gateway.WriteError(w, errs.New(errs.Throttled, "slower", errs.RetryAfter(after)))
		if got := w.Header().Get("Retry-After"); got != want || w.Code != http.StatusTooManyRequests {
			t.Errorf("%v is %q with HTTP %d", after, got, w.Code)
		}
	}
}
