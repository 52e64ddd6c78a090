package keystoretest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// testCase is one sentence of the contract.
type testCase struct {
	name  string
	needs []Ability
	run   func(*suite)
}

// cases is the contract of keystore.Provider, one sentence a case.
//
//nolint:gochecknoglobals // A table of test cases, never written.
var cases = []testCase{
	{"what was wrapped unwraps to the same secret, for every length and class", nil, (*suite).roundTrips},
	{"two wraps of one secret are different blobs within the limits", nil, (*suite).blobs},
	{"a request is neither changed nor kept", nil, (*suite).requestsStay},
	{"a blob opens only under the AAD it was made with", nil, (*suite).bindsAAD},
	{"a blob opens only under the key it was made with", nil, (*suite).bindsKey},
	{"a changed blob is Corrupt", nil, (*suite).corruptBlobs},
	{"a request outside the limits is refused and never Denied", nil, (*suite).limits},
	{"a key that never was is no withdrawal of another", nil, (*suite).unknownKey},
	{"an ended context ends the call as Unavailable and wraps its error", nil, (*suite).contexts},
	{"describe tells state, version and mechanism", nil, (*suite).describes},
	{"health is well", nil, (*suite).health},
	{"every error and result carries the request id, every call the correlation id", []Ability{CanShowCalls}, (*suite).ids},
	{"a refusal carries the request id under which the keystore has it", []Ability{CanShowCalls, CanDisable}, (*suite).idOfRefusal},
	{"every error names provider, operation and key", nil, (*suite).errorsName},
	{"concurrent calls do not disturb each other", nil, (*suite).concurrent},
	{"calls that are cancelled take no other call down", nil, (*suite).cancelledNeighbours},
	{"a disabled key is Denied until it is enabled", []Ability{CanDisable}, (*suite).disabled},
	{"a key that is pending deletion is Denied", []Ability{CanScheduleDeletion}, (*suite).pendingDeletion},
	{"a cancelled deletion gives the key back", []Ability{CanScheduleDeletion, CanCancelDeletion}, (*suite).cancelledDeletion},
	{"a deleted key is Denied", []Ability{CanDelete}, (*suite).deleted},
	{"withdrawn access is Denied", []Ability{CanDeny}, (*suite).denied},
	{"after a rotation old blobs open and new ones have another version", []Ability{CanRotate}, (*suite).rotated},
	{"a keystore that is away is Unavailable, and well again when it is back", []Ability{CanBeAway}, (*suite).away},
	{"a connection that is killed in the middle of an answer is Unavailable", []Ability{CanCut}, (*suite).cut},
	{"a call that hangs ends with its deadline", []Ability{CanHang}, (*suite).hangs},
	{"a call that hangs ends when it is cancelled", []Ability{CanHang}, (*suite).hangsUntilCancelled},
	{"a slow answer is an answer, and too slow a one is Unavailable", []Ability{CanBeSlow}, (*suite).slow},
	{"a keystore that fails is Unavailable", []Ability{CanFail}, (*suite).failing},
	{"a failure is one attempt", []Ability{CanFail, CanShowCalls}, (*suite).oneAttempt},
	{"an answer that is none is never Denied", []Ability{CanTalkNonsense}, (*suite).nonsense},
	{"a keystore that asks for fewer calls is Throttled", []Ability{CanThrottle}, (*suite).throttled},
	{"credentials that are refused are Misconfigured, and accepted again they work", []Ability{CanRevoke}, (*suite).revoked},
	{"a session that ended is renewed within the call", []Ability{CanExpireToken}, (*suite).expired},
	{"a session that ends while many calls run costs none of them", []Ability{CanExpireToken}, (*suite).expiredInUse},
	{"a session that is refused is Misconfigured", []Ability{CanExpireToken, CanRefuseRefresh}, (*suite).refusedRefresh},
	{"a session that cannot be asked for is Unavailable", []Ability{CanExpireToken, CanLoseIdentity}, (*suite).lostIdentity},
	{"another idea of the time is never Denied", []Ability{CanSkew}, (*suite).skewed},
	{"imported material wraps and unwraps", []Ability{CanImport}, (*suite).imports},
	{"material that does not open or has another key's token is refused", []Ability{CanImport}, (*suite).badImports},
	{"the keystore's own log shows neither secret nor context", []Ability{CanShowLog}, (*suite).silentLog},
	{"a second provider opens what the first wrapped", []Ability{CanSharePeers}, (*suite).peers},
	{"a second provider sees a disabled key at once", []Ability{CanSharePeers, CanDisable}, (*suite).peersSeeDisable},
	{"a closed provider is Unavailable and can be closed again", nil, (*suite).closed},
	{"closing while calls run ends them as Unavailable", nil, (*suite).closedInUse},
}

