package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/corr"
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
//	STAGED  each new holder opens its part of the new record; enough of them, and it commits
//
// Keystores are asked by the leader by itself, where it takes no people, and by the
// node to which a person brings a share.

const (
	// ceremonyLook is how often a node looks whether a ceremony waits for it.
	ceremonyLook = time.Second
	// shareSteps are the steps of a request that brings a share.
	stepStage   = 0
	stepConfirm = 1
	stepCommit  = 2
)

// CeremonyName returns ceremonies/{id}.
func CeremonyName(id []byte) string { return "ceremonies/" + hex.EncodeToString(id) }

// consent gathers on this node what opens the present MasterKey for a ceremony.
type consent struct {
	mu      sync.Mutex
	id      string
	opening *seal.Opening // nil: nothing was gathered
	failure string        // of the last step that this node took
	after   time.Time     // the next step by itself is not before that
	pause   time.Duration
}

// drop forgets what was gathered for another ceremony than that.
func (c *consent) drop(id []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own(id)
}

// own is drop with mu held: what is gathered under it from then on is for that ceremony,
// whatever ends meanwhile.
func (c *consent) own(id []byte) {
	if c.id == string(id) {
		return
	}
	if c.opening != nil {
		c.opening.Reset()
	}
	c.id, c.opening, c.failure, c.after, c.pause = string(id), nil, "", time.Time{}, 0
}

