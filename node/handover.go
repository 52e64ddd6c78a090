package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/seal"
)

const (
	// offerTask asks a member for its start key, over the peer port, as a task of its own
	// kind. It is no encoded command: field 13 with a group does not begin one.
	offerTask = "krypton/v1/offer-start-key"
	// offerTime is how long the members are waited for. One that does not answer is
	// unsealed by the new seal, as at any start.
	offerTime = 5 * time.Second
	// readyTask asks a member whether it has the MasterKey of the staged rekey whose manifest
	// has the digest that follows it.
	readyTask = "krypton/v1/has-staged-masterkey"
	// readyTime is how long such an answer may take, and readyPause lies between two
	// questions; a member takes the MasterKey as it applies the entry that stages it.
	readyTime  = 2 * time.Second
	readyPause = 100 * time.Millisecond
	// readyPatience is how long, from the moment when a rekey was staged, members that were
	// given the MasterKey are waited for. One that has not taken it by then is down or
	// cut off, and opens the new seal as at any start: a rekey must not hang on it.
	readyPatience = 10 * time.Second
	// startKeyBytes is the length of a public start key, and haveBytes that of the MAC behind it.
	startKeyBytes = 1216
	haveBytes     = 32

	// haveLabel begins what a member authenticates with its start key. No other message under
	// that key begins with it.
	haveLabel = "krypton/v1/start-key-of-unsealed"
)

// offerStartKey answers [offerTask]: the public start key of this node, a MAC of it that only
// a node with the MasterKey in force can make, and the signature of the member key. A sealed
// node was not opened by the MasterKey before, so it gets the next one from its holders only.
func (n *Node) offerStartKey() ([]byte, error) {
	if err := n.Believed(); err != nil {
		return nil, err
	}
	o, err := n.ownOffer()
	if err != nil {
		return nil, err
	}
	have, ok := n.haveMasterKey(n.machine.View().Generation(), o)
	if !ok {
		return nil, n.whySealed()
	}
	return slices.Concat(o.Public, have[:], o.Signature), nil
}

// haveMasterKey returns the MAC with which who made an offer shows that he has the MasterKey
// in force. The signature of a member key does not: that key lies on a disk, which is worth
// nothing without the holders of the MasterKey, and must not become worth the next one.
//
//	HMAC( MAC key of snapshots, haveLabel | generation u64 | fingerprint | public start key | node id )
//
// What is replayed is a start key of that node, of which nobody else has the private part.
func (n *Node) haveMasterKey(g hierarchy.Generation, o seal.Offer) ([haveBytes]byte, bool) {
	return n.MAC(g, []byte(haveLabel), binary.BigEndian.AppendUint64(nil, uint64(g)), o.Target.Cluster[:], o.Public, []byte(o.Target.Node))
}

// askOffer asks a member for its start key, and believes nobody who has not the MasterKey
// that is in force in that view.
func (n *Node) askOffer(ctx context.Context, v *fsm.View, to seal.Target) (seal.Offer, error) {
	b, err := n.cluster.PrepareOn(ctx, to.Node, []byte(offerTask))
	if err != nil {
		return seal.Offer{}, err
	}
	if len(b) <= startKeyBytes+haveBytes {
		return seal.Offer{}, errs.New(errs.Unauthenticated, "the answer is no start key")
	}
	o := seal.Offer{Target: to, Public: b[:startKeyBytes], Signature: b[startKeyBytes+haveBytes:]}
	want, ok := n.haveMasterKey(v.Generation(), o)
	switch {
	case !ok:
		return seal.Offer{}, n.whySealed()
	case !hmac.Equal(want[:], b[startKeyBytes:startKeyBytes+haveBytes]):
		return seal.Offer{}, errs.New(errs.Unauthenticated, "who answers for the member has not the MasterKey in force",
			errs.Hint("if that node says that it is unsealed, find out who has its member key"))
	}
	return o, nil
}

func (n *Node) ownOffer() (seal.Offer, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if key, err := n.ownStartKey(); err != nil {
		return seal.Offer{}, err
	} else if key == nil {
		return seal.Offer{}, errNoCluster(errs.NotSealed)
	}
	return n.offer, nil
}

