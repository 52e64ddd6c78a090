package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
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
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/plan"
)

// A ceremony goes from state to state in the registry, and every node can take the
// next step. What a node holds beside it are shares that were given to consent, in
// memory: if it dies they are given again, to it or to another one.
//
//	OPEN    keystores and people open the present MasterKey here; it makes the new record
//	STAGED  keystores and people open the new record at another voter, which compares what
//	        they give with the MasterKey, says so, and commits (sealproof.go)
//
// Keystores are asked by the leader by itself, where it takes no people, and by the
// node to which a person brings a share (ceremonyloop.go).

const (
	// ceremonyLook is how often a node looks whether a ceremony waits for it.
	ceremonyLook = time.Second
	// shareSteps are the steps of a request that brings a share.
	stepStage   = 0
	stepConfirm = 1
	stepCommit  = 2
	stepProve   = 3
)

// CeremonyName returns ceremonies/{id}.
func CeremonyName(id []byte) string { return "ceremonies/" + hex.EncodeToString(id) }

// gathering is what this node gathers for a ceremony: what opens the present MasterKey
// until there is a new seal, and then what opens that one.
type gathering struct {
	mu      sync.Mutex
	id      string
	opening *seal.Opening // nil: nothing was gathered
	failure string        // of the last step that this node took
	after   time.Time     // the next step by itself is not before that
	pause   time.Duration
}

// drop forgets what was gathered for another ceremony than that.
func (c *gathering) drop(id []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own(id)
}

// own is drop with mu held: what is gathered under it from then on is for that ceremony,
// whatever ends meanwhile.
func (c *gathering) own(id []byte) {
	if c.id == string(id) {
		return
	}
	if c.opening != nil {
		c.opening.Close() // who still holds it gathers nothing any more
	}
	c.id, c.opening, c.failure, c.after, c.pause = string(id), nil, "", time.Time{}, 0
}

// BeginCeremony opens a ceremony that replaces the seal whose manifest has the digest
// base, and returns it. life is how long it may take; 0: a day.
func (n *Node) BeginCeremony(ctx context.Context, tok gate.Token, r Request, kind fsmpb.CeremonyKind, base []byte, plan *fsmpb.SealPlan, life time.Duration) (*fsmpb.Ceremony, error) {
	if err := tok.Require(gate.StartCeremony, ObjectSeal); err != nil {
		return nil, err
	}
	if err := n.provesSeals(); err != nil {
		return nil, err
	}
	if life == 0 {
		life = fsm.DefaultCeremonyLifeMS * time.Millisecond
	}
	id, err := hierarchy.NewUID(n.rand)
	if err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_BeginCeremony{BeginCeremony: &fsmpb.BeginCeremony{Id: id[:], Kind: kind, BaseManifest: base, Plan: plan, LifeMs: life.Milliseconds()}}
	res, err := n.commit(ctx, tok, r, cmd)
	if err != nil {
		return nil, err
	}
	if r.ValidateOnly {
		return &fsmpb.Ceremony{Kind: kind, State: fsmpb.CeremonyState_CEREMONY_STATE_OPEN, BaseManifest: base, Plan: plan}, nil
	}
	if c, ok := n.machine.View().Ceremony(res.GetUid()); ok {
		return c, nil
	}
	return nil, gate.NoSuchObject()
}

