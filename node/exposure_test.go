package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	intentsign "github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
)

const exposed = fsmpb.CeremonyKind_CEREMONY_KIND_REKEY_COMPROMISED

// confirmSeal has the custodian sign what the ceremony staged.
func (h *held) confirmSeal(t testing.TB, m *member, id []byte) error {
	t.Helper()
	c, _ := m.machine.View().Ceremony(id)
	digest := fsm.AuthoritiesDigest(c.GetRekey().GetNewAuthorities())
	req := intent.ConfirmSeal{Ceremony: id, Manifest: c.GetNewManifest(), Authorities: digest[:]}.Request()
	r := h.request()
	r.Intents = h.signs(t, m, req)
	return m.do(m.custodian("cust"), gate.ConfirmCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) error {
		_, err := m.ConfirmCeremony(ctx, tok, r, id, c.GetNewManifest(), digest[:])
		return err
	})
}

func (h *held) signs(t testing.TB, m *member, req *intent.Request) []*fsmpb.SignedIntent {
	t.Helper()
	in := intent.Intent{
		Keyspace: hierarchy.KeyspaceID(m.machine.View().Cluster().GetKeyspaceId()), Act: req.Act(), Request: req.Digest(), NotAfter: h.clock.Now().Add(time.Hour).UnixMilli(),
	}
	_, err := rand.Read(in.Nonce[:])
	check(t, err)
	s := must[intent.Signature](t)(intentsign.Sign(rand.Reader, h.cust, in))
	return []*fsmpb.SignedIntent{{Intent: must[[]byte](t)(in.Encode()), KeyId: s.Key[:], Signature: s.Sig}}
}

// exposedWorld is a cluster of three with a MasterKey of shares, tenants in every state, and
// one internal secret besides the CAs. The third member sleeps.
func exposedWorld(t *testing.T) *held {
	t.Helper()
	h := ceremonyWorld(t, 3, shamirPlan(t, 2, 3))
	m, other := h.members[0], h.members[1]
	for _, text := range h.printed[:2] {
		check(t, other.contribute(text))
	}
	h.tenant(m, "idle", "pay")
	h.tenant(m, "gone", "pay")
	check(t, m.changeObject(h.request(), object("idle", ""), suspend, 0))
	check(t, m.changeObject(h.request(), object("gone", ""), destroyO, 0))
	return h
}

// stagedExposed stages a rekey of the exposed MasterKey, and has the new holders open it.
func (h *held) stagedExposed(t *testing.T) []byte {
	t.Helper()
	m := h.members[0]
	id := h.begin(t, m, exposed, group(2, h.person(t, "anna"), h.person(t, "ben"), storeHolder("hsm"))).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	for _, name := range []string{"anna", "ben"} {
		if h.state(t, id, ceremonyStaged).GetProof() != nil {
			break // a keystore was the other holder that it takes
		}
		_, err := h.prove(t, h.members[1], id, name)
		check(t, err)
	}
	return id
}

// exposedNow commits one, after people confirmed it.
func (h *held) exposedNow(t *testing.T) []byte {
	t.Helper()
	id := h.stagedExposed(t)
	check(t, h.confirmSeal(t, h.members[0], id))
	check(t, h.members[0].StepCeremony(t.Context(), h.state(t, id, ceremonyStaged)))
	h.state(t, id, ceremonyCommitted)
	for _, m := range h.members {
		m.Observe(t.Context())
	}
	return id
}

func exposureOf(t *testing.T, m *member) fsm.Exposed {
	t.Helper()
	x, ok := m.machine.View().Exposure()
	if !ok {
		t.Fatal("there is no exposure")
	}
	return x
}

// clearAll says of every member that its disk is clear.
func (h *held) clearAll(t *testing.T) {
	t.Helper()
	x := exposureOf(t, h.members[0])
	for _, id := range x.MembersLeft {
		h.internal(&fsmpb.Command{Body: &fsmpb.Command_MemberCleared{MemberCleared: &fsmpb.MemberCleared{
			CeremonyId: x.Exposure.GetCeremonyId(), NodeId: id, OldestIndex: x.ClearIndex,
		}}})
	}
}

