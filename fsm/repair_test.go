package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// sealMade is when the wrappings of the seal of these tests were made.
const sealMade = int64(1_000_000)

func sealKeyOf(name string) *sealpb.ProviderKey {
	return &sealpb.ProviderKey{Provider: name, Key: "unseal"}
}

func wrappingBy(name string, at int64) *sealpb.Wrapping {
	return &sealpb.Wrapping{
		ProviderKey: sealKeyOf(name), KeyVersion: "1", WrappedKey: []byte("wrapped by " + name), Nonce: make([]byte, 12), SealedMasterKey: make([]byte, 48),
		CreateTimeUnixNano: at,
	}
}

// sealRecord is a record that hsm-1 and hsm-2 open, and hsm-3 may.
func sealRecord() *sealpb.Record {
	return &sealpb.Record{
		Format: 1,
		Manifest: &sealpb.Manifest{
			Format: 1, KeyspaceId: make([]byte, 16), Mode: sealpb.Mode_MODE_AUTO, MasterKeyCommitment: make([]byte, 32), Generation: 1,
			ProviderKeys: []*sealpb.ProviderKey{sealKeyOf("hsm-1"), sealKeyOf("hsm-2"), sealKeyOf("hsm-3")},
		},
		Wrappings: []*sealpb.Wrapping{wrappingBy("hsm-1", sealMade), wrappingBy("hsm-2", sealMade)},
	}
}

func encodeSeal(r *sealpb.Record) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		panic(err)
	}
	return b
}

// repair makes the command that replaces the seal record of a cluster.
func (w *world) repair(change func(*sealpb.Record)) *fsmpb.Command {
	was := w.view().Cluster().GetSealRecord()
	r := &sealpb.Record{}
	if err := proto.Unmarshal(was, r); err != nil {
		w.tb.Fatalf("%v", err)
	}
	change(r)
	base := sha256.Sum256(was)
	return &fsmpb.Command{Body: &fsmpb.Command_RepairSeal{RepairSeal: &fsmpb.RepairSeal{Base: base[:], Record: encodeSeal(r)}}}
}

// rewrap replaces the wrapping by hsm-2.
func rewrapHSM2(r *sealpb.Record) { r.Wrappings[1] = wrappingBy("hsm-2", sealMade+1) }

func TestI31_ARepairReplacesAndAddsWrappings(t *testing.T) {
	w := newWorld(t)
	mod := w.view().Cluster().GetModIndex()
	for name, change := range map[string]func(*sealpb.Record){
		"one is replaced": rewrapHSM2,
		"one is added":    func(r *sealpb.Record) { r.Wrappings = append(r.GetWrappings(), wrappingBy("hsm-3", sealMade)) },
	} {
		cmd := w.repair(change)
		w.ok(cmd)
		cl := w.view().Cluster()
		if !bytes.Equal(cl.GetSealRecord(), cmd.GetRepairSeal().GetRecord()) || cl.GetModIndex() != mod {
			t.Errorf("%s: the record is not that of the command, or the cluster's mod index moved", name)
		}
	}
	restored := fsm.New(fsm.Options{})
	if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(restored.View().Cluster().GetSealRecord(), w.view().Cluster().GetSealRecord()) {
		t.Error("a snapshot has another seal record")
	}
}

