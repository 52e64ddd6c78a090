package rest

import (
	"bytes"
	"net/http"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// FuzzDecode reads answers of every status, of nodes and of others. An answer is
// an error or a message, never both, and an error has a code of the table.
func FuzzDecode(f *testing.F) {
	f.Add(200, true, "application/json", []byte(`{"plaintext":"AAEC","keyVersion":"v"}`))
	f.Add(200, false, "application/json", []byte(`{"plaintext":"AAEC"}`))
	f.Add(200, true, "application/json", []byte(`{"keyVersion":"v","plaintext":7}`))
	f.Add(403, true, "application/json", []byte(`{"error":{"code":403,"reason":"DENIED","message":"no","hint":"h","retry":"never"}}`))
	f.Add(409, true, "application/json; charset=utf-8", []byte(`{"error":{"code":409,"reason":"X","message":"`+"\xff"+`"}}`))
	f.Add(502, true, "text/html", []byte("<html>"))
	f.Add(999, true, "application/json", []byte(`{"error":null}`))
	f.Add(-1, true, "a/b;;", []byte(`[[[[[[[[`))
	f.Fuzz(func(t *testing.T, status int, node bool, kind string, body []byte) {
		h := http.Header{"Content-Type": {kind}}
		if node {
			h.Set(headerNode, "n1")
		}
		var out kryptonv1.DecryptResponse
		raw, err := read(iotest.HalfReader(bytes.NewReader(body)), -1)
		if err != nil || !bytes.Equal(raw, body) {
			t.Fatalf("read %d of %d bytes: %v", len(raw), len(body), err)
		}
		err = decode(status, h, raw, &out)
		if err == nil {
			if status != http.StatusOK || !node {
				t.Fatalf("status %d, of a node %v: taken for an answer", status, node)
			}
			return
		}
		if !proto.Equal(&out, &kryptonv1.DecryptResponse{}) {
			t.Fatalf("%v, and a message %v", err, &out)
		}
		if e := errs.From(wire.FromStatus(err)); !e.Code.Valid() {
			t.Fatalf("code %v", e.Code)
		}
	})
}

// TestAChangeThatWasNotWaitedForIsAnAnswer, and no other 202 is: a node names the
// change. What stands between may say that it will see to it later.
func TestAChangeThatWasNotWaitedForIsAnAnswer(t *testing.T) {
	t.Parallel()
	body := []byte(`{"name":"tenants/acme"}`)
	for _, named := range []bool{true, false} {
		h := http.Header{"Content-Type": {jsonType}}
		h.Set(headerNode, "n1")
		h.Set(headerCorrelation, "c1")
		if named {
			h.Set(headerOperation, "operations/o1")
		}
		var out kryptonv1.Tenant
		if err := decode(http.StatusAccepted, h, body, &out); (err == nil) != named || (out.GetName() != "") != named {
			t.Errorf("named %v: %v, %v", named, &out, err)
		}
		for _, code := range []int{http.StatusAccepted, http.StatusOK} {
			var md metadata.MD
			headers(code, h, []grpc.CallOption{grpc.Header(&md)})
			if said, ok := answer.Parse(md.Get(answer.Header)[0]); !ok || said.Pending != (named && code == http.StatusAccepted) {
				t.Errorf("named %v, %d: %+v", named, code, said)
			}
		}
	}
}

// TestI4_BodiesAreBounded reads up to the limit and not beyond.
func TestI4_BodiesAreBounded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		size   int
		length int64
		ok     bool
	}{{0, 0, true}, {0, -1, true}, {firstRead, -1, true}, {firstRead + 1, -1, true}, {maxBody, maxBody, true}, {maxBody, -1, true}, {maxBody + 1, -1, false}, {10, maxBody + 1, false}, {100, 10, true}} {
		b, err := read(bytes.NewReader(make([]byte, tt.size)), tt.length)
		if (err == nil) != tt.ok || tt.ok && len(b) != tt.size {
			t.Errorf("%d bytes announced as %d: %d, %v", tt.size, tt.length, len(b), err)
		}
		if err != nil && !errs.Is(err, errs.TooLarge) {
			t.Errorf("%d bytes announced as %d: %v", tt.size, tt.length, err)
		}
	}
}
