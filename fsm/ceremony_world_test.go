package fsm_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// Ceremonies: what a seal looks like to the registry. There is no key in these tests:
// the registry could not open one.

const (
	reshare = fsmpb.CeremonyKind_CEREMONY_KIND_RESHARE
	migrate = fsmpb.CeremonyKind_CEREMONY_KIND_MIGRATE

	opened    = fsmpb.CeremonyState_CEREMONY_STATE_OPEN
	staged    = fsmpb.CeremonyState_CEREMONY_STATE_STAGED
	committed = fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED
	cancelled = fsmpb.CeremonyState_CEREMONY_STATE_CANCELLED
	overdue   = fsmpb.CeremonyState_CEREMONY_STATE_EXPIRED
)

func sum32(parts ...any) []byte {
	s := sha256.Sum256(fmt.Append(nil, parts...))
	return s[:]
}

// firstSeal is the record of a genesis: keystores, or three persons of whom two open it.
func firstSeal(g *fsmpb.Genesis, m sealpb.Mode) []byte {
	r := &sealpb.Record{Format: 1, Manifest: &sealpb.Manifest{
		Format: 1, KeyspaceId: g.GetKeyspaceId(), ClusterId: g.GetClusterId(), CeremonyId: sum32("init")[:16], Generation: 1, Mode: m,
		MasterKeyCommitment: sum32("the MasterKey"), CreateTimeUnixNano: 1,
	}}
	if m == sealpb.Mode_MODE_AUTO {
		k := &sealpb.ProviderKey{Provider: "hsm", Key: "seal"}
		r.Manifest.ProviderKeys = []*sealpb.ProviderKey{k}
		r.Wrappings = []*sealpb.Wrapping{{ProviderKey: k, WrappedKey: []byte("wrapped"), Nonce: make([]byte, 12), SealedMasterKey: make([]byte, 48)}}
	} else {
		r.Manifest.Threshold = 2
		for i := uint32(1); i <= 3; i++ {
			r.Manifest.Holders = append(r.Manifest.Holders, &sealpb.Holder{Index: i, X: i, Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, Recipient: fmt.Sprint("person ", i), ShareHash: sum32("share", i)})
		}
	}
	return encoded(r)
}

