package keystore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
)

var classes = []keystore.Class{keystore.Denied, keystore.Unavailable, keystore.Throttled, keystore.Misconfigured, keystore.Corrupt}

func of(c keystore.Class, cause error) error {
	return fmt.Errorf("prove l1: %w", keystore.NewError(keystore.Error{Class: c, Provider: "eu-hsm", Key: "k", Op: keystore.OpUnwrap, RequestID: "r-1"}, cause))
}

func TestI2_AnErrorThatNoProviderClassifiedIsNeverDenied(t *testing.T) {
	for name, err := range map[string]error{
		"plain":             errors.New("access denied"),
		"context":           context.Canceled,
		"caller-visible":    errs.New(errs.L1Denied, "denied"),
		"error without new": &keystore.Error{Provider: "x"},
		"class 0":           keystore.NewError(keystore.Error{}, nil),
		"class of tomorrow": keystore.NewError(keystore.Error{Class: 99}, nil),
		"class below":       keystore.NewError(keystore.Error{Class: -1}, nil),
	} {
		if got := keystore.ClassOf(err); got != keystore.Unavailable || keystore.IsDenied(err) || !keystore.IsTransient(err) {
			t.Errorf("%s: class %s", name, got)
		}
	}
	if keystore.ClassOf(nil) != keystore.ClassUnspecified || keystore.IsDenied(nil) || keystore.IsTransient(nil) || keystore.Visible(nil) != nil {
		t.Error("nil is an error")
	}
}

func TestI4_OnlyDeniedTriggersAndOnlyUnavailableAndThrottledAreRetried(t *testing.T) {
	for _, c := range classes {
		err := of(c, errors.New("why"))
		if got, want := keystore.IsDenied(err), c == keystore.Denied; got != want {
			t.Errorf("%s: IsDenied %v", c, got)
		}
		if got, want := keystore.IsTransient(err), c == keystore.Unavailable || c == keystore.Throttled; got != want {
			t.Errorf("%s: IsTransient %v", c, got)
		}
	}
}

func TestEveryClassHasItsCallerVisibleCode(t *testing.T) {
	want := map[keystore.Class]errs.Code{
		keystore.Denied: errs.L1Denied, keystore.Unavailable: errs.L1Unavailable, keystore.Throttled: errs.Throttled,
		keystore.Misconfigured: errs.KeystoreMisconfigured, keystore.Corrupt: errs.StateCorrupt,
	}
	for _, c := range classes {
		err := of(c, errors.New("why"))
		v := keystore.Visible(err)
		if v.Code != want[c] {
			t.Errorf("%s: code %s, want %s", c, v.Code, want[c])
		}
		if v.Hint == "" || !errors.Is(v, err) {
			t.Errorf("%s: hint %q, cause kept: %v", c, v.Hint, errors.Is(v, err))
		}
		// Names of keys and keystores are not for every caller.
		for _, secret := range []string{"eu-hsm", "r-1", `"k"`, "why"} {
			if strings.Contains(v.Error(), secret) {
				t.Errorf("%s: shows %q: %v", c, secret, v)
			}
		}
	}
	if got := keystore.Visible(of(keystore.Unavailable, context.Canceled)).Code; got != errs.Canceled {
		t.Errorf("a cancelled call is %s", got)
	}
	if got := keystore.Visible(of(keystore.Denied, context.Canceled)).Code; got != errs.L1Denied {
		t.Errorf("a denial that wraps a cancellation is %s", got)
	}
	if got := keystore.Visible(errors.New("unknown")).Code; got != errs.L1Unavailable {
		t.Errorf("an unknown error is %s", got)
	}
}

