package fsm_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

const (
	auto   = sealpb.Mode_MODE_AUTO
	shamir = sealpb.Mode_MODE_SHAMIR
)

// unchanged fails if the seal of the cluster changed in f.
func (w *world) unchanged(what string, f func()) {
	w.tb.Helper()
	before := proto.CloneOf(w.view().Cluster())
	f()
	if !proto.Equal(before, w.view().Cluster()) {
		w.tb.Fatalf("%s changed the cluster", what)
	}
}

// TestI32_NothingChangesBeforeTheCommit: neither begin, stage, confirmations, cancel
// nor expiry touches the seal, and every one of them is what the next node sees, also
// after a restore.
func TestI32_NothingChangesBeforeTheCommit(t *testing.T) {
	for name, end := range map[string]func(*world, []byte){
		"cancelled": func(w *world, id []byte) { w.ok(cancelSeal(id)) },
		"expired":   func(w *world, _ []byte) { w.now += hourMS; w.ok(tick()) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, steps := range []int{1, 2, 3} {
				w := sealedWorld(t, shamir, 1)
				var id []byte
				w.unchanged("the ceremony", func() {
					id = w.begun(reshare, people("anna", "ben"))
					w.ceremonyIs(id, opened)
					if steps > 1 {
						w.stagedSeal(id)
						w.ceremonyIs(id, staged)
					}
					if steps > 2 {
						w.ok(w.confirm(id, 1, 3))
					}
					restored := fsm.New(fsm.Options{})
					if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
						t.Fatal(err)
					}
					sameState(t, w.m, restored)
					end(w, id)
				})
				c := w.ceremonyOf(id)
				if fsm.CeremonyOpen(c) || len(c.GetStagedRecord()) != 0 || c.GetEndTimeMs() != w.now {
					t.Errorf("after %d steps it is %v", steps, c)
				}
				w.held(reshare, people("carl", "dora"), 1, 2) // another one can be held
			}
		})
	}
}

// TestI33_ItCommitsWhenEnoughHoldersOpenedIt: of every group as many as it needs, of
// keystores that open it alone one; and then the staged record is the cluster's.
func TestI33_ItCommitsWhenEnoughHoldersOpenedIt(t *testing.T) {
	for name, tc := range map[string]struct {
		from    sealpb.Mode
		kind    fsmpb.CeremonyKind
		plan    *fsmpb.SealPlan
		few     [][]uint32
		missing []int // of the last of few
		enough  []uint32
	}{
		"one group":        {shamir, reshare, people("anna", "ben"), [][]uint32{nil, {1}, {1, 1}, {2}}, []int{1}, []uint32{1, 3}},
		"two groups":       {shamir, reshare, twoGroups(), [][]uint32{{1, 2, 3}, {4, 5}, {1, 4, 5}, {1, 2, 3, 4}}, []int{0, 1}, []uint32{2, 3, 4, 5}},
		"to keystores":     {shamir, migrate, keystores("aws", "hsm"), [][]uint32{nil}, []int{1}, []uint32{2}},
		"to others":        {auto, migrate, keystores("aws"), [][]uint32{nil}, []int{1}, []uint32{1}},
		"to people":        {auto, migrate, people("anna", "ben"), [][]uint32{{3}}, []int{1}, []uint32{2, 3}},
		"all, one by one":  {shamir, reshare, twoGroups(), nil, nil, []uint32{1, 2, 3, 4, 5}},
		"twice in one row": {shamir, reshare, people("anna", "ben"), [][]uint32{{2, 2, 2}}, []int{1}, []uint32{2, 1, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, holders := range tc.few {
				w := sealedWorld(t, tc.from, 1)
				id := w.begun(tc.kind, tc.plan)
				w.stagedSeal(id)
				w.ok(w.confirm(id, holders...))
				w.unchanged("a commit without enough holders", func() { w.refused(errs.Aborted, w.commitSeal(id)) })
				w.ceremonyIs(id, staged)
				if got := fsm.CeremonyMissing(w.ceremonyOf(id)); len(holders) > 0 && slices.Equal(holders, tc.few[len(tc.few)-1]) && !slices.Equal(got, tc.missing) {
					t.Errorf("missing %v, want %v", got, tc.missing)
				}
			}
			w := sealedWorld(t, tc.from, 1)
			id := w.begun(tc.kind, tc.plan)
			r := w.stagedSeal(id)
			for _, h := range tc.enough {
				w.ok(w.confirm(id, h))
			}
			res := w.ok(w.commitSeal(id))
			if got := w.view().Cluster().GetSealRecord(); !bytes.Equal(got, encoded(r)) || w.view().Cluster().GetModIndex() != res.GetIndex() {
				t.Error("the seal of the cluster is not what was staged")
			}
			c := w.ceremonyIs(id, committed)
			if len(c.GetStagedRecord()) != 0 || len(c.GetNewManifest()) == 0 {
				t.Errorf("it is kept as %v", c)
			}
			w.refused(errs.FailedState, w.commitSeal(id))
			w.refused(errs.FailedState, cancelSeal(id))
			restored := fsm.New(fsm.Options{})
			if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
				t.Fatal(err)
			}
			sameState(t, w.m, restored)
		})
	}
}

