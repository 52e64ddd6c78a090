package awsserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/openkcm/krypton-cluster/internal/leaktest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaktest.Known()...) }

func start(tb testing.TB) *awsserver.Server {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute)
	defer cancel()
	program, err := awsserver.Program(ctx)
	keystoretest.Require(tb, "local-kms", "scripts/tool localkms", err)
	s, err := awsserver.Start(ctx, awsserver.Options{Program: program})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				tb.Error(err)
			}
		}
	})
	return s
}

// tamper changes requests after they were signed.
type tamper struct {
	next   http.RoundTripper
	change func(*http.Request)
}

func (t tamper) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if t.change != nil {
		t.change(r)
	}
	return t.next.RoundTrip(r)
}

func client(tb testing.TB, s *awsserver.Server, change func(*http.Request)) *http.Client {
	tb.Helper()
	text, err := os.ReadFile(s.CAFile())
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: tamper{transport, change}}
}

func keysOf(tb testing.TB, file string) aws.Credentials {
	tb.Helper()
	var c aws.Credentials
	for line := range strings.SplitSeq(file, "\n") {
		switch name, value, _ := strings.Cut(line, " = "); name {
		case "aws_access_key_id":
			c.AccessKeyID = value
		case "aws_secret_access_key":
			c.SecretAccessKey = value
		}
	}
	return c
}

func newKMS(tb testing.TB, s *awsserver.Server, c aws.Credentials, change func(*http.Request)) *kms.Client {
	tb.Helper()
	return kms.New(kms.Options{
		Region: s.Region(), BaseEndpoint: aws.String(s.KMS().URL), Retryer: aws.NopRetryer{}, HTTPClient: client(tb, s, change),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil }),
	})
}

func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}

