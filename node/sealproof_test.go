package node_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// rogue is what a member does with its own key and place in the cluster that Krypton
// would not: it makes what it likes and proposes it.
type rogue struct {
	*member
	h *held
}

// order proposes as the member, and returns what came of it.
func (r rogue) order(t testing.TB, cmd *fsmpb.Command) error {
	t.Helper()
	cmd.Format, cmd.Principal = fsm.CommandFormat, &fsmpb.Principal{Kind: "node", Name: string(r.id)}
	return fsm.Err(r.h.commit(cmd))
}

func (r rogue) fingerprint() [32]byte {
	return [32]byte(r.machine.View().Cluster().GetFingerprint())
}

// stage stages shares of a key that nobody has, under the commitment of the real one:
// every share is what its hash says, every person can decrypt hers, and together they
// give nothing. change does more harm.
func (r rogue) stage(t testing.TB, c *fsmpb.Ceremony, change func(*fsmpb.StageCeremony)) {
	t.Helper()
	base := must[seal.Record](t)(seal.ParseRecord(r.machine.View().Cluster().GetSealRecord()))
	p := seal.Plan{Kind: seal.Kind(c.GetKind()), Previous: seal.Digest(c.GetBaseManifest())}
	intents, err := fsm.ManifestIntents(c.GetAuthorizedBy())
	check(t, err)
	p.Intents = intents
	for _, k := range c.GetPlan().GetProviderKeys() {
		p.ProviderKeys = append(p.ProviderKeys, seal.ProviderKey{Provider: k.GetProvider(), Key: keystore.KeyRef(k.GetKey())})
	}
	for _, g := range c.GetPlan().GetGroups() {
		to := seal.Group{Name: g.GetName(), Threshold: int(g.GetThreshold())}
		for _, x := range g.GetHolders() {
			one := seal.Holder{Name: x.GetName(), Recipient: x.GetRecipient()}
			if x.GetKey() != nil {
				one.Key = seal.ProviderKey{Provider: x.GetKey().GetProvider(), Key: keystore.KeyRef(x.GetKey().GetKey())}
			}
			to.Holders = append(to.Holders, one)
		}
		p.Groups = append(p.Groups, to)
	}
	garbage := must[memsec.Secret](t)(memsec.Random(rand.Reader, memsec.KeySize, memsec.Cold))
	defer garbage.Destroy()
	made, _, err := seal.Protect(t.Context(), rand.Reader, garbage, seal.Ceremony{
		Keyspace: base.Keyspace(), Cluster: base.Cluster(), ID: hierarchy.UID(c.GetId()), Generation: base.Generation(), Time: r.h.clock.Now(), Fingerprint: r.fingerprint(),
	}, p, r.stores)
	check(t, err)
	pb := made.Proto()
	pb.Manifest.MasterKeyCommitment = base.Manifest().GetMasterKeyCommitment()
	raw, err := proto.Marshal(pb)
	check(t, err)
	b := &fsmpb.StageCeremony{Id: c.GetId(), Record: raw, Node: string(r.id)}
	if change != nil {
		change(b)
	}
	b.Signature = ed25519.Sign(r.key, fsm.StagedMessage(r.fingerprint(), b.GetNode(), b))
	check(t, r.order(t, &fsmpb.Command{Body: &fsmpb.Command_StageCeremony{StageCeremony: b}}))
}

// vouch says for everybody in the plan that they opened what is staged.
func (r rogue) vouch(t testing.TB, id []byte, as *member, key ed25519.PrivateKey) error {
	t.Helper()
	c, _ := r.machine.View().Ceremony(id)
	b := &fsmpb.ProveSeal{Id: id, Manifest: c.GetNewManifest(), Node: string(as.id)}
	n := len(c.GetPlan().GetProviderKeys())
	for _, g := range c.GetPlan().GetGroups() {
		n += len(g.GetHolders())
	}
	for i := range n {
		b.Holders = append(b.Holders, uint32(i+1))
	}
	b.Signature = ed25519.Sign(key, fsm.ProvedMessage(r.fingerprint(), b.GetNode(), c, b.GetHolders()))
	return r.order(t, &fsmpb.Command{Body: &fsmpb.Command_ProveSeal{ProveSeal: b}})
}

