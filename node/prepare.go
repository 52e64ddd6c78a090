package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"

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

// made is what a preparation tells the record of the operation.
type made struct {
	uid     []byte // of the key version that was made
	request keystore.RequestID
}

func (m made) details() gate.Details {
	return gate.Details{KeyVersion: hex.EncodeToString(m.uid), KeystoreRequest: string(m.request)}
}

// prepareAnywhere fills in the key material of a command on this node, or, when
// this node cannot, on a peer that can. The finished command holds only
// ciphertext and uids, so it may travel.
func (n *Node) prepareAnywhere(ctx context.Context, cmd *fsmpb.Command) (made, error) {
	m, err := n.prepare(ctx, cmd)
	if err == nil || !elsewhere(err) {
		return m, err
	}
	raw, merr := proto.Marshal(cmd)
	if merr != nil {
		return made{}, fmt.Errorf("encode command: %w", merr)
	}
	for _, id := range n.cluster.Peers() {
		out, perr := n.cluster.PrepareOn(ctx, id, raw)
		if ctx.Err() != nil {
			return made{}, errs.From(ctx.Err())
		}
		if perr != nil && elsewhere(perr) {
			continue // the next peer may be able to
		}
		if perr != nil {
			return made{}, perr
		}
		answer := &fsmpb.Command{}
		if proto.Unmarshal(out, answer) != nil {
			continue
		}
		if m, ok := takeMaterial(cmd, answer); ok {
			return m, nil
		}
	}
	return made{}, err // what this node says of itself
}

// elsewhere reports whether another node might be able to prepare what this one
// cannot. A held cluster has none; a tenant that is suspended is so everywhere.
func elsewhere(err error) bool {
	e := errs.From(err)
	return e.Code.Row().Retry == errs.RetryOtherNode || errors.Is(err, errNoKeystore)
}

// takeMaterial copies the material that a peer made into cmd, and nothing else:
// whatever says who asked for what stays as it is here (I6). It reports false
// for an answer that is not one to this command.
func takeMaterial(cmd, answer *fsmpb.Command) (made, bool) {
	version := func(v *fsmpb.Version) *fsmpb.Version {
		return &fsmpb.Version{Number: v.GetNumber(), Uid: v.GetUid(), Blob: v.GetBlob(), ParentUid: v.GetParentUid()}
	}
	switch body := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		a := answer.GetCreateTenant()
		if a == nil {
			return made{}, false
		}
		c := body.CreateTenant
		c.Binding.KeyVersion = a.GetBinding().GetKeyVersion()
		c.Uid, c.L2Uid, c.L2Blob, c.L2IvkUid = a.GetUid(), a.GetL2Uid(), a.GetL2Blob(), a.GetL2IvkUid()
		c.Version = version(a.GetVersion())
		return made{uid: c.GetVersion().GetUid()}, true
	case *fsmpb.Command_BindTenant:
		a := answer.GetBindTenant()
		if a == nil {
			return made{}, false
		}
		c := body.BindTenant
		c.Binding.KeyVersion, c.Binding.Owner, c.Binding.L1 = a.GetBinding().GetKeyVersion(), a.GetBinding().GetOwner(), a.GetBinding().GetL1()
		c.L2Uid, c.L2Blob, c.L2IvkUid, c.Version = a.GetL2Uid(), a.GetL2Blob(), a.GetL2IvkUid(), version(a.GetVersion())
		return made{uid: c.GetVersion().GetUid()}, true
	case *fsmpb.Command_CreateService:
		a := answer.GetCreateService()
		if a == nil {
			return made{}, false
		}
		c := body.CreateService
		c.Uid, c.TenantUid, c.Version = a.GetUid(), a.GetTenantUid(), version(a.GetVersion())
		return made{uid: c.GetVersion().GetUid()}, true
	case *fsmpb.Command_AddVersion:
		a := answer.GetAddVersion()
		if a == nil {
			return made{}, false
		}
		c := body.AddVersion
		c.ObjectUid, c.Version = a.GetObjectUid(), version(a.GetVersion())
		return made{uid: c.GetVersion().GetUid()}, true
	}
	return made{}, false
}

