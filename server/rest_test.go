package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// binding is one HTTP form of a method, as http.yaml has it.
type binding struct {
	Verb string
	Path string // /v1/{name=tenants/*}:suspend
	Body string
}

type httpRule struct {
	Selector   string     `yaml:"selector"`
	Get        string     `yaml:"get"`
	Post       string     `yaml:"post"`
	Delete     string     `yaml:"delete"`
	Body       string     `yaml:"body"`
	Additional []httpRule `yaml:"additional_bindings"`
}

func (r httpRule) binding() binding {
	switch {
	case r.Get != "":
		return binding{http.MethodGet, r.Get, r.Body}
	case r.Post != "":
		return binding{http.MethodPost, r.Post, r.Body}
	}
	return binding{http.MethodDelete, r.Delete, r.Body}
}

// httpTable reads http.yaml: method (krypton.v1.Crypto.Encrypt) to its forms.
func httpTable(t testing.TB) map[string][]binding {
	t.Helper()
	raw, err := os.ReadFile("gateway/http.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		HTTP struct {
			Rules []httpRule `yaml:"rules"`
		} `yaml:"http"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	out := map[string][]binding{}
	for _, r := range file.HTTP.Rules {
		out[r.Selector] = append(out[r.Selector], r.binding())
		for _, a := range r.Additional {
			out[r.Selector] = append(out[r.Selector], a.binding())
		}
	}
	return out
}

var variable = regexp.MustCompile(`\{([a-z_]+)=([^}]+)\}`)

// urlOf builds the path of a message, and returns the field that went into it.
// A name is percent-encoded segment by segment, as docs/contract.md says; in
// a name that is encoded itself this encodes the percent signs once more.
func (b binding) urlOf(m proto.Message) (path, field string, ok bool) {
	v := variable.FindStringSubmatch(b.Path)
	if v == nil {
		return b.Path, "", true
	}
	r := m.ProtoReflect()
	name := r.Get(r.Descriptor().Fields().ByName(protoreflect.Name(v[1]))).String()
	want := regexp.MustCompile("^" + strings.ReplaceAll(v[2], "*", "[^/]+") + "$")
	if !want.MatchString(name) {
		return "", "", false
	}
	segs := strings.Split(name, "/")
	for i := range segs {
		segs[i] = url.PathEscape(segs[i])
	}
	return strings.Replace(b.Path, v[0], strings.Join(segs, "/"), 1), v[1], true
}

// request builds the HTTP request of a message, as somebody with curl and the
// OpenAPI file would. It reports false if no form of the method has room for the
// message's name.
func (w *world) request(t testing.TB, i int, forms []binding, m proto.Message) (*http.Request, bool) {
	t.Helper()
	for _, b := range forms {
		path, field, ok := b.urlOf(m)
		if !ok {
			continue
		}
		rest := proto.Clone(m)
		if field != "" {
			rest.ProtoReflect().Clear(rest.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field)))
		}
		raw, err := protojson.Marshal(rest)
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader
		query := url.Values{}
		if b.Body != "" {
			body = bytes.NewReader(raw)
		} else {
			var fields map[string]any
			dec := json.NewDecoder(bytes.NewReader(raw))
			dec.UseNumber() // a large number stays as it was written
			if err := dec.Decode(&fields); err != nil {
				t.Fatal(err)
			}
			for k, v := range fields {
				query.Set(k, fmt.Sprint(v))
			}
		}
		u := "https://" + w.members[i].addrs.REST + path
		if len(query) > 0 {
			u += "?" + query.Encode()
		}
		req, err := http.NewRequestWithContext(limited(t), b.Verb, u, body)
		if err != nil {
			t.Fatal(err)
		}
		return req, true
	}
	return nil, false
}

// httpAnswer is what came back.
type httpAnswer struct {
	status int
	header http.Header
	body   []byte
}

func (w *world) do(t testing.TB, person, proto string, req *http.Request) httpAnswer {
	t.Helper()
	for {
		resp, err := w.http(person, proto).Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		// As patient does it for gRPC.
		if resp.StatusCode == http.StatusOK || !bytes.Contains(body, []byte(`"NOT_SERVING"`)) || (clock.System{}).Sleep(req.Context(), 20*time.Millisecond) != nil {
			return httpAnswer{resp.StatusCode, resp.Header, body}
		}
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// send makes a request from its parts.
func (w *world) send(t testing.TB, person, method, path, body string, header ...string) httpAnswer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(limited(t), method, "https://"+w.members[0].addrs.REST+path, r)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return w.do(t, person, "h2", req)
}

// refusal reads an error body and checks its form: the row of the table, and
// nothing more.
func (a httpAnswer) refusal(t testing.TB) refusal {
	t.Helper()
	if a.status == http.StatusOK {
		return refusal{}
	}
	var body struct {
		Error struct {
			Code    int    `json:"code"`
			Reason  string `json:"reason"`
			Message string `json:"message"`
			Hint    string `json:"hint"`
			Retry   string `json:"retry"`
		} `json:"error"`
	}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		t.Fatalf("the body of an error is %q: %v", a.body, err)
	}
	code, ok := errs.ByName(body.Error.Reason)
	row := code.Row()
	if !ok || row.HTTP != a.status || body.Error.Code != a.status || body.Error.Retry != row.Retry.String() {
		t.Fatalf("status %d with body %s is not the row of %s", a.status, a.body, code)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Fatalf("content type of an error is %q", got)
	}
	return refusal{code, body.Error.Message, body.Error.Hint}
}