var theAAD = []byte("keyspace 1, tenant 7")

// secret makes a random secret and remembers its bytes for checkSilence.
func (s *suite) secret(n int) memsec.Secret {
	s.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		s.Fatal(err)
	}
	s.seen = append(s.seen, bytes.Clone(b))
	sec, err := memsec.Take(b, memsec.Hot)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(sec.Destroy)
	return sec
}

func (s *suite) correlation() corr.ID {
	s.Helper()
	id, err := corr.New(rand.Reader)
	if err != nil {
		s.Fatal(err)
	}
	return id
}

func (s *suite) wrapReq(key keystore.KeyRef, sec memsec.Secret) keystore.WrapRequest {
	s.Helper()
	return keystore.WrapRequest{Key: key, Secret: sec, AAD: theAAD, Correlation: s.correlation()}
}

func (s *suite) unwrapReq(key keystore.KeyRef, blob []byte) keystore.UnwrapRequest {
	s.Helper()
	return keystore.UnwrapRequest{Key: key, Blob: blob, AAD: theAAD, Class: memsec.Hot, Correlation: s.correlation()}
}

func (s *suite) wrap(key keystore.KeyRef, sec memsec.Secret) keystore.WrapResult {
	s.Helper()
	res, err := s.Provider.Wrap(s.ctx, s.wrapReq(key, sec))
	if err != nil {
		s.Fatalf("wrap: %v", err)
	}
	return res
}

// opens fails unless the blob opens to want.
func (s *suite) opens(p keystore.Provider, key keystore.KeyRef, blob []byte, want memsec.Secret) keystore.UnwrapResult {
	s.Helper()
	res, err := p.Unwrap(s.ctx, s.unwrapReq(key, blob))
	if err != nil {
		s.Fatalf("unwrap: %v", err)
	}
	defer res.Secret.Destroy()
	same, err := memsec.Equal(res.Secret, want)
	if err != nil || !same {
		s.Fatalf("unwrap returned another secret than was wrapped (%v)", err)
	}
	return res
}

// fails checks that err is a *keystore.Error of one of the classes.
func (s *suite) fails(what string, err error, classes ...keystore.Class) *keystore.Error {
	s.Helper()
	if err == nil {
		s.Fatalf("%s: succeeded, want %v", what, classes)
	}
	s.errs = append(s.errs, err)
	var e *keystore.Error
	if !errors.As(err, &e) {
		s.Fatalf("%s: %T is not a *keystore.Error: %v", what, err, err)
	}
	if !slices.Contains(classes, e.Class) {
		s.Fatalf("%s: class %s, want %v: %v", what, e.Class, classes, err)
	}
	return e
}

// refused checks wrap and unwrap of a key.
func (s *suite) refused(what string, key keystore.KeyRef, blob []byte, class keystore.Class) {
	s.Helper()
	wrapped, err := s.Provider.Wrap(s.ctx, s.wrapReq(key, s.secret(32)))
	s.fails("wrap under a key that is "+what, err, class)
	if len(wrapped.Blob) > 0 {
		s.Errorf("wrap under a key that is %s failed and returned a blob", what)
	}
	res, err := s.Provider.Unwrap(s.ctx, s.unwrapReq(key, blob))
	s.fails("unwrap under a key that is "+what, err, class)
	if !res.Secret.IsZero() {
		s.Errorf("unwrap under a key that is %s failed and returned a secret", what)
	}
}