// Prepare is what a peer asks for: it fills in the key material of an encoded
// command, for nodes that cannot. Keys are made here, so this node records it,
// under the correlation id of the call; who asked for what stands in the record
// of the node that the caller reached.
func (n *Node) Prepare(ctx context.Context, raw []byte) (out []byte, err error) {
	if string(raw) == offerTask {
		return n.offerStartKey()
	}
	if digest, ok := bytes.CutPrefix(raw, []byte(readyTask)); ok {
		return []byte{}, n.readyFor(ctx, digest)
	}
	if task, ok := bytes.CutPrefix(raw, []byte(witnessTask)); ok {
		return n.witness(ctx, task)
	}
	if index, ok := bytes.CutPrefix(raw, []byte(clearTask)); ok {
		return n.clearDisk(ctx, index)
	}
	if task, ok := bytes.CutPrefix(raw, []byte(foreignTask)); ok {
		return n.tryForeign(ctx, task)
	}
	cmd := &fsmpb.Command{}
	if err := proto.Unmarshal(raw, cmd); err != nil {
		return nil, errs.New(errs.InvalidArgument, "the command to prepare does not decode", errs.Cause(err))
	}
	object, err := preparedObject(cmd)
	if err != nil {
		return nil, err
	}
	id, err := corr.Parse(cmd.GetCorrelationId())
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "the command to prepare has no correlation id", errs.Cause(err))
	}
	ctx = corr.With(ctx, id)
	err = n.gate.DoNode(ctx, gate.NodePrepare, object, func(tok gate.Token) error {
		m, err := n.prepare(ctx, cmd)
		tok.Describe(m.details())
		if err != nil {
			return err
		}
		if out, err = proto.Marshal(cmd); err != nil {
			return fmt.Errorf("encode command: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// preparedObject returns the name of what a command makes a key for.
func preparedObject(cmd *fsmpb.Command) (string, error) {
	var o Object
	switch body := cmd.GetBody().(type) {
	case *fsmpb.Command_CreateTenant:
		o.Tenant = hierarchy.Name(body.CreateTenant.GetName())
	case *fsmpb.Command_BindTenant:
		o.Tenant = hierarchy.Name(body.BindTenant.GetTenant())
		if body.BindTenant.GetBinding() == nil {
			return "", errs.New(errs.InvalidArgument, "the command names no customer key")
		}
	case *fsmpb.Command_CreateService:
		o.Tenant, o.Service = hierarchy.Name(body.CreateService.GetTenant()), hierarchy.Name(body.CreateService.GetName())
		if o.Service == "" {
			return "", errs.New(errs.InvalidArgument, "the command names no service")
		}
	case *fsmpb.Command_AddVersion:
		ref := body.AddVersion.GetObject()
		o.Tenant, o.Service = hierarchy.Name(ref.GetTenant()), hierarchy.Name(ref.GetService())
	default:
		return "", errs.New(errs.InvalidArgument, "the command needs no key material")
	}
	if _, err := hierarchy.ParseName(string(o.Tenant)); err != nil {
		return "", err
	}
	if o.Service != "" {
		if _, err := hierarchy.ParseName(string(o.Service)); err != nil {
			return "", err
		}
	}
	return o.Name(), nil
}

// prepare makes the key material that a command needs. The uids of every parent
// used are in it, so that the state machine notices when one moved.
func (n *Node) prepare(ctx context.Context, cmd *fsmpb.Command) (made, error) {
	u, st, err := n.serving()
	if err != nil {
		return made{}, err
	}
	v := st.View
	ctx, tr := withTrace(ctx)
	var version *fsmpb.Version
	for range maxRounds {
		err = u.ring.withRoom(func() error {
			switch body := cmd.GetBody().(type) {
			case *fsmpb.Command_CreateTenant:
				err := n.makeTenant(ctx, u.ring, v, body.CreateTenant)
				version = body.CreateTenant.GetVersion()
				return err
			case *fsmpb.Command_BindTenant:
				err := n.bindKey(ctx, u.ring, v, body.BindTenant)
				version = body.BindTenant.GetVersion()
				return err
			case *fsmpb.Command_CreateService:
				err := n.makeService(ctx, u.ring, v, body.CreateService)
				version = body.CreateService.GetVersion()
				return err
			case *fsmpb.Command_AddVersion:
				err := n.makeVersion(ctx, u.ring, v, body.AddVersion)
				version = body.AddVersion.GetVersion()
				return err
			}
			return errs.New(errs.InvalidArgument, "the command needs no key material")
		})
		if !wiped(err) {
			break
		}
		// Sealed or swept meanwhile: the next look says which.
		if u, st, err = n.serving(); err != nil {
			return made{}, err
		}
		v = st.View
	}
	if wiped(err) {
		err = errs.New(errs.ChangeInProgress, "the keys above keep changing while a key is made", errs.Hint("retry"))
	}
	if err != nil {
		err = n.refused(ctx, Look{View: v}, err)
	}
	return made{uid: version.GetUid(), request: tr.request}, err
}

// makeTenant makes the keys of a tenant that has none, which is bound in the same
// command; one without a binding gets its uid only.
func (n *Node) makeTenant(ctx context.Context, ring *keyring, v *fsm.View, c *fsmpb.CreateTenant) error {
	uids, err := n.uids(1)
	if err != nil {
		return err
	}
	tenant := uids[0]
	c.Uid = tenant[:]
	if c.GetBinding() == nil {
		return nil
	}
	l1, err := n.keystoreOf(c.GetBinding())
	if err != nil {
		return err
	}
	if _, assumes := l1.(keystore.Assumer); assumes && v.Cluster().GetFormatVersion() >= fsm.FormatOwnedKeys {
		// The identity is for the uid, which the customer cannot know before there is one.
		return errs.New(errs.InvalidArgument, "in this keystore a tenant is bound by an identity of its own", errs.Hint("make it without a key, then bind it: krypton tenant bind"))
	}
	m, err := n.nestNew(ctx, ring, v, tenant[:], keystore.KeyRef(c.GetBinding().GetKey()), l1)
	if err != nil {
		return err
	}
	c.Binding.KeyVersion = string(m.keyVersion)
	c.L2Uid, c.L2Blob, c.L2IvkUid, c.Version = m.l2[:], m.blob, m.ivk, m.version
	return nil
}

// nested is a new tenant key and its first version.
type nested struct {
	l2         hierarchy.UID
	blob, ivk  []byte
	version    *fsmpb.Version
	keyVersion keystore.KeyVersion
}

// nestNew makes L2, nested in L1 and IVK, and the first L2.1.
func (n *Node) nestNew(ctx context.Context, ring *keyring, v *fsm.View, tenant []byte, key keystore.KeyRef, l1 keystore.Provider) (nested, error) {
	uids, err := n.uids(2)
	if err != nil {
		return nested{}, err
	}
	m := nested{l2: uids[0]}
	ivks, primary := v.InternalKeys()
	ivkVersion, ok := fsm.VersionAt(ivks, primary)
	if !ok {
		return m, errs.New(errs.StateCorrupt, "the registry has no primary internal key")
	}
	m.ivk = ivkVersion.GetUid()
	nest, err := ring.nest(tenant, m.l2[:], m.ivk)
	if err != nil {
		return m, err
	}
	l2Key, err := memsec.Random(n.rand, memsec.KeySize, memsec.Cold)
	if err != nil {
		return m, fmt.Errorf("make tenant key: %w", err)
	}
	defer l2Key.Destroy()
	wrap := func(ctx context.Context, k1 memsec.Secret, aad []byte) ([]byte, error) {
		res, err := l1.Wrap(ctx, keystore.WrapRequest{Key: key, Secret: k1, AAD: aad, Correlation: correlation(ctx)})
		m.keyVersion = res.KeyVersion
		return res.Blob, err
	}
	err = ring.withInternalKey(ctx, v.Cluster(), nest.ivk, func(ivk memsec.Secret) error {
		var err error
		if m.blob, err = envelope.NestL2(ctx, n.rand, ivk, nest.binding, wrap, l2Key); err != nil {
			return l1Error("new tenant key", err)
		}
		// The proof of a binding is a real unwrap, not the keystore's word: a key
		// that wraps but does not unwrap would make a tenant that never opens.
		proof, err := envelope.OpenL2(ctx, ivk, nest.binding, unwrapBy(l1, key), m.blob, memsec.Cold)
		if err != nil {
			return l1Error("new tenant key", err)
		}
		proof.Destroy()
		return nil
	})
	if err != nil {
		return m, err
	}
	if m.version, err = n.wrapL21(ring, l2Key, tenant, m.l2[:], uids[1]); err != nil {
		return m, err
	}
	m.version.Number = 1
	return m, nil
}

// errNoKeystore is the cause when a keystore is not configured on this node. It
// may be on another.
var errNoKeystore = errors.New("the keystore is not configured on this node")

// keystoreOf returns the keystore of a binding that somebody asked for.
func (n *Node) keystoreOf(b *fsmpb.Binding) (keystore.Provider, error) {
	p, err := n.stores.Get(b.GetKeystore())
	if err != nil {
		return nil, errs.New(errs.KeystoreMisconfigured, "no keystore of the binding's name is configured on this node",
			errs.Hint("name one of the keystores in the nodes' configuration"), errs.Cause(errors.Join(errNoKeystore, err)))
	}
	return p, nil
}

func (n *Node) wrapL21(ring *keyring, l2 memsec.Secret, tenant, l2uid []byte, uid hierarchy.UID) (*fsmpb.Version, error) {
	b, err := l21Binding(ring.keyspace, tenant, l2uid, uid[:])
	if err != nil {
		return nil, err
	}
	return n.wrapNew(l2, b, l2uid)
}

// wrapNew makes a new key and wraps it under parent.
func (n *Node) wrapNew(parent memsec.Secret, b hierarchy.Binding, parentUID []byte) (*fsmpb.Version, error) {
	key, err := memsec.Random(n.rand, memsec.KeySize, memsec.Hot)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	defer key.Destroy()
	blob, err := envelope.Wrap(n.rand, parent, b, key)
	if err != nil {
		return nil, err
	}
	return &fsmpb.Version{Uid: b.Subject[:], Blob: blob, ParentUid: parentUID}, nil
}

// makeService makes the first L3 of a service.
func (n *Node) makeService(ctx context.Context, ring *keyring, v *fsm.View, c *fsmpb.CreateService) error {
	t, ok := v.Tenant(c.GetTenant())
	if !ok {
		return gate.NoSuchObject()
	}
	uids, err := n.uids(2)
	if err != nil {
		return err
	}
	service, l3 := uids[0], uids[1]
	version, err := n.makeL3(ctx, ring, v, t, service[:], l3)
	if err != nil {
		return err
	}
	version.Number = 1
	c.Uid, c.TenantUid, c.Version = service[:], t.GetUid(), version
	return nil
}

// makeL3 makes a service key and wraps it under the primary tenant key version.
func (n *Node) makeL3(ctx context.Context, ring *keyring, v *fsm.View, t *fsmpb.Tenant, service []byte, uid hierarchy.UID) (*fsmpb.Version, error) {
	if fsm.Unbound(t) {
		return nil, errUnbound()
	}
	if err := mayUse(v, string(n.cluster.NodeID()), t.GetBinding()); err != nil {
		return nil, err
	}
	parent, ok := fsm.VersionAt(t.GetVersions(), t.GetPrimary())
	if !ok {
		return nil, errs.New(errs.FailedState, "the tenant has no primary key version", errs.Hint("rotate it: krypton tenant rotate"))
	}
	if r := hierarchy.CanWrap(hierarchy.VersionState(parent.GetState()), hierarchy.StandingPrimary, aboveTenantKey(v, t)); r != hierarchy.NotRefused {
		if isAbout(r, t.GetState()) {
			return nil, r.Err("the tenant")
		}
		return nil, r.Err("tenant key version " + hierarchy.TenantVersionPath(hierarchy.Name(t.GetName()), hierarchy.VersionNumber(parent.GetNumber())).String())
	}
	b, err := l3Binding(ring.keyspace, t.GetUid(), service, parent.GetUid(), uid[:])
	if err != nil {
		return nil, err
	}
	var version *fsmpb.Version
	err = ring.withTenantVersion(ctx, v.Cluster(), t, parent, func(l21 memsec.Secret) error {
		version, err = n.wrapNew(l21, b, parent.GetUid())
		return err
	})
	return version, err
}

// makeVersion makes the next version of a tenant key or a service key.
func (n *Node) makeVersion(ctx context.Context, ring *keyring, v *fsm.View, c *fsmpb.AddVersion) error {
	ref := c.GetObject()
	t, ok := v.Tenant(ref.GetTenant())
	if !ok {
		return gate.NoSuchObject()
	}
	uids, err := n.uids(1)
	if err != nil {
		return err
	}
	if ref.GetService() == "" {
		if fsm.Unbound(t) {
			return errUnbound()
		}
		if err := mayUse(v, string(n.cluster.NodeID()), t.GetBinding()); err != nil {
			return err
		}
		// Refused by the state machine too, but not before the customer's keystore
		// would have been asked.
		if r := hierarchy.CanUnwrap(hierarchy.Active, aboveTenantKey(v, t), hierarchy.GrantNone); r != hierarchy.NotRefused {
			return r.Err("the tenant")
		}
		var version *fsmpb.Version
		err := ring.withTenantKey(ctx, v.Cluster(), t, func(l2 memsec.Secret) (err error) {
			version, err = n.wrapL21(ring, l2, t.GetUid(), t.GetL2Uid(), uids[0])
			return err
		})
		if err != nil {
			return err
		}
		version.Number = nextNumber(t.GetVersions())
		c.ObjectUid, c.Version = t.GetUid(), version
		return nil
	}
	s, ok := v.ServiceOf(t, ref.GetService())
	if !ok {
		return gate.NoSuchObject()
	}
	version, err := n.makeL3(ctx, ring, v, t, s.GetUid(), uids[0])
	if err != nil {
		return err
	}
	version.Number = nextNumber(s.GetVersions())
	c.ObjectUid, c.Version = s.GetUid(), version
	return nil
}

func nextNumber(vs []*fsmpb.Version) uint32 {
	if len(vs) == 0 {
		return 1
	}
	return vs[len(vs)-1].GetNumber() + 1
}

func (n *Node) uids(count int) ([]hierarchy.UID, error) {
	out := make([]hierarchy.UID, count)
	for i := range out {
		uid, err := hierarchy.NewUID(n.rand)
		if err != nil {
			return nil, err
		}
		out[i] = uid
	}
	return out, nil
}