func TestErrorTextNamesEverything(t *testing.T) {
	got := keystore.NewError(keystore.Error{Class: keystore.Denied, Provider: "eu-hsm", Key: "arn:1", Op: keystore.OpUnwrap, RequestID: "r-1"}, errors.New("the key is disabled")).Error()
	want := `keystore eu-hsm: unwrap key "arn:1": denied: the key is disabled (request id "r-1")`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	got = keystore.NewError(keystore.Error{Class: keystore.Unavailable, Provider: "eu-hsm", Op: keystore.OpHealth}, nil).Error()
	if want := "keystore eu-hsm: health: unavailable"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A keystore could answer with control characters or a page of text as its
// request id; neither reaches a log as it came.
func TestRequestIDsAreBoundedAndQuoted(t *testing.T) {
	e := keystore.NewError(keystore.Error{Class: keystore.Denied, RequestID: keystore.RequestID("a\nlevel=ERROR" + strings.Repeat("x", 1000))}, nil)
	if len(e.RequestID) != keystore.MaxRequestID || strings.Contains(e.Error(), "\n") {
		t.Errorf("%d bytes: %s", len(e.RequestID), e)
	}
}

func TestNamesOfEnumsAreUnique(t *testing.T) {
	var names []string
	for i := range 11 {
		names = append(names, "class "+keystore.Class(i).String(), "op "+keystore.Op(i).String(),
			"state "+keystore.KeyState(i).String(), "kind "+keystore.KeyKind(i).String(), "protection "+keystore.Protection(i).String())
	}
	slices.Sort(names)
	unique := slices.Compact(slices.Clone(names))
	// 6 classes, 10 operations, 5 states, 3 kinds, 3 protections; beyond them the zero value's name.
	if len(unique) != 6+10+5+3+3 {
		t.Errorf("%d different names: %q", len(unique), unique)
	}
}

// fake is a provider that only counts being closed.
type fake struct {
	keystore.Provider

	closed *int
	err    error
}

func (f fake) Close() error { *f.closed++; return f.err }

func env() keystore.Env {
	return keystore.Env{Logger: slog.New(slog.DiscardHandler), Rand: rand.Reader, Clock: clock.System{}}
}

func types(closed *int) keystore.Constructors {
	return keystore.Constructors{
		"good": func(context.Context, keystore.Env, keystore.Config) (keystore.Provider, error) {
			return fake{closed: closed}, nil
		},
		"leaky": func(context.Context, keystore.Env, keystore.Config) (keystore.Provider, error) {
			return fake{closed: closed, err: errors.New("leak")}, nil
		},
		"plain": func(context.Context, keystore.Env, keystore.Config) (keystore.Provider, error) {
			return nil, errors.New("no such region")
		},
		"typed": func(_ context.Context, _ keystore.Env, c keystore.Config) (keystore.Provider, error) {
			return nil, keystore.NewError(keystore.Error{Class: keystore.Denied, Provider: c.Name, Op: keystore.OpOpen}, errors.New("typed"))
		},
	}
}

func TestRegistryGivesWhatIsConfigured(t *testing.T) {
	closed := 0
	r, err := keystore.Open(t.Context(), env(), []keystore.Config{{Name: "b", Type: "good"}, {Name: "a-1", Type: "good"}}, types(&closed))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a-1", "b"}, r.Names()); diff != "" {
		t.Error(diff)
	}
	if p, err := r.Get("b"); err != nil || p == nil {
		t.Errorf("%v, %v", p, err)
	}
	_, err = r.Get("c")
	if keystore.ClassOf(err) != keystore.Misconfigured || !strings.Contains(err.Error(), "keystore c") {
		t.Errorf("unknown name: %v", err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if closed != 2 {
		t.Errorf("%d closes of 2 providers", closed)
	}
}

func TestRegistryOpensAllOrNone(t *testing.T) {
	many := make([]keystore.Config, keystore.MaxProviders+1)
	for i := range many {
		many[i] = keystore.Config{Name: fmt.Sprintf("k%d", i), Type: "good"}
	}
	good := keystore.Config{Name: "a", Type: "good"}
	for name, c := range map[string]struct {
		configs []keystore.Config
		class   keystore.Class
		text    string
		closed  int
	}{
		"unknown type":      {[]keystore.Config{good, {Name: "b", Type: "awskms"}}, keystore.Misconfigured, "it has: good, leaky, plain, typed", 1},
		"name twice":        {[]keystore.Config{good, good}, keystore.Misconfigured, "two keystores", 1},
		"no name":           {[]keystore.Config{{Type: "good"}}, keystore.Misconfigured, "lower-case label", 0},
		"upper case":        {[]keystore.Config{{Name: "A", Type: "good"}}, keystore.Misconfigured, "lower-case label", 0},
		"digit first":       {[]keystore.Config{{Name: "1a", Type: "good"}}, keystore.Misconfigured, "lower-case label", 0},
		"dash last":         {[]keystore.Config{{Name: "a-", Type: "good"}}, keystore.Misconfigured, "lower-case label", 0},
		"long name":         {[]keystore.Config{{Name: strings.Repeat("a", 64), Type: "good"}}, keystore.Misconfigured, "lower-case label", 0},
		"too many":          {many, keystore.Misconfigured, "the limit is 64", 0},
		"constructor fails": {[]keystore.Config{good, {Name: "b", Type: "plain"}}, keystore.Misconfigured, "no such region", 1},
		"typed failure":     {[]keystore.Config{good, {Name: "b", Type: "typed"}}, keystore.Denied, "typed", 1},
		"failing clean-up":  {[]keystore.Config{{Name: "a", Type: "leaky"}, {Name: "b", Type: "plain"}}, keystore.Misconfigured, "leak", 1},
	} {
		t.Run(name, func(t *testing.T) {
			closed := 0
			r, err := keystore.Open(t.Context(), env(), c.configs, types(&closed))
			if err == nil || r != nil {
				t.Fatalf("opened: %v", err)
			}
			if keystore.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.text) {
				t.Errorf("class %s: %v", keystore.ClassOf(err), err)
			}
			if closed != c.closed {
				t.Errorf("closed %d providers, want %d", closed, c.closed)
			}
		})
	}
}

// No request, result or error may have a place for key bytes outside a
// memsec.Secret: every []byte among their fields is listed here as public.
func TestI1_NoFieldHoldsSecretBytes(t *testing.T) {
	public := map[string]bool{
		"WrapRequest.AAD": true, "WrapResult.Blob": true, "UnwrapRequest.AAD": true, "UnwrapRequest.Blob": true,
		"ImportParameters.PublicKey": true, "ImportParameters.Token": true, "ImportMaterialRequest.Wrapped": true, "ImportMaterialRequest.Token": true,
	}
	for _, v := range []any{
		keystore.WrapRequest{},
		keystore.WrapResult{},
		keystore.UnwrapRequest{},
		keystore.UnwrapResult{},
		keystore.DescribeRequest{},
		keystore.Description{},
		keystore.ImportParametersRequest{},
		keystore.ImportParameters{},
		keystore.ImportMaterialRequest{},
		keystore.ImportResult{},
		keystore.Error{},
		keystore.Config{},
	} {
		typ := reflect.TypeOf(v)
		for f := range typ.Fields() {
			name := typ.Name() + "." + f.Name
			if f.Type == reflect.TypeFor[[]byte]() && !public[name] {
				t.Errorf("%s is a []byte", name)
			}
			delete(public, name)
		}
	}
	for name := range public {
		t.Errorf("%s is listed and does not exist", name)
	}
}

func TestASettingThatIsMisspeltOrMissingIsNoDefault(t *testing.T) {
	known := []keystore.Setting{{Name: "region", Required: true, Doc: "Where."}, {Name: "timeout", Default: "5s"}, {Name: "endpoint"}, {Name: "mode", Check: func(v string) error {
		if v != "on" {
			return errors.New("want on")
		}
		return nil
	}}}
	for name, c := range map[string]struct {
		given, want map[string]string
		text        string
	}{
		"all":      {map[string]string{"region": "r", "timeout": "1s", "endpoint": "e"}, map[string]string{"region": "r", "timeout": "1s", "endpoint": "e"}, ""},
		"defaults": {map[string]string{"region": "r"}, map[string]string{"region": "r", "timeout": "5s"}, ""},
		"empty":    {map[string]string{"region": "r", "timeout": ""}, map[string]string{"region": "r", "timeout": "5s"}, ""},
		"misspelt": {map[string]string{"region": "r", "timeuot": "1s"}, nil, `unknown setting "timeuot" of keystore type t; it has: region, timeout, endpoint, mode`},
		"checked":  {map[string]string{"region": "r", "mode": "on"}, map[string]string{"region": "r", "timeout": "5s", "mode": "on"}, ""},
		"refused":  {map[string]string{"region": "r", "mode": "off"}, nil, `mode is "off", want on`},
		"missing":  {nil, nil, `setting "region" of keystore type t is missing: Where.`},
		"none":     {map[string]string{"region": ""}, nil, `"region"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := keystore.Config{Name: "n", Type: "t", Settings: c.given}.Only(known)
			if c.text != "" {
				if err == nil || !strings.Contains(err.Error(), c.text) {
					t.Errorf("%v, want %q", err, c.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(keystore.Config{Name: "n", Type: "t", Settings: c.want}, got); diff != "" {
				t.Error(diff)
			}
			clear(got.Settings)
			if len(c.given) == 0 {
				t.Error("the result shares the caller's map")
			}
		})
	}
}

func TestImportRequestsOutsideTheLimits(t *testing.T) {
	long := keystore.KeyRef(strings.Repeat("k", keystore.MaxKeyRef+1))
	ok := keystore.ImportMaterialRequest{Key: "k", Wrapped: []byte{1}, Token: []byte{1}}
	with := func(change func(*keystore.ImportMaterialRequest)) keystore.ImportMaterialRequest {
		r := ok
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		err  error
		want keystore.Class
	}{
		"good":              {ok.Check("p"), keystore.ClassUnspecified},
		"no key":            {with(func(r *keystore.ImportMaterialRequest) { r.Key = "" }).Check("p"), keystore.Misconfigured},
		"long key":          {with(func(r *keystore.ImportMaterialRequest) { r.Key = long }).Check("p"), keystore.Misconfigured},
		"long token":        {with(func(r *keystore.ImportMaterialRequest) { r.Token = make([]byte, keystore.MaxImportToken+1) }).Check("p"), keystore.Misconfigured},
		"nothing wrapped":   {with(func(r *keystore.ImportMaterialRequest) { r.Wrapped = nil }).Check("p"), keystore.Corrupt},
		"long wrapped":      {with(func(r *keystore.ImportMaterialRequest) { r.Wrapped = make([]byte, keystore.MaxImportWrapped+1) }).Check("p"), keystore.Corrupt},
		"parameters":        {keystore.ImportParametersRequest{Key: "k"}.Check("p"), keystore.ClassUnspecified},
		"parameters no key": {keystore.ImportParametersRequest{}.Check("p"), keystore.Misconfigured},
	} {
		if got := keystore.ClassOf(c.err); got != c.want {
			t.Errorf("%s: class %s, want %s: %v", name, got, c.want, c.err)
		}
	}
}