// TestI32_OnlyWhatWasSignedIsStaged: a node that stages cannot give a share to anybody
// else, take a smaller threshold, seal another MasterKey, or leave out who signed.
func TestI32_OnlyWhatWasSignedIsStaged(t *testing.T) {
	for name, change := range map[string]func(*sealpb.Record){
		"another recipient":      func(r *sealpb.Record) { r.Manifest.Holders[0].Recipient = "age1pq1eve" },
		"another name":           func(r *sealpb.Record) { r.Manifest.Holders[0].Name = "eve" },
		"another keystore":       func(r *sealpb.Record) { r.Manifest.Holders[2].ProviderKey.Provider = "eve" },
		"another key":            func(r *sealpb.Record) { r.Manifest.Holders[2].ProviderKey.Key = "eve" },
		"another region":         func(r *sealpb.Record) { r.Manifest.Holders[0].Domain.Region = "us" },
		"a person as a keystore": func(r *sealpb.Record) { r.Manifest.Holders[0].Kind = sealpb.HolderKind_HOLDER_KIND_KEYSTORE },
		"a keystore as a person": func(r *sealpb.Record) { r.Manifest.Holders[2].Kind = sealpb.HolderKind_HOLDER_KIND_PERSON },
		"one holder more": func(r *sealpb.Record) {
			r.Manifest.Holders = append(r.Manifest.Holders, r.GetManifest().GetHolders()[0])
		},
		"one holder less": func(r *sealpb.Record) {
			r.Manifest.Holders, r.Shards = r.GetManifest().GetHolders()[:2], r.GetShards()[:2]
		},
		"holders in another order": func(r *sealpb.Record) { h := r.GetManifest().GetHolders(); h[0], h[1] = h[1], h[0] },
		"another threshold":        func(r *sealpb.Record) { r.Manifest.Groups[0].Threshold, r.Manifest.Threshold = 3, 3 },
		"two thresholds":           func(r *sealpb.Record) { r.Manifest.Threshold = 3 },
		"another group": func(r *sealpb.Record) {
			r.Manifest.Groups = append(r.Manifest.Groups, &sealpb.Group{Name: "g", Threshold: 2})
		},
		"a holder of no group":    func(r *sealpb.Record) { r.Manifest.Holders[2].Group = 1 },
		"a keystore besides":      func(r *sealpb.Record) { r.Manifest.ProviderKeys = []*sealpb.ProviderKey{{Provider: "eve", Key: "k"}} },
		"another risk":            func(r *sealpb.Record) { r.Manifest.AcceptedRisks = []string{"all"} },
		"another kind":            func(r *sealpb.Record) { r.Manifest.Kind = sealpb.CeremonyKind_CEREMONY_KIND_MIGRATE },
		"another mode":            func(r *sealpb.Record) { r.Manifest.Mode = auto },
		"another MasterKey":       func(r *sealpb.Record) { r.Manifest.MasterKeyCommitment = sum32("eve's") },
		"no commitment":           func(r *sealpb.Record) { r.Manifest.MasterKeyCommitment = nil },
		"another generation":      func(r *sealpb.Record) { r.Manifest.Generation++ },
		"another keyspace":        func(r *sealpb.Record) { r.Manifest.KeyspaceId = sum32("k")[:16] },
		"another cluster":         func(r *sealpb.Record) { r.Manifest.ClusterId = sum32("c")[:16] },
		"another ceremony":        func(r *sealpb.Record) { r.Manifest.CeremonyId = sum32("x")[:16] },
		"another manifest before": func(r *sealpb.Record) { r.Manifest.PreviousManifest = sum32("y") },
		"no manifest before":      func(r *sealpb.Record) { r.Manifest.PreviousManifest = nil },
		"nobody signed":           func(r *sealpb.Record) { r.Manifest.SignedIntents = nil },
		"one more signed": func(r *sealpb.Record) {
			r.Manifest.SignedIntents = append(r.Manifest.SignedIntents, r.GetManifest().GetSignedIntents()[0])
		},
		"something else was signed": func(r *sealpb.Record) { r.Manifest.SignedIntents[0] = []byte("not an intent") },
		"format 1":                  func(r *sealpb.Record) { r.Format, r.Manifest.Format = 1, 1 },
		"format 3":                  func(r *sealpb.Record) { r.Manifest.Format = 3 },
		"no time":                   func(r *sealpb.Record) { r.Manifest.CreateTimeUnixNano = 0 },
		"no shard":                  func(r *sealpb.Record) { r.Shards = r.GetShards()[:2] },
		"an empty shard":            func(r *sealpb.Record) { r.Shards[0].EncryptedShard = nil },
		"another shard":             func(r *sealpb.Record) { r.Shards[0].EncryptedShard = []byte("other") },
		"shards in another order":   func(r *sealpb.Record) { r.Shards[0], r.Shards[1] = r.GetShards()[1], r.GetShards()[0] },
		"no hash of a share":        func(r *sealpb.Record) { r.Manifest.Holders[1].ShareHash = nil },
		"one share twice": func(r *sealpb.Record) {
			r.Manifest.Holders[1].ShareHash = r.GetManifest().GetHolders()[0].GetShareHash()
		},
		"a share at zero":         func(r *sealpb.Record) { r.Manifest.Holders[1].X = 0 },
		"two shares at one point": func(r *sealpb.Record) { r.Manifest.Holders[1].X = r.GetManifest().GetHolders()[0].GetX() },
		"a wrapping":              func(r *sealpb.Record) { r.Wrappings = []*sealpb.Wrapping{{}} },
		"a seal of groups":        func(r *sealpb.Record) { r.GroupSeal = &sealpb.GroupSeal{} },
		"a key of before":         func(r *sealpb.Record) { r.CarriedKeys = []*sealpb.CarriedKey{{Generation: 1}} },
		"unknown fields":          func(r *sealpb.Record) { r.ProtoReflect().SetUnknown([]byte{0xf2, 0x06, 0x00}) },
		"unknown fields inside": func(r *sealpb.Record) {
			r.GetManifest().GetHolders()[0].ProtoReflect().SetUnknown([]byte{0xf2, 0x06, 0x00})
		},
		"no manifest": func(r *sealpb.Record) { r.Manifest = nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := sealedWorld(t, shamir, 1)
			id := w.begun(reshare, people("anna", "ben"))
			r := w.newSeal(id)
			good := proto.CloneOf(r)
			change(r)
			w.unchanged("what was not ordered", func() { w.refused(errs.InvalidArgument, w.stage(id, r)) })
			w.ceremonyIs(id, opened)
			w.ok(w.stage(id, good)) // nothing is lost: the right one can be staged
		})
	}
}

