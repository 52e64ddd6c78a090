package fsm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// sealedBy is a sealed world in which nodes 0 to voters-1 vote, and node 9 does not.
func sealedBy(t tb, m sealpb.Mode, voters int) *world {
	t.Helper()
	w := sealedWorld(t, m, 1)
	for n := 1; n <= voters; n++ {
		who := node(n)
		if n == voters {
			who = node(9)
		}
		who.Voter = n < voters
		w.ok(w.token(n, who.GetVoter()))
		w.ok(w.join(n, who))
	}
	return w
}

// TestI37_WhoMadeASealDoesNotProveIt: a member that lies stages shares that give nothing,
// and says by itself that every holder opened them, with whatever key and name it has.
// It is not committed by any of that, and by the word of another voter it is.
func TestI37_WhoMadeASealDoesNotProveIt(t *testing.T) {
	for name, lie := range map[string]struct {
		code errs.Code
		cmd  func(w *world, id []byte) *fsmpb.Command
	}{
		"in its own name":       {errs.FailedState, func(w *world, id []byte) *fsmpb.Command { return w.prove(0, id, 1, 2, 3) }},
		"as another node":       {errs.Denied, func(w *world, id []byte) *fsmpb.Command { return w.proveAs(0, 1, id, 1, 2) }},
		"as a node without":     {errs.Denied, func(w *world, id []byte) *fsmpb.Command { return w.prove(9, id, 1, 2) }},
		"as nobody":             {errs.Denied, func(w *world, id []byte) *fsmpb.Command { return w.prove(7, id, 1, 2) }},
		"of too few holders":    {errs.InvalidArgument, func(w *world, id []byte) *fsmpb.Command { return w.prove(1, id, 1) }},
		"of one holder twice":   {errs.InvalidArgument, func(w *world, id []byte) *fsmpb.Command { return w.prove(1, id, 1, 1) }},
		"of nobody in the plan": {errs.InvalidArgument, func(w *world, id []byte) *fsmpb.Command { return w.prove(1, id, 1, 2, 4) }},
		"with other holders": {errs.Denied, func(w *world, id []byte) *fsmpb.Command {
			c := w.prove(1, id, 1, 2)
			c.GetProveSeal().Holders = []uint32{1, 3}
			return c
		}},
		"of another seal": {errs.InvalidArgument, func(w *world, id []byte) *fsmpb.Command {
			c := w.prove(1, id, 1, 2)
			c.GetProveSeal().Manifest = sum32("other")
			return c
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := sealedBy(t, shamir, 3)
			id := w.begun(reshare, people("anna", "ben"))
			w.stagedSeal(id) // by node 0; whether it opens anything nobody here sees
			w.ok(w.confirm(id, 1, 2, 3))
			w.unchanged("a seal that its maker alone vouches for", func() {
				w.refused(errs.Aborted, w.commitOnly(id))
				w.refused(lie.code, lie.cmd(w, id))
				w.refused(errs.Aborted, w.commitOnly(id))
			})
			if c := w.ceremonyIs(id, staged); c.GetProof() != nil {
				t.Errorf("proved by %v", c.GetProof())
			}
			w.ok(w.prove(1, id, 1, 3))
			c := w.ceremonyIs(id, staged)
			if c.GetProof().GetNode() != nodeID(1) || len(c.GetConfirmed()) != 2 || c.GetConfirmed()[1] != 3 {
				t.Errorf("proved by %v with %v", c.GetProof(), c.GetConfirmed())
			}
			w.ok(w.confirm(id, 2))     // late, and of no use
			w.ok(w.prove(2, id, 1, 2)) // the same
			if again := w.ceremonyOf(id); !proto.Equal(c, again) {
				t.Errorf("the proof is another one: %v", again)
			}
			restored := fsm.New(fsm.Options{})
			if err := restored.Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
				t.Fatal(err)
			}
			sameState(t, w.m, restored)
			w.ok(w.commitOnly(id))
			w.ceremonyIs(id, committed)
		})
	}
}

// proveAs is what node n says in the name of another one.
func (w *world) proveAs(n, as int, id []byte, holders ...uint32) *fsmpb.Command {
	c := w.prove(n, id, holders...)
	b := c.GetProveSeal()
	b.Node = nodeID(as)
	b.Signature = ed25519.Sign(nodeKey(n), fsm.ProvedMessage([32]byte(w.view().Cluster().GetFingerprint()), nodeID(as), w.ceremonyOf(id), holders))
	return c
}