func (s *suite) roundTrips() {
	key := s.NewKey(s.T)
	for _, n := range []int{1, 16, 32, 33, keystore.MaxSecret} {
		sec := s.secret(n)
		blob := s.wrap(key, sec).Blob
		for _, class := range []memsec.Class{memsec.Hot, memsec.Cold} {
			req := s.unwrapReq(key, blob)
			req.Class = class
			res, err := s.Provider.Unwrap(s.ctx, req)
			if err != nil {
				s.Fatalf("unwrap %d bytes: %v", n, err)
			}
			if same, err := memsec.Equal(res.Secret, sec); err != nil || !same {
				s.Errorf("%d bytes came back different (%v)", n, err)
			}
			if res.Secret.Class() != class {
				s.Errorf("asked for class %s, got %s", class, res.Secret.Class())
			}
			res.Secret.Destroy()
		}
	}
}

func (s *suite) blobs() {
	key, sec := s.NewKey(s.T), s.secret(32)
	a, b := s.wrap(key, sec), s.wrap(key, sec)
	if bytes.Equal(a.Blob, b.Blob) {
		s.Error("two wraps gave one blob: the mechanism is not randomised")
	}
	for _, res := range []keystore.WrapResult{a, b} {
		if n := len(res.Blob); n < 1 || n > keystore.MaxBlob {
			s.Errorf("blob of %d bytes, the limits are 1 and %d", n, keystore.MaxBlob)
		}
		if len(res.KeyVersion) > keystore.MaxKeyVersion || len(res.RequestID) > keystore.MaxRequestID {
			s.Errorf("key version of %d and request id of %d bytes", len(res.KeyVersion), len(res.RequestID))
		}
		if bytes.Contains(res.Blob, s.seen[0]) {
			s.Error("the blob holds the secret in clear")
		}
	}
	if a.KeyVersion != b.KeyVersion {
		s.Errorf("key version went from %q to %q without a rotation", a.KeyVersion, b.KeyVersion)
	}
}

func (s *suite) bindsAAD() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	for name, aad := range map[string][]byte{
		"one bit": append(bytes.Clone(theAAD[:len(theAAD)-1]), theAAD[len(theAAD)-1]^1),
		"shorter": theAAD[:len(theAAD)-1],
		"longer":  append(bytes.Clone(theAAD), 0),
	} {
		req := s.unwrapReq(key, blob)
		req.AAD = aad
		_, err := s.Provider.Unwrap(s.ctx, req)
		s.fails("unwrap with an AAD that differs: "+name, err, keystore.Corrupt)
	}
	// The longest AAD that callers may use fits, and all of it is bound.
	long := bytes.Repeat([]byte{'a'}, keystore.MaxAAD)
	w := s.wrapReq(key, sec)
	w.AAD = long
	res, err := s.Provider.Wrap(s.ctx, w)
	if err != nil {
		s.Fatalf("wrap with the longest AAD: %v", err)
	}
	u := s.unwrapReq(key, res.Blob)
	u.AAD = append(bytes.Clone(long[:len(long)-1]), 'b')
	_, err = s.Provider.Unwrap(s.ctx, u)
	s.fails("unwrap with the last byte of the longest AAD changed", err, keystore.Corrupt)
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) bindsKey() {
	a, b, sec := s.NewKey(s.T), s.NewKey(s.T), s.secret(32)
	blob := s.wrap(a, sec).Blob
	_, err := s.Provider.Unwrap(s.ctx, s.unwrapReq(b, blob))
	s.fails("unwrap under another key", err, keystore.Corrupt, keystore.Misconfigured)
	s.opens(s.Provider, a, blob, sec)
}

