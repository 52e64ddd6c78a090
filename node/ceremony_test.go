package node_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/intent"
	intentsign "github.com/openkcm/krypton-cluster/intent/sign"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/manifest"
)

const (
	ceremonyOpen      = fsmpb.CeremonyState_CEREMONY_STATE_OPEN
	ceremonyStaged    = fsmpb.CeremonyState_CEREMONY_STATE_STAGED
	ceremonyCommitted = fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED
	reshare           = fsmpb.CeremonyKind_CEREMONY_KIND_RESHARE
	migrate           = fsmpb.CeremonyKind_CEREMONY_KIND_MIGRATE
)

// shareholder is a person with an age identity.
type shareholder struct {
	name string
	own  *agebox.Identities
	to   string
}

func newHolder(t testing.TB, name string) *shareholder {
	t.Helper()
	own := must[*agebox.Identities](t)(agebox.NewIdentities(start))
	t.Cleanup(own.Destroy)
	public := must[[]agebox.Public](t)(own.Public())
	return &shareholder{name: name, own: own, to: public[0].Recipient}
}

// held is a ceremony in a world: who signs for it, and who gets shares.
type held struct {
	*world
	cust    ed25519.PrivateKey // custodian, who signs
	printed [][]byte           // shares of the first seal
	people  map[string]*shareholder
}

// ceremonyWorld is a cluster of so many members that was founded by that plan, and in
// which one custodian signs for ceremonies.
func ceremonyWorld(t testing.TB, members int, p node.InitPlan, opts ...option) *held {
	t.Helper()
	w, o := newWorld(t, opts...)
	h := &held{world: w, people: map[string]*shareholder{}}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	h.cust = key
	p.Custodians = []node.Person{{Name: "cust", PublicKey: must[[]byte](t)(x509.MarshalPKIXPublicKey(pub))}}
	p.CustodianQuorum = 1
	first := w.add(t, o)
	h.printed = must[*node.InitResult](t)(first.init(p)).ShareTexts
	w.tenant(first, "acme", "pay")
	for range members - 1 {
		m := w.add(t, o)
		m.follow()
		w.join(m)
	}
	return h
}

func (h *held) person(t testing.TB, name string) *fsmpb.SealHolder {
	t.Helper()
	if h.people[name] == nil {
		h.people[name] = newHolder(t, name)
	}
	return &fsmpb.SealHolder{Name: name, Recipient: h.people[name].to}
}

func storeHolder(name string) *fsmpb.SealHolder {
	return &fsmpb.SealHolder{Name: name, Key: &fsmpb.SealKey{Provider: "sealing", Key: sealKey}}
}

func group(threshold uint32, holders ...*fsmpb.SealHolder) *fsmpb.SealPlan {
	return &fsmpb.SealPlan{Groups: []*fsmpb.SealGroup{{Threshold: threshold, Holders: holders}}}
}

// begin begins a ceremony on m that the custodian signs.
func (h *held) begin(t testing.TB, m *member, kind fsmpb.CeremonyKind, plan *fsmpb.SealPlan) *fsmpb.Ceremony {
	t.Helper()
	return must[*fsmpb.Ceremony](t)(h.tryBegin(t, m, kind, plan))
}

func (h *held) tryBegin(t testing.TB, m *member, kind fsmpb.CeremonyKind, plan *fsmpb.SealPlan) (*fsmpb.Ceremony, error) {
	t.Helper()
	base := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord())).ManifestDigest()
	req := fsm.CeremonyRequest(kind, base[:], plan)
	in := intent.Intent{
		Keyspace: hierarchy.KeyspaceID(m.machine.View().Cluster().GetKeyspaceId()), Act: req.Act(), Request: req.Digest(), NotAfter: h.clock.Now().Add(time.Hour).UnixMilli(),
	}
	_, err := rand.Read(in.Nonce[:])
	check(t, err)
	s := must[intent.Signature](t)(intentsign.Sign(rand.Reader, h.cust, in))
	raw := must[[]byte](t)(in.Encode())
	r := h.request()
	r.Intents = []*fsmpb.SignedIntent{{Intent: raw, KeyId: s.Key[:], Signature: s.Sig}}
	var c *fsmpb.Ceremony
	err = m.do(m.custodian("cust"), gate.StartCeremony, node.ObjectSeal, func(ctx context.Context, tok gate.Token) (err error) {
		c, err = m.BeginCeremony(ctx, tok, r, kind, base[:], plan, 0)
		return err
	})
	return c, err
}