// TestI37_WhoMadeASealIsNotSomebodyElse: else a member could make one as another, and
// prove it itself.
func TestI37_WhoMadeASealIsNotSomebodyElse(t *testing.T) {
	w := sealedBy(t, shamir, 3)
	id := w.begun(rekeyed, people("anna", "ben"))
	for name, change := range map[string]func(*fsmpb.StageCeremony){
		"no signature": func(b *fsmpb.StageCeremony) { b.Signature = nil },
		"no node":      func(b *fsmpb.StageCeremony) { b.Node = "" },
		"another node": func(b *fsmpb.StageCeremony) { b.Node = nodeID(1) },
		"a node without": func(b *fsmpb.StageCeremony) {
			proto.Reset(b)
			proto.Merge(b, w.stageBy(9, id, w.newKeySeal(id), w.rewrapped(id)).GetStageCeremony())
		},
		"another signature": func(b *fsmpb.StageCeremony) { b.Signature[0] ^= 1 },
		"other key blobs":   func(b *fsmpb.StageCeremony) { b.Rekey.InternalKeys[0].Blob[0] ^= 1 },
		"another handover":  func(b *fsmpb.StageCeremony) { b.Rekey.Handovers[0].Sealed[0] ^= 1 },
	} {
		cmd := w.stageBy(2, id, w.newKeySeal(id), w.rewrapped(id))
		change(cmd.GetStageCeremony())
		if res := w.refused(errs.Denied, cmd); res.GetMessage() == "" {
			t.Error(name)
		}
		w.ceremonyIs(id, opened)
	}
	w.ok(w.stageBy(2, id, w.newKeySeal(id), w.rewrapped(id)))
	if c := w.ceremonyIs(id, staged); c.GetStagedNode() != nodeID(2) {
		t.Errorf("staged by %q", c.GetStagedNode())
	}
	w.refused(errs.FailedState, w.prove(2, id, 1, 2))
	w.ok(w.prove(0, id, 1, 2))
	w.ok(w.commitOnly(id))
}

// TestI37_WhereOneVotesItsWordIsEnough, and where people let in two it is not, whoever
// took the vote of the other one away since.
func TestI37_WhereOneVotesItsWordIsEnough(t *testing.T) {
	w := sealedBy(t, shamir, 1)
	id := w.begun(reshare, people("anna", "ben"))
	w.stagedSeal(id)
	w.ok(w.prove(0, id, 1, 2))
	w.ok(w.commitOnly(id))

	w = sealedBy(t, shamir, 3)
	id = w.begun(reshare, people("anna", "ben"))
	w.stagedSeal(id)
	w.ok(remove(1))
	if w.view().MayProve(w.ceremonyOf(id), nodeID(0)) || !w.view().MayProve(w.ceremonyOf(id), nodeID(2)) || w.view().MayProve(w.ceremonyOf(id), nodeID(1)) {
		t.Error("who may prove is not who is asked")
	}
	w.refused(errs.FailedState, w.prove(0, id, 1, 2))
	w.refused(errs.Denied, w.prove(1, id, 1, 2))
	w.ok(w.prove(2, id, 1, 2))
}

// TestI37_AMemberKeyIsOfP256, as nodes have it.
func TestI37_AMemberKeyIsOfP256(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	w := sealedWorld(t, shamir, 1, func(g *fsmpb.Genesis) { g.FirstMember.PublicKey = spki })
	id := w.begun(reshare, people("anna", "ben"))
	cmd := w.stage(id, w.newSeal(id))
	w.refused(errs.Denied, cmd) // of another key
	sum := sha256.Sum256(fsm.StagedMessage([32]byte(w.view().Cluster().GetFingerprint()), nodeID(0), cmd.GetStageCeremony()))
	if cmd.GetStageCeremony().Signature, err = ecdsa.SignASN1(rand.Reader, key, sum[:]); err != nil {
		t.Fatal(err)
	}
	w.ok(cmd)
}

