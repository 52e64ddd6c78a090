package node

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

// A new seal counts after a voter that did not make it has combined its shares (I15).
// Whoever made it knows all of its shares, so nothing that it shows could prove anything;
// and no replica could look at shares that it shows, because they are secret. So the
// proof is the word of a second voter, whose member key signs it, and which looked at
// what people and keystores really gave.

// provesSeals refuses ceremonies in a cluster whose older members would commit a seal
// that nobody opened.
func (n *Node) provesSeals() error {
	if n.machine.View().Cluster().GetFormatVersion() >= fsm.FormatSealProof {
		return nil
	}
	return errs.New(errs.FailedState, "not every member of this cluster knows proofs of new seals",
		errs.Hint("upgrade every node; the leader raises the format version when all members support it"))
}

// mayTake refuses shares where they would be of no use: the present seal is opened by a
// voter, because others believe only a voter that it made the new one; and the new one by
// another voter than that.
func (n *Node) mayTake(c *fsmpb.Ceremony) error {
	v := n.machine.View()
	if m, ok := v.Member(n.id); !ok || !m.GetVoter() || m.GetRemoved() {
		return errs.New(errs.FailedState, "this node does not vote, and its word about a new seal does not count", errs.Hint("give the share to a voter: krypton operator members"))
	}
	if c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED || c.GetProof() != nil || v.MayProve(c, n.id) {
		return nil
	}
	return errs.New(errs.FailedState, "this node made the new seal; another one has to find that its shares give the MasterKey",
		errs.Hint("give the share to %s, all to the same one", strings.Join(Provers(v, c), " or ")))
}