func TestI32_OnlyWhatWasSignedIsStagedOfKeystores(t *testing.T) {
	for name, change := range map[string]func(*sealpb.Record){
		"another key": func(r *sealpb.Record) { r.Manifest.ProviderKeys[0].Key, r.Wrappings[0].ProviderKey.Key = "eve", "eve" },
		"one key more": func(r *sealpb.Record) {
			r.Manifest.ProviderKeys = append(r.Manifest.ProviderKeys, &sealpb.ProviderKey{Provider: "eve", Key: "k"})
		},
		"one wrapping less":       func(r *sealpb.Record) { r.Wrappings = r.GetWrappings()[:1] },
		"a wrapping by another":   func(r *sealpb.Record) { r.Wrappings[0].ProviderKey.Provider = "eve" },
		"wrappings out of order":  func(r *sealpb.Record) { r.Wrappings[0], r.Wrappings[1] = r.GetWrappings()[1], r.GetWrappings()[0] },
		"a wrapping of nothing":   func(r *sealpb.Record) { r.Wrappings[0].WrappedKey = nil },
		"a wrapping that is none": func(r *sealpb.Record) { r.Wrappings[0].SealedMasterKey = nil },
		"shares besides":          func(r *sealpb.Record) { r.Shards = []*sealpb.Shard{{Index: 1}} },
		"another mode":            func(r *sealpb.Record) { r.Manifest.Mode = shamir },
	} {
		t.Run(name, func(t *testing.T) {
			w := sealedWorld(t, auto, 1)
			id := w.begun(migrate, keystores("aws", "hsm"))
			r := w.newSeal(id)
			change(r)
			w.refused(errs.InvalidArgument, w.stage(id, r))
			w.stagedSeal(id)
		})
	}
}

// TestI8_CustodiansSignForACeremony: as many as the rule says; governors count for
// nothing, although they may ask; and what was signed is the whole plan.
func TestI8_CustodiansSignForACeremony(t *testing.T) {
	w := sealedWorld(t, shamir, 2)
	begin := func() *fsmpb.Command {
		c := w.beginCeremony(reshare, people("anna", "ben"))
		c.Principal = caller("governor", "gov")
		return c
	}
	w.refused(errs.IntentRefused, begin())
	w.refused(errs.IntentRefused, w.consented(begin(), "dave"))
	w.refused(errs.IntentRefused, w.consented(begin(), "gov", "dave"))
	w.refused(errs.IntentRefused, w.consented(begin(), "dave", "dave"))
	for name, change := range map[string]func(*fsmpb.BeginCeremony){
		"another recipient": func(b *fsmpb.BeginCeremony) { b.Plan.Groups[0].Holders[0].Recipient = "age1pq1eve" },
		"another keystore":  func(b *fsmpb.BeginCeremony) { b.Plan.Groups[0].Holders[2].Key.Key = "eve" },
		"another threshold": func(b *fsmpb.BeginCeremony) { b.Plan.Groups[0].Threshold = 3 },
		"another risk":      func(b *fsmpb.BeginCeremony) { b.Plan.AcceptedRisks = []string{"x"} },
		"one group more": func(b *fsmpb.BeginCeremony) {
			b.Plan.Groups[0].Name = "a"
			b.Plan.Groups = append(b.Plan.Groups, twoGroups().GetGroups()[0])
		},
		"moved between parts": func(b *fsmpb.BeginCeremony) {
			h := b.GetPlan().GetGroups()[0].GetHolders()[2]
			h.Account, h.ProviderType = h.GetProviderType(), h.GetAccount()
		},
	} {
		c := w.consented(begin(), "cust", "dave")
		change(c.GetBeginCeremony())
		if res := w.refused(errs.IntentRefused, c); !strings.Contains(res.GetMessage(), "another request") {
			t.Errorf("%s: %s", name, res.GetMessage())
		}
	}
	id := w.ok(w.consented(begin(), "cust", "dave")).GetUid()
	if by := w.ceremonyOf(id).GetAuthorizedBy(); len(by) != 2 || len(by[0].GetIntent()) == 0 {
		t.Errorf("authorized by %v", by)
	}
	// Of one who asks and signs, with two: others have to.
	w.ok(cancelSeal(id))
	w.refused(errs.IntentRefused, w.consented(w.beginCeremony(reshare, people("anna", "ben")), "cust", "dave"))
	w.ok(w.consented(w.beginCeremony(reshare, people("anna", "ben")), "dave", "erin"))
}

