package fsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

const exposed = fsmpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED

// exposable is a world whose MasterKey may be exposed: with CAs that are some, another
// internal secret, two tenants of which one is suspended, two internal keys, two members and
// a join token; so many custodians sign.
func exposable(t tb, custodians int) *world {
	t.Helper()
	w := sealedWorld(t, sealpb.Mode_MODE_SHAMIR, custodians, func(g *fsmpb.Genesis) {
		ivk := g.GetInternalKey().GetUid()
		g.Secrets = []*fsmpb.Secret{
			{Name: "caller-ca", IvkUid: ivk, Blob: blob("born", 2), Public: callerCA},
			{Name: "node-ca", IvkUid: ivk, Blob: blob("born", 1), Public: caCert("nodes")},
			{Name: "other", IvkUid: ivk, Blob: blob("born", 3)},
		}
	})
	furnish(w)
	w.ok(w.addIVK())
	w.ok(w.rewrap("acme"))
	w.ok(changeObject("beta", "", suspend, ""))
	return w
}

// exposing is what a rekey of an exposed MasterKey stages besides its record.
func (w *world) exposing(id []byte) *fsmpb.StagedRekey {
	w.tb.Helper()
	k := w.rewrapped(id)
	n := uint32(len(w.view().Cluster().GetInternalKeys()) + 1)
	k.NewInternalKey = &fsmpb.Version{Number: n, Uid: w.uid(), Blob: blob("ivk", int(n))}
	for _, name := range []string{"caller-ca", "node-ca"} {
		k.NewAuthorities = append(k.GetNewAuthorities(), &fsmpb.Secret{
			Name: name, IvkUid: k.GetNewInternalKey().GetUid(), Blob: blob(name, int(n)), Public: caCert(fmt.Sprint(name, n)),
		})
	}
	return k
}

// stagedExposed begins a rekey of an exposed MasterKey, which cust signs, and stages it.
func (w *world) stagedExposed() []byte {
	w.tb.Helper()
	id := w.begun(exposed, people("anna", "ben"))
	w.ok(w.stageRekey(id, w.newKeySeal(id), w.exposing(id)))
	w.ok(w.confirm(id, 1, 2))
	return id
}

func (w *world) confirmSeal(id []byte) *fsmpb.Command {
	w.tb.Helper()
	c := w.ceremonyOf(id)
	digest := fsm.AuthoritiesDigest(c.GetRekey().GetNewAuthorities())
	return &fsmpb.Command{Principal: caller("custodian", "cust"), Body: &fsmpb.Command_ConfirmSeal{ConfirmSeal: &fsmpb.ConfirmSeal{Id: id, Manifest: c.GetNewManifest(), Authorities: digest[:]}}}
}

// exposedNow commits a rekey of an exposed MasterKey, for which nobody has to sign.
func (w *world) exposedNow() []byte {
	w.tb.Helper()
	id := w.stagedExposed()
	w.ok(w.commitSeal(id))
	return id
}

func endKeys(id []byte) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_EndInternalKeys{EndInternalKeys: &fsmpb.EndInternalKeys{CeremonyId: id}}}
}

func finish(id []byte) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_FinishExposure{FinishExposure: &fsmpb.FinishExposure{CeremonyId: id}}}
}

func (w *world) cleared(id []byte, n int, from uint64) *fsmpb.Command {
	return &fsmpb.Command{Body: &fsmpb.Command_MemberCleared{MemberCleared: &fsmpb.MemberCleared{CeremonyId: id, NodeId: nodeID(n), OldestIndex: from}}}
}

func (w *world) dropCarried() *fsmpb.Command {
	w.tb.Helper()
	record, err := fsm.WithoutExposed(w.view().Cluster())
	if err != nil {
		w.tb.Fatalf("record: %v", err)
	}
	return &fsmpb.Command{Body: &fsmpb.Command_DropCarried{DropCarried: &fsmpb.DropCarried{Base: digestOf(w.view().Cluster().GetSealRecord()), Record: record}}}
}

func (w *world) exposure() fsm.Exposed {
	w.tb.Helper()
	x, ok := w.view().Exposure()
	if !ok {
		w.tb.Fatalf("there is no exposure")
	}
	return x
}