// TestI37_TheSignatureIsOverAllThatIsStaged, also over what a later release adds.
func TestI37_TheSignatureIsOverAllThatIsStaged(t *testing.T) {
	full := &fsmpb.StageCeremony{}
	fill(full.ProtoReflect(), 0)
	fields := full.ProtoReflect().Descriptor().Fields()
	before := string(fsm.StagedMessage([32]byte{}, "n", full))
	for i := range fields.Len() {
		f := fields.Get(i)
		other := proto.CloneOf(full)
		other.ProtoReflect().Clear(f)
		if same := string(fsm.StagedMessage([32]byte{}, "n", other)) == before; same != (f.Name() == "node" || f.Name() == "signature") {
			t.Errorf("without %s it is the same: %v", f.Name(), same)
		}
	}
	// What is committed later is what the signature was over.
	c := (&fsmpb.Ceremony{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := fields.Get(i).Name()
		kept := map[protoreflect.Name]protoreflect.Name{"record": "staged_record", "node": "staged_node", "signature": "staged_signature"}[name]
		if kept == "" {
			kept = name
		}
		if c.ByName(kept) == nil {
			t.Errorf("%s is staged and not kept: extend stagedDigest and what is compared with it", name)
		}
	}
}

// fill sets every field.
func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			l := m.Mutable(f).List()
			e := l.NewElement()
			fill(e.Message(), depth+1)
			l.Append(e)
		case f.Kind() == protoreflect.MessageKind:
			fill(m.Mutable(f).Message(), depth+1)
		case f.Kind() == protoreflect.BytesKind && !f.IsList():
			m.Set(f, protoreflect.ValueOfBytes([]byte{1}))
		case f.Kind() == protoreflect.StringKind && !f.IsList():
			m.Set(f, protoreflect.ValueOfString("x"))
		}
	}
}

// TestI37_ClustersOfBeforeGoOn: without proofs as long as the format is older, and what
// was staged without one is not committed after it was raised.
func TestI37_ClustersOfBeforeGoOn(t *testing.T) {
	w := sealedWorld(t, shamir, 1, ofFormat(fsm.FormatCeremonies))
	id := w.begun(reshare, people("anna", "ben"))
	signed := w.stage(id, w.newSeal(id))
	signed.GetStageCeremony().Node = nodeID(0)
	w.refused(errs.InvalidArgument, signed)
	w.stagedSeal(id)
	w.refused(errs.FailedState, w.prove(0, id, 1, 2))
	at := w.confirm(id, 1, 2)
	at.GetConfirmHolder().Node = nodeID(0)
	w.refused(errs.InvalidArgument, at)
	w.ok(w.confirm(id, 1, 2))
	w.ok(w.commitOnly(id))

	id = w.begun(reshare, people("carl", "carl")) // as such clusters took it
	w.ok(cancelSeal(id))
	id = w.begun(reshare, people("anna", "carl"))
	w.stagedSeal(id)
	w.ok(w.confirm(id, 1, 2))
	w.ok(raise(fsm.FormatSealProof))
	w.refused(errs.FailedState, w.commitOnly(id))
	w.refused(errs.FailedState, w.prove(0, id, 1, 2))
	if err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(snapshot(t, w.m, nil))); err != nil {
		t.Fatal(err)
	}
	w.ok(cancelSeal(id))
	w.held(reshare, people("anna", "carl"), 1, 2)
}

// TestI37_WhereSharesComeTogether is a note for people: of one node at a time.
func TestI37_WhereSharesComeTogether(t *testing.T) {
	w := sealedBy(t, shamir, 3)
	id := w.begun(reshare, people("anna", "ben", "carl"))
	w.stagedSeal(id)
	for _, step := range []struct {
		node    int
		holder  uint32
		present []uint32
	}{{1, 2, []uint32{2}}, {1, 1, []uint32{1, 2}}, {2, 3, []uint32{3}}} {
		c := w.confirm(id, step.holder)
		c.GetConfirmHolder().Node = nodeID(step.node)
		w.ok(c)
		is := w.ceremonyOf(id)
		if got := is.GetConfirmed(); is.GetGatheredAt() != nodeID(step.node) || len(got) != len(step.present) || got[0] != step.present[0] {
			t.Errorf("at %s there are %v, want %v", is.GetGatheredAt(), got, step.present)
		}
	}
	stranger := w.confirm(id, 1)
	stranger.GetConfirmHolder().Node = nodeID(7)
	w.refused(errs.InvalidArgument, stranger)
}

