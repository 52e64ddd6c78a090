package node_test

import (
	"crypto/rand"
	"math"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/situation/situationtest"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

// TestI17_NothingIsReplacedThatNoSecondVoterOpened: the leader's own word, and one that
// another member did not sign, are not enough.
func TestI17_NothingIsReplacedThatNoSecondVoterOpened(t *testing.T) {
	w, all := autoCluster(t, 3)
	a := all[0]
	before := a.registry(t)
	w.faults.lose("hsm-2", before)
	for name, lie := range map[string]func(id string, raw []byte) ([]byte, error){
		"nobody answers": func(string, []byte) ([]byte, error) { return nil, errs.New(errs.Unavailable, "away") },
		"nonsense":       func(string, []byte) ([]byte, error) { return []byte{0xFF}, nil },
		"nothing":        func(string, []byte) ([]byte, error) { return nil, nil },
		"of this node":   func(_ string, raw []byte) ([]byte, error) { return a.Prepare(t.Context(), raw) },
	} {
		a.prepare = lie
		situationtest.Error(t, "seal/repair-no-second-voter", a.WatchSeal(t.Context()))
		if a.registry(t).Digest() != before.Digest() {
			t.Fatalf("%s: the seal is repaired", name)
		}
	}
	if got := a.SealWatch(); got.Repairs != 0 || got.Opens["hsm-2"] {
		t.Errorf("%+v", got)
	}
	a.prepare = nil
	check(t, a.WatchSeal(t.Context()))
	if a.registry(t).Digest() == before.Digest() || a.SealWatch().Repairs != 1 {
		t.Error("not repaired when the others answer")
	}
}

// TestI17_JunkOfALeaderGetsNoWord, and a member asks its keystores for what changes only.
func TestI17_JunkOfALeaderGetsNoWord(t *testing.T) {
	w, all := autoCluster(t, 2)
	a, b := all[0], all[1]
	was := a.registry(t)
	pb := was.Proto()
	pb.Wrappings[1].WrappedKey = []byte("junk")
	pb.Wrappings[1].CreateTimeUnixNano++
	task := repairOf(a, encoded(t, pb))
	task.CorrelationId = string(must[corr.ID](t)(corr.New(rand.Reader)))
	ask := func(cmd *fsmpb.Command) (*fsmpb.RepairSeal, error) {
		out, err := b.Prepare(t.Context(), append([]byte(node.WitnessTask), must[[]byte](t)(proto.Marshal(cmd))...))
		says := &fsmpb.RepairSeal{}
		check(t, proto.Unmarshal(out, says))
		return says, err
	}
	w.faults.fail(keystore.ClassUnspecified, "hsm-1", "hsm-2", "hsm-3")
	_, others := w.faults.count("hsm-1")
	secrets := memsec.Report().Secrets
	if says, err := ask(task); err != nil || len(says.GetWitnesses()) != 0 {
		t.Errorf("%v, %v", says, err)
	}
	good, _, err := was.Rewrap(t.Context(), rand.Reader, []seal.ProviderKey{was.Progress().Holders[1].Key}, b.stores, w.clock, time.Minute)
	check(t, err)
	task.GetRepairSeal().Record = must[[]byte](t)(good.Marshal())
	says, err := ask(task)
	if err != nil || len(says.GetWitnesses()) != 1 {
		t.Fatalf("%v, %v", says, err)
	}
	member, _ := b.machine.View().Member(string(b.id))
	x := says.GetWitnesses()[0]
	made := good.Proto().GetWrappings()[1]
	if !fsm.WitnessSigned([32]byte(b.machine.View().Cluster().GetFingerprint()), member, [32]byte(task.GetRepairSeal().GetBase()), made, x.GetSignature()) {
		t.Error("the word is not signed")
	}
	if n := memsec.Report().Secrets; n != secrets {
		t.Errorf("%d secrets are left", n-secrets)
	}
	if _, n := w.faults.count("hsm-1"); n > others+1 { // that of Rewrap, which opens by another
		t.Error("a keystore was asked whose wrapping stays")
	}
	for _, c := range []struct {
		name   string
		change func(c *fsmpb.Command)
		want   errs.Code
	}{
		{"another state", func(c *fsmpb.Command) { c.GetRepairSeal().Base = make([]byte, 32) }, errs.Aborted},
		{"no repair", func(c *fsmpb.Command) { c.Body = nil }, errs.InvalidArgument},
		{"no correlation", func(c *fsmpb.Command) { c.CorrelationId = "" }, errs.InvalidArgument},
		{"no record", func(c *fsmpb.Command) { c.GetRepairSeal().Record = []byte{0xFF} }, errs.StateCorrupt},
		{"of another seal", func(c *fsmpb.Command) {
			pb := good.Proto()
			pb.Manifest.CreateTimeUnixNano++
			c.GetRepairSeal().Record = encoded(t, pb)
		}, errs.InvalidArgument},
		{"sealed by person", func(*fsmpb.Command) { check(t, b.sealNode()) }, errs.Sealed},
	} {
		cmd := proto.CloneOf(task)
		c.change(cmd)
		if _, err := ask(cmd); !errs.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestTheOnlyVoterRepairsByItsOwnWord, because there is no other one.
func TestTheOnlyVoterRepairsByItsOwnWord(t *testing.T) {
	w, all := autoCluster(t, 1)
	a := all[0]
	before := a.registry(t)
	w.faults.lose("hsm-2", before)
	check(t, a.WatchSeal(t.Context()))
	if a.registry(t).Digest() == before.Digest() {
		t.Error("not repaired")
	}
}

// TestI12_WhatADiskSaysOfTheFutureIsNotTakenOver: it would win over every repair, and the
// leader's own would be proposed.
func TestI12_WhatADiskSaysOfTheFutureIsNotTakenOver(t *testing.T) {
	w, all := autoCluster(t, 2)
	a := all[0]
	registry := a.registry(t)
	for name, at := range map[string]int64{
		"the last nanosecond": math.MaxInt64,
		"tomorrow":            w.clock.Now().AddDate(0, 0, 1).UnixNano(),
		"two minutes":         w.clock.Now().Add(2 * time.Minute).UnixNano(),
	} {
		pb := registry.Proto()
		pb.Wrappings[1].WrappedKey, pb.Wrappings[1].CreateTimeUnixNano = []byte("junk"), at
		stop(a.Node)
		check(t, seal.WriteFile(filepath.Join(a.dir, "record.pb"), must[seal.Record](t)(seal.ParseRecord(encoded(t, pb)))))
		a.boot(t)
		a.follow()
		check(t, a.AskKeystores(t.Context()))
		a.Observe(t.Context())
		if !a.Unsealed() || a.onDisk(t).Digest() != registry.Digest() {
			t.Errorf("%s: the disk's wrapping is kept", name)
		}
	}
	// So a repair is made of the registry's, and not hindered.
	w.faults.lose("hsm-2", registry)
	check(t, a.WatchSeal(t.Context()))
	if a.registry(t).Digest() == registry.Digest() {
		t.Error("not repaired")
	}
}

// TestI12_WhatADiskHasIsProposedOnlyIfItOpens: a keystore that is away says nothing of it.
func TestI12_WhatADiskHasIsProposedOnlyIfItOpens(t *testing.T) {
	w, all := autoCluster(t, 1)
	a := all[0]
	registry := a.registry(t)
	pb := registry.Proto()
	pb.Wrappings[1].WrappedKey = []byte("junk")
	pb.Wrappings[1].CreateTimeUnixNano++
	stop(a.Node)
	check(t, seal.WriteFile(filepath.Join(a.dir, "record.pb"), must[seal.Record](t)(seal.ParseRecord(encoded(t, pb)))))
	a.boot(t)
	a.follow()
	w.advance(time.Second)
	check(t, a.AskKeystores(t.Context()))
	w.faults.fail(keystore.Unavailable, "hsm-2")
	w.faults.lose("hsm-3", registry)
	check(t, a.WatchSeal(t.Context()))
	now := a.registry(t)
	if got := now.Replaced(registry); len(got) != 1 || got[0].Provider != "hsm-3" {
		t.Errorf("replaced: %v", got)
	}
}
