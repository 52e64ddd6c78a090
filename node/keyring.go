package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/openkcm/krypton-cluster/auth/pki"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
	"github.com/openkcm/krypton-cluster/node/validity"
)

// roomShift says how many of the service keys go when protected memory is
// exhausted: one in 2^roomShift, then twice as many, in the end all.
const roomShift = 3

// keyring unwraps keys when they are first needed and keeps them in protected
// memory: internal keys and tenant keys in enclaves, tenant key versions and
// service keys in locked pages. It decides nothing: whether a key may be used
// is read from the view before and after, not from what is kept here.
//
// Tenant keys and their versions are kept for l2Hold after their last use; with
// l2Hold 0 they are in memory only while an operation needs them, and concurrent
// operations still share one unwrapping.
//
// It lives from unseal to seal. Once shut it has no key and loads none.
type keyring struct {
	clock    clock.Clock
	rand     io.Reader
	stores   *keystore.Registry
	keyspace hierarchy.KeyspaceID
	keys     *generations // what wraps internal keys

	ivk, l2, l21 *shelf[memsec.Secret]
	l3           *shelf[*serviceKey]
	valid        *validity.Watch // whether customers' keys still let the keys above be used

	mu     sync.Mutex
	quotas map[hierarchy.UID]*tenantQuota
}

func newKeyring(n *Node, keyspace hierarchy.KeyspaceID, keys *generations) *keyring {
	start := n.clock.Now()
	age := func() time.Duration { return n.clock.Since(start) }
	k := &keyring{
		clock: n.clock, rand: n.rand, stores: n.stores, keyspace: keyspace, keys: keys,
		ivk: newShelf[memsec.Secret](forever, age), l2: newShelf[memsec.Secret](n.l2Hold, age),
		l21: newShelf[memsec.Secret](n.l2Hold, age), l3: newShelf[*serviceKey](forever, age),
		quotas: map[hierarchy.UID]*tenantQuota{},
	}
	k.valid = n.watchL1(k)
	return k
}

// shut wipes every key, and keeps what is being loaded from becoming one. An
// operation that is in the middle of using a key finishes with it, and memsec
// wipes it then; its result does not leave (I3).
func (k *keyring) shut() {
	k.l3.shut()
	k.l21.shut()
	k.l2.shut()
	k.ivk.shut()
	k.keys.shut()
	k.valid.Shut()
}

// wait waits until the loads that shut interrupted have wiped what they had.
func (k *keyring) wait() {
	k.l3.wait()
	k.l21.wait()
	k.l2.wait()
	k.ivk.wait()
	k.valid.Wait()
}

// sweep wipes what the view or the customer's key does not allow any more, tenant keys
// whose hold time is over, and sessions that ended.
func (k *keyring) sweep(v *fsm.View) {
	// Asked once for each shelf, after its keys were listed: what is there by then was proved.
	of := func() func(hierarchy.UID) bool {
		all := sync.OnceValue(k.valid.Usable)
		return func(tenant hierarchy.UID) bool { return all()[tenant] }
	}
	l3, l21, l2 := of(), of(), of()
	k.l3.sweep(func(uid, tenant hierarchy.UID) bool { return usable(v, uid) && l3(tenant) })
	k.l21.sweep(func(uid, tenant hierarchy.UID) bool { return usable(v, uid) && l21(tenant) })
	k.l2.sweep(func(uid, tenant hierarchy.UID) bool { return usableTenantKey(v, uid, tenant) && l2(tenant) })
	k.ivk.sweep(func(uid, _ hierarchy.UID) bool { return usable(v, uid) })
	for _, sl := range k.l3.all() {
		sl.key.endSessions()
	}
}

// usable reports whether a data operation may need the key version with that
// uid, as that view has it.
func usable(v *fsm.View, uid hierarchy.UID) bool {
	o, ok := v.Version(uid[:])
	if !ok {
		return false
	}
	state := hierarchy.VersionState(o.Version.GetState())
	var above hierarchy.Ancestors
	switch o.Layer { //nolint:exhaustive // Only these have versions.
	case hierarchy.LayerIVK:
		above = hierarchy.AboveInternal()
	case hierarchy.LayerL21:
		above = aboveTenantKey(v, o.Tenant)
	case hierarchy.LayerL3:
		above = aboveServiceKey(v, o.Tenant, o.Service, o.Version)
	}
	return hierarchy.CanUnwrap(state, above, hierarchy.GrantNone) == hierarchy.NotRefused
}

