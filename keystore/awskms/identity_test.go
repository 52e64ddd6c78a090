package awskms_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
)

// frozen is a world whose time passes when the test says so.
func frozen(t *testing.T, o awsserver.Options) (*world, *clock.Fake) {
	t.Helper()
	f := clock.NewFake(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	o.Clock = f
	return newWorld(t, o), f
}

// events returns what of a service stands in the trail.
func (w *world) events(source string) (out []awsserver.Record) {
	for _, r := range w.Trail() {
		if r.Source == source {
			out = append(out, r)
		}
	}
	return out
}

func (w *world) logins() int { return len(w.events("sts.amazonaws.com")) }

// principals returns who used the key, without repetition.
func (w *world) principals() (out []string) {
	for _, r := range w.events("kms.amazonaws.com") {
		if !slices.Contains(out, r.Principal) {
			out = append(out, r.Principal)
		}
	}
	return out
}

func TestWebIdentityIsExchangedForTheRolesSession(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	id := correlation(t)
	res, err := k.Wrap(t.Context(), keystore.WrapRequest{Key: key, Secret: secret(t), AAD: []byte("aad"), Correlation: id})
	if err != nil {
		t.Fatal(err)
	}
	if err := unwrap(t, k, key, res.Blob); err != nil {
		t.Fatal(err)
	}
	if got, want := w.principals(), "arn:aws:sts::111122223333:assumed-role/krypton-eu/node-1"; len(got) != 1 || got[0] != want {
		t.Errorf("principals %q, want %s", got, want)
	}
	logins := w.events("sts.amazonaws.com")
	if len(logins) != 1 || logins[0].Event != "AssumeRoleWithWebIdentity" || logins[0].Correlation() != id {
		t.Errorf("logins %+v, want one of call %s", logins, id) // I6
	}
}

func TestIMDSv2GivesTheInstancesRole(t *testing.T) {
	w, f := frozen(t, awsserver.Options{})
	do(t, w.SetInstanceRole(w.addRole(t, awsserver.Role{Name: "krypton-instance"})))
	k, key := w.open(t, map[string]string{"auth": "imds", "imds_endpoint": w.IMDS().URL, "role_arn": "", "token_file": ""}), w.key(t)
	blob := mustWrap(t, k, key)
	if got, want := w.principals(), "arn:aws:sts::111122223333:assumed-role/krypton-instance/i-0123456789abcdef0"; len(got) != 1 || got[0] != want {
		t.Errorf("principals %q, want %s", got, want)
	}
	asked := func() (puts, gets int) {
		for _, r := range w.events("imds") {
			if strings.HasPrefix(r.Event, "PUT") {
				puts++
			} else {
				gets++
			}
		}
		return puts, gets
	}
	if puts, gets := asked(); puts != 1 || gets != 2 {
		t.Errorf("%d tokens and %d other requests, want 1 and 2", puts, gets)
	}
	// After the credentials' end there are others, under the same token.
	f.Advance(61 * time.Minute)
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
	if puts, gets := asked(); puts != 1 || gets != 4 {
		t.Errorf("%d tokens and %d other requests, want 1 and 4", puts, gets)
	}
	// And after the token's end there is another token.
	f.Advance(7 * time.Hour)
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
	if puts, gets := asked(); puts != 2 || gets != 6 {
		t.Errorf("%d tokens and %d other requests, want 2 and 6", puts, gets)
	}
}

func TestIMDSFailuresSayWhatToDo(t *testing.T) {
	settings := func(w *world) map[string]string {
		return map[string]string{"auth": "imds", "imds_endpoint": w.IMDS().URL, "role_arn": "", "token_file": ""}
	}
	for name, c := range map[string]struct {
		set   func(*testing.T, *world)
		class keystore.Class
		says  string
	}{
		"no role":           {func(*testing.T, *world) {}, keystore.Misconfigured, "instance profile"},
		"two hops":          {func(_ *testing.T, w *world) { w.SetHops(2) }, keystore.Unavailable, "hop limit"},
		"only version 1":    {func(_ *testing.T, w *world) { w.IMDS().HTTP.Fault(wire.Fault{Status: http.StatusMethodNotAllowed}) }, keystore.Misconfigured, "version 2 has to be on"},
		"failing":           {func(_ *testing.T, w *world) { w.IMDS().HTTP.Answer(503, "") }, keystore.Unavailable, "status 503"},
		"not there":         {func(_ *testing.T, w *world) { w.IMDS().Proxy.Refuse() }, keystore.Unavailable, "metadata service"},
		"a page of a proxy": {func(_ *testing.T, w *world) { w.IMDS().HTTP.Answer(200, "<html>hello</html>") }, keystore.Misconfigured, "no role"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, awsserver.Options{})
			c.set(t, w)
			_, err := wrap(t, w.open(t, settings(w)), w.key(t))
			isClass(t, err, c.class, c.says)
		})
	}
}