// whole fails unless a machine that is restored from a snapshot is the same.
func (w *world) whole() {
	w.tb.Helper()
	m := fsm.New(fsm.Options{})
	if err := m.Restore(bytes.NewReader(snapshot(w.tb, w.m, nil))); err != nil {
		w.tb.Fatalf("its own snapshot: %v", err)
	}
	if m.View().Digest() != w.view().Digest() {
		w.tb.Fatalf("the restored state is another one")
	}
}

// steps are what is done after the commit of an exposure, one by one.
func (w *world) steps(id []byte) []func() *fsmpb.Command {
	return []func() *fsmpb.Command{
		func() *fsmpb.Command { return w.rewrap("acme") },
		func() *fsmpb.Command { return w.rewrap("beta") },
		func() *fsmpb.Command { return w.putSecret("other") },
		func() *fsmpb.Command { return endKeys(id) },
		func() *fsmpb.Command { return w.cleared(id, 0, w.exposure().ClearIndex) },
		func() *fsmpb.Command { return w.cleared(id, 1, w.exposure().ClearIndex+1) },
		w.dropCarried,
		func() *fsmpb.Command { w.now += dayMS; return tick() },
	}
}

// TestI38_NothingFromBeforeIsLeftWhenItIsDone: before every step the end is refused, and
// after the last one there is nothing that the old MasterKey leads to.
func TestI38_NothingFromBeforeIsLeftWhenItIsDone(t *testing.T) {
	w := exposable(t, 0)
	w.ok(&fsmpb.Command{Body: &fsmpb.Command_NoteBackup{NoteBackup: &fsmpb.NoteBackup{Backup: &fsmpb.Backup{Node: nodeID(1), Index: w.index}}}})
	before := w.view()
	id := w.exposedNow()
	e := w.exposure()
	cl := w.view().Cluster()
	switch {
	case e.TenantsTotal != 2 || e.TenantsLeft != 2 || e.SecretsLeft != 1 || e.KeysLeft != 2 || len(e.MembersLeft) != 2 || e.CarriedLeft != 1 || len(e.Retiring) != 2 || !e.Done.IsZero() || e.ClearIndex != 0:
		t.Fatalf("it begins with %+v", e)
	case cl.GetInternalKeyPrimary() != 3 || e.Exposure.GetInternalKey() != 3 || e.Exposure.GetBeginIndex() != w.index || w.view().Generation() != before.Generation()+1:
		t.Fatalf("the internal key %d is primary; %v", cl.GetInternalKeyPrimary(), e.Exposure)
	case len(e.Exposure.GetBackups()) != 1 || e.Exposure.GetBackups()[0].GetGeneration() != 1:
		t.Fatalf("backups %v", e.Exposure.GetBackups())
	case len(w.view().JoinTokens()) >= len(before.JoinTokens()):
		t.Fatal("the join token that nobody used is there still")
	}
	for i, step := range w.steps(id) {
		w.refused(errs.FailedState, finish(id))
		w.whole()
		if res := w.do(step()); res.GetReason() != "" {
			t.Fatalf("step %d: %v", i, res)
		}
	}
	w.ok(finish(id))
	w.whole()
	w.refused(errs.FailedState, finish(id))
	if e := w.exposure(); e.Done.IsZero() || e.TenantsLeft+e.SecretsLeft+e.KeysLeft+len(e.MembersLeft)+e.CarriedLeft+len(e.Retiring) != 0 || e.TenantsTotal != 2 {
		t.Errorf("it ends with %+v", e)
	}
	// Nothing that was wrapped before is in the state, but in the genesis, which says what
	// there was: under its internal key is nothing else any more.
	var raw []byte
	for _, it := range itemsOf(t, snapshot(w.tb, w.m, nil)) {
		if it.GetCluster() != nil {
			it.GetCluster().Genesis = nil
		}
		raw = append(raw, encoded(it)...)
	}
	for _, v := range before.Cluster().GetInternalKeys() {
		if bytes.Contains(raw, v.GetBlob()) {
			t.Errorf("internal key %d is there as the old MasterKey wrapped it", v.GetNumber())
		}
	}
	for _, v := range w.view().Cluster().GetInternalKeys()[:2] {
		if len(v.GetBlob()) > 0 || v.GetState() != fsmpb.VersionState_VERSION_STATE_DESTROYED {
			t.Errorf("internal key %d is %v", v.GetNumber(), v.GetState())
		}
	}
	for _, tn := range before.Tenants("", 10) {
		if bytes.Contains(raw, tn.GetL2Blob()) {
			t.Errorf("the key of %s is there as it was", tn.GetName())
		}
	}
	for _, name := range []string{"caller-ca", "node-ca", "other"} {
		if s, _ := before.Secret(name); bytes.Contains(raw, s.GetBlob()) {
			t.Errorf("%s is there as it was", name)
		}
	}
	if len(w.sealNow().GetCarriedKeys()) != 0 {
		t.Error("the record carries keys of earlier MasterKeys")
	}
	// What nobody may do again: bring material under what is gone.
	w.refused(errs.FailedState, endKeys(id))
	w.refused(errs.FailedState, w.cleared(id, 0, w.index))
	w.refused(errs.FailedState, w.dropCarried())
}

