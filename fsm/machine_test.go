package fsm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
)

func TestNothingIsAcceptedBeforeGenesis(t *testing.T) {
	w := emptyWorld(t)
	w.refused(errs.FailedState, tick())
	w.refused(errs.FailedState, asked("r", tick()))
	if w.view().Initialized() || w.view().Index() != 2 {
		t.Fatalf("initialized %v at index %d, want an empty state at index 2", w.view().Initialized(), w.view().Index())
	}
	w.found(w.genesis())
	if !w.view().Initialized() {
		t.Fatal("a genesis after refused commands was not accepted")
	}
}

func TestGenesisIsTheFirstCommandAndOnce(t *testing.T) {
	w := emptyWorld(t)
	g := w.genesis()
	raw, err := fsm.EncodeGenesis(g)
	if err != nil {
		t.Fatal(err)
	}
	w.found(g)
	c := w.view().Cluster()
	if want := sha256.Sum256(raw); !bytes.Equal(c.GetFingerprint(), want[:]) || !bytes.Equal(c.GetGenesis(), raw) {
		t.Error("the fingerprint is not the SHA-256 of the genesis as it was proposed")
	}
	if m, ok := w.view().Member(nodeID(0)); !ok || !m.GetVoter() || m.GetModIndex() != 1 || m.GetCreateTimeMs() != startMS {
		t.Errorf("first member: %v, %v", m, ok)
	}
	if s, ok := w.view().Secret("node-ca"); !ok || s.GetModIndex() != 1 {
		t.Errorf("secret: %v, %v", s, ok)
	}
	if v := w.ivk(); v.GetState() != fsmpb.VersionState_VERSION_STATE_ACTIVE || v.GetNumber() != 1 {
		t.Errorf("internal key: %v", v)
	}
	second := w.genesis()
	w.refused(errs.FailedState, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: second}})
}

func TestGenesisThatIsNotSoundIsRefused(t *testing.T) {
	alice, _ := person("alice", "governor")
	for name, change := range map[string]func(*fsmpb.Genesis){
		"keyspace id too short":     func(g *fsmpb.Genesis) { g.KeyspaceId = g.GetKeyspaceId()[:15] },
		"zero cluster id":           func(g *fsmpb.Genesis) { g.ClusterId = make([]byte, 16) },
		"no name":                   func(g *fsmpb.Genesis) { g.Name = "" },
		"format not known":          func(g *fsmpb.Genesis) { g.FormatVersion = newest + 1 },
		"no format":                 func(g *fsmpb.Genesis) { g.FormatVersion = 0 },
		"four voters":               func(g *fsmpb.Genesis) { g.Settings.Voters = 4 },
		"negative window":           func(g *fsmpb.Genesis) { g.Settings.RollbackWindowMs = -1 },
		"first member is no voter":  func(g *fsmpb.Genesis) { g.FirstMember.Voter = false },
		"first member has no id":    func(g *fsmpb.Genesis) { g.FirstMember.Id = "" },
		"first member too old":      func(g *fsmpb.Genesis) { g.FirstMember.MaxFormat = 0 },
		"no first member":           func(g *fsmpb.Genesis) { g.FirstMember = nil },
		"internal key without blob": func(g *fsmpb.Genesis) { g.InternalKey.Blob = nil },
		"internal key number 2":     func(g *fsmpb.Genesis) { g.InternalKey.Number = 2 },
		"no internal key":           func(g *fsmpb.Genesis) { g.InternalKey = nil },
		"secret under another key":  func(g *fsmpb.Genesis) { g.Secrets[0].IvkUid = g.GetKeyspaceId() },
		"secret twice":              func(g *fsmpb.Genesis) { g.Secrets = append(g.GetSecrets(), g.GetSecrets()[0]) },
		"person twice":              func(g *fsmpb.Genesis) { g.Persons = []*fsmpb.Person{alice, alice} },
		"person is an operator": func(g *fsmpb.Genesis) {
			g.Persons = []*fsmpb.Person{{Name: "alice", Role: "operator", Key: alice.GetKey()}}
		},
		"person without key": func(g *fsmpb.Genesis) { g.Persons = []*fsmpb.Person{{Name: "alice", Role: "governor"}} },
		"rule that nobody can fulfil": func(g *fsmpb.Genesis) {
			g.Persons = []*fsmpb.Person{alice}
			g.Rules = []*fsmpb.IntentRule{{Act: 8, Role: "governor", Signatures: 2}}
		},
		"rule for no act": func(g *fsmpb.Genesis) {
			g.Persons = []*fsmpb.Person{alice}
			g.Rules = []*fsmpb.IntentRule{{Act: 1 << 17, Role: "governor", Signatures: 1}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := emptyWorld(t)
			g := w.genesis()
			change(g)
			res := w.do(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: g}})
			if code, _ := errs.ByName(res.GetReason()); code != errs.InvalidArgument && code != errs.Aborted {
				t.Fatalf("got %v, want a refusal", res)
			}
			if w.view().Initialized() {
				t.Fatal("the state is initialised after a refused genesis")
			}
			// And what a refused genesis claimed is free for the next one.
			w.ids = 0
			w.found(w.genesis())
		})
	}
}