// Version 1 of the metadata service is never asked, also not after a failure.
func TestI1_ThereIsNoWayBackToIMDSv1(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	w.IMDS().HTTP.Fault(wire.Fault{Match: func(r *http.Request) bool { return r.Method == http.MethodPut }, Status: http.StatusForbidden})
	k := w.open(t, map[string]string{"auth": "imds", "imds_endpoint": w.IMDS().URL, "role_arn": "", "token_file": ""})
	_, err := wrap(t, k, w.key(t))
	isClass(t, err, keystore.Misconfigured)
	for _, r := range w.IMDS().HTTP.Requests() {
		if r.Method != http.MethodPut {
			t.Errorf("%s %s without a token", r.Method, r.Path)
		}
	}
}

func TestAnIMDSTokenThatIsForgottenIsReplaced(t *testing.T) {
	w, f := frozen(t, awsserver.Options{})
	do(t, w.SetInstanceRole(w.addRole(t, awsserver.Role{Name: "krypton-instance"})))
	k, key := w.open(t, map[string]string{"auth": "imds", "imds_endpoint": w.IMDS().URL, "role_arn": "", "token_file": ""}), w.key(t)
	mustWrap(t, k, key)
	w.ForgetTokens()
	f.Advance(2 * time.Hour)
	mustWrap(t, k, key)
}

func TestStaticFile(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	key := w.key(t)
	file := w.write(t, "credentials", w.UserCredentials("krypton"))
	var log bytes.Buffer
	env := w.env()
	env.Logger = slog.New(slog.NewTextHandler(&log, nil))
	k := w.openWith(t, env, map[string]string{"auth": "static-file", "credentials_file": file, "role_arn": "", "token_file": ""})
	blob := mustWrap(t, k, key)
	if got, want := w.principals(), "arn:aws:iam::111122223333:user/krypton"; len(got) != 1 || got[0] != want {
		t.Errorf("principals %q, want %s", got, want)
	}
	if !strings.Contains(log.String(), "long-lived keys") {
		t.Errorf("no warning: %s", &log)
	}

	// Keys that were replaced and are refused cost one look into the file.
	w.ForgetSessions()
	isClass(t, unwrap(t, k, key, blob), keystore.Misconfigured, "UnrecognizedClientException")
	w.write(t, "credentials", w.UserCredentials("krypton"))
	if err := unwrap(t, k, key, blob); err != nil {
		t.Errorf("after the file was replaced: %v", err)
	}

	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		says string
	}{
		"readable by others": {w.UserCredentials("x"), 0o644, "chmod 0600"},
		"writable by group":  {w.UserCredentials("x"), 0o620, "chmod 0600"},
		"empty":              {"", 0o600, "1 to 16384 bytes"},
		"no keys":            {"[default]\n", 0o600, "has no aws_access_key_id"},
		"two profiles":       {w.UserCredentials("x") + "[other]\n", 0o600, "second profile"},
		"a process to run":   {"[default]\ncredential_process = /bin/evil\n", 0o600, "line 2"},
		"a role elsewhere":   {"[default]\nrole_arn = x\n", 0o600, "line 2"},
		"no profile":         {"aws_access_key_id = a\n", 0o600, "line 1"},
		"a key twice":        {"[default]\naws_access_key_id = a\naws_access_key_id = b\n", 0o600, "line 3"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "credentials")
			do(t, os.WriteFile(file, []byte(c.text), 0o600))
			do(t, os.Chmod(file, c.mode))
			k := w.open(t, map[string]string{"auth": "static-file", "credentials_file": file, "role_arn": "", "token_file": ""})
			_, err := wrap(t, k, key)
			isClass(t, err, keystore.Misconfigured, c.says)
		})
	}
}