// TestI38_EveryConditionIsAskedForByItself: with all else done the end is refused, and what
// is left is named.
func TestI38_EveryConditionIsAskedForByItself(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world, id []byte)
		says string
	}{
		"a tenant is left": {func(w *world, id []byte) {
			s := w.steps(id)
			w.ok(s[0]())
			w.ok(s[2]())
			w.ok(s[3]()) // one of the two keys goes
			w.refused(errs.FailedState, endKeys(id))
			w.refused(errs.FailedState, w.cleared(id, 0, w.index))
			w.now += dayMS
			w.ok(tick())
		}, "internal key"},
		"a secret is left": {func(w *world, id []byte) {
			s := w.steps(id)
			w.ok(s[0]())
			w.ok(s[1]())
			w.ok(s[3]())
			w.now += dayMS
			w.ok(tick())
		}, "internal key"},
		"a key is left under which nothing is": {func(w *world, id []byte) {
			for _, s := range w.steps(id)[:3] {
				w.ok(s())
			}
			w.now += dayMS
			w.ok(tick())
		}, "internal key"},
		"a member is left": {func(w *world, id []byte) {
			for _, s := range w.steps(id)[:5] {
				w.ok(s())
			}
			w.refused(errs.FailedState, w.dropCarried())
			w.refused(errs.FailedState, w.cleared(id, 1, w.exposure().ClearIndex-1))
			w.refused(errs.NotFound, w.cleared(id, 7, w.index))
			w.now += dayMS
			w.ok(tick())
		}, "member"},
		"a member that joined since": {func(w *world, id []byte) {
			for _, s := range w.steps(id) {
				w.ok(s())
			}
			w.ok(w.token(5, false))
			w.ok(w.join(5, node(5)))
		}, "member"},
		"carried keys are left": {func(w *world, id []byte) {
			for _, s := range w.steps(id)[:6] {
				w.ok(s())
			}
			w.now += dayMS
			w.ok(tick())
		}, "carries"},
		"a CA has not retired": {func(w *world, id []byte) {
			for _, s := range w.steps(id)[:7] {
				w.ok(s())
			}
			w.now += dayMS - 1
			w.ok(tick())
		}, "CA"},
	} {
		t.Run(name, func(t *testing.T) {
			w := exposable(t, 0)
			id := w.exposedNow()
			c.do(w, id)
			if res := w.refused(errs.FailedState, finish(id)); !strings.Contains(res.GetMessage(), c.says) {
				t.Errorf("it says %q", res.GetMessage())
			}
			w.whole()
		})
	}
	t.Run("a key that people destroyed is not waited for", func(t *testing.T) {
		w := exposable(t, 0)
		id := w.exposedNow()
		s := w.steps(id)
		for _, step := range s[:3] {
			w.ok(step())
		}
		for n := uint32(1); n <= 2; n++ {
			gone := changeVersion("", "", n, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY)
			gone.GetChangeVersion().Now = true
			w.ok(gone)
		}
		w.whole()
		if x := w.exposure(); x.KeysLeft != 0 || x.ClearIndex != 0 {
			t.Fatalf("%+v", x)
		}
		for _, step := range s[3:] {
			w.refused(errs.FailedState, finish(id))
			w.ok(step())
			w.whole()
		}
		w.ok(finish(id))
	})
	t.Run("a member that is removed is not waited for", func(t *testing.T) {
		w := exposable(t, 0)
		id := w.exposedNow()
		for i, s := range w.steps(id) {
			if i == 5 {
				w.ok(remove(1))
				continue
			}
			w.ok(s())
		}
		w.ok(finish(id))
	})
}