// usableTenantKey is usable for an L2, which has no versions: it goes with its
// tenant, and when the tenant gets another one.
func usableTenantKey(v *fsm.View, uid, tenant hierarchy.UID) bool {
	t, ok := v.TenantByUID(tenant[:])
	return ok && string(t.GetL2Uid()) == string(uid[:]) &&
		hierarchy.CanUnwrap(hierarchy.Active, aboveTenantKey(v, t), hierarchy.GrantNone) == hierarchy.NotRefused
}

func aboveTenantKey(v *fsm.View, t *fsmpb.Tenant) hierarchy.Ancestors {
	ivk, _ := v.InternalKey(t.GetL2IvkUid())
	return hierarchy.AboveTenantKey(hierarchy.ObjectState(t.GetState()), hierarchy.VersionState(ivk.GetState()))
}

func aboveServiceKey(v *fsm.View, t *fsmpb.Tenant, s *fsmpb.Service, version *fsmpb.Version) hierarchy.Ancestors {
	parent, _ := fsm.VersionByUID(t.GetVersions(), version.GetParentUid())
	ivk, _ := v.InternalKey(t.GetL2IvkUid())
	return hierarchy.AboveServiceKey(hierarchy.ObjectState(t.GetState()), hierarchy.ObjectState(s.GetState()),
		hierarchy.VersionState(parent.GetState()), hierarchy.VersionState(ivk.GetState()))
}

// counts returns how many keys of each layer are unwrapped, for metrics.
func (k *keyring) counts() (ivk, l2, l21, l3 int) {
	return k.ivk.len(), k.l2.len(), k.l21.len(), k.l3.len()
}

// makeRoom wipes keys that nobody is using, because protected memory is
// exhausted, more of them with each round, and reports whether there were any.
// What is wiped is unwrapped again when it is needed, so a node with too little
// memory gets slower and does not stop.
func (k *keyring) makeRoom(round int) bool {
	n := k.l21.evict(maxLoaded) + k.l2.evict(maxLoaded)
	return n+k.l3.evict(k.l3.len()>>max(0, roomShift-round)+1) > 0
}

// exhausted reports whether protected memory had no room.
func exhausted(err error) bool { return errors.Is(err, memsec.ErrBudget) }

// wiped reports whether a key was wiped while it was about to be used: evicted,
// swept, or sealed. The node says which when it is asked again.
func wiped(err error) bool { return errors.Is(err, memsec.ErrDestroyed) || errors.Is(err, errShut) }

// withRoom runs fn, and again after making room if there was none.
func (k *keyring) withRoom(fn func() error) (err error) {
	for round := range maxRounds {
		if err = fn(); !exhausted(err) || !k.makeRoom(round) {
			return err
		}
	}
	return err
}

// withInternalKey runs fn with a version of the IVK.
func (k *keyring) withInternalKey(ctx context.Context, c *fsmpb.Cluster, uid hierarchy.UID, fn func(memsec.Secret) error) error {
	return with(ctx, k.ivk, uid, hierarchy.UID{}, func(context.Context) (memsec.Secret, error) {
		v, ok := fsm.VersionByUID(c.GetInternalKeys(), uid[:])
		if !ok {
			return memsec.Secret{}, errs.New(errs.StateCorrupt, "the registry refers to an internal key that it does not have")
		}
		return k.openInternalKey(c, v)
	}, fn)
}

// openInternalKey unwraps a version of the IVK. The caller destroys it.
func (k *keyring) openInternalKey(c *fsmpb.Cluster, v *fsmpb.Version) (memsec.Secret, error) {
	uid, err := uidOf(v.GetUid())
	if err != nil {
		return memsec.Secret{}, err
	}
	parent, err := k.foundedParent(c)
	if err != nil {
		return memsec.Secret{}, err
	}
	defer parent.Destroy()
	s, err := envelope.Unwrap(parent, ivkBinding(k.keyspace, fsm.GenerationOf(c), uid), v.GetBlob(), memsec.Cold)
	if err != nil {
		return memsec.Secret{}, corrupt(fmt.Sprintf("internal key version %d", v.GetNumber()), err)
	}
	return s, nil
}