func (s *suite) corruptBlobs() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	try := func(what string, b []byte) {
		_, err := s.Provider.Unwrap(s.ctx, s.unwrapReq(key, b))
		s.fails("unwrap of a blob "+what, err, keystore.Corrupt)
	}
	// Every byte of what is likely to be the head and of short blobs, and a
	// spread of long ones, so that a slow keystore is not asked thousands of times.
	for i := 0; i < len(blob); i += 1 + max(0, i-128)/8 {
		b := bytes.Clone(blob)
		b[i] ^= 1 << (i % 8)
		try(fmt.Sprintf("with a bit of byte %d changed", i), b)
		if i < 32 {
			b[i] = ^blob[i]
			try(fmt.Sprintf("with byte %d inverted", i), b)
		}
	}
	last := bytes.Clone(blob)
	last[len(last)-1] ^= 1
	try("with the last bit changed", last)
	for n := 1; n < len(blob); n += 1 + len(blob)/24 {
		try(fmt.Sprintf("cut to %d bytes", n), blob[:n])
	}
	try("without its last byte", blob[:len(blob)-1])
	try("without its first byte", blob[1:])
	try("with a byte more", append(bytes.Clone(blob), 0))
	try("with as many bytes more as there may be", append(bytes.Clone(blob), make([]byte, keystore.MaxBlob-len(blob))...))
	try("twice", append(bytes.Clone(blob), blob...))
	try("of other bytes", bytes.Repeat([]byte{0xA5}, len(blob)))
	try("of zeros, as long as may be", make([]byte, keystore.MaxBlob))
	// Head and tail of two good blobs.
	other := s.wrap(key, s.secret(32)).Blob
	if n := min(len(blob), len(other)) / 2; n > 0 {
		// Where blobs of one key begin alike, the halves can be one of the two.
		mixed := append(bytes.Clone(blob[:n]), other[n:]...)
		if !bytes.Equal(mixed, other) && !bytes.Equal(mixed, blob) {
			try("of two halves", mixed)
		}
	}
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) limits() {
	key, sec := s.NewKey(s.T), s.secret(32)
	long := keystore.KeyRef(strings.Repeat("k", keystore.MaxKeyRef+1))
	wrap := func(what string, change func(*keystore.WrapRequest)) {
		req := s.wrapReq(key, sec)
		change(&req)
		_, err := s.Provider.Wrap(s.ctx, req)
		s.fails("wrap "+what, err, keystore.Misconfigured)
	}
	wrap("without a key", func(r *keystore.WrapRequest) { r.Key = "" })
	wrap("under a reference that is too long", func(r *keystore.WrapRequest) { r.Key = long })
	wrap("without AAD", func(r *keystore.WrapRequest) { r.AAD = nil })
	wrap("with AAD that is too long", func(r *keystore.WrapRequest) { r.AAD = make([]byte, keystore.MaxAAD+1) })
	wrap("without a secret", func(r *keystore.WrapRequest) { r.Secret = memsec.Secret{} })
	wrap("a secret that is too long", func(r *keystore.WrapRequest) { r.Secret = s.secret(keystore.MaxSecret + 1) })

	blob := s.wrap(key, sec).Blob
	unwrap := func(what string, class keystore.Class, change func(*keystore.UnwrapRequest)) {
		req := s.unwrapReq(key, blob)
		change(&req)
		_, err := s.Provider.Unwrap(s.ctx, req)
		s.fails("unwrap "+what, err, class)
	}
	unwrap("without a key", keystore.Misconfigured, func(r *keystore.UnwrapRequest) { r.Key = "" })
	unwrap("without AAD", keystore.Misconfigured, func(r *keystore.UnwrapRequest) { r.AAD = nil })
	unwrap("without a class", keystore.Misconfigured, func(r *keystore.UnwrapRequest) { r.Class = 0 })
	unwrap("of nothing", keystore.Corrupt, func(r *keystore.UnwrapRequest) { r.Blob = nil })
	unwrap("of a blob that is too long", keystore.Corrupt, func(r *keystore.UnwrapRequest) { r.Blob = make([]byte, keystore.MaxBlob+1) })

	_, err := s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: long})
	s.fails("describe a reference that is too long", err, keystore.Misconfigured)
}

