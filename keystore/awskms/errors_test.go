package awskms_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/awsserver"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/wire"
	"github.com/openkcm/krypton-cluster/memsec"
)

// The codes are those that AWS documents for Encrypt and Decrypt and for all
// services (Common Errors). DescribeKey answers as the key is: enabled.
func TestErrorCodesHaveTheirClass(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	blob := mustWrap(t, k, key)
	for code, c := range map[string]struct {
		status int
		class  keystore.Class
	}{
		"DisabledException":                   {400, keystore.Denied},
		"NotFoundException":                   {400, keystore.Denied},
		"AccessDeniedException":               {400, keystore.Denied},
		"NotAuthorized":                       {400, keystore.Denied},
		"KMSInvalidStateException":            {400, keystore.Unavailable}, // DescribeKey says that it is enabled
		"InvalidCiphertextException":          {400, keystore.Corrupt},
		"IncorrectKeyException":               {400, keystore.Misconfigured},
		"InvalidKeyUsageException":            {400, keystore.Misconfigured},
		"ValidationException":                 {400, keystore.Misconfigured},
		"OptInRequired":                       {403, keystore.Misconfigured},
		"IncompleteSignature":                 {400, keystore.Misconfigured},
		"ExpiredTokenException":               {400, keystore.Misconfigured},
		"UnrecognizedClientException":         {400, keystore.Misconfigured},
		"InvalidSignatureException":           {400, keystore.Misconfigured},
		"MissingAuthenticationTokenException": {400, keystore.Misconfigured},
		"ThrottlingException":                 {400, keystore.Throttled},
		"LimitExceededException":              {400, keystore.Throttled},
		"TooManyRequestsException":            {429, keystore.Throttled},
		"SomethingNew":                        {429, keystore.Throttled},
		"KMSInternalException":                {500, keystore.Unavailable},
		"KeyUnavailableException":             {500, keystore.Unavailable},
		"DependencyTimeoutException":          {503, keystore.Unavailable},
		"ServiceUnavailable":                  {503, keystore.Unavailable},
		"InternalFailure":                     {500, keystore.Unavailable},
		"XksProxyUriUnreachableException":     {400, keystore.Unavailable},
		"CloudHsmClusterNotActiveException":   {400, keystore.Unavailable},
		"CodeOfTomorrowException":             {400, keystore.Unavailable},
		"DisabledExceptionOfTomorrow":         {400, keystore.Unavailable},
	} {
		w.Fail("Decrypt", code, "why\nsecond line", c.status, -1)
		err := unwrap(t, k, key, blob)
		isClass(t, err, c.class, code)
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: a line of the service stands in an error as it came: %q", code, err)
		}
		w.Fail("Decrypt", "", "", 0, 0)
		if err := unwrap(t, k, key, blob); err != nil {
			t.Fatalf("after %s: %v", code, err)
		}
	}
}

// describes counts how often a second opinion was asked for.
func (w *world) describes() (n int) {
	for _, r := range w.events("kms.amazonaws.com") {
		if r.Event == "DescribeKey" {
			n++
		}
	}
	return n
}

func TestI3_AccessDeniedIsDeniedOnlyWithASecondOpinion(t *testing.T) {
	const denied = "AccessDeniedException"
	for name, c := range map[string]struct {
		set   func(w *world, key string)
		class keystore.Class
		says  string
	}{
		"describe is denied too":    {func(w *world, key string) { w.Deny(key) }, keystore.Denied, "DescribeKey: AccessDenied"},
		"the policy denies the use": {func(w *world, key string) { w.Deny(key, "kms:Encrypt", "kms:Decrypt") }, keystore.Denied, "the key is enabled, and its policy"},
		"describe is throttled": {func(w *world, key string) {
			w.Deny(key)
			w.Fail("DescribeKey", "ThrottlingException", "Rate exceeded", 400, -1)
		}, keystore.Throttled, "no second opinion"},
		"describe fails": {func(w *world, key string) {
			w.Deny(key)
			w.Fail("DescribeKey", "KMSInternalException", "", 500, -1)
		}, keystore.Unavailable, "no second opinion"},
		"describe is cut": {func(w *world, key string) {
			w.Deny(key)
			w.KMS().HTTP.Fault(wire.Fault{Cut: wire.CutBefore, Match: func(r *http.Request) bool { return strings.HasSuffix(r.Header.Get("X-Amz-Target"), "DescribeKey") }})
		}, keystore.Unavailable, "no second opinion"},
		"the credentials are unknown by then": {func(w *world, key string) {
			w.Deny(key)
			w.Fail("DescribeKey", "UnrecognizedClientException", "", 400, -1)
		}, keystore.Misconfigured, "no second opinion"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, awsserver.Options{})
			k, key := w.open(t, nil), w.key(t)
			blob := mustWrap(t, k, key)
			before := w.describes()
			c.set(w, string(key))
			isClass(t, unwrap(t, k, key, blob), c.class, denied, c.says)
			if n := w.describes() - before; n > 1 {
				t.Errorf("%d second opinions", n)
			}
			_, err := wrap(t, k, key)
			isClass(t, err, c.class, denied, c.says)
			w.Allow(string(key))
			w.Fail("DescribeKey", "", "", 0, 0)
			if err := unwrap(t, k, key, blob); err != nil {
				t.Errorf("after access was given back: %v", err)
			}
		})
	}
}