// foundedParent returns a copy of what wraps internal keys in a cluster with that
// genesis, under the MasterKey in force there.
func (k *keyring) foundedParent(c *fsmpb.Cluster) (memsec.Secret, error) {
	g, ok := k.keys.in(c, fsm.GenerationOf(c))
	if !ok || g.parent.IsZero() {
		return memsec.Secret{}, errBehind(k.keys.opened.Load(), fsm.GenerationOf(c))
	}
	return g.founded(c)
}

// proveFounding returns an error if the MasterKey in memory is not the one with which
// the cluster of that genesis was founded (I11): whoever writes a log can begin it
// with other persons and rules, and pin the node to it, and copy all wrapped keys.
func (k *keyring) proveFounding(c *fsmpb.Cluster) error {
	err := k.withRoom(func() error {
		first, ok := firstInternalKey(c)
		if !ok {
			return errs.New(errs.StateCorrupt, "the registry has no first internal key")
		}
		key, err := k.openInternalKey(c, first)
		key.Destroy()
		return err
	})
	if !errs.Is(err, errs.StateCorrupt) {
		return nil // it opens; or there is no memory, or no key any more, which whoever needs it meets
	}
	return errs.New(errs.StateCorrupt, "the history of this node does not begin as its cluster did: the first internal key does not open",
		errs.Hint("find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one"), errs.Cause(err))
}

// proveSucceeded returns an error if a MasterKey that came after the first one is not of
// this cluster. Who began its ceremony people signed for, but not which MasterKey was
// made: whoever writes the data directory of a node that sleeps, and has such a
// ceremony's signatures, can put a MasterKey of its own there, and everything that
// is under it. What it cannot have is the private key of a CA that stands in the genesis, or
// of one that took its place: that came from MasterKey to MasterKey inside of an internal key.
func (k *keyring) proveSucceeded(v *fsm.View) error {
	if v.Generation() == 1 {
		return nil
	}
	err := k.withRoom(func() error {
		if err := proveConfirmed(v.Cluster()); err != nil {
			return err
		}
		ca, err := k.openNodeCA(v)
		if err == nil {
			ca.Destroy()
		}
		return err
	})
	if !errs.Is(err, errs.StateCorrupt) {
		return nil // as in proveFounding
	}
	return errs.New(errs.StateCorrupt, "the MasterKey that opened this node is not one of its cluster: what was founded with the cluster is not under it",
		errs.Hint("find out who can write to the data directory; then remove this node (krypton operator remove) and let it join again with an empty one"), errs.Cause(err))
}

// openNodeCA opens the CA of the nodes, if it is the one that people vouched for last, or
// comes from that one by a line of CAs each of which the one before signed. What is not that
// CA is StateCorrupt. The caller destroys it.
func (k *keyring) openNodeCA(v *fsm.View) (*pki.CA, error) {
	anchor, ok := fsm.Anchor(v.Cluster(), SecretNodeCA)
	if !ok {
		return nil, errs.New(errs.StateCorrupt, "the genesis has no "+SecretNodeCA)
	}
	s, ok := v.Secret(SecretNodeCA)
	if !ok {
		return nil, errs.New(errs.StateCorrupt, "the cluster has no "+SecretNodeCA)
	}
	if !fsm.Descends(anchor, s) {
		return nil, errs.New(errs.StateCorrupt, "the "+SecretNodeCA+" of the cluster does not come from the one that people vouched for")
	}
	uid, err := uidOf(s.GetIvkUid())
	if err != nil {
		return nil, err
	}
	version, ok := fsm.VersionByUID(v.Cluster().GetInternalKeys(), uid[:])
	if !ok {
		return nil, errs.New(errs.StateCorrupt, "the registry refers to an internal key that it does not have")
	}
	cert, err := x509.ParseCertificate(s.GetPublic())
	if err != nil {
		return nil, errs.New(errs.StateCorrupt, "the certificate of "+SecretNodeCA+" does not parse", errs.Cause(err))
	}
	ivk, err := k.openInternalKey(v.Cluster(), version)
	if err != nil {
		return nil, err
	}
	defer ivk.Destroy()
	key, err := envelope.Unwrap(ivk, secretBinding(k.keyspace, uid, secretUID(SecretNodeCA)), s.GetBlob(), memsec.Cold)
	if err != nil {
		return nil, corrupt("secret "+SecretNodeCA, err)
	}
	ca, err := pki.OpenCA(cert, key)
	if err != nil {
		key.Destroy()
		return nil, errs.New(errs.StateCorrupt, "the key of "+SecretNodeCA+" is not that of its certificate", errs.Cause(err))
	}
	return ca, nil
}

