package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/keystore"
	"github.com/openkcm/krypton-cluster/memsec"
)

// A binding is proved before it is made (I21): the identity is no other tenant's, the
// keystore says that identity and key are this one's, a one-time key is wrapped and
// unwrapped as that identity, and from a region that is not allowed it is refused.

// BindTenant gives a tenant that has none its customer key. It returns the binding with
// what was proved of it, also where nothing is to change.
func (n *Node) BindTenant(ctx context.Context, tok gate.Token, r Request, name hierarchy.Name, b *fsmpb.Binding) (*fsmpb.Binding, error) {
	if err := tok.Require(gate.BindTenant, hierarchy.TenantPath(name).String()); err != nil {
		return nil, err
	}
	uid, err := n.ownerUID(ctx, tok, r, string(name))
	if err != nil {
		return nil, err
	}
	if b, err = n.archetyped(b); err != nil {
		return nil, err
	}
	drafted := r.Drafted
	r.Drafted = func(cmd *fsmpb.Command) {
		b = cmd.GetBindTenant().GetBinding()
		if drafted != nil {
			drafted(cmd)
		}
	}
	cmd := r.command(0)
	cmd.Body = &fsmpb.Command_BindTenant{BindTenant: &fsmpb.BindTenant{Tenant: string(name), TenantUid: uid, Binding: b, Etag: r.ETag}}
	if _, err := n.commitMade(ctx, tok, r, cmd); err != nil {
		return nil, err
	}
	if t, ok := n.machine.View().TenantByUID(uid); ok && !r.ValidateOnly {
		b = t.GetBinding()
	}
	return b, nil
}

// archetyped returns the binding with how the customer holds the key.
func (n *Node) archetyped(b *fsmpb.Binding) (*fsmpb.Binding, error) {
	is := archetype(n.stores.Type(b.GetKeystore()))
	switch b.GetArchetype() {
	case is:
		return b, nil
	case "":
		b = proto.CloneOf(b)
		b.Archetype = is
		return b, nil
	}
	// And people may have signed it.
	return nil, errs.New(errs.InvalidArgument, "binding.archetype is not how the keystore holds the key", errs.Hint("it is %s; leave it out if nobody signs", is))
}

// identityOf returns as whom the key of a binding is used; false: as the node.
func identityOf(b *fsmpb.Binding, tenant []byte) (keystore.Identity, bool) {
	id := keystore.Identity{Tenant: hex.EncodeToString(tenant), Names: make(map[string]string, len(b.GetIdentity()))}
	for _, one := range b.GetIdentity() {
		id.Names[one.GetName()] = one.GetValue()
	}
	return id, len(id.Names) != 0
}

// withL1 runs fn with the keystore of a binding, as the identity that the binding names.
func withL1(stores *keystore.Registry, b *fsmpb.Binding, tenant []byte, fn func(keystore.Provider) error) error {
	id, named := identityOf(b, tenant)
	if !named {
		p, err := stores.Get(b.GetKeystore())
		if err != nil {
			return err
		}
		return fn(p)
	}
	return stores.With(b.GetKeystore(), id, func(p keystore.Owned) error { return fn(p) })
}

// regionOf returns the region of a node, as the registry has it.
func regionOf(v *fsm.View, id string) string {
	m, _ := v.Member(id)
	return m.GetRegion()
}

// mayUse (I22) refuses where the customer does not allow the region of a node. Nothing is
// asked of the keystore there: it would be denied, and that would look like the end
// of the customer's consent.
func mayUse(v *fsm.View, node string, b *fsmpb.Binding) error {
	if len(b.GetRegions()) == 0 || slices.Contains(b.GetRegions(), regionOf(v, node)) {
		return nil
	}
	return errs.New(errs.NotServing, "the tenant's binding does not allow the region of this node", errs.Hint("ask a node of an allowed region"))
}

// errUnbound is for what needs a key of a tenant that has none yet.
func errUnbound() error {
	return errs.New(errs.FailedState, "the tenant has no customer key yet", errs.Hint("bind it: krypton tenant bind"))
}