// TestI38_AnotherExposureSupersedesTheOneBefore: what was left of it is left of the new one.
func TestI38_AnotherExposureSupersedesTheOneBefore(t *testing.T) {
	w := exposable(t, 0)
	first := w.exposedNow()
	w.ok(w.rewrap("acme"))
	w.ok(w.token(9, false))
	second := w.exposedNow()
	e := w.exposure()
	if e.TenantsLeft != 2 || e.KeysLeft != 3 || e.CarriedLeft != 2 || e.Exposure.GetInternalKey() != 4 || !slices.ContainsFunc(e.Exposure.GetProviderKeys(), func(k *fsmpb.ExposedKey) bool { return k.GetProvider() == "vault" }) {
		t.Fatalf("%+v", e)
	}
	w.refused(errs.FailedState, endKeys(first))
	w.refused(errs.FailedState, finish(first))
	for _, s := range w.steps(second) {
		w.ok(s())
	}
	w.ok(finish(second))
	w.whole()
	if n := len(w.view().Cluster().GetSealConfirmations()); n != 2 {
		t.Errorf("%d confirmations", n)
	}
}

// TestI38_KeysOfLaterMasterKeysAreCarriedOn: a rekey in between changes nothing of what is
// left, and its record proves what was written since the exposure.
func TestI38_KeysOfLaterMasterKeysAreCarriedOn(t *testing.T) {
	w := exposable(t, 0)
	id := w.exposedNow()
	s := w.steps(id)
	for _, step := range s[:6] {
		w.ok(step())
	}
	plain := w.begun(rekeyed, people("anna", "ben"))
	w.ok(w.stageRekey(plain, w.newKeySeal(plain), w.rewrapped(plain)))
	w.ok(w.confirm(plain, 1, 2))
	w.ok(w.commitSeal(plain))
	if w.exposure().CarriedLeft != 1 {
		t.Fatalf("%d carried keys are left", w.exposure().CarriedLeft)
	}
	w.ok(s[6]())
	if k := w.sealNow().GetCarriedKeys(); len(k) != 1 || k[0].GetGeneration() != 2 {
		t.Fatalf("it carries %v", k)
	}
	w.ok(s[7]())
	w.ok(finish(id))
	w.whole()
}

// TestI38_TheSealChangesInNothingButWhatItCarries: whoever drops carried keys drops those
// and changes nothing else.
func TestI38_TheSealChangesInNothingButWhatItCarries(t *testing.T) {
	w := exposable(t, 0)
	id := w.exposedNow()
	for _, s := range w.steps(id)[:6] {
		w.ok(s())
	}
	for name, change := range map[string]func(r *sealpb.Record){
		"a shard":      func(r *sealpb.Record) { r.Shards[0].EncryptedShard = []byte("mine") },
		"the manifest": func(r *sealpb.Record) { r.Manifest.Holders[0].Recipient = "age1pq1eve" },
		"nothing":      func(r *sealpb.Record) { r.CarriedKeys = w.sealNow().GetCarriedKeys() },
	} {
		cmd := w.dropCarried()
		r, err := manifest.Parse(cmd.GetDropCarried().GetRecord())
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		cmd.GetDropCarried().Record = encoded(r)
		if w.refused(errs.InvalidArgument, cmd); t.Failed() {
			t.Fatal(name)
		}
	}
	stale := w.dropCarried()
	stale.GetDropCarried().Base = sum32("another")
	w.refused(errs.Aborted, stale)
	mod := w.view().Cluster().GetModIndex()
	w.ok(w.dropCarried())
	if w.view().Cluster().GetModIndex() != mod {
		t.Error("what people sign of the seal depends on it")
	}
	w.refused(errs.FailedState, w.dropCarried())
}