// firstInternalKey returns the oldest version that is not destroyed: a later one a
// leader that lies could have made, and would make every node disbelieve its state.
func firstInternalKey(c *fsmpb.Cluster) (*fsmpb.Version, bool) {
	for _, v := range c.GetInternalKeys() {
		if len(v.GetBlob()) > 0 {
			return v, true
		}
	}
	return nil, false
}

// withTenantKey runs fn with the L2 of a tenant. To load it the nested blob is
// opened, for which the customer's keystore has to agree.
func (k *keyring) withTenantKey(ctx context.Context, c *fsmpb.Cluster, t *fsmpb.Tenant, fn func(memsec.Secret) error) error {
	nest, err := k.nest(t.GetUid(), t.GetL2Uid(), t.GetL2IvkUid())
	if err != nil {
		return err
	}
	return with(ctx, k.l2, nest.binding.Subject, nest.binding.Tenant, func(ctx context.Context) (memsec.Secret, error) {
		proof, err := k.valid.Begin(nest.binding.Tenant)
		if err != nil {
			return memsec.Secret{}, err
		}
		s, err := k.openTenantKey(ctx, c, t, nest)
		proof.Done(ctx, err)
		if err == nil {
			err = k.valid.Standing(nest.binding.Tenant).Denied() // by a later answer than this one
		}
		if err != nil {
			s.Destroy()
			return memsec.Secret{}, l1Error("tenant key of "+t.GetName(), err)
		}
		return s, nil
	}, fn)
}

// openTenantKey unwraps the L2 of a tenant, for which the customer's keystore has to agree.
// Errors of the keystore come out as they are.
func (k *keyring) openTenantKey(ctx context.Context, c *fsmpb.Cluster, t *fsmpb.Tenant, nest nesting) (s memsec.Secret, err error) {
	err = k.withInternalKey(ctx, c, nest.ivk, func(ivk memsec.Secret) error {
		s, err = envelope.OpenL2(ctx, ivk, nest.binding, k.unwrapWith(t.GetBinding(), t.GetUid()), t.GetL2Blob(), memsec.Cold)
		return err
	})
	return s, err
}

// withTenantVersion runs fn with a version of the tenant key (L2.1).
func (k *keyring) withTenantVersion(ctx context.Context, c *fsmpb.Cluster, t *fsmpb.Tenant, v *fsmpb.Version, fn func(memsec.Secret) error) error {
	b, err := l21Binding(k.keyspace, t.GetUid(), v.GetParentUid(), v.GetUid())
	if err != nil {
		return err
	}
	return with(ctx, k.l21, b.Subject, b.Tenant, func(ctx context.Context) (s memsec.Secret, err error) {
		err = k.withTenantKey(ctx, c, t, func(l2 memsec.Secret) error {
			s, err = envelope.Unwrap(l2, b, v.GetBlob(), memsec.Hot)
			return corrupt(fmt.Sprintf("version %d of the key of tenant %s", v.GetNumber(), t.GetName()), err)
		})
		return s, err
	}, fn)
}