func TestGenesisOfAnotherClusterThanPinnedStopsTheNode(t *testing.T) {
	w := emptyWorld(t)
	w.m = fsm.New(fsm.Options{Fingerprint: [32]byte{1}})
	if _, err := w.apply(&fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: w.genesis()}}); !fsm.Stopped(err) {
		t.Fatalf("got %v, want the machine to stop", err)
	}
	w = emptyWorld(t)
	g := w.genesis()
	raw, err := fsm.EncodeGenesis(g)
	if err != nil {
		t.Fatal(err)
	}
	w.m = fsm.New(fsm.Options{Fingerprint: fsm.Fingerprint(raw)})
	w.found(g)
}

func TestI2_TheChainCoversEveryCommandAndItsOutcome(t *testing.T) {
	w := newWorld(t)
	w.ok(w.createTenant("acme"))
	w.refused(errs.AlreadyExists, w.createTenant("acme"))
	w.index += 7 // entries of another kind have indexes too
	w.ok(tick())

	var want [32]byte
	indexes := []uint64{1, 2, 3, 11}
	outcomes := []string{"", "", "ALREADY_EXISTS", ""}
	for i, raw := range w.log {
		h := sha256.New()
		h.Write(want[:])
		h.Write(binary.BigEndian.AppendUint64(nil, indexes[i]))
		if i == 0 { // before there is a format version
			h.Write(raw)
		} else {
			sum := sha256.Sum256(raw)
			h.Write(sum[:])
			h.Write([]byte(outcomes[i]))
		}
		h.Sum(want[:0])
	}
	index, term, chain := w.m.Applied()
	if index != 11 || term != 1 || chain != want {
		t.Fatalf("applied %d in term %d with chain %x, want 11, 1, %x", index, term, chain, want)
	}
}

func TestI12_WhatIsNotUnderstoodStopsTheNode(t *testing.T) {
	known, err := proto.Marshal(&fsmpb.Command{Format: 1, TimeUnixMs: startMS, Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}})
	if err != nil {
		t.Fatal(err)
	}
	field := func(num protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), body)
	}
	marshal := func(c *fsmpb.Command) []byte {
		b, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	version := &fsmpb.ChangeVersion{Object: ref("a", "b"), Number: 1, Event: 99}
	for name, raw := range map[string][]byte{
		"garbage":                      {0xff, 0xff},
		"empty":                        {},
		"no body":                      marshal(&fsmpb.Command{Format: 1, TimeUnixMs: startMS}),
		"another format":               marshal(&fsmpb.Command{Format: 2, TimeUnixMs: startMS, Body: &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}}),
		"another format, skippable":    marshal(&fsmpb.Command{Format: 2, Skippable: true, TimeUnixMs: startMS}),
		"unknown body":                 append(marshal(&fsmpb.Command{Format: 1, TimeUnixMs: startMS}), field(99, nil)...),
		"unknown field":                append(bytes.Clone(known), field(99, []byte("x"))...),
		"unknown field in the body":    append(marshal(&fsmpb.Command{Format: 1, TimeUnixMs: startMS}), field(38, field(7, []byte("x")))...),
		"unknown field in a list item": append(bytes.Clone(known), field(10, field(9, []byte("x")))...),
		"unknown enum number":          marshal(&fsmpb.Command{Format: 1, TimeUnixMs: startMS, Body: &fsmpb.Command_ChangeVersion{ChangeVersion: version}}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before, index := w.view().Digest(), w.view().Index()
			_, err := w.raw(raw)
			if !fsm.Stopped(err) {
				t.Fatalf("got %v, want the machine to stop", err)
			}
			if w.view().Digest() != before || w.view().Index() != index {
				t.Error("a command that was not understood changed the state")
			}
			if _, again := w.raw(known); !errors.Is(again, err) {
				t.Errorf("after it stopped the machine answered %v, want %v", again, err)
			}
		})
	}
}