// handovers encrypts the MasterKey of a record that is about to be staged to every member that is
// unsealed, this one among them. Who does not answer in time gets none, and is named.
func (n *Node) handovers(ctx context.Context, v *fsm.View, r seal.Record, masterKey memsec.Secret) ([]*fsmpb.Handover, error) {
	own, err := n.ownOffer()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, offerTime)
	defer cancel()
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		out []*fsmpb.Handover
	)
	for _, m := range v.Members() {
		if m.GetRemoved() {
			continue
		}
		wg.Go(func() {
			offer := own
			if id := m.GetId(); id != n.id {
				var err error
				if offer, err = n.askOffer(ctx, v, seal.Target{Cluster: own.Target.Cluster, Node: id}); err != nil {
					n.log.WarnContext(ctx, "a member gets no new MasterKey now; it opens the new seal when that comes into force",
						slog.String("peer", id), slog.Any("error", err))
					return
				}
			}
			key, err := pki.ParsePublicKey(m.GetPublicKey())
			var sealed []byte
			if err == nil {
				sealed, err = seal.SealMasterKey(offer, key, r, masterKey)
			}
			if err != nil {
				n.log.ErrorContext(ctx, "a member gets no new MasterKey: its start key is not believed", slog.String("peer", m.GetId()), slog.Any("error", err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, &fsmpb.Handover{NodeId: m.GetId(), Sealed: sealed})
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b *fsmpb.Handover) int { return cmp.Compare(a.GetNodeId(), b.GetNodeId()) })
	return out, nil
}

// followRekey takes over the MasterKey that a staged ceremony has for this node, and gives up
// the one of a ceremony that is not staged any more and did not come into force. One looks at a
// time, and at the newest state: who looked at one from before the ceremony would give up what
// another one just took, and a member that said it was ready would be sealed by the commit.
func (n *Node) followRekey(ctx context.Context) {
	n.following.Lock()
	defer n.following.Unlock()
	u, v := n.open.Load(), n.machine.View()
	if u == nil {
		return
	}
	c, ok := v.OpenCeremony()
	if !ok || c.GetRekey() == nil {
		u.keys.forget(v.Generation())
		return
	}
	if err := n.takeStaged(ctx, u, v, c); err != nil {
		n.log.ErrorContext(ctx, "this node does not take the MasterKey of the staged rekey; when it comes into force the node has to open the new seal",
			slog.Any("error", err))
	}
}

// takeStaged takes the MasterKey of a staged rekey over, once.
func (n *Node) takeStaged(ctx context.Context, u *unsealed, v *fsm.View, c *fsmpb.Ceremony) error {
	i := slices.IndexFunc(c.GetRekey().GetHandovers(), func(h *fsmpb.Handover) bool { return h.GetNodeId() == n.id })
	if i < 0 || !u.keys.first(c.GetNewManifest()) {
		return nil
	}
	if err := n.Believed(); err != nil {
		u.keys.again()
		return err
	}
	r, err := seal.ParseRecord(c.GetStagedRecord())
	if err != nil {
		return err
	}
	n.mu.Lock()
	key, err := n.ownStartKey()
	n.mu.Unlock()
	if err != nil || key == nil {
		return cmp.Or(err, errNoCluster(errs.NotSealed))
	}
	masterKey, err := key.OpenMasterKey(c.GetRekey().GetHandovers()[i].GetSealed(), r)
	if err != nil {
		return err
	}
	defer masterKey.Destroy()
	if err := n.takeNext(u, v, r, c.GetRekey(), masterKey); err != nil {
		if exhausted(err) {
			u.keys.again() // there may be room soon
		}
		return err
	}
	n.log.InfoContext(ctx, "this node has the MasterKey of the staged rekey", slog.Uint64("generation", uint64(r.Generation())))
	return nil
}

// first reports whether a staged record is looked at for the first time: what did not open
// does not open the next time either, and every change of the registry asks.
func (k *generations) first(manifest []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if bytes.Equal(k.looked, manifest) {
		return false
	}
	k.looked = bytes.Clone(manifest)
	return true
}

// again has the staged record looked at once more.
func (k *generations) again() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked = nil
}

// forget gives up the MasterKey that was to follow the one in force.
func (k *generations) forget(inForce hierarchy.Generation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.isShut {
		return
	}
	have := *k.all.Load()
	last := have[len(have)-1]
	if last.number <= inForce || uint64(last.number) <= k.opened.Load() {
		return
	}
	next := slices.Clone(have[:len(have)-1])
	k.all.Store(&next)
	k.looked = nil
	last.destroy()
}

// readyFor returns nil if this node has the MasterKey of the staged rekey with that manifest,
// and so serves on when it comes into force. It takes it, if that is still to be done.
func (n *Node) readyFor(ctx context.Context, manifest []byte) error {
	u := n.open.Load()
	if u == nil {
		return n.whySealed()
	}
	v := n.machine.View()
	c, ok := v.OpenCeremony()
	if !ok || c.GetRekey() == nil || !bytes.Equal(c.GetNewManifest(), manifest) {
		return errs.New(errs.NotServing, "this node has not applied the staged rekey", errs.Hint("retry"))
	}
	n.followRekey(ctx)
	r, err := seal.ParseRecord(c.GetStagedRecord())
	if err != nil {
		return err
	}
	if !u.keys.isOf(r) {
		return errs.New(errs.FailedState, "this node has not the MasterKey of the staged rekey", errs.Hint("it opens the new seal when that comes into force"))
	}
	return nil
}

// awaitHandovers returns nil once every member that was given the MasterKey of a staged rekey
// has taken it, or has had its time. Without it a rekey that only keystores have to open would
// be committed before the members have seen what was staged for them, and all of them
// would stop. It names who goes on without.
func (n *Node) awaitHandovers(ctx context.Context, c *fsmpb.Ceremony) error {
	if c.GetRekey() == nil {
		return nil
	}
	left := n.withoutNext(ctx, c)
	v := n.machine.View()
	if len(left) > 0 && n.clock.Now().Sub(time.UnixMilli(c.GetStagedTimeMs())) < readyPatience {
		var names []string
		for _, id := range left {
			m, _ := v.Member(id)
			names = append(names, fmt.Sprintf("%s (%s)", m.GetName(), id))
		}
		return errs.New(errs.Unavailable, "the new MasterKey was not taken yet by "+strings.Join(names, ", "),
			errs.Hint("nothing is to be done: it comes into force when they have it, or %d s after it was made", int(readyPatience/time.Second)))
	}
	for _, m := range v.Members() {
		given := slices.ContainsFunc(c.GetRekey().GetHandovers(), func(h *fsmpb.Handover) bool { return h.GetNodeId() == m.GetId() })
		if !m.GetRemoved() && (!given || slices.Contains(left, m.GetId())) {
			n.log.WarnContext(ctx, "another MasterKey comes into force, and this member has not got it: it serves nothing until it opens the new seal",
				slog.String("peer", m.GetId()))
		}
	}
	return nil
}

// withoutNext returns the ids of the members that were given the MasterKey of a staged rekey
// and do not say that they have it.
func (n *Node) withoutNext(ctx context.Context, c *fsmpb.Ceremony) (left []string) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	v := n.machine.View()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for _, h := range c.GetRekey().GetHandovers() {
		m, ok := v.Member(h.GetNodeId())
		if !ok || m.GetRemoved() {
			continue
		}
		wg.Go(func() {
			if n.tookNext(ctx, m.GetId(), c.GetNewManifest()) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			left = append(left, m.GetId())
		})
	}
	wg.Wait()
	slices.Sort(left)
	return left
}

// tookNext asks one member until it says yes, says that it never will, or ctx ends.
func (n *Node) tookNext(ctx context.Context, id string, manifest []byte) bool {
	for {
		var err error
		if id == n.id {
			err = n.readyFor(ctx, manifest)
		} else {
			_, err = n.cluster.PrepareOn(ctx, id, append([]byte(readyTask), manifest...))
		}
		switch {
		case err == nil:
			return true
		case errs.Is(err, errs.Sealed), n.clock.Sleep(ctx, readyPause) != nil:
			return false
		}
	}
}