func (r rogue) confirmAll(t testing.TB, id []byte) {
	t.Helper()
	c, _ := r.machine.View().Ceremony(id)
	all := []uint32{1, 2}
	if len(c.GetPlan().GetProviderKeys()) > 0 {
		all = all[:1]
	}
	check(t, r.order(t, &fsmpb.Command{Body: &fsmpb.Command_ConfirmHolder{ConfirmHolder: &fsmpb.ConfirmHolder{Id: id, Manifest: c.GetNewManifest(), Holders: all, Node: string(r.id)}}}))
}

func (r rogue) commitNow(t testing.TB, id []byte) error {
	t.Helper()
	c, _ := r.machine.View().Ceremony(id)
	return r.order(t, &fsmpb.Command{Body: &fsmpb.Command_CommitCeremony{CommitCeremony: &fsmpb.CommitCeremony{Id: id, Manifest: c.GetNewManifest()}}})
}

// rogueWorld is a cluster of three, all unsealed, of which the first is not honest.
func rogueWorld(t testing.TB, p node.InitPlan, opts ...option) (*held, rogue) {
	t.Helper()
	h := ceremonyWorld(t, 3, p, opts...)
	for _, m := range h.members[1:] {
		if len(h.printed) == 0 {
			check(t, m.AskKeystores(t.Context()))
		}
		for i := range min(len(h.printed), 2) {
			check(t, m.contribute(h.printed[i]))
		}
	}
	return h, rogue{h.members[0], h}
}

// TestI15_AMemberThatLiesCannotMakeASealThatOpensNothing: it stages garbage under the
// commitment of the MasterKey and says by itself that everybody opened it. That is not
// committed; the first honest member to which the holders give finds out, names the one
// that made it, and the cluster keeps its seal.
func TestI15_AMemberThatLiesCannotMakeASealThatOpensNothing(t *testing.T) {
	h, bad := rogueWorld(t, shamirPlan(t, 2, 3))
	honest := h.members[1]
	before := bytes.Clone(honest.machine.View().Cluster().GetSealRecord())
	c := h.begin(t, honest, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"), h.person(t, "carl")))
	id := c.GetId()
	bad.stage(t, c, nil)
	bad.confirmAll(t, id)
	if err := bad.commitNow(t, id); !errs.Is(err, errs.Aborted) {
		t.Fatalf("its own confirmations commit it: %v", err)
	}
	wants(t, bad.vouch(t, id, bad.member, bad.key), errs.FailedState)
	wants(t, bad.vouch(t, id, honest, bad.key), errs.Denied)
	if _, err := h.prove(t, bad.member, id, "anna"); !errs.Is(err, errs.FailedState) {
		t.Errorf("its maker takes shares of it: %v", err)
	}
	_, err := h.prove(t, honest, id, "anna")
	check(t, err)
	_, err = h.prove(t, honest, id, "ben")
	wants(t, err, errs.StateCorrupt)
	if e := errs.From(err); !strings.Contains(e.Msg+e.Hint, "node-1") {
		t.Errorf("who made it is not said: %v", e)
	}
	if err := bad.commitNow(t, id); !errs.Is(err, errs.Aborted) {
		t.Fatalf("committed: %v", err)
	}
	h.state(t, id, ceremonyStaged)
	if !bytes.Equal(before, honest.machine.View().Cluster().GetSealRecord()) {
		t.Fatal("the seal changed")
	}
	check(t, honest.do(honest.custodian("cust"), gate.CancelCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) error {
		_, err := honest.CancelCeremony(ctx, tok, h.request(), id, "it opens nothing")
		return err
	}))

	// An honest member makes the next one, and the liar is one of those that may prove it.
	id = h.begin(t, honest, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, honest, id, text)
		check(t, err)
	}
	for _, name := range []string{"anna", "ben"} {
		_, err := h.prove(t, h.members[2], id, name)
		check(t, err)
	}
	h.state(t, id, ceremonyCommitted)
}