// masterKeyOf opens the MasterKey of a record as whoever has M shares does.
func masterKeyOf(t *testing.T, h *held, r seal.Record) memsec.Secret {
	t.Helper()
	f, _ := h.members[0].pin()
	o := must[*seal.Opening](t)(seal.NewOpening(r, f, h.clock, seal.DefaultPatience))
	t.Cleanup(o.Reset)
	for _, text := range h.printed[:2] {
		_, err := o.Contribute(must[seal.Share](t)(seal.ParseShare(bytes.Clone(text))))
		check(t, err)
	}
	mk, ok := o.Take()
	if !ok {
		t.Fatal("M shares do not open it")
	}
	t.Cleanup(mk.Destroy)
	return mk
}

// TestI19_WhatWasExposedOpensNothingOfTheStateAfter: M of the old shares, the old MasterKey, a
// copy of the registry from before, and every internal key of it.
func TestI19_WhatWasExposedOpensNothingOfTheStateAfter(t *testing.T) {
	h := exposedWorld(t)
	m, other, late := h.members[0], h.members[1], h.members[2]
	tg := target("acme", "pay")
	ct, _, err := m.encrypt(tg, []byte("before"))
	check(t, err)
	oldRecord := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	before := m.machine.View()
	masterKey := masterKeyOf(t, h, oldRecord)
	firstKey := before.Cluster().GetInternalKeys()[0]
	ivk := must[memsec.Secret](t)(node.UnderMasterKey(masterKey, 1, before.Cluster(), firstKey))
	t.Cleanup(ivk.Destroy)
	keyspace := hierarchy.KeyspaceID(before.Cluster().GetKeyspaceId())
	opens := func(v *fsm.View) (what []string) {
		for _, tn := range v.Tenants("", 10) {
			if node.UnderInternalKey(ivk, keyspace, hierarchy.UID(firstKey.GetUid()), tn, nil) {
				what = append(what, tn.GetName())
			}
		}
		for _, name := range []string{node.SecretCallerCA, node.SecretNodeCA} {
			s, _ := v.Secret(name)
			if node.UnderInternalKey(ivk, keyspace, hierarchy.UID(firstKey.GetUid()), nil, s) {
				what = append(what, name)
			}
		}
		return what
	}
	if got := opens(before); len(got) != 5 {
		t.Fatalf("before it opens %v: the test would see nothing", got)
	}

	unwraps := h.calls.unwraps.Load()
	h.exposedNow(t)
	if got := opens(m.machine.View()); len(got) != 3 {
		t.Errorf("after the commit it opens %v; the CAs are others by then, and the tenants are not", got)
	}
	check(t, m.StepExposure(t.Context())) // wraps again
	check(t, m.StepExposure(t.Context())) // ends the internal key
	x := exposureOf(t, m)
	if x.TenantsLeft != 0 || x.SecretsLeft != 0 || x.KeysLeft != 0 || len(x.MembersLeft) != 3 {
		t.Fatalf("%+v", x)
	}
	if h.calls.unwraps.Load() != unwraps {
		t.Error("a customer's keystore was asked")
	}
	h.clearAll(t)
	check(t, m.StepExposure(t.Context())) // drops carried keys
	check(t, m.StepExposure(t.Context())) // CAs retire by time
	if x := exposureOf(t, m); x.CarriedLeft != 0 || len(x.Retiring) != 2 || !x.Done.IsZero() {
		t.Fatalf("%+v", x)
	}
	h.advance(25 * time.Hour)
	h.tick()
	check(t, m.StepExposure(t.Context()))
	if exposureOf(t, m).Done.IsZero() {
		t.Fatal("it is not done")
	}
	check(t, m.StepExposure(t.Context())) // and nothing is left to do

	after := m.machine.View()
	if got := opens(after); len(got) != 0 {
		t.Errorf("the internal key from before opens %v", got)
	}
	for _, v := range after.Cluster().GetInternalKeys() {
		for g := hierarchy.Generation(1); g <= 2; g++ {
			if key, err := node.UnderMasterKey(masterKey, g, after.Cluster(), v); err == nil {
				key.Destroy()
				t.Errorf("the MasterKey from before opens internal key %d", v.GetNumber())
			}
		}
	}
	now := must[seal.Record](t)(seal.ParseRecord(after.Cluster().GetSealRecord()))
	if _, err := now.OpenCarriedKeys(masterKey); len(now.CarriedGenerations()) != 0 || err != nil {
		t.Errorf("the record carries %v", now.CarriedGenerations())
	}

	// Who was there serves on; who slept, and who is started, takes the new holders only.
	for _, x := range []*member{m, other} {
		x.ProveL1(t.Context())
		pt, _, err := x.decrypt(tg, ct)
		if err != nil || string(pt) != "before" {
			t.Errorf("node %d: %q, %v", x.number, pt, err)
		}
	}
	late.Observe(t.Context())
	restarted(t, other)
	for _, x := range []*member{late, other} {
		wants(t, x.contribute(h.printed[0]), errs.ShareRefused)
		_ = x.AskKeystores(t.Context())
		share := h.opens(t, now, "anna")
		st := must[node.SealStatus](t)(x.GetSeal())
		check(t, x.contributeRaw(must[[]byte](t)(seal.SealShare(st.Offer, x.key.Public(), share))))
		share.Destroy()
		pt, _, err := x.decrypt(tg, ct)
		if err != nil || string(pt) != "before" {
			t.Errorf("node %d opened by the new holders: %q, %v", x.number, pt, err)
		}
	}
	// And the next rekey carries what was written since, and nothing from before.
	r, mk, staged := h.nextRekey(t, m)
	if got := r.CarriedGenerations(); len(got) != 1 || got[0] != 2 {
		t.Errorf("the next one carries %v", got)
	}
	check(t, m.TakeNext(r, staged, mk))
}