// give brings a share to the ceremony on m, as a custodian's command line does.
func (h *held) give(t testing.TB, m *member, id []byte, share seal.Share) (*fsmpb.Ceremony, error) {
	t.Helper()
	st := must[node.SealStatus](t)(m.GetSeal())
	return h.send(t, m, id, must[[]byte](t)(seal.SealShareForCeremony(st.Offer, m.key.Public(), share, hierarchy.UID(id))))
}

// send brings what was encrypted to m.
func (h *held) send(t testing.TB, m *member, id, sealed []byte) (*fsmpb.Ceremony, error) {
	t.Helper()
	var c *fsmpb.Ceremony
	err := m.do(m.custodian("cust"), gate.ContributeToCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) (err error) {
		c, err = m.ContributeToCeremony(ctx, tok, h.request(), id, sealed)
		return err
	})
	return c, err
}

// consent gives a printed share.
func (h *held) consent(t testing.TB, m *member, id []byte, text []byte) (*fsmpb.Ceremony, error) {
	t.Helper()
	share := must[seal.Share](t)(seal.ParseShare(bytes.Clone(text)))
	defer share.Destroy()
	return h.give(t, m, id, share)
}

// opens has a person decrypt the shard of a record.
func (h *held) opens(t testing.TB, r seal.Record, name string) seal.Share {
	t.Helper()
	for i, holder := range r.Plan().Holders() {
		if holder.Name != name {
			continue
		}
		plain := must2(t, h.people[name].own, must[[]byte](t)(r.Shard(i+1)))
		return plain
	}
	t.Fatalf("%s holds nothing", name)
	return seal.Share{}
}

func must2(t testing.TB, own *agebox.Identities, shard []byte) seal.Share {
	t.Helper()
	plain, err := own.Decrypt(shard, seal.ShardSize)
	check(t, err)
	defer plain.Destroy()
	return must[seal.Share](t)(seal.ReadShard(plain))
}

// prove has a person open the staged record.
func (h *held) prove(t testing.TB, m *member, id []byte, name string) (*fsmpb.Ceremony, error) {
	t.Helper()
	c, _ := m.machine.View().Ceremony(id)
	share := h.opens(t, must[seal.Record](t)(seal.ParseRecord(c.GetStagedRecord())), name)
	defer share.Destroy()
	return h.give(t, m, id, share)
}

func (h *held) state(t testing.TB, id []byte, want fsmpb.CeremonyState) *fsmpb.Ceremony {
	t.Helper()
	c, ok := h.members[0].machine.View().Ceremony(id)
	if !ok || c.GetState() != want {
		t.Fatalf("the ceremony is %v, want %v", c.GetState(), want)
	}
	return c
}

// restarted boots a member anew, as a start of its process does, with its log.
func restarted(t testing.TB, m *member) {
	t.Helper()
	stop(m.Node)
	m.boot(t)
	m.follow()
	m.Observe(t.Context())
}