// BeginCeremony opens a ceremony that replaces the seal whose manifest has the digest
// base, and returns it. life is how long it may take; 0: a day.
func (n *Node) BeginCeremony(ctx context.Context, tok gate.Token, r Request, kind fsmpb.CeremonyKind, base []byte, plan *fsmpb.SealPlan, life time.Duration) (*fsmpb.Ceremony, error) {
	if err := tok.Require(gate.StartCeremony, ObjectSeal); err != nil {
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
	// Consent is how far the opening of the present MasterKey is on this node, while the
	// ceremony is open; zero if nothing was gathered here.
	Consent seal.Progress
	// Failure is why the last step of this node did not succeed; empty: it did.
	Failure string
}

// Ceremony returns what this node knows of the ceremony that is open.
func (n *Node) Ceremony(id []byte) CeremonyProgress {
	n.consent.mu.Lock()
	defer n.consent.mu.Unlock()
	var p CeremonyProgress
	if n.consent.id != string(id) {
		return p
	}
	p.Failure = n.consent.failure
	if o := n.consent.opening; o != nil {
		o.Expire()
		p.Consent = o.Progress()
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
	if err := n.mayHold(); err != nil {
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
	n.consent.mu.Lock()
	defer n.consent.mu.Unlock()
	n.consent.own(c.GetId())
	if n.consent.opening == nil || n.consent.opening.Record().ManifestDigest() != base.ManifestDigest() {
		if n.consent.opening != nil {
			n.consent.opening.Reset()
		}
		if n.consent.opening, err = seal.NewOpening(base, f, n.clock, seal.DefaultPatience); err != nil {
			return nil, seal.Record{}, err
		}
	}
	return n.consent.opening, base, nil
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

// proved notes that a person opened the share of the new seal.
func (h holding) proved(ctx context.Context, c *fsmpb.Ceremony, share seal.Share) error {
	defer share.Destroy()
	r, err := seal.ParseRecord(c.GetStagedRecord())
	if err != nil {
		return err
	}
	f, ok := h.n.fingerprint()
	if !ok || !share.IsFor(f) {
		return errs.New(errs.ShareRefused, "the share is of another cluster: its fingerprint is not this node's", errs.Hint("check which cluster you are talking to"))
	}
	if err := seal.CheckShare(r.Proto().GetManifest(), share); err != nil {
		return err
	}
	if err := h.confirm(ctx, c, []uint32{uint32(share.Index())}); err != nil { //nolint:gosec // At most 255.
		return err
	}
	return h.commitIfEnough(ctx)
}

func (h holding) confirm(ctx context.Context, c *fsmpb.Ceremony, holders []uint32) error {
	return h.propose(ctx, stepConfirm, &fsmpb.Command{Body: &fsmpb.Command_ConfirmHolder{ConfirmHolder: &fsmpb.ConfirmHolder{
		Id: h.id, Manifest: c.GetNewManifest(), Holders: holders,
	}}})
}

// commitIfEnough commits what enough holders opened.
func (h holding) commitIfEnough(ctx context.Context) error {
	c, ok := h.n.machine.View().Ceremony(h.id)
	if !ok || c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED || slices.ContainsFunc(fsm.CeremonyMissing(c), func(n int) bool { return n > 0 }) {
		return nil
	}
	if err := h.n.awaitHandovers(ctx, c); err != nil {
		if h.request.ID == "" {
			return err
		}
		h.n.noteCeremony(h.id, err) // the share counted, and the leader goes on by itself
		return nil
	}
	err := h.propose(ctx, stepCommit, &fsmpb.Command{Body: &fsmpb.Command_CommitCeremony{CommitCeremony: &fsmpb.CommitCeremony{Id: h.id, Manifest: c.GetNewManifest()}}})
	if errs.Is(err, errs.FailedState) && h.committed() {
		return nil
	}
	return err
}

func (h holding) committed() bool {
	c, _ := h.n.machine.View().Ceremony(h.id)
	return c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_COMMITTED
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
			if _, missing := errors.AsType[*seal.MissingError](err); missing && h.request.ID != "" {
				h.n.noteCeremony(h.id, err)
				return nil
			}
			return err
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
	return h.proveKeystores(ctx)
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
	err = h.propose(ctx, stepStage, &fsmpb.Command{Body: &fsmpb.Command_StageCeremony{StageCeremony: &fsmpb.StageCeremony{Id: h.id, Record: raw, Rekey: rekey}}})
	if now, _ := n.machine.View().Ceremony(h.id); errs.Is(err, errs.FailedState) && now.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_OPEN {
		return nil // another node was first, and its record is as good
	}
	if err == nil {
		n.log.InfoContext(ctx, "a new seal was made; its holders have to open it before it counts",
			slog.String("ceremony", CeremonyName(h.id)), slog.String("kind", fsm.CeremonyKindName(c.GetKind())))
	}
	return err
}

// proveKeystores has the keystores of the new seal open it, all at once, and commits if
// that is enough.
func (h holding) proveKeystores(ctx context.Context) error {
	c, ok := h.n.machine.View().Ceremony(h.id)
	if !ok || c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
		return nil
	}
	r, err := seal.ParseRecord(c.GetStagedRecord())
	if err != nil {
		return err
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		proved []uint32
		failed []error
	)
	for _, i := range keystoresOf(c.GetPlan()) {
		if slices.Contains(c.GetConfirmed(), i) {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, keystoreTime)
			defer cancel()
			err := seal.Prove(ctx, r, int(i), h.n.stores)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			proved = append(proved, i)
		})
	}
	wg.Wait()
	if len(proved) > 0 {
		slices.Sort(proved)
		if err := h.confirm(ctx, c, proved); err != nil {
			return err
		}
	}
	if err := h.commitIfEnough(ctx); err != nil || h.committed() {
		return err
	}
	return errors.Join(failed...)
}

// keystoresOf returns the numbers of the holders that are keystores.
func keystoresOf(p *fsmpb.SealPlan) (all []uint32) {
	next := uint32(1)
	for range p.GetProviderKeys() {
		all = append(all, next)
		next++
	}
	for _, g := range p.GetGroups() {
		for _, h := range g.GetHolders() {
			if h.GetKey() != nil {
				all = append(all, next)
			}
			next++
		}
	}
	return all
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

// holdCeremonies takes the steps of an open ceremony that need nobody, while this node
// leads: whoever began it need not be there any more. What a person gave to this node
// expires here, too.
func (n *Node) holdCeremonies(ctx context.Context) error {
	defer n.consent.drop(nil)
	for {
		if err := n.clock.Sleep(ctx, ceremonyLook); err != nil {
			return err
		}
		c, ok := n.machine.View().OpenCeremony()
		if !ok || n.mayHold() != nil {
			n.consent.drop(nil)
			continue
		}
		n.consent.drop(c.GetId())
		n.consent.mu.Lock()
		if n.consent.opening != nil {
			n.consent.opening.Expire()
		}
		due := !n.clock.Now().Before(n.consent.after)
		n.consent.mu.Unlock()
		if !due || n.cluster.LeaderID() != n.cluster.NodeID() || !n.stepNeedsNobody(c) {
			continue
		}
		err := n.stepCeremony(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.noteCeremony(c.GetId(), err)
		if err != nil {
			n.log.WarnContext(ctx, "a ceremony waits; this node tries again by itself", slog.String("ceremony", CeremonyName(c.GetId())), slog.Any("error", err))
		}
	}
}

// stepNeedsNobody reports whether there is a step that the leader can take alone:
// keystores open the present seal, or have not opened the new one yet.
func (n *Node) stepNeedsNobody(c *fsmpb.Ceremony) bool {
	if c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
		left := slices.ContainsFunc(keystoresOf(c.GetPlan()), func(i uint32) bool { return !slices.Contains(c.GetConfirmed(), i) })
		return left || !slices.ContainsFunc(fsm.CeremonyMissing(c), func(n int) bool { return n > 0 })
	}
	r, err := seal.ParseRecord(n.machine.View().Cluster().GetSealRecord())
	return err == nil && r.PersonsNeeded() == 0
}

// stepCeremony takes one step, with a record of its own.
func (n *Node) stepCeremony(ctx context.Context, c *fsmpb.Ceremony) error {
	id, err := corr.New(n.rand)
	if err != nil {
		return err
	}
	ctx = corr.With(ctx, id)
	return n.gate.DoNode(ctx, gate.NodeCeremony, CeremonyName(c.GetId()), func(tok gate.Token) error {
		h := holding{n: n, tok: tok, id: c.GetId()}
		if c.GetState() == fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
			return h.proveKeystores(ctx)
		}
		o, base, err := n.gatherConsent(c)
		if err != nil {
			return err
		}
		err = h.stageIfOpen(ctx, c, o, base)
		if err != nil && o.Progress().Expires.IsZero() {
			o.Reset() // nothing of it is kept while nobody comes; what people brought waits for more of them
		}
		return err
	})
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
	if err := a.Refuse(accepted, profile); err != nil {
		return err
	}
	if len(a.Accepted(accepted)) != len(accepted) {
		return errs.New(errs.InvalidArgument, "a risk is accepted that the plan of the seal does not have", errs.Hint("leave it out: what is accepted is signed and kept"))
	}
	return nil
}
