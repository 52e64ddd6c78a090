package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	"github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/invariants"
)

// governed is a world in which sovereign acts need two governors other than the requester.
func governed(t *testing.T) (*world, map[string]ed25519.PrivateKey) {
	t.Helper()
	keys := make(map[string]ed25519.PrivateKey)
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for _, p := range []struct{ name, role string }{{"alice", "governor"}, {"bob", "governor"}, {"carol", "governor"}, {"dave", "custodian"}} {
			rec, key := person(p.name, p.role)
			g.Persons = append(g.Persons, rec)
			keys[p.name] = key
		}
		for _, act := range []intent.Act{intent.ActDestroy, intent.ActResumeAfterUnlink, intent.ActAddMember} {
			g.Rules = append(g.Rules, &fsmpb.IntentRule{Act: uint32(act), Role: "governor", Signatures: 2})
		}
	})
	w.governedBy("alice", "bob", "carol", "gov")
	w.ok(w.createTenant("acme")) // no rule names it
	w.ok(w.createService("acme", "payments"))
	return w, keys
}

// governedBy has the tenants made from now on governed by these persons of the genesis.
func (w *world) governedBy(names ...string) {
	w.governors = nil
	for _, n := range names {
		w.governors = append(w.governors, w.personUID("governor", n))
	}
	slices.SortFunc(w.governors, bytes.Compare)
}

// ordered returns the intent that orders cmd.
func (w *world) ordered(cmd *fsmpb.Command) intent.Intent {
	w.tb.Helper()
	act, req, ok := fsm.SovereignRequest(cmd)
	if !ok {
		w.tb.Fatalf("%T is no sovereign act", cmd.GetBody())
	}
	return w.intentOf(act, req)
}

func (w *world) intentOf(act intent.Act, req *intent.Request) intent.Intent {
	w.ids++
	in := intent.Intent{
		Keyspace: hierarchy.KeyspaceID(w.view().Cluster().GetKeyspaceId()),
		Act:      act, Request: req.Digest(), NotAfter: w.now + hourMS,
	}
	in.Nonce[0], in.Nonce[1] = byte(w.ids), byte(w.ids>>8)|1
	return in
}

func (w *world) signedBy(cmd *fsmpb.Command, in intent.Intent, keys ...ed25519.PrivateKey) *fsmpb.Command {
	w.tb.Helper()
	raw, err := in.Encode()
	if err != nil {
		w.tb.Fatalf("encode intent: %v", err)
	}
	cmd.Intents = nil
	for _, k := range keys {
		s, err := sign.Sign(nil, k, in)
		if err != nil {
			w.tb.Fatalf("sign: %v", err)
		}
		cmd.Intents = append(cmd.Intents, &fsmpb.SignedIntent{Intent: raw, KeyId: s.Key[:], Signature: s.Sig})
	}
	return cmd
}

