package node

import (
	"context"
	"encoding/hex"
	"strings"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/fsm/fsmpb"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/hierarchy"
	"github.com/openkcm/krypton-cluster/hierarchy/envelope"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/memsec"
)

// Sizes of data keys in bytes.
const (
	MinDataKey     = 16
	MaxDataKey     = 64
	DefaultDataKey = 32
)

// MaxData is how many bytes Encrypt takes. For more, take a data key.
const MaxData = 1 << 20

// maxRounds is how often an operation starts again because the keys it used
// changed while it computed. Each round costs microseconds and a change is rare,
// so more than a few in a row mean that something is wrong.
const maxRounds = 4

// Target says under which key a data operation works and what is bound to it.
type Target struct {
	Tenant   hierarchy.Name
	Service  hierarchy.Name
	Resource hierarchy.ResourceID
	Context  hierarchy.EncryptionContext
}

// Name returns the service's name, tenants/{t}/services/{s}.
func (t Target) Name() string { return hierarchy.ServicePath(t.Tenant, t.Service).String() }

// require refuses unless the token is for act on the service.
func (t Target) require(tok gate.Token, act gate.Act) error {
	object := tok.Object()
	if !t.hasName(object) {
		object = t.Name()
	}
	return tok.Require(act, object)
}

// hasName reports whether name is [Target.Name], without making it.
func (t Target) hasName(name string) bool {
	rest, ok := strings.CutPrefix(name, "tenants/")
	if ok {
		rest, ok = strings.CutPrefix(rest, string(t.Tenant))
	}
	if ok {
		rest, ok = strings.CutPrefix(rest, "/services/")
	}
	return ok && rest == string(t.Service)
}

// Used says what a data operation worked with, for its answer and its record.
// It is set on errors too, as far as the operation got.
type Used struct {
	Name string // of the key version, tenants/{t}/services/{s}/versions/{n}
	UID  string // of the key version, 32 hex digits: what an audit record names
	// KeystoreRequest is the id under which the customer's keystore recorded the
	// unwrapping that this operation began; empty if it began none.
	KeystoreRequest string
}

// choice is the key version that an operation uses, and what was read to
// choose it. All of it is of one view.
type choice struct {
	cluster *fsmpb.Cluster
	tenant  *fsmpb.Tenant
	service *fsmpb.Service
	version *fsmpb.Version // nil: there is none
	from    *fsmpb.Version // of a rewrap: the version that the key came from, and that policies see
	policy  string         // what the policies of the tenant said, for the record; empty: they have no say

	// gate is the index of the last change of what was read. What is not there has
	// none: the registry forgets no name and no version, so that it never was, in no
	// state up to this one, and nobody can have shown it.
	gate uint64
}

// name returns the version's name.
func (c choice) name() string {
	return hierarchy.ServiceVersionPath(hierarchy.Name(c.tenant.GetName()), hierarchy.Name(c.service.GetName()),
		hierarchy.VersionNumber(c.version.GetNumber())).String()
}

// refuse says what stands in the way: the version, or the tenant or service that
// it belongs to. Whoever reads it has to know which of them to change.
func (c choice) refuse(r hierarchy.Refusal) error {
	tenant := hierarchy.Name(c.tenant.GetName())
	switch {
	case isAbout(r, c.tenant.GetState()):
		return r.Err("tenant " + hierarchy.TenantPath(tenant).String())
	case isAbout(r, c.service.GetState()):
		return r.Err("service " + hierarchy.ServicePath(tenant, hierarchy.Name(c.service.GetName())).String())
	}
	return r.Err("key version " + c.name())
}

// isAbout reports whether a refusal is about an object in that state.
func isAbout(r hierarchy.Refusal, s fsmpb.ObjectState) bool {
	switch s {
	case fsmpb.ObjectState_OBJECT_STATE_SUSPENDED:
		return r == hierarchy.RefusedSuspended
	case fsmpb.ObjectState_OBJECT_STATE_DESTROY_SCHEDULED:
		return r == hierarchy.RefusedDestroyPending
	case fsmpb.ObjectState_OBJECT_STATE_DESTROYED:
		return r == hierarchy.RefusedDestroyed
	case fsmpb.ObjectState_OBJECT_STATE_UNSPECIFIED, fsmpb.ObjectState_OBJECT_STATE_ACTIVE:
	}
	return false
}