// TestI13_AReshareGivesTheSameMasterKeyToOthers: people with printed shares consent,
// the new holders prove themselves, every node takes the new seal and goes on, and a
// node that starts again is opened by the new holders, whatever state it slept in.
func TestI13_AReshareGivesTheSameMasterKeyToOthers(t *testing.T) {
	h := ceremonyWorld(t, 2, shamirPlan(t, 2, 3))
	m, other := h.members[0], h.members[1]
	for _, text := range h.printed[:2] {
		check(t, other.contribute(text))
	}
	ct, _, err := m.encrypt(target("acme", "pay"), []byte("before"))
	check(t, err)
	before := bytes.Clone(m.machine.View().Cluster().GetSealRecord())

	c := h.begin(t, m, reshare, group(3, h.person(t, "anna"), h.person(t, "ben"), h.person(t, "carl"), storeHolder("hsm")))
	id := c.GetId()
	_, err = h.consent(t, other, id, h.printed[0])
	check(t, err)
	if p := other.Ceremony(id); p.Gathered.Have != 1 || p.Gathered.Need != 2 {
		t.Errorf("after one share: %+v", p)
	}
	h.state(t, id, ceremonyOpen)
	_, err = h.consent(t, other, id, h.printed[2])
	check(t, err)
	staged := h.state(t, id, ceremonyStaged)
	if staged.GetStagedNode() != string(other.id) || len(staged.GetConfirmed()) != 0 {
		t.Errorf("made by %s, opened by %v", staged.GetStagedNode(), staged.GetConfirmed())
	}
	if !bytes.Equal(before, m.machine.View().Cluster().GetSealRecord()) {
		t.Error("the seal changed before it was committed")
	}
	_, err = h.prove(t, m, id, "anna")
	check(t, err)
	staged = h.state(t, id, ceremonyStaged)
	if !slices.Equal(staged.GetConfirmed(), []uint32{1, 4}) || staged.GetGatheredAt() != string(m.id) {
		t.Errorf("%v are at %s, want anna and the keystore at %s", staged.GetConfirmed(), staged.GetGatheredAt(), m.id)
	}
	if p := m.Ceremony(id).Gathered; p.Have != 2 || p.Need != 3 || p.Enough() != "1 more of: ben (person), carl (person)" {
		t.Errorf("the node that has them says %q", p.Enough())
	}
	_, err = h.prove(t, other, id, "carl")
	wants(t, err, errs.FailedState) // it made the seal
	_, err = h.prove(t, m, id, "carl")
	check(t, err)
	if c := h.state(t, id, ceremonyCommitted); c.GetProof().GetNode() != string(m.id) || !slices.Equal(c.GetConfirmed(), []uint32{1, 3, 4}) {
		t.Errorf("proved by %s with %v", c.GetProof().GetNode(), c.GetConfirmed())
	}

	for _, n := range h.members {
		n.Observe(t.Context())
		if !n.Unsealed() {
			t.Errorf("node %d was sealed by a reshare", n.number)
		}
		if got := must[node.SealStatus](t)(n.GetSeal()); got.Shares != 4 || got.Need != 3 {
			t.Errorf("node %d has the old seal: %+v", n.number, got)
		}
	}
	pt, _, err := m.decrypt(target("acme", "pay"), ct)
	if err != nil || string(pt) != "before" {
		t.Errorf("after the ceremony: %q, %v", pt, err)
	}

	restarted(t, m)
	if st := must[node.SealStatus](t)(m.GetSeal()); st.Shares != 4 || st.Unsealed {
		t.Fatalf("after a restart: %+v", st)
	}
	wants(t, m.contribute(h.printed[0]), errs.ShareRefused) // of the ceremony before
	now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	_ = m.AskKeystores(t.Context())
	for _, name := range []string{"ben", "carl"} {
		share := h.opens(t, now, name)
		st := must[node.SealStatus](t)(m.GetSeal())
		check(t, m.contributeRaw(must[[]byte](t)(seal.SealShare(st.Offer, m.key.Public(), share))))
		share.Destroy()
	}
	if !m.Unsealed() {
		t.Fatal("the new holders do not open it")
	}
	pt, _, err = m.decrypt(target("acme", "pay"), ct)
	if err != nil || string(pt) != "before" {
		t.Errorf("opened by the new holders: %q, %v", pt, err)
	}
}

// TestI13_AMigrationNeedsNobodyWhereKeystoresOpenBoth: the leader does it by itself
// after custodians signed, whoever was asked to begin it.
func TestI13_AMigrationNeedsNobodyWhereKeystoresOpenBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := ceremonyWorld(t, 2, autoPlan(t), withClock(clock.System{}))
		check(t, h.sealing.CreateKey(t.Context(), "other"))
		check(t, h.members[1].AskKeystores(t.Context()))
		end, end2 := h.members[0].run(t), h.members[1].run(t)
		c := h.begin(t, h.members[1], migrate, &fsmpb.SealPlan{ProviderKeys: []*fsmpb.SealKey{{Provider: "sealing", Key: "other"}}})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		done := h.state(t, c.GetId(), ceremonyCommitted)
		if done.GetStagedNode() != string(h.members[0].id) || done.GetProof().GetNode() != string(h.members[1].id) {
			t.Errorf("made by %s, proved by %s", done.GetStagedNode(), done.GetProof().GetNode())
		}
		for _, m := range h.members {
			if len(m.records("node.ceremony")) == 0 {
				t.Error("no record of what a node did by itself")
			}
		}
		end()
		end2()
		check(t, h.sealing.Disable(t.Context(), sealKey)) // the old one opens nothing any more
		restarted(t, h.members[0])
		check(t, h.members[0].AskKeystores(t.Context()))
		if !h.members[0].Unsealed() {
			t.Error("the new keystore does not open it")
		}
	})
}