// TestI39_PeopleConfirmWhichMasterKeyItIs: without their signatures over what was staged it
// is not committed, and what they signed verifies by the genesis alone.
func TestI39_PeopleConfirmWhichMasterKeyItIs(t *testing.T) {
	w := exposable(t, 1)
	id := w.stagedExposed()
	c := w.ceremonyOf(id)
	if !w.view().NeedsConfirmation(c) {
		t.Fatal("nobody is asked to confirm")
	}
	w.refused(errs.Aborted, w.commitSeal(id))
	w.refused(errs.IntentRefused, w.confirmSeal(id))
	for name, change := range map[string]func(c *fsmpb.ConfirmSeal){
		"another MasterKey": func(c *fsmpb.ConfirmSeal) { c.Manifest = sum32("another") },
		"another CA":        func(c *fsmpb.ConfirmSeal) { c.Authorities = sum32("another") },
	} {
		cmd := w.confirmSeal(id)
		change(cmd.GetConfirmSeal())
		if w.refused(errs.InvalidArgument, w.consented(cmd, "cust")); t.Failed() {
			t.Fatal(name)
		}
	}
	// Signatures over the beginning of the ceremony, or over another staging, are none.
	over := w.confirmSeal(id)
	over.GetConfirmSeal().Authorities = sum32("another")
	cmd := w.confirmSeal(id)
	cmd.Intents = w.consented(over, "cust").GetIntents()
	w.refused(errs.IntentRefused, cmd)

	w.ok(w.consented(w.confirmSeal(id), "cust"))
	w.whole()
	w.refused(errs.FailedState, w.consented(w.confirmSeal(id), "cust"))
	w.ok(w.commitSeal(id))
	w.whole()
	cl := w.view().Cluster()
	all := cl.GetSealConfirmations()
	if len(all) != 1 || len(all[0].GetIntents()) != 1 || len(w.ceremonyIs(id, committed).GetConfirmedBy()) != 0 {
		t.Fatalf("confirmations: %v", all)
	}
	if by, err := fsm.Confirmations(cl); err != nil || len(by) != 2 || len(by[1]) != 1 {
		t.Fatalf("it does not verify: %v, %v", by, err)
	}
	m := w.sealNow().GetManifest()
	by, err := fsm.VerifyConfirmation(cl.GetGenesis(), m, all[0])
	if err != nil || len(by) != 1 || by[0] != "cust" {
		t.Fatalf("signed by %v, %v", by, err)
	}
	for name, change := range map[string]func(c *fsmpb.SealConfirmation, m *sealpb.Manifest){
		"another CA": func(c *fsmpb.SealConfirmation, _ *sealpb.Manifest) { c.Certificates[1] = caCert("mine") },
		"another CA, and its digest": func(c *fsmpb.SealConfirmation, _ *sealpb.Manifest) {
			c.Certificates[1] = caCert("mine")
			d := fsm.AuthoritiesDigest([]*fsmpb.Secret{{Name: "caller-ca", Public: c.GetCertificates()[0]}, {Name: "node-ca", Public: c.GetCertificates()[1]}})
			c.Authorities = d[:]
		},
		"another MasterKey": func(_ *fsmpb.SealConfirmation, m *sealpb.Manifest) { m.MasterKeyCommitment = sum32("mine") },
		"another MasterKey, and its digest": func(c *fsmpb.SealConfirmation, m *sealpb.Manifest) {
			m.MasterKeyCommitment = sum32("mine")
			d := manifest.Of(m)
			c.Manifest = d[:]
		},
		"no signature":  func(c *fsmpb.SealConfirmation, _ *sealpb.Manifest) { c.Intents = nil },
		"a CA is gone":  func(c *fsmpb.SealConfirmation, _ *sealpb.Manifest) { c.Certificates = c.GetCertificates()[:1] },
		"a plain rekey": func(_ *fsmpb.SealConfirmation, m *sealpb.Manifest) { m.Kind = sealpb.CeremonyKind_CEREMONY_KIND_REKEY },
	} {
		c, m := proto.CloneOf(all[0]), proto.CloneOf(m)
		change(c, m)
		if _, err := fsm.VerifyConfirmation(cl.GetGenesis(), m, c); err == nil {
			t.Errorf("%s: it verifies", name)
		}
	}
	none := proto.CloneOf(cl)
	none.SealConfirmations = nil
	if _, err := fsm.Confirmations(none); err == nil {
		t.Error("a seal that nobody confirmed verifies")
	}
	raw := encoded(all[0])
	for name, of := range map[string][][]byte{"twice": {raw, raw}, "none": nil, "junk": {[]byte("junk")}, "with more": {append(bytes.Clone(raw), 0xf2, 0x06, 0x00)}} {
		if _, err := fsm.VerifyConfirmations(cl.GetGenesis(), cl.GetSealManifests(), of); err == nil {
			t.Errorf("%s: it verifies", name)
		}
	}
	if by, err := fsm.VerifyConfirmations(cl.GetGenesis(), cl.GetSealManifests(), [][]byte{raw}); err != nil || len(by[1]) != 1 {
		t.Errorf("encoded: %v, %v", by, err)
	}
}