// TestI31_ARepairIsNothingElse: who may open the MasterKey is what a ceremony
// decided, and no command of the leader's changes it.
func TestI31_ARepairIsNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*sealpb.Record)
		says   string
	}{
		"a key outside the manifest": {func(r *sealpb.Record) { r.Wrappings = append(r.GetWrappings(), wrappingBy("thief", sealMade)) }, "the manifest does not name"},
		"a key of the same keystore": {func(r *sealpb.Record) {
			x := wrappingBy("hsm-3", sealMade)
			x.ProviderKey.Key = "mine"
			r.Wrappings = append(r.GetWrappings(), x)
		}, "the manifest does not name"},
		"a key in the manifest": {func(r *sealpb.Record) {
			r.Manifest.ProviderKeys = append(r.Manifest.ProviderKeys, sealKeyOf("thief"))
			r.Wrappings = append(r.GetWrappings(), wrappingBy("thief", sealMade))
		}, "more than its wrappings"},
		"another commitment":  {func(r *sealpb.Record) { rewrapHSM2(r); r.Manifest.MasterKeyCommitment[0] = 1 }, "more than its wrappings"},
		"another generation":  {func(r *sealpb.Record) { rewrapHSM2(r); r.Manifest.Generation = 2 }, "more than its wrappings"},
		"another format":      {func(r *sealpb.Record) { rewrapHSM2(r); r.Format = 2 }, "more than its wrappings"},
		"a shard":             {func(r *sealpb.Record) { rewrapHSM2(r); r.Shards = []*sealpb.Shard{{Index: 1}} }, "more than its wrappings"},
		"one wrapping less":   {func(r *sealpb.Record) { r.Wrappings = r.GetWrappings()[:1] }, "a wrapping is gone"},
		"one in place of two": {func(r *sealpb.Record) { r.Wrappings = append(r.GetWrappings()[:1], wrappingBy("hsm-3", sealMade)) }, "a wrapping is gone"},
		"two by one key":      {func(r *sealpb.Record) { r.Wrappings = append(r.GetWrappings(), wrappingBy("hsm-2", sealMade+1)) }, "two by one key"},
		"nothing":             {func(*sealpb.Record) {}, "nothing changes"},
		"as old": {func(r *sealpb.Record) {
			r.Wrappings[1] = wrappingBy("hsm-2", sealMade)
			r.GetWrappings()[1].KeyVersion = "2"
		}, "older"},
		"older": {func(r *sealpb.Record) { r.Wrappings[1] = wrappingBy("hsm-2", sealMade-1) }, "older"},
		"of tomorrow": {func(r *sealpb.Record) {
			r.Wrappings[1] = wrappingBy("hsm-2", time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC).AddDate(100, 0, 0).UnixNano())
		}, "from the future"},
		"no wrapped key":     {func(r *sealpb.Record) { rewrapHSM2(r); r.GetWrappings()[1].WrappedKey = nil }, "wrapped key of 0"},
		"a long wrapped key": {func(r *sealpb.Record) { rewrapHSM2(r); r.GetWrappings()[1].WrappedKey = make([]byte, 16<<10+1) }, "wrapped key of 16385"},
		"a long key version": {func(r *sealpb.Record) { rewrapHSM2(r); r.GetWrappings()[1].KeyVersion = strings.Repeat("v", 1025) }, "key version of 1025"},
		"a short nonce":      {func(r *sealpb.Record) { rewrapHSM2(r); r.GetWrappings()[1].Nonce = make([]byte, 11) }, "another length"},
		"a short MasterKey":  {func(r *sealpb.Record) { rewrapHSM2(r); r.GetWrappings()[1].SealedMasterKey = make([]byte, 47) }, "another length"},
		"an unknown field": {func(r *sealpb.Record) {
			rewrapHSM2(r)
			r.GetWrappings()[1].ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
		}, "does not know"},
		"no wrapping at all":   {func(r *sealpb.Record) { r.Wrappings = nil }, "a wrapping is gone"},
		"no manifest any more": {func(r *sealpb.Record) { rewrapHSM2(r); r.Manifest = nil }, "more than its wrappings"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.view().Cluster()
			res := w.do(w.repair(c.change))
			if res.GetReason() != errs.InvalidArgument.String() || !strings.Contains(res.GetMessage(), c.says) {
				t.Errorf("%s %q, want %q", res.GetReason(), res.GetMessage(), c.says)
			}
			if w.view().Cluster() != before {
				t.Error("the cluster changed")
			}
		})
	}
}

func TestWhatElseStopsARepair(t *testing.T) {
	refuses := func(w *world, cmd *fsmpb.Command, want errs.Code) {
		t.Helper()
		if res := w.do(cmd); res.GetReason() != want.String() {
			t.Errorf("%s (%s), want %s", res.GetReason(), res.GetMessage(), want)
		}
	}
	w := newWorld(t)
	late := w.repair(rewrapHSM2)
	w.ok(w.repair(func(r *sealpb.Record) { r.Wrappings = append(r.GetWrappings(), wrappingBy("hsm-3", sealMade)) }))
	refuses(w, late, errs.Aborted) // two leaders, one after the other

	large := w.repair(func(r *sealpb.Record) {
		rewrapHSM2(r)
		r.GetWrappings()[1].WrappedKey = make([]byte, fsm.MaxSealRecordBytes)
	})
	refuses(w, large, errs.InvalidArgument)
	garbled := w.repair(rewrapHSM2)
	garbled.GetRepairSeal().Record = []byte{0xFF}
	refuses(w, garbled, errs.InvalidArgument)
	refuses(w, asked("r-1", w.repair(rewrapHSM2)), errs.Denied)

	people := newWorld(t, func(g *fsmpb.Genesis) {
		g.SealRecord = encodeSeal(&sealpb.Record{Format: 1, Manifest: &sealpb.Manifest{Mode: sealpb.Mode_MODE_SHAMIR}})
	})
	refuses(people, people.repair(func(r *sealpb.Record) { r.Wrappings = []*sealpb.Wrapping{wrappingBy("hsm-1", 1)} }), errs.InvalidArgument)
	nonsense := newWorld(t, func(g *fsmpb.Genesis) { g.SealRecord = []byte("seal record") })
	base := sha256.Sum256([]byte("seal record"))
	refuses(nonsense, &fsmpb.Command{Body: &fsmpb.Command_RepairSeal{RepairSeal: &fsmpb.RepairSeal{Base: base[:], Record: encodeSeal(sealRecord())}}}, errs.FailedState)

	older := newWorld(t, ofFormat(fsm.FormatCeremonies-1))
	refuses(older, older.repair(rewrapHSM2), errs.FailedState)
	older.ok(raise(fsm.FormatCeremonies))
	older.ok(older.repair(rewrapHSM2))
}
