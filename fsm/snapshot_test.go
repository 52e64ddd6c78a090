package fsm_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

var updateGolden = flag.Bool("update", false, "write golden files that are not there yet; those that are there are never written again")

// testMAC is a MAC under a key that only the test's "unsealed nodes" have.
func testMAC(_ hierarchy.Generation, parts ...[]byte) (sum [32]byte, ok bool) {
	h := hmac.New(sha256.New, []byte("golden"))
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum, true
}

func sealed(hierarchy.Generation, ...[]byte) ([32]byte, bool) { return [32]byte{}, false }

func otherMAC(g hierarchy.Generation, parts ...[]byte) ([32]byte, bool) {
	return testMAC(g, append([][]byte{[]byte("other")}, parts...)...)
}

func snapshot(t tb, m *fsm.Machine, mac fsm.MACFunc) []byte {
	t.Helper()
	var buf bytes.Buffer
	n, err := m.Snapshot().WriteTo(&buf, mac)
	if err != nil || n != int64(buf.Len()) {
		t.Fatalf("write: %d of %d bytes, %v", n, buf.Len(), err)
	}
	return buf.Bytes()
}

// everything is a world with every kind of object in a snapshot.
func everything(t tb) *world {
	t.Helper()
	w := newWorld(t, func(g *fsmpb.Genesis) {
		alice, _ := person("alice", "governor")
		g.Persons = []*fsmpb.Person{alice}
		g.Rules = []*fsmpb.IntentRule{{Act: 7, Role: "governor", Signatures: 1, RequesterCounts: true}, {Act: 16, Role: "governor", Signatures: 1}}
		g.LeaseMs = 8000
		g.SealRecord = firstSeal(g, sealpb.Mode_MODE_SHAMIR)
	})
	w.governedBy("alice", "gov")
	for _, name := range []string{"gone", "acme", "beta"} {
		w.ok(w.createTenant(name))
		w.ok(w.createService(name, "payments"))
	}
	w.ok(pin("gone", "payments", "r", 1))
	w.ok(destroyNow("gone", ""))
	w.ok(w.createTenant("gone")) // the old one is a tombstone, its service is still to be reaped
	w.ok(destroyNow("acme", "payments"))
	w.ok(w.createService("acme", "payments"))
	w.rotate("acme", "payments")
	w.rotate("acme", "")
	w.ok(pin("acme", "payments", "table/a", 1))
	w.ok(pin("acme", "payments", "table/a", 2))
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_COMPROMISE))
	w.ok(changeVersion("beta", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	w.ok(changeObject("beta", "", suspend, "l1_denied"))
	w.ok(w.addIVK())
	w.ok(w.rewrap("acme"))
	w.ok(w.putSecret("webhook"))
	w.ok(w.token(1, false))
	w.ok(w.token(2, true))
	w.ok(w.join(1, node(1)))
	w.ok(remove(1))
	w.ok(asked("request-1", changeObject("beta", "", schedule, "")))
	w.refused(errs.NotFound, asked("request-2", changeObject("nobody", "", suspend, "")))
	_, alice := person("alice", "governor")
	w.ok(changeObject("acme", "payments", suspend, "unlink"))
	c := changeObject("acme", "payments", resume, "unlink")
	w.ok(w.signedBy(c, w.ordered(c), alice))
	w.ok(hold(true))
	w.ok(w.revoke(1))
	w.ok(begin(0))
	w.ok(putIssuer(x509Issuer("corp")))
	w.ok(putIssuer(jwtIssuer("idp")))
	w.ok(putIssuer(w.ownIssuer("acme", "k8s")))
	w.ok(bind(bindingFor("governor", "g1")))
	w.ok(bind(under(w.issuerOf("", "idp"), bindingFor("operator", "o1"), "jwt subject")))
	w.ok(bind(w.workload("acme", "app1")))
	w.ok(bind(under(w.issuerOf("acme", "k8s"), w.workload("acme", "app2"), "system:serviceaccount:acme:app2")))
	ends := bindingFor("auditor", "a1")
	ends.ExpireTimeMs = w.now + dayMS
	w.ok(bind(ends))
	w.ok(w.setGovernors("gone", w.bindingOf("", "g1").GetUid(), w.bindingOf("", "gov").GetUid()))
	w.ok(bind(w.workload("gone", "app3")))
	w.requested("alice", changeObject("acme", "payments", resume, "unlink")) // at once approved
	w.approvedBy(w.requested("gov", setQuorum(1, 2)), "alice")
	w.ok(reject(w.requested("gov", setQuorum(2, 2))))
	w.ok(w.putPolicy("acme", "p", "permit (principal, action, resource);"))
	w.ok(w.putPolicy("acme", "q", "text"))
	w.ok(w.putPolicy("gone", "p", "text"))
	w.ok(destroyNow("gone", "")) // what it owned is still to be reaped
	id := w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid()
	w.stagedSeal(id)
	w.ok(w.confirm(id, 1, 2))
	w.ok(w.commitSeal(id))
	w.stagedSeal(w.ok(w.beginCeremony(reshare, people("anna", "carl"))).GetUid())
	return w
}

func TestASnapshotHasEveryKindOfObject(t *testing.T) {
	w := everything(t)
	raw := snapshot(t, w.m, nil)
	seen := make(map[string]bool)
	fields := (&fsmpb.SnapshotItem{}).ProtoReflect().Descriptor().Oneofs().ByName("object").Fields()
	for _, it := range itemsOf(t, raw) {
		m := it.ProtoReflect()
		seen[string(m.WhichOneof(m.Descriptor().Oneofs().ByName("object")).Name())] = true
		if it.GetReplaced() {
			seen["replaced"] = true
		}
	}
	for i := range fields.Len() {
		if !seen[string(fields.Get(i).Name())] {
			t.Errorf("no %s in the snapshot", fields.Get(i).Name())
		}
	}
	if !seen["replaced"] {
		t.Error("no replaced object in the snapshot")
	}
}

func TestI1_ASnapshotRestoresTheSameState(t *testing.T) {
	for name, w := range map[string]*world{"empty": emptyWorld(t), "genesis": newWorld(t), "everything": everything(t)} {
		t.Run(name, func(t *testing.T) {
			raw := snapshot(t, w.m, testMAC)
			m := fsm.New(fsm.Options{})
			if _, ok := m.RestoreProof(); ok {
				t.Error("a machine that began empty has a proof")
			}
			if err := m.Restore(iotest.OneByteReader(bytes.NewReader(raw))); err != nil {
				t.Fatal(err)
			}
			sameState(t, w.m, m)
			if again := snapshot(t, m, testMAC); !bytes.Equal(again, raw) {
				t.Error("the snapshot of a restored machine has other bytes")
			}
			i1, t1, c1 := w.m.Applied()
			i2, t2, c2 := m.Applied()
			if i1 != i2 || t1 != t2 || c1 != c2 {
				t.Errorf("applied %d %d %x, want %d %d %x", i2, t2, c2, i1, t1, c1)
			}
			p, ok := m.RestoreProof()
			if !ok || p.Verify(testMAC) != nil || p.Index != i1 || p.Chain != c1 {
				t.Errorf("proof %+v, %v: %v", p, ok, p.Verify(testMAC))
			}
		})
	}
}

// TestI1_WhatIsDueIsDueAfterARestore: what ticks work on is not in a snapshot,
// it is derived again.
func TestI1_WhatIsDueIsDueAfterARestore(t *testing.T) {
	w := everything(t)
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		a, okA := w.view().NextDue()
		b, okB := m.View().NextDue()
		if a != b || okA != okB {
			t.Fatalf("next due at %d, %v; after the restore %d, %v", a, okA, b, okB)
		}
		if !okA {
			break
		}
		w.now = max(w.now, a)
		w.ok(tick())
		if _, err := m.Apply(w.index, w.term, w.log[len(w.log)-1]); err != nil {
			t.Fatal(err)
		}
		sameState(t, w.m, m)
	}
}