func (c choice) used() Used {
	if c.version == nil {
		return Used{}
	}
	return Used{Name: c.name(), UID: hex.EncodeToString(c.version.GetUid())}
}

func (c choice) same(o choice) bool {
	return string(c.version.GetUid()) == string(o.version.GetUid())
}

// find reads tenant and service, which both kinds of operation begin with.
func find(v *fsm.View, t *Target) (c choice, err error) {
	var ok bool
	c.cluster = v.Cluster()
	if c.tenant, ok = v.Tenant(string(t.Tenant)); ok {
		c.service, ok = v.ServiceOf(c.tenant, string(t.Service))
	}
	c.gate = v.GateIndex(fsm.ReadSet{Tenant: c.tenant, Service: c.service})
	if !ok {
		return c, gate.NoSuchObject()
	}
	return c, nil
}

// question is what a data operation asks the registry, of every view anew.
type question struct {
	choose func(*fsm.View, *question) (choice, error)
	target Target
	uid    hierarchy.UID // of the version that a header selects
	// Who asks: while identities are as they were when the principal was found, that
	// needs no look.
	principal auth.Principal
	binding   hierarchy.UID
	serial    []byte // of the caller's certificate
	authority uint64

	act      gate.Act
	node     string // that answers
	policies *Policies
	looked   bool   // in this round
	policyAt uint64 // Tenant.PolicyIndex of the first look of the round
}

// in answers the question by a view. Who is not bound there any more, or whose certificate
// is revoked there, is refused by it: the door looked at a view that may have been older than a lease, and calls
// may take long behind it. Like every other answer, the result leaves only if the
// caller is trusted still, and the refusal once the revocation is complete.
func (q *question) in(v *fsm.View) (choice, error) {
	c, err := q.found(v)
	if c.tenant == nil {
		return c, err
	}
	if no := q.ruled(v, &c); no != nil {
		return c, no
	}
	return c, err
}

// found is the answer without the policies of the tenant.
func (q *question) found(v *fsm.View) (choice, error) {
	if v.AuthorityAt() != q.authority {
		if r, gone := v.Revoked(q.serial); gone {
			return choice{gate: v.GateIndex(fsm.ReadSet{Revoked: r})}, fsm.ErrCallerRevoked()
		}
	}
	c, err := q.choose(v, q)
	if err == nil {
		err = mayUse(v, q.node, c.tenant.GetBinding())
	}
	if err != nil || v.AuthorityAt() == q.authority {
		return c, err // that the tenant is gone says more than that its bindings are
	}
	if err := bound(v, q.principal, q.binding, v.TimeMS()); err != nil {
		return choice{gate: v.AuthorityAt()}, err
	}
	return c, nil
}

// chooseWrap picks the version that wraps: what the resource pins, else the
// primary.
func chooseWrap(v *fsm.View, q *question) (choice, error) {
	t := &q.target
	c, err := find(v, t)
	if err != nil {
		return c, err
	}
	var pinned *fsmpb.Resource
	number, standing := c.service.GetPrimary(), hierarchy.StandingPrimary
	if t.Resource != "" {
		if pin, ok := v.Resource(c.service, string(t.Resource)); ok && pin.GetVersion() != 0 {
			number, standing, pinned = pin.GetVersion(), hierarchy.StandingPinned, pin
		}
	}
	var ok bool
	c.version, ok = fsm.VersionAt(c.service.GetVersions(), number)
	c.gate = v.GateIndex(fsm.ReadSet{Tenant: c.tenant, Service: c.service, Version: c.version, Resource: pinned})
	if !ok {
		return c, errs.New(errs.FailedState, "the service has no primary version", errs.Hint("rotate it: krypton key rotate"))
	}
	if r := hierarchy.CanWrap(hierarchy.VersionState(c.version.GetState()), standing, aboveServiceKey(v, c.tenant, c.service, c.version)); r != hierarchy.NotRefused {
		return c, c.refuse(r)
	}
	return c, nil
}

// chooseUnwrap picks the version that the header selects, if it is one of the
// service's own. Any other uid fails like a ciphertext that does not open: the
// header must not become a way to ask what exists elsewhere.
func chooseUnwrap(v *fsm.View, q *question) (choice, error) {
	c, err := find(v, &q.target)
	if err != nil {
		return c, err
	}
	var ok bool
	if c.version, ok = fsm.VersionByUID(c.service.GetVersions(), q.uid[:]); !ok {
		return c, errs.DoesNotOpen(errForeignVersion)
	}
	c.gate = v.GateIndex(fsm.ReadSet{Tenant: c.tenant, Service: c.service, Version: c.version})
	if r := hierarchy.CanUnwrap(hierarchy.VersionState(c.version.GetState()), aboveServiceKey(v, c.tenant, c.service, c.version), hierarchy.GrantNone); r != hierarchy.NotRefused {
		return c, c.refuse(r)
	}
	return c, nil
}