func TestI8_SovereignActsNeedTheSignaturesOfPeople(t *testing.T) {
	destroy := func() *fsmpb.Command { return destroyNow("acme", "payments") }
	for name, tc := range map[string]func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command{
		"no signature": func(*world, map[string]ed25519.PrivateKey) *fsmpb.Command { return destroy() },
		"one signature": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			return w.signedBy(destroy(), w.ordered(destroy()), k["alice"])
		},
		"one person twice": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			return w.signedBy(destroy(), w.ordered(destroy()), k["alice"], k["alice"])
		},
		"a custodian": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			return w.signedBy(destroy(), w.ordered(destroy()), k["alice"], k["dave"])
		},
		"a stranger": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			_, eve := person("eve", "governor")
			return w.signedBy(destroy(), w.ordered(destroy()), k["alice"], eve)
		},
		"the requester": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			c := w.signedBy(destroy(), w.ordered(destroy()), k["alice"], k["bob"])
			c.Principal = caller("governor", "bob")
			return c
		},
		"for another object": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			return w.signedBy(destroy(), w.ordered(destroyNow("acme", "")), k["alice"], k["bob"])
		},
		"for a destruction with the wait": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			return w.signedBy(destroy(), w.ordered(changeObject("acme", "payments", schedule, "")), k["alice"], k["bob"])
		},
		"for another act": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			in := w.ordered(destroy())
			in.Act = intent.ActAddMember
			return w.signedBy(destroy(), in, k["alice"], k["bob"])
		},
		"in another keyspace": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			in := w.ordered(destroy())
			in.Keyspace[0] ^= 1
			return w.signedBy(destroy(), in, k["alice"], k["bob"])
		},
		"expired": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			in := w.ordered(destroy())
			in.NotAfter = w.now
			return w.signedBy(destroy(), in, k["alice"], k["bob"])
		},
		"object changed since": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			in := w.ordered(destroy())
			in.Preconditions = []intent.Precondition{{Object: "tenants/acme/services/payments", ModIndex: 1}}
			return w.signedBy(destroy(), in, k["alice"], k["bob"])
		},
		"two intents": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			c := w.signedBy(destroy(), w.ordered(destroy()), k["alice"])
			d := w.signedBy(destroy(), w.ordered(destroy()), k["bob"])
			c.Intents = append(c.Intents, d.GetIntents()...)
			return c
		},
		"signature edited": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			c := w.signedBy(destroy(), w.ordered(destroy()), k["alice"], k["bob"])
			c.Intents[1].Signature[3] ^= 1
			return c
		},
		"intent edited": func(w *world, k map[string]ed25519.PrivateKey) *fsmpb.Command {
			c := w.signedBy(destroy(), w.ordered(destroy()), k["alice"], k["bob"])
			for _, i := range c.GetIntents() {
				i.Intent = append([]byte(nil), i.GetIntent()...)
				i.Intent[60] ^= 1 // the expiry
			}
			return c
		},
		"no intent in it": func(*world, map[string]ed25519.PrivateKey) *fsmpb.Command {
			c := destroy()
			c.Intents = []*fsmpb.SignedIntent{{}}
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, keys := governed(t)
			w.refused(errs.IntentRefused, asked("r", tc(w, keys)))
			if got := w.serviceOf("acme", "payments").GetState(); got != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
				t.Fatalf("the service is %v", got)
			}
			// A refused intent is not used up, and the same request can carry better ones.
			c := asked("r", destroy())
			c.Intents = w.signedBy(destroy(), w.ordered(destroy()), keys["alice"], keys["bob"]).GetIntents()
			w.ok(c)
		})
	}
}

func TestI8_AnIntentIsUsedOnce(t *testing.T) {
	w, keys := governed(t)
	w.ok(bind(w.workload("acme", "app")))
	c := changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY)
	in := w.ordered(c)
	in.Preconditions = []intent.Precondition{
		{Object: "cluster", ModIndex: w.view().Cluster().GetModIndex()},
		{Object: "internalKeys/1", ModIndex: w.ivk().GetModIndex()},
		{Object: "internalSecrets/node-ca", ModIndex: 1},
		{Object: "issuers/builtin", ModIndex: 1},
		{Object: "nodes/none", ModIndex: 0},
		{Object: "roleBindings/alice", ModIndex: 1},
		{Object: "tenants/acme", ModIndex: w.tenantOf("acme").GetModIndex()},
		{Object: "tenants/acme/issuers/builtin", ModIndex: 0},
		{Object: "tenants/acme/roleBindings/app", ModIndex: w.bindingOf("acme", "app").GetModIndex()},
		{Object: "tenants/acme/services/payments/resources/none", ModIndex: 0},
		{Object: "tenants/acme/services/payments/versions/1", ModIndex: w.serviceOf("acme", "payments").GetVersions()[0].GetModIndex()},
		{Object: "tenants/acme/versions/2", ModIndex: 0},
		{Object: "tenants/nobody", ModIndex: 0},
	}
	w.ok(w.signedBy(c, in, keys["alice"], keys["bob"]))
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY))
	in.Preconditions = nil
	w.refused(errs.IntentRefused, w.signedBy(c, in, keys["alice"], keys["bob"]))

	w.now += hourMS
	w.ok(tick()) // forgets the nonce
	w.refused(errs.IntentRefused, w.signedBy(c, in, keys["alice"], keys["bob"]))
}

