package server_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/server"
	"github.com/openkcm/krypton-cluster/server/gateway"
)

// TestMessagesThatAreNone sends bytes to methods that are not their messages.
func TestMessagesThatAreNone(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	before := registry(t, g.members[0].state.View())
	good, err := proto.Marshal(&kryptonv1.EncryptRequest{Service: pay, Resource: g.text, Plaintext: g.canary})
	if err != nil {
		t.Fatal(err)
	}
	// field 2 (resource), a string of one byte that is no UTF-8
	noText := append(bytes.Clone(good), 0x12, 1, 0xff)
	for _, c := range []struct {
		id, who, method string
		body            []byte
	}{
		{"request/message-not-decoded", "workload/acme", "Crypto.Encrypt", []byte{0xff}},
		{"request/message-not-decoded", "workload/acme", "Crypto.Encrypt", []byte(g.text)},
		{"request/message-not-decoded", "workload/acme", "Crypto.Encrypt", good[:len(good)-1]},
		{"request/message-not-decoded", "workload/acme", "Crypto.Encrypt", noText},
		{"request/message-not-decoded", "governor", "Tenants.DeleteTenant", append([]byte{0x0a, 9}, "tenants/\xff"...)},
		{"request/message-not-decoded", "governor", "Tenants.DeleteTenant", bytes.Repeat([]byte{0x0b}, 20_000)}, // groups in groups
		{"request/field-unknown", "governor", "Tenants.DeleteTenant", append(append([]byte{0x0a, 12}, acme...), 0xfa, 0x3f, 1, 'x')},
		{"request/field-unknown", "governor", "Tenants.DeleteTenant", append(append([]byte{0x0a, 12}, acme...), 0x2a, 1, 'x')}, // now, as text
		{"request/method-unknown", "governor", "Tenants.DestroyEverything", good},
		{"request/method-unknown", "governor", "Wishes.Grant", good},
	} {
		err := g.raw(t, c.who, c.method, c.body)
		situationtest.Error(t, c.id, wire.FromStatus(err), g.canary, []byte(g.text))
	}
	// To somebody without a certificate it is the same as every other call.
	if err := g.raw(t, "", "Crypto.Encrypt", []byte{0xff}); codeOf(err) != errs.Unauthenticated {
		t.Errorf("a stranger's bytes: %v", err)
	}
	large, err := proto.Marshal(&kryptonv1.EncryptRequest{Service: pay, Plaintext: make([]byte, server.MaxMessage)})
	if err != nil {
		t.Fatal(err)
	}
	situationtest.Error(t, "request/message-too-large", wire.FromStatus(g.raw(t, "workload/acme", "Crypto.Encrypt", large)))
	if !bytes.Equal(before, registry(t, g.members[0].state.View())) {
		t.Error("what was refused changed the registry")
	}
	g.noTrace(t)
}