// TestI39_OnlyWhoANodeCanTellConfirms: a node that is started has the genesis only, so the
// signature of a custodian who was bound later is refused, and not found out about then.
func TestI39_OnlyWhoANodeCanTellConfirms(t *testing.T) {
	w := exposable(t, 1)
	w.ok(w.consented(bind(bindingFor("custodian", "fred")), "cust"))
	id := w.stagedExposed()
	if res := w.refused(errs.FailedState, w.consented(w.confirmSeal(id), "fred")); !strings.Contains(res.GetMessage(), "could not verify") {
		t.Errorf("%v", res)
	}
	w.ok(w.consented(w.confirmSeal(id), "dave"))
	w.ok(w.commitSeal(id))
}

// TestI39_NobodyConfirmsWhatNeedsNoConfirmation: a rekey for hygiene, one that is confirmed,
// and one in a cluster whose rules ask nobody.
func TestI39_NobodyConfirmsWhatNeedsNoConfirmation(t *testing.T) {
	w := exposable(t, 0)
	id := w.begun(rekeyed, people("anna", "ben"))
	w.ok(w.stageRekey(id, w.newKeySeal(id), w.rewrapped(id)))
	w.refused(errs.FailedState, w.confirmSeal(id))
	w.ok(cancelSeal(id))
	id = w.stagedExposed()
	w.refused(errs.FailedState, w.confirmSeal(id))
	w.ok(w.commitSeal(id))
	if c := w.view().Cluster().GetSealConfirmations(); len(c) != 1 || len(c[0].GetCertificates()) != 2 {
		t.Errorf("confirmations: %v", c)
	}
}

// TestI38_WhatIsStagedReplacesAllOfIt: an internal key that comes next, and every CA, under
// it; and nothing but this kind brings them.
func TestI38_WhatIsStagedReplacesAllOfIt(t *testing.T) {
	w := exposable(t, 0)
	id := w.begun(exposed, people("anna", "ben"))
	for name, c := range map[string]struct {
		code errs.Code
		do   func(k *fsmpb.StagedRekey)
	}{
		"no internal key":             {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewInternalKey = nil }},
		"another number":              {errs.Aborted, func(k *fsmpb.StagedRekey) { k.NewInternalKey.Number++ }},
		"no uid":                      {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewInternalKey.Uid = nil }},
		"a uid of another":            {errs.Aborted, func(k *fsmpb.StagedRekey) { w.takeUID(k) }},
		"no CAs":                      {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewAuthorities = nil }},
		"one CA":                      {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewAuthorities = k.GetNewAuthorities()[:1] }},
		"in another order":            {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { slices.Reverse(k.GetNewAuthorities()) }},
		"under another key":           {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewAuthorities[0].IvkUid = w.ivk().GetUid() }},
		"no certificate":              {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewAuthorities[0].Public = []byte("no") }},
		"the certificate of before":   {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewAuthorities[0].Public = callerCA }},
		"with those that it replaces": {errs.InvalidArgument, func(k *fsmpb.StagedRekey) { k.NewAuthorities[0].Lineage = [][]byte{callerCA} }},
	} {
		k := w.exposing(id)
		c.do(k)
		if w.refused(c.code, w.stageRekey(id, w.newKeySeal(id), k)); t.Failed() {
			t.Fatal(name)
		}
	}
	w.ok(w.stageRekey(id, w.newKeySeal(id), w.exposing(id)))
	w.whole()
	raw := snapshot(w.tb, w.m, nil)
	for name, change := range map[string]func(c *fsmpb.Ceremony){
		"without CAs":  func(c *fsmpb.Ceremony) { c.Rekey.NewAuthorities = nil },
		"without keys": func(c *fsmpb.Ceremony) { c.Rekey.NewInternalKey = nil },
		"confirmed by junk": func(c *fsmpb.Ceremony) {
			c.ConfirmedBy = []*fsmpb.SignedIntent{{}}
		},
	} {
		items := itemsOf(t, raw)
		for _, it := range items {
			if it.GetCeremony() != nil {
				change(it.GetCeremony())
			}
		}
		var e *errs.Error
		err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(build(t, headerOf(t, raw), items, raw[len(raw)-33:])))
		if !errors.As(err, &e) || !errs.Is(err, errs.StateCorrupt) || !strings.Contains(e.Msg, "ceremony") {
			t.Errorf("a snapshot %s: %v", name, err)
		}
	}
	w.ok(cancelSeal(id))
	id = w.begun(rekeyed, people("anna", "ben"))
	w.refused(errs.InvalidArgument, w.stageRekey(id, w.newKeySeal(id), w.exposing(id)))
}