// TestI24_ACeremonyCanBeApproved: by custodians, also one whom a custodian asked.
func TestI24_ACeremonyCanBeApproved(t *testing.T) {
	w := sealedWorld(t, shamir, 2)
	cmd := w.beginCeremony(reshare, people("anna", "ben"))
	id := w.requested("cust", cmd)
	w.refused(errs.Aborted, w.execute(id, cmd))
	w.ok(w.approveAs(id, "dave"))
	w.refused(errs.IntentRefused, w.approveAs(id, "gov"))
	w.ok(w.approveAs(id, "erin"))
	cmd.GetBeginCeremony().Id = w.uid() // what nobody signs may differ
	res := w.ok(w.execute(id, cmd))
	w.isIn(id, executed)
	w.ceremonyIs(res.GetUid(), opened)
	w.stagedSeal(res.GetUid())
}

func (w *world) approveAs(id, who string) *fsmpb.Command {
	w.tb.Helper()
	s := signature(w.tb, who, w.approval(id).GetIntent())
	role := "custodian"
	if who == "gov" {
		role = "governor"
	}
	return &fsmpb.Command{Principal: caller(role, who), Body: &fsmpb.Command_Approve{Approve: &fsmpb.Approve{Id: id, KeyId: s.GetKeyId(), Signature: s.GetSignature()}}}
}

// TestI32_WhereKeystoresOpenItCustodiansConsent: without a rule nobody would.
func TestI32_WhereKeystoresOpenItCustodiansConsent(t *testing.T) {
	w := sealedWorld(t, auto, 0)
	w.refused(errs.FailedState, w.beginCeremony(migrate, keystores("aws")))
	w = sealedWorld(t, shamir, 0)
	w.ok(w.beginCeremony(migrate, keystores("aws"))) // M shares are the consent
}

// TestI32_WhereKeystoresHoldEnoughSharesCustodiansConsent: M shares are no consent of
// anybody where keystores give them without being asked by people.
func TestI32_WhereKeystoresHoldEnoughSharesCustodiansConsent(t *testing.T) {
	stores := &fsmpb.SealPlan{Groups: []*fsmpb.SealGroup{{Threshold: 2, Holders: []*fsmpb.SealHolder{storeHolder("s1"), storeHolder("s2"), personHolder("anna")}}}}
	mixed := &fsmpb.SealPlan{Groups: []*fsmpb.SealGroup{
		{Name: "one", Threshold: 2, Holders: []*fsmpb.SealHolder{storeHolder("s1"), storeHolder("s2")}},
		{Name: "two", Threshold: 2, Holders: []*fsmpb.SealHolder{storeHolder("s3"), personHolder("anna"), storeHolder("s4")}},
	}}
	for p, opens := range map[*fsmpb.SealPlan][]uint32{stores: {1, 2}, mixed: {1, 2, 3, 5}} {
		w := sealedWorld(t, shamir, 0)
		id := w.ok(w.beginCeremony(reshare, p)).GetUid()
		w.stagedSeal(id)
		w.ok(w.confirm(id, opens...))
		w.ok(w.commitSeal(id))
		w.refused(errs.FailedState, w.beginCeremony(reshare, people("mallory", "moriarty")))
		w.refused(errs.FailedState, w.beginCeremony(migrate, keystores("aws")))
	}
	w := sealedWorld(t, shamir, 0)
	id := w.ok(w.beginCeremony(reshare, twoGroups())).GetUid()
	w.stagedSeal(id)
	w.ok(w.confirm(id, 1, 2, 4, 5))
	w.ok(w.commitSeal(id))
	w.ok(w.beginCeremony(reshare, people("anna", "ben"))) // of one group people are the consent
}