// unknownKey accepts both classes: most keystores answer alike for a key that
// was destroyed and one that never was. Who may report Denied is decided above.
func (s *suite) unknownKey() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	_, err := s.Provider.Wrap(s.ctx, s.wrapReq(s.UnknownKey, sec))
	s.fails("wrap under an unknown key", err, keystore.Denied, keystore.Misconfigured)
	_, err = s.Provider.Unwrap(s.ctx, s.unwrapReq(s.UnknownKey, blob))
	s.fails("unwrap under an unknown key", err, keystore.Denied, keystore.Misconfigured)
	_, err = s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: s.UnknownKey, Correlation: s.correlation()})
	s.fails("describe an unknown key", err, keystore.Denied, keystore.Misconfigured)
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) contexts() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	cancelled, cancel := context.WithCancel(s.ctx)
	cancel()
	expired, cancel := context.WithDeadline(s.ctx, time.Unix(1, 0))
	defer cancel()
	for _, c := range []struct {
		ctx  context.Context //nolint:containedctx // A row of a table.
		want error
	}{{cancelled, context.Canceled}, {expired, context.DeadlineExceeded}} {
		calls := map[string]func() error{
			"wrap": func() error { _, err := s.Provider.Wrap(c.ctx, s.wrapReq(key, sec)); return err },
			"unwrap": func() error {
				res, err := s.Provider.Unwrap(c.ctx, s.unwrapReq(key, blob))
				res.Secret.Destroy()
				return err
			},
			"describe": func() error {
				_, err := s.Provider.Describe(c.ctx, keystore.DescribeRequest{Key: key, Correlation: s.correlation()})
				return err
			},
			"health": func() error { return s.Provider.Health(c.ctx, s.correlation()) },
		}
		for name, call := range calls {
			err := call()
			s.fails(name+" with an ended context", err, keystore.Unavailable)
			if !errors.Is(err, c.want) {
				s.Errorf("%s: error does not wrap %v: %v", name, c.want, err)
			}
		}
	}
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) describes() {
	key := s.NewKey(s.T)
	d, err := s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: key, Correlation: s.correlation()})
	if err != nil {
		s.Fatalf("describe: %v", err)
	}
	if d.State != keystore.StateEnabled && d.State != keystore.StateUnknown {
		s.Errorf("a new key is %s", d.State)
	}
	if d.Mechanism == "" || d.Key == "" {
		s.Errorf("mechanism %q and key %q, both must be told", d.Mechanism, d.Key)
	}
	if v := s.wrap(key, s.secret(32)).KeyVersion; v != d.KeyVersion {
		s.Errorf("describe says that version %q wraps, and %q did", d.KeyVersion, v)
	}
}

func (s *suite) health() {
	if err := s.Provider.Health(s.ctx, s.correlation()); err != nil {
		s.Fatalf("health: %v", err)
	}
}

func (s *suite) ids() {
	key, sec := s.NewKey(s.T), s.secret(32)
	reached := func(what string, id corr.ID, rid keystore.RequestID) {
		s.Helper()
		if rid == "" {
			s.Errorf("%s: no request id came back", what)
		}
		for _, c := range s.Calls(s.T) {
			if c.Correlation == id && c.RequestID == rid {
				return
			}
		}
		s.Errorf("%s: the keystore's log has no call with correlation id %s and request id %q", what, id, rid)
	}
	w := s.wrapReq(key, sec)
	wres, err := s.Provider.Wrap(s.ctx, w)
	if err != nil {
		s.Fatalf("wrap: %v", err)
	}
	reached("wrap", w.Correlation, wres.RequestID)
	u := s.unwrapReq(key, wres.Blob)
	ures, err := s.Provider.Unwrap(s.ctx, u)
	if err != nil {
		s.Fatalf("unwrap: %v", err)
	}
	ures.Secret.Destroy()
	reached("unwrap", u.Correlation, ures.RequestID)
	if wres.RequestID == ures.RequestID {
		s.Error("two calls have one request id")
	}
	d := keystore.DescribeRequest{Key: key, Correlation: s.correlation()}
	dres, err := s.Provider.Describe(s.ctx, d)
	if err != nil {
		s.Fatalf("describe: %v", err)
	}
	reached("describe", d.Correlation, dres.RequestID)
	u = s.unwrapReq(key, wres.Blob)
	u.AAD = []byte("another")
	_, err = s.Provider.Unwrap(s.ctx, u)
	reached("failed unwrap", u.Correlation, s.fails("unwrap with another AAD", err, keystore.Corrupt).RequestID)
}