// chooseRewrap picks the version that wraps. Both ends are checked on every view:
// the version that the key came from may have been disabled since it was opened.
func chooseRewrap(v *fsm.View, q *question) (choice, error) {
	from, err := chooseUnwrap(v, q)
	if err != nil {
		return from, err
	}
	to, err := chooseWrap(v, q)
	to.gate, to.from = max(to.gate, from.gate), from.version
	return to, err
}

// serve runs one data operation. It chooses the key from the newest view, does
// the work, and then looks again: only if the choice is still the same, and what it
// was made by is complete, is there a result. It looks a last time when the result
// is recorded: only if the node still has a lease and the choice is still the same
// does it leave. So an operation that a change overtook never answers from the
// state before it (I3), and no answer shows a change that another node does not show
// yet. A refusal that tells what the registry says is such an answer too.
func serve[T any](ctx context.Context, n *Node, tok gate.Token, q question, work func(k *serviceKey) (T, error), wipe func(T)) (out T, used Used, err error) {
	var zero T
	var why error
	asked := &q
	asked.principal, asked.binding, asked.authority = tok.Principal(), tok.Binding(), tok.Authority()
	asked.act, asked.policies, asked.node = tok.Act(), n.policy, string(n.cluster.NodeID())
	asked.serial = []byte(tok.Serial()) // now: the last look comes when the token is finished
	for round := range maxRounds {
		u, st, err := n.starting()
		if err != nil {
			return zero, Used{}, err
		}
		asked.looked = false
		c, err := asked.in(st.View)
		tok.Ruled(c.policy)
		if err != nil {
			if again, gated := n.refuse(ctx, tok, st.View, c, asked); gated != nil {
				return zero, c.used(), gated
			} else if again {
				continue
			}
			return zero, c.used(), err
		}
		used := Used{}
		k, request, err := u.ring.serviceKey(ctx, tok.Correlation(), c)
		if err == nil {
			used = k.used
			used.KeystoreRequest = string(request)
			out, err = work(k)
		}
		switch {
		case err == nil:
		case wiped(err):
			continue // the next round finds out whether and why the key is gone
		case exhausted(err) && u.ring.makeRoom(round):
			why = err
			continue
		case used == Used{}:
			return zero, c.used(), err
		default:
			return zero, used, err
		}
		// From here on the result exists. It leaves by one of two doors only.
		gate, again, err := n.gated(ctx, st.View, c.gate, func(v *fsm.View) (uint64, bool) {
			now, err := asked.in(v)
			return now.gate, err == nil && now.same(c)
		})
		switch {
		case err != nil:
			wipe(out)
			return zero, used, err
		case !again:
			made, view := out, st.View
			tok.Last(func() error {
				err := n.leaves(view, k.valid, func(v *fsm.View) bool {
					now, err := asked.in(v)
					return err == nil && now.same(c) && now.gate == gate
				})
				if err != nil {
					wipe(made)
				}
				return err
			})
			return out, used, nil
		}
		wipe(out)
	}
	if why == nil {
		why = errs.New(errs.ChangeInProgress, "the key keeps changing while it is used", errs.Hint("wait a moment and retry"))
	}
	return zero, Used{}, why
}

// refuse returns nil and false when a refusal that was found in view may be told.
func (n *Node) refuse(ctx context.Context, tok gate.Token, view *fsm.View, c choice, q *question) (again bool, err error) {
	_, again, err = n.gated(ctx, view, c.gate, func(*fsm.View) (uint64, bool) { return 0, false })
	if err == nil && !again {
		tok.Last(func() error {
			return n.leaves(view, nil, func(v *fsm.View) bool {
				now, err := q.in(v)
				return err != nil && now.gate == c.gate
			})
		})
	}
	return again, err
}