// serviceKey returns the version of a service key (L3) that was chosen, and the
// id of the call to the customer's keystore if this load made one.
func (k *keyring) serviceKey(ctx context.Context, id corr.ID, c choice) (*serviceKey, keystore.RequestID, error) {
	uid, err := uidOf(c.version.GetUid())
	if err != nil {
		return nil, "", err
	}
	if key, ok := k.l3.peek(uid); ok {
		return key, "", nil
	}
	b, err := l3Binding(k.keyspace, c.tenant.GetUid(), c.service.GetUid(), c.version.GetParentUid(), c.version.GetUid())
	if err != nil {
		return nil, "", err
	}
	ctx, tr := withTrace(corr.With(ctx, id))
	sl, err := k.l3.take(ctx, uid, b.Tenant, func(ctx context.Context) (key *serviceKey, err error) {
		parent, ok := fsm.VersionByUID(c.tenant.GetVersions(), c.version.GetParentUid())
		if !ok {
			return nil, errs.New(errs.StateCorrupt, "the registry refers to a tenant key version that it does not have")
		}
		err = k.withTenantVersion(ctx, c.cluster, c.tenant, parent, func(l21 memsec.Secret) error {
			secret, err := envelope.Unwrap(l21, b, c.version.GetBlob(), memsec.Hot)
			if err != nil {
				return corrupt(fmt.Sprintf("version %d of the key of service %s/%s", c.version.GetNumber(), c.tenant.GetName(), c.service.GetName()), err)
			}
			key, err = k.newServiceKey(secret, c.used(), k.valid.Standing(b.Tenant), envelope.Scope{Keyspace: k.keyspace, Tenant: b.Tenant, Service: b.Service, Version: uid})
			return err
		})
		if err == nil && key.valid.Denied() != nil {
			key.Destroy() // it was purged while this one was on its way
			return nil, key.valid.Denied()
		}
		return key, err
	})
	if err != nil {
		return nil, "", err
	}
	// A service key is not held by its users: memsec refuses the use of one that
	// was wiped, and the operation loads it again.
	defer k.l3.give(sl)
	return sl.key, tr.request, nil
}

// unwrapWith returns the call to the customer's keystore of a binding, as the
// identity of the tenant.
func (k *keyring) unwrapWith(b *fsmpb.Binding, tenant []byte) envelope.UnwrapL1 {
	return func(ctx context.Context, blob, aad []byte) (s memsec.Secret, err error) {
		err = withL1(k.stores, b, tenant, func(p keystore.Provider) (err error) {
			s, err = unwrapBy(p, keystore.KeyRef(b.GetKey()))(ctx, blob, aad)
			return err
		})
		return s, err
	}
}

// unwrapBy is the call itself.
func unwrapBy(p keystore.Provider, key keystore.KeyRef) envelope.UnwrapL1 {
	return func(ctx context.Context, blob, aad []byte) (memsec.Secret, error) {
		res, err := p.Unwrap(ctx, keystore.UnwrapRequest{Key: key, Blob: blob, AAD: aad, Class: memsec.Hot, Correlation: correlation(ctx)})
		if err != nil {
			return memsec.Secret{}, err
		}
		traced(ctx, res.RequestID)
		return res.Secret, nil
	}
}

// trace takes what a load did out of it, for the record of the operation that
// began the load. Those that only waited for it made no call.
type trace struct{ request keystore.RequestID }

type traceKey struct{}

func withTrace(ctx context.Context) (context.Context, *trace) {
	tr := new(trace)
	return context.WithValue(ctx, traceKey{}, tr), tr
}

func traced(ctx context.Context, id keystore.RequestID) {
	if tr, ok := ctx.Value(traceKey{}).(*trace); ok {
		tr.request = id
	}
}

// corrupt is the error for material of the registry that does not open under
// its own key. No caller caused it, and no caller can mend it.
func corrupt(what string, err error) error {
	if errs.Is(err, errs.Integrity) {
		return errs.New(errs.StateCorrupt, "the registry's "+what+" does not open",
			errs.Hint("compare this node with the others (krypton status); restore the registry from a snapshot if all agree"), errs.Cause(err))
	}
	return err
}

// l1Error gives a keystore's refusal its place in the error table. Denied, and
// only Denied, is the customer's kill switch.
func l1Error(what string, err error) error {
	if _, ok := errors.AsType[*keystore.Error](err); ok {
		return keystore.Visible(err)
	}
	return corrupt(what, err)
}