func TestSkippableCommandsThatAreNotUnderstoodAreSkipped(t *testing.T) {
	w := newWorld(t)
	before := w.view()
	base, err := proto.Marshal(&fsmpb.Command{Format: 1, Skippable: true, TimeUnixMs: w.now + dayMS, RequestId: "r", RequestDigest: tokenHash(1)})
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.raw(protowire.AppendBytes(protowire.AppendTag(base, 99, protowire.BytesType), []byte("a later command")))
	if err != nil || res.GetReason() != "" || res.GetIndex() != 2 {
		t.Fatalf("got %v, %v", res, err)
	}
	v := w.view()
	if v.Index() != 2 || v.Chain() == before.Chain() {
		t.Error("a skipped command is not in index and chain")
	}
	if v.TimeMS() != before.TimeMS() {
		t.Error("a skipped command moved the time")
	}
	if _, ok := v.Request(&fsmpb.Principal{}, "r", 0); ok {
		t.Error("a skipped command is remembered")
	}
}

func TestIndexAndTermDoNotGoBack(t *testing.T) {
	for name, at := range map[string][2]uint64{"same index": {1, 1}, "index zero": {0, 1}, "lower term": {2, 0}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.m.Apply(at[0], at[1], w.log[0]); !fsm.Stopped(err) {
				t.Fatalf("got %v, want the machine to stop", err)
			}
		})
	}
}

func TestI11_CommandTimeNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	late := w.createTenant("acme")
	late.TimeUnixMs = startMS + hourMS
	w.ok(late)
	early := w.createTenant("other")
	early.TimeUnixMs = startMS - hourMS
	w.ok(early)
	if got := w.tenantOf("other").GetCreateTimeMs(); got != startMS+hourMS {
		t.Errorf("created at %d, want the largest time seen, %d", got, startMS+hourMS)
	}
}

func TestCommandsWithoutValidEnvelopeAreRefused(t *testing.T) {
	w := newWorld(t)
	before := w.view().TimeMS()
	for name, cmd := range map[string]*fsmpb.Command{
		"negative time":        {TimeUnixMs: -1},
		"time after year 9999": {TimeUnixMs: 253402300800000},
		"long request id":      {RequestId: string(make([]byte, 129)), RequestDigest: tokenHash(1)},
		"no digest":            {RequestId: "r"},
		"long principal":       {Principal: &fsmpb.Principal{Name: string(make([]byte, 1025))}},
	} {
		t.Run(name, func(t *testing.T) {
			w.tb = t
			cmd.Body = &fsmpb.Command_Tick{Tick: &fsmpb.Tick{}}
			w.refused(errs.InvalidArgument, cmd)
		})
	}
	if w.view().TimeMS() != before {
		t.Error("a refused envelope moved the time")
	}
}

func TestWaitReturnsWhenTheIndexIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var wg sync.WaitGroup
		reached := make(chan uint64, 3)
		for _, index := range []uint64{1, 3, 4} {
			wg.Go(func() {
				if err := w.m.Wait(t.Context(), index); err != nil {
					t.Errorf("wait %d: %v", index, err)
				}
				if got := w.view().Index(); got < index {
					t.Errorf("wait %d returned at %d", index, got)
				}
				reached <- index
			})
		}
		synctest.Wait()
		if len(reached) != 1 {
			t.Errorf("%d waits returned at index 1, want 1", len(reached))
		}
		w.ok(tick())
		synctest.Wait()
		if len(reached) != 1 {
			t.Errorf("%d waits returned at index 2, want 1", len(reached))
		}
		w.ok(tick())
		w.ok(tick())
		wg.Wait()

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := w.m.Wait(ctx, 100); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestPublishHappensOncePerCommandAndInsideTheHook(t *testing.T) {
	var indexes []uint64
	var m *fsm.Machine
	m = fsm.New(fsm.Options{Publish: func(p fsm.Published, swap func()) {
		index := p.View.Index()
		if m.View().Index() != index-1 || p.View.Term() != 1 || p.Restored || p.Epoch != (fsm.Epoch{}) {
			t.Errorf("before the swap of %d the view has index %d", index, m.View().Index())
		}
		swap()
		if m.View().Index() != index {
			t.Errorf("after the swap of %d the view has index %d", index, m.View().Index())
		}
		indexes = append(indexes, index)
	}})
	w := emptyWorld(t)
	w.m = m
	w.found(w.genesis())
	w.refused(errs.NotFound, changeObject("nobody", "", fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, ""))
	w.ok(tick())
	if len(indexes) != 3 {
		t.Errorf("published %v, want 1, 2, 3", indexes)
	}
}

