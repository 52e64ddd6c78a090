package keystore

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/openkcm/krypton-cluster/internal/corr"
)

// MaxOwned is how many identities of tenants a registry keeps open that nobody
// uses at the moment. Each costs a few KiB and a session; one that was closed
// logs in again when it is next needed.
const MaxOwned = 4096

// Identity says as whom calls are made that are for one tenant. It names no
// place: where a keystore is, its configuration says alone.
type Identity struct {
	// Tenant is the tenant's uid in 32 hexadecimal digits. Krypton makes it, so
	// nobody can choose the one of somebody else: an external id, and a part of
	// names that the customer gives.
	Tenant string
	// Names is what the binding says, by the names of [Type.Identity].
	Names map[string]string
}

// Only returns i with nothing but the names of known, each with a value that its
// Check takes. Every provider's As calls it first. Errors do not quote values:
// whoever asked for the binding reads them.
func (i Identity) Only(known []Setting) (Identity, error) {
	if len(i.Tenant) != 32 || strings.Trim(i.Tenant, "0123456789abcdef") != "" {
		return Identity{}, errors.New("the tenant's uid is not 32 hexadecimal digits")
	}
	names := make([]string, len(known))
	for n, s := range known {
		names[n] = s.Name
	}
	for name := range i.Names {
		if !slices.Contains(names, name) {
			return Identity{}, fmt.Errorf("an identity in this keystore has %s, and nothing else: where a keystore is, its configuration says", strings.Join(names, ", "))
		}
	}
	out := Identity{Tenant: i.Tenant, Names: make(map[string]string, len(known))}
	for _, s := range known {
		v := i.Names[s.Name]
		switch {
		case v == "" && s.Required:
			return Identity{}, fmt.Errorf("the identity has no %s: %s", s.Name, s.Doc)
		case v == "":
			continue
		}
		if err := s.check(v); err != nil {
			return Identity{}, fmt.Errorf("%s of the identity: %w", s.Name, err)
		}
		out.Names[s.Name] = v
	}
	return out, nil
}

// key is one text for one identity.
func (i Identity) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", i.Tenant)
	for _, name := range slices.Sorted(maps.Keys(i.Names)) {
		fmt.Fprintf(&b, "%s %q\n", name, i.Names[name])
	}
	return b.String()
}

// Assumer is a [Provider] of a keystore in which a node can act as an identity
// that is for one tenant only. The provider itself acts as the node, which is
// what the seal uses, and what assumes the tenants' identities.
type Assumer interface {
	Provider
	// As returns the keystore as that identity sees it. It makes no call. An
	// identity that could never be one of this keystore is [Misconfigured].
	As(id Identity) (Owned, error)
}

// Owned is a keystore as one tenant's identity sees it: every call of it is made
// as that identity, and fails if the keystore does not let this node assume it.
type Owned interface {
	Provider
	// Owner returns the identity in the keystore's own words. Two identities of
	// one text are one, whatever the configuration calls the keystore.
	Owner() string
	// Prove finds out what the keystore says of key and identity.
	Prove(ctx context.Context, req ProveRequest) (Proof, error)
}

// ProveRequest asks which key a reference is, and whose.
type ProveRequest struct {
	Key         KeyRef
	Correlation corr.ID
}

// Check is [WrapRequest.Check] for proofs.
func (r ProveRequest) Check(provider string) error {
	if err := checkKey(r.Key); err != nil {
		return failer(provider, OpProve, r.Key)(Misconfigured, err)
	}
	return nil
}

// Proof is what a keystore said of a key that an identity names. That the key can
// be used is not in it: that is proved by wrapping and unwrapping.
type Proof struct {
	// Key is the key in the keystore's own words: one text for all names of one
	// key, whatever the configuration calls the keystore.
	Key       string
	RequestID RequestID
}

// ErrRefused is in the chain of an error with which a keystore did not let the
// node assume an identity. It is not [Denied]: it says nothing of a key, and may
// be a mistake of who runs the nodes.
var ErrRefused = errors.New("the keystore does not let this node act as the identity")

// NotOwnedError is in the chain of an error of [Owned.Prove]: the keystore answered,
// and what it says does not show that identity and key are the tenant's.
type NotOwnedError struct {
	Why string // for whoever binds; it quotes no name but those of rules
}

// Error implements error.
func (e *NotOwnedError) Error() string { return e.Why }

// owned are the open identities of a registry.
type owned struct {
	mu   sync.Mutex
	all  map[string]*ownedEntry
	idle *list.List // of *ownedEntry that nobody uses, the one used last in front
	shut bool
}

type ownedEntry struct {
	key  string
	p    Owned
	used int
	at   *list.Element // in idle; nil while it is used
}

// With runs fn with the keystore of that name as an identity sees it. It returns
// a [Misconfigured] error if there is no such keystore on this node, or none in
// which an identity can be assumed; errors of fn it returns unchanged. What fn
// gets is not used after it returned.
func (r *Registry) With(name string, id Identity, fn func(Owned) error) error {
	p, err := r.Get(name)
	if err != nil {
		return err
	}
	fail := func(c Class, cause error) error { return NewError(Error{Class: c, Provider: name, Op: OpOpen}, cause) }
	a, ok := p.(Assumer)
	if !ok {
		return fail(Misconfigured, errors.New("in this keystore no identity of a tenant can be assumed"))
	}
	key := name + "\n" + id.key()
	o := &r.owned
	o.mu.Lock()
	e := o.all[key]
	switch {
	case o.shut:
		o.mu.Unlock()
		return fail(Unavailable, errors.New("the keystores are closed"))
	case e == nil:
		one, err := a.As(id)
		if err != nil {
			o.mu.Unlock()
			return err
		}
		e = &ownedEntry{key: key, p: one}
		o.all[key] = e
	case e.at != nil:
		o.idle.Remove(e.at)
		e.at = nil
	}
	e.used++
	o.mu.Unlock()
	defer o.leave(e)
	return fn(e.p)
}

// leave ends a use. The one that was idle longest goes when there are too many.
func (o *owned) leave(e *ownedEntry) {
	o.mu.Lock()
	var gone Owned
	if e.used--; e.used == 0 {
		e.at = o.idle.PushFront(e)
		if o.idle.Len() > MaxOwned {
			last, _ := o.idle.Remove(o.idle.Back()).(*ownedEntry)
			delete(o.all, last.key)
			gone = last.p
		}
	}
	o.mu.Unlock()
	if gone != nil {
		_ = gone.Close() // its session ends by itself where the keystore does not listen
	}
}

// close closes them all. Calls under way end with it.
func (o *owned) close() error {
	o.mu.Lock()
	o.shut = true
	all := slices.Collect(maps.Values(o.all))
	o.mu.Unlock()
	var errs []error
	for _, e := range all {
		errs = append(errs, e.p.Close())
	}
	return errors.Join(errs...)
}
