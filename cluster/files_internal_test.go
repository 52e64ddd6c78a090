package cluster

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

// fuzzDir opens a data directory in which file holds what the fuzzer wants.
func fuzzDir(t *testing.T, file string, content []byte) *Dir {
	t.Helper()
	d := &Dir{path: t.TempDir(), node: nodeRecord{Membership: MembershipMember, NodeID: "0123456789abcdef0123456789abcdef"}}
	if err := os.MkdirAll(filepath.Dir(d.Path(file)), dirMode); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path(file), content, fileMode); err != nil {
		t.Fatal(err)
	}
	return d
}

// FuzzPeersFile takes anything for tls/peers.json: a list, or an error that says
// what to do.
func FuzzPeersFile(f *testing.F) {
	for _, s := range []string{"", "{}", `{"format":1,"peers":[]}`, `{"format":1,"peers":[{"id":"0123456789abcdef0123456789abcdef","public_key":"AAAA","address":"a:1"}]}`, `{"format":2}`, "[", "null"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		tr, err := openTrust(fsm.New(fsm.Options{}), fuzzDir(t, peersFile, raw))
		if err != nil && (!errs.Is(err, errs.StateCorrupt) || errs.From(err).Hint == "") {
			t.Fatalf("%v", err)
		}
		if err == nil && len(tr.current()) > len(raw) {
			t.Fatal("more members than bytes")
		}
	})
}

// FuzzMemberKeyFile takes anything for tls/node.key.
func FuzzMemberKeyFile(f *testing.F) {
	d := &Dir{path: f.TempDir()}
	if err := os.MkdirAll(filepath.Dir(d.Path(nodeKeyFile)), dirMode); err != nil {
		f.Fatal(err)
	}
	raw, err := makeMemberKey(d.Path(nodeKeyFile), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add(slices.Concat(raw, raw))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		key, err := LoadMemberKey(fuzzDir(t, nodeKeyFile, raw), clock.System{}, rand.Reader)
		switch {
		case err != nil && (!errs.Is(err, errs.StateCorrupt) || errs.From(err).Hint == ""):
			t.Fatalf("%v", err)
		case err == nil && len(key.PublicKey()) == 0:
			t.Fatal("a key without a public half")
		}
	})
}

// FuzzFormatFile takes anything for the file format: only this format opens.
func FuzzFormatFile(f *testing.F) {
	for _, s := range []string{"1\n", "1", "2\n", "", "01", "-1", "99999999999999999999", " 1 "} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := fuzzDir(t, formatFile, raw).checkFormat()
		if err != nil && (!errs.Is(err, errs.StateCorrupt) && !errs.Is(err, errs.InvalidConfig) || errs.From(err).Hint == "") {
			t.Fatalf("%v", err)
		}
	})
}
