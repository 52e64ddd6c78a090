package server_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/answer"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/server"
	"github.com/openkcm/krypton-cluster/server/gateway"
)

// served is a cluster of one node with the tenants acme and other.
func served(t testing.TB) *world {
	t.Helper()
	w := newWorld(t, 1)
	w.init(kryptonv1.SealMode_SEAL_MODE_AUTO)
	w.tenant("acme", "pay")
	w.tenant("other", "pay")
	return w
}

// forged is a certificate like the cluster's, by a CA that nobody registered.
func forged(t testing.TB, like tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), RawSubject: like.Leaf.RawIssuer, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "alice"}, URIs: like.Leaf.URIs, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestI1_NoHeaderSaysWhoTheCallerIs sends every header that somewhere means an
// identity, over both doors.
func TestI1_NoHeaderSaysWhoTheCallerIs(t *testing.T) {
	t.Parallel()
	w := served(t)
	gov := w.people["governor"].Leaf.URIs[0].String()
	lies := map[string]string{
		"grpc-metadata-krypton-principal": gov, "grpc-metadata-authorization": "Bearer x", "krypton-principal": gov, "krypton-role": "governor",
		"krypton-tenant": "acme", "x-forwarded-client-cert": "URI=" + gov, "x-forwarded-for": "10.0.0.1", "x-forwarded-user": "alice",
		"x-ssl-client-cert": "x", "forwarded": "for=1", "krypton-correlation-id": "00000000-0000-0000-0000-00000000dead",
		"x-request-id": "dead", "krypton-attempt": "7", "via": "node",
	}
	// A workload of the other tenant stays what it is, whatever it sends.
	ctx, pairs := limited(t), []string{}
	for k, v := range lies {
		pairs = append(pairs, k, v)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, pairs...)
	var md metadata.MD
	me, err := kryptonv1.NewAccessClient(w.grpc(0, "workload/other")).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{}, grpc.Header(&md))
	if err != nil || me.GetRole() != kryptonv1.Role_ROLE_WORKLOAD || me.GetTenant() != "tenants/other" {
		t.Fatalf("gRPC took the caller for %v, %v", me, err)
	}
	if _, err := kryptonv1.NewTenantsClient(w.grpc(0, "workload/other")).GetTenant(ctx, &kryptonv1.GetTenantRequest{Name: "tenants/acme"}); codeOf(err) != errs.NotFound {
		t.Fatalf("gRPC showed another tenant: %v", err)
	}
	if id := correlationOf(md); id == "" || strings.Contains(id, "dead") {
		t.Fatalf("the correlation id came from the caller: %v", id)
	}
	a := w.send(t, "workload/other", http.MethodGet, "/v1/access:whoAmI", "", pairs...)
	var who struct{ Role, Tenant string }
	if err := json.Unmarshal(a.body, &who); err != nil || who.Role != "ROLE_WORKLOAD" || who.Tenant != "tenants/other" {
		t.Fatalf("HTTP took the caller for %s", a.body)
	}
	if id := a.header.Get(gateway.CorrelationHeader); strings.Contains(id, "dead") || id == "" {
		t.Fatalf("the correlation id came from the caller: %q", id)
	}
	// Without a certificate, headers make nobody.
	if got := w.send(t, "", http.MethodGet, "/v1/access:whoAmI", "", pairs...).refusal(t); got.Code != errs.Unauthenticated {
		t.Fatalf("HTTP without a certificate answered %v", got)
	}
	// The one header that is read.
	a = w.send(t, "workload/other", http.MethodGet, "/v1/access:whoAmI", "", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if id := a.header.Get(gateway.CorrelationHeader); id != "0af76519-16cd-43dd-8448-eb211c80319c" {
		t.Fatalf("the trace id of the caller became %q", id)
	}
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "workload/other")).WhoAmI(
		metadata.AppendToOutgoingContext(limited(t), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
		&kryptonv1.WhoAmIRequest{}, grpc.Header(&md)); err != nil || correlationOf(md) != "0af76519-16cd-43dd-8448-eb211c80319c" {
		t.Fatalf("the trace id of the caller became %v, %v", md, err)
	}
}

