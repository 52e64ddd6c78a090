package gcpkms

import (
	"testing"
	"time"

	"github.com/openkcm/krypton-cluster/keystore"
)

// Limit sets how long a call of p takes at most whose caller has no deadline.
func Limit(t testing.TB, p keystore.Provider, d time.Duration) {
	t.Helper()
	k, ok := p.(*Provider)
	if !ok {
		t.Fatalf("%T", p)
	}
	k.limit = d
}
