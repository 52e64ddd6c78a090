package gcpkms_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/keystore/blob"
	"github.com/openkcm/krypton-cluster/keystore/gcpkms"
	"github.com/openkcm/krypton-cluster/keystore/keystoretest/gcpserver"
	"github.com/openkcm/krypton-cluster/memsec"
)

func answer(t *testing.T, code codes.Code, text string, details ...protoadapt.MessageV1) error {
	t.Helper()
	st, err := status.New(code, text).WithDetails(details...)
	check(t, err)
	return st.Err()
}

func reason(r string) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Reason: r, Domain: "googleapis.com"}
}

func violation() *errdetails.PreconditionFailure {
	return &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: "STATE", Description: "not enabled"}}}
}

// I3: what Google answers to the use of a key, what it answers when asked a
// second time (nil: as it is, with an enabled key), and what becomes of both.
func TestI3_AnswersBecomeClasses(t *testing.T) {
	const iam = "IAM_PERMISSION_DENIED"
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	secret, stored := mustWrap(t, p, key)
	no := func(code codes.Code, details ...protoadapt.MessageV1) error { return answer(t, code, "no", details...) }
	for name, c := range map[string]struct {
		use, second error
		wrap        keystore.Class
		unwrap      keystore.Class // 0: as wrap
		asked       int            // second opinions for each of both
	}{
		"not found":                 {use: no(codes.NotFound), wrap: keystore.Denied},
		"refused, key readable":     {use: no(codes.PermissionDenied, reason(iam)), wrap: keystore.Denied, asked: 1},
		"refused, no reason":        {use: no(codes.PermissionDenied), wrap: keystore.Denied, asked: 1},
		"refused twice":             {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.PermissionDenied, reason(iam)), wrap: keystore.Denied, asked: 1},
		"refused, key gone":         {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.NotFound), wrap: keystore.Denied, asked: 1},
		"refused, then nothing":     {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.Unavailable), wrap: keystore.Unavailable, asked: 1},
		"refused, then a 500":       {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.Internal), wrap: keystore.Unavailable, asked: 1},
		"refused, then too many":    {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.ResourceExhausted), wrap: keystore.Throttled, asked: 1},
		"refused, then no identity": {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.Unauthenticated), wrap: keystore.Misconfigured, asked: 2},
		"refused, then other cause": {use: no(codes.PermissionDenied, reason(iam)), second: no(codes.PermissionDenied, reason("SERVICE_DISABLED")), wrap: keystore.Unavailable, asked: 1},
		"service not enabled":       {use: no(codes.PermissionDenied, reason("SERVICE_DISABLED")), wrap: keystore.Misconfigured},
		"scope":                     {use: no(codes.PermissionDenied, reason("ACCESS_TOKEN_SCOPE_INSUFFICIENT")), wrap: keystore.Misconfigured},
		"perimeter":                 {use: no(codes.PermissionDenied, reason("SECURITY_POLICY_VIOLATED")), wrap: keystore.Misconfigured},
		"precondition, enabled":     {use: no(codes.FailedPrecondition, violation()), wrap: keystore.Unavailable, asked: 1},
		"precondition, unreadable":  {use: no(codes.FailedPrecondition, violation()), second: no(codes.PermissionDenied, reason(iam)), wrap: keystore.Denied, asked: 1},
		"no details, unreadable":    {use: no(codes.FailedPrecondition), second: no(codes.PermissionDenied, reason(iam)), wrap: keystore.Unavailable, asked: 1},
		"invalid":                   {use: no(codes.InvalidArgument), wrap: keystore.Misconfigured, unwrap: keystore.Corrupt},
		"damaged on its way":        {use: answer(t, codes.InvalidArgument, "The checksum in field ciphertext_crc32c did not match"), wrap: keystore.Unavailable},
		"identity":                  {use: no(codes.Unauthenticated, reason("ACCESS_TOKEN_EXPIRED")), wrap: keystore.Misconfigured},
		"too many":                  {use: no(codes.ResourceExhausted), wrap: keystore.Throttled},
		"unavailable":               {use: no(codes.Unavailable), wrap: keystore.Unavailable},
		"internal":                  {use: no(codes.Internal), wrap: keystore.Unavailable},
		"unknown":                   {use: no(codes.Unknown), wrap: keystore.Unavailable},
		"deadline of theirs":        {use: no(codes.DeadlineExceeded), wrap: keystore.Unavailable},
		"cancelled by them":         {use: no(codes.Canceled), wrap: keystore.Unavailable},
		"aborted":                   {use: no(codes.Aborted), wrap: keystore.Unavailable},
		"data loss":                 {use: no(codes.DataLoss), wrap: keystore.Unavailable},
		"unimplemented":             {use: no(codes.Unimplemented), wrap: keystore.Unavailable},
		"code of tomorrow":          {use: no(codes.Code(77)), wrap: keystore.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			set := func(use, second error) {
				s.Answer("Encrypt", use)
				s.Answer("Decrypt", use)
				s.Answer("GetCryptoKey", second)
				s.Answer("GetCryptoKeyVersion", second)
			}
			set(c.use, c.second)
			defer set(nil, nil)
			before := len(s.Records())
			_, err := wrap(t.Context(), p, key, secret)
			wantClass(t, err, c.wrap)
			if c.unwrap == 0 {
				c.unwrap = c.wrap
			}
			wantClass(t, unwrap(t.Context(), p, key, stored), c.unwrap)
			asked := 0
			for _, r := range s.Records()[before:] {
				if strings.HasPrefix(r.Method, "Get") {
					asked++
				}
			}
			if asked != 2*c.asked {
				t.Errorf("%d second opinions for two refusals, want %d", asked, 2*c.asked)
			}
		})
	}
	check(t, unwrap(t.Context(), p, key, stored))
}