// TestI8_WhatWasSignedIsKnownAfterARestore: nonces that are spent, and who signed for
// what is there.
func TestI8_WhatWasSignedIsKnownAfterARestore(t *testing.T) {
	w, keys := governed(t)
	c := changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY)
	in := w.ordered(c)
	w.ok(w.signedBy(c, in, keys["alice"], keys["bob"]))
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_CANCEL_DESTROY))

	raw, before := snapshot(t, w.m, testMAC), w.view().Digest()
	w.m = fsm.New(fsm.Options{})
	if err := w.m.Restore(bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	if w.view().Digest() != before {
		t.Error("the state is another one after the restore")
	}
	again := w.signedBy(c, in, keys["alice"], keys["bob"])
	if res := w.refused(errs.IntentRefused, again); !strings.Contains(res.GetMessage(), intent.ReasonReplayed.String()) {
		t.Errorf("refused, but not as a replay: %s", res.GetMessage())
	}
	w.ok(w.signedBy(c, w.ordered(c), keys["alice"], keys["bob"]))
}

// TestI2_ANodeThatDoesNotAskForSignaturesIsFoundOut: a release, a leader's own say,
// that does what people have to sign without asking. The others refuse the same
// entry, and from then on its chain is not theirs.
func TestI2_ANodeThatDoesNotAskForSignaturesIsFoundOut(t *testing.T) {
	w, keys := governed(t)
	// Machines of the same state and the same chain, one of which knows no rule: what it
	// does is what a machine does that leaves out the check.
	raw := snapshot(t, w.m, testMAC)
	restored := func(raw []byte) *fsm.Machine {
		m := fsm.New(fsm.Options{})
		if err := m.Restore(bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		return m
	}
	honest := restored(raw)
	liar := restored(edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
		reborn(t, items[0].GetCluster(), func(g *fsmpb.Genesis) { g.Rules = nil })
		items[0].GetCluster().Rules = nil
		return items
	}))
	apply := func(cmd *fsmpb.Command) (said *fsmpb.Result, lied *fsmpb.Result) {
		t.Helper()
		w.now++
		w.index++
		cmd.Format, cmd.TimeUnixMs = fsm.CommandFormat, w.now
		b, err := fsm.EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if said, err = honest.Apply(w.index, w.term, b); err != nil {
			t.Fatal(err)
		}
		if lied, err = liar.Apply(w.index, w.term, b); err != nil {
			t.Fatal(err)
		}
		return said, lied
	}
	same := func() bool {
		_, _, a := honest.Applied()
		_, _, b := liar.Applied()
		return a == b
	}
	state := func(m *fsm.Machine) fsmpb.ObjectState {
		tn, _ := m.View().Tenant("acme")
		s, _ := m.View().ServiceOf(tn, "payments")
		return s.GetState()
	}

	// What needs no signature, and what has them, is the same on both.
	apply(asked("q", changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE)))
	if !same() {
		t.Fatal("they differ before one of them lied")
	}
	said, lied := apply(asked("r", destroyNow("acme", "payments")))
	if said.GetReason() != errs.IntentRefused.String() || state(honest) != fsmpb.ObjectState_OBJECT_STATE_ACTIVE {
		t.Errorf("an honest replica says %v, and the service is %v", said, state(honest))
	}
	if lied.GetReason() != "" || state(liar) != fsmpb.ObjectState_OBJECT_STATE_DESTROYED {
		t.Fatalf("the liar says %v, and the service is %v: this test proves nothing", lied, state(liar))
	}
	if same() {
		t.Error("nobody can tell from the chain that one of them did what the other refused")
	}
	// For good: nothing that both do later makes it right.
	c := destroyNow("acme", "payments")
	apply(asked("s", w.signedBy(c, w.ordered(destroyNow("acme", "payments")), keys["alice"], keys["bob"])))
	if same() {
		t.Error("the chains meet again")
	}
}