// TestACeremonyGoesOnAfterADeathAtEveryStep: the node that held it dies before each of
// its proposals and after it. What it had gathered is gone, the seal is the old one,
// another node goes on, and the same holders finish it.
func TestACeremonyGoesOnAfterADeathAtEveryStep(t *testing.T) {
	for name, kind := range map[string]fsmpb.CeremonyKind{"reshare": reshare, "rekey": rekey} {
		t.Run(name, func(t *testing.T) { goesOnAfterADeath(t, kind) })
	}
}

func goesOnAfterADeath(t *testing.T, kind fsmpb.CeremonyKind) {
	t.Helper()
	type step struct {
		name string
		is   func(*fsmpb.Command) bool
	}
	for _, s := range []step{
		{"stage", func(c *fsmpb.Command) bool { return c.GetStageCeremony() != nil }},
		{"confirm", func(c *fsmpb.Command) bool { return c.GetConfirmHolder() != nil }},
		{"prove", func(c *fsmpb.Command) bool { return c.GetProveSeal() != nil }},
		{"commit", func(c *fsmpb.Command) bool { return c.GetCommitCeremony() != nil }},
	} {
		for _, after := range []bool{false, true} {
			name := "before " + s.name
			if after {
				name = "after " + s.name
			}
			t.Run(name, func(t *testing.T) {
				h := ceremonyWorld(t, 3, shamirPlan(t, 2, 3))
				m, other, third := h.members[0], h.members[1], h.members[2]
				for _, x := range []*member{other, third} {
					for _, text := range h.printed[:2] {
						check(t, x.contribute(text))
					}
				}
				id := h.begin(t, m, kind, group(3, h.person(t, "anna"), h.person(t, "ben"), storeHolder("hsm"))).GetId()
				errDeath := errors.New("the process died")
				dead := false
				die := func(c *fsmpb.Command) error {
					if dead || s.is(c) {
						dead = true
						return errDeath
					}
					return nil
				}
				dies := other // who is given the shares of the new seal
				if s.name == "stage" {
					dies = m
				}
				if after {
					dies.hooks(nil, die)
				} else {
					dies.hooks(die, nil)
				}
				var died error
				for _, text := range h.printed[:2] {
					if _, err := h.consent(t, m, id, text); err != nil {
						died = err
					}
				}
				for _, name := range []string{"anna", "ben"} {
					if died == nil {
						_, died = h.prove(t, other, id, name)
					}
				}
				if !errors.Is(died, errDeath) {
					t.Fatalf("it did not die: %v", died)
				}
				stop(dies.Node)
				if third.Ceremony(id).Gathered.Have != 0 {
					t.Error("the third node knows of shares that it was not given")
				}
				c, _ := third.machine.View().Ceremony(id)
				if changed := len(third.machine.View().Cluster().GetSealManifests()) > 0; changed != (c.GetState() == ceremonyCommitted) {
					t.Errorf("the ceremony is %v, and the seal changed: %v", c.GetState(), changed)
				}
				if c.GetState() == ceremonyOpen { // people give again, to another node
					for _, text := range h.printed[1:] {
						_, err := h.consent(t, other, id, text)
						check(t, err)
					}
				}
				h.advance(time.Minute) // nobody waits longer for the one that died
				for _, name := range []string{"anna", "ben"} {
					if c, _ := third.machine.View().Ceremony(id); c.GetState() == ceremonyStaged {
						_, err := h.prove(t, third, id, name)
						check(t, err)
					}
				}
				h.state(t, id, ceremonyCommitted)
				third.Observe(t.Context())
				check(t, third.ServingErr())
			})
		}
	}
}