func (s *suite) errorsName() {
	key, sec := s.NewKey(s.T), s.secret(32)
	u := s.unwrapReq(key, s.wrap(key, sec).Blob)
	u.AAD = []byte("another")
	_, err := s.Provider.Unwrap(s.ctx, u)
	check := func(e *keystore.Error, op keystore.Op, key keystore.KeyRef) {
		s.Helper()
		if e.Provider != s.cfg.Name || e.Op != op || e.Key != key {
			s.Errorf("error names %q %s %q, want %q %s %q", e.Provider, e.Op, e.Key, s.cfg.Name, op, key)
		}
	}
	check(s.fails("unwrap", err, keystore.Corrupt), keystore.OpUnwrap, key)
	_, err = s.Provider.Wrap(s.ctx, s.wrapReq(s.UnknownKey, sec))
	check(s.fails("wrap", err, keystore.Denied, keystore.Misconfigured), keystore.OpWrap, s.UnknownKey)
	_, err = s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: s.UnknownKey, Correlation: s.correlation()})
	check(s.fails("describe", err, keystore.Denied, keystore.Misconfigured), keystore.OpDescribe, s.UnknownKey)
}

func (s *suite) concurrent() {
	const workers, rounds = 8, 6
	key := s.NewKey(s.T)
	secrets := make([]memsec.Secret, workers)
	for i := range secrets {
		secrets[i] = s.secret(32)
	}
	failed := make(chan error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range rounds {
				aad := []byte{byte(i)}
				res, err := s.Provider.Wrap(s.ctx, keystore.WrapRequest{Key: key, Secret: secrets[i], AAD: aad})
				if err != nil {
					failed <- err
					return
				}
				out, err := s.Provider.Unwrap(s.ctx, keystore.UnwrapRequest{Key: key, Blob: res.Blob, AAD: aad, Class: memsec.Hot})
				if err != nil {
					failed <- err
					return
				}
				same, err := memsec.Equal(out.Secret, secrets[i])
				out.Secret.Destroy()
				if err != nil || !same {
					failed <- fmt.Errorf("worker %d got another worker's secret (%w)", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		s.Error(err)
	}
}

func (s *suite) disabled() {
	key, sec := s.NewKey(s.T), s.secret(32)
	other := s.NewKey(s.T)
	blob := s.wrap(key, sec).Blob
	s.Disable(s.T, key)
	s.refused("disabled", key, blob, keystore.Denied)
	s.told(key, keystore.StateDisabled)
	if err := s.Provider.Health(s.ctx, s.correlation()); err != nil {
		s.Errorf("health says something about a key: %v", err)
	}
	s.wrap(other, sec)
	s.Enable(s.T, key)
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) pendingDeletion() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	s.ScheduleDeletion(s.T, key)
	s.refused("pending deletion", key, blob, keystore.Denied)
	s.told(key, keystore.StatePendingDeletion)
}

// told checks that the keystore describes a key that cannot be used. It may say
// that it does not know the state; it may not say another one.
func (s *suite) told(key keystore.KeyRef, want keystore.KeyState) {
	s.Helper()
	d, err := s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: key, Correlation: s.correlation()})
	if err != nil {
		s.Errorf("describe a key that is %s: %v", want, err)
	} else if d.State != want && d.State != keystore.StateUnknown {
		s.Errorf("describe says %s of a key that is %s", d.State, want)
	}
}