// reborn gives a cluster another genesis, as if it had been founded so.
func reborn(t *testing.T, c *fsmpb.Cluster, change func(*fsmpb.Genesis)) {
	t.Helper()
	g := new(fsmpb.Genesis)
	if err := proto.Unmarshal(c.GetGenesis(), g); err != nil {
		t.Fatal(err)
	}
	change(g)
	raw, err := fsm.EncodeGenesis(g)
	if err != nil {
		t.Fatal(err)
	}
	sum := fsm.Fingerprint(raw)
	c.Genesis, c.Fingerprint = raw, sum[:]
}

// TestI8_ASnapshotDoesNotEndWhatPeopleSign: it comes from a leader, which may lie.
func TestI8_ASnapshotDoesNotEndWhatPeopleSign(t *testing.T) {
	w, _ := governed(t)
	raw := snapshot(t, w.m, testMAC)
	for name, change := range map[string]func(*fsmpb.Cluster){
		"no rules":         func(c *fsmpb.Cluster) { c.Rules = nil },
		"one rule less":    func(c *fsmpb.Cluster) { c.Rules = c.GetRules()[1:] },
		"a rule for none":  func(c *fsmpb.Cluster) { c.Rules[0].Signatures = 0 },
		"one person less":  func(c *fsmpb.Cluster) { c.Persons = c.GetPersons()[1:] },
		"another key":      func(c *fsmpb.Cluster) { p, _ := person("eve", "governor"); c.Persons[0].Key = p.GetKey() },
		"another keyspace": nil,
	} {
		bad := edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
			if c := items[0].GetCluster(); change != nil {
				change(c)
			} else {
				reborn(t, c, func(g *fsmpb.Genesis) { g.KeyspaceId[0] ^= 1 })
			}
			return items
		})
		if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(bad)); err == nil {
			t.Errorf("%s: a snapshot is believed that is not what its genesis says", name)
		}
	}
}

func TestActsThatOnlyTakePowerAwayNeedNoSignature(t *testing.T) {
	w, _ := governed(t)
	w.ok(changeObject("acme", "", suspend, "unlink"))
	w.ok(changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE))
	w.refused(errs.IntentRefused, changeObject("acme", "", resume, "unlink"))
}

// Nobody should sign what is only asked: whoever gets the signature could use it.
func TestADryRunNeedsNoSignatureAndJudgesThoseItHas(t *testing.T) {
	w, keys := governed(t)
	dry := func(c *fsmpb.Command) string {
		c.Format = fsm.CommandFormat
		return w.m.DryRun(c).GetReason()
	}
	if got := dry(asked("d", w.token(1, true))); got != "" {
		t.Errorf("without a signature: %s", got)
	}
	c := w.token(2, true)
	if got := dry(asked("e", w.signedBy(c, w.ordered(c), keys["alice"]))); got != errs.IntentRefused.String() {
		t.Errorf("with one signature of two: %q", got)
	}
	w.refused(errs.IntentRefused, w.token(1, true))
}

func TestAVoterNeedsASignedIntent(t *testing.T) {
	w, keys := governed(t)
	w.refused(errs.IntentRefused, w.token(1, true))
	c := w.token(1, true)
	w.ok(w.signedBy(c, w.ordered(c), keys["alice"], keys["carol"]))
	w.ok(w.token(2, false))
	w.ok(w.join(2, node(2)))
	promote := update(2, []string{"voter"}, &fsmpb.Member{Voter: true})
	w.refused(errs.IntentRefused, promote)
	m, _ := w.view().Member(nodeID(2))
	w.ok(w.signedBy(promote, w.intentOf(intent.ActAddMember, fsm.PromotionRequest(m)), keys["alice"], keys["carol"]))
	voter := node(1)
	voter.Voter = true
	w.ok(w.join(1, voter)) // the token was signed for
}