// TestI32_WhatNoNodeCouldReadIsNotStaged: committed it would be the seal that no node
// takes over and no ceremony replaces.
func TestI32_WhatNoNodeCouldReadIsNotStaged(t *testing.T) {
	shard := func(change func(*sealpb.KeystoreShard)) func(*sealpb.Record) {
		return func(r *sealpb.Record) {
			s := &sealpb.KeystoreShard{}
			if err := proto.Unmarshal(r.GetShards()[0].GetEncryptedShard(), s); err != nil {
				t.Fatal(err)
			}
			change(s)
			r.Shards[0].EncryptedShard = encoded(s)
		}
	}
	for name, spoil := range map[string]func(*sealpb.Record){
		"no shard of a keystore": func(r *sealpb.Record) { r.Shards[0].EncryptedShard = []byte("junk") },
		"other key":              shard(func(s *sealpb.KeystoreShard) { s.ProviderKey.Key = "other" }),
		"no wrapped key":         shard(func(s *sealpb.KeystoreShard) { s.WrappedKey = nil }),
		"long wrapped key":       shard(func(s *sealpb.KeystoreShard) { s.WrappedKey = make([]byte, 16<<10+1) }),
		"long version":           shard(func(s *sealpb.KeystoreShard) { s.KeyVersion = strings.Repeat("v", 1025) }),
		"nonce":                  shard(func(s *sealpb.KeystoreShard) { s.Nonce = make([]byte, 11) }),
		"sealed share":           shard(func(s *sealpb.KeystoreShard) { s.SealedShare = make([]byte, 48) }),
		"unknown field":          func(r *sealpb.Record) { r.Shards[0].EncryptedShard = append(r.Shards[0].EncryptedShard, 0x78, 1) },
		"long age file":          func(r *sealpb.Record) { r.Shards[3].EncryptedShard = make([]byte, 32<<10+1) },
		"nonce of the groups":    func(r *sealpb.Record) { r.GroupSeal.Nonce = nil },
		"sealed MasterKey":       func(r *sealpb.Record) { r.GroupSeal.SealedMasterKey = make([]byte, 47) },
	} {
		t.Run(name, func(t *testing.T) {
			w := sealedWorld(t, shamir, 1)
			id := w.begun(reshare, twoGroups())
			r := w.newSeal(id)
			spoil(r)
			for i, s := range r.GetShards() {
				sum := sha256.Sum256(s.GetEncryptedShard())
				r.Manifest.Holders[i].EncryptedShardHash = sum[:]
			}
			w.refused(errs.InvalidArgument, w.stage(id, r))
			w.ok(w.stage(id, w.newSeal(id)))
		})
	}
}

// TestI32_OneCeremonyAtATime, of ids that are used once.
func TestI32_OneCeremonyAtATime(t *testing.T) {
	w := sealedWorld(t, shamir, 1)
	id := w.begun(reshare, people("anna", "ben"))
	w.refused(errs.FailedState, w.consented(w.beginCeremony(reshare, people("carl", "dora")), "cust"))
	w.stagedSeal(id)
	w.refused(errs.FailedState, w.consented(w.beginCeremony(reshare, people("carl", "dora")), "cust"))
	w.refused(errs.FailedState, w.stage(id, w.newSeal(id)))
	w.ok(w.confirm(id, 1, 2))
	w.ok(w.commitSeal(id))
	again := w.beginCeremony(reshare, people("carl", "dora"))
	for _, used := range [][]byte{id, sum32("init")[:16]} {
		again.GetBeginCeremony().Id = used
		w.refused(errs.AlreadyExists, w.consented(proto.CloneOf(again), "cust"))
	}
	again.GetBeginCeremony().Id = make([]byte, 16)
	w.refused(errs.InvalidArgument, w.consented(proto.CloneOf(again), "cust"))
}

// TestI33_OnlyTheStagedRecordIsConfirmedAndCommitted: who opened something else says
// nothing of it; and nobody who is not in the plan.
func TestI33_OnlyTheStagedRecordIsConfirmedAndCommitted(t *testing.T) {
	w := sealedWorld(t, shamir, 1)
	id := w.begun(reshare, people("anna", "ben"))
	w.refused(errs.FailedState, w.confirm(id, 1))
	w.refused(errs.FailedState, w.commitSeal(id))
	w.stagedSeal(id)
	other := w.confirm(id, 1, 2)
	other.GetConfirmHolder().Manifest = sum32("other")
	w.refused(errs.InvalidArgument, other)
	for _, h := range []uint32{0, 4, 1 << 31} {
		w.refused(errs.InvalidArgument, w.confirm(id, 1, h))
	}
	if c := w.ceremonyOf(id); len(c.GetConfirmed()) != 0 {
		t.Errorf("confirmed by %v", c.GetConfirmed())
	}
	w.ok(w.confirm(id, 2, 1))
	wrong := w.commitSeal(id)
	wrong.GetCommitCeremony().Manifest = w.ceremonyOf(id).GetBaseManifest()
	w.refused(errs.InvalidArgument, wrong)
	unknown := w.commitSeal(id)
	unknown.GetCommitCeremony().Id = w.uid()
	w.refused(errs.NotFound, unknown)
	w.now += hourMS
	w.refused(errs.FailedState, w.commitSeal(id)) // before any tick
	w.refused(errs.FailedState, w.confirm(id, 3))
	w.ok(tick())
	w.ceremonyIs(id, overdue)
}