// bindKey makes the first key of a tenant, after the proof of its binding.
func (n *Node) bindKey(ctx context.Context, ring *keyring, v *fsm.View, c *fsmpb.BindTenant) error {
	t, ok := v.Tenant(c.GetTenant())
	b := c.GetBinding()
	switch {
	case !ok:
		return gate.NoSuchObject()
	case string(t.GetUid()) != string(c.GetTenantUid()):
		return errs.New(errs.Aborted, "the tenant moved while the change was being prepared")
	case !fsm.Unbound(t):
		return errs.New(errs.FailedState, "the tenant has a customer key already", errs.Hint("make another tenant"))
	case v.Cluster().GetFormatVersion() < fsm.FormatOwnedKeys:
		return errs.New(errs.FailedState, "the format version of this cluster is older than the binding of tenants", errs.Hint("upgrade every node"))
	}
	if err := mayUse(v, string(n.cluster.NodeID()), b); err != nil {
		if !slices.ContainsFunc(v.Members(), func(m *fsmpb.Member) bool { return !m.GetRemoved() && slices.Contains(b.GetRegions(), m.GetRegion()) }) {
			return errs.New(errs.FailedState, "no node is in a region that the binding allows", errs.Hint("name regions that nodes are in: krypton operator members"))
		}
		return err
	}
	store, err := n.keystoreOf(b)
	if err != nil {
		return err
	}
	id, named := identityOf(b, t.GetUid())
	_, assumes := store.(keystore.Assumer)
	switch {
	case named != assumes && assumes:
		return errs.New(errs.InvalidArgument, "the binding names no identity", errs.Hint("name one that is used for this tenant only: krypton tenant bind --identity NAME=VALUE"))
	case named != assumes:
		return errs.New(errs.InvalidArgument, "the binding names an identity, and in this keystore none can be assumed", errs.Hint("leave it out"))
	case !assumes:
		b.Owner, b.L1 = "", ""
		if b.GetArchetype() != "local" {
			if err := v.KeyTaken(b, t.GetUid()); err != nil {
				return err
			}
		}
		return n.firstKey(ctx, ring, v, c, store)
	}
	err = n.stores.With(b.GetKeystore(), id, func(p keystore.Owned) error {
		b.Owner, b.L1 = p.Owner(), ""
		// Before anybody is asked, and so before anything of another tenant is touched.
		if err := v.OwnerTaken(b.GetOwner(), t.GetUid()); err != nil {
			return err
		}
		if err := v.KeyTaken(b, t.GetUid()); err != nil {
			return err
		}
		proof, err := p.Prove(ctx, keystore.ProveRequest{Key: keystore.KeyRef(b.GetKey()), Correlation: correlation(ctx)})
		if err != nil {
			return err
		}
		traced(ctx, proof.RequestID)
		b.L1 = proof.Key
		if err := v.KeyTaken(b, t.GetUid()); err != nil {
			return err
		}
		return n.firstKey(ctx, ring, v, c, p)
	})
	return bindError(err)
}

// bindError says to whoever binds what is wrong with identity or key: they named both.
func bindError(err error) error {
	ke, ok := errors.AsType[*keystore.Error](err)
	if !ok {
		return err
	}
	var not *keystore.NotOwnedError
	switch {
	case errors.As(err, &not):
		return errs.New(errs.Denied, "the keystore does not show that the key is this tenant's: "+not.Why, errs.Hint("have the customer give the key to this tenant, by its uid"), errs.Cause(err))
	case errors.Is(err, keystore.ErrRefused):
		return errs.New(errs.Denied, "the keystore does not let the nodes act as the identity of the binding",
			errs.Hint("have the customer let it be assumed for this tenant, by its uid; the node's audit trail has the keystore's words"), errs.Cause(err))
	case ke.Op == keystore.OpOpen && ke.Class == keystore.Misconfigured:
		return errs.New(errs.InvalidArgument, "the binding names an identity that cannot be: "+ke.Unwrap().Error(), errs.Hint("docs/keystores says what an identity is called there"), errs.Cause(err))
	}
	return keystore.Visible(err)
}

// firstKey makes L2, nested in L1 and IVK, and the first L2.1 of a tenant.
func (n *Node) firstKey(ctx context.Context, ring *keyring, v *fsm.View, c *fsmpb.BindTenant, l1 keystore.Provider) error {
	m, err := n.nestNew(ctx, ring, v, c.GetTenantUid(), keystore.KeyRef(c.GetBinding().GetKey()), l1)
	if err != nil {
		return err
	}
	c.Binding.KeyVersion = string(m.keyVersion)
	c.L2Uid, c.L2Blob, c.L2IvkUid, c.Version = m.l2[:], m.blob, m.ivk, m.version
	return nil
}

// foreignTask begins what a node asks another one of a region that is not allowed:
// to try whether it can use the key all the same.
const foreignTask = "krypton/foreign/v1\n"

// The answers.
const (
	foreignDenied = "denied"
	foreignOpened = "opened"
	foreignUnsaid = "unsaid"
)

