package node_test

import (
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/seal"
)

// A record that a ceremony makes fits the registry; the state machine cannot import
// what makes records, so each has the number.
func TestTheRegistryTakesEveryRecordThatIsMade(t *testing.T) {
	if seal.MaxMade > fsm.MaxSealRecordBytes {
		t.Errorf("records of %d bytes are made, the registry takes %d", seal.MaxMade, fsm.MaxSealRecordBytes)
	}
}