func (w *world) takeUID(k *fsmpb.StagedRekey) {
	k.NewInternalKey.Uid = w.tenantOf("acme").GetUid()
	for _, s := range k.GetNewAuthorities() {
		s.IvkUid = k.GetNewInternalKey().GetUid()
	}
}

// TestI38_ASnapshotThatSaysMoreThanCanBeIsRefused.
func TestI38_ASnapshotThatSaysMoreThanCanBeIsRefused(t *testing.T) {
	w := exposable(t, 0)
	id := w.exposedNow()
	for _, s := range w.steps(id)[:5] {
		w.ok(s())
	}
	raw := snapshot(w.tb, w.m, nil)
	for name, change := range map[string]func(c *fsmpb.Cluster){
		"done without dropping": func(c *fsmpb.Cluster) { c.Exposure.DoneTimeMs = c.GetExposure().GetBeginTimeMs() },
		"of another ceremony":   func(c *fsmpb.Cluster) { c.Exposure.CeremonyId = sum32("x")[:16] },
		"at another index":      func(c *fsmpb.Cluster) { c.Exposure.BeginIndex-- },
		"cleared twice": func(c *fsmpb.Cluster) {
			c.Exposure.Cleared = append(c.GetExposure().GetCleared(), c.GetExposure().GetCleared()...)
		},
		"before it is clear": func(c *fsmpb.Cluster) { c.Exposure.ClearIndex = 0 },
		"from the future":    func(c *fsmpb.Cluster) { c.Exposure.ClearIndex = w.index + 1 },
		"another first key":  func(c *fsmpb.Cluster) { c.Exposure.InternalKey = 9 },
		"without it":         func(c *fsmpb.Cluster) { c.Exposure = nil },
		"not confirmed":      func(c *fsmpb.Cluster) { c.SealConfirmations = nil },
		"of another CA":      func(c *fsmpb.Cluster) { c.SealConfirmations[0].Certificates[0] = callerCA },
		"a backup of nobody": func(c *fsmpb.Cluster) { c.Backups = []*fsmpb.Backup{{Index: 1, TimeMs: 1, Generation: 1}} },
	} {
		items := itemsOf(t, raw)
		for _, it := range items {
			if it.GetCluster() != nil {
				change(it.GetCluster())
			}
		}
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(build(t, headerOf(t, raw), items, raw[len(raw)-33:]))); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("a snapshot %s: %v", name, err)
		}
	}
}

// TestAnExposureNeedsTheFormatOfAllMembers: a release before it would refuse, so all do.
func TestAnExposureNeedsTheFormatOfAllMembers(t *testing.T) {
	w := sealedWorld(t, sealpb.Mode_MODE_SHAMIR, 0, ofFormat(fsm.FormatSealProof-1))
	w.refused(errs.FailedState, w.beginCeremony(exposed, people("anna", "ben")))
	w.refused(errs.FailedState, finish(make([]byte, 16)))
	w.ok(w.beginCeremony(rekeyed, people("anna", "ben")))
}

// TestBackupsAreRemembered, the last ones, as Apply saw them.
func TestBackupsAreRemembered(t *testing.T) {
	w := exposable(t, 0)
	note := func(node string, index uint64) *fsmpb.Command {
		return &fsmpb.Command{Body: &fsmpb.Command_NoteBackup{NoteBackup: &fsmpb.NoteBackup{Backup: &fsmpb.Backup{Node: node, Index: index, Generation: 77, TimeMs: 5}}}}
	}
	w.refused(errs.InvalidArgument, note(nodeID(9), 1))
	w.refused(errs.InvalidArgument, note(nodeID(0), 0))
	w.refused(errs.InvalidArgument, note(nodeID(0), w.index+1))
	for i := range fsm.MaxBackups + 3 {
		w.ok(note(nodeID(0), uint64(i+1)))
	}
	all := w.view().Cluster().GetBackups()
	if len(all) != fsm.MaxBackups || all[0].GetIndex() != 4 || all[0].GetGeneration() != 1 || all[0].GetTimeMs() != w.now {
		t.Errorf("%d backups, the first is %v", len(all), all[0])
	}
	w.whole()
}