// nextRekey makes another MasterKey as a rekey does.
func (h *held) nextRekey(t *testing.T, m *member) (seal.Record, memsec.Secret, *fsmpb.StagedRekey) {
	t.Helper()
	r, mk := m.newMasterKey(t)
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	return r, mk, staged
}

// TestI19_AnyLeaderGoesOn: the leader dies before each of its commands, another one takes
// over, does it, and dies as well.
func TestI19_AnyLeaderGoesOn(t *testing.T) {
	h := exposedWorld(t)
	a, b := h.members[0], h.members[1]
	h.exposedNow(t)
	errDeath := errors.New("the process died")
	var seen []string
	for range 12 {
		if !exposureOf(t, a).Done.IsZero() {
			break
		}
		lead, next := h.members[h.leads.Load()], a
		if lead == a {
			next = b
		}
		died := false
		lead.hooks(func(c *fsmpb.Command) error {
			died = true
			body := c.ProtoReflect()
			seen = append(seen, string(body.WhichOneof(body.Descriptor().Oneofs().ByName("body")).Name()))
			return errDeath
		}, nil)
		before := lead.machine.View().Digest()
		if err := lead.StepExposure(t.Context()); died != errors.Is(err, errDeath) {
			t.Fatalf("it died: %v; %v", died, err)
		}
		if died && lead.machine.View().Digest() != before {
			t.Fatal("what was not committed changed something")
		}
		lead.hooks(nil, nil)
		if !died { // it waits for others
			if len(exposureOf(t, a).MembersLeft) > 0 {
				h.clearAll(t)
			} else {
				h.advance(25 * time.Hour)
				h.tick()
			}
			continue
		}
		h.leads.Store(int64(next.number - 1))
		one := 0
		next.hooks(func(*fsmpb.Command) error { // and dies after one
			if one++; one > 1 {
				return errDeath
			}
			return nil
		}, nil)
		if err := next.StepExposure(t.Context()); err != nil && !errors.Is(err, errDeath) {
			t.Fatal(err)
		}
		next.hooks(nil, nil)
	}
	if exposureOf(t, a).Done.IsZero() {
		t.Fatalf("it is not done after %v: %+v", seen, exposureOf(t, a))
	}
	for _, want := range []string{"rewrap_tenant", "end_internal_keys", "drop_carried", "finish_exposure"} {
		if !strings.Contains(strings.Join(seen, " "), want) {
			t.Errorf("no leader died before %s: %v", want, seen)
		}
	}
}

