package gcpserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type client struct {
	*gcpserver.Server

	rpc   kmspb.KeyManagementServiceClient
	clock *clock.Fake
	http  *http.Client
}

func start(t *testing.T) client {
	t.Helper()
	clk := clock.NewFake(time.Now())
	srv, err := gcpserver.Start(t.Context(), gcpserver.Options{Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(srv.CA())
	conf := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	conn, err := grpc.NewClient(srv.Endpoint(), grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Transport{TLSClientConfig: conf}
	t.Cleanup(func() {
		web.CloseIdleConnections()
		_ = conn.Close()
		for range 2 {
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return client{Server: srv, rpc: kmspb.NewKeyManagementServiceClient(conn), clock: clk, http: &http.Client{Transport: web}}
}

// token asks the metadata server.
func (c client) token(t *testing.T, header ...string) (string, int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.MetadataHost()+"/computeMetadata/v1/instance/service-accounts/default/token", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.do(t, req)
}

func (c client) do(t *testing.T, req *http.Request) (string, int) {
	t.Helper()
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Token string `json:"access_token"`
	}
	_ = json.Unmarshal(body, &out)
	return out.Token, resp.StatusCode
}

// as returns a context with the machine's token.
func (c client) as(t *testing.T) context.Context {
	t.Helper()
	token, code := c.token(t, "Metadata-Flavor", "Google")
	if code != http.StatusOK || token == "" {
		t.Fatalf("status %d", code)
	}
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

func (c client) key(t *testing.T) string {
	t.Helper()
	name, err := c.CreateKey("k", kmspb.ProtectionLevel_SOFTWARE)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func want(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	st := status.Convert(err)
	got := ""
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			got = info.GetReason()
		}
	}
	if st.Code() != code || got != reason {
		t.Errorf("code %s, reason %q, want %s %q: %v", st.Code(), got, code, reason, err)
	}
}

func TestI1_ItListensOnLoopback(t *testing.T) {
	c := start(t)
	sts, err := url.Parse(c.STSEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{c.Endpoint(), c.MetadataHost(), sts.Host} {
		host, _, err := net.SplitHostPort(addr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			t.Errorf("%s is not loopback (%v)", addr, err)
		}
	}
}

func TestI2_NoTokenReachesNoKey(t *testing.T) {
	c := start(t)
	name := c.key(t)
	c.Grant(name, gcpserver.MachineAccount, gcpserver.RoleViewer)
	get := func(ctx context.Context) error {
		_, err := c.rpc.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: name})
		return err
	}
	want(t, get(t.Context()), codes.Unauthenticated, "CREDENTIALS_MISSING")
	want(t, get(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer made-up")), codes.Unauthenticated, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
	ctx := c.as(t)
	want(t, get(ctx), codes.OK, "")
	c.clock.Advance(time.Hour)
	want(t, get(ctx), codes.Unauthenticated, "ACCESS_TOKEN_EXPIRED")
	ctx = c.as(t)
	c.RevokeTokens()
	want(t, get(ctx), codes.Unauthenticated, "ACCESS_TOKEN_TYPE_UNSUPPORTED")
	for _, header := range [][]string{nil, {"Metadata-Flavor", "google"}, {"Metadata-Flavor", "Google", "X-Forwarded-For", "1.2.3.4"}} {
		if token, code := c.token(t, header...); code != http.StatusForbidden || token != "" {
			t.Errorf("headers %q: %d, token %q", header, code, token)
		}
	}
}

func TestPermissionsAreOfRolesOnTheResourceOrAbove(t *testing.T) {
	c := start(t)
	name := c.key(t)
	ctx := c.as(t)
	encrypt := func() error {
		_, err := c.rpc.Encrypt(ctx, &kmspb.EncryptRequest{Name: name, Plaintext: []byte("x")})
		return err
	}
	want(t, encrypt(), codes.PermissionDenied, "IAM_PERMISSION_DENIED")
	for _, resource := range []string{name, gcpserver.KeyRing, "projects/" + gcpserver.Project} {
		c.Grant(resource, gcpserver.MachineAccount, gcpserver.RoleEncrypterDecrypter)
		want(t, encrypt(), codes.OK, "")
		c.Revoke(resource, gcpserver.MachineAccount)
		want(t, encrypt(), codes.PermissionDenied, "IAM_PERMISSION_DENIED")
	}
	for _, resource := range []string{name + "2", gcpserver.KeyRing + "/cryptoKeys"} {
		c.Grant(resource, "somebody", gcpserver.RoleEncrypterDecrypter)
	}
	c.Grant(name+"2", gcpserver.MachineAccount, gcpserver.RoleEncrypterDecrypter)
	c.Grant(name, gcpserver.MachineAccount, gcpserver.RoleAdmin) // manages and does not use
	want(t, encrypt(), codes.PermissionDenied, "IAM_PERMISSION_DENIED")
}

// I3, over the calls that an owner makes.
func TestI3_OnlyEnabledVersionsAreUsed(t *testing.T) {
	c := start(t)
	name := c.key(t)
	c.Grant(name, gcpserver.MachineAccount, gcpserver.RoleAdmin)
	c.Grant(name, gcpserver.MachineAccount, gcpserver.RoleEncrypterDecrypter)
	ctx := c.as(t)
	sealed, err := c.rpc.Encrypt(ctx, &kmspb.EncryptRequest{Name: name, Plaintext: []byte("text"), AdditionalAuthenticatedData: []byte("aad")})
	if err != nil {
		t.Fatal(err)
	}
	use := func(code codes.Code) {
		t.Helper()
		_, err := c.rpc.Encrypt(ctx, &kmspb.EncryptRequest{Name: name, Plaintext: []byte("text")})
		want(t, err, code, "")
		out, err := c.rpc.Decrypt(ctx, &kmspb.DecryptRequest{Name: name, Ciphertext: sealed.GetCiphertext(), AdditionalAuthenticatedData: []byte("aad")})
		want(t, err, code, "")
		if code == codes.OK && (string(out.GetPlaintext()) != "text" || !out.GetUsedPrimary()) {
			t.Errorf("%v", out)
		}
	}
	version := name + "/cryptoKeyVersions/1"
	set := func(s kmspb.CryptoKeyVersion_CryptoKeyVersionState) {
		t.Helper()
		_, err := c.rpc.UpdateCryptoKeyVersion(ctx, &kmspb.UpdateCryptoKeyVersionRequest{
			CryptoKeyVersion: &kmspb.CryptoKeyVersion{Name: version, State: s}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"state"}},
		})
		want(t, err, codes.OK, "")
	}
	use(codes.OK)
	set(kmspb.CryptoKeyVersion_DISABLED)
	use(codes.FailedPrecondition)
	set(kmspb.CryptoKeyVersion_ENABLED)
	use(codes.OK)
	_, err = c.rpc.DestroyCryptoKeyVersion(ctx, &kmspb.DestroyCryptoKeyVersionRequest{Name: version})
	want(t, err, codes.OK, "")
	use(codes.FailedPrecondition)
	_, err = c.rpc.RestoreCryptoKeyVersion(ctx, &kmspb.RestoreCryptoKeyVersionRequest{Name: version})
	want(t, err, codes.OK, "")
	use(codes.FailedPrecondition) // restored is disabled
	set(kmspb.CryptoKeyVersion_ENABLED)
	use(codes.OK)
	_, err = c.rpc.DestroyCryptoKeyVersion(ctx, &kmspb.DestroyCryptoKeyVersionRequest{Name: version})
	want(t, err, codes.OK, "")
	c.clock.Advance(31 * 24 * time.Hour)
	ctx = c.as(t)
	v, err := c.rpc.GetCryptoKeyVersion(ctx, &kmspb.GetCryptoKeyVersionRequest{Name: version})
	if err != nil || v.GetState() != kmspb.CryptoKeyVersion_DESTROYED {
		t.Errorf("%v, %v", v, err)
	}
	use(codes.FailedPrecondition)
	_, err = c.rpc.RestoreCryptoKeyVersion(ctx, &kmspb.RestoreCryptoKeyVersionRequest{Name: version})
	want(t, err, codes.FailedPrecondition, "")
	// A new version and it is primary: the key is of use again, the old ciphertext is not.
	next, err := c.rpc.CreateCryptoKeyVersion(ctx, &kmspb.CreateCryptoKeyVersionRequest{Parent: name, CryptoKeyVersion: &kmspb.CryptoKeyVersion{}})
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(next.GetName(), "/cryptoKeyVersions/")
	_, err = c.rpc.UpdateCryptoKeyPrimaryVersion(ctx, &kmspb.UpdateCryptoKeyPrimaryVersionRequest{Name: name, CryptoKeyVersionId: id})
	want(t, err, codes.OK, "")
	_, err = c.rpc.Encrypt(ctx, &kmspb.EncryptRequest{Name: name, Plaintext: []byte("text")})
	want(t, err, codes.OK, "")
	_, err = c.rpc.Decrypt(ctx, &kmspb.DecryptRequest{Name: name, Ciphertext: sealed.GetCiphertext(), AdditionalAuthenticatedData: []byte("aad")})
	want(t, err, codes.FailedPrecondition, "")
}

func TestChecksumsContextAndKeyAreJudged(t *testing.T) {
	c := start(t)
	name := c.key(t)
	other, err := c.CreateKey("other", kmspb.ProtectionLevel_HSM)
	if err != nil {
		t.Fatal(err)
	}
	c.Grant(gcpserver.KeyRing, gcpserver.MachineAccount, gcpserver.RoleEncrypterDecrypter)
	ctx := c.as(t)
	wrong := wrapperspb.Int64(1)
	for _, req := range []*kmspb.EncryptRequest{
		{Name: name, Plaintext: []byte("x"), PlaintextCrc32C: wrong},
		{Name: name, Plaintext: []byte("x"), AdditionalAuthenticatedDataCrc32C: wrong},
		{Name: name},
		{Name: name, Plaintext: make([]byte, 64<<10+1)},
		{Name: other, Plaintext: make([]byte, 4<<10), AdditionalAuthenticatedData: make([]byte, 4<<10+1)},
	} {
		_, err := c.rpc.Encrypt(ctx, req)
		want(t, err, codes.InvalidArgument, "")
	}
	sealed, err := c.rpc.Encrypt(ctx, &kmspb.EncryptRequest{Name: name, Plaintext: []byte("x"), AdditionalAuthenticatedData: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	if sealed.GetVerifiedPlaintextCrc32C() || sealed.GetName() != name+"/cryptoKeyVersions/1" {
		t.Errorf("%v", sealed)
	}
	b := sealed.GetCiphertext()
	for _, req := range []*kmspb.DecryptRequest{
		{Name: name, Ciphertext: b, AdditionalAuthenticatedData: []byte("b")},
		{Name: other, Ciphertext: b, AdditionalAuthenticatedData: []byte("a")},
		{Name: name, Ciphertext: b[:20], AdditionalAuthenticatedData: []byte("a")},
		{Name: name, Ciphertext: b[:len(b)-1], AdditionalAuthenticatedData: []byte("a")},
		{Name: name, Ciphertext: b, AdditionalAuthenticatedData: []byte("a"), CiphertextCrc32C: wrong},
		{Name: name},
	} {
		_, err := c.rpc.Decrypt(ctx, req)
		want(t, err, codes.InvalidArgument, "")
	}
}

func TestI4_EveryCallLeavesARecord(t *testing.T) {
	c := start(t)
	name := c.key(t)
	ctx := metadata.AppendToOutgoingContext(c.as(t), "x-goog-request-reason", "because")
	_, _ = c.rpc.GetCryptoKey(t.Context(), &kmspb.GetCryptoKeyRequest{Name: name})
	_, _ = c.rpc.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: name})
	c.Throttle(true)
	_, _ = c.rpc.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: name})
	c.Throttle(false)
	c.Grant(name, gcpserver.MachineAccount, gcpserver.RoleViewer)
	_, _ = c.rpc.GetCryptoKey(ctx, &kmspb.GetCryptoKeyRequest{Name: name})
	wanted := []struct {
		code              codes.Code
		principal, reason string
	}{
		{codes.Unauthenticated, "", ""},
		{codes.PermissionDenied, gcpserver.MachineAccount, "because"},
		{codes.ResourceExhausted, gcpserver.MachineAccount, "because"},
		{codes.OK, gcpserver.MachineAccount, "because"},
	}
	got := c.Records()
	if len(got) != len(wanted) {
		t.Fatalf("%d records", len(got))
	}
	ids := map[string]bool{}
	for i, w := range wanted {
		r := got[i]
		if r.Code != w.code || r.Principal != w.principal || r.Reason != w.reason || r.Method != "GetCryptoKey" || r.Resource != name || ids[r.InsertID] {
			t.Errorf("record %d: %+v, want %+v", i, r, w)
		}
		ids[r.InsertID] = true
	}
}