// TestACeremonyWaitsForAKeystoreThatIsDown: of the present seal, of the new one when it
// is made, and when it is opened.
func TestACeremonyWaitsForAKeystoreThatIsDown(t *testing.T) {
	h := ceremonyWorld(t, 1, shamirPlan(t, 2, 3))
	m := h.members[0]
	id := h.begin(t, m, reshare, group(2, h.person(t, "anna"), storeHolder("hsm"))).GetId()
	check(t, h.sealing.Disable(t.Context(), sealKey))
	_, err := h.consent(t, m, id, h.printed[0])
	check(t, err)
	if _, err := h.consent(t, m, id, h.printed[1]); err == nil {
		t.Fatal("a seal was made without a keystore that has to hold a part")
	}
	h.state(t, id, ceremonyOpen)
	check(t, h.sealing.Enable(t.Context(), sealKey))
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	h.state(t, id, ceremonyStaged)
	_, err = h.prove(t, m, id, "anna")
	check(t, err)
	h.state(t, id, ceremonyCommitted)

	// Now the keystore is one of two of whom both have to consent.
	next := h.begin(t, m, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	check(t, h.sealing.Disable(t.Context(), sealKey))
	now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))
	share := h.opens(t, now, "anna")
	defer share.Destroy()
	_, err = h.give(t, m, next, share)
	check(t, err) // it counts, and waits
	if p := m.Ceremony(next); p.Gathered.Have != 1 || p.Failure == "" {
		t.Errorf("it waits without a reason: %+v", p)
	}
	check(t, h.sealing.Enable(t.Context(), sealKey))
	again := h.opens(t, now, "anna")
	defer again.Destroy()
	_, err = h.give(t, m, next, again) // the same once more: go on
	check(t, err)
	h.state(t, next, ceremonyStaged)
}

// TestPeopleConsentInPlaceOfKeystoresThatAreDown: the leader, which asks the keystores
// again and again meanwhile, does not lose what a person brought.
func TestPeopleConsentInPlaceOfKeystoresThatAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := ceremonyWorld(t, 1, shamirPlan(t, 2, 3), withClock(clock.System{}))
		m := h.members[0]
		id := h.begin(t, m, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"), storeHolder("hsm"), storeHolder("hsm-2"))).GetId()
		for _, text := range h.printed[:2] {
			_, err := h.consent(t, m, id, text)
			check(t, err)
		}
		h.state(t, id, ceremonyCommitted)
		now := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord()))

		check(t, h.sealing.Disable(t.Context(), sealKey))
		end := m.run(t)
		defer end()
		next := h.begin(t, m, reshare, group(2, h.person(t, "carl"), h.person(t, "dora"))).GetId()
		for _, name := range []string{"anna", "ben"} {
			share := h.opens(t, now, name)
			_, err := h.give(t, m, next, share)
			share.Destroy()
			check(t, err)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
		}
		h.state(t, next, ceremonyStaged)
	})
}