// TestI37_APlanNamesEachHolderOnce: who signs reads names.
func TestI37_APlanNamesEachHolderOnce(t *testing.T) {
	w := sealedWorld(t, shamir, 1)
	p := people("anna", "ben")
	p.Groups[0].Holders[1].Name = "anna"
	w.refused(errs.InvalidArgument, w.consented(w.beginCeremony(reshare, p), "cust"))
	two := twoGroups()
	two.Groups[1].Holders[0].Name = "s1"
	w.refused(errs.InvalidArgument, w.consented(w.beginCeremony(reshare, two), "cust"))
	w.begun(reshare, people("anna", "ben"))
}

// TestI37_TheProfileOfTheGenesisIsKept, unless people signed that it is not.
func TestI37_TheProfileOfTheGenesisIsKept(t *testing.T) {
	profile := func(g *fsmpb.Genesis) { g.SealProfile = fsm.ProfileFourEyes }
	one := people("anna", "ben") // with the keystore one of them is enough
	two := &fsmpb.SealPlan{Groups: []*fsmpb.SealGroup{{Threshold: 3, Holders: append(people("anna", "ben", "carl").GetGroups()[0].GetHolders(), personHolder("dora"))}}}
	risky := proto.CloneOf(one)
	risky.AcceptedRisks = []string{fsm.RiskNoFourEyes}
	w := sealedWorld(t, shamir, 1, profile)
	if res := w.refused(errs.InvalidArgument, w.consented(w.beginCeremony(reshare, one), "cust")); !strings.Contains(res.GetMessage(), "four-eyes") {
		t.Error(res.GetMessage())
	}
	w.refused(errs.InvalidArgument, w.consented(w.beginCeremony(migrate, keystores("aws")), "cust"))
	unsigned := w.consented(w.beginCeremony(reshare, one), "cust")
	unsigned.GetBeginCeremony().Plan = risky // what was signed has no such risk
	w.refused(errs.IntentRefused, unsigned)
	w.ok(cancelSeal(w.begun(reshare, two)))
	w.ok(cancelSeal(w.begun(reshare, risky)))
	sealedWorld(t, shamir, 1).begun(reshare, one)

	for name, g := range map[string]func(*fsmpb.Genesis){
		"no profile that there is": func(g *fsmpb.Genesis) { g.SealProfile = "six-eyes" },
		"of an older format":       func(g *fsmpb.Genesis) { profile(g); ofFormat(fsm.FormatCeremonies)(g) },
	} {
		t.Run(name, func(t *testing.T) {
			w := emptyWorld(t)
			is := w.genesis()
			g(is)
			addFounders(is)
			w.refused(errs.InvalidArgument, &fsmpb.Command{Body: &fsmpb.Command_Genesis{Genesis: is}})
		})
	}
}

// TestI37_NoProofInASnapshotThatCannotBe.
func TestI37_NoProofInASnapshotThatCannotBe(t *testing.T) {
	w := sealedBy(t, shamir, 3)
	id := w.begun(reshare, people("anna", "ben"))
	w.stagedSeal(id)
	w.ok(w.prove(1, id, 1, 2))
	raw := snapshot(t, w.m, testMAC)
	for name, change := range map[string]func(*fsmpb.Ceremony){
		"made by nobody":           func(c *fsmpb.Ceremony) { c.StagedNode = "" },
		"made without a signature": func(c *fsmpb.Ceremony) { c.StagedSignature = nil },
		"made by no node":          func(c *fsmpb.Ceremony) { c.StagedNode = "eve" },
		"proved by nobody":         func(c *fsmpb.Ceremony) { c.Proof.Node = "" },
		"proved without signature": func(c *fsmpb.Ceremony) { c.Proof.Signature = nil },
		"proved before":            func(c *fsmpb.Ceremony) { c.Proof.TimeMs = 1 },
		"proved by too few":        func(c *fsmpb.Ceremony) { c.Confirmed = []uint32{1} },
		"gathered at no node":      func(c *fsmpb.Ceremony) { c.GatheredAt = "here" },
		"a long signature":         func(c *fsmpb.Ceremony) { c.Proof.Signature = make([]byte, fsm.MaxNodeSignatureBytes+1) },
	} {
		t.Run(name, func(t *testing.T) {
			err := fsm.New(fsm.Options{}).Restore(bytes.NewReader(edit(t, raw, func(items []*fsmpb.SnapshotItem) []*fsmpb.SnapshotItem {
				for _, it := range items {
					if it.GetCeremony() != nil {
						change(it.GetCeremony())
					}
				}
				return items
			})))
			if errs.Of(err) != errs.StateCorrupt {
				t.Errorf("restored: %v", err)
			}
		})
	}
}