// TestWrongHTTP goes through everything that can be wrong with the form of an
// HTTP request.
func TestWrongHTTP(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	before := registry(t, g.members[0].state.View())
	secret := base64.StdEncoding.EncodeToString(g.canary)
	encrypt, suspend := "/v1/"+pay+":encrypt", "/v1/tenants/acme:suspend"
	const post, get, del = http.MethodPost, http.MethodGet, http.MethodDelete
	for _, c := range []struct {
		id, verb, path, body string
		header               []string
	}{
		{"request/body-not-json", post, encrypt, g.text, nil},
		{"request/body-not-json", post, encrypt, `{"plaintext":"` + secret, nil},
		{"request/body-not-json", post, encrypt, `{"plaintext":"` + secret + `"} {}`, nil},
		{"request/body-not-json", post, encrypt, `{'plaintext':'` + secret + `'}`, nil},
		{"request/body-not-json", post, suspend, "validateOnly=true", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"request/body-not-json", post, suspend, strings.Repeat("[", 1<<20), nil},
		{"request/body-not-json", post, suspend, "\x1f\x8b\x08\x00", []string{"Content-Encoding", "gzip"}},
		{"request/body-field", post, encrypt, `{"plaintext":"` + secret + `!"}`, nil},
		{"request/body-field", post, encrypt, `{"plaintext":"` + secret + `","` + g.text + `":1}`, nil},
		{"request/body-field", post, encrypt, `{"plaintext":"` + secret + `","plaintext":""}`, nil},
		{"request/body-field", post, encrypt, "{\"resource\":\"" + g.text + "\xff\"}", nil},
		{"request/body-text", post, encrypt, `{"resource":"\ud800"}`, nil},
		{"request/body-field", post, encrypt, `{"encryptionContext":{"k":"` + g.text + `"}}`, nil},
		{"request/body-field", post, encrypt, `{"encryptionContext":["` + g.text + `"]}`, nil},
		{"request/body-field", post, "/v1/" + pay + ":generateDataKey", `{"length":1e400}`, nil},
		{"request/body-field", post, "/v1/" + pay + ":generateDataKey", `{"length":4294967296}`, nil},
		{"request/body-field", post, "/v1/" + pay + ":generateDataKey", `{"length":-1}`, nil},
		{"request/body-field", post, "/v1/" + pay + ":generateDataKey", `{"length":32.5}`, nil},
		{"request/body-field", post, suspend, `{"validateonly":true}`, nil},
		{"request/body-field", post, suspend, `{"validateOnly":"` + g.text + `"}`, nil},
		{"request/body-field", post, suspend, `[1]`, nil},
		{"request/body-field", post, suspend, `"` + g.text + `"`, nil},
		{"request/body-field", post, suspend, `null`, nil},
		{"request/body-field", post, "/v1/access:issueCertificate", `{"role":"ROLE_EMPEROR"}`, nil},
		{"request/body-field-of-the-path", post, suspend, `{"name":"tenants/other"}`, nil},
		{"request/body-field-of-the-path", post, suspend, `{"name":"tenants/acme"}`, nil},
		{"request/body-field-of-the-path", post, encrypt, `{"service":"tenants/other/services/pay","plaintext":"` + secret + `"}`, nil},
		{"request/body-field-of-the-path", post, "/v1/tenants/acme/services", `{"parent":"tenants/other","serviceId":"x"}`, nil},
		{"request/body-too-large", post, encrypt, `{"plaintext":"` + strings.Repeat("A", gateway.MaxBody) + `"}`, nil},
		{"request/body-not-taken", del, "/v1/tenants/acme", `{"validateOnly":true}`, nil},
		{"request/body-not-taken", get, "/v1/tenants", `{"pageSize":1}`, nil},
		{"request/parameter", del, "/v1/tenants/acme?validateonly=true", "", nil},
		{"request/parameter", del, "/v1/tenants/acme?validateOnly=" + g.text, "", nil},
		{"request/parameter", del, "/v1/tenants/acme?validateOnly=true&validateOnly=false", "", nil},
		{"request/parameter", del, "/v1/tenants/acme?validateOnly=true&validate_only=false", "", nil},
		{"request/parameter", get, "/v1/tenants?pageSize=-1", "", nil},
		{"request/parameter", get, "/v1/tenants?pageSize=4294967296", "", nil},
		{"request/parameter", get, "/v1/tenants?" + g.text, "", nil},
		{"request/parameter", get, "/v1/tenants?pageSize=1;pageSize=2", "", nil},
		{"request/parameter", get, "/v1/tenants?filter=%zz", "", nil},
		{"request/filter", get, "/v1/tenants?filter=state%3dACTIVE%ff", "", nil},
		{"request/parameter-of-the-path", del, "/v1/tenants/acme?name=tenants/other", "", nil},
		{"request/parameter-of-the-path", get, "/v1/tenants/acme/services?parent=tenants/other", "", nil},
		{"request/parameter-of-a-post", post, suspend + "?validateOnly=true", "{}", nil},
		{"request/path-unknown", get, "/", "", nil},
		{"request/path-unknown", get, "/v1/" + g.text, "", nil},
		{"request/path-unknown", get, "/v1/tenants/../tenants/acme", "", nil},
		{"request/path-unknown", get, "/v1//tenants/acme", "", nil},
		{"request/path-unknown", get, "/v1/tenants/acme/", "", nil},
		{"request/path-unknown", get, "/v1/" + pay + "/resources/a%2Fb", "", nil},
		{"request/path-unknown", post, "/krypton.v1.Crypto/Encrypt", "{}", nil},
		{"request/http-method", http.MethodPut, "/v1/tenants", "", nil},
		{"request/http-method", http.MethodPatch, "/v1/tenants/acme", "", nil},
		{"request/http-method", post, "/v1/tenants/acme", "{}", []string{"X-HTTP-Method-Override", "DELETE"}},
		{"request/http-method", http.MethodOptions, "/v1/tenants", "", nil},
		{"request/other-site", post, "/v1/seal:seal", "{}", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}},
	} {
		a := g.send(t, "governor", c.verb, c.path, c.body, c.header...)
		situationtest.HTTP(t, c.id, a.status, a.body, g.canary, []byte(g.text))
		if a.header.Get(gateway.CorrelationHeader) == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: headers %v", c.verb, c.path, a.header)
		}
	}
	if !bytes.Equal(before, registry(t, g.members[0].state.View())) {
		t.Error("what was refused changed the registry")
	}
	g.noTrace(t)
}