// TestI1_OnlyTheClustersOwnCAMakesCallers presents certificates that look right.
func TestI1_OnlyTheClustersOwnCAMakesCallers(t *testing.T) {
	t.Parallel()
	w := served(t)
	gov := w.people["governor"]
	nodeCert, err := tls.LoadX509KeyPair(w.members[0].dir.Path("tls/api.pem"), w.members[0].dir.Path("tls/node.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]tls.Certificate{"same name, other CA": forged(t, gov), "of a node": nodeCert} {
		cc := w.dial(0, w.tlsConfig(cert))
		defer func() { _ = cc.Close() }()
		if _, err := kryptonv1.NewAccessClient(cc).WhoAmI(limited(t), &kryptonv1.WhoAmIRequest{}); codeOf(err) != errs.Unauthenticated {
			t.Errorf("a certificate %s was answered with %v", name, err)
		}
	}
	// Somebody else's certificate without its key does not get through TLS.
	other, _ := newKey(t)
	conn, err := (&tls.Dialer{Config: w.tlsConfig(tls.Certificate{Certificate: gov.Certificate, PrivateKey: other})}).DialContext(limited(t), "tcp", w.members[0].addrs.REST)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil {
		t.Error("a certificate without its key was accepted")
	}
}

// TestI4_AnExpiredCertificateEndsAtTheNextCall keeps connections open over the
// end of a certificate: on gRPC, HTTP/2 and HTTP/1.1.
func TestI4_AnExpiredCertificateEndsAtTheNextCall(t *testing.T) {
	t.Parallel()
	w := served(t)
	w.issue("auditor", "", time.Hour)
	who := func() (viaGRPC errs.Code, viaHTTP []errs.Code) {
		_, err := w.call(t, 0, "auditor", "Tenants.ListTenants", &kryptonv1.ListTenantsRequest{})
		for _, p := range []string{"h2", "http/1.1"} {
			req, rerr := http.NewRequestWithContext(limited(t), http.MethodGet, "https://"+w.members[0].addrs.REST+"/v1/tenants", nil)
			if rerr != nil {
				t.Fatal(rerr)
			}
			viaHTTP = append(viaHTTP, w.do(t, "auditor", p, req).refusal(t).Code)
		}
		return codeOf(err), viaHTTP
	}
	w.hangUp() // of the certificate before
	if g, h := who(); g != errs.Unspecified || h[0] != 0 || h[1] != 0 {
		t.Fatalf("a valid certificate was refused: %v %v", g, h)
	}
	w.members[0].door.advance(2 * time.Hour)
	if g, h := who(); g != errs.Unauthenticated || h[0] != errs.Unauthenticated || h[1] != errs.Unauthenticated {
		t.Fatalf("an expired certificate was accepted: %v %v", g, h)
	}
	if !bytes.Contains(w.members[0].records(), []byte("the client certificate expired")) {
		t.Fatal("the audit trail does not say why")
	}
}

// TestI5_AdminIsOnTheSocketOnly looks for the administration on the public ports
// and for the socket's mode.
func TestI5_AdminIsOnTheSocketOnly(t *testing.T) {
	t.Parallel()
	w := served(t)
	for _, m := range kryptonv1.Admin_ServiceDesc.Methods {
		name := "Admin." + m.MethodName
		for _, who := range []string{"operator", "governor", ""} {
			out := responseOf(t, name)
			err := w.grpc(0, who).Invoke(limited(t), "/krypton.v1.Admin/"+m.MethodName, &kryptonv1.GetStatusRequest{}, out)
			if codeOf(err) != errs.Unimplemented {
				t.Errorf("%s on the public port: %v", name, err)
			}
		}
	}
	for _, path := range []string{"/v1/admin:init", "/v1/status", "/krypton.v1.Admin/Init", "/krypton.v1.Crypto/Encrypt"} {
		if got := w.send(t, "operator", http.MethodPost, path, "{}").refusal(t); got.Code != errs.NotFound {
			t.Errorf("%s over HTTP: %v", path, got)
		}
	}
	m := w.members[0]
	for path, want := range map[string]os.FileMode{"run/admin.sock": 0o600 | os.ModeSocket, "run": 0o700 | os.ModeDir, "tls/api.pem": 0o600, "tls/callers.pem": 0o600} {
		st, err := os.Stat(m.dir.Path(path))
		if err != nil || st.Mode() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, st.Mode(), want, err)
		}
	}
	// The public services are not on the socket.
	if _, err := m.admin().GetStatus(limited(t), &kryptonv1.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownFieldsAreRefused at every depth, on both doors: an older node must
// not overlook a newer client's condition.
func TestUnknownFieldsAreRefused(t *testing.T) {
	t.Parallel()
	w := served(t)
	unknown := []byte{0xfa, 0x3f, 0x01, 'x'} // field 1023, one byte
	top := &kryptonv1.DeleteTenantRequest{Name: "tenants/other"}
	top.ProtoReflect().SetUnknown(unknown)
	if _, err := kryptonv1.NewTenantsClient(w.grpc(0, "governor")).DeleteTenant(limited(t), top); codeOf(err) != errs.InvalidArgument {
		t.Errorf("an unknown field was taken: %v", err)
	}
	deep := &kryptonv1.CreateTenantRequest{TenantId: "deep", Binding: &kryptonv1.Binding{Keystore: keystoreName, Key: sealKey}}
	deep.GetBinding().ProtoReflect().SetUnknown(unknown)
	if _, err := kryptonv1.NewTenantsClient(w.grpc(0, "governor")).CreateTenant(limited(t), deep); codeOf(err) != errs.InvalidArgument {
		t.Errorf("an unknown field of a field was taken: %v", err)
	}
	listed := &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", EncryptionContext: []*kryptonv1.ContextPair{{Key: "a"}, {Key: "b"}}}
	listed.GetEncryptionContext()[1].ProtoReflect().SetUnknown(unknown)
	if _, err := kryptonv1.NewCryptoClient(w.grpc(0, "workload/acme")).Encrypt(limited(t), listed); codeOf(err) != errs.InvalidArgument {
		t.Errorf("an unknown field in a list was taken: %v", err)
	}
	for name, c := range map[string]struct{ method, path, body string }{
		"field":                {http.MethodPost, "/v1/tenants/other:suspend", `{"validateonly":true}`},
		"field of a field":     {http.MethodPost, "/v1/tenants", `{"tenantId":"deep","binding":{"keystore":"ks","kee":"x"}}`},
		"parameter":            {http.MethodDelete, "/v1/tenants/other?validateonly=true", ""},
		"parameter of a list":  {http.MethodGet, "/v1/tenants?pagesize=1", ""},
		"parameter of a POST":  {http.MethodPost, "/v1/tenants/other:suspend?validateOnly=true", "{}"},
		"body of a DELETE":     {http.MethodDelete, "/v1/tenants/other", `{"validateOnly":true}`},
		"body of a GET":        {http.MethodGet, "/v1/tenants", `{"pageSize":1}`},
		"twice in the URL":     {http.MethodDelete, "/v1/tenants/other?validateOnly=true&validateOnly=false", ""},
		"twice, two spellings": {http.MethodDelete, "/v1/tenants/other?validateOnly=true&validate_only=false", ""},
		"twice in the body":    {http.MethodPost, "/v1/tenants/other:suspend", `{"validateOnly":true,"validateOnly":false}`},
		"behind the JSON":      {http.MethodPost, "/v1/tenants/other:suspend", `{} {"validateOnly":true}`},
		"no JSON":              {http.MethodPost, "/v1/tenants/other:suspend", `validateOnly=true`},
		"not an object":        {http.MethodPost, "/v1/tenants/other:suspend", `[1]`},
		"not base64":           {http.MethodPost, "/v1/tenants/acme/services/pay:encrypt", `{"plaintext":"!"}`},
	} {
		if got := w.send(t, "governor", c.method, c.path, c.body).refusal(t); got.Code != errs.InvalidArgument {
			t.Errorf("%s: %v", name, got)
		}
	}
	got, err := kryptonv1.NewTenantsClient(w.grpc(0, "governor")).GetTenant(limited(t), &kryptonv1.GetTenantRequest{Name: "tenants/other"})
	if err != nil || got.GetState() != kryptonv1.ObjectState_OBJECT_STATE_ACTIVE {
		t.Fatalf("a refused request changed the tenant: %v, %v", got.GetState(), err)
	}
}

// TestHTTPRefusals holds what only HTTP has: routing, methods, sizes, pages of
// other sites.
func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	w := served(t)
	for name, c := range map[string]struct {
		method, path, body string
		header             []string
		want               errs.Code
	}{
		"no such path":           {http.MethodGet, "/v1/nothing", "", nil, errs.NotFound},
		"root":                   {http.MethodGet, "/", "", nil, errs.NotFound},
		"no such method":         {http.MethodPut, "/v1/tenants", "", nil, errs.Unimplemented},
		"data by GET":            {http.MethodGet, "/v1/tenants/acme/services/pay:encrypt", "", nil, errs.InvalidArgument},
		"method override":        {http.MethodPost, "/v1/tenants/acme", "", []string{"X-HTTP-Method-Override", "DELETE"}, errs.Unimplemented},
		"method override, form":  {http.MethodPost, "/v1/tenants/acme", "a=b", []string{"X-HTTP-Method-Override", "GET", "Content-Type", "application/x-www-form-urlencoded"}, errs.InvalidArgument},
		"encoded slash":          {http.MethodGet, "/v1/tenants%2Facme", "", nil, 0},
		"resource encoded once":  {http.MethodGet, "/v1/tenants/acme/services/pay/resources/a%2Fb", "", nil, errs.NotFound},
		"resource encoded twice": {http.MethodGet, "/v1/tenants/acme/services/pay/resources/a%252Fb", "", nil, 0},
		"dot segments":           {http.MethodGet, "/v1/tenants/../tenants/acme", "", nil, errs.NotFound},
		"too large":              {http.MethodPost, "/v1/tenants", `{"x":"` + strings.Repeat("x", gateway.MaxBody) + `"}`, nil, errs.TooLarge},
		"page of another site":   {http.MethodPost, "/v1/seal:seal", "{}", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, errs.Denied},
		"old browser":            {http.MethodPost, "/v1/seal:seal", "{}", []string{"Origin", "https://evil.example"}, errs.Denied},
	} {
		if got := w.send(t, "governor", c.method, c.path, c.body, c.header...).refusal(t); got.Code != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
	for _, a := range []httpAnswer{w.send(t, "governor", http.MethodGet, "/v1/nothing", ""), w.send(t, "governor", http.MethodPost, "/v1/tenants", "no")} {
		if a.header.Get(gateway.CorrelationHeader) == "" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("I3: a refusal of the gateway has the headers %v", a.header)
		}
	}
}