func TestI1_OnlyWhatIsSignedRightIsServed(t *testing.T) {
	s := start(t)
	key, err := s.CreateKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := keysOf(t, s.UserCredentials("u"))
	encrypt := func(c aws.Credentials, change func(*http.Request)) error {
		_, err := newKMS(t, s, c, change).Encrypt(t.Context(), &kms.EncryptInput{KeyId: &key, Plaintext: []byte("x")})
		return err
	}
	if err := encrypt(good, nil); err != nil {
		t.Fatalf("a good signature: %v", err)
	}
	wrong := good
	wrong.SecretAccessKey = strings.Repeat("0", len(good.SecretAccessKey))
	unknown := aws.Credentials{AccessKeyID: "AKIA0000", SecretAccessKey: "x"}
	withToken := good
	withToken.SessionToken = "x"
	refused := map[string]struct {
		creds  aws.Credentials
		change func(*http.Request)
		code   string
	}{
		"another secret":   {wrong, nil, "InvalidSignatureException"},
		"unknown keys":     {unknown, nil, "UnrecognizedClientException"},
		"a token too many": {withToken, nil, "UnrecognizedClientException"},
		"no signature":     {good, func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException"},
		"another action":   {good, func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.DescribeKey") }, "InvalidSignatureException"},
		"a header more":    {good, func(r *http.Request) { r.Header.Set("X-Amz-Other", "x") }, "InvalidSignatureException"},
		"another path":     {good, func(r *http.Request) { r.URL.Path = "/x" }, "InvalidSignatureException"},
		"a query":          {good, func(r *http.Request) { r.URL.RawQuery = "a=b" }, "InvalidSignatureException"},
		"another host":     {good, func(r *http.Request) { r.Host = "localhost" }, "InvalidSignatureException"},
		"another date":     {good, func(r *http.Request) { r.Header.Set("X-Amz-Date", r.Header.Get("X-Amz-Date")[:8]+"T000000Z") }, "InvalidSignatureException"},
		"another region": {good, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "eu-central-1", "us-east-1", 1))
		}, "InvalidSignatureException"},
		"another body": {good, func(r *http.Request) { r.Body = http.NoBody; r.ContentLength = 0 }, "InvalidSignatureException"},
		"host not signed": {good, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "host;", "", 1))
		}, "InvalidSignatureException"},
		"a scope of four": {good, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "/aws4_request", "", 1))
		}, "IncompleteSignatureException"},
	}
	for name, c := range refused {
		if err := encrypt(c.creds, c.change); code(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	trail := s.Trail()
	if len(trail) != 1+len(refused) { // I2
		t.Errorf("%d records of %d calls", len(trail), 1+len(refused))
	}
	for _, r := range trail[1:] {
		if r.ErrorCode == "" || r.RequestID == "" {
			t.Errorf("a refused call stands in the trail as %+v", r)
		}
	}
}

func TestI1_SessionsEnd(t *testing.T) {
	s := start(t)
	key, err := s.CreateKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	role, err := s.AddRole(awsserver.Role{Name: "r", WebIdentity: "me", Audience: "sts"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.WebIdentityToken("me", "sts", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	tokens := sts.New(sts.Options{Region: s.Region(), BaseEndpoint: aws.String(s.STS().URL), Retryer: aws.NopRetryer{}, HTTPClient: client(t, s, nil)})
	login := func(token string) (aws.Credentials, error) {
		out, err := tokens.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{RoleArn: &role, RoleSessionName: aws.String("me"), WebIdentityToken: &token})
		if err != nil {
			return aws.Credentials{}, err
		}
		return aws.Credentials{AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken}, nil
	}
	other, err := s.WebIdentityToken("me", "other", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	forged := strings.Split(token, ".")
	for what, c := range map[string][2]string{
		"another audience": {other, "AccessDenied"},
		"another's claims": {forged[0] + "." + strings.Split(other, ".")[1] + "." + forged[2], "InvalidIdentityToken"},
		"no token":         {"xxxx", "InvalidIdentityToken"},
	} {
		if _, err := login(c[0]); code(err) != c[1] {
			t.Errorf("%s: %v, want %s", what, err, c[1])
		}
	}
	creds, err := login(token)
	if err != nil {
		t.Fatal(err)
	}
	use := func(c aws.Credentials) error {
		_, err := newKMS(t, s, c, nil).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &key})
		return err
	}
	if err := use(creds); err != nil {
		t.Fatal(err)
	}
	mixed := creds
	mixed.SessionToken = strings.Repeat("0", len(creds.SessionToken))
	if err := use(mixed); code(err) != "UnrecognizedClientException" {
		t.Errorf("another session's token: %v", err)
	}
	s.ExpireSessions()
	if err := use(creds); code(err) != "ExpiredTokenException" {
		t.Errorf("after its end: %v", err)
	}
}

func TestPoliciesOfTheKeyAndTheIdentity(t *testing.T) {
	const account, other = "arn:aws:iam::111122223333:root", "arn:aws:iam::444455556666:role/r"
	key := func(statement string) string {
		return `{"Version": "2012-10-17", "Statement": [` + statement + `]}`
	}
	for name, c := range map[string]struct {
		key     string
		role    awsserver.Role
		context map[string]string
		allowed bool
	}{
		"delegated":                    {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*"}`), awsserver.Role{}, nil, true},
		"delegated, identity not":      {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*"}`), awsserver.Role{Policy: key("")}, nil, false},
		"named, identity not":          {key(`{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::111122223333:role/r"}, "Action": ["kms:Encrypt"], "Resource": "*"}`), awsserver.Role{Policy: key("")}, nil, true},
		"nobody":                       {key(""), awsserver.Role{}, nil, false},
		"another action":               {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:Decrypt", "Resource": "*"}`), awsserver.Role{}, nil, false},
		"denied by the identity":       {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*"}`), awsserver.Role{Policy: key(`{"Effect": "Deny", "Action": "kms:E*", "Resource": "*"}`)}, nil, false},
		"elsewhere, both allow":        {key(`{"Effect": "Allow", "Principal": {"AWS": "` + other + `"}, "Action": "kms:*", "Resource": "*"}`), awsserver.Role{Account: "444455556666"}, nil, true},
		"elsewhere, identity not":      {key(`{"Effect": "Allow", "Principal": {"AWS": "` + other + `"}, "Action": "kms:*", "Resource": "*"}`), awsserver.Role{Account: "444455556666", Policy: key("")}, nil, false},
		"elsewhere, key not":           {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*"}`), awsserver.Role{Account: "444455556666"}, nil, false},
		"with the context":             {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*", "Condition": {"StringEquals": {"kms:EncryptionContext:a": "b"}}}`), awsserver.Role{}, map[string]string{"a": "b"}, true},
		"with another context":         {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*", "Condition": {"StringEquals": {"kms:EncryptionContext:a": "b"}}}`), awsserver.Role{}, map[string]string{"a": "c"}, false},
		"a context key too many":       {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*", "Condition": {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "a"}}}`), awsserver.Role{}, map[string]string{"a": "c", "d": "e"}, false},
		"no context where one must be": {key(`{"Effect": "Allow", "Principal": {"AWS": "` + account + `"}, "Action": "kms:*", "Resource": "*", "Condition": {"Null": {"kms:EncryptionContextKeys": "false"}}}`), awsserver.Role{}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			arn, err := s.CreateKey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := s.PutKeyPolicy(arn, []byte(c.key)); err != nil {
				t.Fatal(err)
			}
			c.role.Name = "r"
			role, err := s.AddRole(c.role)
			if err != nil {
				t.Fatal(err)
			}
			keys, err := s.SessionOf(role)
			if err != nil {
				t.Fatal(err)
			}
			creds := aws.Credentials{AccessKeyID: keys[0], SecretAccessKey: keys[1], SessionToken: keys[2]}
			_, err = newKMS(t, s, creds, nil).Encrypt(t.Context(), &kms.EncryptInput{KeyId: &arn, Plaintext: []byte("x"), EncryptionContext: maps.Clone(c.context)})
			if c.allowed && err != nil || !c.allowed && code(err) != "AccessDeniedException" {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestI3_APolicyThatIsNotUnderstoodIsRefused(t *testing.T) {
	s := start(t)
	arn, err := s.CreateKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"", "{}", `{"Version": "2008-10-17", "Statement": []}`,
		`{"Version": "2012-10-17", "Statement": [{"Effect": "allow", "Principal": {"AWS": "*"}, "Action": "kms:*"}]}`,
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "NotPrincipal": {"AWS": "*"}, "Action": "kms:*"}]}`,
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "x"}, "Action": "kms:*"}]}`,
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "NotAction": "kms:*"}]}`,
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}]}`,
		`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Condition": {"StringEquals": {"kms:ViaService": "x"}}}]}`,
	} {
		if err := s.PutKeyPolicy(arn, []byte(text)); err == nil {
			t.Errorf("taken: %s", text)
		}
	}
}

// A blob is told apart as AWS does it: of another key, or damaged.
func TestBlobsOfAnotherKeyAreIncorrectKey(t *testing.T) {
	s := start(t)
	a, err := s.CreateKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.CreateKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := newKMS(t, s, keysOf(t, s.UserCredentials("u")), nil)
	out, err := c.Encrypt(t.Context(), &kms.EncryptInput{KeyId: &a, Plaintext: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	decrypt := func(key string, blob []byte) error {
		_, err := c.Decrypt(t.Context(), &kms.DecryptInput{KeyId: &key, CiphertextBlob: blob})
		return err
	}
	if err := decrypt(b, out.CiphertextBlob); code(err) != "IncorrectKeyException" {
		t.Errorf("of another key: %v", err)
	}
	for n := range out.CiphertextBlob {
		if err := decrypt(a, out.CiphertextBlob[:max(n, 1)]); code(err) != "InvalidCiphertextException" {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if err := decrypt("", out.CiphertextBlob); err == nil {
		t.Error("without a key")
	}
	if _, err := c.CreateKey(t.Context(), &kms.CreateKeyInput{Origin: types.OriginTypeAwsKms}); code(err) == "" {
		t.Errorf("an operation that callers do not have: %v", err)
	}
}

func TestTheChildEndsWithTheServer(t *testing.T) {
	s := start(t)
	dir := filepath.Dir(s.CAFile())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are left: %v", err)
	}
	if _, err := awsserver.Start(t.Context(), awsserver.Options{Program: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("started without a program")
	}
}