// TestI15_ADamagedPartOfASealIsFoundByWhoProvesIt: a share that nobody gave, a shard that
// opens for nobody, and in a migration a wrapping.
func TestI15_ADamagedPartOfASealIsFoundByWhoProvesIt(t *testing.T) {
	t.Run("a share that nobody gave", func(t *testing.T) {
		h, bad := rogueWorld(t, shamirPlan(t, 2, 3))
		honest := h.members[1]
		id := h.begin(t, honest, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"), h.person(t, "carl"))).GetId()
		for _, m := range []*member{bad.member, honest} { // it takes what an honest node makes
			m.hooks(func(c *fsmpb.Command) error {
				if b := c.GetStageCeremony(); b != nil {
					r := must[seal.Record](t)(seal.ParseRecord(b.GetRecord())).Proto()
					r.Manifest.Holders[2].ShareHash = bytes.Repeat([]byte{1}, 32)
					b.Record = must[[]byte](t)(proto.Marshal(r))
					b.Signature = ed25519.Sign(m.key, fsm.StagedMessage(bad.fingerprint(), b.GetNode(), b))
				}
				return nil
			}, nil)
		}
		for _, text := range h.printed[:2] {
			_, err := h.consent(t, bad.member, id, text)
			check(t, err)
		}
		h.state(t, id, ceremonyStaged)
		_, err := h.prove(t, honest, id, "anna")
		check(t, err)
		_, err = h.prove(t, honest, id, "ben")
		wants(t, err, errs.StateCorrupt)
		h.state(t, id, ceremonyStaged)
	})
	t.Run("a wrapping", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, bad := rogueWorld(t, autoPlan(t), withClock(clock.System{}))
			honest := h.members[1]
			h.leads.Store(1)
			c := h.begin(t, honest, migrate, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: sealKey}}})
			bad.stage(t, c, nil)
			bad.confirmAll(t, c.GetId())
			end := honest.run(t)
			time.Sleep(time.Minute)
			synctest.Wait()
			h.state(t, c.GetId(), ceremonyStaged)
			if got := honest.Ceremony(c.GetId()).Failure; !strings.Contains(got, "node-1") {
				t.Errorf("who made it is not said: %q", got)
			}
			end()
		})
	})
}

// TestI15_ARekeyWithOtherInternalKeysIsNotProved: all members would stop when it comes
// into force, and no tenant would open again.
func TestI15_ARekeyWithOtherInternalKeysIsNotProved(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, b *fsmpb.StageCeremony){
		"internal key": func(_ *testing.T, b *fsmpb.StageCeremony) { b.Rekey.InternalKeys[0].Blob[40] ^= 1 },
		"carried key": func(t *testing.T, b *fsmpb.StageCeremony) {
			t.Helper()
			r := must[seal.Record](t)(seal.ParseRecord(b.GetRecord())).Proto()
			r.CarriedKeys[0].Sealed[0] ^= 1
			b.Record = must[[]byte](t)(proto.Marshal(r))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, bad := rogueWorld(t, shamirPlan(t, 2, 3))
			honest := h.members[1]
			id := h.begin(t, honest, rekey, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
			bad.hooks(func(c *fsmpb.Command) error {
				if b := c.GetStageCeremony(); b != nil {
					spoil(t, b)
					b.Signature = ed25519.Sign(bad.key, fsm.StagedMessage(bad.fingerprint(), b.GetNode(), b))
				}
				return nil
			}, nil)
			for _, text := range h.printed[:2] {
				_, err := h.consent(t, bad.member, id, text)
				check(t, err)
			}
			_, err := h.prove(t, honest, id, "anna")
			check(t, err)
			_, err = h.prove(t, honest, id, "ben")
			wants(t, err, errs.StateCorrupt)
			h.state(t, id, ceremonyStaged)
			if g := honest.machine.View().Generation(); g != 1 {
				t.Errorf("MasterKey %d is in force", g)
			}
		})
	}
}

// TestI15_SharesOfTheNewSealAreInOneMemory: the node that has them knows them, and no other; they
// expire there, and whoever gives all of them to another one goes on.
func TestI15_SharesOfTheNewSealAreInOneMemory(t *testing.T) {
	h, maker := rogueWorld(t, shamirPlan(t, 2, 3))
	one, other := h.members[1], h.members[2]
	id := h.begin(t, one, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, maker.member, id, text)
		check(t, err)
	}
	_, err := h.prove(t, one, id, "anna")
	check(t, err)
	_, err = h.prove(t, other, id, "ben")
	check(t, err)
	if c := h.state(t, id, ceremonyStaged); c.GetGatheredAt() != string(other.id) {
		t.Errorf("they come together at %s", c.GetGatheredAt())
	}
	if a, b := one.Ceremony(id).Gathered.Enough(), other.Ceremony(id).Gathered.Enough(); a != "1 more of: ben (person)" || b != "1 more of: anna (person)" {
		t.Errorf("they wait for %q and %q", a, b)
	}
	h.advance(seal.DefaultPatience)
	if have := one.Ceremony(id).Gathered.Have; have != 0 {
		t.Errorf("%d shares stay", have)
	}
	for _, name := range []string{"ben", "anna"} {
		_, err := h.prove(t, one, id, name)
		check(t, err)
	}
	h.state(t, id, ceremonyCommitted)
}

