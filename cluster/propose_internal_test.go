package cluster

import (
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// TestALaterAttemptDoesNotTakeADoubtBack: the next leader refuses everything because
// its clock is ahead, and the one before may have committed.
func TestALaterAttemptDoesNotTakeADoubtBack(t *testing.T) {
	later := errClockAhead("n", 2*maxAhead)
	if err := worst(errIndeterminate(nil), later); !errs.Is(err, errs.Indeterminate) {
		t.Errorf("after an attempt in doubt: %v", err)
	}
	if err := worst(nil, later); !errs.Is(err, errs.Unavailable) {
		t.Errorf("the only attempt: %v", err)
	}
}
