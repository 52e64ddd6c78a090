package pages_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/pages"
)

// try is one request that a node got.
type try struct {
	node int
	id   string // request id
}

// nodes are servers that fail as they are told: the path of a request names the
// errors of its tries, in order, reason and retry; after them it is answered.
type nodes struct {
	mu    sync.Mutex
	tries map[string][]try
}

func (n *nodes) serve(node int, w http.ResponseWriter, r *http.Request) {
	var body struct {
		RequestID string `json:"requestId"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body) // what is not there is not equal
	n.mu.Lock()
	got := len(n.tries[r.URL.Path])
	n.tries[r.URL.Path] = append(n.tries[r.URL.Path], try{node, body.RequestID})
	n.mu.Unlock()
	plan := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if got >= len(plan) {
		_, _ = w.Write([]byte(`{"ok": true}`))
		return
	}
	switch plan[got] {
	case "cut":
		panic(http.ErrAbortHandler)
	case "proxy": // what stands before a node and does not reach it
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte("<html>bad gateway</html>"))
		return
	case "login":
		_, _ = w.Write([]byte("<html>who are you?</html>"))
		return
	case "other": // JSON of somebody else
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"error": "forbidden"}`))
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = fmt.Fprintf(w, `{"error": {"code": 503, "reason": "R", "message": "m", "retry": %q}}`, plan[got])
}

// start starts two nodes, and writes the files that a caller has.
func (n *nodes) start(t *testing.T, dir string) (addrs []string) {
	t.Helper()
	for i := range 2 {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.serve(i, w, r) }))
		t.Cleanup(s.Close)
		addrs = append(addrs, s.Listener.Addr().String())
		cert := s.TLS.Certificates[0]
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		for name, block := range map[string]*pem.Block{
			"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
		} {
			if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return addrs
}

// TestThePythonClassTriesAgainAsTheErrorSays, with one request id.
func TestThePythonClassTriesAgainAsTheErrorSays(t *testing.T) {
	class := ""
	for _, b := range pages.Read(t, "../../docs/python.md").Blocks {
		if b.Runs("python") && strings.Contains(b.Text, "class Krypton:") {
			class = b.Text
		}
	}
	if class == "" {
		t.Fatal("docs/python.md has no class")
	}
	// Times of failures, and on which nodes of two the tries are.
	cases := []struct {
		path   string
		worked bool
		nodes  []int
	}{
		{"/never", false, []int{0}},
		{"/same-node", false, []int{0}},
		{"/other-node", true, []int{0, 1}},
		{"/after-delay/after-delay", true, []int{1, 0, 1}},
		{"/cut/other-node/after-delay/never", false, []int{1, 0, 1, 0}},
		{"/cut/cut", true, []int{0, 1, 0}},
		{"/proxy/login/other", true, []int{0, 1, 0, 1}},
	}
	dir := t.TempDir()
	n := &nodes{tries: map[string][]try{}}
	addrs := n.start(t, dir)
	driver := "k = Krypton(['" + strings.Join(addrs, "', '") + "'], 'cert.pem', 'cert.pem', 'key.pem')\n"
	want := ""
	for _, c := range cases {
		driver += "try:\n    print(k.change('" + c.path + "')['ok'])\nexcept KryptonError as e:\n    print(e.status, e.reason, repr(e.hint))\n"
		if c.worked {
			want += "True\n"
		} else {
			want += "503 R ''\n"
		}
	}
	page, err := pages.Parse("class.md", "```python\n"+class+driver+"```\n```text\n"+want+"```\n")
	if err != nil {
		t.Fatal(err)
	}
	page.Run(t, pages.Python, dir)
	seen := map[string]bool{}
	for _, c := range cases {
		var at []int
		for i, try := range n.tries[c.path] {
			at = append(at, try.node)
			if id := n.tries[c.path][0].id; try.id != id || len(id) != 36 || (i == 0 && seen[id]) {
				t.Errorf("%s: request ids %v", c.path, n.tries[c.path])
			}
			seen[try.id] = true
		}
		if !slices.Equal(at, c.nodes) {
			t.Errorf("%s: tries on the nodes %v, want %v", c.path, at, c.nodes)
		}
	}
}