func TestI4_ViewsDoNotChange(t *testing.T) {
	w := newWorld(t)
	w.ok(w.createTenant("acme"))
	w.ok(w.createService("acme", "payments"))
	v := w.view()
	digest := v.Digest()
	s := w.serviceOf("acme", "payments")
	own := proto.CloneOf(s)

	w.rotate("acme", "payments")
	w.ok(pin("acme", "payments", "r", 1))
	w.ok(destroyNow("acme", "payments"))
	w.ok(destroyNow("acme", ""))
	if v.Digest() != digest {
		t.Error("a view changed")
	}
	if !proto.Equal(s, own) {
		t.Error("an object that a view returned changed")
	}
}

func TestResultsBelongToTheCaller(t *testing.T) {
	w := newWorld(t)
	cmd := asked("r", w.createTenant("acme"))
	res := w.ok(cmd)
	digest := w.view().Digest()
	clear(res.GetUid())
	res.Object = "changed"
	if w.view().Digest() != digest || w.tenantOf("acme").GetUid()[0] == 0 && w.tenantOf("acme").GetUid()[1] == 0 {
		t.Error("whoever changes a result changes the state")
	}
}

func TestTheCallerKeepsTheBytesOfACommand(t *testing.T) {
	w := newWorld(t)
	w.ok(w.createTenant("acme"))
	digest := w.view().Digest()
	for _, raw := range w.log {
		clear(raw)
	}
	if w.view().Digest() != digest {
		t.Error("the state refers to the bytes of a command")
	}
}

func TestI6_StatesHaveTheNumbersOfHierarchy(t *testing.T) {
	for _, s := range hierarchy.VersionStates() {
		if got := fsmpb.VersionState(s).String(); got != "VERSION_STATE_"+s.String() {
			t.Errorf("version state %d is %s here and %s there", s, got, s)
		}
	}
	for _, s := range hierarchy.ObjectStates() {
		if got := fsmpb.ObjectState(s).String(); got != "OBJECT_STATE_"+s.String() {
			t.Errorf("object state %d is %s here and %s there", s, got, s)
		}
	}
	if a, b := len(fsmpb.VersionState_name)-1, len(hierarchy.VersionStates()); a != b {
		t.Errorf("%d version states here and %d there", a, b)
	}
	if a, b := len(fsmpb.ObjectState_name)-1, len(hierarchy.ObjectStates()); a != b {
		t.Errorf("%d object states here and %d there", a, b)
	}
}

func TestTooLongCommandsAreRefusedByTheProposerOnly(t *testing.T) {
	cmd := &fsmpb.Command{Format: 1, TimeUnixMs: startMS, CorrelationId: string(bytes.Repeat([]byte("x"), fsm.MaxCommandBytes)), Body: tick().GetBody()}
	if _, err := fsm.EncodeCommand(cmd); errs.Of(err) != errs.TooLarge {
		t.Errorf("got %v, want TOO_LARGE", err)
	}
	raw, err := proto.Marshal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	if res, err := w.raw(raw); err != nil || res.GetReason() != "" {
		t.Errorf("got %v, %v: a long command that is in the log must be applied alike everywhere", res, err)
	}
}

func TestErrIsTheRefusalOrNothing(t *testing.T) {
	if err := fsm.Err(&fsmpb.Result{}); err != nil {
		t.Errorf("got %v for a command that was done", err)
	}
	err := fsm.Err(&fsmpb.Result{Reason: "STALE_ETAG", Message: "m", Hint: "h"})
	if e := errs.From(err); e.Code != errs.StaleEtag || e.Msg != "m" || e.Hint != "h" {
		t.Errorf("got %v", err)
	}
	if err := fsm.Err(&fsmpb.Result{Reason: "FROM_A_LATER_RELEASE", Message: "m"}); errs.Of(err) != errs.Internal {
		t.Errorf("got %v", err)
	}
}

