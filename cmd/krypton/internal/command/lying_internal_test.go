package command

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestANodeThatLiesAboutItsClusterIsRefused, however long its fingerprint is: by a
// certificate of the cluster it is a member, and may be one that was taken over.
func TestANodeThatLiesAboutItsClusterIsRefused(t *testing.T) {
	t.Parallel()
	ca, now := newCA(t), time.Now()
	cert := ca.node("n1", now.Add(-time.Hour), now.Add(time.Hour), x509.ExtKeyUsageServerAuth)
	for _, f := range []string{"", "ab", strings.Repeat("ab", 31), strings.Repeat("ab", 33), strings.Repeat("ab", 4096), strings.Repeat("xy", 32)} {
		st := &kryptonv1.SealStatus{NodeId: "n1", NodeName: "n1", NodeCertificate: cert.Raw, Fingerprint: f}
		if _, _, err := verifyOffer(st, "n1:8400", ca.pool(), now, nil); !errs.Is(err, errs.Unauthenticated) || !strings.Contains(err.Error(), "names no cluster") {
			t.Errorf("%d digits: %v", len(f), err)
		}
	}
	st := &kryptonv1.SealStatus{NodeId: "n1", NodeName: "n1", NodeCertificate: cert.Raw, Fingerprint: strings.Repeat("ab", 32)}
	if o, _, err := verifyOffer(st, "n1:8400", ca.pool(), now, nil); err != nil || o.Target.Cluster[31] != 0xab {
		t.Errorf("of the cluster: %v", err)
	}
}

// TestADigestThatIsTooLongIsRefused: --manifest is pasted.
func TestADigestThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	for digits, want := range map[int]bool{0: false, 62: false, 63: false, 64: true, 65: false, 66: false, 4096: false} {
		var d [32]byte
		if got := hexBytes(d[:], strings.Repeat("a", digits)); got != want {
			t.Errorf("%d digits: %v", digits, got)
		}
	}
}

// TestACeremonyThatMissesMoreGroupsThanItHasIsShown.
func TestACeremonyThatMissesMoreGroupsThanItHasIsShown(t *testing.T) {
	t.Parallel()
	is := &kryptonv1.Ceremony{
		State: kryptonv1.CeremonyState_CEREMONY_STATE_STAGED, Missing: []uint32{1, 1, 1},
		Plan: &kryptonv1.SealPlan{Groups: []*kryptonv1.SealGroup{{Threshold: 1, Holders: []*kryptonv1.SealHolder{{Name: "anna", Recipient: "age1"}}}}},
	}
	if got, want := ceremonyNext(is), "the new holders open the new seal, 1 of: anna (person)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