// The states that no hook of the suite makes.
func TestI3_StatesOfVersionsBecomeClasses(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	_, old := mustWrap(t, p, key)
	check(t, s.Rotate(string(key)))
	secret, _ := mustWrap(t, p, key)
	for state, want := range map[kmspb.CryptoKeyVersion_CryptoKeyVersionState]keystore.Class{
		kmspb.CryptoKeyVersion_DISABLED:                     keystore.Denied,
		kmspb.CryptoKeyVersion_DESTROY_SCHEDULED:            keystore.Denied,
		kmspb.CryptoKeyVersion_DESTROYED:                    keystore.Denied,
		kmspb.CryptoKeyVersion_PENDING_EXTERNAL_DESTRUCTION: keystore.Denied,
		kmspb.CryptoKeyVersion_PENDING_GENERATION:           keystore.Misconfigured,
		kmspb.CryptoKeyVersion_GENERATION_FAILED:            keystore.Misconfigured,
	} {
		// The old version alone: blobs under it do not open, new ones are made.
		check(t, s.SetState(string(key), 1, state))
		wantClass(t, unwrap(t.Context(), p, key, old), want, "is not enabled, current state is: "+state.String())
		if _, err := wrap(t.Context(), p, key, secret); err != nil {
			t.Errorf("%s: wrap under the primary version: %v", state, err)
		}
		check(t, s.SetState(string(key), 1, kmspb.CryptoKeyVersion_ENABLED))
		check(t, unwrap(t.Context(), p, key, old))
		// The primary.
		check(t, s.SetState(string(key), 2, state))
		_, err := wrap(t.Context(), p, key, secret)
		wantClass(t, err, want)
		check(t, unwrap(t.Context(), p, key, old))
		check(t, s.SetState(string(key), 2, kmspb.CryptoKeyVersion_ENABLED))
	}
}