// An identity that was cut off, or that is gone, is the operator's affair: no
// tenant is withdrawn by it.
func TestI3_AnIdentityThatLostItsRightsIsNotAWithdrawalOfTheKey(t *testing.T) {
	t.Run("sessions revoked, role well", func(t *testing.T) {
		w, f := frozen(t, awsserver.Options{})
		k, key := w.open(t, nil), w.key(t)
		blob := mustWrap(t, k, key)
		f.Advance(10 * time.Minute)
		w.RevokeSessions()
		if err := unwrap(t, k, key, blob); err != nil {
			t.Fatalf("a new login did not help: %v", err)
		}
	})
	t.Run("role deleted", func(t *testing.T) {
		w, f := frozen(t, awsserver.Options{})
		k, key := w.open(t, nil), w.key(t)
		blob := mustWrap(t, k, key)
		f.Advance(10 * time.Minute)
		w.RemoveRole(w.role)
		isClass(t, unwrap(t, k, key, blob), keystore.Misconfigured, "and a new login", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	})
	t.Run("token service away", func(t *testing.T) {
		w, f := frozen(t, awsserver.Options{})
		k, key := w.open(t, nil), w.key(t)
		blob := mustWrap(t, k, key)
		f.Advance(10 * time.Minute)
		w.Deny(string(key))
		w.STS().HTTP.Answer(503, "")
		isClass(t, unwrap(t, k, key, blob), keystore.Unavailable, "and a new login")
	})
	t.Run("sessions revoked while a call runs, and another call has logged in", func(t *testing.T) {
		w, _ := frozen(t, awsserver.Options{})
		k, key := w.open(t, nil), w.key(t)
		blob := mustWrap(t, k, key)
		before := len(w.KMS().HTTP.Requests())
		w.KMS().HTTP.Fault(wire.Fault{Times: 1, Delay: 500 * time.Millisecond, Match: func(r *http.Request) bool { return strings.HasSuffix(r.Header.Get("X-Amz-Target"), "Decrypt") }})
		first := make(chan error, 1)
		go func() { first <- unwrap(t, k, key, blob) }()
		waitFor(t, func() bool { return len(w.KMS().HTTP.Requests()) > before })
		w.ExpireSessions()
		if err := unwrap(t, k, key, blob); err != nil { // logs in
			t.Error(err)
		}
		w.RevokeOldest()
		if err := <-first; err != nil {
			t.Errorf("the call that ran: %v", err)
		}
	})
	t.Run("access withdrawn, with old credentials", func(t *testing.T) {
		w, f := frozen(t, awsserver.Options{})
		k, key := w.open(t, nil), w.key(t)
		blob := mustWrap(t, k, key)
		f.Advance(10 * time.Minute)
		w.Deny(string(key), "kms:Decrypt")
		isClass(t, unwrap(t, k, key, blob), keystore.Denied, "the key is enabled")
		// From then on for a minute, one refusal costs no login.
		before := w.logins()
		isClass(t, unwrap(t, k, key, blob), keystore.Denied)
		if n := w.logins() - before; n != 0 {
			t.Errorf("%d logins for the second refusal", n)
		}
	})
}

func TestTheStateOfAKeySaysWhetherItWasWithdrawn(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k := w.open(t, nil)
	for state, c := range map[string]struct {
		class keystore.Class
		told  keystore.KeyState
	}{
		"Unavailable":            {keystore.Unavailable, keystore.StateUnknown},
		"Creating":               {keystore.Unavailable, keystore.StateUnknown},
		"PendingReplicaDeletion": {keystore.Denied, keystore.StatePendingDeletion},
	} {
		key := w.key(t)
		blob := mustWrap(t, k, key)
		w.Overlay(string(key), awsserver.Overlay{KeyState: state})
		isClass(t, unwrap(t, k, key, blob), c.class, "KMSInvalidStateException", state)
		d, err := k.Describe(t.Context(), keystore.DescribeRequest{Key: key, Correlation: correlation(t)})
		if err != nil || d.State != c.told {
			t.Errorf("%s: described as %s, %v", state, d.State, err)
		}
		// Who may not ask for the state does not guess.
		if c.class == keystore.Denied {
			w.Deny(string(key), "kms:DescribeKey")
			isClass(t, unwrap(t, k, key, blob), keystore.Unavailable, "allow kms:DescribeKey")
		}
	}
	// Updating is a state in which a multi-Region key works.
	key := w.key(t)
	w.Overlay(string(key), awsserver.Overlay{KeyState: "Updating"})
	mustWrap(t, k, key)
}

func TestClocksThatDifferAreSaid(t *testing.T) {
	for d, text := range map[time.Duration]string{20 * time.Minute: "20m0s behind AWS's", -20 * time.Minute: "20m0s ahead of AWS's"} {
		w, _ := frozen(t, awsserver.Options{})
		k, key := w.open(t, nil), w.key(t)
		blob := mustWrap(t, k, key)
		w.Skew(d)
		before := w.logins()
		err := unwrap(t, k, key, blob)
		isClass(t, err, keystore.Misconfigured, "the clock of this machine is "+text)
		// It stays so: the SDK's own correction is off.
		isClass(t, unwrap(t, k, key, blob), keystore.Misconfigured, text)
		if n := w.logins() - before; n != 0 {
			t.Errorf("%d logins, which do not mend a clock", n)
		}
		w.Skew(3 * time.Minute)
		if err := unwrap(t, k, key, blob); err != nil {
			t.Errorf("3 minutes are refused: %v", err)
		}
	}
}

func TestClocksThatDifferAreSaidOfALoginToo(t *testing.T) {
	w, _ := frozen(t, awsserver.Options{})
	customer := w.addRole(t, awsserver.Role{Name: "customer", TrustedPrincipal: w.role})
	w.Skew(30 * time.Minute)
	_, err := wrap(t, w.open(t, map[string]string{"assume_role_arn": customer}), w.key(t))
	isClass(t, err, keystore.Misconfigured, "assume the role "+customer, "the clock of this machine is 30m0s behind AWS's", "SignatureDoesNotMatch")
	w.Skew(2 * time.Hour)
	_, err = wrap(t, w.open(t, nil), w.key(t))
	isClass(t, err, keystore.Misconfigured, "2h0m0s behind AWS's", "Token expired")
}

func TestI1_AReferenceOfElsewhereIsRefusedWithoutACall(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	id := string(key[strings.LastIndexByte(string(key), '/')+1:])
	mrk := "mrk-" + strings.Repeat("0", 32)
	do(t, w.Alias(t.Context(), "alias/tenant-7", string(key)))
	for _, ref := range []string{id, "alias/tenant-7", "arn:aws:kms:eu-central-1:111122223333:alias/tenant-7", string(key)} {
		blob := mustWrap(t, k, keystore.KeyRef(ref))
		if err := unwrap(t, k, key, blob); err != nil {
			t.Errorf("wrapped as %s: %v", ref, err)
		}
	}
	before := len(w.events("kms.amazonaws.com"))
	for _, ref := range []string{
		"arn:aws:kms:us-east-1:111122223333:key/" + id,
		"arn:aws-cn:kms:eu-central-1:111122223333:key/" + id,
		"arn:aws:kms:us-east-1:111122223333:key/" + mrk,
		"arn:aws:iam:eu-central-1:111122223333:key/" + id,
		"arn:aws:kms:eu-central-1:1111:key/" + id,
		"arn:aws:kms:eu-central-1:111122223333:" + id,
		"arn:aws:kms:eu-central-1:111122223333:key/../" + id,
		"https://evil.example/" + id, id + "\n", strings.ToUpper(id), "key/" + id, "alias/", "alias/a b", "x", mrk + "0",
	} {
		_, err := wrap(t, k, keystore.KeyRef(ref))
		isClass(t, err, keystore.Misconfigured)
	}
	if n := len(w.events("kms.amazonaws.com")) - before; n != 0 {
		t.Errorf("%d calls", n)
	}
	// Another account's key of the same region is KMS's to judge.
	_, err := wrap(t, k, keystore.KeyRef("arn:aws:kms:eu-central-1:999988887777:key/"+id))
	isClass(t, err, keystore.Denied, "AccessDenied")
}

// An alias can come to name another key; what was wrapped before does not open
// then, and nobody believes that it was withdrawn.
func TestI2_AnAliasThatMovedDoesNotOpenOldBlobs(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, a, b := w.open(t, nil), w.key(t), w.key(t)
	do(t, w.Alias(t.Context(), "alias/tenant-7", string(a)))
	blob := mustWrap(t, k, "alias/tenant-7")
	do(t, w.Alias(t.Context(), "alias/tenant-7", string(b)))
	isClass(t, unwrap(t, k, "alias/tenant-7", blob), keystore.Misconfigured, "IncorrectKeyException")
	if err := unwrap(t, k, a, blob); err != nil {
		t.Errorf("under the key itself: %v", err)
	}
}

// What this package cannot have made does not reach KMS.
func TestABlobOfAnotherMakeIsCorruptWithoutACall(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	made, err := blob.Parse(mustWrap(t, k, key))
	do(t, err)
	if made.Mechanism != blob.Native || made.KeyVersion != "" {
		t.Errorf("a blob of mechanism %s and version %q", made.Mechanism, made.KeyVersion)
	}
	before := len(w.events("kms.amazonaws.com"))
	for name, b := range map[string]blob.Blob{
		"mechanism": {Mechanism: blob.AESGCM, IV: []byte{1}, Wrapped: made.Wrapped},
		"version":   {Mechanism: blob.Native, KeyVersion: "1", Wrapped: made.Wrapped},
		"length":    {Mechanism: blob.Native, Wrapped: make([]byte, 6145)},
	} {
		text, err := b.Encode()
		do(t, err)
		if err := unwrap(t, k, key, text); keystore.ClassOf(err) != keystore.Corrupt {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if n := len(w.events("kms.amazonaws.com")) - before; n != 0 {
		t.Errorf("%d calls", n)
	}
}

func TestAnAsymmetricKeyIsRefused(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k := w.open(t, nil)
	arn, err := w.CreateRSAKey(t.Context())
	do(t, err)
	_, err = wrap(t, k, keystore.KeyRef(arn))
	isClass(t, err, keystore.Misconfigured, "InvalidKeyUsageException")
	d, err := k.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(arn), Correlation: correlation(t)})
	if err != nil || d.Kind != keystore.KindAsymmetric || d.Mechanism != "RSA_2048" {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestDescribeTellsWhereAKeyIs(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k := w.open(t, nil)
	for mechanism, c := range map[string]struct {
		overlay    awsserver.Overlay
		protection keystore.Protection
	}{
		"AES-256-GCM":                         {awsserver.Overlay{}, keystore.ProtectionHSM},
		"AES-256-GCM (in a CloudHSM cluster)": {awsserver.Overlay{Origin: "AWS_CLOUDHSM"}, keystore.ProtectionHSM},
		"AES-256-GCM (outside AWS, through an external key store)": {awsserver.Overlay{Origin: "EXTERNAL_KEY_STORE"}, keystore.ProtectionUnknown},
		"AES-256-GCM (multi-Region replica)":                       {awsserver.Overlay{MultiRegionKey: "REPLICA"}, keystore.ProtectionHSM},
	} {
		key := w.key(t)
		w.Overlay(string(key), c.overlay)
		d, err := k.Describe(t.Context(), keystore.DescribeRequest{Key: key, Correlation: correlation(t)})
		if err != nil || d.Mechanism != mechanism || d.Protection != c.protection || d.Key != key || d.Kind != keystore.KindSymmetric {
			t.Errorf("%+v, %v; want %s, %s", d, err, mechanism, c.protection)
		}
	}
	key, err := w.CreateExternalKey(t.Context())
	do(t, err)
	d, err := k.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(key), Correlation: correlation(t)})
	if err != nil || d.State != keystore.StateDisabled || d.Mechanism != "AES-256-GCM (imported material, waits for material)" {
		t.Errorf("%+v, %v", d, err)
	}
	// An alias is told as the key that it names.
	named := w.key(t)
	do(t, w.Alias(t.Context(), "alias/a", string(named)))
	d, err = k.Describe(t.Context(), keystore.DescribeRequest{Key: "alias/a", Correlation: correlation(t)})
	if err != nil || d.Key != named {
		t.Errorf("%+v, %v", d, err)
	}
	// Not to be allowed to look is no withdrawal.
	w.Deny(string(named))
	_, err = k.Describe(t.Context(), keystore.DescribeRequest{Key: named, Correlation: correlation(t)})
	isClass(t, err, keystore.Misconfigured, "AccessDenied")
}

// A redirect would carry a secret to another host.
func TestI5_RedirectsAreNotFollowed(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	mustWrap(t, k, key)
	trap := wire.NewHTTP(http.NotFoundHandler())
	srv, err := wire.Serve(trap, wire.Options{Plain: true})
	do(t, err)
	defer srv.Close()
	for _, status := range []int{301, 302, 307, 308} {
		heal := w.KMS().HTTP.Fault(wire.Fault{Status: status, Header: http.Header{"Location": {srv.URL + "/"}}})
		_, err := wrap(t, k, key)
		isClass(t, err, keystore.Unavailable)
		heal()
	}
	if n := len(trap.Requests()); n != 0 {
		t.Errorf("%d requests were redirected", n)
	}
}

// An answer without end is not read to its end.
func TestAnswersAreBounded(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key := w.open(t, nil), w.key(t)
	mustWrap(t, k, key)
	pad := strings.Repeat("a", 1<<20)
	for status, body := range map[int]string{
		200: fmt.Sprintf(`{"KeyId":%q,"CiphertextBlob":"AAAA","Pad":%q}`, key, pad),
		400: fmt.Sprintf(`{"__type":"DisabledException","Pad":%q}`, pad),
	} {
		heal := w.KMS().HTTP.Answer(status, body)
		_, err := wrap(t, k, key)
		isClass(t, err, keystore.Unavailable)
		if len(err.Error()) > 4096 {
			t.Errorf("status %d: an error of %d bytes", status, len(err.Error()))
		}
		heal()
	}
}

// What answers about another key, or with another secret than can be, is not believed.
func TestAnswersAboutAnotherKeyAreNotBelieved(t *testing.T) {
	w := newWorld(t, awsserver.Options{})
	k, key, other := w.open(t, nil), w.key(t), w.key(t)
	blob := mustWrap(t, k, key)
	for name, c := range map[string]struct {
		body  string
		class keystore.Class
	}{
		"another key": {fmt.Sprintf(`{"KeyId":%q,"Plaintext":"AAAA"}`, other), keystore.Unavailable},
		"no key":      {`{"Plaintext":"AAAA"}`, keystore.Unavailable},
		"no secret":   {fmt.Sprintf(`{"KeyId":%q}`, key), keystore.Corrupt},
		"too long":    {fmt.Sprintf(`{"KeyId":%q,"Plaintext":"%s"}`, key, strings.Repeat("AAAA", 40)), keystore.Corrupt},
		"nothing":     {`{}`, keystore.Unavailable},
	} {
		heal := w.KMS().HTTP.Answer(200, c.body)
		res, err := k.Unwrap(t.Context(), keystore.UnwrapRequest{Key: key, Blob: blob, AAD: []byte("aad"), Class: memsec.Hot})
		if keystore.ClassOf(err) != c.class || !res.Secret.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
		_, err = wrap(t, k, key)
		if keystore.ClassOf(err) != keystore.Unavailable {
			t.Errorf("wrap, %s: %v", name, err)
		}
		heal()
	}
}