func TestARoleOfTheCustomerIsAssumedWithItsExternalID(t *testing.T) {
	w, f := frozen(t, awsserver.Options{})
	key := w.key(t)
	customer := w.addRole(t, awsserver.Role{Name: "krypton-for-us", Account: "444455556666", TrustedPrincipal: w.role, ExternalID: "tenant-7"})
	do(t, w.PutKeyPolicy(string(key), []byte(`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "`+customer+`"}, "Action": "kms:*", "Resource": "*"}]}`)))
	good := map[string]string{"assume_role_arn": customer, "external_id": "tenant-7"}
	k := w.open(t, good)
	blob := mustWrap(t, k, key)
	if got, want := w.principals(), "arn:aws:sts::444455556666:assumed-role/krypton-for-us/node-1"; len(got) != 1 || got[0] != want {
		t.Errorf("principals %q, want %s", got, want)
	}
	for name, external := range map[string]string{"another external id": "tenant-8", "none": ""} {
		_, err := wrap(t, w.open(t, map[string]string{"assume_role_arn": customer, "external_id": external}), key)
		isClass(t, err, keystore.Misconfigured, "assume the role "+customer, "AccessDenied")
		if keystore.IsDenied(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without the customer's role there is no access.
	_, err := wrap(t, w.open(t, nil), key)
	isClass(t, err, keystore.Denied)

	// Both sessions end, and both are had again; also when AWS ends them early.
	f.Advance(2 * time.Hour)
	w.project(t, subject, time.Hour)
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
	w.ExpireSessions()
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
	// A second later nothing more is asked for.
	before := w.logins()
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
	if n := w.logins() - before; n != 0 {
		t.Errorf("%d logins with valid sessions", n)
	}
}

func TestI4_CredentialsAreRenewedAheadOfTheirEnd(t *testing.T) {
	w, f := frozen(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	blob := mustWrap(t, k, key)
	f.Advance(54 * time.Minute)
	if err := unwrap(t, k, key, blob); err != nil || w.logins() != 1 {
		t.Fatalf("%d logins, %v", w.logins(), err)
	}
	// In the last five minutes of the hour the next are fetched, beside the call.
	f.Advance(2 * time.Minute)
	w.project(t, subject, time.Hour)
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return w.logins() == 2 })
	// Past the first session's end nothing is left to do.
	f.Advance(10 * time.Minute)
	if err := unwrap(t, k, key, blob); err != nil || w.logins() != 2 {
		t.Fatalf("%d logins, %v", w.logins(), err)
	}
}

// While STS is away the old credentials are used until their end, and STS is
// not asked for each call.
func TestI4_WithoutTheTokenServiceCredentialsLastToTheirEnd(t *testing.T) {
	w, f := frozen(t, awsserver.Options{})
	var log safeBuffer
	env := w.env()
	env.Logger = slog.New(slog.NewTextHandler(&log, nil))
	k, key := w.openWith(t, env, nil), w.key(t)
	blob := mustWrap(t, k, key)
	heal := w.STS().HTTP.Answer(503, "")
	f.Advance(56 * time.Minute)
	for range 5 {
		if err := unwrap(t, k, key, blob); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, func() bool { return strings.Contains(log.String(), "could not be renewed") })
	if n := len(w.STS().HTTP.Requests()); n != 2 {
		t.Errorf("STS was asked %d times, want once for each of two logins", n)
	}
	f.Advance(5 * time.Minute)
	isClass(t, unwrap(t, k, key, blob), keystore.Unavailable, "exchange the web identity token")
	heal()
	w.project(t, subject, time.Hour)
	if err := unwrap(t, k, key, blob); err != nil {
		t.Fatal(err)
	}
}

func TestI4_ARefusedLoginIsMisconfiguredAndSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*testing.T, *world)
		class keystore.Class
		says  string
	}{
		"expired token":   {func(t *testing.T, w *world) { t.Helper(); w.project(t, subject, -time.Minute) }, keystore.Misconfigured, "Token expired"},
		"another subject": {func(t *testing.T, w *world) { t.Helper(); w.project(t, "system:serviceaccount:other:node", time.Hour) }, keystore.Misconfigured, "Not authorized"},
		"a forged token":  {func(t *testing.T, w *world) { t.Helper(); w.write(t, "token", "a.b.c") }, keystore.Misconfigured, "InvalidIdentityToken"},
		"no token":        {func(t *testing.T, w *world) { t.Helper(); do(t, os.Remove(w.token)) }, keystore.Misconfigured, "token_file"},
		"an empty token":  {func(t *testing.T, w *world) { t.Helper(); w.write(t, "token", "") }, keystore.Misconfigured, "token_file"},
		"no such role":    {func(_ *testing.T, w *world) { w.RemoveRole(w.role) }, keystore.Misconfigured, "Not authorized"},
		"provider not reachable": {func(_ *testing.T, w *world) {
			w.FailSTS("AssumeRoleWithWebIdentity", "IDPCommunicationError", "", 400, -1)
		}, keystore.Unavailable, "IDPCommunicationError"},
		"throttled": {func(_ *testing.T, w *world) {
			w.FailSTS("AssumeRoleWithWebIdentity", "Throttling", "Rate exceeded", 400, -1)
		}, keystore.Throttled, "Rate exceeded"},
		"failing":  {func(_ *testing.T, w *world) { w.STS().HTTP.Answer(500, "") }, keystore.Unavailable, "exchange the web identity token"},
		"nonsense": {func(_ *testing.T, w *world) { w.STS().HTTP.Answer(200, "<x/>") }, keystore.Unavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, awsserver.Options{})
			c.set(t, w)
			k := w.open(t, nil)
			_, err := wrap(t, k, w.key(t))
			isClass(t, err, c.class, c.says)
			isClass(t, k.Health(t.Context(), correlation(t)), c.class)
			if n := len(w.events("kms.amazonaws.com")); n != 0 {
				t.Errorf("%d calls of KMS without credentials", n)
			}
		})
	}
}

// Two callers whose session ended share one login.
func TestLoginsAreShared(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	const callers = 8
	errs := make(chan error, callers)
	heal := w.STS().Proxy.Hang()
	for range callers {
		go func() {
			_, err := wrap(t, k, key)
			errs <- err
		}()
	}
	waitFor(t, func() bool { return w.STS().Proxy.Accepted() > 0 })
	do(t, heal())
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := w.logins(); n != 1 {
		t.Errorf("%d logins for %d callers", n, callers)
	}
}

// Who asked first may give up; the login goes on for the others.
func TestALoginOutlivesTheCallerWhoBeganIt(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	heal := w.STS().Proxy.Hang()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := k.Describe(ctx, keystore.DescribeRequest{Key: key})
		first <- err
	}()
	waitFor(t, func() bool { return w.STS().Proxy.Accepted() > 0 })
	cancel()
	isClass(t, <-first, keystore.Unavailable, context.Canceled.Error())
	second := make(chan error, 1)
	go func() {
		_, err := wrap(t, k, key)
		second <- err
	}()
	do(t, heal())
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if logins, connections := w.logins(), w.STS().Proxy.Accepted(); logins != 1 || connections != 1 {
		t.Errorf("%d logins over %d connections", logins, connections)
	}
}
