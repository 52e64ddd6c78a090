package transit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// The transport may read a body after the exchange has ended, and may read it twice.
func TestI5_ABodyIsWipedWhenNobodyReadsItAnyMore(t *testing.T) {
	b := []byte("secret")
	o := newOutgoing(b)
	first, second := o.reader(), o.reader()
	o.finish()
	if got, err := io.ReadAll(second); err != nil || string(got) != "secret" {
		t.Fatalf("%q, %v", got, err)
	}
	for range 2 { // closing twice counts once
		if err := second.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if string(b) != "secret" {
		t.Fatal("wiped under a reader")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Fatalf("left: %q", b)
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("read after close")
	}
}

func TestI5_ABodyThatWasNeverSentIsWipedToo(t *testing.T) {
	b := []byte("secret")
	newOutgoing(b).finish()
	if !bytes.Equal(b, make([]byte, len(b))) {
		t.Fatalf("left: %q", b)
	}
}

// The client library gets no copy to send: the transport reads the buffer that is wiped.
func TestI5_TheTransportReadsTheBufferItself(t *testing.T) {
	o := newOutgoing([]byte("ours"))
	ctx := context.WithValue(t.Context(), outgoingKey{}, o)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://127.0.0.1:1", strings.NewReader("the library's"))
	if err != nil {
		t.Fatal(err)
	}
	// Nothing listens: what matters is that the body is closed, and then wiped.
	if res, err := (carrier{&http.Transport{}}).RoundTrip(req); err == nil {
		t.Fatal(errors.Join(errors.New("something listens on port 1"), res.Body.Close()))
	}
	o.finish()
	if string(o.b) == "ours" {
		t.Error("the body was not given to the transport, or not closed")
	}
}

func TestI5_AnAnswerIsReadIntoOneBuffer(t *testing.T) {
	for _, c := range []struct {
		body   string
		length int64
		limit  int
		ok     bool
	}{
		{"abc", 3, 10, true},
		{"abc", -1, 10, true},
		{"", 0, 10, true},
		{"abc", 4, 10, false}, // cut
		{"abcd", 3, 10, false},
		{strings.Repeat("a", 11), -1, 10, false},
		{strings.Repeat("a", 11), 11, 10, false},
	} {
		b, err := readAll(strings.NewReader(c.body), c.length, c.limit)
		if (err == nil) != c.ok || c.ok && string(b) != c.body {
			t.Errorf("%q, length %d, limit %d: %q, %v", c.body, c.length, c.limit, b, err)
		}
	}
}

func TestTokensPrintAsNothing(t *testing.T) {
	g := grant{token: "hvs.secret"}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", g.token, g.token, g.token, g.token, g.token, g.token)} {
		if strings.Contains(s, "hvs") || strings.Contains(s, "6876732e") {
			t.Error(s)
		}
	}
	if _, err := json.Marshal(g.token); err == nil {
		t.Error("a token has an encoding")
	}
}

// FuzzAnswers reads what a broken or hostile server may answer to a decryption:
// no panic, a secret within its limits, and Denied only for the server's words.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"request_id":"r","data":{"batch_results":[{"plaintext":"AAAA","error":"","reference":""}]}}`,
		`{"request_id":"r","data":{"batch_results":[{"plaintext":"AAAA","plaintext":"AAAA"}]}}`,
		`{"request_id":"r","data":{"batch_results":[{"plaintext":"A\u0041AA"}]}}`,
		`{"request_id":"r","data":{"batch_results":[{"plaintext":"===="},{"plaintext":"AAAA"}]}}`,
		`{"request_id":"r","data":{"batch_results":[{"plaintext":"","error":"cipher: message authentication failed"}]}}`,
		`{"errors":["encryption key not found"]}`, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, `{"errors":null}`, `[]`, `{"data":7}`, ``,
	} {
		f.Add(200, []byte(s))
		f.Add(400, []byte(s))
		f.Add(403, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		// Alone, and within an answer.
		one := plaintext{class: memsec.Cold}
		if err := one.UnmarshalJSON(body); err != nil && !one.secret.IsZero() {
			t.Error("a secret beside an error")
		}
		one.secret.Destroy()
		var rep decrypted
		opened := &rep.Data.BatchResults[0].Plaintext
		opened.class = memsec.Hot
		err := json.Unmarshal(body, &rep)
		defer opened.secret.Destroy()
		if n := opened.secret.Len(); !opened.secret.IsZero() && (n < 1 || n > keystore.MaxSecret) {
			t.Errorf("a secret of %d bytes", n)
		}
		if err != nil {
			return
		}
		rep.understood = rep.Errors != nil || rep.RequestID != ""
		v, fl := judge(result{status}, &rep, call{op: keystore.OpUnwrap})
		if (v == verdictDone) != (fl == nil) {
			t.Errorf("verdict %d with %v", v, fl)
		}
		words := strings.Join(rep.Errors, "")
		if fl != nil && fl.class == keystore.Denied && !strings.Contains(words, saysNoKey) && !strings.Contains(words, saysUnknownType) &&
			!strings.Contains(words, saysTooOld) && !strings.Contains(words, saysSoftDeleted) {
			t.Errorf("Denied for %d %q", status, words)
		}
	})
}