// Provers returns the names of the members that may take shares of what is staged in c.
func Provers(v *fsm.View, c *fsmpb.Ceremony) (names []string) {
	for _, m := range v.Members() {
		if v.MayProve(c, m.GetId()) {
			names = append(names, m.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// signAsMember signs with the member key of this node.
func (n *Node) signAsMember(message []byte) ([]byte, error) {
	key := n.cluster.Signer()
	hash := crypto.Hash(0)
	switch key.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		message, hash = sum[:], crypto.SHA256
	default:
		return nil, fmt.Errorf("sign as a member: a key of type %T is not supported", key.Public())
	}
	sig, err := key.Sign(n.rand, message, hash)
	if err != nil {
		return nil, fmt.Errorf("sign as a member: %w", err)
	}
	return sig, nil
}

// gatherProof returns what gathers shares of the new seal on this node.
func (n *Node) gatherProof(c *fsmpb.Ceremony) (*seal.Opening, error) {
	r, err := seal.ParseRecord(c.GetStagedRecord())
	if err != nil {
		return nil, err
	}
	f, ok := n.fingerprint()
	if !ok {
		return nil, errNoCluster(errs.NotSealed)
	}
	return n.gatherFor(c.GetId(), r, f, seal.NewProof)
}

// proved takes a share of the new seal, and with the last that is needed vouches for it.
func (h holding) proved(ctx context.Context, c *fsmpb.Ceremony, share seal.Share) error {
	if c.GetProof() != nil {
		share.Destroy() // enough others opened it already
		return h.commitIfProved(ctx)
	}
	o, err := h.n.gatherProof(c)
	if err != nil {
		share.Destroy()
		return err
	}
	// Whoever gives a share again wants to go on: a keystore may be back.
	if _, err := o.Contribute(share); err != nil && !errors.Is(err, seal.ErrShareDuplicate) {
		return h.n.unfit(c, err)
	}
	return h.proveIfOpen(ctx, c, o)
}

// unfit says what it means that shares of a new seal do not give the MasterKey: they are
// those whose hashes its maker wrote, so it is not the holders who are wrong.
func (n *Node) unfit(c *fsmpb.Ceremony, err error) error {
	what := "the new seal does not open the MasterKey"
	if missing, ok := errors.AsType[*seal.MissingError](err); ok {
		failed := missing.Failures()
		i := slices.IndexFunc(failed, func(f seal.Failure) bool { return f.Class == keystore.Corrupt })
		if i < 0 {
			return err
		}
		what = "what the new seal has for " + failed[i].String() + " does not open as it should"
	} else if !errs.Is(err, errs.StateCorrupt) {
		return err
	}
	maker := c.GetStagedNode()
	if m, ok := n.machine.View().Member(maker); ok {
		maker = m.GetName()
	}
	return errs.New(errs.StateCorrupt, what+"; node "+maker+" made it",
		errs.Hint("cancel the ceremony, nothing has changed; find out what is wrong with node %s before the next one", maker), errs.Cause(err))
}

// proveIfOpen asks the keystores of the new seal, and vouches for it if that was enough.
func (h holding) proveIfOpen(ctx context.Context, c *fsmpb.Ceremony, o *seal.Opening) error {
	if o.Waits() {
		if err := o.Ask(ctx, h.n.stores, keystoreTime); err != nil {
			missing, ok := errors.AsType[*seal.MissingError](err)
			if !ok || h.request.ID == "" {
				return h.n.unfit(c, err)
			}
			if len(missing.Failures()) > 0 {
				h.n.noteCeremony(h.id, h.n.unfit(c, err)) // no failure of who brought a share
			}
		}
	}
	masterKey, holders, ok := o.TakeProof()
	if !ok {
		return h.noteGiven(ctx, c, o)
	}
	defer masterKey.Destroy()
	if err := h.n.checkNew(c, o.Record(), masterKey); err != nil {
		return h.n.unfit(c, err)
	}
	if err := h.vouch(ctx, c, holders); err != nil {
		return err
	}
	return h.commitIfProved(ctx)
}

// noteGiven lets every node say where shares come together, and whose are there.
func (h holding) noteGiven(ctx context.Context, c *fsmpb.Ceremony, o *seal.Opening) error {
	var given []uint32
	for _, i := range o.Given() {
		given = append(given, uint32(i)) //nolint:gosec // At most 255.
	}
	if len(given) == 0 || c.GetGatheredAt() == h.n.id && slices.Equal(given, c.GetConfirmed()) {
		return nil
	}
	return h.propose(ctx, stepConfirm, &fsmpb.Command{Body: &fsmpb.Command_ConfirmHolder{ConfirmHolder: &fsmpb.ConfirmHolder{
		Id: h.id, Manifest: c.GetNewManifest(), Holders: given, Node: h.n.id,
	}}})
}

// checkNew looks at what the MasterKey of a new seal opens besides: the keys of MasterKeys
// before it, which nodes need to believe what is on their disks, and of a rekey the
// internal keys. A seal that opens and has not got these is no better than one that does
// not open.
func (n *Node) checkNew(c *fsmpb.Ceremony, r seal.Record, masterKey memsec.Secret) error {
	u := n.open.Load()
	if u == nil {
		return n.whySealed()
	}
	carried, err := r.OpenCarriedKeys(masterKey)
	if err != nil {
		return err
	}
	defer func() {
		for _, k := range carried {
			k.Key.Destroy()
		}
	}()
	for _, k := range carried {
		own, ok := u.keys.of(k.Generation)
		if !ok {
			return errs.New(errs.FailedState, "this node cannot tell whether the new seal carries the keys of MasterKeys before it: it does not have them", errs.Hint("give the shares to another node"))
		}
		if eq, err := memsec.Equal(own.mac, k.Key); err != nil || !eq {
			return errs.New(errs.StateCorrupt, "the new seal carries another key than that of MasterKey "+fmt.Sprint(k.Generation), errs.Cause(err))
		}
	}
	if !fsm.MakesKey(c.GetKind()) {
		return nil
	}
	return n.takeNext(u, n.machine.View(), r, c.GetRekey(), masterKey)
}

// vouch says that the shares of these holders gave the MasterKey.
func (h holding) vouch(ctx context.Context, c *fsmpb.Ceremony, opened []int) error {
	n := h.n
	f, ok := n.fingerprint()
	if !ok {
		return errNoCluster(errs.NotSealed)
	}
	b := &fsmpb.ProveSeal{Id: h.id, Manifest: c.GetNewManifest(), Node: n.id}
	for _, i := range opened {
		b.Holders = append(b.Holders, uint32(i)) //nolint:gosec // At most 255.
	}
	var err error
	if b.Signature, err = n.signAsMember(fsm.ProvedMessage(f, n.id, c, b.GetHolders())); err != nil {
		return err
	}
	if err := h.propose(ctx, stepProve, &fsmpb.Command{Body: &fsmpb.Command_ProveSeal{ProveSeal: b}}); err != nil {
		return err
	}
	n.log.InfoContext(ctx, "the new seal opens: this node combined its shares", slog.String("ceremony", CeremonyName(h.id)))
	return nil
}

// proveWithoutPeople has the keystores of the new seal open it, where they are enough and
// this node may say so.
func (h holding) proveWithoutPeople(ctx context.Context) error {
	c, ok := h.n.machine.View().Ceremony(h.id)
	if !ok || c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED {
		return nil
	}
	if c.GetProof() != nil {
		return h.commitIfProved(ctx)
	}
	if !h.n.machine.View().MayProve(c, h.n.id) {
		return nil // another voter does
	}
	o, err := h.n.gatherProof(c)
	if err != nil || o.Record().PersonsNeeded() > 0 && o.Progress().Have == 0 {
		return err
	}
	err = h.proveIfOpen(ctx, c, o)
	if err != nil && o.Progress().Expires.IsZero() {
		o.Reset() // nothing of it is kept while nobody comes; what people brought waits for more of them
	}
	return err
}

// commitIfProved commits what another voter vouched for.
func (h holding) commitIfProved(ctx context.Context) error {
	c, ok := h.n.machine.View().Ceremony(h.id)
	if !ok || c.GetState() != fsmpb.CeremonyState_CEREMONY_STATE_STAGED || c.GetProof() == nil {
		return nil
	}
	if h.n.machine.View().NeedsConfirmation(c) {
		return nil // people have to; the leader goes on when they did
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

// proveTurn is how long a voter that could prove a seal by its keystores leaves that to
// each one that comes before it: they all could, and one is enough.
const proveTurn = 5 * time.Second

// myTurn reports whether it is this node that has the keystores of a new seal open it:
// the leader, unless it made it, then the others in the order of their ids.
func (n *Node) myTurn(v *fsm.View, c *fsmpb.Ceremony) bool {
	turn := time.UnixMilli(c.GetStagedTimeMs())
	leader := string(n.cluster.LeaderID())
	for _, m := range v.Members() {
		if id := m.GetId(); id != n.id && v.MayProve(c, id) && (id == leader || id < n.id && n.id != leader) {
			turn = turn.Add(proveTurn)
		}
	}
	return v.MayProve(c, n.id) && !n.clock.Now().Before(turn)
}