// TestI32_APlanHasToFitItsKind and its limits.
func TestI32_APlanHasToFitItsKind(t *testing.T) {
	change := func(f func(*fsmpb.SealPlan)) *fsmpb.SealPlan { p := people("anna", "ben"); f(p); return p }
	holder := func(f func(*fsmpb.SealHolder)) *fsmpb.SealPlan {
		return change(func(p *fsmpb.SealPlan) { f(p.GetGroups()[0].GetHolders()[0]) })
	}
	long := strings.Repeat("x", fsm.MaxSealRecipientBytes+1)
	many := make([]string, fsm.MaxSealProviderKeys+1)
	for i := range many {
		many[i] = strings.Repeat("k", i%60+1) + string(rune('a'+i/60))
	}
	for name, tc := range map[string]struct {
		from sealpb.Mode
		kind fsmpb.CeremonyKind
		plan *fsmpb.SealPlan
	}{
		"reshare to keystores":         {shamir, reshare, keystores("aws")},
		"reshare from keystores":       {auto, reshare, people("anna", "ben")},
		"migrate from people to some":  {shamir, migrate, people("anna", "ben")},
		"no kind":                      {shamir, 0, people("anna", "ben")},
		"no plan":                      {shamir, reshare, nil},
		"both":                         {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.ProviderKeys = keystores("aws").GetProviderKeys() })},
		"one keystore twice":           {shamir, migrate, keystores("aws", "aws")},
		"too many keystores":           {shamir, migrate, keystores(many...)},
		"a keystore without key":       {shamir, migrate, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "aws"}}}},
		"a threshold of one":           {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.Groups[0].Threshold = 1 })},
		"a threshold out of reach":     {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.Groups[0].Threshold = 4 })},
		"two groups without name":      {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.Groups = append(p.Groups, people("c", "d").GetGroups()...) })},
		"two groups of one name":       {shamir, reshare, &fsmpb.SealPlan{Groups: append(twoGroups().GetGroups(), twoGroups().GetGroups()...)}},
		"a group named in two lines":   {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.Groups[0].Name = "a\nb" })},
		"a holder without name":        {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Name = "" })},
		"a holder with a long name":    {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Name = long[:129] })},
		"a holder who prints":          {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Recipient = "" })},
		"a holder who is two":          {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Key = &fsmpb.SealKey{Provider: "p", Key: "k"} })},
		"a recipient that is too long": {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Recipient = long })},
		"a recipient in two lines":     {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Recipient = "age1\nage2" })},
		"a region that is too long":    {shamir, reshare, holder(func(h *fsmpb.SealHolder) { h.Region = long[:129] })},
		"too many risks":               {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.AcceptedRisks = slices.Repeat([]string{"r"}, fsm.MaxSealRisks+1) })},
		"a risk without name":          {shamir, reshare, change(func(p *fsmpb.SealPlan) { p.AcceptedRisks = []string{""} })},
	} {
		t.Run(name, func(t *testing.T) {
			w := sealedWorld(t, tc.from, 0)
			w.refused(errs.InvalidArgument, w.beginCeremony(tc.kind, tc.plan))
			if _, ok := w.view().OpenCeremony(); ok {
				t.Error("there is a ceremony")
			}
		})
	}
	w := sealedWorld(t, shamir, 0)
	for _, life := range []int64{-1, 0, fsm.MinCeremonyLifeMS - 1, fsm.MaxCeremonyLifeMS + 1} {
		c := w.beginCeremony(reshare, people("anna", "ben"))
		c.GetBeginCeremony().LifeMs = life
		w.refused(errs.InvalidArgument, c)
	}
	big := people()
	for i := range 60 {
		big.Groups[0].Holders = append(big.Groups[0].Holders, personHolder(strings.Repeat("p", i+1)))
		big.Groups[0].Holders[i].Recipient = long[:2000]
		big.Groups[0].Holders[i].Key = nil
	}
	w.refused(errs.TooLarge, w.beginCeremony(reshare, big))
	stale := w.beginCeremony(reshare, people("anna", "ben"))
	stale.GetBeginCeremony().BaseManifest = sum32("another seal")
	w.refused(errs.StaleEtag, stale)
}