// TestAShareThatWasGivenToUnsealIsNoConsent: the start key is the same until the node
// starts again, so who recorded shares on their way could bring them once more.
func TestAShareThatWasGivenToUnsealIsNoConsent(t *testing.T) {
	h := ceremonyWorld(t, 1, shamirPlan(t, 2, 3))
	m := h.members[0]
	id := h.begin(t, m, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	st := must[node.SealStatus](t)(m.GetSeal())
	for _, text := range h.printed[:2] {
		share := must[seal.Share](t)(seal.ParseShare(bytes.Clone(text)))
		_, err := h.send(t, m, id, must[[]byte](t)(seal.SealShare(st.Offer, m.key.Public(), share)))
		share.Destroy()
		wants(t, err, errs.ShareRefused)
	}
	if have := m.Ceremony(id).Gathered.Have; have != 0 {
		t.Errorf("%d shares count", have)
	}
	h.state(t, id, ceremonyOpen)
}

// TestSharesOfACeremonyAreRefusedByName.
func TestSharesOfACeremonyAreRefusedByName(t *testing.T) {
	h := ceremonyWorld(t, 1, shamirPlan(t, 2, 3))
	m := h.members[0]
	id := h.begin(t, m, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	h.state(t, id, ceremonyStaged)
	_, err := h.consent(t, m, id, h.printed[2]) // of the old seal, when the new one is to be opened
	wants(t, err, errs.ShareRefused)
	st := must[node.SealStatus](t)(m.GetSeal())
	err = m.do(m.custodian("cust"), gate.ContributeToCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) error {
		_, err := m.ContributeToCeremony(ctx, tok, h.request(), id, make([]byte, seal.SealedShareSize))
		return err
	})
	wants(t, err, errs.ShareRefused)
	if st.Offer.Public == nil {
		t.Error("no start key")
	}
	check(t, m.do(m.custodian("cust"), gate.CancelCeremony, node.CeremonyName(id), func(ctx context.Context, tok gate.Token) error {
		_, err := m.CancelCeremony(ctx, tok, h.request(), id, "enough")
		return err
	}))
	_, err = h.consent(t, m, id, h.printed[2])
	wants(t, err, errs.FailedState)
	if _, open := m.machine.View().OpenCeremony(); open {
		t.Error("it is still open")
	}
}

// TestASealedNodeTakesANewSealOnlyIfPeopleOfTheGenesisSigned: it reads bytes from a
// disk. One whose registry is behind does not take the old seal back.
func TestASealedNodeTakesANewSealOnlyIfPeopleOfTheGenesisSigned(t *testing.T) {
	h := ceremonyWorld(t, 3, shamirPlan(t, 2, 3))
	m, asleep, awake := h.members[0], h.members[1], h.members[2]
	for _, text := range h.printed[:2] {
		check(t, awake.contribute(text))
	}
	stop(asleep.Node) // with the first seal on its disk
	asleep.behind.Store(true)
	id := h.begin(t, m, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	for _, text := range h.printed[:2] {
		_, err := h.consent(t, m, id, text)
		check(t, err)
	}
	for _, name := range []string{"anna", "ben"} {
		_, err := h.prove(t, awake, id, name)
		check(t, err)
	}
	h.state(t, id, ceremonyCommitted)
	want := must[seal.Record](t)(seal.ParseRecord(m.machine.View().Cluster().GetSealRecord())).ManifestDigest()
	restarted(t, asleep)
	got := must[seal.Record](t)(seal.ReadFile(asleep.dir+"/record.pb", hierarchy.KeyspaceID{}))
	if got.ManifestDigest() != want {
		t.Fatal("a sealed node did not take a seal that people of the genesis signed for")
	}
	// Its registry begins anew, and has the first seal until it has replayed: nothing is
	// taken back.
	stop(asleep.Node)
	asleep.boot(t)
	raw := h.commands[0]
	if _, err := asleep.machine.Apply(1, h.term, raw); err != nil {
		t.Fatal(err)
	}
	asleep.Observe(t.Context())
	if got := must[seal.Record](t)(seal.ReadFile(asleep.dir+"/record.pb", hierarchy.KeyspaceID{})); got.ManifestDigest() != want {
		t.Error("a registry that is behind took the old seal back")
	}
	if want == (manifest.Digest{}) {
		t.Error("no digest")
	}
}

// TestI13_WhoStillGathersForACeremonyThatEndedGathersNothing: a share that was on its way when
// it was cancelled would stay in memory, where nobody looks for it any more.
func TestI13_WhoStillGathersForACeremonyThatEndedGathersNothing(t *testing.T) {
	h := ceremonyWorld(t, 1, shamirPlan(t, 2, 3))
	m := h.members[0]
	id := h.begin(t, m, reshare, group(2, h.person(t, "anna"), h.person(t, "ben"))).GetId()
	_, err := h.consent(t, m, id, h.printed[0])
	check(t, err)
	o := m.Gathering()
	check(t, h.cancel(m, id))
	before := memsec.Report().Secrets
	if _, err := o.Contribute(must[seal.Share](t)(seal.ParseShare(bytes.Clone(h.printed[1])))); !errs.Is(err, errs.Aborted) {
		t.Errorf("a share after the end: %v", err)
	}
	if n := memsec.Report().Secrets; n != before {
		t.Errorf("%d secrets more in memory", n-before)
	}
}
