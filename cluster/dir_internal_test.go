package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/openkcm/krypton-cluster/internal/errs"
)

// FuzzDecodeNode takes anything for node.json.
func FuzzDecodeNode(f *testing.F) {
	id := `"0123456789abcdef0123456789abcdef"`
	f.Add([]byte(`{"format":1,"node_id":` + id + `,"membership":"","boots":1}`))
	f.Add([]byte(`{"format":1,"node_id":` + id + `,"membership":"member","cluster_id":` + id + `,"keyspace_id":` + id + `,"fingerprint":"00"}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var d Dir
		if err := d.decodeNode(raw); err != nil {
			if !errs.Is(err, errs.StateCorrupt) {
				t.Errorf("%v", err)
			}
			if d.node != (nodeRecord{}) {
				t.Error("something of a refused file was taken over")
			}
			return
		}
		if !d.node.NodeID.Valid() {
			t.Errorf("accepted the id %q", d.node.NodeID)
		}
		_, _ = d.Fingerprint() // must not panic
	})
}

// FuzzReadAddresses takes anything for run/addresses.json.
func FuzzReadAddresses(f *testing.F) {
	dir := f.TempDir()
	file := filepath.Join(dir, filepath.FromSlash(addressesFile))
	if err := os.MkdirAll(filepath.Dir(file), dirMode); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"grpc":"127.0.0.1:8400"}`))
	f.Add([]byte("null"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(file, raw, fileMode); err != nil {
			t.Fatal(err)
		}
		if a, err := ReadAddresses(dir); err != nil && a != (Addresses{}) && len(raw) == 0 {
			t.Errorf("an empty file has the addresses %+v", a)
		}
	})
}