func TestLeastPrivilege(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	other, err := s.CreateKey("of-somebody-else", kmspb.ProtectionLevel_SOFTWARE)
	check(t, err)
	use := func() {
		t.Helper()
		_, blob := mustWrap(t, p, key)
		check(t, unwrap(t.Context(), p, key, blob))
		d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
		check(t, err)
		if d.State != keystore.StateEnabled || d.KeyVersion != "1" || d.Protection != keystore.ProtectionSoftware || d.Kind != keystore.KindSymmetric {
			t.Errorf("%+v", d)
		}
		_, err = wrap(t.Context(), p, keystore.KeyRef(other), aSecret(t))
		wantClass(t, err, keystore.Denied, "IAM_PERMISSION_DENIED")
	}
	use() // the custom role of the document
	s.Revoke(string(key), gcpserver.MachineAccount)
	s.Grant(string(key), gcpserver.MachineAccount, gcpserver.RoleEncrypterDecrypter)
	s.Grant(string(key), gcpserver.MachineAccount, gcpserver.RoleViewer)
	use() // Google's own two roles

	// Without the right to read: wraps and unwraps, and says what is missing.
	s.Revoke(string(key), gcpserver.MachineAccount, gcpserver.RoleViewer)
	_, blob := mustWrap(t, p, key)
	check(t, unwrap(t.Context(), p, key, blob))
	_, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
	wantClass(t, err, keystore.Misconfigured, "cloudkms.cryptoKeys.get")
	check(t, s.Disable(string(key)))
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Denied)
	check(t, s.Enable(string(key)))
	// Only the right to read is left: the use was withdrawn.
	s.Revoke(string(key), gcpserver.MachineAccount)
	s.Grant(string(key), gcpserver.MachineAccount, gcpserver.RoleViewer)
	wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Denied, "the key is enabled and its use is not granted")
	check(t, p.Health(t.Context(), ""))
}

// I4: what is damaged on its way is no result.
func TestI4_DamagedAnswersAreNoSuccess(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	secret, blob := mustWrap(t, p, key)
	for how, both := range map[gcpserver.Garble]bool{
		gcpserver.GarblePayload: true, gcpserver.GarbleChecksum: true, gcpserver.GarbleVerified: false, gcpserver.GarbleName: false,
	} {
		s.Damage(how)
		res, err := wrap(t.Context(), p, key, secret)
		wantClass(t, err, keystore.Unavailable)
		if len(res.Blob) != 0 {
			t.Errorf("damage %d: a blob came back", how)
		}
		if both {
			wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Unavailable, "checksums differ")
		}
		s.Damage(gcpserver.GarbleNothing)
	}
	s.Nonsense(true)
	for name, call := range map[string]func() error{
		"wrap":   func() error { _, err := wrap(t.Context(), p, key, secret); return err },
		"unwrap": func() error { return unwrap(t.Context(), p, key, blob) },
		"describe": func() error {
			_, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: key})
			return err
		},
	} {
		err := call()
		if err == nil {
			t.Errorf("%s: an empty answer is a success", name)
			continue
		}
		wantClass(t, err, keystore.Unavailable)
	}
}

// The version that a blob names is bound: it is what Google is asked under, and
// what "N blobs are still under version V" is counted by.
func TestTheVersionOfABlobIsBound(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	_, data := mustWrap(t, p, key)
	check(t, s.Rotate(string(key)))
	b, err := blob.Parse(data)
	check(t, err)
	if b.Mechanism != blob.Native || b.KeyVersion != "1" {
		t.Errorf("%+v", b)
	}
	for _, version := range []keystore.KeyVersion{"2", "", "01", "1/../2", "x"} {
		b.KeyVersion = version
		changed, err := b.Encode()
		check(t, err)
		asked := len(s.Records())
		wantClass(t, unwrap(t.Context(), p, key, changed), keystore.Corrupt)
		if n := len(s.Records()) - asked; (n == 0) != (version != "2") {
			t.Errorf("version %q: %d calls", version, n) // a name is made of it for a second opinion
		}
	}
	// A rotation between two wraps: the second learns it by one more call.
	before := len(s.Records())
	res, err := wrap(t.Context(), p, key, aSecret(t))
	check(t, err)
	if n := len(s.Records()) - before; n != 2 || res.KeyVersion != "2" {
		t.Errorf("version %q after %d calls", res.KeyVersion, n)
	}
	check(t, unwrap(t.Context(), p, key, res.Blob))
	check(t, unwrap(t.Context(), p, key, data))
}