func encoded(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// sealedWorld is a world whose seal is a record, in which so many of the custodians
// cust, dave and erin sign for ceremonies.
func sealedWorld(t tb, m sealpb.Mode, custodians int, change ...func(*fsmpb.Genesis)) *world {
	t.Helper()
	return newWorld(t, append([]func(*fsmpb.Genesis){func(g *fsmpb.Genesis) {
		for _, n := range []string{"dave", "erin"} {
			p, _ := person(n, "custodian")
			g.Persons = append(g.Persons, p)
		}
		g.SealRecord = firstSeal(g, m)
		g.Rules = fsm.RulesOf(0, custodians)
	}}, change...)...)
}

// shared is a world that a ceremony can be held in, with tenants and without rules.
func shared(t tb) *world {
	t.Helper()
	w := sealedWorld(t, sealpb.Mode_MODE_SHAMIR, 0)
	furnish(w)
	return w
}

func personHolder(name string) *fsmpb.SealHolder {
	return &fsmpb.SealHolder{Name: name, Recipient: "age1pq1" + name, Region: "eu"}
}

func storeHolder(name string) *fsmpb.SealHolder {
	return &fsmpb.SealHolder{Name: name, Key: &fsmpb.SealKey{Provider: name, Key: "share"}, ProviderType: "transit"}
}

// people is a plan of persons and keystores, two of which are needed.
func people(names ...string) *fsmpb.SealPlan {
	g := &fsmpb.SealGroup{Threshold: 2}
	for _, n := range names {
		g.Holders = append(g.Holders, personHolder(n))
	}
	g.Holders = append(g.Holders, storeHolder("vault"))
	return &fsmpb.SealPlan{Groups: []*fsmpb.SealGroup{g}}
}

// twoGroups is a plan of keystores 2 of 3 and people 2 of 2.
func twoGroups() *fsmpb.SealPlan {
	return &fsmpb.SealPlan{AcceptedRisks: []string{"concentration"}, Groups: []*fsmpb.SealGroup{
		{Name: "stores", Threshold: 2, Holders: []*fsmpb.SealHolder{storeHolder("s1"), storeHolder("s2"), storeHolder("s3")}},
		{Name: "people", Threshold: 2, Holders: []*fsmpb.SealHolder{personHolder("anna"), personHolder("ben")}},
	}}
}

func keystores(names ...string) *fsmpb.SealPlan {
	p := &fsmpb.SealPlan{}
	for _, n := range names {
		p.ProviderKeys = append(p.ProviderKeys, &fsmpb.SealKey{Provider: n, Key: "seal"})
	}
	return p
}

// sealNow returns the record of the cluster.
func (w *world) sealNow() *sealpb.Record {
	w.tb.Helper()
	r, err := manifest.Parse(w.view().Cluster().GetSealRecord())
	if err != nil {
		w.tb.Fatalf("seal record: %v", err)
	}
	return r
}

func (w *world) beginCeremony(k fsmpb.CeremonyKind, p *fsmpb.SealPlan) *fsmpb.Command {
	w.tb.Helper()
	base := manifest.Of(w.sealNow().GetManifest())
	return &fsmpb.Command{Principal: caller("custodian", "cust"), Body: &fsmpb.Command_BeginCeremony{BeginCeremony: &fsmpb.BeginCeremony{
		Id: w.uid(), Kind: k, BaseManifest: base[:], Plan: p, LifeMs: hourMS,
	}}}
}

// consented returns cmd with the signatures of custodians.
func (w *world) consented(cmd *fsmpb.Command, who ...string) *fsmpb.Command {
	w.tb.Helper()
	var keys []ed25519.PrivateKey
	for _, n := range who {
		keys = append(keys, keyFor(n))
	}
	principal := cmd.GetPrincipal()
	cmd = w.signedBy(cmd, w.ordered(cmd), keys...)
	cmd.Principal = principal
	return cmd
}

// ceremonyOf returns the ceremony of that id.
func (w *world) ceremonyOf(id []byte) *fsmpb.Ceremony {
	w.tb.Helper()
	c, ok := w.view().Ceremony(id)
	if !ok {
		w.tb.Fatalf("no ceremony %x", id)
	}
	return c
}

// begun begins a ceremony that cust signs, and returns its id.
func (w *world) begun(k fsmpb.CeremonyKind, p *fsmpb.SealPlan) []byte {
	w.tb.Helper()
	res := w.ok(w.consented(w.beginCeremony(k, p), "cust"))
	return res.GetUid()
}

func aNode() *fsmpb.Principal { return &fsmpb.Principal{Kind: "node", Name: nodeID(0)} }

// newSeal is the record that a node makes of a ceremony.
func (w *world) newSeal(id []byte) *sealpb.Record {
	w.tb.Helper()
	c, was := w.ceremonyOf(id), w.sealNow()
	by, err := fsm.ManifestIntents(c.GetAuthorizedBy())
	if err != nil {
		w.tb.Fatalf("intents: %v", err)
	}
	m := &sealpb.Manifest{
		Format: 2, KeyspaceId: was.GetManifest().GetKeyspaceId(), ClusterId: w.view().Cluster().GetClusterId(), CeremonyId: id,
		Generation: was.GetManifest().GetGeneration(), MasterKeyCommitment: was.GetManifest().GetMasterKeyCommitment(), CreateTimeUnixNano: w.now * 1e6,
		SignedIntents: by, PreviousManifest: c.GetBaseManifest(), Kind: sealpb.CeremonyKind(c.GetKind()), AcceptedRisks: c.GetPlan().GetAcceptedRisks(),
	}
	r := &sealpb.Record{Format: 2, Manifest: m, CarriedKeys: was.GetCarriedKeys()}
	for _, k := range c.GetPlan().GetProviderKeys() {
		pk := &sealpb.ProviderKey{Provider: k.GetProvider(), Key: k.GetKey()}
		m.Mode = sealpb.Mode_MODE_AUTO
		m.ProviderKeys = append(m.ProviderKeys, pk)
		r.Wrappings = append(r.Wrappings, &sealpb.Wrapping{ProviderKey: pk, WrappedKey: []byte("wrapped"), Nonce: make([]byte, 12), SealedMasterKey: make([]byte, 48)})
	}
	for g, group := range c.GetPlan().GetGroups() {
		m.Mode = sealpb.Mode_MODE_SHAMIR
		m.Groups = append(m.Groups, &sealpb.Group{Name: group.GetName(), Threshold: group.GetThreshold()})
		for i, h := range group.GetHolders() {
			n := uint32(len(m.GetHolders()) + 1)
			shard := sum32("shard", id, n)
			if k := h.GetKey(); k != nil {
				shard = encoded(&sealpb.KeystoreShard{
					ProviderKey: &sealpb.ProviderKey{Provider: k.GetProvider(), Key: k.GetKey()}, WrappedKey: shard, Nonce: make([]byte, 12), SealedShare: make([]byte, 49),
				})
			}
			sum := sha256.Sum256(shard)
			to := &sealpb.Holder{
				Index: n, X: uint32(i + 1), Kind: sealpb.HolderKind_HOLDER_KIND_PERSON, Recipient: h.GetRecipient(), ShareHash: sum32("share", id, n), EncryptedShardHash: sum[:],
				Group: uint32(g), Name: h.GetName(),
			}
			if d := (&sealpb.Domain{ProviderType: h.GetProviderType(), Account: h.GetAccount(), Region: h.GetRegion()}); proto.Size(d) > 0 {
				to.Domain = d
			}
			if k := h.GetKey(); k != nil {
				to.Kind, to.ProviderKey = sealpb.HolderKind_HOLDER_KIND_KEYSTORE, &sealpb.ProviderKey{Provider: k.GetProvider(), Key: k.GetKey()}
			}
			m.Holders = append(m.Holders, to)
			r.Shards = append(r.Shards, &sealpb.Shard{Index: n, EncryptedShard: shard})
		}
	}
	switch len(m.GetGroups()) {
	case 0:
	case 1:
		m.Threshold = m.GetGroups()[0].GetThreshold()
	default:
		r.GroupSeal = &sealpb.GroupSeal{Nonce: make([]byte, 12), SealedMasterKey: make([]byte, 48)}
	}
	return r
}

func (w *world) stage(id []byte, r *sealpb.Record) *fsmpb.Command { return w.stageBy(0, id, r, nil) }

func (w *world) provesSeals() bool {
	return w.view().Cluster().GetFormatVersion() >= fsm.FormatSealProof
}

// stageBy is what node n stages.
func (w *world) stageBy(n int, id []byte, r *sealpb.Record, k *fsmpb.StagedRekey) *fsmpb.Command {
	b := &fsmpb.StageCeremony{Id: id, Record: encoded(r), Rekey: k}
	if w.provesSeals() {
		b.Node = nodeID(n)
		b.Signature = ed25519.Sign(nodeKey(n), fsm.StagedMessage([32]byte(w.view().Cluster().GetFingerprint()), nodeID(n), b))
	}
	return &fsmpb.Command{Principal: aNode(), Body: &fsmpb.Command_StageCeremony{StageCeremony: b}}
}

// prove is what node n says after it combined shares of these holders.
func (w *world) prove(n int, id []byte, holders ...uint32) *fsmpb.Command {
	w.tb.Helper()
	c := w.ceremonyOf(id)
	return &fsmpb.Command{Principal: aNode(), Body: &fsmpb.Command_ProveSeal{ProveSeal: &fsmpb.ProveSeal{
		Id: id, Manifest: c.GetNewManifest(), Holders: holders, Node: nodeID(n),
		Signature: ed25519.Sign(nodeKey(n), fsm.ProvedMessage([32]byte(w.view().Cluster().GetFingerprint()), nodeID(n), c, holders)),
	}}}
}

// stagedSeal stages a new record and returns it.
func (w *world) stagedSeal(id []byte) *sealpb.Record {
	w.tb.Helper()
	r := w.newSeal(id)
	w.ok(w.stage(id, r))
	return r
}

func (w *world) confirm(id []byte, holders ...uint32) *fsmpb.Command {
	w.tb.Helper()
	return &fsmpb.Command{Principal: aNode(), Body: &fsmpb.Command_ConfirmHolder{ConfirmHolder: &fsmpb.ConfirmHolder{
		Id: id, Manifest: w.ceremonyOf(id).GetNewManifest(), Holders: holders,
	}}}
}

// commitSeal commits what enough holders opened, as a node would: of a world of one
// node that node has proved it before.
func (w *world) commitSeal(id []byte) *fsmpb.Command {
	w.tb.Helper()
	if c := w.ceremonyOf(id); w.provesSeals() && c.GetState() == staged && c.GetProof() == nil && w.now < c.GetExpireTimeMs() &&
		!slices.ContainsFunc(fsm.CeremonyMissing(c), func(n int) bool { return n > 0 }) {
		w.ok(w.prove(0, id, c.GetConfirmed()...))
	}
	return w.commitOnly(id)
}

func (w *world) commitOnly(id []byte) *fsmpb.Command {
	w.tb.Helper()
	return &fsmpb.Command{Principal: aNode(), Body: &fsmpb.Command_CommitCeremony{CommitCeremony: &fsmpb.CommitCeremony{Id: id, Manifest: w.ceremonyOf(id).GetNewManifest()}}}
}

func cancelSeal(id []byte) *fsmpb.Command {
	return &fsmpb.Command{Principal: caller("custodian", "cust"), Body: &fsmpb.Command_CancelCeremony{CancelCeremony: &fsmpb.CancelCeremony{Id: id, Reason: "not today"}}}
}

// held holds a ceremony to its end.
func (w *world) held(k fsmpb.CeremonyKind, p *fsmpb.SealPlan, holders ...uint32) []byte {
	w.tb.Helper()
	id := w.begun(k, p)
	w.stagedSeal(id)
	w.ok(w.confirm(id, holders...))
	w.ok(w.commitSeal(id))
	return id
}

func (w *world) ceremonyIs(id []byte, want fsmpb.CeremonyState) *fsmpb.Ceremony {
	w.tb.Helper()
	c := w.ceremonyOf(id)
	if c.GetState() != want {
		w.tb.Fatalf("the ceremony is %v, want %v", c.GetState(), want)
	}
	open, ok := w.view().OpenCeremony()
	if ok != fsm.CeremonyOpen(c) || ok && !bytes.Equal(open.GetId(), id) {
		w.tb.Fatalf("the ceremony is %v, and the open one is %v", want, open)
	}
	if n := slices.IndexFunc(w.view().Ceremonies(nil, fsm.MaxCeremonies), func(o *fsmpb.Ceremony) bool { return proto.Equal(o, c) }); n < 0 {
		w.tb.Fatalf("the ceremony is not in the list")
	}
	return c
}