func TestSovereignRequestsDifferWhereTheActsDiffer(t *testing.T) {
	w := acme(t)
	seen := make(map[intent.Digest]string)
	for name, c := range map[string]*fsmpb.Command{
		"tenant":          w.createTenant("a"),
		"another tenant":  w.createTenant("b"),
		"destroy tenant":  changeObject("acme", "", schedule, ""),
		"destroy now":     destroyNow("acme", ""),
		"destroy service": changeObject("acme", "payments", schedule, ""),
		"destroy version": changeVersion("acme", "payments", 1, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY),
		"destroy another": changeVersion("acme", "payments", 2, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY),
		"destroy IVK":     changeVersion("", "", 2, fsmpb.VersionEvent_VERSION_EVENT_SCHEDULE_DESTROY),
		"resume":          changeObject("acme", "", resume, "unlink"),
		"token":           w.token(1, true),
		"another token":   w.token(2, true),
		"a different hour": func() *fsmpb.Command {
			c := w.token(1, true)
			c.GetCreateJoinToken().GetToken().ExpireTimeMs++
			return c
		}(),
	} {
		_, req, ok := fsm.SovereignRequest(c)
		if !ok {
			t.Errorf("%s is no sovereign act", name)
			continue
		}
		if twin, twice := seen[req.Digest()]; twice {
			t.Errorf("%s and %s have one digest", name, twin)
		}
		seen[req.Digest()] = name
	}
	for name, c := range map[string]*fsmpb.Command{
		"resume":  changeObject("acme", "", resume, "operator"),
		"suspend": changeObject("acme", "", suspend, ""),
		"disable": changeVersion("acme", "", 1, fsmpb.VersionEvent_VERSION_EVENT_DISABLE),
		"token":   w.token(1, false),
	} {
		if _, _, ok := fsm.SovereignRequest(c); ok {
			t.Errorf("%s is a sovereign act", name)
		}
	}
}

// TestI8_OnePersonCannotUseUpTheMemoryOfAll: what is remembered of used intents has a
// limit, and at it nobody orders anything that people sign, not even to take the
// role from who filled it.
func TestI8_OnePersonCannotUseUpTheMemoryOfAll(t *testing.T) {
	t.Parallel()
	if invariants.Race {
		return // thousands of signatures, one after the other
	}
	keys := make(map[string]ed25519.PrivateKey)
	w := newWorld(t, func(g *fsmpb.Genesis) {
		for _, name := range []string{"alice", "carol"} {
			rec, key := person(name, "governor")
			g.Persons, keys[name] = append(g.Persons, rec), key
		}
		g.Rules = append(g.Rules, &fsmpb.IntentRule{Act: uint32(intent.ActBindRole), Role: "governor", Signatures: 1, RequesterCounts: true})
	})
	w.governedBy("alice", "carol")
	w.ok(w.createTenant("acme"))
	order := func(who string) *fsmpb.Command {
		cmd := w.setGovernors("acme", w.governors...)
		in := w.ordered(cmd)
		in.NotAfter = w.now + intent.MaxLifetimeMs
		in.Nonce[2], in.Nonce[3] = byte(w.ids>>8), byte(w.ids>>16)
		cmd = w.signedBy(cmd, in, keys[who])
		cmd.Principal = caller("governor", who)
		return cmd
	}
	for range fsm.MaxNoncesPerPerson {
		w.ok(order("carol"))
	}
	w.refused(errs.LimitReached, order("carol"))
	w.ok(order("alice"))

	// The count is that of what is remembered, also after a restore and once it is forgotten.
	r := &world{tb: t, m: fsm.New(fsm.Options{}), now: w.now, index: w.index, term: w.term, ids: w.ids, governors: w.governors}
	if err := r.m.Restore(bytes.NewReader(snapshot(t, w.m, testMAC))); err != nil {
		t.Fatal(err)
	}
	sameState(t, w.m, r.m)
	w = r
	w.refused(errs.LimitReached, order("carol"))
	w.now += intent.MaxLifetimeMs + 1
	for range fsm.MaxNoncesPerPerson/fsm.MaxTickObjects + 1 {
		w.ok(tick())
	}
	w.ok(order("carol"))
}