// proveForeign has one node of each region that is not allowed try the key. Denied
// is what the customer wants; a key that opens there ends the binding. Where there is no such node, or
// none that finds out, nothing is proved, and the binding says so by not naming the region.
func (n *Node) proveForeign(ctx context.Context, cmd *fsmpb.Command) error {
	b := cmd.GetBindTenant().GetBinding()
	b.DeniedIn = nil
	if len(b.GetRegions()) == 0 || len(b.GetIdentity()) == 0 {
		return nil
	}
	v := n.machine.View()
	raw, err := proto.Marshal(cmd)
	if err != nil {
		return fmt.Errorf("encode command: %w", err)
	}
	verdicts := map[string]string{}
	for _, id := range append([]string{string(n.cluster.NodeID())}, n.cluster.Peers()...) {
		region := regionOf(v, id)
		if region == "" || slices.Contains(b.GetRegions(), region) || verdicts[region] == foreignDenied || len(verdicts) == fsm.MaxRegions {
			continue
		}
		said, err := n.tryOn(ctx, id, append([]byte(foreignTask), raw...))
		switch {
		case ctx.Err() != nil:
			return errs.From(ctx.Err())
		case err == nil && said == foreignOpened:
			return errs.New(errs.Denied, "a node of a region that is not allowed can use the key", errs.Hint("have the customer allow the identities of the allowed regions alone"))
		case err != nil:
			n.log.WarnContext(ctx, "a node of a region that is not allowed did not try the key of a tenant", slog.String("node", id), slog.Any("error", err))
			said = foreignUnsaid
		}
		verdicts[region] = said
	}
	for region, said := range verdicts {
		if said == foreignDenied {
			b.DeniedIn = append(b.DeniedIn, region)
		}
	}
	slices.Sort(b.GetDeniedIn())
	return nil
}

func (n *Node) tryOn(ctx context.Context, id string, task []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, keystoreTime)
	defer cancel()
	if id == string(n.cluster.NodeID()) {
		said, err := n.tryForeign(ctx, task[len(foreignTask):])
		return string(said), err
	}
	said, err := n.cluster.PrepareOn(ctx, id, task)
	return string(said), err
}

// tryForeign is what such a node does: a real unwrap, the only proof that there is.
// What it opened it throws away. It is recorded here, under the correlation id of the call.
func (n *Node) tryForeign(ctx context.Context, raw []byte) ([]byte, error) {
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(raw, cmd); err != nil || cmd.GetBindTenant() == nil {
		return nil, errs.New(errs.InvalidArgument, "the task to try a key does not decode", errs.Cause(err))
	}
	c := cmd.GetBindTenant()
	object, err := preparedObject(cmd)
	if err != nil {
		return nil, err
	}
	id, err := corr.Parse(cmd.GetCorrelationId())
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the task to try a key has no correlation id", errs.Cause(err))
	}
	said := foreignUnsaid
	err = n.gate.DoNode(corr.With(ctx, id), gate.NodeCheckL1, object, func(gate.Token) error {
		u, st, err := n.serving()
		if err != nil {
			return err
		}
		v := st.View
		t, ok := v.Tenant(c.GetTenant())
		if !ok || string(t.GetUid()) != string(c.GetTenantUid()) {
			return gate.NoSuchObject()
		}
		if mayUse(v, string(n.cluster.NodeID()), c.GetBinding()) == nil || len(c.GetBinding().GetIdentity()) == 0 {
			return errs.New(errs.InvalidArgument, "the region of this node is allowed, so it proves nothing")
		}
		nest, err := u.ring.nest(c.GetTenantUid(), c.GetL2Uid(), c.GetL2IvkUid())
		if err != nil {
			return err
		}
		return u.ring.withInternalKey(ctx, v.Cluster(), nest.ivk, func(ivk memsec.Secret) error {
			var key memsec.Secret
			err := n.asForTheFirstTime(c, func(p keystore.Provider) (err error) {
				key, err = envelope.OpenL2(corr.With(ctx, id), ivk, nest.binding, unwrapBy(p, keystore.KeyRef(c.GetBinding().GetKey())), c.GetL2Blob(), memsec.Cold)
				return err
			})
			key.Destroy()
			switch {
			case err == nil:
				said = foreignOpened
			case keystore.ClassOf(err) == keystore.Denied, errors.Is(err, keystore.ErrRefused):
				said = foreignDenied
			}
			if err != nil && said != foreignDenied {
				return l1Error("new tenant key", err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return []byte(said), nil
}

// asForTheFirstTime runs fn as the identity of a binding, with a session that nobody had
// before: a session outlives the right to begin it.
func (n *Node) asForTheFirstTime(c *fsmpb.BindTenant, fn func(keystore.Provider) error) error {
	store, err := n.keystoreOf(c.GetBinding())
	if err != nil {
		return err
	}
	a, ok := store.(keystore.Assumer)
	if !ok {
		return errs.New(errs.InvalidArgument, "in this keystore no identity of a tenant can be assumed")
	}
	id, _ := identityOf(c.GetBinding(), c.GetTenantUid())
	p, err := a.As(id)
	if err != nil {
		return err
	}
	return errors.Join(fn(p), p.Close())
}