// TestI15_AKeystoreThatHangsStopsNobodyElse: also one that does not know when it is given
// up. While it hangs a ceremony is cancelled, or expires, and what was gathered for it goes;
// the next one is held.
func TestI15_AKeystoreThatHangsStopsNobodyElse(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, h *held, id []byte){
		"cancelled": func(t *testing.T, h *held, id []byte) {
			t.Helper()
			m := h.members[0]
			check(t, m.do(m.custodian("cust"), gate.CancelCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) error {
				_, err := m.CancelCeremony(ctx, tok, h.request(), id, "it hangs")
				return err
			}))
		},
		"expired": func(t *testing.T, h *held, _ []byte) {
			t.Helper()
			time.Sleep(25 * time.Hour)
			h.tick()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := ceremonyWorld(t, 1, autoPlan(t), withClock(clock.System{}))
				m := h.members[0]
				check(t, h.sealing.CreateKey(t.Context(), "other"))
				given, answers := make(chan struct{}, 1), make(chan struct{})
				h.faults.set("sealing", func(context.Context, keystore.UnwrapRequest) error {
					select {
					case given <- struct{}{}:
					default:
					}
					<-answers
					return storeError("sealing", keystore.Unavailable)
				})
				stop := m.run(t)
				defer stop()
				id := h.begin(t, m, migrate, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: "other"}}}).GetId()
				<-given
				if m.Ceremony(id).Gathered.Need != 1 {
					t.Error("nothing is gathered")
				}
				end(t, h, id)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if got := m.Ceremony(id).Gathered; got.Need != 0 {
					t.Errorf("what was gathered stays: %+v", got)
				}
				h.faults.set("sealing", nil)
				close(answers)
				next := h.begin(t, m, migrate, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: "other"}}}).GetId()
				time.Sleep(5 * time.Second)
				synctest.Wait()
				h.state(t, next, ceremonyCommitted)
			})
		})
	}
}

// TestCeremoniesWaitForProofs: a cluster with older members would commit what nobody
// combined.
func TestCeremoniesWaitForProofs(t *testing.T) {
	h := ceremonyWorld(t, 1, shamirPlan(t, 2, 3), ofFormat(fsm.FormatCeremonies))
	m := h.members[0]
	err := m.do(m.custodian("cust"), gate.StartCeremony, node.ObjectSeal, func(ctx context.Context, tok gate.Token) error {
		_, err := m.BeginCeremony(ctx, tok, h.request(), reshare, nil, group(2, h.person(t, "anna"), h.person(t, "ben")), 0)
		return err
	})
	wants(t, err, errs.FailedState)
	var e *errs.Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "upgrade") {
		t.Errorf("%v", err)
	}
}

// TestTheProfileOfInitStays: the genesis says it, a node says why a plan breaks it, and
// replicas refuse it whoever proposes it.
func TestTheProfileOfInitStays(t *testing.T) {
	p := shamirPlan(t, 3, 5)
	p.Profile = plan.FourEyes
	h := ceremonyWorld(t, 1, p)
	m := h.members[0]
	g := &fsmpb.Genesis{}
	check(t, proto.Unmarshal(m.machine.View().Cluster().GetGenesis(), g))
	if g.GetSealProfile() != fsm.ProfileFourEyes {
		t.Fatalf("the genesis has the profile %q", g.GetSealProfile())
	}
	one := plan.Plan{Groups: []plan.Group{{Threshold: 2, Holders: []plan.Holder{
		{Name: "anna", Recipient: newHolder(t, "anna").to}, {Name: "hsm", Key: seal.ProviderKey{Provider: "sealing", Key: sealKey}},
	}}}}
	risks := []plan.Risk{plan.Concentration}
	wants(t, m.WeighCeremony(one, risks, ""), errs.InvalidArgument)
	check(t, m.WeighCeremony(one, append(risks, plan.NoFourEyes), ""))
	err := m.do(m.custodian("cust"), gate.StartCeremony, node.ObjectSeal, func(ctx context.Context, tok gate.Token) error {
		base := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord())).ManifestDigest()
		_, err := m.BeginCeremony(ctx, tok, h.request(), reshare, base[:], group(2, h.person(t, "anna"), storeHolder("hsm")), 0)
		return err
	})
	wants(t, err, errs.InvalidArgument)
	loose := ceremonyWorld(t, 1, shamirPlan(t, 2, 3)).members[0]
	check(t, loose.WeighCeremony(one, risks, ""))
}