// TestTheWholePayloadFitsThroughBothDoors at exactly its limit.
func TestTheWholePayloadFitsThroughBothDoors(t *testing.T) {
	t.Parallel()
	w := served(t)
	plain := bytes.Repeat([]byte{0xA5}, 1<<20)
	svc := "tenants/acme/services/pay"
	c := kryptonv1.NewCryptoClient(w.grpc(0, "workload/acme"))
	enc, err := c.Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: svc, Plaintext: plain})
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"ciphertext":%q}`, base64.StdEncoding.EncodeToString(enc.GetCiphertext()))
	for _, p := range []string{"h2", "http/1.1"} {
		req, err := http.NewRequestWithContext(limited(t), http.MethodPost, "https://"+w.members[0].addrs.REST+"/v1/"+svc+":decrypt", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		a := w.do(t, "workload/acme", p, req)
		var got struct{ Plaintext []byte }
		if err := json.Unmarshal(a.body, &got); err != nil || !bytes.Equal(got.Plaintext, plain) {
			t.Fatalf("%s: status %d, %d bytes, %v", p, a.status, len(got.Plaintext), err)
		}
	}
	dec, err := c.Decrypt(limited(t), &kryptonv1.DecryptRequest{Service: svc, Ciphertext: enc.GetCiphertext()})
	if err != nil || !bytes.Equal(dec.GetPlaintext(), plain) {
		t.Fatal(err)
	}
	// A message beyond the limit is refused in our words, so that no client comes
	// back with it, and one far beyond it before it is read.
	_, err = c.Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: svc, Plaintext: make([]byte, server.MaxMessage)})
	if got := refusalOf(err); got.Code != errs.TooLarge || got.Msg != fmt.Sprintf("the request is larger than %d bytes", server.MaxMessage) || got.Hint == "" || len(status.Convert(err).Details()) == 0 {
		t.Fatalf("a message beyond the limit: %+v", got)
	}
	if _, err := c.Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: svc, Plaintext: make([]byte, 2*server.MaxMessage)}); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("a message beyond the limit: %v", err)
	}
}

// TestI8_StrangersCostABoundedAmount floods the gRPC port without a certificate
// and drips at the HTTP port.
func TestI8_StrangersCostABoundedAmount(t *testing.T) {
	t.Parallel()
	w := served(t)
	// A stranger hears in words that it is one,
	cc := w.dial(0, w.tlsConfig())
	defer func() { _ = cc.Close() }()
	c := kryptonv1.NewCryptoClient(cc)
	if _, err := c.Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay"}); codeOf(err) != errs.Unauthenticated {
		t.Fatalf("a stranger was answered with %v", err)
	}
	// and its message of a megabyte is not read to the end,
	if _, err := c.Encrypt(limited(t), &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: make([]byte, 1<<20)}); codeOf(err) != errs.Unavailable {
		t.Fatalf("the connection of a stranger took a megabyte: %v", err)
	}
	// nor over HTTP, where it is not even asked for.
	body := &counted{r: bytes.NewReader(make([]byte, 8<<20))}
	req, err := http.NewRequestWithContext(limited(t), http.MethodPost, "https://"+w.members[0].addrs.REST+"/v1/tenants/acme/services/pay:encrypt", body)
	if err != nil {
		t.Fatal(err)
	}
	a := w.do(t, "", "h2", req)
	if got := a.refusal(t); got.Code != errs.Unauthenticated {
		t.Fatalf("a stranger was answered with %v", got)
	}
	if body.n > 2<<20 {
		t.Fatalf("%d bytes of a stranger were taken", body.n)
	}
	// The record names what was tried.
	if !bytes.Contains(w.members[0].records(), []byte(`"act":"crypto.encrypt","outcome":"denied","correlation":"`)) {
		t.Fatalf("no record of a stranger: %s", w.members[0].records())
	}
}

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// TestStrangersCannotFillTheAuditTrail calls more often than the gate writes in
// one window, which lasts until all calls are made.
func TestStrangersCannotFillTheAuditTrail(t *testing.T) {
	t.Parallel()
	w := served(t)
	w.members[0].watch.stop()
	for range 60 {
		if got := w.send(t, "", http.MethodGet, "/v1/tenants", "").refusal(t); got.Code != errs.Unauthenticated {
			t.Fatalf("a stranger was answered with %v", got)
		}
	}
	if n := bytes.Count(w.members[0].records(), []byte(`"code":"UNAUTHENTICATED"`)); n == 0 || n > gate.StrayBurst {
		t.Fatalf("%d records for 60 calls of strangers", n)
	}
	w.members[0].gate.Flush()
	if !bytes.Contains(w.members[0].records(), []byte(`"act":"gate.unauthenticated"`)) {
		t.Fatal("the rest was not counted")
	}
}