// TestI34_TheManifestsAreOneLine: of several ceremonies each replaces the one before
// it, who signed can be verified from the genesis alone, and nothing can be left out,
// put in, or changed.
func TestI34_TheManifestsAreOneLine(t *testing.T) {
	w := sealedWorld(t, shamir, 1)
	w.held(reshare, people("anna", "ben"), 1, 2)
	w.held(migrate, keystores("aws", "hsm"), 1)
	w.held(migrate, twoGroups(), 1, 2, 4, 5)
	c := w.view().Cluster()
	all, err := w.view().SealManifests()
	if err != nil || len(all) != 4 || len(c.GetSealManifests()) != 3 {
		t.Fatalf("%d manifests, %v", len(all), err)
	}
	l, err := fsm.VerifyLineage(c.GetGenesis(), c.GetSealManifests())
	if err != nil {
		t.Fatal(err)
	}
	for i, by := range l.Signers {
		if want := []intent.Person{"cust"}; i > 0 && !slices.Equal(by, want) {
			t.Errorf("ceremony %d was signed by %v", i, by)
		}
	}
	if got := manifest.Of(l.Manifests[3]); got != manifest.Of(w.sealNow().GetManifest()) {
		t.Error("the last manifest is not that of the seal")
	}
	for name, change := range map[string]func([]*sealpb.Manifest) []*sealpb.Manifest{
		"one left out":       func(m []*sealpb.Manifest) []*sealpb.Manifest { return append(m[:1:1], m[2:]...) },
		"the first left out": func(m []*sealpb.Manifest) []*sealpb.Manifest { return m[1:] },
		"two exchanged":      func(m []*sealpb.Manifest) []*sealpb.Manifest { m[0], m[1] = m[1], m[0]; return m },
		"one twice":          func(m []*sealpb.Manifest) []*sealpb.Manifest { return append(m, m[2]) },
		"another recipient":  func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].Holders[3].Recipient = "age1eve"; return m },
		"another threshold":  func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].Groups[1].Threshold = 1; return m },
		"another MasterKey":  func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].MasterKeyCommitment[0] ^= 1; return m },
		"another generation": func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].Generation++; return m },
		"another keyspace":   func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].KeyspaceId[0] ^= 1; return m },
		"an init":            func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].Kind = 1; return m },
		"nobody signed":      func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].SignedIntents = nil; return m },
		"signed for another": func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].SignedIntents = m[1].GetSignedIntents(); return m },
		"signed by nobody": func(m []*sealpb.Manifest) []*sealpb.Manifest {
			m[2].SignedIntents[0][len(m[2].GetSignedIntents()[0])-1] ^= 1
			return m
		},
		"a holder out of place": func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].Holders[0].Index = 9; return m },
		"another accepted risk": func(m []*sealpb.Manifest) []*sealpb.Manifest { m[2].AcceptedRisks = nil; return m },
	} {
		t.Run(name, func(t *testing.T) {
			var ms []*sealpb.Manifest
			for _, b := range c.GetSealManifests() {
				m, err := manifest.ParseManifest(b)
				if err != nil {
					t.Fatal(err)
				}
				ms = append(ms, m)
			}
			var raw [][]byte
			for _, m := range change(ms) {
				raw = append(raw, encoded(m))
			}
			if _, err := fsm.VerifyLineage(c.GetGenesis(), raw); errs.Of(err) != errs.StateCorrupt && errs.Of(err) != errs.IntentRefused {
				t.Errorf("it passes: %v", err)
			}
			edited := edit(t, snapshot(t, w.m, testMAC), func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
				items[0].GetCluster().SealManifests = raw
				return items
			})
			err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(edited))
			if lies := strings.Contains(name, "sign") || name == "another threshold"; err == nil && !lies {
				t.Error("a snapshot with it is restored")
			}
		})
	}
	t.Run("of another genesis", func(t *testing.T) {
		other := sealedWorld(t, shamir, 1, func(g *fsmpb.Genesis) { g.KeyspaceId = sum32("other")[:16]; g.SealRecord = firstSeal(g, shamir) })
		if _, err := fsm.VerifyLineage(other.view().Cluster().GetGenesis(), c.GetSealManifests()); err == nil {
			t.Error("it passes")
		}
	})
}

// TestI13_NoCeremonyInASnapshotThatCannotBe.
func TestI13_NoCeremonyInASnapshotThatCannotBe(t *testing.T) {
	w := sealedWorld(t, shamir, 1)
	was := w.held(reshare, people("anna", "ben"), 1, 2)
	stopped := w.begun(reshare, people("anna", "carl"))
	w.ok(cancelSeal(stopped))
	now := w.begun(reshare, people("anna", "dora"))
	w.stagedSeal(now)
	w.ok(w.confirm(now, 1, 2))
	raw := snapshot(t, w.m, testMAC)
	in := func(id []byte, f func(*fsmpb.Ceremony)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			for _, it := range items {
				if it.GetCeremony() != nil && bytes.Equal(it.GetCeremony().GetId(), id) {
					f(it.GetCeremony())
				}
			}
			return items
		}
	}
	cluster := func(f func(*fsmpb.Cluster)) func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		return func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem { f(items[0].GetCluster()); return items }
	}
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(edit(t, raw, in(nil, nil)))); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	for name, change := range map[string]func([]*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem{
		"staged what was not ordered": in(now, func(c *fsmpb.Ceremony) { c.Plan = people("anna", "eve") }),
		"staged nothing":              in(now, func(c *fsmpb.Ceremony) { c.StagedRecord = nil }),
		"staged something else":       in(now, func(c *fsmpb.Ceremony) { c.NewManifest = sum32("x") }),
		"staged and forgotten":        in(now, func(c *fsmpb.Ceremony) { c.State = opened }),
		"of another seal":             in(now, func(c *fsmpb.Ceremony) { c.BaseManifest = sum32("x") }),
		"of nobody in the plan":       in(now, func(c *fsmpb.Ceremony) { c.Confirmed = []uint32{1, 9} }),
		"confirmed twice":             in(now, func(c *fsmpb.Ceremony) { c.Confirmed = []uint32{1, 1} }),
		"ended and open":              in(now, func(c *fsmpb.Ceremony) { c.EndTimeMs = c.GetCreateTimeMs() }),
		"no plan":                     in(now, func(c *fsmpb.Ceremony) { c.Plan = nil }),
		"no kind":                     in(now, func(c *fsmpb.Ceremony) { c.Kind = 0 }),
		"no state":                    in(now, func(c *fsmpb.Ceremony) { c.State = 0 }),
		"no requester":                in(now, func(c *fsmpb.Ceremony) { c.Requester = nil }),
		"no time":                     in(now, func(c *fsmpb.Ceremony) { c.CreateTimeMs = 0 }),
		"of the future":               in(now, func(c *fsmpb.Ceremony) { c.ModIndex = w.index + 1 }),
		"expired before it began":     in(now, func(c *fsmpb.Ceremony) { c.ExpireTimeMs = c.GetCreateTimeMs() }),
		"cancelled and staged":        in(now, func(c *fsmpb.Ceremony) { c.CancelledBy = as("cust") }),
		"two are open":                in(stopped, func(c *fsmpb.Ceremony) { c.State, c.EndTimeMs, c.CancelledBy, c.CancelReason = opened, 0, nil, "" }),
		"cancelled by nobody":         in(stopped, func(c *fsmpb.Ceremony) { c.CancelledBy = nil }),
		"a reason of two lines":       in(stopped, func(c *fsmpb.Ceremony) { c.CancelReason = "a\nb" }),
		"committed by too few":        in(was, func(c *fsmpb.Ceremony) { c.Confirmed = []uint32{1} }),
		"committed and kept":          in(was, func(c *fsmpb.Ceremony) { c.StagedRecord = []byte("x") }),
		"a seal of no ceremony":       cluster(func(c *fsmpb.Cluster) { c.SealRecord = []byte("x") }),
		"the seal of before":          cluster(func(c *fsmpb.Cluster) { c.SealManifests = nil }),
		"the first seal again": cluster(func(c *fsmpb.Cluster) {
			g := new(fsmpb.Genesis)
			if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
				t.Fatal(err)
			}
			c.SealRecord = g.GetSealRecord()
		}),
	} {
		t.Run(name, func(t *testing.T) {
			err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(edit(t, raw, change)))
			if errs.Of(err) != errs.StateCorrupt {
				t.Errorf("restored: %v", err)
			}
		})
	}
}