func TestReferencesAreFullNamesOfKeysOfThisProject(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	anywhere := s.open(t, env, s.settings("project", "", "location", ""))
	key := s.newKey(t)
	_, stored := mustWrap(t, anywhere, key)
	check(t, anywhere.Health(t.Context(), ""))
	before := len(s.Records())
	name := string(key)
	for ref, text := range map[string]string{
		name + "/cryptoKeyVersions/1":                            "names a version of a key",
		"https://cloudkms.googleapis.com/v1/" + name:             "not a resource name",
		"//cloudkms.googleapis.com/" + name:                      "not a resource name",
		"key-1":                                                  "not a resource name",
		name + "/":                                               "not a resource name",
		strings.Replace(name, "keyRings", "keyrings", 1):         "not a resource name",
		strings.Replace(name, "/ring/", "/../", 1):               "other characters",
		strings.Replace(name, "/ring/", "//", 1):                 "other characters",
		name + "%2F":                                             "other characters",
		name + "\n":                                              "other characters",
		strings.Replace(name, gcpserver.Project, "some one", 1):  "no valid project",
		strings.Replace(name, gcpserver.Project, "another", 1):   "this keystore is for project " + gcpserver.Project,
		strings.Replace(name, gcpserver.Location, "us-east1", 1): "this keystore is for location " + gcpserver.Location,
		strings.Replace(name, "cryptoKeys/", "cryptoKeys/"+strings.Repeat("k", 200), 1): "other characters",
	} {
		_, err := wrap(t.Context(), p, keystore.KeyRef(ref), aSecret(t))
		wantClass(t, err, keystore.Misconfigured, text)
		wantClass(t, unwrap(t.Context(), p, keystore.KeyRef(ref), stored), keystore.Misconfigured, text)
		_, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(ref)})
		wantClass(t, err, keystore.Misconfigured, text)
	}
	if n := len(s.Records()) - before; n != 0 {
		t.Errorf("%d calls were made with references that are none", n)
	}
}

// A key of another purpose is described as what it is and wraps nothing.
func TestAKeyOfAnotherPurposeIsMisconfigured(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	_, err := s.CreateCryptoKey(t.Context(), &kmspb.CreateCryptoKeyRequest{
		Parent: gcpserver.KeyRing, CryptoKeyId: "rsa", CryptoKey: &kmspb.CryptoKey{Purpose: kmspb.CryptoKey_ASYMMETRIC_DECRYPT},
	})
	check(t, err)
	key := gcpserver.KeyName("rsa")
	s.Grant(key, gcpserver.MachineAccount, roleKrypton)
	_, err = wrap(t.Context(), p, keystore.KeyRef(key), aSecret(t))
	wantClass(t, err, keystore.Misconfigured, "is not ENCRYPT_DECRYPT")
	d, err := p.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(key)})
	check(t, err)
	if d.Mechanism != "RSA_DECRYPT_OAEP_3072_SHA256" || d.Kind != keystore.KindUnknown {
		t.Errorf("%+v", d)
	}
	hsm, err := s.CreateKey("in-hsm", kmspb.ProtectionLevel_HSM)
	check(t, err)
	s.Grant(hsm, gcpserver.MachineAccount, roleKrypton)
	if d, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(hsm)}); err != nil || d.Protection != keystore.ProtectionHSM {
		t.Errorf("%+v, %v", d, err)
	}
	// The longest secret with the longest context fits what an HSM takes.
	long, err := memsec.Random(env.Rand, keystore.MaxSecret, memsec.Hot)
	check(t, err)
	defer long.Destroy()
	if _, err := p.Wrap(t.Context(), keystore.WrapRequest{Key: keystore.KeyRef(hsm), Secret: long, AAD: bytes.Repeat([]byte{1}, keystore.MaxAAD)}); err != nil {
		t.Error(err)
	}
	external, err := s.CreateKey("external", kmspb.ProtectionLevel_EXTERNAL)
	check(t, err)
	s.Grant(external, gcpserver.MachineAccount, roleKrypton)
	if d, err = p.Describe(t.Context(), keystore.DescribeRequest{Key: keystore.KeyRef(external)}); err != nil || d.Protection != keystore.ProtectionUnknown {
		t.Errorf("%+v, %v", d, err)
	}
}