func (s *suite) cancelledDeletion() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	s.ScheduleDeletion(s.T, key)
	s.refused("pending deletion", key, blob, keystore.Denied)
	s.CancelDeletion(s.T, key)
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) deleted() {
	key, sec := s.NewKey(s.T), s.secret(32)
	other := s.NewKey(s.T)
	blob, kept := s.wrap(key, sec).Blob, s.wrap(other, sec).Blob
	s.Delete(s.T, key)
	s.refused("deleted", key, blob, keystore.Denied)
	s.opens(s.Provider, other, kept, sec)
	// Some keystores know it still and say so, others do not.
	if d, err := s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: key, Correlation: s.correlation()}); err != nil {
		s.fails("describe a deleted key", err, keystore.Denied, keystore.Misconfigured)
	} else if d.State == keystore.StateEnabled {
		s.Error("describe says that a deleted key is enabled")
	}
}

func (s *suite) denied() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	s.Deny(s.T, key)
	s.refused("withdrawn", key, blob, keystore.Denied)
	if err := s.Provider.Health(s.ctx, s.correlation()); err != nil {
		s.Errorf("health says something about a key: %v", err)
	}
}

func (s *suite) rotated() {
	key, sec := s.NewKey(s.T), s.secret(32)
	before := s.wrap(key, sec)
	s.Rotate(s.T, key)
	after := s.wrap(key, sec)
	if before.KeyVersion != "" && before.KeyVersion == after.KeyVersion {
		s.Errorf("version %q before and after a rotation", before.KeyVersion)
	}
	if v := s.opens(s.Provider, key, before.Blob, sec).KeyVersion; v != before.KeyVersion {
		s.Errorf("version %q wrapped and %q unwrapped", before.KeyVersion, v)
	}
	if v := s.opens(s.Provider, key, after.Blob, sec).KeyVersion; v != after.KeyVersion {
		s.Errorf("version %q wrapped and %q unwrapped", after.KeyVersion, v)
	}
	d, err := s.Provider.Describe(s.ctx, keystore.DescribeRequest{Key: key, Correlation: s.correlation()})
	if err != nil {
		s.Fatalf("describe: %v", err)
	}
	if d.KeyVersion != after.KeyVersion {
		s.Errorf("describe says that version %q wraps, and %q did", d.KeyVersion, after.KeyVersion)
	}
	// A version that another one replaced still cannot be mistaken for it.
	mixed := bytes.Clone(before.Blob)
	copy(mixed, after.Blob[:len(after.Blob)/4])
	if !bytes.Equal(mixed, before.Blob) {
		_, err = s.Provider.Unwrap(s.ctx, s.unwrapReq(key, mixed))
		s.fails("unwrap of an old blob with the head of a new one", err, keystore.Corrupt)
	}
}

func (s *suite) away() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	back := s.Away(s.T)
	s.refused("away", key, blob, keystore.Unavailable)
	s.fails("health", s.Provider.Health(s.ctx, s.correlation()), keystore.Unavailable)
	back()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) throttled() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	enough := s.Throttle(s.T)
	s.refused("throttled", key, blob, keystore.Throttled)
	enough()
	s.opens(s.Provider, key, blob, sec)
}

func (s *suite) peer() keystore.Provider {
	s.Helper()
	p := s.Peer(s.T)
	s.Cleanup(func() {
		if err := p.Close(); err != nil {
			s.Errorf("close peer: %v", err)
		}
	})
	return p
}

func (s *suite) peers() {
	p := s.peer()
	key, sec := s.NewKey(s.T), s.secret(32)
	s.opens(p, key, s.wrap(key, sec).Blob, sec)
}

func (s *suite) peersSeeDisable() {
	p := s.peer()
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	s.opens(p, key, blob, sec)
	s.Disable(s.T, key)
	_, err := p.Unwrap(s.ctx, s.unwrapReq(key, blob))
	s.fails("unwrap by a peer after disable", err, keystore.Denied)
	s.Enable(s.T, key)
	s.opens(p, key, blob, sec)
}

func (s *suite) closed() {
	key, sec := s.NewKey(s.T), s.secret(32)
	blob := s.wrap(key, sec).Blob
	for range 2 {
		if err := s.Provider.Close(); err != nil {
			s.Fatalf("close: %v", err)
		}
	}
	s.refused("behind a closed provider", key, blob, keystore.Unavailable)
	s.fails("health of a closed provider", s.Provider.Health(s.ctx, s.correlation()), keystore.Unavailable)
}