// GenerateDataKey makes a data key of length bytes and wraps it. The caller owns
// the secret and destroys it.
func (n *Node) GenerateDataKey(ctx context.Context, tok gate.Token, t Target, length int) (key memsec.Secret, wrapped []byte, used Used, err error) {
	if err := t.require(tok, gate.GenerateDataKey); err != nil {
		return key, nil, used, err
	}
	if length == 0 {
		length = DefaultDataKey
	}
	if length < MinDataKey || length > MaxDataKey {
		return key, nil, used, errs.Newf(errs.InvalidArgument, "a data key of %d bytes is not possible", length).
			With(errs.Hint("%d to %d bytes are; 0 means %d", MinDataKey, MaxDataKey, DefaultDataKey))
	}
	type made struct {
		key     memsec.Secret
		wrapped []byte
	}
	out, used, err := serve(ctx, n, tok, question{choose: chooseWrap, target: t},
		func(k *serviceKey) (made, error) {
			key, err := memsec.Random(n.rand, length, memsec.Hot)
			if err != nil {
				return made{}, err
			}
			wrapped, err := k.wrap(n, t, key)
			if err != nil {
				key.Destroy()
				return made{}, err
			}
			return made{key, wrapped}, nil
		},
		func(m made) { m.key.Destroy() })
	return out.key, out.wrapped, used, err
}

// UnwrapDataKey opens a wrapped data key. The caller owns the secret and
// destroys it.
func (n *Node) UnwrapDataKey(ctx context.Context, tok gate.Token, t Target, wrapped []byte) (key memsec.Secret, used Used, err error) {
	if err := t.require(tok, gate.UnwrapDataKey); err != nil {
		return key, used, err
	}
	return n.unwrapDataKey(ctx, tok, t, wrapped)
}

func (n *Node) unwrapDataKey(ctx context.Context, tok gate.Token, t Target, wrapped []byte) (memsec.Secret, Used, error) {
	h, err := envelope.ParseHeader(wrapped)
	if err != nil {
		return memsec.Secret{}, Used{}, err
	}
	return serve(ctx, n, tok, question{choose: chooseUnwrap, target: t, uid: h.KeyVersion},
		func(k *serviceKey) (memsec.Secret, error) { return k.unwrap(t, wrapped) },
		memsec.Secret.Destroy)
}

// RewrapDataKey wraps a data key under the version that wraps now. The data key
// does not leave protected memory. before is the version that it was wrapped
// under.
func (n *Node) RewrapDataKey(ctx context.Context, tok gate.Token, t Target, wrapped []byte) (out []byte, used, before Used, err error) {
	if err := t.require(tok, gate.RewrapDataKey); err != nil {
		return nil, used, before, err
	}
	key, before, err := n.unwrapDataKey(ctx, tok, t, wrapped)
	if err != nil {
		return nil, used, before, err
	}
	defer key.Destroy()
	h, err := envelope.ParseHeader(wrapped)
	if err != nil {
		return nil, used, before, err
	}
	out, used, err = serve(ctx, n, tok, question{choose: chooseRewrap, target: t, uid: h.KeyVersion},
		func(k *serviceKey) ([]byte, error) { return k.wrap(n, t, key) },
		func([]byte) {})
	return out, used, before, err
}

// Encrypt encrypts up to MaxData bytes.
func (n *Node) Encrypt(ctx context.Context, tok gate.Token, t Target, plaintext []byte) (ciphertext []byte, used Used, err error) {
	if err := t.require(tok, gate.Encrypt); err != nil {
		return nil, used, err
	}
	if len(plaintext) > MaxData {
		return nil, used, errs.Newf(errs.TooLarge, "%d bytes are more than one call encrypts (%d)", len(plaintext), MaxData).
			With(errs.Hint("take a data key (krypton encrypt does) and encrypt locally"))
	}
	return serve(ctx, n, tok, question{choose: chooseWrap, target: t},
		func(k *serviceKey) ([]byte, error) { return k.encrypt(n, t, plaintext) },
		func([]byte) {})
}

// Decrypt opens what Encrypt made. The caller wipes the plaintext.
func (n *Node) Decrypt(ctx context.Context, tok gate.Token, t Target, ciphertext []byte) (plaintext []byte, used Used, err error) {
	if err := t.require(tok, gate.Decrypt); err != nil {
		return nil, used, err
	}
	h, err := envelope.ParseHeader(ciphertext)
	if err != nil {
		return nil, used, err
	}
	return serve(ctx, n, tok, question{choose: chooseUnwrap, target: t, uid: h.KeyVersion},
		func(k *serviceKey) ([]byte, error) { return k.decrypt(t, ciphertext) },
		func(b []byte) { clear(b) })
}