// CancelCeremony ends a ceremony that is not committed, and returns it.
func (n *Node) CancelCeremony(ctx context.Context, tok gate.Token, r Request, id []byte, reason string) (*fsmpb.Ceremony, error) {
	if err := tok.Require(gate.CancelCeremony, CeremonyName(id)); err != nil {
		return nil, err
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_CancelCeremony{CancelCeremony: &fsmpb.CancelCeremony{Id: id, Reason: reason}}
	if _, err := n.commit(ctx, tok, r, cmd); err != nil {
		return nil, err
	}
	n.consent.drop(nil)
	c, _ := n.machine.View().Ceremony(id)
	return c, nil
}

// CeremonyProgress is what a node knows of a ceremony besides the registry.
type CeremonyProgress struct {
	// Gathered is how far the opening is on this node: of the present MasterKey while the
	// ceremony is open, of the new seal while it is staged; zero if nothing was gathered here.
	Gathered seal.Progress
	// Failure is why the last step of this node did not succeed; empty: it did.
	Failure string
}

// Ceremony returns what this node knows of the ceremony that is open.
func (n *Node) Ceremony(id []byte) CeremonyProgress {
	c, _ := n.machine.View().Ceremony(id)
	staged := c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED
	n.consent.mu.Lock()
	defer n.consent.mu.Unlock()
	var p CeremonyProgress
	if n.consent.id != string(id) {
		return p
	}
	p.Failure = n.consent.failure
	if o := n.consent.opening; o != nil && staged == (o.Record().Ceremony() == hierarchy.UID(id)) {
		o.Expire()
		p.Gathered = o.Progress()
	}
	return p
}

// ContributeToCeremony takes one share of a person, encrypted to this node's start
// key: of the present seal, to consent, while the ceremony has no new seal; of the new
// one, to prove that its holder opens it, after that. With what was still missing the
// ceremony has its new seal, or is committed, when it returns.
func (n *Node) ContributeToCeremony(ctx context.Context, tok gate.Token, r Request, id, sealed []byte) (*fsmpb.Ceremony, error) {
	if err := tok.Require(gate.ContributeToCeremony, CeremonyName(id)); err != nil {
		return nil, err
	}
	c, ok := n.machine.View().Ceremony(id)
	switch {
	case !ok:
		return nil, gate.NoSuchObject()
	case !fsm.CeremonyOpen(c):
		return nil, errs.New(errs.FailedState, "the ceremony has ended", errs.Hint("read it: krypton ceremony status"))
	}
	if err := errors.Join(n.provesSeals(), n.mayHold(), n.mayTake(c)); err != nil {
		return nil, err
	}
	share, err := n.openShare(sealed, hierarchy.UID(c.GetId()))
	if err != nil {
		return nil, err
	}
	h := holding{n: n, tok: tok, request: r, id: id}
	if c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
		err = h.proved(ctx, c, share)
	} else {
		err = h.consented(ctx, c, share)
	}
	if err != nil {
		return nil, err
	}
	c, _ = n.machine.View().Ceremony(id)
	return c, nil
}

// mayHold refuses to handle the MasterKey on a node that has not got it already, or
// cannot prove its state: it would protect it for whoever a file says.
func (n *Node) mayHold() error {
	if held := n.heldErr(n.machine.View()); held != nil {
		return held
	}
	return n.Believed()
}

// openShare opens a share that was given to that ceremony, and to no other.
func (n *Node) openShare(sealed []byte, ceremony hierarchy.UID) (seal.Share, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key, err := n.ownStartKey()
	if err != nil {
		return seal.Share{}, err
	}
	if key == nil {
		return seal.Share{}, errNoCluster(errs.NotSealed)
	}
	return key.OpenForCeremony(sealed, ceremony)
}

// gatherConsent returns what gathers the consent to a ceremony on this node.
func (n *Node) gatherConsent(c *fsmpb.Ceremony) (*seal.Opening, seal.Record, error) {
	base, err := seal.ParseRecord(n.machine.View().Cluster().GetSealRecord())
	if err != nil {
		return nil, seal.Record{}, err
	}
	if d := base.ManifestDigest(); !bytes.Equal(d[:], c.GetBaseManifest()) {
		return nil, seal.Record{}, errs.New(errs.Aborted, "the seal changed", errs.Hint("read the ceremony again"))
	}
	f, ok := n.fingerprint()
	if !ok {
		return nil, seal.Record{}, errNoCluster(errs.NotSealed)
	}
	o, err := n.gatherFor(c.GetId(), n.presentSeal(base), f, seal.NewOpening)
	return o, base, err
}

