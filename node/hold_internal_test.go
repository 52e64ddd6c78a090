package node

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzHoldFile takes anything for seal/held: whatever it is, the node is held.
func FuzzHoldFile(f *testing.F) {
	for _, s := range []string{"", "1\n", "0", "-1", "18446744073709551615", "18446744073709551616", "garbage"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := &Node{cfg: Config{RecordPath: filepath.Join(t.TempDir(), "record.pb")}}
		if err := os.WriteFile(n.holdPath(), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.readHold(); err != nil || n.heldAt.Load() == 0 {
			t.Fatalf("the file does not hold: %v", err)
		}
	})
}