// TestReadersAndWritersDoNotMeet runs under the race detector in CI: readers
// marshal, digest and write out what they are lent while commands are applied.
func TestReadersAndWritersDoNotMeet(t *testing.T) {
	w := acme(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for last := uint64(0); ; {
				v := w.m.View()
				if v.Index() < last {
					t.Errorf("the view went back from %d to %d", last, v.Index())
				}
				last = v.Index()
				if s, ok := v.Service("acme", "payments"); !ok || proto.Size(s) == 0 {
					t.Error("the service is gone")
				}
				v.Digest()
				if _, err := v.Snapshot().WriteTo(&bytes.Buffer{}, nil); err != nil {
					t.Error(err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 30 {
		w.rotate("acme", "payments")
		w.ok(asked(nodeID(int(w.index)), w.createTenant("t"+nodeID(int(w.index)))))
	}
	close(stop)
	wg.Wait()
}

// TestReadersAndRestoresDoNotMeet is for the race detector too: a restore
// touches nothing that anybody but the goroutine that applies looks at, except
// by storing a pointer.
func TestReadersAndRestoresDoNotMeet(t *testing.T) {
	w := acme(t)
	raw := snapshot(t, w.m, testMAC)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				if res := w.m.DryRun(tick()); res.GetReason() != "" {
					t.Errorf("forecast %v", res)
				}
				if err := w.m.Wait(t.Context(), 1); err != nil {
					t.Error(err)
				}
				w.m.Applied()
				w.m.RestoreProof()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 20 {
		if _, err := w.m.Apply(w.index+1, w.term, []byte{0xff}); !fsm.Stopped(err) {
			t.Errorf("got %v", err)
		}
		if err := w.m.Restore(bytes.NewReader(raw)); err != nil {
			t.Error(err)
		}
		w.index = w.view().Index()
		w.ok(tick())
	}
	close(stop)
	wg.Wait()
}

func TestADryRunForecastsAndChangesNothing(t *testing.T) {
	w := acme(t)
	view, digest := w.view(), w.view().Digest()
	cmd := asked("r", w.createTenant("other"))
	cmd.Format = fsm.CommandFormat
	forecast := w.m.DryRun(cmd)
	if forecast.GetReason() != "" || forecast.GetObject() != "tenants/other" || cmd.GetTimeUnixMs() != 0 {
		t.Errorf("forecast %v", forecast)
	}
	if res := w.m.DryRun(by(changeObject("nobody", "", fsmpb.ObjectEvent_OBJECT_EVENT_SUSPEND, ""))); res.GetReason() != errs.NotFound.String() {
		t.Errorf("forecast of a refusal: %v", res)
	}
	if w.view() != view || w.view().Digest() != digest {
		t.Fatal("a dry run changed the state")
	}
	if res := w.ok(cmd); res.GetReplayed() || res.GetObject() != forecast.GetObject() || !bytes.Equal(res.GetUid(), forecast.GetUid()) {
		t.Errorf("got %v, the forecast was %v", res, forecast)
	}
	if res := w.m.DryRun(cmd); !res.GetReplayed() {
		t.Errorf("the forecast of a retry is %v", res)
	}
	if res := fsm.New(fsm.Options{}).DryRun(tick()); res.GetReason() != errs.FailedState.String() {
		t.Errorf("before genesis: %v", res)
	}
}

func TestDryRunsAndCommandsDoNotWaitForEachOther(t *testing.T) {
	var w *world
	m := fsm.New(fsm.Options{Publish: func(_ fsm.Published, swap func()) {
		// In the middle of a command: a dry run that waited for it would never return.
		if w.view().Initialized() {
			w.m.DryRun(tick())
		}
		swap()
	}})
	w = emptyWorld(t)
	w.m = m
	w.found(w.genesis())
	var wg sync.WaitGroup
	probe := asked("probe", w.createTenant("probe"))
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if res := m.DryRun(probe); res.GetReason() != "" {
					t.Errorf("forecast %v", res)
				}
			}
		})
	}
	for i := range 50 {
		w.ok(w.createTenant(fmt.Sprintf("t%d", i)))
	}
	wg.Wait()
}