func TestASnapshotIsTheStateWhenItWasTaken(t *testing.T) {
	w := acme(t)
	want := w.view().Digest()
	s := w.m.Snapshot()
	w.rotate("acme", "payments")
	w.ok(destroyNow("acme", ""))
	var buf bytes.Buffer
	if _, err := s.WriteTo(&buf, nil); err != nil {
		t.Fatal(err)
	}
	m := fsm.New(fsm.Options{})
	if err := m.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if m.View().Digest() != want {
		t.Error("commands after the snapshot are in it")
	}
}

func TestProofsSayWhetherTheStateCanBeTrusted(t *testing.T) {
	w := acme(t)
	for name, tc := range map[string]struct {
		write, verify fsm.MACFunc
		want          errs.Code
	}{
		"written and verified unsealed": {testMAC, testMAC, errs.Unspecified},
		"verified sealed":               {testMAC, sealed, errs.Sealed},
		"written sealed":                {sealed, testMAC, errs.StateCorrupt},
		"written without a MAC":         {nil, testMAC, errs.StateCorrupt},
		"written and verified sealed":   {sealed, sealed, errs.StateCorrupt},
		"written under another key":     {otherMAC, testMAC, errs.StateCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			m := fsm.New(fsm.Options{})
			if err := m.Restore(bytes.NewReader(snapshot(t, w.m, tc.write))); err != nil {
				t.Fatal(err)
			}
			p, _ := m.RestoreProof()
			if got := errs.Of(p.Verify(tc.verify)); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// resum gives an edited snapshot the checksum of its bytes and leaves the MAC,
// as an attacker with a disk and without the MasterKey would.
func resum(raw []byte) []byte {
	body := raw[:len(raw)-32-1-32]
	sum := sha256.Sum256(body)
	return append(append(bytes.Clone(body), sum[:]...), raw[len(raw)-33:]...)
}

func TestI13_EditedSnapshotsDoNotPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ok(w.createTenant("acme"))
	raw := snapshot(t, w.m, testMAC)
	restored := 0
	for i := range len(raw) - 65 {
		for _, bit := range []byte{0x01, 0x80} {
			bad := bytes.Clone(raw)
			bad[i] ^= bit
			if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); errs.Of(err) != errs.StateCorrupt {
				t.Fatalf("byte %d: an edited snapshot with the old checksum gave %v", i, err)
			}
			m := fsm.New(fsm.Options{})
			if err := m.Restore(bytes.NewReader(resum(bad))); err != nil {
				if errs.Of(err) != errs.StateCorrupt {
					t.Fatalf("byte %d: %v", i, err)
				}
				continue
			}
			restored++
			p, _ := m.RestoreProof()
			if err := p.Verify(testMAC); errs.Of(err) != errs.StateCorrupt {
				t.Fatalf("byte %d: an edited snapshot passes: %v", i, err)
			}
		}
	}
	if restored < 100 {
		t.Errorf("only %d edited snapshots were well formed: the MAC was hardly tested", restored)
	}
}

// TestI13_ADestroyedKeyDoesNotComeBack is the attack itself: DESTROYED becomes ACTIVE.
func TestI13_ADestroyedKeyDoesNotComeBack(t *testing.T) {
	w := acme(t)
	before := w.serviceOf("acme", "payments").GetVersions()[0].GetBlob()
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY))
	raw := snapshot(t, w.m, testMAC)
	var items []*fsmpb.SnapshotItem
	for _, it := range itemsOf(t, raw) {
		if s := it.GetService(); s != nil {
			v := s.GetVersions()[0]
			v.State, v.StateBefore, v.Blob, v.DestroyTimeMs = active, 0, before, 0
		}
		items = append(items, it)
	}
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(build(t, headerOf(t, raw), items, raw[len(raw)-33:]))); err != nil {
		t.Fatalf("the forged snapshot is well formed, got %v", err)
	}
	if s, _ := m.View().Service("acme", "payments"); s.GetVersions()[0].GetState() != active {
		t.Fatal("the forgery did not work, so this test shows nothing")
	}
	p, _ := m.RestoreProof()
	if err := p.Verify(testMAC); errs.Of(err) != errs.StateCorrupt {
		t.Fatalf("got %v", err)
	}
}

