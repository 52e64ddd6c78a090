package awskms_test

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/awskms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// The environment and the home directory offer other identities, endpoints and
// proxies. Nothing of it is touched.
func TestI1_TheEnvironmentHasNoSay(t *testing.T) {
	trap := wire.NewHTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	srv, err := wire.Serve(trap, wire.Options{Plain: true})
	do(t, err)
	defer srv.Close()
	w := newWorld(t, awsserver.Options{})

	home := t.TempDir()
	do(t, os.Mkdir(filepath.Join(home, ".aws"), 0o700))
	stolen := filepath.Join(home, "stolen")
	config := "[default]\nregion = us-east-1\naws_access_key_id = AKIDTRAP\naws_secret_access_key = trap\ncredential_process = touch " + stolen +
		"\nendpoint_url = " + srv.URL + "\nretry_mode = adaptive\nmax_attempts = 9\n"
	for _, file := range []string{"config", "credentials"} {
		do(t, os.WriteFile(filepath.Join(home, ".aws", file), []byte(config), 0o600))
	}
	for k, v := range map[string]string{
		"HOME": home, "AWS_CONFIG_FILE": filepath.Join(home, ".aws", "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(home, ".aws", "credentials"),
		"AWS_PROFILE": "default", "AWS_SDK_LOAD_CONFIG": "1",
		"AWS_ACCESS_KEY_ID": "AKIDTRAP", "AWS_SECRET_ACCESS_KEY": "trap", "AWS_SESSION_TOKEN": "trap",
		"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
		"AWS_ENDPOINT_URL": srv.URL, "AWS_ENDPOINT_URL_KMS": srv.URL, "AWS_ENDPOINT_URL_STS": srv.URL,
		"AWS_WEB_IDENTITY_TOKEN_FILE": filepath.Join(home, "none"), "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/trap", "AWS_ROLE_SESSION_NAME": "trap",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": srv.URL, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "trap",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": srv.URL, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CA_BUNDLE": filepath.Join(home, "none"), "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true",
		"AWS_MAX_ATTEMPTS": "9", "AWS_RETRY_MODE": "adaptive", "AWS_NEW_RETRIES_2026": "true",
		"AWS_EXECUTION_ENV": "TRAPENV", "AWS_LAMBDA_FUNCTION_NAME": "trap", "_X_AMZN_TRACE_ID": "TRAPTRACE", "AWS_SDK_UA_APP_ID": "TRAPAPP",
		"HTTP_PROXY": srv.URL, "HTTPS_PROXY": srv.URL, "http_proxy": srv.URL, "https_proxy": srv.URL, "NO_PROXY": "",
	} {
		t.Setenv(k, v)
	}
	do(t, w.SetInstanceRole(w.addRole(t, awsserver.Role{Name: "krypton-instance"})))
	customer := w.addRole(t, awsserver.Role{Name: "customer", TrustedPrincipal: w.role})
	for _, change := range []map[string]string{
		{},
		{"assume_role_arn": customer},
		{"auth": "imds", "imds_endpoint": w.IMDS().URL, "role_arn": "", "token_file": ""},
		{"auth": "static-file", "credentials_file": w.write(t, "credentials", w.UserCredentials("krypton")), "role_arn": "", "token_file": ""},
	} {
		k, key := w.open(t, change), w.key(t)
		if err := unwrap(t, k, key, mustWrap(t, k, key)); err != nil {
			t.Errorf("%v: %v", change, err)
		}
		// A failure does not lead elsewhere either, and is not tried again.
		before := len(w.Trail())
		w.Fail("Encrypt", "KMSInternalException", "", 500, -1)
		_, err := wrap(t, k, key)
		isClass(t, err, keystore.Unavailable)
		if n := len(w.Trail()) - before; n != 1 {
			t.Errorf("%v: %d attempts", change, n) // I5
		}
		w.Fail("Encrypt", "", "", 0, 0)
	}
	for _, r := range trap.Requests() {
		t.Errorf("the trap was asked: %s %s", r.Method, r.Path)
	}
	if _, err := os.Stat(stolen); err == nil {
		t.Error("a process of the shared configuration ran")
	}
	for _, v := range []*awsserver.Service{w.KMS(), w.STS(), w.IMDS()} {
		for _, r := range v.HTTP.Requests() {
			for name, values := range r.Header {
				if text := strings.Join(values, " "); strings.Contains(strings.ToUpper(text), "TRAP") {
					t.Errorf("%s: %s of the environment was sent", name, text)
				}
			}
		}
	}
}

func TestSettingsThatCannotBeMeantAreRefused(t *testing.T) {
	good := map[string]string{"region": "eu-central-1", "auth": "web-identity", "role_arn": "arn:aws:iam::111122223333:role/path/krypton", "token_file": "/t"}
	open := func(change map[string]string) error {
		s := maps.Clone(good)
		maps.Copy(s, change)
		maps.DeleteFunc(s, func(_, v string) bool { return v == "" })
		p, err := awskms.New(t.Context(), (&world{clock: clock.System{}}).env(), keystore.Config{Name: name, Type: awskms.Type, Settings: s})
		if err == nil {
			do(t, p.Close())
		}
		return err
	}
	for _, change := range []map[string]string{
		{},
		{"endpoint": "https://kms-fips.eu-central-1.amazonaws.com"},
		{"endpoint": "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com/"},
		{"region": "us-gov-west-1", "role_arn": "arn:aws-us-gov:iam::111122223333:role/x"},
		{"auth": "imds", "role_arn": "", "token_file": ""},
		{"assume_role_arn": "arn:aws:iam::444455556666:role/x", "external_id": "a:b/c"},
	} {
		if err := open(change); err != nil {
			t.Errorf("%v: %v", change, err)
		}
	}
	for _, c := range []struct {
		change map[string]string
		says   string
	}{
		{map[string]string{"region": ""}, "region"},
		{map[string]string{"region": "eu-central-1.evil.example"}, "the name of a region"},
		{map[string]string{"auth": ""}, "auth"},
		{map[string]string{"auth": "default"}, "want web-identity, imds or static-file"},
		{map[string]string{"auth": "imds"}, "is not a setting of auth imds"},
		{map[string]string{"role_arn": ""}, "role_arn is empty"},
		{map[string]string{"token_file": ""}, "token_file is empty"},
		{map[string]string{"token_file": "t"}, "absolute"},
		{map[string]string{"credentials_file": "/c"}, "not a setting of auth web-identity"},
		{map[string]string{"role_arn": "arn:aws:iam::111122223333:user/x"}, "ARN of a role"},
		{map[string]string{"role_arn": "arn:aws-cn:iam::111122223333:role/x"}, "another partition than aws"},
		{map[string]string{"external_id": "x7"}, "needs assume_role_arn"},
		{map[string]string{"assume_role_arn": "x"}, "ARN of a role"},
		{map[string]string{"session_name": "a b"}, "session_name"},
		{map[string]string{"endpoint": "http://kms.example"}, "want https://HOST"},
		{map[string]string{"endpoint": "https://user@kms.example"}, "want https://HOST"},
		{map[string]string{"endpoint": "https://kms.example/path"}, "want https://HOST"},
		{map[string]string{"sts_endpoint": "http://sts.example"}, "want https://HOST"},
		{map[string]string{"imds_endpoint": "ftp://x"}, "want http:// or https://HOST"},
		{map[string]string{"ca_file": "/does/not/exist"}, "ca_file"},
		{map[string]string{"ca_file": "ca.pem"}, "absolute"},
		{map[string]string{"access_key": "x"}, "unknown setting"},
	} {
		err := open(c.change)
		if err == nil {
			t.Errorf("%v: opened", c.change)
			continue
		}
		isClass(t, err, keystore.Misconfigured, c.says)
	}
}

// A node starts while AWS is away.
func TestOpeningMakesNoCall(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	w.KMS().Proxy.Refuse()
	w.STS().Proxy.Refuse()
	k := w.open(t, nil)
	isClass(t, k.Health(t.Context(), correlation(t)), keystore.Unavailable)
	if n := w.KMS().Proxy.Accepted(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// Health says nothing about keys, and is well where the identity may do nothing
// but use some.
func TestHealthIsThatTheCredentialsAreAccepted(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	w.role = w.addRole(t, awsserver.Role{Name: "narrow", WebIdentity: subject, Audience: audience, Policy: `{"Version": "2012-10-17", "Statement": []}`})
	k := w.open(t, nil)
	do(t, k.Health(t.Context(), correlation(t)))
	other := w.key(t)
	do(t, w.Alias(t.Context(), "alias/krypton-health", string(other)))
	do(t, k.Health(t.Context(), correlation(t))) // denied now, which says as much
	w.Throttle()
	isClass(t, k.Health(t.Context(), correlation(t)), keystore.Throttled)
}

func TestAServerThatIsNotTrustedIsNotAsked(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k := w.open(t, map[string]string{"ca_file": ""})
	_, err := wrap(t, k, w.key(t))
	isClass(t, err, keystore.Unavailable, "certificate")
	if n := len(w.Trail()); n != 0 {
		t.Errorf("%d requests", n)
	}
}