// TestI19_OneTenantThatDoesNotOpenKeepsNoOtherWaiting, and nothing ends while it is left.
func TestI19_OneTenantThatDoesNotOpenKeepsNoOtherWaiting(t *testing.T) {
	h := exposedWorld(t)
	m := h.members[0]
	junk, _ := m.machine.View().Tenant("acme")
	h.internal(&fsmpb.Command{Body: &fsmpb.Command_RewrapTenant{RewrapTenant: &fsmpb.RewrapTenant{
		Tenant: "acme", TenantUid: junk.GetUid(), L2Uid: junk.GetL2Uid(), FromIvkUid: junk.GetL2IvkUid(), ToIvkUid: junk.GetL2IvkUid(), L2Blob: bytes.Repeat([]byte{7}, 200),
	}}})
	h.exposedNow(t)
	for range 3 {
		if err := m.StepExposure(t.Context()); !errs.Is(err, errs.StateCorrupt) || !strings.Contains(err.Error(), "acme") {
			t.Fatalf("it does not say which one: %v", err)
		}
	}
	if x := exposureOf(t, m); x.TenantsLeft != 1 || x.KeysLeft != 1 {
		t.Errorf("%+v", x)
	}
}

// TestI18_PeopleConfirmWhatWasMadeBeforeItCounts: opened by enough of its holders it waits
// for their signatures, and the leader asks nothing of anybody meanwhile.
func TestI18_PeopleConfirmWhatWasMadeBeforeItCounts(t *testing.T) {
	h := exposedWorld(t)
	m := h.members[0]
	id := h.stagedExposed(t)
	c := h.state(t, id, ceremonyStaged)
	if c.GetProof() == nil || !m.machine.View().NeedsConfirmation(c) || m.machine.View().Generation() != 1 {
		t.Fatalf("opened by %v", c.GetConfirmed())
	}
	n := len(m.records("node.ceremony"))
	if m.StepIsMine(c) {
		t.Error("the leader looks again and again, and there is nothing to do")
	}
	check(t, h.confirmSeal(t, m, id))
	c = h.state(t, id, ceremonyStaged)
	if !m.StepIsMine(c) {
		t.Error("the leader does not go on")
	}
	check(t, m.StepCeremony(t.Context(), c))
	h.state(t, id, ceremonyCommitted)
	if len(m.records("node.ceremony")) <= n {
		t.Error("no record of what the leader did")
	}
}