// I2: a failure is one attempt, with a deadline of the caller and without one.
func TestI2_AFailureIsOneAttempt(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	_, blob := mustWrap(t, p, key)
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.ResourceExhausted} {
		for _, ctx := range []context.Context{t.Context(), limited} {
			s.Answer("Decrypt", status.Error(code, "no"))
			before := len(s.Records())
			err := unwrap(ctx, p, key, blob)
			if n := len(s.Records()) - before; n != 1 {
				t.Errorf("%s: %d attempts", code, n)
			}
			if want := code.String(); !strings.Contains(err.Error(), want) {
				t.Errorf("the code is lost: %v", err)
			}
			s.Answer("Decrypt", nil)
		}
	}
}

// I5: a connection on which nothing comes back is not used again, and the
// keystore's own limit holds where the caller has none.
func TestI5_ASilentConnectionIsReplaced(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	_, blob := mustWrap(t, p, key)
	gcpkms.Limit(t, p, 300*time.Millisecond)
	connections := s.proxy.Accepted()
	healed := s.proxy.Hang()
	err := unwrap(t.Context(), p, key, blob)
	wantClass(t, err, keystore.Unavailable, "no answer within 300ms")
	check(t, healed())
	gcpkms.Limit(t, p, time.Minute)
	check(t, unwrap(t.Context(), p, key, blob))
	if n := s.proxy.Accepted() - connections; n != 1 {
		t.Errorf("%d new connections after one fell silent", n)
	}
	// A connection that is well is kept.
	for range 3 {
		check(t, unwrap(t.Context(), p, key, blob))
	}
	// One that was refused is tried anew by each call, at once.
	back := s.proxy.Refuse()
	for range 3 {
		wantClass(t, unwrap(t.Context(), p, key, blob), keystore.Unavailable)
	}
	check(t, back())
	check(t, unwrap(t.Context(), p, key, blob))
	if n := s.proxy.Accepted() - connections; n != 2 {
		t.Errorf("%d connections, want one more", n)
	}
}

func TestADeadlineOfTheCallerEndsTheCall(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	_, blob := mustWrap(t, p, key)
	healed := s.proxy.Hang()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := unwrap(ctx, p, key, blob)
	wantClass(t, err, keystore.Unavailable)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	check(t, healed())
	check(t, unwrap(t.Context(), p, key, blob))
}

// Everything that the other side says is bounded and quoted in errors.
func TestTextsOfTheOtherSideAreBounded(t *testing.T) {
	s := start(t, gcpserver.Options{})
	env, _ := envWith(clock.System{})
	p := s.open(t, env, s.settings())
	key := s.newKey(t)
	_, blob := mustWrap(t, p, key)
	s.Answer("Decrypt", answer(t, codes.Internal, "line\nlevel=ERROR "+strings.Repeat("x", 5000),
		&errdetails.RequestInfo{RequestId: "id-of-google"}, reason(strings.Repeat("R", 5000))))
	err := unwrap(t.Context(), p, key, blob)
	var e *keystore.Error
	if !errors.As(err, &e) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") || e.RequestID != "id-of-google" {
		t.Errorf("%d bytes, request id %q: %v", len(err.Error()), e.RequestID, err)
	}
}