// TestHeadersAreBounded sends headers without end.
func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	w := served(t)
	conn := w.rawDial(w.members[0].addrs.REST, w.tlsConfig(w.people["governor"]))
	_, _ = fmt.Fprintf(conn, "GET /v1/tenants HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 64<<10))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Fatalf("status %d for 64 KiB of headers", resp.StatusCode)
	}
	ctx := metadata.AppendToOutgoingContext(limited(t), "x-long", strings.Repeat("x", 64<<10))
	if _, err := kryptonv1.NewAccessClient(w.grpc(0, "governor")).WhoAmI(ctx, &kryptonv1.WhoAmIRequest{}); err == nil {
		t.Fatal("gRPC took 64 KiB of headers")
	}
}

// TestOnlyTLS13 offers what older TLS has.
func TestOnlyTLS13(t *testing.T) {
	t.Parallel()
	w := served(t)
	for _, addr := range []string{w.members[0].addrs.GRPC, w.members[0].addrs.REST} {
		cfg := w.tlsConfig(w.people["governor"])
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if conn, err := (&tls.Dialer{Config: cfg}).DialContext(limited(t), "tcp", addr); err == nil {
			_ = conn.Close()
			t.Errorf("%s speaks TLS 1.2", addr)
		}
		raw, err := (&net.Dialer{}).DialContext(limited(t), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(raw, "GET / HTTP/1.0\r\n\r\n")
		_ = raw.SetReadDeadline(time.Now().Add(patience))
		if b, _ := io.ReadAll(raw); bytes.Contains(b, []byte("200")) {
			t.Errorf("%s answers without TLS: %s", addr, b)
		}
		_ = raw.Close()
	}
}

// TestOpsNamesNobody reads everything the operations port says, in every state.
func TestOpsNamesNobody(t *testing.T) {
	t.Parallel()
	w := served(t)
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(limited(t), http.MethodGet, "http://"+w.members[0].addrs.Ops+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	_, _ = w.call(t, 0, "workload/acme", "Crypto.Encrypt", &kryptonv1.EncryptRequest{Service: "tenants/acme/services/pay", Plaintext: []byte("x")})
	_, _ = w.call(t, 0, "governor", "Tenants.GetTenant", &kryptonv1.GetTenantRequest{Name: "tenants/secret-name"})
	_ = w.grpc(0, "governor").Invoke(limited(t), "/krypton.v1.Made/Up", &kryptonv1.WhoAmIRequest{}, &kryptonv1.WhoAmIResponse{})
	if code, body := get("/healthz"); code != 200 || body != "ok\n" {
		t.Fatalf("/healthz: %d %s", code, body)
	}
	if code, body := get("/readyz"); code != 200 || body != "ok\n" {
		t.Fatalf("/readyz: %d %s", code, body)
	}
	_, metrics := get("/metrics")
	for _, want := range []string{
		`krypton_server_calls_total{code="OK",method="Crypto.Encrypt"}`, `krypton_server_calls_total{code="NOT_FOUND",method="Tenants.GetTenant"} 1`,
		`krypton_server_calls_total{code="UNIMPLEMENTED",method="other"} 1`, "krypton_node_serving 1", "krypton_node_unsealed 1",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("I6: /metrics has no %s", want)
		}
	}
	if code, _ := get("/debug/pprof/"); code != http.StatusNotFound {
		t.Error("the operations port has pprof")
	}
	// Held: the reason without the person.
	if _, err := kryptonv1.NewSealClient(w.grpc(0, "governor")).SealNode(limited(t), &kryptonv1.SealNodeRequest{Cluster: true, Reason: "because-of-mallory"}); err != nil {
		t.Fatal(err)
	}
	code, ready := get("/readyz")
	if code != http.StatusServiceUnavailable || !strings.HasPrefix(ready, "HELD: ") {
		t.Fatalf("/readyz of a held node: %d %s", code, ready)
	}
	_, metrics = get("/metrics")
	for _, all := range []string{ready, metrics} {
		for _, secret := range []string{"acme", "secret-name", "alice", "carol", "mallory", "Made", "tenants/"} {
			if strings.Contains(all, secret) {
				t.Errorf("I6: the operations port says %q", secret)
			}
		}
	}
	// A workload does not read what people wrote.
	st, err := kryptonv1.NewSealClient(w.grpc(0, "workload/acme")).GetSeal(limited(t), &kryptonv1.GetSealRequest{})
	if err != nil || !st.GetHeld() || st.GetHoldReason() != "" || len(st.GetHolders()) != 0 || st.GetEnough() != "" || len(st.GetGroups()) != 1 {
		t.Errorf("a workload reads %v, %v", st, err)
	}
}

// TestListenNamesThePortThatIsTaken and leaves none open.
func TestListenNamesThePortThatIsTaken(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	if _, err := server.Listen(t.Context(), addr, taken.Addr().String(), ""); !errs.Is(err, errs.InvalidConfig) ||
		!strings.Contains(err.Error(), taken.Addr().String()) || !strings.Contains(err.Error(), "listen.rest") {
		t.Fatalf("a taken port: %v", err)
	}
	again, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatalf("the port before it stayed open: %v", err)
	}
	_ = again.Close()
}