func TestARefusedSnapshotChangesNothing(t *testing.T) {
	w := acme(t)
	raw := snapshot(t, w.m, testMAC)
	w.ok(destroyNow("acme", ""))
	want, view := w.view().Digest(), w.view()
	for _, cut := range []int{0, 5, 20, len(raw) / 2, len(raw) - 1} {
		if err := w.m.Restore(bytes.NewReader(raw[:cut])); errs.Of(err) != errs.StateCorrupt {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	broken := errors.New("the disk is gone")
	if err := w.m.Restore(io.MultiReader(bytes.NewReader(raw[:100]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's error", err)
	}
	if w.view() != view || w.view().Digest() != want {
		t.Error("the state changed")
	}
	if _, ok := w.m.RestoreProof(); ok {
		t.Error("a refused snapshot left a proof")
	}
	w.ok(tick())
}

func TestSnapshotsOfAnotherClusterAreRefused(t *testing.T) {
	a, b := newWorld(t), emptyWorld(t)
	b.ids = 500
	b.found(b.genesis())
	if err := a.m.Restore(bytes.NewReader(snapshot(t, b.m, testMAC))); errs.Of(err) != errs.StateCorrupt {
		t.Errorf("a machine with a state: %v", err)
	}
	if err := a.m.Restore(bytes.NewReader(snapshot(t, emptyWorld(t).m, testMAC))); errs.Of(err) != errs.StateCorrupt {
		t.Errorf("a machine with a state, and an empty snapshot: %v", err)
	}
	pinned := fsm.New(fsm.Options{Fingerprint: [32]byte(a.view().Cluster().GetFingerprint())})
	if err := pinned.Restore(bytes.NewReader(snapshot(t, b.m, testMAC))); errs.Of(err) != errs.StateCorrupt {
		t.Errorf("a machine with a pinned fingerprint: %v", err)
	}
	if err := pinned.Restore(bytes.NewReader(snapshot(t, a.m, testMAC))); err != nil {
		t.Errorf("its own cluster's snapshot: %v", err)
	}
	// Going back inside one cluster is what Restore is for.
	old := snapshot(t, a.m, testMAC)
	a.ok(a.createTenant("acme"))
	if err := a.m.Restore(bytes.NewReader(old)); err != nil || a.view().Index() != 1 {
		t.Errorf("an earlier snapshot: %v, index %d", err, a.view().Index())
	}
}

func TestRestoreStartsAStoppedMachineAgain(t *testing.T) {
	w := acme(t)
	raw := snapshot(t, w.m, nil)
	if _, err := w.raw([]byte{0xff}); !fsm.Stopped(err) {
		t.Fatalf("got %v", err)
	}
	if err := w.m.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	w.ok(tick())
}

func TestWriteErrorsAreReturned(t *testing.T) {
	w := acme(t)
	full := errors.New("no space left")
	for _, room := range []int{0, 1, 100} {
		_, err := w.m.Snapshot().WriteTo(&shortWriter{room: room, err: full}, nil)
		if !errors.Is(err, full) {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
}

type shortWriter struct {
	room int
	err  error
}

func (s *shortWriter) Write(b []byte) (int, error) {
	if len(b) > s.room {
		return s.room, s.err
	}
	s.room -= len(b)
	return len(b), nil
}

// The layout, written a second time and from the documents.

func frame(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

func build(t tb, head *fsmpb.SnapshotHeader, items []*fsmpb.SnapshotItem, trailer []byte) []byte {
	t.Helper()
	marshal := func(m proto.Message) []byte {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatalf("marshal: %v", err)
		}
		return b
	}
	out := append([]byte("KRYPSNAP"), 0, 0, 0, 1)
	out = append(out, frame(marshal(head))...)
	for _, it := range items {
		out = append(out, frame(marshal(it))...)
	}
	out = append(out, 0, 0, 0, 0)
	out = binary.BigEndian.AppendUint64(out, uint64(len(items)))
	sum := sha256.Sum256(out)
	return append(append(out, sum[:]...), trailer...)
}

func parts(t tb, raw []byte) (head []byte, items [][]byte) {
	t.Helper()
	next := func() []byte {
		n := binary.BigEndian.Uint32(raw)
		b := raw[4 : 4+n]
		raw = raw[4+n:]
		return b
	}
	raw = raw[12:]
	head = next()
	for {
		b := next()
		if len(b) == 0 {
			return head, items
		}
		items = append(items, b)
	}
}

func headerOf(t tb, raw []byte) *fsmpb.SnapshotHeader {
	t.Helper()
	b, _ := parts(t, raw)
	h := new(fsmpb.SnapshotHeader)
	if err := proto.Unmarshal(b, h); err != nil {
		t.Fatalf("header: %v", err)
	}
	return h
}

func itemsOf(t tb, raw []byte) (items []*fsmpb.SnapshotItem) {
	t.Helper()
	_, all := parts(t, raw)
	for _, b := range all {
		it := new(fsmpb.SnapshotItem)
		if err := proto.Unmarshal(b, it); err != nil {
			t.Fatalf("item: %v", err)
		}
		items = append(items, it)
	}
	return items
}

func TestTheLayoutIsTheDocumentedOne(t *testing.T) {
	raw := snapshot(t, everything(t).m, testMAC)
	if got := build(t, headerOf(t, raw), itemsOf(t, raw), raw[len(raw)-33:]); !bytes.Equal(got, raw) {
		t.Error("a snapshot built from the documents has other bytes")
	}
}

// goldenDir has the snapshots of clusters of format version 1; the broken ones
// were made from them.
const goldenDir = "testdata/snapshot/v1"

// goldenDirs has those of every format version. Those of version 2 have
// revocations, those of version 3 gate indexes and the duration
// of leases.
var goldenDirs = []string{goldenDir, "testdata/snapshot/v2", "testdata/snapshot/v3"}

// TestGoldenSnapshotsOpen opens snapshots that were written when a format
// version was made. They are never written again: a change that cannot open them
// cannot start the clusters that are out there.
func TestGoldenSnapshotsOpen(t *testing.T) {
	for _, dir := range goldenDirs {
		for name, w := range map[string]func() *world{
			"empty": func() *world { return emptyWorld(t) }, "genesis": func() *world { return newWorld(t) }, "everything": func() *world { return everything(t) },
		} {
			t.Run(filepath.Base(dir)+" "+name, func(t *testing.T) {
				path := filepath.Join(dir, name+".snap")
				if _, err := os.Stat(path); *updateGolden && errors.Is(err, os.ErrNotExist) {
					m := w().m
					digest := m.View().Digest()
					write(t, path, snapshot(t, m, testMAC))
					write(t, filepath.Join(dir, name+".digest"), []byte(hex.EncodeToString(digest[:])+"\n"))
				}
				openGolden(t, dir, name)
			})
		}
	}
}

func openGolden(t *testing.T, dir, name string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name+".snap"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(dir, name+".digest"))
	if err != nil {
		t.Fatal(err)
	}
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	if got := m.View().Digest(); hex.EncodeToString(got[:]) != strings.TrimSpace(string(want)) {
		t.Errorf("digest %x, want %s", got, want)
	}
	p, _ := m.RestoreProof()
	if err := p.Verify(testMAC); err != nil {
		t.Errorf("proof: %v", err)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// broken holds how each of the broken golden snapshots was made, and a part of
// what must be said about it.
var broken = map[string]struct {
	says string
	make func(t *testing.T, raw []byte) []byte
}{
	"truncated":            {"cut short", func(_ *testing.T, raw []byte) []byte { return raw[:len(raw)/2] }},
	"no-trailer":           {"cut short", func(_ *testing.T, raw []byte) []byte { return raw[:len(raw)-65] }},
	"trailing-bytes":       {"follows its end", func(_ *testing.T, raw []byte) []byte { return append(bytes.Clone(raw), 0) }},
	"other-magic":          {"not a snapshot", func(_ *testing.T, raw []byte) []byte { return flip(raw, 0) }},
	"unknown-format":       {"unknown format", func(_ *testing.T, raw []byte) []byte { return resum(flip(raw, 11)) }},
	"bit-flip-header":      {"", func(_ *testing.T, raw []byte) []byte { return flip(raw, 20) }},
	"bit-flip-item":        {"checksum", func(_ *testing.T, raw []byte) []byte { return flip(raw, bytes.LastIndex(raw, []byte("wrapped l3"))) }},
	"bad-digest":           {"checksum", func(_ *testing.T, raw []byte) []byte { return flip(raw, len(raw)-40) }},
	"bad-mac-flag":         {"trailer", func(_ *testing.T, raw []byte) []byte { raw = bytes.Clone(raw); raw[len(raw)-33] = 2; return raw }},
	"length-overflow":      {"exceeds its limit", func(_ *testing.T, raw []byte) []byte { raw = bytes.Clone(raw); raw[12] = 0xff; return raw }},
	"item-length-overflow": {"exceeds its limit", func(t *testing.T, raw []byte) []byte { t.Helper(); return firstItemLength(t, raw, 0xffffffff) }},
	"no-header":            {"no header", func(_ *testing.T, raw []byte) []byte { return append(bytes.Clone(raw[:12]), 0, 0, 0, 0) }},
	"wrong-count":          {"number of objects", func(_ *testing.T, raw []byte) []byte { return resum(flip(raw, len(raw)-66)) }},
	"wrong-order": {"out of order", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { i[1], i[2] = i[2], i[1]; return i })
	}},
	"duplicate-object": {"out of order or there twice", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return append(i[:2:2], i[1:]...) })
	}},
	"unknown-item": {"does not know", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			i[3].ProtoReflect().SetUnknown([]byte{0xf2, 0x06, 0x00})
			return i
		})
	}},
	"empty-item": {"no known kind", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			i[3] = &fsmpb.SnapshotItem{Replaced: true}
			return i
		})
	}},
	"no-cluster": {"begin with its cluster", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return i[1:] })
	}},
	"other-keyspace": {"header and its cluster", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { i[0].GetCluster().KeyspaceId[0] ^= 1; return i })
	}},
	"edited-genesis": {"fingerprint", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { i[0].GetCluster().Genesis[40] ^= 1; return i })
	}},
	"reused-uid": {"uid", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			i[2].GetTenant().Uid = i[1].GetTenant().GetUid()
			return i
		})
	}},
	"no-tenant": {"no valid name or tenant", func(t *testing.T, raw []byte) []byte {
		t.Helper()
		return edit(t, raw, func(i []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { return append(i[:1:1], i[2:]...) })
	}},
}