// gatherFor returns what gathers shares of a record for a ceremony on this node.
func (n *Node) gatherFor(id []byte, r seal.Record, f seal.Fingerprint, begin func(seal.Record, seal.Fingerprint, clock.Clock, time.Duration) (*seal.Opening, error)) (*seal.Opening, error) {
	n.consent.mu.Lock()
	defer n.consent.mu.Unlock()
	n.consent.own(id)
	if o := n.consent.opening; o != nil && o.Record().ManifestDigest() == r.ManifestDigest() {
		return o, nil
	}
	if n.consent.opening != nil {
		n.consent.opening.Close()
	}
	var err error
	n.consent.opening, err = begin(r, f, n.clock, seal.DefaultPatience)
	return n.consent.opening, err
}

// holding is one who takes steps of a ceremony: a person who brought a share, or the
// leader by itself.
type holding struct {
	n       *Node
	tok     gate.Token
	request Request // zero: the leader's own
	id      []byte
}

// propose commits one step. That somebody else took it is no error: the registry says
// how far it is.
func (h holding) propose(ctx context.Context, step uint32, cmd *fsmpb.Command) error {
	of := &fsmpb.Command{Format: fsm.CommandFormat, Body: cmd.GetBody()}
	if h.request.ID != "" {
		own := h.request
		own.Intents = nil
		of = own.command(step)
		of.Body = cmd.GetBody()
	}
	_, err := h.n.cluster.Propose(ctx, h.tok, of, h.request.Until)
	return err
}

// consented takes a share of the present seal, and makes the new one if it was the
// last that was needed.
func (h holding) consented(ctx context.Context, c *fsmpb.Ceremony, share seal.Share) error {
	o, base, err := h.n.gatherConsent(c)
	if err != nil {
		share.Destroy()
		return err
	}
	// Whoever gives a share again wants to go on: a keystore may be back.
	if _, err := o.Contribute(share); err != nil && !errors.Is(err, seal.ErrShareDuplicate) {
		return err
	}
	return h.stageIfOpen(ctx, c, o, base)
}

// stageIfOpen asks the keystores of the present seal, and makes the new one with the
// MasterKey if that was enough.
func (h holding) stageIfOpen(ctx context.Context, c *fsmpb.Ceremony, o *seal.Opening, base seal.Record) error {
	if o.Waits() {
		// What is missing is for people, and what is not was gathered: both are no failure
		// of who brought a share.
		if err := o.Ask(ctx, h.n.stores, keystoreTime); err != nil {
			missing, ok := errors.AsType[*seal.MissingError](err)
			if !ok || h.request.ID == "" {
				return err
			}
			if len(missing.Failures()) > 0 {
				h.n.noteCeremony(h.id, err)
			}
			return nil
		}
	}
	mk, ok := o.Take()
	if !ok {
		return nil
	}
	defer mk.Destroy()
	if err := h.stage(ctx, c, mk, base); err != nil {
		return err
	}
	return h.proveWithoutPeople(ctx)
}

// protectAnew protects the present MasterKey as the plan says.
func (n *Node) protectAnew(ctx context.Context, mk memsec.Secret, of seal.Ceremony, p seal.Plan, base seal.Record) (seal.Record, error) {
	r, printed, err := seal.Protect(ctx, n.rand, mk, of, p, n.stores)
	if err != nil {
		return seal.Record{}, err
	}
	for _, s := range printed { // a plan that was begun has none
		s.Destroy()
	}
	return r.CarryFrom(base)
}