// TestAPathOfASocketThatIsTooLongIsNamed at the start, and not in the kernel's words.
func TestAPathOfASocketThatIsTooLongIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, func(c *server.Config) { c.AdminSocket = filepath.Join(c.DataDir, strings.Repeat("x", 120)) })
	m := w.members[0]
	err := <-m.ended
	m.ended <- nil
	if !errs.Is(err, errs.InvalidConfig) || !strings.Contains(err.Error(), "node.data_dir") {
		t.Fatalf("a long path: %v", err)
	}
}

// TestRunningCallsEndBeforeTheServerDoes stops a server while a call waits for
// an operation, which is done once nobody can call any more.
func TestRunningCallsEndBeforeTheServerDoes(t *testing.T) {
	t.Parallel()
	w := served(t)
	m, id := w.members[0], uuid.NewString()
	answer := make(chan error, 1)
	go func() {
		op, err := kryptonv1.NewClusterClient(w.grpc(0, "governor")).WaitOperation(limited(t), &kryptonv1.WaitOperationRequest{Name: "operations/" + id})
		if err == nil && !op.GetDone() {
			err = errors.New("the operation is not done")
		}
		answer <- err
	}()
	until(t, "the call runs", func() error {
		if m.gate.InFlight() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	closed := make(chan struct{})
	go func() {
		m.close()
		close(closed)
	}()
	until(t, "nobody can call", func() error {
		conn, err := (&net.Dialer{}).DialContext(limited(t), "tcp", m.addrs.GRPC)
		if err != nil {
			return nil //nolint:nilerr // That is it.
		}
		return errors.Join(errors.New("the port is open"), conn.Close())
	})
	if err := w.propose(gate.SuspendTenant, "tenants/acme", &fsmpb.Command{RequestId: id, RequestDigest: make([]byte, 32), Body: &fsmpb.Command_ChangeObject{
		ChangeObject: &fsmpb.ChangeObject{Object: &fsmpb.ObjectRef{Tenant: "acme"}, Event: fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, Cause: "operator"},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatalf("a running call was cut off: %v", err)
	}
	<-closed
	if n := m.gate.InFlight(); n != 0 {
		t.Fatalf("%d tokens are not finished", n)
	}
}

// TestNoSecretInTheLogs runs a session with everything that is secret and looks
// for it in the log and in the audit trail.
func TestNoSecretInTheLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	init := w.init(kryptonv1.SealMode_SEAL_MODE_SHAMIR)
	w.tenant("acme", "pay")
	svc := "tenants/acme/services/pay"
	made, err := w.call(t, 0, "workload/acme", "Crypto.GenerateDataKey", &kryptonv1.GenerateDataKeyRequest{Service: svc})
	if err != nil {
		t.Fatal(err)
	}
	dek := made.(*kryptonv1.GenerateDataKeyResponse).GetPlaintext()
	plain := []byte("a plaintext that nobody else has to know")
	if _, err := w.call(t, 0, "workload/acme", "Crypto.Encrypt", &kryptonv1.EncryptRequest{Service: svc, Plaintext: plain}); err != nil {
		t.Fatal(err)
	}
	tok, err := w.call(t, 0, "operator", "Cluster.CreateJoinToken", &kryptonv1.CreateJoinTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// Mistakes, too: what is wrong is not quoted.
	_ = w.send(t, "workload/acme", http.MethodPost, "/v1/"+svc+":encrypt", `{"plaintext":"`+base64.StdEncoding.EncodeToString(plain)+`!"}`)
	_ = w.send(t, "workload/acme", http.MethodPost, "/v1/"+svc+":encrypt", `{"plain":"`+string(plain)+`"}`)
	_, _ = w.members[0].admin().Join(limited(t), &kryptonv1.JoinRequest{Token: tok.(*kryptonv1.CreateJoinTokenResponse).GetToken()})
	secrets := map[string][]byte{"data key": dek, "plaintext": plain, "join token": []byte(strings.TrimPrefix(tok.(*kryptonv1.CreateJoinTokenResponse).GetToken(), "kjoin2-"))}
	for i, s := range init.GetShares() {
		for line := range bytes.FieldsSeq(s) {
			if len(line) >= 20 {
				secrets[fmt.Sprintf("share %d: %d bytes", i, len(line))] = line
			}
		}
	}
	w.members[0].close()
	for where, all := range map[string][]byte{"log": w.members[0].log.Bytes(), "audit trail": w.members[0].records()} {
		if len(all) == 0 {
			t.Fatalf("the %s is empty", where)
		}
		for what, s := range secrets {
			for form, b := range map[string][]byte{"raw": s, "base64": []byte(base64.StdEncoding.EncodeToString(s)), "hex": fmt.Appendf(nil, "%x", s), "escaped": []byte(url.QueryEscape(string(s)))} {
				if bytes.Contains(all, b) {
					t.Errorf("the %s holds the %s, %s", where, what, form)
				}
			}
		}
	}
}

// TestAnswersAreProtos keeps the helper above honest: every method has a
// response type.
func TestAnswersAreProtos(t *testing.T) {
	for _, d := range services() {
		for _, m := range d.Methods {
			if proto.Size(responseOf(t, strings.TrimPrefix(d.ServiceName, "krypton.v1.")+"."+m.MethodName)) != 0 {
				t.Errorf("%s has no empty response", m.MethodName)
			}
		}
	}
}

// correlationOf returns the correlation id that a node said over gRPC, or "".
func correlationOf(md metadata.MD) string {
	v := md.Get(answer.Header)
	if len(v) != 1 {
		return ""
	}
	said, _ := answer.Parse(v[0])
	return said.Correlation
}