func flip(raw []byte, at int) []byte {
	raw = bytes.Clone(raw)
	raw[at] ^= 0x40
	return raw
}

func firstItemLength(t *testing.T, raw []byte, n uint32) []byte {
	t.Helper()
	raw = bytes.Clone(raw)
	head, _ := parts(t, raw)
	binary.BigEndian.PutUint32(raw[16+len(head):], n)
	return raw
}

func edit(t *testing.T, raw []byte, f func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem) []byte {
	t.Helper()
	return build(t, headerOf(t, raw), f(itemsOf(t, raw)), raw[len(raw)-33:])
}

func TestBrokenSnapshotsOfFormat1AreRefusedByName(t *testing.T) {
	for name, b := range broken {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(goldenDir, "broken", name+".snap")
			if _, err := os.Stat(path); *updateGolden && errors.Is(err, os.ErrNotExist) {
				good, err := os.ReadFile(filepath.Join(goldenDir, "everything.snap"))
				if err != nil {
					t.Fatal(err)
				}
				write(t, path, b.make(t, good))
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			err = fsm.New(fsm.Options{}).Restore(bytes.NewReader(raw))
			if errs.Of(err) != errs.StateCorrupt || !strings.Contains(fmt.Sprint(err), b.says) {
				t.Errorf("got %v, want STATE_CORRUPT saying %q", err, b.says)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(goldenDir, "broken", "*.snap"))
	if err != nil || len(files) != len(broken) {
		t.Errorf("%d broken files, %d known: %v", len(files), len(broken), err)
	}
}

// TestNoEditOfOneObjectBreaksTheMachine edits single fields of a snapshot and
// fixes the checksum. What is not refused must still be a state that every
// command can be applied to.
func TestNoEditOfOneObjectBreaksTheMachine(t *testing.T) {
	base := everything(t)
	raw := snapshot(t, base.m, testMAC)
	_, items := parts(t, raw)
	head := headerOf(t, raw)
	rapid.Check(t, func(t *rapid.T) {
		var edited []*fsmpb.SnapshotItem
		at := rapid.IntRange(0, len(items)-1).Draw(t, "item")
		for i, b := range items {
			b = bytes.Clone(b)
			if i == at {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			}
			it := new(fsmpb.SnapshotItem)
			if proto.Unmarshal(b, it) != nil {
				return
			}
			edited = append(edited, it)
		}
		w := *base
		w.tb, w.m = t, fsm.New(fsm.Options{})
		if err := w.m.Restore(bytes.NewReader(build(t, head, edited, raw[len(raw)-33:]))); err != nil {
			return
		}
		w.ids += 10_000
		for range 20 {
			w.do(w.drawCommand(t))
		}
		w.now += 100 * dayMS
		w.do(tick())
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
			t.Fatalf("the snapshot of a machine is refused: %v", err)
		}
	})
}