// TestI18_WhatDoesNotOpenIsNotTaken: with an internal key that does not open no tenant would
// be wrapped again, and with CAs whose keys are others nobody would get a certificate.
func TestI18_WhatDoesNotOpenIsNotTaken(t *testing.T) {
	h := exposedWorld(t)
	m := h.members[0]
	have := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	r, mk, _, err := seal.Create(t.Context(), rand.Reader, seal.Ceremony{
		Keyspace: have.Keyspace(), Cluster: have.Cluster(), ID: must[hierarchy.UID](t)(hierarchy.NewUID(rand.Reader)), Generation: 2, Time: h.clock.Now(),
	}, seal.Plan{ProviderKeys: []seal.ProviderKey{{Provider: "sealing", Key: sealKey}}, Kind: seal.KindRekeyCompromised, Previous: have.ManifestDigest()}, m.stores)
	check(t, err)
	defer mk.Destroy()
	r, staged, err := m.StageRekey(t.Context(), r, mk)
	check(t, err)
	for name, change := range map[string]func(s *fsmpb.StagedRekey){
		"the internal key": func(s *fsmpb.StagedRekey) { s.NewInternalKey.Blob[50] ^= 1 },
		"a CA":             func(s *fsmpb.StagedRekey) { s.NewAuthorities[0].Blob[50] ^= 1 },
		"a CA's key":       func(s *fsmpb.StagedRekey) { s.NewAuthorities[1].Public = s.GetNewAuthorities()[0].GetPublic() },
		"a certificate":    func(s *fsmpb.StagedRekey) { s.NewAuthorities[1].Public = []byte("none") },
	} {
		bad := proto.CloneOf(staged)
		change(bad)
		if err := m.TakeNext(r, bad, mk); !errs.Is(err, errs.StateCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if got := m.Parents(); len(got) != 1 {
			t.Fatalf("%s: it has the MasterKeys %v", name, got)
		}
	}
	check(t, m.TakeNext(r, staged, mk))
}

// TestI18_AForgedMasterKeyIsNotBelieved: whoever has the exposed MasterKey, writes the disk of
// a node that sleeps, and has what people signed to begin with, has no signature over a
// MasterKey of his own.
func TestI18_AForgedMasterKeyIsNotBelieved(t *testing.T) {
	for name, change := range map[string]func(c *fsmpb.Cluster){
		"":                     func(*fsmpb.Cluster) {},
		"nobody confirmed it":  func(c *fsmpb.Cluster) { c.SealConfirmations[0].Intents = nil },
		"no confirmation":      func(c *fsmpb.Cluster) { c.SealConfirmations = nil },
		"a signature is wrong": func(c *fsmpb.Cluster) { c.SealConfirmations[0].Intents[0].Signature[0] ^= 1 },
		"another CA": func(c *fsmpb.Cluster) {
			g := &fsmpb.Genesis{}
			if proto.Unmarshal(c.GetGenesis(), g) == nil {
				c.SealConfirmations[0].Certificates[1] = g.GetSecrets()[1].GetPublic()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := exposedWorld(t)
			h.exposedNow(t)
			cl := proto.CloneOf(h.members[0].machine.View().Cluster())
			change(cl)
			err := node.ProveConfirmed(cl)
			if name == "" {
				check(t, err)
				return
			}
			wants(t, err, errs.StateCorrupt)
		})
	}
}

// TestI18_ANodeThatStartsAsksForTheConfirmation: before it takes the seal, and after it was
// opened by it. A state that has all but the signatures of people is not believed.
func TestI18_ANodeThatStartsAsksForTheConfirmation(t *testing.T) {
	h := exposedWorld(t)
	m, other, late := h.members[0], h.members[1], h.members[2]
	before := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	h.exposedNow(t)
	now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	open := func(x *member) {
		t.Helper()
		_ = x.AskKeystores(t.Context())
		share := h.opens(t, now, "anna")
		defer share.Destroy()
		st := must[node.SealStatus](t)(x.GetSeal())
		check(t, x.contributeRaw(must[[]byte](t)(seal.SealShare(st.Offer, x.key.Public(), share))))
	}
	for _, forged := range []bool{true, false} {
		state := signBy(2, forge(t, snapshot(t, m.machine, nil), func(it *fsmpb.SnapshotItem) {
			if c := it.GetCluster(); c != nil && forged {
				c.SealConfirmations[0].Intents = nil
			}
		}), m.machine, m.MAC)
		// One that was there has the seal on its disk.
		stop(other.Node)
		other.boot(t)
		other.restore(t, state)
		other.Observe(t.Context())
		open(other)
		switch err := other.Believed(); {
		case !forged:
			check(t, err)
		case !errs.Is(err, errs.StateCorrupt) || !strings.Contains(err.Error(), "is not one of its cluster"):
			t.Errorf("what nobody confirmed is believed: %v", err)
		}
		// One that slept has that from before.
		stop(late.Node)
		check(t, seal.WriteFile(late.dir+"/record.pb", before))
		late.boot(t)
		late.restore(t, state)
		late.Observe(t.Context())
		onDisk := must[seal.Record](t)(seal.ReadFile(late.dir+"/record.pb", hierarchy.KeyspaceID{}))
		if took := onDisk.Generation() == 2; took == forged {
			t.Errorf("forged: %v; it took the seal: %v", forged, took)
		}
	}
}