// stage protects the MasterKey, or another one, as the plan says.
func (h holding) stage(ctx context.Context, c *fsmpb.Ceremony, mk memsec.Secret, base seal.Record) error {
	n := h.n
	f, ok := n.fingerprint()
	if !ok {
		return errNoCluster(errs.NotSealed)
	}
	plan, err := sealPlan(c)
	if err != nil {
		return err
	}
	of := seal.Ceremony{
		Keyspace: base.Keyspace(), Cluster: base.Cluster(), ID: hierarchy.UID(c.GetId()), Generation: base.Generation(), Time: n.clock.Now(), Fingerprint: f,
		Wait: keystoreTime,
	}
	var r seal.Record
	var rekey *fsmpb.StagedRekey
	if fsm.MakesKey(c.GetKind()) {
		// The present MasterKey was the consent, and nothing else: the new one is never
		// under it.
		r, rekey, err = n.makeKey(ctx, of, plan)
	} else {
		r, err = n.protectAnew(ctx, mk, of, plan, base)
	}
	if err != nil {
		return err
	}
	raw, err := r.Marshal()
	if err != nil {
		return err
	}
	staged := &fsmpb.StageCeremony{Id: h.id, Record: raw, Rekey: rekey, Node: n.id}
	if staged.Signature, err = n.signAsMember(fsm.StagedMessage(f, staged.GetNode(), staged)); err != nil {
		return err
	}
	err = h.propose(ctx, stepStage, &fsmpb.Command{Body: &fsmpb.Command_StageCeremony{StageCeremony: staged}})
	if now, _ := n.machine.View().Ceremony(h.id); errs.Is(err, errs.FailedState) && now.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_OPEN {
		return nil // another node was first, and its record is as good
	}
	if err == nil {
		n.log.InfoContext(ctx, "a new seal was made; its holders have to open it before it counts",
			slog.String("ceremony", CeremonyName(h.id)), slog.String("kind", fsm.CeremonyKindName(c.GetKind())))
	}
	return err
}

// sealPlan is the plan of a ceremony as package seal carries it out.
func sealPlan(c *fsmpb.Ceremony) (seal.Plan, error) {
	intents, err := fsm.ManifestIntents(c.GetAuthorizedBy())
	if err != nil {
		return seal.Plan{}, err
	}
	p := seal.Plan{Kind: seal.Kind(c.GetKind()), Previous: seal.Digest(c.GetBaseManifest()), AcceptedRisks: c.GetPlan().GetAcceptedRisks(), Intents: intents}
	key := func(k *fsmpb.SealKey) seal.ProviderKey {
		return seal.ProviderKey{Provider: k.GetProvider(), Key: keystore.KeyRef(k.GetKey())}
	}
	for _, k := range c.GetPlan().GetProviderKeys() {
		p.ProviderKeys = append(p.ProviderKeys, key(k))
	}
	for _, g := range c.GetPlan().GetGroups() {
		to := seal.Group{Name: g.GetName(), Threshold: int(g.GetThreshold())}
		for _, h := range g.GetHolders() {
			to.Holders = append(to.Holders, seal.Holder{
				Name: h.GetName(), Recipient: h.GetRecipient(), Key: key(h.GetKey()),
				Domain: seal.Domain{ProviderType: h.GetProviderType(), Account: h.GetAccount(), Region: h.GetRegion()},
			})
		}
		p.Groups = append(p.Groups, to)
	}
	return p, nil
}

// noteCeremony remembers why a step did not succeed; nil: it did.
func (n *Node) noteCeremony(id []byte, err error) {
	n.consent.mu.Lock()
	defer n.consent.mu.Unlock()
	n.consent.own(id)
	if err == nil {
		n.consent.failure, n.consent.after, n.consent.pause = "", time.Time{}, 0
		return
	}
	n.consent.failure = errs.From(err).Error()
	n.consent.pause = min(max(2*n.consent.pause, time.Second), maxBackoff)
	n.consent.after = n.clock.Now().Add(n.consent.pause)
}

// WeighCeremony refuses a plan that has a risk which is not accepted, or that does not
// keep the rule; and risks that are accepted and not there, because what people sign is
// what the manifest says. Where keys are it knows of this node's configuration.
func (n *Node) WeighCeremony(p plan.Plan, accepted []plan.Risk, profile plan.Profile) error {
	filled, err := n.placed(p)
	if err != nil {
		return err
	}
	a := plan.Analyze(filled)
	if profile == "" {
		g := &fsmpb.Genesis{}
		if err := proto.Unmarshal(n.machine.View().Cluster().GetGenesis(), g); err == nil {
			profile = plan.Profile(g.GetSealProfile()) // replicas look, too; here the reason is said in full
		}
	}
	if err := a.Refuse(accepted, profile); err != nil {
		return err
	}
	if len(a.Accepted(accepted)) != len(accepted) {
		return errs.New(errs.InvalidArgument, "a risk is accepted that the plan of the seal does not have", errs.Hint("leave it out: what is accepted is signed and kept"))
	}
	return nil
}