// TestCeremoniesNeedTheFormat: a cluster with older members has none.
func TestCeremoniesNeedTheFormat(t *testing.T) {
	w := sealedWorld(t, shamir, 0, ofFormat(fsm.FormatCeremonies-1))
	for _, c := range []*fsmpb.Command{w.beginCeremony(reshare, people("anna", "ben")), cancelSeal(sum32("x")[:16])} {
		w.refused(errs.FailedState, c)
	}
	w.ok(raise(fsm.FormatCeremonies))
	w.ok(w.beginCeremony(reshare, people("anna", "ben")))
}

// TestCeremoniesThatEndedGiveWay: nobody fills the registry with them.
func TestCeremoniesThatEndedGiveWay(t *testing.T) {
	w := sealedWorld(t, shamir, 0)
	var first []byte
	for i := range fsm.MaxCeremonies + 3 {
		w.now++
		id := w.ok(w.beginCeremony(reshare, people("anna", "ben"))).GetUid()
		if i == 0 {
			first = id
		}
		w.ok(cancelSeal(id))
	}
	if _, ok := w.view().Ceremony(first); ok || len(w.view().Ceremonies(nil, 1000)) != fsm.MaxCeremonies {
		t.Errorf("%d ceremonies, the first is there: %v", len(w.view().Ceremonies(nil, 1000)), ok)
	}
	restored := fsm.New(fsm.Options{})
	if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	sameState(t, w.m, restored)
}

// TestWhoCancels: one custodian is enough, without a signature.
func TestWhoCancels(t *testing.T) {
	w := sealedWorld(t, shamir, 2)
	id := w.ok(w.consented(w.beginCeremony(reshare, people("anna", "ben")), "dave", "erin")).GetUid()
	c := cancelSeal(id)
	c.GetCancelCeremony().Reason = "two\nlines"
	w.refused(errs.InvalidArgument, c)
	c = cancelSeal(id)
	c.Principal = caller("custodian", "erin")
	w.ok(c)
	if got := w.ceremonyIs(id, cancelled); got.GetCancelledBy().GetName() != "erin" || got.GetCancelReason() != "not today" {
		t.Errorf("cancelled by %v: %q", got.GetCancelledBy(), got.GetCancelReason())
	}
}

// TestI32_ARepairOfTheSealEndsNoCeremony: another record with the same manifest is the
// same seal.
func TestI32_TheSealThatIsReplacedIsTheOneThatWasSeen(t *testing.T) {
	w := sealedWorld(t, shamir, 1)
	w.held(reshare, people("anna", "ben"), 1, 2)
	id := w.begun(reshare, people("anna", "carl"))
	c := w.ceremonyOf(id)
	if want := manifest.Of(w.sealNow().GetManifest()); !bytes.Equal(c.GetBaseManifest(), want[:]) {
		t.Errorf("it replaces %x", c.GetBaseManifest())
	}
	due, ok := w.view().NextDue()
	if !ok || due > c.GetExpireTimeMs() {
		t.Errorf("the next tick is due at %d, %v", due, ok)
	}
	var none *errs.Error
	if err := fsm.Err(w.do(tick())); errors.As(err, &none) {
		t.Error(err)
	}
	w.ceremonyIs(id, opened)
}
